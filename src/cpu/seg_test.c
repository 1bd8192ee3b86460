/* SPDX-License-Identifier: Apache-2.0 */
/* Segment register loads, LLDT, LTR, LAR, LSL, VERR, VERW, limit and type checks, I/O permissions.
 */
#include "cpu/fake_cpu.h"

static void test_load_seg_faults_by_table(void **state)
{
    static const struct {
        const char *name;
        enum fake_mode mode;
        enum seg_id seg;
        uint16_t sel;
        unsigned vector;
        uint32_t err;
    } cases[] = {
        { "SS null in protected mode", PM0, SEG_SS, 0, VEC_GP, 0 },
        { "SS null in ring 3, 64-bit", LONG3, SEG_SS, 3, VEC_GP, 0 },
        { "SS null with RPL != CPL", LONG0, SEG_SS, 1, VEC_GP, 0 },
        { "SS beyond the GDT", PM0, SEG_SS, GDT_END, VEC_GP, GDT_END },
        { "SS with RPL != CPL", PM0, SEG_SS, S_DATA0 | 3, VEC_GP, S_DATA0 },
        { "SS with DPL != CPL", PM0, SEG_SS, S_DATA3, VEC_GP, S_DATA3 },
        { "SS of code", PM0, SEG_SS, S_CODE0, VEC_GP, S_CODE0 },
        { "SS read-only", PM0, SEG_SS, S_RO, VEC_GP, S_RO },
        { "SS absent", PM0, SEG_SS, S_DATA_NP, VEC_SS, S_DATA_NP },
        { "DS beyond the GDT", PM0, SEG_DS, GDT_END, VEC_GP, GDT_END },
        { "DS beyond the LDT", PM0, SEG_DS, 0x104, VEC_GP, 0x104 },
        { "DS of execute-only code", PM0, SEG_DS, S_XO, VEC_GP, S_XO },
        { "DS of a TSS", PM0, SEG_DS, S_TSS, VEC_GP, S_TSS },
        { "DS of DPL < CPL", PM3, SEG_DS, S_DATA0, VEC_GP, S_DATA0 },
        { "DS of DPL < RPL", PM0, SEG_DS, S_DATA1 | 3, VEC_GP, S_DATA1 },
        { "DS absent", PM0, SEG_DS, S_DATA_NP, VEC_NP, S_DATA_NP },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct cpu *c = fake_make(cases[i].mode);
        struct seg old = c->seg[cases[i].seg];

        check_fault(c, cpu_load_seg(c, cases[i].seg, cases[i].sel), cases[i].vector, cases[i].err,
                    cases[i].name);
        assert_memory_equal(&old, &c->seg[cases[i].seg], sizeof(old));
    }
}

static void test_load_seg_takes_what_is_allowed(void **state)
{
    static const struct {
        enum fake_mode mode;
        enum seg_id seg;
        uint16_t sel;
        uint32_t attr;
    } cases[] = {
        { PM0, SEG_SS, S_DATA0, A_DATA | A_FLAT | SEG_TYPE_ACCESSED },
        { PM0, SEG_DS, S_DATA3 | 3, A_DATA | A_FLAT | A_DPL(3) | SEG_TYPE_ACCESSED },
        { PM0, SEG_DS, 0x0c, A_DATA | A_FLAT | SEG_TYPE_ACCESSED }, /* LDT */
        { PM3, SEG_ES, S_CONF0 | 3, A_CODE | A_FLAT | SEG_TYPE_CONFORMING | SEG_TYPE_ACCESSED },
        { PM3, SEG_FS, 0, SEG_UNUSABLE },
        { LONG0, SEG_SS, 0, SEG_UNUSABLE },
        { VM86, SEG_DS, 0x1234, ATTR_VM86 },
        { REAL, SEG_DS, 0x1234, ATTR_REAL },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct cpu *c = fake_make(cases[i].mode);

        assert_int_equal(cpu_load_seg(c, cases[i].seg, cases[i].sel), STEP_NEXT);
        assert_int_equal(c->seg[cases[i].seg].sel, cases[i].sel);
        assert_int_equal(c->seg[cases[i].seg].attr, cases[i].attr);
    }
}

