/* SPDX-License-Identifier: Apache-2.0 */
/* The network card on a link without threads: frames both ways, the filter, commands, bad drivers.
 */
#include "virtio/testdriver.h"

#include "lib/log.h"
#include "virtio/net_fakelink.h"

#define SIZE   16u
#define HDR    12u
#define BUF_AT 0x20000u
#define F(bit) BIT64(bit)
#define BASE   (BIT64(VIRTIO_F_VERSION_1) | F(VNET_F_MAC))

enum { RX0, TX0, CTRL = 2 };

struct env {
    struct testmachine m;
    struct fakelink link;
    struct virtio_net card;
};

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    testmachine_init(&e->m);
    *state = e;
    return 0;
}

static int teardown(void **state)
{
    struct env *e = *state;

    driver_reset(&e->card.vd);
    virtio_net_fini(&e->card);
    testmachine_fini(&e->m);
    free(e);
    return 0;
}

static void start(struct env *e, unsigned nr_pairs, uint64_t features)
{
    fakelink_init(&e->link, nr_pairs);
    assert_int_equal(virtio_net_init(&e->card, &(struct virtio_net_config){ .bus = e->m.bus,
                                                                            .mmu = e->m.mmu,
                                                                            .net = &e->link.net }),
                     0);
    virtio_attach(&e->card.vd, &test_transport, &e->m);
    assert_int_equal(virtio_net_start(&e->card), 0);
    driver_start(&e->card.vd, BASE | features, SIZE);
}

static void notify(struct env *e, unsigned queue)
{
    lock_take(bus_lock(e->m.bus));
    virtio_notify(&e->card.vd, queue);
    lock_drop(bus_lock(e->m.bus));
}

/* A buffer of the driver's, available as descriptor n of the queue. */
static void give(struct env *e, unsigned queue, unsigned n, uint32_t bytes, uint16_t flags)
{
    put_split(&e->m, queue, n, BUF_AT + queue * 0x10000u + n * 0x1000u, bytes, flags, 0);
    make_available(&e->m, queue, SIZE, (uint16_t)n);
}

static uint8_t *buffer(struct env *e, unsigned queue, unsigned n)
{
    return e->m.ram + BUF_AT + queue * 0x10000u + n * 0x1000u;
}

static uint32_t used_bytes(struct env *e, unsigned queue, unsigned nth)
{
    return get32(&e->m, queue_at(queue) + TEST_DEVICE + 4 + 8 * nth + 4);
}

/* The driver sends descriptor n: a header of zeroes and `bytes` bytes of `fill`. */
static void send_frame(struct env *e, unsigned n, uint32_t bytes, uint8_t fill)
{
    memset(buffer(e, TX0, n), 0, HDR);
    memset(buffer(e, TX0, n) + HDR, fill, bytes);
    give(e, TX0, n, HDR + bytes, 0);
    notify(e, TX0);
}

/* ---- sending ---- */

static void test_frame_is_sent(void **state)
{
    struct env *e = *state;

    start(e, 1, 0);
    send_frame(e, 0, 60, 0xa5);
    assert_true(e->link.kicked[0] & NET_KICK_TX);
    fakelink_run(&e->link, 0);
    assert_int_equal(e->link.nr_sent, 1);
    assert_int_equal(e->link.last_bytes, 60);
    assert_int_equal(e->link.last[59], 0xa5);
    assert_int_equal(used_idx(&e->m, TX0), 1);
    assert_true(e->m.nr_queue_irqs > 0);
}

static void test_full_link_delays_and_keeps_the_order(void **state)
{
    struct env *e = *state;

    start(e, 1, 0);
    e->link.room = 1;
    for (unsigned i = 0; i < 4; i++)
        send_frame(e, i, 60, (uint8_t)i);
    fakelink_run(&e->link, 0);
    assert_int_equal(e->link.nr_sent, 1);
    /* One is sent, one was taken and waits; the others stay in the queue. */
    assert_int_equal(used_idx(&e->m, TX0), 2);
    fakelink_run(&e->link, 0);
    assert_int_equal(used_idx(&e->m, TX0), 2);
    for (unsigned i = 1; i < 4; i++) {
        e->link.room = 1;
        fakelink_run(&e->link, 0);
        assert_int_equal(e->link.nr_sent, i + 1);
        assert_int_equal(e->link.last[0], i);
    }
    assert_int_equal(used_idx(&e->m, TX0), 4);
}

