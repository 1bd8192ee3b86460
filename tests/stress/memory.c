// SPDX-License-Identifier: Apache-2.0
/*
 * Address spaces that change all the time: pages mapped, unmapped and protected at random while
 * signals come, against a model of what each access has to give; page tables that come and go; more
 * memory than there is.
 */
#include "stress.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

enum { PAGE = 4096, ARENA = 96 };

/* One page as it should be. */
struct model {
    bool mapped;
    int prot;
    uint8_t val; /* of all bytes that were written */
};

static uint8_t *arena;
static volatile uint64_t fault_at, nr_alarms, alarm_sum;
static volatile int fault_code;

/* Accesses that a handler can step over. */
uint64_t try_load(const uint8_t *at);
void try_store(uint8_t *at, uint64_t val);
extern const char load_insn[], load_end[], store_insn[], store_end[];
__asm__(".globl try_load, try_store, load_insn, load_end, store_insn, store_end\n"
        "try_load: xor %eax, %eax\n"
        "load_insn: movzbl (%rdi), %eax\n"
        "load_end: ret\n"
        "try_store:\n"
        "store_insn: mov %sil, (%rdi)\n"
        "store_end: ret\n");

static void on_segv(int sig, siginfo_t *info, void *uctx)
{
    greg_t *g = ((ucontext_t *)uctx)->uc_mcontext.gregs;

    (void)sig;
    fault_at = (uint64_t)info->si_addr;
    fault_code = info->si_code;
    if (g[REG_RIP] == (greg_t)load_insn)
        g[REG_RIP] = (greg_t)load_end;
    else if (g[REG_RIP] == (greg_t)store_insn)
        g[REG_RIP] = (greg_t)store_end;
    else
        _exit(97);
}

/* With memory of its own to work on, in both halves of the vector registers. */
static void on_alarm(int sig)
{
    uint8_t buf[256];

    (void)sig;
    memset(buf, (int)nr_alarms, sizeof(buf));
    for (unsigned i = 0; i < sizeof(buf); i++)
        alarm_sum += buf[i] == (uint8_t)nr_alarms;
    nr_alarms++;
}

static void handle(int sig, void (*simple)(int), void (*full)(int, siginfo_t *, void *))
{
    struct sigaction sa = { .sa_flags = SA_RESTART };

    if (full) {
        sa.sa_sigaction = full;
        sa.sa_flags |= SA_SIGINFO | SA_NODEFER;
    } else {
        sa.sa_handler = simple;
    }
    MUST(!sigaction(sig, &sa, NULL));
}

static int random_prot(struct rng *r)
{
    static const int prots[] = { PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE,
                                 PROT_READ | PROT_WRITE };

    return prots[rnd(r) % 4];
}

