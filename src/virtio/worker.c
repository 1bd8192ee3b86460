/* SPDX-License-Identifier: Apache-2.0 */
/* A device's thread: see worker.h. */
#include "virtio/worker.h"

static void *worker_main(void *arg)
{
    struct virtio_worker *w = arg;

    lock_take(&w->lock);
    for (;;) {
        while (!w->due && !w->quit)
            cond_wait(&w->changed, &w->lock);
        if (w->quit)
            break;
        w->due = false;
        lock_drop(&w->lock);
        w->work(w->arg);
        lock_take(&w->lock);
    }
    lock_drop(&w->lock);
    return NULL;
}

int virtio_worker_start(struct virtio_worker *w, const char *name, void (*work)(void *arg),
                        void *arg)
{
    int err;

    *w = (struct virtio_worker){ .work = work, .arg = arg, .made = true };
    lock_init(&w->lock, LOCK_LEAF);
    cond_init(&w->changed);
    err = thread_start(&w->thread, name, worker_main, w);
    if (err)
        virtio_worker_stop(w);
    return err;
}

static void worker_post(struct virtio_worker *w, bool quit)
{
    lock_take(&w->lock);
    w->due = true;
    w->quit |= quit;
    cond_wake_all(&w->changed);
    lock_drop(&w->lock);
}

void virtio_worker_wake(struct virtio_worker *w)
{
    worker_post(w, false);
}

void virtio_worker_stop(struct virtio_worker *w)
{
    if (!w->made)
        return;
    if (w->thread.started) {
        worker_post(w, true);
        thread_join(&w->thread);
    }
    cond_destroy(&w->changed);
    lock_destroy(&w->lock);
    w->made = false;
}
