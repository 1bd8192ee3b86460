/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory as the interpreter sees it: the software TLB, and the slow halves of accesses.
 *
 * A TLB entry gets its read, write or execute tag only after a page walk for that very kind of
 * access has succeeded, so a tag match needs no rights check. What must not go fast never gets a
 * tag: MMIO, ROM for writing, pages with decoded code for writing, pages with watchpoints, and
 * everything while alignment checks are on.
 */
#include "engine/interp/tlb.h"
#include "engine/interp/share.h"

#include <string.h>

void tlb_set_view(struct ivcpu *v)
{
    const struct cpu *c = CPU(v);

    if (is_user(c))
        v->tlb = (c->cr0 & CR0_AM) && (c->rflags & RFLAGS_AC) ? &v->no_view : &v->views[VIEW_USER];
    else
        v->tlb = &v->views[c->mode & MODE_AC ? VIEW_KERNEL_AC : VIEW_KERNEL];
}

enum tlb_view tlb_view_of(const struct cpu *c, unsigned acc)
{
    if (acc & ACC_USER)
        return VIEW_USER;
    if (acc & ACC_IMPLICIT)
        return VIEW_KERNEL;
    if (is_user(c) && !(acc & ACC_SUPER))
        return VIEW_USER;
    return c->rflags & RFLAGS_AC ? VIEW_KERNEL_AC : VIEW_KERNEL;
}

static uint64_t ntag_of(uint64_t page)
{
    return PAGE_BYTES - page;
}

/* What no access whose address has this index matches, not even one that crosses into the next
 * page: page 1 (so that all zero is empty), or page 3 for page 1 and the one before it. */
uint64_t tlb_no_ntag(unsigned i)
{
    return ntag_of((i > 1 ? 1 : 3) * PAGE_BYTES);
}

static void entry_clear(struct tlb *t, unsigned i)
{
    t->ntag_r[i] = t->ntag_w[i] = t->ntag_x[i] = tlb_no_ntag(i);
}

bool tlb_entry_live(const struct tlb *t, unsigned i)
{
    uint64_t none = tlb_no_ntag(i);

    return t->ntag_r[i] != none || t->ntag_w[i] != none || t->ntag_x[i] != none;
}

static void list(struct tlb *t, unsigned i, bool global)
{
    struct tlb_used *u = &t->used[global];

    if (t->note[i].listed[global])
        return;
    t->note[i].listed[global] = true;
    u->at[u->nr++] = (uint16_t)i;
}

void tlb_list_local(struct tlb *t, unsigned i)
{
    list(t, i, false);
}

/* t is all zero. */
static void view_init(struct tlb *t)
{
    entry_clear(t, 0);
    entry_clear(t, 1);
}

void tlb_init(struct ivcpu *v)
{
    for (unsigned w = 0; w < NR_VIEWS; w++)
        view_init(&v->views[w]);
    view_init(&v->no_view);
    v->large_x_lo = UINT64_MAX;
}

/* Drops the entries that were filled as not global; those that have become global since stay, they
 * are in the other list too. */
static void view_flush_nonglobal(struct tlb *t)
{
    struct tlb_used *u = &t->used[false];

    for (unsigned n = 0; n < u->nr; n++) {
        struct tlb_note *note = &t->note[u->at[n]];

        if (!note->global)
            entry_clear(t, u->at[n]);
        note->listed[false] = false;
    }
    u->nr = 0;
}

static void view_flush_all(struct tlb *t)
{
    struct tlb_used *u = &t->used[true];

    view_flush_nonglobal(t);
    for (unsigned n = 0; n < u->nr; n++) {
        entry_clear(t, u->at[n]);
        t->note[u->at[n]].listed[true] = false;
    }
    u->nr = 0;
}

/* What was found by virtual address is no longer true. */
static void flushed(struct ivcpu *v, enum flush_kind kind, uint64_t lin)
{
    v->jump_gen++;
    v->tlb_changes++;
    if (v->hooks)
        v->hooks->flushed(v, kind, lin);
}

