/* SPDX-License-Identifier: Apache-2.0 */
/* The oracle: a child process with nothing in it but the test areas, driven by ptrace, one
 * single-step a case. */
#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#undef PAGE_MASK /* <sys/user.h> and <elf.h> have names of ours */
#undef PF_W
#undef PAGE_SIZE
#undef PAGE_SHIFT
#include "insn.h"

struct native_child {
    pid_t pid;
    int fd;
    uint8_t *code, *data; /* the same pages, here */
    struct user_regs_struct base;
    size_t xstate_bytes;
    _Alignas(64) uint8_t xstate[8192];
};

static void map_here(int fd, uint64_t at, uint64_t off, uint64_t bytes, int prot)
{
    if (mmap((void *)at, bytes, prot, MAP_SHARED | MAP_FIXED, fd, (off_t)off) == MAP_FAILED)
        _exit(1);
}

static void be_child(int fd)
{
    map_here(fd, CODE_AT, 0, 2 * PAGE_BYTES, PROT_READ | PROT_EXEC);
    map_here(fd, DATA_AT, 2 * PAGE_BYTES, DATA_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE);
    map_here(fd, RO_AT, (2 + DATA_PAGES) * PAGE_BYTES, PAGE_BYTES, PROT_READ);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    /* The kernel writes the rseq area when it likes; its memory will go. */
    (void)syscall(SYS_rseq, (char *)__builtin_thread_pointer() + __rseq_offset, 32,
                  RSEQ_FLAG_UNREGISTER, RSEQ_SIG);
    if (ptrace(PTRACE_TRACEME, 0, 0, 0) == 0)
        (void)raise(SIGSTOP);
    _exit(1);
}

/* Lets the child run one system call, its instruction being at CODE_AT. */
static int inject(struct native_child *ch, uint64_t nr, uint64_t a, uint64_t b)
{
    struct user_regs_struct r = ch->base;
    int status;

    memcpy(ch->code, "\x0f\x05", 2);
    r.rip = CODE_AT;
    r.rax = nr, r.rdi = a, r.rsi = b;
    r.orig_rax = (unsigned long long)-1;
    if (ptrace(PTRACE_SETREGS, ch->pid, 0, &r) < 0 ||
        ptrace(PTRACE_SINGLESTEP, ch->pid, 0, 0) < 0 || waitpid(ch->pid, &status, 0) != ch->pid ||
        !WIFSTOPPED(status) || ptrace(PTRACE_GETREGS, ch->pid, 0, &r) < 0)
        return -EPERM;
    return (int)r.rax;
}

/* Nothing but the test areas stays mapped, or a random address would hit the C library or a
 * sanitizer's shadow. */
static int strip(struct native_child *ch)
{
    static const uint64_t holes[][2] = {
        { 0, CODE_AT },
        { CODE_AT + 2 * PAGE_BYTES, DATA_AT },
        { DATA_AT + AREA_BYTES, 0x7ffffffff000 },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(holes); i++) {
        int rc = inject(ch, SYS_munmap, holes[i][0], holes[i][1] - holes[i][0]);

        if (rc < 0)
            return rc;
    }
    return 0;
}

int child_start(struct native_child **out)
{
    struct native_child *ch = aligned_alloc(64, align_up(sizeof(*ch), 64));
    uint64_t bytes = 2 * PAGE_BYTES + AREA_BYTES;
    struct iovec iov;
    int status;

    if (!ch)
        return -ENOMEM;
    memset(ch, 0, sizeof(*ch));
    ch->fd = memfd_create("insn", MFD_CLOEXEC);
    if (ch->fd < 0 || ftruncate(ch->fd, (off_t)bytes) < 0)
        return -errno;
    ch->code = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ch->fd, 0);
    if (ch->code == MAP_FAILED)
        return -errno;
    ch->data = ch->code + 2 * PAGE_BYTES;
    ch->pid = fork();
    if (ch->pid < 0)
        return -errno;
    if (!ch->pid)
        be_child(ch->fd);
    if (waitpid(ch->pid, &status, 0) != ch->pid || !WIFSTOPPED(status))
        return -EPERM;
    (void)ptrace(PTRACE_SETOPTIONS, ch->pid, 0, PTRACE_O_EXITKILL);
    iov = (struct iovec){ ch->xstate, sizeof(ch->xstate) };
    if (ptrace(PTRACE_GETREGS, ch->pid, 0, &ch->base) < 0 ||
        ptrace(PTRACE_GETREGSET, ch->pid, NT_X86_XSTATE, &iov) < 0)
        return -errno;
    ch->xstate_bytes = iov.iov_len;
    *out = ch;
    return strip(ch);
}

