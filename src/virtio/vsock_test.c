/* SPDX-License-Identifier: Apache-2.0 */
/* The socket device: packets of a driver, right and wrong, and programs that come and go. */
#include <stdio.h>

#include "virtio/testdriver.h"

#include "virtio/vsock_fakehost.h"

#define SIZE     16u
#define FEATURES (BIT64(VIRTIO_F_VERSION_1) | BIT64(VSOCK_F_STREAM))
#define CID      7u
#define TX_AT    0x20000u
#define RX_AT    0x40000u
#define RX_BYTES 0x2000u

#define FIRST_PORT 77u
#define EVENTS_AT  0x18000u

enum { RX, TX, EVENTS };

struct env {
    struct testmachine m;
    struct fakehost h;
    struct virtio_vsock n;
    unsigned nr_rx; /* buffers that were given */
    unsigned nr_seen;
};

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    testmachine_init(&e->m);
    e->h = (struct fakehost){ .v = { .ops = &fakehost_ops, .first_port = FIRST_PORT },
                              .room = 1 << 20 };
    assert_int_equal(virtio_vsock_init(&e->n, e->m.bus, e->m.mmu, &e->h.v, CID), 0);
    virtio_attach(&e->n.vd, &test_transport, &e->m);
    assert_int_equal(virtio_vsock_start(&e->n), 0);
    driver_start(&e->n.vd, FEATURES, SIZE);
    *state = e;
    return 0;
}

static int teardown(void **state)
{
    struct env *e = *state;

    driver_reset(&e->n.vd);
    assert_int_equal(e->n.vd.nr_out, 0);
    virtio_vsock_fini(&e->n);
    for (unsigned i = 0; i < VSOCK_STREAMS_MAX; i++)
        assert_false(e->h.streams[i].used);
    testmachine_fini(&e->m);
    free(e);
    return 0;
}

static void work(struct env *e)
{
    e->h.v.card->work(e->h.v.card_arg);
}

static void give_rx(struct env *e, unsigned nr)
{
    for (; nr; nr--, e->nr_rx++) {
        unsigned i = e->nr_rx % SIZE;

        put_split(&e->m, RX, i, RX_AT + i * RX_BYTES, RX_BYTES, D_WRITE, 0);
        make_available(&e->m, RX, SIZE, (uint16_t)i);
    }
}

static struct vsock_hdr packet(unsigned op)
{
    return (struct vsock_hdr){ .src_cid = CID,
                               .dst_cid = VSOCK_CID_HOST,
                               .src_port = 9,
                               .dst_port = 5,
                               .type = VSOCK_TYPE_STREAM,
                               .op = (uint16_t)op,
                               .buf_alloc = 100000 };
}

static void send_bytes(struct env *e, const struct vsock_hdr *h, uint32_t bytes)
{
    memcpy(e->m.ram + TX_AT, h, sizeof(*h));
    put_split(&e->m, TX, 0, TX_AT, bytes, 0, 0);
    make_available(&e->m, TX, SIZE, 0);
    work(e);
}

static void send(struct env *e, struct vsock_hdr h)
{
    send_bytes(e, &h, (uint32_t)sizeof(h));
}

/* The next packet that the guest got; op 0: none. */
static struct vsock_hdr next(struct env *e)
{
    struct vsock_hdr h = { .op = 0 };

    if (used_idx(&e->m, RX) == e->nr_seen)
        return h;
    memcpy(&h, e->m.ram + RX_AT + (e->nr_seen++ % SIZE) * RX_BYTES, sizeof(h));
    return h;
}

static void connect_guest(struct env *e)
{
    struct vsock_hdr h;

    give_rx(e, 4);
    send(e, packet(VSOCK_OP_REQUEST));
    h = next(e);
    assert_int_equal(h.op, VSOCK_OP_RESPONSE);
    assert_int_equal(h.src_port, 5);
    assert_int_equal(h.dst_port, 9);
    assert_int_equal(h.dst_cid, CID);
    assert_int_equal(h.buf_alloc, VSOCK_BUF_BYTES);
    assert_int_equal(e->h.port, 5);
}

static void send_data(struct env *e, uint32_t bytes)
{
    struct vsock_hdr h = packet(VSOCK_OP_RW);

    h.bytes = bytes;
    send_bytes(e, &h, (uint32_t)sizeof(h) + bytes);
}

static void test_guest_connects_and_data_passes_both_ways(void **state)
{
    struct env *e = *state;
    struct vsock_hdr h;

    connect_guest(e);
    memcpy(e->m.ram + TX_AT + sizeof(h), "hello", 5);
    send_data(e, 5);
    assert_memory_equal(e->h.streams[0].heard, "hello", 5);
    e->h.streams[0].nr_said = 10;
    e->h.v.card->ready(e->h.v.card_arg, 0, VSOCK_READ);
    work(e);
    h = next(e);
    assert_int_equal(h.op, VSOCK_OP_RW);
    assert_int_equal(h.bytes, 10);
    assert_int_equal(h.fwd_cnt, 5);
}

