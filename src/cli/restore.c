/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `doppel run --restore`: the options of a run that goes on from a snapshot. A snapshot keeps the
 * options its machine was started with; those that are given now come behind them, so that they
 * count, and take away what they are to replace.
 *
 * The same goes the other way: what a machine was started with is made fit to be kept, with file
 * names that are good from everywhere.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "lib/log.h"
#include "snap/snap.h"

/* What becomes of an option that is kept. */
static const struct kept {
    const char *name;
    bool has_value;
    enum { KEPT, KEPT_PATH, KEPT_KEYS, NOT_KEPT } how; /* its value: as it is; a file; K=V,... */
    bool collects;                                     /* a new one replaces all of them */
} kept[] = {
    /* For the one run alone. */
    { "restore", true, NOT_KEPT, false },
    { "clone", false, NOT_KEPT, false },
    { "verify", false, NOT_KEPT, false },
    { "clock", true, NOT_KEPT, false },
    { "timeout", true, NOT_KEPT, false },
    { "stats", true, NOT_KEPT, false },
    { "gdb", true, NOT_KEPT, false },
    { "trace", true, NOT_KEPT, false },
    { "trace-file", true, NOT_KEPT, false },
    { "perf-map", false, NOT_KEPT, false },
    { "quiet", false, NOT_KEPT, false },
    { "verbose", false, NOT_KEPT, false },
    { "lockstep", true, NOT_KEPT, false },
    { "lockstep-from", true, NOT_KEPT, false },
    { "lockstep-chunk", true, NOT_KEPT, false },
    { "lockstep-memory", true, NOT_KEPT, false },
    { "no-reboot", false, KEPT, false },
    /* With files. */
    { "kernel", true, KEPT_PATH, false },
    { "initrd", true, KEPT_PATH, false },
    { "firmware", true, KEPT_PATH, false },
    { "firmware-vars", true, KEPT_PATH, false },
    { "vga-bios", true, KEPT_PATH, false },
    { "cdrom", true, KEPT_PATH, true },
    { "disk", true, KEPT_KEYS, true },
    { "net", true, KEPT_KEYS, true },
    { "vsock", true, KEPT_KEYS, false },
    { "serial", true, KEPT_KEYS, false },
    { "console", true, KEPT_KEYS, false },
    { "port", true, KEPT_KEYS, true },
    { "debugcon", true, KEPT_KEYS, false },
    { "display", true, KEPT_KEYS, false },
    { "console", true, KEPT_KEYS, false },
    { "port", true, KEPT_KEYS, true },
    { "share", true, KEPT_KEYS, true },
    { "fs", true, KEPT_KEYS, true },
};

/* All others have a value that is kept as it is. */
static const struct kept *kept_find(const char *name, size_t len)
{
    static const struct kept other = { "", true, KEPT, false };

    for (unsigned i = 0; i < ARRAY_SIZE(kept); i++)
        if (strlen(kept[i].name) == len && !strncmp(kept[i].name, name, len))
            return &kept[i];
    return &other;
}

bool option_restore(void *into, const char *val)
{
    (void)into, (void)val;
    return true;
}

/* ---- a walk over options ---- */

struct walk_opt {
    const struct kept *kind;
    const char *name; /* behind the dashes */
    size_t len;
    const char *val; /* NULL: has none */
};

/* The option at argv[*i], which ends behind it. False: it is none (run_options says so later). */
static bool walk_next(int argc, char *const *argv, int *i, struct walk_opt *o)
{
    const char *arg = argv[(*i)++];

    if (!arg || strncmp(arg, "--", 2) != 0 || !arg[2])
        return false;
    o->name = arg + 2;
    o->len = strcspn(o->name, "=");
    o->kind = kept_find(o->name, o->len);
    o->val = o->name[o->len] ? o->name + o->len + 1 : NULL;
    if (!o->val && o->kind->has_value && *i < argc)
        o->val = argv[(*i)++];
    return true;
}

