/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Far transfers (SDM 2: JMP, CALL, RET, IRET; SDM 3, "Accessing Code Segments", "Call Gates"). All
 * checks come first, then the stack, then the registers.
 */
#include "cpu/desc.h"

enum step check_ip(struct cpu *c, const struct desc *d, uint64_t ip)
{
    bool long64 = (c->mode & MODE_LMA) && (d->seg.attr & SEG_L);

    if (long64 ? !is_canonical(c, ip) : ip > d->seg.limit)
        return raise_gp(c, 0);
    return STEP_NEXT;
}

/* L and D together are invalid in long mode. */
static bool bad_long_code(const struct cpu *c, const struct desc *d)
{
    return (c->mode & MODE_LMA) && (d->seg.attr & (SEG_L | SEG_DB)) == (SEG_L | SEG_DB);
}

/* Code segment for a direct transfer that stays at CPL. */
static enum step check_direct(struct cpu *c, struct desc *d, uint16_t sel, uint64_t ip)
{
    unsigned dpl = desc_dpl(d);
    enum step st;

    if (bad_long_code(c, d))
        return raise_gp(c, sel & ~3u);
    if (desc_is_conforming(d) ? dpl > c->cpl : (sel & 3u) > c->cpl || dpl != c->cpl)
        return raise_gp(c, sel & ~3u);
    if (!desc_present(d))
        return raise_np(c, sel & ~3u);
    st = check_ip(c, d, ip);
    return st == STEP_NEXT ? desc_set_accessed(c, d) : st;
}

static enum step read_code_or_system(struct cpu *c, uint16_t sel, struct desc *d)
{
    if (sel_is_null(sel))
        return raise_gp(c, 0);
    return desc_read(c, sel, d, VEC_GP, 0);
}

/* Reads a call gate's target; *cpl is what the transfer would run at. */
static enum step read_gate_target(struct cpu *c, struct desc *g, bool is_call, struct desc *cs,
                                  unsigned *cpl, uint64_t *ip)
{
    bool lma = c->mode & MODE_LMA, wide = desc_type(g) == SYS_CALL_GATE;
    uint16_t sel = gate_sel(g);
    enum step st;

    if (desc_dpl(g) < c->cpl || (g->seg.sel & 3u) > desc_dpl(g))
        return raise_gp(c, g->seg.sel & ~3u);
    if (!desc_present(g))
        return raise_np(c, g->seg.sel & ~3u);
    if (lma) {
        /* Only the upper half of the offset is taken from the second eight bytes. */
        uint16_t keep = g->seg.sel;

        st = desc_read_high(c, g, VEC_GP, 0);
        g->seg.sel = keep;
        if (st != STEP_NEXT)
            return st;
    }
    *ip = gate_off(g, lma);
    if (!wide)
        *ip &= 0xffff;
    if (sel_is_null(sel))
        return raise_gp(c, 0);
    st = desc_read(c, sel, cs, VEC_GP, 0);
    if (st != STEP_NEXT)
        return st;
    if (!desc_is_code(cs) || desc_dpl(cs) > c->cpl ||
        (lma && (cs->seg.attr & (SEG_L | SEG_DB)) != SEG_L))
        return raise_gp(c, sel & ~3u);
    if (!is_call && !desc_is_conforming(cs) && desc_dpl(cs) != c->cpl)
        return raise_gp(c, sel & ~3u);
    if (!desc_present(cs))
        return raise_np(c, sel & ~3u);
    *cpl = desc_is_conforming(cs) ? c->cpl : desc_dpl(cs);
    return STEP_NEXT;
}

static bool is_tss(const struct desc *d)
{
    return desc_type(d) == SYS_TSS16_AVAIL || desc_type(d) == SYS_TSS_AVAIL;
}

/* A task gate or TSS as the target of JMP or CALL. */
static enum step transfer_task(struct cpu *c, const struct desc *d, enum task_cause why)
{
    uint16_t sel = d->seg.sel;

    if (desc_dpl(d) < c->cpl || desc_dpl(d) < (sel & 3u))
        return raise_gp(c, sel & ~3u);
    if (!desc_present(d))
        return raise_np(c, sel & ~3u);
    return cpu_task_switch(c, desc_type(d) == SYS_TASK_GATE ? gate_sel(d) : sel, why, 0, false, 0);
}

enum step cpu_far_jmp(struct cpu *c, uint16_t sel, uint64_t off, unsigned op_bytes)
{
    struct desc d, cs;
    unsigned cpl;
    uint64_t ip;
    enum step st;

