/* SPDX-License-Identifier: Apache-2.0 */
/* MSRs: values that are refused, side effects, and what each vendor has. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cpu/fakecpu.h"

enum outcome { TAKEN, GP };
enum { ANY, INTEL, AMD };

static enum outcome outcome(struct cpu *c, enum step st)
{
    if (st == STEP_NEXT)
        return TAKEN;
    assert_int_equal(c->exc.vector, VEC_GP);
    return GP;
}

static uint64_t get(struct fake *f, uint32_t msr)
{
    uint64_t x;

    assert_int_equal(cpu_rdmsr(&f->c, msr, &x), STEP_NEXT);
    return x;
}

static void test_written_values_are_checked_and_read_back(void **state)
{
    static const uint64_t noncanon = 0x0000800000000000, kernel = 0xffffffff81000000;
    const struct {
        uint32_t msr;
        uint64_t val;
        enum outcome want;
    } t[] = {
        { MSR_FS_BASE, kernel, TAKEN },
        { MSR_FS_BASE, noncanon, GP },
        { MSR_GS_BASE, noncanon, GP },
        { MSR_KERNEL_GS_BASE, kernel, TAKEN },
        { MSR_KERNEL_GS_BASE, noncanon, GP },
        { MSR_STAR, ~0ull, TAKEN },
        { MSR_LSTAR, kernel, TAKEN },
        { MSR_LSTAR, noncanon, GP },
        { MSR_CSTAR, noncanon, GP },
        { MSR_SFMASK, 0x47700, TAKEN },
        { MSR_SYSENTER_CS, 0x10, TAKEN },
        { MSR_SYSENTER_ESP, kernel, TAKEN },
        { MSR_SYSENTER_EIP, noncanon, GP },
        { MSR_TSC_AUX, 5, TAKEN },
        { MSR_TSC_AUX, BIT64(32), GP },
        { MSR_PAT, 0x0007040600070406, TAKEN },
        { MSR_PAT, 0x0007050100070406, TAKEN },
        { MSR_PAT, 0x0007040600070402, GP },
        { MSR_PAT, 0x0307040600070406, GP },
        { MSR_PAT, 0x0008040600070406, GP },
        { MSR_MTRRCAP, 0x508, GP },
        { MSR_MTRR_DEF_TYPE, 0xc06, TAKEN },
        { MSR_MTRR_DEF_TYPE, 0xc07, GP },
        { MSR_MTRR_DEF_TYPE, 0x1c06, GP },
        { 0x200, 0xc0000006, TAKEN },
        { 0x200, 0xc0000002, GP },
        { 0x200, 0xc0000106, GP },
        { 0x20e, BIT64(40), GP },
        { 0x20f, 0xffc0000800, TAKEN },
        { 0x20f, 0xffc0000801, GP },
        { 0x250, 0x0606060606060606, TAKEN },
        { 0x259, 0, TAKEN },
        { 0x26f, 0x0505050505050505, TAKEN },
        { 0x26f, 0x0505050502050505, GP },
        { 0x251, 0, GP },
        { 0x179, 0, GP },
        { 0x17a, 7, TAKEN },
        { 0x17a, 8, GP },
        { 0x17b, 0, GP },
        { 0x12345, 0, GP },
    };
    static struct fake f;

    (void)state;
    fake_init(&f);
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        if (outcome(&f.c, cpu_wrmsr(&f.c, t[i].msr, t[i].val)) != t[i].want)
            fail_msg("case %u: MSR %#x", i, t[i].msr);
        if (t[i].want == TAKEN)
            assert_int_equal(get(&f, t[i].msr), t[i].val);
    }
}

static void test_outside_ring_0_all_raise_gp(void **state)
{
    static struct fake f;
    uint64_t x;

    (void)state;
    fake_init(&f);
    fake_ring(&f, 3);
    assert_int_equal(outcome(&f.c, cpu_rdmsr(&f.c, MSR_PAT, &x)), GP);
    assert_int_equal(outcome(&f.c, cpu_wrmsr(&f.c, MSR_STAR, 0)), GP);
}

static void test_unknown_msr_raises_gp_and_is_reported_once(void **state)
{
    static struct fake f;
    uint64_t x;

    (void)state;
    log_set_level(LOG_ERROR);
    fake_init(&f);
    assert_int_equal(outcome(&f.c, cpu_rdmsr(&f.c, 0x40000000, &x)), GP);
    assert_false(log_first(&f.seen, 0x0f32ull << 32 | 0x40000000));
    assert_true(log_first(&f.seen, 0x0f32ull << 32 | 0x40000001));
}

static void test_efer_checks_and_flushes(void **state)
{
    static struct fake f;

    (void)state;
    fake_init(&f);
    assert_int_equal(outcome(&f.c, cpu_wrmsr(&f.c, MSR_EFER, EFER_SCE | EFER_LME)), TAKEN);
    assert_int_equal(f.nr_flushes, 0);
    assert_int_equal(outcome(&f.c, cpu_wrmsr(&f.c, MSR_EFER, EFER_LME | EFER_NXE)), TAKEN);
    assert_int_equal(f.nr_flushes, 1);
    assert_int_equal(f.flush.kind, FLUSH_ALL);
    assert_int_equal(outcome(&f.c, cpu_wrmsr(&f.c, MSR_EFER, BIT64(1))), GP);
    assert_int_equal(outcome(&f.c, cpu_wrmsr(&f.c, MSR_EFER, BIT64(12))), GP); /* SVME */
    assert_int_equal(outcome(&f.c, cpu_wrmsr(&f.c, MSR_EFER, EFER_LMA)), TAKEN);
    assert_int_equal(get(&f, MSR_EFER), 0); /* LMA is not for writing */
    f.model.words[FEAT_NX / 32] &= ~BIT(FEAT_NX % 32);
    assert_int_equal(outcome(&f.c, cpu_wrmsr(&f.c, MSR_EFER, EFER_NXE)), GP);
    fake_long(&f);
    assert_int_equal(outcome(&f.c, cpu_wrmsr(&f.c, MSR_EFER, EFER_SCE)), GP); /* LME with PG */
    assert_int_equal(outcome(&f.c, cpu_wrmsr(&f.c, MSR_EFER, EFER_LME | EFER_SCE)), TAKEN);
    assert_int_equal(get(&f, MSR_EFER), EFER_LME | EFER_LMA | EFER_SCE);
}