static void test_accessed_bit_is_written_only_when_clear(void **state)
{
    struct cpu *c = fake_make(PM0);

    (void)state;
    assert_int_equal(cpu_load_seg(c, SEG_DS, S_DATA3), STEP_NEXT);
    assert_int_equal(fake.nr_rmw8, 1);
    assert_true(gdt_type(S_DATA3) & SEG_TYPE_ACCESSED);
    assert_int_equal(cpu_load_seg(c, SEG_ES, S_DATA3), STEP_NEXT);
    assert_int_equal(fake.nr_rmw8, 1);
    fake.absent = GDT_AT;
    check_fault(c, cpu_load_seg(c, SEG_ES, S_DATA0), VEC_PF, 0, "GDT not there");
}

static void test_unreal_mode_keeps_the_limit(void **state)
{
    struct cpu *c = fake_make(PM0);

    (void)state;
    assert_int_equal(cpu_load_seg(c, SEG_DS, S_DATA0), STEP_NEXT);
    assert_int_equal(cpu_load_seg(c, SEG_ES, 0), STEP_NEXT);
    c->cr0 &= ~CR0_PE;
    cpu_update_mode(c);
    assert_int_equal(cpu_load_seg(c, SEG_DS, 0x40), STEP_NEXT);
    assert_int_equal(c->seg[SEG_DS].base, 0x400);
    assert_int_equal(c->seg[SEG_DS].limit, 0xffffffff);
    assert_int_equal(cpu_load_seg(c, SEG_ES, 0x40), STEP_NEXT);
    assert_int_equal(c->seg[SEG_ES].limit, 0xffff);
}

static void test_linear_limits_and_types(void **state)
{
    static const struct {
        const char *name;
        uint16_t sel;
        uint64_t off;
        unsigned bytes, acc;
        bool ok;
    } cases[] = {
        { "last byte", S_SMALL_DATA, 0xfff, 1, ACC_READ, true },
        { "over the end", S_SMALL_DATA, 0xfff, 2, ACC_READ, false },
        { "end of 4 GB", S_DATA0, 0xfffffffe, 2, ACC_WRITE, true },
        { "expand-down, below", S_DOWN, 0xfff, 1, ACC_READ, false },
        { "expand-down, above", S_DOWN, 0x1000, 4, ACC_WRITE, true },
        { "expand-down, up to 4 GB", S_DOWN, 0xfffffffc, 4, ACC_READ, true },
        { "expand-down, over 4 GB", S_DOWN, 0xfffffffd, 4, ACC_READ, false },
        { "write to read-only", S_RO, 0, 1, ACC_WRITE, false },
        { "read of read-only", S_RO, 0, 1, ACC_READ, true },
        { "write to code", S_CODE0, 0, 1, ACC_WRITE, false },
        { "read of code", S_CODE0, 0, 1, ACC_READ, true },
        { "null", 0, 0, 1, ACC_READ, false },
    };
    gva_t lin;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct cpu *c = fake_make(PM0);
        enum step st;

        assert_int_equal(cpu_load_seg(c, SEG_DS, cases[i].sel), STEP_NEXT);
        st = cpu_linear(c, SEG_DS, cases[i].off, cases[i].bytes, cases[i].acc, &lin);
        if (!cases[i].ok)
            check_fault(c, st, VEC_GP, 0, cases[i].name);
        else if (st != STEP_NEXT || lin.v != cases[i].off)
            fail_msg("%s: %d", cases[i].name, st);
    }
}

