/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Linux bzImage, boot protocol 2.06 and later (Documentation/x86/boot.rst): 64-bit entry point
 * where the kernel has one, else the 32-bit one. The real-mode part is never run; struct
 * boot_params ("zero page") takes its place.
 */

#include "boot/load.h"

/* Offsets of the setup header, the same in the file and in struct boot_params. */
#define HDR_START         0x1f1u
#define HDR_SYSSIZE       0x1f4u
#define HDR_VID_MODE      0x1fau
#define HDR_BOOT_FLAG     0x1feu
#define HDR_JUMP_LEN      0x201u /* the header ends at 0x202 plus this */
#define HDR_MAGIC         0x202u
#define HDR_VERSION       0x206u
#define HDR_LOADER        0x210u
#define HDR_LOADFLAGS     0x211u
#define HDR_CODE32_START  0x214u
#define HDR_RAMDISK_IMAGE 0x218u
#define HDR_RAMDISK_SIZE  0x21cu
#define HDR_CMD_LINE_PTR  0x228u
#define HDR_INITRD_MAX    0x22cu
#define HDR_ALIGNMENT     0x230u
#define HDR_RELOCATABLE   0x234u
#define HDR_XLOADFLAGS    0x236u
#define HDR_CMDLINE_SIZE  0x238u
#define HDR_SETUP_DATA    0x250u
#define HDR_PREF_ADDRESS  0x258u
#define HDR_INIT_SIZE     0x260u
#define HDR_MIN_END       0x23cu /* what protocol 2.06 has */
#define HDR_MAX_END       0x290u /* what struct boot_params has room for */

#define HDR_MAGIC_VALUE     0x53726448u /* "HdrS" */
#define HDR_BOOT_FLAG_VALUE 0xaa55u
#define LOADED_HIGH         BIT(0)
#define XLF_KERNEL_64       BIT(0)
#define ENTRY_64            0x200u
#define LOADER_UNDEFINED    0xffu
#define VID_MODE_NORMAL     0xffffu

/* The rest of struct boot_params. */
#define BP_BYTES        4096u
#define BP_ACPI_RSDP    0x070u
#define BP_E820_ENTRIES 0x1e8u
#define BP_E820_TABLE   0x2d0u
#define BP_E820_MAX     128u
_Static_assert(E820_MAX <= BP_E820_MAX, "struct boot_params, e820_table");
_Static_assert(sizeof(struct e820_entry) == 20, "struct boot_e820_entry");

/* What a setup header says, with the defaults of the older protocols filled in. */
struct bzimage {
    uint16_t version;
    bool relocatable, has_entry64;
    uint32_t hdr_end;              /* offset */
    uint64_t code_off, code_bytes; /* the protected-mode part in the file */
    uint64_t pref_address, align, init_bytes;
    uint64_t initrd_end; /* first address an initrd must not reach */
    uint64_t cmdline_max;
};

bool bzimage_is(const struct image *img)
{
    const uint8_t *p = image_at(img, 0, HDR_VERSION + 2);

    return p && get_le16(p + HDR_BOOT_FLAG) == HDR_BOOT_FLAG_VALUE &&
           get_le32(p + HDR_MAGIC) == HDR_MAGIC_VALUE;
}

/* Where the setup code ends and the protected-mode code begins. */
static int bzimage_split(const struct image *img, const uint8_t *p, struct bzimage *bz)
{
    unsigned setup_sects = p[HDR_START] ? p[HDR_START] : 4;
    uint64_t declared = (uint64_t)get_le32(p + HDR_SYSSIZE) * 16;

    bz->code_off = (setup_sects + 1ull) * 512;
    if (img->bytes <= bz->code_off)
        return image_refuse(img,
                            "setup_sects says %u setup sectors, but the file has only %llu bytes; "
                            "is it truncated?",
                            setup_sects, (unsigned long long)img->bytes);
    bz->code_bytes = img->bytes - bz->code_off;
    /* A signature may follow the code, so there may be more; syssize is rounded up. */
    if (declared > align_up(bz->code_bytes, 16))
        return image_refuse(
            img, "syssize says %#llx bytes of code, but the file has %#llx; is it truncated?",
            (unsigned long long)declared, (unsigned long long)bz->code_bytes);
    if (bz->hdr_end > bz->code_off)
        return image_refuse(img, "the setup header's end %#x lies behind the %u setup sectors",
                            bz->hdr_end, setup_sects);
    return 0;
}

