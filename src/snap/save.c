/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making a snapshot: the VM is paused, its devices come to rest, memory and state are written to
 * new files, the VM goes on, and when all is on the disk the files get their names.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snap/priv.h"

#define SETTLE_NS 10000000000ull /* a disk that answers at all has done so by then */

struct save {
    struct vm *vm;
    const struct snap_save *what;
    struct snap_why why;
    struct snap_saved saved;
    char id[SNAP_ID_BYTES + 1];
    const char *final_state; /* the name by which diffs will know it; absolute */
    int state_fd, memory_fd;
    bool looks; /* for the base; else the caller has */
    struct snap_doc doc;
};

static void make_id(char id[SNAP_ID_BYTES + 1])
{
    uint8_t bytes[SNAP_ID_BYTES / 2];

    host_random(bytes, sizeof(bytes));
    for (unsigned i = 0; i < sizeof(bytes); i++)
        (void)snprintf(id + 2 * (size_t)i, 3, "%02x", bytes[i]);
}

static json_t *describe_base(const struct save *s)
{
    const struct vm_base *base = vm_base(s->vm);
    char *name;
    json_t *j;

    if (s->what->how.kind != SNAP_DIFF)
        return json_null();
    name = files_name_from(s->final_state, base->path);
    j = name ? json_pack("{s:s, s:s}", "id", base->id, "state", name) : NULL;
    free(name);
    return j;
}

/* All but the lists of state and slots, which fill themselves. */
static json_t *describe(const struct save *s, const char *final_memory)
{
    char *memory = files_name_from(s->final_state, final_memory);
    json_t *given = s->what->config ? s->what->config : vm_cfg(s->vm)->config;
    json_t *config = given ? json_deep_copy(given) : json_null();
    json_t *j =
        json_pack("{s:s, s:s, s:o, s:o, s:o, s:{s:s?, s:s*, s:[]}, s:[]}", "doppel", DOPPEL_VERSION,
                  "id", s->id, "base", describe_base(s), "machine", machine_describe(s->vm),
                  "config", config, "memory", "file", memory, "compression",
                  s->what->how.packing == SNAP_ZSTD ? SNAP_ZSTD_NAME : NULL, "slots", "state");

    if (!memory) {
        json_decref(j);
        j = NULL;
    }
    free(memory);
    return j;
}

/* The VM stands still. */
static int save_stopped(struct save *s, const char *final_memory)
{
    struct vm_base base = { .path = NULL };
    int err = vm_settle(s->vm, SETTLE_NS);

    if (err)
        return snap_fail(&s->why, err,
                         "a device has requests under way that do not come to an end");
    err = s->what->how.kind == SNAP_DIFF ? vm_sync_dirty(s->vm) : 0;
    if (err)
        return snap_fail(&s->why, err, "cannot see what the guest wrote: %s", strerror(-err));
    s->doc.json = describe(s, final_memory);
    if (!s->doc.json || !machine_save(s->vm, &s->doc))
        return snap_fail(&s->why, -ENOMEM, "out of memory for the machine's state");
    err = vm_sync_dirty(s->vm);
    if (err)
        return snap_fail(&s->why, err, "the log of what the guest wrote cannot be read");
    err = pages_save(s->vm, s->memory_fd, s->what->how, s->id, &s->doc, &s->saved, &s->why);
    if (err)
        return err;
    /* From here on the log is about this one; if it never comes to be, no diff can be made. */
    memcpy(base.id, s->id, sizeof(base.id));
    base.path = strdup(s->final_state);
    vm_set_base(s->vm, &base);
    return 0;
}

static int save_flush(struct save *s)
{
    size_t bytes;
    uint8_t *file = doc_make(&s->doc, &bytes);
    int err = file ? files_write(s->state_fd, file, bytes, 0) : -ENOMEM;

    free(file);
    if (!err && (fsync(s->memory_fd) < 0 || fsync(s->state_fd) < 0))
        err = -errno;
    if (err)
        return snap_fail(&s->why, err, "cannot write the snapshot: %s", strerror(-err));
    return 0;
}

/* Into the two files, which are open and new. */
static int save_into(struct save *s, const char *final_memory)
{
    uint64_t from;
    int err;

    vm_pause(s->vm);
    from = host_mono_ns();
    err = save_stopped(s, final_memory);
    s->saved.paused_ns = host_mono_ns() - from;
    vm_resume(s->vm);
    if (!err)
        err = save_flush(s);
    doc_free(&s->doc);
    return err;
}

static int check_vm(struct save *s)
{
    const struct vm_base *base = vm_base(s->vm);
    const char *device = vm_unsaveable(s->vm);

    if (device)
        return snap_fail(&s->why, -EOPNOTSUPP, "a machine with %s cannot be saved", device);
    if (vm_cfg(s->vm)->lockstep.reference)
        return snap_fail(&s->why, -EOPNOTSUPP, "a machine under --lockstep cannot be saved");
    if (s->what->how.kind != SNAP_DIFF)
        return 0;
    if (!base)
        return snap_fail(&s->why, -ENOENT,
                         "there is no snapshot yet that this one could be a difference to; make a "
                         "full one first");
    if (!strcmp(base->path, s->final_state) || (s->looks && access(base->path, R_OK) < 0))
        return snap_fail(&s->why, -ENOENT,
                         "the base, '%s', is not there, or would be replaced by its own difference",
                         base->path);
    return 0;
}

