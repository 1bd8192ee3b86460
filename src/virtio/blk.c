/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The virtio block device. Its queues are served by threads of the disk, each with queues and
 * requests of its own (a lane): it is kicked, takes all requests there are, and pushes each when
 * the disk is done with it. Between lanes there is the device's lock, for a moment each time
 * something is popped or pushed.
 *
 * Manual: Virtual I/O Device 1.2, "Block Device".
 */
#include "virtio/blk.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define QUEUE_SIZE    256u
#define SEG_MAX       (QUEUE_SIZE - 2) /* with header and status a full queue */
#define NS_PER_S      1000000000ull
/* More of a guest's queues share threads: processors of the host are rarer than a guest's. */
#define BLK_LANES_MAX 8u
#define BURST_NS      (NS_PER_S / 10)

/* "Feature bits" */
#define F_SEG_MAX      2u
#define F_RO           5u
#define F_BLK_SIZE     6u
#define F_FLUSH        9u
#define F_TOPOLOGY     10u
#define F_MQ           12u
#define F_DISCARD      13u
#define F_WRITE_ZEROES 14u

/* "Device Operation" */
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2, NOT_YET = 0x100 };
#define UNMAP BIT(0)

struct blk_header {
    uint32_t type, reserved;
    uint64_t sector;
};
static_assert(sizeof(struct blk_header) == 16, "Device Operation");

struct blk_range { /* struct virtio_blk_discard_write_zeroes */
    uint64_t sector;
    uint32_t nr_sectors, flags;
};
static_assert(sizeof(struct blk_range) == 16, "Device Operation");

/* "Device configuration layout" */
struct blk_space {
    uint64_t capacity; /* sectors */
    uint32_t size_max, seg_max;
    uint8_t geometry[4];
    uint32_t blk_size;
    uint8_t physical_block_exp, alignment_offset;
    uint16_t min_io_size;
    uint32_t opt_io_size;
    uint8_t writeback, unused0;
    uint16_t num_queues;
    uint32_t max_discard_sectors, max_discard_seg, discard_sector_alignment;
    uint32_t max_write_zeroes_sectors, max_write_zeroes_seg;
    uint8_t write_zeroes_may_unmap, unused1[3];
};
static_assert(sizeof(struct blk_space) == 64 && offsetof(struct blk_space, num_queues) == 34 &&
                  offsetof(struct blk_space, write_zeroes_may_unmap) == 56,
              "Device configuration layout");

#define SPACE_BYTES        60u /* without the padding at its end */
#define DISCARD_SECTORS    (MIB(1024) / STORE_SECTOR_BYTES)
#define ZEROES_SECTORS     (MIB(16) / STORE_SECTOR_BYTES) /* they may have to be written */
#define PHYSICAL_BLOCK_EXP 3                              /* pages of the page cache */

struct blk_req {
    struct store_req io;
    struct blk_lane *lane;
    struct virtq *q;
    struct virtq_chain chain;
    uint8_t *status;
    struct blk_req *next_free;
    struct host_iov iov[QUEUE_SIZE], data[QUEUE_SIZE];
    gpa_t at[QUEUE_SIZE];
};

/* A thread of the disk, and the queues idx, idx + nr_lanes, ... */
struct blk_lane {
    struct virtio_blk *blk;
    unsigned idx;
    struct store *store; /* the disk's, or a twin of it */
    bool connected;

    /* The thread's own. */
    struct blk_req *reqs, *free;
    unsigned nr_reqs;
    unsigned nr_fresh; /* requests from here on in reqs were never used */
};

struct virtio_blk {
    struct virtio vd;
    struct blk_config cfg;
    struct blk_space space;
    char serial[BLK_SERIAL_MAX];
    bool through; /* the driver knows of no flush: writes are stable when done */
    struct blk_lane lanes[BLK_LANES_MAX];
    unsigned nr_lanes;
    uint64_t requests_ns, bytes_ns; /* VM clock: until then the limit is used up; device's lock */
    struct timer throttled;
};

