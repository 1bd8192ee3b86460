/* SPDX-License-Identifier: Apache-2.0 */
/* A ring of bytes of a fixed size. Who has it locks it. Only the files of backend/ include this. */
#ifndef BACKEND_RING_H
#define BACKEND_RING_H

#include <string.h>

#include "lib/types.h"

struct byte_ring {
    uint8_t *p; /* the owner's */
    size_t size, at, nr;
};

static inline size_t ring_room(const struct byte_ring *r)
{
    return r->size - r->nr;
}

/* There is room. */
static inline void ring_put(struct byte_ring *r, const uint8_t *buf, size_t bytes)
{
    size_t at = (r->at + r->nr) % r->size;
    size_t first = MIN(bytes, r->size - at);

    BUG_ON(bytes > ring_room(r));
    memcpy(r->p + at, buf, first);
    memcpy(r->p, buf + first, bytes - first);
    r->nr += bytes;
}

static inline void ring_drop(struct byte_ring *r, size_t bytes)
{
    BUG_ON(bytes > r->nr);
    r->at = (r->at + bytes) % r->size;
    r->nr -= bytes;
}

/* The oldest bytes make room for the new ones. */
static inline void ring_put_last(struct byte_ring *r, const uint8_t *buf, size_t bytes)
{
    if (bytes > r->size) {
        buf += bytes - r->size;
        bytes = r->size;
    }
    if (bytes > ring_room(r))
        ring_drop(r, bytes - ring_room(r));
    ring_put(r, buf, bytes);
}

/* The oldest bytes that are in one piece. */
static inline size_t ring_piece(const struct byte_ring *r, const uint8_t **piece)
{
    *piece = r->p + r->at;
    return MIN(r->nr, r->size - r->at);
}

#endif
