/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instructions against the host CPU: one case is the bytes of an instruction, all user-visible
 * registers and two data pages. The host runs it single-stepped in a child under ptrace; an engine
 * runs it in a guest at CPL 3 at the same addresses.
 *
 * The code is 64-bit, 32-bit or 16-bit code; the latter two are compatibility mode on both sides,
 * with segments of the GDT that Linux has and of a local descriptor table (segs.c).
 */
#ifndef TESTS_INSN_INSN_H
#define TESTS_INSN_INSN_H

#include <Zydis/Zydis.h>

#include "engine/engine.h"

/* The same linear addresses in the child and in the guest. Each area has an unmapped page on both
 * sides. */
#define CODE_AT    0x10000000ull /* two pages, read and execute */
#define CODE_BYTES (2 * PAGE_BYTES)
#define DATA_AT    0x20000000ull /* DATA_PAGES, read and write, then one read-only page */
#define DATA_PAGES 2u
#define RO_AT      (DATA_AT + DATA_PAGES * PAGE_BYTES)
#define AREA_BYTES (DATA_PAGES * PAGE_BYTES + PAGE_BYTES)

enum code_mode { CODE64, CODE32, CODE16 };

struct regs {
    uint64_t gpr[NR_GPRS];
    uint64_t rip, rflags;
    uint16_t sel[NR_SEGS];
    uint64_t fs_base, gs_base;
    struct xsave_area fpu;
};

struct outcome {
    struct regs regs;
    int vector; /* -1: completed */
    uint32_t err;
    uint64_t fault_at; /* #PF: address */
    uint8_t data[AREA_BYTES];
};

struct insn_case {
    enum code_mode mode;
    bool undefined; /* what the manuals leave undefined has to agree, too */
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    uint8_t code[16];
    unsigned len;
    unsigned code_off; /* in the two code pages */
    bool two_steps;    /* loads SS: the trap comes behind the next instruction, a NOP */
    bool has_mem;      /* an explicit memory operand, at linear address ... */
    uint64_t mem_at;
    bool mem_wraps; /* an XSAVE area there would go on at offset 0 */
    struct regs in;
    uint8_t data[AREA_BYTES];
};

/* A program, which ends with INT3 or another exception. */
struct exec {
    const uint8_t *code; /* CODE_BYTES of it */
    const struct regs *in;
    const uint8_t *data;
    uint64_t run_limit; /* guest: run in pieces of so many steps; 0: in one */
};

/* As much of it as lies in the area. */
static inline unsigned case_code_bytes(const struct insn_case *k)
{
    unsigned bytes = k->len + k->two_steps, room = (unsigned)CODE_BYTES - k->code_off;

    return bytes < room ? bytes : room;
}

/* ---- random.c ---- */
struct rng {
    uint64_t state;
};
void rng_seed(struct rng *r, uint64_t seed, uint64_t idx);
uint64_t rnd(struct rng *r);
unsigned pick(struct rng *r, unsigned n); /* 0 .. n-1 */

/* ---- segs.c: the segments both sides have ---- */
#define SEL_USER32_CS 0x23u /* Linux's GDT */
#define SEL_USER_DS   0x2bu
#define SEL_USER64_CS 0x33u
#define SEL_CPU_NODE  0x7bu
#define GDT_ENTRIES   16u

/* Of the local descriptor table. */
enum ldt_idx {
    LDT_CODE16,
    LDT_CODE16_HIGH, /* the code is at high offsets of 64 KB, not readable */
    LDT_CODE32,
    LDT_DATA16,
    LDT_DATA16_SHORT, /* ends amid the data */
    LDT_DATA32_SHORT,
    LDT_DOWN16,
    LDT_DOWN32,
    LDT_READ_ONLY,
    LDT_BIG, /* 4 GB, a base other than 0: addresses wrap */
    LDT_ABSENT_DATA,
    LDT_ABSENT_CODE,
    LDT_ABSENT_CONFORMING,
    NR_LDT
};
struct ldt_entry {
    uint32_t base, limit;
    uint8_t contents; /* 0: data, 1: data expanding down, 2: code, 3: conforming code */
    bool no_write;    /* code: no read */
    bool is_32;
    bool in_pages; /* the limit */
    bool absent;
};
extern const struct ldt_entry ldt_entries[NR_LDT];
static inline uint16_t ldt_sel(enum ldt_idx i)
{
    return (uint16_t)(i * 8 + 7);
}
/* The descriptors as they stand in the tables. */
uint64_t gdt_descriptor(unsigned idx);
uint64_t ldt_descriptor(enum ldt_idx idx);
/* As a selector's load leaves the segment register, all checks apart; of sel 0 unusable. */
struct seg seg_of(uint16_t sel);
/* Linear address of an offset in segment s with the registers r. */
uint64_t seg_linear(const struct insn_case *k, enum seg_id s, uint64_t off);
/* What a data segment register may hold in the mode at hand, and any selector at all. */
uint16_t random_data_sel(struct rng *r, enum code_mode mode);
uint16_t random_stack_sel(struct rng *r, enum code_mode mode);
uint16_t random_code_sel(struct rng *r, enum code_mode mode);
uint16_t random_sel(struct rng *r);

/* ---- code.c: which instructions ---- */
struct chooser {
    const struct cpu_model *model;
    const char *only; /* mnemonic, or NULL */
    enum code_mode mode;
    ZydisDecoder dec;
};
void chooser_init(struct chooser *c, enum code_mode mode, const struct cpu_model *model);
/* Fills in k's mode, instruction and bytes. False: not one that can be tested. */
bool choose_code(const struct chooser *c, struct rng *r, struct insn_case *k);

/* ---- state.c: registers and memory to run it with ---- */
void make_state(struct rng *r, struct insn_case *k);
/* A number at one of the places where something happens, a small one, or any. */
uint64_t random_edge(struct rng *r);
void random_fpu(struct rng *r, struct xsave_area *x);

/* ---- judge.c ---- */
/* What the manuals leave open. */
uint64_t undefined_flags(const ZydisDecodedInstruction *in);
bool undefined_result(const ZydisDecodedInstruction *in);
bool is_state_image(const ZydisDecodedInstruction *in); /* FXSAVE, XSAVE and their like */
/* The first difference, in words, or NULL. Blanks in both what cannot be compared. */
const char *judge(const struct insn_case *k, struct outcome *host, struct outcome *us, char *buf,
                  size_t n);

/* ---- child.c: the host ---- */
struct native_child;
/* -errno from start; *has_ldt says whether it has the local descriptor table. run: 0, or -1 when
 * the case cannot be judged. */
int child_start(struct native_child **out, bool *has_ldt);
int child_run(struct native_child *ch, const struct insn_case *k, struct outcome *out);
int child_exec(struct native_child *ch, const struct exec *x, struct outcome *out);
/* Ends a program that does not end. From a signal handler. */
void child_interrupt(struct native_child *ch);
void child_stop(struct native_child *ch);

/* ---- guest.c ---- */
struct insn_guest;
/* bt: how that engine works, by reference; NULL: it translates whatever it can. */
int guest_start(const struct engine_ops *engine, const struct bt_config *bt,
                struct insn_guest **out);
void guest_run(struct insn_guest *g, const struct insn_case *k, struct outcome *out);
void guest_exec(struct insn_guest *g, const struct exec *x, struct outcome *out);
/* Ends a program that does not end. From a signal handler. */
void guest_interrupt(struct insn_guest *g);
void guest_stop(struct insn_guest *g);

#endif
