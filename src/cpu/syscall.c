/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fast system calls and SWAPGS (SDM 2 and APM 3, each by its name).
 *
 * Intel and AMD disagree about them: SYSCALL outside 64-bit mode exists on AMD only, SYSENTER in
 * long mode on Intel only, and SYSRET checks RCX on Intel only. The model's vendor decides.
 */
#include "cpu/cpu.h"

#define FLAT_LIMIT  0xffffffffu
#define ATTR_COMMON (SEG_S | SEG_P | SEG_G | SEG_TYPE_ACCESSED)
#define ATTR_CODE   (ATTR_COMMON | SEG_TYPE_CODE | SEG_TYPE_READABLE)
#define ATTR_DATA   (ATTR_COMMON | SEG_TYPE_WRITABLE | SEG_DB)

static bool is_intel(const struct cpu *c)
{
    return c->model->vendor == VENDOR_INTEL;
}

static bool long_mode(const struct cpu *c)
{
    return c->efer & EFER_LMA;
}

/* These instructions load fixed attributes and never look at the descriptor tables. */
static void set_code(struct cpu *c, uint16_t sel, unsigned dpl, bool is64)
{
    c->seg[SEG_CS] = (struct seg){
        .sel = sel,
        .limit = FLAT_LIMIT,
        .attr = ATTR_CODE | dpl << SEG_DPL_SHIFT | (is64 ? SEG_L : SEG_DB),
    };
}

static void set_stack(struct cpu *c, uint16_t sel, unsigned dpl)
{
    c->seg[SEG_SS] = (struct seg){
        .sel = sel,
        .limit = FLAT_LIMIT,
        .attr = ATTR_DATA | dpl << SEG_DPL_SHIFT,
    };
}

static void enter_ring(struct cpu *c, unsigned cpl)
{
    c->cpl = (uint8_t)cpl;
    cpu_update_mode(c);
}

/* APM 3, "SYSCALL", legacy mode: 32-bit target in STAR, flags are not saved. */
static enum step syscall_legacy(struct cpu *c)
{
    uint16_t sel = (uint16_t)bits(c->star, 47, 32);

    c->gpr[RCX] = (uint32_t)c->next_rip;
    c->rflags &= ~(uint64_t)(RFLAGS_IF | RFLAGS_RF | RFLAGS_VM);
    set_code(c, sel & 0xfffc, 0, false);
    set_stack(c, (uint16_t)((sel & 0xfffc) + 8), 0);
    c->rip = (uint32_t)c->star;
    enter_ring(c, 0);
    return STEP_NEXT;
}

enum step cpu_syscall(struct cpu *c)
{
    uint16_t sel = (uint16_t)bits(c->star, 47, 32) & 0xfffc;

    if (!(c->efer & EFER_SCE) || !in_protected(c))
        return raise_ud(c);
    if (is_intel(c) && !in_long64(c))
        return raise_ud(c);
    if (!long_mode(c))
        return syscall_legacy(c);
    c->gpr[RCX] = in_long64(c) ? c->next_rip : (uint32_t)c->next_rip;
    c->gpr[R11] = c->rflags & ~(uint64_t)RFLAGS_RF;
    c->rip = in_long64(c) ? c->lstar : c->cstar;
    c->rflags &= ~(c->sfmask | RFLAGS_RF);
    c->rflags |= RFLAGS_FIXED1;
    set_code(c, sel, 0, true);
    set_stack(c, (uint16_t)(sel + 8), 0);
    enter_ring(c, 0);
    return STEP_NEXT;
}

/* The stack segment on the way back: AMD changes the selector only (APM 3, "SYSRET"). */
static void sysret_stack(struct cpu *c, uint16_t sel)
{
    if (is_intel(c))
        set_stack(c, sel, 3);
    else
        c->seg[SEG_SS].sel = sel;
}

enum step cpu_sysret(struct cpu *c, unsigned op_bytes)
{
    uint16_t sel = (uint16_t)bits(c->star, 63, 48);
    bool is64 = op_bytes == 8;

    if (!(c->efer & EFER_SCE) || !in_protected(c))
        return raise_ud(c);
    if (is_intel(c) && !in_long64(c))
        return raise_ud(c);
    if (c->cpl != 0)
        return raise_gp(c, 0);
    /* On AMD the jump is made, and faults at its target in ring 3. */
    if (is64 && is_intel(c) && !is_canonical(c, c->gpr[RCX]))
        return raise_gp(c, 0);
    if (long_mode(c))
        c->rflags = (c->gpr[R11] & SYSRET_FLAGS) | RFLAGS_FIXED1;
    else
        c->rflags |= RFLAGS_IF;
    c->rip = is64 ? c->gpr[RCX] : (uint32_t)c->gpr[RCX];
    set_code(c, (uint16_t)((sel + (is64 ? 16 : 0)) | 3), 3, is64);
    sysret_stack(c, (uint16_t)((sel + 8) | 3));
    enter_ring(c, 3);
    return STEP_NEXT;
}

enum step cpu_sysenter(struct cpu *c)
{
    uint16_t sel = c->sysenter_cs & 0xfffc;
    bool lm = long_mode(c);

    if (lm && !is_intel(c))
        return raise_ud(c);
    if (!(c->cr0 & CR0_PE) || sel == 0)
        return raise_gp(c, 0);
    c->rflags &= ~(uint64_t)(RFLAGS_VM | RFLAGS_IF | RFLAGS_RF);
    c->gpr[RSP] = lm ? c->sysenter_esp : (uint32_t)c->sysenter_esp;
    c->rip = lm ? c->sysenter_eip : (uint32_t)c->sysenter_eip;
    set_code(c, sel, 0, lm);
    set_stack(c, (uint16_t)(sel + 8), 0);
    enter_ring(c, 0);
    return STEP_NEXT;
}

enum step cpu_sysexit(struct cpu *c, unsigned op_bytes)
{
    uint16_t sel = c->sysenter_cs & 0xfffc;
    bool is64 = op_bytes == 8;

    /* AMD's processors look at CPL before they look at the mode. */
    if (!(c->cr0 & CR0_PE) || c->cpl != 0)
        return raise_gp(c, 0);
    if (long_mode(c) && !is_intel(c))
        return raise_ud(c);
    if (sel == 0)
        return raise_gp(c, 0);
    if (is64 && (!is_canonical(c, c->gpr[RCX]) || !is_canonical(c, c->gpr[RDX])))
        return raise_gp(c, 0);
    c->gpr[RSP] = is64 ? c->gpr[RCX] : (uint32_t)c->gpr[RCX];
    c->rip = is64 ? c->gpr[RDX] : (uint32_t)c->gpr[RDX];
    set_code(c, (uint16_t)((sel + (is64 ? 32 : 16)) | 3), 3, is64);
    set_stack(c, (uint16_t)((sel + (is64 ? 40 : 24)) | 3), 3);
    enter_ring(c, 3);
    return STEP_NEXT;
}

enum step cpu_swapgs(struct cpu *c)
{
    uint64_t base = c->seg[SEG_GS].base;

    if (!in_long64(c))
        return raise_ud(c);
    if (c->cpl != 0)
        return raise_gp(c, 0);
    c->seg[SEG_GS].base = c->kernel_gs_base;
    c->kernel_gs_base = base;
    return STEP_NEXT;
}
