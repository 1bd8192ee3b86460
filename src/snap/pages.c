/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory file: the slots of RAM one behind the other, page by page, then a page that says which
 * snapshot it belongs to. Pages that are zero (in a diff: that were not written) are holes; which
 * those are is told by the state file, so a copy that fills holes, or makes some, does no harm.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snap/crc.h"
#include "snap/priv.h"

#define CHUNK_PAGES (SNAP_CHUNK_BYTES / PAGE_BYTES)
#define SLOT_MAX    (1ull << 46)

struct trailer {
    char magic[16];
    char id[SNAP_ID_BYTES];
    uint64_t at; /* its place */
};
static const char trailer_magic[16] = "doppel memory\n\n";

static bool is_zero(const uint8_t *page)
{
    const uint64_t *word = (const uint64_t *)page;

    for (unsigned i = 0; i < PAGE_BYTES / sizeof(*word); i += 8)
        if (word[i] | word[i + 1] | word[i + 2] | word[i + 3] | word[i + 4] | word[i + 5] |
            word[i + 6] | word[i + 7])
            return false;
    return true;
}

static size_t bitmap_bytes(uint64_t slot_bytes)
{
    return (size_t)(((slot_bytes >> PAGE_SHIFT) + 7) / 8);
}

static size_t nr_chunks(uint64_t slot_bytes)
{
    return (size_t)((slot_bytes + SNAP_CHUNK_BYTES - 1) / SNAP_CHUNK_BYTES);
}

/* ---- writing ---- */

struct saving {
    int fd;
    enum snap_kind kind;
    const struct slot *slot;
    uint64_t at;
    uint8_t *present;
    uint8_t *crcs;
    uint64_t run, run_pages; /* present pages that are not written yet: first, how many */
    struct snap_saved *saved;
};

static int saving_flush(struct saving *s)
{
    uint64_t off = s->run << PAGE_SHIFT;
    size_t bytes = (size_t)(s->run_pages << PAGE_SHIFT);
    int err = bytes ? files_write(s->fd, s->slot->hva + off, bytes, s->at + off) : 0;

    s->saved->pages += s->run_pages;
    s->run_pages = 0;
    return err;
}

static int saving_add(struct saving *s, uint64_t page)
{
    uint8_t *crc = s->crcs + sizeof(uint32_t) * (page / CHUNK_PAGES);
    uint32_t val;
    int err = 0;

    memcpy(&val, crc, sizeof(val));
    val = crc32c(val, s->slot->hva + (page << PAGE_SHIFT), PAGE_BYTES);
    memcpy(crc, &val, sizeof(val));
    s->present[page / 8] |= (uint8_t)BIT(page % 8);
    if (s->run_pages && (s->run + s->run_pages != page || s->run_pages == CHUNK_PAGES))
        err = saving_flush(s);
    if (!s->run_pages)
        s->run = page;
    s->run_pages++;
    return err;
}

static int saving_full(struct saving *s)
{
    uint64_t start, end;
    int err = 0;

    for (uint64_t at = 0; !err && slot_data_next(s->slot, at, &start, &end); at = end)
        for (uint64_t off = start; off < end && !err; off += PAGE_BYTES) {
            if (is_zero(s->slot->hva + off))
                s->saved->pages_zero++;
            else
                err = saving_add(s, off >> PAGE_SHIFT);
        }
    return err;
}

static int saving_diff(struct saving *s)
{
    int err = 0;

    for (uint64_t page = 0; page < s->slot->bytes >> PAGE_SHIFT && !err; page++)
        if (slot_page_dirty(s->slot, page))
            err = saving_add(s, page);
    return err;
}

static int saving_slot(struct saving *s, struct snap_doc *d)
{
    size_t map = bitmap_bytes(s->slot->bytes), crcs = nr_chunks(s->slot->bytes) * sizeof(uint32_t);
    uint8_t *tables = calloc(1, map + crcs);
    char name[64];
    int err = -ENOMEM;

    if (!tables)
        return -ENOMEM;
    s->present = tables;
    s->crcs = tables + map;
    err = s->kind == SNAP_DIFF ? saving_diff(s) : saving_full(s);
    if (!err)
        err = saving_flush(s);
    (void)snprintf(name, sizeof(name), "pages:%s", s->slot->name);
    if (!err && !doc_add(d, name, 1, tables, map + crcs))
        err = -ENOMEM;
    free(tables);
    return err;
}

/* RAM, video memory: what a guest can write. ROM comes from its own file again, and what an alias
 * shows is saved with the slot it is of. */
