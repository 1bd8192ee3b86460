/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Multiboot 1 (Multiboot Specification 0.6.96): ELF kernels, or flat files whose header has the
 * address fields. The kernel starts in flat 32-bit protected mode with EAX and EBX as the
 * specification says.
 */
#include <stdio.h>
#include <stdlib.h>

#include "boot/elf.h"
#include "lib/log.h"

/* "The layout of Multiboot header" */
#define MB_SEARCH_BYTES 8192u
#define MB_HEADER_MAGIC 0x1badb002u
#define MB_HEADER_BYTES 12u
#define MB_ADDR_BYTES   32u /* with the address fields */
#define MB_PAGE_ALIGN   BIT(0)
#define MB_MEMORY_INFO  BIT(1)
#define MB_VIDEO_MODE   BIT(2)
#define MB_MUST_KNOW    0xffffu /* "if it doesn't understand ... it must notify the user and fail" */
#define MB_ADDR_FIELDS  BIT(16)

/* "Boot information format" */
#define MB_LOADER_MAGIC 0x2badb002u
#define MBI_MEMORY      BIT(0)
#define MBI_CMDLINE     BIT(2)
#define MBI_MODS        BIT(3)
#define MBI_MMAP        BIT(6)
#define MBI_LOADER_NAME BIT(9)

#define LOADER_NAME "doppel"

struct mb_info {
    uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4];
    uint32_t mmap_length, mmap_addr, drives_length, drives_addr, config_table, boot_loader_name;
    uint32_t apm_table, vbe[4];
};
_Static_assert(sizeof(struct mb_info) == 88, "Multiboot Specification, Boot information format");

struct mb_mod {
    uint32_t start, end, cmdline, reserved;
};
_Static_assert(sizeof(struct mb_mod) == 16, "Multiboot Specification, Boot information format");

struct mb_mmap {
    uint32_t size; /* of the rest */
    uint64_t base, length;
    uint32_t type;
} __attribute__((packed));
_Static_assert(sizeof(struct mb_mmap) == 24, "Multiboot Specification, Boot information format");

/* All of it but the command lines, as it lies at BOOT_START_INFO_AT. */
struct mb_page {
    struct mb_info info;
    char name[8];
    struct mb_mod mods[LOAD_MODULES_MAX];
    struct mb_mmap mmap[E820_MAX];
};
_Static_assert(sizeof(struct mb_page) <= BOOT_ZERO_PAGE_AT - BOOT_START_INFO_AT, "one page");
_Static_assert(sizeof(LOADER_NAME) <= sizeof(((struct mb_page *)0)->name), "with its NUL");

/* Offset of the header in the file, or -1. */
static int64_t multiboot_find(const struct image *img)
{
    uint64_t end = MIN(img->bytes, (uint64_t)MB_SEARCH_BYTES);

    for (uint64_t off = 0; off + MB_HEADER_BYTES <= end; off += 4) {
        const uint8_t *p = img->data + off;

        if (get_le32(p) == MB_HEADER_MAGIC && get_le32(p) + get_le32(p + 4) + get_le32(p + 8) == 0)
            return (int64_t)off;
    }
    return -1;
}

bool multiboot_is(const struct image *img)
{
    return multiboot_find(img) >= 0;
}

static int multiboot_check_flags(const struct image *img, uint32_t flags)
{
    uint32_t unknown = flags & MB_MUST_KNOW & ~(MB_PAGE_ALIGN | MB_MEMORY_INFO | MB_VIDEO_MODE);

    if (flags & MB_VIDEO_MODE)
        return image_refuse(img,
                            "its multiboot header wants a video mode (flags %#x, bit 2), but "
                            "there is no graphics card",
                            flags);
    if (unknown)
        return image_refuse(img,
                            "its multiboot header requires unknown features (flags %#x, bits %#x)",
                            flags, unknown);
    return 0;
}

/* The "a.out kludge": where the parts of a flat file go. */
struct mb_flat {
    uint32_t header, load, load_end, bss_end, entry;
    uint64_t file_off, load_bytes, mem_bytes;
};

