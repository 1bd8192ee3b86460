/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests of the FUSE protocol: what each operation needs, checks that all have in common, and the
 * session's beginning and end. The protocol is described by <linux/fuse.h>.
 *
 * What is not in the table is answered with ENOSYS, after which Linux does without: locks are the
 * guest kernel's own then (GETLK, SETLK, SETLKW), POLL and BMAP are not of use, IOCTL has no
 * meaning on another machine's files. INTERRUPT needs no answer, and may come too late: here it
 * always does.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "backend/fs_priv.h"

#define MINOR_MIN       31u /* the first with virtio-fs; structures have had their sizes since */
#define MINOR_MAX       37u
#define NAME_BYTES_MAX  255u
#define MAX_BACKGROUND  64u
#define CONGESTION      48u
#define GUEST_PAGE      4096u
#define SEEN_OP(op)     ((uint64_t)1 << 32 | (op))
#define SEEN_BAD_OP(op) ((uint64_t)2 << 32 | (op))

_Static_assert(sizeof(struct fuse_in_header) == FS_HEAD_BYTES &&
                   sizeof(struct fuse_out_header) == FS_OUT_BYTES,
               "linux/fuse.h");
_Static_assert(offsetof(struct fuse_init_in, flags) + 4 == 16, "FUSE_INIT before 7.36");

/* ---- the session ---- */

static uint32_t init_flags(const struct fs_share *fs)
{
    uint32_t flags = FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES | FUSE_DO_READDIRPLUS |
                     FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS |
                     FUSE_HANDLE_KILLPRIV_V2 | FUSE_MAX_PAGES | FUSE_SUBMOUNTS;

    if (fs->cfg.cache == FS_CACHE_AUTO)
        flags |= FUSE_AUTO_INVAL_DATA;
    if (fs->cfg.cache == FS_CACHE_ALWAYS)
        flags |= FUSE_CACHE_SYMLINKS | (fs->cfg.readonly ? 0 : FUSE_WRITEBACK_CACHE);
    return flags;
}

static int fs_init(struct fs_call *c)
{
    const struct fuse_init_in *in = (const void *)c->args;
    struct fuse_init_out *out = (void *)c->out;
    struct fs_share *fs = c->fs;

    *out = (struct fuse_init_out){ .major = FUSE_KERNEL_VERSION, .minor = MINOR_MAX };
    c->out_bytes = sizeof(*out);
    if (in->major > FUSE_KERNEL_VERSION) /* it asks again, with ours */
        return 0;
    if (in->major < FUSE_KERNEL_VERSION || in->minor < MINOR_MIN) {
        log_warn("share '%s': the guest speaks FUSE %u.%u; needed is 7.%u or later", fs->cfg.tag,
                 in->major, in->minor, MINOR_MIN);
        return -EPROTO;
    }
    fs_end_session(fs); /* of before, if it has not said DESTROY */
    fs_collect(fs);
    out->minor = MIN(in->minor, MINOR_MAX);
    out->max_readahead = in->max_readahead;
    out->flags = in->flags & init_flags(fs);
    out->max_background = MAX_BACKGROUND;
    out->congestion_threshold = CONGESTION;
    out->max_write = FS_DATA_MAX;
    out->time_gran = 1;
    out->max_pages = FS_DATA_MAX / GUEST_PAGE;
    if (!(out->flags & FUSE_MAX_PAGES))
        out->max_write = 32 * GUEST_PAGE; /* what a guest sends without it */
    lock_take(&fs->lock);
    fs->writeback = out->flags & FUSE_WRITEBACK_CACHE;
    fs->ready = true;
    lock_drop(&fs->lock);
    return 0;
}

static int fs_destroy(struct fs_call *c)
{
    fs_end_session(c->fs);
    fs_collect(c->fs);
    return 0;
}

static int fs_interrupt(struct fs_call *c)
{
    (void)c;
    return 0;
}

/* ---- the operations ---- */

#define NO_ANSWER BIT(0)
#define CHANGES   BIT(1) /* what a share that is read-only refuses */
#define ANY_TIME  BIT(2) /* also without a session */

