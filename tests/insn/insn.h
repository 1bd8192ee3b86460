/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instructions against the host CPU: one case is the bytes of an instruction, all user-visible
 * registers and two data pages. The host runs it single-stepped in a child under ptrace; an engine
 * runs it in a guest at CPL 3 at the same addresses.
 */
#ifndef TESTS_INSN_INSN_H
#define TESTS_INSN_INSN_H

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
    uint16_t cs;       /* 33h, or 23h in compatibility mode */
    uint8_t data[AREA_BYTES];
};

struct insn_case {
    uint8_t code[16];
    unsigned len;
    unsigned code_off; /* in the two code pages */
    struct regs in;
    uint8_t data[AREA_BYTES];
};

/* What is run: one instruction of a case, or a program, which ends with INT3 or an exception. */
struct exec {
    const uint8_t *code;
    unsigned len;
    unsigned code_off;
    const struct regs *in;
    const uint8_t *data;
    bool whole;         /* not just one instruction */
    uint64_t run_limit; /* guest, whole: run in pieces of so many steps; 0: in one */
};

/* The host. -errno from start; run: 0, or -1 when the case cannot be judged (the child met a signal
 * that says too little). */
struct native_child;
int child_start(struct native_child **out);
int child_run(struct native_child *ch, const struct insn_case *k, struct outcome *out);
int child_exec(struct native_child *ch, const struct exec *x, struct outcome *out);
/* Ends a program that does not end: SIGSTOP. From a signal handler. */
void child_interrupt(struct native_child *ch);
void child_stop(struct native_child *ch);

/* The guest. */
struct insn_guest;
int guest_start(const struct engine_ops *engine, struct insn_guest **out);
void guest_run(struct insn_guest *g, const struct insn_case *k, struct outcome *out);
void guest_exec(struct insn_guest *g, const struct exec *x, struct outcome *out);
/* The same: REQ_STOP. From a signal handler. */
void guest_interrupt(struct insn_guest *g);
void guest_stop(struct insn_guest *g);

#endif
