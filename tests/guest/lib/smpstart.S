/* SPDX-License-Identifier: Apache-2.0 */
/* Where the other processors start: copied below 1 MB; from real mode to long mode, and to C. */
    .section .rodata
    .code16
    .globl smp_boot
smp_boot:                       /* CS = SMP_AT >> 4, IP = 0 */
    cli
    mov %cs, %ax
    mov %ax, %ds
    lgdtl boot_gdt - smp_boot
    mov %cr0, %eax
    or $1, %eax
    mov %eax, %cr0
    ljmpl *(boot_32 - smp_boot)
boot_gdt:
    .word 511
    .long gdt
boot_32:
    .long smp_start32
    .word 0x38                  /* SEL_KCODE32 */
    .globl smp_boot_end
smp_boot_end:

    .text
    .code32
smp_start32:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    fninit
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
    ljmp $0x08, $smp_start64

    .code64
smp_start64:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %eax, %fs
    mov %eax, %gs
    mov $1, %eax                /* CPUID leaf 1: the initial APIC ID */
    cpuid
    shr $24, %ebx
    mov %ebx, %edi
    inc %ebx
    shl $14, %ebx               /* SMP_STACK */
    lea smp_stacks(%rbx), %rsp
    xor %ebp, %ebp
    call smp_main
    ud2
    .section .note.GNU-stack, "", @progbits
