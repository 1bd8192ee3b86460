/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stub: the machine code of a worker that is not a translation, and the only place from which
 * its seccomp filter allows system calls.
 *
 * Guest code comes here in two ways. A fault, an INT3 of a translation, or a kick is a signal,
 * whose frame holds the whole state of the guest; the worker then rests in the handler and goes on
 * by returning from the signal, with whatever the monitor has put into the frame. A translation
 * that knows it has to leave (SYSCALL, mostly) jumps to direct_stub_exit, which saves the registers
 * itself: 3 us less for the round trip of 7.
 *
 * In both cases the monitor is told, waited for, and the system calls it lists are made: they fill
 * and empty the view. In the handler all signals are blocked. A kick that meets the stub elsewhere
 * is noted, and guest code is not entered before the monitor has been told again; one that comes
 * while the registers are being loaded breaks that off.
 *
 * The text is position-independent and copied into the home's first page. What it acts on is in
 * pages the worker cannot write; to the writable ones it only saves.
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
#define EINTR_RESULT        "-4"
#define KICK                10  /* WORKER_KICK_SIGNAL */
#define UC_RIP              168 /* offset of uc_mcontext.gregs[REG_RIP] */

/* clang-format off */
/* r13: HOME_OUT. Changes rax and rdx. */
#define NOTE_TIME(word)                                 \
    "    rdtsc\n"                                       \
    "    mov [r13 + " STR(word) "], eax\n"              \
    "    mov [r13 + " STR(word) " + 4], edx\n"

