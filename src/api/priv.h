/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of api/ share and nobody else sees. */
#ifndef API_PRIV_H
#define API_PRIV_H

#include <jansson.h>

#include "api/api.h"
#include "api/fields.h"
#include "api/machine.h"
#include "api/mmds.h"

struct api_log;
struct metrics;

/* All of one process. Everything is touched by one thread only, if not said otherwise. */
struct api {
    const struct api_config *cfg;
    struct api_log *log;
    struct metrics *metrics;
    struct mmds *mmds;

    /*
     * What was asked for, as it came, checked: objects, NULL while nothing was. The lists are in
     * the order of the devices.
     */
    json_t *machine, *boot, *vsock, *balloon, *entropy, *serial, *logger, *metrics_config,
        *mmds_config, *cpu_config, *hotplug;
    json_t *drives, *nets, *pmems;
    bool touched; /* anything of a machine was set: it is none to load a snapshot into */
    bool restored;

    struct machine m; /* m.vm NULL: not started */
};

/* ---- requests and replies ---- */

struct request {
    const char *id; /* the path's last part, where one belongs; else NULL */
    json_t *body;   /* checked; NULL: none */
};

#define FAULT_MAX 1024
struct reply {
    unsigned status; /* of HTTP */
    json_t *body;    /* the reply's own; NULL: none */
};

/* "status": 400, unless that was set before. */
void reply_fault(struct reply *r, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* With 200. Takes the object; NULL: out of memory. */
void reply_json(struct reply *r, json_t *body);

/*
 * The whole of a request but for HTTP: finds who does it, checks path, body and whether this is the
 * time for it. r is all zero before; the caller drops r->body.
 */
void route(struct api *a, const char *method, const char *path, const char *body, size_t body_bytes,
           struct reply *r);

/* PUT of what a configuration file's or a snapshot's member says. False after a message in why. */
bool route_config(struct api *a, json_t *config, char *why, size_t why_bytes);

/* ---- who does them: one file per family ---- */
typedef void handler(struct api *a, const struct request *rq, struct reply *r);

handler machine_config_get, machine_config_put, machine_config_patch; /* machine_config.c */
handler boot_source_put, cpu_config_put;
handler drive_put, drive_patch;             /* drives.c */
handler pmem_put;                           /* pmem.c */
handler net_put, net_patch;                 /* nets.c */
handler vsock_put, entropy_put, serial_put; /* devices.c */
handler balloon_put, balloon_get, balloon_patch, balloon_stats_get, balloon_stats_patch;
handler hotplug_put, hotplug_patch, hotplug_get; /* hotplug.c */
handler hint_start, hint_stop, hint_status_get;
handler logger_put, metrics_put;                                         /* logger.c, metrics.c */
handler mmds_put, mmds_patch, mmds_get, mmds_config_put;                 /* mmds_api.c */
handler actions_put, vm_patch, vm_config_get, instance_get, version_get; /* instance.c */
handler snapshot_create, snapshot_load;                                  /* snapshot.c */

extern const struct fields machine_config_fields, machine_config_patch_fields, boot_source_fields,
    cpu_config_fields, drive_fields, drive_patch_fields, pmem_fields, net_fields, net_patch_fields,
    vsock_fields, entropy_fields, serial_fields, balloon_fields, balloon_patch_fields,
    balloon_stats_fields, hint_fields, hotplug_fields, hotplug_patch_fields, logger_fields,
    metrics_fields, mmds_config_fields, actions_fields, vm_fields, snapshot_create_fields,
    snapshot_load_fields, rate_limiter_fields, token_bucket_fields;

/* Replaces what there was by a copy of the new. False, and a fault: out of memory. */
bool keep(struct api *a, json_t **at, const json_t *val, struct reply *r);
/* Of a list of objects the one whose member `key` is `id`; its index, or -1. */
int list_find(const json_t *list, const char *key, const char *id);
/* Replaces that one, or appends. False, and a fault: out of memory. */
bool list_keep(struct api *a, json_t *list, const char *key, const json_t *val, struct reply *r);
/* The buckets that `val` has replace those of the device's member `key`. False, and a fault: out of
 * memory. */
bool limiter_keep(json_t *dev, const char *key, const json_t *val, struct reply *r);
/* A path's id and a body's have to be the same. False, and a fault: they are not. */
bool id_matches(const struct request *rq, const char *key, struct reply *r);

/* ---- mmds_api.c ---- */
/* Is the metadata service reached over that network interface? */
bool mmds_serves(const struct api *a, const char *iface_id);

/* ---- pmem.c ---- */
/* May that device be the root? There is one. */
bool api_root_free(const struct api *a, const char *id);

/* ---- cpu_config.c ---- */
void api_cpu(const struct api *a, struct api_cpu *cpu);
/* Bits that are to be something, and what. */
struct bitmap {
    uint64_t mask, val;
};
/* An item of msr_modifiers; false: it is none. */
bool cpu_msr_parse(const json_t *item, uint32_t *msr, struct bitmap *map);
bool cpu_msr_settable(uint32_t msr);
/* All of them, before the start. -1 after a message. */
int machine_set_msrs(struct api *a) MUST_CHECK;
/* A template was named instead. */
void cpu_config_forget(struct api *a);

/* ---- instance.c ---- */
/* Everything that is set, as GET /vm/config has it. NULL: out of memory. */
json_t *vm_config_all(const struct api *a);
/* Makes the machine and starts it. False, and a fault. */
bool instance_start(struct api *a, struct reply *r);

/* ---- log.c ---- */
/* From here on messages go where the configuration says. NULL after a message. */
struct api_log *api_log_open(const char *id);
void api_log_close(struct api_log *l);
/* Applies what PUT /logger takes. 0 or -errno. */
/* A file or a named pipe, to append to, without waiting. A descriptor or -errno. */
int api_open_output(const char *path) MUST_CHECK;
int api_log_set(struct api_log *l, const json_t *logger) MUST_CHECK;
/* The text of this process's last error message since api_log_forget(); "" if there is none. */
const char *api_log_last_error(struct api_log *l, char *buf, size_t bytes);
void api_log_forget(struct api_log *l);

/* ---- metrics.c ---- */
struct metrics *metrics_create(void);
void metrics_destroy(struct metrics *m);
int metrics_open(struct metrics *m, const char *path) MUST_CHECK;
bool metrics_is_open(const struct metrics *m);
/* A line more, if there is a file. 0 or -errno. */
int metrics_flush(struct api *a) MUST_CHECK;
/* The process is ready for requests: how long that took, for those who said when it began. */
void metrics_startup(struct metrics *m, const struct api_config *cfg);
/* metrics_devices.c: adds what the VM's statistics (NULL: none) tell of its devices. False: out of
 * memory. */
bool metrics_devices(const struct api *a, json_t *line, const json_t *now, const json_t *before);
/* A request was answered. */
void metrics_count(struct metrics *m, const char *method, const char *path, unsigned status);
enum metrics_latency {
    LATENCY_FULL_SNAPSHOT,
    LATENCY_DIFF_SNAPSHOT,
    LATENCY_LOAD_SNAPSHOT,
    LATENCY_PAUSE,
    LATENCY_RESUME,
    NR_LATENCIES
};
void metrics_latency(struct metrics *m, enum metrics_latency which, uint64_t ns);

/* ---- server.c ---- */
struct server;
/* NULL after a message. */
struct server *server_open(struct api *a, const char *path);
void server_close(struct server *s);   /* NULL is fine */
int server_fd(const struct server *s); /* can be read when there is something to do */
void server_work(struct server *s);
int server_timeout_ms(struct server *s); /* -1: none */

#endif
