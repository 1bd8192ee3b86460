/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shifts and rotates, by the host's own: SAHF brings the guest's flags in, so that flags an
 * operation does not touch come out as they were. A masked count of 0 changes no flags (SDM 2,
 * SAL/SAR/SHL/SHR, RCL/RCR/ROL/ROR).
 */
#include "engine/interp/handlers.h"

/* OF is not covered by SAHF: where the operation leaves OF alone or undefined, it is taken from the
 * guest's flags unless written. */
#define DEFINE_SHIFT_VALUE(name, insn, bits, sfx)                                                  \
    static ALWAYS_INLINE uint##bits##_t do_##name##bits(uint64_t *rf, uint##bits##_t a, uint8_t n) \
    {                                                                                              \
        uint32_t fl = (uint32_t)(*rf & 0xff) << 8;                                                 \
                                                                                                   \
        if (!(n & (bits == 64 ? 63 : 31)))                                                         \
            return a;                                                                              \
        asm("sahf\n\t" insn sfx " %%cl, %[a]\n\tlahf\n\tseto %%al"                                 \
            : [a] "+q"(a), "+a"(fl)                                                                \
            : "c"(n)                                                                               \
            : "cc");                                                                               \
        *rf = merge_flags(*rf, fl);                                                                \
        return a;                                                                                  \
    }

#define DEFINE_SHIFT_FORMS(name, bits)                                                          \
    static ALWAYS_INLINE const struct op *name##bits##_rn(struct ivcpu *v, const struct op *op, \
                                                          uint8_t n)                            \
    {                                                                                           \
        set_reg##bits(v, op->dst, do_##name##bits(&CPU(v)->rflags, REG(v, bits, op->dst), n));  \
        NEXT(v, op);                                                                            \
    }                                                                                           \
    static ALWAYS_INLINE const struct op *name##bits##_mn(struct ivcpu *v, const struct op *op, \
                                                          uint8_t n)                            \
    {                                                                                           \
        uint64_t lin, rf = CPU(v)->rflags;                                                      \
        uint##bits##_t a;                                                                       \
                                                                                                \
        ADDRESS(v, op, lin, bits / 8, ACC_WRITE);                                               \
        LOAD_RMW(v, op, bits, lin, a);                                                          \
        a = do_##name##bits(&rf, a, n);                                                         \
        STORE(v, op, bits, lin, a);                                                             \
        CPU(v)->rflags = rf;                                                                    \
        NEXT(v, op);                                                                            \
    }                                                                                           \
    static const struct op *name##bits##_ri(struct ivcpu *v, const struct op *op)               \
    {                                                                                           \
        return name##bits##_rn(v, op, (uint8_t)op->imm);                                        \
    }                                                                                           \
    static const struct op *name##bits##_rc(struct ivcpu *v, const struct op *op)               \
    {                                                                                           \
        return name##bits##_rn(v, op, REG(v, 8, RCX * 8));                                      \
    }                                                                                           \
    static const struct op *name##bits##_mi(struct ivcpu *v, const struct op *op)               \
    {                                                                                           \
        return name##bits##_mn(v, op, (uint8_t)op->imm);                                        \
    }                                                                                           \
    static const struct op *name##bits##_mc(struct ivcpu *v, const struct op *op)               \
    {                                                                                           \
        return name##bits##_mn(v, op, REG(v, 8, RCX * 8));                                      \
    }

#define DEFINE_SHIFT(name, insn)            \
    DEFINE_SHIFT_VALUE(name, insn, 8, "b")  \
    DEFINE_SHIFT_VALUE(name, insn, 16, "w") \
    DEFINE_SHIFT_VALUE(name, insn, 32, "l") \
    DEFINE_SHIFT_VALUE(name, insn, 64, "q") \
    DEFINE_SHIFT_FORMS(name, 8)             \
    DEFINE_SHIFT_FORMS(name, 16)            \
    DEFINE_SHIFT_FORMS(name, 32)            \
    DEFINE_SHIFT_FORMS(name, 64)

