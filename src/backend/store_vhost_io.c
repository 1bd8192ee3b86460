/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk's requests by vhost-user: VHOST_NR_SLOTS commands of the virtio block device in a ring;
 * the others wait. A request is done in pieces, one after the other: as much as a command's
 * segments take of memory that is shared, or a buffer's worth.
 *
 * A process that is lost is not looked for again: one that fails loses writes that were done but
 * not flushed, and the guest would go on with a disk of another time. It gets errors instead.
 *
 * Manual: Virtual I/O Device 1.2, "Split Virtqueues" and "Block Device: Device Operation".
 */
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>

#include "backend/store_vhost.h"

#define PIECE_BYTES MIB(1)
#define NO_STATUS   0xffu

static unsigned slot_idx(const struct store_vhost *n, const struct vhost_slot *s)
{
    return (unsigned)(s - n->slots);
}

/* ---- the ring ---- */

/* A command under way: its descriptors, in the ring or in the slot's table. */
struct chain {
    struct vring_desc *descs;
    unsigned first, nr; /* index of the first one, for links */
};

static void chain_add_desc(struct chain *c, const volatile void *at, uint64_t bytes, bool in)
{
    if (c->nr) {
        struct vring_desc *last = &c->descs[c->nr - 1];

        last->flags |= VRING_DESC_F_NEXT;
        last->next = (uint16_t)(c->first + c->nr);
    }
    c->descs[c->nr++] = (struct vring_desc){ .addr = (uintptr_t)at,
                                             .len = (uint32_t)bytes,
                                             .flags = in ? VRING_DESC_F_WRITE : 0 };
}

/* With a header of that type; room for nr segments of data. */
static struct chain chain_begin(struct store_vhost *n, struct vhost_slot *s, uint32_t type,
                                uint64_t sector, unsigned nr)
{
    unsigned idx = slot_idx(n, s), at = idx * VHOST_SLOT_DESCS;
    struct vhost_shared_slot *sh = &n->shared->slots[idx];
    bool direct = nr + 2 <= VHOST_SLOT_DESCS;
    struct chain c = { direct ? &n->shared->desc[at] : sh->table, direct ? at : 0, 0 };

    sh->head = (struct virtio_blk_outhdr){ .type = type, .sector = sector };
    sh->status = NO_STATUS;
    chain_add_desc(&c, &sh->head, sizeof(sh->head), false);
    return c;
}

static void ring_kick(struct store_vhost *n)
{
    /* What it looks at next is there before we look whether it wants to be told ("Available Buffer
     * Notification Suppression"). */
    atomic_thread_fence(memory_order_seq_cst);
    if (!(*(volatile uint16_t *)&n->shared->used.flags & VRING_USED_F_NO_NOTIFY))
        host_event_signal(n->kick_fd);
}

static void chain_end(struct store_vhost *n, struct vhost_slot *s, struct chain *c)
{
    unsigned idx = slot_idx(n, s), at = idx * VHOST_SLOT_DESCS;
    struct vhost_shared_slot *sh = &n->shared->slots[idx];

    chain_add_desc(c, &sh->status, 1, true);
    if (c->descs == sh->table)
        n->shared->desc[at] = (struct vring_desc){ .addr = (uintptr_t)sh->table,
                                                   .len = c->nr * (uint32_t)sizeof(sh->table[0]),
                                                   .flags = VRING_DESC_F_INDIRECT };
    n->shared->avail.ring[n->avail % VHOST_RING_SIZE] = (uint16_t)at;
    n->avail++;
    /* Pairs with the process's acquire of it. */
    __atomic_store_n(&n->shared->avail.idx, n->avail, __ATOMIC_RELEASE);
    s->out = true;
    n->nr_out++;
    ring_kick(n);
}

/* ---- pieces ---- */

static bool is_shared(const struct store_vhost *n, const uint8_t *at, uint64_t bytes)
{
    for (unsigned i = 0; i < n->nr_memory; i++) {
        const struct store_memory *m = &n->memory[i];
        uintptr_t off = (uintptr_t)at - (uintptr_t)m->at;

        if (off < m->bytes && bytes <= m->bytes - off)
            return true;
    }
    return false;
}

/*
 * The request's memory from done_bytes on, as far as it is shared and one command takes it, in
 * whole sectors. Returns how many segments; 0: not even a sector is there.
 */
static unsigned find_segments(const struct store_vhost *n, const struct store_req *r,
                              struct host_iov *segs, uint64_t *bytes)
{
    uint64_t skip = r->done_bytes, left = MIN(r->bytes - r->done_bytes, PIECE_BYTES), over;
    unsigned nr = 0;

