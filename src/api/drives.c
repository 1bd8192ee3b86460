/* SPDX-License-Identifier: Apache-2.0 */
/* /drives/{drive_id}: disks, and the rate limits that all devices have in the same form. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/priv.h"

static const struct field bucket_list[] = {
    { .name = "size", .type = FIELD_UINT, .flags = FIELD_REQUIRED },
    { .name = "one_time_burst", .type = FIELD_UINT },
    { .name = "refill_time", .type = FIELD_UINT, .flags = FIELD_REQUIRED },
};
const struct fields token_bucket_fields = FIELDS(bucket_list);

static const struct field limiter_list[] = {
    { .name = "bandwidth", .type = FIELD_OBJECT, .sub = &token_bucket_fields },
    { .name = "ops", .type = FIELD_OBJECT, .sub = &token_bucket_fields },
};
const struct fields rate_limiter_fields = FIELDS(limiter_list);

static const char *const cache_types[] = { "Unsafe", "Writeback", NULL };
static const char *const io_engines[] = { "Sync", "Async", NULL };

static const struct field put_list[] = {
    { .name = "drive_id", .type = FIELD_STRING, .flags = FIELD_REQUIRED },
    { .name = "is_root_device", .type = FIELD_BOOL, .flags = FIELD_REQUIRED },
    { .name = "path_on_host", .type = FIELD_STRING },
    { .name = "is_read_only", .type = FIELD_BOOL },
    { .name = "partuuid", .type = FIELD_STRING },
    { .name = "cache_type", .type = FIELD_STRING, .words = cache_types },
    { .name = "io_engine", .type = FIELD_STRING, .words = io_engines },
    { .name = "rate_limiter", .type = FIELD_OBJECT, .sub = &rate_limiter_fields },
    { .name = "socket", .type = FIELD_STRING },
};
const struct fields drive_fields = FIELDS(put_list);

static const struct field patch_list[] = {
    { .name = "drive_id", .type = FIELD_STRING, .flags = FIELD_REQUIRED },
    { .name = "path_on_host", .type = FIELD_STRING },
    { .name = "rate_limiter", .type = FIELD_OBJECT, .sub = &rate_limiter_fields },
};
const struct fields drive_patch_fields = FIELDS(patch_list);

bool limiter_keep(json_t *dev, const char *key, const json_t *val, struct reply *r)
{
    json_t *old = json_object_get(dev, key), *all = old ? json_deep_copy(old) : json_object();

    if (!val) {
        json_decref(all);
        return true;
    }
    if (all && json_object_update(all, (json_t *)val) < 0) {
        json_decref(all);
        all = NULL;
    }
    if (json_object_set_new(dev, key, all) == 0)
        return true;
    reply_json(r, NULL);
    return false;
}

/* A drive is a file, or a process that serves it by vhost-user; the latter has no say in the rest.
 */
static bool drive_source_ok(const json_t *d, struct reply *r)
{
    static const char *const of_files[] = { "path_on_host", "is_read_only", "io_engine",
                                            "rate_limiter" };

    if (!field_string(d, "socket")) {
        if (!field_string(d, "path_on_host"))
            reply_fault(r, "Drive config error: missing field `path_on_host` (or `socket`).");
        return field_string(d, "path_on_host");
    }
    for (unsigned i = 0; i < ARRAY_SIZE(of_files); i++) {
        if (!json_object_get(d, of_files[i]))
            continue;
        reply_fault(r, "Drive config error: a vhost-user drive (`socket`) has no `%s`.",
                    of_files[i]);
        return false;
    }
    return true;
}

static bool drive_ok(const struct api *a, const json_t *d, struct reply *r)
{
    const char *id = field_string(d, "drive_id"), *uuid = field_string(d, "partuuid");

    if (!drive_source_ok(d, r))
        return false;
    /* It becomes part of the kernel's command line. */
    if (uuid && (strlen(uuid) > 64 || strspn(uuid, "0123456789abcdefABCDEF-") != strlen(uuid))) {
        reply_fault(r, "Drive config error: `partuuid` is not one.");
        return false;
    }
    if (field_bool(d, "is_root_device", false) && !api_root_free(a, id)) {
        reply_fault(r, "Drive config error: A root block device already exists!");
        return false;
    }
    if (json_array_size(a->drives) >= VM_DISKS_MAX && list_find(a->drives, "drive_id", id) < 0) {
        reply_fault(r, "Drive config error: there is no room for more than %d drives.",
                    VM_DISKS_MAX);
        return false;
    }
    return true;
}

