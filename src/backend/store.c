/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disk images: the thread that serves one, whatever its kind, and requests that wait for room: see
 * store.h, and store_impl.h for the kinds.
 */
#include "backend/store.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/store_impl.h"
#include "lib/probe.h"

#define NS_PER_MS 1000000ull
#define RETRY_NS  (500 * NS_PER_MS) /* between two looks whether there is room again */

static const char *const op_names[NR_STORE_OPS] = { "read", "write", "flush", "discard",
                                                    "write of zeroes" };

/* ---- life ---- */

int store_set_bytes(struct store *d, uint64_t bytes)
{
    if (bytes < STORE_SECTOR_BYTES && !d->cfg.may_be_empty) {
        log_error("%s: '%s' has %llu bytes, a disk has at least a sector of 512", d->cfg.name,
                  d->what, (unsigned long long)bytes);
        return -EINVAL;
    }
    if (bytes % STORE_SECTOR_BYTES)
        log_warn("%s: '%s' has %llu bytes: the last %llu, no whole sector, are not used",
                 d->cfg.name, d->what, (unsigned long long)bytes,
                 (unsigned long long)bytes % STORE_SECTOR_BYTES);
    atomic_store(&d->bytes, align_down(bytes, STORE_SECTOR_BYTES));
    return 0;
}

/* What the configuration asks for; NULL after a message. */
static const struct store_kind *store_choose_kind(struct store *d)
{
    if (d->cfg.nbd)
        return &store_export;
    if (d->cfg.vhost_user)
        return &store_vhost;
    if (store_open_path(d) < 0 || store_settle_format(d) < 0)
        return NULL;
    return d->cfg.snapshot || d->cfg.format == STORE_FORMAT_QCOW2 ? &store_image : &store_file;
}

struct store *store_open(const struct store_config *cfg)
{
    struct store *d = calloc(1, sizeof(*d));

    if (!d) {
        log_error("%s: out of memory", cfg->name);
        return NULL;
    }
    d->cfg = *cfg;
    d->what = cfg->nbd ? cfg->nbd : cfg->vhost_user ? cfg->vhost_user : cfg->path;
    d->fd = d->wake_fd = -1;
    lock_init(&d->twins_lock, LOCK_LEAF);
    d->kind = store_choose_kind(d);
    d->open = d->kind && d->kind->open(d) == 0;
    if (d->open)
        return d;
    store_close(d);
    return NULL;
}

struct store *store_twin(struct store *d)
{
    struct store *t = d->kind == &store_file ? calloc(1, sizeof(*t)) : NULL;

    BUG_ON(d->of);
    if (!t)
        return NULL;
    t->cfg = d->cfg;
    t->what = d->what;
    t->kind = d->kind;
    t->of = d;
    t->fd = d->fd;
    t->is_device = d->is_device;
    t->wake_fd = -1;
    lock_take(&d->twins_lock);
    t->next_twin = d->twins;
    d->twins = t;
    lock_drop(&d->twins_lock);
    return t;
}

static uint64_t peek(const uint64_t *what)
{
    return __atomic_load_n(what, __ATOMIC_RELAXED);
}

static void counts_add(struct store_counts *to, const struct store_counts *from)
{
    to->reads += peek(&from->reads);
    to->read_bytes += peek(&from->read_bytes);
    to->writes += peek(&from->writes);
    to->written_bytes += peek(&from->written_bytes);
    to->flushes += peek(&from->flushes);
}

static void twin_close(struct store *t)
{
    struct store *d = t->of, **at;

    store_disconnect(t);
    lock_take(&d->twins_lock);
    for (at = &d->twins; *at != t; at = &(*at)->next_twin)
        ;
    *at = t->next_twin;
    counts_add(&d->past, &t->counts);
    lock_drop(&d->twins_lock);
    free(t);
}

