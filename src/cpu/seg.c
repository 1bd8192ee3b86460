/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loading segment registers, LDTR and TR, and the instructions that look at descriptors without
 * loading them: LAR, LSL, VERR, VERW (SDM 2, the pages of these instructions; SDM 3,
 * "Privilege Checking When Accessing Data Segments").
 */
#include "cpu/desc.h"

#define SEG_LIMIT_64K 0xffffu
/* LAR's result: the descriptor's second doubleword without base. Hardware shows the limit's upper
 * bits, which the manual calls undefined. */
#define LAR_MASK      0x00ffff00u

struct seg seg_null(uint16_t sel)
{
    return (struct seg){ .attr = SEG_UNUSABLE, .sel = sel };
}

struct seg seg_vm86(uint16_t sel)
{
    return (struct seg){
        .base = (uint64_t)sel << 4, .limit = SEG_LIMIT_64K, .attr = ATTR_VM86, .sel = sel
    };
}

void cpu_load_seg_real(struct cpu *c, enum seg_id s, uint16_t sel)
{
    struct seg *seg = &c->seg[s];

    if (c->mode & MODE_VM86) {
        *seg = seg_vm86(sel);
        return;
    }
    /* Limit and attributes stay what protected mode left ("unreal mode"), but for a register that
     * held a null selector. */
    if (seg->attr & SEG_UNUSABLE)
        *seg = (struct seg){ .limit = SEG_LIMIT_64K, .attr = ATTR_REAL };
    seg->sel = sel;
    seg->base = (uint64_t)sel << 4;
}

enum step seg_read_stack(struct cpu *c, uint16_t sel, unsigned cpl, enum vector vec,
                         struct seg *out)
{
    struct desc d = { 0 };
    uint32_t attr;
    enum step st = desc_read(c, sel, vec, &d);

    if (st != STEP_NEXT)
        return st;
    attr = desc_attr(&d);
    if (sel_rpl(sel) != cpl || !attr_is_writable(attr) || attr_dpl(attr) != cpl)
        return raise_err(c, vec, sel_err(c, sel));
    if (!(attr & SEG_P))
        return raise_ss(c, sel_err(c, sel));
    *out = desc_seg(&d, sel);
    out->attr |= SEG_TYPE_ACCESSED;
    return desc_set_accessed(c, &d);
}

static enum step load_ss(struct cpu *c, uint16_t sel)
{
    struct seg ss;
    enum step st;

    if (sel_is_null(sel)) {
        /* SDM 3, "Null Segment Selector in IA-32e mode": fine in 64-bit code below ring 3. */
        if (!in_long64(c) || c->cpl == 3 || sel_rpl(sel) != c->cpl)
            return raise_gp(c, 0);
        ss = seg_null(sel);
        ss.attr |= (uint32_t)c->cpl << SEG_DPL_SHIFT;
    } else {
        st = seg_read_stack(c, sel, c->cpl, VEC_GP, &ss);
        if (st != STEP_NEXT)
            return st;
    }
    c->seg[SEG_SS] = ss;
    cpu_update_mode(c);
    return STEP_NEXT;
}

enum step seg_load_data(struct cpu *c, enum seg_id s, uint16_t sel, enum vector vec)
{
    struct desc d = { 0 };
    enum step st;
    uint32_t attr;

    if (sel_is_null(sel)) {
        c->seg[s] = seg_null(sel);
        return STEP_NEXT;
    }
    st = desc_read(c, sel, vec, &d);
    if (st != STEP_NEXT)
        return st;
    attr = desc_attr(&d);
    if (!attr_is_readable(attr))
        return raise_err(c, vec, sel_err(c, sel));
    if (!(attr_is_code(attr) && attr_is_conforming(attr)) &&
        attr_dpl(attr) < MAX(c->cpl, sel_rpl(sel)))
        return raise_err(c, vec, sel_err(c, sel));
    if (!(attr & SEG_P))
        return raise_np(c, sel_err(c, sel));
    st = desc_set_accessed(c, &d);
    if (st != STEP_NEXT)
        return st;
    c->seg[s] = desc_seg(&d, sel);
    c->seg[s].attr |= SEG_TYPE_ACCESSED;
    return STEP_NEXT;
}

enum step cpu_load_seg(struct cpu *c, enum seg_id s, uint16_t sel)
{
    if (in_protected(c))
        return s == SEG_SS ? load_ss(c, sel) : seg_load_data(c, s, sel, VEC_GP);
    cpu_load_seg_real(c, s, sel);
    cpu_update_mode(c);
    return STEP_NEXT;
}

/* ---- LDTR and TR ---- */

/* The system descriptor of sel, which has to be in the GDT. */
static enum step read_system(struct cpu *c, uint16_t sel, struct desc *d)
{
    enum step st;

