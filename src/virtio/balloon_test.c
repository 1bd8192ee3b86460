/* SPDX-License-Identifier: Apache-2.0 */
/* The balloon: pages that go back and are zeroes then, what a bad driver may name, statistics. */
#include "virtio/testdriver.h"

#include <errno.h>
#include <sched.h>

#include "virtio/balloon.h"

#define SIZE     16u
#define FEATURES (BIT64(VIRTIO_F_VERSION_1) | BIT64(1) | BIT64(2) | BIT64(5))
#define LIST_AT  0x20000u
#define PAGE_AT  0x40000u

enum { INFLATE, DEFLATE, STATS, REPORTING, HINTS = 3 /* before reporting, if there are */ };

struct env {
    struct testmachine m;
    struct virtio_balloon b;
};

static int setup_with(void **state, unsigned flags)
{
    struct env *e = calloc(1, sizeof(*e));

    testmachine_init(&e->m);
    assert_int_equal(virtio_balloon_init(&e->b, e->m.bus, e->m.mmu, flags), 0);
    virtio_attach(&e->b.vd, &test_transport, &e->m);
    *state = e;
    return 0;
}

static int setup(void **state)
{
    return setup_with(state, 0);
}

static int setup_hints(void **state)
{
    return setup_with(state, BALLOON_HINTS);
}

static int teardown(void **state)
{
    struct env *e = *state;

    driver_reset(&e->b.vd);
    virtio_balloon_fini(&e->b);
    testmachine_fini(&e->m);
    free(e);
    return 0;
}

static void give(struct env *e, unsigned queue, uint64_t at, uint32_t bytes, uint16_t flags)
{
    put_split(&e->m, queue, 0, at, bytes, flags, 0);
    make_available(&e->m, queue, SIZE, 0);
    lock_take(bus_lock(e->m.bus));
    virtio_notify(&e->b.vd, queue);
    lock_drop(bus_lock(e->m.bus));
}

/* Until the device has used so many chains; one that never does is a hanging test. */
static void wait_used(struct env *e, unsigned queue, uint16_t nr)
{
    const uint16_t *idx = (const uint16_t *)(e->m.ram + queue_at(queue) + TEST_DEVICE + 2);

    while (__atomic_load_n(idx, __ATOMIC_ACQUIRE) != nr)
        (void)sched_yield();
}

static void pfns(struct env *e, const uint32_t *list, unsigned nr)
{
    memcpy(e->m.ram + LIST_AT, list, nr * sizeof(*list));
}

static bool page_is(struct env *e, uint64_t at, uint8_t val)
{
    for (unsigned i = 0; i < PAGE_BYTES; i++)
        if (e->m.ram[at + i] != val)
            return false;
    return true;
}

static void test_inflated_pages_are_zeroes(void **state)
{
    struct env *e = *state;
    uint32_t up[] = { 0x40, 0x41, 0x42 }, down[] = { 0x47, 0x46, 0x44 };

    driver_start(&e->b.vd, FEATURES, SIZE);
    memset(e->m.ram + PAGE_AT, 0xaa, 8 * PAGE_BYTES);
    pfns(e, up, 3);
    give(e, INFLATE, LIST_AT, sizeof(up), 0);
    wait_used(e, INFLATE, 1);
    pfns(e, down, 3);
    give(e, INFLATE, LIST_AT, sizeof(down), 0);
    wait_used(e, INFLATE, 2);
    for (unsigned i = 0; i < 8; i++)
        assert_true(page_is(e, PAGE_AT + i * PAGE_BYTES, i == 3 || i == 5 ? 0xaa : 0));
    assert_int_equal(e->b.inflated_bytes, 6 * PAGE_BYTES);
    e->m.ram[PAGE_AT] = 1; /* in use again */
    give(e, DEFLATE, LIST_AT, sizeof(down), 0);
    wait_used(e, DEFLATE, 1);
    assert_int_equal(e->b.deflated_bytes, 3 * PAGE_BYTES);
    assert_int_equal(e->m.ram[PAGE_AT], 1);
}

static void test_pages_that_are_no_ram_do_nothing(void **state)
{
    struct env *e = *state;
    uint32_t list[] = { TEST_ROM_AT >> 12, 0xffffffff, 0x100, 0x12345678 };

    driver_start(&e->b.vd, FEATURES, SIZE);
    pfns(e, list, 4);
    give(e, INFLATE, LIST_AT, sizeof(list), 0);
    wait_used(e, INFLATE, 1);
    assert_int_equal(e->b.inflated_bytes, 0);
    give(e, INFLATE, LIST_AT, 3, 0); /* not even one number */
    wait_used(e, INFLATE, 2);
}

/* Only whole pages: what is beside them is the guest's. */
static void test_reported_range_keeps_its_neighbours(void **state)
{
    struct env *e = *state;

    driver_start(&e->b.vd, FEATURES, SIZE);
    memset(e->m.ram + PAGE_AT, 0xbb, 4 * PAGE_BYTES);
    give(e, REPORTING, PAGE_AT + 100, 2 * PAGE_BYTES, D_WRITE);
    wait_used(e, REPORTING, 1);
    assert_true(page_is(e, PAGE_AT, 0xbb));
    assert_true(page_is(e, PAGE_AT + PAGE_BYTES, 0));
    assert_true(page_is(e, PAGE_AT + 2 * PAGE_BYTES, 0xbb));
    assert_int_equal(e->b.reported_bytes, PAGE_BYTES);
}

