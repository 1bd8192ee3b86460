/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Firmware configuration device: numbered items and named files that firmware and kernels read by
 * ports or by DMA. The interface is QEMU's ("QEMU Firmware Configuration (fw_cfg) Device"), which
 * SeaBIOS, OVMF and Linux know. All items are read-only here: a DMA write is answered with the
 * error bit.
 */
#include "dev/fwcfg.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Ports, from fwcfg.port on. */
#define FWCFG_SELECTOR 0u /* 16 bits, little endian */
#define FWCFG_DATA     1u
#define FWCFG_DMA_HIGH 4u /* 64 bits, big endian; writing the low half starts */
#define FWCFG_DMA_LOW  8u
#define FWCFG_PORTS    12u

/* Upper bits of a selector. */
#define FWCFG_KEY_WRITE BIT(14) /* the old write channel: gone, reads as the item */
#define FWCFG_KEY_ARCH  BIT(15) /* architecture's own items: there are none */

#define FWCFG_DMA_ERROR  BIT(0)
#define FWCFG_DMA_READ   BIT(1)
#define FWCFG_DMA_SKIP   BIT(2)
#define FWCFG_DMA_SELECT BIT(3)
#define FWCFG_DMA_WRITE  BIT(4)

#define FWCFG_ID_PORTS BIT(0)
#define FWCFG_ID_DMA   BIT(1)

/* The control structure in guest memory; all big endian. */
struct fwcfg_dma_control {
    uint32_t control, bytes;
    uint64_t at;
};
static_assert(sizeof(struct fwcfg_dma_control) == 16, "fw_cfg, \"DMA Interface\": FWCfgDmaAccess");

/* ---- reading
 * ----------------------------------------------------------------------------------------------------
 */

static void fwcfg_select(struct fwcfg *f, uint16_t key)
{
    f->selected = key & (uint16_t)~FWCFG_KEY_WRITE;
    f->off_bytes = 0;
    if (f->selecting)
        f->selecting(f->selecting_ctx, f->selected);
}

/* The rest of the selected item; 0 bytes when there is none. */
static uint32_t fwcfg_rest(const struct fwcfg *f, const uint8_t **data)
{
    const struct fwcfg_item *it = &f->items[f->selected < FWCFG_NR_KEYS ? f->selected : 0];
    const uint8_t *from = it->data;
    uint32_t bytes = it->bytes;

    if (f->selected == FWCFG_FILE_DIR) {
        from = f->dir;
        bytes = 4 + f->nr_files * FWCFG_DIR_ENTRY_BYTES;
    }
    if (f->selected >= FWCFG_NR_KEYS || !from || f->off_bytes >= bytes)
        return 0;
    *data = from + f->off_bytes;
    return bytes - f->off_bytes;
}

static void fwcfg_advance(struct fwcfg *f, uint32_t bytes)
{
    if (__builtin_add_overflow(f->off_bytes, bytes, &f->off_bytes))
        f->off_bytes = UINT32_MAX;
}

/* Behind its end an item reads as zeros. */
static uint8_t fwcfg_next_byte(struct fwcfg *f)
{
    const uint8_t *data;

    if (!fwcfg_rest(f, &data))
        return 0;
    fwcfg_advance(f, 1);
    return *data;
}

static int fwcfg_dma_zeros(struct fwcfg *f, gpa_t at, uint32_t bytes)
{
    static const uint8_t zeros[4096];
    int err = 0;

    for (uint32_t done = 0, n; done < bytes && !err; done += n) {
        n = (uint32_t)MIN(bytes - done, sizeof(zeros));
        err = dma_write(f->dma, gpa_add(at, done), zeros, n);
    }
    return err;
}

static int fwcfg_dma_copy(struct fwcfg *f, gpa_t at, uint32_t bytes)
{
    const uint8_t *data;
    uint32_t n = MIN(fwcfg_rest(f, &data), bytes);
    int err = n ? dma_write(f->dma, at, data, n) : 0;

    if (!err)
        err = fwcfg_dma_zeros(f, gpa_add(at, n), bytes - n);
    fwcfg_advance(f, bytes);
    return err;
}

