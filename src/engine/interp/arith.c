/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Multiplication, division, flag and decimal instructions: what is common enough for handlers of
 * its own, but needs no variant per size.
 */
#include "engine/interp/handlers.h"

/* ---- multiplication and division: on the host, the flags that are undefined included ---- */

#define DEFINE_IMUL(bits, sfx)                                                     \
    static ALWAYS_INLINE uint64_t imul##bits(uint64_t *rf, uint64_t a, uint64_t b) \
    {                                                                              \
        uint##bits##_t r = (uint##bits##_t)a;                                      \
        uint32_t fl = split_flags(*rf);                                            \
                                                                                   \
        asm(FLAGS_IN "imul" sfx " %[b], %[r]" FLAGS_OUT                            \
            : [r] "+r"(r), "+a"(fl)                                                \
            : [b] "r"((uint##bits##_t)b)                                           \
            : "cc");                                                               \
        *rf = merge_flags(*rf, fl);                                                \
        return r;                                                                  \
    }

#define DEFINE_IMUL_RR(bits)                                                                      \
    static const struct op *imul##bits##_rr(struct ivcpu *v, const struct op *op)                 \
    {                                                                                             \
        set_reg##bits(v, op->dst,                                                                 \
                      imul##bits(&CPU(v)->rflags, REG(v, bits, op->dst), REG(v, bits, op->src))); \
        NEXT(v, op);                                                                              \
    }
DEFINE_IMUL(16, "w")
DEFINE_IMUL(32, "l")
DEFINE_IMUL(64, "q")
/* The two sizes that matter, on registers: crypto and hashing are full of them. */
DEFINE_IMUL_RR(32)
DEFINE_IMUL_RR(64)

/* Signed product of two values of `bytes` (2, 4, 8) bytes. */
static uint64_t imul_truncated(uint64_t *rf, uint64_t a, uint64_t b, unsigned bytes)
{
    switch (bytes) {
    case 2:
        return imul16(rf, a, b);
    case 4:
        return imul32(rf, a, b);
    default:
        return imul64(rf, a, b);
    }
}

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
static unsigned __int128 get_wide(const struct ivcpu *v, unsigned bytes)
{
    if (bytes == 1)
        return get_reg(v, RAX * 8, 2);
    return (unsigned __int128)get_reg(v, RDX * 8, bytes) << (8 * bytes) |
           get_reg(v, RAX * 8, bytes);
}

/* The accumulator times b. */
#define HOST_MULTIPLY(insn, f, hi, lo, b)                                         \
    asm(FLAGS_IN "mov %[a], %%rax\n\t" insn " %[by]\n\tmov %%rax, %[r]" FLAGS_OUT \
        : [r] "=&r"(lo), "=&d"(hi), "+&a"(f)                                      \
        : [a] "r"(lo), [by] "r"(b)                                                \
        : "cc")

static void host_multiply(struct ivcpu *v, const struct op *op, bool sign, uint64_t b)
{
    uint64_t lo = CPU(v)->gpr[RAX], hi;
    uint32_t fl = split_flags(CPU(v)->rflags);

    switch (op->bytes) {
    case 1:
        if (sign)
            HOST_MULTIPLY("imulb", fl, hi, lo, (uint8_t)b);
        else
            HOST_MULTIPLY("mulb", fl, hi, lo, (uint8_t)b);
        break;
    case 2:
        if (sign)
            HOST_MULTIPLY("imulw", fl, hi, lo, (uint16_t)b);
        else
            HOST_MULTIPLY("mulw", fl, hi, lo, (uint16_t)b);
        break;
    case 4:
        if (sign)
            HOST_MULTIPLY("imull", fl, hi, lo, (uint32_t)b);
        else
            HOST_MULTIPLY("mull", fl, hi, lo, (uint32_t)b);
        break;
    default:
        if (sign)
            HOST_MULTIPLY("imulq", fl, hi, lo, b);
        else
            HOST_MULTIPLY("mulq", fl, hi, lo, b);
        break;
    }
    CPU(v)->rflags = merge_flags(CPU(v)->rflags, fl);
    set_reg(v, RAX * 8, MAX(op->bytes, 2), lo);
    if (op->bytes > 1)
        set_reg(v, RDX * 8, op->bytes, hi);
}

static const struct op *mul(struct ivcpu *v, const struct op *op)
{
    uint64_t b;

    if (!get_dst(v, op, ACC_READ, &b))
        return leave_here(v, op);
    host_multiply(v, op, false, b);
    NEXT(v, op);
}

static const struct op *imul1(struct ivcpu *v, const struct op *op)
{
    uint64_t b;

    if (!get_dst(v, op, ACC_READ, &b))
        return leave_here(v, op);
    host_multiply(v, op, true, b);
    NEXT(v, op);
}

/*
 * Divides on the host: hi:lo (of `bytes` each) by b; the caller knows that the quotient fits. The
 * flags are undefined, and so they become what the host makes of them, as in translated code.
 */
#define HOST_DIVIDE(insn, f, hi, lo, b)                                                          \
    asm volatile("lea -128(%%rsp), %%rsp\n\tpush %[fl]\n\tpopfq\n\t" insn " %[by]\n\tpushfq\n\t" \
                 "pop %[fl]\n\tlea 128(%%rsp), %%rsp"                                            \
                 : "+a"(lo), "+d"(hi), [fl] "+r"(f)                                              \
                 : [by] "r"(b)                                                                   \
                 : "cc", "memory")

static void host_divide(struct ivcpu *v, const struct op *op, bool sign, uint64_t b)
{
    uint64_t *flags = &CPU(v)->rflags, f = RFLAGS_IF | 2 | (*flags & RFLAGS_ARITH);
    uint64_t lo = get_reg(v, RAX * 8, MAX(op->bytes, 2)), hi = get_reg(v, RDX * 8, op->bytes);

    switch (op->bytes) {
    case 1:
        if (sign)
            HOST_DIVIDE("idivb", f, hi, lo, (uint8_t)b);
        else
            HOST_DIVIDE("divb", f, hi, lo, (uint8_t)b);
        break;
    case 2:
        if (sign)
            HOST_DIVIDE("idivw", f, hi, lo, (uint16_t)b);
        else
            HOST_DIVIDE("divw", f, hi, lo, (uint16_t)b);
        break;
    case 4:
        if (sign)
            HOST_DIVIDE("idivl", f, hi, lo, (uint32_t)b);
        else
            HOST_DIVIDE("divl", f, hi, lo, (uint32_t)b);
        break;
    default:
        if (sign)
            HOST_DIVIDE("idivq", f, hi, lo, b);
        else
            HOST_DIVIDE("divq", f, hi, lo, b);
        break;
    }
    *flags = (*flags & ~(uint64_t)RFLAGS_ARITH) | (f & RFLAGS_ARITH);
    set_reg(v, RAX * 8, MAX(op->bytes, 2), lo);
    if (op->bytes > 1)
        set_reg(v, RDX * 8, op->bytes, hi);
}

static const struct op *divide(struct ivcpu *v, const struct op *op)
{
    unsigned __int128 a = get_wide(v, op->bytes);
    uint64_t b;

    if (!get_dst(v, op, ACC_READ, &b))
        return leave_here(v, op);
    if (!b || (a >> (8 * op->bytes)) >= b) /* the quotient would not fit */
        return leave_raise(v, op, VEC_DE);
    host_divide(v, op, false, b);
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
    host_divide(v, op, true, (uint64_t)b);
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
    bool negative = get_reg(v, RAX * 8, op->bytes) >> (8 * op->bytes - 1);

    set_reg(v, RDX * 8, op->bytes, negative ? ~0ull : 0);
    NEXT(v, op);
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

    /* Two accesses: the segment's limit is looked at for each. The second one is not made by
     * Intel's processors if the first tells (seen on Sapphire Rapids). */
    if (!get_linear(v, op, op->bytes, ACC_READ, &lin) || !load_n(v, op, lin, op->bytes, &lo))
        return leave_here(v, op);
    if (at < (int64_t)sign_extend(lo, op->bytes) && CPU(v)->model->vendor == VENDOR_INTEL)
        return leave_raise(v, op, VEC_BR);
    if (!addr_of(v, op, effective(v, op) + op->bytes, op->bytes, ACC_READ) ||
        !load_n(v, op, v->lin, op->bytes, &hi))
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
    if (!get_dst(v, op, ACC_READ, &d))
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

/* Decimal adjustment (SDM 2, DAA, DAS, AAA, AAS, AAM, AAD). SF, ZF, PF from AL; OF is undefined:
 * Intel's processors clear it (seen on Sapphire Rapids), AMD's leave it. */
static void set_szp(struct cpu *c, uint8_t x, uint64_t others)
{
    uint64_t szp = (x & RFLAGS_SF) | (x ? 0 : RFLAGS_ZF) | (__builtin_parity(x) ? 0 : RFLAGS_PF);
    uint64_t set = c->model->vendor == VENDOR_INTEL ? RFLAGS_ARITH : RFLAGS_ARITH & ~RFLAGS_OF;

    c->rflags = (c->rflags & ~set) | szp | others;
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
    uint8_t al = REG(v, 8, RAX * 8), tens = (uint8_t)(REG(v, 8, RAX * 8 + 1) * op->imm), r;
    uint64_t others = 0;

    r = (uint8_t)(al + tens);
    /* Undefined, but on Intel's processors those of the addition (seen on Sapphire Rapids). */
    if (CPU(v)->model->vendor == VENDOR_INTEL)
        others = (r < al ? RFLAGS_CF : 0) | ((al ^ tens ^ r) & RFLAGS_AF) |
                 ((al ^ r) & (tens ^ r) & 0x80 ? RFLAGS_OF : 0);
    set_reg16(v, RAX * 8, r);
    set_szp(CPU(v), r, others);
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

const op_fn op_imul32_rr = imul32_rr;
const op_fn op_imul64_rr = imul64_rr;
const op_fn op_imul2 = imul2;
const op_fn op_imul3 = imul3;
const op_fn op_mul = mul;
const op_fn op_imul1 = imul1;
const op_fn op_div = divide;
const op_fn op_idiv = idivide;
const op_fn op_cbw = cbw;
const op_fn op_cwd = cwd;
const op_fn op_lahf = lahf;
const op_fn op_sahf = sahf;
const op_fn op_flag_cf = flag_cf;
const op_fn op_cld = cld;
const op_fn op_std = set_df;
const op_fn op_salc = salc;
const op_fn op_xlat = xlat;
const op_fn op_bound = bound;
const op_fn op_arpl = arpl;
const op_fn op_daa = daa;
const op_fn op_das = das;
const op_fn op_aaa = aaa;
const op_fn op_aas = aas;
const op_fn op_aam = aam;
const op_fn op_aad = aad;
const op_fn op_nop = nop;
const op_fn op_fence = fence;
const op_fn op_ud = undefined;
