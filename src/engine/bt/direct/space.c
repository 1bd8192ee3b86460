/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Spaces: which worker stands for the guest's present address space, and what it has to hear before
 * it may run.
 *
 * A space is found by the root of the guest's page tables, not by PCID: that is what a process
 * keeps. The PCID says which flushes are for it; a space that comes to run under another one is
 * looked at as a whole.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "engine/bt/direct/internal.h"
#include "engine/bt/direct/layout.h"
#include "engine/interp/interp.h"
#include "host/host.h"

#define ARCH_SET_GS 0x1001
#define ARCH_SET_FS 0x1002

/*
 * Where homes are tried: below the code that runs, so that its RIP-relative operands are in reach
 * of translations (a load or store that way: 1.7 times native with a scratch register, 1.0
 * without); else, and for code that lies low enough for absolute operands, in whole PML4 slots.
 * Guests' programs lie in the lowest and the highest of these.
 */
#define FIRST_SLOT 2
#define LAST_SLOT  200
#define SLOT_SHIFT 39
#define NR_NEAR    4
#define NEAR_STEP  MIB(256)
#define PDPT_SHIFT 30
#define PD_SHIFT   21

#define NO_ROOT 1 /* of a space whose process is gone */

static uint64_t root_of(const struct cpu *c)
{
    return c->cr3 & LEAF_ADDR;
}

static uint16_t pcid_of(const struct cpu *c)
{
    return c->cr4 & CR4_PCIDE ? (uint16_t)(c->cr3 & CR3_PCID_MASK) : 0;
}

/* ---- the home's place ---- */

/* An entry of a guest's page table; 1 (present) where there is no RAM to read it from. */
static uint64_t guest_entry(struct direct *d, uint64_t table, uint64_t idx)
{
    const struct slot *s = mmu_slot_find(d->v->vc.evm->cfg.mmu, GPA(table & LEAF_ADDR));
    uint64_t e;

    if (!s)
        return LEAF_P;
    memcpy(&e, slot_hva(s, GPA(table & LEAF_ADDR)) + 8 * (idx & 511), sizeof(e));
    return e;
}

/* Does the guest have nothing where the home is, or would be? Homes do not cross 1 GB borders. */
static bool home_free(struct direct *d, uint64_t home)
{
    uint64_t e = guest_entry(d, root_of(&d->v->vc.cpu), home >> SLOT_SHIFT);

    if (!(e & LEAF_P))
        return true;
    e = guest_entry(d, e, home >> PDPT_SHIFT);
    if (!(e & LEAF_P))
        return true;
    if (e & LEAF_PS)
        return false;
    for (uint64_t at = home; at < home + HOME_BYTES; at += BIT64(PD_SHIFT))
        if (guest_entry(d, e, at >> PD_SHIFT) & LEAF_P)
            return false;
    return true;
}

/* The n-th place to try, 0: no more. */
static uint64_t home_at(struct direct *d, unsigned n)
{
    uint64_t rip = d->v->vc.cpu.rip, at;

    if (n >= NR_NEAR)
        return n - NR_NEAR <= LAST_SLOT - FIRST_SLOT
                   ? (uint64_t)(FIRST_SLOT + n - NR_NEAR) << SLOT_SHIFT
                   : 0;
    if (rip < GIB(4))
        return home_at(d, NR_NEAR + n);
    at = align_down(rip - GIB(1) - n * NEAR_STEP, BIT64(PD_SHIFT));
    if ((at ^ (at + HOME_BYTES)) >> PDPT_SHIFT)
        at -= HOME_BYTES;
    return at;
}

/* ---- making ---- */

static unsigned list_fds(struct direct *d, int fds[WORKER_MAX_FDS])
{
    struct mmu *mmu = d->v->vc.evm->cfg.mmu;
    const struct slot *s;
    unsigned nr = 0;

    for (unsigned i = 0; (s = mmu_slot_at(mmu, i)) != NULL && nr < WORKER_MAX_FDS; i++) {
        bool known = s->fd < 0; /* private: no worker can have it */

        for (unsigned j = 0; j < nr; j++)
            known |= fds[j] == s->fd;
        if (!known)
            fds[nr++] = s->fd;
    }
    return nr;
}

static bool make_worker(struct direct *d, struct space *s)
{
    char why[160] = "no free address range";
    struct worker_desc desc = { .fds = s->fds };
    unsigned tries = 0;

    s->nr_fds = desc.nr_fds = list_fds(d, s->fds);
    for (unsigned n = 0; (desc.home = home_at(d, n)) != 0 && tries < 3; n++) {
        if (!home_free(d, desc.home) || !worker_place_free(desc.home))
            continue;
        tries++;
        if (worker_create(&s->w, &desc, why, sizeof(why)) < 0)
            continue;
        dcode_init(&s->code, &s->w, d->v, d);
        view_init(&s->view, &s->w, d->v->vc.evm->cfg.mmu, &s->code);
        s->flush_all = false;
        s->nr_flushes = 0;
        s->fs_base = s->gs_base = UINT64_MAX;
        s->cpu = -1;
        d->stats.nr_workers++;
        return true;
    }
    log_warn("bt: the direct tier is off: %s", why);
    d->broken = true;
    return false;
}

