/* SPDX-License-Identifier: Apache-2.0 */
/* The PC's pair of 8259A interrupt controllers: see pic.c. */
#ifndef DEV_PIC_H
#define DEV_PIC_H

#include "bus/bus.h"

#define PIC_ELCR_PORT 0x4d0 /* and the next: IRQs 0 to 7, 8 to 15 */

/* One 8259A. The names are the data sheet's. */
struct pic_chip {
    uint8_t irr, isr, imr;
    uint8_t pins;   /* levels of IR0..IR7 */
    uint8_t elcr;   /* 1: level triggered */
    uint8_t vector; /* ICW2: T7..T3 */
    uint8_t icw1, icw3, icw4;
    uint8_t step;   /* enum pic_step */
    uint8_t lowest; /* the IR of lowest priority; 7 unless rotated */
    bool special_mask, rotate_aeoi, poll, read_isr;
    bool withdrawn; /* INT stays up for a request that is gone */
};

struct pic_config {
    struct bus *bus;
    struct irq_line intr; /* INT of the master: the CPU's INTR, LINT0. Called on changes only. */
    /* The request of that line has been served: its EOI came. Optional. */
    void (*served)(void *ctx, unsigned irq);
    void *ctx;
};

struct pic {
    struct device dev;
    struct pic_chip chip[2]; /* master, slave on IR2 */
    struct pic_config cfg;
    uint16_t served;      /* lines whose EOI came, still to be told */
    _Atomic bool int_out; /* level of the master's INT */
};

int pic_init(struct pic *p, const struct pic_config *cfg) MUST_CHECK;
void pic_fini(struct pic *p);

/* An ISA interrupt line changes its level; ctx is the struct pic, irq 0..15 (2 is the cascade:
 * ignored). An irq_line's set. */
void pic_set_irq(void *ctx, unsigned irq, int level);
/* Does a request of that line wait that is not masked? Caller holds the machine lock. */
bool pic_waits(const struct pic *p, unsigned irq);
/* Is INTR up? Any thread, no lock: a hint, which pic_ack() may find outdated. */
bool pic_pending(const struct pic *p);
/* The CPU's INTA cycles: returns the vector; that of IR7 when the request is gone. Caller holds the
 * machine lock. */
uint8_t pic_ack(struct pic *p);

#endif
