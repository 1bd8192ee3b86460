/* SPDX-License-Identifier: Apache-2.0 */
/* Clients of a socket and other visitors of a channel: they come, go, come again, and do not
 * listen.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "backend/backend.h"
#include "lib/log.h"

#define LIMIT_MS 60000
#define BLOCK    4096u

/* A device: it takes what comes as long as it has room, and counts what it is told. */
struct dev {
    struct lock machine;
    struct chr *c;
    size_t room, nr;
    unsigned nr_changes;
    char got[65536];
};

struct env {
    struct dev d;
    char dir[32], path[64];
};

static size_t dev_rx(void *arg, const uint8_t *buf, size_t bytes)
{
    struct dev *d = arg;
    size_t nr = MIN(bytes, d->room);

    assert_held(&d->machine);
    memcpy(d->got + d->nr, buf, nr);
    d->nr += nr;
    d->room -= nr;
    return nr;
}

static void dev_changed(void *arg)
{
    struct dev *d = arg;

    assert_held(&d->machine);
    d->nr_changes++;
}

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    log_set_level(LOG_ERROR - 1);
    (void)snprintf(e->dir, sizeof(e->dir), "/tmp/doppel-visitor-XXXXXX");
    assert_non_null(mkdtemp(e->dir));
    (void)snprintf(e->path, sizeof(e->path), "%s/s", e->dir);
    lock_init(&e->d.machine, LOCK_MACHINE);
    e->d.room = sizeof(e->d.got);
    *state = e;
    return 0;
}

static int teardown(void **state)
{
    struct env *e = *state;

    (void)unlink(e->path);
    assert_int_equal(rmdir(e->dir), 0);
    lock_destroy(&e->d.machine);
    free(e);
    return 0;
}

static void dev_connect(struct env *e, struct chr *c)
{
    assert_non_null(c);
    e->d.c = c;
    chr_connect(c, &e->d.machine, dev_rx, &e->d);
    chr_watch(c, dev_changed);
}

static void dev_close(struct env *e)
{
    chr_connect(e->d.c, NULL, NULL, NULL);
    chr_close(e->d.c);
}

static struct chr *open_socket(struct env *e, enum chr_keep keep)
{
    dev_connect(e, chr_open_socket(e->path, keep));
    return e->d.c;
}

/* Waits for what `done` says, as long as only a failure takes. */
static bool wait_for(struct env *e, bool (*done)(struct env *e, size_t arg), size_t arg)
{
    for (unsigned ms = 0; ms < LIMIT_MS; ms++) {
        bool is;

        lock_take(&e->d.machine);
        is = done(e, arg);
        lock_drop(&e->d.machine);
        if (is)
            return true;
        (void)usleep(1000);
    }
    return false;
}

static bool has_got(struct env *e, size_t nr)
{
    return e->d.nr >= nr;
}

static bool is_attended(struct env *e, size_t want)
{
    return chr_attended(e->d.c) == !!want;
}

static bool was_told(struct env *e, size_t nr)
{
    return e->d.nr_changes >= nr;
}

static unsigned nr_changes(struct env *e)
{
    unsigned nr;

    lock_take(&e->d.machine);
    nr = e->d.nr_changes;
    lock_drop(&e->d.machine);
    return nr;
}

static int connect_to(const struct env *e)
{
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    (void)snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", e->path);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    return fd;
}

static size_t read_for(int fd, char *buf, size_t bytes)
{
    size_t nr = 0;

    while (nr < bytes) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        ssize_t n = poll(&p, 1, LIMIT_MS) > 0 ? read(fd, buf + nr, bytes - nr) : 0;

        if (n <= 0)
            break;
        nr += (size_t)n;
    }
    return nr;
}

static void expect_text(int fd, const char *text)
{
    char buf[64] = "";

    assert_int_equal(read_for(fd, buf, strlen(text)), strlen(text));
    assert_string_equal(buf, text);
}

static void write_text(struct chr *c, const char *text)
{
    chr_write(c, (const uint8_t *)text, strlen(text));
}

