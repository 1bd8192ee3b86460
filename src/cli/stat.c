/* SPDX-License-Identifier: Apache-2.0 */
/* `doppel stat`: asking a running VM through its control socket. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "lib/log.h"

struct stat_options {
    bool json, prometheus;
};

static bool set_json(void *into, const char *val)
{
    (void)val;
    ((struct stat_options *)into)->json = true;
    return true;
}

static bool set_prometheus(void *into, const char *val)
{
    (void)val;
    ((struct stat_options *)into)->prometheus = true;
    return true;
}

static const struct opt stat_opts[] = {
    { "json", 0, NULL, "as JSON, for programs", set_json },
    { "prometheus", 0, NULL, "in Prometheus' text format; without NAME of all VMs",
      set_prometheus },
};

static void stat_help(void)
{
    (void)printf("Usage: doppel stat [NAME] [--json|--prometheus]\n"
                 "\n"
                 "  doppel stat          which VMs of yours are running\n"
                 "  doppel stat web      why the VM \"web\" leaves its guest, how often, and what "
                 "that costs\n"
                 "\n"
                 "Options:\n");
    options_help(stat_opts, ARRAY_SIZE(stat_opts));
}

static void stat_list_one(void *arg, const char *name)
{
    (void)arg;
    (void)printf("%s\n", name);
}

static int stat_show(const char *name, bool json)
{
    char *text = ctl_request(name, "stat"), *table;

    if (!text)
        return EXIT_VMM_ERROR;
    table = json ? NULL : ctl_stat_text(text);
    (void)printf("%s%s", table ? table : text, json ? "\n" : "");
    free(table);
    free(text);
    return ferror(stdout) || fflush(stdout) ? EXIT_VMM_ERROR : 0;
}

static void stat_collect(void *arg, const char *name)
{
    char *text = ctl_request(name, "stat");
    json_t *j = text ? json_loads(text, 0, NULL) : NULL;

    if (j)
        (void)json_array_append_new(arg, j);
    free(text);
}

/* name NULL: of all. */
static int stat_prometheus(const char *name)
{
    json_t *vms = json_array();
    char *text = NULL;

    if (name)
        stat_collect(vms, name);
    else
        (void)ctl_list(stat_collect, vms);
    if (!name || json_array_size(vms))
        text = ctl_prometheus(vms);
    json_decref(vms);
    if (!text)
        return EXIT_VMM_ERROR;
    (void)printf("%s", text);
    free(text);
    return ferror(stdout) || fflush(stdout) ? EXIT_VMM_ERROR : 0;
}

/* One name, or -1 after a message. */
static int stat_check_args(const char *cmd, int nr, char **argv, int min)
{
    if (nr < min || nr > 1) {
        log_error("%s: %s; `doppel %s --help` tells more", cmd,
                  nr ? "one NAME, not more" : "the NAME of a running VM is missing", cmd);
        return -1;
    }
    if (nr == 1 && !ctl_name_ok(argv[1])) {
        log_error("%s: '%s' cannot be the name of a VM", cmd, argv[1]);
        return -1;
    }
    return 0;
}

int cmd_stat(int argc, char **argv)
{
    struct stat_options o = { 0 };
    int nr = options_parse(stat_opts, ARRAY_SIZE(stat_opts), &o, argc, argv);

    if (nr == OPTIONS_HELP) {
        stat_help();
        return 0;
    }
    if (nr == OPTIONS_BAD || stat_check_args("stat", nr, argv, 0) < 0)
        return EXIT_USAGE;
    if (o.prometheus)
        return stat_prometheus(nr ? argv[1] : NULL);
    if (nr == 1)
        return stat_show(argv[1], o.json);
    if (!ctl_list(stat_list_one, NULL))
        log_info("no VM is running");
    return 0;
}
