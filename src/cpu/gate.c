/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Call gates, and what they share with interrupt gates: the code segment behind a gate and the
 * stack of an inner ring (SDM 3, "Accessing a Code Segment Through a Call Gate", "Stack Switching",
 * "Stack Switching in 64-bit Mode").
 */
#include "cpu/desc.h"

#define MAX_PARAMS 31
#define TSS64_RSP0 4u
#define TSS64_IST1 36u
#define TSS32_ESP0 4u
#define TSS16_SP0  2u

/* ---- what call and interrupt gates share ---- */

enum step gate_code(struct cpu *c, const struct gate *g, bool is_jmp, struct target *t)
{
    struct desc d = { 0 };
    uint32_t attr;
    enum step st;
    bool conforming;
    unsigned dpl;

    if (sel_is_null(g->sel))
        return raise_gp(c, ext_err(c));
    st = desc_read(c, g->sel, VEC_GP, &d);
    if (st != STEP_NEXT)
        return st;
    attr = desc_attr(&d);
    dpl = attr_dpl(attr);
    conforming = attr_is_conforming(attr);
    if (!attr_is_code(attr) || dpl > c->cpl || (is_jmp && !conforming && dpl != c->cpl))
        return raise_gp(c, sel_err(c, g->sel));
    if (in_ia32e(c) && (attr & (SEG_L | SEG_DB)) != SEG_L)
        return raise_gp(c, sel_err(c, g->sel));
    if (!(attr & SEG_P))
        return raise_np(c, sel_err(c, g->sel));
    target_set_cs(t, &d, conforming ? c->cpl : dpl);
    t->rip = g->off;
    return STEP_NEXT;
}

/* A pointer of the current TSS: RSPn, ISTn, or SSn:ESPn. */
static enum step read_tss(struct cpu *c, uint32_t off, void *buf, unsigned bytes)
{
    if (off + bytes - 1 > c->tr.limit)
        return raise_ts(c, sel_err(c, c->tr.sel));
    return c->ops->read(c, gva_add(GVA(c->tr.base), off), buf, bytes, ACC_IMPLICIT);
}

/* IA-32e mode: the stack segment becomes null, the pointer comes from the TSS. */
static enum step inner_stack64(struct cpu *c, unsigned cpl, unsigned ist, struct stack *st)
{
    uint32_t off = ist ? TSS64_IST1 + 8 * (ist - 1) : TSS64_RSP0 + 8 * cpl;

    st->flat = true;
    st->err = ext_err(c);
    st->ss = seg_null((uint16_t)cpl);
    st->ss.attr |= (uint32_t)cpl << SEG_DPL_SHIFT;
    return read_tss(c, off, &st->sp, 8);
}

/* SS of an inner ring: SDM 2, CALL, "MORE-PRIVILEGE". */
static enum step inner_ss(struct cpu *c, uint16_t sel, unsigned cpl, struct stack *st)
{
    if (sel_is_null(sel))
        return raise_ts(c, ext_err(c));
    st->err = sel_err(c, sel);
    return seg_read_stack(c, sel, cpl, VEC_TS, &st->ss);
}

enum step gate_inner_stack(struct cpu *c, unsigned cpl, unsigned ist, struct stack *st)
{
    bool wide = attr_type(c->tr.attr) & BIT(3); /* a 32-bit TSS */
    uint8_t raw[6] = { 0 };
    uint32_t sp;
    enum step res;

    *st = (struct stack){ .acc = cpl < 3 ? ACC_SUPER : 0 };
    if (in_ia32e(c))
        return inner_stack64(c, cpl, ist, st);
    res = read_tss(c, wide ? TSS32_ESP0 + 8 * cpl : TSS16_SP0 + 4 * cpl, raw, wide ? 6 : 4);
    if (res != STEP_NEXT)
        return res;
    sp = raw[0] | (uint32_t)raw[1] << 8;
    if (wide)
        sp |= (uint32_t)raw[2] << 16 | (uint32_t)raw[3] << 24;
    res = inner_ss(c, wide ? (uint16_t)(raw[4] | raw[5] << 8) : (uint16_t)(raw[2] | raw[3] << 8),
                   cpl, st);
    st->sp = st->ss.attr & SEG_DB ? sp : (uint16_t)sp;
    return res;
}

