/* SPDX-License-Identifier: Apache-2.0 */
/* /network-interfaces/{iface_id}: network cards. */
#include <stdio.h>
#include <string.h>

#include "api/priv.h"

static const struct field put_list[] = {
    { .name = "iface_id", .type = FIELD_STRING, .flags = FIELD_REQUIRED },
    { .name = "host_dev_name", .type = FIELD_STRING, .flags = FIELD_REQUIRED },
    { .name = "guest_mac", .type = FIELD_STRING },
    { .name = "mtu", .type = FIELD_UINT, .min = NET_MTU_MIN, .max = NET_MTU_MAX },
    { .name = "rx_rate_limiter", .type = FIELD_OBJECT, .sub = &rate_limiter_fields },
    { .name = "tx_rate_limiter", .type = FIELD_OBJECT, .sub = &rate_limiter_fields },
};
const struct fields net_fields = FIELDS(put_list);

static const struct field patch_list[] = {
    { .name = "iface_id", .type = FIELD_STRING, .flags = FIELD_REQUIRED },
    { .name = "rx_rate_limiter", .type = FIELD_OBJECT, .sub = &rate_limiter_fields },
    { .name = "tx_rate_limiter", .type = FIELD_OBJECT, .sub = &rate_limiter_fields },
};
const struct fields net_patch_fields = FIELDS(patch_list);

static bool net_ok(const struct api *a, const json_t *n, struct reply *r)
{
    const char *id = field_string(n, "iface_id"), *mac = field_string(n, "guest_mac"),
               *dev = field_string(n, "host_dev_name");
    uint8_t bytes[NET_MAC_BYTES];
    json_t *other;
    size_t i;

    if (mac && !machine_mac(mac, bytes)) {
        reply_fault(r, "Network config error: `guest_mac` is no MAC address of a card: %.64s", mac);
        return false;
    }
    json_array_foreach(a->nets, i, other)
    {
        const char *its_mac = field_string(other, "guest_mac");

        if (!strcmp(field_string(other, "iface_id"), id))
            continue;
        if (mac && its_mac && !strcasecmp(mac, its_mac)) {
            reply_fault(r, "Network config error: The MAC address is already in use: %s", mac);
            return false;
        }
        if (!strcmp(field_string(other, "host_dev_name"), dev) &&
            strcmp(dev, MACHINE_NET_USER) != 0) {
            reply_fault(r, "Network config error: The host device is already in use: %.64s", dev);
            return false;
        }
    }
    if (json_array_size(a->nets) >= VM_NETS_MAX && list_find(a->nets, "iface_id", id) < 0) {
        reply_fault(r, "Network config error: there is no room for more than %d interfaces.",
                    VM_NETS_MAX);
        return false;
    }
    return true;
}

void net_put(struct api *a, const struct request *rq, struct reply *r)
{
    struct net *probe;

    if (!id_matches(rq, "iface_id", r) || !net_ok(a, rq->body, r))
        return;
    api_log_forget(a->log);
    probe = machine_open_net(a, rq->body, 0);
    if (!probe) {
        char why[512];

        reply_fault(r, "Network config error: Open tap device failed: %s",
                    api_log_last_error(a->log, why, sizeof(why)));
        return;
    }
    net_close(probe);
    (void)list_keep(a, a->nets, "iface_id", rq->body, r);
}

void net_patch(struct api *a, const struct request *rq, struct reply *r)
{
    const char *id;
    json_t *net;
    int idx;

    if (!id_matches(rq, "iface_id", r))
        return;
    id = field_string(rq->body, "iface_id");
    idx = list_find(a->nets, "iface_id", id);
    if (idx < 0) {
        reply_fault(r, "Network config error: Invalid interface ID - not found: %s", id);
        return;
    }
    net = json_array_get(a->nets, (size_t)idx);
    if (json_object_update(net, rq->body) < 0) {
        reply_json(r, NULL);
        return;
    }
    machine_limit_net(a, (unsigned)idx, net);
}
