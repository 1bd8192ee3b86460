/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control queue of a virtio network card, and what it controls: which frames the driver wants,
 * how many queues it uses, which offloads it takes.
 *
 * Manual: Virtual I/O Device 1.2, "Network Device", "Control Virtqueue".
 */
#include <stdatomic.h>
#include <string.h>

#include "lib/log.h"
#include "virtio/net.h"

#define CTL_OK        0
#define CTL_ERR       1
/* A chain of a command: header, data in some pieces, the answer. */
#define CTL_DATA_AT   2
#define CTL_BURST     64
#define ETH_VLAN      0x8100
#define VLAN_ID_MASK  0xfff
#define MAC_GROUP_BIT 0x01

/* ---- the filter ---- */

/* Until the driver says something else it gets everything, like one without control queue. */
void vnet_filter_reset(struct virtio_net *n)
{
    n->filter = (struct vnet_filter){ .promisc = true };
    n->filter.vlans_on = virtio_has(&n->vd, VNET_F_CTRL_VLAN);
    memcpy(n->filter.mac, n->config.mac, NET_MAC_BYTES);
}

static bool mac_in(const uint8_t (*list)[NET_MAC_BYTES], unsigned nr, const uint8_t *mac)
{
    for (unsigned i = 0; i < nr; i++)
        if (!memcmp(list[i], mac, NET_MAC_BYTES))
            return true;
    return false;
}

static bool filter_vlan(const struct vnet_filter *f, const struct net_frame *frame)
{
    const uint8_t *p = frame->data;
    unsigned id;

    if (!f->vlans_on || frame->bytes < NET_ETH_BYTES + 4 || (p[12] << 8 | p[13]) != ETH_VLAN)
        return true;
    id = (unsigned)(p[14] << 8 | p[15]) & VLAN_ID_MASK;
    return f->vlans[id / 64] >> id % 64 & 1;
}

static bool filter_address(const struct vnet_filter *f, const uint8_t *mac)
{
    static const uint8_t broadcast[NET_MAC_BYTES] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

    if (f->promisc)
        return true;
    if (!memcmp(mac, broadcast, NET_MAC_BYTES))
        return !f->no_broadcast;
    if (mac[0] & MAC_GROUP_BIT)
        return !f->no_multi &&
               (f->all_multi || f->multi_overflow || mac_in(f->multi, f->nr_multi, mac));
    return !f->no_uni && (f->all_uni || f->uni_overflow || !memcmp(mac, f->mac, NET_MAC_BYTES) ||
                          mac_in(f->uni, f->nr_uni, mac));
}

bool vnet_wants(struct virtio_net *n, const struct net_frame *f)
{
    assert_held(&n->vd.lock);
    if (filter_vlan(&n->filter, f) && filter_address(&n->filter, f->data))
        return true;
    n->nr_filtered++;
    return false;
}

/* ---- commands: the chain's data begins at CTL_DATA_AT; machine and device lock held ---- */

static bool ctl_rx(struct virtio_net *n, const struct virtq_chain *c, unsigned cmd)
{
    struct vnet_filter *f = &n->filter;
    bool *const flags[] = { &f->promisc,  &f->all_multi, &f->all_uni,
                            &f->no_multi, &f->no_uni,    &f->no_broadcast };
    uint8_t on;

    (void)virtq_read(c, CTL_DATA_AT, &on, sizeof(on));
    *flags[cmd] = on;
    return true;
}

/* One of the two lists; *off_bytes goes behind it. False: it is longer than the command. */
static bool ctl_mac_list(const struct virtq_chain *c, uint32_t *off_bytes,
                         uint8_t (*list)[NET_MAC_BYTES], unsigned *nr, bool *overflow)
{
    uint32_t left = c->out_bytes - *off_bytes, entries;

    if (virtq_read(c, *off_bytes, &entries, sizeof(entries)) != sizeof(entries) ||
        entries > (left - sizeof(entries)) / NET_MAC_BYTES)
        return false;
    *off_bytes += sizeof(entries);
    *overflow = entries > VNET_FILTER_MACS;
    *nr = *overflow ? 0 : entries;
    (void)virtq_read(c, *off_bytes, list, *nr * NET_MAC_BYTES);
    *off_bytes += entries * NET_MAC_BYTES;
    return true;
}

static bool ctl_mac_table(struct virtio_net *n, const struct virtq_chain *c, unsigned cmd)
{
    struct vnet_filter new = n->filter;
    uint32_t off_bytes = CTL_DATA_AT;

    (void)cmd;
    if (!ctl_mac_list(c, &off_bytes, new.uni, &new.nr_uni, &new.uni_overflow) ||
        !ctl_mac_list(c, &off_bytes, new.multi, &new.nr_multi, &new.multi_overflow))
        return false;
    n->filter = new;
    return true;
}

static bool ctl_mac_set(struct virtio_net *n, const struct virtq_chain *c, unsigned cmd)
{
    uint8_t mac[NET_MAC_BYTES];

    (void)cmd;
    (void)virtq_read(c, CTL_DATA_AT, mac, sizeof(mac));
    memcpy(n->filter.mac, mac, sizeof(mac));
    memcpy(n->config.mac, mac, sizeof(mac));
    return true;
}

static bool ctl_vlan(struct virtio_net *n, const struct virtq_chain *c, unsigned cmd)
{
    uint16_t id;

    (void)virtq_read(c, CTL_DATA_AT, &id, sizeof(id));
    if (id > VLAN_ID_MASK)
        return false;
    if (cmd == 0)
        n->filter.vlans[id / 64] |= BIT64(id % 64);
    else
        n->filter.vlans[id / 64] &= ~BIT64(id % 64);
    return true;
}

