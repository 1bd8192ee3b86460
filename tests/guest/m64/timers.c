/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PIT, RTC, HPET and ACPI PM timer: their modes and registers, and that all of them agree with the
 * TSC about how long a while is.
 */
#include "guest.h"

#define PIT_HZ        1193182u
#define HPET_AT       0xfed00000ul
#define PM_TIMER_PORT 0x608
#define PM_TIMER_HZ   3579545u
#define RED_MASKED    (1u << 16)

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

/* Microseconds that channel 2 counts in what the TSC calls one millisecond. */
static uint32_t pit_ms(void)
{
    unsigned a = pit_latch(2);
    uint64_t start = rdtsc();

    delay_us(1000);
    return (uint32_t)((uint64_t)((a - pit_latch(2)) & 0xffff) * 1000000 / PIT_HZ * 1000 /
                      tsc_to_us(rdtsc() - start));
}

static uint32_t square_edges(void)
{
    bool was = out2();
    uint32_t edges = 0;

    for (uint64_t start = rdtsc(); rdtsc() - start < 2 * tsc_per_ms();) {
        if (out2() != was) {
            was = !was;
            edges++;
        }
    }
    return edges;
}

static void pit_channel_2(void)
{
    unsigned a, b;

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
    pit_load(2, 2, 0xffff);
    EXPECT_TIME(pit_ms, 1000, 5, "PIT: 1193 counts a millisecond");
    pit_load(2, 0, 0x8000);
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

    pit_load(2, 3, 119); /* 10 kHz square wave */
    tcg_deviates("reads port 61h too coarsely");
    EXPECT_TIME(square_edges, 40, 10, "PIT: mode 3 at 10 kHz has about 40 edges in 2 ms");

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
    EXPECT((a & 15) <= 9 && (a >> 4 & 15) <= 9 && (a >> 8 & 15) <= 9 && a <= 0x1000,
           "PIT: BCD counts in decimal");

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

static uint32_t pit_200_hz(void)
{
    uint64_t start;

    settle();
    pit_load(0, 2, PIT_HZ / 200);
    start = rdtsc();
    wait_for(&nr, 4, 1000);
    return tsc_to_us(rdtsc() - start);
}

static void pit_channel_0(void)
{
    redirect(2, 0x61);
    EXPECT_TIME(pit_200_hz, 20000, 10, "PIT: 4 interrupts at 200 Hz take 20 ms");
    pit_load(0, 0, 1193);
    wait_for(&nr, 1000, 5);
    nr = 0;
    wait_for(&nr, 1, 20);
    EXPECT_EQ(nr, 0, "PIT: mode 0 interrupts once");
    redirect(2, RED_MASKED);
}

/* ---- no processor for a while, as on a busy host ---- */

/*
 * How many interrupts come between two instructions, after 60 ms without any at 250 Hz. Linux
 * counts ticks until the TSC says that it is over, and does not boot where it finds fewer than 5.
 */
static unsigned ticks_at_once(void)
{
    settle();
    delay_us(60000);
    asm volatile("sti\n\tnop\n\tcli" ::: "memory");
    return nr;
}

static void pic_handler(struct frame *f)
{
    (void)f;
    nr++;
    pic_eoi(0);
}

/* Hardware would have one, and virtual machines differ. */
static void missed_ticks(void)
{
    tcg_deviates("loses them");
    pit_load(0, 2, PIT_HZ / 250);
    redirect(2, 0x61);
    EXPECT(ticks_at_once() >= 5, "PIT: missed interrupts come at once, by the I/O APIC");
    redirect(2, RED_MASKED);
    tcg_deviates("loses them");
    trap_handle(0x20, pic_handler);
    pic_init(0x20);
    pic_unmask(0);
    apic_write(APIC_LVT_LINT0, 0x700); /* ExtINT */
    EXPECT(ticks_at_once() >= 5, "PIT: by the 8259");
    apic_write(APIC_LVT_LINT0, 0x10000);
    pic_mask_all();
    pit_load(0, 0, 1193);
    delay_us(2000);
    settle();
}

static void refresh(void)
{
    unsigned edges = 0;
    uint8_t was = inb(0x61) & 0x10;

    for (uint64_t start = rdtsc(); edges <= 20 && rdtsc() - start < 1000 * tsc_per_ms();) {
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

static uint32_t rtc_second(void)
{
    uint8_t sec = read_settled(0), sec2;
    uint64_t start;

    while ((sec2 = read_settled(0)) == sec)
        pause();
    start = rdtsc();
    while (read_settled(0) == sec2)
        pause();
    return tsc_to_us(rdtsc() - start);
}

static void rtc_time(void)
{
    uint8_t b = cmos_read(0x0b);
    uint8_t sec;
    uint64_t start;
    bool uip = false;

    EXPECT_EQ(b & 0x06, 0x02, "RTC: 24 hours, BCD");
    EXPECT_EQ(cmos_read(0x0d) & 0x80, 0x80, "RTC: valid");
    EXPECT(from_bcd(read_settled(4)) < 24 && from_bcd(read_settled(2)) < 60,
           "RTC: hours and minutes");
    EXPECT(from_bcd(read_settled(7)) - 1 < 31 && from_bcd(read_settled(8)) - 1 < 12,
           "RTC: day and month");
    EXPECT_EQ(read_settled(0x32), 0x20, "RTC: century");

    EXPECT_TIME(rtc_second, 1000000, 3, "RTC: a second is a second");

    /* Update in progress comes before each update; a busy host makes us miss it often. */
    start = rdtsc();
    uip = false;
    while (!uip && tsc_to_us(rdtsc() - start) < 60000000)
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

static uint32_t rtc_periods(void)
{
    uint8_t b = cmos_read(0x0b) & 0x0f;
    uint64_t start;

    /* 128 Hz: a busy host is too late for 1024 Hz, and ticks that this clock misses are gone. */
    cmos_write(0x0a, 0x29);
    (void)cmos_read(0x0c);
    settle();
    cmos_write(0x0b, b | 0x40);
    start = rdtsc();
    wait_for(&nr_rtc, 9, 1000);
    start = rdtsc() - start;
    cmos_write(0x0b, b);
    (void)cmos_read(0x0c);
    return tsc_to_us(start);
}

static void rtc_interrupts(void)
{
    uint8_t b = cmos_read(0x0b) & 0x0f;

    trap_handle(0x62, rtc_handler);
    redirect(8, 0x62);
    tcg_deviates("is late");
    EXPECT_TIME(rtc_periods, 66400, 10, "RTC: 9 periodic interrupts take 8 to 9 times 7.8 ms");
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

static uint32_t hpet_ms; /* ticks a millisecond */

/* Its microseconds in what the TSC calls 20 milliseconds. */
static uint32_t hpet_20_ms(void)
{
    uint32_t from = hpet_read(0xf0);
    uint64_t start = rdtsc();

    delay_us(20000);
    return (uint32_t)((uint64_t)(hpet_read(0xf0) - from) * 1000 / hpet_ms * 20000 /
                      tsc_to_us(rdtsc() - start));
}

/* Timer 0 in 32-bit mode, by the legacy route. */
static uint32_t hpet_one_shot(void)
{
    uint64_t start;

    hpet_write(0x100, 0x104);
    settle();
    start = rdtsc();
    hpet_write(0x108, hpet_read(0xf0) + 10 * hpet_ms);
    wait_for(&nr, 1, 200);
    return tsc_to_us(rdtsc() - start);
}

static uint32_t hpet_periods(void)
{
    uint64_t start;

    settle();
    hpet_write(
        0x100,
        0x14c); /* periodic; the next write sets the comparator, the one after it the period */
    hpet_write(0x108, hpet_read(0xf0) + 5 * hpet_ms);
    hpet_write(0x108, 5 * hpet_ms);
    start = rdtsc();
    wait_for(&nr, 4, 500);
    return tsc_to_us(rdtsc() - start);
}

static void hpet(void)
{
    uint32_t period = hpet_read(4), caps = hpet_read(0), a;

    hpet_ms = (uint32_t)(1000000000000ull / period);
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
    EXPECT_TIME(hpet_20_ms, 20000, 2, "HPET: agrees with the TSC");
    hpet_write(0x10, 3);
    redirect(2, 0x61);
    EXPECT_TIME(hpet_one_shot, 10000, 20, "HPET: one-shot after 10 ms");
    EXPECT_TIME(hpet_periods, 20000, 15, "HPET: four periods of 5 ms");
    tcg_deviates("loses them");
    EXPECT(ticks_at_once() >= 5, "HPET: missed interrupts come at once");
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
            hpet_write(0x148, hpet_read(0xf0) + hpet_ms);
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

/* ---- all of them: how long is 30 ms of the TSC by the others, in microseconds ---- */
static uint32_t pm_while(void)
{
    uint32_t from = inl(PM_TIMER_PORT);
    uint64_t start = rdtsc();

    while (rdtsc() - start < 30 * tsc_per_ms())
        pause();
    return (uint32_t)((uint64_t)((inl(PM_TIMER_PORT) - from) & 0xffffff) * 1000000 / PM_TIMER_HZ);
}

static uint32_t pit_while(void)
{
    unsigned from = pit_latch(2);
    uint64_t start = rdtsc();

    while (rdtsc() - start < 30 * tsc_per_ms())
        pause();
    return (uint32_t)((uint64_t)((from - pit_latch(2) + 0xffff) % 0xffff) * 1000000 / PIT_HZ);
}

static uint32_t apic_ticks_10_ms(void)
{
    uint32_t from = apic_read(APIC_TIMER_NOW);
    uint64_t start = rdtsc();

    while (rdtsc() - start < 10 * tsc_per_ms())
        pause();
    return from - apic_read(APIC_TIMER_NOW);
}

/* Twice as long is twice as much, as the rate is not known: 20 ms in percent of 10 ms. */
static uint32_t apic_ratio(void)
{
    uint32_t once = apic_ticks_10_ms();

    return (apic_ticks_10_ms() + apic_ticks_10_ms()) * 100 / once;
}

static void agreement(void)
{
    uint64_t start;

    gate2(true);
    pit_load(2, 2, 0xffff);
    apic_write(APIC_TIMER_DIV, 0xb);
    apic_write(APIC_LVT_TIMER, 0x10061);
    apic_write(APIC_TIMER_INIT, 0xffffffff);
    EXPECT_TIME(pm_while, 30000, 2, "PM timer and TSC");
    EXPECT_TIME(pit_while, 30000, 2, "PIT and TSC");
    EXPECT_TIME(apic_ratio, 200, 3, "APIC timer and TSC");
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
    missed_ticks();
    refresh();
    hpet();
    agreement();
    rtc_time();
    rtc_interrupts();
    return 0;
}
