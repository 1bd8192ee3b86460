/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPUID: the model's leaves as everywhere, less what the kernel cannot give its guests.
 */
#include <linux/kvm_para.h>
#include <string.h>

#include "engine/kvm/kvm.h"

#define KVM_LEAF          0x40000000u
#define KVM_LEAF_FEATURES 0x40000001u
#define TIMING_LEAF       0x40000010u
#define SVM_LEAF          0x8000000au

/* Where each feature word is in CPUID. */
static const struct {
    uint32_t leaf, subleaf;
    unsigned reg; /* EAX, EBX, ECX, EDX */
} words[NR_FEATURE_WORDS] = {
    [FW_1_EDX] = { 1, 0, 3 },
    [FW_1_ECX] = { 1, 0, 2 },
    [FW_7_EBX] = { 7, 0, 1 },
    [FW_7_ECX] = { 7, 0, 2 },
    [FW_7_EDX] = { 7, 0, 3 },
    [FW_7_2_EDX] = { 7, 2, 3 },
    [FW_D1_EAX] = { 0xd, 1, 0 },
    [FW_8_1_EDX] = { 0x80000001, 0, 3 },
    [FW_8_1_ECX] = { 0x80000001, 0, 2 },
    [FW_8_8_EBX] = { 0x80000008, 0, 1 },
    [FW_8_21_EAX] = { 0x80000021, 0, 0 },
    [FW_KVM] = { KVM_LEAF_FEATURES, 0, 0 },
};

/* Made by the machine, not by the processor that runs the code: local APIC, MTRRs, topology. */
static const enum cpu_feature of_machine[] = {
    FEAT_APIC, FEAT_X2APIC,     FEAT_TSC_DEADLINE, FEAT_MTRR,       FEAT_MCE,        FEAT_MCA,
    FEAT_HTT,  FEAT_HYPERVISOR, FEAT_TOPOEXT,      FEAT_CMP_LEGACY, FEAT_TSC_ADJUST,
};

/*
 * The paravirtual features whose work is the kernel's, and those of them that need its local APICs:
 * without, its hypercalls for kicks, IPIs and yielding find nobody. What the other engines do not
 * have (asynchronous page faults, poll control, migration control) is not in the model.
 */
#define PV_KERNEL                                                                                  \
    (BIT(KVM_FEATURE_CLOCKSOURCE) | BIT(KVM_FEATURE_NOP_IO_DELAY) |                                \
     BIT(KVM_FEATURE_CLOCKSOURCE2) | BIT(KVM_FEATURE_STEAL_TIME) | BIT(KVM_FEATURE_PV_TLB_FLUSH) | \
     BIT(KVM_FEATURE_CLOCKSOURCE_STABLE_BIT))
#define PV_KERNEL_APIC                                                                     \
    (BIT(KVM_FEATURE_PV_EOI) | BIT(KVM_FEATURE_PV_UNHALT) | BIT(KVM_FEATURE_PV_SEND_IPI) | \
     BIT(KVM_FEATURE_PV_SCHED_YIELD))
/* Messages of devices are read by the machine; the core's APICs end interrupts in memory, too. */
#define PV_OURS      BIT(KVM_FEATURE_MSI_EXT_DEST_ID)
#define PV_OURS_APIC BIT(KVM_FEATURE_PV_EOI)

static uint32_t entry_reg(const struct kvm_cpuid_entry2 *e, unsigned reg)
{
    const uint32_t regs[] = { e->eax, e->ebx, e->ecx, e->edx };

    return regs[reg];
}

static const struct kvm_cpuid_entry2 *entry_find(const struct kvm_cpuid_table *t, uint32_t leaf,
                                                 uint32_t subleaf)
{
    for (uint32_t i = 0; i < t->head.nent; i++)
        if (t->entries[i].function == leaf && t->entries[i].index == subleaf)
            return &t->entries[i];
    return NULL;
}

static uint32_t supported_reg(const struct kvm_cpuid_table *t, uint32_t leaf, uint32_t subleaf,
                              unsigned reg)
{
    const struct kvm_cpuid_entry2 *e = entry_find(t, leaf, subleaf);

    return e ? entry_reg(e, reg) : 0;
}

int kvm_get_supported(int sys, struct kvm_cpuid_table *out)
{
    memset(out, 0, sizeof(*out));
    out->head.nent = KVM_CPUID_MAX;
    return kvm_ioctl(sys, KVM_GET_SUPPORTED_CPUID, out);
}

static uint32_t pv_offered(uint32_t supported, bool split)
{
    uint32_t pv;

    if (split)
        pv = (supported & (PV_KERNEL | PV_KERNEL_APIC)) | PV_OURS;
    else
        pv = (supported & PV_KERNEL) | PV_OURS | PV_OURS_APIC;
    /* Both are about a flag in it. */
    if (!(pv & BIT(KVM_FEATURE_STEAL_TIME)))
        pv &= ~(BIT(KVM_FEATURE_PV_TLB_FLUSH) | BIT(KVM_FEATURE_PV_SCHED_YIELD));
    return pv;
}

