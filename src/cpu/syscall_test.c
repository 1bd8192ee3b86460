/* SPDX-License-Identifier: Apache-2.0 */
/* Fast system calls and SWAPGS on both vendors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cpu/fakecpu.h"

#define STAR_VALUE (0x0023ull << 48 | 0x0010ull << 32 | 0x00401000)

enum what {
    DO_SYSCALL,
    DO_SYSRET32,
    DO_SYSRET64,
    DO_SYSENTER,
    DO_SYSEXIT32,
    DO_SYSEXIT64,
    DO_SWAPGS
};
enum mode { REAL, PROT, COMPAT, LONG };

static enum step perform(struct cpu *c, enum what what)
{
    switch (what) {
    case DO_SYSCALL:
        return cpu_syscall(c);
    case DO_SYSRET32:
        return cpu_sysret(c, 4);
    case DO_SYSRET64:
        return cpu_sysret(c, 8);
    case DO_SYSENTER:
        return cpu_sysenter(c);
    case DO_SYSEXIT32:
        return cpu_sysexit(c, 4);
    case DO_SYSEXIT64:
        return cpu_sysexit(c, 8);
    default:
        return cpu_swapgs(c);
    }
}

static void set_up(struct fake *f, enum cpu_vendor vendor, enum mode mode, unsigned cpl)
{
    fake_init(f);
    f->model.vendor = vendor;
    if (mode == REAL) {
        f->c.cr0 &= ~CR0_PE;
    } else if (mode >= COMPAT) {
        fake_long(f);
        if (mode == COMPAT)
            f->c.seg[SEG_CS].attr ^= SEG_L | SEG_DB;
    }
    f->c.efer |= EFER_SCE;
    f->c.star = STAR_VALUE;
    f->c.lstar = 0xffffffff81000000;
    f->c.cstar = 0xffffffff82000000;
    f->c.sfmask = RFLAGS_IF | RFLAGS_TF | RFLAGS_AC;
    f->c.sysenter_cs = 0x61;
    f->c.sysenter_esp = 0xffff888000001000;
    f->c.sysenter_eip = 0xffffffff83000000;
    f->c.gpr[RCX] = 0x7f0000001234;
    f->c.gpr[RDX] = 0x7e0000005678;
    f->c.gpr[R11] = ~0ull;
    f->c.rip = 0x555500001000;
    f->c.next_rip = 0x555500001002;
    f->c.rflags |= RFLAGS_IF | RFLAGS_RF | RFLAGS_CF;
    fake_ring(f, cpl);
}

static void test_faults_by_vendor_mode_and_ring(void **state)
{
    static const struct {
        enum what what;
        enum cpu_vendor vendor;
        enum mode mode;
        unsigned cpl;
        int vector; /* -1: none */
    } t[] = {
        { DO_SYSCALL, VENDOR_INTEL, LONG, 3, -1 },
        { DO_SYSCALL, VENDOR_INTEL, COMPAT, 3, VEC_UD },
        { DO_SYSCALL, VENDOR_INTEL, PROT, 3, VEC_UD },
        { DO_SYSCALL, VENDOR_AMD, COMPAT, 3, -1 },
        { DO_SYSCALL, VENDOR_AMD, PROT, 3, -1 },
        { DO_SYSCALL, VENDOR_AMD, REAL, 0, VEC_UD },
        { DO_SYSRET64, VENDOR_INTEL, LONG, 0, -1 },
        { DO_SYSRET64, VENDOR_INTEL, LONG, 3, VEC_GP },
        { DO_SYSRET32, VENDOR_INTEL, COMPAT, 0, VEC_UD },
        { DO_SYSRET32, VENDOR_AMD, PROT, 0, -1 },
        { DO_SYSRET32, VENDOR_AMD, PROT, 3, VEC_GP },
        { DO_SYSENTER, VENDOR_INTEL, LONG, 3, -1 },
        { DO_SYSENTER, VENDOR_INTEL, PROT, 3, -1 },
        { DO_SYSENTER, VENDOR_INTEL, REAL, 0, VEC_GP },
        { DO_SYSENTER, VENDOR_AMD, PROT, 3, -1 },
        { DO_SYSENTER, VENDOR_AMD, COMPAT, 3, VEC_UD },
        { DO_SYSENTER, VENDOR_AMD, LONG, 3, VEC_UD },
        { DO_SYSEXIT32, VENDOR_INTEL, PROT, 0, -1 },
        { DO_SYSEXIT32, VENDOR_INTEL, PROT, 3, VEC_GP },
        { DO_SYSEXIT64, VENDOR_INTEL, LONG, 0, -1 },
        { DO_SYSEXIT64, VENDOR_AMD, LONG, 0, VEC_UD },
        { DO_SWAPGS, VENDOR_INTEL, LONG, 0, -1 },
        { DO_SWAPGS, VENDOR_INTEL, LONG, 3, VEC_GP },
        { DO_SWAPGS, VENDOR_INTEL, COMPAT, 0, VEC_UD },
        { DO_SWAPGS, VENDOR_AMD, PROT, 0, VEC_UD },
    };
    static struct fake f;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        enum step st;

        set_up(&f, t[i].vendor, t[i].mode, t[i].cpl);
        st = perform(&f.c, t[i].what);
        if (t[i].vector < 0 ? st != STEP_NEXT : st != STEP_FAULT || f.c.exc.vector != t[i].vector)
            fail_msg("case %u: step %d, vector %u", i, st, f.c.exc.vector);
        if (st == STEP_FAULT)
            assert_int_equal(f.c.rip, 0x555500001000);
    }
}

