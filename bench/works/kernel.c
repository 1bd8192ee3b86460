// SPDX-License-Identifier: Apache-2.0
/* What the guest's kernel does: system calls, switches, processes, page faults, signals, files. In
 * the current folder. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "bench.h"

enum {
    GETPIDS = 2000,
    CLOCKS = 4000,
    PINGS = 100,
    FORKS = 8,
    EXECS = 2,
    MMAP_PAGES = 1024,
    SEGVS = 200,
    IOS = 64,
    IO_BYTES = 4096,
    FILES = 50
};

/* What the works' prepare leaves for them; a process runs one work. */
static int ping[2], pong[2], file;
static uint8_t *forbidden;
static volatile uint64_t nr_segvs;

static uint64_t getpids(void)
{
    long pid = syscall(SYS_getpid);
    uint64_t same = 0;

    for (int i = 0; i < GETPIDS; i++)
        same += syscall(SYS_getpid) == pid;
    return same;
}

/* As programs call it: where the kernel trusts its clock this stays in user mode. Time does not go
 * backwards. */
static uint64_t clocks(void)
{
    struct timespec t, last = { 0 };
    uint64_t forward = 0;

    for (int i = 0; i < CLOCKS; i++) {
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        forward += t.tv_sec > last.tv_sec || (t.tv_sec == last.tv_sec && t.tv_nsec >= last.tv_nsec);
        last = t;
    }
    return forward;
}

static void prepare_pipe(void)
{
    uint8_t b;

    if (pipe(ping) < 0 || pipe(pong) < 0)
        fail("pipe");
    switch (fork()) {
    case -1:
        fail("fork");
    case 0:
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        while (read(ping[0], &b, 1) == 1) {
            b++;
            if (write(pong[1], &b, 1) != 1)
                break;
        }
        _exit(0);
    default:
        break;
    }
}

/* A byte there and one back, between two processes. */
static uint64_t ping_pong(void)
{
    uint64_t sum = 0;

    for (int i = 0; i < PINGS; i++) {
        uint8_t b = (uint8_t)i;

        if (write(ping[1], &b, 1) != 1 || read(pong[0], &b, 1) != 1)
            fail("ping-pong");
        sum += b;
    }
    return sum;
}

static uint64_t reap(pid_t pid)
{
    int status;

    if (pid < 0)
        fail("fork");
    if (waitpid(pid, &status, 0) != pid)
        fail("waitpid");
    return WIFEXITED(status) ? (uint64_t)WEXITSTATUS(status) : 1000;
}

static uint64_t forks(void)
{
    uint64_t sum = 0;

    for (int i = 0; i < FORKS; i++) {
        pid_t pid = fork();

        if (pid == 0)
            _exit(i + 1);
        sum += reap(pid);
    }
    return sum;
}

/* This program again: it ends at once. */
static uint64_t execs(void)
{
    uint64_t sum = 0;

    for (int i = 0; i < EXECS; i++) {
        pid_t pid = fork();

        if (pid == 0) {
            (void)execl("/proc/self/exe", "work", "nothing", (char *)NULL);
            _exit(9);
        }
        sum += reap(pid) + 1;
    }
    return sum;
}

/* Each page is touched once, then all are given back. */
static uint64_t mmap_touch(void)
{
    uint64_t bytes = MMAP_PAGES * 4096, sum = 0;
    uint8_t *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        fail("mmap");
    (void)madvise(p, bytes, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < bytes; i += 4096)
        sum += ++p[i];
    (void)munmap(p, bytes);
    return sum;
}

/* Over the load below, which is two bytes long: mov (%rax), %eax. */
static void on_segv(int sig, siginfo_t *info, void *ctx)
{
    ucontext_t *uc = ctx;

    (void)sig;
    nr_segvs += info->si_addr == forbidden;
    uc->uc_mcontext.gregs[REG_RIP] += 2;
}

static void prepare_segv(void)
{
    struct sigaction sa = { .sa_sigaction = on_segv, .sa_flags = SA_SIGINFO };

    forbidden = pages(4096, PROT_NONE);
    if (sigaction(SIGSEGV, &sa, NULL) < 0)
        fail("sigaction");
}

static uint64_t segvs(void)
{
    nr_segvs = 0;
    for (int i = 0; i < SEGVS; i++) {
        uint64_t v = (uintptr_t)forbidden;

        __asm__ volatile("movl (%%rax), %%eax" : "+a"(v) : : "memory");
    }
    return nr_segvs;
}

static void prepare_file(void)
{
    static uint8_t buf[IO_BYTES];

    file = open(".", O_TMPFILE | O_RDWR, 0600);
    if (file < 0)
        fail("tmpfs file");
    memset(buf, 7, sizeof(buf));
    for (int i = 0; i < IOS; i++)
        if (pwrite(file, buf, IO_BYTES, (off_t)i * IO_BYTES) != IO_BYTES)
            fail("write");
}

static uint64_t file_write(void)
{
    static uint8_t buf[IO_BYTES];

    for (int i = 0; i < IOS; i++) {
        buf[5] = (uint8_t)i;
        if (pwrite(file, buf, IO_BYTES, (off_t)i * IO_BYTES) != IO_BYTES)
            fail("write");
    }
    return IOS;
}

static uint64_t file_read(void)
{
    static uint8_t buf[IO_BYTES];
    uint64_t sum = 0;

    for (int i = 0; i < IOS; i++) {
        if (pread(file, buf, IO_BYTES, (off_t)i * IO_BYTES) != IO_BYTES)
            fail("read");
        sum += buf[i] + buf[IO_BYTES - 1];
    }
    return sum;
}

static uint64_t create(void)
{
    for (int i = 0; i < FILES; i++) {
        char name[] = "bench-file-00";
        int fd;

        name[11] = (char)('0' + i / 10);
        name[12] = (char)('0' + i % 10);
        fd = open(name, O_CREAT | O_EXCL | O_WRONLY, 0600);
        if (fd < 0 || close(fd) < 0 || unlink(name) < 0)
            fail("create");
    }
    return FILES;
}

const struct work kernel_works[] = {
    { "getpid", "kernel", GETPIDS, getpids, NULL, NULL },
    { "clock", "kernel", CLOCKS, clocks, NULL, NULL },
    { "ping-pong", "kernel", PINGS, ping_pong, prepare_pipe, NULL },
    { "fork", "kernel", FORKS, forks, NULL, NULL },
    { "exec", "kernel", EXECS, execs, NULL, NULL },
    { "mmap", "kernel", MMAP_PAGES, mmap_touch, NULL, NULL },
    { "segv", "kernel", SEGVS, segvs, prepare_segv, NULL },
    { "tmpfs-write", "kernel", IOS, file_write, prepare_file, NULL },
    { "tmpfs-read", "kernel", IOS, file_read, prepare_file, NULL },
    { "create", "kernel", FILES, create, NULL, NULL },
    { 0 },
};