static struct virtio_blk *of_vd(struct virtio *vd)
{
    return container_of(vd, struct virtio_blk, vd);
}

/* ---- requests: the lane's thread ---- */

/* A request that is free: there are as many as its queues have. Last used, first taken. */
static struct blk_req *blk_get_req(struct blk_lane *l)
{
    struct blk_req *r = l->free;

    if (r) {
        l->free = r->next_free;
        return r;
    }
    BUG_ON(l->nr_fresh == l->nr_reqs);
    r = &l->reqs[l->nr_fresh++];
    r->lane = l;
    r->chain = (struct virtq_chain){ .iov = r->iov, .at = r->at, .max = QUEUE_SIZE };
    return r;
}

static void blk_put_req(struct blk_req *r)
{
    r->next_free = r->lane->free;
    r->lane->free = r;
}

/* The request is over: its status is written, the chain goes back. */
static void blk_finish(struct blk_req *r, uint8_t status)
{
    struct virtio_blk *b = r->lane->blk;

    *r->status = status;
    virtio_lock(&b->vd);
    virtq_push(r->q, &r->chain, r->chain.in_bytes);
    virtio_unlock(&b->vd);
    blk_put_req(r);
}

static void blk_done(void *arg, struct store_req *io)
{
    (void)arg;
    blk_finish(container_of(io, struct blk_req, io), io->error ? S_IOERR : S_OK);
}

/* The chain's buffers [first, end) without the first skip bytes, `bytes` of them, as r->data. */
static void blk_set_data(struct blk_req *r, unsigned first, uint64_t skip, uint64_t bytes)
{
    r->io.nr_iov = 0;
    r->io.iov = r->data;
    r->io.bytes = bytes;
    for (unsigned i = first; bytes; i++) {
        uint64_t have = r->iov[i].bytes, n;

        if (skip >= have) {
            skip -= have;
            continue;
        }
        n = MIN(have - skip, bytes);
        r->data[r->io.nr_iov++] =
            (struct host_iov){ .base = (uint8_t *)r->iov[i].base + skip, .bytes = n };
        bytes -= n;
        skip = 0;
    }
}

static bool blk_in_range(struct virtio_blk *b, uint64_t sector, uint64_t bytes)
{
    uint64_t size = store_bytes(b->cfg.store);

    return bytes <= size && sector <= (size - bytes) / STORE_SECTOR_BYTES;
}

static unsigned blk_move(struct blk_req *r, const struct blk_header *h)
{
    struct virtio_blk *b = r->lane->blk;
    bool in = h->type == T_IN;
    uint64_t bytes = in ? r->chain.in_bytes - 1 : r->chain.out_bytes - sizeof(*h);

    if (bytes % STORE_SECTOR_BYTES || !blk_in_range(b, h->sector, bytes))
        return S_IOERR;
    if (!in && store_readonly(b->cfg.store))
        return S_IOERR;
    if (!bytes)
        return S_OK;
    if (in)
        blk_set_data(r, r->chain.nr_out, 0, bytes);
    else
        blk_set_data(r, 0, sizeof(*h), bytes);
    r->io.op = in ? STORE_READ : STORE_WRITE;
    r->io.through = b->through;
    r->io.off_bytes = h->sector * STORE_SECTOR_BYTES;
    store_submit(r->lane->store, &r->io);
    return NOT_YET;
}

static unsigned blk_flush(struct blk_req *r, const struct blk_header *h)
{
    (void)h;
    if (store_readonly(r->lane->blk->cfg.store))
        return S_OK;
    r->io.op = STORE_FLUSH;
    r->io.bytes = 0;
    store_submit(r->lane->store, &r->io);
    return NOT_YET;
}

static unsigned blk_get_id(struct blk_req *r, const struct blk_header *h)
{
    (void)h;
    if (r->chain.in_bytes - 1 < BLK_SERIAL_MAX)
        return S_IOERR;
    (void)virtq_write(&r->chain, 0, r->lane->blk->serial, BLK_SERIAL_MAX);
    return S_OK;
}

