/* SPDX-License-Identifier: Apache-2.0 */
/* What is done with open files of a share. Data go between the host's file and the guest's memory
 * without a copy of ours: nothing depends on them. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "backend/fs_priv.h"

#define COPY_MAX MIB(16) /* in one COPY_FILE_RANGE; the guest goes on by itself */

_Static_assert(sizeof(struct iovec) == sizeof(struct host_iov) &&
                   offsetof(struct iovec, iov_len) == offsetof(struct host_iov, bytes),
               "struct host_iov is struct iovec");

/* Is [off, off + bytes) inside what a file can have? */
static bool in_file(uint64_t off, uint64_t bytes)
{
    return off <= INT64_MAX && bytes <= INT64_MAX - off;
}

int fs_read(struct fs_call *c)
{
    const struct fuse_read_in *in = (const void *)c->args;
    const struct fs_req *r = c->r;
    uint64_t bytes = MIN(MIN(in->size, r->in_bytes - FS_OUT_BYTES), FS_DATA_MAX);
    struct host_iov iov[FS_IOV_MAX];
    struct fs_file *f;
    ssize_t got = 0;
    unsigned nr;
    int err;

    if (!in_file(in->offset, bytes))
        return -EINVAL;
    f = fs_file_get(c->fs, in->fh, false);
    if (!f)
        return fs_file_missing(c->fs, in->fh);
    nr = fs_iov_slice(iov, r->iov + r->nr_out, r->nr_in, FS_OUT_BYTES, bytes);
    got = preadv(f->fd, (const struct iovec *)iov, (int)nr, (off_t)in->offset);
    err = got < 0 ? -errno : 0;
    fs_file_put(c->fs, f);
    if (!err)
        c->direct_bytes = (uint32_t)got;
    return err;
}

/*
 * O_APPEND is told with each write, but means nothing for pages out of the guest's cache, which
 * have their place already. With writeback the guest alone knows where the end is.
 */
static int write_flags(struct fs_call *c, const struct fuse_write_in *in)
{
    bool writeback;

    if (!(in->flags & O_APPEND) || (in->write_flags & FUSE_WRITE_CACHE))
        return 0;
    lock_take(&c->fs->lock);
    writeback = c->fs->writeback;
    lock_drop(&c->fs->lock);
    return writeback ? 0 : RWF_APPEND;
}

int fs_write(struct fs_call *c)
{
    const struct fuse_write_in *in = (const void *)c->args;
    struct fuse_write_out *out = (void *)c->out;
    const struct fs_req *r = c->r;
    struct host_iov iov[FS_IOV_MAX];
    struct fs_file *f;
    ssize_t done;
    unsigned nr;
    int err;

    if (in->size > FS_DATA_MAX || in->size != r->out_bytes - FS_HEAD_BYTES - sizeof(*in) ||
        !in_file(in->offset, in->size))
        return -EINVAL;
    f = fs_file_get(c->fs, in->fh, false);
    if (!f)
        return fs_file_missing(c->fs, in->fh);
    nr = fs_iov_slice(iov, r->iov, r->nr_out, FS_HEAD_BYTES + sizeof(*in), in->size);
    if (in->write_flags & FUSE_WRITE_KILL_SUIDGID)
        fs_creds_drop_fsetid(c->fs);
    done =
        pwritev2(f->fd, (const struct iovec *)iov, (int)nr, (off_t)in->offset, write_flags(c, in));
    err = done < 0 ? -errno : 0;
    if (in->write_flags & FUSE_WRITE_KILL_SUIDGID)
        fs_creds_back_fsetid(c->fs);
    fs_file_put(c->fs, f);
    if (err)
        return err;
    *out = (struct fuse_write_out){ .size = (uint32_t)done };
    c->out_bytes = sizeof(*out);
    return 0;
}

