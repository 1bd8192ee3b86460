/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors, gates and stacks, as the files of segmentation and event delivery share them.
 * Private to src/cpu.
 *
 * While an event is delivered that the program did not ask for, c->delivering.valid is set; every
 * error code then carries EXT. That is why all error codes here are made by sel_err() and
 * ext_err().
 */
#ifndef CPU_DESC_H
#define CPU_DESC_H

#include "cpu/cpu.h"

/* SDM 3, "Error Code" */
#define ERR_EXT BIT(0)
#define ERR_IDT BIT(1)

#define SEL_RPL 3u
#define SEL_TI  BIT(2)

/* Hidden parts that modes fix: SDM 3, "8086 Emulation" and "Processor State After Reset". */
#define ATTR_REAL (SEG_P | SEG_S | SEG_TYPE_WRITABLE | SEG_TYPE_ACCESSED)
#define ATTR_VM86 (ATTR_REAL | SEG_DPL)
/* In a system descriptor's type: the TSS is busy. */
#define SYS_BUSY  BIT(1)

/* A segment or system descriptor, copied once from its table. */
struct desc {
    uint64_t lo;
    uint64_t hi; /* second half, of those that have one in IA-32e mode; else 0 */
    gva_t at;    /* of lo */
    uint16_t sel;
    bool ok; /* the selector lies within its table */
};

/* A gate of any kind. */
struct gate {
    unsigned type; /* enum sysdesc_type */
    unsigned dpl;
    bool present;
    uint16_t sel;
    uint64_t off;
    unsigned ist;
    unsigned nr_params;
    unsigned bytes; /* of a stack slot: 2, 4 or 8 */
};

/* A stack that need not be the current one, so that registers change only when all went well. */
struct stack {
    struct seg ss;
    uint64_t sp;
    bool flat;    /* 64-bit: no segment */
    unsigned acc; /* ACC_SUPER for a stack of an inner ring */
    uint32_t err; /* of #SS */
};

static inline uint32_t ext_err(const struct cpu *c)
{
    return c->delivering.valid ? ERR_EXT : 0;
}

static inline uint32_t sel_err(const struct cpu *c, uint16_t sel)
{
    return (sel & ~SEL_RPL) | ext_err(c);
}

static inline bool sel_is_null(uint16_t sel)
{
    return !(sel & ~SEL_RPL);
}

static inline unsigned sel_rpl(uint16_t sel)
{
    return sel & SEL_RPL;
}

static inline bool in_ia32e(const struct cpu *c)
{
    return c->mode & MODE_LMA;
}

/* Bits 40..55 without the limit's: what struct seg keeps as attr. */
static inline uint32_t desc_attr(const struct desc *d)
{
    return (uint32_t)(d->lo >> 40) & 0xf0ff;
}

static inline unsigned attr_dpl(uint32_t attr)
{
    return (attr & SEG_DPL) >> SEG_DPL_SHIFT;
}

static inline bool attr_is_code(uint32_t attr)
{
    return (attr & (SEG_S | SEG_TYPE_CODE)) == (SEG_S | SEG_TYPE_CODE);
}

static inline bool attr_is_conforming(uint32_t attr) /* of code */
{
    return attr & SEG_TYPE_CONFORMING;
}

static inline bool attr_is_readable(uint32_t attr)
{
    return (attr & SEG_S) && (!(attr & SEG_TYPE_CODE) || (attr & SEG_TYPE_READABLE));
}

static inline bool attr_is_writable(uint32_t attr)
{
    return (attr & (SEG_S | SEG_TYPE_CODE | SEG_TYPE_WRITABLE)) == (SEG_S | SEG_TYPE_WRITABLE);
}

static inline unsigned attr_type(uint32_t attr)
{
    return attr & SEG_TYPE;
}

/* ---- desc.c ---- */

uint32_t desc_limit(const struct desc *d); /* in bytes */
uint64_t desc_base(const struct desc *d);
struct seg desc_seg(const struct desc *d, uint16_t sel);

/* Reads; d->ok is false beyond the table. Faults are those of memory. */
enum step desc_find(struct cpu *c, uint16_t sel, struct desc *d) MUST_CHECK;
/* The same; beyond the table raises vec(sel). */
enum step desc_read(struct cpu *c, uint16_t sel, enum vector vec, struct desc *d) MUST_CHECK;
/* The second half of an LDT, TSS or call gate descriptor in IA-32e mode; else nothing. Raises
 * vec(sel). */
enum step desc_read_high(struct cpu *c, enum vector vec, struct desc *d) MUST_CHECK;
enum step desc_set_accessed(struct cpu *c, const struct desc *d) MUST_CHECK;
enum step desc_set_busy(struct cpu *c, const struct desc *d, bool busy) MUST_CHECK;
void gate_unpack(const struct desc *d, struct gate *g);

/* ---- linear.c ---- */

/* Is [off, off + bytes) within s, and is that kind of access allowed? Not for 64-bit mode. */
bool seg_allows(const struct cpu *c, const struct seg *s, uint64_t off, unsigned bytes,
                unsigned acc);
