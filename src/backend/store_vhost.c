/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk behind a vhost-user socket: connecting to the process, what it says about the disk, and
 * what it is told of memory and of the ring. Requests are in store_vhost_io.c.
 *
 * Manual: Virtual I/O Device 1.2, "Block Device"; "Vhost-user Protocol".
 */
#include "backend/store_vhost.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define CONFIG_BYTES 60u /* "Device configuration layout", up to write zeroes */
#define WANTED                                                                             \
    (BIT64(VIRTIO_F_VERSION_1) | BIT64(VIRTIO_RING_F_INDIRECT_DESC) |                      \
     BIT64(VIRTIO_BLK_F_SEG_MAX) | BIT64(VIRTIO_BLK_F_RO) | BIT64(VIRTIO_BLK_F_BLK_SIZE) | \
     BIT64(VIRTIO_BLK_F_FLUSH) | BIT64(VIRTIO_BLK_F_DISCARD) | BIT64(VIRTIO_BLK_F_WRITE_ZEROES))
_Static_assert(offsetof(struct virtio_blk_config, unused1) == CONFIG_BYTES - 3,
               "Device configuration layout");
_Static_assert(STORE_MEMORY_MAX < VHU_REGIONS_MAX, "and one for the ring");

static int vhost_refuse(const struct store *d, const char *why)
{
    log_error("%s: the vhost-user process at '%s' %s", d->cfg.name, d->what, why);
    return -EINVAL;
}

/* ---- what the disk is ---- */

static int vhost_capacity(struct store *d, const struct virtio_blk_config *c)
{
    if (c->capacity > INT64_MAX / STORE_SECTOR_BYTES)
        return vhost_refuse(d, "has a disk of more than 2^63 bytes");
    return store_set_bytes(d, c->capacity * STORE_SECTOR_BYTES);
}

static uint64_t sectors_limit(bool has, uint32_t sectors)
{
    return has ? (uint64_t)sectors * STORE_SECTOR_BYTES : 0;
}

/* What the device offers, against what a disk needs. */
static int vhost_check_device(struct store *d)
{
    struct store_vhost *n = d->vhost;
    struct virtio_blk_config c = { 0 };
    int err;

    if (!vhost_has(n, VIRTIO_F_VERSION_1))
        return vhost_refuse(d, "serves only drivers of before virtio 1.0");
    err = vhu_read_config(&n->v, &c, CONFIG_BYTES);
    if (err)
        return err;
    if (vhost_has(n, VIRTIO_BLK_F_BLK_SIZE) && c.blk_size > STORE_SECTOR_BYTES)
        return vhost_refuse(d, "wants blocks of more than the 512 bytes that the guest's have");
    /* The device decides: there is nobody else who could know. */
    d->cfg.readonly = d->cfg.readonly || vhost_has(n, VIRTIO_BLK_F_RO);
    n->segs_max = vhost_has(n, VIRTIO_BLK_F_SEG_MAX) ? MIN(c.seg_max, VHOST_SEGS_MAX) : 1;
    if (!n->segs_max)
        return vhost_refuse(d, "takes requests without data alone");
    if (!vhost_has(n, VIRTIO_RING_F_INDIRECT_DESC))
        n->segs_max = MIN(n->segs_max, VHOST_SLOT_DESCS - 2);
    n->discard_bytes = sectors_limit(vhost_has(n, VIRTIO_BLK_F_DISCARD), c.max_discard_sectors);
    n->zero_bytes =
        sectors_limit(vhost_has(n, VIRTIO_BLK_F_WRITE_ZEROES), c.max_write_zeroes_sectors);
    if (!d->cfg.readonly && !vhost_has(n, VIRTIO_BLK_F_FLUSH))
        log_warn("%s: '%s' knows of no flushes: when its host fails, what the guest flushed may be "
                 "lost",
                 d->cfg.name, d->what);
    return vhost_capacity(d, &c);
}

/* ---- memory and ring ---- */

static int vhost_make_shared(struct store_vhost *n)
{
    n->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    n->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (n->kick_fd < 0 || n->call_fd < 0)
        return -errno;
    n->shared_fd = host_memfd("vhost-user ring", sizeof(*n->shared));
    if (n->shared_fd < 0)
        return n->shared_fd;
    n->shared = host_map_fd(n->shared_fd, 0, sizeof(*n->shared));
    return n->shared ? 0 : -errno;
}

static struct vhu_region region_of(const void *at, uint64_t bytes, uint64_t fd_off_bytes)
{
    uint64_t user = (uintptr_t)at;

    return (struct vhu_region){ user, bytes, user, fd_off_bytes };
}

static int vhost_send_memory(struct store_vhost *n)
{
    struct vhu_mem_table t = { .nr = n->nr_memory + 1 };
    int fds[VHU_REGIONS_MAX];

    t.regions[0] = region_of(n->shared, sizeof(*n->shared), 0);
    fds[0] = n->shared_fd;
    for (unsigned i = 0; i < n->nr_memory; i++) {
        const struct store_memory *m = &n->memory[i];

        t.regions[i + 1] = region_of(m->at, m->bytes, m->fd_off_bytes);
        fds[i + 1] = m->fd;
    }
    return vhu_set_fds(&n->v, VHU_SET_MEM_TABLE, &t,
                       (uint32_t)offsetof(struct vhu_mem_table, regions) +
                           t.nr * (uint32_t)sizeof(t.regions[0]),
                       fds, t.nr);
}