void tlb_flush_all(struct ivcpu *v)
{
    for (unsigned w = 0; w < NR_VIEWS; w++)
        view_flush_all(&v->views[w]);
    memset(v->large_2m, 0, sizeof(v->large_2m));
    memset(v->large_1g, 0, sizeof(v->large_1g));
    v->large_x_lo = UINT64_MAX;
    v->large_x_hi = 0;
    pcid_forget_all(v);
    flushed(v, FLUSH_ALL, 0);
}

void tlb_release(struct ivcpu *v)
{
    tlb_flush_all(v);
    for (unsigned w = 0; w < NR_VIEWS; w++) {
        host_zero(&v->views[w], sizeof(v->views[w]));
        view_init(&v->views[w]);
    }
}

void tlb_flush_nonglobal(struct ivcpu *v)
{
    for (unsigned w = 0; w < NR_VIEWS; w++)
        view_flush_nonglobal(&v->views[w]);
    flushed(v, FLUSH_NONGLOBAL, 0);
}

static bool in_large(const struct ivcpu *v, uint64_t lin)
{
    return v->large_2m[(lin >> 21) % sizeof(v->large_2m)] ||
           v->large_1g[(lin >> 30) % sizeof(v->large_1g)];
}

static void note_large(struct ivcpu *v, const struct walk *w)
{
    uint64_t bytes = 1ull << w->shift, lo = align_down(w->at.v, bytes);

    if (w->shift == 30)
        v->large_1g[(lo >> 30) % sizeof(v->large_1g)] = 1;
    for (uint64_t at = lo; w->shift < 30 && at - lo < bytes; at += MIB(2))
        v->large_2m[(at >> 21) % sizeof(v->large_2m)] = 1;
    if (!(w->acc & ACC_EXEC))
        return;
    v->large_x_lo = MIN(v->large_x_lo, lo);
    v->large_x_hi = MAX(v->large_x_hi, lo + bytes - 1 + (lo + bytes != 0));
}

/* Clears what was cut from the large page around lin. */
static void used_clear_large(struct tlb *t, const struct tlb_used *u, uint64_t lin)
{
    for (unsigned n = 0; n < u->nr; n++) {
        const struct tlb_note *note = &t->note[u->at[n]];

        if (note->shift > PAGE_SHIFT && (note->lin ^ lin) >> note->shift == 0)
            entry_clear(t, u->at[n]);
    }
}

void tlb_flush_page(struct ivcpu *v, uint64_t lin)
{
    for (unsigned w = 0; w < NR_VIEWS; w++) {
        struct tlb *t = &v->views[w];

        entry_clear(t, tlb_index(lin));
        if (!in_large(v, lin))
            continue;
        used_clear_large(t, &t->used[false], lin);
        used_clear_large(t, &t->used[true], lin);
    }
    flushed(v, lin < v->large_x_lo || lin >= v->large_x_hi ? FLUSH_PAGE : FLUSH_ALL, lin);
}

static void used_protect(struct tlb *t, const struct tlb_used *u, uint64_t page)
{
    for (unsigned n = 0; n < u->nr; n++)
        if (t->note[u->at[n]].page == page)
            t->ntag_w[u->at[n]] = tlb_no_ntag(u->at[n]);
}

void tlb_protect_page(struct ivcpu *v, uint64_t page)
{
    v->tlb_changes++;
    v->nr_protects++;
    for (unsigned w = 0; w < NR_VIEWS; w++) {
        used_protect(&v->views[w], &v->views[w].used[false], page);
        used_protect(&v->views[w], &v->views[w].used[true], page);
    }
}

/* Does a debugger or the guest watch data in this page? */
static bool page_watched(const struct ivcpu *v, uint64_t lin)
{
    for (unsigned i = 0; i < v->vc.dbg.nr_bps; i++) {
        const struct dbg_bp *b = &v->vc.dbg.bps[i];

        if (b->acc != ACC_EXEC && b->at.v < (lin & PAGE_MASK) + PAGE_BYTES &&
            b->at.v + b->bytes > (lin & PAGE_MASK))
            return true;
    }
    return (v->vc.cpu.dr7 & 0xff) && cpu_bp_in_page(&v->vc.cpu, GVA(lin & PAGE_MASK), false);
}

