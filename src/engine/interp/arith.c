/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Multiplication, division, exchanges, bit tests and the decimal instructions: what is common
 * enough for handlers of its own, but needs no variant per size.
 */
#include "engine/interp/handlers.h"

/* ---- multiplication and division ---- */

#define SET_CF_OF(rf, on) \
    ((on) ? (rf) | RFLAGS_CF | RFLAGS_OF : (rf) & ~(uint64_t)(RFLAGS_CF | RFLAGS_OF))

/* Signed product of two values of `bytes` bytes; SF, ZF, AF, PF are undefined and stay. */
static uint64_t imul_truncated(uint64_t *rf, uint64_t a, uint64_t b, unsigned bytes)
{
    __int128 p = (__int128)(int64_t)sign_extend(a, bytes) * (int64_t)sign_extend(b, bytes);
    uint64_t r = low_bytes((uint64_t)p, bytes);

    *rf = SET_CF_OF(*rf, (__int128)(int64_t)sign_extend(r, bytes) != p);
    return r;
}

/* The two sizes that matter, on registers: crypto and hashing are full of them. */
#define DEFINE_IMUL(bits, sfx)                                                    \
    static const struct op *imul##bits##_rr(struct ivcpu *v, const struct op *op) \
    {                                                                             \
        uint##bits##_t a = REG(v, bits, op->dst);                                 \
        bool over;                                                                \
                                                                                  \
        asm("imul" sfx " %[b], %[a]"                                              \
            : [a] "+r"(a), "=@cco"(over)                                          \
            : [b] "r"(REG(v, bits, op->src)));                                    \
        set_reg##bits(v, op->dst, a);                                             \
        CPU(v)->rflags = SET_CF_OF(CPU(v)->rflags, over);                         \
        NEXT(v, op);                                                              \
    }
DEFINE_IMUL(32, "l")
DEFINE_IMUL(64, "q")

static const struct op *imul2(struct ivcpu *v, const struct op *op)
{
    uint64_t b;

    if (!get_src(v, op, &b))
        return leave_here(v, op);
    set_reg(v, op->dst, op->bytes,
            imul_truncated(&CPU(v)->rflags, get_reg(v, op->dst, op->bytes), b, op->bytes));
    NEXT(v, op);
}

/* The source is a register or memory, imm the third operand. */
static const struct op *imul3(struct ivcpu *v, const struct op *op)
{
    uint64_t a;

    if (!get_src(v, op, &a))
        return leave_here(v, op);
    set_reg(v, op->dst, op->bytes, imul_truncated(&CPU(v)->rflags, a, op->imm, op->bytes));
    NEXT(v, op);
}

/* The double-width accumulator: AX, or DX:AX, EDX:EAX, RDX:RAX. */
static void set_wide(struct ivcpu *v, unsigned bytes, unsigned __int128 x)
{
    if (bytes == 1) {
        set_reg16(v, RAX * 8, (uint16_t)x);
        return;
    }
    set_reg(v, RAX * 8, bytes, low_bytes((uint64_t)x, bytes));
    set_reg(v, RDX * 8, bytes, low_bytes((uint64_t)(x >> (8 * bytes)), bytes));
}

static unsigned __int128 get_wide(const struct ivcpu *v, unsigned bytes)
{
    if (bytes == 1)
        return get_reg(v, RAX * 8, 2);
    return (unsigned __int128)get_reg(v, RDX * 8, bytes) << (8 * bytes) |
           get_reg(v, RAX * 8, bytes);
}

static const struct op *mul(struct ivcpu *v, const struct op *op)
{
    unsigned __int128 p;
    uint64_t b;

    if (!get_dst(v, op, ACC_READ, &b))
        return leave_here(v, op);
    p = (unsigned __int128)get_reg(v, RAX * 8, op->bytes) * b;
    set_wide(v, op->bytes, p);
    CPU(v)->rflags = SET_CF_OF(CPU(v)->rflags, (p >> (8 * op->bytes)) != 0);
    NEXT(v, op);
}

