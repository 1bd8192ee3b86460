/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Vector instructions whose memory operand is not one block: masked moves and gathers, where only
 * the selected elements may fault; and the VZERO pair.
 */
#include "engine/interp/native_int.h"

#include <string.h>

static void get_vec(const struct cpu *c, unsigned reg, uint8_t v[32])
{
    memcpy(v, c->fpu.xmm[reg], 16);
    memcpy(v + 16, c->fpu.ymmh[reg], 16);
}

/* As a VEX instruction writes: bytes 16 clears the upper half. */
static void set_vec(struct cpu *c, unsigned reg, const uint8_t *v, unsigned bytes)
{
    memcpy(c->fpu.xmm[reg], v, 16);
    if (bytes == 32)
        memcpy(c->fpu.ymmh[reg], v + 16, 16);
    else
        memset(c->fpu.ymmh[reg], 0, 16);
}

/* An element is selected by the top bit of its counterpart in the mask. */
static bool selected(const uint8_t *mask, unsigned idx, unsigned elem_bytes)
{
    return mask[(idx + 1) * elem_bytes - 1] & 0x80;
}

/* Where the elements of a masked access lie, and which take part. */
struct masked {
    const uint8_t *mask;
    unsigned elem_bytes, bytes;
    enum seg_id seg;
    uint64_t off, off_mask;
};

typedef enum step run_fn(struct cpu *c, gva_t lin, uint8_t *data, unsigned bytes);

static enum step run_read(struct cpu *c, gva_t lin, uint8_t *data, unsigned bytes)
{
    return c->ops->read(c, lin, data, bytes, ACC_READ);
}

static enum step run_write(struct cpu *c, gva_t lin, uint8_t *data, unsigned bytes)
{
    return c->ops->write(c, lin, data, bytes, ACC_WRITE);
}

static enum step run_probe(struct cpu *c, gva_t lin, uint8_t *data, unsigned bytes)
{
    (void)data;
    return c->ops->probe(c, lin, bytes, ACC_WRITE);
}

/* Calls fn for each run of neighbouring selected elements. */
static enum step for_each_run(struct cpu *c, const struct masked *m, unsigned acc, run_fn *fn,
                              uint8_t *data)
{
    unsigned nr = m->bytes / m->elem_bytes;

    for (unsigned i = 0; i < nr; i++) {
        unsigned first = i, at, bytes;
        enum step st;
        gva_t lin;

        if (!selected(m->mask, i, m->elem_bytes))
            continue;
        while (i + 1 < nr && selected(m->mask, i + 1, m->elem_bytes) &&
               ((m->off + (i + 1) * m->elem_bytes) & m->off_mask) != 0)
            i++;
        at = first * m->elem_bytes;
        bytes = (i + 1 - first) * m->elem_bytes;
        st = cpu_linear(c, m->seg, (m->off + at) & m->off_mask, bytes, acc, &lin);
        if (st == STEP_NEXT)
            st = fn(c, lin, data + at, bytes);
        if (st != STEP_NEXT)
            return st;
    }
    return STEP_NEXT;
}

static uint64_t addr_mask(const struct native_desc *d)
{
    return d->addr_bits == 64 ? ~0ull : BIT64(d->addr_bits) - 1;
}

/* All or nothing: every run is probed before the first is written. */
static enum step masked_store(struct cpu *c, const struct masked *m, uint8_t *data)
{
    enum step st = for_each_run(c, m, ACC_WRITE, run_probe, data);

    return st == STEP_NEXT ? for_each_run(c, m, ACC_WRITE, run_write, data) : st;
}

enum step native_maskload(struct cpu *c, const struct native_stub *s, enum seg_id seg, uint64_t off)
{
    uint8_t mask[32], data[32] = { 0 };
    struct masked m = { mask, s->d.elem_bytes, s->d.vec_bytes, seg, off, addr_mask(&s->d) };
    enum step st = native_check(c, s);

    get_vec(c, s->d.reg[1], mask);
    if (st == STEP_NEXT)
        st = for_each_run(c, &m, ACC_READ, run_read, data);
    if (st == STEP_NEXT)
        set_vec(c, s->d.reg[0], data, s->d.vec_bytes);
    return st;
}

enum step native_maskstore(struct cpu *c, const struct native_stub *s, enum seg_id seg,
                           uint64_t off)
{
    uint8_t mask[32], data[32];
    struct masked m = { mask, s->d.elem_bytes, s->d.vec_bytes, seg, off, addr_mask(&s->d) };
    enum step st = native_check(c, s);

    get_vec(c, s->d.reg[0], mask);
    get_vec(c, s->d.reg[1], data);
    return st == STEP_NEXT ? masked_store(c, &m, data) : st;
}

