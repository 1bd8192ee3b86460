/* SPDX-License-Identifier: Apache-2.0 */
/* Exceptions and interrupts through gates and the vector table: frames, faults, double and triple.
 */
#include "cpu/fake_cpu.h"

#define HANDLER 0x4444u

static void exception(struct cpu *c, unsigned vector, bool has_err, uint32_t err, uint64_t addr)
{
    c->exc = (struct cpu_exc){
        .valid = true, .vector = (uint8_t)vector, .has_err = has_err, .err = err, .addr = addr
    };
}

static void test_frame_same_ring_and_flags(void **state)
{
    struct cpu *c = fake_make(PM0);
    uint64_t flags = 2 | RFLAGS_IF | RFLAGS_TF | RFLAGS_NT | RFLAGS_AC;

    (void)state;
    c->rflags = flags;
    idt_set(VEC_GP, SYS_INT_GATE, 0, S_CODE0, HANDLER);
    exception(c, VEC_GP, true, 0x58, 0);
    assert_int_equal(cpu_deliver(c), STEP_NEXT);
    assert_int_equal(c->rip, HANDLER);
    assert_int_equal(c->rflags, 2 | RFLAGS_AC);
    CHECK_STACK(STACK0 - 16, 4, 0x58, 0x1234, S_CODE0, flags | RFLAGS_RF);
    assert_false(c->delivering.valid);
    assert_false(c->exc.valid);
    /* A trap gate leaves IF. */
    c = fake_make(PM0);
    idt_set(VEC_UD, SYS_TRAP_GATE, 0, S_CODE0, HANDLER);
    exception(c, VEC_UD, false, 0, 0);
    assert_int_equal(cpu_deliver(c), STEP_NEXT);
    assert_int_equal(c->rflags, 2 | RFLAGS_IF);
    CHECK_STACK(STACK0 - 12, 4, 0x1234, S_CODE0, 2 | RFLAGS_IF | RFLAGS_RF);
    /* 16-bit gate */
    c = fake_make(PM0);
    idt_set(VEC_GP, SYS_INT_GATE16, 0, S_CODE16, 0xff004444);
    exception(c, VEC_GP, true, 0x58, 0);
    assert_int_equal(cpu_deliver(c), STEP_NEXT);
    assert_int_equal(c->rip, 0x4444);
    CHECK_STACK(STACK0 - 8, 2, 0x58, 0x1234, S_CODE0, 2 | RFLAGS_IF);
}

static void test_frame_inner_ring(void **state)
{
    struct cpu *c = fake_make(PM3);

    (void)state;
    idt_set(VEC_PF, SYS_INT_GATE, 0, S_CODE0, HANDLER);
    exception(c, VEC_PF, true, 6, 0xdead0000);
    assert_int_equal(cpu_deliver(c), STEP_NEXT);
    assert_int_equal(c->cr2, 0xdead0000);
    assert_int_equal(c->cpl, 0);
    assert_int_equal(c->gpr[RSP], TSS_SP0 - 24);
    assert_int_equal(c->seg[SEG_SS].sel, S_DATA0);
    CHECK_STACK(TSS_SP0 - 24, 4, 6, 0x1234, S_CODE3 | 3, 2 | RFLAGS_IF | RFLAGS_RF, STACK3,
                S_DATA3 | 3);
    /* A conforming handler stays in ring 3. */
    c = fake_make(PM3);
    idt_set(VEC_UD, SYS_INT_GATE, 0, S_CONF0, HANDLER);
    exception(c, VEC_UD, false, 0, 0);
    assert_int_equal(cpu_deliver(c), STEP_NEXT);
    assert_int_equal(c->cpl, 3);
    assert_int_equal(c->gpr[RSP], STACK3 - 12);
}