static void test_tsc_and_tsc_adjust_move_together(void **state)
{
    static struct fake f;

    (void)state;
    fake_init(&f);
    f.tsc = 1000;
    assert_int_equal(get(&f, MSR_TSC), 1000);
    assert_int_equal(cpu_wrmsr(&f.c, MSR_TSC, 400), STEP_NEXT);
    assert_int_equal(get(&f, MSR_TSC_ADJUST), (uint64_t)-600);
    f.tsc = 1100;
    assert_int_equal(get(&f, MSR_TSC), 500);
    assert_int_equal(cpu_wrmsr(&f.c, MSR_TSC, 5000), STEP_NEXT);
    assert_int_equal(get(&f, MSR_TSC_ADJUST), 3900);
    assert_int_equal(cpu_wrmsr(&f.c, MSR_TSC_ADJUST, 7), STEP_NEXT);
    assert_int_equal(cpu_read_tsc(&f.c), 1107);
}

static void test_each_vendor_has_its_own(void **state)
{
    static const struct {
        uint32_t msr;
        int who;
        uint64_t val;
    } t[] = {
        { 0x17, INTEL, 0 },
        { 0x3a, INTEL, 1 },
        { 0xce, INTEL, 20ull << 40 | 20 << 8 },
        { 0x1a0, INTEL, 0x1800 },
        { 0x8b, ANY, 0 },
        { 0x10a, INTEL, 0 },
        { 0xc0010010, AMD, 0 },
        { 0xc0010015, AMD, BIT64(24) },
        { 0xc001001f, AMD, 0 },
        { 0xc0010114, AMD, 0x18 },
        { 0xc0011020, AMD, 0 },
        { 0xc0011029, AMD, 2 },
    };
    static struct fake f;

    (void)state;
    log_set_level(LOG_ERROR);
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        for (unsigned vendor = VENDOR_INTEL; vendor <= VENDOR_AMD; vendor++) {
            int who = vendor == VENDOR_AMD ? AMD : INTEL;
            uint64_t x;

            fake_init(&f);
            f.model.vendor = vendor;
            if (t[i].who != ANY && t[i].who != who)
                assert_int_equal(outcome(&f.c, cpu_rdmsr(&f.c, t[i].msr, &x)), GP);
            else if (get(&f, t[i].msr) != t[i].val && t[i].val)
                fail_msg("MSR %#x", t[i].msr);
        }
    }
}

