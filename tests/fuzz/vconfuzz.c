/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libFuzzer: a console with two ports whose driver is the input: control messages and buffers of
 * any content, queues that are reset, and channels that come, go, speak and have room as it says.
 * Whatever comes, only a port that waits for room may keep a chain, and a reset leaves none out.
 */
#include <stdlib.h>
#include <string.h>

#include "dev/fakeclock.h"
#include "lib/log.h"
#include "virtio/console.h"
#include "virtio/transport.h"

#define RAM_BYTES  KIB(256)
#define QUEUE_STEP 0x1000u
#define DRIVER     0x400u
#define DEVICE     0x800u
#define BUFFERS    0x10000u
#define SIZE       16u
#define NR_CHANS   3u
#define MAX_OPS    400

enum { CONTROL_RX = 2, CONTROL_TX = 3 };

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

/* ---- channels ---- */

struct side {
    struct chr chr;
    size_t room;
    bool attended, again;
    uint8_t sum; /* of what was written */
};

static struct side *side_of(struct chr *c)
{
    return container_of(c, struct side, chr);
}

/* Reads it all, as a channel would: a sanitizer looks whether it may. */
static size_t side_offer(struct chr *c, const uint8_t *buf, size_t bytes)
{
    struct side *s = side_of(c);
    size_t nr = MIN(bytes, s->room);

    for (size_t i = 0; i < nr; i++)
        s->sum ^= buf[i];
    s->room -= nr;
    return nr;
}

static void side_write(struct chr *c, const uint8_t *buf, size_t bytes)
{
    (void)side_offer(c, buf, bytes);
}

static bool side_attended(struct chr *c)
{
    return side_of(c)->attended;
}

static void side_accept(struct chr *c)
{
    (void)c;
}

static void side_again(struct chr *c)
{
    side_of(c)->again = true;
}

static const struct chr_ops side_ops = {
    .write = side_write,
    .offer = side_offer,
    .attended = side_attended,
    .accept = side_accept,
    .again = side_again,
};

/* ---- the machine ---- */

struct machine {
    struct bus *bus;
    uint8_t *ram;
    struct side sides[NR_CHANS];
    struct virtio_console con;
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
    (void)arg, (void)idx;
}

static void no_config_interrupt(void *arg)
{
    (void)arg;
}

static const struct virtio_transport_ops no_transport = {
    .queue_interrupt = no_interrupt,
    .config_interrupt = no_config_interrupt,
};

static void set_up_queue(struct virtio *vd, unsigned idx)
{
    struct virtq *q = virtio_queue(vd, idx);
    uint32_t at = (idx + 1) * QUEUE_STEP;

    virtq_set_size(q, SIZE);
    virtq_set_address(q, VIRTQ_DESC, 0, at);
    virtq_set_address(q, VIRTQ_DRIVER, 0, at + DRIVER);
    virtq_set_address(q, VIRTQ_DEVICE, 0, at + DEVICE);
    virtq_enable(q);
}

/* ---- operations: machine lock held ---- */

static void op_start(struct machine *m, struct input *in)
{
    struct virtio *vd = &m->con.vd;
    uint8_t refused = next8(in);
    uint8_t status = VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER;

    virtio_set_status(vd, 0);
    BUG_ON(vd->nr_out);
    virtio_set_status(vd, status);
    virtio_accept(vd, 0, virtio_offered(vd, 0) & ~(refused & 3u));
    virtio_accept(vd, 1, virtio_offered(vd, 1) & ~(refused & 4u));
    status |= VIRTIO_STATUS_FEATURES_OK;
    virtio_set_status(vd, status);
    for (unsigned i = 0; i < vd->nr_queues; i++)
        set_up_queue(vd, i);
    virtio_set_status(vd, status | VIRTIO_STATUS_DRIVER_OK);
}

static void give(struct machine *m, unsigned queue, unsigned slot, uint64_t at, uint64_t rest)
{
    uint8_t *desc = m->ram + (queue + 1) * QUEUE_STEP, *driver = desc + DRIVER;
    uint16_t idx;

    memcpy(desc + 16 * slot, &at, 8);
    memcpy(desc + 16 * slot + 8, &rest, 8);
    memcpy(&idx, driver + 2, 2);
    driver[4 + 2 * (idx % SIZE)] = (uint8_t)slot;
    idx++;
    memcpy(driver + 2, &idx, 2);
}

