/* SPDX-License-Identifier: Apache-2.0 */
/* KVM's paravirtual interface: what is in guest memory after what. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cpu/apic_impl.h"
#include "cpu/fakecpu.h"

#define CLOCK_AT 0x2000u
#define WALL_AT  0x2100u
#define STEAL_AT 0x2200u
#define EOI_AT   0x2300u
#define NOWHERE  0xffff0000u /* no RAM */
#define VECTOR   0x51

static struct fake f;

static int set_up(void **state)
{
    (void)state;
    fake_init(&f);
    apic_mmio_write(&f.c, APIC_SVR, 0x1ff);
    return 0;
}

static uint64_t mem(uint64_t at, unsigned bytes)
{
    return fake_phys_read(&f.c, GPA(at), bytes);
}

static void wr(uint32_t msr, uint64_t val)
{
    assert_int_equal(cpu_wrmsr(&f.c, msr, val), STEP_NEXT);
}

/* What a guest makes of it. */
static uint64_t guest_ns(uint64_t tsc)
{
    int8_t shift = (int8_t)mem(CLOCK_AT + 28, 4);
    uint64_t ticks = tsc - mem(CLOCK_AT + 8, 8);

    ticks = shift < 0 ? ticks >> -shift : ticks << shift;
    return mem(CLOCK_AT + 16, 8) +
           (uint64_t)((unsigned __int128)ticks * mem(CLOCK_AT + 24, 4) >> 32);
}

static void test_clock_is_exact_and_tells_the_frequency(void **state)
{
    static const uint64_t khz[] = { 62501,   333333,  500000,  999999,  1000000,
                                    1000001, 2000000, 2596123, 4999999, 10000000 };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(khz); i++) {
        const uint64_t hour = 3600ull * 1000, want = hour * 1000000; /* ms, ns */
        uint64_t ns, told;
        int8_t shift;

        f.model.tsc_khz = khz[i];
        wr(MSR_KVM_SYSTEM_TIME_NEW, CLOCK_AT | 1);
        ns = guest_ns(khz[i] * hour);
        assert_true(ns <= want && want - ns < want >> 27);
        /* As Linux' pvclock_tsc_khz() does it. */
        shift = (int8_t)mem(CLOCK_AT + 28, 4);
        told = (1000000ull << 32) / mem(CLOCK_AT + 24, 4);
        assert_int_equal(shift < 0 ? told << -shift : told >> shift, khz[i]);
    }
}

static void test_clock_version_is_even_and_grows(void **state)
{
    uint32_t before;

    (void)state;
    wr(MSR_KVM_SYSTEM_TIME, CLOCK_AT | 1);
    before = (uint32_t)mem(CLOCK_AT, 4);
    assert_true(before && !(before & 1));
    wr(MSR_KVM_SYSTEM_TIME, CLOCK_AT | 1);
    assert_int_equal(mem(CLOCK_AT, 4), before + 2);
}

static void test_clock_follows_a_moved_tsc(void **state)
{
    (void)state;
    f.tsc = 5000000;
    wr(MSR_KVM_SYSTEM_TIME_NEW, CLOCK_AT | 1);
    assert_int_equal(mem(CLOCK_AT + 29, 1), 1); /* stable */
    wr(MSR_TSC_ADJUST, 1ull << 40);
    assert_int_equal(mem(CLOCK_AT + 8, 8), 1ull << 40);
    assert_int_equal(mem(CLOCK_AT + 29, 1), 0);
    wr(MSR_TSC, 0);
    assert_int_equal(guest_ns(cpu_read_tsc(&f.c)), 2500000);
}

