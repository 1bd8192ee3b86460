/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A byte channel over file descriptors: a thread that polls, a bounded buffer for each direction,
 * and possibly a visitor (visitor.h). Only the files of backend/ include this.
 */
#ifndef BACKEND_CHAN_H
#define BACKEND_CHAN_H

#include "backend/backend.h"
#include "backend/unix.h"

#define CHAN_IN_BYTES  4096
#define CHAN_OUT_BYTES (1u << 20)

/* What kind of channel it is. Constant; arg is handed to its functions. */
struct chan_config {
    const char *name;  /* for messages and the thread: "serial console" */
    int in_fd, out_fd; /* -1: none. May be the same one. Closed by `closed`. */
    bool in_is_tty;    /* go on reading when the guest does not: the escape key must get through */
    bool out_counts;   /* losing output is an error, not only a warning: see chr_lost_output() */
    int drain_ms;      /* closing waits that long for a reader that takes nothing */
    const char *slow;  /* what to say of a reader that is too slow */
    /* Visitors are let in; then in_fd is -1. */
    bool visited;
    enum chr_keep keep;                   /* what is written while there is none */
    bool needs_visitor;                   /* without one nobody is there: see chr_attended() */
    const struct unix_listener *listener; /* where they come from, too; or NULL */
    /* Looks at input before the device does and may take bytes out; returns how many are left. */
    size_t (*filter)(void *arg, uint8_t *buf, size_t bytes);
    void (*closed)(void *arg); /* the thread has ended, `arg` may go */
    void *arg;
};

/* NULL after a message; then cfg->closed was called. */
struct chr *chan_open(const struct chan_config *cfg);
/* The cfg->arg it was opened with. */
void *chan_arg(struct chr *c);

void chr_init(struct chr *c, const struct chr_ops *ops);
void chr_fini(struct chr *c);

#endif
