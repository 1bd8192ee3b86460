/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's registers between struct cpu and a worker's signal frame.
 *
 * The frame is the kernel's (struct rt_sigframe, with an XSAVE area in standard format): what is
 * not named here stays as the kernel wrote it, such as selectors, the signal mask, and state
 * components the guest does not know.
 */
#include <string.h>

#include "engine/bt/direct/internal.h"
#include "engine/bt/direct/layout.h"

/* Flags that user code can change by what is copied; all others stay as they are in struct cpu. */
#define FLAGS_SHARED (RFLAGS_ARITH | RFLAGS_DF)

#define XCR0_PKRU    BIT64(9)
/* Bytes of struct xsave_area up to what the kernel keeps for itself (magic, sizes). */
#define LEGACY_BYTES 416

static const uint8_t greg_of[NR_GPRS] = {
    [RAX] = REG_RAX, [RCX] = REG_RCX, [RDX] = REG_RDX, [RBX] = REG_RBX,
    [RSP] = REG_RSP, [RBP] = REG_RBP, [RSI] = REG_RSI, [RDI] = REG_RDI,
    [R8] = REG_R8,   [R9] = REG_R9,   [R10] = REG_R10, [R11] = REG_R11,
    [R12] = REG_R12, [R13] = REG_R13, [R14] = REG_R14, [R15] = REG_R15,
};

static void load_gprs(struct worker *w, const struct cpu *c)
{
    uint64_t flags = (c->rflags & FLAGS_SHARED) | RFLAGS_IF | RFLAGS_FIXED1;
    greg_t *g;

    if (w->rest == REST_EXIT) {
        memcpy(w->to_regs->gpr, c->gpr, sizeof(w->to_regs->gpr));
        w->to_regs->flags = flags;
        return;
    }
    g = w->uc->uc_mcontext.gregs;
    for (unsigned i = 0; i < NR_GPRS; i++)
        g[greg_of[i]] = (greg_t)c->gpr[i];
    g[REG_EFL] = (greg_t)flags;
}

void regs_load(struct space *s, const struct cpu *c)
{
    struct xsave_area *x = s->w.to_fpu;
    uint32_t mask = x->mxcsr_mask;

    load_gprs(&s->w, c);
    memcpy(x, &c->fpu, LEGACY_BYTES);
    x->mxcsr_mask = mask;
    memcpy(x->ymmh, c->fpu.ymmh, sizeof(x->ymmh));
    /* Everything else, such as what a former stop may have left of AVX-512, becomes initial. The
     * host's protection keys, if any, stay the kernel's. */
    x->xstate_bv = (x->xstate_bv & XCR0_PKRU) | XCR0_X87 | XCR0_SSE | (s->code.avx ? XCR0_AVX : 0);
}

static uint64_t scratch(const struct space *s, unsigned n)
{
    uint64_t x;

    memcpy(&x, s->w.hva + HOME_OUT + OUT_SCRATCH + 8 * n, sizeof(x));
    return x;
}

uint64_t regs_target(const struct space *s)
{
    return scratch(s, 2);
}

uint32_t regs_host_pc(const struct space *s)
{
    uint64_t off = (uint64_t)s->w.uc->uc_mcontext.gregs[REG_RIP] - (s->w.home + HOME_CODE);

    return off < HOME_CODE_BYTES ? (uint32_t)off : REGS_OUTSIDE;
}

/*
 * An indirect branch to a non-canonical address faults itself (SDM 2, RET and CALL: #GP), so it has
 * not happened. False: what the home says about it is not true.
 */
static bool untake_branch(const struct space *s, struct cpu *c)
{
    uint32_t host = (uint32_t)scratch(s, 3);
    const struct xit *site = dcode_xit_at(&s->code, host);
    struct point p;

    if (!site || site->kind != XIT_SITE || !dcode_point_at(&s->code, host, &p))
        return false;
    c->rip = p.rip;
    c->gpr[RSP] -= site->target;
    return true;
}

/* Of an instruction that was translated: the guest's address of it, and its ModRM in FOP. */
static void translate_fip(const struct space *s, struct cpu *c)
{
    uint64_t off = c->fpu.fip - (s->w.home + HOME_CODE);
    struct point p = { 0 };

    if (off >= HOME_CODE_BYTES)
        return;
    (void)dcode_point_at(&s->code, (uint32_t)off, &p);
    c->fpu.fip = p.rip; /* 0: of a translation that is gone */
    if (p.undo == UNDO_REG || p.reg == POINT_ABSOLUTE)
        c->fpu.fop = (uint16_t)((c->fpu.fop & ~0xc7u) | 5); /* [rip + disp32] */
}

