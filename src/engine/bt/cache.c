/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cache of translations: by guest-physical address and key, by page for invalidation, by host
 * address for traps; their chains; and each vCPU's table of branch targets. A dropped block may be
 * the one that runs: it is only freed, and its code written over, when the whole cache is flushed.
 */
#include "engine/bt/bt.h"

#include <stdlib.h>
#include <string.h>

/*
 * Blocks of one page are near each other: a guest that runs little code then touches little of the
 * table, which is 2 MB (half of it in a restored guest that has answered a request, where all of it
 * was).
 */
#define SLOTS_OF_PAGE 128u

static struct tb **hash_slot(struct bt_cache *bc, uint64_t gpa, uint32_t key)
{
    uint64_t group = ((gpa >> PAGE_SHIFT) ^ (uint64_t)key << 40) * 0x9e3779b97f4a7c15ull;
    unsigned off = (unsigned)(gpa ^ gpa >> 7) % SLOTS_OF_PAGE;

    return &bc->hash[(group >> 32) % (TB_BUCKETS / SLOTS_OF_PAGE) * SLOTS_OF_PAGE + off];
}

static struct tb_page **page_slot(struct bt_cache *bc, uint64_t page)
{
    struct tb_page **p = &bc->pages[page % TB_PAGES];

    while (*p && (*p)->page != page)
        p = &(*p)->next;
    return p;
}

struct tb *bt_find(struct bt_cache *bc, gpa_t at, uint32_t key)
{
    struct tb *tb = *hash_slot(bc, at.v, key);

    while (tb && (tb->gpa != at.v || tb->key != key || !bt_fluid_good(tb)))
        tb = tb->hash_next;
    return tb;
}

struct tb *bt_newest(struct bt_cache *bc, gpa_t at, uint32_t key)
{
    struct tb *tb = *hash_slot(bc, at.v, key);

    while (tb && (tb->gpa != at.v || tb->key != key))
        tb = tb->hash_next;
    return tb;
}

bool bt_insert(struct bt_vcpu *b, struct tb *tb)
{
    struct bt_cache *bc = b->cache;
    struct tb_page **pp = page_slot(bc, tb->gpa >> PAGE_SHIFT), *pg = *pp;
    struct tb **h = hash_slot(bc, tb->gpa, tb->key);

    if (bc->nr_by_pc == bc->max_by_pc) {
        unsigned max = bc->max_by_pc ? 2 * bc->max_by_pc : 4096;
        struct tb **p = realloc(bc->by_pc, max * sizeof(struct tb *));

        if (!p)
            return false;
        bc->by_pc = p;
        bc->max_by_pc = max;
    }
    if (!pg && !tb->fluid && !tb->cross_len) {
        pg = calloc(1, sizeof(*pg));
        if (!pg)
            return false;
        pg->page = tb->gpa >> PAGE_SHIFT;
        *pp = pg;
    }
    bc->by_pc[bc->nr_by_pc++] = tb;
    if (tb->cross_len) {
        bt_cross_insert(b, tb);
        return true;
    }
    tb->hash_next = *h;
    *h = tb;
    if (tb->fluid) {
        bt_fluid_insert(b, tb);
        return true;
    }
    tb->page_next = pg->tbs;
    pg->tbs = tb;
    pg->lines |= code_lines(tb->gpa % PAGE_BYTES, tb->bytes);
    return true;
}

struct tb_page *bt_page(struct bt_cache *bc, uint64_t page)
{
    return *page_slot(bc, page);
}

bool bt_has_code(struct bt_cache *bc, uint64_t page)
{
    return bt_page(bc, page) != NULL;
}

bool bt_starts(struct bt_cache *bc, uint64_t page, uint32_t key, struct direct_starts *out)
{
    const struct tb_page *pg = *page_slot(bc, page);
    bool any = false;

    *out = (struct direct_starts){ 0 };
    for (const struct tb *tb = pg ? pg->tbs : NULL; tb; tb = tb->page_next) {
        unsigned off = tb->gpa % PAGE_BYTES;

        if (tb->key != key)
            continue;
        out->all[off / 64] |= BIT64(off % 64);
        if (tb->jc_at != JC_NONE)
            out->landings[off / 64] |= BIT64(off % 64);
        for (unsigned i = 0; i < tb->nr_exits; i++)
            if (tb->exits[i].lea && tb->exits[i].to)
                out->landings[tb->exits[i].target / 64] |= BIT64(tb->exits[i].target % 64);
        any = true;
    }
    return any;
}

struct tb *bt_by_pc(struct bt_cache *bc, const uint8_t *pc)
{
    unsigned lo = 0, hi = bc->nr_by_pc;

    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;

