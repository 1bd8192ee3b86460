/* SPDX-License-Identifier: Apache-2.0 */
/* The process that serves an image, once it is confined: what it cannot do any more, and what it
 * still can. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/store_child.h"

#define X32 0x40000000L

static bool refused(long result)
{
    return result == -1 && errno == EPERM;
}

static bool others_are_safe(pid_t other)
{
    struct rlimit none = { 0, 0 };

    return refused(kill(other, 0)) && refused(syscall(SYS_tkill, other, 0)) &&
           refused(syscall(SYS_tgkill, other, other, 0)) &&
           refused(syscall(SYS_rt_sigqueueinfo, other, 0, NULL)) &&
           refused(syscall(SYS_rt_tgsigqueueinfo, other, other, 0, NULL)) &&
           refused(syscall(SYS_prlimit64, other, RLIMIT_CPU, &none, NULL));
}

static bool no_way_out(void)
{
    return refused(socket(AF_UNIX, SOCK_STREAM, 0)) && refused(syscall(SYS_io_uring_setup, 1, 0)) &&
           refused(syscall(X32 + SYS_socket, AF_UNIX, SOCK_STREAM, 0)) &&
           refused(syscall(X32 + SYS_kill, getppid(), 0));
}

static bool still_can(void)
{
    struct rlimit limit;

    return raise(0) == 0 && syscall(SYS_tgkill, getpid(), getpid(), 0) == 0 &&
           getrlimit(RLIMIT_NOFILE, &limit) == 0 && open("/dev/null", O_RDONLY) >= 0;
}

static bool has_uring(void)
{
    /* Its argument is bad: who may call gets to hear that. */
    return syscall(SYS_io_uring_setup, 1, NULL) == -1 && errno != EPERM;
}

static void test_confined(void **state)
{
    pid_t self = getpid(), pid = fork();
    int status;

    (void)state;
    if (pid == 0) {
        if (!store_sandbox_enter(-1, false))
            _exit(1);
        _exit(!others_are_safe(self) ? 2 : !no_way_out() ? 3 : !still_can() ? 4 : 0);
    }
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* Who asks for aio=io_uring gets it, and nothing else with it. */
static void test_with_uring(void **state)
{
    pid_t self = getpid(), pid;
    int status;

    (void)state;
    if (!has_uring())
        skip(); /* the host forbids it */
    pid = fork();
    if (pid == 0) {
        if (!store_sandbox_enter(-1, true))
            _exit(1);
        _exit(!others_are_safe(self) ? 2 : !has_uring() ? 3 : !still_can() ? 4 : 0);
    }
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_confined),
                                        cmocka_unit_test(test_with_uring) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
