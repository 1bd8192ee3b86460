/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio network card: frames between a driver's queues and a link (backend/net.h). All of it is
 * done in the link's threads, one for each pair of queues; the vCPUs only wake them.
 *
 * A frame that is sent is copied out of the guest's memory first, so its buffers go back at once,
 * and what is looked at cannot change any more. One that the link has no room for waits here, and
 * the driver's others in its queue. A frame that comes waits in the link until there are buffers.
 *
 * Manual: Virtual I/O Device 1.2, "Network Device". The control queue and the filter: net_ctl.c.
 */
#include "virtio/net.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/log.h"

#define PCI_CLASS_ETHERNET 0x020000
/* Frames sent in a row before the other direction has its turn; chains shown to the driver at once.
 */
#define TX_BURST           128
#define TX_PUBLISH         16

enum { RX_QUEUE, TX_QUEUE };

/* "Device Operation"; always with the last member, as VERSION_1 is always on. */
struct vnet_hdr {
    struct net_hdr net;
    uint16_t nr_buffers;
};
_Static_assert(sizeof(struct vnet_hdr) == 12, "struct virtio_net_hdr");
_Static_assert(sizeof(struct vnet_config) == 12, "struct virtio_net_config, up to mtu");

static struct virtio_net *vnet_of(struct virtio *vd)
{
    return container_of(vd, struct virtio_net, vd);
}

static struct virtq *vnet_queue(struct virtio_net *n, unsigned pair, unsigned which)
{
    return &n->vd.queues[2 * pair + which];
}

/* ---- sending ---- */

/* The frame of a chain, copied to p->tx_data. False: it is none and is forgotten. */
static bool vnet_read_frame(struct virtio_net *n, struct vnet_pair *p, const struct virtq_chain *c,
                            struct net_frame *f)
{
    struct vnet_hdr hdr;

    if (c->out_bytes < sizeof(hdr) + NET_ETH_BYTES || c->out_bytes > sizeof(hdr) + NET_FRAME_MAX) {
        if (log_first(&n->vd.seen, TX_QUEUE))
            log_warn("%s: the guest sends a frame of %u bytes with header; dropped", n->name,
                     c->out_bytes);
        return false;
    }
    (void)virtq_read(c, 0, &hdr, sizeof(hdr));
    f->hdr = hdr.net;
    f->hdr.flags &= NET_HDR_NEEDS_CSUM;
    f->data = p->tx_data;
    f->bytes = virtq_read(c, sizeof(hdr), p->tx_data, NET_FRAME_MAX);
    return net_frame_ok(f);
}

/* Sends one frame. False: there is none, or no room for it. */
static bool vnet_send_one(struct virtio_net *n, unsigned pair, unsigned nr)
{
    struct vnet_pair *p = &n->pairs[pair];
    struct virtq *q = vnet_queue(n, pair, TX_QUEUE);
    struct virtq_chain c = { .iov = p->tx.iov, .at = p->tx.at, .max = VNET_IOV };
    struct net_frame f;
    bool good;

    virtio_lock(&n->vd);
    if (!virtq_pop(q, &c)) {
        virtq_publish(q);
        virtio_unlock(&n->vd);
        return false;
    }
    virtio_unlock(&n->vd);
    good = vnet_read_frame(n, p, &c, &f);
    virtio_lock(&n->vd);
    virtq_push(q, &c, 0);
    if (nr % TX_PUBLISH == TX_PUBLISH - 1)
        virtq_publish(q);
    virtio_unlock(&n->vd);
    if (!good || net_send(n->net, pair, &f) == NET_SENT)
        return true;
    p->pending = f;
    p->is_pending = true;
    return false;
}

static bool vnet_send_pending(struct virtio_net *n, unsigned pair)
{
    struct vnet_pair *p = &n->pairs[pair];

    if (p->is_pending && net_send(n->net, pair, &p->pending) == NET_FULL)
        return false;
    p->is_pending = false;
    return true;
}

