/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one clock of a VM: guest TSC, VM nanoseconds and timers, so that no two of the guest's clocks
 * can disagree.
 *
 * It counts ticks of one source: the host's TSC if that is invariant, else CLOCK_MONOTONIC, whose
 * nanoseconds then are a 1 GHz TSC. Ticks are the guest's TSC as it is; nanoseconds are always
 * computed from ticks. While the VM is paused the ticks stand still.
 */
#include "bus/bus.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#define NS_PER_MS          1000000ull
/* ns = ticks * ns_mult >> 60; the error is below 2^-56: a nanosecond in two years. */
#define NS_SHIFT           60
#define MIN_TSC_KHZ        62501ull /* or ns_mult would not fit */
#define NS_CLOCK_KHZ       1000000ull
#define HEAP_NONE          UINT32_MAX
/* Nobody catches up to beyond this (decades), far from where counting it would overflow. */
#define CATCH_UP_MAX_TICKS BIT64(62)

struct clock {
    bool from_tsc; /* else from CLOCK_MONOTONIC */
    uint64_t khz;
    uint64_t ns_mult;

    /*
     * ticks = source + offset, or frozen_at while paused. Written under lock; readers retry when
     * seq was odd or has changed, so a vCPU's RDTSC takes no lock.
     */
    _Atomic uint32_t seq;
    _Atomic bool paused;
    _Atomic uint64_t offset, frozen_at;
    uint64_t frozen_real_ns; /* guarded by lock: the date then */
    bool catches_up;         /* guarded by lock: it goes on as if it had run since then */

    struct lock *machine_lock;
    struct lock lock; /* LOCK_TIMERS: guards all below, and every armed timer */
    /* Goes off no later than the earliest deadline, while not paused. */
    struct host_alarm alarm;
    struct timer **heap; /* binary heap by deadline_ns */
    unsigned nr, room;
    bool quit;
    struct thread thread;
};

/* ---- reading
 * ----------------------------------------------------------------------------------------------------
 */

static uint64_t source_ticks(const struct clock *c)
{
    return c->from_tsc ? host_tsc() : host_mono_ns();
}

uint64_t clock_tsc(const struct clock *c)
{
    uint64_t ticks;
    uint32_t seq;

    do {
        seq = atomic_load_explicit(&c->seq, memory_order_acquire);
        if (atomic_load_explicit(&c->paused, memory_order_relaxed)) {
            ticks = atomic_load_explicit(&c->frozen_at, memory_order_relaxed);
        } else {
            ticks = source_ticks(c) + atomic_load_explicit(&c->offset, memory_order_relaxed);
            /* Another CPU's TSC may be some ticks behind that of the one that started the clock. */
            if (unlikely((int64_t)ticks < 0))
                ticks = 0;
        }
        /* Orders the loads above before the second look at seq; pairs with the release in
         * clock_change_end(). */
        atomic_thread_fence(memory_order_acquire);
    } while (unlikely((seq & 1) || seq != atomic_load_explicit(&c->seq, memory_order_relaxed)));
    return ticks;
}

bool clock_tsc_offset(const struct clock *c, uint64_t *offset)
{
    *offset = atomic_load_explicit(&c->offset, memory_order_relaxed);
    return c->from_tsc && !atomic_load_explicit(&c->paused, memory_order_relaxed);
}

uint64_t clock_tsc_khz(const struct clock *c)
{
    return c->khz;
}

uint64_t clock_tsc_to_ns(const struct clock *c, uint64_t tsc)
{
    unsigned __int128 ns = (unsigned __int128)tsc * c->ns_mult >> NS_SHIFT;

    return ns > UINT64_MAX ? UINT64_MAX : (uint64_t)ns;
}

uint64_t clock_now_ns(const struct clock *c)
{
    return clock_tsc_to_ns(c, clock_tsc(c));
}

uint64_t clock_real_ns(const struct clock *c)
{
    (void)c; /* one day a VM may have its own idea of the date */
    return host_real_ns();
}

