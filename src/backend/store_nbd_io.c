/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk's requests by NBD commands, NBD_NR_SLOTS of them out at a time; the others wait. A request
 * is done in pieces of up to max_bytes, one after the other: a piece that lies in one place of the
 * guest's memory goes from and to there, others by the slot's buffer, since libnbd knows no
 * scattered data.
 *
 * A connection that was lost is not made again: a server that fails loses writes that were done but
 * not flushed, and the guest would go on with a disk of another time. It gets errors instead.
 */
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "backend/store_nbd.h"

#define NS_PER_MS         1000000ull
#define SLOW_NS           (30000 * NS_PER_MS)
#define CLEAR_PIECE_BYTES MIB(256)

/* ---- the end of a connection ---- */

/* For nbd_collect(). */
static void nbd_slot_done(struct nbd_slot *s, int error)
{
    s->out = false;
    s->error = error;
    s->next = s->nbd->done;
    s->nbd->done = s;
}

/* Everything that is out ends now, with an error. */
static void nbd_lose(struct store *d, const char *why)
{
    struct store_nbd *n = d->nbd;

    if (n->lost)
        return;
    n->lost = true;
    d->kind->lost(d, why);
    nbd_close(n->h);
    n->h = NULL;
    for (unsigned i = 0; i < NBD_NR_SLOTS; i++)
        if (n->slots[i].out)
            nbd_slot_done(&n->slots[i], EIO);
}

/* ---- pieces ---- */

static int on_complete(void *arg, int *error)
{
    nbd_slot_done(arg, *error); /* no more: libnbd's lock is held */
    return 1;                   /* nobody else asks for it */
}

/* The piece's memory if it is in one place. */
static uint8_t *nbd_in_place(const struct nbd_slot *s)
{
    const struct store_req *r = s->req;
    uint64_t skip = r->done_bytes;

    for (unsigned i = 0; i < r->nr_iov; i++) {
        if (skip < r->iov[i].bytes)
            return r->iov[i].bytes - skip >= s->bytes ? (uint8_t *)r->iov[i].base + skip : NULL;
        skip -= r->iov[i].bytes;
    }
    return NULL;
}

static bool nbd_need_buf(struct nbd_slot *s)
{
    uint8_t *buf;

    if (s->buf_bytes >= s->bytes)
        return true;
    buf = realloc(s->buf, s->bytes);
    if (!buf)
        return false;
    s->buf = buf;
    s->buf_bytes = s->bytes;
    return true;
}

static uint64_t piece_bytes(const struct nbd_slot *s, uint64_t max)
{
    return MIN(s->req->bytes - s->req->done_bytes, max);
}

static int64_t nbd_move(struct nbd_slot *s)
{
    const struct store_req *r = s->req;
    struct store_nbd *n = s->nbd;
    nbd_completion_callback done = { .callback = on_complete, .user_data = s };
    uint64_t at = r->off_bytes + r->done_bytes;
    uint8_t *mem;

    s->bytes = piece_bytes(s, n->max_bytes);
    mem = nbd_in_place(s);
    s->buffered = !mem;
    if (!mem && !nbd_need_buf(s)) {
        return -1;
    }
    if (!mem && r->op == STORE_WRITE)
        store_copy(r, s->buf, s->bytes, false);
    mem = mem ? mem : s->buf;
    if (r->op == STORE_READ)
        return nbd_aio_pread(n->h, mem, s->bytes, at, done, 0);
    return nbd_aio_pwrite(n->h, mem, s->bytes, at, done,
                          r->through && n->can_fua ? LIBNBD_CMD_FLAG_FUA : 0);
}

static int64_t nbd_clear(struct nbd_slot *s)
{
    const struct store_req *r = s->req;
    struct store_nbd *n = s->nbd;
    nbd_completion_callback done = { .callback = on_complete, .user_data = s };
    uint64_t at = r->off_bytes + r->done_bytes;

    if (r->op == STORE_DISCARD) {
        s->bytes = piece_bytes(s, CLEAR_PIECE_BYTES);
        return nbd_aio_trim(n->h, s->bytes, at, done, 0);
    }
    if (!s->by_writes) {
        s->bytes = piece_bytes(s, CLEAR_PIECE_BYTES);
        return nbd_aio_zero(n->h, s->bytes, at, done, r->unmap ? 0 : LIBNBD_CMD_FLAG_NO_HOLE);
    }
    s->bytes = piece_bytes(s, n->max_bytes);
    if (!nbd_need_buf(s)) {
        return -1;
    }
    memset(s->buf, 0, s->bytes);
    return nbd_aio_pwrite(n->h, s->buf, s->bytes, at, done, 0);
}

