/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages of code among several vCPUs.
 *
 * Every vCPU has decoded and translated code of its own, which nobody else runs or drops. What they
 * share is the knowledge of who holds code of which page, so that a store by one reaches the
 * others. A page is in one of two states, kept in its slot's notes:
 *
 * - data: vCPUs that store to it get write tags and are noted as its writers (page_claim_write());
 * - code (PAGE_NOTE_CODE): nobody may have write tags, so each store is seen. Its instruction runs
 *   alone; after it (share_stored()) whoever holds code of the page is told, before the storing
 *   vCPU does anything else that others could see.
 *
 * A vCPU that wants to decode a page enters itself as a holder first and reads then, so a store
 * either is in what it reads or is told to it. If the page has writers they are asked for their
 * tags. Until all have answered, each on its own thread between two instructions and so with no
 * store half done, the page is not decoded: its code runs one instruction at a time, fetched anew.
 * So nobody ever waits for another vCPU, which the host may not be running just now.
 *
 * With one vCPU none of this is used: block.c has the short way.
 */
#include "engine/interp/share.h"

#include <stdatomic.h>
#include <stdlib.h>

#define BUCKETS 16384

/* A page with PAGE_NOTE_CODE. Sets of vCPUs are bit masks. */
struct share_page {
    uint64_t page;    /* gpa >> 12 */
    uint64_t holders; /* may hold code of it */
    uint64_t asked;   /* have to give up their write tags */
    uint64_t told;    /* have to drop their code of [lo, hi) */
    uint16_t lo, hi;
    bool asking; /* the writers have been asked */
    bool pending;
    struct share_page *next;      /* hash chain */
    struct share_page *prev_todo; /* of those with asked or told */
    struct share_page *next_todo;
};

struct share {
    struct interp_vm *vm;
    struct share_page *hash[BUCKETS]; /* all guarded by vm->lock */
    struct share_page *todo;
};

struct share *share_create(struct interp_vm *vm)
{
    struct share *sh = calloc(1, sizeof(*sh));

    if (sh)
        sh->vm = vm;
    return sh;
}

void share_destroy(struct share *sh)
{
    if (!sh)
        return;
    for (unsigned i = 0; i < BUCKETS; i++)
        while (sh->hash[i]) {
            struct share_page *e = sh->hash[i];

            sh->hash[i] = e->next;
            free(e);
        }
    free(sh);
}

/* ---- books ---- */

static uint64_t bit_of(const struct ivcpu *v)
{
    return BIT64(v->vc.cpu.id);
}

static struct share_page **find(struct share *sh, uint64_t page)
{
    struct share_page **p = &sh->hash[page % BUCKETS];

    assert_held(&sh->vm->lock);
    while (*p && (*p)->page != page)
        p = &(*p)->next;
    return p;
}

static _Atomic uint16_t *notes_of(struct share *sh, uint64_t page)
{
    struct slot *s = mmu_slot_find(sh->vm->evm.cfg.mmu, GPA(page << PAGE_SHIFT));

    return s ? &s->notes[slot_page(s, GPA(page << PAGE_SHIFT))] : NULL;
}

static void put_todo(struct share *sh, struct share_page *e)
{
    if (e->pending)
        return;
    e->pending = true;
    e->prev_todo = NULL;
    e->next_todo = sh->todo;
    if (sh->todo)
        sh->todo->prev_todo = e;
    sh->todo = e;
}

static void take_todo(struct share *sh, struct share_page *e)
{
    if (!e->pending)
        return;
    e->pending = false;
    *(e->prev_todo ? &e->prev_todo->next_todo : &sh->todo) = e->next_todo;
    if (e->next_todo)
        e->next_todo->prev_todo = e->prev_todo;
}

/* After bits were cleared: what that ends. */
static void settle(struct share *sh, struct share_page *e)
{
    _Atomic uint16_t *notes = notes_of(sh, e->page);

    if (e->asking && !e->asked) { /* all tags are gone, and with the note set no new ones come */
        e->asking = false;
        if (notes)
            atomic_fetch_and(notes, (uint16_t)(BIT(PAGE_WRITER_SHIFT) - 1));
    }
    if (e->asked || e->told)
        return;
    take_todo(sh, e);
    if (e->holders)
        return;
    if (notes)
        atomic_fetch_and(notes, (uint16_t)~PAGE_NOTE_CODE);
    *find(sh, e->page) = e->next;
    free(e);
}

static void post_to(struct share *sh, uint64_t who)
{
    for (struct ivcpu *o = sh->vm->vcpus; o; o = o->next)
        if (who & bit_of(o))
            cpu_post(&o->vc.cpu, REQ_CODE);
}

static bool holds_code(struct ivcpu *v, uint64_t page)
{
    return block_in_page(v, page) || (v->hooks && v->hooks->has_code(v, page));
}

/* ---- from data to code ---- */

static uint64_t writers_of(struct share *sh, unsigned writer)
{
    uint64_t all = 0;

    if (writer != PAGE_WRITER_MANY)
        return BIT64(writer - 1);
    for (const struct ivcpu *o = sh->vm->vcpus; o; o = o->next)
        all |= bit_of(o);
    return all;
}

