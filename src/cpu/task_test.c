/* SPDX-License-Identifier: Apache-2.0 */
/* Hardware task switches: what is saved and loaded, busy bits and links, and whose fault it is. */
#include "cpu/fake_cpu.h"

#define NEW_CR3  0x7000u
#define NEW_EIP  0x3333u
#define HANDLER  0x4444u
#define NEW_SP   0x40000u
#define TSS_LDT  96u
#define TSS_ES   72u
#define TSS_CS   76u
#define TSS_SS   80u
#define TSS_DS   84u
#define TSS_TRAP 100u

/* Task B: 32-bit, ring 0. Task C: 16-bit. */
static struct cpu *make(enum fake_mode mode)
{
    struct cpu *c = fake_make(mode);

    put(TSS_B_AT + 28, NEW_CR3, 4);
    put(TSS_B_AT + 32, NEW_EIP, 4);
    put(TSS_B_AT + 36, 2 | RFLAGS_CF, 4);
    for (unsigned i = 0; i < 8; i++) {
        put(TSS_B_AT + 40 + 4 * i, i == RSP ? NEW_SP : 0x10101010 * i, 4);
        put(TSS_C_AT + 18 + 2 * i, i == RSP ? 0x9000 : 0x1010 * i, 2);
    }
    for (unsigned i = 0; i < NR_SEGS; i++)
        put(TSS_B_AT + TSS_ES + 4 * i, i == SEG_CS ? S_CODE0 : S_DATA0, 4);
    for (unsigned i = 0; i < 4; i++)
        put(TSS_C_AT + 34 + 2 * i, i == SEG_CS ? S_CODE16 : S_DATA16, 2);
    put(TSS_C_AT + 14, NEW_EIP, 2);
    put(TSS_C_AT + 16, 2 | RFLAGS_ZF, 2);
    put(TSS_B_AT + TSS_LDT, S_LDT, 2);
    for (unsigned i = 0; i < NR_GPRS; i++)
        if (i != RSP)
            c->gpr[i] = 0xabc00000 + i;
    return c;
}

static void test_jmp_saves_and_loads(void **state)
{
    struct cpu *c = make(PM0);

    (void)state;
    c->dr7 |= 0x3ff;
    assert_int_equal(cpu_far_jmp(c, S_TSS_B, 0, 4), STEP_NEXT);
    assert_int_equal(gdt_type(S_TSS), SYS_TSS_AVAIL);
    assert_int_equal(gdt_type(S_TSS_B), SYS_TSS_BUSY);
    assert_int_equal(peek(TSS_AT + 32, 4), 0x1236);
    assert_int_equal(peek(TSS_AT + 36, 4), 2 | RFLAGS_IF);
    assert_int_equal(peek(TSS_AT + 40 + 4 * RBX, 4), 0xabc00000 + RBX);
    assert_int_equal(peek(TSS_AT + 56, 4), STACK0);
    assert_int_equal(peek(TSS_AT + TSS_CS, 4), S_CODE0);
    assert_int_equal(peek(TSS_AT + 92, 4), S_DATA0);
    assert_int_equal(peek(TSS_B_AT, 2), 0); /* no link */
    assert_int_equal(c->rip, NEW_EIP);
    assert_int_equal(c->rflags, 2 | RFLAGS_CF);
    assert_int_equal(c->gpr[RBX], 0x10101010 * RBX);
    assert_int_equal(c->gpr[RSP], NEW_SP);
    assert_int_equal(c->tr.sel, S_TSS_B);
    assert_int_equal(c->tr.attr, SEG_P | SYS_TSS_BUSY);
    assert_int_equal(c->ldtr.base, LDT_AT);
    assert_int_equal(fake.new_cr3, NEW_CR3);
    assert_true(c->cr0 & CR0_TS);
    assert_int_equal(c->dr7 & 0x3ff, 0x2aa); /* L0..L3 and LE go */
    assert_int_equal(fake.nr_debug_changed, 1);
    assert_int_equal(c->cpl, 0);
}

