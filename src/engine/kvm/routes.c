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

/* All are messages, or free. */
static bool same(const struct kvm_irq_routing_entry *a, const struct kvm_irq_routing_entry *b)
{
    return a->type == b->type && a->u.msi.address_lo == b->u.msi.address_lo &&
           a->u.msi.address_hi == b->u.msi.address_hi && a->u.msi.data == b->u.msi.data;
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
    if (!same(&old, &vm->routes[gsi]))
        err = tell_routes(vm);
    if (err) {
        if (log_first(vm->ivm.evm.cfg.seen, LOG_KVM_ROUTES))
            log_warn("/dev/kvm does not take interrupt routes: %s", strerror(-err));
        vm->routes[gsi] = old;
    }
    lock_drop(&vm->routes_lock);
    return err;
}
