/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From Zydis' decoded instruction to struct op: its operands, and who fills in the rest. That is a
 * function of decode_kinds.c for what is in engine/insns.def; all else goes to the host's own unit
 * (native.c) or raises #UD.
 */
#include "engine/interp/decode_int.h"

#include <string.h>

/* ---- operands ---- */

/* Offset of a general-purpose register in cpu.gpr[], or NOT_A_REG. */
static uint8_t reg_offset(ZydisRegister r)
{
    if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH)
        return (uint8_t)((r - ZYDIS_REGISTER_AH) * 8 + 1);
    switch (ZydisRegisterGetClass(r)) {
    case ZYDIS_REGCLASS_GPR8:
        if (r >= ZYDIS_REGISTER_SPL)
            return (uint8_t)((r - ZYDIS_REGISTER_SPL + RSP) * 8);
        return (uint8_t)((r - ZYDIS_REGISTER_AL) * 8);
    case ZYDIS_REGCLASS_GPR16:
        return (uint8_t)((r - ZYDIS_REGISTER_AX) * 8);
    case ZYDIS_REGCLASS_GPR32:
        return (uint8_t)((r - ZYDIS_REGISTER_EAX) * 8);
    case ZYDIS_REGCLASS_GPR64:
        return (uint8_t)((r - ZYDIS_REGISTER_RAX) * 8);
    default:
        return NOT_A_REG;
    }
}

enum seg_id decode_seg_index(ZydisRegister r)
{
    return r >= ZYDIS_REGISTER_ES && r <= ZYDIS_REGISTER_GS ? (enum seg_id)(r - ZYDIS_REGISTER_ES)
                                                            : SEG_DS;
}

uint8_t decode_addr_flags(const struct decoding *d, enum seg_id seg)
{
    bool flat_seg = seg == SEG_DS || seg == SEG_ES || seg == SEG_SS;
    uint8_t f = 0;

    if (d->key & MODE_CS64) {
        f = flat_seg || seg == SEG_CS ? 0 : ADDR_SEG;
        return d->insn.address_width == 32 ? f | ADDR_A32 : f;
    }
    if (!flat_seg || !(d->key & KEY_FLAT_DATA))
        f = ADDR_SEG;
    return f | (d->insn.address_width == 32 ? ADDR_A32 : ADDR_A16);
}

static void set_memory(struct decoding *d, const ZydisDecodedOperand *o)
{
    struct op *op = d->op;

    op->prefix |= OP_MEM;
    op->seg = decode_seg_index(o->mem.segment);
    op->base = op->index = SLOT_ZERO;
    op->disp = d->insn.raw.disp.size ? d->insn.raw.disp.value : 0;
    if (o->mem.base == ZYDIS_REGISTER_RIP || o->mem.base == ZYDIS_REGISTER_EIP) {
        op->base = SLOT_PAGE;
        op->disp += op->off + d->insn.length;
    } else if (o->mem.base != ZYDIS_REGISTER_NONE &&
               !(d->insn.raw.modrm.mod == 0 && d->insn.raw.sib.base == 5 &&
                 (d->insn.attributes & ZYDIS_ATTRIB_HAS_SIB))) {
        /* Base 5 with mod 0 means none whatever REX.B says; Zydis 4.0 has it otherwise with 67h. */
        op->base = reg_offset(o->mem.base);
    }
    /* The vector index of a gather is its handler's business. */
    if (reg_offset(o->mem.index) != NOT_A_REG) {
        op->index = reg_offset(o->mem.index);
        op->scale = (uint8_t)__builtin_ctz(o->mem.scale);
    }
    op->addr = decode_addr_flags(d, op->seg);
}

/* Takes the visible operands as they come: first into dst, second into src, an immediate into imm
 * (a second one into aux). */
static void set_operands(struct decoding *d)
{
    struct op *op = d->op;

    op->dst = op->src = NOT_A_REG;
    op->base = op->index = SLOT_ZERO;
    for (unsigned i = 0; i < d->insn.operand_count_visible; i++) {
        const ZydisDecodedOperand *o = &d->ops[i];

        switch (o->type) {
        case ZYDIS_OPERAND_TYPE_MEMORY:
            set_memory(d, o);
            break;
        case ZYDIS_OPERAND_TYPE_REGISTER:
            if (i == 0)
                op->dst = reg_offset(o->reg.value);
            else if (i == 1)
                op->src = reg_offset(o->reg.value);
            break;
        case ZYDIS_OPERAND_TYPE_IMMEDIATE:
            if (op->prefix & OP_SRC_IMM)
                op->aux = (uint8_t)o->imm.value.u;
            else
                op->imm = o->imm.value.u;
            op->prefix |= OP_SRC_IMM;
            break;
        case ZYDIS_OPERAND_TYPE_POINTER:
            op->imm = o->ptr.segment;
            op->disp = o->ptr.offset;
            break;
        default:
            break;
        }
    }
    op->bytes = (uint8_t)(d->ops[0].size / 8);
}

/* ---- the decoder ---- */

