/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of the file system device: its queues, with a real share and its threads behind them. What
 * requests mean is tested in backend/fs_test.c. */
#include "virtio/testdriver.h"

#include <linux/fuse.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "virtio/fs.h"

#define SIZE     16
#define SPLIT    BIT64(VIRTIO_F_VERSION_1)
#define HIPRIO   0
#define REQUESTS 1
#define IN_AT    0x20000u
#define OUT_AT   0x30000u

struct env {
    struct testmachine m;
    struct fs_share *share;
    struct virtio_fs f;
    char dir[64];
    uint64_t unique;
};

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    assert_non_null(e);
    testmachine_init(&e->m);
    (void)snprintf(e->dir, sizeof(e->dir), "/tmp/doppel-fs-XXXXXX");
    assert_non_null(mkdtemp(e->dir));
    e->share = fs_open(
        &(struct fs_config){ .tag = "0123456789012345678901234567890123tag", .path = e->dir });
    assert_non_null(e->share);
    assert_int_equal(virtio_fs_init(&e->f, e->m.bus, e->m.mmu, e->share), 0);
    virtio_attach(&e->f.vd, &test_transport, &e->m);
    assert_int_equal(virtio_fs_start(&e->f), 0);
    *state = e;
    return 0;
}

static int teardown(void **state)
{
    struct env *e = *state;
    char cmd[128];

    driver_reset(&e->f.vd);
    virtio_fs_stop(&e->f);
    virtio_fs_fini(&e->f);
    fs_close(e->share);
    (void)snprintf(cmd, sizeof(cmd), "rm -rf %s", e->dir);
    assert_int_equal(system(cmd), 0);
    testmachine_fini(&e->m);
    free(e);
    return 0;
}

static void notify(struct env *e, unsigned queue)
{
    lock_take(bus_lock(e->m.bus));
    virtio_notify(&e->f.vd, queue);
    lock_drop(bus_lock(e->m.bus));
}

/* A request in memory: its header, and args. */
static uint32_t put_request(struct env *e, uint32_t op, uint64_t node, const void *args, size_t nr)
{
    struct fuse_in_header h = { .len = (uint32_t)(sizeof(h) + nr),
                                .opcode = op,
                                .unique = ++e->unique,
                                .nodeid = node,
                                .uid = geteuid(),
                                .gid = getegid() };

    memcpy(e->m.ram + IN_AT, &h, sizeof(h));
    memcpy(e->m.ram + IN_AT + sizeof(h), args, nr);
    return h.len;
}

/* Sends what was put, and waits for it. The answer's header. */
static struct fuse_out_header send_request(struct env *e, unsigned queue, uint32_t bytes,
                                           uint32_t room)
{
    uint16_t used = used_idx(&e->m, queue);
    struct fuse_out_header out;

    put_split(&e->m, queue, 0, IN_AT, bytes, room ? D_NEXT : 0, 1);
    put_split(&e->m, queue, 1, OUT_AT, room, D_WRITE, 0);
    memset(e->m.ram + OUT_AT, 0, sizeof(out));
    make_available(&e->m, queue, SIZE, 0);
    notify(e, queue);
    while (used_idx(&e->m, queue) == used)
        (void)sched_yield();
    memcpy(&out, e->m.ram + OUT_AT, sizeof(out));
    return out;
}

static int call(struct env *e, uint32_t op, uint64_t node, const void *args, size_t nr)
{
    struct fuse_out_header out =
        send_request(e, REQUESTS, put_request(e, op, node, args, nr), 4096);

    assert_int_equal(out.unique, e->unique);
    return out.error;
}

static void wait_for_interrupt(struct env *e)
{
    unsigned nr = 0;

    while (!nr) {
        (void)sched_yield();
        lock_take(bus_lock(e->m.bus));
        nr = e->m.nr_queue_irqs;
        lock_drop(bus_lock(e->m.bus));
    }
}

static void start(struct env *e)
{
    struct fuse_init_in in = { .major = 7, .minor = 36, .flags = UINT32_MAX };

    driver_start(&e->f.vd, SPLIT, SIZE);
    assert_int_equal(call(e, FUSE_INIT, 0, &in, sizeof(in)), 0);
}

static void test_config_has_tag_and_queues(void **state)
{
    struct env *e = *state;
    uint8_t space[48];

    virtio_config_read(&e->f.vd, 0, space, sizeof(space));
    assert_memory_equal(space, "0123456789012345678901234567890123ta", 36);
    assert_memory_equal(space + 36, "\1\0\0\0\0\0\0", 8);
    assert_int_equal(e->f.vd.nr_queues, 2);
}

static void test_request_is_answered_and_interrupts(void **state)
{
    struct env *e = *state;
    struct fuse_out_header out;

    start(e);
    assert_int_equal(call(e, FUSE_MKDIR, 1, "\355\1\0\0\0\0\0\0new", 12), 0);
    memcpy(&out, e->m.ram + OUT_AT, sizeof(out));
    assert_int_equal(out.len, 16 + sizeof(struct fuse_entry_out));
    /* "len" of the used element. */
    assert_int_equal(get32(&e->m, queue_at(REQUESTS) + TEST_DEVICE + 4 + 8 + 4), out.len);
    wait_for_interrupt(e); /* it comes behind the answer */
    assert_int_equal(call(e, FUSE_LOOKUP, 1, "nothing", 8), -2);
}

