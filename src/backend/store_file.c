/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raw images: a file or a block device, opened, locked and measured. The host's page cache is the
 * disk's write cache, which a flush empties. Requests run in the background by store_uring.c or
 * store_pool.c; what they do here and now is in store_sync.c.
 *
 * Opening a path and asking whether it is in use is for qcow2 images, too.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/store_impl.h"

/*
 * Bytes that QEMU locks, all with read locks: byte USED + i says that somebody uses permission i,
 * byte DENIED + i that somebody relies on nobody having it. Who wants a permission, or relies on
 * its absence, looks for locks on the other byte.
 */
#define QEMU_USED   100
#define QEMU_DENIED 200
enum { QEMU_READ = 0, QEMU_WRITE = 1, QEMU_RESIZE = 3 };

int store_open_path(struct store *d)
{
    const char *name = d->cfg.name, *path = d->cfg.path;
    bool readonly = d->cfg.readonly || d->cfg.snapshot;
    struct stat st;
    int err;

    d->fd = open(path, (readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK);
    if (d->fd < 0 && errno != EISDIR) {
        err = -errno;
        log_error("%s: cannot open '%s': %s%s", name, path, strerror(errno),
                  errno == ENOENT ? " (`truncate -s 10G FILE` makes an empty raw disk, `qemu-img "
                                    "create -f qcow2 FILE 10G` a qcow2 one)"
                  : !readonly && (errno == EACCES || errno == EROFS || errno == EPERM)
                      ? " (readonly opens it read-only)"
                      : "");
        return err;
    }
    if (d->fd < 0 || fstat(d->fd, &st) < 0 || !(S_ISREG(st.st_mode) || S_ISBLK(st.st_mode))) {
        log_error("%s: '%s' is neither a file nor a block device", name, path);
        return -EINVAL;
    }
    d->is_device = S_ISBLK(st.st_mode);
    /* That was for FIFOs; io_uring would take it for a wish to fail instead of waiting. */
    (void)fcntl(d->fd, F_SETFL, fcntl(d->fd, F_GETFL) & ~O_NONBLOCK);
    return 0;
}

/* ---- locks ---- */

static bool locked_at(const struct store *d, off_t at, off_t bytes)
{
    struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = bytes };

    return fcntl(d->fd, F_OFD_GETLK, &fl) == 0 && fl.l_type != F_UNLCK;
}

bool store_in_use(const struct store *d)
{
    if (!d->cfg.readonly && !d->cfg.snapshot)
        return locked_at(d, 0, 0);
    return locked_at(d, QEMU_USED + QEMU_WRITE, 1) || locked_at(d, QEMU_USED + QEMU_RESIZE, 1);
}

int store_say_in_use(const struct store *d)
{
    log_error("%s: '%s' is in use by another process%s", d->cfg.name, d->what,
              d->cfg.readonly || d->cfg.snapshot ? ", which may write to it"
                                                 : "; with readonly several can share it");
    return -EBUSY;
}

static int lock_at(const struct store *d, short type, off_t at, off_t bytes)
{
    struct flock fl = { .l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = bytes };

    return fcntl(d->fd, F_OFD_SETLK, &fl) < 0 ? -errno : 0;
}

/*
 * One writer or many readers: open file description locks, which end with the process however it
 * ends (fcntl(2)). A writer locks the whole file; a reader the bytes that a QEMU that reads would.
 */
static int file_lock(const struct store *d)
{
    int err;

    if (!d->cfg.readonly) {
        err = lock_at(d, F_WRLCK, 0, 0);
    } else {
        err = lock_at(d, F_RDLCK, QEMU_USED + QEMU_READ, 1);
        if (!err)
            err = lock_at(d, F_RDLCK, QEMU_DENIED + QEMU_WRITE, QEMU_RESIZE - QEMU_WRITE + 1);
        if (!err && store_in_use(d))
            err = -EAGAIN;
    }
    if (!err)
        return 0;
    if (err == -EAGAIN || err == -EACCES)
        return store_say_in_use(d);
    /* Some file systems have no locks. */
    log_warn("%s: '%s' cannot be locked (%s): nothing keeps a second user away", d->cfg.name,
             d->what, strerror(-err));
    return 0;
}

/* ---- the kind ---- */

int store_measure(const struct store *d, uint64_t *bytes)
{
    struct stat st;

    if (d->is_device)
        return ioctl(d->fd, BLKGETSIZE64, bytes) < 0 ? -errno : 0;
    if (fstat(d->fd, &st) < 0)
        return -errno;
    *bytes = (uint64_t)st.st_size;
    return 0;
}

static int file_open(struct store *d)
{
    uint64_t bytes = 0;
    int err = file_lock(d);

    if (err)
        return err;
    err = store_measure(d, &bytes);
    if (err) {
        log_error("%s: '%s': cannot tell its size: %s", d->cfg.name, d->what, strerror(-err));
        return err;
    }
    return store_set_bytes(d, bytes);
}

static void file_close(struct store *d)
{
    /* A clean end is more than a power cut: what the guest wrote is on the disk. */
    if (!d->cfg.readonly && fdatasync(d->fd) < 0)
        log_error("%s: '%s': cannot flush: %s", d->cfg.name, d->what, strerror(errno));
}

static int file_resize(struct store *d, uint64_t bytes)
{
    uint64_t now = 0;
    int err;

    if (bytes && !d->is_device && ftruncate(d->fd, (off_t)bytes) < 0) {
        err = -errno;
        log_error("%s: '%s' cannot have %llu bytes: %s", d->cfg.name, d->what,
                  (unsigned long long)bytes, strerror(errno));
        return err;
    }
    err = store_measure(d, &now);
    if (err)
        return err;
    if (now < store_bytes(d)) {
        log_error("%s: '%s' has become smaller, only %llu bytes", d->cfg.name, d->what,
                  (unsigned long long)now);
        return -EINVAL;
    }
    return store_set_bytes(d, now);
}

const struct store_kind store_file = {
    .open = file_open,
    .close = file_close,
    .resize = file_resize,
};
