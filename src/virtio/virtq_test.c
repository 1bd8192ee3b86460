/* SPDX-License-Identifier: Apache-2.0 */
/* Queues of both formats: what well-made rings give, and that nothing a driver can write there does
 * more than stop the device. */
#include "virtio/testdriver.h"

#include <sched.h>
#include <stdatomic.h>

#define SIZE   8u
#define SEGS   6u
#define SPLIT  BIT64(VIRTIO_F_VERSION_1)
#define EVENTS BIT64(VIRTIO_F_EVENT_IDX)
#define TABLES BIT64(VIRTIO_F_INDIRECT_DESC)
#define PACKED (BIT64(VIRTIO_F_VERSION_1) | BIT64(VIRTIO_F_RING_PACKED))
#define TABLE  0x10000u /* an indirect table */
#define DRIVER (TEST_QUEUE + TEST_DRIVER)
#define DEVICE (TEST_QUEUE + TEST_DEVICE)

struct env {
    struct testmachine m;
    struct virtio vd;
    _Atomic unsigned nr_notified, nr_resets;
    struct host_iov iov[SIZE + 1][SEGS];
    gpa_t at[SIZE + 1][SEGS];
    struct virtq_chain chains[SIZE + 1];
};

static void toy_notify(struct virtio *vd, struct virtq *q)
{
    (void)q;
    container_of(vd, struct env, vd)->nr_notified++;
}

static void toy_reset(struct virtio *vd)
{
    container_of(vd, struct env, vd)->nr_resets++;
}

static const struct virtio_type toy_type = {
    .name = "toy", .id = VIRTIO_ID_RNG, .notify = toy_notify, .reset = toy_reset
};

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    testmachine_init(&e->m);
    assert_int_equal(virtio_init(&e->vd, &(struct virtio_desc){ .type = &toy_type,
                                                                .name = "toy",
                                                                .bus = e->m.bus,
                                                                .mmu = e->m.mmu,
                                                                .nr_queues = 1,
                                                                .queue_size = 16 }),
                     0);
    virtio_attach(&e->vd, &test_transport, &e->m);
    for (unsigned i = 0; i <= SIZE; i++)
        e->chains[i] = (struct virtq_chain){ .iov = e->iov[i], .at = e->at[i], .max = SEGS };
    *state = e;
    return 0;
}

static int teardown(void **state)
{
    struct env *e = *state;

    driver_reset(&e->vd);
    virtio_fini(&e->vd);
    testmachine_fini(&e->m);
    free(e);
    return 0;
}

static struct virtq *queue(struct env *e)
{
    return &e->vd.queues[0];
}

static bool pop(struct env *e, unsigned n)
{
    bool got;

    virtio_lock(&e->vd);
    got = virtq_pop(queue(e), &e->chains[n]);
    virtio_unlock(&e->vd);
    virtio_signal(&e->vd);
    return got;
}

static void push(struct env *e, unsigned n, uint32_t nr_written)
{
    virtio_lock(&e->vd);
    virtq_push(queue(e), &e->chains[n], nr_written);
    virtio_unlock(&e->vd);
}

static void publish(struct env *e)
{
    virtio_lock(&e->vd);
    virtq_publish(queue(e));
    virtio_unlock(&e->vd);
    virtio_signal(&e->vd);
}

static void unpop(struct env *e, unsigned n)
{
    virtio_lock(&e->vd);
    virtq_unpop(queue(e), &e->chains[n]);
    virtio_unlock(&e->vd);
}

static void desc(struct env *e, unsigned n, uint64_t at, uint32_t bytes, uint16_t flags,
                 uint16_t next)
{
    put_split(&e->m, 0, n, at, bytes, flags, next);
}

static void table_desc(struct env *e, unsigned n, uint64_t at, uint32_t bytes, uint16_t word6,
                       uint16_t word7)
{
    put_desc(&e->m, TABLE + 16 * n, at, bytes, word6, word7);
}

static void available(struct env *e, uint16_t head)
{
    make_available(&e->m, 0, SIZE, head);
}

/* ---- well-made ones ---- */

