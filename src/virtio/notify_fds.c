/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Notifications without an exit: where the engine can, a driver's write wakes the device's thread
 * by its own eventfd, and no vCPU thread comes here. Everything that this may depend on ends in
 * virtio_notify_fds_set(), which compares.
 */
#include "virtio/notify_fds.h"

static bool same(const struct bus_notify *a, const struct bus_notify *b)
{
    return a->at.v == b->at.v && a->fd == b->fd;
}

static bool turn_on(struct virtio *vd, struct bus_notify *n)
{
    /* "Available Buffer Notifications": 16 bits, if the engine has to know. */
    if (bus_notify_fd(vd->bus, n, true) == 0)
        return true;
    if (n->bytes)
        return false;
    n->bytes = 2;
    return bus_notify_fd(vd->bus, n, true) == 0;
}

void virtio_notify_fds_set(struct virtio_notify_fds *s, struct virtio *vd, unsigned queue_idx,
                           const struct bus_notify *write)
{
    struct bus_notify *now = &s->queues[queue_idx], want = { .fd = -1 };

    if (write)
        want = *write;
    want.fd = write ? virtio_notify_fd(vd, queue_idx) : -1;
    if (s->on & BIT64(queue_idx)) {
        if (same(now, &want))
            return;
        /* The device may have closed its descriptor; then the engine has let it go, too. */
        (void)!bus_notify_fd(vd->bus, now, false);
        s->on &= ~BIT64(queue_idx);
    }
    if (want.fd < 0 || !turn_on(vd, &want))
        return;
    *now = want;
    s->on |= BIT64(queue_idx);
}