static void test_call_and_iret_nest(void **state)
{
    struct cpu *c = make(PM0);

    (void)state;
    c->rflags |= RFLAGS_OF;
    assert_int_equal(cpu_far_call(c, S_TSS_B, 0, 4), STEP_NEXT);
    assert_int_equal(gdt_type(S_TSS), SYS_TSS_BUSY);
    assert_int_equal(gdt_type(S_TSS_B), SYS_TSS_BUSY);
    assert_int_equal(peek(TSS_B_AT, 2), S_TSS);
    assert_int_equal(c->rflags, 2 | RFLAGS_CF | RFLAGS_NT);
    c->next_rip = NEW_EIP + 1;
    assert_int_equal(cpu_iret(c, 4), STEP_NEXT);
    assert_int_equal(c->tr.sel, S_TSS);
    assert_int_equal(gdt_type(S_TSS), SYS_TSS_BUSY);
    assert_int_equal(gdt_type(S_TSS_B), SYS_TSS_AVAIL);
    assert_int_equal(peek(TSS_B_AT + 36, 4), 2 | RFLAGS_CF); /* NT is not saved */
    assert_int_equal(peek(TSS_B_AT + 32, 4), NEW_EIP + 1);
    assert_int_equal(c->rip, 0x1236);
    assert_int_equal(c->rflags, 2 | RFLAGS_IF | RFLAGS_OF);
    assert_int_equal(c->gpr[RDI], 0xabc00000 + RDI);
}

static void test_task_16_bit(void **state)
{
    struct cpu *c = make(PM0);

    (void)state;
    assert_int_equal(cpu_far_jmp(c, S_TSS_C, 0, 4), STEP_NEXT);
    assert_int_equal(c->rip, NEW_EIP);
    assert_int_equal(c->rflags, 2 | RFLAGS_ZF);
    assert_int_equal((uint16_t)c->gpr[RBX], 0x1010 * RBX);
    assert_int_equal(c->seg[SEG_CS].sel, S_CODE16);
    assert_int_equal(c->seg[SEG_FS].sel, 0);
    assert_int_equal(c->ldtr.sel, 0);
    assert_int_equal(fake.new_cr3, 0);
    assert_int_equal(gdt_type(S_TSS_C), SYS_TSS16_BUSY);
    c->gpr[RDX] = 0x12345678;
    assert_int_equal(cpu_far_jmp(c, S_TSS_B, 0, 4), STEP_NEXT);
    assert_int_equal(peek(TSS_C_AT + 18 + 2 * RDX, 2), 0x5678);
    assert_int_equal(gdt_type(S_TSS_C), SYS_TSS16_AVAIL);
}

static void test_task_gates(void **state)
{
    struct cpu *c = make(PM3);

    (void)state;
    gate_set(GDT_AT + S_GATE, SYS_TASK_GATE, 3, S_TSS_B, 0, 0);
    assert_int_equal(cpu_far_jmp(c, S_GATE | 3, 0, 4), STEP_NEXT);
    assert_int_equal(c->tr.sel, S_TSS_B);
    assert_int_equal(c->cpl, 0);
    /* An exception: the error code goes to the new task's stack, the old EIP is the fault's. */
    c = make(PM3);
    idt_set(VEC_GP, SYS_TASK_GATE, 0, S_TSS_B, 0);
    (void)!raise_gp(c, 0x58);
    assert_int_equal(cpu_deliver(c), STEP_NEXT);
    assert_int_equal(c->rip, NEW_EIP);
    assert_int_equal(c->gpr[RSP], NEW_SP - 4);
    assert_int_equal(peek(NEW_SP - 4, 4), 0x58);
    assert_int_equal(peek(TSS_AT + 32, 4), 0x1234);
    assert_int_equal(peek(TSS_AT + 36, 4), 2 | RFLAGS_IF | RFLAGS_RF);
    assert_true(c->rflags & RFLAGS_NT);
    c = make(PM3);
    idt_set(VEC_GP, SYS_TASK_GATE, 0, S_TSS_C, 0);
    (void)!raise_gp(c, 0x58);
    assert_int_equal(cpu_deliver(c), STEP_NEXT);
    assert_int_equal(c->gpr[RSP] & 0xffff, 0x8ffe);
    assert_int_equal(peek(0x8ffe, 2), 0x58);
}

