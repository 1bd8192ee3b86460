/* SPDX-License-Identifier: Apache-2.0 */
/* Segment registers, descriptors, and the checks of accesses through them. */
#include "cpu/desc.h"

/* ---- descriptors ---- */

void desc_parse(struct desc *d)
{
    uint64_t lo = d->lo;
    uint32_t limit = (uint32_t)((lo & 0xffff) | (lo >> 32 & 0xf0000));

    d->seg.attr = (uint32_t)(lo >> 40 & 0xf0ff);
    d->seg.base = (lo >> 16 & 0xffffff) | (lo >> 32 & 0xff000000) | d->hi << 32;
    d->seg.limit = d->seg.attr & SEG_G ? limit << 12 | 0xfff : limit;
}

enum step desc_try(struct cpu *c, uint16_t sel, struct desc *d, bool *ok)
{
    uint64_t base, limit;

    *ok = false;
    *d = (struct desc){ .seg.sel = sel };
    if (sel & 4) {
        if (c->ldtr.attr & SEG_UNUSABLE)
            return STEP_NEXT;
        base = c->ldtr.base, limit = c->ldtr.limit;
    } else {
        base = c->gdtr.base, limit = c->gdtr.limit;
    }
    if ((sel & ~7u) + 7u > limit)
        return STEP_NEXT;
    *ok = true;
    d->at = GVA(base + (sel & ~7u));
    if (c->ops->read(c, d->at, &d->lo, 8, ACC_IMPLICIT) != STEP_NEXT)
        return STEP_FAULT;
    desc_parse(d);
    return STEP_NEXT;
}

enum step desc_read(struct cpu *c, uint16_t sel, struct desc *d, enum vector vec, uint32_t ext)
{
    bool ok;
    enum step st = desc_try(c, sel, d, &ok);

    if (st != STEP_NEXT || ok)
        return st;
    return raise_err(c, vec, (sel & ~3u) | ext);
}

enum step desc_read_high(struct cpu *c, struct desc *d, enum vector vec, uint32_t ext)
{
    uint64_t limit = d->seg.sel & 4 ? c->ldtr.limit : c->gdtr.limit;

    if ((d->seg.sel & ~7u) + 15u > limit)
        return raise_err(c, vec, (d->seg.sel & ~3u) | ext);
    if (c->ops->read(c, gva_add(d->at, 8), &d->hi, 8, ACC_IMPLICIT) != STEP_NEXT)
        return STEP_FAULT;
    if (d->hi >> 40 & 0x1f)
        return raise_err(c, vec, (d->seg.sel & ~3u) | ext);
    d->hi = (uint32_t)d->hi;
    desc_parse(d);
    return STEP_NEXT;
}

enum step desc_set_accessed(struct cpu *c, struct desc *d)
{
    if (d->seg.attr & SEG_TYPE_ACCESSED)
        return STEP_NEXT;
    d->seg.attr |= SEG_TYPE_ACCESSED;
    return c->ops->rmw8(c, gva_add(d->at, 5), 0xff, SEG_TYPE_ACCESSED, ACC_IMPLICIT);
}

/* ---- loading segment registers ---- */

void cpu_load_seg_real(struct cpu *c, enum seg_id s, uint16_t sel)
{
    struct seg *r = &c->seg[s];

    r->sel = sel;
    r->base = (uint64_t)sel << 4;
    r->attr &= ~SEG_UNUSABLE;
    if (c->mode & MODE_VM86) {
        r->limit = 0xffff;
        r->attr = SEG_P | SEG_S | SEG_DPL | SEG_TYPE_WRITABLE | SEG_TYPE_ACCESSED;
    } else if (s == SEG_CS) {
        /* A far jump in real mode leaves limit and D as they are ("big real mode"), but makes CS
         * writable data-like. */
        r->attr =
            (r->attr & (SEG_DB | SEG_G)) | SEG_P | SEG_S | SEG_TYPE_WRITABLE | SEG_TYPE_ACCESSED;
    }
}

