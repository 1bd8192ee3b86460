/* SPDX-License-Identifier: Apache-2.0 */
/* The service's TCP against a guest that is played here, frame by frame. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "api/mmds.h"
#include "api/mmds_net.h"

#define S(n)   ((uint64_t)(n) * 1000000000ull)
#define FIN    1
#define SYN    2
#define RST    4
#define ACK    16
#define GUEST  0xa9fe0707u
#define PORT   4000u
#define WINDOW 8192u

struct env {
    struct mmds *mmds;
    struct mmds_net *n;
    uint64_t now_ns;
    uint32_t seq, ack;
    uint16_t window;
};

/* A frame of the service's, taken apart. */
struct got {
    uint32_t seq, ack;
    unsigned flags;
    uint16_t port;
    size_t bytes;
    uint8_t data[1500];
};

static void put(uint8_t *p, uint32_t val, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        p[i] = (uint8_t)(val >> 8 * (bytes - 1 - i));
}

static uint32_t get(const uint8_t *p, unsigned bytes)
{
    uint32_t val = 0;

    for (unsigned i = 0; i < bytes; i++)
        val = val << 8 | p[i];
    return val;
}

static uint16_t checksum(uint32_t acc, const uint8_t *p, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        acc += i & 1 ? p[i] : (uint32_t)p[i] << 8;
    while (acc >> 16)
        acc = (acc & 0xffff) + (acc >> 16);
    return (uint16_t)acc;
}

static bool send_to(struct env *e, uint32_t addr, uint16_t port, unsigned flags, const char *data)
{
    uint8_t buf[5000] = { 0 }, *ip = buf + 14, *tcp = ip + 20;
    size_t bytes = strlen(data);
    struct net_frame f = { .data = buf, .bytes = 54 + bytes, .hdr.flags = NET_HDR_DATA_VALID };

    memset(buf + 6, 2, 6);
    put(buf + 12, 0x0800, 2);
    ip[0] = 0x45;
    put(ip + 2, (uint32_t)(40 + bytes), 2);
    ip[9] = 6;
    put(ip + 12, GUEST, 4);
    put(ip + 16, addr, 4);
    put(tcp, PORT, 2);
    put(tcp + 2, port, 2);
    put(tcp + 4, e->seq, 4);
    put(tcp + 8, e->ack, 4);
    tcp[12] = 5 << 4;
    tcp[13] = (uint8_t)flags;
    put(tcp + 14, e->window, 2);
    memcpy(tcp + 20, data, bytes);
    return mmds_net_take(e->n, &f, e->now_ns);
}

static void say(struct env *e, unsigned flags, const char *data)
{
    assert_true(send_to(e, MMDS_DEFAULT_ADDR, 80, flags, data));
    e->seq += (uint32_t)strlen(data) + ((flags & (SYN | FIN)) != 0);
}

/* Its next frame, of which the checksums are looked at. False: none. */
static bool hear(struct env *e, struct got *g)
{
    uint8_t buf[MMDS_FRAME_MAX], *ip = buf + 14, *tcp = ip + 20;
    size_t bytes = mmds_net_next(e->n, buf, e->now_ns), head;

    memset(g, 0, sizeof(*g));
    if (!bytes)
        return false;
    assert_int_equal(get(buf + 12, 2), 0x0800);
    assert_int_equal(get(ip + 2, 2), bytes - 14);
    assert_int_equal(checksum(0, ip, 20), 0xffff);
    assert_int_equal(checksum(checksum(6 + (uint32_t)bytes - 34, ip + 12, 8), tcp, bytes - 34),
                     0xffff);
    assert_int_equal(get(ip + 12, 4), MMDS_DEFAULT_ADDR);
    assert_int_equal(get(ip + 16, 4), GUEST);
    assert_int_equal(get(tcp + 2, 2), PORT);
    head = 4 * (size_t)(tcp[12] >> 4);
    g->seq = get(tcp + 4, 4);
    g->ack = get(tcp + 8, 4);
    g->flags = tcp[13] & 0x17;
    g->port = (uint16_t)get(tcp, 2);
    g->bytes = bytes - 34 - head;
    memcpy(g->data, tcp + head, g->bytes);
    return true;
}

