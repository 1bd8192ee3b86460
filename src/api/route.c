/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a request to the one who does it. All of the API is the table below: what may be asked for
 * where, what a body may hold, and when it is the time for it.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "api/priv.h"

/* One more than an id may have, so that one that is too long is seen to be. */
#define ID_BYTES (API_ID_MAX + 2)

enum body { NO_BODY, BODY, MAYBE_BODY };
enum when { ALWAYS, BEFORE_START, AFTER_START };

static const struct route {
    const char *method, *path; /* a path that ends with '/' has an id behind it */
    enum when when;
    const struct fields *fields; /* NULL: any JSON, or none */
    enum body body;
    handler *serve;
    const char *config; /* the member of a configuration that says the same; NULL: there is none */
} routes[] = {
    { "GET", "/", ALWAYS, NULL, NO_BODY, instance_get, NULL },
    { "GET", "/version", ALWAYS, NULL, NO_BODY, version_get, NULL },
    { "GET", "/vm/config", ALWAYS, NULL, NO_BODY, vm_config_get, NULL },
    { "GET", "/machine-config", ALWAYS, NULL, NO_BODY, machine_config_get, NULL },
    { "GET", "/balloon", ALWAYS, NULL, NO_BODY, balloon_get, NULL },
    { "GET", "/balloon/statistics", AFTER_START, NULL, NO_BODY, balloon_stats_get, NULL },
    { "GET", "/balloon/hinting/status", AFTER_START, NULL, NO_BODY, hint_status_get, NULL },
    { "GET", "/hotplug/memory", AFTER_START, NULL, NO_BODY, hotplug_get, NULL },
    { "GET", "/mmds", ALWAYS, NULL, NO_BODY, mmds_get, NULL },

    /* In this order a configuration is set: network interfaces before what names them. */
    { "PUT", "/logger", BEFORE_START, &logger_fields, BODY, logger_put, "logger" },
    { "PUT", "/metrics", BEFORE_START, &metrics_fields, BODY, metrics_put, "metrics" },
    { "PUT", "/machine-config", BEFORE_START, &machine_config_fields, BODY, machine_config_put,
      "machine-config" },
    { "PUT", "/cpu-config", BEFORE_START, &cpu_config_fields, BODY, cpu_config_put, "cpu-config" },
    { "PUT", "/boot-source", BEFORE_START, &boot_source_fields, BODY, boot_source_put,
      "boot-source" },
    { "PUT", "/drives/", BEFORE_START, &drive_fields, BODY, drive_put, "drives" },
    { "PUT", "/pmem/", BEFORE_START, &pmem_fields, BODY, pmem_put, "pmem" },
    { "PUT", "/network-interfaces/", BEFORE_START, &net_fields, BODY, net_put,
      "network-interfaces" },
    { "PUT", "/vsock", BEFORE_START, &vsock_fields, BODY, vsock_put, "vsock" },
    { "PUT", "/balloon", BEFORE_START, &balloon_fields, BODY, balloon_put, "balloon" },
    { "PUT", "/hotplug/memory", BEFORE_START, &hotplug_fields, BODY, hotplug_put,
      "memory-hotplug" },
    { "PUT", "/entropy", BEFORE_START, &entropy_fields, BODY, entropy_put, "entropy" },
    { "PUT", "/serial", BEFORE_START, &serial_fields, BODY, serial_put, "serial" },
    { "PUT", "/mmds/config", BEFORE_START, &mmds_config_fields, BODY, mmds_config_put,
      "mmds-config" },

    { "PUT", "/mmds", ALWAYS, NULL, BODY, mmds_put, NULL },
    { "PUT", "/actions", ALWAYS, &actions_fields, BODY, actions_put, NULL },
    { "PUT", "/snapshot/create", AFTER_START, &snapshot_create_fields, BODY, snapshot_create,
      NULL },
    { "PUT", "/snapshot/load", BEFORE_START, &snapshot_load_fields, BODY, snapshot_load, NULL },

    { "PATCH", "/machine-config", BEFORE_START, &machine_config_patch_fields, BODY,
      machine_config_patch, NULL },
    { "PATCH", "/drives/", AFTER_START, &drive_patch_fields, BODY, drive_patch, NULL },
    { "PATCH", "/network-interfaces/", AFTER_START, &net_patch_fields, BODY, net_patch, NULL },
    { "PATCH", "/balloon", AFTER_START, &balloon_patch_fields, BODY, balloon_patch, NULL },
    { "PATCH", "/balloon/statistics", AFTER_START, &balloon_stats_fields, BODY, balloon_stats_patch,
      NULL },
    { "PATCH", "/balloon/hinting/start", AFTER_START, &hint_fields, MAYBE_BODY, hint_start, NULL },
    { "PATCH", "/balloon/hinting/stop", AFTER_START, NULL, MAYBE_BODY, hint_stop, NULL },
    { "PATCH", "/hotplug/memory", AFTER_START, &hotplug_patch_fields, BODY, hotplug_patch, NULL },
    { "PATCH", "/mmds", ALWAYS, NULL, BODY, mmds_patch, NULL },
    { "PATCH", "/vm", AFTER_START, &vm_fields, BODY, vm_patch, NULL },
};

