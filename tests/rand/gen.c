/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes programs. Most instructions are random encodings, with their memory operand bent to the
 * test area; around them goes what a single instruction does not show: branches, loops, calls,
 * indirect jumps, flags that are used much later, string instructions, a stay in 32-bit code, and
 * now and then a fault.
 */
#include <Zydis/Zydis.h>
#include <stdlib.h>
#include <string.h>

#include "prog.h"

#define MAX_FUNCTIONS 3
#define MAX_DEPTH     4

struct generator {
    struct chooser in64, in32;
    struct prog *p;
    struct rng rng;
    unsigned depth, loops;
    bool code32;  /* what is made now */
    int budget;   /* items this part may still have */
    int function; /* being made; calls go to later ones */
    int nr_functions;
    int start[MAX_FUNCTIONS];
};

static bool full(const struct generator *g)
{
    return g->budget <= 0 || g->p->nr > PROG_ITEMS - 64;
}

/* ---- items ---- */

static struct item *add(struct generator *g, const void *code, unsigned len)
{
    struct item *it = &g->p->items[g->p->nr++];

    *it = (struct item){ .len = (uint8_t)len, .code32 = g->code32 };
    if (len)
        memcpy(it->code, code, len);
    g->budget--;
    return it;
}

#define ADD(g, ...) \
    add(g, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))

static void more(struct item *it, const void *code, unsigned len)
{
    memcpy(it->code + it->len, code, len);
    it->len = (uint8_t)(it->len + len);
}

#define MORE(it, ...) \
    more(it, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))

static void more32(struct item *it, uint32_t x)
{
    more(it, &x, 4);
}

/* Four bytes for the place of an item; returns the fix, whose target the caller sets. */
static struct fix *more_fix(struct item *it, bool absolute)
{
    struct fix *f = &it->fix[it->nr_fixes++];

    *f = (struct fix){ .off = it->len, .absolute = absolute };
    more32(it, 0);
    return f;
}

static struct item *branch(struct generator *g, enum branch kind, unsigned cc)
{
    struct item *it = add(g, NULL, 0);

    it->branch = kind;
    it->cc = (uint8_t)cc;
    return it;
}

/* ---- any instruction ---- */

static void gen_insn(struct generator *g)
{
    for (unsigned tries = 0; tries < 200; tries++) {
        uint8_t code[32];
        unsigned len = gen_try_insn(&g->rng, g->code32 ? &g->in32 : &g->in64, code);

        if (!len)
            continue;
        (void)add(g, code, len);
        return;
    }
}

/* ADD..CMP, TEST and MOV with flags that live long: 64-bit code's bread and butter. */
static void gen_alu(struct generator *g)
{
    static const uint8_t regs[] = { RAX, RCX, RDX, RSI, RDI, 8, 9, 10, 11, 12, 13 };
    unsigned dst = regs[pick(&g->rng, ARRAY_SIZE(regs))],
             src = regs[pick(&g->rng, ARRAY_SIZE(regs))];
    unsigned wide = pick(&g->rng, 2), op = pick(&g->rng, 8);
    uint8_t rex = (uint8_t)(0x40 | wide << 3 | (src >> 3) << 2 | dst >> 3);
    struct item *it;

    switch (pick(&g->rng, 6)) {
    case 0: /* op src, dst, any size */
        if (!pick(&g->rng, 3))
            (void)ADD(g, 0x66, rex, op << 3 | 1, 0xc0 | (src & 7) << 3 | (dst & 7));
        else
            (void)ADD(g, rex, op << 3 | pick(&g->rng, 2), 0xc0 | (src & 7) << 3 | (dst & 7));
        return;
    case 1: /* op $imm8, dst */
        (void)ADD(g, rex & ~4, 0x83, 0xc0 | op << 3 | (dst & 7), pick(&g->rng, 256));
        return;
    case 2: /* test src, dst */
        (void)ADD(g, rex, 0x84 | pick(&g->rng, 2), 0xc0 | (src & 7) << 3 | (dst & 7));
        return;
    case 3: /* op disp(%rbx), src or op src, disp(%rbx) */
        it = ADD(g, rex & ~1, op << 3 | pick(&g->rng, 4), 0x80 | (src & 7) << 3 | RBX);
        more32(it, (uint32_t)gen_displacement(&g->rng, false));
        return;
    case 4: /* inc, dec, neg, not */
        if (pick(&g->rng, 2))
            (void)ADD(g, rex & ~4, 0xff, 0xc0 | pick(&g->rng, 2) << 3 | (dst & 7));
        else
            (void)ADD(g, rex & ~4, 0xf7, 0xd0 | pick(&g->rng, 2) << 3 | (dst & 7));
        return;
    default: /* mov */
        it = ADD(g, rex & ~1, 0x88 | pick(&g->rng, 4), 0x80 | (src & 7) << 3 | RBX);
        more32(it, (uint32_t)gen_displacement(&g->rng, false));
        return;
    }
}

