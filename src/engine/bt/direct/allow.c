/* SPDX-License-Identifier: Apache-2.0 */
/* The rest of the allow-list, and what else there is to know about one instruction: see allow.h. */
#include "engine/bt/direct/allow.h"

bool dinsn_is_rip_relative(const struct insn *in)
{
    return in->z.raw.modrm.offset && in->z.raw.modrm.mod == 0 && in->z.raw.modrm.rm == 5;
}

/* RAX .. RDI named by the instruction in any way, as a mask. */
static unsigned low_regs_used(const struct insn *in)
{
    unsigned used = 1u << H_RSP | 1u << H_RBP; /* never scratch: cannot be a base without more */

    for (unsigned i = 0; i < in->z.operand_count; i++) {
        const ZydisDecodedOperand *o = &in->ops[i];
        ZydisRegister r[2] = { ZYDIS_REGISTER_NONE, ZYDIS_REGISTER_NONE };

        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER)
            r[0] = o->reg.value;
        else if (o->type == ZYDIS_OPERAND_TYPE_MEMORY)
            r[0] = o->mem.base, r[1] = o->mem.index;
        for (unsigned j = 0; j < 2; j++) {
            ZydisRegister big = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r[j]);

            if (big >= ZYDIS_REGISTER_RAX && big <= ZYDIS_REGISTER_RDI)
                used |= 1u << (big - ZYDIS_REGISTER_RAX);
        }
    }
    return used;
}

enum hreg dinsn_free_reg(const struct insn *in)
{
    unsigned used = low_regs_used(in);

    for (unsigned r = 0; r < 8; r++)
        if (!(used & 1u << r))
            return (enum hreg)r;
    return H_NONE;
}

bool dinsn_may_copy(const struct insn *in)
{
    switch (in->z.mnemonic) {
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
    case ZYDIS_MNEMONIC_CLD:
    case ZYDIS_MNEMONIC_STD:
    case ZYDIS_MNEMONIC_XLAT:
        return true;
    case ZYDIS_MNEMONIC_STMXCSR:
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_VSTMXCSR:
    case ZYDIS_MNEMONIC_VLDMXCSR:
    case ZYDIS_MNEMONIC_FWAIT:
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
        return in->op.fn == op_native;
    case ZYDIS_MNEMONIC_POP: /* to memory, or 16 bits wide; segment registers are far from plain */
        return in->ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
    default:
        break;
    }
    if (in->z.meta.category == ZYDIS_CATEGORY_STRINGOP)
        return true;
    return in->op.fn == op_native && (in->z.meta.category == ZYDIS_CATEGORY_AVX2GATHER ||
                                      in->z.mnemonic == ZYDIS_MNEMONIC_VMASKMOVPS ||
                                      in->z.mnemonic == ZYDIS_MNEMONIC_VMASKMOVPD ||
                                      in->z.mnemonic == ZYDIS_MNEMONIC_VPMASKMOVD ||
                                      in->z.mnemonic == ZYDIS_MNEMONIC_VPMASKMOVQ);
}

bool dinsn_is_short_branch(const struct insn *in)
{
    switch (in->z.mnemonic) {
    case ZYDIS_MNEMONIC_LOOP:
    case ZYDIS_MNEMONIC_LOOPE:
    case ZYDIS_MNEMONIC_LOOPNE:
    case ZYDIS_MNEMONIC_JRCXZ:
    case ZYDIS_MNEMONIC_JECXZ:
        return true;
    default:
        return false;
    }
}

bool dinsn_is_odd_branch(const struct insn *in)
{
    return in->z.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE &&
           (in->z.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE);
}
