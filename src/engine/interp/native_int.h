/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the native stubs share among themselves; see engine/interp/native.h. */
#ifndef ENGINE_INTERP_NATIVE_INT_H
#define ENGINE_INTERP_NATIVE_INT_H

#include "engine/interp/native.h"

#define NATIVE_STUB_BYTES 256 /* room for each stub's code */

/* SDM 1, "x87 FPU Status Register" */
#define FSW_EXCEPTIONS 0x3fu
#define FSW_IE         BIT(0)
#define FSW_OE         BIT(3)
#define FSW_UE         BIT(4)
#define FSW_TOP_SHIFT  11
#define FSW_TOP        (7u << FSW_TOP_SHIFT)
#define FSW_B          BIT(15)
#define FCW_INIT       0x37fu
#define MXCSR_INIT     0x1f80u
#define MXCSR_VALID    0xffffu /* MISALIGNSSE is not offered, so MM is reserved */

/* What a stub works on besides struct cpu. */
struct native_frame {
    uint8_t mem[64]; /* the bounced memory operand; must be first: the stub's base register points
                        here */
    struct xsave_area fx; /* its legacy 512 bytes: the x87 state in and out */
    uint32_t mxcsr;       /* after the instruction */
    uint32_t host_mxcsr;
} __attribute__((aligned(64)));

/* A decoded instruction, and whose processor it shall behave like. */
struct native_insn {
    const ZydisDecodedInstruction *insn;
    const ZydisDecodedOperand *ops;
    const uint8_t *bytes;
    enum cpu_vendor vendor;
};
/* Fills d; false if this instruction is not for us. Does not ask whether the model offers it. */
bool native_describe(struct native_desc *d, const struct native_insn *in);
/* Writes the stub of s->d to rw, seen by the processor at rx; false if it does not fit. */
bool native_emit(struct native_stub *s, uint8_t *rw, const uint8_t *rx);

/* The checks that come before any memory access. */
enum step native_check(struct cpu *c, const struct native_stub *s) MUST_CHECK;
/* Segment, alignment (#GP, #AC) and canonical checks of the operand at off. */
/* Where an operand is, whether or not it may be there. */
uint64_t native_unchecked_linear(const struct cpu *c, enum seg_id seg, uint64_t off);
enum step native_linear(struct cpu *c, const struct native_stub *s, enum seg_id seg, uint64_t off,
                        unsigned bytes, unsigned acc, gva_t *lin) MUST_CHECK;

native_fn native_run;     /* by the stub */
native_fn native_nothing; /* checks only */
native_fn native_fninit, native_fnstenv, native_fldenv, native_fnsave, native_frstor;
native_fn native_fxsave, native_fxrstor, native_xsave, native_xsaveopt, native_xsavec,
    native_xrstor;
native_fn native_ldmxcsr, native_stmxcsr;
native_fn native_maskmov_mmx, native_maskmov_sse, native_maskload, native_maskstore, native_gather;
native_fn native_vzeroupper, native_vzeroall;

/* Makes `top` the top of stack: the physical registers stay, so the ST(i) image turns. */
void native_x87_set_top(struct xsave_area *x, unsigned top);
/* ES and B follow the flags and masks. */
void native_x87_summarise(struct xsave_area *x);
/* Records the last non-control x87 instruction. */
void native_x87_pointers(struct cpu *c, const struct native_stub *s, enum seg_id seg, uint64_t off);

#endif
