/* SPDX-License-Identifier: Apache-2.0 */
/* Images that a process of their own serves: qcow2 and snapshot=on, with requests in flight. */
#include "backend/teststore.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/store_child.h"

#define DISK_BYTES MIB(8)
#define REQ_BYTES  65536u
#define NR         64u

struct env {
    char dir[40], path[64];
    struct teststore t;
    uint8_t *want, *got; /* NR * REQ_BYTES */
};

static bool have_qemu(void)
{
    return system("qemu-storage-daemon --version >/dev/null 2>&1 && "
                  "qemu-img --version >/dev/null 2>&1") == 0;
}

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    assert_non_null(e);
    (void)strcpy(e->dir, "/tmp/doppel-image-test-XXXXXX");
    assert_non_null(mkdtemp(e->dir));
    e->want = malloc(NR * REQ_BYTES);
    e->got = malloc(NR * REQ_BYTES);
    assert_true(e->want && e->got);
    *state = e;
    return 0;
}

static int teardown(void **state)
{
    struct env *e = *state;

    (void)unlink(e->path);
    (void)rmdir(e->dir);
    free(e->want);
    free(e->got);
    free(e);
    return 0;
}

static void make_image(struct env *e, const char *format)
{
    char command[160];

    if (!have_qemu())
        skip();
    (void)snprintf(e->path, sizeof(e->path), "%s/a.%s", e->dir, format);
    (void)snprintf(command, sizeof(command), "qemu-img create -q -f %s %s 8M", format, e->path);
    assert_int_equal(system(command), 0);
}

static struct store *try_open(struct env *e, bool readonly, bool snapshot)
{
    return store_open(&(struct store_config){
        .name = "disk0", .path = e->path, .readonly = readonly, .snapshot = snapshot });
}

/* All requests of one kind at once. */
static void move_all(struct env *e, enum store_op op, uint8_t *mem)
{
    for (unsigned i = 0; i < NR; i++)
        teststore_prepare(&e->t, i, op, (uint64_t)i * REQ_BYTES, mem + i * REQ_BYTES, REQ_BYTES,
                          i % TESTSTORE_IOV + 1);
    teststore_begin(&e->t, NR);
    teststore_wait_done(&e->t);
    for (unsigned i = 0; i < NR; i++)
        assert_int_equal(e->t.reqs[i].error, 0);
}

static void expect(struct env *e)
{
    memset(e->got, 0xee, NR * REQ_BYTES);
    move_all(e, STORE_READ, e->got);
    assert_memory_equal(e->got, e->want, NR * REQ_BYTES);
}

static void write_all(struct env *e, unsigned seed)
{
    teststore_fill(e->want, NR * REQ_BYTES, seed);
    move_all(e, STORE_WRITE, e->want);
}

static void test_data_is_there_after_reopening(void **state)
{
    struct env *e = *state;

    make_image(e, "qcow2");
    teststore_connect(&e->t, try_open(e, false, false));
    assert_int_equal(store_bytes(e->t.store), DISK_BYTES);
    write_all(e, 1);
    assert_int_equal(teststore_do_one(&e->t, STORE_FLUSH, 0, NULL, 0, 0), 0);
    expect(e);
    teststore_close(&e->t);
    teststore_connect(&e->t, try_open(e, true, false));
    assert_true(store_readonly(e->t.store));
    expect(e);
    teststore_close(&e->t);
}

static void test_snapshot_forgets(void **state)
{
    static const char *const formats[] = { "qcow2", "raw" };
    struct env *e = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(formats); i++) {
        make_image(e, formats[i]);
        teststore_connect(&e->t, try_open(e, false, false));
        write_all(e, 2);
        teststore_close(&e->t);
        teststore_connect(&e->t, try_open(e, false, true));
        assert_false(store_readonly(e->t.store));
        expect(e);
        write_all(e, 3);
        expect(e);
        teststore_close(&e->t);
        teststore_connect(&e->t, try_open(e, true, false));
        teststore_fill(e->want, NR * REQ_BYTES, 2);
        expect(e);
        teststore_close(&e->t);
        assert_int_equal(unlink(e->path), 0);
    }
}

