/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lists of system calls, one per kind of thread (sandbox.def), as programs for seccomp(2).
 *
 * libseccomp makes the programs; they are loaded here, since a program is made once and loaded by
 * many threads, and for SPEC_ALLOW: without it the kernel would switch off the processor's
 * speculative store bypass for these threads, which costs far more than the filter.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "host/sandbox_priv.h"

#define R(id)  BIT(HOST_##id)
#define CTL    (R(CONTROL) | R(KEEPER))
/* Who makes, resets and takes down what engines have: workers, timers, places on the host. */
#define ENGINE (R(VCPU) | R(MAIN) | CTL)
#define ALL    (~0u)

#define OPTIMIZE_TREE 2 /* SCMP_FLTATR_CTL_OPTIMIZE: calls by their numbers in a binary tree */

static const struct {
    uint32_t roles;
    int nr;
} allowed[] = {
#define ALLOW(roles, name) { roles, SYS_##name },
#include "host/sandbox.def"
};

/* ---- calls of which the arguments matter ---- */

/* Flags of pthread_create() and of fork(), as glibc gives them to clone(2). */
#define THREAD_FLAGS (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD)
#define FORK_FLAGS   (CLONE_CHILD_CLEARTID | CLONE_CHILD_SETTID | SIGCHLD)

/* Numbers of ioctl(2) have their kind in the second byte. */
#define IOCTL_KIND 0xff00u
#define KIND_TTY   0x5400u
#define KIND_BLOCK 0x1200u
#define KIND_KVM   0xae00u
#define KIND_FS    0x6600u /* 'f': FS_IOC_* */
#define KIND_XFS   0x5800u /* 'X': FS_IOC_FSGETXATTR */
#define TIOCSTI_NR 0x5412u

#define EQ(arg, val)           SCMP_CMP64(arg, SCMP_CMP_EQ, val)
#define MASKED(arg, mask, val) SCMP_CMP64(arg, SCMP_CMP_MASKED_EQ, mask, val)

