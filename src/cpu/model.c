/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPU models: which features a guest is offered, from what doppel implements (cpu/features.def),
 * what the host has, and what the model's name promises.
 *
 * "host" offers all that both have. "x86-64-v2" and "x86-64-v3" are the psABI's levels and no more,
 * whatever the host has beyond, so that guests see the same on all hosts of one vendor. Single
 * features can be added and taken away behind the name. Vendor, family and model number are always
 * the host's: where vendors differ, the instructions that run on the host's own unit decide.
 */
#include <cpuid.h>

#include "cpu/cpu.h"

/* Features of the system kind: made by doppel alone, so the host need not have them. */
static const enum cpu_feature own[] = {
    FEAT_VME,        FEAT_DE,      FEAT_PSE,     FEAT_TSC,  FEAT_MSR,     FEAT_PAE,
    FEAT_MCE,        FEAT_APIC,    FEAT_SEP,     FEAT_MTRR, FEAT_PGE,     FEAT_MCA,
    FEAT_PAT,        FEAT_PSE36,   FEAT_HTT,     FEAT_PCID, FEAT_X2APIC,  FEAT_TSC_DEADLINE,
    FEAT_HYPERVISOR, FEAT_INVPCID, FEAT_SMEP,    FEAT_SMAP, FEAT_UMIP,    FEAT_TSC_ADJUST,
    FEAT_ERMS,       FEAT_FSRM,    FEAT_SYSCALL, FEAT_NX,   FEAT_PDPE1GB, FEAT_RDTSCP,
    FEAT_LM,
};

/* The paravirtual interface; offered by all models, as a guest asks for it by itself. */
static const enum cpu_feature own_kvm[] = {
    FEAT_KVM_CLOCK,          FEAT_KVM_NO_IO_DELAY,  FEAT_KVM_CLOCK2,       FEAT_KVM_STEAL_TIME,
    FEAT_KVM_PV_EOI,         FEAT_KVM_PV_UNHALT,    FEAT_KVM_PV_TLB_FLUSH, FEAT_KVM_PV_IPI,
    FEAT_KVM_PV_SCHED_YIELD, FEAT_KVM_MSI_EXT_DEST, FEAT_KVM_CLOCK_STABLE,
};

/*
 * The same, by vendor. Those about speculation tell the guest to leave out mitigations that would
 * cost much and protect nothing: what its code becomes here has other branches than its own, and
 * its rings are not the host's (as ARCH_CAPABILITIES in cpu/msr.c does for Intel). Automatic IBRS
 * (AMD) and enhanced IBRS (Intel) spare it retpolines, BHI_DIS_S a loop at each system call.
 */
static const enum cpu_feature own_intel[] = { FEAT_ARCH_CAP, FEAT_SPEC_CTRL, FEAT_BHI_CTRL };
static const enum cpu_feature own_amd[] = {
    FEAT_MMXEXT,   FEAT_CMP_LEGACY, FEAT_TOPOEXT,      FEAT_AMD_SSB_NO,        FEAT_BTC_NO,
    FEAT_AUTOIBRS, FEAT_SRSO_NO,    FEAT_LFENCE_RDTSC, FEAT_NULL_SEL_CLR_BASE,
};

/*
 * Shown only where the user asks for them, whatever the host has: a guest that finds LA57 has five
 * levels to walk at every miss, hardly ever the memory that needs them, and its user code would
 * have to stay in bt's checked tier.
 */
static const enum cpu_feature on_request[] = { FEAT_LA57 };

/*
 * Implemented, but not shown. MONITOR: MWAIT would be a busy loop or a HLT, and guests idle better
 * with HLT. CR8_LEGACY: the decoder does not know LOCK MOV CR0.
 */
static const enum cpu_feature hidden[] = { FEAT_MONITOR, FEAT_CR8_LEGACY };

/* What the host's unit does not do any more (SDM 1, "x87 FPU Instruction and Data (Operand)
 * Pointers"): shown by all models, since it is the one that guests use. */
static const enum cpu_feature traits[] = { FEAT_FDP_EXCPTN_ONLY, FEAT_ZERO_FCS_FDS };

