/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hardware task switch (SDM 3, "Task Management"), by JMP, CALL, interrupt or IRET, between 16-
 * and 32-bit TSSs. IA-32e mode has none.
 *
 * Up to the commit point all checks and accesses that may fault happen, and a fault belongs to the
 * old task. From there on the new task runs: a fault in loading its segments is raised at its first
 * instruction (SDM 3, "Task Switching", "Exception Conditions Checked During a Task Switch"). As
 * the instruction that switched is then done, such a fault is delivered here and not left to the
 * engine (unless an exception's delivery switched tasks: deliver.c sees to it).
 */
#include "cpu/desc.h"

#define DR7_LOCAL     0x155u /* L0..L3 and LE */
/* Upper halves that a 16-bit TSS has nothing for; the manual leaves them open. */
#define UPPER_HALF_16 0xffff0000u

struct tss_layout {
    unsigned bytes; /* of what a switch reads */
    unsigned slot;  /* bytes of a register */
    unsigned ip;    /* IP, FLAGS, eight registers and the segment registers follow each other */
    unsigned nr_segs;
    unsigned ldt;
};

static const struct tss_layout tss16 = {
    .bytes = 44, .slot = 2, .ip = 14, .nr_segs = 4, .ldt = 42
};
static const struct tss_layout tss32 = {
    .bytes = 104, .slot = 4, .ip = 32, .nr_segs = 6, .ldt = 96
};

#define NR_SAVED      10u /* IP, FLAGS, AX..DI */
#define TSS32_CR3     28u
#define TSS32_TRAP    100u
#define MAX_TSS_BYTES 104u

/* A task's registers as its TSS has them. */
struct task {
    uint32_t ip, flags, cr3;
    uint32_t gpr[8];
    uint16_t seg[NR_SEGS], ldt, link;
    bool trap;
};

/* Both sides of a switch. */
struct change {
    const struct task_switch *how;
    const struct tss_layout *from, *to;
    struct desc old_desc, new_desc;
    struct seg new_tr;
    struct task task;
};

static const struct tss_layout *layout_of(uint32_t attr)
{
    return attr_type(attr) & BIT(3) ? &tss32 : &tss16;
}

static uint32_t get(const uint8_t *raw, unsigned off, unsigned bytes)
{
    uint32_t x = 0;

    for (unsigned i = 0; i < bytes; i++)
        x |= (uint32_t)raw[off + i] << (8 * i);
    return x;
}

static enum step read_task(struct cpu *c, struct change *x)
{
    const struct tss_layout *l = x->to;
    struct task *t = &x->task;
    uint8_t raw[MAX_TSS_BYTES];
    unsigned segs = l->ip + NR_SAVED * l->slot;
    enum step st = c->ops->read(c, GVA(x->new_tr.base), raw, l->bytes, ACC_IMPLICIT);

    if (st != STEP_NEXT)
        return st;
    *t = (struct task){ .link = (uint16_t)get(raw, 0, 2) };
    t->ip = get(raw, l->ip, l->slot);
    t->flags = get(raw, l->ip + l->slot, l->slot);
    for (unsigned i = 0; i < ARRAY_SIZE(t->gpr); i++)
        t->gpr[i] =
            get(raw, l->ip + (2 + i) * l->slot, l->slot) | (l->slot == 2 ? UPPER_HALF_16 : 0);
    for (unsigned i = 0; i < l->nr_segs; i++)
        t->seg[i] = (uint16_t)get(raw, segs + i * l->slot, 2);
    t->ldt = (uint16_t)get(raw, l->ldt, 2);
    if (l == &tss32) {
        t->cr3 = get(raw, TSS32_CR3, 4);
        t->trap = raw[TSS32_TRAP] & 1;
    }
    return STEP_NEXT;
}

static bool saves_link(enum task_kind kind)
{
    return kind == TASK_CALL || kind == TASK_INT;
}

/* Everything that is going to be written: would it fault? */
static enum step probe(struct cpu *c, const struct change *x)
{
    const unsigned acc = ACC_IMPLICIT | ACC_WRITE;
    unsigned save_bytes = (NR_SAVED + x->from->nr_segs) * x->from->slot;
    enum step st = c->ops->probe(c, gva_add(GVA(c->tr.base), x->from->ip), save_bytes, acc);

    if (st == STEP_NEXT && saves_link(x->how->kind))
        st = c->ops->probe(c, GVA(x->new_tr.base), 2, acc);
    if (st == STEP_NEXT && x->how->kind != TASK_IRET)
        st = c->ops->probe(c, gva_add(x->new_desc.at, 5), 1, acc);
    if (st == STEP_NEXT && !saves_link(x->how->kind) && x->old_desc.ok)
        st = c->ops->probe(c, gva_add(x->old_desc.at, 5), 1, acc);
    return st;
}

static enum step save_task(struct cpu *c, const struct change *x)
{
    const struct tss_layout *l = x->from;
    uint8_t raw[NR_SAVED * 4];
    uint64_t vals[NR_SAVED] = { x->how->rip, x->how->rflags };
    enum step st;

    if (x->how->kind == TASK_IRET)
        vals[1] &= ~(uint64_t)RFLAGS_NT;
    for (unsigned i = 0; i < 8; i++)
        vals[2 + i] = c->gpr[i];
    for (unsigned i = 0; i < NR_SAVED * l->slot; i++)
        raw[i] = (uint8_t)(vals[i / l->slot] >> (8 * (i % l->slot)));
    st = c->ops->write(c, gva_add(GVA(c->tr.base), l->ip), raw, NR_SAVED * l->slot,
                       ACC_IMPLICIT | ACC_WRITE);
    for (unsigned i = 0; i < l->nr_segs && st == STEP_NEXT; i++)
        st = c->ops->write(c, gva_add(GVA(c->tr.base), l->ip + (NR_SAVED + i) * l->slot),
                           &c->seg[i].sel, 2, ACC_IMPLICIT | ACC_WRITE);
    return st;
}

/* The old task is saved and the descriptors say who is busy (SDM 3, "Task Linking"). */
static enum step leave_old(struct cpu *c, const struct change *x)
{
    enum task_kind kind = x->how->kind;
    enum step st = save_task(c, x);

    if (st == STEP_NEXT && !saves_link(kind) && x->old_desc.ok)
        st = desc_set_busy(c, &x->old_desc, false);
    if (st == STEP_NEXT && saves_link(kind))
        st = c->ops->write(c, GVA(x->new_tr.base), &c->tr.sel, 2, ACC_IMPLICIT | ACC_WRITE);
    if (st == STEP_NEXT && kind != TASK_IRET)
        st = desc_set_busy(c, &x->new_desc, true);
    return st;
}

/* ---- the new task ---- */

static enum step load_ldt(struct cpu *c, uint16_t sel)
{
    struct desc d = { 0 };
    enum step st;

    if (sel_is_null(sel))
        return STEP_NEXT;
    if (sel & SEL_TI)
        return raise_ts(c, sel_err(c, sel));
    st = desc_read(c, sel, VEC_TS, &d);
    if (st != STEP_NEXT)
        return st;
    if ((desc_attr(&d) & (SEG_S | SEG_TYPE | SEG_P)) != (SEG_P | SYS_LDT))
        return raise_ts(c, sel_err(c, sel));
    c->ldtr = desc_seg(&d, sel);
    return STEP_NEXT;
}

static enum step load_cs(struct cpu *c, uint16_t sel)
{
    struct desc d = { 0 };
    uint32_t attr;
    enum step st;
    unsigned rpl = sel_rpl(sel);

    if (sel_is_null(sel))
        return raise_ts(c, ext_err(c));
    st = desc_read(c, sel, VEC_TS, &d);
    if (st != STEP_NEXT)
        return st;
    attr = desc_attr(&d);
    if (!attr_is_code(attr) ||
        (attr_is_conforming(attr) ? attr_dpl(attr) > rpl : attr_dpl(attr) != rpl))
        return raise_ts(c, sel_err(c, sel));
    if (!(attr & SEG_P))
        return raise_np(c, sel_err(c, sel));
    st = desc_set_accessed(c, &d);
    if (st != STEP_NEXT)
        return st;
    c->seg[SEG_CS] = desc_seg(&d, sel);
    c->seg[SEG_CS].attr |= SEG_TYPE_ACCESSED;
    return STEP_NEXT;
}

static enum step load_segs(struct cpu *c, const struct task *t)
{
    static const enum seg_id data[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };
    enum step st = load_ldt(c, t->ldt);

    if (st != STEP_NEXT || (t->flags & RFLAGS_VM))
        return st;
    st = load_cs(c, t->seg[SEG_CS]);
    if (st != STEP_NEXT)
        return st;
    cpu_update_mode(c);
    if (sel_is_null(t->seg[SEG_SS]))
        return raise_ts(c, ext_err(c));
    st = seg_read_stack(c, t->seg[SEG_SS], c->cpl, VEC_TS, &c->seg[SEG_SS]);
    for (unsigned i = 0; i < ARRAY_SIZE(data) && st == STEP_NEXT; i++)
        st = seg_load_data(c, data[i], t->seg[data[i]], VEC_TS);
    return st;
}

/* Registers, and segment registers with selectors only: what they select is looked up next. */
static enum step enter_new(struct cpu *c, const struct change *x)
{
    const struct task *t = &x->task;
    bool vm86 = t->flags & RFLAGS_VM;
    enum step st = STEP_NEXT;

    c->tr = x->new_tr;
    c->tr.attr |= SYS_BUSY;
    c->cr0 |= CR0_TS;
    if (c->dr7 & DR7_LOCAL) {
        c->dr7 &= ~(uint64_t)DR7_LOCAL;
        c->ops->debug_changed(c);
    }
    c->rip = t->ip;
    for (unsigned i = 0; i < ARRAY_SIZE(t->gpr); i++)
        c->gpr[i] = t->gpr[i];
    c->rflags = (t->flags & RFLAGS_KNOWN & ~RFLAGS_VM) | RFLAGS_FIXED1;
    if (saves_link(x->how->kind))
        c->rflags |= RFLAGS_NT;
    for (unsigned i = 0; i < NR_SEGS; i++)
        c->seg[i] = vm86 ? seg_vm86(t->seg[i]) : seg_null(t->seg[i]);
    c->ldtr = seg_null(t->ldt);
    /* The new CR3 is no instruction's doing: no privilege is asked for. */
    c->cpl = 0;
    cpu_update_mode(c);
    if (x->to == &tss32 && (c->cr0 & CR0_PG))
        st = cpu_mov_to_cr(c, 3, t->cr3);
    if (vm86)
        c->rflags |= RFLAGS_VM;
    else
        c->cpl = (uint8_t)sel_rpl(t->seg[SEG_CS]);
    cpu_update_mode(c);
    return st;
}

static enum step push_err(struct cpu *c, const struct change *x)
{
    return x->how->has_err ? cpu_push(c, x->how->err, x->to->slot) : STEP_NEXT;
}

static enum step check_old_and_new(struct cpu *c, struct change *x)
{
    enum step st;

    if (x->new_tr.limit < x->to->bytes - 1)
        return raise_ts(c, sel_err(c, x->new_tr.sel));
    if (c->tr.limit < x->from->bytes - 1)
        return raise_ts(c, sel_err(c, c->tr.sel));
    st = read_task(c, x);
    /* Before the first LTR there is no descriptor to mark. */
    if (st == STEP_NEXT && !sel_is_null(c->tr.sel))
        st = desc_find(c, c->tr.sel, &x->old_desc);
    return st == STEP_NEXT ? probe(c, x) : st;
}

enum step task_switch(struct cpu *c, struct desc *tss, const struct task_switch *how)
{
    struct change x = { .how = how, .new_desc = *tss, .new_tr = desc_seg(tss, tss->sel) };
    enum step st;

    x.from = layout_of(c->tr.attr);
    x.to = layout_of(x.new_tr.attr);
    st = check_old_and_new(c, &x);
    if (st == STEP_NEXT)
        st = leave_old(c, &x);
    if (st != STEP_NEXT)
        return st;

    st = enter_new(c, &x);
    if (st == STEP_NEXT)
        st = load_segs(c, &x.task);
    if (st == STEP_NEXT)
        st = push_err(c, &x);
    if (st == STEP_NEXT && c->rip > c->seg[SEG_CS].limit)
        st = raise_gp(c, ext_err(c));
    cpu_update_mode(c);
    if (x.task.trap)
        c->pending_dbg |= DR6_BT;
    if (st == STEP_FAULT && !c->delivering.valid)
        return cpu_deliver(c);
    return st;
}

enum step task_by_gate(struct cpu *c, uint16_t sel, const struct task_switch *how)
{
    struct desc d = { 0 };
    unsigned type;
    enum step st;

    if (sel & SEL_TI)
        return raise_gp(c, sel_err(c, sel));
    st = desc_read(c, sel, VEC_GP, &d);
    if (st != STEP_NEXT)
        return st;
    type = attr_type(desc_attr(&d));
    if ((desc_attr(&d) & SEG_S) || (type != SYS_TSS_AVAIL && type != SYS_TSS16_AVAIL))
        return raise_gp(c, sel_err(c, sel));
    if (!(desc_attr(&d) & SEG_P))
        return raise_np(c, sel_err(c, sel));
    return task_switch(c, &d, how);
}

enum step task_return(struct cpu *c)
{
    struct task_switch how = { .kind = TASK_IRET, .rip = c->next_rip, .rflags = c->rflags };
    struct desc d = { 0 };
    uint16_t sel = 0;
    unsigned type;
    enum step st = c->ops->read(c, GVA(c->tr.base), &sel, 2, ACC_IMPLICIT);

    if (st != STEP_NEXT)
        return st;
    if (sel & SEL_TI)
        return raise_ts(c, sel_err(c, sel));
    st = desc_read(c, sel, VEC_TS, &d);
    if (st != STEP_NEXT)
        return st;
    type = attr_type(desc_attr(&d));
    if ((desc_attr(&d) & SEG_S) || (type != SYS_TSS_BUSY && type != SYS_TSS16_BUSY))
        return raise_ts(c, sel_err(c, sel));
    if (!(desc_attr(&d) & SEG_P))
        return raise_np(c, sel_err(c, sel));
    return task_switch(c, &d, &how);
}
