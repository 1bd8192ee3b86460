/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disk images: opening and locking them, and the thread that serves one: see store.h. The host's
 * page cache is the disk's write cache, which a flush empties. How requests run in the background
 * is in store_uring.c and store_pool.c, what they do here and now in store_sync.c.
 */
#include "backend/store.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/store_impl.h"

#define RETRY_NS 500000000ull /* between two looks whether there is room again */

static const char *const op_names[NR_STORE_OPS] = { "read", "write", "flush", "discard",
                                                    "write of zeroes" };

/* ---- opening ---- */

/*
 * One writer or many readers: open file description locks on the whole file, which also keep out
 * QEMU (it locks single bytes) and end with the process however it ends (fcntl(2)).
 */
static int store_lock(const struct store *d)
{
    struct flock fl = { .l_type = d->cfg.readonly ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };

    if (fcntl(d->fd, F_OFD_SETLK, &fl) == 0)
        return 0;
    if (errno == EAGAIN || errno == EACCES) {
        log_error("%s: '%s' is in use by another process%s", d->cfg.name, d->cfg.path,
                  d->cfg.readonly ? ", which may write to it"
                                  : "; with readonly several can share it");
        return -EBUSY;
    }
    /* Some file systems have no locks. */
    log_warn("%s: '%s' cannot be locked (%s): nothing keeps a second user away", d->cfg.name,
             d->cfg.path, strerror(errno));
    return 0;
}

static int store_measure(const struct store *d, uint64_t *bytes)
{
    struct stat st;

    if (d->is_device)
        return ioctl(d->fd, BLKGETSIZE64, bytes) < 0 ? -errno : 0;
    if (fstat(d->fd, &st) < 0)
        return -errno;
    *bytes = (uint64_t)st.st_size;
    return 0;
}

