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
#include <string.h>

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

static void forget_code(struct slot *s)
{
    for (uint64_t page = 0; page < s->bytes >> PAGE_SHIFT; page++)
        atomic_fetch_and(&s->notes[page], PAGE_NOTE_DIRTY);
}

int mmu_alias_add(struct mmu *m, struct slot *of, uint64_t off_bytes, const struct slot_desc *d,
                  struct slot **out)
{
    const struct alias_desc alias = { *d, off_bytes };
    unsigned nr = 0;

    return mmu_alias_replace(m, of, &alias, 1, out, &nr);
}

/* All of them, or none. */
static int make_aliases(struct slot *of, const struct alias_desc *aliases, unsigned nr,
                        struct slot **made)
{
    for (unsigned i = 0; i < nr; i++) {
        const struct slot_desc *d = &aliases[i].slot;
        int err = slot_check(d);

        BUG_ON(!err &&
               (of->of || (aliases[i].off_bytes & ~PAGE_MASK) || aliases[i].off_bytes > of->bytes ||
                d->bytes > of->bytes - aliases[i].off_bytes ||
                (of->flags & SLOT_RO && !(d->flags & SLOT_RO))));
        made[i] = err ? NULL : alias_make(of, aliases[i].off_bytes, d);
        if (made[i])
            continue;
        if (!err)
            log_error("%s: out of memory for a memory slot", d->name);
        while (i-- > 0)
            alias_free(made[i]);
        return err ? err : -ENOMEM;
    }
    return 0;
}

int mmu_alias_replace(struct mmu *m, struct slot *of, const struct alias_desc *aliases, unsigned nr,
                      struct slot **slots, unsigned *nr_slots)
{
    struct slot *made[MMU_ALIASES_MAX], *old[MMU_ALIASES_MAX];
    unsigned nr_old = *nr_slots, done;
    int err;

    BUG_ON(nr > MMU_ALIASES_MAX || nr_old > MMU_ALIASES_MAX);
    err = make_aliases(of, aliases, nr, made);
    if (err)
        return err;
    memcpy(old, slots, nr_old * sizeof(old[0]));
    for (unsigned i = 0; i < nr; i++)
        forget_code(made[i]);
    lock_take(&m->slots_lock);
    for (unsigned i = 0; i < nr_old; i++)
        slot_take_out(m, old[i]);
    for (done = 0; done < nr && !err; done += !err)
        err = slot_insert(m, made[done]);
    lock_drop(&m->slots_lock);
    for (unsigned i = 0; i < nr_old; i++)
        alias_free(old[i]);
    for (unsigned i = done; i < nr; i++)
        alias_free(made[i]);
    memcpy(slots, made, done * sizeof(slots[0]));
    *nr_slots = done;
    return err;
}

void mmu_code_moved(struct mmu *m, gpa_t at, uint64_t bytes)
{
    lock_take(&m->slots_lock);
    for (struct code_listener *l = m->listeners; l; l = l->next)
        l->written(l, at, bytes);
    lock_drop(&m->slots_lock);
}
