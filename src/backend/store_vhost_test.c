/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disks by vhost-user: qemu-storage-daemon as a process that does it right, and threads of this one
 * that do not.
 */
#include "backend/teststore.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backend/store_vhost.h"

#define DISK_BYTES MIB(8)
#define REQ_BYTES  MIB(2)

struct env {
    char dir[32], socket[64], file[64], pid_file[64];
    pid_t server;
    struct teststore t;
};

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    assert_non_null(e);
    log_set_level((enum log_level) - 1);
    (void)strcpy(e->dir, "/tmp/doppel-vhost-test-XXXXXX");
    assert_non_null(mkdtemp(e->dir));
    (void)snprintf(e->socket, sizeof(e->socket), "%s/sock", e->dir);
    (void)snprintf(e->file, sizeof(e->file), "%s/file", e->dir);
    (void)snprintf(e->pid_file, sizeof(e->pid_file), "%s/pid", e->dir);
    *state = e;
    return 0;
}

static void stop(struct env *e)
{
    if (e->server > 0) {
        (void)kill(e->server, SIGKILL);
        assert_int_equal(waitpid(e->server, NULL, 0), e->server);
    }
    e->server = 0;
    (void)unlink(e->socket);
    (void)unlink(e->pid_file);
}

static int teardown(void **state)
{
    struct env *e = *state;

    stop(e);
    (void)unlink(e->file);
    (void)rmdir(e->dir);
    free(e);
    return 0;
}

static struct store *try_open(const struct env *e)
{
    return store_open(&(struct store_config){ .name = "disk0", .vhost_user = e->socket });
}

/* ---- qemu-storage-daemon ---- */

static bool have_daemon(void)
{
    return system("qemu-storage-daemon --version >/dev/null 2>&1") == 0;
}

static void serve(struct env *e, bool writable)
{
    char blockdev[160], export[200];
    int fd = open(e->file, O_RDWR | O_CREAT, 0600);

    assert_true(fd >= 0 && ftruncate(fd, DISK_BYTES) == 0 && close(fd) == 0);
    (void)snprintf(blockdev, sizeof(blockdev),
                   "driver=file,node-name=f,filename=%s,discard=unmap%s", e->file,
                   writable ? "" : ",read-only=on");
    (void)snprintf(export, sizeof(export),
                   "type=vhost-user-blk,id=x,node-name=f,addr.type=unix,addr.path=%s,writable=%s",
                   e->socket, writable ? "on" : "off");
    e->server = fork();
    assert_true(e->server >= 0);
    if (e->server == 0) {
        (void)execlp("qemu-storage-daemon", "qemu-storage-daemon", "--blockdev", blockdev,
                     "--export", export, "--pidfile", e->pid_file, (char *)NULL);
        _exit(127);
    }
    /* It writes the file when it can be connected to. */
    while (access(e->pid_file, R_OK) < 0) {
        assert_int_equal(waitpid(e->server, NULL, WNOHANG), 0);
        teststore_rest();
    }
}

/* Memory as a guest's: of a file. */
static uint8_t *shared_memory(struct store_memory *m, uint64_t bytes)
{
    m->fd = host_memfd("test", bytes);
    assert_true(m->fd >= 0);
    m->at = host_map_fd(m->fd, 0, bytes);
    assert_non_null(m->at);
    m->bytes = bytes;
    m->fd_off_bytes = 0;
    return m->at;
}

static void connect_with(struct env *e, struct store *store, const struct store_memory *m)
{
    assert_non_null(store);
    e->t.store = store;
    assert_int_equal(store_connect(store, &(struct store_client){ .poll = teststore_on_poll,
                                                                  .done = teststore_on_done,
                                                                  .batch = teststore_on_batch,
                                                                  .held = teststore_on_held,
                                                                  .arg = &e->t,
                                                                  .memory = m,
                                                                  .nr_memory = m ? 1 : 0 }),
                     0);
}

