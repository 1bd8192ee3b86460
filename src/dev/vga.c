/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The VGA as a PCI function: identity, BARs, the video BIOS's ROM, ports, life. See vga.h for the
 * other files.
 *
 * The registers can also be reached by memory, in BAR 2 (QEMU's documentation, "QEMU Standard
 * VGA"): 400h ports 3C0h to 3DFh, 500h the Bochs registers.
 */
#include "dev/vga.h"

#include <string.h>

#define VENDOR_BOCHS 0x1234
#define DEVICE_BOCHS 0x1111
#define SUBSYS_BOCHS 0x1af4
#define SUBSYS_ID    0x1100
#define CLASS_VGA    0x030000u

#define LFB_BAR   0u
#define REGS_BAR  2u
#define REGS_MMIO 0x1000u

#define PORTS_AT     0x3b0
#define NR_PORTS     0x30
#define VBE_PORTS_AT 0x1ce
#define NR_VBE_PORTS 4
#define WINDOW_AT    0xa0000ull
#define WINDOW_BYTES 0x20000ull

/* What the handlers see. Ports: */
#define OFF_VGA    0x000u
#define OFF_VBE    0x100u
/* Memory: */
#define OFF_LFB    0x00000000ull
#define OFF_WINDOW 0x10000000ull
#define OFF_REGS   0x20000000ull

#define REGS_VGA_AT 0x400u
#define REGS_VGA    0x20u
#define REGS_VBE_AT 0x500u

/* ---- ports ---- */

/*
 * The Bochs data register is 16 bits wide at the odd port 1CFh. The bus brings that as two bytes,
 * the second at 1D0h; a word at 1D0h is the register as well.
 */
enum { VBE_AT_INDEX, VBE_AT_LOW, VBE_AT_HIGH };

static uint16_t vbe_port_read(const struct vga *v, uint32_t off, unsigned bytes)
{
    if (off == VBE_AT_INDEX)
        return v->vbe_idx;
    return off == VBE_AT_HIGH && bytes == 1 ? vga_vbe_read(v) >> 8 : vga_vbe_read(v);
}

static void vbe_port_write(struct vga *v, uint32_t off, unsigned bytes, uint16_t val)
{
    if (off == VBE_AT_INDEX)
        v->vbe_idx = val;
    else if (off == VBE_AT_LOW)
        v->vbe_low = (uint8_t)val;
    else if (off == VBE_AT_HIGH)
        vga_vbe_write(v, bytes == 1 ? (uint16_t)(val << 8 | v->vbe_low) : val);
}

static uint64_t vga_read(struct device *dev, uint32_t off, unsigned bytes)
{
    struct vga *v = container_of(dev, struct vga, pci.dev);
    uint64_t val = 0;

    if (off >= OFF_VBE)
        return vbe_port_read(v, off - OFF_VBE, bytes);
    for (unsigned i = 0; i < bytes && off + i < NR_PORTS; i++)
        val |= (uint64_t)vga_port_read(v, (uint16_t)(PORTS_AT + off + i)) << (8 * i);
    return val;
}

static void vga_write(struct device *dev, uint32_t off, unsigned bytes, uint64_t val)
{
    struct vga *v = container_of(dev, struct vga, pci.dev);

    if (off >= OFF_VBE)
        vbe_port_write(v, off - OFF_VBE, bytes, (uint16_t)val);
    for (unsigned i = 0; off < OFF_VBE && i < bytes && off + i < NR_PORTS; i++)
        vga_port_write(v, (uint16_t)(PORTS_AT + off + i), (uint8_t)(val >> (8 * i)));
}

/* ---- memory ---- */

static uint8_t *lfb_bytes(struct vga *v, uint64_t off, unsigned bytes)
{
    return off + bytes <= VGA_VRAM_BYTES ? v->vram + off : NULL;
}

/* The Bochs registers by memory: each where its index says. */
static bool regs_vbe(struct vga *v, uint64_t off)
{
    if (off < REGS_VBE_AT || off >= REGS_VBE_AT + 2 * NR_VBE_REGS)
        return false;
    v->vbe_idx = (uint16_t)((off - REGS_VBE_AT) / 2);
    return true;
}

static uint64_t regs_read(struct vga *v, uint64_t off, unsigned bytes)
{
    uint16_t idx = v->vbe_idx;
    uint64_t val = 0;

    if (regs_vbe(v, off)) {
        val = vga_vbe_read(v) >> (8 * (off & 1));
        v->vbe_idx = idx;
        return val;
    }
    for (unsigned i = 0; i < bytes; i++)
        if (off + i - REGS_VGA_AT < REGS_VGA)
            val |= (uint64_t)vga_port_read(v, (uint16_t)(0x3c0 + off + i - REGS_VGA_AT)) << (8 * i);
    return val;
}

static void regs_write(struct vga *v, uint64_t off, unsigned bytes, uint64_t val)
{
    uint16_t idx = v->vbe_idx;

    if (regs_vbe(v, off)) {
        if (bytes >= 2 && !(off & 1))
            vga_vbe_write(v, (uint16_t)val);
        v->vbe_idx = idx;
        return;
    }
    for (unsigned i = 0; i < bytes; i++)
        if (off + i - REGS_VGA_AT < REGS_VGA)
            vga_port_write(v, (uint16_t)(0x3c0 + off + i - REGS_VGA_AT), (uint8_t)(val >> (8 * i)));
}

static uint64_t vga_mmio_read(struct device *dev, uint64_t off, unsigned bytes)
{
    struct vga *v = container_of(dev, struct vga, pci.dev);
    uint64_t val = 0;
    const uint8_t *at;

    if (off >= OFF_REGS)
        return regs_read(v, off - OFF_REGS, bytes);
    if (off >= OFF_WINDOW) {
        for (unsigned i = 0; i < bytes; i++)
            val |= (uint64_t)vga_window_read(v, (uint32_t)(off - OFF_WINDOW) + i) << (8 * i);
        return val;
    }
    at = lfb_bytes(v, off - OFF_LFB, bytes);
    if (!at)
        return UINT64_MAX;
    memcpy(&val, at, bytes);
    return val;
}

static void vga_mmio_write(struct device *dev, uint64_t off, unsigned bytes, uint64_t val)
{
    struct vga *v = container_of(dev, struct vga, pci.dev);
    uint8_t *at;

    if (off >= OFF_REGS) {
        regs_write(v, off - OFF_REGS, bytes, val);
        return;
    }
    if (off >= OFF_WINDOW) {
        for (unsigned i = 0; i < bytes; i++)
            vga_window_write(v, (uint32_t)(off - OFF_WINDOW) + i, (uint8_t)(val >> (8 * i)));
        return;
    }
    at = lfb_bytes(v, off - OFF_LFB, bytes);
    if (at)
        memcpy(at, &val, bytes);
}

/* ---- where the frame buffer is ---- */

static void vga_follow_bar(struct vga *v)
{
    const struct pci_bar *b = &v->pci.bars[LFB_BAR];
    gpa_t at = b->mapped ? GPA(b->at) : LFB_NOWHERE;

    if (at.v == v->lfb_at.v)
        return;
    v->lfb_at = at;
    if (v->moved)
        v->moved(v->moved_ctx);
}

static void vga_config_written(struct pci_dev *d, unsigned off, unsigned bytes)
{
    (void)off, (void)bytes;
    vga_follow_bar(container_of(d, struct vga, pci));
}

static const struct pci_ops vga_pci_ops = { .config_written = vga_config_written };

/* ---- life ---- */

static void vga_reset(struct device *dev)
{
    struct vga *v = container_of(dev, struct vga, pci.dev);

    pci_dev_reset(&v->pci);
    vga_regs_reset(v);
    vga_vbe_reset(v);
    vga_follow_bar(v);
}

static void vga_loaded(struct device *dev)
{
    struct vga *v = container_of(dev, struct vga, pci.dev);

    pci_dev_loaded(&v->pci);
    vga_vbe_loaded(v);
    v->dac_part %= 3;
    vga_follow_bar(v);
}

/* Video memory is saved as the memory slot that it is. */
static const struct state_field vga_state[] = {
    PCI_DEV_FIELDS(struct vga, pci, 1),     FIELD(struct vga, misc, U8, 1),
    FIELD(struct vga, seq_idx, U8, 1),      FIELD(struct vga, gr_idx, U8, 1),
    FIELD(struct vga, crtc_idx, U8, 1),     FIELD(struct vga, attr_idx, U8, 1),
    FIELD(struct vga, pel_mask, U8, 1),     FIELD(struct vga, attr_data, BOOL, 1),
    FIELD(struct vga, seq, BYTES, 1),       FIELD(struct vga, gr, BYTES, 1),
    FIELD(struct vga, crtc, BYTES, 1),      FIELD(struct vga, attr, BYTES, 1),
    FIELD(struct vga, dac, BYTES, 1),       FIELD(struct vga, dac_read_at, U8, 1),
    FIELD(struct vga, dac_write_at, U8, 1), FIELD(struct vga, dac_part, U8, 1),
    FIELD(struct vga, dac_state, U8, 1),    FIELD(struct vga, latch, BYTES, 1),
    FIELD(struct vga, vbe_low, U8, 1),      FIELD(struct vga, vbe_idx, U16, 1),
    FIELD(struct vga, vbe, U16, 1),
};

static const struct device_type vga_type = {
    .name = "vga",
    .read = vga_read,
    .write = vga_write,
    .max_bytes = 2,
    .mmio_read = vga_mmio_read,
    .mmio_write = vga_mmio_write,
    .mmio_max_bytes = 8,
    .reset = vga_reset,
    .loaded = vga_loaded,
    .state = vga_state,
    .nr_state = ARRAY_SIZE(vga_state),
    .version = 1,
};

static int vga_init_pci(struct vga *v, const struct vga_config *cfg)
{
    int err = pci_dev_init(&v->pci, cfg->host,
                           &(struct pci_dev_desc){ .type = &vga_type,
                                                   .state_base = v,
                                                   .ops = &vga_pci_ops,
                                                   .devfn = cfg->devfn,
                                                   .vendor = VENDOR_BOCHS,
                                                   .device = DEVICE_BOCHS,
                                                   .subsys_vendor = SUBSYS_BOCHS,
                                                   .subsys = SUBSYS_ID,
                                                   .class_code = CLASS_VGA,
                                                   .revision = 2 });

    if (err)
        return err;
    pci_add_bar(&v->pci, LFB_BAR,
                &(struct pci_bar){
                    .kind = PCI_BAR_MEM32_PREF, .bytes = VGA_VRAM_BYTES, .off_bytes = OFF_LFB });
    pci_add_bar(
        &v->pci, REGS_BAR,
        &(struct pci_bar){ .kind = PCI_BAR_MEM32, .bytes = REGS_MMIO, .off_bytes = OFF_REGS });
    if (cfg->rom)
        pci_add_rom(&v->pci, cfg->rom, cfg->rom_bytes);
    return 0;
}

int vga_init(struct vga *v, const struct vga_config *cfg)
{
    struct bus *bus = cfg->host->dev.bus;
    int err;

    memset(v, 0, sizeof(*v));
    v->slot = cfg->vram;
    v->vram = cfg->vram->hva;
    v->lfb_at = LFB_NOWHERE;
    vga_regs_reset(v);
    vga_vbe_reset(v);
    err = vga_init_pci(v, cfg);
    if (!err)
        err = bus_claim_ports(bus, PORTS_AT, NR_PORTS, &v->pci.dev, OFF_VGA);
    if (!err)
        err = bus_claim_ports(bus, VBE_PORTS_AT, NR_VBE_PORTS, &v->pci.dev, OFF_VBE);
    if (!err)
        err = bus_claim_mmio(bus, GPA(WINDOW_AT), WINDOW_BYTES, &v->pci.dev, OFF_WINDOW);
    v->moved = cfg->moved;
    v->moved_ctx = cfg->moved_ctx;
    return err;
}

void vga_fini(struct vga *v)
{
    struct bus *bus = v->pci.dev.bus;

    bus_release_ports(bus, PORTS_AT, NR_PORTS, &v->pci.dev);
    bus_release_ports(bus, VBE_PORTS_AT, NR_VBE_PORTS, &v->pci.dev);
    bus_release_mmio(bus, GPA(WINDOW_AT), &v->pci.dev);
    pci_dev_fini(&v->pci);
}
