/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests: programs of the host at the other end of a socket device, without threads and
 * sockets. Each stream has what its program wrote, and counts what it was given.
 */
#ifndef VIRTIO_VSOCK_FAKEHOST_H
#define VIRTIO_VSOCK_FAKEHOST_H

#include <errno.h>
#include <string.h>

#include "virtio/vsock.h"

struct fakestream {
    bool used, shut;
    unsigned want;
    size_t nr_said; /* bytes that the program has for the guest: all 'x' */
    bool end;       /* behind them */
    size_t room;    /* for bytes from the guest */
    int write_err;
    size_t nr_heard;
    uint8_t heard[64]; /* the first of them */
};

struct fakehost {
    struct vsock v;
    unsigned nr_kicks;
    int connect_err;
    uint32_t port; /* of the last connect */
    size_t room;   /* of new streams */
    struct fakestream streams[VSOCK_STREAMS_MAX];
};

static inline struct fakehost *fakehost_of(struct vsock *v)
{
    return container_of(v, struct fakehost, v);
}

static inline int fakehost_start(struct vsock *v)
{
    (void)v;
    return 0;
}

static inline void fakehost_stop(struct vsock *v)
{
    (void)v;
}

static inline void fakehost_kick(struct vsock *v)
{
    fakehost_of(v)->nr_kicks++;
}

static inline int fakehost_add(struct fakehost *h)
{
    for (unsigned i = 0; i < VSOCK_STREAMS_MAX; i++) {
        if (h->streams[i].used)
            continue;
        h->streams[i] = (struct fakestream){ .used = true, .room = h->room };
        return (int)i;
    }
    return -ENOSPC;
}

static inline int fakehost_connect(struct vsock *v, uint32_t port)
{
    struct fakehost *h = fakehost_of(v);

    h->port = port;
    return h->connect_err ? h->connect_err : fakehost_add(h);
}

static inline long fakehost_read(struct vsock *v, unsigned id, void *buf, size_t bytes)
{
    struct fakestream *s = &fakehost_of(v)->streams[id];
    size_t n = MIN(bytes, s->nr_said);

    BUG_ON(!s->used);
    if (!n)
        return s->end ? 0 : -EAGAIN;
    memset(buf, 'x', n);
    s->nr_said -= n;
    return (long)n;
}

static inline long fakehost_write(struct vsock *v, unsigned id, const void *buf, size_t bytes)
{
    struct fakestream *s = &fakehost_of(v)->streams[id];
    size_t n = MIN(bytes, s->room);

    BUG_ON(!s->used || s->shut);
    if (s->write_err)
        return s->write_err;
    if (!n)
        return -EAGAIN;
    for (size_t i = 0; i < n && s->nr_heard + i < sizeof(s->heard); i++)
        s->heard[s->nr_heard + i] = ((const uint8_t *)buf)[i];
    s->nr_heard += n;
    s->room -= n;
    return (long)n;
}

static inline void fakehost_shut(struct vsock *v, unsigned id)
{
    fakehost_of(v)->streams[id].shut = true;
}

static inline void fakehost_want(struct vsock *v, unsigned id, unsigned what)
{
    fakehost_of(v)->streams[id].want = what;
}

static inline void fakehost_drop(struct vsock *v, unsigned id)
{
    BUG_ON(!fakehost_of(v)->streams[id].used);
    fakehost_of(v)->streams[id].used = false;
}

static const struct vsock_ops fakehost_ops = {
    .start = fakehost_start,
    .stop = fakehost_stop,
    .kick = fakehost_kick,
    .connect = fakehost_connect,
    .read = fakehost_read,
    .write = fakehost_write,
    .shut = fakehost_shut,
    .want = fakehost_want,
    .drop = fakehost_drop,
};

#endif
