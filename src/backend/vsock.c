/* SPDX-License-Identifier: Apache-2.0 */
/* Unix sockets behind a vsock device: see vsock.h. */
#include "backend/vsock.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backend/unix.h"
#include "lib/log.h"

#define HELLO_BYTES 32 /* of the line "CONNECT PORT\n" */
#define BACKLOG     64
#define RETRY_MS    100 /* when the host has no descriptors left */

struct stream {
    int fd; /* -1: free */
    unsigned want;
    bool greeting; /* its first line has not come; not the device's yet */
    unsigned nr_line;
    char line[HELLO_BYTES];
};

struct vsock_unix {
    struct vsock v;
    struct sockaddr_un addr;
    struct unix_listener listener;
    int wake_fd; /* eventfd */
    struct thread thread;
    _Atomic bool quit;

    /* The thread's own. */
    struct stream streams[VSOCK_STREAMS_MAX];
    bool no_fds; /* accept() failed: the listener is left alone for a while */
    bool told_full, told_line;
};

static struct vsock_unix *unix_of(struct vsock *v)
{
    return container_of(v, struct vsock_unix, v);
}

static void vsock_unix_kick(struct vsock *v)
{
    uint64_t one = 1;

    /* Fails only if the counter is full, and then the thread wakes up anyway. */
    if (write(unix_of(v)->wake_fd, &one, sizeof(one)) < 0)
        return;
}

static int vsock_unix_kick_fd(struct vsock *v)
{
    return unix_of(v)->wake_fd;
}

/* ---- streams, for the device ---- */

/* Owns fd. -ENOSPC: all are in use. */
static int stream_add(struct vsock_unix *u, int fd, bool greeting)
{
    for (unsigned i = 0; i < VSOCK_STREAMS_MAX; i++) {
        if (u->streams[i].fd >= 0)
            continue;
        u->streams[i] = (struct stream){ .fd = fd, .greeting = greeting, .want = VSOCK_READ };
        return (int)i;
    }
    (void)close(fd);
    return -ENOSPC;
}

static void vsock_unix_drop(struct vsock *v, unsigned id)
{
    struct stream *s = &unix_of(v)->streams[id];

    (void)close(s->fd);
    s->fd = -1;
}

static int vsock_unix_connect(struct vsock *v, uint32_t port)
{
    struct vsock_unix *u = unix_of(v);
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    int fd;

    _Static_assert(sizeof(to.sun_path) > VSOCK_PATH_MAX + sizeof("_4294967295") - 1, "F_P");
    (void)snprintf(to.sun_path, sizeof(to.sun_path), "%.*s_%u", VSOCK_PATH_MAX, u->addr.sun_path,
                   port);
    fd = unix_connect(&to, SOCK_STREAM);
    return fd < 0 ? fd : stream_add(u, fd, false);
}

