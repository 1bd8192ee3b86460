/* SPDX-License-Identifier: Apache-2.0 */
/* PUSH, POP and relatives. 64-bit PUSH and POP of registers are fast; the rest goes by the core's
 * stack functions. */
#include "engine/interp/handlers.h"

static inline uint64_t sp_mask(const struct cpu *c)
{
    return c->mode & MODE_CS64 ? ~0ull : c->mode & MODE_SS32 ? 0xffffffffull : 0xffffull;
}

/* RSP with its low part (as wide as the stack's addresses) replaced; 32-bit stacks clear the upper
 * half. */
static void set_sp(struct cpu *c, uint64_t sp)
{
    uint64_t mask = sp_mask(c);

    c->gpr[RSP] = mask == 0xffff ? (c->gpr[RSP] & ~mask) | (sp & mask) : sp & mask;
}

static const struct op *push_reg64(struct ivcpu *v, const struct op *op)
{
    uint64_t sp = CPU(v)->gpr[RSP] - 8;

    STORE(v, op, 64, sp, REG(v, 64, op->dst));
    CPU(v)->gpr[RSP] = sp;
    NEXT(v, op);
}

static const struct op *pop_reg64(struct ivcpu *v, const struct op *op)
{
    uint64_t x, sp = CPU(v)->gpr[RSP];

    LOAD(v, op, 64, sp, x);
    CPU(v)->gpr[RSP] = sp + 8;
    REG(v, 64, op->dst) = x;
    NEXT(v, op);
}

static const struct op *push(struct ivcpu *v, const struct op *op)
{
    uint64_t x;

    if (op->prefix & OP_SRC_IMM)
        x = op->imm;
    else if (!get_dst(v, op, ACC_READ, &x))
        return leave_here(v, op);
    sync_rip(v, op);
    NEXT_OR_LEAVE(v, op, cpu_push(CPU(v), x, op->bytes));
}

/* POP m computes its address with RSP already moved (SDM 2, POP: "the ESP register is incremented
 * before"). */
static const struct op *pop(struct ivcpu *v, const struct op *op)
{
    struct cpu *c = CPU(v);
    uint64_t x, old = c->gpr[RSP];
    enum step st;

    sync_rip(v, op);
    st = cpu_pop(c, &x, op->bytes);
    if (st != STEP_NEXT)
        return leave_step(v, op, st);
    set_sp(c, old + op->bytes);
    if (op->dst != NOT_A_REG) {
        set_reg(v, op->dst, op->bytes, x);
        NEXT(v, op);
    }
    if (!put_dst(v, op, x)) {
        c->gpr[RSP] = old;
        return leave_here(v, op);
    }
    NEXT(v, op);
}

/* The selector alone goes to the stack or comes from it, the rest of its slot is not touched: SDM
 * 2, "PUSH", of a 4-byte slot, and seen of POP on Sapphire Rapids. AMD's processors move all of it.
 */
static const struct op *push_seg_narrow(struct ivcpu *v, const struct op *op)
{
    struct cpu *c = CPU(v);
    uint64_t sp = (c->gpr[RSP] - op->bytes) & sp_mask(c);
    gva_t lin = GVA(0);
    enum step st = cpu_linear(c, SEG_SS, sp, 2, ACC_WRITE, &lin);

    if (st != STEP_NEXT)
        return leave_step(v, op, st);
    if (!store_slow(v, &(struct op){ .seg = SEG_SS }, lin.v, 2, c->seg[op->aux].sel))
        return leave_here(v, op);
    set_sp(c, sp);
    NEXT_OR_LEAVE(v, op, STEP_NEXT);
}

/* A selector pushed with a 4- or 8-byte operand size: the whole slot is written, upper part zero.
 */
static const struct op *push_seg(struct ivcpu *v, const struct op *op)
{
    sync_rip(v, op);
    if (op->bytes == 4 && CPU(v)->model->vendor == VENDOR_INTEL)
        return push_seg_narrow(v, op);
    NEXT_OR_LEAVE(v, op, cpu_push(CPU(v), CPU(v)->seg[op->aux].sel, op->bytes));
}

static const struct op *pop_seg(struct ivcpu *v, const struct op *op)
{
    struct cpu *c = CPU(v);
    uint64_t x, old = c->gpr[RSP];
    bool wide_ss = c->mode & MODE_SS32;
    enum step st;

    sync_rip(v, op);
    st = cpu_pop(c, &x, c->model->vendor == VENDOR_INTEL ? 2 : op->bytes);
    if (st == STEP_NEXT)
        st = cpu_load_seg(c, op->aux, (uint16_t)x);
    if (st != STEP_NEXT)
        return leave_step(v, op, st);
    /* The pop itself used the old stack segment's size. */
    if (c->mode & MODE_CS64)
        c->gpr[RSP] = old + op->bytes;
    else if (wide_ss)
        c->gpr[RSP] = (uint32_t)(old + op->bytes);
    else
        c->gpr[RSP] = (old & ~0xffffull) | (uint16_t)(old + op->bytes);
    if (op->aux == SEG_SS)
        c->shadow_movss = true;
    return leave_step(v, op, STEP_NEXT);
}

