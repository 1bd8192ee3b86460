/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The virtio file system device: carries requests between its queues and the threads of a shared
 * folder, and knows nothing of what they mean but how long a header is.
 *
 * No notification queue and no DAX window are offered.
 *
 * Manual: Virtual I/O Device 1.2, "File System Device".
 */
#include "virtio/fs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define QUEUE_SIZE 1024u /* so that a request of 1 MB fits, page by page */
enum { HIPRIO_QUEUE, REQUEST_QUEUE, NR_QUEUES };
#define PCI_CLASS_OTHER 0x018000u /* mass storage, other: there is none for file systems */

_Static_assert(QUEUE_SIZE <= FS_IOV_MAX, "a chain fits into a request");
_Static_assert(offsetof(struct virtio_fs, config.num_request_queues) -
                       offsetof(struct virtio_fs, config) ==
                   36,
               "Device configuration layout");

struct virtio_fs_req {
    struct fs_req r;
    struct virtq *q;
    struct virtq_chain chain;
    struct host_iov iov[QUEUE_SIZE];
    gpa_t at[QUEUE_SIZE];
    _Alignas(8) uint8_t args[FS_ARGS_MAX];
    _Alignas(8) uint8_t reply[FS_REPLY_MAX];
};

static struct virtio_fs *fs_of(struct virtio *vd)
{
    return container_of(vd, struct virtio_fs, vd);
}

/* ---- the share's threads ---- */

/* Device's lock held. An answer has at least a header, or there is none. */
static bool vfs_pop(struct virtio_fs *f, struct virtio_fs_req *r)
{
    if (!virtq_pop(r->q, &r->chain))
        return false;
    if (r->chain.out_bytes >= FS_HEAD_BYTES &&
        (!r->chain.in_bytes || r->chain.in_bytes >= FS_OUT_BYTES))
        return true;
    virtio_broken(&f->vd, "a request without a whole header, or with room for half an answer");
    virtq_unpop(r->q, &r->chain);
    return false;
}

static struct fs_req *vfs_take(void *arg, unsigned worker, bool *more)
{
    struct virtio_fs *f = arg;
    struct virtio_fs_req *r = &f->reqs[worker];
    bool got;

    r->q = &f->vd.queues[worker ? REQUEST_QUEUE : HIPRIO_QUEUE];
    virtio_lock(&f->vd);
    got = vfs_pop(f, r);
    *more = got && virtq_has_work(r->q);
    virtio_unlock(&f->vd);
    if (!got) {
        virtio_signal(&f->vd); /* it may have broken */
        return NULL;
    }
    r->r = (struct fs_req){ .iov = r->iov,
                            .nr_out = r->chain.nr_out,
                            .nr_in = r->chain.nr_in,
                            .out_bytes = r->chain.out_bytes,
                            .in_bytes = r->chain.in_bytes,
                            .args = r->args,
                            .reply = r->reply };
    (void)virtq_read(&r->chain, 0, r->args, FS_ARGS_MAX);
    return &r->r;
}

static void vfs_done(void *arg, unsigned worker, struct fs_req *done)
{
    struct virtio_fs *f = arg;
    struct virtio_fs_req *r = &f->reqs[worker];

    (void)virtq_write(&r->chain, 0, done->reply, done->reply_bytes);
    virtio_lock(&f->vd);
    virtq_push(r->q, &r->chain, done->nr_written);
    virtq_publish(r->q);
    virtio_unlock(&f->vd);
    virtio_signal(&f->vd);
}

/* ---- the device: machine lock held ---- */

static void vfs_notify(struct virtio *vd, struct virtq *q)
{
    fs_kick(fs_of(vd)->share, q->idx == HIPRIO_QUEUE);
}

static void vfs_reset_done(struct virtio *vd)
{
    fs_end_session(fs_of(vd)->share);
}

/* A driver that has not begun, or was reset, has nothing open. */
static void vfs_loaded(struct virtio *vd, bool running)
{
    if (!running)
        fs_end_session(fs_of(vd)->share);
}

static int vfs_save(void *base, uint8_t **data, size_t *bytes)
{
    return fs_save(((struct virtio_fs *)base)->share, data, bytes);
}

static int vfs_load(void *base, const uint8_t *data, size_t bytes, unsigned version)
{
    (void)version; /* there is one */
    return fs_load(((struct virtio_fs *)base)->share, data, bytes);
}

static const struct state_blob vfs_blob = {
    .name = "virtio-fs", .version = FS_STATE_VERSION, .save = vfs_save, .load = vfs_load
};

static const struct virtio_type vfs_type = {
    .name = "virtio-fs",
    .id = VIRTIO_ID_FS,
    .pci_class = PCI_CLASS_OTHER,
    .notify = vfs_notify,
    .reset_done = vfs_reset_done,
    .vd_off_bytes = offsetof(struct virtio_fs, vd),
    .blob = &vfs_blob,
    .loaded = vfs_loaded,
};

/* ---- life ---- */

int virtio_fs_init(struct virtio_fs *f, struct bus *bus, struct mmu *mmu, struct fs_share *share)
{
    const char *tag = fs_tag(share);
    int err;

    *f = (struct virtio_fs){ .share = share, .config.num_request_queues = NR_QUEUES - 1 };
    memcpy(f->config.tag, tag, MIN(strlen(tag), FS_TAG_MAX)); /* no 0 behind the longest */
    f->reqs = calloc(FS_WORKERS, sizeof(*f->reqs));
    if (!f->reqs) {
        log_error("share '%s': out of memory for its requests", tag);
        return -ENOMEM;
    }
    for (unsigned i = 0; i < FS_WORKERS; i++)
        f->reqs[i].chain =
            (struct virtq_chain){ .iov = f->reqs[i].iov, .at = f->reqs[i].at, .max = QUEUE_SIZE };
    err = virtio_init(&f->vd, &(struct virtio_desc){
                                  .type = &vfs_type,
                                  .name = tag,
                                  .bus = bus,
                                  .mmu = mmu,
                                  .nr_queues = NR_QUEUES,
                                  .queue_size = QUEUE_SIZE,
                                  .config = &f->config,
                                  .config_bytes = sizeof(f->config),
                              });
    if (err)
        virtio_fs_fini(f);
    return err;
}

int virtio_fs_start(struct virtio_fs *f)
{
    int err =
        fs_start(f->share, &(struct fs_client){ .take = vfs_take, .done = vfs_done, .arg = f });

    f->started = !err;
    return err;
}

void virtio_fs_stop(struct virtio_fs *f)
{
    if (f->started)
        fs_stop(f->share);
    f->started = false;
}

void virtio_fs_fini(struct virtio_fs *f)
{
    virtio_fs_stop(f);
    virtio_fini(&f->vd);
    free(f->reqs);
    *f = (struct virtio_fs){ .started = false };
}