static void test_clock_switched_off_or_outside_ram_is_not_written(void **state)
{
    uint8_t before[sizeof(f.ram)];

    (void)state;
    memcpy(before, f.ram, sizeof(before));
    wr(MSR_KVM_SYSTEM_TIME_NEW, CLOCK_AT);
    wr(MSR_KVM_SYSTEM_TIME_NEW, NOWHERE | 1);
    wr(MSR_KVM_WALL_CLOCK_NEW, NOWHERE);
    wr(MSR_KVM_STEAL_TIME, NOWHERE | 1);
    pv_steal_update(&f.c);
    cpu_pv_away(&f.c);
    assert_memory_equal(before, f.ram, sizeof(before));
}

static void test_wall_clock_is_the_date_of_the_clocks_origin(void **state)
{
    (void)state;
    f.now_ns = 2500000000;
    f.real_ns = 1800000002ull * 1000000000 + 700000000;
    wr(MSR_KVM_WALL_CLOCK, WALL_AT);
    assert_int_equal(mem(WALL_AT, 4), 2);
    assert_int_equal(mem(WALL_AT + 4, 4), 1800000000);
    assert_int_equal(mem(WALL_AT + 8, 4), 200000000);
}

static void test_steal_time_counts_from_its_registration(void **state)
{
    (void)state;
    f.steal_ns = 7000;
    wr(MSR_KVM_STEAL_TIME, STEAL_AT | 1);
    assert_int_equal(mem(STEAL_AT, 8), 0);
    f.steal_ns = 9000;
    pv_steal_update(&f.c);
    assert_int_equal(mem(STEAL_AT, 8), 2000);
    assert_int_equal(mem(STEAL_AT + 8, 4) & 1, 0);
    f.steal_ns = 10; /* another process goes on with a saved vCPU */
    pv_steal_update(&f.c);
    f.steal_ns = 110;
    pv_steal_update(&f.c);
    assert_int_equal(mem(STEAL_AT, 8), 2100);
}

static void test_a_restored_guest_is_told_that_it_was_stopped(void **state)
{
    (void)state;
    cpu_pv_was_stopped(&f.c); /* nothing is registered */
    wr(MSR_KVM_SYSTEM_TIME_NEW, CLOCK_AT | 1);
    assert_int_equal(mem(CLOCK_AT + 29, 1), 1);
    cpu_pv_was_stopped(&f.c);
    assert_int_equal(mem(CLOCK_AT + 29, 1), 3);
    wr(MSR_TSC, 7000000);
    assert_int_equal(mem(CLOCK_AT + 29, 1), 2); /* the guest's to clear */
    wr(MSR_KVM_SYSTEM_TIME_NEW, NOWHERE | 1);
    cpu_pv_was_stopped(&f.c);
}

static void test_flushes_are_left_with_who_is_away(void **state)
{
    (void)state;
    wr(MSR_KVM_STEAL_TIME, STEAL_AT | 1);
    f.nr_flushes = 0;
    cpu_pv_away(&f.c);
    assert_int_equal(mem(STEAL_AT + 16, 1), 1);
    assert_false(cpu_pv_back(&f.c));
    assert_int_equal(f.nr_flushes, 0);
    cpu_pv_away(&f.c);
    f.ram[STEAL_AT + 16] |= 2;
    f.ram[STEAL_AT + 17] = 0x5a; /* not ours */
    assert_true(cpu_pv_back(&f.c));
    assert_int_equal(f.nr_flushes, 1);
    assert_int_equal(f.flush.kind, FLUSH_ALL);
    assert_int_equal(mem(STEAL_AT + 16, 2), 0x5a00);
}

/* As after a restore: whoever saved it may have had it away. */
static void test_steal_update_says_that_the_vcpu_runs_and_flushes(void **state)
{
    unsigned before;

    (void)state;
    wr(MSR_KVM_STEAL_TIME, STEAL_AT | 1);
    before = f.nr_flushes;
    f.ram[STEAL_AT + 16] = 1;
    cpu_post(&f.c, REQ_TIMER);
    assert_int_equal(cpu_take_events(&f.c), STEP_NEXT);
    assert_int_equal(f.ram[STEAL_AT + 16], 0);
    assert_int_equal(f.nr_flushes, before);
    f.ram[STEAL_AT + 16] = 3;
    cpu_post(&f.c, REQ_TIMER);
    assert_int_equal(cpu_take_events(&f.c), STEP_NEXT);
    assert_int_equal(f.ram[STEAL_AT + 16], 0);
    assert_int_equal(f.nr_flushes, before + 1);
    cpu_pv_leave_flush(&f.c);
    assert_int_equal(f.ram[STEAL_AT + 16], 3);
}

