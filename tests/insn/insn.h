/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instructions against the host CPU: one case is the bytes of an instruction, all user-visible
 * registers and two data pages. The host runs it single-stepped in a child under ptrace; an engine
 * runs it in a guest at CPL 3 at the same addresses.
 */
#ifndef TESTS_INSN_INSN_H
#define TESTS_INSN_INSN_H

#include "engine/bt/direct/direct.h"
#include "engine/engine.h"

/* The same linear addresses in the child and in the guest. Each area has an unmapped page on both
 * sides. */
#define CODE_AT    0x10000000ull /* two pages, read and execute */
#define DATA_AT    0x20000000ull /* DATA_PAGES, read and write, then one read-only page */
#define DATA_PAGES 2u
#define RO_AT      (DATA_AT + DATA_PAGES * PAGE_BYTES)
#define AREA_BYTES (DATA_PAGES * PAGE_BYTES + PAGE_BYTES)

struct regs {
    uint64_t gpr[NR_GPRS];
    uint64_t rip, rflags;
    struct xsave_area fpu;
};

struct outcome {
    struct regs regs;
    int vector;        /* -1: completed */
    uint64_t fault_at; /* #PF: address */
    uint8_t data[AREA_BYTES];
};

struct insn_case {
    uint8_t code[16]; /* len bytes and a HLT, as far as the two pages go */
    unsigned len;
    unsigned code_off; /* in the two code pages */
    struct regs in;
    uint8_t data[AREA_BYTES];
};

static inline unsigned case_bytes(const struct insn_case *k)
{
    return (unsigned)MIN(k->len + 1, 2 * PAGE_BYTES - k->code_off);
}

/* The host. -errno from start; run: 0, or -1 when the case cannot be judged (the child met a signal
 * that says too little). */
struct native_child;
int child_start(struct native_child **out);
int child_run(struct native_child *ch, const struct insn_case *k, struct outcome *out);
void child_stop(struct native_child *ch);

/* direct.c: runs one instruction of the guest, or says why not; DIRECT_KICKED: done. */
enum direct_result direct_one(struct direct *d, bool by_scratch);

/* The guest. How: by the engine's debugger's step, or first by the direct tier. */
enum guest_how { GUEST_STEP, GUEST_DIRECT, GUEST_DIRECT_SCRATCH };
struct insn_guest;
int guest_start(const struct engine_ops *engine, struct insn_guest **out);
void guest_run(struct insn_guest *g, const struct insn_case *k, enum guest_how how,
               struct outcome *out);
void guest_stop(struct insn_guest *g);

#endif
