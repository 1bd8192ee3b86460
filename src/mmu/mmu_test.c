/* SPDX-License-Identifier: Apache-2.0 */
/* Slots, copies over their borders, notes and listeners, DMA at holes and ROM. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/log.h"
#include "mmu/mmu.h"

/* RAM at 1 MB and, touching it, ROM; RAM again behind a hole of one page. */
#define RAM_AT   MIB(1)
#define ROM_AT   (RAM_AT + KIB(64))
#define RAM2_AT  (ROM_AT + KIB(16) + PAGE_BYTES)
#define RAM2_END (RAM2_AT + KIB(16))

struct env {
    struct mmu *mmu;
    struct slot *ram, *rom, *ram2;
    struct dma dma;
    struct code_listener listener;
    unsigned nr_told;
    gpa_t told_at;
    uint64_t told_bytes;
};

static void env_written(struct code_listener *l, gpa_t at, uint64_t bytes)
{
    struct env *e = container_of(l, struct env, listener);

    e->nr_told++;
    e->told_at = at;
    e->told_bytes = bytes;
}

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    log_set_level(LOG_ERROR - 1);
    e->mmu = mmu_create();
    e->dma.mmu = e->mmu;
    /* Not in order. */
    assert_int_equal(
        mmu_slot_add(e->mmu, &(struct slot_desc){ "ram2", GPA(RAM2_AT), KIB(16), 0, 0 }, &e->ram2),
        0);
    assert_int_equal(
        mmu_slot_add(e->mmu, &(struct slot_desc){ "ram", GPA(RAM_AT), KIB(64), 0, 0 }, &e->ram), 0);
    assert_int_equal(mmu_slot_add(e->mmu,
                                  &(struct slot_desc){ "rom", GPA(ROM_AT), KIB(16), SLOT_RO, 0 },
                                  &e->rom),
                     0);
    e->listener.written = env_written;
    mmu_listen(e->mmu, &e->listener);
    *state = e;
    return 0;
}

static int teardown(void **state)
{
    struct env *e = *state;

    mmu_destroy(e->mmu);
    free(e);
    return 0;
}

static void test_slots_are_found_by_address_and_listed_in_order(void **state)
{
    struct env *e = *state;

    assert_ptr_equal(mmu_slot_at(e->mmu, 0), e->ram);
    assert_ptr_equal(mmu_slot_at(e->mmu, 1), e->rom);
    assert_ptr_equal(mmu_slot_at(e->mmu, 2), e->ram2);
    assert_null(mmu_slot_at(e->mmu, 3));
    assert_null(mmu_slot_find(e->mmu, GPA(RAM_AT - 1)));
    assert_ptr_equal(mmu_slot_find(e->mmu, GPA(RAM_AT)), e->ram);
    assert_ptr_equal(mmu_slot_find(e->mmu, GPA(ROM_AT - 1)), e->ram);
    assert_ptr_equal(mmu_slot_find(e->mmu, GPA(ROM_AT)), e->rom);
    assert_null(mmu_slot_find(e->mmu, GPA(RAM2_AT - 1)));
    assert_ptr_equal(mmu_slot_find(e->mmu, GPA(RAM2_END - 1)), e->ram2);
    assert_null(mmu_slot_find(e->mmu, GPA(RAM2_END)));
    assert_null(mmu_slot_find(e->mmu, GPA(UINT64_MAX)));
}