static void test_refused_port_is_reset(void **state)
{
    struct env *e = *state;

    give_rx(e, 1);
    e->h.connect_err = -ECONNREFUSED;
    send(e, packet(VSOCK_OP_REQUEST));
    assert_int_equal(next(e).op, VSOCK_OP_RST);
}

/* The guest's credit bounds what we send; without a buffer nothing is taken from the program. */
static void test_credit_of_the_guest_is_kept(void **state)
{
    struct env *e = *state;
    struct vsock_hdr h = packet(VSOCK_OP_CREDIT_UPDATE);

    connect_guest(e);
    h.buf_alloc = 30;
    send(e, h);
    e->h.streams[0].nr_said = 50;
    e->h.v.card->ready(e->h.v.card_arg, 0, VSOCK_READ);
    work(e);
    assert_int_equal(next(e).bytes, 30);
    assert_int_equal(next(e).op, VSOCK_OP_CREDIT_REQUEST);
    assert_int_equal(e->h.streams[0].nr_said, 20);
    h.fwd_cnt = 31; /* more than it got */
    send(e, h);
    assert_int_equal(e->h.streams[0].nr_said, 20);
    h.fwd_cnt = 30;
    send(e, h);
    assert_int_equal(e->h.streams[0].nr_said,
                     20); /* no buffer: the fourth has the second request */
    give_rx(e, 2);
    work(e);
    assert_int_equal(e->h.streams[0].nr_said, 0);
}

static void test_more_than_our_credit_is_reset(void **state)
{
    struct env *e = *state;

    connect_guest(e);
    e->h.streams[0].room = 0;
    send_data(e, VSOCK_BUF_BYTES);
    assert_int_equal(next(e).op, 0);
    send_data(e, 1);
    assert_int_equal(next(e).op, VSOCK_OP_RST);
    assert_false(e->h.streams[0].used);
}

static void test_wrong_packets_reset_the_connection(void **state)
{
    static const uint16_t ops[] = { 0, VSOCK_OP_REQUEST, VSOCK_OP_RESPONSE, 8, 0xffff };
    struct env *e = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
        connect_guest(e);
        send(e, packet(ops[i]));
        assert_int_equal(next(e).op, VSOCK_OP_RST);
        assert_false(e->h.streams[0].used);
    }
}

static void test_wrong_headers_are_dropped_or_answered(void **state)
{
    struct env *e = *state;
    struct vsock_hdr h;

    give_rx(e, 3);
    h = packet(VSOCK_OP_REQUEST);
    send_bytes(e, &h, 43);
    h.src_cid = CID + 1;
    send(e, h);
    h = packet(VSOCK_OP_REQUEST);
    h.dst_cid = 1;
    send(e, h);
    send(e, packet(VSOCK_OP_RST)); /* of nothing */
    assert_int_equal(next(e).op, 0);
    h = packet(VSOCK_OP_REQUEST);
    h.type = 2;
    send(e, h);
    h = next(e);
    assert_int_equal(h.op, VSOCK_OP_RST);
    assert_int_equal(h.type, 2);
    h = packet(VSOCK_OP_RW);
    h.bytes = 0xffffffff;
    send(e, h);
    assert_int_equal(next(e).op, VSOCK_OP_RST);
    send_data(e, 3); /* nobody is there */
    assert_int_equal(next(e).op, VSOCK_OP_RST);
    assert_false(e->n.vd.broken);
}

/* A driver that takes no resets does not get more packets read. */
static void test_resets_that_wait_are_bounded(void **state)
{
    struct env *e = *state;

    for (unsigned i = 0; i < VSOCK_REPLIES + 3; i++)
        send(e, packet(VSOCK_OP_RW));
    assert_int_equal(used_idx(&e->m, TX), VSOCK_REPLIES);
    give_rx(e, 4);
    work(e);
    assert_int_equal(used_idx(&e->m, TX), VSOCK_REPLIES + 3);
}

static void test_too_many_connections_are_refused(void **state)
{
    struct env *e = *state;
    struct vsock_hdr h = packet(VSOCK_OP_REQUEST);

    for (unsigned i = 0; i <= VSOCK_STREAMS_MAX; i++) {
        give_rx(e, 1);
        h.src_port = 100 + i;
        send(e, h);
        assert_int_equal(next(e).op, i < VSOCK_STREAMS_MAX ? VSOCK_OP_RESPONSE : VSOCK_OP_RST);
    }
}

