/* SPDX-License-Identifier: Apache-2.0 */
/* FXSAVE, XSAVE and their kin as instructions: operand checks here, the formats in cpu/xsave.c. */
#include "engine/interp/native_int.h"

#define FXSAVE_BYTES 512u
#define FXSAVE_ALIGN 16u
#define XSAVE_ALIGN  64u

typedef enum step fx_fn(struct cpu *c, gva_t at, bool rex_w);

/* An operand of `bytes` bytes. Alignment goes before the segment's limit; that #AC may go before it
 * is the processor's choice (SDM 2, FXSAVE, XSAVE), here it does not. */
static enum step image_linear(struct cpu *c, enum seg_id seg, uint64_t off, unsigned bytes,
                              unsigned align, unsigned acc, gva_t *lin)
{
    lin->v = native_unchecked_linear(c, seg, off);
    if (lin->v & (align - 1))
        return raise_gp(c, 0);
    return cpu_linear(c, seg, off, bytes, acc, lin);
}

static enum step fx_insn(struct cpu *c, const struct native_stub *s, enum seg_id seg, uint64_t off,
                         unsigned acc, fx_fn *fn)
{
    gva_t lin = GVA(0);
    enum step st = native_check(c, s);

    if (st == STEP_NEXT)
        st = image_linear(c, seg, off, FXSAVE_BYTES, FXSAVE_ALIGN, acc, &lin);
    return st == STEP_NEXT ? fn(c, lin, s->d.op_bits == 64) : st;
}

enum step native_fxsave(struct cpu *c, const struct native_stub *s, enum seg_id seg, uint64_t off)
{
    return fx_insn(c, s, seg, off, ACC_WRITE, cpu_fxsave);
}

enum step native_fxrstor(struct cpu *c, const struct native_stub *s, enum seg_id seg, uint64_t off)
{
    return fx_insn(c, s, seg, off, ACC_READ, cpu_fxrstor);
}

static uint64_t feature_mask(const struct cpu *c)
{
    return c->gpr[RDX] << 32 | (uint32_t)c->gpr[RAX];
}

/* Legacy region and header; the AVX part lies behind them in both formats. */
static unsigned xsave_bytes(const struct cpu *c, uint64_t mask)
{
    return c->xcr0 & mask & XCR0_AVX ? sizeof(struct xsave_area)
                                     : offsetof(struct xsave_area, ymmh);
}

static enum step xsave_insn(struct cpu *c, const struct native_stub *s, enum seg_id seg,
                            uint64_t off, enum xsave_kind kind)
{
    uint64_t mask = feature_mask(c);
    gva_t lin = GVA(0);
    enum step st = native_check(c, s);

    if (st == STEP_NEXT)
        st = image_linear(c, seg, off, xsave_bytes(c, mask), XSAVE_ALIGN, ACC_WRITE, &lin);
    return st == STEP_NEXT ? cpu_xsave(c, lin, mask, kind, s->d.op_bits == 64) : st;
}

enum step native_xsave(struct cpu *c, const struct native_stub *s, enum seg_id seg, uint64_t off)
{
    return xsave_insn(c, s, seg, off, XSAVE_STD);
}

enum step native_xsaveopt(struct cpu *c, const struct native_stub *s, enum seg_id seg, uint64_t off)
{
    return xsave_insn(c, s, seg, off, XSAVE_OPT);
}

enum step native_xsavec(struct cpu *c, const struct native_stub *s, enum seg_id seg, uint64_t off)
{
    return xsave_insn(c, s, seg, off, XSAVE_COMPACT);
}

enum step native_xrstor(struct cpu *c, const struct native_stub *s, enum seg_id seg, uint64_t off)
{
    uint64_t mask = feature_mask(c);
    gva_t lin = GVA(0);
    enum step st = native_check(c, s);

    if (st == STEP_NEXT)
        st = image_linear(c, seg, off, xsave_bytes(c, mask), XSAVE_ALIGN, ACC_READ, &lin);
    return st == STEP_NEXT ? cpu_xrstor(c, lin, mask, s->d.op_bits == 64) : st;
}