/* Useless without the other; also because the host's kernel may hide AVX by XCR0 alone. */
static const struct {
    enum cpu_feature what, needs;
} prerequisites[] = {
    { FEAT_XSAVEOPT, FEAT_XSAVE },
    { FEAT_XSAVEC, FEAT_XSAVE },
    { FEAT_XGETBV1, FEAT_XSAVE },
    { FEAT_AVX, FEAT_XSAVE },
    { FEAT_AVX2, FEAT_AVX },
    { FEAT_FMA, FEAT_AVX },
    { FEAT_F16C, FEAT_AVX },
    { FEAT_VAES, FEAT_AVX },
    { FEAT_VPCLMUL, FEAT_AVX },
    { FEAT_BHI_CTRL, FEAT_SPEC_CTRL },
    { FEAT_KVM_PV_TLB_FLUSH, FEAT_KVM_STEAL_TIME },
    { FEAT_KVM_PV_SCHED_YIELD, FEAT_KVM_STEAL_TIME },
};

/* The psABI's levels, each on top of the one before. */
static const enum cpu_feature level1[] = {
    FEAT_FPU, FEAT_CX8, FEAT_CMOV, FEAT_CLFSH, FEAT_MMX, FEAT_FXSR, FEAT_SSE, FEAT_SSE2,
};
static const enum cpu_feature level2[] = {
    FEAT_CX16, FEAT_LAHF64, FEAT_POPCNT, FEAT_SSE3, FEAT_SSSE3, FEAT_SSE41, FEAT_SSE42,
};
static const enum cpu_feature level3[] = {
    FEAT_AVX, FEAT_AVX2, FEAT_BMI1,  FEAT_BMI2,  FEAT_F16C,
    FEAT_FMA, FEAT_ABM,  FEAT_MOVBE, FEAT_XSAVE,
};

static const struct {
    const enum cpu_feature *features;
    unsigned nr;
} levels[] = {
    { level1, ARRAY_SIZE(level1) },
    { level2, ARRAY_SIZE(level2) },
    { level3, ARRAY_SIZE(level3) },
};

static const struct {
    const char *name;
    unsigned level; /* 0: all that the host has */
} models[] = {
    { "host", 0 },
    { "x86-64-v2", 2 },
    { "x86-64-v3", 3 },
};

static const struct feature {
    enum cpu_feature id;
    const char *text;
} features[] = {
#define FEATURE(id, word, bit, text) { FEAT_##id, text },
#include "cpu/features.def"
#undef FEATURE
};

static const char *feature_text(enum cpu_feature f)
{
    for (unsigned i = 0; i < ARRAY_SIZE(features); i++)
        if (features[i].id == f)
            return features[i].text;
    return "?";
}

const char *cpu_feature_at(unsigned word, unsigned bit)
{
    for (unsigned i = 0; i < ARRAY_SIZE(features); i++)
        if (features[i].id == word * 32 + bit)
            return features[i].text;
    return NULL;
}

int cpu_feature_word(uint32_t leaf, uint32_t subleaf, char reg)
{
    static const struct {
        uint32_t leaf, subleaf;
        char reg;
        enum feature_word word;
    } places[] = {
        { 1, 0, 'd', FW_1_EDX },
        { 1, 0, 'c', FW_1_ECX },
        { 7, 0, 'b', FW_7_EBX },
        { 7, 0, 'c', FW_7_ECX },
        { 7, 0, 'd', FW_7_EDX },
        { 7, 2, 'd', FW_7_2_EDX },
        { 0xd, 1, 'a', FW_D1_EAX },
        { 0x80000001, 0, 'd', FW_8_1_EDX },
        { 0x80000001, 0, 'c', FW_8_1_ECX },
        { 0x80000008, 0, 'b', FW_8_8_EBX },
        { 0x80000021, 0, 'a', FW_8_21_EAX },
        { 0x40000001, 0, 'a', FW_KVM },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(places); i++)
        if (places[i].leaf == leaf && places[i].subleaf == subleaf && places[i].reg == reg)
            return places[i].word;
    return -1;
}

/* Appends; always terminated. Freestanding, so without snprintf. */
static void add_text(char *buf, size_t bytes, const char *text)
{
    size_t at = 0;

    while (at < bytes && buf[at])
        at++;
    while (at + 1 < bytes && *text)
        buf[at++] = *text++;
    if (at < bytes)
        buf[at] = 0;
}

