/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several accesses through one pointer, in one straight piece of code: across a page whose second
 * half is absent, read-only or elsewhere; with the page tables, the pointer or a segment's base
 * changed in between; at the ends of the address space. A translator that looks memory up once for
 * all of them must not be seen doing so. Then strings and bit strings, which reach far.
 */
#include "guest.h"

static uint8_t page_a[PAGE_BYTES] PAGE_ALIGNED, page_b[PAGE_BYTES] PAGE_ALIGNED,
    page_c[PAGE_BYTES] PAGE_ALIGNED;
#define VA   TEST_VA
#define NEXT (TEST_VA + PAGE_BYTES)
#define RW   (PTE_P | PTE_W | PTE_U)

static void map(word_t va, const void *page, word_t bits)
{
    page_set(va, 1, page ? (word_t)page | bits : 0);
}

static uint64_t at(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, 8);
    return v;
}

static void put(uint8_t *p, uint64_t v)
{
    memcpy(p, &v, 8);
}

/* ---- around a page boundary ---- */

/* Four fields, the first read and the others written: ends with their sum. */
static word_t fields(word_t p, word_t v)
{
    word_t sum;

    asm volatile("mov (%1), %0\n\t"
                 "mov %2, 8(%1)\n\t"
                 "mov %2, 24(%1)\n\t"
                 "add 8(%1), %0\n\t"
                 "mov %2, 16(%1)\n\t"
                 "add 16(%1), %0\n\t"
                 "add 24(%1), %0"
                 : "=&r"(sum)
                 : "r"(p), "r"(v)
                 : "memory", "cc");
    return sum;
}

/* Where the first byte that faults is, for a structure at this offset; 0: nowhere. */
static word_t first_bad(unsigned off, bool readable)
{
    static const uint8_t order[] = { 0, 8, 24, 8, 16, 16, 24 };

    for (unsigned i = 0; i < ARRAY_SIZE(order); i++) {
        unsigned lo = off + order[i];

        if (lo + 8 > PAGE_BYTES && !(readable && !order[i]))
            return VA + (lo < PAGE_BYTES ? PAGE_BYTES : lo);
    }
    return 0;
}

static void borders(void)
{
    unsigned wrong_absent = 0, wrong_ro = 0, wrong_other = 0;

    for (unsigned off = PAGE_BYTES - 40; off < PAGE_BYTES; off++) {
        word_t bad;
        struct trap t;

        map(VA, page_a, RW);
        map(NEXT, NULL, 0);
        memset(page_a, 0, PAGE_BYTES);
        t = try(fields, VA + off, 5);
        bad = first_bad(off, false);
        if (bad ? t.vec != VEC_PF || t.cr2 != bad ||
                      (t.err != PF_W && !(off > PAGE_BYTES - 8 && !t.err))
                : t.vec != VEC_NONE || t.f.ax != 15)
            wrong_absent++;
        map(NEXT, page_b, PTE_P);
        memset(page_b, 0, PAGE_BYTES);
        memset(page_a, 0, PAGE_BYTES);
        t = try(fields, VA + off, 5);
        bad = first_bad(off, true);
        if (bad ? t.vec != VEC_PF || t.cr2 != bad || t.err != (PF_W | PF_P)
                : t.vec != VEC_NONE || t.f.ax != 15)
            wrong_ro++;
        map(NEXT, page_c, RW);
        memset(page_c, 0, PAGE_BYTES);
        memset(page_a, 0, PAGE_BYTES);
        t = try(fields, VA + off, 0x0102030405060708);
        if (t.vec != VEC_NONE || t.f.ax != 3 * 0x0102030405060708ull ||
            at((uint8_t *)VA + off + 16) != 0x0102030405060708)
            wrong_other++;
        for (unsigned i = off + 32; i > PAGE_BYTES && i > off + 8; i--)
            if (page_c[i - 1 - PAGE_BYTES] != 8 - (i - 1 - off) % 8)
                wrong_other++;
    }
    EXPECT_EQ(wrong_absent, 0, "a structure at every offset before an absent page");
    EXPECT_EQ(wrong_ro, 0, "before one that is read-only");
    EXPECT_EQ(wrong_other, 0, "before another physical page");
    map(NEXT, (void *)APIC_AT, RW | PTE_PCD);
    put(page_a + PAGE_BYTES - 8, 1);
    {
        uint64_t a;
        uint32_t version;

        asm volatile("mov -8(%2), %0\n\tmov 0x30(%2), %1\n\tadd -8(%2), %0"
                     : "=&r"(a), "=&r"(version)
                     : "r"(NEXT)
                     : "cc");
        EXPECT(a == 2 && version == apic_read(APIC_VERSION), "before a device's");
    }
    map(NEXT, NULL, 0);
}