/* On Intel's processors accesses go on at 0, if the base is 0. */
static void test_linear_beyond_4_gb_by_vendor(void **state)
{
    static const struct {
        const char *name;
        enum cpu_vendor vendor;
        uint64_t base;
        bool ok;
    } cases[] = {
        { "flat, AMD", VENDOR_AMD, 0, false },
        { "flat, Intel", VENDOR_INTEL, 0, true },
        { "base, Intel", VENDOR_INTEL, 0x1000, false },
    };
    gva_t lin;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct cpu *c = fake_make(PM0);
        enum step st;

        fake.model.vendor = cases[i].vendor;
        assert_int_equal(cpu_load_seg(c, SEG_DS, S_DATA0), STEP_NEXT);
        c->seg[SEG_DS].base = cases[i].base;
        st = cpu_linear(c, SEG_DS, 0xffffffff, 2, ACC_READ, &lin);
        if (!cases[i].ok)
            check_fault(c, st, VEC_GP, 0, cases[i].name);
        else if (st != STEP_NEXT || lin.v != 0xffffffff)
            fail_msg("%s: %d", cases[i].name, st);
    }
}

static void test_linear_long_mode_is_canonical(void **state)
{
    struct cpu *c = fake_make(LONG0);
    gva_t lin;

    (void)state;
    c->seg[SEG_FS].base = 0xffff800000000000;
    assert_int_equal(cpu_linear(c, SEG_FS, 0x10, 8, ACC_READ, &lin), STEP_NEXT);
    assert_true(lin.v == 0xffff800000000010);
    check_fault(c, cpu_linear(c, SEG_DS, 0x7ffffffffff9, 8, ACC_READ, &lin), VEC_GP, 0, "DS");
    check_fault(c, cpu_linear(c, SEG_SS, 0x800000000000, 8, ACC_READ, &lin), VEC_SS, 0, "SS");
    c->cr4 |= CR4_LA57;
    assert_int_equal(cpu_linear(c, SEG_SS, 0x800000000000, 8, ACC_READ, &lin), STEP_NEXT);
}

static void test_push_wraps_and_faults(void **state)
{
    struct cpu *c = fake_make(REAL);
    uint64_t x;

    (void)state;
    c->gpr[RSP] = 0xdead0000;
    assert_int_equal(cpu_push(c, 0xabcd, 2), STEP_NEXT);
    assert_int_equal(c->gpr[RSP], 0xdeadfffe); /* only SP moves */
    assert_int_equal(peek(0x2000 + 0xfffe, 2), 0xabcd);
    assert_int_equal(cpu_pop(c, &x, 2), STEP_NEXT);
    assert_int_equal(x, 0xabcd);
    assert_int_equal(c->gpr[RSP], 0xdeadfffe);
    c->gpr[RSP] = 1;
    check_fault(c, cpu_push(c, 0, 2), VEC_SS, 0, "word at ffff");
    c = fake_make(LONG0);
    c->gpr[RSP] = 0x800000000004;
    check_fault(c, cpu_push(c, 0, 8), VEC_SS, 0, "not canonical");
    c = fake_make(PM3);
    c->gpr[RSP] = STACK3 + 1;
    c->rflags |= RFLAGS_AC;
    assert_int_equal(cpu_push(c, 0, 4), STEP_NEXT);
    c->cr0 |= CR0_AM;
    check_fault(c, cpu_push(c, 0, 4), VEC_AC, 0, "alignment check");
}

