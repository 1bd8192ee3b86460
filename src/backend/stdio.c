/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The channel on standard input and output, and the escape key on it. The terminal's modes are
 * term.c's affair.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/backend.h"
#include "backend/chan.h"
#include "backend/term.h"
#include "lib/log.h"

#define CTRL_A 0x01

struct stdiochr {
    void (*escape)(void *arg, int key);
    void *arg;
    void (*take)(void *arg, const uint8_t *buf, size_t bytes);
    void *take_arg;
    bool raw;     /* we hold the terminal */
    bool escaped; /* Ctrl-A was the last key */
    int in_fd, out_fd;
};

static void stdio_key(struct stdiochr *s, uint8_t key, uint8_t *buf, size_t *nr)
{
    if (s->take)
        s->take(s->take_arg, &key, 1);
    else
        buf[(*nr)++] = key;
}

/* Takes Ctrl-A and the key behind it out of what was typed. */
static size_t stdio_filter(void *arg, uint8_t *buf, size_t bytes)
{
    struct stdiochr *s = arg;
    size_t nr = 0;

    for (size_t i = 0; i < bytes; i++) {
        uint8_t key = buf[i];

        if (!s->escaped && key != CTRL_A) {
            stdio_key(s, key, buf, &nr);
        } else if (!s->escaped) {
            s->escaped = true;
        } else {
            s->escaped = false;
            if (key == 'a' || key == CTRL_A)
                stdio_key(s, CTRL_A, buf, &nr);
            else if (s->escape)
                s->escape(s->arg, key);
        }
    }
    return nr;
}

static void stdio_closed(void *arg)
{
    struct stdiochr *s = arg;

    if (s->raw)
        term_release();
    if (s->in_fd >= 0)
        (void)close(s->in_fd);
    if (s->out_fd >= 0)
        (void)close(s->out_fd);
    free(s);
}

/*
 * Our own descriptor of standard output. For a terminal or a pipe it is a new open file, so that it
 * can be non-blocking without making it so for everybody who shares the old one (our shell).
 */
static int stdio_open_out(void)
{
    struct stat st;
    int fd;

    if (fstat(STDOUT_FILENO, &st) == 0 && (S_ISFIFO(st.st_mode) || isatty(STDOUT_FILENO))) {
        fd = open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (fd >= 0)
            return fd;
    }
    return fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
}

struct chr *chr_open_stdio(void (*escape)(void *arg, int key), void *arg)
{
    struct stdiochr *s = calloc(1, sizeof(*s));
    bool tty = isatty(STDIN_FILENO);

    if (!s) {
        log_error("out of memory for a channel");
        return NULL;
    }
    *s = (struct stdiochr){ .escape = escape, .arg = arg };
    /* A closed standard input is one at its end. */
    s->in_fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
    s->out_fd = stdio_open_out();
    if (s->out_fd < 0) {
        log_error("standard output cannot be used for the guest's console: %s; --serial none or "
                  "file=F needs none",
                  strerror(errno));
        stdio_closed(s);
        return NULL;
    }
    if (tty) {
        int err = term_acquire(s->in_fd);

        if (err) {
            log_error("cannot set up the terminal: %s", strerror(-err));
            stdio_closed(s);
            return NULL;
        }
        s->raw = true;
    }
    return chan_open(&(struct chan_config){
        .name = "standard output",
        .in_fd = s->in_fd,
        .out_fd = s->out_fd,
        .in_is_tty = tty,
        .out_counts = true,
        .drain_ms = 3000,
        .slow = "it is read too slowly",
        /* What a script pipes in may contain any byte. */
        .filter = tty ? stdio_filter : NULL,
        .closed = stdio_closed,
        .arg = s,
    });
}

void chr_stdio_divert(struct chr *c, void (*take)(void *arg, const uint8_t *buf, size_t bytes),
                      void *arg)
{
    struct stdiochr *s = chan_arg(c);

    s->take = take;
    s->take_arg = arg;
}

bool chr_stdio_size(uint16_t *cols, uint16_t *rows)
{
    struct winsize size;

    if (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) < 0 || !size.ws_col || !size.ws_row)
        return false;
    *cols = size.ws_col;
    *rows = size.ws_row;
    return true;
}

void chr_stdio_restore(void)
{
    term_restore();
}
