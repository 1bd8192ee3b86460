/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The view: fills on a fault, in batches; drops what flushes made stale.
 *
 * What is mapped is kept per 2 MB of guest addresses, the size that one page table describes, so
 * that a whole region is compared with its page table in one pass.
 */
#include "engine/bt/direct/view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "engine/bt/direct/code.h"
#include "engine/bt/direct/layout.h"
#include "engine/bt/direct/worker.h"
#include "engine/interp/interp.h"

#define CHUNK_SHIFT 21
#define CHUNK_PAGES 512
#define USER_TOP    ((1ull << 47) - PAGE_BYTES)
/* The lowest the kernel lets an unprivileged process map (vm.mmap_min_addr). */
#define USER_BOTTOM 0x10000ull

/*
 * Pages looked at around a fault; more when faults follow each other upwards. A hidden fault costs
 * about 8 us before its first mmap, a further mmap 2 to 3 us, a further page in one mmap 0.3 us.
 */
#define WINDOW     16
#define MAX_WINDOW 128

/* vm.max_map_count is 65530 by default; a run that splits another makes two more. */
#define MAX_MAPS 40000

struct chunk {
    uint64_t base; /* linear */
    struct chunk *next;
    unsigned nr;
    uint64_t e[CHUNK_PAGES]; /* 0, or physical address, LEAF_P, LEAF_W */
};

/* ---- the guest's page tables ---- */

static const uint64_t *table_at(struct mmu *mmu, uint64_t at)
{
    const struct slot *s = mmu_slot_find(mmu, GPA(at));

    return s ? (const uint64_t *)slot_hva(s, GPA(at)) : NULL;
}

/* The table changes while we read: each entry is read once. */
static uint64_t read_entry(const uint64_t *table, unsigned idx)
{
    return __atomic_load_n(&table[idx], __ATOMIC_RELAXED);
}

static bool usable(const struct cpu *c, uint64_t e, enum leaf_of of)
{
    uint64_t need = LEAF_P | LEAF_A | (of == LEAF_OF_USER ? LEAF_U : 0);

    return (e & need) == need && (!(e & LEAF_NX) || (c->efer & EFER_NXE));
}

void view_leaves(struct mmu *mmu, struct cpu *c, uint64_t lin, enum leaf_of of, struct leaves *out)
{
    uint64_t at = c->cr3 & LEAF_ADDR, e, low;

    *out = (struct leaves){ .of = of, .writable = true, .exec = true, .user = true };
    for (unsigned shift = c->cr4 & CR4_LA57 ? 48 : 39;; shift -= 9) {
        const uint64_t *table = table_at(mmu, at);

        if (!table)
            return;
        if (shift == PAGE_SHIFT) {
            out->pt = table;
            out->present = true;
            return;
        }
        e = read_entry(table, (unsigned)(lin >> shift & 511));
        if (!usable(c, e, of))
            return;
        out->user &= !!(e & LEAF_U);
        out->writable &= !!(e & LEAF_W);
        out->exec &= !(e & LEAF_NX);
        at = e & LEAF_ADDR;
        if (!(e & LEAF_PS))
            continue;
        if (shift > 30) /* reserved */
            return;
        low = BIT64(shift) - 1;
        if (at & low & ~LARGE_PAT) /* reserved, too */
            return;
        out->large = (at & ~low) | (lin & low & ~(BIT64(CHUNK_SHIFT) - 1)) | (e & ~LEAF_ADDR);
        out->present = true;
        return;
    }
}

uint64_t view_leaf(const struct cpu *c, const struct leaves *l, unsigned idx)
{
    uint64_t e;

    if (!l->present)
        return 0;
    e = l->pt ? read_entry(l->pt, idx) : l->large + idx * PAGE_BYTES;
    if (!usable(c, e, l->of))
        return 0;
    if (l->of == LEAF_OF_KERNEL && l->user && (e & LEAF_U))
        return 0;
    e &= LEAF_ADDR | LEAF_P | LEAF_W | LEAF_D | LEAF_G | LEAF_NX;
    if (!l->writable)
        e &= ~LEAF_W;
    if (!l->exec)
        e |= LEAF_NX;
    return e;
}

/* ---- bookkeeping ---- */

