/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several processors: how they start, and what they send each other. SDM 3, "Multiple-Processor
 * (MP) Initialization" and "Issuing Interprocessor Interrupts". Runs with --cpus 4.
 *
 * Nothing here depends on time: what must happen is waited for; that something did not happen is
 * looked at behind a message that was sent later.
 */
#include "smp.h"

#define VEC_A     0x51u
#define VEC_B     0x61u
#define VEC_FENCE 0x41u /* of lower priority than A and B: comes behind them */

#define ICR_LOGICAL (1u << 11)
#define ICR_LOWEST  (1u << 8)
#define ICR_NMI     (4u << 8)
#define ICR_SELF    (1u << 18)
#define ICR_ALL     (2u << 18)
#define ICR_OTHERS  (3u << 18)
#define BASE_X2     (1u << 10)
#define BASE_BSP    (1u << 8)
#define X2_ICR      (MSR_X2APIC + (APIC_ICR >> 4))
#define X2_LDR      (MSR_X2APIC + (APIC_LDR >> 4))
#define X2_ID       (MSR_X2APIC + (APIC_ID >> 4))
#define X2_EOI      (MSR_X2APIC + (APIC_EOI >> 4))

static unsigned nr;
static bool x2;
static volatile unsigned seen[SMP_MAX][256];

static void eoi(void)
{
    if (x2)
        wrmsr(X2_EOI, 0);
    else
        apic_write(APIC_EOI, 0);
}

static void on_vector(struct frame *f)
{
    seen[smp_cpu()][f->vec]++;
    if (f->vec != VEC_NMI)
        eoi();
}

static void clear(void)
{
    for (unsigned cpu = 0; cpu < nr; cpu++)
        for (unsigned vec = 0; vec < 256; vec++)
            seen[cpu][vec] = 0;
}

static void send(uint32_t dest, uint32_t icr)
{
    if (x2) {
        wrmsr(X2_ICR, (uint64_t)dest << 32 | icr);
        return;
    }
    smp_send(dest, icr);
}

/* All messages sent before have come in everywhere: on this processor by a window. */
static void fence(void)
{
    unsigned before[SMP_MAX];

    for (unsigned cpu = 0; cpu < nr; cpu++)
        before[cpu] = seen[cpu][VEC_FENCE];
    for (unsigned cpu = 0; cpu < nr; cpu++)
        send(cpu, VEC_FENCE);
    sti();
    for (unsigned cpu = 0; cpu < nr; cpu++)
        while (seen[cpu][VEC_FENCE] == before[cpu])
            pause();
    cli();
}

/* Who has got the vector once: a bit each. More than once sets bit 31. */
static unsigned who(unsigned vec)
{
    unsigned mask = 0;

    fence();
    for (unsigned cpu = 0; cpu < nr; cpu++) {
        mask |= seen[cpu][vec] ? 1u << cpu : 0;
        mask |= seen[cpu][vec] > 1 ? 1u << 31 : 0;
    }
    clear();
    return mask;
}

/* ---- who is who ---- */

static struct {
    unsigned id, leaf1, leafb, per_core, cpus;
    bool bsp, htt;
} me[SMP_MAX];

static void look(unsigned cpu, word_t arg)
{
    (void)arg;
    me[cpu].id = apic_read(APIC_ID) >> 24;
    me[cpu].leaf1 = cpuid(1, 0).b >> 24;
    me[cpu].htt = cpuid(1, 0).d >> 28 & 1;
    me[cpu].leafb = cpuid(0xb, 0).d;
    me[cpu].per_core = cpuid(0xb, 0).b;
    me[cpu].cpus = cpuid(0xb, 1).b;
    me[cpu].bsp = rdmsr(MSR_APIC_BASE) & BASE_BSP;
}

static void identity(void)
{
    smp_all(nr, look, 0);
    for (unsigned cpu = 0; cpu < nr; cpu++) {
        EXPECT_EQ(me[cpu].id, cpu, "APIC ID of CPU %u", cpu);
        EXPECT_EQ(me[cpu].leaf1, cpu, "CPUID leaf 1 tells CPU %u its ID", cpu);
        EXPECT_EQ(me[cpu].leafb, cpu, "CPUID leaf Bh, too");
        EXPECT(me[cpu].htt, "CPU %u knows that there are others", cpu);
        EXPECT(me[cpu].bsp == (cpu == 0), "CPU %u is %sthe bootstrap processor", cpu,
               cpu ? "not " : "");
        tcg_deviates("makes sockets of them");
        EXPECT_EQ(me[cpu].cpus, nr, "CPUs of the package by leaf Bh");
        EXPECT_EQ(me[cpu].per_core, 1, "threads of a core by leaf Bh");
    }
}

