/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One counter of the 8254: its six modes as a function of time.
 *
 * Manual: Intel 8254 data sheet, "Mode Definitions", "Operation Common to All Modes", "Read
 * Operations". Nothing happens per CLK pulse: a counter remembers at which pulse its counting
 * element (CE) was loaded, and what CE and OUT are at any later pulse follows by arithmetic. So
 * they are exact whenever the guest looks. No I/O, no clock in here: the caller says which pulse it
 * is.
 */
#include "dev/pit.h"

/* The control word. */
#define WORD_BCD       BIT(0)
#define WORD_MODE(w)   ((w) >> 1 & 7)
#define WORD_ACCESS(w) ((w) >> 4 & 3)
#define WORD_MASK      0x3f

/* RW1, RW0. */
enum { ACCESS_LSB = 1, ACCESS_MSB = 2, ACCESS_BOTH = 3 };

/* The status byte of the read-back command. */
#define STATUS_OUT        BIT(7)
#define STATUS_NULL_COUNT BIT(6)

static uint32_t pit_modulus(const struct pit_counter *c)
{
    return c->word & WORD_BCD ? 10000 : 65536;
}

static bool pit_is_periodic(const struct pit_counter *c)
{
    return c->mode == 2 || c->mode == 3;
}

/* Modes 1 and 5 start by a rising gate, whose level means nothing to them. */
static bool pit_is_triggered(const struct pit_counter *c)
{
    return c->mode == 1 || c->mode == 5;
}

/* Mode 3: "for odd counts OUT is high for (N + 1) / 2 counts and low for (N - 1) / 2". */
static uint32_t pit_high_ticks(uint32_t count)
{
    return (count + 1) / 2;
}

/* Pulses counted since CE was loaded. */
static uint64_t pit_elapsed(const struct pit_counter *c, uint64_t now)
{
    return c->stopped ? c->stopped_at : now - c->start;
}

/* Carry out a load of CE from CR that was due. */
static void pit_settle(struct pit_counter *c, uint64_t now)
{
    if (!c->load_due || now < c->load_at)
        return;
    c->count = c->cr;
    c->start = c->load_at - (c->load_low ? pit_high_ticks(c->count) : 0);
    c->running = true;
    c->stopped = !c->gate && !pit_is_triggered(c);
    c->stopped_at = 0;
    c->load_due = c->load_low = c->null_count = false;
}

static void pit_load_at(struct pit_counter *c, uint64_t tick)
{
    c->load_due = true;
    c->load_low = false;
    c->load_at = tick;
}

/* CE as a number. */
static uint32_t pit_ce_value(const struct pit_counter *c, uint64_t now)
{
    uint64_t e = pit_elapsed(c, now);
    uint32_t mod = pit_modulus(c), phase = (uint32_t)(e % c->count),
             high = pit_high_ticks(c->count);

    switch (c->mode) {
    case 2:
        return c->count - phase;
    case 3: /* counts by two, from N, or from N - 1 when N is odd, in each half */
        return (c->count & ~1u) - 2 * (phase < high ? phase : phase - high);
    default: /* "the Counter wraps around to the highest count and continues" */
        return (uint32_t)((c->count % mod + mod - e % mod) % mod);
    }
}

/* CE as the guest reads it. */
static uint16_t pit_ce(const struct pit_counter *c, uint64_t now)
{
    uint32_t v;

    if (!c->running)
        return c->idle_ce;
    v = pit_ce_value(c, now);
    if (!(c->word & WORD_BCD))
        return (uint16_t)v;
    return (uint16_t)(v % 10 | v / 10 % 10 << 4 | v / 100 % 10 << 8 | v / 1000 % 10 << 12);
}

/* Digits above 9 are the guest's mistake; they get the value of their place. */
static uint32_t pit_decode_count(const struct pit_counter *c, uint16_t raw)
{
    uint32_t v = raw;

    if (c->word & WORD_BCD)
        v = (raw & 15u) + (raw >> 4 & 15u) * 10 + (raw >> 8 & 15u) * 100 + (raw >> 12) * 1000u;
    return v ? v : pit_modulus(c);
}

static bool pit_out_now(const struct pit_counter *c, uint64_t now)
{
    uint64_t e;

    if (!c->running)
        return c->idle_out;
    e = pit_elapsed(c, now);
    switch (c->mode) {
    case 0:
    case 1:
        return e >= c->count;
    case 2: /* low for the last pulse of a cycle; a low gate sets it high */
        return c->stopped || e % c->count != c->count - 1;
    case 3:
        return c->stopped || e % c->count < pit_high_ticks(c->count);
    default: /* a strobe, one pulse long, once */
        return e != c->count;
    }
}

bool pit_counter_out(struct pit_counter *c, uint64_t now)
{
    pit_settle(c, now);
    return pit_out_now(c, now);
}

/* End the run: CE and OUT stay as they are. */
static void pit_stop(struct pit_counter *c, uint64_t now)
{
    c->idle_ce = pit_ce(c, now);
    c->idle_out = pit_out_now(c, now);
    c->running = c->load_due = c->load_low = false;
}

/* "Control Word": all control logic is reset, OUT goes to its initial level; counting waits for a
 * count. */
void pit_counter_control(struct pit_counter *c, uint8_t word, uint64_t now)
{
    uint8_t mode = WORD_MODE(word);

    pit_settle(c, now);
    pit_stop(c, now);
    c->word = word & WORD_MASK;
    c->mode = mode > 5 ? mode & 3 : mode; /* the top bit is "don't care" in modes 2 and 3 */
    c->idle_out = c->mode != 0;
    c->has_cr = false;
    c->null_count = true;
    c->write_msb = c->read_msb = c->status_latched = false;
    c->nr_latched = 0;
}