static void test_what_is_no_frame_is_not_sent(void **state)
{
    struct env *e = *state;

    start(e, 1, 0);
    send_frame(e, 0, 13, 1);                /* no Ethernet header */
    give(e, TX0, 1, 5, 0);                  /* no virtio header */
    give(e, TX0, 2, NET_FRAME_MAX + 13, 0); /* too long */
    send_frame(e, 3, 60, 1);
    buffer(e, TX0, 3)[0] = NET_HDR_NEEDS_CSUM;
    buffer(e, TX0, 3)[6] = 200; /* csum_start */
    fakelink_run(&e->link, 0);
    assert_int_equal(e->link.nr_sent, 0);
    assert_int_equal(used_idx(&e->m, TX0), 4); /* but its buffers come back */
    send_frame(e, 4, 60, 1);
    fakelink_run(&e->link, 0);
    assert_int_equal(e->link.nr_sent, 1);
}

/* ---- receiving ---- */

static void set_paused(struct env *e, bool on)
{
    lock_take(bus_lock(e->m.bus));
    virtio_set_paused(&e->card.vd, on);
    lock_drop(bus_lock(e->m.bus));
}

static void test_frame_fills_several_buffers_unless_paused(void **state)
{
    struct env *e = *state;
    uint8_t data[250];

    start(e, 1, F(VNET_F_MRG_RXBUF));
    for (unsigned i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)i;
    give(e, RX0, 0, 100, D_WRITE);
    give(e, RX0, 1, 100, D_WRITE);
    /* 262 bytes do not fit into 200: nothing is used. */
    assert_false(fakelink_rx(&e->link, 0, (struct net_hdr){ .flags = 0 }, data, sizeof(data)));
    assert_int_equal(used_idx(&e->m, RX0), 0);
    give(e, RX0, 2, 100, D_WRITE);
    set_paused(e, true);
    assert_false(fakelink_rx(&e->link, 0, (struct net_hdr){ .flags = 0 }, data, sizeof(data)));
    assert_int_equal(used_idx(&e->m, RX0), 0);
    set_paused(e, false);
    assert_true(fakelink_rx(&e->link, 0, (struct net_hdr){ .flags = 0 }, data, sizeof(data)));
    assert_int_equal(used_idx(&e->m, RX0), 3);
    assert_int_equal(buffer(e, RX0, 0)[10], 3); /* num_buffers */
    assert_int_equal(used_bytes(e, RX0, 0), 100);
    assert_int_equal(used_bytes(e, RX0, 2), 62);
    assert_memory_equal(buffer(e, RX0, 0) + HDR, data, 88);
    assert_memory_equal(buffer(e, RX0, 1), data + 88, 100);
    assert_memory_equal(buffer(e, RX0, 2), data + 188, 62);
}

static void test_small_buffer_without_merging_drops(void **state)
{
    struct env *e = *state;
    uint8_t data[250] = { 0 };

    start(e, 1, 0);
    give(e, RX0, 0, 100, D_WRITE);
    give(e, RX0, 1, 1000, D_WRITE);
    assert_true(fakelink_rx(&e->link, 0, (struct net_hdr){ .flags = 0 }, data, sizeof(data)));
    assert_int_equal(used_idx(&e->m, RX0), 0);
    assert_true(fakelink_rx(&e->link, 0, (struct net_hdr){ .flags = 0 }, data, 60));
    assert_int_equal(used_idx(&e->m, RX0), 1);
    assert_int_equal(used_bytes(e, RX0, 0), HDR + 60);
    assert_int_equal(buffer(e, RX0, 0)[10], 1);
}

static void test_nobody_listens_before_start_and_after_reset(void **state)
{
    struct env *e = *state;
    uint8_t data[60] = { 0 };

    start(e, 1, 0);
    driver_reset(&e->card.vd);
    assert_true(fakelink_rx(&e->link, 0, (struct net_hdr){ .flags = 0 }, data, sizeof(data)));
    fakelink_run(&e->link, 0);
    assert_int_equal(used_idx(&e->m, RX0), 0);
    assert_int_equal(e->link.net.rx_offloads, 0);
}

/* ---- the control queue ---- */

/* Runs a command; the answer, or 0xee if there was none. */
static unsigned command(struct env *e, unsigned queue, const void *text, uint32_t bytes)
{
    uint8_t *out = buffer(e, queue, 0), *ack = buffer(e, queue, 1);

    memcpy(out, text, bytes);
    *ack = 0xee;
    put_split(&e->m, queue, 0, (uint64_t)(out - e->m.ram), bytes, D_NEXT, 1);
    put_split(&e->m, queue, 1, (uint64_t)(ack - e->m.ram), 1, D_WRITE, 0);
    make_available(&e->m, queue, SIZE, 0);
    notify(e, queue);
    fakelink_run(&e->link, 0);
    return *ack;
}
#define COMMAND(e, queue, ...) \
    command(e, queue, (uint8_t[]){ __VA_ARGS__ }, sizeof((uint8_t[]){ __VA_ARGS__ }))

