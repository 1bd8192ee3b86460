/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The thread and the buffers behind a channel: see chan.h.
 *
 * The guest's side never waits: output goes to a ring that the thread empties, and what does not
 * fit is dropped and counted. Input waits in a small buffer until the device has room, and then in
 * the host's pipe or terminal.
 */
#include "backend/chan.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "lib/log.h"

#define WRITE_BYTES  4096 /* at once: what a pipe that polls writable takes without blocking */
#define TTY_RETRY_MS 500

struct chan {
    struct chr chr;
    struct chan_config cfg;
    struct thread thread;
    int wake_fd; /* eventfd: there is output, room for input, or an end */

    /* The thread's own. */
    uint8_t in[CHAN_IN_BYTES];
    size_t nr_in;
    bool in_ended;
    bool in_retry; /* a terminal that we may not read now: we are in the background */

    struct lock lock; /* LOCK_LEAF: guards what follows */
    uint8_t *out;     /* a ring of CHAN_OUT_BYTES; only the thread takes from it */
    size_t out_at, nr_out;
    uint64_t nr_dropped;
    bool out_failed;
    bool offer; /* the device may have room again */
    bool quit;
};

static void chan_wake(struct chan *ch)
{
    uint64_t one = 1;

    /* Fails only if the counter is full, and then the thread wakes up anyway. */
    if (write(ch->wake_fd, &one, sizeof(one)) < 0)
        return;
}

/* ---- the guest's side ---- */

static void chan_put(struct chan *ch, const uint8_t *buf, size_t bytes)
{
    size_t at = (ch->out_at + ch->nr_out) % CHAN_OUT_BYTES;
    size_t first = MIN(bytes, CHAN_OUT_BYTES - at);

    assert_held(&ch->lock);
    memcpy(ch->out + at, buf, first);
    memcpy(ch->out, buf + first, bytes - first);
    ch->nr_out += bytes;
}

static void chan_write(struct chr *c, const uint8_t *buf, size_t bytes)
{
    struct chan *ch = container_of(c, struct chan, chr);
    bool was_empty, first_drop = false;
    size_t nr;

    lock_take(&ch->lock);
    was_empty = !ch->nr_out;
    nr = ch->out_failed ? 0 : MIN(bytes, CHAN_OUT_BYTES - ch->nr_out);
    chan_put(ch, buf, nr);
    if (nr < bytes && !ch->out_failed)
        first_drop = !ch->nr_dropped;
    ch->nr_dropped += bytes - nr;
    lock_drop(&ch->lock);
    if (first_drop)
        log_warn("%s: %s; output beyond %u KiB is dropped", ch->cfg.name, ch->cfg.slow,
                 CHAN_OUT_BYTES >> 10);
    if (was_empty && nr)
        chan_wake(ch);
}

static void chan_accept(struct chr *c)
{
    struct chan *ch = container_of(c, struct chan, chr);
    bool was;

    lock_take(&ch->lock);
    was = ch->offer;
    ch->offer = true;
    lock_drop(&ch->lock);
    if (!was)
        chan_wake(ch);
}

/* ---- the thread: input ---- */

static void chan_offer(struct chan *ch)
{
    struct chr *c = &ch->chr;
    size_t nr = 0;
    bool offer;

    lock_take(&ch->lock);
    offer = ch->offer;
    ch->offer = false;
    lock_drop(&ch->lock);
    if (!offer || !ch->nr_in)
        return;
    lock_take(&c->conn);
    if (c->rx) {
        lock_take(c->lock);
        nr = c->rx(c->rx_arg, ch->in, ch->nr_in);
        lock_drop(c->lock);
    }
    lock_drop(&c->conn);
    BUG_ON(nr > ch->nr_in);
    ch->nr_in -= nr;
    memmove(ch->in, ch->in + nr, ch->nr_in);
}

