/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two cascaded 8259A programmable interrupt controllers and the ELCR of the PC's south bridge.
 *
 * Manual: Intel 8259A data sheet; ELCR: Intel ICH9 data sheet, "Interrupt Controller I/O
 * Registers". As in every chip set with an ELCR, that register alone chooses between edge and
 * level; ICW1's LTIM bit has no effect.
 *
 * INT is a latch: a level that is withdrawn before the CPU acknowledges it leaves INT up, and the
 * CPU gets the default IR7 ("Edge and Level Triggered Modes"). One deviation, shared with other
 * virtual machines: an edge stays latched in IRR until it is acknowledged, even when its line falls
 * before. The data sheet would deliver the default IR7 here too; lines that are only pulsed would
 * get lost.
 */
#include "dev/pic.h"

#include <stdatomic.h>

#define PIC_PORT_MASTER 0x20
#define PIC_PORT_SLAVE  0xa0

/* What the handlers see as off_bytes. */
enum { PIC_AT_MASTER = 0, PIC_AT_SLAVE = 2, PIC_AT_ELCR = 4 };

#define PIC_CASCADE_IR  2
#define PIC_SPURIOUS_IR 7

#define ICW1_IC4  BIT(0) /* ICW4 follows */
#define ICW1_SNGL BIT(1) /* no cascade: no ICW3 */
#define ICW1_ICW1 BIT(4) /* tells ICW1 from OCW2 and OCW3 */
#define ICW4_UPM  BIT(0) /* 8086 mode */
#define ICW4_AEOI BIT(1)
#define ICW4_SFNM BIT(4)

#define OCW2_LEVEL 7u
#define OCW3_OCW3  BIT(3) /* tells OCW3 from OCW2 */
#define OCW3_RIS   BIT(0)
#define OCW3_RR    BIT(1)
#define OCW3_P     BIT(2)
#define OCW3_SMM   BIT(5)
#define OCW3_ESMM  BIT(6)

/* IRQs 0, 1, 2, 8 and 13 are edge triggered for ever (ICH9, ELCR1 and ELCR2). */
static const uint8_t pic_elcr_writable[2] = { 0xf8, 0xde };

/* Which command word the odd port expects. The chip makes no request before it was initialised. */
enum pic_step { PIC_RAW, PIC_READY, PIC_WANT_ICW2, PIC_WANT_ICW3, PIC_WANT_ICW4 };

/* The bit of highest priority in set, or -1. */
static int pic_highest(const struct pic_chip *c, uint8_t set)
{
    if (!set)
        return -1;
    for (unsigned i = 1; i <= 8; i++)
        if (set & BIT((c->lowest + i) & 7))
            return (int)((c->lowest + i) & 7);
    return -1;
}

/* 0 is the highest priority. */
static unsigned pic_rank(const struct pic_chip *c, int ir)
{
    return ((unsigned)ir - c->lowest - 1) & 7;
}

static bool pic_is_master(const struct pic *p, const struct pic_chip *c)
{
    return c == &p->chip[0];
}

/* The IR that would be acknowledged now, or -1: INT is up when there is one ("Fully Nested Mode").
 */
static int pic_request(const struct pic *p, const struct pic_chip *c)
{
    uint8_t in_service = c->isr;
    int ir, busy;

    if (c->step != PIC_READY)
        return -1;
    ir = pic_highest(c, (uint8_t)(c->irr & ~c->imr));
    if (ir < 0)
        return -1;
    /* "Special Mask Mode": levels whose mask bit is set hold nothing back. */
    if (c->special_mask)
        in_service &= (uint8_t)~c->imr;
    busy = pic_highest(c, in_service);
    /* "Special Fully Nested Mode": a slave in service is not locked out from the master's priority
     * logic. */
    if (pic_is_master(p, c) && c->icw4 & ICW4_SFNM && ir == PIC_CASCADE_IR && busy == ir)
        return ir;
    return busy < 0 || pic_rank(c, ir) < pic_rank(c, busy) ? ir : -1;
}

/* INT: there is a request, or there was one when the line of it fell. */
static bool pic_int(const struct pic *p, const struct pic_chip *c)
{
    return c->withdrawn || pic_request(p, c) >= 0;
}

static void pic_pin(struct pic_chip *c, unsigned ir, int level)
{
    uint8_t bit = (uint8_t)BIT(ir);

    if (c->elcr & bit)
        c->irr = (uint8_t)(level ? c->irr | bit : c->irr & ~bit);
    else if (level && !(c->pins & bit))
        c->irr |= bit;
    c->pins = (uint8_t)(level ? c->pins | bit : c->pins & ~bit);
}