/* The answer is the control word: 0, or the error bit; the guest polls for it. */
static void fwcfg_dma_run(struct fwcfg *f)
{
    gpa_t at = GPA(f->dma_addr);
    struct fwcfg_dma_control c;
    uint32_t control, answer = 0;
    int err;

    f->dma_addr = 0;
    err = dma_read(f->dma, at, &c, sizeof(c));
    control = __builtin_bswap32(c.control);
    if (!err && (control & FWCFG_DMA_SELECT))
        fwcfg_select(f, (uint16_t)(control >> 16));
    if (!err && (control & FWCFG_DMA_READ))
        err = fwcfg_dma_copy(f, GPA(__builtin_bswap64(c.at)), __builtin_bswap32(c.bytes));
    else if (!err && (control & FWCFG_DMA_WRITE))
        err = -EROFS;
    else if (!err && (control & FWCFG_DMA_SKIP))
        fwcfg_advance(f, __builtin_bswap32(c.bytes));
    if (err)
        answer = __builtin_bswap32(FWCFG_DMA_ERROR);
    if (dma_write(f->dma, at, &answer, sizeof(answer)) && log_first(bus_seen(f->dev.bus), f->port))
        log_warn("fw_cfg: the guest's DMA control structure at %#llx is not in RAM",
                 (unsigned long long)at.v);
}

/* ---- ports
 * ------------------------------------------------------------------------------------------------------
 */

static uint64_t fwcfg_read(struct device *dev, uint32_t off_bytes, unsigned bytes)
{
    /* What the DMA address registers read as: the sign that there is DMA. */
    static const uint8_t signature[8] = "QEMU CFG";
    struct fwcfg *f = container_of(dev, struct fwcfg, dev);
    uint64_t val = 0;

    if (off_bytes == FWCFG_DATA && bytes == 1)
        return fwcfg_next_byte(f);
    if (off_bytes < FWCFG_DMA_HIGH)
        return UINT64_MAX;
    memcpy(&val, &signature[off_bytes - FWCFG_DMA_HIGH], bytes);
    return val;
}

static void fwcfg_write(struct device *dev, uint32_t off_bytes, unsigned bytes, uint64_t val)
{
    struct fwcfg *f = container_of(dev, struct fwcfg, dev);

    if (off_bytes == FWCFG_SELECTOR && bytes == 2) {
        fwcfg_select(f, (uint16_t)val);
    } else if (off_bytes == FWCFG_DMA_HIGH && bytes == 4) {
        f->dma_addr = (uint64_t)__builtin_bswap32((uint32_t)val) << 32;
    } else if (off_bytes == FWCFG_DMA_LOW && bytes == 4) {
        f->dma_addr |= __builtin_bswap32((uint32_t)val);
        fwcfg_dma_run(f);
    }
}

/* ---- items
 * ------------------------------------------------------------------------------------------------------
 */

int fwcfg_add_bytes(struct fwcfg *f, uint16_t key, const void *data, uint32_t bytes)
{
    struct fwcfg_item *it;

    if (key >= FWCFG_NR_KEYS || key == FWCFG_FILE_DIR)
        return -EINVAL;
    it = &f->items[key];
    if (it->data)
        return -EEXIST;
    it->data = malloc(MAX(bytes, 1u));
    if (!it->data)
        return -ENOMEM;
    memcpy(it->data, data, bytes);
    it->bytes = bytes;
    return 0;
}

int fwcfg_add_u16(struct fwcfg *f, uint16_t key, uint16_t val)
{
    return fwcfg_add_bytes(f, key, &val, sizeof(val));
}

int fwcfg_add_u32(struct fwcfg *f, uint16_t key, uint32_t val)
{
    return fwcfg_add_bytes(f, key, &val, sizeof(val));
}

int fwcfg_add_u64(struct fwcfg *f, uint16_t key, uint64_t val)
{
    return fwcfg_add_bytes(f, key, &val, sizeof(val));
}

/* The directory: a big-endian count, then for each file size (32), key (16), 16 reserved bits and
 * the name. */
