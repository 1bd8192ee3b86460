/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing the memory file: the slots of RAM one behind the other, page by page, then a page that
 * says which snapshot it belongs to. Pages that are zero (in a diff: that were not written) are
 * holes; which those are is told by the state file, so a copy that fills holes, or makes some, does
 * no harm.
 *
 * Or compressed: of each chunk the pages that would be there, as one frame, and the frames one
 * behind the other.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "snap/crc.h"
#include "snap/priv.h"

static bool is_zero(const uint8_t *page)
{
    const uint64_t *word = (const uint64_t *)page;

    for (unsigned i = 0; i < PAGE_BYTES / sizeof(*word); i += 8)
        if (word[i] | word[i + 1] | word[i + 2] | word[i + 3] | word[i + 4] | word[i + 5] |
            word[i + 6] | word[i + 7])
            return false;
    return true;
}

struct saving {
    int fd;
    enum snap_kind kind;
    const struct slot *slot;
    uint64_t at; /* in the file: this slot's place, or the next frame's */
    uint8_t *present;
    uint8_t *crcs;
    uint64_t run, run_pages; /* present pages that are not written yet: first, how many */
    struct snap_pack *pack;  /* NULL: not compressed; else run is the chunk that they are of */
    uint8_t *frames;         /* the bytes of each chunk's */
    struct snap_saved *saved;
};

static int saving_flush_packed(struct saving *s)
{
    uint32_t bytes = 0;
    const uint8_t *frame = pack_frame(s->pack, s->run_pages, &bytes);
    int err = frame ? files_write(s->fd, frame, bytes, s->at) : -ENOMEM;

    memcpy(s->frames + s->run * sizeof(bytes), &bytes, sizeof(bytes));
    s->at += bytes;
    s->saved->packed_bytes += bytes;
    s->saved->pages += s->run_pages;
    s->run_pages = 0;
    return err;
}

static int saving_add_packed(struct saving *s, uint64_t page)
{
    int err = 0;

    if (s->run_pages && s->run != page / SNAP_CHUNK_PAGES)
        err = saving_flush_packed(s);
    s->run = page / SNAP_CHUNK_PAGES;
    memcpy(pack_pages(s->pack) + (s->run_pages << PAGE_SHIFT), s->slot->hva + (page << PAGE_SHIFT),
           PAGE_BYTES);
    s->run_pages++;
    return err;
}

static int saving_flush(struct saving *s)
{
    uint64_t off = s->run << PAGE_SHIFT;
    size_t bytes = (size_t)(s->run_pages << PAGE_SHIFT);
    int err;

    if (!bytes)
        return 0;
    if (s->pack)
        return saving_flush_packed(s);
    err = files_write(s->fd, s->slot->hva + off, bytes, s->at + off);
    s->saved->pages += s->run_pages;
    s->run_pages = 0;
    return err;
}

static int saving_add(struct saving *s, uint64_t page)
{
    uint8_t *crc = s->crcs + sizeof(uint32_t) * (page / SNAP_CHUNK_PAGES);
    uint32_t val;
    int err = 0;

    memcpy(&val, crc, sizeof(val));
    val = crc32c(val, s->slot->hva + (page << PAGE_SHIFT), PAGE_BYTES);
    memcpy(crc, &val, sizeof(val));
    s->present[page / 8] |= (uint8_t)BIT(page % 8);
    if (s->pack)
        return saving_add_packed(s, page);
    if (s->run_pages && (s->run + s->run_pages != page || s->run_pages == SNAP_CHUNK_PAGES))
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
    size_t map = pages_bitmap_bytes(s->slot->bytes);
    size_t crcs = pages_nr_chunks(s->slot->bytes) * sizeof(uint32_t), frames = s->pack ? crcs : 0;
    uint8_t *tables = calloc(1, map + crcs + frames);
    char name[64];
    int err = -ENOMEM;

    if (!tables)
        return -ENOMEM;
    s->present = tables;
    s->crcs = tables + map;
    s->frames = tables + map + crcs;
    err = s->kind == SNAP_DIFF ? saving_diff(s) : saving_full(s);
    if (!err)
        err = saving_flush(s);
    (void)snprintf(name, sizeof(name), "pages:%s", s->slot->name);
    if (!err && !doc_add(d, name, s->pack ? SNAP_PAGES_ZSTD : SNAP_PAGES_PLAIN, tables,
                         map + crcs + frames))
        err = -ENOMEM;
    free(tables);
    return err;
}

/* RAM, video memory: what a guest can write. ROM comes from its own file again, files as memory are
 * the user's, and what an alias shows is saved with the slot it is of. */
static bool is_saved(const struct slot *s)
{
    return !s->of && !(s->flags & (SLOT_RO | SLOT_FILE));
}

static int pages_write(struct saving *s, struct vm *vm, const char *id, struct snap_doc *d)
{
    json_t *slots = json_object_get(json_object_get(d->json, "memory"), "slots");
    struct snap_trailer t;
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
        if (!s->pack)
            s->at += s->slot->bytes;
    }
    if (err)
        return err;
    t = (struct snap_trailer){ .at = s->at };
    memcpy(t.magic, SNAP_TRAILER_MAGIC, sizeof(t.magic));
    memcpy(t.id, id, SNAP_ID_BYTES);
    memcpy(page, &t, sizeof(t));
    return files_write(s->fd, page, sizeof(page), s->at);
}

int pages_save(struct vm *vm, int fd, struct snap_how how, const char *id, struct snap_doc *d,
               struct snap_saved *saved, const struct snap_why *why)
{
    struct saving s = { .fd = fd, .kind = how.kind, .saved = saved };
    int err = -ENOMEM;

    if (how.packing == SNAP_ZSTD)
        s.pack = pack_create(true);
    if (s.pack || how.packing == SNAP_PLAIN)
        err = pages_write(&s, vm, id, d);
    pack_destroy(s.pack);
    if (err)
        return snap_fail(why, err, "cannot write the guest's memory: %s", strerror(-err));
    return 0;
}