/* The cascade: a wire from the slave's INT to IR2. It is never pulsed, so the request falls with
 * it. */
static void pic_cascade(struct pic *p, int level)
{
    pic_pin(&p->chip[0], PIC_CASCADE_IR, level);
    if (!level)
        p->chip[0].irr &= (uint8_t)~BIT(PIC_CASCADE_IR);
}

/* After any change: carry the slave's INT to the master and the master's to the CPU. */
static void pic_update(struct pic *p)
{
    bool up;

    pic_cascade(p, pic_int(p, &p->chip[1]));
    up = pic_int(p, &p->chip[0]);
    /* Relaxed suffices in pic_pending(): a vCPU that must see it is kicked by the line below. */
    if (atomic_exchange_explicit(&p->int_out, up, memory_order_relaxed) != up)
        irq_set(&p->cfg.intr, up);
}

/* Last of all in a call from outside: who is told may move lines. */
static void pic_tell_served(struct pic *p)
{
    uint16_t served = p->served;

    p->served = 0;
    for (unsigned irq = 0; served && p->cfg.served; irq++, served >>= 1)
        if (served & 1)
            p->cfg.served(p->cfg.ctx, irq);
}

static void pic_note_served(struct pic *p, const struct pic_chip *c, int ir)
{
    p->served |= (uint16_t)BIT((unsigned)ir + (pic_is_master(p, c) ? 0 : 8));
}

void pic_set_irq(void *ctx, unsigned irq, int level)
{
    struct pic *p = ctx;
    struct pic_chip *c;
    bool up;

    if (irq == PIC_CASCADE_IR || irq > 15)
        return;
    c = &p->chip[irq >> 3];
    up = pic_int(p, c);
    pic_pin(c, irq & 7, level);
    c->withdrawn = up && pic_request(p, c) < 0;
    pic_update(p);
}

bool pic_waits(const struct pic *p, unsigned irq)
{
    const struct pic_chip *c = &p->chip[irq / 8 & 1];

    return c->irr & ~c->imr & BIT(irq % 8);
}

bool pic_pending(const struct pic *p)
{
    return atomic_load_explicit(&p->int_out, memory_order_relaxed);
}

/* "Interrupt Sequence": IRR to ISR; a level-triggered request stays in IRR as long as its line is
 * up. */
static void pic_chip_ack(struct pic *p, struct pic_chip *c, int ir)
{
    uint8_t bit = (uint8_t)BIT((unsigned)ir);

    if (!(c->elcr & bit))
        c->irr &= (uint8_t)~bit;
    if (!(c->icw4 & ICW4_AEOI)) {
        c->isr |= bit;
        return;
    }
    pic_note_served(p, c, ir);
    if (c->rotate_aeoi)
        c->lowest = (uint8_t)ir;
}

static uint8_t pic_chip_vector(const struct pic_chip *c, int ir)
{
    return (uint8_t)(c->vector | (ir < 0 ? PIC_SPURIOUS_IR : (unsigned)ir));
}

uint8_t pic_ack(struct pic *p)
{
    struct pic_chip *m = &p->chip[0], *s = &p->chip[1];
    uint8_t vector;
    int ir;

    assert_held(bus_lock(p->dev.bus));
    ir = pic_request(p, m);
    vector = pic_chip_vector(m, ir);
    m->withdrawn = false;
    if (ir >= 0)
        pic_chip_ack(p, m, ir);
    if (ir == PIC_CASCADE_IR && m->icw3 & BIT(PIC_CASCADE_IR) && !(m->icw1 & ICW1_SNGL)) {
        int sir = pic_request(p, s);

        /* The slave answers to its own number on the cascade bus only. */
        vector = (s->icw3 & 7) == PIC_CASCADE_IR ? pic_chip_vector(s, sir) : 0xff;
        s->withdrawn = false;
        if (sir >= 0)
            pic_chip_ack(p, s, sir);
        /* Its INT falls with the INTA; if there is more to say, that is a new edge. */
        pic_cascade(p, 0);
    }
    pic_update(p);
    pic_tell_served(p);
    return vector;
}

/* "Initialization Command Words": what ICW1 resets. */
static void pic_icw1(struct pic *p, struct pic_chip *c, uint8_t val)
{
    c->icw1 = val;
    c->icw4 = 0;
    c->irr = c->pins & c->elcr; /* the edge sense circuit is reset: an edge must come anew */
    c->isr = 0;
    c->imr = 0;
    c->lowest = 7;
    c->special_mask = c->rotate_aeoi = c->poll = c->read_isr = c->withdrawn = false;
    c->step = PIC_WANT_ICW2;
    if (!(val & ICW1_IC4) && log_first(bus_seen(p->dev.bus), 0x8259))
        log_warn("pic: guest chose the MCS-80/85 mode, which a PC cannot use; vectors are as in "
                 "8086 mode");
}

