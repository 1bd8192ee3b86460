/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine in a snapshot: its vCPUs and devices as sections of state, and the description from
 * which a machine like it is made. Sections come in the order of the bus's devices, and are loaded
 * only into a machine that has the same ones in the same order.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "snap/crc.h"
#include "snap/priv.h"
#include "snap/vcpu.h"

/* ---- sections of a machine, in their order; the same walk saves and loads ---- */

/* One piece: a table or a blob, and where it is in this machine. False ends the walk. */
typedef bool piece_fn(void *arg, const struct state_part *p);

static bool each_of_device(struct device *dev, piece_fn *fn, void *arg)
{
    struct state_table own = state_table_of(dev);
    struct state_part part = { .table = &own, .base = dev->state_base };

    if (!fn(arg, &part))
        return false;
    for (unsigned i = 0; dev->type->part && dev->type->part(dev, i, &part); i++)
        if (!fn(arg, &part))
            return false;
    return true;
}

static bool each_device(struct vm *vm, bool late_alone, piece_fn *fn, void *arg)
{
    for (struct device *d = NULL; (d = bus_device_next(vm_bus(vm), d));)
        if ((!late_alone || d->type->late) && !each_of_device(d, fn, arg))
            return false;
    return true;
}

/* ---- saving ---- */

static bool save_blob(struct snap_doc *d, const struct state_part *p)
{
    uint8_t *buf;
    size_t bytes;
    bool ok;

    if (p->blob->save(p->base, &buf, &bytes) < 0)
        return false;
    ok = doc_add(d, p->blob->name, p->blob->version, buf, bytes);
    free(buf);
    return ok;
}

static bool save_piece(void *arg, const struct state_part *p)
{
    const struct state_table *t = p->table;
    size_t bytes;
    void *buf;
    bool ok = false;

    if (p->blob)
        return save_blob(arg, p);
    bytes = state_table_bytes(t);
    buf = malloc(bytes + !bytes);
    if (buf) {
        state_table_save(t, p->base, buf);
        ok = doc_add(arg, t->name, t->version, buf, bytes);
    }
    free(buf);
    return ok;
}

#define MORE_MAX_BYTES 16384u

/* What only this engine has of it. */
static bool save_more(struct snap_doc *d, struct vcpu *v)
{
    uint8_t more[MORE_MAX_BYTES];
    size_t bytes = v->engine->save_more ? v->engine->save_more(v, more, sizeof(more)) : 0;

    return !bytes || doc_add(d, "vcpu-more", 1, more, bytes);
}

bool machine_save(struct vm *vm, struct snap_doc *d)
{
    bool ok;

    lock_take(bus_lock(vm_bus(vm)));
    ok = each_device(vm, false, save_piece, d);
    lock_drop(bus_lock(vm_bus(vm)));
    /* After the devices: what they have told is there. */
    vm_refresh(vm);
    for (unsigned i = 0; i < vm_nr_vcpus(vm) && ok; i++) {
        struct cpu *c = &vm_vcpu(vm, i)->cpu;
        uint32_t requests = vcpu_saved_requests(c);

        ok = save_piece(d, &(struct state_part){ .table = &vcpu_table, .base = c }) &&
             doc_add(d, "vcpu-requests", 1, &requests, sizeof(requests)) &&
             save_more(d, vm_vcpu(vm, i));
    }
    return ok;
}

/* ROM is not saved: it has to be the same again. */
static uint32_t rom_crc(struct vm *vm)
{
    const struct slot *s;
    uint32_t crc = 0;

    for (unsigned i = 0; (s = mmu_slot_at(vm_mmu(vm), i)); i++)
        if (!s->of && s->flags & SLOT_RO)
            crc = crc32c(crc, s->hva, s->bytes);
    return crc;
}

/* ---- loading ---- */

struct loading {
    const struct snap_doc *doc;
    size_t at;
    const struct snap_why *why;
    int err;
};

static int load_section(const struct state_part *p, const struct snap_section *s)
{
    if (!p->blob)
        return state_table_load(p->table, p->base, s->data, s->bytes, s->version);
    if (s->version > p->blob->version) {
        log_error("%s: saved state has version %u, this doppel knows up to %u", p->blob->name,
                  s->version, p->blob->version);
        return -EINVAL;
    }
    return p->blob->load(p->base, s->data, s->bytes, s->version);
}

static bool load_piece(void *arg, const struct state_part *p)
{
    struct loading *l = arg;
    const struct snap_section *s = &l->doc->sections[l->at];
    const char *name = p->blob ? p->blob->name : p->table->name;

    if (l->at >= l->doc->nr_sections || strcmp(s->name, name) != 0) {
        l->err =
            snap_fail(l->why, -EINVAL,
                      "the snapshot is of another machine: it has '%s' where this one has '%s' "
                      "(the disks, network cards and other devices have to be as many, in the same "
                      "order)",
                      l->at < l->doc->nr_sections ? s->name : "nothing", name);
        return false;
    }
    l->at++;
    l->err = load_section(p, s);
    if (l->err)
        l->err = snap_fail(l->why, l->err, "the snapshot's state of '%s' does not fit", name);
    return !l->err;
}

