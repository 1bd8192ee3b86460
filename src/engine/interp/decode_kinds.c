/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kinds of instructions: engine/insns.def says per mnemonic which function here fills the op,
 * and with which handler.
 */
#include "engine/interp/decode_int.h"

/* ---- forms ---- */

static bool is_reg(const ZydisDecodedOperand *o, ZydisRegisterClass cls)
{
    return o->type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(o->reg.value) == cls;
}

static unsigned opsize_bytes(const struct decoding *d)
{
    return d->insn.operand_width / 8;
}

/* What the instruction moves on the stack, by its hidden stack operand; else the operand size. */
static unsigned stack_bytes(const struct decoding *d)
{
    for (unsigned i = d->insn.operand_count_visible; i < d->insn.operand_count; i++) {
        const ZydisDecodedOperand *o = &d->ops[i];

        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.segment == ZYDIS_REGISTER_SS)
            return o->size / 8;
    }
    return opsize_bytes(d);
}

static bool has_mem(const struct decoding *d)
{
    return d->op->prefix & OP_MEM;
}

static bool locked(const struct decoding *d)
{
    return d->insn.attributes & ZYDIS_ATTRIB_HAS_LOCK;
}

static enum form form_of(const struct decoding *d)
{
    const struct op *op = d->op;

    if (op->prefix & OP_SRC_IMM)
        return has_mem(d) ? FORM_MI : FORM_RI;
    if (!has_mem(d))
        return FORM_RR;
    return op->dst == NOT_A_REG ? FORM_MR : FORM_RM;
}

/* ---- the kinds of insns.def ---- */

static void pure_unless_mem(struct decoding *d, unsigned fl)
{
    if (!has_mem(d))
        d->op->fl |= (uint8_t)(FL_PURE | fl);
}

static bool emit_alu(struct decoding *d)
{
    bool carry = d->rule->arg == ALU_ADC || d->rule->arg == ALU_SBB;

    if (locked(d)) {
        d->op->fn = op_lock_alu;
        d->op->aux = (uint8_t)d->rule->arg;
        d->op->aux2 = RMW_ALU;
        return true;
    }
    d->op->fn = alu_handler(d->rule->arg, form_of(d), d->op->bytes);
    pure_unless_mem(d, carry ? FL_READS : FL_KILLS);
    return true;
}

static bool emit_unary(struct decoding *d)
{
    static const uint8_t kinds[] = { RMW_INC, RMW_DEC, RMW_NEG, RMW_NOT };

    if (locked(d)) {
        d->op->fn = op_lock_alu;
        d->op->aux2 = kinds[d->rule->arg];
        return true;
    }
    d->op->fn = unary_handler(d->rule->arg, has_mem(d), d->op->bytes);
    pure_unless_mem(d, d->rule->arg == UNARY_NEG ? FL_KILLS : 0);
    return true;
}

static bool emit_shift(struct decoding *d)
{
    bool by_cl = !(d->op->prefix & OP_SRC_IMM);
    unsigned what = d->rule->arg, bytes = d->op->bytes;

    if (!by_cl && !has_mem(d) && (what == SHIFT_ROL || what == SHIFT_ROR))
        d->op->fn = rotate_imm_handler(what, (unsigned)d->op->imm, bytes);
    else
        d->op->fn = shift_handler(what, has_mem(d), by_cl, bytes);
    pure_unless_mem(d, FL_READS); /* a count of 0 keeps them, rotates keep some */
    return true;
}

static bool emit_double_shift(struct decoding *d)
{
    d->op->fn = shld_handlers[d->rule->arg];
    return true;
}

