/* SPDX-License-Identifier: Apache-2.0 */
/* /vsock, /entropy, /serial and /balloon: devices of which there is one, or none. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/priv.h"
#include "backend/vsock.h"

/* ---- /vsock ---- */

static const struct field vsock_list[] = {
    { .name = "guest_cid",
      .type = FIELD_UINT,
      .flags = FIELD_REQUIRED,
      .min = VSOCK_CID_MIN,
      .max = VSOCK_CID_MAX },
    { .name = "uds_path", .type = FIELD_STRING, .flags = FIELD_REQUIRED },
    { .name = "vsock_id", .type = FIELD_STRING },
};
const struct fields vsock_fields = FIELDS(vsock_list);

void vsock_put(struct api *a, const struct request *rq, struct reply *r)
{
    const char *path = field_string(rq->body, "uds_path"), *slash = strrchr(path, '/');
    size_t len = strlen(path);
    char dir[VSOCK_PATH_MAX + 1] = ".";

    if (!len || len > VSOCK_PATH_MAX) {
        reply_fault(r, "Vsock config error: `uds_path` has to have 1 to %d bytes.", VSOCK_PATH_MAX);
        return;
    }
    if (slash)
        (void)snprintf(dir, sizeof(dir), "%.*s", (int)(slash - path) + 1, path);
    if (access(dir, W_OK) < 0)
        reply_fault(r, "Vsock config error: Cannot create backend for vsock device: '%s': %m", dir);
    else
        (void)keep(a, &a->vsock, rq->body, r);
}

/* ---- /entropy ---- */

static const struct field entropy_list[] = {
    { .name = "rate_limiter", .type = FIELD_OBJECT, .sub = &rate_limiter_fields },
};
const struct fields entropy_fields = FIELDS(entropy_list);

void entropy_put(struct api *a, const struct request *rq, struct reply *r)
{
    (void)keep(a, &a->entropy, rq->body, r);
}

/* ---- /serial ---- */

static const struct field serial_list[] = {
    { .name = "serial_out_path", .type = FIELD_STRING },
    { .name = "rate_limiter", .type = FIELD_OBJECT, .sub = &token_bucket_fields },
};
const struct fields serial_fields = FIELDS(serial_list);

void serial_put(struct api *a, const struct request *rq, struct reply *r)
{
    (void)keep(a, &a->serial, rq->body, r);
}

/* ---- /balloon ---- */

static const struct field balloon_list[] = {
    { .name = "amount_mib", .type = FIELD_UINT, .flags = FIELD_REQUIRED, .max = UINT32_MAX },
    { .name = "deflate_on_oom", .type = FIELD_BOOL, .flags = FIELD_REQUIRED },
    { .name = "stats_polling_interval_s", .type = FIELD_UINT, .max = UINT16_MAX },
    { .name = "free_page_hinting", .type = FIELD_BOOL },
    { .name = "free_page_reporting", .type = FIELD_BOOL },
};
const struct fields balloon_fields = FIELDS(balloon_list);

static const struct field balloon_patch_list[] = {
    { .name = "amount_mib", .type = FIELD_UINT, .flags = FIELD_REQUIRED, .max = UINT32_MAX },
};
const struct fields balloon_patch_fields = FIELDS(balloon_patch_list);

static const struct field balloon_stats_list[] = {
    { .name = "stats_polling_interval_s",
      .type = FIELD_UINT,
      .flags = FIELD_REQUIRED,
      .max = UINT16_MAX },
};
const struct fields balloon_stats_fields = FIELDS(balloon_stats_list);

static const struct field hint_list[] = {
    { .name = "acknowledge_on_stop", .type = FIELD_BOOL },
};
const struct fields hint_fields = FIELDS(hint_list);

static bool balloon_amount_ok(const struct api *a, const json_t *b, struct reply *r)
{
    if (field_uint(b, "amount_mib", 0) <= field_uint(a->machine, "mem_size_mib", 128))
        return true;
    reply_fault(r, "Balloon config error: Amount of pages requested cannot exceed the guest's "
                   "memory.");
    return false;
}

void balloon_put(struct api *a, const struct request *rq, struct reply *r)
{
    json_t *all;

    if (!balloon_amount_ok(a, rq->body, r))
        return;
    all = json_pack("{s:i, s:b, s:b}", "stats_polling_interval_s", 0, "free_page_hinting", 0,
                    "free_page_reporting", 0);
    if (!all || json_object_update(all, rq->body) < 0)
        reply_json(r, NULL);
    else
        (void)keep(a, &a->balloon, all, r);
    json_decref(all);
}

