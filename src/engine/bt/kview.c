/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel's view: pages of the guest's kernel, mapped once more in this process, so that
 * translated kernel code reaches them without the software TLB.
 *
 * Each PML4 slot (512 GB of addresses) of the guest's kernel half that is used has a window of that
 * size here, and a table by slot says how far that is from the guest's addresses (b->windows).
 * Translated code adds that without a check: a slot without a window has a value that makes the
 * address one that no process can have mapped. What is not mapped in a window is a signal, which
 * maps it or leaves the instruction to interp; an instruction that was left to it a few times looks
 * itself up from then on, as those do that reach for user memory and devices.
 *
 * It is used where the kernel's pages are global: they stay through CR3 loads, and the flushes that
 * are for them too are rare. A window is a TLB: what is mapped was walked to with A (and to be
 * written, D) set, and is compared with the page tables again at such a flush; the few regions with
 * pages that are not global, at each load of CR3 as well. Nothing that user code may reach is
 * mapped: whether the kernel may, depends on RFLAGS.AC.
 *
 * SDM 3, "4-Level Paging and 5-Level Paging", "Caching Translation Information".
 */
#include "engine/bt/bt.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "engine/bt/direct/view.h"

#define WINDOW_BYTES BIT64(BT_WINDOW_SHIFT)
#define MAX_WINDOWS  8
#define KERNEL_HALF  0xffff800000000000ull
#define TOP_WINDOW   (-WINDOW_BYTES)

#define CHUNK_SHIFT 21
#define CHUNK_PAGES 512u
#define CHUNK_BYTES BIT64(CHUNK_SHIFT)
#define BUCKETS     512
#define HUGE_SHIFT  30
/* Pages that are looked at around a fault. */
#define AROUND      16u
/* vm.max_map_count is 65530 by default, and workers of the direct tier are forks of this process.
 */
#define MAX_MAPS    16000u
/* An instruction that has found nothing so often looks itself up from then on. */
#define MISSES      4u
/* Traps of one instruction in a row; a REP has one for each page. */
#define AGAIN       64u
/* Chunks that hold something that is not global. */
#define MAX_LOCAL   16u
/* Times that all is translated anew because it can be used. */
#define TURNS       4u

/* What is mapped of 2 MB of the guest's addresses. */
struct kchunk {
    uint64_t base;
    struct kchunk *next, *next_pa;
    uint64_t large; /* not 0: all of it, of one large page: its place, and LEAF_W */
    uint64_t shut[CHUNK_PAGES / 64]; /* of a large page that may be written: but not these */
    bool local; /* something of it is not global: it is looked at again at each change of CR3 */
    unsigned nr;
    uint64_t e[]; /* not large: CHUNK_PAGES of 0, or the place, LEAF_P, LEAF_W */
};

struct kview {
    struct bt_vcpu *b;
    struct mmu *mmu;
    bool on;                 /* the kernel's own pages are global */
    bool has_memory;         /* and lie in memory that can be mapped twice */
    bool asks;               /* the state changed since that was looked at */
    bool lost;               /* nothing is mapped any more, whatever the chunks say */
    unsigned nr_on;          /* times that it was turned on */
    const struct site *last; /* the latest trap's */
    unsigned nr_again;       /* times in a row */
    struct kchunk *local[MAX_LOCAL];
    unsigned nr_local;
    unsigned nr_windows;
    struct {
        uint64_t lin;
        uint8_t *at;
    } windows[MAX_WINDOWS];
    struct kchunk *hash[BUCKETS], *by_pa[BUCKETS];
    unsigned nr_maps;
    bool huge[256];         /* by hash of the GB: a large page of that size may be mapped in it */
    uint64_t written[1024]; /* by hash of the guest page: small pages that may be mapped writable */
    uint8_t misses[BIT(16)];
};

/* ---- books ---- */

static struct kchunk **chunk_slot(struct kview *kv, uint64_t lin)
{
    struct kchunk **p = &kv->hash[(lin >> CHUNK_SHIFT) % BUCKETS];

    while (*p && (*p)->base != align_down(lin, CHUNK_BYTES))
        p = &(*p)->next;
    return p;
}

