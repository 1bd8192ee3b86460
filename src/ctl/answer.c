/* SPDX-License-Identifier: Apache-2.0 */
/* What the requests on the control socket do. A request is a row in answer_requests[]. */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/answer.h"
#include "ctl/ctl.h"

/* Each returns the result, or NULL: *error says why, or, left NULL, that memory is short. */

static json_t *answer_stat(struct vm *vm, const json_t *request, const char **error)
{
    char *text = vm_stats_json(vm);
    json_t *j = text ? json_loads(text, 0, NULL) : NULL;

    (void)request, (void)error;
    free(text);
    return j;
}

/* {"text": "..."}, for Prometheus. */
static json_t *answer_prometheus(struct vm *vm, const json_t *request, const char **error)
{
    json_t *vms = json_pack("[o]", answer_stat(vm, request, error)), *j = NULL;
    char *text = vms ? ctl_prometheus(vms) : NULL;

    if (text)
        j = json_pack("{s:s}", "text", text);
    free(text);
    json_decref(vms);
    return j;
}

static json_t *answer_stop(struct vm *vm, const json_t *request, const char **error)
{
    (void)request, (void)error;
    vm_stop(vm, STOP_USER, 0);
    return json_object();
}

/* {"heard": false}: the guest does not listen to the power button, or not yet. */
static json_t *answer_powerdown(struct vm *vm, const json_t *request, const char **error)
{
    (void)request;
    if (vm_state(vm) == VM_PAUSED) {
        *error = "it is paused, and would not see its power button";
        return NULL;
    }
    return json_pack("{s:b}", "heard", (int)vm_power_button(vm));
}

static json_t *answer_pause(struct vm *vm, const json_t *request, const char **error)
{
    (void)request;
    if (vm_user_pause(vm))
        return json_object();
    *error = "it is paused already";
    return NULL;
}

/* {"state": "paused"}: something else still holds it. */
static json_t *answer_resume(struct vm *vm, const json_t *request, const char **error)
{
    (void)request;
    if (vm_user_resume(vm))
        return json_pack("{s:s}", "state", vm_state_text(vm_state(vm)));
    *error = vm_state(vm) == VM_PAUSED
                 ? "it was not paused by the user: a debugger or a full disk holds it"
                 : "it is not paused";
    return NULL;
}

static json_t *answer_version(struct vm *vm, const json_t *request, const char **error)
{
    (void)vm, (void)request, (void)error;
    return json_pack("{s:s}", "version", DOPPEL_VERSION);
}

/* {"do": "resize", "disk": 0, "bytes": N}; 0: as large as the image is now. */
static json_t *answer_resize(struct vm *vm, const json_t *request, const char **error)
{
    const json_t *disk = json_object_get(request, "disk");
    const json_t *bytes = json_object_get(request, "bytes");
    int err = -EINVAL;

    if (json_is_integer(disk) && json_is_integer(bytes) && json_integer_value(disk) >= 0 &&
        json_integer_value(disk) < VM_DISKS_MAX && json_integer_value(bytes) >= 0)
        err = vm_resize_disk(vm, (unsigned)json_integer_value(disk),
                             (uint64_t)json_integer_value(bytes));
    if (!err)
        return json_object();
    *error = err == -ENOENT   ? "it has no such virtio disk (IDE disks keep their size)"
             : err == -EINVAL ? "a disk that is in use cannot become smaller"
             : err == -EROFS
                 ? "the disk is read-only: make its file larger, then resize without SIZE"
                 : strerror(-err);
    return NULL;
}

/* {"do": "balloon", "bytes": N}: the guest keeps so much of its memory. */
static json_t *answer_balloon(struct vm *vm, const json_t *request, const char **error)
{
    const json_t *bytes = json_object_get(request, "bytes");
    int err = -EINVAL;

    if (json_is_integer(bytes) && json_integer_value(bytes) >= 0)
        err = vm_set_memory(vm, (uint64_t)json_integer_value(bytes));
    if (!err)
        return json_object();
    *error =
        err == -ENOENT ? "it has no balloon (--device balloon)" : "that is more than its --memory";
    return NULL;
}

/* {"do": "console-size", "cols": N, "rows": N}: of the terminal that is on the virtio console. */
static json_t *answer_console_size(struct vm *vm, const json_t *request, const char **error)
{
    json_int_t cols = json_integer_value(json_object_get(request, "cols"));
    json_int_t rows = json_integer_value(json_object_get(request, "rows"));

    if (cols < 1 || cols > UINT16_MAX || rows < 1 || rows > UINT16_MAX) {
        *error = "\"cols\" and \"rows\" are numbers from 1 to 65535";
        return NULL;
    }
    vm_resize_console(vm, (uint16_t)cols, (uint16_t)rows);
    return json_object();
}

/* ---- screen and keyboard: the argument is in "arg" ---- */

static const char *answer_arg(const json_t *request)
{
    return json_string_value(json_object_get(request, "arg"));
}

static json_t *answer_screen_text(struct vm *vm, const json_t *request, const char **error)
{
    char *text = vm_screen_text(vm);
    json_t *j = text ? json_pack("{s:s}", "text", text) : NULL;

    (void)request;
    free(text);
    if (!j)
        *error = vm_cfg(vm)->vga ? "the screen is not in text mode" : ANSWER_NO_SCREEN;
    return j;
}

static json_t *answer_sendkey(struct vm *vm, const json_t *request, const char **error)
{
    const char *keys = answer_arg(request);
    int err = keys ? ctl_press(vm, keys) : -EINVAL;

    if (err == -EINVAL)
        *error = "there is no such key";
    return err == -EINVAL ? NULL : json_pack("{s:b}", "taken", !err);
}