static void test_frame_from_vm86(void **state)
{
    struct cpu *c = fake_make(VM86);
    uint64_t flags = 2 | RFLAGS_IF | RFLAGS_VM;

    (void)state;
    idt_set(0x20, SYS_INT_GATE, 0, S_CODE0, HANDLER);
    assert_int_equal(event_deliver(c, &(struct event){ .vector = 0x20, .kind = EVENT_EXT_INT }),
                     STEP_NEXT);
    CHECK_STACK(TSS_SP0 - 36, 4, 0x1234, 0x8200, flags, 0xfff0, 0x8300, 0x8100, 0x8400, 0x8500,
                0x8600);
    assert_int_equal(c->cpl, 0);
    assert_int_equal(c->mode & MODE_VM86, 0);
    assert_int_equal(c->seg[SEG_DS].sel, 0);
    assert_true(c->seg[SEG_GS].attr & SEG_UNUSABLE);
    c = fake_make(VM86);
    idt_set(0x20, SYS_INT_GATE, 3, S_CODE1, HANDLER);
    c->rflags |= RFLAGS_IOPL;
    check_fault(c, cpu_int(c, 0x20, EVENT_SOFT_INT), VEC_GP, S_CODE1, "v8086 to ring 1");
}

static void test_frame_long_mode(void **state)
{
    struct cpu *c = fake_make(LONG0);

    (void)state;
    c->gpr[RSP] = STACK0 + 5; /* aligned before pushing */
    idt_set(VEC_GP, SYS_INT_GATE, 0, S_LONG0, 0xffff800000004444);
    exception(c, VEC_GP, true, 0x58, 0);
    assert_int_equal(cpu_deliver(c), STEP_NEXT);
    assert_true(c->rip == 0xffff800000004444);
    assert_int_equal(c->gpr[RSP], STACK0 - 48);
    assert_int_equal(c->seg[SEG_SS].sel, S_DATA0);
    CHECK_STACK(STACK0 - 48, 8, 0x58, 0x1234, S_LONG0, 2 | RFLAGS_IF | RFLAGS_RF, STACK0 + 5,
                S_DATA0);
    /* From compatibility mode, ring 3 */
    c = fake_make(COMPAT3);
    idt_set(0x80, SYS_TRAP_GATE, 3, S_LONG0, HANDLER);
    assert_int_equal(cpu_int(c, 0x80, EVENT_SOFT_INT), STEP_NEXT);
    assert_int_equal(c->seg[SEG_SS].sel, 0);
    assert_true(in_long64(c));
    CHECK_STACK(TSS_SP0 - 40, 8, 0x1236, S_CODE3 | 3, 2 | RFLAGS_IF, STACK3, S_DATA3 | 3);
    /* IST, without a change of rings */
    c = fake_make(LONG0);
    gate_set(idt_at(VEC_NMI), SYS_INT_GATE, 0, S_LONG0, HANDLER, 1);
    assert_int_equal(event_deliver(c, &(struct event){ .vector = VEC_NMI, .kind = EVENT_NMI }),
                     STEP_NEXT);
    assert_int_equal(c->gpr[RSP], (TSS_IST & ~15u) - 40);
    assert_int_equal(c->seg[SEG_SS].sel, S_DATA0);
}

