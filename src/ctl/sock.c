/* SPDX-License-Identifier: Apache-2.0 */
/* The few things the control socket and the gdb stub need of sockets. */
#include "ctl/sock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG      8
#define SEND_LIMIT_S 1

static int sock_fail(int fd)
{
    int err = -errno;

    if (fd >= 0)
        (void)close(fd);
    return err;
}

static int sock_unix_addr(struct sockaddr_un *sa, const char *path)
{
    *sa = (struct sockaddr_un){ .sun_family = AF_UNIX };
    if (strlen(path) >= sizeof(sa->sun_path))
        return -ENAMETOOLONG;
    memcpy(sa->sun_path, path, strlen(path));
    return 0;
}

int sock_listen_unix(const char *path)
{
    struct sockaddr_un sa;
    int err = sock_unix_addr(&sa, path), fd;

    if (err)
        return err;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 || listen(fd, BACKLOG) < 0)
        return sock_fail(fd);
    return fd;
}

int sock_listen_tcp(uint16_t port)
{
    struct sockaddr_in sa = { .sin_family = AF_INET,
                              .sin_port = htons(port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
        bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 || listen(fd, BACKLOG) < 0)
        return sock_fail(fd);
    return fd;
}

int sock_connect_unix(const char *path)
{
    struct sockaddr_un sa;
    int err = sock_unix_addr(&sa, path), fd;

    if (err)
        return err;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
        return sock_fail(fd);
    return fd;
}

int sock_accept(int listen_fd)
{
    struct timeval limit = { .tv_sec = SEND_LIMIT_S };
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC), on = 1;

    if (fd < 0)
        return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0)
        return sock_fail(fd);
    /* Small answers at once; a Unix socket has no such option and needs none. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    return fd;
}

int sock_send(int fd, const void *buf, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n = send(fd, (const char *)buf + done, bytes - done, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        done += (size_t)n;
    }
    return 0;
}

#define FDS_MAX 4
/* Room for descriptors, as the kernel wants it aligned (cmsg(3)). */
union sock_control {
    struct cmsghdr head;
    char bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
};

int sock_send_fds(int fd, const void *buf, size_t bytes, const int *fds, unsigned nr)
{
    struct iovec iov = { (void *)buf, bytes };
    union sock_control c = { .bytes = { 0 } };
    struct msghdr m = { .msg_iov = &iov,
                        .msg_iovlen = 1,
                        .msg_control = c.bytes,
                        .msg_controllen = CMSG_SPACE(nr * sizeof(int)) };
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    ssize_t n;

    BUG_ON(!nr || nr > FDS_MAX);
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    h->cmsg_len = CMSG_LEN(nr * sizeof(int));
    memcpy(CMSG_DATA(h), fds, nr * sizeof(int));
    do
        n = sendmsg(fd, &m, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : (int)n;
}

int sock_receive_fds(int fd, void *buf, size_t bytes, int *fds, unsigned max, unsigned *nr)
{
    struct iovec iov = { buf, bytes };
    union sock_control c;
    struct msghdr m = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = c.bytes, .msg_controllen = sizeof(c)
    };
    ssize_t n = recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

    *nr = 0;
    if (n < 0)
        return -errno;
    for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
        size_t here = h->cmsg_level == SOL_SOCKET && h->cmsg_type == SCM_RIGHTS
                          ? (h->cmsg_len - CMSG_LEN(0)) / sizeof(int)
                          : 0;

        for (size_t i = 0; i < here; i++) {
            int one;

            memcpy(&one, CMSG_DATA(h) + i * sizeof(int), sizeof(one));
            if (*nr < max)
                fds[(*nr)++] = one;
            else
                (void)close(one);
        }
    }
    return (int)n;
}

bool sock_peer_is_us(int fd)
{
    struct ucred cred;
    socklen_t bytes = sizeof(cred);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &bytes) < 0)
        return false;
    return cred.uid == geteuid() || cred.uid == 0;
}
