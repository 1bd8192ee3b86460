/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest, a user and a snapshot that want to break the devices: libFuzzer target over the bus.
 *
 * The input is a program of small operations (see ops[]): register accesses, time passing, keys and
 * serial input, interrupt acknowledges, machine reset, and loading a damaged state. Time stands
 * still but for the input's wish, so every finding repeats. What must hold after each input:
 * nothing crashed, hung or tripped a sanitizer, and the PIC's INTR is what its own registers say.
 */
#include <string.h>

#include "dev/fakeclock.h"

#include "backend/backend.h"
#include "dev/cf9.h"
#include "dev/i8042.h"
#include "dev/pic.h"
#include "dev/pit.h"
#include "dev/port92.h"
#include "dev/rtc.h"
#include "dev/uart.h"

#define MAX_ADVANCE_NS  (200 * 1000000ull) /* of simulated time an input: each fires timers */
#define MAX_STATE_BYTES 4096

struct machine {
    struct bus *bus;
    struct pic pic;
    struct pit pit;
    struct rtc rtc;
    struct uart uart[2];
    struct i8042 kbc;
    struct port92 port92;
    struct cf9 cf9;
    struct chr chr[2];
    uint64_t advance_left_ns;
};

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
        v |= (uint32_t)next8(in) << 8 * i;
    return v;
}

/* ---- a channel that swallows output; the input offers what it receives ---- */

static void chr_fuzz_write(struct chr *c, const uint8_t *buf, size_t bytes)
{
    (void)c, (void)buf, (void)bytes;
}

static void chr_fuzz_nothing(struct chr *c)
{
    (void)c;
}

static const struct chr_ops chr_fuzz_ops = {
    .write = chr_fuzz_write,
    .accept = chr_fuzz_nothing,
    .close = chr_fuzz_nothing,
};

void chr_connect(struct chr *c, struct lock *lock, size_t (*rx)(void *arg, const uint8_t *, size_t),
                 void *arg)
{
    c->lock = lock;
    c->rx = rx;
    c->rx_arg = arg;
}

/* ---- the machine ---- */

static void machine_create(struct machine *m)
{
    int err = 0;

    *m = (struct machine){ .advance_left_ns = MAX_ADVANCE_NS };
    m->bus = bus_create();
    BUG_ON(!m->bus);
    bus_clock(m->bus)->real_ns = 1700000000ull * 1000000000;
    err |= pic_init(&m->pic, &(struct pic_config){ .bus = m->bus });
    bus_set_gsi_sink(m->bus, pic_set_irq, &m->pic);
    err |= pit_init(&m->pit, &(struct pit_config){ m->bus, bus_gsi(m->bus, 0) });
    err |= rtc_init(&m->rtc, &(struct rtc_config){ m->bus, bus_gsi(m->bus, 8), GIB(1), 0 });
    for (unsigned i = 0; i < 2; i++) {
        struct uart_config cfg = {
            .bus = m->bus,
            .port = i ? UART_COM2_PORT : UART_COM1_PORT,
            .irq = bus_gsi(m->bus, 4 - i),
            .chr = &m->chr[i],
        };

        m->chr[i].ops = &chr_fuzz_ops;
        err |= uart_init(&m->uart[i], &cfg);
    }
    err |= i8042_init(&m->kbc,
                      &(struct i8042_config){ m->bus, bus_gsi(m->bus, 1), bus_gsi(m->bus, 12) });
    err |= port92_init(&m->port92, m->bus);
    err |= cf9_init(&m->cf9, m->bus);
    BUG_ON(err);
}

static void machine_destroy(struct machine *m)
{
    cf9_fini(&m->cf9);
    port92_fini(&m->port92);
    i8042_fini(&m->kbc);
    uart_fini(&m->uart[1]);
    uart_fini(&m->uart[0]);
    rtc_fini(&m->rtc);
    pit_fini(&m->pit);
    pic_fini(&m->pic);
    bus_destroy(m->bus);
}

/* ---- operations ---- */

/* Where something answers, so that an input need not guess 16 bits. */
static const struct port_range {
    uint16_t base;
    uint8_t nr;
} ranges[] = {
    { 0x20, 2 }, { 0xa0, 2 }, { 0x4d0, 2 }, { 0x40, 4 },  { 0x61, 1 },  { 0x70, 2 },
    { 0x60, 1 }, { 0x64, 1 }, { 0x92, 1 },  { 0xcf8, 8 }, { 0x3f8, 8 }, { 0x2f8, 8 },
};

static uint16_t pick_port(struct input *in)
{
    uint8_t pick = next8(in);
    const struct port_range *r = &ranges[(pick & 15) % ARRAY_SIZE(ranges)];

    return (uint16_t)(r->base + (pick >> 4) % r->nr);
}

static void op_read(struct machine *m, struct input *in)
{
    (void)bus_port_read(m->bus, pick_port(in), 1);
}

static void op_write(struct machine *m, struct input *in)
{
    uint16_t port = pick_port(in);

    bus_port_write(m->bus, port, 1, next8(in));
}

