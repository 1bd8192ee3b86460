/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine on /dev/kvm with a machine of one page of code: registers there and back, exits,
 * memory that comes, goes and is written, kicks, and what interp does for the kernel.
 *
 * Needs a /dev/kvm, which may be a limited one: the guests here do nothing but what every one of
 * them can. tests/kvm has the rest.
 */
#include "engine/kvm/testmachine.h"

/* ---- registers ---- */

static void test_registers_come_back_as_they_were(void **state)
{
    struct machine *m = machine(state);
    struct kvm_vcpu *k = container_of(m->v, struct kvm_vcpu, iv.vc);
    struct cpu *c = &m->v->cpu, was;

    for (unsigned i = 0; i < NR_GPRS; i++)
        c->gpr[i] = 0x1111111111111111ull * i + i;
    for (unsigned i = 0; i < 8; i++)
        memset(c->fpu.st[i], (int)i + 1, 10);
    for (unsigned i = 0; i < 16; i++) {
        memset(c->fpu.xmm[i], (int)i + 0x20, 16);
        memset(c->fpu.ymmh[i], m->model.xcr0 & XCR0_AVX ? (int)i + 0x40 : 0, 16);
    }
    c->fpu.fcw = 0x27f;
    c->fpu.ftw = 0xff;
    c->fpu.mxcsr = 0x1fa0;
    c->xcr0 = model_has(&m->model, FEAT_XSAVE) ? m->model.xcr0 : XCR0_X87;
    c->star = 0x0023001000000000;
    c->lstar = 0xffffffff81000000;
    c->cstar = 0xffffffff81000040;
    c->sfmask = 0x47700;
    c->kernel_gs_base = 0xffff888000000000;
    c->sysenter_cs = 0x10;
    c->sysenter_esp = 0xffffc90000000000;
    c->sysenter_eip = 0xffffffff81000080;
    c->pat = 0x0007010600070106;
    c->tsc_aux = 5;
    c->dr[0] = 0x1234;
    c->dr[3] = 0xffffffff81000000;
    c->cr2 = 0xdeadbeef000;
    c->gdtr = (struct dtable){ .base = 0x5000, .limit = 0x7f };
    c->idtr = (struct dtable){ .base = 0x6000, .limit = 0xfff };
    c->seg[SEG_FS].base = 0x12340;
    c->nmi_blocked = true;
    was = *c;
    kvm_engine.state_changed(m->v);
    assert_int_equal(kvm_import(k), 0);
    memset(c->gpr, 0xee, sizeof(c->gpr));
    memset(&c->fpu, 0xee, sizeof(c->fpu));
    memset(c->seg, 0xee, sizeof(c->seg));
    c->star = c->lstar = c->pat = c->cr0 = c->cr2 = c->dr[0] = c->dr[3] = 0;
    c->xcr0 = model_has(&m->model, FEAT_XSAVE) ? 0 : was.xcr0;
    c->nmi_blocked = false;
    assert_int_equal(kvm_export(k), 0);
    assert_memory_equal(c->gpr, was.gpr, NR_GPRS * 8);
    assert_memory_equal(c->fpu.st, was.fpu.st, sizeof(was.fpu.st));
    assert_memory_equal(c->fpu.xmm, was.fpu.xmm, sizeof(was.fpu.xmm));
    assert_memory_equal(c->fpu.ymmh, was.fpu.ymmh, sizeof(was.fpu.ymmh));
    assert_int_equal(c->fpu.fcw, was.fpu.fcw);
    assert_int_equal(c->fpu.ftw, was.fpu.ftw);
    assert_int_equal(c->fpu.mxcsr, was.fpu.mxcsr);
    assert_int_equal(c->xcr0, was.xcr0);
    for (unsigned i = 0; i < NR_SEGS; i++) {
        assert_int_equal(c->seg[i].base, was.seg[i].base);
        assert_int_equal(c->seg[i].limit, was.seg[i].limit);
        assert_int_equal(c->seg[i].attr, was.seg[i].attr);
        assert_int_equal(c->seg[i].sel, was.seg[i].sel);
    }
    assert_int_equal(c->star, was.star);
    assert_int_equal(c->lstar, was.lstar);
    assert_int_equal(c->kernel_gs_base, was.kernel_gs_base);
    assert_int_equal(c->sysenter_eip, was.sysenter_eip);
    assert_int_equal(c->pat, was.pat);
    assert_int_equal(c->cr0, was.cr0);
    assert_int_equal(c->cr2, was.cr2);
    assert_int_equal(c->dr[0], was.dr[0]);
    assert_int_equal(c->dr[3], was.dr[3]);
    assert_int_equal(c->gdtr.base, was.gdtr.base);
    assert_int_equal(c->idtr.limit, was.idtr.limit);
    assert_true(c->nmi_blocked);
}