static void test_overlapping_or_crooked_slot_is_refused(void **state)
{
    static const struct {
        uint64_t at, bytes;
        int err;
    } cases[] = {
        { RAM_AT, PAGE_BYTES, -EEXIST },
        { RAM_AT - PAGE_BYTES, 2 * PAGE_BYTES, -EEXIST },
        { ROM_AT - PAGE_BYTES, 2 * PAGE_BYTES, -EEXIST },
        { 0, MIB(4), -EEXIST },
        { RAM2_END - PAGE_BYTES, PAGE_BYTES, -EEXIST },
        { RAM2_END + 1, PAGE_BYTES, -EINVAL },
        { RAM2_END, 0, -EINVAL },
        { RAM2_END, 100, -EINVAL },
        { -PAGE_BYTES, PAGE_BYTES, -EINVAL },
    };
    struct env *e = *state;
    struct slot *s;

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        assert_int_equal(
            mmu_slot_add(e->mmu,
                         &(struct slot_desc){ "bad", GPA(cases[i].at), cases[i].bytes, 0, 0 }, &s),
            cases[i].err);
    /* The hole fits exactly. */
    assert_int_equal(
        mmu_slot_add(
            e->mmu, &(struct slot_desc){ "hole", GPA(RAM2_AT - PAGE_BYTES), PAGE_BYTES, 0, 0 }, &s),
        0);
    mmu_slot_remove(e->mmu, s);
    assert_null(mmu_slot_find(e->mmu, GPA(RAM2_AT - 1)));
    assert_ptr_equal(mmu_slot_find(e->mmu, GPA(RAM2_AT)), e->ram2);
}

static void test_slot_moves_unless_another_is_there(void **state)
{
    struct env *e = *state;

    assert_int_equal(mmu_slot_move(e->mmu, e->ram2, GPA(MMU_PARKED_AT)), 0);
    assert_null(mmu_slot_find(e->mmu, GPA(RAM2_AT)));
    assert_int_equal(mmu_slot_move(e->mmu, e->ram2, GPA(ROM_AT + PAGE_BYTES)), -EEXIST);
    assert_int_equal(mmu_slot_move(e->mmu, e->ram2, GPA(RAM_AT - PAGE_BYTES)), -EEXIST);
    assert_int_equal(e->ram2->base.v, MMU_PARKED_AT);
    assert_int_equal(mmu_slot_move(e->mmu, e->ram2, GPA(0)), 0);
    assert_ptr_equal(mmu_slot_at(e->mmu, 0), e->ram2);
    assert_ptr_equal(mmu_slot_find(e->mmu, GPA(KIB(16) - 1)), e->ram2);
    assert_int_equal(mmu_slot_move(e->mmu, e->ram2, GPA(PAGE_BYTES)), 0); /* over itself */
    assert_null(mmu_slot_find(e->mmu, GPA(0)));
}

static void test_copy_goes_over_a_slot_border_and_ends_at_a_hole(void **state)
{
    struct env *e = *state;
    uint8_t out[KIB(32)], in[KIB(32)];

    for (size_t i = 0; i < sizeof(out); i++)
        out[i] = (uint8_t)(i * 7);
    /* 8 KB of RAM, 16 KB of ROM, then the hole. */
    assert_int_equal(mmu_write(e->mmu, GPA(ROM_AT - KIB(8)), out, sizeof(out)), KIB(24));
    assert_int_equal(mmu_read(e->mmu, GPA(ROM_AT - KIB(8)), in, sizeof(in)), KIB(24));
    assert_memory_equal(out, in, KIB(24));
    assert_memory_equal(slot_hva(e->rom, GPA(ROM_AT)), out + KIB(8), KIB(16));
    assert_int_equal(mmu_read(e->mmu, GPA(0), in, 1), 0);
}

static void test_dma_reads_ones_in_holes_and_goes_on_behind_them(void **state)
{
    struct env *e = *state;
    uint8_t in[PAGE_BYTES + 32];

    memset(slot_hva(e->ram2, GPA(RAM2_AT)), 0x33, 16);
    memset(slot_hva(e->rom, GPA(RAM2_AT - PAGE_BYTES - 16)), 0x22, 16);
    assert_int_equal(dma_read(&e->dma, GPA(RAM2_AT - PAGE_BYTES - 16), in, sizeof(in)), -EFAULT);
    assert_int_equal(in[15], 0x22);
    assert_int_equal(in[16], 0xff);
    assert_int_equal(in[16 + PAGE_BYTES - 1], 0xff);
    assert_int_equal(in[16 + PAGE_BYTES], 0x33);
    assert_int_equal(dma_read(&e->dma, GPA(RAM2_AT), in, 16), 0);
    assert_int_equal(dma_read(&e->dma, GPA(UINT64_MAX - 3), in, 16), -EFAULT);
    assert_int_equal(in[15], 0xff);
}

