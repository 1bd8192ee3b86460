/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A PID namespace: other processes have no numbers there, and so cannot be named. It begins with a
 * child (pid_namespaces(7)): that one goes on as the VM's process, and the one that was started
 * stays outside, passes signals on to it, and ends as it does.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "host/sandbox_priv.h"
#include "lib/log.h"

/* ---- outside ---- */

static void end_as(int status)
{
    const struct rlimit no_core = { 0, 0 };
    sigset_t all;

    if (WIFEXITED(status))
        _exit(WEXITSTATUS(status));
    /* By the same signal; its core, if any, has been written. */
    (void)setrlimit(RLIMIT_CORE, &no_core);
    (void)signal(WTERMSIG(status), SIG_DFL);
    (void)sigfillset(&all);
    (void)kill(getpid(), WTERMSIG(status));
    (void)sigprocmask(SIG_UNBLOCK, &all, NULL);
    _exit(128 + WTERMSIG(status));
}

/* What a terminal sends reaches the child as well; what processes send, us alone. */
static void stay_outside(pid_t child, int alive_fd)
{
    siginfo_t info;
    sigset_t all;
    int status;

    for (int fd = 3; fd < alive_fd; fd++)
        (void)close(fd);
    (void)close_range((unsigned)alive_fd + 1, ~0u, 0);
    (void)signal(SIGCHLD, SIG_DFL);
    (void)sigfillset(&all);
    (void)sigprocmask(SIG_SETMASK, &all, NULL);
    for (;;) {
        if (waitpid(child, &status, WNOHANG) == child)
            end_as(status);
        if (sigwaitinfo(&all, &info) > 0 && info.si_signo != SIGCHLD && info.si_code <= 0)
            (void)kill(child, info.si_signo);
    }
}

/* ---- inside ---- */

static int mount_proc(void)
{
    return mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0 ? -errno : 0;
}

/* Our number outside, which users know: that of the /proc which is still mounted. */
static int number_outside(void)
{
    char text[16];
    ssize_t n = readlink("/proc/self", text, sizeof(text) - 1);

    if (n <= 0)
        return 0;
    text[n] = 0;
    return atoi(text);
}

/* Only where the number of a process means that one in /proc, too. Some containers have parts of
 * theirs covered, and the kernel does not uncover them (mount_namespaces(7)). */
static bool possible(void)
{
    pid_t first = fork(), second;
    int status;

    if (first < 0)
        return false;
    if (first)
        return waitpid(first, &status, 0) == first && WIFEXITED(status) && !WEXITSTATUS(status);
    if (unshare(CLONE_NEWPID | CLONE_NEWNS) < 0)
        _exit(1);
    second = fork();
    if (!second)
        _exit(mount_proc() < 0);
    _exit(second < 0 || waitpid(second, &status, 0) != second || status);
}

int pid_ns_enter(int *outside)
{
    struct pollfd gone = { .events = 0 };
    int alive[2];
    pid_t child;

    if (!possible())
        return -EPERM;
    if (pipe2(alive, O_CLOEXEC) < 0)
        return -errno;
    if (unshare(CLONE_NEWPID) < 0 || (child = fork()) < 0) {
        (void)close(alive[0]);
        (void)close(alive[1]);
        return -errno;
    }
    if (child)
        stay_outside(child, alive[1]);
    /* It may have died before it could tell us. */
    (void)close(alive[1]);
    gone.fd = alive[0];
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || poll(&gone, 1, 0) != 0)
        _exit(1);
    (void)close(alive[0]);
    *outside = number_outside();
    return mount_proc();
}
