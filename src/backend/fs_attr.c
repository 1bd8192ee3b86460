/* SPDX-License-Identifier: Apache-2.0 */
/* What a shared folder's server tells and changes of a file's inode: owner, mode, times, size. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "backend/fs_priv.h"

#define VALID_AUTO_S   1u
#define VALID_ALWAYS_S 86400u
#define MODE_BITS      07777u
#define NS_PER_S       1000000000u
#define LINK_MAX_BYTES 4096u

/* How long the guest may believe what it was told. */
uint64_t fs_valid_s(const struct fs_share *fs)
{
    switch (fs->cfg.cache) {
    case FS_CACHE_NONE:
        return 0;
    case FS_CACHE_ALWAYS:
        return VALID_ALWAYS_S;
    case FS_CACHE_AUTO:
        break;
    }
    return VALID_AUTO_S;
}

void fs_fill_attr(const struct fs_share *fs, struct fuse_attr *to, const struct stat *st,
                  bool submount)
{
    unsigned maj = major(st->st_rdev), min = minor(st->st_rdev);

    *to = (struct fuse_attr){
        .ino = st->st_ino,
        .size = (uint64_t)st->st_size,
        .blocks = (uint64_t)st->st_blocks,
        .atime = (uint64_t)st->st_atim.tv_sec,
        .mtime = (uint64_t)st->st_mtim.tv_sec,
        .ctime = (uint64_t)st->st_ctim.tv_sec,
        .atimensec = (uint32_t)st->st_atim.tv_nsec,
        .mtimensec = (uint32_t)st->st_mtim.tv_nsec,
        .ctimensec = (uint32_t)st->st_ctim.tv_nsec,
        .mode = st->st_mode,
        .nlink = (uint32_t)MIN(st->st_nlink, UINT32_MAX),
        .uid = fs_uid_to_guest(fs, st->st_uid),
        .gid = fs_gid_to_guest(fs, st->st_gid),
        .rdev = (min & 0xff) | maj << 8 | (min & ~0xffu) << 12, /* Linux's own 32-bit form */
        .blksize = (uint32_t)st->st_blksize,
        .flags = submount ? FUSE_ATTR_SUBMOUNT : 0,
    };
}

static int answer_attr(struct fs_call *c, const struct fs_node *n)
{
    struct fuse_attr_out *out = (void *)c->out;
    struct stat st;

    if (fstat(n->fd, &st) < 0)
        return -errno;
    *out = (struct fuse_attr_out){ .attr_valid = fs_valid_s(c->fs) };
    fs_fill_attr(c->fs, &out->attr, &st, n->submount);
    c->out_bytes = sizeof(*out);
    return 0;
}

int fs_getattr(struct fs_call *c)
{
    struct fs_node *n = fs_node_get(c->fs, c->h.nodeid);
    int err = n ? answer_attr(c, n) : -ESTALE;

    fs_node_put(c->fs, n);
    return err;
}

/* ---- SETATTR, in the order in which the parts must not undo each other ---- */