static void test_reserved_bits_are_gp(void **state)
{
    static const struct {
        uint32_t msr;
        uint64_t val;
    } bad[] = {
        { MSR_KVM_STEAL_TIME, STEAL_AT | 3 },
        { MSR_KVM_STEAL_TIME, (STEAL_AT + 32) | 1 },
        { MSR_KVM_PV_EOI, EOI_AT | 3 },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_int_equal(cpu_wrmsr(&f.c, bad[i].msr, bad[i].val), STEP_FAULT);
        assert_int_equal(f.c.exc.vector, VEC_GP);
    }
}

static void test_what_is_not_offered_is_not_there(void **state)
{
    static const uint32_t msrs[] = { MSR_KVM_WALL_CLOCK, MSR_KVM_SYSTEM_TIME_NEW,
                                     MSR_KVM_STEAL_TIME, MSR_KVM_PV_EOI };

    (void)state;
    f.model.words[FW_KVM] = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++)
        assert_int_equal(cpu_wrmsr(&f.c, msrs[i], 0), STEP_FAULT);
}

/* ---- ends of interrupts ---- */

static void take(uint8_t vector)
{
    apic_post(&f.c, vector, false);
    apic_sync(&f.c);
    assert_int_equal(apic_pending_vector(&f.c), vector);
    assert_int_equal(apic_ack(&f.c), vector);
}

static bool in_service(uint8_t vector)
{
    return f.c.apic.isr[vector / 32] >> (vector % 32) & 1;
}

static void test_eoi_in_memory_ends_when_somebody_looks(void **state)
{
    (void)state;
    wr(MSR_KVM_PV_EOI, EOI_AT | 1);
    take(VECTOR);
    assert_int_equal(f.ram[EOI_AT], 1);
    f.ram[EOI_AT] = 0; /* the guest */
    assert_int_equal(apic_mmio_read(&f.c, APIC_ISR + (VECTOR / 32) * 16), 0);
    assert_false(in_service(VECTOR));
}

static void test_eoi_by_register_takes_the_offer_back(void **state)
{
    (void)state;
    wr(MSR_KVM_PV_EOI, EOI_AT | 1);
    take(VECTOR);
    apic_mmio_write(&f.c, APIC_EOI, 0);
    assert_false(in_service(VECTOR));
    assert_int_equal(f.ram[EOI_AT], 0);
}

static void test_a_later_interrupt_takes_the_offer_back(void **state)
{
    (void)state;
    wr(MSR_KVM_PV_EOI, EOI_AT | 1);
    take(VECTOR);
    apic_post(&f.c, VECTOR + 1, false); /* the same class: has to wait for the end */
    apic_sync(&f.c);
    assert_int_equal(f.ram[EOI_AT], 0);
    assert_true(in_service(VECTOR));
    assert_int_equal(apic_pending_vector(&f.c), -1);
    apic_mmio_write(&f.c, APIC_EOI, 0);
    assert_int_equal(apic_pending_vector(&f.c), VECTOR + 1);
}

/* A look at requests that brings no vector, as there is one after each tick of the timer. */
static void test_an_offer_outlasts_requests_without_vectors(void **state)
{
    (void)state;
    wr(MSR_KVM_PV_EOI, EOI_AT | 1);
    take(VECTOR);
    cpu_post(&f.c, REQ_IRQ);
    assert_int_equal(cpu_take_events(&f.c), STEP_NEXT);
    assert_int_equal(f.ram[EOI_AT], 1);
}

