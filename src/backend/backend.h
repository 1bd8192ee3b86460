/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where guest data really goes, as devices see it: a byte channel (serial port, debug console, port
 * of a virtio console).
 *
 * A channel's reader thread calls rx with the machine lock held; rx takes what it can and returns
 * how many bytes; the rest is offered again after chr_accept(). Writes never block: a slow sink
 * buffers up to a bound, then drops and counts, and says so once. A device that can make its guest
 * wait uses chr_offer() instead.
 *
 * A channel that has no terminal of its own takes a visitor: a client of its socket, or a `doppel
 * console`. One at a time; it may go and another come.
 */
#ifndef BACKEND_BACKEND_H
#define BACKEND_BACKEND_H

#include "host/host.h"
#include "lib/types.h"

struct chr;

struct chr_ops {
    void (*write)(struct chr *c, const uint8_t *buf, size_t bytes);
    void (*accept)(struct chr *c); /* the device has room again */
    /* See the functions of the same name. */
    size_t (*offer)(struct chr *c, const uint8_t *buf, size_t bytes);
    bool (*attended)(struct chr *c);
    void (*again)(struct chr *c);
    int (*visit)(struct chr *c, int fd, const char *hello);
    /* The last of it: ends input, waits until all is written or the reader takes nothing. */
    void (*flush)(struct chr *c);
    void (*close)(struct chr *c); /* flush, restore, free */
};

struct chr {
    const struct chr_ops *ops;
    size_t (*rx)(void *arg, const uint8_t *buf, size_t bytes); /* set by chr_connect */
    void (*changed)(void *arg);                                /* set by chr_watch; optional */
    void *rx_arg;
    struct lock *lock; /* machine lock, taken around rx and changed */
    struct lock conn;  /* LOCK_CHANNEL: guards the four above */
    bool lost_output;  /* see chr_lost_output() */
    const char *pty_name;
};

/* A device connects once; lock is the machine lock. With NULLs the device goes away: no rx runs
 * after the return. No locks of rank CHANNEL or above may be held. */
void chr_connect(struct chr *c, struct lock *lock, size_t (*rx)(void *arg, const uint8_t *, size_t),
                 void *arg);
/*
 * After chr_connect(): changed(arg) is called as rx is, when somebody comes or goes (see
 * chr_attended()), when there is room again after chr_offer() did not take all, and once after
 * chr_again().
 */
void chr_watch(struct chr *c, void (*changed)(void *arg));
static inline void chr_write(struct chr *c, const uint8_t *buf, size_t bytes)
{
    if (c)
        c->ops->write(c, buf, bytes);
}
/* The same, but takes only what there is room for, and returns how much that is. What nobody would
 * get is taken (and dropped) while nobody is there. */
static inline size_t chr_offer(struct chr *c, const uint8_t *buf, size_t bytes)
{
    return c ? c->ops->offer(c, buf, bytes) : bytes;
}
/* Is there anybody at the other end? Only a socket may have nobody. */
static inline bool chr_attended(struct chr *c)
{
    return c && c->ops->attended(c);
}
static inline void chr_again(struct chr *c)
{
    if (c)
        c->ops->again(c);
}
/*
 * A visitor: fd, a stream socket, is the channel's from now on, if this returns 0. It is sent
 * `hello` (a constant, or NULL) before anything else. -EBUSY: there is one already; -EAGAIN: which
 * is about to go; -EOPNOTSUPP: this channel has a terminal or a pipe.
 */
static inline int chr_visit(struct chr *c, int fd, const char *hello)
{
    return c->ops->visit(c, fd, hello);
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

/* Nothing in, nothing out, but for a visitor. */
struct chr *chr_open_null(void);
#define CHR_PATH_MAX 107 /* of a Unix socket: what struct sockaddr_un holds */
/*
 * A Unix socket of that name that is listened on. Clients come and go, one at a time; with
 * CHR_KEEP_LAST the next one gets the last 64 KiB of what was written while there was none, else
 * that is dropped. NULL + message on error.
 */
enum chr_keep { CHR_KEEP_NOTHING, CHR_KEEP_LAST };
struct chr *chr_open_socket(const char *path, enum chr_keep keep);
/* Output to a file (created, truncated); a full disk is a warning once, the output after it is
 * dropped. NULL + message on error. */
struct chr *chr_open_file(const char *path);
/* A new pseudo-terminal; its name is reported by log_info ("WHAT is /dev/pts/1") and by
 * chr_pty_name(). */
struct chr *chr_open_pty(const char *what);
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
/* How large the terminal is on standard input; false: it is none, or does not know. */
bool chr_stdio_size(uint16_t *cols, uint16_t *rows);
/* Async-signal-safe: put the terminal back as it was. Called by fatal-signal handlers. */
void chr_stdio_restore(void);

#endif
