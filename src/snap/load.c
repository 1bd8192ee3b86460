/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening a snapshot and going on from it. A diff is opened with its base, and the base's base: the
 * whole one is mapped, what the diffs have is copied over it. A whole one that is compressed cannot
 * be mapped: the machine's memory is new, and that is copied over it, too.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "snap/priv.h"

#define STATE_FILE_MAX GIB(4)

#define NS_PER_S  1000000000ull
/* A snapshot that seems to be older has a wrong date, or this host has. */
#define AGE_MAX_S (10 * 365 * 86400ull)

/* One pair of files. */
struct layer {
    struct snap_doc doc;
    struct snap_layout layout;
    char *path; /* of the state file; absolute */
    const char *id;
    int fd; /* of the memory file */
};

struct snap {
    struct layer layers[SNAP_CHAIN_MAX]; /* the newest first */
    unsigned nr, flags;
    struct snap_info info;
    struct cpu_model model;
    struct vm_image image;
    struct snap_uffd uffd; /* of the only layer */
};

/* ---- opening ---- */

static bool is_id(const char *id)
{
    return id && strlen(id) == SNAP_ID_BYTES && strspn(id, "0123456789abcdef") == SNAP_ID_BYTES;
}

static int layer_open_memory(struct layer *l, const char *memory, const struct snap_why *why)
{
    const char *name =
        json_string_value(json_object_get(json_object_get(l->doc.json, "memory"), "file"));
    char *path = memory ? strdup(memory) : name ? files_resolve(l->path, name) : NULL;
    int err = 0;

    if (!path)
        return snap_fail(why, -EINVAL, "the snapshot does not say where its memory is");
    l->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (l->fd < 0)
        err = snap_fail(why, -errno, "cannot open the snapshot's memory '%s': %s", path,
                        strerror(errno));
    free(path);
    return err ? err : pages_check_file(l->fd, &l->layout, l->id, why);
}

static int layer_open(struct layer *l, const struct snap_files *files, const struct snap_why *why)
{
    size_t bytes = 0;
    uint8_t *file;
    int err;

    file = files_load(files->state, STATE_FILE_MAX, &bytes, &err);
    if (!file)
        return snap_fail(why, err, "cannot read the snapshot '%s': %s", files->state,
                         strerror(-err));
    err = doc_parse(&l->doc, file, bytes, why);
    if (err)
        return err;
    l->path = realpath(files->state, NULL);
    l->id = json_string_value(json_object_get(l->doc.json, "id"));
    if (!l->path || !is_id(l->id))
        return snap_fail(why, -EINVAL, "the snapshot has no id");
    err = pages_layout(&l->layout, &l->doc, why);
    return err || files->uffd ? err : layer_open_memory(l, files->memory, why);
}

/* NULL: it is whole. */
static const json_t *layer_base(const struct layer *l)
{
    const json_t *base = json_object_get(l->doc.json, "base");

    return json_is_null(base) ? NULL : base;
}

static int open_base(struct snap *s, const struct snap_why *why)
{
    const struct layer *top = &s->layers[s->nr - 1];
    const json_t *base = layer_base(top);
    const char *id = json_string_value(json_object_get(base, "id"));
    const char *name = json_string_value(json_object_get(base, "state"));
    struct layer *l = &s->layers[s->nr];
    char *path;
    int err;

    if (!is_id(id) || !name)
        return snap_fail(why, -EINVAL, "the snapshot does not say what it is a difference to");
    if (s->nr == SNAP_CHAIN_MAX)
        return snap_fail(why, -EINVAL,
                         "the snapshot is a difference to a difference, more than %u "
                         "times; make a full one",
                         SNAP_CHAIN_MAX);
    path = files_resolve(top->path, name);
    if (!path)
        return snap_fail(why, -ENOMEM, "out of memory");
    *l = (struct layer){ .fd = -1 };
    s->nr++;
    err = layer_open(l, &(struct snap_files){ .state = path }, why);
    if (!err && (!l->id || strcmp(l->id, id) != 0))
        err = snap_fail(why, -EINVAL,
                        "the snapshot is a difference to one that '%s' is not any more", path);
    free(path);
    return err;
}

