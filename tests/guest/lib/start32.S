/* SPDX-License-Identifier: Apache-2.0 */
/* Multiboot entry of a protected-mode guest without paging. */
#define MB_MAGIC 0x1badb002
#define MB_FLAGS 3 /* modules on page boundaries, memory map */

    .section .multiboot, "a"
    .balign 4
    .long MB_MAGIC, MB_FLAGS, -(MB_MAGIC + MB_FLAGS)

    .text
    .globl start
start:
    cli
    cld
    fninit
    mov $stack_top, %esp
    mov %eax, boot_magic
    mov %ebx, boot_info
    mov %cr0, %eax
    or $0x22, %eax              /* NE, MP */
    mov %eax, %cr0
    lgdt gdt_ptr
    ljmp $0x08, $1f
1:  mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %eax, %fs
    mov %eax, %gs
    xor %ebp, %ebp
    call lib_main
    ud2

    .bss
    .balign 4096
stack: .skip 32768
stack_top:
    .section .note.GNU-stack, "", @progbits
