/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Read-modify-write instructions, LOCKed or not: what they make of the old value is one function,
 * how they get it there is atomic where the guest may ask for that. Bit tests and scans with them.
 */
#include "engine/interp/handlers.h"

/* ---- read-modify-write, LOCKed or not: old -> new is a function of (kind, old, src) ---- */

/* What a locked instruction does; aux of its op. */
static uint64_t apply(enum alu_op what, uint64_t old, uint64_t src, unsigned bytes, uint64_t *rf)
{
    uint64_t r = old;
    uint32_t fl = 0;

    switch (what) {
#define CASE(id, insn)                                                         \
    case id:                                                                   \
        if (bytes == 8)                                                        \
            asm("btl $0, %k[c]\n\t" insn "q %[s], %[r]\n\tlahf\n\tseto %%al"   \
                : [r] "+q"(r), "=&a"(fl)                                       \
                : [s] "q"(src), [c] "r"(*rf)                                   \
                : "cc");                                                       \
        else if (bytes == 4)                                                   \
            asm("btl $0, %k[c]\n\t" insn "l %k[s], %k[r]\n\tlahf\n\tseto %%al" \
                : [r] "+q"(r), "=&a"(fl)                                       \
                : [s] "q"(src), [c] "r"(*rf)                                   \
                : "cc");                                                       \
        else if (bytes == 2)                                                   \
            asm("btl $0, %k[c]\n\t" insn "w %w[s], %w[r]\n\tlahf\n\tseto %%al" \
                : [r] "+q"(r), "=&a"(fl)                                       \
                : [s] "q"(src), [c] "r"(*rf)                                   \
                : "cc");                                                       \
        else                                                                   \
            asm("btl $0, %k[c]\n\t" insn "b %b[s], %b[r]\n\tlahf\n\tseto %%al" \
                : [r] "+q"(r), "=&a"(fl)                                       \
                : [s] "q"(src), [c] "r"(*rf)                                   \
                : "cc");                                                       \
        break;
        CASE(ALU_ADD, "add")
        CASE(ALU_OR, "or")
        CASE(ALU_ADC, "adc")
        CASE(ALU_SBB, "sbb")
        CASE(ALU_AND, "and")
        CASE(ALU_SUB, "sub")
        CASE(ALU_XOR, "xor")
        CASE(ALU_CMP, "cmp")
#undef CASE
    default:
        break;
    }
    *rf = merge_flags(*rf, fl);
    return low_bytes(r, bytes);
}

static uint64_t atomic_load(const void *p, unsigned bytes)
{
    switch (bytes) {
    case 1:
        return *(const volatile una8 *)p;
    case 2:
        return *(const volatile una16 *)p;
    case 4:
        return *(const volatile una32 *)p;
    default:
        return *(const volatile una64 *)p;
    }
}

/* Host LOCK CMPXCHG works on any alignment inside a page, as the guest's would. */
static bool atomic_cas(void *p, unsigned bytes, uint64_t *old, uint64_t val)
{
    uint64_t seen = *old;
    bool ok;

    switch (bytes) {
    case 1:
        asm volatile("lock cmpxchgb %b[v], %[m]"
                     : "+a"(seen), [m] "+m"(*(una8 *)p), "=@ccz"(ok)
                     : [v] "q"(val)
                     : "memory");
        break;
    case 2:
        asm volatile("lock cmpxchgw %w[v], %[m]"
                     : "+a"(seen), [m] "+m"(*(una16 *)p), "=@ccz"(ok)
                     : [v] "q"(val)
                     : "memory");
        break;
    case 4:
        asm volatile("lock cmpxchgl %k[v], %[m]"
                     : "+a"(seen), [m] "+m"(*(una32 *)p), "=@ccz"(ok)
                     : [v] "q"(val)
                     : "memory");
        break;
    default:
        asm volatile("lock cmpxchgq %[v], %[m]"
                     : "+a"(seen), [m] "+m"(*(una64 *)p), "=@ccz"(ok)
                     : [v] "q"(val)
                     : "memory");
        break;
    }
    if (!ok)
        *old = low_bytes(seen, bytes);
    return ok;
}

/* One update of op's memory operand. */
struct rmw {
    enum rmw_kind kind;
    enum alu_op alu;
    uint64_t src; /* operand, or bit mask */
    uint64_t cmp; /* CMPXCHG: the accumulator */
    uint64_t rf;  /* in: the guest's flags; out: with those of the result */
    uint64_t old; /* out */
};

