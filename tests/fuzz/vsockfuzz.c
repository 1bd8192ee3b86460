/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libFuzzer: a socket device whose driver is the input: packets and buffers of any content, and
 * programs of the host that come, write, read and leave as it says. Whatever comes, no chain may
 * stay out, and no stream be used after it was dropped (vsock_fakehost.h looks).
 */
#include <stdlib.h>
#include <string.h>

#include "dev/fakeclock.h"
#include "lib/log.h"
#include "virtio/transport.h"
#include "virtio/vsock_fakehost.h"

#define RAM_BYTES  KIB(256)
#define QUEUE_STEP 0x1000u
#define DRIVER     0x400u
#define DEVICE     0x800u
#define BUFFERS    0x10000u
#define SIZE       16u
#define CID        3u
#define MAX_OPS    400

struct input {
    const uint8_t *at, *end;
};

static uint8_t next8(struct input *in)
{
    return in->at < in->end ? *in->at++ : 0;
}

static uint32_t next32(struct input *in)
{
    uint32_t v = 0;

    for (unsigned i = 0; i < 4; i++)
        v = v << 8 | next8(in);
    return v;
}

struct machine {
    struct bus *bus;
    uint8_t *ram;
    struct fakehost host;
    struct virtio_vsock card;
};

/* Memory is dear: made once, cleared for every input. */
static struct mmu *machine_mmu(uint8_t **ram)
{
    static struct mmu *mmu;
    static struct slot *slot;

    if (!mmu) {
        mmu = mmu_create();
        BUG_ON(!mmu ||
               mmu_slot_add(mmu, &(struct slot_desc){ .name = "ram", .bytes = RAM_BYTES }, &slot));
    }
    *ram = slot->hva;
    memset(*ram, 0, RAM_BYTES);
    return mmu;
}

static void no_interrupt(void *arg, unsigned idx)
{
    (void)arg;
    (void)idx;
}

static void no_config_interrupt(void *arg)
{
    (void)arg;
}

static const struct virtio_transport_ops no_transport = {
    .queue_interrupt = no_interrupt,
    .config_interrupt = no_config_interrupt,
};

/* ---- operations ---- */

