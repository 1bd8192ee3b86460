/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `doppel api`, and the same under the name `firecracker`: the options of that program, for tools
 * that start it. Options about what doppel does in another way are taken, and said so.
 */
#include "api/api.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "lib/log.h"
#include "snap/snap.h"

#define DEFAULT_SOCK     "/run/firecracker.socket"
/* Of the two files of a snapshot: docs/snapshot.md. */
#define SNAPSHOT_VERSION "1.0.0"

struct api_options {
    struct api_config cfg;
    json_t *logger;
    const char *engine, *describe;
    bool no_api, version, snapshot_version;
    const char *seccomp_filter;
};

static bool option_logger(struct api_options *o, const char *key, json_t *val)
{
    return json_object_set_new(o->logger, key, val) == 0;
}

static bool option_sock(void *into, const char *val)
{
    ((struct api_options *)into)->cfg.sock_path = val;
    return true;
}

static bool option_id(void *into, const char *val)
{
    ((struct api_options *)into)->cfg.id = val;
    if (!api_id_ok(val))
        log_error("--id '%s' is no name of 1 to %u letters, digits and '-'", val, API_ID_MAX);
    return api_id_ok(val);
}

static bool option_config_file(void *into, const char *val)
{
    ((struct api_options *)into)->cfg.config_file = val;
    return true;
}

static bool option_metadata(void *into, const char *val)
{
    ((struct api_options *)into)->cfg.metadata_file = val;
    return true;
}

static bool option_no_api(void *into, const char *val)
{
    (void)val;
    ((struct api_options *)into)->no_api = true;
    return true;
}

static bool option_engine(void *into, const char *val)
{
    ((struct api_options *)into)->engine = val;
    return true;
}

static bool option_log_path(void *into, const char *val)
{
    return option_logger(into, "log_path", json_string(val));
}

static bool option_level(void *into, const char *val)
{
    return option_logger(into, "level", json_string(val));
}

static bool option_module(void *into, const char *val)
{
    return option_logger(into, "module", json_string(val));
}

static bool option_show_level(void *into, const char *val)
{
    (void)val;
    return option_logger(into, "show_level", json_true());
}

static bool option_show_origin(void *into, const char *val)
{
    (void)val;
    return option_logger(into, "show_log_origin", json_true());
}

static bool option_metrics_path(void *into, const char *val)
{
    ((struct api_options *)into)->cfg.metrics_path = val;
    return true;
}

static bool option_payload(void *into, const char *val)
{
    if (value_uint(val, 1, 1u << 30, &((struct api_options *)into)->cfg.payload_max))
        return true;
    log_error("--http-api-max-payload-size '%s' is no number of bytes from 1 to 1073741824", val);
    return false;
}

static bool option_mmds_max(void *into, const char *val)
{
    if (value_uint(val, 1, 1u << 30, &((struct api_options *)into)->cfg.mmds_max))
        return true;
    log_error("--mmds-size-limit '%s' is no number of bytes from 1 to 1073741824", val);
    return false;
}

/* What that program's filters are to it the sandbox is here. */
static bool option_no_seccomp(void *into, const char *val)
{
    (void)val;
    ((struct api_options *)into)->cfg.sandbox = (struct sandbox_config){ .mode = SANDBOX_OFF };
    return true;
}

static bool option_api_sandbox(void *into, const char *val)
{
    return value_sandbox(val, &((struct api_options *)into)->cfg.sandbox);
}

static bool option_files(void *into, const char *val)
{
    struct api_config *cfg = &((struct api_options *)into)->cfg;

    if (cfg->nr_files == API_FILES_MAX) {
        log_error("--files '%s': no more than %u directories", val, API_FILES_MAX);
        return false;
    }
    cfg->files[cfg->nr_files++] = val;
    return true;
}

static bool option_seccomp_filter(void *into, const char *val)
{
    ((struct api_options *)into)->seccomp_filter = val;
    return true;
}

