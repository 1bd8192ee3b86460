/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A random program: a list of items (an instruction, or a few that belong together) that jump to
 * each other by number, so that items can be taken out and the rest still is a program.
 */
#ifndef TESTS_RAND_PROG_H
#define TESTS_RAND_PROG_H

#include "insn.h"

#define PROG_ITEMS 1200
#define PROG_BYTES CODE_BYTES

/* What the generator counts on: these registers keep what they have. */
#define BASE_AT  (DATA_AT + PAGE_BYTES) /* RBX: accesses around it cross a page */
#define STACK_AT (RO_AT - 64)           /* RSP */
#define RO_BASE  (RO_AT + 2048)         /* RBP: read-only memory, for faults */
/* R14 and R15 count loops. */

enum branch { NO_BRANCH, BRANCH_CC, BRANCH_JMP, BRANCH_CALL };

/* Four bytes of an item's code that depend on where another item is. */
struct fix {
    uint8_t off;
    bool absolute; /* a linear address; else relative to the end of the four bytes */
    int target;    /* an item */
};

struct item {
    uint8_t code[48];
    uint8_t len;
    struct fix fix[3];
    uint8_t nr_fixes;
    enum branch branch; /* then code is made by prog_layout() */
    uint8_t cc;
    int target;
    bool is_short; /* prog_layout()'s own */
    bool code32;   /* compatibility mode */
    bool dead;     /* taken out */
    bool keep;     /* not to be taken out */
};

struct prog {
    struct item items[PROG_ITEMS];
    int nr;
    unsigned code_off;           /* where it begins in the two code pages */
    unsigned at[PROG_ITEMS + 1]; /* from there */
    unsigned len;
    uint8_t bytes[PROG_BYTES]; /* the two pages */
    struct regs in;
    uint8_t data[AREA_BYTES];
    uint64_t run_limit; /* the engine runs in pieces of so many steps; 0: in one */
};

/* Makes bytes[] and at[]. False: they do not fit. */
bool prog_layout(struct prog *p);
/* The items that are left, as assembly on standard output. */
void prog_print(const struct prog *p);

/* ---- gen.c ---- */
struct generator;
struct generator *gen_create(const struct cpu_model *model);
void gen_destroy(struct generator *g);
/* The program of that seed. */
void gen_program(struct generator *g, uint64_t seed, struct prog *p);

/* ---- insn.c ---- */
/* One try at an instruction of c's kind of code, into out; its bytes, or 0. */
unsigned gen_try_insn(struct rng *r, const struct chooser *c, uint8_t out[32]);
/* From RBX (BASE_AT), for a memory operand; at any place, many at the page's end. */
int32_t gen_displacement(struct rng *r, bool aligned);

#endif
