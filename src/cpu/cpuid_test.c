/* SPDX-License-Identifier: Apache-2.0 */
/* CPU models and CPUID: what names promise, consistency between leaves, dynamic bits, limits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cpu/fakecpu.h"

static struct cpuid_regs cpuid(struct fake *f, uint32_t leaf, uint32_t subleaf)
{
    struct cpuid_regs r;

    cpu_cpuid(&f->c, leaf, subleaf, &r);
    return r;
}

static void use_model(struct fake *f, const char *name)
{
    char err[128];

    fake_init(f);
    if (!cpu_model_init(&f->model, name, err, sizeof(err))) {
        print_message("# %s\n", err);
        skip();
    }
    f->model.tsc_khz = 2600000;
}

static void test_model_names(void **state)
{
    struct cpu_model m;
    char err[128];

    (void)state;
    assert_true(cpu_model_init(&m, NULL, err, sizeof(err)));
    assert_string_equal(m.name, "host");
    assert_int_equal(m.nr_cpus, 1);
    assert_false(cpu_model_init(&m, "pentium", err, sizeof(err)));
    assert_string_equal(err, "unknown CPU model 'pentium'; there are host, x86-64-v2, x86-64-v3");
    assert_false(cpu_model_init(&m, "pentium", err, 12));
    assert_string_equal(err, "unknown CPU");
}

static void test_single_features_are_added_and_taken_away(void **state)
{
    static struct fake f;

    (void)state;
    use_model(&f, "x86-64-v2");
    assert_false(model_has(&f.model, FEAT_LA57));
    assert_int_equal(cpuid(&f, 0x80000008, 0).eax >> 8 & 0xff, 48);
    use_model(&f, "x86-64-v2,+la57");
    assert_true(cpuid(&f, 7, 0).ecx & BIT(16));
    assert_int_equal(cpuid(&f, 0x80000008, 0).eax >> 8 & 0xff, 57);
    assert_string_equal(f.model.name, "x86-64-v2");
    use_model(&f, "host"); /* whatever the host has */
    assert_false(model_has(&f.model, FEAT_LA57));
    use_model(&f, "host,-la57,-smap,-sse4_2");
    assert_false(model_has(&f.model, FEAT_LA57) || model_has(&f.model, FEAT_SMAP) ||
                 model_has(&f.model, FEAT_SSE42));
    assert_true(model_has(&f.model, FEAT_SMEP) && model_has(&f.model, FEAT_SSE41));
    use_model(&f, "x86-64-v3,-xsave"); /* AVX falls with it */
    assert_false(model_has(&f.model, FEAT_AVX2));
    assert_int_equal(f.model.xcr0, 3);
    use_model(&f, "x86-64-v2,-popcnt,+popcnt"); /* in order */
    assert_true(model_has(&f.model, FEAT_POPCNT));
}

static void test_bad_feature_lists_are_refused_by_name(void **state)
{
    static const struct {
        const char *spec, *says;
    } cases[] = {
        { "host,+warp", "'+warp'" },
        { "host,la57", "'la57'" },
        { "host,", "''" },
        { "host,-la57,,", "''" },
        { "host,+", "'+'" },
        { "host,+averyveryveryveryverylongfeature", "'+averyveryveryveryveryl'" },
        { "host,+monitor", "'+monitor': neither" },
        { "host,-xsave,+avx2", "'+avx2': it needs" },
        { "z80,+la57", "unknown CPU model 'z80'" },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct cpu_model m;
        char err[256];

        assert_false(cpu_model_init(&m, cases[i].spec, err, sizeof(err)));
        assert_non_null(strstr(err, cases[i].says));
    }
}

