/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A channel's visitor: see visitor.h. Its socket does not block, so all of this is short and may be
 * done under the channel's lock.
 */
#include "backend/visitor.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int visitor_init(struct visitor *v)
{
    v->fd = v->next_fd = -1;
    v->news.p = malloc(VISITOR_BYTES);
    v->news.size = VISITOR_BYTES;
    return v->news.p ? 0 : -ENOMEM;
}

void visitor_fini(struct visitor *v)
{
    if (!v->news.p)
        return;
    if (v->fd >= 0)
        (void)close(v->fd);
    if (v->next_fd >= 0)
        (void)close(v->next_fd);
    free(v->news.p);
    v->news.p = NULL;
}

/* The one who is here has closed its end, which the channel's thread has yet to see. */
static bool visitor_is_gone(const struct visitor *v)
{
    char c;

    return v->fd >= 0 && recv(v->fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

int visitor_enter(struct visitor *v, int fd, const char *hello)
{
    int flags = fcntl(fd, F_GETFL);

    if (v->here)
        return visitor_is_gone(v) ? -EAGAIN : -EBUSY;
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return -errno;
    v->here = true;
    v->next_fd = fd;
    v->hello = hello;
    return 0;
}

void visitor_leave(struct visitor *v, enum chr_keep keep)
{
    (void)close(v->fd);
    v->fd = -1;
    v->here = v->in_ended = v->left = false;
    if (keep == CHR_KEEP_NOTHING)
        ring_drop(&v->news, v->news.nr);
}

void visitor_meet(struct visitor *v)
{
    if (v->next_fd < 0)
        return;
    v->fd = v->next_fd;
    v->next_fd = -1;
    /* A line fits into a new socket. A failure shows again, at the next send. */
    if (v->hello)
        (void)!send(v->fd, v->hello, strlen(v->hello), MSG_NOSIGNAL);
    v->hello = NULL;
}

bool visitor_send(struct visitor *v)
{
    const uint8_t *piece;
    size_t nr = ring_piece(&v->news, &piece);
    ssize_t done;

    if (!nr)
        return true;
    done = send(v->fd, piece, nr, MSG_NOSIGNAL);
    if (done < 0)
        return errno == EINTR || errno == EAGAIN;
    ring_drop(&v->news, (size_t)done);
    return true;
}
