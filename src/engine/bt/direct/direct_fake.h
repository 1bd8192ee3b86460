/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small machine for the direct tier's tests: RAM, page tables made by hand, a vCPU at CPL 3, and
 * two ways to run its code to the next SYSCALL or exception: direct_run(), with interp for what it
 * hands back, and interp alone.
 */
#ifndef ENGINE_BT_DIRECT_DIRECT_FAKE_H
#define ENGINE_BT_DIRECT_DIRECT_FAKE_H

#include <stdlib.h>
#include <string.h>

#include "engine/bt/direct/direct.h"
#include "engine/interp/interp.h"

#define RAM_BYTES   MIB(64)
#define ROOT_AT     0x1000ull
#define GDT_AT      0x8000ull
#define IDT_AT      0x9000ull
#define TSS_AT      0xa000ull
#define STACK_AT    0xc000ull
#define HANDLERS_PA 0x50000ull
#define TABLES_AT   MIB(1) /* page tables, upwards */
#define KERNEL_AT   0xffff800000000000ull
#define HANDLERS_AT (KERNEL_AT + HANDLERS_PA)
#define USER_PA     MIB(16) /* user pages, upwards */
#define USER_STACK  0x7fffff000000ull

#define PTE_P   1ull
#define PTE_W   2ull
#define PTE_U   4ull
#define PTE_A   0x20ull
#define PTE_D   0x40ull
#define PTE_G   0x100ull
#define PTE_NX  (1ull << 63)
#define PTE_RW  (PTE_P | PTE_W | PTE_U | PTE_NX)
#define PTE_RX  (PTE_P | PTE_U)
#define PTE_RWX (PTE_P | PTE_W | PTE_U)

struct fake {
    struct mmu *mmu;
    struct engine_vm *evm;
    struct vcpu *v;
    struct slot *ram;
    struct cpu_model model;
    struct log_seen seen;
    struct direct *d;
    uint64_t next_table, next_page;
    uint64_t nr_mmio;
    uint64_t r15;      /* what R15 begins with; 0: its usual value */
    gpa_t writes_code; /* a page whose code the program writes, told before each step; 0: none */
    int vector;        /* of the exception that ended the last run, -1: SYSCALL */
};

static uint64_t fake_port_read(void *ctx, uint16_t port, unsigned bytes)
{
    (void)ctx, (void)port;
    return low_bytes(~0ull, bytes);
}
static void fake_port_write(void *ctx, uint16_t port, unsigned bytes, uint64_t val)
{
    (void)ctx, (void)port, (void)bytes, (void)val;
}
static uint64_t fake_mmio_read(void *ctx, gpa_t at, unsigned bytes)
{
    ((struct fake *)ctx)->nr_mmio++;
    return low_bytes(at.v * 0x0101010101010101ull, bytes);
}
static void fake_mmio_write(void *ctx, gpa_t at, unsigned bytes, uint64_t val)
{
    (void)at, (void)bytes, (void)val;
    ((struct fake *)ctx)->nr_mmio++;
}
static void fake_hypercall(void *ctx, struct cpu *c)
{
    (void)ctx, (void)c;
}
static const struct platform_ops fake_platform = { .port_read = fake_port_read,
                                                   .port_write = fake_port_write,
                                                   .mmio_read = fake_mmio_read,
                                                   .mmio_write = fake_mmio_write,
                                                   .hypercall = fake_hypercall };

static uint64_t fake_time(void *ctx)
{
    (void)ctx;
    return host_tsc();
}
static bool fake_tsc_offset(void *ctx, uint64_t *offset)
{
    (void)ctx;
    *offset = 0;
    return true;
}
static uint64_t fake_tsc_to_ns(void *ctx, uint64_t t)
{
    (void)ctx;
    return t;
}
static void fake_timer(void *ctx, uint32_t id, uint64_t deadline_ns)
{
    (void)ctx, (void)id, (void)deadline_ns;
}
static void fake_apic_send(void *ctx, uint32_t id, const struct apic_msg *msg)
{
    (void)ctx, (void)id, (void)msg;
}
static void fake_apic_eoi(void *ctx, uint32_t id, uint8_t vector)
{
    (void)ctx, (void)id, (void)vector;
}
static bool fake_pic_pending(void *ctx)
{
    (void)ctx;
    return false;
}
static uint8_t fake_pic_ack(void *ctx)
{
    (void)ctx;
    return 0;
}
static void fake_ferr(void *ctx)
{
    (void)ctx;
}
static uint64_t fake_steal_ns(void *ctx, uint32_t id)
{
    (void)ctx, (void)id;
    return 0;
}
static const struct platform_time_ops fake_time_ops = {
    .tsc = fake_time,
    .now_ns = fake_time,
    .tsc_to_ns = fake_tsc_to_ns,
    .real_ns = fake_time,
    .steal_ns = fake_steal_ns,
    .apic_timer = fake_timer,
    .apic_send = fake_apic_send,
    .apic_eoi = fake_apic_eoi,
    .pic_pending = fake_pic_pending,
    .pic_ack = fake_pic_ack,
    .ferr = fake_ferr,
    .tsc_offset = fake_tsc_offset,
};

