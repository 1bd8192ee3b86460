/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio console: bytes both ways, ports and their control messages, and drivers that err. */
#include "virtio/console.h"
#include "virtio/testdriver.h"

#define F_V1        BIT64(VIRTIO_F_VERSION_1)
#define F_MULTIPORT (F_V1 | BIT64(1))
#define SIZE        8u
#define BUFFER_AT   TEST_BUFFERS
#define REPLY_AT    (TEST_BUFFERS + 0x4000)

enum { RX0, TX0, CONTROL_RX, CONTROL_TX, RX1, TX1 };
enum { READY = 0, ADD = 1, PORT_READY = 3, CONSOLE_PORT = 4, RESIZE = 5, OPEN = 6, NAME = 7 };

/* A channel with room for so many bytes. */
struct fakechr {
    struct chr chr;
    size_t room, nr, nr_dropped;
    bool attended;
    unsigned nr_accepts, nr_agains;
    char got[256];
};

static size_t fake_offer(struct chr *c, const uint8_t *buf, size_t bytes)
{
    struct fakechr *f = container_of(c, struct fakechr, chr);
    size_t nr = MIN(bytes, f->room);

    memcpy(f->got + f->nr, buf, nr);
    f->nr += nr;
    f->room -= nr;
    return nr;
}

static void fake_write(struct chr *c, const uint8_t *buf, size_t bytes)
{
    container_of(c, struct fakechr, chr)->nr_dropped += bytes - fake_offer(c, buf, bytes);
}

static void fake_accept(struct chr *c)
{
    container_of(c, struct fakechr, chr)->nr_accepts++;
}

static void fake_again(struct chr *c)
{
    container_of(c, struct fakechr, chr)->nr_agains++;
}

static bool fake_attended(struct chr *c)
{
    return container_of(c, struct fakechr, chr)->attended;
}

static const struct chr_ops fake_ops = {
    .write = fake_write,
    .offer = fake_offer,
    .accept = fake_accept,
    .again = fake_again,
    .attended = fake_attended,
};

struct env {
    struct testmachine m;
    struct virtio_console con;
    struct fakechr tty, port;
    unsigned nr_given[6]; /* buffers of each queue */
};

static void fake_init(struct fakechr *f)
{
    *f = (struct fakechr){ .chr = { .ops = &fake_ops }, .room = sizeof(f->got), .attended = true };
    lock_init(&f->chr.conn, LOCK_CHANNEL);
}

static void change(struct env *e, struct fakechr *f)
{
    lock_take(bus_lock(e->m.bus));
    f->chr.changed(f->chr.rx_arg);
    lock_drop(bus_lock(e->m.bus));
}

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));
    struct vcon_desc desc = { .console = &e->tty.chr, .nr_ports = 1 };

    testmachine_init(&e->m);
    fake_init(&e->tty);
    fake_init(&e->port);
    desc.bus = e->m.bus;
    desc.mmu = e->m.mmu;
    desc.ports[0].chr = &e->port.chr;
    desc.ports[0].name = "org.test";
    assert_int_equal(virtio_console_init(&e->con, &desc), 0);
    virtio_attach(&e->con.vd, &test_transport, &e->m);
    /* They were asked to call. */
    change(e, &e->tty);
    change(e, &e->port);
    *state = e;
    return 0;
}

static int teardown(void **state)
{
    struct env *e = *state;

    virtio_console_stop(&e->con);
    assert_null(e->tty.chr.rx);
    driver_reset(&e->con.vd);
    virtio_console_fini(&e->con);
    testmachine_fini(&e->m);
    lock_destroy(&e->tty.chr.conn);
    lock_destroy(&e->port.chr.conn);
    free(e);
    return 0;
}

/* One more buffer in a queue; the device is told. */
static void give(struct env *e, unsigned queue, uint64_t at, uint32_t bytes, uint16_t flags)
{
    uint16_t idx = (uint16_t)(e->nr_given[queue]++ % SIZE);

    put_split(&e->m, queue, idx, at, bytes, flags, 0);
    make_available(&e->m, queue, SIZE, idx);
    lock_take(bus_lock(e->m.bus));
    virtio_notify(&e->con.vd, queue);
    lock_drop(bus_lock(e->m.bus));
}

