/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading the memory file (pages_save.c says what it looks like): is it the right one, is it whole,
 * and what it has over what a machine's memory has.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>

#include "snap/crc.h"
#include "snap/priv.h"

#define SLOT_MAX (1ull << 46)

static const struct snap_section *find_section(const struct snap_doc *d, const char *slot)
{
    for (size_t i = 0; i < d->nr_sections; i++)
        if (!strncmp(d->sections[i].name, "pages:", 6) && !strcmp(d->sections[i].name + 6, slot))
            return &d->sections[i];
    return NULL;
}

/* How many bytes the frames are together. False: one is longer than any can be. */
static bool layout_frames(const struct snap_pages *p, uint64_t *bytes)
{
    *bytes = 0;
    for (size_t i = 0; i < p->nr_crcs; i++) {
        uint32_t frame;

        memcpy(&frame, p->frames + i * sizeof(frame), sizeof(frame));
        if (frame > pack_frame_max())
            return false;
        *bytes += frame;
    }
    return true;
}

static bool layout_slot(struct snap_layout *l, const struct snap_doc *d, const json_t *entry)
{
    const char *name = json_string_value(json_object_get(entry, "name"));
    json_int_t bytes = json_integer_value(json_object_get(entry, "bytes"));
    json_int_t at = json_integer_value(json_object_get(entry, "at"));
    const struct snap_section *s = name ? find_section(d, name) : NULL;
    uint64_t file_bytes = (uint64_t)bytes;
    struct snap_pages p;
    size_t map, crcs;

    if (!s || bytes <= 0 || bytes > (json_int_t)SLOT_MAX || bytes % (json_int_t)PAGE_BYTES ||
        at < 0 || (uint64_t)at != l->trailer_at || l->nr == SNAP_SLOTS_MAX)
        return false;
    map = pages_bitmap_bytes((uint64_t)bytes);
    crcs = pages_nr_chunks((uint64_t)bytes) * sizeof(uint32_t);
    if (s->version != (l->is_packed ? SNAP_PAGES_ZSTD : SNAP_PAGES_PLAIN) ||
        s->bytes != map + crcs + (l->is_packed ? crcs : 0))
        return false;
    p = (struct snap_pages){ .name = name,
                             .bytes = (uint64_t)bytes,
                             .at = (uint64_t)at,
                             .present = s->data,
                             .crcs = s->data + map,
                             .nr_crcs = pages_nr_chunks((uint64_t)bytes),
                             .frames = l->is_packed ? s->data + map + crcs : NULL };
    if (p.frames && !layout_frames(&p, &file_bytes))
        return false;
    l->slots[l->nr++] = p;
    l->trailer_at += file_bytes;
    return true;
}

int pages_layout(struct snap_layout *l, const struct snap_doc *d, const struct snap_why *why)
{
    const json_t *memory = json_object_get(d->json, "memory");
    const json_t *slots = json_object_get(memory, "slots");
    const json_t *compression = json_object_get(memory, "compression");

    *l = (struct snap_layout){ .is_packed = compression };
    if (compression && (!json_is_string(compression) ||
                        strcmp(json_string_value(compression), SNAP_ZSTD_NAME) != 0))
        return snap_fail(why, -EINVAL, "the snapshot's memory is compressed, and not by zstd");
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
    struct snap_trailer t;
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
    if (memcmp(t.magic, SNAP_TRAILER_MAGIC, sizeof(t.magic)) != 0 || t.at != l->trailer_at ||
        memcmp(t.id, id, SNAP_ID_BYTES) != 0)
        return snap_fail(why, -EINVAL, "the memory file is another snapshot's than the state file");
    return 0;
}

/* A walk over a slot's chunks, in their order. */
struct reading {
    int fd;
    const struct snap_pages *p;
    uint8_t *buf;           /* a chunk's pages, each at its place in the chunk */
    struct snap_pack *pack; /* NULL: not compressed */
    uint64_t frame_at;      /* the next frame's place in the file */
};

/* Room for the chunks of slots that are compressed, or are not. False: no memory. */
static bool reading_begin(struct reading *r, int fd, bool is_packed)
{
    *r = (struct reading){ .fd = fd, .buf = malloc(SNAP_CHUNK_BYTES) };
    if (is_packed)
        r->pack = pack_create(false);
    return r->buf && (r->pack || !is_packed);
}

static void reading_slot(struct reading *r, const struct snap_pages *p)
{
    r->p = p;
    r->frame_at = p->at;
}

static void reading_end(struct reading *r)
{
    pack_destroy(r->pack);
    free(r->buf);
}

static uint64_t chunk_first(size_t chunk)
{
    return (uint64_t)chunk * SNAP_CHUNK_PAGES;
}

static uint64_t chunk_nr(const struct snap_pages *p, size_t chunk)
{
    return MIN(SNAP_CHUNK_PAGES, (p->bytes >> PAGE_SHIFT) - chunk_first(chunk));
}

/* The next frame to where its pages are unpacked to, nr of them. */
static int read_frame(struct reading *r, size_t chunk, uint64_t nr)
{
    uint32_t bytes;

    memcpy(&bytes, r->p->frames + chunk * sizeof(bytes), sizeof(bytes));
    if (!nr || !bytes)
        return nr || bytes ? -EILSEQ : 0;
    if (files_read(r->fd, pack_room(r->pack), bytes, r->frame_at) < 0)
        return -EIO;
    r->frame_at += bytes;
    return pack_unpack(r->pack, bytes, nr);
}

