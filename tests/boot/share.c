/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What tests/boot/share runs in the guest, in a folder that the host shares: file operations whose
 * outcome is known. Each line of output is "ok NAME" or "bad NAME: what".
 *
 *   share-program FOLDER CASE...
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#define FILE_BYTES   (1u << 20)
#define RANDOM_OPS   1500
#define NR_APPENDERS 4
#define NR_LINES     200
#define NR_SMALL     400
#define NR_RENAMES   300

static const char *current;
static int nr_bad;

static void bad(int line, const char *what)
{
    printf("bad %s: line %d: %s (%s)\n", current, line, what, strerror(errno));
    fflush(stdout);
    nr_bad++;
}

/* A failed check ends its case. */
#define CHECK(cond)               \
    do {                          \
        errno = 0;                \
        if (!(cond)) {            \
            bad(__LINE__, #cond); \
            return;               \
        }                         \
    } while (0)

static uint32_t seed = 12345;

static uint32_t roll(uint32_t below)
{
    seed = seed * 1664525u + 1013904223u;
    return below ? (uint32_t)(((uint64_t)seed * below) >> 32) : 0;
}

static int put_file(const char *name, const char *text, int flags)
{
    int fd = open(name, O_WRONLY | O_CREAT | flags, 0644);
    ssize_t want = (ssize_t)strlen(text), did = fd < 0 ? -1 : write(fd, text, (size_t)want);

    if (fd >= 0)
        close(fd);
    return did == want ? 0 : -1;
}

static ssize_t read_file(const char *name, char *buf, size_t bytes)
{
    int fd = open(name, O_RDONLY);
    ssize_t got = fd < 0 ? -1 : read(fd, buf, bytes);

    if (fd >= 0)
        close(fd);
    return got;
}

static int is_file(const char *name, const char *text)
{
    char buf[256];
    ssize_t got = read_file(name, buf, sizeof(buf));

    return got == (ssize_t)strlen(text) && !memcmp(buf, text, (size_t)got);
}

/* ---- random reads and writes beside a copy in memory ---- */

static struct {
    int fd;
    uint8_t *is, *buf; /* what the file holds, and room for reading */
    uint32_t bytes;
} r;

static void grow_to(uint32_t end)
{
    if (end > r.bytes)
        r.bytes = end;
}

static int do_write(uint32_t at, uint32_t len)
{
    for (uint32_t i = 0; i < len; i++)
        r.is[at + i] = (uint8_t)roll(256);
    grow_to(at + len);
    return pwrite(r.fd, r.is + at, len, at) == (ssize_t)len;
}

static int do_read(uint32_t at, uint32_t len)
{
    ssize_t want = at >= r.bytes ? 0 : r.bytes - at < len ? r.bytes - at : len;

    return pread(r.fd, r.buf, len, at) == want && !memcmp(r.buf, r.is + at, (size_t)want);
}

static int do_truncate(uint32_t at, uint32_t len)
{
    (void)len;
    if (at < r.bytes)
        memset(r.is + at, 0, r.bytes - at);
    r.bytes = at;
    return ftruncate(r.fd, at) == 0;
}

static int do_map(uint32_t at, uint32_t len, int write_it)
{
    uint32_t from = at & ~4095u;
    uint8_t *p;
    int same;

    if (at >= r.bytes)
        return 1;
    if (len > r.bytes - at)
        len = r.bytes - at;
    p = mmap(NULL, at + len - from, PROT_READ | PROT_WRITE, MAP_SHARED, r.fd, from);
    if (p == MAP_FAILED)
        return errno == ENODEV; /* cache=none has none */
    if (write_it)
        for (uint32_t i = 0; i < len; i++)
            p[at - from + i] = r.is[at + i] = (uint8_t)roll(256);
    same = !memcmp(p + (at - from), r.is + at, len);
    return munmap(p, at + len - from) == 0 && same;
}

static int do_map_read(uint32_t at, uint32_t len)
{
    return do_map(at, len, 0);
}

static int do_map_write(uint32_t at, uint32_t len)
{
    return do_map(at, len, 1);
}

static int do_punch(uint32_t at, uint32_t len)
{
    if (fallocate(r.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, len) < 0)
        return errno == EOPNOTSUPP;
    if (at < r.bytes)
        memset(r.is + at, 0, r.bytes - at < len ? r.bytes - at : len);
    return 1;
}

static int do_allocate(uint32_t at, uint32_t len)
{
    if (fallocate(r.fd, 0, at, len) < 0)
        return errno == EOPNOTSUPP;
    grow_to(at + len);
    return 1;
}

static int do_copy(uint32_t at, uint32_t len)
{
    loff_t from = at, to = roll(FILE_BYTES - len);
    ssize_t n;

    if (at >= r.bytes || (from < to + len && to < from + (loff_t)len))
        return 1;
    n = copy_file_range(r.fd, &from, r.fd, &to, len, 0);
    if (n <= 0)
        return 0;
    memcpy(r.is + to - n, r.is + from - n, (size_t)n);
    grow_to((uint32_t)to);
    return 1;
}

static int do_sync(uint32_t at, uint32_t len)
{
    (void)len;
    return (at & 1 ? fsync(r.fd) : fdatasync(r.fd)) == 0;
}

static int do_reopen(uint32_t at, uint32_t len)
{
    (void)at, (void)len;
    close(r.fd);
    r.fd = open("random", O_RDWR);
    return r.fd >= 0;
}

static void case_random(void)
{
    static const struct {
        const char *name;
        int (*run)(uint32_t at, uint32_t len);
    } ops[] = {
        { "write", do_write },         { "write", do_write },       { "read", do_read },
        { "read", do_read },           { "truncate", do_truncate }, { "map read", do_map_read },
        { "map write", do_map_write }, { "punch", do_punch },       { "allocate", do_allocate },
        { "copy", do_copy },           { "sync", do_sync },         { "reopen", do_reopen },
    };

    r.is = calloc(1, FILE_BYTES);
    r.buf = malloc(FILE_BYTES);
    r.bytes = 0;
    r.fd = open("random", O_RDWR | O_CREAT | O_TRUNC, 0644);
    CHECK(r.fd >= 0);
    for (unsigned i = 0; i < RANDOM_OPS; i++) {
        unsigned op = roll(sizeof(ops) / sizeof(ops[0]));
        uint32_t at = roll(FILE_BYTES), len = 1 + roll(roll(4) ? 5000 : 200000);
        struct stat st;

        if (len > FILE_BYTES - at)
            len = FILE_BYTES - at;
        if (!ops[op].run(at, len)) {
            printf("op %u: %s at %u, %u bytes, of %u\n", i, ops[op].name, at, len, r.bytes);
            bad(__LINE__, ops[op].name);
            return;
        }
        CHECK(fstat(r.fd, &st) == 0 && st.st_size == r.bytes);
    }
    CHECK(do_read(0, FILE_BYTES));
    CHECK(close(r.fd) == 0);
}

/* ---- several at once ---- */

/* Runs it in so many processes; false if one failed. */
static int in_processes(unsigned nr, int (*run)(unsigned me))
{
    int all = 1, status;

    for (unsigned i = 0; i < nr; i++) {
        pid_t pid = fork();

        if (!pid)
            _exit(run(i) ? 0 : 1);
        all &= pid > 0;
    }
    while (wait(&status) > 0)
        all &= status == 0;
    return all;
}

static int append_lines(unsigned me)
{
    int fd = open("appended", O_WRONLY | O_APPEND);

    for (unsigned i = 0; i < NR_LINES; i++) {
        char line[64];
        int n = snprintf(line, sizeof(line), "%u %u %.*s\n", me, i, (int)(i % 40),
                         "----------------------------------------");

        if (write(fd, line, (size_t)n) != n)
            return 0;
    }
    return close(fd) == 0;
}

static void case_append(void)
{
    unsigned next[NR_APPENDERS] = { 0 }, me, nr;
    char line[128];
    FILE *f;

    CHECK(put_file("appended", "", O_TRUNC) == 0);
    CHECK(in_processes(NR_APPENDERS, append_lines));
    f = fopen("appended", "r");
    CHECK(f);
    while (fgets(line, sizeof(line), f)) {
        CHECK(sscanf(line, "%u %u", &me, &nr) == 2 && me < NR_APPENDERS);
        CHECK(nr == next[me]++);
    }
    fclose(f);
    for (unsigned i = 0; i < NR_APPENDERS; i++)
        CHECK(next[i] == NR_LINES);
}

/* A failure of a child's. */
static int fail(const char *what, unsigned i)
{
    printf("in %s: %s, turn %u: %s\n", current, what, i, strerror(errno));
    fflush(stdout);
    return 0;
}

static int rename_about(unsigned me)
{
    for (unsigned i = 0; i < NR_RENAMES; i++) {
        struct stat st;
        char buf[8];

        errno = 0;
        if (me == 0 && rename(i & 1 ? "race/b" : "race/a", i & 1 ? "race/a" : "race/b") < 0)
            return fail("rename", i);
        if (me == 1 && syscall(SYS_renameat2, AT_FDCWD, "race/x", AT_FDCWD, "race/y", 2u) < 0)
            return fail("exchange", i);
        if (me > 1 && stat(i & 1 ? "race/a" : "race/b", &st) < 0 && errno != ENOENT)
            return fail("stat", i);
        if (me > 1 && (read_file("race/x", buf, sizeof(buf)) != 1 || (*buf != 'x' && *buf != 'y')))
            return fail("open", i);
    }
    return 1;
}

static void case_rename(void)
{
    struct stat st;

    CHECK(mkdir("race", 0755) == 0);
    CHECK(put_file("race/a", "a", 0) == 0 && put_file("race/x", "x", 0) == 0 &&
          put_file("race/y", "y", 0) == 0);
    CHECK(in_processes(4, rename_about));
    CHECK(is_file("race/a", "a") && stat("race/b", &st) < 0);
    CHECK(is_file("race/x", "x") && is_file("race/y", "y"));
    CHECK(syscall(SYS_renameat2, AT_FDCWD, "race/x", AT_FDCWD, "race/y", 1u) < 0 &&
          errno == EEXIST); /* no replace */
    CHECK(rename("race/x", "race/y") == 0 && is_file("race/y", "x"));
    CHECK(rename("race", "race/sub") < 0 && errno == EINVAL);
}

/* ---- many small files ---- */

static unsigned count_entries(const char *name)
{
    DIR *d = opendir(name);
    unsigned nr = 0;

    while (d && readdir(d))
        nr++;
    if (d)
        closedir(d);
    return nr;
}

static void case_many(void)
{
    char name[64];

    CHECK(mkdir("many", 0755) == 0);
    for (unsigned i = 0; i < NR_SMALL; i++) {
        (void)snprintf(name, sizeof(name), "many/file-%u", i);
        CHECK(put_file(name, name, O_EXCL) == 0);
    }
    CHECK(count_entries("many") == NR_SMALL + 2);
    for (unsigned i = 0; i < NR_SMALL; i++) {
        (void)snprintf(name, sizeof(name), "many/file-%u", i);
        CHECK(is_file(name, name));
        CHECK(put_file(name, "x", O_EXCL) < 0 && errno == EEXIST);
        CHECK(i % 2 || unlink(name) == 0);
    }
    CHECK(count_entries("many") == NR_SMALL / 2 + 2);
    CHECK(rmdir("many") < 0 && errno == ENOTEMPTY);
}

/* ---- what names and inodes are ---- */

static void case_links(void)
{
    struct stat a, b;
    char text[64] = "";

    CHECK(put_file("one", "1", 0) == 0 && link("one", "two") == 0);
    CHECK(stat("one", &a) == 0 && stat("two", &b) == 0);
    CHECK(a.st_ino == b.st_ino && a.st_nlink == 2 && b.st_nlink == 2);
    CHECK(put_file("two", "22", 0) == 0 && is_file("one", "22"));
    CHECK(unlink("one") == 0 && is_file("two", "22"));
    CHECK(symlink("two", "to-two") == 0 && is_file("to-two", "22"));
    /* Of the guest's own tree, wherever it leads. */
    CHECK(put_file("/tmp/guests-own", "guest", O_TRUNC) == 0);
    CHECK(symlink("/tmp/guests-own", "outside") == 0 && is_file("outside", "guest"));
    CHECK(readlink("outside", text, sizeof(text)) == 15 && !strcmp(text, "/tmp/guests-own"));
    CHECK(link("outside", "outside2") == 0 && lstat("outside2", &a) == 0 && S_ISLNK(a.st_mode));
    CHECK(open("planted/passwd", O_RDONLY) < 0 && errno == ENOENT); /* the host's link */
}

static void case_open_files(void)
{
    char buf[8] = "", path[32];
    int fd = open("gone", O_RDWR | O_CREAT, 0600);
    struct stat st;

    CHECK(fd >= 0 && unlink("gone") == 0);
    CHECK(write(fd, "still", 5) == 5 && pread(fd, buf, 8, 0) == 5 && !strcmp(buf, "still"));
    CHECK(fstat(fd, &st) == 0 && st.st_nlink == 0 && st.st_size == 5);
    CHECK(close(fd) == 0);
    fd = open(".", O_RDWR | O_TMPFILE, 0600);
    if (fd < 0 && errno == EOPNOTSUPP) /* before 6.1 */
        return;
    CHECK(fd >= 0 && write(fd, "tmp", 3) == 3);
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    CHECK(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW) == 0);
    CHECK(close(fd) == 0 && is_file("named", "tmp"));
}

