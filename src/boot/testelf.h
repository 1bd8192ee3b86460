/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests: a small ELF kernel of either class with one PT_LOAD segment (linked high, at 4 MB
 * physical) and one PT_NOTE.
 */
#ifndef BOOT_TESTELF_H
#define BOOT_TESTELF_H

#include <elf.h>
#undef PF_W /* segment flags there, page-fault error bits here */

#include "boot/testmachine.h"

#define TESTELF_NOTE_OFF   0x100u
#define TESTELF_NOTE_BYTES 0x30u
#define TESTELF_CODE_OFF   0x200u
#define TESTELF_CODE_BYTES 0x300u
#define TESTELF_MEM_BYTES  0x2000u
#define TESTELF_BYTES      (TESTELF_CODE_OFF + TESTELF_CODE_BYTES)
#define TESTELF_PADDR      0x400000u
#define TESTELF_VADDR      0xc0400000u
#define TESTELF_ENTRY_OFF  0x80u
#define TESTELF_PVH_OFF    0x90u

/* Both classes have the same fields in structures of their own. */
#define TESTELF_HEADERS(bits, class, machine)                                      \
    static inline void testelf_make##bits(uint8_t *img)                            \
    {                                                                              \
        Elf##bits##_Ehdr eh = { .e_ident = { 0x7f, 'E', 'L', 'F', (class), 1, 1 }, \
                                .e_type = ET_EXEC,                                 \
                                .e_machine = (machine),                            \
                                .e_version = 1,                                    \
                                .e_entry = TESTELF_VADDR + TESTELF_ENTRY_OFF,      \
                                .e_phoff = sizeof(eh),                             \
                                .e_ehsize = sizeof(eh),                            \
                                .e_phentsize = sizeof(Elf##bits##_Phdr),           \
                                .e_phnum = 2 };                                    \
        Elf##bits##_Phdr ph[2] = {                                                 \
            { .p_type = PT_LOAD,                                                   \
              .p_offset = TESTELF_CODE_OFF,                                        \
              .p_vaddr = TESTELF_VADDR,                                            \
              .p_paddr = TESTELF_PADDR,                                            \
              .p_filesz = TESTELF_CODE_BYTES,                                      \
              .p_memsz = TESTELF_MEM_BYTES },                                      \
            { .p_type = PT_NOTE,                                                   \
              .p_offset = TESTELF_NOTE_OFF,                                        \
              .p_filesz = TESTELF_NOTE_BYTES,                                      \
              .p_align = 4 },                                                      \
        };                                                                         \
                                                                                   \
        memcpy(img, &eh, sizeof(eh));                                              \
        memcpy(img + sizeof(eh), ph, sizeof(ph));                                  \
    }
TESTELF_HEADERS(64, ELFCLASS64, EM_X86_64)
TESTELF_HEADERS(32, ELFCLASS32, EM_386)

/* Without notes: their room is zero. */
static inline void testelf_make(uint8_t *img, bool is64)
{
    memset(img, 0, TESTELF_BYTES);
    for (unsigned i = 0; i < TESTELF_CODE_BYTES; i++)
        img[TESTELF_CODE_OFF + i] = (uint8_t)(i * 5);
    if (is64)
        testelf_make64(img);
    else
        testelf_make32(img);
}

#endif
