/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the metadata service answers to an HTTP request of the guest: values of the tree as JSON or
 * as text, and session tokens. The guest is told to close after each answer.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/mmds_priv.h"

#define NS_PER_S       1000000000ull
#define TOKEN_PATH     "/latest/api/token"
#define TOKEN_TTL_MAX  21600u /* seconds */
#define PATH_MAX_BYTES 1024

/* A request, taken apart. Texts are cut out of a copy. */
struct http {
    char *method, *path;
    const char *accept, *token, *ttl, *forwarded; /* headers; NULL: absent */
};

/* An answer being made. */
struct answer {
    unsigned status;
    const char *type, *extra; /* a whole header line, or "" */
    char *body;               /* malloc'ed; NULL: out of memory */
};

static const char *status_text(unsigned status)
{
    static const struct {
        unsigned status;
        const char *text;
    } texts[] = {
        { 200, "OK" },        { 400, "Bad Request" },        { 401, "Unauthorized" },
        { 404, "Not Found" }, { 405, "Method Not Allowed" }, { 501, "Not Implemented" },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(texts); i++)
        if (texts[i].status == status)
            return texts[i].text;
    return "";
}

static void say(struct answer *a, unsigned status, const char *text)
{
    a->status = status;
    a->type = "text/plain";
    a->body = strdup(text);
}

/* ---- taking apart ---- */

static void take_header(struct http *h, char *line)
{
    static const struct {
        const char *name;
        size_t at;
    } known[] = {
        { "accept", offsetof(struct http, accept) },
        { "x-metadata-token", offsetof(struct http, token) },
        { "x-aws-ec2-metadata-token", offsetof(struct http, token) },
        { "x-metadata-token-ttl-seconds", offsetof(struct http, ttl) },
        { "x-aws-ec2-metadata-token-ttl-seconds", offsetof(struct http, ttl) },
        { "x-forwarded-for", offsetof(struct http, forwarded) },
    };
    char *val = strchr(line, ':'), *end;

    if (!val)
        return;
    *val++ = 0;
    val += strspn(val, " \t");
    for (end = val + strlen(val); end > val && (end[-1] == ' ' || end[-1] == '\t'); end--)
        end[-1] = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(known); i++)
        if (!strcasecmp(known[i].name, line))
            *(const char **)((char *)h + known[i].at) = val;
}

/* Takes the text apart. False: it is no request. */
static bool take_apart(struct http *h, char *text)
{
    char *save, *line = strtok_r(text, "\r\n", &save), *words, *version, *host;

    *h = (struct http){ .method = NULL };
    if (!line)
        return false;
    h->method = strtok_r(line, " ", &words);
    h->path = strtok_r(NULL, " ", &words);
    version = strtok_r(NULL, " ", &words);
    if (!h->method || !h->path || !version || strncmp(version, "HTTP/1.", 7) != 0)
        return false;
    /* "absolute-form" (RFC 9112) */
    if (!strncasecmp(h->path, "http://", 7)) {
        host = h->path + 7;
        h->path = strchr(host, '/') ? strchr(host, '/') : host + strlen(host);
    }
    while ((line = strtok_r(NULL, "\r\n", &save)))
        take_header(h, line);
    return !*h->path || *h->path == '/';
}

/* ---- values ---- */

/* NULL: there is none. */
static const json_t *find(const json_t *at, const char *path)
{
    char copy[PATH_MAX_BYTES], *save, *end;

    if (!at || strlen(path) >= sizeof(copy))
        return NULL;
    (void)snprintf(copy, sizeof(copy), "%s", path);
    for (char *part = strtok_r(copy, "/", &save); part && at; part = strtok_r(NULL, "/", &save)) {
        if (json_is_array(at)) {
            unsigned long idx = strtoul(part, &end, 10);

            at = *end ? NULL : json_array_get(at, idx);
        } else {
            at = json_object_get(at, part);
        }
    }
    return at;
}

/* The names of an object's members, one to a line, with '/' behind those that have members. */
static char *list_names(const json_t *o)
{
    char *text = NULL;
    size_t bytes;
    FILE *f = open_memstream(&text, &bytes);
    const char *name;
    json_t *val;
    bool first = true;

    if (!f)
        return NULL;
    json_object_foreach((json_t *)o, name, val)
    {
        (void)fprintf(f, "%s%s%s", first ? "" : "\n", name, json_is_object(val) ? "/" : "");
        first = false;
    }
    if (fclose(f) == 0)
        return text;
    free(text);
    return NULL;
}

