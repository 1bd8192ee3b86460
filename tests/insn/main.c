/* SPDX-License-Identifier: Apache-2.0 */
/*
 * insn [--engine NAME] [--cases N] [--seed S] [--only MNEMONIC] [--verbose]: random instructions
 * against the host CPU.
 *
 * Encodings are made opcode by opcode over all maps and prefixes, so that every form Zydis knows
 * comes up; what a user program must not do to its own host (system calls, far transfers, segment
 * loads) and what differs by nature (time, random numbers, CPUID) is left out. Prints TAP: one line
 * per group of mnemonics, with the seed and case of what failed.
 */
#include "insn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/interp/native.h"
#include "known.h"
#include "random.h"

struct options {
    const char *engine;
    uint64_t cases, seed;
    const char *only;
    bool verbose;
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
    ZydisDecoder dec;
    uint64_t rng;
    struct tally tally[ZYDIS_MNEMONIC_MAX_VALUE + 1];
};

static uint64_t rnd(struct tester *t)
{
    return rng_next(&t->rng);
}

static unsigned pick(struct tester *t, unsigned n)
{
    return rng_pick(&t->rng, n);
}

/* ---- which instructions ---- */

/* Random bytes shaped like an instruction. Returns false if it is not one that can be tested. */
static bool make_code(struct tester *t, struct insn_case *k, ZydisDecodedInstruction *in,
                      ZydisDecodedOperand *ops)
{
    rng_code(&t->rng, k->code, RNG_REX);
    /* Displacements are small or absent half of the time, or the operand would never be mapped. */
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&t->dec, k->code, 15, in, ops)))
        return false;
    if (in->raw.disp.size == 32) {
        int32_t d = (int32_t)pick(t, 64) - 32;

        memcpy(k->code + in->raw.disp.offset, &d, 4);
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&t->dec, k->code, 15, in, ops)))
            return false;
    }
    k->len = in->length;
    memset(k->code + k->len, 0, sizeof(k->code) - k->len);
    if (t->opt.only && strcasecmp(ZydisMnemonicGetString(in->mnemonic), t->opt.only))
        return false;
    return !known_excluded(in, ops) && native_insn_offered(&t->model, in);
}

/* ---- operands ---- */

/* An address worth having in a base register: in the areas, at their edges, across pages, sometimes
 * non-canonical. */
static uint64_t address(struct tester *t)
{
    switch (pick(t, 16)) {
    case 0:
        return DATA_AT + pick(t, 64) - 32;
    case 1:
        return RO_AT + pick(t, 64) - 32;
    case 2:
        return RO_AT + PAGE_BYTES + pick(t, 64) - 32;
    case 3:
        return DATA_AT + PAGE_BYTES + pick(t, 64) - 32;
    case 4:
        return 0x8000000000000000ull + rnd(t) % 0x100000;
    default:
        return DATA_AT + 64 + (pick(t, 2 * PAGE_BYTES - 256) & (pick(t, 2) ? ~0u : ~31u));
    }
}

static void make_state(struct tester *t, struct insn_case *k)
{
    struct regs *r = &k->in;

    for (unsigned i = 0; i < NR_GPRS; i++)
        r->gpr[i] = pick(t, 8) < 5 ? address(t) : rng_edge(&t->rng);
    /* A repeat count that ends. */
    if (pick(t, 4))
        r->gpr[RCX] = pick(t, 3) ? r->gpr[RCX] & 0xff : rng_edge(&t->rng);
    r->rflags = RFLAGS_FIXED1 | RFLAGS_IF | (rnd(t) & (RFLAGS_ARITH | RFLAGS_DF));
    k->code_off = pick(t, 16) ? 64 * pick(t, 100) : (unsigned)PAGE_BYTES - 1 - pick(t, 15);
    r->rip = CODE_AT + k->code_off;
    rng_fpu(&t->rng, &r->fpu);
    if (!pick(t, 8))
        r->fpu.mxcsr &= ~((uint32_t)pick(t, 64) << 7); /* unmasked exceptions */
    for (unsigned i = 0; i < AREA_BYTES; i += 8) {
        uint64_t v = rnd(t);

        memcpy(k->data + i, &v, 8);
    }
}

/* ---- judging ---- */

/* Which element of several faults first, and what of the others is done then, is the
 * implementation's. */
static bool elementwise(const ZydisDecodedInstruction *in)
{
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
        return true;
    default:
        return in->meta.category == ZYDIS_CATEGORY_AVX2GATHER;
    }
}

