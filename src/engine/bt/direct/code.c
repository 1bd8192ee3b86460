/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The code cache's books: blocks by address and by page, points, exits, links.
 */
#include "engine/bt/direct/code.h"

#include <stdatomic.h>
#include <string.h>

#include "engine/bt/direct/internal.h"
#include "engine/bt/direct/layout.h"
#include "engine/bt/direct/view.h"
#include "engine/bt/direct/worker.h"
#include "engine/bt/emit.h"
#include "engine/interp/interp.h"
#include "lib/log.h"

/* Room that translating one block never exceeds. */
#define BLOCK_ROOM KIB(32)

#define INT3          0xcc
#define FORWARD_BYTES 5 /* of the jump to a successor */

static uint32_t hash_of(uint64_t x)
{
    return (uint32_t)((x * 0x9e3779b97f4a7c15ull) >> 49); /* CODE_BUCKETS = 2^15 */
}

/* Makes room for one more element. As many as bytes in a page, or twice as many, ...: whole pages,
 * which no other worker's fork() has to copy. */
static bool grow(void **p, uint32_t nr, uint32_t *max, size_t bytes)
{
    uint32_t want = *max ? *max * 2 : PAGE_BYTES;
    void *q;

    if (nr < *max)
        return true;
    q = host_pages_grow(*p, *max * bytes, want * bytes);
    if (!q)
        return false;
    *p = q;
    *max = want;
    return true;
}
#define GROW(k, what) \
    grow((void **)&(k)->what, (k)->nr_##what, &(k)->max_##what, sizeof(*(k)->what))

void dcode_init(struct code *k, struct worker *w, struct ivcpu *v, struct direct *d)
{
    *k = (struct code){ .w = w, .v = v, .d = d, .mmu = v->vc.evm->cfg.mmu };
    k->host_bmi2 = __builtin_cpu_supports("bmi2");
    k->fast_loop = !emit_slow_loop(v->vc.evm->cfg.bt);
    xlate_prologue(k);
}

#define DROP(k, what) host_unmap((k)->what, (k)->max_##what * sizeof(*(k)->what))

void dcode_destroy(struct code *k)
{
    DROP(k, blocks);
    DROP(k, points);
    DROP(k, xits);
    DROP(k, pages);
    DROP(k, vpages);
    DROP(k, landings);
    *k = (struct code){ 0 };
}

static uint64_t *table_entry(const struct code *k, uint64_t rip)
{
    return (uint64_t *)(k->w->hva + HOME_TABLE) + (rip & 0xffff);
}

static uint64_t pad_address(const struct code *k, const struct dblock *b)
{
    return k->w->home + HOME_CODE + b->pad;
}

static struct hash_entry *hash_probe(const struct code *k, uint64_t rip)
{
    return (struct hash_entry *)(k->w->hva + HOME_HASH) + hash_index(rip);
}

static void withdraw(const struct code *k, const struct dblock *b)
{
    uint64_t *e = table_entry(k, b->rip);
    struct hash_entry *h = hash_probe(k, b->rip);

    if (!b->pad)
        return;
    if (*e == pad_address(k, b))
        *e = 0;
    for (unsigned i = 0; i < HASH_PROBES; i++)
        if (h[i].not_rip == ~b->rip)
            h[i] = (struct hash_entry){ 0 };
}

void dcode_reset(struct code *k)
{
    for (uint32_t i = 0; i < k->nr_blocks; i++)
        withdraw(k, &k->blocks[i]);
    memset(k->hash, 0, sizeof(k->hash));
    memset(k->page_hash, 0, sizeof(k->page_hash));
    memset(k->starts, 0, sizeof(k->starts));
    memset(k->open, 0, sizeof(k->open));
    memset(k->landing_hash, 0, sizeof(k->landing_hash));
    k->used = k->nr_blocks = k->nr_points = k->nr_xits = k->nr_pages = k->nr_vpages = 0;
    k->nr_landings = k->ahead_vpages = k->ahead_xits = k->ahead_landings = 0;
    k->fetched.hva = NULL;
    k->generation++;
    k->d->stats.nr_resets++;
    xlate_prologue(k);
}

void dcode_set_flags(struct code *k, uint64_t rflags)
{
    bool odd = (rflags & ~(uint64_t)(RFLAGS_ARITH | RFLAGS_DF | RFLAGS_FIXED1)) != RFLAGS_IF;

    /* Once is for good: threads may take turns. */
    if (!odd || k->odd_flags)
        return;
    k->odd_flags = true;
    dcode_reset(k);
}

/* ---- finding ---- */

struct dblock *dcode_find(struct code *k, uint64_t rip)
{
    if (!(k->starts[rip % CODE_STARTS / 64] & BIT64(rip % 64)))
        return NULL;
    for (uint32_t i = k->hash[hash_of(rip)]; i; i = k->blocks[i - 1].hash_next)
        if (k->blocks[i - 1].rip == rip)
            return &k->blocks[i - 1];
    return NULL;
}

static struct code_page_ref *page_find(const struct code *k, uint64_t page)
{
    for (uint32_t i = k->page_hash[hash_of(page)]; i; i = k->pages[i - 1].next)
        if (k->pages[i - 1].page == page)
            return &k->pages[i - 1];
    return NULL;
}

bool dcode_has_page(const struct code *k, uint64_t page)
{
    const struct code_page_ref *p = page_find(k, page);

    return p && p->first;
}

/* Of nr entries, sorted by their host address at off: the first at or behind host, or nr. */
static uint32_t first_from(const void *entries, uint32_t nr, size_t bytes, size_t off,
                           uint32_t host)
{
    uint32_t lo = 0, hi = nr;

    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2, at;

        memcpy(&at, (const char *)entries + mid * bytes + off, sizeof(at));
        if (at < host)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}
#define FIRST_FROM(array, nr, host_) \
    first_from(array, nr, sizeof((array)[0]), offsetof(typeof((array)[0]), host), host_)

/* The first exit at or behind host, or nr_xits. */
static uint32_t xit_from(const struct code *k, uint32_t host)
{
    return FIRST_FROM(k->xits, k->nr_xits, host);
}

const struct xit *dcode_xit_at(const struct code *k, uint32_t host)
{
    uint32_t i = xit_from(k, host);

    return i < k->nr_xits && k->xits[i].host == host ? &k->xits[i] : NULL;
}

struct dblock *dcode_block_at(const struct code *k, uint32_t host)
{
    uint32_t i = FIRST_FROM(k->blocks, k->nr_blocks, host);

    return i < k->nr_blocks && k->blocks[i].host == host ? &k->blocks[i] : NULL;
}

/* What the point says of a host PC at or behind it. */
static struct point point_for(const struct point *p, uint32_t host)
{
    struct point q = *p;

    if (p->undo == UNDO_NONE && !p->reg)
        q.rip += host - p->host;
    q.host = host;
    return q;
}

bool dcode_point_at(const struct code *k, uint32_t host, struct point *out)
{
    uint32_t i = host < k->used ? FIRST_FROM(k->points, k->nr_points, host + 1) : 0;

    if (!i)
        return false;
    *out = point_for(&k->points[i - 1], host);
    return true;
}

/* ---- adding ---- */

bool dcode_add_point(struct code *k, const struct point *p)
{
    /* Two for one place: the later one has the say (a NOP before it made no code). */
    if (k->nr_points && k->points[k->nr_points - 1].host == p->host)
        k->nr_points--;
    if (k->nr_points) {
        struct point q = point_for(&k->points[k->nr_points - 1], p->host);

        if (q.undo == p->undo && q.reg == p->reg && q.rip == p->rip)
            return true;
    }
    if (!GROW(k, points))
        return false;
    k->points[k->nr_points++] = *p;
    return true;
}

bool dcode_add_xit(struct code *k, const struct xit *x)
{
    struct xit *n;

    if (!GROW(k, xits))
        return false;
    n = &k->xits[k->nr_xits++];
    *n = *x;
    n->guess = (uint8_t)k->guess;
    if (x->open) {
        n->next = k->open[hash_of(x->target)];
        k->open[hash_of(x->target)] = k->nr_xits;
    }
    return true;
}

/* Links all exits that wait for the block. */
static void link_open(struct code *k, const struct dblock *to)
{
    uint32_t *p = &k->open[hash_of(to->rip)];

    while (*p) {
        uint32_t i = *p - 1;

        if (k->xits[i].target == to->rip) {
            *p = k->xits[i].next;
            dcode_link(k, i, to);
        } else {
            p = &k->xits[i].next;
        }
    }
}

static struct code_page_ref *page_get(struct code *k, uint64_t page)
{
    struct code_page_ref *p = page_find(k, page);

    if (p)
        return p;
    if (!GROW(k, pages))
        return NULL;
    p = &k->pages[k->nr_pages++];
    *p = (struct code_page_ref){ .page = page, .next = k->page_hash[hash_of(page)] };
    k->page_hash[hash_of(page)] = k->nr_pages;
    return p;
}

struct dblock *dcode_add_block(struct code *k, const struct dblock *b)
{
    struct dblock *n;

    if (!GROW(k, blocks))
        return NULL;
    n = &k->blocks[k->nr_blocks];
    *n = *b;
    for (unsigned i = 0; i < 2 && b->page[i] != NO_PAGE; i++)
        if (!page_get(k, b->page[i]))
            return NULL;
    for (unsigned i = 0; i < 2 && b->page[i] != NO_PAGE; i++) {
        struct code_page_ref *p = page_find(k, b->page[i]);

        n->page_next[i] = p->first;
        p->first = k->nr_blocks + 1;
    }
    n->hash_next = k->hash[hash_of(b->rip)];
    k->hash[hash_of(b->rip)] = ++k->nr_blocks;
    k->starts[b->rip % CODE_STARTS / 64] |= BIT64(b->rip % 64);
    link_open(k, n);
    return n;
}

/* ---- linking ---- */

static uint8_t *code_rw(const struct code *k, uint32_t host)
{
    return k->w->hva + HOME_CODE + host;
}

static void set_rel32(const struct code *k, uint32_t at, uint32_t to)
{
    int32_t rel = (int32_t)(to - (at + 4));

    memcpy(code_rw(k, at), &rel, sizeof(rel));
}

void dcode_link(struct code *k, uint32_t xit, const struct dblock *to)
{
    struct xit *x = &k->xits[xit];

    if (x->patch)
        set_rel32(k, x->patch, to->host);
    x->open = false;
}

void dcode_forward(struct code *k, const struct dblock *dead, const struct dblock *to)
{
    uint32_t end = dead->host + FORWARD_BYTES;
    struct dblock *b = dcode_block_at(k, dead->host);

    /* More than its first byte goes: it cannot wake, and a branch there is not to be linked. */
    b->asleep = false;
    for (uint32_t i = xit_from(k, dead->host); i < k->nr_xits; i++) {
        struct xit *x = &k->xits[i];

        if (b + 1 < k->blocks + k->nr_blocks && x->host >= b[1].host)
            break;
        if (x->patch && x->patch < end && x->patch + 4 > dead->host)
            x->patch = 0;
    }
    *code_rw(k, dead->host) = 0xe9; /* jmp rel32 */
    set_rel32(k, dead->host + 1, to->host);
}

/* Into both levels of the table; `over` another target's entries, if need be. */
static void offer(struct code *k, struct dblock *b, bool over)
{
    struct hash_entry *h = hash_probe(k, b->rip);
    unsigned i;

    if (!b->pad)
        xlate_pad(k, b);
    if (!b->pad)
        return;
    if (over || !*table_entry(k, b->rip))
        *table_entry(k, b->rip) = pad_address(k, b);
    for (i = 0; i < HASH_PROBES - 1 && h[i].not_rip != ~b->rip && h[i].not_rip; i++)
        ;
    if (over || h[i].not_rip == ~b->rip || !h[i].not_rip)
        h[i] =
            (struct hash_entry){ ~b->rip, (k->w->home + HOME_CODE + b->pad2) ^ BIT64(HASH_TO_BIT) };
}

void dcode_offer(struct code *k, struct dblock *b)
{
    offer(k, b, true);
}

bool dcode_expected(const struct code *k, uint64_t rip)
{
    uint32_t i = k->landing_hash[hash_of(rip)];

    while (i && k->landings[i - 1].rip != rip)
        i = k->landings[i - 1].next;
    return i != 0;
}

/* Short of memory, the table misses once more. */
void dcode_expect(struct code *k, uint64_t rip)
{
    uint32_t *head = &k->landing_hash[hash_of(rip)];
    struct dblock *b = dcode_find(k, rip);

    if (!dcode_expected(k, rip) && GROW(k, landings)) {
        k->landings[k->nr_landings++] = (struct landing){ rip, (uint8_t)k->guess, *head };
        *head = k->nr_landings;
    }
    if (b && !b->pad)
        offer(k, b, false);
}

/* ---- dropping ---- */

static void close_block(struct code *k, struct dblock *b)
{
    uint32_t *p = &k->hash[hash_of(b->rip)];

    while (*p && &k->blocks[*p - 1] != b)
        p = &k->blocks[*p - 1].hash_next;
    if (*p)
        *p = b->hash_next;
    b->dead = true;
    withdraw(k, b);
    *code_rw(k, b->host) = INT3;
    if (b->pad)
        dcode_expect(k, b->rip);
}

/* Does the block have bytes in [off, off + bytes) of its page number i? */
static bool overlaps(const struct dblock *b, unsigned i, uint64_t off, uint64_t bytes)
{
    uint64_t first = b->rip % PAGE_BYTES, in_first = MIN(b->bytes, PAGE_BYTES - first);

    if (i == 0)
        return first < off + bytes && off < first + in_first;
    return off < b->bytes - in_first;
}

static void drop_in_page(struct code *k, uint64_t page, uint64_t off, uint64_t bytes)
{
    struct code_page_ref *p = page_find(k, page);
    uint32_t *link;

    if (!p)
        return;
    for (link = &p->first; *link;) {
        struct dblock *b = &k->blocks[*link - 1];
        unsigned i = b->page[0] == page ? 0 : 1;

        /* A page that is written while its code sleeps is most likely used for something else. */
        b->asleep = false;
        if (!b->dead && overlaps(b, i, off, bytes))
            close_block(k, b);
        if (b->dead)
            *link = b->page_next[i];
        else
            link = &b->page_next[i];
    }
}

void dcode_drop(struct code *k, gpa_t at, uint64_t bytes)
{
    while (bytes) {
        uint64_t n = MIN(bytes, PAGE_BYTES - at.v % PAGE_BYTES);

        drop_in_page(k, at.v >> PAGE_SHIFT, at.v % PAGE_BYTES, n);
        at = gpa_add(at, n);
        bytes -= n;
    }
}

/* The code has not changed, it is only not there: so are all translations of its page. */
static void sleep_block(struct code *k, struct dblock *b)
{
    uint8_t byte = *code_rw(k, b->host);

    close_block(k, b);
    b->asleep = b->page[1] == NO_PAGE;
    b->byte = byte;
}

static void sleep_vpage(struct code *k, const struct code_vpage *v)
{
    struct code_page_ref *p = page_find(k, v->page);
    uint32_t next;

    for (uint32_t i = p ? p->first : 0; i; i = next) {
        struct dblock *b = &k->blocks[i - 1];
        uint64_t last = b->rip + b->bytes - 1;

        next = b->page_next[b->page[0] == v->page ? 0 : 1];
        if (!b->dead && ((b->rip & PAGE_MASK) == v->lin || (last & PAGE_MASK) == v->lin))
            sleep_block(k, b);
    }
}

static void wake_vpage(struct code *k, const struct code_vpage *v)
{
    struct code_page_ref *p = page_find(k, v->page);

    for (uint32_t i = p ? p->first : 0, next; i; i = next) {
        struct dblock *b = &k->blocks[i - 1];

        next = b->page_next[b->page[0] == v->page ? 0 : 1];
        if (!b->asleep || (b->rip & PAGE_MASK) != v->lin || dcode_find(k, b->rip))
            continue;
        b->asleep = b->dead = false;
        *code_rw(k, b->host) = b->byte;
        b->hash_next = k->hash[hash_of(b->rip)];
        k->hash[hash_of(b->rip)] = i;
        link_open(k, b);
        if (b->pad)
            offer(k, b, false);
    }
}

bool dcode_add_vpage(struct code *k, uint64_t lin, uint64_t page)
{
    struct code_vpage *p;

    lin &= PAGE_MASK;
    /* The latest are the likeliest. */
    for (uint32_t i = k->nr_vpages; i-- > 0;) {
        p = &k->vpages[i];
        if (p->lin != lin)
            continue;
        if (p->page != page) {
            sleep_vpage(k, p);
            p->page = page;
            wake_vpage(k, p);
        }
        return true;
    }
    if (!GROW(k, vpages))
        return false;
    p = &k->vpages[k->nr_vpages++];
    *p = (struct code_vpage){ lin, page };
    wake_vpage(k, p);
    return true;
}

void dcode_sleep(struct code *k)
{
    /* What the next process needs has to fit beside it. */
    if (k->used > HOME_CODE_BYTES / 2) {
        dcode_reset(k);
        return;
    }
    for (uint32_t i = 0; i < k->nr_vpages; i++)
        sleep_vpage(k, &k->vpages[i]);
    k->nr_vpages = k->ahead_vpages = 0;
    k->fetched.hva = NULL;
}

static bool vpage_good(struct code *k, const struct code_vpage *p)
{
    struct cpu *c = &k->v->vc.cpu;
    struct leaves l;
    uint64_t leaf;

    view_leaves(k->mmu, c, p->lin, LEAF_OF_USER, &l);
    leaf = view_leaf(c, &l, (unsigned)(p->lin >> PAGE_SHIFT) % 512);
    return leaf && !(leaf & LEAF_NX) && (leaf & LEAF_ADDR) >> PAGE_SHIFT == p->page;
}

/* Looks at the pages whose address under the mask is as given. */
static void validate_where(struct code *k, uint64_t mask, uint64_t is)
{
    for (uint32_t i = 0; i < k->nr_vpages;) {
        struct code_vpage *p = &k->vpages[i];

        if ((p->lin & mask) != is || vpage_good(k, p)) {
            i++;
            continue;
        }
        sleep_vpage(k, p);
        *p = k->vpages[--k->nr_vpages];
    }
}

void dcode_validate(struct code *k)
{
    validate_where(k, 0, 0);
}

void dcode_validate_near(struct code *k, uint64_t lin)
{
    validate_where(k, ~(MIB(2) - 1), align_down(lin, MIB(2)));
}

/* ---- fetching ---- */

/* Finds the page of code at lin and notes it as code. */
static enum step fetch_page(struct code *k, uint64_t lin, const uint8_t **hva, uint64_t *page)
{
    struct walk w = { .at = GVA(lin), .acc = ACC_EXEC | ACC_USER };
    struct cpu *c = &k->v->vc.cpu;
    struct slot *s;

    *hva = NULL;
    if (k->fetched.hva && k->fetched.lin == (lin & PAGE_MASK)) {
        *page = k->fetched.page;
        *hva = k->fetched.hva + lin % PAGE_BYTES;
        return STEP_NEXT;
    }
    if (cpu_walk(c, &w) != STEP_NEXT)
        return STEP_FAULT;
    s = mmu_slot_find(k->mmu, w.pa);
    if (!s || apic_claims(c, w.pa))
        return STEP_NEXT;
    *page = w.pa.v >> PAGE_SHIFT;
    /* Its owner knows better how to run code that is written all the time. */
    if (s->notes[slot_page(s, w.pa)] & PAGE_NOTE_FLUID)
        return STEP_NEXT;
    if (!note_code(k->v, w.pa))
        return STEP_NEXT;
    /* Pairs with the fence in mmu_slot_written(): noted first, read then. */
    atomic_thread_fence(memory_order_seq_cst);
    if (!dcode_has_page(k, *page))
        direct_protect_page(k->d, *page);
    if (dcode_add_vpage(k, lin, *page))
        *hva = slot_hva(s, w.pa);
    k->fetched.lin = lin & PAGE_MASK;
    k->fetched.page = *page;
    k->fetched.hva = *hva ? *hva - lin % PAGE_BYTES : NULL;
    return STEP_NEXT;
}

/* bt_config.limit is for both tiers' blocks together. */
static bool limit_reached(const struct code *k)
{
    const struct vcpu *vc = &k->v->vc;
    const struct bt_config *cfg = vc->evm->cfg.bt;

    return cfg && vc->nr_exits[EXIT_TRANSLATE] + k->d->stats.nr_blocks >= cfg->limit;
}

static struct dblock *translate(struct code *k, const struct xlate_from *from)
{
    struct dblock *b = xlate_block(k, from);

    if (b && limit_reached(k))
        log_info("bt: the last of %llu blocks is one of the direct tier, at RIP %#llx, CR3 %#llx",
                 (unsigned long long)k->v->vc.evm->cfg.bt->limit, (unsigned long long)from->rip,
                 (unsigned long long)k->v->vc.cpu.cr3);
    if (b && b->pad) /* for indirect branches that will come */
        offer(k, b, false);
    return b;
}

struct dblock *dcode_get(struct code *k, uint64_t rip, bool landing, enum step *st)
{
    struct xlate_from from = { .rip = rip, .page = { NO_PAGE, NO_PAGE }, .landing = landing };
    unsigned first = (unsigned)(PAGE_BYTES - rip % PAGE_BYTES);
    struct dblock *b;
    uint8_t copy[PAGE_BYTES + 16];
    const uint8_t *hva;

    from.landing |= dcode_expected(k, rip);
    *st = STEP_NEXT;
    /* Also when it is there: who wants it may want a pad for it. */
    if (k->used + BLOCK_ROOM > HOME_CODE_BYTES)
        dcode_reset(k);
    b = dcode_find(k, rip);
    if (b)
        return b;
    if (limit_reached(k))
        return NULL;
    *st = fetch_page(k, rip, &hva, &from.page[0]);
    if (*st != STEP_NEXT || !hva)
        return NULL;
    b = dcode_find(k, rip); /* it may have slept */
    if (b)
        return b;
    /* A copy: what is decoded must be what is translated. */
    from.nr_bytes = MIN(first, 1024);
    memcpy(copy, hva, from.nr_bytes);
    from.bytes = copy;
    b = translate(k, &from);
    if (b || first > 14)
        return b;
    /* The first instruction goes on in the next page. */
    *st = fetch_page(k, rip + first, &hva, &from.page[1]);
    if (*st != STEP_NEXT || !hva)
        return NULL;
    memcpy(copy + first, hva, 15 - MIN(first, 15));
    from.nr_bytes = 15;
    return translate(k, &from);
}
