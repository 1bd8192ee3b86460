/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How an IDE channel moves a command's data: between disk and buffer by requests, between buffer
 * and guest through the data register (PIO) or by the bus master (DMA).
 *
 * Manuals: ATA/ATAPI-7 volume 2, "Command protocol"; Programming Interface for Bus Master IDE
 * Controller, revision 1.0.
 */
#include "dev/ide.h"

#include <string.h>

#define BM_START BIT(0)
#define BM_READ  BIT(3) /* the bus master writes memory */

#define BM_ACTIVE    BIT(0)
#define BM_ERROR     BIT(1)
#define BM_INTERRUPT BIT(2)
#define BM_DMA_CAN   0x60u /* scratch bits: "drive 0/1 DMA capable" */

#define PRD_BYTES 8u
#define PRD_EOT   BIT(31)

enum { BM_AT_COMMAND = 0, BM_AT_STATUS = 2, BM_AT_TABLE = 4 };

static void xfer_fill(struct ide_chan *c);
static void xfer_try_dma(struct ide_chan *c);

/* ---- requests ---- */

/* From here to the table: on the disk's thread. */
static void ide_store_poll(void *arg)
{
    struct ide_drive *d = arg;
    struct ide_chan *c = d->chan;
    struct lock *lock = bus_lock(c->ide->pci.dev.bus);
    bool mine;

    lock_take(lock);
    mine = c->waiting && c->req_drive == d;
    if (mine)
        c->waiting = false;
    lock_drop(lock);
    if (mine)
        store_submit(d->store, &c->req);
}

static void ide_store_done(void *arg, struct store_req *r)
{
    struct ide_chan *c = ((struct ide_drive *)arg)->chan;
    struct lock *lock = bus_lock(c->ide->pci.dev.bus);

    lock_take(lock);
    c->in_flight = false;
    c->doing = IDE_DOES_NOTHING;
    if (c->abandoned) { /* a reset came in between, and waited for this */
        c->abandoned = false;
        for (unsigned i = 0; i < IDE_NR_DRIVES && !(c->control & IDE_SRST); i++)
            ide_set_signature(&c->drives[i]);
    } else if (!c->ide->closing) {
        c->then(c, r->error);
    }
    cond_wake_all(&c->ide->idle);
    lock_drop(lock);
}

static void ide_store_batch(void *arg)
{
    (void)arg;
}

/* The host has no room for a write. */
static void ide_store_held(void *arg, bool on)
{
    bus_post_hold(((struct ide_drive *)arg)->chan->ide->pci.dev.bus, on);
}

const struct store_client ide_store_client = {
    .poll = ide_store_poll,
    .done = ide_store_done,
    .batch = ide_store_batch,
    .held = ide_store_held,
};

void ide_submit(struct ide_chan *c, enum store_op op, uint32_t bytes,
                void (*then)(struct ide_chan *c, int err))
{
    struct ide_drive *d = ide_active(c);

    BUG_ON(c->in_flight);
    d->r.status = IDE_BSY | IDE_DRDY;
    c->in_flight = c->waiting = true;
    c->doing = op == STORE_READ    ? IDE_DOES_READ
               : op == STORE_WRITE ? IDE_DOES_WRITE
                                   : IDE_DOES_FLUSH;
    c->then = then;
    c->req_drive = d;
    c->iov = (struct host_iov){ .base = c->buf, .bytes = bytes };
    c->req = (struct store_req){
        .op = op, .off_bytes = c->x.at_bytes, .bytes = bytes, .iov = &c->iov, .nr_iov = 1
    };
    store_kick(d->store);
}

static void flush_done(struct ide_chan *c, int err)
{
    ide_end(c, err ? IDE_ABRT : 0);
}

void ide_flush(struct ide_chan *c)
{
    ide_submit(c, STORE_FLUSH, 0, flush_done);
}

/* ---- PIO ---- */

/* The next block of the buffer is the host's to move. */
static void xfer_block(struct ide_chan *c)
{
    struct ide_xfer *x = &c->x;
    struct ide_drive *d = ide_active(c);

    x->end = x->at + MIN(x->block_bytes, x->buf_bytes - x->at);
    if (x->is_packet) { /* "Byte Count", "Interrupt Reason": data to the host */
        d->r.lba[1] = (uint8_t)(x->end - x->at);
        d->r.lba[2] = (uint8_t)((x->end - x->at) >> 8);
        d->r.count = 2;
    }
    d->r.status = IDE_DRDY | IDE_DSC | IDE_DRQ;
    ide_raise(c);
}

/* All data of a command that reads are with the host. */
static void xfer_in_end(struct ide_chan *c)
{
    /* A disk's last block is not followed by an interrupt, a packet command's is. */
    if (c->x.is_packet || c->x.is_dma)
        ide_end(c, 0);
    else
        ide_active(c)->r.status = IDE_DRDY | IDE_DSC;
}

static void xfer_filled(struct ide_chan *c, int err)
{
    struct ide_xfer *x = &c->x;

    if (err && x->is_packet) {
        ide_atapi_unreadable(ide_active(c));
        return;
    }
    if (err) {
        ide_end(c, IDE_UNC);
        return;
    }
    x->at_bytes += x->buf_bytes;
    x->left_bytes -= x->buf_bytes;
    x->at = 0;
    if (x->is_dma)
        xfer_try_dma(c);
    else
        xfer_block(c);
}

