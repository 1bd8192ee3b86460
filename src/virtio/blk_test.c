/* SPDX-License-Identifier: Apache-2.0 */
/* The block device on an image in /tmp, by both ways to do requests in the background. */
#include "virtio/testdriver.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "virtio/blk.h"

#define SIZE       16u
#define DISK_BYTES KIB(64)
#define HEADER     0x20000u
#define STATUS     0x21000u
#define DATA       0x22000u
#define FLUSH      BIT64(9)

enum { IN = 0, OUT = 1, T_FLUSH = 4, GET_ID = 8, DISCARD = 11, ZEROES = 13 };
enum { OK = 0, IOERR = 1, UNSUPP = 2, NONE = 0xee };

struct env {
    struct testmachine m;
    char path[32];
    struct store *store;
    struct virtio_blk *blk;
    struct virtio *vd;
    unsigned queue; /* where requests go */
    uint16_t nr_used[2];
};

static void env_open(struct env *e, bool readonly, enum store_aio aio)
{
    e->store = store_open(&(struct store_config){
        .name = "disk0", .path = e->path, .readonly = readonly, .aio = aio });
    assert_non_null(e->store);
    e->blk = virtio_blk_create(&(struct blk_config){ .bus = e->m.bus,
                                                     .mmu = e->m.mmu,
                                                     .store = e->store,
                                                     .serial = "number 1",
                                                     .nr_queues = 2 });
    assert_non_null(e->blk);
    e->vd = virtio_blk_device(e->blk);
    virtio_attach(e->vd, &test_transport, &e->m);
    memset(e->m.ram, 0, TEST_BUFFERS);
    e->queue = 0;
    memset(e->nr_used, 0, sizeof(e->nr_used));
    driver_start(e->vd, BIT64(VIRTIO_F_VERSION_1) | FLUSH, SIZE);
}

static void env_close(struct env *e)
{
    driver_reset(e->vd);
    virtio_blk_destroy(e->blk);
    store_close(e->store);
}

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));
    int fd;

    testmachine_init(&e->m);
    (void)strcpy(e->path, "/tmp/doppel-blk-test-XXXXXX");
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
    testmachine_fini(&e->m);
    free(e);
    return 0;
}

static void notify(struct env *e)
{
    lock_take(bus_lock(e->m.bus));
    virtio_notify(e->vd, e->queue);
    lock_drop(bus_lock(e->m.bus));
}

static void header(struct env *e, uint32_t type, uint64_t sector)
{
    put64(&e->m, HEADER, type);
    put64(&e->m, HEADER + 8, sector);
    e->m.ram[STATUS] = NONE;
}

/* Until the device used one more chain; a device that never does is a hanging test. */
static void wait_used(struct env *e)
{
    e->nr_used[e->queue]++;
    notify(e);
    while (__atomic_load_n((uint16_t *)(e->m.ram + queue_at(e->queue) + TEST_DEVICE + 2),
                           __ATOMIC_ACQUIRE) != e->nr_used[e->queue])
        (void)sched_yield();
}

/* A request in the usual shape: header, data, status. Returns the status. */
static unsigned request(struct env *e, uint32_t type, uint64_t sector, uint32_t bytes)
{
    bool in = type == IN || type == GET_ID;

    header(e, type, sector);
    put_split(&e->m, e->queue, 0, HEADER, 16, D_NEXT, bytes ? 1 : 2);
    put_split(&e->m, e->queue, 1, DATA, bytes, (uint16_t)(D_NEXT | (in ? D_WRITE : 0)), 2);
    put_split(&e->m, e->queue, 2, STATUS, 1, D_WRITE, 0);
    make_available(&e->m, e->queue, SIZE, 0);
    wait_used(e);
    return e->m.ram[STATUS];
}

static unsigned clear_request(struct env *e, uint32_t type, uint64_t sector, uint32_t nr,
                              uint32_t flags)
{
    put64(&e->m, DATA, sector);
    put64(&e->m, DATA + 8, nr | (uint64_t)flags << 32);
    return request(e, type, 0, 16);
}

