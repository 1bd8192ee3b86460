/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVM's paravirtual interface under the engine kvm: what is offered, where its state is, and that
 * on its way between kernel and core nothing is lost or there twice. Needs a /dev/kvm, which may be
 * a limited one.
 */
#include "engine/kvm/testmachine.h"

#define CLOCK_AT  0x2000u
#define STEAL_AT  0x2100u
#define EOI_AT    0x2200u
#define NOWHERE   0x300000u /* no RAM */
#define ENABLED   1u
#define PREEMPTED 16u /* the flag in the steal time */
#define VECTOR    0x51u

#define WRMSR     0x0f, 0x30
#define RDMSR     0x0f, 0x32
#define ECX_CLOCK 0xb9, 0x01, 0x4d, 0x56, 0x4b
#define ECX_EOI   0xb9, 0x04, 0x4d, 0x56, 0x4b

static struct kvm_vcpu *kvm_vcpu(struct machine *m)
{
    return container_of(m->v, struct kvm_vcpu, iv.vc);
}

/* A machine whose kernel has the feature. */
static struct machine *pv_machine(void **state, enum cpu_feature need)
{
    struct machine *m = machine(state);

    if (!model_has(&m->model, need)) {
        print_message("# this /dev/kvm does not offer it\n");
        skip();
    }
    return m;
}

static uint64_t kernels(struct machine *m, uint32_t msr)
{
    uint64_t val = 0;

    assert_int_equal(kvm_get_msr(kvm_vcpu(m), msr, &val), 0);
    return val;
}

static uint64_t mem(struct machine *m, uint64_t at, unsigned bytes)
{
    uint64_t val = 0;

    assert_int_equal(mmu_read(m->mmu, GPA(at), &val, bytes), bytes);
    return val;
}

static void put(struct machine *m, uint64_t at, uint64_t val, unsigned bytes)
{
    assert_int_equal(mmu_write(m->mmu, GPA(at), &val, bytes), bytes);
}

/* As a snapshot has it. */
static struct pv *restored(struct machine *m)
{
    struct pv *pv = &m->v->cpu.pv;

    *pv = (struct pv){ .clock = CLOCK_AT | ENABLED, .wall = 0x2300, .steal = STEAL_AT | ENABLED };
    if (kvm_vcpu(m)->vm->split)
        pv->eoi = EOI_AT | ENABLED;
    kvm_engine.state_changed(m->v);
    return pv;
}

/* ---- what is offered ---- */

static uint32_t offered(uint32_t supported, bool split)
{
    struct kvm_cpuid_table t = { .head = { .nent = 1 } };
    struct cpu_model m = { .vendor = VENDOR_AMD };

    t.entries[0] = (struct kvm_cpuid_entry2){ .function = 0x40000001, .eax = supported };
    m.words[FW_KVM] = UINT32_MAX;
    kvm_trim(&m, &t, split);
    return m.words[FW_KVM];
}

static void test_offered_is_what_somebody_makes(void **state)
{
    (void)state;
    /* All that Linux 6.1 has, with asynchronous page faults and poll control. */
    assert_int_equal(offered(0x01007efb, true), 0x0100aaeb);
    assert_int_equal(offered(0x01007efb, false), 0x0100826b);
    /* A kernel that does not account for waiting; and one that has nothing. */
    assert_int_equal(offered(0x01007edb, true), 0x010088cb);
    assert_int_equal(offered(0, true), 0x8000);
    assert_int_equal(offered(0, false), 0x8040);
}

static void no_pv(struct machine *m)
{
    m->model.words[FW_KVM] = 0;
}

static int set_up_without(void **state)
{
    return set_up_changed(state, KVM_IRQCHIP_AUTO, no_pv);
}

static void test_not_offered_the_kernel_refuses(void **state)
{
    struct machine *m = machine(state);
    uint64_t val;

    if (kvm_ioctl_num(kvm_vcpu(m)->vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_ENFORCE_PV_FEATURE_CPUID) <=
        0)
        skip();
    assert_true(kvm_set_msr(kvm_vcpu(m), MSR_KVM_SYSTEM_TIME_NEW, CLOCK_AT | ENABLED) < 0 ||
                kvm_get_msr(kvm_vcpu(m), MSR_KVM_SYSTEM_TIME_NEW, &val) < 0);
}

static void test_not_offered_the_guest_gets_gp(void **state)
{
    struct machine *m = machine(state);

    /* There is no IDT. */
    m->v->cpu.idtr.limit = 0;
    kvm_engine.state_changed(m->v);
    assert_int_equal(RUN(m, ECX_CLOCK, RDMSR, STOP), RUN_SHUTDOWN);
}

