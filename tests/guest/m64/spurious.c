/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Spurious interrupts of the 8259s: a level-triggered request that is withdrawn before the
 * processor acknowledges it comes as IR7 of its chip, without an in-service bit; on the slave that
 * is IRQ 15, with the cascade in service at the master. Data sheet of the 8259A, "Edge and Level
 * Triggered Modes"; the UART and the mouse port of the i8042 are lines that can be raised and
 * lowered at will.
 */
#include "guest.h"

#define COM1     0x3f8
#define IER_THRE 2
#define PIC_BASE 0x40u
#define OCW3_IRR 0x0a
#define OCW3_ISR 0x0b
#define ELCR     0x4d0
#define KBC_DATA 0x60
#define KBC_CMD  0x64
#define KBC_OBF  1
#define KBC_IBF  2

static volatile unsigned nr;
static struct {
    unsigned irq;
    uint8_t isr[2];
} seen;
static bool own_line; /* the handler lowers it */

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

static void kbc_send(uint16_t port, uint8_t v)
{
    while (inb(KBC_CMD) & KBC_IBF)
        pause();
    outb(port, v);
}

static void mouse_lower(void)
{
    while (inb(KBC_CMD) & KBC_OBF)
        (void)inb(KBC_DATA);
}

/* The controller puts a byte into its output buffer as if the mouse had sent it. */
static void mouse_raise(void)
{
    kbc_send(KBC_CMD, 0xd3);
    kbc_send(KBC_DATA, 0x55);
    while (!(inb(KBC_CMD) & KBC_OBF))
        pause();
}

static uint8_t pic_read(uint16_t port, uint8_t what)
{
    outb(port, what);
    return inb(port);
}

/* A keyboard controller takes its time. */
static uint8_t irr_when_up(uint16_t port, uint8_t bit)
{
    for (unsigned i = 0; i < 1000 && !(pic_read(port, OCW3_IRR) & bit); i++)
        delay_us(100);
    return pic_read(port, OCW3_IRR);
}

static void handler(struct frame *f)
{
    seen.irq = (unsigned)f->vec - PIC_BASE;
    seen.isr[0] = pic_read(0x20, OCW3_ISR);
    seen.isr[1] = pic_read(0xa0, OCW3_ISR);
    nr++;
    if (own_line)
        (seen.irq < 8 ? uart_lower : mouse_lower)();
    /* Only who is in service wants to hear of its end. */
    if (seen.isr[1])
        outb(0xa0, 0x20);
    if (seen.isr[0])
        outb(0x20, 0x20);
}

static void window(void)
{
    sti();
    for (unsigned i = 0; i < 3000; i++)
        pause();
    cli();
}

struct line {
    const char *what;
    unsigned irq, spurious;
    void (*raise)(void), (*lower)(void);
    uint8_t isr[2]; /* while the spurious interrupt is handled */
};

static void withdrawn(const struct line *l)
{
    const uint16_t port = l->irq < 8 ? 0x20 : 0xa0;
    const uint8_t bit = (uint8_t)(1u << (l->irq & 7));
    uint8_t irr[2];

    outb(ELCR + (l->irq >> 3), bit);
    pic_unmask(l->irq);
    nr = 0;
    own_line = false;
    l->raise();
    irr[0] = irr_when_up(port, bit);
    l->lower();
    irr[1] = pic_read(port, OCW3_IRR);
    window();
    EXPECT_EQ(irr[0] & bit, bit, "%s: requested", l->what);
    EXPECT_EQ(irr[1] & bit, 0, "%s: withdrawn", l->what);
    if (l->irq < 8)
        tcg_deviates("takes INT back with the request");
    EXPECT_EQ(nr, 1, "%s: an interrupt comes nevertheless", l->what);
    if (l->irq < 8)
        tcg_deviates("takes INT back with the request");
    EXPECT_EQ(seen.irq, l->spurious, "%s: the spurious one", l->what);
    EXPECT_EQ(seen.isr[0], l->isr[0], "%s: in service at the master", l->what);
    EXPECT_EQ(seen.isr[1], l->isr[1], "%s: in service at the slave", l->what);
    window();
    if (l->irq < 8)
        tcg_deviates("takes INT back with the request");
    EXPECT_EQ(nr, 1, "%s: once", l->what);
    EXPECT_EQ(pic_read(0x20, OCW3_ISR) | pic_read(0xa0, OCW3_ISR), 0, "%s: nothing in service left",
              l->what);

    nr = 0;
    own_line = true;
    l->raise();
    (void)irr_when_up(port, bit);
    window();
    EXPECT_EQ(nr, 1, "%s: the next request", l->what);
    EXPECT_EQ(seen.irq, l->irq, "%s: comes as itself", l->what);
    pic_mask_all();

    /* A request that nobody has seen is gone without a trace. */
    nr = 0;
    own_line = false;
    l->raise();
    (void)irr_when_up(port, bit);
    l->lower();
    pic_unmask(l->irq);
    window();
    EXPECT_EQ(nr, 0, "%s: withdrawn while masked", l->what);
    pic_mask_all();
    outb(ELCR, 0);
    outb(ELCR + 1, 0);
}

int main(void)
{
    static const struct line uart = { "IRQ 4", 4, 7, uart_raise, uart_lower, { 0, 0 } };
    static const struct line mouse = { "IRQ 12", 12, 15, mouse_raise, mouse_lower, { 4, 0 } };

    apic_init();
    (void)tsc_per_ms();
    for (unsigned pin = 0; pin < 24; pin++)
        ioapic_write(0x10 + 2 * pin, 1u << 16);
    pic_init(PIC_BASE);
    apic_write(APIC_LVT_LINT0, 0x700); /* virtual wire: ExtINT */
    for (unsigned irq = 0; irq < 16; irq++)
        trap_handle(PIC_BASE + irq, handler);
    mouse_lower();
    kbc_send(KBC_CMD, 0xa8); /* mouse port on */
    kbc_send(KBC_CMD, 0x60);
    kbc_send(KBC_DATA, 0x02); /* interrupts of the mouse only */
    withdrawn(&uart);
    withdrawn(&mouse);
    uart_lower();
    return 0;
}
