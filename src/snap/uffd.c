/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A snapshot's memory by way of a server: its pages are none until they are touched, and then the
 * server puts them there. The server listens on a Unix socket and is sent, in the form that servers
 * for Firecracker know, a userfaultfd and a list of what is where.
 *
 * Both ends of the descriptor stay open here as long as the machine lives: without any, pages that
 * have not come would be zeroes.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "snap/priv.h"

int uffd_open(struct snap_uffd *u, const char *path, const struct snap_why *why)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };

    if (!*path || strlen(path) >= sizeof(addr.sun_path))
        return snap_fail(why, -ENAMETOOLONG, "'%s' is too long for a socket", path);
    memcpy(addr.sun_path, path, strlen(path));
    u->fd = host_uffd();
    if (u->fd < 0)
        return snap_fail(why, u->fd,
                         "cannot make a userfaultfd: %s (it takes CAP_SYS_PTRACE, access to "
                         "/dev/userfaultfd, or vm.unprivileged_userfaultfd=1)",
                         strerror(-u->fd));
    u->sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (u->sock < 0 || connect(u->sock, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
        return snap_fail(why, -errno, "cannot connect to the memory's server at '%s': %s", path,
                         strerror(errno));
    u->regions = json_array();
    return u->regions ? 0 : snap_fail(why, -ENOMEM, "out of memory");
}

void uffd_close(struct snap_uffd *u)
{
    if (u->fd >= 0)
        (void)close(u->fd);
    if (u->sock >= 0)
        (void)close(u->sock);
    json_decref(u->regions);
    *u = (struct snap_uffd){ .fd = -1, .sock = -1 };
}

int uffd_add(struct snap_uffd *u, void *at, uint64_t bytes, uint64_t off_bytes)
{
    int err = host_uffd_add(u->fd, at, bytes);

    if (err) {
        log_error("the memory's server cannot be given %llu MiB: %s",
                  (unsigned long long)bytes >> 20, strerror(-err));
        return err;
    }
    /* "page_size_kib" is in bytes, too: an old mistake that servers rely on. */
    return json_array_append_new(
        u->regions,
        json_pack("{s:I, s:I, s:I, s:I, s:I}", "base_host_virt_addr", (json_int_t)(uintptr_t)at,
                  "size", (json_int_t)bytes, "offset", (json_int_t)off_bytes, "page_size",
                  (json_int_t)PAGE_BYTES, "page_size_kib", (json_int_t)PAGE_BYTES));
}

int uffd_hand_over(struct snap_uffd *u, const struct snap_why *why)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control = { .head = { .cmsg_level = SOL_SOCKET,
                            .cmsg_type = SCM_RIGHTS,
                            .cmsg_len = CMSG_LEN(sizeof(int)) } };
    char *text = json_dumps(u->regions, JSON_COMPACT);
    struct iovec iov = { .iov_base = text, .iov_len = text ? strlen(text) : 0 };
    struct msghdr msg = { .msg_iov = &iov,
                          .msg_iovlen = 1,
                          .msg_control = &control,
                          .msg_controllen = sizeof(control.room) };
    ssize_t n;

    if (!text)
        return snap_fail(why, -ENOMEM, "out of memory");
    memcpy(CMSG_DATA(&control.head), &u->fd, sizeof(int));
    n = sendmsg(u->sock, &msg, MSG_NOSIGNAL);
    free(text);
    if (n == (ssize_t)iov.iov_len)
        return 0;
    return snap_fail(why, -EIO, "the memory's server did not take the list of memory: %s",
                     n < 0 ? strerror(errno) : "only a part of it");
}