/* ---- flags ---- */

#define FLAG_IMAGE (RFLAGS_ARITH | RFLAGS_DF)

static void gen_flags(struct generator *g)
{
    unsigned r = pick(&g->rng, 3), cc = pick(&g->rng, 16);
    struct item *it;

    switch (pick(&g->rng, 6)) {
    case 0: /* pushfq; pop r; and $image, r */
        it = ADD(g, 0x9c, 0x58 | r, 0x81, 0xe0 | r);
        more32(it, FLAG_IMAGE);
        return;
    case 1: /* push $image; popfq */
        it = ADD(g, 0x68);
        more32(it, RFLAGS_FIXED1 | RFLAGS_IF | (uint32_t)(rnd(&g->rng) & RFLAGS_ARITH));
        MORE(it, 0x9d);
        return;
    case 2: /* lahf; seto %al */
        (void)ADD(g, 0x9f, 0x0f, 0x90, 0xc0);
        return;
    case 3: /* sahf */
        (void)ADD(g, 0x9e);
        return;
    case 4: /* setcc r8 */
        (void)ADD(g, 0x0f, 0x90 | cc, 0xc0 | r);
        return;
    default: /* cmovcc rsi, r64 */
        (void)ADD(g, 0x48, 0x0f, 0x40 | cc, 0xc0 | r << 3 | RSI);
        return;
    }
}

/* ---- division that does not overflow ---- */

static void gen_div(struct generator *g)
{
    bool is_signed = pick(&g->rng, 2), wide = pick(&g->rng, 2);
    uint8_t rex = wide ? 0x48 : 0x40;
    struct item *it = ADD(g, rex, 0x83, 0xc9, 0x01); /* or $1, %rcx */

    if (is_signed)
        MORE(it, rex, 0xd1, 0xe8, rex, 0x99); /* shr %rax; cqo */
    else
        MORE(it, 0x31, 0xd2); /* xor %edx, %edx */
    MORE(it, rex, 0xf7, is_signed ? 0xf9 : 0xf1);
    MORE(it, 0x39, 0xc0); /* cmp %eax, %eax: the flags are undefined */
}

/* ---- strings ---- */

static void gen_string(struct generator *g)
{
    static const uint8_t ops[] = { 0xa4, 0xa5, 0xaa, 0xab, 0xac, 0xad, 0xa6, 0xa7, 0xae, 0xaf };
    unsigned kind = pick(&g->rng, ARRAY_SIZE(ops)), size = pick(&g->rng, 3), rep = pick(&g->rng, 4);
    bool back = !pick(&g->rng, 4);
    struct item *it = ADD(g, 0x48, 0x8d, 0xb3); /* lea disp(%rbx), %rsi */

    more32(it, (uint32_t)(gen_displacement(&g->rng, false) / 2));
    MORE(it, 0x48, 0x8d, 0xbb); /* lea disp(%rbx), %rdi */
    more32(it, (uint32_t)(gen_displacement(&g->rng, false) / 2));
    MORE(it, 0xb9); /* mov $n, %ecx */
    more32(it, pick(&g->rng, 4) ? pick(&g->rng, 70) : 0);
    if (back)
        MORE(it, 0xfd); /* std */
    if (rep)
        MORE(it, rep == 1 ? 0xf2 : 0xf3);
    if (size == 2)
        MORE(it, 0x48);
    else if (size == 1)
        MORE(it, 0x66, ops[kind]); /* of 16 bits; the next one is alone */
    MORE(it, ops[kind]);
    MORE(it, 0xfc); /* cld */
}

