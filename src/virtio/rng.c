/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The virtio entropy device: fills buffers with the host's random bytes. That never waits and is
 * short, so it is done at once, in the vCPU's thread.
 *
 * Manual: Virtual I/O Device 1.2, "Entropy Device".
 */
#include "virtio/rng.h"

#define QUEUE_SIZE 64u
#define BYTES_MAX  4096u /* for each buffer: the driver asks again if it wants more */

static void rng_notify(struct virtio *vd, struct virtq *q)
{
    struct host_iov iov[QUEUE_SIZE];
    gpa_t at[QUEUE_SIZE];
    struct virtq_chain c = { .iov = iov, .at = at, .max = QUEUE_SIZE };
    uint8_t bytes[BYTES_MAX];

    virtio_lock(vd);
    while (virtq_pop(q, &c)) {
        uint32_t nr = MIN(c.in_bytes, BYTES_MAX);

        host_random(bytes, nr);
        virtq_push(q, &c, virtq_write(&c, 0, bytes, nr));
    }
    virtq_publish(q);
    virtio_unlock(vd);
    virtio_signal_locked(vd);
}

static void rng_loaded(struct virtio *vd, bool running)
{
    (void)vd, (void)running; /* there is nothing but its queue */
}

static const struct virtio_type rng_type = {
    .name = "virtio-rng",
    .id = VIRTIO_ID_RNG,
    .pci_class = 0x00ff00,
    .notify = rng_notify,
    .loaded = rng_loaded,
};

int virtio_rng_init(struct virtio_rng *r, struct bus *bus, struct mmu *mmu)
{
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
    virtio_fini(&r->vd);
}
