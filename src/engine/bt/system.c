/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System instructions that are short enough to be translated in line: what kernels run most. Any
 * doubt (another privilege, an interrupt that waits, a host where PEXT is slow) leaves them to
 * interp.
 */
#include "engine/bt/bt.h"

/* RCX = those of RFLAGS in memory that are in the mask; none of the host's flags change. */
static void load_flags(struct trans *t, size_t mask)
{
    emit_load(t->e, H_TMP, HMEM_GS(CPU_OFF(rflags)));
    emit_pext(t->e, H_TMP, H_TMP, HMEM_GS(mask));
    emit_pdep(t->e, H_TMP, H_TMP, HMEM_GS(mask));
}

static void clear_flag(struct trans *t, size_t mask)
{
    load_flags(t, mask);
    emit_store(t->e, HMEM_GS(CPU_OFF(rflags)), H_TMP);
}

/* Where no interrupt waits there is nothing for STI's shadow to hold back. */
static void emit_sti(struct trans *t)
{
    bt_leave_from(t, bt_emit_unless_quiet(t), WHY_INTERP);
    bt_leave_unless_zero(t, BT_OFF(masked), WHY_INTERP);
    load_flags(t, BT_OFF(mask_not_if));
    emit_lea(t->e, H_TMP, HMEM_BASE(H_TMP, RFLAGS_IF));
    emit_store(t->e, HMEM_GS(CPU_OFF(rflags)), H_TMP);
}

static void emit_swapgs(struct trans *t)
{
    emit_load(t->e, H_TMP, HMEM_GS(CPU_OFF(seg[SEG_GS].base)));
    emit_load(t->e, H_PTR, HMEM_GS(CPU_OFF(kernel_gs_base)));
    emit_store(t->e, HMEM_GS(CPU_OFF(kernel_gs_base)), H_TMP);
    emit_store(t->e, HMEM_GS(CPU_OFF(seg[SEG_GS].base)), H_PTR);
}

/* EDX:EAX = the host's TSC plus the guest's offset; ECX = TSC_AUX. */
static void emit_rdtsc(struct trans *t, bool aux)
{
    static const uint8_t rdtsc[] = { 0x0f, 0x31 }, rdtscp[] = { 0x0f, 0x01, 0xf9 };

    emit_bytes(t->e, aux ? rdtscp : rdtsc, aux ? sizeof(rdtscp) : sizeof(rdtsc));
    emit_rorx(t->e, H_RDX, H_RDX, 32);
    emit_load(t->e, H_TMP, HMEM_GS(BT_OFF(tsc_offset)));
    emit_lea(t->e, H_RAX, (struct hmem){ .base = H_RAX, .index = H_RDX });
    emit_lea(t->e, H_RAX, (struct hmem){ .base = H_RAX, .index = H_TMP });
    emit_rorx(t->e, H_RDX, H_RAX, 32);
    emit_mov32_rr(t->e, H_RDX, H_RDX);
    emit_mov32_rr(t->e, H_RAX, H_RAX);
    if (aux)
        emit_op_rm(t->e, 0, 0x8b, H_GUEST_RCX, HMEM_GS(CPU_OFF(tsc_aux)));
}

/* Where CR0, CR2, CR3 or CR4 is, which MOV reads; 0: it does not. */
static size_t read_cr(const struct insn *in)
{
    if (in->op.fn != op_mov_from_cr)
        return 0;
    switch (in->op.aux) {
    case 0:
        return CPU_OFF(cr0);
    case 2:
        return CPU_OFF(cr2);
    case 3:
        return CPU_OFF(cr3);
    case 4:
        return CPU_OFF(cr4);
    default:
        return 0;
    }
}

/* In 32-bit code the upper half is cut off. */
static void emit_mov_from_cr(struct trans *t)
{
    emit_op_rm(t->e, bt_width(t), 0x8b, H_TMP, HMEM_GS(read_cr(&t->in)));
    bt_emit_put(t, bt_gpr(t->in.ops[0].reg.value), H_TMP);
}

static bool reads_segment(const struct insn *in)
{
    return in->op.fn == op_mov_from_seg && in->ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
           in->ops[0].size >= 32;
}

/* MOV of a selector to a register: zero-extended (SDM 2, "MOV"). */
static void emit_mov_from_seg(struct trans *t)
{
    unsigned n = (unsigned)(t->in.ops[1].reg.value - ZYDIS_REGISTER_ES);

    emit_op_rm(t->e, EMIT_0F, 0xb7, H_TMP,
               HMEM_GS(CPU_OFF(seg) + n * sizeof(struct seg) + offsetof(struct seg, sel)));
    bt_emit_put(t, bt_gpr(t->in.ops[0].reg.value), H_TMP);
}

