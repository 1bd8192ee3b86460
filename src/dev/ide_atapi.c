/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an IDE CD-ROM drive does: the packet interface, and the commands of a drive that reads. The
 * disc is one data track and is always in.
 *
 * Manuals: ATA/ATAPI-7 volume 1, "PACKET"; INF-8020i / MMC-3, "Commands for CD-ROM drives".
 */
#include "dev/ide.h"

#include <string.h>

#include "dev/ide_id.h"

#define PACKET_BYTES 12u
#define FEATURE_DMA  BIT(0)

/* Sense keys and additional sense codes */
#define KEY_NONE        0u
#define KEY_MEDIUM      3u
#define KEY_ILLEGAL     5u
#define ASC_UNREADABLE  0x11u
#define ASC_BAD_COMMAND 0x20u
#define ASC_BAD_LBA     0x21u
#define ASC_BAD_FIELD   0x24u

#define MODE_PAGE_ERROR 0x01u
#define MODE_PAGE_CAPS  0x2au
#define MODE_PAGE_ALL   0x3fu

static uint32_t be(const uint8_t *p, unsigned bytes)
{
    uint32_t val = 0;

    while (bytes--)
        val = val << 8 | *p++;
    return val;
}

static void put_be(uint8_t *p, unsigned bytes, uint32_t val)
{
    while (bytes--) {
        p[bytes] = (uint8_t)val;
        val >>= 8;
    }
}

/* The command fails; REQUEST SENSE tells why. */
static void atapi_fail(struct ide_drive *d, uint8_t key, uint8_t code)
{
    d->sense_key = key;
    d->sense_code = code;
    d->chan->x.is_packet = true;
    ide_end(d->chan, (uint8_t)(key << 4 | IDE_ABRT));
}

void ide_atapi_unreadable(struct ide_drive *d)
{
    atapi_fail(d, KEY_MEDIUM, ASC_UNREADABLE);
}

static void atapi_good(struct ide_drive *d)
{
    d->sense_key = d->sense_code = 0;
    ide_end(d->chan, 0);
}

/* The answer is in the channel's buffer; the host has asked for at most that many bytes of it. */
static void atapi_reply(struct ide_drive *d, uint32_t bytes, uint32_t asked)
{
    d->sense_key = d->sense_code = 0;
    ide_send(d->chan, MIN(bytes, asked));
}

/* ---- what the drive is ---- */

static void atapi_identify(struct ide_drive *d)
{
    uint8_t *id = d->chan->buf;

    memset(id, 0, IDE_BLOCK);
    id_word(id, 0, 0x85c0); /* a removable CD-ROM with 12-byte packets, fast DRQ */
    id_names(id, d, "DOPPEL DVD-ROM");
    id_word(id, 49, 0x0b00);
    id_modes(id, d);
    id_word(id, 82, 0x4210); /* NOP, DEVICE RESET, PACKET */
    id_word(id, 83, 0x4000);
    id_word(id, 84, 0x4000);
    id_word(id, 85, 0x4210);
    id_word(id, 87, 0x4000);
    d->chan->x.block_bytes = IDE_BLOCK;
    ide_send(d->chan, IDE_BLOCK);
}

static void atapi_inquiry(struct ide_drive *d, const uint8_t *p)
{
    uint8_t *out = d->chan->buf;

    memset(out, 0, 36);
    out[0] = 5;    /* CD-ROM */
    out[1] = 0x80; /* removable */
    out[3] = 0x21; /* ATAPI, response format 1 */
    out[4] = 31;   /* bytes that follow */
    memcpy(out + 8, "DOPPEL  DVD-ROM         1.0 ", 28);
    atapi_reply(d, 36, p[4]);
}

static void atapi_sense(struct ide_drive *d, const uint8_t *p)
{
    uint8_t *out = d->chan->buf;
    uint8_t key = d->sense_key, code = d->sense_code, asked = p[4];

    memset(out, 0, 18);
    out[0] = 0x70;
    out[2] = key;
    out[7] = 10;
    out[12] = code;
    atapi_reply(d, 18, asked);
}

