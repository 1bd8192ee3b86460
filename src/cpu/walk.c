/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The page walk of every paging mode: none, 32-bit, PAE, 4-level and 5-level (SDM 3, "Paging").
 *
 * One loop descends through whatever number of levels the mode has. Entries on the way get their
 * accessed flag as they are used; the last one gets accessed and dirty only when the access is
 * allowed. Engines cache what comes out of here and call again when a right they need was not in
 * it.
 */
#include "cpu/cpu.h"

#define PTE_P      BIT64(0)
#define PTE_W      BIT64(1)
#define PTE_U      BIT64(2)
#define PTE_A      BIT64(5)
#define PTE_D      BIT64(6)
#define PTE_PS     BIT64(7) /* level 2 and up; in a page table it is PAT */
#define PTE_PAT    BIT64(7)
#define PTE_G      BIT64(8)
#define PTE_PAT_LG BIT64(12) /* PAT of a large page */
#define PTE_NX     BIT64(63)
#define ADDR_MASK  0x000ffffffffff000ull

/* Levels are numbered from the page table up. */
enum level { PT = 1, PD = 2, PDPT = 3, PML4 = 4, PML5 = 5 };

enum paging { PAGING_32, PAGING_PAE, PAGING_LONG };

enum outcome {
    WALK_FOUND,
    WALK_ABSENT,
    WALK_RESERVED,
    WALK_AGAIN, /* an entry changed while its accessed flag was being set */
};

/* A walk under way; at the end it describes the leaf. */
struct path {
    enum paging kind;
    unsigned level;
    gpa_t at;       /* of the entry */
    uint64_t entry; /* its value, at last the leaf */
    uint64_t pa;    /* of the address that was asked for */
    unsigned shift;
    bool touch; /* set accessed flags */
    bool user, writable, nx;
};

static unsigned entry_bytes(const struct path *p)
{
    return p->kind == PAGING_32 ? 4 : 8;
}

static unsigned level_shift(const struct path *p)
{
    return PAGE_SHIFT + (p->level - 1) * (p->kind == PAGING_32 ? 10 : 9);
}

static bool is_leaf(const struct cpu *c, const struct path *p)
{
    if (p->level == PT)
        return true;
    if (!(p->entry & PTE_PS))
        return false;
    if (p->kind == PAGING_32)
        return c->cr4 & CR4_PSE;
    return p->level == PD || (p->level == PDPT && model_has(c->model, FEAT_PDPE1GB));
}

/*
 * SDM 3, "32-Bit Paging": without CR4.PSE nothing is reserved. A 4 MB page's bits 20:13 are address
 * bits 39:32 (PSE-36), as far as the processor has these; bit 21 never is one.
 */
static uint64_t reserved_32(const struct cpu *c, const struct path *p, bool leaf)
{
    unsigned m = MIN(c->model->phys_bits, 40);

    if (p->level != PD || !leaf)
        return 0;
    if (!model_has(c->model, FEAT_PSE36) || m <= 32)
        return 0x3fe000;
    return 0x3fe000 & ~((BIT64(m - 32) - 1) << 13);
}

/* SDM 3, "Reserved bits" of each entry format; APM 2, "Long-Mode Page-Translation". */
static uint64_t reserved_64(const struct cpu *c, const struct path *p, bool leaf)
{
    uint64_t mask = ADDR_MASK & ~(BIT64(c->model->phys_bits) - 1);

    if (!(c->efer & EFER_NXE))
        mask |= PTE_NX;
    if (p->kind == PAGING_PAE)
        mask |= 0x7ff0000000000000ull; /* in long mode these are the software's */
    if (leaf)
        return p->level == PT ? mask : mask | ((BIT64(p->shift) - 1) & ~0x1fffull);
    if (p->kind == PAGING_LONG && p->level >= PDPT) {
        mask |= PTE_PS; /* a 1 GB page was sorted out before, if there are any */
        /* APM 2: G is MBZ in the upper levels. On Intel it is ignored. */
        if (c->model->vendor == VENDOR_AMD)
            mask |= PTE_G;
    }
    return mask;
}