static const struct fs_op {
    const char *name;
    int (*handle)(struct fs_call *c);
    uint32_t args_min, out_min;
    unsigned flags;
} fs_ops[] = {
    [FUSE_LOOKUP] = { "LOOKUP", fs_lookup, 2, sizeof(struct fuse_entry_out), 0 },
    [FUSE_FORGET] = { "FORGET", fs_forget, sizeof(struct fuse_forget_in), 0, NO_ANSWER },
    [FUSE_GETATTR] = { "GETATTR", fs_getattr, sizeof(struct fuse_getattr_in),
                       sizeof(struct fuse_attr_out), 0 },
    [FUSE_SETATTR] = { "SETATTR", fs_setattr, sizeof(struct fuse_setattr_in),
                       sizeof(struct fuse_attr_out), CHANGES },
    [FUSE_READLINK] = { "READLINK", fs_readlink, 0, 1, 0 },
    [FUSE_SYMLINK] = { "SYMLINK", fs_symlink, 4, sizeof(struct fuse_entry_out), CHANGES },
    [FUSE_MKNOD] = { "MKNOD", fs_mknod, sizeof(struct fuse_mknod_in) + 2,
                     sizeof(struct fuse_entry_out), CHANGES },
    [FUSE_MKDIR] = { "MKDIR", fs_mkdir, sizeof(struct fuse_mkdir_in) + 2,
                     sizeof(struct fuse_entry_out), CHANGES },
    [FUSE_UNLINK] = { "UNLINK", fs_unlink, 2, 0, CHANGES },
    [FUSE_RMDIR] = { "RMDIR", fs_rmdir, 2, 0, CHANGES },
    [FUSE_RENAME] = { "RENAME", fs_rename, sizeof(struct fuse_rename_in) + 4, 0, CHANGES },
    [FUSE_LINK] = { "LINK", fs_link, sizeof(struct fuse_link_in) + 2, sizeof(struct fuse_entry_out),
                    CHANGES },
    [FUSE_OPEN] = { "OPEN", fs_open_file, sizeof(struct fuse_open_in), sizeof(struct fuse_open_out),
                    0 },
    [FUSE_READ] = { "READ", fs_read, sizeof(struct fuse_read_in), 0, 0 },
    [FUSE_WRITE] = { "WRITE", fs_write, sizeof(struct fuse_write_in), sizeof(struct fuse_write_out),
                     CHANGES },
    [FUSE_STATFS] = { "STATFS", fs_statfs, 0, sizeof(struct fuse_statfs_out), 0 },
    [FUSE_RELEASE] = { "RELEASE", fs_release, sizeof(struct fuse_release_in), 0, 0 },
    [FUSE_FSYNC] = { "FSYNC", fs_fsync, sizeof(struct fuse_fsync_in), 0, 0 },
    [FUSE_SETXATTR] = { "SETXATTR", fs_setxattr, FUSE_COMPAT_SETXATTR_IN_SIZE + 2, 0, CHANGES },
    [FUSE_GETXATTR] = { "GETXATTR", fs_getxattr, sizeof(struct fuse_getxattr_in) + 2, 0, 0 },
    [FUSE_LISTXATTR] = { "LISTXATTR", fs_listxattr, sizeof(struct fuse_getxattr_in), 0, 0 },
    [FUSE_REMOVEXATTR] = { "REMOVEXATTR", fs_removexattr, 2, 0, CHANGES },
    [FUSE_FLUSH] = { "FLUSH", fs_flush, sizeof(struct fuse_flush_in), 0, 0 },
    [FUSE_INIT] = { "INIT", fs_init, 16, sizeof(struct fuse_init_out), ANY_TIME },
    [FUSE_OPENDIR] = { "OPENDIR", fs_opendir, sizeof(struct fuse_open_in),
                       sizeof(struct fuse_open_out), 0 },
    [FUSE_READDIR] = { "READDIR", fs_readdir, sizeof(struct fuse_read_in), 0, 0 },
    [FUSE_RELEASEDIR] = { "RELEASEDIR", fs_releasedir, sizeof(struct fuse_release_in), 0, 0 },
    [FUSE_FSYNCDIR] = { "FSYNCDIR", fs_fsyncdir, sizeof(struct fuse_fsync_in), 0, 0 },
    [FUSE_ACCESS] = { "ACCESS", fs_access, sizeof(struct fuse_access_in), 0, 0 },
    [FUSE_CREATE] = { "CREATE", fs_create, sizeof(struct fuse_create_in) + 2,
                      sizeof(struct fuse_entry_out) + sizeof(struct fuse_open_out), CHANGES },
    [FUSE_INTERRUPT] = { "INTERRUPT", fs_interrupt, sizeof(struct fuse_interrupt_in), 0,
                         NO_ANSWER },
    [FUSE_DESTROY] = { "DESTROY", fs_destroy, 0, 0, ANY_TIME },
    [FUSE_BATCH_FORGET] = { "BATCH_FORGET", fs_batch_forget, sizeof(struct fuse_batch_forget_in), 0,
                            NO_ANSWER },
    [FUSE_FALLOCATE] = { "FALLOCATE", fs_fallocate, sizeof(struct fuse_fallocate_in), 0, CHANGES },
    [FUSE_READDIRPLUS] = { "READDIRPLUS", fs_readdirplus, sizeof(struct fuse_read_in), 0, 0 },
    [FUSE_RENAME2] = { "RENAME2", fs_rename2, sizeof(struct fuse_rename2_in) + 4, 0, CHANGES },
    [FUSE_LSEEK] = { "LSEEK", fs_lseek, sizeof(struct fuse_lseek_in), sizeof(struct fuse_lseek_out),
                     0 },
    [FUSE_COPY_FILE_RANGE] = { "COPY_FILE_RANGE", fs_copy_file_range,
                               sizeof(struct fuse_copy_file_range_in),
                               sizeof(struct fuse_write_out), CHANGES },
    [FUSE_SYNCFS] = { "SYNCFS", fs_syncfs, 0, 0, 0 },
    [FUSE_TMPFILE] = { "TMPFILE", fs_tmpfile, sizeof(struct fuse_create_in),
                       sizeof(struct fuse_entry_out) + sizeof(struct fuse_open_out), CHANGES },
};