static void send_text(struct env *e, unsigned queue, const char *text)
{
    memcpy(e->m.ram + BUFFER_AT, text, strlen(text));
    give(e, queue, BUFFER_AT, (uint32_t)strlen(text), 0);
}

static void send_control(struct env *e, uint32_t id, uint16_t event, uint16_t value)
{
    put16(&e->m, BUFFER_AT, (uint16_t)id);
    put16(&e->m, BUFFER_AT + 2, (uint16_t)(id >> 16));
    put16(&e->m, BUFFER_AT + 4, event);
    put16(&e->m, BUFFER_AT + 6, value);
    give(e, CONTROL_TX, BUFFER_AT, 8, 0);
}

/* The next control message is that one; returns what follows its header. */
static const char *expect_control(struct env *e, uint32_t id, uint16_t event, uint16_t value)
{
    uint16_t before = used_idx(&e->m, CONTROL_RX);

    memset(e->m.ram + REPLY_AT, 0, 128);
    give(e, CONTROL_RX, REPLY_AT, 128, D_WRITE);
    assert_int_equal(used_idx(&e->m, CONTROL_RX), before + 1);
    assert_int_equal(get32(&e->m, REPLY_AT), id);
    assert_int_equal(get16(&e->m, REPLY_AT + 4), event);
    assert_int_equal(get16(&e->m, REPLY_AT + 6), value);
    return (const char *)e->m.ram + REPLY_AT + 8;
}

/* Bytes from the channel, as its thread brings them; returns how many were taken. */
static size_t arrive(struct env *e, struct fakechr *f, const char *text)
{
    size_t nr;

    lock_take(bus_lock(e->m.bus));
    nr = f->chr.rx(f->chr.rx_arg, (const uint8_t *)text, strlen(text));
    lock_drop(bus_lock(e->m.bus));
    return nr;
}

/* The driver has set up port 1, and a program has opened it. */
static void open_port(struct env *e)
{
    driver_start(&e->con.vd, F_MULTIPORT, SIZE);
    send_control(e, 1, PORT_READY, 1);
    assert_string_equal(expect_control(e, 1, NAME, 1), "org.test");
    (void)expect_control(e, 1, OPEN, 1);
    send_control(e, 1, OPEN, 1);
}

static void test_plain_driver_has_a_console(void **state)
{
    struct env *e = *state;

    driver_start(&e->con.vd, F_V1, SIZE);
    send_text(e, TX0, "hello");
    assert_int_equal(used_idx(&e->m, TX0), 1);
    assert_memory_equal(e->tty.got, "hello", 5);
    assert_int_equal(arrive(e, &e->tty, "abc"), 0); /* no buffer yet */
    give(e, RX0, REPLY_AT, 2, D_WRITE);
    assert_true(e->tty.nr_accepts);
    assert_int_equal(arrive(e, &e->tty, "abc"), 2);
    assert_memory_equal(e->m.ram + REPLY_AT, "ab", 2);
    assert_int_equal(used_idx(&e->m, RX0), 1);
    assert_int_equal(arrive(e, &e->port, "x"), 0);
}

static void test_console_that_nobody_reads_loses_output(void **state)
{
    struct env *e = *state;

    driver_start(&e->con.vd, F_V1, SIZE);
    e->tty.room = 3;
    send_text(e, TX0, "hello");
    assert_int_equal(used_idx(&e->m, TX0), 1);
    assert_int_equal(e->tty.nr_dropped, 2);
}

static void test_emergency_write_needs_no_driver(void **state)
{
    struct env *e = *state;
    uint32_t val = 'E';

    lock_take(bus_lock(e->m.bus));
    virtio_config_write(&e->con.vd, 8, &val, 4);
    virtio_config_write(&e->con.vd, 4, &val, 4); /* not the driver's */
    virtio_config_read(&e->con.vd, 4, &val, 4);
    lock_drop(bus_lock(e->m.bus));
    assert_int_equal(e->tty.nr, 1);
    assert_int_equal(e->tty.got[0], 'E');
    assert_int_equal(val, 2); /* ports */
}

