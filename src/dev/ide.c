/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The IDE function: identity, the channels' registers, interrupts, resets. See ide.h for the other
 * files.
 *
 * Manuals: ATA/ATAPI-7 volume 2, "Interface register definitions and descriptions"; Intel 82371AB
 * (PIIX4) data sheet, "IDE Controller Register Descriptions". Both channels are always in
 * compatibility mode and always decoded. The timing registers keep what they are given: transfers
 * take as long as the host's disk needs.
 */
#include "dev/ide.h"

#include <errno.h>
#include <string.h>

#define VENDOR_INTEL 0x8086
#define DEVICE_PIIX4 0x7111
#define CLASS_IDE_BM 0x010180u /* compatibility mode, with bus master */

#define IDETIM        0x40u /* 16 bits a channel */
#define IDETIM_DECODE 0x8000u
#define SIDETIM       0x44u
#define UDMACTL       0x48u
#define UDMATIM       0x4au
#define BM_BAR        4u
#define BM_PORTS      16u
#define BM_CHAN_PORTS 8u
#define BM_INTERRUPT  BIT(2)

#define CONTROL_NIEN BIT(1)
#define CONTROL_HOB  BIT(7)

/* What the port handler sees: the bus master's ports at 0, then for each channel the command block,
 * the control register and behind them nothing. */
#define OFF_CHAN(i) (0x100u * ((i) + 1))
#define OFF_CONTROL 0x10u
enum { REG_DATA, REG_ERROR, REG_COUNT, REG_LBA0, REG_LBA1, REG_LBA2, REG_DEVICE, REG_STATUS };
#define REG_FEATURE REG_ERROR
#define REG_COMMAND REG_STATUS

static const struct {
    uint16_t command, control;
} ide_ports[IDE_NR_CHANS] = { { 0x1f0, 0x3f6 }, { 0x170, 0x376 } };

/* ---- interrupts ---- */

static void ide_update_irq(struct ide_chan *c)
{
    bool up = c->irq_wanted && !(c->control & CONTROL_NIEN);

    if (up != c->irq_up)
        irq_set(&c->irq, up);
    c->irq_up = up;
}

void ide_raise(struct ide_chan *c)
{
    c->irq_wanted = true;
    c->bm_status |= BM_INTERRUPT;
    ide_update_irq(c);
}

void ide_end(struct ide_chan *c, uint8_t error)
{
    struct ide_drive *d = ide_active(c);

    c->x = (struct ide_xfer){ .is_packet = c->x.is_packet };
    d->r.error = error;
    d->r.status = IDE_DRDY | IDE_DSC | (error ? IDE_ERR : 0);
    if (c->x.is_packet)
        d->r.count = 3; /* "Interrupt Reason": the command is complete */
    ide_raise(c);
}

/* ---- resets ---- */

/* "Signature and persistence": by this the host tells a disk from a packet device. */
void ide_set_signature(struct ide_drive *d)
{
    d->r.count = 1;
    d->r.lba[0] = 1;
    d->r.lba[1] = d->is_cd ? 0x14 : 0;
    d->r.lba[2] = d->is_cd ? 0xeb : 0;
    d->r.error = 1; /* diagnostics passed */
    d->r.status = d->is_cd ? 0 : IDE_DRDY | IDE_DSC;
}

static void ide_chan_reset(struct ide_chan *c)
{
    c->irq_wanted = false;
    c->active_nr = 0;
    c->x = (struct ide_xfer){ .is_write = false };
    for (unsigned i = 0; i < IDE_NR_DRIVES; i++) {
        struct ide_drive *d = &c->drives[i];

        d->r.device = 0;
        d->multiple = 0;
        ide_set_signature(d);
        if (c->in_flight)
            d->r.status = IDE_BSY;
    }
    c->abandoned = c->in_flight;
    ide_update_irq(c);
}

