/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `doppel top`: what the user's VMs do just now, as a table that is drawn anew every second;
 * without a terminal, once. All numbers are differences of two answers to "stat".
 */
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "cli/cli.h"
#include "lib/log.h"

#define VMS_MAX   256
#define NS_PER_MS 1000000ull

struct top_options {
    uint64_t delay_ns;
    bool once;
};

struct top_vm {
    json_t *stat, *before; /* NULL: not asked yet */
    uint64_t at_ns, before_ns;
    bool seen;
};

struct top {
    struct top_vm vms[VMS_MAX];
    unsigned nr;
};

/* ---- asking ---- */

static const char *text_of(const json_t *j, const char *key)
{
    const char *s = json_string_value(json_object_get(j, key));

    return s ? s : "?";
}

static void top_ask(void *arg, const char *name)
{
    struct top *t = arg;
    char *text = ctl_request(name, "stat");
    json_t *j = text ? json_loads(text, 0, NULL) : NULL;
    unsigned i = 0;

    free(text);
    if (!j)
        return;
    while (i < t->nr && strcmp(text_of(t->vms[i].stat, "name"), name) != 0)
        i++;
    if (i == VMS_MAX) {
        json_decref(j);
        return;
    }
    if (i == t->nr)
        t->vms[t->nr++] = (struct top_vm){ .stat = NULL };
    json_decref(t->vms[i].before);
    t->vms[i].before = t->vms[i].stat;
    t->vms[i].before_ns = t->vms[i].at_ns;
    t->vms[i].stat = j;
    t->vms[i].at_ns = host_mono_ns();
    t->vms[i].seen = true;
}

static void top_forget(struct top_vm *v)
{
    json_decref(v->stat);
    json_decref(v->before);
}

static void top_look(struct top *t)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < t->nr; i++)
        t->vms[i].seen = false;
    (void)ctl_list(top_ask, t);
    for (unsigned i = 0; i < t->nr; i++) {
        if (t->vms[i].seen)
            t->vms[kept++] = t->vms[i];
        else
            top_forget(&t->vms[i]);
    }
    t->nr = kept;
}

/* ---- numbers ---- */

/* The sum of a key in a list of objects. */
static double sum(const json_t *stat, const char *list, const char *key)
{
    double all = 0;
    json_t *e;
    size_t i;

    json_array_foreach(json_object_get(stat, list), i, e) all +=
        json_number_value(json_object_get(e, key));
    return all;
}

static double exits_of(const json_t *stat, const char *reason)
{
    const char *key;
    double all = 0;
    json_t *v, *e;
    size_t i;

    json_array_foreach(json_object_get(stat, "vcpus"), i, v)
    {
        json_object_foreach(json_object_get(v, "exits"), key, e)
        {
            if (!reason || !strcmp(reason, key))
                all += json_number_value(json_object_get(e, "count"));
        }
    }
    return all;
}

static double per_second(const struct top_vm *v, double now, double before)
{
    double s = (double)(v->at_ns - v->before_ns) / 1e9;

    return v->before && s > 0 && now > before ? (now - before) / s : 0;
}

static double rate(const struct top_vm *v, const char *list, const char *key)
{
    return per_second(v, sum(v->stat, list, key), sum(v->before, list, key));
}

/* What the VM's process holds of the host's memory; 0: unknown. */
static double resident_bytes(const json_t *stat)
{
    char path[40];
    unsigned long long all, resident = 0;
    FILE *f;

    (void)snprintf(path, sizeof(path), "/proc/%d/statm",
                   (int)json_integer_value(json_object_get(stat, "pid")));
    f = fopen(path, "re");
    if (!f)
        return 0;
    if (fscanf(f, "%llu %llu", &all, &resident) != 2)
        resident = 0;
    (void)fclose(f);
    return (double)resident * (double)sysconf(_SC_PAGESIZE);
}

