/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel's table of interrupt routes: the I/O APIC's pins, whose EOIs it tells of (lapic.c),
 * and behind them the messages of descriptors that raise an interrupt when they are written
 * (irqfd).
 */
#include <errno.h>
#include <string.h>

#include "engine/kvm/kvm.h"
#include "lib/log.h"

/* As the kernel wants it: without those that are free. Caller holds routes_lock. */
static int tell_routes(struct kvm_vm *vm)
{
    struct {
        struct kvm_irq_routing head;
        struct kvm_irq_routing_entry entries[KVM_ROUTES_MAX];
    } t = { .head = { .nr = 0 } };

    assert_held(&vm->routes_lock);
    for (unsigned i = 0; i < KVM_ROUTES_MAX; i++)
        if (vm->routes[i].type)
            t.entries[t.head.nr++] = vm->routes[i];
    return kvm_ioctl(vm->fd, KVM_SET_GSI_ROUTING, &t);
}

int kvm_set_route(struct kvm_vm *vm, unsigned gsi, const struct kvm_irq_routing_entry *e)
{
    struct kvm_irq_routing_entry old;
    int err = 0;

    BUG_ON(gsi >= KVM_ROUTES_MAX);
    lock_take(&vm->routes_lock);
    old = vm->routes[gsi];
    vm->routes[gsi] = *e;
    if (!e->type)
        vm->routes[gsi] = (struct kvm_irq_routing_entry){ .type = 0 };
    /* It costs the kernel a grace period: only for news. */
    if (memcmp(&old, &vm->routes[gsi], sizeof(old)) != 0)
        err = tell_routes(vm);
    if (err) {
        if (log_first(vm->ivm.evm.cfg.seen, LOG_KVM_ROUTES))
            log_warn("/dev/kvm does not take interrupt routes: %s", strerror(-err));
        vm->routes[gsi] = old;
    }
    lock_drop(&vm->routes_lock);
    return err;
}
