// SPDX-License-Identifier: Apache-2.0
/*
 * Threads of one process: locks and futexes, atomic counters, mappings that come and go while
 * others read, and code that one thread writes and all run.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "stress.h"

#define THREADS 6
#define PAGE    4096

struct shared {
    pthread_mutex_t lock;
    pthread_barrier_t meet;
    uint64_t plain; /* under lock */
    _Atomic uint64_t added, swapped;
    unsigned __int128 wide __attribute__((aligned(16)));
    uint8_t *code; /* MOV EAX, imm32; RET, written in turns */
    uint8_t *volatile page;
    unsigned size;
};

struct thread {
    struct shared *s;
    unsigned idx;
    struct rng rng;
    uint64_t hash;
    pthread_t t;
};

static void add_wide(unsigned __int128 *p)
{
    uint64_t lo = (uint64_t)*p, hi = (uint64_t)(*p >> 64);
    bool done;

    do {
        __asm__ volatile("lock cmpxchg16b %1"
                         : "=@ccz"(done), "+m"(*p), "+a"(lo), "+d"(hi)
                         : "b"(lo + 1), "c"(hi + 3)
                         : "memory");
    } while (!done);
}

static void count(struct thread *t)
{
    struct shared *s = t->s;

    for (unsigned i = 0; i < s->size * 10; i++) {
        uint64_t old = atomic_load(&s->swapped);

        MUST(!pthread_mutex_lock(&s->lock));
        s->plain = s->plain + 1;
        MUST(!pthread_mutex_unlock(&s->lock));
        atomic_fetch_add(&s->added, t->idx + 1);
        while (!atomic_compare_exchange_weak(&s->swapped, &old, old + 7))
            ;
        add_wide(&s->wide);
    }
}

static uint32_t call(const struct shared *s)
{
    uint32_t (*fn)(void);

    memcpy(&fn, &s->code, sizeof(fn));
    return fn();
}

/* The barrier's futex calls, or its atomic operations at least, order the store of the code. */
static void generate(struct thread *t)
{
    struct shared *s = t->s;

    for (unsigned i = 1; i <= s->size; i++) {
        if (i % THREADS == t->idx) {
            const uint8_t insn[] = {
                0xb8, (uint8_t)i, (uint8_t)(i >> 8), (uint8_t)(i >> 16), (uint8_t)(i >> 24), 0xc3
            };

            memcpy(s->code, insn, sizeof(insn));
        }
        (void)pthread_barrier_wait(&s->meet);
        __asm__ volatile("cpuid" : : "a"(0), "c"(0) : "rbx", "rdx", "memory");
        MUST(call(s) == i);
        t->hash = mix(t->hash, call(s));
        (void)pthread_barrier_wait(&s->meet);
    }
}

/* In turns one maps a page elsewhere, with new contents, and unmaps the old one. */
static void move(struct thread *t)
{
    struct shared *s = t->s;

    for (unsigned i = 1; i <= s->size; i++) {
        if (i % THREADS == t->idx) {
            uint8_t *p =
                mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            uint8_t *old = s->page;

            MUST(p != MAP_FAILED);
            memset(p, (int)i, PAGE);
            s->page = p;
            if (old)
                MUST(!munmap(old, PAGE));
        }
        (void)pthread_barrier_wait(&s->meet);
        for (unsigned n = 0; n < 8; n++)
            MUST(s->page[rnd(&t->rng) % PAGE] == (uint8_t)i);
        (void)pthread_barrier_wait(&s->meet);
    }
}

static void *body(void *arg)
{
    struct thread *t = arg;

    count(t);
    generate(t);
    move(t);
    return NULL;
}

static uint64_t threads(struct rng *r, unsigned size)
{
    static struct shared s = { .lock = PTHREAD_MUTEX_INITIALIZER };
    struct thread t[THREADS];
    uint64_t hash = 0, total = (uint64_t)THREADS * size * 10;

    s.size = size;
    s.code =
        mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(s.code != MAP_FAILED);
    MUST(!pthread_barrier_init(&s.meet, NULL, THREADS));
    for (unsigned i = 0; i < THREADS; i++) {
        t[i] = (struct thread){ .s = &s, .idx = i, .rng = rng_of(rnd(r)) };
        MUST(!pthread_create(&t[i].t, NULL, body, &t[i]));
    }
    for (unsigned i = 0; i < THREADS; i++) {
        MUST(!pthread_join(t[i].t, NULL));
        hash = mix(hash, t[i].hash);
    }
    MUST(s.plain == total && s.swapped == 7 * total);
    MUST(s.added == total / THREADS * (THREADS * (THREADS + 1) / 2));
    MUST((uint64_t)s.wide == total && (uint64_t)(s.wide >> 64) == 3 * total);
    return hash;
}

const struct work thread_works[] = { { "threads", threads }, { NULL, NULL } };