static const char *differs(const ZydisDecodedInstruction *in, const struct outcome *host,
                           const struct outcome *us, char *buf, size_t n)
{
    static const char *const names[] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                         "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };
    /* ID is the child's own: ptrace does not set it. */
    uint64_t mask = ~(known_undefined_flags(in) | RFLAGS_TF | RFLAGS_RF | RFLAGS_ID);
    bool open = known_undefined_result(in);

    if (host->vector != us->vector && elementwise(in))
        return NULL; /* nothing selected: AMD still checks the address */
    if (host->vector != us->vector) {
        (void)snprintf(buf, n, "vector: host %d, here %d", host->vector, us->vector);
        return buf;
    }
    if (host->vector == VEC_PF && host->fault_at != us->fault_at && !elementwise(in)) {
        (void)snprintf(buf, n, "fault address: host %#lx, here %#lx", host->fault_at, us->fault_at);
        return buf;
    }
    if (host->regs.rip != us->regs.rip) {
        (void)snprintf(buf, n, "rip: host %#lx, here %#lx", host->regs.rip, us->regs.rip);
        return buf;
    }
    for (unsigned i = 0; i < NR_GPRS && !open; i++)
        if (host->regs.gpr[i] != us->regs.gpr[i]) {
            (void)snprintf(buf, n, "%s: host %#lx, here %#lx", names[i], host->regs.gpr[i],
                           us->regs.gpr[i]);
            return buf;
        }
    if ((host->regs.rflags ^ us->regs.rflags) & mask) {
        (void)snprintf(buf, n, "rflags: host %#lx, here %#lx", host->regs.rflags, us->regs.rflags);
        return buf;
    }
    if (host->vector >= 0 && elementwise(in))
        return NULL;
    for (unsigned i = 0; i < 16; i++)
        if (memcmp(host->regs.fpu.xmm[i], us->regs.fpu.xmm[i], 16) ||
            memcmp(host->regs.fpu.ymmh[i], us->regs.fpu.ymmh[i], 16)) {
            (void)snprintf(buf, n, "ymm%u differs", i);
            return buf;
        }
    /* A faulting conversion from or to MMX may or may not have gone to MMX state before. */
    if (host->vector >= 0 && in->meta.category == ZYDIS_CATEGORY_CONVERT)
        return NULL;
    if (host->regs.fpu.mxcsr != us->regs.fpu.mxcsr || host->regs.fpu.fcw != us->regs.fpu.fcw ||
        host->regs.fpu.fsw != us->regs.fpu.fsw || host->regs.fpu.ftw != us->regs.fpu.ftw) {
        (void)snprintf(buf, n, "mxcsr/fcw/fsw/ftw: host %#x %#x %#x %#x, here %#x %#x %#x %#x",
                       host->regs.fpu.mxcsr, host->regs.fpu.fcw, host->regs.fpu.fsw,
                       host->regs.fpu.ftw, us->regs.fpu.mxcsr, us->regs.fpu.fcw, us->regs.fpu.fsw,
                       us->regs.fpu.ftw);
        return buf;
    }
    for (unsigned i = 0; i < 8; i++)
        if (memcmp(host->regs.fpu.st[i], us->regs.fpu.st[i], 10)) {
            (void)snprintf(buf, n, "st(%u) differs", i);
            return buf;
        }
    for (unsigned i = 0; i < AREA_BYTES && !open; i++)
        if (host->data[i] != us->data[i]) {
            (void)snprintf(buf, n, "memory at %#llx: host %#x, here %#x", DATA_AT + i,
                           host->data[i], us->data[i]);
            return buf;
        }
    return NULL;
}

static void report(struct tester *t, const ZydisDecodedInstruction *in, const struct insn_case *k,
                   uint64_t idx, const char *what)
{
    struct tally *y = &t->tally[in->mnemonic];
    char hex[64] = "";

    for (unsigned i = 0; i < k->len; i++)
        (void)snprintf(hex + 3 * i, 4, "%02x ", k->code[i]);
    if (!y->bad++ || t->opt.verbose)
        printf("# %s: case %lu: %s: %s\n", ZydisMnemonicGetString(in->mnemonic), idx, hex, what);
    if (y->bad == 1)
        (void)snprintf(y->first, sizeof(y->first), "case %lu: %.64s%.100s", idx, hex, what);
}

