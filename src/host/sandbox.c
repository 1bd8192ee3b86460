/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The monitor's sandbox: no new privileges, no capabilities, a list of system calls per kind of
 * thread, Landlock's list of files, limits. Each thread goes in by itself: what a filter or
 * Landlock holds is a thread and what it starts, not a process.
 */
#include "host/sandbox.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "host/sandbox_priv.h"
#include "lib/log.h"

/* The sanitizers look at their process in ways that no filter allows. */
#ifdef DOPPEL_SAN
#define CAN_CONFINE false
#else
#define CAN_CONFINE true
#endif

static const char *const role_texts[] = {
#define ROLE(id, text) text,
#include "host/sandbox.def"
};

/* Filters and rulesets are the process's, as its threads are. */
static struct {
    struct sandbox_config cfg;
    bool on, filters, landlock, shut_in, settled, isolated;
    int pid_outside;              /* 0: there is no PID namespace */
    _Atomic uint32_t nr_starting; /* threads that are not in yet */
    pthread_mutex_t lock;         /* guards the rest: threads start while others do */
    struct sock_fprog progs[NR_HOST_ROLES];
    int rules[NR_HOST_ROLES]; /* -1: nothing may be opened yet */
} sandbox_state = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* ---- setting up ---- */

static int missing(const char *what, int err)
{
    if (sandbox_state.cfg.mode == SANDBOX_ON) {
        log_error("--sandbox on: this host has no %s (%s); --sandbox auto takes what there is",
                  what, strerror(-err));
        return -ENOSYS;
    }
    log_debug("sandbox: no %s here (%s)", what, strerror(-err));
    return 0;
}

/* What each kind opens while it works. */
static void allow_known(void)
{
    /* How long threads waited for a processor (delay.c); which pages are a process's own. */
    sandbox_allow(BIT(HOST_VCPU) | BIT(HOST_CONTROL) | BIT(HOST_KEEPER) | BIT(HOST_MAIN) |
                      BIT(HOST_API),
                  "/proc", SANDBOX_READ);
    sandbox_allow(BIT(HOST_USERNET), "/etc/resolv.conf", SANDBOX_READ);
}

int sandbox_begin(const struct sandbox_config *cfg)
{
    const enum sandbox_mode mode = cfg->mode;
    int err;

    sandbox_state.cfg = *cfg;
    for (unsigned i = 0; i < NR_HOST_ROLES; i++)
        sandbox_state.rules[i] = -1;
    if (mode == SANDBOX_OFF)
        return 0;
    err = cgroup_enter(cfg);
    if (err)
        return err;
    if (!CAN_CONFINE && cfg->ns == SANDBOX_NS_ON) {
        log_error("--sandbox ns=on: a build with sanitizers has no sandbox");
        return -ENOSYS;
    }
    if (!CAN_CONFINE)
        return missing("sandbox for a build with sanitizers", -ENOSYS);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return missing("no_new_privs", -errno);
    sandbox_state.filters = filter_possible();
    err = sandbox_state.filters ? trap_catch_sigsys(sandbox_state.cfg.mode != SANDBOX_ON)
                                : missing("seccomp", -ENOSYS);
    sandbox_state.landlock = paths_abi() > 0;
    if (!err && !sandbox_state.landlock)
        err = missing("Landlock", -ENOSYS);
    if (err)
        return err;
    sandbox_state.on = true;
    err = sandbox_state.landlock ? paths_shut_in() : -ENOSYS;
    sandbox_state.shut_in = !err;
    if (err)
        log_debug("sandbox: other processes are not out of reach by Landlock (%s)", strerror(-err));
    allow_known();
    return 0;
}

int sandbox_isolate(unsigned keeps)
{
    int err;

    if (!sandbox_state.on || sandbox_state.cfg.ns == SANDBOX_NS_OFF)
        return 0;
    if (sandbox_state.isolated)
        return 0;
    err = ns_enter(!(keeps & SANDBOX_KEEP_NET));
    sandbox_state.isolated = !err;
    if (!err) {
        err = pid_ns_enter(&sandbox_state.pid_outside);
        if (err)
            log_debug("sandbox: no PID namespace here (%s)", strerror(-err));
        return 0;
    }
    if (sandbox_state.cfg.ns == SANDBOX_NS_AUTO) {
        log_debug("sandbox: no namespaces here (%s)", strerror(-err));
        return 0;
    }
    log_error("--sandbox ns=on: this host gives no namespaces%s (%s); ns=auto takes what there is",
              geteuid() ? " to users (user.max_user_namespaces, a chroot, or its security modules)"
                        : "",
              strerror(-err));
    return err;
}

int sandbox_pid_outside(void)
{
    return sandbox_state.pid_outside;
}

static int leave_files(void)
{
    int err = sandbox_state.isolated ? ns_leave_files() : 0;

    if (err)
        log_error("sandbox: the process's files cannot be taken out of its view: %s%s",
                  strerror(-err),
                  sandbox_state.cfg.ns == SANDBOX_NS_AUTO ? " (ns=off runs without)" : "");
    return err;
}