static uint64_t *written_word(struct kview *kv, uint64_t page, uint64_t *bit)
{
    uint64_t h = (page * 0x9e3779b97f4a7c15ull) >> 48;

    *bit = BIT64(h % 64);
    return &kv->written[h / 64];
}

static uint8_t *miss_count(struct kview *kv, uint64_t gpa)
{
    return &kv->misses[(gpa * 0x9e3779b97f4a7c15ull) >> 48];
}

static bool *huge_note(struct kview *kv, uint64_t lin)
{
    return &kv->huge[(lin >> HUGE_SHIFT) % ARRAY_SIZE(kv->huge)];
}

static struct kchunk **pa_bucket(struct kview *kv, uint64_t pa)
{
    return &kv->by_pa[(pa >> CHUNK_SHIFT) % BUCKETS];
}

/* ---- windows ---- */

static unsigned table_index(uint64_t lin)
{
    return (uint16_t)(lin >> BT_WINDOW_SHIFT);
}

/* User addresses and what is not canonical: a sum that no process can have mapped either. */
static void tables_init(struct bt_vcpu *b)
{
    for (unsigned i = 0; i < BIT(47 - BT_WINDOW_SHIFT); i++)
        b->windows[i] = BIT64(54);
}

static void *empty(void *at, uint64_t bytes, int fixed)
{
    void *p =
        mmap(at, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | fixed, -1, 0);

    if (p == MAP_FAILED)
        return NULL;
    (void)madvise(p, bytes, MADV_DONTDUMP);
    (void)madvise(p, bytes, MADV_DONTFORK);
    return p;
}

/* The window of an address of the kernel's half: its place in it. NULL: there is no room. */
static uint8_t *window_of(struct kview *kv, uint64_t lin)
{
    uint64_t base = align_down(lin, WINDOW_BYTES);
    unsigned i;

    for (i = 0; i < kv->nr_windows; i++)
        if (kv->windows[i].lin == base)
            return kv->windows[i].at + (lin - base);
    if (i == MAX_WINDOWS)
        return NULL;
    kv->windows[i].at = empty(NULL, WINDOW_BYTES + BT_WINDOW_GUARD, 0);
    if (!kv->windows[i].at)
        return NULL;
    kv->windows[i].lin = base;
    kv->nr_windows++;
    kv->b->windows[table_index(base)] = (uintptr_t)kv->windows[i].at - base;
    return kv->windows[i].at + (lin - base);
}

/* Which of the guest's addresses the host's stands for. False: none. */
static bool guest_address(const struct kview *kv, uint64_t host, uint64_t *lin)
{
    for (unsigned i = 0; i < kv->nr_windows; i++) {
        uint64_t off = host - (uintptr_t)kv->windows[i].at;

        if (off < WINDOW_BYTES) {
            *lin = kv->windows[i].lin + off;
            return true;
        }
    }
    /* Of a slot that has no window yet. If it has one, the address is by what another slot has: one
     * that shares the lookup of an address below it, and would come here again and again. */
    *lin = host;
    return host >= KERNEL_HALF && !kv->b->windows[table_index(host)];
}

/* ---- taking out ---- */

/* All of it; in one piece, so that no mapping has to be split, for which there may be no room. */
static void empty_window(struct kview *kv, unsigned i)
{
    /* Nothing may run on with what the guest has taken away. */
    BUG_ON(!empty(kv->windows[i].at, WINDOW_BYTES + BT_WINDOW_GUARD, MAP_FIXED));
}

/* The host has no room for one more mapping: the books are to be emptied, too (see recover()). */
static void empty_all(struct kview *kv)
{
    for (unsigned i = 0; i < kv->nr_windows; i++)
        empty_window(kv, i);
    kv->lost = true;
}

static void unmap(struct kview *kv, uint64_t lin, uint64_t bytes)
{
    if (!empty(window_of(kv, lin), bytes, MAP_FIXED))
        empty_all(kv);
    kv->nr_maps++;
}

static void chunk_free(struct kview *kv, struct kchunk **p)
{
    struct kchunk *k = *p, **q;

    *p = k->next;
    for (unsigned i = 0; k->local && i < kv->nr_local; i++)
        if (kv->local[i] == k)
            kv->local[i] = kv->local[--kv->nr_local];
    if (k->large) {
        for (q = pa_bucket(kv, k->large); *q != k; q = &(*q)->next_pa)
            ;
        *q = k->next_pa;
    }
    free(k);
}

