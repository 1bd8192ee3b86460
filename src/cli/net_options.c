/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --net user|tap=NAME|socket=PATH[,KEY=VALUE]...: the first part says where the link leads, each
 * further one is a row of keys[]. A refusal names the part and what would be right.
 */
#include "cli/net_options.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "lib/log.h"

#define NET_VALUE_MAX 4096
/* The network of net_user.c. */
#define USER_NETWORK  0x0a000200u
#define USER_MASK     0xffffff00u

/* ---- MAC, queues, MTU ---- */

static bool net_set_mac(struct net_option *o, const char *val)
{
    for (unsigned i = 0; i < NET_MAC_BYTES; i++) {
        const char *p = val + 3 * i;
        char byte[3] = { 0 };

        if (!isxdigit((unsigned char)p[0]) || !isxdigit((unsigned char)p[1]) ||
            p[2] != (i == NET_MAC_BYTES - 1 ? '\0' : ':')) {
            log_error("--net mac='%s' is not a MAC address such as 02:00:00:12:34:56", val);
            return false;
        }
        memcpy(byte, p, 2);
        o->mac[i] = (uint8_t)strtoul(byte, NULL, 16);
    }
    if (o->mac[0] & 1) {
        log_error("--net mac=%s is a group's address; a card's first byte is even", val);
        return false;
    }
    o->has_mac = true;
    return true;
}

static bool net_set_queues(struct net_option *o, const char *val)
{
    uint64_t nr;

    if (!value_uint(val, 1, NET_PAIRS_MAX, &nr)) {
        log_error("--net queues='%s' is not a number from 1 to %d", val, NET_PAIRS_MAX);
        return false;
    }
    o->nr_queues = (unsigned)nr;
    return true;
}

static bool net_set_mtu(struct net_option *o, const char *val)
{
    uint64_t mtu;

    unsigned max = o->kind == NET_USER ? NET_USER_MTU_MAX : NET_MTU_MAX;

    if (!value_uint(val, NET_MTU_MIN, max, &mtu)) {
        log_error("--net mtu='%s' is not a number from %d to %u", val, NET_MTU_MIN, max);
        return false;
    }
    o->mtu = o->user.mtu = (uint16_t)mtu;
    return true;
}

static bool net_set_transport(struct net_option *o, const char *val)
{
    if (strcmp(val, "pci") != 0 && strcmp(val, "mmio") != 0) {
        log_error("--net transport='%s' is neither pci nor mmio", val);
        return false;
    }
    o->transport = strcmp(val, "mmio") ? VM_TRANSPORT_PCI : VM_TRANSPORT_MMIO;
    return true;
}

/* ---- user mode ---- */

static bool net_set_restrict(struct net_option *o, const char *val)
{
    if (strcmp(val, "on") != 0 && strcmp(val, "off") != 0) {
        log_error("--net restrict='%s' is neither on nor off", val);
        return false;
    }
    o->user.restricted = !strcmp(val, "on");
    return true;
}

/* "ADDRESS:PORT" or ":PORT". */
static bool net_endpoint(char *text, uint32_t *addr, uint16_t *port)
{
    char *colon = strchr(text, ':');
    struct in_addr in;
    uint64_t nr;

    if (!colon)
        return false;
    *colon = 0;
    if (!value_uint(colon + 1, 1, UINT16_MAX, &nr))
        return false;
    *port = (uint16_t)nr;
    *addr = 0;
    if (!*text)
        return true;
    if (inet_pton(AF_INET, text, &in) != 1)
        return false;
    *addr = ntohl(in.s_addr);
    return true;
}

/* [tcp|udp]:[ADDRESS]:PORT-[ADDRESS]:PORT, as QEMU's. */
static bool net_parse_forward(struct net_forward *f, char *text)
{
    char *rest = strchr(text, ':'), *guest;

    if (!rest)
        return false;
    *rest++ = 0;
    f->udp = !strcmp(text, "udp");
    if (*text && !f->udp && strcmp(text, "tcp") != 0)
        return false;
    guest = strchr(rest, '-');
    if (!guest)
        return false;
    *guest++ = 0;
    return net_endpoint(rest, &f->host_addr, &f->host_port) &&
           net_endpoint(guest, &f->guest_addr, &f->guest_port);
}

