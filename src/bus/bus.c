/* SPDX-License-Identifier: Apache-2.0 */
/* The bus object: its life, the list of devices, and what devices ask of the machine. */
#include "bus/bus.h"

#include <stdlib.h>

#include "bus/priv.h"

struct bus *bus_create(void)
{
    struct bus *b = calloc(1, sizeof(*b));

    if (!b) {
        log_error("out of memory for the bus");
        return NULL;
    }
    lock_init(&b->lock, LOCK_MACHINE);
    b->devices_end = &b->devices;
    b->ports.what = "port";
    b->mmio.what = "MMIO";
    b->clock = clock_create(&b->lock);
    if (!b->clock) {
        bus_destroy(b);
        return NULL;
    }
    return b;
}

void bus_destroy(struct bus *b)
{
    if (!b)
        return;
    clock_destroy(b->clock);
    claims_fini(&b->ports);
    claims_fini(&b->mmio);
    lock_destroy(&b->lock);
    free(b);
}

struct lock *bus_lock(struct bus *b)
{
    return &b->lock;
}

void bus_add(struct bus *b, struct device *dev)
{
    dev->bus = b;
    dev->next = NULL;
    *b->devices_end = dev;
    b->devices_end = &dev->next;
}

struct device *bus_device_next(struct bus *b, struct device *prev)
{
    return prev ? prev->next : b->devices;
}

struct clock *bus_clock(struct bus *b)
{
    return b->clock;
}

void bus_set_stop_sink(struct bus *b, void (*stop)(void *ctx, enum stop_reason why, int status),
                       void *ctx)
{
    b->stop = stop;
    b->stop_ctx = ctx;
}

void bus_set_hold_sink(struct bus *b, void (*hold)(void *ctx, bool on), void *ctx)
{
    b->hold = hold;
    b->hold_ctx = ctx;
}

void bus_post_hold(struct bus *b, bool on)
{
    if (b->hold)
        b->hold(b->hold_ctx, on);
}

void bus_post_stop(struct bus *b, enum stop_reason why, int status)
{
    if (b->stop)
        b->stop(b->stop_ctx, why, status);
}

void bus_set_a20(struct bus *b, bool on)
{
    if (!on && log_first(&b->seen, 0xa20))
        log_warn("the guest turns A20 off; doppel keeps it on");
    b->a20_off = !on;
}

bool bus_a20(const struct bus *b)
{
    return !b->a20_off;
}

struct log_seen *bus_seen(struct bus *b)
{
    return &b->seen;
}
