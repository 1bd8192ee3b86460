/* SPDX-License-Identifier: Apache-2.0 */
/*
 * IRET in all its forms (SDM 2, IRET/IRETD/IRETQ; SDM 3, "Entering Virtual-8086 Mode"): real and
 * v8086 mode, to the same and to an outer ring, to v8086 mode, in 64-bit code (always with SS:RSP),
 * and with NT set, which is task.c's.
 */
#include "cpu/desc.h"

/* What a 32-bit IRET in real mode takes: all but VM, VIF and VIP (SDM 2, IRET). */
#define REAL_MASK32 (RFLAGS_KNOWN & ~(RFLAGS_VM | RFLAGS_VIF | RFLAGS_VIP | RFLAGS_FIXED1))
#define MASK16      (RFLAGS_KNOWN & ~RFLAGS_FIXED1 & 0xffffu)

struct frame {
    struct stack st;
    uint64_t rip, cs, rflags;
};

static enum step read_frame(struct cpu *c, unsigned op_bytes, struct frame *f)
{
    enum step st;

    f->st = stack_current(c);
    st = stack_peek(c, &f->st, 0, op_bytes, &f->rip);
    if (st == STEP_NEXT)
        st = stack_peek(c, &f->st, op_bytes, op_bytes, &f->cs);
    if (st == STEP_NEXT)
        st = stack_peek(c, &f->st, 2 * op_bytes, op_bytes, &f->rflags);
    stack_move(&f->st, 3 * op_bytes);
    return st;
}

/* RF was cleared when IRET began to execute, so an image without it leaves it clear. */
static uint64_t replace_flags(const struct cpu *c, uint64_t image, uint64_t mask)
{
    return (c->rflags & ~mask & ~(uint64_t)RFLAGS_RF) | (image & mask);
}

static void commit_real(struct cpu *c, const struct frame *f)
{
    c->gpr[RSP] = stack_rsp(c, &f->st, false);
    cpu_load_seg_real(c, SEG_CS, (uint16_t)f->cs);
    c->rip = f->rip;
    cpu_update_mode(c);
}

static enum step iret_real(struct cpu *c, unsigned op_bytes)
{
    struct frame f;
    enum step st = read_frame(c, op_bytes, &f);

    if (st != STEP_NEXT)
        return st;
    if (f.rip > c->seg[SEG_CS].limit)
        return raise_gp(c, 0);
    c->rflags = replace_flags(c, f.rflags, op_bytes == 2 ? MASK16 : REAL_MASK32);
    commit_real(c, &f);
    return STEP_NEXT;
}

/* In v8086 mode, to v8086 mode. IOPL, VM, VIP and (but for VME) VIF stay. */
static enum step iret_vm86(struct cpu *c, unsigned op_bytes)
{
    uint64_t mask = op_bytes == 2 ? MASK16 : REAL_MASK32;
    bool vme = iopl(c) < 3;
    struct frame f;
    enum step st;

    if (vme && (!(c->cr4 & CR4_VME) || op_bytes != 2))
        return raise_gp(c, 0);
    st = read_frame(c, op_bytes, &f);
    if (st != STEP_NEXT)
        return st;
    if (f.rip > c->seg[SEG_CS].limit)
        return raise_gp(c, 0);
    mask &= ~(uint64_t)RFLAGS_IOPL;
    if (vme) { /* SDM 3, "Interrupt and Exception Handling in Virtual-8086 Mode": IF means VIF */
        if ((f.rflags & RFLAGS_TF) || ((f.rflags & RFLAGS_IF) && (c->rflags & RFLAGS_VIP)))
            return raise_gp(c, 0);
        mask = (mask & ~(uint64_t)RFLAGS_IF) | RFLAGS_VIF;
        f.rflags = (f.rflags & ~(uint64_t)RFLAGS_VIF) | (f.rflags & RFLAGS_IF ? RFLAGS_VIF : 0);
    }
    c->rflags = replace_flags(c, f.rflags, mask);
    commit_real(c, &f);
    return STEP_NEXT;
}

/* From ring 0 to v8086 mode: six more doublewords. */
static enum step iret_to_vm86(struct cpu *c, const struct frame *f)
{
    static const enum seg_id order[] = { SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS };
    uint64_t esp, sel[ARRAY_SIZE(order)];
    enum step st = stack_peek(c, &f->st, 0, 4, &esp);

