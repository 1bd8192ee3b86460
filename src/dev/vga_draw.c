/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From registers and video memory to a picture, as a monitor would show it: text, the 16- and
 * 256-colour modes of a VGA, the CGA's graphics, and the linear modes of the Bochs extensions.
 * Nothing blinks, since a picture has no time: the cursor is shown, blinking text is steady.
 *
 * Manual: IBM VGA XGA Technical Reference, "VGA Registers". Registers may hold anything: all
 * addresses wrap at the end of video memory.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dev/vga.h"

#define SEQ_CLOCK          1
#define SEQ_CLOCK_8DOTS    BIT(0)
#define SEQ_CLOCK_OFF      BIT(5)
#define SEQ_FONTS          3
#define GR_MODE            5
#define GR_MODE_INTERLEAVE BIT(5)
#define GR_MODE_SHIFT256   BIT(6)
#define GR_MISC            6
#define GR_MISC_GRAPHICS   BIT(0)
#define ATTR_MODE          0x10
#define ATTR_MODE_LINE9    BIT(2)
#define ATTR_MODE_BLINK    BIT(3)
#define ATTR_MODE_P54      BIT(7)
#define ATTR_PLANES        0x12
#define ATTR_COLOURS       0x14
#define ATTR_PALETTE       BIT(5)

enum {
    CRTC_H_END = 0x01,
    CRTC_OVERFLOW = 0x07,
    CRTC_MAX_SCAN = 0x09,
    CRTC_CURSOR_FROM = 0x0a,
    CRTC_CURSOR_TO = 0x0b,
    CRTC_START_HIGH = 0x0c,
    CRTC_START_LOW = 0x0d,
    CRTC_CURSOR_HIGH = 0x0e,
    CRTC_CURSOR_LOW = 0x0f,
    CRTC_V_END = 0x12,
    CRTC_OFFSET = 0x13,
    CRTC_MODE = 0x17,
};
#define CRTC_BYTE_MODE BIT(6)
#define CURSOR_OFF     BIT(5)
#define SCAN_DOUBLE    BIT(7)

#define NR_OFFS    0x10000u /* bytes of a plane that a VGA has */
#define FONT_LINES 32u
#define TEXT_MAX   256u

/* ---- what all modes need ---- */

static bool is_blank(const struct vga *v)
{
    return (v->seq[SEQ_CLOCK] & SEQ_CLOCK_OFF) || !(v->attr_idx & ATTR_PALETTE);
}

static uint8_t plane_byte(const struct vga *v, uint32_t off, unsigned plane)
{
    return v->vram[4 * (off % NR_OFFS) + plane];
}

static uint32_t dac_colour(const struct vga *v, uint8_t idx)
{
    const uint8_t *c = v->dac[idx & v->pel_mask];

    if (v->vbe[VBE_ENABLE] & VBE_8BIT_DAC)
        return (uint32_t)c[0] << 16 | (uint32_t)c[1] << 8 | c[2];
    /* 6 bits to 8: the upper ones again below. */
    return (uint32_t)(c[0] << 2 | c[0] >> 4) << 16 | (uint32_t)(c[1] << 2 | c[1] >> 4) << 8 |
           (uint32_t)(c[2] << 2 | c[2] >> 4);
}

/* "Internal Palette Registers", "Color Select Register": from 16 colours to one of the DAC's. */
static uint32_t attr_colour(const struct vga *v, unsigned idx)
{
    uint8_t colour = v->attr[idx & 0xf] & 0x3f, select = v->attr[ATTR_COLOURS];

    if (v->attr[ATTR_MODE] & ATTR_MODE_P54)
        colour = (uint8_t)((colour & 0xf) | (select & 3) << 4);
    return dac_colour(v, (uint8_t)(colour | (select & 0xc) << 4));
}

static unsigned crtc_lines(const struct vga *v)
{
    unsigned over = v->crtc[CRTC_OVERFLOW];

    return (v->crtc[CRTC_V_END] | (over & 0x02) << 7 | (over & 0x40) << 3) + 1;
}

