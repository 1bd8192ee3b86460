/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests whose answer is a file. The client has it open and passes it: this process opens none of
 * its own, once it is in its sandbox. A path alone does without one, and for old clients.
 */
#include "ctl/answer.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "host/sandbox.h"
#include "snap/snap.h"

static const char no_descriptor[] =
    "its sandbox opens no files: the request has to bring them (`doppel snapshot` and `doppel "
    "screenshot` of this version do)";

/* ---- the screen: {"do": "screenshot", "arg": "/..."} ---- */

json_t *answer_screenshot(struct vm *vm, const json_t *request, const struct ctl_fds *fds,
                          const char **error)
{
    const char *path = json_string_value(json_object_get(request, "arg"));

    *error = ANSWER_NO_SCREEN;
    if (!vm_cfg(vm)->vga)
        return NULL;
    *error = "the picture cannot be written (\"arg\" is an absolute path)";
    if (!path || *path != '/')
        return NULL;
    if (!fds->nr && sandbox_is_settled()) {
        *error = no_descriptor;
        return NULL;
    }
    if ((fds->nr ? ctl_write_screen_to(vm, fds->fd[0], path) : ctl_write_screen(vm, path)) < 0)
        return NULL;
    return json_object();
}

/* ---- snapshots ---- */

/* The VM's log has all that there is to say about a failure. */
static const char *why_no_snapshot(int err, bool diff)
{
    return err == -ENOENT && diff ? "there is no base that it could be a difference to"
           : err == -EOPNOTSUPP ? "a device of it (a shared folder), or --lockstep, cannot be saved"
           : err == -EEXIST
               ? "the directory is there already, and is no snapshot, or this is a difference"
           : err == -EBUSY  ? "a snapshot is being made already, or a disk does not answer"
           : err == -EINVAL ? "the descriptors are not of two new, empty files"
                            : strerror(-err);
}

static int save_passed(struct vm *vm, const char *dir, struct snap_how how,
                       const struct ctl_fds *fds, struct snap_saved *saved)
{
    char state[CTL_PATH_MAX + 16], memory[CTL_PATH_MAX + 16];

    if (strlen(dir) > CTL_PATH_MAX)
        return -ENAMETOOLONG;
    (void)snprintf(state, sizeof(state), "%s/" SNAP_STATE_FILE, dir);
    (void)snprintf(memory, sizeof(memory), "%s/" SNAP_MEMORY_FILE, dir);
    return snap_save_fds(
        vm,
        &(struct snap_fds){
            .files = { state, memory }, .state = fds->fd[0], .memory = fds->fd[1], .how = how },
        saved, NULL, 0);
}

/* {"do": "snapshot", "dir": "/...", "kind": "full"|"diff", "compress": "zstd"} */
json_t *answer_snapshot(struct vm *vm, const json_t *request, const struct ctl_fds *fds,
                        const char **error)
{
    const char *dir = json_string_value(json_object_get(request, "dir"));
    const char *kind = json_string_value(json_object_get(request, "kind"));
    const json_t *compress = json_object_get(request, "compress");
    bool diff = kind && !strcmp(kind, "diff"), passed = fds->nr == CTL_FDS_MAX;
    const struct snap_how how = { diff ? SNAP_DIFF : SNAP_FULL, compress ? SNAP_ZSTD : SNAP_PLAIN };
    struct snap_saved saved;
    int err;

    if (!dir || *dir != '/' || (kind && !diff && strcmp(kind, "full") != 0)) {
        *error = "\"dir\" is an absolute path, \"kind\" is full or diff";
        return NULL;
    }
    if (compress &&
        (!json_is_string(compress) || strcmp(json_string_value(compress), "zstd") != 0)) {
        *error = "\"compress\" is zstd, or not there";
        return NULL;
    }
    if (!passed && sandbox_is_settled()) {
        *error = no_descriptor;
        return NULL;
    }
    err = passed ? save_passed(vm, dir, how, fds, &saved)
                 : snap_save_dir(vm, dir, how, &saved, NULL, 0);
    if (!err)
        return json_pack("{s:I, s:I, s:I, s:f, s:s, s:b}", "bytes",
                         (json_int_t)saved.pages << PAGE_SHIFT, "zero_bytes",
                         (json_int_t)saved.pages_zero << PAGE_SHIFT, "packed_bytes",
                         (json_int_t)saved.packed_bytes, "paused_ms", (double)saved.paused_ns / 1e6,
                         "id", saved.id, "fds", (int)passed);
    *error = why_no_snapshot(err, diff);
    return NULL;
}

/* {"state": "/..."}: of the snapshot that a diff would be a difference to; or {}. */
json_t *answer_snapshot_base(struct vm *vm, const json_t *request, const struct ctl_fds *fds,
                             const char **error)
{
    const struct vm_base *base;
    json_t *j;

    (void)request, (void)fds;
    if (!vm_claim(vm)) {
        *error = "a snapshot is being made already";
        return NULL;
    }
    base = vm_base(vm);
    j = base ? json_pack("{s:s, s:s}", "state", base->path, "id", base->id) : json_object();
    vm_unclaim(vm);
    return j;
}

/* {"do": "snapshot-lost", "id": ID}: the client could not put it into its place. */
json_t *answer_snapshot_lost(struct vm *vm, const json_t *request, const struct ctl_fds *fds,
                             const char **error)
{
    const char *id = json_string_value(json_object_get(request, "id"));

    (void)fds;
    if (!vm_claim(vm)) {
        *error = "a snapshot is being made already";
        return NULL;
    }
    if (id)
        snap_lost(vm, id);
    vm_unclaim(vm);
    return json_object();
}
