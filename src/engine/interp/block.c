/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The block cache: decoded code by guest-physical address and mode, per vCPU.
 *
 * A block never leaves its page. Stores to a page with blocks are seen (PAGE_NOTE_CODE keeps its
 * write tags out of the TLB) and drop what they overlap, to the 64 bytes. Dropped blocks are
 * buried, not freed, until the run loop is between blocks.
 */
#include "engine/interp/handlers.h"
#include "engine/interp/share.h"

#include <stdlib.h>
#include <string.h>

/* Decoded code takes about 20 times the guest's bytes; a whole distribution's hot code fits in
 * this. */
#define CODE_BYTES_MAX MIB(192)

uint32_t block_key(const struct cpu *c)
{
    uint32_t key = c->mode & KEY_MODE;
    static const enum seg_id data[] = { SEG_DS, SEG_ES, SEG_SS };

    if (key & MODE_CS64)
        return key | KEY_FLAT_CS | KEY_FLAT_DATA;
    if (!c->seg[SEG_CS].base && c->seg[SEG_CS].limit == UINT32_MAX)
        key |= KEY_FLAT_CS;
    if (!in_protected(c))
        return key;
    for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
        const struct seg *s = &c->seg[data[i]];

        if (s->base || s->limit != UINT32_MAX || (s->attr & SEG_UNUSABLE) ||
            (s->attr & (SEG_TYPE_CODE | SEG_TYPE_EXPAND_DOWN | SEG_TYPE_WRITABLE)) !=
                SEG_TYPE_WRITABLE)
            return key;
    }
    return key | KEY_FLAT_DATA;
}

static struct block **hash_slot(struct ivcpu *v, uint64_t gpa, uint32_t key)
{
    uint64_t h = (gpa ^ (uint64_t)key << 20) * 0x9e3779b97f4a7c15ull;

    return &v->hash[h >> 50]; /* HASH_BUCKETS = 2^14 */
}

static struct code_page **page_slot(struct ivcpu *v, uint64_t page)
{
    struct code_page **p = &v->pages[page & (PAGE_BUCKETS - 1)];

    while (*p && (*p)->page != page)
        p = &(*p)->next;
    return p;
}

bool block_in_page(struct ivcpu *v, uint64_t page)
{
    return *page_slot(v, page) != NULL;
}

static size_t block_size(const struct block *b)
{
    return sizeof(*b) + (b->nr_insns + 1u) * sizeof(struct op);
}

static void bury(struct ivcpu *v, struct block *b)
{
    struct block **p = hash_slot(v, b->gpa, b->key);

    while (*p != b)
        p = &(*p)->hash_next;
    *p = b->hash_next;
    v->code_bytes -= block_size(b);
    b->chain[0] = b->chain[1] = NULL; /* it may be the one that is running */
    b->page_next = v->graveyard;
    v->graveyard = b;
}

void block_bury(struct ivcpu *v)
{
    while (v->graveyard) {
        struct block *b = v->graveyard;

        v->graveyard = b->page_next;
        free(b);
    }
}

/* Chains stay inside a page, so only this page's blocks can point to the dropped ones. */
static void unchain_page(struct code_page *pg)
{
    for (struct block *b = pg->blocks; b; b = b->page_next)
        b->chain[0] = b->chain[1] = NULL;
}

static bool drop_in_page(struct ivcpu *v, uint64_t page, unsigned off, unsigned bytes)
{
    struct code_page **pp = page_slot(v, page), *pg = *pp;
    uint64_t lines = code_lines(off, bytes), kept = 0;
    struct block **b;

    if (!pg)
        return false;
    if (!(pg->lines & lines) && ++pg->near_misses < NEAR_MISSES_MAX)
        return false;
    if (pg->near_misses >= NEAR_MISSES_MAX)
        lines = ~0ull;
    for (b = &pg->blocks; *b;) {
        struct block *x = *b;
        uint64_t mine = code_lines(x->gpa % PAGE_BYTES, x->bytes);

        if (mine & lines) {
            *b = x->page_next;
            bury(v, x);
        } else {
            kept |= mine;
            b = &x->page_next;
        }
    }
    pg->lines = kept;
    unchain_page(pg);
    if (!pg->blocks) {
        *pp = pg->next;
        free(pg);
    }
    v->link = NULL;
    v->jump_gen++;
    return true;
}