static void init_decoder(ZydisDecoder *dec, uint32_t key, enum cpu_vendor vendor)
{
    bool lma = key & MODE_LMA, protected = (key & MODE_PE) && !(key & MODE_VM86);

    if (key & MODE_CS64)
        (void)ZydisDecoderInit(dec, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    else if (key & MODE_CS32)
        (void)ZydisDecoderInit(
            dec, lma ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32 : ZYDIS_MACHINE_MODE_LEGACY_32,
            key & MODE_SS32 ? ZYDIS_STACK_WIDTH_32 : ZYDIS_STACK_WIDTH_16);
    else
        (void)ZydisDecoderInit(dec,
                               lma         ? ZYDIS_MACHINE_MODE_LONG_COMPAT_16
                               : protected ? ZYDIS_MACHINE_MODE_LEGACY_16
                                           : ZYDIS_MACHINE_MODE_REAL_16,
                               key & MODE_SS32 ? ZYDIS_STACK_WIDTH_32 : ZYDIS_STACK_WIDTH_16);
    /* What doppel never offers decodes as what processors without it make of it (NOPs, TZCNT as
     * such, ...). */
    (void)ZydisDecoderEnableMode(dec, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
    (void)ZydisDecoderEnableMode(dec, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
    (void)ZydisDecoderEnableMode(dec, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
    (void)ZydisDecoderEnableMode(dec, ZYDIS_DECODER_MODE_KNC, ZYAN_FALSE);
    (void)ZydisDecoderEnableMode(dec, ZYDIS_DECODER_MODE_AMD_BRANCHES, vendor == VENDOR_AMD);
}

/* F3 before BSF and BSR means TZCNT and LZCNT only where these exist; else it is ignored (SDM 2,
 * TZCNT, LZCNT). */
static bool emit_without_feature(struct decoding *d)
{
    if (d->insn.mnemonic == ZYDIS_MNEMONIC_TZCNT)
        d->op->fn = op_bsf;
    else if (d->insn.mnemonic == ZYDIS_MNEMONIC_LZCNT)
        d->op->fn = op_bsr;
    else
        return false;
    return true;
}

static bool emit_native(struct decoding *d)
{
    struct native_cache *native = d->v->native;

    d->op->stub = native_get(native, d->v->vm->evm.cfg.model, &d->insn, d->ops, d->bytes);
    d->op->fn = op_native;
    if (!d->op->stub) {
        d->op->fn = op_native_full;
        return native_cache_full(native);
    }
    /* MASKMOVQ and relatives have a hidden memory operand. */
    if (d->op->stub->d.mem_op >= (int)d->insn.operand_count_visible)
        set_memory(d, &d->ops[d->op->stub->d.mem_op]);
    return true;
}

/* Mnemonics that mean something else outside the string instructions. */
static bool rule_applies(const ZydisDecodedInstruction *insn)
{
    if (insn->mnemonic != ZYDIS_MNEMONIC_MOVSD && insn->mnemonic != ZYDIS_MNEMONIC_CMPSD)
        return true;
    return insn->meta.category == ZYDIS_CATEGORY_STRINGOP;
}

static void report_undefined(struct decoding *d)
{
    const struct cpu *c = CPU(d->v);

    if (d->insn.mnemonic == ZYDIS_MNEMONIC_UD2 ||
        !log_first(c->seen, 0x0bull << 56 | d->insn.mnemonic))
        return;
    log_debug("guest: %s at RIP %#llx raises #UD: the CPU model does not offer it",
              ZydisMnemonicGetString(d->insn.mnemonic), (unsigned long long)c->rip);
}

static unsigned decode(struct decoding *d, unsigned avail, uint16_t off)
{
    const struct cpu_model *model = d->v->vm->evm.cfg.model;
    struct op *op = d->op;
    ZydisDecoder dec;
    ZyanStatus st;
    bool ok;

    init_decoder(&dec, d->key, model->vendor);
    *op = (struct op){ .off = off, .len = 1 };
    st = ZydisDecoderDecodeFull(&dec, d->bytes, MIN(avail, 15), &d->insn, d->ops);
    if (st == ZYDIS_STATUS_NO_MORE_DATA || st == ZYDIS_STATUS_INSTRUCTION_TOO_LONG)
        return 0;
    if (ZYAN_SUCCESS(st)) {
        op->len = d->insn.length;
        set_operands(d);
        d->rule = decode_rule(d->insn.mnemonic);
        if (!native_insn_offered(model, &d->insn))
            ok = emit_without_feature(d);
        else if (d->rule->emit && rule_applies(&d->insn))
            ok = d->rule->emit(d);
        else
            ok = emit_native(d);
        if (ok)
            return op->len;
        report_undefined(d);
    }
    op->fn = op_ud;
    op->fl = FL_END;
    return op->len;
}

unsigned decode_insn(struct ivcpu *v, uint32_t key, const uint8_t *bytes, unsigned avail,
                     uint16_t off, struct op *op)
{
    struct decoding d = { .v = v, .key = key, .bytes = bytes, .op = op };

    return decode(&d, avail, off);
}

unsigned decode_insn_full(struct ivcpu *v, uint32_t key, const uint8_t *bytes, unsigned avail,
                          uint16_t off, struct op *op, ZydisDecodedInstruction *insn,
                          ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT])
{
    struct decoding d = { .v = v, .key = key, .bytes = bytes, .op = op };
    unsigned len = decode(&d, avail, off);

    *insn = d.insn;
    memcpy(ops, d.ops, d.insn.operand_count * sizeof(d.ops[0])); /* the others say nothing */
    return len;
}

bool op_ends_block(const struct op *op)
{
    return op->fl & FL_END;
}

/*
 * Backwards through a block: flags are live at its end, before anything that may fault (its handler
 * sees them) and before readers; an op that writes all of them makes them dead for those before it.
 */
void drop_dead_flags(struct op *ops, unsigned nr)
{
    bool live = true;

    while (nr-- > 0) {
        struct op *op = &ops[nr];
        op_fn plain = live ? NULL : alu_plain(op->fn);

        if (plain)
            op->fn = plain;
        if (!(op->fl & FL_PURE) || (op->fl & FL_READS))
            live = true;
        else if (op->fl & FL_KILLS)
            live = false;
    }
}
