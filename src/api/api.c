/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process behind the API: sets up what the command line and the configuration file say, then
 * waits for requests, for the end of the VM, and for signals.
 */
#include "api/api.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "api/jail.h"
#include "api/priv.h"
#include "lib/log.h"

#define METRICS_EVERY_NS 60000000000ull
#define NS_PER_MS        1000000ull

bool api_id_ok(const char *id)
{
    size_t len = strlen(id);

    for (const char *c = id; *c; c++)
        if (!(*c >= 'a' && *c <= 'z') && !(*c >= 'A' && *c <= 'Z') && !(*c >= '0' && *c <= '9') &&
            *c != '-')
            return false;
    return len && len <= API_ID_MAX;
}

/* Blocks them in all threads that come; a descriptor or -1 after a message. */
static int watch_signals(void)
{
    sigset_t set;
    int fd;

    (void)signal(SIGPIPE, SIG_IGN); /* a closed pipe is an error of write() */
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGHUP);
    BUG_ON(pthread_sigmask(SIG_BLOCK, &set, NULL));
    fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        log_error("cannot watch for signals: %s", strerror(errno));
    return fd;
}

/* ---- what is set before the first request ---- */

static json_t *load_file(const char *path, const char *what)
{
    json_error_t err;
    json_t *j = json_load_file(path, JSON_REJECT_DUPLICATES, &err);

    if (!j)
        log_error("%s '%s': %s (line %d)", what, path, err.text, err.line);
    return j;
}

static bool start_config_file(struct api *a)
{
    struct reply r = { .status = 204 };
    json_t *config = load_file(a->cfg->config_file, "the configuration");
    char why[1024];
    bool ok;

    if (!config)
        return false;
    ok = route_config(a, config, why, sizeof(why));
    json_decref(config);
    if (!ok) {
        log_error("the configuration '%s': %s", a->cfg->config_file, why);
        return false;
    }
    ok = instance_start(a, &r);
    if (!ok)
        log_error("%s", field_string(r.body, "fault_message"));
    json_decref(r.body);
    return ok;
}

static bool start_metadata(struct api *a)
{
    json_t *data;
    int err;

    if (!a->cfg->metadata_file)
        return true;
    data = load_file(a->cfg->metadata_file, "the metadata");
    if (!data)
        return false;
    err = mmds_put_data(a->mmds, data);
    json_decref(data);
    if (err)
        log_error("the metadata '%s' are %s", a->cfg->metadata_file,
                  err == -E2BIG ? "larger than the limit" : "no JSON object");
    return !err;
}

static bool start_logging(struct api *a)
{
    int err = a->cfg->logger ? api_log_set(a->log, a->cfg->logger) : 0;

    if (err) {
        log_error("cannot log as asked for (--log-path, --level): %s", strerror(-err));
        return false;
    }
    err = a->cfg->metrics_path ? metrics_open(a->metrics, a->cfg->metrics_path) : 0;
    if (err)
        log_error("cannot write metrics to '%s': %s", a->cfg->metrics_path, strerror(-err));
    return !err;
}

/* ---- the loop ---- */

static int until_ms(uint64_t ns)
{
    uint64_t now = host_mono_ns();

    return ns <= now ? 0 : (int)((ns - now) / NS_PER_MS) + 1;
}

static int sooner_ms(int a, int b)
{
    return a < 0 ? b : b < 0 ? a : MIN(a, b);
}

/* Until the VM has ended, or a signal. */
static void api_loop(struct api *a, struct server *s, int signal_fd)
{
    uint64_t flush_ns = host_mono_ns() + METRICS_EVERY_NS;

    for (;;) {
        struct pollfd p[] = {
            { .fd = signal_fd, .events = POLLIN },
            { .fd = a->m.vm ? a->m.ended_fd : -1, .events = POLLIN },
            { .fd = s ? server_fd(s) : -1, .events = POLLIN },
        };
        int ms = metrics_is_open(a->metrics) ? until_ms(flush_ns) : -1;

        if (s)
            ms = sooner_ms(ms, server_timeout_ms(s));
        if (poll(p, ARRAY_SIZE(p), ms) < 0 && errno != EINTR)
            return;
        if (p[0].revents || p[1].revents)
            return;
        if (s)
            server_work(s);
        if (host_mono_ns() < flush_ns)
            continue;
        flush_ns = host_mono_ns() + METRICS_EVERY_NS;
        if (metrics_flush(a) < 0)
            log_debug("the metrics could not be written");
    }
}

/* ---- life ---- */

static int api_status(struct api *a)
{
    enum stop_reason why = STOP_NONE;
    int code = 0;

    if (!a->m.vm || vm_state(a->m.vm) != VM_STOPPED)
        return 0; /* a signal ends us as well as the guest does */
    why = vm_wait(a->m.vm, &code);
    if (why == STOP_TRIPLE)
        log_error("triple fault: the guest's processor shut down");
    else
        log_info("the microVM has ended: %s", vm_stop_text(why));
    return vm_exit_status(why, code);
}

static int api_serve(struct api *a, int signal_fd)
{
    struct server *s = NULL;
    int status = 1;

    if (jail_begin(a) < 0 || !start_logging(a) || !start_metadata(a))
        return 1;
    if (a->cfg->sock_path) {
        s = server_open(a, a->cfg->sock_path);
        if (!s)
            return 1;
    }
    metrics_startup(a->metrics, a->cfg);
    if (!a->cfg->config_file || start_config_file(a)) {
        api_loop(a, s, signal_fd);
        status = api_status(a);
        if (metrics_flush(a) < 0)
            log_debug("the metrics could not be written");
    }
    server_close(s);
    return status;
}

int api_run(const struct api_config *cfg)
{
    struct api a = { .cfg = cfg, .m.ended_fd = -1 };
    json_t **all[] = { &a.machine, &a.boot,       &a.vsock,          &a.balloon,     &a.entropy,
                       &a.serial,  &a.logger,     &a.metrics_config, &a.mmds_config, &a.drives,
                       &a.nets,    &a.cpu_config, &a.pmems,          &a.hotplug };
    int signal_fd = watch_signals(), status = 1;

    a.drives = json_array();
    a.nets = json_array();
    a.pmems = json_array();
    a.log = api_log_open(cfg->id);
    a.metrics = metrics_create();
    a.mmds = mmds_create(cfg->mmds_max);
    if (signal_fd >= 0 && a.drives && a.nets && a.pmems && a.log && a.metrics && a.mmds)
        status = api_serve(&a, signal_fd);
    machine_close(&a.m);
    mmds_destroy(a.mmds);
    metrics_destroy(a.metrics);
    for (unsigned i = 0; i < ARRAY_SIZE(all); i++)
        json_decref(*all[i]);
    api_log_close(a.log);
    if (signal_fd >= 0)
        (void)close(signal_fd);
    return status;
}