static void test_to_vm86(void **state)
{
    struct cpu *c = make(PM0);

    (void)state;
    put(TSS_B_AT + 36, 2 | RFLAGS_VM, 4);
    put(TSS_B_AT + TSS_CS, 0x8123, 4);
    assert_int_equal(cpu_far_jmp(c, S_TSS_B, 0, 4), STEP_NEXT);
    assert_int_equal(c->mode & (MODE_VM86 | MODE_USER), MODE_VM86 | MODE_USER);
    assert_int_equal(c->seg[SEG_CS].base, 0x81230);
    assert_int_equal(c->seg[SEG_CS].attr, ATTR_VM86);
    assert_int_equal(c->cpl, 3);
}

static void test_trap_bit_is_due_at_the_next_boundary(void **state)
{
    struct cpu *c = make(PM0);

    (void)state;
    put(TSS_B_AT + TSS_TRAP, 1, 2);
    assert_int_equal(cpu_far_jmp(c, S_TSS_B, 0, 4), STEP_NEXT);
    assert_int_equal(c->pending_dbg, DR6_BT);
}

/* Before the commit point the old task gets the fault and nothing has changed. */
static void test_faults_of_the_old_task(void **state)
{
    struct cpu *c = make(PM0);

    (void)state;
    gdt_set(S_TSS_B, TSS_B_AT, 0x66, SEG_P | SYS_TSS_AVAIL);
    check_fault(c, cpu_far_jmp(c, S_TSS_B, 0, 4), VEC_TS, S_TSS_B, "new TSS too small");
    gdt_set(S_TSS_C, TSS_C_AT, 0x2a, SEG_P | SYS_TSS16_AVAIL);
    check_fault(c, cpu_far_jmp(c, S_TSS_C, 0, 4), VEC_TS, S_TSS_C, "new 16-bit TSS too small");
    c = make(PM0);
    c->tr.limit = 0x60;
    check_fault(c, cpu_far_jmp(c, S_TSS_B, 0, 4), VEC_TS, S_TSS, "old TSS too small");
    c = make(PM0);
    fake.absent = TSS_B_AT;
    check_fault(c, cpu_far_jmp(c, S_TSS_B, 0, 4), VEC_PF, 0, "new TSS not there");
    assert_int_equal(gdt_type(S_TSS), SYS_TSS_BUSY);
    fake.absent = TSS_AT;
    check_fault(c, cpu_far_jmp(c, S_TSS_B, 0, 4), VEC_PF, PF_W, "old TSS not there");
    assert_int_equal(gdt_type(S_TSS_B), SYS_TSS_AVAIL);
    assert_int_equal(c->tr.sel, S_TSS);
    assert_int_equal(c->rip, 0x1234);
    c = make(PM0);
    c->rflags |= RFLAGS_NT;
    put(TSS_AT, S_TSS_B, 2);
    check_fault(c, cpu_iret(c, 4), VEC_TS, S_TSS_B, "link to a task that is not busy");
    put(TSS_AT, 0xc, 2);
    check_fault(c, cpu_iret(c, 4), VEC_TS, 0xc, "link to the LDT");
    put(TSS_AT, GDT_END, 2);
    check_fault(c, cpu_iret(c, 4), VEC_TS, GDT_END, "link beyond");
}