static void vnet_tx(void *arg, unsigned pair)
{
    struct virtio_net *n = arg;
    unsigned nr = 0;

    /* Pairs with the release in vnet_notify(). */
    if (pair == 0 && atomic_exchange_explicit(&n->control_due, false, memory_order_acquire))
        vnet_control(n);
    if (!vnet_send_pending(n, pair))
        return;
    while (nr < TX_BURST && vnet_send_one(n, pair, nr))
        nr++;
    virtio_lock(&n->vd);
    virtq_publish(vnet_queue(n, pair, TX_QUEUE));
    virtio_unlock(&n->vd);
    virtio_signal(&n->vd);
    if (nr == TX_BURST)
        net_kick(n->net, pair, NET_KICK_TX);
}

/* ---- receiving ---- */

enum room { ROOM_FOUND, ROOM_LATER, ROOM_NEVER };

/* Pops chains for that many bytes, or none at all. */
static enum room vnet_find_room(struct virtio_net *n, unsigned pair, size_t bytes, unsigned *nr)
{
    struct vnet_pair *p = &n->pairs[pair];
    struct virtq *q = vnet_queue(n, pair, RX_QUEUE);
    unsigned max = virtio_has(&n->vd, VNET_F_MRG_RXBUF) ? VNET_RX_CHAINS : 1, used = 0;
    enum room room = ROOM_FOUND;
    size_t have = 0;

    assert_held(&n->vd.lock);
    for (*nr = 0; have < bytes; (*nr)++) {
        struct virtq_chain *c = &p->chains[*nr];

        if (*nr == max || VNET_IOV - used < VNET_QUEUE_SIZE) {
            room = ROOM_NEVER;
            break;
        }
        *c = (struct virtq_chain){ .iov = p->rx.iov + used,
                                   .at = p->rx.at + used,
                                   .max = (uint16_t)(VNET_IOV - used) };
        if (!virtq_pop(q, c)) {
            room = ROOM_LATER;
            break;
        }
        used += c->nr_out + c->nr_in;
        have += c->in_bytes;
    }
    while (room != ROOM_FOUND && *nr)
        virtq_unpop(q, &p->chains[--*nr]);
    return room;
}

/* Into the chains that were found; *written of each. */
static void vnet_write_frame(struct vnet_pair *p, unsigned nr, const struct vnet_hdr *hdr,
                             const struct net_frame *f, uint32_t *written)
{
    size_t done = 0;

    for (unsigned i = 0; i < nr; i++) {
        const struct virtq_chain *c = &p->chains[i];
        /* The header may be split, too: nothing says how small a buffer may be. */
        uint32_t n = 0;

        while (n < c->in_bytes && done < sizeof(*hdr) + f->bytes) {
            bool in_hdr = done < sizeof(*hdr);
            const uint8_t *from =
                in_hdr ? (const uint8_t *)hdr + done : f->data + (done - sizeof(*hdr));
            size_t left = in_hdr ? sizeof(*hdr) - done : sizeof(*hdr) + f->bytes - done;
            uint32_t took = virtq_write(c, n, from, (uint32_t)left);

            n += took;
            done += took;
        }
        written[i] = n;
    }
}

static bool vnet_rx(void *arg, unsigned pair, const struct net_frame *f)
{
    struct virtio_net *n = arg;
    struct vnet_pair *p = &n->pairs[pair];
    struct virtq *q = vnet_queue(n, pair, RX_QUEUE);
    struct vnet_hdr hdr = { .net = f->hdr };
    uint32_t written[VNET_RX_CHAINS];
    enum room room;
    unsigned nr;

    virtio_lock(&n->vd);
    if (!n->running || !vnet_wants(n, f)) {
        virtio_unlock(&n->vd);
        return true;
    }
    if (!(n->rx_offloads & NET_CSUM))
        hdr.net.flags = 0;
    room = vnet_find_room(n, pair, sizeof(hdr) + f->bytes, &nr);
    virtio_unlock(&n->vd);
    if (room == ROOM_FOUND) {
        hdr.nr_buffers = (uint16_t)nr;
        vnet_write_frame(p, nr, &hdr, f, written);
        virtio_lock(&n->vd);
        for (unsigned i = 0; i < nr; i++)
            virtq_push(q, &p->chains[i], written[i]);
        virtq_publish(q);
        virtio_unlock(&n->vd);
    } else if (room == ROOM_NEVER && log_first(&n->vd.seen, RX_QUEUE)) {
        log_warn("%s: the guest's buffers are too small for a frame of %zu bytes; dropped", n->name,
                 f->bytes);
    }
    virtio_signal(&n->vd);
    return room != ROOM_LATER;
}