bool share_note(struct ivcpu *v, gpa_t at)
{
    struct share *sh = v->vm->share;
    uint64_t page = at.v >> PAGE_SHIFT, writers = 0, me = bit_of(v);
    _Atomic uint16_t *notes = notes_of(sh, page);
    struct share_page *e, **p;
    bool ready = false;

    if (!notes)
        return false;
    lock_take(&sh->vm->lock);
    p = find(sh, page);
    if (!*p) {
        *p = calloc(1, sizeof(**p));
        if (!*p)
            goto out;
        (*p)->page = page;
    }
    e = *p;
    e->holders |= me;
    if (!e->asking) {
        /* Whoever claims the page for writing after this sees the note; who did before is seen. */
        uint16_t old = atomic_fetch_or(notes, PAGE_NOTE_CODE);

        if (PAGE_WRITER(old)) {
            writers = writers_of(sh, PAGE_WRITER(old));
            e->asking = true;
            e->asked = writers & ~me;
            if (e->asked)
                put_todo(sh, e);
            post_to(sh, e->asked);
            settle(sh, e);
        }
    }
    ready = !e->asked;
out:
    lock_drop(&sh->vm->lock);
    if (writers & me)
        share_give_up(v, page);
    return ready;
}

/* No store of this vCPU is half done. */
void share_give_up(struct ivcpu *v, uint64_t page)
{
    tlb_protect_page(v, page);
    if (v->hooks)
        v->hooks->noted(v, GPA(page << PAGE_SHIFT));
}

bool page_claim_write(struct ivcpu *v, struct slot *s, gpa_t at)
{
    _Atomic uint16_t *notes = &s->notes[slot_page(s, at)];
    uint16_t old = atomic_load_explicit(notes, memory_order_relaxed), with;
    unsigned me = v->vc.cpu.id + 1;

    do {
        unsigned writer = PAGE_WRITER(old);

        if (old & PAGE_NOTE_CODE)
            return false;
        if (!v->vm->share || writer == me || writer == PAGE_WRITER_MANY)
            return true;
        with = (uint16_t)((old & (BIT(PAGE_WRITER_SHIFT) - 1)) | (writer ? PAGE_WRITER_MANY : me)
                                                                     << PAGE_WRITER_SHIFT);
    } while (!atomic_compare_exchange_weak(notes, &old, with));
    return true;
}

/* ---- stores to code ---- */

/* Bytes of one page were written; by: the vCPU, which has dropped its own code, or NULL. */
static void tell(struct share *sh, struct ivcpu *by, gpa_t at, unsigned bytes)
{
    uint64_t page = at.v >> PAGE_SHIFT, me = by ? bit_of(by) : 0, who;
    uint16_t lo = at.v % PAGE_BYTES, hi = (uint16_t)(lo + bytes);
    struct share_page *e;

    lock_take(&sh->vm->lock);
    e = *find(sh, page);
    if (e) {
        if (by && !holds_code(by, page))
            e->holders &= ~me;
        who = e->holders & ~me;
        if (who) {
            e->lo = e->told ? MIN(e->lo, lo) : lo;
            e->hi = e->told ? MAX(e->hi, hi) : hi;
            e->told |= who;
            put_todo(sh, e);
            post_to(sh, who);
        }
        settle(sh, e);
    }
    lock_drop(&sh->vm->lock);
}

void share_tell(struct interp_vm *vm, struct ivcpu *by, gpa_t at, uint64_t bytes)
{
    while (bytes) {
        uint64_t n = MIN(bytes, PAGE_BYTES - at.v % PAGE_BYTES);

        tell(vm->share, by, at, (unsigned)n);
        at = gpa_add(at, n);
        bytes -= n;
    }
}

void share_will_store(struct ivcpu *v, gpa_t at, unsigned bytes)
{
    BUG_ON(v->nr_stored == ARRAY_SIZE(v->stored));
    v->stored[v->nr_stored++] = (struct stored){ .at = at, .bytes = bytes };
}

bool share_stored(struct ivcpu *v)
{
    uint64_t t;
    bool any = false;

    if (!v->nr_stored)
        return false;
    t = vcpu_exit_begin(&v->vc, EXIT_SMC);
    go_outside(v); /* it frees memory */
    for (unsigned i = 0; i < v->nr_stored; i++) {
        any |= code_drop(v, v->stored[i].at, v->stored[i].bytes);
        share_tell(v->vm, v, v->stored[i].at, v->stored[i].bytes);
    }
    v->nr_stored = 0;
    vcpu_exit_end(&v->vc, EXIT_SMC, t);
    return any;
}

/* ---- what the others have asked and told ---- */

/* Something for this vCPU; its bit in told is cleared. False: nothing. */
static bool take_work(struct ivcpu *v, struct share_page *out, bool *told)
{
    struct share *sh = v->vm->share;
    struct share_page *e;
    uint64_t me = bit_of(v);

    lock_take(&sh->vm->lock);
    for (e = sh->todo; e; e = e->next_todo)
        if ((e->asked | e->told) & me)
            break;
    if (e) {
        *out = *e;
        *told = e->told & me;
        e->told &= ~me;
    }
    lock_drop(&sh->vm->lock);
    return e;
}

static void done_work(struct ivcpu *v, uint64_t page)
{
    struct share *sh = v->vm->share;
    uint64_t me = bit_of(v);
    struct share_page *e;

    lock_take(&sh->vm->lock);
    e = *find(sh, page); /* it is there as long as there is something for us, or code of ours */
    if (e) {
        e->asked &= ~me;
        if (!(e->told & me) && !holds_code(v, page))
            e->holders &= ~me;
        settle(sh, e);
    }
    lock_drop(&sh->vm->lock);
}

void share_serve(struct ivcpu *v)
{
    struct share_page e;
    bool told;

    while (take_work(v, &e, &told)) {
        if (e.asked & bit_of(v))
            share_give_up(v, e.page);
        if (told)
            (void)code_drop(v, GPA(e.page << PAGE_SHIFT | e.lo), (uint64_t)e.hi - e.lo);
        done_work(v, e.page);
    }
}