static void set_up(struct env *e, size_t value_bytes)
{
    char *value = calloc(value_bytes + 1, 1);
    json_t *data;

    memset(value, 'v', value_bytes);
    data = json_pack("{s:s}", "a", value);
    *e = (struct env){ .mmds = mmds_create(100000), .now_ns = S(100), .seq = 0xfffffff0, .window = WINDOW };
    e->n = mmds_net_create(e->mmds);
    assert_int_equal(mmds_put_data(e->mmds, data), 0);
    json_decref(data);
    free(value);
}

static void tear_down(struct env *e)
{
    mmds_net_destroy(e->n);
    mmds_destroy(e->mmds);
}

/* Hears all there is, acknowledges it; returns how many bytes of the answer came. */
static size_t read_all(struct env *e, uint32_t first, bool *fin)
{
    struct got g;
    size_t all = 0;

    for (*fin = false; hear(e, &g);) {
        if (g.seq != first + all)
            continue;
        all += g.bytes;
        *fin |= g.flags & FIN;
        e->ack = first + (uint32_t)all + *fin;
        say(e, ACK, "");
    }
    return all;
}

static void connect_first(struct env *e)
{
    struct got g;

    say(e, SYN, "");
    assert_true(hear(e, &g));
    e->ack = g.seq + 1;
    say(e, ACK, "");
}

static void test_one_request_gets_its_answer_and_an_end(void **state)
{
    struct env e;
    struct got g;
    bool fin;

    (void)state;
    set_up(&e, 20000);
    connect_first(&e);
    say(&e, ACK, "GET /a HTTP/1.1\r\n");
    assert_true(hear(&e, &g));
    assert_int_equal(g.flags, ACK);
    assert_int_equal(g.ack, e.seq);
    say(&e, ACK, "\r\n");
    assert_true(read_all(&e, e.ack, &fin) > 20000);
    assert_true(fin);
    say(&e, FIN | ACK, "");
    assert_true(hear(&e, &g));
    assert_int_equal(g.ack, e.seq);
    assert_true(mmds_net_due_ns(e.n) == UINT64_MAX); /* the connection is gone */
    tear_down(&e);
}

static void test_lost_frames_are_sent_again(void **state)
{
    struct env e;
    struct got g, again;
    bool fin;

    (void)state;
    set_up(&e, 3000);
    say(&e, SYN, "");
    assert_true(hear(&e, &g));
    e.now_ns += S(1);
    assert_true(hear(&e, &again)); /* the SYN was lost */
    assert_int_equal(again.flags, SYN | ACK);
    assert_int_equal(again.seq, g.seq);
    e.ack = g.seq + 1;
    say(&e, ACK, "GET /a HTTP/1.1\r\n\r\n");
    while (hear(&e, &again)) /* all lost */
        ;
    assert_true(mmds_net_due_ns(e.n) > e.now_ns);
    e.now_ns += S(1);
    assert_true(read_all(&e, e.ack, &fin) > 3000);
    assert_true(fin);
    tear_down(&e);
}

static void test_nobody_there_is_given_up(void **state)
{
    struct env e;
    struct got g;
    unsigned nr = 0;

    (void)state;
    set_up(&e, 10);
    say(&e, SYN, "");
    for (unsigned i = 0; i < 100; i++, e.now_ns += S(1))
        nr += hear(&e, &g);
    assert_true(nr > 1 && nr < 10);
    assert_true(mmds_net_due_ns(e.n) == UINT64_MAX);
    tear_down(&e);
}

static void test_a_closed_window_is_probed(void **state)
{
    struct env e;
    struct got g;
    bool fin;

    (void)state;
    set_up(&e, 3000);
    connect_first(&e);
    e.window = 0;
    say(&e, ACK, "GET /a HTTP/1.1\r\n\r\n");
    assert_true(hear(&e, &g));
    assert_int_equal(g.bytes, 0);
    assert_false(hear(&e, &g));
    e.now_ns = mmds_net_due_ns(e.n);
    assert_true(hear(&e, &g));
    assert_int_equal(g.bytes, 1);
    e.window = WINDOW;
    say(&e, ACK, "");
    e.now_ns += S(1);
    assert_true(read_all(&e, e.ack, &fin) > 3000);
    tear_down(&e);
}

