/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control socket of one VM: a thread that takes JSON lines from a few clients and answers each
 * with one line. What a request does is in answer.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ctl/ctl.h"
#include "ctl/sock.h"
#include "lib/log.h"

#define NR_CLIENTS 8
#define LINE_BYTES 4096

struct ctl_client {
    int fd;             /* -1: free */
    struct ctl_fds fds; /* that came with the line that is being read */
    size_t nr;
    char line[LINE_BYTES];
};

struct ctl {
    struct vm *vm;
    char path[128];
    int listen_fd, quit_fd;
    struct thread thread;
    struct ctl_client clients[NR_CLIENTS]; /* the thread's */
};

static void ctl_drop_fds(struct ctl_client *cl)
{
    for (unsigned i = 0; i < cl->fds.nr; i++)
        (void)close(cl->fds.fd[i]);
    cl->fds.nr = 0;
}

static void ctl_drop(struct ctl_client *cl)
{
    ctl_drop_fds(cl);
    (void)close(cl->fd);
    cl->fd = -1;
    cl->nr = 0;
}

static void ctl_welcome(struct ctl *c)
{
    int fd = sock_accept(c->listen_fd);

    if (fd < 0)
        return;
    for (unsigned i = 0; i < NR_CLIENTS && sock_peer_is_us(fd); i++) {
        if (c->clients[i].fd >= 0)
            continue;
        c->clients[i].fd = fd;
        return;
    }
    (void)close(fd); /* a stranger, or one too many */
}

/* Answers the complete lines in the buffer. False: the client goes. */
static bool ctl_work_off(struct ctl *c, struct ctl_client *cl)
{
    char *end;

    while ((end = memchr(cl->line, '\n', cl->nr))) {
        size_t bytes = (size_t)(end - cl->line);
        char *answer = NULL;
        int err;

        if (!ctl_answer_console(c->vm, cl->line, bytes, &cl->fd, &answer))
            answer = ctl_answer(c->vm, cl->line, bytes, &cl->fds);
        ctl_drop_fds(cl);
        if (cl->fd < 0) { /* no longer a client of ours */
            cl->nr = 0;
            return true;
        }
        err = answer ? sock_send(cl->fd, answer, strlen(answer)) : -ENOMEM;
        free(answer);
        if (err || sock_send(cl->fd, "\n", 1) < 0)
            return false;
        cl->nr -= bytes + 1;
        memmove(cl->line, end + 1, cl->nr);
    }
    return cl->nr < LINE_BYTES; /* a line that does not end is none of ours */
}

static void ctl_hear(struct ctl *c, struct ctl_client *cl)
{
    unsigned nr;
    int n = sock_receive_fds(cl->fd, cl->line + cl->nr, LINE_BYTES - cl->nr,
                             cl->fds.fd + cl->fds.nr, CTL_FDS_MAX - cl->fds.nr, &nr);

    cl->fds.nr += nr;
    if (n == -EINTR || n == -EAGAIN)
        return;
    if (n <= 0) {
        ctl_drop(cl);
        return;
    }
    cl->nr += (size_t)n;
    if (!ctl_work_off(c, cl))
        ctl_drop(cl);
}

static void *ctl_main(void *arg)
{
    struct ctl *c = arg;

    for (;;) {
        struct pollfd p[2 + NR_CLIENTS] = { { .fd = c->quit_fd, .events = POLLIN },
                                            { .fd = c->listen_fd, .events = POLLIN } };

        for (unsigned i = 0; i < NR_CLIENTS; i++)
            p[2 + i] = (struct pollfd){ .fd = c->clients[i].fd, .events = POLLIN };
        if (poll(p, ARRAY_SIZE(p), -1) < 0)
            continue;
        if (p[0].revents)
            return NULL;
        for (unsigned i = 0; i < NR_CLIENTS; i++)
            if (p[2 + i].revents)
                ctl_hear(c, &c->clients[i]);
        if (p[1].revents)
            ctl_welcome(c);
    }
}

/* ---- life ---- */

/* Binds the path; what a dead VM left there goes away. The caller holds the directory's lock. */
static int ctl_bind(const char *path)
{
    int fd = sock_listen_unix(path), probe;

    if (fd != -EADDRINUSE)
        return fd;
    probe = sock_connect_unix(path);
    if (probe >= 0) {
        (void)close(probe);
        return -EEXIST;
    }
    if (probe != -ECONNREFUSED)
        return probe;
    if (unlink(path) < 0)
        return -errno;
    return sock_listen_unix(path);
}

static int ctl_take_name(struct ctl *c, const char *dir)
{
    int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), err;

    if (dir_fd < 0)
        return -errno;
    /* Two that start at the same time must not each find the other's socket stale. */
    if (flock(dir_fd, LOCK_EX) < 0) {
        err = -errno;
    } else {
        err = ctl_bind(c->path);
        if (err >= 0)
            c->listen_fd = err;
    }
    (void)close(dir_fd);
    return err < 0 ? err : 0;
}

static void ctl_free(struct ctl *c)
{
    if (c->listen_fd >= 0) {
        (void)unlink(c->path);
        (void)close(c->listen_fd);
    }
    if (c->quit_fd >= 0)
        (void)close(c->quit_fd);
    for (unsigned i = 0; i < NR_CLIENTS; i++)
        if (c->clients[i].fd >= 0)
            ctl_drop(&c->clients[i]);
    free(c);
}

int ctl_open(const char *name, struct ctl **out)
{
    struct ctl *c = calloc(1, sizeof(*c));
    char dir[96];
    int err, n;

    if (!c)
        return -ENOMEM;
    c->listen_fd = c->quit_fd = -1;
    for (unsigned i = 0; i < NR_CLIENTS; i++)
        c->clients[i].fd = -1;
    if (!ctl_dir(dir, sizeof(dir), true)) {
        ctl_free(c);
        return -ENOENT;
    }
    n = snprintf(c->path, sizeof(c->path), "%s/%s.sock", dir, name);
    err = n < 0 || (size_t)n >= sizeof(c->path) ? -ENAMETOOLONG : ctl_take_name(c, dir);
    if (err) {
        if (err == -EEXIST)
            log_error("a VM named '%s' is running already (%s); choose another --name", name,
                      c->path);
        else
            log_error("cannot make the control socket '%s': %s", c->path, strerror(-err));
        ctl_free(c);
        return err;
    }
    *out = c;
    return 0;
}

int ctl_serve(struct ctl *c, struct vm *vm)
{
    int err;

    c->vm = vm;
    c->quit_fd = eventfd(0, EFD_CLOEXEC);
    err = c->quit_fd < 0 ? -errno : thread_start_as(&c->thread, HOST_CONTROL, "ctl", ctl_main, c);
    if (err)
        log_error("cannot serve the control socket: %s", strerror(-err));
    return err;
}

void ctl_close(struct ctl *c)
{
    if (!c)
        return;
    if (c->thread.started) {
        BUG_ON(eventfd_write(c->quit_fd, 1) < 0);
        thread_join(&c->thread);
    }
    ctl_free(c);
}
