// SPDX-License-Identifier: Apache-2.0
/*
 * Runs works for bench/run: the same static program on the host and in each guest.
 *
 *   work list                             "GROUP NAME" of each
 *   work [-p] [-s SECONDS] [-n SAMPLES] [-b SECONDS] [-l SECONDS] NAME[,NAME]...
 *
 * -p: stays on one CPU.
 * -s: about so long per sample; short ones, so that some are not disturbed on a busy host.
 * -n: that many samples, but
 * -b: fewer if they take longer than this (three, unless that is four times as long).
 * -l: nobody waits longer for one work.
 *
 * Prints for each work "bench: begin NAME", then one of
 *
 *   bench: done NAME CHECKSUM SECONDS FIRST SAMPLE...
 *   bench: unsupported NAME
 *   bench: failed NAME WHY
 *
 * SECONDS are all since "begin". FIRST and the samples are nanoseconds for one operation: in the
 * first block, when everything is cold, and then.
 *
 * Each work is a process of its own, so that one that fails does not take the others with it.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

enum { SAMPLES_MAX = 500, SAMPLES_MIN = 3 };

struct options {
    double sample_s;
    int samples;
    double budget_s;
    double limit_s;
    int pin;
};

static const struct work *const all_works[] = { int_works,  ia32_works,   fp_works,      mem_works,
                                                code_works, kernel_works, everyday_works };

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void fail(const char *what)
{
    printf("bench: %s: %s\n", what, strerror(errno));
    (void)fflush(stdout);
    _exit(1);
}

void *pages(uint64_t bytes, int prot)
{
    uint8_t *p = mmap(NULL, bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        fail("mmap");
    /* What the size of pages would be is the kernel's mood; without huge ones it is the same
     * everywhere. */
    (void)madvise(p, bytes, MADV_NOHUGEPAGE);
    for (uint64_t i = 0; i < bytes && (prot & PROT_WRITE); i += 4096)
        p[i] = 0;
    return p;
}

static const struct work *find(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(all_works); i++)
        for (const struct work *w = all_works[i]; w->name; w++)
            if (!strcmp(w->name, name))
                return w;
    return NULL;
}

/* Seconds for that many blocks. */
static double time_blocks(const struct work *w, uint64_t blocks, uint64_t sum)
{
    uint64_t differ = 0;
    double start = now();

    for (uint64_t i = 0; i < blocks; i++)
        differ += w->block() != sum;
    if (differ) {
        printf("bench: failed %s %llu of %llu blocks with another checksum than the first\n",
               w->name, (unsigned long long)differ, (unsigned long long)blocks);
        (void)fflush(stdout);
        _exit(0);
    }
    return now() - start;
}

static void measure(const struct work *w, const struct options *o)
{
    double samples[SAMPLES_MAX], begin, start, first, t, ns;
    uint64_t sum, blocks = 1;
    int n = 0;

    begin = now();
    if (w->prepare)
        w->prepare();
    start = now();
    sum = w->block();
    first = t = now() - start;
    /* On a machine that is that slow the first one is the sample. */
    if (first > o->limit_s / 8) {
        samples[n++] = first;
    } else {
        while (t < o->sample_s / 4) {
            /* A clock may be coarse: at least twice, at most eight times as much. */
            double more = t > 0 ? o->sample_s / 3 / t : 8;

            blocks = (uint64_t)((double)blocks * (more < 2 ? 2 : more > 8 ? 8 : more));
            t = time_blocks(w, blocks, sum);
        }
        blocks = (uint64_t)((double)blocks * o->sample_s / t);
        blocks += !blocks;
    }
    while (n < o->samples && (n == 0 || now() - start < o->budget_s * (n < SAMPLES_MIN ? 4 : 1)))
        samples[n++] = time_blocks(w, blocks, sum) / (double)blocks;
    ns = 1e9 / (double)w->ops;
    printf("bench: done %s %016llx %.3f %.3f", w->name, (unsigned long long)sum, now() - begin,
           first * ns);
    for (int i = 0; i < n; i++)
        printf(" %.4f", samples[i] * ns);
    printf("\n");
}

/* Runs it in a child; false if the child did not end well and has not said why. */
static void run_one(const char *name, const struct options *o)
{
    const struct work *w = find(name);
    int status = 0;
    pid_t pid;

    if (!w) {
        printf("bench: failed %s no such work\n", name);
        return;
    }
    if (w->supported && !w->supported()) {
        printf("bench: unsupported %s\n", name);
        return;
    }
    printf("bench: begin %s\n", name);
    (void)fflush(stdout);
    pid = fork();
    if (pid < 0)
        fail("fork");
    if (pid == 0) {
        (void)setpgid(0, 0);
        (void)alarm((unsigned)o->limit_s + 1);
        measure(w, o);
        (void)fflush(stdout);
        _exit(0);
    }
    if (waitpid(pid, &status, 0) < 0)
        fail("waitpid");
    (void)kill(-pid, SIGKILL);
    if (WIFSIGNALED(status))
        printf("bench: failed %s %s\n", name, strsignal(WTERMSIG(status)));
    else if (WEXITSTATUS(status))
        printf("bench: failed %s status %d\n", name, WEXITSTATUS(status));
    (void)fflush(stdout);
}

static void list(void)
{
    for (size_t i = 0; i < ARRAY_SIZE(all_works); i++)
        for (const struct work *w = all_works[i]; w->name; w++)
            printf("%s %s\n", w->group, w->name);
}

/* The last one: the first is where most machines take their interrupts. */
static void pin(void)
{
    cpu_set_t set, one;

    if (sched_getaffinity(0, sizeof(set), &set) < 0)
        return;
    for (int i = CPU_SETSIZE - 1; i >= 0; i--)
        if (CPU_ISSET(i, &set)) {
            CPU_ZERO(&one);
            CPU_SET(i, &one);
            (void)sched_setaffinity(0, sizeof(one), &one);
            return;
        }
}

int main(int argc, char **argv)
{
    struct options o = { .sample_s = 0.005, .samples = 60, .budget_s = 0.8, .limit_s = 60 };
    int c;

    /* What the work "exec" executes. */
    if (argc == 2 && !strcmp(argv[1], "nothing"))
        return 0;
    if (argc == 2 && !strcmp(argv[1], "list")) {
        list();
        return 0;
    }
    while ((c = getopt(argc, argv, "ps:n:b:l:")) != -1) {
        switch (c) {
        case 'p':
            o.pin = 1;
            break;
        case 's':
            o.sample_s = strtod(optarg, NULL);
            break;
        case 'n':
            o.samples = atoi(optarg);
            break;
        case 'b':
            o.budget_s = strtod(optarg, NULL);
            break;
        case 'l':
            o.limit_s = strtod(optarg, NULL);
            break;
        default:
            (void)fputs("usage: work list | work [-p] [-s SECONDS] [-n SAMPLES] [-b SECONDS] "
                        "[-l SECONDS] NAME[,NAME]...\n",
                        stderr);
            return 2;
        }
    }
    if (o.samples < 1 || o.samples > SAMPLES_MAX)
        o.samples = SAMPLES_MIN;
    if (o.pin)
        pin();
    /* With commas: a kernel passes only some tens of arguments on. */
    for (int i = optind; i < argc; i++)
        for (char *rest = argv[i], *name; (name = strsep(&rest, ","));)
            run_one(name, &o);
    return 0;
}
