/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Local APIC: identity, interrupts to oneself, priorities, errors, destinations, the timer in its
 * three modes, x2APIC. SDM 3, "Advanced Programmable Interrupt Controller (APIC)".
 */
#include "guest.h"

#define ICR_LOGICAL  (1u << 11)
#define ICR_SELF     (1u << 18)
#define ICR_ALL      (2u << 18)
#define ICR_OTHERS   (3u << 18)
#define ICR_LOWEST   (1u << 8)
#define LVT_MASKED   (1u << 16)
#define LVT_PERIODIC (1u << 17)
#define LVT_DEADLINE (2u << 17)
#define ESR_ILLEGAL_VECTOR                                                 \
    (3u << 5) /* sent or received; of one to itself the manual allows both \
               */
#define BASE_X2     (1u << 10)
#define BASE_ENABLE (1u << 11)
#define X2(reg)     (MSR_X2APIC + ((reg) >> 4))

static volatile unsigned nr;
static uint8_t order[16];
static uint32_t isr_seen, ppr_seen, irr_seen;

static bool vec_bit(unsigned reg, unsigned vec)
{
    return apic_read(reg + (vec / 32) * 16) >> (vec & 31) & 1;
}

static void handler(struct frame *f)
{
    if (nr < ARRAY_SIZE(order))
        order[nr] = (uint8_t)f->vec;
    isr_seen = vec_bit(APIC_ISR, (unsigned)f->vec);
    irr_seen = vec_bit(APIC_IRR, (unsigned)f->vec);
    ppr_seen = apic_read(APIC_PPR);
    nr++;
    apic_write(APIC_EOI, 0);
}

static void send_self(unsigned vec)
{
    apic_write(APIC_ICR, ICR_SELF | vec);
    while (apic_read(APIC_ICR) & 1u << 12)
        pause();
}

/* Lets in what is pending. */
static void window(void)
{
    sti();
    for (unsigned i = 0; i < 2000; i++)
        pause();
    cli();
}

static void identity(void)
{
    EXPECT_EQ(apic_read(APIC_ID) >> 24, cpuid(1, 0).b >> 24, "ID is the one of CPUID");
    EXPECT((apic_read(APIC_VERSION) & 0xff) >= 0x10, "an integrated APIC");
    EXPECT((apic_read(APIC_VERSION) >> 16 & 0xff) >= 4, "with five or more LVT entries");
    EXPECT_EQ(rdmsr(MSR_APIC_BASE) & 0xfffff100, APIC_AT | 0x100, "base address and BSP");
    EXPECT(cpuid(1, 0).d >> 9 & 1, "CPUID has APIC");
}

static void self_ipi(void)
{
    nr = 0;
    send_self(0x51);
    EXPECT(vec_bit(APIC_IRR, 0x51), "IRR while IF is clear");
    window();
    EXPECT_EQ(nr, 1, "comes with IF");
    EXPECT_EQ(order[0], 0x51, "with its vector");
    EXPECT_EQ(isr_seen, 1, "ISR in the handler");
    EXPECT_EQ(irr_seen, 0, "IRR not any more");
    EXPECT_EQ(ppr_seen, 0x50, "PPR in the handler");
    EXPECT(!vec_bit(APIC_ISR, 0x51), "EOI clears ISR");
    nr = 0;
    send_self(0x51);
    send_self(0x51);
    window();
    EXPECT_EQ(nr, 1, "twice pending is once");
}

static void priorities(void)
{
    nr = 0;
    send_self(0x41);
    send_self(0x61);
    send_self(0x45);
    send_self(0x51);
    window();
    EXPECT_EQ(nr, 4, "four at once");
    EXPECT(order[0] == 0x61 && order[1] == 0x51 && order[2] == 0x45 && order[3] == 0x41,
           "highest vector first");
    nr = 0;
    apic_write(APIC_TPR, 0x50);
    EXPECT_EQ(apic_read(APIC_PPR), 0x50, "PPR follows TPR");
    send_self(0x41);
    send_self(0x5f);
    send_self(0x61);
    window();
    EXPECT_EQ(nr, 1, "TPR 50h lets class 6 in");
    EXPECT_EQ(order[0], 0x61, "alone");
    {
        word_t cr8;

        asm volatile("mov %%cr8, %0" : "=r"(cr8));
        EXPECT_EQ(cr8, 5, "CR8 is TPR's class");
        asm volatile("mov %0, %%cr8" : : "r"(4ul));
    }
    EXPECT_EQ(apic_read(APIC_TPR), 0x40, "a write to CR8 is one to TPR");
    window();
    EXPECT_EQ(nr, 2, "lets class 5 in");
    apic_write(APIC_TPR, 0);
    window();
    EXPECT_EQ(nr, 3, "TPR 0 the rest");
}

