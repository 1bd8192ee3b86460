/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Translating ahead. A stop of the worker costs more than translating a block, so at each stop that
 * translates anyway, what is most likely to run soon is translated too: blocks that the owner has
 * seen run (its translations are by guest-physical page, for all processes) and that are in the
 * same page, where a branch leads that is not linked yet, or where calls return to.
 *
 * Three lists grow while this goes on: pages of code, exits, landings. Each is gone through once.
 */
#include "engine/bt/direct/code.h"
#include "engine/bt/direct/internal.h"
#include "engine/bt/direct/layout.h"
#include "engine/bt/direct/view.h"
#include "engine/interp/interp.h"

/* Blocks to be made in one stop: longer ones keep the guest's events waiting. */
#define MAX_AHEAD   400
/* So much of the code cache is for what is known to be needed. */
#define AHEAD_BYTES (HOME_CODE_BYTES / 4 * 3)
#define MAX_TARGETS 1024
#define MAX_GUESSES 4

struct ahead {
    struct code *k;
    const struct direct_hints *hints;
    uint64_t generation;
    unsigned room;
    uint64_t lin, page; /* the page asked for last; lin 1: none */
    bool ok;            /* it may be executed */
};

/* Is there code to be had at rip, without a fault? Its page is in a->page then. */
static bool can_fetch(struct ahead *a, uint64_t rip)
{
    struct cpu *c = &a->k->v->vc.cpu;
    struct leaves l;
    uint64_t leaf;

    if (a->lin == (rip & PAGE_MASK))
        return a->ok;
    a->lin = rip & PAGE_MASK;
    a->ok = false;
    if (rip >> 47)
        return false;
    view_leaves(a->k->mmu, c, rip, LEAF_OF_USER, &l);
    leaf = view_leaf(c, &l, (unsigned)(rip >> PAGE_SHIFT) % 512);
    a->page = (leaf & LEAF_ADDR) >> PAGE_SHIFT;
    a->ok = leaf && !(leaf & LEAF_NX);
    return a->ok;
}

static void make(struct ahead *a, uint64_t rip)
{
    enum step st;

    if (!a->room || dcode_find(a->k, rip))
        return;
    a->room--;
    (void)dcode_get(a->k, rip, false, &st);
    if (a->k->used > AHEAD_BYTES || a->k->generation != a->generation)
        a->room = 0;
}

/* From the end of the page to its start, so that what runs on into a block finds it there. False:
 * not all of it was done. */
static bool make_page(struct ahead *a, uint64_t lin)
{
    struct direct_starts s;

    if (!can_fetch(a, lin) || !a->hints->starts(a->k->v, a->page, &s))
        return true;
    for (unsigned i = ARRAY_SIZE(s.all); i-- > 0;)
        while (s.all[i] && a->room) {
            unsigned bit = 63 - (unsigned)__builtin_clzll(s.all[i]);
            uint64_t rip = lin + 64 * i + bit;

            s.all[i] &= ~BIT64(bit);
            if (s.landings[i] & BIT64(bit))
                dcode_expect(a->k, rip);
            make(a, rip);
        }
    return a->room;
}

/* If it is known to run, or is but a few guesses away from that. */
static void make_likely(struct ahead *a, uint64_t rip, bool sure, unsigned guess)
{
    if (dcode_find(a->k, rip) || !can_fetch(a, rip))
        return;
    a->k->guess = guess + (sure ? 1 : 2);
    if (a->hints->known(a->k->v, GPA(a->page << PAGE_SHIFT | rip % PAGE_BYTES)))
        a->k->guess = 0;
    else if (guess + (sure ? 1u : 2u) > MAX_GUESSES)
        return;
    make(a, rip);
    a->k->guess = 0;
}

struct dblock *ahead(struct code *k, struct dblock *b)
{
    struct ahead a = { .k = k,
                       .hints = k->d->hints,
                       .generation = k->generation,
                       .room = k->used < AHEAD_BYTES ? MAX_AHEAD : 0,
                       .lin = 1 };
    uint64_t rip = b->rip;

    if (!a.hints)
        return b;
    while (a.room) {
        if (k->ahead_vpages < k->nr_vpages)
            k->ahead_vpages += make_page(&a, k->vpages[k->ahead_vpages].lin);
        else if (k->ahead_landings < k->nr_landings) {
            const struct landing l = k->landings[k->ahead_landings++];

            make_likely(&a, l.rip, true, l.guess);
        } else if (k->ahead_xits < k->nr_xits) {
            const struct xit x = k->xits[k->ahead_xits++];

            if (x.open)
                make_likely(&a, x.target, x.sure, x.guess);
        } else
            break;
    }
    k->fetched.hva = NULL;
    return dcode_find(k, rip);
}

void ahead_expect(struct code *k)
{
    const struct direct_hints *h = k->d->hints;
    uint64_t rips[MAX_TARGETS];
    unsigned nr = h ? h->targets(k->v, rips, ARRAY_SIZE(rips)) : 0;

    for (unsigned i = 0; i < nr; i++)
        dcode_expect(k, rips[i]);
}