static void change(struct rng *r, struct model *m)
{
    unsigned from = (unsigned)(rnd(r) % ARENA), nr = (unsigned)(rnd(r) % 6) + 1;
    unsigned what = (unsigned)(rnd(r) % 4);
    int prot = random_prot(r);
    uint8_t *at = arena + from * PAGE;

    nr = nr > ARENA - from ? ARENA - from : nr;
    if (what == 0) {
        MUST(!munmap(at, nr * PAGE));
    } else if (what == 1) {
        MUST(mmap(at, nr * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at);
    } else {
        for (unsigned i = from; i < from + nr; i++)
            if (!m[i].mapped)
                return;
        MUST(what == 3 ? !madvise(at, nr * PAGE, MADV_DONTNEED) : !mprotect(at, nr * PAGE, prot));
    }
    for (unsigned i = from; i < from + nr; i++) {
        m[i].mapped = what != 0;
        m[i].prot = what == 3 ? m[i].prot : prot;
        m[i].val = what == 2 ? m[i].val : 0;
    }
}

static uint64_t access_page(struct rng *r, struct model *m, unsigned page)
{
    /* The same byte of the page always, or the model would need them all. */
    uint8_t *at = arena + page * PAGE + page * 37;
    bool write = rnd(r) % 2;
    int need = write ? PROT_WRITE : PROT_READ;
    uint8_t val = (uint8_t)rnd(r);

    fault_at = 0;
    fault_code = 0;
    if (write)
        try_store(at, val);
    else
        val = (uint8_t)try_load(at);
    if (!m->mapped || !(m->prot & need)) {
        MUST(fault_at == (uint64_t)at);
        MUST(fault_code == (m->mapped ? SEGV_ACCERR : SEGV_MAPERR));
        return (uint64_t)fault_code;
    }
    MUST(!fault_at);
    if (write)
        m->val = val;
    MUST(val == m->val);
    return val;
}

/* In a process of its own: sees the same, and what it does is not seen here. */
static void look_from_child(struct rng r, struct model *m)
{
    pid_t pid = fork();
    int status;

    MUST(pid >= 0);
    if (!pid) {
        for (unsigned i = 0; i < 4 * ARENA; i++)
            (void)access_page(&r, &m[i % ARENA], i % ARENA);
        _exit(0);
    }
    while (waitpid(pid, &status, 0) < 0)
        ;
    MUST(!status);
}

static uint64_t maps(struct rng *r, unsigned size)
{
    static struct model m[ARENA];
    uint64_t hash = 0;

    arena = mmap(NULL, ARENA * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(arena != MAP_FAILED);
    for (unsigned i = 0; i < ARENA; i++)
        m[i] = (struct model){ .mapped = true };
    handle(SIGSEGV, NULL, on_segv);
    handle(SIGALRM, on_alarm, NULL);
    alarm_every_us(700);
    for (unsigned n = 0; n < size * 100; n++) {
        if (n % 4 == 0)
            change(r, m);
        for (unsigned i = 0; i < 4; i++) {
            unsigned page = (unsigned)(rnd(r) % ARENA);

            hash = mix(hash, access_page(r, &m[page], page));
        }
        if (n % 1000 == 999)
            look_from_child(*r, m);
    }
    alarm_every_us(0);
    MUST(alarm_sum == nr_alarms * 256);
    return hash;
}

/* ---- one thread protects what the other reads ---- */

static volatile uint64_t *seen_by_reader;
static volatile bool race_over;

static void on_race_segv(int sig, siginfo_t *info, void *uctx)
{
    (void)sig, (void)info, (void)uctx;
    /* Tried again until it may. */
}

static void *reader(void *arg)
{
    uint64_t last = 0, now;

    (void)arg;
    while (!race_over) {
        now = *seen_by_reader;
        MUST(now >= last);
        last = now;
    }
    return (void *)(uintptr_t)last;
}

static uint64_t race(struct rng *r, unsigned size)
{
    int fd = memfd_create("race", 0);
    volatile uint64_t *w;
    uint8_t *v;
    pthread_t t;
    void *last;

    MUST(fd >= 0 && !ftruncate(fd, PAGE));
    w = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    v = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
    MUST(w != MAP_FAILED && v != MAP_FAILED);
    seen_by_reader = (volatile uint64_t *)v;
    handle(SIGSEGV, NULL, on_race_segv);
    MUST(!pthread_create(&t, NULL, reader, NULL));
    for (unsigned n = 1; n <= size * 100; n++) {
        *w = n;
        switch (rnd(r) % 4) {
        case 0:
            MUST(!mprotect(v, PAGE, PROT_NONE));
            MUST(!mprotect(v, PAGE, PROT_READ));
            break;
        case 1:
            MUST(mmap(v, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == v);
            break;
        case 2:
            MUST(!madvise(v, PAGE, MADV_DONTNEED));
            break;
        default:
            break;
        }
    }
    race_over = true;
    MUST(!pthread_join(t, &last));
    MUST((uintptr_t)last <= size * 100);
    return size;
}

/* ---- page tables that come and go ---- */

static uint64_t sparse(struct rng *r, unsigned size)
{
    const uint64_t stride = 2 << 20;
    uint64_t hash = 0, seed = rnd(r);
    uint8_t *base = mmap(NULL, size * stride, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    MUST(base != MAP_FAILED);
    MUST(!madvise(base, size * stride, MADV_NOHUGEPAGE));
    for (unsigned turn = 0; turn < 4; turn++) {
        for (unsigned i = 0; i < size; i++)
            *(uint64_t *)(base + i * stride) = mix(seed, i + turn);
        for (unsigned i = 0; i < size; i += 2)
            MUST(!madvise(base + i * stride, PAGE, MADV_DONTNEED));
        if (turn % 2) { /* the tables go, too */
            MUST(!munmap(base, size / 2 * stride));
            MUST(mmap(base, size / 2 * stride, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == base);
        }
        for (unsigned i = 0; i < size; i++) {
            uint64_t is = *(uint64_t *)(base + i * stride);

            MUST(is == (i % 2 == 0 || (turn % 2 && i < size / 2) ? 0 : mix(seed, i + turn)));
            hash = mix(hash, is);
        }
    }
    return hash;
}

/* So many megabytes in four processes, gone through at random: with less memory, by way of swap. */
static uint64_t pressure(struct rng *r, unsigned size)
{
    uint64_t nr = size * 256ull / 4, seed = rnd(r);
    struct rng each[4];

    for (unsigned p = 0; p < 4; p++) {
        each[p] = rng_of(rnd(r));
        if (fork())
            continue;
        volatile uint64_t *mem = mmap(NULL, nr * PAGE, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        MUST(mem != MAP_FAILED);
        for (uint64_t i = 0; i < nr; i++)
            mem[i * 512 + i % 512] = mix(seed + p, i);
        for (uint64_t n = 0; n < 2 * nr; n++) {
            uint64_t i = rnd(&each[p]) % nr;

            MUST(mem[i * 512 + i % 512] == mix(seed + p, i));
            if (n % 3 == 0)
                mem[i * 512 + (i + 1) % 512] = n;
        }
        _exit(0);
    }
    for (unsigned p = 0; p < 4; p++) {
        int status;

        MUST(wait(&status) > 0 && !status);
    }
    return seed;
}

const struct work memory_works[] = {
    { "maps", maps }, { "race", race }, { "sparse", sparse }, { "pressure", pressure }, { NULL, NULL },
};
