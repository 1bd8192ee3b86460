/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Bochs extensions of the VGA ("VBE Display Interface"): a mode is its width, height and bits
 * per pixel, nothing else. Version 5: the size of the memory can be read.
 */
#include <string.h>

#include "dev/vga.h"

#define VBE_ID_OLDEST 0xb0c0
#define VBE_ID_NEWEST 0xb0c5
#define VBE_XRES_MAX  2560u
#define VBE_YRES_MAX  1600u
#define VBE_BPP_MAX   32u

/* Bytes of a row; 4-bit modes are the VGA's planes, whose rows are counted apart. */
static uint32_t vbe_row_bytes(unsigned width, unsigned bpp)
{
    return width * ((bpp + 7) / 8);
}

static bool vbe_bpp_ok(unsigned bpp)
{
    return bpp == 8 || bpp == 15 || bpp == 16 || bpp == 24 || bpp == 32;
}

/* Is there such a mode, and does it fit into memory? */
static bool vbe_mode_ok(const struct vga *v)
{
    const uint16_t *r = v->vbe;

    return r[VBE_XRES] && r[VBE_YRES] && vbe_bpp_ok(r[VBE_BPP]) &&
           (uint64_t)vbe_row_bytes(r[VBE_XRES], r[VBE_BPP]) * r[VBE_YRES] <= VGA_VRAM_BYTES;
}

/* How many lines there are follows from the width of a line. */
static void vbe_set_width(struct vga *v, unsigned width)
{
    uint16_t *r = v->vbe;
    uint32_t row;

    if (!vbe_bpp_ok(r[VBE_BPP]) || !width)
        return;
    width = MAX(width, (unsigned)r[VBE_XRES]);
    row = vbe_row_bytes(width, r[VBE_BPP]);
    if (VGA_VRAM_BYTES / row < r[VBE_YRES])
        return;
    r[VBE_VIRT_WIDTH] = (uint16_t)width;
    r[VBE_VIRT_HEIGHT] = (uint16_t)MIN(VGA_VRAM_BYTES / row, UINT16_MAX);
    r[VBE_X_OFFSET] = MIN(r[VBE_X_OFFSET], r[VBE_VIRT_WIDTH] - r[VBE_XRES]);
    r[VBE_Y_OFFSET] = MIN(r[VBE_Y_OFFSET], r[VBE_VIRT_HEIGHT] - r[VBE_YRES]);
}

static void vbe_enable(struct vga *v, uint16_t val)
{
    uint16_t *r = v->vbe;
    bool comes_on = val & ~r[VBE_ENABLE] & VBE_ENABLED;

    if (comes_on && !vbe_mode_ok(v)) {
        if (log_first(bus_seen(v->pci.dev.bus), 0x1234u << 16 | r[VBE_BPP]))
            log_warn("vga: the guest wants a mode of %u x %u with %u bits a pixel; there is none",
                     r[VBE_XRES], r[VBE_YRES], r[VBE_BPP]);
        val &= (uint16_t)~VBE_ENABLED;
        comes_on = false;
    }
    r[VBE_ENABLE] = val & (VBE_ENABLED | VBE_GET_CAPS | VBE_8BIT_DAC | VBE_LFB | VBE_KEEP_VRAM);
    if (!comes_on)
        return;
    r[VBE_X_OFFSET] = r[VBE_Y_OFFSET] = r[VBE_BANK] = 0;
    r[VBE_VIRT_WIDTH] = r[VBE_XRES];
    vbe_set_width(v, r[VBE_XRES]);
    if (!(val & VBE_KEEP_VRAM))
        memset(v->vram, 0, (size_t)vbe_row_bytes(r[VBE_XRES], r[VBE_BPP]) * r[VBE_YRES]);
}

void vga_vbe_reset(struct vga *v)
{
    memset(v->vbe, 0, sizeof(v->vbe));
    v->vbe_idx = 0;
    v->vbe[VBE_ID] = VBE_ID_NEWEST;
    v->vbe[VBE_MEMORY_64K] = VGA_VRAM_BYTES / KIB(64);
}

void vga_vbe_loaded(struct vga *v)
{
    uint16_t *r = v->vbe;

    if (!vbe_mode_ok(v) || r[VBE_X_OFFSET] + r[VBE_XRES] > r[VBE_VIRT_WIDTH] ||
        r[VBE_Y_OFFSET] + r[VBE_YRES] > r[VBE_VIRT_HEIGHT] ||
        (uint64_t)vbe_row_bytes(r[VBE_VIRT_WIDTH], r[VBE_BPP]) * r[VBE_VIRT_HEIGHT] >
            VGA_VRAM_BYTES)
        r[VBE_ENABLE] &= (uint16_t)~VBE_ENABLED;
    if (r[VBE_BANK] >= VGA_VRAM_BYTES / KIB(64))
        r[VBE_BANK] = 0;
}

uint16_t vga_vbe_read(const struct vga *v)
{
    if (v->vbe_idx >= NR_VBE_REGS)
        return 0;
    if (v->vbe[VBE_ENABLE] & VBE_GET_CAPS) {
        if (v->vbe_idx == VBE_XRES)
            return VBE_XRES_MAX;
        if (v->vbe_idx == VBE_YRES)
            return VBE_YRES_MAX;
        if (v->vbe_idx == VBE_BPP)
            return VBE_BPP_MAX;
    }
    return v->vbe[v->vbe_idx];
}

void vga_vbe_write(struct vga *v, uint16_t val)
{
    uint16_t *r = v->vbe;

    switch (v->vbe_idx) {
    case VBE_ID: /* asks whether that version is understood */
        if (val >= VBE_ID_OLDEST && val <= VBE_ID_NEWEST)
            r[VBE_ID] = val;
        break;
    case VBE_XRES:
        if (val <= VBE_XRES_MAX && !vga_vbe_on(v))
            r[VBE_XRES] = val;
        break;
    case VBE_YRES:
        if (val <= VBE_YRES_MAX && !vga_vbe_on(v))
            r[VBE_YRES] = val;
        break;
    case VBE_BPP:
        if (!vga_vbe_on(v))
            r[VBE_BPP] = val ? val : 8;
        break;
    case VBE_ENABLE:
        vbe_enable(v, val);
        break;
    case VBE_BANK:
        if (val < VGA_VRAM_BYTES / KIB(64))
            r[VBE_BANK] = val;
        break;
    case VBE_VIRT_WIDTH:
        vbe_set_width(v, val);
        break;
    case VBE_X_OFFSET:
        if (val + r[VBE_XRES] <= r[VBE_VIRT_WIDTH])
            r[VBE_X_OFFSET] = val;
        break;
    case VBE_Y_OFFSET:
        if (val + r[VBE_YRES] <= r[VBE_VIRT_HEIGHT])
            r[VBE_Y_OFFSET] = val;
        break;
    default: /* read-only, or none */
        break;
    }
}
