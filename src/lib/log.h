/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages to the user, and what a guest asked for that doppel does not have.
 *
 * A message says who, what, with which value, and what to do; one line, no newline at its end.
 * The core is freestanding: a build without an operating system brings its own log.c.
 */
#ifndef LIB_LOG_H
#define LIB_LOG_H

#include "lib/types.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Called on this thread before a message or a trace line is made, if not NULL: a thread that keeps
 * a guest's vector registers in the processor stores them first. */
extern _Thread_local void (*log_guard)(void);

/* Safe from any thread; not from signal handlers. */
void log_msg(enum log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);

#define log_error(...) log_msg(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_msg(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_msg(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_msg(LOG_DEBUG, __VA_ARGS__)

/*
 * Remembers which of many keys (an MSR number, a port, ...) was already reported, so that a guest
 * cannot flood the log. Bounded: when full, reports nothing more. Zero-initialised; hangs off a VM
 * or a device, never global.
 */
struct log_seen {
    _Atomic uint64_t keys[64];
};

/* True the first time this key is seen (and false for ever once the table is full). Thread-safe. */
bool log_first(struct log_seen *seen, uint64_t key);

/* Lines above this level are dropped. Default LOG_INFO. */
void log_set_level(enum log_level level);

/* Is standard error a terminal (which the guest's console may have made raw)? At the start. */
void log_set_terminal(bool is);

/*
 * From now on the lines that are not dropped go there, as they were given to log_msg(), instead of
 * to standard error; NULL: back to that. Any thread calls it. To be set while there is one thread.
 */
typedef void log_sink(void *arg, enum log_level level, const char *text);
void log_set_sink(log_sink *sink, void *arg);

#endif
