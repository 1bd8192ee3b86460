/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Locks with ranks, and condition variables. Each thread knows the ranks it holds, as a bit mask,
 * and may only take a lock of a rank above all of them: two threads then never wait for each other.
 * The check is one shift and compare, so it is in every build.
 */
#include "host/host.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <time.h>

#include "lib/log.h"

#define NS_PER_S 1000000000ull

static const char *const lock_names[] = {
#define LOCK(id, text) #id,
#include "lib/lock_order.def"
#undef LOCK
};
static_assert(NR_LOCK_RANKS <= 32, "ranks held are bits of a 32-bit mask");

/* Bit r: this thread holds a lock of rank r. Its address also names the thread in lock->holder. */
static _Thread_local uint32_t ranks_held;

static uintptr_t self(void)
{
    return (uintptr_t)&ranks_held;
}

void lock_init(struct lock *l, enum lock_rank rank)
{
    BUG_ON(rank >= NR_LOCK_RANKS);
    *l = (struct lock){ .rank = rank };
    BUG_ON(pthread_mutex_init(&l->m, NULL));
}

void lock_destroy(struct lock *l)
{
    BUG_ON(pthread_mutex_destroy(&l->m));
}

static void note_taken(struct lock *l)
{
    ranks_held |= BIT(l->rank);
    /* Relaxed: lock_held() only asks whether the holder is the asking thread, which sees its own
     * stores in order. */
    atomic_store_explicit(&l->holder, self(), memory_order_relaxed);
}

static void note_dropped(struct lock *l)
{
    BUG_ON(!lock_held(l));
    atomic_store_explicit(&l->holder, 0, memory_order_relaxed);
    ranks_held &= ~BIT(l->rank);
}

void lock_take(struct lock *l)
{
    if (unlikely(ranks_held >> l->rank)) {
        unsigned top = 31u - (unsigned)__builtin_clz(ranks_held);

        log_error("lock order: %s is wanted while %s is held", lock_names[l->rank],
                  lock_names[top]);
        bug_at(__FILE__, __LINE__, "wrong lock order");
    }
    BUG_ON(pthread_mutex_lock(&l->m));
    note_taken(l);
}

void lock_drop(struct lock *l)
{
    note_dropped(l);
    BUG_ON(pthread_mutex_unlock(&l->m));
}

bool lock_held(const struct lock *l)
{
    return atomic_load_explicit(&l->holder, memory_order_relaxed) == self();
}

void cond_init(struct cond *c)
{
    pthread_condattr_t attr;

    BUG_ON(pthread_condattr_init(&attr));
    BUG_ON(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC));
    BUG_ON(pthread_cond_init(&c->c, &attr));
    (void)pthread_condattr_destroy(&attr);
}

void cond_destroy(struct cond *c)
{
    BUG_ON(pthread_cond_destroy(&c->c));
}

void cond_wait(struct cond *c, struct lock *l)
{
    note_dropped(l);
    BUG_ON(pthread_cond_wait(&c->c, &l->m));
    note_taken(l);
}

bool cond_wait_until(struct cond *c, struct lock *l, uint64_t mono_ns)
{
    struct timespec ts = { .tv_sec = (time_t)(mono_ns / NS_PER_S),
                           .tv_nsec = (long)(mono_ns % NS_PER_S) };
    int err;

    if (mono_ns == UINT64_MAX) {
        cond_wait(c, l);
        return true;
    }
    note_dropped(l);
    err = pthread_cond_timedwait(&c->c, &l->m, &ts);
    note_taken(l);
    BUG_ON(err && err != ETIMEDOUT);
    return !err;
}

void cond_wake_one(struct cond *c)
{
    BUG_ON(pthread_cond_signal(&c->c));
}

void cond_wake_all(struct cond *c)
{
    BUG_ON(pthread_cond_broadcast(&c->c));
}
