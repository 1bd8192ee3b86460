/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shifts and rotates, by the host's own with the guest's flags in, so that flags an operation does
 * not touch come out as they were. A masked count of 0 changes no flags (SDM 2, SAL/SAR/SHL/SHR,
 * RCL/RCR/ROL/ROR).
 */
#include "engine/interp/handlers.h"

#define DEFINE_SHIFT_VALUE(name, insn, bits, sfx)                                                  \
    static ALWAYS_INLINE uint##bits##_t do_##name##bits(uint64_t *rf, uint##bits##_t a, uint8_t n) \
    {                                                                                              \
        uint32_t fl = split_flags(*rf);                                                            \
                                                                                                   \
        if (!(n & (bits == 64 ? 63 : 31)))                                                         \
            return a;                                                                              \
        asm(FLAGS_IN insn sfx " %%cl, %[a]" FLAGS_OUT : [a] "+q"(a), "+a"(fl) : "c"(n) : "cc");    \
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

/* The same, but OF stays. */
#define DEFINE_KEEPING_OF_VALUE(name, plain, bits)                                                 \
    static ALWAYS_INLINE uint##bits##_t do_##name##bits(uint64_t *rf, uint##bits##_t a, uint8_t n) \
    {                                                                                              \
        uint64_t of = *rf & RFLAGS_OF;                                                             \
                                                                                                   \
        a = do_##plain##bits(rf, a, n);                                                            \
        *rf = (*rf & ~(uint64_t)RFLAGS_OF) | of;                                                   \
        return a;                                                                                  \
    }

#define DEFINE_KEEPING_OF(name, plain)       \
    DEFINE_KEEPING_OF_VALUE(name, plain, 8)  \
    DEFINE_KEEPING_OF_VALUE(name, plain, 16) \
    DEFINE_KEEPING_OF_VALUE(name, plain, 32) \
    DEFINE_KEEPING_OF_VALUE(name, plain, 64) \
    DEFINE_SHIFT_FORMS(name, 8)              \
    DEFINE_SHIFT_FORMS(name, 16)             \
    DEFINE_SHIFT_FORMS(name, 32)             \
    DEFINE_SHIFT_FORMS(name, 64)

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
DEFINE_KEEPING_OF(rol_of, rol)
DEFINE_KEEPING_OF(ror_of, ror)
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
    [SHIFT_ROL] = SHIFT_ROW(rol),       [SHIFT_ROR] = SHIFT_ROW(ror),
    [SHIFT_RCL] = SHIFT_ROW(rcl),       [SHIFT_RCR] = SHIFT_ROW(rcr),
    [SHIFT_SHL] = SHIFT_ROW(shl),       [SHIFT_SHR] = SHIFT_ROW(shr),
    [SHIFT_SAR] = SHIFT_ROW(sar),       [SHIFT_ROL_OF] = SHIFT_ROW(rol_of),
    [SHIFT_ROR_OF] = SHIFT_ROW(ror_of),
};

/* Of a zero OF cannot be anything but 0 if it is computed. */
static bool rotate_keeps_of(void)
{
    uint8_t of_in = 1, x = 0;
    bool of;

    asm("addb $0x7f, %[of_in]\n\trolb $2, %[x]"
        : [of_in] "+q"(of_in), [x] "+q"(x), "=@cco"(of)
        :
        : "cc");
    return of;
}

op_fn shift_handler(enum shift_op what, bool mem, bool by_cl, unsigned bytes)
{
    return shifts[what][__builtin_ctz(bytes)][mem][by_cl];
}

/* OF is undefined but for counts of 1, and need not be the same for a count in CL and an immediate
 * one: Intel's processors leave OF alone in the second case, but not that of an operand in memory
 * (seen on Sapphire Rapids). */
op_fn rotate_imm_handler(enum shift_op what, unsigned count, unsigned bytes)
{
    if ((count & (bytes == 8 ? 63 : 31)) != 1 && rotate_keeps_of())
        what = what == SHIFT_ROL ? SHIFT_ROL_OF : SHIFT_ROR_OF;
    return shift_handler(what, false, false, bytes);
}

/* ---- double shifts ---- */

#define DOUBLE_SHIFT(insn, sfx, bits)                                  \
    do {                                                               \
        uint##bits##_t x_ = (uint##bits##_t)a, y_ = (uint##bits##_t)b; \
                                                                       \
        asm(FLAGS_IN insn sfx " %%cl, %[y], %[x]" FLAGS_OUT            \
            : [x] "+r"(x_), "+a"(fl)                                   \
            : [y] "r"(y_), "c"(n)                                      \
            : "cc");                                                   \
        a = x_;                                                        \
    } while (0)

static ALWAYS_INLINE const struct op *double_shift(struct ivcpu *v, const struct op *op, bool left)
{
    uint8_t n = op->prefix & OP_SRC_IMM ? (uint8_t)op->imm : REG(v, 8, RCX * 8);
    uint64_t a, b = get_reg(v, op->src, op->bytes);
    uint32_t fl = split_flags(CPU(v)->rflags);

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