static void test_what_was_written_is_read(struct env *e, enum store_aio aio)
{
    char got[16] = "";
    int fd;

    env_open(e, false, aio);
    memset(e->m.ram + DATA, 0, 1024);
    (void)strcpy((char *)e->m.ram + DATA, "first");
    (void)strcpy((char *)e->m.ram + DATA + 512, "second");
    assert_int_equal(request(e, OUT, 3, 1024), OK);
    memset(e->m.ram + DATA, 'x', 1024);
    assert_int_equal(request(e, IN, 4, 512), OK);
    assert_string_equal((char *)e->m.ram + DATA, "second");
    assert_int_equal(e->m.ram[DATA + 512], 'x');
    assert_int_equal(get32(&e->m, queue_at(0) + TEST_DEVICE + 8 + 8), 513); /* used.len */
    assert_int_equal(request(e, T_FLUSH, 0, 0), OK);
    fd = open(e->path, O_RDONLY);
    assert_int_equal(pread(fd, got, 6, 3 * 512), 6);
    assert_string_equal(got, "first");
    (void)close(fd);
    assert_int_equal(clear_request(e, ZEROES, 3, 1, 0), OK);
    assert_int_equal(clear_request(e, ZEROES, 0, 1, 1), OK);
    assert_int_equal(request(e, IN, 3, 1024), OK);
    assert_int_equal(e->m.ram[DATA], 0);
    assert_string_equal((char *)e->m.ram + DATA + 512, "second");
    assert_int_equal(clear_request(e, DISCARD, 0, 128, 0), OK);
    env_close(e);
}

static void test_data_by_io_uring(void **state)
{
    /* Where the host forbids it, this is the pool once more. */
    test_what_was_written_is_read(*state, STORE_AIO_AUTO);
}

static void test_data_by_threads(void **state)
{
    test_what_was_written_is_read(*state, STORE_AIO_THREADS);
}

/* Each queue is another thread's, on one disk; flushes and limits are of all of them. */
static void queues_share_a_disk(struct env *e)
{
    for (unsigned i = 0; i < 6; i++) {
        e->queue = i % 2;
        memset(e->m.ram + DATA, (int)(i + 1), 512);
        assert_int_equal(request(e, OUT, i, 512), OK);
        assert_int_equal(request(e, T_FLUSH, 0, 0), OK);
        e->queue = !e->queue;
        memset(e->m.ram + DATA, 0, 512);
        assert_int_equal(request(e, IN, i, 512), OK);
        assert_int_equal(e->m.ram[DATA + 511], i + 1);
    }
}

static void test_queues_share_a_disk(void **state)
{
    struct env *e = *state;

    for (unsigned aio = STORE_AIO_AUTO; aio <= STORE_AIO_THREADS; aio += STORE_AIO_THREADS) {
        env_open(e, false, aio);
        queues_share_a_disk(e);
        virtio_blk_limit(e->blk, &(struct blk_limits){ .requests_per_s = 1000000 });
        queues_share_a_disk(e);
        assert_int_equal(store_counts(e->store).writes, 12);
        assert_int_equal(store_counts(e->store).flushes, 12);
        env_close(e);
    }
}

static void test_another_image_is_every_queues(void **state)
{
    struct env *e = *state;
    char path[] = "/tmp/doppel-blk-test-XXXXXX";
    struct store *old, *other;
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, DISK_BYTES), 0);
    (void)close(fd);
    env_open(e, false, STORE_AIO_AUTO);
    old = e->store;
    other = store_open(&(struct store_config){ .name = "disk0", .path = path });
    assert_int_equal(virtio_blk_replace(e->blk, other), 0);
    store_close(old);
    e->store = other;
    queues_share_a_disk(e);
    env_close(e);
    (void)unlink(path);
}

