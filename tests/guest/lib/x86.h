/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The processor as C sees it: one wrapper per instruction, bits by their names in the manual. For
 * guests of both widths.
 */
#ifndef GUEST_X86_H
#define GUEST_X86_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uintptr_t word_t; /* a general register */

enum vector {
    VEC_DE = 0,
    VEC_DB = 1,
    VEC_NMI = 2,
    VEC_BP = 3,
    VEC_OF = 4,
    VEC_BR = 5,
    VEC_UD = 6,
    VEC_NM = 7,
    VEC_DF = 8,
    VEC_TS = 10,
    VEC_NP = 11,
    VEC_SS = 12,
    VEC_GP = 13,
    VEC_PF = 14,
    VEC_MF = 16,
    VEC_AC = 17,
    VEC_XM = 19,
};

#define FLAG_CF    (1u << 0)
#define FLAG_ZF    (1u << 6)
#define FLAG_TF    (1u << 8)
#define FLAG_IF    (1u << 9)
#define FLAG_DF    (1u << 10)
#define FLAG_IOPL3 (3u << 12)
#define FLAG_NT    (1u << 14)
#define FLAG_RF    (1u << 16)
#define FLAG_VM    (1u << 17)
#define FLAG_AC    (1u << 18)
#define FLAG_VIF   (1u << 19)
#define FLAG_VIP   (1u << 20)
#define FLAG_ID    (1u << 21)

#define CR0_PE         (1u << 0)
#define CR0_MP         (1u << 1)
#define CR0_EM         (1u << 2)
#define CR0_TS         (1u << 3)
#define CR0_NE         (1u << 5)
#define CR0_WP         (1u << 16)
#define CR0_AM         (1u << 18)
#define CR0_NW         (1u << 29)
#define CR0_CD         (1u << 30)
#define CR0_PG         (1u << 31)
#define CR4_VME        (1u << 0)
#define CR4_PVI        (1u << 1)
#define CR4_TSD        (1u << 2)
#define CR4_DE         (1u << 3)
#define CR4_PSE        (1u << 4)
#define CR4_PAE        (1u << 5)
#define CR4_PGE        (1u << 7)
#define CR4_OSFXSR     (1u << 9)
#define CR4_OSXMMEXCPT (1u << 10)
#define CR4_UMIP       (1u << 11)
#define CR4_LA57       (1u << 12)
#define CR4_FSGSBASE   (1u << 16)
#define CR4_PCIDE      (1u << 17)
#define CR4_OSXSAVE    (1u << 18)
#define CR4_SMEP       (1u << 20)
#define CR4_SMAP       (1u << 21)

#define PF_P    1u
#define PF_W    2u
#define PF_U    4u
#define PF_RSVD 8u
#define PF_I    16u

#define PTE_P   1ull
#define PTE_W   2ull
#define PTE_U   4ull
#define PTE_PWT 8ull
#define PTE_PCD 0x10ull
#define PTE_A   0x20ull
#define PTE_D   0x40ull
#define PTE_PS  0x80ull
#define PTE_G   0x100ull
#define PTE_NX  (1ull << 63)

#define MSR_TSC            0x10u
#define MSR_APIC_BASE      0x1bu
#define MSR_SYSENTER_CS    0x174u
#define MSR_SYSENTER_ESP   0x175u
#define MSR_SYSENTER_EIP   0x176u
#define MSR_PAT            0x277u
#define MSR_TSC_DEADLINE   0x6e0u
#define MSR_X2APIC         0x800u
#define MSR_EFER           0xc0000080u
#define MSR_STAR           0xc0000081u
#define MSR_LSTAR          0xc0000082u
#define MSR_CSTAR          0xc0000083u
#define MSR_SFMASK         0xc0000084u
#define MSR_FS_BASE        0xc0000100u
#define MSR_GS_BASE        0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX        0xc0000103u
#define EFER_SCE           (1u << 0)
#define EFER_LME           (1u << 8)
#define EFER_LMA           (1u << 10)
#define EFER_NXE           (1u << 11)

static inline void outb(uint16_t port, uint8_t v)
{
    asm volatile("outb %0, %1" : : "a"(v), "Nd"(port) : "memory");
}
static inline void outw(uint16_t port, uint16_t v)
{
    asm volatile("outw %0, %1" : : "a"(v), "Nd"(port) : "memory");
}
static inline void outl(uint16_t port, uint32_t v)
{
    asm volatile("outl %0, %1" : : "a"(v), "Nd"(port) : "memory");
}
static inline uint8_t inb(uint16_t port)
{
    uint8_t v;

    asm volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}