/* Discard and write zeroes: one range in a request, as the configuration says. */
static unsigned blk_clear(struct blk_req *r, const struct blk_header *h)
{
    struct virtio_blk *b = r->lane->blk;
    bool discard = h->type == T_DISCARD;
    struct blk_range range;
    uint64_t bytes;

    if (r->chain.out_bytes != sizeof(*h) + sizeof(range))
        return S_IOERR;
    (void)virtq_read(&r->chain, sizeof(*h), &range, sizeof(range));
    bytes = (uint64_t)range.nr_sectors * STORE_SECTOR_BYTES;
    if (range.flags & ~(discard ? 0 : UNMAP))
        return S_UNSUPP;
    if (range.nr_sectors > (discard ? DISCARD_SECTORS : ZEROES_SECTORS) ||
        !blk_in_range(b, range.sector, bytes) || store_readonly(b->cfg.store))
        return S_IOERR;
    if (!bytes)
        return S_OK;
    r->io.op = discard ? STORE_DISCARD : STORE_ZERO;
    r->io.unmap = range.flags & UNMAP;
    r->io.off_bytes = range.sector * STORE_SECTOR_BYTES;
    r->io.bytes = bytes;
    store_submit(r->lane->store, &r->io);
    return NOT_YET;
}

static const struct blk_type {
    uint32_t type;
    unsigned (*handle)(struct blk_req *r, const struct blk_header *h);
} blk_types[] = {
    { T_IN, blk_move },       { T_OUT, blk_move },      { T_FLUSH, blk_flush },
    { T_GET_ID, blk_get_id }, { T_DISCARD, blk_clear }, { T_WRITE_ZEROES, blk_clear },
};

static void blk_handle(struct blk_req *r)
{
    const struct virtq_chain *c = &r->chain;
    const struct host_iov *last = &c->iov[c->nr_out + c->nr_in - 1];
    struct blk_header h;
    unsigned status = S_UNSUPP;

    (void)virtq_read(c, 0, &h, sizeof(h));
    r->status = (uint8_t *)last->base + last->bytes - 1;
    for (unsigned i = 0; i < ARRAY_SIZE(blk_types); i++)
        if (blk_types[i].type == h.type)
            status = blk_types[i].handle(r, &h);
    if (status != NOT_YET)
        blk_finish(r, (uint8_t)status);
}

/* ---- limits ---- */

static void limit_use(uint64_t *until_ns, uint64_t now_ns, uint64_t nr, uint64_t per_s)
{
    uint64_t rested = now_ns > BURST_NS ? now_ns - BURST_NS : 0;

    if (per_s)
        *until_ns = MAX(*until_ns, rested) + (uint64_t)((unsigned __int128)nr * NS_PER_S / per_s);
}

/* Device's lock held: of all that its lanes do together. */
static void limits_use(struct virtio_blk *b, uint64_t now_ns, const struct blk_req *r)
{
    const struct blk_limits *l = &b->cfg.limits;

    limit_use(&b->requests_ns, now_ns, 1, l->requests_per_s);
    limit_use(&b->bytes_ns, now_ns, (uint64_t)r->chain.out_bytes + r->chain.in_bytes,
              l->bytes_per_s);
}

static void blk_kick_all(struct virtio_blk *b)
{
    for (unsigned i = 0; i < b->nr_lanes; i++)
        store_kick(b->lanes[i].store);
}

void virtio_blk_limit(struct virtio_blk *b, const struct blk_limits *limits)
{
    virtio_lock(&b->vd);
    b->cfg.limits = *limits;
    virtio_unlock(&b->vd);
    blk_kick_all(b);
}

static void blk_unthrottle(void *arg)
{
    blk_kick_all(arg);
}

/* ---- queues: the lane's thread ---- */

/* Device's lock held. */
static bool blk_pop(struct virtio_blk *b, struct virtq *q, struct blk_req *r)
{
    if (!virtq_pop(q, &r->chain))
        return false;
    if (r->chain.out_bytes >= sizeof(struct blk_header) && r->chain.in_bytes)
        return true;
    virtio_broken(&b->vd, "a request without a whole header, or without a status");
    virtq_unpop(q, &r->chain);
    return false;
}

