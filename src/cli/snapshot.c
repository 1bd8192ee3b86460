/* SPDX-License-Identifier: Apache-2.0 */
/* `doppel snapshot`: keeps a running VM's state, through its control socket. */
#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "lib/log.h"

#define LIMIT_S 3600 /* much memory on a slow disk */

struct snapshot_options {
    bool diff;
};

static bool set_diff(void *into, const char *val)
{
    (void)val;
    ((struct snapshot_options *)into)->diff = true;
    return true;
}

static const struct opt snapshot_opts[] = {
    { "incremental", 0, NULL,
      "only what was written since the VM's last snapshot, or since it was\n"
      "restored; needs that one to be restored",
      set_diff },
    { "diff", 0, NULL, "the same", set_diff },
};

static int snapshot_help(void)
{
    (void)printf("Usage: doppel snapshot NAME|PID DIR [--incremental]\n"
                 "\n"
                 "  doppel snapshot web /srv/web-1      the VM stands still for a moment\n"
                 "  doppel run --restore /srv/web-1     it goes on from there, here or later\n"
                 "  doppel run --restore /srv/web-1 --clone --name web2 --disk path=copy.raw\n"
                 "      one more of it, at the same time\n"
                 "\n"
                 "DIR is made; a snapshot that is there already is replaced when the new one is\n"
                 "whole. Disks are not in it: their images have to be as they were.\n"
                 "\n"
                 "Options:\n");
    options_help(snapshot_opts, ARRAY_SIZE(snapshot_opts));
    return 0;
}

struct by_pid {
    long pid;
    char name[CTL_NAME_MAX + 1];
};

static void look_at_pid(void *arg, const char *name)
{
    struct by_pid *p = arg;
    char *text = *p->name ? NULL : ctl_request(name, "stat");
    json_t *j = text ? json_loads(text, 0, NULL) : NULL;

    if (j && json_integer_value(json_object_get(j, "pid")) == p->pid)
        (void)snprintf(p->name, sizeof(p->name), "%s", name);
    json_decref(j);
    free(text);
}

/* A number is a name, too, if a VM is called so; else it is a process. */
static bool find_name(const char *arg, struct by_pid *p)
{
    uint64_t pid;

    *p = (struct by_pid){ 0 };
    if (value_uint(arg, 1, INT_MAX, &pid)) {
        p->pid = (long)pid;
        (void)ctl_list(look_at_pid, p);
    }
    if (!*p->name && ctl_name_ok(arg))
        (void)snprintf(p->name, sizeof(p->name), "%s", arg);
    if (!*p->name)
        log_error("snapshot: '%s' cannot be the name of a VM", arg);
    return *p->name;
}

/* As the VM's process, which is in another directory, has to name it. malloc'ed. */
static char *absolute(const char *path)
{
    char cwd[PATH_MAX], *all = NULL;

    if (*path == '/')
        return strdup(path);
    if (!getcwd(cwd, sizeof(cwd)) || asprintf(&all, "%s/%s", cwd, path) < 0)
        return NULL;
    return all;
}

static int snapshot_report(const char *text)
{
    json_t *j = json_loads(text, 0, NULL);

    (void)printf("%.1f MiB of memory (%.1f MiB are zeroes); the guest stood still for %.0f ms\n",
                 (double)json_integer_value(json_object_get(j, "bytes")) / 1048576.0,
                 (double)json_integer_value(json_object_get(j, "zero_bytes")) / 1048576.0,
                 json_real_value(json_object_get(j, "paused_ms")));
    json_decref(j);
    return fflush(stdout) ? EXIT_VMM_ERROR : 0;
}

int cmd_snapshot(int argc, char **argv)
{
    struct snapshot_options o = { .diff = false };
    int nr = options_parse(snapshot_opts, ARRAY_SIZE(snapshot_opts), &o, argc, argv), status;
    char *dir, *line, *with_end = NULL, *text = NULL;
    struct by_pid vm;
    json_t *j;

    if (nr == OPTIONS_HELP)
        return snapshot_help();
    if (nr == OPTIONS_BAD)
        return EXIT_USAGE;
    if (nr != 2 || !*argv[2]) {
        log_error("snapshot: a VM's NAME and a DIR; `doppel snapshot --help` tells more");
        return EXIT_USAGE;
    }
    if (!find_name(argv[1], &vm))
        return EXIT_USAGE;
    dir = absolute(argv[2]);
    j = dir ? json_pack("{s:s, s:s, s:s}", "do", "snapshot", "dir", dir, "kind",
                        o.diff ? "diff" : "full")
            : NULL;
    line = j ? json_dumps(j, JSON_COMPACT) : NULL;
    if (line && asprintf(&with_end, "%s\n", line) > 0)
        text = ctl_request_long(vm.name, with_end, LIMIT_S);
    else
        log_error("snapshot: '%s' cannot be the name of a directory", argv[2]);
    status = text ? snapshot_report(text) : EXIT_VMM_ERROR;
    free(text);
    free(with_end);
    free(line);
    json_decref(j);
    free(dir);
    return status;
}
