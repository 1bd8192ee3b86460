/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control API: one VM that a client configures, starts and steers by HTTP requests over a Unix
 * socket, in the form that Firecracker gave to them (docs/api.md). One process, one VM, as there.
 *
 * All requests are done on the thread that calls api_run(), one after the other.
 */
#ifndef API_API_H
#define API_API_H

#include <jansson.h>

#include "host/sandbox.h"
#include "vm/vm.h"

/* The version of Firecracker whose API this is; what clients ask for before they use it. */
#define API_VERSION         "1.14.0"
#define API_APP_NAME        "Firecracker"
#define API_DEFAULT_ID      "anonymous-instance"
#define API_PAYLOAD_DEFAULT 51200u /* bytes */
#define API_ID_MAX          64u
#define API_FILES_MAX       16u

/* Everything is the caller's, and lives until api_run() has returned. */
struct api_config {
    const char *sock_path;     /* NULL: no API */
    const char *id;            /* api_id_ok() */
    const char *config_file;   /* NULL: none. What is in it is set and started. */
    const char *metadata_file; /* what the metadata service has at the beginning, or NULL */
    uint64_t payload_max;      /* bytes of a request's body */
    uint64_t mmds_max;         /* bytes of the metadata, as JSON text */
    const json_t *logger;      /* as for PUT /logger */
    const char *metrics_path;  /* as for PUT /metrics, or NULL */
    bool boot_timer;           /* the guest can tell that it has come up */
    /* What the jailer says of the time before: us, of the clocks CLOCK_MONOTONIC and
     * CLOCK_PROCESS_CPUTIME_ID; 0: nothing. */
    uint64_t start_us, start_cpu_us, parent_cpu_us;
    const struct engine_ops *engine;
    const struct bt_config *bt; /* NULL: the default */
    struct sandbox_config sandbox;
    /* Once the VM runs, requests name files below these; none given: anywhere. */
    const char *files[API_FILES_MAX];
    unsigned nr_files;
};

/* Letters, digits and '-', up to API_ID_MAX. */
bool api_id_ok(const char *id);

/* Until the VM has ended or a signal came. The process's exit status: 0; 1 after a message. Blocks
 * SIGINT, SIGTERM and SIGHUP, so it has to be called before there are other threads. */
int api_run(const struct api_config *cfg);

/* The `firecracker` command's exit status for options that are wrong. */
#define API_EXIT_ARGS 153

#endif
