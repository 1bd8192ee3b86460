/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /logger: where this process's messages go, and which. Messages come from any thread; besides
 * being written, the last error is kept, as the reason that a request failed for.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "api/priv.h"
#include "lib/log.h"

static const struct field logger_list[] = {
    { .name = "log_path", .type = FIELD_STRING }, { .name = "level", .type = FIELD_STRING },
    { .name = "show_level", .type = FIELD_BOOL }, { .name = "show_log_origin", .type = FIELD_BOOL },
    { .name = "module", .type = FIELD_STRING },
};
const struct fields logger_fields = FIELDS(logger_list);

/* Case does not matter. */
static const struct {
    const char *name;
    enum log_level level;
    bool off;
} levels[] = {
    { "off", LOG_ERROR, true },     { "error", LOG_ERROR, false }, { "warn", LOG_WARN, false },
    { "warning", LOG_WARN, false }, { "info", LOG_INFO, false },   { "debug", LOG_DEBUG, false },
    { "trace", LOG_DEBUG, false },
};

struct api_log {
    const char *id;
    /* Guards what follows. Without a rank: whoever logs may hold any lock. */
    pthread_mutex_t lock;
    int fd; /* STDERR_FILENO, or the file */
    bool off, show_level;
    char last_error[512];
};

static const char *level_text(enum log_level level)
{
    static const char *const texts[] = {
        [LOG_ERROR] = "ERROR", [LOG_WARN] = "WARN", [LOG_INFO] = "INFO", [LOG_DEBUG] = "DEBUG"
    };

    return texts[level];
}

/* Any thread. What a pipe has no room for is lost: nobody waits for a reader of messages. */
static void logger_line(void *arg, enum log_level level, const char *text)
{
    struct api_log *l = arg;
    struct timespec now;
    struct tm utc;
    char line[1400], date[32], thread[16] = "?";
    int n;

    (void)clock_gettime(CLOCK_REALTIME, &now);
    (void)strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", gmtime_r(&now.tv_sec, &utc));
    (void)pthread_getname_np(pthread_self(), thread, sizeof(thread));
    (void)pthread_mutex_lock(&l->lock);
    if (level == LOG_ERROR)
        (void)snprintf(l->last_error, sizeof(l->last_error), "%s", text);
    /* \r, because the terminal may be raw. */
    n = snprintf(line, sizeof(line), "%s.%09ld [%s:%s%s%s] %s%s\n", date, now.tv_nsec, l->id,
                 thread, l->show_level ? ":" : "", l->show_level ? level_text(level) : "", text,
                 l->fd == STDERR_FILENO ? "\r" : "");
    if (!l->off && n > 0) {
        ssize_t done = write(l->fd, line, MIN((size_t)n, sizeof(line) - 1));

        (void)done; /* where would one tell that the log is full? */
    }
    (void)pthread_mutex_unlock(&l->lock);
}

struct api_log *api_log_open(const char *id)
{
    struct api_log *l = calloc(1, sizeof(*l));

    if (!l) {
        log_error("out of memory");
        return NULL;
    }
    l->id = id;
    l->fd = STDERR_FILENO;
    BUG_ON(pthread_mutex_init(&l->lock, NULL));
    log_set_sink(logger_line, l);
    return l;
}

void api_log_close(struct api_log *l)
{
    if (!l)
        return;
    log_set_sink(NULL, NULL);
    if (l->fd != STDERR_FILENO)
        (void)close(l->fd);
    (void)pthread_mutex_destroy(&l->lock);
    free(l);
}

void api_log_forget(struct api_log *l)
{
    (void)pthread_mutex_lock(&l->lock);
    l->last_error[0] = 0;
    (void)pthread_mutex_unlock(&l->lock);
}

const char *api_log_last_error(struct api_log *l, char *buf, size_t bytes)
{
    (void)pthread_mutex_lock(&l->lock);
    (void)snprintf(buf, bytes, "%s", l->last_error[0] ? l->last_error : "out of resources");
    (void)pthread_mutex_unlock(&l->lock);
    return buf;
}

/* ---- setting it ---- */

/* A file, or a pipe that nobody may be reading yet. */
int api_open_output(const char *path)
{
    int fd = open(path, O_RDWR | O_APPEND | O_CREAT | O_NONBLOCK | O_CLOEXEC | O_NOCTTY, 0600);

    return fd < 0 ? -errno : fd;
}

static int find_level(const char *name)
{
    for (unsigned i = 0; i < ARRAY_SIZE(levels); i++)
        if (!strcasecmp(levels[i].name, name))
            return (int)i;
    return -EINVAL;
}

int api_log_set(struct api_log *l, const json_t *logger)
{
    const char *path = field_string(logger, "log_path"), *name = field_string(logger, "level");
    int level = name ? find_level(name) : 0;

    if (level < 0)
        return level;
    if (path) {
        int fd = api_open_output(path), old;

        if (fd < 0)
            return fd;
        (void)pthread_mutex_lock(&l->lock);
        old = l->fd;
        l->fd = fd;
        (void)pthread_mutex_unlock(&l->lock);
        if (old != STDERR_FILENO)
            (void)close(old);
    }
    if (name)
        log_set_level(levels[level].level);
    (void)pthread_mutex_lock(&l->lock);
    l->off = name ? levels[level].off : l->off;
    l->show_level = field_bool(logger, "show_level", l->show_level);
    (void)pthread_mutex_unlock(&l->lock);
    if (field_bool(logger, "show_log_origin", false))
        log_warn("doppel's messages have no file and line: show_log_origin has no effect");
    if (field_string(logger, "module"))
        log_warn("doppel's messages are not of modules: module has no effect");
    return 0;
}

void logger_put(struct api *a, const struct request *rq, struct reply *r)
{
    int err = api_log_set(a->log, rq->body);
    bool touched = a->touched;

    if (err == -EINVAL)
        reply_fault(r, "Logger error: `%.32s` is no level: Off, Trace, Debug, Info, Warn, Error.",
                    field_string(rq->body, "level"));
    else if (err)
        reply_fault(r, "Logger error: Failed to open target file: %s: %s",
                    field_string(rq->body, "log_path"), strerror(-err));
    else
        (void)keep(a, &a->logger, rq->body, r);
    a->touched = touched; /* that of a snapshot's machine is not */
}