static long vsock_unix_read(struct vsock *v, unsigned id, void *buf, size_t bytes)
{
    ssize_t n;

    do
        n = recv(unix_of(v)->streams[id].fd, buf, bytes, 0);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static long vsock_unix_write(struct vsock *v, unsigned id, const void *buf, size_t bytes)
{
    ssize_t n;

    do
        n = send(unix_of(v)->streams[id].fd, buf, bytes, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static void vsock_unix_shut(struct vsock *v, unsigned id)
{
    /* Fails only if the other end is gone. */
    (void)shutdown(unix_of(v)->streams[id].fd, SHUT_WR);
}

static void vsock_unix_want(struct vsock *v, unsigned id, unsigned what)
{
    unix_of(v)->streams[id].want = what;
}

/* ---- programs that come ---- */

static void unix_accept(struct vsock_unix *u)
{
    int fd = accept4(u->listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd < 0) {
        u->no_fds = errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS;
        return;
    }
    if (stream_add(u, fd, true) < 0 && !u->told_full) {
        u->told_full = true;
        log_warn("vsock '%s': more than %d connections at once; further ones are turned away",
                 u->addr.sun_path, VSOCK_STREAMS_MAX);
    }
}

/* "CONNECT PORT\n", all of the line and nothing else. */
static bool parse_connect(const char *line, size_t bytes, uint32_t *port)
{
    static const char word[] = "CONNECT ";
    uint64_t val = 0;
    size_t i = sizeof(word) - 1;

    if (bytes < sizeof(word) + 1 || memcmp(line, word, i) != 0)
        return false;
    for (; i < bytes - 1; i++) {
        if (line[i] < '0' || line[i] > '9')
            return false;
        val = 10 * val + (uint64_t)(line[i] - '0');
        if (val > UINT32_MAX)
            return false;
    }
    *port = (uint32_t)val;
    return true;
}

/* Byte by byte: what is behind the line is the guest's. 1: there it is; 0: not yet; -1: never. */
static int unix_greeting(struct stream *s, uint32_t *port)
{
    while (s->nr_line < HELLO_BYTES) {
        ssize_t n = recv(s->fd, &s->line[s->nr_line], 1, 0);

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return 0;
        if (n <= 0)
            return -1;
        if (s->line[s->nr_line++] == '\n')
            return parse_connect(s->line, s->nr_line, port) ? 1 : -1;
    }
    return -1;
}

static void unix_greet(struct vsock_unix *u, unsigned id)
{
    struct stream *s = &u->streams[id];
    uint32_t port;
    int what = unix_greeting(s, &port);

    if (!what)
        return;
    s->greeting = false;
    s->want = 0;
    if (what > 0 && u->v.card->call(u->v.card_arg, id, port))
        return;
    vsock_unix_drop(&u->v, id);
    if (what < 0 && !u->told_line)
        log_warn("vsock '%s': a program did not begin with \"CONNECT PORT\"; turned away",
                 u->addr.sun_path);
    u->told_line |= what < 0;
}

/* ---- the thread ---- */

static void unix_stream_event(struct vsock_unix *u, unsigned id, short revents)
{
    unsigned what = 0;

    if (!revents || u->streams[id].fd < 0)
        return;
    if (u->streams[id].greeting) {
        unix_greet(u, id);
        return;
    }
    what |= revents & (POLLIN | POLLHUP | POLLERR) ? VSOCK_READ : 0;
    what |= revents & (POLLOUT | POLLERR) ? VSOCK_WRITE : 0;
    what |= revents & (POLLHUP | POLLERR) ? VSOCK_HUP : 0;
    u->v.card->ready(u->v.card_arg, id, what);
}

static void unix_round(struct vsock_unix *u)
{
    struct pollfd p[VSOCK_STREAMS_MAX + 2];
    uint64_t count;

    for (unsigned i = 0; i < VSOCK_STREAMS_MAX; i++) {
        const struct stream *s = &u->streams[i];
        short events =
            (short)((s->want & VSOCK_READ ? POLLIN : 0) | (s->want & VSOCK_WRITE ? POLLOUT : 0));

        p[i] = (struct pollfd){ .fd = s->want ? s->fd : -1, .events = events };
    }
    p[VSOCK_STREAMS_MAX] = (struct pollfd){ .fd = u->wake_fd, .events = POLLIN };
    p[VSOCK_STREAMS_MAX + 1] =
        (struct pollfd){ .fd = u->no_fds ? -1 : u->listener.fd, .events = POLLIN };
    if (poll(p, ARRAY_SIZE(p), u->no_fds ? RETRY_MS : -1) < 0)
        return; /* EINTR */
    u->no_fds = false;
    if (p[VSOCK_STREAMS_MAX].revents && read(u->wake_fd, &count, sizeof(count)) < 0)
        return;
    for (unsigned i = 0; i < VSOCK_STREAMS_MAX; i++)
        unix_stream_event(u, i, p[i].revents);
    if (p[VSOCK_STREAMS_MAX + 1].revents)
        unix_accept(u);
    u->v.card->work(u->v.card_arg);
}

static void *unix_main(void *arg)
{
    struct vsock_unix *u = arg;

    /* Pairs with the release in vsock_unix_stop(). */
    while (!atomic_load_explicit(&u->quit, memory_order_acquire))
        unix_round(u);
    return NULL;
}

/* ---- life ---- */

static int vsock_unix_start(struct vsock *v)
{
    return thread_start_as(&unix_of(v)->thread, HOST_VSOCK, "vsock", unix_main, unix_of(v));
}

static void vsock_unix_stop(struct vsock *v)
{
    struct vsock_unix *u = unix_of(v);

    if (!u->thread.started)
        return;
    atomic_store_explicit(&u->quit, true, memory_order_release);
    vsock_unix_kick(v);
    thread_join(&u->thread);
}

static void vsock_unix_close(struct vsock *v)
{
    struct vsock_unix *u = unix_of(v);

    for (unsigned i = 0; i < VSOCK_STREAMS_MAX; i++)
        if (u->streams[i].fd >= 0)
            vsock_unix_drop(v, i);
    unix_unlisten(&u->listener, &u->addr);
    if (u->wake_fd >= 0)
        (void)close(u->wake_fd);
    free(u);
}

static const struct vsock_ops unix_ops = {
    .start = vsock_unix_start,
    .stop = vsock_unix_stop,
    .kick = vsock_unix_kick,
    .kick_fd = vsock_unix_kick_fd,
    .connect = vsock_unix_connect,
    .read = vsock_unix_read,
    .write = vsock_unix_write,
    .shut = vsock_unix_shut,
    .want = vsock_unix_want,
    .drop = vsock_unix_drop,
    .close = vsock_unix_close,
};

/* 0 or -errno; -EADDRINUSE if somebody listens there. */
static int unix_begin(struct vsock_unix *u)
{
    int fd = unix_connect(&u->addr, SOCK_STREAM);

    if (fd >= 0)
        (void)close(fd);
    if (fd >= 0 || fd == -EPROTOTYPE || fd == -EAGAIN)
        return -EADDRINUSE;
    return unix_listen(&u->listener, &u->addr, SOCK_STREAM, BACKLOG);
}

struct vsock *vsock_open(const char *path)
{
    struct vsock_unix *u = calloc(1, sizeof(*u));
    int err;

    if (!u) {
        log_error("vsock: out of memory");
        return NULL;
    }
    u->v.ops = &unix_ops;
    host_random(&u->v.first_port, sizeof(u->v.first_port));
    u->listener.fd = -1;
    u->addr.sun_family = AF_UNIX;
    for (unsigned i = 0; i < VSOCK_STREAMS_MAX; i++)
        u->streams[i].fd = -1;
    u->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    err = u->wake_fd < 0 ? -errno : 0;
    if (!err &&
        (size_t)snprintf(u->addr.sun_path, sizeof(u->addr.sun_path), "%s", path) > VSOCK_PATH_MAX)
        err = -ENAMETOOLONG;
    if (!err)
        err = unix_begin(u);
    if (err) {
        log_error("vsock: cannot listen at '%s': %s%s", path, strerror(-err),
                  err == -EEXIST       ? ", and is no socket"
                  : err == -EADDRINUSE ? "; another program serves it"
                                       : "");
        vsock_unix_close(&u->v);
        return NULL;
    }
    return &u->v;
}
