/* SPDX-License-Identifier: Apache-2.0 */
/* Channels: bytes come through, a device that has no room gets them later, failures are survived.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/backend.h"

#define LIMIT_MS 60000

/* A device with room for a few bytes. */
struct dev {
    struct lock machine;
    size_t room, nr;
    char got[4096];
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

/* Waits until the device has that many bytes in all. */
static bool dev_wait(struct dev *d, size_t nr)
{
    for (unsigned ms = 0; ms < LIMIT_MS; ms++) {
        size_t have;

        lock_take(&d->machine);
        have = d->nr;
        lock_drop(&d->machine);
        if (have >= nr)
            return true;
        (void)usleep(1000);
    }
    return false;
}

static void dev_give_room(struct dev *d, struct chr *c, size_t room)
{
    lock_take(&d->machine);
    d->room = room;
    chr_accept(c);
    lock_drop(&d->machine);
}

static void write_text(struct chr *c, const char *text)
{
    chr_write(c, (const uint8_t *)text, strlen(text));
}

/* Reads that many bytes, or less at the end of time. */
static size_t read_for(int fd, char *buf, size_t bytes)
{
    size_t nr = 0;

    while (nr < bytes) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        ssize_t n;

        if (poll(&p, 1, LIMIT_MS) <= 0)
            break;
        n = read(fd, buf + nr, bytes - nr);
        if (n <= 0)
            break;
        nr += (size_t)n;
    }
    return nr;
}

static void test_null_takes_everything(void **state)
{
    struct chr *c = chr_open_null();

    (void)state;
    assert_non_null(c);
    write_text(c, "into the void");
    chr_accept(c);
    chr_flush(c);
    assert_false(chr_lost_output(c));
    chr_close(c);
    chr_close(NULL);
}

static void test_file_has_what_was_written(void **state)
{
    char path[] = "/tmp/doppel-chr-test-XXXXXX", buf[64] = "";
    int fd = mkstemp(path);
    struct chr *c = chr_open_file(path);

    (void)state;
    assert_non_null(c);
    write_text(c, "hello ");
    write_text(c, "world");
    chr_close(c);
    assert_int_equal(read(fd, buf, sizeof(buf)), 11);
    assert_string_equal(buf, "hello world");
    (void)close(fd);
    (void)unlink(path);
}

static void test_file_takes_more_than_the_buffer(void **state)
{
    char path[] = "/tmp/doppel-chr-test-XXXXXX";
    int fd = mkstemp(path);
    struct chr *c = chr_open_file(path);
    uint8_t block[1000];
    off_t bytes = 0;

    (void)state;
    memset(block, 'x', sizeof(block));
    for (unsigned i = 0; i < 3000; i++) {
        chr_write(c, block, sizeof(block));
        if (i % 500 == 499) /* else the disk would have to be as fast as memcpy() */
            while (lseek(fd, 0, SEEK_END) < (off_t)((i + 1) * sizeof(block)))
                (void)usleep(1000);
        bytes += (off_t)sizeof(block);
    }
    chr_close(c);
    assert_int_equal(lseek(fd, 0, SEEK_END), bytes);
    (void)close(fd);
    (void)unlink(path);
}

static void test_full_disk_is_survived(void **state)
{
    struct chr *c = chr_open_file("/dev/full");

    (void)state;
    assert_non_null(c);
    for (unsigned i = 0; i < 10; i++)
        write_text(c, "lost\n");
    chr_flush(c);
    assert_false(chr_lost_output(c)); /* a warning only: see backend.h */
    write_text(c, "lost too\n");
    chr_close(c);
}

static void test_file_that_cannot_be_is_refused(void **state)
{
    (void)state;
    assert_null(chr_open_file("/nonexistent/file"));
    assert_null(chr_open_file("/tmp"));
}

