/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Network in user mode, by libslirp: a private network, 10.0.2.0/24 and fec0::/64, whose other
 * hosts are the library. What the guest sends to the world goes through sockets of this process, so
 * no privilege is needed, and nobody outside sees the guest but through forwards.
 *
 *     10.0.2.2   fec0::2  the gateway; connections to it reach the host's own loopback
 *     10.0.2.3   fec0::3  name server, which asks the host's
 *     10.0.2.15           what DHCP gives the guest; IPv6 addresses it makes by itself
 *
 * The same addresses as QEMU's. Guests that may reach nothing (restrict=on) have no IPv6, for which
 * the library does not hold to that everywhere. All calls of the library are made in the link's one
 * thread. Frames from the guest may be TCP segments of up to 64 KiB with the checksum left out: the
 * library takes them whole, and the checksum is filled in here.
 */
#include <errno.h>
#include <poll.h>
#include <slirp/libslirp.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/net_priv.h"
#include "lib/log.h"

#define USER_NETWORK    0x0a000200u
#define USER_MASK       0xffffff00u
#define USER_GATEWAY    0x0a000202u
#define USER_NAMESERVER 0x0a000203u
#define USER_DHCP       0x0a00020fu

/* Frames for a guest that has no buffers just now. When they are used up the library's sockets are
 * not read any more; what it makes by itself is dropped. */
#define QUEUE_FRAMES      256
#define QUEUE_SPARE_BYTES 100 /* of a frame beyond the MTU */
#define IPV6_MTU_MIN      1280
#define TCP6_HEADS_MAX    100u /* 40 of IPv6, at most 60 of TCP */
#define POLL_MAX          1024
#define NS_PER_MS         1000000ull

struct user_timer {
    SlirpTimerId id;
    void *arg;
    uint64_t at_ns; /* UINT64_MAX: not armed */
};

struct net_user {
    struct net net;
    Slirp *slirp;
    struct net_wake wake;
    struct thread thread;

    /* The thread's own, as all that the library calls back for. */
    struct pollfd polls[POLL_MAX];
    unsigned nr_polls;
    struct user_timer timers[SLIRP_TIMER_NUM];
    uint8_t *queue; /* a ring of QUEUE_FRAMES, each frame_max bytes */
    uint32_t queue_bytes[QUEUE_FRAMES];
    uint32_t frame_max;
    unsigned queue_at, nr_queued;
    uint8_t *scratch;
    struct log_seen seen;
};

static struct net_user *user_of(struct net *net)
{
    return container_of(net, struct net_user, net);
}

/* ---- to the guest ---- */

/* The library has computed or checked every checksum; the guest need not do it again. */
static bool user_give(struct net_user *u, uint8_t *data, size_t bytes)
{
    struct net_frame f = { .data = data, .bytes = bytes };

    if (atomic_load_explicit(&u->net.rx_offloads, memory_order_relaxed) & NET_CSUM)
        f.hdr.flags = NET_HDR_DATA_VALID;
    return net_deliver(&u->net, 0, &f, u->scratch);
}

static uint8_t *user_queued(struct net_user *u, unsigned idx)
{
    return u->queue + (size_t)idx * u->frame_max;
}

static void user_give_queued(struct net_user *u)
{
    while (u->nr_queued) {
        if (!user_give(u, user_queued(u, u->queue_at), u->queue_bytes[u->queue_at]))
            return;
        u->queue_at = (u->queue_at + 1) % QUEUE_FRAMES;
        u->nr_queued--;
    }
}

static ssize_t user_send_packet(const void *buf, size_t bytes, void *opaque)
{
    struct net_user *u = opaque;
    unsigned idx = (u->queue_at + u->nr_queued) % QUEUE_FRAMES;

    if (bytes < NET_ETH_BYTES || bytes > u->frame_max || u->nr_queued == QUEUE_FRAMES ||
        !u->net.card) {
        net_drop_rx(&u->net);
        return (ssize_t)bytes;
    }
    memcpy(user_queued(u, idx), buf, bytes);
    u->queue_bytes[idx] = (uint32_t)bytes;
    if (u->nr_queued || !user_give(u, user_queued(u, idx), bytes))
        u->nr_queued++;
    return (ssize_t)bytes;
}