/* "Software reset protocol": busy while SRST is set. */
static void ide_control(struct ide_chan *c, uint8_t val)
{
    bool down = c->control & ~val & IDE_SRST;

    c->control = val;
    if (val & IDE_SRST) { /* what is under way comes to nothing */
        c->abandoned = c->in_flight;
        c->irq_wanted = false;
        for (unsigned i = 0; i < IDE_NR_DRIVES; i++)
            c->drives[i].r.status = IDE_BSY;
    }
    if (down)
        ide_chan_reset(c);
    ide_update_irq(c);
}

/* ---- registers ---- */

static void ide_command(struct ide_chan *c, uint8_t cmd)
{
    struct ide_drive *d = ide_selected(c);
    bool reset = cmd == 0x08 && d->is_cd; /* DEVICE RESET: even when it is busy */

    if (reset && c->in_flight) {
        c->abandoned = true;
        d->r.status = IDE_BSY;
    }
    if (!d->store || c->in_flight || ((d->r.status & (IDE_BSY | IDE_DRQ)) && !reset))
        return;
    c->irq_wanted = false;
    ide_update_irq(c);
    d->r.error = 0;
    /* A transfer of the other drive that was left half done is lost. */
    for (unsigned i = 0; i < IDE_NR_DRIVES; i++)
        c->drives[i].r.status &= (uint8_t)~IDE_DRQ;
    c->active_nr = (uint8_t)(d - c->drives);
    c->x = (struct ide_xfer){ .is_write = false };
    if (ide_common_command(d, cmd))
        return;
    if (d->is_cd)
        ide_atapi_command(d, cmd);
    else
        ide_ata_command(d, cmd);
}

static void reg_push(uint8_t *reg, uint8_t *hob, uint8_t val)
{
    *hob = *reg;
    *reg = val;
}

/* Both drives hear it; the one that is not selected only remembers. */
static void ide_reg_write(struct ide_chan *c, unsigned reg, uint8_t val)
{
    if (reg == REG_COMMAND) {
        ide_command(c, val);
        return;
    }
    /* "Status register": while BSY is set the host must not write; what it does is lost. */
    if (c->in_flight)
        return;
    c->control &= (uint8_t)~CONTROL_HOB;
    for (unsigned i = 0; i < IDE_NR_DRIVES; i++) {
        struct ide_regs *r = &c->drives[i].r;

        switch (reg) {
        case REG_FEATURE:
            reg_push(&r->feature, &r->feature_hob, val);
            break;
        case REG_COUNT:
            reg_push(&r->count, &r->count_hob, val);
            break;
        case REG_LBA0 ... REG_LBA2:
            reg_push(&r->lba[reg - REG_LBA0], &r->lba_hob[reg - REG_LBA0], val);
            break;
        case REG_DEVICE:
            r->device = val;
            break;
        default:
            break;
        }
    }
}

static uint8_t ide_reg_read(struct ide_chan *c, unsigned reg)
{
    const struct ide_drive *d = ide_selected(c);
    bool hob = c->control & CONTROL_HOB;

    /* Drive 0 answers for one that is not there; when neither is, the lines are low. */
    if (!d->store)
        return 0;
    switch (reg) {
    case REG_ERROR:
        return d->r.error;
    case REG_COUNT:
        return hob ? d->r.count_hob : d->r.count;
    case REG_LBA0 ... REG_LBA2:
        return hob ? d->r.lba_hob[reg - REG_LBA0] : d->r.lba[reg - REG_LBA0];
    case REG_DEVICE:
        return d->r.device | 0xa0;
    default:
        c->irq_wanted = false; /* reading the status is the acknowledgement */
        ide_update_irq(c);
        return d->r.status;
    }
}

/* ---- ports ---- */

static uint64_t ide_chan_read(struct ide_chan *c, uint32_t off, unsigned bytes)
{
    uint64_t val = 0;

    if (off == REG_DATA)
        return bytes == 1 ? UINT64_MAX : ide_data_read(c, bytes);
    if (off >= OFF_CONTROL) /* "Alternate Status register": no acknowledgement */
        return ide_selected(c)->store ? ide_selected(c)->r.status : 0;
    for (unsigned i = 0; i < bytes; i++)
        val |= (uint64_t)ide_reg_read(c, MIN(off + i, REG_STATUS)) << (8 * i);
    return val;
}

