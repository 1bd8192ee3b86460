// SPDX-License-Identifier: Apache-2.0
/*
 * Integer work: arithmetic, branches, calls and indirect jumps. Inner loops that are to be measured
 * as they stand are assembly.
 */
#include <stdlib.h>
#include <string.h>

#include "bench.h"

/* Eight ALU instructions on registers and a loop branch. */
static uint64_t alu(void)
{
    uint64_t a = 1, b = 2, c = 3, n = 300000;

    __asm__ volatile("1:\n\t"
                     "add %1, %0\n\t"
                     "xor %2, %1\n\t"
                     "lea 7(%0,%1), %2\n\t"
                     "shr $3, %0\n\t"
                     "or %1, %0\n\t"
                     "sub %2, %1\n\t"
                     "and $0x7fffffff, %2\n\t"
                     "dec %3\n\t"
                     "jnz 1b"
                     : "+r"(a), "+r"(b), "+r"(c), "+r"(n)
                     :
                     : "cc");
    return a ^ b ^ c;
}

static uint32_t rotr(uint32_t v, unsigned n)
{
    return v >> n | v << (32 - n);
}

/* A hash's inner loop (the shape of SHA-256's rounds), and a CRC by table over the same block. */
static uint64_t hash(void)
{
    static uint32_t table[256];
    uint32_t s[8] = { 1, 2, 3, 4, 5, 6, 7, 8 }, w[64], crc = ~0u;

    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;

        for (int k = 0; k < 8; k++)
            c = c & 1 ? c >> 1 ^ 0xedb88320 : c >> 1;
        table[i] = c;
    }
    for (int round = 0; round < 300; round++) {
        for (uint32_t i = 0; i < 64; i++)
            w[i] = i < 16 ? s[i & 7] * (2 * i + 1)
                          : w[i - 16] + w[i - 7] + (rotr(w[i - 15], 7) ^ w[i - 2] >> 10);
        for (int i = 0; i < 64; i++) {
            uint32_t t1 = s[7] + (rotr(s[4], 6) ^ rotr(s[4], 11) ^ rotr(s[4], 25)) +
                          ((s[4] & s[5]) ^ (~s[4] & s[6])) + w[i];
            uint32_t t2 =
                (rotr(s[0], 2) ^ rotr(s[0], 13)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));

            memmove(s + 1, s, 7 * sizeof(s[0]));
            s[4] += t1;
            s[0] = t1 + t2;
        }
        for (size_t i = 0; i < sizeof(w); i++)
            crc = crc >> 8 ^ table[(crc ^ w[i / 4] >> i % 4 * 8) & 255];
    }
    return (uint64_t)crc << 32 | s[0];
}

/* Multiplication, division and remainder: Euclid's algorithm and powers modulo a number. */
static uint64_t muldiv(void)
{
    uint64_t x = RND_SEED, sum = 0;

    for (int i = 0; i < 500; i++) {
        uint64_t a = rnd(&x) >> 20, b = (rnd(&x) >> 20) | 1, r = 1;

        for (uint64_t p = a, q = b; q;) {
            uint64_t t = p % q;

            p = q;
            q = t;
            sum += p;
        }
        for (uint32_t e = 65537, base = (uint32_t)a; e; e >>= 1) {
            if (e & 1)
                r = r * base % (uint32_t)b;
            base = (uint32_t)((uint64_t)base * base % ((uint32_t)b | 1));
        }
        sum += r;
    }
    return sum;
}

static int compare_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

/* Branches nobody can predict, calls through one pointer, small copies. */
static uint64_t sort(void)
{
    static uint32_t a[4096];
    uint64_t x = RND_SEED, sum = 0;

    for (size_t i = 0; i < ARRAY_SIZE(a); i++)
        a[i] = (uint32_t)rnd(&x);
    qsort(a, ARRAY_SIZE(a), sizeof(a[0]), compare_u32);
    for (size_t i = 0; i < ARRAY_SIZE(a); i++)
        sum = sum * 31 + a[i];
    return sum;
}

/* Short blocks with conditional branches of all kinds: how long numbers take to get down to one
 * (Collatz). */
