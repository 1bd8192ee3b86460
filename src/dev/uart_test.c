/* SPDX-License-Identifier: Apache-2.0 */
/* The 16550A as drivers probe and use it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "dev/fakeclock.h"

#include <string.h>

#include "backend/backend.h"
#include "dev/uart.h"

#define RBR 0x3f8
#define THR 0x3f8
#define IER 0x3f9
#define IIR 0x3fa
#define FCR 0x3fa
#define LCR 0x3fb
#define MCR 0x3fc
#define LSR 0x3fd
#define MSR 0x3fe
#define SCR 0x3ff

/* A channel that keeps what was written and offers `in` when asked. */
struct env {
    struct chr chr;
    struct bus *bus;
    struct uart uart;
    int level;
    unsigned nr_edges, nr_accepts;
    char written[64];
    unsigned nr_written;
};

static void chr_fake_write(struct chr *c, const uint8_t *buf, size_t bytes)
{
    struct env *e = container_of(c, struct env, chr);

    for (size_t i = 0; i < bytes && e->nr_written < sizeof(e->written) - 1; i++)
        e->written[e->nr_written++] = (char)buf[i];
}

static void chr_fake_accept(struct chr *c)
{
    container_of(c, struct env, chr)->nr_accepts++;
}

static void chr_fake_close(struct chr *c)
{
    (void)c;
}

static const struct chr_ops chr_fake_ops = {
    .write = chr_fake_write,
    .accept = chr_fake_accept,
    .close = chr_fake_close,
};

void chr_connect(struct chr *c, struct lock *lock, size_t (*rx)(void *, const uint8_t *, size_t),
                 void *arg)
{
    c->lock = lock;
    c->rx = rx;
    c->rx_arg = arg;
}

static void env_irq(void *ctx, unsigned idx, int level)
{
    struct env *e = ctx;

    (void)idx;
    e->nr_edges += level && !e->level;
    e->level = level;
}

static void out(struct env *e, uint16_t port, uint8_t val)
{
    bus_port_write(e->bus, port, 1, val);
}

static uint8_t in(struct env *e, uint16_t port)
{
    return (uint8_t)bus_port_read(e->bus, port, 1);
}

static size_t offer(struct env *e, const char *text)
{
    size_t nr;

    lock_take(bus_lock(e->bus));
    nr = e->chr.rx(e->chr.rx_arg, (const uint8_t *)text, strlen(text));
    lock_drop(bus_lock(e->bus));
    return nr;
}

/* As a driver leaves it: 115200 8n1, FIFOs with trigger level 8, DTR, RTS, OUT2. */
static void open_port(struct env *e, uint8_t ier)
{
    out(e, LCR, 0x83);
    out(e, THR, 1);
    out(e, IER, 0);
    out(e, LCR, 0x03);
    out(e, FCR, 0x81);
    out(e, MCR, 0x0b);
    out(e, IER, ier);
}

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    e->chr.ops = &chr_fake_ops;
    e->bus = bus_create();
    *state = e;
    return uart_init(&e->uart, &(struct uart_config){ .bus = e->bus,
                                                      .port = UART_COM1_PORT,
                                                      .irq = { env_irq, e, 4 },
                                                      .chr = &e->chr });
}

static int teardown(void **state)
{
    struct env *e = *state;

    uart_fini(&e->uart);
    bus_destroy(e->bus);
    free(e);
    return 0;
}

static void test_reset_values(void **state)
{
    struct env *e = *state;

    assert_int_equal(in(e, IER), 0x00);
    assert_int_equal(in(e, IIR), 0x01);
    assert_int_equal(in(e, LCR), 0x03);
    assert_int_equal(in(e, MCR), 0x00);
    assert_int_equal(in(e, LSR), 0x60);
    assert_int_equal(in(e, MSR), 0xb0);
}

static void test_registers_keep_what_a_16550a_keeps(void **state)
{
    struct env *e = *state;

    out(e, SCR, 0x5a);
    assert_int_equal(in(e, SCR), 0x5a);
    out(e, IER, 0xff);
    assert_int_equal(in(e, IER), 0x0f);
    out(e, MCR, 0xff);
    assert_int_equal(in(e, MCR), 0x1f);
    out(e, LCR, 0x80);
    out(e, RBR, 0x34);
    out(e, IER, 0x12);
    assert_int_equal(in(e, RBR), 0x34);
    assert_int_equal(in(e, IER), 0x12);
    out(e, LCR, 0x00);
    assert_int_equal(in(e, IER), 0x0f);
    out(e, FCR, 0xc0); /* without the enable bit nothing is programmed */
    assert_int_equal(in(e, IIR) & 0xc0, 0x00);
    out(e, FCR, 0xe1); /* no 64-byte FIFO */
    assert_int_equal(in(e, IIR) & 0xe0, 0xc0);
}

static void test_output_appears_at_once_and_word_length_counts(void **state)
{
    struct env *e = *state;

    open_port(e, 0);
    out(e, THR, 'h');
    out(e, THR, 'i');
    out(e, LCR, 0x02);
    out(e, THR, 'A' | 0x80);
    assert_string_equal(e->written, "hiA");
    assert_int_equal(in(e, LSR), 0x60);
}

