/* SPDX-License-Identifier: Apache-2.0 */
/* A virtio persistent memory device: see pmem.c. */
#ifndef VIRTIO_PMEM_H
#define VIRTIO_PMEM_H

#include "virtio/virtio.h"
#include "virtio/worker.h"

struct pmem_config {
    uint64_t start, bytes; /* guest-physical */
};

struct virtio_pmem {
    struct virtio vd;
    struct pmem_config config;
    int fd; /* the file's; the caller's. -1: nothing to flush */
    struct virtio_worker worker;
};

struct virtio_pmem_desc {
    struct bus *bus;
    struct mmu *mmu;
    const char *name; /* for messages; outlives the device */
    gpa_t at;         /* of memory that the machine has there */
    uint64_t bytes;
    int fd;
};

/* 0 or -errno after a message. */
int virtio_pmem_init(struct virtio_pmem *p, const struct virtio_pmem_desc *desc) MUST_CHECK;
/* Ends the thread; before the transport goes. No locks held. */
void virtio_pmem_stop(struct virtio_pmem *p);
/* A zeroed struct is fine, too. */
void virtio_pmem_fini(struct virtio_pmem *p);

#endif
