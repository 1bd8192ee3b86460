/* SPDX-License-Identifier: Apache-2.0 */
/* Multiboot entry of a long-mode guest: page tables, long mode, C. */
#define MB_MAGIC 0x1badb002
#define MB_FLAGS 3 /* modules on page boundaries, memory map */

    .section .multiboot, "a"
    .balign 4
    .long MB_MAGIC, MB_FLAGS, -(MB_MAGIC + MB_FLAGS)

    .text
    .code32
    .globl start
start:
    cli
    cld
    fninit
    mov $stack_top, %esp
    mov %eax, boot_magic
    mov %ebx, boot_info

    /* 2 MB pages, one to one up to 4 GB. The user bit is decided at the top: PML4[0] for the supervisor, [1] for all. */
    mov $page_dirs, %edi
    mov $0x87, %eax
    mov $2048, %ecx
1:  mov %eax, (%edi)
    movl $0, 4(%edi)
    add $0x200000, %eax
    add $8, %edi
    loop 1b
    mov $page_dirs + 7, %eax
    mov $pdpt, %edi
    mov $4, %ecx
1:  mov %eax, (%edi)
    add $0x1000, %eax
    add $8, %edi
    loop 1b
    movl $pdpt + 3, pml4
    movl $pdpt + 7, pml4 + 8

    mov $0x620, %eax            /* CR4: PAE, OSFXSR, OSXMMEXCPT */
    mov %eax, %cr4
    mov $pml4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx       /* EFER: LME, NXE */
    rdmsr
    or $0x900, %eax
    wrmsr
    mov $0x80010033, %eax       /* CR0: PG, WP, NE, ET, MP, PE */
    mov %eax, %cr0
    lgdt gdt_ptr
    ljmp $0x08, $start64

    .code64
start64:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %eax, %fs
    mov %eax, %gs
    mov $stack_top, %esp
    xor %ebp, %ebp
    call lib_main
    ud2

    .bss
    .balign 4096
    .globl pml4
pml4: .skip 4096
pdpt: .skip 4096
page_dirs: .skip 4 * 4096
stack: .skip 32768
stack_top:
    .section .note.GNU-stack, "", @progbits
