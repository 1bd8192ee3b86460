/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of disks share. A disk is of a kind: a raw image (store_file.c), an NBD server's
 * export (store_nbd.c), an image that another process serves to us by NBD (store_image.c), or a
 * device that another process serves by vhost-user (store_vhost.c). Its requests are done by an
 * engine: for raw images one of store_uring.c and store_pool.c, for the others those of
 * store_nbd_io.c and store_vhost_io.c.
 */
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
extern const struct store_engine store_uring, store_pool, store_nbd_engine, store_vhost_engine;

struct store_kind {
    int (*open)(struct store *d); /* 0 or -errno after a message; store_set_bytes() was called */
    void (*close)(struct store *d);
    /* store_resize(), whatever thread; it has been checked that it does not shrink. */
    int (*resize)(struct store *d, uint64_t bytes);
    /* Only by NBD and vhost-user: the connection is lost, and the guest gets errors; says so. In
     * the disk's thread. */
    void (*lost)(struct store *d, const char *why);
};
extern const struct store_kind store_file, store_export, store_image, store_vhost;

/* Requests that wait, the oldest first. All zeroes is an empty one. */
struct store_queue {
    struct store_req *first, *last; /* last only if there is a first */
};

static inline void store_queue_add(struct store_queue *q, struct store_req *r)
{
    r->next = NULL;
    if (q->first)
        q->last->next = r;
    else
        q->first = r;
    q->last = r;
}

/* NULL: it is empty. */
static inline struct store_req *store_queue_take(struct store_queue *q)
{
    struct store_req *r = q->first;

    if (r)
        q->first = r->next;
    return r;
}

struct store_nbd;
struct store_vhost;
struct store_child;

struct store {
    struct store_config cfg;
    const struct store_kind *kind;
    const char *what; /* path or URI, for messages */
    bool open;
    _Atomic uint64_t bytes; /* the first one's */

    struct store *of;       /* a twin: the first one */
    struct lock twins_lock; /* LOCK_LEAF; guards what follows, of the first one */
    struct store *twins;
    struct store_counts past; /* of twins that were closed */
    struct store *next_twin;

    /* By kind. */
    int fd;
    bool is_device;
    struct store_nbd *nbd;
    struct store_vhost *vhost;
    struct store_child *child;

    struct store_client client;
    const struct store_engine *engine;
    void *engine_data;
    struct thread thread;
    int wake_fd; /* eventfd */
    _Atomic bool kicked, quit, give_up;
    _Atomic bool fd_given; /* somebody kicks by wake_fd alone */

    /* The thread's own. */
    unsigned nr_started;       /* with the engine */
    unsigned nr_done;          /* since the last batch() */
    struct store_req *stalled; /* no room */
    unsigned nr_retried;       /* had no room, and are with the engine again */
    uint64_t retry_ns;
    bool held;

    struct store_counts counts; /* the thread's; others only read them */

    struct log_seen seen;
};

/* Where the image's own is. */
static inline struct store *store_first(struct store *d)
{
    return d->of ? d->of : d;
}

/* A path becomes d->fd; -errno after a message. */
int store_open_path(struct store *d);
/* d->cfg.format for d->fd, from then on RAW or QCOW2; -errno after a message. */
int store_settle_format(struct store *d);
/* Of d->fd: 0 or -errno, no message. */
int store_measure(const struct store *d, uint64_t *bytes);
/* Has another process d->fd open, so that we may not? And the message that says so: -EBUSY. */
bool store_in_use(const struct store *d);
int store_say_in_use(const struct store *d);
/* From a kind's open() and resize(): -EINVAL after a message if that is no disk. */
int store_set_bytes(struct store *d, uint64_t bytes);
/* From an engine: 0 or -errno. */
void store_finish(struct store *d, struct store_req *r, int error);
/* From an engine for files: result is what the system call returned, or -errno. */
void store_done(struct store *d, struct store_req *r, int64_t result);
/* All of the request of a file that is left, done here and now: 0 or -errno. Any thread. */
int store_do(struct store *d, struct store_req *r);
/* The system's flags for a request: of pwritev2() and of fallocate(). */
int store_write_flags(const struct store_req *r);
int store_fallocate_mode(const struct store_req *r);
/* Between the request's scattered memory, from done_bytes on, and a buffer. */
void store_copy(const struct store_req *r, uint8_t *buf, uint64_t bytes, bool to_guest);
/*
 * For engines whose other side may never answer: is it to be given up now, since the machine has
 * wanted to go on for STORE_GIVE_UP_NS while something was out? *since_ns is the engine's note of
 * when that began; *until_ns becomes no later than when to ask again.
 */
#define STORE_GIVE_UP_NS 10000000000ull
bool store_must_give_up(struct store *d, bool out, uint64_t *since_ns, uint64_t *until_ns);
/* How long poll(2) has to wait until then. */
int store_timeout_ms(uint64_t until_ns);
/* Empties an eventfd. */
void store_drain_fd(int fd);
/* wake_fd is ready: for engines' wait(). */
void store_woken(struct store *d);

#endif
