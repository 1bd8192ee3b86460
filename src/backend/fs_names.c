/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names in a shared folder: looking them up, making, removing and moving them.
 *
 * Each is one name in one folder that is held by a descriptor, checked by fs_call_name(): no path
 * is ever walked, so there is nothing to escape by. Beyond that openat2() is told to stay beneath.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "backend/fs_priv.h"

#define LINK_MAX_BYTES 4095u
#define MODE_BITS      07777u
#define SEEN_DEVICE    ((uint64_t)3 << 32)

int fs_open_beneath(int dir, const char *name, uint64_t flags)
{
    struct open_how how = { .flags = flags | O_PATH | O_NOFOLLOW | O_CLOEXEC,
                            .resolve =
                                RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS };
    long fd = syscall(SYS_openat2, dir, name, &how, sizeof(how));

    return fd < 0 ? -errno : (int)fd;
}

/* ---- looking up ---- */

int fs_lookup_fd(struct fs_call *c, const struct fs_node *dir, int fd, struct fuse_entry_out *e,
                 struct stat *st)
{
    struct fs_node *n;
    int err;

    if (fstat(fd, st) < 0) {
        err = -errno;
        (void)close(fd);
        return err;
    }
    err = fs_node_add(c->fs, fd, st, dir, &n);
    if (err)
        return err;
    *e = (struct fuse_entry_out){ .nodeid = n->id,
                                  .entry_valid = fs_valid_s(c->fs),
                                  .attr_valid = fs_valid_s(c->fs) };
    fs_fill_attr(c->fs, &e->attr, st, n->submount);
    fs_node_put(c->fs, n);
    return 0;
}

int fs_lookup_name(struct fs_call *c, const struct fs_node *dir, const char *name,
                   struct fuse_entry_out *e, struct stat *st)
{
    int fd = fs_open_beneath(dir->fd, name, 0);

    return fd < 0 ? fd : fs_lookup_fd(c, dir, fd, e, st);
}

/* The folder that a request is about, and one name in it. */
static int names_dir(struct fs_call *c, uint32_t *off, struct fs_node **dir, const char **name)
{
    int err = fs_call_name(c, off, name);

    if (err)
        return err;
    *dir = fs_node_get(c->fs, c->h.nodeid);
    return *dir ? 0 : -ESTALE;
}

int fs_lookup(struct fs_call *c)
{
    struct fuse_entry_out *e = (void *)c->out;
    struct fs_node *dir;
    const char *name;
    uint32_t off = 0;
    struct stat st;
    int err = names_dir(c, &off, &dir, &name);

    if (err)
        return err;
    err = fs_lookup_name(c, dir, name, e, &st);
    fs_node_put(c->fs, dir);
    if (err == -ENOENT && c->fs->cfg.cache == FS_CACHE_ALWAYS) {
        /* Node 0 with a time: the guest may remember that there is nothing. */
        *e = (struct fuse_entry_out){ .entry_valid = fs_valid_s(c->fs) };
        err = 0;
    }
    if (!err)
        c->out_bytes = sizeof(*e);
    return err;
}

int fs_forget(struct fs_call *c)
{
    const struct fuse_forget_in *in = (const void *)c->args;

    fs_node_forget(c->fs, c->h.nodeid, in->nlookup);
    return 0;
}

int fs_batch_forget(struct fs_call *c)
{
    const struct fuse_batch_forget_in *in = (const void *)c->args;
    const struct fuse_forget_one *one = (const void *)(in + 1);
    uint32_t have = (c->args_bytes - (uint32_t)sizeof(*in)) / (uint32_t)sizeof(*one);

    for (uint32_t i = 0; i < MIN(in->count, have); i++)
        fs_node_forget(c->fs, one[i].nodeid, one[i].nlookup);
    return 0;
}

/* ---- making ---- */

/* After something was made: the answer is what is there now. */
static int answer_entry(struct fs_call *c, const struct fs_node *dir, const char *name)
{
    struct stat st;
    int err = fs_lookup_name(c, dir, name, (void *)c->out, &st);

    if (!err)
        c->out_bytes = sizeof(struct fuse_entry_out);
    return err;
}

/* make(): as the request's user; arg: its own. */
static int names_make(struct fs_call *c, uint32_t off,
                      int (*make)(struct fs_call *c, int dir, const char *name, const char *rest),
                      bool has_rest)
{
    const char *name, *rest = NULL;
    struct fs_node *dir;
    int err = names_dir(c, &off, &dir, &name);

    if (err)
        return err;
    if (has_rest)
        rest = fs_call_string(c, &off);
    err = has_rest && !rest ? -EINVAL : fs_creds_enter(c->fs, &c->h);
    if (!err) {
        err = make(c, dir->fd, name, rest);
        fs_creds_leave(c->fs);
    }
    if (!err)
        err = answer_entry(c, dir, name);
    fs_node_put(c->fs, dir);
    return err;
}

