/* SPDX-License-Identifier: Apache-2.0 */
/* Translated memory operands: effective addresses and the lookup in the software TLB. */
#include "engine/bt/bt.h"

enum hreg bt_home(unsigned gpr)
{
    if (gpr == RCX)
        return H_GUEST_RCX;
    return gpr >= R9 && gpr <= R11 ? H_NONE : (enum hreg)gpr;
}

unsigned bt_gpr(ZydisRegister r)
{
    switch (ZydisRegisterGetClass(r)) {
    case ZYDIS_REGCLASS_GPR8:
        return r >= ZYDIS_REGISTER_SPL ? r - ZYDIS_REGISTER_SPL + RSP : r - ZYDIS_REGISTER_AL;
    case ZYDIS_REGCLASS_GPR16:
        return r - ZYDIS_REGISTER_AX;
    case ZYDIS_REGCLASS_GPR32:
        return r - ZYDIS_REGISTER_EAX;
    default:
        return r - ZYDIS_REGISTER_RAX;
    }
}

void bt_emit_get(struct trans *t, enum hreg dst, unsigned gpr)
{
    enum hreg h = bt_home(gpr);

    if (h == H_NONE)
        emit_load(t->e, dst, HMEM_GS(GPR_OFF(gpr)));
    else
        emit_mov_rr(t->e, dst, h);
}

void bt_emit_put(struct trans *t, unsigned gpr, enum hreg src)
{
    enum hreg h = bt_home(gpr);

    if (h == H_NONE)
        emit_store(t->e, HMEM_GS(GPR_OFF(gpr)), src);
    else
        emit_mov_rr(t->e, h, src);
}

/* The host register with a guest address register, brought into `via` if it lives in memory. */
static enum hreg address_reg(struct trans *t, ZydisRegister r, enum hreg via)
{
    enum hreg h = bt_home(bt_gpr(r));

    if (h != H_NONE)
        return h;
    emit_load(t->e, via, HMEM_GS(GPR_OFF(bt_gpr(r))));
    return via;
}

static unsigned log2_of(unsigned scale)
{
    return scale == 8 ? 3 : scale == 4 ? 2 : scale == 2 ? 1 : 0;
}

void bt_emit_offset(struct trans *t, const ZydisDecodedOperandMem *m, enum hreg dst, bool a32)
{
    struct hmem h = { .base = H_NONE, .index = H_NONE };
    int64_t disp = m->disp.has_displacement ? m->disp.value : 0;

    if (a32)
        disp = (int32_t)disp;
    if (m->base == ZYDIS_REGISTER_RIP || m->base == ZYDIS_REGISTER_EIP) {
        emit_load(t->e, H_PTR, HMEM_GS(GPR_OFF(SLOT_PAGE / 8)));
        h.base = H_PTR;
        disp += t->in.off + t->in.len;
    } else if (m->base != ZYDIS_REGISTER_NONE) {
        h.base = address_reg(t, m->base, H_PTR);
    }
    if (m->index != ZYDIS_REGISTER_NONE) {
        h.index = address_reg(t, m->index, H_AUX);
        h.scale = (uint8_t)log2_of(m->scale);
    }
    if (h.base == H_NONE && h.index == H_NONE) {
        emit_mov_imm(t->e, dst, a32 ? (uint32_t)disp : (uint64_t)disp);
        return;
    }
    if (disp !=
        (int32_t)disp) { /* RIP-relative, or a leader's (share.c), at the end of its reach */
        int32_t part = disp < 0 ? INT32_MIN : INT32_MAX;

        emit_lea(t->e, H_PTR, HMEM_BASE(h.base, part));
        h.base = H_PTR;
        disp -= part;
    }
    h.disp = (int32_t)disp;
    if (a32)
        emit_lea32(t->e, dst, h);
    else if (!disp && h.index == H_NONE)
        emit_mov_rr(t->e, dst, h.base);
    else
        emit_lea(t->e, dst, h);
}

/* Leaves for interp unless the operand, at offset H_PTR, ends below 4 GB with the gap added. */
static void check_limit(struct trans *t, size_t gap)
{
    emit_load(t->e, H_TMP, HMEM_GS(gap));
    emit_lea(t->e, H_TMP,
             (struct hmem){ .base = H_TMP, .index = H_PTR, .disp = t->in.mem_bytes - 1 });
    emit_rorx(t->e, H_TMP, H_TMP, 32);
    emit_lea32(t->e, H_TMP, HMEM_BASE(H_TMP, emit_hit(t->e)));
    bt_leave_unless_hit(t, WHY_INTERP);
}

void bt_emit_ea(struct trans *t, const ZydisDecodedOperandMem *m)
{
    bool gs = m->segment == ZYDIS_REGISTER_GS;

    bt_emit_offset(t, m, H_PTR, t->in.z.address_width == 32);
    if (!gs && m->segment != ZYDIS_REGISTER_FS)
        return;
    if (!bt_long64(t))
        check_limit(t, gs ? BT_OFF(gs_gap) : BT_OFF(fs_gap));
    emit_load(t->e, H_AUX, HMEM_GS(gs ? CPU_OFF(seg[SEG_GS].base) : CPU_OFF(seg[SEG_FS].base)));
    emit_op_rm(t->e, bt_width(t), 0x8d, H_PTR,
               (struct hmem){ .base = H_PTR, .index = H_AUX }); /* LEA */
}