static uint64_t rmw_new(struct rmw *r, unsigned bytes, uint64_t rf_in)
{
    uint64_t one = 1, n;

    r->rf = rf_in;
    switch (r->kind) {
    case RMW_ALU:
        return apply(r->alu, r->old, r->src, bytes, &r->rf);
    case RMW_INC:
    case RMW_DEC:
        n = apply(r->kind == RMW_INC ? ALU_ADD : ALU_SUB, r->old, one, bytes, &r->rf);
        r->rf = (r->rf & ~(uint64_t)RFLAGS_CF) | (rf_in & RFLAGS_CF);
        return n;
    case RMW_NEG:
        return apply(ALU_SUB, 0, r->old, bytes, &r->rf);
    case RMW_NOT:
        return low_bytes(~r->old, bytes);
    case RMW_XCHG:
        return r->src;
    case RMW_XADD:
        return apply(ALU_ADD, r->old, r->src, bytes, &r->rf);
    case RMW_CMPXCHG:
        (void)apply(ALU_CMP, r->cmp, r->old, bytes, &r->rf);
        /* The destination is written in either case (SDM 2, CMPXCHG). */
        return r->cmp == r->old ? r->src : r->old;
    default:
        r->rf = r->old & r->src ? rf_in | RFLAGS_CF : rf_in & ~(uint64_t)RFLAGS_CF;
        return r->kind == RMW_BTS   ? r->old | r->src
               : r->kind == RMW_BTR ? r->old & ~r->src
                                    : r->old ^ r->src;
    }
}

/* At linear address lin. False: leave. Flags are not yet committed: the caller does. */
static bool rmw_at(struct ivcpu *v, const struct op *op, uint64_t lin, unsigned bytes, bool locked,
                   struct rmw *r)
{
    uint64_t rf = CPU(v)->rflags;
    bool ok = false;
    void *p;

    if (locked) {
        p = atomic_ptr(v, op, lin, bytes);
        if (p) {
            r->old = atomic_load(p, bytes);
            while (!atomic_cas(p, bytes, &r->old, rmw_new(r, bytes, rf)))
                ;
            return true;
        }
        if (v->leave != LEAVE_NEXT)
            return false;
        lock_take(&v->vm->split_lock);
    }
    if (rmw_slow(v, op, lin, bytes)) {
        r->old = v->val;
        ok = store_slow(v, op, lin, bytes, rmw_new(r, bytes, rf));
    }
    if (locked)
        lock_drop(&v->vm->split_lock);
    return ok;
}

/* LOCK ADD..XOR (aux: enum alu_op), LOCK INC, DEC, NEG, NOT (aux2: kind). */
static const struct op *lock_alu(struct ivcpu *v, const struct op *op)
{
    struct rmw r = { .kind = op->aux2, .alu = op->aux };
    uint64_t lin;

    if (r.kind == RMW_ALU && !get_src(v, op, &r.src))
        return leave_here(v, op);
    if (!get_linear(v, op, op->bytes, ACC_WRITE, &lin) || !rmw_at(v, op, lin, op->bytes, true, &r))
        return leave_here(v, op);
    CPU(v)->rflags = r.rf;
    NEXT(v, op);
}

/* XCHG with memory is locked with or without the prefix. */
static const struct op *xchg(struct ivcpu *v, const struct op *op)
{
    uint64_t a, b = get_reg(v, op->src, op->bytes), lin;

    if (op->dst != NOT_A_REG) {
        a = get_reg(v, op->dst, op->bytes);
        set_reg(v, op->dst, op->bytes, b);
        set_reg(v, op->src, op->bytes, a);
    } else {
        struct rmw r = { .kind = RMW_XCHG, .src = b };

        if (!get_linear(v, op, op->bytes, ACC_WRITE, &lin) ||
            !rmw_at(v, op, lin, op->bytes, true, &r))
            return leave_here(v, op);
        set_reg(v, op->src, op->bytes, r.old);
    }
    NEXT(v, op);
}

static const struct op *xadd(struct ivcpu *v, const struct op *op)
{
    struct rmw r = { .kind = RMW_XADD, .src = get_reg(v, op->src, op->bytes) };
    uint64_t lin;

    if (op->dst != NOT_A_REG) {
        r.old = get_reg(v, op->dst, op->bytes);
        uint64_t sum = rmw_new(&r, op->bytes, CPU(v)->rflags);

        set_reg(v, op->src, op->bytes, r.old);
        set_reg(v, op->dst, op->bytes, sum);
    } else {
        if (!get_linear(v, op, op->bytes, ACC_WRITE, &lin) ||
            !rmw_at(v, op, lin, op->bytes, op->prefix & OP_LOCK, &r))
            return leave_here(v, op);
        set_reg(v, op->src, op->bytes, r.old);
    }
    CPU(v)->rflags = r.rf;
    NEXT(v, op);
}