/* Sets flag bits in the current entry. False: it was changed by somebody else meanwhile. */
static bool set_flags(struct cpu *c, struct path *p, uint64_t flags)
{
    uint64_t want = p->entry | flags, old = p->entry;
    unsigned bytes = entry_bytes(p);

    if (want == old)
        return true;
    p->entry = want;
    if (c->ops->phys_cas(c, p->at, old, want, bytes))
        return true;
    /* Tables that cannot be written (ROM, nothing at all) keep no flags; that is no reason to try
     * for ever. */
    return c->ops->phys_read(c, p->at, bytes) == old;
}

/* SDM 3, "PAE Paging": the first level is in registers that MOV CR3 loaded, and has no rights. */
static enum outcome start_pae(const struct cpu *c, struct path *p, uint64_t lin, uint64_t *table)
{
    uint64_t pdpte = c->pdpte[bits(lin, 31, 30)];

    if (!(pdpte & PTE_P))
        return WALK_ABSENT;
    *table = pdpte & ADDR_MASK;
    p->level = PD;
    return WALK_FOUND;
}

static enum outcome start(const struct cpu *c, struct path *p, uint64_t lin, uint64_t *table)
{
    p->user = p->writable = true;
    p->nx = false;
    if (!(c->cr4 & CR4_PAE)) {
        p->kind = PAGING_32;
        p->level = PD;
        *table = c->cr3 & 0xfffff000;
        return WALK_FOUND;
    }
    if (!(c->efer & EFER_LMA)) {
        p->kind = PAGING_PAE;
        return start_pae(c, p, lin, table);
    }
    p->kind = PAGING_LONG;
    p->level = c->cr4 & CR4_LA57 ? PML5 : PML4;
    *table = c->cr3 & ADDR_MASK;
    return WALK_FOUND;
}

static uint64_t leaf_address(const struct path *p, uint64_t lin)
{
    uint64_t low = BIT64(p->shift) - 1, base = p->entry & ADDR_MASK;

    if (p->kind == PAGING_32 && p->level == PD)
        base = (p->entry & 0xffc00000) | bits(p->entry, 20, 13) << 32;
    return (base & ~low) | (lin & low);
}

/* One level: reads the entry and judges it. *table becomes the next table. */
static enum outcome descend(struct cpu *c, struct path *p, uint64_t lin, uint64_t *table)
{
    unsigned bytes = entry_bytes(p);
    uint64_t idx, reserved;
    bool leaf;

    p->shift = level_shift(p);
    idx = lin >> p->shift & (PAGE_BYTES / bytes - 1);
    p->at = GPA(*table + idx * bytes);
    p->entry = c->ops->phys_read(c, p->at, bytes);
    if (!(p->entry & PTE_P))
        return WALK_ABSENT;
    leaf = is_leaf(c, p);
    reserved = p->kind == PAGING_32 ? reserved_32(c, p, leaf) : reserved_64(c, p, leaf);
    if (p->entry & reserved)
        return WALK_RESERVED;
    p->user &= !!(p->entry & PTE_U);
    p->writable &= !!(p->entry & PTE_W);
    p->nx |= p->kind != PAGING_32 && (p->entry & PTE_NX);
    if (leaf) {
        p->pa = leaf_address(p, lin);
        p->level = 0;
        return WALK_FOUND;
    }
    if (p->touch && !set_flags(c, p, PTE_A))
        return WALK_AGAIN;
    *table = p->entry & ADDR_MASK;
    p->level--;
    return WALK_FOUND;
}

static enum outcome find_leaf(struct cpu *c, struct path *p, uint64_t lin)
{
    uint64_t table;
    enum outcome found = start(c, p, lin, &table);

    while (found == WALK_FOUND && p->level)
        found = descend(c, p, lin, &table);
    return found;
}

static bool as_user(const struct cpu *c, unsigned acc)
{
    if (acc & ACC_USER)
        return true;
    return is_user(c) && !(acc & (ACC_SUPER | ACC_IMPLICIT));
}

