/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors that stand for an exit or for a message: a guest's write that makes an eventfd ready
 * (ioeventfd), and an eventfd that is an interrupt when it is written (irqfd, with the kernel's
 * local APICs). All with the machine lock held.
 */
#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine/kvm/kvm.h"

int kvm_notify_fd(struct engine_vm *evm, const struct bus_notify *n, bool on)
{
    struct kvm_vm *vm = container_of(evm, struct kvm_vm, ivm.evm);
    struct kvm_ioeventfd e = {
        .addr = n->at.v,
        .len = n->bytes,
        .datamatch = n->val,
        .fd = n->fd,
        .flags = (n->matched ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0) |
                 (on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN),
    };

    if (!vm->any_length && !n->bytes)
        return -ENOTSUP;
    return kvm_ioctl(vm->fd, KVM_IOEVENTFD, &e);
}

static int assign(struct kvm_vm *vm, unsigned gsi, int fd, bool on)
{
    struct kvm_irqfd f = { .fd = (uint32_t)fd,
                           .gsi = gsi,
                           .flags = on ? 0 : KVM_IRQFD_FLAG_DEASSIGN };

    return kvm_ioctl(vm->fd, KVM_IRQFD, &f);
}

static struct kvm_msi_fd *find(struct kvm_vm *vm, int fd)
{
    for (unsigned i = 0; i < ARRAY_SIZE(vm->msi_fds); i++)
        if (vm->msi_fds[i].used && vm->msi_fds[i].fd == fd)
            return &vm->msi_fds[i];
    return NULL;
}

static unsigned gsi_of(const struct kvm_vm *vm, const struct kvm_msi_fd *m)
{
    return KVM_PINS + (unsigned)(m - vm->msi_fds);
}

/* A free one with an eventfd and the route, or NULL. */
static struct kvm_msi_fd *open_fd(struct kvm_vm *vm, const struct kvm_irq_routing_entry *route)
{
    struct kvm_irq_routing_entry e = *route;

    for (unsigned i = 0; i < ARRAY_SIZE(vm->msi_fds); i++) {
        struct kvm_msi_fd *m = &vm->msi_fds[i];

        if (m->used)
            continue;
        e.gsi = gsi_of(vm, m);
        m->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (m->fd < 0)
            return NULL;
        if (kvm_set_route(vm, e.gsi, &e) == 0 && assign(vm, e.gsi, m->fd, true) == 0) {
            m->used = true;
            return m;
        }
        host_close(m->fd);
        return NULL;
    }
    return NULL;
}

/* Of a message's address: bits 14 to 8 of the ID (docs/paravirt.md). The kernel has them in the
 * upper half. */
#define MSI_EXT_DEST 0xfe0u

/* An edge of a vector to a local APIC, or to several (SDM 3, "Message Address Register Format"). */
static bool is_plain(uint64_t addr, uint32_t data)
{
    enum apic_delivery mode = (enum apic_delivery)bits(data, 10, 8);

    return addr >> 20 == 0xfee && !(data & BIT(15)) && (data & 0xff) >= 16 &&
           (mode == APIC_FIXED || mode == APIC_LOWEST);
}

int kvm_msi_fd(struct engine_vm *evm, int fd, uint64_t addr, uint32_t data)
{
    struct kvm_vm *vm = container_of(evm, struct kvm_vm, ivm.evm);
    struct kvm_msi_fd *m = fd < 0 ? NULL : find(vm, fd);
    struct kvm_irq_routing_entry e = { .type = KVM_IRQ_ROUTING_MSI };

    BUG_ON(fd >= 0 && !m);
    /* What the machine would not make a plain message of is its to look at. */
    if (!vm->split || vm->apics_here || !vm->has_irqfd || !is_plain(addr, data))
        return -ENOTSUP;
    e.u.msi.address_lo = (uint32_t)addr & ~MSI_EXT_DEST;
    if (model_has(vm->ivm.evm.cfg.model, FEAT_KVM_MSI_EXT_DEST))
        e.u.msi.address_hi = ((uint32_t)addr & MSI_EXT_DEST) << 3; /* bit 5 is the ID's bit 8 */
    e.u.msi.data = data;
    if (!m) {
        m = open_fd(vm, &e);
        return m ? m->fd : -ENOSPC;
    }
    e.gsi = gsi_of(vm, m);
    return kvm_set_route(vm, e.gsi, &e) < 0 ? -EIO : m->fd;
}

void kvm_msi_fd_close(struct engine_vm *evm, int fd)
{
    struct kvm_vm *vm = container_of(evm, struct kvm_vm, ivm.evm);
    struct kvm_msi_fd *m = find(vm, fd);
    struct kvm_irq_routing_entry none = { .type = 0 };

    BUG_ON(!m);
    /* Neither can fail for one that is there. */
    (void)assign(vm, gsi_of(vm, m), fd, false);
    (void)kvm_set_route(vm, gsi_of(vm, m), &none);
    host_close(fd);
    m->used = false;
}