static const struct op *cmpxchg(struct ivcpu *v, const struct op *op)
{
    struct rmw r = { .kind = RMW_CMPXCHG,
                     .src = get_reg(v, op->src, op->bytes),
                     .cmp = get_reg(v, RAX * 8, op->bytes) };
    uint64_t lin;

    if (op->dst != NOT_A_REG) {
        r.old = get_reg(v, op->dst, op->bytes);
        uint64_t val = rmw_new(&r, op->bytes, CPU(v)->rflags);

        /* When they differ a 32-bit destination is left alone on the hosts at hand, its upper half
         * included. */
        if (r.old == r.cmp)
            set_reg(v, op->dst, op->bytes, val);
    } else {
        if (!get_linear(v, op, op->bytes, ACC_WRITE, &lin) ||
            !rmw_at(v, op, lin, op->bytes, op->prefix & OP_LOCK, &r))
            return leave_here(v, op);
    }
    if (r.old != r.cmp)
        set_reg(v, RAX * 8, op->bytes, r.old);
    CPU(v)->rflags = r.rf;
    NEXT(v, op);
}

/* CMPXCHG8B and 16B: bytes is 8 or 16. */
static bool cas_wide(void *p, unsigned bytes, uint64_t exp[2], const uint64_t val[2])
{
    bool ok;

    if (bytes == 16) {
        asm volatile("lock cmpxchg16b %[m]"
                     : "+a"(exp[0]), "+d"(exp[1]), [m] "+m"(*(unsigned __int128 *)p), "=@ccz"(ok)
                     : "b"(val[0]), "c"(val[1])
                     : "memory");
        return ok;
    }
    return atomic_cas(p, 8, &exp[0], val[0]);
}

/* Not plain memory, or an 8-byte one across pages: old gets what was there. */
static bool cas_slow(struct ivcpu *v, const struct op *op, uint64_t lin, const uint64_t exp[2],
                     const uint64_t val[2], uint64_t old[2])
{
    unsigned nr = op->bytes / 8;
    const uint64_t *store = old;
    bool ok = true;

    lock_take(&v->vm->split_lock);
    for (unsigned i = 0; i < nr && ok; i++) {
        ok = rmw_slow(v, op, lin + 8 * i, 8);
        old[i] = v->val;
    }
    if (old[0] == exp[0] && old[1] == exp[1])
        store = val;
    for (unsigned i = 0; i < nr && ok; i++)
        ok = store_slow(v, op, lin + 8 * i, 8, store[i]);
    lock_drop(&v->vm->split_lock);
    return ok;
}

static const struct op *cmpxchg8b(struct ivcpu *v, const struct op *op)
{
    struct cpu *c = CPU(v);
    unsigned n = op->bytes;
    uint64_t lin, exp[2] = { 0 }, val[2] = { 0 }, old[2] = { 0 };
    bool equal;
    void *p;

    if (n == 16) {
        exp[0] = c->gpr[RAX], exp[1] = c->gpr[RDX], val[0] = c->gpr[RBX], val[1] = c->gpr[RCX];
    } else {
        exp[0] = (uint32_t)c->gpr[RAX] | c->gpr[RDX] << 32;
        val[0] = (uint32_t)c->gpr[RBX] | c->gpr[RCX] << 32;
    }
    if (!get_linear(v, op, n, ACC_WRITE, &lin))
        return leave_here(v, op);
    if (n == 16 && lin % 16)
        return leave_gp0(v, op);
    p = atomic_ptr(v, op, lin, n);
    if (p) {
        old[0] = exp[0], old[1] = exp[1];
        equal = cas_wide(p, n, old, val);
    } else {
        if (v->leave != LEAVE_NEXT)
            return leave_here(v, op);
        if (!cas_slow(v, op, lin, exp, val, old))
            return leave_here(v, op);
        equal = old[0] == exp[0] && old[1] == exp[1];
    }
    if (equal) {
        c->rflags |= RFLAGS_ZF;
    } else {
        c->rflags &= ~(uint64_t)RFLAGS_ZF;
        c->gpr[RAX] = n == 16 ? old[0] : (uint32_t)old[0];
        c->gpr[RDX] = n == 16 ? old[1] : old[0] >> 32;
    }
    NEXT(v, op);
}

static const struct op *bswap(struct ivcpu *v, const struct op *op)
{
    uint64_t x = get_reg(v, op->dst, op->bytes);

    /* BSWAP of 16 bits is undefined; processors give zero. */
    set_reg(v, op->dst, op->bytes,
            op->bytes == 8   ? __builtin_bswap64(x)
            : op->bytes == 4 ? __builtin_bswap32((uint32_t)x)
                             : 0);
    NEXT(v, op);
}

