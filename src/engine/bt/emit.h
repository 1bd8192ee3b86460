/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing host code: a byte buffer and the few instructions the translator puts around the guest's
 * own. Encodings: SDM 2, "Instruction Format".
 */
#ifndef ENGINE_BT_EMIT_H
#define ENGINE_BT_EMIT_H

#include "engine/engine.h"
#include "lib/types.h"

/* Host registers by number, as instructions encode them. */
enum hreg {
    H_RAX,
    H_RCX,
    H_RDX,
    H_RBX,
    H_RSP,
    H_RBP,
    H_RSI,
    H_RDI,
    H_R8,
    H_R9,
    H_R10,
    H_R11,
    H_R12,
    H_R13,
    H_R14,
    H_R15,
    H_NONE = 0xff
};

/* The bytes are written at rw and will run at rw + delta. */
struct emit {
    uint8_t *p, *end;
    intptr_t delta; /* where it runs, minus where it is written */
    bool full;      /* it did not fit: what was written is not to be used */
    bool slow_loop; /* lookups end in JRCXZ, not in LOOP */
};
/* cfg may be NULL, for the default. */
static inline bool emit_slow_loop(const struct bt_config *cfg)
{
    enum bt_lookup how = cfg ? cfg->lookup : BT_LOOKUP_AUTO;

    return how == BT_LOOKUP_AUTO ? !__builtin_cpu_is("amd") : how == BT_LOOKUP_JRCXZ;
}

/* A memory operand: base + index << scale + disp, in the GS segment or none. */
struct hmem {
    bool gs;
    enum hreg base, index;
    uint8_t scale; /* shift count */
    int32_t disp;
};
#define HMEM_GS(d) \
    ((struct hmem){ .gs = true, .base = H_NONE, .index = H_NONE, .disp = (int32_t)(d) })
#define HMEM_GS_INDEX(i, s, d) \
    ((struct hmem){ .gs = true, .base = H_NONE, .index = (i), .scale = (s), .disp = (int32_t)(d) })
#define HMEM_BASE(b, d) ((struct hmem){ .base = (b), .index = H_NONE, .disp = (int32_t)(d) })

static inline const uint8_t *emit_pc(const struct emit *e) /* where the next byte will run */
{
    return e->p + e->delta;
}

void emit8(struct emit *e, uint8_t x);
void emit32(struct emit *e, uint32_t x);
void emit64(struct emit *e, uint64_t x);
void emit_bytes(struct emit *e, const uint8_t *b, unsigned n);

#define EMIT_W    BIT(0) /* REX.W */
#define EMIT_0F   BIT(1) /* opcode in the 0F map */
#define EMIT_BYTE BIT(2) /* 8-bit register operand: SPL and the like need a REX */
/* [REX] opcode /r with a register or a memory operand. imm_bytes of immediate will follow. */
void emit_op_rr(struct emit *e, unsigned flags, uint8_t opcode, unsigned reg, enum hreg rm);
void emit_op_rm(struct emit *e, unsigned flags, uint8_t opcode, unsigned reg, struct hmem m);
/* ModRM, SIB and displacement alone: for instructions whose prefixes the caller writes. */
void emit_modrm_mem(struct emit *e, unsigned reg, struct hmem m);

void emit_mov_rr(struct emit *e, enum hreg dst, enum hreg src);
void emit_mov32_rr(struct emit *e, enum hreg dst, enum hreg src);
void emit_load(struct emit *e, enum hreg dst, struct hmem m);  /* 64 bits */
void emit_store(struct emit *e, struct hmem m, enum hreg src); /* 64 bits */
void emit_lea(struct emit *e, enum hreg dst, struct hmem m);
void emit_lea32(struct emit *e, enum hreg dst, struct hmem m);
/* The shortest form that gives the 64-bit value. */
void emit_mov_imm(struct emit *e, enum hreg dst, uint64_t imm);
/* BMI2, which leave the flags alone. */
void emit_pext(struct emit *e, enum hreg dst, enum hreg src, struct hmem mask);
void emit_pdep(struct emit *e, enum hreg dst, enum hreg src, struct hmem mask);
void emit_rorx(struct emit *e, enum hreg dst, enum hreg src, uint8_t count);
void emit_shrx(struct emit *e, enum hreg dst, enum hreg src, enum hreg count, bool wide);
void emit_sarx(struct emit *e, enum hreg dst, enum hreg src, enum hreg count); /* 64 bits */

/* Jumps to an address where code runs; those to be mended later return where their rel32 is. */
void emit_jmp(struct emit *e, const uint8_t *to);
uint8_t *emit_jmp_later(struct emit *e);
uint8_t *emit_jcc_later(struct emit *e, unsigned cc);
/* LEA of a place that is told later: returns where its rel32 is. */
uint8_t *emit_lea_later(struct emit *e, enum hreg dst);
void emit_not(struct emit *e, enum hreg reg); /* 64 bits */
void emit_jmp_mem(struct emit *e, struct hmem m);
/*
 * A jump that is taken unless RCX is emit_hit(); RCX changes, no flag does. Going on takes no
 * branch: one that is taken is mispredicted each time the predictor has no room for it, as in code
 * that is spread over megabytes. Where LOOP is microcode this one does take one; the two that
 * follow do not.
 */
uint8_t *emit_unless_same_later(struct emit *e);
/* The same unless RCX, which is below 2^56, is emit_hit(). */
uint8_t *emit_unless_hit_later(struct emit *e);
static inline int emit_hit(const struct emit *e)
{
    return e->slow_loop ? 0 : 1;
}
/* The same unless RCX, which is 0 or 1, is 1. */
uint8_t *emit_unless_true_later(struct emit *e);
/* A short jump when RCX is 0: returns its rel8. */
uint8_t *emit_jrcxz_later(struct emit *e);
void emit_fix8(struct emit *e, uint8_t *rel8);
/* Points the rel32 at to: one aligned-or-not store of 4 bytes. delta as in struct emit. */
void emit_fix32(uint8_t *rel32, intptr_t delta, const uint8_t *to);

#endif
