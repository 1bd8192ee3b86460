/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A PS/2 mouse, with a wheel and five buttons for drivers that know the knock.
 *
 * Manual: IBM Personal System/2 Hardware Interface Technical Reference, "Auxiliary device"; the
 * knock: Microsoft, "IntelliMouse device identification".
 */
#include "dev/ps2.h"

enum {
    MOUSE_SCALE_1 = 0xe6,
    MOUSE_SCALE_2 = 0xe7,
    MOUSE_SET_RESOLUTION = 0xe8,
    MOUSE_STATUS = 0xe9,
    MOUSE_STREAM = 0xea,
    MOUSE_READ_DATA = 0xeb,
    MOUSE_WRAP_OFF = 0xec,
    MOUSE_WRAP = 0xee,
    MOUSE_REMOTE = 0xf0,
    MOUSE_IDENTIFY = 0xf2,
    MOUSE_SET_RATE = 0xf3,
    MOUSE_ENABLE = 0xf4,
    MOUSE_DISABLE = 0xf5,
    MOUSE_DEFAULT = 0xf6,
    MOUSE_RESEND = 0xfe,
    MOUSE_RESET = 0xff,
};

/* First byte of a packet. */
#define PACKET_BUTTONS 0x07
#define PACKET_ALWAYS  BIT(3)
#define PACKET_X_SIGN  BIT(4)
#define PACKET_Y_SIGN  BIT(5)

#define MOUSE_ID_WHEEL     3
#define MOUSE_ID_5_BUTTONS 4
#define MOUSE_MAX_DELTA    255
#define MOUSE_MAX_WHEEL    7

static void ps2_mouse_defaults(struct ps2_mouse *m)
{
    ps2_clear_queue(&m->out);
    m->rate = 100;
    m->resolution = 2; /* 4 counts a millimetre */
    m->enabled = m->remote = m->scale2 = false;
    m->dx = m->dy = m->dz = 0;
}

void ps2_mouse_reset(struct ps2_mouse *m)
{
    *m = (struct ps2_mouse){ .id = 0 };
    ps2_mouse_defaults(m);
}

static int16_t ps2_mouse_take(int16_t *left, int max)
{
    int d = *left > max ? max : *left < -max ? -max : *left;

    *left = (int16_t)(*left - d);
    return (int16_t)d;
}

/* Up to what one packet can say of the movement not yet told; the rest is for the next. Returns its
 * length. */
static unsigned ps2_mouse_packet(struct ps2_mouse *m, uint8_t *p)
{
    int dx = ps2_mouse_take(&m->dx, MOUSE_MAX_DELTA), dy = ps2_mouse_take(&m->dy, MOUSE_MAX_DELTA);
    int dz = ps2_mouse_take(&m->dz, MOUSE_MAX_WHEEL);

    p[0] = (uint8_t)((m->buttons & PACKET_BUTTONS) | PACKET_ALWAYS | (dx < 0 ? PACKET_X_SIGN : 0) |
                     (dy < 0 ? PACKET_Y_SIGN : 0));
    p[1] = (uint8_t)dx;
    p[2] = (uint8_t)dy;
    if (m->id == MOUSE_ID_WHEEL)
        p[3] = (uint8_t)dz;
    else if (m->id == MOUSE_ID_5_BUTTONS)
        p[3] = (uint8_t)((dz & 15) | (m->buttons >> 3 & 3) << 4);
    else
        return 3;
    return 4;
}

void ps2_mouse_poll(struct ps2_mouse *m)
{
    uint8_t p[4];

    if (!m->enabled || m->remote || m->wrap)
        return;
    while ((m->dx || m->dy || m->dz) && m->out.nr + sizeof(p) <= PS2_QUEUE_BYTES)
        (void)ps2_queue(&m->out, p, ps2_mouse_packet(m, p)); /* there is room */
}

static int16_t ps2_mouse_add(int16_t a, int b)
{
    int64_t sum = (int64_t)a + b;

    return (int16_t)(sum > INT16_MAX ? INT16_MAX : sum < -INT16_MAX ? -INT16_MAX : sum);
}

void ps2_mouse_move(struct ps2_mouse *m, int dx, int dy, int dz, uint8_t buttons)
{
    bool pressed = m->buttons != buttons;
    uint8_t p[4];

    m->dx = ps2_mouse_add(m->dx, dx);
    m->dy = ps2_mouse_add(m->dy, dy);
    if (m->id)
        m->dz = ps2_mouse_add(m->dz, dz);
    m->buttons = buttons;
    /* A button is told even when nothing moved; when the queue is full, with the next packet. */
    if (pressed && m->enabled && !m->remote && !m->wrap && m->out.nr + sizeof(p) <= PS2_QUEUE_BYTES)
        (void)ps2_queue(&m->out, p, ps2_mouse_packet(m, p));
    ps2_mouse_poll(m);
}

