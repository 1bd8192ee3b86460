/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where trace lines go: "seconds category: text" to standard error or a file, one write a line; or
 * to a file for Chrome's and Perfetto's viewers, as an array of JSON objects (Trace Event Format).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl/ctl.h"
#include "lib/log.h"

#define TRACE_NAME_CHARS "abcdefghijklmnopqrstuvwxyz 0123456789"

struct trace_out {
    struct trace trace;
    int fd;
    const char *eol; /* a raw terminal wants \r too */
    enum trace_format format;
    uint64_t start_ns;
};

static bool trace_find(const char *word, size_t len, uint32_t *mask)
{
    if (len == 3 && !strncmp(word, "all", len)) {
        *mask |= BIT(NR_TRACE_CATS) - 1;
        return true;
    }
    for (unsigned i = 0; i < NR_TRACE_CATS; i++) {
        const char *name = trace_name((enum trace_cat)i);

        if (strlen(name) != len || strncmp(word, name, len) != 0)
            continue;
        *mask |= BIT(i);
        return true;
    }
    return false;
}

bool trace_parse(const char *text, uint32_t *mask, const char **bad)
{
    for (const char *word = text;; word++) {
        size_t len = strcspn(word, ",");

        if (!trace_find(word, len, mask)) {
            *bad = word;
            return false;
        }
        word += len;
        if (!*word)
            return true;
    }
}

static void trace_out_line(void *arg, enum trace_cat cat, const char *text)
{
    const struct trace_out *o = arg;
    double seconds = (double)(host_mono_ns() - o->start_ns) / 1e9;
    char line[320];
    int n = snprintf(line, sizeof(line), "%12.6f %s: %s%s", seconds, trace_name(cat), text, o->eol);

    /* A full disk loses trace lines, and nothing else. */
    if (n > 0 && write(o->fd, line, MIN((size_t)n, sizeof(line) - 1)) < 0)
        return;
}

/* Into a JSON string: what is no plain character becomes a question mark, it was not ours. */
static size_t trace_out_escape(char *to, size_t bytes, const char *text)
{
    size_t n = 0;

    for (; *text && n + 3 < bytes; text++) {
        if (*text == '"' || *text == '\\')
            to[n++] = '\\';
        to[n++] = *text >= ' ' && *text < 0x7f ? *text : '?';
    }
    to[n] = 0;
    return n;
}

/* "vcpu3 ..." belongs to that vCPU's row, whatever thread it happened on; else to the thread's. */
static void trace_out_event(void *arg, enum trace_cat cat, const char *text)
{
    const struct trace_out *o = arg;
    uint64_t ns = host_mono_ns() - o->start_ns;
    char quoted[560], line[800];
    size_t verb = 0;
    int n;

    /* The name is what happened without its values, so that a viewer can count by it. */
    if (!strncmp(text, "vcpu", 4))
        verb = strcspn(text, " ") + 1;
    (void)trace_out_escape(quoted, sizeof(quoted), text);
    n = snprintf(
        line, sizeof(line),
        "{\"name\":\"%s %.*s\",\"cat\":\"%s\",\"ph\":\"i\",\"s\":\"t\",\"pid\":%d,\"tid\":%d,"
        "\"ts\":%llu.%03u,\"args\":{\"text\":\"%s\"}},\n",
        trace_name(cat), (int)strspn(text + MIN(verb, strlen(text)), TRACE_NAME_CHARS),
        text + MIN(verb, strlen(text)), trace_name(cat), host_pid(), host_tid(),
        (unsigned long long)(ns / 1000), (unsigned)(ns % 1000), quoted);
    if (n > 0 && write(o->fd, line, MIN((size_t)n, sizeof(line) - 1)) < 0)
        return;
}

struct trace_out *trace_out_open(uint32_t mask, const char *path, enum trace_format format)
{
    struct trace_out *o = calloc(1, sizeof(*o));

    if (!o) {
        log_error("out of memory for the trace");
        return NULL;
    }
    o->fd = path ? open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0666)
                 : STDERR_FILENO;
    if (o->fd < 0) {
        log_error("cannot create trace file '%s': %s", path, strerror(errno));
        free(o);
        return NULL;
    }
    o->eol = isatty(o->fd) ? "\r\n" : "\n";
    o->start_ns = host_mono_ns();
    o->format = format;
    o->trace = (struct trace){ .mask = mask,
                               .line = format == TRACE_CHROME ? trace_out_event : trace_out_line,
                               .arg = o };
    /* The closing bracket may be missing, says the format: a VM that is killed leaves none. */
    if (format == TRACE_CHROME && write(o->fd, "[\n", 2) != 2)
        log_warn("trace file '%s': %s", path, strerror(errno));
    return o;
}

const struct trace *trace_out_trace(const struct trace_out *o)
{
    return o ? &o->trace : NULL;
}

/* The last object has no comma behind it. */
static void trace_out_finish(const struct trace_out *o)
{
    static const char format[] = "{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":%d,"
                                 "\"args\":{\"name\":\"doppel\"}}\n]\n";

    if (dprintf(o->fd, format, host_pid()) < 0)
        log_warn("the trace file has no end: %s", strerror(errno));
}

void trace_out_close(struct trace_out *o)
{
    if (!o)
        return;
    if (o->format == TRACE_CHROME)
        trace_out_finish(o);
    if (o->fd != STDERR_FILENO)
        (void)close(o->fd);
    free(o);
}
