/* SPDX-License-Identifier: Apache-2.0 */
/* --sandbox, and what a run will open once its guest runs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "lib/log.h"

#define FILES_MIN   64
/* The files that are the memory of the direct tier's workers count, too. */
#define FSIZE_MIN   MIB(64)
#define PROCS_MAX   (1u << 22) /* of Linux */
#define MEMORY_MIN  MIB(16)
#define PERCENT_MAX 100000

static bool set_mode(struct sandbox_config *c, const char *val)
{
    static const char *const modes[] = {
        [SANDBOX_AUTO] = "auto", [SANDBOX_ON] = "on", [SANDBOX_OFF] = "off"
    };

    for (unsigned i = 0; i < ARRAY_SIZE(modes); i++) {
        if (strcmp(val, modes[i]) != 0)
            continue;
        c->mode = (enum sandbox_mode)i;
        return true;
    }
    return false;
}

static bool set_files(struct sandbox_config *c, const char *val)
{
    return value_uint(val, FILES_MIN, UINT32_MAX, &c->nr_files);
}

static bool set_fsize(struct sandbox_config *c, const char *val)
{
    return value_size(val, &c->fsize_bytes) && c->fsize_bytes >= FSIZE_MIN;
}

static bool set_procs(struct sandbox_config *c, const char *val)
{
    return value_uint(val, 1, PROCS_MAX, &c->nr_procs);
}

static bool set_ns(struct sandbox_config *c, const char *val)
{
    static const char *const words[] = {
        [SANDBOX_NS_OFF] = "off", [SANDBOX_NS_AUTO] = "auto", [SANDBOX_NS_ON] = "on"
    };

    for (unsigned i = 0; i < ARRAY_SIZE(words); i++) {
        if (strcmp(val, words[i]) != 0)
            continue;
        c->ns = (enum sandbox_ns)i;
        return true;
    }
    return false;
}

static bool set_cgroup(struct sandbox_config *c, const char *val)
{
    (void)snprintf(c->cgroup, sizeof(c->cgroup), "%s", val);
    return strlen(val) <= SANDBOX_CGROUP_MAX && !strstr(val, "..") &&
           (*val == '/' || !strcmp(val, "auto"));
}

static bool set_memory(struct sandbox_config *c, const char *val)
{
    return value_size(val, &c->memory_bytes) && c->memory_bytes >= MEMORY_MIN;
}

static bool set_cpu(struct sandbox_config *c, const char *val)
{
    size_t len = strlen(val);
    char digits[16] = "";
    uint64_t percent;

    if (len && val[len - 1] == '%')
        len--;
    if (len < sizeof(digits))
        memcpy(digits, val, len);
    if (!value_uint(digits, 1, PERCENT_MAX, &percent))
        return false;
    c->cpu_percent = (uint32_t)percent;
    return true;
}

static bool set_pids(struct sandbox_config *c, const char *val)
{
    return value_uint(val, 1, PROCS_MAX, &c->nr_pids);
}

static const struct {
    const char *key;
    bool (*set)(struct sandbox_config *c, const char *val);
    const char *what;
} sandbox_keys[] = {
    { "no-file", set_files, "a number of descriptors from 64" },
    { "fsize", set_fsize, "a size from 64M" },
    { "nproc", set_procs, "a number of processes from 1" },
    { "ns", set_ns, "on, auto or off" },
    { "cgroup", set_cgroup, "auto, or a group's path from the root of its hierarchy" },
    { "memory", set_memory, "a size from 16M" },
    { "cpu", set_cpu, "a percentage of one processor, from 1" },
    { "pids", set_pids, "a number of processes and threads from 1" },
};

/* KEY=VAL. False after a message. */
static bool set_key(struct sandbox_config *c, const char *part)
{
    const char *val = strchr(part, '=');
    size_t len = val ? (size_t)(val - part) : strlen(part);

    for (unsigned i = 0; i < ARRAY_SIZE(sandbox_keys); i++) {
        if (strlen(sandbox_keys[i].key) != len || strncmp(part, sandbox_keys[i].key, len) != 0)
            continue;
        if (val && sandbox_keys[i].set(c, val + 1))
            return true;
        log_error("--sandbox: '%s' is not %s=%s", part, sandbox_keys[i].key, sandbox_keys[i].what);
        return false;
    }
    log_error("--sandbox: '%s' is none of auto, on and off, and no limit (--help lists them)",
              part);
    return false;
}

