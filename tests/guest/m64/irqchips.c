/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two 8259s with ELCR and the I/O APIC, with interrupts from the UART, the PIT and the RTC:
 * masks, priorities, EOI kinds, edges and levels, remote IRR. Data sheets of 8259A and 82093AA.
 */
#include "guest.h"

#define COM1           0x3f8
#define IER_THRE       2
#define PIC_BASE       0x40u
#define OCW3_IRR       0x0a
#define OCW3_ISR       0x0b
#define RED_MASKED     (1u << 16)
#define RED_LEVEL      (1u << 15)
#define RED_REMOTE_IRR (1u << 14)
#define RED_LOGICAL    (1u << 11)

static volatile unsigned nr;
static uint8_t order[8];
static bool keep_up, no_eoi;

/*
 * The UART's interrupt is a line we can raise and lower at will: "transmitter empty". Checks print
 * through the same UART, so nothing is checked while an edge would count.
 */
static void uart_raise(void)
{
    while ((inb(COM1 + 5) & 0x60) != 0x60)
        pause();
    outb(COM1 + 4, 0x08); /* OUT2 connects it */
    outb(COM1 + 1, 0);
    outb(COM1 + 1, IER_THRE);
}

static void uart_lower(void)
{
    outb(COM1 + 1, 0);
}

static void note(unsigned irq)
{
    if (nr < ARRAY_SIZE(order))
        order[nr] = (uint8_t)irq;
    nr++;
}

static void window(void)
{
    sti();
    for (unsigned i = 0; i < 3000; i++)
        pause();
    cli();
}

static uint8_t pic_read(uint16_t port, uint8_t what)
{
    outb(port, what);
    return inb(port);
}

/* Periodic interrupts of the RTC, about 1 ms apart; off again with 0. */
static void rtc_periodic(bool on)
{
    outb(0x70, 0x0a);
    outb(0x71, 0x26);
    outb(0x70, 0x0b);
    outb(0x71, on ? 0x42 : 0x02);
    outb(0x70, 0x0c);
    (void)inb(0x71);
}

static uint8_t isr_seen;
static void pic_handler(struct frame *f)
{
    unsigned irq = (unsigned)f->vec - PIC_BASE;

    isr_seen = pic_read(irq < 8 ? 0x20 : 0xa0, OCW3_ISR);
    note(irq);
    if (irq == 4 && !keep_up)
        uart_lower();
    if (irq == 8)
        rtc_periodic(false);
    if (!no_eoi)
        pic_eoi(irq);
}

static void pit_one_shot(void)
{
    outb(0x43, 0x30);
    outb(0x40, 0x10);
    outb(0x40, 0);
}

/* Waits until the chip at that port has these requests: the host may be late with a timer. */
static void wait_pending(uint16_t port, unsigned irrs)
{
    for (unsigned i = 0; i < 1000 && (pic_read(port, OCW3_IRR) & irrs) != irrs; i++)
        delay_us(100);
}

static void pic_masks(void)
{
    uint8_t irr;

    nr = 0;
    uart_raise();
    window();
    irr = pic_read(0x20, OCW3_IRR);
    pic_unmask(4);
    EXPECT_EQ(nr, 0, "PIC: masked");
    EXPECT_EQ(irr & 0x10, 0x10, "PIC: IRR shows it");
    window();
    EXPECT_EQ(nr, 1, "PIC: unmasked");
    EXPECT_EQ(order[0], 4, "PIC: IRQ 4");
    EXPECT_EQ(isr_seen, 0x10, "PIC: ISR in the handler");
    EXPECT_EQ(pic_read(0x20, OCW3_ISR), 0, "PIC: ISR after EOI");
    pic_mask_all();
}

static void three_at_once(void)
{
    nr = 0;
    keep_up = false;
    uart_raise();
    pit_one_shot();
    rtc_periodic(true);
    wait_pending(0xa0, 0x01);
    wait_pending(0x20, 0x11);
    outb(0x21, 0xff & ~(1u << 0 | 1u << 2 | 1u << 4));
    outb(0xa1, 0xff & ~1u);
    /* One window for all three; the RTC is silenced by its interrupt. */
    sti();
    for (unsigned i = 0; i < 3000 && nr < 3; i++)
        pause();
    cli();
    pic_mask_all();
    rtc_periodic(false);
}