/* A handler that lets others in before its EOI. */
static unsigned depth, deepest;
static void nesting(struct frame *f)
{
    (void)f;
    depth++;
    if (depth > deepest)
        deepest = depth;
    if (nr++ == 0) {
        send_self(0x41);
        window();
        EXPECT_EQ(nr, 1, "a lower one waits for EOI");
        send_self(0x71);
        window();
        EXPECT_EQ(nr, 2, "a higher one does not");
    }
    depth--;
    apic_write(APIC_EOI, 0);
}

static void nested(void)
{
    nr = 0;
    trap_handle(0x41, nesting);
    trap_handle(0x61, nesting);
    trap_handle(0x71, nesting);
    send_self(0x61);
    window();
    EXPECT_EQ(nr, 3, "all three came");
    EXPECT_EQ(deepest, 2, "two deep");
    trap_handle(0x41, handler);
    trap_handle(0x61, handler);
}

static void errors(void)
{
    if (on_tcg()) {
        skip("TCG delivers it as an exception", "a vector below 16");
        return;
    }
    apic_write(APIC_ESR, 0);
    apic_write(APIC_ESR, 0);
    nr = 0;
    apic_write(APIC_LVT_ERROR, 0x51);
    send_self(5);
    apic_write(APIC_ESR, 0);
    EXPECT(apic_read(APIC_ESR) & ESR_ILLEGAL_VECTOR, "vector 5: illegal vector");
    window();
    EXPECT_EQ(nr, 1, "and an error interrupt");
    apic_write(APIC_LVT_ERROR, LVT_MASKED);
    apic_write(APIC_ESR, 0);
    apic_write(APIC_ESR, 0);
}

static void destinations(void)
{
    static const struct {
        const char *what;
        uint32_t dest, icr;
        bool comes;
    } cases[] = {
        { "shorthand all", 0, ICR_ALL, true },
        { "shorthand all but self", 0, ICR_OTHERS, false },
        { "physical, own ID", 0xffffffff, 0, true },
        { "physical, broadcast", 0xff, 0, true },
        { "physical, nobody", 0x7e, 0, false },
        { "flat, own bit", 0x04, ICR_LOGICAL, true },
        { "flat, own and another bit", 0x05, ICR_LOGICAL, true },
        { "flat, another bit", 0x08, ICR_LOGICAL, false },
        { "flat, lowest priority", 0xff, ICR_LOGICAL | ICR_LOWEST, true },
    };

    apic_write(APIC_DFR, 0xffffffff);
    apic_write(APIC_LDR, 0x04000000);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        uint32_t dest = cases[i].dest == 0xffffffff ? apic_read(APIC_ID) : cases[i].dest << 24;

        nr = 0;
        apic_write(APIC_ICR2, dest);
        apic_write(APIC_ICR, cases[i].icr | 0x51);
        window();
        EXPECT_EQ(nr, cases[i].comes, "destination: %s", cases[i].what);
    }
    apic_write(APIC_DFR, 0x0fffffff);
    apic_write(APIC_LDR, 0x12000000);
    nr = 0;
    apic_write(APIC_ICR2, 0x12000000);
    apic_write(APIC_ICR, ICR_LOGICAL | 0x51);
    window();
    EXPECT_EQ(nr, 1, "destination: cluster 1, own bit");
    apic_write(APIC_ICR2, 0x22000000);
    apic_write(APIC_ICR, ICR_LOGICAL | 0x51);
    window();
    EXPECT_EQ(nr, 1, "destination: another cluster");
}

/* Timer ticks a millisecond at that divisor, from one-shot runs of about so long. */
static uint32_t count_ms(unsigned divide, unsigned ms)
{
    uint64_t start;
    uint32_t now;

    apic_write(APIC_TIMER_DIV, divide);
    apic_write(APIC_LVT_TIMER, LVT_MASKED | 0x51);
    apic_write(APIC_TIMER_INIT, 0xffffffff);
    start = rdtsc();
    delay_us(ms * 1000);
    now = apic_read(APIC_TIMER_NOW);
    return (uint32_t)((0xffffffffull - now) * 1000 / tsc_to_us(rdtsc() - start));
}

/* How much faster divisor 1 is than 16, in percent. */
static uint32_t divisors(void)
{
    uint32_t by_1 = count_ms(0xb, 10);

    return by_1 * 100 / count_ms(3, 10);
}

static uint32_t ticks_ms; /* at divisor 16 */
static uint32_t one_shot(void)
{
    uint64_t start;

    nr = 0;
    apic_write(APIC_LVT_TIMER, 0x51);
    start = rdtsc();
    apic_write(APIC_TIMER_INIT, ticks_ms * 20);
    wait_for(&nr, 1, 200);
    return tsc_to_us(rdtsc() - start);
}

