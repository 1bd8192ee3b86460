/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How long the scheduler has kept threads waiting: the second number of /proc/PID/schedstat (Linux:
 * Documentation/scheduler/sched-stats.rst), where the kernel keeps it.
 */
#include "host/host.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void host_delay_open(struct host_delay *d, int pid)
{
    char path[40] = "/proc/thread-self/schedstat";

    if (pid)
        (void)snprintf(path, sizeof(path), "/proc/%d/schedstat", pid);
    *d = (struct host_delay){ .fd = open(path, O_RDONLY | O_CLOEXEC) };
    d->open = d->fd >= 0;
}

void host_delay_close(struct host_delay *d)
{
    if (d->open)
        (void)close(d->fd);
    *d = (struct host_delay){ .open = false };
}

uint64_t host_delay_ns(struct host_delay *d)
{
    char text[80], *ran, *waited;
    uint64_t ns;
    ssize_t n;

    n = d->open ? pread(d->fd, text, sizeof(text) - 1, 0) : 0;
    if (n <= 0)
        return d->last_ns; /* a process that has ended waits no longer */
    text[n] = 0;
    (void)strtoull(text, &ran, 10);
    ns = strtoull(ran, &waited, 10);
    if (waited != ran && ns > d->last_ns)
        d->last_ns = ns;
    return d->last_ns;
}

bool host_delay_known(void)
{
    struct host_delay d;
    bool known;

    host_delay_open(&d, 0);
    known = d.open;
    host_delay_close(&d);
    return known;
}
