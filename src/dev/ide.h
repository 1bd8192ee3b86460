/* SPDX-License-Identifier: Apache-2.0 */
/*
 * IDE: a PCI function of the PIIX4's kind with two channels of two drives each, at the ports where
 * they always were (1F0h, 170h) and with bus-master DMA.
 *
 * ide.c: the function, the channels' registers, interrupts and resets. ide_xfer.c: how data gets
 * from a disk to the guest and back, by PIO or DMA. ide_ata.c: what a hard disk does; ide_atapi.c:
 * what a CD-ROM drive does. Requests to disks are done by the disks' threads; meanwhile the drive
 * is busy.
 */
#ifndef DEV_IDE_H
#define DEV_IDE_H

#include "backend/store.h"
#include "dev/pci.h"
#include "mmu/mmu.h"

#define IDE_NR_CHANS     2u
#define IDE_NR_DRIVES    2u
#define IDE_BUF_BYTES    0x10000u
#define IDE_BLOCK        512u  /* of a hard disk */
#define IDE_MULTIPLE_MAX 16u   /* blocks an interrupt */
#define IDE_CD_BLOCK     2048u /* of a CD-ROM */

/* Status register (ATA/ATAPI-7, "Status register") */
#define IDE_SRST BIT(2) /* of ide_chan.control: software reset */
#define IDE_ERR  BIT(0) /* CHK to a packet device */
#define IDE_DRQ  BIT(3)
#define IDE_DSC  BIT(4)
#define IDE_DF   BIT(5)
#define IDE_DRDY BIT(6)
#define IDE_BSY  BIT(7)
/* Error register */
#define IDE_ABRT BIT(2)
#define IDE_IDNF BIT(4)
#define IDE_UNC  BIT(6)

struct ide_chan;

/* The register file that the host sees when the drive is selected. */
struct ide_regs {
    uint8_t feature, count, lba[3], device;     /* as written last */
    uint8_t feature_hob, count_hob, lba_hob[3]; /* and what was there before: 48-bit commands */
    uint8_t status, error;
};

struct ide_drive {
    struct ide_chan *chan;
    struct store *store; /* NULL: there is no drive. The caller's */
    bool is_cd;
    struct ide_regs r;
    uint64_t nr_blocks;      /* of 512 bytes, of 2048 if a CD */
    uint16_t heads, sectors; /* the geometry that the host set */
    uint8_t multiple;        /* blocks per interrupt of the MULTIPLE commands; 0: off */
    uint8_t mode;            /* transfer mode that SET FEATURES chose */
    /* CD: what REQUEST SENSE tells */
    uint8_t sense_key, sense_code;
};

/* A command's data on their way. */
struct ide_xfer {
    bool is_write, is_dma, is_packet;
    bool wants_dma;       /* waits for the host to start the bus master */
    bool wants_packet;    /* the data the host writes are a packet command */
    uint64_t at_bytes;    /* on the disk */
    uint64_t left_bytes;  /* not yet moved between disk and buffer */
    uint32_t block_bytes; /* between two interrupts */
    uint32_t at, end;     /* of the block that the host moves now, in the buffer */
    uint32_t buf_bytes;   /* what of the buffer is filled */
};

/* What a request in flight is: it is made again when a saved state is loaded. */
enum { IDE_DOES_NOTHING, IDE_DOES_READ, IDE_DOES_WRITE, IDE_DOES_FLUSH };

struct ide_chan {
    struct ide *ide;
    struct irq_line irq;
    struct ide_drive drives[IDE_NR_DRIVES];
    uint8_t active_nr; /* of the drive whose command is or was the last; c->x is its */
    uint8_t control;   /* device control register */
    bool irq_wanted;   /* INTRQ, before nIEN */
    bool irq_up;
    struct ide_xfer x;
    uint8_t buf[IDE_BUF_BYTES];
    /* The bus master (Programming Interface for Bus Master IDE Controller) */
    uint8_t bm_command, bm_status;
    uint32_t bm_table; /* as written */
    uint32_t bm_next;  /* the descriptor to be read next */
    uint32_t bm_at, bm_left;
    bool bm_last;
    /* The request to a disk, and what comes behind it. */
    struct store_req req;
    struct host_iov iov;
    struct ide_drive *req_drive;
    bool waiting; /* for the disk's thread to fetch it */
    bool in_flight, abandoned;
    uint8_t doing; /* IDE_DOES_..., while in flight */
    void (*then)(struct ide_chan *c, int err);
};

struct ide {
    struct pci_dev pci;
    struct dma *dma;
    struct cond idle; /* a request was done */
    bool closing;
    struct ide_chan chans[IDE_NR_CHANS];
};

/* What is in a drive's place: nothing, a disk, or a CD-ROM drive with a disc. */
struct ide_slot {
    struct store *store;
    bool is_cd;
};

struct ide_config {
    struct pci_host *host;
    struct dma *dma;
    struct irq_line irq[IDE_NR_CHANS]; /* IRQ 14 and 15 */
    uint8_t devfn;
    struct ide_slot slots[IDE_NR_CHANS * IDE_NR_DRIVES]; /* primary master, primary slave, ... */
};

int ide_init(struct ide *ide, const struct ide_config *cfg) MUST_CHECK;
void ide_fini(struct ide *ide);

/* ---- between the files of IDE; machine lock held ---- */

static inline struct ide_drive *ide_selected(struct ide_chan *c)
{
    return &c->drives[c->drives[0].r.device >> 4 & 1];
}

static inline struct ide_drive *ide_active(struct ide_chan *c)
{
    return &c->drives[c->active_nr];
}

void ide_raise(struct ide_chan *c);
/* The command ends, with an interrupt; error 0 or IDE_ABRT, ... */
void ide_end(struct ide_chan *c, uint8_t error);
void ide_set_signature(struct ide_drive *d);
/* A command of the selected drive; d->r has its registers. */
void ide_ata_command(struct ide_drive *d, uint8_t cmd);
void ide_atapi_command(struct ide_drive *d, uint8_t cmd);
/* A command that either kind has. False: it is none. */
bool ide_common_command(struct ide_drive *d, uint8_t cmd);
/* The host has written the 12 bytes to c->buf. */
void ide_atapi_packet(struct ide_drive *d);
void ide_atapi_unreadable(struct ide_drive *d); /* the host could not read what it is to send */

/* ---- ide_xfer.c ---- */
/* Data from c->buf to the host, whatever c->x says else. */
void ide_send(struct ide_chan *c, uint32_t bytes);
/* c->x was filled: from disk to the host, or from the host to the disk. */
void ide_xfer_start(struct ide_chan *c);
/* c->doing was loaded: makes that request again. */
void ide_xfer_resume(struct ide_chan *c);
/* Is what was loaded into c->x possible? */
bool ide_xfer_ok(struct ide_chan *c);
/* Submits a request of the selected drive; then() is called when it is done. Busy meanwhile. */
void ide_submit(struct ide_chan *c, enum store_op op, uint32_t bytes,
                void (*then)(struct ide_chan *c, int err));
void ide_flush(struct ide_chan *c);
extern const struct store_client ide_store_client; /* arg: the drive */
/* The data register. */
uint32_t ide_data_read(struct ide_chan *c, unsigned bytes);
void ide_data_write(struct ide_chan *c, unsigned bytes, uint32_t val);
/* The bus master's registers, off_bytes 0..7. */
uint8_t ide_bm_read(struct ide_chan *c, unsigned off);
void ide_bm_write(struct ide_chan *c, unsigned off, uint8_t val);

#endif