static void test_requests_in_any_shape(void **state)
{
    struct env *e = *state;

    env_open(e, false, STORE_AIO_AUTO);
    (void)strcpy((char *)e->m.ram + HEADER + 16, "joined");
    /* Header and data in one buffer; it is split elsewhere. "Legacy Interface: Framing
     * Requirements" is not ours: "Message Framing" forbids to rely on it. */
    header(e, OUT, 1);
    put_split(&e->m, 0, 0, HEADER, 7, D_NEXT, 1);
    put_split(&e->m, 0, 1, HEADER + 7, 9 + 500, D_NEXT, 2);
    put_split(&e->m, 0, 2, HEADER + 516, 12, D_NEXT, 3);
    put_split(&e->m, 0, 3, STATUS, 1, D_WRITE, 0);
    make_available(&e->m, 0, SIZE, 0);
    wait_used(e);
    assert_int_equal(e->m.ram[STATUS], OK);
    /* Data and status in one. */
    header(e, IN, 1);
    put_split(&e->m, 0, 0, HEADER, 16, D_NEXT, 1);
    put_split(&e->m, 0, 1, DATA, 100, D_NEXT | D_WRITE, 2);
    put_split(&e->m, 0, 2, DATA + 100, 413, D_WRITE, 0);
    e->m.ram[DATA + 512] = NONE;
    make_available(&e->m, 0, SIZE, 0);
    wait_used(e);
    assert_int_equal(e->m.ram[DATA + 512], OK);
    assert_string_equal((char *)e->m.ram + DATA, "joined");
    env_close(e);
}

static void test_wrong_requests_are_refused(void **state)
{
    static const struct {
        uint32_t type;
        uint64_t sector;
        uint32_t bytes;
        unsigned status;
    } cases[] = {
        { IN, 127, 512, OK },
        { IN, 127, 1024, IOERR },
        { IN, 128, 512, IOERR },
        { IN, UINT64_MAX, 512, IOERR },
        { IN, UINT64_MAX / 512, 512, IOERR },
        { IN, 1ull << 55, 512, IOERR },
        { IN, 0, 100, IOERR },
        { IN, 0, 0, OK },
        { OUT, 128, 512, IOERR },
        { OUT, 0, 511, IOERR },
        { GET_ID, 0, 19, IOERR },
        { GET_ID, 0, 20, OK },
        { DISCARD, 0, 15, IOERR },
        { DISCARD, 0, 32, IOERR },
        { 2, 0, 512, UNSUPP },
        { 99, 0, 0, UNSUPP },
    };
    struct env *e = *state;

    env_open(e, false, STORE_AIO_AUTO);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        unsigned status = request(e, cases[i].type, cases[i].sector, cases[i].bytes);

        if (status != cases[i].status)
            fail_msg("case %u has status %u", i, status);
    }
    assert_int_equal(clear_request(e, DISCARD, 128, 1, 0), IOERR);
    assert_int_equal(clear_request(e, DISCARD, UINT64_MAX, 2, 0), IOERR);
    assert_int_equal(clear_request(e, DISCARD, 0, 1, 1), UNSUPP);
    assert_int_equal(clear_request(e, ZEROES, 0, 1, 2), UNSUPP);
    assert_int_equal(clear_request(e, ZEROES, 0, UINT32_MAX, 0), IOERR);
    assert_false(e->vd->broken);
    env_close(e);
}

static void test_serial_number_is_told(void **state)
{
    struct env *e = *state;

    env_open(e, false, STORE_AIO_AUTO);
    assert_int_equal(request(e, GET_ID, 0, 20), OK);
    assert_string_equal((char *)e->m.ram + DATA, "number 1");
    env_close(e);
}

static void test_request_without_header_or_status_breaks_the_device(void **state)
{
    struct env *e = *state;

    for (unsigned i = 0; i < 2; i++) {
        env_open(e, false, STORE_AIO_AUTO);
        header(e, IN, 0);
        put_split(&e->m, 0, 0, HEADER, i ? 16 : 15, i ? 0 : D_NEXT, 1);
        put_split(&e->m, 0, 1, STATUS, 1, D_WRITE, 0);
        make_available(&e->m, 0, SIZE, 0);
        notify(e);
        for (uint8_t status = 0; !(status & VIRTIO_STATUS_NEEDS_RESET);) {
            lock_take(bus_lock(e->m.bus));
            status = e->vd->status;
            lock_drop(bus_lock(e->m.bus));
            (void)sched_yield();
        }
        env_close(e);
    }
}