/* All pieces of a request: in one place, in odd ones, more than a command takes. */
static void check_data(struct env *e, uint8_t *mem)
{
    static const unsigned pieces[] = { 1, 3, TESTSTORE_IOV };
    uint8_t *want = malloc(REQ_BYTES);

    assert_non_null(want);
    for (unsigned i = 0; i < ARRAY_SIZE(pieces); i++) {
        uint64_t at = 512 * (uint64_t)(i * 3 + 1), bytes = REQ_BYTES - 512 * (uint64_t)i;

        teststore_fill(want, bytes, i);
        memcpy(mem, want, bytes);
        assert_int_equal(teststore_do_one(&e->t, STORE_WRITE, at, mem, bytes, pieces[i]), 0);
        memset(mem, 0x5a, bytes);
        assert_int_equal(teststore_do_one(&e->t, STORE_READ, at, mem, bytes, pieces[2 - i]), 0);
        assert_memory_equal(mem, want, bytes);
    }
    assert_int_equal(teststore_do_one(&e->t, STORE_FLUSH, 0, NULL, 0, 0), 0);
    assert_int_equal(teststore_do_one(&e->t, STORE_DISCARD, 4096, NULL, MIB(1), 0), 0);
    assert_int_equal(teststore_do_one(&e->t, STORE_ZERO, 4096, NULL, MIB(1), 0), 0);
    assert_int_equal(teststore_do_one(&e->t, STORE_READ, 4096, mem, MIB(1), 2), 0);
    memset(want, 0, MIB(1));
    assert_memory_equal(mem, want, MIB(1));
    free(want);
}

static void test_data_is_moved_with_and_without_shared_memory(void **state)
{
    struct env *e = *state;
    struct store_memory m;
    uint8_t *mem;

    if (!have_daemon()) {
        print_message("SKIP: needs qemu-storage-daemon\n");
        return;
    }
    serve(e, true);
    for (unsigned i = 0; i < 2; i++) {
        mem = shared_memory(&m, REQ_BYTES);
        connect_with(e, try_open(e), i ? NULL : &m);
        assert_int_equal(store_bytes(e->t.store), DISK_BYTES);
        assert_false(store_readonly(e->t.store));
        check_data(e, mem);
        /* Connected once more, as by another device: the ring begins anew. */
        store_disconnect(e->t.store);
        connect_with(e, e->t.store, i ? &m : NULL);
        check_data(e, mem);
        teststore_close(&e->t);
        host_unmap(mem, REQ_BYTES);
        host_close(m.fd);
    }
}

/* More requests than there are slots, all of them out at once. */
static void test_many_requests_at_once(void **state)
{
    struct env *e = *state;
    const unsigned bytes = 16384;
    struct store_memory m;
    uint8_t *mem, *want;

    if (!have_daemon()) {
        print_message("SKIP: needs qemu-storage-daemon\n");
        return;
    }
    serve(e, true);
    mem = shared_memory(&m, REQ_BYTES);
    want = malloc(REQ_BYTES);
    connect_with(e, try_open(e), &m);
    teststore_fill(want, REQ_BYTES, 1);
    memcpy(mem, want, REQ_BYTES);
    for (unsigned k = 0; k < 2; k++) {
        for (unsigned i = 0; i < TESTSTORE_REQS; i++)
            teststore_prepare(&e->t, i, k ? STORE_READ : STORE_WRITE, (uint64_t)i * bytes,
                              mem + (size_t)i * bytes, bytes, 1 + i % TESTSTORE_IOV);
        teststore_begin(&e->t, TESTSTORE_REQS);
        teststore_wait_done(&e->t);
        for (unsigned i = 0; i < TESTSTORE_REQS; i++)
            assert_int_equal(e->t.reqs[i].error, 0);
        assert_memory_equal(mem, want, (size_t)TESTSTORE_REQS * bytes);
        memset(mem, 0, (size_t)TESTSTORE_REQS * bytes * !k);
    }
    teststore_close(&e->t);
    host_unmap(mem, REQ_BYTES);
    host_close(m.fd);
    free(want);
}

