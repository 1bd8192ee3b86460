/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A NOR flash, 8 bits wide, in which UEFI firmware keeps its variables. Its contents are the
 * caller's memory, usually a mapped file.
 *
 * Manuals: JEDEC JESD68, Common Flash Memory Interface; Intel StrataFlash Embedded Memory (J3) data
 * sheet, "Command Definitions". Commands are done at once. One difference: CLEAR STATUS also clears
 * the ready bit until the next operation, because OVMF tells flash from ROM by that.
 */
#include "dev/flash.h"

#include <string.h>

enum {
    CMD_PROGRAM = 0x40,
    CMD_PROGRAM_ALT = 0x10,
    CMD_ERASE = 0x20,
    CMD_CLEAR_STATUS = 0x50,
    CMD_READ_STATUS = 0x70,
    CMD_READ_ID = 0x90,
    CMD_QUERY = 0x98,
    CMD_CONFIRM = 0xd0,
    CMD_BUFFER = 0xe8,
    CMD_READ_ARRAY = 0xff,
};

#define STATUS_READY     0x80u
#define STATUS_BAD_CMD   0x30u /* erase and program error: a sequence that is none */
#define MAKER_INTEL      0x89u
#define DEVICE_J3        0x18u
#define BUFFER_SIZE_LOG2 5u

static uint8_t query_size_log2(const struct flash *f)
{
    return (uint8_t)(31 - __builtin_clz(f->bytes));
}

/* "CFI Query": a table of bytes from 10h on. */
static uint8_t flash_query(const struct flash *f, uint32_t off)
{
    uint32_t nr_blocks = f->bytes / FLASH_BLOCK_BYTES - 1;
    const uint8_t table[] = {
        'Q',
        'R',
        'Y',
        0x01,
        0x00, /* Intel's extended command set */
        0x31,
        0x00,
        0,
        0,
        0,
        0, /* its table; no alternative */
        0x27,
        0x36,
        0,
        0, /* supply voltages */
        7,
        7,
        10,
        0,
        4,
        4,
        4,
        0, /* times */
        query_size_log2(f),
        0,
        0, /* size; 8 bits wide */
        BUFFER_SIZE_LOG2,
        0,
        1, /* one region of equal blocks */
        (uint8_t)nr_blocks,
        (uint8_t)(nr_blocks >> 8),
        FLASH_BLOCK_BYTES / 256 & 0xff,
        FLASH_BLOCK_BYTES / 256 >> 8,
        'P',
        'R',
        'I',
        '1',
        '0',
    };

    return off >= 0x10 && off - 0x10 < sizeof(table) ? table[off - 0x10] : 0;
}

static uint8_t flash_read_byte(const struct flash *f, uint32_t off)
{
    switch (f->mode) {
    case CMD_READ_ARRAY:
        return f->data[off];
    case CMD_READ_ID:
        return (off & 0xff) == 0 ? MAKER_INTEL : (off & 0xff) == 1 ? DEVICE_J3 : 0;
    case CMD_QUERY:
        return flash_query(f, off & 0xff);
    default:
        return f->status;
    }
}

/* Programming only clears bits. */
static void flash_program(struct flash *f, uint32_t off, uint8_t val)
{
    f->data[off] &= val;
}

static void flash_first_cycle(struct flash *f, uint32_t off, uint8_t val)
{
    switch (val) {
    case CMD_PROGRAM:
    case CMD_PROGRAM_ALT:
    case CMD_ERASE:
    case CMD_BUFFER:
        f->cmd = val;
        f->mode = CMD_READ_STATUS;
        f->status |= STATUS_READY;
        f->left = 0;
        f->confirm = false;
        f->block = off / FLASH_BLOCK_BYTES;
        break;
    case CMD_CLEAR_STATUS:
        f->status = 0;
        f->mode = CMD_READ_ARRAY;
        break;
    case CMD_READ_STATUS:
    case CMD_READ_ID:
    case CMD_QUERY:
    case CMD_READ_ARRAY:
        f->mode = val;
        break;
    case 0x00: /* what probing software writes for "none" */
    case 0xf0:
        f->mode = CMD_READ_ARRAY;
        break;
    default:
        if (log_first(bus_seen(f->dev.bus), 0xf1a5400u | val))
            log_warn("flash: guest gave command %#x, which this flash does not have; ignored", val);
        f->mode = CMD_READ_ARRAY;
        break;
    }
}