/* Behind all others, so that their lines make no new edges (bus.h). */
static bool load_late(void *arg, const struct state_part *p)
{
    const struct state_table *t = p->table;
    struct loading *l = arg;

    BUG_ON(p->blob); /* no interrupt controller has one */
    for (size_t i = 0; i < l->doc->nr_sections; i++)
        if (!strcmp(l->doc->sections[i].name, t->name)) {
            const struct snap_section *s = &l->doc->sections[i];

            l->err = state_table_load(t, p->base, s->data, s->bytes, s->version);
            return !l->err;
        }
    return true;
}

static int devices_loaded(struct vm *vm, bool late_alone, const struct snap_why *why)
{
    for (struct device *d = NULL; (d = bus_device_next(vm_bus(vm), d));) {
        if (late_alone && !d->type->late)
            continue;
        if (state_loaded(d) < 0)
            return snap_fail(why, -EINVAL, "the snapshot's state of '%s' is refused",
                             d->type->name);
    }
    return 0;
}

static int load_devices(struct vm *vm, struct loading *l)
{
    int err;

    if (!each_device(vm, false, load_piece, l))
        return l->err;
    err = vm_show_plugged(vm);
    if (!err)
        err = devices_loaded(vm, false, l->why);
    if (err)
        return err;
    if (!each_device(vm, true, load_late, l))
        return l->err;
    return devices_loaded(vm, true, l->why);
}

static int load_more(struct vcpu *v, struct loading *l)
{
    const struct snap_section *s = &l->doc->sections[l->at];

    if (l->at >= l->doc->nr_sections || strcmp(s->name, "vcpu-more") != 0)
        return 0;
    l->at++;
    return v->engine->load_more ? v->engine->load_more(v, s->data, s->bytes) : -EINVAL;
}

static int load_vcpus(struct vm *vm, struct loading *l)
{
    for (unsigned i = 0; i < vm_nr_vcpus(vm); i++) {
        struct vcpu *v = vm_vcpu(vm, i);
        const struct snap_section *s;
        uint32_t requests;

        if (!load_piece(l, &(struct state_part){ .table = &vcpu_table, .base = &v->cpu }))
            return l->err;
        s = &l->doc->sections[l->at];
        if (l->at >= l->doc->nr_sections || strcmp(s->name, "vcpu-requests") != 0 ||
            s->bytes != sizeof(requests))
            return snap_fail(l->why, -EINVAL, "the snapshot's vCPU %u is not whole", i);
        memcpy(&requests, s->data, sizeof(requests));
        l->at++;
        if (vcpu_loaded(v, requests) < 0 || load_more(v, l) < 0)
            return snap_fail(l->why, -EINVAL, "the snapshot's state of vCPU %u is refused", i);
    }
    return 0;
}

int machine_load(struct vm *vm, const struct snap_doc *d, const struct snap_why *why)
{
    const json_t *rom = json_object_get(json_object_get(d->json, "machine"), "rom_crc");
    struct loading l = { .doc = d, .why = why };
    int err;

    if (json_integer_value(rom) != rom_crc(vm))
        return snap_fail(why, -EINVAL,
                         "the snapshot was made with other firmware than this, or with another "
                         "file as memory to be read");
    /* In one go: an interrupt that comes in between, from a backend's thread, would be lost. */
    lock_take(bus_lock(vm_bus(vm)));
    err = load_devices(vm, &l);
    if (!err)
        err = load_vcpus(vm, &l);
    lock_drop(bus_lock(vm_bus(vm)));
    /* What is left is memory. */
    if (!err && l.at < d->nr_sections && strncmp(d->sections[l.at].name, "pages:", 6) != 0)
        err = snap_fail(why, -EINVAL,
                        "the snapshot is of another machine: it has '%s', which this one has not",
                        d->sections[l.at].name);
    return err;
}

/* ---- description ---- */

static json_t *describe_cpu(const struct cpu_model *m)
{
    json_t *words = json_array();
    json_t *j =
        json_pack("{s:s, s:s, s:s, s:s, s:I, s:i, s:i, s:I}", "model", m->name, "vendor",
                  m->vendor == VENDOR_AMD ? "AMD" : "Intel", "vendor_id", m->vendor_id, "brand",
                  m->brand, "signature", (json_int_t)m->signature, "phys_bits", (int)m->phys_bits,
                  "lin_bits", (int)m->lin_bits, "xcr0", (json_int_t)m->xcr0);

    for (unsigned i = 0; words && i < NR_FEATURE_WORDS; i++)
        (void)json_array_append_new(words, json_integer(m->words[i])); /* seen by its size */
    if (!j || json_array_size(words) != NR_FEATURE_WORDS ||
        json_object_set(j, "features", words) < 0) {
        json_decref(j);
        j = NULL;
    }
    json_decref(words);
    return j;
}