static void pic_eoi(struct pic *p, struct pic_chip *c, int ir, bool rotate)
{
    if (ir < 0)
        return;
    if (c->isr & BIT((unsigned)ir))
        pic_note_served(p, c, ir);
    c->isr &= (uint8_t)~BIT((unsigned)ir);
    if (rotate)
        c->lowest = (uint8_t)ir;
}

/* "Operation Control Word 2": R, SL, EOI and the level they act on. */
static void pic_ocw2(struct pic *p, struct pic_chip *c, uint8_t val)
{
    uint8_t seen = c->isr;
    int level = val & OCW2_LEVEL;

    /* A non-specific EOI does not see levels masked in special mask mode ("End of Interrupt"). */
    if (c->special_mask)
        seen &= (uint8_t)~c->imr;
    switch (val >> 5) {
    case 0: /* clear rotate in automatic EOI mode */
    case 4: /* set it */
        c->rotate_aeoi = val & BIT(7);
        break;
    case 1: /* non-specific EOI */
    case 5: /* rotate on it */
        pic_eoi(p, c, pic_highest(c, seen), val & BIT(7));
        break;
    case 3: /* specific EOI */
    case 7: /* rotate on it */
        pic_eoi(p, c, level, val & BIT(7));
        break;
    case 6: /* set priority */
        c->lowest = (uint8_t)level;
        break;
    case 2: /* no operation */
        break;
    }
}

static void pic_ocw3(struct pic_chip *c, uint8_t val)
{
    if (val & OCW3_ESMM)
        c->special_mask = val & OCW3_SMM;
    c->poll = val & OCW3_P;
    if (val & OCW3_RR)
        c->read_isr = val & OCW3_RIS;
}

/* The even port: A0 = 0. */
static void pic_write_cmd(struct pic *p, struct pic_chip *c, uint8_t val)
{
    if (val & ICW1_ICW1)
        pic_icw1(p, c, val);
    else if (val & OCW3_OCW3)
        pic_ocw3(c, val);
    else
        pic_ocw2(p, c, val);
}

/* The odd port: A0 = 1. */
static void pic_write_data(struct pic_chip *c, uint8_t val)
{
    switch ((enum pic_step)c->step) {
    case PIC_WANT_ICW2:
        c->vector = val & 0xf8;
        c->step = !(c->icw1 & ICW1_SNGL) ? PIC_WANT_ICW3
                  : c->icw1 & ICW1_IC4   ? PIC_WANT_ICW4
                                         : PIC_READY;
        return;
    case PIC_WANT_ICW3:
        c->icw3 = val;
        c->step = c->icw1 & ICW1_IC4 ? PIC_WANT_ICW4 : PIC_READY;
        return;
    case PIC_WANT_ICW4:
        c->icw4 = val;
        c->step = PIC_READY;
        return;
    case PIC_RAW:
    case PIC_READY:
        c->imr = val;
        c->withdrawn = false; /* INT follows the new mask */
        return;
    }
}

/* "Poll Command": the read after it is an interrupt acknowledge that returns the level itself. */
static uint8_t pic_poll(struct pic *p, struct pic_chip *c)
{
    int ir = pic_request(p, c);

    c->poll = c->withdrawn = false;
    if (ir >= 0)
        pic_chip_ack(p, c, ir);
    if (!pic_is_master(p, c))
        pic_cascade(p, 0);
    pic_update(p);
    pic_tell_served(p);
    return ir < 0 ? 0 : (uint8_t)(0x80 | (unsigned)ir);
}

static uint64_t pic_read(struct device *dev, uint32_t off_bytes, unsigned bytes)
{
    struct pic *p = container_of(dev, struct pic, dev);
    struct pic_chip *c = &p->chip[off_bytes >> 1 & 1];

    (void)bytes;
    if (off_bytes >= PIC_AT_ELCR)
        return p->chip[off_bytes & 1].elcr;
    if (c->poll)
        return pic_poll(p, c);
    if (off_bytes & 1)
        return c->imr;
    return c->read_isr ? c->isr : c->irr;
}