static void test_thre_interrupt_comes_by_enable_and_by_each_write(void **state)
{
    struct env *e = *state;

    open_port(e, 0x02);
    assert_int_equal(e->level, 1);
    assert_int_equal(in(e, IIR), 0xc2);
    assert_int_equal(e->level, 0); /* reading IIR cleared it */
    assert_int_equal(in(e, IIR), 0xc1);
    out(e, THR, 'x');
    assert_int_equal(e->nr_edges, 2);
    out(e, THR, 'y'); /* without a look at IIR: still an edge for an edge-triggered controller */
    assert_int_equal(e->nr_edges, 3);
    out(e, IER, 0x00);
    assert_int_equal(e->level, 0);
    out(e, IER, 0x02);
    assert_int_equal(in(e, IIR), 0xc2);
}

static void test_out2_gates_the_interrupt_line(void **state)
{
    struct env *e = *state;

    open_port(e, 0x02);
    out(e, MCR, 0x03);
    assert_int_equal(e->level, 0);
    out(e, MCR, 0x0b);
    assert_int_equal(e->level, 1);
    out(e, MCR, 0x1b);
    assert_int_equal(e->level, 0);
}

static void test_trigger_level_then_timeout(void **state)
{
    struct env *e = *state;

    open_port(e, 0x01);
    assert_int_equal(offer(e, "1234567"), 7);
    assert_int_equal(in(e, IIR), 0xc1);
    assert_int_equal(offer(e, "8"), 1);
    assert_int_equal(in(e, IIR), 0xc4);
    assert_int_equal(e->level, 1);
    assert_int_equal(in(e, RBR), '1');
    assert_int_equal(e->level, 0);
    fakeclock_advance(e->bus, 340000); /* four characters of ten bits at 115200 are 347 us */
    assert_int_equal(in(e, IIR), 0xc1);
    fakeclock_advance(e->bus, 10000);
    assert_int_equal(in(e, IIR), 0xcc);
    assert_int_equal(e->level, 1);
    assert_int_equal(in(e, RBR), '2');
    assert_int_equal(in(e, IIR), 0xc1);
    for (unsigned i = 0; i < 6; i++)
        (void)in(e, RBR);
    fakeclock_advance(e->bus, 1000000);
    assert_int_equal(in(e, IIR), 0xc1);
    assert_int_equal(in(e, LSR), 0x60);
}

static void test_full_fifo_makes_the_channel_wait(void **state)
{
    struct env *e = *state;
    unsigned accepts;

    open_port(e, 0x01);
    assert_int_equal(offer(e, "0123456789abcdefXYZ"), 16);
    assert_int_equal(offer(e, "XYZ"), 0);
    accepts = e->nr_accepts;
    assert_int_equal(in(e, RBR), '0');
    assert_int_equal(e->nr_accepts, accepts + 1);
    assert_int_equal(offer(e, "XYZ"), 1);
    assert_int_equal(in(e, LSR) & 0x02, 0); /* no overrun */
}

static void test_without_fifos_one_character(void **state)
{
    struct env *e = *state;

    open_port(e, 0x01);
    out(e, FCR, 0x00);
    assert_int_equal(offer(e, "ab"), 1);
    assert_int_equal(in(e, IIR), 0x04);
    assert_int_equal(in(e, RBR), 'a');
    assert_int_equal(in(e, RBR), 'a');
    assert_int_equal(in(e, LSR), 0x60);
}

static void test_input_waits_until_the_guest_is_ready(void **state)
{
    struct env *e = *state;

    assert_int_equal(offer(e, "early"), 0);
    out(e, MCR, 0x01);
    assert_int_equal(e->nr_accepts, 0);
    out(e, MCR, 0x03);
    assert_int_equal(e->nr_accepts, 1);
    assert_int_equal(offer(e, "early"), 1);
    out(e, MCR, 0x00);
    (void)in(e, RBR);
    assert_int_equal(offer(e, "arly"), 0);
    /* A guest that knows no modem lines polls. */
    for (unsigned i = 0; i < 100; i++)
        (void)in(e, LSR);
    assert_int_equal(e->nr_accepts, 2);
    assert_int_equal(offer(e, "arly"), 1);
}

static void test_a_character_from_before_the_fifos_and_rts_is_kept(void **state)
{
    static const struct {
        uint8_t mcr, fcr;
        bool kept;
    } cases[] = {
        { 0x08, 0x01, true },  /* as Linux opens the port */
        { 0x08, 0x03, false }, /* to be cleared */
        { 0x0a, 0x01, false }, /* RTS: the change of modes clears (data sheet) */
    };
    struct env *e = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        out(e, FCR, 0x00);
        out(e, MCR, cases[i].mcr);
        out(e, IER, 0x05);
        assert_int_equal(offer(e, "echo"), 1);
        out(e, FCR, cases[i].fcr);
        out(e, FCR, 0x81);
        assert_int_equal(in(e, LSR) & 0x01, cases[i].kept);
        assert_int_equal(offer(e, "cho"), 3);
        out(e, MCR, 0x0b);
        assert_int_equal(in(e, RBR), cases[i].kept ? 'e' : 'c');
        out(e, FCR, 0x83);
    }
}

