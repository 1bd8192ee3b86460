/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a worker becomes one: the child's way from fork() to the stub.
 *
 * The child is a copy of the monitor with one thread. It maps its home, sets its signal handler,
 * gives up everything a process can have, and jumps to the stub, which unmaps all that is not the
 * home: the monitor's memory, its stack, the vdso. After fork() in a process with threads only
 * system calls may be made here, no libc beyond them.
 */
#include "engine/bt/direct/worker.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/bt/direct/layout.h"
#include "engine/bt/direct/stub.h"

#define USER_TOP ((1ull << 47) - PAGE_BYTES)

/*
 * With the sanitizers their shadow memory lies where homes go. The child has no use for it: this
 * file is built without them, and what it calls are system calls.
 */
#ifdef DOPPEL_SAN
#define HOME_FIXED MAP_FIXED
#else
#define HOME_FIXED MAP_FIXED_NOREPLACE
#endif

#define CHILD_STEPS(X)                        \
    X(PARENT, "its parent went away")         \
    X(HOME, "mapping its home")               \
    X(SIGNALS, "setting its signal handlers") \
    X(RSEQ, "leaving restartable sequences")  \
    X(FDS, "closing descriptors")             \
    X(LIMITS, "setting resource limits")      \
    X(NO_NEW_PRIVS, "setting no_new_privs")   \
    X(SECCOMP, "installing its system call filter")

enum child_step {
    STEP_STUB = 1, /* the stub's own exit status */
#define X(id, text) STEP_##id,
    CHILD_STEPS(X)
#undef X
};

const char *worker_child_failure(int status)
{
    switch (status) {
    case STEP_STUB:
        return "unmapping what is not its home";
#define X(id, text) \
    case STEP_##id: \
        return text;
        CHILD_STEPS(X)
#undef X
    default:
        return "it was killed";
    }
}

static void give_up(enum child_step step)
{
    for (;;)
        (void)syscall(SYS_exit_group, step);
}

static void need(bool ok, enum child_step step)
{
    if (!ok)
        give_up(step);
}

/* ---- the home ---- */

static void map_home(const struct worker_child *k)
{
    static const struct {
        uint64_t off, bytes;
        int prot;
    } parts[] = {
        { HOME_STUB, HOME_STUB_BYTES, PROT_READ | PROT_EXEC },
        { HOME_IN, HOME_IN_BYTES, PROT_READ },
        { HOME_OUT, HOME_OUT_BYTES, PROT_READ | PROT_WRITE },
        { HOME_TABLE, HOME_TABLE_BYTES, PROT_READ },
        { HOME_HASH, HOME_HASH_BYTES, PROT_READ },
        { HOME_CODE, HOME_CODE_BYTES, PROT_READ | PROT_EXEC },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
        long at = (long)(k->desc->home + parts[i].off);

        need(syscall(SYS_mmap, at, parts[i].bytes, parts[i].prot, MAP_SHARED | HOME_FIXED,
                     k->home_fd, parts[i].off) == at,
             STEP_HOME);
    }
}

/* ---- signals ---- */

/* The kernel's own structure; libc's wants its restorer. */
struct kernel_sigaction {
    uint64_t handler, flags, restorer, mask;
};
#define KERNEL_SA_RESTORER   0x04000000ull
#define KERNEL_SS_AUTODISARM (1u << 31)

static const int worker_signals[] = {
    SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, WORKER_KICK_SIGNAL
};

/*
 * One handler for all, with all signals blocked in it. AUTODISARM: the alternate stack is taken
 * whatever the guest's RSP is, also one that points into it.
 */
static void set_signals(uint64_t home)
{
    struct kernel_sigaction sa = {
        .handler = home + direct_stub_offset(direct_stub_handler),
        .flags = SA_SIGINFO | SA_ONSTACK | KERNEL_SA_RESTORER,
        .restorer = home, /* never returned to */
        .mask = ~0ull,
    };
    stack_t ss = {
        .ss_sp = (void *)(uintptr_t)(home + HOME_OUT + OUT_STACK),
        .ss_size = HOME_OUT_BYTES - OUT_STACK,
        .ss_flags = (int)KERNEL_SS_AUTODISARM,
    };
    uint64_t blocked = ~0ull;

    need(!syscall(SYS_sigaltstack, &ss, NULL), STEP_SIGNALS);
    for (unsigned i = 0; i < ARRAY_SIZE(worker_signals); i++) {
        need(!syscall(SYS_rt_sigaction, worker_signals[i], &sa, NULL, sizeof(sa.mask)),
             STEP_SIGNALS);
        blocked &= ~BIT64(worker_signals[i] - 1);
    }
    need(!syscall(SYS_rt_sigprocmask, SIG_SETMASK, &blocked, NULL, sizeof(blocked)), STEP_SIGNALS);
}

