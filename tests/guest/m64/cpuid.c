/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPUID is consistent with itself and with what the CPU does; MSRs: those that exist, and #GP for
 * the others.
 */
#include "guest.h"

static word_t read_msr(word_t msr, word_t b)
{
    (void)b;
    return rdmsr((uint32_t)msr);
}

static word_t write_msr(word_t msr, word_t v)
{
    wrmsr((uint32_t)msr, v);
    return 0;
}

static word_t run_rdrand(word_t a, word_t b)
{
    (void)a, (void)b;
    asm volatile("rdrand %0" : "=r"(a) : : "cc");
    return a;
}

static word_t run_movbe(word_t a, word_t b)
{
    (void)b;
    asm volatile("movbe (%1), %k0" : "=r"(a) : "r"(a) : "memory");
    return a;
}

static word_t run_bmi2(word_t a, word_t b)
{
    asm volatile("pdep %1, %0, %0" : "+r"(a) : "r"(b));
    return a;
}

static word_t run_adx(word_t a, word_t b)
{
    asm volatile("adcx %1, %0" : "+r"(a) : "r"(b) : "cc");
    return a;
}

static word_t run_aes(word_t a, word_t b)
{
    (void)b;
    asm volatile("aesenc %xmm0, %xmm0");
    return a;
}

static word_t run_sha(word_t a, word_t b)
{
    (void)b;
    asm volatile("sha1msg1 %xmm0, %xmm0");
    return a;
}

static word_t run_clflush(word_t a, word_t b)
{
    (void)b;
    asm volatile("clflush (%0)" : : "r"(a) : "memory");
    return 0;
}

static word_t run_rdpid(word_t a, word_t b)
{
    (void)b;
    asm volatile("rdpid %0" : "=r"(a));
    return a;
}

static word_t run_monitor(word_t a, word_t b)
{
    (void)b;
    asm volatile("monitor" : : "a"(a), "c"(0), "d"(0));
    return 0;
}

static word_t run_vmxon(word_t a, word_t b)
{
    (void)b;
    asm volatile("vmxon (%0)" : : "r"(&a) : "memory", "cc");
    return 0;
}

struct feature {
    const char *name;
    uint32_t leaf;
    unsigned reg, bit; /* reg: 0 to 3 for EAX to EDX */
    guest_fn *fn;
};

static void features(void)
{
    static uint64_t word = 0x0123456789abcdef;
    static const struct feature table[] = {
        { "RDRAND", 1, 2, 30, run_rdrand },   { "MOVBE", 1, 2, 22, run_movbe },
        { "BMI2", 7, 1, 8, run_bmi2 },        { "ADX", 7, 1, 19, run_adx },
        { "AES", 1, 2, 25, run_aes },         { "SHA", 7, 1, 29, run_sha },
        { "CLFLUSH", 1, 3, 19, run_clflush }, { "RDPID", 7, 2, 22, run_rdpid },
        { "MONITOR", 1, 2, 3, run_monitor },  { "VMX", 1, 2, 5, run_vmxon },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
        const struct feature *f = &table[i];
        struct cpuid r = cpuid(f->leaf, 0);
        uint32_t regs[] = { r.a, r.b, r.c, r.d };
        struct trap t;

        if (f->fn == run_vmxon && regs[f->reg] >> f->bit & 1) {
            skip("the CPU model has it", "VMXON without VMX");
            continue;
        }
        t = try(f->fn, (word_t)&word, 1);
        EXPECT_TRAP(&t, regs[f->reg] >> f->bit & 1 ? VEC_NONE : VEC_UD, 0,
                    "%s runs if CPUID has it and is #UD if not", f->name);
    }
}

