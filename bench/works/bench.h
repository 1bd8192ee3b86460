/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a work of the benchmark is, for bench/works/main.c which times them all.
 *
 * A work does a fixed amount, its block, again and again; natively a block takes some tenths of a
 * millisecond. Each block starts from the same state and so returns the same checksum, in every
 * round and on every machine.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdint.h>

#define NOINLINE      __attribute__((noinline))
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

struct work {
    const char *name;
    const char *group;
    uint64_t ops;            /* operations in a block: the time of one is what is reported */
    uint64_t (*block)(void); /* returns the checksum; exits where the work cannot be done */
    void (*prepare)(void);   /* optional, not timed */
    int (*supported)(void);  /* optional: 0 if this CPU lacks the instructions */
};

/* Each file's works, ended by one without a name. */
extern const struct work int_works[], ia32_works[], fp_works[], mem_works[], code_works[],
    kernel_works[], everyday_works[];

/* The same sequence everywhere: xorshift64. */
#define RND_SEED 88172645463325252u

static inline uint64_t rnd(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

/* Small pages, present, of the given protection. Exits if there are none. */
void *pages(uint64_t bytes, int prot);

/* Prints why, and ends this work. */
_Noreturn void fail(const char *what);

#endif
