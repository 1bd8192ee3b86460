/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The virtio memory device: a region of memory of which the guest plugs blocks when the host wants
 * it to have more, and unplugs them when it wants them back. What is not plugged takes no memory.
 *
 * The memory is parked; what the guest sees are aliases of the pieces in which something is
 * plugged, so that a bad guest cannot take what it was not given. (Pieces, not blocks, since the
 * machine has only so many slots; neighbours are one alias. Where they still are too many, the last
 * alias spans the gaps.) They come and go while all vCPUs stand still: the machine is asked for
 * that, and the request is answered behind it.
 *
 * Manual: Virtual I/O Device 1.2, "Memory Device".
 */
#include "virtio/mem.h"

#include <errno.h>
#include <string.h>

#define QUEUE_SIZE 64u

enum mem_request { MEM_PLUG, MEM_UNPLUG, MEM_UNPLUG_ALL, MEM_STATE };
enum mem_answer { MEM_ACK, MEM_NACK, MEM_BUSY, MEM_ERROR };
enum mem_state { MEM_IS_PLUGGED, MEM_IS_UNPLUGGED, MEM_IS_MIXED };

struct mem_req {
    uint16_t type, pad[3];
    uint64_t at;
    uint16_t nr_blocks, pad2[3];
};

struct mem_resp {
    uint16_t type, pad[3];
    uint16_t state;
};
#define RESP_BYTES 10u

static struct virtio_mem *mem_of(struct virtio *vd)
{
    return container_of(vd, struct virtio_mem, vd);
}

/* ---- blocks: machine lock held ---- */

static uint64_t mem_nr_blocks(const struct virtio_mem *m)
{
    return m->config.region_bytes / m->config.block_bytes;
}

static bool mem_plugged(const struct virtio_mem *m, uint64_t block)
{
    return m->plugged[block / 8] >> (block % 8) & 1;
}

static void mem_set(struct virtio_mem *m, uint64_t first, uint64_t nr, bool on)
{
    for (uint64_t i = first; i < first + nr; i++) {
        if (mem_plugged(m, i) == on)
            continue;
        m->plugged[i / 8] ^= (uint8_t)BIT(i % 8);
        m->config.plugged_bytes += on ? m->config.block_bytes : -m->config.block_bytes;
    }
}

static enum mem_state mem_state(const struct virtio_mem *m, uint64_t first, uint64_t nr)
{
    bool any = false, all = true;

    for (uint64_t i = first; i < first + nr; i++) {
        any |= mem_plugged(m, i);
        all &= mem_plugged(m, i);
    }
    return all ? MEM_IS_PLUGGED : any ? MEM_IS_MIXED : MEM_IS_UNPLUGGED;
}

/* ---- what is shown: machine lock held ---- */

static uint64_t mem_nr_pieces(const struct virtio_mem *m)
{
    return (m->config.region_bytes + m->piece_bytes - 1) / m->piece_bytes;
}

static bool mem_piece_used(const struct virtio_mem *m, uint64_t piece)
{
    uint64_t nr = m->piece_bytes / m->config.block_bytes, first = piece * nr;

    nr = MIN(nr, mem_nr_blocks(m) - first);
    return mem_state(m, first, nr) != MEM_IS_UNPLUGGED;
}

/* Runs of pieces in use; returns how many. */
static unsigned mem_find_views(const struct virtio_mem *m, struct mem_view views[MEM_VIEWS_MAX])
{
    unsigned nr = 0;
    bool was = false;

    for (uint64_t i = 0; i < mem_nr_pieces(m); i++) {
        bool used = mem_piece_used(m, i);
        uint64_t end = MIN((i + 1) * m->piece_bytes, m->config.region_bytes);

        if (used && !was && nr < MEM_VIEWS_MAX)
            views[nr++] = (struct mem_view){ .off_bytes = i * m->piece_bytes };
        if (used)
            views[nr - 1].bytes = end - views[nr - 1].off_bytes;
        was = used;
    }
    return nr;
}

static bool mem_same_views(const struct virtio_mem *m, const struct mem_view *views, unsigned nr)
{
    bool same = nr == m->nr_views;

    for (unsigned i = 0; i < nr && same; i++)
        same = views[i].off_bytes == m->views[i].off_bytes && views[i].bytes == m->views[i].bytes;
    return same;
}

/* What devices still write there, to memory that was plugged already, is seen all the time. */
static int mem_show(struct virtio_mem *m, const struct mem_view *views, unsigned nr)
{
    struct alias_desc aliases[MEM_VIEWS_MAX];
    int err;

    for (unsigned i = 0; i < nr; i++)
        aliases[i] = (struct alias_desc){
            .slot = { .name = "plugged",
                      .base = GPA(m->config.at + views[i].off_bytes),
                      .bytes = views[i].bytes },
            .off_bytes = views[i].off_bytes,
        };
    err = mmu_alias_replace(m->vd.mmu, m->memory, aliases, nr, m->slots, &m->nr_views);
    memcpy(m->views, views, m->nr_views * sizeof(views[0]));
    mmu_code_moved(m->vd.mmu, GPA(m->config.at), m->config.region_bytes);
    return err;
}

