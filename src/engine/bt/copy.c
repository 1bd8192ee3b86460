/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instructions that run as they are: the guest's own bytes with the registers renamed and the
 * memory operand replaced by the host address. SDM 2, "Instruction Format", for what is taken apart
 * here.
 */
#include "engine/bt/bt.h"

#include <string.h>

/* A register operand that lives elsewhere while the instruction runs. */
struct staged {
    uint8_t gpr;
    enum hreg host;
    bool load, store;
};

/* The instruction taken apart. */
struct parts {
    uint8_t legacy[8], nr_legacy; /* prefixes that stay: 66, F2, F3, F0 */
    uint8_t rex;                  /* 0: none */
    bool vex;
    uint8_t vex_map, vex_vvvv, vex_last; /* vvvv as a number; W, L, pp as in the third byte */
    uint8_t opcode[4], nr_opcode;
    bool modrm;
    uint8_t mod, reg, rm;     /* with the prefix's bits */
    uint8_t tail[8], nr_tail; /* immediates */
    bool has_high8, implicit_rcx, writes_rcx;
    bool may_keep; /* it may leave its destination as it is */
    struct staged st[3];
    unsigned nr_staged;
};

/* Length of the opcode, with its escapes; 0 for maps that are not copied. */
static unsigned opcode_bytes(const ZydisDecodedInstruction *z)
{
    if (z->raw.encoding2 == ZYDIS_INSTRUCTION_ENCODING_VEX)
        return 1;
    switch (z->opcode_map) {
    case ZYDIS_OPCODE_MAP_DEFAULT:
        return 1;
    case ZYDIS_OPCODE_MAP_0F:
        return 2;
    case ZYDIS_OPCODE_MAP_0F38:
    case ZYDIS_OPCODE_MAP_0F3A:
        return 3;
    default:
        return 0;
    }
}

/*
 * Outside 64-bit code there are eight registers, whatever VEX.B and vvvv's top bit say, and VEX.W
 * does not widen general registers (SDM 2, "The VEX Prefix"). interp's stub has W as it counts.
 */
static void narrow_vex(const struct insn *in, struct parts *p)
{
    p->rex = 0x40;
    p->vex_vvvv &= 7;
    p->vex_last = (uint8_t)((p->vex_last & 0x7f) | (in->op.stub->d.code[2] & 0x80));
}

/* What 64-bit code has other encodings for. */
static void only_in_32bit(const struct insn *in, struct parts *p)
{
    uint8_t op = p->opcode[0];

    if (p->vex) {
        if (p->nr_tail) /* a register in the immediate has three bits */
            p->tail[p->nr_tail - 1] = in->op.stub->d.code[in->op.stub->d.code_bytes - 1];
        return;
    }
    if (p->nr_opcode != 1)
        return;
    if ((op & 0xf0) == 0x40) { /* INC and DEC of a register: FF /0, FF /1 */
        p->opcode[0] = 0xff;
        p->modrm = true;
        p->mod = 3;
        p->reg = op >> 3 & 1;
        p->rm = op & 7;
    } else if (op == 0x82) { /* the same as 80 */
        p->opcode[0] = 0x80;
    }
}

