/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Integer arithmetic and logic: the handlers that most instructions of most programs end in.
 *
 * One handler per operation, operand form and size, in two variants: with flags (taken from the
 * host's own ALU, so that what the manual leaves undefined is what this host does) and without, for
 * ops whose flags nobody looks at.
 */
#include "engine/interp/handlers.h"

/* result and flags of `insn b, a` */
#define DEFINE_ALU_VALUE(name, insn, bits, sfx, carry_in)                                \
    static ALWAYS_INLINE uint##bits##_t val_##name##bits(uint64_t *rf, uint##bits##_t a, \
                                                         uint##bits##_t b)               \
    {                                                                                    \
        uint32_t fl;                                                                     \
                                                                                         \
        asm(carry_in insn sfx " %[b], %[a]\n\tlahf\n\tseto %%al"                         \
            : [a] "+q"(a), "=&a"(fl)                                                     \
            : [b] "q"(b), [rf] "r"((uint32_t)*rf)                                        \
            : "cc");                                                                     \
        *rf = merge_flags(*rf, fl);                                                      \
        return a;                                                                        \
    }

#define CARRY_IN "btl $0, %[rf]\n\t"
#define DEFINE_ALU_VALUES(name, insn, carry_in)     \
    DEFINE_ALU_VALUE(name, insn, 8, "b", carry_in)  \
    DEFINE_ALU_VALUE(name, insn, 16, "w", carry_in) \
    DEFINE_ALU_VALUE(name, insn, 32, "l", carry_in) \
    DEFINE_ALU_VALUE(name, insn, 64, "q", carry_in)

DEFINE_ALU_VALUES(add, "add", "")
DEFINE_ALU_VALUES(or, "or", "")
DEFINE_ALU_VALUES(adc, "adc", CARRY_IN)
DEFINE_ALU_VALUES(sbb, "sbb", CARRY_IN)
DEFINE_ALU_VALUES(and, "and", "")
DEFINE_ALU_VALUES(sub, "sub", "")
DEFINE_ALU_VALUES(xor, "xor", "")
DEFINE_ALU_VALUES(cmp, "cmp", "")
DEFINE_ALU_VALUES(test, "test", "")

/* The same without flags. CMP and TEST without flags do nothing but their memory access. */
#define DEFINE_ALU_PLAIN(name, bits, expr)                                                 \
    static ALWAYS_INLINE uint##bits##_t plain_##name##bits(uint64_t *rf, uint##bits##_t a, \
                                                           uint##bits##_t b)               \
    {                                                                                      \
        (void)rf;                                                                          \
        (void)b;                                                                           \
        return (uint##bits##_t)(expr);                                                     \
    }
#define DEFINE_ALU_PLAINS(name, expr) \
    DEFINE_ALU_PLAIN(name, 8, expr)   \
    DEFINE_ALU_PLAIN(name, 16, expr)  \
    DEFINE_ALU_PLAIN(name, 32, expr)  \
    DEFINE_ALU_PLAIN(name, 64, expr)

DEFINE_ALU_PLAINS(add, a + b)
DEFINE_ALU_PLAINS(or, a | b)
DEFINE_ALU_PLAINS(adc, a + b + (*rf & RFLAGS_CF))
DEFINE_ALU_PLAINS(sbb, a - b - (*rf & RFLAGS_CF))
DEFINE_ALU_PLAINS(and, a &b)
DEFINE_ALU_PLAINS(sub, a - b)
DEFINE_ALU_PLAINS(xor, a ^ b)
DEFINE_ALU_PLAINS(cmp, a)
DEFINE_ALU_PLAINS(test, a)

/* keep: the result is written (not CMP, TEST) */
#define DEFINE_ALU_FORMS(pre, name, bits, keep)                                                  \
    static const struct op *pre##_##name##bits##_rr(struct ivcpu *v, const struct op *op)        \
    {                                                                                            \
        uint##bits##_t r =                                                                       \
            pre##_##name##bits(&CPU(v)->rflags, REG(v, bits, op->dst), REG(v, bits, op->src));   \
        if (keep)                                                                                \
            set_reg##bits(v, op->dst, r);                                                        \
        NEXT(v, op);                                                                             \
    }                                                                                            \
    static const struct op *pre##_##name##bits##_ri(struct ivcpu *v, const struct op *op)        \
    {                                                                                            \
        uint##bits##_t r =                                                                       \
            pre##_##name##bits(&CPU(v)->rflags, REG(v, bits, op->dst), (uint##bits##_t)op->imm); \
        if (keep)                                                                                \
            set_reg##bits(v, op->dst, r);                                                        \
        NEXT(v, op);                                                                             \
    }                                                                                            \
    static const struct op *pre##_##name##bits##_rm(struct ivcpu *v, const struct op *op)        \
    {                                                                                            \
        uint##bits##_t r, b;                                                                     \
        uint64_t lin;                                                                            \
                                                                                                 \
        ADDRESS(v, op, lin, bits / 8, ACC_READ);                                                 \
        LOAD(v, op, bits, lin, b);                                                               \
        r = pre##_##name##bits(&CPU(v)->rflags, REG(v, bits, op->dst), b);                       \
        if (keep)                                                                                \
            set_reg##bits(v, op->dst, r);                                                        \
        NEXT(v, op);                                                                             \
    }                                                                                            \
    static ALWAYS_INLINE const struct op *pre##_##name##bits##_m(                                \
        struct ivcpu *v, const struct op *op, uint##bits##_t b)                                  \
    {                                                                                            \
        uint64_t lin, rf = CPU(v)->rflags;                                                       \
        uint##bits##_t a, r;                                                                     \
                                                                                                 \
        ADDRESS(v, op, lin, bits / 8, keep ? ACC_WRITE : ACC_READ);                              \
        if (keep)                                                                                \
            LOAD_RMW(v, op, bits, lin, a);                                                       \
        else                                                                                     \
            LOAD(v, op, bits, lin, a);                                                           \
        r = pre##_##name##bits(&rf, a, b);                                                       \
        if (keep)                                                                                \
            STORE(v, op, bits, lin, r);                                                          \
        CPU(v)->rflags = rf;                                                                     \
        NEXT(v, op);                                                                             \
    }                                                                                            \
    static const struct op *pre##_##name##bits##_mr(struct ivcpu *v, const struct op *op)        \
    {                                                                                            \
        return pre##_##name##bits##_m(v, op, REG(v, bits, op->src));                             \
    }                                                                                            \
    static const struct op *pre##_##name##bits##_mi(struct ivcpu *v, const struct op *op)        \
    {                                                                                            \
        return pre##_##name##bits##_m(v, op, (uint##bits##_t)op->imm);                           \
    }

#define DEFINE_ALU_SIZES(pre, name, keep) \
    DEFINE_ALU_FORMS(pre, name, 8, keep)  \
    DEFINE_ALU_FORMS(pre, name, 16, keep) \
    DEFINE_ALU_FORMS(pre, name, 32, keep) \
    DEFINE_ALU_FORMS(pre, name, 64, keep)
#define DEFINE_ALU(name, keep) DEFINE_ALU_SIZES(val, name, keep) DEFINE_ALU_SIZES(plain, name, keep)

DEFINE_ALU(add, true)
DEFINE_ALU(or, true)
DEFINE_ALU(adc, true)
DEFINE_ALU(sbb, true)
DEFINE_ALU(and, true)
DEFINE_ALU(sub, true)
DEFINE_ALU(xor, true)
DEFINE_ALU(cmp, false)
DEFINE_ALU(test, false)

#define ROW_SIZE(pre, name, bits)                                                 \
    {                                                                             \
        [FORM_RR] = pre##_##name##bits##_rr, [FORM_RI] = pre##_##name##bits##_ri, \
        [FORM_RM] = pre##_##name##bits##_rm, [FORM_MR] = pre##_##name##bits##_mr, \
        [FORM_MI] = pre##_##name##bits##_mi                                       \
    }
#define ROW(name, keep)                                                                     \
    {                                                                                       \
        { ROW_SIZE(val, name, 8), ROW_SIZE(val, name, 16), ROW_SIZE(val, name, 32),         \
          ROW_SIZE(val, name, 64) },                                                        \
        {                                                                                   \
            ROW_SIZE(plain, name, 8), ROW_SIZE(plain, name, 16), ROW_SIZE(plain, name, 32), \
                ROW_SIZE(plain, name, 64)                                                   \
        }                                                                                   \
    }

static const op_fn alu[NR_ALU][2][4][NR_FORMS] = {
    [ALU_ADD] = ROW(add, true), [ALU_OR] = ROW(or, true),    [ALU_ADC] = ROW(adc, true),
    [ALU_SBB] = ROW(sbb, true), [ALU_AND] = ROW(and, true),  [ALU_SUB] = ROW(sub, true),
    [ALU_XOR] = ROW(xor, true), [ALU_CMP] = ROW(cmp, false), [ALU_TEST] = ROW(test, false),
};

op_fn alu_handler(enum alu_op what, enum form form, unsigned bytes)
{
    return alu[what][0][__builtin_ctz(bytes)][form];
}

/* ---- one operand: INC, DEC (CF stays), NEG, NOT (no flags) ---- */

#define DEFINE_UNARY_VALUE(name, insn, bits, sfx, keep_mask)                             \
    static ALWAYS_INLINE uint##bits##_t val_##name##bits(uint64_t *rf, uint##bits##_t a) \
    {                                                                                    \
        uint64_t old = *rf;                                                              \
        uint32_t fl;                                                                     \
                                                                                         \
        asm(insn sfx " %[a]\n\tlahf\n\tseto %%al" : [a] "+q"(a), "=&a"(fl) : : "cc");    \
        *rf = (merge_flags(old, fl) & ~(uint64_t)(keep_mask)) | (old & (keep_mask));     \
        return a;                                                                        \
    }
#define DEFINE_UNARY_PLAIN(name, bits, expr)                                               \
    static ALWAYS_INLINE uint##bits##_t plain_##name##bits(uint64_t *rf, uint##bits##_t a) \
    {                                                                                      \
        (void)rf;                                                                          \
        return (uint##bits##_t)(expr);                                                     \
    }
#define DEFINE_UNARY_FORMS(pre, name, bits)                                                    \
    static const struct op *pre##_##name##bits##_r(struct ivcpu *v, const struct op *op)       \
    {                                                                                          \
        set_reg##bits(v, op->dst, pre##_##name##bits(&CPU(v)->rflags, REG(v, bits, op->dst))); \
        NEXT(v, op);                                                                           \
    }                                                                                          \
    static const struct op *pre##_##name##bits##_m(struct ivcpu *v, const struct op *op)       \
    {                                                                                          \
        uint64_t lin, rf = CPU(v)->rflags;                                                     \
        uint##bits##_t a;                                                                      \
                                                                                               \
        ADDRESS(v, op, lin, bits / 8, ACC_WRITE);                                              \
        LOAD_RMW(v, op, bits, lin, a);                                                         \
        a = pre##_##name##bits(&rf, a);                                                        \
        STORE(v, op, bits, lin, a);                                                            \
        CPU(v)->rflags = rf;                                                                   \
        NEXT(v, op);                                                                           \
    }
#define DEFINE_UNARY(name, insn, expr, keep_mask)      \
    DEFINE_UNARY_VALUE(name, insn, 8, "b", keep_mask)  \
    DEFINE_UNARY_VALUE(name, insn, 16, "w", keep_mask) \
    DEFINE_UNARY_VALUE(name, insn, 32, "l", keep_mask) \
    DEFINE_UNARY_VALUE(name, insn, 64, "q", keep_mask) \
    DEFINE_UNARY_PLAIN(name, 8, expr)                  \
    DEFINE_UNARY_PLAIN(name, 16, expr)                 \
    DEFINE_UNARY_PLAIN(name, 32, expr)                 \
    DEFINE_UNARY_PLAIN(name, 64, expr)                 \
    DEFINE_UNARY_FORMS(val, name, 8)                   \
    DEFINE_UNARY_FORMS(val, name, 16)                  \
    DEFINE_UNARY_FORMS(val, name, 32)                  \
    DEFINE_UNARY_FORMS(val, name, 64)                  \
    DEFINE_UNARY_FORMS(plain, name, 8)                 \
    DEFINE_UNARY_FORMS(plain, name, 16)                \
    DEFINE_UNARY_FORMS(plain, name, 32)                \
    DEFINE_UNARY_FORMS(plain, name, 64)

DEFINE_UNARY(inc, "inc", a + 1, RFLAGS_CF)
DEFINE_UNARY(dec, "dec", a - 1, RFLAGS_CF)
DEFINE_UNARY(neg, "neg", -a, 0)
DEFINE_UNARY(not, "not", ~a, RFLAGS_ARITH)

#define UNARY_SIZE(pre, name, bits)                    \
    {                                                  \
        pre##_##name##bits##_r, pre##_##name##bits##_m \
    }
#define UNARY_ROW(name)                                                                           \
    {                                                                                             \
        { UNARY_SIZE(val, name, 8), UNARY_SIZE(val, name, 16), UNARY_SIZE(val, name, 32),         \
          UNARY_SIZE(val, name, 64) },                                                            \
        {                                                                                         \
            UNARY_SIZE(plain, name, 8), UNARY_SIZE(plain, name, 16), UNARY_SIZE(plain, name, 32), \
                UNARY_SIZE(plain, name, 64)                                                       \
        }                                                                                         \
    }
static const op_fn unary[NR_UNARY][2][4][2] = {
    [UNARY_INC] = UNARY_ROW(inc),
    [UNARY_DEC] = UNARY_ROW(dec),
    [UNARY_NEG] = UNARY_ROW(neg),
    [UNARY_NOT] = UNARY_ROW(not ),
};

op_fn unary_handler(enum unary_op what, bool mem, unsigned bytes)
{
    return unary[what][what == UNARY_NOT][__builtin_ctz(bytes)][mem];
}

/* Both tables have the plain variant beside the full one at a fixed distance. */
static op_fn plain_in(const op_fn *table, size_t nr_rows, size_t per_variant, op_fn fn)
{
    for (size_t i = 0; i < nr_rows * 2 * per_variant; i++)
        if (table[i] == fn)
            /* NOLINTNEXTLINE(clang-analyzer-core.uninitialized.UndefReturn): the tables are full */
            return (i / per_variant) % 2 ? fn : table[i + per_variant];
    return NULL;
}

op_fn alu_plain(op_fn fn)
{
    op_fn p = plain_in(&alu[0][0][0][0], NR_ALU, sizeof(alu[0][0]) / sizeof(op_fn), fn);

    return p ? p : plain_in(&unary[0][0][0][0], NR_UNARY, sizeof(unary[0][0]) / sizeof(op_fn), fn);
}
