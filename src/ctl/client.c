/* SPDX-License-Identifier: Apache-2.0 */
/* Asking a running VM through its control socket, and finding out which VMs there are. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ctl/ctl.h"
#include "ctl/sock.h"
#include "lib/log.h"

#define ANSWER_LIMIT_S 10

static bool client_path(char *path, size_t bytes, const char *dir, const char *name)
{
    int n = snprintf(path, bytes, "%s/%s.sock", dir, name);

    return n > 0 && (size_t)n < bytes;
}

/*
 * Removes the socket of a VM that died. One that is just being made refuses, too, between its
 * bind() and listen(): that is done under the directory's lock (server.c), so ask again under it.
 */
static void ctl_remove_stale(const char *dir, const char *path)
{
    int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd;

    if (dir_fd < 0)
        return;
    if (flock(dir_fd, LOCK_EX) == 0) {
        fd = sock_connect_unix(path);
        if (fd == -ECONNREFUSED)
            (void)unlink(path); /* if that fails it is found again */
        else if (fd >= 0)
            (void)close(fd);
    }
    (void)close(dir_fd);
}

/* Reads one line of JSON. */
static json_t *client_read(int fd)
{
    FILE *f = fdopen(fd, "r");
    json_t *j;

    if (!f) {
        (void)close(fd);
        return NULL;
    }
    j = json_loadf(f, JSON_DISABLE_EOF_CHECK, NULL);
    (void)fclose(f);
    return j;
}

static char *client_result(const char *name, json_t *answer)
{
    json_t *result = json_object_get(answer, "result");
    const char *error = json_string_value(json_object_get(answer, "error"));

    if (json_is_true(json_object_get(answer, "ok")) && result)
        return json_dumps(result, JSON_INDENT(2));
    log_error("VM '%s': %s", name, error ? error : "no answer from its control socket");
    return NULL;
}

char *ctl_request(const char *name, const char *what)
{
    char line[64];

    (void)snprintf(line, sizeof(line), "{\"do\": \"%s\"}\n", what);
    return ctl_request_line(name, line);
}

char *ctl_line_arg(const char *what, const char *arg)
{
    json_t *j = json_pack("{s:s, s:s}", "do", what, "arg", arg);
    char *line = j ? json_dumps(j, JSON_COMPACT) : NULL, *with_end = NULL;

    if (!line || asprintf(&with_end, "%s\n", line) < 0) {
        log_error("'%s' is no text for a request", arg);
        with_end = NULL;
    }
    free(line);
    json_decref(j);
    return with_end;
}

char *ctl_request_arg(const char *name, const char *what, const char *arg)
{
    char *line = ctl_line_arg(what, arg), *text = line ? ctl_request_line(name, line) : NULL;

    free(line);
    return text;
}

/* A connection to the VM on which the line was sent; -1 after a message. */
static int client_send(const char *name, const char *line, unsigned limit_s,
                       const struct ctl_fds *fds)
{
    int sent = 0;
    struct timeval limit = { .tv_sec = limit_s };
    char dir[96], path[160];
    int fd;

    fd = ctl_dir(dir, sizeof(dir), false) && client_path(path, sizeof(path), dir, name)
             ? sock_connect_unix(path)
             : -ENOENT;
    if (fd == -ECONNREFUSED)
        ctl_remove_stale(dir, path);
    if (fd == -ENOENT || fd == -ECONNREFUSED) {
        log_error("no VM named '%s' is running", name);
        return -1;
    }
    if (fd < 0) {
        log_error("cannot reach VM '%s' at '%s': %s", name, path, strerror(-fd));
        return -1;
    }
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    /* A failure shows as an answer that does not come. */
    if (fds)
        sent = sock_send_fds(fd, line, strlen(line), fds->fd, fds->nr);
    if (sent >= 0)
        (void)!sock_send(fd, line + sent, strlen(line) - (size_t)sent);
    return fd;
}

