/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The oracle: a child process with nothing in it but the test areas, driven by ptrace, one
 * single-step a case.
 *
 * It is a 64-bit process; code of other kinds runs in it by setting CS. An exception's vector and
 * error code are not in what ptrace tells of a signal, but in the frame the kernel makes for its
 * handler: so the signal is delivered, and its handler never gets to its first instruction.
 */
#include <asm/ldt.h>
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
#include <sys/ucontext.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#undef PAGE_MASK /* <sys/user.h> and <elf.h> have names of ours */
#undef PF_W
#undef PAGE_SIZE
#undef PAGE_SHIFT
#include "insn.h"

/* The signal stack lies where 32-bit addresses do not reach; big enough for any XSAVE area. */
#define SIGSTACK_AT    0x700000000000ull
#define SIGSTACK_BYTES (8 * PAGE_BYTES)
#define HANDLER_AT     CODE_AT
/* Of all components a host may have: 11008 with AMX's tiles (SDM 1, "XSAVE-Managed Features"). */
#define XSTATE_BYTES   (4 * PAGE_BYTES)

#define CODE_OFF     0ull /* in the file */
#define DATA_OFF     CODE_BYTES
#define SIGSTACK_OFF (DATA_OFF + AREA_BYTES)
#define FILE_BYTES   (SIGSTACK_OFF + SIGSTACK_BYTES)

struct native_child {
    pid_t pid;
    int fd;
    uint8_t *code, *data, *sigstack; /* the same pages, here */
    struct user_regs_struct base;
    size_t xstate_bytes;
    _Alignas(64) uint8_t xstate[XSTATE_BYTES];
};

static void map_here(int fd, uint64_t at, uint64_t off, uint64_t bytes, int prot)
{
    if (mmap((void *)at, bytes, prot, MAP_SHARED | MAP_FIXED | MAP_POPULATE, fd, (off_t)off) ==
        MAP_FAILED)
        _exit(1);
}

/* Signals that exceptions become. */
static const int signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP };

static void set_up_signals(void)
{
    const stack_t stack = { .ss_sp = (void *)SIGSTACK_AT, .ss_size = SIGSTACK_BYTES };
    struct sigaction act = { .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };

    act.sa_sigaction = (void (*)(int, siginfo_t *, void *))HANDLER_AT;
    for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
        if (sigaction(signals[i], &act, NULL) < 0)
            _exit(1);
    if (sigaltstack(&stack, NULL) < 0)
        _exit(1);
}

static bool set_up_ldt(void)
{
    for (unsigned i = 0; i < NR_LDT; i++) {
        const struct ldt_entry *e = &ldt_entries[i];
        struct user_desc d = { .entry_number = i,
                               .base_addr = e->base,
                               .limit = e->limit,
                               .seg_32bit = e->is_32,
                               .contents = e->contents & 3u,
                               .read_exec_only = e->no_write,
                               .limit_in_pages = e->in_pages,
                               .seg_not_present = e->absent };

        if (syscall(SYS_modify_ldt, 0x11, &d, sizeof(d)) != 0)
            return false;
    }
    return true;
}

static void be_child(struct native_child *ch)
{
    map_here(ch->fd, CODE_AT, CODE_OFF, CODE_BYTES, PROT_READ | PROT_EXEC);
    map_here(ch->fd, DATA_AT, DATA_OFF, DATA_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE);
    map_here(ch->fd, RO_AT, DATA_OFF + DATA_PAGES * PAGE_BYTES, PAGE_BYTES, PROT_READ);
    map_here(ch->fd, SIGSTACK_AT, SIGSTACK_OFF, SIGSTACK_BYTES, PROT_READ | PROT_WRITE);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    set_up_signals();
    ch->data[0] = set_up_ldt(); /* a shared page */
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
        { CODE_AT + CODE_BYTES, DATA_AT },
        { DATA_AT + AREA_BYTES, SIGSTACK_AT },
        { SIGSTACK_AT + SIGSTACK_BYTES, 0x7ffffffff000 },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(holes); i++) {
        int rc = inject(ch, SYS_munmap, holes[i][0], holes[i][1] - holes[i][0]);

        if (rc < 0)
            return rc;
    }
    memset(ch->code, 0, CODE_BYTES); /* as the guest has it */
    return 0;
}

