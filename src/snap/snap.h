/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Snapshots: a machine's state in two files, from which it (or many like it) goes on.
 *
 * The state file says what it is by itself (docs/snapshot.md): a head with version and checksums, a
 * JSON description of the machine, and the devices' and vCPUs' state. The memory file is the
 * guest's memory page by page, sparse, so that a restored machine maps it (copy-on-write) instead
 * of reading it; or it is compressed, and a restored machine reads it. Both are made under another
 * name, flushed and renamed: an interrupted snapshot never replaces a good one. A pair that was not
 * made together is refused.
 *
 * To restore:
 *
 *     snap = snap_open(&files, 0);              // checks all that needs no machine
 *     ... build a struct vm_config from snap_config() and snap_info(): same devices, same order
 *     cfg.image = snap_image(snap);
 *     vm = vm_create(&cfg);                     // loads no kernel
 *     err = snap_load(snap, vm, why, bytes);    // before vm_start()
 *     snap_close(snap);                         // the VM has what it needs
 *     vm_start(vm);                             // vm_user_pause() before it: stays paused
 */
#ifndef SNAP_SNAP_H
#define SNAP_SNAP_H

#include <jansson.h>

#include "vm/vm.h"

/* Where the two files are. */
struct snap_files {
    const char *state;
    const char *memory; /* NULL, to open: the one that the state file names, beside it */
    /* To open: not a file, but a server of memory that listens on this Unix socket (uffd.c). */
    const char *uffd;
};

enum snap_kind {
    SNAP_FULL,
    SNAP_DIFF, /* only pages written since the VM's last snapshot (or restore), its base */
};

enum snap_packing {
    SNAP_PLAIN,
    SNAP_ZSTD, /* smaller, but read as a whole by each machine that goes on from it */
};

struct snap_how {
    enum snap_kind kind;
    enum snap_packing packing;
};

struct snap_save {
    struct snap_files files;
    struct snap_how how;
    /* The caller's own description of the machine, kept as it is and given back by snap_config();
     * borrowed. NULL: vm_config.config. */
    json_t *config;
};

#define SNAP_ID_BYTES 32u /* hexadecimal digits */
/* What came of it, for the user. */
struct snap_saved {
    char id[SNAP_ID_BYTES + 1];
    uint64_t pages, pages_zero; /* written; left out as zeroes */
    uint64_t packed_bytes;      /* what they became, if they were compressed */
    uint64_t paused_ns;         /* the guest stood still */
};

/*
 * Any thread but the VM's own. Pauses the VM for the time if it is not, waits until requests that
 * are under way have ended. 0, or -errno after a message, which is in why too: the VM goes on.
 * -ENOENT: a diff without a base. -EBUSY: a device does not come to rest. saved may be NULL.
 */
int snap_save(struct vm *vm, const struct snap_save *s, struct snap_saved *saved, char *why,
              size_t why_bytes) MUST_CHECK;

/* The same with a directory's "state" and "memory"; the whole directory takes the old one's place.
 */
int snap_save_dir(struct vm *vm, const char *dir, struct snap_how how, struct snap_saved *saved,
                  char *why, size_t why_bytes) MUST_CHECK;

/* The same into two files that somebody else has made, and will put into their place: what they
 * will be called then, absolute; and descriptors, which stay the caller's. Whether a diff's base is
 * still there is the caller's care (vm_base()). */
struct snap_fds {
    struct snap_files files;
    int state, memory;
    struct snap_how how;
};
int snap_save_fds(struct vm *vm, const struct snap_fds *fds, struct snap_saved *saved, char *why,
                  size_t why_bytes) MUST_CHECK;
/* The snapshot with that id never came into its place. The caller has claimed the VM. */
void snap_lost(struct vm *vm, const char *id);

/* ---- a snapshot's directory: place.c ---- */
#define SNAP_STATE_FILE  "state"
#define SNAP_MEMORY_FILE "memory"
struct snap_dir {
    char *dir, *state, *memory; /* absolute, as they will be called; malloc'ed */
    char *tmp;                  /* beside dir, until it is put there */
    bool made;
    int state_fd, memory_fd; /* new files in it */
};
/* Makes it beside its place, if it may be put there: nothing is there, or an empty directory or (if
 * it is no difference) a snapshot, which goes. 0, or -errno after a message, and nothing is left.
 */
int snap_dir_begin(struct snap_dir *d, const char *dir, enum snap_kind kind, char *why,
                   size_t why_bytes) MUST_CHECK;
/* Puts it there, in one step. 0, or -errno after a message. */
int snap_dir_commit(struct snap_dir *d, char *why, size_t why_bytes) MUST_CHECK;
/* Closes all; what was not put into its place is removed. */
void snap_dir_end(struct snap_dir *d);

/* ---- restoring ---- */

struct snap;

#define SNAP_VERIFY     BIT(0) /* read all memory and compare its checksums */
/* snap_load(): the machine's clock goes on by the time that has gone by since, so that the guest's
 * date is right. Else, and if the host's date is before the snapshot's: from where it stood. */
#define SNAP_CLOCK_HOST BIT(1)

/* NULL after a message, which is in why too (may be NULL). The files are hostile. */
struct snap *snap_open(const struct snap_files *files, unsigned flags, char *why, size_t why_bytes);
struct snap *snap_open_dir(const char *dir, unsigned flags, char *why, size_t why_bytes);
void snap_close(struct snap *s); /* NULL is fine */

/* As given to snap_save() or in vm_config.config, or NULL; borrowed. */
const json_t *snap_config(const struct snap *s);
struct snap_info {
    uint64_t ram_bytes;
    uint32_t nr_cpus;
    uint64_t real_ns;                      /* UTC, when its clock stopped; 0: not known */
    const char *name, *engine, *cpu_model; /* as it was; borrowed. cpu_model: NULL for the host's */
    const char *id;                        /* of the snapshot */
    const char *base_id;                   /* NULL: it is whole */
};
void snap_info(const struct snap *s, struct snap_info *out);
/* For vm_config.image; borrowed, until snap_close(), which may come after vm_create(). */
const struct vm_image *snap_image(const struct snap *s);

/*
 * With a server of memory: two descriptors that have to stay open until the VM was destroyed; the
 * caller's from now on. -1: there are none.
 */
void snap_take_server(struct snap *s, int fds[2]);

/*
 * Between vm_create() and vm_start(): vCPUs, devices, time. -EINVAL after a message (in why too):
 * another machine, a wrong state; the VM can only be destroyed then.
 */
int snap_load(struct snap *s, struct vm *vm, char *why, size_t why_bytes) MUST_CHECK;

#endif