char *ctl_request_line(const char *name, const char *line)
{
    return ctl_request_long(name, line, ANSWER_LIMIT_S);
}

char *ctl_request_long(const char *name, const char *line, unsigned limit_s)
{
    return ctl_request_fds(name, line, limit_s, NULL);
}

char *ctl_request_fds(const char *name, const char *line, unsigned limit_s,
                      const struct ctl_fds *fds)
{
    int fd = client_send(name, line, limit_s, fds);
    json_t *answer;
    char *text;

    if (fd < 0)
        return NULL;
    answer = client_read(fd);
    text = client_result(name, answer);
    json_decref(answer);
    return text;
}

/* ---- channels ---- */

/* A line and nothing behind it: those bytes are the channel's. */
static json_t *client_read_line(int fd)
{
    char line[512];
    size_t nr = 0;

    while (nr < sizeof(line) && recv(fd, line + nr, 1, 0) == 1)
        if (line[nr++] == '\n')
            return json_loadb(line, nr, 0, NULL);
    return NULL;
}

int ctl_attach(const char *name, const char *which, char **pty, bool *sized)
{
    const struct timeval no_limit = { .tv_sec = 0 };
    json_t *request = which ? json_pack("{s:s, s:s}", "do", "console", "arg", which)
                            : json_pack("{s:s}", "do", "console");
    char *line = request ? json_dumps(request, JSON_COMPACT) : NULL, *with_end = NULL, *text;
    const char *path;
    json_t *answer;
    int fd = -1;

    *pty = NULL;
    if (!line)
        log_error("'%s' is no text for a request", which);
    else if (asprintf(&with_end, "%s\n", line) > 0)
        fd = client_send(name, with_end, ANSWER_LIMIT_S, NULL);
    free(with_end);
    free(line);
    json_decref(request);
    if (fd < 0)
        return -1;
    answer = client_read_line(fd);
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &no_limit, sizeof(no_limit));
    path = json_string_value(json_object_get(json_object_get(answer, "result"), "pty"));
    *sized = json_is_true(json_object_get(json_object_get(answer, "result"), "sized"));
    text = client_result(name, answer);
    if (path)
        *pty = strdup(path);
    if (path || !text) {
        (void)close(fd);
        fd = -1;
    }
    json_decref(answer);
    free(text);
    return fd;
}

void ctl_tell_size(const char *name, uint16_t cols, uint16_t rows)
{
    char line[96];

    (void)snprintf(line, sizeof(line), "{\"do\": \"console-size\", \"cols\": %u, \"rows\": %u}\n",
                   cols, rows);
    free(ctl_request_line(name, line));
}

/* The VM's name if this is the socket of one that lives. */
static bool client_alive(const char *dir, const char *file, char *name, size_t bytes)
{
    size_t len = strlen(file);
    char path[400];
    int fd;

    if (len < 6 || len - 5 >= bytes || strcmp(file + len - 5, ".sock") != 0)
        return false;
    (void)snprintf(name, bytes, "%.*s", (int)(len - 5), file);
    if (!client_path(path, sizeof(path), dir, name))
        return false;
    fd = sock_connect_unix(path);
    if (fd == -ECONNREFUSED)
        ctl_remove_stale(dir, path);
    if (fd < 0)
        return false;
    (void)close(fd);
    return true;
}

unsigned ctl_list(void (*fn)(void *arg, const char *name), void *arg)
{
    char dir[96], name[CTL_NAME_MAX + 1];
    struct dirent *e;
    unsigned nr = 0;
    DIR *d;

    if (!ctl_dir(dir, sizeof(dir), false))
        return 0;
    d = opendir(dir);
    while (d && (e = readdir(d))) {
        if (!client_alive(dir, e->d_name, name, sizeof(name)))
            continue;
        fn(arg, name);
        nr++;
    }
    if (d)
        (void)closedir(d);
    return nr;
}
