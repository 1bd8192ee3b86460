/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tracepoints: always compiled in, one predictable branch each while off.
 *
 * Whoever makes the VM owns the struct trace and says where lines go; NULL traces nothing. The mask
 * is set before the VM starts and constant while it runs.
 */
#ifndef LIB_TRACE_H
#define LIB_TRACE_H

#include "lib/types.h"

enum trace_cat {
#define TRACE(id, name, text) TRACE_##id,
#include "lib/trace.def"
#undef TRACE
    NR_TRACE_CATS
};

struct trace {
    uint32_t mask; /* BIT(enum trace_cat) */
    /* Takes one line without newline; any thread, perhaps with locks held. */
    void (*line)(void *arg, enum trace_cat cat, const char *text);
    void *arg;
};

static inline bool trace_on(const struct trace *t, enum trace_cat cat)
{
    return unlikely(t && t->mask >> cat & 1);
}

void trace_emit(const struct trace *t, enum trace_cat cat, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* trace(t, PIO, "out %#x", port): arguments are evaluated only when it is on. */
#define trace(t, id, ...)                           \
    do {                                            \
        if (trace_on(t, TRACE_##id))                \
            trace_emit(t, TRACE_##id, __VA_ARGS__); \
    } while (0)

const char *trace_name(enum trace_cat cat);
const char *trace_text(enum trace_cat cat);

#endif
