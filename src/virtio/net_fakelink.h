/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests and fuzzing: a link without threads. What the card sends is kept, kicks are noted, and
 * the test calls the card's functions itself.
 */
#ifndef VIRTIO_NET_FAKELINK_H
#define VIRTIO_NET_FAKELINK_H

#include <string.h>

#include "virtio/net.h"

struct fakelink {
    struct net net;
    unsigned room; /* frames taken before it is full */
    unsigned nr_sent;
    struct net_hdr last_hdr;
    uint8_t last[NET_FRAME_MAX];
    size_t last_bytes;
    unsigned kicked[NET_PAIRS_MAX];
    unsigned nr_changes;
};

static inline int fakelink_start(struct net *net)
{
    net->card->link(net->card_arg, true);
    return 0;
}

static inline void fakelink_stop(struct net *net)
{
    (void)net;
}

static inline enum net_sent fakelink_send(struct net *net, unsigned pair, struct net_frame *f)
{
    struct fakelink *l = container_of(net, struct fakelink, net);

    (void)pair;
    if (!l->room)
        return NET_FULL;
    l->room--;
    l->nr_sent++;
    l->last_hdr = f->hdr;
    l->last_bytes = f->bytes;
    memcpy(l->last, f->data, f->bytes);
    return NET_SENT;
}

static inline void fakelink_kick(struct net *net, unsigned pair, unsigned what)
{
    BUG_ON(pair >= net->nr_pairs);
    container_of(net, struct fakelink, net)->kicked[pair] |= what;
}

static inline void fakelink_changed(struct net *net)
{
    container_of(net, struct fakelink, net)->nr_changes++;
}

static const struct net_ops fakelink_ops = {
    .start = fakelink_start,
    .stop = fakelink_stop,
    .send = fakelink_send,
    .kick = fakelink_kick,
    .changed = fakelink_changed,
    .close = fakelink_stop,
};

static inline void fakelink_init(struct fakelink *l, unsigned nr_pairs)
{
    const unsigned all = NET_CSUM | NET_TSO4 | NET_TSO6 | NET_ECN;

    *l = (struct fakelink){ .room = 1000,
                            .net = { .ops = &fakelink_ops,
                                     .name = "fake",
                                     .mac = { 2, 0, 0, 0, 0, 1 },
                                     .mtu = NET_MTU_DEFAULT,
                                     .nr_pairs = nr_pairs,
                                     .nr_used = 1,
                                     .tx_offloads = all,
                                     .can_rx = all } };
}

/* What the pair's thread would do. */
static inline void fakelink_run(struct fakelink *l, unsigned pair)
{
    l->kicked[pair] = 0;
    l->net.card->tx(l->net.card_arg, pair);
}

static inline bool fakelink_rx(struct fakelink *l, unsigned pair, struct net_hdr hdr, uint8_t *data,
                               size_t bytes)
{
    struct net_frame f = { .hdr = hdr, .data = data, .bytes = bytes };

    return l->net.card->rx(l->net.card_arg, pair, &f);
}

#endif
