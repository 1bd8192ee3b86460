/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio memory balloon: see balloon.c. */
#ifndef VIRTIO_BALLOON_H
#define VIRTIO_BALLOON_H

#include <stdatomic.h>

#include "virtio/virtio.h"

/* Virtual I/O Device 1.2, "Traditional Memory Balloon Device", "Memory Statistics Tags" */
enum balloon_stat {
    BALLOON_SWAP_IN,
    BALLOON_SWAP_OUT,
    BALLOON_MAJOR_FAULTS,
    BALLOON_MINOR_FAULTS,
    BALLOON_FREE,
    BALLOON_TOTAL,
    BALLOON_AVAILABLE,
    BALLOON_CACHES,
    NR_BALLOON_STATS,
};

#define BALLOON_HELD_MAX 4 /* pieces of the buffer for statistics */

struct balloon_config {
    uint32_t nr_wanted, nr_actual; /* pages of 4 KiB */
    uint32_t hint_id;              /* the host's command: balloon_hint.c */
    uint32_t poison;               /* of a feature that is not offered */
};

struct virtio_balloon {
    struct virtio vd;
    struct balloon_config config; /* guarded by the machine lock */
    struct thread thread;
    _Atomic uint64_t inflated_bytes, deflated_bytes, reported_bytes,
        hinted_bytes; /* since the start */

    struct lock lock; /* LOCK_LEAF: guards what follows */
    struct cond changed;
    bool made, due, quit;
    uint64_t nr_stats; /* reports of the guest */
    uint64_t stats[NR_BALLOON_STATS];
    /* Hinting: the commands of the host, of its last run, and of the guest, if it has told any. */
    uint32_t hint_host, hint_last, hint_guest;
    bool hint_told, hint_acks; /* acks: the host is done when the guest is */

    /* Guarded by the device's lock. */
    bool holds; /* the driver's buffer for statistics is here: to be pushed asks for more */
    struct virtq_chain held;
    struct host_iov held_iov[BALLOON_HELD_MAX];
    gpa_t held_at[BALLOON_HELD_MAX];
};

#define BALLOON_KEEPS BIT(0) /* a driver may not take pages back when its guest has no others */
#define BALLOON_HINTS BIT(1) /* free page hinting */
/* 0 or -errno after a message. */
int virtio_balloon_init(struct virtio_balloon *b, struct bus *bus, struct mmu *mmu,
                        unsigned flags) MUST_CHECK;
/* Ends the thread; before the transport goes. No locks held. */
void virtio_balloon_stop(struct virtio_balloon *b);
void virtio_balloon_fini(struct virtio_balloon *b);

/* Asks the guest to give up that much; any thread, no locks held. */
void virtio_balloon_want(struct virtio_balloon *b, uint64_t bytes);
/* What it was asked for, and what it has given up by now. */
void virtio_balloon_sizes(struct virtio_balloon *b, uint64_t *wanted_bytes, uint64_t *actual_bytes);
/* Asks the guest for statistics, waits that long at most, and copies the last ones: 0 for what it
 * does not know. False: it never gave any. No locks held. */
bool virtio_balloon_stats(struct virtio_balloon *b, uint64_t wait_ns,
                          uint64_t stats[NR_BALLOON_STATS]);

/*
 * Free page hinting: begins a run, or ends it, so that the guest has its pages back; with
 * `acknowledge` that is done when the guest has named all. -EOPNOTSUPP: its driver has no hinting.
 * Any thread, no locks held.
 */
int virtio_balloon_hint_start(struct virtio_balloon *b, bool acknowledge) MUST_CHECK;
int virtio_balloon_hint_stop(struct virtio_balloon *b) MUST_CHECK;
/* The last commands of both sides: 0 (stop), 1 (done) or a run's number. False: the guest has given
 * none. */
bool virtio_balloon_hint_status(struct virtio_balloon *b, uint32_t *host, uint32_t *guest);

/* ---- balloon_hint.c, for balloon.c ---- */
#define BALLOON_F_HINTING 3u
/* A chain of the queue; the device's thread, no locks held. Bytes that went back. */
uint64_t balloon_hint(struct virtio_balloon *b, const struct virtq_chain *c);
/* Machine lock held. */
void balloon_hint_reset(struct virtio_balloon *b);
void balloon_hint_loaded(struct virtio_balloon *b);

#endif
