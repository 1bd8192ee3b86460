/* SPDX-License-Identifier: Apache-2.0 */
/* What mmds.c and mmds_http.c share. */
#ifndef API_MMDS_PRIV_H
#define API_MMDS_PRIV_H

#include "api/mmds.h"
#include "host/host.h"

#define MMDS_TOKEN_BYTES 24 /* random ones; twice that as text */
#define MMDS_TOKENS_MAX  64 /* the oldest makes room */

struct mmds_token {
    char text[2 * MMDS_TOKEN_BYTES + 1]; /* "": free */
    uint64_t until_ns;                   /* host_mono_ns() */
};

struct mmds {
    uint64_t max_bytes;

    struct lock lock; /* LOCK_LEAF: guards what follows */
    struct mmds_config cfg;
    json_t *data; /* changed by the API's thread alone; NULL: nothing was set */
    struct mmds_token tokens[MMDS_TOKENS_MAX];
    unsigned next_token;
};

#endif
