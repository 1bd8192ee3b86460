/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instructions that lie in two pages, run often enough to be hot: all kinds, cut at every byte;
 * then with the second page's mapping, rights and bytes changed under them. They have to do what
 * they do in one page.
 */
#include "guest.h"

#define VA     TEST_VA
#define NEXT   (TEST_VA + PAGE_BYTES)
#define ROUNDS 6
#define CODE   (PTE_P | PTE_W | PTE_U)

/* Pages whose code is written all the time get a treatment of their own: each theme has others. */
static uint8_t kinds_page[2 * PAGE_BYTES] PAGE_ALIGNED, pages[2][2][4 * PAGE_BYTES] PAGE_ALIGNED;
static uint8_t *page_a, *page_b, *page_c;
static uint64_t data[32] PAGE_ALIGNED;

/* RDI points to data, RSI is 3; RAX is the result. */
struct piece {
    const char *what;
    uint8_t before[12], nr_before;
    uint8_t insn[15], nr;
    uint8_t after[8], nr_after;
    word_t fault; /* 1 more than its vector, or 0 */
};
/* clang-format off */
#define LOAD_AX 0x48, 0x8b, 0x47, 0x08 /* mov 8(%rdi), %rax */
#define BYTES(...) { __VA_ARGS__ }, sizeof((uint8_t[]){ __VA_ARGS__ })
static const struct piece pieces[] = {
    { "an operation with an immediate", BYTES(LOAD_AX), BYTES(0x48, 0x05, 1, 2, 3, 4), BYTES(0x90), 0 },
    { "a 64-bit immediate", BYTES(0x90), BYTES(0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8), BYTES(0x90), 0 },
    { "a load", BYTES(0x90), BYTES(0x48, 0x8b, 0x87, 16, 0, 0, 0), BYTES(0x90), 0 },
    { "a store", BYTES(0x90), BYTES(0x48, 0xc7, 0x87, 24, 0, 0, 0, 9, 8, 7, 6), BYTES(0x48, 0x8b, 0x47, 24), 0 },
    { "a read and write", BYTES(LOAD_AX), BYTES(0x48, 0x01, 0x87, 32, 0, 0, 0), BYTES(0x48, 0x8b, 0x47, 32), 0 },
    { "a locked one", BYTES(LOAD_AX), BYTES(0xf0, 0x48, 0x0f, 0xc1, 0x87, 40, 0, 0, 0), BYTES(0x90), 0 },
    { "a multiplication", BYTES(0x90), BYTES(0x48, 0x69, 0x87, 8, 0, 0, 0, 5, 0, 0, 0), BYTES(0x90), 0 },
    { "a push", BYTES(0x90), BYTES(0x68, 0x44, 0x33, 0x22, 0x11), BYTES(0x58), 0 },
    { "a push of memory", BYTES(0x90), BYTES(0xff, 0xb7, 8, 0, 0, 0), BYTES(0x58), 0 },
    { "a jump", BYTES(0x31, 0xc0), BYTES(0xe9, 2, 0, 0, 0), BYTES(0xff, 0xc0, 0xff, 0xc0), 0 },
    { "a branch that is taken", BYTES(0x31, 0xc0), BYTES(0x0f, 0x84, 2, 0, 0, 0), BYTES(0xff, 0xc0, 0xff, 0xc0), 0 },
    { "one that is not", BYTES(0x31, 0xc0), BYTES(0x0f, 0x85, 2, 0, 0, 0), BYTES(0xff, 0xc0, 0xff, 0xc0), 0 },
    { "a call", BYTES(0x31, 0xc0), BYTES(0xe8, 1, 0, 0, 0), BYTES(0xc3, 0x58, 0x31, 0xc0, 0xff, 0xc0), 0 },
    { "a call of memory", BYTES(0x31, 0xc0), BYTES(0xff, 0x97, 0, 0, 0, 0), BYTES(0xff, 0xc0), 0 },
    { "a return of two", BYTES(0x56, 0x48, 0x8b, 0x44, 0x24, 8, 0x48, 0x89, 0x04, 0x24), BYTES(0xc2, 8, 0), BYTES(0x90), 0 },
    { "a branch back", BYTES(0xeb, 4, 0xff, 0xc0, 0xeb, 8, 0x31, 0xc0), BYTES(0x0f, 0x84, 0xf4, 0xff, 0xff, 0xff), BYTES(0x90), 0 },
    { "a bit test", BYTES(LOAD_AX), BYTES(0x0f, 0xba, 0xa7, 8, 0, 0, 0, 2), BYTES(0x0f, 0x92, 0xc0), 0 },
    { "a string", BYTES(0x89, 0xf1, 0xb0, 0x5a), BYTES(0xf3, 0xaa), BYTES(0x48, 0x8b, 0x47, 0xfd), 0 },
    { "CPUID", BYTES(0x53, 0x31, 0xc0), BYTES(0x0f, 0xa2), BYTES(0x89, 0xd8, 0x5b), 0 },
    { "what is undefined", BYTES(0x90), BYTES(0x0f, 0x0b), BYTES(0x90), VEC_UD + 1 },
    { "a division by zero", BYTES(0x31, 0xc9), BYTES(0x48, 0xf7, 0xf1), BYTES(0x90), VEC_DE + 1 },
};
/* clang-format on */