static void test_host_model_hides_what_doppel_lacks(void **state)
{
    static struct fake f;
    struct cpuid_regs r;

    (void)state;
    use_model(&f, "host");
    r = cpuid(&f, 1, 0);
    cpu_model_no_nesting(&f.model);
    r = cpuid(&f, 1, 0);
    assert_false(r.ecx & (BIT(3) | BIT(5) | BIT(6))); /* MONITOR, VMX, SMX */
    assert_true(r.ecx & BIT(31));
    assert_true(r.ecx & BIT(21));
    r = cpuid(&f, 7, 0);
    assert_false(r.ebx & (BIT(2) | BIT(4) | BIT(11) | BIT(14)));       /* SGX, HLE, RTM, MPX */
    assert_false(r.ebx & (BIT(16) | BIT(17) | BIT(30) | BIT(31)));     /* AVX-512 */
    assert_false(r.ecx & (BIT(3) | BIT(7)));                           /* PKU, CET */
    assert_false(r.edx & (BIT(20) | BIT(24) | BIT(27) | BIT(31)));     /* IBT, AMX, STIBP, SSBD */
    assert_true(!(r.edx & BIT(26)) == (f.model.vendor == VENDOR_AMD)); /* SPEC_CTRL is ours */
    assert_true(r.ecx & BIT(2));                                       /* UMIP is ours */
    assert_false(cpuid(&f, 0x80000001, 0).ecx & BIT(2));               /* SVM */
}

static void test_levels_are_the_psabi_and_no_more(void **state)
{
    static struct fake f;

    (void)state;
    use_model(&f, "x86-64-v2");
    assert_true(model_has(&f.model, FEAT_SSE42) && model_has(&f.model, FEAT_POPCNT));
    assert_false(model_has(&f.model, FEAT_AVX) || model_has(&f.model, FEAT_XSAVE) ||
                 model_has(&f.model, FEAT_AES) || model_has(&f.model, FEAT_RDRAND));
    assert_int_equal(f.model.xcr0, 3);
    assert_int_equal(cpuid(&f, 0xd, 0).eax, 0);
    use_model(&f, "x86-64-v3");
    assert_true(model_has(&f.model, FEAT_AVX2) && model_has(&f.model, FEAT_FMA) &&
                model_has(&f.model, FEAT_BMI2) && model_has(&f.model, FEAT_XSAVE));
    assert_false(model_has(&f.model, FEAT_SHA) || model_has(&f.model, FEAT_VAES));
    assert_int_equal(f.model.phys_bits, 40);
    assert_int_equal(f.model.xcr0, 7);
}

static void test_vendor_string_and_limits(void **state)
{
    static struct fake f;
    struct cpuid_regs r, top;

    (void)state;
    use_model(&f, "host");
    memcpy(f.model.vendor_id, "GenuineIntel", 13);
    f.model.vendor = VENDOR_INTEL;
    r = cpuid(&f, 0, 0);
    assert_int_equal(r.ebx, 0x756e6547);
    assert_int_equal(r.edx, 0x49656e69);
    assert_int_equal(r.ecx, 0x6c65746e);
    assert_int_equal(r.eax, 0x16);
    top = cpuid(&f, 0x16, 0);
    assert_int_equal(top.eax, 2600);
    r = cpuid(&f, 0x17, 0);
    assert_memory_equal(&r, &top, sizeof(r));
    r = cpuid(&f, 0x80000009, 0);
    assert_memory_equal(&r, &top, sizeof(r));
    f.model.vendor = VENDOR_AMD;
    r = cpuid(&f, 0x17, 0);
    assert_int_equal(r.eax | r.ebx | r.ecx | r.edx, 0);
    r = cpuid(&f, 0x90000000, 0);
    assert_int_equal(r.eax | r.ebx | r.ecx | r.edx, 0);
    r = cpuid(&f, 0x80000000, 0);
    assert_int_equal(r.eax, 0x80000021);
}

static void test_leaf_1_follows_the_processor(void **state)
{
    static struct fake f;

    (void)state;
    use_model(&f, "host");
    assert_false(cpuid(&f, 1, 0).ecx & BIT(27));
    f.c.cr4 |= CR4_OSXSAVE;
    assert_true(cpuid(&f, 1, 0).ecx & BIT(27));
    assert_true(cpuid(&f, 1, 0).edx & BIT(9));
    assert_int_equal(apic_wrmsr(&f.c, MSR_APIC_BASE, APIC_BASE_DEFAULT), STEP_NEXT);
    assert_false(cpuid(&f, 1, 0).edx & BIT(9));
    assert_false(cpuid(&f, 1, 0).edx & BIT(28)); /* HTT: one CPU */
    f.model.nr_cpus = 6;
    f.c.id = 5;
    assert_true(cpuid(&f, 1, 0).edx & BIT(28));
    assert_int_equal(cpuid(&f, 1, 0).ebx, 5u << 24 | 8 << 16 | 8 << 8);
}