/* Placement: fields that came with 2.10 have defaults, those of 2.12 do not exist before. */
static int bzimage_parse_placement(const struct image *img, const uint8_t *p, struct bzimage *bz)
{
    bz->relocatable = p[HDR_RELOCATABLE];
    bz->align = get_le32(p + HDR_ALIGNMENT);
    bz->pref_address = BOOT_KERNEL_AT;
    if (bz->version >= 0x20a) {
        bz->pref_address = get_le64(p + HDR_PREF_ADDRESS);
        bz->init_bytes = get_le32(p + HDR_INIT_SIZE);
    }
    bz->init_bytes = MAX(bz->init_bytes, bz->code_bytes);
    bz->has_entry64 = bz->version >= 0x20c && (get_le16(p + HDR_XLOADFLAGS) & XLF_KERNEL_64);
    if (bz->relocatable && (!bz->align || (bz->align & (bz->align - 1))))
        return image_refuse(img, "kernel_alignment %#llx is not a power of two",
                            (unsigned long long)bz->align);
    if (bz->has_entry64 && bz->code_bytes <= ENTRY_64)
        return image_refuse(img, "it has only %#llx bytes of code, none at the 64-bit entry point",
                            (unsigned long long)bz->code_bytes);
    return 0;
}

static int bzimage_parse(const struct image *img, struct bzimage *bz)
{
    const uint8_t *p = image_at(img, 0, HDR_MAX_END);
    int rc;

    *bz = (struct bzimage){ 0 };
    if (!p)
        return image_refuse(img, "the setup header is cut off: the file has only %llu bytes",
                            (unsigned long long)img->bytes);
    bz->version = get_le16(p + HDR_VERSION);
    if (bz->version < 0x206)
        return image_refuse(img,
                            "it has Linux boot protocol %u.%02u, 2.06 (Linux 2.6.22) is needed",
                            bz->version >> 8, bz->version & 0xff);
    bz->hdr_end = HDR_MAGIC + p[HDR_JUMP_LEN];
    if (bz->hdr_end < HDR_MIN_END)
        return image_refuse(img, "the setup header ends at %#x, protocol %u.%02u needs more",
                            bz->hdr_end, bz->version >> 8, bz->version & 0xff);
    if (!(p[HDR_LOADFLAGS] & LOADED_HIGH))
        return image_refuse(img, "loadflags %#x: a zImage, which loads below 1 MB; use a bzImage",
                            p[HDR_LOADFLAGS]);
    bz->cmdline_max = get_le32(p + HDR_CMDLINE_SIZE);
    bz->initrd_end = get_le32(p + HDR_INITRD_MAX) + 1ull;
    rc = bzimage_split(img, p, bz);
    if (rc < 0)
        return rc;
    return bzimage_parse_placement(img, p, bz);
}

/*
 * The preferred address if that is free, else, for a relocatable kernel, the lowest suitable one
 * above: from below Linux moves itself there all the same, whether that much RAM is there or not.
 */
static int bzimage_place(struct loader *ld, const struct bzimage *bz, uint64_t *at)
{
    const uint64_t from = MAX(BOOT_KERNEL_AT, MIN(bz->pref_address, PC_LOW_RAM_MAX));
    const struct span within = { .at = from, .bytes = PC_LOW_RAM_MAX - from };
    bool pref_ok = bz->pref_address < GIB(4) && load_is_free(ld, bz->pref_address, bz->init_bytes);

    *at = bz->pref_address;
    /* A kernel runs at an aligned address; if the preferred one is not, it would move itself out of
     * the claim. */
    if (bz->relocatable && (!pref_ok || (*at & (bz->align - 1))) &&
        !load_find_low(ld, &within, bz->init_bytes, bz->align, at))
        return image_refuse(ld->kernel,
                            "it needs %#llx bytes of memory (init_size) from %#llx on, aligned to "
                            "%#llx: give the guest more memory",
                            (unsigned long long)bz->init_bytes,
                            (unsigned long long)bz->pref_address, (unsigned long long)bz->align);
    if (!bz->relocatable && *at >= GIB(4))
        return image_refuse(ld->kernel, "it must be loaded at %#llx (pref_address), above 4 GB",
                            (unsigned long long)*at);
    return load_claim(ld, "kernel", *at, bz->init_bytes);
}

