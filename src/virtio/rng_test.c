/* SPDX-License-Identifier: Apache-2.0 */
/* The entropy device: buffers that are filled, and limits. */
#include "virtio/testdriver.h"

#include <sched.h>

#include "virtio/rng.h"

#define SIZE 16u
#define AT   0x20000u

struct env {
    struct testmachine m;
    struct virtio_rng r;
};

static void start(struct env *e, const struct rng_limits *limits)
{
    testmachine_init(&e->m);
    assert_int_equal(virtio_rng_init(&e->r, e->m.bus, e->m.mmu, limits), 0);
    virtio_attach(&e->r.vd, &test_transport, &e->m);
    driver_start(&e->r.vd, BIT64(VIRTIO_F_VERSION_1), SIZE);
    clock_resume(bus_clock(e->m.bus));
}

static void end(struct env *e)
{
    clock_pause(bus_clock(e->m.bus));
    driver_reset(&e->r.vd);
    virtio_rng_fini(&e->r);
    testmachine_fini(&e->m);
}

static void give(struct env *e, unsigned nr, uint32_t bytes)
{
    for (unsigned i = 0; i < nr; i++) {
        put_split(&e->m, 0, i, AT + i * bytes, bytes, D_WRITE, 0);
        make_available(&e->m, 0, SIZE, (uint16_t)i);
    }
    lock_take(bus_lock(e->m.bus));
    virtio_notify(&e->r.vd, 0);
    lock_drop(bus_lock(e->m.bus));
}

static bool is_zero(const uint8_t *p, size_t bytes)
{
    while (bytes && !*p)
        p++, bytes--;
    return !bytes;
}

static void test_buffers_are_filled(void **state)
{
    struct env e;

    (void)state;
    start(&e, &(struct rng_limits){ 0 });
    give(&e, 3, 64);
    assert_int_equal(used_idx(&e.m, 0), 3);
    for (unsigned i = 0; i < 3; i++)
        assert_false(is_zero(e.m.ram + AT + i * 64, 64));
    assert_true(is_zero(e.m.ram + AT + 3 * 64, 64));
    end(&e);
}

/* Limits that never come back while the test runs. */
static void test_what_is_beyond_the_limit_waits(void **state)
{
    static const struct {
        struct rng_limits limits;
        unsigned done;
    } cases[] = {
        { { .requests = { .size = 2, .refill_ns = UINT64_MAX } }, 2 },
        { { .requests = { .size = 2, .burst = 1, .refill_ns = UINT64_MAX } }, 3 },
        { { .bytes = { .size = 64 * 3, .refill_ns = UINT64_MAX } }, 3 },
        /* What bytes refuse is not a request, either. */
        { { .requests = { .size = 4, .refill_ns = UINT64_MAX },
            .bytes = { .size = 70, .refill_ns = UINT64_MAX } },
          1 },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct env e;

        start(&e, &cases[i].limits);
        give(&e, 6, 64);
        assert_int_equal(used_idx(&e.m, 0), cases[i].done);
        assert_true(is_zero(e.m.ram + AT + cases[i].done * 64, 64));
        give(&e, 0, 0);
        assert_int_equal(used_idx(&e.m, 0), cases[i].done);
        if (cases[i].limits.requests.size == 4)
            assert_int_equal(e.r.requests.debt, 1);
        end(&e);
    }
}

/* Nobody notifies again: the timer does it. One that never comes is a hanging test. */
static void test_what_waits_is_done_later(void **state)
{
    struct env e;
    const uint16_t *idx;

    (void)state;
    start(&e, &(struct rng_limits){ .requests = { .size = 1, .refill_ns = 1000000 } });
    give(&e, 6, 64);
    idx = (const uint16_t *)(e.m.ram + queue_at(0) + TEST_DEVICE + 2);
    while (__atomic_load_n(idx, __ATOMIC_ACQUIRE) != 6)
        (void)sched_yield();
    assert_false(is_zero(e.m.ram + AT + 5 * 64, 64));
    end(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buffers_are_filled),
        cmocka_unit_test(test_what_is_beyond_the_limit_waits),
        cmocka_unit_test(test_what_waits_is_done_later),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