static void case_attributes(void)
{
    struct timespec ts[2] = { { .tv_sec = 5, .tv_nsec = 7 }, { .tv_sec = 9, .tv_nsec = 11 } };
    char buf[64];
    struct stat st;

    CHECK(put_file("attr", "0123456789", 0) == 0);
    CHECK(chmod("attr", 0604) == 0 && chown("attr", 1001, 1002) == 0);
    CHECK(utimensat(AT_FDCWD, "attr", ts, 0) == 0);
    CHECK(stat("attr", &st) == 0 && (st.st_mode & 07777) == 0604);
    CHECK(st.st_uid == 1001 && st.st_gid == 1002);
    CHECK(st.st_atim.tv_sec == 5 && st.st_mtim.tv_sec == 9 && st.st_mtim.tv_nsec == 11);
    CHECK(truncate("attr", 3) == 0 && is_file("attr", "012"));
    CHECK(truncate("attr", 5) == 0 && stat("attr", &st) == 0 && st.st_size == 5);
    CHECK(mkfifo("fifo", 0600) == 0 && stat("fifo", &st) == 0 && S_ISFIFO(st.st_mode));
    CHECK(mknod("sda", S_IFBLK | 0600, 0x800) < 0 && errno == EPERM);
    if (setxattr("attr", "user.note", "text", 4, 0) < 0) {
        CHECK(errno == EOPNOTSUPP);
        return;
    }
    CHECK(getxattr("attr", "user.note", buf, sizeof(buf)) == 4 && !memcmp(buf, "text", 4));
    CHECK(listxattr("attr", buf, sizeof(buf)) == 10 && !strcmp(buf, "user.note"));
    CHECK(setxattr("attr", "security.selinux", "x", 1, 0) < 0);
    CHECK(removexattr("attr", "user.note") == 0 && listxattr("attr", buf, sizeof(buf)) == 0);
}

