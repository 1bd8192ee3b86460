/* SPDX-License-Identifier: Apache-2.0 */
/* A disk's requests by a few threads that wait for them: for hosts without io_uring (containers
 * often forbid it). */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "backend/store_impl.h"

#define NR_WORKERS 4

struct pool {
    struct store *store;
    struct thread workers[NR_WORKERS];

    struct lock lock; /* LOCK_LEAF: guards what follows */
    struct cond more; /* requests, or quit */
    struct store_queue todo;
    struct store_req *done;
    bool quit;
};

static void *pool_work(void *arg)
{
    struct pool *p = arg;
    uint64_t one = 1;

    lock_take(&p->lock);
    for (;;) {
        struct store_req *r = store_queue_take(&p->todo);
        bool first;

        if (!r && p->quit)
            break;
        if (!r) {
            cond_wait(&p->more, &p->lock);
            continue;
        }
        lock_drop(&p->lock);
        r->error = store_do(p->store, r);
        lock_take(&p->lock);
        first = !p->done;
        r->next = p->done;
        p->done = r;
        if (first && write(p->store->wake_fd, &one, sizeof(one)) < 0)
            continue; /* the counter is full: the disk's thread wakes up anyway */
    }
    lock_drop(&p->lock);
    return NULL;
}

static void pool_close(struct store *d)
{
    struct pool *p = d->engine_data;

    lock_take(&p->lock);
    p->quit = true;
    cond_wake_all(&p->more);
    lock_drop(&p->lock);
    for (unsigned i = 0; i < NR_WORKERS; i++)
        thread_join(&p->workers[i]);
    cond_destroy(&p->more);
    lock_destroy(&p->lock);
    free(p);
}

static int pool_open(struct store *d)
{
    struct pool *p = calloc(1, sizeof(*p));
    int err = 0;

    if (!p)
        return -ENOMEM;
    p->store = d;
    lock_init(&p->lock, LOCK_LEAF);
    cond_init(&p->more);
    d->engine_data = p;
    for (unsigned i = 0; i < NR_WORKERS && !err; i++)
        err = thread_start_as(&p->workers[i], HOST_DISK, d->cfg.name, pool_work, p);
    if (err)
        pool_close(d);
    return err;
}

static void pool_start(struct store *d, struct store_req *r)
{
    struct pool *p = d->engine_data;

    lock_take(&p->lock);
    store_queue_add(&p->todo, r);
    cond_wake_all(&p->more);
    lock_drop(&p->lock);
}

static void pool_wait(struct store *d, uint64_t until_ns)
{
    struct pool *p = d->engine_data;
    struct pollfd pfd = { .fd = d->wake_fd, .events = POLLIN };
    struct store_req *r, *next;

    if (poll(&pfd, 1, store_timeout_ms(until_ns)) > 0)
        store_woken(d);
    lock_take(&p->lock);
    r = p->done;
    p->done = NULL;
    lock_drop(&p->lock);
    for (; r; r = next) {
        next = r->next;
        store_done(d, r, r->error ? r->error : (int64_t)(r->bytes - r->done_bytes));
    }
}

const struct store_engine store_pool = {
    .name = "threads",
    .open = pool_open,
    .close = pool_close,
    .start = pool_start,
    .wait = pool_wait,
};
