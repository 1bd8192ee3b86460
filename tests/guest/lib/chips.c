/* SPDX-License-Identifier: Apache-2.0 */
/* PIC, APIC and time, as far as several guests need them. */
#include "guest.h"

void pic_init(unsigned first_vec)
{
    outb(0x20, 0x11);
    outb(0x21, (uint8_t)first_vec);
    outb(0x21, 4);
    outb(0x21, 1);
    outb(0xa0, 0x11);
    outb(0xa1, (uint8_t)(first_vec + 8));
    outb(0xa1, 2);
    outb(0xa1, 1);
    pic_mask_all();
}

void pic_mask_all(void)
{
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
}

void pic_unmask(unsigned irq)
{
    uint16_t port = irq < 8 ? 0x21 : 0xa1;

    outb(port, inb(port) & ~(1u << (irq & 7)));
    if (irq >= 8)
        outb(0x21, inb(0x21) & ~4u);
}

void pic_eoi(unsigned irq)
{
    if (irq >= 8)
        outb(0xa0, 0x20);
    outb(0x20, 0x20);
}

void apic_init(void)
{
    pic_init(0x20);
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | 0x800);
    apic_write(APIC_SVR, 0x1ff);
    apic_write(APIC_TPR, 0);
    apic_write(APIC_LVT_TIMER, 0x10000);
    apic_write(APIC_LVT_LINT0, 0x10000);
    apic_write(APIC_LVT_LINT1, 0x10000);
    apic_write(APIC_LVT_ERROR, 0x10000);
}

uint32_t ioapic_read(unsigned reg)
{
    write32((void *)IOAPIC_AT, reg);
    return read32((void *)(IOAPIC_AT + 0x10));
}

void ioapic_write(unsigned reg, uint32_t v)
{
    write32((void *)IOAPIC_AT, reg);
    write32((void *)(IOAPIC_AT + 0x10), v);
}

/* 20 ms on channel 2, gate and output by port 61h. */
static uint64_t measure_tsc(void)
{
    const unsigned ms = 20, count = 1193182 / 1000 * ms;
    uint8_t port61 = inb(0x61) & ~3u;
    uint64_t start;

    outb(0x61, port61);
    outb(0x43, 0xb0);
    outb(0x42, count & 0xff);
    outb(0x42, count >> 8);
    outb(0x61, port61 | 1);
    start = rdtsc();
    while (!(inb(0x61) & 0x20))
        pause();
    start = rdtsc() - start;
    outb(0x61, port61);
    return (uint32_t)start / ms;
}

/*
 * The host may take the CPU away in a measurement, which makes it longer, each time by another
 * time: the shortest is right once it was nearly met again.
 */
uint64_t tsc_per_ms(void)
{
    static uint64_t ticks;
    uint64_t best = UINT64_MAX, second = UINT64_MAX;

    for (unsigned i = 0; !ticks && i < 100; i++) {
        uint64_t t = measure_tsc();

        second = t < best ? best : t < second ? t : second;
        best = t < best ? t : best;
        if (i >= 2 && second - best <= best >> 9)
            break;
    }
    if (!ticks)
        ticks = best;
    return ticks;
}

bool expect_time(const struct where *at, measure_fn *measure, uint32_t want_us, unsigned percent,
                 const char *what)
{
    uint32_t us = 0;

    for (unsigned i = 0; i < 60; i++) { /* a busy host */
        us = measure();
        if ((us > want_us ? us - want_us : want_us - us) * 100ull <= want_us * (uint64_t)percent)
            break;
    }
    return expect_near(at, us, want_us, percent, "%s", what);
}

/* 64 by 32 bits without the compiler's library: the quotient must fit in 32 bits. */
static uint32_t divide(uint64_t v, uint32_t by)
{
    uint32_t q, r;

    if ((uint32_t)(v >> 32) >= by)
        return UINT32_MAX;
    asm("divl %4" : "=a"(q), "=d"(r) : "a"((uint32_t)v), "d"((uint32_t)(v >> 32)), "r"(by) : "cc");
    return q;
}

uint32_t tsc_to_us(uint64_t ticks)
{
    return divide(ticks * 1000, (uint32_t)tsc_per_ms());
}

void delay_us(uint32_t us)
{
    uint64_t start = rdtsc();

    while (tsc_to_us(rdtsc() - start) < us)
        pause();
}

bool wait_for(const volatile unsigned *word, unsigned want, unsigned ms)
{
    uint64_t limit = tsc_per_ms() * ms, start = rdtsc();
    word_t flags = read_flags();

    sti();
    while (*word < want && rdtsc() - start < limit)
        pause();
    write_flags(flags);
    return *word >= want;
}
