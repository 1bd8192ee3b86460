/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Events through the IDT (SDM 3, "Interrupt and Exception Handling"): real mode, protected mode,
 * long mode, and from v8086 with its extensions; double and triple faults.
 */
#include "cpu/desc.h"

struct event {
    uint8_t vector;
    enum event_kind kind;
    bool has_err;
    bool fault; /* RF is set in the pushed image */
    uint32_t err;
    uint32_t ext; /* EXT bit of error codes that delivering it raises */
    uint64_t ret; /* RIP to push */
};

static bool is_soft(const struct event *e)
{
    return e->kind == EVENT_SOFT_INT || e->kind == EVENT_SOFT_EXC;
}

static uint64_t flags_image(const struct cpu *c, const struct event *e)
{
    return e->fault ? c->rflags | RFLAGS_RF : c->rflags;
}

static void set_flags(struct cpu *c, uint64_t clear)
{
    c->rflags = (c->rflags & ~clear) | RFLAGS_FIXED1;
}

/* ---- real mode, and INT n redirected to the v8086 program's own handler ---- */

static enum step deliver_real(struct cpu *c, const struct event *e, uint64_t base, uint64_t image,
                              uint64_t clear)
{
    struct stack s = stack_current(c);
    uint16_t at[2];
    enum step st;

    st = c->ops->read(c, GVA((uint32_t)(base + e->vector * 4u)), at, 4,
                      c->mode & MODE_VM86 ? ACC_READ : ACC_IMPLICIT);
    if (st == STEP_NEXT)
        st = stack_push(c, &s, (uint16_t)image, 2);
    if (st == STEP_NEXT)
        st = stack_push(c, &s, c->seg[SEG_CS].sel, 2);
    if (st == STEP_NEXT)
        st = stack_push(c, &s, (uint16_t)e->ret, 2);
    if (st != STEP_NEXT)
        return st;
    stack_commit(c, &s);
    cpu_load_seg_real(c, SEG_CS, at[1]);
    c->rip = at[0];
    set_flags(c, clear);
    cpu_update_mode(c);
    return STEP_NEXT;
}

/* ---- protected and long mode ---- */

static uint32_t idt_err(const struct event *e)
{
    return e->vector * 8u | 2 | e->ext;
}

static enum step read_gate(struct cpu *c, const struct event *e, struct desc *g)
{
    bool lma = c->mode & MODE_LMA;
    unsigned size = lma ? 16 : 8, type;
    enum step st;

    *g = (struct desc){ 0 };
    if (e->vector * size + size - 1 > c->idtr.limit)
        return raise_gp(c, idt_err(e));
    st = c->ops->read(c, GVA(c->idtr.base + e->vector * size), &g->lo, 8, ACC_IMPLICIT);
    if (st == STEP_NEXT && lma)
        st = c->ops->read(c, GVA(c->idtr.base + e->vector * size + 8), &g->hi, 8, ACC_IMPLICIT);
    if (st != STEP_NEXT)
        return st;
    desc_parse(g);
    type = desc_type(g);
    if ((g->seg.attr & SEG_S) ||
        (lma ? type != SYS_INT_GATE && type != SYS_TRAP_GATE
             : type != SYS_TASK_GATE && type != SYS_INT_GATE16 && type != SYS_TRAP_GATE16 &&
                   type != SYS_INT_GATE && type != SYS_TRAP_GATE))
        return raise_gp(c, idt_err(e));
    if (is_soft(e) && desc_dpl(g) < c->cpl)
        return raise_gp(c, e->vector * 8u | 2);
    if (!desc_present(g))
        return raise_np(c, idt_err(e));
    return STEP_NEXT;
}

/* The handler's code segment and the privilege level it will run at. */
static enum step read_target(struct cpu *c, const struct event *e, const struct desc *g,
                             struct desc *cs, unsigned *cpl)
{
    uint16_t sel = gate_sel(g);
    uint32_t err = (sel & ~3u) | e->ext;
    enum step st;