static void test_other_ports_and_strangers_are_reset(void **state)
{
    struct env e;
    struct got g;

    (void)state;
    set_up(&e, 10);
    assert_true(send_to(&e, MMDS_DEFAULT_ADDR, 81, SYN, ""));
    assert_true(hear(&e, &g));
    assert_int_equal(g.flags, RST | ACK);
    assert_int_equal(g.port, 81);
    assert_int_equal(g.ack, e.seq + 1);
    e.ack = 77;
    say(&e, ACK, "hello");
    assert_true(hear(&e, &g));
    assert_int_equal(g.flags, RST);
    assert_int_equal(g.seq, 77);
    say(&e, RST, "");
    assert_false(hear(&e, &g));
    tear_down(&e);
}

static void test_what_is_for_others_is_not_taken(void **state)
{
    struct env e;

    (void)state;
    set_up(&e, 10);
    assert_false(send_to(&e, MMDS_DEFAULT_ADDR + 1, 80, SYN, ""));
    tear_down(&e);
}

static void test_a_request_without_an_end_is_answered(void **state)
{
    char part[1001];
    struct env e;
    struct got g;
    bool fin;
    uint32_t first;

    (void)state;
    set_up(&e, 10);
    connect_first(&e);
    first = e.ack;
    memset(part, 'x', 1000);
    part[1000] = 0;
    for (unsigned i = 0; i < 4; i++) {
        say(&e, ACK, part);
        assert_true(hear(&e, &g));
    }
    say(&e, ACK, part);
    assert_true(read_all(&e, first, &fin) > 0);
    assert_true(fin);
    tear_down(&e);
}

static void test_segments_out_of_order_are_asked_for_again(void **state)
{
    struct env e;
    struct got g;

    (void)state;
    set_up(&e, 10);
    connect_first(&e);
    e.seq += 5;
    say(&e, ACK, "late");
    assert_true(hear(&e, &g));
    assert_int_equal(g.ack, e.seq - 9);
    assert_int_equal(g.flags, ACK);
    tear_down(&e);
}

static void test_many_connections_and_garbage_are_survived(void **state)
{
    uint8_t buf[200];
    struct env e;
    struct got g;
    uint32_t rand = 1;

    (void)state;
    set_up(&e, 10);
    for (unsigned i = 0; i < 20000; i++) {
        struct net_frame f = { .data = buf, .bytes = 14 + i % 180, .hdr.flags = NET_HDR_DATA_VALID };

        for (size_t k = 0; k < sizeof(buf); k++)
            buf[k] = (uint8_t)((rand = rand * 1103515245 + 12345) >> 16);
        put(buf + 12, 0x0800, 2);
        buf[14] = (uint8_t)(0x45 + i % 3);
        put(buf + 16, (uint32_t)(f.bytes - 14), 2);
        put(buf + 20, 0, 2);
        buf[23] = 6;
        put(buf + 26, GUEST, 4);
        put(buf + 30, MMDS_DEFAULT_ADDR, 4);
        put(buf + 36, 80, 2);
        buf[46] = (uint8_t)(5 + i % 5) << 4;
        (void)mmds_net_take(e.n, &f, e.now_ns);
        e.now_ns += 1000000;
        (void)mmds_net_next(e.n, (uint8_t[MMDS_FRAME_MAX]){ 0 }, e.now_ns);
    }
    e.now_ns += S(1000);
    while (mmds_net_next(e.n, (uint8_t[MMDS_FRAME_MAX]){ 0 }, e.now_ns))
        ;
    assert_true(mmds_net_due_ns(e.n) == UINT64_MAX);
    e.seq = 5;
    connect_first(&e);
    assert_false(hear(&e, &g));
    tear_down(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_request_gets_its_answer_and_an_end),
        cmocka_unit_test(test_lost_frames_are_sent_again),
        cmocka_unit_test(test_nobody_there_is_given_up),
        cmocka_unit_test(test_a_closed_window_is_probed),
        cmocka_unit_test(test_other_ports_and_strangers_are_reset),
        cmocka_unit_test(test_what_is_for_others_is_not_taken),
        cmocka_unit_test(test_a_request_without_an_end_is_answered),
        cmocka_unit_test(test_segments_out_of_order_are_asked_for_again),
        cmocka_unit_test(test_many_connections_and_garbage_are_survived),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