static bool same_text(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

/* ---- the host ---- */

static struct cpuid_regs host_cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct cpuid_regs r = { 0 }, max;
    uint32_t base = leaf & 0x80000000;

    __cpuid(base, max.eax, max.ebx, max.ecx, max.edx);
    if (leaf <= max.eax)
        __cpuid_count(leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
    return r;
}

static uint64_t host_xcr0(void)
{
    uint32_t lo, hi;

    if (!(host_cpuid(1, 0).ecx & BIT(27))) /* OSXSAVE */
        return 0;
    __asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return lo | (uint64_t)hi << 32;
}

static void host_words(uint32_t words[NR_FEATURE_WORDS])
{
    words[FW_1_EDX] = host_cpuid(1, 0).edx;
    words[FW_1_ECX] = host_cpuid(1, 0).ecx;
    words[FW_7_EBX] = host_cpuid(7, 0).ebx;
    words[FW_7_ECX] = host_cpuid(7, 0).ecx;
    words[FW_7_EDX] = host_cpuid(7, 0).edx;
    words[FW_7_2_EDX] = host_cpuid(7, 2).edx;
    words[FW_D1_EAX] = host_cpuid(0xd, 1).eax;
    words[FW_8_1_EDX] = host_cpuid(0x80000001, 0).edx;
    words[FW_8_1_ECX] = host_cpuid(0x80000001, 0).ecx;
    words[FW_8_8_EBX] = host_cpuid(0x80000008, 0).ebx;
    words[FW_8_21_EAX] = host_cpuid(0x80000021, 0).eax;
}

static void put32(char *at, uint32_t x)
{
    for (unsigned i = 0; i < 4; i++)
        at[i] = (char)(x >> 8 * i);
}

static void host_identity(struct cpu_model *m)
{
    struct cpuid_regs r = host_cpuid(0, 0);

    put32(m->vendor_id, r.ebx);
    put32(m->vendor_id + 4, r.edx);
    put32(m->vendor_id + 8, r.ecx);
    /* Hygon's are AMD's Zen; the others that remain follow Intel. */
    m->vendor = same_text(m->vendor_id, "AuthenticAMD") || same_text(m->vendor_id, "HygonGenuine")
                    ? VENDOR_AMD
                    : VENDOR_INTEL;
    m->signature = host_cpuid(1, 0).eax;
    for (unsigned i = 0; i < 3; i++) {
        r = host_cpuid(0x80000002 + i, 0);
        put32(m->brand + 16 * i, r.eax);
        put32(m->brand + 16 * i + 4, r.ebx);
        put32(m->brand + 16 * i + 8, r.ecx);
        put32(m->brand + 16 * i + 12, r.edx);
    }
}

/* ---- feature sets ---- */

static void offer(uint32_t words[NR_FEATURE_WORDS], const enum cpu_feature *set, unsigned nr)
{
    for (unsigned i = 0; i < nr; i++)
        words[set[i] / 32] |= BIT(set[i] % 32);
}

static void clear(uint32_t words[NR_FEATURE_WORDS], enum cpu_feature f)
{
    words[f / 32] &= ~BIT(f % 32);
}

/* Takes from the host's words what no guest is to see. */
static void mask_host(const struct cpu_model *m, uint32_t host[NR_FEATURE_WORDS])
{
    const uint64_t avx = XCR0_SSE | XCR0_AVX;

    if ((host_xcr0() & avx) != avx)
        clear(host, FEAT_AVX);
    for (unsigned i = 0; i < ARRAY_SIZE(hidden); i++)
        clear(host, hidden[i]);
    /* A set of the other vendor's would be a lie, or name MSRs that are not there. */
    if (m->vendor == VENDOR_AMD) {
        clear(host, FEAT_ARCH_CAP);
        clear(host, FEAT_SPEC_CTRL);
        clear(host, FEAT_BHI_CTRL);
    } else {
        host[FW_8_21_EAX] = 0;
    }
}

/* What host and doppel both have. */
static void offer_common(struct cpu_model *m, const uint32_t host[NR_FEATURE_WORDS])
{
    for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
        unsigned f = features[i].id;

        m->words[f / 32] |= host[f / 32] & BIT(f % 32);
    }
}

