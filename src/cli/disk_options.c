/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --disk path=FILE[,KEY=VALUE]...: each part is a row of keys[]. A comma in the file's name is
 * written twice. A refusal names the part and what would be right.
 */
#include "cli/disk_options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "lib/log.h"
#include "virtio/blk.h"

#define DISK_QUEUES_MAX 16

/* ---- values ---- */

static bool disk_set_path(struct disk_option *o, const char *val)
{
    o->path = val;
    return *val;
}

/* "", "on" or "off". */
static bool disk_set_bool(const char *val, bool *to)
{
    *to = strcmp(val, "off") != 0;
    return !*val || !strcmp(val, "on") || !strcmp(val, "off");
}

static bool disk_set_readonly(struct disk_option *o, const char *val)
{
    return disk_set_bool(val, &o->readonly);
}

static bool disk_set_packed(struct disk_option *o, const char *val)
{
    bool packed, ok = disk_set_bool(val, &packed);

    o->vm.no_packed = !packed;
    return ok;
}

static bool disk_set_serial(struct disk_option *o, const char *val)
{
    o->vm.serial = val;
    return *val && strlen(val) <= BLK_SERIAL_MAX;
}

static bool disk_set_queues(struct disk_option *o, const char *val)
{
    uint64_t nr;

    if (!value_uint(val, 1, DISK_QUEUES_MAX, &nr))
        return false;
    o->vm.nr_queues = (unsigned)nr;
    return true;
}

static bool disk_set_transport(struct disk_option *o, const char *val)
{
    static const char *const names[] = {
        [VM_TRANSPORT_PCI] = "pci", [VM_TRANSPORT_MMIO] = "mmio", [VM_TRANSPORT_IDE] = "ide"
    };

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
        if (!strcmp(val, names[i])) {
            o->vm.transport = (enum vm_transport)i;
            return true;
        }
    return false;
}

static bool disk_set_aio(struct disk_option *o, const char *val)
{
    static const char *const names[] = {
        [STORE_AIO_AUTO] = "auto", [STORE_AIO_URING] = "io_uring", [STORE_AIO_THREADS] = "threads"
    };

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
        if (!strcmp(val, names[i])) {
            o->aio = (enum store_aio)i;
            return true;
        }
    return false;
}

static bool disk_set_iops(struct disk_option *o, const char *val)
{
    return value_uint(val, 1, UINT32_MAX, &o->vm.requests_per_s);
}

static bool disk_set_bps(struct disk_option *o, const char *val)
{
    return value_size(val, &o->vm.bytes_per_s) && o->vm.bytes_per_s;
}

static const struct key {
    const char *name, *want;
    bool (*set)(struct disk_option *o, const char *val);
} keys[] = {
    { "path", "the name of a file", disk_set_path },
    { "readonly", "on or off", disk_set_readonly },
    { "transport", "pci, mmio or ide", disk_set_transport },
    { "queues", "a number from 1 to 16", disk_set_queues },
    { "serial", "a text of 1 to 20 characters", disk_set_serial },
    { "iops", "a number of requests per second", disk_set_iops },
    { "bps", "bytes per second, such as 50M", disk_set_bps },
    { "aio", "auto, io_uring or threads", disk_set_aio },
    { "packed", "on or off", disk_set_packed },
};

/* ---- parts ---- */

static bool disk_parse_part(struct disk_option *o, char *part)
{
    char *val = strchr(part, '=');
    char have[128] = "";

    if (val)
        *val++ = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(keys); i++) {
        if (strcmp(part, keys[i].name) != 0) {
            (void)snprintf(have + strlen(have), sizeof(have) - strlen(have), " %s", keys[i].name);
            continue;
        }
        if (keys[i].set(o, val ? val : ""))
            return true;
        log_error("--disk %s='%s' is not %s", part, val ? val : "", keys[i].want);
        return false;
    }
    log_error("--disk path=FILE,...: '%s' is unknown; there is%s", part, have);
    return false;
}

bool disk_option_parse(struct disk_option *o, unsigned idx, const char *val)
{
    char *rest, *part;
    bool ok = true;

    *o = (struct disk_option){ .text = strdup(val) };
    (void)snprintf(o->name, sizeof(o->name), "disk%u", idx);
    if (!o->text) {
        log_error("out of memory");
        return false;
    }
    rest = o->text;
    while (ok && (part = value_next_part(&rest)))
        ok = disk_parse_part(o, part);
    if (ok && !o->path) {
        log_error("--disk '%s' has no path=FILE", val);
        ok = false;
    }
    if (!ok)
        disk_option_free(o);
    return ok;
}

bool disk_option_cdrom(struct disk_option *o, unsigned idx, const char *path)
{
    *o = (struct disk_option){ .text = strdup(path), .readonly = true };
    (void)snprintf(o->name, sizeof(o->name), "cdrom%u", idx);
    o->path = o->text;
    o->vm.transport = VM_TRANSPORT_IDE;
    o->vm.is_cd = true;
    if (o->text && *o->text)
        return true;
    log_error("--cdrom %s", o->text ? "'' is no file's name" : "FILE: out of memory");
    disk_option_free(o);
    return false;
}

void disk_option_free(struct disk_option *o)
{
    free(o->text);
    *o = (struct disk_option){ 0 };
}

struct store *disk_option_open(const struct disk_option *o)
{
    return store_open(&(struct store_config){
        .name = o->name, .path = o->path, .readonly = o->readonly, .aio = o->aio });
}
