/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bounded buffer that firmware tables are appended to, little endian, at known guest addresses.
 *
 * Too much data does not overflow: `full` is set, and whoever asked for the tables checks it once
 * at the end.
 */
#ifndef BOOT_BYTES_H
#define BOOT_BYTES_H

#include <string.h>

#include "lib/types.h"

struct bytes {
    uint8_t *p;
    size_t n, cap;
    gpa_t at; /* where p[0] will be in the guest */
    bool full;
};

static inline gpa_t bytes_here(const struct bytes *b)
{
    return gpa_add(b->at, b->n);
}

static inline void put_mem(struct bytes *b, const void *src, size_t bytes)
{
    if (bytes > b->cap - b->n) {
        b->full = true;
        return;
    }
    memcpy(b->p + b->n, src, bytes);
    b->n += bytes;
}

static inline void put_zero(struct bytes *b, size_t bytes)
{
    if (bytes > b->cap - b->n) {
        b->full = true;
        return;
    }
    memset(b->p + b->n, 0, bytes);
    b->n += bytes;
}

/* The low `bytes` bytes of val. */
static inline void put_int(struct bytes *b, uint64_t val, unsigned bytes)
{
    put_mem(b, &val, bytes);
}

static inline void put8(struct bytes *b, uint64_t val)
{
    put_int(b, val, 1);
}

static inline void put16(struct bytes *b, uint64_t val)
{
    put_int(b, val, 2);
}

static inline void put32(struct bytes *b, uint64_t val)
{
    put_int(b, val, 4);
}

static inline void put64(struct bytes *b, uint64_t val)
{
    put_int(b, val, 8);
}

static inline void put_align(struct bytes *b, size_t align)
{
    put_zero(b, align_up(b->n, align) - b->n);
}

/* Overwrites what is already there. */
static inline void patch(struct bytes *b, size_t off, uint64_t val, unsigned bytes)
{
    if (off + bytes <= b->n)
        memcpy(b->p + off, &val, bytes);
}

/* The byte that makes [off, off + bytes) add up to 0. */
static inline uint8_t checksum8(const struct bytes *b, size_t off, size_t bytes)
{
    uint8_t sum = 0;

    for (size_t i = 0; i < bytes && off + i < b->n; i++)
        sum = (uint8_t)(sum + b->p[off + i]);
    return (uint8_t)-sum;
}

#endif