static void test_pty_carries_both_ways(void **state)
{
    struct dev d = { .room = 4 };
    struct chr *c = chr_open_pty("serial port");
    char buf[16] = "";
    int fd;

    (void)state;
    assert_non_null(c);
    lock_init(&d.machine, LOCK_MACHINE);
    fd = open(chr_pty_name(c), O_RDWR | O_NOCTTY);
    assert_true(fd >= 0);
    write_text(c, "login\r\n");
    assert_int_equal(read_for(fd, buf, 7), 7);
    assert_string_equal(buf, "login\r\n"); /* nothing translated */
    chr_connect(c, &d.machine, dev_rx, &d);
    assert_int_equal(write(fd, "abcdef\r", 7), 7);
    assert_true(dev_wait(&d, 4));
    dev_give_room(&d, c, 100);
    assert_true(dev_wait(&d, 7));
    assert_memory_equal(d.got, "abcdef\r", 7);
    (void)close(fd);
    chr_connect(c, NULL, NULL, NULL);
    chr_close(c);
    lock_destroy(&d.machine);
}

static void test_pty_without_reader_does_not_block(void **state)
{
    struct chr *c = chr_open_pty("serial port");
    uint8_t block[4096];

    (void)state;
    memset(block, 'x', sizeof(block));
    for (unsigned i = 0; i < 1024; i++)
        chr_write(c, block, sizeof(block));
    assert_false(chr_lost_output(c));
    chr_close(c);
}

/* ---- standard input and output, replaced by pipes while a test runs ---- */

struct redirect {
    int saved[2];
    int in, out; /* our ends; -1: closed */
};

static struct redirect redirect_pipes(void)
{
    struct redirect r;
    int in[2], out[2];

    (void)fflush(stdout);
    assert_int_equal(pipe(in), 0);
    assert_int_equal(pipe(out), 0);
    r = (struct redirect){ .saved = { dup(0), dup(1) }, .in = in[1], .out = out[0] };
    assert_true(dup2(in[0], 0) == 0 && dup2(out[1], 1) == 1);
    (void)close(in[0]);
    (void)close(out[1]);
    return r;
}

static void redirect_undo(struct redirect *r)
{
    (void)dup2(r->saved[0], 0);
    (void)dup2(r->saved[1], 1);
    (void)close(r->saved[0]);
    (void)close(r->saved[1]);
    if (r->in >= 0)
        (void)close(r->in);
    if (r->out >= 0)
        (void)close(r->out);
}

static void no_escape(void *arg, int key)
{
    (void)arg, (void)key;
    abort(); /* only a terminal has an escape key */
}

static void test_stdio_passes_pipes_through(void **state)
{
    struct redirect r = redirect_pipes();
    struct chr *c = chr_open_stdio(no_escape, NULL);
    struct dev d = { .room = 100 };
    char buf[16] = "";
    bool came, left;

    (void)state;
    lock_init(&d.machine, LOCK_MACHINE);
    chr_connect(c, &d.machine, dev_rx, &d);
    came = write(r.in, "a\001xb", 4) == 4 && dev_wait(&d, 4);
    (void)close(r.in); /* end of input is not the end of output */
    r.in = -1;
    (void)usleep(20000);
    write_text(c, "out");
    left = read_for(r.out, buf, 3) == 3;
    chr_connect(c, NULL, NULL, NULL);
    chr_close(c);
    redirect_undo(&r);
    assert_true(came && left);
    assert_memory_equal(d.got, "a\001xb", 4);
    assert_string_equal(buf, "out");
    lock_destroy(&d.machine);
}

static void test_stdio_closed_output_is_reported_not_fatal(void **state)
{
    struct redirect r = redirect_pipes();
    struct chr *c = chr_open_stdio(no_escape, NULL);
    bool lost;

    (void)state;
    (void)close(r.out);
    r.out = -1;
    write_text(c, "nobody reads this");
    chr_flush(c);
    lost = chr_lost_output(c);
    chr_close(c);
    redirect_undo(&r);
    assert_true(lost);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_null_takes_everything),
        cmocka_unit_test(test_file_has_what_was_written),
        cmocka_unit_test(test_file_takes_more_than_the_buffer),
        cmocka_unit_test(test_full_disk_is_survived),
        cmocka_unit_test(test_file_that_cannot_be_is_refused),
        cmocka_unit_test(test_pty_carries_both_ways),
        cmocka_unit_test(test_pty_without_reader_does_not_block),
        cmocka_unit_test(test_stdio_passes_pipes_through),
        cmocka_unit_test(test_stdio_closed_output_is_reported_not_fatal),
    };

    (void)signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