static void test_syscall_without_sce_raises_ud(void **state)
{
    static struct fake f;

    (void)state;
    set_up(&f, VENDOR_INTEL, LONG, 3);
    f.c.efer &= ~EFER_SCE;
    assert_int_equal(cpu_syscall(&f.c), STEP_FAULT);
    assert_int_equal(f.c.exc.vector, VEC_UD);
    assert_int_equal(cpu_sysret(&f.c, 8), STEP_FAULT);
    assert_int_equal(f.c.exc.vector, VEC_UD);
}

static void test_syscall_from_64_bit_code(void **state)
{
    static struct fake f;

    (void)state;
    set_up(&f, VENDOR_INTEL, LONG, 3);
    assert_int_equal(cpu_syscall(&f.c), STEP_NEXT);
    assert_int_equal(f.c.rip, 0xffffffff81000000);
    assert_int_equal(f.c.gpr[RCX], 0x555500001002);
    assert_int_equal(f.c.gpr[R11], RFLAGS_FIXED1 | RFLAGS_IF | RFLAGS_CF);
    assert_int_equal(f.c.rflags, RFLAGS_FIXED1 | RFLAGS_CF);
    assert_int_equal(f.c.cpl, 0);
    assert_int_equal(f.c.seg[SEG_CS].sel, 0x10);
    assert_int_equal(f.c.seg[SEG_SS].sel, 0x18);
    assert_int_equal(f.c.seg[SEG_CS].attr, SEG_P | SEG_S | SEG_L | SEG_G | 0xb);
    assert_true(f.c.mode & MODE_CS64);
    assert_false(f.c.mode & MODE_USER);
}

static void test_syscall_from_compatibility_mode_on_amd_uses_cstar(void **state)
{
    static struct fake f;

    (void)state;
    set_up(&f, VENDOR_AMD, COMPAT, 3);
    assert_int_equal(cpu_syscall(&f.c), STEP_NEXT);
    assert_int_equal(f.c.rip, 0xffffffff82000000);
    assert_int_equal(f.c.gpr[RCX], 0x00001002);
    assert_true(f.c.mode & MODE_CS64);
    set_up(&f, VENDOR_AMD, PROT, 3);
    assert_int_equal(cpu_syscall(&f.c), STEP_NEXT);
    assert_int_equal(f.c.rip, 0x00401000);
    assert_int_equal(f.c.gpr[R11], ~0ull);
    assert_int_equal(f.c.rflags, RFLAGS_FIXED1 | RFLAGS_CF);
    assert_true(f.c.mode & MODE_CS32);
}

static void test_sysret_to_both_sizes(void **state)
{
    static struct fake f;

    (void)state;
    set_up(&f, VENDOR_INTEL, LONG, 0);
    assert_int_equal(cpu_sysret(&f.c, 8), STEP_NEXT);
    assert_int_equal(f.c.rip, 0x7f0000001234);
    assert_int_equal(f.c.rflags, 0x3c7fd7);
    assert_int_equal(f.c.seg[SEG_CS].sel, 0x33);
    assert_int_equal(f.c.seg[SEG_SS].sel, 0x2b);
    assert_int_equal(f.c.seg[SEG_SS].attr & SEG_DPL, SEG_DPL);
    assert_int_equal(f.c.cpl, 3);
    assert_true((f.c.mode & MODE_CS64) && (f.c.mode & MODE_USER));
    set_up(&f, VENDOR_INTEL, LONG, 0);
    assert_int_equal(cpu_sysret(&f.c, 4), STEP_NEXT);
    assert_int_equal(f.c.rip, 0x00001234);
    assert_int_equal(f.c.seg[SEG_CS].sel, 0x23);
    assert_true((f.c.mode & MODE_CS32) && (f.c.mode & MODE_LMA));
}