/* The next request; or NULL, and if that is because of the limits, the timer will kick. */
static struct blk_req *blk_take(struct blk_lane *l, struct virtq *q)
{
    struct virtio_blk *b = l->blk;
    struct blk_req *r = blk_get_req(l);
    uint64_t until = 0, now = 0;
    bool limited, got;

    virtio_lock(&b->vd);
    limited = b->cfg.limits.requests_per_s || b->cfg.limits.bytes_per_s;
    if (limited) {
        now = clock_now_ns(bus_clock(b->vd.bus));
        until = MAX(b->requests_ns, b->bytes_ns);
    }
    got = until <= now && blk_pop(b, q, r);
    if (got && limited)
        limits_use(b, now, r);
    virtio_unlock(&b->vd);
    if (until > now)
        timer_arm(&b->throttled, until);
    if (!got) {
        blk_put_req(r);
        return NULL;
    }
    r->q = q;
    r->io.through = r->io.unmap = false;
    return r;
}

static void blk_batch(void *arg)
{
    struct blk_lane *l = arg;
    struct virtio_blk *b = l->blk;

    virtio_lock(&b->vd);
    for (unsigned i = l->idx; i < b->vd.nr_queues; i += b->nr_lanes)
        virtq_publish(&b->vd.queues[i]);
    virtio_unlock(&b->vd);
    virtio_signal(&b->vd);
}

static void blk_poll(void *arg)
{
    struct blk_lane *l = arg;
    struct virtio_blk *b = l->blk;
    struct blk_req *r;

    for (unsigned i = l->idx; i < b->vd.nr_queues; i += b->nr_lanes)
        while ((r = blk_take(l, &b->vd.queues[i])))
            blk_handle(r);
    blk_batch(l);
}

static void blk_held(void *arg, bool on)
{
    const struct blk_lane *l = arg;

    bus_post_hold(l->blk->vd.bus, on);
}

/* ---- the device: machine lock held ---- */

static bool blk_features_ok(struct virtio *vd)
{
    /* "Device Operation": without FLUSH the driver takes a write that was done for stable. */
    of_vd(vd)->through = !virtio_has(vd, F_FLUSH);
    return true;
}

static void blk_notify(struct virtio *vd, struct virtq *q)
{
    struct virtio_blk *b = of_vd(vd);

    if (b->nr_lanes) /* not when the disk has lost its image */
        store_kick(b->lanes[q->idx % b->nr_lanes].store);
}

static void blk_give_up(struct virtio_blk *b, bool on)
{
    for (unsigned i = 0; i < b->nr_lanes; i++)
        store_give_up(b->lanes[i].store, on);
}

static int blk_notify_fd(struct virtio *vd, struct virtq *q)
{
    struct virtio_blk *b = of_vd(vd);

    return b->nr_lanes ? store_kick_fd(b->lanes[q->idx % b->nr_lanes].store) : -1;
}

static void blk_reset(struct virtio *vd)
{
    timer_cancel(&of_vd(vd)->throttled);
    blk_give_up(of_vd(vd), true);
}

static void blk_reset_done(struct virtio *vd)
{
    blk_give_up(of_vd(vd), false);
}

static void blk_loaded(struct virtio *vd, bool running)
{
    struct virtio_blk *b = of_vd(vd);

    if (running)
        (void)blk_features_ok(vd); /* which only notes what was agreed on */
    /* The image may have another size by now: the guest is told. */
    if (b->space.capacity != store_bytes(b->cfg.store) / STORE_SECTOR_BYTES) {
        b->space.capacity = store_bytes(b->cfg.store) / STORE_SECTOR_BYTES;
        virtio_config_changed(vd);
    }
}

static const struct state_field blk_state[] = {
    FIELD(struct virtio_blk, space.capacity, U64, 1),
};