/* Any port, any width. */
static void op_wild(struct machine *m, struct input *in)
{
    uint32_t v = next32(in);
    unsigned bytes = 1u << (v >> 16) % 3;

    if (v & BIT(24))
        bus_port_write(m->bus, (uint16_t)v, bytes, next32(in));
    else
        (void)bus_port_read(m->bus, (uint16_t)v, bytes);
}

static void op_advance(struct machine *m, struct input *in)
{
    uint8_t v = next8(in);
    uint64_t ns = (uint64_t)(v & 7) << (v >> 3 & 31);

    ns = MIN(ns, m->advance_left_ns);
    m->advance_left_ns -= ns;
    fakeclock_advance(m->bus, ns);
}

/* The host was busy, up to centuries. */
static void op_jump(struct machine *m, struct input *in)
{
    uint8_t v = next8(in);

    fakeclock_jump(m->bus, (uint64_t)(v & 3) << (v >> 2) % 60);
}

/* The host's clock was set. */
static void op_set_date(struct machine *m, struct input *in)
{
    bus_clock(m->bus)->real_ns = (uint64_t)next32(in) * 1000000000;
}

static void op_key(struct machine *m, struct input *in)
{
    uint32_t code = next32(in);

    lock_take(bus_lock(m->bus));
    i8042_key(&m->kbc, (const uint8_t *)&code, code >> 30);
    lock_drop(bus_lock(m->bus));
}

static void op_move(struct machine *m, struct input *in)
{
    int dx = (int32_t)next32(in), dy = (int32_t)next32(in);

    lock_take(bus_lock(m->bus));
    i8042_move(&m->kbc, dx, dy, (int8_t)next8(in), next8(in));
    lock_drop(bus_lock(m->bus));
}

static void op_serial(struct machine *m, struct input *in)
{
    struct chr *c = &m->chr[next8(in) & 1];
    uint8_t text[40];
    size_t nr = next8(in) % (sizeof(text) + 1);

    for (size_t i = 0; i < nr; i++)
        text[i] = next8(in);
    lock_take(bus_lock(m->bus));
    BUG_ON(c->rx(c->rx_arg, text, nr) > nr);
    lock_drop(bus_lock(m->bus));
}

static void op_ack(struct machine *m, struct input *in)
{
    (void)in;
    lock_take(bus_lock(m->bus));
    (void)pic_ack(&m->pic);
    lock_drop(bus_lock(m->bus));
}

static void op_line(struct machine *m, struct input *in)
{
    uint8_t v = next8(in);

    lock_take(bus_lock(m->bus));
    pic_set_irq(&m->pic, v & 31, v >> 7);
    lock_drop(bus_lock(m->bus));
}

static void op_detach(struct machine *m, struct input *in)
{
    uint8_t v = next8(in);

    lock_take(bus_lock(m->bus));
    pit_detach_irq(&m->pit, v & 1);
    rtc_detach_irq(&m->rtc, v & 2);
    lock_drop(bus_lock(m->bus));
}

static void op_reset(struct machine *m, struct input *in)
{
    (void)in;
    lock_take(bus_lock(m->bus));
    for (struct device *d = bus_device_next(m->bus, NULL); d; d = bus_device_next(m->bus, d))
        if (d->type->reset)
            d->type->reset(d);
    lock_drop(bus_lock(m->bus));
}

/* One device's state, saved, some bytes of it changed, loaded. */
static void op_state(struct machine *m, struct input *in)
{
    struct device *d = bus_device_next(m->bus, NULL);
    uint8_t buf[MAX_STATE_BYTES];
    size_t bytes;

    for (unsigned skip = next8(in) % 8; skip && d; skip--)
        d = bus_device_next(m->bus, d);
    if (!d)
        return;
    bytes = state_bytes(d);
    BUG_ON(bytes > sizeof(buf));
    lock_take(bus_lock(m->bus));
    state_save(d, buf);
    for (unsigned nr = next8(in) % 8; nr && bytes; nr--) {
        size_t at = (next8(in) | (size_t)next8(in) << 8) % bytes;

        buf[at] = next8(in);
    }
    BUG_ON(state_load(d, buf, bytes, d->type->version) != 0);
    lock_drop(bus_lock(m->bus));
}

static void (*const ops[])(struct machine *m, struct input *in) = {
    op_read, op_write, op_write,  op_write, op_wild, op_advance, op_jump,  op_set_date,
    op_key,  op_move,  op_serial, op_ack,   op_line, op_detach,  op_reset, op_state,
};

/* INTR is never up without a request that is not masked. */
static void check_pic(struct machine *m)
{
    bool pending = pic_pending(&m->pic);
    struct pic_chip *master = &m->pic.chip[0];

    if (pending)
        BUG_ON(!(master->irr & ~master->imr));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct input in = { .at = data, .end = data + bytes };
    struct machine m;

    log_set_level(LOG_ERROR);
    machine_create(&m);
    while (in.at < in.end)
        ops[next8(&in) % ARRAY_SIZE(ops)](&m, &in);
    check_pic(&m);
    machine_destroy(&m);
    return 0;
}