void child_stop(struct native_child *ch)
{
    (void)kill(ch->pid, SIGKILL);
    (void)waitpid(ch->pid, NULL, 0);
    (void)munmap(ch->code, 2 * PAGE_BYTES + AREA_BYTES);
    (void)close(ch->fd);
    free(ch);
}

static uint64_t *const_slot(struct user_regs_struct *r, unsigned i)
{
    unsigned long long *const at[NR_GPRS] = {
        &r->rax, &r->rcx, &r->rdx, &r->rbx, &r->rsp, &r->rbp, &r->rsi, &r->rdi,
        &r->r8,  &r->r9,  &r->r10, &r->r11, &r->r12, &r->r13, &r->r14, &r->r15,
    };

    return (uint64_t *)at[i];
}

static int vector_of(const siginfo_t *si)
{
    switch (si->si_signo) {
    case SIGILL:
        return VEC_UD;
    case SIGFPE: /* x87 and SSE exceptions and #DE: told apart by the code */
        return si->si_code == FPE_INTDIV ? VEC_DE : VEC_XM;
    case SIGSEGV:
        return si->si_code == SEGV_MAPERR || si->si_code == SEGV_ACCERR ? VEC_PF : VEC_GP;
    case SIGBUS:
        return si->si_code == BUS_ADRALN ? VEC_AC : VEC_SS;
    case SIGTRAP:
        return -1;
    default:
        return -2;
    }
}

int child_run(struct native_child *ch, const struct insn_case *k, struct outcome *out)
{
    struct exec x = {
        .code = k->code, .len = k->len, .code_off = k->code_off, .in = &k->in, .data = k->data
    };

    return child_exec(ch, &x, out);
}

void child_interrupt(struct native_child *ch)
{
    (void)kill(ch->pid, SIGSTOP);
}

static pid_t wait_for(pid_t pid, int *status)
{
    pid_t rc;

    do
        rc = waitpid(pid, status, 0);
    while (rc < 0 && errno == EINTR);
    return rc;
}

int child_exec(struct native_child *ch, const struct exec *k, struct outcome *out)
{
    struct user_regs_struct r = ch->base;
    struct iovec iov = { ch->xstate, ch->xstate_bytes };
    struct xsave_area *x = (struct xsave_area *)(void *)ch->xstate;
    siginfo_t si;
    int status;

    memcpy(ch->code + k->code_off, k->code, k->len);
    memcpy(ch->data, k->data, AREA_BYTES);
    for (unsigned i = 0; i < NR_GPRS; i++)
        *const_slot(&r, i) = k->in->gpr[i];
    r.rip = k->in->rip;
    r.eflags = k->in->rflags;
    r.orig_rax = (unsigned long long)-1;
    memcpy(x, &k->in->fpu, sizeof(*x));
    x->mxcsr_mask = 0;
    x->xstate_bv = XCR0_X87 | XCR0_SSE | XCR0_AVX;
    memset((uint8_t *)x + 464, 0, 48); /* software bytes of the signal frame */
    if (ptrace(PTRACE_SETREGS, ch->pid, 0, &r) < 0 ||
        ptrace(PTRACE_SETREGSET, ch->pid, NT_X86_XSTATE, &iov) < 0 ||
        ptrace(k->whole ? PTRACE_CONT : PTRACE_SINGLESTEP, ch->pid, 0, 0) < 0)
        return -1;
    if (wait_for(ch->pid, &status) != ch->pid || !WIFSTOPPED(status))
        return -1;
    if (ptrace(PTRACE_GETSIGINFO, ch->pid, 0, &si) < 0 ||
        ptrace(PTRACE_GETREGS, ch->pid, 0, &r) < 0 ||
        ptrace(PTRACE_GETREGSET, ch->pid, NT_X86_XSTATE, &iov) < 0)
        return -1;
    out->vector = vector_of(&si);
    /* INT3 and ICEBP are SIGTRAP too. */
    if (si.si_signo == SIGTRAP && si.si_code != TRAP_TRACE)
        out->vector = si.si_code == SI_KERNEL ? VEC_BP : -2;
    out->fault_at = out->vector == VEC_PF ? (uint64_t)si.si_addr : 0;
    for (unsigned i = 0; i < NR_GPRS; i++)
        out->regs.gpr[i] = *const_slot(&r, i);
    out->regs.rip = r.rip;
    out->cs = (uint16_t)r.cs;
    out->regs.rflags = r.eflags;
    memcpy(&out->regs.fpu, x, sizeof(*x));
    /* Components in their initial state are not stored. */
    if (!(x->xstate_bv & XCR0_AVX))
        memset(out->regs.fpu.ymmh, 0, sizeof(out->regs.fpu.ymmh));
    memcpy(out->data, ch->data, AREA_BYTES);
    return out->vector == -2 ? -1 : 0;
}