int virtio_mem_apply_locked(struct virtio_mem *m, bool *changed)
{
    struct mem_view views[MEM_VIEWS_MAX];
    unsigned nr = mem_find_views(m, views);
    int err = 0;

    *changed = !mem_same_views(m, views, nr);
    if (*changed)
        err = mem_show(m, views, nr);
    m->due = false;
    cond_wake_all(&m->shown);
    return err;
}

int virtio_mem_apply(struct virtio_mem *m, bool *changed)
{
    struct lock *machine = bus_lock(m->vd.bus);
    int err;

    lock_take(machine);
    err = virtio_mem_apply_locked(m, changed);
    lock_drop(machine);
    return err;
}

/* What is plugged has changed: behind this it is shown so, or the driver is gone. */
static void mem_wait_shown(struct virtio_mem *m)
{
    m->due = true;
    m->changed(m->ctx);
    while (m->due && !m->leaves)
        cond_wait(&m->shown, bus_lock(m->vd.bus));
}

static void mem_leave(struct virtio_mem *m, bool leaves)
{
    m->leaves = leaves;
    cond_wake_all(&m->shown);
}

/* ---- requests: the thread ---- */

/* Whole blocks inside the region; false: it is none. */
static bool mem_range(const struct virtio_mem *m, const struct mem_req *r, uint64_t *first)
{
    uint64_t off = r->at - m->config.at;

    *first = off / m->config.block_bytes;
    return r->nr_blocks && r->at >= m->config.at && off % m->config.block_bytes == 0 &&
           *first < mem_nr_blocks(m) && r->nr_blocks <= mem_nr_blocks(m) - *first;
}

/* What was unplugged goes back; the machine lock is not held meanwhile. */
static void mem_discard(struct virtio_mem *m, uint64_t first, uint64_t nr)
{
    (void)mmu_discard(m->vd.mmu, gpa_add(m->memory->base, first * m->config.block_bytes),
                      nr * m->config.block_bytes);
}

/* "Device Operation": plugging has to find the blocks unplugged, unplugging plugged, and there is
 * never more plugged than was requested. */
static enum mem_answer mem_plug(struct virtio_mem *m, const struct mem_req *r)
{
    struct lock *machine = bus_lock(m->vd.bus);
    bool plug = r->type == MEM_PLUG;
    enum mem_answer answer = MEM_ERROR;
    uint64_t first, bytes;

    lock_take(machine);
    if (mem_range(m, r, &first) &&
        mem_state(m, first, r->nr_blocks) == (plug ? MEM_IS_UNPLUGGED : MEM_IS_PLUGGED)) {
        bytes = r->nr_blocks * m->config.block_bytes;
        answer = plug && m->config.plugged_bytes + bytes > m->config.requested_bytes ? MEM_NACK
                                                                                     : MEM_ACK;
    }
    if (answer == MEM_ACK) {
        mem_set(m, first, r->nr_blocks, plug);
        mem_wait_shown(m);
    }
    lock_drop(machine);
    if (answer == MEM_ACK && !plug)
        mem_discard(m, first, r->nr_blocks);
    return answer;
}

static enum mem_answer mem_unplug_all(struct virtio_mem *m)
{
    struct lock *machine = bus_lock(m->vd.bus);
    uint64_t nr = mem_nr_blocks(m);

    lock_take(machine);
    mem_set(m, 0, nr, false);
    mem_wait_shown(m);
    lock_drop(machine);
    mem_discard(m, 0, nr);
    return MEM_ACK;
}

static enum mem_answer mem_tell(struct virtio_mem *m, const struct mem_req *r, uint16_t *state)
{
    struct lock *machine = bus_lock(m->vd.bus);
    enum mem_answer answer = MEM_ERROR;
    uint64_t first;

    lock_take(machine);
    if (mem_range(m, r, &first)) {
        *state = (uint16_t)mem_state(m, first, r->nr_blocks);
        answer = MEM_ACK;
    }
    lock_drop(machine);
    return answer;
}

static void mem_serve(struct virtio_mem *m, const struct virtq_chain *c, struct mem_resp *resp)
{
    struct mem_req r = { 0 };

    *resp = (struct mem_resp){ .type = MEM_ERROR };
    if (virtq_read(c, 0, &r, sizeof(r)) < sizeof(r))
        return;
    if (r.type == MEM_PLUG || r.type == MEM_UNPLUG)
        resp->type = (uint16_t)mem_plug(m, &r);
    else if (r.type == MEM_UNPLUG_ALL)
        resp->type = (uint16_t)mem_unplug_all(m);
    else if (r.type == MEM_STATE)
        resp->type = (uint16_t)mem_tell(m, &r, &resp->state);
}