/* ---- there and back ---- */

static void test_state_is_the_kernels_alone_while_the_guest_runs(void **state)
{
    struct machine *m = pv_machine(state, FEAT_KVM_STEAL_TIME);
    struct pv *pv = restored(m);

    assert_int_equal(RUN(m, STOP), RUN_STOPPED);
    assert_int_equal(kernels(m, MSR_KVM_SYSTEM_TIME_NEW), CLOCK_AT | ENABLED);
    assert_int_equal(kernels(m, MSR_KVM_STEAL_TIME), STEAL_AT | ENABLED);
    if (kvm_vcpu(m)->vm->split)
        assert_int_equal(kernels(m, MSR_KVM_PV_EOI), EOI_AT | ENABLED);
    assert_int_equal(pv->clock | pv->steal | pv->eoi, 0);
    assert_int_equal(pv->wall, 0x2300);
    assert_true(mem(m, CLOCK_AT, 4) && !(mem(m, CLOCK_AT, 4) & 1));
}

static void test_snapshot_has_what_the_kernel_has_and_it_goes_on(void **state)
{
    struct machine *m = pv_machine(state, FEAT_KVM_STEAL_TIME);
    struct pv *pv = restored(m);
    uint64_t ns;

    assert_int_equal(RUN(m, STOP), RUN_STOPPED);
    put(m, STEAL_AT, 123456789, 8);
    kvm_engine.refresh(m->v);
    assert_int_equal(pv->clock, CLOCK_AT | ENABLED);
    assert_int_equal(pv->steal, STEAL_AT | ENABLED);
    assert_int_equal(pv->eoi, kvm_vcpu(m)->vm->split ? EOI_AT | ENABLED : 0);
    assert_int_equal(pv->steal_ns, 123456789);
    assert_int_equal(pv->kicked, model_has(&m->model, FEAT_KVM_PV_UNHALT));
    m->v->cpu.rip = CODE_AT;
    kvm_engine.state_changed(m->v);
    assert_int_equal(kvm_engine.run(m->v), RUN_STOPPED);
    assert_int_equal(pv->clock | pv->steal | pv->eoi, 0);
    assert_int_equal(kernels(m, MSR_KVM_SYSTEM_TIME_NEW), CLOCK_AT | ENABLED);
    ns = mem(m, STEAL_AT, 8);
    assert_true(ns >= 123456789);
}

static void interp_has_it(void **state, bool snapshot)
{
    struct machine *m = pv_machine(state, FEAT_KVM_PV_TLB_FLUSH);
    struct pv *pv = restored(m);

    assert_int_equal(RUN(m, STOP), RUN_STOPPED);
    put(m, STEAL_AT + PREEMPTED, 3, 1);
    if (snapshot)
        kvm_engine.refresh(m->v);
    kvm_take_pv(kvm_vcpu(m));
    assert_int_equal(kernels(m, MSR_KVM_SYSTEM_TIME_NEW) & ENABLED, 0);
    assert_int_equal(kernels(m, MSR_KVM_STEAL_TIME) & ENABLED, 0);
    assert_int_equal(pv->clock, CLOCK_AT | ENABLED);
    assert_int_equal(pv->steal, STEAL_AT | ENABLED);
    assert_int_equal(mem(m, STEAL_AT + PREEMPTED, 1), 0);
    assert_int_equal(kvm_send_pv(kvm_vcpu(m)), 0);
    assert_int_equal(pv->clock | pv->steal | pv->eoi, 0);
    assert_int_equal(kernels(m, MSR_KVM_SYSTEM_TIME_NEW), CLOCK_AT | ENABLED);
    assert_int_equal(kernels(m, MSR_KVM_STEAL_TIME), STEAL_AT | ENABLED);
    assert_int_equal(mem(m, STEAL_AT + PREEMPTED, 1), 3);
}

static void test_interp_has_it_alone_and_gives_it_back_with_a_flush(void **state)
{
    interp_has_it(state, false);
}

static void test_interp_has_it_alone_after_a_snapshot(void **state)
{
    interp_has_it(state, true);
}

static void test_reset_ends_all(void **state)
{
    struct machine *m = pv_machine(state, FEAT_KVM_STEAL_TIME);

    (void)restored(m);
    assert_int_equal(RUN(m, STOP), RUN_STOPPED);
    cpu_reset(&m->v->cpu, RESET_POWER_ON);
    kvm_engine.reset(m->v);
    flat_mode(&m->v->cpu);
    kvm_engine.state_changed(m->v);
    assert_int_equal(RUN(m, STOP), RUN_STOPPED);
    assert_int_equal(kernels(m, MSR_KVM_SYSTEM_TIME_NEW) & ENABLED, 0);
    assert_int_equal(kernels(m, MSR_KVM_STEAL_TIME) & ENABLED, 0);
}