        if (bc->by_pc[mid]->end <= pc)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < bc->nr_by_pc && bc->by_pc[lo]->code <= pc ? bc->by_pc[lo] : NULL;
}

/* ---- chains ---- */

/*
 * A fluid block that goes back to its own start and has not stored need not look at its bytes
 * again: devices' writes come as requests, which its jump looks at, and another vCPU there is not
 * (see bt_fluid_dropped()).
 */
static bool may_skip_check(const struct tb_exit *x, const struct tb *to)
{
    if (!to->fluid || x->tb != to || !x->check)
        return false;
    return !to->fluid->stores || x->nr_insns < to->nr_insns; /* the last one stores */
}

void bt_link(struct bt_cache *bc, struct tb_exit *x, struct tb *to)
{
    BUG_ON(x->to);
    x->to = to;
    x->next_in = to->in;
    to->in = x;
    emit_fix32(bt_code_rw(bc, x->rel32), bc->code.delta,
               x->far                  ? to->far
               : may_skip_check(x, to) ? to->body
                                       : to->near);
}

void bt_unlink(struct bt_cache *bc, struct tb_exit *x)
{
    struct tb_exit **p = &x->to->in;

    /* An exit that is linked leads somewhere: NOLINTBEGIN(clang-analyzer-core.NullDereference) */
    while (*p && *p != x)
        p = &(*p)->next_in;
    BUG_ON(!*p);
    *p = x->next_in;
    /* NOLINTEND(clang-analyzer-core.NullDereference) */
    x->to = NULL;
    emit_fix32(bt_code_rw(bc, x->rel32), bc->code.delta, bc->hc.rx + x->stub);
}

/* ---- dropping ---- */

unsigned bt_jc_index(const struct bt_vcpu *b, uint64_t rip)
{
    uint64_t sum = rip + (rip >> JC_BITS | rip << (64 - JC_BITS));

    return (unsigned)sum & ((b->vm->slow_pext ? 1u << 16 : JC_ENTRIES) - 1);
}

/* An empty entry matches no RIP of its index. */
static void jc_clear(const struct bt_vcpu *b, struct jc *jc, unsigned i)
{
    jc->e[i] = (struct jc_entry){ .neg_rip = i == bt_jc_index(b, 1) };
}

/* All entries that lead to the block: to NULL clears them. */
static void jc_replace(struct bt_vcpu *b, const struct tb *tb, const struct tb *to)
{
    struct jc *jc = &b->jc[bt_jc_class(tb->key)];

    if (tb->jc_at == JC_NONE)
        return;
    b->jc_drops++;
    for (const struct jc_log *log = &jc->local;; log = &jc->global) {
        unsigned nr = tb->jc_more || jc->brought ? log->nr : 0;

        for (unsigned n = 0; n <= nr; n++) {
            unsigned i = n ? log->used[n - 1] : tb->jc_at;

            if (jc->e[i].far != tb->far)
                continue;
            if (to)
                jc->e[i].far = to->far;
            else
                jc_clear(b, jc, i);
        }
        if (log == &jc->global)
            return;
    }
}

void bt_jc_turn(struct bt_vcpu *b, const struct tb *from, struct tb *to)
{
    jc_replace(b, from, to);
    if (from->jc_at == JC_NONE)
        return;
    to->jc_more |= to->jc_at != JC_NONE || from->jc_more;
    to->jc_at = from->jc_at;
}

void bt_bury(struct bt_vcpu *b, struct tb *tb)
{
    struct tb **p = hash_slot(b->cache, tb->gpa, tb->key);

    while (*p != tb)
        p = &(*p)->hash_next;
    *p = tb->hash_next;
    while (tb->in)
        bt_unlink(b->cache, tb->in);
    for (unsigned i = 0; i < tb->nr_exits; i++)
        if (tb->exits[i].to)
            bt_unlink(b->cache, &tb->exits[i]);
    jc_replace(b, tb, NULL);
    tb->dead = true;
}

static void tb_fini(struct tb *tb)
{
    for (unsigned i = 0; i < tb->nr_insns; i++)
        free(tb->sites[i].ops);
    free(tb->fluid);
}

struct tb *bt_books(struct bt_cache *bc, size_t bytes)
{
    struct tb *tb = (struct tb *)(bc->books + bc->books_used);

    bytes = align_up(bytes, 64);
    if (TB_BOOKS - bc->books_used < bytes) {
        bc->code.full = true;
        return NULL;
    }
    bc->books_used += bytes;
    return tb;
}

