/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is a state one that a processor can be in? For states that come from outside: a snapshot's file
 * may have been damaged, or made to do harm. The rules are those by which the instructions that
 * change the state refuse values (control.c, msr.c, xsave.c).
 */
#include "cpu/cpu.h"

#define MXCSR_KNOWN 0xffffu

static bool control_ok(const struct cpu *c)
{
    bool pg = c->cr0 & CR0_PG, pe = c->cr0 & CR0_PE, lme = c->efer & EFER_LME;
    bool lma = c->efer & EFER_LMA;
    uint64_t cr4 = cpu_cr4_known(c);
    uint64_t efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE | EFER_FFXSR | EFER_AIBRSE;

    if (model_has(c->model, FEAT_SVM))
        efer |= EFER_SVME;
    if (c->cr0 >> 32 || (pg && !pe) || ((c->cr0 & CR0_NW) && !(c->cr0 & CR0_CD)))
        return false;
    if (model_has(c->model, FEAT_VMX))
        cr4 |= CR4_VMXE;
    if (c->cr4 & ~cr4 || c->efer & ~efer || lma != (lme && pg))
        return false;
    if (lma && (!(c->cr4 & CR4_PAE) || c->cr3 >> c->model->phys_bits))
        return false;
    return lma || !(c->cr4 & CR4_PCIDE);
}

static bool bases_ok(const struct cpu *c)
{
    const uint64_t at[] = {
        c->seg[SEG_FS].base, c->seg[SEG_GS].base, c->kernel_gs_base, c->gdtr.base, c->idtr.base,
        c->tr.base,          c->ldtr.base,        c->lstar,          c->cstar,     c->sysenter_esp,
        c->sysenter_eip
    };

    for (unsigned i = 0; i < ARRAY_SIZE(at); i++)
        if (!is_canonical(c, at[i]))
            return false;
    return true;
}

static bool vectors_ok(const struct cpu *c)
{
    uint64_t xcr0 = c->xcr0;

    if (!(xcr0 & XCR0_X87) || xcr0 & ~(c->model->xcr0 | XCR0_X87))
        return false;
    if ((xcr0 & XCR0_AVX) && !(xcr0 & XCR0_SSE))
        return false;
    return !(c->fpu.mxcsr & ~MXCSR_KNOWN);
}

static bool ring_ok(const struct cpu *c)
{
    bool pe = c->cr0 & CR0_PE, vm = c->rflags & RFLAGS_VM;

    if (c->cpl > 3 || (!pe && (c->cpl || vm)))
        return false;
    if (c->efer & EFER_LMA)
        return !vm;
    return !vm || c->cpl == 3;
}

const char *cpu_state_wrong(struct cpu *c)
{
    if (!control_ok(c))
        return "control registers";
    if (!ring_ok(c))
        return "privilege level";
    if (!bases_ok(c))
        return "an address that is not canonical";
    if (!vectors_ok(c))
        return "XCR0 or MXCSR";
    if (c->dr6 >> 32 || c->dr7 >> 32)
        return "debug registers";
    if (c->activity != CPU_RUNNING && c->activity != CPU_HALTED && c->activity != CPU_WAIT_SIPI &&
        c->activity != CPU_SHUTDOWN)
        return "activity state";
    c->rflags |= RFLAGS_FIXED1;
    c->cr0 |= CR0_ET;
    cpu_update_mode(c);
    return NULL;
}
