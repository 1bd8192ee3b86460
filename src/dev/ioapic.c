/* SPDX-License-Identifier: Apache-2.0 */
/*
 * I/O APIC with 24 pins: turns interrupt lines into APIC messages.
 *
 * Manuals: Intel 82093AA data sheet (registers, redirection table), ICH9 data sheet, "I/O APIC"
 * (version 20h with the EOI register). One choice of ours: the polarity bit is kept but not
 * interpreted. A wire in doppel says "asserted" and not a voltage, so firmware's tables and the
 * operating system may agree on either polarity.
 */
#include "dev/ioapic.h"

/* MMIO offsets. */
#define IOAPIC_IOREGSEL 0x00u
#define IOAPIC_IOWIN    0x10u
#define IOAPIC_EOI      0x40u
#define IOAPIC_BYTES    PAGE_BYTES

/* Indirect registers. */
#define IOAPIC_REG_ID    0x00u
#define IOAPIC_REG_VER   0x01u
#define IOAPIC_REG_ARB   0x02u
#define IOAPIC_REG_REDIR 0x10u

#define IOAPIC_VERSION 0x20u
#define IOAPIC_ID_MASK 0x0f000000u

/* Redirection table entry. */
#define REDIR_VECTOR     0xffull
#define REDIR_MODE_SHIFT 8
#define REDIR_LOGICAL    BIT64(11)
#define REDIR_REMOTE_IRR BIT64(14)
#define REDIR_LEVEL      BIT64(15)
#define REDIR_MASKED     BIT64(16)
#define REDIR_DEST_SHIFT 56
/* Vector, delivery mode, destination mode, polarity, trigger mode, mask, destination; status bits
 * are read-only. */
#define REDIR_WRITABLE   0xff0000000001afffull

static bool is_level(uint64_t redir)
{
    unsigned mode = (unsigned)bits(redir, 10, 8);

    /* SMI, NMI, INIT and ExtINT are edges whatever the bit says: nobody would ever clear their
     * remote IRR. */
    return (redir & REDIR_LEVEL) && (mode == APIC_FIXED || mode == APIC_LOWEST);
}

static struct apic_msg msg_of(uint64_t redir)
{
    return (struct apic_msg){
        .dest = (uint32_t)(redir >> REDIR_DEST_SHIFT),
        .vector = (uint8_t)(redir & REDIR_VECTOR),
        .mode = (enum apic_delivery)bits(redir, 10, 8),
        .logical = redir & REDIR_LOGICAL,
        .level = is_level(redir),
    };
}

static bool sends_edges(uint64_t redir)
{
    unsigned mode = (unsigned)bits(redir, 10, 8);

    return !(redir & (REDIR_MASKED | REDIR_LEVEL)) && (mode == APIC_FIXED || mode == APIC_LOWEST);
}

bool ioapic_msg(const struct ioapic *io, unsigned pin, struct apic_msg *msg)
{
    assert_held(bus_lock(io->dev.bus));
    if (pin >= IOAPIC_PINS || !sends_edges(io->redir[pin]))
        return false;
    *msg = msg_of(io->redir[pin]);
    return true;
}

static void ioapic_send(struct ioapic *io, unsigned pin)
{
    struct apic_msg msg = msg_of(io->redir[pin]);

    /* Modes 3 and 6 are reserved here: 6 would be a start-up IPI, which only processors send. */
    if (msg.mode == APIC_SIPI || msg.mode == 3) {
        if (log_first(bus_seen(io->dev.bus), io->cfg.at.v + pin))
            log_warn("ioapic: pin %u has the reserved delivery mode %u; nothing is sent", pin,
                     (unsigned)msg.mode);
        return;
    }
    if (msg.level)
        io->redir[pin] |= REDIR_REMOTE_IRR;
    msg.tell = io->cfg.told_pins >> pin & 1;
    io->cfg.send(io->cfg.ctx, &msg);
}

/* A level pin sends when it is asserted, open, and its last message was answered by an EOI. */
static void ioapic_service_level(struct ioapic *io, unsigned pin)
{
    uint64_t redir = io->redir[pin];

    if ((io->pins & BIT(pin)) && is_level(redir) && !(redir & (REDIR_MASKED | REDIR_REMOTE_IRR)))
        ioapic_send(io, pin);
}

void ioapic_set_pin(struct ioapic *io, unsigned pin, int level)
{
    bool rose;

    assert_held(bus_lock(io->dev.bus));
    if (pin >= IOAPIC_PINS)
        return;
    rose = level && !(io->pins & BIT(pin));
    if (level)
        io->pins |= BIT(pin);
    else
        io->pins &= ~BIT(pin);
    if (is_level(io->redir[pin]))
        ioapic_service_level(io, pin);
    /* An edge at a masked pin is lost (82093AA, "Interrupt Mask"). */
    else if (rose && !(io->redir[pin] & REDIR_MASKED))
        ioapic_send(io, pin);
}

void ioapic_eoi(struct ioapic *io, uint8_t vector)
{
    assert_held(bus_lock(io->dev.bus));
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        uint64_t redir = io->redir[pin];

        if ((redir & REDIR_VECTOR) != vector)
            continue;
        if (redir & REDIR_REMOTE_IRR) {
            io->redir[pin] &= ~REDIR_REMOTE_IRR;
            ioapic_service_level(io, pin);
        } else if ((io->cfg.told_pins >> pin & 1) && sends_edges(redir)) {
            io->cfg.served(io->cfg.ctx, pin);
        }
    }
}

/* ---- registers
 * --------------------------------------------------------------------------------------------------
 */