bool code_drop(struct ivcpu *v, gpa_t at, uint64_t bytes)
{
    uint64_t all = bytes;
    gpa_t first = at;
    bool any = false;

    while (bytes) {
        uint64_t n = MIN(bytes, PAGE_BYTES - at.v % PAGE_BYTES);

        any |= drop_in_page(v, at.v >> PAGE_SHIFT, at.v % PAGE_BYTES, (unsigned)n);
        at = gpa_add(at, n);
        bytes -= n;
    }
    if (v->hooks)
        any |= v->hooks->drop(v, first, all, any);
    return any;
}

void code_drop_all(struct ivcpu *v)
{
    if (v->hooks)
        v->hooks->drop_all(v);
    for (unsigned i = 0; i < PAGE_BUCKETS; i++)
        while (v->pages[i])
            (void)drop_in_page(v, v->pages[i]->page, 0, PAGE_BYTES);
}

/* Tell the one vCPU that these bytes changed. */
static void tell(struct interp_vm *vm, gpa_t at, uint64_t bytes)
{
    uint64_t last = (at.v + bytes - 1) >> PAGE_SHIFT;

    lock_take(&vm->lock);
    for (struct ivcpu *o = vm->vcpus; o; o = o->next) {
        for (uint64_t p = at.v >> PAGE_SHIFT; p <= last && o->nr_written <= WRITTEN_QUEUE; p++) {
            if (o->nr_written < WRITTEN_QUEUE)
                o->written[o->nr_written] = p;
            o->nr_written++;
        }
        cpu_post(&o->vc.cpu, REQ_CODE);
    }
    lock_drop(&vm->lock);
}

void code_listen(struct code_listener *l, gpa_t at, uint64_t bytes)
{
    struct interp_vm *vm = container_of(l, struct interp_vm, listener);

    if (vm->share)
        share_tell(vm, NULL, at, bytes);
    else
        tell(vm, at, bytes);
}

void code_drop_written(struct ivcpu *v)
{
    uint64_t written[WRITTEN_QUEUE];
    unsigned nr;

    if (v->vm->share) {
        share_serve(v);
        return;
    }
    lock_take(&v->vm->lock);
    nr = v->nr_written;
    memcpy(written, v->written, sizeof(written));
    v->nr_written = 0;
    lock_drop(&v->vm->lock);
    if (nr > WRITTEN_QUEUE)
        code_drop_all(v);
    for (unsigned i = 0; i < nr && nr <= WRITTEN_QUEUE; i++)
        (void)code_drop(v, GPA(written[i] << PAGE_SHIFT), PAGE_BYTES);
}

bool code_stored(struct ivcpu *v, gpa_t at, unsigned bytes)
{
    uint64_t t = vcpu_exit_begin(&v->vc, EXIT_SMC);
    bool any;

    go_outside(v); /* it frees memory */
    any = code_drop(v, at, bytes);

    /* The note goes when the last block has gone, and stores are fast again. */
    if (!block_in_page(v, at.v >> PAGE_SHIFT) &&
        !(v->hooks && v->hooks->has_code(v, at.v >> PAGE_SHIFT))) {
        struct slot *s = mmu_slot_find(v->vm->evm.cfg.mmu, at);

        if (s)
            s->notes[slot_page(s, at)] &= (uint16_t)~PAGE_NOTE_CODE;
    }
    vcpu_exit_end(&v->vc, EXIT_SMC, t);
    return any;
}

/* ---- making blocks ---- */