static bool wanted(struct env *e, const uint8_t *frame, size_t bytes)
{
    struct net_frame f = { .data = (uint8_t *)frame, .bytes = bytes };
    bool ok;

    virtio_lock(&e->card.vd);
    ok = vnet_wants(&e->card, &f);
    virtio_unlock(&e->card.vd);
    return ok;
}
#define CTRL_ALL (F(VNET_F_CTRL_VQ) | F(VNET_F_CTRL_RX) | F(VNET_F_CTRL_RX_EXTRA))

static void test_filter_by_address(void **state)
{
    static const uint8_t own[60] = { 2, 0, 0, 0, 0, 1 }, other[60] = { 2, 0, 0, 0, 0, 9 },
                         listed[60] = { 2, 0, 0, 0, 0, 7 }, group[60] = { 1, 0, 0x5e, 0, 0, 5 },
                         all[60] = { 255, 255, 255, 255, 255, 255 };
    struct env *e = *state;

    start(e, 1, CTRL_ALL);
    assert_true(wanted(e, other, 60)); /* all, until told otherwise */
    assert_int_equal(COMMAND(e, CTRL, 0, 0, 0), 0);
    assert_true(wanted(e, own, 60));
    assert_true(wanted(e, all, 60));
    assert_false(wanted(e, other, 60));
    assert_false(wanted(e, group, 60));
    assert_int_equal(
        COMMAND(e, CTRL, 1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 7, 1, 0, 0, 0, 1, 0, 0x5e, 0, 0, 5), 0);
    assert_true(wanted(e, listed, 60));
    assert_true(wanted(e, group, 60));
    assert_false(wanted(e, other, 60));
    assert_int_equal(COMMAND(e, CTRL, 0, 5, 1), 0); /* no broadcast */
    assert_false(wanted(e, all, 60));
    assert_int_equal(COMMAND(e, CTRL, 0, 4, 1), 0); /* no unicast */
    assert_false(wanted(e, own, 60));
    /* A list that says it is longer than it is changes nothing. */
    assert_int_equal(COMMAND(e, CTRL, 1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff), 1);
    assert_true(wanted(e, group, 60));
}

static void test_long_list_lets_all_pass(void **state)
{
    static const uint8_t other[60] = { 2, 0, 0, 0, 0, 9 };
    struct env *e = *state;
    uint8_t text[2 + 4 + 6 * (VNET_FILTER_MACS + 1) + 4] = { 1, 0, VNET_FILTER_MACS + 1 };

    start(e, 1, CTRL_ALL);
    assert_int_equal(COMMAND(e, CTRL, 0, 0, 0), 0);
    assert_int_equal(command(e, CTRL, text, sizeof(text)), 0);
    assert_true(wanted(e, other, 60));
}

static void test_filter_by_vlan(void **state)
{
    uint8_t tagged[60] = { [12] = 0x81, 0x00, 0x20, 0x05 }, plain[60] = { [12] = 8 };
    struct env *e = *state;

    start(e, 1, F(VNET_F_CTRL_VQ) | F(VNET_F_CTRL_VLAN));
    assert_true(wanted(e, plain, 60));
    assert_false(wanted(e, tagged, 60));
    assert_int_equal(COMMAND(e, CTRL, 2, 0, 5, 0), 0);
    assert_true(wanted(e, tagged, 60));
    assert_int_equal(COMMAND(e, CTRL, 2, 1, 5, 0), 0);
    assert_false(wanted(e, tagged, 60));
    assert_int_equal(COMMAND(e, CTRL, 2, 0, 0, 0x10), 1); /* VLAN 4096 */
}

static void test_commands_need_their_features(void **state)
{
    struct env *e = *state;

    start(e, 1, F(VNET_F_CTRL_VQ));
    assert_int_equal(COMMAND(e, CTRL, 0, 0, 0), 1);
    assert_int_equal(COMMAND(e, CTRL, 1, 1, 2, 0, 0, 0, 0, 3), 1);
    assert_int_equal(COMMAND(e, CTRL, 4, 0, 1, 0), 1);
    assert_int_equal(COMMAND(e, CTRL, 99, 0, 1), 1);
}

