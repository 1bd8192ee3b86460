/* SPDX-License-Identifier: Apache-2.0 */
/* MOV, MOVZX, MOVSX, LEA, CMOVcc, SETcc. */
#include "engine/interp/handlers.h"

#define DEFINE_MOV(bits)                                                         \
    static const struct op *mov##bits##_rr(struct ivcpu *v, const struct op *op) \
    {                                                                            \
        set_reg##bits(v, op->dst, REG(v, bits, op->src));                        \
        NEXT(v, op);                                                             \
    }                                                                            \
    static const struct op *mov##bits##_ri(struct ivcpu *v, const struct op *op) \
    {                                                                            \
        set_reg##bits(v, op->dst, op->imm);                                      \
        NEXT(v, op);                                                             \
    }                                                                            \
    static const struct op *mov##bits##_rm(struct ivcpu *v, const struct op *op) \
    {                                                                            \
        uint##bits##_t x;                                                        \
        uint64_t lin;                                                            \
                                                                                 \
        ADDRESS(v, op, lin, bits / 8, ACC_READ);                                 \
        LOAD(v, op, bits, lin, x);                                               \
        set_reg##bits(v, op->dst, x);                                            \
        NEXT(v, op);                                                             \
    }                                                                            \
    static const struct op *mov##bits##_mr(struct ivcpu *v, const struct op *op) \
    {                                                                            \
        uint64_t lin;                                                            \
                                                                                 \
        ADDRESS(v, op, lin, bits / 8, ACC_WRITE);                                \
        STORE(v, op, bits, lin, REG(v, bits, op->src));                          \
        NEXT(v, op);                                                             \
    }                                                                            \
    static const struct op *mov##bits##_mi(struct ivcpu *v, const struct op *op) \
    {                                                                            \
        uint64_t lin;                                                            \
                                                                                 \
        ADDRESS(v, op, lin, bits / 8, ACC_WRITE);                                \
        STORE(v, op, bits, lin, op->imm);                                        \
        NEXT(v, op);                                                             \
    }

DEFINE_MOV(8)
DEFINE_MOV(16)
DEFINE_MOV(32)
DEFINE_MOV(64)

#define MOV_ROW(bits)                                                                       \
    {                                                                                       \
        [FORM_RR] = mov##bits##_rr, [FORM_RI] = mov##bits##_ri, [FORM_RM] = mov##bits##_rm, \
        [FORM_MR] = mov##bits##_mr, [FORM_MI] = mov##bits##_mi                              \
    }
static const op_fn mov[4][NR_FORMS] = { MOV_ROW(8), MOV_ROW(16), MOV_ROW(32), MOV_ROW(64) };

op_fn mov_handler(enum form form, unsigned bytes)
{
    return mov[__builtin_ctz(bytes)][form];
}

#define DEFINE_MOVX(name, from, to, type)                                            \
    static const struct op *name##from##to##_r(struct ivcpu *v, const struct op *op) \
    {                                                                                \
        set_reg##to(v, op->dst, (uint64_t)(int64_t)(type)REG(v, from, op->src));     \
        NEXT(v, op);                                                                 \
    }                                                                                \
    static const struct op *name##from##to##_m(struct ivcpu *v, const struct op *op) \
    {                                                                                \
        uint##from##_t x;                                                            \
        uint64_t lin;                                                                \
                                                                                     \
        ADDRESS(v, op, lin, from / 8, ACC_READ);                                     \
        LOAD(v, op, from, lin, x);                                                   \
        set_reg##to(v, op->dst, (uint64_t)(int64_t)(type)x);                         \
        NEXT(v, op);                                                                 \
    }
#define DEFINE_MOVX_TO(name, from, type) \
    DEFINE_MOVX(name, from, 16, type)    \
    DEFINE_MOVX(name, from, 32, type)    \
    DEFINE_MOVX(name, from, 64, type)

DEFINE_MOVX_TO(movzx, 8, uint8_t)
DEFINE_MOVX_TO(movzx, 16, uint16_t)
DEFINE_MOVX_TO(movsx, 8, int8_t)
DEFINE_MOVX_TO(movsx, 16, int16_t)
DEFINE_MOVX_TO(movsx, 32, int32_t)