static void test_lldt_ltr(void **state)
{
    static const struct {
        const char *name;
        enum step (*fn)(struct cpu *, uint16_t);
        enum fake_mode mode;
        uint16_t sel;
        unsigned vector;
        uint32_t err;
    } cases[] = {
        { "LLDT by the LDT", cpu_lldt, PM0, S_LDT | 4, VEC_GP, S_LDT | 4 },
        { "LLDT of a TSS", cpu_lldt, PM0, S_TSS_B, VEC_GP, S_TSS_B },
        { "LLDT of data", cpu_lldt, PM0, S_DATA0, VEC_GP, S_DATA0 },
        { "LLDT absent", cpu_lldt, PM0, S_LDT_NP, VEC_NP, S_LDT_NP },
        { "LLDT beyond", cpu_lldt, PM0, GDT_END, VEC_GP, GDT_END },
        { "LTR null", cpu_ltr, PM0, 0, VEC_GP, 0 },
        { "LTR busy", cpu_ltr, PM0, S_TSS, VEC_GP, S_TSS },
        { "LTR by the LDT", cpu_ltr, PM0, 0x0c, VEC_GP, 0x0c },
        { "LTR absent", cpu_ltr, PM0, S_TSS_NP, VEC_NP, S_TSS_NP },
        { "LTR 16-bit in IA-32e mode", cpu_ltr, LONG0, S_TSS_C, VEC_GP, S_TSS_C },
        { "LTR, upper half beyond", cpu_ltr, LONG0, S_TSS_NP, VEC_GP, S_TSS_NP },
    };
    struct cpu *c;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        c = fake_make(cases[i].mode);
        check_fault(c, cases[i].fn(c, cases[i].sel), cases[i].vector, cases[i].err, cases[i].name);
    }
    c = fake_make(PM0);
    assert_int_equal(cpu_ltr(c, S_TSS_B), STEP_NEXT);
    assert_int_equal(gdt_type(S_TSS_B), SYS_TSS_BUSY);
    assert_int_equal(c->tr.base, TSS_B_AT);
    assert_int_equal(c->tr.attr, SEG_P | SYS_TSS_BUSY);
    assert_int_equal(cpu_lldt(c, 0), STEP_NEXT);
    check_fault(c, cpu_load_seg(c, SEG_DS, 0x0c), VEC_GP, 0x0c, "no LDT");
    c = fake_make(LONG0);
    put(GDT_AT + S_LDT + 8, 0xffff8000, 8);
    assert_int_equal(cpu_lldt(c, S_LDT), STEP_NEXT);
    assert_true(c->ldtr.base == 0xffff800000000000 + LDT_AT);
    put(GDT_AT + S_LDT + 8, 0x00800000, 8);
    check_fault(c, cpu_lldt(c, S_LDT), VEC_GP, S_LDT, "base not canonical");
    put(GDT_AT + S_LDT + 8, 1ull << 40, 8);
    check_fault(c, cpu_lldt(c, S_LDT), VEC_GP, S_LDT, "a type in the upper half");
}

static void test_lar_lsl_verify(void **state)
{
    static const struct {
        enum fake_mode mode;
        uint16_t sel;
        uint32_t lar, lsl; /* 0: ZF clear */
        bool verr, verw;
    } cases[] = {
        { PM0, 0, 0, 0, false, false },
        { PM0, GDT_END, 0, 0, false, false },
        { PM0, S_CODE0, 0xcf9a00, 0xffffffff, true, false },
        { PM0, S_DATA0, 0xcf9200, 0xffffffff, true, true },
        { PM0, S_RO, 0xcf9000, 0xffffffff, true, false },
        { PM0, S_XO, 0xcf9800, 0xffffffff, false, false },
        { PM0, S_DATA0 | 3, 0, 0, false, false },
        { PM3, S_DATA0, 0, 0, false, false },
        { PM3, S_CONF0, 0xcf9e00, 0xffffffff, true, false },
        { PM0, S_SMALL_DATA, 0x409200, 0xfff, true, true },
        { PM0, S_LDT, 0x008200, 0xff, false, false },
        { PM0, S_TSS_C, 0x008100, 0x2b, false, false },
        { LONG0, S_TSS_C, 0, 0, false, false },
        { LONG0, S_TSS, 0x008b00, 0x2067, false, false },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct cpu *c = fake_make(cases[i].mode);
        uint32_t lar = 0, lsl = 0;
        bool ok;

        assert_int_equal(cpu_lar(c, cases[i].sel, &lar, &ok), STEP_NEXT);
        assert_int_equal(ok, cases[i].lar != 0);
        assert_int_equal(cpu_lsl(c, cases[i].sel, &lsl, &ok), STEP_NEXT);
        assert_int_equal(ok, cases[i].lsl != 0);
        assert_int_equal(lar, cases[i].lar);
        assert_int_equal(lsl, cases[i].lsl);
        assert_int_equal(cpu_verify(c, cases[i].sel, ACC_READ, &ok), STEP_NEXT);
        assert_int_equal(ok, cases[i].verr);
        assert_int_equal(cpu_verify(c, cases[i].sel, ACC_WRITE, &ok), STEP_NEXT);
        assert_int_equal(ok, cases[i].verw);
    }
}

