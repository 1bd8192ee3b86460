/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PIT, RTC, HPET and ACPI PM timer: their modes and registers, and that all of them agree with the TSC about how long a while is.
 */
#include "guest.h"

#define PIT_HZ 1193182u
#define HPET_AT 0xfed00000ul
#define PM_TIMER_PORT 0x608
#define PM_TIMER_HZ 3579545u
#define RED_MASKED (1u << 16)

static volatile unsigned nr;

static void handler(struct frame *f)
{
    (void)f;
    nr++;
    apic_write(APIC_EOI, 0);
}

static void redirect(unsigned pin, uint32_t low)
{
    ioapic_write(0x11 + 2 * pin, apic_read(APIC_ID) & 0xff000000);
    ioapic_write(0x10 + 2 * pin, low);
}

/* Lets in what an earlier part has left pending, and forgets it. */
static volatile unsigned nr_rtc, rtc_flags;
static void settle(void)
{
    sti();
    for (unsigned i = 0; i < 3000; i++)
        pause();
    cli();
    nr = nr_rtc = rtc_flags = 0;
}

/* ---- PIT ---- */
static void pit_load(unsigned channel, unsigned mode, unsigned count)
{
    outb(0x43, (uint8_t)(channel << 6 | 0x30 | mode << 1));
    outb(0x40 + channel, count & 0xff);
    outb(0x40 + channel, count >> 8);
}

static unsigned pit_latch(unsigned channel)
{
    unsigned low;

    outb(0x43, (uint8_t)(channel << 6));
    low = inb(0x40 + channel);
    return low | (unsigned)inb(0x40 + channel) << 8;
}

static uint8_t pit_status(unsigned channel)
{
    outb(0x43, (uint8_t)(0xe0 | 2u << channel));
    return inb(0x40 + channel);
}

static void gate2(bool on)
{
    outb(0x61, (inb(0x61) & ~3u) | on);
}

static bool out2(void)
{
    return inb(0x61) >> 5 & 1;
}

static void pit_channel_2(void)
{
    unsigned a, b, edges = 0;
    bool was;

    gate2(false);
    pit_load(2, 0, 0x8000);
    EXPECT(!out2(), "PIT: mode 0 starts with its output low");
    EXPECT_EQ(pit_status(2) & 0x3f, 0x30, "PIT: status tells mode and access");
    gate2(true);
    delay_us(1000);
    a = pit_latch(2);
    delay_us(1000);
    b = pit_latch(2);
    EXPECT(a < 0x8000 && b < a, "PIT: it counts down with the gate up");
    EXPECT_NEAR((uint64_t)(a - b) * 1000, 1193 * 1000, 25, "PIT: 1193 a millisecond");
    gate2(false);
    a = pit_latch(2);
    delay_us(2000);
    tcg_deviates("ignores the gate");
    EXPECT_EQ(pit_latch(2), a, "PIT: the gate stops it");
    gate2(true);
    delay_us(40000);
    EXPECT(out2(), "PIT: output high after the count");
    delay_us(2000);
    EXPECT(pit_status(2) & 0x80, "PIT: status shows the output, which stays");

    pit_load(2, 3, 1193); /* 1 kHz square wave */
    was = out2();
    for (uint64_t start = rdtsc(); rdtsc() - start < 20 * tsc_per_ms();) {
        if (out2() != was) {
            was = !was;
            edges++;
        }
    }
    tcg_deviates("reads port 61h too coarsely");
    EXPECT(edges >= 36 && edges <= 44, "PIT: mode 3 at 1 kHz has about 40 edges in 20 ms");

    gate2(false);
    pit_load(2, 1, 0x1000);
    EXPECT(out2(), "PIT: mode 1 waits with its output high");
    gate2(true);
    delay_us(500);
    tcg_deviates("ignores the gate");
    EXPECT(!out2(), "PIT: the gate's edge starts it");
    delay_us(6000);
    tcg_deviates("ignores the gate");
    EXPECT(out2(), "PIT: it is over after its count");

    outb(0x43, 0x90); /* channel 2, low byte only, mode 0 */
    outb(0x42, 200);
    outb(0x43, 0x80);
    a = inb(0x42);
    EXPECT(a <= 200, "PIT: one byte is enough in low-byte access");
    outb(0x43, 0xb1); /* BCD */
    outb(0x42, 0x00);
    outb(0x42, 0x10);
    delay_us(50);
    a = pit_latch(2);
    tcg_deviates("has no BCD");
    EXPECT((a & 15) <= 9 && (a >> 4 & 15) <= 9 && (a >> 8 & 15) <= 9 && a <= 0x1000, "PIT: BCD counts in decimal");

    pit_load(2, 2, 0x4000);
    outb(0x43, 0xc8); /* read-back: count and status of channel 2 */
    a = inb(0x42);
    b = inb(0x42);
    b |= (unsigned)inb(0x42) << 8;
    EXPECT_EQ(a & 0x3f, 0x34, "PIT: read-back gives the status first");
    EXPECT(b <= 0x4000, "PIT: then the count");
    outb(0x43, 0x80);
    a = inb(0x42);
    delay_us(500);
    a |= (unsigned)inb(0x42) << 8;
    b = pit_latch(2);
    EXPECT(a > b, "PIT: a latched count stays until it is read");
    gate2(false);
}