/* INT n faults by gate; external interrupts carry EXT. */
static void test_gate_faults_by_table(void **state)
{
    static const struct {
        const char *name;
        enum fake_mode mode;
        unsigned vector, type, dpl;
        uint16_t sel;
        uint64_t off;
        unsigned want;
        uint32_t err;
    } cases[] = {
        { "beyond the IDT", PM0, 0x80, 0, 0, 0, 0, VEC_GP, 0x402 },
        { "no gate", PM0, 0x30, SYS_CALL_GATE, 3, S_CODE0, 0, VEC_GP, 0x182 },
        { "DPL < CPL", PM3, 0x30, SYS_INT_GATE, 0, S_CODE0, 0, VEC_GP, 0x182 },
        { "null CS", PM0, 0x30, SYS_INT_GATE, 3, 0, 0, VEC_GP, 0 },
        { "CS beyond", PM0, 0x30, SYS_INT_GATE, 3, GDT_END, 0, VEC_GP, GDT_END },
        { "data", PM0, 0x30, SYS_INT_GATE, 3, S_DATA0, 0, VEC_GP, S_DATA0 },
        { "outer ring", PM0, 0x30, SYS_INT_GATE, 3, S_CODE3, 0, VEC_GP, S_CODE3 },
        { "absent code", PM0, 0x30, SYS_INT_GATE, 3, S_CODE_NP, 0, VEC_NP, S_CODE_NP },
        { "offset", PM0, 0x30, SYS_INT_GATE, 3, S_SMALL_CODE, 0x1000, VEC_GP, 0 },
        { "busy task", PM0, 0x30, SYS_TASK_GATE, 3, S_TSS, 0, VEC_GP, S_TSS },
        { "task by the LDT", PM0, 0x30, SYS_TASK_GATE, 3, 0xc, 0, VEC_GP, 0xc },
        { "absent task", PM0, 0x30, SYS_TASK_GATE, 3, S_TSS_NP, 0, VEC_NP, S_TSS_NP },
        { "task gate in IA-32e mode", LONG0, 0x30, SYS_TASK_GATE, 3, S_TSS_B, 0, VEC_GP, 0x182 },
        { "16-bit in IA-32e mode", LONG0, 0x30, SYS_INT_GATE16, 3, S_LONG0, 0, VEC_GP, 0x182 },
        { "compatibility code", LONG0, 0x30, SYS_INT_GATE, 3, S_CODE0, 0, VEC_GP, S_CODE0 },
        { "not canonical", LONG0, 0x30, SYS_INT_GATE, 3, S_LONG0, 1ull << 47, VEC_GP, 0 },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct cpu *c = fake_make(cases[i].mode);
        uint64_t sp = c->gpr[RSP];

        if (cases[i].vector == 0x80)
            c->idtr.limit = 0x3ff;
        else
            idt_set(cases[i].vector, cases[i].type, cases[i].dpl, cases[i].sel, cases[i].off);
        check_fault(c, cpu_int(c, (uint8_t)cases[i].vector, EVENT_SOFT_INT), cases[i].want,
                    cases[i].err, cases[i].name);
        assert_int_equal(c->rip, 0x1234);
        assert_int_equal(c->gpr[RSP], sp);
        if (cases[i].dpl < c->cpl)
            continue;
        /* INT1 counts as external. */
        check_fault(c, cpu_int(c, (uint8_t)cases[i].vector, EVENT_PRIV_SOFT_EXC), cases[i].want,
                    cases[i].err | ERR_EXT, cases[i].name);
    }
}

static void test_absent_gate(void **state)
{
    struct cpu *c = fake_make(PM0);

    (void)state;
    idt_set(0x30, SYS_INT_GATE, 3, S_CODE0, HANDLER);
    put(idt_at(0x30) + 5, SYS_INT_GATE, 1);
    check_fault(c, cpu_int(c, 0x30, EVENT_SOFT_INT), VEC_NP, 0x182, "absent");
    assert_int_equal(cpu_deliver(c), STEP_EXIT); /* nothing in the IDT at all */
    assert_int_equal(c->activity, CPU_SHUTDOWN);
}

static void test_stack_faults(void **state)
{
    struct cpu *c = fake_make(PM0);

    (void)state;
    idt_set(0x30, SYS_INT_GATE, 3, S_CODE0, HANDLER);
    c->seg[SEG_SS] = seg_of(S_SMALL_DATA);
    c->gpr[RSP] = 8;
    check_fault(c, cpu_int(c, 0x30, EVENT_SOFT_INT), VEC_SS, 0, "no room");
    c = fake_make(PM3);
    idt_set(0x30, SYS_INT_GATE, 3, S_CODE0, HANDLER);
    put(TSS_AT + 8, S_SMALL_DATA, 2);
    check_fault(c, cpu_int(c, 0x30, EVENT_SOFT_INT), VEC_SS, S_SMALL_DATA, "no room inside");
    c->tr.limit = 8;
    check_fault(c, cpu_int(c, 0x30, EVENT_SOFT_INT), VEC_TS, S_TSS, "TSS");
    c = fake_make(LONG3);
    idt_set(0x30, SYS_INT_GATE, 3, S_LONG0, HANDLER);
    put(TSS_AT + 4, 0x800000001000, 8);
    check_fault(c, cpu_int(c, 0x30, EVENT_SOFT_INT), VEC_SS, 0, "not canonical");
    assert_int_equal(c->cpl, 3);
}

