/* SPDX-License-Identifier: Apache-2.0 */
/* What all channels share, and the channels that are simply a file descriptor, a listening socket,
 * or nothing. */
#include "backend/backend.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "backend/chan.h"
#include "lib/log.h"

#define DRAIN_VISITOR_MS 100

void chr_init(struct chr *c, const struct chr_ops *ops)
{
    *c = (struct chr){ .ops = ops };
    lock_init(&c->conn, LOCK_CHANNEL);
}

void chr_fini(struct chr *c)
{
    lock_destroy(&c->conn);
}

void chr_connect(struct chr *c, struct lock *lock, size_t (*rx)(void *arg, const uint8_t *, size_t),
                 void *arg)
{
    if (!c)
        return;
    lock_take(&c->conn);
    c->lock = lock;
    c->rx_arg = arg;
    c->rx = rx;
    c->changed = NULL;
    lock_drop(&c->conn);
    chr_accept(c);
}

bool chr_lost_output(const struct chr *c)
{
    return c && __atomic_load_n(&c->lost_output, __ATOMIC_RELAXED);
}

const char *chr_pty_name(const struct chr *c)
{
    return c ? c->pty_name : NULL;
}

void chr_watch(struct chr *c, void (*changed)(void *arg))
{
    if (!c)
        return;
    lock_take(&c->conn);
    c->changed = changed;
    lock_drop(&c->conn);
    chr_again(c);
}

struct chr *chr_open_null(void)
{
    return chan_open(&(struct chan_config){
        .name = "console",
        .in_fd = -1,
        .out_fd = -1,
        .drain_ms = DRAIN_VISITOR_MS,
        .slow = "its visitor reads too slowly",
        .visited = true,
        .keep = CHR_KEEP_LAST,
    });
}

/* ---- file and pty ---- */

struct fdchr {
    char name[256];
    char pty_name[64];
    int fd;
    int slave_fd; /* pty: kept open, so that the master never sees a hang-up */
};

static void fdchr_closed(void *arg)
{
    struct fdchr *f = arg;

    if (f->fd >= 0)
        (void)close(f->fd);
    if (f->slave_fd >= 0)
        (void)close(f->slave_fd);
    free(f);
}

static struct fdchr *fdchr_new(void)
{
    struct fdchr *f = calloc(1, sizeof(*f));

    if (!f) {
        log_error("out of memory for a channel");
        return NULL;
    }
    f->fd = f->slave_fd = -1;
    return f;
}

struct chr *chr_open_file(const char *path)
{
    struct fdchr *f = fdchr_new();

    if (!f)
        return NULL;
    (void)snprintf(f->name, sizeof(f->name), "output to '%s'", path);
    f->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0666);
    if (f->fd < 0) {
        log_error("cannot create '%s' for the guest's output: %s", path, strerror(errno));
        fdchr_closed(f);
        return NULL;
    }
    return chan_open(&(struct chan_config){
        .name = f->name,
        .in_fd = -1,
        .out_fd = f->fd,
        .drain_ms = 3000,
        .slow = "it cannot be written as fast as the guest writes",
        .visited = true,
        .keep = CHR_KEEP_LAST,
        .closed = fdchr_closed,
        .arg = f,
    });
}

/* The slave must not echo or translate before somebody attaches and sets it up. */
static int pty_open_pair(struct fdchr *f)
{
    struct termios t;

    f->fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (f->fd < 0 || grantpt(f->fd) < 0 || unlockpt(f->fd) < 0 ||
        ptsname_r(f->fd, f->pty_name, sizeof(f->pty_name)) != 0)
        return -errno;
    f->slave_fd = open(f->pty_name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (f->slave_fd < 0 || tcgetattr(f->slave_fd, &t) < 0)
        return -errno;
    cfmakeraw(&t);
    return tcsetattr(f->slave_fd, TCSANOW, &t) < 0 ? -errno : 0;
}

struct chr *chr_open_pty(const char *what)
{
    struct fdchr *f = fdchr_new();
    struct chr *c;
    int err;

    if (!f)
        return NULL;
    err = pty_open_pair(f);
    if (err) {
        log_error("cannot make a pseudo-terminal: %s", strerror(-err));
        fdchr_closed(f);
        return NULL;
    }
    (void)snprintf(f->name, sizeof(f->name), "%s", f->pty_name);
    c = chan_open(&(struct chan_config){
        .name = f->name,
        .in_fd = f->fd,
        .out_fd = f->fd,
        .drain_ms = 100, /* what nobody reads now goes with the terminal */
        .slow = "nobody reads it",
        .closed = fdchr_closed,
        .arg = f,
    });
    if (c) {
        c->pty_name = f->pty_name;
        log_info("%s is %s", what, f->pty_name);
    }
    return c;
}

/* ---- socket ---- */

struct sockchr {
    char name[sizeof("socket ''") + CHR_PATH_MAX];
    struct sockaddr_un addr;
    struct unix_listener listener;
};

static void sockchr_closed(void *arg)
{
    struct sockchr *s = arg;

    unix_unlisten(&s->listener, &s->addr);
    free(s);
}

/* 0 or -errno; -EADDRINUSE: somebody listens there. */
static int sockchr_listen(struct sockchr *s)
{
    int fd = unix_connect(&s->addr, SOCK_STREAM);

    /* EAGAIN: it does, but has no time now. */
    if (fd >= 0 || fd == -EAGAIN) {
        if (fd >= 0)
            (void)close(fd);
        return -EADDRINUSE;
    }
    return unix_listen(&s->listener, &s->addr, SOCK_STREAM, 1);
}

struct chr *chr_open_socket(const char *path, enum chr_keep keep)
{
    struct sockchr *s = calloc(1, sizeof(*s));
    int err;

    if (!s) {
        log_error("out of memory for a channel");
        return NULL;
    }
    s->addr.sun_family = AF_UNIX;
    s->listener.fd = -1;
    (void)snprintf(s->name, sizeof(s->name), "socket '%s'", path);
    if ((size_t)snprintf(s->addr.sun_path, sizeof(s->addr.sun_path), "%s", path) >=
        sizeof(s->addr.sun_path))
        err = -ENAMETOOLONG;
    else
        err = sockchr_listen(s);
    if (err) {
        log_error("cannot listen on '%s': %s", path,
                  err == -EADDRINUSE ? "another program does" : strerror(-err));
        sockchr_closed(s);
        return NULL;
    }
    return chan_open(&(struct chan_config){
        .name = s->name,
        .in_fd = -1,
        .out_fd = -1,
        .drain_ms = DRAIN_VISITOR_MS,
        .slow = "its client reads too slowly",
        .visited = true,
        .keep = keep,
        .needs_visitor = true,
        .listener = &s->listener,
        .closed = sockchr_closed,
        .arg = s,
    });
}