/* The process really locks: QEMU goes without, and says nothing, if it thinks that it cannot. */
static void test_an_image_is_locked(void **state)
{
    struct env *e = *state;
    struct store *reader;

    make_image(e, "qcow2");
    e->t.store = try_open(e, false, false);
    assert_non_null(e->t.store);
    assert_null(try_open(e, false, false));
    assert_null(try_open(e, true, false));
    teststore_close(&e->t);
    e->t.store = try_open(e, true, false);
    assert_non_null(e->t.store);
    assert_null(try_open(e, false, false));
    reader = try_open(e, false, true);
    assert_non_null(reader);
    store_close(reader);
    teststore_close(&e->t);
}

static void test_resize_under_load_and_without(void **state)
{
    struct env *e = *state;

    make_image(e, "qcow2");
    e->t.store = try_open(e, false, false);
    assert_non_null(e->t.store);
    assert_int_equal(store_resize(e->t.store, MIB(4)), -EINVAL);
    assert_int_equal(store_resize(e->t.store, MIB(12)), 0);
    assert_int_equal(store_bytes(e->t.store), MIB(12));
    teststore_connect(&e->t, e->t.store);
    teststore_fill(e->want, NR * REQ_BYTES, 4);
    for (unsigned i = 0; i < NR; i++)
        teststore_prepare(&e->t, i, STORE_WRITE, (uint64_t)i * REQ_BYTES, e->want + i * REQ_BYTES,
                          REQ_BYTES, 1);
    teststore_begin(&e->t, NR);
    assert_int_equal(store_resize(e->t.store, MIB(16)), 0);
    teststore_wait_done(&e->t);
    for (unsigned i = 0; i < NR; i++)
        assert_int_equal(e->t.reqs[i].error, 0);
    assert_int_equal(store_bytes(e->t.store), MIB(16));
    assert_int_equal(
        teststore_do_one(&e->t, STORE_WRITE, MIB(16) - REQ_BYTES, e->want, REQ_BYTES, 1), 0);
    expect(e);
    teststore_close(&e->t);
}

static void test_a_process_that_dies_gives_errors(void **state)
{
    struct env *e = *state;

    make_image(e, "qcow2");
    teststore_connect(&e->t, try_open(e, false, false));
    write_all(e, 5);
    assert_int_equal(kill(e->t.store->child->pid, SIGKILL), 0);
    assert_int_equal(teststore_do_one(&e->t, STORE_FLUSH, 0, NULL, 0, 0), -EIO);
    assert_int_equal(teststore_do_one(&e->t, STORE_READ, 0, e->got, REQ_BYTES, 1), -EIO);
    assert_int_equal(store_resize(e->t.store, MIB(16)), -EIO);
    teststore_close(&e->t);
}

/* Without privileges: it cannot write to anything but its image. (What else it may not do only its
 * own code could try.) */
static void test_the_process_is_confined(void **state)
{
    struct env *e = *state;
    char path[64], line[256];
    unsigned found = 0;
    FILE *f;

    make_image(e, "qcow2");
    e->t.store = try_open(e, true, false);
    assert_non_null(e->t.store);
    (void)snprintf(path, sizeof(path), "/proc/%d/status", (int)e->t.store->child->pid);
    f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof(line), f)) {
        unsigned long long caps = 0;

        found += !strncmp(line, "NoNewPrivs:\t1", 13) || !strncmp(line, "Seccomp:\t2", 10);
        if (sscanf(line, "CapBnd: %llx", &caps) == 1 && geteuid() == 0)
            assert_int_equal(caps & ~6ull, 0); /* CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH */
    }
    (void)fclose(f);
    assert_int_equal(found, 2);
    teststore_close(&e->t);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_data_is_there_after_reopening),
        TEST(test_snapshot_forgets),
        TEST(test_an_image_is_locked),
        TEST(test_resize_under_load_and_without),
        TEST(test_a_process_that_dies_gives_errors),
        TEST(test_the_process_is_confined),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