static void fill(struct ivcpu *v, struct tlb *t, const struct walk *w, const struct span *s)
{
    unsigned i = tlb_index(w->at.v);
    struct tlb_note *note = &t->note[i];
    uint64_t ntag = ntag_of(w->at.v & PAGE_MASK);
    bool watched = page_watched(v, w->at.v);

    /* What was found not global must not outlive a flush as part of an entry that is. */
    if (note->global != w->global || note->page != s->at.v >> PAGE_SHIFT ||
        t->add[i] != (uintptr_t)s->hva - w->at.v ||
        (t->ntag_r[i] != ntag && t->ntag_w[i] != ntag && t->ntag_x[i] != ntag))
        entry_clear(t, i);
    note->page = s->at.v >> PAGE_SHIFT;
    note->global = w->global;
    note->lin = w->at.v & PAGE_MASK;
    note->shift = (uint8_t)w->shift;
    list(t, i, w->global);
    t->add[i] = (uintptr_t)s->hva - w->at.v;
    if (w->acc & ACC_EXEC) {
        t->ntag_x[i] = ntag;
    } else if (!watched) {
        t->ntag_r[i] = ntag;
        if ((w->acc & ACC_WRITE) && !s->code)
            t->ntag_w[i] = ntag;
    }
    if (w->shift > PAGE_SHIFT)
        note_large(v, w);
}

enum step span_find(struct ivcpu *v, uint64_t lin, unsigned acc, struct span *s)
{
    struct cpu *c = CPU(v);
    struct tlb *t = &v->views[tlb_view_of(c, acc)];
    unsigned i = tlb_index(lin);
    uint64_t ntag = acc & ACC_EXEC ? t->ntag_x[i] : acc & ACC_WRITE ? t->ntag_w[i] : t->ntag_r[i];
    struct walk w = { .at = GVA(lin), .acc = acc };
    enum step st;

    if ((lin + ntag) >> PAGE_SHIFT == 1) {
        s->hva = (uint8_t *)(t->add[i] + lin);
        s->at = GPA(t->note[i].page << PAGE_SHIFT | lin % PAGE_BYTES);
        s->slot = NULL;
        return STEP_NEXT;
    }
    v->vc.nr_exits[EXIT_FILL]++; /* not timed: two clock reads cost as much as the walk */
    st = cpu_walk(c, &w);
    if (st != STEP_NEXT)
        return st;
    s->at = w.pa;
    s->hva = NULL;
    s->code = false;
    s->slot = mmu_slot_find(v->vm->evm.cfg.mmu, w.pa);
    if (!s->slot || apic_claims(c, w.pa) || ((acc & ACC_WRITE) && (s->slot->flags & SLOT_RO)))
        return STEP_NEXT;
    s->hva = slot_hva(s->slot, w.pa);
    if ((acc & ACC_WRITE) && (s->slot->flags & SLOT_LOG_DIRTY))
        s->slot->notes[slot_page(s->slot, w.pa)] |= PAGE_NOTE_DIRTY;
    if (acc & ACC_WRITE)
        s->code = !page_claim_write(v, s->slot, w.pa);
    fill(v, t, &w, s);
    return STEP_NEXT;
}

bool tlb_fill(struct ivcpu *v, uint64_t lin, unsigned bytes, bool write)
{
    struct span s;

    if (lin % PAGE_BYTES + bytes > PAGE_BYTES ||
        (CPU(v)->mode & MODE_LMA && !is_canonical(CPU(v), lin)))
        return false;
    if (span_find(v, lin, write ? ACC_WRITE : ACC_READ, &s) != STEP_NEXT) {
        CPU(v)->exc.valid = false; /* the instruction itself will raise it */
        return false;
    }
    return write ? TLB_HIT(v->tlb, w, lin, bytes) : TLB_HIT(v->tlb, r, lin, bytes);
}

/* ---- checks that only the slow half makes ---- */

static bool fault(struct ivcpu *v, enum step st)
{
    v->leave = leave_of(st);
    return false;
}

/* Watchpoints: an instruction that touches one runs alone, so that what it hits is known to be its.
 */
