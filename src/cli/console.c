/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `doppel console`: this terminal on the serial port of a VM that was started with --serial pty,
 * until Ctrl-A d or the VM's end. The channel of standard input is that of `doppel run`, with its
 * raw mode; a thread of it hands on what is typed, and this one what the guest writes.
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <unistd.h>

#include "cli/cli.h"
#include "lib/log.h"

struct console {
    int pty_fd, detach_fd;
    struct chr *chr;
    struct lock lock; /* LOCK_MACHINE: what a channel wants around its rx */
};

static size_t console_rx(void *arg, const uint8_t *buf, size_t bytes)
{
    struct console *c = arg;
    ssize_t n = write(c->pty_fd, buf, bytes);

    if (n >= 0)
        return (size_t)n;
    /* The VM does not read now; the rest is offered again with the next key. A VM that is gone
     * shows to the other thread. */
    return errno == EAGAIN || errno == EINTR ? 0 : bytes;
}

static void console_escape(void *arg, int key)
{
    struct console *c = arg;

    if (key == 'd')
        BUG_ON(eventfd_write(c->detach_fd, 1) < 0);
}

/* What the guest writes, until the user leaves (true) or the VM ends (false). */
static bool console_relay(struct console *c)
{
    struct pollfd p[] = { { .fd = c->detach_fd, .events = POLLIN },
                          { .fd = c->pty_fd, .events = POLLIN } };
    uint8_t buf[4096];

    for (;;) {
        ssize_t n;

        if (poll(p, ARRAY_SIZE(p), -1) < 0)
            continue;
        if (p[0].revents)
            return true;
        n = read(c->pty_fd, buf, sizeof(buf));
        if (n > 0)
            chr_write(c->chr, buf, (size_t)n);
        else if (n == 0 || (errno != EAGAIN && errno != EINTR))
            return false;
        chr_accept(c->chr);
    }
}

/* The serial port's pseudo-terminal, opened and locked against a second console; -1 after a
 * message. */
static int console_open_pty(const char *name)
{
    char *text = ctl_request(name, "stat");
    json_t *j = text ? json_loads(text, 0, NULL) : NULL;
    const char *path = json_string_value(json_object_get(j, "serial"));
    int fd = path ? open(path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC) : -1;

    if (text && !path)
        log_error("VM '%s' has no serial port to attach to; run it with --serial pty", name);
    else if (path && fd < 0)
        log_error("VM '%s': cannot open its serial port '%s': %s", name, path, strerror(errno));
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0) {
        log_error("VM '%s': another `doppel console` is attached to it", name);
        (void)close(fd);
        fd = -1;
    }
    json_decref(j);
    free(text);
    return fd;
}

static int console_run(const char *name)
{
    struct console c = { .pty_fd = console_open_pty(name), .detach_fd = -1 };
    bool detached, lost;

    if (c.pty_fd < 0)
        return EXIT_VMM_ERROR;
    c.detach_fd = eventfd(0, EFD_CLOEXEC);
    lock_init(&c.lock, LOCK_MACHINE);
    (void)fprintf(stderr, "attached to '%s'; Ctrl-A d detaches\n", name);
    c.chr = c.detach_fd < 0 ? NULL : chr_open_stdio(console_escape, &c);
    detached = false;
    lost = !c.chr;
    if (c.chr) {
        chr_connect(c.chr, &c.lock, console_rx, &c);
        detached = console_relay(&c);
        chr_connect(c.chr, NULL, NULL, NULL);
        chr_flush(c.chr);
        lost = chr_lost_output(c.chr);
        chr_close(c.chr);
        (void)fprintf(stderr, "\n%s '%s'\n", detached ? "detached from" : "the end of", name);
    }
    lock_destroy(&c.lock);
    if (c.detach_fd >= 0)
        (void)close(c.detach_fd);
    (void)close(c.pty_fd);
    return lost ? EXIT_VMM_ERROR : 0;
}

int cmd_console(int argc, char **argv)
{
    int nr = options_parse(NULL, 0, NULL, argc, argv);

    if (nr == OPTIONS_HELP) {
        (void)printf("Usage: doppel console NAME\n\n"
                     "This terminal on the serial port of a VM that was started with --serial "
                     "pty. Ctrl-A d\ndetaches, and the VM runs on; Ctrl-A a sends Ctrl-A. Ends, "
                     "too, when the VM does.\n");
        return 0;
    }
    if (nr == OPTIONS_BAD || !cli_one_name("console", nr, argv))
        return EXIT_USAGE;
    return console_run(argv[1]);
}