static const struct {
    uint32_t roles;
    int nr;
    struct scmp_arg_cmp cmp[2];
    unsigned nr_cmp;
} conditional[] = {
    /* Threads, not processes; vCPUs fork workers, which only shut themselves in further. */
    { ALL, SYS_clone, { MASKED(0, THREAD_FLAGS, THREAD_FLAGS) }, 1 },
    { R(VCPU), SYS_clone, { EQ(0, FORK_FLAGS) }, 1 },
    /* Nothing becomes executable but translations, and those are the vCPUs'. */
    { ALL & ~R(VCPU), SYS_mmap, { MASKED(2, PROT_EXEC, 0) }, 1 },
    { ALL & ~R(VCPU), SYS_mprotect, { MASKED(2, PROT_EXEC, 0) }, 1 },
    /* fstat() of newer C libraries. */
    { ALL, SYS_newfstatat, { MASKED(3, 0x1000, 0x1000) }, 1 },
    { ALL, SYS_prctl, { EQ(0, PR_SET_NAME) }, 1 },
    { ALL, SYS_prctl, { EQ(0, PR_GET_NAME) }, 1 },
    { ALL, SYS_prctl, { EQ(0, PR_SET_NO_NEW_PRIVS) }, 1 },
    { ALL, SYS_prctl, { EQ(0, PR_CAP_AMBIENT) }, 1 },
    /* How it opens is in memory, where no filter can look. */
    { R(SHARE), SYS_openat2, { { 0 } }, 0 },
    /* Why has the process that serves an image ended? */
    { R(IMAGE), SYS_waitid, { { 0 } }, 0 },
    { R(IMAGE), SYS_wait4, { { 0 } }, 0 },
    { R(SHARE), SYS_prctl, { EQ(0, PR_GET_SECUREBITS) }, 1 },
    { R(SHARE), SYS_prctl, { EQ(0, PR_SET_SECUREBITS) }, 1 },
    { R(SHARE), SYS_prctl, { EQ(0, PR_CAPBSET_READ) }, 1 },
    { R(VCPU), SYS_prctl, { EQ(0, PR_SET_PDEATHSIG) }, 1 },
    { R(VCPU), SYS_prctl, { EQ(0, PR_SET_DUMPABLE) }, 1 },
    { R(VCPU), SYS_prctl, { EQ(0, PR_SET_VMA) }, 1 },
    /* Limits of this process alone. */
    { ENGINE | R(SHARE), SYS_prlimit64, { EQ(0, 0) }, 1 },
    { ALL, SYS_ioctl, { EQ(1, 0x541b) }, 1 }, /* FIONREAD */
    { ALL, SYS_ioctl, { EQ(1, 0x5401) }, 1 }, /* TCGETS: isatty() */
    { R(VCPU) | CTL | R(MAIN) | R(DISK) | R(HELPER),
      SYS_ioctl,
      { MASKED(1, IOCTL_KIND, KIND_KVM) },
      1 },
    /* KVM_SIGNAL_MSI: any thread may have news for a guest whose local APICs are the kernel's. */
    { ALL, SYS_ioctl, { EQ(1, 0x4020aea5) }, 1 },
    { R(DISK) | CTL, SYS_ioctl, { MASKED(1, IOCTL_KIND, KIND_BLOCK) }, 1 },
    { R(SHARE), SYS_ioctl, { MASKED(1, IOCTL_KIND, KIND_FS) }, 1 },
    { R(SHARE), SYS_ioctl, { MASKED(1, IOCTL_KIND, KIND_XFS) }, 1 },
    { CTL | R(DISK), SYS_ioctl, { EQ(1, 0x40049409) }, 1 }, /* FICLONE */
    { CTL | R(MAIN), SYS_ioctl, { EQ(1, 0xc0606610) }, 1 }, /* PAGEMAP_SCAN */
    /* Also by who resets the card. TUNSETOFFLOAD, TUNSETQUEUE: */
    { R(NET) | ENGINE, SYS_ioctl, { EQ(1, 0x400454d0) }, 1 },
    { R(NET) | ENGINE, SYS_ioctl, { EQ(1, 0x400454d9) }, 1 },
    { R(NET) | R(VSOCK) | R(IMAGE), SYS_socket, { EQ(0, AF_UNIX) }, 1 },
    { R(USERNET), SYS_socket, { EQ(0, AF_INET) }, 1 },
    { R(USERNET), SYS_socket, { EQ(0, AF_INET6) }, 1 },
    { R(USERNET), SYS_socket, { EQ(0, AF_UNIX) }, 1 },
};

/* Terminals: no pushing of input into them, which a shell would read. */
static const uint32_t tty_requests[] = {
    0x5402, 0x5403, 0x5404,         /* TCSETS, TCSETSW, TCSETSF */
    0x540b, 0x540f, 0x5410,         /* TCFLSH, TIOCGPGRP, TIOCSPGRP */
    0x5413, 0x5414, 0x5409, 0x5429, /* TIOCGWINSZ, TIOCSWINSZ, TCSBRK, TIOCGSID */
};

/* What the role is, too. */
static uint32_t roles_of(enum host_role role)
{
    static const uint32_t others[NR_HOST_ROLES] = {
        [HOST_API] = R(MAIN) | R(CONTROL) | R(DISK),
        [HOST_IMAGE] = R(DISK),
    };

    return BIT(role) | others[role];
}

/* A pidfd's, a thread's or a process's: signals to our own threads; to workers by Landlock's leave.
 */
static int filter_signals(scmp_filter_ctx f, enum host_role role)
{
    const uint64_t own = (uint64_t)getpid();
    int err = seccomp_rule_add(f, SCMP_ACT_ALLOW, SYS_tgkill, 1, EQ(0, own));

    /* Workers are killed and kicked: their numbers are not known yet. */
    if (!err)
        err = seccomp_rule_add(f, SCMP_ACT_ALLOW, SYS_tgkill, 1,
                               SCMP_CMP64(2, SCMP_CMP_EQ, (uint64_t)SIGRTMIN));
    if (!err)
        err = seccomp_rule_add(f, SCMP_ACT_ALLOW, SYS_tgkill, 1,
                               SCMP_CMP64(2, SCMP_CMP_EQ, (uint64_t)SIGUSR1));
    if (!err && (ENGINE & roles_of(role)))
        err = seccomp_rule_add(f, SCMP_ACT_ALLOW, SYS_kill, 0);
    return err;
}

