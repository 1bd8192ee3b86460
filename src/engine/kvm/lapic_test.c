/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Local APICs in the kernel: state there and back, what comes while it is on the way, interrupts
 * and their ends. Needs a /dev/kvm with a split interrupt controller.
 */
#include "engine/kvm/testmachine.h"

#define LVT_MASKED   0x10000u
#define LVT_DEADLINE 0x40000u
#define LVT_PERIODIC 0x20000u
#define IDT_AT       0x5000u
#define HANDLER_AT   0x3000u
#define AP_VECTOR    2u /* start-up at 2000h */

static struct kvm_vcpu *kvm_vcpu(struct machine *m)
{
    return container_of(m->v, struct kvm_vcpu, iv.vc);
}

static struct machine *split_machine(void **state)
{
    struct machine *m = machine(state);

    if (!kvm_vcpu(m)->vm->split) {
        print_message("# this /dev/kvm has no split interrupt controller\n");
        skip();
    }
    return m;
}

static bool has(const uint32_t set[8], unsigned vector)
{
    return set[vector / 32] >> (vector % 32) & 1;
}

static void send(struct machine *m, uint8_t vector, bool level)
{
    const struct apic_msg msg = { .vector = vector, .mode = APIC_FIXED, .level = level };

    assert_true(kvm_engine.take_message(m->evm, &msg, UINT32_MAX));
}

/* Software-enabled, as an operating system would have it. */
static struct cpu *enabled(struct machine *m)
{
    struct cpu *c = &m->v->cpu;

    c->apic.svr = 0x1ff;
    for (unsigned i = 0; i < NR_LVTS; i++)
        c->apic.lvt[i] = LVT_MASKED;
    kvm_engine.state_changed(m->v);
    return c;
}

/* ---- state ---- */

static void test_apic_comes_back_as_it_was(void **state)
{
    struct machine *m = split_machine(state);
    struct cpu *c = enabled(m);
    struct apic was;

    c->apic.tpr = 0x20;
    c->apic.ldr = 0x02000000;
    c->apic.isr[2] = 0x10;
    c->apic.irr[1] = 0x20000;
    c->apic.tmr[1] = 0x20000;
    c->apic.lvt[LVT_TIMER] = LVT_PERIODIC | LVT_MASKED | 0x41;
    c->apic.lvt[LVT_LINT0] = 0x700;
    c->apic.lvt[LVT_ERROR] = 0xfe;
    c->apic.timer_div = 0xb;
    was = c->apic;
    assert_int_equal(kvm_import(kvm_vcpu(m)), 0);
    memset(&c->apic, 0, offsetof(struct apic, pir));
    assert_int_equal(kvm_export(kvm_vcpu(m)), 0);
    assert_int_equal(c->apic.base_msr, was.base_msr);
    assert_int_equal(c->apic.id, was.id);
    assert_int_equal(c->apic.tpr, was.tpr);
    assert_int_equal(c->apic.ldr, was.ldr);
    assert_int_equal(c->apic.dfr, was.dfr);
    assert_int_equal(c->apic.svr, was.svr);
    assert_memory_equal(c->apic.isr, was.isr, sizeof(was.isr));
    assert_memory_equal(c->apic.irr, was.irr, sizeof(was.irr));
    assert_memory_equal(c->apic.tmr, was.tmr, sizeof(was.tmr));
    assert_int_equal(c->apic.lvt[LVT_TIMER], was.lvt[LVT_TIMER]);
    assert_int_equal(c->apic.lvt[LVT_LINT0], was.lvt[LVT_LINT0]);
    assert_int_equal(c->apic.lvt[LVT_ERROR], was.lvt[LVT_ERROR]);
    assert_int_equal(c->apic.timer_div, was.timer_div);
}

static void test_tsc_deadline_rests_while_the_vcpu_does(void **state)
{
    struct machine *m = split_machine(state);
    struct cpu *c = enabled(m);
    uint64_t at = host_tsc() + (1ull << 50), kernels;

    c->apic.lvt[LVT_TIMER] = LVT_DEADLINE | 0x41;
    c->apic.tsc_deadline = at;
    assert_int_equal(kvm_import(kvm_vcpu(m)), 0);
    assert_int_equal(kvm_get_msr(kvm_vcpu(m), MSR_TSC_DEADLINE, &kernels), 0);
    assert_true(kernels == at);
    assert_int_equal(kvm_export(kvm_vcpu(m)), 0);
    assert_true(c->apic.tsc_deadline == at);
    assert_int_equal(kvm_get_msr(kvm_vcpu(m), MSR_TSC_DEADLINE, &kernels), 0);
    assert_int_equal(kernels, 0);
}

