/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver that wants to break virtio devices: libFuzzer target over the transports, the queues,
 * the block device (MMIO) and the entropy device (PCI).
 *
 * The input is a program of small operations (see ops[]): registers, configuration space, guest
 * memory, descriptors of both formats, and the disk's progress, which is simulated here, so that
 * every finding repeats. What must hold: no request reaches outside guest memory or the disk, a
 * reset leaves no chain out, and nothing crashed, hung or tripped a sanitizer.
 */
#include <stdlib.h>
#include <string.h>

#include "dev/fakeclock.h"

#include "virtio/blk.h"
#include "virtio/mmio.h"
#include "virtio/pci.h"
#include "virtio/rng.h"

#define RAM_BYTES  (16 * PAGE_BYTES)
#define ROM_AT     MIB(1)
#define MMIO_AT    0xfec40000ull
#define ECAM_AT    0xe0000000ull
#define BAR_AT     0xc0000000u
#define DISK_BYTES MIB(1)
#define DEVFN      PCI_DEVFN(3, 0)
#define RINGS_AT   0x1000u
#define RING_BYTES 0x1000u

struct store {
    struct store_client client;
    struct store_req *todo;
    bool kicked;
};

struct machine {
    struct bus *bus;
    struct store store;
    struct virtio_blk *blk;
    struct virtio_rng rng;
    struct irq_shared line;
    struct virtio_mmio mmio;
    struct pci_host host;
    struct virtio_pci pci;
};

struct input {
    const uint8_t *at, *end;
};

static uint8_t next8(struct input *in)
{
    return in->at < in->end ? *in->at++ : 0;
}

static uint16_t next16(struct input *in)
{
    uint16_t low = next8(in);

    return (uint16_t)(low | next8(in) << 8);
}

static uint32_t next32(struct input *in)
{
    uint32_t low = next16(in);

    return low | (uint32_t)next16(in) << 16;
}

/* ---- memory: made once, zeroed for every input ---- */

static struct slot *ram, *rom;

static struct mmu *machine_memory(void)
{
    static struct mmu *mmu;

    if (!mmu) {
        mmu = mmu_create();
        BUG_ON(!mmu ||
               mmu_slot_add(mmu, &(struct slot_desc){ .name = "ram", .bytes = RAM_BYTES }, &ram) ||
               mmu_slot_add(
                   mmu,
                   &(struct slot_desc){
                       .name = "rom", .base = GPA(ROM_AT), .bytes = PAGE_BYTES, .flags = SLOT_RO },
                   &rom));
    }
    memset(ram->hva, 0, RAM_BYTES);
    return mmu;
}

static bool is_inside(const struct slot *s, const struct host_iov *iov)
{
    const uint8_t *p = iov->base;

    return p >= s->hva && iov->bytes <= s->bytes && p - s->hva <= (int64_t)(s->bytes - iov->bytes);
}

/* ---- the disk, instead of backend/store.c ---- */

const char *store_name(const struct store *d)
{
    (void)d;
    return "disk0";
}

bool store_readonly(const struct store *d)
{
    (void)d;
    return false;
}

uint64_t store_bytes(struct store *d)
{
    (void)d;
    return DISK_BYTES;
}

int store_connect(struct store *d, const struct store_client *client)
{
    d->client = *client;
    return 0;
}

struct store *store_twin(struct store *d)
{
    (void)d;
    return NULL; /* what threads do is not for this */
}

void store_close(struct store *d)
{
    (void)d;
}

void store_disconnect(struct store *d)
{
    BUG_ON(d->todo);
}

void store_kick(struct store *d)
{
    d->kicked = true;
}

void store_submit(struct store *d, struct store_req *r)
{
    uint64_t sum = 0;

    BUG_ON(r->bytes > DISK_BYTES || r->off_bytes > DISK_BYTES - r->bytes);
    if (r->op == STORE_READ || r->op == STORE_WRITE) {
        for (unsigned i = 0; i < r->nr_iov; i++) {
            BUG_ON(!is_inside(ram, &r->iov[i]) &&
                   !(r->op == STORE_WRITE && is_inside(rom, &r->iov[i])));
            sum += r->iov[i].bytes;
        }
        BUG_ON(sum != r->bytes);
    }
    r->next = d->todo;
    d->todo = r;
}

