/* SPDX-License-Identifier: Apache-2.0 */
/* The direct tier's own: what its files say to each other. */
#ifndef ENGINE_BT_DIRECT_INTERNAL_H
#define ENGINE_BT_DIRECT_INTERNAL_H

#include <sched.h>

#include "engine/bt/direct/code.h"
#include "engine/bt/direct/direct.h"
#include "engine/bt/direct/view.h"
#include "engine/bt/direct/worker.h"

/* Flushes that a space has not applied yet; more than this is all. */
#define NR_FLUSHES 32
#define NR_SPACES  16

/* A guest address space with its worker. */
struct space {
    bool dead;      /* its worker failed outside of a run */
    uint64_t root;  /* of the guest's page tables: CR3 without flags and PCID */
    uint16_t pcid;  /* under which it ran last: which flushes are for it */
    uint64_t last;  /* d->nr_runs at its last use */
    bool flush_all; /* everything has to be looked at before it runs */
    unsigned nr_flushes;
    uint64_t flushes[NR_FLUSHES];
    uint64_t fs_base, gs_base; /* as set in the worker */
    int cpu;                   /* which it is bound to, -1: none */
    /* Stores to code: see space_code_written(). */
    unsigned nr_code_writes;
    bool banned; /* since the last run */
    uint64_t writes_since_ns, banned_until_ns, ban_ns;
    unsigned nr_fds;
    int fds[WORKER_MAX_FDS]; /* the RAM it knows */
    struct worker w;
    struct view view;
    struct code code;
};

struct direct {
    struct ivcpu *v;
    const struct direct_hints *hints; /* or NULL */
    uint64_t nr_runs;
    uint64_t waited_ns, waited_at; /* and nr_runs when it was looked at */
    struct space *spaces[NR_SPACES];
    _Atomic int kick_pid; /* the worker that runs guest code now, or 0 */
    bool broken;          /* workers cannot be made here: said once */
    struct {
        uint64_t root, at; /* the last true fault: root 0: none */
        bool write;
    } fault;
    struct binding {
        int tid; /* of the thread bound, 0: none */
        int cpu;
        bool known;
        uint64_t until_ns; /* when to change between bound and free */
        cpu_set_t free;    /* where the thread may be when it is not bound */
    } binding;
    struct direct_stats stats;
};

/* ---- bind.c ---- */
/* Binds the vCPU's thread, and the worker with it. */
void bind_space(struct direct *d, struct space *s);

/* ---- ahead.c ---- */
/* b has just been translated: translates what most likely runs soon. Returns where b is now. */
struct dblock *ahead(struct code *k, struct dblock *b);
/* A space begins: what its indirect branches went to is expected. */
void ahead_expect(struct code *k);

/* A page is about to be translated from: no view of this vCPU may write it. */
void direct_protect_page(struct direct *d, uint64_t page);

/* ---- space.c ---- */
/* PML4 slots whose starts are tried as homes: the third and those behind it. */
#define SPACE_SLOT(n)  ((uint64_t)(2 + (n)) << 39)
#define SPACE_NR_SLOTS 200
/* The space for the present CR3, flushes applied, its worker bound to this CPU; NULL: not to be
 * had. */
struct space *space_enter(struct direct *d);
/* A store of its own code to a page with code was refused. */
void space_code_written(struct space *s);
void space_destroy(struct direct *d, struct space *s);

/* ---- regs.c ---- */
/* Registers into the worker's frame, but for RIP; and back, as they are at the host PC it stands
 * at. False: guest code does not stop there. */
void regs_load(struct space *s, const struct cpu *c);
bool regs_save(const struct space *s, struct cpu *c) MUST_CHECK;
/* Offset of the worker's PC in its code cache. */
uint32_t regs_host_pc(const struct space *s);
#define REGS_OUTSIDE UINT32_MAX
/* Where the last indirect branch went. */
uint64_t regs_target(const struct space *s);

#endif