static bool offer_levels(struct cpu_model *m, const uint32_t host[NR_FEATURE_WORDS], unsigned level,
                         char *err, size_t err_bytes)
{
    for (unsigned l = 0; l < level; l++) {
        for (unsigned i = 0; i < levels[l].nr; i++) {
            unsigned f = levels[l].features[i];

            if (host[f / 32] >> (f % 32) & 1)
                continue;
            add_text(err, err_bytes, "this host's CPU lacks ");
            add_text(err, err_bytes, feature_text(f));
            add_text(err, err_bytes, ", which ");
            add_text(err, err_bytes, m->name);
            add_text(err, err_bytes, " needs");
            return false;
        }
        offer(m->words, levels[l].features, levels[l].nr);
    }
    return true;
}

static void offer_own(const struct cpu_model *m, uint32_t words[NR_FEATURE_WORDS])
{
    offer(words, own, ARRAY_SIZE(own));
    offer(words, own_kvm, ARRAY_SIZE(own_kvm));
    if (m->vendor == VENDOR_AMD)
        offer(words, own_amd, ARRAY_SIZE(own_amd));
    else
        offer(words, own_intel, ARRAY_SIZE(own_intel));
}

static void show_traits(struct cpu_model *m, const uint32_t host[NR_FEATURE_WORDS])
{
    for (unsigned i = 0; i < ARRAY_SIZE(traits); i++) {
        clear(m->words, traits[i]);
        m->words[traits[i] / 32] |= host[traits[i] / 32] & BIT(traits[i] % 32);
    }
}

static void drop_incomplete(struct cpu_model *m)
{
    for (unsigned i = 0; i < ARRAY_SIZE(prerequisites); i++)
        if (!model_has(m, prerequisites[i].needs))
            clear(m->words, prerequisites[i].what);
}

/* Physical addresses of named models are 40 bits wide: enough for 1 TB, and every host has them. */
static void set_widths(struct cpu_model *m, bool named)
{
    unsigned host_bits = host_cpuid(0x80000008, 0).eax & 0xff;

    m->phys_bits = named ? 40 : (uint8_t)MIN(MAX(host_bits, 36), 52);
    m->lin_bits = model_has(m, FEAT_LA57) ? 57 : 48;
    m->xcr0 = XCR0_X87 | XCR0_SSE | (model_has(m, FEAT_AVX) ? XCR0_AVX : 0);
}

/* ---- what the user adds and takes away ---- */

/* "+la57" or "-avx": one item of the list behind a model's name. */
struct change {
    char text[24]; /* with its sign; cut off if longer than any feature's */
    const struct feature *feature;
};

static const struct feature *feature_named(const char *text)
{
    for (unsigned i = 0; i < ARRAY_SIZE(features); i++)
        if (same_text(features[i].text, text))
            return &features[i];
    return NULL;
}

/* Takes the item at *at, which is behind a comma; *at ends at the next comma, or NULL. */
static struct change next_change(const char **at)
{
    struct change ch = { .feature = NULL };
    const char *p = *at;

    for (unsigned n = 0; *p && *p != ','; p++)
        if (n + 1 < sizeof(ch.text))
            ch.text[n++] = *p;
    if (ch.text[0] == '+' || ch.text[0] == '-')
        ch.feature = feature_named(ch.text + 1);
    *at = *p ? p + 1 : NULL;
    return ch;
}

static bool refuse(char *err, size_t err_bytes, const struct change *ch, const char *why)
{
    add_text(err, err_bytes, "'");
    add_text(err, err_bytes, ch->text);
    add_text(err, err_bytes, "': ");
    add_text(err, err_bytes, why);
    return false;
}

static bool apply_changes(struct cpu_model *m, const uint32_t host[NR_FEATURE_WORDS],
                          const char *list, char *err, size_t err_bytes)
{
    uint32_t possible[NR_FEATURE_WORDS]; /* the host's, and those that doppel makes */

    __builtin_memcpy(possible, host, sizeof(possible));
    offer_own(m, possible);
    offer(possible, on_request, ARRAY_SIZE(on_request));
    while (list) {
        struct change ch = next_change(&list);
        enum cpu_feature f;

        if (!ch.feature)
            return refuse(err, err_bytes, &ch,
                          "no + or - and a feature as /proc/cpuinfo names it, or one that doppel "
                          "does not know");
        f = ch.feature->id;
        if (ch.text[0] == '-')
            clear(m->words, f);
        else if (possible[f / 32] >> (f % 32) & 1)
            offer(m->words, &f, 1);
        else
            return refuse(err, err_bytes, &ch, "neither this host's CPU nor doppel has it");
    }
    return true;
}