/* What the second exception becomes, by the first: SDM 3, "Conditions for Generating a Double
 * Fault".
 */
static void test_double_fault_classes(void **state)
{
    static const struct {
        unsigned first, second; /* the second is raised by the first one's gate */
        unsigned want;
    } cases[] = {
        { VEC_UD, VEC_GP, VEC_GP }, { VEC_UD, VEC_PF, VEC_PF }, { VEC_DE, VEC_GP, VEC_DF },
        { VEC_GP, VEC_NP, VEC_DF }, { VEC_GP, VEC_PF, VEC_PF }, { VEC_PF, VEC_GP, VEC_DF },
        { VEC_PF, VEC_PF, VEC_DF }, { VEC_AC, VEC_NP, VEC_NP }, { VEC_NMI, VEC_GP, VEC_GP },
        { VEC_DB, VEC_PF, VEC_PF }, { VEC_TS, VEC_SS, VEC_DF },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct cpu *c = fake_make(PM3);
        unsigned second = cases[i].second;

        for (unsigned v = 0; v < 32; v++)
            idt_set(v, SYS_INT_GATE, 0, S_CODE0, HANDLER + v);
        /* The first gate needs a stack in ring 1, which is bad; the others one in ring 0. */
        idt_set(cases[i].first, SYS_INT_GATE, 0, second == VEC_NP ? S_CODE_NP : S_CODE1, 0);
        if (second == VEC_GP)
            idt_set(cases[i].first, SYS_INT_GATE, 0, S_DATA0, 0);
        if (second == VEC_SS) {
            gdt_set(S_DATA1, 0, 0xfffff, (A_DATA | A_DPL(1) | A_FLAT) & ~SEG_P);
        } else if (second == VEC_PF) {
            put(TSS_AT + 12, 0x60000, 4);
            fake.absent = 0x5f000;
            if (cases[i].first == VEC_PF)
                idt_set(VEC_PF, SYS_INT_GATE, 0, S_CODE1, 0);
        }
        exception(c, cases[i].first, false, 0, 0x777);
        assert_int_equal(cpu_deliver(c), STEP_NEXT);
        if (c->rip != HANDLER + cases[i].want)
            fail_msg("%u then %u went to vector %d", cases[i].first, second, (int)c->rip - HANDLER);
        if (second == VEC_PF)
            assert_int_equal(c->cr2 & PAGE_MASK, 0x5f000);
        if (cases[i].want == VEC_DF)
            assert_int_equal(peek(c->gpr[RSP], 4), 0);
        else
            assert_int_equal(peek(c->gpr[RSP], 4) & ERR_EXT, second == VEC_PF ? 0 : ERR_EXT);
    }
}

