/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The virtio memory balloon: pages that the guest gives up go back to the host. When it wants one
 * again it just uses it, and finds zeroes. Besides what it is asked for, the guest reports free
 * pages by itself (free page reporting), and they go back, too.
 *
 * Giving back takes the host a while, so it is done in a thread, not in the vCPU's.
 *
 * Manual: Virtual I/O Device 1.2, "Traditional Memory Balloon Device".
 */
#include "virtio/balloon.h"

#include <stdlib.h>
#include <string.h>

#define F_STATS_VQ       1u
#define F_DEFLATE_ON_OOM 2u
#define F_REPORTING      5u

/* In this order; those whose feature was not agreed on are not there, and the next moves up. */
enum balloon_queue { Q_INFLATE, Q_DEFLATE, Q_STATS, Q_HINTING, Q_REPORTING, NR_QUEUES };

#define QUEUE_SIZE     128u
#define PFNS           1024u /* read at once */
#define STAT_BYTES     10u   /* packed: a tag of 16 bits, a value of 64 */
#define STATS_MAX      64u
#define NS_PER_MS      1000000ull
#define PCI_CLASS_NONE 0x00ff00

static struct virtio_balloon *balloon_of(struct virtio *vd)
{
    return container_of(vd, struct virtio_balloon, vd);
}

/* NULL: not there. */
static struct virtq *balloon_queue(struct virtio_balloon *b, enum balloon_queue which)
{
    static const uint8_t feature[NR_QUEUES] = {
        [Q_STATS] = F_STATS_VQ, [Q_HINTING] = BALLOON_F_HINTING, [Q_REPORTING] = F_REPORTING
    };
    unsigned idx = Q_STATS;

    if (which <= Q_DEFLATE)
        return &b->vd.queues[which];
    for (unsigned before = Q_STATS; before < which; before++)
        idx += virtio_has(&b->vd, feature[before]);
    return virtio_has(&b->vd, feature[which]) ? &b->vd.queues[idx] : NULL;
}

/* ---- the queues; the thread ---- */

/* Pages one behind the other, upwards or downwards, go back in one piece. */
static uint64_t balloon_discard(struct virtio_balloon *b, const uint32_t *pfns, unsigned nr)
{
    uint64_t done = 0;

    for (unsigned i = 0, run; i < nr; i += run) {
        uint64_t first = pfns[i];

        for (run = 1; i + run < nr && pfns[i + run] == pfns[i] + (uint64_t)run; run++)
            ;
        if (run == 1) {
            for (; i + run < nr && pfns[i + run] + (uint64_t)run == pfns[i]; run++)
                ;
            first = pfns[i + run - 1];
        }
        done += mmu_discard(b->vd.mmu, GPA(first << PAGE_SHIFT), (uint64_t)run << PAGE_SHIFT);
    }
    return done;
}

/* Each buffer is an array of page numbers. */
static uint64_t balloon_inflate(struct virtio_balloon *b, const struct virtq_chain *c)
{
    uint64_t done = 0;
    uint32_t off_bytes = 0, pfns[PFNS], n;

    while ((n = virtq_read(c, off_bytes, pfns, sizeof(pfns))) >= sizeof(pfns[0])) {
        done += balloon_discard(b, pfns, n / sizeof(pfns[0]));
        off_bytes += n;
    }
    return done;
}

/* The buffers themselves are the free pages. */
static uint64_t balloon_report(struct virtio_balloon *b, const struct virtq_chain *c)
{
    uint64_t done = 0;

    for (unsigned i = c->nr_out; i < (unsigned)c->nr_out + c->nr_in; i++)
        done += mmu_discard(b->vd.mmu, c->at[i], c->iov[i].bytes);
    return done;
}

/* The pages come back when the guest touches them. */
static uint64_t balloon_deflate(struct virtio_balloon *b, const struct virtq_chain *c)
{
    (void)b;
    return (uint64_t)(c->out_bytes / sizeof(uint32_t)) << PAGE_SHIFT;
}

static void balloon_serve(struct virtio_balloon *b, struct virtq *q,
                          uint64_t (*serve)(struct virtio_balloon *b, const struct virtq_chain *c),
                          _Atomic uint64_t *bytes)
{
    struct host_iov iov[2 * QUEUE_SIZE];
    gpa_t at[2 * QUEUE_SIZE];
    struct virtq_chain c = { .iov = iov, .at = at, .max = ARRAY_SIZE(iov) };

    if (!q)
        return;
    virtio_lock(&b->vd);
    while (virtq_pop(q, &c)) {
        uint64_t done;

        virtio_unlock(&b->vd);
        done = serve(b, &c);
        atomic_fetch_add_explicit(bytes, done, memory_order_relaxed);
        virtio_lock(&b->vd);
        virtq_push(q, &c, 0);
        virtq_publish(q);
    }
    virtio_unlock(&b->vd);
    virtio_signal(&b->vd);
}