/* 1234567 as "1.2M", in 7 columns. */
static const char *human(double val, char *buf, size_t bytes)
{
    static const char units[] = " KMGT";
    unsigned u = 0;

    for (; val >= 999.5 && u < sizeof(units) - 2; u++)
        val /= 1000;
    (void)snprintf(buf, bytes, u ? "%.1f%c" : "%.0f", val, units[u]);
    return buf;
}

/* ---- drawing ---- */

/* The reasons with most exits, as "REASON rate". */
static void top_reasons(const struct top_vm *v, char *line, size_t bytes)
{
    enum { SHOWN = 4 };
    double best[SHOWN] = { 0 };
    const char *names[SHOWN] = { NULL };
    size_t at = 0;
    char buf[16];

    for (unsigned r = 0; r < NR_EXITS; r++) {
        const char *key = exit_key((enum exit_reason)r);
        double x = per_second(v, exits_of(v->stat, key), exits_of(v->before, key));

        for (unsigned i = 0; i < SHOWN; i++) {
            double higher = best[i];
            const char *name = names[i];

            if (x <= higher)
                continue;
            best[i] = x;
            names[i] = key;
            x = higher;
            key = name;
        }
    }
    line[0] = 0;
    for (unsigned i = 0; i < SHOWN && names[i] && at < bytes; i++)
        at += (size_t)snprintf(line + at, bytes - at, "%s%s %s", i ? ", " : "", names[i],
                               human(best[i], buf, sizeof(buf)));
}

static void top_row(const struct top_vm *v, unsigned columns, const char *eol)
{
    char b[7][16], reasons[120], line[400];
    double vcpus = (double)json_array_size(json_object_get(v->stat, "vcpus"));
    double cpu = per_second(v, json_number_value(json_object_get(v->stat, "cpu_ns")),
                            json_number_value(json_object_get(v->before, "cpu_ns")));

    top_reasons(v, reasons, sizeof(reasons));
    (void)snprintf(
        line, sizeof(line),
        "%-16.16s %-7.7s %-8.8s %5.0f %6.1f %6.1f %7s %7s %7s %7s %7s %7s %7s  %s",
        text_of(v->stat, "name"), text_of(v->stat, "engine"), text_of(v->stat, "state"), vcpus,
        cpu / 1e7, rate(v, "vcpus", "busy_ns") / 1e7,
        human(per_second(v, exits_of(v->stat, NULL), exits_of(v->before, NULL)), b[0], 16),
        human(per_second(v, exits_of(v->stat, "FILL"), exits_of(v->before, "FILL")), b[1], 16),
        human(resident_bytes(v->stat), b[2], 16), human(rate(v, "disks", "read_bytes"), b[3], 16),
        human(rate(v, "disks", "written_bytes"), b[4], 16),
        human(rate(v, "nets", "received_bytes"), b[5], 16),
        human(rate(v, "nets", "sent_bytes"), b[6], 16), reasons);
    (void)printf("%.*s%s", (int)columns, line, eol);
}

static void top_draw(const struct top *t, unsigned columns, unsigned rows, const char *eol)
{
    char head[400];

    (void)snprintf(head, sizeof(head),
                   "%-16s %-7s %-8s %5s %6s %6s %7s %7s %7s %7s %7s %7s %7s  %s", "NAME", "ENGINE",
                   "STATE", "VCPUS", "CPU%", "BUSY%", "EXITS/s", "FILLS/s", "MEMORY", "READ/s",
                   "WRITE/s", "RECV/s", "SEND/s", "MOST EXITS/s");
    (void)printf("%.*s%s", (int)columns, head, eol);
    for (unsigned i = 0; i < t->nr && i + 2 < rows; i++)
        top_row(&t->vms[i], columns, eol);
    if (!t->nr)
        (void)printf("no VM is running%s", eol);
}

/* ---- the terminal ---- */

