/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes a stub: a function void stub(struct cpu *c, struct native_frame *f) that runs one guest
 * instruction on the host's own registers.
 *
 *     save callee-saved registers that the instruction names
 *     load x87 image, flags, vector registers, MXCSR, general registers
 *     the instruction
 *     store what it writes, give the host its MXCSR and x87 state back
 *     ret
 *     fault: the same without storing registers
 */
#include "engine/interp/native_int.h"

#include <string.h>

#define OFF_GPR(i)  (offsetof(struct cpu, gpr) + 8 * (i))
#define OFF_RFLAGS  offsetof(struct cpu, rflags)
#define OFF_XMM(i)  (offsetof(struct cpu, fpu.xmm) + 16 * (i))
#define OFF_YMMH(i) (offsetof(struct cpu, fpu.ymmh) + 16 * (i))

struct emit {
    uint8_t *p, *end;
    bool overflow;
    const struct native_desc *d;
    unsigned ctx; /* holds struct cpu */
    unsigned tmp;
};

static void put8(struct emit *e, unsigned b)
{
    if (e->p < e->end)
        *e->p++ = (uint8_t)b;
    else
        e->overflow = true;
}

static void put32(struct emit *e, uint32_t v)
{
    for (unsigned i = 0; i < 4; i++)
        put8(e, v >> 8 * i & 0xff);
}

/* REX, then 1 or 2 opcode bytes, then ModRM for [base + disp32]. base is never RSP or R12. */
static void op_mem(struct emit *e, unsigned opcode, bool w, unsigned reg, unsigned base,
                   size_t disp)
{
    unsigned rex = 0x40 | w << 3 | (reg >> 3) << 2 | base >> 3;

    if (rex != 0x40)
        put8(e, rex);
    if (opcode > 0xff)
        put8(e, opcode >> 8);
    put8(e, opcode & 0xff);
    put8(e, 0x80 | (reg & 7) << 3 | (base & 7));
    put32(e, (uint32_t)disp);
}

static void load64(struct emit *e, unsigned reg, size_t off)
{
    op_mem(e, 0x8b, true, reg, e->ctx, off); /* mov reg, [ctx + off] */
}

static void store64(struct emit *e, unsigned reg, size_t off)
{
    op_mem(e, 0x89, true, reg, e->ctx, off); /* mov [ctx + off], reg */
}

static void mov64(struct emit *e, unsigned dst, unsigned src)
{
    if (dst == src)
        return;
    put8(e, 0x48 | (src >> 3) << 2 | dst >> 3); /* mov dst, src */
    put8(e, 0x89);
    put8(e, 0xc0 | (src & 7) << 3 | (dst & 7));
}

static void push(struct emit *e, unsigned reg)
{
    if (reg >> 3)
        put8(e, 0x41);
    put8(e, 0x50 | (reg & 7));
}

static void pop(struct emit *e, unsigned reg)
{
    if (reg >> 3)
        put8(e, 0x41);
    put8(e, 0x58 | (reg & 7));
}

/* and reg, RFLAGS_ARITH */
static void and_arith(struct emit *e, unsigned reg)
{
    put8(e, 0x48 | reg >> 3);
    put8(e, 0x81);
    put8(e, 0xe0 | (reg & 7));
    put32(e, RFLAGS_ARITH);
}

/* vinsertf128 y, y, [ctx + off], 1 (load) or vextractf128 [ctx + off], y, 1 (store) */
static void upper_half(struct emit *e, unsigned opcode, unsigned y, size_t off)
{
    unsigned vvvv = opcode == 0x18 ? y : 0;

    put8(e, 0xc4);
    put8(e, (y >> 3 ? 0 : 0x80) | 0x40 | (e->ctx >> 3 ? 0 : 0x20) | 3);
    put8(e, (~vvvv & 15) << 3 | 4 | 1);
    put8(e, opcode);
    put8(e, 0x80 | (y & 7) << 3 | (e->ctx & 7));
    put32(e, (uint32_t)off);
    put8(e, 1);
}

/* mov qword [ctx + off], 0, twice */
static void zero16(struct emit *e, size_t off)
{
    for (unsigned i = 0; i < 16; i += 8) {
        op_mem(e, 0xc7, true, 0, e->ctx, off + i);
        put32(e, 0);
    }
}

/* Of the registers the ABI lets us change, those that neither the instruction nor the stub uses. */
static unsigned pick(const struct native_desc *d, unsigned taken)
{
    static const uint8_t candidates[] = { R11, R10, R9, R8, RAX, RCX, RDX, RSI, RDI };

    for (unsigned i = 0; i < ARRAY_SIZE(candidates); i++)
        if (!((d->host_busy | taken) >> candidates[i] & 1))
            return candidates[i];
    return NR_GPRS;
}

static unsigned host_reg(const struct native_desc *d, unsigned gpr)
{
    return gpr == RSP ? (unsigned)d->rsp_as : gpr;
}

#define CALLEE_SAVED (BIT(RBX) | BIT(RBP) | BIT(R12) | BIT(R13) | BIT(R14) | BIT(R15))

static void save_callee(struct emit *e)
{
    for (unsigned r = 0; r < NR_GPRS; r++)
        if (e->d->host_busy & CALLEE_SAVED & BIT(r))
            push(e, r);
}

