/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Translated stack operations and near control transfers.
 *
 * A jump within the page is chained: patched to go to its target's block. All others look their
 * target's RIP up in a table (struct jc), since what is at an address in another page depends on
 * the address space, but for direct ones of a kernel whose pages are global (far.c). Wherever a
 * loop could close, cpu.quiet is looked at.
 */
#include "engine/bt/bt.h"

/* dst = base + by, as wide as addresses are. */
static void address(struct trans *t, enum hreg dst, enum hreg base, int by)
{
    if (by)
        emit_op_rm(t->e, bt_width(t), 0x8d, dst, HMEM_BASE(base, by)); /* LEA */
    else
        emit_op_rr(t->e, bt_width(t), 0x89, base, dst); /* MOV */
}

struct hmem bt_emit_stack(struct trans *t, enum hreg base, int by, bool write)
{
    if (!bt_share_known(t))
        address(t, H_PTR, base, by + (int)bt_share_ahead(t));
    return bt_share_lookup(t, t->in.word, write);
}

void bt_emit_move_stack(struct trans *t, int by)
{
    address(t, H_RSP, H_RSP, by);
}

/* What PUSH, CALL and relatives move has 4 bytes outside 64-bit code. */
static int word(const struct trans *t)
{
    return bt_long64(t) ? 8 : 4;
}

static void load_word(struct trans *t, enum hreg dst, struct hmem m)
{
    emit_op_rm(t->e, bt_width(t), 0x8b, dst, m);
}

static void store_word(struct trans *t, struct hmem m, enum hreg src)
{
    emit_op_rm(t->e, bt_width(t), 0x89, src, m);
}

/* Memory operand of PUSH, CALL and JMP: into b->tmp, since another lookup may follow. */
static void load_operand(struct trans *t, enum hreg dst)
{
    bt_emit_ea(t, &t->in.ops[t->in.mem].mem);
    bt_emit_lookup(t, t->in.word, false);
    load_word(t, dst, HMEM_GUEST);
}

/*
 * A miss of either is interp's: the two may want the same TLB entry, and filling them in turns
 * would never end.
 */
static void two_accesses(struct trans *t)
{
    t->tb->sites[t->nr].acc_bytes = 0;
}

void bt_emit_push(struct trans *t)
{
    const ZydisDecodedOperand *o = &t->in.ops[0];
    enum hreg src = H_TMP;
    struct hmem m;

    if (t->in.mem >= 0) {
        load_operand(t, H_PTR);
        emit_store(t->e, HMEM_GS(BT_OFF(tmp)), H_PTR);
    }
    m = bt_emit_stack(t, H_RSP, -word(t), true);
    if (t->in.mem >= 0) {
        two_accesses(t);
        emit_load(t->e, H_TMP, HMEM_GS(BT_OFF(tmp)));
    } else if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        emit_mov_imm(t->e, H_TMP, t->in.imm);
    } else {
        src = bt_home(bt_gpr(o->reg.value));
        if (src == H_NONE) {
            bt_emit_get(t, H_TMP, bt_gpr(o->reg.value));
            src = H_TMP;
        }
    }
    store_word(t, m, src);
    bt_emit_move_stack(t, -word(t));
}

void bt_emit_pop(struct trans *t)
{
    bool leave = t->in.cls == INSN_LEAVE;
    unsigned gpr = leave ? (unsigned)RBP : bt_gpr(t->in.ops[0].reg.value);

    load_word(t, H_PTR, bt_emit_stack(t, leave ? H_RBP : H_RSP, 0, false));
    if (leave)
        address(t, H_RSP, H_RBP, word(t));
    else if (gpr != RSP)
        bt_emit_move_stack(t, word(t));
    bt_emit_put(t, gpr, H_PTR);
}

/* To the RIP in H_PTR, by the table. */
static void go_far(struct trans *t, bool check)
{
    if (t->key & KEY_COUNT) {
        bt_emit_leave(t, WHY_MISS);
        return;
    }
    if (check)
        bt_leave_from(t, bt_emit_unless_quiet(t), WHY_MISS);
    bt_leave_from(t, bt_emit_table(t->e, bt_jc_class(t->key), t->b->vm->slow_pext), WHY_MISS);
}

