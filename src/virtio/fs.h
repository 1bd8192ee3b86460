/* SPDX-License-Identifier: Apache-2.0 */
/* A virtio file system device on a shared folder (backend/fs.h): see fs.c. */
#ifndef VIRTIO_FS_H
#define VIRTIO_FS_H

#include "backend/fs.h"
#include "virtio/virtio.h"

struct virtio_fs_req;

struct virtio_fs {
    struct virtio vd;
    struct fs_share *share;
    bool started;
    struct { /* "Device configuration layout" */
        char tag[FS_TAG_MAX];
        uint32_t num_request_queues;
    } config;
    struct virtio_fs_req *reqs; /* one for each worker */
};

/* share: the caller's, used from virtio_fs_start() to virtio_fs_stop(). 0 or -errno after a
 * message. */
int virtio_fs_init(struct virtio_fs *f, struct bus *bus, struct mmu *mmu,
                   struct fs_share *share) MUST_CHECK;
/* When the transport is attached. No locks held, here and in stop. */
int virtio_fs_start(struct virtio_fs *f) MUST_CHECK;
void virtio_fs_stop(struct virtio_fs *f);
/* The transport is gone. A zeroed struct is fine, too. */
void virtio_fs_fini(struct virtio_fs *f);

#endif
