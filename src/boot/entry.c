/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The vCPU as a boot protocol wants it at the kernel's first instruction: flat 32-bit protected
 * mode or 64-bit mode, with the GDT (and page tables) in guest memory that the hidden parts of the
 * segment registers were "loaded" from.
 *
 * The selectors are Linux's __BOOT_CS and __BOOT_DS (Documentation/x86/boot.rst, "32-bit Boot
 * Protocol" and "64-bit Boot Protocol"); PVH and multiboot leave them open. The TSS is what PVH
 * asks for (TR: 32-bit TSS, base 0, limit 67h).
 */
#include "boot/load.h"

#define BOOT_CS     0x10u
#define BOOT_DS     0x18u
#define BOOT_TSS    0x20u
#define GDT_ENTRIES 6u /* null, unused, code, data, TSS (two entries in 64-bit mode) */

#define CODE_ATTR (SEG_TYPE_CODE | SEG_TYPE_READABLE | SEG_TYPE_ACCESSED | SEG_S | SEG_P | SEG_G)
#define DATA_ATTR (SEG_TYPE_WRITABLE | SEG_TYPE_ACCESSED | SEG_S | SEG_P | SEG_DB | SEG_G)
#define TSS_ATTR  (SYS_TSS_BUSY | SEG_P)
#define TSS_LIMIT 0x67u

#define PTE_P          BIT64(0)
#define PTE_W          BIT64(1)
#define PTE_PS         BIT64(7)
#define PTES_PER_PAGE  512u
#define IDENTITY_PDS   4u /* 1 GB each */
#define IDENTITY_PAGES (2 + IDENTITY_PDS)

/* SDM 3, "Segment Descriptors": the descriptor whose hidden part is s, base 0. */
static uint64_t entry_descriptor(const struct seg *s)
{
    uint64_t limit = (s->attr & SEG_G) ? s->limit >> PAGE_SHIFT : s->limit;

    return (limit & 0xffff) | (uint64_t)s->attr << 40 | (limit >> 16) << 48;
}

int entry_claim(struct loader *ld)
{
    return load_claim(ld, "boot GDT", BOOT_GDT_AT, GDT_ENTRIES * 8);
}

int entry_claim_tables(struct loader *ld)
{
    return load_claim(ld, "boot page tables", BOOT_PML4_AT, IDENTITY_PAGES * PAGE_BYTES);
}

/* PML4, PDPT, and page directories of 2 MB pages, which every 64-bit processor has (1 GB pages are
 * an option). */
static int entry_write_tables(struct loader *ld)
{
    uint64_t page[PTES_PER_PAGE] = { 0 };
    uint64_t pdpt_at = BOOT_PML4_AT + PAGE_BYTES, pd_at = pdpt_at + PAGE_BYTES;
    int rc;

    page[0] = pdpt_at | PTE_P | PTE_W;
    rc = load_put(ld, BOOT_PML4_AT, page, sizeof(page));
    for (unsigned i = 0; i < IDENTITY_PDS; i++)
        page[i] = (pd_at + i * PAGE_BYTES) | PTE_P | PTE_W;
    if (rc == 0)
        rc = load_put(ld, pdpt_at, page, sizeof(page));
    for (uint64_t pd = 0; pd < IDENTITY_PDS && rc == 0; pd++) {
        for (unsigned i = 0; i < PTES_PER_PAGE; i++)
            page[i] = (pd << 30 | (uint64_t)i << 21) | PTE_P | PTE_W | PTE_PS;
        rc = load_put(ld, pd_at + pd * PAGE_BYTES, page, sizeof(page));
    }
    return rc;
}

/* What both modes have in common: GDT, segments, registers 0, interrupts off, no IDT. */
static int entry_common(struct loader *ld, uint32_t code_mode)
{
    const struct seg code = { .sel = BOOT_CS, .limit = ~0u, .attr = CODE_ATTR | code_mode };
    const struct seg data = { .sel = BOOT_DS, .limit = ~0u, .attr = DATA_ATTR };
    const struct seg tss = { .sel = BOOT_TSS, .limit = TSS_LIMIT, .attr = TSS_ATTR };
    const uint64_t gdt[GDT_ENTRIES] = {
        0, 0, entry_descriptor(&code), entry_descriptor(&data), entry_descriptor(&tss), 0
    };
    struct cpu *c = ld->c;

    memset(c->gpr, 0, NR_GPRS * sizeof(c->gpr[0]));
    for (unsigned i = 0; i < NR_SEGS; i++)
        c->seg[i] = data;
    c->seg[SEG_CS] = code;
    c->tr = tss;
    c->ldtr = (struct seg){ .attr = SEG_UNUSABLE };
    c->gdtr = (struct dtable){ .base = BOOT_GDT_AT, .limit = sizeof(gdt) - 1 };
    c->idtr = (struct dtable){ 0 };
    c->rflags = RFLAGS_FIXED1;
    c->cpl = 0;
    c->cr2 = 0;
    return load_put(ld, BOOT_GDT_AT, gdt, sizeof(gdt));
}

int entry_flat32(struct loader *ld, uint32_t eip)
{
    struct cpu *c = ld->c;
    int rc = entry_common(ld, SEG_DB);

    if (rc < 0)
        return rc;
    c->cr0 = CR0_PE | CR0_ET;
    c->cr3 = c->cr4 = c->efer = 0;
    c->rip = eip;
    cpu_update_mode(c);
    return 0;
}

int entry_long64(struct loader *ld, uint64_t rip)
{
    struct cpu *c = ld->c;
    int rc = entry_common(ld, SEG_L);

    if (rc == 0)
        rc = entry_write_tables(ld);
    if (rc < 0)
        return rc;
    c->cr0 = CR0_PE | CR0_ET | CR0_PG;
    c->cr3 = BOOT_PML4_AT;
    c->cr4 = CR4_PAE;
    c->efer = EFER_LME | EFER_LMA;
    c->rip = rip;
    c->gpr[RSP] = BOOT_STACK_AT;
    cpu_update_mode(c);
    return 0;
}
