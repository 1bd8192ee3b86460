/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From Zydis' view of an instruction to the description of its stub: which registers it touches,
 * which checks it needs, and the host encoding with the memory operand replaced by [frame].
 *
 * The host encoding is built anew in its canonical 64-bit form rather than patched: guest prefixes,
 * mode and displacement are gone, so that one stub serves all of them.
 */
#include "engine/interp/native_int.h"

#include <string.h>

/* Instruction sets whose members may run on the host as they are, unless special[] below has them.
 */
static const uint8_t allowed_sets[] = {
    ZYDIS_ISA_SET_X87,    ZYDIS_ISA_SET_FCMOV,      ZYDIS_ISA_SET_SSE3X87, ZYDIS_ISA_SET_PENTIUMMMX,
    ZYDIS_ISA_SET_SSE,    ZYDIS_ISA_SET_SSE2,       ZYDIS_ISA_SET_SSE2MMX, ZYDIS_ISA_SET_SSE3,
    ZYDIS_ISA_SET_SSSE3,  ZYDIS_ISA_SET_SSSE3MMX,   ZYDIS_ISA_SET_SSE4,    ZYDIS_ISA_SET_SSE42,
    ZYDIS_ISA_SET_SSE4A,  ZYDIS_ISA_SET_POPCNT,     ZYDIS_ISA_SET_LZCNT,   ZYDIS_ISA_SET_BMI1,
    ZYDIS_ISA_SET_BMI2,   ZYDIS_ISA_SET_ADOX_ADCX,  ZYDIS_ISA_SET_AES,     ZYDIS_ISA_SET_PCLMULQDQ,
    ZYDIS_ISA_SET_SHA,    ZYDIS_ISA_SET_AVX,        ZYDIS_ISA_SET_AVX2,    ZYDIS_ISA_SET_AVXAES,
    ZYDIS_ISA_SET_VAES,   ZYDIS_ISA_SET_VPCLMULQDQ, ZYDIS_ISA_SET_F16C,    ZYDIS_ISA_SET_FMA,
    ZYDIS_ISA_SET_RDRAND, ZYDIS_ISA_SET_RDSEED,
};

/* Instructions done in C, or with checks of their own. */
struct special {
    uint16_t mnemonic;
    uint8_t cls;
    uint8_t flags;
    native_fn *exec;
};

#define SPECIAL(m, class, fl, fn) { ZYDIS_MNEMONIC_##m, NATIVE_##class, fl, fn },

