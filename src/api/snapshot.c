/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /snapshot/create and /snapshot/load. What a client calls the snapshot and the memory file are
 * doppel's two files of a snapshot (snap/snap.h), in which the machine's configuration is kept as
 * GET /vm/config gives it.
 */
#include <string.h>

#include "api/priv.h"
#include "lib/log.h"
#include "snap/snap.h"

static const char *const kinds[] = { "Full", "Diff", NULL };
static const struct field create_list[] = {
    { .name = "snapshot_path", .type = FIELD_STRING, .flags = FIELD_REQUIRED },
    { .name = "mem_file_path", .type = FIELD_STRING, .flags = FIELD_REQUIRED },
    { .name = "snapshot_type", .type = FIELD_STRING, .words = kinds },
    { .name = "version", .type = FIELD_STRING },
};
const struct fields snapshot_create_fields = FIELDS(create_list);

void snapshot_create(struct api *a, const struct request *rq, struct reply *r)
{
    const char *type = field_string(rq->body, "snapshot_type");
    /* What is different from nothing is all. */
    bool diff = type && !strcmp(type, "Diff") && vm_base(a->m.vm);
    struct snap_save save = {
        .files = { .state = field_string(rq->body, "snapshot_path"),
                   .memory = field_string(rq->body, "mem_file_path") },
        .how.kind = diff ? SNAP_DIFF : SNAP_FULL,
    };
    uint64_t from_ns = host_mono_ns();
    char why[512] = "";

    if (vm_state(a->m.vm) != VM_PAUSED) {
        reply_fault(r, "Create snapshot error: the microVM has to be paused before.");
        return;
    }
    save.config = json_pack("{s:o}", "api", vm_config_all(a));
    if (!save.config)
        reply_json(r, NULL);
    else if (snap_save(a->m.vm, &save, NULL, why, sizeof(why)) < 0)
        reply_fault(r, "Create snapshot error: %s", why);
    else
        metrics_latency(a->metrics, diff ? LATENCY_DIFF_SNAPSHOT : LATENCY_FULL_SNAPSHOT,
                        host_mono_ns() - from_ns);
    json_decref(save.config);
}

/* ---- /snapshot/load ---- */

static const char *const backends[] = { "File", "Uffd", NULL };
static const struct field backend_list[] = {
    { .name = "backend_type", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .words = backends },
    { .name = "backend_path", .type = FIELD_STRING, .flags = FIELD_REQUIRED },
};
static const struct fields backend_fields = FIELDS(backend_list);

static const struct field net_override_list[] = {
    { .name = "iface_id", .type = FIELD_STRING, .flags = FIELD_REQUIRED },
    { .name = "host_dev_name", .type = FIELD_STRING, .flags = FIELD_REQUIRED },
};
static const struct fields net_override_fields = FIELDS(net_override_list);

static const struct field vsock_override_list[] = {
    { .name = "uds_path", .type = FIELD_STRING, .flags = FIELD_REQUIRED },
};
static const struct fields vsock_override_fields = FIELDS(vsock_override_list);

static const struct field load_list[] = {
    { .name = "snapshot_path", .type = FIELD_STRING, .flags = FIELD_REQUIRED },
    { .name = "mem_file_path", .type = FIELD_STRING },
    { .name = "mem_backend", .type = FIELD_OBJECT, .sub = &backend_fields },
    { .name = "enable_diff_snapshots", .type = FIELD_BOOL },
    { .name = "track_dirty_pages", .type = FIELD_BOOL },
    { .name = "resume_vm", .type = FIELD_BOOL },
    { .name = "network_overrides", .type = FIELD_OBJECTS, .sub = &net_override_fields },
    { .name = "vsock_override", .type = FIELD_OBJECT, .sub = &vsock_override_fields },
    { .name = "clock_realtime", .type = FIELD_BOOL },
};
const struct fields snapshot_load_fields = FIELDS(load_list);

/* False, and a fault. */
static bool load_files(const json_t *body, struct snap_files *files, struct reply *r)
{
    const json_t *backend = json_object_get(body, "mem_backend");
    const char *path = field_string(body, "mem_file_path");

    if (!backend == !path) {
        reply_fault(r, "Load snapshot error: exactly one of `mem_backend` and `mem_file_path` has "
                       "to be given.");
        return false;
    }
    *files = (struct snap_files){ .state = field_string(body, "snapshot_path"), .memory = path };
    if (!backend)
        return true;
    path = field_string(backend, "backend_path");
    if (!strcmp(field_string(backend, "backend_type"), "File"))
        files->memory = path;
    else
        files->uffd = path;
    return true;
}

