/* SPDX-License-Identifier: Apache-2.0 */
/* Where trace lines go: "seconds category: text" to standard error or a file, one write a line. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl/ctl.h"
#include "lib/log.h"

struct trace_out {
    struct trace trace;
    int fd;
    const char *eol; /* a raw terminal wants \r too */
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

struct trace_out *trace_out_open(uint32_t mask, const char *path)
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
    o->trace = (struct trace){ .mask = mask, .line = trace_out_line, .arg = o };
    return o;
}

const struct trace *trace_out_trace(const struct trace_out *o)
{
    return o ? &o->trace : NULL;
}

void trace_out_close(struct trace_out *o)
{
    if (!o)
        return;
    if (o->fd != STDERR_FILENO)
        (void)close(o->fd);
    free(o);
}