static void drop_worker(struct space *s)
{
    if (!s->w.hva)
        return;
    view_forget(&s->view);
    dcode_destroy(&s->code);
    worker_destroy(&s->w);
}

void space_destroy(struct direct *d, struct space *s)
{
    for (unsigned i = 0; i < NR_SPACES; i++)
        if (d->spaces[i] == s)
            d->spaces[i] = NULL;
    drop_worker(s);
    free(s);
}

/* ---- finding ---- */

/* The page at lin, by the tables at root, as guest-physical address; 0: none. */
static uint64_t page_at(struct direct *d, uint64_t root, uint64_t lin)
{
    uint64_t e = root | LEAF_P;

    for (unsigned shift = SLOT_SHIFT; shift >= PAGE_SHIFT; shift -= 9) {
        e = guest_entry(d, e, lin >> shift);
        if (!(e & LEAF_P))
            return 0;
        if (shift > PAGE_SHIFT && shift < SLOT_SHIFT && (e & LEAF_PS))
            return align_down(e & LEAF_ADDR, BIT64(shift)) | (lin & (BIT64(shift) - 1) & PAGE_MASK);
    }
    return e & LEAF_ADDR;
}

static bool vpage_at(struct direct *d, uint64_t root, const struct code_vpage *p)
{
    return page_at(d, root, p->lin) == p->page << PAGE_SHIFT;
}

/* Is its process gone? A kernel takes the mappings out when a process ends. */
static bool is_gone(struct direct *d, const struct space *s)
{
    if (s->root == NO_ROOT)
        return true;
    return s->w.hva && s->code.nr_vpages && !vpage_at(d, s->root, &s->code.vpages[0]);
}

/* A space whose process is gone and ran the program that this one runs, at the same place. */
static struct space *find_same(struct direct *d)
{
    uint64_t root = root_of(&d->v->vc.cpu);
    unsigned most = 0;
    struct space *found = NULL;

    for (unsigned i = 0; i < NR_SPACES; i++) {
        struct space *s = d->spaces[i];
        unsigned nr = 0;

        if (!s || !s->w.hva || !is_gone(d, s))
            continue;
        for (uint32_t j = 0; j < MIN(s->code.nr_vpages, 128); j++)
            nr += vpage_at(d, root, &s->code.vpages[j]);
        if (nr > most) {
            most = nr;
            found = s;
        }
    }
    return found;
}

/* The space forgets its guest process; its worker is kept, and so are translations of what other
 * processes may have as well. */
static struct space *recycle(struct space *s)
{
    if (s->w.hva)
        dcode_sleep(&s->code);
    if (s->w.hva && (s->dead || view_drop(&s->view) < 0))
        drop_worker(s);
    s->flush_all = s->banned = false;
    s->dead = false;
    s->nr_flushes = 0;
    s->banned_until_ns = 0;
    return s;
}

static struct space *least_used(struct direct *d)
{
    struct space *s = d->spaces[0];

    for (unsigned i = 1; i < NR_SPACES; i++)
        if (d->spaces[i]->last < s->last)
            s = d->spaces[i];
    return s;
}

static struct space *find(struct direct *d)
{
    uint64_t root = root_of(&d->v->vc.cpu);
    struct space **room = NULL, *s;

    for (unsigned i = 0; i < NR_SPACES; i++) {
        if (!d->spaces[i])
            room = room ? room : &d->spaces[i];
        else if (d->spaces[i]->root == root && !is_gone(d, d->spaces[i]))
            return d->spaces[i];
        else if (d->spaces[i]->root == root)
            d->spaces[i]->root = NO_ROOT;
    }
    s = find_same(d);
    if (s) {
        s = recycle(s);
    } else if (room) {
        s = *room = calloc(1, sizeof(*s));
        if (!s)
            return NULL;
    } else {
        s = recycle(least_used(d));
    }
    s->root = root;
    s->pcid = pcid_of(&d->v->vc.cpu);
    return s;
}

/* ---- what has happened since it ran ---- */