    off = low_bytes(off, op_bytes);
    if (!in_protected(c)) {
        if (off > c->seg[SEG_CS].limit)
            return raise_gp(c, 0);
        cpu_load_seg_real(c, SEG_CS, sel);
        cpu_update_mode(c);
        c->rip = off;
        return STEP_NEXT;
    }
    st = read_code_or_system(c, sel, &d);
    if (st != STEP_NEXT)
        return st;
    if (d.seg.attr & SEG_S) {
        if (!desc_is_code(&d))
            return raise_gp(c, sel & ~3u);
        st = check_direct(c, &d, sel, off);
        if (st != STEP_NEXT)
            return st;
        load_cs(c, &d, sel, c->cpl);
        c->rip = off;
        return STEP_NEXT;
    }
    if (!(c->mode & MODE_LMA) && (is_tss(&d) || desc_type(&d) == SYS_TASK_GATE))
        return transfer_task(c, &d, TASK_JMP);
    if (desc_type(&d) != SYS_CALL_GATE &&
        (desc_type(&d) != SYS_CALL_GATE16 || (c->mode & MODE_LMA)))
        return raise_gp(c, sel & ~3u);
    st = read_gate_target(c, &d, false, &cs, &cpl, &ip);
    if (st == STEP_NEXT)
        st = check_ip(c, &cs, ip);
    if (st == STEP_NEXT)
        st = desc_set_accessed(c, &cs);
    if (st != STEP_NEXT)
        return st;
    load_cs(c, &cs, gate_sel(&d), c->cpl);
    c->rip = ip;
    return STEP_NEXT;
}

static enum step push_return(struct cpu *c, struct stack *s, unsigned bytes)
{
    enum step st = stack_push(c, s, c->seg[SEG_CS].sel, bytes);

    return st == STEP_NEXT ? stack_push(c, s, low_bytes(c->next_rip, bytes), bytes) : st;
}

/* CALL through a gate to an inner ring: new stack, parameters copied. */
static enum step call_inner(struct cpu *c, struct desc *g, struct desc *cs, unsigned cpl,
                            uint64_t ip)
{
    bool lma = c->mode & MODE_LMA;
    unsigned bytes = lma                             ? 8
                     : desc_type(g) == SYS_CALL_GATE ? 4
                                                     : 2,
             nr = lma ? 0 : g->lo >> 32 & 31;
    struct stack old = stack_current(c),
                 s = { .acc = ACC_SUPER, .vec = VEC_SS, .mask = ~0ull, .long64 = lma };
    uint64_t param[32], sp;
    uint16_t ss_sel = (uint16_t)cpl;
    struct desc ss = { .seg.attr = SEG_UNUSABLE | cpl << SEG_DPL_SHIFT };
    enum step st;

    if (lma) {
        st = tss64_stack(c, cpl, 0, &sp);
    } else {
        st = tss_stack(c, cpl, 0, &ss_sel, &sp);
        if (st == STEP_NEXT)
            st = check_ss(c, ss_sel, cpl, VEC_TS, 0, &ss);
        s.mask = ss.seg.attr & SEG_DB ? 0xffffffffu : 0xffffu;
        s.seg = ss.seg;
        s.err = ss_sel & ~3u;
    }
    s.sp = sp;
    if (st == STEP_NEXT)
        st = check_ip(c, cs, ip);
    for (unsigned i = 0; st == STEP_NEXT && i < nr; i++)
        st = stack_pop(c, &old, &param[i], bytes);
    if (st == STEP_NEXT)
        st = stack_push(c, &s, c->seg[SEG_SS].sel, bytes);
    if (st == STEP_NEXT)
        st = stack_push(c, &s, low_bytes(c->gpr[RSP], bytes), bytes);
    while (st == STEP_NEXT && nr-- > 0)
        st = stack_push(c, &s, param[nr], bytes);
    if (st == STEP_NEXT)
        st = push_return(c, &s, bytes);
    if (st == STEP_NEXT)
        st = desc_set_accessed(c, cs);
    if (st != STEP_NEXT)
        return st;
    load_ss(c, &ss, ss_sel);
    stack_commit(c, &s);
    load_cs(c, cs, gate_sel(g), cpl);
    c->rip = ip;
    return STEP_NEXT;
}

static enum step call_gate(struct cpu *c, struct desc *g)
{
    struct stack s = stack_current(c);
    unsigned cpl, bytes;
    struct desc cs;
    uint64_t ip;
    enum step st = read_gate_target(c, g, true, &cs, &cpl, &ip);

