/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ELF executables for x86, 32- and 64-bit (System V ABI, "Object Files" and "Program Loading"), as
 * kernels: loaded by physical address.
 */
#ifndef BOOT_ELF_H
#define BOOT_ELF_H

#include "boot/load.h"

struct elf {
    const struct image *img;
    bool is64;
    uint64_t entry; /* e_entry, as it is in the file: virtual for some kernels */
    uint64_t phoff;
    uint16_t phentsize, phnum;
};

#define ELF_PT_LOAD 1u
#define ELF_PT_NOTE 4u

struct elf_phdr {
    uint32_t type;
    uint64_t off, vaddr, paddr, filesz, memsz, align;
};

bool elf_is(const struct image *img);
/* Checks the header and that the program headers are inside the file. */
int elf_open(struct elf *e, const struct image *img) MUST_CHECK;
/* Program header idx < phnum. */
void elf_phdr(const struct elf *e, unsigned idx, struct elf_phdr *ph);
/* Loads all PT_LOAD segments to their physical addresses, below 4 GB. */
int elf_load(struct loader *ld, const struct elf *e) MUST_CHECK;
/* Is the physical address inside a segment's file part? */
bool elf_has_code_at(const struct elf *e, uint64_t paddr);
/* e_entry as a physical address: by the segment that holds it. -ENOEXEC if there is none or it is
 * above 4 GB. */
int elf_entry_phys(const struct elf *e, uint32_t *entry) MUST_CHECK;

#endif