static void test_io_permissions(void **state)
{
    struct cpu *c = fake_make(PM3);

    (void)state;
    put(TSS_AT + 0x88 + 0x60 / 8, 0x10, 1); /* port 64h is denied */
    assert_int_equal(cpu_check_io(c, 0x60, 4), STEP_NEXT);
    check_fault(c, cpu_check_io(c, 0x64, 1), VEC_GP, 0, "denied");
    check_fault(c, cpu_check_io(c, 0x63, 2), VEC_GP, 0, "half denied");
    c->rflags |= RFLAGS_IOPL;
    assert_int_equal(cpu_check_io(c, 0x64, 1), STEP_NEXT);
    c->rflags &= ~(uint64_t)RFLAGS_IOPL;
    c->tr.limit = 0x88 + 0x60 / 8;
    check_fault(c, cpu_check_io(c, 0x60, 1), VEC_GP, 0, "second byte beyond the limit");
    c->tr.limit = 0x66;
    check_fault(c, cpu_check_io(c, 0x60, 1), VEC_GP, 0, "no room for a map");
    c = fake_make(VM86);
    c->rflags |= RFLAGS_IOPL;
    put(TSS_AT + 0x88 + 0x60 / 8, 0x10, 1);
    check_fault(c, cpu_check_io(c, 0x64, 1), VEC_GP, 0, "v8086 ignores IOPL");
    assert_int_equal(cpu_check_io(fake_make(REAL), 0x64, 1), STEP_NEXT);
}

static void test_reset_state(void **state)
{
    struct cpu *c = fake_make(LONG0);

    (void)state;
    c->xcr0 = 7;
    c->lstar = 0x1000;
    c->cr0 &= ~CR0_NW;
    cpu_reset(c, RESET_INIT);
    assert_int_equal(c->rip, 0xfff0);
    assert_int_equal(c->seg[SEG_CS].base, 0xffff0000);
    assert_int_equal(c->seg[SEG_CS].sel, 0xf000);
    assert_int_equal(c->gpr[RDX], 0x806f1);
    assert_int_equal(c->cr0, CR0_CD | CR0_ET);
    assert_int_equal(c->mode, 0);
    assert_int_equal(c->xcr0, 7); /* INIT leaves MSRs and XCR0 */
    assert_int_equal(c->lstar, 0x1000);
    cpu_reset(c, RESET_POWER_ON);
    assert_int_equal(c->cr0, 0x60000010);
    assert_int_equal(c->xcr0, 1);
    assert_int_equal(c->lstar, 0);
    assert_int_equal(c->fpu.mxcsr, 0x1f80);
    assert_int_equal(c->activity, CPU_RUNNING);
    c->id = 1;
    cpu_reset(c, RESET_POWER_ON);
    assert_int_equal(c->activity, CPU_WAIT_SIPI);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_load_seg_faults_by_table),
        cmocka_unit_test(test_load_seg_takes_what_is_allowed),
        cmocka_unit_test(test_accessed_bit_is_written_only_when_clear),
        cmocka_unit_test(test_unreal_mode_keeps_the_limit),
        cmocka_unit_test(test_linear_limits_and_types),
        cmocka_unit_test(test_linear_beyond_4_gb_by_vendor),
        cmocka_unit_test(test_linear_long_mode_is_canonical),
        cmocka_unit_test(test_push_wraps_and_faults),
        cmocka_unit_test(test_lldt_ltr),
        cmocka_unit_test(test_lar_lsl_verify),
        cmocka_unit_test(test_io_permissions),
        cmocka_unit_test(test_reset_state),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