/* "Write to Buffer": how many bytes less one, the bytes, all in one block, the confirmation. */
static void flash_buffer_cycle(struct flash *f, uint32_t off, uint8_t val)
{
    if (f->confirm) {
        f->cmd = 0;
        f->status |= val == CMD_CONFIRM ? STATUS_READY : STATUS_READY | STATUS_BAD_CMD;
    } else if (!f->left) {
        f->left = MIN((uint32_t)val + 1, BIT(BUFFER_SIZE_LOG2));
    } else {
        if (off / FLASH_BLOCK_BYTES == f->block)
            flash_program(f, off, val);
        f->confirm = --f->left == 0;
    }
}

static void flash_write_byte(struct flash *f, uint32_t off, uint8_t val)
{
    switch (f->cmd) {
    case 0:
        flash_first_cycle(f, off, val);
        break;
    case CMD_BUFFER:
        flash_buffer_cycle(f, off, val);
        break;
    case CMD_ERASE:
        f->cmd = 0;
        if (val == CMD_CONFIRM)
            memset(f->data + align_down(off, FLASH_BLOCK_BYTES), 0xff, FLASH_BLOCK_BYTES);
        f->status |= val == CMD_CONFIRM ? STATUS_READY : STATUS_READY | STATUS_BAD_CMD;
        break;
    default: /* program */
        f->cmd = 0;
        flash_program(f, off, val);
        f->status |= STATUS_READY;
        break;
    }
}

/* The bus gives only what is inside the claim. */
static uint64_t flash_read(struct device *dev, uint64_t off, unsigned bytes)
{
    const struct flash *f = container_of(dev, struct flash, dev);
    uint64_t val = 0;

    for (unsigned i = 0; i < bytes; i++)
        val |= (uint64_t)flash_read_byte(f, (uint32_t)off + i) << (8 * i);
    return val;
}

static void flash_write(struct device *dev, uint64_t off, unsigned bytes, uint64_t val)
{
    struct flash *f = container_of(dev, struct flash, dev);

    for (unsigned i = 0; i < bytes; i++)
        flash_write_byte(f, (uint32_t)off + i, (uint8_t)(val >> (8 * i)));
}

static void flash_reset(struct device *dev)
{
    struct flash *f = container_of(dev, struct flash, dev);

    f->mode = CMD_READ_ARRAY;
    f->cmd = 0;
    f->status = STATUS_READY;
}

/* A state may be anything: the address of a block is only compared. */
static const struct state_field flash_state[] = {
    FIELD(struct flash, mode, U8, 1),   FIELD(struct flash, cmd, U8, 1),
    FIELD(struct flash, status, U8, 1), FIELD(struct flash, left, U32, 1),
    FIELD(struct flash, block, U32, 1), FIELD(struct flash, confirm, BOOL, 1),
};

static const struct device_type flash_type = {
    .name = "flash",
    .mmio_read = flash_read,
    .mmio_write = flash_write,
    .mmio_max_bytes = 8,
    .reset = flash_reset,
    .state = flash_state,
    .nr_state = ARRAY_SIZE(flash_state),
    .version = 1,
};

int flash_init(struct flash *f, struct bus *bus, gpa_t at, uint8_t *data, uint32_t bytes)
{
    BUG_ON(!bytes || bytes % FLASH_BLOCK_BYTES);
    *f = (struct flash){ .dev = { .type = &flash_type, .bus = bus, .state_base = f },
                         .at = at,
                         .data = data,
                         .bytes = bytes };
    flash_reset(&f->dev);
    bus_add(bus, &f->dev);
    return bus_claim_mmio(bus, at, bytes, &f->dev, 0);
}

void flash_fini(struct flash *f)
{
    bus_release_mmio(f->dev.bus, f->at, &f->dev);
}