static void mem_work(void *arg)
{
    struct virtio_mem *m = arg;
    struct virtq *q = &m->vd.queues[0];
    struct host_iov iov[QUEUE_SIZE];
    gpa_t at[QUEUE_SIZE];
    struct virtq_chain c = { .iov = iov, .at = at, .max = QUEUE_SIZE };

    virtio_lock(&m->vd);
    while (virtq_pop(q, &c)) {
        struct mem_resp resp;

        virtio_unlock(&m->vd);
        mem_serve(m, &c, &resp);
        virtio_lock(&m->vd);
        virtq_push(q, &c, virtq_write(&c, 0, &resp, RESP_BYTES));
        virtq_publish(q);
    }
    virtio_unlock(&m->vd);
    virtio_signal(&m->vd);
}

/* ---- the device ---- */

static void mem_notify(struct virtio *vd, struct virtq *q)
{
    (void)q;
    virtio_worker_wake(&mem_of(vd)->worker);
}

static void mem_start(struct virtio *vd)
{
    virtio_worker_wake(&mem_of(vd)->worker);
}

/* The vCPU that resets the device waits for its requests, and so does not stand still for them. */
static void mem_reset(struct virtio *vd)
{
    mem_leave(mem_of(vd), true);
}

static void mem_reset_done(struct virtio *vd)
{
    mem_leave(mem_of(vd), false);
}

/* Of the bits in a hostile state only those of the region count. */
static void mem_loaded(struct virtio *vd, bool running)
{
    struct virtio_mem *m = mem_of(vd);
    struct mem_config *c = &m->config;

    c->plugged_bytes = 0;
    for (uint64_t i = 0; i < MEM_BLOCKS_MAX; i++) {
        if (i >= mem_nr_blocks(m))
            m->plugged[i / 8] &= (uint8_t)~BIT(i % 8);
        else if (mem_plugged(m, i))
            c->plugged_bytes += c->block_bytes;
    }
    c->requested_bytes = align_down(MIN(c->requested_bytes, c->region_bytes), c->block_bytes);
    m->due = true;
    m->changed(m->ctx);
    if (running)
        virtio_worker_wake(&m->worker);
}

static const struct state_field mem_state_fields[] = {
    FIELD(struct virtio_mem, plugged, BYTES, 1),
    FIELD(struct virtio_mem, config.requested_bytes, U64, 1),
};

static const struct virtio_type mem_type = {
    .name = "virtio-mem",
    .id = VIRTIO_ID_MEM,
    .pci_class = 0x00ff00,
    .start = mem_start,
    .notify = mem_notify,
    .reset = mem_reset,
    .reset_done = mem_reset_done,
    .state = STATE_TABLE("virtio-mem", mem_state_fields, 1),
    .vd_off_bytes = offsetof(struct virtio_mem, vd),
    .loaded = mem_loaded,
};

int virtio_mem_request(struct virtio_mem *m, uint64_t bytes)
{
    struct lock *machine = bus_lock(m->vd.bus);

    if (bytes % m->config.block_bytes || bytes > m->config.region_bytes)
        return -EINVAL;
    lock_take(machine);
    m->config.requested_bytes = bytes;
    virtio_config_changed(&m->vd);
    lock_drop(machine);
    return 0;
}

void virtio_mem_sizes(struct virtio_mem *m, uint64_t *plugged_bytes, uint64_t *requested_bytes)
{
    struct lock *machine = bus_lock(m->vd.bus);

    lock_take(machine);
    *plugged_bytes = m->config.plugged_bytes;
    *requested_bytes = m->config.requested_bytes;
    lock_drop(machine);
}

int virtio_mem_init(struct virtio_mem *m, const struct virtio_mem_desc *d)
{
    int err;

    *m = (struct virtio_mem){ .memory = d->memory,
                              .piece_bytes = d->piece_bytes,
                              .changed = d->changed,
                              .ctx = d->ctx,
                              .made = true };
    cond_init(&m->shown);
    m->config = (struct mem_config){ .block_bytes = d->block_bytes,
                                     .at = d->at.v,
                                     .region_bytes = d->bytes,
                                     .usable_bytes = d->bytes };
    BUG_ON(mem_nr_blocks(m) > MEM_BLOCKS_MAX);
    err = virtio_init(&m->vd, &(struct virtio_desc){
                                  .type = &mem_type,
                                  .name = "mem",
                                  .bus = d->bus,
                                  .mmu = d->mmu,
                                  .nr_queues = 1,
                                  .queue_size = QUEUE_SIZE,
                                  .config = &m->config,
                                  .config_bytes = sizeof(m->config),
                              });
    if (!err)
        err = virtio_worker_start(&m->worker, "virtio mem", mem_work, m);
    if (err)
        virtio_mem_fini(m);
    return err;
}

void virtio_mem_stop(struct virtio_mem *m)
{
    if (m->vd.bus) {
        lock_take(bus_lock(m->vd.bus));
        mem_leave(m, true);
        lock_drop(bus_lock(m->vd.bus));
    }
    virtio_worker_stop(&m->worker);
}

void virtio_mem_fini(struct virtio_mem *m)
{
    if (!m->made)
        return;
    virtio_mem_stop(m);
    while (m->nr_views)
        mmu_slot_remove(m->vd.mmu, m->slots[--m->nr_views]);
    virtio_fini(&m->vd);
    cond_destroy(&m->shown);
    m->made = false;
}
