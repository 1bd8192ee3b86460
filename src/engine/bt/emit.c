/* SPDX-License-Identifier: Apache-2.0 */
/* Writing host code: encodings. */
#include "engine/bt/emit.h"

#include <string.h>

void emit_bytes(struct emit *e, const uint8_t *b, unsigned n)
{
    if (unlikely((size_t)(e->end - e->p) < n)) {
        e->full = true;
        return;
    }
    memcpy(e->p, b, n);
    e->p += n;
}

void emit8(struct emit *e, uint8_t x)
{
    emit_bytes(e, &x, 1);
}

void emit32(struct emit *e, uint32_t x)
{
    emit_bytes(e, (const uint8_t *)&x, 4);
}

void emit64(struct emit *e, uint64_t x)
{
    emit_bytes(e, (const uint8_t *)&x, 8);
}

static void emit_rex(struct emit *e, unsigned flags, unsigned reg, unsigned index, unsigned base)
{
    uint8_t rex = (uint8_t)(0x40 | (flags & EMIT_W ? 8 : 0) | (reg >> 3 & 1) << 2 |
                            (index >> 3 & 1) << 1 | (base >> 3 & 1));

    if (rex != 0x40 || (flags & EMIT_BYTE))
        emit8(e, rex);
}

static void emit_opcode(struct emit *e, unsigned flags, uint8_t opcode)
{
    if (flags & EMIT_0F)
        emit8(e, 0x0f);
    emit8(e, opcode);
}

void emit_op_rr(struct emit *e, unsigned flags, uint8_t opcode, unsigned reg, enum hreg rm)
{
    emit_rex(e, flags, reg, 0, rm);
    emit_opcode(e, flags, opcode);
    emit8(e, (uint8_t)(0xc0 | (reg & 7) << 3 | (rm & 7)));
}

void emit_modrm_mem(struct emit *e, unsigned reg, struct hmem m)
{
    uint8_t r = (uint8_t)((reg & 7) << 3);
    bool d8 = m.disp == (int8_t)m.disp;

    if (m.base == H_NONE) { /* SIB without base: disp32 */
        emit8(e, r | 4);
        emit8(e, (uint8_t)(m.scale << 6 | (m.index == H_NONE ? 4 : m.index & 7) << 3 | 5));
        emit32(e, (uint32_t)m.disp);
        return;
    }
    /* RBP and R13 as base have no form without displacement. */
    if (!m.disp && (m.base & 7) != 5)
        ;
    else
        r |= d8 ? 0x40 : 0x80;
    if (m.index == H_NONE && (m.base & 7) != 4) {
        emit8(e, r | (m.base & 7));
    } else {
        emit8(e, r | 4);
        emit8(e,
              (uint8_t)(m.scale << 6 | (m.index == H_NONE ? 4 : m.index & 7) << 3 | (m.base & 7)));
    }
    if (r & 0x40)
        emit8(e, (uint8_t)m.disp);
    else if (r & 0x80)
        emit32(e, (uint32_t)m.disp);
}

void emit_op_rm(struct emit *e, unsigned flags, uint8_t opcode, unsigned reg, struct hmem m)
{
    if (m.gs)
        emit8(e, 0x65);
    emit_rex(e, flags, reg, m.index == H_NONE ? 0 : m.index, m.base == H_NONE ? 0 : m.base);
    emit_opcode(e, flags, opcode);
    emit_modrm_mem(e, reg, m);
}

void emit_mov_rr(struct emit *e, enum hreg dst, enum hreg src)
{
    if (dst != src)
        emit_op_rr(e, EMIT_W, 0x89, src, dst);
}

void emit_mov32_rr(struct emit *e, enum hreg dst, enum hreg src)
{
    emit_op_rr(e, 0, 0x89, src, dst);
}

void emit_load(struct emit *e, enum hreg dst, struct hmem m)
{
    emit_op_rm(e, EMIT_W, 0x8b, dst, m);
}

void emit_store(struct emit *e, struct hmem m, enum hreg src)
{
    emit_op_rm(e, EMIT_W, 0x89, src, m);
}

void emit_lea(struct emit *e, enum hreg dst, struct hmem m)
{
    emit_op_rm(e, EMIT_W, 0x8d, dst, m);
}

void emit_lea32(struct emit *e, enum hreg dst, struct hmem m)
{
    emit_op_rm(e, 0, 0x8d, dst, m);
}

void emit_mov_imm(struct emit *e, enum hreg dst, uint64_t imm)
{
    if (imm == (uint32_t)imm) {
        emit_rex(e, 0, 0, 0, dst);
        emit8(e, 0xb8 | (dst & 7));
        emit32(e, (uint32_t)imm);
    } else if (imm == (uint64_t)(int32_t)imm) {
        emit_op_rr(e, EMIT_W, 0xc7, 0, dst);
        emit32(e, (uint32_t)imm);
    } else {
        emit_rex(e, EMIT_W, 0, 0, dst);
        emit8(e, 0xb8 | (dst & 7));
        emit64(e, imm);
    }
}

/* VEX.LZ.pp.0F38.W opcode /r with vvvv. */
static void emit_vex38(struct emit *e, bool w, unsigned pp, unsigned reg, unsigned vvvv,
                       unsigned index, unsigned base, uint8_t opcode)
{
    emit8(e, 0xc4);
    emit8(e, (uint8_t)((reg & 8 ? 0 : 0x80) | (index & 8 ? 0 : 0x40) | (base & 8 ? 0 : 0x20) | 2));
    emit8(e, (uint8_t)((w ? 0x80 : 0) | (~vvvv & 15) << 3 | pp));
    emit8(e, opcode);
}

