/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `doppel console`: this terminal on a running VM's console, serial port or port, until Ctrl-A d or
 * the VM's end: on its pseudo-terminal if it has one, else as a visitor of its channel. The channel
 * of standard input is that of `doppel run`, with its raw mode; a thread of it hands on what is
 * typed, and this one what the guest writes.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "cli/cli.h"
#include "lib/log.h"

struct console {
    const char *name;
    int guest_fd, detach_fd;
    int size_fd; /* signalfd for SIGWINCH; -1: nobody wants to know */
    struct chr *chr;
    struct lock lock; /* LOCK_MACHINE: what a channel wants around its rx */
};

static size_t console_rx(void *arg, const uint8_t *buf, size_t bytes)
{
    struct console *c = arg;
    ssize_t n = write(c->guest_fd, buf, bytes);

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

static void console_tell_size(const struct console *c)
{
    uint16_t cols, rows;

    if (chr_stdio_size(&cols, &rows))
        ctl_tell_size(c->name, cols, rows);
}

/* What the guest writes, until the user leaves (true) or the VM ends (false). */
static bool console_relay(struct console *c)
{
    struct pollfd p[] = { { .fd = c->detach_fd, .events = POLLIN },
                          { .fd = c->guest_fd, .events = POLLIN },
                          { .fd = c->size_fd, .events = POLLIN } };
    struct signalfd_siginfo info;
    uint8_t buf[4096];

    for (;;) {
        ssize_t n;

        if (poll(p, ARRAY_SIZE(p), -1) < 0)
            continue;
        if (p[0].revents)
            return true;
        if (p[2].revents && read(c->size_fd, &info, sizeof(info)) > 0)
            console_tell_size(c);
        n = read(c->guest_fd, buf, sizeof(buf));
        if (n > 0)
            chr_write(c->chr, buf, (size_t)n);
        else if (n == 0 || (errno != EAGAIN && errno != EINTR))
            return false;
        chr_accept(c->chr);
    }
}

/* Opened and locked against a second console; -1 after a message. */
static int console_open_pty(const char *name, const char *path)
{
    int fd = open(path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);

    if (fd < 0) {
        log_error("VM '%s': cannot open its pseudo-terminal '%s': %s", name, path, strerror(errno));
        return -1;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return fd;
    log_error("VM '%s': another `doppel console` is attached to it", name);
    (void)close(fd);
    return -1;
}

/* -1 after a message. */
static int console_attach(const char *name, const char *which, bool *sized)
{
    char *pty;
    int fd = ctl_attach(name, which, &pty, sized);

    if (fd >= 0)
        (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    else if (pty)
        fd = console_open_pty(name, pty);
    free(pty);
    return fd;
}

/* Before there are threads. */
static int console_watch_size(void)
{
    sigset_t set;

    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGWINCH);
    (void)pthread_sigmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void console_close(struct console *c)
{
    lock_destroy(&c->lock);
    if (c->size_fd >= 0)
        (void)close(c->size_fd);
    if (c->detach_fd >= 0)
        (void)close(c->detach_fd);
    (void)close(c->guest_fd);
}

static int console_run(const char *name, const char *which)
{
    struct console c = { .name = name, .detach_fd = -1, .size_fd = -1 };
    bool sized = false, detached = false, lost = true;

    c.guest_fd = console_attach(name, which, &sized);
    if (c.guest_fd < 0)
        return EXIT_VMM_ERROR;
    (void)signal(SIGPIPE, SIG_IGN); /* a VM that is gone is an error of write() */
    c.detach_fd = eventfd(0, EFD_CLOEXEC);
    if (sized)
        c.size_fd = console_watch_size();
    lock_init(&c.lock, LOCK_MACHINE);
    (void)fprintf(stderr, "attached to '%s'; Ctrl-A d detaches\n", name);
    c.chr = c.detach_fd < 0 ? NULL : chr_open_stdio(console_escape, &c);
    if (c.chr) {
        chr_connect(c.chr, &c.lock, console_rx, &c);
        if (sized)
            console_tell_size(&c);
        detached = console_relay(&c);
        chr_connect(c.chr, NULL, NULL, NULL);
        chr_flush(c.chr);
        lost = chr_lost_output(c.chr);
        chr_close(c.chr);
        (void)fprintf(stderr, "\n%s '%s'\n", detached ? "detached from" : "the end of", name);
    }
    console_close(&c);
    return lost ? EXIT_VMM_ERROR : 0;
}

static bool set_to(void *into, const char *val)
{
    *(const char **)into = val;
    return true;
}

static const struct opt console_opts[] = {
    { "to", 0, "WHICH", "serial, console (virtio), or the name of a --port", set_to },
};

int cmd_console(int argc, char **argv)
{
    const char *which = NULL;
    int nr = options_parse(console_opts, ARRAY_SIZE(console_opts), &which, argc, argv);

    if (nr == OPTIONS_HELP) {
        (void)printf("Usage: doppel console NAME [--to WHICH]\n\n"
                     "This terminal on the console of a running VM (its virtio console, or the "
                     "serial port\nif it has none), unless that is on the terminal of `doppel "
                     "run`. Shows what nobody\nread of late. Ctrl-A d detaches, and the VM runs "
                     "on; Ctrl-A a sends Ctrl-A. Ends, too,\nwhen the VM does.\n\n");
        options_help(console_opts, ARRAY_SIZE(console_opts));
        return 0;
    }
    if (nr == OPTIONS_BAD || !cli_one_name("console", nr, argv))
        return EXIT_USAGE;
    return console_run(argv[1], which);
}