/* ---- faults that are repaired, and page tables changed ---- */

static struct frame cow_frame;
static word_t cow_cr2;
static unsigned nr_cow;

static void copy_on_write(struct frame *f)
{
    cow_frame = *f;
    cow_cr2 = read_cr2();
    nr_cow++;
    memcpy(page_b, page_a, PAGE_BYTES);
    page_b[0x200] = 0x77;
    map(VA, page_b, RW);
}

static void cow(void)
{
    uint64_t before, after, other;
    word_t fault_ip;

    for (unsigned i = 0; i < 3; i++) {
        memset(page_a, 0, PAGE_BYTES);
        map(VA, page_a, PTE_P);
        put(page_a + 0x100, 0x1111);
        nr_cow = 0;
        trap_handle(VEC_PF, copy_on_write);
        asm volatile("mov $0x1234, %%r9d\n\t"
                     "mov 0x100(%4), %0\n\t"
                     "mov 0x108(%4), %1\n\t"
                     "lea 1f(%%rip), %3\n\t"
                     "stc\n"
                     "1:\tmovq $0x2222, 0x108(%4)\n\t"
                     "mov 0x108(%4), %1\n\t"
                     "mov 0x200(%4), %2\n\t"
                     : "=&r"(before), "=&r"(after), "=&r"(other), "=&r"(fault_ip)
                     : "r"(VA)
                     : "r9", "memory", "cc");
        trap_handle(VEC_PF, NULL);
        if (nr_cow != 1 || cow_cr2 != VA + 0x108 || cow_frame.err != (PF_P | PF_W) ||
            cow_frame.ip != fault_ip || cow_frame.r9 != 0x1234 || !(cow_frame.flags & FLAG_CF) ||
            before != 0x1111 || after != 0x2222 || other != 0x77 || at(page_a + 0x108))
            break;
        if (i == 2)
            EXPECT(true, "copy on write between a read and a read through one pointer");
    }
    if (nr_cow != 1 || other != 0x77)
        EXPECT(false, "copy on write between a read and a read through one pointer");
}

static void page_tables(void)
{
    uint64_t *pte = page_entry(VA, 1), a, b, c;

    put(page_a + 8, 'a');
    put(page_b + 8, 'b');
    for (unsigned i = 0; i < 3; i++) {
        map(VA, page_a, RW);
        asm volatile("mov 8(%3), %0\n\tmov 8(%3), %1\n\tmov %5, (%4)\n\tinvlpg (%3)\n\t"
                     "mov 8(%3), %2"
                     : "=&r"(a), "=&r"(b), "=&r"(c)
                     : "r"(VA), "r"(pte), "r"((word_t)page_b | RW)
                     : "memory");
    }
    EXPECT(a == 'a' && b == 'a' && c == 'b', "INVLPG between accesses through one pointer");
    for (unsigned i = 0; i < 3; i++) {
        map(VA, page_a, RW);
        asm volatile("mov 8(%3), %0\n\tmov 8(%3), %1\n\tmov %5, (%4)\n\t"
                     "mov %%cr3, %2\n\tmov %2, %%cr3\n\tmov 8(%3), %2"
                     : "=&r"(a), "=&r"(b), "=&r"(c)
                     : "r"(VA), "r"(pte), "r"((word_t)page_b | RW)
                     : "memory");
    }
    EXPECT(a == 'a' && b == 'a' && c == 'b', "MOV to CR3 between them");
}

/* ---- what becomes of a pointer ---- */

/* %rbx points to 64 numbered words in the middle of a page; the result is in %rax. */
static uint64_t words[128] PAGE_ALIGNED;
#define WALK(name, want, code)                                                                \
    do {                                                                                      \
        uint64_t got = 0;                                                                     \
        for (unsigned i = 0; i < 128; i++)                                                    \
            words[i] = i;                                                                     \
        asm volatile("mov 8(%%rbx), %%rax\n\tmov 16(%%rbx), %%rdx\n\t" code                   \
                     : "=&a"(got)                                                             \
                     : "b"(&words[32])                                                        \
                     : "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc"); \
        EXPECT_EQ(got, (want), name);                                                         \
    } while (0)
