/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Process-context identifiers (SDM 3, "Process-Context Identifiers (PCIDs)"). The software TLB has
 * no tags for them: it holds the entries of one address space beside the global ones. When the
 * guest loads CR3, those of the PCID that is left are put aside, and come back with it, unless the
 * guest has asked for a flush meanwhile.
 *
 * Only the latest entries of each view are kept: what a process that takes turns with another one
 * touches in its turn. All of a big one's would cost more to move than to look up again.
 */
#include "engine/interp/tlb.h"

#include "engine/interp/share.h"

static uint16_t present(const struct ivcpu *v)
{
    return (uint16_t)(CPU(v)->cr3 & CR3_PCID_MASK);
}

static struct pcid_set *find(struct ivcpu *v, uint16_t pcid)
{
    for (unsigned i = 0; i < PCID_SETS; i++)
        if (v->pcids[i].valid && v->pcids[i].pcid == pcid)
            return &v->pcids[i];
    return NULL;
}

static struct pcid_set *oldest(struct ivcpu *v)
{
    struct pcid_set *s = &v->pcids[0];

    for (unsigned i = 0; i < PCID_SETS; i++) {
        if (!v->pcids[i].valid)
            return &v->pcids[i];
        if (v->pcids[i].left < s->left)
            s = &v->pcids[i];
    }
    return s;
}

/* ---- leaving ---- */

static unsigned put_aside(const struct tlb *t, struct tlb_kept *kept)
{
    const struct tlb_used *u = &t->used[false];
    unsigned nr = 0;

    for (unsigned n = u->nr; n-- > 0 && nr < PCID_KEPT;) {
        unsigned i = u->at[n];
        const struct tlb_note *note = &t->note[i];

        if (note->global || !tlb_entry_live(t, i))
            continue;
        kept[nr++] = (struct tlb_kept){ .ntag_r = t->ntag_r[i],
                                        .ntag_w = t->ntag_w[i],
                                        .ntag_x = t->ntag_x[i],
                                        .add = t->add[i],
                                        .page = note->page,
                                        .lin = note->lin,
                                        .shift = note->shift,
                                        .at = (uint16_t)i };
    }
    return nr;
}

void pcid_leave(struct ivcpu *v)
{
    struct pcid_set *s = find(v, present(v));

    if (!s)
        s = oldest(v);
    s->valid = true;
    s->pcid = present(v);
    s->left = ++v->nr_left;
    s->nr_protects = v->nr_protects;
    for (unsigned w = 0; w < NR_VIEWS; w++)
        s->nr[w] = put_aside(&v->views[w], s->kept[w]);
    if (v->hooks)
        v->hooks->left(v, (unsigned)(s - v->pcids));
    tlb_flush_nonglobal(v);
}

/* ---- coming back ---- */

/* Pages have become code since: may this one still be written without a look? */
static bool may_write(struct ivcpu *v, const struct tlb_kept *k)
{
    gpa_t at = GPA(k->page << PAGE_SHIFT);
    struct slot *slot = mmu_slot_find(v->vm->evm.cfg.mmu, at);

    return slot && page_claim_write(v, slot, at);
}

static void bring_back(struct ivcpu *v, struct tlb *t, const struct tlb_kept *k, bool check)
{
    unsigned i = k->at;
    struct tlb_note *note = &t->note[i];
    uint64_t none = tlb_no_ntag(i);

    if (tlb_entry_live(t, i)) /* a global one */
        return;
    note->page = k->page;
    note->lin = k->lin;
    note->shift = k->shift;
    note->global = false;
    t->add[i] = k->add;
    t->ntag_r[i] = k->ntag_r;
    t->ntag_x[i] = k->ntag_x;
    t->ntag_w[i] = k->ntag_w != none && check && !may_write(v, k) ? none : k->ntag_w;
    tlb_list_local(t, i);
}

void pcid_enter(struct ivcpu *v)
{
    struct pcid_set *s = find(v, present(v));

    if (!s)
        return;
    s->valid = false; /* from here on flushes are for the entries themselves */
    for (unsigned w = 0; w < NR_VIEWS; w++)
        for (unsigned n = s->nr[w]; n-- > 0;) /* the latest are the latest again */
            bring_back(v, &v->views[w], &s->kept[w][n], s->nr_protects != v->nr_protects);
    if (v->hooks)
        v->hooks->back(v, (unsigned)(s - v->pcids));
}

/* ---- flushes ---- */

void pcid_forget(struct ivcpu *v, uint16_t pcid)
{
    struct pcid_set *s = find(v, pcid);

    if (s)
        s->valid = false;
}

void pcid_forget_all(struct ivcpu *v)
{
    for (unsigned i = 0; i < PCID_SETS; i++)
        v->pcids[i].valid = false;
}