static const struct special specials[] = {
    SPECIAL(FWAIT, FWAIT, NATIVE_WAITING, native_nothing) SPECIAL(
        FENI8087_NOP, X87, 0, native_nothing) SPECIAL(FDISI8087_NOP, X87, 0,
                                                      native_nothing) SPECIAL(FSETPM287_NOP, X87, 0,
                                                                              native_nothing)
        SPECIAL(FNINIT, X87, 0, native_fninit) SPECIAL(FNSTENV, X87, 0, native_fnstenv) SPECIAL(
            FLDENV, X87, NATIVE_WAITING, native_fldenv) SPECIAL(FNSAVE, X87, 0, native_fnsave)
            SPECIAL(FRSTOR, X87, NATIVE_WAITING, native_frstor) SPECIAL(
                FXSAVE, FXSR,
                0, native_fxsave) SPECIAL(FXSAVE64, FXSR, 0,
                                          native_fxsave) SPECIAL(FXRSTOR, FXSR, 0, native_fxrstor)
                SPECIAL(FXRSTOR64, FXSR, 0, native_fxrstor) SPECIAL(
                    XSAVE, XSAVE, 0, native_xsave) SPECIAL(XSAVE64, XSAVE, 0, native_xsave)
                    SPECIAL(XSAVEOPT, XSAVE, 0, native_xsaveopt) SPECIAL(
                        XSAVEOPT64,
                        XSAVE, 0, native_xsaveopt) SPECIAL(XSAVEC, XSAVE, 0, native_xsavec)
                        SPECIAL(XSAVEC64, XSAVE, 0, native_xsavec) SPECIAL(
                            XRSTOR,
                            XSAVE, 0, native_xrstor) SPECIAL(XRSTOR64, XSAVE, 0, native_xrstor)
                            SPECIAL(LDMXCSR, SSE, NATIVE_MEM_READ, native_ldmxcsr) SPECIAL(
                                STMXCSR, SSE, NATIVE_MEM_WRITE,
                                native_stmxcsr)
                                SPECIAL(VLDMXCSR, AVX, NATIVE_MEM_READ, native_ldmxcsr) SPECIAL(
                                    VSTMXCSR, AVX, NATIVE_MEM_WRITE, native_stmxcsr)
                                    SPECIAL(MASKMOVQ, MMX, NATIVE_WAITING, native_maskmov_mmx)
                                        SPECIAL(MASKMOVDQU, SSE, 0, native_maskmov_sse) SPECIAL(
                                            VMASKMOVDQU, AVX,
                                            0, native_maskmov_sse) SPECIAL(VMASKMOVPS, AVX,
                                                                           0, native_maskload)
                                            SPECIAL(VMASKMOVPD, AVX, 0, native_maskload) SPECIAL(
                                                VPMASKMOVD,
                                                AVX, 0,
                                                native_maskload) SPECIAL(VPMASKMOVQ, AVX, 0,
                                                                         native_maskload)
                                                SPECIAL(VGATHERDPS, AVX, 0, native_gather) SPECIAL(
                                                    VGATHERDPD,
                                                    AVX,
                                                    0, native_gather) SPECIAL(VGATHERQPS, AVX, 0,
                                                                              native_gather)
                                                    SPECIAL(VGATHERQPD, AVX, 0,
                                                            native_gather) SPECIAL(VPGATHERDD, AVX,
                                                                                   0, native_gather)
                                                        SPECIAL(VPGATHERDQ, AVX, 0, native_gather)
                                                            SPECIAL(VPGATHERQD, AVX, 0,
                                                                    native_gather)
                                                                SPECIAL(VPGATHERQQ, AVX, 0,
                                                                        native_gather)
                                                                    SPECIAL(VZEROUPPER, AVX, 0,
                                                                            native_vzeroupper)
                                                                        SPECIAL(VZEROALL, AVX, 0,
                                                                                native_vzeroall)
};

static const struct special *find_special(ZydisMnemonic m)
{
    for (unsigned i = 0; i < ARRAY_SIZE(specials); i++)
        if (specials[i].mnemonic == m)
            return &specials[i];
    return NULL;
}

static bool in_list(const uint16_t *list, unsigned nr, unsigned what)
{
    for (unsigned i = 0; i < nr; i++)
        if (list[i] == what)
            return true;
    return false;
}

#define IN_LIST(list, what) in_list(list, ARRAY_SIZE(list), what)

/* FCOMI and FUCOMI came with the Pentium Pro and are filed there. */
static const uint16_t ppro_x87[] = {
    ZYDIS_MNEMONIC_FCOMI,
    ZYDIS_MNEMONIC_FCOMIP,
    ZYDIS_MNEMONIC_FUCOMI,
    ZYDIS_MNEMONIC_FUCOMIP,
};

/* x87 control instructions (SDM 1, "x87 FPU Control Instructions") leave FIP, FDP and FOP alone. */
static const uint16_t x87_control[] = {
    ZYDIS_MNEMONIC_FNCLEX,
    ZYDIS_MNEMONIC_FLDCW,
    ZYDIS_MNEMONIC_FNSTCW,
    ZYDIS_MNEMONIC_FNSTSW,
};

/* ... and most of them do not look for a pending exception. */
static const uint16_t x87_no_wait[] = {
    ZYDIS_MNEMONIC_FNCLEX,
    ZYDIS_MNEMONIC_FNSTCW,
    ZYDIS_MNEMONIC_FNSTSW,
};

/* 16-byte legacy operands that need not be aligned (SDM 2, "SIMD Exceptions": all others raise
 * #GP). */
static const uint16_t sse_unaligned[] = {
    ZYDIS_MNEMONIC_MOVUPS,    ZYDIS_MNEMONIC_MOVUPD,    ZYDIS_MNEMONIC_MOVDQU,
    ZYDIS_MNEMONIC_LDDQU,     ZYDIS_MNEMONIC_PCMPESTRI, ZYDIS_MNEMONIC_PCMPESTRM,
    ZYDIS_MNEMONIC_PCMPISTRI, ZYDIS_MNEMONIC_PCMPISTRM,
};

