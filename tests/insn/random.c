/* SPDX-License-Identifier: Apache-2.0 */
/* Random numbers that a seed repeats, and random things made of them. */
#include "random.h"

#include <string.h>

/* xorshift64* */
uint64_t rng_next(uint64_t *s)
{
    *s ^= *s >> 12;
    *s ^= *s << 25;
    *s ^= *s >> 27;
    return *s * 0x2545f4914f6cdd1dull;
}

unsigned rng_pick(uint64_t *s, unsigned n)
{
    return (unsigned)(rng_next(s) >> 32) % n;
}

uint64_t rng_edge(uint64_t *s)
{
    static const uint64_t edges[] = {
        0,
        1,
        0x7f,
        0x80,
        0xff,
        0x7fff,
        0x8000,
        0xffff,
        0x7fffffff,
        0x80000000,
        0xffffffff,
        INT64_MAX,
        1ull << 63,
        ~0ull,
        0x0000800000000000ull,
        0x00007fffffffffffull,
    };

    switch (rng_pick(s, 4)) {
    case 0:
        return edges[rng_pick(s, ARRAY_SIZE(edges))];
    case 1:
        return rng_pick(s, 64);
    default:
        return rng_next(s);
    }
}

/* Floating-point registers: a mix of plain numbers and everything odd. */
void rng_fpu(uint64_t *s, struct xsave_area *x)
{
    static const uint64_t odd[] = { 0,
                                    1ull << 63,
                                    0x3ff0000000000000ull,
                                    0x7ff0000000000000ull,
                                    0x7ff8000000000000ull,
                                    0x7ff0000000000001ull,
                                    1,
                                    0x3f8000003f800000ull,
                                    0x7f8000007f800001ull };

    memset(x, 0, sizeof(*x));
    for (unsigned i = 0; i < 16; i++)
        for (unsigned j = 0; j < 4; j++) {
            uint64_t v = rng_pick(s, 3) ? rng_next(s) : odd[rng_pick(s, ARRAY_SIZE(odd))];

            memcpy((j < 2 ? x->xmm[i] : x->ymmh[i]) + 8 * (j & 1), &v, 8);
        }
    x->fcw = rng_pick(s, 2) ? 0x37f : (uint16_t)(0x3f | rng_pick(s, 16) << 8 | 0x40);
    x->mxcsr = rng_pick(s, 2) ? 0x1f80
                              : 0x1f80 | (uint32_t)rng_pick(s, 4) << 13 |
                                    (uint32_t)rng_pick(s, 2) << 15 | (uint32_t)rng_pick(s, 2) << 6;
    x->ftw = (uint8_t)rng_next(s);
    x->fsw = (uint16_t)(rng_pick(s, 8) << 11);
    for (unsigned i = 0; i < 8; i++) {
        uint64_t m = rng_pick(s, 4) ? rng_next(s) | 1ull << 63 : odd[rng_pick(s, ARRAY_SIZE(odd))];
        uint16_t e = (uint16_t)(rng_pick(s, 4) ? 0x3ff0 + rng_pick(s, 32) : rng_next(s));

        memcpy(x->st[i], &m, 8);
        memcpy(x->st[i] + 8, &e, 2);
    }
}

/* Opcode by opcode over all maps and prefixes, so that every form comes up. */
void rng_code(uint64_t *s, uint8_t code[16], enum rng_mode mode)
{
    static const uint8_t prefixes[] = { 0x66, 0xf2, 0xf3, 0x67, 0xf0 };
    unsigned kind = rng_pick(s, 8);
    uint8_t *p = code;

    memset(code, 0, 16);
    for (unsigned i = rng_pick(s, 3); i > 0 && !rng_pick(s, 2); i--)
        *p++ = prefixes[rng_pick(s, ARRAY_SIZE(prefixes))];
    if (kind < 6 && mode == RNG_REX && rng_pick(s, 2))
        *p++ = (uint8_t)(0x40 | rng_pick(s, 16));
    if (kind < 2) {
        *p++ = (uint8_t)rng_next(s);
    } else if (kind < 4) {
        *p++ = 0x0f, *p++ = (uint8_t)rng_next(s);
    } else if (kind < 6) {
        *p++ = 0x0f, *p++ = rng_pick(s, 2) ? 0x38 : 0x3a, *p++ = (uint8_t)rng_next(s);
    } else if (kind == 6) {
        *p++ = 0xc5, *p++ = (uint8_t)rng_next(s), *p++ = (uint8_t)rng_next(s);
    } else {
        *p++ = 0xc4, *p++ = (uint8_t)((rng_next(s) & 0xe0) | (1 + rng_pick(s, 3)));
        *p++ = (uint8_t)rng_next(s), *p++ = (uint8_t)rng_next(s);
    }
    while (p < code + 15)
        *p++ = (uint8_t)rng_next(s);
}