static bool block_insert(struct ivcpu *v, struct block *b)
{
    uint64_t page = b->gpa >> PAGE_SHIFT;
    struct code_page **pp = page_slot(v, page), *pg = *pp;
    struct block **h = hash_slot(v, b->gpa, b->key);

    if (!pg) {
        pg = calloc(1, sizeof(*pg));
        if (!pg)
            return false;
        pg->page = page;
        *pp = pg;
    }
    b->hash_next = *h;
    *h = b;
    b->page_next = pg->blocks;
    pg->blocks = b;
    pg->lines |= code_lines(b->gpa % PAGE_BYTES, b->bytes);
    v->code_bytes += block_size(b);
    return true;
}

/* A store that comes between this and the reading is seen by the listener or by the TLB's missing
 * write tag. */
bool note_code(struct ivcpu *v, gpa_t at)
{
    struct slot *s;

    if (v->vm->share)
        return share_note(v, at);
    s = mmu_slot_find(v->vm->evm.cfg.mmu, at);
    if (!s || (s->notes[slot_page(s, at)] & PAGE_NOTE_CODE))
        return true;
    s->notes[slot_page(s, at)] |= PAGE_NOTE_CODE;
    tlb_protect_page(v, at.v >> PAGE_SHIFT);
    if (v->hooks)
        v->hooks->noted(v, at);
    return true;
}

static struct block *block_make(struct ivcpu *v, gpa_t at, uint32_t key, const uint8_t *code)
{
    unsigned off = at.v % PAGE_BYTES, start = off, nr = 0;
    struct op ops[BLOCK_MAX_OPS + 1];
    struct block *b;

    if (!note_code(v, at))
        return NULL;
    while (nr < BLOCK_MAX_OPS) {
        unsigned len =
            decode_insn(v, key, code, (unsigned)(PAGE_BYTES - off), (uint16_t)off, &ops[nr]);

        if (!len)
            break; /* crosses the page */
        code += len;
        off += len;
        if (op_ends_block(&ops[nr++]))
            break;
    }
    if (!nr)
        return NULL;
    drop_dead_flags(ops, nr);
    b = malloc(sizeof(*b) + (nr + 1) * sizeof(struct op));
    if (!b)
        return NULL;
    *b = (struct block){
        .gpa = at.v, .key = key, .nr_insns = (uint16_t)nr, .bytes = (uint16_t)(off - start)
    };
    memcpy(b->ops, ops, nr * sizeof(struct op));
    b->ops[nr] = (struct op){ .fn = op_end,
                              .off = (uint16_t)off,
                              .aux2 = off < PAGE_BYTES ? CHAIN_NEXT : 0 };
    b->ops[nr].self = b;
    /* Chaining needs that the page's linear and instruction addresses run in parallel without a
     * wrap. */
    if (op_is_branch(&b->ops[nr - 1]))
        b->ops[nr - 1].self = b;
    if (!(key & KEY_FLAT_CS)) {
        b->ops[nr].aux2 = 0;
        if (op_is_branch(&b->ops[nr - 1]))
            b->ops[nr - 1].aux2 = 0;
    }
    if (!block_insert(v, b)) {
        free(b);
        return NULL;
    }
    return b;
}

struct block *block_find(struct ivcpu *v)
{
    struct cpu *c = CPU(v);
    uint64_t lin = c->rip;
    const uint8_t *code;
    struct block *b;
    gpa_t at;

    if (unlikely(!(c->mode & MODE_CS64))) {
        if (c->rip > c->seg[SEG_CS].limit) {
            (void)!raise_gp(c, 0);
            v->leave = LEAVE_FAULT;
            return NULL;
        }
        lin = (uint32_t)(lin + c->seg[SEG_CS].base);
    }
    code = fetch_ptr(v, lin, &at);
    if (!code)
        return NULL;
    /* Near the end of a segment instructions run one by one, so that the limit is checked on each.
     */
    v->leave = LEAVE_STEP;
    if (unlikely(!(c->mode & MODE_CS64)) && c->seg[SEG_CS].limit - (uint32_t)c->rip < PAGE_BYTES &&
        c->seg[SEG_CS].limit != UINT32_MAX)
        return NULL;
    for (b = *hash_slot(v, at.v, v->key); b; b = b->hash_next)
        if (b->gpa == at.v && b->key == v->key)
            return b;
    if (v->code_bytes > CODE_BYTES_MAX) {
        code_drop_all(v);
        block_bury(v);
    }
    return block_make(v, at, v->key, code);
}