static int make_node(struct fs_call *c, int dir, const char *name, const char *rest)
{
    const struct fuse_mknod_in *in = (const void *)c->args;
    mode_t type = in->mode & S_IFMT;

    (void)rest;
    /* A device node would be the host's device for whoever opens it there. But for 0:0, which is
     * none: overlay file systems hide files with it. */
    if (S_ISBLK(type) || (S_ISCHR(type) && in->rdev)) {
        if (log_first(&c->fs->seen, SEEN_DEVICE))
            log_warn("share '%s': the guest makes device nodes; that is refused", c->fs->cfg.tag);
        return -EPERM;
    }
    if (type && !S_ISREG(type) && !S_ISFIFO(type) && !S_ISSOCK(type) && !S_ISCHR(type))
        return -EINVAL;
    return mknodat(dir, name, in->mode & (S_IFMT | MODE_BITS), makedev(0, 0)) < 0 ? -errno : 0;
}

int fs_mknod(struct fs_call *c)
{
    return names_make(c, sizeof(struct fuse_mknod_in), make_node, false);
}

static int make_dir(struct fs_call *c, int dir, const char *name, const char *rest)
{
    const struct fuse_mkdir_in *in = (const void *)c->args;

    (void)rest;
    return mkdirat(dir, name, in->mode & MODE_BITS) < 0 ? -errno : 0;
}

int fs_mkdir(struct fs_call *c)
{
    return names_make(c, sizeof(struct fuse_mkdir_in), make_dir, false);
}

static int make_symlink(struct fs_call *c, int dir, const char *name, const char *target)
{
    (void)c;
    if (!*target)
        return -ENOENT;
    if (strlen(target) > LINK_MAX_BYTES)
        return -ENAMETOOLONG;
    return symlinkat(target, dir, name) < 0 ? -errno : 0;
}

int fs_symlink(struct fs_call *c)
{
    return names_make(c, 0, make_symlink, true);
}

int fs_link(struct fs_call *c)
{
    const struct fuse_link_in *in = (const void *)c->args;
    uint32_t off = sizeof(*in);
    struct fs_node *dir, *n;
    const char *name;
    int err = names_dir(c, &off, &dir, &name);

    if (err)
        return err;
    n = fs_node_get(c->fs, in->oldnodeid);
    if (!n)
        err = -ESTALE;
    else if (S_ISDIR(n->type))
        err = -EPERM;
    /* The descriptor's own name leads to just that file, and no further. */
    else if (linkat(AT_FDCWD, fs_path(n->fd).s, dir->fd, name, AT_SYMLINK_FOLLOW) < 0)
        err = -errno;
    if (!err)
        err = answer_entry(c, dir, name);
    fs_node_put(c->fs, n);
    fs_node_put(c->fs, dir);
    return err;
}

/* ---- removing and moving ---- */

static int names_remove(struct fs_call *c, int flags)
{
    struct fs_node *dir;
    const char *name;
    uint32_t off = 0;
    int err = names_dir(c, &off, &dir, &name);

    if (err)
        return err;
    err = unlinkat(dir->fd, name, flags) < 0 ? -errno : 0;
    fs_node_put(c->fs, dir);
    return err;
}

int fs_unlink(struct fs_call *c)
{
    return names_remove(c, 0);
}

int fs_rmdir(struct fs_call *c)
{
    return names_remove(c, AT_REMOVEDIR);
}

static int names_rename(struct fs_call *c, uint32_t off, uint64_t to_id, uint32_t flags)
{
    struct fs_node *from, *to;
    const char *old, *name;
    int err = names_dir(c, &off, &from, &old);

    if (err)
        return err;
    to = fs_node_get(c->fs, to_id);
    err = to ? fs_call_name(c, &off, &name) : -ESTALE;
    if (!err && renameat2(from->fd, old, to->fd, name, flags) < 0)
        err = -errno;
    fs_node_put(c->fs, to);
    fs_node_put(c->fs, from);
    return err;
}

int fs_rename(struct fs_call *c)
{
    const struct fuse_rename_in *in = (const void *)c->args;

    return names_rename(c, sizeof(*in), in->newdir, 0);
}

int fs_rename2(struct fs_call *c)
{
    const struct fuse_rename2_in *in = (const void *)c->args;

    if (in->flags & ~(uint32_t)(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT))
        return -EINVAL;
    return names_rename(c, sizeof(*in), in->newdir, in->flags);
}