/* ---- instructions of the guest ---- */

static void step(struct machine *m)
{
    m->v->dbg.step = true;
    kvm_engine.debug_update(m->v);
    assert_int_equal(kvm_engine.run(m->v), RUN_DEBUG);
    m->v->dbg.step = false;
    kvm_engine.debug_update(m->v);
}

static void test_stepped_rdmsr_and_wrmsr_are_the_kernels_msr(void **state)
{
    struct machine *m = pv_machine(state, FEAT_KVM_CLOCK2);
    struct cpu *c = &m->v->cpu;

    (void)restored(m);
    assert_int_equal(RUN(m, STOP), RUN_STOPPED);
    /* rdmsr; mov eax, 2401h; wrmsr; out 10h; then the same with 0 */
    static const uint8_t code[] = { RDMSR, 0xb8, 0x01, 0x24, 0, 0, WRMSR, STOP };
    assert_int_equal(mmu_write(m->mmu, GPA(CODE_AT), code, sizeof(code)), sizeof(code));
    c->rip = CODE_AT;
    c->gpr[RCX] = MSR_KVM_SYSTEM_TIME_NEW;
    c->gpr[RDX] = 0;
    kvm_engine.state_changed(m->v);
    step(m);
    assert_int_equal(c->gpr[RAX], CLOCK_AT | ENABLED);
    step(m);
    step(m);
    assert_int_equal(c->rip, CODE_AT + 9);
    assert_int_equal(kvm_engine.run(m->v), RUN_STOPPED);
    assert_int_equal(kernels(m, MSR_KVM_SYSTEM_TIME_NEW), 0x2401);
    c->rip = CODE_AT + 7;
    c->gpr[RAX] = 0;
    kvm_engine.state_changed(m->v);
    step(m);
    assert_int_equal(kvm_engine.run(m->v), RUN_STOPPED);
    assert_int_equal(kernels(m, MSR_KVM_SYSTEM_TIME_NEW), 0);
}

static void run_again(struct machine *m)
{
    m->v->cpu.rip = CODE_AT;
    kvm_engine.state_changed(m->v);
    assert_int_equal(kvm_engine.run(m->v), RUN_STOPPED);
}

/* There and back, which with several vCPUs no kernel takes for a reason of its own. */
static void test_clock_is_written_anew_when_the_guest_moves_its_tsc(void **state)
{
    struct machine *m = pv_machine(state, FEAT_KVM_CLOCK2);
    struct vcpu *other;
    uint64_t version;

    assert_int_equal(kvm_engine.vcpu_create(m->evm, 1, &other), 0);
    (void)restored(m);
    assert_int_equal(RUN(m, STOP), RUN_STOPPED);
    run_again(m);
    version = mem(m, CLOCK_AT, 4);
    run_again(m);
    if (mem(m, CLOCK_AT, 4) != version) {
        print_message("# this /dev/kvm writes it at each entry\n");
        skip();
    }
    for (unsigned i = 0; i < 4; i++) {
        m->v->cpu.tsc_adjust = i & 1 ? 0 : 1ull << 44;
        run_again(m);
        assert_true(mem(m, CLOCK_AT, 4) != version);
        version = mem(m, CLOCK_AT, 4);
    }
    assert_int_equal(kernels(m, MSR_KVM_SYSTEM_TIME_NEW), CLOCK_AT | ENABLED);
    kvm_engine.vcpu_destroy(other);
}

static void test_address_that_the_kernel_refuses_is_gp(void **state)
{
    struct machine *m = pv_machine(state, FEAT_KVM_PV_EOI);

    if (!kvm_vcpu(m)->vm->split)
        skip();
    m->v->cpu.idtr.limit = 0;
    kvm_engine.state_changed(m->v);
    /* mov eax, NOWHERE | 1; xor edx, edx; wrmsr */
    assert_int_equal(RUN(m, ECX_EOI, 0xb8, 0x01, 0x00, 0x30, 0x00, 0x31, 0xd2, WRMSR, STOP),
                     RUN_SHUTDOWN);
}

/* ---- ends of interrupts, kicks ---- */

static struct cpu *in_service(struct machine *m)
{
    struct cpu *c = &m->v->cpu;

    (void)restored(m);
    c->apic.svr = 0x1ff;
    c->apic.isr[VECTOR / 32] = BIT(VECTOR % 32);
    c->pv.eoi_offered = true;
    return c;
}

