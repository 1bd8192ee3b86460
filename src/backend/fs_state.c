/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A share in a snapshot: what the guest has looked up and opened, and how it is found again.
 *
 * The guest goes on with the numbers it has, so each node and each open file is saved with its
 * number, and with the name that it has below the shared folder. A restored share opens it by that
 * name, beneath the folder and through no symbolic link. If the folder is the one it was, what is
 * found must also be the same file, by the host's handle for it or else its inode's number; a copy
 * of the folder is taken at its names. What is not found, is another file, or had no name any more
 * when it was saved, is lost: the guest gets ESTALE for its number, upon which Linux looks names
 * up again.
 *
 * The state is a stranger's: names are checked, counts are bounded by what there is, and handles
 * are compared, never opened. Little endian, without padding.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/fs_priv.h"

#define NAME_BYTES_MAX   255u
#define HANDLE_BYTES_MAX (4u + MAX_HANDLE_SZ) /* with its type */
#define FLAG_READY       BIT(0)
#define FLAG_WRITEBACK   BIT(1)
#define NODE_SUBMOUNT    BIT(0)
#define FILE_DIR         BIT(0)
#define OPEN_FLAGS       ((uint32_t)(O_ACCMODE | O_SYNC | O_DSYNC))

/* By which something is known again. */
struct ident {
    uint32_t type; /* S_IFMT's bits */
    uint64_t ino;
    uint16_t path_bytes;   /* 0: it has no name */
    uint16_t handle_bytes; /* 0: there is none */
    uint8_t handle[HANDLE_BYTES_MAX];
    char path[PATH_MAX]; /* with a 0 */
};

/* ---- bytes out and in ---- */

struct out {
    uint8_t *data;
    size_t bytes, room;
    bool failed;
};

static void put(struct out *o, const void *from, size_t bytes)
{
    if (!o->failed && bytes > o->room - o->bytes) {
        size_t room = MAX(2 * o->room, o->bytes + bytes + 4096);
        uint8_t *data = realloc(o->data, room);

        o->failed = !data;
        if (data) {
            o->data = data;
            o->room = room;
        }
    }
    if (o->failed)
        return;
    memcpy(o->data + o->bytes, from, bytes);
    o->bytes += bytes;
}

static void put_number(struct out *o, uint64_t val, size_t bytes)
{
    put(o, &val, bytes); /* the host is little endian */
}

struct in {
    const uint8_t *at;
    size_t left;
    bool wrong;
};

static const uint8_t *take(struct in *in, size_t bytes)
{
    const uint8_t *at = in->at;

    if (in->wrong || bytes > in->left) {
        in->wrong = true;
        return NULL;
    }
    in->at += bytes;
    in->left -= bytes;
    return at;
}

static uint64_t take_number(struct in *in, size_t bytes)
{
    const uint8_t *at = take(in, bytes);
    uint64_t val = 0;

    if (at)
        memcpy(&val, at, bytes);
    return val;
}

/* ---- what something is ---- */

static void ident_handle(struct ident *id, int fd)
{
    union {
        struct file_handle h;
        uint8_t bytes[sizeof(struct file_handle) + MAX_HANDLE_SZ];
    } u = { .h = { .handle_bytes = MAX_HANDLE_SZ } };
    int mount_id;

    id->handle_bytes = 0;
    if (name_to_handle_at(fd, "", &u.h, &mount_id, AT_EMPTY_PATH) < 0)
        return;
    memcpy(id->handle, &u.h.handle_type, 4);
    memcpy(id->handle + 4, u.h.f_handle, u.h.handle_bytes);
    id->handle_bytes = (uint16_t)(4 + u.h.handle_bytes);
}