static void test_loopback_of_data_counts_the_fifo_and_overruns(void **state)
{
    struct env *e = *state;
    unsigned nr = 0;

    out(e, FCR, 0x07);
    out(e, LCR, 0x03);
    out(e, MCR, 0x10);
    for (unsigned i = 0; i < 256; i++)
        out(e, THR, (uint8_t)i);
    assert_int_equal(in(e, LSR), 0x63);
    assert_int_equal(in(e, LSR), 0x61);
    for (; in(e, LSR) & 0x01; nr++)
        assert_int_equal(in(e, RBR), nr);
    assert_int_equal(nr, 16);
    assert_int_equal(e->nr_written, 0);
    assert_int_equal(offer(e, "x"), 0);
}

static void test_loopback_of_modem_lines_with_deltas(void **state)
{
    struct env *e = *state;

    out(e, MCR, 0x10);
    assert_int_equal(in(e, MSR), 0x0b); /* CTS, DSR and DCD fell */
    assert_int_equal(in(e, MSR), 0x00);
    out(e, MCR, 0x1a); /* RTS and OUT2: what Linux expects to find as 90h */
    assert_int_equal(in(e, MSR) & 0xf0, 0x90);
    out(e, MCR, 0x14);
    assert_int_equal(in(e, MSR), 0x49); /* RI rose: no delta */
    out(e, MCR, 0x10);
    assert_int_equal(in(e, MSR), 0x04); /* its trailing edge */
}

static void test_modem_status_interrupt(void **state)
{
    struct env *e = *state;

    out(e, MCR, 0x18);
    (void)in(e, MSR);
    out(e, IER, 0x08);
    assert_int_equal(in(e, IIR), 0x01);
    out(e, MCR, 0x1a);
    assert_int_equal(in(e, IIR), 0x00);
    (void)in(e, MSR);
    assert_int_equal(in(e, IIR), 0x01);
}

static void test_break_in_loopback_is_a_line_status(void **state)
{
    struct env *e = *state;

    out(e, FCR, 0x01);
    out(e, IER, 0x05);
    out(e, LCR, 0x00);
    out(e, MCR, 0x10);
    out(e, THR, 'a');
    out(e, LCR, 0x43);
    assert_int_equal(in(e, LSR), 0xe1); /* an error further down in the FIFO */
    assert_int_equal(in(e, RBR), 'a' & 0x1f);
    assert_int_equal(in(e, IIR), 0xc6);
    assert_int_equal(in(e, LSR), 0xf1);
    assert_int_equal(in(e, LSR), 0x61);
    assert_int_equal(in(e, RBR), 0);
}

static void test_fcr_clears_the_receiver(void **state)
{
    struct env *e = *state;

    open_port(e, 0x01);
    (void)offer(e, "0123456789");
    out(e, FCR, 0x83);
    assert_int_equal(in(e, LSR), 0x60);
    assert_int_equal(e->level, 0);
}

static void test_state_survives_saving(void **state)
{
    struct env *e = *state;
    uint8_t buf[256];

    open_port(e, 0x01);
    (void)offer(e, "abc");
    assert_true(state_bytes(&e->uart.dev) <= sizeof(buf));
    state_save(&e->uart.dev, buf);
    e->uart.dev.type->reset(&e->uart.dev);
    fakeclock_advance(e->bus, 1000);
    assert_int_equal(state_load(&e->uart.dev, buf, state_bytes(&e->uart.dev), 1), 0);
    fakeclock_advance(e->bus, 400000);
    assert_int_equal(in(e, IIR), 0xcc); /* the timeout was armed again */
    assert_int_equal(in(e, RBR), 'a');
    assert_int_equal(in(e, RBR), 'b');
    assert_int_equal(in(e, RBR), 'c');
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_reset_values),
        TEST(test_registers_keep_what_a_16550a_keeps),
        TEST(test_output_appears_at_once_and_word_length_counts),
        TEST(test_thre_interrupt_comes_by_enable_and_by_each_write),
        TEST(test_out2_gates_the_interrupt_line),
        TEST(test_trigger_level_then_timeout),
        TEST(test_full_fifo_makes_the_channel_wait),
        TEST(test_without_fifos_one_character),
        TEST(test_input_waits_until_the_guest_is_ready),
        TEST(test_a_character_from_before_the_fifos_and_rts_is_kept),
        TEST(test_loopback_of_data_counts_the_fifo_and_overruns),
        TEST(test_loopback_of_modem_lines_with_deltas),
        TEST(test_modem_status_interrupt),
        TEST(test_break_in_loopback_is_a_line_status),
        TEST(test_fcr_clears_the_receiver),
        TEST(test_state_survives_saving),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
