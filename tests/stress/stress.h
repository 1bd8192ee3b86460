/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Works that are hard on what a virtual machine monitor keeps about its guest: address spaces,
 * translated code, signals. Each gives a number that depends on the seed and the size alone, never
 * on time, so that the guest's can be compared with the host's.
 */
#ifndef TESTS_STRESS_STRESS_H
#define TESTS_STRESS_STRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

struct rng {
    uint64_t state;
};

static inline uint64_t rnd(struct rng *r)
{
    r->state ^= r->state << 13;
    r->state ^= r->state >> 7;
    r->state ^= r->state << 17;
    return r->state * 0x2545f4914f6cdd1dull;
}

static inline struct rng rng_of(uint64_t seed)
{
    struct rng r = { seed * 0x9e3779b97f4a7c15ull | 1 };

    for (unsigned i = 0; i < 8; i++)
        (void)rnd(&r);
    return r;
}

static inline uint64_t mix(uint64_t hash, uint64_t x)
{
    hash = (hash ^ x) * 0xff51afd7ed558ccdull;
    return hash ^ hash >> 32;
}

/* What must not be: says so and ends the process. */
#define MUST(cond)                                                                              \
    do {                                                                                        \
        if (!(cond)) {                                                                          \
            (void)fprintf(stderr, "stress: %s:%d: not so: %s (errno %m)\n", __FILE__, __LINE__, \
                          #cond);                                                               \
            _Exit(99);                                                                          \
        }                                                                                       \
    } while (0)

/* So many signals a second from now on; 0: none. The handler is the caller's. */
void alarm_every_us(unsigned us);

struct work {
    const char *name;
    uint64_t (*run)(struct rng *r, unsigned size);
};
/* Each list ends with a NULL name. */
extern const struct work process_works[], memory_works[], code_works[], signal_works[],
    thread_works[];

#endif
