/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disk images: raw ones (a file or a block device), qcow2, NBD servers' exports, and what another
 * process serves by vhost-user, reached by requests that are done in the background.
 *
 * A disk has a thread, which does everything: after store_kick() it asks its client for requests
 * (poll), which the client gives by store_submit(); for those that were done it calls done(), and
 * after some of them batch(). The client's functions are called without locks.
 *
 * A write for which the host has no room is not an error: the disk keeps it and tries again until
 * there is room, and tells by held() that it would be good if the guest waited.
 */
#ifndef BACKEND_STORE_H
#define BACKEND_STORE_H

#include "host/host.h"
#include "lib/types.h"

#define STORE_SECTOR_BYTES 512u

struct store;

enum store_aio { STORE_AIO_AUTO, STORE_AIO_URING, STORE_AIO_THREADS };

/* AUTO: by the file's name, and refused when what is in the file contradicts it (store_format.c).
 */
enum store_format { STORE_FORMAT_AUTO, STORE_FORMAT_RAW, STORE_FORMAT_QCOW2 };

/* All strings outlive the disk. */
struct store_config {
    const char *name; /* for messages: "disk0" */
    const char *path; /* a file or a block device; or NULL, and ... */
    const char *nbd;  /* ... unix:PATH, or an NBD URI, or ... */
    /* ... the path of a vhost-user process's socket. Whether it is readonly that process says. */
    const char *vhost_user;
    enum store_format format;
    bool readonly;
    bool may_be_empty; /* a file without a sector is no mistake: it gets another one later */
    bool snapshot;     /* a file is never written to: what the guest writes is gone at the end */
    enum store_aio aio;
};

enum store_op { STORE_READ, STORE_WRITE, STORE_FLUSH, STORE_DISCARD, STORE_ZERO, NR_STORE_OPS };

/* Its memory is the client's, until done(). */
struct store_req {
    enum store_op op;
    bool through;               /* a write: done only when it is on stable storage */
    bool unmap;                 /* STORE_ZERO: the space may be given back */
    uint64_t off_bytes, bytes;  /* inside the disk: the client's care */
    const struct host_iov *iov; /* for reads and writes: `bytes` in all */
    unsigned nr_iov;
    int error; /* for done(): 0 or -errno */

    /* The disk's own. */
    struct store_req *next;
    uint64_t done_bytes;
    bool retried; /* had no room, and is tried again */
};

/* Memory that requests are likely to be about, of a file that can be given to another process. */
struct store_memory {
    uint8_t *at;
    uint64_t bytes;
    int fd; /* the client's */
    uint64_t fd_off_bytes;
};
#define STORE_MEMORY_MAX 7u

struct store_client {
    void (*poll)(void *arg);
    void (*done)(void *arg, struct store_req *r);
    void (*batch)(void *arg);
    void (*held)(void *arg, bool on);
    void *arg;
    const struct store_memory *memory; /* looked at by store_connect(); may be none */
    unsigned nr_memory;                /* those behind STORE_MEMORY_MAX are not used */
};

/* NULL after a message: it is not there, or somebody else has it open. The calling thread lives as
 * long as the disk does: a process that serves an image ends with it. */
struct store *store_open(const struct store_config *cfg);
/*
 * A twin: another store on the same open image, with a thread and requests of its own, so that
 * several clients' are done side by side. Size, counts and limits of the image are the first one's.
 * NULL: disks of this kind (all but raw ones) have no twins; or no memory.
 */
struct store *store_twin(struct store *d);
/* NULL is fine. Nobody is connected any more, and its twins are closed. */
void store_close(struct store *d);

const char *store_name(const struct store *d);
/* What was asked of it and its twins; any thread, each number as it is just now. */
struct store_counts {
    uint64_t reads, read_bytes, writes, written_bytes, flushes;
};
struct store_counts store_counts(struct store *d);
bool store_readonly(const struct store *d);
/* Is it that very file, or device, which is open? */
bool store_is_file(const struct store *d, const char *path);
uint64_t store_bytes(struct store *d); /* a multiple of STORE_SECTOR_BYTES; any thread */
/*
 * Any thread: makes the image larger (a file), or finds out the new size of what was made larger
 * (bytes = 0, a raw file or a device). -errno after a message, -EINVAL if it would shrink. The
 * client is not told.
 */
int store_resize(struct store *d, uint64_t bytes) MUST_CHECK;

/* Starts the thread. 0 or -errno after a message. */
int store_connect(struct store *d, const struct store_client *client) MUST_CHECK;
/* Ends it. No request is out. */
void store_disconnect(struct store *d);
void store_kick(struct store *d); /* any thread */
/* An eventfd that is as good as store_kick() when it is made ready, from connecting until then. */
int store_kick_fd(struct store *d);
/* From poll() and done() only. */
void store_submit(struct store *d, struct store_req *r);
/* Any thread. While on, writes without room are errors: so that all requests end soon. */
void store_give_up(struct store *d, bool on);

#endif
