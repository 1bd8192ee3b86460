/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection to an NBD server by libnbd: what its two files share, and what an image that is
 * served by a process of ours does with it. store_nbd.c connects; store_nbd_io.c is the engine.
 */
#ifndef BACKEND_STORE_NBD_H
#define BACKEND_STORE_NBD_H

#include <libnbd.h>

#include "backend/store_impl.h"

#define NBD_NR_SLOTS 32u

/* A command that is out, for one piece of a request. */
struct nbd_slot {
    struct store_nbd *nbd;
    struct store_req *req;
    struct nbd_slot *next;
    uint8_t *buf; /* for pieces that are scattered in the guest's memory, and for zeroes */
    size_t buf_bytes;
    size_t bytes;   /* of the piece; 0: a flush behind the last */
    bool buffered;  /* the piece is in buf */
    bool by_writes; /* a write of zeroes: this server knows only writes */
    bool out;       /* libnbd will tell when the command is done */
    int error;      /* of the command, as the server gave it */
};

/* Something to be done when no command is out; its owner waits. */
struct nbd_errand {
    int (*run)(struct store *d, uint64_t arg);
    uint64_t arg;
    int result;
    bool done;
};

struct store_nbd {
    struct nbd_handle *h; /* NULL: not connected */
    bool can_flush, can_fua, can_trim, can_zero;
    uint64_t max_bytes; /* of data in a command */

    /* The disk thread's own, or the owner's while there is none. */
    struct nbd_slot slots[NBD_NR_SLOTS];
    struct nbd_slot *free, *done;
    struct store_queue todo; /* have no slot yet */
    unsigned nr_out;
    bool lost;
    uint64_t give_up_since_ns; /* store_must_give_up() */
    uint64_t answer_ns;        /* when the server last answered, or had nothing to do */
    bool slow;                 /* it was said that it does not answer */

    struct lock lock; /* LOCK_LEAF: guards what follows */
    struct cond ended;
    struct nbd_errand *_Atomic errand; /* set under the lock; NULL: none */
};

/* Connects d->nbd (and makes it) by a socket, which becomes ours, or by d->cfg.nbd if fd is < 0;
 * checks that the export is as the configuration wants it and sets d->bytes. -errno after a
 * message. Nothing is out. */
int store_nbd_connect(struct store *d, int fd);
/* Nothing is out. Also if not connected. */
void store_nbd_disconnect(struct store *d);
/* Disconnects, and frees d->nbd. NULL is fine. */
void store_nbd_free(struct store *d);
/* All that was written is stable; gives up when the server says nothing for a while. -errno, no
 * message. Nothing is out, and there is no disk thread. */
int store_nbd_flush(struct store *d);
/* fn(d, arg) in the disk's thread, or in this one while there is none, when nothing is out. Its
 * result. */
int store_nbd_when_idle(struct store *d, int (*fn)(struct store *d, uint64_t arg), uint64_t arg);

#endif
