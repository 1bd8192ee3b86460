/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP over a Unix socket, by libmicrohttpd, without a thread of its own: the caller waits for
 * server_fd() and lets it work. Here are the limits to what clients can take of us: connections,
 * their memory, the time they may be silent, and the length of a request's body. What is longer is
 * read and dropped, so that the client hears why.
 */
#include <errno.h>
#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "api/priv.h"
#include "lib/log.h"

#define CLIENTS_MAX      256u
#define CLIENT_BYTES     (32u << 10) /* line and headers of a request */
#define CLIENT_SILENT_S  60u
#define SERVER_NAME      "Firecracker API"
#define BODY_CHUNK_BYTES 4096u
/* A body that is announced to be longer than this is not even read. */
#define BODY_DROPPED_MAX (64ull << 20)

struct server {
    struct api *api;
    struct MHD_Daemon *daemon;
    struct sockaddr_un addr;
    struct stat made; /* the socket's file */
    int fd;           /* listens; the daemon's own later */
    bool bound;
};

/* A request whose body comes bit by bit. */
struct incoming {
    char *body;
    size_t nr, room;
    bool too_large, no_memory, ambiguous;
};

/* ---- answering ---- */

static enum MHD_Result send_reply(struct MHD_Connection *c, const struct reply *r)
{
    char *text = r->body ? json_dumps(r->body, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    struct MHD_Response *resp;
    enum MHD_Result ok = MHD_NO;

    resp = MHD_create_response_from_buffer(text ? strlen(text) : 0, text, MHD_RESPMEM_MUST_FREE);
    if (!resp) {
        free(text);
        return MHD_NO;
    }
    if (MHD_add_response_header(resp, MHD_HTTP_HEADER_SERVER, SERVER_NAME) == MHD_YES &&
        (!text || MHD_add_response_header(resp, MHD_HTTP_HEADER_CONTENT_TYPE, "application/json") ==
                      MHD_YES))
        ok = MHD_queue_response(c, r->status, resp);
    MHD_destroy_response(resp);
    return ok;
}

static enum MHD_Result answer(struct server *s, struct MHD_Connection *c, const char *method,
                              const char *path, const struct incoming *in)
{
    struct reply r = { .status = 0 };
    enum MHD_Result ok;

    if (in && in->ambiguous) {
        reply_fault(&r, "The request says more than once how long its body is.");
    } else if (in && in->too_large) {
        r.status = 413;
        reply_fault(&r, "The request's body is larger than the limit of %llu bytes.",
                    (unsigned long long)s->api->cfg->payload_max);
    } else if (in && in->no_memory) {
        r.status = 500;
        reply_fault(&r, "Out of memory.");
    } else {
        route(s->api, method, path, in ? in->body : NULL, in ? in->nr : 0, &r);
    }
    metrics_count(s->api->metrics, method, path, r.status);
    if (r.status >= 400)
        log_info("%.16s %.128s: %u: %s", method, path, r.status,
                 field_string(r.body, "fault_message"));
    else
        log_debug("%.16s %.128s: %u", method, path, r.status);
    ok = send_reply(c, &r);
    json_decref(r.body);
    return ok;
}

/* ---- hearing ---- */

static void incoming_drop(struct incoming *in)
{
    free(in->body);
    in->body = NULL;
    in->nr = in->room = 0;
}

static void incoming_add(struct incoming *in, const char *data, size_t bytes, uint64_t max)
{
    if (in->too_large || in->no_memory)
        return;
    if (bytes > max - in->nr) {
        in->too_large = true;
        incoming_drop(in);
        return;
    }
    if (in->nr + bytes > in->room) {
        size_t room = MAX(in->nr + bytes, MIN(2 * in->room + BODY_CHUNK_BYTES, max));
        char *more = realloc(in->body, room);

        if (!more) {
            in->no_memory = true;
            incoming_drop(in);
            return;
        }
        in->body = more;
        in->room = room;
    }
    memcpy(in->body + in->nr, data, bytes);
    in->nr += bytes;
}

/* Is a body announced that is not worth reading, or one that the client waits to be asked for? */
static bool hopeless(const struct server *s, struct MHD_Connection *c)
{
    const char *len =
                   MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH),
               *expect = MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_EXPECT);
    unsigned long long bytes = len ? strtoull(len, NULL, 10) : 0;

    return bytes > s->api->cfg->payload_max && (expect || bytes > BODY_DROPPED_MAX);
}

static enum MHD_Result count_length(void *arg, enum MHD_ValueKind kind, const char *key,
                                    const char *val)
{
    unsigned *nr = arg;

    (void)kind, (void)val;
    *nr += !strcasecmp(key, MHD_HTTP_HEADER_CONTENT_LENGTH) ||
           !strcasecmp(key, MHD_HTTP_HEADER_TRANSFER_ENCODING);
    return MHD_YES;
}

/* RFC 9112, 6.3: who stands between may have understood it otherwise. */
static bool is_ambiguous(struct MHD_Connection *c)
{
    unsigned nr = 0;

    (void)MHD_get_connection_values(c, MHD_HEADER_KIND, count_length, &nr);
    return nr > 1;
}

/* The path of a request in absolute form (RFC 9112, 3.2.2), too, and of one that was made by
 * joining a base that ends in '/' with a path. */
