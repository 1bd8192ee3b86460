/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which instructions a CPU model offers: from Zydis' instruction sets to CPUID feature bits. What
 * is not in the table is not offered, so a new decoder cannot let an instruction through that
 * nobody has thought about.
 */
#include "engine/interp/native.h"

/* An instruction set and the features all of which it needs. */
struct isa_rule {
    uint8_t isa;
    uint8_t nr;
    uint16_t need[2];
};

#define RULE0(set)       { .isa = ZYDIS_ISA_SET_##set, .nr = 0 },
#define RULE1(set, f)    { .isa = ZYDIS_ISA_SET_##set, .nr = 1, .need = { FEAT_##f } },
#define RULE2(set, f, g) { .isa = ZYDIS_ISA_SET_##set, .nr = 2, .need = { FEAT_##f, FEAT_##g } },

static const struct isa_rule isa_rules[] = {
    /* Every processor with long mode, and hints that are NOPs where the feature is missing. */
    RULE0(I86) RULE0(I186) RULE0(I286PROTECTED) RULE0(I286REAL) RULE0(I386) RULE0(I486) RULE0(
        I486REAL) RULE0(PENTIUMREAL) RULE0(PAUSE) RULE0(FAT_NOP) RULE0(PPRO) RULE0(RDPMC)
        RULE0(PREFETCH_NOP) RULE0(PREFETCHWT1) RULE0(CLDEMOTE) RULE0(MPX) RULE0(LAHF)
            RULE1(LONGMODE, LM) RULE1(AMD, SYSCALL) RULE1(CMOV, CMOV) RULE2(FCMOV, CMOV, FPU) RULE1(
                X87, FPU) RULE2(SSE3X87, FPU, SSE3) RULE1(PENTIUMMMX, MMX) RULE1(FXSAVE, FXSR)
                RULE1(FXSAVE64, FXSR) RULE1(SSE, SSE) RULE1(SSEMXCSR, SSE) RULE1(SSE_PREFETCH, SSE)
                    RULE1(SSE2, SSE2) RULE1(SSE2MMX, SSE2) RULE1(SSE3, SSE3) RULE1(SSSE3, SSSE3)
                        RULE1(SSSE3MMX, SSSE3) RULE1(SSE4, SSE41) RULE1(SSE42, SSE42) RULE1(
                            SSE4A, SSE4A) RULE1(POPCNT, POPCNT) RULE1(LZCNT, ABM) RULE1(BMI1, BMI1)
                            RULE1(BMI2, BMI2) RULE1(ADOX_ADCX, ADX) RULE1(AES, AES)
                                RULE1(PCLMULQDQ, PCLMUL) RULE1(SHA, SHA) RULE1(AVX, AVX) RULE1(
                                    AVX2, AVX2) RULE1(AVX2GATHER, AVX2) RULE2(AVXAES, AVX, AES)
                                    RULE2(VAES, AVX, VAES) RULE2(VPCLMULQDQ, AVX, VPCLMUL) RULE2(
                                        F16C, AVX, F16C) RULE2(FMA, AVX, FMA) RULE1(XSAVE, XSAVE)
                                        RULE1(XSAVEOPT, XSAVEOPT) RULE1(XSAVEC, XSAVEC)
                                            RULE1(MOVBE, MOVBE) RULE1(RDRAND, RDRAND)
                                                RULE1(RDSEED, RDSEED) RULE1(CMPXCHG16B, CX16) RULE1(
                                                    MONITOR, MONITOR) RULE1(RDWRFSGS, FSGSBASE)
                                                    RULE1(RDTSCP, RDTSCP) RULE1(RDPID, RDPID)
                                                        RULE1(INVPCID, INVPCID) RULE1(SMAP, SMAP)
                                                            RULE1(CLFSH, CLFSH)
                                                                RULE1(CLFLUSHOPT, CLFLUSHOPT)
                                                                    RULE1(CLWB, CLWB)
                                                                        RULE1(CLZERO, CLZERO)
};

/* Instructions with a feature of their own inside a larger set. */
struct mnemonic_rule {
    uint16_t mnemonic;
    uint16_t need;
};

static const struct mnemonic_rule mnemonic_rules[] = {
    { ZYDIS_MNEMONIC_CMPXCHG8B, FEAT_CX8 },     { ZYDIS_MNEMONIC_RDTSC, FEAT_TSC },
    { ZYDIS_MNEMONIC_RDMSR, FEAT_MSR },         { ZYDIS_MNEMONIC_WRMSR, FEAT_MSR },
    { ZYDIS_MNEMONIC_SYSENTER, FEAT_SEP },      { ZYDIS_MNEMONIC_SYSEXIT, FEAT_SEP },
    { ZYDIS_MNEMONIC_SYSCALL, FEAT_SYSCALL },   { ZYDIS_MNEMONIC_SYSRET, FEAT_SYSCALL },
    { ZYDIS_MNEMONIC_FCOMI, FEAT_CMOV },        { ZYDIS_MNEMONIC_FCOMIP, FEAT_CMOV },
    { ZYDIS_MNEMONIC_FUCOMI, FEAT_CMOV },       { ZYDIS_MNEMONIC_FUCOMIP, FEAT_CMOV },
    { ZYDIS_MNEMONIC_VPCLMULQDQ, FEAT_PCLMUL },
};

static bool offered_as_hypercall(ZydisMnemonic m)
{
    return m == ZYDIS_MNEMONIC_VMCALL || m == ZYDIS_MNEMONIC_VMMCALL;
}

/* CET's two hints in the NOP space (SDM 2, ENDBR64, RDSSPD); its other instructions are #UD without
 * the feature. */
static bool offered_as_nop(ZydisMnemonic m)
{
    return m == ZYDIS_MNEMONIC_ENDBR32 || m == ZYDIS_MNEMONIC_ENDBR64 ||
           m == ZYDIS_MNEMONIC_RDSSPD || m == ZYDIS_MNEMONIC_RDSSPQ;
}

static bool isa_offered(const struct cpu_model *model, ZydisISASet isa)
{
    for (unsigned i = 0; i < ARRAY_SIZE(isa_rules); i++) {
        const struct isa_rule *r = &isa_rules[i];

        if (r->isa != isa)
            continue;
        for (unsigned k = 0; k < r->nr; k++)
            if (!model_has(model, r->need[k]))
                return false;
        return true;
    }
    return false;
}

bool native_insn_offered(const struct cpu_model *model, const ZydisDecodedInstruction *insn)
{
    if (insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
        insn->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
        return false;
    if (offered_as_hypercall(insn->mnemonic) || offered_as_nop(insn->mnemonic))
        return true;
    for (unsigned i = 0; i < ARRAY_SIZE(mnemonic_rules); i++)
        if (mnemonic_rules[i].mnemonic == insn->mnemonic &&
            !model_has(model, mnemonic_rules[i].need))
            return false;
    /* LAHF and SAHF always exist outside 64-bit mode. */
    if (insn->meta.isa_set == ZYDIS_ISA_SET_LAHF &&
        insn->machine_mode == ZYDIS_MACHINE_MODE_LONG_64)
        return model_has(model, FEAT_LAHF64);
    return isa_offered(model, insn->meta.isa_set);
}
