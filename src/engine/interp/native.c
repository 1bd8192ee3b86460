/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Running a stub: the checks the processor makes before such an instruction, its memory operand,
 * and the exceptions it can raise. An instruction completes or leaves no trace, except MXCSR's
 * flags on #XM.
 */
#include "engine/interp/native_int.h"
#include "host/host.h"

#include <string.h>

/* SDM 3, "x87 FPU Floating-Point Error (#MF)": by exception, or by FERR# to the PIC as on a PC/AT.
 */
static enum step pending_x87(struct cpu *c)
{
    if (!(c->fpu.fsw & FSW_ES))
        return STEP_NEXT;
    if (c->cr0 & CR0_NE)
        return raise_vec(c, VEC_MF);
    /*
     * IRQ 13 comes at the next boundary. A processor would stop here until then, or go on when port
     * F0h has asserted IGNNE#; we always go on.
     */
    c->ops->ferr(c);
    return STEP_NEXT;
}

static enum step check_avx(struct cpu *c)
{
    if (!in_protected(c) || !(c->cr4 & CR4_OSXSAVE) ||
        (c->xcr0 & (XCR0_SSE | XCR0_AVX)) != (XCR0_SSE | XCR0_AVX))
        return raise_ud(c);
    return c->cr0 & CR0_TS ? raise_nm(c) : STEP_NEXT;
}

/* SDM 2, "Exception Conditions" of each group; SDM 3, "Interactions with the x87 FPU and SSE
 * Extensions". */
static enum step check_class(struct cpu *c, enum native_class cls)
{
    switch (cls) {
    case NATIVE_GPR:
        return STEP_NEXT;
    case NATIVE_GPR_VEX:
        return in_protected(c) ? STEP_NEXT : raise_ud(c);
    case NATIVE_X87:
    case NATIVE_FXSR:
        return c->cr0 & (CR0_EM | CR0_TS) ? raise_nm(c) : STEP_NEXT;
    case NATIVE_FWAIT:
        return (c->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS) ? raise_nm(c) : STEP_NEXT;
    case NATIVE_SSE:
    case NATIVE_SSE_MMX:
        if (!(c->cr4 & CR4_OSFXSR))
            return raise_ud(c);
        /* fall through */
    case NATIVE_MMX:
        if (c->cr0 & CR0_EM)
            return raise_ud(c);
        return c->cr0 & CR0_TS ? raise_nm(c) : STEP_NEXT;
    case NATIVE_AVX:
        return check_avx(c);
    case NATIVE_XSAVE:
        if (!(c->cr4 & CR4_OSXSAVE))
            return raise_ud(c);
        return c->cr0 & CR0_TS ? raise_nm(c) : STEP_NEXT;
    }
    return raise_ud(c);
}

enum step native_check(struct cpu *c, const struct native_stub *s)
{
    enum step st = check_class(c, s->d.cls);

    if (st != STEP_NEXT)
        return st;
    return s->d.flags & NATIVE_WAITING ? pending_x87(c) : STEP_NEXT;
}

static bool alignment_checked(const struct cpu *c)
{
    return is_user(c) && (c->cr0 & CR0_AM) && (c->rflags & RFLAGS_AC);
}

static bool is_half_float(const struct native_desc *d)
{
    return d->mnemonic == ZYDIS_MNEMONIC_VCVTPH2PS || d->mnemonic == ZYDIS_MNEMONIC_VCVTPS2PH;
}

/*
 * What an operand is aligned to for #AC, 1 if to nothing (SDM 3, "Alignment Check Exception
 * (#AC)"; and SDM 2, "Exceptions Type 11", for half floats).
 */
static unsigned natural_alignment(const struct cpu *c, const struct native_desc *d, unsigned bytes)
{
    if (is_half_float(d) && c->model->vendor == VENDOR_INTEL)
        return 1;
    switch (bytes) {
    case 10: /* an 80-bit real counts as 8 bytes */
        return 8;
    case 14: /* x87 environment and state, 16 bits wide */
    case 94:
        return 2;
    case 28: /* the same, 32 bits wide */
    case 108:
        return 4;
    default:
        /* Whether vectors count is the processor's choice, and AMD's count (seen on Zen 5). */
        if (bytes & (bytes - 1) || (bytes > 8 && c->model->vendor != VENDOR_AMD))
            return 1;
        return MIN(bytes, 16u);
    }
}

