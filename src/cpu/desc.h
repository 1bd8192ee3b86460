/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptors as the segmentation files share them. */
#ifndef CPU_DESC_H
#define CPU_DESC_H

#include "cpu/cpu.h"

struct desc {
    gva_t at;        /* where it lies, for the accessed and busy bits */
    uint64_t lo, hi; /* hi: second half of a 16-byte system descriptor in long mode */
    struct seg seg;  /* base, limit, attr of a segment; sel is the selector it was read by */
};

static inline unsigned desc_dpl(const struct desc *d)
{
    return (d->seg.attr & SEG_DPL) >> SEG_DPL_SHIFT;
}
static inline unsigned desc_type(const struct desc *d)
{
    return d->seg.attr & SEG_TYPE;
}
static inline bool desc_present(const struct desc *d)
{
    return d->seg.attr & SEG_P;
}
static inline bool desc_is_code(const struct desc *d)
{
    return (d->seg.attr & (SEG_S | SEG_TYPE_CODE)) == (SEG_S | SEG_TYPE_CODE);
}
static inline bool desc_is_conforming(const struct desc *d)
{
    return d->seg.attr & SEG_TYPE_CONFORMING;
}
static inline bool sel_is_null(uint16_t sel)
{
    return !(sel & ~3u);
}
/* Gate fields */
static inline uint16_t gate_sel(const struct desc *d)
{
    return (uint16_t)(d->lo >> 16);
}
static inline uint64_t gate_off(const struct desc *d, bool wide)
{
    uint64_t off = (d->lo & 0xffff) | (d->lo >> 32 & 0xffff0000);

    return wide ? off | d->hi << 32 : off;
}

/* Reads a descriptor; outside its table: vec with the selector as error code (ORed with ext). */
enum step desc_read(struct cpu *c, uint16_t sel, struct desc *d, enum vector vec,
                    uint32_t ext) MUST_CHECK;
/* The second half of a system descriptor in long mode (TSS, LDT, call gate); its type field must be
 * 0. */
enum step desc_read_high(struct cpu *c, struct desc *d, enum vector vec, uint32_t ext) MUST_CHECK;
void desc_parse(struct desc *d);
/* True, without a fault, if the selector is within its table (LAR, LSL, VERR). */
enum step desc_try(struct cpu *c, uint16_t sel, struct desc *d, bool *ok) MUST_CHECK;
enum step desc_set_accessed(struct cpu *c, struct desc *d) MUST_CHECK;

/* Loads CS from a checked descriptor with RPL replaced by cpl; sets c->cpl. */
void load_cs(struct cpu *c, const struct desc *d, uint16_t sel, unsigned cpl);
void load_ss(struct cpu *c, const struct desc *d, uint16_t sel);
/* The checks of a stack segment for privilege level cpl; vec is #TS or #GP as the caller's manual
 * page says. */
enum step check_ss(struct cpu *c, uint16_t sel, unsigned cpl, enum vector vec, uint32_t ext,
                   struct desc *d) MUST_CHECK;
/* DS, ES, FS, GS that an outer ring must not keep (SDM 3, "Returning from a Called Procedure"). */
void drop_inner_segs(struct cpu *c);
/* Is ip good in code segment d? #GP(0) if not. */
enum step check_ip(struct cpu *c, const struct desc *d, uint64_t ip) MUST_CHECK;

/* A stack being written before it becomes current. */
struct stack {
    uint64_t base, sp, mask;
    struct seg seg;
    bool long64;
    unsigned acc;
    enum vector vec; /* what a limit violation raises: #SS with err */
    uint32_t err;
};
struct stack stack_current(struct cpu *c);
enum step stack_push(struct cpu *c, struct stack *s, uint64_t val, unsigned bytes) MUST_CHECK;
enum step stack_pop(struct cpu *c, struct stack *s, uint64_t *val, unsigned bytes) MUST_CHECK;
void stack_commit(struct cpu *c, const struct stack *s);
/* SS:SP of an inner ring from the TSS (16- or 32-bit: sel and sp; 64-bit: RSP only). */
enum step tss_stack(struct cpu *c, unsigned cpl, uint32_t ext, uint16_t *sel,
                    uint64_t *sp) MUST_CHECK;
/* 64-bit TSS: RSP0..2 (idx 0..2) or IST1..7 (idx 4..10). */
enum step tss64_stack(struct cpu *c, unsigned idx, uint32_t ext, uint64_t *sp) MUST_CHECK;

enum task_cause { TASK_JMP, TASK_CALL, TASK_IRET, TASK_EVENT };
/* Switches to the task of TSS selector sel. has_err: push an error code on the new stack.
 * c->next_rip is saved. */
enum step cpu_task_switch(struct cpu *c, uint16_t sel, enum task_cause why, uint32_t ext,
                          bool has_err, uint32_t err) MUST_CHECK;

#endif
