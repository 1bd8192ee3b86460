/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Translations of fluid pages (fluid.c): the comparison of the guest's bytes with those that were
 * translated, and immediates that are left out of it. Code that patches itself mostly changes an
 * immediate; once one has changed, it is read from the guest's page each time its instruction runs.
 */
#include "engine/bt/bt.h"

#include <string.h>

/* An instruction whose immediate can be an operand of a register: MOV, TEST, IMUL, and ADD to CMP,
 * in 32 and 64 bits. */
struct loose_form {
    enum { FORM_ALU, FORM_TEST, FORM_MOV, FORM_IMUL } what;
    uint8_t alu; /* as in the opcodes' bits 3 to 5 */
    bool wide;
    unsigned dst, src; /* guest registers */
};

static bool form_of(const struct insn *in, struct loose_form *f)
{
    uint8_t rex = (in->bytes[0] & 0xf0) == 0x40 ? in->bytes[0] : 0;
    const uint8_t *p = in->bytes + (rex != 0);
    uint8_t modrm = p[1], ext = modrm >> 3 & 7;

    f->wide = rex & 8;
    f->dst = f->src = (modrm & 7u) | (rex & 1u) << 3;
    f->what = FORM_ALU;
    if ((p[0] & 0xc7) == 0x05) {
        f->alu = p[0] >> 3;
        f->dst = RAX;
        return true;
    }
    if (p[0] == 0xa9) {
        f->what = FORM_TEST;
        f->dst = RAX;
        return true;
    }
    if ((p[0] & 0xf8) == 0xb8) {
        f->what = FORM_MOV;
        f->dst = (p[0] & 7u) | (rex & 1u) << 3;
        return true;
    }
    if (modrm >> 6 != 3)
        return false;
    switch (p[0]) {
    case 0x81:
    case 0x83:
        f->alu = ext;
        return true;
    case 0xc7:
        f->what = FORM_MOV;
        return ext == 0;
    case 0xf7:
        f->what = FORM_TEST;
        return ext == 0;
    case 0x69:
    case 0x6b:
        f->what = FORM_IMUL;
        f->dst = ext | (rex & 4u) << 1;
        return true;
    default:
        return false;
    }
}

/* Has it changed, or an earlier version of it, in nothing but the immediate? */
static bool has_changed(const struct trans *t, const struct site *s)
{
    const struct tb *old = t->older;
    unsigned start = t->tb->gpa % PAGE_BYTES;
    const uint8_t *was;

    for (unsigned i = 0; old && i < old->nr_insns; i++) {
        const struct site *o = &old->sites[i];

        if (o->off != s->off)
            continue;
        was = old->fluid->was + (o->off - start);
        return o->len == s->len && !memcmp(was, t->in.bytes, s->imm_off) &&
               (o->loose || memcmp(was + s->imm_off, t->in.bytes + s->imm_off, s->imm_bytes) != 0);
    }
    return false;
}

static void load_imm(struct trans *t, const struct site *s, bool wide)
{
    const struct fluid_tb *f = t->tb->fluid;
    unsigned at = s->off - t->tb->gpa % PAGE_BYTES + s->imm_off;
    unsigned w = wide ? EMIT_W : 0;

    emit_mov_imm(t->e, H_PTR, (uintptr_t)f->now + at);
    if (s->imm_bytes == 1)
        emit_op_rm(t->e, w | EMIT_0F, 0xbe, H_AUX, HMEM_BASE(H_PTR, 0)); /* MOVSX */
    else if (s->imm_bytes == 8)
        emit_load(t->e, H_AUX, HMEM_BASE(H_PTR, 0));
    else /* MOVSXD or MOV */
        emit_op_rm(t->e, w, wide ? 0x63 : 0x8b, H_AUX, HMEM_BASE(H_PTR, 0));
}

static enum hreg operand(struct trans *t, unsigned gpr)
{
    enum hreg h = bt_home(gpr);

    if (h != H_NONE)
        return h;
    bt_emit_get(t, H_TMP, gpr);
    return H_TMP;
}

static void emit_form(struct trans *t, const struct loose_form *f)
{
    unsigned w = f->wide ? EMIT_W : 0;
    enum hreg h;

    switch (f->what) {
    case FORM_MOV:
        bt_emit_put(t, f->dst, H_AUX);
        break;
    case FORM_TEST:
        emit_op_rr(t->e, w, 0x85, H_AUX, operand(t, f->dst));
        break;
    case FORM_IMUL:
        emit_op_rr(t->e, w | EMIT_0F, 0xaf, H_AUX, operand(t, f->src));
        bt_emit_put(t, f->dst, H_AUX);
        break;
    default:
        h = operand(t, f->dst);
        emit_op_rr(t->e, w, (uint8_t)(f->alu << 3 | 1), H_AUX, h);
        if (f->alu != 7 && h == H_TMP)
            bt_emit_put(t, f->dst, H_TMP);
        break;
    }
}