/* It never came to be. */
static void forget_base(struct vm *vm, const char *id)
{
    struct vm_base none = { .path = NULL };

    if (!vm_base(vm) || strcmp(vm_base(vm)->id, id) != 0)
        return;
    vm_pause(vm);
    vm_set_base(vm, &none);
    vm_resume(vm);
}

/* ---- two files ---- */

static int save_pair(struct save *s, struct snap_pair *p)
{
    int err = check_vm(s);

    if (!err)
        err = pair_create(p, &s->why);
    if (err)
        return err;
    s->state_fd = p->state_fd;
    s->memory_fd = p->memory_fd;
    err = save_into(s, p->memory);
    if (!err)
        err = pair_commit(p, &s->why);
    if (err)
        forget_base(s->vm, s->id);
    return err;
}

int snap_save(struct vm *vm, const struct snap_save *what, struct snap_saved *saved, char *why,
              size_t why_bytes)
{
    struct snap_save how = *what;
    struct save s = { .vm = vm, .what = &how, .why = { why, why_bytes }, .looks = true };
    struct snap_pair p;
    int err;

    make_id(s.id);
    err = pair_begin(&p, &what->files, &s.why);
    if (err)
        return err;
    if (p.replaces) /* a difference could be to these very files */
        how.how.kind = SNAP_FULL;
    s.final_state = p.state;
    if (vm_claim(vm)) {
        err = save_pair(&s, &p);
        vm_unclaim(vm);
    } else {
        err = snap_fail(&s.why, -EBUSY, "a snapshot of this VM is being made already");
    }
    pair_end(&p);
    if (saved)
        *saved = s.saved;
    return err;
}

/* ---- files that the caller has open ---- */

static bool is_new_file(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    struct stat st;

    return flags >= 0 && (flags & O_ACCMODE) != O_RDONLY && fstat(fd, &st) == 0 &&
           S_ISREG(st.st_mode) && st.st_size == 0;
}

static int save_open(struct save *s, const struct snap_fds *fds)
{
    int err = check_vm(s);

    if (err)
        return err;
    if (!is_new_file(fds->state) || !is_new_file(fds->memory))
        return snap_fail(&s->why, -EINVAL, "the descriptors are not of two new, empty files");
    s->state_fd = fds->state;
    s->memory_fd = fds->memory;
    err = save_into(s, fds->files.memory);
    if (err)
        forget_base(s->vm, s->id);
    return err;
}

static int save_claimed(struct vm *vm, const struct snap_fds *fds, bool looks,
                        struct snap_saved *saved, const struct snap_why *why)
{
    struct snap_save what = { .how = fds->how };
    struct save s = {
        .vm = vm, .what = &what, .why = *why, .final_state = fds->files.state, .looks = looks
    };
    int err;

    make_id(s.id);
    err = save_open(&s, fds);
    memcpy(s.saved.id, s.id, sizeof(s.saved.id));
    *saved = s.saved;
    return err;
}

int snap_save_fds(struct vm *vm, const struct snap_fds *fds, struct snap_saved *saved, char *why,
                  size_t why_bytes)
{
    const struct snap_why w = { why, why_bytes };
    int err;

    *saved = (struct snap_saved){ .pages = 0 };
    if (!vm_claim(vm))
        return snap_fail(&w, -EBUSY, "a snapshot of this VM is being made already");
    err = save_claimed(vm, fds, false, saved, &w);
    vm_unclaim(vm);
    return err;
}

void snap_lost(struct vm *vm, const char *id)
{
    forget_base(vm, id);
}

int snap_save_dir(struct vm *vm, const char *dir, struct snap_how how, struct snap_saved *saved,
                  char *why, size_t why_bytes)
{
    const struct snap_why w = { why, why_bytes };
    struct snap_saved unseen;
    struct snap_dir d;
    int err;

    if (!saved)
        saved = &unseen;
    if (!vm_claim(vm))
        return snap_fail(&w, -EBUSY, "a snapshot of this VM is being made already");
    err = snap_dir_begin(&d, dir, how.kind, why, why_bytes);
    if (!err) {
        struct snap_fds fds = {
            .files = { d.state, d.memory }, .state = d.state_fd, .memory = d.memory_fd, .how = how
        };

        err = save_claimed(vm, &fds, true, saved, &w);
        if (!err) {
            err = snap_dir_commit(&d, why, why_bytes);
            if (err)
                forget_base(vm, saved->id);
        }
        snap_dir_end(&d);
    }
    vm_unclaim(vm);
    return err;
}