/* ---- control flow ---- */

static void gen_block(struct generator *g, unsigned nr);

static void gen_if(struct generator *g)
{
    struct item *skip = branch(g, BRANCH_CC, pick(&g->rng, 16)), *end;

    gen_block(g, 1 + pick(&g->rng, 4));
    if (pick(&g->rng, 2)) {
        skip->target = g->p->nr;
        return;
    }
    end = branch(g, BRANCH_JMP, 0);
    skip->target = g->p->nr;
    gen_block(g, 1 + pick(&g->rng, 3));
    end->target = g->p->nr;
}

/* Counted by R15, inside by R14, and no deeper. */
static void gen_loop(struct generator *g)
{
    uint8_t reg = g->loops ? 6 : 7;
    struct item *it;
    int head;

    if (g->loops == 2)
        return;
    it = ADD(g, 0x41, 0xb8 | reg); /* mov $n, %r14d or %r15d */
    more32(it, pick(&g->rng, 3)   ? 1 + pick(&g->rng, 8)
               : g->loops         ? 20
               : pick(&g->rng, 8) ? 60
                                  : 2000);
    g->loops++;
    head = g->p->nr;
    gen_block(g, 1 + pick(&g->rng, 6));
    g->loops--;
    if (pick(&g->rng, 2))
        (void)ADD(g, 0x41, 0xff, 0xc8 | reg); /* dec */
    else
        (void)ADD(g, 0x41, 0x83, 0xe8 | reg, 1); /* sub $1 */
    branch(g, BRANCH_CC, 5 /* nz */)->target = head;
}

/* A loop in an item: LOOP, LOOPE, LOOPNE, and JRCXZ over it. */
static void gen_loop_insn(struct generator *g)
{
    struct item *it = ADD(g, 0xb9); /* mov $n, %ecx */

    more32(it, pick(&g->rng, 40));
    MORE(it, 0xe3, 0x07);                    /*    jrcxz 2f */
    MORE(it, 0x48, 0x01, 0xc8);              /* 1: add %rcx, %rax */
    MORE(it, 0xa8, 0x04);                    /*    test $4, %al */
    MORE(it, 0xe0 | pick(&g->rng, 3), 0xf9); /*    loopcc 1b */
}

static void gen_call(struct generator *g)
{
    int to = g->function + 1 + (int)pick(&g->rng, MAX_FUNCTIONS);

    if (to < g->nr_functions)
        branch(g, BRANCH_CALL, 0)->target = -1 - to; /* gen_program() knows where */
}

static void gen_push(struct generator *g)
{
    static const uint8_t regs[] = { RAX, RCX, RDX, RSI, RDI };

    (void)ADD(g, 0x50 | regs[pick(&g->rng, ARRAY_SIZE(regs))]);
    gen_block(g, 1 + pick(&g->rng, 3));
    (void)ADD(g, 0x58 | regs[pick(&g->rng, ARRAY_SIZE(regs))]);
}

/* lea a(%rip), reg; in 32-bit code mov $a, reg. */
static struct fix *more_place(struct generator *g, struct item *it, unsigned reg)
{
    if (g->code32)
        MORE(it, 0xb8 | reg);
    else
        MORE(it, 0x48, 0x8d, 0x05 | reg << 3);
    return more_fix(it, g->code32);
}

static void more_rexw(struct generator *g, struct item *it)
{
    if (!g->code32)
        MORE(it, 0x48);
}

