/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any instruction for a random program: random encodings that keep the program running, with their
 * memory operand bent to the test area.
 */
#include <Zydis/Zydis.h>
#include <string.h>

#include "engine/interp/native.h"
#include "prog.h"

static bool is_reserved(ZydisRegister r)
{
    switch (ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r)) {
    case ZYDIS_REGISTER_RBX:
    case ZYDIS_REGISTER_RBP:
    case ZYDIS_REGISTER_RSP:
    case ZYDIS_REGISTER_R14:
    case ZYDIS_REGISTER_R15:
        return true;
    default:
        return false;
    }
}

/* What would end the program, or must not be made at random. */
static bool is_unwanted(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *ops)
{
    if (undefined_result(in) || is_state_image(in) ||
        (in->attributes &
         (ZYDIS_ATTRIB_IS_PRIVILEGED | ZYDIS_ATTRIB_HAS_SEGMENT_FS | ZYDIS_ATTRIB_HAS_SEGMENT_GS)))
        return true;
    switch (in->meta.category) {
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_COND_BR:
    case ZYDIS_CATEGORY_UNCOND_BR:
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_SYSCALL:
    case ZYDIS_CATEGORY_SYSRET:
    case ZYDIS_CATEGORY_SYSTEM:
    case ZYDIS_CATEGORY_IO:
    case ZYDIS_CATEGORY_IOSTRINGOP:
    case ZYDIS_CATEGORY_STRINGOP:
    case ZYDIS_CATEGORY_AVX2GATHER:
        return true;
    default:
        break;
    }
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_DIV: /* nearly always overflows; gen_div() */
    case ZYDIS_MNEMONIC_IDIV:
    case ZYDIS_MNEMONIC_AAM:
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_UD2:
    case ZYDIS_MNEMONIC_CLI:
    case ZYDIS_MNEMONIC_STI:
    case ZYDIS_MNEMONIC_STD:     /* gen_string() */
    case ZYDIS_MNEMONIC_LDMXCSR: /* would unmask exceptions */
    case ZYDIS_MNEMONIC_VLDMXCSR:
    case ZYDIS_MNEMONIC_FLDCW:
    case ZYDIS_MNEMONIC_BOUND:
    case ZYDIS_MNEMONIC_XLAT: /* read anywhere */
    case ZYDIS_MNEMONIC_LSL:  /* the host's own segments */
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
    case ZYDIS_MNEMONIC_WRFSBASE:
    case ZYDIS_MNEMONIC_WRGSBASE:
    case ZYDIS_MNEMONIC_FNSTENV: /* the images hold FIP */
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FRSTOR:
        return true;
    case ZYDIS_MNEMONIC_VPINSRD: /* VEX.W in 32-bit code: ignored by Intel, #UD by AMD */
    case ZYDIS_MNEMONIC_VPEXTRD:
        return in->machine_mode != ZYDIS_MACHINE_MODE_LONG_64 && in->raw.vex.W;
    case ZYDIS_MNEMONIC_NOP: /* 0F 0D with a register is undefined on some */
        return in->opcode_map == ZYDIS_OPCODE_MAP_0F && in->opcode == 0x0d;
    default:
        break;
    }
    for (unsigned i = 0; i < in->operand_count; i++)
        if (ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            (ZydisRegisterGetClass(ops[i].reg.value) == ZYDIS_REGCLASS_SEGMENT ||
             ((ops[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) && is_reserved(ops[i].reg.value))))
            return true;
    return false;
}