static void unmap_pages(struct kview *kv, struct kchunk *k, unsigned from, unsigned to)
{
    unmap(kv, k->base + from * PAGE_BYTES, (to - from) * PAGE_BYTES);
    for (unsigned i = from; i < to; i++) {
        k->nr -= k->e[i] != 0;
        k->e[i] = 0;
    }
}

static void kview_reset(struct kview *kv)
{
    for (unsigned i = 0; i < kv->nr_windows; i++)
        empty_window(kv, i);
    for (unsigned i = 0; i < BUCKETS; i++)
        while (kv->hash[i])
            chunk_free(kv, &kv->hash[i]);
    __builtin_memset(kv->written, 0, sizeof(kv->written));
    __builtin_memset(kv->huge, 0, sizeof(kv->huge));
    kv->nr_maps = 0;
    kv->lost = false;
}

static void recover(struct kview *kv)
{
    if (kv->lost)
        kview_reset(kv);
}

/* ---- what the page tables say ---- */

static bool usable_mode(const struct cpu *c)
{
    return (c->mode & MODE_LMA) && (c->cr4 & (CR4_PGE | CR4_LA57)) == CR4_PGE;
}

static void leaves_at(struct kview *kv, uint64_t lin, struct leaves *l)
{
    view_leaves(kv->mmu, &kv->b->iv.vc.cpu, lin, LEAF_OF_KERNEL, l);
}

/* Registers of the local APIC are no memory. */
static bool holds_apic(const struct cpu *c, uint64_t pa, unsigned shift)
{
    return (c->apic.base_msr ^ pa) >> shift == 0;
}

static bool still_good(const struct cpu *c, uint64_t now, uint64_t e, unsigned shift)
{
    if (!now || (now ^ e) & LEAF_ADDR || holds_apic(c, e & LEAF_ADDR, shift))
        return false;
    return !(e & LEAF_W) || (now & (LEAF_W | LEAF_D)) == (LEAF_W | LEAF_D);
}

/* The same of most small pages, at once. */
static bool surely_good(const struct cpu *c, const struct leaves *l, unsigned i, uint64_t e)
{
    uint64_t now = __atomic_load_n(&l->pt[i], __ATOMIC_RELAXED);

    return ((now ^ e) & (LEAF_ADDR | LEAF_P)) == 0 && (now & (LEAF_A | LEAF_U)) == LEAF_A &&
           (!(e & LEAF_W) || (l->writable && (now & (LEAF_W | LEAF_D)) == (LEAF_W | LEAF_D))) &&
           (c->efer & EFER_NXE) && !holds_apic(c, e & LEAF_ADDR, PAGE_SHIFT);
}

/* False: nothing is left of the chunk. */
static bool validate(struct kview *kv, struct kchunk *k)
{
    const struct cpu *c = &kv->b->iv.vc.cpu;
    struct leaves l;

    leaves_at(kv, k->base, &l);
    if (!(c->mode & MODE_LMA) || (c->cr4 & CR4_LA57))
        l.present = false;
    if (k->large) {
        if (!l.pt && still_good(c, view_leaf(c, &l, 0), k->large, CHUNK_SHIFT))
            return true;
        unmap(kv, k->base, CHUNK_BYTES);
        return false;
    }
    for (unsigned i = 0; i < CHUNK_PAGES && k->nr;) {
        unsigned from = i;

        if (!k->e[i] || (l.present && l.pt && surely_good(c, &l, i, k->e[i]))) {
            i++;
            continue;
        }
        while (i < CHUNK_PAGES && k->e[i] &&
               !still_good(c, view_leaf(c, &l, i), k->e[i], PAGE_SHIFT))
            i++;
        if (i > from)
            unmap_pages(kv, k, from, i);
        else
            i++;
    }
    return k->nr;
}

/*
 * A kernel's first page tables are not global, and some never are (Linux with page table
 * isolation). Then each access would come to nothing; so it is looked at whether the stack is, and
 * whether a restored machine still has its memory for itself.
 */
