/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control transfers. Direct branches inside a page are chained from block to block; everything else
 * returns to the run loop, which finds the next block.
 *
 * A direct branch's target is op->disp, relative to the page (SLOT_PAGE); op->self is its block.
 */
#include "engine/interp/handlers.h"

static ALWAYS_INLINE const struct op *go(struct ivcpu *v, struct block *self, unsigned way,
                                         uint64_t target, bool chain)
{
    struct cpu *c = CPU(v);

    if (likely(chain)) {
        struct block *n = self->chain[way];

        if (likely(n && !c->req)) {
            v->cur = n;
            v->vc.nr_insns += n->nr_insns;
            return n->ops;
        }
        v->link = &self->chain[way];
    }
    c->rip = target;
    v->leave = LEAVE_NEXT;
    return NULL;
}

/* Near branch targets: cut to the operand size; outside 64-bit code beyond the CS limit, in it
 * non-canonical: #GP(0). */
static inline bool near_ok(const struct cpu *c, uint64_t ip)
{
    return c->mode & MODE_CS64 ? is_canonical(c, ip) : ip <= c->seg[SEG_CS].limit;
}

static ALWAYS_INLINE const struct op *go_taken(struct ivcpu *v, const struct op *op)
{
    struct cpu *c = CPU(v);
    uint64_t target = low_bytes(c->gpr[SLOT_PAGE / 8] + (uint64_t)op->disp, op->bytes);

    if (unlikely(!(op->aux2 & CHAIN_TAKEN)) && unlikely(!near_ok(c, target)))
        return leave_gp0(v, op);
    return go(v, op->self, 0, target, op->aux2 & CHAIN_TAKEN);
}

static ALWAYS_INLINE const struct op *go_next(struct ivcpu *v, const struct op *op)
{
    struct cpu *c = CPU(v);

    return go(v, op->self, 1, ip_mask(c, op_rip(v, op) + op->len), op->aux2 & CHAIN_NEXT);
}

static const struct op *jmp(struct ivcpu *v, const struct op *op)
{
    return go_taken(v, op);
}

/* Falls through to the next block: the end of a block that no branch ends. off is the next
 * instruction's. */
const struct op *op_end(struct ivcpu *v, const struct op *op)
{
    return go_next(v, op);
}

