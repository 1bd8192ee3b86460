/* SPDX-License-Identifier: Apache-2.0 */
/* A cable between two cards: meeting, frames both ways, no room, an end that goes and comes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "backend/net_fake.h"

struct cable {
    char dir[64], path[80];
    struct card a, b;
};

static struct net *open_end(const struct cable *t, unsigned idx)
{
    return net_open_socket(&(struct net_common){ .idx = idx, .vm = "test" }, t->path, 1500);
}

static int setup(void **state)
{
    struct cable *t = calloc(1, sizeof(*t));

    (void)snprintf(t->dir, sizeof(t->dir), "/tmp/doppel-net-test-XXXXXX");
    if (!mkdtemp(t->dir))
        return -1;
    (void)snprintf(t->path, sizeof(t->path), "%s/s", t->dir);
    *state = t;
    return 0;
}

static int teardown(void **state)
{
    struct cable *t = *state;
    int left = access(t->path, F_OK) == 0; /* nothing may stay behind */

    (void)unlink(t->path);
    (void)rmdir(t->dir);
    free(t);
    return left ? -1 : 0;
}

static void connect_both(struct cable *t, unsigned room_a, unsigned room_b)
{
    assert_int_equal(card_connect(&t->a, open_end(t, 0), room_a), 0);
    assert_int_equal(card_connect(&t->b, open_end(t, 1), room_b), 0);
    assert_true(card_wait_link(&t->a, true));
    assert_true(card_wait_link(&t->b, true));
}

static void fill(uint8_t *p, size_t bytes, unsigned seed)
{
    for (size_t i = 0; i < bytes; i++)
        p[i] = (uint8_t)(i * 31 + seed + i / 251);
}

/* A frame is counted after it was sent, or handed over. */
static bool count_wait(const _Atomic uint64_t *count, uint64_t nr)
{
    uint64_t end = host_mono_ns() + CARD_WAIT_S * 1000000000ull;

    while (*count != nr)
        if (host_mono_ns() > end)
            return false;
    return true;
}

static void test_frames_go_both_ways(void **state)
{
    static const size_t sizes[] = { 14, 60, 1514, 9014, NET_FRAME_MAX };
    static uint8_t data[NET_FRAME_MAX];
    struct cable *t = *state;
    struct stat st;

    connect_both(t, CARD_FRAMES, CARD_FRAMES);
    assert_int_equal(stat(t->path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        fill(data, sizes[i], i);
        card_send(&t->a, (struct net_hdr){ .flags = 0 }, data, sizes[i]);
        card_send(&t->b, (struct net_hdr){ .flags = 0 }, data, sizes[i]);
        assert_true(card_wait(&t->b, &t->b.nr_in, i + 1));
        assert_true(card_wait(&t->a, &t->a.nr_in, i + 1));
        assert_int_equal(t->b.in[i].bytes, sizes[i]);
        assert_memory_equal(t->b.in[i].data, data, sizes[i]);
        assert_int_equal(t->a.in[i].bytes, sizes[i]);
        assert_memory_equal(t->a.in[i].data, data, sizes[i]);
    }
    assert_true(count_wait(&t->a.net->counts.tx_frames, ARRAY_SIZE(sizes)));
    assert_true(count_wait(&t->a.net->counts.rx_frames, ARRAY_SIZE(sizes)));
    card_close(&t->a);
    card_close(&t->b);
}

/* A guest that takes no segments gets them cut, one that takes them gets them whole. */
static void test_offloads_are_as_the_guest_takes_them(void **state)
{
    static uint8_t data[14 + 20 + 20 + 3000];
    struct net_hdr hdr = { .flags = NET_HDR_NEEDS_CSUM,
                           .gso_type = NET_GSO_TCPV4,
                           .gso_size = 1000,
                           .csum_start = 34,
                           .csum_offset = 16 };
    struct cable *t = *state;

    data[12] = 8;
    data[14] = 0x45;
    data[14 + 9] = 6;
    data[34 + 12] = 5 << 4;
    connect_both(t, CARD_FRAMES, CARD_FRAMES);
    card_send(&t->a, hdr, data, sizeof(data));
    assert_true(card_wait(&t->b, &t->b.nr_in, 3));
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(t->b.in[i].bytes, 54 + 1000);
        assert_int_equal(t->b.in[i].hdr.flags, 0);
        assert_int_equal(t->b.in[i].hdr.gso_type, NET_GSO_NONE);
    }
    net_set_guest(t->b.net, NET_CSUM | NET_TSO4, 1);
    card_send(&t->a, hdr, data, sizeof(data));
    assert_true(card_wait(&t->b, &t->b.nr_in, 4));
    assert_int_equal(t->b.in[3].bytes, sizeof(data));
    assert_memory_equal(&t->b.in[3].hdr, &hdr, sizeof(hdr));
    assert_memory_equal(t->b.in[3].data, data, sizeof(data));
    card_close(&t->a);
    card_close(&t->b);
}

