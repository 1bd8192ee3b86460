/* SPDX-License-Identifier: Apache-2.0 */
/* The value of --net, parsed, and the link it describes. */
#ifndef CLI_NET_OPTIONS_H
#define CLI_NET_OPTIONS_H

#include "backend/net.h"
#include "vm/vm.h"

#define NET_NAME_MAX 15  /* of a host's interface */
#define NET_PATH_MAX 107 /* of a Unix socket */

enum net_kind { NET_USER, NET_TAP, NET_SOCKET };

struct net_option {
    enum net_kind kind;
    enum vm_transport transport;
    char where[NET_PATH_MAX + 1]; /* the tap's name, the socket's path */
    bool has_mac;
    uint8_t mac[NET_MAC_BYTES];
    unsigned nr_queues;
    uint16_t mtu;
    struct net_user_config user;
};

/* What `--net val` says (but for "none"). False after a message. */
bool net_option_parse(struct net_option *o, const char *val);
/* The idx-th card's link; NULL after a message. vm: the VM's name. */
struct net *net_option_open(const struct net_option *o, const char *vm, unsigned idx);

#endif