    if (st != STEP_NEXT)
        return st;
    if (cpl < c->cpl)
        return call_inner(c, g, &cs, cpl, ip);
    bytes = c->mode & MODE_LMA ? 8 : desc_type(g) == SYS_CALL_GATE ? 4 : 2;
    s.long64 |= bytes == 8;
    st = check_ip(c, &cs, ip);
    if (st == STEP_NEXT)
        st = push_return(c, &s, bytes);
    if (st == STEP_NEXT)
        st = desc_set_accessed(c, &cs);
    if (st != STEP_NEXT)
        return st;
    stack_commit(c, &s);
    load_cs(c, &cs, gate_sel(g), c->cpl);
    c->rip = ip;
    return STEP_NEXT;
}

enum step cpu_far_call(struct cpu *c, uint16_t sel, uint64_t off, unsigned op_bytes)
{
    struct stack s = stack_current(c);
    struct desc d;
    enum step st;

    off = low_bytes(off, op_bytes);
    if (!in_protected(c)) {
        if (off > c->seg[SEG_CS].limit)
            return raise_gp(c, 0);
        st = push_return(c, &s, op_bytes);
        if (st != STEP_NEXT)
            return st;
        stack_commit(c, &s);
        cpu_load_seg_real(c, SEG_CS, sel);
        cpu_update_mode(c);
        c->rip = off;
        return STEP_NEXT;
    }
    st = read_code_or_system(c, sel, &d);
    if (st != STEP_NEXT)
        return st;
    if (d.seg.attr & SEG_S) {
        if (!desc_is_code(&d))
            return raise_gp(c, sel & ~3u);
        st = check_direct(c, &d, sel, off);
        if (st == STEP_NEXT)
            st = push_return(c, &s, op_bytes);
        if (st != STEP_NEXT)
            return st;
        stack_commit(c, &s);
        load_cs(c, &d, sel, c->cpl);
        c->rip = off;
        return STEP_NEXT;
    }
    if (!(c->mode & MODE_LMA) && (is_tss(&d) || desc_type(&d) == SYS_TASK_GATE))
        return transfer_task(c, &d, TASK_CALL);
    if (desc_type(&d) != SYS_CALL_GATE &&
        (desc_type(&d) != SYS_CALL_GATE16 || (c->mode & MODE_LMA)))
        return raise_gp(c, sel & ~3u);
    return call_gate(c, &d);
}

/* ---- returns ---- */

/* The code segment a far RET or IRET goes back to. */
static enum step check_return_cs(struct cpu *c, uint16_t sel, struct desc *d)
{
    unsigned rpl = sel & 3;
    enum step st;

    if (sel_is_null(sel))
        return raise_gp(c, 0);
    st = desc_read(c, sel, d, VEC_GP, 0);
    if (st != STEP_NEXT)
        return st;
    if (!desc_is_code(d) || rpl < c->cpl || bad_long_code(c, d) ||
        (desc_is_conforming(d) ? desc_dpl(d) > rpl : desc_dpl(d) != rpl))
        return raise_gp(c, sel & ~3u);
    return desc_present(d) ? STEP_NEXT : raise_np(c, sel & ~3u);
}

/* The stack segment that an outer ring gets back; null is good for 64-bit code below ring 3. */
static enum step check_return_ss(struct cpu *c, uint16_t sel, unsigned rpl, const struct desc *cs,
                                 struct desc *d)
{
    if (sel_is_null(sel)) {
        if (!(c->mode & MODE_LMA) || !(cs->seg.attr & SEG_L) || rpl == 3 || (sel & 3) != rpl)
            return raise_gp(c, 0);
        *d = (struct desc){ .seg.attr = SEG_UNUSABLE | rpl << SEG_DPL_SHIFT };
        return STEP_NEXT;
    }
    return check_ss(c, sel, rpl, VEC_GP, 0, d);
}

/* RSP as wide as the new stack segment's addresses. */
static void set_return_sp(struct cpu *c, const struct desc *cs, const struct desc *ss, uint64_t sp,
                          unsigned op_bytes)
{
    if ((c->mode & MODE_LMA) && (cs->seg.attr & SEG_L))
        c->gpr[RSP] = low_bytes(sp, op_bytes);
    else if (ss->seg.attr & SEG_DB)
        c->gpr[RSP] = (uint32_t)sp;
    else
        c->gpr[RSP] = (c->gpr[RSP] & ~0xffffull) | (uint16_t)sp;
}

