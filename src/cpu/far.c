/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Far JMP, CALL and RET (SDM 2, the pages of these instructions; SDM 3, "Privilege Level Checking
 * When Transferring Program Control Between Code Segments"). Through gates: gate.c. To tasks:
 * task.c.
 *
 * Everything is checked and read, the stack is written, and only then do registers change.
 *
 * A REX.W prefix makes JMP and CALL m16:64 on Intel; AMD ignores it. That is the decoder's
 * business: op_bytes = 8 means that the instruction did have a 64-bit offset.
 */
#include "cpu/desc.h"

/* ---- targets ---- */

enum step target_check_rip(struct cpu *c, struct target *t)
{
    if (in_ia32e(c) && (t->cs.attr & SEG_L)) {
        if (!is_canonical(c, t->rip))
            return raise_gp(c, ext_err(c));
        return STEP_NEXT;
    }
    /* From 64-bit code to compatibility mode Intel's processors take the lower half (seen on
     * Sapphire Rapids: JMP m16:64, IRETQ). */
    if (in_ia32e(c) && c->model->vendor == VENDOR_INTEL)
        t->rip = (uint32_t)t->rip;
    return t->rip > t->cs.limit ? raise_gp(c, ext_err(c)) : STEP_NEXT;
}

void target_commit(struct cpu *c, const struct target *t)
{
    c->seg[SEG_CS] = t->cs;
    c->cpl = (uint8_t)t->cpl;
    c->rip = t->rip;
}

void target_set_cs(struct target *t, const struct desc *d, unsigned cpl)
{
    t->desc = *d;
    t->cpl = cpl;
    t->cs = desc_seg(d, (uint16_t)((d->sel & ~SEL_RPL) | cpl));
    t->cs.attr |= SEG_TYPE_ACCESSED;
}

/* 64-bit code with D set is no valid combination. */
static bool is_bad_long_code(const struct cpu *c, uint32_t attr)
{
    return in_ia32e(c) && (attr & SEG_L) && (attr & SEG_DB);
}

static enum step rip_in_real(struct cpu *c, uint64_t off)
{
    return off > c->seg[SEG_CS].limit ? raise_gp(c, 0) : STEP_NEXT;
}

static void commit_real(struct cpu *c, uint16_t sel, uint64_t off)
{
    cpu_load_seg_real(c, SEG_CS, sel);
    c->rip = off;
    cpu_update_mode(c);
}

/* ---- JMP and CALL ---- */

/* A code segment named by the instruction itself. */
static enum step direct_target(struct cpu *c, const struct desc *d, uint64_t off, struct target *t)
{
    uint32_t attr = desc_attr(d);

    if (is_bad_long_code(c, attr))
        return raise_gp(c, sel_err(c, d->sel));
    if (attr_is_conforming(attr)) {
        if (attr_dpl(attr) > c->cpl)
            return raise_gp(c, sel_err(c, d->sel));
    } else if (sel_rpl(d->sel) > c->cpl || attr_dpl(attr) != c->cpl) {
        return raise_gp(c, sel_err(c, d->sel));
    }
    if (!(attr & SEG_P))
        return raise_np(c, sel_err(c, d->sel));
    target_set_cs(t, d, c->cpl);
    t->rip = off;
    return STEP_NEXT;
}

static enum step jmp_direct(struct cpu *c, const struct desc *d, uint64_t off)
{
    struct target t = { 0 };
    enum step st = direct_target(c, d, off, &t);

    if (st == STEP_NEXT)
        st = target_check_rip(c, &t);
    if (st == STEP_NEXT)
        st = desc_set_accessed(c, d);
    if (st != STEP_NEXT)
        return st;
    target_commit(c, &t);
    cpu_update_mode(c);
    return STEP_NEXT;
}

/* Between 64-bit code and compatibility mode RSP moves by the stack's size for the new code: in
 * CALL (seen on Zen 5 and Sapphire Rapids), and on AMD's processors in RET. */
static struct stack transfer_stack(const struct cpu *c, const struct target *t, bool call)
{
    struct stack st = stack_current(c);

    if (in_ia32e(c) && (call || c->model->vendor == VENDOR_AMD)) {
        st.flat = t->cs.attr & SEG_L;
        st.sp = c->gpr[RSP] & stack_mask(&st);
    }
    return st;
}

static enum step call_direct(struct cpu *c, const struct desc *d, uint64_t off, unsigned op_bytes)
{
    uint64_t frame[] = { c->seg[SEG_CS].sel, c->next_rip };
    struct stack st;
    struct target t = { 0 };
    enum step res = direct_target(c, d, off, &t);

    st = transfer_stack(c, &t, true);
    /* A bad target is found only when the return address lies on the stack. */
    if (res == STEP_NEXT)
        res = stack_push(c, &st, frame, ARRAY_SIZE(frame), op_bytes);
    if (res == STEP_NEXT)
        res = target_check_rip(c, &t);
    if (res == STEP_NEXT)
        res = desc_set_accessed(c, d);
    if (res != STEP_NEXT)
        return res;
    c->gpr[RSP] = stack_rsp(c, &st, st.flat);
    target_commit(c, &t);
    cpu_update_mode(c);
    return STEP_NEXT;
}

/* A system descriptor: a gate or a TSS. */
static enum step far_system(struct cpu *c, struct desc *d, enum task_kind kind)
{
    uint32_t attr = desc_attr(d);
    unsigned type = attr_type(attr);
    bool is_task = type == SYS_TSS_AVAIL || type == SYS_TSS16_AVAIL || type == SYS_TASK_GATE;
    bool is_gate = type == SYS_CALL_GATE || type == SYS_CALL_GATE16;
    struct task_switch how = { .kind = kind, .rip = c->next_rip, .rflags = c->rflags };

    /* IA-32e mode knows no tasks and no 16-bit gates. */
    if (in_ia32e(c) && type != SYS_CALL_GATE)
        return raise_gp(c, sel_err(c, d->sel));
    if ((!is_task && !is_gate) || attr_dpl(attr) < MAX(c->cpl, sel_rpl(d->sel)))
        return raise_gp(c, sel_err(c, d->sel));
    if (!(attr & SEG_P))
        return raise_np(c, sel_err(c, d->sel));
    if (is_gate)
        return kind == TASK_CALL ? gate_call(c, d) : gate_jmp(c, d);
    if (type == SYS_TASK_GATE)
        return task_by_gate(c, (uint16_t)bits(d->lo, 31, 16), &how);
    /* A TSS may not be named through the LDT (SDM 3, "TSS Descriptor"). */
    if (d->sel & SEL_TI)
        return raise_gp(c, sel_err(c, d->sel));
    return task_switch(c, d, &how);
}

static enum step read_far(struct cpu *c, uint16_t sel, struct desc *d)
{
    if (sel_is_null(sel))
        return raise_gp(c, 0);
    return desc_read(c, sel, VEC_GP, d);
}

/* A descriptor with S set that is no code. */
static bool is_data(const struct desc *d)
{
    return (desc_attr(d) & SEG_S) && !attr_is_code(desc_attr(d));
}

enum step cpu_far_jmp(struct cpu *c, uint16_t sel, uint64_t off, unsigned op_bytes)
{
    struct desc d = { 0 };
    enum step st;

    off = low_bytes(off, op_bytes);
    if (!in_protected(c)) {
        st = rip_in_real(c, off);
        if (st == STEP_NEXT)
            commit_real(c, sel, off);
        return st;
    }
    st = read_far(c, sel, &d);
    if (st != STEP_NEXT)
        return st;
    if (is_data(&d))
        return raise_gp(c, sel_err(c, sel));
    return desc_attr(&d) & SEG_S ? jmp_direct(c, &d, off) : far_system(c, &d, TASK_JMP);
}

static enum step call_real(struct cpu *c, uint16_t sel, uint64_t off, unsigned op_bytes)
{
    uint64_t frame[] = { c->seg[SEG_CS].sel, c->next_rip };
    struct stack st = stack_current(c);
    enum step res = stack_room(c, &st, ARRAY_SIZE(frame), op_bytes);

    if (res == STEP_NEXT)
        res = rip_in_real(c, off);
    if (res == STEP_NEXT)
        res = stack_push(c, &st, frame, ARRAY_SIZE(frame), op_bytes);
    if (res != STEP_NEXT)
        return res;
    c->gpr[RSP] = stack_rsp(c, &st, false);
    commit_real(c, sel, off);
    return STEP_NEXT;
}

enum step cpu_far_call(struct cpu *c, uint16_t sel, uint64_t off, unsigned op_bytes)
{
    struct desc d = { 0 };
    enum step st;

    off = low_bytes(off, op_bytes);
    if (!in_protected(c))
        return call_real(c, sel, off, op_bytes);
    st = read_far(c, sel, &d);
    if (st != STEP_NEXT)
        return st;
    if (is_data(&d))
        return raise_gp(c, sel_err(c, sel));
    return desc_attr(&d) & SEG_S ? call_direct(c, &d, off, op_bytes) : far_system(c, &d, TASK_CALL);
}

/* ---- RET, and what IRET shares with it ---- */

enum step return_target(struct cpu *c, uint16_t sel, uint64_t rip, struct target *t)
{
    struct desc d = { 0 };
    uint32_t attr;
    enum step st;
    unsigned rpl = sel_rpl(sel);

    if (sel_is_null(sel))
        return raise_gp(c, 0);
    st = desc_read(c, sel, VEC_GP, &d);
    if (st != STEP_NEXT)
        return st;
    attr = desc_attr(&d);
    if (!attr_is_code(attr) || rpl < c->cpl || is_bad_long_code(c, attr))
        return raise_gp(c, sel_err(c, sel));
    if (attr_is_conforming(attr) ? attr_dpl(attr) > rpl : attr_dpl(attr) != rpl)
        return raise_gp(c, sel_err(c, sel));
    if (!(attr & SEG_P))
        return raise_np(c, sel_err(c, sel));
    target_set_cs(t, &d, rpl);
    t->rip = rip;
    return STEP_NEXT;
}

enum step return_stack(struct cpu *c, const struct target *t, uint16_t sel, struct stack *out)
{
    if (sel_is_null(sel)) {
        /* SDM 3, "Null Segment Selector in IA-32e mode" */
        if (!in_ia32e(c) || !(t->cs.attr & SEG_L) || t->cpl == 3 || sel_rpl(sel) != t->cpl)
            return raise_gp(c, 0);
        out->ss = seg_null(sel);
        out->ss.attr |= (uint32_t)t->cpl << SEG_DPL_SHIFT;
        return STEP_NEXT;
    }
    return seg_read_stack(c, sel, t->cpl, VEC_GP, &out->ss);
}

void return_commit(struct cpu *c, const struct target *t, const struct stack *st)
{
    static const enum seg_id data[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };
    bool to_64 = in_ia32e(c) && (t->cs.attr & SEG_L);
    bool outer = t->cpl > c->cpl;

    target_commit(c, t);
    c->seg[SEG_SS] = st->ss;
    c->gpr[RSP] = stack_rsp(c, &(struct stack){ .ss = st->ss, .sp = st->sp }, to_64);
    cpu_update_mode(c);
    if (!outer)
        return;
    /* What the outer ring could not have loaded itself becomes null. A register that is null
     * already loses its RPL (seen on AMD's processors) but keeps its base: 64-bit systems put FS
     * and GS bases there by MSR. */
    for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
        struct seg *s = &c->seg[data[i]];

        if (s->attr & SEG_UNUSABLE) {
            s->sel = 0;
            continue;
        }
        if (attr_dpl(s->attr) >= t->cpl)
            continue;
        if (attr_is_code(s->attr) && attr_is_conforming(s->attr))
            continue;
        s->sel = 0;
        s->attr = SEG_UNUSABLE;
    }
}