/* ---- exits ---- */

static void test_port_write_reaches_the_device_and_stops(void **state)
{
    struct machine *m = machine(state);

    /* mov al, 5Ah; out 20h, al; in al, 33h; out 10h */
    assert_int_equal(RUN(m, 0xb0, 0x5a, 0xe6, 0x20, 0xe4, 0x33, STOP), RUN_STOPPED);
    assert_int_equal(m->nr_outs, 2);
    assert_int_equal(m->last_out, 0x33);
    assert_int_equal(m->v->cpu.gpr[RAX] & 0xff, 0x33);
    /* The instruction that made the exit is complete. */
    assert_int_equal(m->v->cpu.rip, CODE_AT + 8);
    assert_int_equal(m->v->nr_exits[EXIT_PIO], 3);
}

static void test_device_memory_and_writes_to_rom_exit(void **state)
{
    struct machine *m = machine(state);
    uint32_t rom = 0x11223344;

    assert_int_equal(mmu_write(m->mmu, GPA(ROM_AT), &rom, 4), 4);
    /* mov eax, [MMIO_AT]; mov [MMIO_AT + 8], eax; mov ebx, [ROM_AT]; mov [ROM_AT], eax */
    assert_int_equal(RUN(m, 0xa1, 0x00, 0x00, 0x20, 0x00, 0xa3, 0x08, 0x00, 0x20, 0x00, 0x8b, 0x1d,
                         0x00, 0x00, 0x10, 0x00, 0xa3, 0x00, 0x00, 0x10, 0x00, STOP),
                     RUN_STOPPED);
    assert_int_equal(m->nr_writes, 2);
    assert_int_equal(m->v->cpu.gpr[RAX], MMIO_AT + 1);
    assert_int_equal(m->v->cpu.gpr[RBX], 0x11223344);
    assert_int_equal(m->last_at, ROM_AT);
    assert_int_equal(mmu_read(m->mmu, GPA(ROM_AT), &rom, 4), 4);
    assert_int_equal(rom, 0x11223344);
}

static void test_msr_of_the_core_exits_and_one_of_the_kernel_does_not(void **state)
{
    struct machine *m = machine(state);
    uint64_t before;

    /* mov ecx, MTRRCAP; rdmsr; out 10h */
    assert_int_equal(RUN(m, 0xb9, 0xfe, 0, 0, 0, 0x0f, 0x32, STOP), RUN_STOPPED);
    assert_int_equal(m->v->nr_exits[EXIT_MSR], 1);
    before = m->v->nr_exits[EXIT_MSR];
    m->v->cpu.rip = CODE_AT;
    kvm_engine.state_changed(m->v);
    /* mov ecx, SYSENTER_CS; mov eax, 8; xor edx, edx; wrmsr */
    assert_int_equal(RUN(m, 0xb9, 0x74, 1, 0, 0, 0xb8, 8, 0, 0, 0, 0x31, 0xd2, 0x0f, 0x30, STOP),
                     RUN_STOPPED);
    assert_int_equal(m->v->nr_exits[EXIT_MSR], before);
    assert_int_equal(m->v->cpu.sysenter_cs, 8);
}

static void test_apic_that_is_disabled_is_gone_from_cpuid(void **state)
{
    struct machine *m = machine(state);

    /* mov ecx, APIC_BASE; rdmsr; and ah, F7h; wrmsr; mov eax, 1; cpuid */
    assert_int_equal(RUN(m, 0xb9, 0x1b, 0, 0, 0, 0x0f, 0x32, 0x80, 0xe4, 0xf7, 0x0f, 0x30, 0xb8, 1,
                         0, 0, 0, 0x0f, 0xa2, STOP),
                     RUN_STOPPED);
    assert_int_equal(m->v->cpu.gpr[RDX] & BIT(9), 0);
}