uint64_t clock_stopped_real_ns(const struct clock *c)
{
    BUG_ON(!atomic_load_explicit(&c->paused, memory_order_relaxed));
    return c->frozen_real_ns; /* who writes it pauses, resumes or restores: not meanwhile */
}

/* For the earliest deadline. */
static void set_alarm(struct clock *c)
{
    uint64_t now_ns = clock_now_ns(c), at_ns;

    assert_held(&c->lock);
    if (!c->nr || atomic_load_explicit(&c->paused, memory_order_relaxed)) {
        host_alarm_set(&c->alarm, UINT64_MAX);
        return;
    }
    /* The host's clock may run some ppm faster than ours: waking early is just another round. */
    at_ns = c->heap[0]->deadline_ns;
    host_alarm_set(&c->alarm,
                   host_mono_ns() + (at_ns > now_ns ? MIN(at_ns - now_ns, INT64_MAX / 2) : 0));
}

/* ---- pausing
 * ----------------------------------------------------------------------------------------------------
 */

/* It stands at that tick from now on. */
static void clock_freeze(struct clock *c, uint64_t ticks)
{
    atomic_store_explicit(&c->frozen_at, ticks, memory_order_relaxed);
    c->frozen_real_ns = host_real_ns();
    c->catches_up = false;
}

/* Where it stands ns after it was frozen, if it ran. False: too far. */
static bool clock_ahead(const struct clock *c, uint64_t ns, uint64_t *ticks)
{
    unsigned __int128 more = (unsigned __int128)ns * c->khz / NS_PER_MS;

    *ticks = atomic_load_explicit(&c->frozen_at, memory_order_relaxed);
    if (*ticks > CATCH_UP_MAX_TICKS || more > CATCH_UP_MAX_TICKS - *ticks)
        return false;
    *ticks += (uint64_t)more;
    return true;
}

static void clock_change_begin(struct clock *c)
{
    assert_held(&c->lock);
    atomic_fetch_add_explicit(&c->seq, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release); /* odd seq is visible before what follows */
}

static void clock_change_end(struct clock *c)
{
    atomic_fetch_add_explicit(&c->seq, 1, memory_order_release);
    set_alarm(c);
}

void clock_pause(struct clock *c)
{
    lock_take(&c->lock);
    if (!atomic_load_explicit(&c->paused, memory_order_relaxed)) {
        uint64_t now = clock_tsc(c);

        clock_change_begin(c);
        clock_freeze(c, now);
        atomic_store_explicit(&c->paused, true, memory_order_relaxed);
        clock_change_end(c);
    }
    lock_drop(&c->lock);
}

/* Where it goes on. */
static uint64_t clock_thawed_at(const struct clock *c)
{
    uint64_t now_ns = host_real_ns(), was_ns = c->frozen_real_ns, ticks;

    if (c->catches_up && now_ns > was_ns && clock_ahead(c, now_ns - was_ns, &ticks))
        return ticks;
    return atomic_load_explicit(&c->frozen_at, memory_order_relaxed);
}

static void clock_thaw(struct clock *c, uint64_t offset)
{
    clock_change_begin(c);
    atomic_store_explicit(&c->offset, offset, memory_order_relaxed);
    atomic_store_explicit(&c->paused, false, memory_order_relaxed);
    clock_change_end(c);
}

void clock_resume(struct clock *c)
{
    lock_take(&c->lock);
    if (atomic_load_explicit(&c->paused, memory_order_relaxed))
        clock_thaw(c, clock_thawed_at(c) - source_ticks(c));
    lock_drop(&c->lock);
}

void clock_resume_as_if_run(struct clock *c)
{
    lock_take(&c->lock);
    if (atomic_load_explicit(&c->paused, memory_order_relaxed))
        clock_thaw(c, atomic_load_explicit(&c->offset, memory_order_relaxed));
    lock_drop(&c->lock);
}

/* ---- the source
 * -------------------------------------------------------------------------------------------------
 */

