// SPDX-License-Identifier: Apache-2.0
/* Floating point and vectors: scalar, x87, SSE, AVX2. Checksums are over the results' bits: they
 * must be exact. */
#include <immintrin.h>
#include <string.h>

#include "bench.h"

/* Scalar double: multiply, add, divide, square root, conversion and compare. */
static uint64_t scalar(void)
{
    double sum = 0, x = 1.5;
    uint64_t bits;

    for (int i = 0; i < 80000; i++) {
        x = x * 1.000001 + 0.5;
        if (x > 1e6)
            x = 1.5;
        sum += 1.0 / x + __builtin_sqrt(x) + (double)(int64_t)x;
    }
    memcpy(&bits, &sum, sizeof(bits));
    return bits;
}

/* Bodies that attract each other: what scientific loops look like. */
static uint64_t bodies(void)
{
    enum { N = 5 };
    double pos[N][3], vel[N][3] = { 0 }, sum = 0;
    uint64_t x = RND_SEED, bits;

    for (int i = 0; i < N; i++)
        for (int k = 0; k < 3; k++)
            pos[i][k] = (double)(rnd(&x) >> 40) * 0x1p-20;
    for (int step = 0; step < 2000; step++) {
        for (int i = 0; i < N; i++)
            for (int j = i + 1; j < N; j++) {
                double d[3], r2 = 0.01, f;

                for (int k = 0; k < 3; k++) {
                    d[k] = pos[i][k] - pos[j][k];
                    r2 += d[k] * d[k];
                }
                f = 0.001 / (r2 * __builtin_sqrt(r2));
                for (int k = 0; k < 3; k++) {
                    vel[i][k] -= d[k] * f;
                    vel[j][k] += d[k] * f;
                }
            }
        for (int i = 0; i < N; i++)
            for (int k = 0; k < 3; k++)
                pos[i][k] += vel[i][k] * 0.001;
    }
    for (int i = 0; i < N; i++)
        sum += pos[i][0] + 3 * pos[i][1] + 5 * pos[i][2];
    memcpy(&bits, &sum, sizeof(bits));
    return bits;
}

/* long double is x87. */
static uint64_t x87(void)
{
    long double sum = 0, v = 1.5L;
    uint64_t bits;

    for (int i = 0; i < 20000; i++) {
        v = v * 1.000001L + 0.5L;
        if (v > 1e6L)
            v = 1.5L;
        sum += 1.0L / v + v * v;
    }
    memcpy(&bits, &sum, sizeof(bits));
    return bits;
}

/* Packed single floats. */
static uint64_t sse(void)
{
    __m128 f = _mm_set_ps(1.0f, 1.1f, 1.2f, 1.3f), g = _mm_set1_ps(0.999f), acc = _mm_setzero_ps();
    __m128i bits;

    for (int i = 0; i < 60000; i++) {
        f = _mm_add_ps(_mm_mul_ps(f, g), _mm_shuffle_ps(f, g, 0x4e));
        f = _mm_min_ps(f, _mm_set1_ps(100.0f));
        acc = _mm_add_ps(acc, _mm_sqrt_ps(_mm_max_ps(f, g)));
    }
    bits = _mm_castps_si128(acc);
    return (uint64_t)_mm_cvtsi128_si64(bits) ^
           3 * (uint64_t)_mm_cvtsi128_si64(_mm_unpackhi_epi64(bits, bits));
}

/* Packed integers. */
static uint64_t sse2(void)
{
    __m128i a = _mm_set1_epi32(0x12345), b = _mm_set1_epi16(77), acc = _mm_setzero_si128();

    for (int i = 0; i < 100000; i++) {
        acc = _mm_add_epi32(acc, _mm_madd_epi16(a, b));
        a = _mm_xor_si128(_mm_slli_epi32(a, 3), _mm_srli_epi32(acc, 5));
        b = _mm_add_epi16(_mm_unpacklo_epi16(a, b), _mm_max_epi16(a, b));
    }
    return (uint64_t)_mm_cvtsi128_si64(acc) ^
           3 * (uint64_t)_mm_cvtsi128_si64(_mm_unpackhi_epi64(acc, acc));
}

static int has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

__attribute__((target("avx2,fma"))) static uint64_t avx2(void)
{
    __m256i a = _mm256_set1_epi32(0x12345), b = _mm256_set1_epi16(77), acc = _mm256_setzero_si256();
    uint64_t out[4];

    for (int i = 0; i < 100000; i++) {
        acc = _mm256_add_epi32(acc, _mm256_madd_epi16(a, b));
        a = _mm256_xor_si256(_mm256_slli_epi32(a, 3), _mm256_srli_epi32(acc, 5));
        b = _mm256_add_epi16(_mm256_permute4x64_epi64(a, 0x39), _mm256_max_epi16(a, b));
    }
    _mm256_storeu_si256((__m256i *)out, acc);
    return out[0] + 3 * out[1] + 5 * out[2] + 7 * out[3];
}

/* A small matrix product of doubles from memory. */
__attribute__((target("avx2,fma"))) static uint64_t matrix(void)
{
    enum { N = 48 };
    static double a[N][N], b[N][N], c[N][N];
    uint64_t x = RND_SEED, sum = 0, bits[4];

    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = (double)(rnd(&x) >> 40) * 0x1p-24;
            b[i][j] = (double)(rnd(&x) >> 40) * 0x1p-24;
        }
    for (int round = 0; round < 8; round++)
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j += 4) {
                __m256d s = _mm256_setzero_pd();

                for (int k = 0; k < N; k++)
                    s = _mm256_fmadd_pd(_mm256_set1_pd(a[i][k]), _mm256_loadu_pd(&b[k][j]), s);
                _mm256_storeu_pd(&c[i][j], s);
                _mm256_storeu_si256((__m256i *)bits, _mm256_castpd_si256(s));
                sum += bits[0] + 3 * bits[1] + 5 * bits[2] + 7 * bits[3];
            }
    return sum;
}

const struct work fp_works[] = {
    { "scalar", "fp", 80000, scalar, NULL, NULL },
    { "bodies", "fp", 2000, bodies, NULL, NULL },
    { "x87", "fp", 20000, x87, NULL, NULL },
    { "sse", "fp", 60000, sse, NULL, NULL },
    { "sse2", "fp", 100000, sse2, NULL, NULL },
    { "avx2", "fp", 100000, avx2, NULL, has_avx2 },
    { "matrix", "fp", 8 * 48 * 48 * 12, matrix, NULL, has_avx2 },
    { 0 },
};
