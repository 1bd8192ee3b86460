/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which instructions. Encodings are made opcode by opcode over all maps and prefixes, so that every
 * form Zydis knows comes up; what a user program must not do to its own host and what differs by
 * nature is left out by name.
 */
#include "insn.h"

#include <string.h>

#include "engine/interp/native.h"

static bool is_excluded(const struct insn_case *k)
{
    const ZydisDecodedInstruction *in = &k->insn;

    switch (in->mnemonic) {
    /* go to the host's kernel */
    case ZYDIS_MNEMONIC_SYSCALL:
    case ZYDIS_MNEMONIC_SYSENTER:
    case ZYDIS_MNEMONIC_VMCALL: /* and to its hypervisor */
    case ZYDIS_MNEMONIC_VMMCALL:
    /* UMIP: the host's kernel emulates these */
    case ZYDIS_MNEMONIC_SGDT:
    case ZYDIS_MNEMONIC_SIDT:
    case ZYDIS_MNEMONIC_SLDT:
    case ZYDIS_MNEMONIC_STR:
    case ZYDIS_MNEMONIC_SMSW:
    /* time, randomness, identity, and what the two have different values of by design */
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDTSCP:
    case ZYDIS_MNEMONIC_RDRAND:
    case ZYDIS_MNEMONIC_RDSEED:
    case ZYDIS_MNEMONIC_RDPID:
    case ZYDIS_MNEMONIC_RDPRU:
    case ZYDIS_MNEMONIC_CPUID:
    case ZYDIS_MNEMONIC_XGETBV: /* the host's XCR0 */
    /* wait, and not offered */
    case ZYDIS_MNEMONIC_MONITORX:
    case ZYDIS_MNEMONIC_MWAITX:
    /* protection keys are not offered */
    case ZYDIS_MNEMONIC_RDPKRU:
    case ZYDIS_MNEMONIC_WRPKRU:
    /* a hypervisor below that intercepts #DB gives it to the host's kernel with the wrong RIP */
    case ZYDIS_MNEMONIC_INT1:
        return true;
    case ZYDIS_MNEMONIC_INT: /* a system call of Linux for 32-bit programs */
        return k->ops[0].imm.value.u == 0x80;
    default:
        return false;
    }
}

static const uint8_t operand_prefixes[] = { 0x66, 0xf2, 0xf3, 0x67, 0xf0 };
static const uint8_t segment_prefixes[] = { 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65 };

void chooser_init(struct chooser *c, enum code_mode mode, const struct cpu_model *model)
{
    static const struct {
        ZydisMachineMode machine;
        ZydisStackWidth stack;
    } modes[] = {
        [CODE64] = { ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64 },
        [CODE32] = { ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32 },
        [CODE16] = { ZYDIS_MACHINE_MODE_LONG_COMPAT_16, ZYDIS_STACK_WIDTH_16 },
    };

    c->mode = mode;
    c->model = model;
    (void)ZydisDecoderInit(&c->dec, modes[mode].machine, modes[mode].stack);
    (void)ZydisDecoderEnableMode(&c->dec, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
    (void)ZydisDecoderEnableMode(&c->dec, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
    (void)ZydisDecoderEnableMode(&c->dec, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
    (void)ZydisDecoderEnableMode(&c->dec, ZYDIS_DECODER_MODE_AMD_BRANCHES,
                                 model->vendor == VENDOR_AMD);
}

static bool decode(const struct chooser *c, struct insn_case *k)
{
    return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&c->dec, k->code, 15, &k->insn, k->ops));
}

/* Random bytes shaped like an instruction. */
static void random_bytes(const struct chooser *c, struct rng *r, uint8_t *code)
{
    uint8_t *p = code;
    unsigned kind = pick(r, 8);

    for (unsigned i = pick(r, 3); i > 0 && !pick(r, 2); i--)
        *p++ = operand_prefixes[pick(r, ARRAY_SIZE(operand_prefixes))];
    if (!pick(r, 8))
        *p++ = segment_prefixes[pick(r, ARRAY_SIZE(segment_prefixes))];
    if (c->mode == CODE64 && kind < 6 && pick(r, 2))
        *p++ = (uint8_t)(0x40 | pick(r, 16));
    if (kind < 2) {
        *p++ = (uint8_t)rnd(r);
    } else if (kind < 4) {
        *p++ = 0x0f, *p++ = (uint8_t)rnd(r);
    } else if (kind < 6) {
        *p++ = 0x0f, *p++ = pick(r, 2) ? 0x38 : 0x3a, *p++ = (uint8_t)rnd(r);
    } else if (kind == 6) {
        *p++ = 0xc5, *p++ = (uint8_t)rnd(r), *p++ = (uint8_t)rnd(r);
    } else {
        *p++ = 0xc4, *p++ = (uint8_t)((rnd(r) & 0xe0) | (1 + pick(r, 3))), *p++ = (uint8_t)rnd(r);
        *p++ = (uint8_t)rnd(r);
    }
    while (p < code + 15)
        *p++ = (uint8_t)rnd(r);
}

static bool loads_ss(const struct insn_case *k)
{
    return (k->insn.mnemonic == ZYDIS_MNEMONIC_MOV || k->insn.mnemonic == ZYDIS_MNEMONIC_POP) &&
           k->ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
           k->ops[0].reg.value == ZYDIS_REGISTER_SS;
}

bool choose_code(const struct chooser *c, struct rng *r, struct insn_case *k)
{
    memset(k->code, 0, sizeof(k->code));
    k->mode = c->mode;
    random_bytes(c, r, k->code);
    if (!decode(c, k))
        return false;
    /* Displacements are small, or the operand would never be mapped. */
    if (k->insn.raw.disp.size == 32 && pick(r, 8)) {
        int32_t d = (int32_t)pick(r, 64) - 32;

        memcpy(k->code + k->insn.raw.disp.offset, &d, 4);
        if (!decode(c, k))
            return false;
    }
    k->len = k->insn.length;
    memset(k->code + k->len, 0, sizeof(k->code) - k->len);
    /* The debug trap waits for one more instruction (SDM 2, "MOV", "POP"). */
    k->two_steps = loads_ss(k);
    if (k->two_steps)
        k->code[k->len] = 0x90;
    if (c->only && strcasecmp(ZydisMnemonicGetString(k->insn.mnemonic), c->only))
        return false;
    return !is_excluded(k) && native_insn_offered(c->model, &k->insn);
}
