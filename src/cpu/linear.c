/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From segment and offset to linear address: the checks of a data access (SDM 3, "Limit Checking",
 * "Type Checking"), stacks, and the I/O permission bit map.
 *
 * Real and v8086 mode know limits but no types: whatever descriptor a segment register was loaded
 * from, real mode may read and write through it.
 */
#include "cpu/desc.h"

#define EXPAND_DOWN_MASK (SEG_S | SEG_TYPE_CODE | SEG_TYPE_EXPAND_DOWN)
#define EXPAND_DOWN_DATA (SEG_S | SEG_TYPE_EXPAND_DOWN)

#define TSS_IO_BASE   102u
#define TSS_MIN_LIMIT 103u

/* SDM 3, "Limit Checking": that an access goes on at 0 beyond a limit of 4 GB may be a fault or
 * not. On Intel's processors it is none where the base is 0 (seen on Sapphire Rapids). */
static bool may_wrap(const struct cpu *c, const struct seg *s)
{
    return c->model->vendor == VENDOR_INTEL && s->limit == UINT32_MAX && !s->base;
}

bool seg_allows(const struct cpu *c, const struct seg *s, uint64_t off, unsigned bytes,
                unsigned acc)
{
    uint64_t last = off + bytes - 1;

    if (s->attr & SEG_UNUSABLE)
        return false;
    if (in_protected(c)) {
        if ((acc & ACC_WRITE) && !attr_is_writable(s->attr))
            return false;
        if (!(acc & (ACC_WRITE | ACC_EXEC)) && !attr_is_readable(s->attr))
            return false;
    }
    if (unlikely((s->attr & EXPAND_DOWN_MASK) == EXPAND_DOWN_DATA))
        return off > s->limit && last <= (s->attr & SEG_DB ? UINT32_MAX : UINT16_MAX);
    return last <= s->limit || (unlikely(last > UINT32_MAX) && may_wrap(c, s));
}

enum step cpu_linear(struct cpu *c, enum seg_id s, uint64_t off, unsigned bytes, unsigned acc,
                     gva_t *lin)
{
    const struct seg *seg = &c->seg[s];
    bool ok;

    if (in_long64(c)) {
        lin->v = s == SEG_FS || s == SEG_GS ? off + seg->base : off;
        ok = is_canonical(c, lin->v) && is_canonical(c, lin->v + bytes - 1);
    } else {
        lin->v = (uint32_t)(seg->base + off);
        ok = seg_allows(c, seg, off, bytes, acc);
    }
    if (likely(ok))
        return STEP_NEXT;
    return s == SEG_SS ? raise_ss(c, 0) : raise_gp(c, 0);
}

/* ---- stacks ---- */

uint64_t stack_mask(const struct stack *st)
{
    if (st->flat)
        return UINT64_MAX;
    return st->ss.attr & SEG_DB ? UINT32_MAX : UINT16_MAX;
}

struct stack stack_current(const struct cpu *c)
{
    struct stack st = { .ss = c->seg[SEG_SS], .flat = in_long64(c), .err = ext_err(c) };

    st.sp = c->gpr[RSP] & stack_mask(&st);
    return st;
}

/* SDM 3, "Alignment Check Exception": only accesses with the rights of CPL 3. */
static bool slot_misaligned(const struct cpu *c, const struct stack *st, gva_t at, unsigned bytes)
{
    return (at.v & (bytes - 1)) && is_user(c) && !(st->acc & ACC_SUPER) && (c->cr0 & CR0_AM) &&
           (c->rflags & RFLAGS_AC);
}

static bool slot_allowed(const struct cpu *c, const struct stack *st, uint64_t off, unsigned bytes,
                         unsigned acc)
{
    if (st->flat)
        return is_canonical(c, off) &&
               (is_canonical(c, off + bytes - 1) ||
                (cpu_aligns_first(c) && slot_misaligned(c, st, GVA(off), bytes)));
    return seg_allows(c, &st->ss, off, bytes, acc);
}

static gva_t slot_at(const struct stack *st, uint64_t off)
{
    return GVA(st->flat ? off : (uint32_t)(st->ss.base + off));
}

