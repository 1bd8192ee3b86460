/* SPDX-License-Identifier: Apache-2.0 */
/* PUSHF, POPF, CLI and STI by mode, CPL, IOPL, VME and PVI. */
#include "cpu/fake_cpu.h"

#define MOVABLE                                                                               \
    (RFLAGS_ARITH | RFLAGS_TF | RFLAGS_IF | RFLAGS_DF | RFLAGS_IOPL | RFLAGS_NT | RFLAGS_AC | \
     RFLAGS_ID)
#define OUTER_MOVABLE (MOVABLE & ~(RFLAGS_IF | RFLAGS_IOPL))
#define LOW(x)        ((x)&0xffffu)
#define GP            UINT32_MAX

static struct cpu *make(enum fake_mode mode, unsigned iopl_bits, uint64_t cr4)
{
    struct cpu *c = fake_make(mode);

    c->rflags = (c->rflags & RFLAGS_VM) | RFLAGS_FIXED1 | iopl_bits << RFLAGS_IOPL_SHIFT;
    c->cr4 = cr4;
    if (mode == VM86)
        c->gpr[RSP] = 0xfff0;
    return c;
}

static void test_popf_changes_what_it_may(void **state)
{
    static const struct {
        const char *name;
        enum fake_mode mode;
        unsigned iopl;
        uint64_t cr4;
        unsigned bytes;
        uint32_t changes; /* of an image of all ones; GP: #GP(0) */
    } cases[] = {
        { "real, 16", REAL, 0, 0, 2, LOW(MOVABLE) },
        { "real, 32", REAL, 0, 0, 4, MOVABLE },
        { "ring 0", PM0, 0, 0, 4, MOVABLE },
        { "ring 0, 64", LONG0, 0, 0, 8, MOVABLE },
        { "ring 3", PM3, 0, 0, 4, OUTER_MOVABLE },
        { "ring 3, PVI is no matter", PM3, 0, CR4_PVI, 4, OUTER_MOVABLE },
        { "ring 3, IOPL 3", PM3, 3, 0, 4, OUTER_MOVABLE | RFLAGS_IF },
        { "ring 3, 16", PM3, 0, 0, 2, LOW(OUTER_MOVABLE) },
        { "v8086, IOPL 0", VM86, 0, 0, 2, GP },
        { "v8086, IOPL 3", VM86, 3, 0, 2, LOW(OUTER_MOVABLE) | RFLAGS_IF },
        { "v8086, IOPL 3, 32", VM86, 3, 0, 4, OUTER_MOVABLE | RFLAGS_IF },
        { "VME, TF in the image", VM86, 0, CR4_VME, 2, GP },
        { "VME, 32", VM86, 0, CR4_VME, 4, GP },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct cpu *c = make(cases[i].mode, cases[i].iopl, cases[i].cr4);
        uint64_t was = c->rflags, sp = c->gpr[RSP], at = sp;
        enum step st;

        if (cases[i].mode == REAL || cases[i].mode == VM86)
            at += c->seg[SEG_SS].base;
        put(at, ~0ull, cases[i].bytes);
        c->rflags |= RFLAGS_RF;
        st = cpu_popf(c, cases[i].bytes);
        if (cases[i].changes == GP) {
            check_fault(c, st, VEC_GP, 0, cases[i].name);
            assert_int_equal(c->gpr[RSP], sp);
            continue;
        }
        assert_int_equal(st, STEP_NEXT);
        if (c->rflags != (was | cases[i].changes))
            fail_msg("%s: %#llx", cases[i].name, (unsigned long long)c->rflags);
        assert_int_equal(c->gpr[RSP], sp + cases[i].bytes);
        assert_int_equal(!!(c->mode & MODE_AC), (c->rflags & RFLAGS_AC) && c->cpl < 3);
    }
}

