/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeping a vCPU's thread and its worker on one CPU.
 *
 * They take turns, and a wake-up on the CPU they share costs 4 us there and back, but 45 us where
 * the scheduler sends one of them to an idle virtual CPU (measured with eventfds and pipes). So
 * both are bound to the CPU the thread is on. A bound thread cannot be moved away from a busy
 * neighbour, so it is free for some milliseconds in each tenth of a second, and settles where it is
 * then.
 */
#include <unistd.h>

#include "engine/bt/direct/internal.h"
#include "host/host.h"

#define BOUND_NS 95000000ull
#define FREE_NS  5000000ull

static bool pin(int tid, int cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET((unsigned)cpu, &set);
    return !sched_setaffinity(tid, sizeof(set), &set);
}

void direct_unbind(struct direct *d)
{
    struct binding *b = &d->binding;

    if (b->tid) /* its thread may have ended: no harm */
        (void)sched_setaffinity(b->tid, sizeof(b->free), &b->free);
    b->tid = 0;
    b->known = false;
}

static void change(struct binding *b, uint64_t now)
{
    if (b->tid) {
        (void)sched_setaffinity(b->tid, sizeof(b->free), &b->free);
        b->tid = 0;
        b->until_ns = now + FREE_NS;
        return;
    }
    b->cpu = sched_getcpu();
    if (b->cpu >= 0 && !sched_getaffinity(0, sizeof(b->free), &b->free) && pin(0, b->cpu))
        b->tid = gettid();
    b->until_ns = now + BOUND_NS;
}

void bind_space(struct direct *d, struct space *s)
{
    struct binding *b = &d->binding;
    uint64_t now = host_mono_ns();

    if (!b->known || now >= b->until_ns)
        change(b, now);
    b->known = true;
    if (b->tid && s->cpu != b->cpu && pin(s->w.pid, b->cpu))
        s->cpu = b->cpu;
}
