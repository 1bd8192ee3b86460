/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk's request done here and now, by system calls that wait: for the thread pool, for what
 * io_uring left over, and for what a file system can only do in another way.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "backend/store_impl.h"

#define IOV_AT_ONCE 64
#define ZERO_BYTES  65536u

static_assert(sizeof(struct host_iov) == sizeof(struct iovec) &&
                  offsetof(struct host_iov, base) == offsetof(struct iovec, iov_base) &&
                  offsetof(struct host_iov, bytes) == offsetof(struct iovec, iov_len),
              "they are the same");

int store_write_flags(const struct store_req *r)
{
    return r->op == STORE_WRITE && r->through ? RWF_DSYNC : 0;
}

int store_fallocate_mode(const struct store_req *r)
{
    if (r->op == STORE_DISCARD || r->unmap)
        return FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    return FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
}

/* What is left behind the first done_bytes, as far as it fits. */
static int left_of(const struct store_req *r, struct iovec *iov)
{
    uint64_t skip = r->done_bytes;
    int nr = 0;

    for (unsigned i = 0; i < r->nr_iov && nr < IOV_AT_ONCE; i++) {
        if (skip >= r->iov[i].bytes) {
            skip -= r->iov[i].bytes;
            continue;
        }
        iov[nr++] = (struct iovec){ .iov_base = (uint8_t *)r->iov[i].base + skip,
                                    .iov_len = r->iov[i].bytes - skip };
        skip = 0;
    }
    return nr;
}

static int sync_move(struct store *d, struct store_req *r)
{
    while (r->done_bytes < r->bytes) {
        struct iovec iov[IOV_AT_ONCE];
        int nr = left_of(r, iov);
        off_t at = (off_t)(r->off_bytes + r->done_bytes);
        ssize_t n = r->op == STORE_READ ? preadv(d->fd, iov, nr, at)
                                        : pwritev2(d->fd, iov, nr, at, store_write_flags(r));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0) /* somebody made the file shorter */
            return -EIO;
        r->done_bytes += (uint64_t)n;
    }
    return 0;
}

static int sync_write_zeroes(struct store *d, struct store_req *r)
{
    static const uint8_t zeroes[ZERO_BYTES];

    while (r->done_bytes < r->bytes) {
        size_t bytes = MIN(r->bytes - r->done_bytes, ZERO_BYTES);
        ssize_t n = pwrite(d->fd, zeroes, bytes, (off_t)(r->off_bytes + r->done_bytes));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        r->done_bytes += (uint64_t)n;
    }
    return 0;
}

/* A hole or zeroes in a file, or the same on a device. */
static int sync_clear(struct store *d, struct store_req *r)
{
    uint64_t range[2] = { r->off_bytes, r->bytes };
    int err;

    if (d->is_device)
        err =
            ioctl(d->fd, r->op == STORE_DISCARD ? BLKDISCARD : BLKZEROOUT, range) < 0 ? -errno : 0;
    else
        err = fallocate(d->fd, store_fallocate_mode(r), (off_t)r->off_bytes, (off_t)r->bytes) < 0
                  ? -errno
                  : 0;
    if (err != -EOPNOTSUPP && err != -ENOTTY && err != -EINVAL)
        return err;
    return r->op == STORE_DISCARD ? 0 : sync_write_zeroes(d, r); /* discarding is a hint */
}

int store_do(struct store *d, struct store_req *r)
{
    switch (r->op) {
    case STORE_READ:
    case STORE_WRITE:
        return sync_move(d, r);
    case STORE_FLUSH:
        return fdatasync(d->fd) < 0 ? -errno : 0;
    default:
        return sync_clear(d, r);
    }
}