static int multiboot_parse_flat(const struct image *img, uint64_t hdr_off, struct mb_flat *f)
{
    const uint8_t *p = image_at(img, hdr_off, MB_ADDR_BYTES);

    if (!p)
        return image_refuse(img, "its multiboot header is cut off before the address fields");
    *f = (struct mb_flat){ .header = get_le32(p + 12),
                           .load = get_le32(p + 16),
                           .load_end = get_le32(p + 20),
                           .bss_end = get_le32(p + 24),
                           .entry = get_le32(p + 28) };
    if (f->load > f->header || f->header - f->load > hdr_off)
        return image_refuse(img,
                            "multiboot load_addr %#x and header_addr %#x do not fit a header at "
                            "offset %#llx",
                            f->load, f->header, (unsigned long long)hdr_off);
    f->file_off = hdr_off - (f->header - f->load);
    f->load_bytes = img->bytes - f->file_off;
    if (f->load_end) {
        if (f->load_end < f->load || f->load_end - f->load > f->load_bytes)
            return image_refuse(img,
                                "multiboot load_end_addr %#x: the file has %#llx bytes to load at "
                                "%#x; is it truncated?",
                                f->load_end, (unsigned long long)f->load_bytes, f->load);
        f->load_bytes = f->load_end - f->load;
    }
    f->mem_bytes = f->load_bytes;
    if (f->bss_end) {
        if (f->bss_end < f->load || f->bss_end - f->load < f->load_bytes)
            return image_refuse(img,
                                "multiboot bss_end_addr %#x lies before the end of the data, %#llx",
                                f->bss_end, (unsigned long long)f->load + f->load_bytes);
        f->mem_bytes = f->bss_end - f->load;
    }
    if (f->entry < f->load || f->entry - f->load >= f->load_bytes)
        return image_refuse(img, "multiboot entry_addr %#x is not in the loaded %#llx bytes at %#x",
                            f->entry, (unsigned long long)f->load_bytes, f->load);
    return 0;
}

static int multiboot_load_flat(struct loader *ld, uint64_t hdr_off, uint32_t *entry)
{
    struct mb_flat f = { 0 };
    int rc = multiboot_parse_flat(ld->kernel, hdr_off, &f);

    if (rc == 0)
        rc = load_claim(ld, "kernel", f.load, f.mem_bytes);
    if (rc == 0)
        rc = load_put(ld, f.load, ld->kernel->data + f.file_off, f.load_bytes);
    if (rc == 0)
        rc = load_zero(ld, f.load + f.load_bytes, f.mem_bytes - f.load_bytes);
    *entry = f.entry;
    return rc;
}

static int multiboot_load_elf(struct loader *ld, uint32_t *entry)
{
    struct elf e;
    int rc;

    if (!elf_is(ld->kernel))
        return image_refuse(ld->kernel,
                            "its multiboot header has no address fields (flags, bit 16) "
                            "and it is not an ELF file");
    rc = elf_open(&e, ld->kernel);
    if (rc == 0)
        rc = elf_entry_phys(&e, entry);
    if (rc == 0)
        rc = elf_load(ld, &e);
    return rc;
}

/* ---- the information ---- */

/* Appends a string to the command line area; *at gets its address. */
static int multiboot_put_string(struct loader *ld, uint64_t *used, const char *s, uint32_t *at)
{
    uint64_t bytes = strlen(s) + 1;

    if (bytes > BOOT_CMDLINE_MAX - *used) {
        log_error("'%s': the command lines of kernel and modules have more than %u bytes",
                  ld->kernel->path, BOOT_CMDLINE_MAX);
        return -E2BIG;
    }
    *at = (uint32_t)(BOOT_CMDLINE_AT + *used);
    *used += bytes;
    return load_put(ld, *at, s, bytes);
}

/* The image's name as the first word, then the arguments. */
static int multiboot_put_cmdline(struct loader *ld, uint64_t *used, uint32_t *at)
{
    const char *append = ld->cfg->append ? ld->cfg->append : "";
    char *line;
    int n, rc;

    n = asprintf(&line, "%s%s%s", ld->kernel->path, *append ? " " : "", append);
    if (n < 0)
        return -ENOMEM;
    /* A blank in the path would end the first word early. */
    for (char *s = line; s < line + strlen(ld->kernel->path); s++)
        if (*s == ' ' || *s == '\t' || *s == '\n')
            *s = '_';
    rc = multiboot_put_string(ld, used, line, at);
    free(line);
    return rc;
}