static const struct op *imul1(struct ivcpu *v, const struct op *op)
{
    __int128 p;
    uint64_t b;

    if (!get_dst(v, op, ACC_READ, &b))
        return leave_here(v, op);
    p = (__int128)(int64_t)sign_extend(get_reg(v, RAX * 8, op->bytes), op->bytes) *
        (int64_t)sign_extend(b, op->bytes);
    set_wide(v, op->bytes, (unsigned __int128)p);
    CPU(v)->rflags = SET_CF_OF(CPU(v)->rflags, (int64_t)sign_extend((uint64_t)p, op->bytes) != p);
    NEXT(v, op);
}

static void set_quotient(struct ivcpu *v, unsigned bytes, uint64_t quot, uint64_t rem)
{
    if (bytes == 1) {
        set_reg16(v, RAX * 8, (uint8_t)quot | (rem & 0xff) << 8);
        return;
    }
    set_reg(v, RAX * 8, bytes, quot);
    set_reg(v, RDX * 8, bytes, rem);
}

static const struct op *divide(struct ivcpu *v, const struct op *op)
{
    unsigned __int128 a = get_wide(v, op->bytes);
    uint64_t b;

    if (!get_dst(v, op, ACC_READ, &b))
        return leave_here(v, op);
    if (!b || (a >> (8 * op->bytes)) >= b) /* the quotient would not fit */
        return leave_raise(v, op, VEC_DE);
    if (op->bytes <= 4) {
        set_quotient(v, op->bytes, (uint64_t)a / b, (uint64_t)a % b);
    } else {
        uint64_t q, r;

        asm("divq %[b]"
            : "=a"(q), "=d"(r)
            : [b] "r"(b), "a"((uint64_t)a), "d"((uint64_t)(a >> 64))
            : "cc");
        set_quotient(v, 8, q, r);
    }
    NEXT(v, op);
}

static const struct op *idivide(struct ivcpu *v, const struct op *op)
{
    unsigned sh = 128 - 16 * op->bytes;
    __int128 a = (__int128)(get_wide(v, op->bytes) << sh) >> sh, q,
             lim = (__int128)1 << (8 * op->bytes - 1);
    uint64_t raw;
    int64_t b;

    if (!get_dst(v, op, ACC_READ, &raw))
        return leave_here(v, op);
    b = (int64_t)sign_extend(raw, op->bytes);
    /* The most negative dividend by -1 overflows __int128 too. */
    if (!b || (b == -1 && a <= -lim))
        return leave_raise(v, op, VEC_DE);
    q = a / b;
    if (q < -lim || q >= lim)
        return leave_raise(v, op, VEC_DE);
    set_quotient(v, op->bytes, low_bytes((uint64_t)q, op->bytes),
                 low_bytes((uint64_t)(a - q * b), op->bytes));
    NEXT(v, op);
}

/* CBW, CWDE, CDQE: bytes is the result's size. */
static const struct op *cbw(struct ivcpu *v, const struct op *op)
{
    set_reg(v, RAX * 8, op->bytes, sign_extend(get_reg(v, RAX * 8, op->bytes / 2), op->bytes / 2));
    NEXT(v, op);
}

static const struct op *cwd(struct ivcpu *v, const struct op *op)
{
    set_reg(v, RDX * 8, op->bytes,
            (uint64_t)((int64_t)sign_extend(get_reg(v, RAX * 8, op->bytes), op->bytes) >> 63));
    NEXT(v, op);
}

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
        /* Not plain memory, or an 8-byte one across pages. */
        for (unsigned i = 0; i < n / 8; i++) {
            if (!rmw_slow(v, op, lin + 8 * i, 8))
                return leave_here(v, op);
            old[i] = v->val;
        }
        equal = old[0] == exp[0] && old[1] == exp[1];
        for (unsigned i = 0; i < n / 8; i++)
            if (!store_slow(v, op, lin + 8 * i, 8, equal ? val[i] : old[i]))
                return leave_here(v, op);
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
    uint64_t x;

    if (!get_src(v, op, &x))
        return leave_here(v, op);
    if (!x) {
        CPU(v)->rflags |= RFLAGS_ZF;
        NEXT(v, op);
    }
    CPU(v)->rflags &= ~(uint64_t)RFLAGS_ZF;
    set_reg(v, op->dst, op->bytes,
            (uint64_t)(forward ? __builtin_ctzll(x) : 63 - __builtin_clzll(x)));
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

