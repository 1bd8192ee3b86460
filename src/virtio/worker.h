/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A thread for a virtio device whose requests take the host a while: it is woken, and serves until
 * there is nothing more to do.
 */
#ifndef VIRTIO_WORKER_H
#define VIRTIO_WORKER_H

#include "bus/bus.h"

struct virtio_worker {
    void (*work)(void *arg); /* the thread, no locks held */
    void *arg;
    struct thread thread;
    struct lock lock; /* LOCK_LEAF: guards what follows */
    struct cond changed;
    bool made, due, quit;
};

/* 0 or -errno. */
int virtio_worker_start(struct virtio_worker *w, const char *name, void (*work)(void *arg),
                        void *arg) MUST_CHECK;
/* work() will be called from now on; any thread, no lock of rank LEAF held. */
void virtio_worker_wake(struct virtio_worker *w);
/* No locks held. One that was not started, or was stopped, is fine. */
void virtio_worker_stop(struct virtio_worker *w);

#endif