uint64_t native_unchecked_linear(const struct cpu *c, enum seg_id seg, uint64_t off)
{
    if (in_long64(c))
        return seg == SEG_FS || seg == SEG_GS ? c->seg[seg].base + off : off;
    return (uint32_t)(c->seg[seg].base + off);
}

enum step native_linear(struct cpu *c, const struct native_stub *s, enum seg_id seg, uint64_t off,
                        unsigned bytes, unsigned acc, gva_t *lin)
{
    uint64_t at = native_unchecked_linear(c, seg, off);
    bool misaligned;
    enum step st;

    /* Alignment goes before a non-canonical address and the segment's limit: #GP even where that is
     * #SS. */
    if (at & (s->d.align - 1u))
        return raise_gp(c, 0);
    misaligned = (at & (natural_alignment(c, &s->d, bytes) - 1)) && alignment_checked(c);
    if (misaligned && in_long64(c) && is_canonical(c, at) && cpu_aligns_first(c))
        return raise_err(c, VEC_AC, 0);
    st = cpu_linear(c, seg, off, bytes, acc, lin);
    if (st != STEP_NEXT)
        return st;
    return misaligned ? raise_err(c, VEC_AC, 0) : STEP_NEXT;
}

enum step native_nothing(struct cpu *c, const struct native_stub *s, enum seg_id seg, uint64_t off)
{
    (void)seg, (void)off;
    return native_check(c, s);
}

void native_x87_summarise(struct xsave_area *x)
{
    x->fsw &= ~(FSW_ES | FSW_B);
    if (x->fsw & ~x->fcw & FSW_EXCEPTIONS)
        x->fsw |= FSW_ES | FSW_B;
}

void native_x87_pointers(struct cpu *c, const struct native_stub *s, enum seg_id seg, uint64_t off)
{
    if (cpu_sets_fop(c))
        c->fpu.fop = s->d.fop;
    c->fpu.fip = in_long64(c) ? c->rip : (uint32_t)c->rip;
    c->fpu_cs = cpu_fpu_selector(c, c->seg[SEG_CS].sel);
    if (s->d.mem_op < 0 || !cpu_sets_fdp(c))
        return;
    c->fpu.fdp = in_long64(c) ? off : (uint32_t)off;
    c->fpu_ds = cpu_fpu_selector(c, c->seg[seg].sel);
}

/* The x87 state goes in by a copy: a fault of the store that follows must not have popped anything.
 */
static void x87_in(const struct cpu *c, struct native_frame *f, unsigned ignored)
{
    memcpy(&f->fx, &c->fpu, offsetof(struct xsave_area, xmm));
    memset(&f->fx.xmm, 0, sizeof(f->fx.xmm) + sizeof(f->fx.rsvd1));
    f->fx.fip = f->fx.fdp = 0;
    f->fx.mxcsr = MXCSR_INIT;
    /* Ignored exceptions (CR0.NE = 0) must not trap here; x87_out() brings them back. */
    f->fx.fsw &= (uint16_t)~ignored;
}

/* Does an unmasked exception keep this store from happening? All but inexact do (SDM 1, "Unmasked
 * Response"). Instructions that do not wait store whatever is pending. */
static bool x87_store_suppressed(const struct native_desc *d, const struct native_frame *f)
{
    return d->cls == NATIVE_X87 && (d->flags & NATIVE_WAITING) &&
           f->fx.fsw & ~f->fx.fcw & (FSW_IE | FSW_OE | FSW_UE);
}

static void x87_out(struct cpu *c, const struct native_frame *f, unsigned ignored)
{
    c->fpu.fcw = f->fx.fcw;
    c->fpu.fsw = f->fx.fsw;
    c->fpu.ftw = f->fx.ftw;
    memcpy(c->fpu.st, f->fx.st, sizeof(c->fpu.st));
    c->fpu.fsw |= (uint16_t)ignored;
    native_x87_summarise(&c->fpu);
}

/* SDM 3, "SIMD Floating-Point Exception (#XM)" */
static enum step trapped(struct cpu *c, const struct native_frame *f, enum host_trap_kind hit)
{
    if (hit != HOST_TRAP_FP)
        return raise_ud(c); /* an encoding the decoder knows and the processor does not */
    c->fpu.mxcsr = f->mxcsr;
    return c->cr4 & CR4_OSXMMEXCPT ? raise_vec(c, VEC_XM) : raise_ud(c);
}

/* Is the place of a store not looked at, not even by the segment's checks, before it is known that
 * there is something to store? So it is in floating-point instructions of Intel's processors (seen
 * on Sapphire Rapids). */