static inline uint64_t *fake_entry(struct fake *f, uint64_t pa)
{
    return (uint64_t *)(void *)(f->ram->hva + pa);
}

/* The page table entry of va, tables made on the way. */
static inline uint64_t *fake_pte(struct fake *f, uint64_t root, uint64_t va)
{
    uint64_t at = root;

    for (unsigned shift = 39; shift > 12; shift -= 9) {
        uint64_t *e = fake_entry(f, at + (va >> shift & 511) * 8);

        if (!*e) {
            *e = f->next_table | PTE_P | PTE_W | PTE_U;
            f->next_table += PAGE_BYTES;
        }
        at = *e & 0x000ffffffffff000ull;
    }
    return fake_entry(f, at + (va >> 12 & 511) * 8);
}

/* Maps fresh pages; returns where they lie. */
static inline uint64_t fake_map(struct fake *f, uint64_t va, unsigned nr, uint64_t bits)
{
    uint64_t pa = f->next_page;

    for (unsigned i = 0; i < nr; i++, f->next_page += PAGE_BYTES)
        *fake_pte(f, ROOT_AT, va + i * PAGE_BYTES) = f->next_page | bits;
    return pa;
}

static inline void fake_descriptors(struct fake *f)
{
    *fake_entry(f, GDT_AT + 0x08) = 0x00af9b000000ffffull;
    *fake_entry(f, GDT_AT + 0x10) = 0x00cf93000000ffffull;
    *fake_entry(f, GDT_AT + 0x30) = 0x00affb000000ffffull;
    *fake_entry(f, GDT_AT + 0x28) = 0x00cff3000000ffffull;
    memcpy(f->ram->hva + TSS_AT + 4, &(uint64_t){ KERNEL_AT + STACK_AT }, 8); /* RSP0 */
    *fake_entry(f, TSS_AT + 96) = 0x68ull << 48;
    for (unsigned i = 0; i < 32; i++) {
        uint64_t h = HANDLERS_AT + i * 16, dpl = i == VEC_BP ? 0x6000 : 0;

        *fake_entry(f, IDT_AT + i * 16) =
            (h & 0xffff) | 0x08ull << 16 | (0x8e00ull | dpl) << 32 | (h >> 16 & 0xffff) << 48;
        *fake_entry(f, IDT_AT + i * 16 + 8) = h >> 32;
    }
    /* The first 2 MB for the kernel. */
    *fake_entry(f, ROOT_AT + 256 * 8) = 0x2000 | PTE_P | PTE_W;
    *fake_entry(f, 0x2000) = 0x3000 | PTE_P | PTE_W;
    *fake_entry(f, 0x3000) = PTE_P | PTE_W | PTE_A | PTE_D | 0x80;
}

static inline void fake_user_state(struct fake *f, uint64_t rip)
{
    struct cpu *c = &f->v->cpu;
    const uint32_t data = SEG_S | SEG_P | SEG_DPL | 3 | SEG_DB | SEG_G;

    for (unsigned i = 0; i < NR_GPRS; i++)
        c->gpr[i] = 0x1111111111111111ull * i;
    c->gpr[RSP] = USER_STACK;
    if (f->r15)
        c->gpr[R15] = f->r15;
    c->rip = rip;
    c->rflags = RFLAGS_FIXED1 | RFLAGS_IF;
    for (unsigned i = 0; i < NR_SEGS; i++)
        c->seg[i] = (struct seg){ .attr = SEG_UNUSABLE, .limit = UINT32_MAX };
    c->seg[SEG_CS] = (struct seg){ .sel = 0x33,
                                   .attr = SEG_S | SEG_P | SEG_DPL | 0xb | SEG_L | SEG_G,
                                   .limit = UINT32_MAX };
    c->seg[SEG_SS] = (struct seg){ .sel = 0x2b, .attr = data, .limit = UINT32_MAX };
    c->cpl = 3;
    c->gdtr = (struct dtable){ KERNEL_AT + GDT_AT, 0x3f };
    c->idtr = (struct dtable){ KERNEL_AT + IDT_AT, 32 * 16 - 1 };
    c->tr = (struct seg){
        .base = KERNEL_AT + TSS_AT, .limit = 0x67, .sel = 0x38, .attr = SEG_P | SYS_TSS_BUSY
    };
    c->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
    c->cr3 = ROOT_AT;
    c->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE | CR4_UMIP;
    c->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    c->xcr0 = XCR0_X87 | XCR0_SSE | XCR0_AVX;
    memset(&c->fpu, 0, sizeof(c->fpu));
    c->fpu.fcw = 0x37f;
    c->fpu.mxcsr = 0x1f80;
    for (unsigned i = 0; i < 16; i++) {
        memset(c->fpu.xmm[i], (int)(0x10 + i), 16);
        memset(c->fpu.ymmh[i], (int)(0x80 + i), 16);
    }
    c->exc = c->delivering = (struct cpu_exc){ 0 };
    c->activity = CPU_RUNNING;
    c->pending_dbg = 0;
    c->shadow_sti = c->shadow_movss = false;
    c->req = 0;
    f->v->dbg.step = false;
    f->evm->ops->state_changed(f->v);
    f->vector = -2;
}

