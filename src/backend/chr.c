/* SPDX-License-Identifier: Apache-2.0 */
/* What all channels share, the null channel, and the channels that are simply a file descriptor. */
#include "backend/backend.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "backend/chan.h"
#include "lib/log.h"

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

/* ---- null ---- */

static void null_write(struct chr *c, const uint8_t *buf, size_t bytes)
{
    (void)c, (void)buf, (void)bytes;
}

static void null_accept(struct chr *c)
{
    (void)c;
}

static void null_close(struct chr *c)
{
    chr_fini(c);
    free(c);
}

static const struct chr_ops null_ops = {
    .write = null_write,
    .accept = null_accept,
    .flush = null_accept,
    .close = null_close,
};

struct chr *chr_open_null(void)
{
    struct chr *c = calloc(1, sizeof(*c));

    if (!c)
        log_error("out of memory for a channel");
    else
        chr_init(c, &null_ops);
    return c;
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

struct chr *chr_open_pty(void)
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
        log_info("serial port is %s", f->pty_name);
    }
    return c;
}
