/* SPDX-License-Identifier: Apache-2.0 */
/* Reset, derived mode bits, and raising exceptions. */
#include "cpu/cpu.h"

static void reset_seg(struct seg *s, uint16_t sel, uint64_t base, uint32_t attr)
{
    *s = (struct seg){ .sel = sel, .base = base, .limit = 0xffff, .attr = attr };
}

/* SDM 3, "Processor State After Reset" */
void cpu_reset(struct cpu *c, enum reset_kind kind)
{
    for (unsigned i = 0; i < NR_GPRS + 2; i++)
        c->gpr[i] = 0;
    c->gpr[RDX] = c->model->signature;
    c->rip = c->next_rip = 0xfff0;
    c->rflags = RFLAGS_FIXED1;
    for (unsigned i = 0; i < NR_SEGS; i++)
        reset_seg(&c->seg[i], 0, 0, SEG_P | SEG_S | SEG_TYPE_WRITABLE | SEG_TYPE_ACCESSED);
    reset_seg(&c->seg[SEG_CS], 0xf000, 0xffff0000,
              SEG_P | SEG_S | SEG_TYPE_CODE | SEG_TYPE_READABLE | SEG_TYPE_ACCESSED);
    reset_seg(&c->ldtr, 0, 0, SEG_P | SYS_LDT);
    reset_seg(&c->tr, 0, 0, SEG_P | SYS_TSS_BUSY);
    c->gdtr = c->idtr = (struct dtable){ .limit = 0xffff };
    /* INIT keeps CD and NW; doppel has no caches, so both begin as after power-on. */
    c->cr0 = CR0_CD | CR0_NW | CR0_ET;
    c->cr2 = c->cr3 = c->cr4 = c->efer = 0;
    c->cpl = 0;
    for (unsigned i = 0; i < 4; i++)
        c->dr[i] = c->pdpte[i] = 0;
    c->dr6 = DR6_FIXED1;
    c->dr7 = DR7_FIXED1;
    c->activity = CPU_RUNNING;
    c->exc = c->delivering = (struct cpu_exc){ 0 };
    c->pending_dbg = 0;
    c->shadow_sti = c->shadow_movss = c->nmi_blocked = c->nmi_pending = false;
    if (kind == RESET_POWER_ON) {
        c->xcr0 = XCR0_X87;
        c->fpu = (struct xsave_area){ .fcw = 0x37f, .mxcsr = 0x1f80 };
        c->fpu_cs = c->fpu_ds = 0;
        c->star = c->lstar = c->cstar = c->sfmask = c->kernel_gs_base = c->tsc_aux = 0;
        c->sysenter_cs = c->sysenter_esp = c->sysenter_eip = 0;
        c->pat = 0x0007040600070406ull;
        c->tsc_adjust = 0;
        c->misc_enable = 1; /* fast strings */
        c->mtrr_def_type = 0;
        for (unsigned i = 0; i < 8; i++)
            c->mtrr_physbase[i] = c->mtrr_physmask[i] = 0;
        for (unsigned i = 0; i < 11; i++)
            c->mtrr_fixed[i] = 0;
        c->mcg_status = 0;
    }
    apic_reset(c, kind == RESET_POWER_ON);
    cpu_update_mode(c);
}

void cpu_update_mode(struct cpu *c)
{
    uint32_t m = 0;

    if (c->cr0 & CR0_PE)
        m |= MODE_PE;
    if (c->cr0 & CR0_PG)
        m |= MODE_PG;
    if (c->efer & EFER_LMA)
        m |= MODE_LMA;
    if ((m & MODE_PE) && (c->rflags & RFLAGS_VM))
        m |= MODE_VM86;
    if (!(m & MODE_PE))
        c->cpl = 0;
    else if (m & MODE_VM86)
        c->cpl = 3;
    if ((m & MODE_PE) && !(m & MODE_VM86)) {
        if ((m & MODE_LMA) && (c->seg[SEG_CS].attr & SEG_L))
            m |= MODE_CS64;
        else if (c->seg[SEG_CS].attr & SEG_DB)
            m |= MODE_CS32;
    } else if (!(m & MODE_PE)) {
        /* Real mode with the D bit that a descriptor left ("unreal" code). */
        if (c->seg[SEG_CS].attr & SEG_DB)
            m |= MODE_CS32;
    }
    if ((c->seg[SEG_SS].attr & SEG_DB) && !(m & MODE_VM86))
        m |= MODE_SS32;
    if (c->cpl == 3)
        m |= MODE_USER;
    if ((c->rflags & RFLAGS_AC) && c->cpl < 3)
        m |= MODE_AC;
    c->mode = m;
}

static enum step set_exc(struct cpu *c, enum vector vec, bool has_err, uint32_t err, uint64_t addr)
{
    c->exc = (struct cpu_exc){
        .valid = true, .vector = (uint8_t)vec, .has_err = has_err, .err = err, .addr = addr
    };
    return STEP_FAULT;
}

enum step raise_vec(struct cpu *c, enum vector vec)
{
    return set_exc(c, vec, false, 0, 0);
}

enum step raise_err(struct cpu *c, enum vector vec, uint32_t err)
{
    return set_exc(c, vec, true, err, 0);
}

enum step raise_pf(struct cpu *c, gva_t at, uint32_t err)
{
    return set_exc(c, VEC_PF, true, err, at.v);
}

enum step raise_db(struct cpu *c, uint64_t dr6)
{
    return set_exc(c, VEC_DB, false, 0, dr6);
}
