/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What engines and the semantic core ask of the machine while a vCPU runs: ports, device memory,
 * time and interrupts. All on the vCPU's thread, without locks held, but where engine.h says other.
 */
#include <stdatomic.h>

#include "lib/trace.h"
#include "vm/priv.h"

static uint64_t platform_port_read(void *ctx, uint16_t port, unsigned bytes)
{
    struct vm *vm = ctx;
    uint64_t val = bus_port_read(vm->bus, port, bytes);

    trace(vm->cfg.trace, PIO, "in%u %#x -> %#llx", bytes * 8, port, (unsigned long long)val);
    return val;
}

static void platform_port_write(void *ctx, uint16_t port, unsigned bytes, uint64_t val)
{
    struct vm *vm = ctx;

    trace(vm->cfg.trace, PIO, "out%u %#x <- %#llx", bytes * 8, port, (unsigned long long)val);
    bus_port_write(vm->bus, port, bytes, val);
}

static uint64_t platform_mmio_read(void *ctx, gpa_t at, unsigned bytes)
{
    struct vm *vm = ctx;
    uint64_t val = bus_mmio_read(vm->bus, at, bytes);

    trace(vm->cfg.trace, MMIO, "read%u %#llx -> %#llx", bytes * 8, (unsigned long long)at.v,
          (unsigned long long)val);
    return val;
}

static void platform_mmio_write(void *ctx, gpa_t at, unsigned bytes, uint64_t val)
{
    struct vm *vm = ctx;

    trace(vm->cfg.trace, MMIO, "write%u %#llx <- %#llx", bytes * 8, (unsigned long long)at.v,
          (unsigned long long)val);
    bus_mmio_write(vm->bus, at, bytes, val);
}

static void platform_hypercall(void *ctx, struct cpu *c)
{
    vm_hypercall(ctx, c);
}

static void platform_want_shared(void *ctx)
{
    struct vm *vm = ctx;

    atomic_store_explicit(&vm->want_shared, true, memory_order_relaxed);
    run_posted(vm);
}

const struct platform_ops vm_platform_ops = {
    .port_read = platform_port_read,
    .port_write = platform_port_write,
    .mmio_read = platform_mmio_read,
    .mmio_write = platform_mmio_write,
    .hypercall = platform_hypercall,
    .want_shared = platform_want_shared,
};

/* ---- time and interrupts ---- */

static uint64_t platform_tsc(void *ctx)
{
    return clock_tsc(bus_clock(((struct vm *)ctx)->bus));
}

static bool platform_tsc_offset(void *ctx, uint64_t *offset)
{
    return clock_tsc_offset(bus_clock(((struct vm *)ctx)->bus), offset);
}

static uint64_t platform_now_ns(void *ctx)
{
    return clock_now_ns(bus_clock(((struct vm *)ctx)->bus));
}

static uint64_t platform_tsc_to_ns(void *ctx, uint64_t tsc)
{
    return clock_tsc_to_ns(bus_clock(((struct vm *)ctx)->bus), tsc);
}

static uint64_t platform_real_ns(void *ctx)
{
    return clock_real_ns(bus_clock(((struct vm *)ctx)->bus));
}

static uint64_t platform_steal_ns(void *ctx, uint32_t cpu_id)
{
    return host_delay_ns(&((struct vm *)ctx)->vcpus[cpu_id].delay);
}

static void platform_apic_timer(void *ctx, uint32_t cpu_id, uint64_t deadline_ns)
{
    struct vm *vm = ctx;

    trace(vm->cfg.trace, TIMER, "vcpu%u apic timer at %lld ns", cpu_id, (long long)deadline_ns);
    timer_arm(&vm->vcpus[cpu_id].apic_timer, deadline_ns);
}

static void platform_apic_send(void *ctx, uint32_t cpu_id, const struct apic_msg *msg)
{
    irq_send(ctx, msg, cpu_id);
}

static void platform_apic_eoi(void *ctx, uint32_t cpu_id, uint8_t vector)
{
    struct vm *vm = ctx;

    (void)cpu_id;
    lock_take(bus_lock(vm->bus));
    pc_ioapic_eoi(vm->pc, vector);
    lock_drop(bus_lock(vm->bus));
}

static bool platform_pic_pending(void *ctx)
{
    return pc_pic_pending(((struct vm *)ctx)->pc);
}

static uint8_t platform_pic_ack(void *ctx)
{
    struct vm *vm = ctx;
    uint8_t vector;

    lock_take(bus_lock(vm->bus));
    vector = pc_pic_ack(vm->pc);
    lock_drop(bus_lock(vm->bus));
    trace(vm->cfg.trace, IRQ, "8259 acknowledged: vector %#x", vector);
    return vector;
}

static void platform_ferr(void *ctx)
{
    struct vm *vm = ctx;

    lock_take(bus_lock(vm->bus));
    pc_ferr(vm->pc);
    lock_drop(bus_lock(vm->bus));
}

const struct platform_time_ops vm_platform_time_ops = {
    .tsc = platform_tsc,
    .tsc_offset = platform_tsc_offset,
    .now_ns = platform_now_ns,
    .tsc_to_ns = platform_tsc_to_ns,
    .real_ns = platform_real_ns,
    .steal_ns = platform_steal_ns,
    .apic_timer = platform_apic_timer,
    .apic_send = platform_apic_send,
    .apic_eoi = platform_apic_eoi,
    .pic_pending = platform_pic_pending,
    .pic_ack = platform_pic_ack,
    .ferr = platform_ferr,
};