/* ---- from the guest ---- */

static bool user_input(void *arg, struct net_frame *f)
{
    struct net_user *u = arg;

    slirp_input(u->slirp, f->data, (int)f->bytes);
    net_count_tx(&u->net, f->bytes);
    return true;
}

static enum net_sent user_send(struct net *net, unsigned pair, struct net_frame *f)
{
    struct net_user *u = user_of(net);

    (void)pair;
    if (f->hdr.gso_type != NET_GSO_NONE) {
        bool v6 = (f->hdr.gso_type & ~NET_GSO_ECN) == NET_GSO_TCPV6;

        /* IPv4 in one piece; of IPv6 the library takes none beyond its MTU. */
        if (net_segment(f, v6 ? net->mtu - TCP6_HEADS_MAX : f->bytes, u->scratch, user_input, u) <
            0)
            net_drop_tx(net);
        return NET_SENT;
    }
    if (f->hdr.flags & NET_HDR_NEEDS_CSUM)
        net_checksum(f);
    (void)user_input(u, f);
    return NET_SENT;
}

/* ---- what the library asks for ---- */

static void user_guest_error(const char *msg, void *opaque)
{
    struct net_user *u = opaque;
    uint64_t key = 0;

    for (const char *p = msg; *p; p++)
        key = key * 31 + (uint8_t)*p;
    if (log_first(&u->seen, key))
        log_debug("%s: the guest's fault: %s", u->net.name, msg);
}

static int64_t user_clock_ns(void *opaque)
{
    (void)opaque;
    return (int64_t)host_mono_ns();
}

static void *user_timer_new(SlirpTimerId id, void *cb_opaque, void *opaque)
{
    struct net_user *u = opaque;

    BUG_ON(id >= SLIRP_TIMER_NUM);
    u->timers[id] = (struct user_timer){ .id = id, .arg = cb_opaque, .at_ns = UINT64_MAX };
    return &u->timers[id];
}

static void user_timer_free(void *timer, void *opaque)
{
    (void)opaque;
    ((struct user_timer *)timer)->at_ns = UINT64_MAX;
}

static void user_timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
    (void)opaque;
    ((struct user_timer *)timer)->at_ns =
        expire_ms <= 0 ? 0 : (uint64_t)MIN(expire_ms, INT64_MAX / 1000000) * NS_PER_MS;
}

/* The list of descriptors is made anew for each poll(). */
static void user_poll_fd(int fd, void *opaque)
{
    (void)fd;
    (void)opaque;
}

/* Only for forwards to functions, of which there are none. */
static void user_notify(void *opaque)
{
    net_wake(&((struct net_user *)opaque)->wake, NET_KICK_RX);
}

static const SlirpCb user_callbacks = {
    .send_packet = user_send_packet,
    .guest_error = user_guest_error,
    .clock_get_ns = user_clock_ns,
    .timer_free = user_timer_free,
    .timer_mod = user_timer_mod,
    .register_poll_fd = user_poll_fd,
    .unregister_poll_fd = user_poll_fd,
    .notify = user_notify,
    .timer_new_opaque = user_timer_new,
};

/* ---- the thread ---- */

static const struct {
    int slirp;
    short poll;
} poll_bits[] = {
    { SLIRP_POLL_IN, POLLIN },   { SLIRP_POLL_OUT, POLLOUT }, { SLIRP_POLL_PRI, POLLPRI },
    { SLIRP_POLL_ERR, POLLERR }, { SLIRP_POLL_HUP, POLLHUP },
};

