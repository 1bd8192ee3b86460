/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs in the guest of tests/boot/vsock: standard input and output on an AF_VSOCK stream.
 *
 *   vsock connect PORT     to the host's port: what comes goes to standard output, then standard
 *                          input is sent, then the end
 *   vsock serve PORT NR    so many connections one after the other, each gets back what it sent,
 *                          as one; prints the bytes of all of them
 *   vsock many PORT NR     so many connections to the host at once; each sends its number as a
 *                          byte and waits for it; prints how many got it
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#define BLOCK    4096
#define MANY_MAX 256
#define ECHO_MAX (4 << 20)

static int fail(const char *what)
{
    perror(what);
    return 1;
}

static int write_all(int fd, const char *buf, size_t bytes)
{
    while (bytes) {
        ssize_t n = write(fd, buf, bytes);

        if (n <= 0)
            return -1;
        buf += n;
        bytes -= (size_t)n;
    }
    return 0;
}

static long copy(int from, int to)
{
    char buf[BLOCK];
    long all = 0;
    ssize_t n;

    while ((n = read(from, buf, sizeof(buf))) > 0) {
        if (write_all(to, buf, (size_t)n))
            return -1;
        all += n;
    }
    return n < 0 ? -1 : all;
}

static int call(unsigned port)
{
    struct sockaddr_vm to = { .svm_family = AF_VSOCK,
                              .svm_cid = VMADDR_CID_HOST,
                              .svm_port = port };
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
        return -1;
    return fd;
}

static int do_connect(unsigned port)
{
    int fd = call(port);

    if (fd < 0)
        return fail("connect");
    if (copy(fd, 1) < 0 || copy(0, fd) < 0 || shutdown(fd, SHUT_WR) < 0)
        return fail("copy");
    return 0;
}

/* All of it, then all back: the other one need not read while it writes. */
static long echo(int fd)
{
    char *buf = malloc(ECHO_MAX);
    size_t all = 0;
    ssize_t n = -1;

    while (buf && all < ECHO_MAX && (n = read(fd, buf + all, ECHO_MAX - all)) > 0)
        all += (size_t)n;
    if (n || write_all(fd, buf, all))
        return -1;
    free(buf);
    return (long)all;
}

static int do_serve(unsigned port, int nr)
{
    struct sockaddr_vm at = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port };
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    long all = 0;

    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(fd, 128) < 0)
        return fail("listen");
    puts("SERVING");
    fflush(stdout);
    for (int i = 0; i < nr; i++) {
        int c = accept(fd, NULL, NULL);
        long n = c < 0 ? -1 : echo(c);

        if (n < 0)
            return fail("echo");
        all += n;
        close(c);
    }
    printf("ECHOED %ld\n", all);
    return 0;
}

static int do_many(unsigned port, int nr)
{
    int fds[MANY_MAX], good = 0;

    for (int i = 0; i < nr && i < MANY_MAX; i++) {
        char byte = (char)i;

        fds[i] = call(port);
        if (fds[i] >= 0 && write(fds[i], &byte, 1) != 1)
            return fail("write");
    }
    for (int i = 0; i < nr && i < MANY_MAX; i++) {
        char byte;

        good += fds[i] >= 0 && read(fds[i], &byte, 1) == 1 && byte == (char)i;
    }
    printf("MANY %d\n", good);
    return 0;
}

int main(int argc, char **argv)
{
    unsigned port = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 0) : 0;
    int nr = argc > 3 ? atoi(argv[3]) : 0;

    if (argc > 2 && !strcmp(argv[1], "connect"))
        return do_connect(port);
    if (argc > 3 && !strcmp(argv[1], "serve"))
        return do_serve(port, nr);
    if (argc > 3 && !strcmp(argv[1], "many"))
        return do_many(port, nr);
    return 2;
}