static void set_seg(struct cpu *c, enum seg_id s, const struct desc *d, uint16_t sel)
{
    c->seg[s] = d->seg;
    c->seg[s].sel = sel;
    if (s == SEG_SS)
        cpu_update_mode(c);
}

static void set_null(struct cpu *c, enum seg_id s, uint16_t sel)
{
    struct seg *r = &c->seg[s];

    /* The base survives a null load on AMD, and is cleared on Intel. */
    r->sel = sel;
    r->attr = SEG_UNUSABLE | (r->attr & SEG_DPL);
    r->limit = 0;
    if (c->model->vendor == VENDOR_INTEL || s == SEG_SS)
        r->base = 0;
}

enum step check_ss(struct cpu *c, uint16_t sel, unsigned cpl, enum vector vec, uint32_t ext,
                   struct desc *d)
{
    enum step st;

    if (sel_is_null(sel))
        return raise_err(c, vec, ext);
    st = desc_read(c, sel, d, vec, ext);
    if (st != STEP_NEXT)
        return st;
    if ((sel & 3) != cpl || desc_dpl(d) != cpl ||
        (d->seg.attr & (SEG_S | SEG_TYPE_CODE | SEG_TYPE_WRITABLE)) != (SEG_S | SEG_TYPE_WRITABLE))
        return raise_err(c, vec, (sel & ~3u) | ext);
    if (!desc_present(d))
        return raise_ss(c, (sel & ~3u) | ext);
    return desc_set_accessed(c, d);
}

static enum step load_ss_checked(struct cpu *c, uint16_t sel)
{
    struct desc d;
    enum step st;

    if (sel_is_null(sel)) {
        /* Allowed in 64-bit code below CPL 3, RPL = CPL. */
        if (!in_long64(c) || c->cpl == 3 || (sel & 3) != c->cpl)
            return raise_gp(c, 0);
        set_null(c, SEG_SS, sel);
        c->seg[SEG_SS].attr = SEG_UNUSABLE | (uint32_t)c->cpl << SEG_DPL_SHIFT;
        cpu_update_mode(c);
        return STEP_NEXT;
    }
    st = check_ss(c, sel, c->cpl, VEC_GP, 0, &d);
    if (st == STEP_NEXT)
        set_seg(c, SEG_SS, &d, sel);
    return st;
}

enum step cpu_load_seg(struct cpu *c, enum seg_id s, uint16_t sel)
{
    unsigned rpl = sel & 3;
    struct desc d;
    enum step st;

    if (!in_protected(c)) {
        cpu_load_seg_real(c, s, sel);
        cpu_update_mode(c);
        return STEP_NEXT;
    }
    if (s == SEG_SS)
        return load_ss_checked(c, sel);
    if (sel_is_null(sel)) {
        set_null(c, s, sel);
        return STEP_NEXT;
    }
    st = desc_read(c, sel, &d, VEC_GP, 0);
    if (st != STEP_NEXT)
        return st;
    /* Data or readable code; all but conforming code must be at or outside of both CPL and RPL. */
    if (!(d.seg.attr & SEG_S) || (desc_is_code(&d) && !(d.seg.attr & SEG_TYPE_READABLE)))
        return raise_gp(c, sel & ~3u);
    if (!(desc_is_code(&d) && desc_is_conforming(&d)) &&
        (rpl > desc_dpl(&d) || c->cpl > desc_dpl(&d)))
        return raise_gp(c, sel & ~3u);
    if (!desc_present(&d))
        return raise_np(c, sel & ~3u);
    st = desc_set_accessed(c, &d);
    if (st == STEP_NEXT)
        set_seg(c, s, &d, sel);
    return st;
}

void load_cs(struct cpu *c, const struct desc *d, uint16_t sel, unsigned cpl)
{
    c->seg[SEG_CS] = d->seg;
    c->seg[SEG_CS].sel = (uint16_t)((sel & ~3u) | cpl);
    c->cpl = (uint8_t)cpl;
    cpu_update_mode(c);
}

