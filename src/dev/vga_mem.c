/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The window onto video memory at A0000h: four planes, seen one at a time, two by turns (text),
 * four by turns (256 colours), or all at once through the latches.
 *
 * Manual: IBM VGA XGA Technical Reference, "Video Memory", "Graphics Controller Registers".
 */
#include "dev/vga.h"

/* Sequencer */
#define SEQ_PLANES     2
#define SEQ_MODE       4
#define SEQ_MODE_CHAIN BIT(3)
#define SEQ_MODE_PLAIN BIT(2) /* clear: even and odd addresses go to different planes */

/* Graphics controller */
#define GR_SET_RESET    0
#define GR_ENABLE_SR    1
#define GR_COMPARE      2
#define GR_ROTATE       3
#define GR_READ_PLANE   4
#define GR_MODE         5
#define GR_MODE_READ1   BIT(3)
#define GR_MODE_ODDEVEN BIT(4)
#define GR_MISC         6
#define GR_DONT_CARE    7
#define GR_BIT_MASK     8

#define BANK_BYTES KIB(64)

/* "Memory Map": which part of the 128 KB answers. False: this address does not. */
static bool window_offset(const struct vga *v, uint32_t *off)
{
    static const struct {
        uint32_t from, bytes;
    } maps[] = { { 0, 0x20000 }, { 0, 0x10000 }, { 0x10000, 0x8000 }, { 0x18000, 0x8000 } };
    unsigned map = v->gr[GR_MISC] >> 2 & 3;

    if (*off - maps[map].from >= maps[map].bytes)
        return false;
    *off -= maps[map].from;
    return true;
}

/* With the Bochs extensions on, the window is a bank of the linear memory. */
static uint8_t *window_bank(struct vga *v, uint32_t off)
{
    uint64_t at = v->vbe[VBE_BANK] * BANK_BYTES + off;

    return off < BANK_BYTES && at < VGA_VRAM_BYTES ? &v->vram[at] : NULL;
}

static uint8_t window_compare(const struct vga *v)
{
    uint8_t differs = 0;

    for (unsigned p = 0; p < 4; p++)
        if (v->gr[GR_DONT_CARE] & BIT(p))
            differs |= v->latch[p] ^ (v->gr[GR_COMPARE] & BIT(p) ? 0xff : 0);
    return (uint8_t)~differs;
}

uint8_t vga_window_read(struct vga *v, uint32_t off)
{
    if (vga_vbe_on(v)) {
        const uint8_t *at = window_bank(v, off);

        return at ? *at : 0xff;
    }
    if (!window_offset(v, &off))
        return 0xff;
    if (v->seq[SEQ_MODE] & SEQ_MODE_CHAIN)
        return v->vram[off];
    if (v->gr[GR_MODE] & GR_MODE_ODDEVEN)
        return v->vram[(off >> 1) * 4 + (v->gr[GR_READ_PLANE] & 2) + (off & 1)];
    for (unsigned p = 0; p < 4; p++)
        v->latch[p] = v->vram[4 * off + p];
    return v->gr[GR_MODE] & GR_MODE_READ1 ? window_compare(v) : v->latch[v->gr[GR_READ_PLANE] & 3];
}

/* "Data Rotate": the function that joins a byte with the latch. */
static uint8_t window_function(const struct vga *v, uint8_t val, uint8_t latch)
{
    switch (v->gr[GR_ROTATE] >> 3 & 3) {
    case 1:
        return val & latch;
    case 2:
        return val | latch;
    case 3:
        return val ^ latch;
    default:
        return val;
    }
}

/* What one plane gets ("Graphics Mode Register", write modes 0 to 3). */
static uint8_t window_plane(const struct vga *v, unsigned p, uint8_t val)
{
    unsigned rotate = v->gr[GR_ROTATE] & 7;
    uint8_t rotated = (uint8_t)(val >> rotate | val << (8 - rotate));
    uint8_t set_reset = v->gr[GR_SET_RESET] & BIT(p) ? 0xff : 0;
    uint8_t mask = v->gr[GR_BIT_MASK], latch = v->latch[p];

    switch (v->gr[GR_MODE] & 3) {
    case 0:
        val = v->gr[GR_ENABLE_SR] & BIT(p) ? set_reset : rotated;
        break;
    case 1:
        return latch;
    case 2:
        val = val & BIT(p) ? 0xff : 0;
        break;
    default:
        mask &= rotated;
        val = set_reset;
        break;
    }
    val = window_function(v, val, latch);
    return (uint8_t)((val & mask) | (latch & ~mask));
}

void vga_window_write(struct vga *v, uint32_t off, uint8_t val)
{
    uint8_t planes = v->seq[SEQ_PLANES];

    if (vga_vbe_on(v)) {
        uint8_t *at = window_bank(v, off);

        if (at)
            *at = val;
        return;
    }
    if (!window_offset(v, &off))
        return;
    if (v->seq[SEQ_MODE] & SEQ_MODE_CHAIN) {
        if (planes & BIT(off & 3))
            v->vram[off] = val;
    } else if (!(v->seq[SEQ_MODE] & SEQ_MODE_PLAIN)) {
        unsigned p = (v->gr[GR_READ_PLANE] & 2) + (off & 1);

        if (planes & BIT(p))
            v->vram[(off >> 1) * 4 + p] = val;
    } else {
        for (unsigned p = 0; p < 4; p++)
            if (planes & BIT(p))
                v->vram[4 * off + p] = window_plane(v, p, val);
    }
}