static struct chunk **chunk_slot(struct view *vw, uint64_t lin)
{
    uint64_t base = align_down(lin, BIT64(CHUNK_SHIFT));
    struct chunk **p = &vw->hash[(lin >> CHUNK_SHIFT) % VIEW_BUCKETS];

    while (*p && (*p)->base != base)
        p = &(*p)->next;
    return p;
}

static struct chunk *chunk_get(struct view *vw, uint64_t lin)
{
    struct chunk **p = chunk_slot(vw, lin), *c = *p;

    if (c)
        return c;
    c = calloc(1, sizeof(*c));
    if (c) {
        c->base = align_down(lin, BIT64(CHUNK_SHIFT));
        vw->nr_chunks++;
        *p = c;
    }
    return c;
}

static uint64_t *note_word(struct view *vw, uint64_t page, uint64_t *bit)
{
    uint64_t h = (page * 0x9e3779b97f4a7c15ull) >> 48;

    *bit = BIT64(h % 64);
    return &vw->written[h / 64];
}

void view_init(struct view *vw, struct worker *w, struct mmu *mmu, const struct code *code)
{
    *vw = (struct view){ .w = w, .mmu = mmu, .code = code };
}

void view_forget(struct view *vw)
{
    for (unsigned i = 0; i < VIEW_BUCKETS; i++)
        while (vw->hash[i]) {
            struct chunk *k = vw->hash[i];

            vw->hash[i] = k->next;
            free(k);
        }
    memset(vw->written, 0, sizeof(vw->written));
    vw->nr_chunks = vw->nr_maps = 0;
    vw->nr_pages = 0;
}

/* ---- taking out ---- */

static int unmap(struct view *vw, uint64_t lin, uint64_t bytes)
{
    return worker_cmd(vw->w, &(struct worker_call){ SYS_munmap, { lin, bytes } });
}

int view_drop(struct view *vw)
{
    uint64_t home = vw->w->home, end = home + HOME_BYTES;
    int rc = unmap(vw, 0, home);

    if (!rc)
        rc = unmap(vw, end, USER_TOP - end);
    view_forget(vw);
    return rc;
}

static int unmap_run(struct view *vw, struct chunk *k, unsigned from, unsigned to)
{
    int rc = unmap(vw, k->base + from * PAGE_BYTES, (to - from) * PAGE_BYTES);

    vw->nr_maps++; /* it may have split one */
    for (unsigned i = from; i < to; i++)
        if (k->e[i]) {
            k->e[i] = 0;
            k->nr--;
            vw->nr_pages--;
        }
    return rc;
}

/* Is what we have mapped still what the page tables give? */
static bool still_good(const struct cpu *c, const struct leaves *l, unsigned idx, uint64_t e)
{
    uint64_t now = view_leaf(c, l, idx);

    if (!now || (now ^ e) & LEAF_ADDR)
        return false;
    return !(e & LEAF_W) || (now & (LEAF_W | LEAF_D)) == (LEAF_W | LEAF_D);
}

static int validate_range(struct view *vw, struct cpu *c, struct chunk *k, unsigned from,
                          unsigned to)
{
    struct leaves l;
    int rc = 0;

    view_leaves(vw->mmu, c, k->base, LEAF_OF_USER, &l);
    for (unsigned i = from; i < to && !rc;) {
        unsigned start = i, last = i;

        if (!k->e[i] || still_good(c, &l, i, k->e[i])) {
            i++;
            continue;
        }
        /* Holes are unmapped along with what surrounds them. */
        for (; i < to && (!k->e[i] || !still_good(c, &l, i, k->e[i])); i++)
            if (k->e[i])
                last = i;
        rc = unmap_run(vw, k, start, last + 1);
    }
    return rc;
}

int view_validate(struct view *vw, struct cpu *c)
{
    for (unsigned i = 0; i < VIEW_BUCKETS; i++) {
        struct chunk **p = &vw->hash[i];

        while (*p) {
            struct chunk *k = *p;
            int rc = validate_range(vw, c, k, 0, CHUNK_PAGES);

            if (rc < 0)
                return rc;
            if (k->nr) {
                p = &k->next;
                continue;
            }
            *p = k->next;
            free(k);
            vw->nr_chunks--;
        }
    }
    if (!vw->nr_pages)
        vw->nr_maps = 0;
    return 0;
}

