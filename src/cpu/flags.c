/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instructions that move or change the system flags: PUSHF, POPF, CLI, STI (SDM 2, their pages,
 * with the tables of what they do by mode, CPL, IOPL, VME and PVI; SDM 3, "Protected-Mode Virtual
 * Interrupts").
 *
 * Where IOPL is below 3 and VME (v8086 mode) or PVI (ring 3) is on, VIF stands in for IF.
 */
#include "cpu/desc.h"

/* PUSHFD and PUSHFQ never show these. */
#define PUSHED_CLEAR (RFLAGS_VM | RFLAGS_RF)
/* What POPF may change at all, before privilege. */
#define POPF_MASK                                                                             \
    (RFLAGS_ARITH | RFLAGS_TF | RFLAGS_IF | RFLAGS_DF | RFLAGS_IOPL | RFLAGS_NT | RFLAGS_AC | \
     RFLAGS_ID)

static bool in_vm86(const struct cpu *c)
{
    return c->mode & MODE_VM86;
}

static uint64_t with(uint64_t flags, uint64_t bit, bool on)
{
    return on ? flags | bit : flags & ~bit;
}

enum step cpu_pushf(struct cpu *c, unsigned op_bytes)
{
    uint64_t image = c->rflags & ~(uint64_t)PUSHED_CLEAR;

    if (in_vm86(c) && iopl(c) < 3) {
        if (!(c->cr4 & CR4_VME) || op_bytes != 2)
            return raise_gp(c, 0);
        image = with(image, RFLAGS_IF, image & RFLAGS_VIF) | RFLAGS_IOPL;
    }
    return cpu_push(c, image, op_bytes);
}

/* POPF in v8086 mode with IOPL < 3 and VME: IF of the image means VIF. */
static enum step popf_vme(struct cpu *c, uint64_t image, uint64_t *flags)
{
    uint64_t mask = POPF_MASK & 0xffff & ~(RFLAGS_IF | RFLAGS_IOPL);

    if ((image & RFLAGS_TF) || ((image & RFLAGS_IF) && (c->rflags & RFLAGS_VIP)))
        return raise_gp(c, 0);
    *flags = (c->rflags & ~mask) | (image & mask);
    *flags = with(*flags, RFLAGS_VIF, image & RFLAGS_IF);
    return STEP_NEXT;
}

enum step cpu_popf(struct cpu *c, unsigned op_bytes)
{
    struct stack sp = stack_current(c);
    uint64_t image, flags = 0, mask = op_bytes == 2 ? POPF_MASK & 0xffff : POPF_MASK;
    bool vme = in_vm86(c) && iopl(c) < 3;
    enum step st;

    if (vme && (!(c->cr4 & CR4_VME) || op_bytes != 2))
        return raise_gp(c, 0);
    st = stack_peek(c, &sp, 0, op_bytes, &image);
    if (st == STEP_NEXT && vme)
        st = popf_vme(c, image, &flags);
    if (st != STEP_NEXT)
        return st;
    if (!vme) {
        if (c->cpl > 0)
            mask &= ~(uint64_t)RFLAGS_IOPL;
        if (c->cpl > iopl(c))
            mask &= ~(uint64_t)RFLAGS_IF;
        flags = (c->rflags & ~mask) | (image & mask);
    }
    c->rflags = flags & ~(uint64_t)RFLAGS_RF;
    stack_move(&sp, op_bytes);
    c->gpr[RSP] = stack_rsp(c, &sp, in_long64(c));
    cpu_update_mode(c);
    return STEP_NEXT;
}

/* Which flag CLI and STI change here: IF, VIF or none. */
static uint64_t interrupt_flag(const struct cpu *c)
{
    if (!(c->mode & MODE_PE) || iopl(c) >= c->cpl) /* in v8086 mode CPL is 3 */
        return RFLAGS_IF;
    if (in_vm86(c))
        return c->cr4 & CR4_VME ? RFLAGS_VIF : 0;
    return c->cpl == 3 && (c->cr4 & CR4_PVI) ? RFLAGS_VIF : 0;
}

enum step cpu_cli(struct cpu *c)
{
    uint64_t flag = interrupt_flag(c);

    if (!flag)
        return raise_gp(c, 0);
    c->rflags &= ~flag;
    return STEP_NEXT;
}

enum step cpu_sti(struct cpu *c)
{
    uint64_t flag = interrupt_flag(c);

    if (!flag || (flag == RFLAGS_VIF && (c->rflags & RFLAGS_VIP)))
        return raise_gp(c, 0);
    /* "If IF = 0, maskable hardware interrupts remain blocked on the instruction boundary following
     * an execution of STI" (SDM 2, STI): not if it was set already. */
    if (flag == RFLAGS_IF && !(c->rflags & RFLAGS_IF))
        c->shadow_sti = true;
    c->rflags |= flag;
    return STEP_NEXT;
}
