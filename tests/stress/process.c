// SPDX-License-Identifier: Apache-2.0
/* Many processes: trees of them that write to what they inherited, and crowds alive at a time. */
#include "stress.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, OWN_PAGES = 8, CHILDREN = 3 };

/* Of all processes together. */
static uint64_t *shared_sum(void)
{
    void *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    MUST(p != MAP_FAILED);
    return p;
}

static void add(uint64_t *sum, uint64_t x)
{
    __atomic_fetch_add(sum, x, __ATOMIC_RELAXED);
}

/* Pages are the parent's at first, and have its number in them. */
static void tree(uint64_t *sum, volatile uint64_t *pages, uint64_t id, unsigned depth)
{
    for (unsigned i = 0; i < OWN_PAGES; i++) {
        MUST(pages[i * 512 + i] == mix(id / CHILDREN, i));
        pages[i * 512 + i] = mix(id, i);
        add(sum, pages[i * 512 + i]);
    }
    for (unsigned c = 0; depth && c < CHILDREN; c++) {
        pid_t pid = fork();

        MUST(pid >= 0);
        if (!pid) {
            tree(sum, pages, id * CHILDREN + c, depth - 1);
            _exit((int)(id % 100));
        }
    }
    for (unsigned c = 0; depth && c < CHILDREN; c++) {
        int status;

        MUST(wait(&status) > 0 && WIFEXITED(status) && WEXITSTATUS(status) == (int)(id % 100));
    }
    for (unsigned i = 0; i < OWN_PAGES; i++)
        MUST(pages[i * 512 + i] == mix(id, i));
}

/* 364 processes each time. */
static uint64_t forks(struct rng *r, unsigned size)
{
    uint64_t *sum = shared_sum();
    uint64_t *pages = mmap(NULL, OWN_PAGES * PAGE, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    MUST(pages != MAP_FAILED);
    for (unsigned n = 0; n < size; n++) {
        uint64_t id = rnd(r) % 1000 + 1;

        for (unsigned i = 0; i < OWN_PAGES; i++)
            pages[i * 512 + i] = mix(id / CHILDREN, i);
        tree(sum, pages, id, 5);
    }
    return *sum;
}

/* A token through all of them, several times: each adds to it what only its own memory tells. */
static uint64_t crowd(struct rng *r, unsigned size)
{
    uint64_t token = rnd(r), own = rnd(r);
    int in, out, first[2], next[2];

    MUST(!pipe(first));
    in = first[0];
    for (unsigned n = 0; n < size; n++) {
        MUST(!pipe(next));
        if (!fork()) {
            uint64_t t, *mine = malloc(3 * PAGE);

            close(first[1]);
            close(next[0]);
            memset(mine, (int)n, 3 * PAGE);
            mine[512] = mix(own, n);
            while (read(in, &t, sizeof(t)) == sizeof(t)) {
                t = mix(t, mine[512]++);
                MUST(write(next[1], &t, sizeof(t)) == sizeof(t));
            }
            _exit(0);
        }
        close(in);
        close(next[1]);
        in = next[0];
    }
    out = first[1];
    for (unsigned turn = 0; turn < 3; turn++) {
        MUST(write(out, &token, sizeof(token)) == sizeof(token));
        MUST(read(in, &token, sizeof(token)) == sizeof(token));
    }
    close(out);
    for (unsigned n = 0; n < size; n++) {
        int status;

        MUST(wait(&status) > 0 && !status);
    }
    return token;
}

/* New programs in quick succession: the same page-table roots, other code. */
static uint64_t execs(struct rng *r, unsigned size)
{
    uint64_t hash = rnd(r);

    for (unsigned n = 0; n < size; n++) {
        char seed[24], count[24], line[100] = "";
        int fds[2], status;
        ssize_t len;

        (void)snprintf(seed, sizeof(seed), "%lu", rnd(r) % 100000);
        (void)snprintf(count, sizeof(count), "%lu", rnd(r) % 20);
        MUST(!pipe(fds));
        if (!fork()) {
            (void)dup2(fds[1], 1);
            (void)execl("/proc/self/exe", "stress", n % 2 ? "generate" : "maps", seed, count, NULL);
            _exit(98);
        }
        close(fds[1]);
        len = read(fds[0], line, sizeof(line) - 1);
        MUST(len > 0 && wait(&status) > 0 && !status);
        close(fds[0]);
        for (ssize_t i = 0; i < len; i++)
            hash = mix(hash, (unsigned char)line[i]);
    }
    return hash;
}

const struct work process_works[] = {
    { "forks", forks },
    { "crowd", crowd },
    { "execs", execs },
    { NULL, NULL },
};
