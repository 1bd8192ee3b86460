/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/bucket.h"

#define MS 1000000ull

static void test_without_size_or_time_there_is_no_limit(void **state)
{
    struct bucket b;

    (void)state;
    bucket_init(&b, &(struct bucket_config){ .size = 5 }, 0);
    assert_int_equal(bucket_take(&b, 0, 1000), 0);
    bucket_init(&b, &(struct bucket_config){ .refill_ns = MS }, 0);
    assert_int_equal(bucket_take(&b, 0, 1000), 0);
}

static void test_a_full_one_is_used_up_and_comes_back_evenly(void **state)
{
    struct bucket b;

    (void)state;
    bucket_init(&b, &(struct bucket_config){ .size = 10, .refill_ns = 10 * MS }, 7);
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(bucket_take(&b, 7, 1), 0);
    assert_int_equal(bucket_take(&b, 7, 1), 7 + MS);
    assert_int_equal(bucket_take(&b, 6 + MS, 1), 7 + MS);
    assert_int_equal(bucket_take(&b, 7 + MS, 1), 0);
    assert_int_equal(bucket_take(&b, 7 + MS, 3), 7 + 4 * MS);
    /* Asking often loses nothing of the time. */
    for (uint64_t ns = 7 + MS; ns < 7 + 4 * MS; ns += MS / 7)
        assert_int_not_equal(bucket_take(&b, ns, 3), 0);
    assert_int_equal(bucket_take(&b, 7 + 4 * MS, 3), 0);
    /* A long rest does not give more than it holds. */
    assert_int_equal(bucket_take(&b, 1000000 * MS, 10), 0);
    assert_int_not_equal(bucket_take(&b, 1000000 * MS, 1), 0);
}

static void test_a_burst_comes_first_and_once(void **state)
{
    struct bucket b;

    (void)state;
    bucket_init(&b, &(struct bucket_config){ .size = 4, .burst = 6, .refill_ns = 4 * MS }, 0);
    assert_int_equal(bucket_take(&b, 0, 5), 0);
    assert_int_equal(bucket_take(&b, 0, 5), 0);
    assert_int_equal(bucket_take(&b, 0, 1), MS);
    assert_int_equal(bucket_take(&b, 1000 * MS, 4), 0);
    assert_int_equal(bucket_take(&b, 1000 * MS, 1), 1001 * MS);
}

static void test_more_than_it_holds_is_given_and_paid_for(void **state)
{
    struct bucket b;

    (void)state;
    bucket_init(&b, &(struct bucket_config){ .size = 10, .refill_ns = 10 * MS }, 0);
    assert_int_equal(bucket_take(&b, 0, 35), 0);
    assert_int_equal(bucket_take(&b, 0, 1), 26 * MS);
    assert_int_equal(bucket_take(&b, 26 * MS, 1), 0);
    assert_int_equal(bucket_take(&b, 26 * MS, 35), 36 * MS); /* full again */
    /* Times as long as there are. */
    bucket_init(&b, &(struct bucket_config){ .size = 1, .refill_ns = UINT64_MAX }, 5);
    assert_int_equal(bucket_take(&b, 5, 3), 0);
    assert_int_equal(bucket_take(&b, 5, 1), UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_size_or_time_there_is_no_limit),
        cmocka_unit_test(test_a_full_one_is_used_up_and_comes_back_evenly),
        cmocka_unit_test(test_a_burst_comes_first_and_once),
        cmocka_unit_test(test_more_than_it_holds_is_given_and_paid_for),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
