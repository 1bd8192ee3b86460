/* SPDX-License-Identifier: Apache-2.0 */
/* Leaving a block, and operands by kind for handlers that need no speed. */
#include "engine/interp/handlers.h"

/* The instruction did not complete: it was not retired with its block. */
static void uncount(struct ivcpu *v, const struct op *op, unsigned retired)
{
    if (v->cur && op >= v->cur->ops)
        v->vc.nr_insns -= v->cur->nr_insns - (unsigned)(op - v->cur->ops) - retired;
}

const struct op *leave_here(struct ivcpu *v, const struct op *op)
{
    CPU(v)->rip = ip_mask(CPU(v), op_rip(v, op));
    uncount(v, op, 0);
    return NULL;
}

const struct op *leave_step(struct ivcpu *v, const struct op *op, enum step st)
{
    struct cpu *c = CPU(v);

    if (st == STEP_NEXT) {
        c->rip = c->next_rip;
        v->leave = LEAVE_NEXT;
        uncount(v, op, 1);
        return NULL;
    }
    v->leave = leave_of(st);
    return leave_here(v, op);
}

/* A task switch may fault in the new task: what the core left in cpu.rip stands. */
const struct op *leave_jump(struct ivcpu *v, const struct op *op, enum step st)
{
    v->leave = leave_of(st);
    uncount(v, op, st == STEP_NEXT);
    return NULL;
}

const struct op *leave_raise(struct ivcpu *v, const struct op *op, enum vector vec)
{
    return leave_step(v, op, raise_vec(CPU(v), vec));
}

const struct op *leave_gp0(struct ivcpu *v, const struct op *op)
{
    return leave_step(v, op, raise_gp(CPU(v), 0));
}

uint64_t get_reg(const struct ivcpu *v, unsigned off, unsigned bytes)
{
    switch (bytes) {
    case 1:
        return REG(v, 8, off);
    case 2:
        return REG(v, 16, off);
    case 4:
        return REG(v, 32, off);
    default:
        return REG(v, 64, off);
    }
}

void set_reg(struct ivcpu *v, unsigned off, unsigned bytes, uint64_t x)
{
    switch (bytes) {
    case 1:
        set_reg8(v, off, x);
        break;
    case 2:
        set_reg16(v, off, x);
        break;
    case 4:
        set_reg32(v, off, x);
        break;
    default:
        set_reg64(v, off, x);
        break;
    }
}

bool get_dst(struct ivcpu *v, const struct op *op, unsigned acc, uint64_t *out)
{
    uint64_t lin;

    if (op->dst != NOT_A_REG) {
        *out = get_reg(v, op->dst, op->bytes);
        return true;
    }
    if (!get_linear(v, op, op->bytes, acc, &lin))
        return false;
    if (!(acc & ACC_WRITE))
        return load_n(v, op, lin, op->bytes, out);
    if (!rmw_slow(v, op, lin, op->bytes))
        return false;
    *out = v->val;
    return true;
}

bool get_src(struct ivcpu *v, const struct op *op, uint64_t *out)
{
    uint64_t lin;

    if (op->src != NOT_A_REG) {
        *out = get_reg(v, op->src, op->bytes);
        return true;
    }
    /* Memory, unless that is the destination. */
    if (!(op->prefix & OP_MEM) || (op->dst == NOT_A_REG && (op->prefix & OP_SRC_IMM))) {
        *out = op->imm;
        return true;
    }
    return get_linear(v, op, op->bytes, ACC_READ, &lin) && load_n(v, op, lin, op->bytes, out);
}

bool put_dst(struct ivcpu *v, const struct op *op, uint64_t val)
{
    uint64_t lin;

    if (op->dst != NOT_A_REG) {
        set_reg(v, op->dst, op->bytes, val);
        return true;
    }
    return get_linear(v, op, op->bytes, ACC_WRITE, &lin) && store_slow(v, op, lin, op->bytes, val);
}
