/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Delivery of exceptions and interrupts through the IDT (SDM 3, "Interrupt and Exception Handling";
 * SDM 2, INT n): gates, stacks, what is pushed, and what an exception turns into when its delivery
 * raises another. Through the vector table of real mode: realint.c.
 */
#include "cpu/desc.h"

#define DR6_TRAPS 0xfull /* B0..B3 */

/* ---- the gate ---- */

static enum step raise_idt(struct cpu *c, enum vector vec, const struct event *e)
{
    return raise_err(c, vec, e->vector * 8u | ERR_IDT | ext_err(c));
}

static bool is_event_gate(const struct cpu *c, uint32_t attr)
{
    unsigned type = attr_type(attr);

    if (attr & SEG_S)
        return false;
    if (type == SYS_INT_GATE || type == SYS_TRAP_GATE)
        return true;
    return !in_ia32e(c) &&
           (type == SYS_TASK_GATE || type == SYS_INT_GATE16 || type == SYS_TRAP_GATE16);
}

static enum step read_gate(struct cpu *c, const struct event *e, struct gate *g)
{
    unsigned bytes = in_ia32e(c) ? 16 : 8;
    uint64_t raw[2] = { 0, 0 };
    struct desc d = { .ok = true };
    enum step st;

    if (e->vector * bytes + bytes - 1 > c->idtr.limit)
        return raise_idt(c, VEC_GP, e);
    d.at = gva_add(GVA(c->idtr.base), e->vector * bytes);
    st = c->ops->read(c, d.at, raw, bytes, ACC_IMPLICIT);
    if (st != STEP_NEXT)
        return st;
    d.lo = raw[0];
    d.hi = (uint32_t)raw[1];
    if (!is_event_gate(c, desc_attr(&d)))
        return raise_idt(c, VEC_GP, e);
    gate_unpack(&d, g);
    if (in_ia32e(c)) {
        g->bytes = 8;
        g->off |= d.hi << 32;
        g->ist = (unsigned)bits(d.lo, 34, 32);
    }
    if ((e->kind == EVENT_SOFT_INT || e->kind == EVENT_SOFT_EXC) && g->dpl < c->cpl)
        return raise_idt(c, VEC_GP, e);
    return g->present ? STEP_NEXT : raise_idt(c, VEC_NP, e);
}

/* ---- stack and frame ---- */

/* *to_new: SS changes too. */
static enum step pick_stack(struct cpu *c, const struct gate *g, const struct target *t,
                            struct stack *st, bool *to_new)
{
    enum step res = STEP_NEXT;

    *to_new = t->cpl < c->cpl;
    if (*to_new || g->ist)
        res = gate_inner_stack(c, t->cpl, g->ist, st);
    else
        *st = stack_current(c);
    if (!in_ia32e(c))
        return res;
    if (!*to_new && !g->ist)
        st->sp = c->gpr[RSP];
    st->flat = true;
    st->sp &= ~0xfull; /* SDM 3, "64-Bit Mode Stack Frame" */
    return res;
}

/* SDM 3, "Exception- or Interrupt-Handler Procedures". Returns the number of slots. */
static unsigned fill_frame(const struct cpu *c, const struct event *e, uint64_t rip, bool to_new,
                           uint64_t *f)
{
    unsigned n = 0;

    if (c->mode & MODE_VM86) {
        f[n++] = c->seg[SEG_GS].sel;
        f[n++] = c->seg[SEG_FS].sel;
        f[n++] = c->seg[SEG_DS].sel;
        f[n++] = c->seg[SEG_ES].sel;
    }
    if (to_new || in_ia32e(c)) {
        f[n++] = c->seg[SEG_SS].sel;
        f[n++] = c->gpr[RSP];
    }
    f[n++] = e->set_rf ? c->rflags | RFLAGS_RF : c->rflags;
    f[n++] = c->seg[SEG_CS].sel;
    f[n++] = rip;
    if (e->has_err)
        f[n++] = e->err;
    return n;
}