static void test_activity_comes_back(void **state)
{
    struct machine *m = split_machine(state);
    struct cpu *c = enabled(m);

    c->activity = CPU_WAIT_SIPI;
    assert_int_equal(kvm_import(kvm_vcpu(m)), 0);
    assert_int_equal(kvm_export(kvm_vcpu(m)), 0);
    assert_int_equal(c->activity, CPU_WAIT_SIPI);
    c->activity = CPU_HALTED;
    kvm_engine.state_changed(m->v);
    assert_int_equal(kvm_import(kvm_vcpu(m)), 0);
    assert_int_equal(kvm_export(kvm_vcpu(m)), 0);
    assert_int_equal(c->activity, CPU_HALTED);
}

/* ---- what comes meanwhile ---- */

static void test_message_to_a_standing_vcpu_is_in_what_is_saved(void **state)
{
    struct machine *m = split_machine(state);
    struct cpu *c = enabled(m);

    assert_int_equal(kvm_import(kvm_vcpu(m)), 0);
    assert_int_equal(kvm_export(kvm_vcpu(m)), 0);
    send(m, 0x51, false);
    send(m, 0x71, true);
    assert_false(has(c->apic.irr, 0x51));
    kvm_engine.refresh(m->v);
    assert_true(has(c->apic.irr, 0x51));
    assert_false(has(c->apic.tmr, 0x51));
    assert_true(has(c->apic.irr, 0x71));
    assert_true(has(c->apic.tmr, 0x71));
    assert_false(has(c->apic.irr, 0x52));
}

static void test_message_meanwhile_and_a_change_are_both_kept(void **state)
{
    struct machine *m = split_machine(state);
    struct cpu *c = enabled(m);

    c->apic.irr[1] = 1u << 1; /* 21h */
    assert_int_equal(kvm_import(kvm_vcpu(m)), 0);
    assert_int_equal(kvm_export(kvm_vcpu(m)), 0);
    send(m, 0x51, false);
    c->apic.irr[1] = 1u << 2; /* 21h was taken here, 22h is new */
    kvm_changed(kvm_vcpu(m));
    assert_int_equal(kvm_import(kvm_vcpu(m)), 0);
    assert_int_equal(kvm_export(kvm_vcpu(m)), 0);
    assert_true(has(c->apic.irr, 0x51));
    assert_true(has(c->apic.irr, 0x22));
    assert_false(has(c->apic.irr, 0x21));
}

static void test_reset_forgets_what_waited(void **state)
{
    struct machine *m = split_machine(state);
    struct cpu *c = enabled(m);

    assert_int_equal(kvm_import(kvm_vcpu(m)), 0);
    send(m, 0x41, false);
    assert_int_equal(kvm_export(kvm_vcpu(m)), 0);
    send(m, 0x51, false);
    cpu_reset(c, RESET_POWER_ON);
    kvm_engine.reset(m->v);
    kvm_engine.state_changed(m->v);
    kvm_engine.prepare(m->evm);
    assert_int_equal(kvm_import(kvm_vcpu(m)), 0);
    assert_int_equal(kvm_export(kvm_vcpu(m)), 0);
    assert_false(has(c->apic.irr, 0x41));
    assert_false(has(c->apic.irr, 0x51));
}