/* ---- flags ---- */

static const struct op *lahf(struct ivcpu *v, const struct op *op)
{
    set_reg8(v, RAX * 8 + 1, (CPU(v)->rflags & 0xd5) | RFLAGS_FIXED1);
    NEXT(v, op);
}

static const struct op *sahf(struct ivcpu *v, const struct op *op)
{
    CPU(v)->rflags = (CPU(v)->rflags & ~0xd5ull) | (REG(v, 8, RAX * 8 + 1) & 0xd5);
    NEXT(v, op);
}

/* CLC, STC, CMC: aux 0, 1, 2 */
static const struct op *flag_cf(struct ivcpu *v, const struct op *op)
{
    uint64_t rf = CPU(v)->rflags;

    CPU(v)->rflags = op->aux == 2 ? rf ^ RFLAGS_CF
                     : op->aux    ? rf | RFLAGS_CF
                                  : rf & ~(uint64_t)RFLAGS_CF;
    NEXT(v, op);
}

static const struct op *cld(struct ivcpu *v, const struct op *op)
{
    CPU(v)->rflags &= ~(uint64_t)RFLAGS_DF;
    NEXT(v, op);
}

static const struct op *set_df(struct ivcpu *v, const struct op *op)
{
    CPU(v)->rflags |= RFLAGS_DF;
    NEXT(v, op);
}

/* ---- the rest of the 8086 ---- */

static const struct op *salc(struct ivcpu *v, const struct op *op)
{
    set_reg8(v, RAX * 8, CPU(v)->rflags & RFLAGS_CF ? 0xff : 0);
    NEXT(v, op);
}

static const struct op *xlat(struct ivcpu *v, const struct op *op)
{
    unsigned n = op->prefix & OP_A16 ? 2 : op->prefix & OP_A32 ? 4 : 8;
    uint64_t x;

    if (!addr_of(v, op, low_bytes(CPU(v)->gpr[RBX] + REG(v, 8, RAX * 8), n), 1, ACC_READ) ||
        !load_n(v, op, v->lin, 1, &x))
        return leave_here(v, op);
    set_reg8(v, RAX * 8, x);
    NEXT(v, op);
}

static const struct op *bound(struct ivcpu *v, const struct op *op)
{
    int64_t at = (int64_t)sign_extend(get_reg(v, op->dst, op->bytes), op->bytes);
    uint64_t lin, lo, hi;

    if (!get_linear(v, op, op->bytes * 2, ACC_READ, &lin) || !load_n(v, op, lin, op->bytes, &lo) ||
        !load_n(v, op, lin + op->bytes, op->bytes, &hi))
        return leave_here(v, op);
    if (at < (int64_t)sign_extend(lo, op->bytes) || at > (int64_t)sign_extend(hi, op->bytes))
        return leave_raise(v, op, VEC_BR);
    NEXT(v, op);
}

static const struct op *arpl(struct ivcpu *v, const struct op *op)
{
    uint64_t d, s = get_reg(v, op->src, 2) & 3;

    if (!(CPU(v)->mode & MODE_PE) || (CPU(v)->mode & MODE_VM86))
        return leave_raise(v, op, VEC_UD);
    if (!get_dst(v, op, ACC_WRITE, &d))
        return leave_here(v, op);
    if ((d & 3) < s) {
        if (!put_dst(v, op, (d & ~3ull) | s))
            return leave_here(v, op);
        CPU(v)->rflags |= RFLAGS_ZF;
    } else {
        CPU(v)->rflags &= ~(uint64_t)RFLAGS_ZF;
    }
    NEXT(v, op);
}

/* Decimal adjustment (SDM 2, DAA, DAS, AAA, AAS, AAM, AAD). SF, ZF, PF from AL; OF stays. */
static void set_szp(struct cpu *c, uint8_t x, uint64_t cf_af)
{
    uint64_t szp = (x & RFLAGS_SF) | (x ? 0 : RFLAGS_ZF) | (__builtin_parity(x) ? 0 : RFLAGS_PF);

    c->rflags = (c->rflags & ~(uint64_t)(RFLAGS_ARITH & 0xff)) | szp | cf_af;
}

