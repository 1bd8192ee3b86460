/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of a shared folder's server (fs*.c) have between them. */
#ifndef BACKEND_FS_PRIV_H
#define BACKEND_FS_PRIV_H

#include <linux/fuse.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "backend/fs.h"
#include "lib/log.h"

/* ---- numbers that a guest may use (fs_table.c) ---- */

struct fs_slot {
    void *item;         /* NULL: free */
    uint32_t turn;      /* so often was it used: the upper half of its numbers */
    uint32_t next_free; /* 0: none */
};

/* From numbers to items: a number is never given twice. Number 0 is none. */
struct fs_table {
    struct fs_slot *slots;
    uint32_t nr, room, max; /* slots used so far; there; allowed */
    uint32_t first_free;
    uint32_t nr_items;
};

/*
 * A file or folder that the guest knows: held by an O_PATH descriptor, so it keeps its identity
 * whatever happens to its names; or, when descriptors are short, by the host's handle for it.
 */
struct file_handle;
struct fs_node {
    uint64_t id;
    int fd;                     /* -1: closed for now, which it never is to who uses the node */
    struct file_handle *handle; /* NULL: there is none */
    dev_t dev;
    ino_t ino;
    mode_t type;   /* S_IFMT's bits */
    bool submount; /* on another file system than the folder it is in */
    bool lost;     /* a restored machine's, not found again: of no use, but to be forgotten */

    /* Guarded by the share's lock. */
    struct timespec opened_ctime; /* as it was when the guest opened it last; 0: not known */
    off_t opened_bytes;
    uint64_t nr_lookups; /* that the guest has not taken back; 0: no longer in the table */
    unsigned refs;
    bool used;            /* since the last look for one to be closed */
    bool hashed;          /* in its bucket */
    struct fs_node *next; /* in its bucket, or of what is to be closed */
};

/* What the guest has open. */
struct fs_file {
    uint64_t id;
    int fd; /* -1: a restored machine's, not found again */
    bool is_dir;
    struct lock pos;      /* LOCK_LEAF: a folder's position */
    unsigned refs;        /* guarded by the share's lock */
    struct fs_file *next; /* of what is to be closed */
};

/* Workers that wait for the same. */
struct fs_waiters {
    struct cond more;
    bool kicked;
    unsigned nr_idle;
};

struct fs_share {
    struct fs_config cfg;
    int root_fd;  /* O_PATH */
    int mount_fd; /* what handles are opened by; -1: without handles */
    int mount_id;
    bool owners; /* files get and have the guest's owners; else all are this process's */
    uid_t uid;   /* this process's */
    gid_t gid;
    struct log_seen seen;

    struct lock lock; /* LOCK_LEAF: guards what follows */
    bool ready;       /* FUSE_INIT was answered */
    bool writeback;   /* the guest caches what it writes */
    struct fs_table nodes, files;
    uint32_t nr_open_nodes, max_open_nodes; /* that have descriptors */
    uint32_t hand;                          /* the slot where the next look begins */
    struct fs_node **buckets;               /* by dev and ino */
    uint32_t nr_buckets;                    /* a power of two */
    struct fs_node *old_nodes;              /* of a session that has ended */
    struct fs_file *old_files;

    /* Threads (fs.c). */
    struct fs_client client;
    struct thread threads[FS_WORKERS], keeper;
    struct fs_worker *workers;
    struct lock wake;             /* LOCK_LEAF: guards what follows */
    struct fs_job *job;           /* for the keeper; NULL: none */
    struct cond job_changed;      /* it was given, or is done */
    struct fs_waiters waiters[2]; /* worker 0; the others */
    struct cond begun;
    bool quit;
    int begin_error; /* of a worker that could not begin */
    unsigned nr_begun;
};

/* The root becomes number FUSE_ROOT_ID. 0 or -errno; closed in both cases. */
int fs_table_open(struct fs_share *fs, unsigned max_nodes, unsigned max_files) MUST_CHECK;
void fs_table_close(struct fs_share *fs);