static const struct virtio_type blk_type = {
    .name = "virtio-blk",
    .id = VIRTIO_ID_BLOCK,
    .pci_class = 0x010000, /* mass storage, SCSI: what drivers know virtio disks by */
    .features_ok = blk_features_ok,
    .notify = blk_notify,
    .notify_fd = blk_notify_fd,
    .reset = blk_reset,
    .reset_done = blk_reset_done,
    .state = STATE_TABLE("virtio-blk", blk_state, 1),
    .vd_off_bytes = offsetof(struct virtio_blk, vd),
    .loaded = blk_loaded,
};

/* ---- life ---- */

static void blk_set_space(struct virtio_blk *b)
{
    b->space = (struct blk_space){
        .capacity = store_bytes(b->cfg.store) / STORE_SECTOR_BYTES,
        .seg_max = SEG_MAX,
        .blk_size = STORE_SECTOR_BYTES,
        .physical_block_exp = PHYSICAL_BLOCK_EXP,
        .writeback = 1,
        .num_queues = (uint16_t)b->cfg.nr_queues,
        .max_discard_sectors = (uint32_t)DISCARD_SECTORS,
        .max_discard_seg = 1,
        .discard_sector_alignment = 1u << PHYSICAL_BLOCK_EXP,
        .max_write_zeroes_sectors = (uint32_t)ZEROES_SECTORS,
        .max_write_zeroes_seg = 1,
        .write_zeroes_may_unmap = 1,
    };
}

static void blk_close_lanes(struct virtio_blk *b)
{
    for (unsigned i = 0; i < b->nr_lanes; i++) {
        struct blk_lane *l = &b->lanes[i];

        if (l->connected)
            store_disconnect(l->store);
        if (i)
            store_close(l->store);
        free(l->reqs);
        *l = (struct blk_lane){ .idx = i };
    }
    b->nr_lanes = 0;
}

/* The threads do not run yet. */
static int blk_make_lane(struct virtio_blk *b, unsigned idx, struct store *store)
{
    struct blk_lane *l = &b->lanes[idx];

    *l = (struct blk_lane){ .blk = b, .idx = idx, .store = store };
    l->nr_reqs = (b->cfg.nr_queues - idx + b->nr_lanes - 1) / b->nr_lanes * QUEUE_SIZE;
    l->reqs = calloc(l->nr_reqs, sizeof(*l->reqs)); /* most are never touched */
    if (l->reqs)
        return 0;
    log_error("%s: out of memory for %u requests", store_name(store), l->nr_reqs);
    return -ENOMEM;
}

/* RAM that another process can have, too. */
static unsigned blk_find_memory(struct virtio_blk *b, struct store_memory *memory, unsigned max)
{
    const struct slot *s;
    unsigned nr = 0;

    for (unsigned i = 0; nr < max && (s = mmu_slot_at(b->cfg.mmu, i)); i++)
        if (!s->of && !(s->flags & (SLOT_RO | SLOT_FILE | SLOT_PRIVATE)))
            memory[nr++] = (struct store_memory){
                .at = s->hva, .bytes = s->bytes, .fd = s->fd, .fd_off_bytes = s->fd_off_bytes
            };
    return nr;
}

static int blk_start_lane(struct blk_lane *l)
{
    struct store_memory memory[STORE_MEMORY_MAX];
    unsigned nr = blk_find_memory(l->blk, memory, ARRAY_SIZE(memory));
    int err = store_connect(l->store, &(struct store_client){ .poll = blk_poll,
                                                              .done = blk_done,
                                                              .batch = blk_batch,
                                                              .held = blk_held,
                                                              .arg = l,
                                                              .memory = memory,
                                                              .nr_memory = nr });

    l->connected = !err;
    return err;
}

/* As many as there are queues; one where the disk has no twins. */
static int blk_open_lanes(struct virtio_blk *b)
{
    struct store *stores[BLK_LANES_MAX] = { b->cfg.store };
    unsigned nr = 1;
    int err = 0;

    while (nr < MIN(b->cfg.nr_queues, BLK_LANES_MAX) && (stores[nr] = store_twin(b->cfg.store)))
        nr++;
    b->nr_lanes = nr;
    for (unsigned i = 0; i < nr; i++) {
        int failed = blk_make_lane(b, i, stores[i]);

        err = err ? err : failed;
    }
    for (unsigned i = 0; i < nr && !err; i++)
        err = blk_start_lane(&b->lanes[i]);
    if (err)
        blk_close_lanes(b);
    return err;
}