/* A jump that is chained, under a condition or NO_CC: to its stub until then. */
#define NO_CC 16u
static void chain(struct trans *t, const struct tb_exit *as, bool check, unsigned cc)
{
    struct tb_exit *x = &t->exits[t->tb->nr_exits];

    if (t->tb->nr_exits == ARRAY_SIZE(t->exits)) {
        t->e->full = true;
        return;
    }
    *x = *as;
    x->nr_insns = (uint8_t)(t->nr + !t->behind);
    t->tb->nr_exits++;
    if (check)
        x->check = bt_code_off(t->b->cache, bt_emit_unless_quiet(t));
    x->rel32 =
        bt_code_off(t->b->cache, cc == NO_CC ? emit_jmp_later(t->e) : emit_jcc_later(t->e, cc));
}

static void chained_jump(struct trans *t, uint32_t target, bool check, unsigned cc)
{
    chain(t, &(struct tb_exit){ .target = (uint16_t)target }, check, cc);
}

void bt_emit_goto_ac(struct trans *t, unsigned off)
{
    chain(t, &(struct tb_exit){ .target = (uint16_t)off, .ac = true }, false, NO_CC);
}

void bt_emit_goto(struct trans *t, int64_t off, bool check)
{
    if (bt_is_near(t, off)) {
        chained_jump(t, (uint32_t)off, check, NO_CC);
        return;
    }
    emit_load(t->e, H_PTR, HMEM_GS(GPR_OFF(SLOT_PAGE / 8)));
    if (off == (int32_t)off) {
        address(t, H_PTR, H_PTR, (int)off);
    } else {
        emit_mov_imm(t->e, H_AUX, (uint64_t)off);
        emit_op_rm(t->e, bt_width(t), 0x8d, H_PTR,
                   (struct hmem){ .base = H_PTR, .index = H_AUX }); /* LEA */
    }
    if (bt_far_wants(t)) {
        chain(t, &(struct tb_exit){ .far = true }, check, NO_CC);
        return;
    }
    /* Jumps forwards alone lead round 4 GB, too; in 64-bit code there is the gap between the
     * canonical halves. */
    go_far(t, check || !bt_long64(t));
}

/* Do CALLs tell where their returns will go? */
static bool notes_returns(const struct trans *t)
{
    return bt_long64(t) && !(t->key & KEY_COUNT) && !t->tb->fluid && !t->b->vm->slow_pext;
}

static size_t returns_offset(const struct trans *t)
{
    return BT_OFF(returns) + bt_jc_class(t->key) * sizeof(((struct bt_vcpu *)0)->returns[0]);
}

/* H_AUX = the index of RSP's entry. */
static void return_index(struct trans *t)
{
    emit_pext(t->e, H_AUX, H_RSP, HMEM_GS(BT_OFF(mask_returns)));
}

/* H_TMP: the return address. Its way back is an exit, whose stub is behind the block. */
static void note_return(struct trans *t)
{
    struct tb_exit *x = &t->exits[t->tb->nr_exits];
    size_t entry = returns_offset(t);
    uint32_t target = t->in.off + t->in.len;

    if (!notes_returns(t) || !bt_is_near(t, target) || t->tb->nr_exits == ARRAY_SIZE(t->exits))
        return;
    *x = (struct tb_exit){ .target = (uint16_t)target, .nr_insns = (uint8_t)(t->nr + 1) };
    t->tb->nr_exits++;
    return_index(t);
    emit_not(t->e, H_TMP);
    emit_store(t->e, HMEM_GS_INDEX(H_AUX, 3, entry + offsetof(struct jc_returns, not_rip)), H_TMP);
    x->lea = bt_code_off(t->b->cache, emit_lea_later(t->e, H_TMP));
    emit_store(t->e, HMEM_GS_INDEX(H_AUX, 3, entry + offsetof(struct jc_returns, at)), H_TMP);
}

static void push_return(struct trans *t)
{
    struct hmem m = bt_emit_stack(t, H_RSP, -word(t), true);

    emit_load(t->e, H_TMP, HMEM_GS(GPR_OFF(SLOT_PAGE / 8)));
    emit_lea(t->e, H_TMP, HMEM_BASE(H_TMP, t->in.off + t->in.len));
    store_word(t, m, H_TMP);
    bt_emit_move_stack(t, -word(t));
    note_return(t);
}