static void pit_channel_0(void)
{
    uint64_t start;

    redirect(2, 0x61);
    settle();
    pit_load(0, 2, PIT_HZ / 200);
    start = rdtsc();
    wait_for(&nr, 20, 1000);
    EXPECT_NEAR(tsc_to_us(rdtsc() - start), 100000, 15, "PIT: 20 interrupts at 200 Hz take 100 ms");
    pit_load(0, 0, 1193);
    wait_for(&nr, 1000, 5);
    nr = 0;
    wait_for(&nr, 1, 20);
    EXPECT_EQ(nr, 0, "PIT: mode 0 interrupts once");
    redirect(2, RED_MASKED);
}

static void refresh(void)
{
    unsigned edges = 0;
    uint8_t was = inb(0x61) & 0x10;

    for (uint64_t start = rdtsc(); rdtsc() - start < 2 * tsc_per_ms();) {
        uint8_t now = inb(0x61) & 0x10;

        edges += now != was;
        was = now;
    }
    EXPECT(edges > 20, "port 61h: bit 4 toggles");
}

/* ---- RTC ---- */
static uint8_t cmos_read(uint8_t reg)
{
    outb(0x70, reg);
    return inb(0x71);
}

static void cmos_write(uint8_t reg, uint8_t v)
{
    outb(0x70, reg);
    outb(0x71, v);
}

static unsigned from_bcd(uint8_t v)
{
    return (v >> 4) * 10u + (v & 15);
}

static uint8_t read_settled(uint8_t reg)
{
    while (cmos_read(0x0a) & 0x80)
        pause();
    return cmos_read(reg);
}

static void rtc_time(void)
{
    uint8_t b = cmos_read(0x0b);
    uint8_t sec, sec2;
    uint64_t start;
    bool uip = false;

    EXPECT_EQ(b & 0x06, 0x02, "RTC: 24 hours, BCD");
    EXPECT_EQ(cmos_read(0x0d) & 0x80, 0x80, "RTC: valid");
    EXPECT(from_bcd(read_settled(4)) < 24 && from_bcd(read_settled(2)) < 60, "RTC: hours and minutes");
    EXPECT(from_bcd(read_settled(7)) - 1 < 31 && from_bcd(read_settled(8)) - 1 < 12, "RTC: day and month");
    EXPECT_EQ(read_settled(0x32), 0x20, "RTC: century");

    sec = read_settled(0);
    while ((sec2 = read_settled(0)) == sec)
        pause();
    start = rdtsc();
    while (read_settled(0) == sec2) {
        uip = uip || cmos_read(0x0a) & 0x80;
        pause();
    }
    EXPECT_NEAR(tsc_to_us(rdtsc() - start), 1000000, 3, "RTC: a second is a second");

    /* Update in progress comes before each update. */
    start = rdtsc();
    uip = false;
    while (!uip && tsc_to_us(rdtsc() - start) < 3200000)
        uip = cmos_read(0x0a) & 0x80;
    EXPECT(uip, "RTC: update in progress is seen");

    cmos_write(0x0b, b | 0x80);
    sec = cmos_read(0);
    delay_us(1100000);
    EXPECT_EQ(cmos_read(0), sec, "RTC: SET holds the time");
    cmos_write(0, 0x59);
    cmos_write(2, 0x59);
    cmos_write(0x0b, b);
    delay_us(1200000);
    EXPECT_EQ(read_settled(2), 0x00, "RTC: a minute is carried");
    cmos_write(0x0b, b | 4);
    cmos_write(0, 59);
    EXPECT_EQ(cmos_read(0) <= 59, 1, "RTC: binary mode");
    cmos_write(0x0b, b);
    cmos_write(0x50, 0xa5);
    EXPECT_EQ(cmos_read(0x50), 0xa5, "RTC: CMOS memory");
}