static void test_vme_moves_if_to_vif(void **state)
{
    struct cpu *c = make(VM86, 0, CR4_VME);
    uint64_t at = c->seg[SEG_SS].base + 0xfff0;

    (void)state;
    put(at, RFLAGS_IF | RFLAGS_CF | RFLAGS_IOPL, 2);
    assert_int_equal(cpu_popf(c, 2), STEP_NEXT);
    assert_int_equal(c->rflags, 2 | RFLAGS_VM | RFLAGS_VIF | RFLAGS_CF);
    assert_int_equal(cpu_pushf(c, 2), STEP_NEXT);
    assert_int_equal(peek(at, 2), 2 | RFLAGS_IF | RFLAGS_CF | RFLAGS_IOPL);
    check_fault(c, cpu_pushf(c, 4), VEC_GP, 0, "PUSHFD");
    c->rflags |= RFLAGS_VIP;
    check_fault(c, cpu_popf(c, 2), VEC_GP, 0, "IF with VIP");
    put(at, 0, 2);
    assert_int_equal(cpu_popf(c, 2), STEP_NEXT);
    assert_int_equal(c->rflags, 2 | RFLAGS_VM | RFLAGS_VIP);
}

static void test_pushf_hides_vm_and_rf(void **state)
{
    struct cpu *c = make(VM86, 3, 0);

    (void)state;
    c->rflags |= RFLAGS_RF | RFLAGS_ID;
    assert_int_equal(cpu_pushf(c, 4), STEP_NEXT);
    assert_int_equal(peek(c->seg[SEG_SS].base + 0xffec, 4), 2 | RFLAGS_IOPL | RFLAGS_ID);
    c = make(VM86, 2, 0);
    check_fault(c, cpu_pushf(c, 2), VEC_GP, 0, "IOPL");
    c = make(PM3, 0, 0);
    assert_int_equal(cpu_pushf(c, 2), STEP_NEXT);
    assert_int_equal(c->gpr[RSP], STACK3 - 2);
}

static void test_cli_and_sti(void **state)
{
    static const struct {
        const char *name;
        enum fake_mode mode;
        unsigned iopl;
        uint64_t cr4;
        uint32_t flag; /* which they change; 0: #GP(0) */
    } cases[] = {
        { "real", REAL, 0, 0, RFLAGS_IF },
        { "ring 0", PM0, 0, 0, RFLAGS_IF },
        { "ring 3", PM3, 0, 0, 0 },
        { "ring 3, IOPL 2", PM3, 2, CR4_VME, 0 },
        { "ring 3, IOPL 3", PM3, 3, CR4_PVI, RFLAGS_IF },
        { "ring 3, PVI", PM3, 0, CR4_PVI, RFLAGS_VIF },
        { "ring 3, 64-bit", LONG3, 0, 0, 0 },
        { "v8086, IOPL 0", VM86, 0, CR4_PVI, 0 },
        { "v8086, IOPL 3", VM86, 3, CR4_VME, RFLAGS_IF },
        { "v8086, VME", VM86, 0, CR4_VME, RFLAGS_VIF },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct cpu *c = make(cases[i].mode, cases[i].iopl, cases[i].cr4);
        uint64_t was = c->rflags;

        if (!cases[i].flag) {
            check_fault(c, cpu_cli(c), VEC_GP, 0, cases[i].name);
            check_fault(c, cpu_sti(c), VEC_GP, 0, cases[i].name);
            continue;
        }
        assert_int_equal(cpu_sti(c), STEP_NEXT);
        assert_int_equal(c->rflags, was | cases[i].flag);
        assert_int_equal(c->shadow_sti, cases[i].flag == RFLAGS_IF);
        c->shadow_sti = false;
        assert_int_equal(cpu_sti(c), STEP_NEXT);
        assert_false(c->shadow_sti); /* IF was set already */
        assert_int_equal(cpu_cli(c), STEP_NEXT);
        assert_int_equal(c->rflags, was);
        c->rflags |= RFLAGS_VIP;
        if (cases[i].flag == RFLAGS_VIF)
            check_fault(c, cpu_sti(c), VEC_GP, 0, "VIP");
        else
            assert_int_equal(cpu_sti(c), STEP_NEXT);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_popf_changes_what_it_may),
        cmocka_unit_test(test_vme_moves_if_to_vif),
        cmocka_unit_test(test_pushf_hides_vm_and_rf),
        cmocka_unit_test(test_cli_and_sti),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