static enum step ret_real(struct cpu *c, uint16_t pop_bytes, unsigned op_bytes)
{
    struct stack st = stack_current(c);
    uint64_t rip, cs;
    enum step res = stack_peek(c, &st, 0, op_bytes, &rip);

    if (res == STEP_NEXT)
        res = stack_peek(c, &st, op_bytes, op_bytes, &cs);
    if (res == STEP_NEXT)
        res = rip_in_real(c, rip);
    if (res != STEP_NEXT)
        return res;
    stack_move(&st, 2 * op_bytes + pop_bytes);
    c->gpr[RSP] = stack_rsp(c, &st, false);
    commit_real(c, (uint16_t)cs, rip);
    return STEP_NEXT;
}

/* The outer ring's SS:RSP lie above the parameters, which go from both stacks. */
static enum step ret_outer(struct cpu *c, struct target *t, struct stack *st, uint16_t pop_bytes,
                           unsigned op_bytes)
{
    struct stack out = { .sp = 0 };
    uint64_t rsp, ss;
    enum step res = stack_peek(c, st, 2 * op_bytes + pop_bytes, op_bytes, &rsp);

    if (res == STEP_NEXT)
        res = stack_peek(c, st, 3 * op_bytes + pop_bytes, op_bytes, &ss);
    if (res == STEP_NEXT)
        res = return_stack(c, t, (uint16_t)ss, &out);
    if (res == STEP_NEXT)
        res = target_check_rip(c, t);
    if (res == STEP_NEXT)
        res = desc_set_accessed(c, &t->desc);
    if (res != STEP_NEXT)
        return res;
    out.sp = rsp + pop_bytes;
    return_commit(c, t, &out);
    return STEP_NEXT;
}