static void test_debugger_with_many_breakpoints_has_the_apics_here(void **state)
{
    struct machine *m = split_machine(state);
    const struct apic_msg msg = { .vector = 0x51, .mode = APIC_FIXED };

    (void)enabled(m);
    assert_int_equal(kvm_import(kvm_vcpu(m)), 0);
    assert_int_equal(kvm_export(kvm_vcpu(m)), 0);
    send(m, 0x41, false);
    m->v->dbg.nr_bps = 5;
    for (unsigned i = 0; i < 5; i++)
        m->v->dbg.bps[i] = (struct dbg_bp){ .at = GVA(0x100 + i), .bytes = 1, .acc = ACC_EXEC };
    kvm_engine.debug_update(m->v);
    kvm_engine.prepare(m->evm);
    assert_true(has(m->v->cpu.apic.irr, 0x41)); /* it came along */
    assert_false(kvm_engine.take_message(m->evm, &msg, UINT32_MAX));
    m->v->dbg.nr_bps = 0;
    kvm_engine.debug_update(m->v);
    kvm_engine.prepare(m->evm);
    assert_true(kvm_engine.take_message(m->evm, &msg, UINT32_MAX));
    assert_int_equal(kvm_import(kvm_vcpu(m)), 0);
    assert_int_equal(kvm_export(kvm_vcpu(m)), 0);
    assert_true(has(m->v->cpu.apic.irr, 0x41));
    assert_true(has(m->v->cpu.apic.irr, 0x51));
}

static void test_messages_are_coded_as_a_device_would(void **state)
{
    struct kvm_msi msi = kvm_msi_of(&(struct apic_msg){
        .dest = 0x1234, .wide_dest = true, .vector = 0x41, .mode = APIC_LOWEST, .level = true });

    (void)state;
    assert_int_equal(msi.address_lo, 0xfee34008);
    assert_int_equal(msi.address_hi, 0x1200);
    assert_int_equal(msi.data, 0xc141);
    msi = kvm_msi_of(&(struct apic_msg){ .dest = 2, .logical = true, .mode = APIC_NMI });
    assert_int_equal(msi.address_lo, 0xfee02004);
    assert_int_equal(msi.data, 0x400);
}

/* ---- interrupts ---- */

/* All vectors lead to HANDLER_AT: EOI, out 21h, out 10h. The stop is what run() returns for. */
static void take_interrupts(struct machine *m)
{
    static const uint8_t handler[] = { 0xc7, 0x05, 0xb0, 0,    0xe0, 0xfe, 0,    0,
                                       0,    0,    0xe6, 0x21, 0xe6, 0x10, 0xeb, 0xfe };
    struct cpu *c = enabled(m);

    assert_int_equal(mmu_write(m->mmu, GPA(HANDLER_AT), handler, sizeof(handler)), sizeof(handler));
    for (unsigned i = 0; i < 256; i++) {
        const uint64_t gate = 0x00008e0000080000ull | HANDLER_AT;

        assert_int_equal(mmu_write(m->mmu, GPA(IDT_AT + 8 * i), &gate, 8), 8);
    }
    c->idtr = (struct dtable){ .base = IDT_AT, .limit = 0x7ff };
    /* A flat GDT behind it, for the handler's CS. */
    const uint64_t gdt[] = { 0, 0x00cf9b000000ffffull, 0x00cf93000000ffffull };
    assert_int_equal(mmu_write(m->mmu, GPA(0x6000), gdt, sizeof(gdt)), sizeof(gdt));
    c->gdtr = (struct dtable){ .base = 0x6000, .limit = sizeof(gdt) - 1 };
    kvm_engine.state_changed(m->v);
    kvm_engine.prepare(m->evm);
}
#define STI_HLT 0xfb, 0xf4, 0xeb, 0xfd

static void test_end_of_a_level_interrupt_is_told_and_of_another_is_not(void **state)
{
    struct machine *m = split_machine(state);

    take_interrupts(m);
    kvm_engine.watch_eoi(m->evm, 9,
                         &(struct apic_msg){ .vector = 0x61, .mode = APIC_FIXED, .level = true });
    send(m, 0x61, true);
    assert_int_equal(RUN(m, STI_HLT), RUN_STOPPED);
    assert_int_equal(m->nr_eois, 1);
    assert_int_equal(m->last_eoi, 0x61);
    m->v->cpu.rip = CODE_AT;
    kvm_engine.state_changed(m->v);
    send(m, 0x62, false);
    assert_int_equal(kvm_engine.run(m->v), RUN_STOPPED);
    assert_int_equal(m->nr_eois, 1);
    kvm_engine.watch_eoi(m->evm, 9, NULL);
    m->v->cpu.rip = CODE_AT;
    kvm_engine.state_changed(m->v);
    send(m, 0x61, true);
    assert_int_equal(kvm_engine.run(m->v), RUN_STOPPED);
    assert_int_equal(m->nr_eois, 1);
}

