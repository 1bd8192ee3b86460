/* SPDX-License-Identifier: Apache-2.0 */
/* Files of snapshots: made beside their place, flushed, and only then put there. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snap/priv.h"

int files_create(const char *path, char *tmp, size_t tmp_bytes)
{
    int n = snprintf(tmp, tmp_bytes, "%s.%d.tmp", path, host_pid()), fd;

    if (n < 0 || (size_t)n >= tmp_bytes)
        return -ENAMETOOLONG;
    /* Guest memory is its owner's alone. */
    fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    return fd < 0 ? -errno : fd;
}

int files_write(int fd, const void *buf, size_t bytes, uint64_t off_bytes)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n =
            pwrite(fd, (const uint8_t *)buf + done, bytes - done, (off_t)(off_bytes + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -ENOSPC;
        done += (size_t)n;
    }
    return 0;
}

int files_read(int fd, void *buf, size_t bytes, uint64_t off_bytes)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n = pread(fd, (uint8_t *)buf + done, bytes - done, (off_t)(off_bytes + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -ENODATA;
        done += (size_t)n;
    }
    return 0;
}

uint8_t *files_load(const char *path, size_t max, size_t *bytes, int *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    uint8_t *buf = NULL;
    struct stat st;

    *err = -errno;
    if (fd < 0)
        return NULL;
    if (fstat(fd, &st) < 0) {
        *err = -errno;
    } else if (!S_ISREG(st.st_mode)) {
        *err = S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;
    } else if (st.st_size < 0 || (uint64_t)st.st_size > max) {
        *err = -EFBIG;
    } else {
        *bytes = (size_t)st.st_size;
        buf = malloc(*bytes + 1);
        *err = buf ? files_read(fd, buf, *bytes, 0) : -ENOMEM;
    }
    (void)close(fd); /* only read from */
    if (*err) {
        free(buf);
        return NULL;
    }
    return buf;
}

int files_sync_dir_of(const char *path)
{
    char copy[PATH_MAX];
    int fd, err = 0;

    if (snprintf(copy, sizeof(copy), "%s", path) >= (int)sizeof(copy))
        return -ENAMETOOLONG;
    fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (fsync(fd) < 0 && errno != EINVAL) /* some file systems know no such thing */
        err = -errno;
    (void)close(fd);
    return err;
}

/* ---- names of one file in another ---- */

/* The length of the directory part, with its slash; 0: there is none. */
static size_t dir_length(const char *path, size_t len)
{
    while (len && path[len - 1] != '/')
        len--;
    return len;
}

char *files_name_from(const char *from, const char *to)
{
    size_t a = dir_length(from, strlen(from)), b = dir_length(to, strlen(to));
    size_t up_a = a ? dir_length(from, a - 1) : 0, up_b = b ? dir_length(to, b - 1) : 0;
    char *name = NULL;

    if (a == b && !strncmp(from, to, a))
        return strdup(to + b);
    if (up_a && up_a == up_b && !strncmp(from, to, up_a))
        return asprintf(&name, "../%s", to + up_b) < 0 ? NULL : name;
    name = realpath(to, NULL);
    return name ? name : strdup(to); /* out of this process's view */
}

char *files_resolve(const char *from, const char *name)
{
    size_t dir = dir_length(from, strlen(from));
    char *path = NULL;

    if (*name == '/')
        return strdup(name);
    return asprintf(&path, "%.*s%s", (int)dir, from, name) < 0 ? NULL : path;
}
