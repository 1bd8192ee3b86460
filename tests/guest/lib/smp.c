/* SPDX-License-Identifier: Apache-2.0 */
/* Several processors: starting them, and having them run functions. */
#include "smp.h"

#define FWCFG_SELECT  0x510
#define FWCFG_DATA    0x511
#define FWCFG_NR_CPUS 5

#define ICR_INIT 0x4500u
#define ICR_SIPI 0x4600u
#define ICR_BUSY (1u << 12)

#define ROUNDS_MS 1500

extern const uint8_t smp_boot[], smp_boot_end[];
extern uint8_t smp_stacks[SMP_MAX][SMP_STACK];
uint8_t smp_stacks[SMP_MAX][SMP_STACK] __attribute__((aligned(16)));
void smp_main(unsigned cpu);

static volatile unsigned ups[SMP_MAX];
static struct {
    smp_fn *volatile fn;
    volatile word_t arg;
} work[SMP_MAX];

unsigned smp_cpu(void)
{
    return cpuid(1, 0).b >> 24;
}

unsigned smp_nr(void)
{
    uint16_t nr;

    outw(FWCFG_SELECT, FWCFG_NR_CPUS);
    nr = inb(FWCFG_DATA);
    nr |= (uint16_t)(inb(FWCFG_DATA) << 8);
    return nr < SMP_MAX ? nr : SMP_MAX;
}

/* Where smp_boot leads. */
void smp_main(unsigned cpu)
{
    struct table_ptr idt_ptr = { sizeof(idt) - 1, (word_t)idt };

    lidt(&idt_ptr);
    apic_write(APIC_SVR, 0x1ff);
    apic_write(APIC_TPR, 0);
    ups[cpu]++;
    sti();
    for (;;) {
        smp_fn *fn = work[cpu].fn;

        if (!fn) {
            pause();
            continue;
        }
        fn(cpu, work[cpu].arg);
        work[cpu].fn = NULL;
    }
}

void smp_send(unsigned cpu, uint32_t icr)
{
    apic_write(APIC_ICR2, cpu << 24);
    apic_write(APIC_ICR, icr);
    while (apic_read(APIC_ICR) & ICR_BUSY)
        pause();
}

void smp_init(unsigned cpu)
{
    work[cpu].fn = NULL;
    smp_send(cpu, ICR_INIT);
}

void smp_sipi(unsigned cpu, unsigned vector)
{
    smp_send(cpu, ICR_SIPI | vector);
}

unsigned smp_ups(unsigned cpu)
{
    return ups[cpu];
}

void smp_await_up(unsigned cpu, unsigned times)
{
    while (ups[cpu] < times)
        pause();
}

unsigned smp_start(void)
{
    unsigned nr = smp_nr();

    memcpy((void *)SMP_AT, smp_boot, (size_t)(smp_boot_end - smp_boot));
    apic_init();
    for (unsigned cpu = 1; cpu < nr; cpu++) {
        smp_init(cpu);
        delay_us(10000); /* SDM 3, "MP Initialization Example" */
        smp_sipi(cpu, SMP_AT >> 12);
        smp_await_up(cpu, 1);
    }
    return nr;
}

void smp_run(unsigned cpu, smp_fn *fn, word_t arg)
{
    smp_wait(cpu);
    work[cpu].arg = arg;
    work[cpu].fn = fn;
}

void smp_wait(unsigned cpu)
{
    while (work[cpu].fn)
        pause();
}

void smp_all(unsigned nr, smp_fn *fn, word_t arg)
{
    for (unsigned cpu = 1; cpu < nr; cpu++)
        smp_run(cpu, fn, arg);
    fn(0, arg);
    for (unsigned cpu = 1; cpu < nr; cpu++)
        smp_wait(cpu);
}

void smp_meet(struct smp_barrier *b, unsigned nr)
{
    unsigned round = b->round;

    if (__atomic_add_fetch(&b->here, 1, __ATOMIC_SEQ_CST) == nr) {
        b->here = 0;
        __atomic_add_fetch(&b->round, 1, __ATOMIC_SEQ_CST);
        return;
    }
    while (b->round == round)
        pause();
}

struct smp_rounds smp_rounds(unsigned most)
{
    return (struct smp_rounds){ .last = most, .end = rdtsc() + ROUNDS_MS * tsc_per_ms() };
}

void smp_round(struct smp_rounds *r, unsigned i)
{
    if (i < r->last && rdtsc() >= r->end)
        r->last = i;
}