static bool ctl_pairs(struct virtio_net *n, const struct virtq_chain *c, unsigned cmd)
{
    uint16_t nr;

    (void)cmd;
    (void)virtq_read(c, CTL_DATA_AT, &nr, sizeof(nr));
    if (!nr || nr > n->nr_pairs)
        return false;
    n->nr_used = nr;
    net_set_guest(n->net, n->rx_offloads, n->nr_used);
    return true;
}

unsigned vnet_offloads_of(uint64_t bits)
{
    return (bits & BIT64(VNET_F_GUEST_CSUM) ? NET_CSUM : 0) |
           (bits & BIT64(VNET_F_GUEST_TSO4) ? NET_TSO4 : 0) |
           (bits & BIT64(VNET_F_GUEST_TSO6) ? NET_TSO6 : 0) |
           (bits & BIT64(VNET_F_GUEST_ECN) ? NET_ECN : 0);
}

static bool ctl_offloads(struct virtio_net *n, const struct virtq_chain *c, unsigned cmd)
{
    const uint64_t known = BIT64(VNET_F_GUEST_CSUM) | BIT64(VNET_F_GUEST_TSO4) |
                           BIT64(VNET_F_GUEST_TSO6) | BIT64(VNET_F_GUEST_ECN);
    uint64_t bits;

    (void)cmd;
    (void)virtq_read(c, CTL_DATA_AT, &bits, sizeof(bits));
    if (bits & ~(known & n->vd.features))
        return false;
    n->rx_offloads = vnet_offloads_of(bits);
    net_set_guest(n->net, n->rx_offloads, n->nr_used);
    return true;
}

static const struct command {
    uint8_t class, cmd, feature;
    uint16_t data_bytes; /* at least */
    bool (*run)(struct virtio_net *n, const struct virtq_chain *c, unsigned cmd);
} commands[] = {
    { 0, 0, VNET_F_CTRL_RX, 1, ctl_rx },
    { 0, 1, VNET_F_CTRL_RX, 1, ctl_rx },
    { 0, 2, VNET_F_CTRL_RX_EXTRA, 1, ctl_rx },
    { 0, 3, VNET_F_CTRL_RX_EXTRA, 1, ctl_rx },
    { 0, 4, VNET_F_CTRL_RX_EXTRA, 1, ctl_rx },
    { 0, 5, VNET_F_CTRL_RX_EXTRA, 1, ctl_rx },
    { 1, 0, VNET_F_CTRL_RX, 8, ctl_mac_table },
    { 1, 1, VNET_F_CTRL_MAC_ADDR, NET_MAC_BYTES, ctl_mac_set },
    { 2, 0, VNET_F_CTRL_VLAN, 2, ctl_vlan },
    { 2, 1, VNET_F_CTRL_VLAN, 2, ctl_vlan },
    { 4, 0, VNET_F_MQ, 2, ctl_pairs },
    { 5, 0, VNET_F_CTRL_GUEST_OFFLOADS, 8, ctl_offloads },
};

static bool ctl_run(struct virtio_net *n, const struct virtq_chain *c)
{
    uint8_t head[CTL_DATA_AT];

    (void)virtq_read(c, 0, head, sizeof(head));
    for (unsigned i = 0; i < ARRAY_SIZE(commands); i++) {
        const struct command *k = &commands[i];

        if (k->class == head[0] && k->cmd == head[1] && virtio_has(&n->vd, k->feature))
            return c->out_bytes >= sizeof(head) + k->data_bytes && k->run(n, c, head[1]);
    }
    if (log_first(&n->vd.seen, 0x10000u | (unsigned)head[0] << 8 | head[1]))
        log_warn("%s: the guest's command %u.%u is not known, or its feature was not agreed on",
                 n->name, head[0], head[1]);
    return false;
}

void vnet_control(struct virtio_net *n)
{
    struct lock *machine = bus_lock(n->vd.bus);
    struct vnet_pair *p = &n->pairs[0];
    unsigned nr = 0;
    struct virtq *q;

    /* Both: commands change the configuration space, too. */
    lock_take(machine);
    virtio_lock(&n->vd);
    q = &n->vd.queues[virtio_has(&n->vd, VNET_F_MQ) ? 2 * n->nr_pairs : 2];
    for (; nr < CTL_BURST && virtio_has(&n->vd, VNET_F_CTRL_VQ); nr++) {
        struct virtq_chain c = { .iov = p->tx.iov, .at = p->tx.at, .max = VNET_IOV };
        uint8_t ack;

        if (!virtq_pop(q, &c))
            break;
        if (c.out_bytes < CTL_DATA_AT || c.in_bytes < sizeof(ack)) {
            virtq_unpop(q, &c);
            virtio_broken(&n->vd, "a control command without its header, or place for an answer");
            break;
        }
        ack = ctl_run(n, &c) ? CTL_OK : CTL_ERR;
        (void)virtq_write(&c, 0, &ack, sizeof(ack));
        virtq_push(q, &c, sizeof(ack));
        virtq_publish(q);
    }
    virtio_unlock(&n->vd);
    virtio_signal_locked(&n->vd);
    lock_drop(machine);
    if (nr == CTL_BURST) { /* there may be more, of which nobody will tell */
        atomic_store_explicit(&n->control_due, true, memory_order_release);
        net_kick(n->net, 0, NET_KICK_TX);
    }
}