static void xfer_fill(struct ide_chan *c)
{
    c->x.buf_bytes = (uint32_t)MIN(c->x.left_bytes, IDE_BUF_BYTES);
    ide_submit(c, STORE_READ, c->x.buf_bytes, xfer_filled);
}

static void xfer_emptied(struct ide_chan *c, int err)
{
    struct ide_xfer *x = &c->x;

    if (err) {
        ide_end(c, IDE_ABRT);
        return;
    }
    x->at_bytes += x->buf_bytes;
    x->left_bytes -= x->buf_bytes;
    x->at = 0;
    if (!x->left_bytes) {
        ide_end(c, 0);
        return;
    }
    x->buf_bytes = (uint32_t)MIN(x->left_bytes, x->is_dma ? IDE_BUF_BYTES : x->block_bytes);
    if (x->is_dma)
        xfer_try_dma(c);
    else
        xfer_block(c);
}

/* The host has moved all of the block. */
static void xfer_block_moved(struct ide_chan *c)
{
    struct ide_xfer *x = &c->x;

    if (x->wants_packet) {
        x->wants_packet = false;
        x->at = x->end = x->buf_bytes = 0;
        ide_atapi_packet(ide_active(c));
    } else if (x->is_write) {
        ide_submit(c, STORE_WRITE, x->buf_bytes, xfer_emptied);
    } else if (x->at < x->buf_bytes) {
        xfer_block(c);
    } else if (x->left_bytes) {
        xfer_fill(c);
    } else {
        xfer_in_end(c);
    }
}

/* Reads and writes outside a block have no effect; half a word at its end neither. The host may
 * have selected the other drive meanwhile. */
static bool xfer_may_move(struct ide_chan *c, unsigned bytes, bool is_write)
{
    const struct ide_xfer *x = &c->x;

    return !c->in_flight && ide_selected(c) == ide_active(c) &&
           (ide_active(c)->r.status & (IDE_DRQ | IDE_BSY)) == IDE_DRQ && !x->wants_dma &&
           (x->is_write || x->wants_packet) == is_write && x->at <= x->end &&
           x->end - x->at >= bytes;
}

uint32_t ide_data_read(struct ide_chan *c, unsigned bytes)
{
    uint32_t val = UINT32_MAX;

    /* An odd last byte comes with a byte that means nothing. */
    if (bytes == 2 && c->x.end - c->x.at == 1)
        bytes = 1;
    if (!xfer_may_move(c, bytes, false))
        return val;
    val = 0;
    memcpy(&val, c->buf + c->x.at, bytes);
    c->x.at += bytes;
    if (c->x.at == c->x.end)
        xfer_block_moved(c);
    return val;
}

void ide_data_write(struct ide_chan *c, unsigned bytes, uint32_t val)
{
    if (!xfer_may_move(c, bytes, true))
        return;
    memcpy(c->buf + c->x.at, &val, bytes);
    c->x.at += bytes;
    if (c->x.at == c->x.end)
        xfer_block_moved(c);
}

/* ---- DMA ---- */

/* "Physical Region Descriptor": the next one. False: there is none. */
static bool bm_fetch(struct ide_chan *c)
{
    uint32_t prd[2];

    if (c->bm_last || dma_read(c->ide->dma, GPA(c->bm_next), prd, sizeof(prd)))
        return false;
    c->bm_next += PRD_BYTES;
    c->bm_at = prd[0] & ~1u;
    c->bm_left = prd[1] & 0xfffe;
    if (!c->bm_left)
        c->bm_left = 0x10000;
    c->bm_last = prd[1] & PRD_EOT;
    return true;
}

/* The buffer to or from memory. False: the table is too short, or is not in memory. */
static bool bm_move(struct ide_chan *c)
{
    struct ide_xfer *x = &c->x;

    while (x->at < x->buf_bytes) {
        uint32_t n;
        int err;

        if (!c->bm_left && !bm_fetch(c))
            return false;
        n = MIN(c->bm_left, x->buf_bytes - x->at);
        err = x->is_write ? dma_read(c->ide->dma, GPA(c->bm_at), c->buf + x->at, n)
                          : dma_write(c->ide->dma, GPA(c->bm_at), c->buf + x->at, n);
        if (err) /* a hole: the rest of it has the effect it has on a bus */
            c->bm_status |= BM_ERROR;
        c->bm_at += n;
        c->bm_left -= n;
        x->at += n;
    }
    if (c->bm_last && !c->bm_left)
        c->bm_status &= (uint8_t)~BM_ACTIVE;
    return true;
}

