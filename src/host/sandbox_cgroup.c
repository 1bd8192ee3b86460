/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A control group of the VM's own, with limits for memory, processor time and processes: in the
 * unified hierarchy (v2), in those of single controllers (v1), or, on hosts that have both, in each
 * for what it controls (cgroups(7)).
 *
 * A process cannot remove the group that it is in: what ended VMs have left is removed by the next.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/sandbox_priv.h"
#include "lib/log.h"

#define GROUP_PREFIX  "doppel-"
#define CPU_PERIOD_US 100000u

enum controller { MEMORY, CPU, PIDS, NR_CONTROLLERS };

static const struct {
    const char *name, *v2_file, *v1_file;
} controllers[NR_CONTROLLERS] = {
    [MEMORY] = { "memory", "memory.max", "memory.limit_in_bytes" },
    [CPU] = { "cpu", "cpu.max", "cpu.cfs_quota_us" },
    [PIDS] = { "pids", "pids.max", "pids.max" },
};

#define HIERARCHIES_MAX 16
/* A hierarchy that is mounted, as far as we need it. */
struct hierarchy {
    bool v2;
    uint32_t has;       /* BIT(enum controller) */
    char *mount, *root; /* where, and which group of the hierarchy is shown there */
    char *base, *group; /* directories of the group above ours, and of ours; NULL: not known */
};

struct cgroups {
    struct hierarchy h[HIERARCHIES_MAX];
    unsigned nr;
};

/* ---- what there is ---- */

/* Is the word in the list? */
static bool has_word(const char *list, const char *word, const char *between)
{
    size_t len = strlen(word);

    for (const char *at = list; *at; at += strspn(at, between)) {
        size_t n = strcspn(at, between);

        if (n == len && !strncmp(at, word, len))
            return true;
        at += n;
    }
    return false;
}

static uint32_t controllers_in(const char *list, const char *between)
{
    uint32_t has = 0;

    for (unsigned i = 0; i < NR_CONTROLLERS; i++)
        if (has_word(list, controllers[i].name, between))
            has |= BIT(i);
    return has;
}

/* A line of /proc/self/mountinfo (proc_pid_mountinfo(5)). */
static void take_mount(struct cgroups *c, const char *line)
{
    char root[PATH_MAX], mount[PATH_MAX], type[32], options[512];
    const char *dash = strstr(line, " - ");
    struct hierarchy *h = &c->h[c->nr];

    if (!dash || c->nr == HIERARCHIES_MAX ||
        sscanf(line, "%*s %*s %*s %4095s %4095s", root, mount) != 2 ||
        sscanf(dash, " - %31s %*s %511s", type, options) != 2 || strncmp(type, "cgroup", 6) != 0)
        return;
    *h = (struct hierarchy){ .v2 = !strcmp(type, "cgroup2"),
                             .mount = strdup(mount),
                             .root = strdup(root) };
    h->has = h->v2 ? 0 : controllers_in(options, ",");
    if (h->mount && h->root)
        c->nr++;
}

static int read_text(const char *path, char *text, size_t bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n;

    text[0] = 0;
    if (fd < 0)
        return -errno;
    n = read(fd, text, bytes - 1);
    (void)close(fd);
    text[MAX(n, 0)] = 0;
    return n < 0 ? -EIO : 0;
}

static int write_text(const char *dir, const char *file, const char *text)
{
    char path[PATH_MAX + 64];
    int fd, err;

    (void)snprintf(path, sizeof(path), "%s/%s", dir, file);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    err = write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : -errno;
    (void)close(fd);
    return err;
}

/* The group as a directory: the part of its path that is behind what is mounted. */
static void set_base(struct hierarchy *h, const char *group)
{
    size_t len = strlen(h->root);

    if (len > 1 && !strncmp(group, h->root, len))
        group += len;
    free(h->base);
    if (asprintf(&h->base, "%s%s", h->mount, !strcmp(group, "/") ? "" : group) < 0)
        h->base = NULL;
}

/* A line of /proc/self/cgroup: "4:memory:/group", or "0::/group" for v2. */
static void take_own(struct cgroups *c, char *line)
{
    char *list = strchr(line, ':'), *group = list ? strchr(list + 1, ':') : NULL;
    uint32_t has;

    if (!group)
        return;
    *group++ = 0;
    group[strcspn(group, "\n")] = 0;
    has = controllers_in(++list, ",");
    for (unsigned i = 0; i < c->nr; i++)
        if (*list ? !c->h[i].v2 && (c->h[i].has & has) : c->h[i].v2)
            set_base(&c->h[i], group);
}

static void each_line(struct cgroups *c, const char *path,
                      void (*take)(struct cgroups *c, char *line))
{
    FILE *f = fopen(path, "re");
    char *line = NULL;
    size_t room = 0;

    while (f && getline(&line, &room, f) > 0)
        take(c, line);
    free(line);
    if (f)
        (void)fclose(f);
}

static void take_mount_line(struct cgroups *c, char *line)
{
    take_mount(c, line);
}

/* Where groups are to be made, and what can be limited there. */
static void find(struct cgroups *c, const char *where)
{
    each_line(c, "/proc/self/mountinfo", take_mount_line);
    each_line(c, "/proc/self/cgroup", take_own);
    for (unsigned i = 0; i < c->nr; i++) {
        struct hierarchy *h = &c->h[i];
        char path[PATH_MAX + 32], list[512];

        if (strcmp(where, "auto") != 0)
            set_base(h, where);
        (void)snprintf(path, sizeof(path), "%s/cgroup.controllers", h->base ? h->base : "");
        if (h->v2 && h->base && read_text(path, list, sizeof(list)) == 0)
            h->has = controllers_in(list, " \n");
    }
}

