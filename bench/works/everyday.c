// SPDX-License-Identifier: Apache-2.0
/*
 * Everyday commands, from Debian's packages in the tree that tools/debian-tree makes: the guest's
 * root, and natively a chroot. In the current folder. A command's output is what is summed.
 */
#include <fcntl.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

/* What commands write beside their standard output. */
#define PRODUCT "bench-product"
#define OUTPUT  "bench-output"

static uint64_t sum_file(const char *name, uint64_t sum)
{
    static uint8_t buf[65536];
    int fd = open(name, O_RDONLY);
    ssize_t n;

    if (fd < 0)
        return sum;
    /* FNV-1a, by words where there are some: the sum is in the time that is measured. */
    while ((n = read(fd, buf, sizeof(buf))) > 0) {
        ssize_t i = 0;

        for (; i + 8 <= n; i += 8) {
            uint64_t v;

            memcpy(&v, buf + i, 8);
            sum = (sum ^ v) * 0x100000001b3;
        }
        for (; i < n; i++)
            sum = (sum ^ buf[i]) * 0x100000001b3;
    }
    (void)close(fd);
    return sum;
}

static uint64_t command(int times, const char *const *argv)
{
    static char *const env[] = { "PATH=/usr/bin:/bin", "LC_ALL=C",         "HOME=/",
                                 "TMPDIR=.",           "PYTHONHASHSEED=0", NULL };
    posix_spawn_file_actions_t redirect;
    uint64_t sum = 0xcbf29ce484222325;

    /* Another work may have left it. */
    (void)unlink(PRODUCT);
    (void)posix_spawn_file_actions_init(&redirect);
    (void)posix_spawn_file_actions_addopen(&redirect, 0, "/dev/null", O_RDONLY, 0);
    (void)posix_spawn_file_actions_addopen(&redirect, 1, OUTPUT, O_WRONLY | O_CREAT | O_TRUNC,
                                           0600);
    for (int i = 0; i < times; i++) {
        int status;
        pid_t pid;

        if (posix_spawn(&pid, argv[0], &redirect, NULL, (char *const *)argv, env) != 0)
            fail(argv[0]);
        if (waitpid(pid, &status, 0) != pid || status != 0)
            _exit(3);
    }
    (void)posix_spawn_file_actions_destroy(&redirect);
    return sum_file(PRODUCT, sum_file(OUTPUT, sum));
}

#define COMMAND(fn, times, ...)                                            \
    static uint64_t fn(void)                                               \
    {                                                                      \
        return command(times, (const char *const[]){ __VA_ARGS__, NULL }); \
    }

COMMAND(run_true, 50, "/bin/true")
COMMAND(shell, 1, "/bin/sh", "/bench/loop.sh")
COMMAND(python_start, 4, "/usr/bin/python3", "-c", "print(1)")
COMMAND(python_loop, 1, "/usr/bin/python3", "/bench/loop.py")
COMMAND(gcc_small, 1, "/usr/bin/gcc", "-O2", "-o", PRODUCT, "/bench/small.c")
COMMAND(gcc_big, 1, "/usr/bin/gcc", "-O2", "-c", "-o", PRODUCT, "/bench/big.c")
COMMAND(xz, 1, "/usr/bin/xz", "-6", "-T1", "-c", "/bench/data")
COMMAND(openssl, 1, "/bin/sh", "/bench/openssl.sh")

const struct work everyday_works[] = {
    { "true", "everyday", 50, run_true, NULL, NULL },
    { "shell", "everyday", 1, shell, NULL, NULL },
    { "python-start", "everyday", 4, python_start, NULL, NULL },
    { "python-loop", "everyday", 1, python_loop, NULL, NULL },
    { "gcc-small", "everyday", 1, gcc_small, NULL, NULL },
    { "gcc-big", "everyday", 1, gcc_big, NULL, NULL },
    { "xz", "everyday", 1, xz, NULL, NULL },
    { "openssl", "everyday", 1, openssl, NULL, NULL },
    { 0 },
};
