/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A snapshot's two files where a client wants them: made beside their places and renamed. What is
 * there already is replaced if it is such a file, or empty, and nothing else: the name may be a
 * device's, or that of a disk in use.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snap/priv.h"

/* As snap_absolute(), and a symbolic link is what it leads to. */
static char *place_of(const char *path)
{
    char *place = snap_absolute(path), *real;
    struct stat st;

    if (!place || lstat(place, &st) < 0 || !S_ISLNK(st.st_mode))
        return place;
    real = realpath(place, NULL);
    if (!real)
        return place; /* it leads nowhere, and is in the way */
    free(place);
    return real;
}

static bool begins_with(int fd, const char *magic, size_t bytes, uint64_t at)
{
    char buf[16];

    return bytes <= sizeof(buf) && !files_read(fd, buf, bytes, at) && !memcmp(buf, magic, bytes);
}

/* Where reading is not allowed any more, it is the client's word that counts. */
static bool is_snapshots(const char *path, uint64_t bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    bool is;

    if (fd < 0)
        return errno == EACCES || errno == EPERM;
    is = begins_with(fd, DOC_MAGIC, sizeof(DOC_MAGIC) - 1, 0) ||
         (bytes >= PAGE_BYTES &&
          begins_with(fd, SNAP_TRAILER_MAGIC, sizeof(SNAP_TRAILER_MAGIC), bytes - PAGE_BYTES));
    (void)close(fd);
    return is;
}

static int check_place(struct snap_pair *p, const char *path, const struct snap_why *why)
{
    struct stat st;

    if (lstat(path, &st) < 0) {
        if (errno == ENOENT)
            return 0;
        return snap_fail(why, -errno, "cannot make '%s': %s", path, strerror(errno));
    }
    if (!S_ISREG(st.st_mode))
        return snap_fail(why, -EEXIST, "'%s' is there already, and is no file", path);
    if (st.st_size > 0 && !is_snapshots(path, (uint64_t)st.st_size))
        return snap_fail(why, -EEXIST,
                         "'%s' is there already, and is no snapshot's file: remove it, or choose "
                         "another name",
                         path);
    p->replaces |= st.st_size > 0;
    return 0;
}

int pair_begin(struct snap_pair *p, const struct snap_files *files, const struct snap_why *why)
{
    int err;

    *p = (struct snap_pair){ .state = place_of(files->state),
                             .memory = place_of(files->memory),
                             .state_fd = -1,
                             .memory_fd = -1 };
    if (!p->state || !p->memory) {
        err = snap_fail(why, -ENOENT, "there is no directory for '%s'",
                        p->state ? files->memory : files->state);
    } else if (!strcmp(p->state, p->memory)) {
        err = snap_fail(why, -EINVAL, "the state and the memory cannot both be '%s'", p->state);
    } else {
        err = check_place(p, p->state, why);
        if (!err)
            err = check_place(p, p->memory, why);
    }
    if (err)
        pair_end(p);
    return err;
}

static int create(const char *path, char *tmp, size_t tmp_bytes, const struct snap_why *why)
{
    int fd = files_create(path, tmp, tmp_bytes);

    if (fd < 0) {
        *tmp = 0;
        return snap_fail(why, fd, "cannot make '%s': %s", path, strerror(-fd));
    }
    return fd;
}

int pair_create(struct snap_pair *p, const struct snap_why *why)
{
    p->memory_fd = create(p->memory, p->memory_tmp, sizeof(p->memory_tmp), why);
    if (p->memory_fd < 0)
        return p->memory_fd;
    p->state_fd = create(p->state, p->state_tmp, sizeof(p->state_tmp), why);
    return MIN(p->state_fd, 0);
}

/* Memory first: a state file without its memory is refused when it is opened. Where the second step
 * fails, the first is taken back. */
static int put(struct snap_pair *p)
{
    bool there = access(p->memory, F_OK) == 0;
    int err;

    if (there && renameat2(AT_FDCWD, p->memory_tmp, AT_FDCWD, p->memory, RENAME_EXCHANGE) < 0) {
        if (errno != EINVAL)
            return -errno;
        there = false; /* the file system does not know that */
    }
    if (!there && rename(p->memory_tmp, p->memory) < 0)
        return -errno;
    if (rename(p->state_tmp, p->state) == 0) {
        *p->state_tmp = 0;
        if (!there)
            *p->memory_tmp = 0;
        return 0;
    }
    err = -errno;
    if (renameat2(AT_FDCWD, p->memory, AT_FDCWD, p->memory_tmp, there ? RENAME_EXCHANGE : 0) < 0)
        log_warn("'%s' is of a snapshot that never came to be: %s", p->memory, strerror(errno));
    return err;
}

int pair_commit(struct snap_pair *p, const struct snap_why *why)
{
    int err = put(p);

    if (err)
        return snap_fail(why, err, "cannot put the snapshot in its place: %s", strerror(-err));
    if (files_sync_dir_of(p->memory) < 0 || files_sync_dir_of(p->state) < 0)
        return snap_fail(why, -EIO, "cannot put the snapshot's names on the disk");
    return 0;
}

void pair_end(struct snap_pair *p)
{
    if (*p->memory_tmp)
        (void)unlink(p->memory_tmp);
    if (*p->state_tmp)
        (void)unlink(p->state_tmp);
    if (p->memory_fd >= 0)
        (void)close(p->memory_fd); /* fsync() has told of errors */
    if (p->state_fd >= 0)
        (void)close(p->state_fd);
    free(p->memory);
    free(p->state);
    *p = (struct snap_pair){ .state_fd = -1, .memory_fd = -1 };
}
