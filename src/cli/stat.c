/* SPDX-License-Identifier: Apache-2.0 */
/* `doppel stat`: asking a running VM through its control socket. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "lib/log.h"

struct stat_options {
    bool json;
};

static bool set_json(void *into, const char *val)
{
    (void)val;
    ((struct stat_options *)into)->json = true;
    return true;
}

static const struct opt stat_opts[] = {
    { "json", 0, NULL, "as JSON, for programs", set_json },
};

static void stat_help(void)
{
    (void)printf("Usage: doppel stat [NAME] [--json]\n"
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

int check_vm_name(const char *cmd, int nr, char **argv, int min)
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
    if (nr == OPTIONS_BAD || check_vm_name("stat", nr, argv, 0) < 0)
        return EXIT_USAGE;
    if (nr == 1)
        return stat_show(argv[1], o.json);
    if (!ctl_list(stat_list_one, NULL))
        log_info("no VM is running");
    return 0;
}
