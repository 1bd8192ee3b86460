/* SPDX-License-Identifier: Apache-2.0 */
/*
 * High precision event timer: a 64-bit counter at 100 MHz and three comparators, each one-shot or
 * periodic, level or edge triggered, by line, by the legacy replacement route or by message.
 *
 * Manual: IA-PC HPET Specification 1.0a. The counter is the VM's clock, so it agrees with the TSC
 * by construction.
 *
 * As with the PIT (pit.c), edges of a periodic timer that were missed because the host was late,
 * with the timer or with the vCPU, are kept, up to HPET_BACKLOG_MAX, and delivered one at each EOI,
 * or every HPET_CATCH_UP_NS; but not those of messages.
 */
#include "dev/hpet.h"

#define HPET_BYTES        0x400u
#define HPET_TICK_NS      10ull
#define HPET_TICK_FS      (HPET_TICK_NS * 1000000)
#define HPET_VENDOR_INTEL 0x8086ull

/* Registers: 64 bits each. */
#define HPET_GCAP_ID   0x000u
#define HPET_GEN_CONF  0x010u
#define HPET_GINTR_STA 0x020u
#define HPET_MAIN_CNT  0x0f0u
#define HPET_TIMER0    0x100u /* and every 20h: */
#define HPET_T_STRIDE  0x020u
#define HPET_T_CONF    0x00u
#define HPET_T_CMP     0x08u
#define HPET_T_FSB     0x10u

#define GEN_ENABLE BIT64(0)
#define GEN_LEGACY BIT64(1)

#define T_LEVEL        BIT64(1)
#define T_INT_ENB      BIT64(2)
#define T_PERIODIC     BIT64(3)
#define T_PER_CAP      BIT64(4)
#define T_SIZE_CAP     BIT64(5)
#define T_VAL_SET      BIT64(6)
#define T_32BIT        BIT64(8)
#define T_ROUTE_SHIFT  9
#define T_ROUTE        (0x1full << T_ROUTE_SHIFT)
#define T_FSB_ENB      BIT64(14)
#define T_FSB_CAP      BIT64(15)
#define T_ROUTES_SHIFT 32
#define T_WRITABLE     (T_LEVEL | T_INT_ENB | T_PERIODIC | T_VAL_SET | T_32BIT | T_ROUTE | T_FSB_ENB)

/* GSIs 20..23, which nothing else uses: PCI's INTx are 16..19. */
#define HPET_ROUTES 0x00f00000ull
_Static_assert(HPET_GSIS == (HPET_ROUTES | BIT(0) | BIT(8)), "and the legacy route's");
#define T_CAPS       (T_PER_CAP | T_SIZE_CAP | T_FSB_CAP | HPET_ROUTES << T_ROUTES_SHIFT)
#define HPET_NO_LINE 32u

/* However short a guest makes a period, the host does not wake up more often than this. */
#define HPET_MIN_WAKE_NS 10000ull

#define HPET_CATCH_UP_NS 300000ull
#define HPET_BACKLOG_MAX 16u

/* ---- counter
 * ----------------------------------------------------------------------------------------------------
 */

static uint64_t clock_ticks(const struct hpet *h)
{
    return clock_now_ns(bus_clock(h->dev.bus)) / HPET_TICK_NS;
}

static uint64_t hpet_count(const struct hpet *h)
{
    return h->config & GEN_ENABLE ? h->counter + clock_ticks(h) : h->counter;
}

static void hpet_set_count(struct hpet *h, uint64_t count)
{
    h->counter = h->config & GEN_ENABLE ? count - clock_ticks(h) : count;
}

/* A value in the width of the timer's comparator. */
static uint64_t in_width(const struct hpet_timer *t, uint64_t val)
{
    return t->config & T_32BIT ? (uint32_t)val : val;
}

/* ---- interrupts
 * -------------------------------------------------------------------------------------------------
 */

/* The GSI a timer's line leads to; HPET_NO_LINE if it is switched off, goes by message, or nowhere.
 */
