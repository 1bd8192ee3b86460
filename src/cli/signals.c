/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The signals that ask doppel to end: SIGINT (without a raw terminal), SIGTERM, SIGHUP. They are
 * blocked in all threads and read from a descriptor. The first ends the VM cleanly; a second, when
 * that takes too long, ends the process. SIGWINCH tells the guest's console of its terminal's size.
 */
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "cli/cli.h"
#include "lib/log.h"

struct signals {
    struct vm *vm;
    bool has_terminal;
    int signal_fd, quit_fd;
    struct thread thread;
};

static void signals_set(sigset_t *set)
{
    (void)sigemptyset(set);
    (void)sigaddset(set, SIGINT);
    (void)sigaddset(set, SIGTERM);
    (void)sigaddset(set, SIGHUP);
    (void)sigaddset(set, SIGWINCH);
}

void signals_block(void)
{
    sigset_t set;

    signals_set(&set);
    BUG_ON(pthread_sigmask(SIG_BLOCK, &set, NULL));
}

static void signals_resize(struct signals *s)
{
    uint16_t cols, rows;

    if (s->has_terminal && chr_stdio_size(&cols, &rows))
        vm_resize_console(s->vm, cols, rows);
}

static void *signals_main(void *arg)
{
    struct signals *s = arg;
    struct pollfd p[] = { { .fd = s->signal_fd, .events = POLLIN },
                          { .fd = s->quit_fd, .events = POLLIN } };
    struct signalfd_siginfo info;
    unsigned nr = 0;

    for (;;) {
        if (poll(p, ARRAY_SIZE(p), -1) < 0)
            continue;
        if (p[1].revents)
            return NULL;
        if (read(s->signal_fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
            continue;
        if (info.ssi_signo == SIGWINCH) {
            signals_resize(s);
            continue;
        }
        if (nr++) {
            chr_stdio_restore();
            _exit(128 + (int)info.ssi_signo);
        }
        vm_stop(s->vm, STOP_USER, 0);
    }
}

struct signals *signals_watch(struct vm *vm, enum signals_terminal terminal)
{
    struct signals *s = calloc(1, sizeof(*s));
    sigset_t set;

    if (!s)
        return NULL;
    s->vm = vm;
    s->has_terminal = terminal == SIGNALS_CONSOLE;
    signals_resize(s);
    signals_set(&set);
    s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    s->quit_fd = eventfd(0, EFD_CLOEXEC);
    if (s->signal_fd < 0 || s->quit_fd < 0 ||
        thread_start_as(&s->thread, HOST_CHAN, "signals", signals_main, s) < 0) {
        log_error("cannot watch for signals: too many open files or threads?");
        signals_unwatch(s);
        return NULL;
    }
    return s;
}

void signals_unwatch(struct signals *s)
{
    if (!s)
        return;
    if (s->thread.started) {
        BUG_ON(eventfd_write(s->quit_fd, 1) < 0);
        thread_join(&s->thread);
    }
    if (s->signal_fd >= 0)
        (void)close(s->signal_fd);
    if (s->quit_fd >= 0)
        (void)close(s->quit_fd);
    free(s);
}
