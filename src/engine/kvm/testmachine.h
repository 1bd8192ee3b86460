/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For the engine's unit tests: a machine of one vCPU and a page of code on /dev/kvm, and devices
 * that write down what came.
 */
#ifndef ENGINE_KVM_TESTMACHINE_H
#define ENGINE_KVM_TESTMACHINE_H

#include "engine/kvm/kvm.h"

/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */
#include <stdlib.h>
#include <string.h>

#define CODE_AT  0x1000u
#define STACK_AT 0x4000u
#define ROM_AT   0x100000u
#define MMIO_AT  0x200000u

struct machine {
    struct mmu *mmu;
    struct slot *ram;
    struct cpu_model model;
    struct log_seen seen;
    struct engine_config cfg;
    struct engine_vm *evm;
    struct vcpu *v;
    unsigned nr_outs, nr_writes;
    uint64_t last_out, last_write, last_at;
    uint64_t tsc_offset, now_ns;
    struct kvm_config kvm;
    unsigned nr_eois;
    uint8_t last_eoi;
    uint8_t pic_vector; /* 0: INTR is down */
};

static inline uint64_t fake_port_read(void *ctx, uint16_t port, unsigned bytes)
{
    (void)ctx, (void)bytes;
    return port;
}

/* Port 10h ends the run, as a device's stop request does. */
static inline void fake_port_write(void *ctx, uint16_t port, unsigned bytes, uint64_t val)
{
    struct machine *m = ctx;

    (void)bytes;
    m->nr_outs++;
    m->last_out = val;
    if (port == 0x10)
        cpu_post(&m->v->cpu, REQ_STOP);
}

static inline uint64_t fake_mmio_read(void *ctx, gpa_t at, unsigned bytes)
{
    (void)ctx, (void)bytes;
    return at.v + 1;
}

static inline void fake_mmio_write(void *ctx, gpa_t at, unsigned bytes, uint64_t val)
{
    struct machine *m = ctx;

    (void)bytes;
    m->nr_writes++;
    m->last_at = at.v;
    m->last_write = val;
}

static inline void fake_hypercall(void *ctx, struct cpu *c)
{
    (void)ctx, (void)c;
}

static const struct platform_ops fake_ops = {
    .port_read = fake_port_read,
    .port_write = fake_port_write,
    .mmio_read = fake_mmio_read,
    .mmio_write = fake_mmio_write,
    .hypercall = fake_hypercall,
};

static inline uint64_t fake_tsc(void *ctx)
{
    return host_tsc() + ((struct machine *)ctx)->tsc_offset;
}

static inline bool fake_tsc_offset(void *ctx, uint64_t *offset)
{
    *offset = ((struct machine *)ctx)->tsc_offset;
    return true;
}

static inline uint64_t fake_now_ns(void *ctx)
{
    return 1000 + ((struct machine *)ctx)->now_ns;
}

static inline uint64_t fake_tsc_to_ns(void *ctx, uint64_t tsc)
{
    (void)ctx;
    return tsc;
}

static inline void fake_apic_timer(void *ctx, uint32_t id, uint64_t deadline_ns)
{
    (void)ctx, (void)id, (void)deadline_ns;
}

static inline void fake_apic_send(void *ctx, uint32_t id, const struct apic_msg *msg)
{
    (void)ctx, (void)id, (void)msg;
}

static inline void fake_apic_eoi(void *ctx, uint32_t id, uint8_t vector)
{
    struct machine *m = ctx;

    (void)id;
    m->nr_eois++;
    m->last_eoi = vector;
}

static inline bool fake_pic_pending(void *ctx)
{
    return ((struct machine *)ctx)->pic_vector;
}

static inline uint8_t fake_pic_ack(void *ctx)
{
    struct machine *m = ctx;
    uint8_t vector = m->pic_vector;

    m->pic_vector = 0;
    return vector;
}

static inline void fake_ferr(void *ctx)
{
    (void)ctx;
}

static const struct platform_time_ops fake_time = {
    .tsc = fake_tsc,
    .tsc_offset = fake_tsc_offset,
    .now_ns = fake_now_ns,
    .tsc_to_ns = fake_tsc_to_ns,
    .apic_timer = fake_apic_timer,
    .apic_send = fake_apic_send,
    .apic_eoi = fake_apic_eoi,
    .pic_pending = fake_pic_pending,
    .pic_ack = fake_pic_ack,
    .ferr = fake_ferr,
};

