/* SPDX-License-Identifier: Apache-2.0 */
/* What a disk's ring can be asked for, by whoever has taken over its thread. */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/store_impl.h"

/* The disk's ring is what its engine's data begin with. */
static struct io_uring *ring_of(struct store *d)
{
    return d->engine_data;
}

static int result_of(struct io_uring *ring)
{
    struct io_uring_cqe *cqe;
    int res;

    assert_true(io_uring_submit(ring) >= 0);
    assert_int_equal(io_uring_wait_cqe(ring, &cqe), 0);
    res = cqe->res;
    io_uring_cqe_seen(ring, cqe);
    return res;
}

static void test_ring_of_a_disk_opens_no_socket_and_no_file(void **state)
{
    struct store d = { .wake_fd = -1 };
    struct io_uring_sqe *sqe;
    char byte = 1;
    struct iovec iov = { &byte, 1 };
    int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);

    (void)state;
    if (store_uring.open(&d) < 0)
        skip();
    sqe = io_uring_get_sqe(ring_of(&d));
    io_uring_prep_openat(sqe, AT_FDCWD, "/dev/null", O_RDONLY, 0);
    assert_int_equal(result_of(ring_of(&d)), -EACCES);
    sqe = io_uring_get_sqe(ring_of(&d));
    io_uring_prep_socket(sqe, AF_INET, SOCK_STREAM, 0, 0);
    assert_int_equal(result_of(ring_of(&d)), -EACCES);
    sqe = io_uring_get_sqe(ring_of(&d));
    io_uring_prep_readv(sqe, zero, &iov, 1, 0);
    assert_int_equal(result_of(ring_of(&d)), 1);
    assert_int_equal(byte, 0);
    store_uring.close(&d);
    (void)close(zero);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ring_of_a_disk_opens_no_socket_and_no_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