    *bytes = 0;
    for (unsigned i = 0; i < r->nr_iov && left && nr < n->segs_max; i++) {
        uint8_t *at = (uint8_t *)r->iov[i].base + skip;
        uint64_t len = r->iov[i].bytes;

        if (skip >= len) {
            skip -= len;
            continue;
        }
        len = MIN(len - skip, left);
        if (!is_shared(n, at, len))
            break;
        segs[nr++] = (struct host_iov){ .base = at, .bytes = len };
        *bytes += len;
        left -= len;
        skip = 0;
    }
    for (over = *bytes % STORE_SECTOR_BYTES; over && nr;) {
        uint64_t cut = MIN(over, segs[nr - 1].bytes);

        segs[nr - 1].bytes -= cut;
        nr -= !segs[nr - 1].bytes;
        over -= cut;
        *bytes -= cut;
    }
    return nr;
}

static uint64_t sector_of(const struct store_req *r)
{
    return (r->off_bytes + r->done_bytes) / STORE_SECTOR_BYTES;
}

static void start_move(struct store_vhost *n, struct vhost_slot *s)
{
    const struct store_req *r = s->req;
    bool in = r->op == STORE_READ;
    uint8_t *buf = n->shared->bufs[slot_idx(n, s)];
    struct host_iov segs[VHOST_SEGS_MAX];
    unsigned nr = find_segments(n, r, segs, &s->bytes);
    struct chain c;

    s->buffered = !nr;
    if (s->buffered) {
        s->bytes = MIN(r->bytes - r->done_bytes, VHOST_BUF_BYTES);
        segs[nr++] = (struct host_iov){ .base = buf, .bytes = s->bytes };
        if (!in)
            store_copy(r, buf, s->bytes, false);
    }
    c = chain_begin(n, s, in ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT, sector_of(r), nr);
    for (unsigned i = 0; i < nr; i++)
        chain_add_desc(&c, segs[i].base, segs[i].bytes, in);
    chain_end(n, s, &c);
}

/* Zeroes that have to be written. */
static void start_fill(struct store_vhost *n, struct vhost_slot *s)
{
    const struct store_req *r = s->req;
    uint8_t *buf = n->shared->bufs[slot_idx(n, s)];
    struct chain c = chain_begin(n, s, VIRTIO_BLK_T_OUT, sector_of(r), 1);

    s->bytes = MIN(r->bytes - r->done_bytes, VHOST_BUF_BYTES);
    memset(buf, 0, s->bytes);
    chain_add_desc(&c, buf, s->bytes, false);
    chain_end(n, s, &c);
}

static void start_clear(struct store_vhost *n, struct vhost_slot *s)
{
    const struct store_req *r = s->req;
    bool discard = r->op == STORE_DISCARD;
    struct virtio_blk_discard_write_zeroes *range = &n->shared->slots[slot_idx(n, s)].range;
    struct chain c;

    s->bytes = MIN(r->bytes - r->done_bytes, discard ? n->discard_bytes : n->zero_bytes);
    *range = (struct virtio_blk_discard_write_zeroes){
        .sector = sector_of(r),
        .num_sectors = (uint32_t)(s->bytes / STORE_SECTOR_BYTES),
        .flags = !discard && r->unmap ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0,
    };
    c = chain_begin(n, s, discard ? VIRTIO_BLK_T_DISCARD : VIRTIO_BLK_T_WRITE_ZEROES, 0, 1);
    chain_add_desc(&c, range, sizeof(*range), false);
    chain_end(n, s, &c);
}

static void start_flush(struct store_vhost *n, struct vhost_slot *s)
{
    struct chain c = chain_begin(n, s, VIRTIO_BLK_T_FLUSH, 0, 0);

    s->bytes = 0;
    chain_end(n, s, &c);
}

/* ---- requests ---- */

/* The request's next command; NULL: it is done. */
static void (*next_command(const struct store_vhost *n,
                           const struct vhost_slot *s))(struct store_vhost *, struct vhost_slot *)
{
    const struct store_req *r = s->req;
    bool flush = r->op == STORE_FLUSH || (r->op == STORE_WRITE && r->through);

    if (r->op == STORE_DISCARD && !n->discard_bytes)
        return NULL; /* it is a hint */
    if (r->done_bytes < r->bytes && r->op != STORE_FLUSH) {
        if (r->op == STORE_READ || r->op == STORE_WRITE)
            return start_move;
        return s->by_writes ? start_fill : start_clear;
    }
    return flush && vhost_has(n, VIRTIO_BLK_F_FLUSH) ? start_flush : NULL;
}

/* The request in the slot is over. */
static void slot_end(struct store *d, struct vhost_slot *s, int error)
{
    struct store_req *r = s->req;

    s->req = NULL;
    s->next = d->vhost->free;
    d->vhost->free = s;
    store_finish(d, r, error);
}

