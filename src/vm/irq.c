/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine's interrupt wiring: from a device's line or message to the 8259s, the I/O APIC and
 * the local APICs.
 *
 * As on a PC with ACPI: ISA IRQ n is wired to 8259 input n and to I/O APIC pin n, but IRQ 0, whose
 * pin is 2 (the MADT's interrupt source override says so). GSIs from 16 on have a pin and the ISA
 * bridge's router (dev/pirq.h), which may lead them to the 8259s.
 */
#include <errno.h>

#include "lib/probe.h"
#include "lib/trace.h"
#include "vm/priv.h"

#define NR_ISA_IRQS 16
#define NOBODY      UINT32_MAX

/* SDM 3, "Message Address Register Format" and "Message Data Register Format" */
#define MSI_ADDR_BASE    0xfee00000u
#define MSI_ADDR_MASK    0xfff00000u
#define MSI_ADDR_HINT    BIT(3) /* to one of the addressed only */
#define MSI_ADDR_LOGICAL BIT(2)
#define MSI_DATA_ASSERT  BIT(14)
#define MSI_DATA_LEVEL   BIT(15)

static void irq_set_gsi(void *ctx, unsigned gsi, int level)
{
    struct vm *vm = ctx;

    probe(gsi, gsi, (int)level);
    trace(vm->cfg.trace, IRQ, "gsi %u %s", gsi, level ? "up" : "down");
    if (gsi < NR_ISA_IRQS)
        pc_set_pic(vm->pc, gsi, level);
    else
        pc_set_pirq(vm->pc, gsi - NR_ISA_IRQS, level);
    pc_set_ioapic(vm->pc, gsi == 0 ? PIT_IOAPIC_PIN : gsi, level);
}

/* Any one of the ways to a processor will do. */
static bool irq_gsi_waits(void *ctx, unsigned gsi)
{
    struct vm *vm = ctx;
    struct apic_msg msg;

    if (gsi < NR_ISA_IRQS && pc_pic_waits(vm->pc, gsi))
        return true;
    if (!pc_ioapic_msg(vm->pc, gsi == 0 ? PIT_IOAPIC_PIN : gsi, &msg))
        return false;
    for (unsigned i = 0; i < vm->nr_vcpus; i++) {
        const struct cpu *c = &vm->vcpus[i].v->cpu;

        if (apic_matches(c, &msg) && apic_waits(c, msg.vector))
            return true;
    }
    return false;
}

static void irq_send_lowest(struct vm *vm, const struct apic_msg *msg, uint32_t sender)
{
    struct cpu *best = NULL;

    for (unsigned i = 0; i < vm->nr_vcpus; i++) {
        struct cpu *c = &vm->vcpus[i].v->cpu;

        if (c->id == sender || !apic_matches(c, msg))
            continue;
        if (!best || apic_priority(c) < apic_priority(best))
            best = c;
    }
    if (best)
        apic_accept(best, msg);
}

static bool irq_engine_takes(struct vm *vm, const struct apic_msg *msg, uint32_t sender)
{
    return vm->evm && vm->cfg.engine->take_message &&
           vm->cfg.engine->take_message(vm->evm, msg, sender);
}

bool irq_send_one(struct vm *vm, struct cpu *to, const struct apic_msg *msg)
{
    if (irq_engine_takes(vm, msg, NOBODY))
        return true;
    if (!apic_matches(to, msg))
        return false;
    apic_accept(to, msg);
    return true;
}

void irq_send(struct vm *vm, const struct apic_msg *msg, uint32_t sender)
{
    probe(apic_message, msg->dest, (int)msg->vector);
    trace(vm->cfg.trace, IRQ, "message to %s %#x: mode %u vector %#x%s",
          msg->to_all || msg->not_self ? "all, not"
          : msg->logical               ? "logical"
                                       : "physical",
          msg->dest, msg->mode, msg->vector, msg->level ? " level" : "");
    if (irq_engine_takes(vm, msg, sender))
        return;
    if (msg->mode == APIC_LOWEST) {
        irq_send_lowest(vm, msg, sender);
        return;
    }
    for (unsigned i = 0; i < vm->nr_vcpus; i++) {
        struct cpu *c = &vm->vcpus[i].v->cpu;

        if (c->id != sender && apic_matches(c, msg))
            apic_accept(c, msg);
    }
}

static void irq_send_msi(void *ctx, uint64_t addr, uint32_t data)
{
    struct vm *vm = ctx;
    struct apic_msg msg = {
        .dest = bits(addr, 19, 12),
        .vector = (uint8_t)data,
        .mode = (enum apic_delivery)bits(data, 10, 8),
        .logical = addr & MSI_ADDR_LOGICAL,
        .level = data & MSI_DATA_LEVEL,
    };

    if (model_has(&vm->model, FEAT_KVM_MSI_EXT_DEST))
        msg.dest |= (uint32_t)bits(addr, 11, 5) << 8;
    if ((addr >> 32) || (addr & MSI_ADDR_MASK) != MSI_ADDR_BASE) {
        if (log_first(bus_seen(vm->bus), addr))
            log_warn("guest: a message interrupt to %#llx, which is no local APIC's address, "
                     "is dropped",
                     (unsigned long long)addr);
        return;
    }
    /* With a level-triggered message only the asserting half interrupts. */
    if (msg.level && !(data & MSI_DATA_ASSERT))
        return;
    if (msg.mode == APIC_FIXED && msg.logical && (addr & MSI_ADDR_HINT))
        msg.mode = APIC_LOWEST;
    irq_send(vm, &msg, NOBODY);
}

void irq_watch_eoi(struct vm *vm, unsigned pin, const struct apic_msg *msg)
{
    if (vm->evm && vm->cfg.engine->watch_eoi)
        vm->cfg.engine->watch_eoi(vm->evm, pin, msg);
}

/* ---- descriptors: the engine's affair ---- */

static int irq_notify_fd(void *ctx, const struct bus_notify *n, bool on)
{
    struct vm *vm = ctx;

    return vm->evm && vm->cfg.engine->notify_fd ? vm->cfg.engine->notify_fd(vm->evm, n, on)
                                                : -ENOTSUP;
}

static int irq_msi_fd(void *ctx, int fd, uint64_t addr, uint32_t data)
{
    struct vm *vm = ctx;

    return vm->evm && vm->cfg.engine->msi_fd ? vm->cfg.engine->msi_fd(vm->evm, fd, addr, data)
                                             : -ENOTSUP;
}

static void irq_msi_fd_close(void *ctx, int fd)
{
    struct vm *vm = ctx;

    vm->cfg.engine->msi_fd_close(vm->evm, fd);
}

static const struct bus_fd_ops irq_fd_ops = {
    .notify = irq_notify_fd,
    .msi = irq_msi_fd,
    .msi_close = irq_msi_fd_close,
};

void irq_wire(struct vm *vm)
{
    bus_set_fd_ops(vm->bus, &irq_fd_ops, vm);
    bus_set_gsi_sink(vm->bus, irq_set_gsi, irq_gsi_waits, vm);
    bus_set_msi_sink(vm->bus, irq_send_msi, vm);
}