static bool net_set_hostfwd(struct net_option *o, const char *val)
{
    struct net_forward f = { .udp = false };
    char text[128];

    if ((size_t)snprintf(text, sizeof(text), "%s", val) >= sizeof(text) ||
        !net_parse_forward(&f, text)) {
        log_error("--net hostfwd='%s' is not [tcp|udp]:[ADDRESS]:PORT-[ADDRESS]:PORT, such as "
                  "tcp:127.0.0.1:2222-:22",
                  val);
        return false;
    }
    if (f.guest_addr && (f.guest_addr & USER_MASK) != USER_NETWORK) {
        log_error("--net hostfwd=%s: the guest's network is 10.0.2.0/24, without address it is the "
                  "one that DHCP gives, 10.0.2.15",
                  val);
        return false;
    }
    if (o->user.nr_forwards == NET_FORWARDS_MAX) {
        log_error("--net hostfwd=%s: that is one more than %d", val, NET_FORWARDS_MAX);
        return false;
    }
    o->user.forwards[o->user.nr_forwards++] = f;
    return true;
}

/* ---- the parts ---- */

#define OF_USER   BIT(NET_USER)
#define OF_TAP    BIT(NET_TAP)
#define OF_SOCKET BIT(NET_SOCKET)

static const struct key {
    const char *name;
    unsigned kinds; /* of links that have it */
    bool (*set)(struct net_option *o, const char *val);
} keys[] = {
    { "mac", OF_USER | OF_TAP | OF_SOCKET, net_set_mac },
    { "transport", OF_USER | OF_TAP | OF_SOCKET, net_set_transport },
    { "queues", OF_TAP, net_set_queues },
    { "mtu", OF_USER | OF_SOCKET, net_set_mtu },
    { "hostfwd", OF_USER, net_set_hostfwd },
    { "restrict", OF_USER, net_set_restrict },
};

static const char *const kind_names[] = {
    [NET_USER] = "user", [NET_TAP] = "tap", [NET_SOCKET] = "socket"
};

static bool net_parse_key(struct net_option *o, char *part)
{
    char have[128] = "", *val = strchr(part, '=');

    if (val)
        *val++ = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(keys); i++) {
        if (!(keys[i].kinds & BIT(o->kind)))
            continue;
        if (val && !strcmp(part, keys[i].name))
            return keys[i].set(o, val);
        (void)snprintf(have + strlen(have), sizeof(have) - strlen(have), " %s=", keys[i].name);
    }
    log_error("--net %s: '%s' is unknown; there is%s", kind_names[o->kind], part, have);
    return false;
}

static bool net_parse_kind(struct net_option *o, const char *part)
{
    static const struct {
        const char *prefix;
        enum net_kind kind;
        size_t max;
    } kinds[] = {
        { "tap=", NET_TAP, NET_NAME_MAX },
        { "socket=", NET_SOCKET, NET_PATH_MAX },
    };

    if (!strcmp(part, "user")) {
        o->kind = NET_USER;
        return true;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
        size_t len = strlen(kinds[i].prefix);

        if (strncmp(part, kinds[i].prefix, len) != 0 || !part[len])
            continue;
        if (strlen(part + len) > kinds[i].max) {
            log_error("--net %s: a name there has at most %zu bytes", part, kinds[i].max);
            return false;
        }
        o->kind = kinds[i].kind;
        (void)snprintf(o->where, sizeof(o->where), "%s", part + len);
        return true;
    }
    log_error("--net '%s' is unknown; it can be user, tap=NAME, socket=PATH or none", part);
    return false;
}

bool net_option_parse(struct net_option *o, const char *val)
{
    char text[NET_VALUE_MAX], *rest = text, *part;

    *o = (struct net_option){ .nr_queues = 1, .mtu = NET_MTU_DEFAULT };
    if ((size_t)snprintf(text, sizeof(text), "%s", val) >= sizeof(text)) {
        log_error("--net: a value of more than %zu bytes", sizeof(text) - 1);
        return false;
    }
    if (!net_parse_kind(o, strsep(&rest, ",")))
        return false;
    while ((part = strsep(&rest, ",")))
        if (!net_parse_key(o, part))
            return false;
    return true;
}

struct net *net_option_open(const struct net_option *o, const char *vm, unsigned idx)
{
    const struct net_common c = { .idx = idx, .vm = vm, .mac = o->has_mac ? o->mac : NULL };

    switch (o->kind) {
    case NET_TAP:
        return net_open_tap(&c, o->where, o->nr_queues);
    case NET_SOCKET:
        return net_open_socket(&c, o->where, o->mtu);
    case NET_USER:
        break;
    }
    return net_open_user(&c, &o->user);
}