static uint32_t four_periods(void)
{
    uint64_t start;

    nr = 0;
    apic_write(APIC_LVT_TIMER, LVT_PERIODIC | 0x51);
    start = rdtsc();
    apic_write(APIC_TIMER_INIT, ticks_ms * 5);
    wait_for(&nr, 4, 500);
    return tsc_to_us(rdtsc() - start);
}

static void timer(void)
{
    uint32_t now;

    EXPECT_TIME(divisors, 1600, 5, "divisor 16 is 16 times slower than 1");
    ticks_ms = count_ms(3, 10);
    EXPECT(ticks_ms > 100, "timer counts");
    apic_write(APIC_TIMER_INIT, 0);
    EXPECT_EQ(apic_read(APIC_TIMER_NOW), 0, "initial count 0 stops it");

    apic_write(APIC_TIMER_INIT, ticks_ms * 20);
    now = apic_read(APIC_TIMER_NOW);
    EXPECT(now > 0 && now <= ticks_ms * 20, "one-shot counts down");
    EXPECT_TIME(one_shot, 20000, 15, "one-shot fires after its time");
    delay_us(30000);
    window();
    EXPECT_EQ(nr, 1, "once");
    EXPECT_EQ(apic_read(APIC_TIMER_NOW), 0, "and stays at 0");

    EXPECT_TIME(four_periods, 20000, 15, "periodic: four times 5 ms");
    apic_write(APIC_LVT_TIMER, LVT_PERIODIC | LVT_MASKED | 0x51);
    window();
    nr = 0;
    delay_us(12000);
    window();
    EXPECT_EQ(nr, 0, "masked: nothing");
    EXPECT(apic_read(APIC_TIMER_NOW) != 0, "but it counts on");
    apic_write(APIC_TIMER_INIT, 0);
    window();
}

static uint32_t to_deadline(void)
{
    uint64_t start = rdtsc();

    nr = 0;
    wrmsr(MSR_TSC_DEADLINE, start + 20 * tsc_per_ms());
    wait_for(&nr, 1, 200);
    return tsc_to_us(rdtsc() - start);
}

static void deadline(void)
{
    uint64_t start;

    if (!has_tsc_deadline()) {
        skip("not in this CPU model", "TSC deadline");
        return;
    }
    nr = 0;
    apic_write(APIC_LVT_TIMER, LVT_DEADLINE | 0x51);
    asm volatile("mfence" : : : "memory");
    start = rdtsc();
    wrmsr(MSR_TSC_DEADLINE, start + 20 * tsc_per_ms());
    EXPECT_EQ(rdmsr(MSR_TSC_DEADLINE), start + 20 * tsc_per_ms(), "armed: the MSR reads back");
    wait_for(&nr, 1, 200);
    EXPECT_EQ(nr, 1, "deadline fires");
    EXPECT(rdtsc() - start >= 20 * tsc_per_ms(), "not before its time");
    EXPECT_EQ(rdmsr(MSR_TSC_DEADLINE), 0, "fired: the MSR reads 0");
    EXPECT_TIME(to_deadline, 20000, 15, "and not much later");
    nr = 1;
    wrmsr(MSR_TSC_DEADLINE, 1);
    window();
    EXPECT_EQ(nr, 2, "a deadline in the past fires at once");
    wrmsr(MSR_TSC_DEADLINE, rdtsc() + 5 * tsc_per_ms());
    wrmsr(MSR_TSC_DEADLINE, 0);
    delay_us(10000);
    window();
    EXPECT_EQ(nr, 2, "0 disarms");
    apic_write(APIC_TIMER_INIT, 100);
    window();
    EXPECT_EQ(nr, 2, "the initial count does nothing in this mode");
    EXPECT_EQ(apic_read(APIC_TIMER_NOW), 0, "the current count is 0");
    apic_write(APIC_LVT_TIMER, LVT_MASKED);
}

static void software_disable(void)
{
    apic_write(APIC_LVT_TIMER, 0x51);
    apic_write(APIC_SVR, 0xff);
    tcg_deviates("leaves them");
    EXPECT_EQ(apic_read(APIC_LVT_TIMER) & LVT_MASKED, LVT_MASKED,
              "software disable masks the LVTs");
    apic_write(APIC_LVT_TIMER, 0x51);
    tcg_deviates("lets it be unmasked");
    EXPECT_EQ(apic_read(APIC_LVT_TIMER) & LVT_MASKED, LVT_MASKED, "for good");
    apic_write(APIC_SVR, 0x1ff);
    apic_write(APIC_LVT_TIMER, LVT_MASKED);
}

static word_t read_msr(word_t msr, word_t b)
{
    (void)b;
    return rdmsr((uint32_t)msr);
}