static void clock_set_source(struct clock *c, bool from_tsc, uint64_t khz)
{
    c->from_tsc = from_tsc;
    c->khz = khz;
    c->ns_mult = (uint64_t)(((unsigned __int128)NS_PER_MS << NS_SHIFT) / khz);
}

/*
 * The guest has measured, or was told, how fast its TSC is: it goes on with that. A host whose own
 * rate differs by more than NTP can correct would make the guest's clock wrong. (250 ppm.)
 */
int clock_restore(struct clock *c, uint64_t tsc, uint64_t khz)
{
    uint64_t off = khz > c->khz ? khz - c->khz : c->khz - khz;

    BUG_ON(!atomic_load_explicit(&c->paused, memory_order_relaxed));
    if (khz < MIN_TSC_KHZ || off > c->khz / 4000 || (int64_t)tsc < 0)
        return -EINVAL;
    lock_take(&c->lock);
    clock_change_begin(c);
    clock_set_source(c, c->from_tsc, khz);
    clock_freeze(c, tsc);
    clock_change_end(c);
    lock_drop(&c->lock);
    return 0;
}

int clock_catch_up(struct clock *c, uint64_t real_ns)
{
    uint64_t now_ns = host_real_ns(), ticks;
    bool ok;

    lock_take(&c->lock);
    BUG_ON(!atomic_load_explicit(&c->paused, memory_order_relaxed));
    ok = now_ns >= real_ns && clock_ahead(c, now_ns - real_ns, &ticks);
    if (ok) {
        c->frozen_real_ns = real_ns;
        c->catches_up = true;
    }
    lock_drop(&c->lock);
    return ok ? 0 : -ERANGE;
}

void clock_use_tsc(struct clock *c, uint64_t khz)
{
    if (c->from_tsc || khz < MIN_TSC_KHZ)
        return;
    lock_take(&c->lock);
    BUG_ON(c->nr || !atomic_load_explicit(&c->paused, memory_order_relaxed));
    clock_change_begin(c);
    clock_set_source(c, true, khz);
    clock_freeze(c, 0);
    clock_change_end(c);
    lock_drop(&c->lock);
}

/* ---- the heap
 * ---------------------------------------------------------------------------------------------------
 */

static void heap_put(struct clock *c, unsigned idx, struct timer *t)
{
    c->heap[idx] = t;
    t->heap_idx = idx;
}

/* Moves t from idx to where its deadline belongs. */
static void heap_sift(struct clock *c, unsigned idx, struct timer *t)
{
    while (idx && c->heap[(idx - 1) / 2]->deadline_ns > t->deadline_ns) {
        heap_put(c, idx, c->heap[(idx - 1) / 2]);
        idx = (idx - 1) / 2;
    }
    for (;;) {
        unsigned kid = 2 * idx + 1;

        if (kid + 1 < c->nr && c->heap[kid + 1]->deadline_ns < c->heap[kid]->deadline_ns)
            kid++;
        if (kid >= c->nr || c->heap[kid]->deadline_ns >= t->deadline_ns)
            break;
        heap_put(c, idx, c->heap[kid]);
        idx = kid;
    }
    heap_put(c, idx, t);
}

static void heap_remove(struct clock *c, struct timer *t)
{
    unsigned idx = t->heap_idx;
    struct timer *last = c->heap[--c->nr];

    if (last != t)
        heap_sift(c, idx, last);
    t->heap_idx = HEAP_NONE;
}

/* ---- timers
 * -----------------------------------------------------------------------------------------------------
 */

void timer_init(struct timer *t, struct clock *c, void (*fn)(void *arg), void *arg)
{
    *t = (struct timer){
        .fn = fn, .arg = arg, .deadline_ns = UINT64_MAX, .clock = c, .heap_idx = HEAP_NONE
    };
}

static void heap_make_room(struct clock *c)
{
    unsigned room = c->room ? c->room * 2 : 64;
    struct timer **heap;

    if (c->nr < c->room)
        return;
    heap = realloc(c->heap, room * sizeof(struct timer *));
    BUG_ON(!heap); /* as many as there are timers in the machine, not more: a few hundred bytes */
    c->heap = heap;
    c->room = room;
}

