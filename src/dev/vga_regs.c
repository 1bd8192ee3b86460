/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registers of a VGA: sequencer, CRT controller, graphics controller, attribute controller,
 * DAC.
 *
 * Manual: IBM VGA XGA Technical Reference, "VGA Registers". They keep what is written; what it
 * means is seen where memory is accessed and where the picture is made.
 */
#include <string.h>

#include "dev/vga.h"

#define MISC_COLOUR BIT(0) /* CRT controller at 3D4h, not 3B4h */

#define CRTC_PROTECT_AT  0x11
#define CRTC_PROTECT     BIT(7) /* registers 0 to 7 are read-only ... */
#define CRTC_OVERFLOW    0x07
#define CRTC_OVERFLOW_LC BIT(4) /* ... but for this bit */

#define STATUS_BLANK   BIT(0)
#define STATUS_RETRACE BIT(3)
#define FRAME_NS       16683000ull /* 59.94 Hz */
#define RETRACE_NS     1000000ull
#define LINE_NS        31778ull
#define LINE_BLANK_NS  6000ull

#define ATTR_IDX_MASK 0x1fu
#define ATTR_PALETTE  BIT(5) /* the display has the palette, the CPU has not */

/* "Input Status Register 1": software waits for its bits to change. */
static uint8_t vga_status(const struct vga *v)
{
    uint64_t now = clock_now_ns(bus_clock(v->pci.dev.bus)) % FRAME_NS;

    if (now >= FRAME_NS - RETRACE_NS)
        return STATUS_RETRACE | STATUS_BLANK;
    return now % LINE_NS >= LINE_NS - LINE_BLANK_NS ? STATUS_BLANK : 0;
}

/* ---- DAC: three writes or reads of 6 bits (8 if so chosen) for each colour ---- */

static uint8_t vga_dac_read(struct vga *v)
{
    uint8_t val = v->dac[v->dac_read_at][v->dac_part];

    if (++v->dac_part == 3) {
        v->dac_part = 0;
        v->dac_read_at++;
    }
    return val;
}

static void vga_dac_write(struct vga *v, uint8_t val)
{
    bool is_8bit = v->vbe[VBE_ENABLE] & VBE_8BIT_DAC;

    v->dac[v->dac_write_at][v->dac_part] = is_8bit ? val : val & 0x3f;
    if (++v->dac_part == 3) {
        v->dac_part = 0;
        v->dac_write_at++;
    }
}

/* ---- registers behind an index ---- */

static void vga_crtc_write(struct vga *v, uint8_t val)
{
    uint8_t *at;

    if (v->crtc_idx >= VGA_NR_CRTC)
        return;
    at = &v->crtc[v->crtc_idx];
    if (v->crtc_idx <= CRTC_OVERFLOW && (v->crtc[CRTC_PROTECT_AT] & CRTC_PROTECT)) {
        if (v->crtc_idx == CRTC_OVERFLOW)
            *at = (uint8_t)((*at & ~CRTC_OVERFLOW_LC) | (val & CRTC_OVERFLOW_LC));
        return;
    }
    *at = val;
}

/* Address and data come through one port, by turns; reading the status begins with the address. */
static void vga_attr_write(struct vga *v, uint8_t val)
{
    if (v->attr_data)
        v->attr[v->attr_idx & ATTR_IDX_MASK] = val;
    else
        v->attr_idx = val & (ATTR_IDX_MASK | ATTR_PALETTE);
    v->attr_data = !v->attr_data;
}

/* The CRT controller and the status are at one of two places. */
static bool vga_decodes(const struct vga *v, uint16_t port)
{
    bool is_colour = v->misc & MISC_COLOUR;

    if (port >= 0x3b0 && port <= 0x3bf)
        return !is_colour;
    return port < 0x3d0 || is_colour;
}

uint8_t vga_port_read(struct vga *v, uint16_t port)
{
    if (!vga_decodes(v, port))
        return 0xff;
    switch (port) {
    case 0x3c0:
        return v->attr_idx;
    case 0x3c1:
        return v->attr[v->attr_idx & ATTR_IDX_MASK];
    case 0x3c2: /* input status 0: the monitor is a colour monitor */
        return 0x10;
    case 0x3c4:
        return v->seq_idx;
    case 0x3c5:
        return v->seq_idx < VGA_NR_SEQ ? v->seq[v->seq_idx] : 0;
    case 0x3c6:
        return v->pel_mask;
    case 0x3c7:
        return v->dac_state;
    case 0x3c8:
        return v->dac_write_at;
    case 0x3c9:
        return vga_dac_read(v);
    case 0x3ca: /* feature control */
        return 0;
    case 0x3cc:
        return v->misc;
    case 0x3ce:
        return v->gr_idx;
    case 0x3cf:
        return v->gr_idx < VGA_NR_GR ? v->gr[v->gr_idx] : 0;
    case 0x3b4:
    case 0x3d4:
        return v->crtc_idx;
    case 0x3b5:
    case 0x3d5:
        return v->crtc_idx < VGA_NR_CRTC ? v->crtc[v->crtc_idx] : 0;
    case 0x3ba:
    case 0x3da:
        v->attr_data = false;
        return vga_status(v);
    default:
        return 0xff;
    }
}

void vga_port_write(struct vga *v, uint16_t port, uint8_t val)
{
    if (!vga_decodes(v, port))
        return;
    switch (port) {
    case 0x3c0:
        vga_attr_write(v, val);
        break;
    case 0x3c2:
        v->misc = val;
        break;
    case 0x3c4:
        v->seq_idx = val;
        break;
    case 0x3c5:
        if (v->seq_idx < VGA_NR_SEQ)
            v->seq[v->seq_idx] = val;
        break;
    case 0x3c6:
        v->pel_mask = val;
        break;
    case 0x3c7:
        v->dac_read_at = val;
        v->dac_part = 0;
        v->dac_state = 3; /* for reading */
        break;
    case 0x3c8:
        v->dac_write_at = val;
        v->dac_part = 0;
        v->dac_state = 0;
        break;
    case 0x3c9:
        vga_dac_write(v, val);
        break;
    case 0x3ce:
        v->gr_idx = val;
        break;
    case 0x3cf:
        if (v->gr_idx < VGA_NR_GR)
            v->gr[v->gr_idx] = val;
        break;
    case 0x3b4:
    case 0x3d4:
        v->crtc_idx = val;
        break;
    case 0x3b5:
    case 0x3d5:
        vga_crtc_write(v, val);
        break;
    default: /* feature control and the like: nothing is there */
        break;
    }
}

void vga_regs_reset(struct vga *v)
{
    v->misc = MISC_COLOUR;
    v->seq_idx = v->gr_idx = v->crtc_idx = v->attr_idx = 0;
    v->attr_data = false;
    v->pel_mask = 0xff;
    memset(v->seq, 0, sizeof(v->seq));
    memset(v->gr, 0, sizeof(v->gr));
    memset(v->crtc, 0, sizeof(v->crtc));
    memset(v->attr, 0, sizeof(v->attr));
    memset(v->dac, 0, sizeof(v->dac));
    memset(v->latch, 0, sizeof(v->latch));
    v->dac_read_at = v->dac_write_at = v->dac_part = v->dac_state = 0;
}