/* In a running mode 2 or 3 a new count waits for the end of the cycle or half-cycle. */
static void pit_load_next_cycle(struct pit_counter *c, uint64_t now)
{
    uint32_t phase = (uint32_t)(pit_elapsed(c, now) % c->count), high = pit_high_ticks(c->count);

    if (c->mode == 3 && phase < high) {
        pit_load_at(c, now - phase + high);
        c->load_low = true;
    } else {
        pit_load_at(c, now - phase + c->count);
    }
}

/* A whole count was written to CR. */
static void pit_new_count(struct pit_counter *c, uint16_t raw, uint64_t now)
{
    c->cr = pit_decode_count(c, raw);
    c->has_cr = true;
    c->null_count = true;
    if (pit_is_triggered(c) || c->load_due)
        return;
    if (!pit_is_periodic(c) || !c->running)
        pit_load_at(c, now + 1);
    else if (!c->stopped)
        pit_load_next_cycle(c, now);
}

void pit_counter_write(struct pit_counter *c, uint8_t val, uint64_t now)
{
    unsigned access = WORD_ACCESS(c->word);

    pit_settle(c, now);
    if (!access) /* not programmed yet */
        return;
    /* Mode 0: the first byte, and a count of one byte, stop the count and set OUT low at once. */
    if (c->mode == 0 && !c->write_msb) {
        pit_stop(c, now);
        c->idle_out = false;
    }
    if (access == ACCESS_BOTH && !c->write_msb) {
        c->lsb = val;
        c->write_msb = true;
        return;
    }
    c->write_msb = false;
    pit_new_count(c,
                  access == ACCESS_LSB   ? val
                  : access == ACCESS_MSB ? (uint16_t)(val << 8)
                                         : (uint16_t)(val << 8 | c->lsb),
                  now);
}

/* "Gate": low stops modes 0, 2, 3 and 4; its rise resumes 0 and 4, reloads 2 and 3, triggers 1
 * and 5. */
void pit_counter_gate(struct pit_counter *c, bool gate, uint64_t now)
{
    bool rises = gate && !c->gate;

    pit_settle(c, now);
    if (gate == c->gate)
        return;
    c->gate = gate;
    if (rises && !c->has_cr)
        return;
    if (pit_is_triggered(c) || (pit_is_periodic(c) && rises)) {
        if (rises)
            pit_load_at(c, now + 1);
        return;
    }
    if (!c->running)
        return;
    if (rises) {
        c->start = now - c->stopped_at;
        c->stopped = false;
    } else if (!c->stopped) {
        c->stopped_at = now - c->start;
        c->stopped = true;
    }
    /* A count that waited for the end of the cycle now waits for the gate. */
    if (pit_is_periodic(c))
        c->load_due = c->load_low = false;
}

void pit_counter_latch_count(struct pit_counter *c, uint64_t now)
{
    pit_settle(c, now);
    if (c->nr_latched) /* "the second latch command is ignored" */
        return;
    c->latched = pit_ce(c, now);
    c->nr_latched = WORD_ACCESS(c->word) == ACCESS_BOTH ? 2 : 1;
}

void pit_counter_latch_status(struct pit_counter *c, uint64_t now)
{
    if (c->status_latched)
        return;
    c->status = (uint8_t)((pit_counter_out(c, now) ? STATUS_OUT : 0) |
                          (c->null_count ? STATUS_NULL_COUNT : 0) | c->word);
    c->status_latched = true;
}

/* A latched status comes first, then a latched count, then CE as it is. */
uint8_t pit_counter_read(struct pit_counter *c, uint64_t now)
{
    uint16_t v;
    bool msb;

    pit_settle(c, now);
    if (c->status_latched) {
        c->status_latched = false;
        return c->status;
    }
    v = c->nr_latched ? c->latched : pit_ce(c, now);
    if (c->nr_latched)
        c->nr_latched--;
    msb = WORD_ACCESS(c->word) == ACCESS_MSB;
    if (WORD_ACCESS(c->word) == ACCESS_BOTH) {
        msb = c->read_msb;
        c->read_msb = !c->read_msb;
    }
    return (uint8_t)(msb ? v >> 8 : v);
}

/* The next rise of OUT in the present run. */
static uint64_t pit_next_rise(const struct pit_counter *c, uint64_t now)
{
    uint64_t e;

    if (!c->running || c->stopped)
        return UINT64_MAX;
    e = now - c->start;
    if (pit_is_periodic(c)) /* a count of 1 is illegal in these modes: OUT does not move */
        return c->count > 1 ? now - e % c->count + c->count : UINT64_MAX;
    if (c->mode >= 4)
        return e <= c->count ? c->start + c->count + 1 : UINT64_MAX;
    return e < c->count ? c->start + c->count : UINT64_MAX;
}

uint64_t pit_counter_next(struct pit_counter *c, uint64_t now)
{
    uint64_t rise;

    pit_settle(c, now);
    rise = pit_next_rise(c, now);
    return c->load_due ? MIN(c->load_at, rise) : rise;
}

bool pit_counter_rose(struct pit_counter *c, uint64_t since, uint64_t now)
{
    /* At most one load is due, so the second event is a rise if the first was none; a load can hide
     * a strobe. */
    for (unsigned i = 0; i < 3; i++) {
        uint64_t at = pit_counter_next(c, since);

        if (at > now)
            return false;
        if (!pit_counter_out(c, at - 1) && pit_counter_out(c, at))
            return true;
        since = at;
    }
    return false;
}
