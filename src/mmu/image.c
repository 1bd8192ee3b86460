/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that comes from a snapshot's file, and the log of what was written since one was made.
 *
 * A private mapping gives all that restoring and cloning want: pages are read when they are first
 * touched, those that are only read are shared by all machines of one snapshot, and a written one
 * becomes the process's own. What it cannot give is the same memory in a second process, which the
 * direct tier of bt needs: mmu_make_shared() is for the machine that turns out to need it.
 */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "lib/log.h"
#include "mmu/priv.h"

void mmu_set_image(struct mmu *m, const struct mmu_image *image)
{
    m->image = image;
}

/* Nobody may touch it before: a page that is there is not brought any more. */
static int slot_map_brought(const struct mmu_image *image, struct slot *s)
{
    s->hva = host_pages(s->bytes);
    if (!s->hva)
        return -ENOMEM;
    s->flags |= SLOT_PRIVATE;
    return image->bring(image->ctx, s->hva, s->bytes, s->image_off_bytes);
}

int slot_map_image(const struct mmu_image *image, struct slot *s)
{
    uint64_t off;
    int err = image->find(image->ctx, s->name, s->bytes, &off);

    if (err)
        return err;
    s->image_off_bytes = off;
    if (image->fd < 0)
        return slot_map_brought(image, s);
    s->image_fd = host_dup(image->fd);
    if (s->image_fd < 0)
        return s->image_fd;
    s->hva = host_map_private(image->fd, off, s->bytes);
    if (!s->hva)
        return -errno;
    s->flags |= SLOT_PRIVATE;
    return 0;
}

/* Neither the file's page nor an own one, but none. Adjacent ones become one mapping of the host's,
 * but each piece apart is one more; the host's limit says when it is enough. */
int slot_zero_private(struct slot *s, uint64_t off_bytes, uint64_t bytes)
{
    return host_map_zero(s->hva + off_bytes, bytes);
}

/* ---- the dirty log ---- */

void mmu_log_start(struct mmu *m)
{
    lock_take(&m->slots_lock);
    for (unsigned i = 0; i < m->nr_slots; i++) {
        struct slot *s = m->slots[i];

        s->flags |= SLOT_LOG_DIRTY;
        for (uint64_t page = 0; page < s->bytes >> PAGE_SHIFT; page++)
            if (atomic_load_explicit(&s->notes[page], memory_order_relaxed) & PAGE_NOTE_DIRTY)
                atomic_fetch_and(&s->notes[page], (uint16_t)~PAGE_NOTE_DIRTY);
    }
    lock_drop(&m->slots_lock);
}

bool slot_page_dirty(const struct slot *s, uint64_t page)
{
    /* Acquire: pairs with the release in mmu_slot_written(). */
    return atomic_load_explicit(&s->notes[page], memory_order_acquire) & PAGE_NOTE_DIRTY;
}

static bool file_data_next(const struct slot *s, uint64_t off_bytes, uint64_t *start, uint64_t *end)
{
    bool is_private = s->flags & SLOT_PRIVATE;
    uint64_t base = is_private ? s->image_off_bytes : s->fd_off_bytes;
    int fd = is_private ? s->image_fd : s->fd;

    if (fd < 0) { /* what will be brought is not known before */
        *start = off_bytes;
        *end = s->bytes;
        return true;
    }
    if (!host_data_next(fd, base + off_bytes, start, end) || *start - base >= s->bytes)
        return false;
    *start = align_down(*start - base, PAGE_BYTES);
    *end = MIN(align_up(*end - base, PAGE_BYTES), s->bytes);
    return true;
}

/* A private slot has the file's data and its own. */
bool slot_data_next(const struct slot *s, uint64_t off_bytes, uint64_t *start, uint64_t *end)
{
    uint64_t own_start, own_end;
    bool any, own;

    if (off_bytes >= s->bytes)
        return false;
    any = file_data_next(s, off_bytes, start, end);
    if (!(s->flags & SLOT_PRIVATE))
        return any;
    own = host_own_next(s->hva, s->bytes, off_bytes, &own_start, &own_end);
    if (own && (!any || own_start < *start)) {
        *end = any ? MIN(own_end, *start) : own_end;
        *start = own_start;
    }
    return any || own;
}

/* ---- from private to shared ---- */

bool mmu_has_private(struct mmu *m)
{
    for (unsigned i = 0; i < m->nr_slots; i++)
        if (m->slots[i]->flags & SLOT_PRIVATE)
            return true;
    return false;
}

static bool is_zero(const uint8_t *page)
{
    const uint64_t *word = (const uint64_t *)page;
    uint64_t any = 0;

    for (unsigned i = 0; i < PAGE_BYTES / sizeof(*word); i++)
        any |= word[i];
    return !any;
}

static int slot_make_shared(struct slot *s)
{
    int fd = host_memfd(s->name, s->bytes), err;
    uint8_t *copy;

    if (fd < 0)
        return fd;
    copy = host_map_fd(fd, 0, s->bytes);
    if (!copy) {
        err = -errno;
        host_close(fd);
        return err;
    }
    for (uint64_t start, end, at = 0; slot_data_next(s, at, &start, &end); at = end)
        for (uint64_t off = start; off < end; off += PAGE_BYTES)
            if (!is_zero(s->hva + off))
                memcpy(copy + off, s->hva + off, PAGE_BYTES);
    host_unmap(copy, s->bytes);
    err = host_map_over(s->hva, fd, 0, s->bytes);
    if (err) {
        host_close(fd);
        return err;
    }
    s->fd = fd;
    s->fd_off_bytes = 0;
    s->flags &= ~SLOT_PRIVATE;
    if (s->image_fd >= 0)
        host_close(s->image_fd);
    s->image_fd = -1;
    return 0;
}

int mmu_make_shared(struct mmu *m)
{
    int err = 0;

    lock_take(&m->slots_lock);
    for (unsigned i = 0; i < m->nr_slots && !err; i++)
        if (!m->slots[i]->of && m->slots[i]->flags & SLOT_PRIVATE)
            err = slot_make_shared(m->slots[i]);
    for (unsigned i = 0; i < m->nr_slots; i++)
        if (m->slots[i]->of)
            alias_refresh(m->slots[i]);
    lock_drop(&m->slots_lock);
    return err;
}
