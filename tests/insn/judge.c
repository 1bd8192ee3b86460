/* SPDX-License-Identifier: Apache-2.0 */
/* What has to be the same on the host and here, and what the manuals leave open. */
#include "insn.h"

#include <stdio.h>
#include <string.h>

uint64_t undefined_flags(const ZydisDecodedInstruction *in)
{
    uint64_t m = in->cpu_flags ? in->cpu_flags->undefined : 0;

    switch (in->mnemonic) {
    /* OF is defined for counts of 1 only, AF never; a double shift by more than the size is
     * undefined altogether. */
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR:
        return m | RFLAGS_OF | RFLAGS_AF | (in->operand_width < 32 ? RFLAGS_CF : 0);
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD:
        return m | RFLAGS_OF | RFLAGS_AF | (in->operand_width < 32 ? RFLAGS_ARITH : 0);
    default:
        return m;
    }
}

bool undefined_result(const ZydisDecodedInstruction *in)
{
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD:
    case ZYDIS_MNEMONIC_BSWAP:
        return in->operand_width == 16;
    case ZYDIS_MNEMONIC_BSF:
    case ZYDIS_MNEMONIC_BSR:
        return true; /* of a zero source */
    default:
        return false;
    }
}

/* Which element of several faults first, and what of the others is done then, is the
 * implementation's. */
static bool elementwise(const ZydisDecodedInstruction *in)
{
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
        return true;
    default:
        return in->meta.category == ZYDIS_CATEGORY_AVX2GATHER;
    }
}

/* Of its elements, those before the one that faults may or may not have been looked at. */
static bool masked_move(const ZydisDecodedInstruction *in)
{
    return in->mnemonic == ZYDIS_MNEMONIC_VMASKMOVPS || in->mnemonic == ZYDIS_MNEMONIC_VMASKMOVPD ||
           in->mnemonic == ZYDIS_MNEMONIC_VPMASKMOVD || in->mnemonic == ZYDIS_MNEMONIC_VPMASKMOVQ;
}

/* Intel's processors store 8 bytes of an 80-bit number, then the other two, one of which may fault.
 */
static bool stored_in_two(const struct insn_case *k)
{
    return (k->insn.mnemonic == ZYDIS_MNEMONIC_FSTP || k->insn.mnemonic == ZYDIS_MNEMONIC_FBSTP) &&
           k->ops[0].size == 80;
}

/* They are not all of these sets. */
bool is_state_image(const ZydisDecodedInstruction *in)
{
    switch (in->meta.isa_set) {
    case ZYDIS_ISA_SET_FXSAVE:
    case ZYDIS_ISA_SET_FXSAVE64:
    case ZYDIS_ISA_SET_XSAVE:
    case ZYDIS_ISA_SET_XSAVEC:
    case ZYDIS_ISA_SET_XSAVEOPT:
        return in->mnemonic != ZYDIS_MNEMONIC_XSETBV;
    default:
        return false;
    }
}

static void blank(struct outcome *o, uint64_t at, uint8_t mask)
{
    if (at >= DATA_AT && at < DATA_AT + AREA_BYTES)
        o->data[at - DATA_AT] &= (uint8_t)~mask;
}

/* LSL of the segment whose limit is the host CPU's number. */
static void blank_cpu_node(const struct insn_case *k, struct outcome *o)
{
    uint64_t sel = 0;

    if (k->insn.mnemonic != ZYDIS_MNEMONIC_LSL)
        return;
    if (!k->has_mem)
        sel = k->in.gpr[ZydisRegisterGetId(k->ops[1].reg.value)];
    else if (k->mem_at >= DATA_AT && k->mem_at < DATA_AT + AREA_BYTES)
        sel = k->data[k->mem_at - DATA_AT]; /* its high byte matters little */
    if ((sel & 0xfcu) == (SEL_CPU_NODE & 0xfcu))
        o->regs.gpr[ZydisRegisterGetId(k->ops[0].reg.value)] = 0;
}

/* What stands in memory and is not the instruction's doing. */
static void blank_memory(const struct insn_case *k, struct outcome *o)
{
    const struct seg ss = seg_of(k->in.sel[SEG_SS]);
    uint64_t sp = o->regs.gpr[RSP];

    switch (k->insn.mnemonic) {
    case ZYDIS_MNEMONIC_PUSHF:
    case ZYDIS_MNEMONIC_PUSHFD:
    case ZYDIS_MNEMONIC_PUSHFQ:
        if (k->mode != CODE64)
            sp = ss.attr & SEG_DB ? (uint32_t)sp : (uint16_t)sp;
        blank(o, seg_linear(k, SEG_SS, sp + 1), 0x01); /* TF: the child's single step */
        if (k->insn.operand_width > 16)
            blank(o, seg_linear(k, SEG_SS, sp + 2), 0x20); /* ID: ptrace does not set it */
        break;
    default:
        break;
    }
    if (is_state_image(&k->insn)) /* MXCSR_MASK: the host may have MM (bit 17) */
        blank(o, k->mem_at + offsetof(struct xsave_area, mxcsr_mask) + 2, 0x02);
}

