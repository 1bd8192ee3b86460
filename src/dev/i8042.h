/* SPDX-License-Identifier: Apache-2.0 */
/* The keyboard controller with its two PS/2 ports: see i8042.c. */
#ifndef DEV_I8042_H
#define DEV_I8042_H

#include "bus/bus.h"
#include "dev/ps2.h"

struct i8042_config {
    struct bus *bus;
    struct irq_line irq_kbd, irq_aux; /* IRQ 1 and 12 */
};

struct i8042 {
    struct device dev;
    struct irq_line irq_kbd, irq_aux;
    uint8_t ram[32];     /* the first byte is the command byte */
    uint8_t cmd;         /* command that waits for its data, or 0 */
    bool wrote_cmd;      /* the last write went to port 64h */
    uint8_t out;         /* output buffer ... */
    bool full, from_aux; /* ... is there something in it, and from whom */
    uint8_t answer;      /* of a controller command, while the buffer is occupied */
    bool has_answer, answer_from_aux;
    bool release; /* translation saw F0 */
    struct ps2_kbd kbd;
    struct ps2_mouse mouse;
    bool kbd_up, aux_up;
};

int i8042_init(struct i8042 *k, const struct i8042_config *cfg) MUST_CHECK;
void i8042_fini(struct i8042 *k);

/* A key goes down or up: its whole make or break code of scan-code set 2. Caller holds the machine
 * lock. */
void i8042_key(struct i8042 *k, const uint8_t *code, unsigned nr);
/* Would a key of so many bytes be kept now? Caller holds the machine lock. */
bool i8042_has_room(const struct i8042 *k, unsigned nr);
/* The mouse moved (y grows upwards) or its buttons (left, right, middle, ...) changed. Caller holds
 * the machine lock. */
void i8042_move(struct i8042 *k, int dx, int dy, int dz, uint8_t buttons);

#endif