static void test_8259_interrupts_through_lint0(void **state)
{
    struct machine *m = split_machine(state);

    take_interrupts(m);
    m->v->cpu.apic.lvt[LVT_LINT0] = 0x700;
    kvm_engine.state_changed(m->v);
    m->pic_vector = 0x30;
    assert_int_equal(RUN(m, STI_HLT), RUN_STOPPED);
    assert_int_equal(m->nr_outs, 2);
    assert_int_equal(m->pic_vector, 0);
}

static void *sender(void *arg)
{
    struct machine *m = arg;

    while (!__atomic_load_n(&m->nr_outs, __ATOMIC_ACQUIRE))
        host_yield();
    send(m, 0x51, false);
    return NULL;
}

static void test_message_wakes_a_halted_vcpu(void **state)
{
    struct machine *m = split_machine(state);
    struct thread t = { .started = false };

    take_interrupts(m);
    assert_int_equal(thread_start(&t, "sender", sender, m), 0);
    assert_int_equal(RUN(m, 0xe6, 0x20, STI_HLT), RUN_STOPPED);
    thread_join(&t);
    assert_int_equal(m->nr_outs, 3);
}

static void *stopper(void *arg)
{
    struct machine *m = arg;

    while (!__atomic_load_n(&m->nr_outs, __ATOMIC_ACQUIRE))
        host_yield();
    cpu_post(&m->v->cpu, REQ_STOP);
    return NULL;
}

static void test_halted_vcpu_stops_and_is_halted_still(void **state)
{
    struct machine *m = split_machine(state);
    struct thread t = { .started = false };

    take_interrupts(m);
    assert_int_equal(thread_start(&t, "stopper", stopper, m), 0);
    /* It may be stopped before the HLT; then it comes to it now. */
    assert_int_equal(RUN(m, 0xe6, 0x20, 0xf4), RUN_STOPPED);
    thread_join(&t);
    if (m->v->cpu.activity != CPU_HALTED)
        return;
    assert_int_equal(m->v->cpu.rip, CODE_AT + 3);
    m->nr_outs = 0;
    assert_int_equal(thread_start(&t, "sender", sender, m), 0);
    m->nr_outs = 1;
    m->v->cpu.rflags |= RFLAGS_IF;
    kvm_engine.state_changed(m->v);
    assert_int_equal(kvm_engine.run(m->v), RUN_STOPPED);
    thread_join(&t);
    assert_int_equal(m->nr_outs, 3);
}

static void test_start_up_message_starts_a_waiting_vcpu(void **state)
{
    struct machine *m = split_machine(state);
    static const uint8_t code[] = { STOP };

    (void)enabled(m);
    assert_int_equal(mmu_write(m->mmu, GPA(AP_VECTOR << 12), code, sizeof(code)), sizeof(code));
    cpu_reset(&m->v->cpu, RESET_INIT);
    m->v->cpu.activity = CPU_WAIT_SIPI;
    kvm_engine.state_changed(m->v);
    kvm_engine.prepare(m->evm);
    assert_true(kvm_engine.take_message(
        m->evm, &(struct apic_msg){ .vector = AP_VECTOR, .mode = APIC_SIPI }, UINT32_MAX));
    assert_int_equal(kvm_engine.run(m->v), RUN_STOPPED);
    assert_int_equal(m->v->cpu.activity, CPU_RUNNING);
    assert_int_equal(m->v->cpu.seg[SEG_CS].base, AP_VECTOR << 12);
    assert_int_equal(m->v->cpu.rip, 2);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up_split, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_apic_comes_back_as_it_was),
        TEST(test_tsc_deadline_rests_while_the_vcpu_does),
        TEST(test_activity_comes_back),
        TEST(test_message_to_a_standing_vcpu_is_in_what_is_saved),
        TEST(test_message_meanwhile_and_a_change_are_both_kept),
        TEST(test_reset_forgets_what_waited),
        TEST(test_debugger_with_many_breakpoints_has_the_apics_here),
        cmocka_unit_test(test_messages_are_coded_as_a_device_would),
        TEST(test_end_of_a_level_interrupt_is_told_and_of_another_is_not),
        TEST(test_8259_interrupts_through_lint0),
        TEST(test_message_wakes_a_halted_vcpu),
        TEST(test_halted_vcpu_stops_and_is_halted_still),
        TEST(test_start_up_message_starts_a_waiting_vcpu),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