/* Moves a buffer if drive and bus master are both ready. */
static void xfer_try_dma(struct ide_chan *c)
{
    struct ide_xfer *x = &c->x;
    struct ide_drive *d = ide_active(c);

    d->r.status = IDE_DRDY | IDE_DSC | IDE_DRQ;
    x->wants_dma = true;
    if (!(c->bm_status & BM_ACTIVE) || !pci_is_master(&c->ide->pci))
        return;
    /* Direction bits that contradict: the bus master and the drive wait for each other. */
    if (!!(c->bm_command & BM_READ) == x->is_write)
        return;
    if (!bm_move(c)) {
        /* "Status bits": not active, no interrupt: the table was shorter than the transfer. */
        c->bm_status &= (uint8_t)~BM_ACTIVE;
        return;
    }
    x->wants_dma = false;
    if (x->is_write) {
        ide_submit(c, STORE_WRITE, x->buf_bytes, xfer_emptied);
    } else if (x->left_bytes) {
        xfer_fill(c);
    } else {
        xfer_in_end(c);
    }
}

/* ---- starting ---- */

void ide_send(struct ide_chan *c, uint32_t bytes)
{
    c->x.left_bytes = 0;
    c->x.at = 0;
    c->x.buf_bytes = bytes;
    if (!bytes)
        ide_end(c, 0);
    else if (c->x.is_dma)
        xfer_try_dma(c);
    else
        xfer_block(c);
}

void ide_xfer_start(struct ide_chan *c)
{
    struct ide_xfer *x = &c->x;
    struct ide_drive *d = ide_active(c);

    x->at = x->end = 0;
    x->wants_dma = x->wants_packet = false;
    if (!x->is_write) {
        xfer_fill(c);
        return;
    }
    x->buf_bytes = (uint32_t)MIN(x->left_bytes, x->is_dma ? IDE_BUF_BYTES : x->block_bytes);
    if (x->is_dma) {
        xfer_try_dma(c);
        return;
    }
    x->end = x->buf_bytes; /* the first block is not announced by an interrupt */
    d->r.status = IDE_DRDY | IDE_DSC | IDE_DRQ;
}

/* ---- the bus master's registers ---- */

uint8_t ide_bm_read(struct ide_chan *c, unsigned off)
{
    switch (off) {
    case BM_AT_COMMAND:
        return c->bm_command;
    case BM_AT_STATUS:
        return c->bm_status;
    case BM_AT_TABLE ... BM_AT_TABLE + 3:
        return (uint8_t)(c->bm_table >> (8 * (off - BM_AT_TABLE)));
    default:
        return 0;
    }
}

/* "Bus Master IDE Command Register": a start begins at the head of the table, a stop loses what was
 * left. */
static void bm_command(struct ide_chan *c, uint8_t val)
{
    bool start = val & ~c->bm_command & BM_START;

    c->bm_command = val & (BM_START | BM_READ);
    if (!(val & BM_START))
        c->bm_status &= (uint8_t)~BM_ACTIVE;
    if (!start)
        return;
    c->bm_status |= BM_ACTIVE;
    c->bm_next = c->bm_table;
    c->bm_left = 0;
    c->bm_last = false;
    if (c->x.wants_dma && !c->in_flight && ide_active(c)->store)
        xfer_try_dma(c);
}

void ide_bm_write(struct ide_chan *c, unsigned off, uint8_t val)
{
    unsigned sh;

    switch (off) {
    case BM_AT_COMMAND:
        bm_command(c, val);
        break;
    case BM_AT_STATUS: /* two bits are cleared by ones, two are the host's to keep */
        c->bm_status &= (uint8_t) ~(val & (BM_ERROR | BM_INTERRUPT));
        c->bm_status = (uint8_t)((c->bm_status & ~BM_DMA_CAN) | (val & BM_DMA_CAN));
        break;
    case BM_AT_TABLE ... BM_AT_TABLE + 3:
        sh = 8 * (off - BM_AT_TABLE);
        c->bm_table = ((c->bm_table & ~(0xffu << sh)) | (uint32_t)val << sh) & ~3u;
        break;
    default:
        break;
    }
}

/* ---- a state that was loaded ---- */

bool ide_xfer_ok(struct ide_chan *c)
{
    const struct ide_xfer *x = &c->x;
    const struct ide_drive *d = ide_active(c);
    uint64_t disk_bytes = d->nr_blocks * (d->is_cd ? IDE_CD_BLOCK : IDE_BLOCK);
    bool moves_disk = x->is_write || c->doing == IDE_DOES_READ;

    if (x->at > x->end || x->end > IDE_BUF_BYTES || x->buf_bytes > IDE_BUF_BYTES ||
        x->block_bytes > IDE_BUF_BYTES || x->left_bytes > disk_bytes ||
        x->at_bytes > disk_bytes - x->left_bytes)
        return false;
    if (moves_disk && x->buf_bytes > x->left_bytes)
        return false;
    return d->store || (!c->doing && !x->end && !x->buf_bytes && !x->left_bytes);
}

void ide_xfer_resume(struct ide_chan *c)
{
    uint32_t bytes = c->x.buf_bytes;

    if (c->doing == IDE_DOES_READ)
        ide_submit(c, STORE_READ, bytes, xfer_filled);
    else if (c->doing == IDE_DOES_WRITE)
        ide_submit(c, STORE_WRITE, bytes, xfer_emptied);
    else
        ide_submit(c, STORE_FLUSH, 0, flush_done);
}
