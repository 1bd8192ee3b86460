/* SPDX-License-Identifier: Apache-2.0 */
/* The same case in a guest: long mode or compatibility mode, CPL 3, the test areas at the same
 * linear addresses and the same segments, one step by the debugger's door. */
#include "insn.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define RAM_BYTES   MIB(2)
#define PT_AT       0x1000ull /* PML4, PDPT, PD, PT for code, PT for data, PT for the handlers */
#define GDT_AT      0x8000ull
#define IDT_AT      0x9000ull
#define TSS_AT      0xa000ull
#define LDT_AT      0xb000ull
#define STACK_AT    0xc000ull
#define CODE_PA     0x20000ull
#define DATA_PA     0x30000ull
#define HANDLERS_PA 0x50000ull
#define KERNEL_CS   0x10ull
#define KERNEL_AT   0xffff800000000000ull /* the first 2 MB of RAM, supervisor */
#define HANDLERS_AT (KERNEL_AT + HANDLERS_PA)

struct insn_guest {
    struct mmu *mmu;
    struct engine_vm *evm;
    struct vcpu *v;
    struct slot *ram;
    struct cpu_model model;
    struct log_seen seen;
    uint64_t tsc;
};

static uint64_t port_read(void *ctx, uint16_t port, unsigned bytes)
{
    (void)ctx, (void)port;
    return low_bytes(~0ull, bytes);
}
static void port_write(void *ctx, uint16_t port, unsigned bytes, uint64_t val)
{
    (void)ctx, (void)port, (void)bytes, (void)val;
}
static uint64_t mmio_read(void *ctx, gpa_t at, unsigned bytes)
{
    (void)ctx, (void)at;
    return low_bytes(~0ull, bytes);
}
static void mmio_write(void *ctx, gpa_t at, unsigned bytes, uint64_t val)
{
    (void)ctx, (void)at, (void)bytes, (void)val;
}
static void hypercall(void *ctx, struct cpu *c)
{
    (void)ctx, (void)c;
}
static const struct platform_ops platform = { .port_read = port_read,
                                              .port_write = port_write,
                                              .mmio_read = mmio_read,
                                              .mmio_write = mmio_write,
                                              .hypercall = hypercall };

static uint64_t tsc(void *ctx)
{
    return ((struct insn_guest *)ctx)->tsc++;
}
static uint64_t tsc_to_ns(void *ctx, uint64_t t)
{
    (void)ctx;
    return t;
}
static void apic_timer(void *ctx, uint32_t id, uint64_t deadline_ns)
{
    (void)ctx, (void)id, (void)deadline_ns;
}
static void apic_send(void *ctx, uint32_t id, const struct apic_msg *msg)
{
    (void)ctx, (void)id, (void)msg;
}
static void apic_eoi(void *ctx, uint32_t id, uint8_t vector)
{
    (void)ctx, (void)id, (void)vector;
}
static bool pic_pending(void *ctx)
{
    (void)ctx;
    return false;
}
static uint8_t pic_ack(void *ctx)
{
    (void)ctx;
    return 0;
}
static void ferr(void *ctx)
{
    (void)ctx;
}
static const struct platform_time_ops time_platform = {
    .tsc = tsc,
    .now_ns = tsc,
    .tsc_to_ns = tsc_to_ns,
    .apic_timer = apic_timer,
    .apic_send = apic_send,
    .apic_eoi = apic_eoi,
    .pic_pending = pic_pending,
    .pic_ack = pic_ack,
    .ferr = ferr,
};

static void put64(struct insn_guest *g, uint64_t pa, uint64_t x)
{
    memcpy(g->ram->hva + pa, &x, 8);
}

static void map(struct insn_guest *g, uint64_t table, uint64_t va, uint64_t pa, uint64_t bits)
{
    put64(g, table + (va >> 12 & 511) * 8, pa | bits);
}

#define P  1ull
#define W  2ull
#define U  4ull
#define AD 0x60ull