static uint64_t branches(void)
{
    uint64_t sum = 0;

    for (uint64_t i = 1; i <= 3000; i++) {
        uint64_t steps = 0;

        for (uint64_t n = i; n != 1; steps++) {
            __asm__ volatile("" : "+r"(n)); /* no conditional moves */
            if (n & 1)
                n = 3 * n + 1;
            else
                n >>= 1;
        }
        sum += steps;
    }
    return sum;
}

/* Calls, returns, stack. Without the attribute the compiler unrolls the recursion. */
static NOINLINE __attribute__((optimize("O1"))) uint64_t fib(uint64_t n)
{
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static uint64_t calls(void)
{
    return fib(24);
}

static NOINLINE uint64_t op_add(uint64_t v)
{
    return v + 0x9e3779b9;
}
static NOINLINE uint64_t op_xor(uint64_t v)
{
    return v ^ (v >> 5);
}
static NOINLINE uint64_t op_rot(uint64_t v)
{
    return v << 7 | v >> 57;
}
static NOINLINE uint64_t op_mul(uint64_t v)
{
    return v * 5;
}
static NOINLINE uint64_t op_sub(uint64_t v)
{
    return v - 0x1234567;
}
static NOINLINE uint64_t op_not(uint64_t v)
{
    return ~v;
}
static NOINLINE uint64_t op_swp(uint64_t v)
{
    return __builtin_bswap64(v);
}
static NOINLINE uint64_t op_neg(uint64_t v)
{
    return -v;
}

/* Indirect calls with a target that changes at each, at random: what virtual methods are at their
 * worst. */
static uint64_t indirect(void)
{
    static uint64_t (*const volatile ops[])(uint64_t) = { op_add, op_xor, op_rot, op_mul,
                                                          op_sub, op_not, op_swp, op_neg };
    uint64_t v = 1, x = RND_SEED;

    for (int i = 0; i < 40000; i++)
        v = ops[rnd(&x) % ARRAY_SIZE(ops)](v);
    return v;
}

/* A machine in a machine: one indirect jump for each instruction of a program, in a pattern that a
 * CPU can learn. */
static uint64_t vmloop(void)
{
    enum { LOADI, ADD, XOR, SHR, MULI, DEC, JNZ, END };
    static const uint8_t program[] = { LOADI, ADD,  XOR, SHR, MULI, SHR, ADD, XOR,  MULI, MULI, ADD,
                                       SHR,   SHR,  XOR, ADD, XOR,  ADD, SHR, MULI, XOR,  XOR,  ADD,
                                       SHR,   MULI, ADD, ADD, XOR,  SHR, DEC, JNZ,  END };
    static const void *const go[] = {
        [LOADI] = &&loadi, [ADD] = &&add, [XOR] = &&xor, [SHR] = &&shr,
        [MULI] = &&muli,   [DEC] = &&dec, [JNZ] = &&jnz, [END] = &&end,
    };
    uint64_t acc = 1, x = RND_SEED, n = 3000;
    const uint8_t *pc = program;

/* The barrier keeps the compiler from making one common jump of them. */
#define NEXT                             \
    do {                                 \
        const void *to = go[*pc++];      \
        __asm__ volatile("" : "+r"(to)); \
        goto *to;                        \
    } while (0)
    NEXT;
loadi:
    acc ^= 0x5555;
    NEXT;
add:
    acc += x;
    NEXT;
    xor : x ^= acc;
    NEXT;
shr:
    x = x >> 3 | x << 61;
    NEXT;
muli:
    acc *= 0x9e3779b97f4a7c15u;
    NEXT;
dec:
    n--;
    NEXT;
jnz:
    if (n)
        pc = program;
    NEXT;
#undef NEXT
end:
    return acc ^ x;
}

const struct work int_works[] = {
    { "alu", "int", 300000, alu, NULL, NULL },
    { "hash", "int", 300, hash, NULL, NULL },
    { "muldiv", "int", 500, muldiv, NULL, NULL },
    { "sort", "int", 4096, sort, NULL, NULL },
    { "branches", "int", 215063, branches, NULL, NULL },
    { "calls", "int", 150049, calls, NULL, NULL },
    { "indirect", "int", 40000, indirect, NULL, NULL },
    { "vmloop", "int", 90000, vmloop, NULL, NULL },
    { 0 },
};