/* SDM 4, IA32_SPEC_CTRL, IA32_PRED_CMD, IA32_ARCH_CAPABILITIES */
static void test_speculation_is_controlled_as_cpuid_says(void **state)
{
    static struct fake f;
    uint64_t x;

    (void)state;
    fake_init(&f);
    f.model.vendor = VENDOR_INTEL;
    assert_int_equal(get(&f, 0x10a) & 2, 2);
    assert_int_equal(outcome(&f.c, cpu_wrmsr(&f.c, MSR_SPEC_CTRL, 0x403)), TAKEN);
    assert_int_equal(get(&f, MSR_SPEC_CTRL), 0x403);
    assert_int_equal(outcome(&f.c, cpu_wrmsr(&f.c, MSR_SPEC_CTRL, 4)), GP);
    assert_int_equal(outcome(&f.c, cpu_wrmsr(&f.c, MSR_PRED_CMD, 1)), TAKEN);
    assert_int_equal(outcome(&f.c, cpu_wrmsr(&f.c, MSR_PRED_CMD, 2)), GP);
    assert_int_equal(outcome(&f.c, cpu_rdmsr(&f.c, MSR_PRED_CMD, &x)), GP);
    f.model.words[FEAT_BHI_CTRL / 32] &= ~BIT(FEAT_BHI_CTRL % 32);
    assert_int_equal(outcome(&f.c, cpu_wrmsr(&f.c, MSR_SPEC_CTRL, 0x400)), GP);
    assert_int_equal(outcome(&f.c, cpu_wrmsr(&f.c, MSR_SPEC_CTRL, 1)), TAKEN);
    f.model.words[FEAT_SPEC_CTRL / 32] &= ~BIT(FEAT_SPEC_CTRL % 32);
    assert_int_equal(get(&f, 0x10a) & 2, 0);
    assert_int_equal(outcome(&f.c, cpu_rdmsr(&f.c, MSR_SPEC_CTRL, &x)), GP);
    assert_int_equal(outcome(&f.c, cpu_wrmsr(&f.c, MSR_PRED_CMD, 1)), GP);
}

static void test_constants_drop_writes_and_stay(void **state)
{
    static struct fake f;

    (void)state;
    fake_init(&f);
    f.model.vendor = VENDOR_AMD;
    assert_int_equal(outcome(&f.c, cpu_wrmsr(&f.c, 0xc001001f, BIT64(46))), TAKEN);
    assert_int_equal(get(&f, 0xc001001f), 0);
    assert_int_equal(outcome(&f.c, cpu_wrmsr(&f.c, 0xc0010071, 1)), GP);
    /* SYSENTER's are 32 bits wide there */
    assert_int_equal(outcome(&f.c, cpu_wrmsr(&f.c, MSR_SYSENTER_EIP, 0xffffffff81000000)), TAKEN);
    assert_int_equal(get(&f, MSR_SYSENTER_EIP), 0x81000000);
    assert_int_equal(outcome(&f.c, cpu_wrmsr(&f.c, MSR_TSC_AUX, BIT64(32) | 3)), TAKEN);
    assert_int_equal(get(&f, MSR_TSC_AUX), 3);
}

