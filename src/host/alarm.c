/* SPDX-License-Identifier: Apache-2.0 */
/* Alarms, by timerfd. */
#include "host/host.h"

#include <errno.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define NS_PER_S 1000000000ull

int host_alarm_open(struct host_alarm *a)
{
    a->fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    return a->fd < 0 ? -errno : 0;
}

void host_alarm_close(struct host_alarm *a)
{
    if (a->fd >= 0)
        (void)close(a->fd);
    a->fd = -1;
}

void host_alarm_set(struct host_alarm *a, uint64_t mono_ns)
{
    struct itimerspec at = { 0 };

    if (mono_ns != UINT64_MAX) {
        mono_ns = MAX(mono_ns, 1); /* 0 would be never */
        at.it_value.tv_sec = (time_t)(mono_ns / NS_PER_S);
        at.it_value.tv_nsec = (long)(mono_ns % NS_PER_S);
    }
    BUG_ON(timerfd_settime(a->fd, TFD_TIMER_ABSTIME, &at, NULL));
}

void host_alarm_wait(struct host_alarm *a)
{
    uint64_t times;

    (void)!read(a->fd, &times, sizeof(times)); /* EINTR: no reason */
}
