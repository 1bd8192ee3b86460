// SPDX-License-Identifier: Apache-2.0
/*
 * One kind of work for a fixed amount, for bench/run: the same static program runs on the host and
 * in each guest.
 *
 *   work NAME [TIMES]     does it (TIMES times the usual amount) and prints "NAME UNITS SECONDS
 * CHECKSUM" work list             the names, one a line
 *
 * The amounts are for one to two seconds in doppel's interpreter. Inner loops that are to be
 * measured as they stand are assembly; elsewhere the checksum keeps the compiler from leaving the
 * work out, and tells whether a machine computed the same as the host.
 */
#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NOINLINE      __attribute__((noinline))
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

struct work {
    const char *name;
    uint64_t units;
    uint64_t (*run)(uint64_t units);
    void (*prepare)(void); /* optional; not measured */
};

/* The same sequence everywhere: xorshift64. */
static uint64_t rnd(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

/* Eight ALU instructions on registers and a loop branch. */
static uint64_t run_int(uint64_t units)
{
    uint64_t a = 1, b = 2, c = 3;

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
                     : "+r"(a), "+r"(b), "+r"(c), "+r"(units)
                     :
                     : "cc");
    return a ^ b ^ c;
}

/* Calls, returns, stack. Without the attribute the compiler unrolls the recursion. */
static NOINLINE __attribute__((optimize("O1"))) uint64_t fib(uint64_t n)
{
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static uint64_t run_calls(uint64_t units)
{
    uint64_t sum = 0;

    while (units--)
        sum += fib(22 + (units & 1));
    return sum;
}

static int compare_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

/* Branches nobody can predict, calls through one pointer, small copies. */
static uint64_t run_sort(uint64_t units)
{
    static uint32_t a[4096];
    uint64_t x = 88172645463325252, sum = 0;

    while (units--) {
        for (size_t i = 0; i < ARRAY_SIZE(a); i++)
            a[i] = (uint32_t)rnd(&x);
        qsort(a, ARRAY_SIZE(a), sizeof(a[0]), compare_u32);
        sum += a[units % ARRAY_SIZE(a)];
    }
    return sum;
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

/* Indirect calls with a target that changes at each: what a virtual machine's or an interpreter's
 * loop does. */
static uint64_t run_indirect(uint64_t units)
{
    static uint64_t (*const volatile ops[])(uint64_t) = { op_add, op_xor, op_rot, op_mul,
                                                          op_sub, op_not, op_swp, op_neg };
    uint64_t v = 1, x = 88172645463325252;

    while (units--)
        v = ops[rnd(&x) % ARRAY_SIZE(ops)](v);
    return v;
}

static void rep_movsb(void *to, const void *from, size_t bytes)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
}

static void *pages(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE,
                   -1, 0);

    if (p == MAP_FAILED) {
        perror("work: mmap");
        exit(1);
    }
    return p;
}

/* 64 KB by REP MOVSB, the way the kernel copies. */
static uint64_t run_movsb(uint64_t units)
{
    enum { BYTES = 65536 };
    uint8_t *from = pages(BYTES), *to = pages(BYTES);

    memset(from, 0x5a, BYTES);
    while (units--) {
        from[units % BYTES]++;
        rep_movsb(to, from, BYTES);
    }
    return to[1] + to[BYTES - 1];
}

/* 8 KB at a time with moves of eight bytes: loads, stores and their addresses. */
static uint64_t run_copy(uint64_t units)
{
    enum { WORDS = 1024 };
    uint64_t *from = pages(WORDS * 8), *to = pages(WORDS * 8);

    while (units--) {
        uint64_t i = 0;

        from[units % WORDS]++;
        __asm__ volatile("1:\n\t"
                         "mov (%1,%0,8), %%rax\n\t"
                         "mov 8(%1,%0,8), %%rdx\n\t"
                         "mov %%rax, (%2,%0,8)\n\t"
                         "mov %%rdx, 8(%2,%0,8)\n\t"
                         "add $2, %0\n\t"
                         "cmp %3, %0\n\t"
                         "jne 1b"
                         : "+r"(i)
                         : "r"(from), "r"(to), "r"((uint64_t)WORDS)
                         : "rax", "rdx", "cc", "memory");
    }
    return to[5] + to[WORDS - 1];
}

/* One line in each page, each at another place in its page: many pages, few lines of the host's
 * caches. */
enum { CHASE_PAGES = 4096 };

struct line {
    uint32_t next;
    uint8_t pad[4096 + 64 - 4];
};

static struct line *chase_lines;

/* Sattolo's shuffle: one cycle through all of them. */
static void prepare_chase(void)
{
    struct line *l = pages((size_t)CHASE_PAGES * sizeof(*l));
    uint64_t x = 88172645463325252;

    for (uint32_t i = 0; i < CHASE_PAGES; i++)
        l[i].next = i;
    for (uint32_t i = CHASE_PAGES - 1; i > 0; i--) {
        uint32_t j = (uint32_t)(rnd(&x) % i), t = l[i].next;

        l[i].next = l[j].next;
        l[j].next = t;
    }
    chase_lines = l;
}

/* Dependent loads in random order over more pages than most TLBs hold, a host's or one in software.
 */
static uint64_t run_chase(uint64_t units)
{
    uint64_t at = 0;

    while (units--)
        at = chase_lines[at].next;
    return at;
}