static void pic_priorities(void)
{
    /* A host that is late lets the RTC's next one in between: try again then. */
    for (unsigned i = 0; i < 20; i++) {
        three_at_once();
        if (nr >= 3 && order[0] == 0 && order[1] == 8 && order[2] == 4)
            break;
    }
    EXPECT(nr >= 3, "PIC: three pending");
    EXPECT(order[0] == 0 && order[1] == 8 && order[2] == 4, "PIC: 0, then 8 (at 2), then 4");
}

static void pic_in_service(void)
{
    unsigned nr_then;
    uint8_t isr[3];

    nr = 0;
    no_eoi = true;
    pic_unmask(4);
    pic_unmask(0);
    uart_raise();
    window();
    EXPECT_EQ(nr, 1, "PIC: IRQ 4 in service");
    uart_raise();
    window();
    nr_then = nr;
    pit_one_shot();
    wait_pending(0x20, 0x01);
    window();
    nr_then = nr_then << 8 | nr;
    isr[0] = pic_read(0x20, OCW3_ISR);
    outb(0x20, 0x20);
    isr[1] = pic_read(0x20, OCW3_ISR);
    outb(0x20, 0x60 | 4);
    isr[2] = pic_read(0x20, OCW3_ISR);
    window();
    no_eoi = false;
    pic_mask_all();
    pic_eoi(4);
    uart_lower();
    EXPECT_EQ(nr_then, 0x102, "PIC: while IRQ 4 is in service only IRQ 0 comes, which is above");
    EXPECT_EQ(isr[0], 0x11, "PIC: both in service");
    EXPECT_EQ(isr[1], 0x10, "PIC: EOI ends the highest");
    EXPECT_EQ(isr[2], 0, "PIC: specific EOI ends IRQ 4");
    EXPECT_EQ(nr, 3, "PIC: then the second IRQ 4 comes");
}

static void pic_modes(void)
{
    uint8_t polled;

    nr = 0;
    outb(0x20, 0xc0 | 0); /* set priority: IRQ 0 lowest */
    uart_raise();
    pit_one_shot();
    wait_pending(0x20, 0x01);
    outb(0x21, 0xff & ~(1u << 0 | 1u << 4));
    window();
    EXPECT(nr == 2 && order[0] == 4 && order[1] == 0, "PIC: with IRQ 0 lowest, 4 comes first");
    outb(0x20, 0xc0 | 7);
    pic_mask_all();

    outb(0x21, 0xff & ~(1u << 4));
    uart_raise();
    outb(0x20, 0x0c); /* poll */
    polled = inb(0x20);
    uart_lower();
    outb(0x20, 0x20);
    EXPECT_EQ(polled, 0x84, "PIC: poll tells IRQ 4");
    outb(0x20, 0x0c);
    EXPECT_EQ(inb(0x20) & 0x80, 0, "PIC: poll with nothing pending");

    /* Automatic EOI. */
    outb(0x20, 0x11);
    outb(0x21, PIC_BASE);
    outb(0x21, 4);
    outb(0x21, 3);
    outb(0x21, 0xff & ~(1u << 4));
    nr = 0;
    no_eoi = true;
    uart_raise();
    window();
    EXPECT_EQ(nr, 1, "PIC: automatic EOI: comes");
    EXPECT_EQ(pic_read(0x20, OCW3_ISR), 0, "PIC: automatic EOI: nothing in service");
    no_eoi = false;
    pic_init(PIC_BASE);
}

/* "Special Fully Nested Mode": while the slave is in service, it may interrupt itself by something
 * higher, but what is below IR2 has to wait as ever. */