static void fwcfg_dir_append(struct fwcfg *f, const char *name, uint16_t key, uint32_t bytes)
{
    uint8_t *e = &f->dir[4 + f->nr_files * FWCFG_DIR_ENTRY_BYTES];
    uint32_t be_bytes = __builtin_bswap32(bytes), be_nr = __builtin_bswap32(f->nr_files + 1);
    uint16_t be_key = __builtin_bswap16(key);

    memcpy(e, &be_bytes, 4);
    memcpy(e + 4, &be_key, 2);
    memcpy(e + 8, name, strlen(name)); /* the rest is 0 since the start */
    memcpy(f->dir, &be_nr, 4);
    f->nr_files++;
}

/* -1: there is none. */
static int fwcfg_file_idx(const struct fwcfg *f, const char *name)
{
    for (unsigned i = 0; i < f->nr_files; i++)
        if (!strcmp((const char *)&f->dir[4 + i * FWCFG_DIR_ENTRY_BYTES + 8], name))
            return (int)i;
    return -1;
}

int fwcfg_add_file(struct fwcfg *f, const char *name, const void *data, uint32_t bytes)
{
    uint16_t key = (uint16_t)(FWCFG_FILE_FIRST + f->nr_files);
    int err;

    if (strlen(name) >= FWCFG_NAME_BYTES)
        return -EINVAL;
    if (fwcfg_file_idx(f, name) >= 0)
        return -EEXIST;
    if (f->nr_files == FWCFG_FILES_MAX)
        return -ENOSPC;
    err = fwcfg_add_bytes(f, key, data, bytes);
    if (!err)
        fwcfg_dir_append(f, name, key, bytes);
    return err;
}

int fwcfg_change_file(struct fwcfg *f, const char *name, const void *data, uint32_t bytes)
{
    int idx = fwcfg_file_idx(f, name);

    if (idx < 0 || f->items[FWCFG_FILE_FIRST + idx].bytes != bytes)
        return -ENOENT;
    memcpy(f->items[FWCFG_FILE_FIRST + idx].data, data, bytes);
    return 0;
}

/* ---- life
 * -------------------------------------------------------------------------------------------------------
 */

static void fwcfg_reset(struct device *dev)
{
    struct fwcfg *f = container_of(dev, struct fwcfg, dev);

    fwcfg_select(f, FWCFG_SIGNATURE);
    f->dma_addr = 0;
}

/* The items are configuration, not state: they are there again on the machine that loads. */
static const struct state_field fwcfg_state[] = {
    FIELD(struct fwcfg, selected, U16, 1),
    FIELD(struct fwcfg, off_bytes, U32, 1),
    FIELD(struct fwcfg, dma_addr, U64, 1),
};

static const struct device_type fwcfg_type = {
    .name = "fw_cfg",
    .read = fwcfg_read,
    .write = fwcfg_write,
    .max_bytes = 4,
    .reset = fwcfg_reset,
    .state = fwcfg_state,
    .nr_state = ARRAY_SIZE(fwcfg_state),
    .version = 1,
};

int fwcfg_init(struct fwcfg *f, struct bus *bus, uint16_t port, struct dma *dma)
{
    int err;

    *f = (struct fwcfg){ .dev = { .type = &fwcfg_type, .bus = bus, .state_base = f },
                         .dma = dma,
                         .port = port };
    fwcfg_reset(&f->dev);
    bus_add(bus, &f->dev);
    err = fwcfg_add_bytes(f, FWCFG_SIGNATURE, "QEMU", 4);
    if (!err)
        err = fwcfg_add_u32(f, FWCFG_ID, FWCFG_ID_PORTS | FWCFG_ID_DMA);
    if (!err)
        err = bus_claim_ports(bus, port, FWCFG_PORTS, &f->dev, 0);
    return err;
}

void fwcfg_fini(struct fwcfg *f)
{
    bus_release_ports(f->dev.bus, f->port, FWCFG_PORTS, &f->dev);
    for (unsigned i = 0; i < FWCFG_NR_KEYS; i++)
        free(f->items[i].data);
    memset(f->items, 0, sizeof(f->items));
}
