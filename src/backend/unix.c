/* SPDX-License-Identifier: Apache-2.0 */
/* Unix sockets of the network cable and of vsock: see unix.h. */
#include "backend/unix.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

static int unix_new(int type)
{
    int fd = socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    return fd < 0 ? -errno : fd;
}

int unix_connect(const struct sockaddr_un *addr, int type)
{
    int fd = unix_new(type), err;

    if (fd < 0)
        return fd;
    if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0) {
        err = -errno;
        (void)close(fd);
        return err;
    }
    return fd;
}

int unix_listen(struct unix_listener *l, const struct sockaddr_un *addr, int type, int backlog)
{
    bool there;
    struct stat old;
    int fd, err;

    there = !lstat(addr->sun_path, &old);
    if (there && !S_ISSOCK(old.st_mode))
        return -EEXIST;
    fd = unix_new(type);
    if (fd < 0)
        return fd;
    if (there)
        (void)unlink(addr->sun_path);
    /* The file's mode is the descriptor's: only this user's programs. */
    if (fchmod(fd, 0600) < 0 || bind(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 ||
        listen(fd, backlog) < 0 || stat(addr->sun_path, &l->made) < 0) {
        err = -errno;
        (void)close(fd);
        return err;
    }
    l->fd = fd;
    return 0;
}

bool unix_still_ours(const struct unix_listener *l, const struct sockaddr_un *addr)
{
    struct stat now;

    return !stat(addr->sun_path, &now) && now.st_ino == l->made.st_ino &&
           now.st_dev == l->made.st_dev;
}

void unix_unlisten(struct unix_listener *l, const struct sockaddr_un *addr)
{
    if (l->fd < 0)
        return;
    if (unix_still_ours(l, addr))
        (void)unlink(addr->sun_path);
    (void)close(l->fd);
    l->fd = -1;
}
