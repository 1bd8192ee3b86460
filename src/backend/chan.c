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
#include <sys/socket.h>
#include <unistd.h>

#include "backend/visitor.h"
#include "lib/log.h"

#define WRITE_BYTES 4096 /* at once: what a pipe that polls writable takes without blocking */
#define RETRY_MS    500

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
    bool no_fds;   /* accept() failed: the listener is left alone for a while */

    struct lock lock; /* LOCK_LEAF: guards what follows */
    struct visitor visitor;
    struct byte_ring out; /* only the thread takes from it */
    uint64_t nr_dropped;
    bool out_failed;
    bool offer;      /* the device may have room again */
    bool wants_room; /* chr_offer() took less than all */
    bool changed;    /* to be told the device */
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

/* How much can be written and not be lost. */
static size_t chan_room(const struct chan *ch)
{
    size_t room = SIZE_MAX;

    assert_held(&ch->lock);
    if (ch->cfg.out_fd >= 0 && !ch->out_failed)
        room = ring_room(&ch->out);
    if (ch->visitor.here)
        room = MIN(room, ring_room(&ch->visitor.news));
    return room;
}

/* Returns whether this is the first that is lost. */
static bool chan_put(struct chan *ch, const uint8_t *buf, size_t bytes)
{
    bool out = ch->cfg.out_fd >= 0 && !ch->out_failed;
    size_t nr = out ? MIN(bytes, ring_room(&ch->out)) : 0, lost = 0;

    assert_held(&ch->lock);
    if (out)
        ring_put(&ch->out, buf, nr);
    if (out || ch->out_failed)
        lost = bytes - nr;
    if (ch->visitor.here && bytes > ring_room(&ch->visitor.news))
        lost += bytes - ring_room(&ch->visitor.news);
    if (ch->cfg.visited && (ch->visitor.here || ch->cfg.keep == CHR_KEEP_LAST))
        ring_put_last(&ch->visitor.news, buf, bytes);
    ch->nr_dropped += lost;
    return lost && ch->nr_dropped == lost && !ch->out_failed;
}

static bool chan_has_output(const struct chan *ch)
{
    return ch->out.nr || (ch->visitor.here && ch->visitor.news.nr);
}

static void chan_write(struct chr *c, const uint8_t *buf, size_t bytes)
{
    struct chan *ch = container_of(c, struct chan, chr);
    bool was, first_drop, has;

    lock_take(&ch->lock);
    was = chan_has_output(ch);
    first_drop = chan_put(ch, buf, bytes);
    has = chan_has_output(ch);
    lock_drop(&ch->lock);
    if (first_drop)
        log_warn("%s: %s; output beyond %u KiB is dropped", ch->cfg.name, ch->cfg.slow,
                 (ch->cfg.out_fd >= 0 ? CHAN_OUT_BYTES : VISITOR_BYTES) >> 10);
    if (!was && has)
        chan_wake(ch);
}

static size_t chan_offer_out(struct chr *c, const uint8_t *buf, size_t bytes)
{
    struct chan *ch = container_of(c, struct chan, chr);
    bool was, has;
    size_t nr;

    lock_take(&ch->lock);
    was = chan_has_output(ch);
    nr = MIN(bytes, chan_room(ch));
    (void)chan_put(ch, buf, nr);
    ch->wants_room |= nr < bytes;
    has = chan_has_output(ch);
    lock_drop(&ch->lock);
    if (!was && has)
        chan_wake(ch);
    return nr;
}

static bool chan_attended(struct chr *c)
{
    struct chan *ch = container_of(c, struct chan, chr);
    bool here;

    lock_take(&ch->lock);
    here = !ch->cfg.needs_visitor || ch->visitor.here;
    lock_drop(&ch->lock);
    return here;
}

static void chan_again(struct chr *c)
{
    struct chan *ch = container_of(c, struct chan, chr);

    lock_take(&ch->lock);
    ch->changed = true;
    lock_drop(&ch->lock);
    chan_wake(ch);
}