static int store_open_image(struct store *d)
{
    const char *name = d->cfg.name, *path = d->cfg.path;
    uint64_t bytes = 0;
    struct stat st;
    int err;

    d->fd = open(path, (d->cfg.readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK);
    if (d->fd < 0) {
        err = -errno;
        log_error("%s: cannot open '%s': %s%s", name, path, strerror(errno),
                  !d->cfg.readonly && (errno == EACCES || errno == EROFS || errno == EPERM)
                      ? " (readonly opens it read-only)"
                      : "");
        return err;
    }
    if (fstat(d->fd, &st) < 0 || !(S_ISREG(st.st_mode) || S_ISBLK(st.st_mode))) {
        log_error("%s: '%s' is neither a file nor a block device", name, path);
        return -EINVAL;
    }
    d->is_device = S_ISBLK(st.st_mode);
    /* That was for FIFOs; io_uring would take it for a wish to fail instead of waiting. */
    (void)fcntl(d->fd, F_SETFL, fcntl(d->fd, F_GETFL) & ~O_NONBLOCK);
    err = store_lock(d);
    if (!err)
        err = store_measure(d, &bytes);
    if (err)
        return err;
    if (bytes < STORE_SECTOR_BYTES) {
        log_error("%s: '%s' has %llu bytes, a disk has at least a sector of 512", name, path,
                  (unsigned long long)bytes);
        return -EINVAL;
    }
    if (bytes % STORE_SECTOR_BYTES)
        log_warn("%s: '%s' has %llu bytes: the last %llu, no whole sector, are not used", name,
                 path, (unsigned long long)bytes, (unsigned long long)bytes % STORE_SECTOR_BYTES);
    atomic_store(&d->bytes, align_down(bytes, STORE_SECTOR_BYTES));
    return 0;
}

struct store *store_open(const struct store_config *cfg)
{
    struct store *d = calloc(1, sizeof(*d));

    if (!d) {
        log_error("%s: out of memory", cfg->name);
        return NULL;
    }
    d->cfg = *cfg;
    d->fd = d->wake_fd = -1;
    if (store_open_image(d) < 0) {
        store_close(d);
        return NULL;
    }
    return d;
}

void store_close(struct store *d)
{
    if (!d)
        return;
    store_disconnect(d);
    if (d->fd >= 0) {
        /* A clean end is more than a power cut: what the guest wrote is on the disk. */
        if (!d->cfg.readonly && fdatasync(d->fd) < 0)
            log_error("%s: '%s': cannot flush: %s", d->cfg.name, d->cfg.path, strerror(errno));
        (void)close(d->fd);
    }
    free(d);
}

const char *store_name(const struct store *d)
{
    return d->cfg.name;
}

bool store_readonly(const struct store *d)
{
    return d->cfg.readonly;
}

uint64_t store_bytes(struct store *d)
{
    return atomic_load(&d->bytes);
}

int store_resize(struct store *d, uint64_t bytes)
{
    uint64_t now;
    int err;

    if (bytes && !d->is_device) {
        if (bytes < store_bytes(d)) {
            log_error("%s: '%s' has %llu bytes; a disk that is in use cannot become smaller",
                      d->cfg.name, d->cfg.path, (unsigned long long)store_bytes(d));
            return -EINVAL;
        }
        if (ftruncate(d->fd, (off_t)align_down(bytes, STORE_SECTOR_BYTES)) < 0) {
            err = -errno;
            log_error("%s: '%s' cannot have %llu bytes: %s", d->cfg.name, d->cfg.path,
                      (unsigned long long)bytes, strerror(errno));
            return err;
        }
    }
    err = store_measure(d, &now);
    if (err)
        return err;
    if (now < store_bytes(d)) {
        log_error("%s: '%s' has become smaller, only %llu bytes", d->cfg.name, d->cfg.path,
                  (unsigned long long)now);
        return -EINVAL;
    }
    atomic_store(&d->bytes, align_down(now, STORE_SECTOR_BYTES));
    return 0;
}

/* ---- requests ---- */

static void store_wake(struct store *d)
{
    uint64_t one = 1;

    /* Fails only if the counter is full, and then the thread wakes up anyway. */
    if (write(d->wake_fd, &one, sizeof(one)) < 0)
        return;
}

void store_drain_fd(int fd)
{
    uint64_t count;

    if (read(fd, &count, sizeof(count)) < 0)
        return; /* it was empty */
}

void store_kick(struct store *d)
{
    /* Pairs with the exchange in store_main(): what was there before the kick is seen by the poll
     * after it. */
    if (!atomic_exchange(&d->kicked, true))
        store_wake(d);
}

void store_give_up(struct store *d, bool on)
{
    atomic_store(&d->give_up, on);
    store_kick(d);
}

static void store_end(struct store *d, struct store_req *r, int error)
{
    if (error && log_first(&d->seen, (uint64_t)r->op << 32 | (uint32_t)-error))
        log_warn("%s: '%s': %s of %llu bytes at %llu failed: %s; the guest is told (further "
                 "failures of this kind are not shown)",
                 d->cfg.name, d->cfg.path, op_names[r->op], (unsigned long long)r->bytes,
                 (unsigned long long)r->off_bytes, strerror(-error));
    r->error = error;
    d->nr_done++;
    d->client.done(d->client.arg, r);
}

/* Kept until there is room. */
static void store_stall(struct store *d, struct store_req *r, int error)
{
    if (atomic_load(&d->give_up)) {
        store_end(d, r, error);
        return;
    }
    r->next = d->stalled;
    d->stalled = r;
    if (d->held)
        return;
    d->held = true;
    d->retry_ns = host_mono_ns() + RETRY_NS;
    log_error("%s: no room for '%s' on its file system (%s): the guest stands still until there is "
              "room; nothing is lost",
              d->cfg.name, d->cfg.path, strerror(-error));
    d->client.held(d->client.arg, true);
}

static void store_ended(struct store *d, struct store_req *r, int error)
{
    if (error == -ENOSPC || error == -EDQUOT)
        store_stall(d, r, error);
    else
        store_end(d, r, error);
}

void store_done(struct store *d, struct store_req *r, int64_t result)
{
    bool moves = r->op == STORE_READ || r->op == STORE_WRITE;

    d->nr_started--;
    /* Part of it, or a way that this file system does not have: the rest step by step. */
    if (result == -EOPNOTSUPP || result == -EINTR || result == -EAGAIN) {
        store_ended(d, r, store_do(d, r));
    } else if (result < 0) {
        store_ended(d, r, (int)result);
    } else if (moves && (uint64_t)result < r->bytes - r->done_bytes) {
        r->done_bytes += (uint64_t)result;
        store_ended(d, r, store_do(d, r));
    } else {
        store_ended(d, r, 0);
    }
}

void store_submit(struct store *d, struct store_req *r)
{
    r->done_bytes = 0;
    r->error = 0;
    d->nr_started++;
    d->engine->start(d, r);
}

/* ---- the thread ---- */

/* All that had no room, once more. */
static void store_retry(struct store *d)
{
    struct store_req *r = d->stalled, *next;
    bool give_up = atomic_load(&d->give_up);

    d->stalled = NULL;
    for (; r; r = next) {
        next = r->next;
        store_ended(d, r, give_up ? -ENOSPC : store_do(d, r));
    }
    d->retry_ns = host_mono_ns() + RETRY_NS;
    if (d->stalled)
        return;
    d->held = false;
    if (!give_up)
        log_info("%s: there is room for '%s' again: the guest goes on", d->cfg.name, d->cfg.path);
    d->client.held(d->client.arg, false);
}

static void *store_main(void *arg)
{
    struct store *d = arg;

    while (!atomic_load(&d->quit)) {
        if (atomic_exchange(&d->kicked, false))
            d->client.poll(d->client.arg);
        if (d->held && (atomic_load(&d->give_up) || host_mono_ns() >= d->retry_ns))
            store_retry(d);
        if (d->nr_done) {
            d->nr_done = 0;
            d->client.batch(d->client.arg);
        }
        if (!atomic_load(&d->kicked))
            d->engine->wait(d, d->held ? d->retry_ns : UINT64_MAX);
    }
    BUG_ON(d->nr_started || d->stalled);
    return NULL;
}

static int store_open_engine(struct store *d)
{
    int err = 0;

    if (d->cfg.aio != STORE_AIO_THREADS) {
        d->engine = &store_uring;
        err = d->engine->open(d);
        if (!err || d->cfg.aio == STORE_AIO_URING)
            return err;
        log_debug("%s: no io_uring here (%s): threads do its requests", d->cfg.name,
                  strerror(-err));
    }
    d->engine = &store_pool;
    return d->engine->open(d);
}

int store_connect(struct store *d, const struct store_client *client)
{
    int err;

    BUG_ON(d->thread.started);
    d->client = *client;
    d->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    err = d->wake_fd < 0 ? -errno : store_open_engine(d);
    if (err) {
        d->engine = NULL;
    } else {
        atomic_store(&d->quit, false);
        err = thread_start(&d->thread, d->cfg.name, store_main, d);
    }
    if (err) {
        log_error("%s: cannot start%s: %s", d->cfg.name,
                  d->cfg.aio == STORE_AIO_URING ? " with io_uring" : "", strerror(-err));
        store_disconnect(d);
    }
    return err;
}

void store_disconnect(struct store *d)
{
    if (d->thread.started) {
        atomic_store(&d->quit, true);
        store_wake(d);
        thread_join(&d->thread);
    }
    if (d->engine)
        d->engine->close(d);
    d->engine = NULL;
    if (d->wake_fd >= 0)
        (void)close(d->wake_fd);
    d->wake_fd = -1;
}