static void test_guest_closes_and_program_reads_on(void **state)
{
    struct env *e = *state;
    struct vsock_hdr h = packet(VSOCK_OP_SHUTDOWN);

    connect_guest(e);
    e->h.streams[0].room = 0;
    send_data(e, 100);
    h.flags = VSOCK_SHUT_BOTH;
    send(e, h);
    assert_int_equal(next(e).op, VSOCK_OP_RST);
    assert_true(e->h.streams[0].used);
    e->h.streams[0].room = 100;
    e->h.v.card->ready(e->h.v.card_arg, 0, VSOCK_WRITE);
    assert_int_equal(e->h.streams[0].nr_heard, 100);
    assert_false(e->h.streams[0].used);
}

static void test_program_calls_and_ends(void **state)
{
    struct env *e = *state;
    struct vsock_hdr h, answer = packet(VSOCK_OP_RESPONSE);
    int id = fakehost_add(&e->h), bytes;
    char told[32];

    give_rx(e, 4);
    assert_true(e->h.v.card->call(e->h.v.card_arg, (unsigned)id, 52));
    work(e);
    h = next(e);
    assert_int_equal(h.op, VSOCK_OP_REQUEST);
    assert_int_equal(h.dst_port, 52);
    assert_int_equal(h.src_port, 0x40000000 + FIRST_PORT);
    answer.src_port = 52;
    answer.dst_port = h.src_port;
    send(e, answer);
    bytes = snprintf(told, sizeof(told), "OK %u\n", h.src_port);
    assert_memory_equal(e->h.streams[id].heard, told, (size_t)bytes);
    /* The program is gone: first its end, then that it takes nothing. */
    e->h.streams[id].end = true;
    e->h.v.card->ready(e->h.v.card_arg, (unsigned)id, VSOCK_READ);
    work(e);
    h = next(e);
    assert_int_equal(h.op, VSOCK_OP_SHUTDOWN);
    assert_int_equal(h.flags, VSOCK_SHUT_SEND);
    e->h.v.card->ready(e->h.v.card_arg, (unsigned)id, VSOCK_HUP);
    work(e);
    h = next(e);
    assert_int_equal(h.flags, VSOCK_SHUT_BOTH);
    answer.op = VSOCK_OP_RST;
    send(e, answer);
    assert_false(e->h.streams[id].used);
}

static void give_event(struct env *e, unsigned nr)
{
    put_split(&e->m, EVENTS, nr % SIZE, EVENTS_AT + nr % SIZE * 4, 4, D_WRITE, 0);
    make_available(&e->m, EVENTS, SIZE, (uint16_t)(nr % SIZE));
}

/* Nothing new reaches it before it has forgotten what was, whoever else kicks the event queue. */
static void test_restored_guest_forgets_first(void **state)
{
    struct env *e = *state;
    struct virtio *vd = &e->n.vd;
    int id = fakehost_add(&e->h);

    give_rx(e, 2);
    for (unsigned i = 0; i < 3; i++)
        give_event(e, i);
    put64(&e->m, EVENTS_AT, UINT64_MAX);
    vd->type->loaded(vd, true);
    assert_true(e->h.v.card->call(e->h.v.card_arg, (unsigned)id, 52));
    work(e);
    assert_int_equal(used_idx(&e->m, EVENTS), 1);
    assert_int_equal(get32(&e->m, EVENTS_AT), 0); /* VIRTIO_VSOCK_EVENT_TRANSPORT_RESET */
    for (unsigned i = 0; i < 2; i++) {
        vd->type->notify(vd, &vd->queues[EVENTS]);
        work(e);
        assert_int_equal(next(e).op, 0);
    }
    give_event(e, 3);
    work(e);
    assert_int_equal(next(e).op, VSOCK_OP_REQUEST);
    assert_int_equal(used_idx(&e->m, EVENTS), 1);
}

static void test_reset_drops_connections(void **state)
{
    struct env *e = *state;

    connect_guest(e);
    driver_reset(&e->n.vd);
    assert_false(e->h.v.card->call(e->h.v.card_arg, 1, 52));
    work(e);
    assert_false(e->h.streams[0].used);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_guest_connects_and_data_passes_both_ways),
        T(test_refused_port_is_reset),
        T(test_credit_of_the_guest_is_kept),
        T(test_more_than_our_credit_is_reset),
        T(test_wrong_packets_reset_the_connection),
        T(test_wrong_headers_are_dropped_or_answered),
        T(test_resets_that_wait_are_bounded),
        T(test_too_many_connections_are_refused),
        T(test_guest_closes_and_program_reads_on),
        T(test_program_calls_and_ends),
        T(test_restored_guest_forgets_first),
        T(test_reset_drops_connections),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
