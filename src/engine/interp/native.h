/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instructions that run on the host's own unit: x87, MMX, SSE, AVX and those general-purpose ones
 * that are easiest left to it (BMI, ADX, CRC32, POPCNT, RDRAND ...). Each distinct encoding gets
 * one small piece of host code, a stub, that loads the guest registers it names, runs the same
 * instruction on a bounced memory operand, and stores the result.
 *
 * The decoder asks native_get() once per decoded instruction; execution is native_exec(). What must
 * not or cannot run natively (FXSAVE, XSAVE, x87 environment, gathers, masked moves) has a plain C
 * function behind the same door.
 */
#ifndef ENGINE_INTERP_NATIVE_H
#define ENGINE_INTERP_NATIVE_H

#include <Zydis/Zydis.h>

#include "cpu/cpu.h"

struct native_cache; /* per vCPU; lookups are thread-safe */

enum native_class {                 /* which checks come first */
                    NATIVE_GPR,     /* none */
                    NATIVE_GPR_VEX, /* #UD in real and v8086 mode */
                    NATIVE_X87,     /* CR0.EM or TS: #NM */
                    NATIVE_FWAIT,   /* CR0.MP and TS: #NM */
                    NATIVE_MMX,     /* CR0.EM: #UD, TS: #NM, pending x87 exception: #MF */
                    NATIVE_SSE,     /* CR0.EM or not CR4.OSFXSR: #UD, TS: #NM */
                    NATIVE_SSE_MMX, /* both, and #MF */
                    NATIVE_AVX,     /* real or v8086 mode, CR4.OSXSAVE, XCR0: #UD, TS: #NM */
                    NATIVE_FXSR,    /* CR0.EM or TS: #NM */
                    NATIVE_XSAVE,   /* CR4.OSXSAVE: #UD, TS: #NM */
};

#define NATIVE_MEM_READ     BIT(0)
#define NATIVE_MEM_WRITE    BIT(1)
#define NATIVE_FPREGS       BIT(2) /* goes through an FXSAVE image: x87 and MMX */
#define NATIVE_WAITING      BIT(3) /* raises a pending x87 exception first */
#define NATIVE_POINTERS     BIT(4) /* x87, not a control instruction: updates FIP, FDP, FOP */
#define NATIVE_MXCSR        BIT(5) /* floating point: runs under the guest's MXCSR */
#define NATIVE_WRITES_GPR   BIT(6)
#define NATIVE_WRITES_FLAGS BIT(7)

struct native_stub;
typedef enum step native_fn(struct cpu *c, const struct native_stub *s, enum seg_id seg,
                            uint64_t off);

/* Everything about one encoding that does not depend on the vCPU. The decoder may read mem_op,
 * mem_bytes and flags. */
struct native_desc {
    native_fn *exec;
    uint8_t code[15];   /* the host instruction, memory operand rewritten */
    uint8_t code_bytes; /* 0: no stub, all is done by exec */
    uint8_t cls;        /* enum native_class */
    int8_t mem_op;      /* index of the memory operand in Zydis' list, -1: none */
    uint16_t mem_bytes; /* of the bounced operand; 0 if exec decides itself */
    uint16_t flags;     /* NATIVE_* */
    uint8_t align;      /* #GP(0) if the linear address is not a multiple; 1: any */
    uint8_t
        op_bits;  /* operand size 16, 32, 64: selects x87 environment formats and the REX.W forms */
    uint16_t fop; /* x87 opcode as FOP holds it */
    uint16_t addr_bits; /* address size, for VSIB */
    uint16_t mnemonic;
    uint8_t reg[3];    /* explicit vector registers in Zydis' order; of a gather: destination, mask,
                          index */
    uint8_t vec_bytes; /* 16 or 32 */
    uint8_t elem_bytes, index_bytes, scale;
    uint8_t rsvd[3];
    /* How the stub is built: bit i = register i. */
    uint16_t gpr_used, gpr_written, host_busy;
    uint16_t xmm_used, xmm_written; /* of the written ones ... */
    uint16_t ymm_used;              /* ... these with the upper half */
    uint8_t uses_flags, vex;
    int8_t rsp_as; /* the host register that stands for guest RSP, -1: not named */
    uint8_t
        frame; /* the host register that holds the frame and is the base of the memory operand */
};

struct native_stub {
    struct native_desc d;
    void (*entry)(struct cpu *c, void *frame);
    const uint8_t *at;    /* the guest's instruction in the stub: where it can raise SIGFPE ... */
    const uint8_t *fault; /* ... and where the stub goes on then */
    uint32_t next;        /* in its hash chain */
};

/* -errno; installs the process's SIGFPE handler. */
int native_cache_create(struct native_cache **out) MUST_CHECK;
void native_cache_destroy(struct native_cache *nc);
/* True once native_get() has failed for want of room. */
bool native_cache_full(struct native_cache *nc);
/* Forgets all stubs. The caller has dropped every decoded instruction that holds one, and no vCPU
 * is inside run(). */
void native_cache_reset(struct native_cache *nc);

/*
 * The stub for a decoded instruction (bytes: as fetched, insn->length of them), or NULL if it is
 * not one of ours, the model does not offer it, or the cache is full. With ops[mem_op] a memory
 * operand, native_exec() wants its segment and its effective address, truncated to the address
 * size; for VSIB operands base + displacement only.
 */
const struct native_stub *native_get(struct native_cache *nc, const struct cpu_model *model,
                                     const ZydisDecodedInstruction *insn,
                                     const ZydisDecodedOperand *ops, const uint8_t *bytes);

/* Executes it, with all checks in architectural order. Does not touch c->rip. */
static inline enum step native_exec(struct cpu *c, const struct native_stub *s, enum seg_id seg,
                                    uint64_t off)
{
    return s->d.exec(c, s, seg, off);
}

/*
 * Does the model offer this instruction, integer ones included? False: #UD. Hint instructions that
 * are NOPs on processors without the feature (ENDBR, BNDxx, PREFETCHWT1, CLDEMOTE, RDSSP) count as
 * offered: to be run as NOPs. An F3 BSF/BSR (TZCNT, LZCNT) without the feature is for the decoder:
 * ZYDIS_DECODER_MODE_TZCNT and _LZCNT.
 */
bool native_insn_offered(const struct cpu_model *model, const ZydisDecodedInstruction *insn);

#endif
