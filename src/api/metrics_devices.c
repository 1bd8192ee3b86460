/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the devices did since the last line of metrics, by the names that readers know: of all disks
 * together ("block") and of each ("block_ID"), of network cards the same, and of the serial port.
 * All comes from the VM's own statistics, which count from the start.
 */
#include <stdio.h>

#include "api/priv.h"

struct counter {
    const char *ours, *theirs;
};

static const struct counter disk_counters[] = {
    { "reads", "read_count" },          { "read_bytes", "read_bytes" }, { "writes", "write_count" },
    { "written_bytes", "write_bytes" }, { "flushes", "flush_count" },
};
static const struct counter net_counters[] = {
    { "received_frames", "rx_packets_count" }, { "received_bytes", "rx_bytes_count" },
    { "received_dropped", "rx_fails" },        { "sent_frames", "tx_packets_count" },
    { "sent_bytes", "tx_bytes_count" },        { "sent_dropped", "tx_fails" },
};

/* A family of devices: their list in the statistics, and in the configuration. */
struct family {
    const char *list, *name, *id;
    const struct counter *counters;
    unsigned nr;
};

static json_int_t number(const json_t *o, const char *name)
{
    return json_integer_value(json_object_get(o, name));
}

/* The sums go to sum, which has as many places as f has counters. NULL: out of memory. */
static json_t *device_counts(const struct family *f, const json_t *now, const json_t *before,
                             json_int_t *sum)
{
    json_t *o = json_object();

    for (unsigned i = 0; i < f->nr; i++) {
        json_int_t val = number(now, f->counters[i].ours) - number(before, f->counters[i].ours);

        sum[i] += val;
        if (json_object_set_new(o, f->counters[i].theirs, json_integer(val)) < 0) {
            json_decref(o);
            return NULL;
        }
    }
    return o;
}

static bool add_family(json_t *line, const struct family *f, const json_t *ids, const json_t *now,
                       const json_t *before)
{
    const json_t *was = json_object_get(before, f->list), *item;
    json_int_t sum[ARRAY_SIZE(net_counters)] = { 0 };
    json_t *all = json_object();
    bool ok = all;
    size_t i;

    json_array_foreach(json_object_get(now, f->list), i, item)
    {
        json_t *key = json_sprintf("%s_%s", f->name, field_string(json_array_get(ids, i), f->id));

        ok = ok && key &&
             json_object_set_new(line, json_string_value(key),
                                 device_counts(f, item, json_array_get(was, i), sum)) == 0;
        json_decref(key);
    }
    for (unsigned k = 0; k < f->nr && ok; k++)
        ok = json_object_set_new(all, f->counters[k].theirs, json_integer(sum[k])) == 0;
    if (ok)
        return json_object_set_new(line, f->name, all) == 0;
    json_decref(all);
    return false;
}

bool metrics_devices(const struct api *a, json_t *line, const json_t *now, const json_t *before)
{
    static const struct family disks = { "disks", "block", "drive_id", disk_counters,
                                         ARRAY_SIZE(disk_counters) },
                               nets = { "nets", "net", "iface_id", net_counters,
                                        ARRAY_SIZE(net_counters) };
    json_int_t dropped =
        number(now, "serial_dropped_bytes") - number(before, "serial_dropped_bytes");

    return add_family(line, &disks, a->drives, now, before) &&
           add_family(line, &nets, a->nets, now, before) &&
           json_object_set_new(line, "uart",
                               json_pack("{s:I}", "rate_limiter_dropped_bytes", dropped)) == 0;
}
