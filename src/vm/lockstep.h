/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lock-step: two engines run the same guest, step by step, to find the first thing that they do
 * differently.
 *
 * To the machine this is one engine more. The vCPU it shows is no more than a mailbox and a copy:
 * devices post into it, and what they posted is handed to both engines between two chunks. The
 * tested engine goes first and has the real devices, the clock and the machine's memory; what it
 * asks of them is put on a tape. Then the reference goes as many steps, on a copy of the memory,
 * and is answered from the tape. Then the two vCPUs are compared, and now and then all memory.
 *
 * TODO(devices that write memory from threads of their own): such a write goes to the tested
 * engine's memory at once, to the reference's between two chunks; hold bus_lock() during a chunk.
 */
#ifndef VM_LOCKSTEP_H
#define VM_LOCKSTEP_H

#include "vm/priv.h"

extern const struct engine_ops lockstep_engine;
/* Takes from the model what no two engines can do alike: random numbers, steal time. */
void lockstep_trim_model(struct cpu_model *m);
/* Was a difference found? All vCPUs parked. */
bool lockstep_differed(const struct vm *vm);

/* ---- what follows is shared by the files of lockstep only ---- */

enum ls_side_id { LS_TESTED, LS_REFERENCE, NR_LS_SIDES };

struct ls_side {
    const struct engine_ops *ops;
    struct engine_config ecfg; /* the engine keeps it by reference */
    struct engine_vm *evm;
    struct vcpu *v;
};

enum ls_call {
#define LS_CALL(id, text) LS_##id,
#include "vm/lockstep_calls.def"
#undef LS_CALL
    NR_LS_CALLS
};

/* A call of the tested engine to the machine, or a device's write to memory (LS_DMA). */
struct ls_event {
    enum ls_call what;
    uint64_t arg[3];
    uint64_t result;
    size_t data_off, data_bytes; /* in ls_tape.data */
};

struct ls_tape {
    struct ls_event *ev;
    size_t nr, max, next; /* next: the one to be replayed */
    uint8_t *data;
    size_t data_bytes, data_max;
    bool no_memory;  /* something could not be put on it */
    char wrong[256]; /* the first call of the reference that is not on the tape; "": none */
};

/* Memory that somebody other than an engine wrote in the machine, not yet in the copy. */
struct ls_range {
    gpa_t at;
    uint64_t bytes;
};
struct ls_mirror {
    struct code_listener listener;
    struct lock lock; /* guards what follows */
    struct ls_range *ranges;
    size_t nr, max;
    bool no_memory;
};

/* The way here: where a chunk began, and how many steps it made. */
struct ls_past {
    uint64_t step, nr, rip, cs_base;
    uint32_t mode;
};
#define LS_PAST 32

struct lockstep {
    struct engine_vm evm;
    struct vm *vm;
    struct lockstep_config cfg;
    struct ls_side side[NR_LS_SIDES];
    struct vcpu outer; /* what the machine sees */
    struct mmu *copy;  /* the reference's memory */
    struct ls_mirror mirror;
    struct ls_tape tape;
    bool pic_up;   /* the 8259s' INTR, as it was when the chunk began */
    bool together; /* the reference runs too; false before cfg.from */
    bool differed;
    uint64_t memory_at; /* steps when all memory was compared last */
    uint64_t nr_chunks, nr_memory;
    uint64_t nr_accessed; /* accessed bits of page tables that differed */
    struct ls_past past[LS_PAST];
    uint64_t nr_past;
    uint64_t before[NR_GPRS + 2]; /* registers, RIP and RFLAGS as the chunk began */
};

/* Why it ended. */
struct ls_difference {
    const char *what;
    bool memory;
    gpa_t at; /* memory: the first byte */
};

/* ---- lockstep_outer.c: of the vCPU that the machine sees ---- */
extern const struct cpu_ops ls_outer_cpu_ops;

/* ---- lockstep_tape.c: the machine as the engines see it; ctx is the struct lockstep ---- */
extern const struct platform_ops ls_record_ops, ls_replay_ops;
extern const struct platform_time_ops ls_record_time_ops, ls_replay_time_ops;
void ls_tape_clear(struct ls_tape *t);
void ls_tape_free(struct ls_tape *t);
void ls_tape_put(struct ls_tape *t, struct ls_event e, const void *data, size_t bytes);
/* One event as text. */
void ls_event_text(const struct ls_event *e, char *buf, size_t bytes);

/* ---- lockstep_memory.c: two memories ---- */
int ls_memory_create(struct lockstep *ls) MUST_CHECK;
void ls_memory_destroy(struct lockstep *ls);
/* Brings to the copy what was written from outside. Between chunks. */
void ls_memory_forward(struct lockstep *ls);
/* The same in the middle of a chunk: onto the tape. */
void ls_memory_record(struct lockstep *ls);
/* All of the machine's memory to the copy. */
void ls_memory_copy(struct lockstep *ls);
/* False: they differ, and *at says where first. */
bool ls_memory_same(struct lockstep *ls, gpa_t *at);

/* ---- lockstep_state.c: two vCPUs ---- */
bool ls_state_same(const struct cpu *a, const struct cpu *b);
/* All but what belongs to the engine and what other threads write (requests, posted vectors). */
void ls_state_copy(struct cpu *to, const struct cpu *from);
/* Calls fn for all parts, or only for those that differ. */
void ls_state_each(const struct cpu *a, const struct cpu *b, bool only_different,
                   void (*fn)(void *arg, const char *name, const void *a, const void *b,
                              size_t bytes),
                   void *arg);

/* ---- lockstep_report.c ---- */
void ls_line(const struct lockstep *ls, const char *fmt, ...) PRINTF_LIKE(2, 3);
void ls_report(struct lockstep *ls, const struct ls_difference *d);

#endif