static unsigned hpet_route(const struct hpet_timer *t)
{
    unsigned gsi = (unsigned)((t->config & T_ROUTE) >> T_ROUTE_SHIFT);

    if (!(t->config & T_INT_ENB) || !(t->hpet->config & GEN_ENABLE))
        return HPET_NO_LINE;
    if (t->config & T_FSB_ENB)
        return HPET_NO_LINE;
    if (t->hpet->config & GEN_LEGACY && t->idx < 2)
        return t->idx == 0 ? 0 : 8;
    return HPET_ROUTES & BIT64(gsi) ? gsi : HPET_NO_LINE;
}

static struct irq_line hpet_line(const struct hpet *h, unsigned gsi)
{
    if (gsi == 0)
        return h->cfg.irq0;
    if (gsi == 8)
        return h->cfg.irq8;
    return bus_gsi(h->dev.bus, gsi);
}

/* Brings the lines to what status and configuration say; two timers may share one. */
static void hpet_update_lines(struct hpet *h)
{
    uint32_t up = 0, changed;

    for (unsigned i = 0; i < HPET_TIMERS; i++) {
        const struct hpet_timer *t = &h->timers[i];
        unsigned gsi = hpet_route(t);

        if ((t->config & T_LEVEL) && (h->status & BIT64(i)) && gsi != HPET_NO_LINE)
            up |= BIT(gsi);
    }
    changed = up ^ h->lines_up;
    h->lines_up = up;
    for (unsigned gsi = 0; gsi < 32; gsi++) {
        struct irq_line line;

        if (!(changed & BIT(gsi)))
            continue;
        line = hpet_line(h, gsi);
        irq_set(&line, up >> gsi & 1);
    }
}

/* Are edges that nobody took worth keeping? */
static bool hpet_keeps(const struct hpet_timer *t)
{
    return !(t->config & T_LEVEL) && hpet_route(t) != HPET_NO_LINE;
}

/* Is it an edge on a line, and does the last one still wait there? */
static bool hpet_waits(const struct hpet_timer *t)
{
    unsigned gsi = hpet_route(t);
    struct irq_line line = hpet_line(t->hpet, gsi);

    return hpet_keeps(t) && irq_waits(&line);
}

static void hpet_interrupt(struct hpet_timer *t)
{
    struct hpet *h = t->hpet;
    unsigned gsi = hpet_route(t);

    if (t->config & T_LEVEL) {
        h->status |= BIT64(t->idx); /* even when it may not interrupt: for polling */
        hpet_update_lines(h);
    } else if (gsi != HPET_NO_LINE && !(h->lines_up & BIT(gsi))) {
        struct irq_line line = hpet_line(h, gsi);

        irq_pulse(&line);
    }
    if ((t->config & T_INT_ENB) && (t->config & T_FSB_ENB))
        bus_msi(h->dev.bus, t->fsb >> 32, (uint32_t)t->fsb);
}

/* ---- comparators
 * ------------------------------------------------------------------------------------------------
 */

/*
 * With its interrupt switched off a match is seen only by who looks at the registers. Linux leaves
 * a periodic timer that it no longer needs like that, for good: nothing wakes up for it, and what
 * would have happened is made up for when somebody looks (hpet_look()).
 */
static bool hpet_silent(const struct hpet_timer *t)
{
    return !(t->config & T_INT_ENB);
}

/* Sleep until the counter reaches cmp. A match at `from` was delivered: then it is a whole turn
 * away. */
static void hpet_arm(struct hpet_timer *t)
{
    struct hpet *h = t->hpet;
    uint64_t now_ticks = clock_ticks(h), behind = h->counter + now_ticks - t->from;
    /* Ticks from `from` to the match, less one: so that a whole turn of 64 bits has a number. */
    uint64_t to_match = in_width(t, t->cmp - t->from - 1);
    uint64_t wait = to_match < behind ? 0 : to_match - behind, deadline_ticks;

    if (!(h->config & GEN_ENABLE) || hpet_silent(t) ||
        __builtin_add_overflow(now_ticks, wait, &deadline_ticks) ||
        deadline_ticks >= UINT64_MAX / HPET_TICK_NS - 1) { /* centuries away */
        timer_cancel(&t->timer);
        return;
    }
    if (to_match >= behind)
        deadline_ticks++; /* that one */
    timer_arm(&t->timer, deadline_ticks * HPET_TICK_NS);
}

