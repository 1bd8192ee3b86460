/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an IDE hard disk does, and the commands that disks and CD-ROM drives both have.
 *
 * Manual: ATA/ATAPI-7 volume 1, "Command descriptions".
 */
#include "dev/ide.h"

#include <stdio.h>
#include <string.h>

#include "dev/ide_id.h"

#define DEVICE_LBA BIT(6)
#define LBA28_END  (1ull << 28)

#define FEATURE_SET_MODE     0x03
#define FEATURE_WRITE_CACHE  0x02
#define FEATURE_NO_CACHE     0x82
#define FEATURE_LOOK_AHEAD   0xaa
#define FEATURE_NO_AHEAD     0x55
#define FEATURE_KEEP_RESET   0x66
#define FEATURE_REVERT_RESET 0xcc

/* ---- reading and writing ---- */

#define RW_WRITE    BIT(0)
#define RW_DMA      BIT(1)
#define RW_EXT      BIT(2) /* 48-bit address, 16-bit count */
#define RW_MULTIPLE BIT(3)
#define RW_VERIFY   BIT(4) /* no data */

static const struct {
    uint8_t cmd, how;
} rw_commands[] = {
    { 0x20, 0 },
    { 0x21, 0 },
    { 0x24, RW_EXT },
    { 0x25, RW_EXT | RW_DMA },
    { 0x29, RW_EXT | RW_MULTIPLE },
    { 0x30, RW_WRITE },
    { 0x31, RW_WRITE },
    { 0x34, RW_WRITE | RW_EXT },
    { 0x35, RW_WRITE | RW_EXT | RW_DMA },
    { 0x39, RW_WRITE | RW_EXT | RW_MULTIPLE },
    { 0x40, RW_VERIFY },
    { 0x41, RW_VERIFY },
    { 0x42, RW_VERIFY | RW_EXT },
    { 0xc4, RW_MULTIPLE },
    { 0xc5, RW_WRITE | RW_MULTIPLE },
    { 0xc8, RW_DMA },
    { 0xc9, RW_DMA },
    { 0xca, RW_WRITE | RW_DMA },
    { 0xcb, RW_WRITE | RW_DMA },
};

static uint64_t ata_lba(const struct ide_drive *d, unsigned how)
{
    const struct ide_regs *r = &d->r;
    uint64_t low = r->lba[0] | (uint64_t)r->lba[1] << 8 | (uint64_t)r->lba[2] << 16;
    unsigned head = r->device & 0xf;

    if (how & RW_EXT)
        return low | (uint64_t)r->lba_hob[0] << 24 | (uint64_t)r->lba_hob[1] << 32 |
               (uint64_t)r->lba_hob[2] << 40;
    if (r->device & DEVICE_LBA)
        return low | (uint64_t)head << 24;
    /* Cylinder, head and sector, which counts from 1; what there is not is behind every disk's end.
     */
    if (!r->lba[0] || r->lba[0] > d->sectors || head >= d->heads)
        return UINT64_MAX;
    return (uint64_t)((r->lba[1] | r->lba[2] << 8) * d->heads + head) * d->sectors + r->lba[0] - 1;
}

static uint32_t ata_count(const struct ide_drive *d, unsigned how)
{
    uint32_t nr = d->r.count;

    if (!(how & RW_EXT))
        return nr ? nr : 256;
    nr |= (uint32_t)d->r.count_hob << 8;
    return nr ? nr : 65536;
}

static void ata_rw(struct ide_drive *d, unsigned how)
{
    struct ide_chan *c = d->chan;
    uint64_t lba = ata_lba(d, how);
    uint32_t nr = ata_count(d, how);

    if (lba >= d->nr_blocks || nr > d->nr_blocks - lba) {
        ide_end(c, IDE_IDNF);
        return;
    }
    if (how & RW_VERIFY) {
        ide_end(c, 0);
        return;
    }
    if (((how & RW_MULTIPLE) && !d->multiple) || ((how & RW_WRITE) && store_readonly(d->store))) {
        ide_end(c, IDE_ABRT);
        return;
    }
    c->x = (struct ide_xfer){
        .is_write = how & RW_WRITE,
        .is_dma = how & RW_DMA,
        .at_bytes = lba * IDE_BLOCK,
        .left_bytes = (uint64_t)nr * IDE_BLOCK,
        .block_bytes = how & RW_MULTIPLE ? d->multiple * IDE_BLOCK : IDE_BLOCK,
    };
    ide_xfer_start(c);
}

/* ---- IDENTIFY DEVICE ---- */

