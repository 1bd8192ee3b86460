/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ELF loading. Both classes are read into one form; every field of the file is checked where it is
 * used first.
 */
#include "boot/elf.h"

#define ELF_IDENT_BYTES 16u
#define EI_CLASS        4
#define EI_DATA         5
#define ELFCLASS32      1u
#define ELFCLASS64      2u
#define ELFDATA2LSB     1u
#define ET_EXEC         2u
#define ET_DYN          3u
#define EM_386          3u
#define EM_X86_64       62u
#define ELF_PHNUM_MAX   256u /* kernels have less than ten; bounds the work a file can cause */
#define E_TYPE          16u
#define E_MACHINE       18u

/* Where the two classes keep what we need. */
struct elf_layout {
    uint16_t machine;
    uint8_t ehdr_bytes, phdr_bytes;
    uint8_t entry, phoff, phentsize, phnum;                      /* in the file header */
    uint8_t p_off, p_vaddr, p_paddr, p_filesz, p_memsz, p_align; /* in a program header */
};

static const struct elf_layout layout32 = {
    .machine = EM_386,
    .ehdr_bytes = 52,
    .phdr_bytes = 32,
    .entry = 24,
    .phoff = 28,
    .phentsize = 42,
    .phnum = 44,
    .p_off = 4,
    .p_vaddr = 8,
    .p_paddr = 12,
    .p_filesz = 16,
    .p_memsz = 20,
    .p_align = 28,
};
static const struct elf_layout layout64 = {
    .machine = EM_X86_64,
    .ehdr_bytes = 64,
    .phdr_bytes = 56,
    .entry = 24,
    .phoff = 32,
    .phentsize = 54,
    .phnum = 56,
    .p_off = 8,
    .p_vaddr = 16,
    .p_paddr = 24,
    .p_filesz = 32,
    .p_memsz = 40,
    .p_align = 48,
};

static const struct elf_layout *elf_layout(bool is64)
{
    return is64 ? &layout64 : &layout32;
}

static uint64_t get_word(const uint8_t *p, bool is64)
{
    return is64 ? get_le64(p) : get_le32(p);
}

bool elf_is(const struct image *img)
{
    const uint8_t *p = image_at(img, 0, ELF_IDENT_BYTES);

    return p && !memcmp(p, "\177ELF", 4);
}

/* Class, byte order, type and machine. */
static int elf_check_kind(const struct image *img, const uint8_t *p, const struct elf_layout *lo)
{
    unsigned type = get_le16(p + E_TYPE), machine = get_le16(p + E_MACHINE);

    if (p[EI_DATA] != ELFDATA2LSB)
        return image_refuse(img, "ELF data encoding %u is not little endian", p[EI_DATA]);
    if (type != ET_EXEC && type != ET_DYN)
        return image_refuse(img, "ELF type %u is not an executable; link it first", type);
    if (machine != lo->machine)
        return image_refuse(img, "ELF machine %u is not x86 (%u for this ELF class)", machine,
                            lo->machine);
    return 0;
}

int elf_open(struct elf *e, const struct image *img)
{
    const uint8_t *p = image_at(img, 0, ELF_IDENT_BYTES);
    const struct elf_layout *lo;
    unsigned class = p ? p[EI_CLASS] : 0;
    int rc;

    *e = (struct elf){ .img = img, .is64 = class == ELFCLASS64 };
    if (class != ELFCLASS32 && class != ELFCLASS64)
        return image_refuse(img, "ELF class %u is neither 32-bit nor 64-bit", class);
    lo = elf_layout(e->is64);
    p = image_at(img, 0, lo->ehdr_bytes);
    if (!p)
        return image_refuse(img, "the ELF header is cut off: the file has only %llu bytes",
                            (unsigned long long)img->bytes);
    rc = elf_check_kind(img, p, lo);
    if (rc < 0)
        return rc;
    e->entry = get_word(p + lo->entry, e->is64);
    e->phoff = get_word(p + lo->phoff, e->is64);
    e->phentsize = get_le16(p + lo->phentsize);
    e->phnum = get_le16(p + lo->phnum);
    if (e->phentsize < lo->phdr_bytes)
        return image_refuse(img, "e_phentsize %u is smaller than a program header (%u)",
                            e->phentsize, lo->phdr_bytes);
    if (!e->phnum || e->phnum > ELF_PHNUM_MAX)
        return image_refuse(img, "it has %u program headers (e_phnum), 1 to %u are possible",
                            e->phnum, ELF_PHNUM_MAX);
    if (!image_at(img, e->phoff, (uint64_t)e->phentsize * e->phnum))
        return image_refuse(img, "%u program headers at e_phoff %#llx reach beyond its %llu bytes",
                            e->phnum, (unsigned long long)e->phoff, (unsigned long long)img->bytes);
    return 0;
}