static bool split(const struct insn *in, struct parts *p)
{
    unsigned at = 0, end;

    for (;; at++) {
        uint8_t b = in->bytes[at];

        if (b == 0x66 || b == 0xf2 || b == 0xf3 || b == 0xf0) {
            if (p->nr_legacy == sizeof(p->legacy))
                return false;
            p->legacy[p->nr_legacy++] = b;
            p->rex = 0;
        } else if ((b & 0xf0) == 0x40 && in->word == 8) {
            p->rex = b; /* the last of several counts, and only right before the opcode */
            continue;
        } else if (b != 0x67 && b != 0x26 && b != 0x2e && b != 0x36 && b != 0x3e && b != 0x64 &&
                   b != 0x65) {
            break;
        } else {
            p->rex = 0;
        }
    }
    if (in->z.raw.encoding2 == ZYDIS_INSTRUCTION_ENCODING_VEX) {
        const uint8_t *v = &in->bytes[at];
        bool two = v[0] == 0xc5;

        p->vex = true;
        p->rex = (uint8_t)(0x40 | (v[1] & 0x80 ? 0 : 4));
        p->vex_map = 1;
        p->vex_last = two ? v[1] & 0x07 : v[2] & 0x87;
        p->vex_vvvv = (uint8_t)(~(two ? v[1] : v[2]) >> 3 & 15);
        if (!two) {
            p->rex |= (v[1] & 0x40 ? 0 : 2) | (v[1] & 0x20 ? 0 : 1);
            p->vex_map = v[1] & 0x1f;
        }
        at += two ? 2 : 3;
        if (in->word == 4)
            narrow_vex(in, p);
    } else if (in->z.raw.encoding2 != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
               in->z.raw.encoding2 != ZYDIS_INSTRUCTION_ENCODING_3DNOW) {
        return false;
    }
    p->modrm = in->z.raw.modrm.offset != 0;
    end = p->modrm ? in->z.raw.modrm.offset : at + (in->bytes[at] == 0x0f ? 2 : 1);
    while (at < end && p->nr_opcode < sizeof(p->opcode))
        p->opcode[p->nr_opcode++] = in->bytes[at++];
    /* The decoder has to have seen the same. */
    if (at != end || p->opcode[p->nr_opcode - 1] != in->z.opcode ||
        p->nr_opcode != opcode_bytes(&in->z))
        return false;
    if (p->modrm) {
        uint8_t m = in->bytes[at++];

        p->mod = m >> 6;
        p->reg = (uint8_t)((m >> 3 & 7) | (p->rex & 4) << 1);
        p->rm = (uint8_t)((m & 7) | (p->rex & 1) << 3);
        if (p->mod != 3 && (m & 7) == 4)
            at++;
        at += in->z.raw.disp.size / 8;
    }
    while (at < in->len && p->nr_tail < sizeof(p->tail))
        p->tail[p->nr_tail++] = in->bytes[at++];
    if (in->word == 4)
        only_in_32bit(in, p);
    return at == in->len;
}

/* Finds a register for a guest register that cannot stay where it lives. */
static bool stage(struct parts *p, const ZydisDecodedOperand *o, unsigned gpr, unsigned *free_mask,
                  enum hreg *host)
{
    bool partial = p->may_keep || o->size < 32 || (o->actions & ZYDIS_OPERAND_ACTION_MASK_READ) ||
                   (o->actions & ZYDIS_OPERAND_ACTION_CONDWRITE);
    struct staged *s;

