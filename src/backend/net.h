/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Network links as network cards see them: where a guest's Ethernet frames go and come from.
 *
 * A link has one or more queue pairs and a thread for each (user mode and a socket have one pair).
 * The thread does the card's work too: it calls the card's tx() after a kick and rx() when a frame
 * has come, so that no vCPU waits for a system call and two queues never wait for each other.
 */
#ifndef BACKEND_NET_H
#define BACKEND_NET_H

#include "host/host.h"
#include "lib/types.h"

#define NET_MAC_BYTES   6
#define NET_ETH_BYTES   14
#define NET_PAIRS_MAX   16
#define NET_MTU_DEFAULT 1500
#define NET_MTU_MIN     68
#define NET_MTU_MAX     65521
/* The longest frame of all: what segmentation offload hands over, with a VLAN tag. */
#define NET_FRAME_MAX   (65536 + 18)

/*
 * What is to be done to a frame, or has been: struct virtio_net_hdr without num_buffers, which is
 * also what the host's tap devices take (virtio 1.2, Network Device, Device Operation).
 */
struct net_hdr {
    uint8_t flags;    /* NET_HDR_* */
    uint8_t gso_type; /* NET_GSO_* */
    uint16_t hdr_len; /* a hint, not to be believed */
    uint16_t gso_size;
    uint16_t csum_start;
    uint16_t csum_offset;
};

#define NET_HDR_NEEDS_CSUM BIT(0)
#define NET_HDR_DATA_VALID BIT(1)

#define NET_GSO_NONE  0
#define NET_GSO_TCPV4 1
#define NET_GSO_TCPV6 4
#define NET_GSO_ECN   0x80 /* a flag beside the type */

struct net_frame {
    struct net_hdr hdr;
    uint8_t *data; /* from the destination address on, without check sequence */
    size_t bytes;
};

/* Offloads: what a link takes from the guest (net.tx_offloads), and what a guest takes from it. */
#define NET_CSUM BIT(0)
#define NET_TSO4 BIT(1)
#define NET_TSO6 BIT(2)
#define NET_ECN  BIT(3) /* TSO of segments with CWR */

struct net;

/* The card's end. All but link() run in the pair's own thread, without locks; link() in any. */
struct net_card_ops {
    /* The pair was kicked, or there is room again: hand over frames by net_send() until there are
     * none or it says NET_FULL. */
    void (*tx)(void *arg, unsigned pair);
    /* False: there is no buffer now; the same frame comes again after net_kick(NET_KICK_RX). */
    bool (*rx)(void *arg, unsigned pair, const struct net_frame *f);
    void (*link)(void *arg, bool up);
};

enum net_sent {
    NET_SENT, /* or lost, as on any wire; then it was counted */
    NET_FULL, /* not taken; tx() is called when there is room */
};

#define NET_KICK_TX BIT(0)
#define NET_KICK_RX BIT(1)

struct net_ops {
    int (*start)(struct net *net);
    void (*stop)(struct net *net); /* no call of the card's runs after its return */
    enum net_sent (*send)(struct net *net, unsigned pair, struct net_frame *f);
    void (*kick)(struct net *net, unsigned pair, unsigned what);
    /* Optional: an eventfd that made ready is a kick for both; while the card is open. */
    int (*kick_fd)(struct net *net, unsigned pair);
    /* net->rx_offloads and net->nr_used have changed; any thread; optional. */
    void (*changed)(struct net *net);
    void (*close)(struct net *net); /* stopped by then; frees */
};

struct net_counts {
    _Atomic uint64_t tx_frames, tx_bytes, tx_dropped;
    _Atomic uint64_t rx_frames, rx_bytes, rx_dropped;
};