enum step native_maskmov_sse(struct cpu *c, const struct native_stub *s, enum seg_id seg,
                             uint64_t off)
{
    uint8_t mask[32], data[32];
    struct masked m = { mask, 1, 16, seg, off, addr_mask(&s->d) };
    enum step st = native_check(c, s);

    get_vec(c, s->d.reg[0], data);
    get_vec(c, s->d.reg[1], mask);
    return st == STEP_NEXT ? masked_store(c, &m, data) : st;
}

/* MASKMOVQ is an MMX instruction: afterwards all tags are valid and the top of stack is 0. */
enum step native_maskmov_mmx(struct cpu *c, const struct native_stub *s, enum seg_id seg,
                             uint64_t off)
{
    struct xsave_area was = c->fpu;
    uint8_t mask[8], data[8];
    struct masked m = { mask, 1, 8, seg, off, addr_mask(&s->d) };
    enum step st = native_check(c, s);

    if (st != STEP_NEXT)
        return st;
    native_x87_set_top(&was, 0);
    memcpy(data, was.st[s->d.reg[0]], sizeof(data));
    memcpy(mask, was.st[s->d.reg[1]], sizeof(mask));
    st = masked_store(c, &m, data);
    if (st != STEP_NEXT)
        return st;
    was.ftw = 0xff;
    c->fpu = was;
    return STEP_NEXT;
}

static uint64_t vsib_offset(const struct native_desc *d, const uint8_t *index, unsigned i,
                            uint64_t off)
{
    int64_t idx;
    int32_t idx32;

    if (d->index_bytes == 4) {
        memcpy(&idx32, index + 4 * i, sizeof(idx32));
        idx = idx32;
    } else {
        memcpy(&idx, index + 8 * i, sizeof(idx));
    }
    return (off + (uint64_t)idx * d->scale) & addr_mask(d);
}

/*
 * SDM 2, "VSIB Memory Addressing": a fault leaves the elements that were done in the destination
 * and their mask cleared, so that the instruction goes on where it stopped.
 */
enum step native_gather(struct cpu *c, const struct native_stub *s, enum seg_id seg, uint64_t off)
{
    const struct native_desc *d = &s->d;
    unsigned nr = d->vec_bytes / MAX(d->elem_bytes, d->index_bytes), used = nr * d->elem_bytes;
    uint8_t dst[32], mask[32], index[32];
    enum step st = native_check(c, s);

    if (st != STEP_NEXT)
        return st;
    if (d->reg[0] == d->reg[1] || d->reg[0] == d->reg[2] || d->reg[1] == d->reg[2])
        return raise_ud(c);
    get_vec(c, d->reg[0], dst);
    get_vec(c, d->reg[1], mask);
    get_vec(c, d->reg[2], index);
    /* Whatever follows, what lies above the elements becomes zero. */
    memset(dst + used, 0, sizeof(dst) - used);
    memset(mask + used, 0, sizeof(mask) - used);
    for (unsigned i = 0; i < nr && st == STEP_NEXT; i++) {
        gva_t lin;

        if (selected(mask, i, d->elem_bytes)) {
            st = native_linear(c, s, seg, vsib_offset(d, index, i, off), d->elem_bytes, ACC_READ,
                               &lin);
            if (st == STEP_NEXT)
                st = c->ops->read(c, lin, dst + i * d->elem_bytes, d->elem_bytes, ACC_READ);
        }
        if (st == STEP_NEXT)
            memset(mask + i * d->elem_bytes, 0, d->elem_bytes);
    }
    set_vec(c, d->reg[0], dst, 32);
    set_vec(c, d->reg[1], mask, 32);
    return st;
}

/* Outside 64-bit mode only registers 0 to 7 are touched. */
static unsigned nr_vector_regs(const struct cpu *c)
{
    return in_long64(c) ? 16 : 8;
}

enum step native_vzeroupper(struct cpu *c, const struct native_stub *s, enum seg_id seg,
                            uint64_t off)
{
    enum step st = native_check(c, s);

    (void)seg, (void)off;
    if (st == STEP_NEXT)
        memset(c->fpu.ymmh, 0, 16 * nr_vector_regs(c));
    return st;
}

enum step native_vzeroall(struct cpu *c, const struct native_stub *s, enum seg_id seg, uint64_t off)
{
    enum step st = native_vzeroupper(c, s, seg, off);

    if (st == STEP_NEXT)
        memset(c->fpu.xmm, 0, 16 * nr_vector_regs(c));
    return st;
}
