/* SPDX-License-Identifier: Apache-2.0 */
/* The slow half of a tracepoint that is on: see trace.h. */
#include "lib/trace.h"

#include <stdarg.h>
#include <stdio.h>

#include "lib/log.h"

static const char *const trace_names[] = {
#define TRACE(id, name, text) name,
#include "lib/trace.def"
#undef TRACE
};

static const char *const trace_texts[] = {
#define TRACE(id, name, text) text,
#include "lib/trace.def"
#undef TRACE
};

const char *trace_name(enum trace_cat cat)
{
    return trace_names[cat];
}

const char *trace_text(enum trace_cat cat)
{
    return trace_texts[cat];
}

void trace_emit(const struct trace *t, enum trace_cat cat, const char *fmt, ...)
{
    char text[256];
    va_list ap;

    if (log_guard)
        log_guard();
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    t->line(t->arg, cat, text);
}