/* Scalar double: multiply, add, divide, square root, conversion and compare. */
static uint64_t run_double(uint64_t units)
{
    double sum = 0, x = 1.5;
    uint64_t bits;

    while (units--) {
        x = x * 1.000001 + 0.5;
        if (x > 1e6)
            x = 1.5;
        sum += 1.0 / x + __builtin_sqrt(x) + (double)(int64_t)x;
    }
    memcpy(&bits, &sum, sizeof(bits));
    return bits;
}

/* Packed SSE2, integers and single floats. */
static uint64_t run_sse2(uint64_t units)
{
    __m128i a = _mm_set1_epi32(0x12345), b = _mm_set1_epi16(77), acc = _mm_setzero_si128();
    __m128 f = _mm_set1_ps(1.0f), g = _mm_set1_ps(0.999f);

    while (units--) {
        acc = _mm_add_epi32(acc, _mm_madd_epi16(a, b));
        a = _mm_xor_si128(_mm_slli_epi32(a, 3), _mm_srli_epi32(acc, 5));
        b = _mm_add_epi16(_mm_unpacklo_epi16(a, b), _mm_max_epi16(a, b));
        f = _mm_add_ps(_mm_mul_ps(f, g), g);
    }
    acc = _mm_xor_si128(acc, _mm_castps_si128(f));
    return (uint64_t)_mm_cvtsi128_si64(acc) ^
           (uint64_t)_mm_cvtsi128_si64(_mm_unpackhi_epi64(acc, acc));
}

__attribute__((target("avx2,fma"))) static uint64_t run_avx2(uint64_t units)
{
    __m256i a = _mm256_set1_epi32(0x12345), b = _mm256_set1_epi16(77), acc = _mm256_setzero_si256();
    __m256d f = _mm256_set1_pd(1.0), g = _mm256_set1_pd(0.999);
    uint64_t out[4];

    while (units--) {
        acc = _mm256_add_epi32(acc, _mm256_madd_epi16(a, b));
        a = _mm256_xor_si256(_mm256_slli_epi32(a, 3), _mm256_srli_epi32(acc, 5));
        b = _mm256_add_epi16(_mm256_permute4x64_epi64(a, 0x39), _mm256_max_epi16(a, b));
        f = _mm256_fmadd_pd(f, g, g);
    }
    acc = _mm256_xor_si256(acc, _mm256_castpd_si256(f));
    _mm256_storeu_si256((__m256i *)out, acc);
    return out[0] + 3 * out[1] + 5 * out[2] + 7 * out[3];
}

static uint32_t rotr(uint32_t v, unsigned n)
{
    return v >> n | v << (32 - n);
}

/* A hash's inner loop (the shape of SHA-256's rounds), and a CRC by table over the same block. */
static uint64_t run_hash(uint64_t units)
{
    static uint32_t table[256];
    uint32_t s[8] = { 1, 2, 3, 4, 5, 6, 7, 8 }, w[64], crc = ~0u;

    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;

        for (int k = 0; k < 8; k++)
            c = c & 1 ? c >> 1 ^ 0xedb88320 : c >> 1;
        table[i] = c;
    }
    while (units--) {
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

/* Into the kernel and back. */
static uint64_t run_syscall(uint64_t units)
{
    uint64_t sum = 0;

    while (units--)
        sum += syscall(SYS_getppid) >= 0;
    return sum;
}

/* Page faults: each page of 4 MB is touched once, then given back. A unit is a page. */
static uint64_t run_fault(uint64_t units)
{
    enum { BYTES = 4 << 20 };
    uint64_t sum = 0;

    for (uint64_t done = 0; done < units; done += BYTES / 4096) {
        uint8_t *p = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (p == MAP_FAILED) {
            perror("work: mmap");
            exit(1);
        }
        (void)madvise(p, BYTES, MADV_NOHUGEPAGE);
        for (size_t i = 0; i < BYTES; i += 4096)
            sum += ++p[i];
        munmap(p, BYTES);
    }
    return sum;
}

static const struct work works[] = {
    { "int", 150000000, run_int, NULL },
    { "calls", 600, run_calls, NULL },
    { "sort", 300, run_sort, NULL },
    { "indirect", 24000000, run_indirect, NULL },
    { "movsb", 10000, run_movsb, NULL },
    { "copy", 240000, run_copy, NULL },
    { "chase", 30000000, run_chase, prepare_chase },
    { "double", 10000000, run_double, NULL },
    { "sse2", 8000000, run_sse2, NULL },
    { "avx2", 12000000, run_avx2, NULL },
    { "hash", 40000, run_hash, NULL },
    { "syscall", 800000, run_syscall, NULL },
    { "fault", 32768, run_fault, NULL },
};

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int main(int argc, char **argv)
{
    for (size_t i = 0; argc > 1 && i < ARRAY_SIZE(works); i++) {
        const struct work *w = &works[i];
        uint64_t units = w->units, sum;
        double start;

        if (!strcmp(argv[1], "list"))
            puts(w->name);
        if (strcmp(argv[1], w->name) != 0)
            continue;
        if (argc > 2)
            units = (uint64_t)((double)units * strtod(argv[2], NULL));
        if (w->run == run_avx2 &&
            !(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))) {
            printf("%s unsupported\n", w->name);
            return 0;
        }
        if (w->prepare)
            w->prepare();
        printf("begin %s\n", w->name);
        (void)fflush(stdout);
        start = now();
        sum = w->run(units);
        printf("%s %llu %.6f %016llx\n", w->name, (unsigned long long)units, now() - start,
               (unsigned long long)sum);
        return 0;
    }
    if (argc == 2 && !strcmp(argv[1], "list"))
        return 0;
    (void)fputs("usage: work list | work NAME [TIMES]\n", stderr);
    return 2;
}
