/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the VNC server gives up before it speaks to anybody: new privileges, core dumps, and all
 * system calls but those of a program that moves bytes between sockets it has.
 */
#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "lib/log.h"
#include "vnc/priv.h"

#define FILES_MAX 128

/* The sanitizers make calls of their own. */
#ifdef DOPPEL_SAN
#define CONFINES_CALLS false
#else
#define CONFINES_CALLS true
#endif

static const int allowed[] = {
    SYS_pselect6,     SYS_select,        SYS_read,           SYS_write,       SYS_recvfrom,
    SYS_sendto,       SYS_recvmsg,       SYS_sendmsg,        SYS_writev,      SYS_readv,
    SYS_poll,         SYS_ppoll,         SYS_accept,         SYS_accept4,     SYS_getpeername,
    SYS_getsockname,  SYS_getsockopt,    SYS_setsockopt,     SYS_shutdown,    SYS_close,
    SYS_fcntl,        SYS_futex,         SYS_munmap,         SYS_mremap,      SYS_madvise,
    SYS_brk,          SYS_clock_gettime, SYS_gettimeofday,   SYS_time,        SYS_clock_nanosleep,
    SYS_nanosleep,    SYS_getrandom,     SYS_getpid,         SYS_gettid,      SYS_tgkill,
    SYS_rt_sigaction, SYS_rt_sigreturn,  SYS_rt_sigprocmask, SYS_sched_yield, SYS_restart_syscall,
    SYS_fstat,        SYS_lseek,         SYS_exit,           SYS_exit_group,  SYS_unlink,
    SYS_stat,         SYS_lstat,         SYS_newfstatat,
};

static int confine_rules(scmp_filter_ctx f)
{
    const struct scmp_arg_cmp no_exec = SCMP_CMP64(2, SCMP_CMP_MASKED_EQ, PROT_EXEC, 0);
    /* Not to be slowed down by what the kernel does for filters that do not say so. */
    int err = seccomp_attr_set(f, SCMP_FLTATR_CTL_SSB, 1);

    for (unsigned i = 0; i < ARRAY_SIZE(allowed) && !err; i++)
        err = seccomp_rule_add(f, SCMP_ACT_ALLOW, allowed[i], 0);
    err = err ? err : seccomp_rule_add_array(f, SCMP_ACT_ALLOW, SYS_mmap, 1, &no_exec);
    err = err ? err : seccomp_rule_add_array(f, SCMP_ACT_ALLOW, SYS_mprotect, 1, &no_exec);
    return err ? err : seccomp_load(f);
}

/* The kernel's log names the call of a violation (type=1326). */
static void confine_calls(void)
{
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_ERRNO(EPERM));

    if (!f || confine_rules(f) < 0)
        log_debug("vnc: no filter of system calls here");
    if (f)
        seccomp_release(f);
}

void vnc_confine(void)
{
    const struct rlimit none = { 0, 0 }, files = { FILES_MAX, FILES_MAX };

    /* Each is a courtesy: without it the server works as well. */
    (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    (void)setrlimit(RLIMIT_CORE, &none);
    (void)setrlimit(RLIMIT_NOFILE, &files);
    if (CONFINES_CALLS)
        confine_calls();
}