static void test_chain_gives_its_buffers_in_order(void **state)
{
    struct env *e = *state;
    struct virtq_chain *c = &e->chains[0];
    char buf[8] = "";

    driver_start(&e->vd, SPLIT, SIZE);
    assert_false(pop(e, 0));
    memcpy(e->m.ram + 0x20000, "abc", 3);
    memcpy(e->m.ram + 0x21000, "def", 3);
    desc(e, 5, 0x20000, 3, D_NEXT, 2);
    desc(e, 2, 0x21000, 3, D_NEXT, 7);
    desc(e, 7, 0x22000, 100, D_WRITE | D_NEXT, 0);
    desc(e, 0, 0x23000, 50, D_WRITE, 0);
    available(e, 5);
    assert_true(pop(e, 0));
    assert_int_equal(c->nr_out, 2);
    assert_int_equal(c->nr_in, 2);
    assert_int_equal(c->out_bytes, 6);
    assert_int_equal(c->in_bytes, 150);
    assert_ptr_equal(c->iov[2].base, e->m.ram + 0x22000);
    assert_int_equal(c->at[3].v, 0x23000);
    assert_int_equal(virtq_read(c, 1, buf, 7), 5);
    assert_string_equal(buf, "bcdef");
    assert_int_equal(virtq_write(c, 99, "xyz", 3), 3);
    assert_memory_equal(e->m.ram + 0x22063, "x", 1);
    assert_memory_equal(e->m.ram + 0x23000, "yz", 2);
    assert_false(pop(e, 1));
    push(e, 0, 102);
    assert_int_equal(used_idx(&e->m, 0), 0); /* not before it is published */
    publish(e);
    assert_int_equal(used_idx(&e->m, 0), 1);
    assert_int_equal(get32(&e->m, DEVICE + 4), 5);
    assert_int_equal(get32(&e->m, DEVICE + 8), 102);
    assert_int_equal(e->m.nr_queue_irqs, 1);
}

static void test_unpopped_chain_comes_again(void **state)
{
    static const uint64_t formats[] = { SPLIT, PACKED };
    struct env *e = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(formats); i++) {
        memset(e->m.ram, 0, TEST_BUFFERS);
        driver_start(&e->vd, formats[i], SIZE);
        if (formats[i] == SPLIT) {
            desc(e, 0, 0x20000, 3, 0, 0);
            available(e, 0);
            available(e, 0);
        } else {
            put_desc(&e->m, TEST_QUEUE, 0x20000, 3, 0, D_AVAIL);
            put_desc(&e->m, TEST_QUEUE + 16, 0x21000, 3, 1, D_AVAIL);
        }
        assert_true(pop(e, 0) && pop(e, 1));
        unpop(e, 1);
        unpop(e, 0);
        assert_true(pop(e, 0) && pop(e, 1));
        assert_int_equal(e->chains[0].out_bytes, 3);
        push(e, 0, 0);
        push(e, 1, 0);
        publish(e);
        driver_reset(&e->vd);
    }
}

/* What came back is not in a snapshot's queue again. */
static void test_saved_queue_is_where_it_was(void **state)
{
    static const uint64_t formats[] = { SPLIT, PACKED };
    struct env *e = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(formats); i++) {
        memset(e->m.ram, 0, TEST_BUFFERS);
        driver_start(&e->vd, formats[i], SIZE);
        if (formats[i] == SPLIT) {
            desc(e, 0, 0x20000, 3, 0, 0);
            available(e, 0);
        } else {
            put_desc(&e->m, TEST_QUEUE, 0x20000, 3, 0, D_AVAIL);
        }
        assert_true(pop(e, 0));
        push(e, 0, 0);
        e->vd.paused = true;
        assert_true(virtio_settle(&e->vd));
        assert_int_equal(queue(e)->saved_avail, 1);
        queue(e)->usable = false; /* as in a machine that is restored */
        lock_take(bus_lock(e->m.bus));
        virtio_state_loaded(&e->vd);
        lock_drop(bus_lock(e->m.bus));
        e->vd.paused = false;
        assert_false(e->vd.broken);
        assert_false(pop(e, 0));
        driver_reset(&e->vd);
    }
}