/* ---- statistics ---- */

static void balloon_note_stats(struct virtio_balloon *b, const struct virtq_chain *c)
{
    uint8_t text[STAT_BYTES * STATS_MAX];
    uint32_t nr = virtq_read(c, 0, text, sizeof(text)) / STAT_BYTES;

    lock_take(&b->lock);
    for (uint32_t i = 0; i < nr; i++) {
        uint16_t tag;

        memcpy(&tag, text + STAT_BYTES * i, sizeof(tag));
        if (tag < NR_BALLOON_STATS)
            memcpy(&b->stats[tag], text + STAT_BYTES * i + sizeof(tag), sizeof(b->stats[0]));
    }
    b->nr_stats++;
    cond_wake_all(&b->changed);
    lock_drop(&b->lock);
}

static void balloon_wake(struct virtio_balloon *b, bool quit)
{
    lock_take(&b->lock);
    b->due = true;
    b->quit |= quit;
    cond_wake_all(&b->changed);
    lock_drop(&b->lock);
}

/* Chains that are looked at before others have their turn. */
#define STATS_BURST 64u

/*
 * The driver gives a buffer with its first statistics; returned, it comes again with new ones. To
 * the end of the queue, so that the next one is notified.
 */
static void balloon_take_stats(struct virtio_balloon *b)
{
    struct virtq *q = balloon_queue(b, Q_STATS);
    struct virtq_chain c = { .iov = b->held_iov, .at = b->held_at, .max = BALLOON_HELD_MAX };
    unsigned nr = 0;

    if (!q)
        return;
    virtio_lock(&b->vd);
    while (nr < STATS_BURST && virtq_pop(q, &c)) {
        nr++;
        if (b->holds)
            virtq_push(q, &b->held, 0);
        b->held = c;
        b->holds = true;
        balloon_note_stats(b, &c);
    }
    virtq_publish(q);
    virtio_unlock(&b->vd);
    virtio_signal(&b->vd);
    if (nr == STATS_BURST)
        balloon_wake(b, false);
}

/* Device's lock held. */
static void balloon_return_stats(struct virtio_balloon *b)
{
    struct virtq *q = balloon_queue(b, Q_STATS);

    if (!b->holds || !q)
        return;
    b->holds = false;
    virtq_push(q, &b->held, 0);
    virtq_publish(q);
}

bool virtio_balloon_stats(struct virtio_balloon *b, uint64_t wait_ns,
                          uint64_t stats[NR_BALLOON_STATS])
{
    uint64_t end_ns = host_mono_ns() + wait_ns, nr;
    bool any;

    lock_take(&b->lock);
    nr = b->nr_stats;
    lock_drop(&b->lock);
    if (wait_ns) {
        virtio_lock(&b->vd);
        balloon_return_stats(b);
        virtio_unlock(&b->vd);
        virtio_signal(&b->vd);
    }
    lock_take(&b->lock);
    while (nr && b->nr_stats == nr && cond_wait_until(&b->changed, &b->lock, end_ns))
        ;
    any = b->nr_stats;
    memcpy(stats, b->stats, sizeof(b->stats));
    lock_drop(&b->lock);
    return any;
}

/* ---- the thread ---- */

static void *balloon_main(void *arg)
{
    struct virtio_balloon *b = arg;

    lock_take(&b->lock);
    for (;;) {
        while (!b->due && !b->quit)
            cond_wait(&b->changed, &b->lock);
        if (b->quit)
            break;
        b->due = false;
        lock_drop(&b->lock);
        balloon_serve(b, balloon_queue(b, Q_INFLATE), balloon_inflate, &b->inflated_bytes);
        balloon_serve(b, balloon_queue(b, Q_DEFLATE), balloon_deflate, &b->deflated_bytes);
        balloon_serve(b, balloon_queue(b, Q_REPORTING), balloon_report, &b->reported_bytes);
        balloon_serve(b, balloon_queue(b, Q_HINTING), balloon_hint, &b->hinted_bytes);
        balloon_take_stats(b);
        lock_take(&b->lock);
    }
    lock_drop(&b->lock);
    return NULL;
}

/* ---- the device ---- */

static void balloon_notify(struct virtio *vd, struct virtq *q)
{
    (void)q;
    balloon_wake(balloon_of(vd), false);
}

static void balloon_start(struct virtio *vd)
{
    balloon_wake(balloon_of(vd), false);
}

/* Only what the driver says of itself. */
static void balloon_config_write(struct virtio *vd, uint32_t off_bytes, const void *buf,
                                 uint32_t bytes)
{
    struct virtio_balloon *b = balloon_of(vd);

    for (uint32_t i = 0; i < bytes; i++) {
        uint32_t at = off_bytes + i - (uint32_t)offsetof(struct balloon_config, nr_actual);

        if (off_bytes + i >= offsetof(struct balloon_config, nr_actual) &&
            at < sizeof(b->config.nr_actual))
            ((uint8_t *)&b->config.nr_actual)[at] = ((const uint8_t *)buf)[i];
    }
}