/* Over a block, to one of two places, by register, memory or RET. */
static void gen_indirect(struct generator *g)
{
    unsigned kind = pick(&g->rng, 4);
    struct item *it = add(g, NULL, 0);
    struct fix *a = more_place(g, it, RAX), *b = more_place(g, it, RCX);

    more_rexw(g, it);
    MORE(it, 0x0f, 0x40 | pick(&g->rng, 16), 0xc1); /* cmovcc %rcx, %rax */
    switch (kind) {
    case 0:
        MORE(it, 0xff, 0xe0); /* jmp *%rax */
        break;
    case 1:
        MORE(it, 0x50, 0xc3); /* push %rax; ret */
        break;
    case 2: /* mov %rax, 64(%rbx); jmp *64(%rbx) */
        more_rexw(g, it);
        MORE(it, 0x89, 0x43, 0x40, 0xff, 0x63, 0x40);
        break;
    default:
        MORE(it, 0xff, 0xd0); /* call *%rax, whose return address both places drop */
        break;
    }
    gen_block(g, 1 + pick(&g->rng, 3));
    if (kind == 3) {
        struct item *over = branch(g, BRANCH_JMP, 0);

        a->target = g->p->nr;
        (void)ADD(g, 0x48, 0x8d, 0x40, 0x01); /* lea 1(%rax), %rax */
        b->target = g->p->nr;
        (void)ADD(g, 0x59); /* pop %rcx */
        over->target = g->p->nr;
        return;
    }
    a->target = g->p->nr;
    gen_block(g, 1 + pick(&g->rng, 2));
    b->target = g->p->nr;
}

/* Into 32-bit code and back by far jumps (selectors as Linux has them). Upper halves are not looked
 * at: they are undefined then. */
static void gen_compat(struct generator *g)
{
    struct item *it = ADD(g, 0xb8, 0x2b, 0, 0, 0, 0x8e, 0xd8, 0x8e, 0xc0); /* DS = ES = 2bh */
    uint64_t upper = rnd(&g->rng) << 32;
    struct fix *to;

    MORE(it, 0x48, 0xb9); /* mov $upper, %rcx; or %rcx, %rbx; ... %rsp; ... %rbp: for addresses */
    more(it, &upper, 8);
    MORE(it, 0x48, 0x09, 0xcb, 0x48, 0x09, 0xcc, 0x48, 0x09, 0xcd);
    MORE(it, 0xff, 0x2d, 0x02, 0, 0, 0, 0xeb, 0x06); /* ljmp *2(%rip); jmp over the pointer */
    to = more_fix(it, true);
    MORE(it, 0x23, 0);
    to->target = g->p->nr;
    g->code32 = true;
    gen_block(g, 1 + pick(&g->rng, 12));
    it = ADD(g, 0xea); /* ljmp $0x33, $next */
    to = more_fix(it, true);
    MORE(it, 0x33, 0);
    g->code32 = false;
    to->target = g->p->nr;
    it = ADD(g, 0x89, 0xc0, 0x89, 0xc9, 0x89, 0xd2, 0x89, 0xdb, 0x89, 0xe4, 0x89, 0xed, 0x89, 0xf6,
             0x89, 0xff); /* mov %eax, %eax ... */
}

/* What may fault, and then ends the program. */
static void gen_wild(struct generator *g)
{
    static const int32_t ends[] = { -2048 - 4, -2048, 2048 - 4, 2048, 0 };
    struct item *it;

    switch (pick(&g->rng, 4)) {
    case 0: /* mov disp(%rbp), %rax: around the read-only page */
        it = ADD(g, 0x48, 0x8b, 0x85);
        more32(it, (uint32_t)ends[pick(&g->rng, ARRAY_SIZE(ends))]);
        return;
    case 1: /* add %eax, disp(%rbp) */
        it = ADD(g, 0x01, 0x85);
        more32(it, (uint32_t)ends[pick(&g->rng, ARRAY_SIZE(ends))]);
        return;
    case 2: /* mov (%rsi), %al */
        (void)ADD(g, 0x8a, 0x06);
        return;
    default: /* ud2, or a division by zero */
        if (pick(&g->rng, 2))
            (void)ADD(g, 0x0f, 0x0b);
        else
            (void)ADD(g, 0xf7, 0xf1, 0x39, 0xc0); /* div %ecx; cmp %eax, %eax */
        return;
    }
}