__asm__(
    ".pushsection .rodata\n"
    ".balign 16\n"
    ".intel_syntax noprefix\n"
    ".globl direct_stub_begin, direct_stub_handler, direct_stub_init, direct_stub_exit, direct_stub_end\n"
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
    "    jnz die\n"
    "    mov rdi, r14\n"
    "    mov rsi, r15\n"
    "    mov eax, " SYS_MUNMAP_NR "\n"
    "    syscall\n"
    "    test rax, rax\n"
    "    jnz die\n"
    "    xor esp, esp\n"
    "    int3\n" /* into the handler, for good */

    /* rdi: signal, rsi: siginfo, rdx: ucontext; rsp: the frame. rt_sigreturn wants the return
     * address popped. */
    "direct_stub_handler:\n"
    "    add rsp, 8\n"
    "    cmp edi, " STR(KICK) "\n"
    "    jne 1f\n"
    "    mov rax, [rdx + " STR(UC_RIP) "]\n"
    "    lea rcx, [rip + direct_stub_begin]\n"
    "    sub rax, rcx\n"
    "    cmp rax, " STR(HOME_STUB_BYTES) "\n"
    "    jae 1f\n"
    "    cmp eax, offset resume_begin - direct_stub_begin\n"
    "    jb 2f\n"
    "    cmp eax, offset resume_end - direct_stub_begin\n"
    "    jae 2f\n"
    "    lea rax, [rip + not_entered]\n"
    "    mov [rdx + " STR(UC_RIP) "], rax\n"
    "    jmp 3f\n"
    "2:  mov dword ptr [rip + direct_stub_begin + " STR(HOME_OUT) " + " STR(OUT_KICKED) "], 1\n"
    "3:  mov eax, " SYS_RT_SIGRETURN_NR "\n"
    "    syscall\n"
    "1:  lea r12, [rip + direct_stub_begin + " STR(HOME_IN) "]\n"
    "    lea r13, [rip + direct_stub_begin + " STR(HOME_OUT) "]\n"
    "    mov [r13 + " STR(OUT_UCONTEXT) "], rdx\n"
    "    mov [r13 + " STR(OUT_SIGNAL) "], edi\n"
    "    mov dword ptr [r13 + " STR(OUT_KIND) "], " STR(KIND_SIGNAL) "\n"
    NOTE_TIME(OUT_ENDED)

    "tell:\n"
    "    mov dword ptr [r13 + " STR(OUT_KICKED) "], 0\n"
    "1:  mov eax, " SYS_WRITE_NR "\n"
    "    mov edi, [r12 + " STR(IN_FD_TELL) "]\n"
    "    lea rsi, [r12 + " STR(IN_MSG) "]\n"
    "    mov edx, 1\n"
    "    syscall\n"
    "    cmp rax, " EINTR_RESULT "\n"
    "    je 1b\n"
    "    cmp rax, 1\n"
    "    jne die\n"
    "wait:\n"
    "    xor eax, eax\n" /* read */
    "    mov edi, [r12 + " STR(IN_FD_WAIT) "]\n"
    "    lea rsi, [r13 + " STR(OUT_TRASH) "]\n"
    "    mov edx, 8\n"
    "    syscall\n"
    "    cmp rax, " EINTR_RESULT "\n"
    "    je wait\n"
    "    cmp rax, 8\n"
    "    jne die\n"
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
    "3:  cmp dword ptr [r12 + " STR(IN_GO) "], " STR(GO_EXIT) "\n"
    "    je scrub\n"
    "    cmp dword ptr [r12 + " STR(IN_GO) "], " STR(GO_SIGNAL) "\n"
    "    jne 4f\n"
    NOTE_TIME(OUT_BEGAN)
    "    mov eax, " SYS_RT_SIGRETURN_NR "\n"
    "    syscall\n"
    "4:  mov [r13 + " STR(OUT_NR_DONE) "], r14d\n"
    "    mov [r13 + " STR(OUT_RESULT) "], rax\n"
    "    mov dword ptr [r13 + " STR(OUT_KIND) "], " STR(KIND_DONE) "\n"
    "    jmp tell\n"

    /* The old frame on the signal stack. Here, not by the monitor: resting after an exit, a kick's
     * frame may be in the same place, and returning from that would find zeros. One that comes now
     * has its own, returns, and sees to it that this is done again. */
    "scrub:\n"
    "    mov rcx, [r12 + " STR(IN_SCRUB) "]\n"
    "    lea rdi, [r13 + " STR(HOME_OUT_BYTES) "]\n"
    "    sub rdi, rcx\n"
    "    xor eax, eax\n"
    "    rep stosb\n"

    /* All comes from the page the worker cannot write. The flags go through a stack: the guest's
     * own must not be touched. */
    "resume_begin:\n"
    "    cmp dword ptr [r13 + " STR(OUT_KICKED) "], 0\n"
    "    jne not_entered\n"
    NOTE_TIME(OUT_BEGAN)
    "    mov eax, 7\n"
    "    xor edx, edx\n"
    "    xrstor64 [r12 + " STR(IN_XSAVE) "]\n"
    "    lea rsp, [r13 + " STR(OUT_PUSH) "]\n"
    "    push qword ptr [r12 + " STR(IN_REGS) " + " STR(REGS_FLAGS) "]\n"
    "    popfq\n"
    "    mov rax, [rip + direct_stub_begin + " STR(HOME_IN) " + " STR(IN_REGS) " + 0]\n"
    "    mov rcx, [rip + direct_stub_begin + " STR(HOME_IN) " + " STR(IN_REGS) " + 8]\n"
    "    mov rdx, [rip + direct_stub_begin + " STR(HOME_IN) " + " STR(IN_REGS) " + 16]\n"
    "    mov rbx, [rip + direct_stub_begin + " STR(HOME_IN) " + " STR(IN_REGS) " + 24]\n"
    "    mov rbp, [rip + direct_stub_begin + " STR(HOME_IN) " + " STR(IN_REGS) " + 40]\n"
    "    mov rsi, [rip + direct_stub_begin + " STR(HOME_IN) " + " STR(IN_REGS) " + 48]\n"
    "    mov rdi, [rip + direct_stub_begin + " STR(HOME_IN) " + " STR(IN_REGS) " + 56]\n"
    "    mov r8, [rip + direct_stub_begin + " STR(HOME_IN) " + " STR(IN_REGS) " + 64]\n"
    "    mov r9, [rip + direct_stub_begin + " STR(HOME_IN) " + " STR(IN_REGS) " + 72]\n"
    "    mov r10, [rip + direct_stub_begin + " STR(HOME_IN) " + " STR(IN_REGS) " + 80]\n"
    "    mov r11, [rip + direct_stub_begin + " STR(HOME_IN) " + " STR(IN_REGS) " + 88]\n"
    "    mov r12, [rip + direct_stub_begin + " STR(HOME_IN) " + " STR(IN_REGS) " + 96]\n"
    "    mov r13, [rip + direct_stub_begin + " STR(HOME_IN) " + " STR(IN_REGS) " + 104]\n"
    "    mov r14, [rip + direct_stub_begin + " STR(HOME_IN) " + " STR(IN_REGS) " + 112]\n"
    "    mov r15, [rip + direct_stub_begin + " STR(HOME_IN) " + " STR(IN_REGS) " + 120]\n"
    "    mov rsp, [rip + direct_stub_begin + " STR(HOME_IN) " + " STR(IN_REGS) " + 32]\n"
    "    jmp [rip + direct_stub_begin + " STR(HOME_IN) " + " STR(IN_REGS) " + " STR(REGS_PC) "]\n"
    "resume_end:\n"
    "not_entered:\n"
    "    lea r12, [rip + direct_stub_begin + " STR(HOME_IN) "]\n"
    "    lea r13, [rip + direct_stub_begin + " STR(HOME_OUT) "]\n"
    "    mov dword ptr [r13 + " STR(OUT_KIND) "], " STR(KIND_BACK) "\n"
    "    jmp tell\n"

    /* ecx: which exit; the guest's rcx is in scratch word 0. */
    "direct_stub_exit:\n"
    "    mov [rip + direct_stub_begin + " STR(HOME_OUT) " + " STR(OUT_REGS) " + " STR(REGS_ID) "], rcx\n"
    "    mov [rip + direct_stub_begin + " STR(HOME_OUT) " + " STR(OUT_REGS) " + 0], rax\n"
    "    mov [rip + direct_stub_begin + " STR(HOME_OUT) " + " STR(OUT_REGS) " + 16], rdx\n"
    "    mov [rip + direct_stub_begin + " STR(HOME_OUT) " + " STR(OUT_REGS) " + 24], rbx\n"
    "    mov [rip + direct_stub_begin + " STR(HOME_OUT) " + " STR(OUT_REGS) " + 32], rsp\n"
    "    mov [rip + direct_stub_begin + " STR(HOME_OUT) " + " STR(OUT_REGS) " + 40], rbp\n"
    "    mov [rip + direct_stub_begin + " STR(HOME_OUT) " + " STR(OUT_REGS) " + 48], rsi\n"
    "    mov [rip + direct_stub_begin + " STR(HOME_OUT) " + " STR(OUT_REGS) " + 56], rdi\n"
    "    mov [rip + direct_stub_begin + " STR(HOME_OUT) " + " STR(OUT_REGS) " + 64], r8\n"
    "    mov [rip + direct_stub_begin + " STR(HOME_OUT) " + " STR(OUT_REGS) " + 72], r9\n"
    "    mov [rip + direct_stub_begin + " STR(HOME_OUT) " + " STR(OUT_REGS) " + 80], r10\n"
    "    mov [rip + direct_stub_begin + " STR(HOME_OUT) " + " STR(OUT_REGS) " + 88], r11\n"
    "    mov [rip + direct_stub_begin + " STR(HOME_OUT) " + " STR(OUT_REGS) " + 96], r12\n"
    "    mov [rip + direct_stub_begin + " STR(HOME_OUT) " + " STR(OUT_REGS) " + 104], r13\n"
    "    mov [rip + direct_stub_begin + " STR(HOME_OUT) " + " STR(OUT_REGS) " + 112], r14\n"
    "    mov [rip + direct_stub_begin + " STR(HOME_OUT) " + " STR(OUT_REGS) " + 120], r15\n"
    "    lea r12, [rip + direct_stub_begin + " STR(HOME_IN) "]\n"
    "    lea r13, [rip + direct_stub_begin + " STR(HOME_OUT) "]\n"
    "    mov rax, [r13 + " STR(OUT_SCRATCH) "]\n"
    "    mov [r13 + " STR(OUT_REGS) " + 8], rax\n"
    NOTE_TIME(OUT_ENDED)
    "    lea rsp, [r13 + " STR(OUT_PUSH) "]\n"
    "    pushfq\n"
    "    pop qword ptr [r13 + " STR(OUT_REGS) " + " STR(REGS_FLAGS) "]\n"
    "    mov eax, 7\n"
    "    xor edx, edx\n"
    "    xsave64 [r13 + " STR(OUT_XSAVE) "]\n"
    "    mov dword ptr [r13 + " STR(OUT_KIND) "], " STR(KIND_EXIT) "\n"
    "    jmp tell\n"

    "die:\n"
    "    mov eax, " SYS_EXIT_GROUP_NR "\n"
    "    mov edi, 1\n"
    "    syscall\n"
    "    ud2\n"
    "direct_stub_end:\n"
    ".att_syntax prefix\n"
    ".popsection\n");
/* clang-format on */
