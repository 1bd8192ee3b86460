/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The list of guest-physical slots, sorted by address. Changed when a machine is built, by hot-plug
 * and by devices that move ROM: rarely, and with no vCPU running. Looked up all the time, so a
 * lookup takes no lock (see mmu.h for who may).
 */
#include "mmu/mmu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "host/host.h"
#include "lib/log.h"
#include "mmu/priv.h"

struct mmu *mmu_create(void)
{
    struct mmu *m = calloc(1, sizeof(*m));

    if (!m) {
        log_error("out of memory for the list of memory slots");
        return NULL;
    }
    lock_init(&m->slots_lock, LOCK_SLOTS);
    return m;
}

static void slot_free(struct slot *s)
{
    if (s->of) {
        alias_free(s);
        return;
    }
    host_unmap(s->hva, s->bytes);
    if (s->fd >= 0)
        host_close(s->fd);
    if (s->image_fd >= 0)
        host_close(s->image_fd);
    free((void *)s->notes);
    free(s);
}

/* Aliases first, for they look at what they are of. */
void mmu_destroy(struct mmu *m)
{
    unsigned nr = 0;

    if (!m)
        return;
    for (unsigned i = 0; i < m->nr_slots; i++)
        if (m->slots[i]->of)
            slot_free(m->slots[i]);
        else
            m->slots[nr++] = m->slots[i];
    for (unsigned i = 0; i < nr; i++)
        slot_free(m->slots[i]);
    lock_destroy(&m->slots_lock);
    free(m);
}

/* Index of the first slot that ends above `at`: the one that holds it, or the next one. */
static unsigned slot_lower_bound(const struct mmu *m, gpa_t at)
{
    unsigned lo = 0, hi = m->nr_slots;

    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;
        const struct slot *s = m->slots[mid];

        if (at.v - s->base.v < s->bytes)
            return mid;
        if (s->base.v <= at.v)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

struct slot *mmu_slot_find(struct mmu *m, gpa_t at)
{
    unsigned idx = slot_lower_bound(m, at);

    if (idx < m->nr_slots && m->slots[idx]->base.v <= at.v)
        return m->slots[idx];
    return NULL;
}

uint64_t mmu_slots_gen(struct mmu *m)
{
    return m->gen;
}

struct slot *mmu_slot_at(struct mmu *m, unsigned idx)
{
    return idx < m->nr_slots ? m->slots[idx] : NULL;
}

/* The slot alone, not yet in the list. NULL and *err = -errno. */
static struct slot *slot_make(const struct mmu *m, const struct slot_desc *d, int *err)
{
    struct slot *s = calloc(1, sizeof(*s));

    *err = -ENOMEM;
    if (!s)
        return NULL;
    *s = (struct slot){ .base = d->base,
                        .bytes = d->bytes,
                        .flags = d->flags,
                        .fd = -1,
                        .image_fd = -1,
                        .name = d->name };
    s->notes = calloc(d->bytes >> PAGE_SHIFT, sizeof(*s->notes));
    if (!s->notes)
        goto fail;
    if (m->image && !(d->flags & (SLOT_RO | SLOT_FILE))) {
        *err = slot_map_image(m->image, s);
        if (!*err)
            return s;
        if (*err != -ENOENT)
            goto fail;
    }
    s->fd = d->flags & SLOT_FILE ? host_dup(d->file) : host_memfd(d->name, d->bytes);
    if (s->fd < 0) {
        *err = s->fd;
        goto fail;
    }
    s->hva = host_map_fd(s->fd, 0, d->bytes);
    if (!s->hva) {
        *err = -errno;
        goto fail;
    }
    return s;

fail:
    slot_free(s);
    return NULL;
}

int slot_insert(struct mmu *m, struct slot *s)
{
    unsigned idx = slot_lower_bound(m, s->base);

    assert_held(&m->slots_lock);
    if (idx < m->nr_slots && m->slots[idx]->base.v < s->base.v + s->bytes) {
        const struct slot *other = m->slots[idx];

        log_error("%s at %#llx (%#llx bytes) overlaps %s at %#llx (%#llx bytes)", s->name,
                  (unsigned long long)s->base.v, (unsigned long long)s->bytes, other->name,
                  (unsigned long long)other->base.v, (unsigned long long)other->bytes);
        return -EEXIST;
    }
    if (m->nr_slots == ARRAY_SIZE(m->slots)) {
        log_error("%s: more than %u memory slots", s->name, m->nr_slots);
        return -ENOSPC;
    }
    memmove(&m->slots[idx + 1], &m->slots[idx], (m->nr_slots - idx) * sizeof(m->slots[0]));
    m->slots[idx] = s;
    m->nr_slots++;
    m->gen++;
    return 0;
}

int slot_check(const struct slot_desc *d)
{
    if (d->bytes && !((d->base.v | d->bytes) & ~PAGE_MASK) && d->base.v + d->bytes > d->base.v)
        return 0;
    log_error("%s: %#llx bytes at %#llx are not whole pages", d->name, (unsigned long long)d->bytes,
              (unsigned long long)d->base.v);
    return -EINVAL;
}

int mmu_slot_add(struct mmu *m, const struct slot_desc *d, struct slot **out)
{
    struct slot *s;
    int err = slot_check(d);

    if (err)
        return err;
    s = slot_make(m, d, &err);
    if (!s) {
        log_error("%s: cannot get %llu MB of memory: %s", d->name,
                  (unsigned long long)(d->bytes >> 20), strerror(-err));
        return err;
    }
    lock_take(&m->slots_lock);
    err = slot_insert(m, s);
    lock_drop(&m->slots_lock);
    if (err) {
        slot_free(s);
        return err;
    }
    if (out)
        *out = s;
    return 0;
}

void slot_take_out(struct mmu *m, const struct slot *s)
{
    unsigned idx = slot_lower_bound(m, s->base);

    assert_held(&m->slots_lock);
    BUG_ON(idx >= m->nr_slots || m->slots[idx] != s);
    m->nr_slots--;
    m->gen++;
    memmove(&m->slots[idx], &m->slots[idx + 1], (m->nr_slots - idx) * sizeof(m->slots[0]));
}

int mmu_slot_move(struct mmu *m, struct slot *s, gpa_t base)
{
    gpa_t old = s->base;
    int err = 0, inserted;

    BUG_ON((base.v & ~PAGE_MASK) || base.v + s->bytes < base.v);
    lock_take(&m->slots_lock);
    slot_take_out(m, s);
    for (unsigned i = 0; i < m->nr_slots; i++)
        if (base.v < m->slots[i]->base.v + m->slots[i]->bytes &&
            m->slots[i]->base.v < base.v + s->bytes)
            err = -EEXIST;
    s->base = err ? old : base;
    inserted = slot_insert(m, s);
    lock_drop(&m->slots_lock);
    BUG_ON(inserted < 0); /* there is room: it was there before */
    return err;
}

void mmu_slot_remove(struct mmu *m, struct slot *s)
{
    lock_take(&m->slots_lock);
    slot_take_out(m, s);
    lock_drop(&m->slots_lock);
    slot_free(s);
}