static void test_ports_are_announced_in_order(void **state)
{
    struct env *e = *state;
    const char *more;

    lock_take(bus_lock(e->m.bus));
    virtio_console_resize(&e->con, 80, 25);
    lock_drop(bus_lock(e->m.bus));
    driver_start(&e->con.vd, F_MULTIPORT, SIZE);
    give(e, CONTROL_RX, REPLY_AT, 128, D_WRITE);
    assert_int_equal(used_idx(&e->m, CONTROL_RX), 0); /* nothing to say yet */
    send_control(e, 0, READY, 1);
    assert_int_equal(used_idx(&e->m, CONTROL_RX), 1);
    assert_int_equal(get16(&e->m, REPLY_AT + 4), ADD);
    (void)expect_control(e, 1, ADD, 1);
    send_control(e, 0, PORT_READY, 1);
    (void)expect_control(e, 0, CONSOLE_PORT, 1);
    (void)expect_control(e, 0, OPEN, 1);
    more = expect_control(e, 0, RESIZE, 1);
    assert_memory_equal(more, "\x50\0\x19\0", 4); /* columns, rows */
    lock_take(bus_lock(e->m.bus));
    virtio_console_resize(&e->con, 81, 25);
    virtio_console_resize(&e->con, 81, 25);
    lock_drop(bus_lock(e->m.bus));
    assert_int_equal(e->m.nr_config_irqs, 1);
    more = expect_control(e, 0, RESIZE, 1);
    assert_memory_equal(more, "\x51\0\x19\0", 4);
}

static void test_port_tells_who_comes_and_goes(void **state)
{
    struct env *e = *state;

    e->port.attended = false;
    change(e, &e->port);
    driver_start(&e->con.vd, F_MULTIPORT, SIZE);
    send_control(e, 1, PORT_READY, 1);
    (void)expect_control(e, 1, NAME, 1);
    e->port.attended = true;
    change(e, &e->port);
    change(e, &e->port);
    (void)expect_control(e, 1, OPEN, 1);
    e->port.attended = false;
    change(e, &e->port);
    (void)expect_control(e, 1, OPEN, 0);
}

static void test_closed_port_keeps_input_outside(void **state)
{
    struct env *e = *state;

    open_port(e);
    give(e, RX1, REPLY_AT, 64, D_WRITE);
    send_control(e, 1, OPEN, 0);
    assert_int_equal(arrive(e, &e->port, "abc"), 0);
    send_control(e, 1, OPEN, 1);
    assert_true(e->port.nr_accepts);
    assert_int_equal(arrive(e, &e->port, "abc"), 3);
    assert_memory_equal(e->m.ram + REPLY_AT, "abc", 3);
}

static void test_port_holds_its_guest_up(void **state)
{
    struct env *e = *state;

    open_port(e);
    e->port.room = 4;
    send_text(e, TX1, "abcdef");
    assert_int_equal(used_idx(&e->m, TX1), 0);
    e->port.room = 1;
    change(e, &e->port);
    assert_int_equal(used_idx(&e->m, TX1), 0);
    e->port.room = 10;
    change(e, &e->port);
    assert_int_equal(used_idx(&e->m, TX1), 1);
    assert_int_equal(e->port.nr, 6);
    assert_memory_equal(e->port.got, "abcdef", 6);
}

static void test_reset_gets_held_buffer_back(void **state)
{
    struct env *e = *state;

    open_port(e);
    e->port.room = 0;
    send_text(e, TX1, "abcdef");
    assert_int_equal(e->con.vd.nr_out, 1);
    driver_reset(&e->con.vd);
    assert_int_equal(e->con.vd.nr_out, 0);
    e->port.room = 10;
    change(e, &e->port);
    assert_int_equal(e->port.nr, 0);
    assert_int_equal(arrive(e, &e->port, "abc"), 0);
}