/* After it, the new task gets it, through a gate that needs no stack of its own: another task. */
static void test_faults_of_the_new_task_by_table(void **state)
{
    static const struct {
        const char *name;
        unsigned at;
        uint16_t sel;
        unsigned vector;
        uint32_t err;
    } cases[] = {
        { "LDT by the LDT", TSS_LDT, 0xc, VEC_TS, 0xc },
        { "LDT absent", TSS_LDT, S_LDT_NP, VEC_TS, S_LDT_NP },
        { "LDT of data", TSS_LDT, S_DATA0, VEC_TS, S_DATA0 },
        { "null CS", TSS_CS, 0, VEC_TS, 0 },
        { "CS beyond", TSS_CS, GDT_END, VEC_TS, GDT_END },
        { "CS of data", TSS_CS, S_DATA0, VEC_TS, S_DATA0 },
        { "CS, RPL != DPL", TSS_CS, S_CODE0 | 3, VEC_TS, S_CODE0 },
        { "CS absent", TSS_CS, S_CODE_NP, VEC_NP, S_CODE_NP },
        { "null SS", TSS_SS, 0, VEC_TS, 0 },
        { "SS read-only", TSS_SS, S_RO, VEC_TS, S_RO },
        { "SS of wrong ring", TSS_SS, S_DATA3 | 3, VEC_TS, S_DATA3 },
        { "SS absent", TSS_SS, S_DATA_NP, VEC_SS, S_DATA_NP },
        { "DS beyond", TSS_DS, GDT_END, VEC_TS, GDT_END },
        { "DS execute-only", TSS_DS, S_XO, VEC_TS, S_XO },
        { "DS absent", TSS_DS, S_DATA_NP, VEC_NP, S_DATA_NP },
        { "EIP beyond CS", 32, 0, VEC_GP, 0 },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct cpu *c = make(PM0);

        put(TSS_B_AT + cases[i].at, cases[i].sel, 2);
        if (cases[i].at == 32) {
            put(TSS_B_AT + TSS_CS, S_SMALL_CODE, 2);
            put(TSS_B_AT + 32, 0x1000, 4);
        }
        idt_set(cases[i].vector, SYS_TASK_GATE, 0, S_TSS_C, 0);
        if (cpu_far_jmp(c, S_TSS_B, 0, 4) != STEP_NEXT || c->tr.sel != S_TSS_C)
            fail_msg("%s: no handler", cases[i].name);
        /* The handler's task was called from task B. */
        assert_int_equal(peek(TSS_C_AT, 2), S_TSS_B);
        if (peek(0x8ffe, 2) != cases[i].err)
            fail_msg("%s: error code %#llx", cases[i].name, (unsigned long long)peek(0x8ffe, 2));
        assert_int_equal(peek(TSS_B_AT + 32, 4), cases[i].at == 32 ? 0x1000 : NEW_EIP);
    }
}

/* An exception whose handler's task is broken: the next one carries EXT, and may escalate. */
static void test_fault_of_the_handlers_task(void **state)
{
    struct cpu *c = make(PM3);

    (void)state;
    idt_set(VEC_UD, SYS_TASK_GATE, 0, S_TSS_B, 0);
    idt_set(VEC_TS, SYS_TASK_GATE, 0, S_TSS_C, 0);
    put(TSS_B_AT + TSS_DS, S_XO, 2);
    (void)!raise_ud(c);
    assert_int_equal(cpu_deliver(c), STEP_NEXT);
    assert_int_equal(c->tr.sel, S_TSS_C);
    assert_int_equal(peek(0x8ffe, 2), S_XO | ERR_EXT);
    c = make(PM3);
    idt_set(VEC_NP, SYS_TASK_GATE, 0, S_TSS_B, 0);
    idt_set(VEC_DF, SYS_TASK_GATE, 0, S_TSS_C, 0);
    put(TSS_B_AT + TSS_DS, S_XO, 2);
    (void)!raise_np(c, 0);
    assert_int_equal(cpu_deliver(c), STEP_NEXT);
    assert_int_equal(c->tr.sel, S_TSS_C);
    assert_int_equal(peek(0x8ffe, 2), 0);
    /* By INT1: delivered in the new task, not returned to the engine. */
    c = make(PM3);
    idt_set(VEC_DB, SYS_TASK_GATE, 0, S_TSS_B, 0);
    idt_set(VEC_TS, SYS_TASK_GATE, 0, S_TSS_C, 0);
    put(TSS_B_AT + TSS_DS, S_XO, 2);
    assert_int_equal(cpu_int(c, VEC_DB, EVENT_PRIV_SOFT_EXC), STEP_NEXT);
    assert_int_equal(c->tr.sel, S_TSS_C);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_jmp_saves_and_loads),
        cmocka_unit_test(test_call_and_iret_nest),
        cmocka_unit_test(test_task_16_bit),
        cmocka_unit_test(test_task_gates),
        cmocka_unit_test(test_to_vm86),
        cmocka_unit_test(test_trap_bit_is_due_at_the_next_boundary),
        cmocka_unit_test(test_faults_of_the_old_task),
        cmocka_unit_test(test_faults_of_the_new_task_by_table),
        cmocka_unit_test(test_fault_of_the_handlers_task),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