static void pic_special_nested(void)
{
    unsigned nr_then;

    outb(0x20, 0x11);
    outb(0x21, PIC_BASE);
    outb(0x21, 4);
    outb(0x21, 0x11);
    nr = 0;
    no_eoi = true;
    rtc_periodic(true);
    wait_pending(0xa0, 0x01);
    outb(0x21, 0xff & ~(1u << 2 | 1u << 4));
    outb(0xa1, 0xff & ~1u);
    window();
    nr_then = nr;
    uart_raise();
    window();
    nr_then = nr_then << 8 | nr;
    no_eoi = false;
    pic_eoi(8);
    window();
    pic_mask_all();
    uart_lower();
    tcg_deviates("lets all through");
    EXPECT_EQ(nr_then, 0x101, "PIC: special fully nested: IRQ 4 waits for 8, which came by IR2");
    EXPECT(nr == 2 && order[1] == 4, "PIC: and comes behind its EOI");
    pic_init(PIC_BASE);
}

static void elcr(void)
{
    uint8_t was = inb(0x4d0);

    outb(0x4d0, 0xff);
    EXPECT_EQ(inb(0x4d0) & 7, 0, "ELCR: IRQs 0 to 2 are always edges");
    outb(0x4d0, 0);
    pic_unmask(4);
    nr = 0;
    keep_up = true;
    uart_raise();
    window();
    window();
    uart_lower();
    EXPECT_EQ(nr, 1, "ELCR: an edge is one interrupt, however long the line is up");
    nr = 0;
    outb(0x4d0, 1u << 4);
    keep_up = true;
    no_eoi = true;
    uart_raise();
    window();
    EXPECT_EQ(nr, 1, "ELCR: a level comes");
    no_eoi = false;
    keep_up = false;
    pic_eoi(4);
    window();
    EXPECT_EQ(nr, 2, "ELCR: and again after EOI while the line is up");
    window();
    EXPECT_EQ(nr, 2, "ELCR: not when it is down");
    outb(0x4d0, was);
    pic_mask_all();
}

static volatile bool ioapic_keep_up;
static uint32_t red_seen;
static void ioapic_handler(struct frame *f)
{
    (void)f;
    red_seen = ioapic_read(0x10 + 2 * 4);
    nr++;
    if (!ioapic_keep_up || nr > 3)
        uart_lower();
    if (!no_eoi)
        apic_write(APIC_EOI, 0);
}

static void redirect(unsigned pin, uint32_t low)
{
    ioapic_write(0x10 + 2 * pin, RED_MASKED);
    ioapic_write(0x11 + 2 * pin, apic_read(APIC_ID) & 0xff000000);
    ioapic_write(0x10 + 2 * pin, low);
}