/* ---- starting ---- */

/* What the processor finds at its start-up vector: stores its registers at 9800h and halts. */
#define PROBE_AT   0x9000u
#define PROBE_OUT  0x9800u
#define PROBE_MARK 0xa55a
extern const uint8_t probe[], probe_end[];
asm(".pushsection .rodata\n"
    ".code16\n"
    "probe:\n"
    "  xor %ax, %ax\n"
    "  mov %ax, %ds\n"
    "  mov %cs, 0x9802\n"
    "  mov %edx, 0x9808\n"
    "  mov %cr0, %eax\n"
    "  mov %eax, 0x980c\n"
    "  call 1f\n"
    "1: pop %ax\n"
    "  sub $1b - probe, %ax\n"
    "  mov %ax, 0x9804\n"
    "  mov $0xa55a, %ax\n"
    "  mov %ax, 0x9800\n"
    "2: hlt\n"
    "  jmp 2b\n"
    "probe_end:\n"
    ".code64\n"
    ".popsection\n");

static void starting(void)
{
    volatile uint16_t *out = (volatile uint16_t *)PROBE_OUT;
    unsigned ups = smp_ups(1);

    /* One that runs takes no notice of SIPI. */
    smp_sipi(1, PROBE_AT >> 12);
    fence();
    clear();
    EXPECT_EQ(out[0], 0, "SIPI without INIT does nothing");

    memcpy((void *)PROBE_AT, probe, (size_t)(probe_end - probe));
    smp_init(1);
    smp_sipi(1, PROBE_AT >> 12);
    while (out[0] != PROBE_MARK)
        pause();
    EXPECT_EQ(out[1], PROBE_AT >> 4, "after SIPI CS is the vector * 100h");
    EXPECT_EQ(out[2], 0, "and IP 0");
    EXPECT_EQ(*(volatile uint32_t *)(out + 4), cpuid(1, 0).a, "EDX is the signature");
    EXPECT_EQ(*(volatile uint32_t *)(out + 6) & ~(CR0_CD | CR0_NW), 0x10,
              "CR0 but for CD and NW is 10h");

    /* Halted, with interrupts off, INIT gets it out. */
    smp_init(1);
    smp_sipi(1, SMP_AT >> 12);
    smp_sipi(1, SMP_AT >> 12); /* the second one that all systems send */
    smp_await_up(1, ups + 1);
    EXPECT_EQ(smp_ups(1), ups + 1, "started again, once");
    fence();
    clear();
}

/* ---- messages ---- */

static void set_ldr(unsigned cpu, word_t cluster)
{
    apic_write(APIC_DFR, cluster ? 0x0fffffff : 0xffffffff);
    apic_write(APIC_LDR, (cluster ? (cpu / 2 << 4 | 1u << cpu % 2) : 1u << cpu) << 24);
}

static void physical(void)
{
    for (unsigned cpu = 0; cpu < nr; cpu++) {
        send(cpu, VEC_A);
        EXPECT_EQ(who(VEC_A), 1u << cpu, "a message to CPU %u", cpu);
    }
    send(0, ICR_SELF | VEC_A);
    EXPECT_EQ(who(VEC_A), 1, "to self");
    send(0, ICR_ALL | VEC_A);
    EXPECT_EQ(who(VEC_A), (1u << nr) - 1, "to all");
    send(0, ICR_OTHERS | VEC_A);
    EXPECT_EQ(who(VEC_A), (1u << nr) - 2, "to all others");
    send(x2 ? 0xffffffff : 0xff, VEC_A);
    EXPECT_EQ(who(VEC_A), (1u << nr) - 1, "to the broadcast ID");
    send(nr + 7, VEC_A);
    EXPECT_EQ(who(VEC_A), 0, "to nobody");
    send(1, VEC_A);
    send(1, VEC_B);
    EXPECT_EQ(who(VEC_B), 2, "two vectors to one");
    send(0, ICR_OTHERS | ICR_NMI);
    for (unsigned cpu = 1; cpu < nr; cpu++)
        while (!seen[cpu][VEC_NMI])
            pause();
    EXPECT_EQ(who(VEC_NMI), (1u << nr) - 2, "NMI to all others");
    send(2, ICR_NMI);
    while (!seen[2][VEC_NMI])
        pause();
    EXPECT_EQ(who(VEC_NMI), 4, "NMI to one");
}