/* Of versions before 1.0, for tools that still say it. */
static bool option_seccomp_level(void *into, const char *val)
{
    uint64_t level;

    (void)into;
    if (value_uint(val, 0, 2, &level))
        return true;
    log_error("--seccomp-level '%s' is not 0, 1 or 2", val);
    return false;
}

static bool option_version(void *into, const char *val)
{
    (void)val;
    ((struct api_options *)into)->version = true;
    return true;
}

static bool option_snapshot_version(void *into, const char *val)
{
    (void)val;
    ((struct api_options *)into)->snapshot_version = true;
    return true;
}

static bool option_describe(void *into, const char *val)
{
    ((struct api_options *)into)->describe = val;
    return true;
}

static bool option_us(const char *val, uint64_t *us)
{
    if (value_uint(val, 0, UINT64_MAX, us))
        return true;
    log_error("'%s' is no time in microseconds", val);
    return false;
}

/* What the jailer tells of its own time. */
static bool option_start_us(void *into, const char *val)
{
    return option_us(val, &((struct api_options *)into)->cfg.start_us);
}

static bool option_start_cpu_us(void *into, const char *val)
{
    return option_us(val, &((struct api_options *)into)->cfg.start_cpu_us);
}

static bool option_parent_cpu_us(void *into, const char *val)
{
    return option_us(val, &((struct api_options *)into)->cfg.parent_cpu_us);
}

static bool option_boot_timer(void *into, const char *val)
{
    (void)val;
    ((struct api_options *)into)->cfg.boot_timer = true;
    return true;
}

static const struct opt api_opts[] = {
    { "api-sock", 0, "PATH", "the Unix socket of the API (" DEFAULT_SOCK ")", option_sock },
    { "id", 0, "ID", "the instance's name (" API_DEFAULT_ID ")", option_id },
    { "config-file", 0, "FILE", "set and start what is in it", option_config_file },
    { "no-api", 0, NULL, "no socket; with --config-file", option_no_api },
    { "metadata", 0, "FILE", "what the metadata service has at first", option_metadata },
    { "engine", 0, "NAME", "interp, bt, kvm or auto (auto)", option_engine },
    { "log-path", 0, "PATH", "messages go to this file or named pipe", option_log_path },
    { "level", 0, "LEVEL", "Error, Warn, Info, Debug, Trace or Off (Info)", option_level },
    { "module", 0, "PATH", "taken, without effect", option_module },
    { "show-level", 0, NULL, "messages tell their level", option_show_level },
    { "show-log-origin", 0, NULL, "taken, without effect", option_show_origin },
    { "metrics-path", 0, "PATH", "metrics go to this file or named pipe", option_metrics_path },
    { "http-api-max-payload-size", 0, "N", "bytes of a request's body (51200)", option_payload },
    { "mmds-size-limit", 0, "N", "bytes of metadata (as the above)", option_mmds_max },
    { "sandbox", 0, "auto|on|off[,LIMIT]...",
      "what the VM's process gives up, once it runs (auto)\n" SANDBOX_LIMITS_HELP,
      option_api_sandbox },
    { "no-seccomp", 0, NULL, "--sandbox off", option_no_seccomp },
    { "files", 0, "DIR",
      "where files lie that requests name once the VM runs (images,\n"
      "snapshots): nothing else is opened then; may be repeated (anywhere)",
      option_files },
    { "seccomp-filter", 0, "FILE", "refused: filters are made for another program",
      option_seccomp_filter },
    { "seccomp-level", 0, "N", "taken, without effect", option_seccomp_level },
    { "boot-timer", 0, NULL, "a guest that writes 123 to c0000000h has its boot time logged",
      option_boot_timer },
    { "start-time-us", 0, "N", "when the process was started, for the metrics", option_start_us },
    { "start-time-cpu-us", 0, "N", "its CPU time at that time", option_start_cpu_us },
    { "parent-cpu-time-us", 0, "N", "the CPU time of who started it", option_parent_cpu_us },
    { "version", 0, NULL, "print the version of the API", option_version },
    { "snapshot-version", 0, NULL, "print the version of snapshots", option_snapshot_version },
    { "describe-snapshot", 0, "FILE", "print a snapshot's version", option_describe },
};