/* After drop_incomplete(): is all there that was asked for? */
static bool check_changes(const struct cpu_model *m, const char *list, char *err, size_t err_bytes)
{
    while (list) {
        struct change ch = next_change(&list);

        if (ch.text[0] == '+' && !model_has(m, ch.feature->id))
            return refuse(err, err_bytes, &ch, "it needs another feature that is not there");
    }
    return true;
}

void cpu_model_no_nesting(struct cpu_model *m)
{
    clear(m->words, FEAT_VMX);
    clear(m->words, FEAT_SVM);
}

/* ---- the whole ---- */

static bool fill(struct cpu_model *m, unsigned level, const char *changes, char *err,
                 size_t err_bytes)
{
    uint32_t host[NR_FEATURE_WORDS];

    host_identity(m);
    host_words(host);
    mask_host(m, host);
    if (!level) {
        offer_common(m, host);
        for (unsigned i = 0; i < ARRAY_SIZE(on_request); i++)
            clear(m->words, on_request[i]);
    } else {
        __builtin_memset(m->brand, 0, sizeof(m->brand));
        add_text(m->brand, sizeof(m->brand), "doppel ");
        add_text(m->brand, sizeof(m->brand), m->name);
        if (!offer_levels(m, host, level, err, err_bytes))
            return false;
    }
    offer_own(m, m->words);
    if (!apply_changes(m, host, changes, err, err_bytes))
        return false;
    show_traits(m, host);
    drop_incomplete(m);
    if (!check_changes(m, changes, err, err_bytes))
        return false;
    set_widths(m, level != 0);
    m->nr_cpus = 1;
    return true;
}

/* Copies the model's name; returns the list behind it, or NULL. */
static const char *split_name(struct cpu_model *m, const char *spec)
{
    unsigned n = 0;

    for (; *spec && *spec != ','; spec++)
        if (n + 1 < sizeof(m->name))
            m->name[n++] = *spec;
    return *spec ? spec + 1 : NULL;
}

bool cpu_model_init(struct cpu_model *m, const char *spec, char *err, size_t err_bytes)
{
    const char *changes;

    *m = (struct cpu_model){ 0 };
    if (err_bytes)
        err[0] = 0;
    changes = split_name(m, spec ? spec : "host");
    for (unsigned i = 0; i < ARRAY_SIZE(models); i++)
        if (same_text(m->name, models[i].name))
            return fill(m, models[i].level, changes, err, err_bytes);
    add_text(err, err_bytes, "unknown CPU model '");
    add_text(err, err_bytes, m->name);
    add_text(err, err_bytes, "'; there are");
    for (unsigned i = 0; i < ARRAY_SIZE(models); i++) {
        add_text(err, err_bytes, i ? ", " : " ");
        add_text(err, err_bytes, models[i].name);
    }
    return false;
}

bool cpu_model_covers(const struct cpu_model *m, const struct cpu_model *other, char *missing,
                      size_t missing_bytes)
{
    bool covers = true;

    if (missing_bytes)
        missing[0] = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
        if (!model_has(other, features[i].id) || model_has(m, features[i].id))
            continue;
        add_text(missing, missing_bytes, covers ? "" : ", ");
        add_text(missing, missing_bytes, features[i].text);
        covers = false;
    }
    for (unsigned i = 0; i < NR_FEATURE_WORDS; i++) /* bits without a name */
        covers &= !(other->words[i] & ~m->words[i]);
    if (other->phys_bits > m->phys_bits || other->lin_bits > m->lin_bits ||
        other->xcr0 & ~m->xcr0) {
        add_text(missing, missing_bytes, covers ? "" : ", ");
        add_text(missing, missing_bytes, "address bits or vector state");
        covers = false;
    }
    if (!covers && missing_bytes && !missing[0])
        add_text(missing, missing_bytes, "a feature without a name");
    return covers;
}