static void restore_callee(struct emit *e)
{
    for (unsigned r = NR_GPRS; r--;)
        if (e->d->host_busy & CALLEE_SAVED & BIT(r))
            pop(e, r);
    put8(e, 0xc3); /* ret */
}

static void load_state(struct emit *e)
{
    const struct native_desc *d = e->d;

    if (d->flags & NATIVE_FPREGS) /* fxrstor64 [frame + fx] */
        op_mem(e, 0x0fae, true, 1, d->frame, offsetof(struct native_frame, fx));
    if (d->uses_flags) { /* only the arithmetic flags: DF, AC and TF are the host's own */
        load64(e, e->tmp, OFF_RFLAGS);
        and_arith(e, e->tmp);
        push(e, e->tmp);
        put8(e, 0x9d); /* popfq */
    }
    for (unsigned i = 0; i < 16; i++)
        if (d->xmm_used >> i & 1) /* movups xmm, [ctx + off] */
            op_mem(e, 0x0f10, false, i, e->ctx, OFF_XMM(i));
    for (unsigned i = 0; i < 16; i++)
        if (d->ymm_used >> i & 1)
            upper_half(e, 0x18, i, OFF_YMMH(i));
    if (d->flags & NATIVE_MXCSR) /* ldmxcsr [ctx + off] */
        op_mem(e, 0x0fae, false, 2, e->ctx, offsetof(struct cpu, fpu.mxcsr));
    for (unsigned i = 0; i < NR_GPRS; i++)
        if (d->gpr_used >> i & 1)
            load64(e, host_reg(d, i), OFF_GPR(i));
}

/* Both ways out: the host gets back what the ABI promises it. */
static void host_state(struct emit *e)
{
    const struct native_desc *d = e->d;

    if (d->flags & NATIVE_MXCSR) {
        /* stmxcsr [frame + mxcsr]; ldmxcsr [frame + host_mxcsr] */
        op_mem(e, 0x0fae, false, 3, d->frame, offsetof(struct native_frame, mxcsr));
        op_mem(e, 0x0fae, false, 2, d->frame, offsetof(struct native_frame, host_mxcsr));
    }
    if (d->flags & NATIVE_FPREGS) {
        put8(e, 0xdb); /* fninit */
        put8(e, 0xe3);
    }
    if (d->vex && d->cls == NATIVE_AVX) {
        put8(e, 0xc5); /* vzeroupper */
        put8(e, 0xf8);
        put8(e, 0x77);
    }
}

static void store_state(struct emit *e)
{
    const struct native_desc *d = e->d;

    for (unsigned i = 0; i < NR_GPRS; i++)
        if (d->gpr_written >> i & 1)
            store64(e, host_reg(d, i), OFF_GPR(i));
    for (unsigned i = 0; i < 16; i++) {
        if (!(d->xmm_written >> i & 1))
            continue;
        op_mem(e, 0x0f11, false, i, e->ctx, OFF_XMM(i)); /* movups [ctx + off], xmm */
        if (!d->vex)
            continue; /* legacy SSE leaves the upper half alone */
        if (d->ymm_used >> i & 1)
            upper_half(e, 0x19, i, OFF_YMMH(i));
        else
            zero16(e, OFF_YMMH(i));
    }
    if (d->flags & NATIVE_FPREGS) /* fxsave64 [frame + fx] */
        op_mem(e, 0x0fae, true, 0, d->frame, offsetof(struct native_frame, fx));
    if (d->flags & NATIVE_WRITES_FLAGS) {
        put8(e, 0x9c); /* pushfq */
        pop(e, e->tmp);
        and_arith(e, e->tmp);
        op_mem(e, 0x81, true, 4, e->ctx, OFF_RFLAGS); /* and qword [ctx + off], ~arith */
        put32(e, ~(uint32_t)RFLAGS_ARITH);
        op_mem(e, 0x09, true, e->tmp, e->ctx, OFF_RFLAGS); /* or [ctx + off], tmp */
    }
}

bool native_emit(struct native_stub *s, uint8_t *rw, const uint8_t *rx)
{
    const struct native_desc *d = &s->d;
    struct emit e = { .p = rw, .end = rw + NATIVE_STUB_BYTES, .d = d };
    uintptr_t entry = (uintptr_t)rx;

    e.ctx = pick(d, BIT(d->frame) | BIT(RSI) | BIT(RDI));
    e.tmp = pick(d, BIT(d->frame) | BIT(e.ctx));
    if (e.ctx < R8 || e.ctx == NR_GPRS || e.tmp == NR_GPRS)
        return false;

    save_callee(&e);
    mov64(&e, e.ctx, RDI);
    mov64(&e, d->frame, RSI);
    load_state(&e);
    s->at = rx + (e.p - rw);
    for (unsigned i = 0; i < d->code_bytes; i++)
        put8(&e, d->code[i]);
    store_state(&e);
    host_state(&e);
    restore_callee(&e);
    s->fault = rx + (e.p - rw);
    host_state(&e);
    restore_callee(&e);
    memcpy(&s->entry, &entry, sizeof(s->entry));
    return !e.overflow;
}
