/* SPDX-License-Identifier: Apache-2.0 */
/* What the requests on the control socket do. A request is a row in answer_requests[]. */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

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

static json_t *answer_stop(struct vm *vm, const json_t *request, const char **error)
{
    (void)request, (void)error;
    vm_stop(vm, STOP_USER, 0);
    return json_object();
}

/* Whether the guest listens: if not, only "stop" ends it. */
static json_t *answer_power_button(struct vm *vm, const json_t *request, const char **error)
{
    (void)request, (void)error;
    return json_pack("{s:b}", "heard", vm_power_button(vm));
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
    *error = err == -ENOENT   ? "it has no such disk"
             : err == -EINVAL ? "a disk that is in use cannot become smaller"
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

/* ---- screen and keyboard: the argument is in "arg" ---- */

static const char no_screen[] = "this VM has no screen; run it with --display vga";

static const char *answer_arg(const json_t *request)
{
    return json_string_value(json_object_get(request, "arg"));
}

static json_t *answer_screenshot(struct vm *vm, const json_t *request, const char **error)
{
    const char *path = answer_arg(request);

    if (path && *path == '/' && !ctl_write_screen(vm, path))
        return json_object();
    *error =
        vm_cfg(vm)->vga ? "the picture cannot be written (\"arg\" is an absolute path)" : no_screen;
    return NULL;
}

static json_t *answer_screen_text(struct vm *vm, const json_t *request, const char **error)
{
    char *text = vm_screen_text(vm);
    json_t *j = text ? json_pack("{s:s}", "text", text) : NULL;

    (void)request;
    free(text);
    if (!j)
        *error = vm_cfg(vm)->vga ? "the screen is not in text mode" : no_screen;
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
} answer_requests[] = {
    { "balloon", answer_balloon },
    { "power-button", answer_power_button },
    { "screenshot", answer_screenshot },
    { "screen-text", answer_screen_text },
    { "sendkey", answer_sendkey },
    { "stat", answer_stat },
    { "stop", answer_stop },
    { "resize", answer_resize },
    { "version", answer_version },
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

char *ctl_answer(struct vm *vm, const char *line, size_t bytes)
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
        result = answer_requests[i].answer(vm, request, &error);
        answer = result ? answer_text(json_pack("{s:b, s:o}", "ok", 1, "result", result))
                        : answer_error("%s", error ? error : "out of memory");
    }
    if (!answer)
        answer = answer_error("unknown request '%s'", what);
    json_decref(request);
    return answer;
}