static int apply_flushes(struct direct *d, struct space *s)
{
    struct cpu *c = &d->v->vc.cpu;
    int rc = 0;

    if (s->pcid != pcid_of(c))
        s->flush_all = true;
    s->pcid = pcid_of(c);
    if (s->flush_all) {
        dcode_validate(&s->code);
        rc = view_validate(&s->view, c);
    }
    for (unsigned i = 0; i < s->nr_flushes && !s->flush_all && !rc; i++) {
        dcode_validate_near(&s->code, s->flushes[i]);
        rc = view_validate_page(&s->view, c, s->flushes[i]);
    }
    s->flush_all = false;
    s->nr_flushes = 0;
    return rc;
}

static int set_base(struct space *s, uint64_t *old, uint64_t base, unsigned which)
{
    if (*old == base)
        return 0;
    *old = base;
    return worker_cmd(&s->w, &(struct worker_call){ SYS_arch_prctl, { which, base } });
}

/* Is RDTSC to be had without leaving? Then the worker knows the offset. */
static bool set_tsc(struct direct *d, struct space *s)
{
    const struct engine_config *cfg = &d->v->vc.evm->cfg;
    const struct cpu *c = &d->v->vc.cpu;
    uint64_t offset;

    if ((c->cr4 & CR4_TSD) || !cfg->time_ops->tsc_offset ||
        !cfg->time_ops->tsc_offset(cfg->ctx, &offset))
        return false;
    worker_set_tsc(&s->w, offset + c->tsc_adjust, (uint32_t)c->tsc_aux);
    return true;
}

static int set_state(struct direct *d, struct space *s)
{
    const struct cpu *c = &d->v->vc.cpu;
    bool avx = (c->cr4 & CR4_OSXSAVE) && (c->xcr0 & XCR0_AVX), tsc = set_tsc(d, s);
    int rc = set_base(s, &s->fs_base, c->seg[SEG_FS].base, ARCH_SET_FS);

    if (!rc)
        rc = set_base(s, &s->gs_base, c->seg[SEG_GS].base, ARCH_SET_GS);
    if (avx != s->code.avx || tsc != s->code.tsc)
        dcode_reset(&s->code);
    s->code.avx = avx;
    s->code.tsc = tsc;
    return rc;
}

/* The guest's kernel has most likely mapped the page it was last asked for: no second fault to find
 * out. */
static int fill_last_fault(struct direct *d, struct space *s)
{
    uint64_t root = d->fault.root;

    d->fault.root = 0;
    return root == s->root ? view_prefill(&s->view, &d->v->vc.cpu, d->fault.at, d->fault.write) : 0;
}

/*
 * Programs that write code where they run it (some JIT compilers) are better off in the checked
 * tier, where a store to a page with code costs a tenth of an exit. So many such stores in so short
 * a time, and the space is refused for a while, twice as long each time in a row.
 */
#define MAX_CODE_WRITES 8
#define WRITES_NS       10000000ull
#define MIN_BAN_NS      20000000ull
#define MAX_BAN_NS      2000000000ull

void space_code_written(struct space *s)
{
    uint64_t now = host_mono_ns();

    if (now - s->writes_since_ns > WRITES_NS) {
        s->writes_since_ns = now;
        s->nr_code_writes = 0;
    }
    if (++s->nr_code_writes < MAX_CODE_WRITES)
        return;
    s->nr_code_writes = 0;
    s->ban_ns = now - s->banned_until_ns < MAX_BAN_NS ? MIN(2 * s->ban_ns, MAX_BAN_NS) : MIN_BAN_NS;
    s->banned_until_ns = now + s->ban_ns;
    s->banned = true;
}

/* Is it refused? When that begins its translations go, so that the pages are plain data again. */
static bool is_banned(struct space *s)
{
    if (!s->banned_until_ns)
        return false;
    if (s->banned && s->w.hva)
        dcode_reset(&s->code);
    s->banned = false;
    return host_mono_ns() < s->banned_until_ns;
}

static bool fds_changed(struct direct *d, const struct space *s)
{
    int fds[WORKER_MAX_FDS];
    unsigned nr = list_fds(d, fds);

    return nr != s->nr_fds || memcmp(fds, s->fds, nr * sizeof(fds[0])) != 0;
}

struct space *space_enter(struct direct *d)
{
    struct space *s = d->broken ? NULL : find(d);

    if (!s || is_banned(s))
        return NULL;
    if (s->w.hva && (s->dead || !home_free(d, s->w.home) || fds_changed(d, s)))
        drop_worker(s);
    s->dead = false;
    if (!s->w.hva && !make_worker(d, s)) {
        space_destroy(d, s);
        return NULL;
    }
    dcode_set_flags(&s->code, d->v->vc.cpu.rflags);
    if (!s->code.nr_vpages)
        ahead_expect(&s->code);
    s->last = ++d->nr_runs;
    if (apply_flushes(d, s) < 0 || set_state(d, s) < 0 || fill_last_fault(d, s) < 0) {
        drop_worker(s);
        return NULL;
    }
    bind_space(d, s);
    return s;
}
