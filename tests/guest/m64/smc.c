/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Self-modifying code: an instruction written just before it runs, in the same block, on another
 * page, across pages, through an alias, by string instructions, by exchanged mappings, by user
 * code. Same-processor stores to code need no serializing on what this guest runs on when a branch
 * lies between; SDM 3, "Handling Self- and Cross-Modifying Code".
 */
#include "guest.h"

static uint8_t code[3 * PAGE_BYTES] PAGE_ALIGNED;
typedef uint32_t code_fn(void);

/* mov $v, %eax; ret */
static void put_return(uint8_t *at, uint32_t v)
{
    at[0] = 0xb8;
    memcpy(at + 1, &v, 4);
    at[5] = 0xc3;
}

static uint32_t run(const void *at)
{
    return ((code_fn *)(word_t)at)();
}

static word_t run_fn(word_t at, word_t b)
{
    (void)b;
    return run((void *)at);
}

static void rewritten(void)
{
    bool good = true;

    for (uint32_t i = 0; i < 2000; i++) {
        put_return(code, i);
        good = good && run(code) == i;
    }
    EXPECT(good, "code rewritten and called 2000 times");
    good = true;
    put_return(code, 0);
    for (uint32_t i = 0; i < 2000; i++) {
        write8(code + 1, (uint8_t)i);
        good = good && run(code) == (uint8_t)i;
    }
    EXPECT(good, "one byte of an immediate");
}

/* The store and the instruction it changes are in one straight piece, a jump between them. */
static void same_block(void)
{
    static const uint8_t piece[] = {
        0x40, 0x88, 0x3d, 0x03, 0, 0, 0, /* mov %dil, 3(%rip): the immediate below */
        0xeb, 0x00,                      /* jmp to the next */
        0xb8, 0,    0,    0,    0,       /* mov $imm, %eax */
        0xc3,
    };
    bool good = true;

    memcpy(code, piece, sizeof(piece));
    for (unsigned i = 0; i < 300; i++)
        good = good && ((uint32_t(*)(uint32_t))(word_t)code)(i) == (uint8_t)i;
    EXPECT(good, "a store into the same piece of code, a jump before it");
    /* Processors since the Pentium see it even without the jump. */
    code[7] = code[8] = 0x90;
    good = true;
    for (unsigned i = 0; i < 300; i++)
        good = good && ((uint32_t(*)(uint32_t))(word_t)code)(i) == (uint8_t)i;
    EXPECT(good, "with nothing between");
}

/* A loop that counts its own limit down. */
static void own_loop(void)
{
    uint8_t *p = code;

    /* mov $n, %cl; test %cl, %cl; jz out; decb the immediate; inc %eax; jmp back; out: ret */
    *p++ = 0x31, *p++ = 0xc0;
    *p++ = 0xb1, *p++ = 100;  /* 2: mov $100, %cl; immediate at 3 */
    *p++ = 0x84, *p++ = 0xc9; /* 4 */
    *p++ = 0x74, *p++ = 0x0a; /* 6: jz 18 */
    *p++ = 0xfe, *p++ = 0x0d, *p++ = 0xf5, *p++ = 0xff, *p++ = 0xff,
    *p++ = 0xff;              /* 8: decb -11(%rip) = 3 */
    *p++ = 0xff, *p++ = 0xc0; /* 14: inc %eax */
    *p++ = 0xeb, *p++ = 0xf0; /* 16: jmp 2 */
    *p++ = 0xc3;
    EXPECT_EQ(run(code), 100, "a loop that changes its own immediate");
}

static void across_pages(void)
{
    uint8_t *at = code + PAGE_BYTES - 3;

    put_return(at, 0x11223344);
    EXPECT_EQ(run(at), 0x11223344, "an instruction across two pages");
    write8(code + PAGE_BYTES, 0x55);
    EXPECT_EQ(run(at), 0x11553344, "its part on the second page is written");
    write8(code + PAGE_BYTES - 1, 0x66);
    EXPECT_EQ(run(at), 0x11556644, "its part on the first page is written");
    /* A store across both. */
    *(volatile uint32_t *)(at + 1) = 0xabcdef01;
    EXPECT_EQ(run(at), 0xabcdef01, "a store across both");
    /* A chain from one page to the other. */
    code[0] = 0xe9; /* jmp to the second page */
    *(volatile uint32_t *)(code + 1) = PAGE_BYTES * 2 - 5;
    put_return(code + 2 * PAGE_BYTES, 1);
    EXPECT_EQ(run(code), 1, "a jump to another page");
    put_return(code + 2 * PAGE_BYTES, 2);
    EXPECT_EQ(run(code), 2, "which is rewritten");
}

/* Each address has been branched to, so that nobody looks where it leads, when the code changes. */
static void at_many_addresses(void)
{
    enum { ADDRESSES = 5, ROUNDS = 4 };
    static uint8_t fresh[ROUNDS * PAGE_BYTES] PAGE_ALIGNED;
    unsigned wrong = 0;

    for (uint32_t n = 0; n < ROUNDS; n++) {
        uint8_t *at = fresh + n * PAGE_BYTES + 32;

        put_return(at, n);
        for (unsigned a = 0; a < ADDRESSES; a++)
            page_set(TEST_VA + a * PAGE_BYTES, 1, (word_t)(at - 32) | PTE_P);
        for (unsigned a = 0; a < 3 * ADDRESSES; a++)
            wrong += run((void *)(TEST_VA + a % ADDRESSES * PAGE_BYTES + 32)) != n;
        wrong += run(at) != n;
        put_return(at, n + 100);
        for (unsigned a = 0; a < ADDRESSES; a++)
            wrong += run((void *)(TEST_VA + a * PAGE_BYTES + 32)) != n + 100;
        wrong += run(at) != n + 100;
    }
    EXPECT_EQ(wrong, 0, "code at many addresses, all in use, is written at one");
}

