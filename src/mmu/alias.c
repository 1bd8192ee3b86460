/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Aliases: slots that show a part of another slot's memory, for what a chip set shows at one place
 * or at another, or for reading alone.
 *
 * RAM is seen through one slot at a time, so an alias of it has the notes of the slot it is of: the
 * log of written pages is kept whoever writes. ROM may be seen twice; nobody writes it, and what
 * engines note of its pages they note for each place.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "lib/log.h"
#include "mmu/priv.h"

static bool has_own_notes(const struct slot *alias)
{
    return alias->of->flags & SLOT_RO;
}

void alias_free(struct slot *s)
{
    if (has_own_notes(s))
        free((void *)s->notes);
    free(s);
}

void alias_refresh(struct slot *s)
{
    uint64_t off_bytes = (uint64_t)(s->hva - s->of->hva);
    unsigned inherited = SLOT_PRIVATE | SLOT_LOG_DIRTY;

    s->fd = s->of->fd;
    s->fd_off_bytes = s->of->fd_off_bytes + off_bytes;
    s->flags = (s->flags & ~inherited) | (s->of->flags & inherited);
}

static struct slot *alias_make(struct slot *of, uint64_t off_bytes, const struct slot_desc *d)
{
    struct slot *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    *s = (struct slot){
        .base = d->base,
        .bytes = d->bytes,
        .flags = d->flags,
        .of = of,
        .image_fd = -1,
        .hva = of->hva + off_bytes,
        .name = d->name,
    };
    alias_refresh(s);
    s->notes = has_own_notes(s) ? calloc(d->bytes >> PAGE_SHIFT, sizeof(*s->notes))
                                : of->notes + (off_bytes >> PAGE_SHIFT);
    if (s->notes)
        return s;
    free(s);
    return NULL;
}

int mmu_alias_add(struct mmu *m, struct slot *of, uint64_t off_bytes, const struct slot_desc *d,
                  struct slot **out)
{
    struct slot *s;
    int err = slot_check(d);

    if (err)
        return err;
    BUG_ON(of->of || (off_bytes & ~PAGE_MASK) || off_bytes > of->bytes ||
           d->bytes > of->bytes - off_bytes || (of->flags & SLOT_RO && !(d->flags & SLOT_RO)));
    s = alias_make(of, off_bytes, d);
    if (!s) {
        log_error("%s: out of memory for a memory slot", d->name);
        return -ENOMEM;
    }
    for (uint64_t page = 0; page < s->bytes >> PAGE_SHIFT; page++)
        atomic_fetch_and(&s->notes[page], PAGE_NOTE_DIRTY);
    lock_take(&m->slots_lock);
    err = slot_insert(m, s);
    lock_drop(&m->slots_lock);
    if (err) {
        alias_free(s);
        return err;
    }
    *out = s;
    return 0;
}

void mmu_code_moved(struct mmu *m, gpa_t at, uint64_t bytes)
{
    lock_take(&m->slots_lock);
    for (struct code_listener *l = m->listeners; l; l = l->next)
        l->written(l, at, bytes);
    lock_drop(&m->slots_lock);
}
