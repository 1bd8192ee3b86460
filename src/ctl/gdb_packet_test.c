/* SPDX-License-Identifier: Apache-2.0 */
/* gdb's packets: frames there and back, damaged ones, hostile ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/gdb_packet.h"

static struct gdb_rx *new_rx(void)
{
    return test_calloc(1, sizeof(struct gdb_rx));
}

/* The last event that is not GDB_NOTHING. */
static enum gdb_event feed(struct gdb_rx *rx, const void *data, size_t bytes)
{
    enum gdb_event last = GDB_NOTHING;

    for (size_t i = 0; i < bytes; i++) {
        enum gdb_event e = gdb_rx_byte(rx, ((const uint8_t *)data)[i]);

        if (e != GDB_NOTHING)
            last = e;
    }
    return last;
}

static enum gdb_event feed_text(struct gdb_rx *rx, const char *text)
{
    return feed(rx, text, strlen(text));
}

static void test_packet_with_right_sum_is_taken(void **state)
{
    struct gdb_rx *rx = new_rx();

    (void)state;
    assert_int_equal(feed_text(rx, "+$qC#b4"), GDB_PACKET);
    assert_string_equal(rx->buf, "qC");
    assert_int_equal(feed_text(rx, "$#00"), GDB_PACKET);
    assert_int_equal(rx->nr, 0);
    test_free(rx);
}

static void test_packet_with_wrong_sum_is_bad(void **state)
{
    struct gdb_rx *rx = new_rx();

    (void)state;
    assert_int_equal(feed_text(rx, "$qC#b5"), GDB_BAD);
    assert_int_equal(feed_text(rx, "$qC#x4"), GDB_BAD);
    assert_int_equal(feed_text(rx, "$qC#b\n"), GDB_BAD);
    assert_int_equal(feed_text(rx, "$qC#b4"), GDB_PACKET);
    test_free(rx);
}

static void test_interrupt_only_between_packets(void **state)
{
    struct gdb_rx *rx = new_rx();
    static const char inside[] = "$X\x03#5b";

    (void)state;
    assert_int_equal(feed_text(rx, "\x03"), GDB_INTERRUPT);
    assert_int_equal(feed(rx, inside, sizeof(inside) - 1), GDB_PACKET);
    assert_int_equal(rx->buf[1], 3);
    test_free(rx);
}

static void test_binary_survives_framing(void **state)
{
    struct gdb_rx *rx = new_rx();
    char *frame = test_malloc(GDB_FRAME_BYTES);
    uint8_t all[512];
    size_t nr;

    (void)state;
    for (unsigned i = 0; i < sizeof(all); i++)
        all[i] = (uint8_t)i;
    nr = gdb_frame(frame, all, sizeof(all));
    assert_int_equal(feed(rx, frame, nr), GDB_PACKET);
    assert_int_equal(rx->nr, sizeof(all));
    assert_memory_equal(rx->buf, all, sizeof(all));
    test_free(frame);
    test_free(rx);
}

static void test_packet_too_long_is_bad_and_the_next_is_good(void **state)
{
    struct gdb_rx *rx = new_rx();
    uint8_t sum = 0;
    char end[8];

    (void)state;
    assert_int_equal(feed_text(rx, "$"), GDB_NOTHING);
    for (unsigned i = 0; i < 3 * GDB_PACKET_BYTES; i++, sum = (uint8_t)(sum + 'a'))
        assert_int_equal(feed_text(rx, "a"), GDB_NOTHING);
    (void)snprintf(end, sizeof(end), "#%02x", sum);
    assert_int_equal(feed_text(rx, end), GDB_BAD);
    assert_int_equal(feed_text(rx, "$qC#b4"), GDB_PACKET);
    test_free(rx);
}

static void test_longest_packet_fits(void **state)
{
    struct gdb_rx *rx = new_rx();
    char *payload = test_malloc(GDB_PACKET_BYTES), *frame = test_malloc(GDB_FRAME_BYTES);

    (void)state;
    memset(payload, '}', GDB_PACKET_BYTES); /* every byte escaped */
    assert_int_equal(feed(rx, frame, gdb_frame(frame, payload, GDB_PACKET_BYTES)), GDB_PACKET);
    assert_int_equal(rx->nr, GDB_PACKET_BYTES);
    test_free(payload);
    test_free(frame);
    test_free(rx);
}

static void test_noise_never_overruns(void **state)
{
    static const char likely_bytes[] = "$#}*+-\x03"
                                       "0a";
    struct gdb_rx *rx = new_rx();
    unsigned seed = 1;

    (void)state;
    for (unsigned i = 0; i < 2000000; i++) {
        uint8_t byte = (uint8_t)rand_r(&seed);

        if (byte & 1)
            byte = (uint8_t)likely_bytes[byte / 2u % (sizeof(likely_bytes) - 1)];
        (void)gdb_rx_byte(rx, byte);
        assert_true(rx->nr <= GDB_PACKET_BYTES);
    }
    test_free(rx);
}

static void test_numbers(void **state)
{
    const char *p = "ffffffffffffffff,0,12345678901234567,";
    uint64_t val;

    (void)state;
    assert_true(gdb_take_hex(&p, &val));
    assert_int_equal(val, UINT64_MAX);
    assert_true(gdb_take_char(&p, ','));
    assert_true(gdb_take_hex(&p, &val));
    assert_int_equal(val, 0);
    assert_true(gdb_take_char(&p, ','));
    assert_false(gdb_take_hex(&p, &val)); /* 17 digits */
    p = "";
    assert_false(gdb_take_hex(&p, &val));
    assert_false(gdb_take_char(&p, 0));
}

static void test_bytes_end_with_the_packet(void **state)
{
    const char *p = "0aF";
    uint8_t val[2];

    (void)state;
    assert_false(gdb_take_bytes(&p, val, 2));
    p = "0aFf";
    assert_true(gdb_take_bytes(&p, val, 2));
    assert_int_equal(val[0], 0x0a);
    assert_int_equal(val[1], 0xff);
    assert_int_equal(*p, 0);
}

static void test_answer_too_long_is_noted(void **state)
{
    struct gdb_tx *tx = test_calloc(1, sizeof(*tx));
    uint8_t data[100] = { 0 };

    (void)state;
    for (unsigned i = 0; i <= GDB_PACKET_BYTES / (2 * sizeof(data)); i++)
        gdb_tx_hex(tx, data, sizeof(data));
    assert_true(tx->too_long);
    assert_true(tx->nr <= GDB_PACKET_BYTES);
    test_free(tx);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_packet_with_right_sum_is_taken),
        cmocka_unit_test(test_packet_with_wrong_sum_is_bad),
        cmocka_unit_test(test_interrupt_only_between_packets),
        cmocka_unit_test(test_binary_survives_framing),
        cmocka_unit_test(test_packet_too_long_is_bad_and_the_next_is_good),
        cmocka_unit_test(test_longest_packet_fits),
        cmocka_unit_test(test_noise_never_overruns),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_bytes_end_with_the_packet),
        cmocka_unit_test(test_answer_too_long_is_noted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