static void test_rings_turn_many_times(void **state)
{
    struct env *e = *state;
    uint16_t slot = 0;
    bool wrap = true;

    /* Three descriptors each in a ring of eight: every way to lie across its end. */
    driver_start(&e->vd, PACKED, SIZE);
    for (unsigned i = 0; i < 40; i++) {
        uint16_t first = slot;
        bool first_wrap = wrap;
        uint16_t flags;

        for (unsigned n = 0; n < 3; n++) {
            put_desc(&e->m, TEST_QUEUE + 16 * slot, 0x20000 + n, 1, (uint16_t)(100 + i),
                     (uint16_t)((n < 2 ? D_NEXT : D_WRITE) | (wrap ? D_AVAIL : D_USED)));
            if (++slot == SIZE) {
                slot = 0;
                wrap = !wrap;
            }
        }
        assert_true(pop(e, 0));
        assert_int_equal(e->chains[0].nr_out, 2);
        assert_int_equal(e->chains[0].nr_in, 1);
        push(e, 0, 1);
        publish(e);
        flags = get16(&e->m, TEST_QUEUE + 16 * first + 14);
        assert_int_equal(!!(flags & D_AVAIL), first_wrap);
        assert_int_equal(!!(flags & D_USED), first_wrap);
        assert_int_equal(get16(&e->m, TEST_QUEUE + 16 * first + 12), 100 + i);
        assert_int_equal(get32(&e->m, TEST_QUEUE + 16 * first + 8), 1);
        assert_false(pop(e, 1));
    }
    assert_false(e->vd.broken);
    assert_int_equal(e->m.nr_queue_irqs, 40);
}

static void test_packed_batch_is_shown_by_its_first_flags(void **state)
{
    struct env *e = *state;

    driver_start(&e->vd, PACKED, SIZE);
    put_desc(&e->m, TEST_QUEUE, 0x20000, 3, 7, D_AVAIL);
    put_desc(&e->m, TEST_QUEUE + 16, 0x20000, 3, 8, D_AVAIL);
    assert_true(pop(e, 0) && pop(e, 1));
    push(e, 1, 0); /* out of order */
    push(e, 0, 0);
    assert_int_equal(get16(&e->m, TEST_QUEUE + 14), D_AVAIL);
    assert_int_equal(get16(&e->m, TEST_QUEUE + 30), D_AVAIL | D_USED);
    publish(e);
    assert_int_equal(get16(&e->m, TEST_QUEUE + 14), D_AVAIL | D_USED);
    assert_int_equal(get16(&e->m, TEST_QUEUE + 12), 8);
}

static void test_indirect_tables_in_both_formats(void **state)
{
    struct env *e = *state;

    driver_start(&e->vd, SPLIT | TABLES, SIZE);
    desc(e, 0, 0x20000, 5, D_NEXT, 3);
    desc(e, 3, TABLE, 3 * 16, D_INDIRECT, 0);
    table_desc(e, 0, 0x21000, 1, D_NEXT, 2);
    table_desc(e, 2, 0x22000, 2, D_WRITE, 0);
    available(e, 0);
    assert_true(pop(e, 0));
    assert_int_equal(e->chains[0].out_bytes, 6);
    assert_int_equal(e->chains[0].in_bytes, 2);
    push(e, 0, 2);
    driver_reset(&e->vd);
    memset(e->m.ram, 0, TEST_BUFFERS);
    driver_start(&e->vd, PACKED | TABLES, SIZE);
    put_desc(&e->m, TEST_QUEUE, TABLE, 2 * 16, 9, D_INDIRECT | D_AVAIL);
    table_desc(e, 0, 0x21000, 1, 0, 0);
    table_desc(e, 1, 0x22000, 2, 0, D_WRITE);
    assert_true(pop(e, 0));
    assert_int_equal(e->chains[0].id, 9);
    assert_int_equal(e->chains[0].nr_descs, 1);
    assert_int_equal(e->chains[0].in_bytes, 2);
    push(e, 0, 2);
}

/* ---- notifications ---- */

