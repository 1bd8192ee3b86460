/* SPDX-License-Identifier: Apache-2.0 */
/* Who holds and who writes a page of code: the protocol, step by step and at random. No vCPU runs.
 */
#include "engine/interp/share.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#define NR_CPUS 3
#define PAGES   4
#define AT(n)   GPA((uint64_t)(n)*PAGE_BYTES + 0x100)

struct fake {
    struct cpu_model model;
    struct log_seen seen;
    struct mmu *mmu;
    struct slot *ram;
    struct engine_vm *evm;
    struct vcpu *vc[NR_CPUS];
    struct ivcpu *v[NR_CPUS];
};

static void fake_apic_timer(void *ctx, uint32_t cpu_id, uint64_t deadline_ns)
{
    (void)ctx, (void)cpu_id, (void)deadline_ns;
}

static const struct platform_ops no_platform;
static const struct platform_time_ops fake_time = { .apic_timer = fake_apic_timer };

static int setup(void **state)
{
    struct fake *f = calloc(1, sizeof(*f));
    struct engine_config cfg;
    char err[200];

    assert_non_null(f);
    assert_true(cpu_model_init(&f->model, "host", err, sizeof(err)));
    f->model.nr_cpus = NR_CPUS;
    f->mmu = mmu_create();
    assert_int_equal(mmu_slot_add(f->mmu,
                                  &(struct slot_desc){ .name = "ram", .bytes = PAGES * PAGE_BYTES },
                                  &f->ram),
                     0);
    cfg = (struct engine_config){ .mmu = f->mmu,
                                  .model = &f->model,
                                  .ops = &no_platform,
                                  .time_ops = &fake_time,
                                  .seen = &f->seen };
    assert_int_equal(interp_engine.vm_create(&cfg, &f->evm), 0);
    for (unsigned i = 0; i < NR_CPUS; i++) {
        assert_int_equal(interp_engine.vcpu_create(f->evm, i, &f->vc[i]), 0);
        f->v[i] = container_of(f->vc[i], struct ivcpu, vc);
    }
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fake *f = *state;

    for (unsigned i = 0; i < NR_CPUS; i++)
        interp_engine.vcpu_destroy(f->vc[i]);
    interp_engine.vm_destroy(f->evm);
    mmu_destroy(f->mmu);
    free(f);
    return 0;
}

static bool is_code(const struct fake *f, unsigned page)
{
    return f->ram->notes[page] & PAGE_NOTE_CODE;
}

static unsigned writer(const struct fake *f, unsigned page)
{
    return PAGE_WRITER(f->ram->notes[page]);
}

/* Is there a write tag? Paging is off: linear addresses are physical. */
static bool may_write(const struct ivcpu *v, unsigned page)
{
    const struct tlb *t = v->tlb;

    return TLB_HIT(t, w, AT(page).v, 4);
}

static bool asked(struct ivcpu *v)
{
    uint32_t old = __atomic_fetch_and((uint32_t *)&v->vc.cpu.req, ~REQ_CODE, __ATOMIC_SEQ_CST);

    return old & REQ_CODE;
}

static void store(struct ivcpu *v, unsigned page)
{
    share_will_store(v, AT(page), 4);
    (void)share_stored(v);
}

static void test_a_page_without_writers_is_decoded_at_once(void **state)
{
    struct fake *f = *state;

    assert_true(share_note(f->v[0], AT(1)));
    assert_true(is_code(f, 1));
    assert_false(is_code(f, 0));
    assert_false(page_claim_write(f->v[1], f->ram, AT(1)));
    assert_false(tlb_fill(f->v[1], AT(1).v, 4, true));
    assert_true(tlb_fill(f->v[1], AT(0).v, 4, true));
}

static void test_writers_are_noted(void **state)
{
    struct fake *f = *state;

    assert_int_equal(writer(f, 2), 0);
    assert_true(page_claim_write(f->v[1], f->ram, AT(2)));
    assert_int_equal(writer(f, 2), 2);
    assert_true(page_claim_write(f->v[1], f->ram, AT(2)));
    assert_int_equal(writer(f, 2), 2);
    assert_true(page_claim_write(f->v[0], f->ram, AT(2)));
    assert_int_equal(writer(f, 2), PAGE_WRITER_MANY);
}

static void test_ones_own_tags_go_at_once(void **state)
{
    struct fake *f = *state;

    assert_true(tlb_fill(f->v[0], AT(1).v, 4, true));
    assert_true(may_write(f->v[0], 1));
    assert_true(share_note(f->v[0], AT(1)));
    assert_false(may_write(f->v[0], 1));
    assert_int_equal(writer(f, 1), 0);
}