int view_validate_page(struct view *vw, struct cpu *c, uint64_t lin)
{
    struct chunk *k = *chunk_slot(vw, lin);
    unsigned idx = (unsigned)(lin >> PAGE_SHIFT) % CHUNK_PAGES;

    if (!k)
        return 0;
    /* INVLPG of any address in a large page is for all of it. */
    if (k->nr > 1) {
        struct leaves l;

        view_leaves(vw->mmu, c, lin, LEAF_OF_USER, &l);
        if (!l.pt)
            return validate_range(vw, c, k, 0, CHUNK_PAGES);
    }
    return validate_range(vw, c, k, idx, idx + 1);
}

int view_protect(struct view *vw, uint64_t page)
{
    uint64_t bit;

    if (!(*note_word(vw, page, &bit) & bit))
        return 0;
    for (unsigned i = 0; i < VIEW_BUCKETS; i++)
        for (struct chunk *k = vw->hash[i]; k; k = k->next)
            for (unsigned j = 0; j < CHUNK_PAGES; j++) {
                int rc = 0;

                if ((k->e[j] & LEAF_W) && (k->e[j] & LEAF_ADDR) >> PAGE_SHIFT == page)
                    rc = unmap_run(vw, k, j, j + 1);
                if (rc < 0)
                    return rc;
            }
    return 0;
}

/* ---- filling ---- */

/* A run of pages that one mmap can map. */
struct run {
    unsigned from, to;
    uint64_t pa;
    bool write;
    struct slot *slot;
};

static bool may_write(const struct view *vw, struct slot *s, uint64_t pa)
{
    return !(s->flags & SLOT_RO) && !dcode_has_page(vw->code, pa >> PAGE_SHIFT) &&
           page_claim_write(vw->code->v, s, GPA(pa));
}

/* What page idx would be mapped as: 0 for not at all. */
static uint64_t wish(const struct view *vw, struct cpu *c, const struct leaves *l, unsigned idx,
                     struct slot **slot)
{
    uint64_t leaf = view_leaf(c, l, idx), pa = leaf & LEAF_ADDR;

    if (!leaf)
        return 0;
    *slot = mmu_slot_find(vw->mmu, GPA(pa));
    if (!*slot || (*slot)->fd < 0 || apic_claims(c, GPA(pa)))
        return 0;
    if ((leaf & LEAF_W) && (leaf & LEAF_D) && may_write(vw, *slot, pa) && !view_must_see(*slot, pa))
        return pa | LEAF_P | LEAF_W;
    return pa | LEAF_P;
}

static int map_run(struct view *vw, struct chunk *k, const struct run *r)
{
    uint64_t bytes = (r->to - r->from) * PAGE_BYTES, bit;
    uint64_t flags = MAP_SHARED | MAP_FIXED;

    /* More than a window is a large page: the host's own fault-around may do better there. */
    if (r->to - r->from <= MAX_WINDOW)
        flags |= MAP_POPULATE;
    for (unsigned i = r->from; i < r->to; i++) {
        uint64_t pa = r->pa + (i - r->from) * PAGE_BYTES;

        if (!k->e[i]) {
            k->nr++;
            vw->nr_pages++;
        }
        k->e[i] = pa | LEAF_P | (r->write ? LEAF_W : 0);
        if (r->write)
            *note_word(vw, pa >> PAGE_SHIFT, &bit) |= bit;
    }
    vw->nr_maps += 2;
    return worker_cmd(
        vw->w,
        &(struct worker_call){
            SYS_mmap,
            { k->base + r->from * PAGE_BYTES, bytes, r->write ? PROT_READ | PROT_WRITE : PROT_READ,
              flags, (uint64_t)r->slot->fd, r->slot->fd_off_bytes + (r->pa - r->slot->base.v) } });
}

/* Does page idx, to be mapped as e, continue the run? */
static bool continues(const struct run *r, unsigned idx, uint64_t e, const struct slot *s)
{
    return r->from != r->to && idx == r->to && s == r->slot &&
           (e & LEAF_ADDR) == r->pa + (r->to - r->from) * PAGE_BYTES && r->write == !!(e & LEAF_W);
}

struct fill_at {
    struct chunk *k;
    unsigned idx;  /* the page that must be filled */
    uint64_t must; /* and how */
    struct slot *slot;
    unsigned from, to; /* the window */
};