static void test_readonly_disk_refuses_writes(void **state)
{
    struct env *e = *state;

    env_open(e, true, STORE_AIO_AUTO);
    assert_true(e->vd->offered & BIT64(5));
    assert_false(e->vd->offered & (BIT64(13) | BIT64(14)));
    assert_int_equal(request(e, IN, 0, 512), OK);
    assert_int_equal(request(e, OUT, 0, 512), IOERR);
    assert_int_equal(clear_request(e, ZEROES, 0, 1, 0), IOERR);
    assert_int_equal(clear_request(e, DISCARD, 0, 1, 0), IOERR);
    assert_int_equal(request(e, T_FLUSH, 0, 0), OK);
    env_close(e);
}

static struct store *try_open(struct env *e, bool readonly)
{
    return store_open(
        &(struct store_config){ .name = "other", .path = e->path, .readonly = readonly });
}

static void test_image_has_one_writer_or_many_readers(void **state)
{
    struct env *e = *state;
    struct store *a = try_open(e, false), *b;

    assert_non_null(a);
    assert_null(try_open(e, false));
    assert_null(try_open(e, true));
    store_close(a);
    a = try_open(e, true);
    b = try_open(e, true);
    assert_true(a && b);
    assert_null(try_open(e, false));
    store_close(a);
    store_close(b);
}

static void test_what_is_no_disk_is_refused(void **state)
{
    struct env *e = *state;

    assert_null(store_open(&(struct store_config){ .name = "x", .path = "/nonexistent/x" }));
    assert_null(store_open(&(struct store_config){ .name = "x", .path = "/dev/null" }));
    assert_null(store_open(&(struct store_config){ .name = "x", .path = "/tmp" }));
    assert_int_equal(truncate(e->path, 511), 0);
    assert_null(try_open(e, false));
}

static void test_resize_is_told_and_grows_the_disk(void **state)
{
    struct env *e = *state;
    uint64_t capacity = 0;

    env_open(e, false, STORE_AIO_AUTO);
    assert_int_equal(request(e, IN, 200, 512), IOERR);
    assert_int_equal(store_resize(e->store, 512), -EINVAL);
    assert_int_equal(store_resize(e->store, 2 * DISK_BYTES), 0);
    virtio_blk_resized(e->blk);
    assert_int_equal(e->m.nr_config_irqs, 1);
    lock_take(bus_lock(e->m.bus));
    virtio_config_read(e->vd, 0, &capacity, 8);
    lock_drop(bus_lock(e->m.bus));
    assert_int_equal(capacity, 256);
    assert_int_equal(request(e, IN, 200, 512), OK);
    env_close(e);
}

static void test_reset_in_the_middle_of_requests(void **state)
{
    struct env *e = *state;

    for (unsigned i = 0; i < 50; i++) {
        env_open(e, false, i % 2 ? STORE_AIO_AUTO : STORE_AIO_THREADS);
        for (unsigned n = 0; n < 16; n++) {
            unsigned q = n / 2 % 2;

            header(e, n % 2, 0);
            put_split(&e->m, q, 0, HEADER, 16, D_NEXT, 1);
            put_split(&e->m, q, 1, DATA, 512 * 64, (uint16_t)(D_NEXT | (n % 2 ? 0 : D_WRITE)), 2);
            put_split(&e->m, q, 2, STATUS, 1, D_WRITE, 0);
            make_available(&e->m, q, SIZE, 0);
        }
        for (e->queue = 0; e->queue < 2; e->queue++)
            notify(e);
        env_close(e);
    }
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_data_by_io_uring),
        TEST(test_data_by_threads),
        TEST(test_queues_share_a_disk),
        TEST(test_another_image_is_every_queues),
        TEST(test_requests_in_any_shape),
        TEST(test_wrong_requests_are_refused),
        TEST(test_serial_number_is_told),
        TEST(test_request_without_header_or_status_breaks_the_device),
        TEST(test_readonly_disk_refuses_writes),
        TEST(test_image_has_one_writer_or_many_readers),
        TEST(test_what_is_no_disk_is_refused),
        TEST(test_resize_is_told_and_grows_the_disk),
        TEST(test_reset_in_the_middle_of_requests),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
