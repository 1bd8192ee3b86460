/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading descriptors from the GDT and LDT (SDM 3, "Segment Descriptors", "System Descriptor
 * Types") and unpacking them. A descriptor is read once; checks and use work on the copy.
 */
#include "cpu/desc.h"

#define DESC_BYTES 8u

uint32_t desc_limit(const struct desc *d)
{
    uint32_t limit = (uint32_t)(bits(d->lo, 15, 0) | bits(d->lo, 51, 48) << 16);

    return desc_attr(d) & SEG_G ? limit << PAGE_SHIFT | 0xfff : limit;
}

uint64_t desc_base(const struct desc *d)
{
    return bits(d->lo, 39, 16) | bits(d->lo, 63, 56) << 24 | d->hi << 32;
}

struct seg desc_seg(const struct desc *d, uint16_t sel)
{
    return (struct seg){
        .base = desc_base(d), .limit = desc_limit(d), .attr = desc_attr(d), .sel = sel
    };
}

/* Where the descriptor of sel lies, if all its `bytes` bytes are within the table. */
static bool locate(const struct cpu *c, uint16_t sel, unsigned bytes, gva_t *at)
{
    unsigned off = sel & ~7u;
    bool ldt = sel & SEL_TI;

    if (ldt && (c->ldtr.attr & SEG_UNUSABLE))
        return false;
    if (off + bytes - 1 > (ldt ? c->ldtr.limit : c->gdtr.limit))
        return false;
    *at = GVA((ldt ? c->ldtr.base : c->gdtr.base) + off);
    if (!in_ia32e(c))
        at->v = (uint32_t)at->v;
    return true;
}

enum step desc_find(struct cpu *c, uint16_t sel, struct desc *d)
{
    *d = (struct desc){ .sel = sel };
    d->ok = locate(c, sel, DESC_BYTES, &d->at);
    if (!d->ok)
        return STEP_NEXT;
    return c->ops->read(c, d->at, &d->lo, DESC_BYTES, ACC_IMPLICIT);
}

enum step desc_read(struct cpu *c, uint16_t sel, enum vector vec, struct desc *d)
{
    enum step st = desc_find(c, sel, d);

    if (st == STEP_NEXT && !d->ok)
        return raise_err(c, vec, sel_err(c, sel));
    return st;
}

enum step desc_read_high(struct cpu *c, enum vector vec, struct desc *d)
{
    enum step st;
    gva_t at;

    if (!in_ia32e(c))
        return STEP_NEXT;
    if (!locate(c, d->sel, 2 * DESC_BYTES, &at))
        return raise_err(c, vec, sel_err(c, d->sel));
    st = c->ops->read(c, gva_add(at, DESC_BYTES), &d->hi, DESC_BYTES, ACC_IMPLICIT);
    if (st != STEP_NEXT)
        return st;
    /* The type field of the upper half has to be zero, so that nobody enters a descriptor by its
     * middle (SDM 3, "Segment Descriptor Tables in IA-32e Mode"). */
    if (bits(d->hi, 44, 40))
        return raise_err(c, vec, sel_err(c, d->sel));
    d->hi = (uint32_t)d->hi;
    return STEP_NEXT;
}

static gva_t type_byte(const struct cpu *c, const struct desc *d)
{
    gva_t at = gva_add(d->at, 5);

    return in_ia32e(c) ? at : GVA((uint32_t)at.v);
}

enum step desc_set_accessed(struct cpu *c, const struct desc *d)
{
    if (desc_attr(d) & SEG_TYPE_ACCESSED)
        return STEP_NEXT;
    return c->ops->rmw8(c, type_byte(c, d), 0xff, SEG_TYPE_ACCESSED, ACC_IMPLICIT);
}

enum step desc_set_busy(struct cpu *c, const struct desc *d, bool busy)
{
    return c->ops->rmw8(c, type_byte(c, d), busy ? 0xff : (uint8_t)~SYS_BUSY, busy ? SYS_BUSY : 0,
                        ACC_IMPLICIT);
}

void gate_unpack(const struct desc *d, struct gate *g)
{
    uint32_t attr = desc_attr(d);

    *g = (struct gate){
        .type = attr_type(attr),
        .dpl = attr_dpl(attr),
        .present = attr & SEG_P,
        .sel = (uint16_t)bits(d->lo, 31, 16),
        .off = bits(d->lo, 15, 0),
    };
    /* Bit 3 of the type tells 32-bit gates from 16-bit ones; in IA-32e mode all are 64-bit. */
    g->bytes = g->type & BIT(3) ? 4 : 2;
    if (g->bytes == 4)
        g->off |= bits(d->lo, 63, 48) << 16;
    g->nr_params = (unsigned)bits(d->lo, 36, 32);
}