static const ZydisDecodedOperand *memory_of(const ZydisDecodedInstruction *in,
                                            const ZydisDecodedOperand *ops)
{
    for (unsigned i = 0; i < in->operand_count; i++)
        if (ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
            return &ops[i];
    return NULL;
}

static bool is_bit_string(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *ops)
{
    bool bt = in->mnemonic == ZYDIS_MNEMONIC_BT || in->mnemonic == ZYDIS_MNEMONIC_BTS ||
              in->mnemonic == ZYDIS_MNEMONIC_BTR || in->mnemonic == ZYDIS_MNEMONIC_BTC;

    return bt && ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
}

/* From RBX; at any place, many at the page's end. */
int32_t gen_displacement(struct rng *r, bool aligned)
{
    int32_t d = (int32_t)pick(r, 3600) - 1600;

    if (!pick(r, 4))
        d = (int32_t)pick(r, 32) - 24;
    return aligned ? d & ~31 : d;
}

/* Vectors mostly are, because legacy SSE wants it; and what is locked, because split locks are
 * slow. */
static bool wants_alignment(struct rng *r, const ZydisDecodedInstruction *in, unsigned bytes)
{
    if (in->attributes & ZYDIS_ATTRIB_HAS_LOCK)
        return pick(r, 4);
    if (bytes < 16)
        return false;
    return in->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY ? pick(r, 150) : pick(r, 3);
}

#define INDEX_NONE    0xff
#define INDEX_ALIGNED 0xfe /* none, and the operand is aligned */
/* ModRM (and SIB) of [RBX + disp32] or [RBX + index * scale + disp32]. */
static void bend_operand(uint8_t *modrm, unsigned index, unsigned scale)
{
    uint8_t reg = *modrm & 0x38;

    if (index == INDEX_NONE) {
        *modrm = 0x80 | reg | RBX;
        return;
    }
    modrm[0] = 0x80 | reg | 4;
    modrm[1] = (uint8_t)(scale << 6 | index << 3 | RBX);
}

/* Is the memory operand where it is meant to be? */
static bool operand_ok(const ZydisDecodedOperand *mem, unsigned index)
{
    static const ZydisRegister low[][2] = {
        { ZYDIS_REGISTER_RAX, ZYDIS_REGISTER_EAX },
        { ZYDIS_REGISTER_RCX, ZYDIS_REGISTER_ECX },
        { ZYDIS_REGISTER_RDX, ZYDIS_REGISTER_EDX },
    };
    ZydisRegister i = mem->mem.index;

    if (mem->mem.type != ZYDIS_MEMOP_TYPE_MEM && mem->mem.type != ZYDIS_MEMOP_TYPE_AGEN)
        return false;
    if (mem->mem.base != ZYDIS_REGISTER_RBX && mem->mem.base != ZYDIS_REGISTER_EBX)
        return false;
    if (index == INDEX_NONE)
        return i == ZYDIS_REGISTER_NONE;
    return i == low[index][0] || i == low[index][1];
}

static bool decode(const struct chooser *c, struct insn_case *k)
{
    return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&c->dec, k->code, 15, &k->insn, k->ops));
}

/* Puts the memory operand into the test area: [RBX + disp32], or with an index. False: cannot be.
 */
static bool bend_memory(struct rng *r, const struct chooser *c, struct insn_case *k, unsigned index)
{
    int32_t d = gen_displacement(r, index == INDEX_ALIGNED);
    const ZydisDecodedOperand *mem;

    if (index == INDEX_ALIGNED)
        index = INDEX_NONE;
    bend_operand(k->code + k->insn.raw.modrm.offset, index, pick(r, 4));
    if (!decode(c, k) || k->insn.raw.disp.size != 32)
        return false;
    memcpy(k->code + k->insn.raw.disp.offset, &d, 4);
    if (!decode(c, k))
        return false;
    mem = memory_of(&k->insn, k->ops);
    return mem && operand_ok(mem, index) && !is_bit_string(&k->insn, k->ops);
}

unsigned gen_try_insn(struct rng *r, const struct chooser *c, uint8_t out[32])
{
    unsigned index = pick(r, 4) ? INDEX_NONE : pick(r, 3), n = 0;
    static struct insn_case k;
    const ZydisDecodedOperand *mem;

    if (!choose_code(c, r, &k))
        return 0;
    mem = memory_of(&k.insn, k.ops);
    if (mem && k.insn.raw.modrm.offset && k.insn.raw.modrm.mod != 3) {
        for (unsigned i = k.len; i < 15; i++) /* more bytes, in case it becomes longer */
            k.code[i] = (uint8_t)rnd(r);
        if (wants_alignment(r, &k.insn, mem->size / 8))
            index = INDEX_ALIGNED;
        if (!bend_memory(r, c, &k, index))
            return 0;
        if (index < 3) /* movzbl %index8, %index: the flags stay */
            out[n++] = 0x0f, out[n++] = 0xb6, out[n++] = (uint8_t)(0xc0 | index << 3 | index);
    } else if (mem) {
        return 0;
    }
    if (is_unwanted(&k.insn, k.ops) || !native_insn_offered(c->model, &k.insn))
        return 0;
    memcpy(out + n, k.code, k.insn.length);
    n += k.insn.length;
    /* CMP makes undefined flags defined. That of AF alone by logic is everywhere, and harmless. */
    if (undefined_flags(&k.insn) & RFLAGS_ARITH & ~RFLAGS_AF)
        out[n++] = 0x39, out[n++] = 0xc0;
    return n;
}