DEFINE_SHIFT(rol, "rol")
DEFINE_SHIFT(ror, "ror")
DEFINE_SHIFT(rcl, "rcl")
DEFINE_SHIFT(rcr, "rcr")
DEFINE_SHIFT(shl, "shl")
DEFINE_SHIFT(shr, "shr")
DEFINE_SHIFT(sar, "sar")

#define SHIFT_SIZE(name, bits)                \
    {                                         \
        { name##bits##_ri, name##bits##_rc }, \
        {                                     \
            name##bits##_mi, name##bits##_mc  \
        }                                     \
    }
#define SHIFT_ROW(name)                                                                       \
    {                                                                                         \
        SHIFT_SIZE(name, 8), SHIFT_SIZE(name, 16), SHIFT_SIZE(name, 32), SHIFT_SIZE(name, 64) \
    }
static const op_fn shifts[NR_SHIFTS][4][2][2] = {
    [SHIFT_ROL] = SHIFT_ROW(rol), [SHIFT_ROR] = SHIFT_ROW(ror), [SHIFT_RCL] = SHIFT_ROW(rcl),
    [SHIFT_RCR] = SHIFT_ROW(rcr), [SHIFT_SHL] = SHIFT_ROW(shl), [SHIFT_SHR] = SHIFT_ROW(shr),
    [SHIFT_SAR] = SHIFT_ROW(sar),
};

op_fn shift_handler(enum shift_op what, bool mem, bool by_cl, unsigned bytes)
{
    return shifts[what][__builtin_ctz(bytes)][mem][by_cl];
}

/* ---- double shifts ---- */

#define DOUBLE_SHIFT(insn, sfx, bits)                                    \
    do {                                                                 \
        uint##bits##_t x_ = (uint##bits##_t)a, y_ = (uint##bits##_t)b;   \
                                                                         \
        asm("sahf\n\t" insn sfx " %%cl, %[y], %[x]\n\tlahf\n\tseto %%al" \
            : [x] "+r"(x_), "+a"(fl)                                     \
            : [y] "r"(y_), "c"(n)                                        \
            : "cc");                                                     \
        a = x_;                                                          \
    } while (0)

static ALWAYS_INLINE const struct op *double_shift(struct ivcpu *v, const struct op *op, bool left)
{
    uint8_t n = op->prefix & OP_SRC_IMM ? (uint8_t)op->imm : REG(v, 8, RCX * 8);
    uint64_t a, b = get_reg(v, op->src, op->bytes);
    uint32_t fl = (uint32_t)(CPU(v)->rflags & 0xff) << 8;

    if (!get_dst(v, op, ACC_WRITE, &a))
        return leave_here(v, op);
    n &= op->bytes == 8 ? 63 : 31;
    if (n) {
        if (op->bytes == 8 && left)
            DOUBLE_SHIFT("shld", "q", 64);
        else if (op->bytes == 8)
            DOUBLE_SHIFT("shrd", "q", 64);
        else if (op->bytes == 4 && left)
            DOUBLE_SHIFT("shld", "l", 32);
        else if (op->bytes == 4)
            DOUBLE_SHIFT("shrd", "l", 32);
        else if (left)
            DOUBLE_SHIFT("shld", "w", 16);
        else
            DOUBLE_SHIFT("shrd", "w", 16);
    }
    if (!put_dst(v, op, a))
        return leave_here(v, op);
    if (n)
        CPU(v)->rflags = merge_flags(CPU(v)->rflags, fl);
    NEXT(v, op);
}

static const struct op *shld(struct ivcpu *v, const struct op *op)
{
    return double_shift(v, op, true);
}

static const struct op *shrd(struct ivcpu *v, const struct op *op)
{
    return double_shift(v, op, false);
}

const op_fn shld_handlers[2] = { shld, shrd };