struct stack stack_current(const struct cpu *c);
/* The bits of its stack pointer that count. */
uint64_t stack_mask(const struct stack *st);
/* Would n values fit, by the segment's limit? */
enum step stack_room(struct cpu *c, const struct stack *st, unsigned n, unsigned bytes) MUST_CHECK;
/* n values of `bytes` bytes each, vals[0] first; limits are checked before anything is written. */
enum step stack_push(struct cpu *c, struct stack *st, const uint64_t *vals, unsigned n,
                     unsigned bytes) MUST_CHECK;
/* The value `skip` bytes above the stack pointer, which does not move. */
enum step stack_peek(struct cpu *c, const struct stack *st, unsigned skip, unsigned bytes,
                     uint64_t *val) MUST_CHECK;
void stack_move(struct stack *st, uint64_t bytes);
/* What RSP becomes when st becomes the stack of code that is 64-bit or not. */
uint64_t stack_rsp(const struct cpu *c, const struct stack *st, bool to_64);

/* ---- seg.c ---- */

/* SEG_UNUSABLE with a null selector. */
struct seg seg_null(uint16_t sel);
/* What a data segment register holds in v8086 mode. */
struct seg seg_vm86(uint16_t sel);
/* A stack segment for ring cpl: vec(sel) if it is no such thing, #SS(sel) if absent. sel is not
 * null. */
enum step seg_read_stack(struct cpu *c, uint16_t sel, unsigned cpl, enum vector vec,
                         struct seg *out) MUST_CHECK;
/* Loads ES, DS, FS or GS in protected mode: vec(sel) or #NP(sel). */
enum step seg_load_data(struct cpu *c, enum seg_id s, uint16_t sel, enum vector vec) MUST_CHECK;

/* ---- far.c: shared by transfers of control ---- */

/* A target of a transfer: `cs` as it will be, with RPL = CPL. */
struct target {
    struct seg cs;
    struct desc desc;
    uint64_t rip;
    unsigned cpl;
};
/* Is rip within the code segment (or canonical, for 64-bit code)? #GP. */
enum step target_check_rip(struct cpu *c, struct target *t) MUST_CHECK;
/* Makes t current: CS, CPL, RIP. The caller then sets SS and RSP and calls cpu_update_mode(). */
void target_commit(struct cpu *c, const struct target *t);
/* Sets cs from d, as code of ring cpl. */
void target_set_cs(struct target *t, const struct desc *d, unsigned cpl);
/* RET and IRET: the code segment they return to, its ring (t->cpl) being the selector's RPL. */
enum step return_target(struct cpu *c, uint16_t sel, uint64_t rip, struct target *t) MUST_CHECK;
/* The stack segment that goes with it; st->sp is the caller's to set. */
enum step return_stack(struct cpu *c, const struct target *t, uint16_t sel,
                       struct stack *st) MUST_CHECK;
/* CS:RIP, SS:RSP and CPL change; for an outer ring data segments are invalidated. */
void return_commit(struct cpu *c, const struct target *t, const struct stack *st);

/* ---- gate.c ---- */

/* The stack of ring cpl by the current TSS; ist: its number or 0. #TS, #SS. */
enum step gate_inner_stack(struct cpu *c, unsigned cpl, unsigned ist, struct stack *st) MUST_CHECK;
/* The code segment behind a call, interrupt or trap gate: all checks but the RIP's. */
enum step gate_code(struct cpu *c, const struct gate *g, bool is_jmp, struct target *t) MUST_CHECK;
enum step gate_jmp(struct cpu *c, const struct desc *d) MUST_CHECK;
enum step gate_call(struct cpu *c, const struct desc *d) MUST_CHECK;

/* ---- task.c ---- */

enum task_kind { TASK_JMP, TASK_CALL, TASK_INT, TASK_IRET };

struct task_switch {
    enum task_kind kind;
    uint64_t rip;    /* what the old task saves */
    uint64_t rflags; /* likewise, before NT is taken care of */
    bool has_err;    /* push err on the new task's stack */
    uint32_t err;
};
/* To the task of a TSS descriptor (from a far transfer, type and DPL checked). */
enum step task_switch(struct cpu *c, struct desc *tss, const struct task_switch *how) MUST_CHECK;
/* By the selector in a task gate: checks it first. */
enum step task_by_gate(struct cpu *c, uint16_t sel, const struct task_switch *how) MUST_CHECK;
/* IRET with NT set. */
enum step task_return(struct cpu *c) MUST_CHECK;

/* ---- deliver.c ---- */

/* An event that no instruction asked for: delivers it, and what it turns into. */
struct event {
    uint8_t vector;
    enum event_kind kind;
    bool has_err;
    bool set_rf; /* push RF set: faults */
    uint32_t err;
};
enum step event_deliver(struct cpu *c, const struct event *e) MUST_CHECK;
/* #DB as a trap: dr6 bits. */
enum step event_debug_trap(struct cpu *c, uint64_t dr6) MUST_CHECK;

/* ---- realint.c: events through the interrupt vector table ---- */

enum step real_int(struct cpu *c, const struct event *e, uint64_t rip) MUST_CHECK;
/* INT n in v8086 mode: *done says that it was redirected to the 8086 program's own table. */
enum step vm86_int(struct cpu *c, uint8_t vector, bool *done) MUST_CHECK;

#endif
