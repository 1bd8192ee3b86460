/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio 1.2 devices: what a device type (blk.c, net.c, ...) fills in, and the queues it works
 * with. The transports (mmio.c, pci.c) are on the other side: transport.h.
 *
 * Threads and locks. The transports run in vCPU threads with the machine lock held; they call the
 * device type's functions so. A device works on its queues in a thread of its own, or its
 * backend's: notify() only wakes that thread. Queue functions want the device's lock
 * (virtio_lock(), rank VIRTIO, above MACHINE); interrupts need the machine lock, so they are sent
 * apart, by virtio_signal() with no lock held:
 *
 *     virtio_lock(vd);
 *     while (virtq_pop(q, &chain)) {
 *         ...                                  // or keep the chain, and push it later
 *         virtq_push(q, &chain, nr_written);
 *     }
 *     virtq_publish(q);
 *     virtio_unlock(vd);
 *     virtio_signal(vd);
 *
 * The guest is hostile: virtq_pop() copies descriptors once and checks everything; what it returns
 * are host pointers to RAM, whose contents may still change at any time. After the first wrong
 * thing the device is broken: it sets DEVICE_NEEDS_RESET, and its queues are empty until it was
 * reset.
 *
 * A device reset returns when no chain is out: all that were popped were pushed (or put back). So
 * who keeps chains must push each of them in the end, whatever happened; after a reset began,
 * virtq_push() only counts. Slots of RAM do not go away while devices run, so the pointers stay
 * good until then.
 *
 * Snapshots. The transport's table has its registers; status, features and queues are saved by the
 * core (state.c), and what else a device type has by its own table (virtio_type.state). While the
 * machine stands still (`paused`) no chain is popped, and a snapshot waits until those that are out
 * have come back; then there is nothing of a request but what is in the guest's memory. Chains that
 * a device keeps on purpose until something happens (`keeps`) have to be the last ones of their
 * queue: the restored machine finds them not popped yet, and pops them again. `loaded` takes the
 * place of `start` in a restored machine.
 */
#ifndef VIRTIO_VIRTIO_H
#define VIRTIO_VIRTIO_H

#include "bus/bus.h"
#include "mmu/mmu.h"

/* Virtual I/O Device 1.2, "Device Types" */
enum virtio_id {
    VIRTIO_ID_NET = 1,
    VIRTIO_ID_BLOCK = 2,
    VIRTIO_ID_CONSOLE = 3,
    VIRTIO_ID_RNG = 4,
    VIRTIO_ID_BALLOON = 5,
    VIRTIO_ID_VSOCK = 19,
    VIRTIO_ID_MEM = 24,
    VIRTIO_ID_FS = 26,
    VIRTIO_ID_PMEM = 27,
};

/* "Reserved Feature Bits". The core offers these itself; a device type offers its own, 0 to 23. */
#define VIRTIO_F_INDIRECT_DESC 28u
#define VIRTIO_F_EVENT_IDX     29u
#define VIRTIO_F_VERSION_1     32u
#define VIRTIO_F_RING_PACKED   34u
#define VIRTIO_F_RING_RESET    40u

#define VIRTQ_SIZE_MAX 1024u

struct virtio;
struct virtq;

/*
 * The constant part of a device. All are called with the machine lock held and the device's lock
 * not, never while the device is broken; all but notify are optional.
 */