static void test_topology_agrees_everywhere(void **state)
{
    static struct fake f;
    struct cpuid_regs r;

    (void)state;
    use_model(&f, "host");
    f.model.nr_cpus = 6;
    f.c.id = 5;
    r = cpuid(&f, 0xb, 0);
    assert_int_equal(r.eax, 0);
    assert_int_equal(r.ebx, 1);
    assert_int_equal(r.ecx, 0x100);
    assert_int_equal(r.edx, 5);
    r = cpuid(&f, 0xb, 1);
    assert_int_equal(r.eax, 3);
    assert_int_equal(r.ebx, 6);
    assert_int_equal(r.ecx, 0x201);
    r = cpuid(&f, 0xb, 2);
    assert_int_equal(r.ebx, 0);
    assert_int_equal(r.ecx, 2);
    assert_int_equal(r.edx, 5);
    f.model.vendor = VENDOR_INTEL;
    assert_int_equal(bits(cpuid(&f, 4, 3).eax, 31, 26), 7);
    assert_int_equal(bits(cpuid(&f, 4, 3).eax, 25, 14), 7); /* L3 is shared */
    assert_int_equal(bits(cpuid(&f, 4, 2).eax, 25, 14), 0);
    f.model.vendor = VENDOR_AMD;
    f.model.words[FEAT_TOPOEXT / 32] |= BIT(FEAT_TOPOEXT % 32);
    assert_int_equal(cpuid(&f, 0x80000008, 0).ecx, 5 | 3 << 12);
    assert_int_equal(cpuid(&f, 0x8000001e, 0).eax, 5);
    assert_int_equal(cpuid(&f, 0x8000001e, 0).ebx, 5);
    assert_int_equal(bits(cpuid(&f, 0x8000001d, 3).eax, 25, 14), 7);
}

/* Size from the deterministic leaf against AMD's older ones. */
static void test_cache_sizes_agree(void **state)
{
    static const unsigned kib[] = { 32, 32, 1024, 16384 };
    static struct fake f;

    (void)state;
    use_model(&f, "host");
    for (unsigned i = 0; i < 4; i++) {
        struct cpuid_regs r;
        uint32_t leaf;

        f.model.vendor = i & 1 ? VENDOR_INTEL : VENDOR_AMD;
        f.model.words[FEAT_TOPOEXT / 32] |= BIT(FEAT_TOPOEXT % 32);
        leaf = i & 1 ? 4 : 0x8000001d;
        r = cpuid(&f, leaf, i);
        assert_int_equal((bits(r.ebx, 31, 22) + 1) * (bits(r.ebx, 11, 0) + 1) * (r.ecx + 1) / 1024,
                         kib[i]);
        assert_int_equal(cpuid(&f, leaf, 4).eax & 0x1f, 0);
    }
    f.model.vendor = VENDOR_AMD;
    assert_int_equal(cpuid(&f, 0x80000005, 0).ecx >> 24, 32);
    assert_int_equal(cpuid(&f, 0x80000006, 0).ecx >> 16, 1024);
    assert_int_equal(cpuid(&f, 0x80000006, 0).edx >> 18, 16384 / 512);
}

static void test_xsave_sizes_follow_xcr0(void **state)
{
    static struct fake f;

    (void)state;
    use_model(&f, "x86-64-v3");
    assert_int_equal(cpuid(&f, 0xd, 0).eax, 7);
    assert_int_equal(cpuid(&f, 0xd, 0).ebx, 576);
    assert_int_equal(cpuid(&f, 0xd, 0).ecx, 832);
    f.c.xcr0 = 7;
    assert_int_equal(cpuid(&f, 0xd, 0).ebx, 832);
    assert_int_equal(cpuid(&f, 0xd, 2).eax, 256);
    assert_int_equal(cpuid(&f, 0xd, 2).ebx, offsetof(struct xsave_area, ymmh));
    assert_int_equal(cpuid(&f, 0xd, 3).eax, 0);
}

