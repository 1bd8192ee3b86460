/* SPDX-License-Identifier: Apache-2.0 */
/* A client of QMP: see store_qmp.h. What comes is from a process that may have gone mad: lines are
 * bounded, answers are waited for so long and no longer. */
#include "backend/store_qmp.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define NS_PER_MS      1000000ull
#define ANSWER_NS      (60000 * NS_PER_MS) /* opening an image may read a lot */
#define LINE_BYTES_MAX MIB(4)
#define READ_BYTES     4096u

static int qmp_fail(struct qmp *q, int err, const char *why)
{
    (void)snprintf(q->why, sizeof(q->why), "%s", why);
    return err;
}

/* More bytes into q->in. */
static int qmp_receive(struct qmp *q, uint64_t until_ns)
{
    struct pollfd pfd = { .fd = q->fd, .events = POLLIN };
    uint64_t now = host_mono_ns();
    ssize_t n;
    char *in;

    if (q->in_bytes + READ_BYTES > LINE_BYTES_MAX)
        return qmp_fail(q, -EPROTO, "its answer is too long");
    if (q->in_bytes + READ_BYTES > q->in_room) {
        in = realloc(q->in, q->in_room * 2 + READ_BYTES);
        if (!in)
            return qmp_fail(q, -ENOMEM, "out of memory");
        q->in = in;
        q->in_room = q->in_room * 2 + READ_BYTES;
    }
    if (now >= until_ns)
        return qmp_fail(q, -ETIMEDOUT, "it does not answer");
    if (poll(&pfd, 1, (int)((until_ns - now) / NS_PER_MS) + 1) <= 0)
        return 0; /* what time it is is looked at next */
    n = recv(q->fd, q->in + q->in_bytes, READ_BYTES, 0);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return 0;
    if (n <= 0)
        return qmp_fail(q, -EPIPE, "it ended");
    q->in_bytes += (size_t)n;
    return 0;
}

/* The next message, which the caller frees. */
static int qmp_read(struct qmp *q, uint64_t until_ns, json_t **message)
{
    char *end;
    size_t line;
    int err;

    while (!q->in || !(end = memchr(q->in, '\n', q->in_bytes))) {
        err = qmp_receive(q, until_ns);
        if (err)
            return err;
    }
    line = (size_t)(end - q->in) + 1;
    *message = json_loadb(q->in, line, 0, NULL);
    q->in_bytes -= line;
    memmove(q->in, q->in + line, q->in_bytes);
    return json_is_object(*message) ? 0 : qmp_fail(q, -EPROTO, "it talks gibberish");
}

static int qmp_send(struct qmp *q, const char *text)
{
    size_t left = strlen(text);

    /* Short against the socket's buffer. */
    while (left) {
        ssize_t n = send(q->fd, text, left, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return qmp_fail(q, -errno, "it ended");
        text += n;
        left -= (size_t)n;
    }
    return 0;
}

static int qmp_request(struct qmp *q, const char *command, json_t *args)
{
    json_t *request = json_pack("{s:s, s:o}", "execute", command, "arguments", args);
    char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
    int err = text ? qmp_send(q, text) : qmp_fail(q, -ENOMEM, "out of memory");

    if (!err)
        err = qmp_send(q, "\n");
    free(text);
    json_decref(request);
    return err;
}

int qmp_do(struct qmp *q, const char *command, json_t *args, json_t **result)
{
    uint64_t until = host_mono_ns() + ANSWER_NS;
    int err = qmp_request(q, command, args ? args : json_object());

    while (!err) {
        json_t *m = NULL, *got, *error;

        err = qmp_read(q, until, &m);
        got = json_object_get(m, "return");
        error = json_object_get(m, "error");
        if (error) {
            const char *why = json_string_value(json_object_get(error, "desc"));

            err = qmp_fail(q, -EINVAL, why ? why : "it refuses");
        } else if (got && result) {
            *result = json_incref(got);
        }
        json_decref(m);
        if (got || error)
            break; /* anything else is an event that nobody waits for */
    }
    return err;
}

int qmp_wait(struct qmp *q, const char *event, const char *key, const char *value)
{
    uint64_t until = host_mono_ns() + ANSWER_NS;
    bool found = false;
    int err = 0;

    while (!err && !found) {
        json_t *m = NULL;
        const char *name, *have;

        err = qmp_read(q, until, &m);
        name = json_string_value(json_object_get(m, "event"));
        have = json_string_value(json_object_get(json_object_get(m, "data"), key));
        found = name && have && !strcmp(name, event) && !strcmp(have, value);
        json_decref(m);
    }
    return err;
}

int qmp_open(struct qmp *q, int fd)
{
    json_t *greeting = NULL;
    int err;

    *q = (struct qmp){ .fd = fd };
    err = qmp_read(q, host_mono_ns() + ANSWER_NS, &greeting);
    if (!err && !json_object_get(greeting, "QMP"))
        err = qmp_fail(q, -EPROTO, "it does not greet");
    json_decref(greeting);
    if (!err)
        err = qmp_do(q, "qmp_capabilities", NULL, NULL);
    return err;
}

void qmp_close(struct qmp *q)
{
    if (q->fd >= 0)
        (void)close(q->fd);
    free(q->in);
    *q = (struct qmp){ .fd = -1 };
}