static void enter_handler(struct cpu *c, const struct gate *g, const struct target *t,
                          const struct stack *st, bool to_new)
{
    static const enum seg_id data[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };

    if (c->mode & MODE_VM86)
        for (unsigned i = 0; i < ARRAY_SIZE(data); i++)
            c->seg[data[i]] = seg_null(0);
    if (to_new)
        c->seg[SEG_SS] = st->ss;
    c->gpr[RSP] = stack_rsp(c, st, st->flat);
    c->rflags &= ~(uint64_t)(RFLAGS_TF | RFLAGS_VM | RFLAGS_RF | RFLAGS_NT);
    if (!(g->type & 1)) /* an interrupt gate, no trap gate */
        c->rflags &= ~(uint64_t)RFLAGS_IF;
    target_commit(c, t);
    cpu_update_mode(c);
}

static enum step through_idt(struct cpu *c, const struct event *e, uint64_t rip)
{
    uint64_t frame[10];
    struct target t = { 0 };
    struct stack st;
    struct gate g = { 0 };
    bool to_new;
    unsigned n;
    enum step res = read_gate(c, e, &g);

    if (res != STEP_NEXT)
        return res;
    if (g.type == SYS_TASK_GATE)
        return task_by_gate(c, g.sel,
                            &(struct task_switch){
                                .kind = TASK_INT,
                                .rip = rip,
                                .rflags = e->set_rf ? c->rflags | RFLAGS_RF : c->rflags,
                                .has_err = e->has_err,
                                .err = e->err,
                            });
    res = gate_code(c, &g, false, &t);
    if (res != STEP_NEXT)
        return res;
    /* From v8086 mode only a handler in ring 0 will do. */
    if ((c->mode & MODE_VM86) && t.cpl != 0)
        return raise_gp(c, sel_err(c, g.sel));
    res = pick_stack(c, &g, &t, &st, &to_new);
    if (res != STEP_NEXT)
        return res;
    n = fill_frame(c, e, rip, to_new, frame);
    res = stack_room(c, &st, n, g.bytes);
    if (res == STEP_NEXT)
        res = target_check_rip(c, &t);
    if (res == STEP_NEXT)
        res = desc_set_accessed(c, &t.desc);
    if (res == STEP_NEXT)
        res = stack_push(c, &st, frame, n, g.bytes);
    if (res == STEP_NEXT)
        enter_handler(c, &g, &t, &st, to_new);
    return res;
}

static enum step deliver_one(struct cpu *c, const struct event *e, uint64_t rip)
{
    enum step st = c->mode & MODE_PE ? through_idt(c, e, rip) : real_int(c, e, rip);

    if (st == STEP_NEXT)
        c->activity = CPU_RUNNING;
    return st;
}

/* ---- exceptions, and what becomes of two of them ---- */

enum exc_class { BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE_FAULT };

static enum exc_class class_of(uint8_t vector)
{
    switch (vector) {
    case VEC_DE:
    case VEC_TS:
    case VEC_NP:
    case VEC_SS:
    case VEC_GP:
        return CONTRIBUTORY;
    case VEC_PF:
        return PAGE_FAULT;
    case VEC_DF:
        return DOUBLE_FAULT;
    default:
        return BENIGN;
    }
}

/* SDM 3, "Conditions for Generating a Double Fault": does `second`, raised while `first` was
 * delivered, escalate? */
static bool escalates(uint8_t first, uint8_t second)
{
    enum exc_class a = class_of(first), b = class_of(second);

    if (b == BENIGN || a == BENIGN)
        return false;
    return a == PAGE_FAULT || a == DOUBLE_FAULT || b == CONTRIBUTORY;
}

/*
 * SDM 3, "Instruction-Breakpoint Exception Condition": RF is pushed set for faults, but for
 * instruction breakpoints, whose handler has to set it itself. #DF and #MC are aborts.
 */