/* Returns the place in the list; -1 means none, and the library asks again the next time. */
static int user_add_poll(int fd, int events, void *opaque)
{
    struct net_user *u = opaque;
    short bits = 0;

    if (u->nr_polls == POLL_MAX) {
        if (log_first(&u->seen, POLL_MAX))
            log_warn("%s: the guest has more than %u connections; some will stand still",
                     u->net.name, POLL_MAX - 1);
        return -1;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(poll_bits); i++)
        if (events & poll_bits[i].slirp)
            bits |= poll_bits[i].poll;
    u->polls[u->nr_polls] = (struct pollfd){ .fd = fd, .events = bits };
    return (int)u->nr_polls++;
}

static int user_get_revents(int idx, void *opaque)
{
    struct net_user *u = opaque;
    int events = 0;

    if (idx < 0 || (unsigned)idx >= u->nr_polls)
        return 0;
    for (unsigned i = 0; i < ARRAY_SIZE(poll_bits); i++)
        if (u->polls[idx].revents & poll_bits[i].poll)
            events |= poll_bits[i].slirp;
    return events;
}

static int user_timeout_ms(const struct net_user *u, uint32_t slirp_ms)
{
    uint64_t now = host_mono_ns(), ms = MIN(slirp_ms, (uint32_t)INT32_MAX);

    for (unsigned i = 0; i < SLIRP_TIMER_NUM; i++) {
        uint64_t at = u->timers[i].at_ns;

        if (at != UINT64_MAX)
            ms = MIN(ms, at <= now ? 0 : (at - now + NS_PER_MS - 1) / NS_PER_MS);
    }
    return (int)ms;
}

static void user_fire(struct net_user *u)
{
    for (unsigned i = 0; i < SLIRP_TIMER_NUM; i++) {
        struct user_timer *t = &u->timers[i];

        if (t->at_ns > host_mono_ns())
            continue;
        t->at_ns = UINT64_MAX;
        slirp_handle_timer(u->slirp, t->id, t->arg);
    }
}

/* False at the end. */
static bool user_round(struct net_user *u)
{
    bool full = u->nr_queued == QUEUE_FRAMES;
    uint32_t slirp_ms = UINT32_MAX;
    unsigned want = 0;
    int n;

    u->polls[0] = (struct pollfd){ .fd = u->wake.fd, .events = POLLIN };
    u->nr_polls = 1;
    if (!full)
        slirp_pollfds_fill(u->slirp, &slirp_ms, user_add_poll, u);
    n = poll(u->polls, u->nr_polls, user_timeout_ms(u, slirp_ms));
    if (n > 0 && u->polls[0].revents)
        want = net_wake_take(&u->wake);
    if (want & NET_KICK_RX)
        user_give_queued(u);
    if (!full)
        slirp_pollfds_poll(u->slirp, n < 0, user_get_revents, u);
    user_fire(u);
    if (want & NET_KICK_TX)
        u->net.card->tx(u->net.card_arg, 0);
    return !(want & NET_WAKE_QUIT);
}

static void *user_main(void *arg)
{
    struct net_user *u = arg;

    while (user_round(u))
        ;
    return NULL;
}

/* ---- as a link ---- */

static int user_start(struct net *net)
{
    struct net_user *u = user_of(net);

    net_set_link(net, true);
    return thread_start_as(&u->thread, HOST_USERNET, "net user", user_main, u);
}

static void user_stop(struct net *net)
{
    struct net_user *u = user_of(net);

    if (!u->thread.started)
        return;
    net_wake(&u->wake, NET_WAKE_QUIT);
    thread_join(&u->thread);
}

static void user_kick(struct net *net, unsigned pair, unsigned what)
{
    (void)pair;
    net_wake(&user_of(net)->wake, what);
}

static int user_kick_fd(struct net *net, unsigned pair)
{
    (void)pair;
    return net_wake_fd(&user_of(net)->wake);
}

static void user_close(struct net *net)
{
    struct net_user *u = user_of(net);

    if (u->slirp)
        slirp_cleanup(u->slirp);
    net_wake_fini(&u->wake);
    free(u->queue);
    free(u->scratch);
    free(u);
}

static const struct net_ops user_ops = {
    .start = user_start,
    .stop = user_stop,
    .send = user_send,
    .kick = user_kick,
    .kick_fd = user_kick_fd,
    .close = user_close,
};

