/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control registers and XCR0: which values are accepted, and what a change means for paging modes,
 * the TLB and the mode of the processor (SDM 3, "Control Registers"; SDM 2, "MOV - Move to/from
 * Control Registers"; SDM 3, "Operations that Invalidate TLBs and Paging-Structure Caches").
 *
 * All checks come first, then all changes, then the flushes.
 */
#include "cpu/apic_impl.h"
#include "cpu/cpu.h"

/* The bits that exist; the others below bit 32 stay 0 whatever is written. */
#define CR0_KNOWN                                                                              \
    (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | \
     CR0_PG)
/* Engines cache translations together with the rights that these decide. */
#define CR0_FLUSHES      (CR0_PG | CR0_WP)
#define CR4_FLUSHES      (CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP | CR4_LA57)
/* SDM 3, "PDPTE Registers": a change of one of these loads them anew. */
#define CR0_LOADS_PDPTES (CR0_PG | CR0_CD | CR0_NW)
#define CR4_LOADS_PDPTES (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP)

#define PDPTE_P        BIT64(0)
#define PDPTE_RESERVED 0x1e6ull /* bits 2:1 and 8:5 */

static void flush_all(struct cpu *c)
{
    c->ops->tlb_flush(c, &(struct tlb_flush){ .kind = FLUSH_ALL });
}

/* Reads the four PDPTEs that cr3 points to. #GP if one is present and has a reserved bit. */
static enum step read_pdptes(struct cpu *c, uint64_t cr3, uint64_t out[4])
{
    uint64_t reserved = PDPTE_RESERVED | ~(BIT64(c->model->phys_bits) - 1);

    for (unsigned i = 0; i < 4; i++) {
        out[i] = c->ops->phys_read(c, GPA((cr3 & 0xffffffe0) + 8 * i), 8);
        if ((out[i] & PDPTE_P) && (out[i] & reserved))
            return raise_gp(c, 0);
    }
    return STEP_NEXT;
}

static bool uses_pdptes(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
    return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LME);
}

/* Turning paging on with EFER.LME activates long mode (SDM 3, "Initializing IA-32e Mode"). */
static enum step check_activate(struct cpu *c)
{
    bool tss16 = (c->tr.attr & (SEG_TYPE | SEG_S)) == SYS_TSS16_BUSY;

    if (!(c->cr4 & CR4_PAE) || (c->seg[SEG_CS].attr & SEG_L))
        return raise_gp(c, 0);
    /* Only Intel looks at TR (SDM 2, "MOV - Move to/from Control Registers"). */
    if (tss16 && c->model->vendor == VENDOR_INTEL)
        return raise_gp(c, 0);
    return STEP_NEXT;
}

static enum step check_cr0(struct cpu *c, uint64_t val)
{
    if (val >> 32)
        return raise_gp(c, 0);
    if ((val & CR0_PG) && !(val & CR0_PE))
        return raise_gp(c, 0);
    if ((val & CR0_NW) && !(val & CR0_CD))
        return raise_gp(c, 0);
    if (!(val & CR0_PG) && (c->cr0 & CR0_PG) && ((c->cr4 & CR4_PCIDE) || in_long64(c)))
        return raise_gp(c, 0);
    if ((val & CR0_PG) && !(c->cr0 & CR0_PG) && (c->efer & EFER_LME))
        return check_activate(c);
    return STEP_NEXT;
}

static enum step set_cr0(struct cpu *c, uint64_t val)
{
    uint64_t changed, pdpte[4];
    enum step st = check_cr0(c, val);

    if (st != STEP_NEXT)
        return st;
    val = (val & CR0_KNOWN) | CR0_ET;
    changed = val ^ c->cr0;
    if ((changed & CR0_LOADS_PDPTES) && uses_pdptes(val, c->cr4, c->efer)) {
        st = read_pdptes(c, c->cr3, pdpte);
        if (st != STEP_NEXT)
            return st;
        __builtin_memcpy(c->pdpte, pdpte, sizeof(pdpte));
    }
    c->cr0 = val;
    if ((val & CR0_PG) && (c->efer & EFER_LME))
        c->efer |= EFER_LMA;
    else
        c->efer &= ~EFER_LMA;
    if (changed & CR0_FLUSHES)
        flush_all(c);
    cpu_update_mode(c);
    return STEP_NEXT;
}