static void say_value(struct answer *a, const json_t *val, bool as_json)
{
    a->status = 200;
    a->type = as_json ? "application/json" : "text/plain";
    if (as_json)
        a->body = json_dumps(val, JSON_COMPACT | JSON_ENCODE_ANY);
    else if (json_is_object(val))
        a->body = list_names(val);
    else if (json_is_string(val))
        a->body = strdup(json_string_value(val));
    else
        say(a, 501, "Cannot retrieve value. The value has an unsupported type.");
}

/* ---- tokens; lock held ---- */

static bool token_ok(const struct mmds *m, const char *text, uint64_t now_ns)
{
    for (unsigned i = 0; i < MMDS_TOKENS_MAX; i++)
        if (m->tokens[i].text[0] && !strcmp(m->tokens[i].text, text))
            return now_ns < m->tokens[i].until_ns;
    return false;
}

static const struct mmds_token *token_make(struct mmds *m, uint64_t until_ns)
{
    struct mmds_token *t = &m->tokens[m->next_token++ % MMDS_TOKENS_MAX];
    uint8_t random[MMDS_TOKEN_BYTES];

    host_random(random, sizeof(random));
    for (unsigned i = 0; i < sizeof(random); i++)
        (void)snprintf(t->text + 2 * (size_t)i, 3, "%02x", random[i]);
    t->until_ns = until_ns;
    return t;
}

/* ---- answering; lock held ---- */

static void answer_put(struct mmds *m, const struct http *h, struct answer *a, char *extra,
                       size_t extra_bytes, uint64_t now_ns)
{
    char *end = NULL;
    unsigned long ttl = h->ttl ? strtoul(h->ttl, &end, 10) : 0;

    if (strcmp(h->path, TOKEN_PATH) != 0) {
        say(a, 404, "Resource not found.");
    } else if (h->forwarded) {
        say(a, 400, "Invalid header. Reason: X-Forwarded-For is not supported.");
    } else if (!h->ttl) {
        say(a, 400,
            "Token time to live value not found. Use `X-metadata-token-ttl-seconds` or "
            "`X-aws-ec2-metadata-token-ttl-seconds` header to specify the token's "
            "lifetime.");
    } else if (*end || end == h->ttl || ttl < 1 || ttl > TOKEN_TTL_MAX) {
        say(a, 400,
            "Invalid time to live value provided for token. It has to be between 1 and "
            "21600 seconds.");
    } else {
        say(a, 200, token_make(m, now_ns + ttl * NS_PER_S)->text);
        (void)snprintf(extra, extra_bytes, "X-metadata-token-ttl-seconds: %lu\r\n", ttl);
        a->extra = extra;
    }
}

static void answer_get(struct mmds *m, const struct http *h, struct answer *a, uint64_t now_ns)
{
    bool as_json = !m->cfg.imds_compat && h->accept && strstr(h->accept, "application/json");
    const json_t *val;

    if (m->cfg.v2 && !h->token) {
        say(a, 401,
            "No MMDS token provided. Use `X-metadata-token` or `X-aws-ec2-metadata-token` "
            "header to specify the session token.");
        return;
    }
    if (m->cfg.v2 && !token_ok(m, h->token, now_ns)) {
        say(a, 401, "MMDS token not valid.");
        return;
    }
    val = find(m->data, h->path);
    if (val)
        say_value(a, val, as_json);
    else
        say(a, 404, "Resource not found.");
}

char *mmds_answer(struct mmds *m, const char *request, size_t bytes, uint64_t now_ns)
{
    struct answer a = { .extra = "" };
    char *copy = strndup(request, bytes), *all = NULL, extra[64];
    struct http h;

    if (!copy)
        return NULL;
    lock_take(&m->lock);
    if (!take_apart(&h, copy)) {
        say(&a, 400, "Invalid request.");
    } else if (!strcmp(h.method, "GET")) {
        answer_get(m, &h, &a, now_ns);
    } else if (!strcmp(h.method, "PUT")) {
        answer_put(m, &h, &a, extra, sizeof(extra), now_ns);
    } else {
        say(&a, 405, "Not allowed HTTP method.");
        a.extra = "Allow: GET, PUT\r\n";
    }
    lock_drop(&m->lock);
    if (a.body &&
        asprintf(&all,
                 "HTTP/1.1 %u %s\r\nServer: MMDS\r\nConnection: close\r\n%s"
                 "Content-Type: %s\r\nContent-Length: %zu\r\n\r\n%s",
                 a.status, status_text(a.status), a.extra, a.type, strlen(a.body), a.body) < 0)
        all = NULL;
    free(a.body);
    free(copy);
    return all;
}