/* ---- the link ---- */

static void vnet_link(void *arg, bool up)
{
    struct virtio_net *n = arg;
    struct lock *machine = bus_lock(n->vd.bus);

    lock_take(machine);
    n->config.status = up ? VNET_STATUS_LINK_UP : 0;
    virtio_config_changed(&n->vd);
    lock_drop(machine);
}

static const struct net_card_ops vnet_card_ops = {
    .tx = vnet_tx,
    .rx = vnet_rx,
    .link = vnet_link,
};

/* ---- the device ---- */

/* "Feature bit requirements": what each needs. */
static bool vnet_features_ok(struct virtio *vd)
{
    static const struct {
        uint8_t feature, needs;
    } table[] = {
        { VNET_F_GUEST_TSO4, VNET_F_GUEST_CSUM },
        { VNET_F_GUEST_TSO6, VNET_F_GUEST_CSUM },
        { VNET_F_HOST_TSO4, VNET_F_CSUM },
        { VNET_F_HOST_TSO6, VNET_F_CSUM },
        { VNET_F_CTRL_RX, VNET_F_CTRL_VQ },
        { VNET_F_CTRL_VLAN, VNET_F_CTRL_VQ },
        { VNET_F_MQ, VNET_F_CTRL_VQ },
        { VNET_F_CTRL_MAC_ADDR, VNET_F_CTRL_VQ },
        { VNET_F_CTRL_RX_EXTRA, VNET_F_CTRL_VQ },
        { VNET_F_CTRL_GUEST_OFFLOADS, VNET_F_CTRL_VQ },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
        if (virtio_has(vd, table[i].feature) && !virtio_has(vd, table[i].needs)) {
            log_warn("%s: the guest's driver takes feature %u without %u, which it needs; refused",
                     vd->name, table[i].feature, table[i].needs);
            return false;
        }
    return true;
}

static void vnet_start(struct virtio *vd)
{
    struct virtio_net *n = vnet_of(vd);

    virtio_lock(vd);
    n->running = true;
    n->nr_used = 1;
    n->rx_offloads = vnet_offloads_of(vd->features);
    vnet_filter_reset(n);
    virtio_unlock(vd);
    net_set_guest(n->net, n->rx_offloads, n->nr_used);
    atomic_store_explicit(&n->control_due, true, memory_order_release);
    for (unsigned i = 0; i < n->nr_pairs; i++)
        net_kick(n->net, i, NET_KICK_RX | NET_KICK_TX);
}

/* Without MQ the control queue is the third one, however many there are. */
static unsigned vnet_control_idx(const struct virtio_net *n)
{
    return virtio_has(&n->vd, VNET_F_MQ) ? 2 * n->nr_pairs : 2;
}

static void vnet_notify(struct virtio *vd, struct virtq *q)
{
    struct virtio_net *n = vnet_of(vd);

    if (q->idx == vnet_control_idx(n)) {
        atomic_store_explicit(&n->control_due, true, memory_order_release);
        net_kick(n->net, 0, NET_KICK_TX);
        return;
    }
    if (q->idx < 2 * n->nr_pairs)
        net_kick(n->net, q->idx / 2, q->idx % 2 == TX_QUEUE ? NET_KICK_TX : NET_KICK_RX);
}

/* The control queue's work is told from the others' by notify() alone. */
static int vnet_notify_fd(struct virtio *vd, struct virtq *q)
{
    struct virtio_net *n = vnet_of(vd);

    if (q->idx == vnet_control_idx(n) || q->idx >= 2 * n->nr_pairs)
        return -1;
    return net_kick_fd(n->net, q->idx / 2);
}

static void vnet_reset(struct virtio *vd)
{
    struct virtio_net *n = vnet_of(vd);

    virtio_lock(vd);
    n->running = false;
    virtio_unlock(vd);
    memcpy(n->config.mac, n->net->mac, NET_MAC_BYTES);
    net_set_guest(n->net, 0, 1);
    /* A frame that waited for buffers finds that nobody wants it. */
    for (unsigned i = 0; i < n->nr_pairs; i++)
        net_kick(n->net, i, NET_KICK_RX);
}

/*
 * A clone's card has an address of its own. Its guest goes on with the one that it knows, which the
 * filter lets pass, until it looks again.
 */
static void vnet_loaded(struct virtio *vd, bool running)
{
    struct virtio_net *n = vnet_of(vd);

    if (memcmp(n->own_mac, n->net->mac, NET_MAC_BYTES) != 0) {
        memcpy(n->own_mac, n->net->mac, NET_MAC_BYTES);
        memcpy(n->config.mac, n->net->mac, NET_MAC_BYTES);
    }
    n->nr_used = MIN(MAX(n->nr_used, 1), n->nr_pairs);
    n->rx_offloads &= vnet_offloads_of(vd->features);
    n->filter.nr_uni = MIN(n->filter.nr_uni, VNET_FILTER_MACS);
    n->filter.nr_multi = MIN(n->filter.nr_multi, VNET_FILTER_MACS);
    if (!running)
        return;
    virtio_lock(vd);
    n->running = true;
    virtio_unlock(vd);
    net_set_guest(n->net, n->rx_offloads, n->nr_used);
    atomic_store_explicit(&n->control_due, true, memory_order_release);
    for (unsigned i = 0; i < n->nr_pairs; i++)
        net_kick(n->net, i, NET_KICK_RX | NET_KICK_TX);
    virtio_config_changed(vd); /* the link may be up or down, other than before */
}

static const struct state_field vnet_state[] = {
    FIELD(struct virtio_net, own_mac, BYTES, 1),
    FIELD(struct virtio_net, config.mac, BYTES, 1),
    FIELD(struct virtio_net, rx_offloads, U32, 1),
    FIELD(struct virtio_net, nr_used, U32, 1),
    FIELD(struct virtio_net, filter.promisc, BOOL, 1),
    FIELD(struct virtio_net, filter.all_multi, BOOL, 1),
    FIELD(struct virtio_net, filter.all_uni, BOOL, 1),
    FIELD(struct virtio_net, filter.no_multi, BOOL, 1),
    FIELD(struct virtio_net, filter.no_uni, BOOL, 1),
    FIELD(struct virtio_net, filter.no_broadcast, BOOL, 1),
    FIELD(struct virtio_net, filter.vlans_on, BOOL, 1),
    FIELD(struct virtio_net, filter.mac, BYTES, 1),
    FIELD(struct virtio_net, filter.uni_overflow, BOOL, 1),
    FIELD(struct virtio_net, filter.multi_overflow, BOOL, 1),
    FIELD(struct virtio_net, filter.nr_uni, U32, 1),
    FIELD(struct virtio_net, filter.nr_multi, U32, 1),
    FIELD(struct virtio_net, filter.uni, BYTES, 1),
    FIELD(struct virtio_net, filter.multi, BYTES, 1),
    FIELD(struct virtio_net, filter.vlans, U64, 1),
};

static const struct virtio_type vnet_type = {
    .name = "virtio-net",
    .id = VIRTIO_ID_NET,
    .pci_class = PCI_CLASS_ETHERNET,
    .features_ok = vnet_features_ok,
    .start = vnet_start,
    .notify = vnet_notify,
    .notify_fd = vnet_notify_fd,
    .reset = vnet_reset,
    .state = STATE_TABLE("virtio-net", vnet_state, 1),
    .vd_off_bytes = offsetof(struct virtio_net, vd),
    .loaded = vnet_loaded,
};

static uint64_t vnet_features(const struct net *net)
{
    static const struct {
        unsigned offload;
        uint8_t from_guest, to_guest;
    } table[] = {
        { NET_CSUM, VNET_F_CSUM, VNET_F_GUEST_CSUM },
        { NET_TSO4, VNET_F_HOST_TSO4, VNET_F_GUEST_TSO4 },
        { NET_TSO6, VNET_F_HOST_TSO6, VNET_F_GUEST_TSO6 },
        { NET_ECN, VNET_F_HOST_ECN, VNET_F_GUEST_ECN },
    };
    uint64_t f = BIT64(VNET_F_MAC) | BIT64(VNET_F_MTU) | BIT64(VNET_F_MRG_RXBUF) |
                 BIT64(VNET_F_STATUS) | BIT64(VNET_F_CTRL_VQ) | BIT64(VNET_F_CTRL_RX) |
                 BIT64(VNET_F_CTRL_VLAN) | BIT64(VNET_F_CTRL_RX_EXTRA) |
                 BIT64(VNET_F_CTRL_MAC_ADDR) | BIT64(VNET_F_CTRL_GUEST_OFFLOADS);

    for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
        if (net->tx_offloads & table[i].offload)
            f |= BIT64(table[i].from_guest);
        if (net->can_rx & table[i].offload)
            f |= BIT64(table[i].to_guest);
    }
    return net->nr_pairs > 1 ? f | BIT64(VNET_F_MQ) : f;
}