static inline uint16_t inw(uint16_t port)
{
    uint16_t v;

    asm volatile("inw %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}
static inline uint32_t inl(uint16_t port)
{
    uint32_t v;

    asm volatile("inl %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}

#define CR_ACCESS(n)                                               \
    static inline word_t read_cr##n(void)                          \
    {                                                              \
        word_t v;                                                  \
        asm volatile("mov %%cr" #n ", %0" : "=r"(v) : : "memory"); \
        return v;                                                  \
    }                                                              \
    static inline void write_cr##n(word_t v)                       \
    {                                                              \
        asm volatile("mov %0, %%cr" #n : : "r"(v) : "memory");     \
    }
CR_ACCESS(0)
CR_ACCESS(2)
CR_ACCESS(3)
CR_ACCESS(4)

#define DR_ACCESS(n)                                               \
    static inline word_t read_dr##n(void)                          \
    {                                                              \
        word_t v;                                                  \
        asm volatile("mov %%dr" #n ", %0" : "=r"(v) : : "memory"); \
        return v;                                                  \
    }                                                              \
    static inline void write_dr##n(word_t v)                       \
    {                                                              \
        asm volatile("mov %0, %%dr" #n : : "r"(v) : "memory");     \
    }
DR_ACCESS(0)
DR_ACCESS(1)
DR_ACCESS(2)
DR_ACCESS(3)
DR_ACCESS(6)
DR_ACCESS(7)

static inline uint64_t rdmsr(uint32_t msr)
{
    uint32_t lo, hi;

    asm volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr) : "memory");
    return (uint64_t)hi << 32 | lo;
}
static inline void wrmsr(uint32_t msr, uint64_t v)
{
    asm volatile("wrmsr" : : "a"((uint32_t)v), "d"((uint32_t)(v >> 32)), "c"(msr) : "memory");
}
static inline uint64_t rdtsc(void)
{
    uint32_t lo, hi;

    asm volatile("rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
    return (uint64_t)hi << 32 | lo;
}

struct cpuid {
    uint32_t a, b, c, d;
};
static inline struct cpuid cpuid(uint32_t leaf, uint32_t sub)
{
    struct cpuid r;

    asm volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(sub));
    return r;
}
static inline bool is_amd(void)
{
    return cpuid(0, 0).b == 0x68747541; /* "Auth" */
}
static inline bool has_pcid(void)
{
    return cpuid(1, 0).c >> 17 & 1;
}
static inline bool has_x2apic(void)
{
    return cpuid(1, 0).c >> 21 & 1;
}
static inline bool has_tsc_deadline(void)
{
    return cpuid(1, 0).c >> 24 & 1;
}
static inline bool has_xsave(void)
{
    return cpuid(1, 0).c >> 26 & 1;
}
static inline bool has_fsgsbase(void)
{
    return cpuid(7, 0).b & 1;
}
static inline bool has_smep(void)
{
    return cpuid(7, 0).b >> 7 & 1;
}
static inline bool has_invpcid(void)
{
    return cpuid(7, 0).b >> 10 & 1;
}
static inline bool has_smap(void)
{
    return cpuid(7, 0).b >> 20 & 1;
}
static inline bool has_umip(void)
{
    return cpuid(7, 0).c >> 2 & 1;
}
static inline bool has_1g_pages(void)
{
    return cpuid(0x80000001, 0).d >> 26 & 1;
}
static inline unsigned phys_bits(void)
{
    return cpuid(0x80000008, 0).a & 0xff;
}

static inline word_t read_flags(void)
{
    word_t v;

    asm volatile("pushf; pop %0" : "=r"(v) : : "memory");
    return v;
}
static inline void write_flags(word_t v)
{
    asm volatile("push %0; popf" : : "r"(v) : "memory", "cc");
}
static inline void cli(void)
{
    asm volatile("cli" : : : "memory");
}
static inline void sti(void)
{
    asm volatile("sti; nop" : : : "memory");
}
static inline void pause(void)
{
    asm volatile("pause" : : : "memory");
}
static inline void clts(void)
{
    asm volatile("clts" : : : "memory");
}
/* Nothing can come between: STI's shadow covers HLT. */
static inline void sti_hlt_cli(void)
{
    asm volatile("sti; hlt; cli" : : : "memory");
}
static inline void invlpg(const void *p)
{
    asm volatile("invlpg (%0)" : : "r"(p) : "memory");
}
static inline void flush_tlb(void)
{
    write_cr3(read_cr3());
}

/* Accesses that the compiler neither drops nor merges. */
static inline uint8_t read8(const volatile void *p)
{
    return *(const volatile uint8_t *)p;
}
static inline uint32_t read32(const volatile void *p)
{
    return *(const volatile uint32_t *)p;
}
static inline void write8(volatile void *p, uint8_t v)
{
    *(volatile uint8_t *)p = v;
}
static inline void write32(volatile void *p, uint32_t v)
{
    *(volatile uint32_t *)p = v;
}

#endif
