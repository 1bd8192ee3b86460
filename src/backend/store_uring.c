/* SPDX-License-Identifier: Apache-2.0 */
/* A disk's requests by io_uring: what the page cache has is done at once, the rest without a thread
 * of ours. */
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>

#include "backend/store_impl.h"

#define RING_ENTRIES 128
#define NS_PER_S     1000000000ull

struct uring {
    struct io_uring ring;
    bool watching; /* a poll of wake_fd is in the ring */
};

/* The other user data are pointers to requests. */
static void *const wake_tag = (void *)1;

/*
 * No filter of system calls (host/sandbox_filter.c) sees what a ring is asked for, and a ring can
 * be asked for sockets and files: what this one does is settled before it does anything.
 */
static int uring_restrict(struct uring *u)
{
    /* TIMEOUT: the library's own, on kernels that take no timeout with io_uring_enter(). */
    static const uint8_t ops[] = { IORING_OP_READV,     IORING_OP_WRITEV,   IORING_OP_FSYNC,
                                   IORING_OP_FALLOCATE, IORING_OP_POLL_ADD, IORING_OP_TIMEOUT };
    struct io_uring_restriction r[ARRAY_SIZE(ops)] = { 0 };
    int err;

    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
        r[i].opcode = IORING_RESTRICTION_SQE_OP;
        r[i].sqe_op = ops[i];
    }
    err = io_uring_register(u->ring.ring_fd, IORING_REGISTER_RESTRICTIONS, r, ARRAY_SIZE(r));
    return err ? err : io_uring_register(u->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

/* Linux 5.10. */
static int uring_open(struct store *d)
{
    struct uring *u = calloc(1, sizeof(*u));
    int err = u ? io_uring_queue_init(RING_ENTRIES, &u->ring, IORING_SETUP_R_DISABLED) : -ENOMEM;

    if (err >= 0) {
        err = uring_restrict(u);
        if (err < 0)
            io_uring_queue_exit(&u->ring);
    }
    if (err < 0) {
        free(u);
        return err;
    }
    d->engine_data = u;
    return 0;
}

static void uring_close(struct store *d)
{
    struct uring *u = d->engine_data;

    io_uring_queue_exit(&u->ring);
    free(u);
}

static struct io_uring_sqe *uring_sqe(struct uring *u)
{
    struct io_uring_sqe *sqe;

    /* Full: what is in it goes to the kernel first. */
    while (!(sqe = io_uring_get_sqe(&u->ring)))
        (void)io_uring_submit(&u->ring);
    return sqe;
}

static void uring_start(struct store *d, struct store_req *r)
{
    struct uring *u = d->engine_data;
    const struct iovec *iov = (const struct iovec *)r->iov;
    struct io_uring_sqe *sqe;

    if ((r->op == STORE_DISCARD || r->op == STORE_ZERO) && d->is_device) {
        store_done(d, r, -EOPNOTSUPP); /* ioctls do that */
        return;
    }
    sqe = uring_sqe(u);
    switch (r->op) {
    case STORE_READ:
        io_uring_prep_readv(sqe, d->fd, iov, r->nr_iov, r->off_bytes);
        break;
    case STORE_WRITE:
        io_uring_prep_writev2(sqe, d->fd, iov, r->nr_iov, r->off_bytes, store_write_flags(r));
        break;
    case STORE_FLUSH:
        io_uring_prep_fsync(sqe, d->fd, IORING_FSYNC_DATASYNC);
        break;
    default:
        io_uring_prep_fallocate(sqe, d->fd, store_fallocate_mode(r), (off_t)r->off_bytes,
                                (off_t)r->bytes);
        break;
    }
    io_uring_sqe_set_data(sqe, r);
}

static void uring_watch(struct store *d, struct uring *u)
{
    struct io_uring_sqe *sqe;

    if (u->watching)
        return;
    sqe = uring_sqe(u);
    io_uring_prep_poll_add(sqe, d->wake_fd, POLLIN);
    io_uring_sqe_set_data(sqe, wake_tag);
    u->watching = true;
}

static void uring_take(struct store *d, struct uring *u)
{
    struct io_uring_cqe *cqe;

    while (io_uring_peek_cqe(&u->ring, &cqe) == 0) {
        struct store_req *r = io_uring_cqe_get_data(cqe);
        int result = cqe->res;

        io_uring_cqe_seen(&u->ring, cqe);
        if ((void *)r == wake_tag) {
            u->watching = false;
            store_woken(d);
        } else {
            store_done(d, r, result);
        }
    }
}

static void uring_wait(struct store *d, uint64_t until_ns)
{
    struct uring *u = d->engine_data;
    uint64_t now = host_mono_ns(), left = until_ns > now ? until_ns - now : 0;
    struct __kernel_timespec ts = { .tv_sec = (int64_t)(left / NS_PER_S),
                                    .tv_nsec = (int64_t)(left % NS_PER_S) };
    struct io_uring_cqe *cqe;

    uring_watch(d, u);
    /* Errors (EINTR, time out) mean: look what there is. */
    if (until_ns == UINT64_MAX)
        (void)io_uring_submit_and_wait(&u->ring, 1);
    else
        (void)io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, &ts, NULL);
    uring_take(d, u);
}

const struct store_engine store_uring = {
    .name = "io_uring",
    .open = uring_open,
    .close = uring_close,
    .start = uring_start,
    .wait = uring_wait,
};