/* VEX operands that do (SDM 2, "Type 1 Exceptions"). */
static const uint16_t avx_aligned[] = {
    ZYDIS_MNEMONIC_VMOVAPS,   ZYDIS_MNEMONIC_VMOVAPD,  ZYDIS_MNEMONIC_VMOVDQA,
    ZYDIS_MNEMONIC_VMOVNTPS,  ZYDIS_MNEMONIC_VMOVNTPD, ZYDIS_MNEMONIC_VMOVNTDQ,
    ZYDIS_MNEMONIC_VMOVNTDQA,
};

/* VEX.W chooses the width of a general register or its memory form; it is ignored outside 64-bit
 * mode. */
static const uint16_t vex_w_is_gpr[] = {
    ZYDIS_MNEMONIC_VMOVD,     ZYDIS_MNEMONIC_VPINSRD,    ZYDIS_MNEMONIC_VPEXTRD,
    ZYDIS_MNEMONIC_VCVTSI2SS, ZYDIS_MNEMONIC_VCVTSI2SD,  ZYDIS_MNEMONIC_VCVTSS2SI,
    ZYDIS_MNEMONIC_VCVTSD2SI, ZYDIS_MNEMONIC_VCVTTSS2SI, ZYDIS_MNEMONIC_VCVTTSD2SI,
};

/* Legacy instructions on general registers whose operand size the 66 prefix chooses. */
static bool has_gpr_size(const ZydisDecodedInstruction *insn)
{
    switch (insn->meta.isa_set) {
    case ZYDIS_ISA_SET_POPCNT:
    case ZYDIS_ISA_SET_LZCNT:
    case ZYDIS_ISA_SET_BMI1:
    case ZYDIS_ISA_SET_RDRAND:
    case ZYDIS_ISA_SET_RDSEED:
        return insn->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY;
    default:
        return insn->mnemonic == ZYDIS_MNEMONIC_CRC32;
    }
}

/*
 * Does the instruction depend on MXCSR? By SDM 2's exception types, those that say "floating
 * point". All conversions count: Zydis has no type for those with MMX registers, and type 5 for
 * some that round.
 */
static bool uses_mxcsr(const ZydisDecodedInstruction *insn)
{
    if (insn->meta.category == ZYDIS_CATEGORY_CONVERT)
        return true;
    switch (insn->meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_SSE1:
    case ZYDIS_EXCEPTION_CLASS_SSE4:
    case ZYDIS_EXCEPTION_CLASS_SSE5:
    case ZYDIS_EXCEPTION_CLASS_SSE7:
    case ZYDIS_EXCEPTION_CLASS_AVX1:
    case ZYDIS_EXCEPTION_CLASS_AVX4:
    case ZYDIS_EXCEPTION_CLASS_AVX5:
    case ZYDIS_EXCEPTION_CLASS_AVX6:
    case ZYDIS_EXCEPTION_CLASS_AVX7:
    case ZYDIS_EXCEPTION_CLASS_AVX8:
        return false;
    default:
        return true;
    }
}

/* The fields of the host encoding while it is put together. */
struct encoding {
    unsigned reg, rm, vvvv; /* register numbers, 0..15 */
    bool w, mem;
    bool force_rex, no_rex; /* SPL..DIL, AH..BH */
    bool gpr_operand;
    unsigned gpr_reg, gpr_rm, gpr_vvvv; /* 1 if that field names a general register */
    bool has_mm, has_vec;
};

static void note_gpr(struct native_desc *d, struct encoding *e, const ZydisDecodedOperand *op,
                     unsigned id)
{
    e->gpr_operand = true;
    d->gpr_used |= BIT(id);
    if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) {
        d->gpr_written |= BIT(id);
        d->flags |= NATIVE_WRITES_GPR;
    }
    e->gpr_reg |= op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG;
    e->gpr_rm |= op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM;
    e->gpr_vvvv |= op->encoding == ZYDIS_OPERAND_ENCODING_NDSNDD;
}