/* The name that fd has below the folder, if it leads there. */
static void ident_path(const struct fs_share *fs, struct ident *id, const struct stat *st, int fd)
{
    char root[PATH_MAX], path[PATH_MAX];
    ssize_t root_bytes = readlink(fs_path(fs->root_fd).s, root, sizeof(root));
    ssize_t bytes = readlink(fs_path(fd).s, path, sizeof(path));
    struct stat found;
    int check;

    id->path_bytes = 0;
    if (root_bytes == 1) /* "/" */
        root_bytes = 0;
    if (root_bytes < 0 || bytes <= root_bytes + 1 || bytes == (ssize_t)sizeof(path) ||
        memcmp(path, root, (size_t)root_bytes) != 0 || path[root_bytes] != '/')
        return;
    bytes -= root_bytes + 1;
    memcpy(id->path, path + root_bytes + 1, (size_t)bytes);
    id->path[bytes] = 0;
    check = fs_open_beneath(fs->root_fd, id->path, 0);
    if (check < 0)
        return;
    if (fstat(check, &found) == 0 && found.st_dev == st->st_dev && found.st_ino == st->st_ino)
        id->path_bytes = (uint16_t)bytes;
    (void)close(check);
}

/* False: of a descriptor of no use (and then it is saved as lost). */
static bool ident_of(const struct fs_share *fs, struct ident *id, int fd)
{
    struct stat st;

    id->path_bytes = id->handle_bytes = 0;
    id->type = 0;
    id->ino = 0;
    if (fd < 0 || fstat(fd, &st) < 0)
        return false;
    id->type = st.st_mode & S_IFMT;
    id->ino = st.st_ino;
    ident_handle(id, fd);
    ident_path(fs, id, &st, fd);
    return id->path_bytes;
}

static void put_ident(struct out *o, const struct ident *id)
{
    put_number(o, id->type, 4);
    put_number(o, id->ino, 8);
    put_number(o, id->path_bytes, 2);
    put(o, id->path, id->path_bytes);
    put_number(o, id->handle_bytes, 2);
    put(o, id->handle, id->handle_bytes);
}

/* One name after the other, none of which leads up or is empty. */
static bool path_is_plain(const char *path)
{
    for (;;) {
        size_t n = strcspn(path, "/");

        if (!n || n > NAME_BYTES_MAX || (n == 1 && path[0] == '.') ||
            (n == 2 && path[0] == '.' && path[1] == '.'))
            return false;
        if (!path[n])
            return true;
        path += n + 1;
    }
}

static bool take_ident(struct in *in, struct ident *id)
{
    const uint8_t *at;

    id->type = (uint32_t)take_number(in, 4);
    id->ino = take_number(in, 8);
    id->path_bytes = (uint16_t)take_number(in, 2);
    at = id->path_bytes < sizeof(id->path) ? take(in, id->path_bytes) : NULL;
    if (!at)
        return false;
    memcpy(id->path, at, id->path_bytes);
    id->path[id->path_bytes] = 0;
    id->handle_bytes = (uint16_t)take_number(in, 2);
    at = id->handle_bytes <= sizeof(id->handle) ? take(in, id->handle_bytes) : NULL;
    if (!at)
        return false;
    memcpy(id->handle, at, id->handle_bytes);
    return !id->path_bytes || (strlen(id->path) == id->path_bytes && path_is_plain(id->path));
}

/* Are these the same, on the same file system? */
static bool ident_same(const struct ident *saved, const struct ident *now)
{
    if (saved->type != now->type)
        return false;
    if (saved->handle_bytes && now->handle_bytes)
        return saved->handle_bytes == now->handle_bytes &&
               !memcmp(saved->handle, now->handle, now->handle_bytes);
    return saved->ino == now->ino;
}

/* O_PATH; -1: it is lost. */
static int ident_open(const struct fs_share *fs, const struct ident *id, bool same_folder)
{
    int fd = id->path_bytes ? fs_open_beneath(fs->root_fd, id->path, 0) : -1;
    struct ident now;
    struct stat st;

    if (fd < 0)
        return -1;
    if (fstat(fd, &st) == 0 && (st.st_mode & S_IFMT) == id->type) {
        now.type = id->type;
        now.ino = st.st_ino;
        ident_handle(&now, fd);
        if (!same_folder || ident_same(id, &now))
            return fd;
    }
    (void)close(fd);
    return -1;
}

/* ---- saving: no request is out, so nobody else changes the tables ---- */

static void put_turns(struct out *o, const struct fs_table *t)
{
    put_number(o, t->nr, 4);
    for (uint32_t i = 0; i < t->nr; i++)
        put_number(o, t->slots[i].turn, 4);
}