static void test_driver_is_asked_to_notify_only_when_empty(void **state)
{
    struct env *e = *state;

    driver_start(&e->vd, SPLIT, SIZE);
    desc(e, 0, 0x20000, 3, 0, 0);
    available(e, 0);
    assert_true(pop(e, 0));
    assert_int_equal(get16(&e->m, DEVICE), 1); /* VIRTQ_USED_F_NO_NOTIFY */
    assert_false(pop(e, 1));
    assert_int_equal(get16(&e->m, DEVICE), 0);
    push(e, 0, 0);
    driver_reset(&e->vd);
    memset(e->m.ram, 0, TEST_BUFFERS);
    driver_start(&e->vd, SPLIT | EVENTS, SIZE);
    desc(e, 0, 0x20000, 3, 0, 0);
    available(e, 0);
    available(e, 0);
    assert_true(pop(e, 0));
    assert_int_equal(get16(&e->m, DEVICE + 4 + 8 * SIZE), 0);
    assert_true(pop(e, 1));
    assert_false(pop(e, 2));
    assert_int_equal(get16(&e->m, DEVICE + 4 + 8 * SIZE), 2);
    push(e, 0, 0);
    push(e, 1, 0);
    driver_reset(&e->vd);
    memset(e->m.ram, 0, TEST_BUFFERS);
    driver_start(&e->vd, PACKED | EVENTS, SIZE);
    put_desc(&e->m, TEST_QUEUE, 0x20000, 3, 0, D_AVAIL);
    assert_true(pop(e, 0));
    assert_int_equal(get16(&e->m, DEVICE + 2), 1); /* disable */
    assert_false(pop(e, 1));
    assert_int_equal(get16(&e->m, DEVICE + 2), 2); /* at a descriptor */
    assert_int_equal(get16(&e->m, DEVICE), 0x8001);
    push(e, 0, 0);
}

static void test_interrupt_only_where_the_driver_wants_it(void **state)
{
    struct env *e = *state;

    driver_start(&e->vd, SPLIT | EVENTS, SIZE);
    desc(e, 0, 0x20000, 3, 0, 0);
    put16(&e->m, DRIVER + 4 + 2 * SIZE, 2); /* used_event: when the third is used */
    for (unsigned i = 0; i < 5; i++) {
        available(e, 0);
        assert_true(pop(e, 0));
        push(e, 0, 0);
        publish(e);
        assert_int_equal(e->m.nr_queue_irqs, i >= 2);
    }
    driver_reset(&e->vd);
    memset(e->m.ram, 0, TEST_BUFFERS);
    driver_start(&e->vd, SPLIT, SIZE);
    desc(e, 0, 0x20000, 3, 0, 0);
    put16(&e->m, DRIVER, 1); /* VIRTQ_AVAIL_F_NO_INTERRUPT */
    available(e, 0);
    assert_true(pop(e, 0));
    push(e, 0, 0);
    publish(e);
    assert_int_equal(e->m.nr_queue_irqs, 1);
    driver_reset(&e->vd);
    memset(e->m.ram, 0, TEST_BUFFERS);
    driver_start(&e->vd, PACKED | EVENTS, SIZE);
    put16(&e->m, DRIVER, 0x8001); /* when slot 1 is used, in the first turn */
    put16(&e->m, DRIVER + 2, 2);
    for (unsigned i = 0; i < 3; i++) {
        put_desc(&e->m, TEST_QUEUE + 16 * i, 0x20000, 3, 0, D_AVAIL);
        assert_true(pop(e, 0));
        push(e, 0, 0);
        publish(e);
        assert_int_equal(e->m.nr_queue_irqs, i >= 1 ? 2 : 1);
    }
}

/* ---- hostile ones ---- */

static void bad_head(struct env *e)
{
    available(e, SIZE);
}

static void bad_next(struct env *e)
{
    desc(e, 0, 0x20000, 1, D_NEXT, 0xffff);
    available(e, 0);
}

static void bad_loop(struct env *e)
{
    desc(e, 0, 0x20000, 0, D_NEXT, 1);
    desc(e, 1, 0x20000, 0, D_NEXT, 0);
    available(e, 0);
}

static void bad_index(struct env *e)
{
    put16(&e->m, DRIVER + 2, SIZE + 1);
}

static void bad_address(struct env *e)
{
    desc(e, 0, TEST_RAM_BYTES - 1, 2, 0, 0);
    available(e, 0);
}

static void bad_last_address(struct env *e)
{
    desc(e, 0, UINT64_MAX, 2, 0, 0);
    available(e, 0);
}

static void bad_write_to_rom(struct env *e)
{
    desc(e, 0, TEST_ROM_AT, 2, D_WRITE, 0);
    available(e, 0);
}

static void bad_order(struct env *e)
{
    desc(e, 0, 0x20000, 2, D_WRITE | D_NEXT, 1);
    desc(e, 1, 0x20000, 2, 0, 0);
    available(e, 0);
}

static void bad_too_many(struct env *e)
{
    for (unsigned i = 0; i < SIZE; i++)
        desc(e, i, 0x20000, 1, i + 1 < SIZE ? D_NEXT : 0, (uint16_t)(i + 1));
    available(e, 0);
}