/* The nth that waits is done, or failed. */
static void store_complete(struct store *d, unsigned n, int error)
{
    struct store_req **at = &d->todo, *r;

    while (n-- && *at)
        at = &(*at)->next;
    r = *at;
    if (!r)
        return;
    *at = r->next;
    r->error = error;
    if (r->op == STORE_READ)
        for (unsigned i = 0; i < r->nr_iov; i++)
            memset(r->iov[i].base, 0x5a, r->iov[i].bytes);
    d->client.done(d->client.arg, r);
}

void store_give_up(struct store *d, bool on)
{
    while (on && d->todo)
        store_complete(d, 0, -5);
}

/* ---- the machine ---- */

static void machine_create(struct machine *m)
{
    struct mmu *mmu = machine_memory();

    *m = (struct machine){ .bus = bus_create() };
    BUG_ON(!m->bus);
    m->blk = virtio_blk_create(&(struct blk_config){
        .bus = m->bus, .mmu = mmu, .store = &m->store, .serial = "fuzz", .nr_queues = 2 });
    BUG_ON(!m->blk || virtio_rng_init(&m->rng, m->bus, mmu, &(struct rng_limits){ 0 }));
    BUG_ON(virtio_mmio_init(&m->mmio, &(struct virtio_mmio_config){
                                          .vd = virtio_blk_device(m->blk),
                                          .at = GPA(MMIO_AT),
                                          .irq = &m->line,
                                      }));
    BUG_ON(pci_host_init(&m->host, &(struct pci_host_config){ .bus = m->bus,
                                                              .ecam_at = GPA(ECAM_AT),
                                                              .ecam_bytes = MIB(256),
                                                              .intx_gsi = 16 }));
    BUG_ON(virtio_pci_init(&m->pci, &m->host, DEVFN, &m->rng.vd));
}

static void machine_destroy(struct machine *m)
{
    virtio_pci_fini(&m->pci);
    virtio_mmio_fini(&m->mmio);
    BUG_ON(virtio_blk_device(m->blk)->nr_out || m->rng.vd.nr_out);
    pci_host_fini(&m->host);
    virtio_rng_fini(&m->rng);
    virtio_blk_destroy(m->blk);
    bus_destroy(m->bus);
}

static struct virtio *device(struct machine *m, uint8_t which)
{
    return which & 1 ? &m->rng.vd : virtio_blk_device(m->blk);
}

/* ---- operations ---- */

static void op_memory(struct machine *m, struct input *in)
{
    uint16_t at = next16(in);
    uint8_t bytes = next8(in);

    (void)m;
    while (bytes--)
        ram->hva[at++ % RAM_BYTES] = next8(in);
}

static void op_mmio_write(struct machine *m, struct input *in)
{
    uint16_t reg = next16(in) % VIRTIO_MMIO_BYTES;

    bus_mmio_write(m->bus, GPA(MMIO_AT + reg), 1u << (reg & 3 ? 0 : next8(in) % 4), next32(in));
}

static void op_mmio_read(struct machine *m, struct input *in)
{
    (void)bus_mmio_read(m->bus, GPA(MMIO_AT + next16(in) % VIRTIO_MMIO_BYTES), 4);
}

static void op_config(struct machine *m, struct input *in)
{
    gpa_t at = GPA(ECAM_AT + (DEVFN << 12) + (next8(in) & ~3u));

    bus_mmio_write(m->bus, at, 4, next32(in));
    (void)bus_mmio_read(m->bus, at, 4);
}

static void op_bar(struct machine *m, struct input *in)
{
    gpa_t at = GPA(BAR_AT + next16(in));

    bus_mmio_write(m->bus, at, 1u << next8(in) % 4, next32(in));
    (void)bus_mmio_read(m->bus, at, 4);
}