/* MOV is many instructions. */
static bool emit_mov(struct decoding *d)
{
    const ZydisDecodedOperand *dst = &d->ops[0], *src = &d->ops[1];
    struct op *op = d->op;

    if (is_reg(dst, ZYDIS_REGCLASS_CONTROL) || is_reg(src, ZYDIS_REGCLASS_CONTROL)) {
        bool to = is_reg(dst, ZYDIS_REGCLASS_CONTROL);

        op->aux = (uint8_t)((to ? dst : src)->reg.value - ZYDIS_REGISTER_CR0);
        op->bytes = d->key & MODE_CS64 ? 8 : 4;
        op->fn = to ? op_mov_cr : op_mov_from_cr;
        op->fl |= to ? FL_END : 0;
    } else if (is_reg(dst, ZYDIS_REGCLASS_DEBUG) || is_reg(src, ZYDIS_REGCLASS_DEBUG)) {
        bool to = is_reg(dst, ZYDIS_REGCLASS_DEBUG);

        op->aux = (uint8_t)((to ? dst : src)->reg.value - ZYDIS_REGISTER_DR0);
        op->bytes = d->key & MODE_CS64 ? 8 : 4;
        op->fn = to ? op_mov_dr : op_mov_from_dr;
        op->fl |= to ? FL_END : 0;
    } else if (is_reg(dst, ZYDIS_REGCLASS_SEGMENT)) {
        op->aux = (uint8_t)decode_seg_index(dst->reg.value);
        if (op->aux == SEG_CS)
            return false;
        op->bytes = 2;
        op->fn = op_mov_to_seg;
        op->fl |= FL_END;
    } else if (is_reg(src, ZYDIS_REGCLASS_SEGMENT)) {
        op->aux = (uint8_t)decode_seg_index(src->reg.value);
        op->bytes = has_mem(d) ? 2 : op->bytes;
        op->fn = op_mov_from_seg;
    } else {
        op->fn = mov_handler(form_of(d), op->bytes);
        pure_unless_mem(d, 0);
    }
    return true;
}

static bool emit_movx(struct decoding *d)
{
    /* MOVSXD r16 has a source of 16 bits, but reads 32 on AMD's processors (APM 3, SDM 2). */
    if (d->insn.mnemonic == ZYDIS_MNEMONIC_MOVSXD && d->op->bytes == 2 &&
        d->v->vm->evm.cfg.model->vendor == VENDOR_INTEL)
        d->op->fn = mov_handler(has_mem(d) ? FORM_RM : FORM_RR, 2);
    else
        d->op->fn = movx_handler(d->rule->arg, has_mem(d), d->ops[1].size / 8, d->op->bytes);
    pure_unless_mem(d, 0);
    return true;
}

static bool emit_lea(struct decoding *d)
{
    d->op->addr &= ADDR_A32 | ADDR_A16;
    d->op->fn = lea_handler(d->op->bytes);
    d->op->fl |= FL_PURE;
    return true;
}

static bool emit_cmov(struct decoding *d)
{
    d->op->fn = cmov_handler(d->rule->arg, has_mem(d), d->op->bytes);
    pure_unless_mem(d, FL_READS);
    return true;
}

static bool emit_setcc(struct decoding *d)
{
    d->op->fn = setcc_handler(d->rule->arg, has_mem(d));
    pure_unless_mem(d, FL_READS);
    return true;
}

/* Near branch operand size: 64 in 64-bit code, but AMD lets 66h make it 16 there. */
static void set_branch(struct decoding *d)
{
    struct op *op = d->op;

    op->bytes = (uint8_t)opsize_bytes(d);
    if (d->key & MODE_CS64) {
        bool cut = d->insn.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE && !d->insn.raw.rex.W;

        op->bytes = cut && d->v->vm->evm.cfg.model->vendor == VENDOR_AMD ? 2 : 8;
    }
    op->fl |= FL_END;
}

static void set_direct(struct decoding *d)
{
    struct op *op = d->op;

    set_branch(d);
    op->seg = SEG_SS; /* CALL's push */
    op->disp = (int64_t)op->off + op->len + d->ops[0].imm.value.s;
    if (op->disp >= 0 && op->disp < (int64_t)PAGE_BYTES && op->bytes != 2)
        op->aux2 |= CHAIN_TAKEN;
    if (op->off + op->len < (int64_t)PAGE_BYTES)
        op->aux2 |= CHAIN_NEXT;
}

static bool emit_jcc(struct decoding *d)
{
    set_direct(d);
    d->op->fn = jcc_handler(d->rule->arg);
    return true;
}

static void set_count_size(struct decoding *d)
{
    if (d->insn.address_width != 64)
        d->op->prefix |= d->insn.address_width == 32 ? OP_A32 : OP_A16;
}

