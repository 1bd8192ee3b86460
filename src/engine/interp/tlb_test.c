/* SPDX-License-Identifier: Apache-2.0 */
/* What the TLB's flushes keep and drop, with 32-bit page tables of four pages. No vCPU runs. */
#include "engine/interp/tlb_fake.h"

#define RAM_PAGES 8
#define TABLE     1 /* page 0 is the directory */

/* SDM 3, "32-Bit Paging" */
#define PTE_P 1u
#define PTE_W 2u
#define PTE_U 4u
#define PTE_G 0x100u

static void set_pte(struct fake *f, unsigned table, unsigned n, uint32_t pte)
{
    memcpy(f->ram->hva + table * PAGE_BYTES + n * 4ull, &pte, 4);
}

/* Linear page n is RAM's page `to`. */
static void map(struct fake *f, unsigned n, unsigned to, uint32_t flags)
{
    set_pte(f, TABLE, n, (uint32_t)(to * PAGE_BYTES) | flags);
}

static int setup(void **state)
{
    struct fake *f = fake_create(RAM_PAGES);
    struct cpu *c;

    set_pte(f, 0, 0, (uint32_t)(TABLE * PAGE_BYTES) | PTE_P | PTE_W | PTE_U);
    c = CPU(f->v);
    c->cr0 |= CR0_PE | CR0_PG | CR0_WP;
    c->cr4 |= CR4_PGE;
    c->cr3 = 0;
    cpu_update_mode(c);
    tlb_set_view(f->v);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fake_destroy(*state);
    return 0;
}

static void test_a_switch_of_processes_keeps_what_is_global(void **state)
{
    struct fake *f = *state;

    map(f, 4, 4, PTE_P | PTE_W);
    map(f, 5, 5, PTE_P | PTE_W | PTE_G);
    assert_true(tlb_fill(f->v, LIN(4), 4, true));
    assert_true(tlb_fill(f->v, LIN(5), 4, true));
    tlb_flush_nonglobal(f->v);
    assert_false(may_read(f, 4));
    assert_true(may_write(f, 5));
    tlb_flush_all(f->v);
    assert_false(may_read(f, 5));
}

/* The same entry, for one kind of page after the other. */
static void test_an_entry_that_changes_its_kind_is_flushed_as_what_it_is(void **state)
{
    struct fake *f = *state;

    for (unsigned round = 0; round < 3; round++) {
        map(f, 4, 4, PTE_P | PTE_W);
        assert_true(tlb_fill(f->v, LIN(4), 4, true));
        map(f, 4, 5, PTE_P | PTE_W | PTE_G);
        tlb_flush_page(f->v, LIN(4));
        assert_true(tlb_fill(f->v, LIN(4), 4, true));
        tlb_flush_nonglobal(f->v);
        assert_true(may_write(f, 4));
        map(f, 4, 4, PTE_P | PTE_W);
        tlb_flush_page(f->v, LIN(4));
        assert_true(tlb_fill(f->v, LIN(4), 4, true));
        tlb_flush_nonglobal(f->v);
        assert_false(may_read(f, 4));
    }
    map(f, 4, 4, PTE_P | PTE_W | PTE_G);
    assert_true(tlb_fill(f->v, LIN(4), 4, true));
    tlb_flush_all(f->v);
    assert_false(may_read(f, 4));
}

/* MOV to CR3 drops what is not global (SDM 3, "Operations that Invalidate TLBs and
 * Paging-Structure Caches"): here the right to execute, found before the page became global. */
static void test_a_right_found_not_global_does_not_survive_as_global(void **state)
{
    struct fake *f = *state;
    struct span s;

    map(f, 4, 4, PTE_P);
    assert_int_equal(span_find(f->v, LIN(4), ACC_EXEC, &s), STEP_NEXT);
    assert_true(TLB_HIT(f->v->tlb, x, LIN(4), 1));
    map(f, 4, 4, PTE_P | PTE_G);
    assert_true(tlb_fill(f->v, LIN(4), 4, false));
    tlb_flush_nonglobal(f->v);
    assert_true(may_read(f, 4));
    assert_false(TLB_HIT(f->v->tlb, x, LIN(4), 1));
}

static void test_pages_of_both_kinds_are_protected(void **state)
{
    struct fake *f = *state;

    map(f, 4, 6, PTE_P | PTE_W);
    map(f, 5, 6, PTE_P | PTE_W | PTE_G);
    assert_true(tlb_fill(f->v, LIN(4), 4, true));
    assert_true(tlb_fill(f->v, LIN(5), 4, true));
    tlb_protect_page(f->v, 6);
    assert_false(may_write(f, 4));
    assert_false(may_write(f, 5));
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_switch_of_processes_keeps_what_is_global),
        TEST(test_an_entry_that_changes_its_kind_is_flushed_as_what_it_is),
        TEST(test_a_right_found_not_global_does_not_survive_as_global),
        TEST(test_pages_of_both_kinds_are_protected),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
