/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FPU and SSE as an operating system sees them: #NM by TS and EM, #MF and #XM, images of FXSAVE and
 * XSAVE, XCR0, MXCSR. SDM 1, "Programming with the x87 FPU", "Programming with SSE"; SDM 3, "System
 * Programming for Instruction Set Extensions".
 */
#include "guest.h"

static uint8_t image[4096] __attribute__((aligned(64))), image2[4096] __attribute__((aligned(64)));

#define OP(name, insn)                                                 \
    static word_t name(word_t a, word_t b)                             \
    {                                                                  \
        (void)b;                                                       \
        asm volatile(insn : "+a"(a) : : "rcx", "rdx", "memory", "cc"); \
        return a;                                                      \
    }
OP(x87, "fld1\n\tfstp %%st(0)")
OP(fwait, "fwait")
OP(sse, "xorps %%xmm0, %%xmm0")
OP(fxsave, "fxsave (%%rax)")
OP(fxrstor, "fxrstor (%%rax)")
OP(ldmxcsr, "ldmxcsr (%%rax)")
OP(divps, "movss (%%rax), %%xmm0\n\tmovss 4(%%rax), %%xmm1\n\tdivss %%xmm1, %%xmm0")
OP(movaps, "movaps (%%rax), %%xmm0")
OP(fdiv0, "fninit\n\tfldcw (%%rax)\n\tfld1\n\tfldz\n\tfdivrp %%st, %%st(1)\n\tnop")
OP(xsave, "xsave (%%rax)")
OP(xgetbv, "mov %%eax, %%ecx\n\txgetbv")
OP(avx, "vxorps %%ymm0, %%ymm0, %%ymm0")

static word_t xsetbv(word_t v, word_t reg)
{
    asm volatile("xsetbv" : : "a"((uint32_t)v), "d"((uint32_t)(v >> 32)), "c"((uint32_t)reg));
    return 0;
}

static void not_available(void)
{
    const word_t cr0 = read_cr0(), cr4 = read_cr4();
    struct trap t;

    write_cr0(cr0 | CR0_TS);
    t = try(x87, 0, 0);
    EXPECT_TRAP(&t, VEC_NM, 0, "x87 with TS");
    t = try(sse, 0, 0);
    EXPECT_TRAP(&t, VEC_NM, 0, "SSE with TS");
    t = try(fwait, 0, 0);
    EXPECT_TRAP(&t, VEC_NM, 0, "FWAIT with TS and MP");
    t = try(fxsave, (word_t)image, 0);
    EXPECT_TRAP(&t, VEC_NM, 0, "FXSAVE with TS");
    write_cr0((cr0 | CR0_TS) & ~(word_t)CR0_MP);
    t = try(fwait, 0, 0);
    EXPECT_TRAP(&t, VEC_NONE, 0, "FWAIT with TS without MP");
    clts();
    t = try(x87, 0, 0);
    EXPECT_TRAP(&t, VEC_NONE, 0, "x87 after CLTS");
    write_cr0((cr0 | CR0_EM) & ~(word_t)CR0_MP);
    t = try(x87, 0, 0);
    EXPECT_TRAP(&t, VEC_NM, 0, "x87 with EM");
    t = try(sse, 0, 0);
    EXPECT_TRAP(&t, VEC_UD, 0, "SSE with EM");
    write_cr0(cr0);
    write_cr4(cr4 & ~(word_t)CR4_OSFXSR);
    t = try(sse, 0, 0);
    EXPECT_TRAP(&t, VEC_UD, 0, "SSE without CR4.OSFXSR");
    write_cr4(cr4);
}

