/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The small monitor behind Ctrl-A c: a prompt on the guest's console, where a line is a command.
 * The VM runs on while it is open; Ctrl-A c again, or `exit`, closes it.
 *
 * All runs on the console channel's thread, but for monitor_set_*().
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "lib/log.h"

#define LINE_BYTES 80

struct monitor {
    struct lock lock; /* LOCK_LEAF: guards the next three */
    struct vm *vm;
    struct chr *chr;
    bool wants_end; /* Ctrl-A x came before the VM did */

    bool open;
    size_t nr;
    char line[LINE_BYTES];
};

static struct vm *monitor_vm(struct monitor *m)
{
    struct vm *vm;

    lock_take(&m->lock);
    vm = m->vm;
    lock_drop(&m->lock);
    return vm;
}

/* \n becomes \r\n: the terminal is raw. */
static void monitor_say(struct monitor *m, const char *text)
{
    struct chr *c;

    lock_take(&m->lock);
    c = m->chr;
    lock_drop(&m->lock);
    for (size_t len; *text; text += len + (text[len] == '\n')) {
        len = strcspn(text, "\n");
        chr_write(c, (const uint8_t *)text, len);
        if (text[len] == '\n')
            chr_write(c, (const uint8_t *)"\r\n", 2);
    }
}

static void monitor_end_vm(struct monitor *m)
{
    struct vm *vm;

    lock_take(&m->lock);
    vm = m->vm;
    m->wants_end = true;
    lock_drop(&m->lock);
    if (vm)
        vm_stop(vm, STOP_USER, 0);
}

/* ---- commands; the VM is there ---- */

static void monitor_stats(struct monitor *m, struct vm *vm, char *(*render)(const char *json))
{
    char *json = vm_stats_json(vm), *text = render(json);

    monitor_say(m, text ? text : "out of memory\n");
    free(text);
    free(json);
}

static void monitor_info(struct monitor *m, struct vm *vm)
{
    monitor_stats(m, vm, ctl_info_text);
}

static void monitor_stat(struct monitor *m, struct vm *vm)
{
    monitor_stats(m, vm, ctl_stat_text);
}

static void monitor_stop(struct monitor *m, struct vm *vm)
{
    if (!vm_user_pause(vm))
        monitor_say(m, "it is paused already\n");
}

static void monitor_cont(struct monitor *m, struct vm *vm)
{
    (void)vm_user_resume(vm); /* whether it was paused by the user or not */
    if (vm_state(vm) == VM_PAUSED)
        monitor_say(m, "a debugger or a full disk still holds it\n");
}

static void monitor_quit(struct monitor *m, struct vm *vm)
{
    (void)vm;
    monitor_end_vm(m);
}

static void monitor_toggle(struct monitor *m);

static void monitor_exit(struct monitor *m, struct vm *vm)
{
    (void)vm;
    monitor_toggle(m);
}

static void monitor_help(struct monitor *m, struct vm *vm);

static const struct {
    const char *name;
    const char *about;
    void (*run)(struct monitor *m, struct vm *vm);
} monitor_commands[] = {
    { "info", "what this VM is", monitor_info },
    { "stat", "exits by reason and guest instructions", monitor_stat },
    { "stop", "let the VM stand still", monitor_stop },
    { "cont", "let it go on", monitor_cont },
    { "quit", "end the VM", monitor_quit },
    { "exit", "leave the monitor, as Ctrl-A c does", monitor_exit },
    { "help", "this", monitor_help },
};

static void monitor_help(struct monitor *m, struct vm *vm)
{
    char line[LINE_BYTES];

    (void)vm;
    for (unsigned i = 0; i < ARRAY_SIZE(monitor_commands); i++) {
        (void)snprintf(line, sizeof(line), "  %-6s %s\n", monitor_commands[i].name,
                       monitor_commands[i].about);
        monitor_say(m, line);
    }
}

static void monitor_run_line(struct monitor *m)
{
    struct vm *vm = monitor_vm(m);
    const char *word = strtok(m->line, " \t");

    if (!word)
        return;
    if (!vm) {
        monitor_say(m, "the VM is not there yet\n");
        return;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(monitor_commands); i++) {
        if (strcmp(word, monitor_commands[i].name) != 0)
            continue;
        monitor_commands[i].run(m, vm);
        return;
    }
    monitor_say(m, "unknown command; `help` lists them\n");
}

/* ---- the line ---- */

static void monitor_prompt(struct monitor *m)
{
    m->nr = 0;
    if (m->open)
        monitor_say(m, "(doppel) ");
}

static void monitor_erase(struct monitor *m, size_t nr)
{
    for (; nr && m->nr; nr--, m->nr--)
        monitor_say(m, "\b \b");
}

static void monitor_key(struct monitor *m, uint8_t key)
{
    char echo[2] = { (char)key, 0 };

    if (key == '\r' || key == '\n') {
        monitor_say(m, "\n");
        m->line[m->nr] = 0;
        monitor_run_line(m);
        monitor_prompt(m);
    } else if (key == 0x7f || key == '\b') {
        monitor_erase(m, 1);
    } else if (key == 0x15) { /* Ctrl-U */
        monitor_erase(m, m->nr);
    } else if (key >= ' ' && key < 0x7f && m->nr < LINE_BYTES - 1) {
        m->line[m->nr++] = (char)key;
        monitor_say(m, echo);
    }
}

static void monitor_take(void *arg, const uint8_t *buf, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        monitor_key(arg, buf[i]);
}

static void monitor_toggle(struct monitor *m)
{
    struct chr *c;

    lock_take(&m->lock);
    c = m->chr;
    lock_drop(&m->lock);
    if (!c)
        return;
    m->open = !m->open;
    chr_stdio_divert(c, m->open ? monitor_take : NULL, m);
    monitor_say(m, m->open ? "\ndoppel monitor: `help` lists commands, Ctrl-A c leaves\n" : "\n");
    monitor_prompt(m);
}

void monitor_escape(void *monitor, int key)
{
    struct monitor *m = monitor;

    switch (key) {
    case 'x':
        monitor_end_vm(m);
        break;
    case 'c':
        monitor_toggle(m);
        break;
    case 'h':
    case '?':
        monitor_say(m, "\nCtrl-A x  end the VM\n"
                       "Ctrl-A c  open or close the monitor\n"
                       "Ctrl-A a  send Ctrl-A to the guest\n"
                       "Ctrl-A h  this\n");
        break;
    default: /* as if nothing was typed */
        break;
    }
}

/* ---- life ---- */

struct monitor *monitor_create(void)
{
    struct monitor *m = calloc(1, sizeof(*m));

    if (!m) {
        log_error("out of memory for the monitor");
        return NULL;
    }
    lock_init(&m->lock, LOCK_LEAF);
    return m;
}

void monitor_destroy(struct monitor *m)
{
    if (!m)
        return;
    lock_destroy(&m->lock);
    free(m);
}

void monitor_set_chr(struct monitor *m, struct chr *c)
{
    lock_take(&m->lock);
    m->chr = c;
    lock_drop(&m->lock);
}

void monitor_set_vm(struct monitor *m, struct vm *vm)
{
    bool end;

    lock_take(&m->lock);
    m->vm = vm;
    end = m->wants_end;
    lock_drop(&m->lock);
    if (vm && end)
        vm_stop(vm, STOP_USER, 0);
}