static int multiboot_put_mods(struct loader *ld, struct mb_page *page, uint64_t *used)
{
    uint64_t at;
    int rc;

    for (unsigned i = 0; i < ld->nr_mods; i++) {
        const struct module *mod = &ld->mods[i];

        rc = load_module(ld, &mod->img, GIB(4), &at);
        if (rc < 0)
            return rc;
        page->mods[i].start = (uint32_t)at;
        page->mods[i].end = (uint32_t)(at + mod->img.bytes);
        rc = multiboot_put_string(ld, used, mod->cmdline ? mod->cmdline : "",
                                  &page->mods[i].cmdline);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* mem_lower and mem_upper: KB below 640 KB, and from 1 MB to the first hole. */
static void multiboot_put_map(const struct boot_map *map, struct mb_page *page)
{
    for (unsigned i = 0; i < map->nr; i++) {
        const struct e820_entry *e = &map->e[i];

        page->mmap[i] = (struct mb_mmap){
            .size = sizeof(page->mmap[i]) - sizeof(page->mmap[i].size),
            .base = e->base,
            .length = e->bytes,
            .type = e->type,
        };
        if (e->type == E820_RAM && e->base == 0)
            page->info.mem_lower = (uint32_t)(e->bytes >> 10);
        if (e->type == E820_RAM && e->base == BOOT_KERNEL_AT)
            page->info.mem_upper = (uint32_t)(e->bytes >> 10);
    }
}

static int multiboot_put_info(struct loader *ld)
{
    const uint64_t at = BOOT_START_INFO_AT;
    struct mb_page page = {
        .info = {
            .flags = MBI_MEMORY | MBI_CMDLINE | MBI_MMAP | MBI_LOADER_NAME,
            .mmap_length = (uint32_t)(ld->map->nr * sizeof(struct mb_mmap)),
            .mmap_addr = (uint32_t)(at + offsetof(struct mb_page, mmap)),
            .boot_loader_name = (uint32_t)(at + offsetof(struct mb_page, name)),
        },
        .name = LOADER_NAME,
    };
    uint64_t used = 0;
    int rc;

    if (ld->nr_mods) {
        page.info.flags |= MBI_MODS;
        page.info.mods_count = ld->nr_mods;
        page.info.mods_addr = (uint32_t)(at + offsetof(struct mb_page, mods));
    }
    multiboot_put_map(ld->map, &page);
    rc = multiboot_put_cmdline(ld, &used, &page.info.cmdline);
    if (rc == 0)
        rc = multiboot_put_mods(ld, &page, &used);
    if (rc == 0)
        rc = load_put(ld, at, &page, sizeof(page));
    return rc;
}

int multiboot_load(struct loader *ld)
{
    int64_t hdr_off = multiboot_find(ld->kernel);
    uint32_t flags, entry = 0;
    int rc;

    if (hdr_off < 0)
        return image_refuse(ld->kernel, "it has no multiboot header");
    flags = get_le32(ld->kernel->data + hdr_off + 4);
    rc = multiboot_check_flags(ld->kernel, flags);
    if (rc == 0)
        rc = load_claim(ld, "multiboot information", BOOT_START_INFO_AT, sizeof(struct mb_page));
    if (rc == 0)
        rc = load_claim(ld, "command line", BOOT_CMDLINE_AT, BOOT_CMDLINE_MAX);
    if (rc < 0)
        return rc;
    /* Address fields, where given, come before what the ELF headers say. */
    if (flags & MB_ADDR_FIELDS)
        rc = multiboot_load_flat(ld, (uint64_t)hdr_off, &entry);
    else
        rc = multiboot_load_elf(ld, &entry);
    if (rc == 0)
        rc = multiboot_put_info(ld);
    if (rc == 0)
        rc = entry_flat32(ld, entry);
    ld->c->gpr[RAX] = MB_LOADER_MAGIC;
    ld->c->gpr[RBX] = BOOT_START_INFO_AT;
    return rc;
}
