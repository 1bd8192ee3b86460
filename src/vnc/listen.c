/* SPDX-License-Identifier: Apache-2.0 */
/* Where the VNC server listens: a TCP port of one address, or a Unix socket. */
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/log.h"
#include "vnc/priv.h"

#define BACKLOG 8

/* ---- Unix ---- */

/* May a socket be made there? Nothing, or one that nobody listens on, which is removed. */
static bool unix_is_free(const struct sockaddr_un *addr)
{
    struct stat st;
    bool lives;
    int fd;

    if (lstat(addr->sun_path, &st) < 0)
        return true; /* should it be unreachable, bind() says so */
    if (!S_ISSOCK(st.st_mode)) {
        log_error("--display vnc=unix:%s: there is something else of that name", addr->sun_path);
        return false;
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    lives = fd >= 0 && connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0;
    if (fd >= 0)
        (void)close(fd);
    if (lives)
        log_error("--display vnc=unix:%s: somebody listens there already", addr->sun_path);
    else
        (void)unlink(addr->sun_path); /* should it stay, bind() says so */
    return !lives;
}

static bool unix_listen_at(struct vnc_listener *l, const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };

    if (strlen(path) >= sizeof(addr.sun_path)) {
        log_error("--display vnc=unix:%s: a socket's path has at most %zu bytes", path,
                  sizeof(addr.sun_path) - 1);
        return false;
    }
    strcpy(addr.sun_path, path); /* NOLINT: it fits */
    if (!unix_is_free(&addr))
        return false;
    l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (l->fd < 0 || bind(l->fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0) {
        log_error("--display vnc=unix:%s: %s", path, strerror(errno));
        return false;
    }
    l->path = path;
    return true;
}

/* ---- TCP ---- */

/* The first of the host's addresses that can be had. */
static bool tcp_listen_at(struct vnc_listener *l, const char *host, const char *port)
{
    const struct addrinfo want = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV };
    struct addrinfo *all;
    int err = getaddrinfo(host, port, &want, &all), on = 1;

    if (err) {
        log_error("--display vnc: host '%s': %s", host, gai_strerror(err));
        return false;
    }
    for (const struct addrinfo *a = all; a && l->fd < 0; a = a->ai_next) {
        l->fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        /* Without it, a port would wait for the connections of the VM before. */
        if (l->fd >= 0)
            (void)setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        if (l->fd >= 0 && bind(l->fd, a->ai_addr, a->ai_addrlen) < 0) {
            err = errno;
            (void)close(l->fd);
            l->fd = -1;
        }
    }
    freeaddrinfo(all);
    if (l->fd < 0)
        log_error("--display vnc: cannot listen on port %s of %s: %s", port, host, strerror(err));
    return l->fd >= 0;
}

/* ---- both ---- */

bool vnc_listen(struct vnc_listener *l, const char *where, const char *port)
{
    bool is_unix = !strncmp(where, "unix:", 5);
    bool ok = is_unix ? unix_listen_at(l, where + 5) : tcp_listen_at(l, where, port);

    if (ok && listen(l->fd, BACKLOG) == 0)
        return true;
    if (ok)
        log_error("--display vnc: %s: %s", where, strerror(errno));
    vnc_unlisten(l);
    return false;
}

int vnc_accept(const struct vnc_listener *l)
{
    return accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
}

void vnc_unlisten(struct vnc_listener *l)
{
    if (l->path)
        (void)unlink(l->path); /* it may be gone */
    if (l->fd >= 0)
        (void)close(l->fd);
    *l = (struct vnc_listener){ .fd = -1 };
}