/* Outside 64-bit code the upper halves are undefined, and registers 8 to 15 cannot be seen; and
 * what was in them there need not be there later (SDM 1, "General-Purpose Registers"). */
static uint64_t gpr_mask(const struct insn_case *k, const struct outcome *o, unsigned i)
{
    if (k->mode == CODE64 && o->regs.sel[SEG_CS] == SEL_USER64_CS)
        return ~0ull;
    return i < 8 ? 0xffffffff : 0;
}

/* Of pages that are not a user's the kernel does not say that they are not present. */
static uint32_t hidden_err(const struct outcome *host)
{
    return host->vector == VEC_PF && host->fault_at >= 0x00007ffffffff000ull ? PF_P : 0;
}

/* Several words in an order that is the implementation's: which one faults first? */
static bool order_is_open(const ZydisDecodedInstruction *in)
{
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FRSTOR:
        return true;
    default:
        return elementwise(in) || in->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR ||
               is_state_image(in);
    }
}

/* Differences in what comes first that the manuals leave open. */
static bool may_differ(const struct insn_case *k, const struct outcome *host,
                       const struct outcome *us)
{
    switch (k->insn.mnemonic) {
    case ZYDIS_MNEMONIC_UD0: /* AMD's do not fetch the operand before they fault */
    case ZYDIS_MNEMONIC_UD1:
        return host->vector == VEC_UD && us->vector >= 0;
    default:
        break;
    }
    /* SDM 3, "Limit Checking": beyond 4 GB, if that is the limit, is the processor's choice. */
    if (is_state_image(&k->insn) && k->mem_wraps)
        return true;
    /* What of an image is looked at first, and #AC or #GP for one that is not aligned. */
    if (is_state_image(&k->insn) && us->vector == VEC_SS && host->vector == VEC_GP)
        return true;
    if (is_state_image(&k->insn) && us->vector == VEC_GP && host->vector == VEC_AC)
        return true;
    if (elementwise(&k->insn)) /* nothing selected: AMD still checks the address */
        return true;
    if (masked_move(&k->insn))
        return host->vector >= 0 && us->vector >= 0;
    /* Intel's IRET looks at CS before it has read all of its frame. */
    if (order_is_open(&k->insn) && us->vector == VEC_PF && host->vector == VEC_GP)
        return k->insn.meta.category == ZYDIS_CATEGORY_RET;
    return order_is_open(&k->insn) && us->vector >= 0 &&
           (host->vector == VEC_PF || host->vector == VEC_SS || host->vector == VEC_AC);
}

static const char *judge_exception(const struct insn_case *k, const struct outcome *host,
                                   const struct outcome *us, char *buf, size_t n)
{
    if (host->vector != us->vector)
        (void)snprintf(buf, n, "vector: host %d (%#x), here %d (%#x)", host->vector, host->err,
                       us->vector, us->err);
    else if (host->vector >= 0 && host->err != (us->err | hidden_err(host)) &&
             !(host->vector == VEC_PF && order_is_open(&k->insn)))
        (void)snprintf(buf, n, "error code of vector %d: host %#x, here %#x", host->vector,
                       host->err, us->err);
    else if (host->vector == VEC_PF && host->fault_at != us->fault_at && !order_is_open(&k->insn) &&
             !masked_move(&k->insn))
        (void)snprintf(buf, n, "fault address: host %#lx, here %#lx", host->fault_at, us->fault_at);
    else
        return NULL;
    return buf;
}

/* May leave some of its registers loaded when it faults: RSP is not moved, so it can be tried
 * again.
 */
static bool loads_many(const ZydisDecodedInstruction *in)
{
    return in->mnemonic == ZYDIS_MNEMONIC_POPA || in->mnemonic == ZYDIS_MNEMONIC_POPAD;
}

static bool result_is_open(const struct insn_case *k)
{
    return !k->undefined && undefined_result(&k->insn);
}

static const char *judge_regs(const struct insn_case *k, const struct outcome *host,
                              const struct outcome *us, char *buf, size_t n)
{
    static const char *const names[] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                         "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };
    static const char *const segs[] = { "es", "cs", "ss", "ds", "fs", "gs" };
    const struct regs *h = &host->regs, *g = &us->regs;
    /* ID is the child's own: ptrace does not set it. */
    uint64_t undefined = k->undefined ? 0 : undefined_flags(&k->insn);
    uint64_t mask = ~(undefined | RFLAGS_TF | RFLAGS_RF | RFLAGS_ID);
    bool open = result_is_open(k) || (host->vector >= 0 && loads_many(&k->insn));

    if (h->rip != g->rip) {
        (void)snprintf(buf, n, "rip: host %#lx, here %#lx", h->rip, g->rip);
        return buf;
    }
    for (unsigned i = 0; i < NR_GPRS && !open; i++)
        if ((h->gpr[i] ^ g->gpr[i]) & gpr_mask(k, host, i)) {
            (void)snprintf(buf, n, "%s: host %#lx, here %#lx", names[i], h->gpr[i], g->gpr[i]);
            return buf;
        }
    if ((h->rflags ^ g->rflags) & mask) {
        (void)snprintf(buf, n, "rflags: host %#lx, here %#lx", h->rflags, g->rflags);
        return buf;
    }
    for (unsigned i = 0; i < NR_SEGS; i++)
        if (h->sel[i] != g->sel[i]) {
            (void)snprintf(buf, n, "%s: host %#x, here %#x", segs[i], h->sel[i], g->sel[i]);
            return buf;
        }
    if (h->fs_base != g->fs_base || h->gs_base != g->gs_base) {
        (void)snprintf(buf, n, "fs, gs base: host %#lx %#lx, here %#lx %#lx", h->fs_base,
                       h->gs_base, g->fs_base, g->gs_base);
        return buf;
    }
    return NULL;
}

