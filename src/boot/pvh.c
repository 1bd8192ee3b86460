/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PVH direct boot of an ELF kernel (Xen, "x86/HVM direct boot ABI"): the entry point is in an ELF
 * note, the boot information in struct hvm_start_info version 1, the vCPU in flat 32-bit protected
 * mode.
 */
#include "boot/elf.h"

#define NOTE_PHYS32_ENTRY 18u /* XEN_ELFNOTE_PHYS32_ENTRY */
#define NOTE_HEADER_BYTES 12u

struct hvm_start_info {
    uint32_t magic, version, flags, nr_modules;
    uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
    uint32_t memmap_entries, reserved;
};
_Static_assert(sizeof(struct hvm_start_info) == 56, "x86/HVM direct boot ABI");

struct hvm_modlist_entry {
    uint64_t paddr, size, cmdline_paddr, reserved;
};
_Static_assert(sizeof(struct hvm_modlist_entry) == 32, "x86/HVM direct boot ABI");

struct hvm_memmap_table_entry {
    uint64_t addr, size;
    uint32_t type, reserved;
};
_Static_assert(sizeof(struct hvm_memmap_table_entry) == 24, "x86/HVM direct boot ABI");

#define START_MAGIC   0x336ec578u
#define START_VERSION 1u

/* All of it, as it lies at BOOT_START_INFO_AT. */
struct pvh_info {
    struct hvm_start_info info;
    struct hvm_modlist_entry mod;
    struct hvm_memmap_table_entry memmap[E820_MAX];
};
_Static_assert(sizeof(struct pvh_info) <= BOOT_ZERO_PAGE_AT - BOOT_START_INFO_AT, "one page");

/* Looks for the entry note in one PT_NOTE segment (System V ABI, "Note Section"). */
static bool pvh_scan_notes(const uint8_t *p, uint64_t bytes, uint64_t align, uint64_t *entry)
{
    uint64_t off = 0;

    while (bytes - off >= NOTE_HEADER_BYTES) {
        uint32_t namesz = get_le32(p + off), descsz = get_le32(p + off + 4);
        uint32_t type = get_le32(p + off + 8);
        uint64_t name = off + NOTE_HEADER_BYTES;
        uint64_t desc = align_up(name + namesz, align);

        if (desc > bytes || descsz > bytes - desc)
            return false;
        if (type == NOTE_PHYS32_ENTRY && namesz == 4 && !memcmp(p + name, "Xen", 4) &&
            (descsz == 4 || descsz == 8)) {
            *entry = descsz == 8 ? get_le64(p + desc) : get_le32(p + desc);
            return true;
        }
        off = align_up(desc + descsz, align);
        if (off > bytes)
            return false;
    }
    return false;
}

static bool pvh_find_entry(const struct elf *e, uint64_t *entry)
{
    struct elf_phdr ph;
    const uint8_t *p;

    for (unsigned i = 0; i < e->phnum; i++) {
        elf_phdr(e, i, &ph);
        if (ph.type != ELF_PT_NOTE)
            continue;
        p = image_at(e->img, ph.off, ph.filesz);
        if (p && pvh_scan_notes(p, ph.filesz, ph.align == 8 ? 8 : 4, entry))
            return true;
    }
    return false;
}

bool pvh_is(const struct elf *e)
{
    uint64_t entry;

    return pvh_find_entry(e, &entry);
}

static int pvh_write_info(struct loader *ld, uint64_t initrd_at)
{
    struct pvh_info pi = {
        .info = {
            .magic = START_MAGIC,
            .version = START_VERSION,
            .nr_modules = ld->nr_mods ? 1 : 0,
            .cmdline_paddr = BOOT_CMDLINE_AT,
            .rsdp_paddr = ld->map->rsdp.v,
            .memmap_paddr = BOOT_START_INFO_AT + offsetof(struct pvh_info, memmap),
            .memmap_entries = ld->map->nr,
        },
    };

    if (ld->nr_mods) {
        pi.info.modlist_paddr = BOOT_START_INFO_AT + offsetof(struct pvh_info, mod);
        pi.mod.paddr = initrd_at;
        pi.mod.size = ld->mods[0].img.bytes;
    }
    for (unsigned i = 0; i < ld->map->nr; i++) {
        const struct e820_entry *e = &ld->map->e[i];

        pi.memmap[i] =
            (struct hvm_memmap_table_entry){ .addr = e->base, .size = e->bytes, .type = e->type };
    }
    return load_put(ld, BOOT_START_INFO_AT, &pi, sizeof(pi));
}

int pvh_load(struct loader *ld)
{
    uint64_t entry = 0, initrd_at = 0;
    struct elf e;
    int rc;

    rc = elf_open(&e, ld->kernel);
    if (rc < 0)
        return rc;
    if (!pvh_find_entry(&e, &entry))
        return image_refuse(ld->kernel, "it has no PVH entry note");
    if (entry >= GIB(4) || !elf_has_code_at(&e, entry))
        return image_refuse(ld->kernel, "its PVH entry point %#llx is not in a segment below 4 GB",
                            (unsigned long long)entry);
    rc = load_claim(ld, "PVH start info", BOOT_START_INFO_AT, sizeof(struct pvh_info));
    if (rc == 0)
        rc = load_cmdline(ld, BOOT_CMDLINE_MAX - 1);
    if (rc == 0)
        rc = elf_load(ld, &e);
    if (rc == 0 && ld->nr_mods)
        rc = load_module(ld, &ld->mods[0].img, GIB(4), &initrd_at);
    if (rc == 0)
        rc = pvh_write_info(ld, initrd_at);
    if (rc == 0)
        rc = entry_flat32(ld, (uint32_t)entry);
    ld->c->gpr[RBX] = BOOT_START_INFO_AT;
    return rc;
}