static int chan_visit(struct chr *c, int fd, const char *hello)
{
    struct chan *ch = container_of(c, struct chan, chr);
    int err;

    if (!ch->cfg.visited)
        return -EOPNOTSUPP;
    lock_take(&ch->lock);
    err = visitor_enter(&ch->visitor, fd, hello);
    ch->changed |= !err;
    lock_drop(&ch->lock);
    if (!err)
        chan_wake(ch);
    return err;
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

static void chan_tell_change(struct chan *ch)
{
    struct chr *c = &ch->chr;
    bool tell;

    lock_take(&ch->lock);
    if (ch->wants_room && chan_room(ch)) {
        ch->wants_room = false;
        ch->changed = true;
    }
    tell = ch->changed;
    ch->changed = false;
    lock_drop(&ch->lock);
    if (!tell)
        return;
    lock_take(&c->conn);
    if (c->changed) {
        lock_take(c->lock);
        c->changed(c->rx_arg);
        lock_drop(c->lock);
    }
    lock_drop(&c->conn);
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

/* ---- the thread: the visitor ---- */

static void chan_visitor_gone(struct chan *ch)
{
    lock_take(&ch->lock);
    visitor_leave(&ch->visitor, ch->cfg.keep);
    ch->changed = true;
    lock_drop(&ch->lock);
}

static void chan_welcome(struct chan *ch)
{
    int fd;

    /* One that has left makes way, though the device has not taken all it said. The new one is let
     * in when the device knows. */
    if (ch->visitor.left) {
        chan_visitor_gone(ch);
        return;
    }
    fd = accept4(ch->cfg.listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    ch->no_fds = fd < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED;
    if (fd >= 0 && chan_visit(&ch->chr, fd, NULL) < 0)
        (void)close(fd);
}

static void chan_visitor_read(struct chan *ch)
{
    size_t room = CHAN_IN_BYTES - ch->nr_in;
    ssize_t got;

    if (!room)
        return;
    got = recv(ch->visitor.fd, ch->in + ch->nr_in, room, 0);
    if (got < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (got <= 0) {
        ch->visitor.in_ended = true;
        return;
    }
    ch->nr_in += (size_t)got;
    chan_accept(&ch->chr);
}

static struct pollfd chan_visitor_poll(const struct chan *ch)
{
    const struct visitor *v = &ch->visitor;
    struct pollfd p = { .fd = v->fd };

    assert_held(&ch->lock);
    if (!v->in_ended && ch->nr_in < CHAN_IN_BYTES)
        p.events |= POLLIN;
    if (v->news.nr)
        p.events |= POLLOUT;
    /* A hang-up is told again and again: not before there is room for what is left. */
    if (v->left && ch->nr_in == CHAN_IN_BYTES)
        p.fd = -1;
    return p;
}

static void chan_visitor_work(struct chan *ch, short revents)
{
    bool lost = revents & POLLERR;

    if (ch->visitor.fd < 0 || !revents)
        return;
    if (!ch->visitor.in_ended && (revents & (POLLIN | POLLHUP)))
        chan_visitor_read(ch);
    ch->visitor.left = revents & POLLHUP;
    lock_take(&ch->lock);
    if ((revents & POLLOUT) && !ch->visitor.left)
        lost |= !visitor_send(&ch->visitor);
    lock_drop(&ch->lock);
    if (lost || (ch->visitor.left && ch->visitor.in_ended))
        chan_visitor_gone(ch);
}

/* ---- the thread: output ---- */

static void chan_output_failed(struct chan *ch, int err)
{
    lock_take(&ch->lock);
    ch->out_failed = true;
    ch->nr_dropped += ch->out.nr;
    ring_drop(&ch->out, ch->out.nr);
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
    const uint8_t *piece;
    size_t nr;
    ssize_t done;

    lock_take(&ch->lock);
    nr = MIN(ring_piece(&ch->out, &piece), WRITE_BYTES);
    lock_drop(&ch->lock);
    if (!nr)
        return;
    /* Without the lock: writers only append behind these bytes. */
    done = write(ch->cfg.out_fd, piece, nr);
    if (done < 0) {
        if (errno != EINTR && errno != EAGAIN)
            chan_output_failed(ch, errno);
        return;
    }
    lock_take(&ch->lock);
    ring_drop(&ch->out, (size_t)done);
    lock_drop(&ch->lock);
}

/* What the guest wrote last must not be lost if anybody reads it. After the thread's end. */
static void chan_drain(struct chan *ch)
{
    struct pollfd p = { .fd = ch->cfg.out_fd, .events = POLLOUT };

    while (ch->out.nr && !ch->out_failed) {
        int n = poll(&p, 1, ch->cfg.drain_ms);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            ch->nr_dropped += ch->out.nr;
            ring_drop(&ch->out, ch->out.nr);
            break;
        }
        chan_flush(ch);
    }
    if (ch->nr_dropped && !ch->out_failed)
        log_warn("%s: %llu bytes of output were dropped", ch->cfg.name,
                 (unsigned long long)ch->nr_dropped);
    ch->nr_dropped = 0;
}

static void chan_drain_visitor(struct chan *ch)
{
    struct pollfd p = { .events = POLLOUT };
    bool reached = true;

    lock_take(&ch->lock);
    visitor_meet(&ch->visitor);
    p.fd = ch->visitor.fd;
    while (ch->visitor.fd >= 0 && reached && ch->visitor.news.nr &&
           poll(&p, 1, ch->cfg.drain_ms) > 0)
        reached = visitor_send(&ch->visitor);
    lock_drop(&ch->lock);
}

enum { P_WAKE, P_IN, P_OUT, P_LISTEN, P_VISITOR, NR_POLLED };

static void chan_poll(struct chan *ch, struct pollfd p[NR_POLLED])
{
    bool room = ch->nr_in < CHAN_IN_BYTES || ch->cfg.in_is_tty;
    int wait_ms = ch->in_retry || ch->no_fds ? RETRY_MS : -1;

    for (unsigned i = 0; i < NR_POLLED; i++)
        p[i] = (struct pollfd){ .fd = -1, .events = POLLIN };
    p[P_WAKE].fd = ch->wake_fd;
    if (!ch->in_ended && !ch->in_retry && room)
        p[P_IN].fd = ch->cfg.in_fd;
    if (ch->cfg.listener && !ch->no_fds)
        p[P_LISTEN].fd = ch->cfg.listener->fd;
    lock_take(&ch->lock);
    if (ch->out.nr)
        p[P_OUT] = (struct pollfd){ .fd = ch->cfg.out_fd, .events = POLLOUT };
    visitor_meet(&ch->visitor);
    p[P_VISITOR] = chan_visitor_poll(ch);
    lock_drop(&ch->lock);
    if (poll(p, NR_POLLED, wait_ms) == 0)
        ch->in_retry = ch->no_fds = false;
}

/* Returns false at the end. */
static bool chan_round(struct chan *ch)
{
    struct pollfd p[NR_POLLED];
    uint64_t count;
    bool quit;

    chan_poll(ch, p);
    if (p[P_WAKE].revents && read(ch->wake_fd, &count, sizeof(count)) < 0)
        return true;
    if (p[P_OUT].revents)
        chan_flush(ch);
    if (p[P_IN].revents)
        chan_read(ch);
    chan_visitor_work(ch, p[P_VISITOR].revents);
    chan_offer(ch);
    chan_tell_change(ch);
    if (p[P_LISTEN].revents)
        chan_welcome(ch);
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
    visitor_fini(&ch->visitor);
    free(ch->out.p);
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
    chan_drain_visitor(ch);
}

static void chan_close(struct chr *c)
{
    chan_flush_all(c);
    chan_free(container_of(c, struct chan, chr));
}

static const struct chr_ops chan_ops = {
    .write = chan_write,
    .accept = chan_accept,
    .offer = chan_offer_out,
    .attended = chan_attended,
    .again = chan_again,
    .visit = chan_visit,
    .flush = chan_flush_all,
    .close = chan_close,
};

void *chan_arg(struct chr *c)
{
    return container_of(c, struct chan, chr)->cfg.arg;
}

static int chan_make_rings(struct chan *ch)
{
    ch->visitor.fd = ch->visitor.next_fd = -1;
    if (ch->cfg.out_fd >= 0) {
        ch->out = (struct byte_ring){ .p = malloc(CHAN_OUT_BYTES), .size = CHAN_OUT_BYTES };
        if (!ch->out.p)
            return -ENOMEM;
    }
    return ch->cfg.visited ? visitor_init(&ch->visitor) : 0;
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
    ch->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    err = ch->wake_fd < 0 ? -errno : chan_make_rings(ch);
    if (!err)
        err = thread_start_as(&ch->thread, HOST_CHAN, cfg->name, chan_main, ch);
    if (err) {
        log_error("%s: cannot start: %s", cfg->name, strerror(-err));
        chan_free(ch);
        return NULL;
    }
    return &ch->chr;
}