/* What was written to the counter or to a comparator counts from now on; a match right now is one.
 */
static void hpet_restart(struct hpet_timer *t)
{
    t->backlog = 0;
    t->from = hpet_count(t->hpet) - 1;
    hpet_arm(t);
}

/* Behind a match: the first multiple of the period that is far enough ahead. Notes what was missed.
 */
static void hpet_next_period(struct hpet_timer *t)
{
    uint64_t period = in_width(t, t->period), late, skip;

    if (!period)
        return; /* nothing to add: the next match is a turn of the counter away */
    late = in_width(t, hpet_count(t->hpet) - t->cmp);
    if (period < HPET_MIN_WAKE_NS / HPET_TICK_NS)
        late += HPET_MIN_WAKE_NS / HPET_TICK_NS;
    skip = late / period + 1;
    t->cmp = in_width(t, t->cmp + skip * period);
    if (period >= 2 * HPET_CATCH_UP_NS / HPET_TICK_NS && hpet_keeps(t))
        t->backlog = (uint8_t)MIN(t->backlog + skip - 1 + hpet_waits(t), HPET_BACKLOG_MAX);
}

static void hpet_expired(void *arg)
{
    struct hpet_timer *t = arg;
    uint64_t now = hpet_count(t->hpet);
    bool match = in_width(t, t->cmp - t->from - 1) < now - t->from, deliver = match;

    t->from = now;
    if (match && (t->config & T_PERIODIC)) {
        hpet_next_period(t);
    } else if (!match && t->backlog && !hpet_waits(t)) {
        t->backlog--;
        deliver = true;
    }
    hpet_arm(t);
    /* Where the last one still waits there is time until the next match. */
    if (t->backlog && deliver)
        timer_arm(&t->timer, MIN(t->timer.deadline_ns,
                                 clock_now_ns(bus_clock(t->hpet->dev.bus)) + HPET_CATCH_UP_NS));
    if (deliver)
        hpet_interrupt(t);
}

static void hpet_look(struct hpet *h)
{
    for (unsigned i = 0; i < HPET_TIMERS; i++)
        if ((h->config & GEN_ENABLE) && hpet_silent(&h->timers[i]))
            hpet_expired(&h->timers[i]);
}

/*
 * What the clock's thread would do, if it had a processor: the vCPU has one, and may be about to
 * compare what it counted with the TSC.
 */
void hpet_irq_served(struct hpet *h, unsigned gsi)
{
    for (unsigned i = 0; i < HPET_TIMERS; i++) {
        struct hpet_timer *t = &h->timers[i];

        if (hpet_keeps(t) && hpet_route(t) == gsi && (t->config & T_PERIODIC))
            hpet_expired(t);
    }
}

/* ---- registers
 * --------------------------------------------------------------------------------------------------
 */

static uint64_t hpet_timer_get(const struct hpet_timer *t, unsigned reg)
{
    switch (reg) {
    case HPET_T_CONF:
        return t->config | T_CAPS;
    case HPET_T_CMP:
        return t->cmp;
    case HPET_T_FSB:
        return t->fsb;
    }
    return 0;
}

static uint64_t hpet_get(const struct hpet *h, unsigned reg)
{
    unsigned idx = (reg - HPET_TIMER0) / HPET_T_STRIDE;

    switch (reg) {
    case HPET_GCAP_ID: /* revision 1, 64 bits, legacy route */
        return HPET_TICK_FS << 32 | HPET_VENDOR_INTEL << 16 | BIT(15) | BIT(13) |
               (HPET_TIMERS - 1) << 8 | 1;
    case HPET_GEN_CONF:
        return h->config;
    case HPET_GINTR_STA:
        return h->status;
    case HPET_MAIN_CNT:
        return hpet_count(h);
    }
    if (reg >= HPET_TIMER0 && idx < HPET_TIMERS)
        return hpet_timer_get(&h->timers[idx], reg & (HPET_T_STRIDE - 1));
    return 0;
}