int child_start(struct native_child **out, bool *has_ldt)
{
    struct native_child *ch = aligned_alloc(64, align_up(sizeof(*ch), 64));
    struct iovec iov;
    int status;

    if (!ch)
        return -ENOMEM;
    memset(ch, 0, sizeof(*ch));
    ch->fd = memfd_create("insn", MFD_CLOEXEC);
    if (ch->fd < 0 || ftruncate(ch->fd, (off_t)FILE_BYTES) < 0)
        return -errno;
    ch->code = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, ch->fd, 0);
    if (ch->code == MAP_FAILED)
        return -errno;
    ch->data = ch->code + DATA_OFF;
    ch->sigstack = ch->code + SIGSTACK_OFF;
    ch->pid = fork();
    if (ch->pid < 0)
        return -errno;
    if (!ch->pid)
        be_child(ch);
    if (waitpid(ch->pid, &status, 0) != ch->pid || !WIFSTOPPED(status))
        return -EPERM;
    (void)ptrace(PTRACE_SETOPTIONS, ch->pid, 0, PTRACE_O_EXITKILL);
    iov = (struct iovec){ ch->xstate, sizeof(ch->xstate) };
    if (ptrace(PTRACE_GETREGS, ch->pid, 0, &ch->base) < 0 ||
        ptrace(PTRACE_GETREGSET, ch->pid, NT_X86_XSTATE, &iov) < 0)
        return -errno;
    if (iov.iov_len == sizeof(ch->xstate)) /* the kernel takes back all of it or nothing */
        return -E2BIG;
    ch->xstate_bytes = iov.iov_len;
    *has_ldt = ch->data[0];
    *out = ch;
    return strip(ch);
}

void child_stop(struct native_child *ch)
{
    (void)kill(ch->pid, SIGKILL);
    (void)waitpid(ch->pid, NULL, 0);
    (void)munmap(ch->code, FILE_BYTES);
    (void)close(ch->fd);
    free(ch);
}

static void regs_to_user(const struct regs *g, struct user_regs_struct *r)
{
    r->rax = g->gpr[RAX], r->rcx = g->gpr[RCX], r->rdx = g->gpr[RDX], r->rbx = g->gpr[RBX];
    r->rsp = g->gpr[RSP], r->rbp = g->gpr[RBP], r->rsi = g->gpr[RSI], r->rdi = g->gpr[RDI];
    r->r8 = g->gpr[R8], r->r9 = g->gpr[R9], r->r10 = g->gpr[R10], r->r11 = g->gpr[R11];
    r->r12 = g->gpr[R12], r->r13 = g->gpr[R13], r->r14 = g->gpr[R14], r->r15 = g->gpr[R15];
    r->rip = g->rip, r->eflags = g->rflags;
    r->es = g->sel[SEG_ES], r->cs = g->sel[SEG_CS], r->ss = g->sel[SEG_SS];
    r->ds = g->sel[SEG_DS], r->fs = g->sel[SEG_FS], r->gs = g->sel[SEG_GS];
    r->fs_base = g->fs_base, r->gs_base = g->gs_base;
    r->orig_rax = (unsigned long long)-1;
}

static void regs_from_user(const struct user_regs_struct *r, struct regs *g)
{
    const uint64_t gpr[NR_GPRS] = {
        r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi,
        r->r8,  r->r9,  r->r10, r->r11, r->r12, r->r13, r->r14, r->r15
    };
    const uint16_t sel[NR_SEGS] = {
        [SEG_ES] = (uint16_t)r->es, [SEG_CS] = (uint16_t)r->cs, [SEG_SS] = (uint16_t)r->ss,
        [SEG_DS] = (uint16_t)r->ds, [SEG_FS] = (uint16_t)r->fs, [SEG_GS] = (uint16_t)r->gs
    };

    memcpy(g->gpr, gpr, sizeof(gpr));
    memcpy(g->sel, sel, sizeof(sel));
    g->rip = r->rip, g->rflags = r->eflags;
    g->fs_base = r->fs_base, g->gs_base = r->gs_base;
}

