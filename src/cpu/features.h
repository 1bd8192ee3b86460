/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPU models: which features a guest sees, and CPUID as data.
 *
 * A feature is a bit of a CPUID register. A model holds the words; cpu_has() asks it. Instructions
 * whose feature the model lacks raise #UD.
 */
#ifndef CPU_FEATURES_H
#define CPU_FEATURES_H

#include "lib/types.h"

struct cpu;

/* The CPUID words that carry feature bits. */
enum feature_word {
    FW_1_EDX,
    FW_1_ECX,
    FW_7_EBX,
    FW_7_ECX,
    FW_7_EDX,
    FW_D1_EAX,
    FW_8_1_EDX,
    FW_8_1_ECX,
    FW_8_8_EBX,
    FW_8_21_EAX,
    FW_KVM,     /* 40000001h EAX */
    FW_7_2_EDX, /* and what follows: not in the oldest snapshots */
    NR_FEATURE_WORDS
};

enum cpu_feature {
#define FEATURE(id, word, bit, text) FEAT_##id = (word)*32 + (bit),
#include "cpu/features.def"
#undef FEATURE
};

enum cpu_vendor { VENDOR_INTEL, VENDOR_AMD };

struct cpu_model {
    char name[32];
    enum cpu_vendor vendor; /* the host's: behaviour that differs by vendor follows the host, which
                               is the oracle */
    char vendor_id[13];
    char brand[49];
    uint32_t signature; /* leaf 1 EAX */
    uint32_t words[NR_FEATURE_WORDS];
    uint8_t phys_bits, lin_bits;
    uint64_t xcr0; /* components offered */
    uint64_t tsc_khz;
    uint32_t nr_cpus;
};

/*
 * Fills m for "host", "x86-64-v2" or "x86-64-v3" (NULL: "host"): only what doppel implements and
 * the host has. Behind the name ",+FEATURE" and ",-FEATURE" (texts of features.def) change single
 * features. False, with a reason in err, for an unknown name or a host that lacks what is needed.
 */
bool cpu_model_init(struct cpu_model *m, const char *spec, char *err, size_t err_bytes) MUST_CHECK;

/* Has m all that `other` has? False: what it lacks, in words. */
bool cpu_model_covers(const struct cpu_model *m, const struct cpu_model *other, char *missing,
                      size_t missing_bytes) MUST_CHECK;

/* The guest gets no guests of its own: for engines that cannot run them. */
void cpu_model_no_nesting(struct cpu_model *m);
/* A feature's text as features.def has it; NULL: there is none at that bit. */
const char *cpu_feature_at(unsigned word, unsigned bit);
/* Which word of features that register of a leaf is ('a', 'b', 'c' or 'd'); -1: none. */
int cpu_feature_word(uint32_t leaf, uint32_t subleaf, char reg);

static inline bool model_has(const struct cpu_model *m, enum cpu_feature f)
{
    return m->words[(unsigned)f / 32] >> ((unsigned)f % 32) & 1;
}

#endif
