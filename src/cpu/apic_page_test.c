/* SPDX-License-Identifier: Apache-2.0 */
/* A local APIC's state as a page, and back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cpu/apic_impl.h"
#include "cpu/fakecpu.h"

static struct fake f;
static uint32_t page[APIC_PAGE_WORDS];

static int set_up(void **state)
{
    (void)state;
    fake_init(&f);
    f.now_ns = 5000;
    f.tsc = 10000;
    return 0;
}

static uint32_t reg(uint32_t off)
{
    return page[off / 4];
}

static void fill(struct apic *a)
{
    a->tpr = 0x25;
    a->ldr = 0x04000000;
    a->dfr = 0x0fffffff;
    a->svr = 0x1ef;
    a->esr = ESR_RECV_VECTOR;
    a->icr = 0x0300000000000ull | 0x4031;
    for (unsigned i = 0; i < 8; i++) {
        a->isr[i] = 0x100 + i;
        a->tmr[i] = 0x200 + i;
        a->irr[i] = 0x300 + i;
    }
    for (unsigned i = 0; i < NR_LVTS; i++)
        a->lvt[i] = 0x10040 + i;
}

static void test_each_register_is_at_its_address(void **state)
{
    (void)state;
    f.c.apic.id = 3;
    fill(&f.c.apic);
    apic_to_page(&f.c, page);
    for (uint32_t off = 0; off < 0x400; off += 0x10) {
        uint32_t seen = off == APIC_EOI ? 0 : apic_mmio_read(&f.c, off);

        assert_int_equal(reg(off), seen);
        assert_int_equal(reg(off + 4) | reg(off + 8) | reg(off + 12), 0);
    }
    assert_int_equal(reg(APIC_ISR + 0x70), 0x107);
    assert_int_equal(reg(APIC_ID), 3 << 24);
}

static void test_registers_come_back(void **state)
{
    struct apic was;

    (void)state;
    fill(&f.c.apic);
    f.c.apic.id = 7;
    f.c.apic.timer_deadline_ns = UINT64_MAX;
    f.c.apic.timer_start_ns = f.now_ns;
    was = f.c.apic;
    apic_to_page(&f.c, page);
    memset(&f.c.apic, 0, sizeof(f.c.apic));
    f.c.apic.base_msr = was.base_msr;
    apic_from_page(&f.c, page, 0);
    assert_memory_equal(&f.c.apic, &was, sizeof(was));
}

static void test_x2apic_id_has_32_bits(void **state)
{
    (void)state;
    f.c.apic.base_msr |= APIC_BASE_X2APIC;
    f.c.apic.id = 0x12345;
    apic_to_page(&f.c, page);
    assert_int_equal(reg(APIC_ID), 0x12345);
    f.c.apic.id = 0;
    apic_from_page(&f.c, page, 0);
    assert_int_equal(f.c.apic.id, 0x12345);
}

/* Divided by 4: a count is 4 ns. */
static void test_count_goes_on(void **state)
{
    (void)state;
    f.c.apic.lvt[LVT_TIMER] = LVT_TIMER_PERIODIC | 0x40;
    f.c.apic.timer_div = 1;
    f.c.apic.timer_init = 1000;
    f.c.apic.timer_deadline_ns = f.now_ns + 1600;
    apic_to_page(&f.c, page);
    assert_int_equal(reg(APIC_TIMER_CURRENT), 400);
    f.now_ns += 100000;
    apic_from_page(&f.c, page, 0);
    assert_int_equal(f.c.apic.timer_deadline_ns, f.now_ns + 1600);
    assert_int_equal(f.nr_timer, 0); /* the platform was not told */
}

static void test_one_shot_at_its_end_fires_once_more_unless_masked(void **state)
{
    (void)state;
    f.c.apic.lvt[LVT_TIMER] = 0x40;
    f.c.apic.timer_init = 1000;
    f.c.apic.timer_deadline_ns = UINT64_MAX;
    apic_to_page(&f.c, page);
    assert_int_equal(reg(APIC_TIMER_CURRENT), 0);
    apic_from_page(&f.c, page, 0);
    assert_int_equal(f.c.apic.timer_deadline_ns, f.now_ns);
    page[APIC_LVT_TIMER / 4] |= LVT_MASKED;
    apic_from_page(&f.c, page, 0);
    assert_true(f.c.apic.timer_deadline_ns == UINT64_MAX);
}

static void test_tsc_deadline_counts_with_tsc_adjust(void **state)
{
    (void)state;
    f.c.apic.lvt[LVT_TIMER] = LVT_TIMER_DEADLINE | 0x40;
    f.c.tsc_adjust = 4000;
    apic_to_page(&f.c, page);
    apic_from_page(&f.c, page, 24000);
    assert_int_equal(f.c.apic.tsc_deadline, 24000);
    assert_int_equal(f.c.apic.timer_deadline_ns, 10000); /* fake_tsc_to_ns(20000) */
    apic_from_page(&f.c, page, 13000);                   /* has passed */
    assert_int_equal(f.c.apic.timer_deadline_ns, f.now_ns);
    apic_from_page(&f.c, page, UINT64_MAX - 1); /* never */
    assert_true(f.c.apic.timer_deadline_ns == UINT64_MAX);
    page[APIC_LVT_TIMER / 4] = 0x40; /* in another mode the MSR is 0 */
    apic_from_page(&f.c, page, 24000);
    assert_int_equal(f.c.apic.tsc_deadline, 0);
}

static void test_merge_takes_what_is_new_with_its_mode(void **state)
{
    const uint32_t seen[8] = { [2] = 0x1 };

    (void)state;
    f.c.apic.irr[2] = 0x10;
    f.c.apic.tmr[2] = 0x11;
    memset(page, 0, sizeof(page));
    page[APIC_IRR / 4 + 8] = 0x7;
    page[APIC_TMR / 4 + 8] = 0x4;
    apic_merge_irr(&f.c, page, seen);
    assert_int_equal(f.c.apic.irr[2], 0x16);
    assert_int_equal(f.c.apic.tmr[2], 0x15);
}

static void test_apic_that_is_set_aside_does_nothing(void **state)
{
    (void)state;
    f.c.apic.svr = 0x1ff;
    f.c.apic.irr[3] = 1;
    f.c.apic.lvt[LVT_TIMER] = LVT_TIMER_DEADLINE | 0x40;
    f.c.apic.tsc_deadline = 20000;
    f.c.apic.timer_deadline_ns = 1;
    apic_set_aside(&f.c);
    apic_timer_expired(&f.c);
    apic_tsc_changed(&f.c);
    assert_int_equal(f.nr_timer, 0);
    assert_false(apic_waits(&f.c, 0x60));
}

#define TEST(name) cmocka_unit_test_setup(name, set_up)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_each_register_is_at_its_address),
        TEST(test_registers_come_back),
        TEST(test_x2apic_id_has_32_bits),
        TEST(test_count_goes_on),
        TEST(test_one_shot_at_its_end_fires_once_more_unless_masked),
        TEST(test_tsc_deadline_counts_with_tsc_adjust),
        TEST(test_merge_takes_what_is_new_with_its_mode),
        TEST(test_apic_that_is_set_aside_does_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