/* RSP behind a frame and its parameters. Those are released by Intel's processors when the new code
 * is there: for 64-bit code by all of RSP (seen on Sapphire Rapids). */
static uint64_t released_rsp(const struct cpu *c, const struct target *t, unsigned frame_bytes,
                             uint16_t pop_bytes)
{
    struct stack st = transfer_stack(c, t, false);

    if (c->model->vendor == VENDOR_INTEL && in_ia32e(c) && (t->cs.attr & SEG_L) && !st.flat) {
        stack_move(&st, frame_bytes);
        return stack_rsp(c, &st, false) + pop_bytes;
    }
    stack_move(&st, frame_bytes + pop_bytes);
    return stack_rsp(c, &st, st.flat);
}

enum step cpu_far_ret(struct cpu *c, uint16_t pop_bytes, unsigned op_bytes)
{
    struct stack st = stack_current(c);
    struct target t = { 0 };
    uint64_t rip, cs;
    /* Intel's processors do not look at the rest of the slot (seen on Sapphire Rapids). */
    unsigned sel_bytes = c->model->vendor == VENDOR_INTEL ? 2 : op_bytes;
    enum step res;

    if (!in_protected(c))
        return ret_real(c, pop_bytes, op_bytes);
    res = stack_peek(c, &st, 0, op_bytes, &rip);
    if (res == STEP_NEXT)
        res = stack_peek(c, &st, op_bytes, sel_bytes, &cs);
    if (res == STEP_NEXT)
        res = return_target(c, (uint16_t)cs, rip, &t);
    if (res != STEP_NEXT)
        return res;
    if (t.cpl > c->cpl)
        return ret_outer(c, &t, &st, pop_bytes, op_bytes);
    res = target_check_rip(c, &t);
    if (res == STEP_NEXT)
        res = desc_set_accessed(c, &t.desc);
    if (res != STEP_NEXT)
        return res;
    c->gpr[RSP] = released_rsp(c, &t, 2 * op_bytes, pop_bytes);
    target_commit(c, &t);
    cpu_update_mode(c);
    return STEP_NEXT;
}