/* ---- replies ---- */

void reply_fault(struct reply *r, const char *fmt, ...)
{
    char text[FAULT_MAX];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (r->status < 400)
        r->status = 400;
    json_decref(r->body);
    r->body = json_pack("{s:o}", "fault_message", json_sprintf("%s", text));
    /* What a client has sent and is no UTF-8 cannot be told in JSON. */
    if (!r->body)
        r->body = json_pack("{s:s}", "fault_message", "The request cannot be done.");
}

void reply_json(struct reply *r, json_t *body)
{
    r->status = 200;
    r->body = body;
    if (!body) {
        r->status = 500;
        reply_fault(r, "Out of memory.");
    }
}

/* ---- keeping ---- */

bool keep(struct api *a, json_t **at, const json_t *val, struct reply *r)
{
    json_t *copy = json_deep_copy(val);

    if (!copy) {
        r->status = 500;
        reply_fault(r, "Out of memory.");
        return false;
    }
    json_decref(*at);
    *at = copy;
    a->touched = true;
    return true;
}

int list_find(const json_t *list, const char *key, const char *id)
{
    json_t *item;
    size_t i;

    json_array_foreach(list, i, item)
    {
        if (!strcmp(field_string(item, key), id))
            return (int)i;
    }
    return -1;
}

bool list_keep(struct api *a, json_t *list, const char *key, const json_t *val, struct reply *r)
{
    int at = list_find(list, key, field_string(val, key));
    json_t *copy = json_deep_copy(val);
    /* Both take the copy. */
    int err =
        at < 0 ? json_array_append_new(list, copy) : json_array_set_new(list, (size_t)at, copy);

    if (err < 0) {
        r->status = 500;
        reply_fault(r, "Out of memory.");
        return false;
    }
    a->touched = true;
    return true;
}

bool id_matches(const struct request *rq, const char *key, struct reply *r)
{
    const char *id = field_string(rq->body, key);

    if (!rq->id || !strcmp(rq->id, id))
        return true;
    reply_fault(r, "The id from the path [%s] does not match the id from the body [%s]!", rq->id,
                id);
    return false;
}

/* ---- requests ---- */

static bool id_ok(const char *id)
{
    size_t len = strlen(id);

    for (const char *c = id; *c; c++)
        if (!(*c >= 'a' && *c <= 'z') && !(*c >= 'A' && *c <= 'Z') && !(*c >= '0' && *c <= '9') &&
            *c != '_')
            return false;
    return len && len <= API_ID_MAX;
}

static bool route_has_id(const struct route *t)
{
    size_t len = strlen(t->path);

    return len > 1 && t->path[len - 1] == '/';
}

/* A path may have one '/' more. */
static bool path_is(const char *path, const char *want)
{
    size_t len = strlen(want);

    return !strncmp(path, want, len) && (!path[len] || (!strcmp(path + len, "/") && len > 1));
}

/* NULL: there is none. The id is copied, without what is behind it. */
static const struct route *route_find(const char *method, const char *path, char id[ID_BYTES])
{
    for (unsigned i = 0; i < ARRAY_SIZE(routes); i++) {
        const struct route *t = &routes[i];
        size_t len = strlen(t->path), nr;

        if (strcmp(t->method, method) != 0)
            continue;
        *id = 0;
        if (!route_has_id(t)) {
            if (path_is(path, t->path))
                return t;
            continue;
        }
        if (strncmp(t->path, path, len) != 0)
            continue;
        nr = strcspn(path + len, "/");
        if (path[len + nr] && path[len + nr + 1])
            continue; /* more behind the id */
        (void)snprintf(id, ID_BYTES, "%.*s", (int)MIN(nr, ID_BYTES), path + len);
        return t;
    }
    return NULL;
}

static bool is_time(const struct api *a, const struct route *t, struct reply *r)
{
    if (t->when == BEFORE_START && a->m.vm) {
        reply_fault(r, "The requested operation is not supported after starting the microVM.");
        return false;
    }
    if (t->when == AFTER_START && !a->m.vm) {
        reply_fault(r, "The requested operation is not supported before starting the microVM.");
        return false;
    }
    return true;
}

