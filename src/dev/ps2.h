/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What hangs at the two ports of the i8042: a PS/2 keyboard (ps2kbd.c) and a PS/2 mouse
 * (ps2mouse.c).
 *
 * Each device takes bytes from the controller and offers bytes to it; the controller fetches them
 * when it has room.
 */
#ifndef DEV_PS2_H
#define DEV_PS2_H

#include "lib/types.h"

/* Bytes on their way to the host. Replies to commands go before anything that was typed or moved.
 */
#define PS2_QUEUE_BYTES 16
#define PS2_REPLY_BYTES 8
struct ps2_out {
    uint8_t queue[PS2_QUEUE_BYTES]; /* a ring */
    uint8_t at, nr;
    uint8_t reply[PS2_REPLY_BYTES];
    uint8_t reply_at, nr_reply;
    uint8_t last; /* for "resend" */
};

bool ps2_has_byte(const struct ps2_out *o);
/* Only when ps2_has_byte(). */
uint8_t ps2_take_byte(struct ps2_out *o);
/* A new command makes what was left of the last reply void. */
void ps2_clear_reply(struct ps2_out *o);
void ps2_reply(struct ps2_out *o, uint8_t byte);
void ps2_clear_queue(struct ps2_out *o);
/* All of it or nothing. */
bool ps2_queue(struct ps2_out *o, const uint8_t *bytes, unsigned nr);
/* Indices of a state that was loaded may be anything. */
void ps2_out_loaded(struct ps2_out *o);

#define PS2_ACK    0xfa
#define PS2_RESEND 0xfe
#define PS2_BAT_OK 0xaa /* basic assurance test */

struct ps2_kbd {
    struct ps2_out out;
    uint8_t cmd; /* command that waits for its parameter, or 0 */
    uint8_t set; /* scan-code set 1 or 2 */
    uint8_t leds, typematic;
    bool scanning;
    bool release; /* an F0 went by: translation of what follows */
};

void ps2_kbd_reset(struct ps2_kbd *k);
void ps2_kbd_command(struct ps2_kbd *k, uint8_t byte);
/* One key's make or break code in set 2. */
void ps2_kbd_key(struct ps2_kbd *k, const uint8_t *code, unsigned nr);
/*
 * The controller's translation of set 2 to set 1, one byte: false when nothing is to be passed on
 * yet. `release` is the caller's memory of an F0.
 */
bool ps2_translate(bool *release, uint8_t in, uint8_t *out);

/* The code of set 2 that the controller turns into this one of set 1, a key going down; 0: none. */
uint16_t ps2_set2(uint8_t set1);

struct ps2_mouse {
    struct ps2_out out;
    uint8_t cmd; /* command that waits for its parameter, or 0 */
    uint8_t id;  /* 0: standard; 3: with wheel; 4: and five buttons */
    uint8_t rate, resolution;
    uint8_t rates[3]; /* the last ones set: the knock for a wheel */
    uint8_t buttons;  /* as last reported to us: left, right, middle, 4th, 5th */
    bool enabled, remote, wrap, scale2;
    int16_t dx, dy, dz; /* not yet sent; y grows upwards */
};

void ps2_mouse_reset(struct ps2_mouse *m);
void ps2_mouse_command(struct ps2_mouse *m, uint8_t byte);
void ps2_mouse_move(struct ps2_mouse *m, int dx, int dy, int dz, uint8_t buttons);
/* The controller took bytes: there may be room for a packet that waited. */
void ps2_mouse_poll(struct ps2_mouse *m);

#endif
