/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's side of a vsock device: byte streams to programs of the host, by Unix sockets, with
 * Firecracker's convention. A program that connects to the socket F and writes "CONNECT PORT\n"
 * is led to the guest's port, and reads "OK PORT\n" when it answered; what the guest connects to,
 * port P of the host, is the socket F_P.
 *
 * A thread waits for all of them and does the device's work, too. A stream is named by a small
 * number, which stays its own until it was dropped. All functions that take one are for this
 * thread.
 */
#ifndef BACKEND_VSOCK_H
#define BACKEND_VSOCK_H

#include "host/host.h"
#include "lib/types.h"

/* Addresses that a guest can have ("Socket Device", "Device configuration layout"). */
#define VSOCK_CID_MIN     3u
#define VSOCK_CID_MAX     0xfffffffeu
#define VSOCK_STREAMS_MAX 256
#define VSOCK_PATH_MAX    96 /* F; so that F_P is a Unix socket's path, too */

/* What a stream is waited for, and what happened to it. */
#define VSOCK_READ  BIT(0)
#define VSOCK_WRITE BIT(1)
#define VSOCK_HUP   BIT(2) /* the program has closed it; wanted or not, if anything is wanted */

/* The device's end; all are called in the thread, without locks. */
struct vsock_card_ops {
    /* After a kick, and after each round of what follows. */
    void (*work)(void *arg);
    /* A program wants the guest's port. False: the stream is dropped. */
    bool (*call)(void *arg, unsigned id, uint32_t port);
    void (*ready)(void *arg, unsigned id, unsigned what);
};

struct vsock;

struct vsock_ops {
    int (*start)(struct vsock *v);
    void (*stop)(struct vsock *v);   /* no call of the device's runs after its return */
    void (*kick)(struct vsock *v);   /* any thread */
    int (*kick_fd)(struct vsock *v); /* an eventfd that does the same when made ready */
    /* To a port of the host: the stream's number or -errno. */
    int (*connect)(struct vsock *v, uint32_t port);
    /* Bytes; 0: the end; -EAGAIN: not now; -errno. */
    long (*read)(struct vsock *v, unsigned id, void *buf, size_t bytes);
    long (*write)(struct vsock *v, unsigned id, const void *buf, size_t bytes);
    void (*shut)(struct vsock *v, unsigned id); /* nothing more is written */
    void (*want)(struct vsock *v, unsigned id, unsigned what);
    void (*drop)(struct vsock *v, unsigned id);
    void (*close)(struct vsock *v); /* stopped by then; frees */
};

struct vsock {
    const struct vsock_ops *ops;
    /* Any; where the host's ports of calls begin. Not the same in each machine: what a restored
     * guest still sends for a connection of before must not meet a new one. */
    uint32_t first_port;
    const struct vsock_card_ops *card; /* set while started */
    void *card_arg;
};

/* NULL after a message. */
struct vsock *vsock_open(const char *path);

static inline int vsock_start(struct vsock *v, const struct vsock_card_ops *card, void *arg)
{
    v->card = card;
    v->card_arg = arg;
    return v->ops->start(v);
}

static inline void vsock_stop(struct vsock *v)
{
    v->ops->stop(v);
}

static inline void vsock_kick(struct vsock *v)
{
    v->ops->kick(v);
}
static inline int vsock_kick_fd(struct vsock *v)
{
    return v->ops->kick_fd(v);
}

static inline void vsock_close(struct vsock *v)
{
    if (v)
        v->ops->close(v);
}

#endif