/* A descriptor of the guest's is closed: what the host's file system would say then. */
int fs_flush(struct fs_call *c)
{
    const struct fuse_flush_in *in = (const void *)c->args;
    struct fs_file *f = fs_file_get(c->fs, in->fh, false);
    int fd, err;

    if (!f)
        return fs_file_missing(c->fs, in->fh);
    fd = fcntl(f->fd, F_DUPFD_CLOEXEC, 0);
    err = fd < 0 || close(fd) < 0 ? -errno : 0;
    fs_file_put(c->fs, f);
    return err;
}

int fs_file_sync(struct fs_call *c, bool is_dir)
{
    const struct fuse_fsync_in *in = (const void *)c->args;
    struct fs_file *f = fs_file_get(c->fs, in->fh, is_dir);
    int err;

    if (!f)
        return fs_file_missing(c->fs, in->fh);
    err =
        (in->fsync_flags & FUSE_FSYNC_FDATASYNC ? fdatasync(f->fd) : fsync(f->fd)) < 0 ? -errno : 0;
    fs_file_put(c->fs, f);
    return err;
}

int fs_fsync(struct fs_call *c)
{
    return fs_file_sync(c, false);
}

/* The host's own position is of no use to anybody, so it does not matter that this moves it. */
int fs_lseek(struct fs_call *c)
{
    const struct fuse_lseek_in *in = (const void *)c->args;
    struct fuse_lseek_out *out = (void *)c->out;
    struct fs_file *f;
    off_t at;
    int err;

    if ((in->whence != SEEK_DATA && in->whence != SEEK_HOLE) || in->offset > INT64_MAX)
        return -EINVAL;
    f = fs_file_get(c->fs, in->fh, false);
    if (!f)
        return fs_file_missing(c->fs, in->fh);
    at = lseek(f->fd, (off_t)in->offset, (int)in->whence);
    err = at < 0 ? -errno : 0;
    fs_file_put(c->fs, f);
    if (err)
        return err;
    *out = (struct fuse_lseek_out){ .offset = (uint64_t)at };
    c->out_bytes = sizeof(*out);
    return 0;
}

int fs_fallocate(struct fs_call *c)
{
    const struct fuse_fallocate_in *in = (const void *)c->args;
    const uint32_t known = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE;
    struct fs_file *f;
    int err;

    if (in->mode & ~known)
        return -EOPNOTSUPP;
    if (!in_file(in->offset, in->length))
        return -EFBIG;
    f = fs_file_get(c->fs, in->fh, false);
    if (!f)
        return fs_file_missing(c->fs, in->fh);
    err = fallocate(f->fd, (int)in->mode, (off_t)in->offset, (off_t)in->length) < 0 ? -errno : 0;
    fs_file_put(c->fs, f);
    return err;
}

int fs_copy_file_range(struct fs_call *c)
{
    const struct fuse_copy_file_range_in *in = (const void *)c->args;
    struct fuse_write_out *out = (void *)c->out;
    uint64_t bytes = MIN(in->len, COPY_MAX);
    off_t from = (off_t)in->off_in, to = (off_t)in->off_out;
    struct fs_file *src, *dst;
    ssize_t done;
    int err = 0;

    if (in->flags || !in_file(in->off_in, bytes) || !in_file(in->off_out, bytes))
        return -EINVAL;
    src = fs_file_get(c->fs, in->fh_in, false);
    dst = fs_file_get(c->fs, in->fh_out, false);
    done = src && dst ? copy_file_range(src->fd, &from, dst->fd, &to, bytes, 0) : 0;
    if (!src || !dst)
        err = fs_file_missing(c->fs, src ? in->fh_out : in->fh_in);
    else if (done < 0)
        err = -errno;
    fs_file_put(c->fs, dst);
    fs_file_put(c->fs, src);
    if (err)
        return err;
    *out = (struct fuse_write_out){ .size = (uint32_t)done };
    c->out_bytes = sizeof(*out);
    return 0;
}
