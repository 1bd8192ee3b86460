/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PC's 8254 interval timer and port 61h, which gates counter 2 and shows its output.
 *
 * Manuals: Intel 8254 data sheet; Intel ICH9 data sheet, "NMI_SC - NMI Status and Control
 * Register". What a counter does is in pit_counter.c; here are the ports, the clock, and counter
 * 0's interrupt.
 *
 * Time is that of the VM's clock: pulse n of the 1193182 Hz input falls at n / 1193182 s exactly,
 * so nothing drifts.
 *
 * When the host is late, with this timer or with the vCPU that is to take its interrupt, the rises
 * of a periodic OUT0 that were missed are kept, up to PIT_BACKLOG_MAX. Each EOI brings the next: a
 * guest that counts ticks against the TSC (Linux does to see if its timer works, and panics if it
 * does not) finds them before it looks at the TSC again, however long it had no processor. That is
 * the vCPU's own doing, since the clock's thread may have none at that moment either. Where no EOI
 * comes (the line was masked meanwhile), one is delivered every PIT_CATCH_UP_NS. More are lost, as
 * on a PC with interrupts off. Rises closer than PIT_MIN_IRQ_NS are delivered as one.
 */
#include "dev/pit.h"

#define PIT_HZ          1193182u
#define NS_PER_S        1000000000u
#define PIT_MIN_IRQ_NS  10000u
#define PIT_CATCH_UP_NS 300000u
#define PIT_BACKLOG_MAX 16u

#define PIT_PORT    0x40
#define PIT_PORT_61 0x61
enum { PIT_AT_CONTROL = 3, PIT_AT_61 = 4 };

/* Read-back command: bits that are 0 say what to latch. */
#define READBACK_NO_COUNT  BIT(5)
#define READBACK_NO_STATUS BIT(4)

#define PORT61_GATE2 BIT(0)
#define PORT61_WRITABLE                                                       \
    0x0f /* gate, speaker, and the enables of two NMI sources that never come \
          */
#define PORT61_REFRESH BIT(4)
#define PORT61_OUT2    BIT(5)
#define REFRESH_TICKS  18 /* 15 us, what counter 1 did when memory was refreshed by it */

static uint64_t pit_ns_to_tick(uint64_t ns)
{
    return (uint64_t)((unsigned __int128)ns * PIT_HZ / NS_PER_S);
}

/* The first nanosecond of that pulse. */
static uint64_t pit_tick_to_ns(uint64_t tick)
{
    unsigned __int128 ns = ((unsigned __int128)tick * NS_PER_S + PIT_HZ - 1) / PIT_HZ;

    return ns > UINT64_MAX ? UINT64_MAX : (uint64_t)ns;
}

static void pit_set_irq(struct pit *p, bool up)
{
    up = up && !p->detached;
    if (up == p->irq_up)
        return;
    p->irq_up = up;
    irq_set(&p->irq, up);
}

static void pit_arm(struct pit *p, uint64_t now_ns)
{
    struct pit_counter c = p->counter[0]; /* a copy: in it, time runs ahead */
    uint64_t now = pit_ns_to_tick(now_ns), next = pit_counter_next(&c, now), at_ns;

    /* A load of CE that moves nothing is not worth a wake-up. */
    if (next != UINT64_MAX && !pit_counter_rose(&c, now, next))
        next = pit_counter_next(&c, next);
    at_ns = next == UINT64_MAX ? UINT64_MAX : pit_tick_to_ns(next);
    if (at_ns != UINT64_MAX)
        at_ns = MAX(at_ns, p->irq_ns + PIT_MIN_IRQ_NS);
    if (p->backlog && !p->held)
        at_ns = MIN(at_ns, p->irq_ns + PIT_CATCH_UP_NS);
    if (at_ns == p->armed_ns)
        return;
    p->armed_ns = at_ns;
    if (at_ns == UINT64_MAX)
        timer_cancel(&p->timer);
    else
        timer_arm(&p->timer, at_ns);
}

/*
 * How many rises between seen_at and now, beside the one that is delivered now, were missed; and
 * that one, if the processor has not taken the last one.
 */
static unsigned pit_missed(const struct pit *p, uint64_t now)
{
    const struct pit_counter *c = &p->counter[0];
    uint64_t rises;

    if ((c->mode & 2) == 0 || !c->running || now < c->start ||
        pit_tick_to_ns(c->count) < 2 * PIT_CATCH_UP_NS)
        return 0;
    rises = (now - c->start) / c->count;
    if (p->seen_at > c->start)
        rises -= (p->seen_at - c->start) / c->count;
    rises -= rises && (p->detached || !irq_waits(&p->irq));
    return (unsigned)MIN(rises, PIT_BACKLOG_MAX);
}