static void test_apic_mode_that_cannot_follow_is_refused(void **state)
{
    struct machine *m = machine(state);

    /* To x2APIC mode, and from there straight back; no IDT. mov ecx, APIC_BASE; rdmsr; or ah, 4;
     * wrmsr; and ah, FBh; wrmsr */
    m->v->cpu.idtr.limit = 0;
    kvm_engine.state_changed(m->v);
    assert_int_equal(RUN(m, 0xb9, 0x1b, 0, 0, 0, 0x0f, 0x32, 0x80, 0xcc, 4, 0x0f, 0x30, 0x80, 0xe4,
                         0xfb, 0x0f, 0x30, STOP),
                     RUN_SHUTDOWN);
}

static void test_triple_fault_ends_the_run(void **state)
{
    struct machine *m = machine(state);

    /* No IDT: ud2 */
    m->v->cpu.idtr.limit = 0;
    kvm_engine.state_changed(m->v);
    assert_int_equal(RUN(m, 0x0f, 0x0b), RUN_SHUTDOWN);
    assert_int_equal(m->v->cpu.activity, CPU_SHUTDOWN);
}

/* ---- steps, kicks, time ---- */

static void test_step_is_one_instruction(void **state)
{
    struct machine *m = machine(state);

    m->v->dbg.step = true;
    kvm_engine.debug_update(m->v);
    assert_int_equal(RUN(m, 0xb0, 0x01, 0xb3, 0x02, STOP), RUN_DEBUG);
    assert_int_equal(m->v->cpu.rip, CODE_AT + 2);
    m->v->dbg.step = false;
    kvm_engine.debug_update(m->v);
    assert_int_equal(kvm_engine.run(m->v), RUN_STOPPED);
    assert_int_equal(m->v->cpu.gpr[RBX] & 0xff, 2);
}

static void *kicker(void *arg)
{
    struct machine *m = arg;

    /* Until the guest has come to its loop. */
    while (!__atomic_load_n(&m->nr_outs, __ATOMIC_ACQUIRE))
        host_yield();
    cpu_post(&m->v->cpu, REQ_STOP);
    return NULL;
}

static void test_kick_gets_a_guest_out_of_its_loop(void **state)
{
    struct machine *m = machine(state);
    struct thread t = { .started = false };

    assert_int_equal(thread_start(&t, "kicker", kicker, m), 0);
    assert_int_equal(RUN(m, 0xe6, 0x20, 0xeb, 0xfe), RUN_STOPPED); /* out 20h, al; jmp itself */
    thread_join(&t);
    assert_int_equal(m->v->cpu.rip, CODE_AT + 2);
}

static void test_tsc_is_the_clocks(void **state)
{
    struct machine *m = machine(state);
    uint64_t from, to, tsc;
    char why[256];

    if (kvm_engine.recommend(why, sizeof(why))) { /* it may let guests read the host's TSC */
        print_message("# %s\n", why);
        skip();
    }
    m->tsc_offset = 1ull << 60;
    from = fake_tsc(m);
    assert_int_equal(RUN(m, 0x0f, 0x31, STOP), RUN_STOPPED); /* rdtsc */
    to = fake_tsc(m);
    tsc = m->v->cpu.gpr[RAX] | m->v->cpu.gpr[RDX] << 32;
    assert_in_range(tsc, from, to);
}

/* ---- memory ---- */

