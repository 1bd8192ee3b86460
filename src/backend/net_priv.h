/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the links share: waking a pair's thread, and a pair over a file descriptor that carries one
 * frame per read or write, behind a struct net_hdr. Only the files net_*.c include this.
 */
#ifndef BACKEND_NET_PRIV_H
#define BACKEND_NET_PRIV_H

#include "backend/net.h"

/* The names, address and MTU that every link has. */
void net_init(struct net *net, const struct net_ops *ops, const struct net_common *c,
              const char *what);
void net_set_link(struct net *net, bool up);
/* Gives a frame to the card, with what the guest does not take done before. False: no room; the
 * frame is unchanged. scratch has NET_FRAME_MAX bytes. */
bool net_deliver(struct net *net, unsigned pair, struct net_frame *f, uint8_t *scratch);
void net_count_tx(struct net *net, size_t bytes);
void net_drop_tx(struct net *net);
void net_drop_rx(struct net *net);

/* ---- waking a thread that polls ---- */

struct net_wake {
    int fd; /* eventfd */
    _Atomic unsigned want;
    _Atomic bool given; /* somebody kicks by fd alone */
};
#define NET_WAKE_QUIT BIT(31) /* beside NET_KICK_* */

int net_wake_init(struct net_wake *w) MUST_CHECK;
void net_wake_fini(struct net_wake *w);
void net_wake(struct net_wake *w, unsigned what);
/* The eventfd, which made ready is NET_KICK_RX | NET_KICK_TX. */
int net_wake_fd(struct net_wake *w);
/* What was asked for since the last call. */
unsigned net_wake_take(struct net_wake *w);

/* ---- a pair over a descriptor ---- */

struct net_fd;

/* All are called in the pair's thread; all but lost() are optional. */
struct net_fd_ops {
    /* While there is no descriptor: at first, and then once in a while. It may set fd. */
    void (*meet)(struct net_fd *f);
    /* aux_fd can be read. */
    void (*aux)(struct net_fd *f);
    /* A message before the link is up: false if it is none of ours. */
    bool (*hello)(struct net_fd *f, const uint8_t *msg, size_t bytes);
    /* The other end is gone (err: 0 or errno); fd is closed by then. */
    void (*lost)(struct net_fd *f, int err);
};

struct net_fd {
    struct net *net;
    unsigned pair;
    const struct net_fd_ops *ops;
    int fd;              /* -1: none now */
    uint64_t meet_at_ns; /* not before that again */
    int aux_fd;          /* -1: none */
    struct net_wake wake;
    struct thread thread;

    /* The thread's own. */
    bool awaits_hello;
    bool tx_full; /* the descriptor took no more */
    uint64_t full_since_ns;
    bool stalled;  /* ... and for so long that frames are dropped now */
    bool told;     /* the log knows of a stall or of an error */
    bool rx_full;  /* a frame waits in buf for the guest to have room */
    size_t nr_got; /* its bytes, with header */
    uint8_t *buf;  /* a message */
    uint8_t *scratch;
};

/* Owns fd and aux_fd from now on, also on failure. */
int net_fd_init(struct net_fd *f, struct net *net, unsigned pair, int fd,
                const struct net_fd_ops *ops) MUST_CHECK;
void net_fd_fini(struct net_fd *f);
int net_fd_start(struct net_fd *f) MUST_CHECK;
void net_fd_stop(struct net_fd *f);
enum net_sent net_fd_send(struct net_fd *f, struct net_frame *frame);

#endif