enum step cpu_far_ret(struct cpu *c, uint16_t pop_bytes, unsigned op_bytes)
{
    struct stack s = stack_current(c);
    uint64_t ip, cs_sel, sp, ss_sel;
    struct desc cs, ss;
    unsigned rpl;
    enum step st;

    st = stack_pop(c, &s, &ip, op_bytes);
    if (st == STEP_NEXT)
        st = stack_pop(c, &s, &cs_sel, op_bytes);
    if (st != STEP_NEXT)
        return st;
    if (!in_protected(c)) {
        if (ip > c->seg[SEG_CS].limit)
            return raise_gp(c, 0);
        s.sp = (s.sp & ~s.mask) | ((s.sp + pop_bytes) & s.mask);
        stack_commit(c, &s);
        cpu_load_seg_real(c, SEG_CS, (uint16_t)cs_sel);
        cpu_update_mode(c);
        c->rip = ip;
        return STEP_NEXT;
    }
    rpl = cs_sel & 3;
    st = check_return_cs(c, (uint16_t)cs_sel, &cs);
    if (st != STEP_NEXT)
        return st;
    s.sp = (s.sp & ~s.mask) | ((s.sp + pop_bytes) & s.mask);
    if (rpl == c->cpl) {
        st = check_ip(c, &cs, ip);
        if (st == STEP_NEXT)
            st = desc_set_accessed(c, &cs);
        if (st != STEP_NEXT)
            return st;
        stack_commit(c, &s);
        load_cs(c, &cs, (uint16_t)cs_sel, rpl);
        c->rip = ip;
        return STEP_NEXT;
    }
    st = stack_pop(c, &s, &sp, op_bytes);
    if (st == STEP_NEXT)
        st = stack_pop(c, &s, &ss_sel, op_bytes);
    if (st == STEP_NEXT)
        st = check_return_ss(c, (uint16_t)ss_sel, rpl, &cs, &ss);
    if (st == STEP_NEXT)
        st = check_ip(c, &cs, ip);
    if (st == STEP_NEXT)
        st = desc_set_accessed(c, &cs);
    if (st != STEP_NEXT)
        return st;
    load_ss(c, &ss, (uint16_t)ss_sel);
    set_return_sp(c, &cs, &ss, sp + pop_bytes, op_bytes);
    load_cs(c, &cs, (uint16_t)cs_sel, rpl);
    c->rip = ip;
    drop_inner_segs(c);
    return STEP_NEXT;
}

/* ---- IRET ---- */

/* Flags that an IRET of this size may change at the present CPL (SDM 2, IRET). */
static uint64_t iret_flags(const struct cpu *c, uint64_t image, unsigned op_bytes)
{
    uint64_t may = RFLAGS_ARITH | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT;

    if (op_bytes >= 4)
        may |= RFLAGS_RF | RFLAGS_AC | RFLAGS_ID;
    if (c->cpl <= iopl(c))
        may |= RFLAGS_IF;
    if (c->cpl == 0) {
        may |= RFLAGS_IOPL;
        if (op_bytes >= 4)
            may |= RFLAGS_VIF | RFLAGS_VIP;
    }
    return (c->rflags & ~may) | (image & may) | RFLAGS_FIXED1;
}

static enum step iret_real(struct cpu *c, unsigned op_bytes)
{
    struct stack s = stack_current(c);
    uint64_t ip, cs, fl, may = RFLAGS_ARITH | RFLAGS_TF | RFLAGS_IF | RFLAGS_DF | RFLAGS_NT;
    bool vm86 = c->mode & MODE_VM86, vme = false;
    enum step st;

    if (vm86 && iopl(c) < 3) {
        if (!(c->cr4 & CR4_VME) || op_bytes != 2)
            return raise_gp(c, 0);
        vme = true;
    }
    st = stack_pop(c, &s, &ip, op_bytes);
    if (st == STEP_NEXT)
        st = stack_pop(c, &s, &cs, op_bytes);
    if (st == STEP_NEXT)
        st = stack_pop(c, &s, &fl, op_bytes);
    if (st != STEP_NEXT)
        return st;
    if (ip > c->seg[SEG_CS].limit)
        return raise_gp(c, 0);
    if (vme) {
        /* IF stands for VIF; it may not let a pending virtual interrupt in, nor single-step. */
        if ((fl & RFLAGS_TF) || ((fl & RFLAGS_IF) && (c->rflags & RFLAGS_VIP)))
            return raise_gp(c, 0);
        may &= ~(uint64_t)RFLAGS_IF;
        c->rflags = fl & RFLAGS_IF ? c->rflags | RFLAGS_VIF : c->rflags & ~(uint64_t)RFLAGS_VIF;
    }
    if (op_bytes == 4)
        may |= RFLAGS_RF | RFLAGS_AC | RFLAGS_ID;
    if (!vm86)
        may |= RFLAGS_IOPL;
    stack_commit(c, &s);
    cpu_load_seg_real(c, SEG_CS, (uint16_t)cs);
    c->rip = ip;
    c->rflags = (c->rflags & ~may) | (fl & may) | RFLAGS_FIXED1;
    cpu_update_mode(c);
    return STEP_NEXT;
}

