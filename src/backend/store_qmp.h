/* SPDX-License-Identifier: Apache-2.0 */
/*
 * QMP, the protocol in which QEMU's programs are told what to do: one command, its answer, and
 * events in between; over a socket to a process of ours.
 *
 * Manual: "QEMU Machine Protocol Specification" (QEMU, docs/interop/qmp-spec.txt).
 */
#ifndef BACKEND_STORE_QMP_H
#define BACKEND_STORE_QMP_H

#include <jansson.h>

#include "host/host.h"

struct qmp {
    int fd;
    char *in; /* malloc'ed: received and not yet used */
    size_t in_bytes, in_room;
    char why[256]; /* the last failure: a sentence */
};

/* Takes the socket, hears the greeting. 0, or -errno and q->why; in any case q can be closed. */
int qmp_open(struct qmp *q, int fd) MUST_CHECK;
void qmp_close(struct qmp *q);
/*
 * Executes a command; args (which it takes over) may be NULL. 0 and its result in *result, if that
 * is not NULL; or -errno and q->why: -EINVAL if it was refused.
 */
int qmp_do(struct qmp *q, const char *command, json_t *args, json_t **result) MUST_CHECK;
/* Waits for an event of that name whose data have the value under the key. */
int qmp_wait(struct qmp *q, const char *event, const char *key, const char *value) MUST_CHECK;

#endif
