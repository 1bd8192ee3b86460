/* SPDX-License-Identifier: Apache-2.0 */
/* The instance as a whole: /, /version, /vm, /vm/config, /actions. */
#include <errno.h>
#include <string.h>

#include "api/priv.h"
#include "ctl/ctl.h"

void version_get(struct api *a, const struct request *rq, struct reply *r)
{
    (void)a, (void)rq;
    reply_json(r, json_pack("{s:s}", "firecracker_version", API_VERSION));
}

void instance_get(struct api *a, const struct request *rq, struct reply *r)
{
    const char *state = "Not started";

    (void)rq;
    if (a->m.vm)
        state = vm_state(a->m.vm) == VM_PAUSED ? "Paused" : "Running";
    reply_json(r, json_pack("{s:s, s:s, s:s, s:s}", "id", a->cfg->id, "state", state, "vmm_version",
                            API_VERSION, "app_name", API_APP_NAME));
}

/* ---- /vm/config ---- */

/* Members that clients expect to be there, with what stands for "not given". */
static json_t *drive_defaults(const json_t *drive)
{
    /* What a vhost-user drive cannot be given (drives.c). */
    bool served = field_string(drive, "socket");

    return json_pack("{s:n, s:s, s:o, s:n, s:n, s:s?, s:n}", "partuuid", "cache_type", "Unsafe",
                     "is_read_only", served ? json_null() : json_false(), "path_on_host",
                     "rate_limiter", "io_engine", served ? NULL : "Sync", "socket");
}

static json_t *pmem_defaults(const json_t *pmem)
{
    (void)pmem;

    return json_pack("{s:b, s:b}", "root_device", 0, "read_only", 0);
}

static json_t *net_defaults(const json_t *net)
{
    (void)net;
    return json_pack("{s:n, s:n, s:n}", "guest_mac", "rx_rate_limiter", "tx_rate_limiter");
}

/* A copy; NULL: out of memory. */
static json_t *config_list(const json_t *list, json_t *(*defaults)(const json_t *item))
{
    json_t *all = json_array(), *item;
    size_t i;

    json_array_foreach(list, i, item)
    {
        json_t *full = defaults(item), *copy = json_deep_copy(item);
        int err = full && copy ? json_object_update(full, copy) : -1;

        json_decref(copy);
        if (err < 0) {
            json_decref(full);
            full = NULL;
        }
        if (json_array_append_new(all, full) < 0) {
            json_decref(all);
            return NULL;
        }
    }
    return all;
}

/* What was not set is null. */
static json_t *config_copy(const json_t *val)
{
    return val ? json_deep_copy(val) : json_null();
}

json_t *vm_config_all(const struct api *a)
{
    struct reply machine = { .status = 0 };
    struct {
        const char *name;
        json_t *copy;
    } members[] = {
        { "drives", config_list(a->drives, drive_defaults) },
        { "network-interfaces", config_list(a->nets, net_defaults) },
        { "memory-hotplug", config_copy(a->hotplug) },
        { "pmem", config_list(a->pmems, pmem_defaults) },
        { "boot-source", config_copy(a->boot) },
        { "vsock", config_copy(a->vsock) },
        { "cpu-config", config_copy(a->cpu_config) },
        { "balloon", config_copy(a->balloon) },
        { "entropy", config_copy(a->entropy) },
        { "serial", config_copy(a->serial) },
        { "logger", config_copy(a->logger) },
        { "metrics", config_copy(a->metrics_config) },
        { "mmds-config", config_copy(a->mmds_config) },
    };
    json_t *all = json_object();
    bool ok;

    machine_config_get((struct api *)a, NULL, &machine);
    ok = all && machine.status == 200;
    ok = ok && json_object_set(all, "machine-config", machine.body) == 0;
    json_decref(machine.body);
    /* Takes the copies, also when it fails. */
    for (unsigned i = 0; i < ARRAY_SIZE(members); i++)
        ok = json_object_set_new(all, members[i].name, members[i].copy) == 0 && ok;
    if (ok)
        return all;
    json_decref(all);
    return NULL;
}

void vm_config_get(struct api *a, const struct request *rq, struct reply *r)
{
    (void)rq;
    reply_json(r, vm_config_all(a));
}

/* ---- /vm ---- */

static const char *const states[] = { "Paused", "Resumed", NULL };
static const struct field vm_list[] = {
    { .name = "state", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .words = states },
};
const struct fields vm_fields = FIELDS(vm_list);

/* What it is already is no error. */
void vm_patch(struct api *a, const struct request *rq, struct reply *r)
{
    uint64_t from_ns = host_mono_ns();
    bool pause = !strcmp(field_string(rq->body, "state"), "Paused");

    (void)r;
    if (pause)
        (void)vm_user_pause(a->m.vm);
    else
        (void)vm_user_resume(a->m.vm);
    metrics_latency(a->metrics, pause ? LATENCY_PAUSE : LATENCY_RESUME, host_mono_ns() - from_ns);
}

/* ---- /actions ---- */

static const char *const actions[] = { "InstanceStart", "SendCtrlAltDel", "FlushMetrics", NULL };
static const struct field actions_list[] = {
    { .name = "action_type", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .words = actions },
};
const struct fields actions_fields = FIELDS(actions_list);

bool instance_start(struct api *a, struct reply *r)
{
    char why[512];

    if (a->m.vm) {
        reply_fault(r, "The requested operation is not supported after starting the microVM.");
        return false;
    }
    if (!a->boot) {
        reply_fault(r, "Start microvm error: Cannot start microvm without kernel configuration.");
        return false;
    }
    api_log_forget(a->log);
    if (machine_start(a, NULL) < 0) {
        reply_fault(r, "Start microvm error: %s", api_log_last_error(a->log, why, sizeof(why)));
        return false;
    }
    log_info("the microVM was started");
    return true;
}

void actions_put(struct api *a, const struct request *rq, struct reply *r)
{
    const char *what = field_string(rq->body, "action_type");
    int err = 0;

    if (!strcmp(what, "InstanceStart")) {
        (void)instance_start(a, r);
        return;
    }
    if (!a->m.vm) {
        reply_fault(r, "The requested operation is not supported before starting the microVM.");
        return;
    }
    if (!strcmp(what, "SendCtrlAltDel")) {
        err = ctl_press(a->m.vm, "ctrl-alt-delete");
        if (err)
            reply_fault(r, "Internal VMM error: cannot send Ctrl-Alt-Del: %s",
                        err == -EAGAIN ? "the guest has not taken the keys before"
                                       : strerror(-err));
        return;
    }
    err = metrics_flush(a);
    if (err)
        reply_fault(r, "Internal VMM error: Failed to flush metrics: %s", strerror(-err));
}