static void test_a_device_that_cannot_be_written_is_read_only(void **state)
{
    struct env *e = *state;
    struct store *s;

    if (!have_daemon()) {
        print_message("SKIP: needs qemu-storage-daemon\n");
        return;
    }
    serve(e, false);
    s = try_open(e);
    assert_non_null(s);
    assert_true(store_readonly(s));
    store_close(s);
}

static void test_a_process_that_dies_gives_errors(void **state)
{
    struct env *e = *state;
    uint8_t mem[512] = { 0 };

    if (!have_daemon()) {
        print_message("SKIP: needs qemu-storage-daemon\n");
        return;
    }
    serve(e, true);
    connect_with(e, try_open(e), NULL);
    assert_int_equal(teststore_do_one(&e->t, STORE_WRITE, 0, mem, sizeof(mem), 1), 0);
    stop(e);
    assert_int_equal(teststore_do_one(&e->t, STORE_READ, 0, mem, sizeof(mem), 1), -EIO);
    assert_int_equal(teststore_do_one(&e->t, STORE_FLUSH, 0, NULL, 0, 0), -EIO);
    teststore_close(&e->t);
}

/* ---- one that does it wrong ---- */

enum wrong {
    NOTHING_WRONG,
    HANGS_UP,     /* at the request `at` */
    OTHER_ANSWER, /* to another request */
    LONG_ANSWER,  /* of more bytes than it may have */
    OTHER_CONFIG, /* of other bytes than were asked for */
    REFUSES,      /* what needs no answer else */
    NO_CONFIG,    /* does not know of configurations */
    OLD_DEVICE,   /* of before virtio 1.0 */
    LARGE_BLOCKS,
    HUGE_DISK,
    BAD_ID,  /* gives back what is no head of a chain */
    NOT_OUT, /* ... or is not out */
    BAD_STATUS,
    GROWS, /* each time that it is asked */
    SHRINKS,
};

struct fake {
    struct env *e;
    enum wrong wrong;
    uint32_t at;
    pthread_t thread;
    int listener;
    struct vhost_shared *shared;
    int kick, call;
    unsigned nr_configs; /* it was asked for */
};

struct message {
    uint32_t request, flags, bytes;
    uint8_t data[512];
};

static bool fake_receive(struct fake *f, int fd, struct message *m)
{
    char room[CMSG_SPACE(8 * sizeof(int))];
    struct iovec iov = { m, 12 };
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)
    };
    const struct cmsghdr *c;
    int got;

    if (recvmsg(fd, &msg, MSG_CMSG_CLOEXEC) != 12 || m->bytes > sizeof(m->data) ||
        (m->bytes && recv(fd, m->data, m->bytes, MSG_WAITALL) != (ssize_t)m->bytes))
        return false;
    c = CMSG_FIRSTHDR(&msg);
    if (!c)
        return true;
    memcpy(&got, CMSG_DATA(c), sizeof(got));
    if (m->request == VHU_SET_MEM_TABLE) {
        f->shared = mmap(NULL, sizeof(*f->shared), PROT_READ | PROT_WRITE, MAP_SHARED, got, 0);
        (void)close(got);
        return f->shared != MAP_FAILED;
    }
    *(m->request == VHU_SET_VRING_KICK ? &f->kick : &f->call) = got;
    return true;
}