/* "MODE SENSE (10)": the pages for error recovery and for capabilities. */
static void atapi_mode_sense(struct ide_drive *d, const uint8_t *p)
{
    uint8_t *out = d->chan->buf, page = p[2] & 0x3f;
    uint32_t n = 8, asked = be(p + 7, 2);

    if (page != MODE_PAGE_ERROR && page != MODE_PAGE_CAPS && page != MODE_PAGE_ALL) {
        atapi_fail(d, KEY_ILLEGAL, ASC_BAD_FIELD);
        return;
    }
    memset(out, 0, 64);
    out[2] = 0x01; /* medium: a 120 mm data disc */
    if (page != MODE_PAGE_CAPS) {
        out[n] = MODE_PAGE_ERROR;
        out[n + 1] = 6;
        out[n + 3] = 5; /* retries */
        n += 8;
    }
    if (page != MODE_PAGE_ERROR) {
        out[n] = MODE_PAGE_CAPS;
        out[n + 1] = 18;
        out[n + 2] = 0x3b;           /* reads CD-R, CD-RW, DVD-ROM */
        out[n + 4] = 0x70;           /* mode 2 forms, multisession */
        out[n + 6] = 0x29;           /* tray, ejects, locks */
        put_be(out + n + 8, 2, 706); /* 4 x, in kB/s */
        put_be(out + n + 14, 2, 706);
        n += 20;
    }
    put_be(out, 2, n - 2);
    atapi_reply(d, n, asked);
}

/* "GET CONFIGURATION": the profiles, and that this is a CD-ROM now. */
static void atapi_configuration(struct ide_drive *d, const uint8_t *p)
{
    uint8_t *out = d->chan->buf;
    uint32_t asked = be(p + 7, 2);

    memset(out, 0, 32);
    put_be(out, 4, 20 - 4);
    put_be(out + 6, 2, 0x0008); /* current profile: CD-ROM */
    out[10] = 0x03;             /* feature 0: profile list; persistent, current */
    out[11] = 8;
    put_be(out + 12, 2, 0x0010); /* DVD-ROM */
    put_be(out + 16, 2, 0x0008);
    out[18] = 1; /* current */
    atapi_reply(d, 20, asked);
}

/* "GET EVENT STATUS NOTIFICATION", polled only: the disc is there, nothing has happened. */
static void atapi_event(struct ide_drive *d, const uint8_t *p)
{
    uint8_t *out = d->chan->buf;
    uint32_t asked = be(p + 7, 2);
    bool polled = p[1] & 1, media = p[4] & BIT(4);

    if (!polled) {
        atapi_fail(d, KEY_ILLEGAL, ASC_BAD_FIELD);
        return;
    }
    memset(out, 0, 8);
    out[2] = media ? 4 : 0x80; /* class, or "no such events" */
    out[3] = BIT(4);
    if (media) {
        out[1] = 6;
        out[5] = 2; /* medium present */
    } else {
        out[1] = 2;
    }
    atapi_reply(d, media ? 8 : 4, asked);
}

/* ---- the disc ---- */

static void atapi_capacity(struct ide_drive *d)
{
    put_be(d->chan->buf, 4, (uint32_t)d->nr_blocks - 1);
    put_be(d->chan->buf + 4, 4, IDE_CD_BLOCK);
    atapi_reply(d, 8, 8);
}

/* Minute, second, frame of a block; the first is at second 2. */
static void put_address(uint8_t *out, uint32_t lba, bool is_msf)
{
    if (!is_msf) {
        put_be(out, 4, lba);
        return;
    }
    lba += 150;
    out[0] = 0;
    out[1] = (uint8_t)(lba / 75 / 60);
    out[2] = (uint8_t)(lba / 75 % 60);
    out[3] = (uint8_t)(lba % 75);
}

/* "READ TOC": one session with one data track. */
static void atapi_toc(struct ide_drive *d, const uint8_t *p)
{
    uint8_t *out = d->chan->buf, format = p[2] & 0xf, first = p[6];
    bool is_msf = p[1] & 2;
    uint32_t n = 4, asked = be(p + 7, 2);

    if (!format) /* older: in the control byte */
        format = p[9] >> 6;
    if (format > 1 || (format == 0 && first > 1 && first != 0xaa)) {
        atapi_fail(d, KEY_ILLEGAL, ASC_BAD_FIELD);
        return;
    }
    memset(out, 0, 32);
    out[2] = out[3] = 1; /* first and last track, or session */
    if (format == 1 || first <= 1) {
        out[n + 1] = 0x14; /* a data track */
        out[n + 2] = 1;
        put_address(out + n + 4, 0, is_msf);
        n += 8;
    }
    if (format == 0) { /* where the disc ends */
        out[n + 1] = 0x14;
        out[n + 2] = 0xaa;
        put_address(out + n + 4, (uint32_t)d->nr_blocks, is_msf);
        n += 8;
    }
    put_be(out, 2, n - 2);
    atapi_reply(d, n, asked);
}

static void atapi_disc_info(struct ide_drive *d, const uint8_t *p)
{
    uint8_t *out = d->chan->buf;
    uint32_t asked = be(p + 7, 2);

    memset(out, 0, 34);
    put_be(out, 2, 32);
    out[2] = 0x0e; /* complete disc, last session complete */
    out[3] = out[4] = out[5] = out[6] = 1;
    out[7] = 0x20; /* unrestricted use */
    atapi_reply(d, 34, asked);
}