#define SAVED(code) "mov %%rbx, %%r8\n\t" code "\n\tmov %%r8, %%rbx"

static void values(void)
{
    WALK("MOV", 35, "mov %%rbx, %%r10\n\tmov 24(%%r10), %%rax");
    WALK("LEA down", 30, "lea -24(%%rbx), %%rcx\n\tmov 8(%%rcx), %%rax");
    WALK("ADD and SUB", 31,
         "mov %%rbx, %%rsi\n\tadd $24, %%rsi\n\tsub $32, %%rsi\n\tmov (%%rsi), %%rax");
    WALK("ADD of a register", 40,
         "mov %%rbx, %%rsi\n\tmov $64, %%ecx\n\tadd %%rcx, %%rsi\n\tmov (%%rsi), %%rax");
    WALK("INC", 33ull << 56 | 0,
         "mov %%rbx, %%rsi\n\tinc %%rsi\n\tmov (%%rsi), %%rax\n\tshl $56, %%rax\n\t"
         "movq $33, 8(%%rbx)\n\tmov (%%rsi), %%rax");
    WALK("the low byte", 36, SAVED("mov %%rbx, %%rcx\n\tadd $32, %%cl\n\tmov (%%rcx), %%rax"));
    WALK("the second byte", 64, "mov %%rbx, %%rcx\n\tinc %%ch\n\tmov (%%rcx), %%rax");
    WALK("16 bits", 33,
         SAVED("mov %%rbx, %%rcx\n\tmov %%cx, %%dx\n\tadd $8, %%dx\n\tmov %%dx, %%cx\n\t"
               "mov (%%rcx), %%rax"));
    WALK("32 bits", 34, SAVED("add $16, %%ebx\n\tmov (%%rbx), %%rax"));
    WALK("XCHG", 50,
         "lea 144(%%rbx), %%rcx\n\tmov %%rbx, %%rsi\n\txchg %%rcx, %%rsi\n\t"
         "mov (%%rsi), %%rax");
    WALK("XADD", 33,
         "mov %%rbx, %%rsi\n\tmov $8, %%ecx\n\txadd %%rcx, %%rsi\n\tmov (%%rsi), %%rax");
    WALK("CMPXCHG that fails writes RAX", 36,
         "lea 32(%%rbx), %%rcx\n\tmov %%rcx, 8(%%rbx)\n\tmov %%rbx, %%rax\n\tmov (%%rax), %%rdx\n\t"
         "cmpxchg %%rdx, 8(%%rbx)\n\tmov (%%rax), %%rax");
    WALK("CMPXCHG of registers", 37,
         "lea 40(%%rbx), %%rcx\n\tmov %%rbx, %%rsi\n\tmov %%rbx, %%rax\n\t"
         "cmpxchg %%rcx, %%rsi\n\tmov (%%rsi), %%rax");
    WALK("CMOV", 39,
         "mov %%rbx, %%rsi\n\tlea 56(%%rbx), %%rcx\n\tcmp %%eax, %%eax\n\t"
         "cmovz %%rcx, %%rsi\n\tmov (%%rsi), %%rax");
    WALK("MUL", 34,
         "mov %%rbx, %%rdx\n\tmov (%%rdx), %%rcx\n\tlea 16(%%rbx), %%rax\n\t"
         "mov $1, %%ecx\n\tmul %%rcx\n\tmov (%%rax,%%rdx), %%rax");
    WALK("MUL writes RDX", 32 + 64,
         "mov %%rbx, %%rdx\n\tmov (%%rdx), %%rcx\n\t"
         "lea 512(%%rbx), %%rax\n\tmov $1, %%rsi\n\tshl $32, %%rsi\n\t"
         "ror $32, %%rax\n\tmul %%rsi\n\tadd %%rdx, %%rax\n\t"
         "mov (%%rax), %%rax");
    WALK("REP STOS moves RDI", 34,
         "mov %%rbx, %%rdi\n\tmov (%%rdi), %%rax\n\tmov $2, %%ecx\n\t"
         "rep stosq\n\tmov (%%rdi), %%rax");
    WALK("REP MOVS moves RSI", 36,
         "mov %%rbx, %%rsi\n\tmov (%%rsi), %%rax\n\tlea 256(%%rbx), %%rdi\n\t"
         "mov $4, %%ecx\n\trep movsq\n\tmov (%%rsi), %%rax");
    WALK("CPUID", 33,
         "mov %%rbx, %%r8\n\tmov (%%rbx), %%rax\n\txor %%eax, %%eax\n\txor %%ecx, %%ecx\n\t"
         "cpuid\n\tmov %%r8, %%rbx\n\tmov 8(%%rbx), %%rax");
    WALK("a stack of its own", 30 + 7,
         "mov %%rsp, %%r8\n\tmov %%rbx, %%rsp\n\tpush $7\n\tpush (%%rsp)\n\tpop %%rcx\n\t"
         "add $8, %%rsp\n\tsub $16, %%rsp\n\tmov (%%rsp), %%rdx\n\tmov -8(%%rsp), %%rax\n\t"
         "movq $30, (%%rsp)\n\tmov (%%rsp), %%rax\n\tadd 8(%%rsp), %%rax\n\tmov %%r8, %%rsp");
    WALK("POP RSP", 40,
         "mov %%rsp, %%r8\n\tlea 64(%%rbx), %%rcx\n\tmov %%rbx, %%rsp\n\t"
         "push %%rcx\n\tpop %%rsp\n\tpop %%rax\n\tmov %%r8, %%rsp");
    WALK("LEAVE", 42 + 43,
         "mov %%rsp, %%r8\n\tmov %%rbp, %%r9\n\tlea 72(%%rbx), %%rbp\n\t"
         "mov %%rbx, %%rsp\n\tpush %%rcx\n\tleave\n\tpop %%rax\n\tpop %%rcx\n\t"
         "add %%rcx, %%rax\n\tmov %%r8, %%rsp\n\tmov %%r9, %%rbp");
}

