/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --disk path=FILE|nbd=WHERE|vhost-user=SOCKET[,KEY=VALUE]...: each part is a row of keys[]. A
 * comma in the file's name is written twice. A refusal names the part and what would be right.
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
    o->store.path = val;
    return *val;
}

/* unix:PATH or a URI, which libnbd takes apart. */
static bool disk_set_nbd(struct disk_option *o, const char *val)
{
    o->store.nbd = val;
    return (!strncmp(val, "unix:", 5) && val[5]) ||
           (!strncmp(val, "nbd", 3) && strstr(val, "://") != NULL);
}

static bool disk_set_vhost_user(struct disk_option *o, const char *val)
{
    o->store.vhost_user = val;
    return *val;
}

static bool disk_set_format(struct disk_option *o, const char *val)
{
    o->store.format = !strcmp(val, "qcow2") ? STORE_FORMAT_QCOW2 : STORE_FORMAT_RAW;
    return !strcmp(val, "qcow2") || !strcmp(val, "raw");
}

/* "", "on" or "off". */
static bool disk_set_bool(const char *val, bool *to)
{
    *to = strcmp(val, "off") != 0;
    return !*val || !strcmp(val, "on") || !strcmp(val, "off");
}

static bool disk_set_readonly(struct disk_option *o, const char *val)
{
    return disk_set_bool(val, &o->store.readonly);
}

static bool disk_set_snapshot(struct disk_option *o, const char *val)
{
    return disk_set_bool(val, &o->store.snapshot);
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
            o->store.aio = (enum store_aio)i;
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
    { "nbd", "unix:PATH or nbd://HOST[:PORT]/[EXPORT]", disk_set_nbd },
    { "vhost-user", "the name of a socket", disk_set_vhost_user },
    { "format", "raw or qcow2", disk_set_format },
    { "snapshot", "on or off", disk_set_snapshot },
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

/* What does not go together. */
static bool disk_check(const struct disk_option *o, const char *val)
{
    const struct store_config *s = &o->store;
    const char *why = NULL;

    if (!s->path && !s->nbd && !s->vhost_user)
        why = "has no path=FILE (or nbd=unix:PATH, nbd=nbd://HOST/EXPORT, or vhost-user=SOCKET)";
    else if (!!s->path + !!s->nbd + !!s->vhost_user > 1)
        why = "has more than one of path, nbd and vhost-user";
    else if (!s->path &&
             (s->format == STORE_FORMAT_QCOW2 || s->snapshot || s->aio != STORE_AIO_AUTO))
        why = "has format=qcow2, snapshot or aio, which are for files, without path=FILE";
    else if (s->readonly && s->snapshot)
        why = "has readonly and snapshot=on: either the guest cannot write, or what it writes is "
              "forgotten";
    if (why)
        log_error("--disk '%s' %s", val, why);
    return !why;
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
    ok = ok && disk_check(o, val);
    if (!ok)
        disk_option_free(o);
    return ok;
}

bool disk_option_cdrom(struct disk_option *o, unsigned idx, const char *path)
{
    *o = (struct disk_option){ .text = strdup(path),
                               .store = { .readonly = true, .format = STORE_FORMAT_RAW } };
    (void)snprintf(o->name, sizeof(o->name), "cdrom%u", idx);
    o->store.path = o->text;
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
    struct store_config cfg = o->store;

    cfg.name = o->name;
    return store_open(&cfg);
}
