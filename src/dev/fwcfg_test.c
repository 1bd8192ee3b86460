/* SPDX-License-Identifier: Apache-2.0 */
/* fw_cfg by ports and by DMA, with guests that mean no good. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dev/fakeclock.h"
#include "dev/fwcfg.h"

#define PORT    0x510
#define RAM     MIB(1)
#define CONTROL 0x1000ull
#define BUF     0x2000ull

struct env {
    struct bus *bus;
    struct mmu *mmu;
    struct dma dma;
    struct fwcfg f;
};

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    log_set_level(LOG_ERROR);
    e->bus = bus_create();
    e->mmu = mmu_create();
    e->dma.mmu = e->mmu;
    *state = e;
    assert_int_equal(mmu_slot_add(e->mmu, &(struct slot_desc){ "ram", GPA(0), RAM, 0, 0 }, NULL),
                     0);
    assert_int_equal(fwcfg_init(&e->f, e->bus, PORT, &e->dma), 0);
    assert_int_equal(fwcfg_add_u16(&e->f, FWCFG_NR_CPUS, 0x1234), 0);
    assert_int_equal(fwcfg_add_file(&e->f, "etc/one", "hello world", 11), 0);
    assert_int_equal(fwcfg_add_file(&e->f, "etc/empty", "", 0), 0);
    return 0;
}

static int teardown(void **state)
{
    struct env *e = *state;

    fwcfg_fini(&e->f);
    mmu_destroy(e->mmu);
    bus_destroy(e->bus);
    free(e);
    return 0;
}

static void select_key(struct env *e, uint16_t key)
{
    bus_port_write(e->bus, PORT, 2, key);
}

static void get(struct env *e, void *buf, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        ((uint8_t *)buf)[i] = (uint8_t)bus_port_read(e->bus, PORT + 1, 1);
}

/* Runs one DMA; returns the control word afterwards. */
static uint32_t dma_at(struct env *e, uint64_t control_at, uint32_t control, uint32_t bytes,
                       uint64_t at)
{
    uint32_t words[4] = { __builtin_bswap32(control), __builtin_bswap32(bytes),
                          __builtin_bswap32((uint32_t)(at >> 32)),
                          __builtin_bswap32((uint32_t)at) };
    uint32_t answer = 0xffffffff;

    (void)mmu_write(e->mmu, GPA(control_at), words, sizeof(words));
    bus_port_write(e->bus, PORT + 4, 4, __builtin_bswap32((uint32_t)(control_at >> 32)));
    bus_port_write(e->bus, PORT + 8, 4, __builtin_bswap32((uint32_t)control_at));
    (void)mmu_read(e->mmu, GPA(control_at), &answer, 4);
    return __builtin_bswap32(answer);
}

static uint32_t dma(struct env *e, uint32_t control, uint32_t bytes, uint64_t at)
{
    return dma_at(e, CONTROL, control, bytes, at);
}

static void test_signature_and_id_are_read_by_ports(void **state)
{
    struct env *e = *state;
    uint8_t buf[6];
    uint32_t id;

    get(e, buf, 6); /* selected at reset; zeros behind the end */
    assert_memory_equal(buf, "QEMU\0", 6);
    select_key(e, FWCFG_ID);
    get(e, &id, 4);
    assert_int_equal(id, 3);
    assert_int_equal(bus_port_read(e->bus, PORT + 4, 4), 0x554d4551);
    assert_int_equal(bus_port_read(e->bus, PORT + 8, 4), 0x47464320);
}

static void test_items_restart_at_selection_and_unknown_keys_read_zero(void **state)
{
    struct env *e = *state;
    uint8_t buf[3];

    select_key(e, FWCFG_NR_CPUS);
    get(e, buf, 1);
    select_key(e, FWCFG_NR_CPUS);
    get(e, buf, 3);
    assert_memory_equal(buf, "\x34\x12\0", 3);
    for (unsigned i = 0; i < 3; i++) {
        static const uint16_t keys[] = { 0x10, 0x3fff, 0xffff };

        select_key(e, keys[i]);
        get(e, buf, 3);
        assert_memory_equal(buf, "\0\0\0", 3);
    }
}