static void test_feature_missing_hides_its_msrs(void **state)
{
    static const struct {
        uint32_t msr;
        enum cpu_feature feature;
    } t[] = {
        { MSR_TSC_ADJUST, FEAT_TSC_ADJUST }, { MSR_TSC_DEADLINE, FEAT_TSC_DEADLINE },
        { MSR_TSC_AUX, FEAT_RDTSCP },        { 0x200, FEAT_MTRR },
        { MSR_STAR, FEAT_SYSCALL },          { MSR_PAT, FEAT_PAT },
    };
    static struct fake f;
    uint64_t x;

    (void)state;
    log_set_level(LOG_ERROR);
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        fake_init(&f);
        assert_int_equal(outcome(&f.c, cpu_rdmsr(&f.c, t[i].msr, &x)), TAKEN);
        f.model.words[t[i].feature / 32] &= ~BIT(t[i].feature % 32);
        assert_int_equal(outcome(&f.c, cpu_rdmsr(&f.c, t[i].msr, &x)), GP);
    }
}

/* The type that the MTRRs give a page, as an operating system works it out. */
static unsigned mtrr_type(struct fake *f, uint64_t at)
{
    if (at < MIB(1))
        return 0xff & f->c.mtrr_fixed[at < 0x80000   ? 0
                                      : at < 0xc0000 ? 1 + (at - 0x80000) / 0x20000
                                                     : 3 + (at - 0xc0000) / 0x8000];
    for (unsigned i = 0; i < 8; i++) {
        uint64_t mask = f->c.mtrr_physmask[i];

        if ((mask & BIT64(11)) && ((at ^ f->c.mtrr_physbase[i]) & mask & PAGE_MASK) == 0)
            return f->c.mtrr_physbase[i] & 0xff;
    }
    return f->c.mtrr_def_type & 0xff;
}

static void test_firmware_mtrrs_leave_only_the_hole_uncached(void **state)
{
    static const uint64_t holes[] = { 0xc0000000, 0x80000000, 0xe0000000, 0xb0000000, 0xd8000000 };
    static struct fake f;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(holes); i++) {
        fake_init(&f);
        cpu_firmware_mtrrs(&f.c, GPA(holes[i]));
        assert_int_equal(f.c.mtrr_def_type, 0xc06);
        for (uint64_t at = 0; at < GIB(6); at += MIB(8))
            assert_int_equal(mtrr_type(&f, at), at >= holes[i] && at < GIB(4) ? 0 : 6);
        assert_int_equal(mtrr_type(&f, 0xb8000), 0);
        assert_int_equal(mtrr_type(&f, 0xc8000), 6);
        /* and a guest may write them back */
        for (uint32_t msr = 0x200; msr <= 0x20f; msr++)
            assert_int_equal(cpu_wrmsr(&f.c, msr, get(&f, msr)), STEP_NEXT);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_written_values_are_checked_and_read_back),
        cmocka_unit_test(test_outside_ring_0_all_raise_gp),
        cmocka_unit_test(test_unknown_msr_raises_gp_and_is_reported_once),
        cmocka_unit_test(test_efer_checks_and_flushes),
        cmocka_unit_test(test_tsc_and_tsc_adjust_move_together),
        cmocka_unit_test(test_each_vendor_has_its_own),
        cmocka_unit_test(test_speculation_is_controlled_as_cpuid_says),
        cmocka_unit_test(test_constants_drop_writes_and_stay),
        cmocka_unit_test(test_feature_missing_hides_its_msrs),
        cmocka_unit_test(test_firmware_mtrrs_leave_only_the_hole_uncached),
    };

    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