static void api_help(void)
{
    (void)printf("Usage: doppel api --api-sock PATH [OPTION]...\n"
                 "       firecracker --api-sock PATH [OPTION]...\n\n"
                 "Waits for requests to configure, start and steer one VM: Firecracker's API.\n\n");
    options_help(api_opts, ARRAY_SIZE(api_opts));
    (void)printf(
        "\nAn example, from another shell:\n"
        "  curl --unix-socket PATH -X PUT http://localhost/boot-source \\\n"
        "      -d '{\"kernel_image_path\": \"vmlinux\", \"boot_args\": \"console=ttyS0\"}'\n"
        "  curl --unix-socket PATH -X PUT http://localhost/actions \\\n"
        "      -d '{\"action_type\": \"InstanceStart\"}'\n");
}

/* As that program prints it: tools take the version out of the first line. */
static int print_version(void)
{
    return printf(API_APP_NAME " v" API_VERSION "\n\ndoppel %s\n", DOPPEL_VERSION) < 0 ||
                   fflush(stdout)
               ? EXIT_VMM_ERROR
               : 0;
}

static int describe_snapshot(const char *path)
{
    struct snap *s = snap_open(&(struct snap_files){ .state = path }, 0, NULL, 0);

    if (!s)
        return EXIT_VMM_ERROR;
    snap_close(s);
    return printf("v" SNAPSHOT_VERSION "\n") < 0 || fflush(stdout) ? EXIT_VMM_ERROR : 0;
}

/* What does not go together. */
static bool api_options_ok(const struct api_options *o, int nr_args, char **argv)
{
    if (nr_args)
        log_error("%s: '%s' is no option", argv[0], argv[1]);
    else if (o->no_api && !o->cfg.config_file)
        log_error("--no-api needs --config-file: nobody could start the VM");
    else if (o->seccomp_filter)
        log_error(
            "--seccomp-filter '%s': filters that were made for Firecracker do not fit doppel; "
            "--no-seccomp is taken",
            o->seccomp_filter);
    else
        return true;
    return false;
}

static int api_start(struct api_options *o)
{
    struct run_options run = { .engine = o->engine };

    if (o->version)
        return print_version();
    if (o->snapshot_version)
        return printf("v" SNAPSHOT_VERSION "\n") < 0 || fflush(stdout) ? EXIT_VMM_ERROR : 0;
    if (o->describe)
        return describe_snapshot(o->describe);
    o->cfg.logger = json_object_size(o->logger) ? o->logger : NULL;
    if (!o->cfg.mmds_max)
        o->cfg.mmds_max = o->cfg.payload_max;
    if (o->no_api)
        o->cfg.sock_path = NULL;
    o->cfg.engine = run_options_engine(&run);
    return o->cfg.engine ? api_run(&o->cfg) : EXIT_VMM_ERROR;
}

int cmd_api(int argc, char **argv)
{
    struct api_options o = {
        .cfg = { .sock_path = DEFAULT_SOCK,
                 .id = API_DEFAULT_ID,
                 .payload_max = API_PAYLOAD_DEFAULT },
        .logger = json_object(),
        .engine = "auto",
    };
    int nr = options_parse(api_opts, ARRAY_SIZE(api_opts), &o, argc, argv), status = EXIT_USAGE;

    if (nr == OPTIONS_HELP) {
        api_help();
        status = 0;
    } else if (nr >= 0 && api_options_ok(&o, nr, argv)) {
        status = api_start(&o);
    }
    json_decref(o.logger);
    return status;
}

int cmd_firecracker(int argc, char **argv)
{
    int status = cmd_api(argc, argv);

    return status == EXIT_USAGE ? API_EXIT_ARGS : status;
}