/* A machine of this engine, ready for user code. */
static inline struct fake *fake_machine(const struct engine_ops *engine)
{
    struct fake *f = calloc(1, sizeof(*f));
    struct engine_config cfg;
    char err[200];

    if (!f || !cpu_model_init(&f->model, "host", err, sizeof(err)))
        return NULL;
    f->model.nr_cpus = 1;
    f->mmu = mmu_create();
    cfg = (struct engine_config){ .mmu = f->mmu,
                                  .model = &f->model,
                                  .ops = &fake_platform,
                                  .time_ops = &fake_time_ops,
                                  .ctx = f,
                                  .seen = &f->seen };
    if (mmu_slot_add(f->mmu, &(struct slot_desc){ .name = "ram", .bytes = RAM_BYTES }, &f->ram) ||
        engine->vm_create(&cfg, &f->evm) || f->evm->ops->vcpu_create(f->evm, 0, &f->v))
        return NULL;
    f->next_table = TABLES_AT;
    f->next_page = USER_PA;
    fake_descriptors(f);
    (void)fake_map(f, USER_STACK - 16 * PAGE_BYTES, 16, PTE_RW);
    fake_user_state(f, 0);
    return f;
}

/* With interp and the direct tier, for fake_run_direct(). */
static inline struct fake *fake_create(void)
{
    struct fake *f = fake_machine(&interp_engine);

    if (!f || direct_create(container_of(f->v, struct ivcpu, vc), &f->d))
        return NULL;
    return f;
}

static inline void fake_destroy(struct fake *f)
{
    if (f->d)
        direct_destroy(f->d);
    f->evm->ops->vcpu_destroy(f->v);
    f->evm->ops->vm_destroy(f->evm);
    mmu_destroy(f->mmu);
    free(f);
}

/* Has an exception been delivered? */
static inline bool fake_in_handler(struct fake *f)
{
    uint64_t rip = f->v->cpu.rip;

    if (rip < HANDLERS_AT || rip >= HANDLERS_AT + 32 * 16)
        return false;
    f->vector = (int)((rip - HANDLERS_AT) / 16);
    return true;
}

static inline bool fake_at_syscall(struct fake *f)
{
    uint8_t b[2] = { 0 };

    (void)f->evm->ops->peek(f->v, GVA(f->v->cpu.rip), b, 2);
    if (b[0] != 0x0f || b[1] != 0x05)
        return false;
    f->vector = -1;
    return true;
}

static inline void fake_step(struct fake *f)
{
    f->v->dbg.step = true;
    (void)f->evm->ops->run(f->v);
    f->v->dbg.step = false;
}

static inline void fake_run_interp(struct fake *f)
{
    while (!fake_at_syscall(f)) {
        fake_step(f);
        if (fake_in_handler(f))
            return;
    }
}

/* The last result of direct_run(): SYSCALL, or what led to an exception. */
static inline enum direct_result fake_run_direct(struct fake *f)
{
    for (;;) {
        enum direct_result res = direct_run(f->d);

        switch (res) {
        case DIRECT_SYSCALL:
            f->vector = -1;
            return res;
        case DIRECT_FAULT:
            (void)!cpu_deliver(&f->v->cpu);
            break;
        case DIRECT_KICKED:
            __atomic_store_n((uint32_t *)&f->v->cpu.req, 0, __ATOMIC_SEQ_CST);
            continue;
        case DIRECT_REFUSED:
            if (!f->writes_code.v || fake_at_syscall(f))
                return res;
            /* fall through */
        case DIRECT_INTERP:
            if (f->writes_code.v)
                direct_code_written(f->d, f->writes_code, PAGE_BYTES);
            fake_step(f);
            break;
        default:
            return res;
        }
        if (fake_in_handler(f))
            return res;
    }
}

#endif