static void test_client_comes_goes_and_comes_again(void **state)
{
    struct env *e = *state;
    struct chr *c = open_socket(e, CHR_KEEP_LAST);
    struct stat st;

    assert_int_equal(stat(e->path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    for (unsigned i = 1; i <= 3; i++) {
        unsigned told;
        int fd;

        assert_false(chr_attended(c));
        write_text(c, "before ");
        fd = connect_to(e);
        expect_text(fd, "before ");
        assert_true(chr_attended(c));
        write_text(c, "and now");
        expect_text(fd, "and now");
        assert_int_equal(write(fd, "abc", 3), 3);
        assert_true(wait_for(e, has_got, 3 * i));
        told = nr_changes(e);
        (void)close(fd);
        assert_true(wait_for(e, is_attended, false));
        assert_true(wait_for(e, was_told, told + 1));
    }
    assert_memory_equal(e->d.got, "abcabcabc", 9);
    dev_close(e);
    assert_int_equal(stat(e->path, &st), -1); /* removed at the end */
}

static void test_port_keeps_nothing_for_the_next_client(void **state)
{
    struct env *e = *state;
    struct chr *c = open_socket(e, CHR_KEEP_NOTHING);
    int fd;

    assert_int_equal(chr_offer(c, (const uint8_t *)"nobody", 6), 6);
    fd = connect_to(e);
    assert_true(wait_for(e, is_attended, true));
    write_text(c, "you");
    expect_text(fd, "you");
    (void)close(fd);
    dev_close(e);
}

static void test_second_client_is_turned_away(void **state)
{
    struct env *e = *state;
    struct chr *c = open_socket(e, CHR_KEEP_LAST);
    int fd = connect_to(e), other;
    char byte;

    assert_true(wait_for(e, is_attended, true));
    other = connect_to(e);
    assert_int_equal(read_for(other, &byte, 1), 0); /* closed */
    write_text(c, "still");
    expect_text(fd, "still");
    (void)close(other);
    (void)close(fd);
    dev_close(e);
}

/* Nothing waits, and nothing grows. */
static void test_console_drops_what_a_client_does_not_read(void **state)
{
    struct env *e = *state;
    struct chr *c = open_socket(e, CHR_KEEP_LAST);
    uint8_t block[BLOCK];
    char *buf = malloc(MIB(2));
    int fd = connect_to(e);
    size_t nr;

    assert_true(wait_for(e, is_attended, true));
    memset(block, 'x', sizeof(block));
    for (unsigned i = 0; i < MIB(8) / BLOCK; i++)
        chr_write(c, block, sizeof(block));
    write_text(c, "END");
    dev_close(e);
    nr = read_for(fd, buf, MIB(2));
    assert_true(nr >= BLOCK && nr < MIB(2));
    (void)close(fd);
    free(buf);
}

static void test_port_is_told_of_room(void **state)
{
    struct env *e = *state;
    struct chr *c = open_socket(e, CHR_KEEP_NOTHING);
    uint8_t block[BLOCK];
    char *buf = malloc(MIB(8));
    int fd = connect_to(e);
    size_t sent = 0, got = 0;
    unsigned told = 0;

    assert_true(wait_for(e, is_attended, true));
    memset(block, 'x', sizeof(block));
    for (;;) {
        size_t nr;

        told = nr_changes(e);
        nr = chr_offer(c, block, sizeof(block));
        sent += nr;
        assert_true(sent < MIB(8));
        if (nr < sizeof(block))
            break;
        (void)usleep(100);
    }
    /* It may still be moving bytes into the socket, so what is told may be of that. Read until all
     * is there. */
    got = read_for(fd, buf, sent);
    assert_int_equal(got, sent);
    assert_true(wait_for(e, was_told, told + 1));
    assert_int_equal(chr_offer(c, block, sizeof(block)), sizeof(block));
    (void)close(fd);
    dev_close(e);
    free(buf);
}

/* A program that says it all and leaves: the device gets it, at its own pace. */
static void test_last_words_are_heard(void **state)
{
    struct env *e = *state;
    size_t bytes = sizeof(e->d.got);
    char *text = malloc(bytes);
    int fd;

    e->d.room = 0;
    (void)open_socket(e, CHR_KEEP_NOTHING);
    fd = connect_to(e);
    memset(text, 'w', bytes);
    assert_int_equal(write(fd, text, bytes), bytes);
    (void)close(fd);
    for (unsigned i = 1; i <= 4; i++) {
        lock_take(&e->d.machine);
        e->d.room = bytes / 4;
        chr_accept(e->d.c);
        lock_drop(&e->d.machine);
        assert_true(wait_for(e, has_got, i * bytes / 4));
    }
    assert_memory_equal(e->d.got, text, bytes);
    assert_true(wait_for(e, is_attended, false));
    dev_close(e);
    free(text);
}

/* ... but it does not keep the next one out. */
static void test_next_client_need_not_wait_for_last_words(void **state)
{
    struct env *e = *state;
    struct chr *c;
    char text[3 * BLOCK] = "";
    int fd;

    e->d.room = 0;
    c = open_socket(e, CHR_KEEP_NOTHING);
    fd = connect_to(e);
    assert_int_equal(write(fd, text, sizeof(text)), sizeof(text));
    assert_true(wait_for(e, is_attended, true));
    (void)close(fd);
    fd = connect_to(e);
    /* Until it is let in, what is written is for the one before. */
    for (unsigned ms = 0; ms < LIMIT_MS; ms++) {
        struct pollfd p = { .fd = fd, .events = POLLIN };

        write_text(c, "!");
        if (poll(&p, 1, 1) > 0)
            break;
    }
    expect_text(fd, "!");
    (void)close(fd);
    dev_close(e);
}

static void test_client_that_says_no_more_may_listen(void **state)
{
    struct env *e = *state;
    struct chr *c = open_socket(e, CHR_KEEP_NOTHING);
    int fd = connect_to(e);

    assert_int_equal(write(fd, "question", 8), 8);
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    assert_true(wait_for(e, has_got, 8));
    write_text(c, "answer");
    expect_text(fd, "answer");
    (void)close(fd);
    assert_true(wait_for(e, is_attended, false));
    dev_close(e);
}

static void test_paths_that_are_not_ours_are_left_alone(void **state)
{
    struct env *e = *state;
    char deep[256];
    int fd;

    (void)open_socket(e, CHR_KEEP_LAST);
    assert_null(chr_open_socket(e->path, CHR_KEEP_LAST)); /* somebody listens */
    dev_close(e);
    fd = open(e->path, O_CREAT | O_WRONLY, 0600);
    assert_null(chr_open_socket(e->path, CHR_KEEP_LAST)); /* a file */
    assert_int_equal(access(e->path, F_OK), 0);
    (void)close(fd);
    memset(deep, 'd', sizeof(deep) - 1);
    deep[sizeof(deep) - 1] = 0;
    assert_null(chr_open_socket(deep, CHR_KEEP_LAST));
    assert_null(chr_open_socket("/nonexistent/s", CHR_KEEP_LAST));
}

/* ---- visitors of channels that are no sockets ---- */

static void test_visitor_of_a_file_sees_what_goes_there(void **state)
{
    struct env *e = *state;
    struct chr *c = chr_open_file(e->path);
    char buf[32] = "";
    int pair[2], file;

    dev_connect(e, c);
    assert_true(chr_attended(c));
    write_text(c, "early ");
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(chr_visit(c, pair[0], "hello\n"), 0);
    assert_int_equal(chr_visit(c, pair[0], NULL), -EBUSY);
    expect_text(pair[1], "hello\nearly ");
    write_text(c, "late");
    expect_text(pair[1], "late");
    assert_int_equal(write(pair[1], "in", 2), 2);
    assert_true(wait_for(e, has_got, 2));
    (void)close(pair[1]);
    dev_close(e);
    file = open(e->path, O_RDONLY);
    assert_int_equal(read_for(file, buf, sizeof(buf)), 10);
    assert_string_equal(buf, "early late");
    (void)close(file);
}

static void test_visitor_of_nothing_is_the_only_one(void **state)
{
    struct env *e = *state;
    struct chr *c = chr_open_null();
    int pair[2];

    dev_connect(e, c);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(chr_visit(c, pair[0], NULL), 0);
    write_text(c, "out");
    expect_text(pair[1], "out");
    dev_close(e);
    expect_text(pair[1], ""); /* the end */
    (void)close(pair[1]);
}

static void test_terminals_have_no_visitors(void **state)
{
    struct env *e = *state;
    struct chr *c = chr_open_pty("serial port");
    int pair[2];

    dev_connect(e, c);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(chr_visit(c, pair[0], NULL), -EOPNOTSUPP);
    (void)close(pair[0]);
    (void)close(pair[1]);
    dev_close(e);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_client_comes_goes_and_comes_again),
        T(test_port_keeps_nothing_for_the_next_client),
        T(test_second_client_is_turned_away),
        T(test_console_drops_what_a_client_does_not_read),
        T(test_port_is_told_of_room),
        T(test_last_words_are_heard),
        T(test_next_client_need_not_wait_for_last_words),
        T(test_client_that_says_no_more_may_listen),
        T(test_paths_that_are_not_ours_are_left_alone),
        T(test_visitor_of_a_file_sees_what_goes_there),
        T(test_visitor_of_nothing_is_the_only_one),
        T(test_terminals_have_no_visitors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