/* As users: owners of what they make, and set-user-ID bits that go when others write. */
static int as_user(unsigned me)
{
    struct stat st;
    int fd;

    (void)me;
    if (setgid(2002) < 0 || setuid(2001) < 0)
        return 0;
    if (put_file("open/mine", "x", O_EXCL) < 0 || stat("open/mine", &st) < 0)
        return 0;
    if (st.st_uid != 2001 || st.st_gid != 2002 || mkdir("open/dir", 0700) < 0)
        return 0;
    fd = open("open/suid", O_WRONLY);
    if (fd < 0 || write(fd, "y", 1) != 1 || fstat(fd, &st) < 0 || (st.st_mode & 07000))
        return 0;
    return open("open/secret", O_RDONLY) < 0 && errno == EACCES && unlink("closed/f") < 0;
}

static void case_users(void)
{
    CHECK(mkdir("open", 0777) == 0 && chmod("open", 01777) == 0 && mkdir("closed", 0755) == 0);
    CHECK(put_file("open/secret", "s", 0) == 0 && chmod("open/secret", 0600) == 0);
    CHECK(put_file("open/suid", "x", 0) == 0 && chmod("open/suid", 06777) == 0);
    CHECK(put_file("closed/f", "f", 0) == 0);
    CHECK(in_processes(1, as_user));
}