static void ide_chan_write(struct ide_chan *c, uint32_t off, unsigned bytes, uint64_t val)
{
    if (off == REG_DATA) {
        if (bytes > 1)
            ide_data_write(c, bytes, (uint32_t)val);
        return;
    }
    if (off >= OFF_CONTROL) {
        ide_control(c, (uint8_t)val);
        return;
    }
    for (unsigned i = 0; i < bytes && off + i <= REG_COMMAND; i++)
        ide_reg_write(c, off + i, (uint8_t)(val >> (8 * i)));
}

static uint64_t ide_read(struct device *dev, uint32_t off, unsigned bytes)
{
    struct ide *ide = container_of(dev, struct ide, pci.dev);
    uint64_t val = 0;

    if (off >= OFF_CHAN(0))
        return ide_chan_read(&ide->chans[off / 0x100 - 1], off % 0x100, bytes);
    for (unsigned i = 0; i < bytes && off + i < BM_PORTS; i++)
        val |=
            (uint64_t)ide_bm_read(&ide->chans[(off + i) / BM_CHAN_PORTS], (off + i) % BM_CHAN_PORTS)
            << (8 * i);
    return val;
}

static void ide_write(struct device *dev, uint32_t off, unsigned bytes, uint64_t val)
{
    struct ide *ide = container_of(dev, struct ide, pci.dev);

    if (off >= OFF_CHAN(0)) {
        ide_chan_write(&ide->chans[off / 0x100 - 1], off % 0x100, bytes, val);
        return;
    }
    for (unsigned i = 0; i < bytes && off + i < BM_PORTS; i++)
        ide_bm_write(&ide->chans[(off + i) / BM_CHAN_PORTS], (off + i) % BM_CHAN_PORTS,
                     (uint8_t)(val >> (8 * i)));
}

/* ---- life ---- */

static void ide_reset(struct device *dev)
{
    struct ide *ide = container_of(dev, struct ide, pci.dev);

    pci_dev_reset(&ide->pci);
    for (unsigned i = 0; i < IDE_NR_CHANS; i++) {
        struct ide_chan *c = &ide->chans[i];

        c->control = c->bm_command = c->bm_status = 0;
        c->bm_table = c->bm_next = c->bm_left = 0;
        for (unsigned k = 0; k < IDE_NR_DRIVES; k++) {
            c->drives[k].heads = 16;
            c->drives[k].sectors = 63;
            c->drives[k].mode = 0;
            c->drives[k].sense_key = c->drives[k].sense_code = 0;
        }
        ide_chan_reset(c);
    }
}

/*
 * A request in flight is saved as what it is (doing), with its buffer, and made again by whoever
 * loads the state: reading or writing the same twice changes nothing.
 */
/* clang-format off */
#define DRIVE_FIELDS(d)                                                                        \
    FIELD(struct ide, d.r, BYTES, 2), FIELD(struct ide, d.heads, U16, 2),                      \
    FIELD(struct ide, d.sectors, U16, 2), FIELD(struct ide, d.multiple, U8, 2),                \
    FIELD(struct ide, d.mode, U8, 2), FIELD(struct ide, d.sense_key, U8, 2),                   \
    FIELD(struct ide, d.sense_code, U8, 2)
#define XFER_FIELDS(x)                                                                         \
    FIELD(struct ide, x.is_write, BOOL, 2), FIELD(struct ide, x.is_dma, BOOL, 2),              \
    FIELD(struct ide, x.is_packet, BOOL, 2), FIELD(struct ide, x.wants_dma, BOOL, 2),          \
    FIELD(struct ide, x.wants_packet, BOOL, 2), FIELD(struct ide, x.at_bytes, U64, 2),         \
    FIELD(struct ide, x.left_bytes, U64, 2), FIELD(struct ide, x.block_bytes, U32, 2),         \
    FIELD(struct ide, x.at, U32, 2), FIELD(struct ide, x.end, U32, 2),                         \
    FIELD(struct ide, x.buf_bytes, U32, 2)
