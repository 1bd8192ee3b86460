/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A cable between two VMs: a Unix socket of type SOCK_SEQPACKET, each message a struct net_hdr and
 * a frame, so that neither side computes checksums or cuts segments for the other.
 *
 * The first VM makes the socket and waits, the second connects; when one ends, the other's link is
 * down until a new one comes. Who finds nobody listening makes the socket anew, so a file that a
 * crash left behind is in nobody's way.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backend/net_priv.h"
#include "backend/unix.h"
#include "lib/log.h"

/* The first message of both sides. */
static const uint8_t hello[] = { 'd', 'o', 'p', 'p', 'e', 'l', '-', 'n', 'e', 't', ' ', '1' };

struct net_socket {
    struct net net;
    struct net_fd pair; /* aux_fd: the listener's */
    struct sockaddr_un addr;
    struct unix_listener listener;
    bool told_taken;
};

static struct net_socket *socket_of(struct net *net)
{
    return container_of(net, struct net_socket, net);
}

/* ---- meeting ---- */

/* A connection is there. The link is up when the other one's first message has come. */
static void socket_met(struct net_socket *s, int fd)
{
    int bytes = 1 << 20;

    /* Room for some long frames; if the host's limit is lower, for fewer. */
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
    if (send(fd, hello, sizeof(hello), MSG_NOSIGNAL) != (ssize_t)sizeof(hello)) {
        (void)close(fd);
        return;
    }
    s->pair.fd = fd;
    s->pair.awaits_hello = true;
}

/* 0, or -errno: -ECONNREFUSED or -ENOENT if nobody listens there. */
static int socket_connect(struct net_socket *s)
{
    int fd = unix_connect(&s->addr, SOCK_SEQPACKET);

    if (fd < 0)
        return fd;
    socket_met(s, fd);
    return 0;
}

static void socket_unlisten(struct net_socket *s)
{
    unix_unlisten(&s->listener, &s->addr);
    s->pair.aux_fd = -1;
}

static int socket_listen(struct net_socket *s)
{
    int err = unix_listen(&s->listener, &s->addr, SOCK_SEQPACKET, 1);

    if (!err)
        s->pair.aux_fd = s->listener.fd;
    return err;
}

/* 0: connected or listening. */
static int socket_try(struct net_socket *s)
{
    int err;

    if (s->pair.aux_fd >= 0) {
        /* Two that start at the same time may each have unlinked the other's file. */
        if (unix_still_ours(&s->listener, &s->addr))
            return 0;
        socket_unlisten(s);
    }
    err = socket_connect(s);
    if (err != -ECONNREFUSED && err != -ENOENT)
        return err;
    err = socket_listen(s);
    return err == -EADDRINUSE ? 0 : err; /* the other one was faster: next time */
}

static void socket_meet(struct net_fd *f)
{
    int err = socket_try(socket_of(f->net));

    if (err && !f->told) {
        f->told = true;
        log_warn("%s: cannot meet the other VM: %s; trying again", f->net->name, strerror(-err));
    }
}

static void socket_aux(struct net_fd *f)
{
    struct net_socket *s = socket_of(f->net);
    int fd = accept4(f->aux_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd < 0)
        return; /* it is gone again */
    if (f->fd < 0) {
        socket_met(s, fd);
        return;
    }
    (void)close(fd);
    if (!s->told_taken)
        log_warn("%s: a third VM wants this link, which has two ends; it is turned away",
                 f->net->name);
    s->told_taken = true;
}

static bool socket_hello(struct net_fd *f, const uint8_t *msg, size_t bytes)
{
    bool ours = bytes == sizeof(hello) && !memcmp(msg, hello, sizeof(hello));

    if (ours)
        log_info("%s: the other VM is there", f->net->name);
    return ours;
}

static void socket_lost(struct net_fd *f, int err)
{
    struct net_socket *s = socket_of(f->net);

    if (!f->awaits_hello && err != EPROTO) {
        net_set_link(f->net, false);
        log_info("%s: the other VM is gone%s%s; waiting for a new one", f->net->name,
                 err ? ": " : "", err ? strerror(err) : "");
        return;
    }
    /* Turned away before a word. */
    f->awaits_hello = false;
    if (!s->told_taken)
        log_warn("%s: %s; trying again", f->net->name,
                 err == EPROTO ? "who is at the other end does not speak doppel's protocol"
                               : "the link has two ends already");
    s->told_taken = true;
}

static const struct net_fd_ops socket_fd_ops = {
    .meet = socket_meet,
    .aux = socket_aux,
    .hello = socket_hello,
    .lost = socket_lost,
};

/* ---- as a link ---- */

static int socket_start(struct net *net)
{
    return net_fd_start(&socket_of(net)->pair);
}

static void socket_stop(struct net *net)
{
    net_fd_stop(&socket_of(net)->pair);
}

static enum net_sent socket_send(struct net *net, unsigned pair, struct net_frame *f)
{
    (void)pair;
    return net_fd_send(&socket_of(net)->pair, f);
}

static void socket_kick(struct net *net, unsigned pair, unsigned what)
{
    (void)pair;
    net_wake(&socket_of(net)->pair.wake, what);
}

static int socket_kick_fd(struct net *net, unsigned pair)
{
    (void)pair;
    return net_wake_fd(&socket_of(net)->pair.wake);
}

static void socket_close(struct net *net)
{
    struct net_socket *s = socket_of(net);

    socket_unlisten(s);
    net_fd_fini(&s->pair);
    free(s);
}

static const struct net_ops socket_ops = {
    .start = socket_start,
    .stop = socket_stop,
    .send = socket_send,
    .kick = socket_kick,
    .kick_fd = socket_kick_fd,
    .close = socket_close,
};

struct net *net_open_socket(const struct net_common *c, const char *path, uint16_t mtu)
{
    struct net_socket *s;
    char what[64];
    int err;

    (void)snprintf(what, sizeof(what), "socket '%s'", path);
    s = calloc(1, sizeof(*s));
    if (!s) {
        log_error("net%u: out of memory", c->idx);
        return NULL;
    }
    net_init(&s->net, &socket_ops, c, what);
    s->net.mtu = mtu;
    s->net.tx_offloads = s->net.can_rx = NET_CSUM | NET_TSO4 | NET_TSO6 | NET_ECN;
    s->addr.sun_family = AF_UNIX;
    s->listener.fd = -1;
    err = net_fd_init(&s->pair, &s->net, 0, -1, &socket_fd_ops);
    if (strlen(path) >= sizeof(s->addr.sun_path)) {
        log_error("%s: the path is longer than a socket's can be (%zu bytes)", s->net.name,
                  sizeof(s->addr.sun_path) - 1);
        err = -ENAMETOOLONG;
    } else if (err) {
        log_error("%s: %s", s->net.name, strerror(-err));
    } else {
        (void)snprintf(s->addr.sun_path, sizeof(s->addr.sun_path), "%s", path);
        /* Here, so that a path that cannot be is an error of the start. */
        err = socket_try(s);
        if (err)
            log_error("%s: cannot connect or listen there: %s%s", s->net.name, strerror(-err),
                      err == -EPROTOTYPE ? "; it is another program's socket"
                      : err == -EEXIST   ? ", and is no socket"
                                         : "");
    }
    if (err) {
        socket_close(&s->net);
        return NULL;
    }
    return &s->net;
}
