/* SPDX-License-Identifier: Apache-2.0 */
/*
 * insn [--mode 64|32|16] [--engine NAME] [--cases N] [--seed S] [--only MNEMONIC] [--undefined]
 * [--verbose]: random instructions of 64-bit, 32-bit or 16-bit code against the host CPU.
 *
 * --undefined: what the manuals leave undefined is compared, too. Translated code has the host's.
 *
 * Prints TAP: one line per mnemonic that differs, with the seed and case of what failed.
 */
#include "insn.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

/* So long may the child take for an instruction. */
#define LIMIT_S 3

struct options {
    const char *engine;
    enum code_mode mode;
    uint64_t cases, seed, only_case;
    const char *only;
    bool undefined, verbose;
};

struct tally {
    uint64_t run, bad;
    char first[240];
};

struct tester {
    struct options opt;
    struct native_child *child;
    struct insn_guest *guest;
    struct cpu_model model;
    struct chooser chooser;
    uint64_t nr_lost; /* the child stopped for something else */
    struct tally tally[ZYDIS_MNEMONIC_MAX_VALUE + 1];
};

/*
 * An IRETQ from 64-bit code to compatibility mode was seen to fault for ever on a host that is a
 * guest itself, and its kernel to try it again: such a case cannot be judged.
 */
static struct {
    struct native_child *child;
    volatile sig_atomic_t seconds;
} watched;

static void on_alarm(int sig)
{
    (void)sig;
    if (++watched.seconds == LIMIT_S)
        child_interrupt(watched.child);
}

static void watch(struct native_child *child)
{
    const struct sigaction act = { .sa_handler = on_alarm, .sa_flags = SA_ONSTACK | SA_RESTART };
    const struct itimerval tick = { .it_value = { .tv_sec = 1 }, .it_interval = { .tv_sec = 1 } };

    watched.child = child;
    (void)sigaction(SIGALRM, &act, NULL);
    (void)setitimer(ITIMER_REAL, &tick, NULL);
}

static const char *const mode_names[] = { [CODE64] = "64", [CODE32] = "32", [CODE16] = "16" };

static void report(struct tester *t, const struct insn_case *k, uint64_t idx, const char *what)
{
    struct tally *y = &t->tally[k->insn.mnemonic];
    char hex[64] = "";

    for (unsigned i = 0; i < k->len; i++)
        (void)snprintf(hex + 3 * i, 4, "%02x ", k->code[i]);
    if (!y->bad++ || t->opt.verbose)
        printf("# %s: case %lu: %s: %s\n", ZydisMnemonicGetString(k->insn.mnemonic), idx, hex,
               what);
    if (y->bad == 1)
        (void)snprintf(y->first, sizeof(y->first), "case %lu: %.64s%.100s", idx, hex, what);
}

/* The state before, and after on both sides. */
static void show(const char *who, const struct regs *r, const struct outcome *o)
{
    printf("#   %s: rip %#lx, flags %#lx, fs %#lx, gs %#lx", who, r->rip, r->rflags, r->fs_base,
           r->gs_base);
    if (o)
        printf(", vector %d (%#x) at %#lx", o->vector, o->err, o->fault_at);
    for (unsigned i = 0; i < 16; i++)
        printf("%s r%u %#lx", i % 8 ? "" : "\n#     ", i, r->gpr[i]);
    printf("\n");
}

static void run_case(struct tester *t, uint64_t idx)
{
    static struct insn_case k;
    static struct outcome host, us;
    struct rng rng;
    char buf[200];
    const char *what;

    rng_seed(&rng, t->opt.seed, idx);
    if (!choose_code(&t->chooser, &rng, &k))
        return;
    k.undefined = t->opt.undefined;
    make_state(&rng, &k);
    /* The guest runs in any case, so that old code stands in the same places. */
    guest_run(t->guest, &k, &us);
    watched.seconds = 0;
    if (child_run(t->child, &k, &host) < 0) {
        t->nr_lost++;
        return;
    }
    t->tally[k.insn.mnemonic].run++;
    what = judge(&k, &host, &us, buf, sizeof(buf));
    if (what)
        report(t, &k, idx, what);
    if (what && t->opt.verbose) {
        printf("#   memory operand at %#lx\n", k.has_mem ? k.mem_at : 0);
        show("before", &k.in, NULL);
        show("host", &host.regs, &host);
        show("here", &us.regs, &us);
    }
}

static int usage(void)
{
    (void)fprintf(stderr, "usage: insn [--mode 64|32|16] [--engine NAME] [--cases N] [--seed S] "
                          "[--only MNEMONIC] [--case IDX] [--undefined] [--verbose]\n");
    return 2;
}