/* The body of a request, parsed and checked. NULL after a fault. */
static json_t *parse_body(const struct route *t, const char *body, size_t bytes, struct reply *r)
{
    json_error_t err;
    char why[256];
    json_t *j;

    /* Twice the same member: the client may mean either. Depth is limited by the library. */
    j = json_loadb(body, bytes, JSON_REJECT_DUPLICATES, &err);
    if (!j) {
        reply_fault(r,
                    "An error occurred when deserializing the json body of a request: %s at "
                    "line %d column %d.",
                    err.text, err.line, err.column);
        return NULL;
    }
    if (t->fields && !fields_check(t->fields, j, why, sizeof(why))) {
        reply_fault(r, "An error occurred when deserializing the json body of a request: %s.", why);
        json_decref(j);
        return NULL;
    }
    return j;
}

static void serve(struct api *a, const struct route *t, const struct request *rq, struct reply *r)
{
    if (!is_time(a, t, r))
        return;
    r->status = 204;
    t->serve(a, rq, r);
}

void route(struct api *a, const char *method, const char *path, const char *body, size_t body_bytes,
           struct reply *r)
{
    char id[ID_BYTES];
    const struct route *t = route_find(method, path, id);
    struct request rq = { .id = t && route_has_id(t) ? id : NULL };

    if (!t) {
        reply_fault(r, "Invalid request method and/or path: %.16s %.128s.", method, path);
    } else if (rq.id && !*rq.id) {
        reply_fault(r, "The ID cannot be empty.");
    } else if (rq.id && !id_ok(rq.id)) {
        reply_fault(r,
                    "API Resource IDs can only contain alphanumeric characters and "
                    "underscores, at most %u of them.",
                    API_ID_MAX);
    } else if (t->body == NO_BODY && body_bytes) {
        reply_fault(r, "GET request cannot have a body.");
    } else if (t->body == BODY && !body_bytes) {
        reply_fault(r, "Empty %s request.", method);
    } else if (!body_bytes || (rq.body = parse_body(t, body, body_bytes, r))) {
        serve(a, t, &rq, r);
        json_decref(rq.body);
    }
}

/* ---- configurations ---- */

/* One resource of a configuration, as if it had been PUT. */
static bool config_put(struct api *a, const struct route *t, json_t *body, char *why, size_t bytes)
{
    struct request rq = { .body = body };
    struct reply r = { .status = 0 };
    bool ok;

    if (!fields_check(t->fields, body, why, bytes))
        return false;
    serve(a, t, &rq, &r);
    ok = r.status < 400;
    if (!ok)
        (void)snprintf(why, bytes, "%s", field_string(r.body, "fault_message"));
    json_decref(r.body);
    return ok;
}

/* A resource that the configuration only names a file of. */
static bool config_from_file(struct api *a, const struct route *t, const char *path, char *why,
                             size_t bytes)
{
    json_error_t err;
    json_t *body = json_load_file(path, JSON_REJECT_DUPLICATES, &err);
    bool ok = body && config_put(a, t, body, why, bytes);

    if (!body)
        (void)snprintf(why, bytes, "%s of `%s`: %s (line %d)", path, t->config, err.text, err.line);
    json_decref(body);
    return ok;
}

static bool config_member(struct api *a, const struct route *t, json_t *val, char *why,
                          size_t bytes)
{
    json_t *item;
    size_t i;

    if (!val || json_is_null(val))
        return true;
    if (json_is_string(val) && t->fields == &cpu_config_fields)
        return config_from_file(a, t, json_string_value(val), why, bytes);
    if (t->path[strlen(t->path) - 1] != '/')
        return config_put(a, t, val, why, bytes);
    if (!json_is_array(val)) {
        (void)snprintf(why, bytes, "invalid type of field `%s`: expected an array", t->config);
        return false;
    }
    json_array_foreach(val, i, item)
    {
        if (!config_put(a, t, item, why, bytes))
            return false;
    }
    return true;
}

static bool config_known(const char *name)
{
    for (unsigned i = 0; i < ARRAY_SIZE(routes); i++)
        if (routes[i].config && !strcmp(routes[i].config, name))
            return true;
    return false;
}

bool route_config(struct api *a, json_t *config, char *why, size_t why_bytes)
{
    const char *name;
    json_t *val;

    if (!json_is_object(config)) {
        (void)snprintf(why, why_bytes, "invalid type: expected an object");
        return false;
    }
    json_object_foreach(config, name, val)
    {
        /* Other tools' files name what they do not use. */
        if (!config_known(name) && !json_is_null(val)) {
            (void)snprintf(why, why_bytes, "unknown field `%.64s`", name);
            return false;
        }
    }
    for (unsigned i = 0; i < ARRAY_SIZE(routes); i++)
        if (routes[i].config &&
            !config_member(a, &routes[i], json_object_get(config, routes[i].config), why,
                           why_bytes))
            return false;
    return true;
}
