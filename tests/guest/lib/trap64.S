/* SPDX-License-Identifier: Apache-2.0 */
/* Entry of all vectors in long mode, and the way back to try(). struct frame in guest.h is what is pushed here. */
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
    push %rax
    push %rcx
    push %rdx
    push %rbx
    push %rbp
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %r11
    push %r12
    push %r13
    push %r14
    push %r15
    cld
    mov %rsp, %rdi
    mov %rsp, %rbx
    and $-16, %rsp
    call trap_dispatch
    mov %rbx, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rbp
    pop %rbx
    pop %rdx
    pop %rcx
    pop %rax
    add $16, %rsp
    iretq

    /* bool catch(fn, a, b, word_t *result): true when an exception ended fn. */
    .globl catch
catch:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    pushf
    push %rcx
    push catch_sp(%rip)
    mov %rsp, catch_sp(%rip)
    mov %rdi, %rax
    mov %rsi, %rdi
    mov %rdx, %rsi
    call *%rax
    mov 8(%rsp), %rcx
    mov %rax, (%rcx)
    xor %eax, %eax
catch_out:
    pop catch_sp(%rip)
    pop %rcx
    popf
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret

    /* Never returns: catch() does, with true. */
    .globl catch_unwind
catch_unwind:
    mov catch_sp(%rip), %rsp
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $1, %eax
    jmp catch_out

    /* enter_user(fn, a, b, flags, stack): fn and stack as the user sees them. */
    .globl enter_user
enter_user:
    mov $0x23, %eax             /* SEL_UDATA | 3 */
    mov %eax, %ds
    mov %eax, %es
    push %rax
    push %r8
    push %rcx
    push $0x2b                  /* SEL_UCODE64 | 3 */
    lea user_start(%rip), %rax
    mov $0x8000000000, %rcx     /* USER_ALIAS */
    add %rcx, %rax
    push %rax
    mov %rdi, %rax
    mov %rsi, %rdi
    mov %rdx, %rsi
    iretq
user_start:
    call *%rax
    int $0x80

    .bss
    .globl catch_sp
    .balign 8
catch_sp: .skip 8
    .section .note.GNU-stack, "", @progbits