static bool walk_is(const struct walk_opt *o, const char *name)
{
    return strlen(name) == o->len && !strncmp(name, o->name, o->len);
}

/* ---- keeping ---- */

/* The words for firmware that comes with the system are no files. */
static char *with_cwd(const char *path)
{
    char cwd[PATH_MAX], *all = NULL;

    if (*path == '/' || !strcmp(path, "seabios") || !strcmp(path, "ovmf") ||
        !getcwd(cwd, sizeof(cwd)))
        return strdup(path);
    return asprintf(&all, "%s/%s", cwd, path) < 0 ? NULL : all;
}

/* Of a list K=V,K=V the file names: those of path, file, png, socket and vhost-user. */
static char *keys_with_cwd(const char *list)
{
    static const char *const keys[] = { "path=", "file=", "png=", "socket=", "vhost-user=" };
    char *all = strdup("");

    while (all && *list) {
        size_t len = strcspn(list, ","), key = 0;
        char *longer = NULL, *val, *whole;

        for (unsigned i = 0; i < ARRAY_SIZE(keys); i++)
            if (len > strlen(keys[i]) && !strncmp(list, keys[i], strlen(keys[i])))
                key = strlen(keys[i]);
        val = strndup(list + key, len - key);
        whole = key && val ? with_cwd(val) : val;
        if (whole &&
            asprintf(&longer, "%s%s%.*s%s", all, *all ? "," : "", (int)key, list, whole) < 0)
            longer = NULL;
        if (whole != val)
            free(whole);
        free(val);
        free(all);
        all = longer;
        list += len + (list[len] == ',');
    }
    return all;
}

/* {"argv": [...]}: what to begin a run with that is to become this machine. */
static json_t *config_of(int argc, char *const *argv)
{
    json_t *list = json_array();

    for (int i = 1; i < argc && list;) {
        struct walk_opt o;
        char *val = NULL;
        bool ok;

        if (!walk_next(argc, argv, &i, &o) || o.kind->how == NOT_KEPT)
            continue;
        if (o.val)
            val = o.kind->how == KEPT_PATH   ? with_cwd(o.val)
                  : o.kind->how == KEPT_KEYS ? keys_with_cwd(o.val)
                                             : strdup(o.val);
        ok = json_array_append_new(list, json_sprintf("--%.*s", (int)o.len, o.name)) == 0 &&
             (!o.val || (val && json_array_append_new(list, json_string(val)) == 0));
        free(val);
        if (!ok) {
            json_decref(list);
            list = NULL;
        }
    }
    return list ? json_pack("{s:o}", "argv", list) : NULL;
}

/* ---- restoring ---- */

struct given {
    const char *dir;   /* NULL: no --restore */
    const char *clock; /* NULL: not given */
    bool clone, verify, lockstep;
    bool replaced[ARRAY_SIZE(kept)];
};

static void look_at_given(int argc, char *const *argv, struct given *g)
{
    for (int i = 1; i < argc;) {
        struct walk_opt o;

        if (!walk_next(argc, argv, &i, &o))
            continue;
        if (walk_is(&o, "restore"))
            g->dir = o.val;
        if (walk_is(&o, "clock"))
            g->clock = o.val ? o.val : "";
        g->clone |= walk_is(&o, "clone");
        g->verify |= walk_is(&o, "verify");
        g->lockstep |= walk_is(&o, "lockstep");
        if (o.kind->collects)
            g->replaced[o.kind - kept] = true;
    }
}

static bool restore_add(struct restore *r, char *text)
{
    if (text)
        r->texts[r->nr_texts++] = text;
    r->argv[r->argc++] = text;
    return text;
}