static void turn(struct kview *kv)
{
    struct bt_vcpu *b = kv->b;
    const struct cpu *c = &b->iv.vc.cpu;
    const struct slot *s;
    struct leaves l;
    uint64_t stack;
    bool on, has_memory;

    if (!(c->cr4 & CR4_PGE)) /* for a moment, most often: to flush all */
        return;
    kv->asks = false;
    leaves_at(kv, c->gpr[RSP], &l);
    stack = view_leaf(c, &l, (unsigned)(c->gpr[RSP] >> PAGE_SHIFT) % CHUNK_PAGES);
    on = usable_mode(c) && c->cpl == 0 && c->gpr[RSP] >= KERNEL_HALF && (stack & LEAF_G) &&
         window_of(kv, TOP_WINDOW); /* the host may have a page there that can be read: vsyscall */
    s = mmu_slot_find(kv->mmu, GPA(stack & LEAF_ADDR));
    has_memory = s && s->fd >= 0;
    if (on && (!kv->on || (has_memory && !kv->has_memory)) && ++kv->nr_on <= TURNS) {
        /* What was translated without is translated again. */
        __builtin_memset(kv->misses, 0, sizeof(kv->misses));
        bt_drop_all(b);
    }
    kv->on = on;
    kv->has_memory = has_memory;
}

/* Of the page with `at`, which may be one of 1 GB; or all. */
static void validate_all(struct kview *kv, const uint64_t *at)
{
    for (unsigned i = 0; i < BUCKETS; i++)
        for (struct kchunk **p = &kv->hash[i]; *p;)
            if ((at && ((*p)->base ^ *at) >> HUGE_SHIFT) || validate(kv, *p))
                p = &(*p)->next;
            else
                chunk_free(kv, p);
}

static void flush(struct kview *kv, const struct tlb_flush *what, bool global)
{
    const struct cpu *c = &kv->b->iv.vc.cpu;
    struct kchunk **p;

    if (!global && (c->cr4 & CR4_PCIDE)) { /* MOV CR3 may change all without a flush */
        if (kv->nr_maps)
            kview_reset(kv);
        return;
    }
    if (what->kind != FLUSH_PAGE && what->kind != FLUSH_PCID_PAGE) {
        validate_all(kv, NULL);
        turn(kv);
        return;
    }
    if (*huge_note(kv, what->at.v)) {
        validate_all(kv, &what->at.v);
        return;
    }
    p = chunk_slot(kv, what->at.v);
    if (*p && !validate(kv, *p))
        chunk_free(kv, p);
}

void bt_kview_switched(struct bt_vcpu *b)
{
    struct kview *kv = b->kview;

    if (!kv || !(kv->nr_local || kv->asks))
        return;
    bt_vectors_out(b);
    if (kv->asks)
        turn(kv);
    for (unsigned i = kv->nr_local; i-- > 0;)
        if (!validate(kv, kv->local[i]))
            chunk_free(kv, chunk_slot(kv, kv->local[i]->base));
    recover(kv);
}

void bt_kview_flush(struct bt_vcpu *b, const struct tlb_flush *what)
{
    bool global = b->iv.vc.cpu.cr4 & CR4_PGE; /* else all flushes are for what is mapped */
    struct kview *kv = b->kview;

    if (!kv)
        return;
    if (global && (what->kind == FLUSH_NONGLOBAL || what->kind == FLUSH_PCID)) {
        bt_kview_switched(b);
        return;
    }
    bt_vectors_out(b);
    flush(kv, what, global);
    recover(kv);
}

/* ---- writing ---- */

/* With several vCPUs each page would have to be asked for by whoever finds code in it. */
static bool writes(const struct kview *kv)
{
    return !kv->b->iv.vm->share;
}

static bool may_write(const struct kview *kv, struct slot *s, uint64_t pa)
{
    return writes(kv) && !(s->flags & SLOT_RO) && page_claim_write(&kv->b->iv, s, GPA(pa));
}

static void shut(struct kview *kv, struct kchunk *k, unsigned from, unsigned to)
{
    for (unsigned i = from; i < to; i++)
        k->shut[i / 64] |= BIT64(i % 64);
    kv->nr_maps += 2;
    if (mprotect(window_of(kv, k->base + from * PAGE_BYTES), (to - from) * PAGE_BYTES, PROT_READ) <
        0)
        empty_all(kv);
}