static int64_t nbd_settle(struct nbd_slot *s)
{
    nbd_completion_callback done = { .callback = on_complete, .user_data = s };

    s->bytes = 0;
    return nbd_aio_flush(s->nbd->h, done, 0);
}

/* ---- requests ---- */

/* Is the request over when `bytes` of it are done? Otherwise its next command is *start. */
static bool nbd_next(const struct nbd_slot *s, int64_t (**start)(struct nbd_slot *s))
{
    const struct store_req *r = s->req;
    const struct store_nbd *n = s->nbd;

    if (r->op == STORE_FLUSH) {
        *start = nbd_settle;
        return !n->can_flush;
    }
    if (r->op == STORE_DISCARD && !n->can_trim)
        return true; /* it is a hint */
    if (r->done_bytes < r->bytes) {
        *start = r->op == STORE_READ || r->op == STORE_WRITE ? nbd_move : nbd_clear;
        return false;
    }
    *start = nbd_settle;
    return r->op != STORE_WRITE || !r->through || n->can_fua || !n->can_flush;
}

/* The request in the slot is over. */
static void nbd_end(struct store *d, struct nbd_slot *s, int error)
{
    struct store_req *r = s->req;

    s->req = NULL;
    s->next = d->nbd->free;
    d->nbd->free = s;
    store_finish(d, r, error);
}

static bool nbd_is_gone(const struct store_nbd *n)
{
    return nbd_aio_is_dead(n->h) > 0 || nbd_aio_is_closed(n->h) > 0;
}

/* The next command of the request in the slot, or its end. */
static void nbd_step(struct store *d, struct nbd_slot *s)
{
    struct store_nbd *n = d->nbd;
    int64_t (*start)(struct nbd_slot * s) = NULL;
    int err;

    if (n->lost) {
        nbd_end(d, s, -EIO);
        return;
    }
    if (nbd_next(s, &start)) {
        nbd_end(d, s, 0);
        return;
    }
    n->nr_out++;
    s->out = true;
    if (start(s) >= 0 || !s->out)
        return;
    /* Not even sent. */
    n->nr_out--;
    s->out = false;
    err = nbd_get_errno() ? -nbd_get_errno() : -ENOMEM;
    if (nbd_is_gone(n))
        nbd_lose(d, nbd_get_error());
    nbd_end(d, s, n->lost ? -EIO : err);
}

static void nbd_completed(struct store *d, struct nbd_slot *s)
{
    struct store_req *r = s->req;
    bool unknown = s->error == EOPNOTSUPP || s->error == EINVAL;

    if (unknown && r->op == STORE_DISCARD) {
        s->error = 0;
    } else if (unknown && r->op == STORE_ZERO && !s->by_writes) {
        s->by_writes = true;
        s->error = 0;
        s->bytes = 0;
    }
    if (s->error || r->op == STORE_FLUSH || (!s->bytes && r->op == STORE_WRITE)) {
        nbd_end(d, s, d->nbd->lost ? -EIO : -s->error);
        return;
    }
    if (r->op == STORE_READ && s->buffered)
        store_copy(r, s->buf, s->bytes, true);
    r->done_bytes += s->bytes;
    nbd_step(d, s);
}

/* What the server has answered. True: there was something. */
static bool nbd_collect(struct store *d)
{
    struct store_nbd *n = d->nbd;
    bool any = n->done;

    while (n->done) {
        struct nbd_slot *s = n->done;

        n->done = s->next;
        n->nr_out--;
        nbd_completed(d, s);
    }
    if (any || !n->nr_out) {
        n->answer_ns = host_mono_ns();
        n->slow = false;
    }
    return any;
}

/* Requests that wait get slots, unless somebody wants none to be out. */
static void nbd_pump(struct store *d)
{
    struct store_nbd *n = d->nbd;

    while (n->todo.first && n->free && !atomic_load(&n->errand)) {
        struct nbd_slot *s = n->free;

        s->req = store_queue_take(&n->todo);
        n->free = s->next;
        s->by_writes = !n->can_zero;
        nbd_step(d, s);
    }
}