static void leaves(void)
{
    struct cpuid max = cpuid(0, 0), ext = cpuid(0x80000000, 0), one = cpuid(1, 0);
    unsigned size;

    EXPECT(max.a >= 0xd, "basic leaves up to 0Dh or more");
    EXPECT(ext.a >= 0x80000008, "extended leaves up to 80000008h or more");
    EXPECT(one.c >> 31, "hypervisor bit");
    EXPECT(cpuid(0x40000000, 0).a >= 0x40000000, "hypervisor leaves");
    EXPECT((cpuid(0x80000001, 0).d & (1u << 29 | 1u << 20 | 1u << 11)) ==
               (1u << 29 | 1u << 20 | 1u << 11),
           "long mode, NX, SYSCALL");
    EXPECT(phys_bits() >= 36 && phys_bits() <= 52, "36 to 52 physical address bits");
    EXPECT_EQ(cpuid(0x80000008, 0).a >> 8 & 0xff, cpuid(7, 0).c >> 16 & 1 ? 57 : 48,
              "linear address bits fit LA57");
    EXPECT((one.d & 0x07808111) == 0x07808111, "FPU, TSC, CX8, CMOV, MMX, FXSR, SSE, SSE2");
    EXPECT(!(one.c >> 28 & 1) || has_xsave(), "AVX comes with XSAVE");
    EXPECT(!has_invpcid() || has_pcid(), "INVPCID comes with PCID");
    if (has_xsave()) {
        size = cpuid(0xd, 0).c;
        EXPECT(size >= 576 && size <= 4096, "XSAVE area size");
        EXPECT_EQ(cpuid(0xd, 0).a & 3, 3, "XCR0 can have x87 and SSE");
    }
    EXPECT_EQ(cpuid(0xb, 0).d, one.b >> 24, "leaf 0Bh has the APIC ID");
}

static void msrs(void)
{
    static const struct {
        const char *name;
        uint32_t msr;
        bool read, write;
        uint64_t val;
    } table[] = {
        { "one that no CPU has", 0x12345678, false, false, 0 },
        { "one that no CPU has", 0xc0009999, false, false, 0 },
        { "APIC_BASE, reserved bits", MSR_APIC_BASE, true, false, 1ull << 63 },
        { "EFER, reserved bits", MSR_EFER, true, false, 1ull << 40 },
        { "PAT, a reserved type", MSR_PAT, true, false, 2 },
        { "PAT", MSR_PAT, true, true, 0x0007040600070406 },
        { "LSTAR", MSR_LSTAR, true, true, 0xffff800000000000 },
        { "SFMASK", MSR_SFMASK, true, true, 0x200 },
        { "TSC_AUX", MSR_TSC_AUX, true, true, 5 },
        { "TSC_AUX above 32 bits", MSR_TSC_AUX, true, false, 1ull << 32 },
        { "MTRRcap", 0xfe, true, false, 0 },
        { "SYSENTER_CS", MSR_SYSENTER_CS, true, true, 8 },
        { "a variable-range MTRR", 0x200, true, true, 6 },
        { "MTRRdefType, a reserved type", 0x2ff, true, false, 2 },
        { "MCG_CAP", 0x179, true, false, 0 },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
        uint64_t was = 0;
        struct trap t = try(read_msr, table[i].msr, 0);

        /* AMD drops TSC_AUX's upper half without a word. */
        if (is_amd() && table[i].msr == MSR_TSC_AUX && !table[i].write)
            continue;
        if (!table[i].read)
            tcg_deviates("gives 0 for unknown ones");
        EXPECT_TRAP(&t, table[i].read ? VEC_NONE : VEC_GP, 0, "RDMSR %s", table[i].name);
        if (t.vec == VEC_NONE)
            was = rdmsr(table[i].msr);
        t = try(write_msr, table[i].msr, table[i].val);
        if (!table[i].write)
            tcg_deviates("ignores it");
        EXPECT_TRAP(&t, table[i].write ? VEC_NONE : VEC_GP, 0, "WRMSR %s", table[i].name);
        if (t.vec == VEC_NONE && table[i].write) {
            EXPECT_EQ(rdmsr(table[i].msr), table[i].val, "%s keeps it", table[i].name);
            wrmsr(table[i].msr, was);
        }
    }
    if (on_tcg()) {
        skip("TCG does not check it", "EFER.LME with paging on");
    } else {
        struct trap t = try(write_msr, MSR_EFER, rdmsr(MSR_EFER) & ~(uint64_t)EFER_LME);

        EXPECT_TRAP(&t, VEC_GP, 0, "EFER.LME cannot change with paging on");
    }
    {
        uint64_t before = rdtsc();
        uint32_t aux, lo, hi;

        wrmsr(MSR_TSC_AUX, 0x1234);
        asm volatile("rdtscp" : "=a"(lo), "=d"(hi), "=c"(aux));
        EXPECT_EQ(aux, 0x1234, "RDTSCP gives TSC_AUX");
        EXPECT(((uint64_t)hi << 32 | lo) >= before, "and the TSC");
        wrmsr(MSR_TSC_AUX, 0);
    }
}

int main(void)
{
    leaves();
    features();
    msrs();
    return 0;
}
