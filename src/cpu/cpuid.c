/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPUID, made from the model (SDM 2, "CPUID"; APM 3, "Obtaining Processor Information Via the CPUID
 * Instruction").
 *
 * Features come from model->words; caches, topology and clocks are those of the processor doppel
 * describes, not of the host: L1 32 KB twice, L2 1 MB, one L3 of 16 MB for all CPUs; one socket, a
 * core per CPU, one thread per core. A leaf that is not here reads as zeros.
 */
#include "cpu/cpu.h"

#define MAX_BASIC_INTEL 0x16u
#define MAX_BASIC_AMD   0xdu
#define MAX_HYPER       0x40000010u
#define MAX_EXT_INTEL   0x80000008u
#define MAX_EXT_AMD     0x80000021u

#define CLFLUSH_BYTES 64u
#define MONITOR_BYTES 64u

struct cache {
    uint8_t level, type; /* type: 1 data, 2 instructions, 3 both */
    uint8_t ways;
    uint32_t sets;
    bool shared; /* by all CPUs */
};

static const struct cache caches[] = {
    { 1, 1, 8, 64, false },
    { 1, 2, 8, 64, false },
    { 2, 3, 16, 1024, false },
    { 3, 3, 16, 16384, true },
};
#define L1_KIB  32u
#define L2_KIB  1024u
#define L3_KIB  16384u
#define WAYS_8  6u /* APM 3, "L2 Cache Identifiers": codes of associativity */
#define WAYS_16 8u

static bool is_amd(const struct cpu *c)
{
    return c->model->vendor == VENDOR_AMD;
}

/* Bits an APIC ID needs to tell all CPUs apart. */
static unsigned id_bits(const struct cpu *c)
{
    unsigned n = 0;

    while (BIT(n) < c->model->nr_cpus)
        n++;
    return n;
}

static uint32_t get32(const char *at)
{
    uint32_t x = 0;

    for (unsigned i = 0; i < 4; i++)
        x |= (uint32_t)(uint8_t)at[i] << 8 * i;
    return x;
}

/* ---- basic leaves ---- */

static void leaf_vendor(struct cpu *c, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
    (void)leaf, (void)subleaf;
    out->eax = is_amd(c) ? MAX_BASIC_AMD : MAX_BASIC_INTEL;
    out->ebx = get32(c->model->vendor_id);
    out->edx = get32(c->model->vendor_id + 4);
    out->ecx = get32(c->model->vendor_id + 8);
}

static void leaf_features(struct cpu *c, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
    const uint32_t apic = BIT(FEAT_APIC % 32), htt = BIT(FEAT_HTT % 32), osxsave = BIT(27);

    (void)leaf, (void)subleaf;
    out->eax = c->model->signature;
    out->ebx = (CLFLUSH_BYTES / 8) << 8 | MIN(BIT(id_bits(c)), 255) << 16 | c->id << 24;
    out->ecx = c->model->words[FW_1_ECX];
    out->edx = c->model->words[FW_1_EDX];
    if (c->cr4 & CR4_OSXSAVE)
        out->ecx |= osxsave;
    if (!(c->apic.base_msr & APIC_BASE_ENABLE))
        out->edx &= ~apic;
    if (c->model->nr_cpus == 1)
        out->edx &= ~htt;
}

/* "Look at leaf 4", as all recent processors say. */
static void leaf_descriptors(struct cpu *c, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
    (void)leaf, (void)subleaf;
    if (is_amd(c))
        return;
    out->eax = 0x00feff01;
    out->ebx = 0xf0; /* 64-byte prefetching */
}

/* The common format of leaf 4 and AMD's 8000001Dh. */
static void put_cache(const struct cpu *c, uint32_t subleaf, struct cpuid_regs *out)
{
    const struct cache *k;
    uint32_t sharing;

    if (subleaf >= ARRAY_SIZE(caches))
        return;
    k = &caches[subleaf];
    sharing = k->shared ? BIT(id_bits(c)) - 1 : 0;
    out->eax = k->type | k->level << 5 | BIT(8) | MIN(sharing, 0xfff) << 14;
    out->ebx = (CLFLUSH_BYTES - 1) | (k->ways - 1u) << 22;
    out->ecx = k->sets - 1;
}

static void leaf_caches(struct cpu *c, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
    (void)leaf;
    if (is_amd(c))
        return;
    put_cache(c, subleaf, out);
    if (out->eax)
        out->eax |= MIN(BIT(id_bits(c)) - 1, 63) << 26; /* core IDs in the package */
}

static void leaf_monitor(struct cpu *c, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
    (void)leaf, (void)subleaf;
    if (model_has(c->model, FEAT_MONITOR))
        out->eax = out->ebx = MONITOR_BYTES;
}

/* ARAT: the APIC timer runs in every state of sleep. */
static void leaf_power(struct cpu *c, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
    (void)c, (void)leaf, (void)subleaf;
    out->eax = BIT(2);
}

static void leaf_features7(struct cpu *c, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
    (void)leaf;
    if (subleaf == 2)
        out->edx = c->model->words[FW_7_2_EDX];
    if (subleaf != 0)
        return;
    out->eax = c->model->words[FW_7_2_EDX] ? 2 : 0;
    out->ebx = c->model->words[FW_7_EBX];
    out->ecx = c->model->words[FW_7_ECX];
    out->edx = c->model->words[FW_7_EDX];
}

/* Level 0: threads of a core; level 1: cores. EDX is the x2APIC ID, for every subleaf. */
static void leaf_topology(struct cpu *c, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
    (void)leaf;
    out->ecx = subleaf & 0xff;
    out->edx = c->id;
    if (subleaf == 0) {
        out->ebx = 1;
        out->ecx |= 1 << 8;
    } else if (subleaf == 1) {
        out->eax = id_bits(c);
        out->ebx = c->model->nr_cpus;
        out->ecx |= 2 << 8;
    }
}

/* SDM 1, "Enumeration of CPU Support for XSAVE Instructions and XSAVE-Supported Features" */
static void leaf_xsave(struct cpu *c, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
    const uint32_t legacy = 576, ymm = 256; /* with header; upper halves */
    bool avx = c->model->xcr0 & XCR0_AVX;

    (void)leaf;
    if (!model_has(c->model, FEAT_XSAVE))
        return;
    if (subleaf == 0) {
        out->eax = (uint32_t)c->model->xcr0;
        out->edx = (uint32_t)(c->model->xcr0 >> 32);
        out->ebx = legacy + (c->xcr0 & XCR0_AVX ? ymm : 0);
        out->ecx = legacy + (avx ? ymm : 0);
    } else if (subleaf == 1) {
        out->eax = c->model->words[FW_D1_EAX];
        if (model_has(c->model, FEAT_XSAVEC))
            out->ebx = legacy + (c->xcr0 & XCR0_AVX ? ymm : 0);
    } else if (subleaf == 2 && avx) {
        out->eax = ymm;
        out->ebx = legacy; /* offset in the standard format */
    }
}

static uint64_t gcd(uint64_t a, uint64_t b)
{
    while (b) {
        uint64_t r = a % b;

        a = b;
        b = r;
    }
    return a;
}

/*
 * TSC = crystal * EBX / EAX. The crystal also is the APIC timer's clock (SDM 3, "APIC Timer"), so
 * it is APIC_BUS_HZ. Linux multiplies kHz by EBX in 32 bits and trusts the result to the last
 * digit: the leaf is given only where that comes out exactly, else guests measure.
 */
static void leaf_tsc(struct cpu *c, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
    const uint64_t crystal_khz = APIC_BUS_HZ / 1000;
    uint64_t div = gcd(c->model->tsc_khz, crystal_khz);

    (void)leaf, (void)subleaf;
    if (is_amd(c) || !c->model->tsc_khz || c->model->tsc_khz / div * crystal_khz > UINT32_MAX)
        return;
    out->eax = (uint32_t)(crystal_khz / div);
    out->ebx = (uint32_t)(c->model->tsc_khz / div);
    out->ecx = APIC_BUS_HZ;
}

static void leaf_clocks(struct cpu *c, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
    (void)leaf, (void)subleaf;
    if (is_amd(c))
        return;
    out->eax = out->ebx = (uint32_t)(c->model->tsc_khz / 1000) & 0xffff;
    out->ecx = 100; /* MHz, the bus that ratios count in */
}

/* ---- hypervisor leaves ---- */

static void leaf_hypervisor(struct cpu *c, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
    static const char own[] = "doppeldoppel", kvm[12] = "KVMKVMKVM";
    const char *name = c->model->words[FW_KVM] ? kvm : own;

    (void)leaf, (void)subleaf;
    out->eax = MAX_HYPER;
    out->ebx = get32(name);
    out->ecx = get32(name + 4);
    out->edx = get32(name + 8);
}

static void leaf_kvm(struct cpu *c, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
    (void)leaf, (void)subleaf;
    out->eax = c->model->words[FW_KVM];
}

/* Clocks in kHz, at the place where VMware introduced them and others look. */
static void leaf_timing(struct cpu *c, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
    (void)leaf, (void)subleaf;
    out->eax = (uint32_t)c->model->tsc_khz;
    out->ebx = APIC_BUS_HZ / 1000;
}

/* ---- extended leaves ---- */

static void leaf_ext_max(struct cpu *c, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
    (void)leaf, (void)subleaf;
    if (!is_amd(c)) {
        out->eax = MAX_EXT_INTEL;
        return;
    }
    leaf_vendor(c, leaf, subleaf, out);
    out->eax = MAX_EXT_AMD;
}

static void leaf_ext_features(struct cpu *c, uint32_t leaf, uint32_t subleaf,
                              struct cpuid_regs *out)
{
    struct cpuid_regs basic = { 0 };

    (void)leaf, (void)subleaf;
    out->ecx = c->model->words[FW_8_1_ECX];
    out->edx = c->model->words[FW_8_1_EDX];
    if (!is_amd(c)) {
        /* SDM 2: SYSCALL is shown in 64-bit mode only. */
        if (!in_long64(c))
            out->edx &= ~BIT(FEAT_SYSCALL % 32);
        return;
    }
    leaf_features(c, 1, 0, &basic);
    out->eax = c->model->signature;
    out->edx |= basic.edx & 0x0183f3ff; /* AMD repeats these */
    if (c->model->nr_cpus == 1)
        out->ecx &= ~BIT(FEAT_CMP_LEGACY % 32);
}

static void leaf_brand(struct cpu *c, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
    const char *at = c->model->brand + 16 * (leaf - 0x80000002);

    (void)subleaf;
    out->eax = get32(at);
    out->ebx = get32(at + 4);
    out->ecx = get32(at + 8);
    out->edx = get32(at + 12);
}

static void leaf_amd_l1(struct cpu *c, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
    (void)leaf, (void)subleaf;
    if (!is_amd(c))
        return;
    out->eax = out->ebx = 0xff40ff40; /* TLBs: fully associative, 64 entries */
    out->ecx = out->edx = L1_KIB << 24 | 8 << 16 | 1 << 8 | CLFLUSH_BYTES;
}

static void leaf_l2(struct cpu *c, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
    (void)leaf, (void)subleaf;
    out->ecx = L2_KIB << 16 | WAYS_16 << 12 | CLFLUSH_BYTES;
    if (!is_amd(c))
        return;
    out->eax = out->ebx = WAYS_8 << 28 | 1024 << 16 | WAYS_8 << 12 | 1024;
    out->ecx |= 1 << 8;
    out->edx = (L3_KIB / 512) << 18 | WAYS_16 << 12 | 1 << 8 | CLFLUSH_BYTES;
}

/* Invariant TSC. */
static void leaf_ext_power(struct cpu *c, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
    (void)c, (void)leaf, (void)subleaf;
    out->edx = BIT(8);
}

static void leaf_widths(struct cpu *c, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
    (void)leaf, (void)subleaf;
    out->eax = c->model->phys_bits | (uint32_t)c->model->lin_bits << 8;
    out->ebx = c->model->words[FW_8_8_EBX];
    if (is_amd(c))
        out->ecx = MIN(c->model->nr_cpus - 1, 0xff) | id_bits(c) << 12;
}

static void leaf_amd_caches(struct cpu *c, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
    (void)leaf;
    if (model_has(c->model, FEAT_TOPOEXT))
        put_cache(c, subleaf, out);
}

static void leaf_amd_topology(struct cpu *c, uint32_t leaf, uint32_t subleaf,
                              struct cpuid_regs *out)
{
    (void)leaf, (void)subleaf;
    if (!model_has(c->model, FEAT_TOPOEXT))
        return;
    out->eax = c->id;
    out->ebx = c->id & 0xff; /* core; one thread per core; one node */
}

static void leaf_amd_more(struct cpu *c, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
    (void)leaf, (void)subleaf;
    out->eax = c->model->words[FW_8_21_EAX];
}

/* ---- the table ---- */

static const struct leaf {
    uint32_t first, last;
    void (*fill)(struct cpu *c, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out);
} leaves[] = {
    { 0, 0, leaf_vendor },
    { 1, 1, leaf_features },
    { 2, 2, leaf_descriptors },
    { 4, 4, leaf_caches },
    { 5, 5, leaf_monitor },
    { 6, 6, leaf_power },
    { 7, 7, leaf_features7 },
    { 0xb, 0xb, leaf_topology },
    { 0xd, 0xd, leaf_xsave },
    { 0x15, 0x15, leaf_tsc },
    { 0x16, 0x16, leaf_clocks },
    { 0x40000000, 0x40000000, leaf_hypervisor },
    { 0x40000001, 0x40000001, leaf_kvm },
    { 0x40000010, 0x40000010, leaf_timing },
    { 0x80000000, 0x80000000, leaf_ext_max },
    { 0x80000001, 0x80000001, leaf_ext_features },
    { 0x80000002, 0x80000004, leaf_brand },
    { 0x80000005, 0x80000005, leaf_amd_l1 },
    { 0x80000006, 0x80000006, leaf_l2 },
    { 0x80000007, 0x80000007, leaf_ext_power },
    { 0x80000008, 0x80000008, leaf_widths },
    { 0x8000001d, 0x8000001d, leaf_amd_caches },
    { 0x8000001e, 0x8000001e, leaf_amd_topology },
    { 0x80000021, 0x80000021, leaf_amd_more },
};

/*
 * Beyond the highest leaf, AMD gives zeros and Intel what its highest basic leaf gives (SDM 2,
 * "CPUID"). The hypervisor's range is ours and gives zeros.
 */
static uint32_t known_leaf(const struct cpu *c, uint32_t leaf)
{
    if (is_amd(c) || leaf <= MAX_BASIC_INTEL || leaf >> 28 == 4)
        return leaf;
    if (leaf >= 0x80000000 && leaf <= MAX_EXT_INTEL)
        return leaf;
    return MAX_BASIC_INTEL;
}

void cpu_cpuid(struct cpu *c, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
    *out = (struct cpuid_regs){ 0 };
    leaf = known_leaf(c, leaf);
    if (is_amd(c) && leaf < 0x40000000 && leaf > MAX_BASIC_AMD)
        return;
    for (unsigned i = 0; i < ARRAY_SIZE(leaves); i++)
        if (leaf >= leaves[i].first && leaf <= leaves[i].last)
            leaves[i].fill(c, leaf, subleaf, out);
}
