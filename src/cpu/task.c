/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hardware task switching (SDM 3, "Task Management"), and stacks taken from the TSS.
 *
 * The order follows the manual: what is checked before the commit point faults in the old task,
 * what is loaded after it (LDT, segment registers) faults in the new one.
 */
#include "cpu/desc.h"

#include <string.h>

struct tss32 {
    uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags;
    uint32_t gpr[8]; /* EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI */
    uint32_t seg[6]; /* ES, CS, SS, DS, FS, GS */
    uint32_t ldt;
    uint16_t trap, io_map;
};
_Static_assert(sizeof(struct tss32) == 104, "SDM 3, 32-Bit Task-State Segment");

struct tss16 {
    uint16_t link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags;
    uint16_t gpr[8];
    uint16_t seg[4];
    uint16_t ldt;
};
_Static_assert(sizeof(struct tss16) == 44, "SDM 3, 16-Bit TSS Format");

/* ---- stacks ---- */

enum step tss_stack(struct cpu *c, unsigned cpl, uint32_t ext, uint16_t *sel, uint64_t *sp)
{
    bool wide = desc_type(&(struct desc){ .seg = c->tr }) & 8;
    unsigned off = wide ? 4 + cpl * 8 : 2 + cpl * 4, n = wide ? 4 : 2;
    uint32_t buf[2] = { 0 };
    enum step st;

    if (off + 2 * n - 1 > c->tr.limit)
        return raise_ts(c, (c->tr.sel & ~3u) | ext);
    st = c->ops->read(c, GVA(c->tr.base + off), buf, 2 * n, ACC_IMPLICIT);
    if (st != STEP_NEXT)
        return st;
    *sp = wide ? buf[0] : buf[0] & 0xffff;
    *sel = (uint16_t)(wide ? buf[1] : buf[0] >> 16);
    return STEP_NEXT;
}

enum step tss64_stack(struct cpu *c, unsigned idx, uint32_t ext, uint64_t *sp)
{
    unsigned off = 4 + idx * 8;
    enum step st;

    if (off + 7 > c->tr.limit)
        return raise_ts(c, (c->tr.sel & ~3u) | ext);
    st = c->ops->read(c, GVA(c->tr.base + off), sp, 8, ACC_IMPLICIT);
    if (st != STEP_NEXT)
        return st;
    return is_canonical(c, *sp) ? STEP_NEXT : raise_ss(c, ext);
}

/* ---- the switch ---- */

/* The state that a task switch moves, whichever format it has in memory. */
struct task {
    uint32_t cr3, eip, eflags, gpr[8];
    uint16_t seg[6], ldt, link;
    bool trap;
};

static enum step task_load(struct cpu *c, const struct desc *d, struct task *t)
{
    enum step st;

    *t = (struct task){ 0 };
    if (desc_type(d) & 8) {
        struct tss32 s;

        st = c->ops->read(c, GVA(d->seg.base), &s, sizeof(s), ACC_IMPLICIT);
        if (st != STEP_NEXT)
            return st;
        *t = (struct task){ .cr3 = s.cr3,
                            .eip = s.eip,
                            .eflags = s.eflags,
                            .ldt = (uint16_t)s.ldt,
                            .link = (uint16_t)s.link,
                            .trap = s.trap & 1 };
        memcpy(t->gpr, s.gpr, sizeof(s.gpr));
        for (unsigned i = 0; i < 6; i++)
            t->seg[i] = (uint16_t)s.seg[i];
    } else {
        struct tss16 s;

        st = c->ops->read(c, GVA(d->seg.base), &s, sizeof(s), ACC_IMPLICIT);
        if (st != STEP_NEXT)
            return st;
        *t = (struct task){
            .cr3 = (uint32_t)c->cr3, .eip = s.ip, .eflags = s.flags, .ldt = s.ldt, .link = s.link
        };
        for (unsigned i = 0; i < 8; i++)
            t->gpr[i] = 0xffff0000 | s.gpr[i];
        for (unsigned i = 0; i < 4; i++)
            t->seg[i] = s.seg[i];
    }
    return STEP_NEXT;
}