    if (sel_is_null(sel))
        return raise_gp(c, e->ext);
    st = desc_read(c, sel, cs, VEC_GP, e->ext);
    if (st != STEP_NEXT)
        return st;
    if (!desc_is_code(cs) || desc_dpl(cs) > c->cpl)
        return raise_gp(c, err);
    if ((c->mode & MODE_LMA) && (cs->seg.attr & (SEG_L | SEG_DB)) != SEG_L)
        return raise_gp(c, err);
    if (!desc_present(cs))
        return raise_np(c, err);
    *cpl = desc_is_conforming(cs) ? c->cpl : desc_dpl(cs);
    if ((c->mode & MODE_VM86) && *cpl != 0)
        return raise_gp(c, err);
    return STEP_NEXT;
}

static enum step deliver_long(struct cpu *c, const struct event *e, const struct desc *g,
                              struct desc *cs, unsigned cpl)
{
    unsigned ist = g->lo >> 32 & 7;
    struct stack s = { .mask = ~0ull, .long64 = true, .vec = VEC_SS, .err = e->ext };
    uint64_t rip = gate_off(g, true), old_rsp = c->gpr[RSP], frame[6];
    enum step st = STEP_NEXT;
    unsigned n = 0;

    s.acc = cpl < 3 ? ACC_SUPER : ACC_READ;
    s.sp = old_rsp;
    if (ist)
        st = tss64_stack(c, ist + 3, e->ext, &s.sp);
    else if (cpl < c->cpl)
        st = tss64_stack(c, cpl, e->ext, &s.sp);
    if (st != STEP_NEXT)
        return st;
    if (!is_canonical(c, rip))
        return raise_gp(c, e->ext);
    s.sp &= ~15ull;
    frame[n++] = c->seg[SEG_SS].sel;
    frame[n++] = old_rsp;
    frame[n++] = flags_image(c, e);
    frame[n++] = c->seg[SEG_CS].sel;
    frame[n++] = e->ret;
    if (e->has_err)
        frame[n++] = e->err;
    for (unsigned i = 0; i < n; i++) {
        st = stack_push(c, &s, frame[i], 8);
        if (st != STEP_NEXT)
            return st;
    }
    st = desc_set_accessed(c, cs);
    if (st != STEP_NEXT)
        return st;
    if (cpl < c->cpl) {
        c->seg[SEG_SS] =
            (struct seg){ .sel = (uint16_t)cpl, .attr = SEG_UNUSABLE | cpl << SEG_DPL_SHIFT };
    }
    c->gpr[RSP] = s.sp;
    set_flags(c, RFLAGS_TF | RFLAGS_NT | RFLAGS_RF | RFLAGS_VM |
                     (desc_type(g) == SYS_INT_GATE ? RFLAGS_IF : 0));
    load_cs(c, cs, gate_sel(g), cpl);
    c->rip = rip;
    return STEP_NEXT;
}

static enum step push_all(struct cpu *c, struct stack *s, const uint32_t *frame, unsigned n,
                          unsigned bytes)
{
    for (unsigned i = 0; i < n; i++) {
        enum step st = stack_push(c, s, frame[i], bytes);

        if (st != STEP_NEXT)
            return st;
    }
    return STEP_NEXT;
}

static enum step deliver_legacy(struct cpu *c, const struct event *e, const struct desc *g,
                                struct desc *cs, unsigned cpl)
{
    unsigned type = desc_type(g), bytes = type & 8 ? 4 : 2, n = 0;
    bool inner = cpl < c->cpl, vm86 = c->mode & MODE_VM86;
    struct stack s = stack_current(c);
    uint32_t frame[10];
    struct desc ss;
    uint16_t ss_sel = 0;
    uint64_t rip = gate_off(g, false);
    enum step st;