/* The snapshot's configuration, with what this host has other names for. */
static bool load_override(json_t *config, const json_t *body, struct reply *r)
{
    const json_t *vsock = json_object_get(body, "vsock_override");
    json_t *nets = json_object_get(config, "network-interfaces"), *o;
    size_t i;

    json_array_foreach(json_object_get(body, "network_overrides"), i, o)
    {
        size_t at;
        json_t *net;
        bool found = false;

        json_array_foreach(nets, at, net)
        {
            const char *id = field_string(net, "iface_id");

            if (!id || strcmp(id, field_string(o, "iface_id")) != 0)
                continue;
            found = true;
            if (json_object_set(net, "host_dev_name", json_object_get(o, "host_dev_name")) < 0)
                return reply_json(r, NULL), false;
        }
        if (!found) {
            reply_fault(r, "Load snapshot error: the snapshot has no network interface '%.64s'.",
                        field_string(o, "iface_id"));
            return false;
        }
    }
    if (vsock && !json_is_object(json_object_get(config, "vsock"))) {
        reply_fault(r, "Load snapshot error: the snapshot has no vsock device.");
        return false;
    }
    if (vsock && json_object_set(json_object_get(config, "vsock"), "uds_path",
                                 json_object_get(vsock, "uds_path")) < 0)
        return reply_json(r, NULL), false;
    return true;
}

/* What was set by a snapshot that could not be loaded is forgotten. */
static void forget_machine(struct api *a)
{
    json_t **members[] = { &a->machine, &a->boot,        &a->vsock,      &a->balloon, &a->entropy,
                           &a->serial,  &a->mmds_config, &a->cpu_config, &a->hotplug };

    for (unsigned i = 0; i < ARRAY_SIZE(members); i++) {
        json_decref(*members[i]);
        *members[i] = NULL;
    }
    (void)json_array_clear(a->drives);
    (void)json_array_clear(a->nets);
    (void)json_array_clear(a->pmems);
    a->touched = false;
}

static bool load_config(struct api *a, struct snap *snap, const json_t *body, struct reply *r)
{
    json_t *config = json_deep_copy(json_object_get(snap_config(snap), "api"));
    char why[512];
    bool ok;

    if (!json_is_object(config)) {
        reply_fault(r, "Load snapshot error: '%.128s' is no snapshot that was made by this API.",
                    field_string(body, "snapshot_path"));
        json_decref(config);
        return false;
    }
    /* This process has its own. */
    (void)json_object_del(config, "logger");
    (void)json_object_del(config, "metrics");
    /* What was booted is in memory. */
    (void)json_object_del(config, "boot-source");
    ok = load_override(config, body, r);
    if (ok && !route_config(a, config, why, sizeof(why))) {
        reply_fault(r, "Load snapshot error: the snapshot's configuration: %s", why);
        ok = false;
    }
    json_decref(config);
    return ok;
}

static bool load_start(struct api *a, struct snap *snap, const json_t *body, struct reply *r)
{
    char why[512];

    if (!load_config(a, snap, body, r))
        return false;
    api_log_forget(a->log);
    if (machine_start(a, snap) == 0)
        return true;
    reply_fault(r, "Load snapshot error: %s", api_log_last_error(a->log, why, sizeof(why)));
    return false;
}

void snapshot_load(struct api *a, const struct request *rq, struct reply *r)
{
    uint64_t from_ns = host_mono_ns();
    struct snap_files files;
    struct snap *snap;
    char why[512] = "";

    if (!load_files(rq->body, &files, r))
        return;
    if (a->touched) {
        reply_fault(r, "Load snapshot error: Loading a microVM snapshot not allowed after "
                       "configuring boot-specific resources.");
        return;
    }
    snap = snap_open(&files, field_bool(rq->body, "clock_realtime", false) ? SNAP_CLOCK_HOST : 0,
                     why, sizeof(why));
    if (!snap) {
        reply_fault(r, "Load snapshot error: %s", why);
        return;
    }
    if (!load_start(a, snap, rq->body, r))
        forget_machine(a);
    else if (field_bool(rq->body, "resume_vm", false))
        (void)vm_user_resume(a->m.vm);
    snap_close(snap);
    metrics_latency(a->metrics, LATENCY_LOAD_SNAPSHOT, host_mono_ns() - from_ns);
}