void bt_emit_leave(struct trans *t, enum bt_why why)
{
    bt_leave_from(t, emit_jmp_later(t->e), why);
}

void bt_thunk_from(struct trans *t, uint8_t *at, const uint8_t *thunk)
{
    if (t->nr_slow == ARRAY_SIZE(t->slow)) {
        t->e->full = true;
        return;
    }
    t->slow[t->nr_slow].rel32 = at;
    t->slow[t->nr_slow].to = thunk;
    t->slow[t->nr_slow++].site = (int)(t->behind ? t->nr - 1 : t->nr);
}

void bt_leave_from(struct trans *t, uint8_t *at, enum bt_why why)
{
    bt_thunk_from(t, at, t->b->cache->leave[why]);
}

void bt_branch_unless_same(struct trans *t)
{
    bt_thunk_from(t, emit_unless_same_later(t->e), t->b->cache->branch[bt_jc_class(t->key)]);
}

void bt_leave_unless_same(struct trans *t, enum bt_why why)
{
    bt_leave_from(t, emit_unless_same_later(t->e), why);
}

void bt_leave_unless_hit(struct trans *t, enum bt_why why)
{
    bt_leave_from(t, emit_unless_hit_later(t->e), why);
}

/* H_TMP = emit_hit() if the 32-bit word in struct bt_vcpu is 0, else something else below 2^33. */
static void is_zero(struct trans *t, size_t word)
{
    emit_op_rm(t->e, 0, 0x8b, H_TMP, HMEM_GS(word));
    if (emit_hit(t->e))
        emit_lea32(t->e, H_TMP, HMEM_BASE(H_TMP, emit_hit(t->e)));
}

uint8_t *bt_emit_unless_quiet(struct trans *t)
{
    emit_op_rm(t->e, 0, 0x8b, H_TMP, HMEM_GS(CPU_OFF(quiet)));
    return emit_unless_true_later(t->e);
}

void bt_leave_unless_zero(struct trans *t, size_t word, enum bt_why why)
{
    is_zero(t, word);
    bt_leave_unless_hit(t, why);
}

/* A tag is 4096 minus the page's address: 1 in the page, and 0 without one page. */
int bt_tag_disp(const struct trans *t)
{
    return emit_hit(t->e) ? 0 : -(int)PAGE_BYTES;
}

_Static_assert(TLB_INDEX_BITS == 16, "an index is what MOVZX takes");

static void emit_index(struct trans *t)
{
    emit_rorx(t->e, H_AUX, H_PTR, PAGE_SHIFT);
    emit_op_rr(t->e, EMIT_0F, 0xb7, H_AUX, H_AUX); /* MOVZX of the low 16 bits */
}

static size_t tlb_offset(const struct trans *t)
{
    return BT_OFF(iv.views) + (size_t)bt_view(t->key) * sizeof(struct tlb);
}

void bt_emit_tag(struct trans *t, bool write)
{
    emit_index(t);
    emit_load(t->e, H_TMP,
              HMEM_GS_INDEX(H_AUX, 3,
                            tlb_offset(t) + (write ? offsetof(struct tlb, ntag_w)
                                                   : offsetof(struct tlb, ntag_r))));
}

void bt_emit_addend(struct trans *t)
{
    emit_load(t->e, H_AUX, HMEM_GS_INDEX(H_AUX, 3, tlb_offset(t) + offsetof(struct tlb, add)));
}

uint8_t *bt_emit_probe(struct trans *t, unsigned bytes, bool write)
{
    struct site *s = &t->tb->sites[t->nr];
    uint8_t *miss;

    s->acc_bytes = (uint16_t)bytes;
    s->acc_write = write;
    bt_emit_tag(t, write);
    emit_lea(t->e, H_TMP,
             (struct hmem){
                 .base = H_TMP, .index = H_PTR, .disp = (int32_t)bytes - 1 + bt_tag_disp(t) });
    if (!t->b->vm->slow_pext) {
        emit_pext(t->e, H_TMP, H_TMP, HMEM_GS(BT_OFF(mask_page)));
    } else {
        emit_mov_imm(t->e, H_AUX, PAGE_SHIFT);
        emit_shrx(t->e, H_TMP, H_TMP, H_AUX, true);
    }
    miss = emit_unless_hit_later(t->e);
    if (t->b->vm->slow_pext)
        emit_index(t);
    bt_emit_addend(t);
    return miss;
}

void bt_emit_window(struct trans *t)
{
    t->tb->sites[t->nr].viewed = true;
    emit_rorx(t->e, H_AUX, H_PTR, BT_WINDOW_SHIFT);
    emit_op_rr(t->e, EMIT_0F, 0xb7, H_AUX, H_AUX); /* MOVZX of the low 16 bits */
    emit_load(t->e, H_AUX, HMEM_GS_INDEX(H_AUX, 3, BT_OFF(windows)));
}

void bt_emit_lookup(struct trans *t, unsigned bytes, bool write)
{
    if (bt_kview_wants(t, t->in.off, write))
        bt_emit_window(t);
    else
        bt_leave_from(t, bt_emit_probe(t, bytes, write), WHY_SLOW);
}
