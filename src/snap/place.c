/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A snapshot's directory: made beside its place, and put there in one step once its files are
 * whole. By the VM's process, or by `doppel snapshot`, which gives it the open files.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snap/priv.h"

char *snap_absolute(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup("."), *real, *all = NULL;

    real = dir ? realpath(dir, NULL) : NULL;
    if (real &&
        asprintf(&all, "%s/%s", strcmp(real, "/") != 0 ? real : "", slash ? slash + 1 : path) < 0)
        all = NULL;
    free(real);
    free(dir);
    return all;
}

static bool is_empty(const char *dir)
{
    DIR *d = opendir(dir);
    const struct dirent *e = NULL;

    while (d && (e = readdir(d)) && (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")))
        ;
    if (d)
        (void)closedir(d);
    return d && !e;
}

/* May it be replaced? Only what is a snapshot, or empty; and by a difference no snapshot: that, or
 * what it is a difference to, may be a difference to this very one. */
static int check_target(const struct snap_why *why, const char *dir, enum snap_kind kind)
{
    char path[4096];
    struct stat st;

    if (lstat(dir, &st) < 0)
        return 0;
    if (!S_ISDIR(st.st_mode))
        return snap_fail(why, -ENOTDIR, "'%s' is there already, and is no directory", dir);
    if (is_empty(dir))
        return 0;
    if (snprintf(path, sizeof(path), "%s/" SNAP_STATE_FILE, dir) >= (int)sizeof(path) ||
        access(path, F_OK) < 0)
        return snap_fail(why, -EEXIST, "'%s' is there already, and is no snapshot", dir);
    if (kind == SNAP_DIFF)
        return snap_fail(why, -EEXIST,
                         "'%s' is a snapshot already, which a difference may need: name another "
                         "directory for it, or make a full one",
                         dir);
    return 0;
}

static void remove_dir(const char *dir)
{
    static const char *const names[] = { SNAP_STATE_FILE, SNAP_MEMORY_FILE };
    char path[4096];

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
        if (snprintf(path, sizeof(path), "%s/%s", dir, names[i]) < (int)sizeof(path))
            (void)unlink(path);
    if (rmdir(dir) < 0 && errno != ENOENT)
        log_warn("'%s' is left over: %s", dir, strerror(errno));
}

/* Is nobody at it any more? Who makes a snapshot lives, and holds a lock on its state file, which
 * the VM's process has open, too. */
static bool is_abandoned(const char *tmp, unsigned pid)
{
    char path[4096];
    bool alone;
    int fd;

    if (kill((pid_t)pid, 0) == 0 || errno != ESRCH ||
        snprintf(path, sizeof(path), "%s/" SNAP_STATE_FILE, tmp) >= (int)sizeof(path))
        return false;
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return false;
    alone = flock(fd, LOCK_EX | LOCK_NB) == 0;
    (void)close(fd);
    return alone;
}

/* What was begun for this place by others that were killed at it. */
static void remove_abandoned(const char *dir)
{
    const char *name = strrchr(dir, '/') + 1;
    char parent[4096], path[8192], rest[8];
    const struct dirent *e;
    unsigned pid;
    DIR *d;

    if (snprintf(parent, sizeof(parent), "%.*s", (int)(name - dir), dir) >= (int)sizeof(parent))
        return;
    d = opendir(parent);
    while (d && (e = readdir(d))) {
        if (strncmp(e->d_name, name, strlen(name)) != 0 ||
            sscanf(e->d_name + strlen(name), ".%u.%7s", &pid, rest) != 2 ||
            strcmp(rest, "tmp") != 0)
            continue;
        (void)snprintf(path, sizeof(path), "%s%s", parent, e->d_name);
        if (is_abandoned(path, pid)) {
            log_warn("'%s' is left over from a snapshot whose maker was killed: it is removed",
                     path);
            remove_dir(path);
        }
    }
    if (d)
        (void)closedir(d);
}

/* tmp takes the place of dir, in one step. */
static int put_dir(const struct snap_why *why, const char *tmp, const char *dir)
{
    bool there = access(dir, F_OK) == 0;
    char inside[4200];

    (void)snprintf(inside, sizeof(inside), "%s/" SNAP_STATE_FILE, tmp);
    if (files_sync_dir_of(inside) < 0)
        return snap_fail(why, -EIO, "cannot put the snapshot's files on the disk");
    if (renameat2(AT_FDCWD, tmp, AT_FDCWD, dir, there ? RENAME_EXCHANGE : RENAME_NOREPLACE) < 0)
        return snap_fail(why, -errno, "cannot put the snapshot in its place, '%s': %s", dir,
                         strerror(errno));
    if (there)
        remove_dir(tmp);
    if (files_sync_dir_of(dir) < 0)
        return snap_fail(why, -EIO, "cannot put the snapshot's name on the disk");
    return 0;
}

static int open_in(const char *dir, const char *name)
{
    char path[4096];
    int fd;

    if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path))
        return -ENAMETOOLONG;
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return fd < 0 ? -errno : fd;
}

int snap_dir_begin(struct snap_dir *d, const char *dir, enum snap_kind kind, char *why,
                   size_t why_bytes)
{
    const struct snap_why w = { why, why_bytes };
    size_t len = strlen(dir);
    char *plain;
    int err;

    *d = (struct snap_dir){ .state_fd = -1, .memory_fd = -1 };
    while (len > 1 && dir[len - 1] == '/')
        len--;
    plain = strndup(dir, len);
    d->dir = plain ? snap_absolute(plain) : NULL;
    free(plain);
    if (!d->dir || asprintf(&d->state, "%s/" SNAP_STATE_FILE, d->dir) < 0 ||
        asprintf(&d->memory, "%s/" SNAP_MEMORY_FILE, d->dir) < 0 ||
        asprintf(&d->tmp, "%s.%d.tmp", d->dir, host_pid()) < 0) {
        err = snap_fail(&w, -ENOENT, "there is no directory for '%s'", dir);
        goto fail;
    }
    err = check_target(&w, d->dir, kind);
    if (err)
        goto fail;
    remove_abandoned(d->dir);
    if (mkdir(d->tmp, 0700) < 0) {
        err = snap_fail(&w, -errno, "cannot make the directory '%s': %s", d->tmp, strerror(errno));
        goto fail;
    }
    d->made = true;
    d->state_fd = open_in(d->tmp, SNAP_STATE_FILE);
    if (d->state_fd >= 0)
        (void)flock(d->state_fd, LOCK_EX); /* see is_abandoned(); some file systems have none */
    d->memory_fd = open_in(d->tmp, SNAP_MEMORY_FILE);
    err = MIN(d->state_fd, d->memory_fd);
    if (err >= 0)
        return 0;
    snap_fail(&w, err, "cannot make files in '%s': %s", d->tmp, strerror(-err));

fail:
    snap_dir_end(d);
    return err;
}

int snap_dir_commit(struct snap_dir *d, char *why, size_t why_bytes)
{
    const struct snap_why w = { why, why_bytes };
    int err = put_dir(&w, d->tmp, d->dir);

    d->made = d->made && err;
    return err;
}

void snap_dir_end(struct snap_dir *d)
{
    if (d->state_fd >= 0)
        (void)close(d->state_fd); /* fsync() has told of errors */
    if (d->memory_fd >= 0)
        (void)close(d->memory_fd);
    if (d->made)
        remove_dir(d->tmp);
    free(d->tmp);
    free(d->memory);
    free(d->state);
    free(d->dir);
    *d = (struct snap_dir){ .state_fd = -1, .memory_fd = -1 };
}