/* ---- in 32-bit code ---- */

/* INC and DEC in a byte, the accumulator and an absolute address, POP m, PUSH m, 82h. */
static void gen_short(struct generator *g)
{
    static const uint8_t regs[] = { RAX, RCX, RDX, RSI, RDI };
    unsigned reg = regs[pick(&g->rng, ARRAY_SIZE(regs))];
    struct item *it;

    switch (pick(&g->rng, 4)) {
    case 0:
        (void)ADD(g, 0x40 | pick(&g->rng, 2) << 3 | reg);
        return;
    case 1:
        it = ADD(g, 0xa0 | pick(&g->rng, 4));
        more32(it, (uint32_t)(BASE_AT + (uint64_t)(int64_t)gen_displacement(&g->rng, false)));
        return;
    case 2: /* op $imm8, r8 */
        (void)ADD(g, 0x82, 0xc0 | pick(&g->rng, 8) << 3 | pick(&g->rng, 3), pick(&g->rng, 256));
        return;
    default: /* pushl disp(%ebx); pop reg */
        it = ADD(g, 0xff, 0xb3);
        more32(it, (uint32_t)gen_displacement(&g->rng, false));
        MORE(it, 0x58 | reg);
        return;
    }
}

/* Counted in memory. */
static void gen_loop32(struct generator *g)
{
    struct item *it;
    int head;

    if (g->loops == 2)
        return;
    it = ADD(g, 0x68); /* push $n */
    more32(it, 1 + pick(&g->rng, 20));
    g->loops++;
    head = g->p->nr;
    gen_block(g, 1 + pick(&g->rng, 5));
    g->loops--;
    (void)ADD(g, 0xff, 0x0c, 0x24); /* decl (%esp) */
    branch(g, BRANCH_CC, 5 /* nz */)->target = head;
    (void)ADD(g, 0x59); /* pop %ecx */
}

/* call f; jmp over; f: ...; ret; over: */
static void gen_call32(struct generator *g)
{
    struct item *call = branch(g, BRANCH_CALL, 0), *over = branch(g, BRANCH_JMP, 0);

    call->target = g->p->nr;
    gen_block(g, 1 + pick(&g->rng, 3));
    if (pick(&g->rng, 3))
        (void)ADD(g, 0xc3);
    else /* push $0; ret $4 has to find the address first */
        (void)ADD(g, 0x8f, 0x43, 0x40, 0x6a, 0x00, 0xff, 0x73, 0x40, 0xc2, 0x04, 0x00);
    over->target = g->p->nr;
}

static void gen_one32(struct generator *g)
{
    static void (*const nests[])(struct generator *) = { gen_if, gen_loop32, gen_push, gen_call32,
                                                         gen_indirect };
    static void (*const leaves[])(struct generator *) = { gen_short,    gen_short, gen_short,
                                                          gen_flags,    gen_flags, gen_string,
                                                          gen_loop_insn };
    unsigned at = pick(&g->rng, 24);

    if (at < ARRAY_SIZE(nests) && g->depth < MAX_DEPTH)
        nests[at](g);
    else if (at >= 24 - ARRAY_SIZE(leaves))
        leaves[24 - 1 - at](g);
    else
        gen_insn(g);
}

static void gen_one(struct generator *g)
{
    static void (*const leaves[])(struct generator *) = {
        gen_alu, gen_flags, gen_div, gen_string, gen_loop_insn, gen_call, gen_compat,
    };
    static const uint8_t weights[] = { 12, 8, 1, 2, 1, 2, 1 };
    static void (*const nests[])(struct generator *) = { gen_if, gen_loop, gen_push, gen_indirect };
    unsigned at = pick(&g->rng, 48);

    if (!pick(&g->rng, 500)) {
        gen_wild(g);
        return;
    }
    if (at < 8 && g->depth < MAX_DEPTH) {
        nests[at % ARRAY_SIZE(nests)](g);
        return;
    }
    at = pick(&g->rng, 40);
    for (unsigned i = 0; i < ARRAY_SIZE(leaves); i++) {
        if (at < weights[i]) {
            leaves[i](g);
            return;
        }
        at -= weights[i];
    }
    gen_insn(g);
}

