/* SPDX-License-Identifier: Apache-2.0 */
/* Guest instructions, classified. */
#include "engine/bt/insn.h"

#include <string.h>

/*
 * Integer instructions that do the same at any privilege and in any process: no flags but the
 * arithmetic ones, no state but the operands. Those a CPU model may lack (BMI, POPCNT, ...) are
 * op_native to interp and taken by classify_native().
 */
static const uint8_t plain[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
#define PLAIN(m) [ZYDIS_MNEMONIC_##m] = 1
    PLAIN(MOV),        PLAIN(MOVNTI),  PLAIN(MOVZX),  PLAIN(MOVSX),   PLAIN(MOVSXD),
    PLAIN(MOVBE),      PLAIN(ADD),     PLAIN(OR),     PLAIN(ADC),     PLAIN(SBB),
    PLAIN(AND),        PLAIN(SUB),     PLAIN(XOR),    PLAIN(CMP),     PLAIN(TEST),
    PLAIN(INC),        PLAIN(DEC),     PLAIN(NEG),    PLAIN(NOT),     PLAIN(IMUL),
    PLAIN(MUL),        PLAIN(DIV),     PLAIN(IDIV),   PLAIN(SHL),     PLAIN(SHR),
    PLAIN(SAR),        PLAIN(ROL),     PLAIN(ROR),    PLAIN(RCL),     PLAIN(RCR),
    PLAIN(SHLD),       PLAIN(SHRD),    PLAIN(BT),     PLAIN(BTS),     PLAIN(BTR),
    PLAIN(BTC),        PLAIN(BSF),     PLAIN(BSR),    PLAIN(BSWAP),   PLAIN(CMOVO),
    PLAIN(CMOVNO),     PLAIN(CMOVB),   PLAIN(CMOVNB), PLAIN(CMOVZ),   PLAIN(CMOVNZ),
    PLAIN(CMOVBE),     PLAIN(CMOVNBE), PLAIN(CMOVS),  PLAIN(CMOVNS),  PLAIN(CMOVP),
    PLAIN(CMOVNP),     PLAIN(CMOVL),   PLAIN(CMOVNL), PLAIN(CMOVLE),  PLAIN(CMOVNLE),
    PLAIN(SETO),       PLAIN(SETNO),   PLAIN(SETB),   PLAIN(SETNB),   PLAIN(SETZ),
    PLAIN(SETNZ),      PLAIN(SETBE),   PLAIN(SETNBE), PLAIN(SETS),    PLAIN(SETNS),
    PLAIN(SETP),       PLAIN(SETNP),   PLAIN(SETL),   PLAIN(SETNL),   PLAIN(SETLE),
    PLAIN(SETNLE),     PLAIN(XCHG),    PLAIN(XADD),   PLAIN(CMPXCHG), PLAIN(CMPXCHG8B),
    PLAIN(CMPXCHG16B), PLAIN(CBW),     PLAIN(CWDE),   PLAIN(CDQE),    PLAIN(CWD),
    PLAIN(CDQ),        PLAIN(CQO),     PLAIN(CLC),    PLAIN(STC),     PLAIN(CMC),
    PLAIN(LAHF),       PLAIN(SAHF),    PLAIN(LFENCE), PLAIN(MFENCE),  PLAIN(SFENCE),
#undef PLAIN
};

/* Condition codes of Jcc by mnemonic; 0: not one; else cc + 1. */
static const uint8_t jcc[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
#define JCC(m, cc) [ZYDIS_MNEMONIC_##m] = (cc) + 1
    JCC(JO, 0),  JCC(JNO, 1),  JCC(JB, 2),   JCC(JNB, 3),   JCC(JZ, 4),  JCC(JNZ, 5),
    JCC(JBE, 6), JCC(JNBE, 7), JCC(JS, 8),   JCC(JNS, 9),   JCC(JP, 10), JCC(JNP, 11),
    JCC(JL, 12), JCC(JNL, 13), JCC(JLE, 14), JCC(JNLE, 15),
#undef JCC
};

/* Notes the memory operand: LEA's address, or the one access. False: more than one, or of a kind
 * that is not plain. */