enum step cpu_load_cr3(struct cpu *c, uint64_t val)
{
    uint64_t pdpte[4], mask = ~(BIT64(c->model->phys_bits) - 1);
    struct tlb_flush flush = { .kind = FLUSH_NONGLOBAL };
    bool keep = false;
    enum step st;

    if (c->cr4 & CR4_PCIDE) {
        keep = val & CR3_NOFLUSH;
        val &= ~CR3_NOFLUSH;
        flush = (struct tlb_flush){ .kind = FLUSH_PCID, .pcid = val & CR3_PCID_MASK };
    }
    if ((c->efer & EFER_LMA) && (val & mask))
        return raise_gp(c, 0);
    if (uses_pdptes(c->cr0, c->cr4, c->efer)) {
        st = read_pdptes(c, val, pdpte);
        if (st != STEP_NEXT)
            return st;
        __builtin_memcpy(c->pdpte, pdpte, sizeof(pdpte));
    }
    c->cr3 = val;
    if (!keep)
        c->ops->tlb_flush(c, &flush);
    return STEP_NEXT;
}

/* CR4 bits and the feature that brings them; CR4.PCE needs none. */
static const struct {
    uint64_t bits;
    enum cpu_feature feature;
} cr4_bits[] = {
    { CR4_VME | CR4_PVI, FEAT_VME }, { CR4_TSD, FEAT_TSC },       { CR4_DE, FEAT_DE },
    { CR4_PSE, FEAT_PSE },           { CR4_PAE, FEAT_PAE },       { CR4_MCE, FEAT_MCE },
    { CR4_PGE, FEAT_PGE },           { CR4_OSFXSR, FEAT_FXSR },   { CR4_OSXMMEXCPT, FEAT_SSE },
    { CR4_UMIP, FEAT_UMIP },         { CR4_LA57, FEAT_LA57 },     { CR4_FSGSBASE, FEAT_FSGSBASE },
    { CR4_PCIDE, FEAT_PCID },        { CR4_OSXSAVE, FEAT_XSAVE }, { CR4_SMEP, FEAT_SMEP },
    { CR4_SMAP, FEAT_SMAP },
};

uint64_t cpu_cr4_known(const struct cpu *c)
{
    uint64_t known = CR4_PCE;

    for (unsigned i = 0; i < ARRAY_SIZE(cr4_bits); i++)
        if (model_has(c->model, cr4_bits[i].feature))
            known |= cr4_bits[i].bits;
    return known;
}

static enum step check_cr4(struct cpu *c, uint64_t val)
{
    uint64_t changed = val ^ c->cr4;

    if (val & ~cpu_cr4_known(c))
        return raise_gp(c, 0);
    if ((c->efer & EFER_LMA) && (!(val & CR4_PAE) || (changed & CR4_LA57)))
        return raise_gp(c, 0);
    if ((val & changed & CR4_PCIDE) && (!(c->efer & EFER_LMA) || (c->cr3 & CR3_PCID_MASK)))
        return raise_gp(c, 0);
    return STEP_NEXT;
}

static enum step set_cr4(struct cpu *c, uint64_t val)
{
    uint64_t changed = val ^ c->cr4, pdpte[4];
    enum step st = check_cr4(c, val);

    if (st != STEP_NEXT)
        return st;
    if ((changed & CR4_LOADS_PDPTES) && uses_pdptes(c->cr0, val, c->efer)) {
        st = read_pdptes(c, c->cr3, pdpte);
        if (st != STEP_NEXT)
            return st;
        __builtin_memcpy(c->pdpte, pdpte, sizeof(pdpte));
    }
    c->cr4 = val;
    if (changed & CR4_FLUSHES)
        flush_all(c);
    if (changed & CR4_DE) /* decides what R/W = 10b in DR7 means */
        c->ops->debug_changed(c);
    cpu_update_mode(c);
    return STEP_NEXT;
}

/* Outside 64-bit mode CR8 is reached by LOCK MOV CR0 where AMD offers that. */
static bool cr_exists(const struct cpu *c, unsigned cr)
{
    if (cr == 8)
        return in_long64(c) || model_has(c->model, FEAT_CR8_LEGACY);
    return cr == 0 || (cr >= 2 && cr <= 4);
}