/* Writes the dynamic fields of the outgoing task. All was probed before. */
static enum step task_save(struct cpu *c, uint64_t eflags)
{
    if (c->tr.attr & 8) {
        struct tss32 s;
        unsigned from = offsetof(struct tss32, eip), to = offsetof(struct tss32, ldt);

        s.eip = (uint32_t)c->next_rip;
        s.eflags = (uint32_t)eflags;
        for (unsigned i = 0; i < 8; i++)
            s.gpr[i] = (uint32_t)c->gpr[i];
        for (unsigned i = 0; i < 6; i++)
            s.seg[i] = c->seg[i].sel;
        return c->ops->write(c, GVA(c->tr.base + from), (uint8_t *)&s + from, to - from,
                             ACC_IMPLICIT);
    } else {
        struct tss16 s;
        unsigned from = offsetof(struct tss16, ip), to = offsetof(struct tss16, ldt);

        s.ip = (uint16_t)c->next_rip;
        s.flags = (uint16_t)eflags;
        for (unsigned i = 0; i < 8; i++)
            s.gpr[i] = (uint16_t)c->gpr[i];
        for (unsigned i = 0; i < 4; i++)
            s.seg[i] = c->seg[i].sel;
        return c->ops->write(c, GVA(c->tr.base + from), (uint8_t *)&s + from, to - from,
                             ACC_IMPLICIT);
    }
}

static enum step set_busy(struct cpu *c, gva_t at, bool busy)
{
    return c->ops->rmw8(c, gva_add(at, 5), busy ? 0xff : (uint8_t)~2u, busy ? 2 : 0, ACC_IMPLICIT);
}

/* The new task's LDT. */
static enum step load_task_ldt(struct cpu *c, uint16_t sel)
{
    struct desc d;
    enum step st;

    c->ldtr = (struct seg){ .sel = sel, .attr = SEG_UNUSABLE };
    if (sel_is_null(sel))
        return STEP_NEXT;
    if (sel & 4)
        return raise_ts(c, sel & ~3u);
    st = desc_read(c, sel, &d, VEC_TS, 0);
    if (st != STEP_NEXT)
        return st;
    if ((d.seg.attr & SEG_S) || desc_type(&d) != SYS_LDT || !desc_present(&d))
        return raise_ts(c, sel & ~3u);
    c->ldtr = d.seg;
    return STEP_NEXT;
}

static enum step load_task_cs(struct cpu *c, uint16_t sel)
{
    unsigned rpl = sel & 3;
    struct desc d;
    enum step st;

    if (sel_is_null(sel))
        return raise_ts(c, 0);
    st = desc_read(c, sel, &d, VEC_TS, 0);
    if (st != STEP_NEXT)
        return st;
    if (!desc_is_code(&d) || (desc_is_conforming(&d) ? desc_dpl(&d) > rpl : desc_dpl(&d) != rpl))
        return raise_ts(c, sel & ~3u);
    if (!desc_present(&d))
        return raise_np(c, sel & ~3u);
    st = desc_set_accessed(c, &d);
    if (st == STEP_NEXT)
        load_cs(c, &d, sel, rpl);
    return st;
}

static enum step load_task_data(struct cpu *c, enum seg_id s, uint16_t sel)
{
    struct desc d;
    enum step st;

    if (sel_is_null(sel)) {
        c->seg[s] = (struct seg){ .sel = sel, .attr = SEG_UNUSABLE };
        return STEP_NEXT;
    }
    st = desc_read(c, sel, &d, VEC_TS, 0);
    if (st != STEP_NEXT)
        return st;
    if (!(d.seg.attr & SEG_S) || (desc_is_code(&d) && !(d.seg.attr & SEG_TYPE_READABLE)))
        return raise_ts(c, sel & ~3u);
    if (!(desc_is_code(&d) && desc_is_conforming(&d)) &&
        ((sel & 3u) > desc_dpl(&d) || c->cpl > desc_dpl(&d)))
        return raise_ts(c, sel & ~3u);
    if (!desc_present(&d))
        return raise_np(c, sel & ~3u);
    st = desc_set_accessed(c, &d);
    if (st == STEP_NEXT) {
        c->seg[s] = d.seg;
        c->seg[s].sel = sel;
    }
    return st;
}

static enum step load_task_segs(struct cpu *c, const struct task *t)
{
    static const enum seg_id data[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };
    struct desc d;
    enum step st;

    st = load_task_ldt(c, t->ldt);
    if (st != STEP_NEXT)
        return st;
    if (c->rflags & RFLAGS_VM) {
        cpu_update_mode(c);
        for (unsigned i = 0; i < NR_SEGS; i++)
            cpu_load_seg_real(c, i, t->seg[i]);
        cpu_update_mode(c);
        return STEP_NEXT;
    }
    st = load_task_cs(c, t->seg[SEG_CS]);
    if (st == STEP_NEXT)
        st = check_ss(c, t->seg[SEG_SS], c->cpl, VEC_TS, 0, &d);
    if (st != STEP_NEXT)
        return st;
    load_ss(c, &d, t->seg[SEG_SS]);
    for (unsigned i = 0; st == STEP_NEXT && i < ARRAY_SIZE(data); i++)
        st = load_task_data(c, data[i], t->seg[data[i]]);
    if (st == STEP_NEXT && c->rip > c->seg[SEG_CS].limit)
        st = raise_gp(c, 0);
    return st;
}