    for (unsigned i = 0; i < p->nr_staged; i++) {
        s = &p->st[i];
        if (s->gpr != gpr)
            continue;
        s->load |= partial;
        s->store |= (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
        *host = s->host;
        return true;
    }
    if (!*free_mask || p->nr_staged == ARRAY_SIZE(p->st))
        return false;
    s = &p->st[p->nr_staged++];
    s->gpr = (uint8_t)gpr;
    s->host = (enum hreg)__builtin_ctz(*free_mask);
    s->load = partial;
    s->store = (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
    *free_mask &= *free_mask - 1;
    *host = s->host;
    return true;
}

static bool is_high8(ZydisRegister r)
{
    return r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH;
}

static bool is_gpr(const ZydisDecodedOperand *o)
{
    ZydisRegisterClass c;

    if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
        return false;
    c = ZydisRegisterGetClass(o->reg.value);
    return c == ZYDIS_REGCLASS_GPR8 || c == ZYDIS_REGCLASS_GPR16 || c == ZYDIS_REGCLASS_GPR32 ||
           c == ZYDIS_REGCLASS_GPR64;
}

/* What the instruction uses without naming it, and AH..BH. False: cannot be renamed. */
static bool look_at_registers(const struct insn *in, struct parts *p)
{
    for (unsigned i = 0; i < in->z.operand_count; i++) {
        const ZydisDecodedOperand *o = &in->ops[i];
        unsigned gpr;

        if (!is_gpr(o))
            continue;
        if (o->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT &&
            o->encoding != ZYDIS_OPERAND_ENCODING_NONE) {
            p->has_high8 |= is_high8(o->reg.value);
            continue;
        }
        if (is_high8(o->reg.value)) /* AH of LAHF, SAHF, MUL, DIV */
            continue;
        gpr = bt_gpr(o->reg.value);
        if (gpr == RCX) {
            p->implicit_rcx = true;
            p->writes_rcx |= (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
        } else if (bt_home(gpr) != (enum hreg)gpr) {
            return false;
        }
    }
    return true;
}

/* Renames the register operands. free_mask: host registers that may hold staged ones. */
static bool rename_registers(const struct insn *in, struct parts *p, unsigned free_mask)
{
    for (unsigned i = 0; i < in->z.operand_count_visible; i++) {
        const ZydisDecodedOperand *o = &in->ops[i];
        enum hreg h;
        unsigned gpr;

        if (!is_gpr(o) || o->encoding == ZYDIS_OPERAND_ENCODING_NONE)
            continue;
        if (is_high8(o->reg.value)) {
            if (o->reg.value == ZYDIS_REGISTER_CH) {
                if (!stage(p, o, RCX, &free_mask, &h) || h != H_RCX)
                    return false;
            }
            continue; /* the field stays as it is */
        }
        gpr = bt_gpr(o->reg.value);
        h = bt_home(gpr);
        if (p->has_high8 && gpr == RCX)
            h = H_NONE; /* no REX: RCX in its own place */
        if (h == H_NONE && !stage(p, o, gpr, &free_mask, &h))
            return false;
        if (p->has_high8 && h >= H_R8)
            return false;
        switch (o->encoding) {
        case ZYDIS_OPERAND_ENCODING_MODRM_REG:
            p->reg = (uint8_t)h;
            break;
        case ZYDIS_OPERAND_ENCODING_MODRM_RM:
            p->rm = (uint8_t)h;
            break;
        case ZYDIS_OPERAND_ENCODING_NDSNDD:
            p->vex_vvvv = (uint8_t)h;
            break;
        case ZYDIS_OPERAND_ENCODING_OPCODE:
            if (p->modrm) { /* it was */
                p->rm = (uint8_t)h;
                break;
            }
            p->opcode[p->nr_opcode - 1] = (uint8_t)((p->opcode[p->nr_opcode - 1] & 0xf8) | (h & 7));
            p->rex = (uint8_t)((p->rex & ~1) | (h >> 3));
            if (h >= H_R8)
                p->rex |= 0x40;
            break;
        default:
            return false;
        }
    }
    return true;
}

/* MOV between the accumulator and an absolute address becomes an ordinary one. */
static void without_moffs(struct parts *p)
{
    static const uint8_t as[4] = { 0x8a, 0x8b, 0x88, 0x89 };

    p->opcode[0] = as[p->opcode[0] - 0xa0];
    p->modrm = true;
    p->reg = H_RAX;
    p->nr_tail = 0;
}

static void write_out(struct emit *e, const struct parts *p, const struct hmem *m)
{
    unsigned x = 0, b = p->rm;
    uint8_t rex;

    if (m) {
        b = m->base;
        x = m->index == H_NONE ? 0 : m->index;
    }
    emit_bytes(e, p->legacy, p->nr_legacy);
    if (p->vex) {
        emit8(e, 0xc4);
        emit8(e, (uint8_t)((p->reg & 8 ? 0 : 0x80) | (x & 8 ? 0 : 0x40) | (b & 8 ? 0 : 0x20) |
                           p->vex_map));
        emit8(e, (uint8_t)((p->vex_last & 0x87) | (~p->vex_vvvv & 15) << 3));
    } else {
        rex = p->rex;
        if (p->modrm)
            rex = (uint8_t)((rex & 0x48) | (p->reg & 8) >> 1 | (x & 8) >> 2 | (b & 8) >> 3);
        if (rex & 0x0f)
            rex |= 0x40;
        if (rex)
            emit8(e, rex);
    }
    emit_bytes(e, p->opcode, p->nr_opcode);
    if (m)
        emit_modrm_mem(e, p->reg, *m);
    else if (p->modrm)
        emit8(e, (uint8_t)(0xc0 | (p->reg & 7) << 3 | (p->rm & 7)));
    emit_bytes(e, p->tail, p->nr_tail);
}

/* MOV [m], imm32 */
static void store_imm32(struct emit *e, struct hmem m, uint32_t imm)
{
    emit_op_rm(e, 0, 0xc7, 0, m);
    emit32(e, imm);
}

static void note_selector(struct trans *t, size_t sel_off, size_t to_off)
{
    emit_op_rm(t->e, 0, 0x8b, H_TMP, HMEM_GS(sel_off));
    emit_op_rm(t->e, 0, 0x89, H_TMP, HMEM_GS(to_off));
}

/*
 * After an x87 instruction: what its pointers are to the guest (SDM 1, "x87 FPU Instruction and
 * Data (Operand) Pointers"). If it raises the exception of the one before, that one's stay. H_PTR
 * is the operand's address.
 */
static void note_x87(struct trans *t)
{
    const struct insn *in = &t->in;
    const ZydisDecodedOperandMem *m = in->mem >= 0 ? &in->ops[in->mem].mem : NULL;

    emit_load(t->e, H_TMP, HMEM_GS(GPR_OFF(SLOT_PAGE / 8)));
    emit_lea(t->e, H_TMP, HMEM_BASE(H_TMP, in->off));
    emit_store(t->e, HMEM_GS(BT_OFF(x87.rip)), H_TMP);
    store_imm32(t->e, HMEM_GS(BT_OFF(x87.op)), X87_SET | in->op.stub->d.fop);
    note_selector(t, CPU_OFF(seg[SEG_CS].sel), BT_OFF(x87.cs));
    if (!m) {
        /* FDP is then looked at only if this very instruction has raised an exception. */
        if (model_has(t->b->iv.vc.cpu.model, FEAT_FDP_EXCPTN_ONLY))
            store_imm32(t->e, HMEM_GS(BT_OFF(x87.dp_set)), 0);
        return;
    }
    emit_store(t->e, HMEM_GS(BT_OFF(x87.dp)), H_PTR);
    store_imm32(t->e, HMEM_GS(BT_OFF(x87.dp_set)), 1);
    note_selector(t,
                  m->segment == ZYDIS_REGISTER_SS   ? CPU_OFF(seg[SEG_SS].sel)
                  : m->segment == ZYDIS_REGISTER_ES ? CPU_OFF(seg[SEG_ES].sel)
                                                    : CPU_OFF(seg[SEG_DS].sel),
                  BT_OFF(x87.ds));
}

/* Does it leave pointers behind, and are they known? */
static bool sets_pointers(const struct insn *in)
{
    return in->unit == UNIT_X87 && in->op.stub->d.flags & NATIVE_POINTERS;
}

static bool names_fs_or_gs(const struct insn *in)
{
    return in->mem >= 0 && (in->ops[in->mem].mem.segment == ZYDIS_REGISTER_FS ||
                            in->ops[in->mem].mem.segment == ZYDIS_REGISTER_GS);
}

/* VZEROUPPER and VZEROALL outside 64-bit code leave YMM8 to YMM15 alone. */
static void zero_vectors(struct trans *t, bool all)
{
    for (unsigned i = 0; i < 8; i++) {
        uint8_t modrm = (uint8_t)(0xc0 | i << 3 | i);

        if (all) /* VXORPS xmm, xmm, xmm */
            emit_bytes(t->e,
                       (const uint8_t[]){ 0xc5, (uint8_t)(0x80 | (~i & 15) << 3), 0x57, modrm }, 4);
        else /* VMOVAPS xmm, xmm */
            emit_bytes(t->e, (const uint8_t[]){ 0xc5, 0xf8, 0x28, modrm }, 4);
    }
}

bool bt_emit_copy(struct trans *t)
{
    const struct insn *in = &t->in;
    struct parts p = { .nr_legacy = 0 };
    struct hmem m;
    unsigned free_mask;
    bool mem = in->mem >= 0;

    if (in->word == 4 && (in->z.mnemonic == ZYDIS_MNEMONIC_VZEROUPPER ||
                          in->z.mnemonic == ZYDIS_MNEMONIC_VZEROALL)) {
        zero_vectors(t, in->z.mnemonic == ZYDIS_MNEMONIC_VZEROALL);
        return true;
    }
    if (!split(in, &p) || !look_at_registers(in, &p))
        return false;
    if (sets_pointers(in) && names_fs_or_gs(in)) /* the pointer is without the segment's base */
        return false;
    if (mem && !p.modrm) {
        if (p.nr_opcode != 1 || p.opcode[0] < 0xa0 || p.opcode[0] > 0xa3)
            return false;
        without_moffs(&p);
    }
    if (p.has_high8 && (p.implicit_rcx || (p.rex & 0x40)))
        return false;
    p.may_keep = in->z.mnemonic == ZYDIS_MNEMONIC_BSF || in->z.mnemonic == ZYDIS_MNEMONIC_BSR;
    free_mask = p.implicit_rcx ? 0 : 1u << H_RCX;
    if (!mem)
        free_mask |= p.has_high8 ? 0 : 1u << H_R10 | 1u << H_R11;
    else if (p.has_high8)
        free_mask = 0; /* RCX holds the address */
    else
        free_mask |= 1u << H_AUX;
    if (!rename_registers(in, &p, free_mask))
        return false;
    if (mem) {
        if (!bt_share_known(t)) {
            ZydisDecodedOperandMem at = in->ops[in->mem].mem;

            at.disp.value = (at.disp.has_displacement ? at.disp.value : 0) + bt_share_ahead(t);
            at.disp.has_displacement = true;
            bt_emit_ea(t, &at);
        }
        m = bt_share_lookup(t, in->mem_bytes, in->mem_acc == ACC_WRITE);
        if (p.has_high8) {
            emit_lea(t->e, H_RCX, m);
            m = HMEM_BASE(H_RCX, 0);
        }
        for (unsigned i = 0; i < p.nr_staged; i++)
            if (p.st[i].host == H_AUX) {
                emit_lea(t->e, H_PTR, m);
                m = HMEM_BASE(H_PTR, 0);
            }
    }
    for (unsigned i = 0; i < p.nr_staged; i++)
        if (p.st[i].load)
            bt_emit_get(t, p.st[i].host, p.st[i].gpr);
    if (p.implicit_rcx)
        bt_emit_get(t, H_RCX, RCX);
    write_out(t->e, &p, mem ? &m : NULL);
    for (unsigned i = 0; i < p.nr_staged; i++)
        if (p.st[i].store)
            bt_emit_put(t, p.st[i].gpr, p.st[i].host);
    if (p.writes_rcx)
        bt_emit_put(t, RCX, H_RCX);
    if (sets_pointers(in))
        note_x87(t);
    return true;
}

bool bt_emit_lea(struct trans *t)
{
    const ZydisDecodedOperand *d = &t->in.ops[0];
    const ZydisDecodedOperandMem *m = &t->in.ops[1].mem;
    unsigned gpr = bt_gpr(d->reg.value);
    enum hreg dst = bt_home(gpr);
    bool a32 = d->size == 32 || t->in.z.address_width == 32;

    if (d->size == 16)
        return false;
    bt_emit_offset(t, m, dst == H_NONE ? H_PTR : dst, a32);
    if (dst == H_NONE)
        bt_emit_put(t, gpr, H_PTR);
    return true;
}