static void pit_edge(struct pit *p, uint64_t now_ns)
{
    pit_set_irq(p, false); /* the fall before the rise, if nobody looked in between */
    pit_set_irq(p, true);
    p->irq_ns = now_ns;
}

/* Brings IRQ 0 up to date; what was missed comes no sooner than pace_ns after the last edge. */
static void pit_update_paced(struct pit *p, uint64_t now_ns, uint64_t pace_ns)
{
    struct pit_counter *c = &p->counter[0];
    uint64_t now = pit_ns_to_tick(now_ns);

    if (pit_counter_rose(c, p->seen_at, now)) {
        p->backlog = (uint8_t)MIN(p->backlog + pit_missed(p, now), PIT_BACKLOG_MAX);
        p->held = false;
        pit_edge(p, now_ns);
    } else if (p->backlog && now_ns >= p->irq_ns + pace_ns && (!p->held || !pace_ns)) {
        p->held = irq_waits(&p->irq);
        if (!p->held) {
            p->backlog--;
            pit_edge(p, now_ns);
        }
    }
    p->seen_at = now;
    pit_set_irq(p, pit_counter_out(c, now));
    pit_arm(p, now_ns);
}

/* Called before and after every access, and when the timer says so. */
static void pit_update(struct pit *p, uint64_t now_ns)
{
    pit_update_paced(p, now_ns, PIT_CATCH_UP_NS);
}

static void pit_timer(void *arg)
{
    struct pit *p = arg;

    p->armed_ns = UINT64_MAX;
    pit_update(p, clock_now_ns(bus_clock(p->dev.bus)));
}

void pit_detach_irq(struct pit *p, bool detached)
{
    uint64_t now_ns = clock_now_ns(bus_clock(p->dev.bus));

    pit_update(p, now_ns);
    p->detached = detached;
    p->backlog = 0;
    pit_update(p, now_ns);
}

void pit_irq_served(struct pit *p)
{
    if (!p->detached)
        pit_update_paced(p, clock_now_ns(bus_clock(p->dev.bus)), 0);
}

/* ---- ports ---- */

static void pit_write_control(struct pit *p, uint8_t val, uint64_t now)
{
    unsigned which = val >> 6;

    if (which < 3) {
        if (val & 0x30)
            pit_counter_control(&p->counter[which], val, now);
        else
            pit_counter_latch_count(&p->counter[which], now);
        return;
    }
    for (unsigned i = 0; i < 3; i++) { /* "Read-Back Command" */
        if (!(val & BIT(i + 1)))
            continue;
        if (!(val & READBACK_NO_COUNT))
            pit_counter_latch_count(&p->counter[i], now);
        if (!(val & READBACK_NO_STATUS))
            pit_counter_latch_status(&p->counter[i], now);
    }
}

static uint8_t pit_read_61(struct pit *p, uint64_t now)
{
    uint8_t val = p->port61;

    if (now / REFRESH_TICKS & 1)
        val |= PORT61_REFRESH;
    if (pit_counter_out(&p->counter[2], now))
        val |= PORT61_OUT2;
    return val;
}

static uint64_t pit_read(struct device *dev, uint32_t off_bytes, unsigned bytes)
{
    struct pit *p = container_of(dev, struct pit, dev);
    uint64_t now_ns = clock_now_ns(bus_clock(dev->bus)), now = pit_ns_to_tick(now_ns);

    (void)bytes;
    if (off_bytes == PIT_AT_61)
        return pit_read_61(p, now);
    if (off_bytes == PIT_AT_CONTROL) /* "no operation": the data bus floats */
        return 0xff;
    pit_update(p, now_ns);
    return pit_counter_read(&p->counter[off_bytes], now);
}

static void pit_write(struct device *dev, uint32_t off_bytes, unsigned bytes, uint64_t val)
{
    struct pit *p = container_of(dev, struct pit, dev);
    uint64_t now_ns = clock_now_ns(bus_clock(dev->bus)), now = pit_ns_to_tick(now_ns);

    (void)bytes;
    pit_update(p, now_ns);
    if (off_bytes == PIT_AT_61) {
        p->port61 = val & PORT61_WRITABLE;
        pit_counter_gate(&p->counter[2], val & PORT61_GATE2, now);
    } else if (off_bytes == PIT_AT_CONTROL) {
        p->backlog = val >> 6 == 0 && val & 0x30 ? 0 : p->backlog;
        pit_write_control(p, (uint8_t)val, now);
    } else {
        pit_counter_write(&p->counter[off_bytes], (uint8_t)val, now);
    }
    pit_update(p, now_ns);
}

/* ---- life ---- */