static void lay(uint8_t *end, const struct piece *p, unsigned in_first)
{
    uint8_t *at = end - in_first - p->nr_before;

    memcpy(at, p->before, p->nr_before);
    memcpy(end - in_first, p->insn, p->nr);
    memcpy(end - in_first + p->nr, p->after, p->nr_after);
    end[p->nr - in_first + p->nr_after] = 0xc3;
}

static void fill_data(void)
{
    for (unsigned i = 0; i < ARRAY_SIZE(data); i++)
        data[i] = i * 0x0101010101010101ull;
    data[0] = NEXT + 2048; /* a RET is there */
}

static word_t call_at(word_t at, word_t rdi)
{
    word_t ax;

    asm volatile("call *%3"
                 : "=a"(ax), "+D"(rdi)
                 : "S"(3ul), "r"(at)
                 : "rcx", "rdx", "r8", "memory", "cc");
    return ax;
}

static struct trap run(const struct piece *p, word_t end, unsigned in_first, bool user)
{
    word_t at = end - in_first - p->nr_before;

    fill_data();
    return user ? try_user(call_at, at, (word_t)user_ptr(data)) : try(call_at, at, (word_t)data);
}

static bool same(const struct trap *a, const struct trap *b, word_t moved, const uint64_t *then)
{
    if (a->vec != b->vec || a->err != b->err || memcmp(data, then, sizeof(data)))
        return false;
    if (a->vec == VEC_UD || a->vec == VEC_DE)
        return a->f.ip == b->f.ip + moved;
    return a->f.ax == b->f.ax && a->f.cx == b->f.cx && a->f.dx == b->f.dx && a->f.sp == b->f.sp;
}

static void kinds(bool user)
{
    uint64_t then[ARRAY_SIZE(data)];

    page_set(VA, 1, (word_t)kinds_page | CODE);
    page_set(NEXT, 1, (word_t)(kinds_page + PAGE_BYTES) | CODE);
    for (unsigned i = 0; i < ARRAY_SIZE(pieces); i++) {
        const struct piece *p = &pieces[i];
        unsigned wrong = 0;

        for (unsigned cut = 1; cut < p->nr; cut++) {
            struct trap ref, t;

            memset(kinds_page, 0x90, sizeof(kinds_page));
            kinds_page[PAGE_BYTES + 2048] = 0xc3;
            lay(kinds_page + 2048, p, cut);
            ref = run(p, VA + 2048, cut, user);
            memcpy(then, data, sizeof(then));
            wrong += ref.vec != (p->fault ? p->fault - 1 : user ? VEC_USER_END : VEC_NONE);
            lay(kinds_page + PAGE_BYTES, p, cut);
            for (unsigned n = 0; n < ROUNDS; n++) {
                t = run(p, NEXT, cut, user);
                wrong += !same(&t, &ref, PAGE_BYTES - 2048, then);
            }
        }
        EXPECT_EQ(wrong, 0, "%s, cut at every byte%s", p->what, user ? ", at CPL 3" : "");
    }
}

/* ---- changes ---- */

/* mov $imm32, %eax with its last three bytes in the second page */
#define ENTRY (NEXT - 2)

static void put_mov(uint8_t first_imm)
{
    page_a[PAGE_BYTES - 2] = 0xb8;
    page_a[PAGE_BYTES - 1] = first_imm;
}

static void put_rest(uint8_t *page, uint8_t imm)
{
    memset(page, 0, 4);
    page[0] = imm;
    page[3] = 0xc3;
}

static struct trap call_it(bool user)
{
    return (user ? try_user : try)(call_at, ENTRY, 0);
}

static bool gives(bool user, word_t what)
{
    struct trap t = call_it(user);

    return t.vec == (user ? VEC_USER_END : VEC_NONE) && t.f.ax == what;
}