static void test_end_in_memory_before_a_restore_counts(void **state)
{
    struct machine *m = pv_machine(state, FEAT_KVM_PV_EOI);
    struct cpu *c = in_service(m);

    put(m, EOI_AT, 0, 4);
    kvm_engine.prepare(m->evm);
    assert_int_equal(RUN(m, STOP), RUN_STOPPED);
    assert_int_equal(c->apic.isr[VECTOR / 32], 0);
}

static void test_end_that_is_still_to_come_is_one_by_the_register(void **state)
{
    struct machine *m = pv_machine(state, FEAT_KVM_PV_EOI);
    struct cpu *c = in_service(m);

    put(m, EOI_AT, 1, 4);
    kvm_engine.prepare(m->evm);
    /* A machine that was restored has not run, and its kernel had no memory yet. */
    assert_int_equal(kernels(m, MSR_KVM_PV_EOI), EOI_AT | ENABLED);
    assert_false(c->pv.eoi_offered);
    assert_int_equal(mem(m, EOI_AT, 4), 0);
    assert_int_equal(c->apic.isr[VECTOR / 32], BIT(VECTOR % 32));
}

static void test_eoi_word_outside_ram_is_none(void **state)
{
    struct machine *m = pv_machine(state, FEAT_KVM_PV_EOI);

    restored(m)->eoi = NOWHERE | ENABLED;
    kvm_engine.prepare(m->evm);
    assert_int_equal(RUN(m, STOP), RUN_STOPPED);
}

static void test_kick_lets_a_halted_vcpu_go(void **state)
{
    struct machine *m = pv_machine(state, FEAT_KVM_PV_UNHALT);
    struct kvm_vcpu *k = kvm_vcpu(m);
    struct cpu *c = &m->v->cpu;

    if (!k->vm->split)
        skip();
    c->activity = CPU_HALTED;
    kvm_engine.state_changed(m->v);
    assert_int_equal(kvm_import(k), 0);
    assert_int_equal(kvm_export_activity(k), 0);
    assert_int_equal(c->activity, CPU_HALTED);
    c->pv.kicked = true;
    assert_int_equal(kvm_send_kick(k), 0);
    assert_int_equal(kvm_export_activity(k), 0);
    assert_int_equal(c->activity, CPU_RUNNING);
}

static void test_kick_that_was_saved_waits_for_the_next_hlt(void **state)
{
    struct machine *m = pv_machine(state, FEAT_KVM_PV_UNHALT);
    struct kvm_vcpu *k = kvm_vcpu(m);
    struct cpu *c = &m->v->cpu;

    if (!k->vm->split)
        skip();
    c->pv.kicked = true;
    c->activity = CPU_HALTED; /* so that the kernel tells */
    kvm_engine.state_changed(m->v);
    assert_int_equal(kvm_import(k), 0);
    assert_false(c->pv.kicked);
    assert_int_equal(kvm_export_activity(k), 0);
    assert_int_equal(c->activity, CPU_RUNNING);
}

#define TEST(name)     cmocka_unit_test_setup_teardown(name, set_up_split, tear_down)
#define TEST_OFF(name) cmocka_unit_test_setup_teardown(name, set_up_off, tear_down)
#define TEST_NO(name)  cmocka_unit_test_setup_teardown(name, set_up_without, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_offered_is_what_somebody_makes),
        TEST_NO(test_not_offered_the_kernel_refuses),
        TEST_NO(test_not_offered_the_guest_gets_gp),
        TEST(test_state_is_the_kernels_alone_while_the_guest_runs),
        TEST_OFF(test_state_is_the_kernels_alone_while_the_guest_runs),
        TEST(test_snapshot_has_what_the_kernel_has_and_it_goes_on),
        TEST_OFF(test_snapshot_has_what_the_kernel_has_and_it_goes_on),
        TEST(test_interp_has_it_alone_and_gives_it_back_with_a_flush),
        TEST(test_interp_has_it_alone_after_a_snapshot),
        TEST(test_reset_ends_all),
        TEST(test_stepped_rdmsr_and_wrmsr_are_the_kernels_msr),
        TEST_OFF(test_stepped_rdmsr_and_wrmsr_are_the_kernels_msr),
        TEST(test_clock_is_written_anew_when_the_guest_moves_its_tsc),
        TEST(test_address_that_the_kernel_refuses_is_gp),
        TEST(test_end_in_memory_before_a_restore_counts),
        TEST(test_end_that_is_still_to_come_is_one_by_the_register),
        TEST(test_eoi_word_outside_ram_is_none),
        TEST(test_kick_lets_a_halted_vcpu_go),
        TEST(test_kick_that_was_saved_waits_for_the_next_hlt),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