static uint32_t crtc_start(const struct vga *v)
{
    return (uint32_t)v->crtc[CRTC_START_HIGH] << 8 | v->crtc[CRTC_START_LOW];
}

/* Scan lines of a row of text, or how often a line of graphics is shown. */
static unsigned crtc_row_lines(const struct vga *v)
{
    return ((v->crtc[CRTC_MAX_SCAN] & 0x1f) + 1u) << !!(v->crtc[CRTC_MAX_SCAN] & SCAN_DOUBLE);
}

static int picture_make(struct picture *pic, unsigned width, unsigned height)
{
    pic->width = width;
    pic->height = height;
    pic->pixels = calloc((size_t)width * height, sizeof(*pic->pixels));
    return pic->pixels ? 0 : -ENOMEM;
}

/* ---- text ---- */

struct text_mode {
    unsigned columns, rows, cell_width, cell_height;
};

static bool is_text(const struct vga *v)
{
    return !vga_vbe_on(v) && !(v->gr[GR_MISC] & GR_MISC_GRAPHICS);
}

static struct text_mode text_mode(const struct vga *v)
{
    struct text_mode t = {
        .columns = v->crtc[CRTC_H_END] + 1u,
        .cell_width = v->seq[SEQ_CLOCK] & SEQ_CLOCK_8DOTS ? 8 : 9,
        .cell_height = crtc_row_lines(v),
    };

    t.rows = crtc_lines(v) / t.cell_height;
    return t;
}

static uint32_t text_cell(const struct vga *v, unsigned row, unsigned column)
{
    return crtc_start(v) + row * v->crtc[CRTC_OFFSET] * 2u + column;
}

/* "Character Map Select": where the two fonts are in plane 2; attribute bit 3 chooses. */
static uint32_t text_font(const struct vga *v, uint8_t attr)
{
    uint8_t fonts = v->seq[SEQ_FONTS];
    unsigned a = (fonts >> 2 & 3) | (fonts >> 3 & 4), b = (fonts & 3) | (fonts >> 2 & 4);
    unsigned n = attr & BIT(3) ? a : b;

    return (n & 3) * KIB(16) + (n >> 2) * KIB(8);
}

static bool text_cursor_at(const struct vga *v, uint32_t cell, unsigned line)
{
    unsigned from = v->crtc[CRTC_CURSOR_FROM], to = v->crtc[CRTC_CURSOR_TO] & 0x1f;
    uint32_t at = (uint32_t)v->crtc[CRTC_CURSOR_HIGH] << 8 | v->crtc[CRTC_CURSOR_LOW];

    return !(from & CURSOR_OFF) && cell == at && line >= (from & 0x1f) && line <= to;
}

static void text_draw_cell(const struct vga *v, const struct text_mode *t, uint32_t cell,
                           uint32_t *to, unsigned stride)
{
    uint8_t chr = plane_byte(v, cell, 0), attr = plane_byte(v, cell, 1);
    bool blinks = v->attr[ATTR_MODE] & ATTR_MODE_BLINK;
    uint32_t fore = attr_colour(v, attr & 0xf),
             back = attr_colour(v, attr >> 4 & (blinks ? 7 : 15));
    uint32_t font = text_font(v, attr) + chr * FONT_LINES;
    /* The ninth dot repeats the eighth of line-drawing characters. */
    bool joins = (v->attr[ATTR_MODE] & ATTR_MODE_LINE9) && chr >= 0xc0 && chr <= 0xdf;

    for (unsigned y = 0; y < t->cell_height; y++, to += stride) {
        unsigned dots = y < FONT_LINES ? plane_byte(v, font + y, 2) << 1 : 0;

        dots |= joins ? dots >> 1 & 1 : 0;
        if (text_cursor_at(v, cell, y))
            dots = 0x1ff;
        for (unsigned x = 0; x < t->cell_width; x++)
            to[x] = dots & BIT(8 - x) ? fore : back;
    }
}

