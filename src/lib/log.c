/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The message sink: one line to stderr per message. Kept apart from the callers so that a
 * freestanding build can bring its own.
 */
#include "lib/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static _Atomic int log_max = LOG_INFO;
static log_sink *log_to; /* NULL: standard error */
static void *log_to_arg;
static bool log_to_terminal;
_Thread_local void (*log_guard)(void);

void log_set_terminal(bool is)
{
    log_to_terminal = is;
}

void log_set_level(enum log_level level)
{
    log_max = (int)level;
}

void log_set_sink(log_sink *sink, void *arg)
{
    log_to = sink;
    log_to_arg = arg;
}

void log_msg(enum log_level level, const char *fmt, ...)
{
    static const char *const tags[] = { "error: ", "warning: ", "", "debug: " };
    char line[1024];
    va_list ap;
    int n;

    if ((int)level > log_max)
        return;
    if (log_guard)
        log_guard();
    n = log_to ? 0 : snprintf(line, sizeof(line), "doppel: %s", tags[level]);
    va_start(ap, fmt);
    (void)vsnprintf(line + n, sizeof(line) - (size_t)n, fmt, ap);
    va_end(ap);
    if (log_to) {
        log_to(log_to_arg, level, line);
        return;
    }
    /* One write, so that lines of several threads do not mix; \r because the terminal may be raw.
     */
    (void)fprintf(stderr, "%s%s\n", line, log_to_terminal ? "\r" : "");
}

bool log_first(struct log_seen *seen, uint64_t key)
{
    key = key * 2 + 1; /* 0 marks a free place */
    for (unsigned i = 0; i < ARRAY_SIZE(seen->keys); i++) {
        uint64_t at = 0;

        if (__atomic_load_n((uint64_t *)&seen->keys[i], __ATOMIC_RELAXED) == key)
            return false;
        if (__atomic_compare_exchange_n((uint64_t *)&seen->keys[i], &at, key, false,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED))
            return true;
        if (at == key)
            return false;
    }
    return false;
}

void bug_at(const char *file, int line, const char *what)
{
    (void)fprintf(stderr, "doppel: BUG at %s:%d: %s%s\n", file, line, what,
                  log_to_terminal ? "\r" : "");
    abort();
}
