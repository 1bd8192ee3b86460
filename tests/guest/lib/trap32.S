/* SPDX-License-Identifier: Apache-2.0 */
/* Entry of all vectors in protected mode, and the way back to try(). struct frame in guest.h is what is pushed here. */
    .text
    .balign 16
    .globl trap_stubs
trap_stubs:                     /* 16 bytes each */
    .set vec, 0
    .rept 256
    .balign 16
    .if (vec == 8) || ((vec >= 10) && (vec <= 14)) || (vec == 17) || (vec == 21)
    .else
    push $0
    .endif
    push $vec
    jmp trap_common
    .set vec, vec + 1
    .endr

trap_common:
    pusha
    push %ds
    push %es
    push %fs
    push %gs
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
    cld
    mov %esp, %ebx
    push %ebx
    call trap_dispatch
    mov %ebx, %esp
    pop %gs
    pop %fs
    pop %es
    pop %ds
    popa
    add $8, %esp
    iret

    /* bool catch(fn, a, b, word_t *result): true when an exception ended fn. */
    .globl catch
catch:
    push %ebx
    push %ebp
    push %esi
    push %edi
    mov 20(%esp), %eax          /* fn */
    mov 24(%esp), %ecx
    mov 28(%esp), %edx
    mov 32(%esp), %ebx
    pushf
    push %ebx
    push catch_sp
    mov %esp, catch_sp
    push %edx
    push %ecx
    call *%eax
    add $8, %esp
    mov 4(%esp), %ecx
    mov %eax, (%ecx)
    xor %eax, %eax
catch_out:
    pop catch_sp
    pop %ecx
    popf
    pop %edi
    pop %esi
    pop %ebp
    pop %ebx
    ret

    /* Never returns: catch() does, with true. */
    .globl catch_unwind
catch_unwind:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov catch_sp, %esp
    mov $1, %eax
    jmp catch_out

    /* enter_user(fn, a, b, flags, stack) */
    .globl enter_user
enter_user:
    mov 4(%esp), %eax
    mov 8(%esp), %ecx
    mov 12(%esp), %edx
    mov 16(%esp), %esi
    mov 20(%esp), %edi
    mov $0x23, %ebx             /* SEL_UDATA | 3 */
    mov %ebx, %ds
    mov %ebx, %es
    push %ebx
    push %edi
    push %esi
    push $0x1b                  /* SEL_UCODE32 | 3 */
    push $user_start
    iret
user_start:
    push %edx
    push %ecx
    call *%eax
    int $0x80

    .bss
    .globl catch_sp
    .balign 4
catch_sp: .skip 4
    .section .note.GNU-stack, "", @progbits