struct virtio_type {
    const char *name; /* "virtio-blk" */
    enum virtio_id id;
    uint32_t pci_class; /* 24 bits; of the PCI function */
    /* FEATURES_OK was set: virtio_has() tells what was agreed on. False refuses them. */
    bool (*features_ok)(struct virtio *vd);
    /* DRIVER_OK was set: queues that are ready now are used from now on. */
    void (*start)(struct virtio *vd);
    /* There are (most likely) new buffers. Wakes the device's thread. */
    void (*notify)(struct virtio *vd, struct virtq *q);
    /*
     * Optional: an eventfd that wakes the device's thread when it is made ready, as notify() does;
     * -1: this queue has none. The same one until virtio_set_fds() says that it goes.
     */
    int (*notify_fd)(struct virtio *vd, struct virtq *q);
    /*
     * Reading and writing the device's configuration space, [off, off + bytes) in it. Without
     * config_read the bytes of vd->config are read.
     */
    void (*config_read)(struct virtio *vd, uint32_t off_bytes, void *buf, uint32_t bytes);
    void (*config_write)(struct virtio *vd, uint32_t off_bytes, const void *buf, uint32_t bytes);
    /*
     * The device is being reset: queues are empty from now on. Chains that are out must be pushed
     * soon, finished or not: the core waits for them, with the machine lock dropped, when this has
     * returned. To be idempotent.
     */
    void (*reset)(struct virtio *vd);
    /* The reset is done: no chain is out. */
    void (*reset_done)(struct virtio *vd);
    /*
     * This queue is being reset, or the driver took it back: it is empty from now on. Chains of it
     * that are only kept must be pushed; those at work come by themselves, and the driver waits.
     */
    void (*queue_reset)(struct virtio *vd, struct virtq *q);
    /*
     * For snapshots. What is saved of the struct that the device is embedded in, vd_off bytes
     * before it; version 0: nothing.
     */
    struct state_table state;
    size_t vd_off_bytes;
    const struct state_blob *blob; /* optional: behind the table, of the same struct */
    /* Device's lock held: how many of the chains that are out it keeps on purpose. None without. */
    unsigned (*keeps)(struct virtio *vd);
    /*
     * The state was loaded: as start(), of a device that ran; running: DRIVER_OK was set. Also the
     * place to put right what a hostile state may hold. Called for all devices, running or not.
     * NULL: a machine with such a device cannot be saved.
     */
    void (*loaded)(struct virtio *vd, bool running);
};

struct virtio_desc {
    const struct virtio_type *type;
    const char *name; /* for messages: "disk0"; outlives the device */
    struct bus *bus;
    struct mmu *mmu;
    uint64_t features; /* of the device type; the core adds its own */
    uint64_t withheld; /* ... but for these */
    unsigned nr_queues;
    uint16_t queue_size; /* most entries of each queue: a power of two up to VIRTQ_SIZE_MAX */
    void *config;        /* the configuration space; the device's, changed under the machine lock */
    uint32_t config_bytes;
};

/* ---- a device: embedded in the struct of its type ---- */

/* A virtqueue. For everybody but virtq*.c only idx, vd and enabled are of interest. */
struct virtq {
    struct virtio *vd;
    uint16_t idx;
    bool enabled; /* the driver made it ready */

    /* Set by the driver before that; guarded by the machine lock. */
    uint16_t size, max_size;
    gpa_t desc_at, driver_at, device_at;

    /* Guarded by the device's lock. */
    bool usable;    /* enabled, mapped, and the device started */
    bool resetting; /* by itself: until none of its chains is out */
    bool packed, event_idx;
    uint8_t *desc, *driver, *device; /* the three areas in RAM, as large as size says */
    uint16_t avail;             /* next to be popped: split: as avail.idx counts; packed: slot */
    uint16_t used;              /* next to be pushed, the same */
    uint16_t nr_unsignalled;    /* so much of `used` since the last decision to interrupt */
    bool avail_wrap, used_wrap; /* packed: the wrap counters */
    bool notify_off;            /* the driver was asked not to notify */
    uint16_t nr_out;            /* chains that are out; packed: their descriptors */
    uint16_t first_flags;       /* packed: flags of the first slot that is not published */
    uint16_t first_slot;
    bool unpublished;
    uint16_t saved_avail; /* for state.c: avail without what is out */
    bool saved_avail_wrap;
};

struct virtio {
    const struct virtio_type *type;
    const char *name;
    struct bus *bus;
    struct mmu *mmu;
    void *config;
    uint32_t config_bytes;
    unsigned nr_queues;
    struct virtq *queues;

    /* Guarded by the machine lock. */
    uint64_t offered, features; /* features: what the driver accepted */
    uint8_t status;             /* VIRTIO_STATUS_*; 0 while the reset is under way, too */
    uint8_t config_generation;
    bool no_fds;                                  /* see virtio_set_fds() */
    const struct virtio_transport_ops *transport; /* NULL: none yet */
    void *transport_arg;
    struct cond idle; /* with the machine lock: a reset may go on */