#define CHAN_FIELDS(c)                                                                         \
    DRIVE_FIELDS(c.drives[0]), DRIVE_FIELDS(c.drives[1]), XFER_FIELDS(c.x),                    \
    FIELD(struct ide, c.active_nr, U8, 2), FIELD(struct ide, c.control, U8, 2),                \
    FIELD(struct ide, c.irq_wanted, BOOL, 2), FIELD(struct ide, c.abandoned, BOOL, 2),         \
    FIELD(struct ide, c.doing, U8, 2), FIELD(struct ide, c.buf, BYTES, 2),                     \
    FIELD(struct ide, c.bm_command, U8, 2), FIELD(struct ide, c.bm_status, U8, 2),             \
    FIELD(struct ide, c.bm_table, U32, 2), FIELD(struct ide, c.bm_next, U32, 2),               \
    FIELD(struct ide, c.bm_at, U32, 2), FIELD(struct ide, c.bm_left, U32, 2),                  \
    FIELD(struct ide, c.bm_last, BOOL, 2)

static const struct state_field ide_state[] = {
    PCI_DEV_FIELDS(struct ide, pci, 1),
    CHAN_FIELDS(chans[0]),
    CHAN_FIELDS(chans[1]),
};
/* clang-format on */

/* A state may say anything; what cannot be is an error of the command that was under way. */
static void ide_chan_loaded(struct ide_chan *c)
{
    uint8_t doing = c->doing;
    bool possible;

    c->active_nr %= IDE_NR_DRIVES;
    for (unsigned i = 0; i < IDE_NR_DRIVES; i++) {
        struct ide_drive *d = &c->drives[i];

        d->heads = (uint16_t)MIN(MAX(d->heads, 1), 16);
        d->sectors = (uint16_t)MIN(MAX(d->sectors, 1), 255);
        d->multiple = (uint8_t)MIN(d->multiple, IDE_MULTIPLE_MAX);
    }
    possible = doing <= IDE_DOES_FLUSH && ide_xfer_ok(c);
    if (!possible) {
        c->doing = IDE_DOES_NOTHING;
        c->abandoned = false;
        ide_end(c, IDE_ABRT);
    } else if (c->abandoned) { /* the reset waits for nothing now */
        c->doing = IDE_DOES_NOTHING;
        c->abandoned = false;
        for (unsigned i = 0; i < IDE_NR_DRIVES; i++)
            ide_set_signature(&c->drives[i]);
    } else if (doing) {
        ide_xfer_resume(c);
    }
    c->irq_up = false;
    ide_update_irq(c);
}

static void ide_loaded(struct device *dev)
{
    struct ide *ide = container_of(dev, struct ide, pci.dev);

    pci_dev_loaded(&ide->pci);
    for (unsigned i = 0; i < IDE_NR_CHANS; i++)
        ide_chan_loaded(&ide->chans[i]);
}

static const struct device_type ide_type = {
    .name = "ide",
    .read = ide_read,
    .write = ide_write,
    .max_bytes = 4,
    .reset = ide_reset,
    .loaded = ide_loaded,
    .state = ide_state,
    .nr_state = ARRAY_SIZE(ide_state),
    .version = 2,
};