static word_t write_msr(word_t msr, word_t v)
{
    wrmsr((uint32_t)msr, v);
    return 0;
}

static void x2_handler(struct frame *f)
{
    (void)f;
    nr++;
    wrmsr(X2(APIC_EOI), 0);
}

static void x2apic(void)
{
    static const struct {
        const char *what;
        unsigned msr;
        bool read, write;
        uint64_t val;
    } cases[] = {
        { "ID", X2(APIC_ID), true, false, 0 },
        { "version", X2(APIC_VERSION), true, false, 0 },
        { "TPR", X2(APIC_TPR), true, true, 0 },
        { "PPR", X2(APIC_PPR), true, false, 0 },
        { "EOI", X2(APIC_EOI), false, true, 0 },
        { "EOI with a value", X2(APIC_EOI), false, false, 1 },
        { "LDR", X2(APIC_LDR), true, false, 0 },
        { "DFR, which is gone", X2(APIC_DFR), false, false, 0 },
        { "ICR2, which is gone", X2(APIC_ICR2), false, false, 0 },
        { "ESR with a value", X2(APIC_ESR), true, false, 1 },
        { "TPR, reserved bits", X2(APIC_TPR), true, false, 0x100 },
        { "self IPI", 0x83f, false, true, 0x51 },
        { "a register that is not there", 0x800, false, false, 0 },
        { "a register that is not there", 0x8ff, false, false, 0 },
    };
    uint64_t base = rdmsr(MSR_APIC_BASE);
    struct trap t;

    if (!has_x2apic()) {
        skip("not in this CPU model", "x2APIC");
        return;
    }
    t = try(read_msr, X2(APIC_ID), 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "x2APIC MSRs in xAPIC mode");
    t = try(write_msr, MSR_APIC_BASE, base | BASE_X2);
    EXPECT_TRAP(&t, VEC_NONE, 0, "to x2APIC mode");
    trap_handle(0x51, x2_handler);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        t = try(read_msr, cases[i].msr, 0);
        EXPECT_TRAP(&t, cases[i].read ? VEC_NONE : VEC_GP, 0, "x2APIC: read of %s", cases[i].what);
        t = try(write_msr, cases[i].msr, cases[i].val);
        EXPECT_TRAP(&t, cases[i].write ? VEC_NONE : VEC_GP, 0, "x2APIC: write of %s",
                    cases[i].what);
    }
    window();
    nr = 0;
    EXPECT_EQ(rdmsr(X2(APIC_ID)), cpuid(0xb, 0).d, "x2APIC ID is CPUID's");
    EXPECT_EQ(rdmsr(X2(APIC_LDR)),
              1u << (rdmsr(X2(APIC_ID)) & 15) | (rdmsr(X2(APIC_ID)) >> 4) << 16,
              "LDR follows from it");
    wrmsr(0x83f, 0x51);
    window();
    EXPECT_EQ(nr, 1, "self IPI register");
    wrmsr(X2(APIC_ICR), rdmsr(X2(APIC_ID)) << 32 | 0x51);
    window();
    EXPECT_EQ(nr, 2, "ICR in one write");
    wrmsr(X2(APIC_ICR), rdmsr(X2(APIC_LDR)) << 32 | ICR_LOGICAL | 0x51);
    window();
    EXPECT_EQ(nr, 3, "logical destination");
    t = try(write_msr, MSR_APIC_BASE, base);
    EXPECT_TRAP(&t, VEC_GP, 0, "from x2APIC mode straight to xAPIC mode");
    t = try(write_msr, MSR_APIC_BASE, base & ~(uint64_t)BASE_ENABLE);
    EXPECT_TRAP(&t, VEC_NONE, 0, "to disabled");
    EXPECT(!(cpuid(1, 0).d >> 9 & 1), "CPUID does not show a disabled APIC");
    t = try(write_msr, MSR_APIC_BASE, (base | BASE_X2) & ~(uint64_t)BASE_ENABLE);
    EXPECT_TRAP(&t, VEC_GP, 0, "x2APIC without enable");
    wrmsr(MSR_APIC_BASE, base);
    apic_init();
    trap_handle(0x51, handler);
    nr = 0;
    send_self(0x51);
    window();
    EXPECT_EQ(nr, 1, "xAPIC works again");
}

int main(void)
{
    static const unsigned vecs[] = { 0x41, 0x45, 0x51, 0x5f, 0x61 };

    apic_init();
    (void)tsc_per_ms(); /* takes its time now */
    for (unsigned i = 0; i < ARRAY_SIZE(vecs); i++)
        trap_handle(vecs[i], handler);
    identity();
    self_ipi();
    priorities();
    nested();
    errors();
    destinations();
    timer();
    deadline();
    software_disable();
    x2apic();
    return 0;
}