static bool emit_loop(struct decoding *d)
{
    set_direct(d);
    set_count_size(d);
    /* E0 LOOPNE, E1 LOOPE, E2 LOOP; on AMD's processors F2 makes the first two NE, and F3 E, as for
     * strings. */
    d->op->aux = (uint8_t)(0xe2 - d->insn.opcode);
    for (unsigned i = 0;
         i < d->insn.raw.prefix_count && d->v->vm->evm.cfg.model->vendor == VENDOR_AMD; i++) {
        uint8_t p = d->insn.raw.prefixes[i].value;

        if (d->insn.opcode <= 0xe1 && (p == 0xf2 || p == 0xf3))
            d->op->aux = p == 0xf2 ? 2 : 1;
    }
    d->op->fn = d->insn.opcode == 0xe3 ? op_jcxz : op_loop;
    return true;
}

static bool emit_jump(struct decoding *d)
{
    const op_fn reg[2] = { op_jmp_reg, op_call_reg }, mem[2] = { op_jmp_mem, op_call_mem };
    const op_fn far[2] = { op_jmp_far, op_call_far },
                far_mem[2] = { op_jmp_far_mem, op_call_far_mem };
    const op_fn direct[2] = { op_jmp, op_call };
    unsigned is_call = d->rule->arg;

    if (d->insn.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) {
        d->op->bytes = (uint8_t)opsize_bytes(d);
        /* m16:64 is Intel's; AMD ignores REX.W here. */
        if (d->op->bytes == 8 && d->v->vm->evm.cfg.model->vendor == VENDOR_AMD)
            d->op->bytes = 4;
        d->op->fl |= FL_END;
        d->op->fn = has_mem(d) ? far_mem[is_call] : far[is_call];
        return true;
    }
    if (d->ops[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        set_direct(d);
        d->op->fn = direct[is_call];
        return true;
    }
    set_branch(d);
    d->op->fn = has_mem(d) ? mem[is_call] : reg[is_call];
    return true;
}

static bool emit_ret(struct decoding *d)
{
    d->op->fl |= FL_END;
    if (d->insn.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) {
        d->op->bytes = (uint8_t)opsize_bytes(d);
        d->op->fn = op_ret_far;
        return true;
    }
    set_branch(d);
    d->op->seg = SEG_SS;
    d->op->imm &= 0xffff;
    d->op->fn = op_ret;
    return true;
}

/* IRET: arg is the operand size. */
static bool emit_sized(struct decoding *d)
{
    d->op->bytes = (uint8_t)d->rule->arg;
    d->op->fl |= FL_END;
    d->op->fn = op_iret;
    return true;
}

static bool emit_push(struct decoding *d)
{
    struct op *op = d->op;

    op->bytes = (uint8_t)stack_bytes(d);
    if (is_reg(&d->ops[0], ZYDIS_REGCLASS_SEGMENT)) {
        op->aux = (uint8_t)decode_seg_index(d->ops[0].reg.value);
        op->fn = op_push_seg;
    } else {
        op->seg = has_mem(d) ? op->seg : SEG_SS;
        op->fn =
            d->key & MODE_CS64 && op->bytes == 8 && op->dst != NOT_A_REG ? op_push_reg64 : op_push;
    }
    return true;
}

static bool emit_pop(struct decoding *d)
{
    struct op *op = d->op;

    op->bytes = (uint8_t)stack_bytes(d);
    if (is_reg(&d->ops[0], ZYDIS_REGCLASS_SEGMENT)) {
        op->aux = (uint8_t)decode_seg_index(d->ops[0].reg.value);
        op->fl |= FL_END;
        op->fn = op_pop_seg;
    } else {
        op->seg = has_mem(d) ? op->seg : SEG_SS;
        op->fn =
            d->key & MODE_CS64 && op->bytes == 8 && op->dst != NOT_A_REG ? op_pop_reg64 : op_pop;
    }
    return true;
}

static bool emit_enter(struct decoding *d)
{
    d->op->bytes = (uint8_t)stack_bytes(d);
    d->op->imm &= 0xffff;
    d->op->fn = op_enter;
    return true;
}

static bool emit_imul(struct decoding *d)
{
    unsigned nr = d->insn.operand_count_visible;

    if (nr == 2 && !has_mem(d) && d->op->bytes >= 4)
        d->op->fn = d->op->bytes == 8 ? op_imul64_rr : op_imul32_rr;
    else
        d->op->fn = nr == 1 ? op_imul1 : nr == 2 ? op_imul2 : op_imul3;
    if (nr > 1)
        pure_unless_mem(d, FL_READS);
    return true;
}

/* CBW.. and CWD..: arg is the size, + 16 for the second family. */
static bool emit_convert(struct decoding *d)
{
    d->op->bytes = d->rule->arg & 15;
    d->op->fn = d->rule->arg & 16 ? op_cwd : op_cbw;
    d->op->fl |= FL_PURE;
    return true;
}

static bool emit_flag(struct decoding *d)
{
    d->op->aux = (uint8_t)d->rule->arg;
    d->op->fn = op_flag_cf;
    d->op->fl |= FL_PURE | FL_READS;
    return true;
}

/* Operands as they are; the handler does the rest. */
static bool emit_plain(struct decoding *d)
{
    if (locked(d))
        d->op->prefix |= OP_LOCK;
    /* SMSW, SLDT, STR to memory, and all selectors, have 16 bits whatever the operand size. */
    d->op->fn = *d->rule->fn;
    return true;
}

static bool emit_bare(struct decoding *d)
{
    d->op->fn = *d->rule->fn;
    return true;
}

/* With REX.B it is no PAUSE but XCHG R8, rAX on AMD's processors (Intel's ignore REX.B: seen on
 * Sapphire Rapids). */
static bool emit_pause(struct decoding *d)
{
    if (!d->insn.raw.rex.B || d->v->vm->evm.cfg.model->vendor == VENDOR_INTEL) {
        d->op->fn = d->v->vm->share ? op_pause : op_nop;
        return true;
    }
    d->op->dst = R8 * 8;
    d->op->src = RAX * 8;
    d->op->bytes = (uint8_t)opsize_bytes(d);
    d->op->fn = op_xchg;
    return true;
}

/* 0F 0D, PREFETCHW and the reserved forms beside it; AMD's has no register form. */
static bool emit_nop(struct decoding *d)
{
    bool prefetch = d->insn.opcode_map == ZYDIS_OPCODE_MAP_0F && d->insn.opcode == 0x0d;

    if (prefetch && d->insn.raw.modrm.mod == 3 && d->v->vm->evm.cfg.model->vendor == VENDOR_AMD)
        return false;
    return emit_bare(d);
}

static bool emit_end(struct decoding *d)
{
    d->op->fn = *d->rule->fn;
    d->op->fl |= FL_END;
    return true;
}

static bool emit_end_operands(struct decoding *d)
{
    return emit_plain(d) && emit_end(d);
}

static bool emit_opsize(struct decoding *d)
{
    d->op->bytes = (uint8_t)opsize_bytes(d);
    d->op->fn = *d->rule->fn;
    return true;
}

static bool emit_end_opsize(struct decoding *d)
{
    return emit_opsize(d) && emit_end(d);
}

static bool emit_stack(struct decoding *d)
{
    d->op->bytes = (uint8_t)stack_bytes(d);
    d->op->fn = *d->rule->fn;
    return true;
}

static bool emit_stack_end(struct decoding *d)
{
    return emit_stack(d) && emit_end(d);
}

static bool emit_io(struct decoding *d)
{
    const ZydisDecodedOperand *data = &d->ops[*d->rule->fn == op_in ? 0 : 1];

    d->op->bytes = (uint8_t)(data->size / 8);
    return emit_end(d);
}

/* Implicit address by rSI, rDI, rAX or rBX in the address size; F2 and F3 both repeat, the last one
 * counts. */
static bool emit_string(struct decoding *d)
{
    struct op *op = d->op;

    op->seg = SEG_DS;
    for (unsigned i = 0; i < d->insn.operand_count; i++)
        if (d->ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY) {
            op->bytes = (uint8_t)(d->ops[i].size / 8);
            if (d->ops[i].mem.segment != ZYDIS_REGISTER_ES ||
                d->insn.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_ES)
                op->seg = decode_seg_index(d->ops[i].mem.segment);
        }
    for (unsigned i = 0; i < d->insn.raw.prefix_count; i++) {
        uint8_t p = d->insn.raw.prefixes[i].value;

        if (p == 0xf2 || p == 0xf3)
            op->prefix =
                (uint8_t)((op->prefix & ~(OP_REP | OP_REPNE)) | (p == 0xf3 ? OP_REP : OP_REPNE));
    }
    op->prefix &= (uint8_t)~OP_MEM;
    op->base = op->index = SLOT_ZERO;
    op->addr = decode_addr_flags(d, op->seg);
    set_count_size(d);
    op->fn = *d->rule->fn;
    return true;
}

static bool emit_string_end(struct decoding *d)
{
    return emit_string(d) && emit_end(d);
}

/* The segment of a memory operand that Zydis does not name: the last prefix counts. */
static enum seg_id segment_by_prefix(const struct decoding *d)
{
    static const uint8_t prefixes[NR_SEGS] = { [SEG_ES] = 0x26, [SEG_CS] = 0x2e, [SEG_SS] = 0x36,
                                               [SEG_DS] = 0x3e, [SEG_FS] = 0x64, [SEG_GS] = 0x65 };
    enum seg_id seg = SEG_DS;

    for (unsigned i = 0; i < d->insn.raw.prefix_count; i++)
        for (unsigned s = d->key & MODE_CS64 ? SEG_FS : SEG_ES; s < NR_SEGS; s++)
            if (d->insn.raw.prefixes[i].value == prefixes[s])
                seg = (enum seg_id)s;
    return seg;
}

/* The line at rAX in the address size. With F2 or F3 it is no CLZERO. */
static bool emit_clzero(struct decoding *d)
{
    if (!emit_string(d) || d->op->prefix & (OP_REP | OP_REPNE))
        return false;
    d->op->seg = segment_by_prefix(d);
    d->op->addr = decode_addr_flags(d, d->op->seg);
    return true;
}

static bool emit_far_ptr(struct decoding *d)
{
    d->op->aux = (uint8_t)d->rule->arg;
    d->op->bytes = (uint8_t)opsize_bytes(d);
    /* m16:64 is Intel's; AMD ignores REX.W here. */
    if (d->op->bytes == 8 && d->v->vm->evm.cfg.model->vendor == VENDOR_AMD)
        d->op->bytes = 4;
    d->op->fn = op_load_far_ptr;
    d->op->fl |= FL_END;
    return true;
}

static bool emit_fsgsbase(struct decoding *d)
{
    d->op->aux = d->rule->arg & 15;
    d->op->aux2 = d->rule->arg >> 4;
    d->op->fn = op_fsgsbase;
    return true;
}

#define BY_NUMBER(a)     .arg = (a)
#define BY_HANDLER(a)    .fn = &(a)
#define ARG_alu          BY_NUMBER
#define ARG_unary        BY_NUMBER
#define ARG_shift        BY_NUMBER
#define ARG_double_shift BY_NUMBER
#define ARG_mov          BY_NUMBER
#define ARG_movx         BY_NUMBER
#define ARG_lea          BY_NUMBER
#define ARG_cmov         BY_NUMBER
#define ARG_setcc        BY_NUMBER
#define ARG_jcc          BY_NUMBER
#define ARG_loop         BY_NUMBER
#define ARG_jump         BY_NUMBER
#define ARG_ret          BY_NUMBER
#define ARG_sized        BY_NUMBER
#define ARG_push         BY_NUMBER
#define ARG_pop          BY_NUMBER
#define ARG_enter        BY_NUMBER
#define ARG_imul         BY_NUMBER
#define ARG_convert      BY_NUMBER
#define ARG_flag         BY_NUMBER
#define ARG_far_ptr      BY_NUMBER
#define ARG_fsgsbase     BY_NUMBER
#define ARG_plain        BY_HANDLER
#define ARG_bare         BY_HANDLER
#define ARG_pause        BY_HANDLER
#define ARG_nop          BY_HANDLER
#define ARG_end          BY_HANDLER
#define ARG_end_operands BY_HANDLER
#define ARG_opsize       BY_HANDLER
#define ARG_end_opsize   BY_HANDLER
#define ARG_stack        BY_HANDLER
#define ARG_stack_end    BY_HANDLER
#define ARG_io           BY_HANDLER
#define ARG_string       BY_HANDLER
#define ARG_clzero       BY_HANDLER
#define ARG_string_end   BY_HANDLER
#define ARG_saver        BY_HANDLER

static const struct rule rules[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
#define INSN(mnemonic, kind, arg_) \
    [ZYDIS_MNEMONIC_##mnemonic] = { .emit = emit_##kind, ARG_##kind(arg_) },
#include "engine/insns.def"
#undef INSN
};

const struct rule *decode_rule(ZydisMnemonic mnemonic)
{
    return &rules[mnemonic];
}