static int text_draw(const struct vga *v, struct picture *pic)
{
    const struct text_mode t = text_mode(v);
    unsigned width = t.columns * t.cell_width;

    if (picture_make(pic, width, MAX(t.rows, 1u) * t.cell_height) < 0)
        return -ENOMEM;
    for (unsigned row = 0; row < t.rows && !is_blank(v); row++)
        for (unsigned col = 0; col < t.columns; col++)
            text_draw_cell(v, &t, text_cell(v, row, col),
                           &pic->pixels[(size_t)row * t.cell_height * width + col * t.cell_width],
                           width);
    return 0;
}

/* Code page 437 in ASCII: lines and corners as they look, the rest as '?'. */
static char text_ascii(uint8_t chr)
{
    if (chr == 0 || chr == 0xff)
        return ' ';
    if (chr >= ' ' && chr < 0x7f)
        return (char)chr;
    if (chr == 0xb3 || chr == 0xba)
        return '|';
    if (chr == 0xc4 || chr == 0xcd)
        return '-';
    return chr > 0xb3 && chr < 0xdb ? '+' : '?';
}

char *vga_text(const struct vga *v)
{
    const struct text_mode t = text_mode(v);
    unsigned rows = MIN(t.rows, TEXT_MAX);
    char *text, *to;

    if (!is_text(v) || !v->crtc[CRTC_V_END])
        return NULL;
    text = to = malloc((size_t)rows * (t.columns + 1) + 1);
    for (unsigned row = 0; text && row < rows; row++) {
        char *end = to;

        for (unsigned col = 0; col < t.columns; col++) {
            *to++ = text_ascii(plane_byte(v, text_cell(v, row, col), 0));
            if (to[-1] != ' ')
                end = to;
        }
        to = end;
        *to++ = '\n';
    }
    if (text)
        *to = '\0';
    return text;
}

/* ---- the VGA's graphics ---- */

/* "Color Plane Enable Register" */
static uint32_t plane_colour(const struct vga *v, unsigned idx)
{
    return attr_colour(v, idx & v->attr[ATTR_PLANES]);
}

static uint32_t planar_pixel(const struct vga *v, uint32_t row, unsigned x)
{
    unsigned idx = 0;

    for (unsigned p = 0; p < 4; p++)
        idx |= (plane_byte(v, row + x / 8, p) >> (7 - x % 8) & 1u) << p;
    return plane_colour(v, idx);
}

/* "Shift Register Interleave Mode", of the CGA's four colours: two bits a pixel, by turns from
 * planes 0 and 1, and two more from planes 2 and 3. */
static uint32_t interleaved_pixel(const struct vga *v, uint32_t row, unsigned x)
{
    unsigned odd = x >> 2 & 1, shift = 6 - 2 * (x & 3);

    return plane_colour(v, (plane_byte(v, row + x / 8, odd) >> shift & 3u) |
                               (plane_byte(v, row + x / 8, 2 + odd) >> shift & 3u) << 2);
}

/*
 * "CRTC Mode Control Register": where a CGA has its odd lines, and a Hercules each fourth, in a
 * bank of their own, bits 0 and 1 of the line within its row take the place of address bits 13
 * and 14. These are the processor's, which in word mode has two bytes for each of a plane's.
 */
struct banks {
    unsigned lines;   /* of a row, each of which is seen once; 1: there are no banks */
    unsigned doubled; /* shift count: how often a line is shown */
    uint32_t bank[2]; /* bytes of a plane to the next one */
};

static struct banks crtc_banks(const struct vga *v)
{
    uint8_t mode = v->crtc[CRTC_MODE];
    uint32_t bank = mode & CRTC_BYTE_MODE ? 0x2000 : 0x1000;
    struct banks b = { .lines = (v->crtc[CRTC_MAX_SCAN] & 0x1f) + 1u,
                       .doubled = !!(v->crtc[CRTC_MAX_SCAN] & SCAN_DOUBLE),
                       .bank = { mode & BIT(0) ? 0 : bank, mode & BIT(1) ? 0 : 2 * bank } };

