/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The virtio persistent memory device: memory of the guest that is a file of the host's. The guest
 * uses it as memory; the device only tells where it is, and brings it to the disk when asked to.
 *
 * A flush takes the host a while, so it is done in a thread. A snapshot has of the file what it has
 * of a disk's: nothing. A restored machine needs it as it was, of the same size and at the same
 * place.
 *
 * Manual: Virtual I/O Device 1.2, "PMEM Device".
 */
#include "virtio/pmem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SEEN_FLUSH 1u
#define QUEUE_SIZE 64u
#define T_FLUSH    0u /* VIRTIO_PMEM_REQ_TYPE_FLUSH */

static struct virtio_pmem *pmem_of(struct virtio *vd)
{
    return container_of(vd, struct virtio_pmem, vd);
}

/* 0: done; 1: not, as "Device Operation" has it. */
static uint32_t pmem_serve(struct virtio_pmem *p, const struct virtq_chain *c)
{
    uint32_t type;
    int err;

    if (virtq_read(c, 0, &type, sizeof(type)) != sizeof(type) || type != T_FLUSH)
        return 1;
    err = p->fd >= 0 ? host_sync(p->fd) : 0;
    if (err && log_first(&p->vd.seen, SEEN_FLUSH))
        log_error("%s: the file cannot be flushed: %s", p->vd.name, strerror(-err));
    return err < 0;
}

static void pmem_work(void *arg)
{
    struct virtio_pmem *p = arg;
    struct virtq *q = &p->vd.queues[0];
    struct host_iov iov[QUEUE_SIZE];
    gpa_t at[QUEUE_SIZE];
    struct virtq_chain c = { .iov = iov, .at = at, .max = QUEUE_SIZE };

    virtio_lock(&p->vd);
    while (virtq_pop(q, &c)) {
        uint32_t ret;

        virtio_unlock(&p->vd);
        ret = pmem_serve(p, &c);
        virtio_lock(&p->vd);
        virtq_push(q, &c, virtq_write(&c, 0, &ret, sizeof(ret)));
        virtq_publish(q);
    }
    virtio_unlock(&p->vd);
    virtio_signal(&p->vd);
}

static void pmem_notify(struct virtio *vd, struct virtq *q)
{
    (void)q;
    virtio_worker_wake(&pmem_of(vd)->worker);
}

static void pmem_start(struct virtio *vd)
{
    virtio_worker_wake(&pmem_of(vd)->worker);
}

static void pmem_loaded(struct virtio *vd, bool running)
{
    if (running)
        pmem_start(vd);
}

static int pmem_save(void *base, uint8_t **data, size_t *bytes)
{
    const struct virtio_pmem *p = base;

    *bytes = sizeof(p->config);
    *data = malloc(*bytes);
    if (!*data)
        return -ENOMEM;
    memcpy(*data, &p->config, *bytes);
    return 0;
}

/* The guest has looked where it is, and has page tables for it. */
static int pmem_load(void *base, const uint8_t *data, size_t bytes, unsigned version)
{
    const struct virtio_pmem *p = base;

    (void)version; /* there is one */
    if (bytes == sizeof(p->config) && !memcmp(data, &p->config, bytes))
        return 0;
    log_error("%s: the file is not as large, or would not be where it was", p->vd.name);
    return -EINVAL;
}

static const struct state_blob pmem_blob = {
    .name = "virtio-pmem", .version = 1, .save = pmem_save, .load = pmem_load
};

static const struct virtio_type pmem_type = {
    .name = "virtio-pmem",
    .id = VIRTIO_ID_PMEM,
    .pci_class = 0x00ff00,
    .start = pmem_start,
    .notify = pmem_notify,
    .vd_off_bytes = offsetof(struct virtio_pmem, vd),
    .blob = &pmem_blob,
    .loaded = pmem_loaded,
};

int virtio_pmem_init(struct virtio_pmem *p, const struct virtio_pmem_desc *d)
{
    int err;

    *p = (struct virtio_pmem){ .fd = d->fd, .config = { d->at.v, d->bytes } };
    err = virtio_init(&p->vd, &(struct virtio_desc){
                                  .type = &pmem_type,
                                  .name = d->name,
                                  .bus = d->bus,
                                  .mmu = d->mmu,
                                  .nr_queues = 1,
                                  .queue_size = QUEUE_SIZE,
                                  .config = &p->config,
                                  .config_bytes = sizeof(p->config),
                              });
    if (!err)
        err = virtio_worker_start(&p->worker, "pmem", pmem_work, p);
    if (err)
        virtio_pmem_fini(p);
    return err;
}

void virtio_pmem_stop(struct virtio_pmem *p)
{
    virtio_worker_stop(&p->worker);
}

void virtio_pmem_fini(struct virtio_pmem *p)
{
    virtio_pmem_stop(p);
    virtio_fini(&p->vd);
}
