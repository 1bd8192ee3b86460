/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instructions that lie in two pages. Code that is spread over megabytes comes to one each thousand
 * instructions, and a loop over a page's end each time round; interp's way costs as much as those
 * thousand.
 *
 * Such an instruction is a block of its own. What it is made of is known by its bytes, not by its
 * address, since which page comes second is the address space's business: so one translation serves
 * all places with the same bytes at the same offset in the page, and none is ever dropped. What is
 * kept true is the table of branch targets, the only way there: an entry for one of these goes with
 * a flush of either page, and with a store to either.
 */
#include "engine/bt/bt.h"

#include <stdatomic.h>
#include <string.h>

static struct tb **slot(struct bt_vcpu *b, unsigned off, uint32_t key, const uint8_t *bytes)
{
    uint64_t hash = (off | (uint64_t)key << 12 | (uint64_t)bytes[0] << 44) * 0x9e3779b97f4a7c15ull;

    return &b->cross[hash >> 32 & (ARRAY_SIZE(b->cross) - 1)];
}

void bt_cross_insert(struct bt_vcpu *b, struct tb *tb)
{
    struct tb **h = slot(b, (unsigned)tb->gpa, tb->key, tb->cross);

    tb->hash_next = *h;
    *h = tb;
}

void bt_cross_flush(struct bt_vcpu *b)
{
    memset(b->cross, 0, sizeof(b->cross));
    memset(b->crossed_pages, 0, sizeof(b->crossed_pages));
    b->nr_crossed = 0;
}

static bool may_have(const struct bt_vcpu *b, uint64_t page)
{
    return b->crossed_pages[page % CROSSED_PAGES / 64] & BIT64(page % 64);
}

static void note_page(struct bt_vcpu *b, uint64_t page)
{
    b->crossed_pages[page % CROSSED_PAGES / 64] |= BIT64(page % 64);
}

bool bt_cross_in_page(const struct bt_vcpu *b, uint64_t page)
{
    if (!may_have(b, page))
        return false;
    for (unsigned i = 0; i < b->nr_crossed; i++)
        if (b->crossed[i].page[0] == page || b->crossed[i].page[1] == page)
            return true;
    return false;
}

static void drop_entry(struct bt_vcpu *b, unsigned i)
{
    bt_jc_remove(b, b->crossed[i].class, b->crossed[i].rip);
    b->jc_drops++;
    b->crossed[i] = b->crossed[--b->nr_crossed];
}

void bt_cross_drop(struct bt_vcpu *b, gpa_t at, uint64_t bytes)
{
    uint64_t first = at.v >> PAGE_SHIFT, last = (at.v + bytes - 1) >> PAGE_SHIFT;

    if (first == last && !may_have(b, first))
        return;
    for (unsigned i = b->nr_crossed; i-- > 0;) {
        const uint64_t *page = b->crossed[i].page;

        if ((page[0] >= first && page[0] <= last) || (page[1] >= first && page[1] <= last))
            drop_entry(b, i);
    }
}

void bt_cross_drop_all(struct bt_vcpu *b)
{
    while (b->nr_crossed)
        drop_entry(b, b->nr_crossed - 1);
    memset(b->crossed_pages, 0, sizeof(b->crossed_pages));
}

/* An instruction's bytes where they are now: in two pages. */
struct pieces {
    const uint8_t *at[2];
    gpa_t gpa[2];
    bool global;
    unsigned first; /* bytes in the first page */
};

static bool find_piece(struct bt_vcpu *b, struct pieces *p, unsigned i, uint64_t lin, uint32_t key)
{
    const struct tlb *t = &b->iv.views[bt_view(key)];

    p->at[i] = fetch_ptr(&b->iv, lin, &p->gpa[i]);
    if (!p->at[i]) {
        b->iv.vc.cpu.exc.valid = false; /* whoever runs it will raise it */
        return false;
    }
    p->global &= t->note[tlb_index(lin)].global;
    if (bt_fluid_page(b->cache, p->gpa[i]))
        p->at[i] = NULL;
    return p->at[i];
}

static bool same_first(const struct pieces *p, const uint8_t *bytes)
{
    return !memcmp(bytes, p->at[0], p->first);
}

static bool same_second(const struct pieces *p, const uint8_t *bytes, unsigned len)
{
    return !memcmp(bytes + p->first, p->at[1], len - p->first);
}

/* Made before, of these bytes. */
static struct tb *find(struct bt_vcpu *b, struct pieces *p, uint64_t rip, uint32_t key)
{
    unsigned off = (unsigned)(rip % PAGE_BYTES);

    for (struct tb *tb = *slot(b, off, key, p->at[0]); tb; tb = tb->hash_next) {
        if (tb->gpa != off || tb->key != key || tb->cross_len <= p->first ||
            !same_first(p, tb->cross))
            continue;
        /* The next page is only touched for an instruction that is in it. */
        if (!p->at[1] && !find_piece(b, p, 1, rip + p->first, key))
            return NULL;
        if (same_second(p, tb->cross, tb->cross_len))
            return tb;
    }
    return NULL;
}

/* interp has run it once already, and knows its length. */
static struct tb *make(struct bt_vcpu *b, struct pieces *p, uint64_t rip, uint32_t key)
{
    const struct cross *x = cross_cached(&b->iv, rip);
    struct tb *tb;

    if (!x || bt_limit_reached(b) || (!p->at[1] && !find_piece(b, p, 1, rip + p->first, key)))
        return NULL;
    bt_vectors_out(b);
    tb = bt_translate_cross(b, rip % PAGE_BYTES, key, x->bytes, x->len);
    if (!tb && b->cache->code.full) {
        bt_flush_cache(b);
        tb = bt_translate_cross(b, rip % PAGE_BYTES, key, x->bytes, x->len);
    }
    if (tb)
        perf_map_add(b->vm, tb);
    return tb;
}

struct tb *bt_cross(struct bt_vcpu *b, uint32_t key)
{
    uint64_t rip = b->iv.vc.cpu.rip;
    struct pieces p = { .global = true, .first = (unsigned)(PAGE_BYTES - rip % PAGE_BYTES) };
    struct tb *tb;

    if ((!(key & MODE_CS64) && rip + 15 > UINT32_MAX) || !find_piece(b, &p, 0, rip, key))
        return NULL;
    tb = find(b, &p, rip, key);
    if (!tb)
        tb = make(b, &p, rip, key);
    if (!tb)
        return NULL;
    bt_vectors_out(b);
    if (!note_code(&b->iv, p.gpa[0]) || !note_code(&b->iv, p.gpa[1]))
        return NULL;
    /* As in get_block(): noted first, read then. */
    atomic_thread_fence(memory_order_seq_cst);
    if (!same_first(&p, tb->cross) || !same_second(&p, tb->cross, tb->cross_len))
        return NULL;
    if (b->nr_crossed == ARRAY_SIZE(b->crossed))
        bt_cross_drop_all(b);
    b->crossed[b->nr_crossed++] = (struct crossed){
        .rip = rip,
        .page = { p.gpa[0].v >> PAGE_SHIFT, p.gpa[1].v >> PAGE_SHIFT },
        .class = bt_jc_class(key),
    };
    note_page(b, p.gpa[0].v >> PAGE_SHIFT);
    note_page(b, p.gpa[1].v >> PAGE_SHIFT);
    bt_jc_add(b, rip, tb, p.global);
    bt_jc_add_page(b, rip + p.first, tb, p.global);
    return tb;
}