/* A device set up as a driver does, with rings where op_desc() writes; the rest is the input's. */
static void op_start(struct machine *m, struct input *in)
{
    uint8_t which = next8(in), how = next8(in);
    struct virtio *vd = device(m, which);
    uint64_t features = BIT64(VIRTIO_F_VERSION_1) | (how & 1 ? BIT64(VIRTIO_F_RING_PACKED) : 0) |
                        (how & 2 ? BIT64(VIRTIO_F_EVENT_IDX) : 0) |
                        (how & 4 ? BIT64(VIRTIO_F_INDIRECT_DESC) : 0);

    bus_mmio_write(m->bus, GPA(ECAM_AT + (DEVFN << 12) + PCI_BAR0), 4, BAR_AT);
    bus_mmio_write(m->bus, GPA(ECAM_AT + (DEVFN << 12) + PCI_COMMAND), 2, 6);
    lock_take(bus_lock(m->bus));
    virtio_set_status(vd, 0);
    virtio_accept(vd, 0, (uint32_t)features);
    virtio_accept(vd, 1, (uint32_t)(features >> 32));
    virtio_set_status(vd, VIRTIO_STATUS_FEATURES_OK);
    for (unsigned i = 0; i < vd->nr_queues; i++) {
        struct virtq *q = virtio_queue(vd, i);
        uint32_t at = RINGS_AT + i * RING_BYTES;

        virtq_set_size(q, 1u << (how >> 4) % 7);
        virtq_set_address(q, VIRTQ_DESC, 0, at);
        virtq_set_address(q, VIRTQ_DRIVER, 0, at + 0x400);
        virtq_set_address(q, VIRTQ_DEVICE, 0, at + 0x800);
        virtq_enable(q);
    }
    virtio_set_status(vd, VIRTIO_STATUS_DRIVER_OK);
    lock_drop(bus_lock(m->bus));
}

/* A descriptor in a ring, or, with a high index, somewhere else (an indirect table). */
static void op_desc(struct machine *m, struct input *in)
{
    uint16_t at = (uint16_t)(RINGS_AT + 16 * next16(in));
    uint64_t addr = next32(in);
    uint64_t rest = next16(in) | (uint64_t)next16(in) << 32 | (uint64_t)next16(in) << 48;

    (void)m;
    at %= RAM_BYTES - 16;
    memcpy(ram->hva + at, &addr, 8);
    memcpy(ram->hva + at + 8, &rest, 8);
}

static void op_available(struct machine *m, struct input *in)
{
    uint32_t at = RINGS_AT + (next8(in) & 1) * RING_BYTES + 0x400;
    uint8_t head = next8(in), size = next8(in);
    uint16_t idx;

    (void)m;
    memcpy(&idx, ram->hva + at + 2, 2);
    ram->hva[at + 4 + 2 * (idx % (size ? size : 8))] = head;
    idx++;
    memcpy(ram->hva + at + 2, &idx, 2);
}

static void op_notify(struct machine *m, struct input *in)
{
    uint8_t which = next8(in);

    lock_take(bus_lock(m->bus));
    virtio_notify(device(m, which), which >> 1 & 1);
    lock_drop(bus_lock(m->bus));
    if (m->store.kicked) {
        m->store.kicked = false;
        m->store.client.poll(m->store.client.arg);
    }
}

static void op_complete(struct machine *m, struct input *in)
{
    uint8_t n = next8(in);

    store_complete(&m->store, n & 15, n & 0x80 ? -5 : 0);
    m->store.client.batch(m->store.client.arg);
}

static void op_reset(struct machine *m, struct input *in)
{
    struct device *d = NULL;

    (void)in;
    lock_take(bus_lock(m->bus));
    while ((d = bus_device_next(m->bus, d)))
        if (d->type->reset)
            d->type->reset(d);
    lock_drop(bus_lock(m->bus));
}

static void (*const ops[])(struct machine *m, struct input *in) = {
    op_memory, op_mmio_write, op_mmio_read, op_config,   op_bar,   op_start,
    op_desc,   op_available,  op_notify,    op_complete, op_reset,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct input in = { .at = data, .end = data + bytes };
    struct machine m;

    log_set_level(LOG_ERROR - 1);
    machine_create(&m);
    while (in.at < in.end)
        ops[next8(&in) % ARRAY_SIZE(ops)](&m, &in);
    machine_destroy(&m);
    return 0;
}
