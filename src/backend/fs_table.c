/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a guest may name in a shared folder: nodes (files and folders it has looked up) and what it
 * has open. Each has a number that is given once, and a count of those who use it just now, so that
 * a guest that forgets or closes what another of its requests works on harms nobody.
 *
 * Both tables are bounded, since each entry is a file descriptor of ours. Linux's driver keeps
 * nodes as long as it has memory for their inodes, and there is no way to ask for them back.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/fs_priv.h"

#define ROOM_FIRST    64u
#define BUCKETS_FIRST 256u
#define FULL_PERCENT  90u
#define NS_PER_S      1000000000ull
#define CLOCK_TICK_NS (NS_PER_S / 10) /* 10 ms at most; and time for another host to be behind */

enum { SEEN_NODES = 1 << 16, SEEN_FILES, SEEN_FORGET };

/* ---- numbers ---- */

static int table_grow(struct fs_table *t)
{
    uint32_t room = t->room ? 2 * t->room : ROOM_FIRST;
    struct fs_slot *slots = reallocarray(t->slots, room, sizeof(*slots));

    if (!slots)
        return -ENOMEM;
    t->slots = slots;
    t->room = room;
    if (!t->nr)
        t->slots[t->nr++] = (struct fs_slot){ .item = NULL }; /* number 0 is none */
    return 0;
}

static int table_add(struct fs_table *t, void *item, uint64_t *id)
{
    uint32_t idx = t->first_free;
    int err;

    if (t->nr_items == t->max)
        return -ENFILE;
    if (idx) {
        t->first_free = t->slots[idx].next_free;
    } else {
        err = t->nr == t->room ? table_grow(t) : 0;
        if (err)
            return err;
        idx = t->nr++;
        t->slots[idx].turn = 0;
    }
    t->slots[idx].item = item;
    t->nr_items++;
    *id = (uint64_t)t->slots[idx].turn << 32 | idx;
    return 0;
}

static void *table_find(const struct fs_table *t, uint64_t id)
{
    uint32_t idx = (uint32_t)id;

    return idx < t->nr && t->slots[idx].turn == id >> 32 ? t->slots[idx].item : NULL;
}

/* It is there. */
static void table_remove(struct fs_table *t, uint64_t id)
{
    uint32_t idx = (uint32_t)id;

    t->slots[idx].item = NULL;
    t->slots[idx].turn++;
    t->nr_items--;
    /* A slot whose numbers are used up stays unused. */
    if (!t->slots[idx].turn)
        return;
    t->slots[idx].next_free = t->first_free;
    t->first_free = idx;
}

int fs_table_shape(struct fs_table *t, uint32_t nr, const uint8_t *turns)
{
    /* Where items may be, but never were more than the most at once. */
    if (nr > t->max + 2)
        return -ENFILE;
    while (t->room < nr) {
        int err = table_grow(t);

        if (err)
            return err;
    }
    for (; t->nr < nr; t->nr++)
        t->slots[t->nr] = (struct fs_slot){ .item = NULL };
    for (uint32_t i = 0; i < nr; i++)
        if (!t->slots[i].item) /* the root has its number */
            memcpy(&t->slots[i].turn, turns + 4 * (size_t)i, sizeof(t->slots[i].turn));
    return 0;
}

/* Never more than the table's own; its number. */
static int table_put(struct fs_table *t, uint32_t slot, void *item, uint64_t *id)
{
    if (slot >= t->nr || t->slots[slot].item)
        return -EINVAL;
    if (t->nr_items == t->max)
        return -ENFILE;
    t->slots[slot].item = item;
    t->nr_items++;
    *id = (uint64_t)t->slots[slot].turn << 32 | slot;
    return 0;
}

/* A free one that was used no time has used up its numbers. */
void fs_table_shaped(struct fs_table *t, uint32_t first)
{
    t->first_free = 0;
    for (uint32_t i = t->nr; i-- > first;) {
        if (t->slots[i].item || !t->slots[i].turn)
            continue;
        t->slots[i].next_free = t->first_free;
        t->first_free = i;
    }
}

/* ---- nodes by what they are ---- */

static struct fs_node **bucket_of(const struct fs_share *fs, dev_t dev, ino_t ino)
{
    uint64_t mix = ((uint64_t)ino ^ (uint64_t)dev << 40) * 0x9e3779b97f4a7c15ull;

    return &fs->buckets[mix >> 32 & (fs->nr_buckets - 1)];
}

