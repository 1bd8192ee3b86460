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

json_t *vm_config_all(const struct api *a)
{
    struct reply machine = { .status = 0 };
    const struct {
        const char *name;
        json_t *val;
    } members[] = {
        { "drives", a->drives },          { "network-interfaces", a->nets },
        { "boot-source", a->boot },       { "vsock", a->vsock },
        { "balloon", a->balloon },        { "entropy", a->entropy },
        { "serial", a->serial },          { "logger", a->logger },
        { "metrics", a->metrics_config }, { "mmds-config", a->mmds_config },
    };
    json_t *all = json_object();

    machine_config_get((struct api *)a, NULL, &machine);
    if (!all || machine.status != 200 || json_object_set(all, "machine-config", machine.body) < 0)
        goto fail;
    for (unsigned i = 0; i < ARRAY_SIZE(members); i++)
        if (members[i].val &&
            json_object_set_new(all, members[i].name, json_deep_copy(members[i].val)) < 0)
            goto fail;
    json_decref(machine.body);
    return all;

fail:
    json_decref(machine.body);
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
