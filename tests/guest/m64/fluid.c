/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Code that is written again and again: long enough that an engine which treats such code in a way
 * of its own comes to do so, then what could go wrong with that. Immediates of every kind of
 * instruction are compared with a copy that is made for the occasion. m64/smc has single stores.
 */
#include "guest.h"

static uint8_t code[2 * PAGE_BYTES] PAGE_ALIGNED;
static uint8_t fresh[64 * PAGE_BYTES] PAGE_ALIGNED; /* nothing in it is written twice */
static uint8_t *next_fresh = fresh;
typedef uint64_t code_fn(uint64_t a, uint64_t b);

static uint64_t run(const void *at, uint64_t a, uint64_t b)
{
    return ((code_fn *)(word_t)at)(a, b);
}

static word_t run_fn(word_t at, word_t a)
{
    return run((void *)at, a, 0);
}

static uint64_t rnd(void)
{
    static uint64_t x = 0x9e3779b97f4a7c15ull;

    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    return x;
}

static uint8_t *put(uint8_t *at, const void *bytes, unsigned n)
{
    memcpy(at, bytes, n);
    return at + n;
}
#define PUT(at, s) put((at), (s), sizeof(s) - 1)

/* ---- immediates ---- */

#define ARITH 0x8d5u /* CF, PF, AF, ZF, SF, OF */
#define LOGIC 0x8c5u /* AF is undefined */
#define MUL   0x801u

static const struct form {
    const char *name;
    uint8_t bytes[4], nr, imm;
    uint16_t flags;
} forms[] = {
    { "add $i32, %eax", { 0x05 }, 1, 4, ARITH },
    { "adc $i32, %rax", { 0x48, 0x15 }, 2, 4, ARITH },
    { "add $i8, %al", { 0x04 }, 1, 1, ARITH },
    { "add $i16, %ax", { 0x66, 0x05 }, 2, 2, ARITH },
    { "sub $i8, %rcx", { 0x48, 0x83, 0xe9 }, 3, 1, ARITH },
    { "sbb $i32, %ecx", { 0x81, 0xd9 }, 2, 4, ARITH },
    { "and $i32, %r9d", { 0x41, 0x81, 0xe1 }, 3, 4, LOGIC },
    { "or $i32, %r10", { 0x49, 0x81, 0xca }, 3, 4, LOGIC },
    { "xor $i8, %r11d", { 0x41, 0x83, 0xf3 }, 3, 1, LOGIC },
    { "sbb $i32, %r11", { 0x49, 0x81, 0xdb }, 3, 4, ARITH },
    { "cmp $i32, %rcx", { 0x48, 0x81, 0xf9 }, 3, 4, ARITH },
    { "cmp $i8, %r10", { 0x49, 0x83, 0xfa }, 3, 1, ARITH },
    { "test $i32, %eax", { 0xa9 }, 1, 4, LOGIC },
    { "test $i32, %r9", { 0x49, 0xf7, 0xc1 }, 3, 4, LOGIC },
    { "mov $i32, %ecx", { 0xb9 }, 1, 4, ARITH },
    { "mov $i32, %r10d", { 0x41, 0xba }, 2, 4, ARITH },
    { "mov $i64, %r9", { 0x49, 0xb9 }, 2, 8, ARITH },
    { "mov $i32, %rax", { 0x48, 0xc7, 0xc0 }, 3, 4, ARITH },
    { "mov $i16, %cx", { 0x66, 0xb9 }, 2, 2, ARITH },
    { "imul $i32, %r9d, %ecx", { 0x41, 0x69, 0xc9 }, 3, 4, MUL },
    { "imul $i8, %rcx, %r10", { 0x4c, 0x6b, 0xd1 }, 3, 1, MUL },
    { "imul $i32, %rax, %rax", { 0x48, 0x69, 0xc0 }, 3, 4, MUL },
    { "shl $i8, %ecx", { 0xc1, 0xe1 }, 2, 1, 0 },
    { "lea i32(%rcx), %rax", { 0x48, 0x8d, 0x81 }, 3, 4, ARITH },
};

