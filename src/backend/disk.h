/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disk images: a file or a block device, reached by requests that are done in the background.
 *
 * A disk has a thread, which does everything: after disk_kick() it asks its client for requests
 * (poll), which the client gives by disk_submit(); for those that were done it calls done(), and
 * after some of them batch(). The client's functions are called without locks.
 *
 * A write for which the host has no room is not an error: the disk keeps it and tries again until
 * there is room, and tells by held() that it would be good if the guest waited.
 */
#ifndef BACKEND_DISK_H
#define BACKEND_DISK_H

#include "host/host.h"
#include "lib/types.h"

#define DISK_SECTOR_BYTES 512u

struct disk;

enum disk_aio { DISK_AIO_AUTO, DISK_AIO_URING, DISK_AIO_THREADS };

struct disk_config {
    const char *name; /* for messages: "disk0"; outlives the disk */
    const char *path; /* the same */
    bool readonly;
    enum disk_aio aio;
};

enum disk_op { DISK_READ, DISK_WRITE, DISK_FLUSH, DISK_DISCARD, DISK_ZERO, NR_DISK_OPS };

/* Its memory is the client's, until done(). */
struct disk_req {
    enum disk_op op;
    bool through;               /* a write: done only when it is on stable storage */
    bool unmap;                 /* DISK_ZERO: the space may be given back */
    uint64_t off_bytes, bytes;  /* inside the disk: the client's care */
    const struct host_iov *iov; /* for reads and writes: `bytes` in all */
    unsigned nr_iov;
    int error; /* for done(): 0 or -errno */

    /* The disk's own. */
    struct disk_req *next;
    uint64_t done_bytes;
};

struct disk_client {
    void (*poll)(void *arg);
    void (*done)(void *arg, struct disk_req *r);
    void (*batch)(void *arg);
    void (*held)(void *arg, bool on);
    void *arg;
};

/* NULL after a message: it is not there, or somebody else has it open. */
struct disk *disk_open(const struct disk_config *cfg);
/* NULL is fine. Nobody is connected any more. */
void disk_close(struct disk *d);

const char *disk_name(const struct disk *d);
bool disk_readonly(const struct disk *d);
uint64_t disk_bytes(struct disk *d); /* a multiple of DISK_SECTOR_BYTES; any thread */
/*
 * Any thread: makes the image larger (a file), or finds out the new size of what was made larger
 * (bytes = 0, a file or a device). -EINVAL after a message: it would shrink. The client is not
 * told.
 */
int disk_resize(struct disk *d, uint64_t bytes) MUST_CHECK;

/* Starts the thread. 0 or -errno after a message. */
int disk_connect(struct disk *d, const struct disk_client *client) MUST_CHECK;
/* Ends it. No request is out. */
void disk_disconnect(struct disk *d);
void disk_kick(struct disk *d); /* any thread */
/* From poll() and done() only. */
void disk_submit(struct disk *d, struct disk_req *r);
/* Any thread. While on, writes without room are errors: so that all requests end soon. */
void disk_give_up(struct disk *d, bool on);

#endif
