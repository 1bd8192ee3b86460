/* SPDX-License-Identifier: Apache-2.0 */
/*
 * User code that jumps about by pointers, in address spaces that come and go: pages full of
 * functions at several addresses, remapped, rewritten, taken away, made the kernel's own or not to
 * be run, in random order. A translator that knows where the functions of a page begin must not be
 * seen to know it of another page, or of what the page was before.
 */
#include "guest.h"

#define FRAMES    96u /* so many that one is not rewritten often: that would be another matter */
#define SLOTS     6u  /* addresses that they are seen at */
#define FUNCTIONS 8u
#define BYTES     (PAGE_BYTES / FUNCTIONS)
#define ROUNDS    6000u
#define CALLS_MAX 24u
#define SLOT(n)   (TEST_VA + (n)*PAGE_BYTES)
#define RWU       (PTE_P | PTE_W | PTE_U)

static uint8_t frames[FRAMES][PAGE_BYTES] PAGE_ALIGNED;
static uint32_t says[FRAMES][FUNCTIONS];

/* What a slot is, and what the processor may still believe. */
static struct slot {
    unsigned frame;
    word_t bits;
} slots[SLOTS];

static struct calls {
    uint64_t nr;
    word_t at[CALLS_MAX];
} calls;

static uint32_t seed = 20261123;

static uint32_t below(uint32_t n)
{
    seed = seed * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)seed * n >> 32);
}

/* MOV EAX; RET; some by way of a jump to their second half. */
static void put_function(unsigned frame, unsigned nr, uint32_t v)
{
    uint8_t *p = &frames[frame][nr * BYTES];

    says[frame][nr] = v;
    if (nr % 3 == 1) {
        *p++ = 0xeb;
        *p++ = 62;
        p += 62;
    }
    *p++ = 0xb8;
    memcpy(p, &v, 4);
    p[4] = 0xc3;
}

static word_t sum_calls(word_t p, word_t unused)
{
    const struct calls *c = (const struct calls *)p;
    word_t sum = 0;

    (void)unused;
    for (uint64_t i = 0; i < c->nr; i++)
        sum = sum * 3 + ((uint32_t(*)(void))c->at[i])();
    return sum;
}

/* A random lot of the functions; the first that must fault ends it. True: as it should be. */
static bool call_some(void)
{
    word_t want = 0, fault = 0;
    struct trap t;

    calls.nr = 1 + below(CALLS_MAX);
    for (unsigned i = 0; i < calls.nr; i++) {
        unsigned s = below(SLOTS), f = below(FUNCTIONS);
        bool runs =
            (slots[s].bits & (PTE_P | PTE_U)) == (PTE_P | PTE_U) && !(slots[s].bits & PTE_NX);

        calls.at[i] = SLOT(s) + f * BYTES;
        if (!runs && !fault)
            fault = calls.at[i];
        want = want * 3 + says[slots[s].frame][f];
    }
    t = try_user(sum_calls, (word_t)user_ptr(&calls), 0);
    if (fault)
        return t.vec == VEC_PF && t.cr2 == fault && t.f.ip == fault && (t.err & PF_U);
    return t.vec == VEC_USER_END && t.f.ax == want;
}

static void reload_cr3(void)
{
    write_cr3(read_cr3());
}

static void remap(bool one)
{
    static const word_t bits[] = { RWU, RWU, RWU, RWU, RWU, RWU | PTE_NX, PTE_P | PTE_W, 0 };
    unsigned s = below(SLOTS), n = one ? 1 : 1 + below(SLOTS);

    for (unsigned i = 0; i < n; i++, s = (s + 1) % SLOTS) {
        slots[s] = (struct slot){ below(FRAMES), bits[below(ARRAY_SIZE(bits))] };
        page_set(SLOT(s), 1, slots[s].bits ? (word_t)frames[slots[s].frame] | slots[s].bits : 0);
        if (one)
            asm volatile("invlpg (%0)" : : "r"(SLOT(s)) : "memory");
    }
    if (!one)
        reload_cr3();
}

static void at_random(void)
{
    unsigned wrong = 0;

    for (unsigned s = 0; s < SLOTS; s++) {
        slots[s] = (struct slot){ s % FRAMES, RWU };
        page_set(SLOT(s), 1, (word_t)frames[s % FRAMES] | RWU);
    }
    reload_cr3();
    for (unsigned i = 0; i < ROUNDS; i++) {
        switch (below(16)) {
        case 0 ... 1:
            remap(true);
            break;
        case 2 ... 3:
            remap(false);
            break;
        case 4:
            put_function(slots[below(SLOTS)].frame, below(FUNCTIONS), below(~0u));
            break;
        case 5 ... 8:
            reload_cr3();
            break;
        default:
            break;
        }
        if (!call_some() && ++wrong < 5)
            EXPECT(false, "round %u", i);
    }
    EXPECT_EQ(wrong, 0, "functions of pages that come and go, in %u rounds", ROUNDS);
}

/* Two functions without a jump of a frame at a slot: both, or the first. */
static bool calls_say(unsigned slot, unsigned frame, unsigned nr)
{
    word_t want = 0;
    struct trap t;

    for (unsigned f = 0; f < nr; f++) {
        calls.at[f] = SLOT(slot) + 2 * f * BYTES;
        want = want * 3 + says[frame][2 * f];
    }
    calls.nr = nr;
    t = try_user(sum_calls, (word_t)user_ptr(&calls), 0);
    return t.vec == VEC_USER_END && t.f.ax == want;
}

/* At this slot alone, or at all of them. */
static void show_at(unsigned slot, unsigned frame)
{
    for (unsigned s = 0; s < SLOTS; s++)
        page_set(SLOT(s), 1, s == slot || slot == SLOTS ? (word_t)frames[frame] | RWU : 0);
}

/* What was called at one address, is rewritten when only its neighbour was called at another. */
static void rewritten_elsewhere(void)
{
    unsigned wrong = 0;

    for (unsigned f = 0; f < FRAMES; f++) {
        put_function(f, 2, below(~0u));
        show_at(0, f);
        wrong += !calls_say(0, f, 2);
        show_at(1, f);
        wrong += !calls_say(1, f, 1);
        put_function(f, 2, below(~0u));
        wrong += !calls_say(1, f, 2);
    }
    EXPECT_EQ(wrong, 0, "a function that is rewritten before its first call at an address");
}

static void rewritten_everywhere(void)
{
    unsigned wrong = 0;

    for (unsigned f = 0; f < FRAMES; f++) {
        put_function(f, 2, below(~0u));
        show_at(SLOTS, f);
        for (unsigned s = 0; s < SLOTS; s++)
            wrong += !calls_say(s, f, 2);
        put_function(f, 2, below(~0u));
        for (unsigned s = 0; s < SLOTS; s++)
            wrong += !calls_say(s, f, 2);
    }
    EXPECT_EQ(wrong, 0, "one that is rewritten after it was called at %u", SLOTS);
}

int main(void)
{
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
    for (unsigned f = 0; f < FRAMES; f++)
        for (unsigned n = 0; n < FUNCTIONS; n++)
            put_function(f, n, below(~0u));
    at_random();
    rewritten_elsewhere();
    rewritten_everywhere();
    return 0;
}