/* Everything that is not replaced. A clone has another name, and another place for its vsock. */
static bool restore_add_kept(struct restore *r, const struct given *g, const json_t *list)
{
    size_t nr = json_array_size(list);

    for (size_t i = 0; i < nr;) {
        const char *arg = json_string_value(json_array_get(list, i++)), *val = NULL;
        const struct kept *k;

        if (!arg || strncmp(arg, "--", 2) != 0)
            return false;
        k = kept_find(arg + 2, strlen(arg + 2));
        if (k->has_value) {
            val = json_string_value(json_array_get(list, i++));
            if (!val)
                return false;
        }
        if (k->how == NOT_KEPT || (k->collects && g->replaced[k - kept]) ||
            (g->clone && !strcmp(arg, "--name")))
            continue;
        if (!restore_add(r, strdup(arg)) || (val && !restore_add(r, strdup(val))))
            return false;
    }
    return true;
}

static bool restore_options(struct restore *r, const struct given *g, int argc, char **argv)
{
    const json_t *list = json_object_get(snap_config(r->snap), "argv");
    size_t nr = json_array_size(list);

    if (!json_is_array(list) || nr > 4096) {
        log_error("the snapshot '%s' was not made of a `doppel run`: it has no options", g->dir);
        return false;
    }
    r->argv = calloc(nr + (size_t)argc + 1, sizeof(*r->argv));
    r->texts = calloc(nr + 1, sizeof(*r->texts));
    if (!r->argv || !r->texts) {
        log_error("out of memory");
        return false;
    }
    r->argc = 0;
    r->argv[r->argc++] = argv[0];
    if (!restore_add_kept(r, g, list)) {
        log_error("the snapshot '%s' has options that are none", g->dir);
        return false;
    }
    for (int i = 1; i < argc; i++)
        r->argv[r->argc++] = argv[i];
    return true;
}

/* False after a message. */
static bool check_given(const struct given *g)
{
    if (g->dir && g->lockstep) {
        log_error("--restore with --lockstep: both engines would need the memory");
        return false;
    }
    if (!g->dir && (g->clone || g->verify || g->clock)) {
        log_error("--%s without --restore: of what?", g->clone    ? "clone"
                                                      : g->verify ? "verify"
                                                                  : "clock");
        return false;
    }
    if (g->clock && strcmp(g->clock, "host") != 0 && strcmp(g->clock, "snapshot") != 0) {
        log_error("--clock '%s' is neither host nor snapshot", g->clock);
        return false;
    }
    return true;
}

static unsigned open_flags(const struct given *g)
{
    bool from_snapshot = g->clock && !strcmp(g->clock, "snapshot");

    return (g->verify ? SNAP_VERIFY : 0) | (from_snapshot ? 0 : SNAP_CLOCK_HOST);
}

int restore_prepare(struct restore *r, int argc, char **argv)
{
    struct given g = { .dir = NULL };

    *r = (struct restore){ .argc = argc };
    look_at_given(argc, argv, &g);
    if (!check_given(&g))
        return EXIT_USAGE;
    if (!g.dir) {
        /* options_parse() moves arguments, so it has a list of its own. */
        r->argv = calloc((size_t)argc + 1, sizeof(*r->argv));
        for (int i = 0; i < argc && r->argv; i++)
            r->argv[i] = argv[i];
    } else {
        r->snap = snap_open_dir(g.dir, open_flags(&g), NULL, 0);
        if (!r->snap || !restore_options(r, &g, argc, argv)) {
            restore_free(r);
            return EXIT_VMM_ERROR;
        }
    }
    if (r->argv)
        r->config = config_of(r->argc, r->argv);
    if (!r->config) {
        log_error("out of memory");
        restore_free(r);
        return EXIT_VMM_ERROR;
    }
    return 0;
}

void restore_free(struct restore *r)
{
    snap_close(r->snap);
    for (unsigned i = 0; i < r->nr_texts; i++)
        free(r->texts[i]);
    free(r->texts);
    free(r->argv);
    json_decref(r->config);
    *r = (struct restore){ .argc = 0 };
}

bool restore_load(struct restore *r, struct vm *vm)
{
    int err = r->snap ? snap_load(r->snap, vm, NULL, 0) : 0;

    snap_close(r->snap);
    r->snap = NULL;
    return !err;
}