/* SDM 3, "Access Rights". */
static bool allowed(const struct cpu *c, const struct path *p, unsigned acc)
{
    bool user = as_user(c, acc);

    if (user && !p->user)
        return false;
    if (acc & ACC_EXEC)
        return !p->nx && (user || !p->user || !(c->cr4 & CR4_SMEP));
    if (!user && p->user && (c->cr4 & CR4_SMAP) &&
        ((acc & ACC_IMPLICIT) || !(c->rflags & RFLAGS_AC)))
        return false;
    if (!(acc & ACC_WRITE) || p->writable)
        return true;
    return !user && !(c->cr0 & CR0_WP);
}

/* SDM 3, "Page-Fault Exceptions". I/D is only told when there is something that forbids fetches. */
static enum step walk_fault(struct cpu *c, const struct walk *w, uint32_t err)
{
    if (w->acc & ACC_WRITE)
        err |= PF_W;
    if (as_user(c, w->acc))
        err |= PF_U;
    if ((w->acc & ACC_EXEC) &&
        ((c->cr4 & CR4_SMEP) || ((c->cr4 & CR4_PAE) && (c->efer & EFER_NXE))))
        err |= PF_I;
    return raise_pf(c, w->at, err);
}

static uint64_t pat_index(const struct path *p)
{
    uint64_t pat = p->shift == PAGE_SHIFT ? PTE_PAT : PTE_PAT_LG;

    return bits(p->entry, 4, 3) | (p->entry & pat ? 4 : 0);
}

static uint64_t linear(const struct cpu *c, gva_t at)
{
    return c->efer & EFER_LMA ? at.v : (uint32_t)at.v;
}

static void walk_unpaged(struct walk *w, uint64_t lin)
{
    w->pa = GPA(lin);
    w->shift = PAGE_SHIFT;
    w->user = w->writable = w->exec = w->dirty = true;
    w->global = false;
    w->pat = 0;
}

enum step cpu_walk(struct cpu *c, struct walk *w)
{
    struct path p = { .touch = true };
    uint64_t lin = linear(c, w->at);
    enum outcome found;

    if (!(c->cr0 & CR0_PG)) {
        walk_unpaged(w, lin);
        return STEP_NEXT;
    }
    /* Callers check data addresses with their segment; this is for those that do not, as a fetch
     * after SYSRET to a bad RCX on AMD. */
    if ((c->efer & EFER_LMA) && !is_canonical(c, lin))
        return raise_gp(c, 0);
    do {
        found = find_leaf(c, &p, lin);
        if (found == WALK_ABSENT)
            return walk_fault(c, w, 0);
        if (found == WALK_RESERVED)
            return walk_fault(c, w, PF_P | PF_RSVD);
        if (found == WALK_FOUND && !allowed(c, &p, w->acc))
            return walk_fault(c, w, PF_P);
        if (found == WALK_FOUND && !set_flags(c, &p, w->acc & ACC_WRITE ? PTE_A | PTE_D : PTE_A))
            found = WALK_AGAIN;
    } while (found == WALK_AGAIN);

    w->pa = GPA(p.pa);
    w->shift = p.shift;
    w->user = p.user;
    w->writable = p.writable;
    w->exec = !p.nx;
    w->global = (p.entry & PTE_G) && (c->cr4 & CR4_PGE);
    w->dirty = p.entry & PTE_D;
    w->pat = pat_index(&p);
    return STEP_NEXT;
}

bool cpu_peek_walk(struct cpu *c, gva_t at, gpa_t *pa)
{
    struct path p = { .touch = false };
    uint64_t lin = linear(c, at);

    if (!(c->cr0 & CR0_PG)) {
        *pa = GPA(lin);
        return true;
    }
    if ((c->efer & EFER_LMA) && !is_canonical(c, lin))
        return false;
    if (find_leaf(c, &p, lin) != WALK_FOUND)
        return false;
    *pa = GPA(p.pa);
    return true;
}
