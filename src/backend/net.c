/* SPDX-License-Identifier: Apache-2.0 */
/* What all links have: names and addresses, connecting a card, delivering frames, waking. */
#include "backend/net.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "backend/net_priv.h"
#include "lib/log.h"
#include "lib/probe.h"

void net_mac_derive(uint8_t mac[NET_MAC_BYTES], const char *vm, unsigned idx)
{
    uint64_t hash = 0xcbf29ce484222325; /* FNV-1a */

    for (const char *p = vm; *p; p++)
        hash = (hash ^ (uint8_t)*p) * 0x100000001b3;
    hash = (hash ^ 0) * 0x100000001b3;
    hash = (hash ^ idx) * 0x100000001b3;
    hash ^= hash >> 32; /* its low bits alone depend on too little of the name */
    for (unsigned i = 0; i < NET_MAC_BYTES; i++)
        mac[i] = (uint8_t)(hash >> 8 * i);
    /* Locally administered, not a group (IEEE 802, Universal and local addresses). */
    mac[0] = (uint8_t)((mac[0] & 0xfc) | 0x02);
}

void net_init(struct net *net, const struct net_ops *ops, const struct net_common *c,
              const char *what)
{
    *net = (struct net){ .ops = ops, .mtu = NET_MTU_DEFAULT, .nr_pairs = 1, .nr_used = 1 };
    (void)snprintf(net->name, sizeof(net->name), "net%u (%s)", c->idx, what);
    if (c->mac)
        memcpy(net->mac, c->mac, NET_MAC_BYTES);
    else
        net_mac_derive(net->mac, c->vm, c->idx);
}

int net_connect(struct net *net, const struct net_card_ops *card, void *arg)
{
    int err;

    BUG_ON(net->card);
    net->card_arg = arg;
    net->card = card;
    err = net->ops->start(net);
    if (err) {
        log_error("%s: cannot start: %s", net->name, strerror(-err));
        net->ops->stop(net);
        net->card = NULL;
    }
    return err;
}

void net_disconnect(struct net *net)
{
    if (!net || !net->card)
        return;
    net->ops->stop(net);
    net->card = NULL;
}

void net_close(struct net *net)
{
    if (!net)
        return;
    net_disconnect(net);
    net->ops->close(net);
}

void net_set_guest(struct net *net, unsigned rx_offloads, unsigned nr_used)
{
    BUG_ON(!nr_used || nr_used > net->nr_pairs);
    if (!(rx_offloads & NET_CSUM)) /* segments come without checksums */
        rx_offloads = 0;
    /* Relaxed: a frame that is on its way just now may still come in the old form. */
    atomic_store_explicit(&net->rx_offloads, rx_offloads, memory_order_relaxed);
    atomic_store_explicit(&net->nr_used, nr_used, memory_order_relaxed);
    if (net->ops->changed)
        net->ops->changed(net);
}

void net_set_link(struct net *net, bool up)
{
    atomic_store_explicit(&net->up, up,
                          memory_order_relaxed); /* a state to show, nothing hangs on it */
    if (net->card)
        net->card->link(net->card_arg, up);
}

/* ---- counting ---- */

static void count(_Atomic uint64_t *counter, uint64_t by)
{
    atomic_fetch_add_explicit(counter, by, memory_order_relaxed);
}

void net_count_tx(struct net *net, size_t bytes)
{
    probe(net_sent, net->name, bytes);
    count(&net->counts.tx_frames, 1);
    count(&net->counts.tx_bytes, bytes);
}

void net_drop_tx(struct net *net)
{
    count(&net->counts.tx_dropped, 1);
}

void net_drop_rx(struct net *net)
{
    count(&net->counts.rx_dropped, 1);
}

/* ---- to the card ---- */

struct delivery {
    struct net *net;
    unsigned pair;
    unsigned nr_done;
};

static bool deliver_one(void *arg, struct net_frame *f)
{
    struct delivery *d = arg;

    if (!d->net->card->rx(d->net->card_arg, d->pair, f))
        return false;
    d->nr_done++;
    probe(net_received, d->net->name, f->bytes);
    count(&d->net->counts.rx_frames, 1);
    count(&d->net->counts.rx_bytes, f->bytes);
    return true;
}

static unsigned offload_of(const struct net_hdr *h)
{
    unsigned need = h->flags & NET_HDR_NEEDS_CSUM ? NET_CSUM : 0;

    switch (h->gso_type & ~NET_GSO_ECN) {
    case NET_GSO_TCPV4:
        need |= NET_TSO4;
        break;
    case NET_GSO_TCPV6:
        need |= NET_TSO6;
        break;
    }
    return need | (h->gso_type & NET_GSO_ECN ? NET_ECN : 0);
}

bool net_deliver(struct net *net, unsigned pair, struct net_frame *f, uint8_t *scratch)
{
    struct delivery d = { .net = net, .pair = pair };
    unsigned missing =
        offload_of(&f->hdr) & ~atomic_load_explicit(&net->rx_offloads, memory_order_relaxed);

    if (!(missing & ~NET_CSUM)) {
        if (missing) {
            net_checksum(f);
            f->hdr = (struct net_hdr){ .flags = 0 };
        }
        return deliver_one(&d, f);
    }
    if (net_segment(f, f->hdr.gso_size, scratch, deliver_one, &d) < 0) {
        net_drop_rx(net);
        return true;
    }
    /* Of a frame that was begun, what finds no room is lost, as in a full switch. */
    return d.nr_done;
}

/* ---- waking ---- */

int net_wake_init(struct net_wake *w)
{
    w->want = 0;
    w->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return w->fd < 0 ? -errno : 0;
}

void net_wake_fini(struct net_wake *w)
{
    if (w->fd >= 0)
        (void)close(w->fd);
    w->fd = -1;
}

void net_wake(struct net_wake *w, unsigned what)
{
    uint64_t one = 1;

    /* Acquire and release: the thread sees what was written before the kick. A bit that is set
     * already has woken the thread, which has not looked yet. */
    if ((atomic_fetch_or_explicit(&w->want, what, memory_order_acq_rel) & what) == what)
        return;
    /* Fails only if the counter is full, and then the thread wakes up anyway. */
    if (write(w->fd, &one, sizeof(one)) < 0)
        return;
}

unsigned net_wake_take(struct net_wake *w)
{
    uint64_t n;

    /* First the counter, then the bits: whoever comes between makes one more wake-up. */
    if (read(w->fd, &n, sizeof(n)) < 0)
        n = 0;
    return atomic_exchange_explicit(&w->want, 0, memory_order_acq_rel) |
           (atomic_load_explicit(&w->given, memory_order_relaxed) ? NET_KICK_RX | NET_KICK_TX : 0);
}

int net_wake_fd(struct net_wake *w)
{
    atomic_store_explicit(&w->given, true, memory_order_relaxed);
    return w->fd;
}