/* More buckets, if there is memory; without, searches take longer. */
static void buckets_grow(struct fs_share *fs)
{
    uint32_t nr = fs->nr_buckets;
    struct fs_node **old = fs->buckets, *n, *next, **to;

    to = calloc(2 * (size_t)nr, sizeof(*to));
    if (!to)
        return;
    fs->buckets = to;
    fs->nr_buckets = 2 * nr;
    for (uint32_t i = 0; i < nr; i++) {
        for (n = old[i]; n; n = next) {
            next = n->next;
            to = bucket_of(fs, n->dev, n->ino);
            n->next = *to;
            *to = n;
        }
    }
    free(old);
}

static struct fs_node *bucket_find(const struct fs_share *fs, dev_t dev, ino_t ino)
{
    struct fs_node *n = *bucket_of(fs, dev, ino);

    while (n && (n->dev != dev || n->ino != ino))
        n = n->next;
    return n;
}

static void bucket_remove(struct fs_share *fs, struct fs_node *n)
{
    struct fs_node **at = bucket_of(fs, n->dev, n->ino);

    if (!n->hashed)
        return;
    while (*at != n)
        at = &(*at)->next;
    *at = n->next;
    n->hashed = false;
}

/* ---- handles ---- */

/* The host's handle for what fd is open on, malloc'ed; NULL: without. */
static struct file_handle *handle_of(const struct fs_share *fs, int fd)
{
    union {
        struct file_handle h;
        uint8_t bytes[sizeof(struct file_handle) + MAX_HANDLE_SZ];
    } u = { .h = { .handle_bytes = MAX_HANDLE_SZ } };
    struct file_handle *copy;
    int mount_id;

    if (fs->mount_fd < 0 || name_to_handle_at(fd, "", &u.h, &mount_id, AT_EMPTY_PATH) < 0 ||
        mount_id != fs->mount_id)
        return NULL;
    copy = malloc(sizeof(*copy) + u.h.handle_bytes);
    if (copy)
        memcpy(copy, &u, sizeof(*copy) + u.h.handle_bytes);
    return copy;
}

static bool handle_equal(const struct file_handle *a, const struct file_handle *b)
{
    return a && b && a->handle_bytes == b->handle_bytes && a->handle_type == b->handle_type &&
           !memcmp(a->f_handle, b->f_handle, a->handle_bytes);
}