static void make_tables(struct insn_guest *g)
{
    const uint64_t pml4 = PT_AT, pdpt = PT_AT + 0x1000, pd = PT_AT + 0x2000,
                   pt_code = PT_AT + 0x3000;
    const uint64_t pt_data = PT_AT + 0x4000, kpdpt = PT_AT + 0x5000, kpd = PT_AT + 0x6000;

    put64(g, pml4, pdpt | P | W | U);
    put64(g, pml4 + 256 * 8, kpdpt | P | W);
    put64(g, pdpt, pd | P | W | U);
    put64(g, kpdpt, kpd | P | W);
    put64(g, kpd, 0 | P | W | AD | 0x80);
    put64(g, pd + (CODE_AT >> 21 & 511) * 8, pt_code | P | W | U);
    put64(g, pd + (DATA_AT >> 21 & 511) * 8, pt_data | P | W | U);
    for (uint64_t off = 0; off < 2 * PAGE_BYTES; off += PAGE_BYTES)
        map(g, pt_code, CODE_AT + off, CODE_PA + off, P | U | AD);
    for (uint64_t off = 0; off < DATA_PAGES * PAGE_BYTES; off += PAGE_BYTES)
        map(g, pt_data, DATA_AT + off, DATA_PA + off, P | W | U | AD | 1ull << 63);
    map(g, pt_data, RO_AT, DATA_PA + DATA_PAGES * PAGE_BYTES, P | U | AD | 1ull << 63);
}

static void make_descriptors(struct insn_guest *g)
{
    for (unsigned i = 0; i < GDT_ENTRIES; i++)
        put64(g, GDT_AT + i * 8, gdt_descriptor(i));
    for (unsigned i = 0; i < NR_LDT; i++)
        put64(g, LDT_AT + i * 8, ldt_descriptor((enum ldt_idx)i));
    put64(g, TSS_AT + 4, KERNEL_AT + STACK_AT);
    put64(g, TSS_AT + 96, 0x68ull << 48); /* no I/O permission map */
    for (unsigned i = 0; i < 32; i++) {
        uint64_t h = HANDLERS_AT + i * 16;
        /* DPL 0, so that INT n of the guest's user is #GP, as on Linux for most; INT3 and INTO are
         * for users */
        uint64_t dpl = i == VEC_BP || i == VEC_OF ? 0x6000 : 0;

        g->ram->hva[HANDLERS_PA + i * 16] = 0xf4; /* hlt: where a program ends */
        put64(g, IDT_AT + i * 16,
              (h & 0xffff) | KERNEL_CS << 16 | (0x8e00ull | dpl) << 32 | (h >> 16 & 0xffff) << 48);
        put64(g, IDT_AT + i * 16 + 8, h >> 32);
    }
}

/* Whatever can be translated is, from the first time on; and nothing depends on the time. */
static const struct bt_config eager = { .hot = 0, .limit = UINT64_MAX, .tiers = BT_TIERS_CHECKED };

int guest_start(const struct engine_ops *engine, const struct bt_config *bt,
                struct insn_guest **out)
{
    struct insn_guest *g = calloc(1, sizeof(*g));
    struct engine_config cfg;
    char err[200];
    int rc;

    if (!g)
        return -1;
    if (!cpu_model_init(&g->model, "host", err, sizeof(err)))
        return -1;
    g->model.nr_cpus = 1;
    g->mmu = mmu_create();
    rc = mmu_slot_add(g->mmu, &(struct slot_desc){ .name = "ram", .bytes = RAM_BYTES }, &g->ram);
    if (rc < 0)
        return rc;
    cfg = (struct engine_config){ .mmu = g->mmu,
                                  .model = &g->model,
                                  .ops = &platform,
                                  .time_ops = &time_platform,
                                  .ctx = g,
                                  .seen = &g->seen,
                                  .bt = bt ? bt : &eager };
    rc = engine->vm_create(&cfg, &g->evm);
    if (rc < 0)
        return rc;
    rc = engine->vcpu_create(g->evm, 0, &g->v);
    if (rc < 0)
        return rc;
    make_tables(g);
    make_descriptors(g);
    *out = g;
    return 0;
}

void guest_stop(struct insn_guest *g)
{
    g->evm->ops->vcpu_destroy(g->v);
    g->evm->ops->vm_destroy(g->evm);
    mmu_destroy(g->mmu);
    free(g);
}

static void user_state(struct cpu *c, const struct regs *r)
{
    memcpy(c->gpr, r->gpr, sizeof(r->gpr));
    c->rip = r->rip;
    c->rflags = r->rflags;
    for (unsigned i = 0; i < NR_SEGS; i++)
        c->seg[i] = seg_of(r->sel[i]);
    c->seg[SEG_FS].base = r->fs_base;
    c->seg[SEG_GS].base = r->gs_base;
    c->cpl = 3;
    c->gdtr = (struct dtable){ KERNEL_AT + GDT_AT, GDT_ENTRIES * 8 - 1 };
    c->ldtr = (struct seg){
        .base = KERNEL_AT + LDT_AT, .limit = NR_LDT * 8 - 1, .sel = 0x50, .attr = SEG_P | SYS_LDT
    };
    c->idtr = (struct dtable){ KERNEL_AT + IDT_AT, 32 * 16 - 1 };
    c->tr = (struct seg){
        .base = KERNEL_AT + TSS_AT, .limit = 0x67, .sel = 0x40, .attr = SEG_P | SYS_TSS_BUSY
    };
    c->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
    c->cr3 = PT_AT;
    c->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE | CR4_UMIP;
    c->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    c->xcr0 = XCR0_X87 | XCR0_SSE | XCR0_AVX;
    c->fpu = r->fpu;
    c->fpu_cs = c->fpu_ds = 0;
    c->exc = c->delivering = (struct cpu_exc){ 0 };
    c->pending_dbg = 0;
    c->shadow_sti = c->shadow_movss = false;
    c->activity = CPU_RUNNING;
}