static void test_dma_write_to_rom_and_holes_is_lost(void **state)
{
    struct env *e = *state;
    uint8_t out[KIB(32)];

    memset(out, 0x77, sizeof(out));
    assert_int_equal(dma_write(&e->dma, GPA(ROM_AT - 16), out, sizeof(out)), -EFAULT);
    assert_int_equal(slot_hva(e->ram, GPA(ROM_AT - 1))[0], 0x77);
    assert_int_equal(slot_hva(e->rom, GPA(ROM_AT))[0], 0);
    assert_int_equal(slot_hva(e->ram2, GPA(RAM2_AT))[0], 0x77);
    assert_int_equal(dma_write(&e->dma, GPA(RAM_AT), out, 16), 0);
}

static void test_write_to_noted_code_page_is_told_others_are_not(void **state)
{
    struct env *e = *state;
    uint8_t out[3 * PAGE_BYTES] = { 0 };

    e->ram->notes[1] |= PAGE_NOTE_CODE;
    assert_int_equal(mmu_write(e->mmu, GPA(RAM_AT), out, 16), 16);
    assert_int_equal(e->nr_told, 0);
    assert_int_equal(mmu_write(e->mmu, GPA(RAM_AT + 16), out, sizeof(out)), sizeof(out));
    assert_int_equal(e->nr_told, 1);
    assert_int_equal(e->told_at.v, RAM_AT + PAGE_BYTES);
    assert_int_equal(e->told_bytes, PAGE_BYTES);
    assert_int_equal(dma_write(&e->dma, GPA(RAM_AT + PAGE_BYTES + 8), out, 4), 0);
    assert_int_equal(e->nr_told, 2);
    assert_int_equal(e->told_at.v, RAM_AT + PAGE_BYTES + 8);
    assert_int_equal(e->told_bytes, 4);
    mmu_written(e->mmu, GPA(RAM_AT + PAGE_BYTES), 1);
    assert_int_equal(e->nr_told, 3);
    e->ram->notes[1] = PAGE_NOTE_FLUID;
    mmu_written(e->mmu, GPA(RAM_AT + PAGE_BYTES), 1);
    assert_int_equal(e->nr_told, 4);
    mmu_unlisten(e->mmu, &e->listener);
    mmu_written(e->mmu, GPA(RAM_AT + PAGE_BYTES), 1);
    assert_int_equal(e->nr_told, 4);
}

static void test_dirty_pages_are_noted_only_while_logging(void **state)
{
    struct env *e = *state;

    assert_int_equal(mmu_write(e->mmu, GPA(RAM_AT), "x", 1), 1);
    assert_int_equal(e->ram->notes[0], 0);
    e->ram->flags |= SLOT_LOG_DIRTY;
    assert_int_equal(mmu_write(e->mmu, GPA(RAM_AT + 2 * PAGE_BYTES - 1), "xy", 2), 2);
    assert_int_equal(e->ram->notes[0], 0);
    assert_int_equal(e->ram->notes[1], PAGE_NOTE_DIRTY);
    assert_int_equal(e->ram->notes[2], PAGE_NOTE_DIRTY);
    assert_int_equal(e->ram->notes[3], 0);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_slots_are_found_by_address_and_listed_in_order),
        TEST(test_overlapping_or_crooked_slot_is_refused),
        TEST(test_slot_moves_unless_another_is_there),
        TEST(test_copy_goes_over_a_slot_border_and_ends_at_a_hole),
        TEST(test_dma_reads_ones_in_holes_and_goes_on_behind_them),
        TEST(test_dma_write_to_rom_and_holes_is_lost),
        TEST(test_write_to_noted_code_page_is_told_others_are_not),
        TEST(test_dirty_pages_are_noted_only_while_logging),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
