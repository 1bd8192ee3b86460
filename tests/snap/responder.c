/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs in guests of tests/snap and bench/clones: answers questions of the host's on a vsock port,
 * one a line, as many at a time as come:
 *
 *   hello            "hello N", N counts the questions of all connections
 *   random           16 bytes of getrandom(), in hexadecimal
 *   clocks           CLOCK_REALTIME and CLOCK_MONOTONIC in ns
 *   rtc              the hardware clock's seconds since 1970
 *   write MB SEED    fills so many MB with what SEED makes, and keeps them: "done"
 *   check SEED       are they as they were? "good" or "bad"
 *   run COMMAND      the first 4 KB that a shell's command prints, newlines as '|'
 */
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <fcntl.h>
#include <linux/rtc.h>
#include <linux/vm_sockets.h>

#define CLIENTS 32
#define LINE    512
#define ANSWER  4200

struct client {
    int fd;
    size_t nr;
    char line[LINE];
};

static uint64_t *kept;
static size_t nr_kept;
static unsigned long nr_asked;

static uint64_t next(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

static void answer_write(char *out, const char *args)
{
    unsigned long mb = 0;
    unsigned long long seed = 1;
    uint64_t x;

    (void)sscanf(args, "%lu %llu", &mb, &seed);
    free(kept);
    nr_kept = mb << 17;
    kept = malloc(mb << 20);
    x = seed;
    for (size_t i = 0; kept && i < nr_kept; i++)
        kept[i] = next(&x);
    (void)strcpy(out, kept ? "done" : "no memory");
}

static void answer_check(char *out, const char *args)
{
    uint64_t x = strtoull(args, NULL, 10);
    int good = kept != NULL;

    for (size_t i = 0; good && i < nr_kept; i++)
        good = kept[i] == next(&x);
    (void)strcpy(out, good ? "good" : "bad");
}

static void answer_random(char *out)
{
    unsigned char bytes[16] = { 0 };

    if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes))
        return;
    for (unsigned i = 0; i < sizeof(bytes); i++)
        out += sprintf(out, "%02x", bytes[i]);
}

static unsigned long long clock_ns(clockid_t id)
{
    struct timespec t;

    (void)clock_gettime(id, &t);
    return (unsigned long long)t.tv_sec * 1000000000ull + (unsigned long long)t.tv_nsec;
}

static void answer_rtc(char *out)
{
    int fd = open("/dev/rtc0", O_RDONLY);
    struct rtc_time r;
    struct tm tm;

    if (fd < 0 || ioctl(fd, RTC_RD_TIME, &r) < 0) {
        (void)strcpy(out, "none");
    } else {
        tm = (struct tm){ .tm_sec = r.tm_sec,
                          .tm_min = r.tm_min,
                          .tm_hour = r.tm_hour,
                          .tm_mday = r.tm_mday,
                          .tm_mon = r.tm_mon,
                          .tm_year = r.tm_year };
        (void)sprintf(out, "%lld", (long long)timegm(&tm));
    }
    if (fd >= 0)
        (void)close(fd);
}

static void answer_run(char *out, const char *command)
{
    FILE *f = popen(command, "r");
    size_t n = f ? fread(out, 1, 4096, f) : 0;

    out[n] = 0;
    for (char *p = out; *p; p++)
        if (*p == '\n')
            *p = '|';
    if (f)
        (void)pclose(f);
}

static void answer(char *out, const char *line)
{
    out[0] = 0;
    nr_asked++;
    if (!strcmp(line, "hello"))
        (void)sprintf(out, "hello %lu", nr_asked);
    else if (!strcmp(line, "random"))
        answer_random(out);
    else if (!strcmp(line, "clocks"))
        (void)sprintf(out, "%llu %llu", clock_ns(CLOCK_REALTIME), clock_ns(CLOCK_MONOTONIC));
    else if (!strcmp(line, "rtc"))
        answer_rtc(out);
    else if (!strncmp(line, "write ", 6))
        answer_write(out, line + 6);
    else if (!strncmp(line, "check ", 6))
        answer_check(out, line + 6);
    else if (!strncmp(line, "run ", 4))
        answer_run(out, line + 4);
    else
        (void)strcpy(out, "what?");
}

/* 0: it is gone. */
static int serve(struct client *c)
{
    char out[ANSWER], *end;
    ssize_t n = read(c->fd, c->line + c->nr, sizeof(c->line) - c->nr);

    if (n <= 0)
        return 0;
    c->nr += (size_t)n;
    while ((end = memchr(c->line, '\n', c->nr))) {
        size_t bytes = (size_t)(end - c->line) + 1;

        *end = 0;
        answer(out, c->line);
        (void)strcat(out, "\n");
        if (write(c->fd, out, strlen(out)) != (ssize_t)strlen(out))
            return 0;
        c->nr -= bytes;
        memmove(c->line, end + 1, c->nr);
    }
    return c->nr < sizeof(c->line);
}

int main(int argc, char **argv)
{
    struct sockaddr_vm at = { .svm_family = AF_VSOCK,
                              .svm_cid = VMADDR_CID_ANY,
                              .svm_port = argc > 1 ? (unsigned)atoi(argv[1]) : 7 };
    struct client clients[CLIENTS];
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(fd, CLIENTS) < 0) {
        perror("responder");
        return 1;
    }
    for (unsigned i = 0; i < CLIENTS; i++)
        clients[i].fd = -1;
    for (;;) {
        struct pollfd p[CLIENTS + 1] = { { .fd = fd, .events = POLLIN } };

        for (unsigned i = 0; i < CLIENTS; i++)
            p[i + 1] = (struct pollfd){ .fd = clients[i].fd, .events = POLLIN };
        if (poll(p, CLIENTS + 1, -1) < 0)
            continue;
        for (unsigned i = 0; i < CLIENTS; i++)
            if (p[i + 1].revents && !serve(&clients[i])) {
                (void)close(clients[i].fd);
                clients[i].fd = -1;
            }
        for (unsigned i = 0; p[0].revents && i < CLIENTS; i++)
            if (clients[i].fd < 0) {
                clients[i] = (struct client){ .fd = accept(fd, NULL, NULL) };
                break;
            }
    }
}
