/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /metrics: what was done since the last time, a line of JSON in a file or a named pipe, every
 * minute, when it is asked for, and at the end.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/priv.h"
#include "lib/log.h"

static const struct field metrics_list[] = {
    { .name = "metrics_path", .type = FIELD_STRING, .flags = FIELD_REQUIRED },
};
const struct fields metrics_fields = FIELDS(metrics_list);

/* Requests, by the names that readers know. Beginnings of paths; the first that fits. */
static const struct counted {
    const char *method, *path, *name;
} counted[] = {
    { "GET", "/balloon", "balloon" },
    { "GET", "/hotplug/memory", "hotplug_memory" },
    { "GET", "/machine-config", "machine_cfg" },
    { "GET", "/mmds", "mmds" },
    { "GET", "/version", "vmm_version" },
    { "GET", "/vm/config", "vm_cfg" },
    { "GET", "/", "instance_info" },
    { "PUT", "/actions", "actions" },
    { "PUT", "/balloon", "balloon" },
    { "PUT", "/boot-source", "boot_source" },
    { "PUT", "/cpu-config", "cpu_cfg" },
    { "PUT", "/drives", "drive" },
    { "PUT", "/entropy", "entropy" },
    { "PUT", "/hotplug/memory", "hotplug_memory" },
    { "PUT", "/logger", "logger" },
    { "PUT", "/machine-config", "machine_cfg" },
    { "PUT", "/metrics", "metrics" },
    { "PUT", "/mmds", "mmds" },
    { "PUT", "/network-interfaces", "network" },
    { "PUT", "/pmem", "pmem" },
    { "PUT", "/serial", "serial" },
    { "PUT", "/snapshot", "snapshot" },
    { "PUT", "/vsock", "vsock" },
    { "PATCH", "/balloon", "balloon" },
    { "PATCH", "/drives", "drive" },
    { "PATCH", "/hotplug/memory", "hotplug_memory" },
    { "PATCH", "/machine-config", "machine_cfg" },
    { "PATCH", "/mmds", "mmds" },
    { "PATCH", "/network-interfaces", "network" },
    { "PATCH", "/vm", "vm" },
};

static const char *const latency_names[NR_LATENCIES] = {
    [LATENCY_FULL_SNAPSHOT] = "full_create_snapshot",
    [LATENCY_DIFF_SNAPSHOT] = "diff_create_snapshot",
    [LATENCY_LOAD_SNAPSHOT] = "load_snapshot",
    [LATENCY_PAUSE] = "pause_vm",
    [LATENCY_RESUME] = "resume_vm",
};

struct metrics {
    int fd; /* -1: none */
    struct {
        uint64_t nr, failed;
    } requests[ARRAY_SIZE(counted)];
    uint64_t latency_us[NR_LATENCIES]; /* of the last one */
    uint64_t nr_missed;                /* lines that could not be written */
    uint64_t startup_us, startup_cpu_us;
    json_t *before; /* the VM's statistics at the last line; NULL: there was none */
};

struct metrics *metrics_create(void)
{
    struct metrics *m = calloc(1, sizeof(*m));

    if (m)
        m->fd = -1;
    else
        log_error("out of memory");
    return m;
}

void metrics_destroy(struct metrics *m)
{
    if (m && m->fd >= 0)
        (void)close(m->fd);
    if (m)
        json_decref(m->before);
    free(m);
}

bool metrics_is_open(const struct metrics *m)
{
    return m->fd >= 0;
}

int metrics_open(struct metrics *m, const char *path)
{
    if (m->fd >= 0)
        return -EALREADY;
    m->fd = api_open_output(path);
    return m->fd < 0 ? m->fd : 0;
}

void metrics_count(struct metrics *m, const char *method, const char *path, unsigned status)
{
    for (unsigned i = 0; i < ARRAY_SIZE(counted); i++) {
        if (strcmp(counted[i].method, method) != 0 ||
            strncmp(counted[i].path, path, strlen(counted[i].path)) != 0)
            continue;
        m->requests[i].nr++;
        m->requests[i].failed += status >= 400;
        return;
    }
}

void metrics_latency(struct metrics *m, enum metrics_latency which, uint64_t ns)
{
    m->latency_us[which] = ns / 1000;
}

/* ---- a line ---- */

