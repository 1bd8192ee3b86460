/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two memories of a lock-step: the machine's, which the tested engine uses, and the reference's
 * copy. Whatever loaders, devices and debuggers write in the first is brought to the second.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vm/lockstep.h"

/* ---- writes from outside ---- */

static bool range_append(struct ls_mirror *m, gpa_t at, uint64_t bytes)
{
    struct ls_range *last = m->nr ? &m->ranges[m->nr - 1] : NULL;

    if (last && last->at.v + last->bytes == at.v) {
        last->bytes += bytes;
        return true;
    }
    if (!m->ranges || m->nr == m->max) {
        size_t max = m->max ? 2 * m->max : 64;
        struct ls_range *ranges = reallocarray(m->ranges, max, sizeof(*ranges));

        if (!ranges)
            return false;
        m->ranges = ranges;
        m->max = max;
    }
    m->ranges[m->nr++] = (struct ls_range){ .at = at, .bytes = bytes };
    return true;
}

static void mirror_written(struct code_listener *l, gpa_t at, uint64_t bytes)
{
    struct ls_mirror *m = container_of(l, struct ls_mirror, listener);

    lock_take(&m->lock);
    m->no_memory |= !range_append(m, at, bytes);
    lock_drop(&m->lock);
}

/* Takes the list away; the caller frees it. */
static struct ls_range *mirror_take(struct ls_mirror *m, size_t *nr)
{
    struct ls_range *ranges = NULL;

    lock_take(&m->lock);
    *nr = m->nr;
    if (m->nr) {
        ranges = m->ranges;
        m->ranges = NULL;
        m->nr = m->max = 0;
    }
    lock_drop(&m->lock);
    return ranges;
}

/* Calls fn for the bytes of a range, a page or less at a time. */
static void range_each(struct lockstep *ls, const struct ls_range *r,
                       void (*fn)(struct lockstep *ls, gpa_t at, const void *data, size_t bytes))
{
    uint8_t page[PAGE_BYTES];
    uint64_t done, n;

    for (done = 0; done < r->bytes; done += n) {
        n = MIN(PAGE_BYTES, r->bytes - done);
        n = mmu_read(ls->vm->mmu, gpa_add(r->at, done), page, n);
        if (!n)
            return;
        fn(ls, gpa_add(r->at, done), page, n);
    }
}

static void to_copy(struct lockstep *ls, gpa_t at, const void *data, size_t bytes)
{
    (void)mmu_write(ls->copy, at, data, bytes); /* the same slots */
}

static void to_tape(struct lockstep *ls, gpa_t at, const void *data, size_t bytes)
{
    ls_tape_put(&ls->tape, (struct ls_event){ .what = LS_DMA, .arg = { at.v, bytes } }, data,
                bytes);
}

void ls_memory_forward(struct lockstep *ls)
{
    size_t nr;
    struct ls_range *ranges = mirror_take(&ls->mirror, &nr);

    /* Before the two go together, the copy is not needed yet: ls_memory_copy() makes it. */
    for (size_t i = 0; i < nr && ls->together; i++)
        range_each(ls, &ranges[i], to_copy);
    free(ranges);
}

void ls_memory_record(struct lockstep *ls)
{
    size_t nr;
    struct ls_range *ranges = mirror_take(&ls->mirror, &nr);

    for (size_t i = 0; i < nr; i++)
        range_each(ls, &ranges[i], to_tape);
    free(ranges);
}

/* ---- all of it ---- */

void ls_memory_copy(struct lockstep *ls)
{
    struct slot *s;

    for (unsigned i = 0; (s = mmu_slot_at(ls->vm->mmu, i)); i++) {
        uint64_t start, end;

        for (uint64_t at = 0; !s->of && host_data_next(s->fd, at, &start, &end); at = end)
            (void)mmu_write(ls->copy, gpa_add(s->base, start), s->hva + start, end - start);
    }
}

/*
 * Page tables' accessed bits may differ: which translation an engine still has is its own affair,
 * so after the guest has cleared a bit, one sets it at the next access and the other does not (SDM
 * 3, "Accessed and Dirty Flags", and "Recommended Invalidation"). True for a word that could be an
 * entry and differs in nothing else; the copy then takes the machine's.
 */