bool bt_emit_loose(struct trans *t)
{
    struct site *s = &t->tb->sites[t->nr];
    const struct insn *in = &t->in;
    struct loose_form f = { .what = FORM_ALU };

    if (in->cls != INSN_COPY || in->unit != UNIT_GPR || in->mem >= 0 || !in->z.raw.imm[0].size ||
        in->z.raw.imm[1].size || in->z.raw.prefix_count > ((in->bytes[0] & 0xf0) == 0x40) ||
        !form_of(in, &f))
        return false;
    s->imm_off = in->z.raw.imm[0].offset & 15;
    s->imm_bytes = (in->z.raw.imm[0].size / 8) & 15;
    if (!has_changed(t, s))
        return false;
    s->loose = true;
    load_imm(t, s, f.wide);
    emit_form(t, &f);
    return true;
}

/* ---- the comparison ---- */

static void add_fixed(struct fluid_tb *f, unsigned off, unsigned bytes)
{
    unsigned n = f->nr_fixed;

    if (n && f->fixed[n - 1].off + f->fixed[n - 1].bytes == (int)off) {
        f->fixed[n - 1].bytes = (uint16_t)(f->fixed[n - 1].bytes + bytes);
        return;
    }
    f->fixed[n].off = (uint16_t)off;
    f->fixed[n].bytes = (uint16_t)bytes;
    f->nr_fixed++;
}

bool bt_loose_note(struct trans *t)
{
    const struct site *s = &t->tb->sites[t->nr];
    struct fluid_tb *f = t->tb->fluid;
    const struct insn *in = &t->in;
    bool stores;

    add_fixed(f, s->off - (unsigned)(t->tb->gpa % PAGE_BYTES), s->loose ? s->imm_off : s->len);
    stores = in->cls == INSN_PUSH || in->cls == INSN_PUSHF || in->cls == INSN_STRING ||
             in->cls == INSN_CALL || in->cls == INSN_CALL_IND || in->cls == INSN_INTERP ||
             (in->mem >= 0 && in->mem_acc == ACC_WRITE);
    f->stores |= stores;
    return !stores;
}

/* Goes on if H_TMP is emit_hit(). */
static void emit_same(struct trans *t)
{
    uint8_t *changed = emit_unless_same_later(t->e);

    if (!t->e->full)
        emit_fix32(changed, t->e->delta, t->pad);
}

/* H_PTR is at the guest's bytes; compares 8, 4, 2 or 1 at off. */
static void emit_compare(struct trans *t, unsigned off, unsigned bytes)
{
    static const struct {
        uint8_t flags, opcode;
    } load[] = { { EMIT_0F, 0xb6 }, { EMIT_0F, 0xb7 }, { 0, 0x8b }, { EMIT_W, 0x8b } };
    unsigned log = (unsigned)__builtin_ctz(bytes);
    uint64_t was = 0;

    memcpy(&was, t->tb->fluid->was + off, bytes);
    emit_op_rm(t->e, load[log].flags, load[log].opcode, H_TMP, HMEM_BASE(H_PTR, off));
    if (bytes == 8) {
        emit_mov_imm(t->e, H_AUX, (uint64_t)emit_hit(t->e) - was);
        emit_lea(t->e, H_TMP, (struct hmem){ .base = H_TMP, .index = H_AUX });
    } else {
        emit_lea32(t->e, H_TMP,
                   HMEM_BASE(H_TMP, (int32_t)((uint32_t)emit_hit(t->e) - (uint32_t)was)));
    }
    emit_same(t);
}

void bt_emit_fluid_check(struct trans *t)
{
    const struct fluid_tb *f = t->tb->fluid;

    emit_mov_imm(t->e, H_PTR, (uintptr_t)f->now);
    for (unsigned i = 0; i < f->nr_fixed; i++) {
        unsigned at = f->fixed[i].off, end = at + f->fixed[i].bytes, n = 8;

        while (at < end) {
            while (n > f->fixed[i].bytes)
                n /= 2;
            if (at + n > end)
                at = end - n; /* a piece may be compared twice */
            emit_compare(t, at, n);
            at += n;
        }
    }
}
