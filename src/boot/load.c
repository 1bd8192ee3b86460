/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From files to a vCPU at a kernel's entry point: reads the images, finds out what the kernel is,
 * and lets that loader do the rest.
 */
#include "boot/load.h"

#include <stdlib.h>

#include "boot/elf.h"
#include "lib/log.h"

static int (*const load_fns[NR_LOAD_KINDS])(struct loader *ld) = {
    [LOAD_BZIMAGE] = bzimage_load,
    [LOAD_PVH] = pvh_load,
    [LOAD_MULTIBOOT] = multiboot_load,
};

/* What people pass by mistake, by its first bytes. */
static const struct {
    uint8_t magic[6], bytes;
    const char *hint;
} not_kernels[] = {
    { { 0x1f, 0x8b }, 2, "it is gzip data; decompress it, or use the bzImage" },
    { { 0xfd, '7', 'z', 'X', 'Z', 0 }, 6, "it is xz data; decompress it, or use the bzImage" },
    { { 0x28, 0xb5, 0x2f, 0xfd }, 4, "it is zstd data; decompress it, or use the bzImage" },
    { { '0', '7', '0', '7', '0', '1' }, 6, "it is a cpio archive; is it the initrd?" },
    { { 'Q', 'F', 'I', 0xfb }, 4, "it is a qcow2 disk image; --kernel wants a kernel" },
    { { 'M', 'Z' }, 2, "it is an EFI program without a Linux setup header" },
};

/* No loader wants it: say why as well as we can. */
static int load_refuse_unknown(const struct image *kernel)
{
    for (unsigned i = 0; i < ARRAY_SIZE(not_kernels); i++) {
        const uint8_t *p = image_at(kernel, 0, not_kernels[i].bytes);

        if (p && !memcmp(p, not_kernels[i].magic, not_kernels[i].bytes))
            return image_refuse(kernel, "%s", not_kernels[i].hint);
    }
    return image_refuse(kernel,
                        "it is neither a Linux bzImage, nor an ELF file with a PVH note, nor has "
                        "it a multiboot header (%llu bytes)",
                        (unsigned long long)kernel->bytes);
}

int load_detect(const struct image *kernel)
{
    struct elf e;
    int rc;

    if (bzimage_is(kernel))
        return LOAD_BZIMAGE;
    if (elf_is(kernel)) {
        rc = elf_open(&e, kernel);
        if (rc < 0)
            return rc;
        if (pvh_is(&e))
            return LOAD_PVH;
        if (!multiboot_is(kernel))
            return image_refuse(kernel, "it is an ELF file without a PVH entry note (Linux: "
                                        "CONFIG_PVH) and without a multiboot header");
    }
    if (multiboot_is(kernel))
        return LOAD_MULTIBOOT;
    return load_refuse_unknown(kernel);
}

int load_images(struct loader *ld, enum load_kind kind)
{
    int rc = entry_claim(ld);

    if (rc < 0)
        return rc;
    return load_fns[kind](ld);
}

/* ---- the initrd, or multiboot's list of modules ---- */

struct module_list {
    char *text; /* the words point into it */
    struct module mods[LOAD_MODULES_MAX];
    unsigned nr;
};

static void modules_free(struct module_list *ml)
{
    for (unsigned i = 0; i < ml->nr; i++)
        image_free(&ml->mods[i].img);
    free(ml->text);
}

/* One "FILE" or "FILE ARGUMENTS"; text stays as the module's command line. */
static int modules_read_one(struct module_list *ml, const char *text, bool with_args,
                            uint64_t max_bytes)
{
    struct module *mod = &ml->mods[ml->nr];
    uint64_t path_bytes = with_args ? strcspn(text, " ") : strlen(text);
    char *path = strndup(text, path_bytes);
    int rc;

    if (!path)
        return -ENOMEM;
    rc = image_read(&mod->img, "initrd", path, max_bytes);
    mod->img.path = text;
    mod->cmdline = text;
    free(path);
    if (rc == 0)
        ml->nr++;
    return rc;
}

/* Cuts *rest at its first single comma; a doubled one stands for a comma. */
static char *modules_next_word(char **rest)
{
    char *word = *rest, *from = word, *to = word;

    while (*from && (*from != ',' || from[1] == ',')) {
        if (*from == ',')
            from++;
        *to++ = *from++;
    }
    *rest = *from ? from + 1 : NULL;
    *to = '\0';
    return word + strspn(word, " ");
}

static int modules_read(struct module_list *ml, const struct boot_config *cfg, enum load_kind kind)
{
    uint64_t max_bytes = MIN(cfg->ram_bytes, PC_LOW_RAM_MAX);
    char *rest;
    int rc = 0;

    if (!cfg->initrd || !*cfg->initrd)
        return 0;
    ml->text = strdup(cfg->initrd);
    if (!ml->text)
        return -ENOMEM;
    if (kind != LOAD_MULTIBOOT)
        return modules_read_one(ml, ml->text, false, max_bytes);
    for (rest = ml->text; rest && rc == 0;) {
        if (ml->nr == LOAD_MODULES_MAX) {
            log_error("initrd: '%s' has more than %u modules", cfg->initrd, LOAD_MODULES_MAX);
            return -E2BIG;
        }
        rc = modules_read_one(ml, modules_next_word(&rest), true, max_bytes);
    }
    return rc;
}

int boot_load(struct mmu *m, const struct boot_config *cfg, const struct boot_map *map,
              struct cpu *c)
{
    struct module_list ml = { 0 };
    struct loader ld = { .m = m, .cfg = cfg, .map = map, .c = c };
    struct image kernel;
    int rc, kind;

    rc = image_read(&kernel, "kernel", cfg->kernel, IMAGE_KERNEL_MAX);
    if (rc < 0)
        return rc;
    rc = kind = load_detect(&kernel);
    if (rc >= 0)
        rc = modules_read(&ml, cfg, (enum load_kind)kind);
    if (rc >= 0) {
        ld.kernel = &kernel;
        ld.mods = ml.mods;
        ld.nr_mods = ml.nr;
        rc = load_images(&ld, (enum load_kind)kind);
    }
    modules_free(&ml);
    image_free(&kernel);
    return rc;
}