    if (sel & SEL_TI)
        return raise_gp(c, sel_err(c, sel));
    st = desc_read(c, sel, VEC_GP, d);
    if (st == STEP_NEXT && (desc_attr(d) & SEG_S))
        return raise_gp(c, sel_err(c, sel));
    if (st == STEP_NEXT)
        st = desc_read_high(c, VEC_GP, d);
    if (st == STEP_NEXT && in_ia32e(c) && !is_canonical(c, desc_base(d)))
        return raise_gp(c, sel_err(c, sel));
    return st;
}

enum step cpu_lldt(struct cpu *c, uint16_t sel)
{
    struct desc d = { 0 };
    enum step st;

    if (sel_is_null(sel)) {
        c->ldtr = seg_null(sel);
        return STEP_NEXT;
    }
    st = read_system(c, sel, &d);
    if (st != STEP_NEXT)
        return st;
    if (attr_type(desc_attr(&d)) != SYS_LDT)
        return raise_gp(c, sel_err(c, sel));
    if (!(desc_attr(&d) & SEG_P))
        return raise_np(c, sel_err(c, sel));
    c->ldtr = desc_seg(&d, sel);
    return STEP_NEXT;
}

enum step cpu_ltr(struct cpu *c, uint16_t sel)
{
    unsigned type;
    struct desc d = { 0 };
    enum step st;

    if (sel_is_null(sel))
        return raise_gp(c, 0);
    st = read_system(c, sel, &d);
    if (st != STEP_NEXT)
        return st;
    type = attr_type(desc_attr(&d));
    if (type != SYS_TSS_AVAIL && (type != SYS_TSS16_AVAIL || in_ia32e(c)))
        return raise_gp(c, sel_err(c, sel));
    if (!(desc_attr(&d) & SEG_P))
        return raise_np(c, sel_err(c, sel));
    st = desc_set_busy(c, &d, true);
    if (st != STEP_NEXT)
        return st;
    c->tr = desc_seg(&d, sel);
    c->tr.attr |= SYS_BUSY;
    return STEP_NEXT;
}

/* ---- LAR, LSL, VERR, VERW ---- */

/* System descriptor types each may look at, by mode (SDM 2, LAR and LSL, the tables of types). */
#define LSL_TYPES                                                                     \
    (BIT(SYS_TSS16_AVAIL) | BIT(SYS_LDT) | BIT(SYS_TSS16_BUSY) | BIT(SYS_TSS_AVAIL) | \
     BIT(SYS_TSS_BUSY))
#define LAR_TYPES      (LSL_TYPES | BIT(SYS_CALL_GATE16) | BIT(SYS_TASK_GATE) | BIT(SYS_CALL_GATE))
#define LSL_TYPES_LONG (BIT(SYS_LDT) | BIT(SYS_TSS_AVAIL) | BIT(SYS_TSS_BUSY))
#define LAR_TYPES_LONG (LSL_TYPES_LONG | BIT(SYS_CALL_GATE))

/* May software look at the descriptor of sel, by privilege and (of a system segment) type? */
static enum step look(struct cpu *c, uint16_t sel, unsigned sys_types, struct desc *d, bool *ok)
{
    enum step st;
    uint32_t attr;

    *ok = false;
    if (sel_is_null(sel))
        return STEP_NEXT;
    st = desc_find(c, sel, d);
    if (st != STEP_NEXT || !d->ok)
        return st;
    attr = desc_attr(d);
    if (!(attr & SEG_S) && !(sys_types >> attr_type(attr) & 1))
        return STEP_NEXT;
    *ok = (attr_is_code(attr) && attr_is_conforming(attr)) ||
          attr_dpl(attr) >= MAX(c->cpl, sel_rpl(sel));
    return STEP_NEXT;
}

enum step cpu_lar(struct cpu *c, uint16_t sel, uint32_t *out, bool *ok)
{
    struct desc d = { 0 };
    enum step st = look(c, sel, in_ia32e(c) ? LAR_TYPES_LONG : LAR_TYPES, &d, ok);

    if (st == STEP_NEXT && *ok)
        *out = (uint32_t)(d.lo >> 32) & LAR_MASK;
    return st;
}

enum step cpu_lsl(struct cpu *c, uint16_t sel, uint32_t *out, bool *ok)
{
    struct desc d = { 0 };
    enum step st = look(c, sel, in_ia32e(c) ? LSL_TYPES_LONG : LSL_TYPES, &d, ok);

    if (st == STEP_NEXT && *ok)
        *out = desc_limit(&d);
    return st;
}

enum step cpu_verify(struct cpu *c, uint16_t sel, unsigned acc, bool *ok)
{
    struct desc d = { 0 };
    enum step st = look(c, sel, 0, &d, ok);

    if (st == STEP_NEXT && *ok)
        *ok = acc & ACC_WRITE ? attr_is_writable(desc_attr(&d)) : attr_is_readable(desc_attr(&d));
    return st;
}