static void make_hot(bool user, uint8_t *four_pages)
{
    unsigned wrong = 0;

    page_a = four_pages; /* two of them */
    page_b = four_pages + 2 * PAGE_BYTES;
    page_c = four_pages + 3 * PAGE_BYTES;
    put_mov(0x11);
    put_rest(page_b, 0x22);
    put_rest(page_c, 0x33);
    page_set(VA, 1, (word_t)page_a | CODE);
    page_set(NEXT, 1, (word_t)page_b | CODE);
    for (unsigned i = 0; i < ROUNDS; i++)
        wrong += !gives(user, 0x2211);
    EXPECT_EQ(wrong, 0, "it runs");
}

static void mappings(bool user)
{
    uint64_t *next = page_entry(NEXT, 1), *first = page_entry(VA, 1);
    unsigned wrong = 0;
    struct trap t;

    make_hot(user, pages[user][0]);
    for (unsigned i = 0; i < 20; i++) {
        *next = (word_t)(i & 1 ? page_b : page_c) | CODE;
        invlpg((void *)(NEXT + 0x123));
        wrong += !gives(user, i & 1 ? 0x2211 : 0x3311);
    }
    EXPECT_EQ(wrong, 0, "another second page, by INVLPG");
    for (unsigned i = 0; i < 20; i++) {
        *next = (word_t)(i & 1 ? page_b : page_c) | CODE;
        flush_tlb();
        wrong += !gives(user, i & 1 ? 0x2211 : 0x3311);
    }
    EXPECT_EQ(wrong, 0, "by CR3");
    memcpy(page_a + PAGE_BYTES, page_a, PAGE_BYTES);
    page_a[2 * PAGE_BYTES - 1] = 0x44;
    for (unsigned i = 0; i < 20; i++) {
        *first = (word_t)(i & 1 ? page_a : page_a + PAGE_BYTES) | CODE;
        invlpg((void *)VA);
        wrong += !gives(user, i & 1 ? 0x2211 : 0x2244);
    }
    EXPECT_EQ(wrong, 0, "another first page");
    *next = 0;
    invlpg((void *)NEXT);
    t = call_it(user);
    EXPECT_TRAP(&t, VEC_PF, PF_I | (user ? PF_U : 0u), "an absent second page");
    EXPECT(t.cr2 == NEXT && t.f.ip == ENTRY, "is the fault's address");
    *next = (word_t)page_b | CODE | PTE_NX;
    invlpg((void *)NEXT);
    t = call_it(user);
    EXPECT_TRAP(&t, VEC_PF, PF_P | PF_I | (user ? PF_U : 0u), "one that is not for code");
    EXPECT(t.cr2 == NEXT && t.f.ip == ENTRY, "is the fault's address");
    *next = (word_t)page_b | CODE;
    invlpg((void *)NEXT);
    EXPECT(gives(user, 0x2211), "and runs again");
}

static void stores(bool user)
{
    unsigned wrong = 0;

    make_hot(user, pages[user][1]);
    for (unsigned i = 0; i < 50; i++) {
        *(volatile uint8_t *)&page_b[0] = (uint8_t)(0x40 + i);
        wrong += !gives(user, (0x40 + i) << 8 | 0x11);
        if (i % 3 == 0)
            wrong += !gives(user, (0x40 + i) << 8 | 0x11);
    }
    EXPECT_EQ(wrong, 0, "stores to the second page's bytes");
    for (unsigned i = 0; i < 50; i++) {
        *(volatile uint8_t *)&page_a[PAGE_BYTES - 1] = (uint8_t)(0x40 + i);
        wrong += !gives(user, (0x40 + 49) << 8 | (0x40 + i));
        wrong += !gives(user, (0x40 + 49) << 8 | (0x40 + i));
    }
    EXPECT_EQ(wrong, 0, "to the first's");
    for (unsigned i = 0; i < 50; i++) {
        *(volatile uint8_t *)&page_c[0] = (uint8_t)i;
        page_set(NEXT, 1, (word_t)(i & 1 ? page_b : page_c) | CODE);
        wrong += !gives(user, (i & 1 ? 0x40 + 49 : i) << 8 | (0x40 + 49));
    }
    EXPECT_EQ(wrong, 0, "to a page that comes and goes");
}

int main(void)
{
    for (unsigned user = 0; user < 2; user++) {
        kinds(user);
        mappings(user);
        stores(user);
    }
    return 0;
}
