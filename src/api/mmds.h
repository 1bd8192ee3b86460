/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The metadata service: a tree of JSON that the client of the API fills and the guest reads by HTTP
 * from 169.254.169.254. Here are the tree, the session tokens, and what a request is answered with;
 * how requests come is in mmds_net.h.
 *
 * The API's thread and the threads of network links use it: it has a lock of its own.
 */
#ifndef API_MMDS_H
#define API_MMDS_H

#include <jansson.h>

#include "lib/types.h"

struct mmds;

#define MMDS_DEFAULT_ADDR 0xa9fea9feu /* 169.254.169.254, host byte order */

struct mmds_config {
    bool v2;          /* only with a session token */
    bool imds_compat; /* text whatever the guest accepts */
    uint32_t addr;    /* IPv4, host byte order */
};

/* max_bytes: of the tree as JSON text. NULL after a message. */
struct mmds *mmds_create(uint64_t max_bytes);
void mmds_destroy(struct mmds *m);

void mmds_configure(struct mmds *m, const struct mmds_config *cfg);
struct mmds_config mmds_config_of(struct mmds *m);

/* Takes a copy. -EINVAL: no object, -E2BIG: too large, -ENOMEM. */
int mmds_put_data(struct mmds *m, const json_t *data) MUST_CHECK;
/* Merges (RFC 7396, JSON Merge Patch). -ENOENT: there is nothing yet; else as before. */
int mmds_patch_data(struct mmds *m, const json_t *patch) MUST_CHECK;
/* A copy, or null; NULL: out of memory. */
json_t *mmds_get_data(struct mmds *m);

/* ---- the guest's side ---- */

/* A whole HTTP request: line, headers, and an empty line. The answer is malloc'ed, with headers;
 * NULL: out of memory. now_ns: host_mono_ns(). */
char *mmds_answer(struct mmds *m, const char *request, size_t bytes, uint64_t now_ns);

#endif
