/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A queue pair over a descriptor that takes and gives one frame per call, behind a struct net_hdr:
 * a tap device's queue, a connection to another VM. Its thread polls the descriptor and the kicks.
 *
 * A guest without buffers is waited for: the frame stays here, the next ones in the host's queue,
 * which drops when it is full. An end that takes nothing holds the guest's frames up for a while;
 * then they are dropped, as a cable does it that leads nowhere.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "backend/net_priv.h"
#include "lib/log.h"

#define HDR_BYTES sizeof(struct net_hdr)
#define BUF_BYTES (HDR_BYTES + NET_FRAME_MAX + 1) /* one more, to see what is too long */
/* Frames in a row before the other direction and the kicks get their turn. */
#define RX_BURST  64
#define MEET_MS   500
#define STALL_MS  2000
#define NS_PER_MS 1000000ull

static void fd_lose(struct net_fd *f, int err)
{
    (void)close(f->fd);
    f->fd = -1;
    f->tx_full = f->stalled = f->rx_full = f->told = false;
    f->ops->lost(f, err);
}

/* ---- from the guest ---- */

static void fd_dropped(struct net_fd *f, int err)
{
    net_drop_tx(f->net);
    if (f->told)
        return;
    f->told = true;
    log_warn("%s: a frame of the guest is lost: %s", f->net->name, strerror(err));
}

enum net_sent net_fd_send(struct net_fd *f, struct net_frame *frame)
{
    struct iovec iov[] = { { &frame->hdr, HDR_BYTES }, { frame->data, frame->bytes } };
    ssize_t n;

    if (f->fd < 0 || f->awaits_hello) {
        net_drop_tx(f->net);
        return NET_SENT;
    }
    do
        n = writev(f->fd, iov, ARRAY_SIZE(iov));
    while (n < 0 && errno == EINTR);
    if (n >= 0) {
        f->stalled = f->tx_full = false;
        net_count_tx(f->net, frame->bytes);
        return NET_SENT;
    }
    if (errno == EAGAIN || errno == ENOBUFS) {
        if (f->stalled) {
            net_drop_tx(f->net);
            return NET_SENT;
        }
        if (!f->tx_full)
            f->full_since_ns = host_mono_ns();
        f->tx_full = true;
        return NET_FULL;
    }
    /* A tap device that is down says EIO. A connection's end is seen by the reader. */
    fd_dropped(f, errno);
    return NET_SENT;
}

/* It took nothing for that long. */
static void fd_stall(struct net_fd *f)
{
    if (!f->told)
        log_warn("%s: the other end has taken nothing for %d s; the guest's frames are dropped "
                 "until it does",
                 f->net->name, STALL_MS / 1000);
    f->told = f->stalled = true;
    f->tx_full = false;
}

/* ---- to the guest ---- */

/* A message lies in buf. False: no room for it now. */
static bool fd_deliver(struct net_fd *f)
{
    struct net_frame frame = { .data = f->buf + HDR_BYTES, .bytes = f->nr_got - HDR_BYTES };
    struct net_hdr kept;

    memcpy(&frame.hdr, f->buf, HDR_BYTES);
    if (!net_frame_ok(&frame)) {
        net_drop_rx(f->net);
        return true;
    }
    kept = frame.hdr;
    if (net_deliver(f->net, f->pair, &frame, f->scratch))
        return true;
    if (memcmp(&kept, &frame.hdr, HDR_BYTES) != 0) /* part of the work is done */
        memcpy(f->buf, &frame.hdr, HDR_BYTES);
    return false;
}

static void fd_message(struct net_fd *f)
{
    if (f->awaits_hello) {
        f->awaits_hello = false;
        if (f->ops->hello(f, f->buf, f->nr_got))
            net_set_link(f->net, true);
        else
            fd_lose(f, EPROTO);
        return;
    }
    if (f->nr_got < HDR_BYTES || f->nr_got == BUF_BYTES)
        net_drop_rx(f->net);
    else
        f->rx_full = !fd_deliver(f);
}

