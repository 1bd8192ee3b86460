/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rand [--engine NAME] [--bt-tiers TIERS] [--seed S] [--count N] [--time SECONDS] [--print]: random
 * programs on an engine and on the host CPU. With TIERS, checked or direct, all that bt can
 * translate is translated at once.
 *
 * Registers, flags, vector and x87 state, memory and, if there is one, the fault must be the same.
 * A program that differs is made smaller, item by item, as long as it still differs, and printed
 * with its seed: --seed S --count 1 repeats it. Prints TAP.
 */
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#include "host/host.h"
#include "prog.h"

/*
 * A program that takes the host so long runs away, as some do once items are taken out; with so
 * many tries, since the host may be busy. The engine gets much more before it counts as hanging.
 */
#define HOST_MAX_NS 2000000
#define HOST_TRIES  3
#define HANG_S      15
#define MINIMIZE_S  2 /* of programs that hang */

struct tester {
    struct native_child *child;
    struct insn_guest *guest;
    struct generator *gen;
    const char *engine;
    struct prog prog;
    struct outcome host, us;
    char what[200];
    bool minimizing;
    bool hangs; /* what was found is that the engine does not end */
    uint64_t nr_run, nr_bad, nr_skipped;
    uint64_t nr_ends[32]; /* by vector */
};

/* ---- programs that do not end ---- */

static struct tester *watched;
static volatile sig_atomic_t hung;

static void on_alarm(int sig)
{
    (void)sig;
    hung = 1;
    child_interrupt(watched->child);
    guest_interrupt(watched->guest);
}

/* In real time while the child runs, in our own CPU time while the engine does: hosts are busy. */
static void watch(struct tester *t, int of, int seconds)
{
    struct itimerval it = { .it_value = { .tv_sec = seconds },
                            .it_interval = { .tv_sec = seconds } };

    watched = t;
    if (seconds)
        hung = 0;
    else
        it.it_interval.tv_sec = 0;
    (void)setitimer((enum __itimer_which)of, &it, NULL);
}

/* ---- judging ---- */