static bool balloon_there(const struct api *a, struct reply *r)
{
    if (!a->balloon)
        reply_fault(r, "Balloon config error: No balloon device found.");
    return a->balloon;
}

void balloon_get(struct api *a, const struct request *rq, struct reply *r)
{
    (void)rq;
    if (balloon_there(a, r))
        reply_json(r, json_deep_copy(a->balloon));
}

void balloon_patch(struct api *a, const struct request *rq, struct reply *r)
{
    if (!balloon_there(a, r) || !balloon_amount_ok(a, rq->body, r))
        return;
    if (json_object_update(a->balloon, rq->body) < 0)
        reply_json(r, NULL);
    else if (machine_set_balloon(a) < 0)
        reply_fault(r, "Balloon config error: the device did not take it.");
}

void balloon_stats_patch(struct api *a, const struct request *rq, struct reply *r)
{
    bool is_on, on = field_uint(rq->body, "stats_polling_interval_s", 0);

    if (!balloon_there(a, r))
        return;
    is_on = field_uint(a->balloon, "stats_polling_interval_s", 0);
    if (is_on != on)
        reply_fault(r, "Balloon config error: Statistics cannot be %s after the start.",
                    on ? "enabled" : "disabled");
    else if (json_object_update(a->balloon, rq->body) < 0)
        reply_json(r, NULL);
}

/* From the VM's own statistics, for which it asks the guest: no older than this request. */
static json_t *balloon_stats(const json_t *b)
{
    static const struct {
        const char *ours, *theirs;
    } names[] = {
        { "swap_in_bytes", "swap_in" },
        { "swap_out_bytes", "swap_out" },
        { "major_faults", "major_faults" },
        { "minor_faults", "minor_faults" },
        { "free_bytes", "free_memory" },
        { "total_bytes", "total_memory" },
        { "available_bytes", "available_memory" },
        { "cache_bytes", "disk_caches" },
    };
    uint64_t wanted = field_uint(b, "wanted_bytes", 0), actual = field_uint(b, "actual_bytes", 0);
    const json_t *guest = json_object_get(b, "guest");
    json_t *j =
        json_pack("{s:I, s:I, s:I, s:I}", "target_pages", (json_int_t)(wanted >> PAGE_SHIFT),
                  "actual_pages", (json_int_t)(actual >> PAGE_SHIFT), "target_mib",
                  (json_int_t)(wanted >> 20), "actual_mib", (json_int_t)(actual >> 20));

    for (unsigned i = 0; i < ARRAY_SIZE(names) && j; i++) {
        json_t *val = json_object_get(guest, names[i].ours);

        if (val && json_object_set(j, names[i].theirs, val) < 0) {
            json_decref(j);
            j = NULL;
        }
    }
    return j;
}

void balloon_stats_get(struct api *a, const struct request *rq, struct reply *r)
{
    char *text;
    json_t *all;

    (void)rq;
    if (!balloon_there(a, r))
        return;
    if (!field_uint(a->balloon, "stats_polling_interval_s", 0)) {
        reply_fault(r, "Balloon config error: Statistics are not enabled.");
        return;
    }
    text = vm_stats_json(a->m.vm);
    all = text ? json_loads(text, 0, NULL) : NULL;
    reply_json(r, all ? balloon_stats(json_object_get(all, "balloon")) : NULL);
    json_decref(all);
    free(text);
}

/* ---- /balloon/hinting ---- */

static void hint_result(int err, struct reply *r)
{
    if (err == -ENOENT)
        reply_fault(r, "Balloon config error: Free page hinting is not enabled.");
    else if (err)
        reply_fault(r, "Balloon config error: The guest's driver has no free page hinting (yet).");
}

void hint_start(struct api *a, const struct request *rq, struct reply *r)
{
    hint_result(vm_hint_start(a->m.vm, field_bool(rq->body, "acknowledge_on_stop", true)), r);
}

void hint_stop(struct api *a, const struct request *rq, struct reply *r)
{
    (void)rq;
    hint_result(vm_hint_stop(a->m.vm), r);
}

void hint_status_get(struct api *a, const struct request *rq, struct reply *r)
{
    uint32_t host = 0;
    int64_t guest = -1;
    int err = vm_hint_status(a->m.vm, &host, &guest);

    (void)rq;
    hint_result(err, r);
    if (!err)
        reply_json(r, json_pack("{s:I, s:o}", "host_cmd", (json_int_t)host, "guest_cmd",
                                guest < 0 ? json_null() : json_integer((json_int_t)guest)));
}