enum step watch_access(struct ivcpu *v, uint64_t lin, unsigned bytes, unsigned acc, bool probe)
{
    struct cpu *c = CPU(v);

    if (!page_watched(v, lin) && !page_watched(v, lin + bytes - 1))
        return STEP_NEXT;
    if (!v->stepping)
        return STEP_ALONE;
    if (probe)
        return STEP_NEXT;
    c->pending_dbg |= cpu_match_bp(c, GVA(lin), bytes, acc);
    for (unsigned i = 0; i < v->vc.dbg.nr_bps; i++) {
        const struct dbg_bp *b = &v->vc.dbg.bps[i];

        if (b->acc == ACC_EXEC || (b->acc == ACC_WRITE && !(acc & ACC_WRITE)))
            continue;
        if (b->at.v < lin + bytes && lin < b->at.v + b->bytes) {
            v->dbg_stop = true;
            v->vc.dbg_hit = b->at;
            v->vc.dbg_hit_acc = b->acc;
        }
    }
    return STEP_NEXT;
}

/* SDM 3, "Alignment Check Exception": CR0.AM, RFLAGS.AC and CPL 3; naturally aligned up to 8 bytes.
 */
static bool check(struct ivcpu *v, const struct op *op, uint64_t lin, unsigned bytes, unsigned acc)
{
    struct cpu *c = CPU(v);
    bool misaligned = unlikely(v->tlb == &v->no_view) && (lin & (bytes - 1));

    if (c->mode & MODE_LMA && (!is_canonical(c, lin) || (!is_canonical(c, lin + bytes - 1) &&
                                                         !(misaligned && cpu_aligns_first(c)))))
        return fault(v, op && op->seg == SEG_SS ? raise_ss(c, 0) : raise_gp(c, 0));
    if (misaligned)
        return fault(v, raise_err(c, VEC_AC, 0));
    return likely(!v->watching) || watch_access(v, lin, bytes, acc, false) == STEP_NEXT ||
           fault(v, STEP_ALONE);
}

/* A store to a page that holds decoded code. The instruction then runs alone: what it changes may
 * be itself. */
static bool store_may_go(struct ivcpu *v, const struct span *s, unsigned bytes)
{
    if (!s->slot || !s->hva ||
        !s->code) /* no slot: by a TLB entry with a write tag, no code there */
        return true;
    if (v->vm->share && v->stepping) {
        share_will_store(v, s->at, bytes);
        return true;
    }
    if (!v->vm->share && (!code_stored(v, s->at, bytes) || v->stepping))
        return true;
    v->leave = LEAVE_STEP;
    return false;
}

/* ---- devices ---- */

uint64_t interp_mmio_read(struct ivcpu *v, gpa_t at, unsigned bytes)
{
    const struct engine_config *cfg = &v->vm->evm.cfg;
    enum exit_reason why = apic_claims(CPU(v), at) ? EXIT_APIC : EXIT_MMIO;
    uint64_t t = vcpu_exit_begin(&v->vc, why), x;

    if (why == EXIT_APIC) { /* registers are 32 bits wide; narrower reads see their bytes */
        x = apic_mmio_read(CPU(v), at.v & 0xffc) >> (8 * (at.v & 3));
    } else {
        go_outside(v);
        x = cfg->ops->mmio_read(cfg->ctx, at, bytes);
    }
    vcpu_exit_end(&v->vc, why, t);
    return low_bytes(x, bytes);
}

void interp_mmio_write(struct ivcpu *v, gpa_t at, unsigned bytes, uint64_t val)
{
    const struct engine_config *cfg = &v->vm->evm.cfg;
    enum exit_reason why = apic_claims(CPU(v), at) ? EXIT_APIC : EXIT_MMIO;
    uint64_t t = vcpu_exit_begin(&v->vc, why);

    if (why == EXIT_APIC) {
        apic_mmio_write(CPU(v), (uint32_t)(at.v & 0xfff), (uint32_t)val);
        /* An EOI or a lower TPR may let something through: do not chain past it. */
        if (cpu_event_ready(CPU(v)))
            cpu_note(CPU(v), REQ_IRQ);
    } else {
        go_outside(v);
        cfg->ops->mmio_write(cfg->ctx, at, bytes, val);
    }
    vcpu_exit_end(&v->vc, why, t);
}