static void atapi_read(struct ide_drive *d, uint32_t lba, uint32_t nr)
{
    struct ide_chan *c = d->chan;

    if (lba > d->nr_blocks || nr > d->nr_blocks - lba) {
        atapi_fail(d, KEY_ILLEGAL, ASC_BAD_LBA);
        return;
    }
    if (!nr) {
        atapi_good(d);
        return;
    }
    d->sense_key = d->sense_code = 0;
    c->x.at_bytes = (uint64_t)lba * IDE_CD_BLOCK;
    c->x.left_bytes = (uint64_t)nr * IDE_CD_BLOCK;
    ide_xfer_start(c);
}

/* "READ CD": only the 2048 data bytes of a sector. */
static void atapi_read_cd(struct ide_drive *d, const uint8_t *p)
{
    uint8_t fields = p[9] & 0xf8;

    if (fields == 0)
        atapi_good(d);
    else if (fields != 0x10)
        atapi_fail(d, KEY_ILLEGAL, ASC_BAD_FIELD);
    else
        atapi_read(d, be(p + 2, 4), be(p + 6, 3));
}

/* ---- packets ---- */

static void atapi_unknown(struct ide_drive *d, uint8_t op)
{
    if (log_first(bus_seen(d->chan->ide->pci.dev.bus), 0x1da00u | op))
        log_debug("ide: packet command %#x is not there; illegal request", op);
    atapi_fail(d, KEY_ILLEGAL, ASC_BAD_COMMAND);
}

void ide_atapi_packet(struct ide_drive *d)
{
    uint8_t p[PACKET_BYTES];

    memcpy(p, d->chan->buf, sizeof(p));
    switch (p[0]) {
    case 0x00: /* TEST UNIT READY */
    case 0x1b: /* START STOP UNIT: the tray stays shut */
    case 0x1e: /* PREVENT ALLOW MEDIUM REMOVAL */
    case 0x2b: /* SEEK */
    case 0xbb: /* SET CD SPEED */
        atapi_good(d);
        break;
    case 0x03:
        atapi_sense(d, p);
        break;
    case 0x12:
        atapi_inquiry(d, p);
        break;
    case 0x25:
        atapi_capacity(d);
        break;
    case 0x28: /* READ (10) */
        atapi_read(d, be(p + 2, 4), be(p + 7, 2));
        break;
    case 0xa8: /* READ (12) */
        atapi_read(d, be(p + 2, 4), be(p + 6, 4));
        break;
    case 0xbe:
        atapi_read_cd(d, p);
        break;
    case 0x43:
        atapi_toc(d, p);
        break;
    case 0x46:
        atapi_configuration(d, p);
        break;
    case 0x4a:
        atapi_event(d, p);
        break;
    case 0x51:
        atapi_disc_info(d, p);
        break;
    case 0x5a:
        atapi_mode_sense(d, p);
        break;
    default:
        atapi_unknown(d, p[0]);
        break;
    }
}

/* PACKET: the host writes twelve bytes next. "Byte Count" bounds the blocks of the answer. */
static void atapi_begin_packet(struct ide_drive *d)
{
    struct ide_xfer *x = &d->chan->x;
    uint32_t limit = d->r.lba[1] | (uint32_t)d->r.lba[2] << 8;

    if (limit == 0 || limit == 0xffff)
        limit = 0xfffe;
    *x = (struct ide_xfer){
        .is_packet = true,
        .wants_packet = true,
        .is_dma = d->r.feature & FEATURE_DMA,
        .block_bytes = limit > 1 ? limit & ~1u : limit,
        .end = PACKET_BYTES,
        .buf_bytes = PACKET_BYTES,
    };
    d->r.count = 1; /* "Interrupt Reason": a command to the device */
    d->r.status = IDE_DRDY | IDE_DRQ;
}

void ide_atapi_command(struct ide_drive *d, uint8_t cmd)
{
    switch (cmd) {
    case 0xa0:
        atapi_begin_packet(d);
        break;
    case 0xa1:
        atapi_identify(d);
        break;
    case 0x08: /* DEVICE RESET: no interrupt */
        ide_set_signature(d);
        break;
    case 0xe7: /* FLUSH CACHE: nothing is written */
        ide_end(d->chan, 0);
        break;
    case 0xec: /* IDENTIFY DEVICE and READ are aborted with the signature */
    case 0x20:
        ide_end(d->chan, IDE_ABRT);
        d->r.count = d->r.lba[0] = 1;
        d->r.lba[1] = 0x14;
        d->r.lba[2] = 0xeb;
        break;
    default:
        ide_end(d->chan, IDE_ABRT);
        break;
    }
}