    if (inner) {
        uint64_t sp;

        st = tss_stack(c, cpl, e->ext, &ss_sel, &sp);
        if (st == STEP_NEXT)
            st = check_ss(c, ss_sel, cpl, VEC_TS, e->ext, &ss);
        if (st != STEP_NEXT)
            return st;
        s.seg = ss.seg;
        s.sp = sp;
        s.mask = ss.seg.attr & SEG_DB ? 0xffffffffu : 0xffffu;
        s.acc = ACC_SUPER;
        s.err = (ss_sel & ~3u) | e->ext;
        if (vm86) {
            static const enum seg_id order[] = { SEG_GS, SEG_FS, SEG_DS, SEG_ES };

            for (unsigned i = 0; i < 4; i++)
                frame[n++] = c->seg[order[i]].sel;
        }
        frame[n++] = c->seg[SEG_SS].sel;
        frame[n++] = (uint32_t)c->gpr[RSP];
    } else {
        s.err = e->ext;
    }
    if (bytes == 2)
        rip &= 0xffff;
    frame[n++] = (uint32_t)flags_image(c, e);
    frame[n++] = c->seg[SEG_CS].sel;
    frame[n++] = (uint32_t)e->ret;
    if (e->has_err)
        frame[n++] = e->err;
    if (rip > cs->seg.limit)
        return raise_gp(c, e->ext);
    st = push_all(c, &s, frame, n, bytes);
    if (st == STEP_NEXT)
        st = desc_set_accessed(c, cs);
    if (st != STEP_NEXT)
        return st;
    set_flags(c, RFLAGS_TF | RFLAGS_NT | RFLAGS_RF | RFLAGS_VM |
                     (type == SYS_INT_GATE || type == SYS_INT_GATE16 ? RFLAGS_IF : 0));
    if (vm86) {
        static const enum seg_id data[] = { SEG_DS, SEG_ES, SEG_FS, SEG_GS };

        for (unsigned i = 0; i < 4; i++)
            c->seg[data[i]] = (struct seg){ .attr = SEG_UNUSABLE };
    }
    if (inner)
        load_ss(c, &ss, ss_sel);
    stack_commit(c, &s);
    load_cs(c, cs, gate_sel(g), cpl);
    c->rip = rip;
    return STEP_NEXT;
}

static enum step deliver_event(struct cpu *c, const struct event *e)
{
    struct desc gate, cs;
    unsigned cpl = 0;
    enum step st;

    if (!(c->mode & MODE_PE)) {
        if (e->vector * 4u + 3 > c->idtr.limit)
            return raise_gp(c, 0);
        return deliver_real(c, e, c->idtr.base, c->rflags,
                            RFLAGS_IF | RFLAGS_TF | RFLAGS_AC | RFLAGS_RF);
    }
    st = read_gate(c, e, &gate);
    if (st != STEP_NEXT)
        return st;
    if (desc_type(&gate) == SYS_TASK_GATE) {
        c->next_rip = e->ret;
        return cpu_task_switch(c, gate_sel(&gate), TASK_EVENT, e->ext, e->has_err, e->err);
    }
    st = read_target(c, e, &gate, &cs, &cpl);
    if (st != STEP_NEXT)
        return st;
    return c->mode & MODE_LMA ? deliver_long(c, e, &gate, &cs, cpl)
                              : deliver_legacy(c, e, &gate, &cs, cpl);
}

/* ---- exceptions and what becomes of faults while delivering them ---- */

static bool is_contributory(unsigned vector)
{
    return vector == VEC_DE || (vector >= VEC_TS && vector <= VEC_GP);
}

/* SDM 3, "Interrupt 8—Double Fault Exception (#DF)": what first and second make together. */
static bool makes_double(unsigned first, unsigned second)
{
    if (first == VEC_PF)
        return second == VEC_PF || is_contributory(second);
    return is_contributory(first) && is_contributory(second);
}

/* What the processor notes of an exception apart from the handler's frame. */
static void note_exception(struct cpu *c, const struct cpu_exc *x)
{
    if (x->vector == VEC_PF)
        c->cr2 = x->addr;
    if (x->vector == VEC_DB) {
        c->dr6 |= x->addr;
        c->dr7 &= ~DR7_GD;
    }
}