json_t *machine_describe(struct vm *vm)
{
    const struct vm_config *cfg = vm_cfg(vm);
    const struct clock *c = bus_clock(vm_bus(vm));

    return json_pack("{s:s, s:s, s:s?, s:I, s:i, s:o, s:I, s:I, s:I, s:I}", "name", cfg->name,
                     "engine", cfg->engine->name, "cpu_model", cfg->cpu_model, "memory",
                     (json_int_t)cfg->boot.ram_bytes, "cpus", (int)vm_nr_vcpus(vm), "cpu",
                     describe_cpu(vm_model(vm)), "tsc_khz", (json_int_t)clock_tsc_khz(c), "tsc",
                     (json_int_t)clock_tsc(c), "real_ns", (json_int_t)clock_stopped_real_ns(c),
                     "rom_crc", (json_int_t)rom_crc(vm));
}

static bool get_number(const json_t *j, const char *key, uint64_t max, uint64_t *val)
{
    const json_t *n = json_object_get(j, key);

    if (!json_is_integer(n) || json_integer_value(n) < 0 || (uint64_t)json_integer_value(n) > max)
        return false;
    *val = (uint64_t)json_integer_value(n);
    return true;
}

static bool get_text(const json_t *j, const char *key, char *buf, size_t bytes)
{
    const char *text = json_string_value(json_object_get(j, key));

    if (!text || strlen(text) >= bytes)
        return false;
    memset(buf, 0, bytes);
    memcpy(buf, text, strlen(text));
    return true;
}

static bool read_cpu(const json_t *j, struct cpu_model *m)
{
    const json_t *words = json_object_get(j, "features");
    uint64_t signature, phys, lin, xcr0;
    char vendor[8];

    *m = (struct cpu_model){ 0 };
    if (!get_text(j, "model", m->name, sizeof(m->name)) ||
        !get_text(j, "vendor_id", m->vendor_id, sizeof(m->vendor_id)) ||
        !get_text(j, "brand", m->brand, sizeof(m->brand)) ||
        !get_text(j, "vendor", vendor, sizeof(vendor)) ||
        !get_number(j, "signature", UINT32_MAX, &signature) ||
        !get_number(j, "phys_bits", 52, &phys) || !get_number(j, "lin_bits", 57, &lin) ||
        !get_number(j, "xcr0", INT64_MAX, &xcr0) || phys < 32 || (lin != 48 && lin != 57) ||
        json_array_size(words) <= FW_KVM || json_array_size(words) > NR_FEATURE_WORDS)
        return false;
    m->vendor = !strcmp(vendor, "AMD") ? VENDOR_AMD : VENDOR_INTEL;
    m->signature = (uint32_t)signature;
    m->phys_bits = (uint8_t)phys;
    m->lin_bits = (uint8_t)lin;
    m->xcr0 = xcr0;
    for (unsigned i = 0; i < json_array_size(words); i++) {
        const json_t *word = json_array_get(words, i);
        json_int_t bits = json_integer_value(word);

        if (!json_is_integer(word) || bits < 0 || bits > UINT32_MAX)
            return false;
        m->words[i] = (uint32_t)bits;
    }
    return true;
}

int machine_image(const json_t *machine, struct vm_image *image, struct cpu_model *model,
                  struct snap_info *info, const struct snap_why *why)
{
    uint64_t cpus;

    if (!get_number(machine, "tsc", INT64_MAX, &image->tsc) ||
        !get_number(machine, "tsc_khz", UINT32_MAX, &image->tsc_khz) ||
        !get_number(machine, "memory", INT64_MAX, &info->ram_bytes) ||
        !get_number(machine, "cpus", 1024, &cpus) || !cpus ||
        !read_cpu(json_object_get(machine, "cpu"), model))
        return snap_fail(why, -EINVAL, "the snapshot's description of its machine is not whole");
    info->nr_cpus = (uint32_t)cpus;
    if (!get_number(machine, "real_ns", INT64_MAX, &info->real_ns))
        info->real_ns = 0;
    info->name = json_string_value(json_object_get(machine, "name"));
    info->engine = json_string_value(json_object_get(machine, "engine"));
    info->cpu_model = json_string_value(json_object_get(machine, "cpu_model"));
    if (!info->name || !info->engine)
        return snap_fail(why, -EINVAL, "the snapshot does not say what it is of");
    image->model = model;
    return 0;
}