/* The memory is the guest's again; what it was asked for stays, for the next driver. */
static void balloon_reset(struct virtio *vd)
{
    struct virtio_balloon *b = balloon_of(vd);

    b->config.nr_actual = 0;
    balloon_hint_reset(b);
    virtio_lock(vd);
    balloon_return_stats(b);
    virtio_unlock(vd);
}

static void balloon_queue_reset(struct virtio *vd, struct virtq *q)
{
    struct virtio_balloon *b = balloon_of(vd);

    virtio_lock(vd);
    if (q == balloon_queue(b, Q_STATS))
        balloon_return_stats(b);
    virtio_unlock(vd);
}

/* The driver's buffer for statistics waits here until they are asked for. */
static unsigned balloon_keeps(struct virtio *vd)
{
    return balloon_of(vd)->holds;
}

static void balloon_loaded(struct virtio *vd, bool running)
{
    balloon_hint_loaded(balloon_of(vd));
    if (running)
        balloon_wake(balloon_of(vd), false);
}

static const struct state_field balloon_state[] = {
    FIELD(struct virtio_balloon, config, BYTES, 1),
    FIELD(struct virtio_balloon, hint_last, U32, 2),
    FIELD(struct virtio_balloon, hint_guest, U32, 2),
    FIELD(struct virtio_balloon, hint_told, BOOL, 2),
};

static const struct virtio_type balloon_type = {
    .name = "virtio-balloon",
    .id = VIRTIO_ID_BALLOON,
    .pci_class = PCI_CLASS_NONE,
    .start = balloon_start,
    .notify = balloon_notify,
    .config_write = balloon_config_write,
    .reset = balloon_reset,
    .queue_reset = balloon_queue_reset,
    .state = STATE_TABLE("virtio-balloon", balloon_state, 2),
    .vd_off_bytes = offsetof(struct virtio_balloon, vd),
    .keeps = balloon_keeps,
    .loaded = balloon_loaded,
};

void virtio_balloon_want(struct virtio_balloon *b, uint64_t bytes)
{
    struct lock *machine = bus_lock(b->vd.bus);

    lock_take(machine);
    b->config.nr_wanted = (uint32_t)MIN(bytes >> PAGE_SHIFT, UINT32_MAX);
    virtio_config_changed(&b->vd);
    lock_drop(machine);
}

void virtio_balloon_sizes(struct virtio_balloon *b, uint64_t *wanted_bytes, uint64_t *actual_bytes)
{
    struct lock *machine = bus_lock(b->vd.bus);

    lock_take(machine);
    *wanted_bytes = (uint64_t)b->config.nr_wanted << PAGE_SHIFT;
    *actual_bytes = (uint64_t)b->config.nr_actual << PAGE_SHIFT;
    lock_drop(machine);
}

int virtio_balloon_init(struct virtio_balloon *b, struct bus *bus, struct mmu *mmu, unsigned flags)
{
    int err;

    *b = (struct virtio_balloon){ .made = true };
    lock_init(&b->lock, LOCK_LEAF);
    cond_init(&b->changed);
    err =
        virtio_init(&b->vd, &(struct virtio_desc){
                                .type = &balloon_type,
                                .name = "balloon",
                                .bus = bus,
                                .mmu = mmu,
                                .features = BIT64(F_STATS_VQ) | BIT64(F_REPORTING) |
                                            (flags & BALLOON_KEEPS ? 0 : BIT64(F_DEFLATE_ON_OOM)) |
                                            (flags & BALLOON_HINTS ? BIT64(BALLOON_F_HINTING) : 0),
                                /* Snapshots know the number: one more only for who asked. */
                                .nr_queues = flags & BALLOON_HINTS ? NR_QUEUES : NR_QUEUES - 1,
                                .queue_size = QUEUE_SIZE,
                                .config = &b->config,
                                .config_bytes = sizeof(b->config),
                            });
    if (!err)
        err = thread_start(&b->thread, "balloon", balloon_main, b);
    if (err)
        virtio_balloon_fini(b);
    return err;
}

void virtio_balloon_stop(struct virtio_balloon *b)
{
    if (!b->made || !b->thread.started)
        return;
    balloon_wake(b, true);
    thread_join(&b->thread);
}

void virtio_balloon_fini(struct virtio_balloon *b)
{
    if (!b->made)
        return;
    virtio_balloon_stop(b);
    virtio_fini(&b->vd);
    cond_destroy(&b->changed);
    lock_destroy(&b->lock);
    b->made = false;
}