static bool drop_in_page(struct bt_vcpu *b, uint64_t page, unsigned off, unsigned bytes)
{
    struct tb_page **pp = page_slot(b->cache, page), *pg = *pp;
    uint64_t lines = code_lines(off, bytes), kept = 0;
    struct tb **p;

    if (!pg)
        return false;
    if (!(pg->lines & lines) && ++pg->near_misses < NEAR_MISSES_MAX)
        return false;
    if (pg->near_misses >= NEAR_MISSES_MAX)
        lines = ~0ull;
    for (p = &pg->tbs; *p;) {
        struct tb *tb = *p;
        uint64_t mine = code_lines(tb->gpa % PAGE_BYTES, tb->bytes);

        if (mine & lines) {
            *p = tb->page_next;
            bt_bury(b, tb);
        } else {
            kept |= mine;
            p = &tb->page_next;
        }
    }
    pg->lines = kept;
    if (!pg->tbs) {
        *pp = pg->next;
        free(pg);
    }
    return true;
}

bool bt_drop(struct bt_vcpu *b, gpa_t at, uint64_t bytes)
{
    bool any = false;

    while (bytes) {
        uint64_t n = MIN(bytes, PAGE_BYTES - at.v % PAGE_BYTES);

        any |= drop_in_page(b, at.v >> PAGE_SHIFT, at.v % PAGE_BYTES, (unsigned)n);
        at = gpa_add(at, n);
        bytes -= n;
    }
    return any;
}

void bt_drop_all(struct bt_vcpu *b)
{
    for (unsigned i = 0; i < TB_PAGES; i++)
        while (b->cache->pages[i])
            (void)drop_in_page(b, b->cache->pages[i]->page, 0, PAGE_BYTES);
    bt_fluid_drop_all(b);
}

/* Not while the vCPU is in translated code. */
void bt_flush_cache(struct bt_vcpu *b)
{
    struct bt_cache *bc = b->cache;

    for (unsigned i = 0; i < TB_PAGES; i++)
        while (bc->pages[i]) {
            struct tb_page *pg = bc->pages[i];

            bc->pages[i] = pg->next;
            free(pg);
        }
    bt_fluid_drop_all(b);
    if (bc->nr_by_pc) /* else it is empty: 2 MB that a small guest hardly touches */
        host_zero(bc->hash, sizeof(bc->hash));
    for (unsigned i = 0; i < bc->nr_by_pc; i++)
        tb_fini(bc->by_pc[i]);
    bc->nr_by_pc = 0;
    bc->books_used = 0;
    bc->code.p = bc->start;
    bc->code.full = false;
    bt_cross_flush(b);
    bt_far_forget(bc);
    b->jc_drops++;
    for (unsigned c = 0; c < NR_JCS; c++)
        bt_jc_empty(b, (enum jc_class)c);
    b->iv.vc.nr_exits[EXIT_CACHE_FLUSH]++;
}

/* ---- branch targets ---- */

static void returns_clear(struct bt_vcpu *b, unsigned class)
{
    const uint8_t **at = b->returns[class].at;
    uint64_t nr = RETURNS;

    memset(b->returns[class].not_rip, 0, sizeof(b->returns[class].not_rip));
    /* At each change of the address space: a sixth of the time of a loop. */
    __asm__ volatile("rep stosq" : "+D"(at), "+c"(nr) : "a"(b->cache->leave[WHY_LOST]) : "memory");
}

void bt_jc_init(struct bt_vcpu *b)
{
    for (unsigned c = 0; c < NR_JCS; c++) {
        jc_clear(b, &b->jc[c], bt_jc_index(b, 1));
        returns_clear(b, c);
    }
}

static void note_page(struct jc_log *log, uint64_t lin)
{
    unsigned page = (lin >> PAGE_SHIFT) % JC_PAGES;

    log->in_page[page / 64] |= BIT64(page % 64);
}

static bool has_page(const struct jc_log *log, uint64_t lin)
{
    unsigned page = (lin >> PAGE_SHIFT) % JC_PAGES;

    return log->in_page[page / 64] >> (page % 64) & 1;
}

static void log_flush(const struct bt_vcpu *b, struct jc *jc, struct jc_log *log)
{
    for (unsigned n = 0; n < log->nr; n++) {
        jc_clear(b, jc, log->used[n]);
        log->logged[log->used[n]] = 0;
    }
    if (log->nr)
        memset(log->in_page, 0, sizeof(log->in_page));
    log->nr = 0;
    if (log == &jc->local)
        jc->brought = false;
}

void bt_jc_remove(struct bt_vcpu *b, enum jc_class class, uint64_t rip)
{
    struct jc *jc = &b->jc[class];
    unsigned i = bt_jc_index(b, rip);

    if (jc->e[i].far && jc->e[i].neg_rip == 1 - rip)
        jc_clear(b, jc, i);
}