/* One chunk's pages into buf. Compares the checksum. */
static int read_packed(struct reading *r, size_t chunk, uint32_t *crc)
{
    uint64_t first = chunk_first(chunk), nr = chunk_nr(r->p, chunk), present = 0;
    const uint8_t *from = pack_pages(r->pack);
    int err;

    for (uint64_t i = 0; i < nr; i++)
        present += pages_present(r->p, first + i);
    err = read_frame(r, chunk, present);
    if (err)
        return err;
    *crc = crc32c(0, from, (size_t)(present << PAGE_SHIFT));
    for (uint64_t i = 0; i < nr; i++) {
        if (!pages_present(r->p, first + i))
            continue;
        memcpy(r->buf + (i << PAGE_SHIFT), from, PAGE_BYTES);
        from += PAGE_BYTES;
    }
    return 0;
}

static int read_plain(struct reading *r, size_t chunk, uint32_t *crc)
{
    uint64_t first = chunk_first(chunk), nr = chunk_nr(r->p, chunk);

    for (uint64_t i = 0, run; i < nr; i += run) {
        uint8_t *at = r->buf + (i << PAGE_SHIFT);

        run = 1;
        if (!pages_present(r->p, first + i))
            continue;
        while (i + run < nr && pages_present(r->p, first + i + run))
            run++;
        if (files_read(r->fd, at, (size_t)(run << PAGE_SHIFT),
                       r->p->at + ((first + i) << PAGE_SHIFT)) < 0)
            return -EIO;
        *crc = crc32c(*crc, at, (size_t)(run << PAGE_SHIFT));
    }
    return 0;
}

/* 0, or -EINVAL after a message. */
static int read_chunk(struct reading *r, size_t chunk, const struct snap_why *why)
{
    uint32_t crc = 0, want;
    int err = r->pack ? read_packed(r, chunk, &crc) : read_plain(r, chunk, &crc);

    memcpy(&want, r->p->crcs + chunk * sizeof(want), sizeof(want));
    if (!err && crc == want)
        return 0;
    return snap_fail(why, -EINVAL, "the snapshot's memory is damaged: %s at %llu MiB: %s",
                     r->p->name, (unsigned long long)(chunk * SNAP_CHUNK_BYTES >> 20),
                     !err             ? "its checksum is wrong"
                     : err == -EILSEQ ? "what is compressed there is not its pages"
                                      : "it cannot be read");
}

int pages_verify(int fd, const struct snap_layout *l, const struct snap_why *why)
{
    struct reading r;
    int err = 0;

    if (!reading_begin(&r, fd, l->is_packed))
        err = snap_fail(why, -ENOMEM, "out of memory");
    for (unsigned i = 0; i < l->nr && !err; i++) {
        reading_slot(&r, &l->slots[i]);
        for (size_t c = 0; c < l->slots[i].nr_crcs && !err; c++)
            err = read_chunk(&r, c, why);
    }
    reading_end(&r);
    return err;
}

/* ---- over what is there ---- */

static struct slot *slot_named(struct vm *vm, const char *name)
{
    struct slot *s;

    for (unsigned i = 0; (s = mmu_slot_at(vm_mmu(vm), i)); i++)
        if (!strcmp(s->name, name))
            return s;
    return NULL;
}

static void apply_chunk(struct slot *s, const struct reading *r, size_t chunk)
{
    uint64_t first = chunk_first(chunk), nr = chunk_nr(r->p, chunk);

    for (uint64_t i = 0; i < nr; i++)
        if (pages_present(r->p, first + i))
            memcpy(s->hva + ((first + i) << PAGE_SHIFT), r->buf + (i << PAGE_SHIFT), PAGE_BYTES);
}

/* What is mapped costs nothing before it is touched; what is unpacked is there. A few bytes can
 * stand for more than this host has, and that is better said than found out. */
static int check_room(const struct snap_layout *l, const struct snap_why *why)
{
    uint64_t pages = 0, have;
    struct sysinfo info;

    if (!l->is_packed || sysinfo(&info) < 0)
        return 0;
    for (unsigned i = 0; i < l->nr; i++)
        for (size_t at = 0; at < pages_bitmap_bytes(l->slots[i].bytes); at++)
            pages += (unsigned)__builtin_popcount(l->slots[i].present[at]);
    have = ((uint64_t)info.totalram + info.totalswap) * info.mem_unit;
    if (pages <= have >> PAGE_SHIFT)
        return 0;
    return snap_fail(
        why, -ENOMEM,
        "the snapshot's memory is %llu MiB when it is unpacked, and this host has %llu",
        (unsigned long long)pages >> 8, (unsigned long long)have >> 20);
}

int pages_apply(struct vm *vm, int fd, const struct snap_layout *l, const struct snap_why *why)
{
    struct reading r;
    int err = check_room(l, why);

    if (!reading_begin(&r, fd, l->is_packed))
        err = snap_fail(why, -ENOMEM, "out of memory");
    for (unsigned i = 0; i < l->nr && !err; i++) {
        const struct snap_pages *p = &l->slots[i];
        struct slot *s = slot_named(vm, p->name);

        if (!s || s->bytes != p->bytes)
            err = snap_fail(why, -EINVAL, "this machine has no memory '%s' of %llu bytes", p->name,
                            (unsigned long long)p->bytes);
        reading_slot(&r, p);
        for (size_t c = 0; c < p->nr_crcs && !err; c++) {
            err = read_chunk(&r, c, why);
            if (!err)
                apply_chunk(s, &r, c);
        }
    }
    reading_end(&r);
    return err;
}