static bool all_zero(const void *p, size_t n)
{
    const uint8_t *b = p;

    for (size_t i = 0; i < n; i++)
        if (b[i])
            return false;
    return true;
}

/*
 * The host's kernel saves by XSAVES, which stores MXCSR with the SSE component only, so not in its
 * initial state; where AVX is not in that, ptrace shows the MXCSR that was stored before.
 */
static bool is_stale_mxcsr(const struct insn_case *k, uint32_t host, const struct xsave_area *us)
{
    return host == k->in.fpu.mxcsr && us->mxcsr == 0x1f80 && all_zero(us->xmm, sizeof(us->xmm));
}

static const char *judge_fpu(const struct insn_case *k, const struct outcome *host,
                             const struct outcome *us, char *buf, size_t n)
{
    const struct xsave_area *h = &host->regs.fpu, *g = &us->regs.fpu;

    /* Intel's processors find a wrong MXCSR in a compacted image when parts of it are loaded. */
    if (host->vector == VEC_GP &&
        (k->insn.mnemonic == ZYDIS_MNEMONIC_XRSTOR || k->insn.mnemonic == ZYDIS_MNEMONIC_XRSTOR64))
        return NULL;
    for (unsigned i = 0; i < 16; i++)
        if (memcmp(h->xmm[i], g->xmm[i], 16) || memcmp(h->ymmh[i], g->ymmh[i], 16)) {
            (void)snprintf(buf, n, "ymm%u differs", i);
            return buf;
        }
    /* A faulting conversion from or to MMX may or may not have gone to MMX state before, and FRSTOR
     * may have loaded the environment. */
    if (host->vector >= 0 && (k->insn.meta.category == ZYDIS_CATEGORY_CONVERT ||
                              k->insn.mnemonic == ZYDIS_MNEMONIC_FRSTOR))
        return NULL;
    if ((h->mxcsr != g->mxcsr && !is_stale_mxcsr(k, h->mxcsr, g)) || h->fcw != g->fcw ||
        h->fsw != g->fsw || h->ftw != g->ftw) {
        (void)snprintf(buf, n, "mxcsr/fcw/fsw/ftw: host %#x %#x %#x %#x, here %#x %#x %#x %#x",
                       h->mxcsr, h->fcw, h->fsw, h->ftw, g->mxcsr, g->fcw, g->fsw, g->ftw);
        return buf;
    }
    /* AMD's XSAVE, which ptrace reads by, stores the pointers with a pending exception only. */
    if (h->fsw & 0x80 && (h->fop != g->fop || h->fip != g->fip || h->fdp != g->fdp)) {
        (void)snprintf(buf, n, "fop/fip/fdp: host %#x %#lx %#lx, here %#x %#lx %#lx", h->fop,
                       h->fip, h->fdp, g->fop, g->fip, g->fdp);
        return buf;
    }
    for (unsigned i = 0; i < 8; i++)
        if (memcmp(h->st[i], g->st[i], 10)) {
            (void)snprintf(buf, n, "st(%u) differs", i);
            return buf;
        }
    return NULL;
}

const char *judge(const struct insn_case *k, struct outcome *host, struct outcome *us, char *buf,
                  size_t n)
{
    const char *what;

    if (host->vector != us->vector && may_differ(k, host, us))
        return NULL;
    blank_memory(k, host);
    blank_memory(k, us);
    blank_cpu_node(k, host);
    blank_cpu_node(k, us);
    what = judge_exception(k, host, us, buf, n);
    if (!what)
        what = judge_regs(k, host, us, buf, n);
    if (what || (host->vector >= 0 && elementwise(&k->insn)))
        return what;
    what = judge_fpu(k, host, us, buf, n);
    if (what || (host->vector >= 0 && stored_in_two(k)))
        return what;
    for (unsigned i = 0; i < AREA_BYTES && !result_is_open(k); i++)
        if (host->data[i] != us->data[i]) {
            (void)snprintf(buf, n, "memory at %#llx: host %#x, here %#x", DATA_AT + i,
                           host->data[i], us->data[i]);
            return buf;
        }
    return NULL;
}