static void test_slot_that_is_added_and_moved_is_seen(void **state)
{
    struct machine *m = machine(state);
    const struct slot_desc more = { .name = "more", .base = GPA(MMIO_AT), .bytes = 0x1000 };
    uint32_t val = 0x600d, at_old;
    struct slot *slot;

    assert_int_equal(RUN(m, 0xa1, 0x00, 0x00, 0x20, 0x00, STOP), RUN_STOPPED);
    assert_int_equal(m->v->cpu.gpr[RAX], MMIO_AT + 1);
    assert_int_equal(mmu_slot_add(m->mmu, &more, &slot), 0);
    assert_int_equal(mmu_write(m->mmu, GPA(MMIO_AT), &val, 4), 4);
    m->v->cpu.rip = CODE_AT;
    kvm_engine.state_changed(m->v);
    assert_int_equal(kvm_engine.run(m->v), RUN_STOPPED);
    assert_int_equal(m->v->cpu.gpr[RAX], 0x600d);
    assert_int_equal(mmu_slot_move(m->mmu, slot, GPA(MMIO_AT + 0x1000)), 0);
    m->v->cpu.rip = CODE_AT;
    kvm_engine.state_changed(m->v);
    assert_int_equal(kvm_engine.run(m->v), RUN_STOPPED);
    at_old = (uint32_t)m->v->cpu.gpr[RAX];
    assert_int_equal(at_old, MMIO_AT + 1);
}

static bool is_dirty(const struct machine *m, uint32_t at)
{
    return m->ram->notes[at >> PAGE_SHIFT] & PAGE_NOTE_DIRTY;
}

static void test_dirty_log_has_the_pages_that_the_guest_wrote(void **state)
{
    struct machine *m = machine(state);

    m->ram->flags |= SLOT_LOG_DIRTY;
    assert_int_equal(kvm_engine.sync_dirty(m->evm), 0);
    /* mov [5000h], eax; out 10h */
    assert_int_equal(RUN(m, 0xa3, 0x00, 0x50, 0x00, 0x00, STOP), RUN_STOPPED);
    assert_int_equal(kvm_engine.sync_dirty(m->evm), 0);
    assert_true(is_dirty(m, 0x5000));
    assert_true(is_dirty(m, CODE_AT)); /* by mmu_write() */
    assert_false(is_dirty(m, 0x6000));
    for (unsigned i = 0; i < 8; i++)
        m->ram->notes[i] = 0;
    assert_int_equal(kvm_engine.sync_dirty(m->evm), 0);
    assert_false(is_dirty(m, 0x5000));
    m->v->cpu.rip = CODE_AT;
    kvm_engine.state_changed(m->v);
    assert_int_equal(kvm_engine.run(m->v), RUN_STOPPED);
    assert_int_equal(kvm_engine.sync_dirty(m->evm), 0);
    assert_true(is_dirty(m, 0x5000));
}

/* ---- the model ---- */

static void test_trim_takes_what_the_kernel_lacks_and_leaves_what_the_machine_makes(void **state)
{
    struct kvm_cpuid_table none = { .head = { .nent = 0 } };
    struct cpu_model m;
    char err[128];

    (void)state;
    assert_true(cpu_model_init(&m, NULL, err, sizeof(err)));
    kvm_trim(&m, &none, true);
    assert_true(model_has(&m, FEAT_X2APIC));
    assert_true(model_has(&m, FEAT_TSC_DEADLINE));
    assert_false(model_has(&m, FEAT_SSE2));
    assert_false(model_has(&m, FEAT_AVX));
    assert_int_equal(m.xcr0 & XCR0_AVX, 0);
}

/* With the local APIC here, and in the kernel where it has one. */
#define TEST(name)                                            \
    { #name " (off)", name, set_up_off, tear_down, NULL },    \
    {                                                         \
#name " (split)", name, set_up_split, tear_down, NULL \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_registers_come_back_as_they_were),
        TEST(test_port_write_reaches_the_device_and_stops),
        TEST(test_device_memory_and_writes_to_rom_exit),
        TEST(test_msr_of_the_core_exits_and_one_of_the_kernel_does_not),
        TEST(test_apic_that_is_disabled_is_gone_from_cpuid),
        TEST(test_apic_mode_that_cannot_follow_is_refused),
        TEST(test_triple_fault_ends_the_run),
        TEST(test_step_is_one_instruction),
        TEST(test_kick_gets_a_guest_out_of_its_loop),
        TEST(test_tsc_is_the_clocks),
        TEST(test_slot_that_is_added_and_moved_is_seen),
        TEST(test_dirty_log_has_the_pages_that_the_guest_wrote),
        cmocka_unit_test(test_trim_takes_what_the_kernel_lacks_and_leaves_what_the_machine_makes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