/* "Prior to programming" the counters are undefined; here they stand still. Gates 0 and 1 are wired
 * high. */
static void pit_reset(struct device *dev)
{
    struct pit *p = container_of(dev, struct pit, dev);

    for (unsigned i = 0; i < 3; i++)
        p->counter[i] = (struct pit_counter){ .gate = i < 2, .count = 1, .cr = 1 };
    p->port61 = 0;
    p->backlog = 0;
    p->seen_at = pit_ns_to_tick(clock_now_ns(bus_clock(dev->bus)));
    p->armed_ns = UINT64_MAX;
    timer_cancel(&p->timer);
    pit_set_irq(p, false);
}

static void pit_loaded(struct device *dev)
{
    struct pit *p = container_of(dev, struct pit, dev);
    uint64_t now_ns = clock_now_ns(bus_clock(dev->bus));

    for (unsigned i = 0; i < 3; i++) { /* a damaged state must not divide by zero */
        struct pit_counter *c = &p->counter[i];

        c->mode = MIN(c->mode, 5);
        c->count = MAX(c->count, 1u);
        c->cr = MAX(c->cr, 1u);
    }
    p->irq_up = false;
    irq_set(&p->irq, 0);
    p->irq_ns = 0;
    p->backlog = 0;
    p->seen_at = MIN(p->seen_at, pit_ns_to_tick(now_ns));
    pit_set_irq(p, pit_counter_out(&p->counter[0], p->seen_at));
    /* A rise since then is an edge, which the interrupt controllers take when all is loaded. */
    p->armed_ns = now_ns;
    timer_arm(&p->timer, now_ns);
}

#define PIT_FIELD(i, member, type) FIELD(struct pit, counter[i].member, type, 1)
#define PIT_COUNTER_FIELDS(i)                                                                     \
    PIT_FIELD(i, word, U8), PIT_FIELD(i, mode, U8), PIT_FIELD(i, gate, BOOL),                     \
        PIT_FIELD(i, running, BOOL), PIT_FIELD(i, stopped, BOOL), PIT_FIELD(i, start, U64),       \
        PIT_FIELD(i, stopped_at, U64), PIT_FIELD(i, count, U32), PIT_FIELD(i, idle_ce, U16),      \
        PIT_FIELD(i, idle_out, BOOL), PIT_FIELD(i, has_cr, BOOL), PIT_FIELD(i, null_count, BOOL), \
        PIT_FIELD(i, load_due, BOOL), PIT_FIELD(i, load_low, BOOL), PIT_FIELD(i, cr, U32),        \
        PIT_FIELD(i, load_at, U64), PIT_FIELD(i, write_msb, BOOL), PIT_FIELD(i, read_msb, BOOL),  \
        PIT_FIELD(i, lsb, U8), PIT_FIELD(i, nr_latched, U8), PIT_FIELD(i, latched, U16),          \
        PIT_FIELD(i, status_latched, BOOL), PIT_FIELD(i, status, U8)

static const struct state_field pit_state[] = {
    PIT_COUNTER_FIELDS(0),
    PIT_COUNTER_FIELDS(1),
    PIT_COUNTER_FIELDS(2),
    FIELD(struct pit, port61, U8, 1),
    FIELD(struct pit, detached, BOOL, 1),
    FIELD(struct pit, seen_at, U64, 1),
    FIELD(struct pit, backlog, U8, 1),
};

static const struct device_type pit_type = {
    .name = "pit",
    .read = pit_read,
    .write = pit_write,
    .reset = pit_reset,
    .loaded = pit_loaded,
    .state = pit_state,
    .nr_state = ARRAY_SIZE(pit_state),
    .version = 1,
};

int pit_init(struct pit *p, const struct pit_config *cfg)
{
    int err;

    *p = (struct pit){
        .dev = { .type = &pit_type, .bus = cfg->bus, .state_base = p },
        .irq = cfg->irq,
    };
    timer_init(&p->timer, bus_clock(cfg->bus), pit_timer, p);
    pit_reset(&p->dev);
    err = bus_claim_ports(cfg->bus, PIT_PORT, 4, &p->dev, 0);
    if (err)
        return err;
    err = bus_claim_ports(cfg->bus, PIT_PORT_61, 1, &p->dev, PIT_AT_61);
    if (err) {
        bus_release_ports(cfg->bus, PIT_PORT, 4, &p->dev);
        return err;
    }
    bus_add(cfg->bus, &p->dev);
    return 0;
}

void pit_fini(struct pit *p)
{
    timer_cancel(&p->timer);
    bus_release_ports(p->dev.bus, PIT_PORT, 4, &p->dev);
    bus_release_ports(p->dev.bus, PIT_PORT_61, 1, &p->dev);
}