enum step stack_room(struct cpu *c, const struct stack *st, unsigned n, unsigned bytes)
{
    uint64_t sp = st->sp;

    for (unsigned i = 0; i < n; i++) {
        sp = (sp - bytes) & stack_mask(st);
        if (!slot_allowed(c, st, sp, bytes, ACC_WRITE))
            return raise_ss(c, st->err);
    }
    return STEP_NEXT;
}

enum step stack_push(struct cpu *c, struct stack *st, const uint64_t *vals, unsigned n,
                     unsigned bytes)
{
    uint64_t sp = st->sp, mask = stack_mask(st);
    enum step room = stack_room(c, st, n, bytes);

    if (room != STEP_NEXT)
        return room;
    for (unsigned i = 0; i < n; i++) {
        enum step res;
        gva_t at;

        sp = (sp - bytes) & mask;
        at = slot_at(st, sp);
        if (slot_misaligned(c, st, at, bytes))
            return raise_err(c, VEC_AC, 0);
        res = c->ops->write(c, at, &vals[i], bytes, st->acc | ACC_WRITE);
        if (res != STEP_NEXT)
            return res;
    }
    st->sp = sp;
    return STEP_NEXT;
}

enum step stack_peek(struct cpu *c, const struct stack *st, unsigned skip, unsigned bytes,
                     uint64_t *val)
{
    uint64_t off = (st->sp + skip) & stack_mask(st);
    gva_t at = slot_at(st, off);

    *val = 0;
    if (!slot_allowed(c, st, off, bytes, ACC_READ))
        return raise_ss(c, st->err);
    if (slot_misaligned(c, st, at, bytes))
        return raise_err(c, VEC_AC, 0);
    return c->ops->read(c, at, val, bytes, st->acc);
}

void stack_move(struct stack *st, uint64_t bytes)
{
    st->sp = (st->sp + bytes) & stack_mask(st);
}

uint64_t stack_rsp(const struct cpu *c, const struct stack *st, bool to_64)
{
    if (to_64 || st->flat)
        return st->sp;
    if (st->ss.attr & SEG_DB)
        return (uint32_t)st->sp;
    return (c->gpr[RSP] & ~(uint64_t)UINT16_MAX) | (uint16_t)st->sp;
}

enum step cpu_push(struct cpu *c, uint64_t val, unsigned bytes)
{
    struct stack st = stack_current(c);
    enum step res = stack_push(c, &st, &val, 1, bytes);

    if (res == STEP_NEXT)
        c->gpr[RSP] = stack_rsp(c, &st, in_long64(c));
    return res;
}

enum step cpu_pop(struct cpu *c, uint64_t *val, unsigned bytes)
{
    struct stack st = stack_current(c);

    return stack_peek(c, &st, 0, bytes, val);
}

/* ---- ports ---- */

enum step cpu_check_io(struct cpu *c, uint16_t port, unsigned bytes)
{
    unsigned type = attr_type(c->tr.attr);
    uint16_t base = 0, map = 0;
    uint32_t off;
    enum step st;

    if (!(c->mode & MODE_PE) || (!(c->mode & MODE_VM86) && c->cpl <= iopl(c)))
        return STEP_NEXT;
    if (type != SYS_TSS_BUSY && type != SYS_TSS_AVAIL)
        return raise_gp(c, 0); /* 16-bit task state has no map */
    if (c->tr.limit < TSS_MIN_LIMIT)
        return raise_gp(c, 0);
    st = c->ops->read(c, gva_add(GVA(c->tr.base), TSS_IO_BASE), &base, 2, ACC_IMPLICIT);
    if (st != STEP_NEXT)
        return st;
    /* Always two bytes, which is why the map ends with a byte of ones. */
    off = base + port / 8u;
    if (off + 1 > c->tr.limit)
        return raise_gp(c, 0);
    st = c->ops->read(c, gva_add(GVA(c->tr.base), off), &map, 2, ACC_IMPLICIT);
    if (st != STEP_NEXT)
        return st;
    if (map >> (port % 8) & (BIT(bytes) - 1))
        return raise_gp(c, 0);
    return STEP_NEXT;
}