#define DEFINE_JCC(cc)                                                         \
    static const struct op *jump_if_##cc(struct ivcpu *v, const struct op *op) \
    {                                                                          \
        if (condition(CPU(v)->rflags, 0x##cc))                                 \
            return go_taken(v, op);                                            \
        return go_next(v, op);                                                 \
    }
#define FOR_ALL_CC(M) \
    M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(a) M(b) M(c) M(d) M(e) M(f)
FOR_ALL_CC(DEFINE_JCC)
#define J_ENTRY(cc) jump_if_##cc,
static const op_fn jcc[16] = { FOR_ALL_CC(J_ENTRY) };

op_fn jcc_handler(unsigned cc)
{
    return jcc[cc];
}

/* LOOP, LOOPE, LOOPNE (aux: 0, 1, 2) and JCXZ count by address size. */
static uint64_t counter(const struct ivcpu *v, const struct op *op)
{
    return get_reg(v, RCX * 8, op->prefix & OP_A16 ? 2 : op->prefix & OP_A32 ? 4 : 8);
}

static const struct op *loop(struct ivcpu *v, const struct op *op)
{
    struct cpu *c = CPU(v);
    uint64_t n = counter(v, op) - 1, target;
    bool zf = c->rflags & RFLAGS_ZF, taken;

    n = low_bytes(n, op->prefix & OP_A16 ? 2 : op->prefix & OP_A32 ? 4 : 8);
    taken = n && (op->aux == 0 || (op->aux == 1) == zf);
    target = low_bytes(c->gpr[SLOT_PAGE / 8] + (uint64_t)op->disp, op->bytes);
    if (taken && !near_ok(c, target))
        return leave_gp0(v, op);
    set_reg(v, RCX * 8, op->prefix & OP_A16 ? 2 : op->prefix & OP_A32 ? 4 : 8, n);
    return taken ? go_taken(v, op) : go_next(v, op);
}

static const struct op *jcxz(struct ivcpu *v, const struct op *op)
{
    return counter(v, op) ? go_next(v, op) : go_taken(v, op);
}

/* ---- near calls and returns ---- */

static const struct op *leave_to(struct ivcpu *v, uint64_t target)
{
    CPU(v)->rip = target;
    v->leave = LEAVE_NEXT;
    return NULL;
}

/* Pushes the return address; true on success. In 64-bit code the stack is flat. */
static ALWAYS_INLINE bool push_return(struct ivcpu *v, const struct op *op)
{
    struct cpu *c = CPU(v);
    uint64_t ret = op_rip(v, op) + op->len;

    if (likely((c->mode & MODE_CS64) && op->bytes == 8)) {
        uint64_t sp = c->gpr[RSP] - 8;

        if (TLB_HIT(v->tlb, w, sp, 8))
            *(una64 *)TLB_HVA(v->tlb, sp) = ret;
        else if (!store_slow(v, &(struct op){ .seg = SEG_SS }, sp, 8, ret))
            return false;
        c->gpr[RSP] = sp;
        return true;
    }
    sync_rip(v, op);
    if (cpu_push(c, c->next_rip, op->bytes) == STEP_NEXT)
        return true;
    v->leave = LEAVE_FAULT;
    return false;
}

/* A call to nowhere: a bad stack comes first, but RSP stays. Intel's processors have written the
 * return address by then (seen on Sapphire Rapids), AMD's have not. */
static const struct op *bad_call(struct ivcpu *v, const struct op *op)
{
    struct cpu *c = CPU(v);
    uint64_t mask = c->mode & MODE_CS64 ? ~0ull : c->mode & MODE_SS32 ? 0xffffffffu : 0xffffu;
    const struct op slot = { .seg = SEG_SS };
    gva_t lin = GVA(0);
    enum step st;
    bool ok;

    sync_rip(v, op);
    st = cpu_linear(c, SEG_SS, (c->gpr[RSP] - op->bytes) & mask, op->bytes, ACC_WRITE, &lin);
    if (st != STEP_NEXT)
        return leave_step(v, op, st);
    ok = c->model->vendor == VENDOR_INTEL ? store_slow(v, &slot, lin.v, op->bytes, c->next_rip)
                                          : rmw_slow(v, &slot, lin.v, op->bytes);
    return ok ? leave_gp0(v, op) : leave_here(v, op);
}

static const struct op *call(struct ivcpu *v, const struct op *op)
{
    struct cpu *c = CPU(v);
    uint64_t target = low_bytes(c->gpr[SLOT_PAGE / 8] + (uint64_t)op->disp, op->bytes);

    if (unlikely(!(op->aux2 & CHAIN_TAKEN)) && unlikely(!near_ok(c, target)))
        return bad_call(v, op);
    if (!push_return(v, op))
        return leave_here(v, op);
    return go(v, op->self, 0, target, op->aux2 & CHAIN_TAKEN);
}

static const struct op *indirect(struct ivcpu *v, const struct op *op, uint64_t target,
                                 bool is_call)
{
    if (unlikely(!near_ok(CPU(v), target)))
        return is_call ? bad_call(v, op) : leave_gp0(v, op);
    if (is_call && !push_return(v, op))
        return leave_here(v, op);
    return leave_to(v, target);
}

static const struct op *jmp_reg(struct ivcpu *v, const struct op *op)
{
    return indirect(v, op, get_reg(v, op->dst, op->bytes), false);
}

static const struct op *call_reg(struct ivcpu *v, const struct op *op)
{
    return indirect(v, op, get_reg(v, op->dst, op->bytes), true);
}

static const struct op *jmp_mem(struct ivcpu *v, const struct op *op)
{
    uint64_t target;

    if (!get_dst(v, op, ACC_READ, &target))
        return leave_here(v, op);
    return indirect(v, op, target, false);
}

static const struct op *call_mem(struct ivcpu *v, const struct op *op)
{
    uint64_t target;

    if (!get_dst(v, op, ACC_READ, &target))
        return leave_here(v, op);
    return indirect(v, op, target, true);
}

static const struct op *ret_slow(struct ivcpu *v, const struct op *op)
{
    struct cpu *c = CPU(v);
    uint64_t target, sp_mask = c->mode & MODE_CS64   ? ~0ull
                               : c->mode & MODE_SS32 ? 0xffffffffu
                                                     : 0xffffu;
    enum step st;

    sync_rip(v, op);
    st = cpu_pop(c, &target, op->bytes);
    if (st != STEP_NEXT)
        return leave_step(v, op, st);
    if (!near_ok(c, target))
        return leave_gp0(v, op);
    c->gpr[RSP] = (c->gpr[RSP] & ~sp_mask) | ((c->gpr[RSP] + op->bytes + op->imm) & sp_mask);
    if (sp_mask == 0xffffffffu)
        c->gpr[RSP] = (uint32_t)c->gpr[RSP];
    return leave_to(v, target);
}

static const struct op *ret(struct ivcpu *v, const struct op *op)
{
    struct cpu *c = CPU(v);
    uint64_t target, sp = c->gpr[RSP];

    if (unlikely(!(c->mode & MODE_CS64) || op->bytes != 8))
        return ret_slow(v, op);
    LOAD(v, op, 64, sp, target);
    if (unlikely(!is_canonical(c, target)))
        return leave_gp0(v, op);
    c->gpr[RSP] = sp + 8 + op->imm;
    return leave_to(v, target);
}

/* ---- far transfers: the semantic core does them ---- */

static const struct op *far_direct(struct ivcpu *v, const struct op *op, bool is_call)
{
    struct cpu *c = CPU(v);
    uint16_t sel = (uint16_t)op->imm;

    sync_rip(v, op);
    return leave_jump(v, op,
                      is_call ? cpu_far_call(c, sel, (uint64_t)op->disp, op->bytes)
                              : cpu_far_jmp(c, sel, (uint64_t)op->disp, op->bytes));
}

static const struct op *jmp_far(struct ivcpu *v, const struct op *op)
{
    return far_direct(v, op, false);
}

static const struct op *call_far(struct ivcpu *v, const struct op *op)
{
    return far_direct(v, op, true);
}

static const struct op *far_mem(struct ivcpu *v, const struct op *op, bool is_call)
{
    struct cpu *c = CPU(v);
    uint64_t lin, off, sel;

    if (!get_linear(v, op, op->bytes + 2, ACC_READ, &lin) || !load_n(v, op, lin, op->bytes, &off) ||
        !load_n(v, op, lin + op->bytes, 2, &sel))
        return leave_here(v, op);
    sync_rip(v, op);
    return leave_jump(v, op,
                      is_call ? cpu_far_call(c, (uint16_t)sel, off, op->bytes)
                              : cpu_far_jmp(c, (uint16_t)sel, off, op->bytes));
}

static const struct op *jmp_far_mem(struct ivcpu *v, const struct op *op)
{
    return far_mem(v, op, false);
}

static const struct op *call_far_mem(struct ivcpu *v, const struct op *op)
{
    return far_mem(v, op, true);
}

static const struct op *ret_far(struct ivcpu *v, const struct op *op)
{
    sync_rip(v, op);
    return leave_jump(v, op, cpu_far_ret(CPU(v), (uint16_t)op->imm, op->bytes));
}

static const struct op *iret(struct ivcpu *v, const struct op *op)
{
    serialize(v);
    sync_rip(v, op);
    return leave_jump(v, op, cpu_iret(CPU(v), op->bytes));
}

static const struct op *int_n(struct ivcpu *v, const struct op *op)
{
    sync_rip(v, op);
    return leave_jump(v, op, cpu_int(CPU(v), (uint8_t)op->imm, EVENT_SOFT_INT));
}

static const struct op *int3(struct ivcpu *v, const struct op *op)
{
    sync_rip(v, op);
    return leave_jump(v, op, cpu_int(CPU(v), VEC_BP, EVENT_SOFT_EXC));
}

static const struct op *int1(struct ivcpu *v, const struct op *op)
{
    sync_rip(v, op);
    return leave_jump(v, op, cpu_int(CPU(v), VEC_DB, EVENT_PRIV_SOFT_EXC));
}

static const struct op *into(struct ivcpu *v, const struct op *op)
{
    sync_rip(v, op);
    if (!(CPU(v)->rflags & RFLAGS_OF))
        return leave_step(v, op, STEP_NEXT);
    return leave_jump(v, op, cpu_int(CPU(v), VEC_OF, EVENT_SOFT_EXC));
}

const op_fn op_jmp = jmp, op_call = call, op_jmp_reg = jmp_reg, op_jmp_mem = jmp_mem;
const op_fn op_call_reg = call_reg, op_call_mem = call_mem, op_ret = ret, op_loop = loop,
            op_jcxz = jcxz;
const op_fn op_jmp_far = jmp_far, op_call_far = call_far, op_jmp_far_mem = jmp_far_mem;
const op_fn op_call_far_mem = call_far_mem, op_ret_far = ret_far, op_iret = iret;
const op_fn op_int = int_n, op_int3 = int3, op_into = into, op_int1 = int1;

bool op_is_branch(const struct op *op)
{
    if (op->fn == jmp || op->fn == call || op->fn == loop || op->fn == jcxz || op->fn == op_end)
        return true;
    for (unsigned i = 0; i < ARRAY_SIZE(jcc); i++)
        if (op->fn == jcc[i])
            return true;
    return false;
}
