/* SPDX-License-Identifier: Apache-2.0 */
/* A virtio network card on a link of backend/net.h: see net.c. */
#ifndef VIRTIO_NET_H
#define VIRTIO_NET_H

#include "backend/net.h"
#include "virtio/virtio.h"

/* Virtual I/O Device 1.2, "Network Device", "Feature bits" */
enum vnet_feature {
    VNET_F_CSUM = 0,
    VNET_F_GUEST_CSUM = 1,
    VNET_F_CTRL_GUEST_OFFLOADS = 2,
    VNET_F_MTU = 3,
    VNET_F_MAC = 5,
    VNET_F_GUEST_TSO4 = 7,
    VNET_F_GUEST_TSO6 = 8,
    VNET_F_GUEST_ECN = 9,
    VNET_F_HOST_TSO4 = 11,
    VNET_F_HOST_TSO6 = 12,
    VNET_F_HOST_ECN = 13,
    VNET_F_MRG_RXBUF = 15,
    VNET_F_STATUS = 16,
    VNET_F_CTRL_VQ = 17,
    VNET_F_CTRL_RX = 18,
    VNET_F_CTRL_VLAN = 19,
    VNET_F_CTRL_RX_EXTRA = 20,
    VNET_F_MQ = 22,
    VNET_F_CTRL_MAC_ADDR = 23,
};

#define VNET_QUEUE_SIZE 256
#define VNET_IOV        (2 * VNET_QUEUE_SIZE) /* a chain's buffers, some split at a slot's end */
#define VNET_RX_CHAINS  64                    /* mergeable buffers for one frame */
#define VNET_QUEUES_MAX (2 * NET_PAIRS_MAX + 1)

/* "Device configuration layout" */
struct vnet_config {
    uint8_t mac[NET_MAC_BYTES];
    uint16_t status;
    uint16_t max_pairs;
    uint16_t mtu;
};
#define VNET_STATUS_LINK_UP BIT(0)

/* Which frames the driver wants ("Packet Receive Filtering"). */
#define VNET_FILTER_MACS 64
struct vnet_filter {
    bool promisc, all_multi, all_uni, no_multi, no_uni, no_broadcast;
    bool vlans_on;
    uint8_t mac[NET_MAC_BYTES];
    /* Addresses beyond the room: all of that kind pass. */
    bool uni_overflow, multi_overflow;
    unsigned nr_uni, nr_multi;
    uint8_t uni[VNET_FILTER_MACS][NET_MAC_BYTES];
    uint8_t multi[VNET_FILTER_MACS][NET_MAC_BYTES];
    uint64_t vlans[4096 / 64];
};

struct vnet_buffers {
    struct host_iov iov[VNET_IOV];
    gpa_t at[VNET_IOV];
};

/* One pair of queues; but for the queues themselves its thread's own. */
struct vnet_pair {
    uint8_t *tx_data; /* a frame */
    struct net_frame pending;
    bool is_pending; /* the link had no room for it */
    struct vnet_buffers tx, rx;
    struct virtq_chain chains[VNET_RX_CHAINS];
};

struct virtio_net {
    struct virtio vd;
    struct net *net;
    char name[16];
    bool connected;
    struct vnet_config config;
    uint8_t own_mac[NET_MAC_BYTES]; /* the link's, which the guest may have changed in config */
    unsigned nr_pairs;
    struct vnet_pair *pairs;
    _Atomic bool control_due; /* there may be commands */

    /* Guarded by the device's lock. */
    bool running;         /* between DRIVER_OK and reset */
    unsigned rx_offloads; /* NET_*: what the driver takes now */
    unsigned nr_used;
    struct vnet_filter filter;
    uint64_t nr_filtered;
};

struct virtio_net_config {
    struct bus *bus;
    struct mmu *mmu;
    struct net *net; /* the caller's; connected from virtio_net_start() to virtio_net_stop() */
    unsigned idx;    /* for its name: "net0" */
};

/* 0 or -errno after a message. */
int virtio_net_init(struct virtio_net *n, const struct virtio_net_config *cfg) MUST_CHECK;
/* When the transport is attached: from now on the link's threads run. No locks held, here and in
 * stop. */
int virtio_net_start(struct virtio_net *n) MUST_CHECK;
void virtio_net_stop(struct virtio_net *n);
/* The transport is gone. A zeroed struct is fine, too. */
void virtio_net_fini(struct virtio_net *n);

/* ---- net_ctl.c ---- */
void vnet_filter_reset(struct virtio_net *n);
/* Device's lock held. */
bool vnet_wants(struct virtio_net *n, const struct net_frame *f);
/* Does what lies in the control queue. No locks held. */
void vnet_control(struct virtio_net *n);
/* Of features or of the control queue's command, which have the same bits. */
unsigned vnet_offloads_of(uint64_t bits);

#endif
