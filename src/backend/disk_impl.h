/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of disks share: disk.c, and the two ways to do requests in the background. */
#ifndef BACKEND_DISK_IMPL_H
#define BACKEND_DISK_IMPL_H

#include "backend/disk.h"
#include "lib/log.h"

/* How requests are done in the background. All in the disk's thread. */
struct disk_engine {
    const char *name;
    int (*open)(struct disk *d); /* 0 or -errno, no message */
    void (*close)(struct disk *d);
    void (*start)(struct disk *d, struct disk_req *r);
    /* Waits until something was done, disk->wake_fd is readable, or host_mono_ns() is until_ns.
     * Calls disk_done() for what was done: nr of bytes or -errno. */
    void (*wait)(struct disk *d, uint64_t until_ns);
};
extern const struct disk_engine disk_uring, disk_pool;

struct disk {
    struct disk_config cfg;
    int fd;
    bool is_device;
    _Atomic uint64_t bytes;

    struct disk_client client;
    const struct disk_engine *engine;
    void *engine_data;
    struct thread thread;
    int wake_fd; /* eventfd */
    _Atomic bool kicked, quit, give_up;

    /* The thread's own. */
    unsigned nr_started;      /* with the engine */
    unsigned nr_done;         /* since the last batch() */
    struct disk_req *stalled; /* no room */
    uint64_t retry_ns;
    bool held;

    struct log_seen seen;
};

/* From an engine: result is what the system call returned, or -errno. */
void disk_done(struct disk *d, struct disk_req *r, int64_t result);
/* All of the request that is left, done here and now: 0 or -errno. Any thread. */
int disk_do(struct disk *d, struct disk_req *r);
/* The system's flags for a request: of pwritev2() and of fallocate(). */
int disk_write_flags(const struct disk_req *r);
int disk_fallocate_mode(const struct disk_req *r);
/* Empties an eventfd. */
void disk_drain_fd(int fd);

#endif