static void test_triple_fault_shuts_down(void **state)
{
    struct cpu *c = fake_make(PM0);

    (void)state;
    exception(c, VEC_UD, false, 0, 0);
    assert_int_equal(cpu_deliver(c), STEP_EXIT);
    assert_int_equal(c->activity, CPU_SHUTDOWN);
    /* INT n is benign: its #GP is no double fault. */
    c = fake_make(PM0);
    idt_set(VEC_GP, SYS_INT_GATE, 0, S_CODE0, HANDLER);
    check_fault(c, cpu_int(c, VEC_DF, EVENT_SOFT_INT), VEC_GP, VEC_DF * 8 | ERR_IDT, "INT 8");
    assert_int_equal(cpu_deliver(c), STEP_NEXT);
    assert_int_equal(c->rip, HANDLER);
    /* So is an interrupt, whatever its vector. */
    c = fake_make(PM0);
    idt_set(VEC_GP, SYS_INT_GATE, 0, S_CODE0, HANDLER);
    assert_int_equal(event_deliver(c, &(struct event){ .vector = VEC_DF, .kind = EVENT_EXT_INT }),
                     STEP_NEXT);
    assert_int_equal(c->rip, HANDLER);
    assert_int_equal(peek(c->gpr[RSP], 4), VEC_DF * 8 | ERR_IDT | ERR_EXT);
}

static void test_debug_exceptions(void **state)
{
    struct cpu *c = fake_make(PM0);

    (void)state;
    idt_set(VEC_DB, SYS_INT_GATE, 0, S_CODE0, HANDLER);
    c->dr6 |= DR6_BS | 8;
    c->dr7 |= DR7_GD;
    (void)!raise_db(c, 2); /* an instruction breakpoint: RF is the handler's business */
    assert_int_equal(cpu_deliver(c), STEP_NEXT);
    assert_int_equal(c->dr6, DR6_FIXED1 | DR6_BS | 2);
    assert_int_equal(c->dr7 & DR7_GD, 0);
    assert_int_equal(fake.nr_debug_changed, 1);
    CHECK_STACK(STACK0 - 12, 4, 0x1234, S_CODE0, 2 | RFLAGS_IF);
    c = fake_make(PM0);
    idt_set(VEC_DB, SYS_INT_GATE, 0, S_CODE0, HANDLER);
    (void)!raise_db(c, DR6_BD);
    assert_int_equal(cpu_deliver(c), STEP_NEXT);
    CHECK_STACK(STACK0 - 12, 4, 0x1234, S_CODE0, 2 | RFLAGS_IF | RFLAGS_RF);
    c = fake_make(PM0);
    idt_set(VEC_DB, SYS_INT_GATE, 0, S_CODE0, HANDLER);
    assert_int_equal(event_debug_trap(c, DR6_BS), STEP_NEXT);
    assert_int_equal(c->dr6, DR6_FIXED1 | DR6_BS);
    CHECK_STACK(STACK0 - 12, 4, 0x1234, S_CODE0, 2 | RFLAGS_IF);
    /* INT3 needs the gate's DPL, INT1 does not. */
    c = fake_make(PM3);
    idt_set(VEC_BP, SYS_INT_GATE, 0, S_CODE0, HANDLER);
    check_fault(c, cpu_int(c, VEC_BP, EVENT_SOFT_EXC), VEC_GP, VEC_BP * 8 | ERR_IDT, "INT3");
    idt_set(VEC_DB, SYS_INT_GATE, 0, S_CODE0, HANDLER);
    assert_int_equal(cpu_int(c, VEC_DB, EVENT_PRIV_SOFT_EXC), STEP_NEXT);
    CHECK_STACK(TSS_SP0 - 20, 4, 0x1236, S_CODE3 | 3, 2 | RFLAGS_IF);
}