void elf_phdr(const struct elf *e, unsigned idx, struct elf_phdr *ph)
{
    const struct elf_layout *lo = elf_layout(e->is64);
    const uint8_t *p = e->img->data + e->phoff + (uint64_t)e->phentsize * idx;

    BUG_ON(idx >= e->phnum);
    *ph = (struct elf_phdr){
        .type = get_le32(p),
        .off = get_word(p + lo->p_off, e->is64),
        .vaddr = get_word(p + lo->p_vaddr, e->is64),
        .paddr = get_word(p + lo->p_paddr, e->is64),
        .filesz = get_word(p + lo->p_filesz, e->is64),
        .memsz = get_word(p + lo->p_memsz, e->is64),
        .align = get_word(p + lo->p_align, e->is64),
    };
}

static int elf_check_segment(const struct elf *e, unsigned idx, const struct elf_phdr *ph)
{
    if (!image_at(e->img, ph->off, ph->filesz))
        return image_refuse(
            e->img, "segment %u (%#llx bytes at offset %#llx) reaches beyond its %llu bytes", idx,
            (unsigned long long)ph->filesz, (unsigned long long)ph->off,
            (unsigned long long)e->img->bytes);
    if (ph->filesz > ph->memsz)
        return image_refuse(e->img, "segment %u: p_filesz %#llx is larger than p_memsz %#llx", idx,
                            (unsigned long long)ph->filesz, (unsigned long long)ph->memsz);
    if (ph->paddr >= GIB(4) || ph->memsz > GIB(4) - ph->paddr)
        return image_refuse(
            e->img,
            "segment %u (%#llx bytes at p_paddr %#llx) reaches beyond 4 GB, but its "
            "entry is 32-bit",
            idx, (unsigned long long)ph->memsz, (unsigned long long)ph->paddr);
    return 0;
}

/* The first pass: check and claim everything, before a byte is written. */
static int elf_claim(struct loader *ld, const struct elf *e, unsigned *nr_loaded)
{
    struct elf_phdr ph;
    int rc;

    *nr_loaded = 0;
    for (unsigned i = 0; i < e->phnum; i++) {
        elf_phdr(e, i, &ph);
        if (ph.type != ELF_PT_LOAD || (!ph.memsz && !ph.filesz))
            continue;
        rc = elf_check_segment(e, i, &ph);
        if (rc == 0)
            rc = load_claim(ld, "ELF segment", ph.paddr, ph.memsz);
        if (rc < 0)
            return rc;
        ++*nr_loaded;
    }
    return 0;
}

int elf_load(struct loader *ld, const struct elf *e)
{
    struct elf_phdr ph;
    unsigned nr_loaded;
    int rc = elf_claim(ld, e, &nr_loaded);

    if (rc == 0 && !nr_loaded)
        return image_refuse(e->img, "none of its %u program headers is a PT_LOAD segment",
                            e->phnum);
    for (unsigned i = 0; i < e->phnum && rc == 0; i++) {
        elf_phdr(e, i, &ph);
        if (ph.type != ELF_PT_LOAD || (!ph.memsz && !ph.filesz))
            continue;
        rc = load_put(ld, ph.paddr, e->img->data + ph.off, ph.filesz);
        /* Not fresh memory after a reset of the machine. */
        if (rc == 0)
            rc = load_zero(ld, ph.paddr + ph.filesz, ph.memsz - ph.filesz);
    }
    return rc;
}

bool elf_has_code_at(const struct elf *e, uint64_t paddr)
{
    struct elf_phdr ph;

    for (unsigned i = 0; i < e->phnum; i++) {
        elf_phdr(e, i, &ph);
        if (ph.type == ELF_PT_LOAD && paddr >= ph.paddr && paddr - ph.paddr < ph.filesz)
            return true;
    }
    return false;
}

int elf_entry_phys(const struct elf *e, uint32_t *entry)
{
    struct elf_phdr ph;
    uint64_t at;

    for (unsigned i = 0; i < e->phnum; i++) {
        elf_phdr(e, i, &ph);
        if (ph.type != ELF_PT_LOAD || e->entry < ph.vaddr || e->entry - ph.vaddr >= ph.filesz)
            continue;
        at = ph.paddr + (e->entry - ph.vaddr);
        if (at >= GIB(4))
            break;
        *entry = (uint32_t)at;
        return 0;
    }
    /* Linked high, but with a physical entry address. */
    if (e->entry < GIB(4) && elf_has_code_at(e, e->entry)) {
        *entry = (uint32_t)e->entry;
        return 0;
    }
    return image_refuse(e->img, "its entry point %#llx is not in a segment below 4 GB",
                        (unsigned long long)e->entry);
}