static int filter_openat(scmp_filter_ctx f, enum host_role role)
{
    const uint64_t writes = O_WRONLY | O_RDWR | O_CREAT | O_TRUNC;
    int err;

    if (role == HOST_CONTROL || role == HOST_KEEPER) {
        err = seccomp_rule_add(f, SCMP_ACT_ALLOW, SYS_openat, 1, MASKED(2, writes, 0));
        return err ? err : seccomp_rule_add(f, SCMP_ACT_ALLOW, SYS_open, 1, MASKED(1, writes, 0));
    }
    if (role != HOST_VCPU && role != HOST_USERNET)
        return 0;
    /*
     * vCPUs read how long they and their workers waited for a processor, libslirp which name server
     * the host has. Landlock lets them open that and nothing else; without it they go without.
     */
    if (!paths_abi())
        return seccomp_rule_add(f, SCMP_ACT_ERRNO(EACCES), SYS_openat, 0);
    err = seccomp_rule_add(f, SCMP_ACT_ALLOW, SYS_openat, 1, MASKED(2, writes, 0));
    if (!err && role == HOST_USERNET)
        err = seccomp_rule_add(f, SCMP_ACT_ALLOW, SYS_newfstatat, 0);
    return err;
}

static int filter_rules(scmp_filter_ctx f, enum host_role role)
{
    const uint32_t is = roles_of(role);
    int err = seccomp_attr_set(f, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);

    if (!err)
        err = seccomp_attr_set(f, SCMP_FLTATR_CTL_OPTIMIZE, OPTIMIZE_TREE);
    for (unsigned i = 0; i < ARRAY_SIZE(allowed) && !err; i++)
        if (allowed[i].roles & is)
            err = seccomp_rule_add(f, SCMP_ACT_ALLOW, allowed[i].nr, 0);
    for (unsigned i = 0; i < ARRAY_SIZE(conditional) && !err; i++)
        if (conditional[i].roles & is)
            err = seccomp_rule_add_array(f, SCMP_ACT_ALLOW, conditional[i].nr,
                                         conditional[i].nr_cmp, conditional[i].cmp);
    for (unsigned i = 0; i < ARRAY_SIZE(tty_requests) && !err; i++)
        if ((R(CHAN) | R(MAIN) | CTL) & is)
            err = seccomp_rule_add(f, SCMP_ACT_ALLOW, SYS_ioctl, 1, EQ(1, tty_requests[i]));
    if (!err)
        err = filter_signals(f, role);
    if (!err)
        err = filter_openat(f, role);
    /* A disk that a request opens is served by threads: a new ring could be asked for anything. */
    if (!err && role == HOST_API)
        err = seccomp_rule_add(f, SCMP_ACT_ERRNO(EPERM), SYS_io_uring_setup, 0);
    /* Its flags are in memory, where no filter can look: the C library then takes clone(). */
    if (!err)
        err = seccomp_rule_add(f, SCMP_ACT_ERRNO(ENOSYS), SYS_clone3, 0);
    return err;
}

/* libseccomp writes its programs to descriptors. */
static int filter_export(scmp_filter_ctx f, struct sock_fprog *prog)
{
    int fd = memfd_create("filter", MFD_CLOEXEC), err;
    struct stat st;

    if (fd < 0)
        return -errno;
    err = seccomp_export_bpf(f, fd);
    if (!err && fstat(fd, &st) < 0)
        err = -errno;
    if (!err) {
        prog->len = (unsigned short)((size_t)st.st_size / sizeof(struct sock_filter));
        prog->filter = malloc((size_t)st.st_size);
        if (!prog->filter)
            err = -ENOMEM;
        else if (pread(fd, prog->filter, (size_t)st.st_size, 0) != st.st_size)
            err = -EIO;
        if (err)
            free(prog->filter);
    }
    (void)close(fd);
    return err;
}

int filter_make(enum host_role role, struct sock_fprog *prog)
{
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_TRAP);
    int err = f ? filter_rules(f, role) : -ENOMEM;

    if (!err)
        err = filter_export(f, prog);
    if (f)
        seccomp_release(f);
    return err;
}

int filter_load(const struct sock_fprog *prog)
{
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, prog) < 0
               ? -errno
               : 0;
}

bool filter_possible(void)
{
    uint32_t action = SECCOMP_RET_TRAP;

    return syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;
}
