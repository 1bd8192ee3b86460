/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of disks share: store.c, and the two ways to do requests in the background. */
#ifndef BACKEND_STORE_IMPL_H
#define BACKEND_STORE_IMPL_H

#include "backend/store.h"
#include "lib/log.h"

/* How requests are done in the background. All in the disk's thread. */
struct store_engine {
    const char *name;
    int (*open)(struct store *d); /* 0 or -errno, no message */
    void (*close)(struct store *d);
    void (*start)(struct store *d, struct store_req *r);
    /* Waits until something was done, store->wake_fd is readable, or host_mono_ns() is until_ns.
     * Calls store_done() for what was done: nr of bytes or -errno. */
    void (*wait)(struct store *d, uint64_t until_ns);
};
extern const struct store_engine store_uring, store_pool;

struct store {
    struct store_config cfg;
    int fd;
    bool is_device;
    _Atomic uint64_t bytes;

    struct store_client client;
    const struct store_engine *engine;
    void *engine_data;
    struct thread thread;
    int wake_fd; /* eventfd */
    _Atomic bool kicked, quit, give_up;

    /* The thread's own. */
    unsigned nr_started;       /* with the engine */
    unsigned nr_done;          /* since the last batch() */
    struct store_req *stalled; /* no room */
    uint64_t retry_ns;
    bool held;

    struct log_seen seen;
};

/* From an engine: result is what the system call returned, or -errno. */
void store_done(struct store *d, struct store_req *r, int64_t result);
/* All of the request that is left, done here and now: 0 or -errno. Any thread. */
int store_do(struct store *d, struct store_req *r);
/* The system's flags for a request: of pwritev2() and of fallocate(). */
int store_write_flags(const struct store_req *r);
int store_fallocate_mode(const struct store_req *r);
/* Empties an eventfd. */
void store_drain_fd(int fd);

#endif