static void errors(void)
{
    static float numbers[2] = { 1, 0 };
    static uint32_t mxcsr = 0x1f80 & ~0x200u, bad = 0x10000, normal = 0x1f80;
    static uint16_t control = 0x37f & ~4u;
    struct trap t;

    t = try(ldmxcsr, (word_t)&bad, 0);
    tcg_deviates("takes any value");
    EXPECT_TRAP(&t, VEC_GP, 0, "LDMXCSR with a reserved bit");
    ldmxcsr((word_t)&normal, 0);
    t = try(divps, (word_t)numbers, 0);
    EXPECT_TRAP(&t, VEC_NONE, 0, "division by zero, masked");
    ldmxcsr((word_t)&mxcsr, 0);
    t = try(divps, (word_t)numbers, 0);
    tcg_deviates("never raises it");
    EXPECT_TRAP(&t, VEC_XM, 0, "division by zero, unmasked: #XM");
    write_cr4(read_cr4() & ~(word_t)CR4_OSXMMEXCPT);
    t = try(divps, (word_t)numbers, 0);
    tcg_deviates("never raises #XM");
    EXPECT_TRAP(&t, VEC_UD, 0, "the same without CR4.OSXMMEXCPT: #UD");
    write_cr4(read_cr4() | CR4_OSXMMEXCPT);
    ldmxcsr((word_t)&normal, 0);
    t = try(movaps, (word_t)image + 4, 0);
    tcg_deviates("does not check alignment");
    EXPECT_TRAP(&t, VEC_GP, 0, "MOVAPS of an unaligned operand");

    t = try(fdiv0, (word_t)&control, 0);
    EXPECT_TRAP(&t, VEC_NONE, 0, "x87 division by zero, unmasked, is not reported by the division");
    t = try(fwait, 0, 0);
    EXPECT_TRAP(&t, VEC_MF, 0, "but by FWAIT: #MF");
    t = try(x87, 0, 0);
    tcg_deviates("raises it by FWAIT only");
    EXPECT_TRAP(&t, VEC_MF, 0, "or the next x87 instruction");
    asm volatile("fnclex");
    t = try(fwait, 0, 0);
    EXPECT_TRAP(&t, VEC_NONE, 0, "FNCLEX forgets it");
    asm volatile("fninit");
}

static uint32_t at32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, 4);
    return v;
}

static void fxsave_image(void)
{
    static const uint64_t vec[2] = { 0x1122334455667788, 0x99aabbccddeeff00 };
    uint64_t out[2];
    struct trap t;

    memset(image, 0xcc, 512);
    asm volatile(
        "fninit\n\tfld1\n\tfldpi\n\tmovups (%1), %%xmm5\n\tmovups (%1), %%xmm15\n\tfxsave64 (%0)"
        :
        : "r"(image), "r"(vec)
        : "memory");
    EXPECT_EQ(image[0] | image[1] << 8, 0x37f, "FXSAVE: FCW");
    EXPECT_EQ((image[3] >> 3) & 7, 6, "FXSAVE: TOP");
    EXPECT_EQ(image[4], 0xc0, "FXSAVE: abridged tag word");
    EXPECT_EQ(at32(image + 24), 0x1f80, "FXSAVE: MXCSR");
    EXPECT_EQ(at32(image + 28) & 0xffbf, 0xffbf, "FXSAVE: MXCSR_MASK");
    EXPECT_EQ(image[32 + 8] | image[32 + 9] << 8, 0x4000, "FXSAVE: ST0 is pi");
    EXPECT_EQ(image[48 + 8] | image[48 + 9] << 8, 0x3fff, "FXSAVE: ST1 is 1");
    EXPECT(!memcmp(image + 160 + 5 * 16, vec, 16), "FXSAVE: XMM5");
    EXPECT(!memcmp(image + 160 + 15 * 16, vec, 16), "FXSAVE: XMM15");
    EXPECT_EQ(image[480], 0xcc, "FXSAVE: bytes 464 to 511 are left alone");
    asm volatile("fninit\n\txorps %%xmm5, %%xmm5\n\tfxrstor64 (%1)\n\tmovups %%xmm5, (%0)"
                 :
                 : "r"(out), "r"(image)
                 : "memory");
    EXPECT(!memcmp(out, vec, 16), "FXRSTOR: XMM5");
    memset(image2, 0xcc, 512); /* some leave the unused bytes alone, some clear them */
    asm volatile("fxsave64 (%0)" : : "r"(image2) : "memory");
    EXPECT(!memcmp(image + 32, image2 + 32, 128), "FXRSTOR: x87 registers");
    t = try(fxsave, (word_t)image + 8, 0);
    tcg_deviates("does not check alignment");
    EXPECT_TRAP(&t, VEC_GP, 0, "FXSAVE to an unaligned image");
    image[24 + 3] = 0x80;
    t = try(fxrstor, (word_t)image, 0);
    tcg_deviates("takes any MXCSR");
    EXPECT_TRAP(&t, VEC_GP, 0, "FXRSTOR with a reserved bit of MXCSR");
    asm volatile("fninit");
}