/* True: the user has had enough. */
static bool top_wait(uint64_t wait_ns, bool keys)
{
    struct pollfd p = { .fd = keys ? STDIN_FILENO : -1, .events = POLLIN };
    uint64_t end_ns = host_mono_ns() + wait_ns, now_ns;
    char c = 0;

    while ((now_ns = host_mono_ns()) < end_ns) {
        if (poll(&p, 1, (int)((end_ns - now_ns) / NS_PER_MS + 1)) <= 0)
            continue;
        /* Ctrl-C is a key here: there is no signal in between that would leave the terminal so. */
        if (read(STDIN_FILENO, &c, 1) != 1 || c == 'q' || c == 'Q' || c == 3)
            return true;
    }
    return false;
}

static void top_size(unsigned *columns, unsigned *rows)
{
    struct winsize size = { .ws_col = 0 };

    (void)ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
    *columns = size.ws_col ? size.ws_col : 80;
    *rows = size.ws_row ? size.ws_row : 24;
}

/* The other screen, no cursor, keys one by one; and back, whatever happened. */
static int top_live(struct top *t, uint64_t delay_ns)
{
    struct termios old, raw;
    unsigned columns, rows;
    bool ok = tcgetattr(STDIN_FILENO, &old) == 0;

    if (!ok)
        return EXIT_VMM_ERROR;
    raw = old;
    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO | ISIG);
    if (tcsetattr(STDIN_FILENO, TCSANOW, &raw) < 0)
        return EXIT_VMM_ERROR;
    (void)printf("\033[?1049h\033[?25l");
    do {
        top_look(t);
        top_size(&columns, &rows);
        (void)printf("\033[H\033[J");
        top_draw(t, columns, rows, "\n");
        (void)printf("\033[%u;1Hq quits", rows);
        ok = fflush(stdout) == 0;
    } while (ok && !top_wait(delay_ns, true));
    (void)printf("\033[?25h\033[?1049l");
    (void)fflush(stdout);
    (void)tcsetattr(STDIN_FILENO, TCSANOW, &old);
    return ok ? 0 : EXIT_VMM_ERROR;
}

static int top_once(struct top *t, uint64_t delay_ns)
{
    top_look(t);
    if (t->nr) {
        (void)top_wait(delay_ns, false);
        top_look(t);
    }
    top_draw(t, 400, VMS_MAX + 2, "\n");
    return ferror(stdout) || fflush(stdout) ? EXIT_VMM_ERROR : 0;
}

/* ---- the command ---- */

static bool set_once(void *into, const char *val)
{
    (void)val;
    ((struct top_options *)into)->once = true;
    return true;
}

static bool set_delay(void *into, const char *val)
{
    if (value_seconds(val, &((struct top_options *)into)->delay_ns))
        return true;
    log_error("--delay '%s' is not a number of seconds above 0, such as 2 or 0.5", val);
    return false;
}

static const struct opt top_opts[] = {
    { "delay", 0, "SECONDS", "between two looks (1)", set_delay },
    { "once", 0, NULL, "one table of that time, as without a terminal", set_once },
};

int cmd_top(int argc, char **argv)
{
    struct top_options o = { .delay_ns = 1000000000ull };
    int nr = options_parse(top_opts, ARRAY_SIZE(top_opts), &o, argc, argv), status;
    struct top *t;

    if (nr == OPTIONS_HELP) {
        (void)printf("Usage: doppel top [OPTION]...\n\n"
                     "Your running VMs and what they do: processor time, time not halted, exits "
                     "and page-table\nfills a second, memory, disk and network bytes a second, and "
                     "the most frequent exits.\nq quits. Without a terminal: one table.\n\n"
                     "Options:\n");
        options_help(top_opts, ARRAY_SIZE(top_opts));
        return 0;
    }
    if (nr == OPTIONS_BAD)
        return EXIT_USAGE;
    if (nr) {
        log_error("top: unexpected argument '%s'; it shows all VMs", argv[1]);
        return EXIT_USAGE;
    }
    t = calloc(1, sizeof(*t));
    if (!t)
        return EXIT_VMM_ERROR;
    status = o.once || !isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO) ? top_once(t, o.delay_ns)
                                                                       : top_live(t, o.delay_ns);
    for (unsigned i = 0; i < t->nr; i++)
        top_forget(&t->vms[i]);
    free(t);
    return status;
}