    struct lock lock; /* LOCK_VIRTIO: guards what follows, and the queues */
    bool broken;      /* see above */
    bool broken_told; /* DEVICE_NEEDS_RESET was set */
    bool resetting;
    bool no_dma;         /* the transport may not reach memory now (PCI: Bus Master) */
    bool paused;         /* the machine stands still */
    bool config_due;     /* ... and the configuration has changed since */
    uint32_t nr_out;     /* chains that are out */
    uint64_t irq_queues; /* queues whose interrupt is due; their number is at most 64 */
    struct log_seen seen;
};

/* May the device look at its queues at all? Device's lock held. */
static inline bool virtio_may_work(const struct virtio *vd)
{
    return !vd->broken && !vd->no_dma && !vd->paused;
}

/* 0 or -ENOMEM after a message. */
int virtio_init(struct virtio *vd, const struct virtio_desc *desc) MUST_CHECK;
/* The transport is gone, and so are all chains that were out. A zeroed struct is fine, too. */
void virtio_fini(struct virtio *vd);

static inline bool virtio_has(const struct virtio *vd, unsigned feature)
{
    return vd->features & BIT64(feature);
}

static inline void virtio_lock(struct virtio *vd)
{
    lock_take(&vd->lock);
}

static inline void virtio_unlock(struct virtio *vd)
{
    lock_drop(&vd->lock);
}

/*
 * Sends the interrupts that virtq_publish() found due, and what a broken queue or a reset that
 * waits needs. No lock of rank MACHINE or above may be held. Cheap when there is nothing to send,
 * but to be called after every round that pushed, popped or put back.
 */
void virtio_signal(struct virtio *vd);
/* The same, by a thread that holds the machine lock (and not the device's). */
void virtio_signal_locked(struct virtio *vd);
/* The descriptors that notify_fd() gave are about to go (false), or are there again, perhaps
 * others. Machine lock held. */
void virtio_set_fds(struct virtio *vd, bool on);
/* The bytes at vd->config changed: machine lock held since before. */
void virtio_config_changed(struct virtio *vd);
/* The driver did something that this device type's section of the specification forbids. Device's
 * lock held. why: "a header of 3 bytes". */
void virtio_broken(struct virtio *vd, const char *why);

/* ---- queues: device's lock held ---- */

/*
 * A chain of buffers: iov[0 .. nr_out - 1] is for the device to read, the nr_in behind them are for
 * it to write. An empty buffer gives no element.
 */
struct virtq_chain {
    /* From the caller: arrays of max elements, which stay as long as the chain does. */
    struct host_iov *iov;
    gpa_t *at; /* the same in guest-physical memory */
    uint16_t max;

    uint16_t nr_out, nr_in;
    uint32_t out_bytes, in_bytes; /* sums */
    /* The core's own. */
    uint16_t id, nr_descs;
};

/*
 * The next chain, or false: there is none now, and notify() will be called when there is one. A
 * chain of more than max elements breaks the device: the device type's limits (seg_max) must have
 * told the driver.
 */
bool virtq_pop(struct virtq *q, struct virtq_chain *c);
/* Undoes the last virtq_pop(), or several of them from the last on. */
void virtq_unpop(struct virtq *q, const struct virtq_chain *c);
/*
 * The chain is done; nr_written: so many bytes of its buffers for writing, from the first one on,
 * were (or may have been) written. Noted in the MMU here. In any order.
 */
void virtq_push(struct virtq *q, const struct virtq_chain *c, uint32_t nr_written);
/* All that was pushed is shown to the driver at once, and whether it wants an interrupt found out.
 */
void virtq_publish(struct virtq *q);
/* Are there buffers to pop? Without asking for a notification. */
bool virtq_has_work(struct virtq *q);

/* Copies from the chain's buffers for reading, or to those for writing, skipping off_bytes. Returns
 * how many bytes there were, at most `bytes`. */
uint32_t virtq_read(const struct virtq_chain *c, uint32_t off_bytes, void *buf, uint32_t bytes);
uint32_t virtq_write(const struct virtq_chain *c, uint32_t off_bytes, const void *buf,
                     uint32_t bytes);

#endif
