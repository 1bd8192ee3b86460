/* SPDX-License-Identifier: Apache-2.0 */
/* PUSHF, POPF, CLI, STI by mode, CPL, IOPL and the virtual-8086 and protected-mode virtual
 * interrupt extensions. */
#include "cpu/cpu.h"

/* v8086 at IOPL < 3 with VME and a 16-bit operand: IF stands for VIF. */
static bool vme_flags(const struct cpu *c, unsigned op_bytes)
{
    return (c->cr4 & CR4_VME) && op_bytes == 2;
}

enum step cpu_pushf(struct cpu *c, unsigned op_bytes)
{
    uint64_t image = c->rflags & ~(uint64_t)(RFLAGS_VM | RFLAGS_RF);

    if ((c->mode & MODE_VM86) && iopl(c) < 3) {
        if (!vme_flags(c, op_bytes))
            return raise_gp(c, 0);
        image =
            (image & ~(uint64_t)RFLAGS_IF) | RFLAGS_IOPL | (c->rflags & RFLAGS_VIF ? RFLAGS_IF : 0);
    }
    return cpu_push(c, image, op_bytes);
}

enum step cpu_popf(struct cpu *c, unsigned op_bytes)
{
    uint64_t may = RFLAGS_ARITH | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT, image, mask, sp;
    bool vme = false;
    enum step st;

    if ((c->mode & MODE_VM86) && iopl(c) < 3) {
        if (!vme_flags(c, op_bytes))
            return raise_gp(c, 0);
        vme = true;
    }
    st = cpu_pop(c, &image, op_bytes);
    if (st != STEP_NEXT)
        return st;
    if (vme) {
        if ((image & RFLAGS_TF) || ((image & RFLAGS_IF) && (c->rflags & RFLAGS_VIP)))
            return raise_gp(c, 0);
        c->rflags = image & RFLAGS_IF ? c->rflags | RFLAGS_VIF : c->rflags & ~(uint64_t)RFLAGS_VIF;
    } else if (!(c->mode & MODE_PE) || c->cpl <= iopl(c)) {
        may |= RFLAGS_IF;
    }
    if (c->cpl == 0)
        may |= RFLAGS_IOPL;
    if (op_bytes >= 4)
        may |= RFLAGS_AC | RFLAGS_ID;
    mask = in_long64(c) ? ~0ull : c->mode & MODE_SS32 ? 0xffffffffu : 0xffffu;
    sp = (c->gpr[RSP] + op_bytes) & mask;
    c->gpr[RSP] = mask == 0xffff ? (c->gpr[RSP] & ~mask) | sp : sp;
    c->rflags =
        (c->rflags & ~(may | (op_bytes >= 4 ? RFLAGS_RF : 0u))) | (image & may) | RFLAGS_FIXED1;
    cpu_update_mode(c);
    return STEP_NEXT;
}

/* Does this mode use VIF in place of IF? (v8086 with VME, CPL 3 with PVI, when IOPL is too low) */
static bool virtual_if(const struct cpu *c)
{
    if (c->mode & MODE_VM86)
        return c->cr4 & CR4_VME;
    return c->cpl == 3 && (c->cr4 & CR4_PVI);
}

static bool may_change_if(const struct cpu *c)
{
    if (!(c->mode & MODE_PE))
        return true;
    return c->mode & MODE_VM86 ? iopl(c) == 3 : c->cpl <= iopl(c);
}

enum step cpu_cli(struct cpu *c)
{
    if (may_change_if(c))
        c->rflags &= ~(uint64_t)RFLAGS_IF;
    else if (virtual_if(c))
        c->rflags &= ~(uint64_t)RFLAGS_VIF;
    else
        return raise_gp(c, 0);
    return STEP_NEXT;
}

enum step cpu_sti(struct cpu *c)
{
    if (may_change_if(c)) {
        c->shadow_sti = !(c->rflags & RFLAGS_IF);
        c->rflags |= RFLAGS_IF;
    } else if (virtual_if(c) && !(c->rflags & RFLAGS_VIP)) {
        c->rflags |= RFLAGS_VIF;
    } else {
        return raise_gp(c, 0);
    }
    return STEP_NEXT;
}