static void put_nodes(struct out *o, struct fs_share *fs, struct ident *id)
{
    put_number(o, fs->nodes.nr_items - 1, 4);
    for (uint32_t i = FUSE_ROOT_ID + 1; i < fs->nodes.nr; i++) {
        const struct fs_node *n = fs->nodes.slots[i].item;
        struct fs_node *open;

        if (!n)
            continue;
        open = fs_node_get(fs, n->id);
        (void)ident_of(fs, id, open ? open->fd : -1);
        put_number(o, i, 4);
        put_number(o, n->nr_lookups, 8);
        put_number(o, (uint64_t)n->opened_ctime.tv_sec, 8);
        put_number(o, (uint64_t)n->opened_ctime.tv_nsec, 4);
        put_number(o, (uint64_t)n->opened_bytes, 8);
        put_number(o, n->submount ? NODE_SUBMOUNT : 0, 1);
        put_ident(o, id);
        fs_node_put(fs, open);
    }
}

static void put_files(struct out *o, struct fs_share *fs, struct ident *id)
{
    unsigned nr_nameless = 0;

    put_number(o, fs->files.nr_items, 4);
    for (uint32_t i = 1; i < fs->files.nr; i++) {
        const struct fs_file *f = fs->files.slots[i].item;
        int flags;

        if (!f)
            continue;
        nr_nameless += !ident_of(fs, id, f->fd);
        flags = f->fd >= 0 ? fcntl(f->fd, F_GETFL) : 0;
        put_number(o, i, 4);
        put_number(o, (uint32_t)flags & OPEN_FLAGS, 4);
        put_number(o, f->is_dir ? FILE_DIR : 0, 1);
        put_ident(o, id);
    }
    if (nr_nameless)
        log_warn("share '%s': %u files that the guest has open have no name in the folder any "
                 "more: a machine that goes on from this snapshot has lost them (ESTALE)",
                 fs->cfg.tag, nr_nameless);
}

static int state_save(struct fs_share *fs, void *arg)
{
    struct out *o = arg;
    struct ident *id = malloc(sizeof(*id));

    if (!id)
        return -ENOMEM;
    put_number(o, (fs->ready ? FLAG_READY : 0) | (fs->writeback ? FLAG_WRITEBACK : 0), 1);
    (void)ident_of(fs, id, fs->root_fd);
    put_ident(o, id);
    put_turns(o, &fs->nodes);
    put_turns(o, &fs->files);
    put_nodes(o, fs, id);
    put_files(o, fs, id);
    free(id);
    return o->failed ? -ENOMEM : 0;
}

int fs_save(struct fs_share *fs, uint8_t **data, size_t *bytes)
{
    struct out o = { .data = NULL };
    int err = fs_do(fs, state_save, &o);

    if (err) {
        log_error("share '%s': its state cannot be saved: %s", fs->cfg.tag, strerror(-err));
        free(o.data);
        return err;
    }
    *data = o.data;
    *bytes = o.bytes;
    return 0;
}

/* ---- loading ---- */

struct load {
    struct in in;
    bool same_folder;
    unsigned nr_nodes, nr_files, lost_nodes, lost_files;
};

static int take_turns(struct in *in, struct fs_table *t)
{
    uint32_t nr = (uint32_t)take_number(in, 4);
    const uint8_t *turns = nr <= in->left / 4 ? take(in, 4 * (size_t)nr) : NULL;

    return turns ? fs_table_shape(t, nr, turns) : -EINVAL;
}

static int take_node(struct load *l, struct fs_share *fs, struct ident *id)
{
    struct fs_node n = { .fd = -1 };
    uint32_t slot = (uint32_t)take_number(&l->in, 4);

    n.nr_lookups = take_number(&l->in, 8);
    n.opened_ctime.tv_sec = (time_t)take_number(&l->in, 8);
    n.opened_ctime.tv_nsec = (long)take_number(&l->in, 4);
    n.opened_bytes = (off_t)take_number(&l->in, 8);
    n.submount = take_number(&l->in, 1) & NODE_SUBMOUNT;
    if (!take_ident(&l->in, id) || slot <= FUSE_ROOT_ID || !n.nr_lookups)
        return -EINVAL;
    n.type = id->type;
    n.fd = ident_open(fs, id, l->same_folder);
    if (!l->same_folder)
        n.opened_ctime = (struct timespec){ .tv_sec = 0 };
    l->nr_nodes++;
    l->lost_nodes += n.fd < 0;
    return fs_node_restore(fs, slot, &n);
}

