/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the process that serves an image gives up before it begins. An image is somebody's file, and
 * who made it may have looked for a bug in its reader: then the reader shall be able to read what
 * the user can read (backing files are anywhere), and to write to the image and nowhere else; to
 * talk to nobody, and to harm no other process.
 *
 * Manuals: landlock(7), seccomp(2), capabilities(7).
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "backend/store_child.h"

/* Newer than Debian 12's headers; the kernel tells by its ABI version what it knows. */
#define FS_TRUNCATE BIT64(14) /* LANDLOCK_ACCESS_FS_TRUNCATE, ABI 3 */

#define FS_WRITES                                                                                  \
    (LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR |                               \
     LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_DIR | \
     LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO |   \
     LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_SYM)

int store_sandbox_prepare(const int *fds, unsigned nr_fds)
{
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    uint64_t truncate = abi >= 3 ? FS_TRUNCATE : 0;
    struct landlock_ruleset_attr all = { .handled_access_fs = FS_WRITES | truncate };
    int rules;

    if (abi < 1)
        return -1;
    rules = (int)syscall(SYS_landlock_create_ruleset, &all, sizeof(all.handled_access_fs), 0);
    for (unsigned i = 0; i < nr_fds && rules >= 0; i++) {
        struct landlock_path_beneath_attr one = { .allowed_access =
                                                      LANDLOCK_ACCESS_FS_WRITE_FILE | truncate,
                                                  .parent_fd = fds[i] };

        if (fds[i] >= 0 &&
            syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &one, 0) < 0) {
            (void)close(rules);
            rules = -1;
        }
    }
    return rules;
}

/* Nothing that a server of an image does: other processes, other hosts, the system. */
static const int denied[] = {
    SYS_socket,
    SYS_connect,
    SYS_bind,
    SYS_kill,
    SYS_tkill,
    SYS_rt_sigqueueinfo,
    SYS_rt_tgsigqueueinfo,
    SYS_pidfd_send_signal,
    SYS_pidfd_getfd,
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_mount,
    SYS_umount2,
    SYS_move_mount,
    SYS_open_tree,
    SYS_pivot_root,
    SYS_chroot,
    SYS_setns,
    SYS_unshare,
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_keyctl,
    SYS_add_key,
    SYS_request_key,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_kexec_load,
    SYS_kexec_file_load,
    SYS_reboot,
    SYS_swapon,
    SYS_open_by_handle_at,
    SYS_acct,
};

/* These are good for the process itself, which the first argument names: its number, or 0. */
static const int own[] = { SYS_tgkill, SYS_prlimit64 };

/* The x32 ABI's calls have the same architecture and numbers of their own: none of them. */
#define X32_CALLS 0x40000000u

#define LOAD(field) \
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, field))
#define RETURN(what) BPF_STMT(BPF_RET | BPF_K, (what))

static bool deny_calls(bool with_uring)
{
    struct sock_filter code[10 + 2 * ARRAY_SIZE(denied) + 6 * ARRAY_SIZE(own)];
    struct sock_fprog program = { .filter = code };
    unsigned n = 0;

    code[n++] = (struct sock_filter)LOAD(arch);
    code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    code[n++] = (struct sock_filter)RETURN(SECCOMP_RET_KILL_PROCESS);
    code[n++] = (struct sock_filter)LOAD(nr);
    code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, X32_CALLS, 0, 1);
    code[n++] = (struct sock_filter)RETURN(SECCOMP_RET_ERRNO | EPERM);
    if (!with_uring) { /* whose requests no filter sees; QEMU does without */
        code[n++] =
            (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1);
        code[n++] = (struct sock_filter)RETURN(SECCOMP_RET_ERRNO | EPERM);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(denied); i++) {
        code[n++] =
            (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)denied[i], 0, 1);
        code[n++] = (struct sock_filter)RETURN(SECCOMP_RET_ERRNO | EPERM);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(own); i++) {
        code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)own[i], 0, 5);
        code[n++] = (struct sock_filter)LOAD(args[0]); /* the lower half; a pid has no other */
        code[n++] =
            (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)getpid(), 2, 0);
        code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0);
        code[n++] = (struct sock_filter)RETURN(SECCOMP_RET_ERRNO | EPERM);
        code[n++] = (struct sock_filter)RETURN(SECCOMP_RET_ALLOW);
    }
    code[n++] = (struct sock_filter)RETURN(SECCOMP_RET_ALLOW);
    program.len = (unsigned short)n;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

/* Root keeps what makes files accessible to it. */
static void drop_capabilities(void)
{
    for (unsigned cap = 0; cap <= 63; cap++)
        if (cap != CAP_DAC_OVERRIDE && cap != CAP_DAC_READ_SEARCH)
            (void)prctl(PR_CAPBSET_DROP, cap, 0, 0, 0); /* who may not, has none */
}

bool store_sandbox_enter(int rules_fd, bool with_uring)
{
    drop_capabilities();
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return false;
    if (rules_fd >= 0 && syscall(SYS_landlock_restrict_self, rules_fd, 0) < 0)
        return false;
    return deny_calls(with_uring);
}
