/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The direct tier: hot user code (CPL 3, 64-bit) of a guest at native speed, in a sandboxed process
 * per guest address space. docs/bt-direct.md has the whole story.
 *
 * Its owner, the checked tier, decides when it is worth it and does everything else: it runs what
 * is refused, delivers what is raised, and tells of flushes and of stores to code. All functions
 * are for the vCPU's thread but direct_kick().
 */
#ifndef ENGINE_BT_DIRECT_DIRECT_H
#define ENGINE_BT_DIRECT_DIRECT_H

#include "engine/engine.h"

struct ivcpu;
struct direct;

enum direct_result {
    DIRECT_SYSCALL, /* at a SYSCALL instruction, not yet executed */
    DIRECT_INTERP,  /* the instruction at RIP has to be run by interp (or raises an exception there)
                     */
    DIRECT_FAULT,   /* #PF of the instruction at RIP is pending in cpu.exc, for cpu_deliver() */
    DIRECT_KICKED,  /* cpu.req is not 0 */
    DIRECT_REFUSED, /* nothing was run: not this mode, this state, or no worker to be had */
    DIRECT_LOST,    /* the worker died with the guest's registers: the vCPU cannot go on */
};

struct direct_stats {
    uint64_t nr_runs, nr_stops;             /* calls; times a worker stopped */
    uint64_t ran;                           /* TSC ticks that guest code had */
    uint64_t nr_fills, nr_links, nr_misses; /* hidden faults, branches linked, table misses */
    uint64_t nr_result[DIRECT_LOST + 1];
    uint64_t nr_workers, nr_blocks, nr_resets; /* made since the start */
};

/* 0 when workers can be made here; else -errno, and the reason in why. */
int direct_probe(char *why, size_t why_bytes);
int direct_create(struct ivcpu *v, struct direct **out) MUST_CHECK;
/*
 * What its owner has seen run before, so that it is translated before a worker stops there: always
 * right as to what can be translated, for it is checked like any other code.
 */
struct direct_starts {
    uint64_t all[64];      /* a bit for each byte of the page: a block starts there */
    uint64_t landings[64]; /* and indirect branches go there */
};
struct direct_hints {
    /* User code of this mode in a guest-physical page; false: none. */
    bool (*starts)(struct ivcpu *v, uint64_t page, struct direct_starts *out);
    /* Does a block start there? */
    bool (*known)(struct ivcpu *v, gpa_t at);
    /* Targets of indirect branches in this address space of late; returns how many. */
    unsigned (*targets)(struct ivcpu *v, uint64_t *rips, unsigned max);
};
/* They stay the caller's. */
void direct_set_hints(struct direct *d, const struct direct_hints *hints);
/* Accepts NULL. */
void direct_destroy(struct direct *d);

/*
 * Runs from cpu.rip until something happens; cpu is the whole state before and after, precise at an
 * instruction boundary. Pending events are the caller's: call it when there are none.
 */
enum direct_result direct_run(struct direct *d) MUST_CHECK;

/* The guest's TLB flushes, as cpu_ops.tlb_flush gets them, every one: noted here, applied when a
 * worker runs next. */
void direct_flush(struct direct *d, const struct tlb_flush *what);
/*
 * These guest-physical bytes were written, or will be right away: translations made of them are
 * dropped. For every store to a page with PAGE_NOTE_CODE, and before that note is cleared.
 */
void direct_code_written(struct direct *d, gpa_t at, uint64_t bytes);
void direct_code_written_all(struct direct *d);
/* Are there translations of this guest-physical page? Then its note is to stay. */
bool direct_has_code(const struct direct *d, uint64_t page);
/* Somebody else set PAGE_NOTE_CODE: workers lose their right to write the page. */
void direct_code_noted(struct direct *d, gpa_t at);
/*
 * While it is used, the vCPU's thread keeps to one CPU, which its worker shares. The thread gets
 * its freedom back now and then anyway; call this when it will not be used for a while (HLT, a long
 * time without direct_run()).
 */
void direct_unbind(struct direct *d);
/* Slots changed, the dirty log was read, the state was restored: drops all workers. */
void direct_reset(struct direct *d);
/* How long the workers have waited for CPUs. The vCPU's thread. */
uint64_t direct_waited_ns(struct direct *d);
/* Makes direct_run() return, soon; cpu.req was set before. Any thread, async-signal-safe. */
void direct_kick(struct direct *d);
const struct direct_stats *direct_stats(const struct direct *d);

#endif