static void rtc_handler(struct frame *f)
{
    (void)f;
    rtc_flags |= cmos_read(0x0c);
    nr_rtc++;
    apic_write(APIC_EOI, 0);
}

static void rtc_interrupts(void)
{
    uint8_t b = cmos_read(0x0b) & 0x0f;
    uint64_t start;

    trap_handle(0x62, rtc_handler);
    redirect(8, 0x62);
    cmos_write(0x0a, 0x26); /* 1024 Hz */
    (void)cmos_read(0x0c);
    settle();
    cmos_write(0x0b, b | 0x40);
    start = rdtsc();
    wait_for(&nr_rtc, 102, 1000);
    tcg_deviates("is late");
    EXPECT_NEAR(tsc_to_us(rdtsc() - start), 100000, 10, "RTC: 102 periodic interrupts take 100 ms");
    EXPECT_EQ(rtc_flags & 0xc0, 0xc0, "RTC: PF and IRQF");
    cmos_write(0x0b, b);
    (void)cmos_read(0x0c);

    settle();
    cmos_write(0x0b, b | 0x10);
    wait_for(&nr_rtc, 1, 1500);
    EXPECT_EQ(rtc_flags & 0x90, 0x90, "RTC: update-ended interrupt");
    cmos_write(0x0b, b);
    (void)cmos_read(0x0c);

    settle();
    cmos_write(1, 0xff); /* any second, minute, hour */
    cmos_write(3, 0xff);
    cmos_write(5, 0xff);
    cmos_write(0x0b, b | 0x20);
    wait_for(&nr_rtc, 1, 1500);
    EXPECT_EQ(rtc_flags & 0xa0, 0xa0, "RTC: alarm every second");
    cmos_write(1, 0x99); /* never */
    delay_us(10000);
    settle();
    wait_for(&nr_rtc, 1, 1300);
    EXPECT_EQ(nr_rtc, 0, "RTC: an alarm that matches no second");
    cmos_write(0x0b, b);
    redirect(8, RED_MASKED);
}

/* ---- HPET ---- */
static uint32_t hpet_read(unsigned reg)
{
    return read32((void *)(HPET_AT + reg));
}

static void hpet_write(unsigned reg, uint32_t v)
{
    write32((void *)(HPET_AT + reg), v);
}

static void hpet(void)
{
    uint32_t period = hpet_read(4), caps = hpet_read(0), a, b, ticks_ms = (uint32_t)(1000000000000ull / period);
    uint64_t start;

    EXPECT(period > 1000000 && period <= 100000000, "HPET: period of at most 100 ns");
    EXPECT((caps >> 8 & 31) >= 2, "HPET: three timers or more");
    EXPECT(caps & 1u << 13, "HPET: 64-bit counter");
    hpet_write(0x10, 0);
    a = hpet_read(0xf0);
    delay_us(1000);
    EXPECT_EQ(hpet_read(0xf0), a, "HPET: stands still");
    hpet_write(0xf0, 0);
    hpet_write(0xf4, 0);
    hpet_write(0x10, 1);
    a = hpet_read(0xf0);
    start = rdtsc();
    delay_us(20000);
    b = hpet_read(0xf0);
    EXPECT_NEAR((uint64_t)(b - a) * 1000 / ticks_ms, tsc_to_us(rdtsc() - start), 3, "HPET: agrees with the TSC");

    /* Timer 0, one-shot, at the I/O APIC pin of the legacy route. */
    hpet_write(0x10, 3);
    hpet_write(0x100, 0x104); /* 32 bits, interrupt enabled */
    redirect(2, 0x61);
    settle();
    start = rdtsc();
    hpet_write(0x108, hpet_read(0xf0) + 10 * ticks_ms);
    wait_for(&nr, 1, 200);
    EXPECT_NEAR(tsc_to_us(rdtsc() - start), 10000, 20, "HPET: one-shot after 10 ms");
    nr = 0;
    hpet_write(0x100, 0x14c); /* periodic, the next write sets the comparator, the one after it the period */
    hpet_write(0x108, hpet_read(0xf0) + 5 * ticks_ms);
    hpet_write(0x108, 5 * ticks_ms);
    start = rdtsc();
    wait_for(&nr, 10, 500);
    EXPECT_NEAR(tsc_to_us(rdtsc() - start), 50000, 15, "HPET: ten periods of 5 ms");
    hpet_write(0x100, 0);
    redirect(2, RED_MASKED);

    /* Timer 2 at a pin of its own, level-triggered. */
    {
        uint32_t routes = hpet_read(0x144);
        unsigned pin = 31;

        while (pin && !(routes >> pin & 1))
            pin--;
        hpet_write(0x10, 1);
        nr = 0;
        if (pin < 24 && routes) {
            redirect(pin, 0x61);
            settle();
            hpet_write(0x140, pin << 9 | 0x104);
            hpet_write(0x148, hpet_read(0xf0) + ticks_ms);
            wait_for(&nr, 1, 100);
            EXPECT_EQ(nr, 1, "HPET: timer 2 at a pin of the I/O APIC");
            redirect(pin, RED_MASKED);
        } else {
            skip("no route below 24", "HPET: timer 2");
        }
        hpet_write(0x140, 0);
    }
    hpet_write(0x10, 1);
}