static void logical(void)
{
    unsigned got;

    smp_all(nr, set_ldr, 0);
    send(0x0a, ICR_LOGICAL | VEC_A);
    EXPECT_EQ(who(VEC_A), 0x0a, "logical, flat: CPUs 1 and 3");
    send(0xff, ICR_LOGICAL | VEC_A);
    EXPECT_EQ(who(VEC_A), (1u << nr) - 1, "logical, flat: all");
    send(0x0e, ICR_LOGICAL | ICR_LOWEST | VEC_A);
    got = who(VEC_A);
    EXPECT(got == 2 || got == 4 || got == 8, "lowest priority: one of CPUs 1 to 3 (%x)", got);

    tcg_deviates("knows no cluster model");
    smp_all(nr, set_ldr, 1);
    send(0x12, ICR_LOGICAL | VEC_A);
    EXPECT_EQ(who(VEC_A), 8, "logical, cluster 1, CPU 1 of it: CPU 3");
    send(0x03, ICR_LOGICAL | VEC_A);
    EXPECT_EQ(who(VEC_A), 3, "cluster 0, both of it");
    tcg_deviates("knows no cluster model");
    send(0xf1, ICR_LOGICAL | VEC_A);
    EXPECT_EQ(who(VEC_A), 5, "all clusters, the first of each");
}

static void to_x2(unsigned cpu, word_t arg)
{
    (void)cpu, (void)arg;
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | BASE_X2);
}

static volatile uint32_t x2_ids[SMP_MAX], x2_ldrs[SMP_MAX];

static void look_x2(unsigned cpu, word_t arg)
{
    (void)arg;
    x2_ids[cpu] = (uint32_t)rdmsr(X2_ID);
    x2_ldrs[cpu] = (uint32_t)rdmsr(X2_LDR);
}

static void x2apic(void)
{
    unsigned got;

    if (!has_x2apic()) {
        skip("no x2APIC", "x2APIC");
        return;
    }
    smp_all(nr, to_x2, 0);
    x2 = true;
    smp_all(nr, look_x2, 0);
    for (unsigned cpu = 0; cpu < nr; cpu++) {
        EXPECT_EQ(x2_ids[cpu], cpu, "x2APIC ID of CPU %u", cpu);
        EXPECT_EQ(x2_ldrs[cpu], 1u << cpu, "its logical ID");
    }
    physical();
    send(0x5, ICR_LOGICAL | VEC_A);
    EXPECT_EQ(who(VEC_A), 5, "x2APIC, logical: CPUs 0 and 2");
    send(0xc, ICR_LOGICAL | ICR_LOWEST | VEC_A);
    got = who(VEC_A);
    EXPECT(got == 4 || got == 8, "x2APIC, lowest priority: CPU 2 or 3 (%x)", got);
    send(0x10001, ICR_LOGICAL | VEC_A);
    EXPECT_EQ(who(VEC_A), 0, "x2APIC, a cluster that is not there");
}

/* ---- halting ---- */

static volatile bool halting;

static void halt(unsigned cpu, word_t times)
{
    unsigned first = seen[cpu][VEC_B];

    cli();
    halting = true;
    while (seen[cpu][VEC_B] - first < times)
        sti_hlt_cli();
    sti();
}

static void wakes(void)
{
    smp_run(1, halt, 200);
    while (!halting)
        pause();
    for (unsigned i = 0; i < 200; i++) {
        send(1, VEC_B);
        while (seen[1][VEC_B] == i)
            pause();
    }
    smp_wait(1);
    EXPECT_EQ(seen[1][VEC_B], 200, "each message wakes who halts");
    clear();
}

/* ---- ends ---- */

static void triple(unsigned cpu, word_t arg)
{
    const struct table_ptr none = { 0, 0 };

    (void)cpu, (void)arg;
    cli();
    lidt(&none);
    asm volatile("ud2");
}

static void reset(unsigned cpu, word_t arg)
{
    (void)cpu, (void)arg;
    outb(0xcf9, 6);
}

static void spin(unsigned cpu, word_t arg)
{
    (void)cpu, (void)arg;
    for (;;)
        asm volatile("");
}

static void end_by(smp_fn *fn)
{
    guest_plan();
    smp_run(1, spin, 0);
    smp_run(2, fn, 0);
    spin(0, 0);
}

int main(void)
{
    for (unsigned vec = 32; vec < 0xff; vec++)
        trap_handle(vec, on_vector);
    trap_handle(VEC_NMI, on_vector);
    nr = smp_start();
    EXPECT_EQ(nr, 4, "number of CPUs");
    if (nr != 4)
        return 0;
    if (str_has(boot_args(), "triple"))
        end_by(triple);
    if (str_has(boot_args(), "reset"))
        end_by(reset);
    identity();
    starting();
    physical();
    logical();
    wakes();
    x2apic();
    return 0;
}
