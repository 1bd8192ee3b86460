/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stub: the machine code of a worker that is not a translation, and the only place from which
 * its seccomp filter allows system calls.
 *
 * A worker rests in its signal handler. Every stop of guest code (fault, INT3 of a translation, a
 * kick) is a signal, whose frame holds the whole state of the guest; the handler tells the monitor
 * and waits, makes the system calls the monitor lists (they fill and empty the view), and goes on
 * by returning from the signal, with whatever the monitor has put into the frame.
 *
 * The text is position-independent and copied into the home's first page. It reads only the page
 * that the worker cannot write, the ucontext's place excepted, which nobody but the monitor uses.
 */
#include "engine/bt/direct/stub.h"

#include "engine/bt/direct/layout.h"

#define STR_(x) #x
#define STR(x)  STR_(x)

#define SYS_READ_NR         "0"
#define SYS_WRITE_NR        "1"
#define SYS_MUNMAP_NR       "11"
#define SYS_RT_SIGRETURN_NR "15"
#define SYS_EXIT_GROUP_NR   "231"

/* clang-format off */
__asm__(
    ".pushsection .rodata\n"
    ".balign 16\n"
    ".intel_syntax noprefix\n"
    ".globl direct_stub_begin, direct_stub_handler, direct_stub_init, direct_stub_end\n"
    "direct_stub_begin:\n"

    /* rdi: bytes to unmap from 0; rsi: start of the rest, rdx: its bytes. The child's C code and
     * stack go here, so the registers are all there is. */
    "direct_stub_init:\n"
    "    mov r14, rsi\n"
    "    mov r15, rdx\n"
    "    mov rsi, rdi\n"
    "    xor edi, edi\n"
    "    mov eax, " SYS_MUNMAP_NR "\n"
    "    syscall\n"
    "    test rax, rax\n"
    "    jnz 9f\n"
    "    mov rdi, r14\n"
    "    mov rsi, r15\n"
    "    mov eax, " SYS_MUNMAP_NR "\n"
    "    syscall\n"
    "    test rax, rax\n"
    "    jnz 9f\n"
    "    xor esp, esp\n"
    "    int3\n" /* into the handler, for good */

    /* rdi: signal, rsi: siginfo, rdx: ucontext; rsp: the frame. rt_sigreturn wants the return
     * address popped. */
    "direct_stub_handler:\n"
    "    add rsp, 8\n"
    "    lea r12, [rip + direct_stub_begin + " STR(HOME_IN) "]\n"
    "    lea r13, [rip + direct_stub_begin + " STR(HOME_OUT) "]\n"
    "    mov [r13 + " STR(OUT_UCONTEXT) "], rdx\n"
    "    mov [r13 + " STR(OUT_SIGNAL) "], edi\n"
    "    mov dword ptr [r13 + " STR(OUT_KIND) "], " STR(KIND_SIGNAL) "\n"
    "1:  mov eax, " SYS_WRITE_NR "\n"
    "    mov edi, [r12 + " STR(IN_FD_TELL) "]\n"
    "    lea rsi, [r12 + " STR(IN_MSG) "]\n"
    "    mov edx, 1\n"
    "    syscall\n"
    "    cmp rax, 1\n"
    "    jne 9f\n"
    "    xor eax, eax\n" /* read */
    "    mov edi, [r12 + " STR(IN_FD_WAIT) "]\n"
    "    lea rsi, [r13 + " STR(OUT_TRASH) "]\n"
    "    mov edx, 8\n"
    "    syscall\n"
    "    cmp rax, 8\n"
    "    jne 9f\n"
    "    xor r14d, r14d\n"
    "    lea r15, [r12 + " STR(IN_CMDS) "]\n"
    "2:  cmp r14d, [r12 + " STR(IN_NR_CMDS) "]\n"
    "    jae 3f\n"
    "    mov rax, [r15]\n"
    "    mov rdi, [r15 + 8]\n"
    "    mov rsi, [r15 + 16]\n"
    "    mov rdx, [r15 + 24]\n"
    "    mov r10, [r15 + 32]\n"
    "    mov r8, [r15 + 40]\n"
    "    mov r9, [r15 + 48]\n"
    "    syscall\n"
    "    cmp rax, -4095\n"
    "    jae 4f\n"
    "    inc r14d\n"
    "    add r15, " STR(IN_CMD_SIZE) "\n"
    "    jmp 2b\n"
    "3:  cmp dword ptr [r12 + " STR(IN_GO) "], 0\n"
    "    je 4f\n"
    "    mov eax, " SYS_RT_SIGRETURN_NR "\n"
    "    syscall\n"
    "4:  mov [r13 + " STR(OUT_NR_DONE) "], r14d\n"
    "    mov [r13 + " STR(OUT_RESULT) "], rax\n"
    "    mov dword ptr [r13 + " STR(OUT_KIND) "], " STR(KIND_DONE) "\n"
    "    jmp 1b\n"
    "9:  mov eax, " SYS_EXIT_GROUP_NR "\n"
    "    mov edi, 1\n"
    "    syscall\n"
    "    ud2\n"
    "direct_stub_end:\n"
    ".att_syntax prefix\n"
    ".popsection\n");
/* clang-format on */