static const struct {
    const char *name;
    json_t *(*answer)(struct vm *vm, const json_t *request, const char **error);
    answer_files *with_files; /* or this */
} answer_requests[] = {
    { "balloon", answer_balloon, NULL },
    { "console-size", answer_console_size, NULL },
    { "pause", answer_pause, NULL },
    { "powerdown", answer_powerdown, NULL },
    { "prometheus", answer_prometheus, NULL },
    { "resume", answer_resume, NULL },
    { "screenshot", NULL, answer_screenshot },
    { "screen-text", answer_screen_text, NULL },
    { "sendkey", answer_sendkey, NULL },
    { "snapshot", NULL, answer_snapshot },
    { "snapshot-base", NULL, answer_snapshot_base },
    { "snapshot-lost", NULL, answer_snapshot_lost },
    { "stat", answer_stat, NULL },
    { "stop", answer_stop, NULL },
    { "resize", answer_resize, NULL },
    { "version", answer_version, NULL },
};

static char *answer_text(json_t *top)
{
    char *text = top ? json_dumps(top, JSON_COMPACT) : NULL;

    json_decref(top);
    return text;
}

static char *answer_error(const char *fmt, const char *what)
{
    json_t *error = json_sprintf(fmt, what);

    /* What was asked for may not be printable at all. */
    if (!error)
        error = json_string("unknown request");
    return answer_text(json_pack("{s:b, s:o}", "ok", 0, "error", error));
}

char *ctl_answer(struct vm *vm, const char *line, size_t bytes, const struct ctl_fds *fds)
{
    json_error_t why;
    json_t *request = json_loadb(line, bytes, JSON_REJECT_DUPLICATES, &why);
    const char *what = json_string_value(json_object_get(request, "do"));
    char *answer = NULL;

    if (!request)
        return answer_error("not JSON: %s", why.text);
    if (!what)
        answer = answer_error("%s", "a request is an object with a string \"do\"");
    for (unsigned i = 0; i < ARRAY_SIZE(answer_requests) && !answer; i++) {
        const char *error = NULL;
        json_t *result;

        if (strcmp(what, answer_requests[i].name) != 0)
            continue;
        result = answer_requests[i].answer
                     ? answer_requests[i].answer(vm, request, &error)
                     : answer_requests[i].with_files(vm, request, fds, &error);
        answer = result ? answer_text(json_pack("{s:b, s:o}", "ok", 1, "result", result))
                        : answer_error("%s", error ? error : "out of memory");
    }
    if (!answer)
        answer = answer_error("unknown request '%s'", what);
    json_decref(request);
    return answer;
}

/* ---- channels ---- */

/* NULL: there is no such channel. */
static struct chr *answer_channel(const struct vm_config *cfg, const char *which)
{
    if (!which)
        return cfg->console.chr ? cfg->console.chr : cfg->serial;
    if (!strcmp(which, "serial"))
        return cfg->serial;
    if (!strcmp(which, "console"))
        return cfg->console.chr;
    for (unsigned i = 0; i < cfg->console.nr_ports; i++)
        if (!strcmp(which, cfg->console.ports[i].name))
            return cfg->console.ports[i].chr;
    return NULL;
}

/* The pseudo-terminal's name, or why the client cannot be a visitor. */
static char *answer_no_visit(struct chr *c, int sized, int err)
{
    if (chr_pty_name(c))
        return answer_text(json_pack("{s:b, s:{s:s, s:b}}", "ok", 1, "result", "pty",
                                     chr_pty_name(c), "sized", sized));
    if (err == -EBUSY)
        return answer_error("%s", "another client is attached to it");
    if (err == -EOPNOTSUPP)
        return answer_error("%s", "it is on the standard input and output of `doppel run`");
    return answer_error("%s", strerror(-err));
}

/* A visitor that has just left may not be seen to have gone yet. */
#define VISIT_WAIT_NS 1000000000ull
#define VISIT_POLL_NS 5000000ull

static int visit(struct chr *c, int fd, const char *hello)
{
    uint64_t end_ns = host_mono_ns() + VISIT_WAIT_NS;
    _Atomic uint32_t never = 0;
    int err;

    while ((err = chr_visit(c, fd, hello)) == -EAGAIN && host_mono_ns() < end_ns)
        host_futex_wait(&never, 0, host_mono_ns() + VISIT_POLL_NS);
    return err == -EAGAIN ? -EBUSY : err;
}

bool ctl_answer_console(struct vm *vm, const char *line, size_t bytes, int *fd, char **answer)
{
    static const char *const hello[] = {
        "{\"ok\":true,\"result\":{\"sized\":false}}\n",
        "{\"ok\":true,\"result\":{\"sized\":true}}\n",
    };
    json_t *request = json_loadb(line, bytes, JSON_REJECT_DUPLICATES, NULL);
    const char *what = json_string_value(json_object_get(request, "do"));
    bool is = what && !strcmp(what, "console");

    if (is) {
        struct chr *c = answer_channel(vm_cfg(vm), answer_arg(request));
        bool sized = c && c == vm_cfg(vm)->console.chr;
        int err = c ? visit(c, *fd, hello[sized]) : -ENOENT;

        if (!err)
            *fd = -1;
        else if (!c)
            *answer = answer_error("%s", "it has no such port or console");
        else
            *answer = answer_no_visit(c, sized, err);
    }
    json_decref(request);
    return is;
}