static bool is_shut(const struct kchunk *k, unsigned i)
{
    return k->shut[i / 64] >> (i % 64) & 1;
}

void bt_kview_protect(struct bt_vcpu *b, uint64_t page)
{
    struct kview *kv = b->kview;
    uint64_t pa = page << PAGE_SHIFT, bit;
    unsigned i = page % CHUNK_PAGES;

    if (!kv)
        return;
    for (struct kchunk *k = *pa_bucket(kv, pa); k; k = k->next_pa)
        if ((k->large ^ pa) >> CHUNK_SHIFT == 0 && (k->large & LEAF_W) && !is_shut(k, i))
            shut(kv, k, i, i + 1);
    for (i = 0; i < BUCKETS && (*written_word(kv, page, &bit) & bit); i++)
        for (struct kchunk *k = kv->hash[i]; k; k = k->next)
            for (unsigned j = 0; !k->large && j < CHUNK_PAGES; j++)
                if ((k->e[j] & LEAF_W) && (k->e[j] & LEAF_ADDR) == pa)
                    unmap_pages(kv, k, j, j + 1);
    recover(kv);
}

/* ---- filling ---- */

static bool map(struct kview *kv, uint64_t lin, uint64_t bytes, struct slot *s, uint64_t pa,
                bool write)
{
    void *at = window_of(kv, lin);

    if (mmap(at, bytes, write ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED | MAP_FIXED, s->fd,
             (off_t)(s->fd_off_bytes + (pa - s->base.v))) == MAP_FAILED) {
        empty_all(kv); /* nothing else must ever come to lie in a window */
        return false;
    }
    (void)madvise(at, bytes, MADV_DONTDUMP);
    (void)madvise(at, bytes, MADV_DONTFORK);
    kv->nr_maps += 2;
    return true;
}

/* False: there is no room for more. */
static bool note_local(struct kview *kv, struct kchunk *k)
{
    if (k->local)
        return true;
    if (kv->nr_local == MAX_LOCAL)
        return false;
    k->local = true;
    kv->local[kv->nr_local++] = k;
    return true;
}

static struct kchunk *chunk_new(struct kview *kv, uint64_t lin, bool large)
{
    struct kchunk **p = chunk_slot(kv, lin), *k;

    k = calloc(1, sizeof(*k) + (large ? 0 : CHUNK_PAGES * sizeof(k->e[0])));
    if (!k)
        return NULL;
    k->base = align_down(lin, CHUNK_BYTES);
    *p = k;
    return k;
}

/* All of a large page's 2 MB. */
static bool fill_large(struct kview *kv, struct slot *s, uint64_t lin, uint64_t leaf)
{
    uint64_t pa = leaf & LEAF_ADDR;
    bool write = (leaf & LEAF_W) && (leaf & LEAF_D) && writes(kv) && !(s->flags & SLOT_RO);
    struct kchunk *k = chunk_new(kv, lin, true), **q = pa_bucket(kv, pa);

    if (!k)
        return false;
    k->large = pa | LEAF_P | (write ? LEAF_W : 0);
    k->next_pa = *q;
    *q = k;
    if ((!(leaf & LEAF_G) && !note_local(kv, k)) || !map(kv, k->base, CHUNK_BYTES, s, pa, write)) {
        chunk_free(kv, chunk_slot(kv, lin));
        return false;
    }
    for (unsigned i = 0, from; write && i < CHUNK_PAGES; i++) {
        for (from = i; i < CHUNK_PAGES && !may_write(kv, s, pa + i * PAGE_BYTES); i++)
            ;
        if (i > from)
            shut(kv, k, from, i);
    }
    return true;
}

/* A page of a large one is written that was shut. */
static bool open_page(struct kview *kv, struct kchunk *k, struct slot *s, unsigned i)
{
    if (!may_write(kv, s, (k->large & LEAF_ADDR) + i * PAGE_BYTES))
        return false;
    k->shut[i / 64] &= ~BIT64(i % 64);
    kv->nr_maps++;
    return mprotect(window_of(kv, k->base + i * PAGE_BYTES), PAGE_BYTES, PROT_READ | PROT_WRITE) ==
           0;
}

