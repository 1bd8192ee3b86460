/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening and making files of a share. What is opened is a regular file: a node's kind is known
 * and does not change, and a new file is one that was not there before (O_EXCL), or a node again.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "backend/fs_priv.h"

#define MODE_BITS    07777u
#define CREATE_TRIES 8 /* while others make and remove the same name */

static bool has_writeback(struct fs_share *fs)
{
    bool on;

    lock_take(&fs->lock);
    on = fs->writeback;
    lock_drop(&fs->lock);
    return on;
}

/*
 * Flags of the guest's open() that are the host's, too. Not O_APPEND: fs_write() has it from each
 * write, since pages that a guest has mapped are written to their places through the same file. Not
 * O_DIRECT: the guest's buffers are not aligned as the host would want them.
 */
static int host_flags(uint32_t flags, bool writeback)
{
    int acc = (int)(flags & O_ACCMODE);

    /* A guest that caches writes reads the rest of a page first. */
    if (writeback && acc == O_WRONLY)
        acc = O_RDWR;
    return acc | (int)(flags & (O_TRUNC | O_SYNC | O_DSYNC)) | O_CLOEXEC | O_NOCTTY;
}

/* What the guest has in its cache of the file: of no use, still good, or to be looked at. */
static uint32_t answer_flags(struct fs_share *fs, int fd, uint64_t node)
{
    struct stat st;

    switch (fs->cfg.cache) {
    case FS_CACHE_NONE:
        return FOPEN_DIRECT_IO;
    case FS_CACHE_ALWAYS:
        return FOPEN_KEEP_CACHE;
    case FS_CACHE_AUTO:
        break;
    }
    return fstat(fd, &st) == 0 && fs_node_same(fs, node, &st) ? FOPEN_KEEP_CACHE : 0;
}

/* A descriptor, or -errno. */
static int open_node(struct fs_call *c, int node_fd, mode_t type, uint32_t flags, uint32_t how)
{
    bool writeback = has_writeback(c->fs);
    int fd, err;

    if (!S_ISREG(type))
        return S_ISDIR(type) ? -EISDIR : S_ISLNK(type) ? -ELOOP : -ENXIO;
    if ((flags & O_ACCMODE) == O_ACCMODE)
        return -EINVAL;
    if (c->fs->cfg.readonly && ((flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC)))
        return -EROFS;
    if (how & FUSE_OPEN_KILL_SUIDGID)
        fs_creds_drop_fsetid(c->fs);
    fd = open(fs_path(node_fd).s, host_flags(flags, writeback));
    if (fd < 0 && errno == EACCES && writeback) /* one that may only be written */
        fd = open(fs_path(node_fd).s, host_flags(flags, false));
    err = fd < 0 ? -errno : 0;
    if (how & FUSE_OPEN_KILL_SUIDGID)
        fs_creds_back_fsetid(c->fs);
    return err ? err : fd;
}

/* fd is taken over. */
static int answer_open(struct fs_call *c, int fd, uint64_t node, struct fuse_open_out *out)
{
    uint32_t flags = answer_flags(c->fs, fd, node);
    uint64_t id = 0;
    int err = fs_file_add(c->fs, fd, false, &id);

    if (!err)
        *out = (struct fuse_open_out){ .fh = id, .open_flags = flags };
    return err;
}

int fs_open_file(struct fs_call *c)
{
    const struct fuse_open_in *in = (const void *)c->args;
    struct fs_node *n = fs_node_get(c->fs, c->h.nodeid);
    int fd, err;

    if (!n)
        return -ESTALE;
    fd = open_node(c, n->fd, n->type, in->flags, in->open_flags);
    fs_node_put(c->fs, n);
    if (fd < 0)
        return fd;
    err = answer_open(c, fd, c->h.nodeid, (void *)c->out);
    if (!err)
        c->out_bytes = sizeof(struct fuse_open_out);
    return err;
}

int fs_release(struct fs_call *c)
{
    const struct fuse_release_in *in = (const void *)c->args;

    fs_file_release(c->fs, in->fh, false);
    return 0;
}

/* ---- making ---- */

