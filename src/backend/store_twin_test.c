/* SPDX-License-Identifier: Apache-2.0 */
/* Twins of a disk: side by side on one image, which they have in common. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/teststore.h"
#include "lib/log.h"

#define DISK_BYTES KIB(64)

struct env {
    char path[48];
    struct store *store, *twin;
    struct teststore t[2];
    _Atomic bool stuck, go_on;
};

static void env_open(struct env *e, enum store_aio aio)
{
    e->store = store_open(&(struct store_config){ .name = "disk0", .path = e->path, .aio = aio });
    assert_non_null(e->store);
    e->twin = store_twin(e->store);
    assert_non_null(e->twin);
}

static void env_close(struct env *e)
{
    store_close(e->twin);
    store_close(e->store);
}

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));
    int fd;

    log_set_level(LOG_ERROR - 1);
    (void)strcpy(e->path, "/tmp/doppel-twin-test-XXXXXX");
    fd = mkstemp(e->path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, DISK_BYTES), 0);
    (void)close(fd);
    *state = e;
    return 0;
}

static int teardown(void **state)
{
    struct env *e = *state;

    (void)unlink(e->path);
    free(e);
    return 0;
}

static void twins_work(struct env *e, enum store_aio aio)
{
    uint8_t mem[2][4096], back[4096];
    struct store_counts c;

    env_open(e, aio);
    for (unsigned i = 0; i < 2; i++) {
        teststore_connect(&e->t[i], i ? e->twin : e->store);
        teststore_fill(mem[i], sizeof(mem[i]), i);
    }
    /* What one writes the other reads. */
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(teststore_do_one(&e->t[i], STORE_WRITE, i * 4096, mem[i], 4096, 3), 0);
        assert_int_equal(teststore_do_one(&e->t[!i], STORE_READ, i * 4096, back, 4096, 2), 0);
        assert_memory_equal(back, mem[i], 4096);
    }
    assert_int_equal(store_resize(e->store, 2 * DISK_BYTES), 0);
    assert_int_equal(store_bytes(e->twin), 2 * DISK_BYTES);
    c = store_counts(e->store);
    assert_int_equal(c.reads, 2);
    assert_int_equal(c.written_bytes, 8192);
    store_close(e->twin);
    e->twin = NULL;
    c = store_counts(e->store);
    assert_int_equal(c.reads, 2);
    assert_int_equal(c.writes, 2);
    store_disconnect(e->store);
    env_close(e);
}

static void test_twins_work_on_one_image_uring(void **state)
{
    twins_work(*state, STORE_AIO_AUTO);
}

static void test_twins_work_on_one_image_threads(void **state)
{
    twins_work(*state, STORE_AIO_THREADS);
}

static void stuck_poll(void *arg)
{
    struct env *e = arg;

    atomic_store(&e->stuck, true);
    while (!atomic_load(&e->go_on))
        teststore_rest();
}

/* A test that hangs has found that they wait for each other. */
static void test_twin_does_not_wait_for_the_other(void **state)
{
    struct env *e = *state;
    uint8_t mem[512] = { 1 };

    env_open(e, STORE_AIO_AUTO);
    assert_int_equal(store_connect(e->store, &(struct store_client){ .poll = stuck_poll,
                                                                     .done = teststore_on_done,
                                                                     .batch = teststore_on_batch,
                                                                     .held = teststore_on_held,
                                                                     .arg = e }),
                     0);
    teststore_connect(&e->t[1], e->twin);
    store_kick(e->store);
    while (!atomic_load(&e->stuck))
        teststore_rest();
    assert_int_equal(teststore_do_one(&e->t[1], STORE_WRITE, 0, mem, 512, 1), 0);
    assert_int_equal(teststore_do_one(&e->t[1], STORE_FLUSH, 0, NULL, 0, 0), 0);
    atomic_store(&e->go_on, true);
    store_disconnect(e->store);
    env_close(e);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_twins_work_on_one_image_uring),
        TEST(test_twins_work_on_one_image_threads),
        TEST(test_twin_does_not_wait_for_the_other),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