static void test_real_mode(void **state)
{
    struct cpu *c = fake_make(REAL);

    (void)state;
    put(0x10 * 4, 0x5678, 2);
    put(0x10 * 4 + 2, 0x0300, 2);
    c->rflags |= RFLAGS_TF | RFLAGS_AC | RFLAGS_CF;
    assert_int_equal(cpu_int(c, 0x10, EVENT_SOFT_INT), STEP_NEXT);
    assert_int_equal(c->rip, 0x5678);
    assert_int_equal(c->seg[SEG_CS].base, 0x3000);
    assert_int_equal(c->rflags, 2 | RFLAGS_CF);
    CHECK_STACK(0x2000 + 0xffea, 2, 0x1236, 0x100, 2 | RFLAGS_IF | RFLAGS_TF | RFLAGS_CF);
    /* No error code */
    c = fake_make(REAL);
    exception(c, VEC_GP, true, 0, 0);
    assert_int_equal(cpu_deliver(c), STEP_NEXT);
    assert_int_equal(c->gpr[RSP], 0xffea);
    /* Vectors beyond the limit: #GP, here beyond it too: shutdown */
    c = fake_make(REAL);
    c->idtr.limit = 0x10 * 4 + 2;
    check_fault(c, cpu_int(c, 0x10, EVENT_SOFT_INT), VEC_GP, 0x82, "beyond");
    c->idtr.limit = 3;
    assert_int_equal(cpu_deliver(c), STEP_EXIT);
    c = fake_make(REAL);
    c->gpr[RSP] = 3;
    check_fault(c, cpu_int(c, 0x10, EVENT_SOFT_INT), VEC_SS, 0, "stack wraps in a word");
}

static void test_vm86_software_interrupts(void **state)
{
    static const struct {
        const char *name;
        unsigned iopl;
        bool vme, bit; /* of the redirection map */
        enum { TO_IDT, TO_IVT, FAULTS } want;
        uint64_t image; /* pushed flags, low 16 bits */
        uint64_t after;
    } cases[] = {
        { "IOPL 3", 3, false, false, TO_IDT, 0x3202, 0 },
        { "IOPL 0", 0, false, false, FAULTS, 0, 0 },
        { "VME, bit set, IOPL 0", 0, true, true, FAULTS, 0, 0 },
        { "VME, bit set, IOPL 3", 3, true, true, TO_IDT, 0x3202, 0 },
        { "VME, bit clear, IOPL 3", 3, true, false, TO_IVT, 0x3202,
          2 | RFLAGS_VM | RFLAGS_IOPL | RFLAGS_VIF },
        { "VME, bit clear, IOPL 0", 0, true, false, TO_IVT, 0x3202, 2 | RFLAGS_VM | RFLAGS_IF },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct cpu *c = fake_make(VM86);
        enum step st;

        c->rflags |= RFLAGS_VIF | cases[i].iopl << RFLAGS_IOPL_SHIFT;
        c->cr4 = cases[i].vme ? CR4_VME : 0;
        put(0x21 * 4, 0x0500, 2);
        put(0x21 * 4 + 2, 0x8001, 2);
        idt_set(0x21, SYS_INT_GATE, 3, S_CODE0, HANDLER);
        put(TSS_AT + 0x68 + 0x21 / 8, cases[i].bit ? 2 : 0, 1);
        st = cpu_int(c, 0x21, EVENT_SOFT_INT);
        if (cases[i].want == FAULTS) {
            check_fault(c, st, VEC_GP, 0, cases[i].name);
            continue;
        }
        assert_int_equal(st, STEP_NEXT);
        if (cases[i].want == TO_IDT) {
            assert_int_equal(c->rip, HANDLER);
            assert_int_equal(c->cpl, 0);
            continue;
        }
        assert_int_equal(c->rip, 0x500);
        assert_int_equal(c->seg[SEG_CS].base, 0x80010);
        assert_int_equal(c->rflags, cases[i].after);
        CHECK_STACK(c->seg[SEG_SS].base + 0xffea, 2, 0x1236, 0x8200, cases[i].image);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frame_same_ring_and_flags),
        cmocka_unit_test(test_frame_inner_ring),
        cmocka_unit_test(test_frame_from_vm86),
        cmocka_unit_test(test_frame_long_mode),
        cmocka_unit_test(test_gate_faults_by_table),
        cmocka_unit_test(test_absent_gate),
        cmocka_unit_test(test_stack_faults),
        cmocka_unit_test(test_double_fault_classes),
        cmocka_unit_test(test_triple_fault_shuts_down),
        cmocka_unit_test(test_debug_exceptions),
        cmocka_unit_test(test_real_mode),
        cmocka_unit_test(test_vm86_software_interrupts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