/* A new file as the request's user; name NULL: without a name. A descriptor, or -errno. */
static int make_file(struct fs_call *c, const struct fs_node *dir, const char *name)
{
    const struct fuse_create_in *in = (const void *)c->args;
    int flags = host_flags(in->flags, has_writeback(c->fs));
    int err = fs_creds_enter(c->fs, &c->h), fd;

    if (err)
        return err;
    if (name)
        fd = openat(dir->fd, name, (flags & ~O_TRUNC) | O_CREAT | O_EXCL | O_NOFOLLOW,
                    in->mode & MODE_BITS);
    else
        fd =
            openat(dir->fd, ".", (flags & ~O_TRUNC) | O_TMPFILE | (in->flags & O_EXCL ? O_EXCL : 0),
                   in->mode & MODE_BITS);
    err = fd < 0 ? -errno : 0;
    fs_creds_leave(c->fs);
    return err ? err : fd;
}

/* A file that is there already. Both descriptors, or -errno. */
static int create_old(struct fs_call *c, const struct fs_node *dir, const char *name, int *path_fd)
{
    const struct fuse_create_in *in = (const void *)c->args;
    struct stat st;
    int fd;

    *path_fd = fs_open_beneath(dir->fd, name, 0);
    if (*path_fd < 0)
        return *path_fd;
    if (fstat(*path_fd, &st) < 0)
        fd = -errno;
    else
        fd = open_node(c, *path_fd, st.st_mode & S_IFMT, in->flags, in->open_flags);
    if (fd < 0)
        (void)close(*path_fd);
    return fd;
}

/* Both descriptors, or -errno. */
static int create_new(struct fs_call *c, const struct fs_node *dir, const char *name, int *path_fd)
{
    int fd = make_file(c, dir, name), err;

    if (fd < 0)
        return fd;
    *path_fd = open(fs_path(fd).s, O_PATH | O_CLOEXEC);
    if (*path_fd >= 0)
        return fd;
    err = -errno;
    (void)close(fd);
    return err;
}

/* The answer of CREATE and TMPFILE; both descriptors are taken over. */
static int answer_create(struct fs_call *c, const struct fs_node *dir, int fd, int path_fd)
{
    struct fuse_entry_out *e = (void *)c->out;
    struct stat st;
    int err = fs_lookup_fd(c, dir, path_fd, e, &st);

    if (err) {
        (void)close(fd);
        return err;
    }
    err = answer_open(c, fd, e->nodeid, (void *)(e + 1));
    if (err) /* the guest will not hear of the lookup */
        fs_node_forget(c->fs, e->nodeid, 1);
    else
        c->out_bytes = sizeof(*e) + sizeof(struct fuse_open_out);
    return err;
}

int fs_create(struct fs_call *c)
{
    const struct fuse_create_in *in = (const void *)c->args;
    uint32_t off = sizeof(*in);
    const char *name;
    struct fs_node *dir;
    int fd = -EEXIST, path_fd = -1, err = fs_call_name(c, &off, &name);

    if (err)
        return err;
    if ((in->flags & O_ACCMODE) == O_ACCMODE)
        return -EINVAL;
    dir = fs_node_get(c->fs, c->h.nodeid);
    if (!dir)
        return -ESTALE;
    for (unsigned i = 0; i < CREATE_TRIES && fd == -EEXIST; i++) {
        fd = create_new(c, dir, name, &path_fd);
        if (fd != -EEXIST || (in->flags & O_EXCL))
            break;
        fd = create_old(c, dir, name, &path_fd);
        if (fd == -ENOENT) /* somebody has removed it meanwhile */
            fd = -EEXIST;
    }
    err = fd < 0 ? fd : answer_create(c, dir, fd, path_fd);
    fs_node_put(c->fs, dir);
    return err;
}

int fs_tmpfile(struct fs_call *c)
{
    const struct fuse_create_in *in = (const void *)c->args;
    struct fs_node *dir;
    int fd, path_fd, err;

    /* The host wants one that can be written. */
    if ((in->flags & O_ACCMODE) != O_WRONLY && (in->flags & O_ACCMODE) != O_RDWR)
        return -EINVAL;
    dir = fs_node_get(c->fs, c->h.nodeid);
    if (!dir)
        return -ESTALE;
    fd = create_new(c, dir, NULL, &path_fd);
    err = fd < 0 ? fd : answer_create(c, dir, fd, path_fd);
    fs_node_put(c->fs, dir);
    return err;
}