void kvm_trim(struct cpu_model *m, const struct kvm_cpuid_table *supported, bool split)
{
    uint32_t machine[NR_FEATURE_WORDS] = { 0 };
    uint32_t bits_phys = supported_reg(supported, 0x80000008, 0, 0) & 0xff;

    for (unsigned i = 0; i < ARRAY_SIZE(of_machine); i++)
        machine[of_machine[i] / 32] |= BIT(of_machine[i] % 32);
    for (unsigned i = 0; i < NR_FEATURE_WORDS; i++) {
        uint32_t have = supported_reg(supported, words[i].leaf, words[i].subleaf, words[i].reg);

        m->words[i] &= i == FW_KVM ? pv_offered(have, split) : machine[i] | have;
    }
    if (!model_has(m, FEAT_XSAVE))
        m->words[FEAT_AVX / 32] &= ~BIT(FEAT_AVX % 32);
    if (!model_has(m, FEAT_AVX)) {
        static const enum cpu_feature needs_avx[] = { FEAT_AVX2, FEAT_FMA, FEAT_F16C, FEAT_VAES,
                                                      FEAT_VPCLMUL };

        for (unsigned i = 0; i < ARRAY_SIZE(needs_avx); i++)
            m->words[needs_avx[i] / 32] &= ~BIT(needs_avx[i] % 32);
        m->xcr0 &= ~XCR0_AVX;
    }
    if (!model_has(m, FEAT_LA57))
        m->lin_bits = 48;
    if (bits_phys >= 32 && bits_phys < m->phys_bits)
        m->phys_bits = (uint8_t)bits_phys;
}

/* ---- what a guest needs against speculation; the engines that translate have no use for it ----
 */

#define SPEC_7_EDX   (BIT(26) | BIT(27) | BIT(31))                     /* IBRS+IBPB, STIBP, SSBD */
#define SPEC_8_8_EBX (BIT(12) | BIT(14) | BIT(15) | BIT(17) | BIT(24)) /* the same, AMD's way */

/* ---- a vCPU's table ---- */

static void put(struct kvm_cpuid_table *t, const struct kvm_cpuid_entry2 *e)
{
    if (t->head.nent < KVM_CPUID_MAX)
        t->entries[t->head.nent++] = *e;
}

static void put_model(struct kvm_vcpu *k, struct kvm_cpuid_table *t, uint32_t leaf, unsigned nr)
{
    struct cpu *c = CPU(&k->iv);
    const struct kvm_cpuid_table *have = &k->vm->supported;

    for (uint32_t sub = 0; sub < nr; sub++) {
        struct cpuid_regs r;
        struct kvm_cpuid_entry2 e = { .function = leaf, .index = sub };

        cpu_cpuid(c, leaf, sub, &r);
        if (nr > 1)
            e.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
        if (leaf == 7 && sub == 0)
            r.edx |= supported_reg(have, 7, 0, 3) & SPEC_7_EDX;
        if (leaf == 0x80000008)
            r.ebx |= supported_reg(have, leaf, 0, 1) & SPEC_8_8_EBX;
        if (leaf == SVM_LEAF && model_has(c->model, FEAT_SVM)) {
            r.eax = supported_reg(have, leaf, 0, 0);
            r.ebx = supported_reg(have, leaf, 0, 1);
            r.edx = supported_reg(have, leaf, 0, 3);
        }
        /* Not every host's TSC is invariant. */
        if (leaf == 0x80000007)
            r.edx &= supported_reg(have, leaf, 0, 3) | ~BIT(8);
        e.eax = r.eax, e.ebx = r.ebx, e.ecx = r.ecx, e.edx = r.edx;
        put(t, &e);
    }
}

static unsigned nr_subleaves(uint32_t leaf)
{
    switch (leaf) {
    case 4:
    case 0x8000001d:
        return 5;
    case 7:
    case 0xb:
    case 0xd:
        return 3;
    default:
        return 1;
    }
}

static void put_range(struct kvm_vcpu *k, struct kvm_cpuid_table *t, uint32_t first)
{
    struct cpuid_regs max;

    cpu_cpuid(CPU(&k->iv), first, 0, &max);
    for (uint32_t leaf = first; leaf <= MIN(max.eax, first + 0x40); leaf++)
        put_model(k, t, leaf, nr_subleaves(leaf));
}

int kvm_set_cpuid(struct kvm_vcpu *k)
{
    struct kvm_cpuid_table t = { .head = { .nent = 0 } };

    put_range(k, &t, 0);
    put_range(k, &t, 0x80000000);
    put_model(k, &t, KVM_LEAF, 1); /* KVM's name, if anything of it is offered */
    put_model(k, &t, KVM_LEAF_FEATURES, 1);
    put_model(k, &t, TIMING_LEAF, 1);
    return kvm_ioctl(k->fd, KVM_SET_CPUID2, &t);
}