static void note_vector(struct native_desc *d, struct encoding *e, const ZydisDecodedOperand *op,
                        unsigned id, bool ymm)
{
    e->has_vec = true;
    d->xmm_used |= BIT(id);
    if (ymm)
        d->ymm_used |= BIT(id);
    if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
        d->xmm_written |= BIT(id);
}

static void place(struct encoding *e, const ZydisDecodedOperand *op, unsigned id)
{
    if (op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG)
        e->reg = id;
    else if (op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
        e->rm = id;
    else if (op->encoding == ZYDIS_OPERAND_ENCODING_NDSNDD)
        e->vvvv = id;
}

/* A byte register, in ModRM.rm (CRC32 only). Which one it is depends on the presence of REX. */
static bool note_byte_reg(struct native_desc *d, struct encoding *e, const ZydisDecodedOperand *op,
                          const ZydisDecodedInstruction *insn)
{
    bool rex = insn->attributes & ZYDIS_ATTRIB_HAS_REX;
    unsigned id = insn->raw.modrm.rm | (rex ? insn->raw.rex.B << 3 : 0);

    if (op->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM)
        return false;
    e->rm = id;
    if (rex || id < 4) {
        e->force_rex = id >= 4 && id < 8;
        note_gpr(d, e, op, id);
        return true;
    }
    /* AH..BH live in RAX..RBX; the number in the encoding stays. */
    e->no_rex = true;
    note_gpr(d, e, op, id - 4);
    e->gpr_rm = 0;
    return true;
}

static bool note_register(struct native_desc *d, struct encoding *e, const ZydisDecodedOperand *op,
                          const ZydisDecodedInstruction *insn)
{
    ZydisRegister r = op->reg.value;
    unsigned id = (unsigned)ZydisRegisterGetId(r);

    switch (ZydisRegisterGetClass(r)) {
    case ZYDIS_REGCLASS_GPR8:
        return note_byte_reg(d, e, op, insn);
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
        note_gpr(d, e, op, id);
        break;
    case ZYDIS_REGCLASS_XMM:
    case ZYDIS_REGCLASS_YMM:
        if (id > 15)
            return false;
        note_vector(d, e, op, id, ZydisRegisterGetClass(r) == ZYDIS_REGCLASS_YMM);
        break;
    case ZYDIS_REGCLASS_MMX:
        e->has_mm = true;
        break;
    case ZYDIS_REGCLASS_X87:
        break;
    case ZYDIS_REGCLASS_FLAGS:
        return true;
    default:
        return r == ZYDIS_REGISTER_X87STATUS || r == ZYDIS_REGISTER_X87CONTROL ||
               r == ZYDIS_REGISTER_X87TAG || r == ZYDIS_REGISTER_MXCSR;
    }
    place(e, op, id);
    return true;
}

static bool note_operands(struct native_desc *d, struct encoding *e,
                          const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
    for (unsigned i = 0; i < insn->operand_count; i++) {
        const ZydisDecodedOperand *op = &ops[i];

        if (op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
            continue;
        if (op->type == ZYDIS_OPERAND_TYPE_REGISTER) {
            if (!note_register(d, e, op, insn))
                return false;
            continue;
        }
        if (op->type != ZYDIS_OPERAND_TYPE_MEMORY || e->mem ||
            op->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM ||
            op->mem.type != ZYDIS_MEMOP_TYPE_MEM || op->size > 256 || op->size < 8)
            return false;
        e->mem = true;
        d->mem_op = (int8_t)i;
        d->mem_bytes = op->size / 8;
        if (op->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
            d->flags |= NATIVE_MEM_READ;
        if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
            d->flags |= NATIVE_MEM_WRITE;
    }
    return true;
}

static bool is_x87(const ZydisDecodedInstruction *insn)
{
    return insn->meta.category == ZYDIS_CATEGORY_X87_ALU ||
           insn->meta.category == ZYDIS_CATEGORY_FCMOV;
}

static bool is_bmi(const ZydisDecodedInstruction *insn)
{
    return insn->meta.isa_set == ZYDIS_ISA_SET_BMI1 || insn->meta.isa_set == ZYDIS_ISA_SET_BMI2;
}

static void classify(struct native_desc *d, const struct encoding *e,
                     const ZydisDecodedInstruction *insn, enum cpu_vendor vendor)
{
    bool mmx = e->has_mm || insn->mnemonic == ZYDIS_MNEMONIC_EMMS;
    unsigned mem = d->mem_bytes;

    d->align = 1;
    if (is_x87(insn)) {
        d->cls = NATIVE_X87;
        d->flags |= NATIVE_FPREGS;
        if (!IN_LIST(x87_control, insn->mnemonic))
            d->flags |= NATIVE_POINTERS;
        if (!IN_LIST(x87_no_wait, insn->mnemonic))
            d->flags |= NATIVE_WAITING;
        return;
    }
    if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
        d->vex = 1;
        d->cls = is_bmi(insn) ? NATIVE_GPR_VEX : NATIVE_AVX;
        if (mem && IN_LIST(avx_aligned, insn->mnemonic))
            d->align = (uint8_t)mem;
    } else {
        /* CVTPS2PI and CVTSS2SI from memory name no XMM register, but are SSE instructions. */
        bool sse = e->has_vec || insn->meta.category == ZYDIS_CATEGORY_CONVERT;

        d->cls = sse ? mmx ? NATIVE_SSE_MMX : NATIVE_SSE : mmx ? NATIVE_MMX : NATIVE_GPR;
        if (mem == 16 && !IN_LIST(sse_unaligned, insn->mnemonic))
            d->align = 16;
        /* Type 4 in SDM 2, but AMD's processors do not check (seen on Zen 5). */
        if (vendor == VENDOR_AMD && insn->meta.isa_set == ZYDIS_ISA_SET_SHA)
            d->align = 1;
    }
    if (mmx)
        d->flags |= NATIVE_FPREGS | NATIVE_WAITING;
    if (d->cls != NATIVE_MMX && d->cls != NATIVE_GPR && d->cls != NATIVE_GPR_VEX &&
        uses_mxcsr(insn))
        d->flags |= NATIVE_MXCSR;
}

/* Chooses the host registers that stand for guest RSP and for the frame, among those that need no
 * REX. */
static bool assign_registers(struct native_desc *d, struct encoding *e)
{
    static const uint8_t candidates[] = { RSI, RDI, RCX, RDX, RAX };
    unsigned busy = d->gpr_used & ~BIT(RSP), i = 0;

    d->rsp_as = -1;
    if (d->gpr_used & BIT(RSP)) {
        while (i < ARRAY_SIZE(candidates) && busy >> candidates[i] & 1)
            i++;
        if (i == ARRAY_SIZE(candidates))
            return false;
        d->rsp_as = (int8_t)candidates[i];
        busy |= BIT(candidates[i]);
        if (e->gpr_reg && e->reg == RSP)
            e->reg = candidates[i];
        if (e->gpr_rm && e->rm == RSP)
            e->rm = candidates[i];
        if (e->gpr_vvvv && e->vvvv == RSP)
            e->vvvv = candidates[i];
    }
    d->host_busy = (uint16_t)busy;
    while (i < ARRAY_SIZE(candidates) && busy >> candidates[i] & 1)
        i++;
    if (i == ARRAY_SIZE(candidates))
        return false;
    d->frame = candidates[i];
    if (e->mem)
        e->rm = d->frame;
    return true;
}

static void put(struct native_desc *d, unsigned b)
{
    d->code[d->code_bytes++] = (uint8_t)b;
}

static void encode_vex(struct native_desc *d, const struct encoding *e,
                       const ZydisDecodedInstruction *insn)
{
    put(d, 0xc4);
    put(d, (e->reg >> 3 ? 0 : 0x80) | 0x40 | (e->rm >> 3 ? 0 : 0x20) | insn->opcode_map);
    put(d, (unsigned)e->w << 7 | (~e->vvvv & 15) << 3 | (insn->avx.vector_length == 256) << 2 |
               insn->raw.vex.pp);
}

static void encode_legacy(struct native_desc *d, const struct encoding *e,
                          const ZydisDecodedInstruction *insn)
{
    unsigned rex = 0x40 | (unsigned)e->w << 3 | (e->reg >> 3) << 2 | e->rm >> 3;

    if (has_gpr_size(insn) && insn->operand_width == 16)
        put(d, 0x66);
    for (unsigned i = 0; i < insn->raw.prefix_count; i++)
        if (insn->raw.prefixes[i].type == ZYDIS_PREFIX_TYPE_MANDATORY)
            put(d, insn->raw.prefixes[i].value);
    if (rex != 0x40 || e->force_rex)
        put(d, rex);
    if (insn->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
        put(d, 0x0f);
    if (insn->opcode_map == ZYDIS_OPCODE_MAP_0F38)
        put(d, 0x38);
    if (insn->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
        put(d, 0x3a);
}

/* Prefixes, opcode, ModRM and the guest's immediate bytes. False if it cannot be one of ours after
 * all. */
static bool encode(struct native_desc *d, const struct encoding *e,
                   const ZydisDecodedInstruction *insn, const uint8_t *bytes)
{
    bool modrm = insn->attributes & ZYDIS_ATTRIB_HAS_MODRM;
    unsigned at = insn->length;

    if (d->vex)
        encode_vex(d, e, insn);
    else
        encode_legacy(d, e, insn);
    put(d, insn->opcode);
    if (modrm) {
        put(d, (e->mem ? 0 : 0xc0) | (e->reg & 7) << 3 | (e->rm & 7));
        at = insn->raw.modrm.offset + 1u + (insn->attributes & ZYDIS_ATTRIB_HAS_SIB ? 1 : 0) +
             insn->raw.disp.size / 8;
    }
    if (at > insn->length || d->code_bytes + (insn->length - at) > sizeof(d->code))
        return false;
    for (; at < insn->length; at++)
        put(d, bytes[at]);
    return true;
}

static bool names_is4(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
    for (unsigned i = 0; i < insn->operand_count; i++)
        if (ops[i].encoding == ZYDIS_OPERAND_ENCODING_IS4)
            return true;
    return false;
}

/* Outside 64-bit code VEX.W does not make these VPINSRQ and VPEXTRQ: it is ignored, but AMD's
 * processors raise #UD (seen on Zen 5). */
static bool is_bad_w(const struct native_insn *in)
{
    const ZydisDecodedInstruction *insn = in->insn;

    return in->vendor == VENDOR_AMD && insn->machine_mode != ZYDIS_MACHINE_MODE_LONG_64 &&
           (insn->mnemonic == ZYDIS_MNEMONIC_VPINSRD || insn->mnemonic == ZYDIS_MNEMONIC_VPEXTRD) &&
           insn->raw.vex.W;
}

static bool describe_plain(struct native_desc *d, const struct native_insn *in)
{
    const ZydisDecodedInstruction *insn = in->insn;
    const ZydisDecodedOperand *ops = in->ops;
    const uint8_t *bytes = in->bytes;
    bool long64 = insn->machine_mode == ZYDIS_MACHINE_MODE_LONG_64;
    struct encoding e = { .reg = insn->raw.modrm.reg, .rm = insn->raw.modrm.rm };

    d->exec = native_run;
    if (is_bad_w(in) || !note_operands(d, &e, insn, ops))
        return false;
    classify(d, &e, insn, in->vendor);
    e.w = d->vex ? insn->raw.vex.W : (insn->attributes & ZYDIS_ATTRIB_HAS_REX) && insn->raw.rex.W;
    if (!long64 &&
        (e.gpr_operand || d->cls == NATIVE_GPR_VEX || IN_LIST(vex_w_is_gpr, insn->mnemonic)))
        e.w = false;
    if (insn->cpu_flags) {
        uint32_t written = insn->cpu_flags->modified | insn->cpu_flags->set_0 |
                           insn->cpu_flags->set_1 | insn->cpu_flags->undefined;

        d->uses_flags = ((insn->cpu_flags->tested | written) & RFLAGS_ARITH) != 0;
        if (written & RFLAGS_ARITH)
            d->flags |= NATIVE_WRITES_FLAGS;
    }
    if (!assign_registers(d, &e) || (e.no_rex && (e.w || e.reg > 7)) || !encode(d, &e, insn, bytes))
        return false;
    /* A register in the immediate has three bits outside 64-bit mode (SDM 2, "The VEX Prefix"). */
    if (!long64 && names_is4(insn, ops))
        d->code[d->code_bytes - 1] &= 0x7f;
    if (d->flags & NATIVE_POINTERS)
        d->fop = (uint16_t)((insn->opcode & 7) << 8 | bytes[insn->raw.modrm.offset]);
    return true;
}

/* For the C functions: which vector registers, element sizes and so on. */
static bool describe_special(struct native_desc *d, const struct special *sp,
                             const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
    unsigned nr = 0;

    d->exec = sp->exec;
    d->cls = sp->cls;
    d->flags = sp->flags;
    d->align = 1;
    d->vex = insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    d->op_bits = insn->operand_width;
    d->addr_bits = insn->address_width;
    d->vec_bytes = insn->avx.vector_length == 256 ? 32 : 16;
    for (unsigned i = 0; i < insn->operand_count; i++) {
        const ZydisDecodedOperand *op = &ops[i];

        if (op->type == ZYDIS_OPERAND_TYPE_REGISTER &&
            op->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT && nr < ARRAY_SIZE(d->reg))
            d->reg[nr++] = (uint8_t)ZydisRegisterGetId(op->reg.value);
        if (op->type != ZYDIS_OPERAND_TYPE_MEMORY || d->mem_op >= 0)
            continue;
        d->mem_op = (int8_t)i;
        if (d->exec == native_maskload && (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            d->exec = native_maskstore;
        if (d->exec == native_gather && op->mem.type == ZYDIS_MEMOP_TYPE_VSIB) {
            d->scale = op->mem.scale;
            d->reg[2] = (uint8_t)ZydisRegisterGetId(op->mem.index);
        }
    }
    return true;
}

/* Element and index size of gathers and masked moves, by name: D and Q of index, S/D/Q of data. */
static void describe_elements(struct native_desc *d, ZydisMnemonic m)
{
    static const struct {
        uint16_t mnemonic;
        uint8_t elem_bytes, index_bytes;
    } sizes[] = {
        { ZYDIS_MNEMONIC_VMASKMOVPS, 4, 0 }, { ZYDIS_MNEMONIC_VMASKMOVPD, 8, 0 },
        { ZYDIS_MNEMONIC_VPMASKMOVD, 4, 0 }, { ZYDIS_MNEMONIC_VPMASKMOVQ, 8, 0 },
        { ZYDIS_MNEMONIC_VGATHERDPS, 4, 4 }, { ZYDIS_MNEMONIC_VGATHERDPD, 8, 4 },
        { ZYDIS_MNEMONIC_VGATHERQPS, 4, 8 }, { ZYDIS_MNEMONIC_VGATHERQPD, 8, 8 },
        { ZYDIS_MNEMONIC_VPGATHERDD, 4, 4 }, { ZYDIS_MNEMONIC_VPGATHERDQ, 8, 4 },
        { ZYDIS_MNEMONIC_VPGATHERQD, 4, 8 }, { ZYDIS_MNEMONIC_VPGATHERQQ, 8, 8 },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        if (sizes[i].mnemonic != m)
            continue;
        d->elem_bytes = sizes[i].elem_bytes;
        d->index_bytes = sizes[i].index_bytes;
    }
}

bool native_describe(struct native_desc *d, const struct native_insn *in)
{
    const ZydisDecodedInstruction *insn = in->insn;
    const struct special *sp = find_special(insn->mnemonic);

    memset(d, 0, sizeof(*d));
    d->mem_op = -1;
    d->rsp_as = -1;
    d->mnemonic = insn->mnemonic;
    if (insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
        insn->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
        return false;
    if (sp) {
        describe_elements(d, insn->mnemonic);
        return describe_special(d, sp, insn, in->ops);
    }
    if (IN_LIST(ppro_x87, insn->mnemonic))
        return describe_plain(d, in);
    for (unsigned i = 0; i < sizeof(allowed_sets); i++)
        if (allowed_sets[i] == insn->meta.isa_set)
            return describe_plain(d, in);
    return false;
}
