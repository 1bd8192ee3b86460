/* SPDX-License-Identifier: Apache-2.0 */
/* Debug registers: aliases, general detect, reserved bits, and which access hits what. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cpu/fakecpu.h"

#define EN(i)            (1ull << (2 * (i)))
#define KIND(i, rw, len) ((uint64_t)((rw) | (len) << 2) << (16 + 4 * (i)))
#define RW_X             0
#define RW_W             1
#define RW_IO            2
#define RW_RW            3
#define LEN_1            0
#define LEN_2            1
#define LEN_8            2
#define LEN_4            3

static void test_dr4_and_dr5_alias_unless_de(void **state)
{
    static struct fake f;
    uint64_t x;

    (void)state;
    fake_init(&f);
    assert_int_equal(cpu_mov_to_dr(&f.c, 5, 0x155), STEP_NEXT);
    assert_int_equal(f.c.dr7, 0x555);
    assert_int_equal(cpu_mov_from_dr(&f.c, 4, &x), STEP_NEXT);
    assert_int_equal(x, f.c.dr6);
    f.c.cr4 |= CR4_DE;
    assert_int_equal(cpu_mov_from_dr(&f.c, 4, &x), STEP_FAULT);
    assert_int_equal(f.c.exc.vector, VEC_UD);
    assert_int_equal(cpu_mov_to_dr(&f.c, 8, 0), STEP_FAULT);
    assert_int_equal(f.c.exc.vector, VEC_UD);
}

static void test_general_detect_raises_db_before_the_move(void **state)
{
    static struct fake f;
    uint64_t x;

    (void)state;
    fake_init(&f);
    f.c.dr7 |= DR7_GD;
    assert_int_equal(cpu_mov_to_dr(&f.c, 0, 0x1234), STEP_FAULT);
    assert_int_equal(f.c.exc.vector, VEC_DB);
    assert_int_equal(f.c.exc.addr, DR6_BD);
    assert_int_equal(f.c.dr[0], 0);
    assert_int_equal(cpu_mov_from_dr(&f.c, 7, &x), STEP_FAULT);
    /* Ring 3 never gets that far. */
    fake_ring(&f, 3);
    assert_int_equal(cpu_mov_from_dr(&f.c, 7, &x), STEP_FAULT);
    assert_int_equal(f.c.exc.vector, VEC_GP);
}

static void test_reserved_bits_are_fixed_or_gp(void **state)
{
    static struct fake f;

    (void)state;
    fake_init(&f);
    fake_long(&f);
    assert_int_equal(cpu_mov_to_dr(&f.c, 6, 0xffffffff), STEP_NEXT);
    assert_int_equal(f.c.dr6, 0xffffefff);
    assert_int_equal(cpu_mov_to_dr(&f.c, 6, 0), STEP_NEXT);
    assert_int_equal(f.c.dr6, 0xffff0ff0);
    assert_int_equal(cpu_mov_to_dr(&f.c, 7, 0xffffffff), STEP_NEXT);
    assert_int_equal(f.c.dr7, 0xffff27ff);
    f.c.dr7 = DR7_FIXED1;
    for (unsigned dr = 6; dr <= 7; dr++) {
        assert_int_equal(cpu_mov_to_dr(&f.c, dr, BIT64(32)), STEP_FAULT);
        assert_int_equal(f.c.exc.vector, VEC_GP);
    }
    assert_int_equal(cpu_mov_to_dr(&f.c, 3, 0xffff888000000000), STEP_NEXT);
    assert_int_equal(f.c.dr[3], 0xffff888000000000);
    assert_int_equal(f.nr_debug_changes, 2); /* DR7 and DR3; DR6 is no setting */
}