static int handle_open(const struct fs_share *fs, struct file_handle *h)
{
    int fd = open_by_handle_at(fs->mount_fd, h, O_PATH | O_NOFOLLOW | O_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

void fs_handles_open(struct fs_share *fs)
{
    struct file_handle *h;
    int fd = open(fs_path(fs->root_fd).s, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    union {
        struct file_handle h;
        uint8_t bytes[sizeof(struct file_handle) + MAX_HANDLE_SZ];
    } u = { .h = { .handle_bytes = MAX_HANDLE_SZ } };

    if (fd < 0 || name_to_handle_at(fd, "", &u.h, &fs->mount_id, AT_EMPTY_PATH) < 0) {
        if (fd >= 0)
            (void)close(fd);
        return;
    }
    fs->mount_fd = fd;
    h = handle_of(fs, fd);
    fd = h ? handle_open(fs, h) : -1; /* takes CAP_DAC_READ_SEARCH */
    free(h);
    if (fd >= 0) {
        (void)close(fd);
        return;
    }
    (void)close(fs->mount_fd);
    fs->mount_fd = -1;
}

/* ---- nodes ---- */

static void node_close(struct fs_node *n)
{
    if (n->fd >= 0)
        (void)close(n->fd); /* O_PATH: nothing can be lost */
    free(n->handle);
    free(n);
}

/* Share's lock held. Closes a descriptor that was not used for a while, if that is needed for one
 * more. False: there is none. */
static bool nodes_make_room(struct fs_share *fs)
{
    for (uint64_t looks = 0; fs->nr_open_nodes >= fs->max_open_nodes; looks++) {
        struct fs_node *n;

        if (looks > 2ull * fs->nodes.nr)
            return false;
        fs->hand = fs->hand + 1 < fs->nodes.nr ? fs->hand + 1 : FUSE_ROOT_ID + 1;
        n = fs->hand < fs->nodes.nr ? fs->nodes.slots[fs->hand].item : NULL;
        if (!n || n->fd < 0 || !n->handle || n->refs > 1)
            continue;
        if (n->used) {
            n->used = false;
            continue;
        }
        (void)close(n->fd);
        n->fd = -1;
        fs->nr_open_nodes--;
    }
    return true;
}

/* Share's lock held. The node has this descriptor from now on, or it is closed. */
static bool node_adopt(struct fs_share *fs, struct fs_node *n, int fd)
{
    if (n->fd >= 0 || !nodes_make_room(fs)) {
        (void)close(fd);
        return n->fd >= 0;
    }
    n->fd = fd;
    fs->nr_open_nodes++;
    return true;
}

struct fs_node *fs_node_get(struct fs_share *fs, uint64_t id)
{
    struct fs_node *n;
    bool open = false;
    int fd;

    lock_take(&fs->lock);
    n = table_find(&fs->nodes, id);
    if (n) {
        n->refs++;
        n->used = true;
        open = n->fd >= 0;
    }
    lock_drop(&fs->lock);
    if (!n || open)
        return n;
    fd = n->lost ? -ESTALE : handle_open(fs, n->handle);
    lock_take(&fs->lock);
    open = fd >= 0 ? node_adopt(fs, n, fd) : n->fd >= 0;
    lock_drop(&fs->lock);
    if (open)
        return n;
    fs_node_put(fs, n); /* it is no longer there, or too many are in use */
    return NULL;
}

void fs_node_put(struct fs_share *fs, struct fs_node *n)
{
    bool last;

    if (!n)
        return;
    lock_take(&fs->lock);
    last = !--n->refs;
    if (last && n->fd >= 0)
        fs->nr_open_nodes--;
    lock_drop(&fs->lock);
    if (last)
        node_close(n);
}

/* Share's lock held. It is in the table and open, and is found by what it is from now on. */
static void node_inserted(struct fs_share *fs, struct fs_node *n)
{
    struct fs_node **at;

    fs->nr_open_nodes++;
    if (fs->nodes.nr_items > fs->nr_buckets)
        buckets_grow(fs);
    at = bucket_of(fs, n->dev, n->ino);
    n->next = *at;
    *at = n;
    n->hashed = n->used = true;
}

/* Share's lock held. The caller is one of its users; the table is the other. */
static int node_insert(struct fs_share *fs, struct fs_node *n)
{
    int err;

    if (!nodes_make_room(fs))
        return -ENFILE;
    err = table_add(&fs->nodes, n, &n->id);
    if (err)
        return err;
    node_inserted(fs, n);
    n->refs = 2;
    n->nr_lookups = 1;
    return 0;
}

/*
 * Share's lock held. The node that is what fresh is, or NULL. While a node is open its inode's
 * number is its own; when it was closed, the handles tell whether the number is another file's now.
 */
static struct fs_node *node_find(struct fs_share *fs, struct fs_node *fresh)
{
    struct fs_node *n = bucket_find(fs, fresh->dev, fresh->ino);

    if (!n || n->fd >= 0)
        return n;
    if (!handle_equal(n->handle, fresh->handle)) {
        bucket_remove(fs, n);
        return NULL;
    }
    (void)node_adopt(fs, n, fresh->fd); /* if there is no room, later */
    fresh->fd = -1;
    return n;
}

static void warn_nodes(struct fs_share *fs)
{
    if (log_first(&fs->seen, SEEN_NODES))
        log_warn("share '%s': the guest knows so many files (%u) that there are no file "
                 "descriptors left; others fail with ENFILE until it forgets some (raise the hard "
                 "limit: ulimit -Hn)",
                 fs->cfg.tag, MIN(fs->nodes.max, fs->max_open_nodes));
}

int fs_node_add(struct fs_share *fs, int fd, const struct stat *st, const struct fs_node *parent,
                struct fs_node **n)
{
    struct fs_node *fresh = malloc(sizeof(*fresh)), *known;
    int err = 0;

    if (!fresh) {
        (void)close(fd);
        return -ENOMEM;
    }
    *fresh =
        (struct fs_node){ .fd = fd,
                          .handle = handle_of(fs, fd),
                          .dev = st->st_dev,
                          .ino = st->st_ino,
                          .type = st->st_mode & S_IFMT,
                          .submount = parent && S_ISDIR(st->st_mode) && parent->dev != st->st_dev };
    lock_take(&fs->lock);
    known = node_find(fs, fresh);
    if (known) {
        known->nr_lookups++;
        known->refs++;
        known->used = true;
    } else {
        err = node_insert(fs, fresh);
    }
    lock_drop(&fs->lock);
    *n = known ? known : fresh;
    if (known || err)
        node_close(fresh);
    if (err == -ENFILE)
        warn_nodes(fs);
    return err;
}

/* A hostile state may name a file twice: the second is found by its number alone. */
int fs_node_restore(struct fs_share *fs, uint32_t slot, const struct fs_node *as)
{
    struct fs_node *n = malloc(sizeof(*n));
    struct stat st = { .st_dev = 0 };
    int err = 0;

    if (!n) {
        if (as->fd >= 0)
            (void)close(as->fd);
        return -ENOMEM;
    }
    *n = *as;
    n->refs = 1;
    n->lost = n->fd < 0 || fstat(n->fd, &st) < 0;
    n->dev = st.st_dev;
    n->ino = st.st_ino;
    n->handle = n->lost ? NULL : handle_of(fs, n->fd);
    lock_take(&fs->lock);
    if (!n->lost && !nodes_make_room(fs))
        err = -ENFILE;
    if (!err)
        err = table_put(&fs->nodes, slot, n, &n->id);
    if (!err && !n->lost)
        node_inserted(fs, n);
    lock_drop(&fs->lock);
    if (err)
        node_close(n);
    if (err == -ENFILE)
        warn_nodes(fs);
    return err;
}

void fs_node_forget(struct fs_share *fs, uint64_t id, uint64_t nr)
{
    struct fs_node *n;
    bool too_many = false, gone = false;

    if (id == FUSE_ROOT_ID) /* is always there */
        return;
    lock_take(&fs->lock);
    n = table_find(&fs->nodes, id);
    if (n) {
        too_many = nr > n->nr_lookups;
        n->nr_lookups -= MIN(nr, n->nr_lookups);
        gone = !n->nr_lookups;
    }
    if (gone) {
        bucket_remove(fs, n);
        table_remove(&fs->nodes, id);
    }
    lock_drop(&fs->lock);
    if ((!n || too_many) && log_first(&fs->seen, SEEN_FORGET))
        log_warn("share '%s': the guest forgets what it has not looked up", fs->cfg.tag);
    if (gone)
        fs_node_put(fs, n);
}

/*
 * By its ctime, which only the host's kernel sets. A change right after this one could leave it as
 * it is, until the clock that it is taken from has ticked.
 */
bool fs_node_same(struct fs_share *fs, uint64_t id, const struct stat *st)
{
    const struct timespec *now = &st->st_ctim;
    uint64_t ctime_ns = (uint64_t)now->tv_sec * NS_PER_S + (uint64_t)now->tv_nsec;
    bool settled = host_real_ns() > ctime_ns + CLOCK_TICK_NS, same = false;
    struct fs_node *n;

    lock_take(&fs->lock);
    n = table_find(&fs->nodes, id);
    if (n) {
        same = n->opened_ctime.tv_sec == now->tv_sec && n->opened_ctime.tv_nsec == now->tv_nsec &&
               n->opened_bytes == st->st_size;
        n->opened_ctime = settled ? *now : (struct timespec){ .tv_sec = 0 };
        n->opened_bytes = st->st_size;
    }
    lock_drop(&fs->lock);
    return same;
}

bool fs_nodes_full(struct fs_share *fs)
{
    bool full;

    lock_take(&fs->lock);
    full = fs->nodes.nr_items >= (uint64_t)fs->nodes.max * FULL_PERCENT / 100;
    lock_drop(&fs->lock);
    return full;
}

/* ---- open files ---- */

static void file_close(struct fs_file *f)
{
    if (f->fd >= 0)
        (void)close(f->fd); /* the guest heard of errors from its FLUSH and FSYNC */
    lock_destroy(&f->pos);
    free(f);
}

/* fd: taken over, also when there is no memory. */
static struct fs_file *file_make(int fd, bool is_dir)
{
    struct fs_file *f = malloc(sizeof(*f));

    if (!f) {
        if (fd >= 0)
            (void)close(fd);
        return NULL;
    }
    *f = (struct fs_file){ .fd = fd, .is_dir = is_dir, .refs = 1 };
    lock_init(&f->pos, LOCK_LEAF);
    return f;
}

int fs_file_restore(struct fs_share *fs, uint32_t slot, int fd, bool is_dir)
{
    struct fs_file *f = file_make(fd, is_dir);
    int err;

    if (!f)
        return -ENOMEM;
    lock_take(&fs->lock);
    err = table_put(&fs->files, slot, f, &f->id);
    lock_drop(&fs->lock);
    if (err)
        file_close(f);
    return err;
}

int fs_file_add(struct fs_share *fs, int fd, bool is_dir, uint64_t *id)
{
    struct fs_file *f = file_make(fd, is_dir);
    int err;

    if (!f)
        return -ENOMEM;
    lock_take(&fs->lock);
    err = table_add(&fs->files, f, &f->id);
    *id = f->id;
    lock_drop(&fs->lock);
    if (err)
        file_close(f);
    if (err == -ENFILE && log_first(&fs->seen, SEEN_FILES))
        log_warn("share '%s': the guest has %u files open at once; more fail with ENFILE",
                 fs->cfg.tag, fs->files.max);
    return err;
}

/* Share's lock held. */
static struct fs_file *file_find(const struct fs_share *fs, uint64_t id, bool is_dir)
{
    struct fs_file *f = table_find(&fs->files, id);

    return f && f->is_dir == is_dir ? f : NULL;
}

struct fs_file *fs_file_get(struct fs_share *fs, uint64_t id, bool is_dir)
{
    struct fs_file *f;

    lock_take(&fs->lock);
    f = file_find(fs, id, is_dir);
    if (f && f->fd < 0)
        f = NULL;
    if (f)
        f->refs++;
    lock_drop(&fs->lock);
    return f;
}

int fs_file_missing(struct fs_share *fs, uint64_t id)
{
    const struct fs_file *f;
    int err;

    lock_take(&fs->lock);
    f = table_find(&fs->files, id);
    err = f && f->fd < 0 ? -ESTALE : -EBADF;
    lock_drop(&fs->lock);
    return err;
}

void fs_file_put(struct fs_share *fs, struct fs_file *f)
{
    bool last;

    if (!f)
        return;
    lock_take(&fs->lock);
    last = !--f->refs;
    lock_drop(&fs->lock);
    if (last)
        file_close(f);
}

void fs_file_release(struct fs_share *fs, uint64_t id, bool is_dir)
{
    struct fs_file *f;

    lock_take(&fs->lock);
    f = file_find(fs, id, is_dir);
    if (f)
        table_remove(&fs->files, id);
    lock_drop(&fs->lock);
    fs_file_put(fs, f);
}

/* ---- sessions ---- */

/* Takes all but the root out of the tables; what is in use stays until it is put. */
void fs_end_session(struct fs_share *fs)
{
    lock_take(&fs->lock);
    fs->ready = fs->writeback = false;
    for (uint32_t i = FUSE_ROOT_ID + 1; i < fs->nodes.nr; i++) {
        struct fs_node *n = fs->nodes.slots[i].item;

        if (!n)
            continue;
        bucket_remove(fs, n);
        table_remove(&fs->nodes, n->id);
        n->nr_lookups = 0;
        n->next = fs->old_nodes;
        fs->old_nodes = n;
    }
    for (uint32_t i = 1; i < fs->files.nr; i++) {
        struct fs_file *f = fs->files.slots[i].item;

        if (!f)
            continue;
        table_remove(&fs->files, f->id);
        f->next = fs->old_files;
        fs->old_files = f;
    }
    lock_drop(&fs->lock);
    fs_kick(fs, true);
}

void fs_collect(struct fs_share *fs)
{
    struct fs_node *n, *next_node;
    struct fs_file *f, *next_file;

    lock_take(&fs->lock);
    n = fs->old_nodes;
    f = fs->old_files;
    fs->old_nodes = NULL;
    fs->old_files = NULL;
    lock_drop(&fs->lock);
    for (; n; n = next_node) {
        next_node = n->next;
        fs_node_put(fs, n);
    }
    for (; f; f = next_file) {
        next_file = f->next;
        fs_file_put(fs, f);
    }
}

void fs_count(struct fs_share *fs, unsigned *nr_nodes, unsigned *nr_files)
{
    lock_take(&fs->lock);
    *nr_nodes = fs->nodes.nr_items - 1;
    *nr_files = fs->files.nr_items;
    lock_drop(&fs->lock);
}

/* ---- life ---- */

static int table_add_root(struct fs_share *fs)
{
    struct fs_node *n;
    struct stat st;
    int fd = fcntl(fs->root_fd, F_DUPFD_CLOEXEC, 0), err;

    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) < 0) {
        err = -errno;
        (void)close(fd);
        return err;
    }
    err = fs_node_add(fs, fd, &st, NULL, &n); /* (is never closed before the end) */
    if (err)
        return err;
    BUG_ON(n->id != FUSE_ROOT_ID);
    fs_node_put(fs, n);
    return 0;
}

int fs_table_open(struct fs_share *fs, unsigned max_nodes, unsigned max_files)
{
    fs->nodes.max = max_nodes;
    fs->files.max = max_files;
    fs->buckets = calloc(BUCKETS_FIRST, sizeof(fs->buckets[0]));
    fs->nr_buckets = BUCKETS_FIRST;
    return fs->buckets ? table_add_root(fs) : -ENOMEM;
}

void fs_table_close(struct fs_share *fs)
{
    struct fs_node *root = fs->buckets ? table_find(&fs->nodes, FUSE_ROOT_ID) : NULL;

    fs_collect(fs);
    if (root)
        node_close(root);
    free(fs->nodes.slots);
    free(fs->files.slots);
    free(fs->buckets);
}
