/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What all loaders share: the images, the machine they go to, and which guest memory is already
 * taken.
 *
 * A loader claims every range before it writes to it. A claim fails, with a message, when the range
 * is not RAM or when another part of the boot data is there, so nothing an image file says can
 * overwrite what the loader itself put down.
 */
#ifndef BOOT_LOAD_H
#define BOOT_LOAD_H

#include "boot/boot.h"
#include "boot/image.h"

#define LOAD_SPANS_MAX   160
#define LOAD_MODULES_MAX 32

struct span {
    uint64_t at, bytes;
    const char *what; /* for messages */
};

struct module {
    struct image img;
    const char *cmdline; /* multiboot: the module's name and arguments */
};

struct loader {
    struct mmu *m;
    const struct boot_config *cfg;
    const struct boot_map *map;
    struct cpu *c;
    const struct image *kernel;
    const struct module *mods; /* multiboot takes a list, the others one initrd */
    unsigned nr_mods;
    struct span used[LOAD_SPANS_MAX];
    unsigned nr_used;
};

/* The kinds of image, in the order in which they are tried. */
enum load_kind { LOAD_BZIMAGE, LOAD_PVH, LOAD_MULTIBOOT, NR_LOAD_KINDS };

/* What the image is; -ENOEXEC after a message when doppel cannot boot it. */
int load_detect(const struct image *kernel) MUST_CHECK;
/*
 * boot_load() behind the file reading: loads an image of that kind from memory. m, cfg, map, c,
 * kernel, mods and nr_mods of ld are the caller's, the rest is zero.
 */
int load_images(struct loader *ld, enum load_kind kind) MUST_CHECK;

/* ---- place.c ---- */
int load_claim(struct loader *ld, const char *what, uint64_t at, uint64_t bytes) MUST_CHECK;
bool load_is_free(const struct loader *ld, uint64_t at, uint64_t bytes);
/* Unclaimed RAM within [from, end), the highest or the lowest; align is a power of two. False:
 * there is none. */
bool load_find_high(const struct loader *ld, const struct span *within, uint64_t bytes,
                    uint64_t align, uint64_t *at);
bool load_find_low(const struct loader *ld, const struct span *within, uint64_t bytes,
                   uint64_t align, uint64_t *at);
int load_put(struct loader *ld, uint64_t at, const void *buf, uint64_t bytes) MUST_CHECK;
int load_zero(struct loader *ld, uint64_t at, uint64_t bytes) MUST_CHECK;
/* Finds room for a module as high as possible below `end`, page-aligned, claims it and copies it
 * there. */
int load_module(struct loader *ld, const struct image *img, uint64_t end, uint64_t *at) MUST_CHECK;
/* cfg->append at BOOT_CMDLINE_AT; max_bytes without the final NUL. */
int load_cmdline(struct loader *ld, uint64_t max_bytes) MUST_CHECK;

/* ---- entry.c: the vCPU at the kernel's first instruction ---- */
/* Claims and fills the GDT; call before anything else is claimed. */
int entry_claim(struct loader *ld) MUST_CHECK;
/* Flat 32-bit protected mode, paging off; all general registers are 0 afterwards. */
int entry_flat32(struct loader *ld, uint32_t eip) MUST_CHECK;
/* 64-bit mode with the first 4 GB mapped to themselves; claims and fills the page tables. */
int entry_long64(struct loader *ld, uint64_t rip) MUST_CHECK;
int entry_claim_tables(struct loader *ld) MUST_CHECK;

/* ---- one per kind ---- */
bool bzimage_is(const struct image *img);
int bzimage_load(struct loader *ld) MUST_CHECK;
struct elf;
bool pvh_is(const struct elf *e);
int pvh_load(struct loader *ld) MUST_CHECK;
/* Has the file a multiboot header with a right checksum? */
bool multiboot_is(const struct image *img);
int multiboot_load(struct loader *ld) MUST_CHECK;

#endif