static bool fake_answer(struct fake *f, int fd, struct message *m)
{
    bool asks = m->request == VHU_GET_FEATURES || m->request == VHU_GET_PROTOCOL_FEATURES ||
                m->request == VHU_GET_VRING_BASE || m->request == VHU_GET_CONFIG;
    bool here = m->request == f->at;
    struct virtio_blk_config c = { .capacity = 64, .seg_max = 8, .blk_size = 512 };
    uint64_t val = 0;

    if (here && f->wrong == HANGS_UP)
        return false;
    if (!asks && !(m->flags & 8))
        return true;
    if (m->request == VHU_GET_FEATURES)
        val = VHU_F_PROTOCOL_FEATURES | (f->wrong == OLD_DEVICE ? 0 : BIT64(32)) |
              BIT64(VIRTIO_BLK_F_BLK_SIZE) | BIT64(VIRTIO_BLK_F_SEG_MAX);
    if (m->request == VHU_GET_PROTOCOL_FEATURES)
        val = f->wrong == NO_CONFIG ? 0 : VHU_PROTOCOL_CONFIG | VHU_PROTOCOL_REPLY_ACK;
    if (!asks)
        val = here && f->wrong == REFUSES;
    if (m->request == VHU_GET_CONFIG) {
        c.blk_size = f->wrong == LARGE_BLOCKS ? 4096 : 512;
        c.capacity = f->wrong == HUGE_DISK ? UINT64_MAX : 64;
        c.capacity += f->wrong == GROWS ? 8 * f->nr_configs : 0;
        c.capacity -= f->wrong == SHRINKS ? 8 * f->nr_configs : 0;
        f->nr_configs++;
        memcpy(m->data + 12, &c, 60);
        m->data[0] = f->wrong == OTHER_CONFIG;
    } else {
        memcpy(m->data, &val, 8);
        m->bytes = 8;
    }
    m->flags = 1 | 4;
    m->request += here && f->wrong == OTHER_ANSWER;
    m->bytes += here && f->wrong == LONG_ANSWER ? 8 : 0;
    return send(fd, m, 12 + m->bytes, MSG_NOSIGNAL) == (ssize_t)(12 + m->bytes);
}

/* Each request gets its (wrong) answer. */
static void fake_serve(struct fake *f)
{
    struct vhost_shared *s = f->shared;
    uint64_t count;

    if (read(f->kick, &count, sizeof(count)) < 0)
        return;
    while (s->used.idx != __atomic_load_n(&s->avail.idx, __ATOMIC_ACQUIRE)) {
        uint32_t id = s->avail.ring[s->used.idx % VHOST_RING_SIZE];

        s->slots[id / VHOST_SLOT_DESCS].status = f->wrong == BAD_STATUS ? 77 : 0;
        id += f->wrong == BAD_ID ? 1 : f->wrong == NOT_OUT ? VHOST_SLOT_DESCS : 0;
        s->used.ring[s->used.idx % VHOST_RING_SIZE].id = id % VHOST_RING_SIZE;
        __atomic_store_n(&s->used.idx, (uint16_t)(s->used.idx + 1), __ATOMIC_RELEASE);
    }
    host_event_signal(f->call);
}

static void *fake_run(void *arg)
{
    struct fake *f = arg;
    int fd = accept(f->listener, NULL, NULL);
    struct message m;

    f->kick = f->call = -1;
    while (fd >= 0) {
        struct pollfd pfd[2] = { { .fd = fd, .events = POLLIN },
                                 { .fd = f->kick, .events = POLLIN } };

        if (poll(pfd, 2, -1) < 0)
            continue;
        if (pfd[1].revents)
            fake_serve(f);
        if (pfd[0].revents && (!fake_receive(f, fd, &m) || !fake_answer(f, fd, &m)))
            break;
    }
    (void)close(fd);
    if (f->kick >= 0)
        (void)close(f->kick);
    if (f->call >= 0)
        (void)close(f->call);
    if (f->shared)
        (void)munmap(f->shared, sizeof(*f->shared));
    return NULL;
}

static void fake_begin(struct fake *f)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };

    (void)strcpy(addr.sun_path, f->e->socket);
    (void)unlink(f->e->socket);
    f->shared = NULL;
    f->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(f->listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(listen(f->listener, 1), 0);
    assert_int_equal(pthread_create(&f->thread, NULL, fake_run, f), 0);
}