static void ioapic(void)
{
    unsigned pins = (ioapic_read(1) >> 16 & 0xff) + 1, nr_then;
    uint32_t tmr, red_then;

    EXPECT_EQ(pins, 24, "I/O APIC: 24 pins");
    EXPECT((ioapic_read(1) & 0xff) >= 0x11, "I/O APIC: version");
    ioapic_write(0, 0x0f000000);
    EXPECT_EQ(ioapic_read(0) & 0x0f000000, 0x0f000000, "I/O APIC: ID can be written");
    ioapic_write(0, 0);
    ioapic_write(0x10 + 2 * 23, RED_MASKED | RED_REMOTE_IRR | 1u << 12);
    EXPECT_EQ(ioapic_read(0x10 + 2 * 23), RED_MASKED,
              "I/O APIC: remote IRR and delivery status are read-only");

    /* Edge. */
    trap_handle(0x71, ioapic_handler);
    nr = 0;
    ioapic_keep_up = true;
    redirect(4, 0x71);
    uart_raise();
    window();
    window();
    uart_lower();
    EXPECT_EQ(nr, 1, "I/O APIC: edge: comes once");
    EXPECT_EQ(red_seen & RED_REMOTE_IRR, 0, "I/O APIC: edge: no remote IRR");
    uart_raise();
    window();
    uart_lower();
    EXPECT_EQ(nr, 2, "I/O APIC: edge: the next edge");

    /* Level. */
    nr = 0;
    no_eoi = true;
    redirect(4, RED_LEVEL | 0x71);
    uart_raise();
    window();
    window();
    nr_then = nr;
    tmr = apic_read(APIC_TMR + 0x30) >> 17 & 1;
    apic_write(APIC_EOI, 0);
    red_then = ioapic_read(0x10 + 2 * 4);
    EXPECT_EQ(nr_then, 1, "I/O APIC: level: comes");
    EXPECT_EQ(red_seen & RED_REMOTE_IRR, RED_REMOTE_IRR, "I/O APIC: level: remote IRR");
    EXPECT_EQ(tmr, 1, "I/O APIC: level: TMR");
    EXPECT_EQ(red_then & RED_REMOTE_IRR, RED_REMOTE_IRR,
              "I/O APIC: level: set again after EOI: the line is up");
    ioapic_keep_up = false;
    no_eoi = false;
    window();
    EXPECT_EQ(nr, 2, "I/O APIC: level: comes again");
    EXPECT_EQ(ioapic_read(0x10 + 2 * 4) & RED_REMOTE_IRR, 0,
              "I/O APIC: level: EOI clears remote IRR when the line is down");
    nr = 0;
    redirect(4, RED_MASKED | RED_LEVEL | 0x71);
    uart_raise();
    window();
    EXPECT_EQ(nr, 0, "I/O APIC: level: masked");
    ioapic_write(0x10 + 2 * 4, RED_LEVEL | 0x71);
    window();
    EXPECT_EQ(nr, 1, "I/O APIC: level: comes when unmasked");
    redirect(4, RED_MASKED);

    /* The PIT is at pin 2. */
    nr = 0;
    redirect(2, 0x71);
    pit_one_shot();
    wait_for(&nr, 1, 100);
    EXPECT_EQ(nr, 1, "I/O APIC: the PIT is at pin 2");
    redirect(2, RED_MASKED);
    apic_write(APIC_DFR, 0xffffffff);
    apic_write(APIC_LDR, 0x80000000);
    ioapic_write(0x11 + 2 * 2, 0x80000000);
    ioapic_write(0x10 + 2 * 2, RED_LOGICAL | 0x71);
    nr = 0;
    pit_one_shot();
    wait_for(&nr, 1, 100);
    EXPECT_EQ(nr, 1, "I/O APIC: logical destination");
    ioapic_write(0x10 + 2 * 2, RED_MASKED);
}

/* MOVD has registers whole, as MOV does. */
static void other_instructions(void)
{
    uint32_t v = RED_MASKED | 0x77, got;
    const word_t lvt = APIC_AT + APIC_LVT_TIMER;

    write_cr4(read_cr4() | CR4_OSFXSR);
    (void)ioapic_read(0x10 + 2 * 5);
    asm volatile("movd %0, %%xmm0\n\tmovd %%xmm0, (%1)"
                 :
                 : "r"(v), "r"(IOAPIC_AT + 0x10)
                 : "memory");
    EXPECT_EQ(ioapic_read(0x10 + 2 * 5), v, "I/O APIC: MOVD to the window");
    ioapic_write(0x10 + 2 * 5, RED_MASKED);
    v = 0x30044;
    asm volatile("movd %0, %%xmm0\n\tmovd %%xmm0, (%1)" : : "r"(v), "r"(lvt) : "memory");
    EXPECT_EQ(apic_read(APIC_LVT_TIMER), v, "local APIC: MOVD to a register");
    asm volatile("movd (%1), %%xmm0\n\tmovd %%xmm0, %0" : "=r"(got) : "r"(lvt) : "memory");
    EXPECT_EQ(got, v, "local APIC: MOVD from it");
    apic_write(APIC_LVT_TIMER, 1u << 16);
}

int main(void)
{
    apic_init();
    (void)tsc_per_ms();
    for (unsigned pin = 0; pin < 24; pin++)
        ioapic_write(0x10 + 2 * pin, RED_MASKED);
    pic_init(PIC_BASE);
    apic_write(APIC_LVT_LINT0, 0x700); /* virtual wire: ExtINT */
    for (unsigned irq = 0; irq < 16; irq++)
        trap_handle(PIC_BASE + irq, pic_handler);
    pic_masks();
    pic_priorities();
    pic_in_service();
    pic_modes();
    pic_special_nested();
    elcr();
    pic_mask_all();
    apic_write(APIC_LVT_LINT0, 0x10000);
    ioapic();
    uart_lower();
    other_instructions();
    return 0;
}