/* A small page as it would be mapped; 0: not. */
static uint64_t wish(struct kview *kv, const struct kchunk *k, const struct leaves *l, unsigned i,
                     struct slot **s)
{
    struct cpu *c = &kv->b->iv.vc.cpu;
    uint64_t leaf = view_leaf(c, l, i), pa = leaf & LEAF_ADDR;

    if (!leaf || (!(leaf & LEAF_G) && !k->local))
        return 0;
    *s = mmu_slot_find(kv->mmu, GPA(pa));
    if (!*s || (*s)->fd < 0 || holds_apic(c, pa, PAGE_SHIFT))
        return 0;
    if ((leaf & LEAF_W) && (leaf & LEAF_D) && may_write(kv, *s, pa) && !view_must_see(*s, pa))
        return pa | LEAF_P | LEAF_W;
    return pa | LEAF_P;
}

static bool fill_pages(struct kview *kv, uint64_t lin, const struct leaves *l)
{
    unsigned idx = (unsigned)(lin >> PAGE_SHIFT) % CHUNK_PAGES, from = idx & ~(AROUND - 1), to;
    struct kchunk *k = *chunk_slot(kv, lin);

    if (!k)
        k = chunk_new(kv, lin, false);
    if (!k || (!(view_leaf(&kv->b->iv.vc.cpu, l, idx) & LEAF_G) && !note_local(kv, k)))
        return false;
    for (unsigned end = from + AROUND; from < end; from = to) {
        struct slot *s, *next;
        uint64_t e = wish(kv, k, l, from, &s), bit;

        to = from + 1;
        if (!e || k->e[from] == e)
            continue;
        while (to < end && wish(kv, k, l, to, &next) == e + (to - from) * PAGE_BYTES && next == s)
            to++;
        if (!map(kv, k->base + from * PAGE_BYTES, (to - from) * PAGE_BYTES, s, e & LEAF_ADDR,
                 e & LEAF_W))
            return false;
        for (unsigned i = from; i < to; i++, e += PAGE_BYTES) {
            k->nr += !k->e[i];
            k->e[i] = e;
            if (e & LEAF_W)
                *written_word(kv, e >> PAGE_SHIFT, &bit) |= bit;
        }
    }
    return k->e[idx];
}

/* Is all of a large page's 2 MB memory of one kind? */
static bool is_plain(const struct cpu *c, const struct slot *s, uint64_t pa)
{
    return pa >= s->base.v && pa + CHUNK_BYTES <= s->base.v + s->bytes &&
           !holds_apic(c, pa, CHUNK_SHIFT);
}

/* Maps what the access wants, if the view is for it. */
static bool fill(struct kview *kv, uint64_t lin, bool write)
{
    struct cpu *c = &kv->b->iv.vc.cpu;
    struct walk w = { .at = GVA(lin), .acc = write ? ACC_WRITE : ACC_READ };
    unsigned idx = (unsigned)(lin >> PAGE_SHIFT) % CHUNK_PAGES;
    struct kchunk **p;
    struct leaves l;
    struct slot *s;
    uint64_t leaf;

    if (cpu_walk(c, &w) != STEP_NEXT) {
        c->exc.valid = false; /* the instruction itself will raise it */
        return false;
    }
    if (w.user)
        return false;
    s = mmu_slot_find(kv->mmu, w.pa);
    if (!s || s->fd < 0 || holds_apic(c, w.pa.v, PAGE_SHIFT) || !window_of(kv, lin))
        return false;
    if (write && !may_write(kv, s, w.pa.v))
        return false;
    if (write && (s->flags & SLOT_LOG_DIRTY))
        s->notes[slot_page(s, w.pa)] |= PAGE_NOTE_DIRTY;
    leaves_at(kv, lin, &l);
    leaf = view_leaf(c, &l, idx);
    /* Another vCPU may have changed it since; and with CR0.WP clear what is written may be
     * read-only. */
    if (!leaf || (leaf ^ w.pa.v) & LEAF_ADDR)
        return false;
    if (write && (leaf & (LEAF_W | LEAF_D)) != (LEAF_W | LEAF_D))
        return false;
    if (kv->nr_maps > MAX_MAPS / kv->b->iv.vm->evm.cfg.model->nr_cpus)
        kview_reset(kv);
    p = chunk_slot(kv, lin);
    if (*p && (*p)->large) {
        if (validate(kv, *p) && (!write || ((*p)->large & LEAF_W)))
            return !write || !is_shut(*p, idx) || open_page(kv, *p, s, idx);
        unmap(kv, (*p)->base, CHUNK_BYTES);
        chunk_free(kv, p);
        p = chunk_slot(kv, lin);
    }
    if (w.shift == HUGE_SHIFT)
        *huge_note(kv, lin) = true;
    /* Under the dirty log each page's first write is to be seen. */
    if (!*p && !l.pt && !(s->flags & SLOT_LOG_DIRTY) &&
        is_plain(c, s, view_leaf(c, &l, 0) & LEAF_ADDR))
        return fill_large(kv, s, lin, view_leaf(c, &l, 0));
    return fill_pages(kv, lin, &l);
}