static void fd_read(struct net_fd *f)
{
    for (unsigned i = 0; i < RX_BURST && f->fd >= 0 && !f->rx_full; i++) {
        ssize_t n = read(f->fd, f->buf, BUF_BYTES);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            fd_lose(f, n ? errno : 0);
            return;
        }
        f->nr_got = (size_t)n;
        fd_message(f);
    }
}

/* ---- the thread ---- */

static void fd_woken(struct net_fd *f, unsigned want)
{
    if (want & NET_KICK_RX && f->rx_full)
        f->rx_full = !fd_deliver(f);
    /* Also while it is full: the card's other work is done there, too. */
    if (want & NET_KICK_TX)
        f->net->card->tx(f->net->card_arg, f->pair);
}

static int fd_timeout(const struct net_fd *f)
{
    if (f->fd < 0 && f->ops->meet)
        return MEET_MS;
    return f->fd >= 0 && f->tx_full ? STALL_MS : -1;
}

static bool fd_has_stalled(const struct net_fd *f)
{
    return f->tx_full && host_mono_ns() - f->full_since_ns >= STALL_MS * NS_PER_MS;
}

/* Now and then, however often the card wakes this thread. */
static void fd_meet(struct net_fd *f)
{
    uint64_t now = host_mono_ns();

    if (f->fd >= 0 || !f->ops->meet || now < f->meet_at_ns)
        return;
    f->ops->meet(f);
    f->meet_at_ns = now + MEET_MS * NS_PER_MS / 2; /* poll() waits for all of it */
}

/* False at the end. */
static bool fd_round(struct net_fd *f)
{
    short events = (short)((f->rx_full ? 0 : POLLIN) | (f->tx_full ? POLLOUT : 0));
    struct pollfd p[] = {
        { .fd = f->wake.fd, .events = POLLIN },
        { .fd = events ? f->fd : -1, .events = events },
        { .fd = f->aux_fd, .events = POLLIN },
    };
    bool was_full = f->tx_full;
    unsigned want = 0;
    int n = poll(p, ARRAY_SIZE(p), fd_timeout(f));

    if (n < 0)
        return true; /* EINTR */
    if (p[0].revents)
        want = net_wake_take(&f->wake);
    if (p[1].revents & (POLLIN | POLLHUP | POLLERR))
        fd_read(f);
    if (p[2].revents)
        f->ops->aux(f);
    fd_meet(f);
    if (p[1].revents & POLLOUT)
        f->tx_full = false;
    else if (fd_has_stalled(f))
        fd_stall(f);
    if (was_full && !f->tx_full)
        want |= NET_KICK_TX;
    fd_woken(f, want);
    return !(want & NET_WAKE_QUIT);
}

static void *fd_main(void *arg)
{
    struct net_fd *f = arg;

    fd_meet(f);
    while (fd_round(f))
        ;
    return NULL;
}

/* ---- life ---- */

int net_fd_init(struct net_fd *f, struct net *net, unsigned pair, int fd,
                const struct net_fd_ops *ops)
{
    int err;

    *f = (struct net_fd){ .net = net, .pair = pair, .ops = ops, .fd = fd, .aux_fd = -1 };
    err = net_wake_init(&f->wake);
    f->buf = malloc(BUF_BYTES);
    f->scratch = malloc(NET_FRAME_MAX);
    return f->buf && f->scratch ? err : -ENOMEM;
}

void net_fd_fini(struct net_fd *f)
{
    if (!f->net)
        return;
    if (f->fd >= 0)
        (void)close(f->fd);
    if (f->aux_fd >= 0)
        (void)close(f->aux_fd);
    net_wake_fini(&f->wake);
    free(f->buf);
    free(f->scratch);
}

int net_fd_start(struct net_fd *f)
{
    char name[16];

    (void)snprintf(name, sizeof(name), "net queue %u", f->pair);
    return thread_start_as(&f->thread, HOST_NET, name, fd_main, f);
}

void net_fd_stop(struct net_fd *f)
{
    if (!f->thread.started)
        return;
    net_wake(&f->wake, NET_WAKE_QUIT);
    thread_join(&f->thread);
}