static int fill_window(struct view *vw, struct cpu *c, const struct leaves *l,
                       const struct fill_at *f)
{
    struct run r = { 0 };
    unsigned nr_runs = 0;
    int rc = 0;

    for (unsigned i = f->from; i < f->to && !rc; i++) {
        struct slot *s = f->slot;
        uint64_t e = i == f->idx ? f->must : wish(vw, c, l, i, &s);

        if (!e || f->k->e[i] == e || (nr_runs >= vw->window / 2 && i > f->idx))
            continue;
        if (continues(&r, i, e, s)) {
            r.to++;
            continue;
        }
        if (r.from != r.to)
            rc = map_run(vw, f->k, &r);
        nr_runs++;
        r = (struct run){ i, i + 1, e & LEAF_ADDR, e & LEAF_W, s };
    }
    return rc || r.from == r.to ? rc : map_run(vw, f->k, &r);
}

static bool in_reach(const struct view *vw, uint64_t lin)
{
    return lin >= USER_BOTTOM && lin < USER_TOP && lin - vw->w->home >= HOME_BYTES;
}

/* Where in its chunk the address is, and what may be filled with it. False: no memory. */
static bool find_window(struct view *vw, const struct leaves *l, uint64_t lin, struct fill_at *f)
{
    *f = (struct fill_at){ .k = chunk_get(vw, lin),
                           .idx = (unsigned)(lin >> PAGE_SHIFT) % CHUNK_PAGES };
    if (!f->k)
        return false;
    vw->window = (lin & PAGE_MASK) == vw->filled_to ? MIN(vw->window * 2, MAX_WINDOW) : WINDOW;
    f->from = l->pt ? f->idx & ~(WINDOW - 1u) : 0;
    f->to = l->pt ? MIN(f->from + vw->window, CHUNK_PAGES) : CHUNK_PAGES;
    if (f->k->base + f->to * PAGE_BYTES > USER_TOP)
        f->to = (unsigned)((USER_TOP - f->k->base) >> PAGE_SHIFT);
    vw->filled_to = f->k->base + f->to * PAGE_BYTES;
    return true;
}

enum fill view_fill(struct view *vw, struct cpu *c, uint64_t lin, bool write)
{
    struct walk walk = { .at = GVA(lin), .acc = ACC_USER | (write ? ACC_WRITE : ACC_READ) };
    struct fill_at f;
    struct leaves l;
    struct slot *s;
    uint64_t pa;

    if (cpu_walk(c, &walk) != STEP_NEXT)
        return FILL_FAULT;
    if (!in_reach(vw, lin))
        return FILL_NEVER;
    pa = walk.pa.v & PAGE_MASK;
    s = mmu_slot_find(vw->mmu, GPA(pa));
    if (!s || s->fd < 0 || apic_claims(c, GPA(pa)) || (write && (s->flags & SLOT_RO)))
        return FILL_NEVER;
    if (write && !may_write(vw, s, pa))
        return FILL_CODE;
    if (write && (s->flags & SLOT_LOG_DIRTY))
        s->notes[slot_page(s, GPA(pa))] |= PAGE_NOTE_DIRTY;
    if (vw->nr_maps > MAX_MAPS && view_drop(vw) < 0)
        return FILL_DEAD;
    view_leaves(vw->mmu, c, lin, LEAF_OF_USER, &l);
    if (!l.present || !find_window(vw, &l, lin, &f))
        return FILL_NEVER;
    f.must = wish(vw, c, &l, f.idx, &f.slot);
    /* The walk decides: another vCPU may have changed the entry since. */
    if ((f.must & LEAF_ADDR) != pa || (write && !(f.must & LEAF_W)))
        f.must = pa | LEAF_P | (write ? LEAF_W : 0);
    f.slot = s;
    return fill_window(vw, c, &l, &f) < 0 ? FILL_DEAD : FILL_DONE;
}

int view_prefill(struct view *vw, struct cpu *c, uint64_t lin, bool write)
{
    struct fill_at f;
    struct leaves l;

    if (!in_reach(vw, lin) || vw->nr_maps > MAX_MAPS)
        return 0;
    view_leaves(vw->mmu, c, lin, LEAF_OF_USER, &l);
    if (!l.present || !find_window(vw, &l, lin, &f))
        return 0;
    f.must = wish(vw, c, &l, f.idx, &f.slot);
    if (!f.must || (write && !(f.must & LEAF_W)))
        return 0;
    return fill_window(vw, c, &l, &f);
}