static bool stores_late(const struct cpu *c, const struct native_desc *d)
{
    return (d->cls == NATIVE_X87 || (d->flags & NATIVE_MXCSR)) && (d->flags & NATIVE_MEM_WRITE) &&
           c->model->vendor == VENDOR_INTEL;
}

/* An MMX store of Intel's processors has made TOP 0 before it faults, but no register valid (seen
 * on Sapphire Rapids). */
static enum step store_failed(struct cpu *c, const struct native_desc *d, enum step st)
{
    if ((d->cls == NATIVE_MMX || d->cls == NATIVE_SSE_MMX) && (d->flags & NATIVE_MEM_WRITE) &&
        c->model->vendor == VENDOR_INTEL)
        native_x87_set_top(&c->fpu, 0);
    return st;
}

enum step native_run(struct cpu *c, const struct native_stub *s, enum seg_id seg, uint64_t off)
{
    const struct native_desc *d = &s->d;
    struct host_trap trap = { .at = s->at, .resume = s->fault };
    struct native_frame f;
    unsigned ignored = 0, acc = d->flags & NATIVE_MEM_WRITE ? ACC_WRITE : ACC_READ;
    bool late = stores_late(c, d);
    gva_t lin = GVA(0);
    enum step st = native_check(c, s);

    if (st != STEP_NEXT)
        return st;
    if (d->mem_op >= 0 && !late)
        st = native_linear(c, s, seg, off, d->mem_bytes, acc, &lin);
    if (st != STEP_NEXT)
        return store_failed(c, d, st);
    memset(f.mem, 0, sizeof(f.mem));
    f.host_mxcsr = MXCSR_INIT;
    if (d->flags & NATIVE_MEM_READ)
        st = c->ops->read(c, lin, f.mem, d->mem_bytes, acc);
    if (st != STEP_NEXT)
        return st;
    if (d->flags & NATIVE_FPREGS) {
        if (d->flags & NATIVE_WAITING)
            ignored = c->fpu.fsw & ~c->fpu.fcw & FSW_EXCEPTIONS;
        x87_in(c, &f, ignored);
    }

    host_trap_arm(&trap);
    s->entry(c, &f);
    host_trap_arm(NULL);

    if (unlikely(trap.hit != HOST_TRAP_NONE))
        return trapped(c, &f, trap.hit);
    if (d->flags & NATIVE_MEM_WRITE && !(late && x87_store_suppressed(d, &f))) {
        if (late)
            st = native_linear(c, s, seg, off, d->mem_bytes, acc, &lin);
        if (st == STEP_NEXT && x87_store_suppressed(d, &f)) /* but the place is looked at */
            st = c->ops->probe(c, lin, d->mem_bytes, acc);
        else if (st == STEP_NEXT)
            st = c->ops->write(c, lin, f.mem, d->mem_bytes, acc);
    }
    if (st != STEP_NEXT)
        return store_failed(c, d, st);
    if (d->flags & NATIVE_MXCSR)
        c->fpu.mxcsr = f.mxcsr;
    if (d->flags & NATIVE_FPREGS)
        x87_out(c, &f, ignored);
    if (d->flags & NATIVE_POINTERS)
        native_x87_pointers(c, s, seg, off);
    return STEP_NEXT;
}

enum step native_ldmxcsr(struct cpu *c, const struct native_stub *s, enum seg_id seg, uint64_t off)
{
    uint32_t val;
    gva_t lin = GVA(0);
    enum step st = native_check(c, s);

    if (st == STEP_NEXT)
        st = native_linear(c, s, seg, off, sizeof(val), ACC_READ, &lin);
    if (st == STEP_NEXT)
        st = c->ops->read(c, lin, &val, sizeof(val), ACC_READ);
    if (st != STEP_NEXT)
        return st;
    if (val & ~MXCSR_VALID)
        return raise_gp(c, 0);
    c->fpu.mxcsr = val;
    return STEP_NEXT;
}

enum step native_stmxcsr(struct cpu *c, const struct native_stub *s, enum seg_id seg, uint64_t off)
{
    gva_t lin = GVA(0);
    enum step st = native_check(c, s);

    if (st == STEP_NEXT)
        st = native_linear(c, s, seg, off, sizeof(c->fpu.mxcsr), ACC_WRITE, &lin);
    if (st != STEP_NEXT)
        return st;
    return c->ops->write(c, lin, &c->fpu.mxcsr, sizeof(c->fpu.mxcsr), ACC_WRITE);
}