static void test_another_writer_has_to_answer_first(void **state)
{
    struct fake *f = *state;

    assert_true(tlb_fill(f->v[1], AT(1).v, 4, true));
    assert_false(share_note(f->v[0], AT(1)));
    assert_false(share_note(f->v[2], AT(1)));
    assert_true(asked(f->v[1]));
    assert_false(asked(f->v[2]));
    assert_false(tlb_fill(f->v[2], AT(1).v, 4, true)); /* no new ones meanwhile */
    share_serve(f->v[1]);
    assert_false(may_write(f->v[1], 1));
    assert_int_equal(writer(f, 1), 0);
    assert_true(share_note(f->v[0], AT(1)));
    assert_true(share_note(f->v[2], AT(1)));
}

static void test_of_many_writers_all_have_to_answer(void **state)
{
    struct fake *f = *state;

    for (unsigned i = 0; i < NR_CPUS; i++)
        assert_true(tlb_fill(f->v[i], AT(1).v, 4, true));
    assert_false(share_note(f->v[0], AT(1)));
    assert_false(may_write(f->v[0], 1));
    share_serve(f->v[2]);
    assert_false(share_note(f->v[0], AT(1)));
    share_serve(f->v[1]);
    assert_true(share_note(f->v[0], AT(1)));
}

static void test_holders_are_told_of_a_store(void **state)
{
    struct fake *f = *state;

    assert_true(share_note(f->v[0], AT(1)));
    assert_true(share_note(f->v[1], AT(1)));
    store(f->v[2], 1);
    assert_true(asked(f->v[0]));
    assert_true(asked(f->v[1]));
    assert_false(asked(f->v[2]));
    share_serve(f->v[0]);
    assert_true(is_code(f, 1));
    share_serve(f->v[1]); /* the last that had none left */
    assert_false(is_code(f, 1));
    assert_true(page_claim_write(f->v[2], f->ram, AT(1)));
}

static void test_ones_own_store_ends_an_empty_page(void **state)
{
    struct fake *f = *state;

    assert_true(share_note(f->v[0], AT(1)));
    store(f->v[0], 1);
    assert_false(is_code(f, 1));
}

static void test_devices_tell_too(void **state)
{
    struct fake *f = *state;

    assert_true(share_note(f->v[0], AT(1)));
    (void)mmu_write(f->mmu, AT(0), &(uint32_t){ 1 }, 4);
    assert_false(asked(f->v[0]));
    (void)mmu_write(f->mmu, gpa_add(AT(1), -0x102ull), &(uint32_t){ 1 }, 4); /* across the border */
    assert_true(asked(f->v[0]));
}

/*
 * At random: who is ready to decode a page finds no write tag for it anywhere, and whatever was
 * begun comes to its end once all have answered.
 */
static void test_nobody_writes_what_is_decoded(void **state)
{
    struct fake *f = *state;
    uint64_t r = 88172645463325252ull;

    for (unsigned n = 0; n < 200000; n++) {
        struct ivcpu *v;
        unsigned page;
        bool had;

        r ^= r << 13, r ^= r >> 7, r ^= r << 17;
        v = f->v[(r >> 8) % NR_CPUS];
        page = (r >> 16) % PAGES;
        switch ((r >> 32) % 6) {
        case 0:
            if (!share_note(v, AT(page)))
                break;
            for (unsigned i = 0; i < NR_CPUS; i++)
                assert_false(may_write(f->v[i], page));
            break;
        case 1:
        case 2:
            had = may_write(v, page); /* asked for it, and has not answered yet */
            assert_int_equal(tlb_fill(v, AT(page).v, 4, true), had || !is_code(f, page));
            break;
        case 3:
            if (is_code(f, page))
                store(v, page);
            break;
        case 4:
            tlb_flush_all(v);
            break;
        default:
            if (asked(v))
                share_serve(v);
            break;
        }
    }
    for (unsigned i = 0; i < NR_CPUS; i++)
        share_serve(f->v[i]);
    for (unsigned page = 0; page < PAGES; page++) {
        if (is_code(f, page))
            store(f->v[0], page);
        for (unsigned i = 0; i < NR_CPUS; i++)
            share_serve(f->v[i]);
        assert_false(is_code(f, page));
    }
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_page_without_writers_is_decoded_at_once),
        TEST(test_writers_are_noted),
        TEST(test_ones_own_tags_go_at_once),
        TEST(test_another_writer_has_to_answer_first),
        TEST(test_of_many_writers_all_have_to_answer),
        TEST(test_holders_are_told_of_a_store),
        TEST(test_ones_own_store_ends_an_empty_page),
        TEST(test_devices_tell_too),
        TEST(test_nobody_writes_what_is_decoded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