static void bad_sum(struct env *e)
{
    desc(e, 0, 0x20000, 1, D_NEXT, 1);
    desc(e, 1, 0x20000, UINT32_MAX, 0, 0);
    available(e, 0);
}

static void bad_table_and_next(struct env *e)
{
    desc(e, 0, TABLE, 16, D_INDIRECT | D_NEXT, 1);
    available(e, 0);
}

static void bad_table_empty(struct env *e)
{
    desc(e, 0, TABLE, 0, D_INDIRECT, 0);
    available(e, 0);
}

static void bad_table_size(struct env *e)
{
    desc(e, 0, TABLE, 17, D_INDIRECT, 0);
    available(e, 0);
}

static void bad_table_place(struct env *e)
{
    desc(e, 0, TEST_RAM_BYTES - 16, 32, D_INDIRECT, 0);
    available(e, 0);
}

static void bad_table_nested(struct env *e)
{
    desc(e, 0, TABLE, 16, D_INDIRECT, 0);
    table_desc(e, 0, TABLE, 16, D_INDIRECT, 0);
    available(e, 0);
}

static void bad_table_loop(struct env *e)
{
    desc(e, 0, TABLE, 32, D_INDIRECT, 0);
    table_desc(e, 0, 0x20000, 0, D_NEXT, 1);
    table_desc(e, 1, 0x20000, 0, D_NEXT, 0);
    available(e, 0);
}

static void bad_table_next(struct env *e)
{
    desc(e, 0, TABLE, 32, D_INDIRECT, 0);
    table_desc(e, 0, 0x20000, 0, D_NEXT, 2);
    available(e, 0);
}

static void bad_packed_endless(struct env *e)
{
    for (unsigned i = 0; i < SIZE; i++)
        put_desc(&e->m, TEST_QUEUE + 16 * i, 0x20000, 0, 0, D_AVAIL | D_NEXT);
}

static void bad_packed_table_in_chain(struct env *e)
{
    put_desc(&e->m, TEST_QUEUE, 0x20000, 1, 0, D_AVAIL | D_NEXT);
    put_desc(&e->m, TEST_QUEUE + 16, TABLE, 16, 0, D_AVAIL | D_INDIRECT);
}

static void bad_packed_table_and_next(struct env *e)
{
    put_desc(&e->m, TEST_QUEUE, TABLE, 16, 0, D_AVAIL | D_INDIRECT | D_NEXT);
}

static void bad_packed_table_nested(struct env *e)
{
    put_desc(&e->m, TEST_QUEUE, TABLE, 16, 0, D_AVAIL | D_INDIRECT);
    table_desc(e, 0, 0x20000, 16, 0, D_INDIRECT);
}

static const struct bad {
    const char *name;
    uint64_t features;
    void (*make)(struct env *e);
} bads[] = {
    { "head", SPLIT, bad_head },
    { "next", SPLIT, bad_next },
    { "loop", SPLIT, bad_loop },
    { "index", SPLIT, bad_index },
    { "address", SPLIT, bad_address },
    { "last address", SPLIT, bad_last_address },
    { "ROM", SPLIT, bad_write_to_rom },
    { "order", SPLIT, bad_order },
    { "too many", SPLIT, bad_too_many },
    { "sum", SPLIT, bad_sum },
    { "table without feature", SPLIT, bad_table_empty },
    { "table and next", SPLIT | TABLES, bad_table_and_next },
    { "empty table", SPLIT | TABLES, bad_table_empty },
    { "table's size", SPLIT | TABLES, bad_table_size },
    { "table's place", SPLIT | TABLES, bad_table_place },
    { "nested table", SPLIT | TABLES, bad_table_nested },
    { "looping table", SPLIT | TABLES, bad_table_loop },
    { "table's next", SPLIT | TABLES, bad_table_next },
    { "endless packed", PACKED, bad_packed_endless },
    { "packed table without feature", PACKED, bad_packed_table_nested },
    { "packed table in a chain", PACKED | TABLES, bad_packed_table_in_chain },
    { "packed table and next", PACKED | TABLES, bad_packed_table_and_next },
    { "packed nested table", PACKED | TABLES, bad_packed_table_nested },
};