static void bp_put32(uint8_t *bp, unsigned off, uint64_t val)
{
    const uint32_t v = (uint32_t)val;

    memcpy(bp + off, &v, sizeof(v));
}

static void bp_put64(uint8_t *bp, unsigned off, uint64_t val)
{
    memcpy(bp + off, &val, sizeof(val));
}

static int bzimage_initrd(struct loader *ld, const struct bzimage *bz, uint8_t *bp)
{
    uint64_t at;
    int rc;

    if (!ld->nr_mods)
        return 0;
    rc = load_module(ld, &ld->mods[0].img, bz->initrd_end, &at);
    if (rc < 0)
        return rc;
    bp_put32(bp, HDR_RAMDISK_IMAGE, at);
    bp_put32(bp, HDR_RAMDISK_SIZE, ld->mods[0].img.bytes);
    return 0;
}

/* struct boot_params: the image's setup header with the loader's fields filled in, memory map,
 * RSDP. */
static void bzimage_params(const struct loader *ld, const struct bzimage *bz, uint64_t kernel_at,
                           uint8_t *bp)
{
    const uint16_t vid_mode = VID_MODE_NORMAL;

    memcpy(bp + HDR_START, ld->kernel->data + HDR_START, MIN(bz->hdr_end, HDR_MAX_END) - HDR_START);
    memcpy(bp + HDR_VID_MODE, &vid_mode, sizeof(vid_mode));
    bp[HDR_LOADER] = LOADER_UNDEFINED;
    bp_put32(bp, HDR_CODE32_START, kernel_at);
    bp_put32(bp, HDR_RAMDISK_IMAGE, 0);
    bp_put32(bp, HDR_RAMDISK_SIZE, 0);
    bp_put32(bp, HDR_CMD_LINE_PTR, BOOT_CMDLINE_AT);
    bp_put64(bp, HDR_SETUP_DATA, 0); /* a list the loader makes: never believe the file's */
    bp_put64(bp, BP_ACPI_RSDP, ld->map->rsdp.v);
    bp[BP_E820_ENTRIES] = (uint8_t)ld->map->nr;
    memcpy(bp + BP_E820_TABLE, ld->map->e, ld->map->nr * sizeof(ld->map->e[0]));
}

static int bzimage_enter(struct loader *ld, const struct bzimage *bz, uint64_t kernel_at)
{
    int rc;

    if (bz->has_entry64)
        rc = entry_long64(ld, kernel_at + ENTRY_64);
    else
        rc = entry_flat32(ld, (uint32_t)kernel_at);
    ld->c->gpr[RSI] = BOOT_ZERO_PAGE_AT;
    return rc;
}

int bzimage_load(struct loader *ld)
{
    uint8_t bp[BP_BYTES] = { 0 };
    struct bzimage bz;
    uint64_t kernel_at = 0;
    int rc;

    rc = bzimage_parse(ld->kernel, &bz);
    if (rc == 0)
        rc = load_claim(ld, "boot parameters", BOOT_ZERO_PAGE_AT, BP_BYTES);
    if (rc == 0)
        rc = entry_claim_tables(ld);
    if (rc == 0)
        rc = load_cmdline(ld, bz.cmdline_max);
    if (rc == 0)
        rc = bzimage_place(ld, &bz, &kernel_at);
    if (rc < 0)
        return rc;
    bzimage_params(ld, &bz, kernel_at, bp);
    rc = bzimage_initrd(ld, &bz, bp);
    if (rc == 0)
        rc = load_put(ld, kernel_at, ld->kernel->data + bz.code_off, bz.code_bytes);
    if (rc == 0)
        rc = load_put(ld, BOOT_ZERO_PAGE_AT, bp, sizeof(bp));
    if (rc < 0)
        return rc;
    return bzimage_enter(ld, &bz, kernel_at);
}