/* ---- one instruction alone ---- */

/* The bytes of the instruction at RIP, which may lie in two pages. Returns how many could be had;
 * 0: fault. */
static unsigned fetch_bytes(struct ivcpu *v, uint64_t lin, uint8_t bytes[15], unsigned want)
{
    struct cpu *c = CPU(v);
    unsigned first = (unsigned)MIN(want, PAGE_BYTES - lin % PAGE_BYTES);
    const uint8_t *code;
    gpa_t at;

    code = fetch_ptr(v, lin, &at);
    if (!code)
        return 0;
    memcpy(bytes, code, first);
    if (first < want) {
        uint64_t next = lin + first;

        code = fetch_ptr(v, c->mode & MODE_CS64 ? next : (uint32_t)next, &at);
        if (!code)
            return first;
        memcpy(bytes + first, code, want - first);
    }
    return want;
}

const struct cross *cross_cached(struct ivcpu *v, uint64_t lin)
{
    const struct cross *x = &v->crosses[(lin ^ lin >> 12) % CROSS_CACHE];
    unsigned first = (unsigned)(PAGE_BYTES - lin % PAGE_BYTES);
    uint8_t bytes[15];

    if (x->off != lin % PAGE_BYTES || x->len <= first || x->key != v->key)
        return NULL;
    if (fetch_bytes(v, lin, bytes, x->len) < x->len) {
        v->vc.cpu.exc.valid = false; /* whoever runs it will raise it */
        return NULL;
    }
    if (memcmp(x->bytes, bytes, x->len) != 0)
        return NULL;
    return x;
}

/*
 * The next page is only touched when the instruction needs it: decoding is tried on what the first
 * page has, and a fault there is the instruction's own.
 */
const struct op *step_decode(struct ivcpu *v)
{
    struct cpu *c = CPU(v);
    bool legacy = !(c->mode & MODE_CS64);
    uint64_t lin = legacy ? (uint32_t)(c->rip + c->seg[SEG_CS].base) : c->rip;
    unsigned in_page = (unsigned)MIN(15, PAGE_BYTES - lin % PAGE_BYTES), room = 15, got, len;
    struct cross *x = &v->crosses[(lin ^ lin >> 12) % CROSS_CACHE];
    uint8_t bytes[15];

    if (legacy && c->rip > c->seg[SEG_CS].limit) {
        (void)!raise_gp(c, 0);
        v->leave = LEAVE_FAULT;
        return NULL;
    }
    if (legacy)
        room = (unsigned)MIN(15ull, (uint64_t)c->seg[SEG_CS].limit - c->rip + 1);
    if (in_page < 15 && room == 15 && cross_cached(v, lin)) {
        v->step_ops[0] = x->op;
        len = x->len;
        goto decoded;
    }
    got = fetch_bytes(v, lin, bytes, MIN(in_page, room));
    if (!got)
        return NULL;
    len = decode_insn(v, v->key, bytes, got, (uint16_t)(lin % PAGE_BYTES), &v->step_ops[0]);
    if (!len && got < room) {
        if (fetch_bytes(v, lin, bytes, room) < room)
            return NULL;
        len = decode_insn(v, v->key, bytes, room, (uint16_t)(lin % PAGE_BYTES), &v->step_ops[0]);
        if (len) {
            *x = (struct cross){ .key = v->key,
                                 .len = (uint8_t)len,
                                 .off = (uint16_t)(lin % PAGE_BYTES) };
            memcpy(x->bytes, bytes, len);
            x->op = v->step_ops[0];
        }
    }
    if (!len) { /* too long, or beyond the limit */
        (void)!raise_gp(c, 0);
        v->leave = LEAVE_FAULT;
        return NULL;
    }
decoded:
    if (op_is_branch(&v->step_ops[0]))
        v->step_ops[0].aux2 = 0;
    v->step_ops[1] = (struct op){ .fn = op_end, .off = (uint16_t)(lin % PAGE_BYTES + len) };
    return v->step_ops;
}
