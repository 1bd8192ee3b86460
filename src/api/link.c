/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A link with the metadata service and limits in between: see link.h. To the card it is a link, to
 * the link behind it is a card; all work is done in that one's thread. A thread of its own only
 * wakes that one when a limit allows more, or something of the service is due.
 */
#include "api/link.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "api/mmds_net.h"
#include "lib/log.h"

#define NS_PER_S 1000000000ull
#define BURST_NS (NS_PER_S / 10)

/* Of one direction: until then the limit is used up. The link thread's own. */
struct used {
    uint64_t frames_ns, bytes_ns; /* host_mono_ns() */
};

struct link {
    struct net net;
    struct net *inner;
    struct mmds_net *service; /* NULL: none */
    struct used tx_used, rx_used;
    uint8_t frame[MMDS_FRAME_MAX]; /* for the guest, which had no room for it */
    size_t nr_frame;               /* 0: none */
    _Atomic bool serving;          /* there is, or was, something for the guest */

    struct lock lock; /* LOCK_LEAF: guards what follows */
    struct cond changed;
    struct link_limits limits;
    uint64_t wake_ns; /* UINT64_MAX: never */
    bool quit;
    struct thread thread;
};

static struct link *link_of(struct net *net)
{
    return container_of(net, struct link, net);
}

/* ---- waking ---- */

static void *link_main(void *arg)
{
    struct link *l = arg;

    lock_take(&l->lock);
    while (!l->quit) {
        if (host_mono_ns() < l->wake_ns) {
            (void)cond_wait_until(&l->changed, &l->lock, l->wake_ns);
            continue;
        }
        l->wake_ns = UINT64_MAX;
        lock_drop(&l->lock);
        net_kick(l->inner, 0, NET_KICK_TX | NET_KICK_RX);
        lock_take(&l->lock);
    }
    lock_drop(&l->lock);
    return NULL;
}

static void link_wake_at(struct link *l, uint64_t ns)
{
    if (ns == UINT64_MAX)
        return;
    lock_take(&l->lock);
    if (ns < l->wake_ns) {
        l->wake_ns = ns;
        cond_wake_all(&l->changed);
    }
    lock_drop(&l->lock);
}

/* ---- limits ---- */

static struct link_limits link_limits_now(struct link *l)
{
    struct link_limits now;

    lock_take(&l->lock);
    now = l->limits;
    lock_drop(&l->lock);
    return now;
}

/* False: not before the wake that is set. */
static bool link_allows(struct link *l, const struct link_limit *limit, const struct used *u)
{
    uint64_t until =
        MAX(limit->frames_per_s ? u->frames_ns : 0, limit->bytes_per_s ? u->bytes_ns : 0);

    if (until <= host_mono_ns())
        return true;
    link_wake_at(l, until);
    return false;
}

static void use(uint64_t *until_ns, uint64_t nr, uint64_t per_s)
{
    uint64_t rested = host_mono_ns() - BURST_NS;

    if (per_s)
        *until_ns = MAX(*until_ns, rested) + (uint64_t)((unsigned __int128)nr * NS_PER_S / per_s);
}

static void link_use(const struct link_limit *limit, struct used *u, size_t bytes)
{
    use(&u->frames_ns, 1, limit->frames_per_s);
    use(&u->bytes_ns, bytes, limit->bytes_per_s);
}

void link_limit(struct net *net, const struct link_limits *limits)
{
    struct link *l = link_of(net);

    lock_take(&l->lock);
    l->limits = *limits;
    lock_drop(&l->lock);
    link_wake_at(l, 0); /* what waits may go on now */
}

/* ---- a card to the link behind: its thread ---- */

/* What the service has for the guest. */
static void link_serve(struct link *l)
{
    if (!l->service)
        return;
    for (;;) {
        struct net_frame f = { .data = l->frame };

        if (!l->nr_frame)
            l->nr_frame = mmds_net_next(l->service, l->frame, host_mono_ns());
        f.bytes = l->nr_frame;
        if (!f.bytes || !l->net.card->rx(l->net.card_arg, 0, &f))
            break;
        l->nr_frame = 0;
    }
    atomic_store(&l->serving, l->nr_frame != 0);
    if (!l->nr_frame) /* or the guest's next buffers wake us */
        link_wake_at(l, mmds_net_due_ns(l->service));
}

