/* SPDX-License-Identifier: Apache-2.0 */
/* The router of PCI's interrupt lines: what is led where, together with what else is there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "dev/pirq.h"

struct env {
    struct pirq p;
    uint16_t inputs;
    unsigned nr_sets;
};

static void env_set(void *ctx, unsigned irq, int level)
{
    struct env *e = ctx;
    uint16_t bit = (uint16_t)BIT(irq);

    assert_true(irq < PIRQ_NR_IRQS);
    assert_int_not_equal(!!(e->inputs & bit), !!level); /* only what changes is told */
    e->inputs = (uint16_t)(level ? e->inputs | bit : e->inputs & ~bit);
    e->nr_sets++;
}

static void test_line_without_route_arrives_nowhere(void **state)
{
    struct env e = { .nr_sets = 0 };

    (void)state;
    pirq_init(&e.p, env_set, &e);
    pirq_set_line(&e.p, 0, 1);
    pirq_route(&e.p, 0, PIRQ_OFF | 10);
    assert_int_equal(e.nr_sets, 0);
    pirq_route(&e.p, 0, 10); /* it is up already */
    assert_int_equal(e.inputs, BIT(10));
    pirq_route(&e.p, 0, 11);
    assert_int_equal(e.inputs, BIT(11));
    pirq_route(&e.p, 0, PIRQ_OFF);
    assert_int_equal(e.inputs, 0);
}

static void test_reserved_irqs_are_no_route(void **state)
{
    struct env e = { .nr_sets = 0 };
    uint16_t reached = 0;

    (void)state;
    pirq_init(&e.p, env_set, &e);
    pirq_set_line(&e.p, 7, 1);
    for (unsigned irq = 0; irq < PIRQ_NR_IRQS; irq++) {
        pirq_route(&e.p, 7, (uint8_t)irq);
        reached |= e.inputs;
    }
    assert_int_equal(reached, 0xdef8);
}

static void test_shared_input_is_up_while_one_is(void **state)
{
    struct env e = { .nr_sets = 0 };

    (void)state;
    pirq_init(&e.p, env_set, &e);
    pirq_route(&e.p, 0, 10);
    pirq_route(&e.p, 5, 10);
    pirq_set_line(&e.p, 0, 1);
    pirq_set_line(&e.p, 5, 1);
    pirq_set_isa(&e.p, 10, 1);
    pirq_set_isa(&e.p, 4, 1);
    assert_int_equal(e.inputs, BIT(10) | BIT(4));
    pirq_set_line(&e.p, 0, 0);
    pirq_set_isa(&e.p, 10, 0);
    assert_int_equal(e.inputs, BIT(10) | BIT(4));
    pirq_set_line(&e.p, 5, 0);
    assert_int_equal(e.inputs, BIT(4));
    pirq_set_isa(&e.p, 4, 0);
    assert_int_equal(e.inputs, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_line_without_route_arrives_nowhere),
        cmocka_unit_test(test_reserved_irqs_are_no_route),
        cmocka_unit_test(test_shared_input_is_up_while_one_is),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
