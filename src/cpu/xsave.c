/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FXSAVE, FXRSTOR, XSAVE, XSAVEOPT, XSAVEC and XRSTOR (SDM 1, "Managing State Using the XSAVE
 * Feature Set") for the components x87, SSE and AVX. XSAVES and XRSTORS are not offered.
 *
 * CR0 and CR4 were checked by the caller; alignment and contents are checked here. struct cpu holds
 * the state in the standard format, so most of this is a matter of which bytes move.
 */
#include "cpu/cpu.h"

#define FSW_EXCEPTIONS 0x3fu
#define FSW_B          BIT(15)
#define FCW_INIT       0x37fu
#define MXCSR_INIT     0x1f80u
/* MISALIGNSSE is not offered: MXCSR.MM is reserved. */
#define MXCSR_VALID    0xffffu

#define XCOMP_COMPACT BIT64(63)

#define OFF_MXCSR    offsetof(struct xsave_area, mxcsr)
#define OFF_ST       offsetof(struct xsave_area, st)
#define OFF_XMM      offsetof(struct xsave_area, xmm)
#define OFF_HEADER   offsetof(struct xsave_area, xstate_bv)
#define OFF_YMMH     offsetof(struct xsave_area, ymmh)
#define HEADER_BYTES 64u
#define FXSAVE_BYTES 512u

/* Outside 64-bit mode registers 8 to 15 neither move nor count. */
static unsigned vector_bytes(const struct cpu *c)
{
    return in_long64(c) ? 256 : 128;
}

/* Bytes 0..23 as the instruction stores them. */
static void put_x87_header(const struct cpu *c, struct xsave_area *x, bool rex_w)
{
    x->fcw = c->fpu.fcw;
    x->fsw = c->fpu.fsw;
    x->ftw = c->fpu.ftw;
    x->rsvd0 = 0;
    x->fop = x->fip = x->fdp = 0;
    /* APM 2, "FXSAVE and FXRSTOR Instructions": without a pending exception the pointers are stored
     * as zero. */
    if (c->model->vendor == VENDOR_AMD && !(c->fpu.fsw & FSW_ES))
        return;
    x->fop = c->fpu.fop;
    x->fip = rex_w ? c->fpu.fip : (uint32_t)c->fpu.fip | (uint64_t)c->fpu_cs << 32;
    x->fdp = rex_w ? c->fpu.fdp : (uint32_t)c->fpu.fdp | (uint64_t)c->fpu_ds << 32;
}

static void get_x87_header(struct cpu *c, const struct xsave_area *x, bool rex_w)
{
    c->fpu.fcw = (x->fcw & 0x1f3f) | 0x40;
    /* ES and B follow from the rest, whatever the image says (seen on hardware). */
    c->fpu.fsw = x->fsw & (uint16_t) ~(FSW_ES | FSW_B);
    if (c->fpu.fsw & ~c->fpu.fcw & FSW_EXCEPTIONS)
        c->fpu.fsw |= FSW_ES | FSW_B;
    c->fpu.ftw = x->ftw;
    c->fpu.fop = x->fop & 0x7ff;
    c->fpu.fip = rex_w ? x->fip : (uint32_t)x->fip;
    c->fpu.fdp = rex_w ? x->fdp : (uint32_t)x->fdp;
    c->fpu_cs = rex_w ? 0 : cpu_fpu_selector(c, x->fip >> 32);
    c->fpu_ds = rex_w ? 0 : cpu_fpu_selector(c, x->fdp >> 32);
}

/* Six bytes of each register's slot are reserved. */
static void copy_st(uint8_t dst[8][16], const uint8_t src[8][16])
{
    __builtin_memset(dst, 0, 8 * 16);
    for (unsigned i = 0; i < 8; i++)
        __builtin_memcpy(dst[i], src[i], 10);
}

/* bytes: a multiple of 8 */
static bool all_zero(const void *p, unsigned bytes)
{
    uint64_t word;

    for (unsigned i = 0; i < bytes; i += sizeof(word)) {
        __builtin_memcpy(&word, (const uint8_t *)p + i, sizeof(word));
        if (word)
            return false;
    }
    return true;
}

static bool x87_is_init(const struct cpu *c)
{
    const struct xsave_area *x = &c->fpu;

    return x->fcw == FCW_INIT && !x->fsw && !x->ftw && !x->fop && !x->fip && !x->fdp &&
           !c->fpu_cs && !c->fpu_ds && all_zero(x->st, sizeof(x->st));
}

uint64_t cpu_xinuse(const struct cpu *c)
{
    uint64_t in_use = 0;

    if (!x87_is_init(c))
        in_use |= XCR0_X87;
    if (!all_zero(c->fpu.xmm, vector_bytes(c)))
        in_use |= XCR0_SSE;
    if (!all_zero(c->fpu.ymmh, vector_bytes(c)))
        in_use |= XCR0_AVX;
    return in_use;
}

enum step cpu_fxsave(struct cpu *c, gva_t at, bool rex_w)
{
    struct xsave_area x = { 0 };
    enum step st;

    if (at.v & 15)
        return raise_gp(c, 0);
    /* All of the area has to be writable, though not all of it is written. */
    st = c->ops->probe(c, at, FXSAVE_BYTES, ACC_WRITE);
    if (st != STEP_NEXT)
        return st;
    put_x87_header(c, &x, rex_w);
    x.mxcsr = c->fpu.mxcsr;
    x.mxcsr_mask = MXCSR_VALID;
    copy_st(x.st, c->fpu.st);
    __builtin_memcpy(x.xmm, c->fpu.xmm, sizeof(x.xmm));
    return c->ops->write(c, at, &x, (unsigned)OFF_XMM + vector_bytes(c), ACC_WRITE);
}

enum step cpu_fxrstor(struct cpu *c, gva_t at, bool rex_w)
{
    unsigned bytes = vector_bytes(c);
    struct xsave_area x = { 0 };
    enum step st;

    if (at.v & 15)
        return raise_gp(c, 0);
    st = c->ops->read(c, at, &x, (unsigned)OFF_XMM + bytes, ACC_READ);
    if (st != STEP_NEXT)
        return st;
    if (x.mxcsr & ~MXCSR_VALID)
        return raise_gp(c, 0);
    get_x87_header(c, &x, rex_w);
    c->fpu.mxcsr = x.mxcsr;
    copy_st(c->fpu.st, x.st);
    __builtin_memcpy(c->fpu.xmm, x.xmm, bytes);
    return STEP_NEXT;
}

static enum step put(struct cpu *c, gva_t at, uint64_t off_bytes, const void *p, size_t bytes)
{
    return c->ops->write(c, gva_add(at, off_bytes), p, (unsigned)bytes, ACC_WRITE);
}

/* Which components and whether MXCSR are stored. */
struct save_plan {
    uint64_t parts;
    bool mxcsr;
};

static enum step save_parts(struct cpu *c, gva_t at, const struct save_plan *p, bool rex_w)
{
    enum step st = STEP_NEXT;
    struct xsave_area x = { 0 };

    if (p->parts & XCR0_X87) {
        put_x87_header(c, &x, rex_w);
        copy_st(x.st, c->fpu.st);
        st = put(c, at, 0, &x, OFF_MXCSR);
        if (st == STEP_NEXT)
            st = put(c, at, OFF_ST, x.st, sizeof(x.st));
    }
    if (st == STEP_NEXT && p->mxcsr) {
        x.mxcsr = c->fpu.mxcsr;
        x.mxcsr_mask = MXCSR_VALID;
        st = put(c, at, OFF_MXCSR, &x.mxcsr, sizeof(x.mxcsr) + sizeof(x.mxcsr_mask));
    }
    if (st == STEP_NEXT && (p->parts & XCR0_SSE))
        st = put(c, at, OFF_XMM, c->fpu.xmm, vector_bytes(c));
    if (st == STEP_NEXT && (p->parts & XCR0_AVX))
        st = put(c, at, OFF_YMMH, c->fpu.ymmh, vector_bytes(c));
    return st;
}

/* Has the area to be writable? All of it, even outside 64-bit mode, where less of it is written;
 * but Intel's processors do not touch the legacy region for an image without x87 and SSE, unless
 * MXCSR goes there with AVX (seen on Sapphire Rapids). */
static enum step probe_area(struct cpu *c, gva_t at, uint64_t rfbm, enum xsave_kind kind)
{
    uint64_t end = rfbm & XCR0_AVX ? sizeof(struct xsave_area) : OFF_YMMH, from = 0;

    if (c->model->vendor == VENDOR_INTEL && !(rfbm & (XCR0_X87 | XCR0_SSE)) &&
        (kind == XSAVE_COMPACT || !(rfbm & XCR0_AVX)))
        from = OFF_HEADER;
    return c->ops->probe(c, gva_add(at, from), (unsigned)(end - from), ACC_WRITE);
}

enum step cpu_xsave(struct cpu *c, gva_t at, uint64_t mask, enum xsave_kind kind, bool rex_w)
{
    uint64_t rfbm = c->xcr0 & mask, in_use = cpu_xinuse(c), header[2] = { 0 };
    struct save_plan plan = { .parts = rfbm, .mxcsr = rfbm & (XCR0_SSE | XCR0_AVX) };
    unsigned header_bytes = sizeof(header[0]);
    enum step st;

    BUG_ON(kind == XSAVE_SUPERVISOR);
    if (at.v & 63)
        return raise_gp(c, 0);
    st = probe_area(c, at, rfbm, kind);
    if (st == STEP_NEXT && kind != XSAVE_COMPACT)
        st = c->ops->read(c, gva_add(at, OFF_HEADER), header, header_bytes, ACC_READ);
    if (st != STEP_NEXT)
        return st;
    if (kind == XSAVE_COMPACT) {
        /* SDM 1, "Operation of XSAVEC": MXCSR alone makes the SSE component count as used. */
        if (c->fpu.mxcsr != MXCSR_INIT)
            in_use |= XCR0_SSE;
        plan.parts = rfbm & in_use;
        plan.mxcsr = plan.parts & XCR0_SSE;
        header[0] = plan.parts;
        header[1] = rfbm | XCOMP_COMPACT;
        header_bytes = sizeof(header);
    } else {
        header[0] = (header[0] & ~rfbm) | (in_use & rfbm);
        if (kind == XSAVE_OPT)
            plan.parts &= in_use;
    }
    st = save_parts(c, at, &plan, rex_w);
    return st == STEP_NEXT ? put(c, at, OFF_HEADER, header, header_bytes) : st;
}

/* SDM 1, "Standard Form of XRSTOR", "Compacted Form of XRSTOR" */
static bool header_is_bad(const struct cpu *c, const uint64_t header[8])
{
    uint64_t xstate_bv = header[0], xcomp_bv = header[1];

    if (!(xcomp_bv & XCOMP_COMPACT)) /* bytes 23..8 must be zero */
        return (xstate_bv & ~c->xcr0) || xcomp_bv || header[2];
    if (!model_has(c->model, FEAT_XSAVEC))
        return true;
    return (xcomp_bv & ~XCOMP_COMPACT & ~c->xcr0) || (xstate_bv & ~xcomp_bv) || (xstate_bv >> 63) ||
           !all_zero(header + 2, HEADER_BYTES - 16);
}

/* Everything is read before anything is loaded. */
static enum step read_parts(struct cpu *c, gva_t at, uint64_t load, bool mxcsr,
                            struct xsave_area *x)
{
    enum step st = STEP_NEXT;

    if ((load & (XCR0_X87 | XCR0_SSE)) || mxcsr)
        st = c->ops->read(c, at, x, (unsigned)OFF_XMM + vector_bytes(c), ACC_READ);
    if (st == STEP_NEXT && (load & XCR0_AVX))
        st = c->ops->read(c, gva_add(at, OFF_YMMH), x->ymmh, vector_bytes(c), ACC_READ);
    return st;
}

static void init_x87(struct cpu *c)
{
    struct xsave_area x = { .fcw = FCW_INIT };

    get_x87_header(c, &x, true);
    __builtin_memset(c->fpu.st, 0, sizeof(c->fpu.st));
}

static void load_vectors(struct cpu *c, uint8_t dst[16][16], const uint8_t src[16][16], bool load)
{
    if (load)
        __builtin_memcpy(dst, src, vector_bytes(c));
    else
        __builtin_memset(dst, 0, vector_bytes(c));
}

enum step cpu_xrstor(struct cpu *c, gva_t at, uint64_t mask, bool rex_w)
{
    uint64_t rfbm = c->xcr0 & mask, header[8], load;
    struct xsave_area x = { 0 };
    bool compact, mxcsr;
    enum step st;

    if (at.v & 63)
        return raise_gp(c, 0);
    st = c->ops->read(c, gva_add(at, OFF_HEADER), header, sizeof(header), ACC_READ);
    if (st != STEP_NEXT)
        return st;
    if (header_is_bad(c, header))
        return raise_gp(c, 0);
    compact = header[1] & XCOMP_COMPACT;
    /*
     * A compacted image has the AVX part at its standard place (it is the first extended
     * component); one that is not in XCOMP_BV cannot be in XSTATE_BV.
     */
    load = rfbm & header[0];
    /* The standard form loads MXCSR whenever SSE or AVX is asked for; the compacted one treats it
     * as part of SSE. */
    mxcsr = compact ? load & XCR0_SSE : rfbm & (XCR0_SSE | XCR0_AVX);
    st = read_parts(c, at, load, mxcsr, &x);
    if (st != STEP_NEXT)
        return st;
    if (mxcsr && (x.mxcsr & ~MXCSR_VALID))
        return raise_gp(c, 0);

    if (mxcsr)
        c->fpu.mxcsr = x.mxcsr;
    else if (compact && (rfbm & XCR0_SSE))
        c->fpu.mxcsr = MXCSR_INIT;
    if (load & XCR0_X87) {
        get_x87_header(c, &x, rex_w);
        copy_st(c->fpu.st, x.st);
    } else if (rfbm & XCR0_X87) {
        init_x87(c);
    }
    if (rfbm & XCR0_SSE)
        load_vectors(c, c->fpu.xmm, x.xmm, load & XCR0_SSE);
    if (rfbm & XCR0_AVX)
        load_vectors(c, c->fpu.ymmh, x.ymmh, load & XCR0_AVX);
    return STEP_NEXT;
}
