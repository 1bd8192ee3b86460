/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Translated strings: MOVS and STOS upwards within a page, with REP, which kernels and compiled
 * code use for small copies as well, and without, of which boot loaders make their loops; and the
 * bit tests whose register reaches beyond their operand. Everything else of theirs (two pages,
 * downwards, devices) is interp's, but what the kernel's view has: there REP goes over pages.
 */
#include "engine/bt/bt.h"

/* Leaves for interp unless the bits of the register are 0. */
static void interp_unless_zero(struct trans *t, enum hreg reg, size_t mask)
{
    emit_pext(t->e, H_TMP, reg, HMEM_GS(mask));
    if (emit_hit(t->e))
        emit_lea(t->e, H_TMP, HMEM_BASE(H_TMP, emit_hit(t->e)));
    bt_leave_unless_hit(t, WHY_INTERP);
}

/* Leaves for interp unless the string goes upwards. */
static void check_direction(struct trans *t)
{
    emit_load(t->e, H_TMP, HMEM_GS(CPU_OFF(rflags)));
    interp_unless_zero(t, H_TMP, BT_OFF(mask_df));
}

/* So few that the product with their size cannot overflow; and by the kernel's view, that they end
 * in the guard behind a window. */
static void check_count(struct trans *t, bool viewed)
{
    interp_unless_zero(t, H_GUEST_RCX, viewed ? BT_OFF(mask_rep) : BT_OFF(mask_page));
}

/*
 * H_PTR = the register, H_PTR + H_AUX the host address of as many bytes as the string has. The
 * first byte is looked up too: from there to the last one it is so far that the tag of an empty
 * entry, which is only a page or two away from a wrap, might match the last one alone.
 */
static void look_up(struct trans *t, enum hreg reg, bool write)
{
    struct hmem off = { .base = H_TMP, .index = H_PTR, .disp = bt_tag_disp(t) };
    struct hmem end = { .base = H_TMP,
                        .index = H_GUEST_RCX,
                        .scale = (uint8_t)__builtin_ctz(t->in.mem_bytes),
                        .disp = -1 };

    emit_mov_rr(t->e, H_PTR, reg);
    for (unsigned last = 0; last < 2; last++) {
        bt_emit_tag(t, write);
        emit_lea(t->e, H_TMP, off);
        if (last)
            emit_lea(t->e, H_TMP, end);
        emit_pext(t->e, H_TMP, H_TMP, HMEM_GS(BT_OFF(mask_page)));
        bt_leave_unless_hit(t, WHY_INTERP);
    }
    bt_emit_addend(t);
}

/* The instruction itself; RDI, RSI and RCX are the host's. */
static void emit_rep(struct trans *t, uint8_t opcode)
{
    unsigned bytes = t->in.mem_bytes;

    emit8(t->e, 0xf3);
    if (bytes == 2)
        emit8(t->e, 0x66);
    if (bytes == 8)
        emit8(t->e, 0x48);
    emit8(t->e, bytes == 1 ? opcode : opcode | 1);
}

/* reg = from + count * bytes */
static void advance(struct trans *t, enum hreg reg, enum hreg from)
{
    emit_lea(t->e, reg,
             (struct hmem){ .base = from,
                            .index = H_GUEST_RCX,
                            .scale = (uint8_t)__builtin_ctz(t->in.mem_bytes) });
}

/* By the kernel's view, where nothing has to be in one page: what a trap on the way leaves undone
 * is known by H_PTR, H_AUX and RCX (see bt_string_trapped()). */
static bool by_view(struct trans *t)
{
    struct site *s = &t->tb->sites[t->nr];

    if (!bt_kview_wants(t, t->in.off, true))
        return false;
    s->rep = true;
    s->moves = t->in.op.fn == op_movs;
    s->acc_bytes = t->in.mem_bytes;
    return true;
}

static void find(struct trans *t, enum hreg reg, bool write, bool viewed)
{
    if (!viewed) {
        look_up(t, reg, write);
        return;
    }
    emit_mov_rr(t->e, H_PTR, reg);
    bt_emit_window(t);
}

static void emit_stos(struct trans *t, bool viewed)
{
    find(t, H_RDI, true, viewed);
    emit_lea(t->e, H_RDI, HMEM_GUEST);
    emit_mov_rr(t->e, H_RCX, H_GUEST_RCX);
    emit_rep(t, 0xaa);
    advance(t, H_RDI, H_PTR);
}

static void emit_movs(struct trans *t, bool viewed)
{
    find(t, H_RSI, false, viewed);
    emit_lea(t->e, H_AUX, HMEM_GUEST);
    emit_store(t->e, HMEM_GS(BT_OFF(tmp)), H_AUX);
    find(t, H_RDI, true, viewed);
    emit_lea(t->e, H_RDI, HMEM_GUEST);
    emit_mov_rr(t->e, H_AUX, H_RSI);
    emit_load(t->e, H_RSI, HMEM_GS(BT_OFF(tmp)));
    emit_mov_rr(t->e, H_RCX, H_GUEST_RCX);
    emit_rep(t, 0xa4);
    advance(t, H_RSI, H_AUX);
    advance(t, H_RDI, H_PTR);
}