static void test_sysret_to_bad_rcx_faults_here_on_intel_and_there_on_amd(void **state)
{
    static struct fake f;

    (void)state;
    set_up(&f, VENDOR_INTEL, LONG, 0);
    f.c.gpr[RCX] = BIT64(47);
    assert_int_equal(cpu_sysret(&f.c, 8), STEP_FAULT);
    assert_int_equal(f.c.exc.vector, VEC_GP);
    assert_int_equal(f.c.cpl, 0);
    set_up(&f, VENDOR_AMD, LONG, 0);
    f.c.gpr[RCX] = BIT64(47);
    f.c.seg[SEG_SS].attr = SEG_UNUSABLE;
    assert_int_equal(cpu_sysret(&f.c, 8), STEP_NEXT);
    assert_int_equal(f.c.rip, BIT64(47));
    assert_int_equal(f.c.cpl, 3);
    /* and SS keeps its attributes there */
    assert_int_equal(f.c.seg[SEG_SS].sel, 0x2b);
    assert_int_equal(f.c.seg[SEG_SS].attr, SEG_UNUSABLE);
}

static void test_sysenter_and_sysexit(void **state)
{
    static struct fake f;

    (void)state;
    set_up(&f, VENDOR_INTEL, LONG, 3);
    assert_int_equal(cpu_sysenter(&f.c), STEP_NEXT);
    assert_int_equal(f.c.rip, 0xffffffff83000000);
    assert_int_equal(f.c.gpr[RSP], 0xffff888000001000);
    assert_int_equal(f.c.seg[SEG_CS].sel, 0x60);
    assert_int_equal(f.c.seg[SEG_SS].sel, 0x68);
    assert_false(f.c.rflags & (RFLAGS_IF | RFLAGS_RF));
    assert_true(f.c.mode & MODE_CS64);
    assert_int_equal(cpu_sysexit(&f.c, 8), STEP_NEXT);
    assert_int_equal(f.c.rip, 0x7e0000005678);
    assert_int_equal(f.c.gpr[RSP], 0x7f0000001234);
    assert_int_equal(f.c.seg[SEG_CS].sel, 0x83);
    assert_int_equal(f.c.seg[SEG_SS].sel, 0x8b);
    set_up(&f, VENDOR_INTEL, PROT, 3);
    assert_int_equal(cpu_sysenter(&f.c), STEP_NEXT);
    assert_int_equal(f.c.rip, 0x83000000);
    assert_true(f.c.mode & MODE_CS32);
    assert_int_equal(cpu_sysexit(&f.c, 4), STEP_NEXT);
    assert_int_equal(f.c.rip, 0x00005678);
    assert_int_equal(f.c.seg[SEG_CS].sel, 0x73);
    assert_int_equal(f.c.seg[SEG_SS].sel, 0x7b);
    f.c.sysenter_cs = 3;
    assert_int_equal(cpu_sysenter(&f.c), STEP_FAULT);
    assert_int_equal(f.c.exc.vector, VEC_GP);
}

static void test_sysexit_to_bad_address_raises_gp(void **state)
{
    static struct fake f;

    (void)state;
    set_up(&f, VENDOR_INTEL, LONG, 0);
    f.c.gpr[RDX] = BIT64(63);
    assert_int_equal(cpu_sysexit(&f.c, 8), STEP_FAULT);
    set_up(&f, VENDOR_INTEL, LONG, 0);
    f.c.gpr[RCX] = BIT64(63);
    assert_int_equal(cpu_sysexit(&f.c, 8), STEP_FAULT);
}

static void test_swapgs_swaps(void **state)
{
    static struct fake f;

    (void)state;
    set_up(&f, VENDOR_AMD, LONG, 0);
    f.c.seg[SEG_GS].base = 1;
    f.c.kernel_gs_base = 2;
    assert_int_equal(cpu_swapgs(&f.c), STEP_NEXT);
    assert_int_equal(f.c.seg[SEG_GS].base, 2);
    assert_int_equal(f.c.kernel_gs_base, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_faults_by_vendor_mode_and_ring),
        cmocka_unit_test(test_syscall_without_sce_raises_ud),
        cmocka_unit_test(test_syscall_from_64_bit_code),
        cmocka_unit_test(test_syscall_from_compatibility_mode_on_amd_uses_cstar),
        cmocka_unit_test(test_sysret_to_both_sizes),
        cmocka_unit_test(test_sysret_to_bad_rcx_faults_here_on_intel_and_there_on_amd),
        cmocka_unit_test(test_sysenter_and_sysexit),
        cmocka_unit_test(test_sysexit_to_bad_address_raises_gp),
        cmocka_unit_test(test_swapgs_swaps),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