static void test_mac_and_offloads_and_pairs(void **state)
{
    struct env *e = *state;
    uint8_t mac[6];

    start(e, 4,
          F(VNET_F_CTRL_VQ) | F(VNET_F_CTRL_MAC_ADDR) | F(VNET_F_MQ) | F(VNET_F_GUEST_CSUM) |
              F(VNET_F_GUEST_TSO4) | F(VNET_F_CTRL_GUEST_OFFLOADS));
    assert_int_equal(e->link.net.rx_offloads, NET_CSUM | NET_TSO4);
    assert_int_equal(COMMAND(e, 8, 1, 1, 2, 0, 0, 0, 0, 3), 0);
    lock_take(bus_lock(e->m.bus));
    virtio_config_read(&e->card.vd, 0, mac, 6);
    lock_drop(bus_lock(e->m.bus));
    assert_int_equal(mac[5], 3);
    assert_int_equal(COMMAND(e, 8, 4, 0, 3, 0), 0);
    assert_int_equal(e->link.net.nr_used, 3);
    assert_int_equal(COMMAND(e, 8, 4, 0, 5, 0), 1);
    assert_int_equal(COMMAND(e, 8, 4, 0, 0, 0), 1);
    assert_int_equal(e->link.net.nr_used, 3);
    assert_int_equal(COMMAND(e, 8, 5, 0, 2, 0, 0, 0, 0, 0, 0, 0), 0); /* checksums alone */
    assert_int_equal(e->link.net.rx_offloads, NET_CSUM);
    assert_int_equal(COMMAND(e, 8, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0), 1); /* TSO6 was not agreed on */
    assert_int_equal(COMMAND(e, 8, 4, 0, 1), 1);                      /* too short */
    driver_reset(&e->card.vd);
    assert_int_equal(e->link.net.nr_used, 1);
}

/* "Feature bits": without MQ the control queue is number 2, however many pairs there could be. */
static void test_control_queue_without_multiqueue(void **state)
{
    struct env *e = *state;

    start(e, 4, CTRL_ALL);
    assert_int_equal(COMMAND(e, 2, 0, 0, 0), 0);
    assert_int_equal(COMMAND(e, 2, 0, 1, 1), 0); /* the notification alone brings it */
}

static void test_command_without_place_for_the_answer_breaks(void **state)
{
    struct env *e = *state;

    start(e, 1, CTRL_ALL);
    give(e, CTRL, 0, 3, 0);
    notify(e, CTRL);
    fakelink_run(&e->link, 0);
    assert_true(e->card.vd.status & VIRTIO_STATUS_NEEDS_RESET);
    driver_reset(&e->card.vd);
    memset(e->m.ram, 0, TEST_BUFFERS);
    driver_start(&e->card.vd, BASE | CTRL_ALL, SIZE);
    assert_int_equal(COMMAND(e, CTRL, 0, 0, 0), 0);
}

static void test_feature_without_what_it_needs_is_refused(void **state)
{
    struct env *e = *state;
    uint64_t features = BASE | F(VNET_F_GUEST_TSO4);

    start(e, 1, 0);
    driver_reset(&e->card.vd);
    lock_take(bus_lock(e->m.bus));
    virtio_set_status(&e->card.vd, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    virtio_accept(&e->card.vd, 0, (uint32_t)features);
    virtio_accept(&e->card.vd, 1, (uint32_t)(features >> 32));
    virtio_set_status(&e->card.vd, VIRTIO_STATUS_FEATURES_OK);
    assert_false(e->card.vd.status & VIRTIO_STATUS_FEATURES_OK);
    lock_drop(bus_lock(e->m.bus));
}

static void test_link_goes_down_and_tells(void **state)
{
    struct env *e = *state;
    uint16_t status;

    start(e, 1, F(VNET_F_STATUS));
    assert_int_equal(e->card.config.status, VNET_STATUS_LINK_UP);
    e->m.nr_config_irqs = 0;
    e->link.net.card->link(e->link.net.card_arg, false);
    assert_int_equal(e->m.nr_config_irqs, 1);
    lock_take(bus_lock(e->m.bus));
    virtio_config_read(&e->card.vd, 6, &status, sizeof(status));
    lock_drop(bus_lock(e->m.bus));
    assert_int_equal(status, 0);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_frame_is_sent),
        T(test_full_link_delays_and_keeps_the_order),
        T(test_what_is_no_frame_is_not_sent),
        T(test_frame_fills_several_buffers_unless_paused),
        T(test_small_buffer_without_merging_drops),
        T(test_nobody_listens_before_start_and_after_reset),
        T(test_filter_by_address),
        T(test_long_list_lets_all_pass),
        T(test_filter_by_vlan),
        T(test_commands_need_their_features),
        T(test_mac_and_offloads_and_pairs),
        T(test_control_queue_without_multiqueue),
        T(test_command_without_place_for_the_answer_breaks),
        T(test_feature_without_what_it_needs_is_refused),
        T(test_link_goes_down_and_tells),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