static bool add_count(json_t *o, const char *name, const char *what, uint64_t val)
{
    json_t *key = json_sprintf("%s_%s", name, what);
    bool ok =
        key && json_object_set_new(o, json_string_value(key), json_integer((json_int_t)val)) == 0;

    json_decref(key);
    return ok;
}

static json_t *metrics_requests(const struct metrics *m, const char *method)
{
    json_t *o = json_object();

    for (unsigned i = 0; i < ARRAY_SIZE(counted) && o; i++) {
        if (strcmp(counted[i].method, method) != 0)
            continue;
        if (!add_count(o, counted[i].name, "count", m->requests[i].nr) ||
            !add_count(o, counted[i].name, "fails", m->requests[i].failed)) {
            json_decref(o);
            o = NULL;
        }
    }
    return o;
}

static json_t *metrics_latencies(const struct metrics *m)
{
    json_t *o = json_object();

    for (unsigned i = 0; i < NR_LATENCIES; i++)
        (void)json_object_set_new(o, latency_names[i], json_integer((json_int_t)m->latency_us[i]));
    return o;
}

/* What the VM counts; NULL: there is none, or no memory. */
static json_t *metrics_stats(struct api *a)
{
    char *text = a->m.vm ? vm_stats_json(a->m.vm) : NULL;
    json_t *stats = text ? json_loads(text, 0, NULL) : NULL;

    free(text);
    return stats;
}

/* malloc'ed, with a newline; NULL: out of memory. */
static char *metrics_line(struct api *a, json_t *stats)
{
    const struct metrics *m = a->metrics;
    char *text, *line = NULL;
    json_t *o =
        json_pack("{s:I, s:{s:I, s:I}, s:o, s:o, s:o, s:o, s:{s:I}, s:O*}", "utc_timestamp_ms",
                  (json_int_t)(host_real_ns() / 1000000), "api_server", "process_startup_time_us",
                  (json_int_t)m->startup_us, "process_startup_time_cpu_us",
                  (json_int_t)m->startup_cpu_us, "get_api_requests", metrics_requests(m, "GET"),
                  "put_api_requests", metrics_requests(m, "PUT"), "patch_api_requests",
                  metrics_requests(m, "PATCH"), "latencies_us", metrics_latencies(m), "logger",
                  "missed_metrics_count", (json_int_t)m->nr_missed, "doppel", stats);

    text = o && metrics_devices(a, o, stats, m->before) ? json_dumps(o, JSON_COMPACT) : NULL;
    if (text && asprintf(&line, "%s\n", text) < 0)
        line = NULL;
    free(text);
    json_decref(o);
    return line;
}

int metrics_flush(struct api *a)
{
    struct metrics *m = a->metrics;
    json_t *stats;
    char *line;
    ssize_t n;
    size_t len;

    if (m->fd < 0)
        return 0;
    stats = metrics_stats(a);
    line = metrics_line(a, stats);
    if (!line) {
        json_decref(stats);
        return -ENOMEM;
    }
    len = strlen(line);
    n = write(m->fd, line, len);
    free(line);
    if (n != (ssize_t)len) {
        json_decref(stats);
        m->nr_missed++;
        return n < 0 ? -errno : -ENOSPC;
    }
    json_decref(m->before);
    m->before = stats;
    memset(m->requests, 0, sizeof(m->requests));
    m->nr_missed = 0;
    return 0;
}

void metrics_startup(struct metrics *m, const struct api_config *cfg)
{
    uint64_t us = host_mono_ns() / 1000, cpu_us = host_cpu_ns() / 1000;

    if (cfg->start_us)
        m->startup_us = us > cfg->start_us ? us - cfg->start_us : 0;
    if (cfg->start_cpu_us || cfg->parent_cpu_us)
        m->startup_cpu_us =
            (cpu_us > cfg->start_cpu_us ? cpu_us - cfg->start_cpu_us : 0) + cfg->parent_cpu_us;
}

void metrics_put(struct api *a, const struct request *rq, struct reply *r)
{
    const char *path = field_string(rq->body, "metrics_path");
    int err = metrics_open(a->metrics, path);
    bool touched = a->touched;

    if (err == -EALREADY)
        reply_fault(r, "Metrics error: Cannot initialize the metrics system twice.");
    else if (err)
        reply_fault(r, "Metrics error: cannot open '%.256s': %s", path, strerror(-err));
    else
        (void)keep(a, &a->metrics_config, rq->body, r);
    a->touched = touched;
}