/* PUSHA: the SP pushed is the one before. Probed as a whole first, so that a fault changes nothing.
 */
static const struct op *pusha(struct ivcpu *v, const struct op *op)
{
    struct cpu *c = CPU(v);
    uint64_t old = c->gpr[RSP];

    sync_rip(v, op);
    for (unsigned i = 0; i < 8; i++) {
        enum step st = cpu_push(c, i == RSP ? old : c->gpr[i], op->bytes);

        if (st != STEP_NEXT) {
            c->gpr[RSP] = old;
            return leave_step(v, op, st);
        }
    }
    NEXT_OR_LEAVE(v, op, STEP_NEXT);
}

static const struct op *popa(struct ivcpu *v, const struct op *op)
{
    struct cpu *c = CPU(v);
    uint64_t old = c->gpr[RSP], x[8];

    sync_rip(v, op);
    for (unsigned i = 8; i-- > 0;) {
        enum step st = cpu_pop(c, &x[i], op->bytes);

        if (st != STEP_NEXT) {
            c->gpr[RSP] = old;
            return leave_step(v, op, st);
        }
        set_sp(c, c->gpr[RSP] + op->bytes);
    }
    for (unsigned i = 0; i < 8; i++)
        if (i != RSP)
            set_reg(v, i * 8, op->bytes, x[i]);
    NEXT(v, op);
}

static const struct op *pushf(struct ivcpu *v, const struct op *op)
{
    sync_rip(v, op);
    NEXT_OR_LEAVE(v, op, cpu_pushf(CPU(v), op->bytes));
}

/* May set IF or TF: ends the block. */
static const struct op *popf(struct ivcpu *v, const struct op *op)
{
    sync_rip(v, op);
    return leave_step(v, op, cpu_popf(CPU(v), op->bytes));
}

/* ENTER: imm is the frame size, aux the nesting level (SDM 2, ENTER). */
static const struct op *enter(struct ivcpu *v, const struct op *op)
{
    struct cpu *c = CPU(v);
    uint64_t old_sp = c->gpr[RSP], frame, mask = sp_mask(c);
    unsigned level = op->aux % 32, n = op->bytes;
    enum step st;

    sync_rip(v, op);
    st = cpu_push(c, c->gpr[RBP], n);
    frame = c->gpr[RSP];
    for (unsigned i = 1; st == STEP_NEXT && i < level; i++) {
        uint64_t x = 0;
        gva_t lin;

        st = cpu_linear(c, SEG_SS, (c->gpr[RBP] - i * n) & mask, n, ACC_READ, &lin);
        if (st == STEP_NEXT && !load_n(v, &(struct op){ .seg = SEG_SS }, lin.v, n, &x)) {
            c->gpr[RSP] = old_sp;
            return leave_here(v, op);
        }
        if (st == STEP_NEXT)
            st = cpu_push(c, x, n);
    }
    if (st == STEP_NEXT && level)
        st = cpu_push(c, frame, n);
    if (st == STEP_NEXT) {
        gva_t lin;

        /* The new top has to be writable; nothing is written. */
        st = cpu_linear(c, SEG_SS, (c->gpr[RSP] - op->imm) & mask, n, ACC_WRITE, &lin);
        if (st == STEP_NEXT && !rmw_slow(v, &(struct op){ .seg = SEG_SS }, lin.v, n)) {
            c->gpr[RSP] = old_sp;
            return leave_here(v, op);
        }
    }
    if (st != STEP_NEXT) {
        c->gpr[RSP] = old_sp;
        return leave_step(v, op, st);
    }
    set_reg(v, RBP * 8, mask == 0xffff && n == 2 ? 2 : n, frame);
    set_sp(c, c->gpr[RSP] - op->imm);
    NEXT_OR_LEAVE(v, op, STEP_NEXT);
}

static const struct op *leave_frame(struct ivcpu *v, const struct op *op)
{
    struct cpu *c = CPU(v);
    uint64_t x, old = c->gpr[RSP];
    enum step st;

    sync_rip(v, op);
    set_sp(c, c->gpr[RBP]);
    st = cpu_pop(c, &x, op->bytes);
    if (st != STEP_NEXT) {
        c->gpr[RSP] = old;
        return leave_step(v, op, st);
    }
    set_sp(c, c->gpr[RSP] + op->bytes);
    set_reg(v, RBP * 8, op->bytes, x);
    NEXT(v, op);
}

const op_fn op_push_reg64 = push_reg64, op_pop_reg64 = pop_reg64, op_push = push, op_pop = pop;
const op_fn op_push_seg = push_seg, op_pop_seg = pop_seg, op_pusha = pusha, op_popa = popa;
const op_fn op_pushf = pushf, op_popf = popf, op_enter = enter, op_leave = leave_frame;