static int vhost_send_ring(struct store_vhost *n)
{
    const struct vhost_shared *s = n->shared;
    const uint64_t queue = 0;
    const struct vhu_vring_state size = { .num = VHOST_RING_SIZE }, base = { .num = 0 },
                                 on = { .num = 1 };
    const struct vhu_vring_addr addr = { .desc = (uintptr_t)s->desc,
                                         .avail = (uintptr_t)&s->avail,
                                         .used = (uintptr_t)&s->used };
    int err = vhu_set(&n->v, VHU_SET_VRING_NUM, &size, sizeof(size));

    if (!err)
        err = vhu_set(&n->v, VHU_SET_VRING_BASE, &base, sizeof(base));
    if (!err)
        err = vhu_set(&n->v, VHU_SET_VRING_ADDR, &addr, sizeof(addr));
    if (!err)
        err = vhu_set_fds(&n->v, VHU_SET_VRING_CALL, &queue, sizeof(queue), &n->call_fd, 1);
    if (!err)
        err = vhu_set_fds(&n->v, VHU_SET_VRING_KICK, &queue, sizeof(queue), &n->kick_fd, 1);
    if (!err)
        err = vhu_set(&n->v, VHU_SET_VRING_ENABLE, &on, sizeof(on));
    return err;
}

int store_vhost_start(struct store *d)
{
    struct store_vhost *n = d->vhost;
    int err;

    n->nr_memory = MIN(d->client.nr_memory, STORE_MEMORY_MAX);
    for (unsigned i = 0; i < n->nr_memory; i++)
        n->memory[i] = d->client.memory[i];
    memset(&n->shared->avail, 0, sizeof(n->shared->avail));
    memset(&n->shared->used, 0, sizeof(n->shared->used));
    n->avail = n->used = 0;
    err = vhu_set_u64(&n->v, VHU_SET_FEATURES, n->features | VHU_F_PROTOCOL_FEATURES);
    if (!err)
        err = vhost_send_memory(n);
    return err ? err : vhost_send_ring(n);
}

void store_vhost_stop(struct store *d)
{
    struct vhu_vring_state state = { .index = 0 };

    if (d->vhost->lost)
        return;
    /* "Ring states": this is what stops it. It has said so if it cannot. */
    d->vhost->lost = vhu_ask(&d->vhost->v, VHU_GET_VRING_BASE, &state, sizeof(state)) < 0;
}

/* ---- the kind ---- */

static void vhost_free(struct store *d)
{
    struct store_vhost *n = d->vhost;
    const int fds[] = { n->kick_fd, n->call_fd, n->shared_fd };

    host_unmap(n->shared, sizeof(*n->shared));
    for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
        if (fds[i] >= 0)
            (void)close(fds[i]);
    free(n);
    d->vhost = NULL;
}

static int vhost_open(struct store *d)
{
    struct store_vhost *n = d->vhost = calloc(1, sizeof(*n));
    int err;

    if (!n) {
        log_error("%s: out of memory", d->cfg.name);
        return -ENOMEM;
    }
    n->kick_fd = n->call_fd = n->shared_fd = -1;
    for (unsigned i = 0; i < VHOST_NR_SLOTS; i++) {
        n->slots[i].next = n->free;
        n->free = &n->slots[i];
    }
    err = vhost_make_shared(n);
    if (err) {
        log_error("%s: no memory for a ring: %s", d->cfg.name, strerror(-err));
        vhost_free(d);
        return err;
    }
    err = vhu_open(&n->v, d->cfg.name, d->what, &n->features);
    if (err) {
        vhost_free(d);
        return err;
    }
    n->features &= WANTED;
    err = vhost_check_device(d);
    if (err) {
        vhu_close(&n->v);
        vhost_free(d);
    }
    return err;
}

static void vhost_close(struct store *d)
{
    vhu_close(&d->vhost->v);
    vhost_free(d);
}

/* The process's disk has another size, which it tells when it is asked. Any thread. */
static int vhost_resize(struct store *d, uint64_t bytes)
{
    struct virtio_blk_config c = { 0 };
    int err;

    if (bytes) {
        log_error("%s: '%s': a disk of vhost-user is resized by the process that serves it",
                  d->cfg.name, d->what);
        return -EOPNOTSUPP;
    }
    err = vhu_read_config(&d->vhost->v, &c, CONFIG_BYTES);
    if (err)
        return err;
    if (c.capacity < store_bytes(d) / STORE_SECTOR_BYTES)
        return vhost_refuse(d, "has made the disk smaller, which is in use");
    return vhost_capacity(d, &c);
}

static void vhost_lost(struct store *d, const char *why)
{
    log_error("%s: the vhost-user process at '%s' is lost (%s): the guest gets I/O errors from now "
              "on. Start the VM again when it is back",
              d->cfg.name, d->what, why);
}

const struct store_kind store_vhost = {
    .open = vhost_open,
    .close = vhost_close,
    .resize = vhost_resize,
    .lost = vhost_lost,
};