enum step cpu_mov_to_cr(struct cpu *c, unsigned cr, uint64_t val)
{
    if (!cr_exists(c, cr))
        return raise_ud(c);
    if (c->cpl != 0)
        return raise_gp(c, 0);
    if (!in_long64(c))
        val = (uint32_t)val;
    switch (cr) {
    case 0:
        return set_cr0(c, val);
    case 2:
        c->cr2 = val;
        return STEP_NEXT;
    case 3:
        return cpu_load_cr3(c, val);
    case 4:
        return set_cr4(c, val);
    default:
        if (val >> 4)
            return raise_gp(c, 0);
        apic_set_cr8(c, val);
        return STEP_NEXT;
    }
}

enum step cpu_mov_from_cr(struct cpu *c, unsigned cr, uint64_t *val)
{
    if (!cr_exists(c, cr))
        return raise_ud(c);
    if (c->cpl != 0)
        return raise_gp(c, 0);
    switch (cr) {
    case 0:
        *val = c->cr0;
        break;
    case 2:
        *val = c->cr2;
        break;
    case 3:
        *val = c->cr3;
        break;
    case 4:
        *val = c->cr4;
        break;
    default:
        *val = apic_get_cr8(c);
        break;
    }
    return STEP_NEXT;
}

/* SDM 2, "LMSW": it can set PE but not clear it. */
enum step cpu_lmsw(struct cpu *c, uint16_t val)
{
    const uint64_t loaded = CR0_MP | CR0_EM | CR0_TS;

    if (c->cpl != 0)
        return raise_gp(c, 0);
    return set_cr0(c, (c->cr0 & ~loaded) | (val & (loaded | CR0_PE)));
}

enum step cpu_clts(struct cpu *c)
{
    if (c->cpl != 0)
        return raise_gp(c, 0);
    c->cr0 &= ~CR0_TS;
    cpu_update_mode(c);
    return STEP_NEXT;
}

/* ---- extended control registers ---- */

enum step cpu_xsetbv(struct cpu *c, uint32_t idx, uint64_t val)
{
    if (!(c->cr4 & CR4_OSXSAVE))
        return raise_ud(c);
    if (c->cpl != 0 || idx != 0)
        return raise_gp(c, 0);
    if ((val & ~c->model->xcr0) || !(val & XCR0_X87))
        return raise_gp(c, 0);
    if ((val & XCR0_AVX) && !(val & XCR0_SSE))
        return raise_gp(c, 0);
    c->xcr0 = val;
    cpu_update_mode(c);
    return STEP_NEXT;
}

enum step cpu_xgetbv(struct cpu *c, uint32_t idx, uint64_t *val)
{
    if (!(c->cr4 & CR4_OSXSAVE))
        return raise_ud(c);
    if (idx == 0)
        *val = c->xcr0;
    else if (idx == 1 && model_has(c->model, FEAT_XGETBV1))
        *val = c->xcr0 & cpu_xinuse(c);
    else
        return raise_gp(c, 0);
    return STEP_NEXT;
}

/* ---- invalidation ---- */

enum step cpu_invlpg(struct cpu *c, gva_t at)
{
    if (c->cpl != 0)
        return raise_gp(c, 0);
    /* SDM 2, "INVLPG": a non-canonical address makes it a NOP. */
    if (in_long64(c) && !is_canonical(c, at.v))
        return STEP_NEXT;
    c->ops->tlb_flush(
        c, &(struct tlb_flush){ .kind = FLUSH_PAGE, .at = at, .pcid = c->cr3 & CR3_PCID_MASK });
    return STEP_NEXT;
}

enum step cpu_invpcid(struct cpu *c, uint64_t type, uint64_t pcid, gva_t at)
{
    static const enum flush_kind kinds[] = { FLUSH_PCID_PAGE, FLUSH_PCID, FLUSH_ALL,
                                             FLUSH_NONGLOBAL };

    if (c->cpl != 0 || type >= ARRAY_SIZE(kinds) || (pcid & ~CR3_PCID_MASK))
        return raise_gp(c, 0);
    /* SDM 2, "INVPCID": the two that name a PCID. */
    if (type <= 1 && pcid && !(c->cr4 & CR4_PCIDE))
        return raise_gp(c, 0);
    if (type == 0 && !is_canonical(c, at.v))
        return raise_gp(c, 0);
    c->ops->tlb_flush(c,
                      &(struct tlb_flush){ .kind = kinds[type], .at = at, .pcid = (uint16_t)pcid });
    return STEP_NEXT;
}