static uint64_t span_read(struct ivcpu *v, const struct span *s, unsigned bytes)
{
    uint64_t x = 0;

    if (!s->hva) {
        if (bytes & (bytes - 1)) { /* an odd piece of an access across pages */
            for (unsigned i = 0; i < bytes; i++)
                x |= interp_mmio_read(v, gpa_add(s->at, i), 1) << (8 * i);
            return x;
        }
        return interp_mmio_read(v, s->at, bytes);
    }
    copy_words(&x, s->hva, bytes);
    return x;
}

static void span_write(struct ivcpu *v, const struct span *s, unsigned bytes, uint64_t val)
{
    if (s->hva) {
        copy_words(s->hva, &val, bytes);
    } else if (bytes & (bytes - 1)) {
        for (unsigned i = 0; i < bytes; i++)
            interp_mmio_write(v, gpa_add(s->at, i), 1, val >> (8 * i));
    } else {
        interp_mmio_write(v, s->at, bytes, val);
    }
}

/* ---- accesses of instructions ---- */

/* The pieces of an access of up to 8 bytes: one, or two when it crosses a page. */
struct pieces {
    struct span s[2];
    unsigned n[2];
};

static bool find_pieces(struct ivcpu *v, const struct op *op, uint64_t lin, unsigned bytes,
                        unsigned acc, struct pieces *p)
{
    unsigned left = (unsigned)(PAGE_BYTES - lin % PAGE_BYTES);
    enum step st;

    if (!check(v, op, lin, bytes, acc))
        return false;
    if (unlikely(v->nr_stored > ARRAY_SIZE(v->stored) - 2))
        (void)share_stored(v); /* earlier repetitions of a string instruction */
    p->n[0] = MIN(bytes, left);
    p->n[1] = bytes - p->n[0];
    st = span_find(v, lin, acc, &p->s[0]);
    if (st == STEP_NEXT && p->n[1]) {
        uint64_t next = lin + left;

        st = span_find(v, ip_mask(CPU(v), next), acc, &p->s[1]);
    }
    if (st != STEP_NEXT)
        return fault(v, st);
    if (!(acc & ACC_WRITE))
        return true;
    return store_may_go(v, &p->s[0], p->n[0]) && (!p->n[1] || store_may_go(v, &p->s[1], p->n[1]));
}

bool load_slow(struct ivcpu *v, const struct op *op, uint64_t lin, unsigned bytes)
{
    struct pieces p;

    if (!find_pieces(v, op, lin, bytes, ACC_READ, &p))
        return false;
    v->val = span_read(v, &p.s[0], p.n[0]);
    if (p.n[1])
        v->val |= span_read(v, &p.s[1], p.n[1]) << (8 * p.n[0]);
    return true;
}

static void write_pieces(struct ivcpu *v, const struct pieces *p, uint64_t val)
{
    span_write(v, &p->s[0], p->n[0], val);
    if (p->n[1])
        span_write(v, &p->s[1], p->n[1], val >> (8 * p->n[0]));
}

bool store_slow(struct ivcpu *v, const struct op *op, uint64_t lin, unsigned bytes, uint64_t val)
{
    struct pieces p;

    if (!find_pieces(v, op, lin, bytes, ACC_WRITE, &p))
        return false;
    write_pieces(v, &p, val);
    return true;
}

/* Looked for only once: in a page with code the second answer may be another one. */
bool store_from_port(struct ivcpu *v, const struct op *op, uint64_t lin, unsigned bytes,
                     uint16_t port)
{
    struct pieces p;

    if (!find_pieces(v, op, lin, bytes, ACC_WRITE, &p))
        return false;
    write_pieces(v, &p, io_read(v, port, bytes));
    return true;
}

bool rmw_slow(struct ivcpu *v, const struct op *op, uint64_t lin, unsigned bytes)
{
    struct pieces p;

    if (!find_pieces(v, op, lin, bytes, ACC_WRITE, &p))
        return false;
    v->val = span_read(v, &p.s[0], p.n[0]);
    if (p.n[1])
        v->val |= span_read(v, &p.s[1], p.n[1]) << (8 * p.n[0]);
    return true;
}