enum step cpu_deliver(struct cpu *c)
{
    for (;;) {
        struct cpu_exc x = c->exc;
        /* RF goes into the image of faults, but of #DB only for general detect (SDM 3, "Instruction-
         * Breakpoint Exception Condition"): the handler of an instruction breakpoint sets it. */
        bool rf = x.vector != VEC_DB || (x.addr & DR6_BD);
        struct event e = { .vector = x.vector,
                           .kind = EVENT_EXCEPTION,
                           .has_err = x.has_err && (c->mode & MODE_PE),
                           .err = x.err,
                           .ext = 1,
                           .fault = rf,
                           .ret = c->rip };
        enum step st;

        note_exception(c, &x);
        c->delivering = x;
        c->exc.valid = false;
        st = deliver_event(c, &e);
        c->delivering.valid = false;
        if (st != STEP_FAULT)
            return st;
        if (x.vector == VEC_DF) {
            c->activity = CPU_SHUTDOWN;
            return STEP_EXIT;
        }
        if (makes_double(x.vector, c->exc.vector)) {
            if (c->exc.vector == VEC_PF)
                c->cr2 = c->exc.addr;
            (void)!raise_err(c, VEC_DF, 0);
        }
    }
}

/* An event that is no exception: if it faults, that exception is delivered in its place. */
static enum step deliver_async(struct cpu *c, uint8_t vector, enum event_kind kind)
{
    struct event e = { .vector = vector, .kind = kind, .ext = 1, .ret = c->rip };
    enum step st = deliver_event(c, &e);

    return st == STEP_FAULT ? cpu_deliver(c) : st;
}

/* ---- INT n, INT3, INTO, INT1 ---- */

/* SDM 3, "Class 3—Software Interrupt Handling in Virtual-8086 Mode": is the vector's bit in the
 * TSS's redirection map clear? */
static enum step redirected(struct cpu *c, uint8_t vector, bool *to_program)
{
    uint16_t map = 0;
    uint8_t byte = 0;
    enum step st;

    *to_program = false;
    if (c->tr.limit < 103)
        return raise_gp(c, 0);
    st = c->ops->read(c, GVA(c->tr.base + 102), &map, 2, ACC_IMPLICIT);
    if (st != STEP_NEXT)
        return st;
    if (map < 32 || map - 32u + vector / 8 > c->tr.limit)
        return raise_gp(c, 0);
    st = c->ops->read(c, GVA(c->tr.base + map - 32u + vector / 8), &byte, 1, ACC_IMPLICIT);
    if (st == STEP_NEXT)
        *to_program = !(byte >> (vector % 8) & 1);
    return st;
}

enum step cpu_int(struct cpu *c, uint8_t vector, enum event_kind kind)
{
    struct event e = {
        .vector = vector, .kind = kind, .ext = kind == EVENT_PRIV_SOFT_EXC, .ret = c->next_rip
    };

    if ((c->mode & MODE_VM86) && kind == EVENT_SOFT_INT) {
        bool to_program = false;

        if (c->cr4 & CR4_VME) {
            enum step st = redirected(c, vector, &to_program);

            if (st != STEP_NEXT)
                return st;
        }
        if (to_program && iopl(c) == 3)
            return deliver_real(c, &e, 0, c->rflags, RFLAGS_IF | RFLAGS_TF | RFLAGS_RF);
        if (to_program) {
            uint64_t image = (c->rflags & ~(uint64_t)RFLAGS_IF) | RFLAGS_IOPL;

            image |= c->rflags & RFLAGS_VIF ? RFLAGS_IF : 0;
            return deliver_real(c, &e, 0, image, RFLAGS_VIF | RFLAGS_TF | RFLAGS_RF);
        }
        if (iopl(c) < 3)
            return raise_gp(c, 0);
    }
    if (kind == EVENT_PRIV_SOFT_EXC)
        c->dr7 &= ~DR7_GD;
    return deliver_event(c, &e);
}