static void gen_block(struct generator *g, unsigned nr)
{
    g->depth++;
    while (nr-- > 0 && !full(g))
        (g->code32 ? gen_one32 : gen_one)(g);
    g->depth--;
}

/* ---- programs ---- */

static void gen_function(struct generator *g, int idx)
{
    g->function = idx;
    g->start[idx] = g->p->nr;
    g->budget = 40;
    (void)ADD(g, 0x41, 0x57, 0x41, 0x56); /* push %r15; push %r14 */
    gen_block(g, 2 + pick(&g->rng, 10));
    (void)ADD(g, 0x41, 0x5e, 0x41, 0x5f); /* pop %r14; pop %r15 */
    if (pick(&g->rng, 4))
        (void)ADD(g, 0xc3); /* ret */
    else
        (void)ADD(g, 0xf3, 0xc3);
}

static void gen_input(struct generator *g)
{
    struct prog *p = g->p;
    struct regs *r = &p->in;

    for (unsigned i = 0; i < NR_GPRS; i++)
        r->gpr[i] = random_edge(&g->rng);
    r->gpr[RBX] = BASE_AT;
    r->gpr[RSP] = STACK_AT;
    r->gpr[RBP] = RO_BASE;
    r->sel[SEG_CS] = SEL_USER64_CS;
    r->sel[SEG_SS] = SEL_USER_DS;
    r->rflags = RFLAGS_FIXED1 | RFLAGS_IF | (rnd(&g->rng) & RFLAGS_ARITH);
    random_fpu(&g->rng, &r->fpu);
    /* All exceptions masked, none pending. */
    r->fpu.mxcsr |= 0x1f80;
    r->fpu.fcw |= 0x3f;
    r->fpu.fsw &= (uint16_t)~0x80bf;
    for (unsigned i = 0; i < AREA_BYTES; i += 8) {
        uint64_t v = rnd(&g->rng);

        memcpy(p->data + i, &v, 8);
    }
}

static void gen_code(struct generator *g)
{
    struct prog *p = g->p;

    p->nr = 0;
    g->depth = g->loops = 0;
    g->code32 = false;
    g->nr_functions = (int)pick(&g->rng, MAX_FUNCTIONS + 1);
    g->function = -1;
    g->budget = 150;
    gen_block(g, 10 + pick(&g->rng, 60));
    ADD(g, 0xcc)->keep = true; /* int3: the end */
    for (int i = 0; i < g->nr_functions; i++)
        gen_function(g, i);
    for (int i = 0; i < p->nr; i++)
        if (p->items[i].branch == BRANCH_CALL && p->items[i].target < 0)
            p->items[i].target = g->start[-1 - p->items[i].target];
    /* Nowhere, or over the border of the two pages. */
    p->code_off =
        pick(&g->rng, 4) ? 16 * pick(&g->rng, 64) : (unsigned)PAGE_BYTES - 1 - pick(&g->rng, 600);
}

void gen_program(struct generator *g, uint64_t seed, struct prog *p)
{
    g->p = p;
    rng_seed(&g->rng, seed, 0);
    do
        gen_code(g);
    while (!prog_layout(p));
    gen_input(g);
    p->in.rip = CODE_AT + p->code_off;
    p->run_limit = pick(&g->rng, 4) ? 0 : 1 + pick(&g->rng, 50);
}

struct generator *gen_create(const struct cpu_model *model)
{
    struct generator *g = calloc(1, sizeof(*g));

    if (!g)
        return NULL;
    chooser_init(&g->in64, CODE64, model);
    chooser_init(&g->in32, CODE32, model);
    return g;
}

void gen_destroy(struct generator *g)
{
    free(g);
}