static void xsave_images(void)
{
    const bool has_avx = cpuid(1, 0).c >> 28 & 1;
    struct trap t;

    if (!has_xsave()) {
        skip("not in this CPU model", "XSAVE");
        return;
    }
    write_cr4(read_cr4() & ~(word_t)CR4_OSXSAVE);
    t = try(xgetbv, 0, 0);
    EXPECT_TRAP(&t, VEC_UD, 0, "XGETBV without CR4.OSXSAVE");
    EXPECT_EQ(cpuid(1, 0).c >> 27 & 1, 0, "CPUID.OSXSAVE is clear");
    write_cr4(read_cr4() | CR4_OSXSAVE);
    EXPECT_EQ(cpuid(1, 0).c >> 27 & 1, 1, "CPUID.OSXSAVE follows CR4");
    t = try(xgetbv, 0, 0);
    EXPECT_EQ(t.f.ax, 1, "XCR0 at reset: x87 alone");
    t = try(xsetbv, 0, 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "XCR0 without x87");
    t = try(xsetbv, 5, 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "XCR0 with AVX without SSE");
    t = try(xsetbv, 1ull << 62 | 1, 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "XCR0 with a component that is not there");
    t = try(xsetbv, 1, 5);
    EXPECT_TRAP(&t, VEC_GP, 0, "XCR5");
    if (has_avx) {
        t = try(avx, 0, 0);
        EXPECT_TRAP(&t, VEC_UD, 0, "AVX without XCR0.AVX");
        t = try(xsetbv, 7, 0);
        EXPECT_TRAP(&t, VEC_NONE, 0, "XCR0 with AVX");
        EXPECT_EQ(cpuid(0xd, 0).b, 832, "XSAVE area of x87, SSE and AVX");
        t = try(avx, 0, 0);
        EXPECT_TRAP(&t, VEC_NONE, 0, "AVX");
    } else {
        xsetbv(3, 0);
        EXPECT_EQ(cpuid(0xd, 0).b, 576, "XSAVE area of x87 and SSE");
    }
    memset(image, 0, sizeof(image));
    asm volatile("fninit\n\tpcmpeqd %%xmm3, %%xmm3\n\txsave64 (%0)"
                 :
                 : "r"(image), "a"(2), "d"(0)
                 : "memory");
    EXPECT_EQ(at32(image + 512) & 2, 2, "XSAVE: XSTATE_BV has SSE");
    EXPECT_EQ(at32(image + 160 + 3 * 16), 0xffffffff, "XSAVE: XMM3");
    EXPECT_EQ(at32(image), 0, "XSAVE: x87 was not asked for");
    memset(image + 512, 0, 64);
    asm volatile("xrstor64 (%0)\n\tmovups %%xmm3, (%1)"
                 :
                 : "r"(image), "r"(image2), "a"(2), "d"(0)
                 : "memory");
    EXPECT_EQ(at32(image2), 0, "XRSTOR: a component not in XSTATE_BV gets its initial state");
    image[512 + 8] = 1;
    t = try(xsave, (word_t)image, 0);
    EXPECT_TRAP(&t, VEC_NONE, 0, "XSAVE does not look at the header");
    t = try(xsave, (word_t)image + 16, 0);
    tcg_deviates("does not check alignment");
    EXPECT_TRAP(&t, VEC_GP, 0, "XSAVE to an area that is not aligned to 64 bytes");
}

int main(void)
{
    not_available();
    errors();
    fxsave_image();
    xsave_images();
    return 0;
}