bool bt_kview_is_on(const struct bt_vcpu *b)
{
    return b->kview && b->kview->on && usable_mode(&b->iv.vc.cpu);
}

bool bt_kview_lacks_memory(const struct bt_vcpu *b)
{
    return bt_kview_is_on(b) && !b->kview->has_memory;
}

bool bt_kview_trap(struct bt_vcpu *b, const struct site *s)
{
    const struct tb *tb = bt_tb_of(s);
    struct kview *kv = b->kview;
    uint64_t at = (tb->gpa & PAGE_MASK) + s->off, lin;
    uint8_t *misses = miss_count(kv, at);
    bool filled;

    bt_vectors_out(b);
    kv->nr_again = kv->last == s ? kv->nr_again + 1 : 0;
    kv->last = s;
    if (kv->nr_again < AGAIN && b->region.page_fault &&
        guest_address(kv, b->region.fault_at, &lin) && bt_kview_is_on(b)) {
        filled = fill(kv, lin, b->region.error & 2);
        recover(kv);
        if (filled)
            return true;
    }
    if (*misses < MISSES)
        ++*misses;
    if (*misses == MISSES) /* or was so by another of the same hash */
        (void)bt_drop(b, GPA(at), s->len);
    return false;
}

bool bt_kview_wants(const struct trans *t, unsigned off, bool write)
{
    struct kview *kv = t->b->kview;

    /* What is fluid or in two pages is not found by its place, to be made anew without. */
    if (!bt_kview_is_on(t->b) || !kv->has_memory || (write && !writes(kv)) || t->tb->cross_len ||
        t->tb->fluid || (t->key & (KEY_USER | KEY_AC)) || !bt_long64(t))
        return false;
    return *miss_count(kv, (t->tb->gpa & PAGE_MASK) + off) < MISSES;
}

static void give_back(struct kview *kv, unsigned i)
{
    kv->b->windows[table_index(kv->windows[i].lin)] = 0;
    (void)munmap(kv->windows[i].at, WINDOW_BYTES + BT_WINDOW_GUARD);
    kv->windows[i] = kv->windows[--kv->nr_windows];
}

void bt_kview_reset(struct bt_vcpu *b)
{
    struct kview *kv = b->kview;

    if (!kv)
        return;
    kview_reset(kv);
    kv->asks = true;
    /* The next kernel's addresses may be others; the top is the same in all. */
    for (unsigned i = kv->nr_windows > MAX_WINDOWS / 2 ? kv->nr_windows : 0; i-- > 0;)
        if (kv->windows[i].lin != TOP_WINDOW)
            give_back(kv, i);
}

void bt_kview_create(struct bt_vcpu *b)
{
    struct kview *kv = calloc(1, sizeof(*kv));

    if (!kv) /* all goes by the software TLB */
        return;
    kv->b = b;
    kv->mmu = b->iv.vm->evm.cfg.mmu;
    tables_init(b);
    b->kview = kv;
}

void bt_kview_destroy(struct bt_vcpu *b)
{
    struct kview *kv = b->kview;

    if (!kv)
        return;
    kview_reset(kv);
    while (kv->nr_windows)
        give_back(kv, 0);
    free(kv);
    b->kview = NULL;
}
