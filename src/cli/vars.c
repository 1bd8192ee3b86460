/* SPDX-License-Identifier: Apache-2.0 */
/* The file in which UEFI firmware keeps its variables: made from a template, locked, mapped. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "lib/log.h"

#define VARS_BYTES_MAX MIB(8)

/* Of the open file: it goes with it, however the process ends. */
static int vars_lock(int fd)
{
    struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

    return fcntl(fd, F_OFD_SETLK, &fl) < 0 ? -errno : 0;
}

static int vars_copy(int from, int to)
{
    ssize_t n;

    do {
        n = sendfile(to, from, NULL, VARS_BYTES_MAX);
    } while (n > 0);
    return n < 0 ? -errno : 0;
}

/* An empty file becomes a copy of the template. */
static int vars_fill(int fd, const char *template_path)
{
    int from, err;

    if (!template_path)
        return -ENODATA;
    from = open(template_path, O_RDONLY | O_CLOEXEC);
    if (from < 0)
        return -errno;
    err = vars_copy(from, fd);
    (void)close(from); /* only read from */
    return err;
}

static int vars_map(struct vars *v, int fd, const char *template_path)
{
    struct stat st;
    void *p;
    int err = fstat(fd, &st) < 0 ? -errno : 0;

    if (!err && !st.st_size) {
        err = vars_fill(fd, template_path);
        if (!err && fstat(fd, &st) < 0)
            err = -errno;
    }
    if (err)
        return err;
    if (!S_ISREG(st.st_mode) || !st.st_size || st.st_size > (off_t)VARS_BYTES_MAX ||
        st.st_size % (off_t)PAGE_BYTES)
        return -EINVAL;
    p = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return -errno;
    *v = (struct vars){ .data = p, .bytes = (uint32_t)st.st_size };
    return 0;
}

bool vars_open(struct vars *v, const char *path, const char *template_path)
{
    const char *name = path ? path : template_path;
    int fd, err;

    if (path)
        fd = open(path, O_RDWR | O_CLOEXEC | (template_path ? O_CREAT : 0), 0666);
    else
        fd = memfd_create("vars", MFD_CLOEXEC);
    err = fd < 0 ? -errno : path ? vars_lock(fd) : 0;
    if (!err)
        err = vars_map(v, fd, template_path);
    if (err == -EAGAIN || err == -EACCES)
        log_error("firmware's variables: '%s' is in use by another program, or may not be written",
                  name);
    else if (err)
        log_error("firmware's variables: '%s' cannot be used: %s", name,
                  err == -EINVAL    ? "it is no whole number of 4 KB blocks up to 8 MB"
                  : err == -ENODATA ? "it is empty, and there is nothing to fill it from for this "
                                      "firmware"
                                    : strerror(-err));
    /* Open as long as the process, for its lock. */
    if (fd >= 0 && (err || !path))
        (void)close(fd);
    return !err;
}

void vars_close(struct vars *v)
{
    if (v->data)
        (void)munmap(v->data, v->bytes);
    v->data = NULL;
}
