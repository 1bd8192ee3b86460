/* SPDX-License-Identifier: Apache-2.0 */
/* Random numbers that are the same for the same seed. */
#include "insn.h"

/* Every case has its own sequence, so that it can be repeated alone. */
void rng_seed(struct rng *r, uint64_t seed, uint64_t idx)
{
    r->state = (seed * 0x9e3779b97f4a7c15ull + idx) * 0xbf58476d1ce4e5b9ull | 1;
    for (unsigned i = 0; i < 4; i++)
        (void)rnd(r);
}

/* xorshift64* */
uint64_t rnd(struct rng *r)
{
    r->state ^= r->state >> 12;
    r->state ^= r->state << 25;
    r->state ^= r->state >> 27;
    return r->state * 0x2545f4914f6cdd1dull;
}

unsigned pick(struct rng *r, unsigned n)
{
    return (unsigned)(rnd(r) >> 32) % n;
}