static uint64_t hpet_mmio_read(struct device *dev, uint64_t off_bytes, unsigned bytes)
{
    struct hpet *h = container_of(dev, struct hpet, dev);
    unsigned reg = (unsigned)off_bytes & ~7u;

    (void)bytes; /* the bus takes what it asked for */
    if (reg != HPET_MAIN_CNT)
        hpet_look(h);
    return hpet_get(h, reg) >> (8 * (off_bytes & 7));
}

static void hpet_put_gen_conf(struct hpet *h, uint64_t val)
{
    uint64_t old = h->config, count = hpet_count(h);

    h->config = val & (GEN_ENABLE | GEN_LEGACY);
    for (unsigned i = 0; i < HPET_TIMERS; i++)
        h->timers[i].backlog = 0;
    if ((old ^ h->config) & GEN_ENABLE) {
        hpet_set_count(h, count);
        for (unsigned i = 0; i < HPET_TIMERS; i++)
            hpet_arm(&h->timers[i]);
    }
    hpet_update_lines(h);
    if (((old ^ h->config) & GEN_LEGACY) && h->cfg.legacy)
        h->cfg.legacy(h->cfg.ctx, h->config & GEN_LEGACY);
}

static void hpet_put_count(struct hpet *h, uint64_t val)
{
    hpet_set_count(h, val);
    for (unsigned i = 0; i < HPET_TIMERS; i++)
        hpet_restart(&h->timers[i]);
}

static void hpet_put_timer_conf(struct hpet_timer *t, uint64_t val)
{
    uint64_t old = t->config;

    t->backlog = 0;
    /* A route the timer does not have is not taken: software reads back to see
     * ("Tn_INT_ROUTE_CNF"). */
    if (!(HPET_ROUTES >> ((val & T_ROUTE) >> T_ROUTE_SHIFT) & 1))
        val = (val & ~T_ROUTE) | (old & T_ROUTE);
    t->config = val & T_WRITABLE;
    t->cmp = in_width(t, t->cmp);
    t->period = in_width(t, t->period);
    if ((old ^ t->config) & T_LEVEL)
        t->hpet->status &= ~BIT64(t->idx);
    if ((old ^ t->config) & (T_32BIT | T_PERIODIC))
        hpet_restart(t);
    else if ((old ^ t->config) & T_INT_ENB)
        hpet_arm(t);
    hpet_update_lines(t->hpet);
}

/*
 * In periodic mode a write sets the period, and with VAL_SET the first match too ("Timer n
 * Comparator Register", "VAL_SET": the bit clears itself).
 */
static void hpet_put_cmp(struct hpet_timer *t, uint64_t val, uint64_t mask)
{
    bool periodic = t->config & T_PERIODIC;

    if (periodic)
        t->period = in_width(t, (t->period & ~mask) | val);
    if (!periodic || (t->config & T_VAL_SET)) {
        t->cmp = in_width(t, (t->cmp & ~mask) | val);
        hpet_restart(t);
    }
    t->config &= ~T_VAL_SET;
}

/* val and mask are already where they belong in the 64-bit register; val has no bits outside mask.
 */
static void hpet_put(struct hpet *h, unsigned reg, uint64_t val, uint64_t mask)
{
    unsigned idx = (reg - HPET_TIMER0) / HPET_T_STRIDE;
    uint64_t merged = (hpet_get(h, reg) & ~mask) | val;

    switch (reg) {
    case HPET_GEN_CONF:
        hpet_put_gen_conf(h, merged);
        return;
    case HPET_GINTR_STA: /* written ones clear */
        h->status &= ~val;
        hpet_update_lines(h);
        return;
    case HPET_MAIN_CNT:
        hpet_put_count(h, merged);
        return;
    }
    if (reg < HPET_TIMER0 || idx >= HPET_TIMERS)
        return;
    switch (reg & (HPET_T_STRIDE - 1)) {
    case HPET_T_CONF:
        hpet_put_timer_conf(&h->timers[idx], merged);
        return;
    case HPET_T_CMP:
        hpet_put_cmp(&h->timers[idx], val, mask);
        return;
    case HPET_T_FSB:
        h->timers[idx].fsb = merged;
        return;
    }
}

