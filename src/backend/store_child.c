/* SPDX-License-Identifier: Apache-2.0 */
/* Starting and ending the process that serves an image: see store_child.h. */
#include "backend/store_child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "host/sandbox.h"

#define PROGRAM    "qemu-storage-daemon"
#define SAID_BYTES 4096u
#define END_MS     60000 /* to write what it still has, and end */
#define DEATH_MS   2000  /* between its sockets' end and its own */

/* Its descriptors, behind the three that everybody has; CHILD_OVERLAY_PATH has the last. */
enum { FD_QMP = 3, FD_DOOR, FD_OVERLAY, NR_FDS, FD_SPARE = 20 };

struct start {
    char program[4096];
    int qmp_fd, door_fd, overlay_fd, said_fd, null_fd, rules_fd;
    pid_t parent;
    bool with_uring;
};

/* ---- the child, between fork() and exec(): system calls only ---- */

static void child_must(bool ok, const char *what)
{
    static const char end[] = " failed\n";

    if (ok)
        return;
    if (write(STDERR_FILENO, what, strlen(what)) < 0 ||
        write(STDERR_FILENO, end, sizeof(end) - 1) < 0)
        _exit(126);
    _exit(127);
}

static void child_run(const struct start *s)
{
    static char *const argv[] = { PROGRAM,
                                  "--chardev",
                                  "socket,id=qmp,fd=3",
                                  "--monitor",
                                  "chardev=qmp",
                                  "--nbd-server",
                                  "addr.type=fd,addr.str=4,max-connections=1",
                                  NULL };
    const int from[] = { s->null_fd, s->said_fd,    s->said_fd, s->qmp_fd,
                         s->door_fd, s->overlay_fd, s->rules_fd };
    int spare[ARRAY_SIZE(from)];
    sigset_t none;

    /* Out of the way of what they become, first. */
    for (unsigned i = 0; i < ARRAY_SIZE(from); i++)
        spare[i] = from[i] < 0 ? -1 : fcntl(from[i], F_DUPFD_CLOEXEC, FD_SPARE);
    for (int i = 0; i < NR_FDS; i++)
        if (spare[i] >= 0 && dup2(spare[i], i) < 0)
            _exit(126);
    if (spare[FD_OVERLAY] < 0)
        (void)close(FD_OVERLAY);
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    /* Ctrl-C on our terminal is for us. */
    child_must(setsid() >= 0, "setsid");
    child_must(prctl(PR_SET_PDEATHSIG, SIGTERM) == 0 && getppid() == s->parent, "its parent");
    child_must(store_sandbox_enter(spare[NR_FDS], s->with_uring), "confining it");
    child_must(syscall(SYS_close_range, NR_FDS, ~0u, 0) == 0, "closing descriptors");
    (void)execv(s->program, argv);
    child_must(false, "executing it");
}

/* ---- what it is given ---- */

static bool find_program(char *at, size_t bytes)
{
    const char *path = getenv("PATH");

    for (path = path ? path : "/usr/bin"; *path; path += strspn(path, ":")) {
        size_t len = strcspn(path, ":");

        (void)snprintf(at, bytes, "%.*s/" PROGRAM, (int)len, path);
        if (len && access(at, X_OK) == 0)
            return true;
        path += len;
    }
    return false;
}

/* A listening socket whose name is gone when this returns; *at is the way to it. */
static int make_door(int *at)
{
    const char *tmp = getenv("XDG_RUNTIME_DIR");
    struct sockaddr_un name = { .sun_family = AF_UNIX };
    char dir[sizeof(name.sun_path) - 8];
    int fd = -1, err;

    if (snprintf(dir, sizeof(dir), "%s/doppel-XXXXXX", tmp ? tmp : "/tmp") >= (int)sizeof(dir) ||
        !mkdtemp(dir)) {
        (void)snprintf(dir, sizeof(dir), "/tmp/doppel-XXXXXX");
        if (!mkdtemp(dir))
            return -errno;
    }
    (void)snprintf(name.sun_path, sizeof(name.sun_path), "%s/nbd", dir);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    err = fd < 0 || bind(fd, (const struct sockaddr *)&name, sizeof(name)) < 0 ||
                  listen(fd, 1) < 0 || (*at = open(name.sun_path, O_PATH | O_CLOEXEC)) < 0
              ? -errno
              : 0;
    (void)unlink(name.sun_path);
    (void)rmdir(dir);
    if (!err)
        return fd;
    if (fd >= 0)
        (void)close(fd);
    return err;
}

/* Bounded: what a child says on and on goes nowhere. */
static int make_said(void)
{
    int fd = memfd_create("said", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd >= 0 && (ftruncate(fd, SAID_BYTES) < 0 ||
                    fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)) {
        (void)close(fd);
        return -1;
    }
    return fd;
}

/* A file that never has a name, so nothing is left of it however we end. */
static int make_overlay(const struct store *d)
{
    const char *tmp = getenv("TMPDIR");
    char name[4096];
    int fd;

    tmp = tmp && *tmp ? tmp : "/var/tmp";
    fd = open(tmp, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT)) {
        (void)snprintf(name, sizeof(name), "%s/doppel-XXXXXX", tmp);
        fd = mkostemp(name, O_CLOEXEC);
        if (fd >= 0)
            (void)unlink(name);
    }
    if (fd >= 0)
        return fd;
    fd = -errno;
    log_error(
        "%s: cannot make a file in %s for what is written over '%s': %s (TMPDIR names another "
        "directory)",
        d->cfg.name, tmp, d->what, strerror(-fd));
    return fd;
}

/* ---- life ---- */

