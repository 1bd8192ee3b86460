// SPDX-License-Identifier: Apache-2.0
/* Code that is made while it runs: a loop that is patched, by itself and from outside, and new
 * functions. */
#include <string.h>
#include <sys/mman.h>

#include "bench.h"

enum { CODE_BYTES = 256 << 10, PATCH_ROUNDS = 2000, CALL_ROUNDS = 1000, FUNCTIONS = 300 };

/* What prepare leaves; a process runs one work. */
static uint8_t *code;

typedef uint32_t (*code_fn)(uint32_t);

static void prepare(void)
{
    code = pages(CODE_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC);
}

static code_fn at(const uint8_t *p)
{
    code_fn f;

    memcpy(&f, &p, sizeof(f));
    return f;
}

/* The store and the addend are in the same loop; the jump between them makes it well defined (SDM
 * 3, Handling Self- and Cross-Modifying Code). */
static uint64_t patch_loop(void)
{
    static const uint8_t loop[] = {
        0x31, 0xc0,          /*    xor %eax, %eax */
        0x89, 0x3d, 3, 0, 0, /* 1: mov %edi, the addend(%rip) */
        0,                   /* */
        0xeb, 0x00,          /*    jmp 2f */
        0x05, 0,    0, 0, 0, /* 2: add $0, %eax */
        0xff, 0xcf,          /*    dec %edi */
        0x75, 0xef,          /*    jnz 1b */
        0xc3,                /*    ret */
    };

    memcpy(code, loop, sizeof(loop));
    return at(code)(PATCH_ROUNDS);
}

/* A loop of 100 rounds with a constant that changes between two runs of it: an inline cache. */
static uint64_t patch_call(void)
{
    static const uint8_t loop[] = {
        0x89, 0xf8,                   /*    mov %edi, %eax */
        0xb9, 100,  0,    0,    0,    /*    mov $100, %ecx */
        0x69, 0xc0, 0x05, 0x00, 0, 0, /* 1: imul $5, %eax, %eax */
        0x35, 0,    0,    0,    0,    /*    xor $0, %eax */
        0xff, 0xc9,                   /*    dec %ecx */
        0x75, 0xf1,                   /*    jnz 1b */
        0xc3,                         /*    ret */
    };
    uint64_t sum = 0;

    memcpy(code, loop, sizeof(loop));
    for (uint32_t i = 0; i < CALL_ROUNDS; i++) {
        uint32_t v = i * 0x9e3779b9;

        memcpy(code + 14, &v, 4);
        sum += at(code)(i);
    }
    return sum;
}

/* A function of 30 instructions, from a small menu; returns its end. */
static uint8_t *generate_one(uint8_t *p, uint64_t *x)
{
    static const uint8_t menu[][3] = {
        { 0x01, 0xd0, 0x90 }, /* add %edx, %eax; nop */
        { 0x31, 0xc2, 0x90 }, /* xor %eax, %edx; nop */
        { 0xc1, 0xc0, 0x05 }, /* rol $5, %eax */
        { 0x83, 0xea, 0x11 }, /* sub $17, %edx */
        { 0x0f, 0xc8, 0x90 }, /* bswap %eax; nop */
        { 0x0f, 0xaf, 0xc2 }, /* imul %edx, %eax */
        { 0xf7, 0xd2, 0x90 }, /* not %edx; nop */
        { 0x83, 0xc8, 0x01 }, /* or $1, %eax */
    };

    *p++ = 0x89, *p++ = 0xf8; /* mov %edi, %eax */
    *p++ = 0x89, *p++ = 0xfa; /* mov %edi, %edx */
    for (int i = 0; i < 30; i++, p += 3)
        memcpy(p, menu[rnd(x) % ARRAY_SIZE(menu)], 3);
    *p++ = 0xc3; /* ret */
    return p;
}

/* Each is made, then called four times. */
static uint64_t generate(void)
{
    uint64_t x = RND_SEED, sum = 0;
    uint8_t *p = code;

    for (uint32_t i = 0; i < FUNCTIONS; i++) {
        uint8_t *end = generate_one(p, &x);

        for (uint32_t k = 0; k < 4; k++)
            sum = sum * 3 + at(p)(i + k);
        p = end + (-(uintptr_t)end & 15);
    }
    return sum;
}

const struct work code_works[] = {
    { "patch-loop", "code", PATCH_ROUNDS, patch_loop, prepare, NULL },
    { "patch-call", "code", CALL_ROUNDS, patch_call, prepare, NULL },
    { "generate", "code", FUNCTIONS, generate, prepare, NULL },
    { 0 },
};
