/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A network link with something in between: the metadata service, which takes the frames that are
 * for it, and limits to what may pass. Behind it is any other link.
 */
#ifndef API_LINK_H
#define API_LINK_H

#include "backend/net.h"

struct mmds;

/* 0: none. Most of a tenth of a second's worth passes at once after a rest. */
struct link_limit {
    uint64_t frames_per_s, bytes_per_s;
};

struct link_limits {
    struct link_limit tx, rx; /* from the guest, and to it */
};

/* Takes the link behind, which has one pair of queues and is not connected, also on failure. NULL
 * after a message. mmds NULL: no metadata service. */
struct net *link_open(struct net *inner, struct mmds *mmds);
/* Any thread. */
void link_limit(struct net *link, const struct link_limits *limits);

#endif
