/* SPDX-License-Identifier: Apache-2.0 */
/* The library itself: the others build on what is checked here. */
#include "guest.h"

static word_t returns(word_t a, word_t b)
{
    return a + b;
}

static word_t faults(word_t a, word_t b)
{
    (void)b;
    return read8((void *)a);
}

static word_t breakpoint(word_t a, word_t b)
{
    (void)b;
    asm volatile("int3");
    return a;
}

static unsigned nr_breakpoints;
static void count_breakpoint(struct frame *f)
{
    (void)f;
    nr_breakpoints++;
}

int main(void)
{
    struct trap t = try(returns, 3, 4);

    EXPECT_EQ(boot_magic, 0x2badb002, "the loader names itself in EAX");
    EXPECT_TRAP(&t, VEC_NONE, 0, "a function returns through try");
    EXPECT_EQ(t.f.ax, 7, "with its result");
    t = try(faults, TEST_VA, 0);
    EXPECT_TRAP(&t, VEC_PF, 0, "a fault ends it");
    EXPECT_EQ(t.cr2, TEST_VA, "with its address in CR2");
    t = try_user(returns, 30, 4);
    EXPECT_TRAP(&t, VEC_USER_END, 0, "a function runs at CPL 3");
    EXPECT_EQ(t.f.ax, 34, "with its result");
    EXPECT_EQ(t.f.cs, SEL_UCODE64 | 3, "the frame shows CPL 3");
    t = try_user(faults, 0x100000, 0);
    EXPECT_TRAP(&t, VEC_PF, PF_U | PF_P, "a fault at CPL 3 ends it");
    trap_handle(VEC_BP, count_breakpoint);
    t = try(breakpoint, 5, 0);
    EXPECT_TRAP(&t, VEC_NONE, 0, "a handler returns to where it came from");
    t = try_user(breakpoint, 5, 0);
    EXPECT_TRAP(&t, VEC_USER_END, 0, "at CPL 3 too");
    EXPECT_EQ(nr_breakpoints, 2, "the handler ran");
    EXPECT(tsc_per_ms() > 1000, "the TSC runs");
    return 0;
}
