/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Direct branches of the kernel's code to other pages.
 *
 * What is at an address of another page is the address space's business, so such branches look
 * their target up by its RIP. A kernel's own code lies at the same addresses in all address spaces
 * (its pages are global), so that its calls can be chained after all, as long as two things hold:
 *
 * - the target's page is where it was. Each page that was linked to is noted with its place, and
 *   compared with the page tables again at the flushes that are for global pages;
 * - the branch runs at the address that it was linked for. Its page's address is noted; when its
 *   code is found at another one too, its links are taken back and no more are made.
 *
 * SDM 3, "Caching Translation Information", "Global Pages".
 */
#include "engine/bt/bt.h"
#include "engine/bt/direct/view.h"

#include <string.h>

static struct bt_far_page *slot_of(struct bt_cache *bc, uint64_t lin)
{
    unsigned i = (unsigned)((lin >> PAGE_SHIFT) * 0x9e3779b97f4a7c15ull >> 32) % FAR_PAGES;

    while (bc->far[i].lin && bc->far[i].lin != lin)
        i = (i + 1) % FAR_PAGES;
    return &bc->far[i];
}

void bt_far_forget(struct bt_cache *bc)
{
    if (bc->nr_far)
        memset(bc->far, 0, sizeof(bc->far));
    bc->nr_far = 0;
    bc->far_lo = UINT64_MAX;
    bc->far_hi = 0;
}

bool bt_far_wants(const struct trans *t)
{
    return bt_long64(t) && !(t->key & (KEY_USER | KEY_COUNT)) && !t->tb->fluid &&
           !t->tb->cross_len && bt_kview_is_on(t->b);
}

/* Where the kernel's page is now: 0 if it is none of global code. */
static uint64_t place_of(struct bt_vcpu *b, uint64_t lin)
{
    struct cpu *c = &b->iv.vc.cpu;
    struct leaves l;
    uint64_t leaf;

    view_leaves(b->iv.vm->evm.cfg.mmu, c, lin, LEAF_OF_KERNEL, &l);
    leaf = view_leaf(c, &l, (unsigned)(lin >> PAGE_SHIFT) % 512);
    return (leaf & (LEAF_NX | LEAF_G)) == LEAF_G ? leaf & LEAF_ADDR : 0;
}

bool bt_far_link(struct bt_vcpu *b, struct tb_exit *x, uint64_t page, struct tb *to)
{
    struct bt_cache *bc = b->cache;
    const struct tb_page *from = bt_page(bc, x->tb->gpa >> PAGE_SHIFT);
    uint64_t lin = b->iv.vc.cpu.rip & PAGE_MASK;
    struct bt_far_page *p = slot_of(bc, lin);

    if (!bt_kview_is_on(b) || !from || from->aliased || from->at != page || to->fluid ||
        to->cross_len || !bt_page(bc, to->gpa >> PAGE_SHIFT) ||
        place_of(b, lin) != (to->gpa & PAGE_MASK) || (!p->lin && bc->nr_far == FAR_PAGES / 2))
        return false;
    if (!p->lin) {
        *p = (struct bt_far_page){ .lin = lin, .place = to->gpa & PAGE_MASK };
        bc->nr_far++;
        bc->far_lo = MIN(bc->far_lo, lin);
        bc->far_hi = MAX(bc->far_hi, lin + PAGE_BYTES - 1);
    } else if (p->place != (to->gpa & PAGE_MASK)) {
        return false; /* it was not flushed yet */
    }
    bt_link(bc, x, to);
    return true;
}

void bt_far_give_up(struct bt_cache *bc, struct tb_exit *x)
{
    emit_fix32(bt_code_rw(bc, x->rel32), bc->code.delta, bc->hc.rx + x->table);
}

/* Takes back what leads to the blocks of a page from others. */
static void unlink_to(struct bt_cache *bc, const struct tb_page *pg)
{
    for (struct tb *tb = pg ? pg->tbs : NULL; tb; tb = tb->page_next)
        for (struct tb_exit *x = tb->in, *next; x; x = next) {
            next = x->next_in;
            if (x->far)
                bt_unlink(bc, x);
        }
}

void bt_far_unlink_all(struct bt_cache *bc)
{
    for (unsigned i = 0; i < FAR_PAGES; i++)
        if (bc->far[i].lin)
            unlink_to(bc, bt_page(bc, bc->far[i].place >> PAGE_SHIFT));
    bt_far_forget(bc);
}

/* May a page of 1 GB with `at` hold one that was linked to? */
static bool is_near_far(const struct bt_cache *bc, uint64_t at)
{
    return (at >= bc->far_lo || bc->far_lo - at < GIB(1)) &&
           (at <= bc->far_hi || at - bc->far_hi < GIB(1));
}

void bt_far_flush(struct bt_vcpu *b, const struct tlb_flush *what)
{
    const struct cpu *c = &b->iv.vc.cpu;
    bool global = c->cr4 & CR4_PGE; /* without, all flushes are for all */
    struct bt_cache *bc = b->cache;

    if (!bc->nr_far || (global && what->kind != FLUSH_ALL &&
                        (what->kind != FLUSH_PAGE || !is_near_far(bc, what->at.v))))
        return;
    if (!global && (c->cr4 & CR4_PCIDE)) { /* MOV CR3 may change all without a flush */
        bt_far_unlink_all(bc);
        return;
    }
    for (unsigned i = 0; i < FAR_PAGES; i++)
        if (bc->far[i].lin && place_of(b, bc->far[i].lin) != bc->far[i].place) {
            bt_far_unlink_all(bc);
            return;
        }
}

void bt_far_seen(struct bt_vcpu *b, uint64_t rip, const struct tb *tb)
{
    uint64_t at = rip - tb->gpa % PAGE_BYTES;
    struct tb_page *pg;

    if ((tb->key & KEY_USER) || tb->fluid || tb->cross_len)
        return;
    pg = bt_page(b->cache, tb->gpa >> PAGE_SHIFT);
    if (!pg || pg->aliased || pg->at == at)
        return;
    if (!pg->at) {
        pg->at = at;
        return;
    }
    pg->aliased = true;
    for (struct tb *of = pg->tbs; of; of = of->page_next)
        for (unsigned i = 0; i < of->nr_exits; i++)
            if (of->exits[i].far && of->exits[i].to)
                bt_unlink(b->cache, &of->exits[i]);
}