/* Without statistics the queue of reports is one further up. */
static void test_reporting_queue_moves_up(void **state)
{
    struct env *e = *state;

    driver_start(&e->b.vd, FEATURES & ~BIT64(1), SIZE);
    memset(e->m.ram + PAGE_AT, 0xbb, PAGE_BYTES);
    give(e, REPORTING - 1, PAGE_AT, PAGE_BYTES, D_WRITE);
    wait_used(e, REPORTING - 1, 1);
    assert_true(page_is(e, PAGE_AT, 0));
}

static void test_statistics_come_when_asked_for(void **state)
{
    /* A tag that is not known among them. */
    static const uint8_t first[] = { 4,    0,    0, 1, 0, 0, 0, 0, 0, 0,
                                     0xff, 0xff, 9, 9, 9, 9, 9, 9, 9, 9 };
    struct env *e = *state;
    uint64_t stats[NR_BALLOON_STATS];

    driver_start(&e->b.vd, FEATURES, SIZE);
    assert_false(virtio_balloon_stats(&e->b, 0, stats));
    memcpy(e->m.ram + LIST_AT, first, sizeof(first));
    give(e, STATS, LIST_AT, sizeof(first), 0);
    while (!virtio_balloon_stats(&e->b, 0, stats))
        (void)sched_yield();
    assert_int_equal(stats[BALLOON_FREE], 256);
    assert_int_equal(stats[BALLOON_TOTAL], 0);
    /* Asked for, the buffer goes back; the driver does not answer. */
    assert_true(virtio_balloon_stats(&e->b, 1, stats));
    wait_used(e, STATS, 1);
    assert_int_equal(stats[BALLOON_FREE], 256);
    /* It is held again at the reset, which gets it back. */
    give(e, STATS, LIST_AT, sizeof(first), 0);
    driver_reset(&e->b.vd);
    assert_int_equal(e->b.vd.nr_out, 0);
}

static void test_wish_and_answer_are_in_the_configuration(void **state)
{
    struct env *e = *state;
    uint64_t wanted, actual;
    uint32_t pages;

    driver_start(&e->b.vd, FEATURES, SIZE);
    virtio_balloon_want(&e->b, MIB(1) / 2);
    assert_int_equal(e->m.nr_config_irqs, 1);
    lock_take(bus_lock(e->m.bus));
    virtio_config_read(&e->b.vd, 0, &pages, 4);
    assert_int_equal(pages, 128);
    pages = 100;
    virtio_config_write(&e->b.vd, 0, &pages, 4); /* not the driver's */
    virtio_config_write(&e->b.vd, 4, &pages, 4);
    lock_drop(bus_lock(e->m.bus));
    virtio_balloon_sizes(&e->b, &wanted, &actual);
    assert_int_equal(wanted, MIB(1) / 2);
    assert_int_equal(actual, 100 * PAGE_BYTES);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
static void hint_command(struct env *e, uint32_t cmd, uint16_t *used)
{
    pfns(e, &cmd, 1);
    give(e, HINTS, LIST_AT, sizeof(cmd), 0);
    wait_used(e, HINTS, ++*used);
}

static bool hint_goes_back(struct env *e, uint16_t *used)
{
    memset(e->m.ram + PAGE_AT, 0xcc, 2 * PAGE_BYTES);
    give(e, HINTS, PAGE_AT, PAGE_BYTES, D_WRITE);
    wait_used(e, HINTS, ++*used);
    assert_true(page_is(e, PAGE_AT + PAGE_BYTES, 0xcc));
    return page_is(e, PAGE_AT, 0);
}

/* Pages of the run that goes on go back; those of another, or behind its end, do not. */
static void test_hinted_pages_go_back_while_the_run_goes_on(void **state)
{
    struct env *e = *state;
    uint32_t host, guest;
    uint16_t used = 0;

    assert_int_equal(virtio_balloon_hint_start(&e->b, true), -EOPNOTSUPP);
    driver_start(&e->b.vd, FEATURES | BIT64(3), SIZE);
    assert_false(virtio_balloon_hint_status(&e->b, &host, &guest));
    assert_false(hint_goes_back(e, &used));
    assert_int_equal(virtio_balloon_hint_start(&e->b, true), 0);
    assert_int_equal(e->b.config.hint_id, 2);
    assert_false(hint_goes_back(e, &used));
    hint_command(e, 2, &used);
    assert_true(hint_goes_back(e, &used));
    hint_command(e, 0, &used);
    assert_true(virtio_balloon_hint_status(&e->b, &host, &guest));
    assert_int_equal(host, 1);
    assert_int_equal(guest, 0);
    assert_int_equal(e->b.config.hint_id, 1);
    assert_false(hint_goes_back(e, &used));
    assert_int_equal(virtio_balloon_hint_start(&e->b, false), 0);
    hint_command(e, 2, &used);
    assert_false(hint_goes_back(e, &used));
    hint_command(e, 1, &used);
    assert_false(hint_goes_back(e, &used));
    hint_command(e, 3, &used);
    assert_true(hint_goes_back(e, &used));
    hint_command(e, 0, &used);
    assert_int_equal(e->b.config.hint_id, 3); /* not acknowledged */
    assert_int_equal(virtio_balloon_hint_stop(&e->b), 0);
    assert_int_equal(e->b.config.hint_id, 1);
    driver_reset(&e->b.vd);
    assert_int_equal(e->b.config.hint_id, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_inflated_pages_are_zeroes),
        T(test_pages_that_are_no_ram_do_nothing),
        T(test_reported_range_keeps_its_neighbours),
        T(test_reporting_queue_moves_up),
        T(test_statistics_come_when_asked_for),
        T(test_wish_and_answer_are_in_the_configuration),
        cmocka_unit_test_setup_teardown(test_hinted_pages_go_back_while_the_run_goes_on,
                                        setup_hints, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
