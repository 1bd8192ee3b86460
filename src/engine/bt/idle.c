/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an idle vCPU gives back. A VM that has booted keeps some 60 MB of translations and tables
 * that it may not need for days, and many such VMs share a host. So when a vCPU has slept nearly
 * all the time for a while, they go; what an idle guest still does is translated again in
 * milliseconds, and all else when it is wanted.
 */
#include "engine/bt/bt.h"

#include <stdlib.h>

/* Less than such a part of the time is idle: an idle Debian guest takes 0.8 %. */
#define BUSY_PART 32
/* Fewer translations are an idle guest's own. */
#define WORTH     MIB(6)

static uint64_t in_use(const struct bt_vcpu *b)
{
    return (uint64_t)(b->cache->code.p - b->cache->start) + b->cache->books_used;
}

/* An idle guest needs a part of them, which it fills again at once. */
static void give_tables_back(struct bt_vcpu *b)
{
    tlb_release(&b->iv);
    host_zero(b->jc, sizeof(b->jc));
    bt_jc_init(b);
}

static void give_translations_back(struct bt_vcpu *b)
{
    struct bt_cache *bc = b->cache;
    uint64_t code = (uint64_t)(bc->code.p - bc->start), books = bc->books_used;

    if (b->direct)
        direct_reset(b->direct);
    bt_kview_reset(b);
    bt_flush_cache(b); /* first: all at once */
    code_drop_all(&b->iv);
    block_bury(&b->iv);
    host_code_zero(&bc->hc, (uint64_t)(bc->start - bc->hc.rw), code);
    host_zero(bc->books, books);
    free(bc->by_pc);
    bc->by_pc = NULL;
    bc->max_by_pc = 0;
    host_heap_trim();
}

void bt_idle_halted(struct bt_vcpu *b, uint64_t now)
{
    struct bt_idle *i = &b->idle;
    uint64_t window = now - i->since, least = 1000000ull * b->cfg->idle_s * b->ticks_per_us;

    if (!least)
        return;
    i->busy += now - i->entered;
    if (!i->since || window >= least) {
        if (i->since && i->busy < window / BUSY_PART) {
            if (in_use(b) > WORTH)
                give_translations_back(b);
            give_tables_back(b);
        }
        i->since = now;
        i->busy = 0;
    }
}
