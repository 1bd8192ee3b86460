/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys as VNC clients name them, to codes of scan-code set 2.
 *
 * Keysyms: X11's <X11/keysymdef.h>; a character's is its Latin-1 code. The keyboard is an American
 * one. Codes: IBM Personal System/2 Hardware Interface Technical Reference, "Keyboard (101- and
 * 102-Key)".
 */
#include "ctl/keysym.h"

#include <string.h>

#include "dev/ps2.h"

/* ---- characters ---- */

/* In the order of the keys' codes in set 1, from 1 on: without and with shift. */
static const char row_plain[] = "\0331234567890-=\b\tqwertyuiop[]\r\0asdfghjkl;'`\0\\zxcvbnm,./";
static const char row_shift[] = "\033!@#$%^&*()_+\b\tQWERTYUIOP{}\r\0ASDFGHJKL:\"~\0|ZXCVBNM<>?";

static const char *key_of_char(const char *row, size_t bytes, uint32_t c)
{
    return c > ' ' && c < 0x7f ? memchr(row, (int)c, bytes) : NULL;
}

/* ---- the others ---- */

static const struct {
    uint32_t keysym;
    uint16_t code;
} keysyms[] = {
    { ' ', 0x29 },      { 0xff08, 0x66 },   /* BackSpace */
    { 0xff09, 0x0d },   { 0xff0d, 0x5a },   /* Tab, Return */
    { 0xff13, 0xe114 }, { 0xff14, 0x7e },   /* Pause, Scroll_Lock */
    { 0xff15, 0x84 },   { 0xff1b, 0x76 },   /* Sys_Req, Escape */
    { 0xff50, 0xe06c }, { 0xff51, 0xe06b }, /* Home, Left */
    { 0xff52, 0xe075 }, { 0xff53, 0xe074 }, /* Up, Right */
    { 0xff54, 0xe072 }, { 0xff55, 0xe07d }, /* Down, Page_Up */
    { 0xff56, 0xe07a }, { 0xff57, 0xe069 }, /* Page_Down, End */
    { 0xff61, 0xe07c }, { 0xff63, 0xe070 }, /* Print, Insert */
    { 0xff67, 0xe02f }, { 0xff6b, 0xe07e }, /* Menu, Break */
    { 0xff7f, 0x77 },   { 0xff8d, 0xe05a }, /* Num_Lock, KP_Enter */
    { 0xff95, 0x6c },   { 0xff96, 0x6b },   /* KP_Home, KP_Left */
    { 0xff97, 0x75 },   { 0xff98, 0x74 },   /* KP_Up, KP_Right */
    { 0xff99, 0x72 },   { 0xff9a, 0x7d },   /* KP_Down, KP_Page_Up */
    { 0xff9b, 0x7a },   { 0xff9c, 0x69 },   /* KP_Page_Down, KP_End */
    { 0xff9d, 0x73 },   { 0xff9e, 0x70 },   /* KP_Begin, KP_Insert */
    { 0xff9f, 0x71 },   { 0xffaa, 0x7c },   /* KP_Delete, KP_Multiply */
    { 0xffab, 0x79 },   { 0xffad, 0x7b },   /* KP_Add, KP_Subtract */
    { 0xffae, 0x71 },   { 0xffaf, 0xe04a }, /* KP_Decimal, KP_Divide */
    { 0xffb0, 0x70 },   { 0xffb1, 0x69 },   /* KP_0, KP_1 */
    { 0xffb2, 0x72 },   { 0xffb3, 0x7a },   /* KP_2, KP_3 */
    { 0xffb4, 0x6b },   { 0xffb5, 0x73 },   /* KP_4, KP_5 */
    { 0xffb6, 0x74 },   { 0xffb7, 0x6c },   /* KP_6, KP_7 */
    { 0xffb8, 0x75 },   { 0xffb9, 0x7d },   /* KP_8, KP_9 */
    { 0xffbe, 0x05 },   { 0xffbf, 0x06 },   /* F1, F2 */
    { 0xffc0, 0x04 },   { 0xffc1, 0x0c },   /* F3, F4 */
    { 0xffc2, 0x03 },   { 0xffc3, 0x0b },   /* F5, F6 */
    { 0xffc4, 0x83 },   { 0xffc5, 0x0a },   /* F7, F8 */
    { 0xffc6, 0x01 },   { 0xffc7, 0x09 },   /* F9, F10 */
    { 0xffc8, 0x78 },   { 0xffc9, 0x07 },   /* F11, F12 */
    { 0xffe1, 0x12 },   { 0xffe2, 0x59 },   /* Shift_L, Shift_R */
    { 0xffe3, 0x14 },   { 0xffe4, 0xe014 }, /* Control_L, Control_R */
    { 0xffe5, 0x58 },   { 0xffe7, 0x11 },   /* Caps_Lock, Meta_L */
    { 0xffe8, 0xe011 }, { 0xffe9, 0x11 },   /* Meta_R, Alt_L */
    { 0xffea, 0xe011 }, { 0xffeb, 0xe01f }, /* Alt_R, Super_L */
    { 0xffec, 0xe027 }, { 0xffff, 0xe071 }, /* Super_R, Delete */
    { 0xfe03, 0xe011 }, { 0xfe20, 0x0d },   /* ISO_Level3_Shift, ISO_Left_Tab */
};

struct key keysym_key(uint32_t keysym)
{
    const char *plain = key_of_char(row_plain, sizeof(row_plain) - 1, keysym);
    const char *shifted = key_of_char(row_shift, sizeof(row_shift) - 1, keysym);

    if (plain)
        return (struct key){ .code = ps2_set2((uint8_t)(plain - row_plain + 1)) };
    if (shifted)
        return (struct key){ .code = ps2_set2((uint8_t)(shifted - row_shift + 1)), .shift = true };
    for (unsigned i = 0; i < ARRAY_SIZE(keysyms); i++)
        if (keysyms[i].keysym == keysym)
            return (struct key){ .code = keysyms[i].code };
    return (struct key){ 0 };
}

/* ---- bytes ---- */

unsigned key_bytes(uint8_t *to, uint16_t code, bool down)
{
    /* Pause tells all at once and nothing when it is let go. */
    static const uint8_t pause[KEY_BYTES_MAX] = { 0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77 };
    unsigned nr = 0;

    if (code >> 8 == 0xe1) {
        memcpy(to, pause, sizeof(pause));
        return down ? sizeof(pause) : 0;
    }
    if (code > 0xff)
        to[nr++] = 0xe0;
    if (!down)
        to[nr++] = 0xf0;
    to[nr++] = (uint8_t)code;
    return nr;
}