static const struct fs_op *op_find(uint32_t opcode)
{
    return opcode < ARRAY_SIZE(fs_ops) && fs_ops[opcode].name ? &fs_ops[opcode] : NULL;
}

static bool session_ready(struct fs_share *fs)
{
    bool ready;

    lock_take(&fs->lock);
    ready = fs->ready;
    lock_drop(&fs->lock);
    return ready;
}

/* 0: the handler may look. */
static int call_check(const struct fs_call *c, const struct fs_op *op)
{
    struct fs_share *fs = c->fs;

    if (!op) {
        if (log_first(&fs->seen, SEEN_OP(c->h.opcode)))
            log_debug("share '%s': the guest asks for operation %u, which there is not",
                      fs->cfg.tag, c->h.opcode);
        return -ENOSYS;
    }
    if (c->h.len != c->r->out_bytes || c->args_bytes < op->args_min || c->out_max < op->out_min) {
        if (log_first(&fs->seen, SEEN_BAD_OP(c->h.opcode)))
            log_warn("share '%s': the guest's %s says %u bytes, has %u, and room for %u",
                     fs->cfg.tag, op->name, c->h.len, c->r->out_bytes, c->r->in_bytes);
        return -EINVAL;
    }
    if (!(op->flags & ANY_TIME) && !session_ready(fs))
        return -ENOTCONN;
    if ((op->flags & CHANGES) && fs->cfg.readonly)
        return -EROFS;
    return 0;
}

void fs_serve(struct fs_share *fs, struct fs_req *r)
{
    struct fuse_out_header *out = (void *)r->reply;
    struct fs_call c = { .fs = fs, .r = r };
    const struct fs_op *op;
    int err;

    BUG_ON(r->out_bytes < FS_HEAD_BYTES || r->nr_out + r->nr_in > FS_IOV_MAX);
    memcpy(&c.h, r->args, sizeof(c.h));
    c.args = r->args + FS_HEAD_BYTES;
    c.args_bytes = (uint32_t)MIN(r->out_bytes, FS_ARGS_MAX) - FS_HEAD_BYTES;
    c.out = r->reply + FS_OUT_BYTES;
    c.out_max =
        r->in_bytes < FS_OUT_BYTES ? 0 : (uint32_t)MIN(r->in_bytes, FS_REPLY_MAX) - FS_OUT_BYTES;
    r->reply_bytes = r->nr_written = 0;
    op = op_find(c.h.opcode);
    err = call_check(&c, op);
    if (r->in_bytes < FS_OUT_BYTES && !(op && (op->flags & NO_ANSWER)))
        return; /* nothing is done of which nobody would hear */
    if (!err)
        err = op->handle(&c);
    if (r->in_bytes < FS_OUT_BYTES || (op && (op->flags & NO_ANSWER)))
        return;
    if (err)
        c.out_bytes = c.direct_bytes = 0;
    *out = (struct fuse_out_header){ .len = FS_OUT_BYTES + c.out_bytes + c.direct_bytes,
                                     .error = err,
                                     .unique = c.h.unique };
    r->reply_bytes = FS_OUT_BYTES + c.out_bytes;
    r->nr_written = out->len;
}

/* ---- for handlers ---- */

const char *fs_call_string(const struct fs_call *c, uint32_t *off)
{
    const char *s = (const char *)c->args + *off;
    const char *end;

    if (*off >= c->args_bytes)
        return NULL;
    end = memchr(s, 0, c->args_bytes - *off);
    if (!end)
        return NULL;
    *off = (uint32_t)(end + 1 - (const char *)c->args);
    return s;
}

int fs_call_name(const struct fs_call *c, uint32_t *off, const char **name)
{
    *name = fs_call_string(c, off);
    if (!*name || !**name || strchr(*name, '/') || !strcmp(*name, ".") || !strcmp(*name, ".."))
        return -EINVAL;
    return strlen(*name) > NAME_BYTES_MAX ? -ENAMETOOLONG : 0;
}

unsigned fs_iov_slice(struct host_iov *to, const struct host_iov *from, unsigned nr, uint64_t skip,
                      uint64_t bytes)
{
    unsigned out = 0;

    for (unsigned i = 0; i < nr && bytes; i++) {
        uint64_t have = from[i].bytes, n;

        if (skip >= have) {
            skip -= have;
            continue;
        }
        n = MIN(have - skip, bytes);
        to[out++] = (struct host_iov){ .base = (uint8_t *)from[i].base + skip, .bytes = n };
        bytes -= n;
        skip = 0;
    }
    return out;
}

struct fs_path fs_path(int fd)
{
    struct fs_path p;

    (void)snprintf(p.s, sizeof(p.s), "/proc/self/fd/%d", fd);
    return p;
}