static void test_an_end_in_memory_lets_the_next_one_through(void **state)
{
    (void)state;
    wr(MSR_KVM_PV_EOI, EOI_AT | 1);
    take(VECTOR);
    f.ram[EOI_AT] = 0;
    apic_post(&f.c, VECTOR, false);
    apic_sync(&f.c);
    assert_int_equal(apic_pending_vector(&f.c), VECTOR);
}

static void test_ends_that_others_hear_of_are_not_offered(void **state)
{
    struct apic_msg told = { .vector = VECTOR, .mode = APIC_FIXED, .tell = true };

    (void)state;
    wr(MSR_KVM_PV_EOI, EOI_AT | 1);
    apic_post(&f.c, VECTOR, true); /* level-triggered */
    apic_sync(&f.c);
    (void)apic_ack(&f.c);
    assert_int_equal(f.ram[EOI_AT], 0);
    apic_mmio_write(&f.c, APIC_EOI, 0);
    assert_int_equal(f.nr_eois, 1);
    apic_accept(&f.c, &told);
    apic_sync(&f.c);
    (void)apic_ack(&f.c);
    assert_int_equal(f.ram[EOI_AT], 0);
}

static void test_init_leaves_no_offer_behind(void **state)
{
    (void)state;
    wr(MSR_KVM_PV_EOI, EOI_AT | 1);
    take(VECTOR);
    cpu_reset(&f.c, RESET_INIT);
    assert_int_equal(f.ram[EOI_AT], 0);
    assert_int_equal(f.c.pv.eoi, 0);
}

/* ---- kicks ---- */

static void test_a_kick_wakes_or_is_kept_for_the_next_halt(void **state)
{
    (void)state;
    f.c.activity = CPU_HALTED;
    cpu_post(&f.c, REQ_KICK);
    assert_true(cpu_event_ready(&f.c));
    assert_int_equal(cpu_take_events(&f.c), STEP_NEXT);
    assert_int_equal(f.c.activity, CPU_RUNNING);
    assert_false(cpu_pv_take_kick(&f.c));
    cpu_post(&f.c, REQ_KICK);
    assert_int_equal(cpu_take_events(&f.c), STEP_NEXT);
    assert_true(cpu_pv_take_kick(&f.c));
    assert_false(cpu_pv_take_kick(&f.c));
    f.c.activity = CPU_WAIT_SIPI;
    cpu_post(&f.c, REQ_KICK);
    assert_int_equal(cpu_take_events(&f.c), STEP_NEXT);
    assert_int_equal(f.c.activity, CPU_WAIT_SIPI);
}

#define TEST(t) cmocka_unit_test_setup(t, set_up)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_clock_is_exact_and_tells_the_frequency),
        TEST(test_clock_version_is_even_and_grows),
        TEST(test_clock_follows_a_moved_tsc),
        TEST(test_clock_switched_off_or_outside_ram_is_not_written),
        TEST(test_wall_clock_is_the_date_of_the_clocks_origin),
        TEST(test_steal_time_counts_from_its_registration),
        TEST(test_a_restored_guest_is_told_that_it_was_stopped),
        TEST(test_flushes_are_left_with_who_is_away),
        TEST(test_steal_update_says_that_the_vcpu_runs_and_flushes),
        TEST(test_reserved_bits_are_gp),
        TEST(test_what_is_not_offered_is_not_there),
        TEST(test_eoi_in_memory_ends_when_somebody_looks),
        TEST(test_eoi_by_register_takes_the_offer_back),
        TEST(test_a_later_interrupt_takes_the_offer_back),
        TEST(test_an_offer_outlasts_requests_without_vectors),
        TEST(test_an_end_in_memory_lets_the_next_one_through),
        TEST(test_ends_that_others_hear_of_are_not_offered),
        TEST(test_init_leaves_no_offer_behind),
        TEST(test_a_kick_wakes_or_is_kept_for_the_next_halt),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
