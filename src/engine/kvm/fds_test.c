/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest's write that makes a descriptor ready, and descriptors that interrupt a guest. Needs a
 * /dev/kvm; for interrupts one with a split interrupt controller.
 */
#include "engine/kvm/testmachine.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

static struct kvm_vm *vm_of(struct machine *m)
{
    return container_of(m->evm, struct kvm_vm, ivm.evm);
}

static bool is_ready(int fd)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };

    return poll(&p, 1, 0) == 1;
}

static void test_write_that_matches_makes_the_descriptor_ready_without_an_exit(void **state)
{
    struct machine *m = machine(state);
    struct bus_notify n = {
        .at = GPA(MMIO_AT + 0x50), .bytes = 4, .matched = true, .val = 7, .fd = eventfd(0, 0)
    };
    uint64_t nr = 0;

    assert_int_equal(kvm_engine.notify_fd(m->evm, &n, true), 0);
    /* mov eax, 7; mov [MMIO_AT + 50h], eax; inc eax; mov [MMIO_AT + 50h], eax */
    assert_int_equal(
        RUN(m, 0xb8, 7, 0, 0, 0, 0xa3, 0x50, 0, 0x20, 0, 0x40, 0xa3, 0x50, 0, 0x20, 0, STOP),
        RUN_STOPPED);
    assert_int_equal(m->nr_writes, 1);
    assert_int_equal(m->last_write, 8);
    assert_true(is_ready(n.fd));
    assert_int_equal(read(n.fd, &nr, sizeof(nr)), sizeof(nr));
    assert_int_equal(nr, 1);
    assert_int_equal(kvm_engine.notify_fd(m->evm, &n, false), 0);
    m->v->cpu.rip = CODE_AT;
    kvm_engine.state_changed(m->v);
    assert_int_equal(kvm_engine.run(m->v), RUN_STOPPED);
    assert_int_equal(m->nr_writes, 3);
    assert_false(is_ready(n.fd));
    assert_int_equal(kvm_engine.notify_fd(m->evm, &n, false), -ENOENT);
    (void)close(n.fd);
}

static bool waits(struct machine *m, unsigned vector)
{
    struct kvm_vcpu *k = container_of(m->v, struct kvm_vcpu, iv.vc);
    struct kvm_lapic_state s;
    uint32_t word;

    assert_int_equal(kvm_ioctl(k->fd, KVM_GET_LAPIC, &s), 0);
    memcpy(&word, s.regs + 0x200 + 16 * (size_t)(vector / 32), sizeof(word));
    return word >> (vector % 32) & 1;
}

/* The kernel may do it by a thread of its own. */
static bool comes(struct machine *m, unsigned vector)
{
    while (!waits(m, vector))
        host_yield();
    return true;
}

static void test_descriptor_sends_its_message_until_it_is_closed(void **state)
{
    struct machine *m = machine(state);
    int fd, other;

    if (!vm_of(m)->split) {
        print_message("# this /dev/kvm has no split interrupt controller\n");
        skip();
    }
    m->v->cpu.apic.svr = 0x1ff;
    kvm_engine.state_changed(m->v);
    kvm_engine.prepare(m->evm);
    fd = kvm_engine.msi_fd(m->evm, -1, 0xfee00000, 0x41);
    other = kvm_engine.msi_fd(m->evm, -1, 0xfee00000, 0x61);
    assert_true(fd >= 0 && other >= 0 && fd != other);
    bus_msi_fd_signal(fd);
    assert_true(comes(m, 0x41));
    assert_int_equal(kvm_engine.msi_fd(m->evm, fd, 0xfee00000, 0x51), fd);
    bus_msi_fd_signal(fd);
    assert_true(comes(m, 0x51));
    assert_false(waits(m, 0x61));
    kvm_engine.msi_fd_close(m->evm, fd);
    bus_msi_fd_signal(other);
    assert_true(comes(m, 0x61));
    kvm_engine.msi_fd_close(m->evm, other);
    for (unsigned i = 0; i < KVM_ROUTES_MAX; i++)
        assert_int_equal(vm_of(m)->routes[i].type, 0);
}

/* An ID above 255 is nobody's here, whatever its low bits. */
static void test_message_to_a_long_id_is_not_to_its_low_bits(void **state)
{
    struct machine *m = machine(state);
    const struct kvm_irq_routing_entry *e;
    int fd;

    if (!vm_of(m)->split)
        skip();
    assert_true(model_has(&m->model, FEAT_KVM_MSI_EXT_DEST));
    fd = kvm_engine.msi_fd(m->evm, -1, 0xfee03000 | 0x5a << 5, 0x41);
    assert_true(fd >= 0);
    e = &vm_of(m)->routes[KVM_PINS];
    assert_int_equal(e->u.msi.address_lo, 0xfee03000);
    assert_int_equal(e->u.msi.address_hi, 0x5a00);
    kvm_engine.msi_fd_close(m->evm, fd);
}

static void test_messages_that_are_no_plain_interrupts_are_refused(void **state)
{
    static const struct {
        uint64_t addr;
        uint32_t data;
    } t[] = {
        { 0xfed00000, 0x41 },     /* no local APIC's address */
        { 0x1fee00000ull, 0x41 }, /* nor that */
        { 0xfee00000, 0x441 },    /* NMI */
        { 0xfee00000, 0x541 },    /* INIT */
        { 0xfee00000, 0x0f },     /* no vector */
        { 0xfee00000, 0xc041 },   /* level */
    };
    struct machine *m = machine(state);

    for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
        assert_int_equal(kvm_engine.msi_fd(m->evm, -1, t[i].addr, t[i].data), -ENOTSUP);
}

static void test_without_the_kernels_apics_there_are_no_message_descriptors(void **state)
{
    struct machine *m = machine(state);

    assert_int_equal(kvm_engine.msi_fd(m->evm, -1, 0xfee00000, 0x41), -ENOTSUP);
}

#define SPLIT(name) cmocka_unit_test_setup_teardown(name, set_up_split, tear_down)
#define OFF(name)   cmocka_unit_test_setup_teardown(name, set_up_off, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        SPLIT(test_write_that_matches_makes_the_descriptor_ready_without_an_exit),
        SPLIT(test_descriptor_sends_its_message_until_it_is_closed),
        SPLIT(test_message_to_a_long_id_is_not_to_its_low_bits),
        SPLIT(test_messages_that_are_no_plain_interrupts_are_refused),
        OFF(test_without_the_kernels_apics_there_are_no_message_descriptors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
