/* SPDX-License-Identifier: Apache-2.0 */
/* A network card for the tests of the links: a list of frames to send, the last ones that came. */
#ifndef BACKEND_NET_FAKE_H
#define BACKEND_NET_FAKE_H

#include <stdlib.h>
#include <string.h>

#include "backend/net.h"

#define CARD_FRAMES 64
#define CARD_WAIT_S 60 /* only a failure takes that long */

struct card_frame {
    struct net_hdr hdr;
    uint8_t *data;
    size_t bytes;
};

struct card {
    struct net *net;
    struct lock lock; /* LOCK_LEAF: guards all below */
    struct cond changed;
    struct card_frame out[CARD_FRAMES], in[CARD_FRAMES];
    unsigned nr_out, nr_sent, nr_in;
    unsigned room; /* frames that rx() takes before it says no */
    unsigned nr_refused, nr_full;
    bool up;
};

static void card_tx(void *arg, unsigned pair)
{
    struct card *c = arg;

    lock_take(&c->lock);
    while (c->nr_sent < c->nr_out) {
        struct card_frame *o = &c->out[c->nr_sent];
        struct net_frame f = { .hdr = o->hdr, .data = o->data, .bytes = o->bytes };
        enum net_sent sent;

        lock_drop(&c->lock);
        sent = net_send(c->net, pair, &f);
        lock_take(&c->lock);
        if (sent == NET_FULL) {
            c->nr_full++;
            break;
        }
        c->nr_sent++;
    }
    cond_wake_all(&c->changed);
    lock_drop(&c->lock);
}

static bool card_rx(void *arg, unsigned pair, const struct net_frame *f)
{
    struct card *c = arg;
    bool ok;

    (void)pair;
    lock_take(&c->lock);
    ok = c->nr_in < c->room && c->nr_in < CARD_FRAMES;
    if (ok) {
        struct card_frame *i = &c->in[c->nr_in++];

        *i = (struct card_frame){ f->hdr, malloc(f->bytes), f->bytes };
        BUG_ON(!i->data);
        memcpy(i->data, f->data, f->bytes);
    } else {
        c->nr_refused++;
    }
    cond_wake_all(&c->changed);
    lock_drop(&c->lock);
    return ok;
}

static void card_link(void *arg, bool up)
{
    struct card *c = arg;

    lock_take(&c->lock);
    c->up = up;
    cond_wake_all(&c->changed);
    lock_drop(&c->lock);
}

static const struct net_card_ops card_ops = { .tx = card_tx, .rx = card_rx, .link = card_link };

static int card_connect(struct card *c, struct net *net, unsigned room)
{
    *c = (struct card){ .net = net, .room = room };
    lock_init(&c->lock, LOCK_LEAF);
    cond_init(&c->changed);
    return net_connect(net, &card_ops, c);
}

/* Disconnects, closes the link, forgets the frames. */
static void card_close(struct card *c)
{
    net_close(c->net);
    for (unsigned i = 0; i < c->nr_out; i++)
        free(c->out[i].data);
    for (unsigned i = 0; i < c->nr_in; i++)
        free(c->in[i].data);
    cond_destroy(&c->changed);
    lock_destroy(&c->lock);
}

static void card_send(struct card *c, struct net_hdr hdr, const uint8_t *data, size_t bytes)
{
    struct card_frame *o;

    lock_take(&c->lock);
    BUG_ON(c->nr_out == CARD_FRAMES);
    o = &c->out[c->nr_out++];
    *o = (struct card_frame){ hdr, malloc(bytes), bytes };
    BUG_ON(!o->data);
    memcpy(o->data, data, bytes);
    lock_drop(&c->lock);
    net_kick(c->net, 0, NET_KICK_TX);
}

/* Waits until *what >= nr. */
static bool card_wait(struct card *c, const unsigned *what, unsigned nr)
{
    uint64_t end = host_mono_ns() + CARD_WAIT_S * 1000000000ull;
    bool ok;

    lock_take(&c->lock);
    while (*what < nr && cond_wait_until(&c->changed, &c->lock, end))
        ;
    ok = *what >= nr;
    lock_drop(&c->lock);
    return ok;
}

static inline bool card_wait_link(struct card *c, bool up)
{
    uint64_t end = host_mono_ns() + CARD_WAIT_S * 1000000000ull;
    bool ok;

    lock_take(&c->lock);
    while (c->up != up && cond_wait_until(&c->changed, &c->lock, end))
        ;
    ok = c->up == up;
    lock_drop(&c->lock);
    return ok;
}

static inline void card_give_room(struct card *c, unsigned room)
{
    lock_take(&c->lock);
    c->room = room;
    lock_drop(&c->lock);
    net_kick(c->net, 0, NET_KICK_RX);
}

#endif