/* ---- bases and the ends of displacements ---- */

static void bases(void)
{
    word_t fs = rdmsr(MSR_FS_BASE);
    uint64_t a, b, c;

    put(page_a + 8, 'a');
    put(page_b + 8, 'b');
    wrmsr(MSR_FS_BASE, (word_t)page_a);
    if (has_fsgsbase()) {
        write_cr4(read_cr4() | CR4_FSGSBASE);
        asm volatile("mov %%fs:8, %0\n\tmov %%fs:8, %1\n\twrfsbase %3\n\tmov %%fs:8, %2"
                     : "=&r"(a), "=&r"(b), "=&r"(c)
                     : "r"(page_b)
                     : "memory");
        EXPECT(a == 'a' && b == 'a' && c == 'b', "WRFSBASE between accesses");
    }
    map(VA, page_a, RW);
    wrmsr(MSR_FS_BASE, fs);
    /* Below what a displacement reaches: what is 2^32 higher must not be taken for it. */
    map(VA + (1ull << 32), page_c, RW);
    memset(page_c, 0xcc, PAGE_BYTES);
    (void)read8((void *)(VA + (1ull << 32)));
    put(page_a + 0x100, 1);
    put(page_a + 0xf8, 2);
    asm volatile("mov -0x80000000(%2), %0\n\tlea -0x80000000(%2), %%rcx\n\tmov -8(%%rcx), %1"
                 : "=&r"(a), "=&r"(b)
                 : "r"(VA + 0x100 + 0x80000000ull)
                 : "rcx");
    EXPECT(a == 1 && b == 2, "a displacement at the end of its reach, and one below");
    asm volatile("lea 0x7ffffff0(%2), %%rcx\n\tmov 0x10(%%rcx), %0\n\tmov 8(%%rcx), %1"
                 : "=&r"(a), "=&r"(b)
                 : "r"(VA + 0x100 - 0x80000000ull)
                 : "rcx");
    EXPECT(a == 1 && b == 2, "and above");
}

/* ---- strings ---- */

struct string_args {
    word_t si, di, cx;
};
#define REP_FN(name, insn)                                                                         \
    static word_t name(word_t p, word_t ax)                                                        \
    {                                                                                              \
        struct string_args *s = (struct string_args *)p;                                           \
        asm volatile(insn "\n\tcld" : "+S"(s->si), "+D"(s->di), "+c"(s->cx) : "a"(ax) : "memory"); \
        return 0;                                                                                  \
    }
REP_FN(movsb, "rep movsb")
REP_FN(movsq, "rep movsq")
REP_FN(stosb, "rep stosb")
REP_FN(stosq, "rep stosq")
REP_FN(movsb_down, "std\n\trep movsb")

/* Where the sum of address and bytes wraps, with traces of another page at the same place of a TLB
 * that is indexed by the low bits: nothing is there. */