static void test_match_by_kind_length_and_enable(void **state)
{
    static const struct {
        uint64_t dr7, dr0, at;
        unsigned bytes, acc;
        bool hit;
    } t[] = {
        { EN(0) | KIND(0, RW_X, LEN_1), 0x1000, 0x1000, 1, ACC_EXEC, true },
        { EN(0) | KIND(0, RW_X, LEN_1), 0x1000, 0x1001, 1, ACC_EXEC, false },
        { EN(0) | KIND(0, RW_X, LEN_1), 0x1000, 0x1000, 1, ACC_READ, false },
        { EN(0) | KIND(0, RW_W, LEN_4), 0x1000, 0x1000, 1, ACC_EXEC, false },
        { KIND(0, RW_W, LEN_4), 0x1000, 0x1000, 4, ACC_WRITE, false },             /* not enabled */
        { EN(0) << 1 | KIND(0, RW_W, LEN_4), 0x1000, 0x1000, 4, ACC_WRITE, true }, /* G0 */
        { EN(0) | KIND(0, RW_W, LEN_4), 0x1000, 0x1000, 4, ACC_READ, false },
        { EN(0) | KIND(0, RW_RW, LEN_4), 0x1000, 0x1000, 4, ACC_READ, true },
        { EN(0) | KIND(0, RW_RW, LEN_4), 0x1000, 0x1003, 1, ACC_WRITE, true },
        { EN(0) | KIND(0, RW_RW, LEN_4), 0x1000, 0x1004, 1, ACC_WRITE, false },
        { EN(0) | KIND(0, RW_RW, LEN_4), 0x1000, 0x0ffd, 4, ACC_WRITE, true },
        { EN(0) | KIND(0, RW_RW, LEN_4), 0x1000, 0x0ffc, 4, ACC_WRITE, false },
        { EN(0) | KIND(0, RW_RW, LEN_4), 0x1002, 0x1000, 1, ACC_WRITE, true }, /* aligned down */
        { EN(0) | KIND(0, RW_RW, LEN_8), 0x1000, 0x1007, 1, ACC_WRITE, true },
        { EN(0) | KIND(0, RW_RW, LEN_2), 0x1000, 0x1002, 1, ACC_WRITE, false },
        { EN(0) | KIND(0, RW_RW, LEN_8), ~7ull, ~0ull, 1, ACC_WRITE, true },
        { EN(0) | KIND(0, RW_IO, LEN_1), 0x1000, 0x1000, 1, ACC_WRITE, false },
        { EN(0) | KIND(0, RW_W, LEN_1), 0x1000, 0x0800, 4096, ACC_WRITE, true },
    };
    static struct fake f;

    (void)state;
    fake_init(&f);
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        f.c.dr7 = DR7_FIXED1 | t[i].dr7;
        f.c.dr[0] = t[i].dr0;
        if (!!cpu_match_bp(&f.c, GVA(t[i].at), t[i].bytes, t[i].acc) != t[i].hit)
            fail_msg("case %u", i);
    }
}

static void test_match_tells_each_breakpoint(void **state)
{
    static struct fake f;

    (void)state;
    fake_init(&f);
    f.c.dr7 |= EN(1) | KIND(1, RW_RW, LEN_1) | EN(3) | KIND(3, RW_W, LEN_8);
    f.c.dr[1] = 0x2004;
    f.c.dr[3] = 0x2000;
    assert_int_equal(cpu_match_bp(&f.c, GVA(0x2000), 8, ACC_WRITE), DR6_B0 << 1 | DR6_B0 << 3);
    assert_true(cpu_bp_in_page(&f.c, GVA(0x2fff), false));
    assert_false(cpu_bp_in_page(&f.c, GVA(0x3000), false));
    assert_false(cpu_bp_in_page(&f.c, GVA(0x2000), true));
}

static void test_io_breakpoints_need_de(void **state)
{
    static struct fake f;

    (void)state;
    fake_init(&f);
    f.c.dr7 |= EN(2) | KIND(2, RW_IO, LEN_2);
    f.c.dr[2] = 0x3f8;
    assert_int_equal(cpu_match_io_bp(&f.c, 0x3f8, 1), 0);
    f.c.cr4 |= CR4_DE;
    assert_int_equal(cpu_match_io_bp(&f.c, 0x3f9, 1), DR6_B0 << 2);
    assert_int_equal(cpu_match_io_bp(&f.c, 0x3f6, 4), DR6_B0 << 2);
    assert_int_equal(cpu_match_io_bp(&f.c, 0x3fa, 1), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dr4_and_dr5_alias_unless_de),
        cmocka_unit_test(test_general_detect_raises_db_before_the_move),
        cmocka_unit_test(test_reserved_bits_are_fixed_or_gp),
        cmocka_unit_test(test_match_by_kind_length_and_enable),
        cmocka_unit_test(test_match_tells_each_breakpoint),
        cmocka_unit_test(test_io_breakpoints_need_de),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