/* Every case has its own seed, so that it can be repeated alone. */
static void run_case(struct tester *t, uint64_t idx)
{
    static struct insn_case k;
    static struct outcome host, us;
    ZydisDecodedInstruction in;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    char buf[200];
    const char *what;

    t->rng = (t->opt.seed * 0x9e3779b97f4a7c15ull + idx) * 0xbf58476d1ce4e5b9ull | 1;
    for (unsigned i = 0; i < 4; i++)
        (void)rnd(t);
    if (!make_code(t, &k, &in, ops))
        return;
    make_state(t, &k);
    if (child_run(t->child, &k, &host) < 0)
        return;
    guest_run(t->guest, &k, &us);
    t->tally[in.mnemonic].run++;
    /* The signal does not tell #MF from #XM. */
    if (host.vector == VEC_XM && us.vector == VEC_MF)
        us.vector = VEC_XM;
    what = differs(&in, &host, &us, buf, sizeof(buf));
    if (what)
        report(t, &in, &k, idx, what);
}

static int usage(void)
{
    (void)fprintf(stderr, "usage: insn [--engine NAME] [--cases N] [--seed S] [--only MNEMONIC] "
                          "[--case IDX] [--verbose]\n");
    return 2;
}

int main(int argc, char **argv)
{
    static struct tester t;
    const struct engine_ops *engine;
    uint64_t only_case = UINT64_MAX, nr_run = 0, nr_bad = 0;
    unsigned nr_mnemonics = 0, line = 0;
    char err[200];

    t.opt = (struct options){ .engine = "interp", .cases = 100000, .seed = (uint64_t)time(NULL) };
    for (int i = 1; i < argc; i++) {
        bool more = i + 1 < argc;

        if (!strcmp(argv[i], "--verbose"))
            t.opt.verbose = true;
        else if (!strcmp(argv[i], "--engine") && more)
            t.opt.engine = argv[++i];
        else if (!strcmp(argv[i], "--cases") && more)
            t.opt.cases = strtoull(argv[++i], NULL, 0);
        else if (!strcmp(argv[i], "--seed") && more)
            t.opt.seed = strtoull(argv[++i], NULL, 0);
        else if (!strcmp(argv[i], "--only") && more)
            t.opt.only = argv[++i];
        else if (!strcmp(argv[i], "--case") && more)
            only_case = strtoull(argv[++i], NULL, 0);
        else
            return usage();
    }
    engine = engine_find(t.opt.engine);
    if (!engine)
        return usage();
    setvbuf(stdout, NULL, _IOLBF, 0);
    log_set_level(LOG_ERROR); /* what random instructions provoke is no news */
    (void)ZydisDecoderInit(&t.dec, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    (void)ZydisDecoderEnableMode(&t.dec, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
    (void)ZydisDecoderEnableMode(&t.dec, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
    (void)ZydisDecoderEnableMode(&t.dec, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
    if (!cpu_model_init(&t.model, "host", err, sizeof(err))) {
        printf("1..0 # SKIP no CPU model: %s\n", err);
        return 0;
    }
    (void)ZydisDecoderEnableMode(&t.dec, ZYDIS_DECODER_MODE_AMD_BRANCHES,
                                 t.model.vendor == VENDOR_AMD);
    if (child_start(&t.child) < 0) {
        printf(
            "ok 1 - instructions against the host CPU # SKIP ptrace is not allowed here\n1..1\n");
        return 0;
    }
    if (guest_start(engine, &t.guest) < 0) {
        printf("not ok 1 - a guest on engine %s\n1..1\n", t.opt.engine);
        return 1;
    }
    printf("# engine %s, seed %lu; repeat one case with --seed %lu --case N\n", t.opt.engine,
           t.opt.seed, t.opt.seed);
    if (only_case != UINT64_MAX)
        run_case(&t, only_case);
    else
        for (uint64_t i = 0; i < t.opt.cases; i++)
            run_case(&t, i);
    for (unsigned m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++) {
        const struct tally *y = &t.tally[m];

        if (!y->run)
            continue;
        nr_mnemonics++;
        nr_run += y->run;
        nr_bad += y->bad;
        if (y->bad)
            printf("not ok %u - %s: %lu of %lu cases differ from the host (seed %lu, %s)\n", ++line,
                   ZydisMnemonicGetString((ZydisMnemonic)m), y->bad, y->run, t.opt.seed, y->first);
    }
    printf("%s %u - %lu cases of %u mnemonics on %s agree with the host CPU\n",
           nr_bad || !nr_run ? "not ok" : "ok", line + 1, nr_run - nr_bad, nr_mnemonics,
           t.opt.engine);
    printf("1..%u\n", line + 1);
    child_stop(t.child);
    guest_stop(t.guest);
    return nr_bad || !nr_run;
}