static int child_fork(struct store_child *c, const struct start *s)
{
    c->pid = fork();
    if (c->pid == 0)
        child_run(s);
    if (c->pid < 0) {
        c->pid = 0;
        return -errno;
    }
    c->pid_fd = (int)syscall(SYS_pidfd_open, c->pid, 0);
    return c->pid_fd < 0 ? -errno : 0;
}

/* c's own descriptors are made; the others are closed again, whatever happens. */
static int child_start(struct store *d, struct store_child *c)
{
    struct start s = { .overlay_fd = c->overlay_fd,
                       .with_uring = d->cfg.aio == STORE_AIO_URING,
                       .parent = getpid() };
    int pair[2] = { -1, -1 },
        writable[] = { d->cfg.readonly || d->cfg.snapshot ? -1 : d->fd, c->overlay_fd, -1 },
        err = 0;

    s.null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    writable[2] = s.null_fd; /* by which QEMU finds out whether it can lock images */
    s.rules_fd = store_sandbox_prepare(writable, ARRAY_SIZE(writable));
    s.said_fd = c->said_fd = make_said();
    s.door_fd = make_door(&c->door_fd);
    if (!find_program(s.program, sizeof(s.program))) {
        log_error("%s: " PROGRAM " is missing, which opens '%s' (qcow2 images, and snapshot=on): "
                  "as root: apt-get install qemu-system-common",
                  d->cfg.name, d->what);
        err = -ENOENT;
    } else {
        if (s.null_fd < 0 || c->said_fd < 0 || s.door_fd < 0 ||
            socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
            err = s.door_fd < 0 ? s.door_fd : -errno;
        s.qmp_fd = pair[1];
        if (!err)
            err = child_fork(c, &s);
        if (err)
            log_error("%s: cannot start " PROGRAM ": %s", d->cfg.name, strerror(-err));
    }
    for (unsigned i = 0; i < 4; i++) {
        int fds[] = { s.rules_fd, s.null_fd, s.door_fd, pair[1] };

        if (fds[i] >= 0)
            (void)close(fds[i]);
    }
    c->qmp.fd = pair[0];
    return err;
}

int store_child_start(struct store *d, bool with_overlay)
{
    struct store_child *c = calloc(1, sizeof(*c));
    char why[512];
    int err;

    if (!c) {
        log_error("%s: out of memory", d->cfg.name);
        return -ENOMEM;
    }
    if (sandbox_is_settled()) {
        log_error("%s: '%s' needs another process (qcow2), which a VM that runs in its sandbox "
                  "cannot start: name it before the start, or run with --sandbox off",
                  d->cfg.name, d->what);
        free(c);
        return -EPERM;
    }
    d->child = c;
    c->pid_fd = c->said_fd = c->door_fd = c->overlay_fd = c->qmp.fd = -1;
    if (with_overlay) {
        c->overlay_fd = make_overlay(d);
        if (c->overlay_fd < 0)
            return c->overlay_fd;
    }
    err = child_start(d, c);
    if (err)
        return err;
    err = qmp_open(&c->qmp, c->qmp.fd);
    if (err)
        log_error("%s: " PROGRAM " for '%s' does not start: %s", d->cfg.name, d->what,
                  store_child_why(c, why, sizeof(why)));
    return err;
}

int store_child_connect(const struct store_child *c)
{
    struct sockaddr_un name = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), err;

    if (fd < 0)
        return -errno;
    (void)snprintf(name.sun_path, sizeof(name.sun_path), "/proc/self/fd/%d", c->door_fd);
    if (connect(fd, (const struct sockaddr *)&name, sizeof(name)) == 0)
        return fd;
    err = -errno;
    (void)close(fd);
    return err;
}

static bool child_ended(const struct store_child *c, int limit_ms)
{
    struct pollfd pfd = { .fd = c->pid_fd, .events = POLLIN };
    int n;

    do
        n = poll(&pfd, 1, limit_ms);
    while (n < 0 && errno == EINTR);
    return n > 0;
}

const char *store_child_why(struct store_child *c, char *buf, size_t bytes)
{
    char said[SAID_BYTES + 1] = "";
    siginfo_t how = { 0 };

    if (c->qmp.fd >= 0 && *c->qmp.why && strcmp(c->qmp.why, "it ended") != 0)
        return c->qmp.why;
    if (!child_ended(c, DEATH_MS))
        return "it hung up";
    if (pread(c->said_fd, said, SAID_BYTES, 0) < 0)
        said[0] = 0;
    said[strcspn(said, "\n")] = 0;
    /* Left as it is, for store_child_end(). */
    if (waitid(P_PID, (id_t)c->pid, &how, WEXITED | WNOWAIT) < 0)
        return "it ended";
    (void)snprintf(buf, bytes, "it %s %d%s%.300s",
                   how.si_code == CLD_EXITED ? "ended with status" : "was killed by signal",
                   how.si_status, *said ? ": " : "", said);
    return buf;
}

void store_child_end(struct store *d, enum child_end how)
{
    struct store_child *c = d->child;

    if (!c)
        return;
    if (c->pid && c->pid_fd >= 0) {
        bool asked = how == CHILD_QUIT && qmp_do(&c->qmp, "quit", NULL, NULL) == 0;

        if (asked && !child_ended(c, END_MS))
            log_error("%s: " PROGRAM " does not end: '%s' may have lost what was not flushed",
                      d->cfg.name, d->what);
    }
    if (c->pid) {
        (void)kill(c->pid, SIGKILL); /* not waited for yet, so nobody else has its number */
        (void)waitpid(c->pid, NULL, 0);
    }
    qmp_close(&c->qmp);
    for (unsigned i = 0; i < 4; i++) {
        int fds[] = { c->pid_fd, c->said_fd, c->door_fd, c->overlay_fd };

        if (fds[i] >= 0)
            (void)close(fds[i]);
    }
    free(c);
    d->child = NULL;
}