void load_ss(struct cpu *c, const struct desc *d, uint16_t sel)
{
    c->seg[SEG_SS] = d->seg;
    c->seg[SEG_SS].sel = sel;
    cpu_update_mode(c);
}

void drop_inner_segs(struct cpu *c)
{
    static const enum seg_id ids[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };

    for (unsigned i = 0; i < ARRAY_SIZE(ids); i++) {
        const struct seg *s = &c->seg[ids[i]];
        bool conforming = (s->attr & (SEG_S | SEG_TYPE_CODE | SEG_TYPE_CONFORMING)) ==
                          (SEG_S | SEG_TYPE_CODE | SEG_TYPE_CONFORMING);

        if ((s->attr & SEG_UNUSABLE) || conforming)
            continue;
        if ((s->attr & SEG_DPL) >> SEG_DPL_SHIFT < c->cpl)
            set_null(c, ids[i], 0);
    }
}

/* ---- LDTR, TR ---- */

static enum step read_system(struct cpu *c, uint16_t sel, struct desc *d)
{
    enum step st;

    if (sel & 4)
        return raise_gp(c, sel & ~3u);
    st = desc_read(c, sel, d, VEC_GP, 0);
    if (st == STEP_NEXT && (c->mode & MODE_LMA))
        st = desc_read_high(c, d, VEC_GP, 0);
    return st;
}

enum step cpu_lldt(struct cpu *c, uint16_t sel)
{
    struct desc d;
    enum step st;

    if (sel_is_null(sel)) {
        c->ldtr = (struct seg){ .sel = sel, .attr = SEG_UNUSABLE };
        return STEP_NEXT;
    }
    st = read_system(c, sel, &d);
    if (st != STEP_NEXT)
        return st;
    if ((d.seg.attr & SEG_S) || desc_type(&d) != SYS_LDT)
        return raise_gp(c, sel & ~3u);
    if (!desc_present(&d))
        return raise_np(c, sel & ~3u);
    if ((c->mode & MODE_LMA) && !is_canonical(c, d.seg.base))
        return raise_gp(c, sel & ~3u);
    c->ldtr = d.seg;
    return STEP_NEXT;
}

enum step cpu_ltr(struct cpu *c, uint16_t sel)
{
    struct desc d;
    enum step st;

    if (sel_is_null(sel))
        return raise_gp(c, 0);
    st = read_system(c, sel, &d);
    if (st != STEP_NEXT)
        return st;
    if ((d.seg.attr & SEG_S) || (desc_type(&d) != SYS_TSS_AVAIL &&
                                 (desc_type(&d) != SYS_TSS16_AVAIL || (c->mode & MODE_LMA))))
        return raise_gp(c, sel & ~3u);
    if (!desc_present(&d))
        return raise_np(c, sel & ~3u);
    if ((c->mode & MODE_LMA) && !is_canonical(c, d.seg.base))
        return raise_gp(c, sel & ~3u);
    st = c->ops->rmw8(c, gva_add(d.at, 5), 0xff, 2, ACC_IMPLICIT);
    if (st != STEP_NEXT)
        return st;
    c->tr = d.seg;
    c->tr.attr |= 2; /* busy */
    return STEP_NEXT;
}

/* ---- LAR, LSL, VERR, VERW ---- */

/* Which system types LAR and LSL know, by bit (SDM 2, tables of LAR and LSL). */
#define LAR_TYPES      (BIT(1) | BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(9) | BIT(11) | BIT(12))
#define LAR_TYPES_LONG (BIT(2) | BIT(9) | BIT(11) | BIT(12))
#define LSL_TYPES      (BIT(1) | BIT(2) | BIT(3) | BIT(9) | BIT(11))
#define LSL_TYPES_LONG (BIT(2) | BIT(9) | BIT(11))

static enum step look(struct cpu *c, uint16_t sel, uint32_t types, struct desc *d, bool *ok)
{
    enum step st;