static int image_find(void *ctx, const char *name, uint64_t bytes, uint64_t *off_bytes)
{
    const struct snap *s = ctx;
    const struct snap_layout *l = &s->layers[s->nr - 1].layout;

    for (unsigned i = 0; i < l->nr; i++) {
        if (strcmp(l->slots[i].name, name) != 0)
            continue;
        if (l->slots[i].bytes != bytes) {
            log_error("the snapshot's memory '%s' has %llu bytes, this machine's %llu", name,
                      (unsigned long long)l->slots[i].bytes, (unsigned long long)bytes);
            return -EINVAL;
        }
        if (l->is_packed) /* nothing to map */
            return -ENOENT;
        *off_bytes = l->slots[i].at;
        return 0;
    }
    return -ENOENT;
}

static int image_bring(void *ctx, void *at, uint64_t bytes, uint64_t off_bytes)
{
    return uffd_add(&((struct snap *)ctx)->uffd, at, bytes, off_bytes);
}

static int open_server(struct snap *s, const char *path, const struct snap_why *why)
{
    if (layer_base(&s->layers[0]))
        return snap_fail(why, -EINVAL,
                         "the snapshot is a difference to another: its memory is "
                         "that of several files, and no server's");
    if (s->layers[0].layout.is_packed)
        return snap_fail(why, -EINVAL,
                         "the snapshot's memory is compressed: no server can bring its pages");
    return uffd_open(&s->uffd, path, why);
}

static int open_all(struct snap *s, const struct snap_files *files, unsigned flags,
                    const struct snap_why *why)
{
    int err;

    s->layers[0].fd = -1;
    s->nr = 1;
    s->flags = flags;
    err = layer_open(&s->layers[0], files, why);
    if (!err && files->uffd)
        err = open_server(s, files->uffd, why);
    while (!err && layer_base(&s->layers[s->nr - 1]))
        err = open_base(s, why);
    for (unsigned i = 0; i < s->nr && !err && !files->uffd && (flags & SNAP_VERIFY); i++)
        err = pages_verify(s->layers[i].fd, &s->layers[i].layout, why);
    if (err)
        return err;
    s->info.id = s->layers[0].id;
    s->info.base_id = s->nr > 1 ? s->layers[1].id : NULL;
    s->image.memory = (struct mmu_image){
        .fd = s->layers[s->nr - 1].fd, .find = image_find, .bring = image_bring, .ctx = s
    };
    return machine_image(json_object_get(s->layers[0].doc.json, "machine"), &s->image, &s->model,
                         &s->info, why);
}

struct snap *snap_open(const struct snap_files *files, unsigned flags, char *why, size_t why_bytes)
{
    struct snap *s = calloc(1, sizeof(*s));
    struct snap_why w = { why, why_bytes };

    if (!s) {
        (void)snap_fail(&w, -ENOMEM, "out of memory");
        return NULL;
    }
    s->uffd = (struct snap_uffd){ .fd = -1, .sock = -1 };
    if (open_all(s, files, flags, &w) < 0) {
        snap_close(s);
        return NULL;
    }
    return s;
}

struct snap *snap_open_dir(const char *dir, unsigned flags, char *why, size_t why_bytes)
{
    struct snap *s = NULL;
    char *state = NULL;

    if (asprintf(&state, "%s/" SNAP_STATE_FILE, dir) >= 0)
        s = snap_open(&(struct snap_files){ .state = state }, flags, why, why_bytes);
    free(state);
    return s;
}

void snap_close(struct snap *s)
{
    if (!s)
        return;
    for (unsigned i = 0; i < s->nr; i++) {
        struct layer *l = &s->layers[i];

        if (l->fd >= 0)
            (void)close(l->fd); /* only read from */
        doc_free(&l->doc);
        free(l->path);
    }
    uffd_close(&s->uffd);
    free(s);
}

const json_t *snap_config(const struct snap *s)
{
    const json_t *config = json_object_get(s->layers[0].doc.json, "config");

    return json_is_null(config) ? NULL : config;
}

void snap_info(const struct snap *s, struct snap_info *out)
{
    *out = s->info;
}

const struct vm_image *snap_image(const struct snap *s)
{
    return &s->image;
}

void snap_take_server(struct snap *s, int fds[2])
{
    fds[0] = s->uffd.fd;
    fds[1] = s->uffd.sock;
    s->uffd.fd = s->uffd.sock = -1;
}