static bool find_memory(struct insn *in)
{
    in->mem = -1;
    for (unsigned i = 0; i < in->z.operand_count; i++) {
        const ZydisDecodedOperand *o = &in->ops[i];

        if (o->type == ZYDIS_OPERAND_TYPE_POINTER)
            return false;
        if (o->type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        if (o->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT || in->mem >= 0 ||
            (o->mem.type != ZYDIS_MEMOP_TYPE_MEM && o->mem.type != ZYDIS_MEMOP_TYPE_AGEN))
            return false;
        in->mem = (int)i;
        in->mem_bytes = (uint16_t)(o->size / 8);
        in->mem_acc = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE ? ACC_WRITE : ACC_READ;
        if (o->mem.type == ZYDIS_MEMOP_TYPE_MEM && (!in->mem_bytes || in->mem_bytes > 64))
            return false;
    }
    return true;
}

/* Only general-purpose registers that can be renamed, and flags. */
static bool only_gprs(const struct insn *in)
{
    for (unsigned i = 0; i < in->z.operand_count; i++) {
        const ZydisDecodedOperand *o = &in->ops[i];

        if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        switch (ZydisRegisterGetClass(o->reg.value)) {
        case ZYDIS_REGCLASS_GPR8:
        case ZYDIS_REGCLASS_GPR16:
        case ZYDIS_REGCLASS_GPR32:
        case ZYDIS_REGCLASS_GPR64:
        case ZYDIS_REGCLASS_FLAGS:
            break;
        default:
            return false;
        }
    }
    return true;
}

static bool is_bit_string(const struct insn *in)
{
    return (in->z.mnemonic == ZYDIS_MNEMONIC_BT || in->z.mnemonic == ZYDIS_MNEMONIC_BTS ||
            in->z.mnemonic == ZYDIS_MNEMONIC_BTR || in->z.mnemonic == ZYDIS_MNEMONIC_BTC) &&
           in->mem >= 0 && in->ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
}

static void classify_plain(struct insn *in)
{
    if (in->z.raw.encoding2 == ZYDIS_INSTRUCTION_ENCODING_EVEX || !only_gprs(in))
        return;
    /* The register forms of bit tests reach beyond their operand. */
    if (!is_bit_string(in))
        in->cls = INSN_COPY;
    else if (in->word == 8 && in->z.operand_width == 64 && in->z.address_width == 64)
        in->cls = INSN_BITS;
}

/*
 * Outside 64-bit code: addresses of 16 bits, and data in the code segment, which may be neither
 * read nor written whatever its base and limit are.
 */
static bool odd_address(const struct insn *in)
{
    if (in->word == 8)
        return false;
    if (in->z.address_width != 32)
        return true;
    for (unsigned i = 0; i < in->z.operand_count; i++) /* those of strings are hidden */
        if (in->ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
            in->ops[i].mem.segment == ZYDIS_REGISTER_CS)
            return true;
    return false;
}

/* What interp runs by a stub may run in translated code: native.c's allow-list. */
static void classify_native(struct insn *in)
{
    const struct native_desc *d = &in->op.stub->d;

    if (in->z.mnemonic == ZYDIS_MNEMONIC_VZEROUPPER || in->z.mnemonic == ZYDIS_MNEMONIC_VZEROALL) {
        in->unit = UNIT_AVX;
        in->cls = INSN_COPY;
        return;
    }
    if (!d->code_bytes || d->index_bytes || d->mem_op >= (int)in->z.operand_count_visible ||
        (in->mem >= 0) != (d->mem_op >= 0))
        return;
    switch ((enum native_class)d->cls) {
    case NATIVE_GPR:
    case NATIVE_GPR_VEX:
        in->unit = UNIT_GPR;
        break;
    case NATIVE_X87:
    case NATIVE_MMX:
        in->unit = UNIT_X87;
        break;
    case NATIVE_SSE:
    case NATIVE_SSE_MMX:
        in->unit = UNIT_SSE;
        break;
    case NATIVE_AVX:
        in->unit = UNIT_AVX;
        break;
    default:
        return;
    }
    if (in->mem >= 0 && d->mem_bytes && d->mem_bytes != in->mem_bytes)
        return;
    in->cls = INSN_COPY;
}

/* AMD's processors make near branches with it 16 bits wide, Intel's ignore it: interp knows. */
static bool has_66(const struct insn *in)
{
    for (unsigned i = 0; i < in->z.raw.prefix_count; i++)
        if (in->z.raw.prefixes[i].value == 0x66)
            return true;
    return false;
}

static void classify_branch(struct insn *in, enum insn_class direct, enum insn_class indirect)
{
    const ZydisDecodedOperand *o = &in->ops[0];

    if (in->z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR || has_66(in))
        return;
    if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        in->target = (int64_t)in->off + in->len + o->imm.value.s;
        in->cls = direct;
    } else {
        in->cls = indirect;
    }
}

/* Whose count is as wide as addresses are, and that look at no flag. */
static void classify_loop(struct insn *in)
{
    bool counts = in->z.mnemonic == ZYDIS_MNEMONIC_LOOP;

    if (in->z.address_width == 8 * in->word && (counts || in->op.fn == op_jcxz))
        classify_branch(in, INSN_LOOP, INSN_INTERP);
}

