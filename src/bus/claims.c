/* SPDX-License-Identifier: Apache-2.0 */
/* Sorted ranges with an owner: what ports.c and mmio.c have in common. */
#include "bus/priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Index of the first claim that ends at or above `at`. */
static unsigned claims_lower_bound(const struct claims *cs, uint64_t at)
{
    unsigned lo = 0, hi = cs->nr;

    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;

        if (cs->v[mid].last < at)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

const struct claim *claims_find(const struct claims *cs, uint64_t at)
{
    unsigned idx = claims_lower_bound(cs, at);

    return idx < cs->nr && cs->v[idx].first <= at ? &cs->v[idx] : NULL;
}

const struct claim *claims_overlap(const struct claims *cs, uint64_t first, uint64_t last)
{
    unsigned idx = claims_lower_bound(cs, first);

    return idx < cs->nr && cs->v[idx].first <= last ? &cs->v[idx] : NULL;
}

static int claims_grow(struct claims *cs)
{
    unsigned room = cs->room ? cs->room * 2 : 32;
    struct claim *v;

    if (cs->nr < cs->room)
        return 0;
    v = realloc(cs->v, room * sizeof(*v));
    if (!v)
        return -ENOMEM;
    cs->v = v;
    cs->room = room;
    return 0;
}

int claims_add(struct claims *cs, const struct claim *c)
{
    const struct claim *other = claims_overlap(cs, c->first, c->last);
    unsigned idx = claims_lower_bound(cs, c->first);
    int err;

    BUG_ON(c->last < c->first || c->reach < c->last);
    if (other) {
        log_error("%s: %s %#llx-%#llx is taken by %s (%#llx-%#llx)", c->dev->type->name, cs->what,
                  (unsigned long long)c->first, (unsigned long long)c->last, other->dev->type->name,
                  (unsigned long long)other->first, (unsigned long long)other->last);
        return -EBUSY;
    }
    err = claims_grow(cs);
    if (err)
        return err;
    memmove(&cs->v[idx + 1], &cs->v[idx], (cs->nr - idx) * sizeof(*cs->v));
    cs->v[idx] = *c;
    cs->nr++;
    return 0;
}

void claims_remove(struct claims *cs, uint64_t first, const struct device *dev)
{
    unsigned idx = claims_lower_bound(cs, first);

    if (idx >= cs->nr || cs->v[idx].first != first || cs->v[idx].dev != dev)
        return;
    cs->nr--;
    memmove(&cs->v[idx], &cs->v[idx + 1], (cs->nr - idx) * sizeof(*cs->v));
}

void claims_fini(struct claims *cs)
{
    free(cs->v);
    *cs = (struct claims){ 0 };
}

unsigned claims_piece(const struct claim *c, uint64_t at, unsigned bytes, unsigned max_bytes)
{
    unsigned piece = 1;

    if (!c)
        return 1;
    /* Double while the bigger piece is aligned, wanted, allowed, and ends where it may. */
    while (piece * 2 <= max_bytes && piece * 2 <= bytes && !(at & (piece * 2 - 1)) &&
           c->reach - at >= piece * 2 - 1)
        piece *= 2;
    return piece;
}