/* ---- events at instruction boundaries ---- */

void cpu_post(struct cpu *c, uint32_t req)
{
    /* Release: what was posted (PIR, lines) is visible to who sees the bit. Pairs with the acquire
     * in cpu_take_events(). */
    __atomic_fetch_or((uint32_t *)&c->req, req, __ATOMIC_ACQ_REL);
    c->ops->kick(c);
}

static uint32_t take_req(struct cpu *c, uint32_t bits)
{
    return __atomic_fetch_and((uint32_t *)&c->req, ~bits, __ATOMIC_ACQ_REL) & bits;
}

/* Interrupts of the 8259s go first where LINT0 passes them; -1: none. */
static int pending_interrupt(struct cpu *c, bool *ext)
{
    *ext = c->ops->pic_pending(c) && apic_accepts_extint(c);
    return *ext ? 0 : apic_pending_vector(c);
}

bool cpu_event_ready(struct cpu *c)
{
    bool ext;

    if (c->pending_dbg || (c->nmi_pending && !c->nmi_blocked))
        return true;
    if (!(c->rflags & RFLAGS_IF))
        return false;
    return pending_interrupt(c, &ext) >= 0;
}

static void do_init(struct cpu *c)
{
    cpu_reset(c, RESET_INIT);
    c->ops->tlb_flush(c, &(struct tlb_flush){ .kind = FLUSH_ALL });
    if (!(c->apic.base_msr & APIC_BASE_BSP))
        c->activity = CPU_WAIT_SIPI;
}

static void do_sipi(struct cpu *c)
{
    if (c->activity != CPU_WAIT_SIPI)
        return;
    c->activity = CPU_RUNNING;
    c->seg[SEG_CS].sel = (uint16_t)(c->sipi_vector << 8);
    c->seg[SEG_CS].base = (uint64_t)c->sipi_vector << 12;
    c->rip = 0;
}

static void take_requests(struct cpu *c)
{
    uint32_t req = take_req(c, REQ_IRQ | REQ_NMI | REQ_INIT | REQ_SIPI | REQ_TIMER | REQ_SMI);

    if (req & REQ_INIT)
        do_init(c);
    if (req & REQ_SIPI)
        do_sipi(c);
    if (req & REQ_TIMER)
        apic_timer_expired(c);
    if (req & REQ_NMI)
        c->nmi_pending = true;
    if ((req & REQ_SMI) && log_first(c->seen, 0x5311ull << 40))
        log_warn("guest: an SMI was sent; doppel has no system management mode and ignores it");
    apic_sync(c);
}

/*
 * The shadows block at this call, the one before the instruction behind STI or MOV SS, and are gone
 * at the next.
 */
enum step cpu_take_events(struct cpu *c)
{
    bool sti = c->shadow_sti, movss = c->shadow_movss, ext;
    int vector;

    take_requests(c);
    c->shadow_sti = c->shadow_movss = false;
    if (c->activity == CPU_WAIT_SIPI || c->activity == CPU_SHUTDOWN)
        return STEP_NEXT;
    if (c->pending_dbg && !movss) {
        uint64_t dr6 = c->pending_dbg;

        c->pending_dbg = 0;
        c->activity = CPU_RUNNING;
        (void)!raise_db(c, dr6);
        return cpu_deliver(c);
    }
    if (c->nmi_pending && !c->nmi_blocked && !movss) {
        c->nmi_pending = false;
        c->nmi_blocked = true;
        c->activity = CPU_RUNNING;
        return deliver_async(c, VEC_NMI, EVENT_NMI);
    }
    if (!(c->rflags & RFLAGS_IF) || sti || movss)
        return STEP_NEXT;
    vector = pending_interrupt(c, &ext);
    if (vector < 0)
        return STEP_NEXT;
    c->activity = CPU_RUNNING;
    return deliver_async(c, ext ? c->ops->pic_ack(c) : apic_ack(c), EVENT_EXT_INT);
}