static void op_start(struct machine *m, struct input *in)
{
    struct virtio *vd = &m->card.vd;
    uint8_t how = next8(in);

    lock_take(bus_lock(m->bus));
    virtio_set_status(vd, 0);
    virtio_set_status(vd, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    virtio_accept(vd, 0, how & 1 ? virtio_offered(vd, 0) : next32(in) & virtio_offered(vd, 0));
    virtio_accept(vd, 1, how & 2 ? 1 : virtio_offered(vd, 1));
    virtio_set_status(vd,
                      VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK);
    for (unsigned i = 0; i < vd->nr_queues; i++) {
        struct virtq *q = virtio_queue(vd, i);
        uint32_t at = (i + 1) * QUEUE_STEP;

        virtq_set_size(q, SIZE);
        virtq_set_address(q, VIRTQ_DESC, 0, at);
        virtq_set_address(q, VIRTQ_DRIVER, 0, at + DRIVER);
        virtq_set_address(q, VIRTQ_DEVICE, 0, at + DEVICE);
        virtq_enable(q);
    }
    virtio_set_status(vd, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER |
                              VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK);
    lock_drop(bus_lock(m->bus));
}

struct desc {
    uint64_t at;
    uint32_t bytes;
    uint16_t flags, next;
};

static void give(struct machine *m, unsigned queue, unsigned n, const struct desc *d)
{
    uint8_t *at = m->ram + (queue + 1) * QUEUE_STEP, *driver = at + DRIVER;
    uint16_t idx;

    memcpy(at + 16 * n, d, sizeof(*d));
    memcpy(&idx, driver + 2, 2);
    driver[4 + 2 * (idx % SIZE)] = (uint8_t)n;
    idx++;
    memcpy(driver + 2, &idx, 2);
}

/* A descriptor that makes sense, mostly, and is available. */
static void op_give(struct machine *m, struct input *in)
{
    unsigned queue = next8(in) % m->card.vd.nr_queues, n = next8(in) % SIZE;
    struct desc d = { BUFFERS + (next32(in) & 0x1fff0), next32(in) & 0x1ffff, next8(in) & 7,
                      next8(in) & 31 };

    give(m, queue, n, &d);
}

/* A buffer for a packet to the guest. */
static void op_room(struct machine *m, struct input *in)
{
    struct desc d = { BUFFERS + 0x20000, 45 + next8(in) * 16, 2, 0 };

    give(m, 0, next8(in) % SIZE, &d);
}

static void op_poke(struct machine *m, struct input *in)
{
    uint32_t at = next32(in) % RAM_BYTES;
    unsigned nr = next8(in) % 64;

    for (unsigned i = 0; i < nr && at + i < RAM_BYTES; i++)
        m->ram[at + i] = next8(in);
}

static void op_notify(struct machine *m, struct input *in)
{
    lock_take(bus_lock(m->bus));
    virtio_notify(&m->card.vd, next8(in));
    lock_drop(bus_lock(m->bus));
}

static void op_work(struct machine *m, struct input *in)
{
    (void)in;
    m->host.v.card->work(m->host.v.card_arg);
}

/* A packet that makes sense, mostly: addresses are right, ports few. */
static void op_packet(struct machine *m, struct input *in)
{
    struct vsock_hdr h = { .src_cid = CID,
                           .dst_cid = VSOCK_CID_HOST,
                           .src_port = next8(in) & 3,
                           .dst_port = next8(in) & 3,
                           .type = VSOCK_TYPE_STREAM,
                           .op = next8(in) & 15,
                           .flags = next8(in) & 7 };
    uint8_t how = next8(in);
    struct desc d = { 0 };

    h.bytes = how & 1 ? next32(in) : next32(in) & 0xffff;
    h.buf_alloc = how & 2 ? next32(in) : 0x10000;
    h.fwd_cnt = how & 4 ? next32(in) : 0;
    if (how & 8) /* the port of a program's connection */
        h.dst_port += 0x40000000;
    if (how & 16)
        h.type = next8(in);
    d.at = BUFFERS + (next8(in) & 15) * 0x1000;
    d.bytes = (uint32_t)sizeof(h) + (how & 32 ? next8(in) : h.bytes & 0xffff);
    memcpy(m->ram + d.at, &h, sizeof(h));
    give(m, 1, next8(in) % SIZE, &d);
}

static void op_call(struct machine *m, struct input *in)
{
    int id = fakehost_add(&m->host);

    if (id >= 0 && !m->host.v.card->call(m->host.v.card_arg, (unsigned)id, next8(in) & 3))
        fakehost_drop(&m->host.v, (unsigned)id);
}

static void op_program(struct machine *m, struct input *in)
{
    unsigned id = next8(in) & 7;
    struct fakestream *s = &m->host.streams[id];
    uint8_t how = next8(in);

    s->nr_said += s->end ? 0 : next32(in) & 0x1ffff;
    s->room += next32(in) & 0x1ffff;
    s->end |= how & 0x40;
    s->write_err = how & 0x80 ? -EPIPE : s->write_err;
    m->host.connect_err = how & 0x20 ? -ECONNREFUSED : 0;
    if (s->used && s->want)
        m->host.v.card->ready(m->host.v.card_arg, id, how & 7);
}

static void (*const ops[])(struct machine *m, struct input *in) = {
    op_give, op_room, op_room, op_packet, op_packet,  op_poke,    op_notify,
    op_work, op_work, op_work, op_call,   op_program, op_program, op_start,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static struct machine m;
    struct input in = { .at = data, .end = data + bytes };

    log_set_level(LOG_ERROR - 1);
    m.bus = bus_create();
    BUG_ON(!m.bus);
    m.host = (struct fakehost){ .v.ops = &fakehost_ops, .room = next8(&in) * 64 };
    BUG_ON(virtio_vsock_init(&m.card, m.bus, machine_mmu(&m.ram), &m.host.v, CID));
    virtio_attach(&m.card.vd, &no_transport, NULL);
    BUG_ON(virtio_vsock_start(&m.card));
    op_start(&m, &in);
    for (unsigned i = 0; i < MAX_OPS && in.at < in.end; i++)
        ops[next8(&in) % ARRAY_SIZE(ops)](&m, &in);
    BUG_ON(m.card.vd.nr_out);
    lock_take(bus_lock(m.bus));
    virtio_reset(&m.card.vd);
    lock_drop(bus_lock(m.bus));
    virtio_vsock_fini(&m.card);
    for (unsigned i = 0; i < VSOCK_STREAMS_MAX; i++)
        BUG_ON(m.host.streams[i].used);
    bus_destroy(m.bus);
    return 0;
}
