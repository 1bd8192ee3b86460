/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest instruction as the translator sees it: what it names, how it touches memory, and which of
 * a few classes it belongs to. The allow-list is here: whatever is not known to be harmless when it
 * runs as it is, with its operands renamed, is INSN_INTERP.
 */
#ifndef ENGINE_BT_INSN_H
#define ENGINE_BT_INSN_H

#include "engine/interp/handlers.h"

enum insn_class {
    INSN_INTERP, /* sensitive, rare or unknown: interp runs it (op) */
    INSN_COPY,   /* runs as it is; registers and the memory operand may be renamed */
    INSN_LEA,
    INSN_NOP,
    INSN_PUSH, /* a register, an immediate or memory */
    INSN_PUSHF,
    INSN_POP, /* a register */
    INSN_LEAVE,
    INSN_STRING,   /* MOVS and STOS, alone or with REP: mem_bytes is an element's */
    INSN_BITS,     /* BT, BTS, BTR, BTC of memory by a register */
    INSN_JMP,      /* direct: target */
    INSN_JCC,      /* direct: target, cc */
    INSN_LOOP,     /* direct: target; LOOP, and JCXZ of the same width */
    INSN_CALL,     /* direct: target */
    INSN_JMP_IND,  /* through a register or memory */
    INSN_CALL_IND, /* through a register or memory */
    INSN_RET,      /* near; imm bytes are dropped from the stack */
};

/* Which unit has to be usable: else interp raises #UD or #NM. */
enum insn_unit { UNIT_GPR, UNIT_X87, UNIT_SSE, UNIT_AVX };

struct insn {
    ZydisDecodedInstruction z;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    struct op op; /* interp's decoding */
    uint8_t bytes[15];
    uint8_t len;
    uint16_t off; /* in its page */
    enum insn_class cls;
    enum insn_unit unit;
    bool ends;          /* nothing falls through to the next instruction, or the mode may change */
    int mem;            /* index in ops of the memory operand (LEA's too), or -1 */
    uint16_t mem_bytes; /* 1..64 */
    unsigned mem_acc;   /* ACC_READ, or ACC_WRITE for writes and read-modify-writes */
    uint8_t word; /* 8, or 4 outside 64-bit code: bytes of a near branch's target and of what PUSH
                     pushes */
    uint8_t cc;
    int64_t target; /* of a direct transfer, relative to the start of the page */
    uint64_t imm;   /* PUSH, RET */
};

/*
 * Decodes 64- or 32-bit code for the translator; v and key as in decode_insn(). Returns the length,
 * 0 if more bytes are needed than avail.
 */
unsigned insn_decode(struct ivcpu *v, uint32_t key, const uint8_t *bytes, unsigned avail,
                     uint16_t off, struct insn *in);

/*
 * ---- insn_cache.c ----
 * The same for code that is like other code: what differs in displacement and immediate alone was
 * decoded before. Forget all when interp's native stubs go.
 */
#define INSN_SLOTS     4096
#define INSN_KNOWN     1024
#define INSN_KNOWN_OPS 4
struct insn_known {
    uint32_t key;
    uint16_t slot;
    uint8_t fixed; /* so many of the first bytes tell it */
    ZydisDecodedInstruction z;
    ZydisDecodedOperand ops[INSN_KNOWN_OPS];
    uint8_t rest[sizeof(struct insn) - offsetof(struct insn, op)];
};
struct insn_cache {
    uint16_t at[INSN_SLOTS]; /* index in known[] plus 1; 0: none */
    unsigned next;           /* which of known[] is filled next */
    struct insn_known known[INSN_KNOWN];
};
unsigned insn_decode_cached(struct insn_cache *cache, struct ivcpu *v, uint32_t key,
                            const uint8_t *bytes, unsigned avail, uint16_t off, struct insn *in);
void insn_forget(struct insn_cache *cache);

#endif
