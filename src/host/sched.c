/* SPDX-License-Identifier: Apache-2.0 */
/* Where threads run, and with which share of a busy host's time. */
#include "host/host.h"

#include <errno.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

/* Those of the range that the process may use. */
static int usable(unsigned first, unsigned nr, cpu_set_t *set)
{
    cpu_set_t mine;

    CPU_ZERO(set);
    if (sched_getaffinity(getpid(), sizeof(mine), &mine) < 0)
        return -errno;
    for (unsigned cpu = first; cpu < first + nr && cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &mine))
            CPU_SET(cpu, set);
    return CPU_COUNT(set) ? 0 : -EINVAL;
}

bool host_cpus_usable(unsigned first, unsigned nr)
{
    cpu_set_t set;

    return usable(first, nr, &set) == 0;
}

static int set_cpus(const struct host_sched *s, unsigned idx)
{
    cpu_set_t set, one;
    int err = usable(s->first, s->nr, &set), skip;

    if (err)
        return err;
    skip = (int)idx % CPU_COUNT(&set);
    CPU_ZERO(&one);
    for (unsigned cpu = s->first; !CPU_COUNT(&one); cpu++)
        if (CPU_ISSET(cpu, &set) && skip-- == 0)
            CPU_SET(cpu, &one);
    return sched_setaffinity(0, sizeof(one), &one) < 0 ? -errno : 0;
}

/* The nearest: Linux' scheduler gives a quarter more for each step (sched(7), "The nice value"). */
static int nice_of(unsigned weight)
{
    unsigned long at = 100 * 1000, want = weight * 1000ul;
    int nice = 0;

    while (at + at / 8 < want && nice > -20) {
        at += at / 4;
        nice--;
    }
    while (at > want + want / 8 && nice < 19) {
        at -= at / 5;
        nice++;
    }
    return nice;
}

void host_sched_allow(const struct host_sched *s)
{
    const int nice = s->weight ? nice_of(s->weight) : 0;
    const rlim_t want = (rlim_t)(20 - nice); /* getrlimit(2): so far down it may go */
    struct rlimit r;

    if (nice >= 0 || getrlimit(RLIMIT_NICE, &r) < 0 || r.rlim_cur >= want)
        return;
    r.rlim_cur = want;
    r.rlim_max = MAX(r.rlim_max, want);
    /* A container's root may have the one privilege and not the other. Then all threads inherit it.
     * If that fails, too, host_sched_set() will tell. */
    if (setrlimit(RLIMIT_NICE, &r) < 0)
        (void)setpriority(PRIO_PROCESS, 0, nice);
}

int host_sched_set(const struct host_sched *s, unsigned idx, const char **what)
{
    int err = s->nr ? set_cpus(s, idx) : 0;

    *what = "host CPUs";
    if (err || !s->weight)
        return err;
    *what = "weight (over 100 it needs the privilege to raise priorities)";
    return setpriority(PRIO_PROCESS, (id_t)gettid(), nice_of(s->weight)) < 0 ? -errno : 0;
}