static void test_bad_rings_break_the_device_until_reset(void **state)
{
    struct env *e = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(bads); i++) {
        memset(e->m.ram, 0, TEST_BUFFERS);
        driver_start(&e->vd, bads[i].features, SIZE);
        e->m.nr_config_irqs = 0;
        bads[i].make(e);
        if (pop(e, 0)) {
            push(e, 0, 0); /* or the reset would wait for it */
            fail_msg("'%s' was taken", bads[i].name);
        }
        if (!(e->vd.status & VIRTIO_STATUS_NEEDS_RESET) || e->m.nr_config_irqs != 1)
            fail_msg("'%s' was not told", bads[i].name);
        /* Right ones no longer count. */
        assert_false(pop(e, 0));
        e->nr_notified = 0;
        lock_take(bus_lock(e->m.bus));
        virtio_notify(&e->vd, 0);
        lock_drop(bus_lock(e->m.bus));
        assert_int_equal(e->nr_notified, 0);
        driver_reset(&e->vd);
        assert_int_equal(e->vd.status, 0);
    }
}

static void test_more_chains_than_entries_break_the_device(void **state)
{
    struct env *e = *state;

    driver_start(&e->vd, SPLIT, SIZE);
    desc(e, 0, 0x20000, 1, 0, 0);
    for (unsigned i = 0; i < SIZE; i++) {
        available(e, 0);
        assert_true(pop(e, i));
    }
    available(e, 0); /* again, though none came back */
    assert_false(pop(e, SIZE));
    assert_true(e->vd.broken);
    for (unsigned i = 0; i < SIZE; i++)
        push(e, i, 0);
    publish(e);
    assert_int_equal(used_idx(&e->m, 0), 0);
}

static void test_bad_queues_break_the_device(void **state)
{
    static const struct {
        uint32_t size, at, driver_at;
        uint64_t features;
    } cases[] = {
        { 0, 0x1000, 0x2000, SPLIT },           { 6, 0x1000, 0x2000, SPLIT },
        { 32, 0x1000, 0x2000, SPLIT },          { 0x10008, 0x1000, 0x2000, SPLIT },
        { 8, 0x1008, 0x2000, SPLIT },           { 8, 0x1000, 0x2001, SPLIT },
        { 8, 0x1000, 0x2002, PACKED },          { 8, TEST_RAM_BYTES - 16, 0x2000, SPLIT },
        { 8, TEST_ROM_AT - 16, 0x2000, SPLIT }, { 8, TEST_ROM_AT, 0x2000, PACKED },
    };
    struct env *e = *state;
    struct virtq *q = queue(e);

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        lock_take(bus_lock(e->m.bus));
        virtio_accept(&e->vd, 1, (uint32_t)(cases[i].features >> 32));
        virtio_set_status(&e->vd, VIRTIO_STATUS_FEATURES_OK);
        virtq_set_size(q, cases[i].size);
        virtq_set_address(q, VIRTQ_DESC, 0, cases[i].at);
        virtq_set_address(q, VIRTQ_DRIVER, 0, cases[i].driver_at);
        virtq_set_address(q, VIRTQ_DEVICE, 0, 0x3000);
        virtq_enable(q);
        virtio_set_status(&e->vd, VIRTIO_STATUS_DRIVER_OK);
        if (!(e->vd.status & VIRTIO_STATUS_NEEDS_RESET))
            fail_msg("queue %u was taken", i);
        virtio_set_status(&e->vd, 0);
        lock_drop(bus_lock(e->m.bus));
    }
    /* Six is a size for a packed ring. */
    driver_start(&e->vd, PACKED, 6);
    assert_false(e->vd.broken);
}

/* ---- the device's life ---- */

static void test_features_are_refused_that_were_not_offered(void **state)
{
    struct env *e = *state;

    lock_take(bus_lock(e->m.bus));
    virtio_set_status(&e->vd, VIRTIO_STATUS_FEATURES_OK); /* not even VERSION_1 */
    assert_int_equal(e->vd.status, 0);
    virtio_accept(&e->vd, 1, 1);
    virtio_accept(&e->vd, 0, 1);
    virtio_set_status(&e->vd, VIRTIO_STATUS_FEATURES_OK);
    assert_int_equal(e->vd.status, 0);
    virtio_set_status(&e->vd, VIRTIO_STATUS_DRIVER_OK); /* too early */
    assert_int_equal(e->vd.status, 0);
    virtio_accept(&e->vd, 0, 0);
    virtio_set_status(&e->vd, VIRTIO_STATUS_FEATURES_OK);
    assert_int_equal(e->vd.status, VIRTIO_STATUS_FEATURES_OK);
    virtio_accept(&e->vd, 0, 1); /* too late */
    assert_int_equal(virtio_accepted(&e->vd, 0), 0);
    lock_drop(bus_lock(e->m.bus));
}