struct net {
    const struct net_ops *ops;
    char name[80]; /* for messages: "net0 (tap 'vm0')" */
    uint8_t mac[NET_MAC_BYTES];
    uint16_t mtu; /* of what is inside a frame */
    unsigned nr_pairs;
    unsigned tx_offloads;         /* NET_CSUM..: what the guest may leave to the link */
    unsigned can_rx;              /* what may come if the guest takes it */
    _Atomic unsigned rx_offloads; /* what the guest takes now; see net_set_guest() */
    _Atomic unsigned nr_used;     /* pairs that the guest uses now */
    _Atomic bool up;
    struct net_counts counts;

    const struct net_card_ops *card; /* set while connected */
    void *card_arg;
};

/* ---- opening: NULL after a message ---- */

struct net_common {
    unsigned idx;       /* the first card of a VM is 0 */
    const char *vm;     /* the VM's name */
    const uint8_t *mac; /* NULL: derived from name and index */
};

#define NET_FORWARDS_MAX 64

struct net_forward {
    bool udp;
    uint32_t host_addr,
        guest_addr; /* IPv4, host byte order; 0: any, and the guest's DHCP address */
    uint16_t host_port, guest_port;
};

struct net_user_config {
    bool restricted; /* the guest reaches nothing, forwards reach the guest; IPv4 alone */
    uint16_t mtu;    /* up to NET_USER_MTU_MAX; 0: NET_MTU_DEFAULT */
    unsigned nr_forwards;
    struct net_forward forwards[NET_FORWARDS_MAX];
};

#define NET_USER_MTU_MAX 65520
/* A private network behind the host's own sockets, by libslirp: 10.0.2.0/24 and fec0::/64. */
struct net *net_open_user(const struct net_common *c, const struct net_user_config *cfg);
/* A tap interface of the host, which exists and which we may use. */
struct net *net_open_tap(const struct net_common *c, const char *ifname, unsigned nr_pairs);
/* Another VM's card, by a Unix socket: the first of the two makes it. */
struct net *net_open_socket(const struct net_common *c, const char *path, uint16_t mtu);

/* The MAC address of a VM's n-th card: locally administered, always the same for the same name. */
void net_mac_derive(uint8_t mac[NET_MAC_BYTES], const char *vm, unsigned idx);

/* ---- for the card ---- */

/* Starts the threads. 0, or -errno after a message. Once at a time. */
int net_connect(struct net *net, const struct net_card_ops *card, void *arg) MUST_CHECK;
/* Ends them; no locks may be held that the card's functions take. Not connected: nothing. */
void net_disconnect(struct net *net);
void net_close(struct net *net); /* NULL: nothing */

/* Only from the card's tx(). The frame may be changed. */
static inline enum net_sent net_send(struct net *net, unsigned pair, struct net_frame *f)
{
    return net->ops->send(net, pair, f);
}
/* Any thread, any locks: what the guest has told. */
static inline void net_kick(struct net *net, unsigned pair, unsigned what)
{
    net->ops->kick(net, pair, what);
}
static inline int net_kick_fd(struct net *net, unsigned pair) /* -1: none */
{
    return net->ops->kick_fd ? net->ops->kick_fd(net, pair) : -1;
}
/* What the guest's driver takes (NET_CSUM...), and how many pairs it uses (at least 1). */
void net_set_guest(struct net *net, unsigned rx_offloads, unsigned nr_used);

/* ---- net_offload.c: what a card leaves to others, done here ---- */

/* Does the header fit the frame? Both may be a guest's or a stranger's. */
bool net_frame_ok(const struct net_frame *f);
/* Fills in the checksum that the header asks for. The frame is net_frame_ok(). */
void net_checksum(struct net_frame *f);
/*
 * Cuts a TCP frame (gso_type not NONE, net_frame_ok()) into frames with at most mss bytes of
 * payload, complete with checksums, and gives each to emit(), which may return false to end it. In
 * scratch (NET_FRAME_MAX bytes) they are made. -EINVAL if the frame is not what its header says.
 */
int net_segment(struct net_frame *f, size_t mss, uint8_t *scratch,
                bool (*emit)(void *arg, struct net_frame *f), void *arg) MUST_CHECK;

#endif
