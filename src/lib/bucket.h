/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A token bucket: so much may be used at once after a rest, and what was used comes back at a
 * constant rate. Needs a clock's time from its caller, and the caller's lock.
 */
#ifndef LIB_BUCKET_H
#define LIB_BUCKET_H

#include "lib/types.h"

/* size or refill_ns 0: no limit. */
struct bucket_config {
    uint64_t size;      /* tokens that a full one has */
    uint64_t burst;     /* tokens more, once: they do not come back */
    uint64_t refill_ns; /* from empty to full */
};

struct bucket {
    struct bucket_config cfg;
    uint64_t burst; /* what is left of it */
    uint64_t debt;  /* tokens that are missing from a full one; more than its size, if somebody took
                       more than there were */
    uint64_t at_ns; /* debt is as of then */
};

static inline void bucket_init(struct bucket *b, const struct bucket_config *cfg, uint64_t now_ns)
{
    *b = (struct bucket){ .cfg = *cfg, .burst = cfg->burst, .at_ns = now_ns };
}

static inline bool bucket_limits(const struct bucket *b)
{
    return b->cfg.size && b->cfg.refill_ns;
}

static inline void bucket_refill(struct bucket *b, uint64_t now_ns)
{
    const struct bucket_config *c = &b->cfg;
    uint64_t rest_ns = now_ns > b->at_ns ? now_ns - b->at_ns : 0;
    unsigned __int128 came = (unsigned __int128)rest_ns * c->size / c->refill_ns;

    if (came >= b->debt) {
        b->debt = 0;
        b->at_ns = now_ns;
        return;
    }
    b->debt -= (uint64_t)came;
    /* Up to the last whole token, so that the rest of the time is not lost. */
    b->at_ns += (uint64_t)(came * c->refill_ns / c->size);
}

/*
 * 0: nr tokens (at most 2^62) were taken; else nothing was, and it is of no use to ask before that
 * time. More than the bucket holds are given when it is full, and paid for afterwards.
 */
static inline uint64_t bucket_take(struct bucket *b, uint64_t now_ns, uint64_t nr)
{
    const struct bucket_config *c = &b->cfg;
    uint64_t need;

    if (!bucket_limits(b))
        return 0;
    bucket_refill(b, now_ns);
    need = nr > b->burst ? nr - b->burst : 0;
    if (b->debt && b->debt + need > c->size) {
        /* It has to come down to this. */
        uint64_t debt = need < c->size ? c->size - need : 0;
        unsigned __int128 ns =
            ((unsigned __int128)(b->debt - debt) * c->refill_ns + c->size - 1) / c->size;

        return ns > UINT64_MAX - b->at_ns ? UINT64_MAX : b->at_ns + (uint64_t)ns;
    }
    b->burst -= nr - need;
    b->debt += need;
    return 0;
}

#endif
