// SPDX-License-Identifier: Apache-2.0
/*
 * Code made while it runs: random functions, each compared with the same function interpreted in C,
 * written over each other in every way that systems with a JIT do it.
 */
#include "stress.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, BUF = 2 * PAGE, MAX_OPS = 40, NR_REGS = 6 };

/* Registers that a function may use as it likes: RAX, RCX, RDX, RSI, RDI, R8. */
static const uint8_t hw[NR_REGS] = { 0, 1, 2, 6, 7, 8 };

enum kind { ADD, SUB, XOR, IMUL, ROL, LEA, SKIP_IF_LESS, PUSH_POP, IMM, NR_KINDS };
struct gen_op {
    enum kind kind;
    unsigned a, b;
    uint32_t imm;
};

struct out {
    uint8_t *p;
};

static void put(struct out *o, uint8_t b)
{
    *o->p++ = b;
}

static void put32(struct out *o, uint32_t x)
{
    memcpy(o->p, &x, 4);
    o->p += 4;
}

/* REX.W, opcode, ModRM of two registers. */
static void rr(struct out *o, uint8_t opcode, unsigned reg, unsigned rm)
{
    put(o, (uint8_t)(0x48 | (hw[reg] >> 3) << 2 | hw[rm] >> 3));
    put(o, opcode);
    put(o, (uint8_t)(0xc0 | (hw[reg] & 7) << 3 | (hw[rm] & 7)));
}

static void emit(struct out *o, const struct gen_op *op)
{
    switch (op->kind) {
    case ADD:
        return rr(o, 0x01, op->b, op->a);
    case SUB:
        return rr(o, 0x29, op->b, op->a);
    case XOR:
        return rr(o, 0x31, op->b, op->a);
    case IMUL:
        put(o, (uint8_t)(0x48 | (hw[op->a] >> 3) << 2 | hw[op->b] >> 3));
        put(o, 0x0f);
        put(o, 0xaf);
        put(o, (uint8_t)(0xc0 | (hw[op->a] & 7) << 3 | (hw[op->b] & 7)));
        return;
    case ROL: /* rol a, imm8 */
        put(o, (uint8_t)(0x48 | hw[op->a] >> 3));
        put(o, 0xc1);
        put(o, (uint8_t)(0xc0 | (hw[op->a] & 7)));
        put(o, op->imm & 63);
        return;
    case LEA: /* lea a, [b + imm32] */
        put(o, (uint8_t)(0x48 | (hw[op->a] >> 3) << 2 | hw[op->b] >> 3));
        put(o, 0x8d);
        put(o, (uint8_t)(0x80 | (hw[op->a] & 7) << 3 | (hw[op->b] & 7)));
        put32(o, op->imm);
        return;
    case SKIP_IF_LESS: /* cmp a, b; jb over; not a */
        rr(o, 0x39, op->b, op->a);
        put(o, 0x72);
        put(o, 3);
        put(o, (uint8_t)(0x48 | hw[op->a] >> 3));
        put(o, 0xf7);
        put(o, (uint8_t)(0xd0 | (hw[op->a] & 7)));
        return;
    case PUSH_POP: /* push b; pop a */
        put(o, (uint8_t)(0x40 | hw[op->b] >> 3));
        put(o, (uint8_t)(0x50 | (hw[op->b] & 7)));
        put(o, (uint8_t)(0x40 | hw[op->a] >> 3));
        put(o, (uint8_t)(0x58 | (hw[op->a] & 7)));
        return;
    default: /* mov a, imm32 */
        put(o, (uint8_t)(0x40 | hw[op->a] >> 3));
        put(o, (uint8_t)(0xb8 | (hw[op->a] & 7)));
        put32(o, op->imm);
        return;
    }
}

static void interpret(uint64_t *g, const struct gen_op *op)
{
    uint64_t *a = &g[op->a], b = g[op->b];
    unsigned n = op->imm & 63;

    switch (op->kind) {
    case ADD:
        *a += b;
        break;
    case SUB:
        *a -= b;
        break;
    case XOR:
        *a ^= b;
        break;
    case IMUL:
        *a *= b;
        break;
    case ROL:
        *a = *a << n | *a >> (-n & 63);
        break;
    case LEA:
        *a = b + (uint64_t)(int64_t)(int32_t)op->imm;
        break;
    case SKIP_IF_LESS:
        if (*a >= b)
            *a = ~*a;
        break;
    case PUSH_POP:
        *a = b;
        break;
    default:
        *a = op->imm;
        break;
    }
}

