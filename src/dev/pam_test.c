/* SPDX-License-Identifier: Apache-2.0 */
/* The area of the PAM registers: which slots there are for which registers, and where writes go
 * that no slot takes. What a guest sees of it is tested by tests/guest/m64/pam.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "dev/pam.h"

#define PARKED_AT (MMU_PARKED_AT + GIB(1))
#define ROM_BYTES (KIB(96)) /* less than the area that is the ROM's */

struct env {
    struct bus *bus;
    struct mmu *mmu;
    struct slot *ram, *rom;
    struct pam pam;
    struct dma dma;
    struct code_listener listener;
    unsigned nr_changed, nr_told;
};

static void env_changed(void *ctx)
{
    ((struct env *)ctx)->nr_changed++;
}

static void env_written(struct code_listener *l, gpa_t at, uint64_t bytes)
{
    (void)at, (void)bytes;
    container_of(l, struct env, listener)->nr_told++;
}

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    log_set_level(LOG_ERROR - 1);
    e->bus = bus_create();
    e->mmu = mmu_create();
    e->dma.mmu = e->mmu;
    assert_int_equal(mmu_slot_add(e->mmu,
                                  &(struct slot_desc){ .name = "ram-shadow",
                                                       .base = GPA(PARKED_AT),
                                                       .bytes = PAM_END - PAM_AT },
                                  &e->ram),
                     0);
    assert_int_equal(mmu_slot_add(e->mmu,
                                  &(struct slot_desc){ .name = "firmware",
                                                       .base = GPA(GIB(4) - ROM_BYTES),
                                                       .bytes = ROM_BYTES,
                                                       .flags = SLOT_RO },
                                  &e->rom),
                     0);
    memset(e->rom->hva, 0x99, ROM_BYTES);
    assert_int_equal(pam_init(&e->pam, &(struct pam_config){ .bus = e->bus,
                                                             .mmu = e->mmu,
                                                             .ram = e->ram,
                                                             .rom = e->rom,
                                                             .changed = env_changed,
                                                             .ctx = e }),
                     0);
    e->listener.written = env_written;
    mmu_listen(e->mmu, &e->listener);
    *state = e;
    return 0;
}

static int teardown(void **state)
{
    struct env *e = *state;

    pam_fini(&e->pam);
    mmu_destroy(e->mmu);
    bus_destroy(e->bus);
    free(e);
    return 0;
}

/* All segments alike but the last, by PAM0. */
static bool set(struct env *e, uint8_t all, uint8_t last)
{
    uint8_t regs[PAM_NR_REGS];
    bool changed = false;

    memset(regs, all | all << 4, sizeof(regs));
    regs[0] = (uint8_t)(last << 4);
    pam_set(&e->pam, regs);
    assert_int_equal(pam_apply(&e->pam, &changed), 0);
    return changed;
}

/* As a vCPU does: the slot that can be written, or else the bus. */
static void store(struct env *e, uint64_t at, uint8_t val)
{
    struct slot *s = mmu_slot_find(e->mmu, GPA(at));

    if (s && !(s->flags & SLOT_RO))
        *slot_hva(s, GPA(at)) = val;
    else
        bus_mmio_write(e->bus, GPA(at), 1, val);
}

static uint8_t load(struct env *e, uint64_t at)
{
    const struct slot *s = mmu_slot_find(e->mmu, GPA(at));

    return s ? *slot_hva(s, GPA(at)) : (uint8_t)bus_mmio_read(e->bus, GPA(at), 1);
}

static void test_all_of_it_is_one_slot_of_ram_at_first(void **state)
{
    struct env *e = *state;
    const struct slot *s = mmu_slot_find(e->mmu, GPA(PAM_AT));

    assert_int_equal(s->base.v, PAM_AT);
    assert_int_equal(s->bytes, PAM_END - PAM_AT);
    assert_ptr_equal(s->hva, e->ram->hva);
    assert_int_equal(s->flags, 0);
    assert_false(set(e, 3, 3));
    assert_int_equal(e->nr_changed, 0);
}

