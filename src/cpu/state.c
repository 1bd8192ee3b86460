/* SPDX-License-Identifier: Apache-2.0 */
/* Power-on and INIT state, and what is derived from CS, SS, CPL, CR0, EFER and RFLAGS. */
#include "cpu/desc.h"

#include <stdatomic.h>

#define RESET_RIP     0xfff0u
#define RESET_CS_SEL  0xf000u
#define RESET_CS_BASE 0xffff0000u
#define SEG_LIMIT_64K 0xffffu
#define PAT_RESET     0x0007040600070406ull
#define FCW_INIT      0x37fu
#define MXCSR_INIT    0x1f80u
#define MXCSR_MASK    0xffffu

/* IA32_MISC_ENABLE: fast strings are on; neither BTS nor PEBS is there. */
#define MISC_FAST_STRINGS BIT64(0)
#define MISC_NO_BTS       BIT64(11)
#define MISC_NO_PEBS      BIT64(12)

void cpu_update_mode(struct cpu *c)
{
    uint32_t mode = 0, cs = c->seg[SEG_CS].attr;

    if (!(c->cr0 & CR0_PE)) {
        c->cpl = 0;
    } else {
        mode |= MODE_PE;
        if (c->efer & EFER_LMA) {
            mode |= MODE_LMA;
        } else if (c->rflags & RFLAGS_VM) {
            mode |= MODE_VM86;
            c->cpl = 3;
        }
    }
    if ((mode & MODE_LMA) && (cs & SEG_L))
        mode |= MODE_CS64;
    else if (cs & SEG_DB)
        mode |= MODE_CS32;
    if (c->seg[SEG_SS].attr & SEG_DB)
        mode |= MODE_SS32;
    if (c->cpl == 3)
        mode |= MODE_USER;
    else if (c->rflags & RFLAGS_AC)
        mode |= MODE_AC;
    if (c->cr0 & CR0_PG)
        mode |= MODE_PG;
    c->mode = mode;
}

/* What both RESET# and INIT set (SDM 3, "Processor State After Reset", table "IA-32 and Intel 64
 * Processor States Following Power-up, Reset, or INIT"). */
static void reset_common(struct cpu *c)
{
    for (unsigned i = 0; i < NR_GPRS; i++)
        c->gpr[i] = 0;
    c->gpr[RDX] = c->model->signature;
    c->rip = RESET_RIP;
    c->rflags = RFLAGS_FIXED1;
    for (unsigned i = 0; i < NR_SEGS; i++)
        c->seg[i] = (struct seg){ .limit = SEG_LIMIT_64K, .attr = ATTR_REAL };
    c->seg[SEG_CS].sel = RESET_CS_SEL;
    c->seg[SEG_CS].base = RESET_CS_BASE;
    c->gdtr = c->idtr = (struct dtable){ .limit = SEG_LIMIT_64K };
    c->ldtr = (struct seg){ .limit = SEG_LIMIT_64K, .attr = SEG_P | SYS_LDT };
    c->tr = (struct seg){ .limit = SEG_LIMIT_64K, .attr = SEG_P | SYS_TSS_BUSY };
    c->cr2 = c->cr3 = c->cr4 = c->efer = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(c->dr); i++)
        c->dr[i] = c->pdpte[i] = 0;
    c->dr6 = DR6_FIXED1;
    c->dr7 = DR7_FIXED1;
    c->cpl = 0;
    c->exc = c->delivering = (struct cpu_exc){ .valid = false };
    c->pending_dbg = 0;
    c->shadow_sti = c->shadow_movss = c->nmi_blocked = c->nmi_pending = false;
}

/* What INIT leaves alone. */
static void reset_power_on(struct cpu *c)
{
    c->cr0 = CR0_CD | CR0_NW | CR0_ET;
    c->xcr0 = XCR0_X87;
    c->star = c->lstar = c->cstar = c->sfmask = c->kernel_gs_base = c->tsc_aux = 0;
    c->sysenter_cs = c->sysenter_esp = c->sysenter_eip = 0;
    c->pat = PAT_RESET;
    c->tsc_adjust = c->spec_ctrl = 0;
    c->misc_enable = MISC_FAST_STRINGS | MISC_NO_BTS | MISC_NO_PEBS;
    c->mtrr_def_type = 0; /* MTRRs off: all memory is uncacheable */
    for (unsigned i = 0; i < ARRAY_SIZE(c->mtrr_physbase); i++)
        c->mtrr_physbase[i] = c->mtrr_physmask[i] = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(c->mtrr_fixed); i++)
        c->mtrr_fixed[i] = 0;
    c->mcg_status = 0;
    c->fpu = (struct xsave_area){ .fcw = FCW_INIT, .mxcsr = MXCSR_INIT, .mxcsr_mask = MXCSR_MASK };
    c->fpu_cs = c->fpu_ds = 0;
    c->sipi_vector = 0;
    atomic_fetch_and(&c->req, REQ_STOP | REQ_CODE);
}

void cpu_reset(struct cpu *c, enum reset_kind kind)
{
    reset_common(c);
    if (kind == RESET_POWER_ON)
        reset_power_on(c);
    else /* CD and NW are unchanged, ET is set, all else cleared */
        c->cr0 = (c->cr0 & (CR0_CD | CR0_NW)) | CR0_ET;
    if (kind == RESET_INIT)
        pv_eoi_sync(c); /* its bit does not stay behind in memory */
    pv_reset(c);
    apic_reset(c, kind == RESET_POWER_ON);
    /* SDM 3, "MP Initialization Protocol": the BSP starts, the others wait. */
    c->activity = c->apic.base_msr & APIC_BASE_BSP ? CPU_RUNNING : CPU_WAIT_SIPI;
    cpu_update_mode(c);
    c->ops->tlb_flush(c, &(struct tlb_flush){ .kind = FLUSH_ALL });
    c->ops->debug_changed(c);
}