/* ---- call gates ---- */

static enum step call_gate(struct cpu *c, const struct desc *in, bool is_jmp, struct gate *g,
                           struct target *t)
{
    struct desc d = *in;
    enum step st = desc_read_high(c, VEC_GP, &d);

    if (st != STEP_NEXT)
        return st;
    gate_unpack(&d, g);
    if (in_ia32e(c)) {
        g->bytes = 8;
        g->nr_params = 0;
        g->off |= d.hi << 32;
    }
    return gate_code(c, g, is_jmp, t);
}

enum step gate_jmp(struct cpu *c, const struct desc *d)
{
    struct gate g = { 0 };
    struct target t = { 0 };
    enum step st = call_gate(c, d, true, &g, &t);

    if (st == STEP_NEXT)
        st = target_check_rip(c, &t);
    if (st == STEP_NEXT)
        st = desc_set_accessed(c, &t.desc);
    if (st != STEP_NEXT)
        return st;
    target_commit(c, &t);
    cpu_update_mode(c);
    return STEP_NEXT;
}

/* To the same ring: only CS:RIP go to the current stack. */
static enum step call_same(struct cpu *c, const struct gate *g, struct target *t)
{
    uint64_t frame[] = { c->seg[SEG_CS].sel, c->next_rip };
    struct stack st = stack_current(c);
    enum step res;

    st.flat |= g->bytes == 8;
    if (st.flat)
        st.sp = c->gpr[RSP];
    res = stack_room(c, &st, ARRAY_SIZE(frame), g->bytes);
    if (res == STEP_NEXT)
        res = target_check_rip(c, t);
    if (res == STEP_NEXT)
        res = desc_set_accessed(c, &t->desc);
    if (res == STEP_NEXT)
        res = stack_push(c, &st, frame, ARRAY_SIZE(frame), g->bytes);
    if (res != STEP_NEXT)
        return res;
    c->gpr[RSP] = stack_rsp(c, &st, st.flat);
    target_commit(c, t);
    cpu_update_mode(c);
    return STEP_NEXT;
}

static enum step call_inner(struct cpu *c, const struct gate *g, struct target *t)
{
    uint64_t frame[4 + MAX_PARAMS] = { c->seg[SEG_SS].sel, c->gpr[RSP] };
    struct stack old = stack_current(c), st;
    unsigned n = 2;
    enum step res = gate_inner_stack(c, t->cpl, 0, &st);

    if (res == STEP_NEXT)
        res = stack_room(c, &st, 4 + g->nr_params, g->bytes);
    if (res == STEP_NEXT)
        res = target_check_rip(c, t);
    /* The last parameter pushed is the first on the old stack. */
    for (unsigned i = g->nr_params; res == STEP_NEXT && i-- > 0;)
        res = stack_peek(c, &old, i * g->bytes, g->bytes, &frame[n++]);
    frame[n++] = c->seg[SEG_CS].sel;
    frame[n++] = c->next_rip;
    if (res == STEP_NEXT)
        res = desc_set_accessed(c, &t->desc);
    if (res == STEP_NEXT)
        res = stack_push(c, &st, frame, n, g->bytes);
    if (res != STEP_NEXT)
        return res;
    target_commit(c, t);
    c->seg[SEG_SS] = st.ss;
    c->gpr[RSP] = stack_rsp(c, &st, st.flat);
    cpu_update_mode(c);
    return STEP_NEXT;
}

enum step gate_call(struct cpu *c, const struct desc *d)
{
    struct gate g = { 0 };
    struct target t = { 0 };
    enum step st = call_gate(c, d, false, &g, &t);

    if (st != STEP_NEXT)
        return st;
    return t.cpl < c->cpl ? call_inner(c, &g, &t) : call_same(c, &g, &t);
}
