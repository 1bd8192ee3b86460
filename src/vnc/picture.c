/* SPDX-License-Identifier: Apache-2.0 */
/* Pictures: what their pixels are, and which parts of one have changed. */
#include <rfb/rfb.h>
#include <string.h>

#include "vnc/priv.h"

#define TILE 32u /* pixels */

static bool tile_differs(const uint32_t *was, const uint32_t *is, unsigned stride, unsigned width,
                         unsigned height)
{
    for (unsigned y = 0; y < height; y++, was += stride, is += stride)
        if (memcmp(was, is, (size_t)width * sizeof(*is)) != 0)
            return true;
    return false;
}

void vnc_damage(const uint32_t *was, const uint32_t *is, unsigned width, unsigned height,
                void (*changed)(void *ctx, unsigned x, unsigned y, unsigned w, unsigned h),
                void *ctx)
{
    for (unsigned y = 0; y < height; y += TILE)
        for (unsigned x = 0; x < width; x += TILE) {
            size_t at = (size_t)y * width + x;
            unsigned w = MIN(TILE, width - x), h = MIN(TILE, height - y);

            if (tile_differs(was + at, is + at, width, w, h))
                changed(ctx, x, y, w, h);
        }
}

void vnc_set_pixel_format(struct _rfbScreenInfo *rfb)
{
    rfb->serverFormat.redShift = 16;
    rfb->serverFormat.greenShift = 8;
    rfb->serverFormat.blueShift = 0;
}