static uint64_t call(const uint8_t *code, uint64_t *g)
{
    register uint64_t r8 __asm__("r8") = g[5];

    /* A function of no ABI; below the stack's red zone. */
    __asm__ volatile("sub $128, %%rsp\n\tcall *%[code]\n\tadd $128, %%rsp"
                     : "+a"(g[0]), "+c"(g[1]), "+d"(g[2]), "+S"(g[3]), "+D"(g[4]), "+r"(r8)
                     : [code] "b"(code)
                     : "memory", "cc");
    g[5] = r8;
    return g[0];
}

struct buffer {
    uint8_t *rw, *rx;
    bool flip; /* one mapping that is never writable and executable at once */
};

static struct buffer buffer_make(unsigned how)
{
    struct buffer b = { .flip = how == 1 };
    int fd;

    if (how < 2) {
        b.rw = mmap(NULL, BUF, PROT_READ | PROT_WRITE | (how ? 0 : PROT_EXEC),
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        b.rx = b.rw;
    } else {
        fd = memfd_create("code", 0);
        MUST(fd >= 0 && !ftruncate(fd, BUF));
        b.rw = mmap(NULL, BUF, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        b.rx = mmap(NULL, BUF, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
        close(fd);
    }
    MUST(b.rw != MAP_FAILED && b.rx != MAP_FAILED);
    return b;
}

static unsigned random_ops(struct rng *r, struct gen_op *ops)
{
    unsigned nr = (unsigned)(rnd(r) % MAX_OPS) + 1;

    for (unsigned i = 0; i < nr; i++)
        ops[i] = (struct gen_op){ .kind = (enum kind)(rnd(r) % NR_KINDS),
                                  .a = (unsigned)(rnd(r) % NR_REGS),
                                  .b = (unsigned)(rnd(r) % NR_REGS),
                                  .imm = (uint32_t)rnd(r) };
    return nr;
}

static uint64_t one_function(struct rng *r, const struct buffer *b)
{
    struct gen_op ops[MAX_OPS];
    unsigned nr = random_ops(r, ops), off = (unsigned)(rnd(r) % (BUF - 400));
    uint64_t g[NR_REGS], want[NR_REGS], times = rnd(r) % 4 + 1;
    struct out o = { b->rw + off };

    if (b->flip)
        MUST(!mprotect(b->rw, BUF, PROT_READ | PROT_WRITE));
    for (unsigned i = 0; i < nr; i++)
        emit(&o, &ops[i]);
    put(&o, 0xc3);
    if (b->flip)
        MUST(!mprotect(b->rw, BUF, PROT_READ | PROT_EXEC));
    for (unsigned i = 0; i < NR_REGS; i++)
        g[i] = want[i] = rnd(r);
    while (times--) {
        (void)call(b->rx + off, g);
        for (unsigned i = 0; i < nr; i++)
            interpret(want, &ops[i]);
        MUST(!memcmp(g, want, sizeof(g)));
    }
    return g[0];
}

static uint64_t generate(struct rng *r, unsigned size)
{
    struct buffer b[3] = { buffer_make(0), buffer_make(1), buffer_make(2) };
    uint64_t hash = 0;

    for (unsigned n = 0; n < size * 20; n++)
        hash = mix(hash, one_function(r, &b[rnd(r) % 3]));
    return hash;
}

/*
 * A loop that changes the instruction behind the one that writes it, each time round:
 *
 *     1: mov %cl, imm(%rip); add $imm, %rax; dec %rcx; jnz 1b; ret
 */
static uint64_t patch(struct rng *r, unsigned size)
{
    static const uint8_t loop[] = { 0x88, 0x0d, 0x03, 0, 0, 0, 0x48, 0x83, 0xc0, 0x00,
                                    0x48, 0xff, 0xc9, 0x75, 0xf1, 0xc3 };
    struct buffer b = buffer_make(0);
    uint64_t hash = 0;

    for (unsigned n = 0; n < size; n++) {
        unsigned off = (unsigned)(rnd(r) % (BUF - 32)), times = (unsigned)(rnd(r) % 300) + 1;
        uint64_t g[NR_REGS] = { rnd(r), times }, want = g[0];

        memcpy(b.rw + off, loop, sizeof(loop));
        for (unsigned i = times; i; i--)
            want += (uint64_t)(int64_t)(int8_t)i;
        MUST(call(b.rx + off, g) == want);
        hash = mix(hash, want);
    }
    return hash;
}

const struct work code_works[] = {
    { "generate", generate },
    { "patch", patch },
    { NULL, NULL },
};