/* To the RIP in H_PTR: where the CALL that the stack belongs to said, or else by the table. */
static void go_back(struct trans *t, int by)
{
    size_t entry = returns_offset(t);

    if (!notes_returns(t)) {
        bt_emit_move_stack(t, by);
        go_far(t, true);
        return;
    }
    return_index(t);
    bt_emit_move_stack(t, by);
    bt_leave_from(t, bt_emit_unless_quiet(t), WHY_MISS);
    emit_load(t->e, H_TMP, HMEM_GS_INDEX(H_AUX, 3, entry + offsetof(struct jc_returns, not_rip)));
    emit_lea(t->e, H_TMP,
             (struct hmem){ .base = H_TMP, .index = H_PTR, .disp = 1 + emit_hit(t->e) });
    bt_branch_unless_same(t);
    emit_jmp_mem(t->e, HMEM_GS_INDEX(H_AUX, 3, entry + offsetof(struct jc_returns, at)));
}

/* LOOP and JCXZ within the page: elsewhere the way there is too long for JRCXZ. */
bool bt_emit_loop(struct trans *t)
{
    const struct insn *in = &t->in;
    bool counts = in->op.fn == op_loop;
    uint8_t *zero, *over;

    if (!bt_is_near(t, in->target))
        return false;
    if (counts)
        address(t, H_GUEST_RCX, H_GUEST_RCX, -1);
    emit_op_rr(t->e, bt_width(t), 0x89, H_GUEST_RCX, H_TMP); /* MOV */
    zero = emit_jrcxz_later(t->e);
    if (counts) {
        bt_emit_goto(t, in->target, in->target <= in->off);
        emit_fix8(t->e, zero);
        return true;
    }
    over = emit_jmp_later(t->e);
    emit_fix8(t->e, zero);
    bt_emit_goto(t, in->target, in->target <= in->off);
    if (!t->e->full)
        emit_fix32(over, t->e->delta, emit_pc(t->e));
    return true;
}

/* The target of an indirect branch into b->tmp, or for a register nothing: it is read later. */
static void indirect_target(struct trans *t)
{
    if (t->in.mem >= 0)
        load_operand(t, H_PTR);
    else
        bt_emit_get(t, H_PTR, bt_gpr(t->in.ops[0].reg.value));
    if (!bt_long64(t))
        emit_mov32_rr(t->e, H_PTR, H_PTR);
}

void bt_emit_branch(struct trans *t)
{
    struct site *s = &t->tb->sites[t->nr];
    const struct insn *in = &t->in;
    uint8_t *over;

    s->branch = true;
    switch (in->cls) {
    case INSN_JMP:
        bt_emit_goto(t, in->target, in->target <= in->off);
        break;
    case INSN_JCC:
        if (in->target > in->off && bt_is_near(t, in->target)) {
            chained_jump(t, (uint32_t)in->target, false, in->cc);
            break;
        }
        over = emit_jcc_later(t->e, in->cc ^ 1u);
        bt_emit_goto(t, in->target, in->target <= in->off);
        if (!t->e->full)
            emit_fix32(over, t->e->delta, emit_pc(t->e));
        break;
    case INSN_CALL:
        push_return(t);
        s->rsp_undo = -word(t);
        bt_emit_goto(t, in->target, in->target <= in->off);
        break;
    case INSN_JMP_IND:
        indirect_target(t);
        go_far(t, true);
        break;
    case INSN_CALL_IND:
        indirect_target(t);
        emit_store(t->e, HMEM_GS(BT_OFF(tmp)), H_PTR);
        push_return(t);
        if (in->mem >= 0)
            two_accesses(t);
        s->rsp_undo = -word(t);
        emit_load(t->e, H_PTR, HMEM_GS(BT_OFF(tmp)));
        go_far(t, true);
        break;
    default: /* INSN_RET */
        load_word(t, H_PTR, bt_emit_stack(t, H_RSP, 0, false));
        s->rsp_undo = word(t) + (int32_t)in->imm;
        go_back(t, s->rsp_undo);
        break;
    }
}