static void *reset_thread(void *arg)
{
    driver_reset(&((struct env *)arg)->vd);
    return NULL;
}

static void test_reset_waits_for_chains_that_are_out(void **state)
{
    struct env *e = *state;
    struct thread t = { .started = false };

    driver_start(&e->vd, SPLIT, SIZE);
    desc(e, 0, 0x20000, 8, D_WRITE, 0);
    available(e, 0);
    available(e, 0);
    assert_true(pop(e, 0));
    assert_int_equal(thread_start(&t, "reset", reset_thread, e), 0);
    while (!atomic_load(&e->nr_resets))
        (void)sched_yield();
    assert_false(pop(e, 1));
    push(e, 0, 8);
    publish(e);
    thread_join(&t);
    assert_int_equal(used_idx(&e->m, 0), 0);
    assert_int_equal(e->m.nr_queue_irqs, 0);
    assert_int_equal(e->vd.status, 0);
    /* And it starts again. */
    memset(e->m.ram, 0, TEST_BUFFERS);
    driver_start(&e->vd, SPLIT, SIZE);
    desc(e, 0, 0x20000, 8, D_WRITE, 0);
    available(e, 0);
    assert_true(pop(e, 0));
    push(e, 0, 8);
    publish(e);
    assert_int_equal(used_idx(&e->m, 0), 1);
}

static void test_without_bus_master_nothing_is_read(void **state)
{
    struct env *e = *state;

    driver_start(&e->vd, SPLIT, SIZE);
    desc(e, 0, 0x20000, 8, D_WRITE, 0);
    available(e, 0);
    lock_take(bus_lock(e->m.bus));
    virtio_set_dma(&e->vd, false);
    virtio_notify(&e->vd, 0);
    lock_drop(bus_lock(e->m.bus));
    assert_int_equal(e->nr_notified, 0);
    assert_false(pop(e, 0));
    lock_take(bus_lock(e->m.bus));
    virtio_set_dma(&e->vd, true);
    lock_drop(bus_lock(e->m.bus));
    assert_int_equal(e->nr_notified, 1); /* what was told meanwhile */
    assert_true(pop(e, 0));
    push(e, 0, 0);
}

static void test_pushed_bytes_are_noted_in_the_mmu(void **state)
{
    struct env *e = *state;
    struct slot *s = mmu_slot_find(e->m.mmu, GPA(0));

    driver_start(&e->vd, SPLIT, SIZE);
    s->flags |= SLOT_LOG_DIRTY;
    desc(e, 0, 0x40000, 0x3000, D_WRITE, 0);
    available(e, 0);
    assert_true(pop(e, 0));
    push(e, 0, 0x1001);
    assert_int_equal(s->notes[0x40] & PAGE_NOTE_DIRTY, PAGE_NOTE_DIRTY);
    assert_int_equal(s->notes[0x41] & PAGE_NOTE_DIRTY, PAGE_NOTE_DIRTY);
    assert_int_equal(s->notes[0x42] & PAGE_NOTE_DIRTY, 0);
    assert_int_equal(s->notes[DEVICE >> PAGE_SHIFT] & PAGE_NOTE_DIRTY, PAGE_NOTE_DIRTY);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_chain_gives_its_buffers_in_order),
        TEST(test_unpopped_chain_comes_again),
        TEST(test_saved_queue_is_where_it_was),
        TEST(test_rings_turn_many_times),
        TEST(test_packed_batch_is_shown_by_its_first_flags),
        TEST(test_indirect_tables_in_both_formats),
        TEST(test_driver_is_asked_to_notify_only_when_empty),
        TEST(test_interrupt_only_where_the_driver_wants_it),
        TEST(test_bad_rings_break_the_device_until_reset),
        TEST(test_more_chains_than_entries_break_the_device),
        TEST(test_bad_queues_break_the_device),
        TEST(test_features_are_refused_that_were_not_offered),
        TEST(test_reset_waits_for_chains_that_are_out),
        TEST(test_without_bus_master_nothing_is_read),
        TEST(test_pushed_bytes_are_noted_in_the_mmu),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
