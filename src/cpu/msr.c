/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RDMSR and WRMSR: a table of every MSR that a guest of this processor finds (SDM 4; APM 2, "MSR
 * Cross-Reference").
 *
 * Beside those with a meaning it has those that operating systems read or write because the vendor
 * and family have them, and would take a #GP badly: they read as a plausible constant, and a write
 * of another value is reported (once, at debug level) and dropped. All others raise #GP and are
 * reported once.
 */
#include "cpu/apic_impl.h"
#include "cpu/msr_impl.h"

#define INTEL BIT(VENDOR_INTEL)
#define AMD   BIT(VENDOR_AMD)
#define ANY   (INTEL | AMD)

/* A feature that has to be offered; FPU stands for none. */
#define ALWAYS FEAT_FPU

struct msr {
    uint32_t first, last;
    uint8_t vendors;
    uint16_t need;
    msr_read_fn *rd;  /* NULL: fixed */
    msr_write_fn *wr; /* NULL: see drops */
    uint64_t fixed;
    bool drops; /* writes are dropped; else #GP */
};

#define MISC_ENABLE_FAST_STRING  BIT64(0)
#define MISC_ENABLE_BTS_UNAVAIL  BIT64(11)
#define MISC_ENABLE_PEBS_UNAVAIL BIT64(12)
#define MISC_ENABLE_WRITABLE     (MISC_ENABLE_FAST_STRING | BIT64(3) | BIT64(16))

/* ---- system call and base MSRs ---- */

static enum step set_canonical(struct cpu *c, uint64_t *field, uint64_t val)
{
    if (!is_canonical(c, val))
        return raise_gp(c, 0);
    *field = val;
    return STEP_NEXT;
}

/* 0xc0000100..102 */
static uint64_t *base_of(struct cpu *c, uint32_t msr)
{
    if (msr == MSR_KERNEL_GS_BASE)
        return &c->kernel_gs_base;
    return &c->seg[msr == MSR_FS_BASE ? SEG_FS : SEG_GS].base;
}

static enum step rd_base(struct cpu *c, uint32_t msr, uint64_t *val)
{
    *val = *base_of(c, msr);
    return STEP_NEXT;
}

static enum step wr_base(struct cpu *c, uint32_t msr, uint64_t val)
{
    return set_canonical(c, base_of(c, msr), val);
}

static enum step rd_star(struct cpu *c, uint32_t msr, uint64_t *val)
{
    const uint64_t *const fields[] = { &c->star, &c->lstar, &c->cstar, &c->sfmask };

    *val = *fields[msr - MSR_STAR];
    return STEP_NEXT;
}

static enum step wr_star(struct cpu *c, uint32_t msr, uint64_t val)
{
    switch (msr) {
    case MSR_STAR:
        c->star = val;
        return STEP_NEXT;
    case MSR_SFMASK: /* the upper half of RFLAGS cannot be masked, as it is 0 */
        c->sfmask = (uint32_t)val;
        return STEP_NEXT;
    default:
        return set_canonical(c, msr == MSR_LSTAR ? &c->lstar : &c->cstar, val);
    }
}

static enum step rd_sysenter(struct cpu *c, uint32_t msr, uint64_t *val)
{
    const uint64_t *const fields[] = { &c->sysenter_cs, &c->sysenter_esp, &c->sysenter_eip };

    *val = *fields[msr - MSR_SYSENTER_CS];
    return STEP_NEXT;
}

/* On AMD SYSENTER does not exist in long mode and its MSRs are 32 bits wide (APM 2). */
static enum step wr_sysenter(struct cpu *c, uint32_t msr, uint64_t val)
{
    uint64_t *const fields[] = { &c->sysenter_cs, &c->sysenter_esp, &c->sysenter_eip };
    uint64_t *field = fields[msr - MSR_SYSENTER_CS];

    if (c->model->vendor == VENDOR_AMD || msr == MSR_SYSENTER_CS) {
        *field = (uint32_t)val;
        return STEP_NEXT;
    }
    return set_canonical(c, field, val);
}

static enum step rd_efer(struct cpu *c, uint32_t msr, uint64_t *val)
{
    (void)msr;
    *val = c->efer;
    return STEP_NEXT;
}

/* SDM 4, IA32_EFER; APM 2, "Extended Feature Enable Register". LMA follows from LME and CR0.PG. */
static enum step wr_efer(struct cpu *c, uint32_t msr, uint64_t val)
{
    uint64_t valid = 0, changed;

    (void)msr;
    if (model_has(c->model, FEAT_SYSCALL))
        valid |= EFER_SCE;
    if (model_has(c->model, FEAT_LM))
        valid |= EFER_LME | EFER_LMA;
    if (model_has(c->model, FEAT_NX))
        valid |= EFER_NXE;
    if (model_has(c->model, FEAT_AUTOIBRS))
        valid |= EFER_AIBRSE;
    val = (val & ~EFER_LMA) | (c->efer & EFER_LMA);
    changed = val ^ c->efer;
    if ((val & ~valid) || ((changed & EFER_LME) && (c->cr0 & CR0_PG)))
        return raise_gp(c, 0);
    c->efer = val;
    if (changed & EFER_NXE)
        c->ops->tlb_flush(c, &(struct tlb_flush){ .kind = FLUSH_ALL });
    cpu_update_mode(c);
    return STEP_NEXT;
}

/* ---- time ---- */

uint64_t cpu_read_tsc(struct cpu *c)
{
    return c->ops->tsc(c) + c->tsc_adjust;
}

static enum step rd_tsc(struct cpu *c, uint32_t msr, uint64_t *val)
{
    (void)msr;
    *val = cpu_read_tsc(c);
    return STEP_NEXT;
}

/* SDM 3, "Time-Stamp Counter Adjustment": writing one moves the other by as much. */
static enum step wr_tsc(struct cpu *c, uint32_t msr, uint64_t val)
{
    (void)msr;
    c->tsc_adjust += val - cpu_read_tsc(c);
    apic_tsc_changed(c);
    pv_tsc_changed(c);
    return STEP_NEXT;
}

static enum step rd_tsc_adjust(struct cpu *c, uint32_t msr, uint64_t *val)
{
    (void)msr;
    *val = c->tsc_adjust;
    return STEP_NEXT;
}

static enum step wr_tsc_adjust(struct cpu *c, uint32_t msr, uint64_t val)
{
    (void)msr;
    c->tsc_adjust = val;
    apic_tsc_changed(c);
    pv_tsc_changed(c);
    return STEP_NEXT;
}

static enum step rd_tsc_aux(struct cpu *c, uint32_t msr, uint64_t *val)
{
    (void)msr;
    *val = c->tsc_aux;
    return STEP_NEXT;
}

static enum step wr_tsc_aux(struct cpu *c, uint32_t msr, uint64_t val)
{
    (void)msr;
    if (c->model->vendor == VENDOR_INTEL && val >> 32)
        return raise_gp(c, 0);
    c->tsc_aux = (uint32_t)val;
    return STEP_NEXT;
}

/* The frequency in units of 100 MHz, as Intel's clock MSRs give it. */
static uint64_t ratio(const struct cpu *c)
{
    return MIN(MAX(c->model->tsc_khz / 100000, 1), 0xff);
}

static enum step rd_platform_info(struct cpu *c, uint32_t msr, uint64_t *val)
{
    (void)msr;
    *val = ratio(c) << 40 | ratio(c) << 8; /* lowest and highest non-turbo */
    return STEP_NEXT;
}

static enum step rd_perf_status(struct cpu *c, uint32_t msr, uint64_t *val)
{
    (void)msr;
    *val = ratio(c) << 8;
    return STEP_NEXT;
}

/* ---- memory types, machine check, switches ---- */

static enum step rd_pat(struct cpu *c, uint32_t msr, uint64_t *val)
{
    (void)msr;
    *val = c->pat;
    return STEP_NEXT;
}

/* SDM 3, "Programming the PAT": types 2 and 3 and above 7 are #GP. */
static enum step wr_pat(struct cpu *c, uint32_t msr, uint64_t val)
{
    (void)msr;
    for (unsigned i = 0; i < 64; i += 8) {
        unsigned type = val >> i & 0xff;

        if (type > 7 || type == 2 || type == 3)
            return raise_gp(c, 0);
    }
    c->pat = val;
    return STEP_NEXT;
}

static enum step rd_mcg_status(struct cpu *c, uint32_t msr, uint64_t *val)
{
    (void)msr;
    *val = c->mcg_status;
    return STEP_NEXT;
}

/* RIPV, EIPV, MCIP (SDM 3, "IA32_MCG_STATUS MSR") */
static enum step wr_mcg_status(struct cpu *c, uint32_t msr, uint64_t val)
{
    (void)msr;
    if (val & ~7ull)
        return raise_gp(c, 0);
    c->mcg_status = val;
    return STEP_NEXT;
}

static enum step rd_misc_enable(struct cpu *c, uint32_t msr, uint64_t *val)
{
    (void)msr;
    *val = (c->misc_enable & MISC_ENABLE_WRITABLE) | MISC_ENABLE_BTS_UNAVAIL |
           MISC_ENABLE_PEBS_UNAVAIL;
    return STEP_NEXT;
}

static void report_dropped(struct cpu *c, uint32_t msr, uint64_t val)
{
    if (log_first(c->seen, 0x0f30ull << 32 | msr))
        log_debug("guest: WRMSR of %#llx to MSR %#x has no effect here", (unsigned long long)val,
                  msr);
}

/* Bits that enable what is not there are left as they are. */
static enum step wr_misc_enable(struct cpu *c, uint32_t msr, uint64_t val)
{
    uint64_t now;

    (void)!rd_misc_enable(c, msr, &now); /* cannot fail */
    if ((val ^ now) & ~MISC_ENABLE_WRITABLE)
        report_dropped(c, msr, val);
    c->misc_enable = val & MISC_ENABLE_WRITABLE;
    return STEP_NEXT;
}

/* ---- speculation ---- */

/*
 * IA32_ARCH_CAPABILITIES (SDM 4): RDCL_NO, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, PSCHANGE_MC_NO,
 * TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO. The guest's
 * page tables and privilege levels are not the host's: its mitigations against what speculation
 * does across the host's would only cost. The host's own keep guests apart from each other.
 */
#define ARCH_CAPABILITIES                                                                      \
    (BIT64(0) | BIT64(3) | BIT64(4) | BIT64(5) | BIT64(6) | BIT64(8) | BIT64(13) | BIT64(14) | \
     BIT64(15) | BIT64(20) | BIT64(24) | BIT64(26) | BIT64(27) | BIT64(62))
#define ARCH_CAP_IBRS_ALL BIT64(1) /* IBRS is set once, not at each entry of the kernel */

static enum step rd_arch_capabilities(struct cpu *c, uint32_t msr, uint64_t *val)
{
    (void)msr;
    *val = ARCH_CAPABILITIES;
    if (model_has(c->model, FEAT_SPEC_CTRL))
        *val |= ARCH_CAP_IBRS_ALL;
    return STEP_NEXT;
}

static enum step rd_spec_ctrl(struct cpu *c, uint32_t msr, uint64_t *val)
{
    (void)msr;
    *val = c->spec_ctrl;
    return STEP_NEXT;
}

/* SDM 4, IA32_SPEC_CTRL: IBRS, and STIBP, which is no #GP where only IBRS is there. The branches
 * that the guest's code becomes are the host's, and so is what protects them. The same holds for
 * BHI_DIS_S. */
static enum step wr_spec_ctrl(struct cpu *c, uint32_t msr, uint64_t val)
{
    uint64_t valid = SPEC_CTRL_IBRS | SPEC_CTRL_STIBP;

    (void)msr;
    if (model_has(c->model, FEAT_BHI_CTRL))
        valid |= SPEC_CTRL_BHI_DIS_S;
    if (val & ~valid)
        return raise_gp(c, 0);
    c->spec_ctrl = val;
    return STEP_NEXT;
}

/* Cannot be read; or is not there, and asked for by systems that go by the model's number. */
static enum step rd_nothing(struct cpu *c, uint32_t msr, uint64_t *val)
{
    (void)msr;
    (void)val;
    return raise_gp(c, 0);
}

/* SDM 4, IA32_PRED_CMD: IBPB is a command. A user process has no such command for itself: the
 * host's kernel gives it where it switches between processes. */
static enum step wr_pred_cmd(struct cpu *c, uint32_t msr, uint64_t val)
{
    if (val & ~1ull)
        return raise_gp(c, 0);
    if (val)
        report_dropped(c, msr, val);
    return STEP_NEXT;
}

/* ---- the table, ascending; a vendor's rows for one number stand together ---- */

#define ONE(n)      (n), (n)
#define CONST(v)    NULL, NULL, (v), false /* read-only */
#define KEEPS(v)    NULL, NULL, (v), true  /* writes do nothing */
#define VAR(rd, wr) (rd), (wr), 0, false

static const struct msr msrs[] = {
    { ONE(0x0), INTEL, ALWAYS, KEEPS(0) }, /* P5_MC_ADDR */
    { ONE(0x1), INTEL, ALWAYS, KEEPS(0) }, /* P5_MC_TYPE */
    { ONE(MSR_TSC), ANY, FEAT_TSC, VAR(rd_tsc, wr_tsc) },
    { MSR_KVM_WALL_CLOCK, MSR_KVM_SYSTEM_TIME, ANY, FEAT_KVM_CLOCK, VAR(pv_rd, pv_wr) },
    { ONE(0x17), INTEL, ALWAYS, CONST(0) }, /* PLATFORM_ID: socket of the microcode update */
    { ONE(MSR_APIC_BASE), ANY, FEAT_APIC, VAR(apic_rdmsr, apic_wrmsr) },
    { ONE(0x2a), INTEL, ALWAYS, KEEPS(0) }, /* EBL_CR_POWERON */
    { ONE(0x34), INTEL, ALWAYS, CONST(0) }, /* SMI_COUNT */
    { ONE(0x3a), INTEL, ALWAYS, CONST(1) }, /* FEATURE_CONTROL: locked, no VMX, no SMX */
    { ONE(MSR_TSC_ADJUST), ANY, FEAT_TSC_ADJUST, VAR(rd_tsc_adjust, wr_tsc_adjust) },
    { ONE(MSR_SPEC_CTRL), INTEL, FEAT_SPEC_CTRL, VAR(rd_spec_ctrl, wr_spec_ctrl) },
    { ONE(MSR_PRED_CMD), INTEL, FEAT_SPEC_CTRL, VAR(rd_nothing, wr_pred_cmd) },
    { ONE(0x79), INTEL, ALWAYS, KEEPS(0) }, /* BIOS_UPDT_TRIG: microcode is the host's affair */
    /* BIOS_SIGN_ID, PATCH_LEVEL: the revision; Linux writes 0 before it reads */
    { ONE(0x8b), INTEL, ALWAYS, KEEPS(BIT64(32)) },
    { ONE(0x8b), AMD, ALWAYS, KEEPS(0x1000065) },
    { ONE(0xce), INTEL, ALWAYS, VAR(rd_platform_info, NULL) },
    { ONE(MSR_MTRRCAP), ANY, FEAT_MTRR, VAR(mtrr_rd_cap, NULL) },
    { ONE(0x10a), INTEL, FEAT_ARCH_CAP, VAR(rd_arch_capabilities, NULL) },
    { ONE(0x119), INTEL, ALWAYS, KEEPS(0x200000) },   /* BBL_CR_CTL: no serial number */
    { ONE(0x11e), INTEL, ALWAYS, KEEPS(0xbe702111) }, /* BBL_CR_CTL3: there is an L2 */
    { ONE(0x140), INTEL, ALWAYS, KEEPS(0) },          /* MISC_FEATURES_ENABLES: no CPUID faulting */
    { MSR_SYSENTER_CS, MSR_SYSENTER_EIP, ANY, FEAT_SEP, VAR(rd_sysenter, wr_sysenter) },
    { ONE(0x179), ANY, FEAT_MCA, CONST(0) }, /* MCG_CAP: no banks, as nothing can go wrong */
    { ONE(0x17a), ANY, FEAT_MCA, VAR(rd_mcg_status, wr_mcg_status) },
    { ONE(0x198), INTEL, ALWAYS, VAR(rd_perf_status, NULL) },
    { ONE(0x199), INTEL, ALWAYS, KEEPS(0) }, /* PERF_CTL */
    { ONE(0x19a), INTEL, ALWAYS, KEEPS(0) }, /* CLOCK_MODULATION */
    { ONE(0x19b), INTEL, ALWAYS, KEEPS(0) }, /* THERM_INTERRUPT */
    { ONE(0x19c), INTEL, ALWAYS,
      KEEPS(0x88640000) }, /* THERM_STATUS: 100 degrees below the limit */
    { ONE(0x1a0), INTEL, ALWAYS, VAR(rd_misc_enable, wr_misc_enable) },
    { ONE(0x1a2), INTEL, ALWAYS, KEEPS(100 << 16) }, /* TEMPERATURE_TARGET */
    { ONE(0x1d9), ANY, ALWAYS, KEEPS(0) },           /* DEBUGCTL: neither BTF nor branch records */
    { 0x1db, 0x1de, ANY, ALWAYS, CONST(0) },         /* LASTBRANCHFROMIP .. LASTINTTOIP */
    { 0x200, 0x20f, ANY, FEAT_MTRR, VAR(mtrr_rd_var, mtrr_wr_var) },
    { ONE(0x250), ANY, FEAT_MTRR, VAR(mtrr_rd_fixed, mtrr_wr_fixed) },
    { 0x258, 0x259, ANY, FEAT_MTRR, VAR(mtrr_rd_fixed, mtrr_wr_fixed) },
    { 0x268, 0x26f, ANY, FEAT_MTRR, VAR(mtrr_rd_fixed, mtrr_wr_fixed) },
    { ONE(MSR_PAT), ANY, FEAT_PAT, VAR(rd_pat, wr_pat) },
    { ONE(MSR_MTRR_DEF_TYPE), ANY, FEAT_MTRR, VAR(mtrr_rd_def_type, mtrr_wr_def_type) },
    { ONE(0x64e), INTEL, ALWAYS, VAR(rd_nothing, NULL) }, /* PPERF: no performance monitoring */
    { ONE(MSR_TSC_DEADLINE), ANY, FEAT_TSC_DEADLINE, VAR(apic_rdmsr, apic_wrmsr) },
    { MSR_X2APIC_FIRST, MSR_X2APIC_LAST, ANY, FEAT_X2APIC, VAR(apic_rdmsr, apic_wrmsr) },
    { MSR_KVM_WALL_CLOCK_NEW, MSR_KVM_SYSTEM_TIME_NEW, ANY, FEAT_KVM_CLOCK2, VAR(pv_rd, pv_wr) },
    { ONE(MSR_KVM_STEAL_TIME), ANY, FEAT_KVM_STEAL_TIME, VAR(pv_rd, pv_wr) },
    { ONE(MSR_KVM_PV_EOI), ANY, FEAT_KVM_PV_EOI, VAR(pv_rd, pv_wr) },
    { ONE(MSR_EFER), ANY, ALWAYS, VAR(rd_efer, wr_efer) },
    { MSR_STAR, MSR_SFMASK, ANY, FEAT_SYSCALL, VAR(rd_star, wr_star) },
    { MSR_FS_BASE, MSR_KERNEL_GS_BASE, ANY, FEAT_LM, VAR(rd_base, wr_base) },
    { ONE(MSR_TSC_AUX), ANY, FEAT_RDTSCP, VAR(rd_tsc_aux, wr_tsc_aux) },
    { 0xc0010000, 0xc0010007, AMD, ALWAYS, KEEPS(0) }, /* PERF_CTL, PERF_CTR: stand still */
    { ONE(0xc0010010), AMD, ALWAYS, KEEPS(0) }, /* SYSCFG: no encryption, no extra MTRR bits */
    { ONE(0xc0010015), AMD, ALWAYS, KEEPS(BIT64(24)) }, /* HWCR: TscFreqSel, the TSC runs at P0 */
    { ONE(0xc001001a), AMD, ALWAYS, KEEPS(GIB(3)) },    /* TOP_MEM */
    { ONE(0xc001001d), AMD, ALWAYS, KEEPS(0) },         /* TOM2: not used, as SYSCFG says */
    { ONE(0xc001001f), AMD, ALWAYS, KEEPS(0) },         /* NB_CFG */
    { ONE(0xc0010020), AMD, ALWAYS, KEEPS(0) },         /* PATCH_LOADER */
    { ONE(0xc0010055), AMD, ALWAYS, KEEPS(0) },         /* INT_PENDING: no C1E */
    { ONE(0xc0010058), AMD, ALWAYS, KEEPS(0) },        /* MMIO_CONF_BASE: ACPI says where ECAM is */
    { 0xc0010061, 0xc001006b, AMD, ALWAYS, KEEPS(0) }, /* P-states: none enabled */
    { ONE(0xc0010071), AMD, ALWAYS, CONST(0) },        /* COFVID_STATUS */
    { ONE(0xc0010114), AMD, ALWAYS, KEEPS(0x18) },     /* VM_CR: SVM disabled and locked */
    { 0xc0010140, 0xc0010141, AMD, ALWAYS, KEEPS(0) }, /* OSVW: nothing to work around is known */
    { 0xc0011020, 0xc0011023, AMD, ALWAYS, KEEPS(0) }, /* LS_CFG, IC_CFG, DC_CFG, BU_CFG */
    { ONE(0xc0011029), AMD, ALWAYS, KEEPS(2) },        /* DE_CFG: LFENCE serialises */
    { ONE(0xc0011029), INTEL, ALWAYS, VAR(rd_nothing, NULL) },
    { ONE(0xc001102a), AMD, ALWAYS, KEEPS(0) }, /* BU_CFG2 */
};

static const struct msr *msr_find(const struct cpu *c, uint32_t msr)
{
    unsigned lo = 0, hi = ARRAY_SIZE(msrs);

    /* The first row that does not end before it; a few may share a number. */
    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;

        if (msrs[mid].last < msr)
            lo = mid + 1;
        else
            hi = mid;
    }
    for (; lo < ARRAY_SIZE(msrs) && msrs[lo].first <= msr; lo++)
        if ((msrs[lo].vendors & BIT(c->model->vendor)) && model_has(c->model, msrs[lo].need))
            return &msrs[lo];
    return NULL;
}

enum step cpu_rdmsr(struct cpu *c, uint32_t msr, uint64_t *val)
{
    const struct msr *m;

    if (c->cpl != 0)
        return raise_gp(c, 0);
    m = msr_find(c, msr);
    if (!m) {
        if (log_first(c->seen, 0x0f32ull << 32 | msr))
            log_info("guest: RDMSR of unknown MSR %#x raises #GP", msr);
        return raise_gp(c, 0);
    }
    if (m->rd)
        return m->rd(c, msr, val);
    *val = m->fixed;
    return STEP_NEXT;
}

enum step cpu_wrmsr(struct cpu *c, uint32_t msr, uint64_t val)
{
    const struct msr *m;

    if (c->cpl != 0)
        return raise_gp(c, 0);
    m = msr_find(c, msr);
    if (!m) {
        if (log_first(c->seen, 0x0f30ull << 32 | msr))
            log_info("guest: WRMSR of %#llx to unknown MSR %#x raises #GP", (unsigned long long)val,
                     msr);
        return raise_gp(c, 0);
    }
    if (m->wr)
        return m->wr(c, msr, val);
    if (!m->drops)
        return raise_gp(c, 0);
    if (val != m->fixed)
        report_dropped(c, msr, val);
    return STEP_NEXT;
}