static void test_no_room_delays_and_loses_nothing(void **state)
{
    static uint8_t data[60];
    struct cable *t = *state;

    connect_both(t, CARD_FRAMES, 0);
    for (unsigned i = 0; i < 20; i++) {
        fill(data, sizeof(data), i);
        card_send(&t->a, (struct net_hdr){ .flags = 0 }, data, sizeof(data));
    }
    assert_true(card_wait(&t->b, &t->b.nr_refused, 1));
    card_give_room(&t->b, 7);
    assert_true(card_wait(&t->b, &t->b.nr_in, 7));
    card_give_room(&t->b, 20);
    assert_true(card_wait(&t->b, &t->b.nr_in, 20));
    for (unsigned i = 0; i < 20; i++) {
        fill(data, sizeof(data), i);
        assert_memory_equal(t->b.in[i].data, data, sizeof(data));
    }
    card_close(&t->a);
    card_close(&t->b);
}

/* Long frames until the socket is full; then the sender is held up, and goes on when there is room.
 */
static void test_full_socket_holds_the_sender_up(void **state)
{
    static uint8_t data[NET_FRAME_MAX];
    struct cable *t = *state;

    connect_both(t, CARD_FRAMES, 0);
    for (unsigned i = 0; i < 40; i++)
        card_send(&t->a, (struct net_hdr){ .flags = 0 }, data, sizeof(data));
    assert_true(card_wait(&t->a, &t->a.nr_full, 1));
    assert_true(t->a.nr_sent < 40);
    /* If this machine stands still for seconds the sender drops: so only this is sure. */
    card_give_room(&t->b, CARD_FRAMES);
    assert_true(card_wait(&t->a, &t->a.nr_sent, 40));
    assert_true(card_wait(&t->b, &t->b.nr_in, 1));
    card_close(&t->a);
    card_close(&t->b);
}

static void test_end_that_goes_and_comes_again(void **state)
{
    uint8_t data[60] = { 1 };
    struct cable *t = *state;

    connect_both(t, CARD_FRAMES, CARD_FRAMES);
    card_close(&t->a); /* the one that listened */
    assert_true(card_wait_link(&t->b, false));
    card_send(&t->b, (struct net_hdr){ .flags = 0 }, data, sizeof(data)); /* lost */
    assert_true(card_wait(&t->b, &t->b.nr_sent, 1));
    assert_int_equal(card_connect(&t->a, open_end(t, 0), CARD_FRAMES), 0);
    assert_true(card_wait_link(&t->a, true));
    assert_true(card_wait_link(&t->b, true));
    card_send(&t->b, (struct net_hdr){ .flags = 0 }, data, sizeof(data));
    assert_true(card_wait(&t->a, &t->a.nr_in, 1));
    card_close(&t->b);
    assert_true(card_wait_link(&t->a, false));
    card_close(&t->a);
}

static void test_left_over_socket_is_made_anew(void **state)
{
    struct cable *t = *state;
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);

    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", t->path);
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    (void)close(fd);
    connect_both(t, 1, 1);
    card_close(&t->a);
    card_close(&t->b);
}

static void test_other_files_are_left_alone(void **state)
{
    struct cable *t = *state;
    FILE *f = fopen(t->path, "w");

    assert_non_null(f);
    (void)fclose(f);
    assert_null(open_end(t, 0));
    assert_int_equal(unlink(t->path), 0); /* it is still there */
}

/* Who connects without our first message is nobody; frames that are none are dropped. */
static void test_strangers_are_turned_away(void **state)
{
    static const struct net_hdr lie = { .flags = NET_HDR_NEEDS_CSUM, .csum_start = 65000 };
    uint8_t msg[sizeof(lie) + 60] = { 0 };
    struct cable *t = *state;
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    char buf[32];

    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", t->path);
    assert_int_equal(card_connect(&t->a, open_end(t, 0), 4), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(send(fd, "hi", 2, 0), 2);
    assert_int_equal(recv(fd, buf, sizeof(buf), 0), 12);
    assert_true(recv(fd, buf, sizeof(buf), 0) <= 0); /* the end */
    (void)close(fd);

    fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(recv(fd, buf, sizeof(buf), 0), 12);
    assert_int_equal(send(fd, buf, 12, 0), 12);
    assert_true(card_wait_link(&t->a, true));
    assert_int_equal(send(fd, "x", 1, 0), 1);
    memcpy(msg, &lie, sizeof(lie));
    assert_int_equal(send(fd, msg, sizeof(msg), 0), sizeof(msg));
    memset(msg, 0, sizeof(msg));
    assert_int_equal(send(fd, msg, sizeof(lie) + 13, 0), sizeof(lie) + 13);
    assert_int_equal(send(fd, msg, sizeof(msg), 0), sizeof(msg)); /* good */
    assert_true(card_wait(&t->a, &t->a.nr_in, 1));
    assert_int_equal(t->a.in[0].bytes, 60);
    assert_int_equal(t->a.net->counts.rx_dropped, 3);
    (void)close(fd);
    card_close(&t->a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_frames_go_both_ways, setup, teardown),
        cmocka_unit_test_setup_teardown(test_offloads_are_as_the_guest_takes_them, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_room_delays_and_loses_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full_socket_holds_the_sender_up, setup, teardown),
        cmocka_unit_test_setup_teardown(test_end_that_goes_and_comes_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_left_over_socket_is_made_anew, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_files_are_left_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_strangers_are_turned_away, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