static void nbd_start(struct store *d, struct store_req *r)
{
    store_queue_add(&d->nbd->todo, r);
}

/* ---- errands ---- */

int store_nbd_when_idle(struct store *d, int (*fn)(struct store *d, uint64_t arg), uint64_t arg)
{
    struct nbd_errand mine = { .run = fn, .arg = arg };
    struct store_nbd *n = d->nbd;

    if (!d->thread.started)
        return fn(d, arg);
    lock_take(&n->lock);
    while (atomic_load(&n->errand)) /* somebody else's */
        cond_wait(&n->ended, &n->lock);
    atomic_store(&n->errand, &mine);
    store_kick(d);
    while (!mine.done)
        cond_wait(&n->ended, &n->lock);
    lock_drop(&n->lock);
    return mine.result;
}

static void nbd_run_errand(struct store *d)
{
    struct store_nbd *n = d->nbd;
    struct nbd_errand *e = atomic_load(&n->errand);
    int result;

    if (!e)
        return;
    result = e->run(d, e->arg);
    lock_take(&n->lock);
    e->result = result;
    e->done = true;
    atomic_store(&n->errand, NULL);
    cond_wake_all(&n->ended);
    lock_drop(&n->lock);
}

/* ---- the engine ---- */

static int nbd_engine_open(struct store *d)
{
    d->nbd->answer_ns = host_mono_ns();
    return 0;
}

static void nbd_engine_close(struct store *d)
{
    BUG_ON(d->nbd->nr_out || d->nbd->todo.first);
}

/* Servers that do not answer: when to look again, and what to do then. */
static uint64_t nbd_watch(struct store *d, uint64_t until_ns)
{
    struct store_nbd *n = d->nbd;
    uint64_t now = host_mono_ns();

    if (store_must_give_up(d, n->nr_out && !n->lost, &n->give_up_since_ns, &until_ns))
        nbd_lose(d, "it does not answer, and the machine wants to go on");
    if (!n->nr_out || n->lost)
        return until_ns;
    if (now >= n->answer_ns + SLOW_NS && !n->slow) {
        n->slow = true;
        log_warn("%s: '%s' has not answered for 30 s; the guest waits", d->cfg.name, d->what);
    }
    return n->slow ? until_ns : MIN(until_ns, n->answer_ns + SLOW_NS);
}

static void nbd_talk(struct store *d, short revents)
{
    struct store_nbd *n = d->nbd;
    unsigned want = nbd_aio_get_direction(n->h);
    int err = 0;

    if (want & LIBNBD_AIO_DIRECTION_READ && revents & (POLLIN | POLLHUP | POLLERR))
        err = nbd_aio_notify_read(n->h);
    if (!err && nbd_aio_get_direction(n->h) & LIBNBD_AIO_DIRECTION_WRITE && revents & POLLOUT)
        err = nbd_aio_notify_write(n->h);
    if (err)
        nbd_lose(d, nbd_get_error());
    else if (nbd_is_gone(n))
        nbd_lose(d, "it hung up");
}

static void nbd_wait(struct store *d, uint64_t until_ns)
{
    struct store_nbd *n = d->nbd;
    struct pollfd pfd[2] = { { .fd = d->wake_fd, .events = POLLIN }, { .fd = -1 } };

    nbd_pump(d);
    if (nbd_collect(d))
        return;
    if (!n->nr_out)
        nbd_run_errand(d);
    nbd_pump(d);
    if (d->nr_done)
        return;
    until_ns = nbd_watch(d, until_ns);
    if (!n->lost) {
        unsigned want = nbd_aio_get_direction(n->h);

        pfd[1].fd = nbd_aio_get_fd(n->h);
        pfd[1].events = (short)((want & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
                                (want & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
    }
    if (!n->done && poll(pfd, 2, store_timeout_ms(until_ns)) > 0) {
        if (pfd[0].revents)
            store_woken(d);
        if (pfd[1].revents)
            nbd_talk(d, pfd[1].revents);
    }
    (void)nbd_collect(d);
}

const struct store_engine store_nbd_engine = {
    .name = "nbd",
    .open = nbd_engine_open,
    .close = nbd_engine_close,
    .start = nbd_start,
    .wait = nbd_wait,
};