static const struct op *decimal_adjust(struct ivcpu *v, const struct op *op, bool subtract)
{
    struct cpu *c = CPU(v);
    uint8_t old = REG(v, 8, RAX * 8), al = old;
    uint64_t cf_af = 0;

    if ((old & 0xf) > 9 || (c->rflags & RFLAGS_AF)) {
        al = (uint8_t)(subtract ? al - 6 : al + 6);
        cf_af |= RFLAGS_AF;
        if (subtract && old < 6)
            cf_af |= RFLAGS_CF;
    }
    if (old > 0x99 || (c->rflags & RFLAGS_CF)) {
        al = (uint8_t)(subtract ? al - 0x60 : al + 0x60);
        cf_af |= RFLAGS_CF;
    }
    set_reg8(v, RAX * 8, al);
    set_szp(c, al, cf_af);
    NEXT(v, op);
}

static const struct op *daa(struct ivcpu *v, const struct op *op)
{
    return decimal_adjust(v, op, false);
}

static const struct op *das(struct ivcpu *v, const struct op *op)
{
    return decimal_adjust(v, op, true);
}

static const struct op *ascii_adjust(struct ivcpu *v, const struct op *op, bool subtract)
{
    struct cpu *c = CPU(v);
    uint16_t ax = REG(v, 16, RAX * 8);
    bool adjust = (ax & 0xf) > 9 || (c->rflags & RFLAGS_AF);

    if (adjust)
        ax = (uint16_t)(subtract ? ax - 0x106 : ax + 0x106);
    ax &= 0xff0f;
    set_reg16(v, RAX * 8, ax);
    set_szp(c, (uint8_t)ax, adjust ? RFLAGS_CF | RFLAGS_AF : 0);
    NEXT(v, op);
}

static const struct op *aaa(struct ivcpu *v, const struct op *op)
{
    return ascii_adjust(v, op, false);
}

static const struct op *aas(struct ivcpu *v, const struct op *op)
{
    return ascii_adjust(v, op, true);
}

static const struct op *aam(struct ivcpu *v, const struct op *op)
{
    uint8_t al = REG(v, 8, RAX * 8), base = (uint8_t)op->imm;

    if (!base)
        return leave_raise(v, op, VEC_DE);
    set_reg16(v, RAX * 8, (uint64_t)(al / base) << 8 | al % base);
    set_szp(CPU(v), al % base, 0);
    NEXT(v, op);
}

static const struct op *aad(struct ivcpu *v, const struct op *op)
{
    uint8_t r = (uint8_t)(REG(v, 8, RAX * 8) + REG(v, 8, RAX * 8 + 1) * (uint8_t)op->imm);

    set_reg16(v, RAX * 8, r);
    set_szp(CPU(v), r, 0);
    NEXT(v, op);
}

static const struct op *nop(struct ivcpu *v, const struct op *op)
{
    NEXT(v, op);
}

static const struct op *fence(struct ivcpu *v, const struct op *op)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    NEXT(v, op);
}

static const struct op *undefined(struct ivcpu *v, const struct op *op)
{
    return leave_raise(v, op, VEC_UD);
}

const op_fn op_imul32_rr = imul32_rr, op_imul64_rr = imul64_rr;
const op_fn op_imul2 = imul2, op_imul3 = imul3, op_mul = mul, op_imul1 = imul1, op_div = divide,
            op_idiv = idivide;
const op_fn op_cbw = cbw, op_cwd = cwd, op_xchg = xchg, op_xadd = xadd, op_cmpxchg = cmpxchg;
const op_fn op_cmpxchg8b = cmpxchg8b, op_bswap = bswap, op_movbe = movbe;
const op_fn op_bt = bt, op_bts = bts, op_btr = btr, op_btc = btc, op_bsf = bsf, op_bsr = bsr;
const op_fn op_lahf = lahf, op_sahf = sahf, op_flag_cf = flag_cf, op_cld = cld, op_std = set_df,
            op_salc = salc;
const op_fn op_xlat = xlat, op_bound = bound, op_arpl = arpl, op_daa = daa, op_das = das,
            op_aaa = aaa, op_aas = aas;
const op_fn op_aam = aam, op_aad = aad, op_nop = nop, op_fence = fence, op_ud = undefined,
            op_lock_alu = lock_alu;
