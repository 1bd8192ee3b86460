/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libFuzzer: a network card whose driver is the input: features, rings and buffers of any content,
 * frames from a link that are of any content, too. Whatever comes, lengths must hold and no chain
 * may stay out.
 */
#include <stdlib.h>
#include <string.h>

#include "dev/fakeclock.h"
#include "lib/log.h"
#include "virtio/net_fakelink.h"
#include "virtio/transport.h"

#define RAM_BYTES  KIB(256)
#define QUEUE_STEP 0x1000u
#define DRIVER     0x400u
#define DEVICE     0x800u
#define BUFFERS    0x10000u
#define SIZE       16u
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
    struct fakelink link;
    struct virtio_net card;
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

/* A descriptor that makes sense, mostly, and is available. */
static void op_give(struct machine *m, struct input *in)
{
    unsigned queue = next8(in) % m->card.vd.nr_queues, n = next8(in) % SIZE;
    uint8_t *at = m->ram + (queue + 1) * QUEUE_STEP, *driver = at + DRIVER;
    struct {
        uint64_t at;
        uint32_t bytes;
        uint16_t flags, next;
    } d = { BUFFERS + (next32(in) & 0x3fff0), next32(in) & 0x1ffff, next8(in) & 7, next8(in) & 31 };
    uint16_t idx;

    memcpy(at + 16 * n, &d, sizeof(d));
    memcpy(&idx, driver + 2, 2);
    driver[4 + 2 * (idx % SIZE)] = (uint8_t)n;
    idx++;
    memcpy(driver + 2, &idx, 2);
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

static void op_run(struct machine *m, struct input *in)
{
    fakelink_run(&m->link, next8(in) % m->link.net.nr_pairs);
}

static void op_room(struct machine *m, struct input *in)
{
    m->link.room = next8(in) & 15;
}

/* From the link: checked and, if need be, cut, as net_deliver() does it. */
static bool rx_piece(void *arg, struct net_frame *f)
{
    struct machine *m = arg;

    return fakelink_rx(&m->link, 0, f->hdr, f->data, f->bytes);
}

static void op_rx(struct machine *m, struct input *in)
{
    static uint8_t data[NET_FRAME_MAX], scratch[NET_FRAME_MAX];
    struct net_frame f = { .data = data, .bytes = 14 + next32(in) % (NET_FRAME_MAX - 13) };
    uint8_t how = next8(in);

    memset(data, how, f.bytes);
    for (unsigned i = 0; i < 80; i++)
        data[i] = next8(in);
    f.hdr = (struct net_hdr){ .flags = how & 3,
                              .gso_type = how >> 2 & 7,
                              .gso_size = (uint16_t)(64 + next8(in) * 16),
                              .csum_start = next8(in),
                              .csum_offset = next8(in) };
    if (!net_frame_ok(&f))
        return;
    if (how & 0x80 && f.hdr.gso_type) {
        (void)!net_segment(&f, f.hdr.gso_size, scratch, rx_piece, m);
        return;
    }
    if (how & 0x40 && f.hdr.flags & NET_HDR_NEEDS_CSUM)
        net_checksum(&f);
    (void)fakelink_rx(&m->link, how & 1 ? 0 : m->link.net.nr_pairs - 1, f.hdr, data, f.bytes);
}

static void op_link(struct machine *m, struct input *in)
{
    m->link.net.card->link(m->link.net.card_arg, next8(in) & 1);
}

static void op_config(struct machine *m, struct input *in)
{
    uint8_t buf[16] = { next8(in) };
    uint64_t off = next8(in);

    lock_take(bus_lock(m->bus));
    virtio_config_read(&m->card.vd, off, buf, next8(in) % sizeof(buf));
    virtio_config_write(&m->card.vd, off, buf, next8(in) % sizeof(buf));
    lock_drop(bus_lock(m->bus));
}

static void (*const ops[])(struct machine *m, struct input *in) = {
    op_give, op_give, op_give, op_poke, op_notify, op_run,   op_run,
    op_rx,   op_rx,   op_room, op_link, op_config, op_start,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static struct machine m;
    struct input in = { .at = data, .end = data + bytes };
    struct virtio_net_config cfg;

    log_set_level(LOG_ERROR - 1);
    m.bus = bus_create();
    BUG_ON(!m.bus);
    fakelink_init(&m.link, 1 + next8(&in) % 3);
    cfg =
        (struct virtio_net_config){ .bus = m.bus, .mmu = machine_mmu(&m.ram), .net = &m.link.net };
    BUG_ON(virtio_net_init(&m.card, &cfg));
    virtio_attach(&m.card.vd, &no_transport, NULL);
    m.link.net.card = NULL;
    BUG_ON(virtio_net_start(&m.card));
    op_start(&m, &in);
    for (unsigned i = 0; i < MAX_OPS && in.at < in.end; i++)
        ops[next8(&in) % ARRAY_SIZE(ops)](&m, &in);
    BUG_ON(m.card.vd.nr_out);
    lock_take(bus_lock(m.bus));
    virtio_reset(&m.card.vd);
    lock_drop(bus_lock(m.bus));
    virtio_net_fini(&m.card);
    bus_destroy(m.bus);
    return 0;
}