/* What the processor leaves out because it is initial, it does not write either. */
static void save_vectors(const struct space *s, struct cpu *c)
{
    const struct xsave_area *x = s->w.fpu;
    uint32_t mask = c->fpu.mxcsr_mask;

    if (x->xstate_bv & XCR0_X87) {
        memcpy(&c->fpu, x, offsetof(struct xsave_area, mxcsr));
        memcpy(c->fpu.st, x->st, sizeof(x->st));
    } else {
        memset(&c->fpu, 0, offsetof(struct xsave_area, mxcsr));
        memset(c->fpu.st, 0, sizeof(x->st));
        c->fpu.fcw = 0x37f;
    }
    c->fpu.mxcsr = x->mxcsr;
    c->fpu.mxcsr_mask = mask;
    if (x->xstate_bv & XCR0_SSE)
        memcpy(c->fpu.xmm, x->xmm, sizeof(x->xmm));
    else
        memset(c->fpu.xmm, 0, sizeof(x->xmm));
    if (!s->code.avx)
        return; /* not in use: keeps what it was */
    if (x->xstate_bv & XCR0_AVX)
        memcpy(c->fpu.ymmh, x->ymmh, sizeof(x->ymmh));
    else
        memset(c->fpu.ymmh, 0, sizeof(x->ymmh));
}

static void save_gprs(const struct worker *w, struct cpu *c)
{
    const greg_t *g;
    uint64_t flags;

    if (w->rest == REST_EXIT) {
        memcpy(c->gpr, w->regs->gpr, sizeof(w->regs->gpr));
        flags = w->regs->flags;
    } else {
        g = w->uc->uc_mcontext.gregs;
        for (unsigned i = 0; i < NR_GPRS; i++)
            c->gpr[i] = (uint64_t)g[greg_of[i]];
        flags = (uint64_t)g[REG_EFL];
    }
    c->rflags = (c->rflags & ~(uint64_t)FLAGS_SHARED) | (flags & FLAGS_SHARED);
}

/* What a signal stopped in the middle of. */
static bool undo(const struct space *s, struct cpu *c)
{
    uint32_t host = regs_host_pc(s);
    struct point p = { .undo = UNDO_TARGET };

    if (host != REGS_OUTSIDE ? !dcode_point_at(&s->code, host, &p)
                             : s->w.uc->uc_mcontext.gregs[REG_RIP] != 0)
        return false; /* an empty entry of the table leads to address 0 */
    c->rip = p.rip;
    switch ((enum undo)p.undo) {
    case UNDO_NONE:
        break;
    case UNDO_REG:
        c->gpr[p.reg] = scratch(s, 0);
        break;
    case UNDO_TSC:
        c->gpr[RAX] = scratch(s, 7);
        c->gpr[RDX] = scratch(s, 4);
        break;
    case UNDO_FLAGS:
        c->rflags = (c->rflags & ~(uint64_t)RFLAGS_ARITH) |
                    (scratch(s, 6) >> 8 & RFLAGS_ARITH & 0xff) |
                    (scratch(s, 6) & 1 ? RFLAGS_OF : 0);
        /* fall through */
    case UNDO_HASH:
        c->gpr[RDX] = scratch(s, 5);
        c->gpr[RAX] = scratch(s, 7);
        /* fall through */
    case UNDO_TARGET:
        c->rip = scratch(s, 2);
        if (!is_canonical(c, c->rip) && !untake_branch(s, c))
            return false;
        /* fall through */
    case UNDO_TWO:
        c->gpr[RCX] = scratch(s, 0);
        c->gpr[R11] = scratch(s, 1);
        break;
    }
    return true;
}

bool regs_save(const struct space *s, struct cpu *c)
{
    save_gprs(&s->w, c);
    if (s->w.rest == REST_EXIT) {
        const struct xit *x = dcode_xit_at(&s->code, (uint32_t)s->w.regs->pc);

        if (!x)
            return false;
        c->rip = x->target;
    } else if (!undo(s, c)) {
        return false;
    }
    save_vectors(s, c);
    translate_fip(s, c);
    return true;
}