#define MOVX_ROW(name, from)                                                            \
    {                                                                                   \
        { name##from##16_r, name##from##16_m }, { name##from##32_r, name##from##32_m }, \
        {                                                                               \
            name##from##64_r, name##from##64_m                                          \
        }                                                                               \
    }
static const op_fn movx[2][3][3][2] = {
    { MOVX_ROW(movzx, 8), MOVX_ROW(movzx, 16) },
    { MOVX_ROW(movsx, 8), MOVX_ROW(movsx, 16), MOVX_ROW(movsx, 32) },
};

op_fn movx_handler(bool sign, bool mem, unsigned from_bytes, unsigned to_bytes)
{
    return movx[sign][__builtin_ctz(from_bytes)][__builtin_ctz(to_bytes) - 1][mem];
}

/* LEA makes an offset, no linear address: no segment, no checks. */
#define DEFINE_LEA(bits)                                                                   \
    static const struct op *lea##bits(struct ivcpu *v, const struct op *op)                \
    {                                                                                      \
        set_reg##bits(v, op->dst, likely(!op->addr) ? plain_ea(v, op) : effective(v, op)); \
        NEXT(v, op);                                                                       \
    }
DEFINE_LEA(16)
DEFINE_LEA(32)
DEFINE_LEA(64)

op_fn lea_handler(unsigned bytes)
{
    return bytes == 8 ? lea64 : bytes == 4 ? lea32 : lea16;
}

/* The load happens (and may fault) whatever the condition; a 32-bit CMOV always clears the upper
 * half. */
#define DEFINE_CMOV(cc, bits)                                                                     \
    static const struct op *cmov##cc##_##bits##_r(struct ivcpu *v, const struct op *op)           \
    {                                                                                             \
        uint##bits##_t x = REG(v, bits, op->src);                                                 \
                                                                                                  \
        set_reg##bits(v, op->dst, condition(CPU(v)->rflags, 0x##cc) ? x : REG(v, bits, op->dst)); \
        NEXT(v, op);                                                                              \
    }                                                                                             \
    static const struct op *cmov##cc##_##bits##_m(struct ivcpu *v, const struct op *op)           \
    {                                                                                             \
        uint##bits##_t x;                                                                         \
        uint64_t lin;                                                                             \
                                                                                                  \
        ADDRESS(v, op, lin, bits / 8, ACC_READ);                                                  \
        LOAD(v, op, bits, lin, x);                                                                \
        set_reg##bits(v, op->dst, condition(CPU(v)->rflags, 0x##cc) ? x : REG(v, bits, op->dst)); \
        NEXT(v, op);                                                                              \
    }
#define DEFINE_CC(cc)                                                         \
    DEFINE_CMOV(cc, 16)                                                       \
    DEFINE_CMOV(cc, 32)                                                       \
    DEFINE_CMOV(cc, 64)                                                       \
    static const struct op *set##cc##_r(struct ivcpu *v, const struct op *op) \
    {                                                                         \
        set_reg8(v, op->dst, condition(CPU(v)->rflags, 0x##cc));              \
        NEXT(v, op);                                                          \
    }                                                                         \
    static const struct op *set##cc##_m(struct ivcpu *v, const struct op *op) \
    {                                                                         \
        uint64_t lin;                                                         \
                                                                              \
        ADDRESS(v, op, lin, 1, ACC_WRITE);                                    \
        STORE(v, op, 8, lin, condition(CPU(v)->rflags, 0x##cc));              \
        NEXT(v, op);                                                          \
    }
#define FOR_ALL_CC(M) \
    M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(a) M(b) M(c) M(d) M(e) M(f)
FOR_ALL_CC(DEFINE_CC)

#define CMOV_ROW(cc)                        \
    { { cmov##cc##_16_r, cmov##cc##_16_m }, \
      { cmov##cc##_32_r, cmov##cc##_32_m }, \
      { cmov##cc##_64_r, cmov##cc##_64_m } },
#define SET_ROW(cc) { set##cc##_r, set##cc##_m },
static const op_fn cmov[16][3][2] = { FOR_ALL_CC(CMOV_ROW) };
static const op_fn setcc[16][2] = { FOR_ALL_CC(SET_ROW) };

op_fn cmov_handler(unsigned cc, bool mem, unsigned bytes)
{
    return cmov[cc][__builtin_ctz(bytes) - 1][mem];
}

op_fn setcc_handler(unsigned cc, bool mem)
{
    return setcc[cc][mem];
}