static void pic_write_elcr(struct pic *p, unsigned idx, uint8_t val)
{
    struct pic_chip *c = &p->chip[idx];
    uint8_t was = c->elcr;

    c->elcr = val & pic_elcr_writable[idx];
    /* What is level triggered now follows its pin; what no longer is waits for an edge. */
    c->irr &= (uint8_t) ~(was ^ c->elcr);
    c->irr |= c->pins & c->elcr;
}

static void pic_write(struct device *dev, uint32_t off_bytes, unsigned bytes, uint64_t val)
{
    struct pic *p = container_of(dev, struct pic, dev);
    struct pic_chip *c = &p->chip[off_bytes >> 1 & 1];

    (void)bytes;
    if (off_bytes >= PIC_AT_ELCR)
        pic_write_elcr(p, off_bytes & 1, (uint8_t)val);
    else if (off_bytes & 1)
        pic_write_data(c, (uint8_t)val);
    else
        pic_write_cmd(p, c, (uint8_t)val);
    pic_update(p);
    pic_tell_served(p);
}

/* The pins belong to the devices, which lower them in their own reset. */
static void pic_reset(struct device *dev)
{
    struct pic *p = container_of(dev, struct pic, dev);

    for (unsigned i = 0; i < 2; i++)
        p->chip[i] = (struct pic_chip){ .pins = p->chip[i].pins, .lowest = 7, .step = PIC_RAW };
    pic_update(p);
}

static void pic_loaded(struct device *dev)
{
    struct pic *p = container_of(dev, struct pic, dev);

    /* Whatever the CPU's side believed: tell it anew. */
    atomic_store_explicit(&p->int_out, false, memory_order_relaxed);
    irq_set(&p->cfg.intr, 0);
    pic_update(p);
}

#define PIC_CHIP_FIELDS(i)                                                                         \
    FIELD(struct pic, chip[i].irr, U8, 1), FIELD(struct pic, chip[i].isr, U8, 1),                  \
        FIELD(struct pic, chip[i].imr, U8, 1), FIELD(struct pic, chip[i].pins, U8, 1),             \
        FIELD(struct pic, chip[i].elcr, U8, 1), FIELD(struct pic, chip[i].vector, U8, 1),          \
        FIELD(struct pic, chip[i].icw1, U8, 1), FIELD(struct pic, chip[i].icw3, U8, 1),            \
        FIELD(struct pic, chip[i].icw4, U8, 1), FIELD(struct pic, chip[i].step, U8, 1),            \
        FIELD(struct pic, chip[i].lowest, U8, 1),                                                  \
        FIELD(struct pic, chip[i].special_mask, BOOL, 1),                                          \
        FIELD(struct pic, chip[i].rotate_aeoi, BOOL, 1), FIELD(struct pic, chip[i].poll, BOOL, 1), \
        FIELD(struct pic, chip[i].read_isr, BOOL, 1),                                              \
        FIELD(struct pic, chip[i].withdrawn, BOOL, 1)

static const struct state_field pic_state[] = { PIC_CHIP_FIELDS(0), PIC_CHIP_FIELDS(1) };

static const struct device_type pic_type = {
    .name = "pic",
    .read = pic_read,
    .write = pic_write,
    .reset = pic_reset,
    .loaded = pic_loaded,
    .late = true,
    .state = pic_state,
    .nr_state = ARRAY_SIZE(pic_state),
    .version = 1,
};

static const struct pic_claim {
    uint16_t port;
    uint32_t off_bytes;
} pic_claims[] = {
    { PIC_PORT_MASTER, PIC_AT_MASTER },
    { PIC_PORT_SLAVE, PIC_AT_SLAVE },
    { PIC_ELCR_PORT, PIC_AT_ELCR },
};

static void pic_release(struct pic *p, unsigned nr)
{
    for (unsigned i = 0; i < nr; i++)
        bus_release_ports(p->dev.bus, pic_claims[i].port, 2, &p->dev);
}

int pic_init(struct pic *p, const struct pic_config *cfg)
{
    *p = (struct pic){
        .dev = { .type = &pic_type, .bus = cfg->bus, .state_base = p },
        .cfg = *cfg,
    };
    pic_reset(&p->dev);
    for (unsigned i = 0; i < ARRAY_SIZE(pic_claims); i++) {
        const struct pic_claim *at = &pic_claims[i];
        int err = bus_claim_ports(cfg->bus, at->port, 2, &p->dev, at->off_bytes);

        if (err) {
            pic_release(p, i);
            return err;
        }
    }
    bus_add(cfg->bus, &p->dev);
    return 0;
}

void pic_fini(struct pic *p)
{
    pic_release(p, ARRAY_SIZE(pic_claims));
}
