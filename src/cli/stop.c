/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `doppel stop`: the guest is asked to shut down, by the power button; one that does not listen, or
 * does not end in time, is ended. Returns when the VM's process has gone and its disks are free.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "lib/log.h"

#define STOP_WAIT_NS  (120 * 1000000000ull)
#define FORCE_WAIT_NS (60 * 1000000000ull)

struct stop_options {
    bool force;
    uint64_t wait_ns;
};

static bool set_force(void *into, const char *val)
{
    (void)val;
    ((struct stop_options *)into)->force = true;
    return true;
}

static bool set_wait(void *into, const char *val)
{
    if (value_seconds(val, &((struct stop_options *)into)->wait_ns))
        return true;
    log_error("--wait '%s' is not a number of seconds above 0, such as 30 or 0.5", val);
    return false;
}

static const struct opt stop_opts[] = {
    { "force", 0, NULL, "end it at once, as Ctrl-A x does; its guest is not asked", set_force },
    { "wait", 0, "SECONDS", "how long the guest may take to shut down (default 120)", set_wait },
};

static int stop_help(void)
{
    (void)printf("Usage: doppel stop NAME [--force] [--wait SECONDS]\n"
                 "\n"
                 "Presses the VM's power button and waits until its guest has shut down. A guest\n"
                 "that does not listen to the button is ended at once; one that is not done in\n"
                 "time is ended too, and the exit status is 1.\n"
                 "\n"
                 "Options:\n");
    options_help(stop_opts, ARRAY_SIZE(stop_opts));
    return 0;
}

/* Whether the process has ended after at most so long. */
static bool stop_wait(int end_fd, uint64_t ns)
{
    struct pollfd p = { .fd = end_fd, .events = POLLIN };
    struct timespec limit = { .tv_sec = (time_t)(ns / 1000000000),
                              .tv_nsec = (long)(ns % 1000000000) };

    return ppoll(&p, 1, &limit, NULL) > 0;
}

static int stop_force(const char *name, int end_fd)
{
    char *text = ctl_request(name, "stop");

    free(text);
    if (!text)
        return EXIT_VMM_ERROR;
    if (stop_wait(end_fd, FORCE_WAIT_NS))
        return 0;
    log_error("VM '%s' was told to end, but its process is still there", name);
    return EXIT_VMM_ERROR;
}

static int stop_politely(const char *name, int end_fd, uint64_t wait_ns)
{
    char *text = ctl_request(name, "power-button");
    bool heard = text && strstr(text, "true");

    free(text);
    if (!text)
        return EXIT_VMM_ERROR;
    if (!heard) {
        log_info("%s: its guest does not listen to the power button; ended at once", name);
        return stop_force(name, end_fd);
    }
    if (stop_wait(end_fd, wait_ns))
        return 0;
    log_error("%s: its guest was not shut down after %.1f s (--wait); ended at once", name,
              (double)wait_ns / 1e9);
    (void)stop_force(name, end_fd);
    return EXIT_VMM_ERROR;
}

int cmd_stop(int argc, char **argv)
{
    struct stop_options o = { .wait_ns = STOP_WAIT_NS };
    int nr = options_parse(stop_opts, ARRAY_SIZE(stop_opts), &o, argc, argv), fd, status;

    if (nr == OPTIONS_HELP)
        return stop_help();
    if (nr == OPTIONS_BAD || check_vm_name("stop", nr, argv, 1) < 0)
        return EXIT_USAGE;
    /* Before anything is asked: afterwards there may be nobody left to find. */
    fd = ctl_end_fd(argv[1]);
    if (fd < 0)
        return EXIT_VMM_ERROR;
    status = o.force ? stop_force(argv[1], fd) : stop_politely(argv[1], fd, o.wait_ns);
    (void)close(fd);
    return status;
}