void store_close(struct store *d)
{
    if (!d)
        return;
    if (d->of) {
        twin_close(d);
        return;
    }
    BUG_ON(d->twins);
    store_disconnect(d);
    if (d->open)
        d->kind->close(d);
    if (d->fd >= 0)
        (void)close(d->fd);
    lock_destroy(&d->twins_lock);
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

bool store_is_file(const struct store *d, const char *path)
{
    struct stat is, other;

    return d->kind == &store_file && fstat(d->fd, &is) == 0 && stat(path, &other) == 0 &&
           is.st_dev == other.st_dev && is.st_ino == other.st_ino;
}

uint64_t store_bytes(struct store *d)
{
    return atomic_load(&store_first(d)->bytes);
}

int store_resize(struct store *d, uint64_t bytes)
{
    if (bytes && bytes < store_bytes(d)) {
        log_error("%s: '%s' has %llu bytes; a disk that is in use cannot become smaller",
                  d->cfg.name, d->what, (unsigned long long)store_bytes(d));
        return -EINVAL;
    }
    if (bytes && d->cfg.readonly && d->cfg.path) {
        log_error("%s: '%s' is read-only; it takes a new size from its file alone", d->cfg.name,
                  d->what);
        return -EROFS;
    }
    return d->kind->resize(d, align_down(bytes, STORE_SECTOR_BYTES));
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

void store_woken(struct store *d)
{
    store_drain_fd(d->wake_fd);
    /* By whom cannot be told: it may have been a kick by the descriptor. */
    if (atomic_load_explicit(&d->fd_given, memory_order_relaxed))
        atomic_store(&d->kicked, true);
}

int store_kick_fd(struct store *d)
{
    atomic_store_explicit(&d->fd_given, true, memory_order_relaxed);
    return d->wake_fd;
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

bool store_must_give_up(struct store *d, bool out, uint64_t *since_ns, uint64_t *until_ns)
{
    uint64_t now = host_mono_ns();

    if (!out || !atomic_load(&d->give_up)) {
        *since_ns = 0;
        return false;
    }
    if (!*since_ns)
        *since_ns = now;
    if (now - *since_ns >= STORE_GIVE_UP_NS)
        return true;
    *until_ns = MIN(*until_ns, *since_ns + STORE_GIVE_UP_NS);
    return false;
}

static void store_end(struct store *d, struct store_req *r, int error)
{
    if (error && log_first(&store_first(d)->seen, (uint64_t)r->op << 32 | (uint32_t)-error))
        log_warn("%s: '%s': %s of %llu bytes at %llu failed: %s; the guest is told (further "
                 "failures of this kind are not shown)",
                 d->cfg.name, d->what, op_names[r->op], (unsigned long long)r->bytes,
                 (unsigned long long)r->off_bytes, strerror(-error));
    probe(disk_done, d->cfg.name, (int)r->op, r->off_bytes, r->bytes, error);
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
    log_error("%s: no room for %s'%s'%s (%s): the guest stands still until there is room; nothing "
              "is lost",
              d->cfg.name, d->cfg.snapshot ? "what is written over " : "", d->what,
              d->cfg.snapshot ? ""
              : d->cfg.nbd    ? " at its server"
                              : " on its file system",
              strerror(-error));
    d->client.held(d->client.arg, true);
}

static void store_ended(struct store *d, struct store_req *r, int error)
{
    if (r->retried)
        d->nr_retried--;
    r->retried = false;
    if (error == -ENOSPC || error == -EDQUOT)
        store_stall(d, r, error);
    else
        store_end(d, r, error);
}

void store_finish(struct store *d, struct store_req *r, int error)
{
    d->nr_started--;
    store_ended(d, r, error);
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

void store_copy(const struct store_req *r, uint8_t *buf, uint64_t bytes, bool to_guest)
{
    uint64_t skip = r->done_bytes, at = 0;

    for (unsigned i = 0; i < r->nr_iov && at < bytes; i++) {
        uint8_t *mem;
        uint64_t n;

        if (skip >= r->iov[i].bytes) {
            skip -= r->iov[i].bytes;
            continue;
        }
        n = MIN(r->iov[i].bytes - skip, bytes - at);
        mem = (uint8_t *)r->iov[i].base + skip;
        memcpy(to_guest ? mem : buf + at, to_guest ? buf + at : mem, n);
        at += n;
        skip = 0;
    }
}

int store_timeout_ms(uint64_t until_ns)
{
    uint64_t now = host_mono_ns();

    if (until_ns == UINT64_MAX)
        return -1;
    return until_ns > now ? (int)MIN((until_ns - now) / NS_PER_MS + 1, 3600000u) : 0;
}

static void store_start(struct store *d, struct store_req *r)
{
    r->done_bytes = 0;
    r->error = 0;
    d->nr_started++;
    d->engine->start(d, r);
}

static void count(uint64_t *what, uint64_t add)
{
    __atomic_store_n(what, *what + add, __ATOMIC_RELAXED);
}

static void store_count(struct store *d, const struct store_req *r)
{
    struct store_counts *c = &d->counts;

    probe(disk_request, d->cfg.name, (int)r->op, r->off_bytes, r->bytes);
    if (r->op == STORE_READ) {
        count(&c->reads, 1);
        count(&c->read_bytes, r->bytes);
    } else if (r->op == STORE_WRITE) {
        count(&c->writes, 1);
        count(&c->written_bytes, r->bytes);
    } else if (r->op == STORE_FLUSH) {
        count(&c->flushes, 1);
    }
}

struct store_counts store_counts(struct store *d)
{
    struct store_counts sum;

    lock_take(&d->twins_lock);
    sum = d->past;
    counts_add(&sum, &d->counts);
    for (const struct store *t = d->twins; t; t = t->next_twin)
        counts_add(&sum, &t->counts);
    lock_drop(&d->twins_lock);
    return sum;
}

void store_submit(struct store *d, struct store_req *r)
{
    store_count(d, r);
    r->retried = false;
    store_start(d, r);
}

/* ---- the thread ---- */

/* All that had no room, once more. */
static void store_retry(struct store *d)
{
    struct store_req *r = d->stalled, *next;
    bool give_up = atomic_load(&d->give_up);

    d->stalled = NULL;
    d->retry_ns = host_mono_ns() + RETRY_NS;
    for (; r; r = next) {
        next = r->next;
        if (give_up) {
            store_end(d, r, -ENOSPC);
            continue;
        }
        r->retried = true;
        d->nr_retried++;
        store_start(d, r);
    }
}

/* The guest goes on when nothing is left that had no room. */
static void store_unhold(struct store *d)
{
    if (d->stalled || d->nr_retried)
        return;
    d->held = false;
    if (!atomic_load(&d->give_up))
        log_info("%s: there is room for '%s' again: the guest goes on", d->cfg.name, d->what);
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
        if (d->held)
            store_unhold(d);
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

    if (d->nbd || d->vhost) {
        d->engine = d->nbd ? &store_nbd_engine : &store_vhost_engine;
        return d->engine->open(d);
    }
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
        err = thread_start_as(&d->thread, d->child ? HOST_IMAGE : HOST_DISK, d->cfg.name,
                              store_main, d);
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
