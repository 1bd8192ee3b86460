/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of disks: a client that has many requests out at once. */
#ifndef BACKEND_TESTSTORE_H
#define BACKEND_TESTSTORE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#include <cmocka.h>

#include "backend/store.h"

#define TESTSTORE_REQS 100u
#define TESTSTORE_IOV  7u

struct teststore {
    struct store *store;
    struct store_req reqs[TESTSTORE_REQS];
    struct host_iov iov[TESTSTORE_REQS][TESTSTORE_IOV];
    unsigned nr_reqs;
    _Atomic unsigned nr_done;
    _Atomic bool go, held, was_held;
};

static inline void teststore_rest(void)
{
    (void)nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
}

static inline void teststore_on_poll(void *arg)
{
    struct teststore *t = arg;

    if (atomic_exchange(&t->go, false))
        for (unsigned i = 0; i < t->nr_reqs; i++)
            store_submit(t->store, &t->reqs[i]);
}

static inline void teststore_on_done(void *arg, struct store_req *r)
{
    struct teststore *t = arg;

    (void)r;
    atomic_fetch_add(&t->nr_done, 1);
}

static inline void teststore_on_batch(void *arg)
{
    (void)arg;
}

static inline void teststore_on_held(void *arg, bool on)
{
    struct teststore *t = arg;

    atomic_store(&t->held, on);
    if (on)
        atomic_store(&t->was_held, true);
}

static inline void teststore_connect(struct teststore *t, struct store *store)
{
    assert_non_null(store);
    t->store = store;
    assert_int_equal(store_connect(t->store, &(struct store_client){ .poll = teststore_on_poll,
                                                                     .done = teststore_on_done,
                                                                     .batch = teststore_on_batch,
                                                                     .held = teststore_on_held,
                                                                     .arg = t }),
                     0);
}

static inline void teststore_close(struct teststore *t)
{
    store_close(t->store);
    t->store = NULL;
}

/* The first nr of t->reqs are submitted. */
static inline void teststore_begin(struct teststore *t, unsigned nr)
{
    t->nr_reqs = nr;
    atomic_store(&t->nr_done, 0);
    atomic_store(&t->go, true);
    store_kick(t->store);
}

static inline void teststore_wait_done(struct teststore *t)
{
    while (atomic_load(&t->nr_done) < t->nr_reqs)
        teststore_rest();
}

/* One request on memory in nr_iov pieces of growing length; its error. */
static inline void teststore_prepare(struct teststore *t, unsigned i, enum store_op op, uint64_t at,
                                     uint8_t *mem, uint64_t bytes, unsigned nr_iov)
{
    uint64_t done = 0;

    t->reqs[i] = (struct store_req){
        .op = op, .off_bytes = at, .bytes = bytes, .iov = t->iov[i], .nr_iov = mem ? nr_iov : 0
    };
    for (unsigned k = 0; k < nr_iov && mem; k++) {
        uint64_t n = k + 1 == nr_iov ? bytes - done : MIN(k * 1000 + 13, bytes - done);

        t->iov[i][k] = (struct host_iov){ .base = mem + done, .bytes = n };
        done += n;
    }
}

static inline int teststore_do_one(struct teststore *t, enum store_op op, uint64_t at, uint8_t *mem,
                                   uint64_t bytes, unsigned nr_iov)
{
    teststore_prepare(t, 0, op, at, mem, bytes, nr_iov);
    teststore_begin(t, 1);
    teststore_wait_done(t);
    return t->reqs[0].error;
}

static inline void teststore_fill(uint8_t *mem, size_t bytes, unsigned seed)
{
    for (size_t i = 0; i < bytes; i++)
        mem[i] = (uint8_t)((i * 2654435761u + seed * 40503u) >> 13);
}

#endif
