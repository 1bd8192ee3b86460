/* SPDX-License-Identifier: Apache-2.0 */
/* What the TLB's flushes keep and drop, with 32-bit page tables of four pages. No vCPU runs. */
#include "engine/interp/tlb.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#define RAM_PAGES 8
#define TABLE     1 /* page 0 is the directory */
#define LIN(n)    ((uint64_t)(n)*PAGE_BYTES)

/* SDM 3, "32-Bit Paging" */
#define PTE_P 1u
#define PTE_W 2u
#define PTE_U 4u
#define PTE_G 0x100u

struct fake {
    struct cpu_model model;
    struct log_seen seen;
    struct mmu *mmu;
    struct slot *ram;
    struct engine_vm *evm;
    struct vcpu *vc;
    struct ivcpu *v;
};

static const struct platform_ops no_platform;
static const struct platform_time_ops no_time;

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
    struct fake *f = calloc(1, sizeof(*f));
    struct engine_config cfg;
    struct cpu *c;
    char err[200];

    assert_non_null(f);
    assert_true(cpu_model_init(&f->model, "host", err, sizeof(err)));
    f->model.nr_cpus = 1;
    f->mmu = mmu_create();
    assert_int_equal(
        mmu_slot_add(f->mmu, &(struct slot_desc){ .name = "ram", .bytes = RAM_PAGES * PAGE_BYTES },
                     &f->ram),
        0);
    cfg = (struct engine_config){ .mmu = f->mmu,
                                  .model = &f->model,
                                  .ops = &no_platform,
                                  .time_ops = &no_time,
                                  .seen = &f->seen };
    assert_int_equal(interp_engine.vm_create(&cfg, &f->evm), 0);
    assert_int_equal(interp_engine.vcpu_create(f->evm, 0, &f->vc), 0);
    f->v = container_of(f->vc, struct ivcpu, vc);
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
    struct fake *f = *state;

    interp_engine.vcpu_destroy(f->vc);
    interp_engine.vm_destroy(f->evm);
    mmu_destroy(f->mmu);
    free(f);
    return 0;
}

static bool may_read(const struct fake *f, unsigned n)
{
    return TLB_HIT(f->v->tlb, r, LIN(n), 4);
}

static bool may_write(const struct fake *f, unsigned n)
{
    return TLB_HIT(f->v->tlb, w, LIN(n), 4);
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