static void case_locks(void)
{
    struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    int a, b;

    CHECK(put_file("lock", "x", 0) == 0);
    a = open("lock", O_RDWR);
    b = open("lock", O_RDWR);
    CHECK(a >= 0 && b >= 0);
    CHECK(flock(a, LOCK_EX) == 0);
    CHECK(flock(b, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK);
    CHECK(flock(a, LOCK_UN) == 0 && flock(b, LOCK_EX | LOCK_NB) == 0);
    CHECK(fcntl(a, F_SETLK, &l) == 0);
    CHECK(close(a) == 0 && close(b) == 0);
}

/* ---- where there is no more room ---- */

static void case_full(void)
{
    static uint8_t block[1 << 16];
    int fd = open("fill", O_RDWR | O_CREAT, 0600), err = 0;
    off_t wrote = 0;
    ssize_t n;

    CHECK(fd >= 0);
    memset(block, 0x5a, sizeof(block));
    while ((n = write(fd, block, sizeof(block))) > 0 && wrote < 1 << 30)
        wrote += n;
    err = n < 0 ? errno : 0;
    if (!err && fsync(fd) < 0) /* a guest that caches writes learns it later */
        err = errno;
    CHECK(err == ENOSPC || (errno = err, 0));
    /* ... and hears of it again from who else writes the cache back: each once. */
    CHECK(ftruncate(fd, 1 << 16) == 0 || (errno == ENOSPC && ftruncate(fd, 1 << 16) == 0));
    CHECK(close(fd) == 0 || errno == ENOSPC);
    CHECK(put_file("after", "there is room again", 0) == 0 &&
          is_file("after", "there is room again"));
}

/* ---- a share that is read-only ---- */

static void case_readonly(void)
{
    CHECK(is_file("given", "given"));
    CHECK(put_file("new", "x", 0) < 0 && errno == EROFS);
    CHECK(put_file("given", "x", O_TRUNC) < 0 && errno == EROFS);
    CHECK(unlink("given") < 0 && errno == EROFS);
    CHECK(mkdir("d", 0700) < 0 && errno == EROFS);
    CHECK(rename("given", "taken") < 0 && errno == EROFS);
    CHECK(chmod("given", 0600) < 0 && errno == EROFS);
    CHECK(is_file("given", "given"));
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    { "random", case_random },         { "append", case_append },
    { "rename", case_rename },         { "many", case_many },
    { "links", case_links },           { "open-files", case_open_files },
    { "attributes", case_attributes }, { "users", case_users },
    { "locks", case_locks },           { "full", case_full },
    { "readonly", case_readonly },
};

int main(int argc, char **argv)
{
    umask(0);
    if (argc < 3 || chdir(argv[1]) < 0)
        return 2;
    for (int i = 2; i < argc; i++) {
        int before = nr_bad;

        current = argv[i];
        for (unsigned c = 0; c < sizeof(cases) / sizeof(cases[0]); c++)
            if (!strcmp(cases[c].name, current))
                cases[c].run();
        if (nr_bad == before)
            printf("ok %s\n", current);
        fflush(stdout);
    }
    return nr_bad != 0;
}