static void flush_page(struct bt_vcpu *b, unsigned class, uint64_t lin)
{
    struct jc *jc = &b->jc[class];

    if (!has_page(&jc->local, lin) && !has_page(&jc->global, lin))
        return;
    returns_clear(b, class);
    /* And what may have begun in the page before. */
    for (unsigned off = 0; off < PAGE_BYTES + 14; off++)
        bt_jc_remove(b, class, (lin & PAGE_MASK) + off - 14);
}

void bt_jc_empty(struct bt_vcpu *b, enum jc_class c)
{
    log_flush(b, &b->jc[c], &b->jc[c].local);
    log_flush(b, &b->jc[c], &b->jc[c].global);
    returns_clear(b, c);
}

void bt_jc_flush(struct bt_vcpu *b, enum flush_kind kind, uint64_t lin)
{
    for (unsigned c = 0; c < NR_JCS; c++) {
        struct jc *jc = &b->jc[c];

        if (kind == FLUSH_PAGE) {
            flush_page(b, c, lin);
            continue;
        }
        /* Code runs where an entry of its page was made, so what is true of that is so of the
         * page's CALLs. */
        if (jc->local.nr || (kind == FLUSH_ALL && jc->global.nr))
            returns_clear(b, c);
        log_flush(b, jc, &jc->local);
        if (kind == FLUSH_ALL)
            log_flush(b, jc, &jc->global);
    }
}

unsigned bt_jc_targets(const struct bt_vcpu *b, uint64_t *rips, unsigned max)
{
    const struct jc *jc = &b->jc[JC_USER];
    unsigned nr = 0;

    for (unsigned i = jc->local.nr; i-- > 0 && nr < max;)
        if (jc->e[jc->local.used[i]].far)
            rips[nr++] = 1 - jc->e[jc->local.used[i]].neg_rip;
    return nr;
}

void bt_jc_add_page(struct bt_vcpu *b, uint64_t lin, const struct tb *tb, bool global)
{
    struct jc *jc = &b->jc[bt_jc_class(tb->key)];

    note_page(global ? &jc->global : &jc->local, lin);
}

static void note_entry(struct jc_log *log, unsigned i)
{
    if (log->logged[i])
        return;
    log->logged[i] = 1;
    log->used[log->nr++] = i;
}

void bt_jc_add(struct bt_vcpu *b, uint64_t rip, struct tb *tb, bool global)
{
    struct jc *jc = &b->jc[bt_jc_class(tb->key)];
    unsigned i = bt_jc_index(b, rip);

    bt_far_seen(b, rip, tb);
    jc->e[i] = (struct jc_entry){ .neg_rip = 1 - rip, .far = tb->far };
    tb->jc_more |= tb->jc_at != JC_NONE && tb->jc_at != i && jc->e[tb->jc_at].far == tb->far;
    tb->jc_at = i;
    bt_jc_add_page(b, rip, tb, global);
    note_entry(global ? &jc->global : &jc->local, i);
}

/* ---- by PCID ---- */

void bt_jc_leave(struct bt_vcpu *b, unsigned set)
{
    b->kept_drops[set] = b->jc_drops;
    for (unsigned c = 0; c < NR_JCS; c++) {
        const struct jc *jc = &b->jc[c];
        struct jc_kept *k = &b->kept[set][c];

        k->nr = 0;
        k->key = b->jc_key[c];
        for (unsigned n = jc->local.nr; n-- > 0 && k->nr < JC_KEPT;) {
            unsigned i = jc->local.used[n];

            if (jc->e[i].far && !jc->global.logged[i])
                k->e[k->nr++] = jc->e[i];
        }
    }
}

static void bring_back(struct bt_vcpu *b, struct jc *jc, const struct jc_entry *e)
{
    uint64_t rip = 1 - e->neg_rip;
    unsigned i = bt_jc_index(b, rip);

    if (jc->e[i].far)
        return; /* a global one */
    jc->e[i] = *e;
    note_entry(&jc->local, i);
    /* Of an instruction in two pages, both. */
    note_page(&jc->local, rip);
    note_page(&jc->local, rip + 14);
    jc->brought = true;
}

void bt_jc_back(struct bt_vcpu *b, unsigned set)
{
    if (b->kept_drops[set] != b->jc_drops)
        return;
    for (unsigned c = 0; c < NR_JCS; c++) {
        const struct jc_kept *k = &b->kept[set][c];

        for (unsigned n = k->key == b->jc_key[c] ? k->nr : 0; n-- > 0;)
            bring_back(b, &b->jc[c], &k->e[n]);
    }
}