    *ok = false;
    if (sel_is_null(sel))
        return STEP_NEXT;
    st = desc_try(c, sel, d, ok);
    if (st != STEP_NEXT || !*ok)
        return st;
    if (!(d->seg.attr & SEG_S))
        *ok = types >> desc_type(d) & 1;
    if (*ok && !(desc_is_code(d) && desc_is_conforming(d)))
        *ok = (sel & 3u) <= desc_dpl(d) && c->cpl <= desc_dpl(d);
    return STEP_NEXT;
}

enum step cpu_lar(struct cpu *c, uint16_t sel, uint32_t *out, bool *ok)
{
    struct desc d;
    enum step st = look(c, sel, c->mode & MODE_LMA ? LAR_TYPES_LONG : LAR_TYPES, &d, ok);

    if (st == STEP_NEXT && *ok)
        *out = (uint32_t)(d.lo >> 32) & 0x00ffff00;
    return st;
}

enum step cpu_lsl(struct cpu *c, uint16_t sel, uint32_t *out, bool *ok)
{
    struct desc d;
    enum step st = look(c, sel, c->mode & MODE_LMA ? LSL_TYPES_LONG : LSL_TYPES, &d, ok);

    if (st == STEP_NEXT && *ok)
        *out = d.seg.limit;
    return st;
}

enum step cpu_verify(struct cpu *c, uint16_t sel, unsigned acc, bool *ok)
{
    struct desc d;
    enum step st = look(c, sel, 0, &d, ok);

    if (st != STEP_NEXT || !*ok)
        return st;
    if (desc_is_code(&d))
        *ok = !(acc & ACC_WRITE) && (d.seg.attr & SEG_TYPE_READABLE);
    else
        *ok = !(acc & ACC_WRITE) || (d.seg.attr & SEG_TYPE_WRITABLE);
    return STEP_NEXT;
}

/* ---- accesses ---- */

static enum step seg_fault(struct cpu *c, enum seg_id s)
{
    return s == SEG_SS ? raise_ss(c, 0) : raise_gp(c, 0);
}

/* SDM 3, "Limit Checking": expand-down segments are valid above the limit. */
static bool in_limit(const struct seg *s, uint64_t off, unsigned bytes)
{
    uint64_t last = off + bytes - 1;

    if ((s->attr & (SEG_S | SEG_TYPE_CODE | SEG_TYPE_EXPAND_DOWN)) ==
        (SEG_S | SEG_TYPE_EXPAND_DOWN))
        return off > s->limit && last <= (s->attr & SEG_DB ? 0xffffffffull : 0xffffull);
    return last <= s->limit;
}

enum step cpu_linear(struct cpu *c, enum seg_id s, uint64_t off, unsigned bytes, unsigned acc,
                     gva_t *lin)
{
    const struct seg *r = &c->seg[s];

    if (in_long64(c)) {
        lin->v = s == SEG_FS || s == SEG_GS ? off + r->base : off;
        if (!is_canonical(c, lin->v) || !is_canonical(c, lin->v + bytes - 1))
            return seg_fault(c, s);
        return STEP_NEXT;
    }
    if (in_protected(c)) {
        bool code = r->attr & SEG_TYPE_CODE;

        if (r->attr & SEG_UNUSABLE)
            return seg_fault(c, s);
        if ((acc & ACC_WRITE) && (code || !(r->attr & SEG_TYPE_WRITABLE)))
            return seg_fault(c, s);
        if (!(acc & (ACC_WRITE | ACC_EXEC)) && code && !(r->attr & SEG_TYPE_READABLE))
            return seg_fault(c, s);
    }
    if (!in_limit(r, off, bytes))
        return seg_fault(c, s);
    lin->v = (uint32_t)(r->base + off);
    return STEP_NEXT;
}

struct stack stack_current(struct cpu *c)
{
    struct stack s = { .seg = c->seg[SEG_SS], .sp = c->gpr[RSP], .vec = VEC_SS };

    s.long64 = in_long64(c);
    s.mask = s.long64 ? ~0ull : c->mode & MODE_SS32 ? 0xffffffffu : 0xffffu;
    return s;
}