void *atomic_ptr(struct ivcpu *v, const struct op *op, uint64_t lin, unsigned bytes)
{
    struct pieces p;

    if (TLB_HIT(v->tlb, w, lin, bytes))
        return (void *)TLB_HVA(v->tlb, lin);
    v->leave = LEAVE_NEXT;
    if (lin % PAGE_BYTES + bytes > PAGE_BYTES)
        return NULL;
    if (!find_pieces(v, op, lin, bytes, ACC_WRITE, &p))
        return NULL;
    return p.s[0].hva;
}

uint8_t *bulk_ptr(struct ivcpu *v, uint64_t lin, bool write)
{
    const struct tlb *t = v->tlb;

    return (write ? TLB_HIT(t, w, lin, 1) : TLB_HIT(t, r, lin, 1)) ? (uint8_t *)TLB_HVA(t, lin)
                                                                   : NULL;
}

bool load_n(struct ivcpu *v, const struct op *op, uint64_t lin, unsigned bytes, uint64_t *out)
{
    *out = 0;
    if (TLB_HIT(v->tlb, r, lin, bytes)) {
        copy_words(out, (void *)TLB_HVA(v->tlb, lin), bytes);
        return true;
    }
    if (!load_slow(v, op, lin, bytes))
        return false;
    *out = v->val;
    return true;
}

/* ---- addresses ---- */

uint64_t effective(const struct ivcpu *v, const struct op *op)
{
    uint64_t ea = plain_ea(v, op);

    return op->addr & ADDR_A32 ? (uint32_t)ea : op->addr & ADDR_A16 ? (uint16_t)ea : ea;
}

bool addr_in(struct ivcpu *v, const struct op *op, enum seg_id seg, uint64_t off, unsigned bytes,
             unsigned acc)
{
    struct cpu *c = CPU(v);
    enum step st;
    gva_t lin;

    if (op->addr & ADDR_A32)
        off = (uint32_t)off;
    else if (op->addr & ADDR_A16)
        off = (uint16_t)off;
    if (c->mode & MODE_CS64) {
        v->lin = seg == SEG_FS || seg == SEG_GS ? off + c->seg[seg].base : off;
        return true;
    }
    if (!(op->addr & ADDR_SEG) && likely(off + bytes - 1 <= UINT32_MAX)) {
        v->lin = off;
        return true;
    }
    st = cpu_linear(c, seg, off, bytes, acc, &lin);
    if (st != STEP_NEXT)
        return fault(v, st);
    v->lin = lin.v;
    return true;
}

bool addr_slow(struct ivcpu *v, const struct op *op, unsigned bytes, unsigned acc)
{
    return addr_in(v, op, op->seg, plain_ea(v, op), bytes, acc);
}

bool get_linear(struct ivcpu *v, const struct op *op, unsigned bytes, unsigned acc, uint64_t *lin)
{
    if (!op->addr) {
        *lin = plain_ea(v, op);
        return true;
    }
    if (!addr_slow(v, op, bytes, acc))
        return false;
    *lin = v->lin;
    return true;
}

/* ---- code ---- */

const uint8_t *fetch_ptr(struct ivcpu *v, uint64_t lin, gpa_t *at)
{
    struct cpu *c = CPU(v);
    struct span s;
    enum step st;

    if (c->mode & MODE_LMA && !is_canonical(c, lin)) {
        (void)fault(v, raise_gp(c, 0));
        return NULL;
    }
    st = span_find(v, lin, ACC_EXEC, &s);
    if (st == STEP_NEXT && !s.hva) {
        if (log_first(c->seen, 0xfe7c4ull << 40 | s.at.v >> PAGE_SHIFT))
            log_warn("guest: runs code outside of RAM at guest-physical %#llx (RIP %#llx)",
                     (unsigned long long)s.at.v, (unsigned long long)c->rip);
        st = raise_ud(c); /* the bus gives all ones, and FF FF is no instruction */
    }
    if (st != STEP_NEXT) {
        (void)fault(v, st);
        return NULL;
    }
    *at = s.at;
    return s.hva;
}