/* ---- loading ---- */

static bool layout_has(const struct snap_layout *l, const char *name)
{
    for (unsigned i = 0; i < l->nr; i++)
        if (!strcmp(l->slots[i].name, name))
            return true;
    return false;
}

/* All that a guest can write, but for files of the user's, is from the snapshot, and all of the
 * snapshot is there. */
static int check_memory(const struct snap *s, struct vm *vm, const struct snap_why *why)
{
    const struct snap_layout *l = &s->layers[s->nr - 1].layout;
    const struct slot *slot;
    unsigned nr = 0;

    for (unsigned i = 0; (slot = mmu_slot_at(vm_mmu(vm), i)); i++) {
        if (slot->of || slot->flags & (SLOT_RO | SLOT_FILE))
            continue;
        if (l->is_packed ? !layout_has(l, slot->name) : !(slot->flags & SLOT_PRIVATE))
            return snap_fail(why, -EINVAL, "the snapshot has no memory '%s'", slot->name);
        nr++;
    }
    if (nr != l->nr)
        return snap_fail(why, -EINVAL, "the snapshot has memory that this machine has not");
    return 0;
}

/* Is the memory of the whole one there already? */
static bool is_mapped(const struct snap *s)
{
    return !s->layers[s->nr - 1].layout.is_packed;
}

/*
 * The guest's clocks, all of which are the VM's, go on as if they had run meanwhile; not before the
 * machine does, so that no time is lost in between. To devices that are loaded they are where they
 * were when those were saved; what has fallen due is the clock's thread's to see.
 */
static void catch_up(const struct snap *s, struct vm *vm)
{
    uint64_t now = host_real_ns(), was = s->info.real_ns;

    if (now < was)
        log_warn("the snapshot's date is %llu s after this host's: the guest's goes on from the "
                 "snapshot's",
                 (unsigned long long)((was - now + NS_PER_S - 1) / NS_PER_S));
    else if ((now - was) / NS_PER_S > AGE_MAX_S || clock_catch_up(bus_clock(vm_bus(vm)), was) < 0)
        log_warn("the snapshot would be %llu days old, too much to be believed: the guest's date "
                 "goes on from the snapshot's",
                 (unsigned long long)((now - was) / NS_PER_S / 86400));
}

/* All of it is loaded: from here on it is a machine of its own. */
static void begin_anew(const struct snap *s, struct vm *vm)
{
    struct vm_base base;

    if (s->flags & SNAP_CLOCK_HOST)
        catch_up(s, vm);
    memcpy(base.id, s->info.id, sizeof(base.id));
    base.path = strdup(s->layers[0].path);
    vm_set_base(vm, &base);
    /* The log of what is written has begun. */
    vm_new_generation(vm);
    for (unsigned i = 0; i < vm_nr_vcpus(vm); i++)
        cpu_pv_was_stopped(&vm_vcpu(vm, i)->cpu);
}

int snap_load(struct snap *s, struct vm *vm, char *why, size_t why_bytes)
{
    struct snap_why w = { why, why_bytes };
    int err = 0;

    if (vm_nr_vcpus(vm) != s->info.nr_cpus || vm_cfg(vm)->boot.ram_bytes != s->info.ram_bytes)
        return snap_fail(&w, -EINVAL,
                         "the snapshot is of a machine with %u vCPUs and %llu MiB, this one has %u "
                         "and %llu",
                         s->info.nr_cpus, (unsigned long long)(s->info.ram_bytes >> 20),
                         vm_nr_vcpus(vm), (unsigned long long)(vm_cfg(vm)->boot.ram_bytes >> 20));
    err = check_memory(s, vm, &w);
    if (!err && s->uffd.fd >= 0)
        err = uffd_hand_over(&s->uffd, &w);
    if (err)
        return err;
    /* Devices' threads live already: they are to begin nothing before all is loaded. */
    vm_pause(vm);
    for (unsigned i = is_mapped(s) ? s->nr - 1 : s->nr; i-- > 0 && !err;)
        err = pages_apply(vm, s->layers[i].fd, &s->layers[i].layout, &w);
    if (!err)
        err = machine_load(vm, &s->layers[0].doc, &w);
    if (!err)
        begin_anew(s, vm);
    vm_resume(vm);
    return err;
}