/* All registers from the argument, the instruction, then all of them and the flags into RAX.
 * Returns where the immediate is. */
static unsigned put_form(uint8_t *at, const struct form *f, unsigned *bytes)
{
    uint8_t *p = at;
    unsigned imm;

    p = PUT(p, "\x48\x89\xf8\x48\x89\xf9\x49\x89\xf9\x49\x89\xfa\x49\x89\xfb"); /* mov %rdi, ... */
    p = PUT(p, "\x49\xf7\xd1\x49\x0f\xca"); /* not %r9; bswap %r10 */
    p = PUT(p, "\x48\x01\xc6");             /* add %rax, %rsi: flags */
    p = put(p, f->bytes, f->nr);
    imm = (unsigned)(p - at);
    p += f->imm;
    p = PUT(p, "\x9c\x5a\x81\xe2"); /* pushfq; pop %rdx; and $flags, %edx */
    *p++ = (uint8_t)f->flags, *p++ = (uint8_t)(f->flags >> 8), *p++ = 0, *p++ = 0;
    p = PUT(p, "\x48\x8d\x04\x40\x48\x01\xc8"); /* lea (%rax, %rax, 2), %rax; add %rcx, %rax */
    p = PUT(p, "\x48\x8d\x04\x40\x4c\x01\xc8\x48\x8d\x04\x40\x4c\x01\xd0");
    p = PUT(p, "\x48\x8d\x04\x40\x4c\x01\xd8\x48\x8d\x04\x40\x48\x01\xd0\xc3");
    *bytes = (unsigned)(p - at);
    return imm;
}

static void immediates(void)
{
    for (unsigned k = 0; k < ARRAY_SIZE(forms); k++) {
        unsigned bytes, imm = put_form(code, &forms[k], &bytes), wrong = 0;

        for (unsigned i = 0; i < 50; i++) {
            uint64_t v = rnd(), a = rnd(), b = rnd();

            if (i % 4 == 3)
                code[imm + v % forms[k].imm] = (uint8_t)(v >> 8); /* a part of it */
            else
                memcpy(code + imm, &v, forms[k].imm);
            memcpy(next_fresh, code, bytes);
            wrong += run(code, a, b) != run(next_fresh, a, b);
            wrong += run(code, b, a) != run(next_fresh, b, a);
            next_fresh += bytes;
        }
        EXPECT_EQ(wrong, 0, "%s with 50 immediates", forms[k].name);
    }
}

/* ---- whole pieces ---- */