/* A buffer that makes sense, mostly. */
static void op_give(struct machine *m, struct input *in)
{
    unsigned queue = next8(in) % m->con.vd.nr_queues, slot = next8(in) % SIZE;
    uint64_t at = BUFFERS + next16(in), bytes = next16(in);
    uint64_t flags = next8(in) & 7, last = next8(in) & 31;

    give(m, queue, slot, at, bytes | flags << 32 | last << 48);
    virtio_notify(&m->con.vd, queue);
}

static void op_control(struct machine *m, struct input *in)
{
    uint32_t id = next8(in) & 3;
    uint16_t event = next8(in) & 7, value = next8(in) & 1;

    memcpy(m->ram + BUFFERS, &id, 4);
    memcpy(m->ram + BUFFERS + 4, &event, 2);
    memcpy(m->ram + BUFFERS + 6, &value, 2);
    give(m, CONTROL_TX, next8(in) % SIZE, BUFFERS, 8);
    virtio_notify(&m->con.vd, CONTROL_TX);
}

static void op_poke(struct machine *m, struct input *in)
{
    uint32_t at = next16(in) * 4u % RAM_BYTES;
    unsigned nr = next8(in) % 64;

    for (unsigned i = 0; i < nr && at + i < RAM_BYTES; i++)
        m->ram[at + i] = next8(in);
}

static void op_notify(struct machine *m, struct input *in)
{
    virtio_notify(&m->con.vd, next8(in));
}

static void op_channel(struct machine *m, struct input *in)
{
    struct side *s = &m->sides[next8(in) % NR_CHANS];

    s->room += next16(in);
    s->attended = next8(in) & 1;
    s->again = false;
    s->chr.changed(s->chr.rx_arg);
}

static void op_input(struct machine *m, struct input *in)
{
    struct side *s = &m->sides[next8(in) % NR_CHANS];
    static const uint8_t text[4096];
    size_t bytes = next16(in) % sizeof(text);

    BUG_ON(s->chr.rx(s->chr.rx_arg, text, bytes) > bytes);
}

static void op_size(struct machine *m, struct input *in)
{
    virtio_console_resize(&m->con, next8(in), next8(in));
}

static void op_config(struct machine *m, struct input *in)
{
    uint32_t val = next16(in);

    virtio_config_write(&m->con.vd, next8(in), &val, 1u << next8(in) % 3);
}

static void op_queue_reset(struct machine *m, struct input *in)
{
    unsigned idx = next8(in) % m->con.vd.nr_queues;
    struct virtq *q = virtio_queue(&m->con.vd, idx);

    virtq_reset(q);
    if (virtio_has(&m->con.vd, VIRTIO_F_RING_RESET))
        BUG_ON(virtq_resetting(q));
    if (next8(in) & 1)
        set_up_queue(&m->con.vd, idx);
}

static void (*const ops[])(struct machine *m, struct input *in) = {
    op_give,    op_give,  op_give, op_control,     op_control, op_poke,  op_notify,
    op_channel, op_input, op_size, op_queue_reset, op_config,  op_start, op_channel,
};

static void machine_init(struct machine *m, struct mmu *mmu)
{
    struct vcon_desc desc = {
        .bus = m->bus, .mmu = mmu, .console = &m->sides[0].chr, .nr_ports = 2
    };

    for (unsigned i = 0; i < NR_CHANS; i++) {
        m->sides[i] = (struct side){ .chr.ops = &side_ops };
        lock_init(&m->sides[i].chr.conn, LOCK_CHANNEL);
    }
    desc.ports[0].chr = &m->sides[1].chr;
    desc.ports[0].name = "one";
    desc.ports[1].chr = &m->sides[2].chr;
    desc.ports[1].name = "two";
    BUG_ON(virtio_console_init(&m->con, &desc));
    virtio_attach(&m->con.vd, &no_transport, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static struct machine m;
    struct input in = { .at = data, .end = data + bytes };

    log_set_level(LOG_ERROR - 1);
    m.bus = bus_create();
    BUG_ON(!m.bus);
    machine_init(&m, machine_mmu(&m.ram));
    lock_take(bus_lock(m.bus));
    op_start(&m, &in);
    for (unsigned i = 0; i < MAX_OPS && in.at < in.end; i++)
        ops[next8(&in) % ARRAY_SIZE(ops)](&m, &in);
    virtio_reset(&m.con.vd);
    BUG_ON(m.con.vd.nr_out);
    lock_drop(bus_lock(m.bus));
    virtio_console_stop(&m.con);
    virtio_console_fini(&m.con);
    for (unsigned i = 0; i < NR_CHANS; i++)
        lock_destroy(&m.sides[i].chr.conn);
    bus_destroy(m.bus);
    return 0;
}