/* Sample rates 200, 100, 80 in a row ask for a wheel, then 200, 200, 80 for two more buttons. */
static void ps2_mouse_set_rate(struct ps2_mouse *m, uint8_t rate)
{
    m->rate = rate;
    m->rates[0] = m->rates[1];
    m->rates[1] = m->rates[2];
    m->rates[2] = rate;
    if (m->rates[0] != 200 || m->rates[2] != 80)
        return;
    if (m->rates[1] == 100)
        m->id = MOUSE_ID_WHEEL;
    else if (m->rates[1] == 200 && m->id == MOUSE_ID_WHEEL)
        m->id = MOUSE_ID_5_BUTTONS;
}

static void ps2_mouse_reply_status(struct ps2_mouse *m)
{
    ps2_reply(&m->out, (uint8_t)((m->remote ? BIT(6) : 0) | (m->enabled ? BIT(5) : 0) |
                                 (m->scale2 ? BIT(4) : 0) | (m->buttons & 1 ? BIT(2) : 0) |
                                 (m->buttons & 4 ? BIT(1) : 0) | (m->buttons & 2 ? BIT(0) : 0)));
    ps2_reply(&m->out, m->resolution);
    ps2_reply(&m->out, m->rate);
}

static void ps2_mouse_reply_data(struct ps2_mouse *m)
{
    uint8_t p[4];
    unsigned nr = ps2_mouse_packet(m, p);

    for (unsigned i = 0; i < nr; i++)
        ps2_reply(&m->out, p[i]);
}

/* The commands that say no more than ACK. False: not one of them. */
static bool ps2_mouse_simple(struct ps2_mouse *m, uint8_t byte)
{
    switch (byte) {
    case MOUSE_SCALE_1:
    case MOUSE_SCALE_2:
        m->scale2 = byte == MOUSE_SCALE_2;
        return true;
    case MOUSE_SET_RESOLUTION:
    case MOUSE_SET_RATE:
        m->cmd = byte;
        return true;
    case MOUSE_STREAM:
    case MOUSE_REMOTE:
        m->remote = byte == MOUSE_REMOTE;
        return true;
    case MOUSE_WRAP:
    case MOUSE_WRAP_OFF:
        m->wrap = byte == MOUSE_WRAP;
        return true;
    case MOUSE_ENABLE:
    case MOUSE_DISABLE:
        m->enabled = byte == MOUSE_ENABLE;
        return true;
    case MOUSE_DEFAULT:
        ps2_mouse_defaults(m);
        return true;
    default:
        return false;
    }
}

void ps2_mouse_command(struct ps2_mouse *m, uint8_t byte)
{
    uint8_t cmd = m->cmd, last = m->out.last;

    m->cmd = 0;
    ps2_clear_reply(&m->out);
    if (m->wrap && byte != MOUSE_WRAP_OFF && byte != MOUSE_RESET) {
        ps2_reply(&m->out, byte);
        return;
    }
    if (cmd && byte < MOUSE_SCALE_1) {
        if (cmd == MOUSE_SET_RATE)
            ps2_mouse_set_rate(m, byte);
        else
            m->resolution = byte & 3;
        ps2_reply(&m->out, PS2_ACK);
        return;
    }
    ps2_clear_queue(&m->out);
    if (byte == MOUSE_RESEND) {
        ps2_reply(&m->out, last);
        return;
    }
    if (byte == MOUSE_RESET)
        ps2_mouse_reset(m);
    else if (!ps2_mouse_simple(m, byte) && byte != MOUSE_STATUS && byte != MOUSE_READ_DATA &&
             byte != MOUSE_IDENTIFY) {
        ps2_reply(&m->out, PS2_RESEND);
        return;
    }
    ps2_reply(&m->out, PS2_ACK);
    if (byte == MOUSE_RESET) {
        ps2_reply(&m->out, PS2_BAT_OK);
        ps2_reply(&m->out, m->id);
    } else if (byte == MOUSE_IDENTIFY) {
        ps2_reply(&m->out, m->id);
    } else if (byte == MOUSE_STATUS) {
        ps2_mouse_reply_status(m);
    } else if (byte == MOUSE_READ_DATA) {
        ps2_mouse_reply_data(m);
    }
}