static int vnet_make_pairs(struct virtio_net *n)
{
    n->pairs = calloc(n->nr_pairs, sizeof(*n->pairs));
    if (!n->pairs)
        return -ENOMEM;
    for (unsigned i = 0; i < n->nr_pairs; i++) {
        n->pairs[i].tx_data = malloc(NET_FRAME_MAX);
        if (!n->pairs[i].tx_data)
            return -ENOMEM;
    }
    return 0;
}

int virtio_net_init(struct virtio_net *n, const struct virtio_net_config *cfg)
{
    struct virtio_desc desc;
    int err;

    *n = (struct virtio_net){ .net = cfg->net, .nr_pairs = cfg->net->nr_pairs };
    (void)snprintf(n->name, sizeof(n->name), "net%u", cfg->idx);
    memcpy(n->own_mac, cfg->net->mac, NET_MAC_BYTES);
    memcpy(n->config.mac, cfg->net->mac, NET_MAC_BYTES);
    n->config.max_pairs = (uint16_t)n->nr_pairs;
    n->config.mtu = cfg->net->mtu;
    err = vnet_make_pairs(n);
    if (err) {
        log_error("%s: out of memory", n->name);
        virtio_net_fini(n);
        return err;
    }
    desc = (struct virtio_desc){
        .type = &vnet_type,
        .name = n->name,
        .bus = cfg->bus,
        .mmu = cfg->mmu,
        .features = vnet_features(cfg->net),
        .nr_queues = 2 * n->nr_pairs + 1,
        .queue_size = VNET_QUEUE_SIZE,
        .config = &n->config,
        .config_bytes = sizeof(n->config),
    };
    err = virtio_init(&n->vd, &desc);
    if (err)
        virtio_net_fini(n);
    return err;
}

int virtio_net_start(struct virtio_net *n)
{
    int err = net_connect(n->net, &vnet_card_ops, n);

    n->connected = !err;
    return err;
}

void virtio_net_stop(struct virtio_net *n)
{
    if (n->connected)
        net_disconnect(n->net);
    n->connected = false;
}

void virtio_net_fini(struct virtio_net *n)
{
    virtio_net_stop(n);
    virtio_fini(&n->vd);
    for (unsigned i = 0; i < n->nr_pairs && n->pairs; i++)
        free(n->pairs[i].tx_data);
    free(n->pairs);
    *n = (struct virtio_net){ .nr_pairs = 0 };
}
