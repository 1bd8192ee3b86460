/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tap interface of the host. The host's kernel takes and gives frames with a struct net_hdr
 * before them, so checksums and segmentation are left to it, and to the card behind it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backend/net_priv.h"
#include "lib/log.h"

#define TUN_PATH "/dev/net/tun"

struct net_tap {
    struct net net;
    char ifname[IFNAMSIZ];
    struct net_fd queues[NET_PAIRS_MAX];
    unsigned nr_attached; /* guarded by the caller of net_set_guest() */
};

static struct net_tap *tap_of(struct net *net)
{
    return container_of(net, struct net_tap, net);
}

/* ---- opening ---- */

static int tap_refused_device(const char *name, int err)
{
    if (err == ENOENT || err == ENODEV || err == ENXIO)
        log_error("%s: there is no %s: load the kernel's module 'tun', or give the container that "
                  "device",
                  name, TUN_PATH);
    else if (err == EACCES || err == EPERM)
        log_error("%s: %s may not be opened: %s; doppel needs read and write permission on it",
                  name, TUN_PATH, strerror(err));
    else
        log_error("%s: cannot open %s: %s", name, TUN_PATH, strerror(err));
    return -err;
}

static int tap_refused_attach(const struct net_tap *t, int err)
{
    const char *name = t->net.name, *ifn = t->ifname;

    if (err == EPERM || err == EACCES)
        log_error(
            "%s: the interface belongs to somebody else, and doppel has not CAP_NET_ADMIN; as "
            "root: ip tuntap add %s mode tap user %u%s",
            name, ifn, (unsigned)geteuid(), t->net.nr_pairs > 1 ? " multi_queue" : "");
    else if (err == EBUSY)
        log_error("%s: the interface is in use by another program", name);
    else if (err == EINVAL)
        log_error("%s: the interface is no tap that doppel can use%s", name,
                  t->net.nr_pairs > 1
                      ? ", or it was made without 'multi_queue', which queues= needs"
                      : ", or it was made with 'multi_queue' (then say queues=2 or more)");
    else if (err == E2BIG)
        log_error("%s: the interface has not that many queues (%u) free", name, t->net.nr_pairs);
    else
        log_error("%s: cannot attach to the interface: %s", name, strerror(err));
    return -err;
}

/* A descriptor of one queue, or -errno after a message. */
static int tap_open_queue(struct net_tap *t)
{
    struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
    int hdr_bytes = sizeof(struct net_hdr), fd, err;

    fd = open(TUN_PATH, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return tap_refused_device(t->net.name, errno);
    if (t->net.nr_pairs > 1)
        ifr.ifr_flags |= IFF_MULTI_QUEUE;
    memcpy(ifr.ifr_name, t->ifname, sizeof(ifr.ifr_name));
    if (ioctl(fd, TUNSETIFF, &ifr) < 0)
        err = tap_refused_attach(t, errno);
    else if (ioctl(fd, TUNSETVNETHDRSZ, &hdr_bytes) < 0)
        err = tap_refused_attach(t, errno);
    else
        return fd;
    (void)close(fd);
    return err;
}

/* The interface was deleted. */
static void tap_lost(struct net_fd *f, int err)
{
    log_error("%s: queue %u has failed: %s; the guest goes on with its link down", f->net->name,
              f->pair, strerror(err));
    net_set_link(f->net, false);
}

static const struct net_fd_ops tap_fd_ops = { .lost = tap_lost };

static int tap_open_queues(struct net_tap *t)
{
    for (unsigned i = 0; i < t->net.nr_pairs; i++) {
        int fd = tap_open_queue(t), err;

        if (fd < 0)
            return fd;
        err = net_fd_init(&t->queues[i], &t->net, i, fd, &tap_fd_ops);
        if (err) {
            log_error("%s: queue %u: %s", t->net.name, i, strerror(-err));
            return err;
        }
        t->nr_attached++;
    }
    return 0;
}

static void tap_read_mtu(struct net_tap *t)
{
    struct ifreq ifr = { .ifr_flags = 0 };
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    memcpy(ifr.ifr_name, t->ifname, sizeof(ifr.ifr_name));
    if (fd >= 0 && ioctl(fd, SIOCGIFMTU, &ifr) == 0 && ifr.ifr_mtu >= NET_MTU_MIN &&
        ifr.ifr_mtu <= NET_MTU_MAX)
        t->net.mtu = (uint16_t)ifr.ifr_mtu;
    if (fd >= 0)
        (void)close(fd);
}

/* ---- the guest's wishes ---- */

/* Frames from the host come as the guest takes them: the host's kernel does the rest. */
static void tap_set_offloads(struct net_tap *t)
{
    static const struct {
        unsigned ours, theirs;
    } map[] = {
        { NET_CSUM, TUN_F_CSUM },
        { NET_TSO4, TUN_F_TSO4 },
        { NET_TSO6, TUN_F_TSO6 },
        { NET_ECN, TUN_F_TSO_ECN },
    };
    unsigned want = atomic_load_explicit(&t->net.rx_offloads, memory_order_relaxed), flags = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(map); i++)
        if (want & map[i].ours)
            flags |= map[i].theirs;
    /* They are the interface's, not the queue's. What it does not do net_deliver() does. */
    if (t->queues[0].fd >= 0 && ioctl(t->queues[0].fd, TUNSETOFFLOAD, (unsigned long)flags) < 0)
        log_debug("%s: offloads %#x: %s", t->net.name, flags, strerror(errno));
}

