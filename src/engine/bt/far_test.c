/* SPDX-License-Identifier: Apache-2.0 */
/* Chained branches of the kernel's to other pages. */
#include "engine/bt/bt.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>

#include "engine/bt/direct/direct_fake.h"

#define CODE   (KERNEL_AT + GIB(1))
#define STACK  (KERNEL_AT + GIB(2))
#define PAGES  8u
#define ROUNDS 20000u
#define TIMES  40u
#define HLT    0xf4
#define KERNEL (PTE_P | PTE_W | PTE_A | PTE_D | PTE_G)

/* Round and round through all pages: JMP to the next; from the last one to the first, or HLT. In
 * front, as of a kernel that changes the address space. */
static void put_ring(uint8_t *code)
{
    memcpy(code, "\x0f\x20\xd8\x50\x58\x0f\x22\xd8\xe9", 9);
    /* mov %cr3, %rax; push %rax; pop %rax; mov %rax, %cr3; jmp */
    memcpy(code + 9, &(uint32_t){ PAGE_BYTES - 13 }, 4);
    code += PAGE_BYTES;
    for (unsigned i = 0; i < PAGES - 1; i++) {
        code[i * PAGE_BYTES] = 0xe9;
        memcpy(code + i * PAGE_BYTES + 1, &(uint32_t){ PAGE_BYTES - 5 }, 4);
    }
    code += (PAGES - 1) * PAGE_BYTES;
    memcpy(code, "\xff\xc9\x0f\x85", 4); /* dec %ecx; jnz to the first */
    memcpy(code + 4, &(int32_t){ -(int)((PAGES - 1) * PAGE_BYTES + 8) }, 4);
    code[8] = HLT;
}

static void kernel_state(struct fake *f)
{
    struct cpu *c = &f->v->cpu;

    fake_user_state(f, CODE);
    c->cpl = 0;
    c->seg[SEG_CS].sel = 0x08;
    c->seg[SEG_CS].attr &= ~SEG_DPL;
    c->seg[SEG_SS].sel = 0x10;
    c->seg[SEG_SS].attr &= ~SEG_DPL;
    c->cr4 |= CR4_PGE;
    c->gpr[RCX] = ROUNDS;
    c->gpr[RSP] = STACK + PAGE_BYTES - 64;
    f->evm->ops->state_changed(f->v);
}

struct waker {
    struct fake *f;
    _Atomic bool over;
};

/* As whoever made a request and was late to say so. */
static void *wake(void *arg)
{
    struct waker *w = arg;

    while (!w->over)
        __atomic_store_n((uint32_t *)&w->f->v->cpu.quiet, 0, __ATOMIC_RELAXED);
    return NULL;
}

static void test_far_branches_bear_wakers_that_come_late(void **state)
{
    struct fake *f = fake_machine(&bt_engine);
    struct waker w = { .f = f };
    uint64_t at, chained;
    pthread_t thread;

    (void)state;
    assert_non_null(f);
    at = fake_map(f, CODE, PAGES + 1, KERNEL);
    (void)fake_map(f, STACK, 1, KERNEL);
    put_ring(f->ram->hva + at);
    kernel_state(f);
    assert_int_equal(f->evm->ops->run(f->v), RUN_HALTED);
    chained = f->v->nr_exits[EXIT_CHAIN];
    assert_true(chained >= PAGES);
    assert_true(f->v->nr_exits[EXIT_LOOKUP] < 10 * PAGES);
    assert_int_equal(pthread_create(&thread, NULL, wake, &w), 0);
    for (unsigned i = 0; i < TIMES; i++) {
        uint64_t page = at + (1 + i % PAGES) * PAGE_BYTES;

        kernel_state(f);
        /* What leads to a page is taken back with its blocks. */
        (void)mmu_write(f->mmu, GPA(page), f->ram->hva + page, 5);
        assert_int_equal(f->evm->ops->run(f->v), RUN_HALTED);
        assert_int_equal(f->v->cpu.gpr[RCX], 0);
    }
    w.over = true;
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(f->v->nr_exits[EXIT_CHAIN] >= chained + TIMES);
    assert_true(f->v->nr_exits[EXIT_LOOKUP] > 10 * PAGES); /* they came by */
    fake_destroy(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_far_branches_bear_wakers_that_come_late),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