static int blk_init(struct virtio_blk *b)
{
    uint64_t features = BIT64(F_SEG_MAX) | BIT64(F_BLK_SIZE) | BIT64(F_FLUSH) | BIT64(F_TOPOLOGY) |
                        (b->cfg.nr_queues > 1 ? BIT64(F_MQ) : 0);
    int err;

    if (store_readonly(b->cfg.store))
        features |= BIT64(F_RO);
    else
        features |= BIT64(F_DISCARD) | BIT64(F_WRITE_ZEROES);
    err = virtio_init(&b->vd, &(struct virtio_desc){
                                  .type = &blk_type,
                                  .name = store_name(b->cfg.store),
                                  .bus = b->cfg.bus,
                                  .mmu = b->cfg.mmu,
                                  .features = features,
                                  .withheld = b->cfg.no_packed ? BIT64(VIRTIO_F_RING_PACKED) : 0,
                                  .nr_queues = b->cfg.nr_queues,
                                  .queue_size = QUEUE_SIZE,
                                  .config = &b->space,
                                  .config_bytes = SPACE_BYTES,
                              });
    return err ? err : blk_open_lanes(b);
}

struct virtio_blk *virtio_blk_create(const struct blk_config *cfg)
{
    struct virtio_blk *b = calloc(1, sizeof(*b));

    if (!b) {
        log_error("%s: out of memory", store_name(cfg->store));
        return NULL;
    }
    b->cfg = *cfg;
    memcpy(b->serial, cfg->serial ? cfg->serial : "",
           MIN(cfg->serial ? strlen(cfg->serial) : 0, sizeof(b->serial)));
    timer_init(&b->throttled, bus_clock(cfg->bus), blk_unthrottle, b);
    blk_set_space(b);
    if (blk_init(b) < 0) {
        virtio_blk_destroy(b);
        return NULL;
    }
    return b;
}

void virtio_blk_destroy(struct virtio_blk *b)
{
    if (!b)
        return;
    blk_close_lanes(b);
    lock_take(bus_lock(b->cfg.bus));
    timer_cancel(&b->throttled);
    lock_drop(bus_lock(b->cfg.bus));
    virtio_fini(&b->vd);
    free(b);
}

struct virtio *virtio_blk_device(struct virtio_blk *b)
{
    return &b->vd;
}

void virtio_blk_resized(struct virtio_blk *b)
{
    struct lock *machine = bus_lock(b->cfg.bus);

    lock_take(machine);
    b->space.capacity = store_bytes(b->cfg.store) / STORE_SECTOR_BYTES;
    virtio_config_changed(&b->vd);
    lock_drop(machine);
}

static void blk_set_fds(struct virtio_blk *b, bool on)
{
    lock_take(bus_lock(b->cfg.bus));
    virtio_set_fds(&b->vd, on);
    lock_drop(bus_lock(b->cfg.bus));
}

int virtio_blk_replace(struct virtio_blk *b, struct store *store)
{
    struct store *old = b->cfg.store;
    int err;

    if (store_readonly(store) != store_readonly(old))
        return -EROFS;
    blk_set_fds(b, false);
    blk_close_lanes(b);
    b->cfg.store = store;
    err = blk_open_lanes(b);
    if (err) {
        b->cfg.store = old;
        if (blk_open_lanes(b) < 0)
            log_error("%s: the disk has lost its image", store_name(old));
        blk_set_fds(b, true);
        return err;
    }
    /* A request of the guest may wait there for the limit's timer. */
    b->requests_ns = b->bytes_ns = 0;
    virtio_blk_resized(b);
    blk_set_fds(b, true);
    blk_kick_all(b);
    return 0;
}
