/* SPDX-License-Identifier: Apache-2.0 */
/* The 8254 interval timer and port 61h: see pit.c. */
#ifndef DEV_PIT_H
#define DEV_PIT_H

#include "bus/bus.h"

/* One counter of the 8254: see pit_counter.c. Times are CLK pulses since the VM's start. */
struct pit_counter {
    uint8_t word; /* the control word as written, without the counter's number */
    uint8_t mode; /* 0..5 */
    bool gate;
    /* The run: CE was loaded with `count` at tick `start`; while gate stops it, `stopped_at` pulses
     * of it were counted. */
    bool running, stopped;
    uint64_t start, stopped_at;
    uint32_t count;
    uint16_t idle_ce; /* CE and OUT while there is no run */
    bool idle_out;
    /* CR, and when it goes to CE: null count until then. */
    bool has_cr, null_count, load_due;
    bool load_low; /* mode 3: it begins a low half-cycle */
    uint32_t cr;
    uint64_t load_at;
    /* The data port. */
    bool write_msb, read_msb; /* second byte of two is next */
    uint8_t lsb;              /* first byte written */
    uint8_t nr_latched;       /* bytes of the latched count left to read */
    uint16_t latched;
    bool status_latched;
    uint8_t status;
};

/* `now` never goes back from call to call. */
void pit_counter_control(struct pit_counter *c, uint8_t word, uint64_t now);
void pit_counter_write(struct pit_counter *c, uint8_t val, uint64_t now);
uint8_t pit_counter_read(struct pit_counter *c, uint64_t now);
void pit_counter_latch_count(struct pit_counter *c, uint64_t now);
void pit_counter_latch_status(struct pit_counter *c, uint64_t now);
void pit_counter_gate(struct pit_counter *c, bool gate, uint64_t now);
bool pit_counter_out(struct pit_counter *c, uint64_t now);
/* The first tick after `now` at which OUT rises or a new count is loaded; UINT64_MAX: neither
 * without help. */
uint64_t pit_counter_next(struct pit_counter *c, uint64_t now);
/* Did OUT rise by itself after `since` (the last call's now) and up to `now`? */
bool pit_counter_rose(struct pit_counter *c, uint64_t since, uint64_t now);

struct pit_config {
    struct bus *bus;
    struct irq_line irq; /* OUT of counter 0 */
};

struct pit {
    struct device dev;
    struct irq_line irq;
    struct pit_counter counter[3];
    uint8_t port61; /* bits 0..3 */
    bool irq_up;
    bool detached;     /* the HPET has IRQ 0 */
    uint64_t seen_at;  /* tick up to which rises of OUT0 were delivered */
    uint8_t backlog;   /* rises missed and still to be delivered */
    bool held;         /* ... but the processor is slow: not before the next rise */
    uint64_t irq_ns;   /* VM clock at the last delivery */
    uint64_t armed_ns; /* the timer's deadline */
    struct timer timer;
};

int pit_init(struct pit *p, const struct pit_config *cfg) MUST_CHECK;
void pit_fini(struct pit *p);
/* The HPET's legacy replacement route takes IRQ 0 over, or gives it back. Caller holds the machine
 * lock. */
void pit_detach_irq(struct pit *p, bool detached);
/* The processor has served an edge of the line: the next that was missed may come now. Caller holds
 * the machine lock. */
void pit_irq_served(struct pit *p);

#endif
