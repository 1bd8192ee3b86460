/* SPDX-License-Identifier: Apache-2.0 */
/* Disks behind an NBD server: nbdkit, whose filters give it every limit and every error. */
#include "backend/teststore.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define DISK_BYTES MIB(8)
#define REQ_BYTES  MIB(1)

struct env {
    char dir[32], socket[64], where[80], file[64];
    pid_t server;
    struct teststore t;
};

/* ---- the server ---- */

/* Its options up to NULL; one that begins with @ is a file beside the socket. */
static void serve(struct env *e, const char *const *options)
{
    char pid_file[64], opened[16][96];
    const char *argv[24] = {
        "nbdkit", "-f", "--exit-with-parent", "-U", e->socket, "-P", pid_file
    };
    unsigned n = 7;

    (void)snprintf(pid_file, sizeof(pid_file), "%s/pid", e->dir);
    (void)unlink(pid_file);
    for (unsigned i = 0; options[i]; i++) {
        const char *at = strchr(options[i], '@');

        assert_true(n + 1 < ARRAY_SIZE(argv) && i < ARRAY_SIZE(opened));
        (void)snprintf(opened[i], sizeof(opened[i]), "%.*s%s%s",
                       at ? (int)(at - options[i]) : (int)strlen(options[i]), options[i],
                       at ? e->file : "", "");
        argv[n++] = opened[i];
    }
    e->server = fork();
    assert_true(e->server >= 0);
    if (e->server == 0) {
        (void)execvp("nbdkit", (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    /* It writes the file when it can be connected to. */
    while (access(pid_file, R_OK) < 0) {
        assert_int_equal(waitpid(e->server, NULL, WNOHANG), 0);
        teststore_rest();
    }
    (void)unlink(pid_file);
}

static void stop(struct env *e)
{
    if (e->server > 0) {
        (void)kill(e->server, SIGKILL);
        assert_int_equal(waitpid(e->server, NULL, 0), e->server);
    }
    e->server = 0;
    (void)unlink(e->socket);
}

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    assert_non_null(e);
    (void)strcpy(e->dir, "/tmp/doppel-nbd-test-XXXXXX");
    assert_non_null(mkdtemp(e->dir));
    (void)snprintf(e->socket, sizeof(e->socket), "%s/sock", e->dir);
    (void)snprintf(e->where, sizeof(e->where), "unix:%s", e->socket);
    (void)snprintf(e->file, sizeof(e->file), "%s/file", e->dir);
    *state = e;
    return 0;
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

static bool have_nbdkit(void)
{
    return system("nbdkit --version >/dev/null 2>&1") == 0;
}

static struct store *try_open(struct env *e, bool readonly)
{
    return store_open(
        &(struct store_config){ .name = "disk0", .nbd = e->where, .readonly = readonly });
}

static void connect_disk(struct env *e)
{
    teststore_connect(&e->t, try_open(e, false));
}

static void disconnect_disk(struct env *e)
{
    teststore_close(&e->t);
}

/* ---- tests ---- */

/* More requests than there are slots, in one piece and in several, all of them out at once. */
static void check_data(struct env *e)
{
    const unsigned nr = TESTSTORE_REQS, bytes = 65536;
    uint8_t *want = malloc((size_t)nr * bytes), *got = calloc(nr, bytes);

    assert_true(want && got);
    teststore_fill(want, (size_t)nr * bytes, 1);
    for (unsigned i = 0; i < nr; i++)
        teststore_prepare(&e->t, i, STORE_WRITE, (uint64_t)i * bytes, want + i * bytes, bytes,
                          i % TESTSTORE_IOV + 1);
    for (unsigned i = 0; i < nr; i++)
        e->t.reqs[i].through = i % 3 == 0;
    teststore_begin(&e->t, nr);
    teststore_wait_done(&e->t);
    for (unsigned i = 0; i < nr; i++)
        assert_int_equal(e->t.reqs[i].error, 0);
    for (unsigned i = 0; i < nr; i++)
        teststore_prepare(&e->t, i, STORE_READ, (uint64_t)i * bytes, got + i * bytes, bytes,
                          (i + 3) % TESTSTORE_IOV + 1);
    teststore_begin(&e->t, nr);
    teststore_wait_done(&e->t);
    for (unsigned i = 0; i < nr; i++)
        assert_int_equal(e->t.reqs[i].error, 0);
    assert_memory_equal(got, want, (size_t)nr * bytes);
    assert_int_equal(teststore_do_one(&e->t, STORE_FLUSH, 0, NULL, 0, 0), 0);
    free(want);
    free(got);
}

static void check_clearing(struct env *e)
{
    uint8_t *mem = malloc(REQ_BYTES);

    assert_non_null(mem);
    teststore_fill(mem, REQ_BYTES, 2);
    assert_int_equal(teststore_do_one(&e->t, STORE_WRITE, MIB(4), mem, REQ_BYTES, 1), 0);
    assert_int_equal(teststore_do_one(&e->t, STORE_ZERO, MIB(4) + 512, NULL, REQ_BYTES - 1024, 0),
                     0);
    assert_int_equal(teststore_do_one(&e->t, STORE_READ, MIB(4), mem, REQ_BYTES, 2), 0);
    assert_int_not_equal(mem[511] | mem[510] | mem[509], 0);
    for (unsigned i = 512; i < REQ_BYTES - 512; i++)
        assert_int_equal(mem[i], 0);
    assert_int_not_equal(mem[REQ_BYTES - 512] | mem[REQ_BYTES - 511] | mem[REQ_BYTES - 510], 0);
    assert_int_equal(teststore_do_one(&e->t, STORE_DISCARD, MIB(4), NULL, REQ_BYTES, 0), 0);
    free(mem);
}

static void check_server(struct env *e, const char *const *options)
{
    if (!have_nbdkit())
        skip();
    serve(e, options);
    connect_disk(e);
    assert_int_equal(store_bytes(e->t.store), DISK_BYTES);
    check_data(e);
    check_clearing(e);
    disconnect_disk(e);
}

static void test_data_with_all_that_a_server_can_do(void **state)
{
    check_server(*state, (const char *const[]){ "memory", "8M", NULL });
}

static void test_data_in_small_pieces(void **state)
{
    check_server(*state, (const char *const[]){ "--filter=blocksize-policy", "memory", "8M",
                                                "blocksize-minimum=512", "blocksize-preferred=4096",
                                                "blocksize-maximum=32768",
                                                "blocksize-error-policy=error", NULL });
}

static void test_data_without_zeroes_and_fua(void **state)
{
    check_server(*state, (const char *const[]){ "--filter=nozero", "--filter=fua", "memory", "8M",
                                                "zeromode=none", NULL });
}

/* The server's log has what was asked of it. */
static bool was_asked(const struct env *e, const char *what)
{
    char line[512];
    bool found = false;
    FILE *f = fopen(e->file, "r");

    assert_non_null(f);
    while (fgets(line, sizeof(line), f))
        found = found || strstr(line, what);
    (void)fclose(f);
    return found;
}

static void check_through(struct env *e, const char *mode, const char *want)
{
    uint8_t mem[512] = "x";

    if (!have_nbdkit())
        skip();
    serve(e, (const char *const[]){ "--filter=log", "--filter=fua", "memory", "8M", "logfile=@",
                                    mode, NULL });
    connect_disk(e);
    assert_int_equal(teststore_do_one(&e->t, STORE_WRITE, 0, mem, sizeof(mem), 1), 0);
    assert_false(was_asked(e, want));
    teststore_prepare(&e->t, 0, STORE_WRITE, 0, mem, sizeof(mem), 1);
    e->t.reqs[0].through = true;
    teststore_begin(&e->t, 1);
    teststore_wait_done(&e->t);
    assert_int_equal(e->t.reqs[0].error, 0);
    assert_true(was_asked(e, want));
    disconnect_disk(e);
}

static void test_write_through_by_fua(void **state)
{
    check_through(*state, "fuamode=native", "fua=1");
}

static void test_write_through_by_a_flush_where_there_is_no_fua(void **state)
{
    check_through(*state, NULL, "Flush");
}

static void test_close_flushes(void **state)
{
    struct env *e = *state;

    if (!have_nbdkit())
        skip();
    serve(e, (const char *const[]){ "--filter=log", "memory", "8M", "logfile=@", NULL });
    e->t.store = try_open(e, false);
    assert_non_null(e->t.store);
    disconnect_disk(e);
    assert_true(was_asked(e, "Flush"));
}

static void test_what_is_no_disk_is_refused(void **state)
{
    static const char *const servers[][6] = {
        { "--filter=blocksize-policy", "memory", "8M", "blocksize-minimum=4096" },
        { "memory", "511" },
        { "-r", "memory", "8M" },
    };
    struct env *e = *state;

    if (!have_nbdkit())
        skip();
    assert_null(try_open(e, false)); /* there is no server */
    for (unsigned i = 0; i < ARRAY_SIZE(servers); i++) {
        serve(e, servers[i]);
        assert_null(try_open(e, false));
        stop(e);
    }
    serve(e, servers[2]);
    e->t.store = try_open(e, true);
    assert_non_null(e->t.store);
    assert_int_equal(store_resize(e->t.store, MIB(16)), -EOPNOTSUPP);
    disconnect_disk(e);
}

static void test_errors_are_the_requests(void **state)
{
    struct env *e = *state;
    uint8_t mem[1024] = "x";

    if (!have_nbdkit())
        skip();
    serve(e, (const char *const[]){ "--filter=error", "memory", "8M", "error-pread=EIO",
                                    "error-pread-rate=100%", NULL });
    connect_disk(e);
    assert_int_equal(teststore_do_one(&e->t, STORE_WRITE, 0, mem, sizeof(mem), 2), 0);
    assert_int_equal(teststore_do_one(&e->t, STORE_READ, 0, mem, sizeof(mem), 2), -EIO);
    assert_int_equal(teststore_do_one(&e->t, STORE_WRITE, 0, mem, sizeof(mem), 1), 0);
    disconnect_disk(e);
}

/* A write without room waits, and is done when there is. */
static void test_no_room_is_waited_for(void **state)
{
    struct env *e = *state;
    uint8_t mem[1024] = "x";
    int fd;

    if (!have_nbdkit())
        skip();
    fd = open(e->file, O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    (void)close(fd);
    serve(e, (const char *const[]){ "--filter=error", "memory", "8M", "error-pwrite=ENOSPC",
                                    "error-pwrite-rate=100%", "error-pwrite-file=@", NULL });
    connect_disk(e);
    for (unsigned i = 0; i < 3; i++)
        teststore_prepare(&e->t, i, STORE_WRITE, i * 4096, mem, sizeof(mem), 1);
    teststore_begin(&e->t, 3);
    while (!atomic_load(&e->t.held))
        teststore_rest();
    assert_int_equal(atomic_load(&e->t.nr_done), 0);
    assert_int_equal(unlink(e->file), 0);
    teststore_wait_done(&e->t);
    while (atomic_load(&e->t.held))
        teststore_rest();
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(e->t.reqs[i].error, 0);
    disconnect_disk(e);
}

static void test_no_room_is_an_error_for_who_gives_up(void **state)
{
    struct env *e = *state;
    uint8_t mem[1024] = "x";

    if (!have_nbdkit())
        skip();
    serve(e, (const char *const[]){ "--filter=error", "memory", "8M", "error-pwrite=ENOSPC",
                                    "error-pwrite-rate=100%", NULL });
    connect_disk(e);
    teststore_prepare(&e->t, 0, STORE_WRITE, 0, mem, sizeof(mem), 1);
    teststore_begin(&e->t, 1);
    while (!atomic_load(&e->t.held))
        teststore_rest();
    store_give_up(e->t.store, true);
    teststore_wait_done(&e->t);
    assert_int_equal(e->t.reqs[0].error, -ENOSPC);
    while (atomic_load(&e->t.held))
        teststore_rest();
    disconnect_disk(e);
}

/* All that is out ends when the server does, and all that comes after it. */
static void test_a_server_that_dies_gives_errors(void **state)
{
    struct env *e = *state;
    uint8_t mem[4096] = "x";

    if (!have_nbdkit())
        skip();
    serve(e, (const char *const[]){ "--filter=delay", "memory", "8M", "wdelay=3600", NULL });
    connect_disk(e);
    assert_int_equal(teststore_do_one(&e->t, STORE_READ, 0, mem, sizeof(mem), 1), 0);
    for (unsigned i = 0; i < TESTSTORE_REQS; i++)
        teststore_prepare(&e->t, i, STORE_WRITE, i * 4096, mem, sizeof(mem), i % TESTSTORE_IOV + 1);
    teststore_begin(&e->t, TESTSTORE_REQS);
    stop(e);
    teststore_wait_done(&e->t);
    for (unsigned i = 0; i < TESTSTORE_REQS; i++)
        assert_int_equal(e->t.reqs[i].error, -EIO);
    assert_int_equal(teststore_do_one(&e->t, STORE_READ, 0, mem, sizeof(mem), 1), -EIO);
    assert_int_equal(teststore_do_one(&e->t, STORE_FLUSH, 0, NULL, 0, 0), -EIO);
    disconnect_disk(e);
    assert_false(atomic_load(&e->t.was_held));
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_data_with_all_that_a_server_can_do),
        TEST(test_data_in_small_pieces),
        TEST(test_data_without_zeroes_and_fua),
        TEST(test_write_through_by_fua),
        TEST(test_write_through_by_a_flush_where_there_is_no_fua),
        TEST(test_close_flushes),
        TEST(test_what_is_no_disk_is_refused),
        TEST(test_errors_are_the_requests),
        TEST(test_no_room_is_waited_for),
        TEST(test_no_room_is_an_error_for_who_gives_up),
        TEST(test_a_server_that_dies_gives_errors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