/* A new owner takes set-user-ID bits off, so this comes before the mode. */
static int set_owner(struct fs_call *c, const struct fs_node *n, const struct fuse_setattr_in *in)
{
    uid_t uid = in->valid & FATTR_UID ? in->uid : (uid_t)-1;
    gid_t gid = in->valid & FATTR_GID ? in->gid : (gid_t)-1;
    struct stat st;
    int err;

    if (!(in->valid & (FATTR_UID | FATTR_GID)))
        return 0;
    if (fstat(n->fd, &st) < 0)
        return -errno;
    err = fs_owner_to_host(c->fs, &st, &uid, &gid);
    if (err || (uid == (uid_t)-1 && gid == (gid_t)-1))
        return err;
    return fchownat(n->fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

static int set_mode(const struct fs_node *n, const struct fuse_setattr_in *in)
{
    if (!(in->valid & FATTR_MODE))
        return 0;
    if (S_ISLNK(n->type))
        return -EOPNOTSUPP;
    return chmod(fs_path(n->fd).s, in->mode & MODE_BITS) < 0 ? -errno : 0;
}

static int set_size(struct fs_call *c, const struct fs_node *n, const struct fuse_setattr_in *in)
{
    struct fs_file *f = NULL;
    int err;

    if (!(in->valid & FATTR_SIZE))
        return 0;
    if (!S_ISREG(n->type))
        return S_ISDIR(n->type) ? -EISDIR : -EINVAL;
    if (in->size > INT64_MAX)
        return -EFBIG;
    if (in->valid & FATTR_FH) {
        f = fs_file_get(c->fs, in->fh, false);
        if (!f)
            return fs_file_missing(c->fs, in->fh);
    }
    if (in->valid & FATTR_KILL_SUIDGID)
        fs_creds_drop_fsetid(c->fs);
    if (f)
        err = ftruncate(f->fd, (off_t)in->size) < 0 ? -errno : 0;
    else
        err = truncate(fs_path(n->fd).s, (off_t)in->size) < 0 ? -errno : 0;
    if (in->valid & FATTR_KILL_SUIDGID)
        fs_creds_back_fsetid(c->fs);
    fs_file_put(c->fs, f);
    return err;
}

static struct timespec time_of(uint32_t valid, uint32_t set, uint32_t now, uint64_t s, uint32_t ns)
{
    if (!(valid & set))
        return (struct timespec){ .tv_nsec = UTIME_OMIT };
    if (valid & now)
        return (struct timespec){ .tv_nsec = UTIME_NOW };
    return (struct timespec){ .tv_sec = (time_t)s, .tv_nsec = (long)ns };
}

static int set_times(const struct fs_node *n, const struct fuse_setattr_in *in)
{
    struct timespec ts[2];

    if (!(in->valid & (FATTR_ATIME | FATTR_MTIME)))
        return 0;
    ts[0] = time_of(in->valid, FATTR_ATIME, FATTR_ATIME_NOW, in->atime, in->atimensec);
    ts[1] = time_of(in->valid, FATTR_MTIME, FATTR_MTIME_NOW, in->mtime, in->mtimensec);
    return utimensat(n->fd, "", ts, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

/* FATTR_CTIME cannot be done on the host, whose own time it is. */
int fs_setattr(struct fs_call *c)
{
    const struct fuse_setattr_in *in = (const void *)c->args;
    struct fs_node *n;
    int err;

    /* (Such a number would say "now" or "leave it".) */
    if (((in->valid & FATTR_ATIME) && in->atimensec >= NS_PER_S) ||
        ((in->valid & FATTR_MTIME) && in->mtimensec >= NS_PER_S))
        return -EINVAL;
    n = fs_node_get(c->fs, c->h.nodeid);
    if (!n)
        return -ESTALE;
    err = set_owner(c, n, in);
    if (!err)
        err = set_mode(n, in);
    if (!err)
        err = set_size(c, n, in);
    if (!err)
        err = set_times(n, in);
    if (!err)
        err = answer_attr(c, n);
    fs_node_put(c->fs, n);
    return err;
}

/* ---- the rest ---- */

int fs_readlink(struct fs_call *c)
{
    struct fs_node *n = fs_node_get(c->fs, c->h.nodeid);
    ssize_t got = -1;
    int err = 0;

    if (!n)
        return -ESTALE;
    if (!S_ISLNK(n->type))
        err = -EINVAL;
    else
        got = readlinkat(n->fd, "", (char *)c->out, MIN(c->out_max, LINK_MAX_BYTES));
    if (!err && got < 0)
        err = -errno;
    fs_node_put(c->fs, n);
    if (!err)
        c->out_bytes = (uint32_t)got;
    return err;
}

int fs_statfs(struct fs_call *c)
{
    struct fs_node *n = fs_node_get(c->fs, c->h.nodeid);
    struct fuse_statfs_out *out = (void *)c->out;
    struct statfs st;
    int err;

    if (!n)
        return -ESTALE;
    err = fstatfs(n->fd, &st) < 0 ? -errno : 0;
    fs_node_put(c->fs, n);
    if (err)
        return err;
    *out = (struct fuse_statfs_out){ .st = { .blocks = st.f_blocks,
                                             .bfree = st.f_bfree,
                                             .bavail = st.f_bavail,
                                             .files = st.f_files,
                                             .ffree = st.f_ffree,
                                             .bsize = (uint32_t)st.f_bsize,
                                             .namelen = (uint32_t)st.f_namelen,
                                             .frsize = (uint32_t)st.f_frsize } };
    c->out_bytes = sizeof(*out);
    return 0;
}

/* By owner and mode as the guest sees them: its kernel asks only if it does not check them itself.
 */
int fs_access(struct fs_call *c)
{
    const struct fuse_access_in *in = (const void *)c->args;
    struct fs_node *n = fs_node_get(c->fs, c->h.nodeid);
    struct stat st;
    unsigned may;
    int err;

    if (!n)
        return -ESTALE;
    err = fstat(n->fd, &st) < 0 ? -errno : 0;
    fs_node_put(c->fs, n);
    if (err)
        return err;
    if (in->mask & ~(uint32_t)(R_OK | W_OK | X_OK))
        return -EINVAL;
    if ((in->mask & W_OK) && c->fs->cfg.readonly)
        return -EROFS;
    if (!c->h.uid)
        may = R_OK | W_OK | (S_ISDIR(st.st_mode) || (st.st_mode & 0111) ? X_OK : 0);
    else if (c->h.uid == fs_uid_to_guest(c->fs, st.st_uid))
        may = st.st_mode >> 6;
    else if (c->h.gid == fs_gid_to_guest(c->fs, st.st_gid))
        may = st.st_mode >> 3;
    else
        may = st.st_mode;
    return in->mask & ~may ? -EACCES : 0;
}