static int ide_init_pci(struct ide *ide, const struct ide_config *cfg)
{
    int err = pci_dev_init(&ide->pci, cfg->host,
                           &(struct pci_dev_desc){ .type = &ide_type,
                                                   .state_base = ide,
                                                   .devfn = cfg->devfn,
                                                   .vendor = VENDOR_INTEL,
                                                   .device = DEVICE_PIIX4,
                                                   .class_code = CLASS_IDE_BM,
                                                   .revision = 1 });

    if (err)
        return err;
    pci_define(&ide->pci, IDETIM, 4, IDETIM_DECODE | (uint32_t)IDETIM_DECODE << 16, UINT32_MAX);
    pci_define(&ide->pci, SIDETIM, 1, 0, 0xff);
    pci_define(&ide->pci, UDMACTL, 1, 0, 0x0f);
    pci_define(&ide->pci, UDMATIM, 2, 0, 0x3333);
    pci_add_bar(&ide->pci, BM_BAR, &(struct pci_bar){ .kind = PCI_BAR_IO, .bytes = BM_PORTS });
    return 0;
}

static int ide_init_drive(struct ide_drive *d, struct ide_chan *c, const struct ide_slot *slot)
{
    struct store_client client = ide_store_client;
    int err;

    d->chan = c;
    d->is_cd = slot->is_cd;
    if (!slot->store)
        return 0;
    d->nr_blocks = store_bytes(slot->store) / (d->is_cd ? IDE_CD_BLOCK : IDE_BLOCK);
    if (!d->nr_blocks) {
        log_error("%s: the image is empty", store_name(slot->store));
        return -EINVAL;
    }
    client.arg = d;
    err = store_connect(slot->store, &client);
    if (!err)
        d->store = slot->store;
    return err;
}

static int ide_init_drives(struct ide *ide, const struct ide_config *cfg)
{
    int err = 0;

    for (unsigned i = 0; i < IDE_NR_CHANS * IDE_NR_DRIVES && !err; i++) {
        struct ide_chan *c = &ide->chans[i / IDE_NR_DRIVES];

        c->ide = ide;
        c->irq = cfg->irq[i / IDE_NR_DRIVES];
        err = ide_init_drive(&c->drives[i % IDE_NR_DRIVES], c, &cfg->slots[i]);
    }
    return err;
}

int ide_init(struct ide *ide, const struct ide_config *cfg)
{
    struct bus *bus = cfg->host->dev.bus;
    int err;

    memset(ide, 0, sizeof(*ide));
    ide->dma = cfg->dma;
    cond_init(&ide->idle);
    err = ide_init_pci(ide, cfg);
    if (!err)
        err = ide_init_drives(ide, cfg);
    for (unsigned i = 0; i < IDE_NR_CHANS && !err; i++) {
        err = bus_claim_ports(bus, ide_ports[i].command, 8, &ide->pci.dev, OFF_CHAN(i));
        if (!err)
            err = bus_claim_ports(bus, ide_ports[i].control, 1, &ide->pci.dev,
                                  OFF_CHAN(i) + OFF_CONTROL);
    }
    if (err)
        ide_fini(ide);
    else
        ide_reset(&ide->pci.dev);
    return err;
}

/* No new requests; what is out comes back soon. */
static void ide_close_drives(struct ide *ide)
{
    struct lock *lock = bus_lock(ide->pci.dev.bus);

    for (unsigned i = 0; i < IDE_NR_CHANS * IDE_NR_DRIVES; i++) {
        struct ide_chan *c = &ide->chans[i / IDE_NR_DRIVES];
        struct ide_drive *d = &c->drives[i % IDE_NR_DRIVES];

        if (!d->store)
            continue;
        store_give_up(d->store, true);
        lock_take(lock);
        ide->closing = true;
        while (c->in_flight)
            cond_wait(&ide->idle, lock);
        lock_drop(lock);
        store_disconnect(d->store);
        d->store = NULL;
    }
}

void ide_fini(struct ide *ide)
{
    struct bus *bus = ide->pci.dev.bus;

    ide_close_drives(ide);
    for (unsigned i = 0; i < IDE_NR_CHANS; i++) {
        bus_release_ports(bus, ide_ports[i].command, 8, &ide->pci.dev);
        bus_release_ports(bus, ide_ports[i].control, 1, &ide->pci.dev);
    }
    pci_dev_fini(&ide->pci);
    cond_destroy(&ide->idle);
}