/* how: PTRACE_SINGLESTEP or PTRACE_CONT. */
static int resume(struct native_child *ch, enum __ptrace_request how, int sig,
                  struct user_regs_struct *r)
{
    int status;
    pid_t pid;

    if (ptrace(how, ch->pid, 0, sig) < 0)
        return -1;
    do
        pid = waitpid(ch->pid, &status, 0);
    while (pid < 0 && errno == EINTR);
    if (pid != ch->pid || !WIFSTOPPED(status))
        return -1;
    return ptrace(PTRACE_GETREGS, ch->pid, 0, r) < 0 ? -1 : 0;
}

/* Delivers the signal the child has stopped for, up to its handler, which has the frame's context
 * as its third argument. */
static int read_exception(struct native_child *ch, int sig, struct outcome *out)
{
    struct user_regs_struct r;
    ucontext_t uc;

    if (resume(ch, PTRACE_SINGLESTEP, sig, &r) < 0 || r.rip != HANDLER_AT || r.rdx < SIGSTACK_AT ||
        r.rdx + sizeof(uc) > SIGSTACK_AT + SIGSTACK_BYTES)
        return -1;
    memcpy(&uc, ch->sigstack + (r.rdx - SIGSTACK_AT), sizeof(uc));
    out->vector = (int)uc.uc_mcontext.gregs[REG_TRAPNO];
    out->err = (uint32_t)uc.uc_mcontext.gregs[REG_ERR];
    out->fault_at = out->vector == VEC_PF ? (uint64_t)uc.uc_mcontext.gregs[REG_CR2] : 0;
    return 0;
}

/* With the code and the data in place. */
static int run(struct native_child *ch, const struct regs *in, enum __ptrace_request how,
               struct outcome *out)
{
    struct user_regs_struct r = ch->base;
    struct iovec iov = { ch->xstate, ch->xstate_bytes };
    struct xsave_area *x = (struct xsave_area *)(void *)ch->xstate;
    siginfo_t si;

    regs_to_user(in, &r);
    memcpy(x, &in->fpu, sizeof(*x));
    x->mxcsr_mask = 0;
    x->xstate_bv = XCR0_X87 | XCR0_SSE | XCR0_AVX;
    memset((uint8_t *)x + 464, 0, 48); /* software bytes of the signal frame */
    if (ptrace(PTRACE_SETREGS, ch->pid, 0, &r) < 0 ||
        ptrace(PTRACE_SETREGSET, ch->pid, NT_X86_XSTATE, &iov) < 0 || resume(ch, how, 0, &r) < 0 ||
        ptrace(PTRACE_GETSIGINFO, ch->pid, 0, &si) < 0 ||
        ptrace(PTRACE_GETREGSET, ch->pid, NT_X86_XSTATE, &iov) < 0)
        return -1;
    regs_from_user(&r, &out->regs);
    memcpy(&out->regs.fpu, x, sizeof(*x));
    /* Components in their initial state are not stored. */
    if (!(x->xstate_bv & XCR0_AVX))
        memset(out->regs.fpu.ymmh, 0, sizeof(out->regs.fpu.ymmh));
    memcpy(out->data, ch->data, AREA_BYTES);
    out->vector = -1;
    out->err = 0;
    out->fault_at = 0;
    if (si.si_signo == SIGTRAP && si.si_code == TRAP_TRACE)
        return 0;
    return read_exception(ch, si.si_signo, out);
}

int child_run(struct native_child *ch, const struct insn_case *k, struct outcome *out)
{
    memcpy(ch->code + k->code_off, k->code, case_code_bytes(k));
    memcpy(ch->data, k->data, AREA_BYTES);
    return run(ch, &k->in, PTRACE_SINGLESTEP, out);
}

int child_exec(struct native_child *ch, const struct exec *x, struct outcome *out)
{
    memcpy(ch->code, x->code, CODE_BYTES);
    memcpy(ch->data, x->data, AREA_BYTES);
    return run(ch, x->in, PTRACE_CONT, out);
}

void child_interrupt(struct native_child *ch)
{
    (void)kill(ch->pid, SIGSTOP);
}
