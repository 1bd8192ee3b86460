/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who visits a channel over a socket, at most one at a time. All is the channel's thread's own, but
 * for what is under the channel's lock. Only chan.c and visitor.c include this.
 */
#ifndef BACKEND_VISITOR_H
#define BACKEND_VISITOR_H

#include "backend/backend.h"
#include "backend/ring.h"

#define VISITOR_BYTES 65536u /* kept of what was written */

struct visitor {
    int fd;        /* -1: nobody */
    bool in_ended; /* it says no more, but may listen */
    bool left;     /* it has gone; what it said last is still in its socket */

    /* Guarded by the channel's lock. */
    struct byte_ring news;
    bool here;         /* from visitor_enter() on, until the thread saw it go */
    int next_fd;       /* came in, and the thread has not seen it yet; -1 */
    const char *hello; /* for it */
};

/* 0 or -ENOMEM. */
int visitor_init(struct visitor *v) MUST_CHECK;
void visitor_fini(struct visitor *v);

/* ---- the channel's lock held ---- */
/* -EBUSY: there is one; -EAGAIN: that is about to go. */
int visitor_enter(struct visitor *v, int fd, const char *hello) MUST_CHECK;
/* It goes; `keep`: what it has not read stays for the next one. */
void visitor_leave(struct visitor *v, enum chr_keep keep);
/* The thread takes note of one that came in. */
void visitor_meet(struct visitor *v);
/* Sends some of the news. False: it cannot be reached any more. */
bool visitor_send(struct visitor *v) MUST_CHECK;

#endif
