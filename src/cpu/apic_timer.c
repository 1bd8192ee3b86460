/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The local APIC's timer: one-shot, periodic, TSC deadline (SDM 3, "APIC Timer").
 *
 * Nothing counts. A running timer is the VM time at which it ends; the current count is computed
 * from that, and the platform calls apic_timer_expired() when the time has come.
 */
#include "cpu/apic_impl.h"

#define NOT_ARMED     UINT64_MAX
/*
 * A periodic timer fires no more often than this, whatever the guest programs: ticks in between are
 * lost, as they are on hardware when the handler takes longer than the period.
 */
#define MIN_PERIOD_NS 20000u
/* A TSC deadline farther off than this many ticks (decades) never comes; the guard keeps the
 * conversion to ns from overflowing. */
#define MAX_TSC_TICKS BIT64(61)

_Static_assert(APIC_BUS_HZ == 1000000000ull, "a bus clock is one nanosecond");

static bool is_periodic(const struct cpu *c)
{
    return (c->apic.lvt[LVT_TIMER] & LVT_TIMER_MODE) == LVT_TIMER_PERIODIC;
}

static bool is_deadline(const struct cpu *c)
{
    return c->apic.lvt[LVT_TIMER] & LVT_TIMER_DEADLINE;
}

/* SDM 3, "Divide Configuration Register": bits 3, 1 and 0 make a code; 111b is 1, 000b is 2. */
static unsigned divide_shift(const struct cpu *c)
{
    unsigned code = (c->apic.timer_div & 3) | (c->apic.timer_div >> 1 & 4);

    return (code + 1) & 7;
}

static uint64_t period_ns(const struct cpu *c)
{
    return (uint64_t)c->apic.timer_init << divide_shift(c);
}

static void arm(struct cpu *c, uint64_t deadline_ns)
{
    c->apic.timer_deadline_ns = deadline_ns;
    c->ops->apic_timer(c, deadline_ns);
}

void apic_timer_cancel(struct cpu *c)
{
    /* 0: a struct cpu fresh from its maker, whose platform may not be listening yet. */
    bool armed = c->apic.timer_deadline_ns != NOT_ARMED && c->apic.timer_deadline_ns != 0;

    c->apic.timer_deadline_ns = NOT_ARMED;
    if (armed)
        c->ops->apic_timer(c, NOT_ARMED);
}

uint32_t apic_timer_current(const struct cpu *c)
{
    const struct apic *a = &c->apic;
    uint64_t now, left, period = period_ns(c);
    unsigned shift = divide_shift(c);

    if (is_deadline(c) || a->timer_deadline_ns == NOT_ARMED || !period)
        return 0;
    now = c->ops->now_ns((struct cpu *)c);
    if (now < a->timer_deadline_ns)
        left = a->timer_deadline_ns - now;
    else if (is_periodic(c))
        left = period - (now - a->timer_deadline_ns) % period;
    else
        return 0;
    return (uint32_t)MIN((left + BIT64(shift) - 1) >> shift, a->timer_init);
}

void apic_timer_start(struct cpu *c, uint32_t count)
{
    /* SDM 3, "TSC-Deadline Mode": the initial count register is ignored. */
    if (is_deadline(c))
        return;
    c->apic.timer_init = count;
    if (!count) {
        apic_timer_cancel(c);
        return;
    }
    c->apic.timer_start_ns = c->ops->now_ns(c);
    arm(c, c->apic.timer_start_ns + period_ns(c));
}

/* A running count goes on from where it is, at the new pace. */
void apic_timer_divide(struct cpu *c, uint32_t val)
{
    uint64_t left = apic_timer_current(c);

    c->apic.timer_div = val & 0xb;
    if (!left)
        return;
    c->apic.timer_start_ns = c->ops->now_ns(c);
    arm(c, c->apic.timer_start_ns + (left << divide_shift(c)));
}

/* SDM 3, "TSC-Deadline Mode": a change into or out of it disarms the timer. */
void apic_timer_mode_changed(struct cpu *c, uint32_t old_lvt)
{
    if (!((old_lvt ^ c->apic.lvt[LVT_TIMER]) & LVT_TIMER_DEADLINE))
        return;
    apic_timer_cancel(c);
    c->apic.timer_init = 0;
    c->apic.tsc_deadline = 0;
}