/* NULL: the guest has no such node (any more). To be put. */
struct fs_node *fs_node_get(struct fs_share *fs, uint64_t id);
void fs_node_put(struct fs_share *fs, struct fs_node *n); /* NULL is fine */
/*
 * The guest has looked up what fd (O_PATH, taken over even on failure) is; it is a new node or one
 * more lookup of an old one. *n: to be put. 0, -ENFILE after a message, or -ENOMEM.
 */
int fs_node_add(struct fs_share *fs, int fd, const struct stat *st, const struct fs_node *parent,
                struct fs_node **n) MUST_CHECK;
void fs_node_forget(struct fs_share *fs, uint64_t id, uint64_t nr);
/* The guest opens it, and *st is how it is now. True: as it was when the guest opened it before. */
bool fs_node_same(struct fs_share *fs, uint64_t id, const struct stat *st);
bool fs_nodes_full(struct fs_share *fs); /* nearly */

/* fd: taken over even on failure. The number, or -ENFILE after a message, or -ENOMEM. */
int fs_file_add(struct fs_share *fs, int fd, bool is_dir, uint64_t *id) MUST_CHECK;
/* NULL: nothing that is open, or of the other kind. To be put. */
struct fs_file *fs_file_get(struct fs_share *fs, uint64_t id, bool is_dir);
void fs_file_put(struct fs_share *fs, struct fs_file *f); /* NULL is fine */
void fs_file_release(struct fs_share *fs, uint64_t id, bool is_dir);
/* Why fs_file_get() had nothing: -EBADF, or -ESTALE for what is lost. */
int fs_file_missing(struct fs_share *fs, uint64_t id);

/*
 * From a snapshot (fs_state.c): first the shape, that is, how often each of nr slots was used (32
 * bits each); then what is in slots; then shaped, which finds those of them (from `first` on) that
 * are free. 0, -EINVAL (no such slot, or it is taken), -ENFILE after a message, or -ENOMEM.
 */
int fs_table_shape(struct fs_table *t, uint32_t nr, const uint8_t *turns) MUST_CHECK;
void fs_table_shaped(struct fs_table *t, uint32_t first);
/* Like n, whose fd (O_PATH; -1: it is lost) is taken over even on failure. */
int fs_node_restore(struct fs_share *fs, uint32_t slot, const struct fs_node *n) MUST_CHECK;
int fs_file_restore(struct fs_share *fs, uint32_t slot, int fd, bool is_dir) MUST_CHECK;

/* Finds out whether the host gives handles, and opens them. */
void fs_handles_open(struct fs_share *fs);
/* Closes what an ended session left. */
void fs_collect(struct fs_share *fs);

/* fs.c: does it with a share's thread's rights, and returns what it does; no request is out. */
int fs_do(struct fs_share *fs, int (*fn)(struct fs_share *fs, void *arg), void *arg) MUST_CHECK;

/* ---- who the host sees (fs_creds.c) ---- */

/* Has this process what "owners" takes? */
bool fs_creds_can_own(void);
/* From now on this thread keeps its capabilities, whatever user it takes on. 0 or -errno. */
int fs_creds_begin(void) MUST_CHECK;
/* What is made from here on is the request's user's. 0 or -errno. */
int fs_creds_enter(const struct fs_share *fs, const struct fuse_in_header *h) MUST_CHECK;
void fs_creds_leave(const struct fs_share *fs);
/* The host takes set-user-ID bits off a file that is changed, as it does for users; until back. */
void fs_creds_drop_fsetid(const struct fs_share *fs);
void fs_creds_back_fsetid(const struct fs_share *fs);
/* How an owner looks to the guest, and the other way round (-EPERM: not possible here). */
uint32_t fs_uid_to_guest(const struct fs_share *fs, uid_t uid);
uint32_t fs_gid_to_guest(const struct fs_share *fs, gid_t gid);
int fs_owner_to_host(const struct fs_share *fs, const struct stat *st, uid_t *uid,
                     gid_t *gid) MUST_CHECK;

/* ---- a request that is being served (fs_serve.c) ---- */

