/* SPDX-License-Identifier: Apache-2.0 */
/* The handlers of interp, as the decoder finds them. Each family is a source file of its own. */
#ifndef ENGINE_INTERP_HANDLERS_H
#define ENGINE_INTERP_HANDLERS_H

#include "engine/interp/interp.h"

/* Operand forms: destination, source. */
enum form { FORM_RR, FORM_RI, FORM_RM, FORM_MR, FORM_MI, NR_FORMS };

/* ---- alu.c ---- */
enum alu_op {
    ALU_ADD,
    ALU_OR,
    ALU_ADC,
    ALU_SBB,
    ALU_AND,
    ALU_SUB,
    ALU_XOR,
    ALU_CMP,
    ALU_TEST,
    NR_ALU
};
enum unary_op { UNARY_INC, UNARY_DEC, UNARY_NEG, UNARY_NOT, NR_UNARY };
op_fn alu_handler(enum alu_op what, enum form form, unsigned bytes);
op_fn unary_handler(enum unary_op what, bool mem, unsigned bytes);
/* The variant that leaves the flags alone, of an arithmetic handler; NULL if fn is none. */
op_fn alu_plain(op_fn fn);

/* ---- shift.c: src is a register offset (CL), or NOT_A_REG: count in imm ---- */
enum shift_op {
    SHIFT_ROL,
    SHIFT_ROR,
    SHIFT_RCL,
    SHIFT_RCR,
    SHIFT_SHL,
    SHIFT_SHR,
    SHIFT_SAR,
    SHIFT_ROL_OF, /* OF stays */
    SHIFT_ROR_OF,
    NR_SHIFTS
};
op_fn shift_handler(enum shift_op what, bool mem, bool by_cl, unsigned bytes);
/* SHIFT_ROL and SHIFT_ROR of a register by an immediate count. */
op_fn rotate_imm_handler(enum shift_op what, unsigned count, unsigned bytes);
extern const op_fn shld_handlers[2]; /* SHLD, SHRD; operands by op */

/* ---- move.c ---- */
op_fn mov_handler(enum form form, unsigned bytes);
/* MOVZX, MOVSX, MOVSXD: from 1, 2 or 4 bytes. */
op_fn movx_handler(bool sign, bool mem, unsigned from_bytes, unsigned to_bytes);
op_fn lea_handler(unsigned bytes);
op_fn cmov_handler(unsigned cc, bool mem, unsigned bytes);
op_fn setcc_handler(unsigned cc, bool mem);

/* ---- branch.c: direct branches have op->self and these in aux2 ---- */
#define CHAIN_TAKEN BIT(0) /* the target lies in this page */
#define CHAIN_NEXT  BIT(1) /* so does the next instruction */
/* A direct branch, whose aux2 are CHAIN_* bits and whose self is its block. */
bool op_is_branch(const struct op *op);
op_fn jcc_handler(unsigned cc);
extern const op_fn op_jmp, op_call, op_jmp_reg, op_jmp_mem, op_call_reg, op_call_mem, op_ret,
    op_loop, op_jcxz;
extern const op_fn op_jmp_far, op_call_far, op_jmp_far_mem, op_call_far_mem, op_ret_far, op_iret;
extern const op_fn op_int, op_int3, op_into, op_int1;

/* ---- stack.c ---- */
extern const op_fn op_push_reg64, op_pop_reg64, op_push, op_pop, op_push_seg, op_pop_seg, op_pusha,
    op_popa;
extern const op_fn op_pushf, op_popf, op_enter, op_leave;

/* ---- arith.c ---- */
extern const op_fn op_imul32_rr, op_imul64_rr, op_imul2, op_imul3, op_mul, op_imul1, op_div,
    op_idiv;
extern const op_fn op_cbw, op_cwd, op_xchg, op_xadd, op_cmpxchg, op_cmpxchg8b, op_bswap, op_movbe;
extern const op_fn op_bt, op_bts, op_btr, op_btc, op_bsf, op_bsr;
extern const op_fn op_lahf, op_sahf, op_flag_cf, op_cld, op_std, op_salc, op_xlat, op_bound,
    op_arpl;
extern const op_fn op_daa, op_das, op_aaa, op_aas, op_aam, op_aad;
/* What a read-modify-write does; aux2 of op_lock_alu, whose aux is the enum alu_op of RMW_ALU. */
enum rmw_kind {
    RMW_ALU,
    RMW_INC,
    RMW_DEC,
    RMW_NEG,
    RMW_NOT,
    RMW_XCHG,
    RMW_XADD,
    RMW_CMPXCHG,
    RMW_BTS,
    RMW_BTR,
    RMW_BTC
};
extern const op_fn op_nop, op_pause, op_fence, op_ud, op_lock_alu;

/* ---- string.c ---- */
extern const op_fn op_movs, op_stos, op_lods, op_cmps, op_scas, op_ins, op_outs;

/* ---- system.c ---- */
extern const op_fn op_native_full, op_native, op_in, op_out, op_hlt, op_cli, op_sti, op_clac,
    op_stac, op_cpuid, op_rdtsc, op_rdtscp;
extern const op_fn op_rdpmc, op_rdmsr, op_wrmsr, op_mov_cr, op_mov_dr, op_mov_from_cr,
    op_mov_from_dr, op_lmsw, op_smsw;
extern const op_fn op_clts, op_lgdt, op_lidt, op_sgdt, op_sidt, op_lldt, op_ltr, op_sldt, op_str,
    op_lar, op_lsl;
extern const op_fn op_verr, op_verw, op_invlpg, op_invpcid, op_invd, op_mov_to_seg, op_mov_from_seg,
    op_load_far_ptr;
extern const op_fn op_syscall, op_sysret, op_sysenter, op_sysexit, op_swapgs, op_fsgsbase, op_rdpid,
    op_monitor, op_mwait;
extern const op_fn op_vmcall, op_xgetbv, op_xsetbv, op_clflush, op_clzero;

/* Port accesses, with I/O breakpoints and exit counts. */
uint64_t io_read(struct ivcpu *v, uint16_t port, unsigned bytes);
void io_write(struct ivcpu *v, uint16_t port, unsigned bytes, uint64_t val);

/* Operands by kind, for handlers that need no speed: NOT_A_REG and OP_MEM mean memory. False:
 * leave_here(). */
bool get_dst(struct ivcpu *v, const struct op *op, unsigned acc, uint64_t *out);
bool get_src(struct ivcpu *v, const struct op *op, uint64_t *out);
/* After get_dst(..., ACC_WRITE, ...): the store to the same place. */
bool put_dst(struct ivcpu *v, const struct op *op, uint64_t val);
/* The linear address of op's memory operand (of n bytes), or false. */
bool get_linear(struct ivcpu *v, const struct op *op, unsigned bytes, unsigned acc, uint64_t *lin);
bool load_n(struct ivcpu *v, const struct op *op, uint64_t lin, unsigned bytes, uint64_t *out);

#endif