static void wraps(void)
{
    static const struct {
        word_t at, cx;
    } cases[] = {
        { 0, 1025 },
        { 8, 1030 },
        { 0, 1500 },
        { -32759ull, 4095 },
        { -32000ull, 4010 },
        { -8192ull, 1024 + 5 },
        { -12288ull, 1536 + 3 },
        { -4096ull, 513 },
        { 0, (1ull << 61) + 1 },
    };
    static struct string_args a;
    struct trap t;

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        word_t other = VA + (cases[i].at & 0xffff000);

        map(other, page_a, RW);
        a = (struct string_args){ 0, other, 8 };
        t = try_user(stosq, (word_t)user_ptr(&a), 0);
        EXPECT_EQ(t.vec, VEC_USER_END, "a page whose address ends in %lx",
                  (unsigned long)(other & 0xffff000));
        map(other, NULL, 0);
        a = (struct string_args){ 0, cases[i].at, cases[i].cx };
        t = try_user(stosq, (word_t)user_ptr(&a), 0);
        EXPECT_EQ(t.vec, VEC_PF, "REP STOSQ at %lx: #PF", (unsigned long)cases[i].at);
        EXPECT(t.cr2 == cases[i].at && t.f.di == cases[i].at && t.f.cx == cases[i].cx,
               "CR2, RDI and RCX (%lx, %lx, %lx)", (unsigned long)t.cr2, (unsigned long)t.f.di,
               (unsigned long)t.f.cx);
    }
}

static void strings(void)
{
    struct string_args a;
    struct trap t;

    map(VA, page_a, RW);
    map(NEXT, page_c, RW);
    for (unsigned n = 0; n < 2; n++) {
        memset(page_a, 0, PAGE_BYTES);
        a = (struct string_args){ VA, VA + 100, n };
        (void)stosq((word_t)&a, ~0ull);
        EXPECT(a.cx == 0 && a.di == VA + 100 + 8 * n && page_a[100] == (n ? 0xff : 0) &&
                   !page_a[108],
               "REP STOSQ of %u", n);
    }
    for (unsigned i = 0; i < 64; i++)
        page_a[i] = (uint8_t)i;
    a = (struct string_args){ VA, VA + 1, 40 };
    (void)movsb((word_t)&a, 0);
    EXPECT(!page_a[0] && !page_a[1] && !page_a[40] && page_a[41] == 41, "REP MOVSB onto itself");
    for (unsigned i = 0; i < 64; i++)
        page_a[i] = (uint8_t)i;
    a = (struct string_args){ VA + 39, VA + 40, 40 };
    (void)movsb_down((word_t)&a, 0);
    EXPECT(page_a[1] == 0 && page_a[40] == 39 && a.di == VA && a.si == VA - 1, "downwards");
    a = (struct string_args){ VA, VA + 1, 3 };
    (void)movsb((word_t)&a, 0);
    EXPECT(a.di == VA + 4, "CLD after STD");
    memset(page_a, 0x5a, PAGE_BYTES);
    memset(page_c, 0, PAGE_BYTES);
    a = (struct string_args){ VA, VA + PAGE_BYTES - 12, 100 };
    (void)movsq((word_t)&a, 0);
    EXPECT(page_c[787] == 0x5a && page_c[788] == 0 && a.di == VA + PAGE_BYTES + 788,
           "REP MOVSQ across pages");
    map(NEXT, NULL, 0);
    a = (struct string_args){ VA, VA + PAGE_BYTES - 12, (1ull << 61) + 1 };
    t = try(movsq, (word_t)&a, 0);
    EXPECT(t.vec == VEC_PF && t.f.cx == 1ull << 61 && t.f.di == VA + PAGE_BYTES - 4 &&
               t.f.si == VA + 8 && t.cr2 == NEXT,
           "2^61 + 1 words up to an absent page");
    a = (struct string_args){ VA, VA + PAGE_BYTES - 12, 100 };
    t = try(stosb, (word_t)&a, 0);
    EXPECT(t.vec == VEC_PF && t.f.cx == 88 && t.f.di == NEXT && t.cr2 == NEXT,
           "REP STOSB up to it");
    a = (struct string_args){ VA, VA, PAGE_BYTES / 8 };
    (void)stosq((word_t)&a, 0x1234);
    EXPECT(a.cx == 0 && a.di == NEXT && at(page_a + PAGE_BYTES - 8) == 0x1234, "a whole page");
}

/* ---- bit strings, PUSHF ---- */