/* To v8086: EIP, CS, EFLAGS are popped; ESP, SS, ES, DS, FS, GS follow. */
static enum step iret_vm86(struct cpu *c, struct stack *s, uint64_t ip, uint64_t cs, uint64_t fl)
{
    static const enum seg_id order[] = { SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS };
    uint64_t sp, sel[5];
    enum step st = stack_pop(c, s, &sp, 4);

    for (unsigned i = 0; st == STEP_NEXT && i < 5; i++)
        st = stack_pop(c, s, &sel[i], 4);
    if (st != STEP_NEXT)
        return st;
    c->rflags = (fl & RFLAGS_KNOWN) | RFLAGS_FIXED1 | RFLAGS_VM;
    cpu_update_mode(c);
    cpu_load_seg_real(c, SEG_CS, (uint16_t)cs);
    for (unsigned i = 0; i < 5; i++)
        cpu_load_seg_real(c, order[i], (uint16_t)sel[i]);
    c->gpr[RSP] = (uint32_t)sp;
    c->rip = (uint16_t)ip;
    cpu_update_mode(c);
    return STEP_NEXT;
}

static enum step iret_task(struct cpu *c)
{
    uint16_t link;
    enum step st;

    if (c->mode & MODE_LMA)
        return raise_gp(c, 0);
    st = c->ops->read(c, GVA(c->tr.base), &link, 2, ACC_IMPLICIT);
    return st == STEP_NEXT ? cpu_task_switch(c, link, TASK_IRET, 0, false, 0) : st;
}

static enum step iret_protected(struct cpu *c, unsigned op_bytes)
{
    struct stack s = stack_current(c);
    uint64_t ip, cs_sel, fl, sp = 0, ss_sel = 0;
    struct desc cs, ss;
    bool long64 = in_long64(c), outer;
    unsigned rpl;
    enum step st;

    st = stack_pop(c, &s, &ip, op_bytes);
    if (st == STEP_NEXT)
        st = stack_pop(c, &s, &cs_sel, op_bytes);
    if (st == STEP_NEXT)
        st = stack_pop(c, &s, &fl, op_bytes);
    if (st != STEP_NEXT)
        return st;
    if (op_bytes == 4 && (fl & RFLAGS_VM) && c->cpl == 0 && !(c->mode & MODE_LMA))
        return iret_vm86(c, &s, ip, cs_sel, fl);
    rpl = cs_sel & 3;
    st = check_return_cs(c, (uint16_t)cs_sel, &cs);
    if (st != STEP_NEXT)
        return st;
    outer = rpl > c->cpl;
    if (outer || long64) {
        st = stack_pop(c, &s, &sp, op_bytes);
        if (st == STEP_NEXT)
            st = stack_pop(c, &s, &ss_sel, op_bytes);
        if (st == STEP_NEXT)
            st = check_return_ss(c, (uint16_t)ss_sel, rpl, &cs, &ss);
    }
    if (st == STEP_NEXT)
        st = check_ip(c, &cs, ip);
    if (st == STEP_NEXT)
        st = desc_set_accessed(c, &cs);
    if (st != STEP_NEXT)
        return st;
    c->rflags = iret_flags(c, fl, op_bytes);
    if (outer || long64) {
        load_ss(c, &ss, (uint16_t)ss_sel);
        set_return_sp(c, &cs, &ss, sp, op_bytes);
    } else {
        stack_commit(c, &s);
    }
    load_cs(c, &cs, (uint16_t)cs_sel, rpl);
    c->rip = ip;
    if (outer)
        drop_inner_segs(c);
    return STEP_NEXT;
}

enum step cpu_iret(struct cpu *c, unsigned op_bytes)
{
    enum step st;

    if (!in_protected(c))
        st = iret_real(c, op_bytes);
    else if (c->rflags & RFLAGS_NT)
        st = iret_task(c);
    else
        st = iret_protected(c, op_bytes);
    /* SDM 3, "Handling Multiple NMIs": the IRET unblocks even if it faults. */
    c->nmi_blocked = false;
    return st;
}
