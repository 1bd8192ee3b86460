/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compressed memory: the pages that a chunk has, one behind the other, become one frame of zstd. So
 * a frame can be read by itself, whatever became of the others, and how much comes out of it is
 * known before: a frame that would give more, or less, is damaged.
 */
#include <errno.h>
#include <stdlib.h>
#include <zstd.h>

#include "snap/priv.h"

/* The guest stands still meanwhile: the fastest level that still finds what repeats. */
#define LEVEL 1

struct snap_pack {
    ZSTD_CCtx *packer;   /* one of them ... */
    ZSTD_DCtx *unpacker; /* ... is NULL */
    uint8_t *pages;      /* SNAP_CHUNK_BYTES, and behind them room for a frame */
};

uint32_t pack_frame_max(void)
{
    return (uint32_t)ZSTD_compressBound(SNAP_CHUNK_BYTES);
}

struct snap_pack *pack_create(bool packs)
{
    struct snap_pack *p = calloc(1, sizeof(*p));

    if (!p)
        return NULL;
    p->pages = malloc(SNAP_CHUNK_BYTES + (size_t)pack_frame_max());
    if (packs)
        p->packer = ZSTD_createCCtx();
    else
        p->unpacker = ZSTD_createDCtx();
    if (p->pages && (p->packer || p->unpacker))
        return p;
    pack_destroy(p);
    return NULL;
}

void pack_destroy(struct snap_pack *p)
{
    if (!p)
        return;
    (void)ZSTD_freeCCtx(p->packer); /* cannot fail: it is no static one */
    (void)ZSTD_freeDCtx(p->unpacker);
    free(p->pages);
    free(p);
}

uint8_t *pack_pages(struct snap_pack *p)
{
    return p->pages;
}

uint8_t *pack_room(struct snap_pack *p)
{
    return p->pages + SNAP_CHUNK_BYTES;
}

const uint8_t *pack_frame(struct snap_pack *p, uint64_t nr, uint32_t *bytes)
{
    size_t n = ZSTD_compressCCtx(p->packer, pack_room(p), pack_frame_max(), p->pages,
                                 (size_t)(nr << PAGE_SHIFT), LEVEL);

    if (ZSTD_isError(n)) /* there is room for all that it may become */
        return NULL;
    *bytes = (uint32_t)n;
    return pack_room(p);
}

int pack_unpack(struct snap_pack *p, uint32_t bytes, uint64_t nr)
{
    size_t want = (size_t)(nr << PAGE_SHIFT);
    size_t n = ZSTD_decompressDCtx(p->unpacker, p->pages, want, pack_room(p), bytes);

    return !ZSTD_isError(n) && n == want ? 0 : -EILSEQ;
}