/* 32-bit flat protected mode without paging at CODE_AT, interrupts off. */
static inline void flat_mode(struct cpu *c)
{
    const uint32_t common = SEG_P | SEG_S | SEG_TYPE_ACCESSED | SEG_TYPE_WRITABLE | SEG_DB | SEG_G;

    for (unsigned i = 0; i < NR_SEGS; i++)
        c->seg[i] = (struct seg){ .limit = UINT32_MAX, .attr = common, .sel = 0x10 };
    c->seg[SEG_CS].attr |= SEG_TYPE_CODE;
    c->seg[SEG_CS].sel = 8;
    c->cr0 = CR0_PE | CR0_ET | CR0_NE;
    c->rip = CODE_AT;
    c->gpr[RSP] = STACK_AT;
    c->rflags = RFLAGS_FIXED1;
    c->activity = CPU_RUNNING;
    cpu_update_mode(c);
}

/* change: NULL, or takes something away from the machine's model. */
static inline int set_up_changed(void **state, enum kvm_irqchip_mode irqchip,
                                 void (*change)(struct machine *m))
{
    const struct slot_desc ram = { .name = "ram", .base = GPA(0), .bytes = 0x8000 };
    const struct slot_desc rom = {
        .name = "rom", .base = GPA(ROM_AT), .bytes = 0x1000, .flags = SLOT_RO
    };
    struct machine *m = calloc(1, sizeof(*m));
    struct slot *slot;
    char err[128];

    assert_non_null(m);
    *state = m;
    m->mmu = mmu_create();
    assert_non_null(m->mmu);
    assert_int_equal(mmu_slot_add(m->mmu, &ram, &m->ram), 0);
    assert_int_equal(mmu_slot_add(m->mmu, &rom, &slot), 0);
    if (kvm_engine.probe(err, sizeof(err)))
        return 0;
    assert_true(cpu_model_init(&m->model, NULL, err, sizeof(err)));
    m->cfg = (struct engine_config){ .mmu = m->mmu,
                                     .model = &m->model,
                                     .ops = &fake_ops,
                                     .time_ops = &fake_time,
                                     .ctx = m,
                                     .seen = &m->seen,
                                     .kvm = &m->kvm };
    m->kvm.irqchip = irqchip;
    kvm_engine.trim_model(&m->model, &m->cfg);
    if (change)
        change(m);
    assert_int_equal(kvm_engine.vm_create(&m->cfg, &m->evm), 0);
    assert_int_equal(kvm_engine.vcpu_create(m->evm, 0, &m->v), 0);
    flat_mode(&m->v->cpu);
    kvm_engine.state_changed(m->v);
    return 0;
}

static inline int set_up_with(void **state, enum kvm_irqchip_mode irqchip)
{
    return set_up_changed(state, irqchip, NULL);
}

static inline int set_up_off(void **state)
{
    return set_up_with(state, KVM_IRQCHIP_OFF);
}

static inline int set_up_split(void **state)
{
    return set_up_with(state, KVM_IRQCHIP_AUTO);
}

static inline int tear_down(void **state)
{
    struct machine *m = *state;

    if (m->v)
        kvm_engine.vcpu_destroy(m->v);
    if (m->evm)
        kvm_engine.vm_destroy(m->evm);
    mmu_destroy(m->mmu);
    free(m);
    return 0;
}

/* The machine, or the test is skipped. */
static inline struct machine *machine(void **state)
{
    struct machine *m = *state;
    char why[256] = "";

    if (!m->v) {
        (void)kvm_engine.probe(why, sizeof(why));
        print_message("# %s\n", why);
        skip();
    }
    return m;
}

static inline enum run_result run_code(struct machine *m, const void *code, size_t bytes)
{
    assert_int_equal(mmu_write(m->mmu, GPA(CODE_AT), code, bytes), bytes);
    return kvm_engine.run(m->v);
}
#define RUN(m, ...) \
    run_code((m), (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))
#define STOP 0xe6, 0x10, 0xf4 /* out 10h, al; hlt */

#endif