static bool pushes_rf(const struct cpu_exc *e)
{
    if (e->vector == VEC_DB)
        return !(e->addr & DR6_TRAPS);
    return e->vector != VEC_DF && e->vector != VEC_MC;
}

/* DR6 keeps what earlier exceptions left, but for B0..B3 (SDM 3, "Debug Status Register"). */
static void enter_debug(struct cpu *c, uint64_t dr6)
{
    c->dr6 = (c->dr6 & ~DR6_TRAPS) | dr6 | DR6_FIXED1;
    if (c->dr7 & DR7_GD) {
        c->dr7 &= ~DR7_GD;
        c->ops->debug_changed(c);
    }
}

/* Registers an exception sets whether or not its handler can be reached. */
static void note_exception(struct cpu *c, const struct cpu_exc *e)
{
    if (e->vector == VEC_PF)
        c->cr2 = e->addr;
    else if (e->vector == VEC_DB)
        enter_debug(c, e->addr);
}

static enum step shut_down(struct cpu *c)
{
    c->activity = CPU_SHUTDOWN;
    return STEP_EXIT;
}

enum step cpu_deliver(struct cpu *c)
{
    struct cpu_exc first = { .valid = false };

    for (;;) {
        struct cpu_exc e = c->exc;
        struct event ev;
        enum step st;

        c->exc.valid = false;
        note_exception(c, &e);
        if (first.valid && escalates(first.vector, e.vector)) {
            if (first.vector == VEC_DF)
                return shut_down(c);
            e = (struct cpu_exc){ .valid = true, .vector = VEC_DF, .has_err = true };
        }
        ev = (struct event){ .vector = e.vector,
                             .kind = EVENT_EXCEPTION,
                             .has_err = e.has_err,
                             .set_rf = pushes_rf(&e),
                             .err = e.err };
        c->delivering = e;
        st = deliver_one(c, &ev, c->rip);
        c->delivering.valid = false;
        if (st == STEP_NEXT)
            return STEP_NEXT;
        first = e;
    }
}

/* ---- interrupts and traps ---- */

enum step event_deliver(struct cpu *c, const struct event *e)
{
    enum step st;

    c->delivering = (struct cpu_exc){ .valid = true, .vector = e->vector };
    st = deliver_one(c, e, c->rip);
    c->delivering.valid = false;
    /* Interrupts are benign: what their delivery raised is delivered in their place. */
    return st == STEP_NEXT ? STEP_NEXT : cpu_deliver(c);
}

enum step event_debug_trap(struct cpu *c, uint64_t dr6)
{
    enter_debug(c, dr6);
    return event_deliver(c, &(struct event){ .vector = VEC_DB, .kind = EVENT_EXCEPTION });
}

/* ---- INT n and relatives ---- */

enum step cpu_int(struct cpu *c, uint8_t vector, enum event_kind kind)
{
    struct event e = { .vector = vector, .kind = kind };
    uint16_t task = c->tr.sel;
    bool done = false;
    enum step st;

    /* INT1 is taken for an event the program did not ask for (SDM 3, "Error Code"). */
    c->delivering = (struct cpu_exc){ .valid = kind == EVENT_PRIV_SOFT_EXC, .vector = vector };
    c->rflags &= ~(uint64_t)RFLAGS_RF; /* cleared as each instruction begins: not in the image */
    st = kind == EVENT_SOFT_INT && (c->mode & MODE_VM86) ? vm86_int(c, vector, &done) : STEP_NEXT;
    if (st == STEP_NEXT && !done) {
        if (kind == EVENT_PRIV_SOFT_EXC) {
            c->pending_dbg = 0; /* of a MOV SS before it; other software interrupts leave it */
            enter_debug(c, 0);
        }
        st = deliver_one(c, &e, c->next_rip);
    }
    c->delivering.valid = false;
    /* Through a task gate to a task that cannot run: the fault is the new task's. */
    if (st == STEP_FAULT && c->tr.sel != task)
        return cpu_deliver(c);
    return st;
}
