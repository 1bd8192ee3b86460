/* SPDX-License-Identifier: Apache-2.0 */
/* /mmds and /mmds/config: the API's side of the metadata service. */
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "api/priv.h"

static const char *const versions[] = { "V1", "V2", NULL };
static const struct field config_list[] = {
    { .name = "network_interfaces", .type = FIELD_STRINGS, .flags = FIELD_REQUIRED },
    { .name = "version", .type = FIELD_STRING, .words = versions },
    { .name = "ipv4_address", .type = FIELD_STRING },
    { .name = "imds_compat", .type = FIELD_BOOL },
};
const struct fields mmds_config_fields = FIELDS(config_list);

/* 169.254.1.0 to 169.254.254.255 (RFC 3927, Address Selection). */
static bool link_local(const char *text, uint32_t *addr)
{
    struct in_addr in;

    if (inet_pton(AF_INET, text, &in) != 1)
        return false;
    *addr = ntohl(in.s_addr);
    return *addr >> 16 == 0xa9fe && (*addr >> 8 & 0xff) >= 1 && (*addr >> 8 & 0xff) <= 254;
}

void mmds_config_put(struct api *a, const struct request *rq, struct reply *r)
{
    const json_t *list = json_object_get(rq->body, "network_interfaces");
    const char *addr = field_string(rq->body, "ipv4_address"),
               *version = field_string(rq->body, "version");
    struct mmds_config cfg = {
        .v2 = version && !strcmp(version, "V2"),
        .imds_compat = field_bool(rq->body, "imds_compat", false),
        .addr = MMDS_DEFAULT_ADDR,
    };
    json_t *id;
    size_t i;

    if (addr && !link_local(addr, &cfg.addr)) {
        reply_fault(r, "MMDS config error: The MMDS IPv4 address is not link local.");
        return;
    }
    if (!json_array_size(list)) {
        reply_fault(r, "MMDS config error: The list of network interface IDs that allow forwarding "
                       "MMDS requests is empty.");
        return;
    }
    json_array_foreach(list, i, id)
    {
        if (list_find(a->nets, "iface_id", json_string_value(id)) >= 0)
            continue;
        reply_fault(r, "MMDS config error: The list of network interface IDs provided contains at "
                       "least one ID that does not correspond to any existing network interface.");
        return;
    }
    if (keep(a, &a->mmds_config, rq->body, r))
        mmds_configure(a->mmds, &cfg);
}

bool mmds_serves(const struct api *a, const char *iface_id)
{
    json_t *id;
    size_t i;

    json_array_foreach(json_object_get(a->mmds_config, "network_interfaces"), i, id)
    {
        if (!strcmp(json_string_value(id), iface_id))
            return true;
    }
    return false;
}

static void mmds_result(const struct api *a, int err, struct reply *r)
{
    switch (err) {
    case 0:
        break;
    case -E2BIG:
        r->status = 413;
        reply_fault(r,
                    "MMDS limit exceeded error: The MMDS patch request doesn't fit: the data "
                    "store has a limit of %llu bytes.",
                    (unsigned long long)a->cfg->mmds_max);
        break;
    case -EINVAL:
        reply_fault(r, "MMDS error: the data have to be a JSON object.");
        break;
    case -ENOENT:
        reply_fault(r, "MMDS error: The MMDS data store is not initialized.");
        break;
    default:
        reply_json(r, NULL);
        break;
    }
}

void mmds_put(struct api *a, const struct request *rq, struct reply *r)
{
    mmds_result(a, mmds_put_data(a->mmds, rq->body), r);
}

void mmds_patch(struct api *a, const struct request *rq, struct reply *r)
{
    mmds_result(a, mmds_patch_data(a->mmds, rq->body), r);
}

void mmds_get(struct api *a, const struct request *rq, struct reply *r)
{
    json_t *data = mmds_get_data(a->mmds);

    (void)rq;
    /* Clients read an object, also when nothing was put. */
    if (json_is_null(data)) {
        json_decref(data);
        data = json_object();
    }
    reply_json(r, data);
}
