/* SPDX-License-Identifier: Apache-2.0 */
/* `doppel ps`: a line for each of the user's running VMs. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "lib/log.h"

static const char *ps_text(const json_t *j, const char *key)
{
    const char *text = json_string_value(json_object_get(j, key));

    return text ? text : "?";
}

/* A VM that ends between being found and being asked has its message and no line. */
static void ps_show(void *arg, const char *name)
{
    char *text = ctl_request(name, "stat"), up[32];
    json_t *j = text ? json_loads(text, 0, NULL) : NULL;
    uint64_t s = (uint64_t)json_number_value(json_object_get(j, "seconds"));

    (void)arg;
    (void)snprintf(up, sizeof(up), "%llu:%02u:%02u", (unsigned long long)(s / 3600),
                   (unsigned)(s / 60 % 60), (unsigned)(s % 60));
    if (j)
        (void)printf("%-20s %8lld %-8s %-8s %5zu %7lldM %10s\n", name,
                     (long long)json_integer_value(json_object_get(j, "pid")), ps_text(j, "engine"),
                     ps_text(j, "state"), json_array_size(json_object_get(j, "vcpus")),
                     (long long)json_integer_value(json_object_get(j, "memory_bytes")) >> 20, up);
    json_decref(j);
    free(text);
}

int cmd_ps(int argc, char **argv)
{
    int nr = options_parse(NULL, 0, NULL, argc, argv);

    if (nr == OPTIONS_HELP) {
        (void)printf("Usage: doppel ps\n\n"
                     "Your running VMs: name, process, engine, state, vCPUs, memory and how long "
                     "they run\n(hours:minutes:seconds). What VMs that died left behind is "
                     "removed.\n");
        return 0;
    }
    if (nr == OPTIONS_BAD)
        return EXIT_USAGE;
    if (nr) {
        log_error("ps: unexpected argument '%s'; `doppel stat NAME` tells of one VM", argv[1]);
        return EXIT_USAGE;
    }
    (void)printf("%-20s %8s %-8s %-8s %5s %8s %10s\n", "NAME", "PID", "ENGINE", "STATE", "VCPUS",
                 "MEMORY", "UPTIME");
    (void)ctl_list(ps_show, NULL);
    return ferror(stdout) || fflush(stdout) ? EXIT_VMM_ERROR : 0;
}