static void test_queue_reset_gets_held_buffer_back(void **state)
{
    struct env *e = *state;
    struct virtq *q = virtio_queue(&e->con.vd, TX1);

    driver_start(&e->con.vd, F_MULTIPORT | BIT64(VIRTIO_F_RING_RESET), SIZE);
    e->port.room = 0;
    send_text(e, TX1, "abcdef");
    assert_int_equal(e->con.vd.nr_out, 1);
    lock_take(bus_lock(e->m.bus));
    virtq_reset(q);
    assert_false(virtq_resetting(q));
    lock_drop(bus_lock(e->m.bus));
    assert_int_equal(e->con.vd.nr_out, 0);
    assert_int_equal(used_idx(&e->m, TX1), 0);
    send_text(e, TX0, "others go on");
    assert_int_equal(used_idx(&e->m, TX0), 1);
}

/* As many as are taken in a row: what else there may be is for the channel's thread. */
static void test_flood_is_done_in_pieces(void **state)
{
    struct env *e = *state;
    unsigned agains;

    driver_start(&e->con.vd, F_V1, VCON_QUEUE_SIZE);
    agains = e->tty.nr_agains;
    for (unsigned i = 0; i < VCON_QUEUE_SIZE; i++) {
        put_split(&e->m, TX0, i, BUFFER_AT, 1, 0, 0);
        make_available(&e->m, TX0, VCON_QUEUE_SIZE, (uint16_t)i);
    }
    change(e, &e->tty);
    assert_int_equal(used_idx(&e->m, TX0), VCON_QUEUE_SIZE);
    assert_int_equal(e->tty.nr_agains, agains + 1);
    change(e, &e->tty);
    assert_int_equal(e->tty.nr_agains, agains + 1);
}

static void test_wrong_control_messages_are_ignored(void **state)
{
    struct env *e = *state;

    driver_start(&e->con.vd, F_MULTIPORT, SIZE);
    send_control(e, 2, PORT_READY, 1);
    send_control(e, UINT32_MAX, OPEN, 1);
    send_control(e, 1, 99, 1);
    send_control(e, 1, PORT_READY, 0);
    send_control(e, 0, READY, 0);
    give(e, CONTROL_TX, BUFFER_AT, 7, 0);
    assert_int_equal(used_idx(&e->m, CONTROL_TX), 6);
    give(e, CONTROL_RX, REPLY_AT, 128, D_WRITE);
    assert_int_equal(used_idx(&e->m, CONTROL_RX), 0);
    assert_false(e->con.vd.broken);
}

static void test_control_buffer_too_small_breaks_the_device(void **state)
{
    struct env *e = *state;

    driver_start(&e->con.vd, F_MULTIPORT, SIZE);
    send_control(e, 1, PORT_READY, 1);
    give(e, CONTROL_RX, REPLY_AT, 8, D_WRITE); /* no room for the name */
    assert_true(e->con.vd.status & VIRTIO_STATUS_NEEDS_RESET);
}

/* All of a device's parts, one behind the other, to or from a buffer. */
static void copy_state(struct virtio *vd, uint8_t *buf, bool load)
{
    struct state_part part;

    for (unsigned i = 0; virtio_state_part(vd, i, &part); i++) {
        size_t bytes = state_table_bytes(part.table);

        if (!load)
            state_table_save(part.table, part.base, buf);
        else
            assert_int_equal(
                state_table_load(part.table, part.base, buf, bytes, part.table->version), 0);
        buf += bytes;
    }
}

/* The machine stops while a port holds a buffer, is saved, and comes back with an empty device. */
static void save_and_load(struct env *e)
{
    static uint8_t buf[16384];
    struct virtio *vd = &e->con.vd;

    lock_take(bus_lock(e->m.bus));
    virtio_set_paused(vd, true);
    lock_drop(bus_lock(e->m.bus));
    change(e, &e->port); /* room, but nothing moves now */
    assert_true(virtio_settle(vd));
    copy_state(vd, buf, false);
    lock_take(bus_lock(e->m.bus));
    virtio_set_paused(vd, false);
    lock_drop(bus_lock(e->m.bus));
    driver_reset(vd);
    lock_take(bus_lock(e->m.bus));
    virtio_set_paused(vd, true);
    copy_state(vd, buf, true);
    assert_int_equal(virtio_state_check(vd), 0);
    virtio_state_loaded(vd);
    virtio_set_paused(vd, false);
    lock_drop(bus_lock(e->m.bus));
}