    if (!b.bank[0] && !b.bank[1])
        b.lines = 1;
    return b;
}

static unsigned graphics_height(const struct vga *v, const struct banks *b)
{
    unsigned lines = crtc_lines(v);

    lines = b->lines > 1 ? lines >> b->doubled : lines / crtc_row_lines(v);
    return MAX(lines, 1u);
}

static uint32_t graphics_row(const struct vga *v, const struct banks *b, unsigned y)
{
    unsigned line = y % b->lines;

    return crtc_start(v) + y / b->lines * v->crtc[CRTC_OFFSET] * 2u + (line & 1 ? b->bank[0] : 0) +
           (line & 2 ? b->bank[1] : 0);
}

static uint32_t graphics_pixel(const struct vga *v, uint32_t row, unsigned x)
{
    uint8_t mode = v->gr[GR_MODE];

    if (mode & GR_MODE_SHIFT256)
        return dac_colour(v, plane_byte(v, row + x / 4, x % 4));
    return mode & GR_MODE_INTERLEAVE ? interleaved_pixel(v, row, x) : planar_pixel(v, row, x);
}

static int graphics_draw(const struct vga *v, struct picture *pic)
{
    bool is_256 = v->gr[GR_MODE] & GR_MODE_SHIFT256;
    unsigned width = (v->crtc[CRTC_H_END] + 1u) * 8 / (is_256 ? 2 : 1);
    const struct banks b = crtc_banks(v);
    unsigned height = graphics_height(v, &b);

    if (picture_make(pic, width, height) < 0)
        return -ENOMEM;
    for (unsigned y = 0; y < height && !is_blank(v); y++) {
        uint32_t row = graphics_row(v, &b, y);

        for (unsigned x = 0; x < width; x++)
            pic->pixels[(size_t)y * width + x] = graphics_pixel(v, row, x);
    }
    return 0;
}

/* ---- linear modes ---- */

/* n bits to 8: the upper ones again below. */
static uint32_t widen(uint32_t val, unsigned bits_)
{
    val <<= 8 - bits_;
    return val | val >> bits_;
}

static uint32_t linear_pixel(const struct vga *v, const uint8_t *at, unsigned bpp)
{
    uint32_t val = at[0];

    if (bpp == 8)
        return dac_colour(v, (uint8_t)val);
    val |= (uint32_t)at[1] << 8;
    if (bpp == 15)
        return widen(val >> 10 & 31, 5) << 16 | widen(val >> 5 & 31, 5) << 8 | widen(val & 31, 5);
    if (bpp == 16)
        return widen(val >> 11 & 31, 5) << 16 | widen(val >> 5 & 63, 6) << 8 | widen(val & 31, 5);
    return val | (uint32_t)at[2] << 16;
}

/* That all of it is in video memory was checked when the registers were written (vga_vbe.c). */
static int linear_draw(const struct vga *v, struct picture *pic)
{
    const uint16_t *r = v->vbe;
    unsigned bpp = r[VBE_BPP], bytes = (bpp + 7) / 8;

    if (picture_make(pic, r[VBE_XRES], r[VBE_YRES]) < 0)
        return -ENOMEM;
    for (unsigned y = 0; y < pic->height; y++) {
        size_t row = ((size_t)(y + r[VBE_Y_OFFSET]) * r[VBE_VIRT_WIDTH] + r[VBE_X_OFFSET]) * bytes;

        BUG_ON(row + (size_t)pic->width * bytes > VGA_VRAM_BYTES);
        for (unsigned x = 0; x < pic->width; x++)
            pic->pixels[(size_t)y * pic->width + x] =
                linear_pixel(v, &v->vram[row + (size_t)x * bytes], bpp);
    }
    return 0;
}

int vga_draw(const struct vga *v, struct picture *pic)
{
    *pic = (struct picture){ 0 };
    if (vga_vbe_on(v))
        return linear_draw(v, pic);
    return is_text(v) ? text_draw(v, pic) : graphics_draw(v, pic);
}