static void ata_identify(struct ide_drive *d)
{
    uint8_t *id = d->chan->buf;
    uint64_t lba28 = MIN(d->nr_blocks, LBA28_END - 1);
    uint64_t cylinders = MIN(d->nr_blocks / (16 * 63), 16383);

    memset(id, 0, IDE_BLOCK);
    id_word(id, 0, 0x0040); /* a fixed disk */
    id_word(id, 1, (unsigned)cylinders);
    id_word(id, 3, 16);
    id_word(id, 6, 63);
    id_names(id, d, "DOPPEL HARDDISK");
    id_word(id, 47, 0x8000 | IDE_MULTIPLE_MAX);
    id_word(id, 49, 0x0b00); /* IORDY, LBA, DMA */
    id_word(id, 50, 0x4000);
    id_word(id, 54,
            (unsigned)(d->nr_blocks / (d->heads * d->sectors) > 65535
                           ? 65535
                           : d->nr_blocks / (d->heads * d->sectors)));
    id_word(id, 55, d->heads);
    id_word(id, 56, d->sectors);
    id_long(id, 57, lba28);
    id_word(id, 59, d->multiple ? 0x0100u | d->multiple : 0);
    id_long(id, 60, lba28);
    id_modes(id, d);
    id_word(id, 82, 0x4020); /* NOP, write cache */
    id_word(id, 83, 0x7400); /* FLUSH CACHE, FLUSH CACHE EXT, 48-bit addresses */
    id_word(id, 84, 0x4000);
    id_word(id, 85, 0x4020);
    id_word(id, 86, 0x3400);
    id_word(id, 87, 0x4000);
    id_long(id, 100, d->nr_blocks & UINT32_MAX);
    id_long(id, 102, d->nr_blocks >> 32);
    d->chan->x.block_bytes = IDE_BLOCK;
    ide_send(d->chan, IDE_BLOCK);
}

/* ---- settings ---- */

static void ata_set_multiple(struct ide_drive *d)
{
    unsigned nr = d->r.count;

    if (nr > IDE_MULTIPLE_MAX || (nr & (nr - 1))) {
        ide_end(d->chan, IDE_ABRT);
        return;
    }
    d->multiple = (uint8_t)nr;
    ide_end(d->chan, 0);
}

static void ata_set_geometry(struct ide_drive *d)
{
    if (!d->r.count) {
        ide_end(d->chan, IDE_ABRT);
        return;
    }
    d->sectors = d->r.count;
    d->heads = (d->r.device & 0xf) + 1;
    ide_end(d->chan, 0);
}

static void ide_set_features(struct ide_drive *d)
{
    switch (d->r.feature) {
    case FEATURE_SET_MODE:
        d->mode = d->r.count;
        break;
    case FEATURE_WRITE_CACHE:
    case FEATURE_NO_CACHE:
    case FEATURE_LOOK_AHEAD:
    case FEATURE_NO_AHEAD:
    case FEATURE_KEEP_RESET:
    case FEATURE_REVERT_RESET: /* nothing depends on them */
        break;
    default:
        ide_end(d->chan, IDE_ABRT);
        return;
    }
    ide_end(d->chan, 0);
}

static void ata_native_max(struct ide_drive *d, bool is_ext)
{
    uint64_t last = d->nr_blocks - 1;

    if (!is_ext) {
        last = MIN(last, LBA28_END - 1);
        d->r.device = (uint8_t)((d->r.device & 0xf0) | (last >> 24 & 0xf));
    }
    for (unsigned i = 0; i < 3; i++) {
        d->r.lba[i] = (uint8_t)(last >> (8 * i));
        d->r.lba_hob[i] = (uint8_t)(last >> (24 + 8 * i));
    }
    ide_end(d->chan, 0);
}

/* ---- commands ---- */

bool ide_common_command(struct ide_drive *d, uint8_t cmd)
{
    switch (cmd) {
    case 0x90: /* EXECUTE DEVICE DIAGNOSTIC: both drives, then drive 0 is selected */
        for (unsigned i = 0; i < IDE_NR_DRIVES; i++) {
            ide_set_signature(&d->chan->drives[i]);
            d->chan->drives[i].r.device &= (uint8_t)~BIT(4);
        }
        ide_raise(d->chan);
        return true;
    case 0xef: /* SET FEATURES */
        ide_set_features(d);
        return true;
    case 0xe5: /* CHECK POWER MODE: active */
    case 0x98:
        d->r.count = 0xff;
        ide_end(d->chan, 0);
        return true;
    case 0xe0 ... 0xe3: /* STANDBY IMMEDIATE, IDLE IMMEDIATE, STANDBY, IDLE */
    case 0xe6:          /* SLEEP: it wakes at the next command */
        ide_end(d->chan, 0);
        return true;
    default:
        return false;
    }
}

void ide_ata_command(struct ide_drive *d, uint8_t cmd)
{
    for (unsigned i = 0; i < ARRAY_SIZE(rw_commands); i++)
        if (rw_commands[i].cmd == cmd) {
            ata_rw(d, rw_commands[i].how);
            return;
        }
    switch (cmd) {
    case 0xec: /* IDENTIFY DEVICE */
        ata_identify(d);
        break;
    case 0xe7: /* FLUSH CACHE, FLUSH CACHE EXT */
    case 0xea:
        ide_flush(d->chan);
        break;
    case 0xc6: /* SET MULTIPLE MODE */
        ata_set_multiple(d);
        break;
    case 0x91: /* INITIALIZE DEVICE PARAMETERS */
        ata_set_geometry(d);
        break;
    case 0x10 ... 0x1f: /* RECALIBRATE */
    case 0x70 ... 0x7f: /* SEEK */
        ide_end(d->chan, 0);
        break;
    case 0xf8: /* READ NATIVE MAX ADDRESS */
    case 0x27: /* EXT */
        ata_native_max(d, cmd == 0x27);
        break;
    default:
        /* "Command aborted" is how a host finds out that there is none; NOP (00h) is aborted too.
         */
        if (cmd && log_first(bus_seen(d->chan->ide->pci.dev.bus), 0x1de00u | cmd))
            log_debug("ide: command %#x is not there; aborted", cmd);
        ide_end(d->chan, IDE_ABRT);
        break;
    }
}