/* H_PTR: what was popped. Goes on if those of its bits that are in the mask are as in RFLAGS. */
static void same_flags(struct trans *t, size_t mask)
{
    emit_pext(t->e, H_AUX, H_PTR, HMEM_GS(mask));
    emit_not(t->e, H_AUX);
    emit_load(t->e, H_TMP, HMEM_GS(CPU_OFF(rflags)));
    emit_pext(t->e, H_TMP, H_TMP, HMEM_GS(mask));
    emit_lea(t->e, H_TMP,
             (struct hmem){ .base = H_TMP, .index = H_AUX, .disp = 1 + emit_hit(t->e) });
    bt_leave_unless_same(t, WHY_INTERP);
}

/* H_PTR's arithmetic flags become the host's. */
static void arithmetic_flags(struct trans *t)
{
    static const uint8_t to_flags[] = { 0x04, 0x7f, /* ADD AL, 7Fh: overflows if AL is 1 */
                                        0x9e };     /* SAHF */

    emit_store(t->e, HMEM_GS(BT_OFF(tmp)), H_RAX);
    emit_pext(t->e, H_AUX, H_PTR, HMEM_GS(BT_OFF(mask_of)));
    emit_rorx(t->e, H_PTR, H_PTR, 56);
    emit_op_rr(t->e, EMIT_0F, 0xb7, H_PTR, H_PTR); /* MOVZX of the low 16 bits */
    emit_pext(t->e, H_PTR, H_PTR, HMEM_GS(BT_OFF(mask_ah)));
    emit_pdep(t->e, H_PTR, H_PTR, HMEM_GS(BT_OFF(mask_ah)));
    emit_lea32(t->e, H_RAX, (struct hmem){ .base = H_PTR, .index = H_AUX });
    emit_bytes(t->e, to_flags, sizeof(to_flags));
    emit_load(t->e, H_RAX, HMEM_GS(BT_OFF(tmp)));
}

/*
 * POPF that changes arithmetic flags, DF and, in the kernel, IF alone; and no interrupt waits. What
 * else it may change (SDM 2, "POPF/POPFD/POPFQ") has to be as it is already, or interp runs it: TF,
 * AC and, of user code, IF and IOPL have consequences or are not its to change. RF is 0 where
 * translated code runs, and what is popped of it and of VM, VIF and VIP does not count.
 */
static void emit_popf(struct trans *t)
{
    bool user = t->key & KEY_USER;
    size_t changes = user ? BT_OFF(mask_df) : BT_OFF(mask_if_df);
    struct hmem m = bt_emit_stack(t, H_RSP, 0, false);

    emit_op_rm(t->e, bt_width(t), 0x8b, H_PTR, m); /* MOV */
    if (!user) {
        bt_leave_from(t, bt_emit_unless_quiet(t), WHY_INTERP);
        bt_leave_unless_zero(t, BT_OFF(masked), WHY_INTERP);
    }
    same_flags(t, user ? BT_OFF(mask_popf_user) : BT_OFF(mask_popf));
    load_flags(t, user ? BT_OFF(mask_not_df) : BT_OFF(mask_not_if_df));
    emit_pext(t->e, H_AUX, H_PTR, HMEM_GS(changes));
    emit_pdep(t->e, H_AUX, H_AUX, HMEM_GS(changes));
    emit_lea(t->e, H_TMP, (struct hmem){ .base = H_TMP, .index = H_AUX });
    emit_store(t->e, HMEM_GS(CPU_OFF(rflags)), H_TMP);
    arithmetic_flags(t);
    bt_emit_move_stack(t, t->in.word);
    t->tb->sites[t->nr].ends = true; /* after interp's the view may be another (AC) */
}

/* STAC where AC is set, CLAC where it is clear (as at each of Linux's entries). */
static bool leaves_ac(const struct trans *t, const struct insn *in)
{
    return in->op.fn == (t->key & KEY_AC ? op_stac : op_clac);
}

/*
 * AC decides which view of the TLB the kernel's code has, by its key: so what follows is another
 * block. Everything that C code derives from AC becomes what it would be.
 */