static void slot_step(struct store *d, struct vhost_slot *s)
{
    struct store_vhost *n = d->vhost;
    void (*start)(struct store_vhost *, struct vhost_slot *) = next_command(n, s);

    if (n->lost)
        slot_end(d, s, -EIO);
    else if (start)
        start(n, s);
    else
        slot_end(d, s, 0);
}

/* The command is back. */
static void slot_done(struct store *d, struct vhost_slot *s)
{
    struct store_vhost *n = d->vhost;
    unsigned idx = slot_idx(n, s);
    uint8_t status = *(volatile uint8_t *)&n->shared->slots[idx].status;
    struct store_req *r = s->req;

    s->out = false;
    n->nr_out--;
    if (status == VIRTIO_BLK_S_UNSUPP && r->op == STORE_DISCARD)
        status = VIRTIO_BLK_S_OK;
    if (status == VIRTIO_BLK_S_UNSUPP && r->op == STORE_ZERO && !s->by_writes) {
        s->by_writes = true;
        slot_step(d, s);
        return;
    }
    if (status != VIRTIO_BLK_S_OK) {
        slot_end(d, s, -EIO);
        return;
    }
    if (!s->bytes) { /* the flush, which is always the last */
        slot_end(d, s, 0);
        return;
    }
    if (r->op == STORE_READ && s->buffered)
        store_copy(r, n->shared->bufs[idx], s->bytes, true);
    r->done_bytes += s->bytes;
    slot_step(d, s);
}

/* Everything that is out ends now, with an error. The process may go on to write where its commands
 * said, as long as it lives: it was given that memory. */
static void vhost_lose(struct store *d, const char *why)
{
    struct store_vhost *n = d->vhost;

    if (n->lost)
        return;
    n->lost = true;
    d->kind->lost(d, why);
    for (unsigned i = 0; i < VHOST_NR_SLOTS; i++) {
        struct vhost_slot *s = &n->slots[i];

        if (!s->out)
            continue;
        s->out = false;
        n->nr_out--;
        slot_end(d, s, -EIO);
    }
}

/* What is in the used ring. It is the process's: each entry is looked at once, and has to be one
 * that is out. */
static void vhost_collect(struct store *d)
{
    struct store_vhost *n = d->vhost;

    /* Pairs with the process's release: what it wrote before is seen. */
    while (!n->lost && n->used != __atomic_load_n(&n->shared->used.idx, __ATOMIC_ACQUIRE)) {
        const volatile struct vring_used_elem *e = &n->shared->used.ring[n->used % VHOST_RING_SIZE];
        uint32_t id = e->id, idx = id / VHOST_SLOT_DESCS;

        if (id % VHOST_SLOT_DESCS || idx >= VHOST_NR_SLOTS || !n->slots[idx].out) {
            vhost_lose(d, "it gives back what it was not given");
            return;
        }
        n->used++;
        slot_done(d, &n->slots[idx]);
    }
}

/* Requests that wait get slots. */
static void vhost_pump(struct store *d)
{
    struct store_vhost *n = d->vhost;

    while (n->todo.first && n->free) {
        struct vhost_slot *s = n->free;

        s->req = store_queue_take(&n->todo);
        n->free = s->next;
        s->by_writes = !n->zero_bytes;
        slot_step(d, s);
    }
}

/* ---- the engine ---- */

static int vhost_io_open(struct store *d)
{
    return d->vhost->lost ? -EIO : store_vhost_start(d);
}

static void vhost_io_close(struct store *d)
{
    BUG_ON(d->vhost->nr_out || d->vhost->todo.first);
    store_vhost_stop(d);
}

static void vhost_io_start(struct store *d, struct store_req *r)
{
    store_queue_add(&d->vhost->todo, r);
}

static void vhost_io_wait(struct store *d, uint64_t until_ns)
{
    struct store_vhost *n = d->vhost;
    /* Of the socket only its end is heard. */
    struct pollfd pfd[3] = { { .fd = d->wake_fd, .events = POLLIN },
                             { .fd = n->call_fd, .events = POLLIN },
                             { .fd = n->lost ? -1 : n->v.fd } };

    vhost_collect(d);
    vhost_pump(d);
    if (store_must_give_up(d, n->nr_out, &n->give_up_since_ns, &until_ns))
        vhost_lose(d, "it does not answer, and the machine wants to go on");
    if (d->nr_done)
        return;
    if (poll(pfd, ARRAY_SIZE(pfd), store_timeout_ms(until_ns)) <= 0)
        return;
    if (pfd[0].revents)
        store_woken(d);
    if (pfd[1].revents)
        store_drain_fd(n->call_fd);
    vhost_collect(d);
    if (pfd[2].revents)
        vhost_lose(d, "it hung up");
}

const struct store_engine store_vhost_engine = {
    .name = "vhost-user",
    .open = vhost_io_open,
    .close = vhost_io_close,
    .start = vhost_io_start,
    .wait = vhost_io_wait,
};
