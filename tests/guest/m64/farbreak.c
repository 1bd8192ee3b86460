/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instruction breakpoints in another page of the kernel's code, which an engine that translates may
 * have chained direct calls and jumps to. SDM 3, "Instruction-Breakpoint Exception Condition".
 */
#include "upper.h"

#define CODE  (KERNEL + 0x10000000ull)
#define TIMES 10u

static unsigned nr_hits;

static void note(struct frame *f)
{
    nr_hits++;
    f->flags |= FLAG_RF;
    write_dr6(0);
}

typedef word_t fn(void);

static word_t run(word_t at)
{
    word_t sum = 0;

    for (unsigned i = 0; i < TIMES; i++)
        sum += ((fn *)at)();
    return sum;
}

static void break_at(word_t at)
{
    nr_hits = 0;
    write_dr0(at);
    write_dr7(2);
}

static void breakpoints(void)
{
    static const uint8_t seven[] = { 0xb8, 7, 0, 0, 0, 0xc3 }; /* mov $7, %eax; ret */
    const int32_t rel = PAGE_BYTES - 5;
    uint8_t *caller = (uint8_t *)PA(0), *jumper = caller + 64, *callee = (uint8_t *)PA(1);
    const int32_t rel_jump = PAGE_BYTES - 64 - 5;
    bool good = true;

    map(CODE, PA(0) | GR);
    map(CODE + PAGE_BYTES, PA(1) | GR);
    caller[0] = 0xe8; /* call, ret */
    memcpy(caller + 1, &rel, 4);
    caller[5] = 0xc3;
    jumper[0] = 0xe9; /* jmp */
    memcpy(jumper + 1, &rel_jump, 4);
    memcpy(callee, seven, sizeof(seven));
    trap_handle(VEC_DB, note);
    for (unsigned i = 0; i < 20; i++) /* so that it is hot */
        good &= run(CODE) == 7 * TIMES && run(CODE + 64) == 7 * TIMES;
    EXPECT(good, "calls and jumps to another page");
    break_at(CODE + PAGE_BYTES);
    EXPECT_EQ(run(CODE), 7 * TIMES, "a breakpoint at a function that is called directly");
    EXPECT_EQ(nr_hits, TIMES, "hits");
    break_at(CODE + PAGE_BYTES);
    EXPECT_EQ(run(CODE + 64), 7 * TIMES, "at one that is jumped to");
    EXPECT_EQ(nr_hits, TIMES, "hits");
    break_at(CODE + PAGE_BYTES);
    EXPECT_EQ(run(CODE + PAGE_BYTES), 7 * TIMES, "at one that is called by a pointer");
    EXPECT_EQ(nr_hits, TIMES, "hits");
    break_at(CODE + 5);
    EXPECT_EQ(run(CODE), 7 * TIMES, "behind the call");
    EXPECT_EQ(nr_hits, TIMES, "hits");
    write_dr7(0);
    nr_hits = 0;
    for (unsigned i = 0; i < 20; i++)
        (void)run(CODE);
    EXPECT_EQ(nr_hits, 0, "none without");
    break_at(CODE + PAGE_BYTES);
    EXPECT_EQ(run(CODE), 7 * TIMES, "and again");
    EXPECT_EQ(nr_hits, TIMES, "hits");
    write_dr7(0);
}

int main(void)
{
    static upper_fn *const tests[] = { breakpoints };

    upper_run(tests, ARRAY_SIZE(tests));
    return 0;
}
