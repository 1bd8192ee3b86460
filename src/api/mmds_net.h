/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The metadata service as a host on the guest's network: it hears Ethernet frames of the guest and
 * has frames for it. It answers ARP for its address and TCP on port 80; each connection is one
 * request and one answer. All is called on one thread.
 */
#ifndef API_MMDS_NET_H
#define API_MMDS_NET_H

#include "backend/net.h"

struct mmds;
struct mmds_net;

#define MMDS_FRAME_MAX 1514u

/* NULL after a message. */
struct mmds_net *mmds_net_create(struct mmds *m);
void mmds_net_destroy(struct mmds_net *n); /* NULL is fine */

/* A frame from the guest, net_frame_ok(). False: it is not for the service. */
bool mmds_net_take(struct mmds_net *n, const struct net_frame *f, uint64_t now_ns);
/* The next frame for the guest, whole with checksums, into MMDS_FRAME_MAX bytes; 0: none. */
size_t mmds_net_next(struct mmds_net *n, uint8_t *buf, uint64_t now_ns);
/* Until then mmds_net_next() has nothing new without a frame of the guest's; UINT64_MAX: ever. */
uint64_t mmds_net_due_ns(const struct mmds_net *n);

#endif