static void test_restored_port_sends_held_buffer_from_its_start(void **state)
{
    struct env *e = *state;
    unsigned nr_agains;

    open_port(e);
    e->port.room = 4;
    send_text(e, TX1, "abcdef");
    assert_int_equal(e->con.vd.nr_out, 1);
    e->port.room = 0;
    nr_agains = e->port.nr_agains;
    save_and_load(e);
    assert_true(e->port.nr_agains > nr_agains);
    assert_int_equal(used_idx(&e->m, TX1), 0);
    e->port.nr = 0;
    e->port.room = 10;
    change(e, &e->port);
    assert_int_equal(used_idx(&e->m, TX1), 1);
    assert_int_equal(e->port.nr, 6);
    assert_memory_equal(e->port.got, "abcdef", 6);
    /* The guest's program still has it open. */
    give(e, RX1, REPLY_AT, 16, D_WRITE);
    assert_int_equal(arrive(e, &e->port, "xyz"), 3);
    assert_memory_equal(e->m.ram + REPLY_AT, "xyz", 3);
}

static void test_restored_port_tells_that_its_visitor_has_gone(void **state)
{
    struct env *e = *state;

    open_port(e);
    save_and_load(e);
    e->port.attended = false;
    change(e, &e->port);
    (void)expect_control(e, 1, OPEN, 0);
}

static void test_paused_machine_keeps_held_buffer(void **state)
{
    struct env *e = *state;

    open_port(e);
    e->port.room = 0;
    send_text(e, TX1, "abcdef");
    lock_take(bus_lock(e->m.bus));
    virtio_set_paused(&e->con.vd, true);
    lock_drop(bus_lock(e->m.bus));
    e->port.room = 10;
    change(e, &e->port);
    assert_int_equal(used_idx(&e->m, TX1), 0);
    lock_take(bus_lock(e->m.bus));
    virtio_set_paused(&e->con.vd, false);
    lock_drop(bus_lock(e->m.bus));
    assert_int_equal(used_idx(&e->m, TX1), 1);
    assert_memory_equal(e->port.got, "abcdef", 6);
}

static void test_queue_under_reset_is_saved_as_reset(void **state)
{
    struct env *e = *state;
    struct virtq *q = virtio_queue(&e->con.vd, TX0);

    driver_start(&e->con.vd, F_MULTIPORT | BIT64(VIRTIO_F_RING_RESET), SIZE);
    lock_take(bus_lock(e->m.bus));
    virtq_reset(q);
    lock_drop(bus_lock(e->m.bus));
    save_and_load(e);
    assert_false(q->enabled);
    assert_false(q->usable);
    send_text(e, TX1, "others go on");
    assert_int_equal(used_idx(&e->m, TX1), 1);
}

/* Bits that make no sense for the machine that loads it. */
static void test_hostile_state_is_put_right(void **state)
{
    struct env *e = *state;

    open_port(e);
    e->con.ports[0].due = e->con.ports[1].due = e->con.ports[5].due = UINT32_MAX;
    e->con.ports[5].ready = true;
    save_and_load(e);
    assert_int_equal(e->con.ports[5].due, 0);
    for (unsigned i = 0; i < 8; i++)
        give(e, CONTROL_RX, REPLY_AT, 128, D_WRITE);
    assert_int_equal(e->con.ports[0].due | e->con.ports[1].due, 0);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_plain_driver_has_a_console),
        T(test_console_that_nobody_reads_loses_output),
        T(test_emergency_write_needs_no_driver),
        T(test_ports_are_announced_in_order),
        T(test_port_tells_who_comes_and_goes),
        T(test_closed_port_keeps_input_outside),
        T(test_port_holds_its_guest_up),
        T(test_reset_gets_held_buffer_back),
        T(test_queue_reset_gets_held_buffer_back),
        T(test_flood_is_done_in_pieces),
        T(test_wrong_control_messages_are_ignored),
        T(test_control_buffer_too_small_breaks_the_device),
        T(test_restored_port_sends_held_buffer_from_its_start),
        T(test_restored_port_tells_that_its_visitor_has_gone),
        T(test_paused_machine_keeps_held_buffer),
        T(test_queue_under_reset_is_saved_as_reset),
        T(test_hostile_state_is_put_right),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
