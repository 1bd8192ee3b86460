/* SPDX-License-Identifier: Apache-2.0 */
/* What the requests on the control socket do. A request is a row in answer_requests[]. */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/ctl.h"

static json_t *answer_stat(struct vm *vm, const char *arg, const char **why)
{
    (void)arg, (void)why;
    char *text = vm_stats_json(vm);
    json_t *j = text ? json_loads(text, 0, NULL) : NULL;

    free(text);
    return j;
}

static json_t *answer_stop(struct vm *vm, const char *arg, const char **why)
{
    (void)arg, (void)why;
    vm_stop(vm, STOP_USER, 0);
    return json_object();
}

static json_t *answer_version(struct vm *vm, const char *arg, const char **why)
{
    (void)vm, (void)arg, (void)why;
    return json_pack("{s:s}", "version", DOPPEL_VERSION);
}

static json_t *answer_screenshot(struct vm *vm, const char *arg, const char **why)
{
    if (arg && *arg == '/' && !ctl_write_screen(vm, arg))
        return json_object();
    *why = vm_cfg(vm)->vga ? "the picture cannot be written (\"arg\" is an absolute path)"
                           : "this VM has no screen; run it with --display vga";
    return NULL;
}

static json_t *answer_screen_text(struct vm *vm, const char *arg, const char **why)
{
    char *text = vm_screen_text(vm);
    json_t *j = text ? json_pack("{s:s}", "text", text) : NULL;

    (void)arg;
    free(text);
    if (!j)
        *why = vm_cfg(vm)->vga ? "the screen is not in text mode"
                               : "this VM has no screen; run it with --display vga";
    return j;
}

static json_t *answer_sendkey(struct vm *vm, const char *arg, const char **why)
{
    int err = arg ? ctl_press(vm, arg) : -EINVAL;

    if (err == -EINVAL)
        *why = "there is no such key";
    return err == -EINVAL ? NULL : json_pack("{s:b}", "taken", !err);
}

static const struct {
    const char *name;
    /* NULL: *why tells, or out of memory */
    json_t *(*answer)(struct vm *vm, const char *arg, const char **why);
} answer_requests[] = {
    { "screenshot", answer_screenshot },
    { "screen-text", answer_screen_text },
    { "sendkey", answer_sendkey },
    { "stat", answer_stat },
    { "stop", answer_stop },
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
    const char *arg = json_string_value(json_object_get(request, "arg"));
    const char *failed = "out of memory";
    char *answer = NULL;

    if (!request)
        return answer_error("not JSON: %s", why.text);
    if (!what)
        answer = answer_error("%s", "a request is an object with a string \"do\"");
    for (unsigned i = 0; i < ARRAY_SIZE(answer_requests) && !answer; i++) {
        json_t *result;

        if (strcmp(what, answer_requests[i].name) != 0)
            continue;
        result = answer_requests[i].answer(vm, arg, &failed);
        answer = result ? answer_text(json_pack("{s:b, s:o}", "ok", 1, "result", result))
                        : answer_error("%s", failed);
    }
    if (!answer)
        answer = answer_error("unknown request '%s'", what);
    json_decref(request);
    return answer;
}
