/* SPDX-License-Identifier: Apache-2.0 */
/* The firmware configuration device: see fwcfg.c. */
#ifndef DEV_FWCFG_H
#define DEV_FWCFG_H

#include "bus/bus.h"
#include "mmu/mmu.h"

/* Keys with a fixed meaning; numbers are little endian. Files get keys from FWCFG_FILE_FIRST on. */
enum fwcfg_key {
    FWCFG_SIGNATURE = 0x00,  /* "QEMU": what drivers look for */
    FWCFG_ID = 0x01,         /* u32: bit 0 port interface, bit 1 DMA */
    FWCFG_UUID = 0x02,       /* 16 bytes */
    FWCFG_RAM_BYTES = 0x03,  /* u64 */
    FWCFG_NO_GRAPHIC = 0x04, /* u16 */
    FWCFG_NR_CPUS = 0x05,    /* u16 */
    FWCFG_KERNEL_ADDR = 0x07,
    FWCFG_KERNEL_BYTES = 0x08,
    FWCFG_INITRD_ADDR = 0x0a,
    FWCFG_INITRD_BYTES = 0x0b,
    FWCFG_MAX_CPUS = 0x0f, /* u16 */
    FWCFG_KERNEL_DATA = 0x11,
    FWCFG_INITRD_DATA = 0x12,
    FWCFG_CMDLINE_ADDR = 0x13,
    FWCFG_CMDLINE_BYTES = 0x14,
    FWCFG_CMDLINE_DATA = 0x15,
    FWCFG_SETUP_ADDR = 0x16,
    FWCFG_SETUP_BYTES = 0x17,
    FWCFG_SETUP_DATA = 0x18,
    FWCFG_FILE_DIR = 0x19,
    FWCFG_FILE_FIRST = 0x20,
};

#define FWCFG_NR_KEYS         0x120u /* of these, files: */
#define FWCFG_FILES_MAX       (FWCFG_NR_KEYS - FWCFG_FILE_FIRST)
#define FWCFG_NAME_BYTES      56u /* with the final 0 */
#define FWCFG_DIR_ENTRY_BYTES 64u

struct fwcfg_item {
    uint8_t *data; /* malloc'ed, owned; NULL: no such item */
    uint32_t bytes;
};

struct fwcfg {
    struct device dev;
    struct dma *dma; /* the machine's */
    uint16_t port;
    struct fwcfg_item items[FWCFG_NR_KEYS];
    unsigned nr_files;
    uint8_t dir[4 + FWCFG_FILES_MAX * FWCFG_DIR_ENTRY_BYTES]; /* as the guest reads it */

    /* Called when the guest selects an item, which may be brought up to date then. Or NULL. */
    void (*selecting)(void *ctx, uint16_t key);
    void *selecting_ctx;

    uint16_t selected;
    uint32_t off_bytes; /* of the next byte of that item */
    uint64_t dma_addr;  /* of the control structure, as far as written */
};

int fwcfg_init(struct fwcfg *f, struct bus *bus, uint16_t port, struct dma *dma) MUST_CHECK;
void fwcfg_fini(struct fwcfg *f);

/* While the machine is built. Data is copied. -EEXIST if there is such an item, -EINVAL, -ENOSPC or
 * -ENOMEM. */
int fwcfg_add_bytes(struct fwcfg *f, uint16_t key, const void *data, uint32_t bytes) MUST_CHECK;
int fwcfg_add_u16(struct fwcfg *f, uint16_t key, uint16_t val) MUST_CHECK;
int fwcfg_add_u32(struct fwcfg *f, uint16_t key, uint32_t val) MUST_CHECK;
int fwcfg_add_u64(struct fwcfg *f, uint16_t key, uint64_t val) MUST_CHECK;
int fwcfg_add_file(struct fwcfg *f, const char *name, const void *data, uint32_t bytes) MUST_CHECK;

/* New contents of a file, as many bytes as it has. -ENOENT: there is none of that name and size. */
int fwcfg_change_file(struct fwcfg *f, const char *name, const void *data,
                      uint32_t bytes) MUST_CHECK;

#endif