/* The registers of the new task; selectors are visible at once, their descriptors follow. */
static enum step become(struct cpu *c, const struct desc *d, const struct task *t,
                        enum task_cause why)
{
    bool paging = c->cr0 & CR0_PG;

    c->rip = t->eip;
    c->rflags = (t->eflags & RFLAGS_KNOWN) | RFLAGS_FIXED1;
    if (why == TASK_CALL || why == TASK_EVENT)
        c->rflags |= RFLAGS_NT;
    for (unsigned i = 0; i < 8; i++)
        c->gpr[i] = t->gpr[i];
    for (unsigned i = 0; i < NR_SEGS; i++) {
        c->seg[i].sel = t->seg[i];
        c->seg[i].attr |= SEG_UNUSABLE;
    }
    c->tr = d->seg;
    c->tr.attr |= 2;
    c->cr0 |= CR0_TS;
    c->dr7 &= ~0x155ull; /* local breakpoints */
    c->ops->debug_changed(c);
    c->cpl = t->seg[SEG_CS] & 3;
    cpu_update_mode(c);
    if ((d->seg.attr & 8) && paging && t->cr3 != c->cr3)
        return cpu_load_cr3(c, t->cr3);
    return STEP_NEXT;
}

/* The TSS an outgoing switch names: busy for IRET, available for all else. */
static enum step read_tss(struct cpu *c, uint16_t sel, enum task_cause why, uint32_t ext,
                          struct desc *d)
{
    enum vector vec = why == TASK_IRET ? VEC_TS : VEC_GP;
    unsigned type;
    enum step st;

    if (sel_is_null(sel) || (sel & 4))
        return raise_err(c, vec, (sel & ~3u) | ext);
    st = desc_read(c, sel, d, vec, ext);
    if (st != STEP_NEXT)
        return st;
    type = desc_type(d);
    if ((d->seg.attr & SEG_S) ||
        (type & ~8u) != (why == TASK_IRET ? SYS_TSS16_BUSY : SYS_TSS16_AVAIL))
        return raise_err(c, vec, (sel & ~3u) | ext);
    if (!desc_present(d))
        return raise_np(c, (sel & ~3u) | ext);
    if (d->seg.limit < (type & 8 ? sizeof(struct tss32) : sizeof(struct tss16)) - 1)
        return raise_ts(c, (sel & ~3u) | ext);
    return STEP_NEXT;
}

enum step cpu_task_switch(struct cpu *c, uint16_t sel, enum task_cause why, uint32_t ext,
                          bool has_err, uint32_t err)
{
    uint64_t eflags = why == TASK_IRET ? c->rflags & ~(uint64_t)RFLAGS_NT : c->rflags;
    gva_t old_at = GVA(c->gdtr.base + (c->tr.sel & ~7u));
    uint16_t link = c->tr.sel;
    struct desc d;
    struct task t;
    enum step st;

    st = read_tss(c, sel, why, ext, &d);
    if (st == STEP_NEXT)
        st = task_load(c, &d, &t);
    /* Everything that is written must be writable before anything is. */
    if (st == STEP_NEXT)
        st = c->ops->probe(c, GVA(c->tr.base),
                           c->tr.attr & 8 ? sizeof(struct tss32) : sizeof(struct tss16),
                           ACC_WRITE | ACC_IMPLICIT);
    if (st == STEP_NEXT && (why == TASK_CALL || why == TASK_EVENT))
        st = c->ops->probe(c, GVA(d.seg.base), 2, ACC_WRITE | ACC_IMPLICIT);
    if (st == STEP_NEXT)
        st = task_save(c, eflags);
    if (st == STEP_NEXT && (why == TASK_JMP || why == TASK_IRET))
        st = set_busy(c, old_at, false);
    if (st == STEP_NEXT && (why == TASK_CALL || why == TASK_EVENT))
        st = c->ops->write(c, GVA(d.seg.base), &link, 2, ACC_IMPLICIT);
    if (st == STEP_NEXT && why != TASK_IRET)
        st = set_busy(c, d.at, true);
    if (st != STEP_NEXT)
        return st;
    /* The commit point: what faults from here on faults in the new task. */
    st = become(c, &d, &t, why);
    if (st == STEP_NEXT)
        st = load_task_segs(c, &t);
    if (st == STEP_NEXT && has_err)
        st = cpu_push(c, err, d.seg.attr & 8 ? 4 : 2);
    if (st == STEP_NEXT && t.trap)
        c->pending_dbg |= DR6_BT;
    return st;
}