static void through_aliases(void)
{
    struct trap t;

    page_set(TEST_VA, 1, (word_t)code | PTE_P | PTE_W);
    page_set(TEST_VA + PAGE_BYTES, 1, (word_t)code | PTE_P);
    put_return(code, 1);
    EXPECT_EQ(run((void *)(TEST_VA + PAGE_BYTES)), 1, "code at an alias");
    put_return((uint8_t *)TEST_VA, 2);
    EXPECT_EQ(run((void *)(TEST_VA + PAGE_BYTES)), 2, "written through another alias");
    EXPECT_EQ(run(code), 2, "seen at all of them");
    put_return(code, 3);
    EXPECT_EQ(run((void *)TEST_VA), 3, "written at its own address");
    /* The same virtual address, another page behind it. */
    put_return(code, 4);
    put_return(code + PAGE_BYTES, 5);
    EXPECT_EQ(run((void *)(TEST_VA + PAGE_BYTES)), 4, "one page");
    page_set(TEST_VA + PAGE_BYTES, 1, (word_t)(code + PAGE_BYTES) | PTE_P);
    EXPECT_EQ(run((void *)(TEST_VA + PAGE_BYTES)), 5, "another page at the same address");
    page_set(TEST_VA + PAGE_BYTES, 1, (word_t)code | PTE_P);
    EXPECT_EQ(run((void *)(TEST_VA + PAGE_BYTES)), 4, "and back");
    page_set(TEST_VA + PAGE_BYTES, 1, (word_t)code | PTE_P | PTE_NX);
    t = try(run_fn, TEST_VA + PAGE_BYTES, 0);
    EXPECT_TRAP(&t, VEC_PF, PF_P | PF_I, "code that was run is fetched no more when NX is set");
    put_return(user_ptr(code), 6);
    EXPECT_EQ(run(code), 6, "written through the user's alias");
    t = try_user(run_fn, (word_t)user_ptr(code), 0);
    EXPECT_EQ(t.f.ax, 6, "run by the user");
    put_return(code, 7);
    t = try_user(run_fn, (word_t)user_ptr(code), 0);
    EXPECT_EQ(t.f.ax, 7, "run by the user after a write of the supervisor's");
}

static void by_strings(void)
{
    static uint8_t from[16];
    const void *src;
    void *dst;
    word_t n;

    for (uint32_t i = 10; i < 20; i++) {
        put_return(from, i);
        src = from, dst = code, n = 6;
        asm volatile("rep movsb" : "+S"(src), "+D"(dst), "+c"(n) : : "memory");
        if (run(code) != i) {
            EXPECT(false, "REP MOVSB");
            return;
        }
    }
    EXPECT(true, "REP MOVSB over code that ran");
    memset(code + PAGE_BYTES, 0x90, PAGE_BYTES);
    put_return(code + 2 * PAGE_BYTES - 6, 1);
    EXPECT_EQ(run(code + PAGE_BYTES), 1, "a page of NOPs");
    dst = code + PAGE_BYTES, n = PAGE_BYTES - 6;
    asm volatile("rep stosb" : "+D"(dst), "+c"(n) : "a"(0xf8) : "memory"); /* clc */
    EXPECT_EQ(run(code + PAGE_BYTES), 1, "overwritten by REP STOSB");
    put_return(code, 1);
    (void)run(code);
    {
        uint32_t v = 77;

        asm volatile("xchg %0, 1(%1)" : "+r"(v) : "r"(code) : "memory");
        EXPECT_EQ(run(code), 77, "XCHG");
        asm volatile("lock addl $1, 1(%0)" : : "r"(code) : "memory", "cc");
        EXPECT_EQ(run(code), 78, "LOCK ADD");
        asm volatile("fildl 1(%0)\n\tfistpl 17(%0)\n\tfldz\n\tfistpl 1(%0)"
                     :
                     : "r"(code)
                     : "memory");
        EXPECT_EQ(run(code), 0, "FISTP");
        asm volatile("movl $99, %%eax\n\tmovd %%eax, %%xmm0\n\tmovd %%xmm0, 1(%0)"
                     :
                     : "r"(code)
                     : "rax", "memory");
        EXPECT_EQ(run(code), 99, "MOVD");
        asm volatile("push 1(%0)\n\tlea 9(%0), %%rcx\n\txchg %%rsp, %%rcx\n\tmov $0xc300000042, "
                     "%%rax\n\tpush %%rax\n\t"
                     "xchg %%rsp, %%rcx\n\tpop %%rcx"
                     :
                     : "r"(code)
                     : "rax", "rcx", "memory");
        EXPECT_EQ(run(code), 0x42, "PUSH");
    }
}

/* A device is read once for each byte, however the stores to a page with code are dealt with. */
static void from_a_port(void)
{
    bool good = true;

    for (unsigned i = 0; i < 100; i++) {
        uint8_t *to = code + 3000;
        word_t nr = 4;

        put_return(code, i);
        good = good && run(code) == i;
        for (unsigned k = 0; k < i; k++)
            write8(code + 2000 + k, (uint8_t)k);
        outw(0x510, 0); /* fw_cfg's signature */
        asm volatile("rep insb" : "+D"(to), "+c"(nr) : "d"(0x511) : "memory");
        good = good && !memcmp(code + 3000, "QEMU", 4);
    }
    EXPECT(good, "INS to a page with code");
}

int main(void)
{
    from_a_port();
    rewritten();
    same_block();
    own_loop();
    across_pages();
    at_many_addresses();
    through_aliases();
    by_strings();
    return 0;
}