static bool is_saved(const struct slot *s)
{
    return !s->of && !(s->flags & SLOT_RO);
}

static int pages_write(struct saving *s, struct vm *vm, const char *id, struct snap_doc *d)
{
    json_t *slots = json_object_get(json_object_get(d->json, "memory"), "slots");
    struct trailer t;
    uint8_t page[PAGE_BYTES] = { 0 };
    int err = 0;

    for (unsigned i = 0; (s->slot = mmu_slot_at(vm_mmu(vm), i)) && !err; i++) {
        if (!is_saved(s->slot))
            continue;
        err = json_array_append_new(slots, json_pack("{s:s, s:I, s:I}", "name", s->slot->name,
                                                     "bytes", (json_int_t)s->slot->bytes, "at",
                                                     (json_int_t)s->at)) < 0
                  ? -ENOMEM
                  : saving_slot(s, d);
        s->at += s->slot->bytes;
    }
    if (err)
        return err;
    t = (struct trailer){ .at = s->at };
    memcpy(t.magic, trailer_magic, sizeof(t.magic));
    memcpy(t.id, id, SNAP_ID_BYTES);
    memcpy(page, &t, sizeof(t));
    return files_write(s->fd, page, sizeof(page), s->at);
}

int pages_save(struct vm *vm, int fd, enum snap_kind kind, const char *id, struct snap_doc *d,
               struct snap_saved *saved, const struct snap_why *why)
{
    struct saving s = { .fd = fd, .kind = kind, .saved = saved };
    int err = pages_write(&s, vm, id, d);

    if (err)
        return snap_fail(why, err, "cannot write the guest's memory: %s", strerror(-err));
    return 0;
}

/* ---- reading ---- */

static const struct snap_section *find_section(const struct snap_doc *d, const char *slot)
{
    for (size_t i = 0; i < d->nr_sections; i++)
        if (!strncmp(d->sections[i].name, "pages:", 6) && !strcmp(d->sections[i].name + 6, slot))
            return &d->sections[i];
    return NULL;
}

static bool layout_slot(struct snap_layout *l, const struct snap_doc *d, const json_t *entry)
{
    const char *name = json_string_value(json_object_get(entry, "name"));
    json_int_t bytes = json_integer_value(json_object_get(entry, "bytes"));
    json_int_t at = json_integer_value(json_object_get(entry, "at"));
    const struct snap_section *s = name ? find_section(d, name) : NULL;
    size_t map;

    if (!s || bytes <= 0 || bytes > (json_int_t)SLOT_MAX || bytes % (json_int_t)PAGE_BYTES ||
        at < 0 || (uint64_t)at != l->trailer_at || l->nr == SNAP_SLOTS_MAX)
        return false;
    map = bitmap_bytes((uint64_t)bytes);
    if (s->version != 1 || s->bytes != map + nr_chunks((uint64_t)bytes) * sizeof(uint32_t))
        return false;
    l->slots[l->nr++] = (struct snap_pages){ .name = name,
                                             .bytes = (uint64_t)bytes,
                                             .at = (uint64_t)at,
                                             .present = s->data,
                                             .crcs = s->data + map,
                                             .nr_crcs = nr_chunks((uint64_t)bytes) };
    l->trailer_at += (uint64_t)bytes;
    return true;
}

int pages_layout(struct snap_layout *l, const struct snap_doc *d, const struct snap_why *why)
{
    const json_t *slots = json_object_get(json_object_get(d->json, "memory"), "slots");

    *l = (struct snap_layout){ 0 };
    for (size_t i = 0; i < json_array_size(slots); i++)
        if (!layout_slot(l, d, json_array_get(slots, i)))
            return snap_fail(why, -EINVAL, "the snapshot's description of memory is wrong (%zu)",
                             i);
    if (!l->nr)
        return snap_fail(why, -EINVAL, "the snapshot has no memory");
    return 0;
}