static void test_tsc_leaf_is_exact_or_absent(void **state)
{
    static const struct {
        uint64_t khz;
        uint32_t eax, ebx;
    } t[] = { { 2600000, 5, 13 }, { 1000000, 1, 1 }, { 2596122, 0, 0 }, { 0, 0, 0 } };
    static struct fake f;

    (void)state;
    use_model(&f, "host");
    f.model.vendor = VENDOR_INTEL;
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        struct cpuid_regs r;

        f.model.tsc_khz = t[i].khz;
        r = cpuid(&f, 0x15, 0);
        assert_int_equal(r.eax, t[i].eax);
        assert_int_equal(r.ebx, t[i].ebx);
        assert_int_equal(r.ecx, t[i].eax ? APIC_BUS_HZ : 0);
    }
}

static void assert_hypervisor(struct fake *f, const char *want)
{
    struct cpuid_regs r = cpuid(f, 0x40000000, 0);
    char name[13] = { 0 };

    memcpy(name, &r.ebx, 4);
    memcpy(name + 4, &r.ecx, 4);
    memcpy(name + 8, &r.edx, 4);
    assert_string_equal(name, want);
    assert_int_equal(r.eax, 0x40000010);
}

static void test_hypervisor_leaves(void **state)
{
    static struct fake f;
    struct cpuid_regs r;

    (void)state;
    use_model(&f, "x86-64-v2,-kvm-steal-time");
    assert_hypervisor(&f, "KVMKVMKVM");
    r = cpuid(&f, 0x40000001, 0);
    assert_int_equal(r.eax & (BIT(0) | BIT(3) | BIT(24)), BIT(0) | BIT(3) | BIT(24));
    assert_int_equal(r.eax & (BIT(5) | BIT(9) | BIT(13)), 0); /* what lives in steal time */
    assert_int_equal(r.eax & (BIT(4) | BIT(14)), 0);          /* asynchronous page faults */
    use_model(&f, "host");
    f.model.words[FW_KVM] = 0;
    assert_hypervisor(&f, "doppeldoppel");
    assert_int_equal(cpuid(&f, 0x40000001, 0).eax, 0);
    r = cpuid(&f, 0x40000010, 0);
    assert_int_equal(r.eax, 2600000);
    assert_int_equal(r.ebx, 1000000);
    r = cpuid(&f, 0x40000100, 0);
    assert_int_equal(r.eax | r.ebx | r.ecx | r.edx, 0);
}

static void test_extended_features_by_vendor(void **state)
{
    static struct fake f;
    struct cpuid_regs r;

    (void)state;
    use_model(&f, "host");
    f.model.vendor = VENDOR_INTEL;
    assert_false(cpuid(&f, 0x80000001, 0).edx & BIT(11)); /* SYSCALL, 32-bit code */
    fake_long(&f);
    assert_true(cpuid(&f, 0x80000001, 0).edx & BIT(11));
    assert_int_equal(cpuid(&f, 0x80000001, 0).eax, 0);
    f.model.vendor = VENDOR_AMD;
    r = cpuid(&f, 0x80000001, 0);
    assert_int_equal(r.eax, f.model.signature);
    assert_int_equal(r.edx & 0x0183f3ff, cpuid(&f, 1, 0).edx & 0x0183f3ff);
    assert_true(cpuid(&f, 0x80000007, 0).edx & BIT(8));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_names),
        cmocka_unit_test(test_single_features_are_added_and_taken_away),
        cmocka_unit_test(test_bad_feature_lists_are_refused_by_name),
        cmocka_unit_test(test_host_model_hides_what_doppel_lacks),
        cmocka_unit_test(test_levels_are_the_psabi_and_no_more),
        cmocka_unit_test(test_vendor_string_and_limits),
        cmocka_unit_test(test_leaf_1_follows_the_processor),
        cmocka_unit_test(test_topology_agrees_everywhere),
        cmocka_unit_test(test_cache_sizes_agree),
        cmocka_unit_test(test_xsave_sizes_follow_xcr0),
        cmocka_unit_test(test_tsc_leaf_is_exact_or_absent),
        cmocka_unit_test(test_hypervisor_leaves),
        cmocka_unit_test(test_extended_features_by_vendor),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