static bool only_accessed(struct lockstep *ls, uint64_t tested, uint64_t *reference)
{
    const uint64_t present = 1, accessed = 0x20, at = 0x000ffffffffff000;

    if ((tested ^ *reference) != accessed || !(tested & present) ||
        (tested & at) >= GIB(4) + ls->vm->cfg.boot.ram_bytes)
        return false;
    *reference = tested;
    ls->nr_accessed++;
    return true;
}

/* Two pages that differ. True if that is nothing. */
static bool page_same(struct lockstep *ls, const uint8_t *tested, uint8_t *reference,
                      uint64_t *off_bytes)
{
    for (unsigned i = 0; i < PAGE_BYTES; i += 8) {
        uint64_t a, b;

        memcpy(&a, tested + i, 8);
        memcpy(&b, reference + i, 8);
        if (a == b)
            continue;
        if (!only_accessed(ls, a, &b)) {
            *off_bytes = i + (unsigned)__builtin_ctzll(a ^ b) / 8;
            return false;
        }
        memcpy(reference + i, &b, 8);
    }
    return true;
}

/* Where the next bytes are that one of the files holds; a hole reads as zeros. */
static bool next_data(const struct slot *a, const struct slot *b, uint64_t at, uint64_t *start,
                      uint64_t *end)
{
    uint64_t start_b, end_b;
    bool in_a = host_data_next(a->fd, at, start, end);

    if (!host_data_next(b->fd, at, &start_b, &end_b))
        return in_a;
    if (in_a && *start <= start_b)
        return true;
    *start = start_b;
    *end = end_b;
    return true;
}

static bool slot_same(struct lockstep *ls, const struct slot *a, const struct slot *b, gpa_t *at)
{
    uint64_t start, end, off_bytes;

    for (uint64_t from = 0; next_data(a, b, from, &start, &end); from = end)
        for (uint64_t p = align_down(start, PAGE_BYTES); p < end; p += PAGE_BYTES) {
            if (!memcmp(a->hva + p, b->hva + p, PAGE_BYTES) ||
                page_same(ls, a->hva + p, b->hva + p, &off_bytes))
                continue;
            *at = gpa_add(a->base, p + off_bytes);
            return false;
        }
    return true;
}

bool ls_memory_same(struct lockstep *ls, gpa_t *at)
{
    struct slot *a, *b;

    ls->nr_memory++;
    for (unsigned i = 0; (a = mmu_slot_at(ls->vm->mmu, i)); i++) {
        b = mmu_slot_at(ls->copy, i);
        if (!a->of && !slot_same(ls, a, b, at))
            return false;
    }
    return true;
}

/* ---- life ---- */

static int copy_slot(struct mmu *to, const struct slot *s)
{
    struct slot_desc d = { .name = s->name, .base = s->base, .bytes = s->bytes, .flags = s->flags };
    struct slot *copy;

    if (!s->of)
        return mmu_slot_add(to, &d, &copy);
    copy = mmu_slot_find(to, s->of->base);
    BUG_ON(!copy); /* they come first */
    return mmu_alias_add(to, copy, (uint64_t)(s->hva - s->of->hva), &d, &copy);
}

static int copy_slots(struct mmu *to, struct mmu *from, bool aliases)
{
    const struct slot *s;
    int err = 0;

    for (unsigned i = 0; !err && (s = mmu_slot_at(from, i)); i++)
        if (!s->of == !aliases)
            err = copy_slot(to, s);
    return err;
}

int ls_memory_create(struct lockstep *ls)
{
    int err;

    lock_init(&ls->mirror.lock, LOCK_LEAF);
    ls->copy = mmu_create();
    if (!ls->copy)
        return -ENOMEM;
    err = copy_slots(ls->copy, ls->vm->mmu, false);
    if (!err)
        err = copy_slots(ls->copy, ls->vm->mmu, true);
    if (err)
        return err;
    ls->mirror.listener = (struct code_listener){ .written = mirror_written, .every_page = true };
    mmu_listen(ls->vm->mmu, &ls->mirror.listener);
    ls_memory_copy(ls); /* firmware is there already */
    return 0;
}

void ls_memory_destroy(struct lockstep *ls)
{
    mmu_unlisten(ls->vm->mmu, &ls->mirror.listener);
    mmu_destroy(ls->copy);
    free(ls->mirror.ranges);
    lock_destroy(&ls->mirror.lock);
}