/* Either operand may be the memory one. */
static const struct op *movbe(struct ivcpu *v, const struct op *op)
{
    uint64_t x;

    if (op->dst == NOT_A_REG)
        x = get_reg(v, op->src, op->bytes);
    else if (!get_src(v, op, &x))
        return leave_here(v, op);
    x = __builtin_bswap64(x) >> (64 - 8 * op->bytes);
    if (!put_dst(v, op, x))
        return leave_here(v, op);
    NEXT(v, op);
}

/* ---- bits: with a register as bit offset the memory operand is a bit string without end ---- */

static const struct op *bit_test(struct ivcpu *v, const struct op *op, enum rmw_kind kind)
{
    bool write = kind != RMW_ALU; /* RMW_ALU stands for BT, which only reads */
    unsigned nbits = op->bytes * 8;
    uint64_t bit = op->prefix & OP_SRC_IMM ? op->imm : get_reg(v, op->src, op->bytes), lin;
    struct rmw r = { .kind = kind, .src = BIT64(bit % nbits) };

    if (op->dst != NOT_A_REG) {
        uint64_t x;

        r.old = get_reg(v, op->dst, op->bytes);
        if (write) {
            x = rmw_new(&r, op->bytes, CPU(v)->rflags);
            set_reg(v, op->dst, op->bytes, x);
        }
    } else {
        uint64_t off = effective(v, op);

        if (!(op->prefix & OP_SRC_IMM))
            off += (uint64_t)(((int64_t)sign_extend(bit, op->bytes) >>
                               (3 + __builtin_ctz(op->bytes))) *
                              op->bytes);
        if (!addr_of(v, op, off, op->bytes, write ? ACC_WRITE : ACC_READ))
            return leave_here(v, op);
        lin = v->lin;
        if (!write && !load_n(v, op, lin, op->bytes, &r.old))
            return leave_here(v, op);
        if (write && !rmw_at(v, op, lin, op->bytes, op->prefix & OP_LOCK, &r))
            return leave_here(v, op);
    }
    if (r.old & r.src)
        CPU(v)->rflags |= RFLAGS_CF;
    else
        CPU(v)->rflags &= ~(uint64_t)RFLAGS_CF;
    NEXT(v, op);
}

static const struct op *bt(struct ivcpu *v, const struct op *op)
{
    return bit_test(v, op, RMW_ALU);
}

static const struct op *bts(struct ivcpu *v, const struct op *op)
{
    return bit_test(v, op, RMW_BTS);
}

static const struct op *btr(struct ivcpu *v, const struct op *op)
{
    return bit_test(v, op, RMW_BTR);
}

static const struct op *btc(struct ivcpu *v, const struct op *op)
{
    return bit_test(v, op, RMW_BTC);
}

/* A zero source leaves the destination as it was (undefined by Intel, so defined by AMD), but a
 * 32-bit one keeps all 64 bits. */
static const struct op *bit_scan(struct ivcpu *v, const struct op *op, bool forward)
{
    uint64_t x, r = 0;
    uint32_t fl;

    if (!get_src(v, op, &x))
        return leave_here(v, op);
    /* All flags but ZF are undefined; they are the host's, as in translated code. */
    if (forward)
        asm("bsf %[x], %[r]\n\tlahf\n\tseto %%al" : [r] "+r"(r), "=a"(fl) : [x] "r"(x) : "cc");
    else
        asm("bsr %[x], %[r]\n\tlahf\n\tseto %%al" : [r] "+r"(r), "=a"(fl) : [x] "r"(x) : "cc");
    CPU(v)->rflags = merge_flags(CPU(v)->rflags, fl);
    if (x)
        set_reg(v, op->dst, op->bytes, r);
    NEXT(v, op);
}

static const struct op *bsf(struct ivcpu *v, const struct op *op)
{
    return bit_scan(v, op, true);
}

static const struct op *bsr(struct ivcpu *v, const struct op *op)
{
    return bit_scan(v, op, false);
}

const op_fn op_xchg = xchg;
const op_fn op_xadd = xadd;
const op_fn op_cmpxchg = cmpxchg;
const op_fn op_cmpxchg8b = cmpxchg8b;
const op_fn op_bswap = bswap;
const op_fn op_movbe = movbe;
const op_fn op_bt = bt;
const op_fn op_bts = bts;
const op_fn op_btr = btr;
const op_fn op_btc = btc;
const op_fn op_bsf = bsf;
const op_fn op_bsr = bsr;
const op_fn op_lock_alu = lock_alu;