static void test_urgent_requests_have_no_answer(void **state)
{
    struct env *e = *state;
    struct fuse_forget_in in = { .nlookup = 1 };
    unsigned nodes, files;
    uint64_t id;

    start(e);
    assert_int_equal(call(e, FUSE_MKDIR, 1, "\355\1\0\0\0\0\0\0new", 12), 0);
    memcpy(&id, e->m.ram + OUT_AT + 16, sizeof(id));
    fs_count(e->share, &nodes, &files);
    assert_int_equal(nodes, 1);
    (void)send_request(e, HIPRIO, put_request(e, FUSE_FORGET, id, &in, sizeof(in)), 0);
    fs_count(e->share, &nodes, &files);
    assert_int_equal(nodes, 0);
}

static void test_half_a_header_breaks_the_device(void **state)
{
    static const struct {
        uint32_t bytes, room;
    } bad[] = { { 39, 4096 }, { 0, 64 }, { 48, 15 }, { 48, 1 } };
    struct env *e = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        memset(e->m.ram, 0, TEST_BUFFERS);
        driver_start(&e->f.vd, SPLIT, SIZE);
        (void)put_request(e, FUSE_DESTROY, 1, "\0\0\0\0\0\0\0", 8);
        put_split(&e->m, REQUESTS, 0, IN_AT, bad[i].bytes, D_NEXT, 1);
        put_split(&e->m, REQUESTS, 1, OUT_AT, bad[i].room, D_WRITE, 0);
        make_available(&e->m, REQUESTS, SIZE, 0);
        notify(e, REQUESTS);
        for (;;) { /* until the share's thread has seen it */
            uint8_t status;

            lock_take(bus_lock(e->m.bus));
            status = e->f.vd.status;
            lock_drop(bus_lock(e->m.bus));
            if (status & VIRTIO_STATUS_NEEDS_RESET)
                break;
            (void)sched_yield();
        }
        driver_reset(&e->f.vd);
    }
}

static void test_reset_ends_the_session(void **state)
{
    struct env *e = *state;
    unsigned nodes, files;

    start(e);
    assert_int_equal(call(e, FUSE_MKDIR, 1, "\355\1\0\0\0\0\0\0new", 12), 0);
    assert_int_equal(call(e, FUSE_OPENDIR, 1, "\0\0\0\0\0\0\0", 8), 0);
    fs_count(e->share, &nodes, &files);
    assert_int_equal(nodes + files, 2);
    driver_reset(&e->f.vd);
    fs_count(e->share, &nodes, &files);
    assert_int_equal(nodes + files, 0);
    memset(e->m.ram, 0, TEST_BUFFERS);
    driver_start(&e->f.vd, SPLIT, SIZE);
    assert_int_equal(call(e, FUSE_LOOKUP, 1, "new", 4), -107); /* ENOTCONN */
}

static void test_bytes_that_are_read_are_noted_in_the_mmu(void **state)
{
    struct env *e = *state;
    struct slot *s = mmu_slot_find(e->m.mmu, GPA(0));
    struct fuse_create_in in = { .flags = 2, .mode = 0600 };
    struct fuse_write_in wr = { .size = 5 };
    struct fuse_read_in rd = { .size = 0x2000 };
    uint8_t args[64];

    start(e);
    memcpy(args, &in, sizeof(in));
    memcpy(args + sizeof(in), "f", 2);
    assert_int_equal(call(e, FUSE_CREATE, 1, args, sizeof(in) + 2), 0);
    memcpy(&wr.fh, e->m.ram + OUT_AT + 16 + sizeof(struct fuse_entry_out), sizeof(wr.fh));
    rd.fh = wr.fh;
    wr.offset = 0x1ffb;
    memcpy(args, &wr, sizeof(wr));
    memcpy(args + sizeof(wr), "bytes", 5);
    assert_int_equal(call(e, FUSE_WRITE, 1, args, sizeof(wr) + 5), 0);
    s->flags |= SLOT_LOG_DIRTY;
    (void)send_request(e, REQUESTS, put_request(e, FUSE_READ, 1, &rd, sizeof(rd)), 0x4000);
    assert_memory_equal(e->m.ram + OUT_AT + 16 + 0x1ffb, "bytes", 5);
    for (unsigned page = OUT_AT >> PAGE_SHIFT; page < (OUT_AT >> PAGE_SHIFT) + 3; page++)
        assert_int_equal(s->notes[page] & PAGE_NOTE_DIRTY, PAGE_NOTE_DIRTY);
    assert_int_equal(s->notes[(OUT_AT >> PAGE_SHIFT) + 3] & PAGE_NOTE_DIRTY, 0);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_config_has_tag_and_queues),
        TEST(test_request_is_answered_and_interrupts),
        TEST(test_urgent_requests_have_no_answer),
        TEST(test_half_a_header_breaks_the_device),
        TEST(test_reset_ends_the_session),
        TEST(test_bytes_that_are_read_are_noted_in_the_mmu),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