struct fs_call {
    struct fs_share *fs;
    struct fs_req *r;
    struct fuse_in_header h;
    const uint8_t *args;   /* behind the header, */
    uint32_t args_bytes;   /* so many, at least what the operation's row says */
    uint8_t *out;          /* the answer behind its header, */
    uint32_t out_max;      /* this much at most, at least what the operation's row says */
    uint32_t out_bytes;    /* set by the handler: that much of out is the answer, */
    uint32_t direct_bytes; /* then so many that are in the guest's buffers already */
};

/* A string in the arguments at *off, which is moved behind it. NULL: there is none. */
const char *fs_call_string(const struct fs_call *c, uint32_t *off);
/* The same, as the name of something in a folder: 0 or -errno. */
int fs_call_name(const struct fs_call *c, uint32_t *off, const char **name) MUST_CHECK;
/* [skip, skip + bytes) of some buffers as pieces; returns how many. to has room for nr. */
unsigned fs_iov_slice(struct host_iov *to, const struct host_iov *from, unsigned nr, uint64_t skip,
                      uint64_t bytes);

/* The name by which the kernel reaches what a descriptor is open on, symbolic links too. */
struct fs_path {
    char s[32];
};
struct fs_path fs_path(int fd);

/* ---- handlers: 0 or -errno ---- */

/* fs_attr.c */
void fs_fill_attr(const struct fs_share *fs, struct fuse_attr *to, const struct stat *st,
                  bool submount);
uint64_t fs_valid_s(const struct fs_share *fs);
int fs_getattr(struct fs_call *c);
int fs_setattr(struct fs_call *c);
int fs_readlink(struct fs_call *c);
int fs_statfs(struct fs_call *c);
int fs_access(struct fs_call *c);

/* fs_xattr.c */
int fs_setxattr(struct fs_call *c);
int fs_getxattr(struct fs_call *c);
int fs_listxattr(struct fs_call *c);
int fs_removexattr(struct fs_call *c);

/* fs_names.c */
/* An O_PATH descriptor of what a checked name in a folder is, symbolic links too. -errno. */
int fs_open_beneath(int dir, const char *name, uint64_t flags) MUST_CHECK;
/* Looks a name up in a folder and fills in the entry; *st as it was then. 0 or -errno. */
int fs_lookup_name(struct fs_call *c, const struct fs_node *dir, const char *name,
                   struct fuse_entry_out *e, struct stat *st) MUST_CHECK;
/* The same for what is open already: fd, O_PATH, is taken over. */
int fs_lookup_fd(struct fs_call *c, const struct fs_node *dir, int fd, struct fuse_entry_out *e,
                 struct stat *st) MUST_CHECK;
int fs_lookup(struct fs_call *c);
int fs_forget(struct fs_call *c);
int fs_batch_forget(struct fs_call *c);
int fs_mknod(struct fs_call *c);
int fs_mkdir(struct fs_call *c);
int fs_symlink(struct fs_call *c);
int fs_link(struct fs_call *c);
int fs_unlink(struct fs_call *c);
int fs_rmdir(struct fs_call *c);
int fs_rename(struct fs_call *c);
int fs_rename2(struct fs_call *c);

/* fs_dir.c */
int fs_opendir(struct fs_call *c);
int fs_readdir(struct fs_call *c);
int fs_readdirplus(struct fs_call *c);
int fs_releasedir(struct fs_call *c);
int fs_fsyncdir(struct fs_call *c);
int fs_syncfs(struct fs_call *c);

/* fs_file.c */
int fs_open_file(struct fs_call *c);
int fs_create(struct fs_call *c);
int fs_tmpfile(struct fs_call *c);
int fs_release(struct fs_call *c);

/* fs_data.c */
int fs_read(struct fs_call *c);
int fs_write(struct fs_call *c);
int fs_flush(struct fs_call *c);
int fs_fsync(struct fs_call *c);
int fs_file_sync(struct fs_call *c, bool is_dir); /* FUSE_FSYNC and FUSE_FSYNCDIR */
int fs_lseek(struct fs_call *c);
int fs_fallocate(struct fs_call *c);
int fs_copy_file_range(struct fs_call *c);

#endif