/* libc registered a structure in its thread's memory, which will be gone. */
static void leave_rseq(void)
{
    if (!__rseq_size)
        return;
    need(!syscall(SYS_rseq, (char *)__builtin_thread_pointer() + __rseq_offset, 32,
                  RSEQ_FLAG_UNREGISTER, RSEQ_SIG),
         STEP_RSEQ);
}

/* ---- giving up rights ---- */

/* All but what it may map and its two ends of the door. */
static void close_fds(const struct worker_child *k)
{
    int keep[WORKER_MAX_FDS + 2];
    unsigned nr = 0, from = 0;

    for (unsigned i = 0; i < k->desc->nr_fds; i++)
        keep[nr++] = k->desc->fds[i];
    keep[nr++] = k->fd_wait;
    keep[nr++] = k->fd_tell;
    for (unsigned i = 1; i < nr; i++) /* few: insertion sort */
        for (unsigned j = i; j > 0 && keep[j - 1] > keep[j]; j--) {
            int t = keep[j];

            keep[j] = keep[j - 1];
            keep[j - 1] = t;
        }
    for (unsigned i = 0; i <= nr; i++) {
        unsigned to = i < nr ? (unsigned)keep[i] : ~0u;

        if (to > from)
            need(!syscall(SYS_close_range, from, i < nr ? to - 1 : to, 0), STEP_FDS);
        from = to + 1;
    }
}

static void set_limits(void)
{
    static const int none[] = { RLIMIT_CORE, RLIMIT_NPROC, RLIMIT_NOFILE, RLIMIT_FSIZE,
                                RLIMIT_MEMLOCK };
    struct rlimit zero = { 0, 0 };

    for (unsigned i = 0; i < ARRAY_SIZE(none); i++)
        need(!setrlimit((__rlimit_resource_t)none[i], &zero), STEP_LIMITS);
}

#define LOAD(field)            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define LOAD_HI(field)         BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field) + 4)
#define RET(what)              BPF_STMT(BPF_RET | BPF_K, what)
#define SKIP_IF(op, k, nr)     BPF_JUMP(BPF_JMP | BPF_##op | BPF_K, k, nr, 0)
#define SKIP_UNLESS(op, k, nr) BPF_JUMP(BPF_JMP | BPF_##op | BPF_K, k, 0, nr)
#define DIE                    RET(SECCOMP_RET_KILL_PROCESS)

/*
 * The first rule is the wall: the instruction pointer must be in the stub page, so that SYSCALL,
 * SYSENTER or INT 80h anywhere else is the worker's end. The rest keeps the stub itself small:
 * nothing executable is ever mapped, and only files that are shared with the monitor anyway.
 */
static void set_filter(uint64_t home)
{
    struct sock_filter code[] = {
        LOAD(arch),
        SKIP_IF(JEQ, AUDIT_ARCH_X86_64, 1),
        DIE,
        LOAD_HI(instruction_pointer),
        SKIP_IF(JEQ, (uint32_t)(home >> 32), 1),
        DIE,
        LOAD(instruction_pointer),
        SKIP_IF(JGE, (uint32_t)home, 1),
        DIE,
        SKIP_UNLESS(JGE, (uint32_t)home + HOME_STUB_BYTES, 1),
        DIE,
        LOAD(nr),
        SKIP_IF(JEQ, SYS_read, 13),
        SKIP_IF(JEQ, SYS_write, 12),
        SKIP_IF(JEQ, SYS_rt_sigreturn, 11),
        SKIP_IF(JEQ, SYS_munmap, 10),
        SKIP_IF(JEQ, SYS_arch_prctl, 9),
        SKIP_IF(JEQ, SYS_exit_group, 8),
        SKIP_IF(JEQ, SYS_mmap, 1),
        DIE,
        LOAD(args[3]),
        SKIP_UNLESS(JSET, MAP_ANONYMOUS | MAP_PRIVATE, 1),
        DIE,
        LOAD(args[2]),
        SKIP_UNLESS(JSET, PROT_EXEC, 1),
        DIE,
        RET(SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = { .len = ARRAY_SIZE(code), .filter = code };

    /* SPEC_ALLOW: the process holds nothing but what its guest process owns. */
    need(!syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &prog),
         STEP_SECCOMP);
}

void worker_child(const struct worker_child *k)
{
    uint64_t home = k->desc->home, end = home + HOME_BYTES;

    /* The parent's death between fork() and here would go unseen. */
    need(!prctl(PR_SET_PDEATHSIG, SIGKILL) && getppid() == k->parent, STEP_PARENT);
    map_home(k);
    set_signals(home);
    leave_rseq();
    close_fds(k);
    set_limits();
    need(!prctl(PR_SET_DUMPABLE, 0), STEP_LIMITS);
    need(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), STEP_NO_NEW_PRIVS);
    set_filter(home);
    __asm__ volatile("jmp *%0"
                     :
                     : "r"(home + direct_stub_offset(direct_stub_init)), "D"(home), "S"(end),
                       "d"(USER_TOP - end)
                     : "memory");
    __builtin_unreachable();
}