static enum step stack_linear(struct cpu *c, const struct stack *s, uint64_t off, unsigned bytes,
                              unsigned acc, gva_t *lin)
{
    if (s->long64) {
        *lin = GVA(off);
        return is_canonical(c, off) && is_canonical(c, off + bytes - 1)
                   ? STEP_NEXT
                   : raise_err(c, VEC_SS, s->err);
    }
    if ((c->mode & MODE_PE) && !(c->mode & MODE_VM86) &&
        ((s->seg.attr & SEG_UNUSABLE) || ((acc & ACC_WRITE) && !(s->seg.attr & SEG_TYPE_WRITABLE))))
        return raise_err(c, VEC_SS, s->err);
    if (!in_limit(&s->seg, off, bytes))
        return raise_err(c, VEC_SS, s->err);
    *lin = GVA((uint32_t)(s->seg.base + off));
    return STEP_NEXT;
}

enum step stack_push(struct cpu *c, struct stack *s, uint64_t val, unsigned bytes)
{
    uint64_t sp = (s->sp - bytes) & s->mask;
    enum step st;
    gva_t lin;

    st = stack_linear(c, s, sp, bytes, ACC_WRITE, &lin);
    if (st == STEP_NEXT)
        st = c->ops->write(c, lin, &val, bytes, s->acc);
    if (st == STEP_NEXT)
        s->sp = (s->sp & ~s->mask) | sp;
    return st;
}

enum step stack_pop(struct cpu *c, struct stack *s, uint64_t *val, unsigned bytes)
{
    uint64_t sp = s->sp & s->mask;
    enum step st;
    gva_t lin;

    *val = 0;
    st = stack_linear(c, s, sp, bytes, ACC_READ, &lin);
    if (st == STEP_NEXT)
        st = c->ops->read(c, lin, val, bytes, s->acc);
    if (st == STEP_NEXT)
        s->sp = (s->sp & ~s->mask) | ((sp + bytes) & s->mask);
    return st;
}

void stack_commit(struct cpu *c, const struct stack *s)
{
    c->gpr[RSP] = s->mask == 0xffffffffu ? (uint32_t)s->sp : s->sp;
}

enum step cpu_push(struct cpu *c, uint64_t val, unsigned bytes)
{
    struct stack s = stack_current(c);
    enum step st = stack_push(c, &s, val, bytes);

    if (st == STEP_NEXT)
        stack_commit(c, &s);
    return st;
}

enum step cpu_pop(struct cpu *c, uint64_t *val, unsigned bytes)
{
    struct stack s = stack_current(c);

    return stack_pop(c, &s, val, bytes);
}

/* SDM 1, "I/O Permission Bit Map": the 16-bit word at 66h of a 32- or 64-bit TSS is the map's
 * offset. */
enum step cpu_check_io(struct cpu *c, uint16_t port, unsigned bytes)
{
    uint16_t map = 0, word = 0;
    enum step st;

    if (!(c->mode & MODE_PE))
        return STEP_NEXT;
    if (!(c->mode & MODE_VM86) && c->cpl <= iopl(c))
        return STEP_NEXT;
    if ((c->tr.attr & SEG_TYPE) != SYS_TSS_BUSY || c->tr.limit < 103)
        return raise_gp(c, 0);
    st = c->ops->read(c, GVA(c->tr.base + 102), &map, 2, ACC_IMPLICIT);
    if (st != STEP_NEXT)
        return st;
    /* Two bytes are read always, so the map has to end with one of ones. */
    if ((uint32_t)map + port / 8 + 1 > c->tr.limit)
        return raise_gp(c, 0);
    st = c->ops->read(c, GVA(c->tr.base + map + port / 8), &word, 2, ACC_IMPLICIT);
    if (st != STEP_NEXT)
        return st;
    return word >> (port % 8) & (BIT(bytes) - 1) ? raise_gp(c, 0) : STEP_NEXT;
}