void sandbox_allow(uint32_t roles, const char *path, unsigned what)
{
    if (sandbox_state.on && sandbox_state.cfg.ns != SANDBOX_NS_OFF)
        ns_path(path, what);
    if (!sandbox_state.landlock)
        return;
    for (unsigned i = 0; i < NR_HOST_ROLES; i++) {
        int err;

        if (!(roles & BIT(i)))
            continue;
        if (sandbox_state.rules[i] < 0)
            sandbox_state.rules[i] = paths_new();
        err = sandbox_state.rules[i] < 0 ? sandbox_state.rules[i]
                                         : paths_add(sandbox_state.rules[i], path, what);
        if (err && err != -ENOENT && err != -ENOTDIR)
            log_warn("sandbox: '%s' will not be open to the %s threads: %s", path, role_texts[i],
                     strerror(-err));
    }
}

void sandbox_allow_dir_of(uint32_t roles, const char *path, unsigned what)
{
    const char *slash = strrchr(path, '/');
    char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");

    if (dir)
        sandbox_allow(roles, dir, what);
    free(dir);
}

/* ---- going in ---- */

/* Those of a superuser. The threads of shared folders act for the guest's users (setfsuid). */
static int drop_capabilities(enum host_role role)
{
    struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
    const struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = { { 0 } };

    if (role == HOST_SHARE && !ns_own_user())
        return 0;
    (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    return syscall(SYS_capset, &head, none) < 0 ? -errno : 0;
}

/* The role's ruleset and filter, made when they are needed first. */
static int prepare(enum host_role role)
{
    int *rules = &sandbox_state.rules[role], err = 0;

    if (sandbox_state.landlock && *rules < 0)
        *rules = paths_new();
    if (sandbox_state.landlock && *rules < 0)
        return *rules;
    if (sandbox_state.filters && !sandbox_state.progs[role].filter)
        err = filter_make(role, &sandbox_state.progs[role]);
    return err;
}

/* The API's thread starts others from inside. */
static int prepare_later(void)
{
    int err = prepare(HOST_DISK);

    return err ? err : prepare(HOST_HELPER);
}

static int go_in(enum host_role role)
{
    int err = prepare(role);

    if (!err)
        err = drop_capabilities(role);
    if (!err && sandbox_state.landlock)
        err = paths_enter(sandbox_state.rules[role]);
    if (!err && sandbox_state.filters)
        err = filter_load(&sandbox_state.progs[role]);
    return err;
}

bool sandbox_is_settled(void)
{
    return sandbox_state.settled;
}

void sandbox_enter(enum host_role role)
{
    int err;

    if (!sandbox_state.on)
        return;
    BUG_ON(pthread_mutex_lock(&sandbox_state.lock));
    err = role == HOST_API ? prepare_later() : 0;
    if (!err)
        err = go_in(role);
    BUG_ON(pthread_mutex_unlock(&sandbox_state.lock));
    if (!err)
        return;
    log_error("sandbox: a %s thread cannot be shut in: %s%s", role_texts[role], strerror(-err),
              sandbox_state.cfg.mode == SANDBOX_ON ? "" : " (--sandbox off runs without)");
    _exit(1); /* a VM that only seems to be in a sandbox is worse than none */
}

void sandbox_thread_starts(void)
{
    atomic_fetch_add(&sandbox_state.nr_starting, 1);
}

void sandbox_thread_in(void)
{
    if (atomic_fetch_sub(&sandbox_state.nr_starting, 1) == 1)
        host_futex_wake(&sandbox_state.nr_starting);
}

static void wait_for_threads(void)
{
    uint32_t nr;

    while ((nr = atomic_load(&sandbox_state.nr_starting)))
        host_futex_wait(&sandbox_state.nr_starting, nr, UINT64_MAX);
}

void sandbox_settled(void)
{
    wait_for_threads();
    if (!sandbox_state.on) {
        if (sandbox_state.cfg.mode == SANDBOX_OFF)
            log_debug("sandbox: off");
        return;
    }
    sandbox_state.settled = true;
    if (leave_files() < 0 || limits_set(&sandbox_state.cfg) < 0)
        _exit(1);
    /* Who asked for the terminal has taken SIGSYS, too. */
    if (sandbox_state.filters && trap_catch_sigsys(sandbox_state.cfg.mode != SANDBOX_ON) < 0)
        log_warn("sandbox: violations will not be named");
    log_debug("sandbox: no new privileges, no capabilities; system calls %s; files %s; other "
              "processes %s; %s",
              sandbox_state.filters ? "by list" : "not limited",
              sandbox_state.landlock ? "by list" : "not limited",
              sandbox_state.shut_in ? "out of reach" : "as for any process of this user",
              sandbox_state.isolated ? "own namespaces" : "no namespaces");
}