static void versions(void)
{
    static const struct {
        char bytes[12];
        uint8_t adds;
    } v[] = {
        { "\x48\x8d\x47\x01\xc3", 1 },                             /* lea 1(%rdi), %rax; ret */
        { "\x48\x8d\x47\x02\xc3", 2 },                             /* a displacement */
        { "\x90\x48\x89\xf8\xc3", 0 },                             /* nop; mov %rdi, %rax; ret */
        { "\x48\x89\xf8\x48\x83\xc0\x05\xc3", 5 },                 /* mov; add $5, %rax; ret */
        { "\x48\x89\xf8\x48\x83\xe8\xfa\xc3", 6 },                 /* mov; sub $-6, %rax; ret */
        { "\x57\x58\x48\x83\xc0\x07\xc3", 7 },                     /* push; pop; add $7; ret */
        { "\xeb\x00\x48\x89\xf8\x48\xff\xc0\xc3", 1 },             /* jmp; mov; inc; ret */
        { "\xe8\x00\x00\x00\x00\x58\x48\x8d\x47\x08\xc3", 8 },     /* call; pop; lea; ret */
        { "\xe8\x00\x00\x00\x00\x59\x48\x8d\x47\x09\xc3", 9 },     /* an opcode */
        { "\x48\xb8\x00\x00\x00\x00\x00\x00\x00\x00\xeb\x02", 0 }, /* into what was there before */
    };
    unsigned wrong = 0;

    for (unsigned i = 0; i < 1500; i++) {
        unsigned k = i < 300 ? i % 2 : (unsigned)(rnd() % (ARRAY_SIZE(v) - 1));
        uint64_t a = rnd();

        memcpy(code + 100, v[k].bytes, sizeof(v[k].bytes));
        wrong += run(code + 100, a, 0) != a + v[k].adds;
        if (i % 5 == 0) /* and again */
            wrong += run(code + 100, a + 1, 0) != a + 1 + v[k].adds;
    }
    EXPECT_EQ(wrong, 0, "nine functions that take each other's place");
    /* One instruction more or less before a common end. */
    PUT(code + 112, "\x48\x89\xf8\xc3");
    for (unsigned i = 0; i < 200; i++) {
        memcpy(code + 100, i & 1 ? v[9].bytes : "\x48\x89\xff\x48\x89\xff\x48\x89\xff\x90\xeb\x00",
               12);
        wrong += run(code + 100, i, 0) != (i & 1 ? 0xc3u : i);
        if (i & 1)
            PUT(code + 112, "\x48\x89\xf8\xc3");
        else
            PUT(code + 112, "\x90\x90\x48\x31\xc0\xb0\xc3\xc3");
    }
    EXPECT_EQ(wrong, 0, "an end that changes with the beginning");
}

/* A store changes the next instruction: its operation, not its immediate. */
static void just_before(void)
{
    static const char piece[] = "\xb8\x07\x00\x00\x00"         /* mov $7, %eax */
                                "\xf8"                         /* clc */
                                "\x40\x88\x3d\x01\x00\x00\x00" /* mov %dil, 1(%rip) */
                                "\x83\xc0\x05"                 /* add $5, %eax */
                                "\xc3";
    static const struct {
        uint8_t modrm, result;
    } cases[] = { { 0xc0, 12 }, { 0xc8, 7 }, { 0xd0, 12 }, { 0xd8, 2 },
                  { 0xe0, 5 },  { 0xe8, 2 }, { 0xf0, 2 },  { 0xf8, 7 } };
    unsigned wrong = 0;

    PUT(code, piece);
    for (unsigned i = 0; i < 600; i++) {
        unsigned k = rnd() % ARRAY_SIZE(cases);

        wrong += run(code, cases[k].modrm, 0) != cases[k].result;
    }
    EXPECT_EQ(wrong, 0, "a store into the next instruction");
}

static void by_strings(void)
{
    static uint8_t from[6] = { 0xb8, 0, 0, 0, 0, 0xc3 };
    unsigned wrong = 0;

    /* mov $6, %ecx; rep movsb; here: */
    PUT(code + 200, "\xb9\x06\x00\x00\x00\xf3\xa4\x90\x90\x90\x90\x90\xc3");
    for (uint32_t i = 0; i < 300; i++) {
        from[0] = i & 16 ? 0x0d : 0xb8; /* or, mov */
        memcpy(from + 1, &i, 4);
        wrong +=
            (uint32_t)((uint64_t(*)(void *, void *))(word_t)(code + 200))(code + 207, from) != i &&
            !(i & 16);
    }
    EXPECT_EQ(wrong, 0, "REP MOVSB over what follows it");
}

/* Data between the code. */
static void own_data(void)
{
    uint32_t n;

    /* 1: incl 4000(%rip) of itself; dec %edi; jnz 1b; mov it to %eax; ret */
    PUT(code, "\xff\x05\x9a\x0f\x00\x00\xff\xcf\x75\xf6\x8b\x05\x90\x0f\x00\x00\xc3");
    n = read32(code + 4000);
    EXPECT_EQ((uint32_t)run(code, 5000, 0), n + 5000, "a loop with a counter beside it");
    code[7] = 0xc7; /* inc %edi: from below 0 */
    EXPECT_EQ((uint32_t)run(code, (uint32_t)-300, 0), n + 5300, "and the other way round");
}