/* The kernel is told that its root is the first one. False: out of memory. */
static bool root_first(json_t *drives)
{
    json_t *drive;
    size_t i;
    int err = 0;

    json_array_foreach(drives, i, drive)
    {
        if (!field_bool(drive, "is_root_device", false))
            continue;
        json_incref(drive);
        err = json_array_remove(drives, i);
        return json_array_insert_new(drives, 0, drive) == 0 && !err;
    }
    return true;
}

static bool is_image(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode));
}

void drive_put(struct api *a, const struct request *rq, struct reply *r)
{
    const char *path;

    if (!id_matches(rq, "drive_id", r) || !drive_ok(a, rq->body, r))
        return;
    /* What the start would say, too, but the client knows it earlier. */
    path = field_string(rq->body, "socket");
    if (path && access(path, R_OK | W_OK) < 0) {
        reply_fault(r,
                    "Drive config error: Unable to create the vhost-user block device: cannot "
                    "connect to the socket: %m %s",
                    path);
        return;
    }
    path = field_string(rq->body, "path_on_host");
    if (path &&
        access(path, field_bool(rq->body, "is_read_only", false) ? R_OK : R_OK | W_OK) < 0) {
        reply_fault(r,
                    "Drive config error: Unable to create the virtio block device: Error "
                    "manipulating the backing file: %m %s",
                    path);
        return;
    }
    if (path && !is_image(path)) {
        reply_fault(r,
                    "Drive config error: Unable to create the virtio block device: Error "
                    "manipulating the backing file: neither a file nor a block device %s",
                    path);
        return;
    }
    if (list_keep(a, a->drives, "drive_id", rq->body, r) &&
        field_bool(rq->body, "is_root_device", false) && !root_first(a->drives))
        reply_json(r, NULL);
}

/* What there is to say about a vhost-user drive is that its configuration has changed. */
static void drive_patch_served(struct api *a, unsigned idx, bool changes, struct reply *r)
{
    char why[512];

    if (changes)
        reply_fault(r, "Drive config error: a vhost-user drive has no file and no limits here.");
    else if (vm_resize_disk(a->m.vm, idx, 0) < 0)
        reply_fault(r, "Drive config error: Unable to patch the block device: %s",
                    api_log_last_error(a->log, why, sizeof(why)));
}

void drive_patch(struct api *a, const struct request *rq, struct reply *r)
{
    const char *id, *path = field_string(rq->body, "path_on_host");
    const json_t *limiter = json_object_get(rq->body, "rate_limiter");
    char why[512];
    json_t *drive;
    int idx, err = 0;

    if (!id_matches(rq, "drive_id", r))
        return;
    id = field_string(rq->body, "drive_id");
    idx = list_find(a->drives, "drive_id", id);
    if (idx < 0) {
        reply_fault(r, "Drive config error: Invalid block device ID: %s", id);
        return;
    }
    drive = json_array_get(a->drives, (size_t)idx);
    api_log_forget(a->log);
    if (field_string(drive, "socket")) {
        drive_patch_served(a, (unsigned)idx, path || limiter, r);
        return;
    }
    /* The same file, which nobody else may open to write: it may have grown. */
    if (path && !store_readonly(a->m.disks[idx].store) &&
        store_is_file(a->m.disks[idx].store, path))
        err = vm_resize_disk(a->m.vm, (unsigned)idx, 0);
    else if (path)
        err = machine_replace_disk(a, (unsigned)idx, path);
    if (!err && path &&
        json_object_set(drive, "path_on_host", json_object_get(rq->body, "path_on_host")) < 0)
        err = -ENOMEM;
    if (!err && !limiter_keep(drive, "rate_limiter", limiter, r))
        return;
    if (!err && limiter)
        err = machine_limit_disk(a, (unsigned)idx, json_object_get(drive, "rate_limiter"));
    if (err)
        reply_fault(r, "Drive config error: Unable to patch the block device: %s",
                    api_log_last_error(a->log, why, sizeof(why)));
}
