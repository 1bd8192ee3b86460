/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A clock that stands still until it is told to go, in the place of bus/clock.c: for the tests and
 * the fuzz target of the devices, never for the program. It defines what bus.h declares, so that
 * the linker leaves the real one in its archive; include it in one file of a program.
 */
#ifndef DEV_FAKECLOCK_H
#define DEV_FAKECLOCK_H

#include <stdlib.h>

#include "bus/bus.h"

#define FAKECLOCK_NR_TIMERS 64

struct clock {
    uint64_t now_ns, real_ns; /* real_ns: UTC when now_ns was 0 */
    struct timer *timers[FAKECLOCK_NR_TIMERS];
    unsigned nr_fired;
};

struct clock *clock_create(struct lock *machine_lock)
{
    (void)machine_lock;
    return calloc(1, sizeof(struct clock));
}

void clock_destroy(struct clock *c)
{
    free(c);
}

uint64_t clock_now_ns(const struct clock *c)
{
    return c->now_ns;
}

uint64_t clock_real_ns(const struct clock *c)
{
    return c->real_ns + c->now_ns;
}

uint64_t clock_tsc_khz(const struct clock *c)
{
    (void)c;
    return 1000000; /* a tick is a nanosecond */
}

uint64_t clock_tsc(const struct clock *c)
{
    return c->now_ns;
}

uint64_t clock_tsc_to_ns(const struct clock *c, uint64_t tsc)
{
    (void)c;
    return tsc;
}

void clock_pause(struct clock *c)
{
    (void)c;
}

void clock_resume(struct clock *c)
{
    (void)c;
}

void timer_init(struct timer *t, struct clock *c, void (*fn)(void *arg), void *arg)
{
    *t = (struct timer){ .fn = fn, .arg = arg, .deadline_ns = UINT64_MAX, .clock = c };
    for (unsigned i = 0; i < FAKECLOCK_NR_TIMERS; i++) {
        if (c->timers[i])
            continue;
        c->timers[i] = t;
        return;
    }
    BUG_ON(true);
}

void timer_arm(struct timer *t, uint64_t deadline_ns)
{
    t->deadline_ns = deadline_ns;
}

void timer_cancel(struct timer *t)
{
    t->deadline_ns = UINT64_MAX;
}

/* The earliest timer that is due by then, or NULL. */
static struct timer *fakeclock_due(const struct clock *c, uint64_t by_ns)
{
    struct timer *first = NULL;

    for (unsigned i = 0; i < FAKECLOCK_NR_TIMERS; i++) {
        struct timer *t = c->timers[i];

        if (t && t->deadline_ns <= by_ns && (!first || t->deadline_ns < first->deadline_ns))
            first = t;
    }
    return first;
}

static void fakeclock_fire(struct bus *b, struct timer *t)
{
    t->deadline_ns = UINT64_MAX;
    t->clock->nr_fired++;
    lock_take(bus_lock(b));
    t->fn(t->arg);
    lock_drop(bus_lock(b));
}

/* Time goes on; every timer fires exactly when it is due. */
static inline void fakeclock_advance(struct bus *b, uint64_t ns)
{
    struct clock *c = bus_clock(b);
    uint64_t end = c->now_ns + ns;

    for (struct timer *t; (t = fakeclock_due(c, end)) != NULL;) {
        c->now_ns = MAX(c->now_ns, t->deadline_ns);
        fakeclock_fire(b, t);
    }
    c->now_ns = end;
}

/* Time goes on while the host is busy: what became due fires late, at the end. */
static inline void fakeclock_jump(struct bus *b, uint64_t ns)
{
    struct clock *c = bus_clock(b);

    c->now_ns += ns;
    for (struct timer *t; (t = fakeclock_due(c, c->now_ns)) != NULL;)
        fakeclock_fire(b, t);
}

#endif