static void fake_end(struct fake *f)
{
    assert_int_equal(pthread_join(f->thread, NULL), 0);
    (void)close(f->listener);
}

static void test_wrong_answers_are_refused(void **state)
{
    static const struct {
        enum wrong wrong;
        uint32_t at;
    } cases[] = {
        { HANGS_UP, VHU_GET_FEATURES },
        { HANGS_UP, VHU_SET_OWNER },
        { HANGS_UP, VHU_GET_CONFIG },
        { OTHER_ANSWER, VHU_GET_FEATURES },
        { OTHER_ANSWER, VHU_GET_CONFIG },
        { LONG_ANSWER, VHU_GET_PROTOCOL_FEATURES },
        { LONG_ANSWER, VHU_GET_CONFIG },
        { OTHER_CONFIG, VHU_GET_CONFIG },
        { REFUSES, VHU_SET_OWNER },
        { NO_CONFIG, 0 },
        { OLD_DEVICE, 0 },
        { LARGE_BLOCKS, 0 },
        { HUGE_DISK, 0 },
    };
    struct env *e = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct fake f = { .e = e, .wrong = cases[i].wrong, .at = cases[i].at };

        fake_begin(&f);
        assert_null(try_open(e));
        fake_end(&f);
    }
}

static void test_a_ring_that_is_refused_is_no_disk(void **state)
{
    static const uint32_t at[] = { VHU_SET_FEATURES, VHU_SET_MEM_TABLE, VHU_SET_VRING_NUM,
                                   VHU_SET_VRING_KICK, VHU_SET_VRING_ENABLE };
    struct env *e = *state;

    for (unsigned i = 0; i < 2 * ARRAY_SIZE(at); i++) {
        struct fake f = { .e = e, .wrong = i & 1 ? REFUSES : HANGS_UP, .at = at[i / 2] };
        struct store *s;

        fake_begin(&f);
        s = try_open(e);
        assert_non_null(s);
        assert_true(store_connect(s, &(struct store_client){ .arg = e }) < 0);
        store_close(s);
        fake_end(&f);
    }
}

static void test_what_was_not_given_cannot_come_back(void **state)
{
    static const enum wrong cases[] = { NOTHING_WRONG, BAD_ID, NOT_OUT, BAD_STATUS };
    struct env *e = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct fake f = { .e = e, .wrong = cases[i] };
        uint8_t mem[4096] = { 0 };
        int want = cases[i] == NOTHING_WRONG ? 0 : -EIO;

        fake_begin(&f);
        connect_with(e, try_open(e), NULL);
        assert_int_equal(teststore_do_one(&e->t, STORE_WRITE, 0, mem, sizeof(mem), 1), want);
        assert_int_equal(teststore_do_one(&e->t, STORE_READ, 512, mem, sizeof(mem), 3), want);
        teststore_close(&e->t);
        fake_end(&f);
    }
}

static void test_the_disk_may_grow_and_not_shrink(void **state)
{
    struct env *e = *state;

    for (unsigned i = 0; i < 2; i++) {
        struct fake f = { .e = e, .wrong = i ? SHRINKS : GROWS };

        fake_begin(&f);
        connect_with(e, try_open(e), NULL);
        assert_int_equal(store_bytes(e->t.store), 64 * 512);
        assert_int_equal(store_resize(e->t.store, 80 * 512), -EOPNOTSUPP);
        assert_int_equal(store_resize(e->t.store, 0), i ? -EINVAL : 0);
        assert_int_equal(store_bytes(e->t.store), (i ? 64 : 72) * 512);
        teststore_close(&e->t);
        fake_end(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_data_is_moved_with_and_without_shared_memory, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_many_requests_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_device_that_cannot_be_written_is_read_only, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_process_that_dies_gives_errors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_answers_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_ring_that_is_refused_is_no_disk, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_disk_may_grow_and_not_shrink, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_was_not_given_cannot_come_back, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