/* ---- all of them ---- */
static void agreement(void)
{
    const uint64_t while_ticks = 50 * tsc_per_ms();
    uint32_t hpet_ms = (uint32_t)(1000000000000ull / hpet_read(4));
    uint32_t hpet_a, hpet_b, pm_a, pm_b, apic_a, apic_b, us;
    unsigned pit_a, pit_b;
    uint64_t start;

    gate2(true);
    pit_load(2, 2, 0xffff);
    apic_write(APIC_TIMER_DIV, 0xb);
    apic_write(APIC_LVT_TIMER, 0x10061);
    apic_write(APIC_TIMER_INIT, 0xffffffff);
    delay_us(1000);
    pit_a = pit_latch(2);
    apic_a = apic_read(APIC_TIMER_NOW);
    pm_a = inl(PM_TIMER_PORT);
    hpet_a = hpet_read(0xf0);
    start = rdtsc();
    while (rdtsc() - start < while_ticks)
        pause();
    hpet_b = hpet_read(0xf0);
    us = tsc_to_us(rdtsc() - start);
    pm_b = inl(PM_TIMER_PORT);
    apic_b = apic_read(APIC_TIMER_NOW);
    pit_b = pit_latch(2);
    EXPECT_NEAR((uint64_t)((pm_b - pm_a) & 0xffffff) * 1000000 / PM_TIMER_HZ, us, 2, "PM timer and TSC");
    EXPECT_NEAR((uint64_t)(hpet_b - hpet_a) * 1000 / hpet_ms, us, 2, "HPET and TSC");
    EXPECT_NEAR((uint64_t)((pit_a - pit_b) % 0xffff) * 1000000 / PIT_HZ, us, 3, "PIT and TSC");
    EXPECT(apic_a > apic_b, "APIC timer counts");
    {
        /* Its rate is not known: twice as long is twice as much. */
        uint32_t in_50 = apic_a - apic_b, from = apic_read(APIC_TIMER_NOW);

        delay_us(100000);
        EXPECT_NEAR(from - apic_read(APIC_TIMER_NOW), (uint64_t)in_50 * 100000 / us, 3, "APIC timer and TSC");
    }
    start = rdtsc();
    for (unsigned i = 0; i < 1000; i++) {
        uint64_t now = rdtsc();

        if (now < start) {
            EXPECT(false, "the TSC never goes back");
            return;
        }
        start = now;
    }
    EXPECT(true, "the TSC never goes back");
    gate2(false);
}

int main(void)
{
    apic_init();
    (void)tsc_per_ms();
    for (unsigned pin = 0; pin < 24; pin++)
        ioapic_write(0x10 + 2 * pin, RED_MASKED);
    trap_handle(0x61, handler);
    pit_channel_2();
    pit_channel_0();
    refresh();
    hpet();
    agreement();
    rtc_time();
    rtc_interrupts();
    return 0;
}