int pages_check_file(int fd, const struct snap_layout *l, const char *id,
                     const struct snap_why *why)
{
    struct trailer t;
    struct stat st;
    int err = fstat(fd, &st) < 0 ? -errno : 0;

    if (!err && !S_ISREG(st.st_mode))
        return snap_fail(why, -EINVAL, "the snapshot's memory is no file");
    if (!err && (uint64_t)st.st_size != l->trailer_at + PAGE_BYTES)
        return snap_fail(why, -EINVAL, "the snapshot's memory file has %lld bytes instead of %llu",
                         (long long)st.st_size, (unsigned long long)(l->trailer_at + PAGE_BYTES));
    if (!err)
        err = files_read(fd, &t, sizeof(t), l->trailer_at);
    if (err)
        return snap_fail(why, err, "cannot read the snapshot's memory: %s", strerror(-err));
    if (memcmp(t.magic, trailer_magic, sizeof(t.magic)) != 0 || t.at != l->trailer_at ||
        memcmp(t.id, id, SNAP_ID_BYTES) != 0)
        return snap_fail(why, -EINVAL, "the memory file is another snapshot's than the state file");
    return 0;
}

/* One chunk's pages into buf; nr: how many of them there may be. Compares the checksum. */
static int read_chunk(int fd, const struct snap_pages *p, size_t chunk, uint8_t *buf)
{
    uint64_t first = chunk * CHUNK_PAGES;
    uint64_t nr = MIN(CHUNK_PAGES, (p->bytes >> PAGE_SHIFT) - first);
    uint32_t crc = 0, want;

    memcpy(&want, p->crcs + chunk * sizeof(want), sizeof(want));
    for (uint64_t i = 0, run; i < nr; i += run) {
        run = 1;
        if (!pages_present(p, first + i))
            continue;
        while (i + run < nr && pages_present(p, first + i + run))
            run++;
        if (files_read(fd, buf + (i << PAGE_SHIFT), (size_t)(run << PAGE_SHIFT),
                       p->at + ((first + i) << PAGE_SHIFT)) < 0)
            return -EIO;
        crc = crc32c(crc, buf + (i << PAGE_SHIFT), (size_t)(run << PAGE_SHIFT));
    }
    return crc == want ? 0 : -EILSEQ;
}

static int chunk_failed(const struct snap_why *why, const struct snap_pages *p, size_t chunk,
                        int err)
{
    return snap_fail(why, -EINVAL, "the snapshot's memory is damaged: %s at %llu MiB: %s", p->name,
                     (unsigned long long)(chunk * SNAP_CHUNK_BYTES >> 20),
                     err == -EILSEQ ? "its checksum is wrong" : "it cannot be read");
}

int pages_verify(int fd, const struct snap_layout *l, const struct snap_why *why)
{
    uint8_t *buf = malloc(SNAP_CHUNK_BYTES);
    int err = buf ? 0 : snap_fail(why, -ENOMEM, "out of memory");

    for (unsigned i = 0; i < l->nr && !err; i++)
        for (size_t c = 0; c < l->slots[i].nr_crcs && !err; c++) {
            err = read_chunk(fd, &l->slots[i], c, buf);
            if (err)
                err = chunk_failed(why, &l->slots[i], c, err);
        }
    free(buf);
    return err;
}

/* ---- diffs ---- */

static struct slot *slot_named(struct vm *vm, const char *name)
{
    struct slot *s;

    for (unsigned i = 0; (s = mmu_slot_at(vm_mmu(vm), i)); i++)
        if (!strcmp(s->name, name))
            return s;
    return NULL;
}

static void apply_chunk(struct slot *s, const struct snap_pages *p, size_t chunk,
                        const uint8_t *buf)
{
    uint64_t first = chunk * CHUNK_PAGES;
    uint64_t nr = MIN(CHUNK_PAGES, (p->bytes >> PAGE_SHIFT) - first);

    for (uint64_t i = 0; i < nr; i++)
        if (pages_present(p, first + i))
            memcpy(s->hva + ((first + i) << PAGE_SHIFT), buf + (i << PAGE_SHIFT), PAGE_BYTES);
}

int pages_apply(struct vm *vm, int fd, const struct snap_layout *l, const struct snap_why *why)
{
    uint8_t *buf = malloc(SNAP_CHUNK_BYTES);
    int err = buf ? 0 : snap_fail(why, -ENOMEM, "out of memory");

    for (unsigned i = 0; i < l->nr && !err; i++) {
        const struct snap_pages *p = &l->slots[i];
        struct slot *s = slot_named(vm, p->name);

        if (!s || s->bytes != p->bytes)
            err = snap_fail(why, -EINVAL, "this machine has no memory '%s' of %llu bytes", p->name,
                            (unsigned long long)p->bytes);
        for (size_t c = 0; c < p->nr_crcs && !err; c++) {
            err = read_chunk(fd, p, c, buf);
            if (err)
                err = chunk_failed(why, p, c, err);
            else
                apply_chunk(s, p, c, buf);
        }
    }
    free(buf);
    return err;
}
