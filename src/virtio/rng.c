/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The virtio entropy device: fills buffers with the host's random bytes. That never waits and is
 * short, so it is done at once, in the vCPU's thread; what a limit does not allow yet stays in the
 * queue until a timer comes.
 *
 * Manual: Virtual I/O Device 1.2, "Entropy Device".
 */
#include "virtio/rng.h"

#define QUEUE_SIZE 64u
#define BYTES_MAX  4096u /* for each buffer: the driver asks again if it wants more */

/* False: not now; the timer is set. */
static bool rng_allows(struct virtio_rng *r, uint32_t bytes)
{
    uint64_t now = clock_now_ns(bus_clock(r->vd.bus)), until;
    struct bucket requests = r->requests;

    until = bucket_take(&requests, now, 1);
    if (!until)
        until = bucket_take(&r->bytes, now, bytes);
    if (until) {
        timer_arm(&r->throttled, until);
        return false;
    }
    r->requests = requests;
    return true;
}

/* Machine lock held. */
static void rng_notify(struct virtio *vd, struct virtq *q)
{
    struct virtio_rng *r = container_of(vd, struct virtio_rng, vd);
    struct host_iov iov[QUEUE_SIZE];
    gpa_t at[QUEUE_SIZE];
    struct virtq_chain c = { .iov = iov, .at = at, .max = QUEUE_SIZE };
    uint8_t bytes[BYTES_MAX];

    virtio_lock(vd);
    for (unsigned i = 0; virtq_pop(q, &c); i++) {
        uint32_t nr = MIN(c.in_bytes, BYTES_MAX);

        if (i == QUEUE_SIZE) { /* the machine waits for this: the rest later */
            timer_arm(&r->throttled, clock_now_ns(bus_clock(vd->bus)));
            virtq_unpop(q, &c);
            break;
        }
        if (!rng_allows(r, nr)) {
            virtq_unpop(q, &c);
            break;
        }
        host_random(bytes, nr);
        virtq_push(q, &c, virtq_write(&c, 0, bytes, nr));
    }
    virtq_publish(q);
    virtio_unlock(vd);
    virtio_signal_locked(vd);
}

/* The clock's thread, machine lock held. */
static void rng_unthrottle(void *arg)
{
    struct virtio_rng *r = arg;

    rng_notify(&r->vd, &r->vd.queues[0]);
}

/* What waits for the limit does not wait for a notification. */
static void rng_loaded(struct virtio *vd, bool running)
{
    struct virtio_rng *r = container_of(vd, struct virtio_rng, vd);

    if (running && (bucket_limits(&r->requests) || bucket_limits(&r->bytes)))
        timer_arm(&r->throttled, clock_now_ns(bus_clock(vd->bus)));
}

static const struct virtio_type rng_type = {
    .name = "virtio-rng",
    .id = VIRTIO_ID_RNG,
    .pci_class = 0x00ff00,
    .notify = rng_notify,
    .loaded = rng_loaded,
};

int virtio_rng_init(struct virtio_rng *r, struct bus *bus, struct mmu *mmu,
                    const struct rng_limits *limits)
{
    uint64_t now = clock_now_ns(bus_clock(bus));

    bucket_init(&r->requests, &limits->requests, now);
    bucket_init(&r->bytes, &limits->bytes, now);
    timer_init(&r->throttled, bus_clock(bus), rng_unthrottle, r);
    return virtio_init(&r->vd, &(struct virtio_desc){
                                   .type = &rng_type,
                                   .name = "rng",
                                   .bus = bus,
                                   .mmu = mmu,
                                   .nr_queues = 1,
                                   .queue_size = QUEUE_SIZE,
                               });
}

void virtio_rng_fini(struct virtio_rng *r)
{
    if (r->vd.bus) {
        lock_take(bus_lock(r->vd.bus));
        timer_cancel(&r->throttled);
        lock_drop(bus_lock(r->vd.bus));
    }
    virtio_fini(&r->vd);
}