static void test_directory_lists_files_whose_keys_give_their_contents(void **state)
{
    struct env *e = *state;
    uint8_t dir[4 + 2 * 64], buf[11];

    select_key(e, FWCFG_FILE_DIR);
    get(e, dir, sizeof(dir));
    assert_memory_equal(dir, "\0\0\0\2\0\0\0\13\0\40\0\0etc/one\0", 20);
    assert_memory_equal(dir + 68, "\0\0\0\0\0\41\0\0etc/empty\0", 18);
    select_key(e, 0x20);
    get(e, buf, sizeof(buf));
    assert_memory_equal(buf, "hello world", 11);
}

static void test_bad_items_are_refused(void **state)
{
    struct env *e = *state;
    char name[57];

    memset(name, 'x', sizeof(name));
    name[56] = 0;
    assert_int_equal(fwcfg_add_file(&e->f, "etc/one", "", 0), -EEXIST);
    assert_int_equal(fwcfg_add_file(&e->f, name, "", 0), -EINVAL);
    name[55] = 0;
    assert_int_equal(fwcfg_add_file(&e->f, name, "", 0), 0);
    assert_int_equal(fwcfg_add_u16(&e->f, FWCFG_NR_CPUS, 1), -EEXIST);
    assert_int_equal(fwcfg_add_u16(&e->f, FWCFG_FILE_DIR, 1), -EINVAL);
    assert_int_equal(fwcfg_add_u16(&e->f, 0xffff, 1), -EINVAL);
    for (unsigned i = 3; i < FWCFG_FILES_MAX; i++) {
        (void)snprintf(name, sizeof(name), "f%u", i);
        assert_int_equal(fwcfg_add_file(&e->f, name, "", 0), 0);
    }
    assert_int_equal(fwcfg_add_file(&e->f, "last", "", 0), -ENOSPC);
}

static void test_dma_selects_reads_and_skips(void **state)
{
    struct env *e = *state;
    uint8_t buf[16];

    assert_int_equal(dma(e, 0x20 << 16 | 8 | 2, 5, BUF), 0);
    (void)mmu_read(e->mmu, GPA(BUF), buf, 5);
    assert_memory_equal(buf, "hello", 5);
    assert_int_equal(dma(e, 4, 1, 0), 0);
    assert_int_equal(dma(e, 2, 16, BUF), 0); /* 5 left, then zeros */
    (void)mmu_read(e->mmu, GPA(BUF), buf, 16);
    assert_memory_equal(buf, "world\0\0\0\0\0\0\0\0\0\0", 16);
}

static void test_dma_write_and_bad_addresses_set_the_error_bit(void **state)
{
    struct env *e = *state;

    assert_int_equal(dma(e, 0x20 << 16 | 8 | 16, 5, BUF), 1);
    assert_int_equal(dma(e, 0x20 << 16 | 8 | 2, 5, RAM), 1);
    assert_int_equal(dma(e, 0x20 << 16 | 8 | 2, 0xffffffff, RAM - 64), 1);
    assert_int_equal(dma(e, 2, 0xffffffff, UINT64_MAX - 5), 1);
    /* The control structure itself at a bad place: nothing to answer to, and nothing breaks. */
    (void)dma_at(e, RAM - 8, 2, 4, BUF);
    (void)dma_at(e, UINT64_MAX - 3, 2, 4, BUF);
}

static void test_skip_beyond_4_gb_stays_behind_the_end(void **state)
{
    struct env *e = *state;
    uint8_t byte;

    select_key(e, 0x20);
    assert_int_equal(dma(e, 4, 0xffffffff, 0), 0);
    assert_int_equal(dma(e, 4, 1, 0), 0); /* must not come round to the first byte */
    get(e, &byte, 1);
    assert_int_equal(byte, 0);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_signature_and_id_are_read_by_ports),
        TEST(test_items_restart_at_selection_and_unknown_keys_read_zero),
        TEST(test_directory_lists_files_whose_keys_give_their_contents),
        TEST(test_bad_items_are_refused),
        TEST(test_dma_selects_reads_and_skips),
        TEST(test_dma_write_and_bad_addresses_set_the_error_bit),
        TEST(test_skip_beyond_4_gb_stays_behind_the_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