#define BIT_FN(name, insn)                                                         \
    static bool name(word_t p, int64_t nr)                                         \
    {                                                                              \
        bool cf;                                                                   \
        asm volatile(insn " %2, (%1)" : "=@ccc"(cf) : "r"(p), "r"(nr) : "memory"); \
        return cf;                                                                 \
    }
BIT_FN(bit_test, "btq")
BIT_FN(bit_set, "btsq")
BIT_FN(bit_reset, "btrq")
BIT_FN(bit_flip, "lock btcq")

static word_t bit_set_fn(word_t p, word_t nr)
{
    return bit_set(p, (int64_t)nr);
}

static void bits(void)
{
    static const int64_t nrs[] = { 0, 1, 63, 64, 1000, -1, -64, -65, -1000, 16383 };
    unsigned wrong = 0;
    struct trap t;

    map(VA, page_a, RW);
    map(NEXT, page_c, RW);
    for (unsigned skew = 0; skew < 8; skew++)
        for (unsigned i = 0; i < ARRAY_SIZE(nrs); i++) {
            word_t p = NEXT - 1024 + skew;
            word_t byte = p + (word_t)(nrs[i] >> 3);
            uint8_t mask = (uint8_t)(1u << (nrs[i] & 7));

            memset(page_a, 0, PAGE_BYTES);
            memset(page_c, 0, PAGE_BYTES);
            if (bit_test(p, nrs[i]) || bit_set(p, nrs[i]) || read8((void *)byte) != mask ||
                !bit_test(p, nrs[i]) || !bit_set(p, nrs[i]) || !bit_reset(p, nrs[i]) ||
                read8((void *)byte) || bit_flip(p, nrs[i]) || read8((void *)byte) != mask)
                wrong++;
        }
    EXPECT_EQ(wrong, 0, "bits near and far, either way, across pages");
    map(NEXT, NULL, 0);
    t = try(bit_set_fn, VA, 8 * PAGE_BYTES + 77);
    EXPECT(t.vec == VEC_PF && t.err == PF_W && t.cr2 == NEXT + 8, "a bit that is not there");
    t = try(bit_set_fn, VA, 1ull << 63);
    EXPECT_TRAP(&t, VEC_GP, 0, "2^63 bits down is not canonical");
}

static void flags(void)
{
    word_t was = read_flags(), wrong = 0;

    for (unsigned i = 0; i < 128; i++) {
        static const uint32_t bit[] = { 0x1, 0x4, 0x10, 0x40, 0x80, 0x800, 0x400 };
        word_t want = 2 | FLAG_ID | FLAG_AC | FLAG_NT, got;

        for (unsigned k = 0; k < ARRAY_SIZE(bit); k++)
            want |= i >> k & 1 ? bit[k] : 0;
        asm volatile("push %1\n\tpopf\n\tmov %1, %0\n\tpushf\n\tcld\n\tpop %0"
                     : "=&r"(got)
                     : "r"(want)
                     : "memory", "cc");
        wrong += got != want;
    }
    write_flags(was);
    EXPECT_EQ(wrong, 0, "PUSHF after POPF, all arithmetic flags and DF");
    asm volatile("std\n\tcld\n\tpushf\n\tpop %0" : "=r"(was) : : "memory", "cc");
    EXPECT(!(was & FLAG_DF), "CLD after STD");
}

/* ---- code that writes itself through a pointer used before ---- */

static void own_code(void)
{
    /* mov (%rdi), %eax; mov 4(%rdi), %eax; mov %esi, 10(%rdi); jmp; mov $0, %eax; ret */
    static const uint8_t piece[] = { 0x8b, 0x07, 0x8b, 0x47, 0x04, 0x89, 0x77, 0x0b,
                                     0xeb, 0x00, 0xb8, 0,    0,    0,    0,    0xc3 };
    bool good = true;

    map(VA, page_b, RW);
    memcpy(page_b, piece, sizeof(piece));
    for (unsigned i = 1; i < 300; i++) {
        good = good && ((uint32_t(*)(void *, uint32_t))(word_t)page_b)(page_b, i) == i;
        good = good && ((uint32_t(*)(word_t, uint32_t))VA)(VA, i * 3) == i * 3;
    }
    EXPECT(good, "code that writes itself through a pointer it has read by");
}

int main(void)
{
    borders();
    cow();
    page_tables();
    values();
    bases();
    wraps();
    strings();
    bits();
    flags();
    own_code();
    return 0;
}
