// SPDX-License-Identifier: Apache-2.0
/* Memory: streams, string instructions, and dependent loads. */
#include <string.h>
#include <sys/mman.h>

#include "bench.h"

enum {
    STREAM_BYTES = 4 << 20, /* more than the caches next to a core */
    REP_BYTES = 64 << 10,
    COPY_WORDS = 1024,
    CHASE_PAGES = 4096, /* more than most TLBs hold, a host's or one in software */
    CHASE_NEAR = 256
};

/* One line in each page, each at another place in its page: many pages, few lines of the host's
 * caches. */
struct line {
    uint32_t next;
    uint8_t pad[4096 + 64 - 4];
};

/* What the works' prepare leaves for them; a process runs one work. */
static uint64_t *from, *to;
static struct line *far_lines;
static uint32_t near_next[CHASE_NEAR * 16];

static void prepare_streams(void)
{
    uint64_t x = RND_SEED;

    from = pages(STREAM_BYTES, PROT_READ | PROT_WRITE);
    to = pages(STREAM_BYTES, PROT_READ | PROT_WRITE);
    for (size_t i = 0; i < STREAM_BYTES / 8; i++)
        from[i] = rnd(&x);
}

/* Loads of eight bytes, one after the other, by eight in a loop. */
static uint64_t stream_read(void)
{
    const uint64_t *p = from, *end = from + STREAM_BYTES / 8;
    uint64_t sum = 0;

    __asm__ volatile("1:\n\t"
                     "add (%0), %1\n\t"
                     "add 8(%0), %1\n\t"
                     "add 16(%0), %1\n\t"
                     "add 24(%0), %1\n\t"
                     "xor 32(%0), %1\n\t"
                     "xor 40(%0), %1\n\t"
                     "xor 48(%0), %1\n\t"
                     "xor 56(%0), %1\n\t"
                     "add $64, %0\n\t"
                     "cmp %2, %0\n\t"
                     "jne 1b"
                     : "+r"(p), "+r"(sum)
                     : "r"(end)
                     : "cc", "memory");
    return sum;
}

/* A load, an operation and a store of eight bytes each. */
static uint64_t stream_write(void)
{
    for (size_t i = 0; i < STREAM_BYTES / 8; i++) {
        uint64_t v = from[i] * 3;

        __asm__ volatile("" : "+r"(v)); /* no vectors: those are in the group fp */
        to[i] = v + i;
    }
    return to[5] + to[STREAM_BYTES / 8 - 1];
}

/* 8 KB at a time with moves of eight bytes, in the first cache: loads, stores and their addresses.
 */
static uint64_t copy(void)
{
    for (uint64_t round = 0; round < 1000; round++) {
        uint64_t i = 0;

        from[round % COPY_WORDS] = round;
        __asm__ volatile("1:\n\t"
                         "mov (%1,%0,8), %%rax\n\t"
                         "mov 8(%1,%0,8), %%rdx\n\t"
                         "mov %%rax, (%2,%0,8)\n\t"
                         "mov %%rdx, 8(%2,%0,8)\n\t"
                         "add $2, %0\n\t"
                         "cmp %3, %0\n\t"
                         "jne 1b"
                         : "+r"(i)
                         : "r"(from), "r"(to), "r"((uint64_t)COPY_WORDS)
                         : "rax", "rdx", "cc", "memory");
    }
    return to[5] + to[COPY_WORDS - 1];
}

/* 64 KB each, the way the kernel copies and clears. */
static uint64_t rep_movs(void)
{
    for (uint64_t round = 0; round < 200; round++) {
        void *di = to;
        const void *si = from;
        uint64_t n = REP_BYTES;

        from[round] = round;
        __asm__ volatile("rep movsb" : "+D"(di), "+S"(si), "+c"(n) : : "memory");
    }
    return to[5] + to[REP_BYTES / 8 - 1];
}

static uint64_t rep_stos(void)
{
    for (uint64_t round = 0; round < 200; round++) {
        void *di = to;
        uint64_t n = REP_BYTES / 8;

        __asm__ volatile("rep stosq" : "+D"(di), "+c"(n) : "a"(round) : "memory");
    }
    return to[5] + to[REP_BYTES / 8 - 1];
}

/* 16 to 79 bytes: what most copies of real programs are. */
static uint64_t rep_short(void)
{
    uint64_t sum = 0;

    for (uint64_t round = 0; round < 8000; round++) {
        void *di = to + round % 64;
        const void *si = from + round % 512;
        uint64_t n = 16 + round % 64;

        __asm__ volatile("rep movsb" : "+D"(di), "+S"(si), "+c"(n) : : "memory");
        sum += to[round % 64];
    }
    return sum;
}

/* Sattolo's shuffle: one cycle through all of them. */
static void prepare_far(void)
{
    struct line *l = pages((uint64_t)CHASE_PAGES * sizeof(*l), PROT_READ | PROT_WRITE);
    uint64_t x = RND_SEED;

    for (uint32_t i = 0; i < CHASE_PAGES; i++)
        l[i].next = i;
    for (uint32_t i = CHASE_PAGES - 1; i > 0; i--) {
        uint32_t j = (uint32_t)(rnd(&x) % i), t = l[i].next;

        l[i].next = l[j].next;
        l[j].next = t;
    }
    far_lines = l;
}

/* Dependent loads in random order, each in another page. */
static uint64_t chase_far(void)
{
    uint64_t at = 0;

    for (int i = 0; i < 8 * CHASE_PAGES + 7; i++)
        at = far_lines[at].next;
    return at;
}

static void prepare_near(void)
{
    uint64_t x = RND_SEED;

    for (uint32_t i = 0; i < CHASE_NEAR; i++)
        near_next[16 * i] = i;
    for (uint32_t i = CHASE_NEAR - 1; i > 0; i--) {
        uint32_t j = (uint32_t)(rnd(&x) % i), t = near_next[16 * i];

        near_next[16 * i] = near_next[16 * j];
        near_next[16 * j] = t;
    }
}

/* The same in 16 KB: a load's latency. */
static uint64_t chase_near(void)
{
    uint64_t at = 0;

    for (int i = 0; i < 100000; i++)
        at = near_next[16 * at];
    return at;
}

const struct work mem_works[] = {
    { "stream-read", "mem", STREAM_BYTES / 8, stream_read, prepare_streams, NULL },
    { "stream-write", "mem", STREAM_BYTES / 8, stream_write, prepare_streams, NULL },
    { "copy", "mem", 1000 * COPY_WORDS, copy, prepare_streams, NULL },
    { "rep-movs", "mem", 200, rep_movs, prepare_streams, NULL },
    { "rep-stos", "mem", 200, rep_stos, prepare_streams, NULL },
    { "rep-short", "mem", 8000, rep_short, prepare_streams, NULL },
    { "chase-near", "mem", 100000, chase_near, prepare_near, NULL },
    { "chase-far", "mem", 8 * CHASE_PAGES + 7, chase_far, prepare_far, NULL },
    { 0 },
};
