/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process that serves an image: qemu-storage-daemon, told what to do by QMP, with an NBD server
 * on a socket without a name. It has no privileges that it does not need (store_sandbox.c), gets
 * SIGTERM when the thread that started it ends, and then closes its images properly.
 */
#ifndef BACKEND_STORE_CHILD_H
#define BACKEND_STORE_CHILD_H

#include <sys/types.h>

#include "backend/store_impl.h"
#include "backend/store_qmp.h"

struct store_child {
    pid_t pid; /* 0: there is none */
    int pid_fd;
    int said_fd;    /* the first of what it said on its standard error */
    int door_fd;    /* its listening socket, by which one connects though it has no name */
    int overlay_fd; /* -1: none; in the child OVERLAY_PATH */
    struct qmp qmp;
};

#define CHILD_OVERLAY_PATH "/proc/self/fd/5"

/* Starts d->child, which may write to d->fd's file (if that is open for writing) and to the
 * overlay, if that is to be made. -errno after a message. */
int store_child_start(struct store *d, bool with_overlay);
/* A new connection to its NBD server, or -errno. */
int store_child_connect(const struct store_child *c);
/* Why a command failed, for a message: c->qmp.why, or what became of the process. */
const char *store_child_why(struct store_child *c, char *buf, size_t bytes);
/* Ends it: by asking, if there is something to write, else at once. NULL is fine. */
enum child_end { CHILD_QUIT, CHILD_KILL };
void store_child_end(struct store *d, enum child_end how);

/* ---- store_sandbox.c ---- */

/* What a child may write to, for store_sandbox_enter(): a descriptor, or -1 where the kernel has no
 * Landlock. fds that are < 0 do not count. */
int store_sandbox_prepare(const int *fds, unsigned nr_fds);
/* In the child, before exec: system calls only. with_uring: it may use io_uring, whose requests
 * (sockets among them) no filter sees. False: it cannot be confined. */
bool store_sandbox_enter(int rules_fd, bool with_uring);

#endif
