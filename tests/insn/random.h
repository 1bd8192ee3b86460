/* SPDX-License-Identifier: Apache-2.0 */
/* Random numbers that a seed repeats, and random things made of them. */
#ifndef TESTS_INSN_RANDOM_H
#define TESTS_INSN_RANDOM_H

#include "cpu/cpu.h"

uint64_t rng_next(uint64_t *s);
unsigned rng_pick(uint64_t *s, unsigned n); /* 0 .. n - 1 */
/* A number at one of the places where something happens, a small one, or any. */
uint64_t rng_edge(uint64_t *s);
/* Vector and x87 registers: plain numbers and everything odd, all exceptions masked. */
void rng_fpu(uint64_t *s, struct xsave_area *x);
/* Sixteen bytes shaped like an instruction. */
enum rng_mode { RNG_REX, RNG_NO_REX };
void rng_code(uint64_t *s, uint8_t code[16], enum rng_mode mode);

#endif