bool value_sandbox(const char *val, struct sandbox_config *c)
{
    char *text = strdup(val), *rest = text, *part;
    bool ok = text, first = true;

    while (ok && (part = value_next_part(&rest))) {
        ok = (first && set_mode(c, part)) || set_key(c, part);
        first = false;
    }
    if (ok && c->mode == SANDBOX_OFF && strchr(val, ',')) {
        log_error("--sandbox '%s': without a sandbox there are no limits", val);
        ok = false;
    }
    if (ok && *c->cgroup && !c->memory_bytes && !c->cpu_percent && !c->nr_pids) {
        log_error("--sandbox: cgroup= limits nothing without memory=, cpu= or pids=");
        ok = false;
    }
    free(text);
    return ok;
}

bool option_sandbox(void *into, const char *val)
{
    return value_sandbox(val, &((struct run_options *)into)->sandbox);
}

/* The socket's file is removed at the end. */
static void allow_socket(const char *path)
{
    sandbox_allow_dir_of(BIT(HOST_MAIN), path, SANDBOX_REMOVE);
}

static void allow_chan(const struct chan_option *c)
{
    if (c->kind == CHAN_SOCKET)
        allow_socket(c->path);
}

/* Unix sockets by path do not. */
static bool needs_network(const struct run_options *o)
{
    bool needs = (o->gdb && !o->gdb_cfg.unix_path) ||
                 (o->vnc.where && strncmp(o->vnc.where, "unix:", 5) != 0);

    for (unsigned i = 0; i < o->nr_nets; i++)
        needs = needs || o->nets[i].kind != NET_SOCKET;
    for (unsigned i = 0; i < o->nr_disks; i++)
        needs = needs || (o->disks[i].store.nbd && strncmp(o->disks[i].store.nbd, "unix:", 5) != 0);
    return needs;
}

bool sandbox_options_begin(const struct run_options *o)
{
    const char *const again[] = { o->kernel, o->initrd, o->firmware,
                                  o->firmware ? o->vga_bios : NULL };
    char dir[96];

    if (sandbox_begin(&o->sandbox) < 0 ||
        sandbox_isolate(needs_network(o) ? SANDBOX_KEEP_NET : 0) < 0)
        return false;
    if (ctl_dir(dir, sizeof(dir), true))
        sandbox_allow(BIT(HOST_MAIN), dir, SANDBOX_REMOVE);
    allow_chan(&o->serial);
    allow_chan(&o->debugcon);
    allow_chan(&o->console);
    for (unsigned i = 0; i < o->nr_ports; i++)
        allow_chan(&o->ports[i]);
    if (*o->vsock_path)
        allow_socket(o->vsock_path);
    if (o->gdb && o->gdb_cfg.unix_path)
        allow_socket(o->gdb_cfg.unix_path);
    for (unsigned i = 0; i < o->nr_shares; i++)
        sandbox_allow(BIT(HOST_SHARE), o->shares[i].path,
                      SANDBOX_READ | SANDBOX_WRITE | SANDBOX_PLACE | SANDBOX_DIRS);
    for (unsigned i = 0; i < o->nr_nets; i++)
        if (*o->nets[i].where == '/' || strchr(o->nets[i].where, '/'))
            sandbox_allow_dir_of(BIT(HOST_NET) | BIT(HOST_MAIN), o->nets[i].where, SANDBOX_SOCKET);
    /* A reset loads them again. */
    for (unsigned i = 0; i < ARRAY_SIZE(again); i++)
        if (again[i])
            sandbox_allow(BIT(HOST_KEEPER), again[i], SANDBOX_READ);
    if (o->stats_file)
        sandbox_allow_dir_of(BIT(HOST_MAIN), o->stats_file, SANDBOX_WRITE | SANDBOX_PLACE);
    if (o->display_file)
        sandbox_allow_dir_of(BIT(HOST_MAIN), o->display_file, SANDBOX_WRITE | SANDBOX_PLACE);
    return true;
}