/* The host spreads what comes over the attached queues; one that the guest does not use must go. */
static void tap_set_queues(struct net_tap *t)
{
    unsigned want = atomic_load_explicit(&t->net.nr_used, memory_order_relaxed);

    while (t->nr_attached != want) {
        bool more = t->nr_attached < want;
        unsigned idx = more ? t->nr_attached : t->nr_attached - 1;
        struct ifreq ifr = { .ifr_flags = more ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE };

        if (t->queues[idx].fd >= 0 && ioctl(t->queues[idx].fd, TUNSETQUEUE, &ifr) < 0)
            log_warn("%s: queue %u cannot be %s: %s", t->net.name, idx,
                     more ? "attached" : "detached", strerror(errno));
        t->nr_attached = more ? idx + 1 : idx;
    }
}

static void tap_changed(struct net *net)
{
    struct net_tap *t = tap_of(net);

    tap_set_offloads(t);
    if (net->nr_pairs > 1)
        tap_set_queues(t);
}

/* ---- as a link ---- */

static int tap_start(struct net *net)
{
    struct net_tap *t = tap_of(net);
    int err = 0;

    for (unsigned i = 0; i < net->nr_pairs && !err; i++)
        err = net_fd_start(&t->queues[i]);
    if (!err)
        net_set_link(net, true);
    return err;
}

static void tap_stop(struct net *net)
{
    for (unsigned i = 0; i < net->nr_pairs; i++)
        net_fd_stop(&tap_of(net)->queues[i]);
}

static enum net_sent tap_send(struct net *net, unsigned pair, struct net_frame *f)
{
    return net_fd_send(&tap_of(net)->queues[pair], f);
}

static void tap_kick(struct net *net, unsigned pair, unsigned what)
{
    net_wake(&tap_of(net)->queues[pair].wake, what);
}

static int tap_kick_fd(struct net *net, unsigned pair)
{
    return net_wake_fd(&tap_of(net)->queues[pair].wake);
}

static void tap_close(struct net *net)
{
    struct net_tap *t = tap_of(net);

    for (unsigned i = 0; i < net->nr_pairs; i++)
        net_fd_fini(&t->queues[i]);
    free(t);
}

static const struct net_ops tap_ops = {
    .start = tap_start,
    .stop = tap_stop,
    .send = tap_send,
    .kick = tap_kick,
    .kick_fd = tap_kick_fd,
    .changed = tap_changed,
    .close = tap_close,
};

struct net *net_open_tap(const struct net_common *c, const char *ifname, unsigned nr_pairs)
{
    struct net_tap *t;
    char what[64];

    (void)snprintf(what, sizeof(what), "tap '%s'", ifname);
    t = calloc(1, sizeof(*t));
    if (!t) {
        log_error("net%u: out of memory", c->idx);
        return NULL;
    }
    net_init(&t->net, &tap_ops, c, what);
    t->net.nr_pairs = nr_pairs;
    t->net.tx_offloads = t->net.can_rx = NET_CSUM | NET_TSO4 | NET_TSO6 | NET_ECN;
    (void)snprintf(t->ifname, sizeof(t->ifname), "%s", ifname);
    /* The kernel would make one that is down and vanishes with us: of no use. */
    if (strlen(ifname) >= IFNAMSIZ || !if_nametoindex(ifname)) {
        log_error("%s: there is no such interface; as root: ip tuntap add %s mode tap user %u%s && "
                  "ip link set %s up",
                  t->net.name, ifname, (unsigned)geteuid(), nr_pairs > 1 ? " multi_queue" : "",
                  ifname);
        tap_close(&t->net);
        return NULL;
    }
    if (tap_open_queues(t) < 0) {
        tap_close(&t->net);
        return NULL;
    }
    tap_read_mtu(t);
    tap_set_offloads(t);
    return &t->net;
}