/* As the guest had it open. -1: it is lost. */
static int file_open(const struct fs_share *fs, int path_fd, uint32_t type, uint32_t flags)
{
    if (path_fd < 0)
        return -1;
    if (S_ISDIR(type))
        return open(fs_path(path_fd).s, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if ((flags & O_ACCMODE) == O_ACCMODE || (fs->cfg.readonly && (flags & O_ACCMODE) != O_RDONLY))
        return -1;
    return open(fs_path(path_fd).s, (int)(flags & OPEN_FLAGS) | O_CLOEXEC | O_NOCTTY);
}

static int take_file(struct load *l, struct fs_share *fs, struct ident *id)
{
    uint32_t slot = (uint32_t)take_number(&l->in, 4);
    uint32_t flags = (uint32_t)take_number(&l->in, 4);
    bool is_dir = take_number(&l->in, 1) & FILE_DIR;
    int path_fd, fd = -1;

    if (!take_ident(&l->in, id) || !slot)
        return -EINVAL;
    path_fd = ident_open(fs, id, l->same_folder);
    /* Pipes and devices are never opened. */
    if (is_dir ? S_ISDIR(id->type) : S_ISREG(id->type))
        fd = file_open(fs, path_fd, id->type, flags);
    if (path_fd >= 0)
        (void)close(path_fd);
    l->nr_files++;
    l->lost_files += fd < 0;
    return fs_file_restore(fs, slot, fd, is_dir);
}

/* nr entries, each taken by one(). */
static int take_all(struct load *l, struct fs_share *fs, struct ident *id,
                    int (*one)(struct load *l, struct fs_share *fs, struct ident *id))
{
    uint32_t nr = (uint32_t)take_number(&l->in, 4);
    int err = 0;

    for (uint32_t i = 0; i < nr && !err && !l->in.wrong; i++)
        err = one(l, fs, id);
    return err ? err : l->in.wrong ? -EINVAL : 0;
}

static int take_state(struct load *l, struct fs_share *fs, struct ident *id)
{
    uint8_t flags = (uint8_t)take_number(&l->in, 1);
    struct ident now;
    int err;

    if (!take_ident(&l->in, id))
        return -EINVAL;
    (void)ident_of(fs, &now, fs->root_fd);
    l->same_folder = ident_same(id, &now) && id->ino == now.ino;
    err = take_turns(&l->in, &fs->nodes);
    if (!err)
        err = take_turns(&l->in, &fs->files);
    if (!err)
        err = take_all(l, fs, id, take_node);
    if (!err)
        err = take_all(l, fs, id, take_file);
    if (!err && l->in.left)
        err = -EINVAL;
    fs_table_shaped(&fs->nodes, FUSE_ROOT_ID + 1);
    fs_table_shaped(&fs->files, 1);
    if (err)
        return err;
    lock_take(&fs->lock);
    fs->ready = flags & FLAG_READY;
    fs->writeback = flags & FLAG_WRITEBACK;
    lock_drop(&fs->lock);
    return 0;
}

static int state_load(struct fs_share *fs, void *arg)
{
    struct load *l = arg;
    struct ident *id = malloc(sizeof(*id));
    int err;

    if (!id)
        return -ENOMEM;
    fs_end_session(fs); /* there is none yet */
    fs_collect(fs);
    err = take_state(l, fs, id);
    free(id);
    if (!err)
        return 0;
    fs_end_session(fs);
    fs_collect(fs);
    return err;
}

int fs_load(struct fs_share *fs, const uint8_t *data, size_t bytes)
{
    struct load l = { .in = { .at = data, .left = bytes } };
    int err = fs_do(fs, state_load, &l);

    if (err)
        log_error("share '%s': its state in the snapshot %s: %s", fs->cfg.tag,
                  err == -EINVAL ? "makes no sense" : "cannot be taken over", strerror(-err));
    else if (l.lost_nodes || l.lost_files)
        log_warn("share '%s': of %u files that the guest knows %u are not in the folder any more, "
                 "or others; of %u that it has open %u: it gets ESTALE for them",
                 fs->cfg.tag, l.nr_nodes, l.lost_nodes, l.nr_files, l.lost_files);
    return err;
}