static void aliases(void)
{
    unsigned wrong = 0;

    page_set(TEST_VA, 1, (word_t)code | PTE_P | PTE_W);
    page_set(TEST_VA + PAGE_BYTES, 1, (word_t)code | PTE_P);
    PUT(code + 64, "\xb8\x00\x00\x00\x00\xc3");
    for (uint32_t i = 0; i < 200; i++) {
        struct trap t;

        write32((uint8_t *)TEST_VA + 65, i);
        wrong += run((uint8_t *)TEST_VA + PAGE_BYTES + 64, 0, 0) != i;
        write32(code + 65, i + 1);
        wrong += run((uint8_t *)TEST_VA + PAGE_BYTES + 64, 0, 0) != i + 1;
        write32(user_ptr(code + 65), i + 2);
        wrong += run(code + 64, 0, 0) != i + 2;
        if (i % 8)
            continue;
        t = try_user(run_fn, (word_t)user_ptr(code + 64), 0);
        wrong += t.f.ax != i + 2;
        page_set(TEST_VA + PAGE_BYTES, 1, (word_t)(code + PAGE_BYTES) | PTE_P);
        put(code + PAGE_BYTES + 64, "\xb8\x11\x00\x00\x00\xc3", 6);
        wrong += run((uint8_t *)TEST_VA + PAGE_BYTES + 64, 0, 0) != 0x11;
        page_set(TEST_VA + PAGE_BYTES, 1, (word_t)code | PTE_P);
    }
    EXPECT_EQ(wrong, 0, "written and run at several addresses, by the user too");
}

/* ---- time ---- */

static volatile unsigned ticks;

static void tick(struct frame *f)
{
    (void)f;
    ticks++;
    apic_write(APIC_EOI, 0);
}

/* Interrupts come in the loop, and there is time without stores. */
static void quiet(void)
{
    unsigned wrong = 0;

    apic_init();
    trap_handle(0x51, tick);
    apic_write(APIC_TIMER_DIV, 0xb);
    apic_write(APIC_LVT_TIMER, 1u << 17 | 0x51);
    apic_write(APIC_TIMER_INIT, 1000000);
    sti();
    for (uint32_t round = 0; round < 4; round++) {
        uint32_t v = 0;

        /* mov $v, %eax; mov $10, %ecx; 1: add $v, %eax; dec %ecx; jnz 1b; ret */
        PUT(code,
            "\xb8\x00\x00\x00\x00\xb9\x0a\x00\x00\x00\x05\x00\x00\x00\x00\xff\xc9\x75\xf7\xc3");
        for (unsigned i = 0; i < 300; i++) {
            v = (uint32_t)rnd();
            write32(code + 1, v);
            write32(code + 11, v);
            wrong += (uint32_t)run(code, 0, 0) != 11 * v;
        }
        delay_us(150000u << round / 2);
        wrong += (uint32_t)run(code, 0, 0) != 11 * v;
        for (unsigned i = 0; i < 20; i++)
            wrong += (uint32_t)run(code, 0, 0) != 11 * v;
        write32(code + 1, 0);
        wrong += (uint32_t)run(code, 0, 0) != 10 * v;
    }
    wait_for(&ticks, 4, 60000); /* the host may have been busy all the while */
    cli();
    apic_write(APIC_LVT_TIMER, 1u << 16);
    EXPECT_EQ(wrong, 0, "between times of many stores there are quiet ones");
    EXPECT(ticks > 3, "with interrupts");
}

int main(void)
{
    immediates();
    versions();
    just_before();
    by_strings();
    own_data();
    aliases();
    quiet();
    return 0;
}
