/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A PS/2 keyboard: commands, scan-code sets 2 and 1, and the table by which the i8042 turns set 2
 * into set 1.
 *
 * Manual: IBM Personal System/2 Hardware Interface Technical Reference, "Keyboard (101- and
 * 102-Key)". Set 3 is refused as keyboards without it do. Keys do not repeat by themselves: whoever
 * feeds them repeats them.
 */
#include "dev/ps2.h"

enum {
    KBD_SET_LEDS = 0xed,
    KBD_ECHO = 0xee,
    KBD_SCAN_CODE_SET = 0xf0,
    KBD_IDENTIFY = 0xf2,
    KBD_SET_TYPEMATIC = 0xf3,
    KBD_ENABLE = 0xf4,
    KBD_DEFAULT_DISABLE = 0xf5,
    KBD_DEFAULT = 0xf6,
    KBD_SET_ALL_FIRST = 0xf7, /* key types, which mean something in set 3 only: of all keys */
    KBD_SET_ALL_LAST = 0xfa,
    KBD_SET_KEY_FIRST = 0xfb, /* of one */
    KBD_SET_KEY_LAST = 0xfd,
    KBD_RESEND = 0xfe,
    KBD_RESET = 0xff,
};

#define KBD_RELEASE           0xf0 /* prefix of break codes in set 2 */
/* Behind the table's end, in set 2 and in set 1; SysRq is Alt's with Print. */
#define KBD_F7                0x83
#define KBD_SET1_F7           0x41
#define KBD_SYSRQ             0x84
#define KBD_SET1_SYSRQ        0x54
#define KBD_OVERRUN           0x00 /* set 2: keys were lost */
#define KBD_OVERRUN_1         0xff
#define KBD_TYPEMATIC_DEFAULT 0x2b /* 10.9 a second, after half a second */

/* Set 2 to set 1, as the controller does it; 00h is the overrun code. */
static const uint8_t kbd_set1[0x80] = {
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
};

bool ps2_translate(bool *release, uint8_t in, uint8_t *out)
{
    if (in == KBD_RELEASE) {
        *release = true;
        return false;
    }
    if (in < 0x80)
        *out = kbd_set1[in];
    else if (in == KBD_F7)
        *out = KBD_SET1_F7;
    else if (in == KBD_SYSRQ)
        *out = KBD_SET1_SYSRQ;
    else
        *out = in; /* replies and prefixes */
    if (*release)
        *out |= 0x80;
    *release = false;
    return true;
}

uint16_t ps2_set2(uint8_t set1)
{
    if (set1 == KBD_SET1_F7)
        return KBD_F7;
    if (set1 == KBD_SET1_SYSRQ)
        return KBD_SYSRQ;
    for (unsigned i = 1; i < ARRAY_SIZE(kbd_set1); i++)
        if (kbd_set1[i] == set1)
            return (uint16_t)i;
    return 0;
}

static void ps2_kbd_defaults(struct ps2_kbd *k)
{
    ps2_clear_queue(&k->out);
    k->typematic = KBD_TYPEMATIC_DEFAULT;
    k->set = 2;
}

void ps2_kbd_reset(struct ps2_kbd *k)
{
    *k = (struct ps2_kbd){ .scanning = true };
    ps2_kbd_defaults(k);
}

/* The second byte of a command. Anything that looks like a command is one: the first is forgotten.
 */
static bool ps2_kbd_parameter(struct ps2_kbd *k, uint8_t cmd, uint8_t val)
{
    if (val >= KBD_SET_LEDS)
        return false;
    switch (cmd) {
    case KBD_SET_LEDS:
        k->leds = val & 7;
        break;
    case KBD_SET_TYPEMATIC:
        k->typematic = val & 0x7f;
        break;
    case KBD_SCAN_CODE_SET:
        if (val > 2) {
            ps2_reply(&k->out, PS2_RESEND);
            return true;
        }
        ps2_reply(&k->out, PS2_ACK);
        if (val)
            k->set = val;
        else
            ps2_reply(&k->out, k->set);
        return true;
    default: /* a key's type in set 3 */
        break;
    }
    ps2_reply(&k->out, PS2_ACK);
    return true;
}

/* What has a reply of its own. False: not such a command. */
static bool ps2_kbd_question(struct ps2_kbd *k, uint8_t byte)
{
    switch (byte) {
    case KBD_ECHO:
        ps2_reply(&k->out, KBD_ECHO);
        return true;
    case KBD_IDENTIFY:
        ps2_reply(&k->out, PS2_ACK);
        ps2_reply(&k->out, 0xab);
        ps2_reply(&k->out, 0x83);
        return true;
    case KBD_RESEND:
        ps2_reply(&k->out, k->out.last);
        return true;
    case KBD_RESET:
        ps2_kbd_reset(k);
        ps2_reply(&k->out, PS2_ACK);
        ps2_reply(&k->out, PS2_BAT_OK);
        return true;
    default:
        return false;
    }
}

void ps2_kbd_command(struct ps2_kbd *k, uint8_t byte)
{
    uint8_t cmd = k->cmd;

    k->cmd = 0;
    ps2_clear_reply(&k->out);
    if ((cmd && ps2_kbd_parameter(k, cmd, byte)) || ps2_kbd_question(k, byte))
        return;
    switch (byte) {
    case KBD_SET_LEDS:
    case KBD_SCAN_CODE_SET:
    case KBD_SET_TYPEMATIC:
    case KBD_SET_KEY_FIRST ... KBD_SET_KEY_LAST:
        k->cmd = byte;
        break;
    case KBD_ENABLE:
        ps2_clear_queue(&k->out);
        k->scanning = true;
        break;
    case KBD_DEFAULT_DISABLE:
    case KBD_DEFAULT:
        ps2_kbd_defaults(k);
        k->scanning = byte == KBD_DEFAULT;
        break;
    case KBD_SET_ALL_FIRST ... KBD_SET_ALL_LAST:
        break;
    default: /* "an invalid input" */
        ps2_reply(&k->out, PS2_RESEND);
        return;
    }
    ps2_reply(&k->out, PS2_ACK);
}

void ps2_kbd_key(struct ps2_kbd *k, const uint8_t *code, unsigned nr)
{
    uint8_t buf[PS2_QUEUE_BYTES], overrun = k->set == 2 ? KBD_OVERRUN : KBD_OVERRUN_1;
    unsigned nr_out = 0;

    if (!k->scanning)
        return;
    nr = MIN(nr, sizeof(buf));
    for (unsigned i = 0; i < nr; i++) {
        buf[nr_out] = code[i];
        if (k->set == 2 || ps2_translate(&k->release, code[i], &buf[nr_out]))
            nr_out++;
    }
    /* The last place is kept for the overrun code, which tells the host that keys were lost. */
    if (k->out.nr + nr_out < PS2_QUEUE_BYTES)
        (void)ps2_queue(&k->out, buf, nr_out); /* there is room */
    else
        (void)ps2_queue(&k->out, &overrun, 1); /* if it is not there yet */
}
