/* SPDX-License-Identifier: Apache-2.0 */
/* What decode.c and decode_kinds.c share. */
#ifndef ENGINE_INTERP_DECODE_INT_H
#define ENGINE_INTERP_DECODE_INT_H

#include "engine/interp/handlers.h"

#include <Zydis/Zydis.h>

/* op->fl: what drop_dead_flags() and block building know of an op */
#define FL_PURE  BIT(0) /* cannot fault, exit or be seen by anyone but the next instructions */
#define FL_READS BIT(1) /* looks at arithmetic flags */
#define FL_KILLS BIT(2) /* writes all of them, reads none */
#define FL_END   BIT(3) /* ends its block */

struct decoding {
    struct ivcpu *v;
    uint32_t key;
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    const uint8_t *bytes;
    struct op *op;
    const struct rule *rule;
};

struct rule {
    /* False: no such instruction in this form: #UD. */
    bool (*emit)(struct decoding *d);
    const op_fn *fn;
    unsigned arg;
};

/* Never NULL; without emit where insns.def does not have the mnemonic. */
const struct rule *decode_rule(ZydisMnemonic mnemonic);

/* The segment of that register; DS for what is none. */
enum seg_id decode_seg_index(ZydisRegister r);
/* Which ADDR_* a memory operand in segment seg needs in this mode. */
uint8_t decode_addr_flags(const struct decoding *d, enum seg_id seg);

#endif
