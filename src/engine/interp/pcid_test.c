/* SPDX-License-Identifier: Apache-2.0 */
/* What is put aside for a PCID and what comes back, on the TLB itself: no page table, no vCPU runs.
 */
#include "engine/interp/tlb_fake.h"

#define RAM_PAGES 512

static int setup(void **state)
{
    struct fake *f = fake_create(RAM_PAGES);

    CPU(f->v)->cr4 |= CR4_PCIDE;
    tlb_set_view(f->v); /* no paging: every page is its own, and not global */
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fake_destroy(*state);
    return 0;
}

static void go_to(struct fake *f, uint16_t pcid)
{
    pcid_leave(f->v);
    CPU(f->v)->cr3 = pcid;
    pcid_enter(f->v);
}

static void test_entries_come_back_with_their_pcid(void **state)
{
    struct fake *f = *state;

    go_to(f, 1);
    assert_true(tlb_fill(f->v, LIN(4), 4, true));
    assert_true(tlb_fill(f->v, LIN(5), 4, false));
    go_to(f, 2);
    assert_false(may_read(f, 4));
    assert_false(may_read(f, 5));
    assert_true(tlb_fill(f->v, LIN(6), 4, false));
    go_to(f, 1);
    assert_true(may_write(f, 4));
    assert_true(may_read(f, 5));
    assert_false(may_write(f, 5));
    assert_false(may_read(f, 6));
    assert_ptr_equal(TLB_HVA(f->v->tlb, LIN(4)), f->ram->hva + LIN(4));
    /* They are flushed as others are. */
    tlb_flush_nonglobal(f->v);
    assert_false(may_read(f, 4));
}

static void test_what_is_forgotten_does_not_come_back(void **state)
{
    struct fake *f = *state;

    for (unsigned how = 0; how < 3; how++) {
        go_to(f, 1);
        assert_true(tlb_fill(f->v, LIN(4), 4, true));
        go_to(f, 2);
        if (how == 0)
            pcid_forget(f->v, 1);
        else if (how == 1)
            pcid_forget_all(f->v);
        else
            tlb_flush_all(f->v);
        go_to(f, 1);
        assert_false(may_read(f, 4));
    }
    assert_true(tlb_fill(f->v, LIN(4), 4, true));
    go_to(f, 2);
    pcid_forget(f->v, 3);
    go_to(f, 1);
    assert_true(may_read(f, 4));
}

static void test_pages_that_have_become_code_come_back_without_their_write_tags(void **state)
{
    struct fake *f = *state;

    go_to(f, 1);
    assert_true(tlb_fill(f->v, LIN(4), 4, true));
    assert_true(tlb_fill(f->v, LIN(5), 4, true));
    go_to(f, 2);
    f->ram->notes[5] |= PAGE_NOTE_CODE;
    tlb_protect_page(f->v, 5);
    go_to(f, 1);
    assert_true(may_write(f, 4));
    assert_true(may_read(f, 5));
    assert_false(may_write(f, 5));
}

/* The latest of more than there is room for. */
static void test_the_latest_entries_are_kept(void **state)
{
    struct fake *f = *state;
    unsigned nr = PCID_KEPT + 20;

    go_to(f, 1);
    for (unsigned n = 0; n < nr; n++)
        assert_true(tlb_fill(f->v, LIN(8 + n), 4, false));
    for (unsigned times = 0; times < 3; times++) {
        go_to(f, 2);
        go_to(f, 1);
        for (unsigned n = 0; n < nr; n++)
            assert_int_equal(may_read(f, 8 + n), n >= 20);
    }
}

/* More PCIDs than sets: the one that was left first goes. */
static void test_the_oldest_set_is_used_again(void **state)
{
    struct fake *f = *state;

    for (uint16_t p = 1; p <= PCID_SETS + 1; p++) {
        go_to(f, p);
        assert_true(tlb_fill(f->v, LIN(4), 4, false));
    }
    go_to(f, PCID_SETS + 2);
    go_to(f, 1);
    assert_false(may_read(f, 4));
    go_to(f, PCID_SETS + 1);
    assert_true(may_read(f, 4));
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_entries_come_back_with_their_pcid),
        TEST(test_what_is_forgotten_does_not_come_back),
        TEST(test_pages_that_have_become_code_come_back_without_their_write_tags),
        TEST(test_the_latest_entries_are_kept),
        TEST(test_the_oldest_set_is_used_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
