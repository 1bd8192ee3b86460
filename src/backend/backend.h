/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where guest data really goes, as devices see it: a byte channel (serial port, debug console).
 *
 * A channel's reader thread calls rx with the machine lock held; rx takes what it can and returns
 * how many bytes; the rest is offered again after chr_accept(). Writes never block: a slow sink
 * buffers up to a bound, then drops and counts, and says so once.
 */
#ifndef BACKEND_BACKEND_H
#define BACKEND_BACKEND_H

#include "host/host.h"
#include "lib/types.h"

struct chr;

struct chr_ops {
    void (*write)(struct chr *c, const uint8_t *buf, size_t bytes);
    void (*accept)(struct chr *c); /* the device has room again */
    /* The last of it: ends input, waits until all is written or the reader takes nothing. */
    void (*flush)(struct chr *c);
    void (*close)(struct chr *c); /* flush, restore, free */
};

struct chr {
    const struct chr_ops *ops;
    size_t (*rx)(void *arg, const uint8_t *buf, size_t bytes); /* set by chr_connect */
    void *rx_arg;
    struct lock *lock; /* machine lock, taken around rx */
    struct lock conn;  /* LOCK_CHANNEL: guards the three above */
    bool lost_output;  /* see chr_lost_output() */
    const char *pty_name;
};

/* A device connects once; lock is the machine lock. With NULLs the device goes away: no rx runs
 * after the return. No locks of rank CHANNEL or above may be held. */
void chr_connect(struct chr *c, struct lock *lock, size_t (*rx)(void *arg, const uint8_t *, size_t),
                 void *arg);
static inline void chr_write(struct chr *c, const uint8_t *buf, size_t bytes)
{
    if (c)
        c->ops->write(c, buf, bytes);
}
static inline void chr_accept(struct chr *c)
{
    if (c)
        c->ops->accept(c);
}
static inline void chr_flush(struct chr *c)
{
    if (c)
        c->ops->flush(c);
}
static inline void chr_close(struct chr *c)
{
    if (c)
        c->ops->close(c);
}

/* Was output lost because standard output was closed or full? The exit status should tell. */
bool chr_lost_output(const struct chr *c);

/* Nothing in, nothing out. */
struct chr *chr_open_null(void);
/* Output to a file (created, truncated); a full disk is a warning once, the output after it is
 * dropped. NULL + message on error. */
struct chr *chr_open_file(const char *path);
/* A new pseudo-terminal; its name is reported by log_info and by chr_pty_name(). */
struct chr *chr_open_pty(void);
const char *chr_pty_name(const struct chr *c); /* NULL: not a pty */
/*
 * stdin and stdout. On a terminal: raw mode, restored by close, by exit and by fatal signals;
 * Ctrl-A is the escape: escape(arg, key) is called for the key behind it (not for Ctrl-A a, which
 * sends Ctrl-A), from the reader's thread without locks. Not a terminal: bytes as they come; end of
 * file ends input only.
 */
struct chr *chr_open_stdio(void (*escape)(void *arg, int key), void *arg);
/* From now on what is typed goes to take(), not to the device; NULL: back to the device. The escape
 * key works all the same. Only for the channel of chr_open_stdio(), only from escape() or take().
 */
void chr_stdio_divert(struct chr *c, void (*take)(void *arg, const uint8_t *buf, size_t bytes),
                      void *arg);
/* Async-signal-safe: put the terminal back as it was. Called by fatal-signal handlers. */
void chr_stdio_restore(void);

#endif
