/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker's view: which guest pages its address space holds, kept as a virtual TLB.
 *
 * A page is in the view when the worker has the RAM's memfd mapped at the guest's own address, with
 * no more rights than the guest's page tables give CPL 3 (and D gives for writing), and never
 * executable: what runs are translations. It may always be incomplete; it is never stale when the
 * worker runs, because the guest's flushes are applied before.
 */
#ifndef ENGINE_BT_DIRECT_VIEW_H
#define ENGINE_BT_DIRECT_VIEW_H

#include "cpu/cpu.h"
#include "mmu/mmu.h"

struct worker;
struct code;
struct chunk;

#define VIEW_BUCKETS   256
#define VIEW_NOTE_BITS 65536

struct view {
    struct worker *w;
    struct mmu *mmu;
    const struct code *code; /* pages it holds translations of are never writable */
    struct chunk *hash[VIEW_BUCKETS];
    unsigned nr_chunks;
    unsigned nr_maps; /* upper bound of the worker's VMAs */
    uint64_t nr_pages;
    uint64_t filled_to;                    /* end of the last window */
    unsigned window;                       /* its pages */
    uint64_t written[VIEW_NOTE_BITS / 64]; /* by hash of the guest page: may be mapped writable */
};

enum fill {
    FILL_DONE,  /* queued; the worker can go on at the same instruction */
    FILL_FAULT, /* a true fault: #PF is pending in c->exc */
    FILL_NEVER, /* this access is not for the view: interp makes it */
    FILL_CODE,  /* as FILL_NEVER, a store to a page with code */
    FILL_DEAD,  /* the worker failed */
};

void view_init(struct view *vw, struct worker *w, struct mmu *mmu, const struct code *code);
/* Frees what is known; the worker's mappings are the caller's matter. */
void view_forget(struct view *vw);

enum fill view_fill(struct view *vw, struct cpu *c, uint64_t lin, bool write);
/* Fills if the page tables allow the access already; never faults. */
int view_prefill(struct view *vw, struct cpu *c, uint64_t lin, bool write) MUST_CHECK;
/* The four below queue commands; -errno when the worker failed. */
int view_drop(struct view *vw) MUST_CHECK;
/* Takes out what the page tables no longer give. */
int view_validate(struct view *vw, struct cpu *c) MUST_CHECK;
int view_validate_page(struct view *vw, struct cpu *c, uint64_t lin) MUST_CHECK;
/* The guest-physical page must not be writable any more. */
int view_protect(struct view *vw, uint64_t page) MUST_CHECK;

/* Is the first write to the page to be seen, for the dirty log? */
static inline bool view_must_see(const struct slot *s, uint64_t pa)
{
    return (s->flags & SLOT_LOG_DIRTY) && !slot_page_dirty(s, slot_page(s, GPA(pa)));
}

/* Whose pages are looked for: what CPL 3 may reach, or what only the kernel may, if it is global.
 */
enum leaf_of { LEAF_OF_USER, LEAF_OF_KERNEL };
/* A guest's 2 MB region: its page table, or the large page that stands for one. */
struct leaves {
    enum leaf_of of;
    const uint64_t *pt; /* in RAM, changes under our hands */
    uint64_t large;     /* else: physical address of the region, with the leaf's flags */
    bool present, writable, exec, user;
};
/* What may be reached by way of the upper levels; touches nothing. */
void view_leaves(struct mmu *mmu, struct cpu *c, uint64_t lin, enum leaf_of of, struct leaves *out);
/* The entry for page idx of the region with the rights combined, 0 if it is none of those or not
 * accessed yet. Bits as in a PTE: P, W, D, G, NX and the address. */
uint64_t view_leaf(const struct cpu *c, const struct leaves *l, unsigned idx);
#define LEAF_P    BIT64(0)
#define LEAF_W    BIT64(1)
#define LEAF_U    BIT64(2) /* in the tables alone, as A */
#define LEAF_A    BIT64(5)
#define LEAF_D    BIT64(6)
#define LEAF_PS   BIT64(7) /* of an entry of an upper level */
#define LEAF_G    BIT64(8)
#define LEAF_NX   BIT64(63)
#define LEAF_ADDR 0x000ffffffffff000ull
#define LARGE_PAT                                                                   \
    0x1000ull /* of a large page; its other bits below the page's size are reserved \
               */

#endif