static void classify_stack(struct insn *in)
{
    const ZydisDecodedOperand *o = &in->ops[0];

    /* The stack operand is a hidden one; what is named is the first. */
    in->mem = -1;
    if (in->z.operand_width != 8u * in->word)
        return;
    if (in->z.mnemonic == ZYDIS_MNEMONIC_LEAVE) {
        in->cls = INSN_LEAVE;
    } else if (o->type == ZYDIS_OPERAND_TYPE_REGISTER &&
               ZydisRegisterGetClass(o->reg.value) ==
                   (in->word == 8 ? ZYDIS_REGCLASS_GPR64 : ZYDIS_REGCLASS_GPR32)) {
        in->cls = in->z.mnemonic == ZYDIS_MNEMONIC_PUSH ? INSN_PUSH : INSN_POP;
    } else if (in->z.mnemonic == ZYDIS_MNEMONIC_PUSH && o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        in->imm = in->word == 8 ? (uint64_t)o->imm.value.s : (uint32_t)o->imm.value.s;
        in->cls = INSN_PUSH;
    } else if (in->z.mnemonic == ZYDIS_MNEMONIC_PUSH && o->type == ZYDIS_OPERAND_TYPE_MEMORY &&
               o->mem.type == ZYDIS_MEMOP_TYPE_MEM) {
        in->mem = 0;
        in->mem_bytes = in->word;
        in->mem_acc = ACC_READ;
        in->cls = INSN_PUSH;
    }
}

static void classify_string(struct insn *in)
{
    bool repeats = in->op.prefix & (OP_REP | OP_REPNE);

    in->mem = -1;
    if (in->z.address_width != 8 * in->word ||
        in->z.attributes & (ZYDIS_ATTRIB_HAS_SEGMENT_FS | ZYDIS_ATTRIB_HAS_SEGMENT_GS))
        return;
    if (repeats && (in->word != 8 || !(in->z.attributes & ZYDIS_ATTRIB_HAS_REP)))
        return;
    in->mem_bytes = in->ops[0].size / 8;
    in->cls = INSN_STRING;
}

static void classify(struct insn *in)
{
    bool simple = find_memory(in);

    if (in->op.fn == op_nop) {
        in->cls = INSN_NOP;
        return;
    }
    if (odd_address(in))
        return;
    if (in->op.fn == op_movs || in->op.fn == op_stos) {
        classify_string(in);
        return;
    }
    if (jcc[in->z.mnemonic]) {
        in->cc = jcc[in->z.mnemonic] - 1;
        classify_branch(in, INSN_JCC, INSN_INTERP);
        return;
    }
    switch (in->z.mnemonic) {
    case ZYDIS_MNEMONIC_LEA:
        in->cls = INSN_LEA;
        return;
    case ZYDIS_MNEMONIC_JMP:
        classify_branch(in, INSN_JMP, INSN_JMP_IND);
        return;
    case ZYDIS_MNEMONIC_CALL:
        if (in->ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY) {
            in->mem = 0;
            in->mem_bytes = in->word;
            in->mem_acc = ACC_READ;
        }
        classify_branch(in, INSN_CALL, INSN_CALL_IND);
        return;
    case ZYDIS_MNEMONIC_RET:
        in->mem = -1;
        if (in->z.meta.branch_type == ZYDIS_BRANCH_TYPE_NEAR && !has_66(in)) {
            in->imm = in->ops[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? in->ops[0].imm.value.u : 0;
            in->cls = INSN_RET;
        }
        return;
    case ZYDIS_MNEMONIC_PUSHFD:
    case ZYDIS_MNEMONIC_PUSHFQ:
        in->mem = -1;
        if (in->op.fn == op_pushf && in->z.operand_width == 8 * in->word)
            in->cls = INSN_PUSHF;
        return;
    case ZYDIS_MNEMONIC_LOOP:
    case ZYDIS_MNEMONIC_JECXZ:
    case ZYDIS_MNEMONIC_JRCXZ:
        classify_loop(in);
        return;
    case ZYDIS_MNEMONIC_PUSH:
    case ZYDIS_MNEMONIC_POP:
    case ZYDIS_MNEMONIC_LEAVE:
        classify_stack(in);
        return;
    default:
        break;
    }
    if (!simple)
        return;
    else if (in->op.fn == op_native)
        classify_native(in);
    else if (plain[in->z.mnemonic])
        classify_plain(in);
}

unsigned insn_decode(struct ivcpu *v, uint32_t key, const uint8_t *bytes, unsigned avail,
                     uint16_t off, struct insn *in)
{
    unsigned len;

    /* Once: somebody else may be writing to it, and what is translated must be what was decoded. */
    avail = MIN(avail, (unsigned)sizeof(in->bytes));
    memcpy(in->bytes, bytes, avail);
    len = decode_insn_full(v, key, in->bytes, avail, off, &in->op, &in->z, in->ops);
    in->cls = INSN_INTERP;
    in->unit = UNIT_GPR;
    in->word = key & MODE_CS64 ? 8 : 4;
    in->mem = -1;
    if (!len)
        return 0;
    in->len = (uint8_t)len;
    in->off = off;
    in->ends = op_ends_block(&in->op);
    if (in->op.fn != op_ud && in->op.fn != op_native_full)
        classify(in);
    return len;
}