static void test_each_register_has_its_segments(void **state)
{
    struct env *e = *state;
    uint8_t regs[PAM_NR_REGS];
    bool changed;

    for (unsigned i = 0; i < PAM_NR_SEGMENTS; i++) {
        uint64_t at = PAM_AT + i * KIB(16), bytes = i == 12 ? KIB(64) : KIB(16);
        const struct slot *s;

        memset(regs, 0x33, sizeof(regs));
        regs[i == 12 ? 0 : 1 + i / 2] &= (uint8_t) ~(2u << (i == 12 || i % 2 ? 4 : 0));
        pam_set(&e->pam, regs);
        assert_int_equal(pam_apply(&e->pam, &changed), 0);
        assert_true(changed);
        s = mmu_slot_find(e->mmu, GPA(at));
        assert_int_equal(s->base.v, at);
        assert_int_equal(s->bytes, bytes);
        assert_int_equal(s->flags, SLOT_RO);
        assert_ptr_equal(s->hva, e->ram->hva + (at - PAM_AT));
    }
}

static void test_reads_and_writes_go_where_their_bits_say(void **state)
{
    static const struct {
        uint8_t attr, seen, stored; /* what is read before, and RAM behind a write of 7 */
    } cases[] = { { 0, 0x99, 5 }, { 1, 5, 5 }, { 2, 0x99, 7 }, { 3, 5, 7 } };
    struct env *e = *state;
    uint64_t at = PAM_END - 1;

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        e->ram->hva[at - PAM_AT] = 5;
        (void)set(e, 3, cases[i].attr);
        assert_int_equal(load(e, at), cases[i].seen);
        store(e, at, 7);
        assert_int_equal(e->ram->hva[at - PAM_AT], cases[i].stored);
        assert_int_equal(e->rom->hva[ROM_BYTES - 1], 0x99);
    }
}

static void test_where_no_rom_is_nobody_answers(void **state)
{
    struct env *e = *state;

    (void)set(e, 0, 0);
    assert_int_equal(load(e, PAM_AT), 0xff);
    assert_int_equal(load(e, PAM_END - ROM_BYTES - 1), 0xff);
    assert_int_equal(load(e, PAM_END - ROM_BYTES), 0x99);
    assert_int_equal(load(e, PAM_END - 1), 0x99);
}

/* A ROM of several MB has its end in the area, as a smaller one has. */
static void test_of_a_large_rom_the_end_is_shown(void **state)
{
    struct env *e = *state;
    struct slot *rom;

    pam_fini(&e->pam);
    assert_int_equal(
        mmu_slot_add(e->mmu,
                     &(struct slot_desc){
                         .name = "large", .base = GPA(GIB(2)), .bytes = MIB(2), .flags = SLOT_RO },
                     &rom),
        0);
    memset(rom->hva, 0x55, MIB(2));
    rom->hva[MIB(2) - KIB(128)] = 0x66;
    rom->hva[MIB(2) - 1] = 0x77;
    assert_int_equal(pam_init(&e->pam, &(struct pam_config){ .bus = e->bus,
                                                             .mmu = e->mmu,
                                                             .ram = e->ram,
                                                             .rom = rom,
                                                             .changed = env_changed,
                                                             .ctx = e }),
                     0);
    for (unsigned i = 0; i < PAM_NR_REGS; i++)
        (void)set(e, i, 0);
    assert_int_equal(load(e, PAM_END - KIB(128) - 1), 0xff);
    assert_int_equal(load(e, PAM_END - KIB(128)), 0x66);
    assert_int_equal(load(e, PAM_END - KIB(64)), 0x55);
    assert_int_equal(load(e, PAM_END - 1), 0x77);
}

static void test_change_is_told_and_counts_as_written(void **state)
{
    struct env *e = *state;
    uint8_t byte = 1;

    e->ram->notes[1] = PAGE_NOTE_CODE | 1u << PAGE_WRITER_SHIFT;
    mmu_log_start(e->mmu);
    assert_true(set(e, 1, 3));
    assert_int_equal(e->nr_changed, 1);
    assert_true(e->nr_told > 0);
    assert_true(slot_page_dirty(e->ram, 5));
    assert_true(set(e, 3, 3));
    /* What engines noted of the old place they do not find at the new one. */
    assert_int_equal(e->ram->notes[1], PAGE_NOTE_DIRTY);
    mmu_log_start(e->mmu);
    assert_int_equal(dma_write(&e->dma, GPA(PAM_AT + KIB(20)), &byte, 1), 0);
    assert_true(slot_page_dirty(e->ram, 5));
    assert_false(slot_page_dirty(e->ram, 6));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_all_of_it_is_one_slot_of_ram_at_first, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_each_register_has_its_segments, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reads_and_writes_go_where_their_bits_say, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_where_no_rom_is_nobody_answers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_of_a_large_rom_the_end_is_shown, setup, teardown),
        cmocka_unit_test_setup_teardown(test_change_is_told_and_counts_as_written, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
