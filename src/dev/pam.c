/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PAM registers' effect: where reads and writes of C0000h to FFFFFh go.
 *
 * Manual: Intel 3 Series Express Chipset Family data sheet, "PAM0: Programmable Attribute Map 0"
 * and "Programmable Attribute Map (PAM) Memory Area". Twelve segments of 16 KB and, last, one of 64
 * KB have two bits each, read enable and write enable. Where one is set such accesses go to RAM;
 * where not, to the bus: there the firmware's ROM answers for the last 128 KB, as far as its image
 * reaches, and nobody for the rest.
 *
 * What can be read in place is memory slots: aliases of the RAM (for reading alone where writes go
 * elsewhere) or of the ROM. They change while the vCPUs stand still, before the one that wrote the
 * register goes on. What is left comes to the handlers here: writes below ROM that are RAM's,
 * writes that are nobody's, reads of nothing. Devices' transfers see the slots alone; the data
 * sheet wants none to segments that are not RAM both ways.
 */
#include "dev/pam.h"

#include <string.h>

#define PAM_READ  BIT(0)
#define PAM_WRITE BIT(1)
#define PAM_RAM   (PAM_READ | PAM_WRITE)

#define SEGMENT_BYTES      KIB(16)
#define LAST_SEGMENT       (PAM_NR_SEGMENTS - 1)
#define LAST_SEGMENT_BYTES KIB(64)
#define ROM_AT             0xe0000ull

/* ---- segments ---- */

static uint64_t segment_at(unsigned idx)
{
    return PAM_AT + idx * SEGMENT_BYTES;
}

static uint64_t segment_end(unsigned idx)
{
    return segment_at(idx) + (idx == LAST_SEGMENT ? LAST_SEGMENT_BYTES : SEGMENT_BYTES);
}

static unsigned segment_of(uint64_t off)
{
    return MIN((unsigned)(off / SEGMENT_BYTES), LAST_SEGMENT);
}

/* PAM0 has the last segment in its high half; each of the others two, the lower one first. */
static uint8_t segment_attr(const uint8_t regs[PAM_NR_REGS], unsigned idx)
{
    uint8_t reg = idx == LAST_SEGMENT ? regs[0] : regs[1 + idx / 2];
    unsigned shift = idx == LAST_SEGMENT || idx % 2 ? 4 : 0;

    return reg >> shift & PAM_RAM;
}

void pam_set(struct pam *p, const uint8_t regs[PAM_NR_REGS])
{
    for (unsigned i = 0; i < PAM_NR_SEGMENTS; i++)
        p->wanted[i] = p->cfg.fixed ? PAM_RAM : segment_attr(regs, i);
    if (memcmp(p->wanted, p->shown, sizeof(p->shown)) != 0)
        p->cfg.changed(p->cfg.ctx);
}

/* ---- slots ---- */

static void pam_hide(struct pam *p)
{
    while (p->nr_views)
        mmu_slot_remove(p->cfg.mmu, p->views[--p->nr_views]);
}

/* Shows [at, end), as far as the slot has it: its byte off_bytes is at `from`. */
static int pam_show(struct pam *p, struct slot *of, uint64_t off_bytes, uint64_t from, uint64_t at,
                    uint64_t end, const struct slot_desc *as)
{
    struct slot_desc d = *as;
    int err;

    at = MAX(at, from);
    end = MIN(end, from + (of->bytes - off_bytes));
    if (at >= end)
        return 0;
    d.base = GPA(at);
    d.bytes = end - at;
    err = mmu_alias_add(p->cfg.mmu, of, off_bytes + (at - from), &d, &p->views[p->nr_views]);
    p->nr_views += !err;
    return err;
}

/* Of one attribute, from segment `first` to before `end`. */
static int pam_show_run(struct pam *p, unsigned first, unsigned end)
{
    static const struct slot_desc ram = { .name = "shadow" };
    static const struct slot_desc ram_ro = { .name = "shadow", .flags = SLOT_RO };
    static const struct slot_desc rom = { .name = "firmware-low", .flags = SLOT_RO };
    uint8_t attr = p->shown[first];
    uint64_t at = segment_at(first), to = segment_end(end - 1), bytes;

    if (attr & PAM_READ && p->cfg.ram)
        return pam_show(p, p->cfg.ram, 0, PAM_AT, at, to, attr & PAM_WRITE ? &ram : &ram_ro);
    if (attr & PAM_READ || !p->cfg.rom)
        return 0;
    /* The ROM's last byte is that of the area, which has no room for all of a larger one. */
    bytes = MIN(p->cfg.rom->bytes, PAM_END - ROM_AT);
    return pam_show(p, p->cfg.rom, p->cfg.rom->bytes - bytes, PAM_END - bytes, at, to, &rom);
}

static int pam_show_all(struct pam *p)
{
    unsigned first = 0;
    int err = 0;

    for (unsigned i = 1; i <= PAM_NR_SEGMENTS && !err; i++) {
        if (i < PAM_NR_SEGMENTS && p->shown[i] == p->shown[first])
            continue;
        err = pam_show_run(p, first, i);
        first = i;
    }
    return err;
}

int pam_apply(struct pam *p, bool *changed)
{
    int err;

    *changed = memcmp(p->wanted, p->shown, sizeof(p->shown)) != 0;
    if (!*changed)
        return 0;
    memcpy(p->shown, p->wanted, sizeof(p->shown));
    pam_hide(p);
    err = pam_show_all(p);
    /* An engine that has the processor log writes loses that log with the slot. */
    if (p->cfg.ram)
        mmu_written(p->cfg.mmu, p->cfg.ram->base, p->cfg.ram->bytes);
    /* From 0 on: engines keep a list of some pages that changed, and what compares code by itself
     * (PAGE_NOTE_FLUID) they drop only with all, when the list is too long. */
    mmu_code_moved(p->cfg.mmu, GPA(0), PAM_END);
    return err;
}

/* ---- what no slot answers ---- */

static uint64_t pam_mmio_read(struct device *dev, uint64_t off, unsigned bytes)
{
    (void)dev, (void)off, (void)bytes;
    return UINT64_MAX;
}

static void pam_mmio_write(struct device *dev, uint64_t off, unsigned bytes, uint64_t val)
{
    struct pam *p = container_of(dev, struct pam, dev);
    const struct slot *ram = p->cfg.ram;

    if (p->wanted[segment_of(off)] & PAM_WRITE && ram && off + bytes <= ram->bytes)
        (void)mmu_write(p->cfg.mmu, gpa_add(ram->base, off), &val, bytes); /* it is all there */
}

static const struct device_type pam_type = {
    .name = "pam",
    .mmio_read = pam_mmio_read,
    .mmio_write = pam_mmio_write,
    .mmio_max_bytes = 8,
};

/* ---- life ---- */

int pam_init(struct pam *p, const struct pam_config *cfg)
{
    int err;

    *p = (struct pam){ .dev = { .type = &pam_type, .bus = cfg->bus }, .cfg = *cfg };
    memset(p->wanted, PAM_RAM, sizeof(p->wanted));
    memset(p->shown, PAM_RAM, sizeof(p->shown));
    err = pam_show_all(p);
    return err ? err : bus_claim_mmio(cfg->bus, GPA(PAM_AT), PAM_END - PAM_AT, &p->dev, 0);
}

void pam_fini(struct pam *p)
{
    bus_release_mmio(p->dev.bus, GPA(PAM_AT), &p->dev);
    pam_hide(p);
}