/* ---- making one ---- */

static int explain(const struct hierarchy *h, const char *what, int err)
{
    const char *why = err == -EACCES || err == -EPERM || err == -EROFS
                          ? ": it is not delegated to this user"
                      : err == -EBUSY ? ": other processes are in it"
                                      : "";

    log_error("--sandbox: cannot %s the control group '%s': %s%s (systemd-run --user --scope -p "
              "Delegate=yes doppel run ... gives one; cgroup=PATH names another)",
              what, h->base, strerror(-err), why);
    return err;
}

/* Of VMs that have ended. One that is in use is not removed. */
static void remove_stale(const char *base)
{
    DIR *d = opendir(base);
    const struct dirent *e;

    while (d && (e = readdir(d))) {
        char *end;
        long pid;

        if (strncmp(e->d_name, GROUP_PREFIX, strlen(GROUP_PREFIX)) != 0)
            continue;
        pid = strtol(e->d_name + strlen(GROUP_PREFIX), &end, 10);
        if (!*end && pid > 0 && kill((pid_t)pid, 0) < 0 && errno == ESRCH)
            (void)unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR);
    }
    if (d)
        (void)closedir(d);
}

static int set_limit(const struct hierarchy *h, enum controller what,
                     const struct sandbox_config *cfg)
{
    const char *file = h->v2 ? controllers[what].v2_file : controllers[what].v1_file;
    uint64_t val = what == MEMORY ? cfg->memory_bytes
                   : what == CPU  ? (uint64_t)cfg->cpu_percent * (CPU_PERIOD_US / 100)
                                  : cfg->nr_pids;
    char text[64];
    int err = 0;

    (void)snprintf(text, sizeof(text), "%llu", (unsigned long long)val);
    if (what == CPU && h->v2)
        (void)snprintf(text, sizeof(text), "%llu %u", (unsigned long long)val, CPU_PERIOD_US);
    else if (what == CPU)
        err = write_text(h->group, "cpu.cfs_period_us", "100000");
    return err ? err : write_text(h->group, file, text);
}

/*
 * v2: a group that gives its controllers to groups below it has no processes of its own ("no
 * internal processes"): so this one goes into the new group before its base gives them.
 */
static int enable(const struct hierarchy *h, uint32_t want)
{
    char text[64] = "";
    size_t nr = 0;

    for (unsigned i = 0; i < NR_CONTROLLERS; i++)
        if (want & BIT(i))
            nr += (size_t)snprintf(text + nr, sizeof(text) - nr, "+%s ", controllers[i].name);
    return write_text(h->base, "cgroup.subtree_control", text);
}

static int join(struct hierarchy *h, uint32_t want, const struct sandbox_config *cfg)
{
    int err = 0;

    remove_stale(h->base);
    if (asprintf(&h->group, "%s/" GROUP_PREFIX "%d", h->base, host_pid()) < 0) {
        h->group = NULL;
        return -ENOMEM;
    }
    if (mkdir(h->group, 0755) < 0 && errno != EEXIST)
        return explain(h, "make one below", -errno);
    err = write_text(h->group, "cgroup.procs", "0");
    if (err) {
        (void)rmdir(h->group);
        return explain(h, "go into one below", err);
    }
    if (h->v2)
        err = enable(h, want);
    if (err) {
        (void)write_text(h->base, "cgroup.procs", "0");
        (void)rmdir(h->group);
        return explain(h, "give controllers to one below", err);
    }
    for (unsigned i = 0; i < NR_CONTROLLERS; i++) {
        if (!(want & BIT(i)))
            continue;
        err = set_limit(h, i, cfg);
        if (err) {
            log_error("--sandbox: the limit of %s cannot be set in '%s': %s", controllers[i].name,
                      h->group, strerror(-err));
            return err;
        }
    }
    log_debug("sandbox: in the control group '%s'", h->group);
    return 0;
}

/* Each controller in the first hierarchy that has it: v2 where it can. */
static int join_all(struct cgroups *c, uint32_t want, const struct sandbox_config *cfg)
{
    int err = 0;

    for (int v2 = 1; v2 >= 0 && !err; v2--)
        for (unsigned i = 0; i < c->nr && !err; i++) {
            uint32_t here = c->h[i].has & want;

            if (c->h[i].v2 != v2 || !here || !c->h[i].base)
                continue;
            err = join(&c->h[i], here, cfg);
            want &= ~here;
        }
    for (unsigned i = 0; i < NR_CONTROLLERS && !err; i++)
        if (want & BIT(i)) {
            log_error("--sandbox: this host has no control groups that limit %s, or they are not "
                      "given to ours (cgroup.controllers)",
                      controllers[i].name);
            err = -ENOENT;
        }
    return err;
}

int cgroup_enter(const struct sandbox_config *cfg)
{
    uint32_t want = (cfg->memory_bytes ? BIT(MEMORY) : 0) | (cfg->cpu_percent ? BIT(CPU) : 0) |
                    (cfg->nr_pids ? BIT(PIDS) : 0);
    struct cgroups *c;
    int err;

    if (!want)
        return 0;
    c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    find(c, *cfg->cgroup ? cfg->cgroup : "auto");
    err = join_all(c, want, cfg);
    for (unsigned i = 0; i < c->nr; i++) {
        free(c->h[i].group);
        free(c->h[i].base);
        free(c->h[i].mount);
        free(c->h[i].root);
    }
    free(c);
    return err;
}