static bool differ(struct tester *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool differ(struct tester *t, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(t->what, sizeof(t->what), fmt, ap);
    va_end(ap);
    return true;
}

static bool vectors_differ(struct tester *t)
{
    const struct outcome *h = &t->host, *u = &t->us;

    for (unsigned i = 0; i < 16; i++)
        if (memcmp(h->regs.fpu.xmm[i], u->regs.fpu.xmm[i], 16) != 0 ||
            memcmp(h->regs.fpu.ymmh[i], u->regs.fpu.ymmh[i], 16) != 0)
            return differ(t, "ymm%u", i);
    if (h->regs.fpu.mxcsr != u->regs.fpu.mxcsr || h->regs.fpu.fcw != u->regs.fpu.fcw ||
        h->regs.fpu.fsw != u->regs.fpu.fsw || h->regs.fpu.ftw != u->regs.fpu.ftw)
        return differ(t, "mxcsr/fcw/fsw/ftw: host %#x %#x %#x %#x, here %#x %#x %#x %#x",
                      h->regs.fpu.mxcsr, h->regs.fpu.fcw, h->regs.fpu.fsw, h->regs.fpu.ftw,
                      u->regs.fpu.mxcsr, u->regs.fpu.fcw, u->regs.fpu.fsw, u->regs.fpu.ftw);
    for (unsigned i = 0; i < 8; i++)
        if (memcmp(h->regs.fpu.st[i], u->regs.fpu.st[i], 10) != 0)
            return differ(t, "st(%u)", i);
    return false;
}

static bool outcomes_differ(struct tester *t)
{
    static const char *const names[] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                         "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };
    const struct outcome *h = &t->host, *u = &t->us;
    /* Flags of a division that faulted are undefined; ID is the child's own. */
    uint64_t flags = h->vector == VEC_DE ? RFLAGS_DF : RFLAGS_ARITH | RFLAGS_DF;
    uint64_t seen = h->regs.sel[SEG_CS] == SEL_USER64_CS ? ~0ull : UINT32_MAX;

    if (h->vector != u->vector)
        return differ(t, "vector: host %d at %#lx, here %d at %#lx", h->vector, h->regs.rip,
                      u->vector, u->regs.rip);
    if (h->regs.rip != u->regs.rip || h->regs.sel[SEG_CS] != u->regs.sel[SEG_CS])
        return differ(t, "cs:rip: host %#x:%#lx, here %#x:%#lx", h->regs.sel[SEG_CS], h->regs.rip,
                      u->regs.sel[SEG_CS], u->regs.rip);
    if (h->vector == VEC_PF && h->fault_at != u->fault_at)
        return differ(t, "fault address: host %#lx, here %#lx", h->fault_at, u->fault_at);
    for (unsigned i = 0; i < NR_GPRS; i++)
        if ((h->regs.gpr[i] ^ u->regs.gpr[i]) & seen)
            return differ(t, "%s: host %#lx, here %#lx", names[i], h->regs.gpr[i], u->regs.gpr[i]);
    if ((h->regs.rflags ^ u->regs.rflags) & flags)
        return differ(t, "rflags: host %#lx, here %#lx", h->regs.rflags & flags,
                      u->regs.rflags & flags);
    if (vectors_differ(t))
        return true;
    for (unsigned i = 0; i < AREA_BYTES; i++)
        if (h->data[i] != u->data[i])
            return differ(t, "memory at %#llx: host %#x, here %#x", DATA_AT + i, h->data[i],
                          u->data[i]);
    return false;
}

/* Does the program as it is now differ? Not if it cannot be judged. */
static bool differs(struct tester *t)
{
    const struct prog *p = &t->prog;
    struct exec x = { .code = p->bytes, .in = &p->in, .data = p->data, .run_limit = p->run_limit };
    bool judged = false;

    watch(t, ITIMER_REAL, HANG_S);
    for (unsigned i = 0; i < HOST_TRIES && !judged && !hung; i++) {
        uint64_t start = host_mono_ns();

        judged = child_exec(t->child, &x, &t->host) == 0 && host_mono_ns() - start < HOST_MAX_NS;
    }
    watch(t, ITIMER_REAL, 0);
    if (judged) {
        watch(t, ITIMER_PROF, t->minimizing && t->hangs ? MINIMIZE_S : HANG_S);
        guest_exec(t->guest, &x, &t->us);
        watch(t, ITIMER_PROF, 0);
    }
    if (!judged) {
        t->nr_skipped++;
        return false;
    }
    if (hung && !t->hangs) {
        t->nr_skipped++;
        return false;
    }
    return outcomes_differ(t);
}

/* ---- making it smaller ---- */

/* Takes out items [from, from + nr) if the program differs without them. */
static bool try_without(struct tester *t, int from, int nr)
{
    struct prog *p = &t->prog;
    static bool was[PROG_ITEMS];
    bool any = false;

    for (int i = from; i < from + nr && i < p->nr; i++) {
        was[i] = p->items[i].dead;
        p->items[i].dead |= !p->items[i].keep;
        any |= was[i] != p->items[i].dead;
    }
    if (any && prog_layout(p) && differs(t))
        return true;
    for (int i = from; i < from + nr && i < p->nr; i++)
        p->items[i].dead = was[i];
    (void)prog_layout(p);
    return false;
}

static void minimize(struct tester *t)
{
    bool progress = true;

    for (int nr = t->prog.nr / 2; nr > 0; nr = nr > 1 ? nr / 2 : progress) {
        progress = false;
        for (int from = 0; from < t->prog.nr; from += nr)
            progress |= try_without(t, from, nr);
    }
    (void)differs(t); /* t->what again */
}

static void report(struct tester *t, uint64_t seed)
{
    const struct regs *r = &t->prog.in;

    printf("# %s\n", t->what);
    t->hangs = hung;
    t->minimizing = true;
    minimize(t);
    t->minimizing = false;
    printf("# made smaller: %s\n", t->what);
    if (t->prog.run_limit)
        printf("# run in pieces of %lu steps\n", t->prog.run_limit);
    for (unsigned i = 0; i < NR_GPRS; i += 4)
        printf("#   r%-2u %016lx %016lx %016lx %016lx\n", i, r->gpr[i], r->gpr[i + 1],
               r->gpr[i + 2], r->gpr[i + 3]);
    printf("#   rflags %#lx\n", r->rflags);
    prog_print(&t->prog);
    printf("# repeat: rand --engine %s --seed %lu --count 1\n", t->engine, seed);
}

static void run_program(struct tester *t, uint64_t seed)
{
    gen_program(t->gen, seed, &t->prog);
    t->nr_run++;
    t->hangs = true;
    if (differs(t)) {
        t->nr_bad++;
        printf("not ok %lu - program of seed %lu\n", t->nr_bad, seed);
        report(t, seed);
        return;
    }
    t->nr_ends[t->host.vector & 31]++;
}

/* ---- the command ---- */

struct options {
    const char *engine;
    const struct bt_config *bt; /* see guest_start() */
    uint64_t seed, count, seconds;
    bool print;
};

/* Both ways to look addresses up, on any host. */
static const struct bt_config bt_checked = { .limit = UINT64_MAX,
                                             .tiers = BT_TIERS_CHECKED,
                                             .lookup = BT_LOOKUP_LOOP };
static const struct bt_config bt_direct = { .limit = UINT64_MAX,
                                            .tiers = BT_TIERS_DIRECT,
                                            .lookup = BT_LOOKUP_JRCXZ };

static bool parse(struct options *o, int argc, char **argv)
{
    *o = (struct options){ .engine = "interp", .seed = (uint64_t)time(NULL) << 20, .count = 1000 };
    for (int i = 1; i < argc; i++) {
        bool has_value = i + 1 < argc;

        if (!strcmp(argv[i], "--print"))
            o->print = true;
        else if (!strcmp(argv[i], "--engine") && has_value)
            o->engine = argv[++i];
        else if (!strcmp(argv[i], "--bt-tiers") && has_value && !strcmp(argv[i + 1], "checked"))
            o->bt = &bt_checked, i++;
        else if (!strcmp(argv[i], "--bt-tiers") && has_value && !strcmp(argv[i + 1], "direct"))
            o->bt = &bt_direct, i++;
        else if (!strcmp(argv[i], "--seed") && has_value)
            o->seed = strtoull(argv[++i], NULL, 0);
        else if (!strcmp(argv[i], "--count") && has_value)
            o->count = strtoull(argv[++i], NULL, 0);
        else if (!strcmp(argv[i], "--time") && has_value)
            o->seconds = strtoull(argv[++i], NULL, 0);
        else
            return false;
    }
    return engine_find(o->engine);
}

static int skip_all(const char *why)
{
    printf("ok 1 - random programs # SKIP %s\n1..1\n", why);
    return 0;
}

int main(int argc, char **argv)
{
    static struct tester t;
    struct cpu_model model;
    struct options o;
    char err[200];
    bool has_ldt; /* not needed */
    time_t end;

    if (!parse(&o, argc, argv)) {
        (void)fprintf(stderr, "usage: rand [--engine NAME] [--bt-tiers checked|direct] [--seed S] "
                              "[--count N] [--time SECONDS] "
                              "[--print]\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    log_set_level(LOG_ERROR);
    if (!cpu_model_init(&model, "host", err, sizeof(err)))
        return skip_all(err);
    if (child_start(&t.child, &has_ldt) < 0)
        return skip_all("ptrace is not allowed here");
    t.engine = o.engine;
    t.gen = gen_create(&model);
    if (!t.gen || guest_start(engine_find(o.engine), o.bt, &t.guest) < 0) {
        printf("not ok 1 - a guest on engine %s\n1..1\n", o.engine);
        return 1;
    }
    /* An engine may have the guest's RSP in the host's. */
    (void)sigaction(SIGALRM, &(struct sigaction){ .sa_handler = on_alarm, .sa_flags = SA_ONSTACK },
                    NULL);
    (void)sigaction(SIGPROF, &(struct sigaction){ .sa_handler = on_alarm, .sa_flags = SA_ONSTACK },
                    NULL);
    printf("# engine %s, programs of seeds %lu to %lu\n", o.engine, o.seed, o.seed + o.count - 1);
    end = time(NULL) + (time_t)o.seconds;
    for (uint64_t i = 0; i < o.count && t.nr_bad < 10 && (!o.seconds || time(NULL) < end); i++) {
        run_program(&t, o.seed + i);
        if (!o.print)
            continue;
        prog_print(&t.prog);
        printf("# ends with vector %d at %#lx\n", t.host.vector, t.host.regs.rip);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(t.nr_ends); i++)
        if (t.nr_ends[i])
            printf("# %lu programs ended with vector %u\n", t.nr_ends[i], i);
    printf("%s %lu - %lu programs agree with the host CPU on %s (%lu runs could not be judged)\n",
           t.nr_bad ? "not ok" : "ok", t.nr_bad + 1, t.nr_run - t.nr_bad, o.engine, t.nr_skipped);
    printf("1..%lu\n", t.nr_bad + 1);
    child_stop(t.child);
    guest_stop(t.guest);
    gen_destroy(t.gen);
    return t.nr_bad != 0;
}
