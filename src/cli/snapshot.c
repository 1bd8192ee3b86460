/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `doppel snapshot`: keeps a running VM's state. This process makes the files and puts them into
 * their place; the VM's, which may open none, writes what it gets by its control socket.
 */
#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "lib/log.h"
#include "snap/snap.h"

#define LIMIT_S 3600 /* much memory on a slow disk */

struct snapshot_options {
    bool diff, zstd;
};

static bool set_diff(void *into, const char *val)
{
    (void)val;
    ((struct snapshot_options *)into)->diff = true;
    return true;
}

static bool set_compress(void *into, const char *val)
{
    if (strcmp(val, "zstd") != 0) {
        log_error("--compress: '%s' is not zstd", val);
        return false;
    }
    ((struct snapshot_options *)into)->zstd = true;
    return true;
}

static const struct opt snapshot_opts[] = {
    { "incremental", 0, NULL,
      "only what was written since the VM's last snapshot, or since it was\n"
      "restored; needs that one to be restored",
      set_diff },
    { "diff", 0, NULL, "the same", set_diff },
    { "compress", 0, "zstd",
      "make the memory's file smaller. Who goes on from it reads all of it first,\n"
      "and has memory of its own; one that is not compressed is mapped",
      set_compress },
};

static int snapshot_help(void)
{
    (void)printf("Usage: doppel snapshot NAME|PID DIR [--incremental] [--compress zstd]\n"
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

static int snapshot_report(const char *text)
{
    json_t *j = json_loads(text, 0, NULL);
    json_int_t packed = json_integer_value(json_object_get(j, "packed_bytes"));

    (void)printf("%.1f MiB of memory (%.1f MiB are zeroes)",
                 (double)json_integer_value(json_object_get(j, "bytes")) / 1048576.0,
                 (double)json_integer_value(json_object_get(j, "zero_bytes")) / 1048576.0);
    if (packed)
        (void)printf(", compressed to %.1f MiB", (double)packed / 1048576.0);
    (void)printf("; the guest stood still for %.0f ms\n",
                 json_real_value(json_object_get(j, "paused_ms")));
    json_decref(j);
    return fflush(stdout) ? EXIT_VMM_ERROR : 0;
}

/* ---- asking for it ---- */

/* An object as a request's line, malloc'ed; takes it. NULL after a message. */
static char *line_of(json_t *j)
{
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL, *line = NULL;

    if (!text || asprintf(&line, "%s\n", text) < 0) {
        log_error("snapshot: that is no text for a request");
        line = NULL;
    }
    free(text);
    json_decref(j);
    return line;
}

/* The VM's process may not see the base: is it still there, as it was? False after a message. */
static bool base_is_there(const char *name)
{
    char *text = ctl_request(name, "snapshot-base");
    json_t *j = text ? json_loads(text, 0, NULL) : NULL;
    const char *state = json_string_value(json_object_get(j, "state")),
               *id = json_string_value(json_object_get(j, "id"));
    struct snap_info info = { .id = NULL };
    struct snap *base = NULL;
    bool ok = !state; /* there is none: it will say so */

    if (state)
        base = snap_open(&(struct snap_files){ .state = state }, 0, NULL, 0);
    if (base) {
        snap_info(base, &info);
        ok = id && !strcmp(info.id, id);
    }
    if (!ok)
        log_error("snapshot: the base, '%s', is not there any more: make a full one", state);
    snap_close(base);
    json_decref(j);
    free(text);
    return ok && text;
}

/* What the VM's process says of it; malloc'ed. NULL after a message. */
static char *snapshot_ask(const char *name, const struct snap_dir *d,
                          const struct snapshot_options *o)
{
    const struct ctl_fds fds = { .fd = { d->state_fd, d->memory_fd }, .nr = 2 };
    char *line = line_of(json_pack("{s:s, s:s, s:s, s:s*}", "do", "snapshot", "dir", d->dir, "kind",
                                   o->diff ? "diff" : "full", "compress", o->zstd ? "zstd" : NULL)),
         *text = line ? ctl_request_fds(name, line, LIMIT_S, &fds) : NULL;

    free(line);
    return text;
}

/* It is written: into its place with it. False after a message. */
static bool snapshot_place(const char *name, struct snap_dir *d, const char *text)
{
    json_t *j = json_loads(text, 0, NULL);
    const char *id = json_string_value(json_object_get(j, "id"));
    bool ours = json_is_true(json_object_get(j, "fds")), ok = true;

    /* A VM of an older doppel has done all that by itself. */
    if (ours && snap_dir_commit(d, NULL, 0) < 0) {
        char *line = line_of(json_pack("{s:s, s:s?}", "do", "snapshot-lost", "id", id));

        free(line ? ctl_request_line(name, line) : NULL);
        free(line);
        ok = false;
    }
    json_decref(j);
    return ok;
}

static int snapshot_make(const char *name, const char *dir, const struct snapshot_options *o)
{
    int status = EXIT_VMM_ERROR;
    struct snap_dir d;
    char *text = NULL;

    if (snap_dir_begin(&d, dir, o->diff ? SNAP_DIFF : SNAP_FULL, NULL, 0) < 0)
        return EXIT_VMM_ERROR;
    if (!o->diff || base_is_there(name))
        text = snapshot_ask(name, &d, o);
    if (text && snapshot_place(name, &d, text))
        status = snapshot_report(text);
    free(text);
    snap_dir_end(&d);
    return status;
}

int cmd_snapshot(int argc, char **argv)
{
    struct snapshot_options o = { .diff = false };
    int nr = options_parse(snapshot_opts, ARRAY_SIZE(snapshot_opts), &o, argc, argv);
    struct by_pid vm;

    if (nr == OPTIONS_HELP)
        return snapshot_help();
    if (nr == OPTIONS_BAD)
        return EXIT_USAGE;
    if (nr != 2 || !*argv[2]) {
        log_error("snapshot: a VM's NAME and a DIR; `doppel snapshot --help` tells more");
        return EXIT_USAGE;
    }
    return find_name(argv[1], &vm) ? snapshot_make(vm.name, argv[2], &o) : EXIT_USAGE;
}