static bool pushes_error_code(int vector)
{
    return vector == VEC_DF || (vector >= VEC_TS && vector <= VEC_PF) || vector == VEC_AC;
}

/* run() has come back from where programs end: from how, the debugger's stop as the handler is
 * entered or the HLT it begins with. */
static void read_outcome(struct insn_guest *g, enum run_result res, enum run_result how,
                         struct outcome *out)
{
    const struct cpu *c = &g->v->cpu;

    memset(&out->regs, 0, sizeof(out->regs));
    memcpy(out->regs.gpr, c->gpr, sizeof(out->regs.gpr));
    out->regs.rip = c->rip;
    out->regs.rflags = c->rflags;
    for (unsigned i = 0; i < NR_SEGS; i++)
        out->regs.sel[i] = c->seg[i].sel;
    out->regs.fs_base = c->seg[SEG_FS].base;
    out->regs.gs_base = c->seg[SEG_GS].base;
    out->regs.fpu = c->fpu;
    out->vector = -1;
    out->err = 0;
    out->fault_at = 0;
    if (res != how) {
        out->vector = 100 + (int)res;
    } else if (c->rip >= HANDLERS_AT && c->rip < HANDLERS_AT + 32 * 16) {
        /* What was interrupted is on the ring 0 stack: [error code,] RIP, CS, RFLAGS, RSP, SS from
         * the top down. */
        const uint64_t *top = (const uint64_t *)(const void *)(g->ram->hva + STACK_AT);

        out->vector = (int)((c->rip - HANDLERS_AT) / 16);
        out->err = pushes_error_code(out->vector) ? (uint32_t)top[-6] : 0;
        out->fault_at = out->vector == VEC_PF ? c->cr2 : 0;
        out->regs.rip = top[-5];
        out->regs.sel[SEG_CS] = (uint16_t)top[-4];
        out->regs.rflags = top[-3];
        out->regs.gpr[RSP] = top[-2];
        out->regs.sel[SEG_SS] = (uint16_t)top[-1];
    }
    memcpy(out->data, g->ram->hva + DATA_PA, AREA_BYTES);
}

void guest_run(struct insn_guest *g, const struct insn_case *k, struct outcome *out)
{
    const struct engine_ops *e = g->evm->ops;
    struct cpu *c = &g->v->cpu;
    enum run_result res;

    /* Through mmu_write, so that cached code is dropped. */
    (void)mmu_write(g->mmu, GPA(CODE_PA + k->code_off), k->code, case_code_bytes(k));
    memcpy(g->ram->hva + DATA_PA, k->data, AREA_BYTES);
    user_state(c, &k->in);
    g->v->dbg.step = true;
    e->state_changed(g->v);
    res = e->run(g->v);
    if (k->two_steps && res == RUN_DEBUG && c->cpl == 3)
        res = e->run(g->v);
    read_outcome(g, res, RUN_DEBUG, out);
}

void guest_exec(struct insn_guest *g, const struct exec *x, struct outcome *out)
{
    const struct engine_ops *e = g->evm->ops;
    enum run_result res;

    (void)mmu_write(g->mmu, GPA(CODE_PA), x->code, CODE_BYTES);
    memcpy(g->ram->hva + DATA_PA, x->data, AREA_BYTES);
    user_state(&g->v->cpu, x->in);
    g->v->dbg.step = false;
    g->v->run_limit = x->run_limit;
    atomic_fetch_and(&g->v->cpu.req, ~REQ_STOP); /* of a program before */
    e->state_changed(g->v);
    do
        res = e->run(g->v);
    while (res == RUN_LIMIT);
    read_outcome(g, res, RUN_HALTED, out);
}

void guest_interrupt(struct insn_guest *g)
{
    cpu_post(&g->v->cpu, REQ_STOP);
}
