/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A raw disk image with a thread that does one request after the other: enough for an IDE drive,
 * which has one command at a time.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/fs.h>

#include "backend/backend.h"
#include "lib/log.h"

struct raw_disk {
    struct disk disk;
    int fd;
    char *path;
    struct thread thread;
    struct lock lock; /* guards what follows */
    struct cond changed;
    struct disk_req *first, **last;
    bool busy; /* the thread has taken one */
    bool quit;
};

/* ---- doing it ---- */

static int raw_rw(const struct raw_disk *rd, const struct disk_req *r)
{
    for (size_t done = 0; done < r->bytes;) {
        char *buf = (char *)r->buf + done;
        off_t at = (off_t)(r->at_bytes + done);
        ssize_t n = r->op == DISK_READ ? pread(rd->fd, buf, r->bytes - done, at)
                                       : pwrite(rd->fd, buf, r->bytes - done, at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0) /* somebody has cut the file */
            return -EIO;
        done += (size_t)n;
    }
    return 0;
}

static int raw_do(const struct raw_disk *rd, const struct disk_req *r)
{
    int err;

    if (r->op == DISK_FLUSH)
        err = fdatasync(rd->fd) < 0 ? -errno : 0;
    else
        err = raw_rw(rd, r);
    if (err)
        log_error("disk '%s': %s of %zu bytes at %llu: %s", rd->path,
                  r->op == DISK_READ    ? "read"
                  : r->op == DISK_WRITE ? "write"
                                        : "flush",
                  r->bytes, (unsigned long long)r->at_bytes, strerror(-err));
    return err;
}

static void *raw_thread(void *arg)
{
    struct raw_disk *rd = arg;
    struct disk_req *r;

    lock_take(&rd->lock);
    for (;;) {
        while (!rd->first && !rd->quit)
            cond_wait(&rd->changed, &rd->lock);
        r = rd->first;
        if (!r)
            break;
        rd->first = r->next;
        if (!rd->first)
            rd->last = &rd->first;
        rd->busy = true;
        lock_drop(&rd->lock);
        r->done(r, raw_do(rd, r));
        lock_take(&rd->lock);
        rd->busy = false;
        cond_wake_all(&rd->changed);
    }
    lock_drop(&rd->lock);
    return NULL;
}

static void raw_submit(struct disk *d, struct disk_req *r)
{
    struct raw_disk *rd = container_of(d, struct raw_disk, disk);

    lock_take(&rd->lock);
    r->next = NULL;
    *rd->last = r;
    rd->last = &r->next;
    cond_wake_all(&rd->changed);
    lock_drop(&rd->lock);
}

static void raw_drain(struct disk *d)
{
    struct raw_disk *rd = container_of(d, struct raw_disk, disk);

    lock_take(&rd->lock);
    while (rd->first || rd->busy)
        cond_wait(&rd->changed, &rd->lock);
    lock_drop(&rd->lock);
}

/* ---- opening ---- */

/* Regular files and block devices have a size; nothing else is a disk. */
static int raw_size(const struct raw_disk *rd, uint64_t *bytes)
{
    struct stat st;

    if (fstat(rd->fd, &st) < 0)
        return -errno;
    if (S_ISREG(st.st_mode))
        *bytes = (uint64_t)st.st_size;
    else if (!S_ISBLK(st.st_mode))
        return S_ISDIR(st.st_mode) ? -EISDIR : -ENOTBLK;
    else if (ioctl(rd->fd, BLKGETSIZE64, bytes) < 0)
        return -errno;
    return 0;
}

/* Of the open file, so that it goes with it, however the process ends. */
static int raw_lock(const struct raw_disk *rd)
{
    struct flock fl = { .l_type = rd->disk.read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };

    return fcntl(rd->fd, F_OFD_SETLK, &fl) < 0 ? -errno : 0;
}

static int raw_open(struct raw_disk *rd)
{
    int err;

    rd->fd = open(rd->path, (rd->disk.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    if (rd->fd < 0) {
        err = -errno;
        log_error("disk: cannot open '%s': %s", rd->path, strerror(-err));
        return err;
    }
    err = raw_lock(rd);
    if (err) {
        log_error("disk '%s' is in use by another program%s", rd->path,
                  err == -EAGAIN || err == -EACCES ? "" : strerror(-err));
        return err;
    }
    err = raw_size(rd, &rd->disk.bytes);
    if (err)
        log_error("disk '%s' is no image: %s", rd->path, strerror(-err));
    return err;
}

static void raw_free(struct raw_disk *rd)
{
    if (rd->fd >= 0)
        (void)close(rd->fd); /* what had to be kept was flushed */
    cond_destroy(&rd->changed);
    lock_destroy(&rd->lock);
    free(rd->path);
    free(rd);
}

static void raw_close(struct disk *d)
{
    struct raw_disk *rd = container_of(d, struct raw_disk, disk);

    lock_take(&rd->lock);
    rd->quit = true;
    cond_wake_all(&rd->changed);
    lock_drop(&rd->lock);
    thread_join(&rd->thread);
    raw_free(rd);
}

static const struct disk_ops raw_ops = {
    .submit = raw_submit,
    .drain = raw_drain,
    .close = raw_close,
};

struct disk *disk_open_raw(const char *path, unsigned flags)
{
    struct raw_disk *rd = calloc(1, sizeof(*rd));
    int err;

    if (!rd || !(rd->path = strdup(path))) {
        free(rd);
        log_error("out of memory for disk '%s'", path);
        return NULL;
    }
    rd->disk = (struct disk){ .ops = &raw_ops, .read_only = flags & DISK_RO };
    rd->last = &rd->first;
    lock_init(&rd->lock, LOCK_LEAF);
    cond_init(&rd->changed);
    if (raw_open(rd) < 0) {
        raw_free(rd);
        return NULL;
    }
    err = thread_start(&rd->thread, "disk", raw_thread, rd);
    if (err) {
        log_error("disk '%s': cannot start its thread: %s", path, strerror(-err));
        raw_free(rd);
        return NULL;
    }
    return &rd->disk;
}
