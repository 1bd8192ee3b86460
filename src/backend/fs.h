/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A folder of the host, shared with a guest: a server of the FUSE protocol (7.31 to 7.37), as a
 * virtio file system device speaks it.
 *
 * The guest is hostile. It names files by numbers that we gave it and by single names in folders
 * that we hold open, so it reaches nothing above the shared folder; symbolic links are handed to it
 * and never followed here; devices, pipes and sockets are never opened.
 *
 * The share has threads of its own, since any request may wait for the host's disk: after fs_kick()
 * they take requests from their client and give each back when it is done.
 */
#ifndef BACKEND_FS_H
#define BACKEND_FS_H

#include "host/host.h"
#include "lib/types.h"

#define FS_TAG_MAX    36u     /* Virtual I/O Device 1.2, "File System Device": bytes of a tag */
#define FS_WORKERS    9u      /* the first is for what must not wait behind others */
#define FS_HEAD_BYTES 40u     /* of each request: struct fuse_in_header */
#define FS_OUT_BYTES  16u     /* of each answer: struct fuse_out_header */
#define FS_IOV_MAX    1024u   /* buffers of a request */
#define FS_ARGS_MAX   KIB(72) /* of a request, but for what is written to a file */
#define FS_REPLY_MAX  KIB(72) /* of an answer, but for what is read from a file */
#define FS_DATA_MAX   MIB(1)  /* in one read or write */

struct fs_share;

enum fs_cache {
    FS_CACHE_AUTO,   /* the guest asks again after a second, and each time it opens a file */
    FS_CACHE_NONE,   /* it asks each time */
    FS_CACHE_ALWAYS, /* nobody else changes the folder */
};

struct fs_config {
    const char *tag; /* 1 to FS_TAG_MAX bytes; like the path it outlives the share */
    const char *path;
    bool readonly;
    enum fs_cache cache;
    unsigned nr_shares; /* of this process: they divide its file descriptors; 0: one */
};

/* A request; its memory is the client's. */
struct fs_req {
    /* The guest's buffers, whose contents may change at any time: nr_out to be read, then nr_in to
     * be written; and how many bytes they are. */
    const struct host_iov *iov;
    unsigned nr_out, nr_in; /* FS_IOV_MAX in all */
    uint32_t out_bytes, in_bytes;
    /* The first MIN(out_bytes, FS_ARGS_MAX) bytes of the request, copied; 8-byte aligned. */
    const uint8_t *args;

    /* The answer: so many bytes of reply (FS_REPLY_MAX, 8-byte aligned) are to be copied to the
     * buffers' beginning; nr_written bytes of the buffers are the answer then. 0: there is none. */
    uint8_t *reply;
    uint32_t reply_bytes, nr_written;
};

struct fs_client {
    /*
     * The next request, for this worker (0 to FS_WORKERS - 1; worker 0 gets only urgent ones), or
     * NULL. *more: there is work for another one, too.
     */
    struct fs_req *(*take)(void *arg, unsigned worker, bool *more);
    void (*done)(void *arg, unsigned worker, struct fs_req *r);
    void *arg;
};

/* NULL after a message. */
struct fs_share *fs_open(const struct fs_config *cfg);
/* NULL is fine. It was stopped. */
void fs_close(struct fs_share *fs);
const char *fs_tag(const struct fs_share *fs);

/* Starts the threads. 0 or -errno after a message. */
int fs_start(struct fs_share *fs, const struct fs_client *client) MUST_CHECK;
/* Ends them; no request is out. */
void fs_stop(struct fs_share *fs);
/* Any thread: there are requests; urgent: for worker 0. */
void fs_kick(struct fs_share *fs, bool urgent);
/* Any thread; no request is out: forgets all that the guest had looked up and opened. */
void fs_end_session(struct fs_share *fs);

/* ---- for snapshots: no request is out (fs_state.c) ---- */

#define FS_STATE_VERSION 1u
/* What the guest has looked up and opened, malloc'ed. 0 or -errno after a message. */
int fs_save(struct fs_share *fs, uint8_t **data, size_t *bytes) MUST_CHECK;
/* The same again, as far as it is still there. 0, or -errno after a message: the guest has nothing.
 */
int fs_load(struct fs_share *fs, const uint8_t *data, size_t bytes) MUST_CHECK;

/* ---- for the workers, and for tests without them ---- */

/* The calling thread is going to serve. 0 or -errno. */
int fs_thread_begin(struct fs_share *fs) MUST_CHECK;
/* Does a request and fills in its answer. */
void fs_serve(struct fs_share *fs, struct fs_req *r);
/* How many nodes (but for the root) and open files the guest has. */
void fs_count(struct fs_share *fs, unsigned *nr_nodes, unsigned *nr_files);

#endif