bool bt_emit_ac(struct trans *t)
{
    const struct insn *in = &t->in;
    unsigned next = in->off + in->len;
    bool set = in->op.fn == op_stac;
    enum tlb_view view = set ? VIEW_KERNEL_AC : VIEW_KERNEL;

    if ((!set && in->op.fn != op_clac) || leaves_ac(t, in) || (t->key & (KEY_USER | KEY_COUNT)) ||
        !model_has(t->b->iv.vc.cpu.model, FEAT_SMAP) || !bt_is_near(t, next))
        return false;
    emit_load(t->e, H_TMP, HMEM_GS(CPU_OFF(rflags)));
    emit_lea(t->e, H_TMP, HMEM_BASE(H_TMP, set ? RFLAGS_AC : -RFLAGS_AC));
    emit_store(t->e, HMEM_GS(CPU_OFF(rflags)), H_TMP);
    emit_op_rm(t->e, 0, 0x8b, H_TMP, HMEM_GS(CPU_OFF(mode)));
    emit_lea32(t->e, H_TMP, HMEM_BASE(H_TMP, set ? (int)MODE_AC : -(int)MODE_AC));
    emit_op_rm(t->e, 0, 0x89, H_TMP, HMEM_GS(CPU_OFF(mode)));
    emit_mov_imm(t->e, H_TMP, (uintptr_t)&t->b->iv.views[view]);
    emit_store(t->e, HMEM_GS(BT_OFF(iv.tlb)), H_TMP);
    bt_emit_goto_ac(t, next);
    t->in.ends = true;
    return true;
}

bool bt_is_inline_system(const struct trans *t, const struct insn *in)
{
    const op_fn fn = in->op.fn;
    bool user = t->key & KEY_USER;

    if ((t->key & KEY_COUNT) || t->b->vm->slow_pext)
        return false;
    if (fn == op_rdtsc || fn == op_rdtscp)
        return t->b->tsc_inline && !(user && (t->key & KEY_TSD));
    if (fn == op_cld || reads_segment(in))
        return true;
    if (!user && leaves_ac(t, in))
        return model_has(t->b->iv.vc.cpu.model, FEAT_SMAP);
    if (fn == op_popf)
        return in->z.operand_width == 8 * in->word;
    return !user && (fn == op_cli || fn == op_sti || fn == op_swapgs || read_cr(in));
}

bool bt_emit_system(struct trans *t)
{
    const op_fn fn = t->in.op.fn;

    if (!bt_is_inline_system(t, &t->in))
        return false;
    if (fn == op_rdtsc || fn == op_rdtscp)
        emit_rdtsc(t, fn == op_rdtscp);
    else if (fn == op_stac || fn == op_clac)
        ; /* nothing changes */
    else if (fn == op_cld)
        clear_flag(t, BT_OFF(mask_not_df));
    else if (fn == op_popf)
        emit_popf(t);
    else if (fn == op_mov_from_seg)
        emit_mov_from_seg(t);
    else if (fn == op_mov_from_cr)
        emit_mov_from_cr(t);
    else if (fn == op_cli)
        clear_flag(t, BT_OFF(mask_not_if));
    else if (fn == op_sti)
        emit_sti(t);
    else
        emit_swapgs(t);
    t->in.ends = false;
    return true;
}

bool bt_emit_pushf(struct trans *t)
{
    static const uint8_t arithmetic[] = { 0x9f,               /* LAHF */
                                          0x0f, 0x90, 0xc0,   /* SETO AL */
                                          0x0f, 0xb6, 0xcc,   /* MOVZX ECX, AH */
                                          0x0f, 0xb6, 0xc0 }; /* MOVZX EAX, AL */
    struct hmem m;

    if (t->b->vm->slow_pext)
        return false;
    m = bt_emit_stack(t, H_RSP, -t->in.word, true);
    emit_store(t->e, HMEM_GS(BT_OFF(tmp)), H_RAX);
    emit_bytes(t->e, arithmetic, sizeof(arithmetic));
    emit_pdep(t->e, H_RAX, H_RAX, HMEM_GS(BT_OFF(mask_of)));
    emit_lea(t->e, H_RAX, (struct hmem){ .base = H_RAX, .index = H_TMP });
    load_flags(t, BT_OFF(mask_pushed));
    emit_lea(t->e, H_TMP, (struct hmem){ .base = H_TMP, .index = H_RAX });
    emit_load(t->e, H_RAX, HMEM_GS(BT_OFF(tmp)));
    emit_op_rm(t->e, bt_width(t), 0x89, H_TMP, m); /* MOV */
    bt_emit_move_stack(t, -t->in.word);
    return true;
}