/* Accesses are 32 or 64 bits wide ("Register Overview"); narrower ones are undefined and change
 * nothing here. */
static void hpet_mmio_write(struct device *dev, uint64_t off_bytes, unsigned bytes, uint64_t val)
{
    struct hpet *h = container_of(dev, struct hpet, dev);
    unsigned shift = 8 * (off_bytes & 7);

    if (bytes < 4)
        return;
    hpet_look(h);
    hpet_put(h, (unsigned)off_bytes & ~7u, val << shift, low_bytes(UINT64_MAX, bytes) << shift);
}

/* ---- life
 * -------------------------------------------------------------------------------------------------------
 */

static void hpet_reset(struct device *dev)
{
    struct hpet *h = container_of(dev, struct hpet, dev);

    hpet_put_gen_conf(h, 0); /* lines down, PIT and RTC get theirs back */
    h->status = 0;
    h->counter = 0;
    for (unsigned i = 0; i < HPET_TIMERS; i++) {
        struct hpet_timer *t = &h->timers[i];

        timer_cancel(&t->timer);
        t->config = t->period = t->fsb = t->from = 0;
        t->cmp = UINT64_MAX;
    }
}

static void hpet_loaded(struct device *dev)
{
    struct hpet *h = container_of(dev, struct hpet, dev);

    h->config &= GEN_ENABLE | GEN_LEGACY;
    h->status &= BIT(HPET_TIMERS) - 1;
    h->lines_up = 0; /* so that what is up is told again */
    for (unsigned i = 0; i < HPET_TIMERS; i++) {
        h->timers[i].config &= T_WRITABLE;
        h->timers[i].backlog = 0;
        hpet_arm(&h->timers[i]);
    }
    hpet_update_lines(h);
    if (h->cfg.legacy)
        h->cfg.legacy(h->cfg.ctx, h->config & GEN_LEGACY);
}

#define HPET_TIMER_FIELDS(n)                                                                     \
    FIELD(struct hpet, timers[n].config, U64, 1), FIELD(struct hpet, timers[n].cmp, U64, 1),     \
        FIELD(struct hpet, timers[n].period, U64, 1), FIELD(struct hpet, timers[n].fsb, U64, 1), \
        FIELD(struct hpet, timers[n].from, U64, 1)

static const struct state_field hpet_state[] = {
    FIELD(struct hpet, config, U64, 1),
    FIELD(struct hpet, status, U64, 1),
    FIELD(struct hpet, counter, U64, 1),
    HPET_TIMER_FIELDS(0),
    HPET_TIMER_FIELDS(1),
    HPET_TIMER_FIELDS(2),
};

static const struct device_type hpet_type = {
    .name = "hpet",
    .mmio_read = hpet_mmio_read,
    .mmio_write = hpet_mmio_write,
    .mmio_max_bytes = 8,
    .reset = hpet_reset,
    .loaded = hpet_loaded,
    .state = hpet_state,
    .nr_state = ARRAY_SIZE(hpet_state),
    .version = 1,
};

int hpet_init(struct hpet *h, const struct hpet_config *cfg)
{
    *h = (struct hpet){ .dev = { .type = &hpet_type, .bus = cfg->bus, .state_base = h },
                        .cfg = *cfg };
    for (unsigned i = 0; i < HPET_TIMERS; i++) {
        h->timers[i].hpet = h;
        h->timers[i].idx = i;
        timer_init(&h->timers[i].timer, bus_clock(cfg->bus), hpet_expired, &h->timers[i]);
    }
    hpet_reset(&h->dev);
    bus_add(cfg->bus, &h->dev);
    return bus_claim_mmio(cfg->bus, cfg->at, HPET_BYTES, &h->dev, 0);
}

void hpet_fini(struct hpet *h)
{
    for (unsigned i = 0; i < HPET_TIMERS; i++)
        timer_cancel(&h->timers[i].timer);
    bus_release_mmio(h->dev.bus, h->cfg.at, &h->dev);
}