/* ---- opening ---- */

static struct in_addr addr_of(uint32_t host_order)
{
    return (struct in_addr){ .s_addr = htonl(host_order) };
}

static int user_forward(struct net_user *u, const struct net_forward *fwd)
{
    char host[INET_ADDRSTRLEN];
    struct in_addr addr = addr_of(fwd->host_addr);
    int err;

    errno = 0;
    if (slirp_add_hostfwd(u->slirp, fwd->udp, addr, fwd->host_port, addr_of(fwd->guest_addr),
                          fwd->guest_port) == 0)
        return 0;
    err = errno ? errno : EINVAL;
    (void)inet_ntop(AF_INET, &addr, host, sizeof(host));
    log_error("%s: hostfwd: cannot listen on %s port %s:%u: %s%s", u->net.name,
              fwd->udp ? "UDP" : "TCP", host, fwd->host_port, strerror(err),
              err == EADDRINUSE ? "; another program uses it, take another port"
              : err == EACCES   ? "; ports below 1024 are for root"
                                : "");
    return -err;
}

/* fec0::host */
static struct in6_addr addr6_of(uint8_t host)
{
    return (struct in6_addr){ .s6_addr = { [0] = 0xfe, [1] = 0xc0, [15] = host } };
}

static bool user_has_ipv6(const struct net_user *u, const struct net_user_config *cfg)
{
    return !cfg->restricted && u->net.mtu >= IPV6_MTU_MIN;
}

static int user_make(struct net_user *u, const struct net_user_config *cfg)
{
    const SlirpConfig sc = {
        .version = 4,
        .restricted = cfg->restricted,
        .in_enabled = true,
        .vnetwork = addr_of(USER_NETWORK),
        .vnetmask = addr_of(USER_MASK),
        .vhost = addr_of(USER_GATEWAY),
        .vnameserver = addr_of(USER_NAMESERVER),
        .vdhcp_start = addr_of(USER_DHCP),
        .in6_enabled = user_has_ipv6(u, cfg),
        .vprefix_addr6 = addr6_of(0),
        .vprefix_len = 64,
        .vhost6 = addr6_of(2),
        .vnameserver6 = addr6_of(3),
        .if_mtu = u->net.mtu,
        .if_mru = u->net.mtu,
    };
    int err = net_wake_init(&u->wake);

    u->frame_max = NET_ETH_BYTES + u->net.mtu + QUEUE_SPARE_BYTES;
    u->queue = calloc(QUEUE_FRAMES, u->frame_max);
    u->scratch = malloc(NET_FRAME_MAX);
    if (!err && (!u->queue || !u->scratch))
        err = -ENOMEM;
    if (!err) {
        u->slirp = slirp_new(&sc, &user_callbacks, u);
        err = u->slirp ? 0 : -ENOMEM;
    }
    if (err) {
        log_error("%s: cannot start: %s", u->net.name, strerror(-err));
        return err;
    }
    for (unsigned i = 0; i < cfg->nr_forwards && !err; i++)
        err = user_forward(u, &cfg->forwards[i]);
    return err;
}

struct net *net_open_user(const struct net_common *c, const struct net_user_config *cfg)
{
    struct net_user *u = calloc(1, sizeof(*u));

    if (!u) {
        log_error("net%u: out of memory", c->idx);
        return NULL;
    }
    net_init(&u->net, &user_ops, c, "user");
    u->net.can_rx = NET_CSUM;
    if (cfg->mtu)
        u->net.mtu = cfg->mtu;
    u->net.tx_offloads = NET_CSUM | NET_TSO4 | (user_has_ipv6(u, cfg) ? NET_TSO6 : 0);
    u->wake.fd = -1;
    for (unsigned i = 0; i < SLIRP_TIMER_NUM; i++)
        u->timers[i].at_ns = UINT64_MAX;
    if (user_make(u, cfg) < 0) {
        user_close(&u->net);
        return NULL;
    }
    return &u->net;
}