void bt_string_trapped(struct bt_vcpu *b, const struct site *s)
{
    const struct host_trap_region *r = &b->region;
    uint64_t *gpr = b->iv.vc.cpu.gpr, done = (gpr[RCX] - r->rcx) * s->acc_bytes;

    gpr[RDI] = r->r10 + done;
    if (s->moves)
        gpr[RSI] = r->r11 + done;
    gpr[RCX] = r->rcx;
}

/* ---- one element ---- */

/* H_PTR + H_AUX = the host address of the element that the register points to. */
static void look_up_one(struct trans *t, enum hreg reg, bool write)
{
    struct hmem end = { .base = H_TMP,
                        .index = H_PTR,
                        .disp = t->in.mem_bytes - 1 + bt_tag_disp(t) };

    if (bt_long64(t))
        emit_mov_rr(t->e, H_PTR, reg);
    else
        emit_mov32_rr(t->e, H_PTR, reg);
    bt_emit_tag(t, write);
    emit_lea(t->e, H_TMP, end);
    emit_pext(t->e, H_TMP, H_TMP, HMEM_GS(BT_OFF(mask_page)));
    bt_leave_unless_hit(t, WHY_INTERP);
    bt_emit_addend(t);
}

/* H_TMP = the element there */
static void load_one(struct trans *t)
{
    switch (t->in.mem_bytes) {
    case 1:
        emit_op_rm(t->e, EMIT_0F, 0xb6, H_TMP, HMEM_GUEST); /* MOVZX */
        break;
    case 2:
        emit_op_rm(t->e, EMIT_0F, 0xb7, H_TMP, HMEM_GUEST);
        break;
    case 4:
        emit_op_rm(t->e, 0, 0x8b, H_TMP, HMEM_GUEST);
        break;
    default:
        emit_load(t->e, H_TMP, HMEM_GUEST);
        break;
    }
}

static void store_one(struct trans *t, enum hreg reg)
{
    unsigned bytes = t->in.mem_bytes;

    if (bytes == 2)
        emit8(t->e, 0x66);
    emit_op_rm(t->e, bytes == 8 ? EMIT_W : 0, bytes == 1 ? 0x88 : 0x89, reg, HMEM_GUEST);
}

static void step_one(struct trans *t, enum hreg reg)
{
    struct hmem next = HMEM_BASE(reg, t->in.mem_bytes);

    if (bt_long64(t))
        emit_lea(t->e, reg, next);
    else
        emit_lea32(t->e, reg, next);
}

static void emit_one_element(struct trans *t)
{
    bool moves = t->in.op.fn == op_movs;

    check_direction(t);
    if (moves) {
        look_up_one(t, H_RSI, false);
        load_one(t);
        emit_store(t->e, HMEM_GS(BT_OFF(tmp)), H_TMP);
    }
    look_up_one(t, H_RDI, true);
    if (moves)
        emit_load(t->e, H_TMP, HMEM_GS(BT_OFF(tmp)));
    store_one(t, moves ? H_TMP : H_RAX);
    if (moves)
        step_one(t, H_RSI);
    step_one(t, H_RDI);
}

bool bt_emit_string(struct trans *t)
{
    bool viewed;

    if (t->b->vm->slow_pext)
        return false;
    if (!(t->in.op.prefix & OP_REP)) {
        emit_one_element(t);
        return true;
    }
    viewed = by_view(t);
    check_direction(t);
    check_count(t, viewed);
    if (t->in.op.fn == op_stos)
        emit_stos(t, viewed);
    else
        emit_movs(t, viewed);
    emit_mov_imm(t->e, H_GUEST_RCX, 0);
    return true;
}

/* BT and relatives with the bit's number in a register: the word it is in, then a bit of that. */
bool bt_emit_bits(struct trans *t)
{
    static const uint8_t opcodes[] = { [0] = 0xa3, [1] = 0xab, [2] = 0xb3, [3] = 0xbb };
    const struct insn *in = &t->in;
    unsigned gpr = bt_gpr(in->ops[1].reg.value);
    enum hreg bit = bt_home(gpr);
    unsigned kind = in->z.mnemonic == ZYDIS_MNEMONIC_BT    ? 0
                    : in->z.mnemonic == ZYDIS_MNEMONIC_BTS ? 1
                    : in->z.mnemonic == ZYDIS_MNEMONIC_BTR ? 2
                                                           : 3;

    if (t->b->vm->slow_pext)
        return false;
    bt_emit_ea(t, &in->ops[in->mem].mem);
    if (bit == H_NONE)
        bt_emit_get(t, H_AUX, gpr);
    emit_mov_imm(t->e, H_TMP, 6);
    emit_sarx(t->e, H_AUX, bit == H_NONE ? H_AUX : bit, H_TMP);
    emit_lea(t->e, H_PTR, (struct hmem){ .base = H_PTR, .index = H_AUX, .scale = 3 });
    bt_emit_lookup(t, 8, in->mem_acc == ACC_WRITE);
    if (bit == H_NONE) {
        bt_emit_get(t, H_TMP, gpr);
        bit = H_TMP;
    }
    emit_pext(t->e, H_TMP, bit, HMEM_GS(BT_OFF(mask_63)));
    if (in->z.attributes & ZYDIS_ATTRIB_HAS_LOCK)
        emit8(t->e, 0xf0);
    emit_op_rm(t->e, EMIT_W | EMIT_0F, opcodes[kind], H_TMP, HMEM_GUEST);
    return true;
}
