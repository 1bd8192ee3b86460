/* SPDX-License-Identifier: Apache-2.0 */
/* `doppel stop`, `pause` and `resume`: the life of a running VM, through its control socket. */
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cli/cli.h"
#include "lib/log.h"

#define STOP_GRACE_NS 60000000000ull /* a busy Debian on an interpreter */
#define STOP_END_NS   30000000000ull /* by force: writes what it has, closes its disks */
#define PRESS_NS      1000000000ull
#define NS_PER_MS     1000000ull

bool cli_one_name(const char *cmd, int nr, char **argv)
{
    if (nr == 1 && ctl_name_ok(argv[1]))
        return true;
    if (nr == 1)
        log_error("%s: '%s' cannot be the name of a VM", cmd, argv[1]);
    else
        log_error("%s: %s; `doppel %s --help` tells more", cmd,
                  nr ? "one NAME, not more" : "the NAME of a running VM is missing", cmd);
    return false;
}

/* ---- pause and resume ---- */

int cmd_pause(int argc, char **argv)
{
    int nr = options_parse(NULL, 0, NULL, argc, argv);
    char *text;

    if (nr == OPTIONS_HELP) {
        (void)printf("Usage: doppel pause NAME\n\n"
                     "When this returns the VM stands still: its processors, its clocks and its "
                     "timers.\nGuest time does not run on until `doppel resume NAME`.\n");
        return 0;
    }
    if (nr == OPTIONS_BAD || !cli_one_name("pause", nr, argv))
        return EXIT_USAGE;
    text = ctl_request(argv[1], "pause");
    free(text);
    return text ? 0 : EXIT_VMM_ERROR;
}

int cmd_resume(int argc, char **argv)
{
    int nr = options_parse(NULL, 0, NULL, argc, argv);
    char *text;
    json_t *j;
    const char *state;

    if (nr == OPTIONS_HELP) {
        (void)printf("Usage: doppel resume NAME\n\n"
                     "Lets a VM go on that `doppel pause` or the monitor's stop paused.\n");
        return 0;
    }
    if (nr == OPTIONS_BAD || !cli_one_name("resume", nr, argv))
        return EXIT_USAGE;
    text = ctl_request(argv[1], "resume");
    if (!text)
        return EXIT_VMM_ERROR;
    j = json_loads(text, 0, NULL);
    state = json_string_value(json_object_get(j, "state"));
    if (state && !strcmp(state, "paused"))
        log_warn("VM '%s': a debugger or a full disk still holds it", argv[1]);
    json_decref(j);
    free(text);
    return 0;
}

/* ---- stop ---- */

struct stop_options {
    bool force;
    uint64_t grace_ns;
};

static bool set_force(void *into, const char *val)
{
    (void)val;
    ((struct stop_options *)into)->force = true;
    return true;
}

static bool set_grace(void *into, const char *val)
{
    if (value_seconds(val, &((struct stop_options *)into)->grace_ns))
        return true;
    log_error("--timeout '%s' is not a number of seconds above 0, such as 30 or 0.5", val);
    return false;
}

static const struct opt stop_opts[] = {
    { "timeout", 0, "SECONDS", "how long the guest may take to shut down (60)", set_grace },
    { "force", 0, NULL, "end it at once; the guest is not asked", set_force },
};

static int stop_help(void)
{
    (void)printf("Usage: doppel stop NAME [OPTION]...\n\n"
                 "Presses the VM's power button (ACPI), waits until its guest has shut down, and "
                 "ends it\nby force if that takes too long. When this returns with status 0 the VM "
                 "has ended.\n\nOptions:\n");
    options_help(stop_opts, ARRAY_SIZE(stop_opts));
    return 0;
}

/* A descriptor of the VM's process, which polls readable when it has ended; -1 after a message. */
static int stop_open_process(const char *name)
{
    char *text = ctl_request(name, "stat");
    json_t *j = text ? json_loads(text, 0, NULL) : NULL;
    json_int_t pid = json_integer_value(json_object_get(j, "pid"));
    int fd = -1;

    if (pid > 0)
        fd = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
    if (text && fd < 0)
        log_error("VM '%s': its process cannot be watched", name);
    json_decref(j);
    free(text);
    return fd;
}

static bool stop_ended(int fd, uint64_t wait_ns)
{
    uint64_t end_ns = host_mono_ns() + wait_ns, now_ns;
    struct pollfd p = { .fd = fd, .events = POLLIN };

    while ((now_ns = host_mono_ns()) < end_ns) {
        uint64_t left_ms = MIN((end_ns - now_ns) / NS_PER_MS + 1, 1000000ull);

        if (poll(&p, 1, (int)left_ms) > 0)
            return true;
    }
    return false;
}

/* -1: it could not be asked, after a message. Else: does the guest listen? */
static int stop_press(const char *name)
{
    char *text = ctl_request(name, "powerdown");
    json_t *j = text ? json_loads(text, 0, NULL) : NULL;
    int heard = json_is_true(json_object_get(j, "heard"));

    json_decref(j);
    free(text);
    return text ? heard : -1;
}

/* True: it has ended. A guest that is still booting listens later: until it does, press again. */
static bool stop_gently(const char *name, int fd, uint64_t grace_ns)
{
    int heard = stop_press(name);

    while (!heard && grace_ns) {
        uint64_t wait_ns = MIN(grace_ns, PRESS_NS);

        if (stop_ended(fd, wait_ns))
            return true;
        grace_ns -= wait_ns;
        if (grace_ns)
            heard = stop_press(name);
    }
    /* What could not be asked may have ended just then. */
    if (stop_ended(fd, heard < 0 ? NS_PER_MS : grace_ns))
        return true;
    log_warn("VM '%s': its guest %s; ended by force", name,
             heard < 0 ? "could not be asked"
             : heard   ? "has not shut down in time"
                       : "does not listen to the power button");
    return false;
}

static int stop_run(const char *name, const struct stop_options *o)
{
    int fd = stop_open_process(name);
    bool ended;
    char *text;

    if (fd < 0)
        return EXIT_VMM_ERROR;
    ended = !o->force && stop_gently(name, fd, o->grace_ns);
    if (!ended) {
        text = ctl_request(name, "stop");
        ended = stop_ended(fd, text ? STOP_END_NS : NS_PER_MS);
        free(text);
        if (!ended)
            log_error("VM '%s': its process does not end", name);
    }
    (void)close(fd);
    return ended ? 0 : EXIT_VMM_ERROR;
}

int cmd_stop(int argc, char **argv)
{
    struct stop_options o = { .grace_ns = STOP_GRACE_NS };
    int nr = options_parse(stop_opts, ARRAY_SIZE(stop_opts), &o, argc, argv);

    if (nr == OPTIONS_HELP)
        return stop_help();
    if (nr == OPTIONS_BAD || !cli_one_name("stop", nr, argv))
        return EXIT_USAGE;
    return stop_run(argv[1], &o);
}