static void chan_read(struct chan *ch)
{
    uint8_t buf[512];
    size_t room = CHAN_IN_BYTES - ch->nr_in;
    ssize_t got =
        read(ch->cfg.in_fd, buf, ch->cfg.in_is_tty ? sizeof(buf) : MIN(room, sizeof(buf)));
    size_t nr;

    ch->in_retry = false;
    if (got < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (got < 0 && errno == EIO && ch->cfg.in_is_tty) {
        ch->in_retry = true; /* in the background, with SIGTTIN blocked */
        return;
    }
    if (got <= 0) {
        ch->in_ended = true;
        return;
    }
    nr = (size_t)got;
    if (ch->cfg.filter)
        nr = ch->cfg.filter(ch->cfg.arg, buf, nr);
    nr = MIN(nr, room); /* typed ahead of a guest that does not read: lost */
    memcpy(ch->in + ch->nr_in, buf, nr);
    ch->nr_in += nr;
    chan_accept(&ch->chr); /* new input is offered at once */
}

/* ---- the thread: output ---- */

static void chan_output_failed(struct chan *ch, int err)
{
    lock_take(&ch->lock);
    ch->out_failed = true;
    ch->nr_dropped += ch->nr_out;
    ch->nr_out = 0;
    lock_drop(&ch->lock);
    if (ch->cfg.out_counts) {
        /* Relaxed: read after the VM has ended and its threads were joined, or as a hint. */
        __atomic_store_n(&ch->chr.lost_output, true, __ATOMIC_RELAXED);
        log_error("%s: cannot write: %s; the guest goes on, its output is dropped, and the exit "
                  "status will not be 0",
                  ch->cfg.name, strerror(err));
    } else {
        log_warn("%s: cannot write: %s; the guest goes on, its further output is dropped",
                 ch->cfg.name, strerror(err));
    }
}

static void chan_flush(struct chan *ch)
{
    size_t at, nr;
    ssize_t done;

    lock_take(&ch->lock);
    at = ch->out_at;
    nr = MIN(MIN(ch->nr_out, CHAN_OUT_BYTES - at), WRITE_BYTES);
    lock_drop(&ch->lock);
    if (!nr)
        return;
    /* Without the lock: writers only append behind these bytes. */
    done = write(ch->cfg.out_fd, ch->out + at, nr);
    if (done < 0) {
        if (errno != EINTR && errno != EAGAIN)
            chan_output_failed(ch, errno);
        return;
    }
    lock_take(&ch->lock);
    ch->out_at = (at + (size_t)done) % CHAN_OUT_BYTES;
    ch->nr_out -= (size_t)done;
    lock_drop(&ch->lock);
}

/* What the guest wrote last must not be lost if anybody reads it. After the thread's end. */
static void chan_drain(struct chan *ch)
{
    struct pollfd p = { .fd = ch->cfg.out_fd, .events = POLLOUT };

    while (ch->nr_out && !ch->out_failed) {
        int n = poll(&p, 1, ch->cfg.drain_ms);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            ch->nr_dropped += ch->nr_out;
            ch->nr_out = 0;
            break;
        }
        chan_flush(ch);
    }
    if (ch->nr_dropped && !ch->out_failed)
        log_warn("%s: %llu bytes of output were dropped", ch->cfg.name,
                 (unsigned long long)ch->nr_dropped);
    ch->nr_dropped = 0;
}

/* Returns false at the end. */
static bool chan_round(struct chan *ch)
{
    bool room = ch->nr_in < CHAN_IN_BYTES || ch->cfg.in_is_tty;
    struct pollfd p[3] = { { .fd = ch->wake_fd, .events = POLLIN }, { .fd = -1 }, { .fd = -1 } };
    uint64_t count;
    bool quit;

    if (!ch->in_ended && !ch->in_retry && room)
        p[1] = (struct pollfd){ .fd = ch->cfg.in_fd, .events = POLLIN };
    lock_take(&ch->lock);
    if (ch->nr_out)
        p[2] = (struct pollfd){ .fd = ch->cfg.out_fd, .events = POLLOUT };
    lock_drop(&ch->lock);
    if (poll(p, ARRAY_SIZE(p), ch->in_retry ? TTY_RETRY_MS : -1) == 0)
        ch->in_retry = false;
    if (p[0].revents && read(ch->wake_fd, &count, sizeof(count)) < 0)
        return true;
    if (p[2].revents)
        chan_flush(ch);
    if (p[1].revents)
        chan_read(ch);
    chan_offer(ch);
    lock_take(&ch->lock);
    quit = ch->quit;
    lock_drop(&ch->lock);
    return !quit;
}

static void *chan_main(void *arg)
{
    struct chan *ch = arg;

    while (chan_round(ch))
        ;
    return NULL;
}

/* ---- life ---- */

static void chan_free(struct chan *ch)
{
    if (ch->cfg.closed)
        ch->cfg.closed(ch->cfg.arg);
    if (ch->wake_fd >= 0)
        (void)close(ch->wake_fd);
    lock_destroy(&ch->lock);
    chr_fini(&ch->chr);
    free(ch->out);
    free(ch);
}

/* The thread ends; what comes later is written by chan_close(). */
static void chan_flush_all(struct chr *c)
{
    struct chan *ch = container_of(c, struct chan, chr);

    lock_take(&ch->lock);
    ch->quit = true;
    lock_drop(&ch->lock);
    chan_wake(ch);
    thread_join(&ch->thread);
    chan_drain(ch);
}

static void chan_close(struct chr *c)
{
    chan_flush_all(c);
    chan_free(container_of(c, struct chan, chr));
}

static const struct chr_ops chan_ops = {
    .write = chan_write,
    .accept = chan_accept,
    .flush = chan_flush_all,
    .close = chan_close,
};

void *chan_arg(struct chr *c)
{
    return container_of(c, struct chan, chr)->cfg.arg;
}

struct chr *chan_open(const struct chan_config *cfg)
{
    struct chan *ch = calloc(1, sizeof(*ch));
    int err;

    if (!ch) {
        log_error("%s: out of memory", cfg->name);
        if (cfg->closed)
            cfg->closed(cfg->arg);
        return NULL;
    }
    chr_init(&ch->chr, &chan_ops);
    ch->cfg = *cfg;
    ch->in_ended = cfg->in_fd < 0;
    lock_init(&ch->lock, LOCK_LEAF);
    ch->out = malloc(CHAN_OUT_BYTES);
    ch->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    err = !ch->out ? -ENOMEM : ch->wake_fd < 0 ? -errno : 0;
    if (!err)
        err = thread_start(&ch->thread, cfg->name, chan_main, ch);
    if (err) {
        log_error("%s: cannot start: %s", cfg->name, strerror(-err));
        chan_free(ch);
        return NULL;
    }
    return &ch->chr;
}