static void link_tx(void *arg, unsigned pair)
{
    struct link *l = arg;

    l->net.card->tx(l->net.card_arg, pair);
    link_serve(l);
}

static void count(_Atomic uint64_t *counter, uint64_t by)
{
    atomic_fetch_add_explicit(counter, by, memory_order_relaxed);
}

static bool link_rx(void *arg, unsigned pair, const struct net_frame *f)
{
    struct link *l = arg;
    struct link_limits limits = link_limits_now(l);

    if (!link_allows(l, &limits.rx, &l->rx_used) || !l->net.card->rx(l->net.card_arg, pair, f))
        return false;
    link_use(&limits.rx, &l->rx_used, f->bytes);
    count(&l->net.counts.rx_frames, 1);
    count(&l->net.counts.rx_bytes, f->bytes);
    return true;
}

static void link_up(void *arg, bool up)
{
    struct link *l = arg;

    atomic_store_explicit(&l->net.up, up, memory_order_relaxed); /* a state to show */
    l->net.card->link(l->net.card_arg, up);
}

static const struct net_card_ops link_card = { .tx = link_tx, .rx = link_rx, .link = link_up };

/* ---- a link to the card ---- */

static int link_start(struct net *net)
{
    struct link *l = link_of(net);
    int err = net_connect(l->inner, &link_card, l);

    l->quit = false;
    return err ? err : thread_start(&l->thread, "net limits", link_main, l);
}

static void link_stop(struct net *net)
{
    struct link *l = link_of(net);

    if (l->thread.started) {
        lock_take(&l->lock);
        l->quit = true;
        cond_wake_all(&l->changed);
        lock_drop(&l->lock);
        thread_join(&l->thread);
    }
    net_disconnect(l->inner);
}

static enum net_sent link_send(struct net *net, unsigned pair, struct net_frame *f)
{
    struct link *l = link_of(net);
    struct link_limits limits = link_limits_now(l);
    size_t bytes = f->bytes;
    enum net_sent sent;

    if (l->service && mmds_net_take(l->service, f, host_mono_ns()))
        return NET_SENT;
    if (!link_allows(l, &limits.tx, &l->tx_used))
        return NET_FULL;
    sent = net_send(l->inner, pair, f);
    if (sent == NET_SENT) {
        link_use(&limits.tx, &l->tx_used, bytes);
        count(&l->net.counts.tx_frames, 1);
        count(&l->net.counts.tx_bytes, bytes);
    }
    return sent;
}

static void link_kick(struct net *net, unsigned pair, unsigned what)
{
    struct link *l = link_of(net);

    /* The service's frames are offered again after those that the guest has sent. */
    if (what & NET_KICK_RX && atomic_load(&l->serving))
        what |= NET_KICK_TX;
    net_kick(l->inner, pair, what);
}

static void link_changed(struct net *net)
{
    net_set_guest(link_of(net)->inner,
                  atomic_load_explicit(&net->rx_offloads, memory_order_relaxed),
                  atomic_load_explicit(&net->nr_used, memory_order_relaxed));
}

static void link_close(struct net *net)
{
    struct link *l = link_of(net);

    net_close(l->inner);
    mmds_net_destroy(l->service);
    cond_destroy(&l->changed);
    lock_destroy(&l->lock);
    free(l);
}

static const struct net_ops link_ops = {
    .start = link_start,
    .stop = link_stop,
    .send = link_send,
    .kick = link_kick,
    .changed = link_changed,
    .close = link_close,
};

struct net *link_open(struct net *inner, struct mmds *mmds)
{
    struct link *l = calloc(1, sizeof(*l));

    BUG_ON(inner->nr_pairs != 1);
    if (!l || (mmds && !(l->service = mmds_net_create(mmds)))) {
        log_error("%s: out of memory", inner->name);
        free(l);
        net_close(inner);
        return NULL;
    }
    lock_init(&l->lock, LOCK_LEAF);
    cond_init(&l->changed);
    l->wake_ns = UINT64_MAX;
    l->inner = inner;
    l->net = (struct net){
        .ops = &link_ops,
        .mtu = inner->mtu,
        .nr_pairs = 1,
        .nr_used = 1,
        .tx_offloads = inner->tx_offloads,
        .can_rx = inner->can_rx,
    };
    memcpy(l->net.name, inner->name, sizeof(l->net.name));
    memcpy(l->net.mac, inner->mac, NET_MAC_BYTES);
    return &l->net;
}
