/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Extended attributes in a shared folder. The guest has those of users and of its overlay file
 * systems, and file capabilities, which are not worse than the set-user-ID bits it may set anyway.
 * It has not the host's own: labels of its security modules, and access control lists, which the
 * guest's kernel would have to enforce, too.
 */
#include <errno.h>
#include <string.h>
#include <sys/xattr.h>

#include "backend/fs_priv.h"

#define NAME_BYTES_MAX 255u
#define VALUE_MAX      65536u
#define LIST_MAX       65536u

static bool xattr_allowed(const char *name)
{
    static const char *const prefixes[] = { "user.", "trusted." };

    for (unsigned i = 0; i < ARRAY_SIZE(prefixes); i++)
        if (!strncmp(name, prefixes[i], strlen(prefixes[i])))
            return true;
    return !strcmp(name, "security.capability");
}

/* 0 or -errno. */
static int xattr_name(const struct fs_call *c, uint32_t *off, const char **name)
{
    *name = fs_call_string(c, off);
    if (!*name || !**name)
        return -EINVAL;
    if (strlen(*name) > NAME_BYTES_MAX)
        return -ERANGE;
    return xattr_allowed(*name) ? 0 : -EOPNOTSUPP;
}

int fs_setxattr(struct fs_call *c)
{
    const struct fuse_setxattr_in *in = (const void *)c->args;
    uint32_t off = FUSE_COMPAT_SETXATTR_IN_SIZE; /* FUSE_SETXATTR_EXT is not offered */
    struct fs_node *n;
    const char *name;
    int err = xattr_name(c, &off, &name);

    if (err)
        return err;
    if (in->size > VALUE_MAX)
        return -E2BIG;
    if (in->size != c->args_bytes - off || (in->flags & ~(uint32_t)(XATTR_CREATE | XATTR_REPLACE)))
        return -EINVAL;
    n = fs_node_get(c->fs, c->h.nodeid);
    if (!n)
        return -ESTALE;
    if (setxattr(fs_path(n->fd).s, name, c->args + off, in->size, (int)in->flags) < 0)
        err = -errno;
    fs_node_put(c->fs, n);
    return err;
}

/* Both kinds of answers: the bytes, or, if there is no room wanted, how many there are. */
static int xattr_answer(struct fs_call *c, uint32_t room, ssize_t got)
{
    struct fuse_getxattr_out *out = (void *)c->out;

    if (got < 0)
        return -errno;
    if (room) {
        c->out_bytes = (uint32_t)got;
        return 0;
    }
    if (c->out_max < sizeof(*out))
        return -EINVAL;
    *out = (struct fuse_getxattr_out){ .size = (uint32_t)got };
    c->out_bytes = sizeof(*out);
    return 0;
}

int fs_getxattr(struct fs_call *c)
{
    const struct fuse_getxattr_in *in = (const void *)c->args;
    uint32_t off = sizeof(*in), room = MIN(in->size, c->out_max);
    struct fs_node *n;
    const char *name;
    int err = xattr_name(c, &off, &name);
    ssize_t got;

    if (err)
        return err;
    n = fs_node_get(c->fs, c->h.nodeid);
    if (!n)
        return -ESTALE;
    got = getxattr(fs_path(n->fd).s, name, c->out, room);
    err = xattr_answer(c, room, got);
    fs_node_put(c->fs, n);
    return err;
}

/* Leaves those that the guest may see, and returns how many bytes they are. */
static ssize_t list_trim(char *list, ssize_t bytes)
{
    ssize_t kept = 0;

    for (ssize_t at = 0; at < bytes;) {
        ssize_t len = (ssize_t)strlen(list + at) + 1;

        if (xattr_allowed(list + at)) {
            memmove(list + kept, list + at, (size_t)len);
            kept += len;
        }
        at += len;
    }
    return kept;
}

/* The whole list is read, whatever the guest has room for: it must be trimmed to know its size. */
int fs_listxattr(struct fs_call *c)
{
    const struct fuse_getxattr_in *in = (const void *)c->args;
    struct fs_node *n = fs_node_get(c->fs, c->h.nodeid);
    uint32_t room = MIN(in->size, c->out_max);
    ssize_t got;
    int err;

    _Static_assert(LIST_MAX <= FS_REPLY_MAX - FS_OUT_BYTES, "the reply's buffer has room");
    if (!n)
        return -ESTALE;
    got = listxattr(fs_path(n->fd).s, (char *)c->out, LIST_MAX);
    err = got < 0 ? -errno : 0;
    fs_node_put(c->fs, n);
    if (err)
        return err;
    got = list_trim((char *)c->out, got);
    if (room && got > room)
        return -ERANGE;
    return xattr_answer(c, room, got);
}

int fs_removexattr(struct fs_call *c)
{
    struct fs_node *n;
    uint32_t off = 0;
    const char *name;
    int err = xattr_name(c, &off, &name);

    if (err)
        return err;
    n = fs_node_get(c->fs, c->h.nodeid);
    if (!n)
        return -ESTALE;
    if (removexattr(fs_path(n->fd).s, name) < 0)
        err = -errno;
    fs_node_put(c->fs, n);
    return err;
}