static void emit_by_mask(struct emit *e, unsigned pp, enum hreg dst, enum hreg src,
                         struct hmem mask)
{
    if (mask.gs)
        emit8(e, 0x65);
    emit_vex38(e, true, pp, dst, src, mask.index == H_NONE ? 0 : mask.index,
               mask.base == H_NONE ? 0 : mask.base, 0xf5);
    emit_modrm_mem(e, dst, mask);
}

void emit_pext(struct emit *e, enum hreg dst, enum hreg src, struct hmem mask)
{
    emit_by_mask(e, 2, dst, src, mask);
}

void emit_pdep(struct emit *e, enum hreg dst, enum hreg src, struct hmem mask)
{
    emit_by_mask(e, 3, dst, src, mask);
}

/* VEX.LZ.F2.0F3A.W1 F0 /r ib */
void emit_rorx(struct emit *e, enum hreg dst, enum hreg src, uint8_t count)
{
    emit8(e, 0xc4);
    emit8(e, (uint8_t)((dst & 8 ? 0 : 0x80) | 0x40 | (src & 8 ? 0 : 0x20) | 3));
    emit8(e, 0xfb);
    emit8(e, 0xf0);
    emit8(e, (uint8_t)(0xc0 | (dst & 7) << 3 | (src & 7)));
    emit8(e, count);
}

void emit_shrx(struct emit *e, enum hreg dst, enum hreg src, enum hreg count, bool wide)
{
    emit_vex38(e, wide, 3, dst, count, 0, src, 0xf7);
    emit8(e, (uint8_t)(0xc0 | (dst & 7) << 3 | (src & 7)));
}

void emit_sarx(struct emit *e, enum hreg dst, enum hreg src, enum hreg count)
{
    emit_vex38(e, true, 2, dst, count, 0, src, 0xf7);
    emit8(e, (uint8_t)(0xc0 | (dst & 7) << 3 | (src & 7)));
}

void emit_fix32(uint8_t *rel32, intptr_t delta, const uint8_t *to)
{
    int32_t rel = (int32_t)(to - (rel32 + 4 + delta));

    memcpy(rel32, &rel, 4);
}

void emit_jmp(struct emit *e, const uint8_t *to)
{
    uint8_t *at = emit_jmp_later(e);

    if (!e->full)
        emit_fix32(at, e->delta, to);
}

uint8_t *emit_jmp_later(struct emit *e)
{
    emit8(e, 0xe9);
    emit32(e, 0);
    return e->p - 4;
}

uint8_t *emit_jcc_later(struct emit *e, unsigned cc)
{
    emit8(e, 0x0f);
    emit8(e, (uint8_t)(0x80 | cc));
    emit32(e, 0);
    return e->p - 4;
}

uint8_t *emit_lea_later(struct emit *e, enum hreg dst)
{
    emit_rex(e, EMIT_W, dst, 0, 0);
    emit8(e, 0x8d);
    emit8(e, (uint8_t)((dst & 7) << 3 | 5));
    emit32(e, 0);
    return e->p - 4;
}

void emit_not(struct emit *e, enum hreg reg)
{
    emit_op_rr(e, EMIT_W, 0xf7, 2, reg);
}

void emit_jmp_mem(struct emit *e, struct hmem m)
{
    emit_op_rm(e, 0, 0xff, 4, m);
}

uint8_t *emit_jrcxz_later(struct emit *e)
{
    emit8(e, 0xe3);
    emit8(e, 0);
    return e->p - 1;
}

void emit_fix8(struct emit *e, uint8_t *rel8)
{
    if (!e->full)
        *rel8 = (uint8_t)(e->p - (rel8 + 1));
}

/* LOOP or JRCXZ into a NOP, whose SIB byte and displacement are a JMP. */
static uint8_t *emit_into_nop(struct emit *e, uint8_t opcode)
{
    static const uint8_t nop[] = { 0x03, 0x0f, 0x1f, 0x84, 0xe9, 0, 0, 0, 0 };

    emit8(e, opcode);
    emit_bytes(e, nop, sizeof(nop));
    return e->p - 4;
}

uint8_t *emit_unless_same_later(struct emit *e)
{
    /* JRCXZ over the JMP */
    static const uint8_t jrcxz[] = { 0xe3, 0x05, 0xe9, 0, 0, 0, 0 };

    if (!e->slow_loop)
        return emit_into_nop(e, 0xe2);
    emit_bytes(e, jrcxz, sizeof(jrcxz));
    return e->p - 4;
}

uint8_t *emit_unless_hit_later(struct emit *e)
{
    /* Only 0 becomes negative: LEA RCX, [RCX-1]; RORX RCX, RCX, 56; MOVZX ECX, CL */
    static const uint8_t sign[] = { 0x48, 0x8d, 0x49, 0xff, 0xc4, 0xe3, 0xfb,
                                    0xf0, 0xc9, 0x38, 0x0f, 0xb6, 0xc9 };

    if (!e->slow_loop)
        return emit_into_nop(e, 0xe2);
    emit_bytes(e, sign, sizeof(sign));
    return emit_into_nop(e, 0xe3);
}

uint8_t *emit_unless_true_later(struct emit *e)
{
    return emit_into_nop(e, e->slow_loop ? 0xe3 : 0xe2);
}