static void fire(struct cpu *c)
{
    uint32_t lvt = c->apic.lvt[LVT_TIMER];

    if (!(lvt & LVT_MASKED))
        apic_raise(c, (uint8_t)lvt);
}

/* ---- TSC deadline ---- */

uint64_t apic_timer_deadline(const struct cpu *c)
{
    return is_deadline(c) ? c->apic.tsc_deadline : 0;
}

static void arm_tsc(struct cpu *c)
{
    uint64_t target = c->apic.tsc_deadline, now = cpu_read_tsc(c);

    if (target <= now) {
        apic_timer_cancel(c);
        c->apic.tsc_deadline = 0;
        fire(c);
        return;
    }
    if (target - now > MAX_TSC_TICKS) {
        apic_timer_cancel(c);
        return;
    }
    arm(c, c->ops->tsc_to_ns(c, target - c->tsc_adjust));
}

void apic_timer_set_deadline(struct cpu *c, uint64_t tsc)
{
    if (!is_deadline(c))
        return; /* SDM 3, "TSC-Deadline Mode": in other modes writes are ignored */
    c->apic.tsc_deadline = tsc;
    if (tsc)
        arm_tsc(c);
    else
        apic_timer_cancel(c);
}

void apic_tsc_changed(struct cpu *c)
{
    if (is_deadline(c) && c->apic.tsc_deadline)
        arm_tsc(c);
}

/* ---- from another keeper ---- */

static uint64_t count_deadline_ns(const struct cpu *c, uint32_t count)
{
    uint64_t now = c->ops->now_ns((struct cpu *)c);

    if (!c->apic.timer_init)
        return NOT_ARMED;
    if (count)
        return now + ((uint64_t)MIN(count, c->apic.timer_init) << divide_shift(c));
    if (is_periodic(c))
        return now + period_ns(c);
    /* At its end: whoever would hear of it does. */
    return c->apic.lvt[LVT_TIMER] & LVT_MASKED ? NOT_ARMED : now;
}

void apic_timer_resume(struct cpu *c, uint32_t count, uint64_t tsc_deadline)
{
    struct apic *a = &c->apic;
    uint64_t now = cpu_read_tsc(c);

    a->timer_start_ns = c->ops->now_ns(c);
    a->tsc_deadline = is_deadline(c) ? tsc_deadline : 0;
    if (!is_deadline(c))
        a->timer_deadline_ns = count_deadline_ns(c, count);
    else if (!tsc_deadline || (tsc_deadline > now && tsc_deadline - now > MAX_TSC_TICKS))
        a->timer_deadline_ns = NOT_ARMED;
    else if (tsc_deadline <= now)
        a->timer_deadline_ns = a->timer_start_ns;
    else
        a->timer_deadline_ns = c->ops->tsc_to_ns(c, tsc_deadline - c->tsc_adjust);
}

/* ---- expiry ---- */

/* The first end of a period that is not too close. */
static uint64_t next_period(const struct cpu *c, uint64_t now)
{
    uint64_t period = period_ns(c), next = c->apic.timer_deadline_ns + period;
    uint64_t soonest = period < MIN_PERIOD_NS ? now + MIN_PERIOD_NS : now;

    if (next <= soonest)
        next += (soonest - next) / period * period + period;
    return next;
}

void apic_timer_expired(struct cpu *c)
{
    struct apic *a = &c->apic;
    uint64_t now;

    if (a->timer_deadline_ns == NOT_ARMED)
        return; /* disarmed while the news was under way */
    now = c->ops->now_ns(c);
    if (now < a->timer_deadline_ns) {
        arm(c, a->timer_deadline_ns);
        return;
    }
    if (is_periodic(c) && period_ns(c)) {
        a->timer_start_ns = now;
        arm(c, next_period(c, now));
    } else {
        a->timer_deadline_ns = NOT_ARMED;
        a->tsc_deadline = 0;
    }
    fire(c);
}