static const char *path_of(const char *target)
{
    static const char scheme[] = "http://";
    const size_t len = sizeof(scheme) - 1;

    if (!strncasecmp(target, scheme, len))
        target += len + strcspn(target + len, "/");
    while (target[0] == '/' && target[1] == '/')
        target++;
    return *target ? target : "/";
}

/* Called for the head, for each piece of the body, and for the end of it. */
static enum MHD_Result server_hear(void *arg, struct MHD_Connection *c, const char *target,
                                   const char *method, const char *version, const char *data,
                                   size_t *bytes, void **state)
{
    const char *path = path_of(target);
    struct server *s = arg;
    struct incoming *in = *state;

    (void)version;
    if (!in) {
        in = *state = calloc(1, sizeof(*in));
        if (!in)
            return MHD_NO;
        in->ambiguous = is_ambiguous(c);
        in->too_large = hopeless(s, c);
        if (!in->ambiguous && !in->too_large)
            return MHD_YES;
        return answer(s, c, method, path, in);
    }
    if (*bytes) {
        incoming_add(in, data, *bytes, s->api->cfg->payload_max);
        *bytes = 0;
        return MHD_YES;
    }
    return answer(s, c, method, path, in);
}

static void server_done(void *arg, struct MHD_Connection *c, void **state,
                        enum MHD_RequestTerminationCode how)
{
    struct incoming *in = *state;

    (void)arg, (void)c, (void)how;
    if (!in)
        return;
    free(in->body);
    free(in);
    *state = NULL;
}

/* ---- life ---- */

/* Something has that name: whose is it? 0: a socket that nobody listens on, and it is gone now. */
static int server_remove_stale(const struct server *s)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), err = 0;
    struct stat st;

    if (fd < 0)
        return -errno;
    if (lstat(s->addr.sun_path, &st) < 0 || !S_ISSOCK(st.st_mode) ||
        connect(fd, (const struct sockaddr *)&s->addr, sizeof(s->addr)) == 0 ||
        errno != ECONNREFUSED)
        err = -EADDRINUSE;
    else if (unlink(s->addr.sun_path) < 0)
        err = -errno;
    (void)close(fd);
    return err;
}

/* 0 or -errno. */
static int server_bind(struct server *s)
{
    const struct sockaddr *addr = (const struct sockaddr *)&s->addr;
    int err;

    s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->fd < 0)
        return -errno;
    if (bind(s->fd, addr, sizeof(s->addr)) < 0) {
        err = errno == EADDRINUSE ? server_remove_stale(s) : -errno;
        if (err)
            return err;
        if (bind(s->fd, addr, sizeof(s->addr)) < 0)
            return -errno;
    }
    s->bound = true;
    /* Whoever may write to it has the VM; the umask says who, as for any file. */
    if (lstat(s->addr.sun_path, &s->made) < 0 || listen(s->fd, SOMAXCONN) < 0)
        return -errno;
    return 0;
}

struct server *server_open(struct api *a, const char *path)
{
    struct server *s = calloc(1, sizeof(*s));
    int err = -ENAMETOOLONG;

    if (!s) {
        log_error("out of memory");
        return NULL;
    }
    s->api = a;
    s->fd = -1;
    s->addr.sun_family = AF_UNIX;
    if (*path && strlen(path) < sizeof(s->addr.sun_path)) {
        memcpy(s->addr.sun_path, path, strlen(path));
        err = server_bind(s);
    }
    if (err) {
        log_error("cannot open the API socket at '%s': %s%s", path, strerror(-err),
                  err == -EADDRINUSE ? "; another process has it, or it is no socket" : "");
        server_close(s);
        return NULL;
    }
    s->daemon = MHD_start_daemon(
        MHD_USE_EPOLL, 0, NULL, NULL, server_hear, s, MHD_OPTION_LISTEN_SOCKET, s->fd,
        MHD_OPTION_CONNECTION_LIMIT, CLIENTS_MAX, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)CLIENT_BYTES, MHD_OPTION_CONNECTION_TIMEOUT, CLIENT_SILENT_S,
        MHD_OPTION_NOTIFY_COMPLETED, server_done, NULL, MHD_OPTION_END);
    if (!s->daemon) {
        log_error("cannot serve the API socket at '%s': too many open files?", path);
        server_close(s);
        return NULL;
    }
    return s;
}

void server_close(struct server *s)
{
    struct stat st;

    if (!s)
        return;
    if (s->daemon)
        MHD_stop_daemon(s->daemon); /* which closes the socket, too */
    else if (s->fd >= 0)
        (void)close(s->fd);
    if (s->bound && lstat(s->addr.sun_path, &st) == 0 && st.st_ino == s->made.st_ino &&
        st.st_dev == s->made.st_dev)
        (void)unlink(s->addr.sun_path);
    free(s);
}

int server_fd(const struct server *s)
{
    return MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
}

void server_work(struct server *s)
{
    if (MHD_run(s->daemon) != MHD_YES)
        log_debug("a client of the API has failed");
}

int server_timeout_ms(struct server *s)
{
    MHD_UNSIGNED_LONG_LONG ms;

    if (MHD_get_timeout(s->daemon, &ms) != MHD_YES)
        return -1;
    return (int)MIN(ms, (MHD_UNSIGNED_LONG_LONG)INT32_MAX);
}