void timer_arm(struct timer *t, uint64_t deadline_ns)
{
    struct clock *c = t->clock;

    if (deadline_ns == UINT64_MAX) {
        timer_cancel(t);
        return;
    }
    lock_take(&c->lock);
    t->deadline_ns = deadline_ns;
    if (t->heap_idx == HEAP_NONE) {
        heap_make_room(c);
        t->heap_idx = c->nr++;
    }
    heap_sift(c, t->heap_idx, t);
    if (t->heap_idx == 0)
        set_alarm(c);
    lock_drop(&c->lock);
}

void timer_cancel(struct timer *t)
{
    struct clock *c = t->clock;

    if (!c)
        return;
    lock_take(&c->lock);
    if (t->heap_idx != HEAP_NONE)
        heap_remove(c, t);
    t->deadline_ns = UINT64_MAX;
    lock_drop(&c->lock);
}

/* Takes a timer whose time has come off the heap, or NULL. */
static struct timer *take_expired(struct clock *c)
{
    struct timer *t = c->nr ? c->heap[0] : NULL;

    assert_held(&c->lock);
    if (!t || atomic_load_explicit(&c->paused, memory_order_relaxed) ||
        t->deadline_ns > clock_now_ns(c))
        return NULL;
    heap_remove(c, t);
    t->deadline_ns = UINT64_MAX;
    return t;
}

/*
 * The machine lock is taken before a timer leaves the heap: who holds it and cancels a timer knows
 * that fn is neither running nor about to. It is dropped between two timers, so that vCPUs get
 * their turn.
 */
static void fire_one(struct clock *c)
{
    struct timer *t;

    lock_take(c->machine_lock);
    lock_take(&c->lock);
    t = take_expired(c);
    lock_drop(&c->lock);
    if (t)
        t->fn(t->arg);
    lock_drop(c->machine_lock);
}

/* Sleeps until a timer is due (true) or the clock ends (false). */
static bool wait_for_expiry(struct clock *c)
{
    bool due, quit;

    for (;;) {
        lock_take(&c->lock);
        quit = c->quit;
        due = c->nr && !atomic_load_explicit(&c->paused, memory_order_relaxed) &&
              c->heap[0]->deadline_ns <= clock_now_ns(c);
        if (!quit && !due)
            set_alarm(c);
        lock_drop(&c->lock);
        if (quit || due)
            return due && !quit;
        host_alarm_wait(&c->alarm);
    }
}

static void *clock_main(void *arg)
{
    struct clock *c = arg;

    while (wait_for_expiry(c))
        fire_one(c);
    return NULL;
}

/* ---- life
 * -------------------------------------------------------------------------------------------------------
 */

struct clock *clock_create(struct lock *machine_lock)
{
    struct clock *c = calloc(1, sizeof(*c));
    uint64_t khz;
    int err;

    if (!c) {
        log_error("out of memory for the clock");
        return NULL;
    }
    khz = host_tsc_khz();
    clock_set_source(c, khz >= MIN_TSC_KHZ, khz >= MIN_TSC_KHZ ? khz : NS_CLOCK_KHZ);
    c->machine_lock = machine_lock;
    lock_init(&c->lock, LOCK_TIMERS);
    atomic_init(&c->offset, -source_ticks(c));
    err = host_alarm_open(&c->alarm);
    if (!err)
        err = thread_start(&c->thread, "timers", clock_main, c);
    if (err) {
        log_error("cannot start the timer thread (error %d): too many threads or no memory?", -err);
        clock_destroy(c);
        return NULL;
    }
    return c;
}

void clock_destroy(struct clock *c)
{
    if (!c)
        return;
    lock_take(&c->lock);
    c->quit = true;
    if (c->alarm.fd >= 0)
        host_alarm_set(&c->alarm, 0);
    lock_drop(&c->lock);
    thread_join(&c->thread);
    host_alarm_close(&c->alarm);
    lock_destroy(&c->lock);
    free(c->heap);
    free(c);
}
