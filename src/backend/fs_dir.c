/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Folders of a share that the guest has open. A position in one is the host's own cookie (d_off),
 * which the host's file system checks when it comes back.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "backend/fs_priv.h"

#define ENTRIES_BYTES KIB(32) /* of the host's entries, read at once */
#define ENTRY_BYTES   280u    /* of its longest one */

int fs_opendir(struct fs_call *c)
{
    struct fuse_open_out *out = (void *)c->out;
    struct fs_node *n = fs_node_get(c->fs, c->h.nodeid);
    uint64_t id = 0;
    int fd, err;

    if (!n)
        return -ESTALE;
    fd = S_ISDIR(n->type) ? open(fs_path(n->fd).s, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    err = !S_ISDIR(n->type) ? -ENOTDIR : fd < 0 ? -errno : 0;
    fs_node_put(c->fs, n);
    if (!err)
        err = fs_file_add(c->fs, fd, true, &id);
    if (err)
        return err;
    *out = (struct fuse_open_out){ .fh = id };
    if (c->fs->cfg.cache == FS_CACHE_ALWAYS)
        out->open_flags = FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR;
    c->out_bytes = sizeof(*out);
    return 0;
}

int fs_releasedir(struct fs_call *c)
{
    const struct fuse_release_in *in = (const void *)c->args;

    fs_file_release(c->fs, in->fh, true);
    return 0;
}

int fs_fsyncdir(struct fs_call *c)
{
    return fs_file_sync(c, true);
}

/* What was written is to survive a power cut: the guest's sync(). */
int fs_syncfs(struct fs_call *c)
{
    struct fs_node *n;
    int fd, err;

    if (c->fs->cfg.readonly)
        return 0;
    n = fs_node_get(c->fs, c->h.nodeid);
    if (!n)
        return -ESTALE;
    fd = S_ISDIR(n->type) ? open(fs_path(n->fd).s, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    err = !S_ISDIR(n->type) ? -ENOTDIR : fd < 0 ? -errno : 0;
    fs_node_put(c->fs, n);
    if (err)
        return err;
    err = syncfs(fd) < 0 ? -errno : 0;
    (void)close(fd);
    return err;
}

/* ---- READDIR and READDIRPLUS ---- */

struct listing {
    struct fs_call *c;
    const struct fs_node *dir;
    uint32_t room; /* of the answer */
    bool plus;
};

static bool is_dots(const char *name)
{
    /* NOLINTNEXTLINE(clang-analyzer-core.UndefinedBinaryOperatorResult): getdents64() wrote it */
    return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

/* The name itself, behind what is told of the file (READDIRPLUS). */
static void list_dirent(uint8_t *to, const struct dirent64 *d, size_t len, bool is_root)
{
    struct fuse_dirent *e = (void *)to;

    *e = (struct fuse_dirent){
        .ino = d->d_ino, .off = (uint64_t)d->d_off, .namelen = (uint32_t)len, .type = d->d_type
    };
    /* What is above the shared folder is nobody's business. */
    if (is_root && !strcmp(d->d_name, ".."))
        e->ino = FUSE_ROOT_ID;
    memcpy(to + FUSE_NAME_OFFSET, d->d_name, len);
    memset(to + FUSE_NAME_OFFSET + len, 0,
           FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + len) - (FUSE_NAME_OFFSET + len));
}

/* Adds an entry. False: there is no room. */
static bool list_one(struct listing *l, const struct dirent64 *d)
{
    struct fs_call *c = l->c;
    size_t len = strlen(d->d_name), head = l->plus ? sizeof(struct fuse_entry_out) : 0;
    size_t bytes = head + FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + len);
    uint8_t *to = c->out + c->out_bytes;
    struct fuse_entry_out *e = (void *)to;
    struct stat st;

    if (bytes > l->room - c->out_bytes)
        return false;
    if (l->plus) {
        /* Node 0: the guest gets the name alone, and looks it up when it wants to. */
        *e = (struct fuse_entry_out){ .nodeid = 0 };
        if (!is_dots(d->d_name) && !fs_nodes_full(c->fs) &&
            fs_lookup_name(c, l->dir, d->d_name, e, &st) < 0)
            *e = (struct fuse_entry_out){ .nodeid = 0 };
    }
    list_dirent(to + head, d, len, l->dir->id == FUSE_ROOT_ID);
    c->out_bytes += (uint32_t)bytes;
    return true;
}

/* Reads entries of the host from a position on. Bytes or -errno. */
static long list_read(struct fs_file *f, uint64_t off, uint8_t *buf, size_t bytes)
{
    long got;

    lock_take(&f->pos); /* of which there is one for all requests */
    got = lseek(f->fd, (off_t)off, SEEK_SET) < 0 ? -1 : getdents64(f->fd, buf, bytes);
    if (got < 0)
        got = -errno;
    lock_drop(&f->pos);
    return got;
}

static int list(struct fs_call *c, bool plus)
{
    const struct fuse_read_in *in = (const void *)c->args;
    struct fs_file *f = fs_file_get(c->fs, in->fh, true);
    struct fs_node *dir = fs_node_get(c->fs, c->h.nodeid);
    struct listing l = { .c = c, .dir = dir, .room = MIN(in->size, c->out_max), .plus = plus };
    _Alignas(struct dirent64) uint8_t buf[ENTRIES_BYTES];
    /* About as much as there will be room for: what is left over is read again. */
    size_t want = MIN(sizeof(buf), MAX(l.room / (plus ? 5 : 1), ENTRY_BYTES));
    long got = f && dir ? list_read(f, in->offset, buf, want)
               : dir    ? fs_file_missing(c->fs, in->fh)
                        : -ESTALE;
    long at = 0;

    while (at < got) {
        const struct dirent64 *d = (const void *)(buf + at);

        if (!list_one(&l, d))
            break;
        at += d->d_reclen;
    }
    fs_node_put(c->fs, dir);
    fs_file_put(c->fs, f);
    if (got < 0)
        return (int)got;
    return got && !at ? -EINVAL : 0; /* no room even for one */
}

int fs_readdir(struct fs_call *c)
{
    return list(c, false);
}

int fs_readdirplus(struct fs_call *c)
{
    return list(c, true);
}
