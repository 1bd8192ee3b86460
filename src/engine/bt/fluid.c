/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fluid pages: code that is written again and again.
 *
 * Stores to an ordinary page with translations are slow, and drop them. When that has happened a
 * few times in short order the page becomes fluid: stores to it go at full speed, and each
 * translation compares the bytes it was made of before it runs (loose.c), as several versions that
 * lead to each other. A block of a fluid page ends behind what stores, so that no instruction runs
 * that has changed since it was compared. What no longer changes becomes ordinary again.
 *
 * With several vCPUs all pages are ordinary. TODO(JIT compilers with several vCPUs): the note would
 * have to go for all of them at once.
 */
#include "engine/bt/bt.h"

#include <stdlib.h>
#include <string.h>

/* So many drops in so many microseconds make a page fluid: a page that programs are loaded to again
 * and again is none. */
#define DROPS       4
#define DROPS_US    50000
/* A fluid page that has not changed for so long is made ordinary; twice as long each time. */
#define QUIET_US    100000
#define RETURNS_MAX 6
#define REVIEW_US   50000
/* More versions of a block than these are forgotten. */
#define VERSIONS    4

static struct fluid_page *books_of(struct bt_cache *bc, uint64_t page)
{
    return &bc->fluid[(page * 0x9e3779b97f4a7c15ull) >> 54]; /* FLUID_PAGES = 2^10 */
}

struct fluid_page *bt_fluid_page(struct bt_cache *bc, gpa_t at)
{
    struct fluid_page *f = books_of(bc, at.v >> PAGE_SHIFT);

    return f->fluid && f->page == at.v >> PAGE_SHIFT ? f : NULL;
}

static void note_fluid(struct bt_vcpu *b, const struct fluid_page *f)
{
    gpa_t at = GPA(f->page << PAGE_SHIFT);
    struct slot *s = mmu_slot_find(b->iv.vm->evm.cfg.mmu, at);

    if (!s)
        return;
    if (f->fluid)
        s->notes[slot_page(s, at)] |= PAGE_NOTE_FLUID;
    else
        s->notes[slot_page(s, at)] &= (uint16_t)~PAGE_NOTE_FLUID;
}

static void make_fluid(struct bt_vcpu *b, struct fluid_page *f)
{
    gpa_t at = GPA(f->page << PAGE_SHIFT);

    (void)bt_drop(b, at, PAGE_BYTES);
    if (b->direct)
        direct_code_written(b->direct, at, PAGE_BYTES);
    f->fluid = true;
    f->changed = host_tsc();
    b->cache->nr_fluid++;
    b->iv.vc.nr_exits[EXIT_FLUID]++;
    note_fluid(b, f);
}

void bt_fluid_dropped(struct bt_vcpu *b, gpa_t at)
{
    struct fluid_page *f = books_of(b->cache, at.v >> PAGE_SHIFT);
    uint64_t now = host_tsc();

    if (b->iv.vm->share)
        return;
    if (f->page != at.v >> PAGE_SHIFT) {
        if (f->fluid)
            return; /* two pages for one place in the books: the other one stays ordinary */
        *f = (struct fluid_page){ .page = at.v >> PAGE_SHIFT };
    }
    if (f->fluid)
        return;
    if (!f->drops || now - f->since > (uint64_t)DROPS_US * b->ticks_per_us) {
        f->since = now;
        f->drops = 0;
    }
    if (++f->drops == DROPS)
        make_fluid(b, f);
}

/* ---- versions ---- */

bool bt_fluid_good(const struct tb *tb)
{
    const struct fluid_tb *f = tb->fluid;

    if (!f)
        return true;
    for (unsigned i = 0; i < f->nr_fixed; i++)
        if (memcmp(f->now + f->fixed[i].off, f->was + f->fixed[i].off, f->fixed[i].bytes) != 0)
            return false;
    return true;
}

static void take_out(struct bt_vcpu *b, struct tb *tb)
{
    *tb->fluid->link = tb->page_next;
    if (tb->page_next)
        tb->page_next->fluid->link = tb->fluid->link;
    bt_bury(b, tb);
}

/* Does the version `by` do for all for which `old` does? */
static bool covers(const struct tb *by, const struct tb *old)
{
    const struct fluid_tb *f = by->fluid;

    if (by->bytes != old->bytes)
        return false;
    for (unsigned i = 0; i < f->nr_fixed; i++)
        if (memcmp(f->was + f->fixed[i].off, old->fluid->was + f->fixed[i].off,
                   f->fixed[i].bytes) != 0)
            return false;
    return true;
}

void bt_fluid_insert(struct bt_vcpu *b, struct tb *tb)
{
    struct fluid_page *f = bt_fluid_page(b->cache, GPA(tb->gpa));
    struct tb *x = tb->hash_next, *next;
    unsigned nr = 1;

    tb->fluid->link = &f->tbs;
    tb->page_next = f->tbs;
    if (f->tbs)
        f->tbs->fluid->link = &tb->page_next;
    f->tbs = tb;
    f->changed = host_tsc();
    for (; x; x = next) { /* the latest come first */
        next = x->hash_next;
        if (x->gpa == tb->gpa && x->key == tb->key && (covers(tb, x) || ++nr > VERSIONS))
            take_out(b, x);
    }
}

/*
 * All entries come to lead to one version, whose way out when it is stale leads to a later one, and
 * so on: to later ones only, so that no circle can close when none of them is good.
 */
void bt_fluid_turn(struct bt_vcpu *b, struct tb *from, struct tb *to)
{
    struct fluid_page *f = bt_fluid_page(b->cache, GPA(from->gpa));
    struct tb_exit *stale = &from->exits[0], **p = &from->in;

    if (f)
        f->changed = host_tsc();
    if (to == from)
        return; /* a device has put the bytes back meanwhile */
    if (to->fluid->serial > from->fluid->serial) {
        if (stale->to)
            bt_unlink(b->cache, stale);
        bt_link(b->cache, stale, to);
        return;
    }
    bt_jc_turn(b, from, to);
    while (*p) {
        struct tb_exit *x = *p;

        if (x->stale || x->tb == from) {
            p = &x->next_in;
            continue;
        }
        bt_unlink(b->cache, x);
        bt_link(b->cache, x, to);
    }
}

/* ---- the end ---- */

static void drop_all_of(struct bt_vcpu *b, struct fluid_page *f)
{
    while (f->tbs)
        take_out(b, f->tbs);
}

void bt_fluid_drop_all(struct bt_vcpu *b)
{
    for (unsigned i = 0; b->cache->nr_fluid && i < FLUID_PAGES; i++)
        drop_all_of(b, &b->cache->fluid[i]);
}

void bt_fluid_review(struct bt_vcpu *b)
{
    uint64_t now = host_tsc(), us = b->ticks_per_us;

    if (now < b->cache->review)
        return;
    b->cache->review = now + REVIEW_US * us;
    for (unsigned i = 0; i < FLUID_PAGES; i++) {
        struct fluid_page *f = &b->cache->fluid[i];

        if (!f->fluid || now - f->changed < (QUIET_US * us) << f->returns)
            continue;
        drop_all_of(b, f);
        f->fluid = false;
        f->drops = 0;
        f->returns = (uint8_t)MIN(f->returns + 1, RETURNS_MAX);
        b->cache->nr_fluid--;
        note_fluid(b, f);
    }
}