static uint32_t ioapic_get(const struct ioapic *io)
{
    unsigned entry = (io->index - IOAPIC_REG_REDIR) / 2;

    switch (io->index) {
    case IOAPIC_REG_ID:
    case IOAPIC_REG_ARB: /* loaded with the ID, and no bus to arbitrate for */
        return io->id;
    case IOAPIC_REG_VER:
        return (IOAPIC_PINS - 1) << 16 | IOAPIC_VERSION;
    }
    if (io->index < IOAPIC_REG_REDIR || entry >= IOAPIC_PINS)
        return 0;
    return (uint32_t)(io->redir[entry] >> (io->index & 1 ? 32 : 0));
}

/*
 * Also while it is masked: its last message may still be in service, and a guest that masks and
 * opens it all the time is to cost nothing.
 */
static void ioapic_watch(struct ioapic *io, unsigned pin)
{
    uint64_t redir = io->redir[pin] & ~REDIR_MASKED;
    struct apic_msg msg = msg_of(redir);
    bool told = is_level(redir) || ((io->cfg.told_pins >> pin & 1) && sends_edges(redir));

    if (io->cfg.watch)
        io->cfg.watch(io->cfg.ctx, pin, told && msg.vector >= 16 ? &msg : NULL);
}

static void ioapic_put_redir(struct ioapic *io, unsigned pin, bool high, uint32_t val)
{
    uint64_t half = high ? 0xffffffffull << 32 : 0xffffffffull;
    uint64_t mask = REDIR_WRITABLE & half;
    uint64_t redir = (io->redir[pin] & ~mask) | ((uint64_t)val << (high ? 32 : 0) & mask);

    /* Made edge-triggered, a pin forgets: how systems reset remote IRR before there was an EOI
     * register. */
    if (!is_level(redir))
        redir &= ~REDIR_REMOTE_IRR;
    io->redir[pin] = redir;
    ioapic_watch(io, pin);
    ioapic_service_level(io, pin);
}

static void ioapic_put(struct ioapic *io, uint32_t val)
{
    unsigned entry = (io->index - IOAPIC_REG_REDIR) / 2;

    if (io->index == IOAPIC_REG_ID)
        io->id = val & IOAPIC_ID_MASK;
    else if (io->index >= IOAPIC_REG_REDIR && entry < IOAPIC_PINS)
        ioapic_put_redir(io, entry, io->index & 1, val);
}

static uint64_t ioapic_mmio_read(struct device *dev, uint64_t off_bytes, unsigned bytes)
{
    const struct ioapic *io = container_of(dev, struct ioapic, dev);
    unsigned shift = 8 * (off_bytes & 3);

    (void)bytes; /* the bus takes what it asked for */
    switch (off_bytes & ~3ull) {
    case IOAPIC_IOREGSEL:
        return io->index >> shift;
    case IOAPIC_IOWIN:
        return ioapic_get(io) >> shift;
    }
    return 0;
}

/* Registers are 32 bits wide; the data sheet leaves narrower writes undefined, but for the index
 * they are used. */
static void ioapic_mmio_write(struct device *dev, uint64_t off_bytes, unsigned bytes, uint64_t val)
{
    struct ioapic *io = container_of(dev, struct ioapic, dev);

    if (off_bytes == IOAPIC_IOREGSEL)
        io->index = val & 0xff;
    else if (off_bytes == IOAPIC_IOWIN && bytes == 4)
        ioapic_put(io, (uint32_t)val);
    else if (off_bytes == IOAPIC_EOI)
        ioapic_eoi(io, val & 0xff);
}

/* ---- life
 * -------------------------------------------------------------------------------------------------------
 */

/* The wires keep their levels: they belong to the devices at their other ends. */
static void ioapic_reset(struct device *dev)
{
    struct ioapic *io = container_of(dev, struct ioapic, dev);

    io->index = 0;
    io->id = (uint32_t)io->cfg.id << 24 & IOAPIC_ID_MASK;
    for (unsigned i = 0; i < IOAPIC_PINS; i++) {
        io->redir[i] = REDIR_MASKED;
        ioapic_watch(io, i);
    }
}

/* Saved state may come from anywhere: only what a guest could have set. */
static void ioapic_loaded(struct device *dev)
{
    struct ioapic *io = container_of(dev, struct ioapic, dev);

    io->index &= 0xff;
    io->id &= IOAPIC_ID_MASK;
    io->pins &= BIT(IOAPIC_PINS) - 1;
    for (unsigned i = 0; i < IOAPIC_PINS; i++) {
        io->redir[i] &= REDIR_WRITABLE | (is_level(io->redir[i]) ? REDIR_REMOTE_IRR : 0);
        ioapic_watch(io, i);
    }
}

static const struct state_field ioapic_state[] = {
    FIELD(struct ioapic, index, U32, 1),
    FIELD(struct ioapic, id, U32, 1),
    FIELD(struct ioapic, redir, U64, 1),
    FIELD(struct ioapic, pins, U32, 1),
};

static const struct device_type ioapic_type = {
    .name = "ioapic",
    .mmio_read = ioapic_mmio_read,
    .mmio_write = ioapic_mmio_write,
    .reset = ioapic_reset,
    .loaded = ioapic_loaded,
    .late = true,
    .state = ioapic_state,
    .nr_state = ARRAY_SIZE(ioapic_state),
    .version = 1,
};

int ioapic_init(struct ioapic *io, const struct ioapic_config *cfg)
{
    *io = (struct ioapic){ .dev = { .type = &ioapic_type, .bus = cfg->bus, .state_base = io },
                           .cfg = *cfg };
    ioapic_reset(&io->dev);
    bus_add(cfg->bus, &io->dev);
    return bus_claim_mmio(cfg->bus, cfg->at, IOAPIC_BYTES, &io->dev, 0);
}

void ioapic_fini(struct ioapic *io)
{
    bus_release_mmio(io->dev.bus, io->cfg.at, &io->dev);
}