    for (unsigned i = 0; i < ARRAY_SIZE(order) && st == STEP_NEXT; i++)
        st = stack_peek(c, &f->st, 4 + 4 * i, 4, &sel[i]);
    if (st != STEP_NEXT)
        return st;
    if (f->rip > UINT16_MAX)
        return raise_gp(c, 0);
    c->rflags = (f->rflags & RFLAGS_KNOWN) | RFLAGS_FIXED1;
    c->seg[SEG_CS] = seg_vm86((uint16_t)f->cs);
    for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
        c->seg[order[i]] = seg_vm86((uint16_t)sel[i]);
    c->gpr[RSP] = esp;
    c->rip = f->rip;
    cpu_update_mode(c);
    return STEP_NEXT;
}

/* Which flags the image may change depends on the ring that executes IRET. */
static uint64_t protected_mask(const struct cpu *c, unsigned op_bytes)
{
    uint64_t mask = RFLAGS_ARITH | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT;

    if (op_bytes > 2)
        mask |= RFLAGS_RF | RFLAGS_AC | RFLAGS_ID;
    if (c->cpl <= iopl(c))
        mask |= RFLAGS_IF;
    if (c->cpl == 0)
        mask |= RFLAGS_IOPL | (op_bytes > 2 ? RFLAGS_VIF | RFLAGS_VIP : 0);
    return mask;
}

/* RIP is looked at before SS by AMD's processors, and behind it by Intel's (seen on both). */
static enum step read_outer_stack(struct cpu *c, const struct frame *f, unsigned op_bytes,
                                  struct target *t, struct stack *out)
{
    bool intel = c->model->vendor == VENDOR_INTEL;
    uint64_t ss = 0;
    enum step st = stack_peek(c, &f->st, 0, op_bytes, &out->sp);

    if (st == STEP_NEXT)
        st = stack_peek(c, &f->st, op_bytes, op_bytes, &ss);
    if (st == STEP_NEXT)
        st = intel ? return_stack(c, t, (uint16_t)ss, out) : target_check_rip(c, t);
    if (st == STEP_NEXT)
        st = intel ? target_check_rip(c, t) : return_stack(c, t, (uint16_t)ss, out);
    return st;
}

static enum step iret_protected(struct cpu *c, unsigned op_bytes)
{
    struct stack out = { .sp = 0 };
    struct target t = { 0 };
    struct frame f;
    bool with_stack;
    enum step st = read_frame(c, op_bytes, &f);

    if (st != STEP_NEXT)
        return st;
    if ((f.rflags & RFLAGS_VM) && op_bytes == 4 && c->cpl == 0 && !in_ia32e(c))
        return iret_to_vm86(c, &f);
    st = return_target(c, (uint16_t)f.cs, f.rip, &t);
    if (st != STEP_NEXT)
        return st;
    with_stack = in_long64(c) || t.cpl > c->cpl;
    st = with_stack ? read_outer_stack(c, &f, op_bytes, &t, &out) : target_check_rip(c, &t);
    if (st == STEP_NEXT)
        st = desc_set_accessed(c, &t.desc);
    if (st != STEP_NEXT)
        return st;
    c->rflags = replace_flags(c, f.rflags, protected_mask(c, op_bytes));
    if (with_stack) {
        return_commit(c, &t, &out);
        return STEP_NEXT;
    }
    c->gpr[RSP] = stack_rsp(c, &f.st, false);
    target_commit(c, &t);
    cpu_update_mode(c);
    return STEP_NEXT;
}

enum step cpu_iret(struct cpu *c, unsigned op_bytes)
{
    /* SDM 3, "Handling Multiple NMIs": NMIs are possible again, even if this IRET faults. */
    c->nmi_blocked = false;
    if (!(c->mode & MODE_PE))
        return iret_real(c, op_bytes);
    if (c->mode & MODE_VM86)
        return iret_vm86(c, op_bytes);
    if (!(c->rflags & RFLAGS_NT))
        return iret_protected(c, op_bytes);
    return in_ia32e(c) ? raise_gp(c, 0) : task_return(c);
}