static bool parse_mode(const char *s, enum code_mode *mode)
{
    for (unsigned i = 0; i < ARRAY_SIZE(mode_names); i++)
        if (!strcmp(s, mode_names[i])) {
            *mode = (enum code_mode)i;
            return true;
        }
    return false;
}

static bool parse_options(struct options *o, int argc, char **argv)
{
    *o = (struct options){
        .engine = "interp", .cases = 100000, .seed = (uint64_t)time(NULL), .only_case = UINT64_MAX
    };
    for (int i = 1; i < argc; i++) {
        const char *opt = argv[i];

        if (!strcmp(opt, "--verbose")) {
            o->verbose = true;
            continue;
        }
        if (!strcmp(opt, "--undefined")) {
            o->undefined = true;
            continue;
        }
        if (++i == argc)
            return false;
        if (!strcmp(opt, "--engine"))
            o->engine = argv[i];
        else if (!strcmp(opt, "--cases"))
            o->cases = strtoull(argv[i], NULL, 0);
        else if (!strcmp(opt, "--seed"))
            o->seed = strtoull(argv[i], NULL, 0);
        else if (!strcmp(opt, "--only"))
            o->only = argv[i];
        else if (!strcmp(opt, "--case"))
            o->only_case = strtoull(argv[i], NULL, 0);
        else if (strcmp(opt, "--mode") || !parse_mode(argv[i], &o->mode))
            return false;
    }
    return true;
}

static int skip(const char *why)
{
    printf("ok 1 - instructions against the host CPU # SKIP %s\n1..1\n", why);
    return 0;
}

/* One line for each mnemonic that differs, one for all others. True: all is well. */
static bool sum_up(const struct tester *t)
{
    uint64_t nr_run = 0, nr_bad = 0;
    unsigned nr_mnemonics = 0, line = 0;

    for (unsigned m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++) {
        const struct tally *y = &t->tally[m];

        if (!y->run)
            continue;
        nr_mnemonics++;
        nr_run += y->run;
        nr_bad += y->bad;
        if (y->bad)
            printf("not ok %u - %s: %lu of %lu cases differ from the host (--mode %s --seed %lu, "
                   "%s)\n",
                   ++line, ZydisMnemonicGetString((ZydisMnemonic)m), y->bad, y->run,
                   mode_names[t->opt.mode], t->opt.seed, y->first);
    }
    if (t->nr_lost)
        printf("# %lu cases could not be judged\n", t->nr_lost);
    printf("%s %u - %lu cases of %u mnemonics in %s-bit code on %s agree with the host CPU\n",
           nr_bad || !nr_run ? "not ok" : "ok", line + 1, nr_run - nr_bad, nr_mnemonics,
           mode_names[t->opt.mode], t->opt.engine);
    printf("1..%u\n", line + 1);
    return nr_run && !nr_bad;
}

int main(int argc, char **argv)
{
    static struct tester t;
    const struct engine_ops *engine;
    char err[200];
    bool has_ldt, good;

    if (!parse_options(&t.opt, argc, argv))
        return usage();
    engine = engine_find(t.opt.engine);
    if (!engine)
        return usage();
    setvbuf(stdout, NULL, _IOLBF, 0);
    log_set_level(LOG_ERROR); /* what random instructions provoke is no news */
    if (!cpu_model_init(&t.model, "host", err, sizeof(err)))
        return skip("no CPU model");
    chooser_init(&t.chooser, t.opt.mode, &t.model);
    t.chooser.only = t.opt.only;
    if (child_start(&t.child, &has_ldt) < 0)
        return skip("ptrace is not allowed here");
    if (t.opt.mode != CODE64 && !has_ldt)
        return skip("the kernel has no modify_ldt for 16-bit and 32-bit segments");
    if (guest_start(engine, NULL, &t.guest) < 0) {
        printf("not ok 1 - a guest on engine %s\n1..1\n", t.opt.engine);
        return 1;
    }
    printf("# engine %s, repeat one case with --mode %s --seed %lu --case N\n", t.opt.engine,
           mode_names[t.opt.mode], t.opt.seed);
    watch(t.child);
    if (t.opt.only_case != UINT64_MAX)
        run_case(&t, t.opt.only_case);
    else
        for (uint64_t i = 0; i < t.opt.cases; i++)
            run_case(&t, i);
    good = sum_up(&t);
    child_stop(t.child);
    guest_stop(t.guest);
    return !good;
}
