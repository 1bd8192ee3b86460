/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest user code to worker code. Registers and memory are the guest's own, so most instructions
 * are copied; rewritten are RIP-relative operands, CALL (which pushes the guest's return address),
 * and indirect branches, which go through the table in the home. What is not on the allow-lists
 * leaves for interp.
 *
 * Flags are never touched: what is put in between uses MOV, LEA and JRCXZ only. Scratch words lie
 * in the home, RIP-relative. Every host instruction at which the guest's registers are not in place
 * has a point that says where they are.
 */
#include <string.h>

#include "engine/bt/direct/allow.h"
#include "engine/bt/direct/internal.h"
#include "engine/bt/direct/layout.h"
#include "engine/bt/direct/quick.h"
#include "engine/bt/direct/stub.h"
#include "engine/bt/emit.h"
#include "engine/bt/insn.h"

#define MAX_INSNS 64

/* Written behind the block: exits and literals. */
enum tail_kind { TAIL_EXIT, TAIL_LITERAL };
struct tail {
    enum tail_kind kind;
    bool sure; /* an exit: not behind a condition */
    uint8_t *rel32;
    uint64_t value; /* target or literal */
};

struct xl {
    struct code *k;
    struct emit e;
    bool failed;
    uint64_t rip, next; /* of the instruction at hand */
    struct tail tails[MAX_INSNS + 4];
    unsigned nr_tails;
    uint64_t returns; /* where the CALL at the end comes back to, 0: none */
    struct insn in;
};

static uint32_t host_at(const struct xl *x)
{
    return (uint32_t)(x->e.p - (x->k->w->hva + HOME_CODE));
}

/* ---- points ---- */

static void point(struct xl *x, enum undo undo, unsigned reg, uint64_t rip)
{
    const struct point p = {
        .host = host_at(x), .undo = (uint8_t)undo, .reg = (uint8_t)reg, .rip = rip
    };

    x->failed |= !dcode_add_point(x->k, &p);
}

static void point_here(struct xl *x)
{
    point(x, UNDO_NONE, 0, x->rip);
}

/* ---- pieces of code ---- */

/* [REX.W] opcode reg, [rip -> to] */
static void rip_op(struct xl *x, uint8_t opcode, unsigned reg, uint64_t to)
{
    emit8(&x->e, (uint8_t)(0x48 | (reg >> 3) << 2));
    emit8(&x->e, opcode);
    emit8(&x->e, (uint8_t)((reg & 7) << 3 | 5));
    emit32(&x->e, (uint32_t)(to - ((uintptr_t)emit_pc(&x->e) + 4)));
}

static uint64_t scratch(const struct xl *x, unsigned n)
{
    return x->k->w->home + HOME_OUT + OUT_SCRATCH + 8 * n;
}

static void spill(struct xl *x, enum hreg r, unsigned n)
{
    rip_op(x, 0x89, r, scratch(x, n)); /* mov [scratch n], r */
}

static void unspill(struct xl *x, enum hreg r, unsigned n)
{
    rip_op(x, 0x8b, r, scratch(x, n)); /* mov r, [scratch n] */
}

static void later(struct xl *x, enum tail_kind kind, uint8_t *rel32, uint64_t value)
{
    BUG_ON(x->nr_tails == ARRAY_SIZE(x->tails));
    x->tails[x->nr_tails++] = (struct tail){ kind, false, rel32, value };
}

/* Leaves by the stub, which wants to know which exit this is. */
static void emit_interp(struct xl *x, uint64_t rip)
{
    const struct xit xit = { .host = host_at(x),
                             .kind = x->in.op.fn == op_syscall ? XIT_SYSCALL : XIT_INTERP,
                             .target = rip };
    uint64_t stub = x->k->w->home + direct_stub_offset(direct_stub_exit);

    x->failed |= !dcode_add_xit(x->k, &xit);
    point(x, UNDO_NONE, 0, rip);
    spill(x, H_RCX, 0);
    point(x, UNDO_NONE, 0, rip);
    emit_mov_imm(&x->e, H_RCX, xit.host);
    point(x, UNDO_REG, RCX, rip);
    emit_jmp(&x->e, (const uint8_t *)(uintptr_t)stub);
}

static void emit_jump(struct xl *x, uint64_t target)
{
    later(x, TAIL_EXIT, emit_jmp_later(&x->e), target);
    x->tails[x->nr_tails - 1].sure = true;
}

/* ---- operands ---- */

static uint64_t rip_operand(const struct xl *x)
{
    return x->next + (uint64_t)x->in.z.raw.disp.value;
}

/* Clears B (and X) of whatever prefix extends ModRM: they meant nothing to a RIP-relative operand.
 */
static void clear_extension(const struct insn *in, uint8_t *b)
{
    if (in->z.attributes & ZYDIS_ATTRIB_HAS_REX)
        b[in->z.raw.rex.offset] &= (uint8_t)~3;
    if ((in->z.attributes & ZYDIS_ATTRIB_HAS_VEX) && in->z.raw.vex.size == 3)
        b[in->z.raw.vex.offset + 1] |= 0x60; /* inverted there */
}

/* The instruction with its RIP-relative operand at [base], or at an absolute address below 2 GB. */
static void emit_rebased(struct xl *x, enum hreg base, uint64_t abs)
{
    const struct insn *in = &x->in;
    unsigned at = in->z.raw.modrm.offset;
    uint8_t b[16];

    memcpy(b, in->bytes, in->len);
    clear_extension(in, b);
    b[at] = (uint8_t)((b[at] & 0x38) | (base == H_NONE ? 4 : base));
    emit_bytes(&x->e, b, at + 1u);
    if (base == H_NONE) {
        emit8(&x->e, 0x25); /* SIB: no base, no index */
        emit32(&x->e, (uint32_t)abs);
    }
    emit_bytes(&x->e, b + at + 5, in->len - at - 5u); /* an immediate */
}

/* ---- instructions ---- */

/* Can an instruction of these bytes, written next, reach it by its own displacement? */
static bool in_reach(const struct xl *x, uint64_t abs, unsigned bytes)
{
    int64_t rel = (int64_t)(abs - ((uintptr_t)emit_pc(&x->e) + bytes));

    return rel == (int32_t)rel && !x->k->scratch_only;
}

/* The instruction with a displacement that leads to the same place from here. */
static void emit_moved(struct xl *x, uint64_t abs)
{
    const struct insn *in = &x->in;
    uint32_t rel = (uint32_t)(abs - ((uintptr_t)emit_pc(&x->e) + in->len));
    uint8_t b[15];

    memcpy(b, in->bytes, in->len);
    memcpy(b + in->z.raw.disp.offset, &rel, sizeof(rel));
    emit_bytes(&x->e, b, in->len);
}

static void xl_copy(struct xl *x)
{
    const struct insn *in = &x->in;
    uint64_t abs;
    enum hreg r;

    if (!dinsn_is_rip_relative(in)) {
        point_here(x);
        emit_bytes(&x->e, in->bytes, in->len);
        return;
    }
    abs = rip_operand(x);
    point_here(x);
    if (in_reach(x, abs, in->len)) {
        emit_moved(x, abs);
        return;
    }
    if (abs < BIT64(31) && in->len < 15 && !x->k->scratch_only) {
        point(x, UNDO_NONE, POINT_ABSOLUTE, x->rip);
        emit_rebased(x, H_NONE, abs);
        return;
    }
    r = dinsn_free_reg(in);
    if (r == H_NONE) {
        emit_interp(x, x->rip);
        return;
    }
    spill(x, r, 0);
    point_here(x);
    emit_mov_imm(&x->e, r, abs);
    point(x, UNDO_REG, r, x->rip);
    emit_rebased(x, r, 0);
    point(x, UNDO_REG, r, x->next);
    unspill(x, r, 0);
}

/* LEA of a RIP-relative operand is a constant. */
static void xl_lea(struct xl *x)
{
    const struct insn *in = &x->in;
    unsigned reg = in->z.raw.modrm.reg |
                   (in->z.attributes & ZYDIS_ATTRIB_HAS_REX ? (unsigned)in->z.raw.rex.R << 3 : 0);

    point_here(x);
    if (!dinsn_is_rip_relative(in)) {
        emit_bytes(&x->e, in->bytes, in->len);
        return;
    }
    if (in->z.operand_width == 16)
        emit_interp(x, x->rip);
    else if (rip_operand(x) >= BIT64(32) && in_reach(x, rip_operand(x), in->len))
        emit_moved(x, rip_operand(x));
    else
        emit_mov_imm(&x->e, (enum hreg)reg,
                     in->z.operand_width == 64 ? rip_operand(x) : (uint32_t)rip_operand(x));
}

static void push_return(struct xl *x)
{
    x->returns = x->next;
    if (x->next < BIT64(31)) {
        emit8(&x->e, 0x68); /* push imm32 */
        emit32(&x->e, (uint32_t)x->next);
        return;
    }
    emit8(&x->e, 0xff); /* push [rip -> literal] */
    emit8(&x->e, 0x35);
    emit32(&x->e, 0);
    later(x, TAIL_LITERAL, x->e.p - 4, x->next);
}

static void xl_call(struct xl *x, uint64_t target)
{
    point_here(x);
    push_return(x);
    point(x, UNDO_NONE, 0, target);
    emit_jump(x, target);
}

static void xl_jcc(struct xl *x, unsigned cc, uint64_t target)
{
    point_here(x);
    later(x, TAIL_EXIT, emit_jcc_later(&x->e, cc), target);
}

static void xl_jmp(struct xl *x, uint64_t target)
{
    point_here(x);
    emit_jump(x, target);
}

/* LOOPcc and JRCXZ have a rel8 only: it goes to a jump of ours. */
static void xl_short_branch(struct xl *x, uint64_t target)
{
    const struct insn *in = &x->in;
    unsigned opcode_at = in->len - 2u; /* prefixes opcode rel8 */
    uint8_t *over;

    point_here(x);
    emit_bytes(&x->e, in->bytes, opcode_at + 1);
    emit8(&x->e, 2); /* over the next one */
    point(x, UNDO_NONE, 0, x->next);
    emit8(&x->e, 0xeb);
    over = x->e.p;
    emit8(&x->e, 0);
    point(x, UNDO_NONE, 0, target);
    emit_jump(x, target);
    emit_fix8(&x->e, over);
}

/* RCX = the branch's target, from whatever the instruction names. */
static void load_target(struct xl *x)
{
    const struct insn *in = &x->in;
    const ZydisDecodedOperand *o = &in->ops[0];
    unsigned at = in->z.raw.modrm.offset, rex = 0;
    bool near;

    if (in->cls == INSN_RET) {
        emit_load(&x->e, H_RCX, HMEM_BASE(H_RSP, 0));
        return;
    }
    if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
        emit_mov_rr(&x->e, H_RCX, (enum hreg)(o->reg.value - ZYDIS_REGISTER_RAX));
        return;
    }
    near = dinsn_is_rip_relative(in) && in_reach(x, rip_operand(x), 8);
    if (dinsn_is_rip_relative(in) && !near) {
        emit_mov_imm(&x->e, H_RCX, rip_operand(x));
        point(x, UNDO_TWO, 0, x->rip);
    }
    if (o->mem.segment == ZYDIS_REGISTER_FS)
        emit8(&x->e, 0x64);
    if (o->mem.segment == ZYDIS_REGISTER_GS)
        emit8(&x->e, 0x65);
    if (near) {
        rip_op(x, 0x8b, H_RCX, rip_operand(x));
        return;
    }
    if (dinsn_is_rip_relative(in)) {
        emit_op_rm(&x->e, EMIT_W, 0x8b, H_RCX, HMEM_BASE(H_RCX, 0));
        return;
    }
    if (in->z.address_width == 32)
        emit8(&x->e, 0x67);
    if (in->z.attributes & ZYDIS_ATTRIB_HAS_REX)
        rex = in->bytes[in->z.raw.rex.offset] & 3u;
    emit8(&x->e, (uint8_t)(0x48 | rex));
    emit8(&x->e, 0x8b);
    emit8(&x->e, (uint8_t)((in->bytes[at] & 0xc7) | H_RCX << 3));
    emit_bytes(&x->e, in->bytes + at + 1, in->len - at - 1u);
}

/* mov dword [scratch 3], imm32: where to go back to when the target turns out not to be canonical.
 */
static void store_site(struct xl *x, uint32_t host)
{
    emit8(&x->e, 0xc7);
    emit8(&x->e, 0x05);
    emit32(&x->e, (uint32_t)(scratch(x, 3) - ((uintptr_t)emit_pc(&x->e) + 8)));
    emit32(&x->e, host);
}

/*
 * Indirect branches. The table is indexed by the target's low 16 bits; the pad (emit_pad()) checks
 * the rest. R11 as second scratch register is the one whose value compilers need least at such
 * places; RAX, the result of most calls, would wait for a store and a load (a call and return:
 * 2.4 to 2.1 ns, native 1.15).
 */
static void xl_indirect(struct xl *x)
{
    const struct insn *in = &x->in;
    uint64_t home = x->k->w->home;
    const struct xit site = { .host = host_at(x),
                              .kind = XIT_SITE,
                              .target = in->cls == INSN_RET        ? 8 + in->imm
                                        : in->cls == INSN_CALL_IND ? -8ull
                                                                   : 0 };

    x->failed |= !dcode_add_xit(x->k, &site);
    point_here(x);
    spill(x, H_RCX, 0);
    point_here(x);
    spill(x, H_R11, 1);
    point_here(x);
    load_target(x);
    point(x, UNDO_TWO, 0, x->rip);
    spill(x, H_RCX, 2);
    point(x, UNDO_TWO, 0, x->rip);
    store_site(x, site.host);
    point(x, UNDO_TWO, 0, x->rip);
    if (in->cls == INSN_CALL_IND)
        push_return(x);
    else if (in->cls == INSN_RET)
        emit_lea(&x->e, H_RSP, HMEM_BASE(H_RSP, 8 + in->imm));
    point(x, UNDO_TARGET, 0, 0);
    emit_op_rr(&x->e, EMIT_0F, 0xb7, H_RCX, H_RCX); /* movzx ecx, cx */
    point(x, UNDO_TARGET, 0, 0);
    rip_op(x, 0x8d, H_R11, home + HOME_TABLE); /* lea r11, [table] */
    point(x, UNDO_TARGET, 0, 0);
    emit_jmp_mem(&x->e, (struct hmem){ .base = H_R11, .index = H_RCX, .scale = 3 });
}

/* rorx rdx, from, 32 */
static void emit_rorx_rdx(struct xl *x, enum hreg from)
{
    const uint8_t b[] = { 0xc4, 0xe3, 0xfb, 0xf0, (uint8_t)(0xd0 | from), 32 };

    emit_bytes(&x->e, b, sizeof(b));
}

static void point_tsc(struct xl *x)
{
    point(x, UNDO_TSC, 0, x->rip);
}

/* The host's TSC and an offset, without touching flags. RDTSCP waits for the loads before it, as
 * LFENCE does. */
static void xl_rdtsc(struct xl *x)
{
    static const uint8_t lfence[] = { 0x0f, 0xae, 0xe8 }, rdtsc[] = { 0x0f, 0x31 };
    bool p = x->in.z.mnemonic == ZYDIS_MNEMONIC_RDTSCP;
    uint64_t door = x->k->w->home + HOME_IN;

    point_here(x);
    spill(x, H_RAX, 7);
    point_here(x);
    spill(x, H_RDX, 4);
    point_here(x);
    if (p)
        emit_bytes(&x->e, lfence, sizeof(lfence));
    point_here(x);
    emit_bytes(&x->e, rdtsc, sizeof(rdtsc));
    point_tsc(x);
    emit_rorx_rdx(x, H_RDX);
    point_tsc(x);
    emit_lea(&x->e, H_RAX, (struct hmem){ .base = H_RAX, .index = H_RDX });
    point_tsc(x);
    rip_op(x, 0x8b, H_RDX, door + IN_TSC);
    point_tsc(x);
    emit_lea(&x->e, H_RAX, (struct hmem){ .base = H_RAX, .index = H_RDX });
    point_tsc(x);
    emit_rorx_rdx(x, H_RAX);
    point_tsc(x);
    emit_mov32_rr(&x->e, H_RAX, H_RAX);
    point_tsc(x);
    emit_mov32_rr(&x->e, H_RDX, H_RDX);
    if (!p)
        return;
    point_tsc(x);
    rip_op(x, 0x8b, H_RCX, door + IN_TSC_AUX);
}

static bool is_rdtsc(const struct xl *x)
{
    const struct insn *in = &x->in;

    return (in->op.fn == op_rdtsc || in->op.fn == op_rdtscp) && x->k->tsc && x->k->host_bmi2;
}

/* Copying is for what this guest has switched on. */
static bool unit_ready(const struct code *k, const struct insn *in)
{
    return k->avx || !(in->z.attributes & ZYDIS_ATTRIB_HAS_VEX) || in->unit != UNIT_AVX;
}

/* True: the block goes on behind it. */
static bool xl_insn(struct xl *x)
{
    const struct insn *in = &x->in;
    /* The target is relative to the page of the instruction's start. */
    uint64_t target = (x->rip & PAGE_MASK) + (uint64_t)in->target;

    if (dinsn_is_odd_branch(in))
        return emit_interp(x, x->rip), false;
    if (in->cls == INSN_INTERP) {
        if (in->op.fn != op_ud && dinsn_may_copy(in) && unit_ready(x->k, in) &&
            !(dinsn_is_rip_relative(in) && in->z.address_width == 32))
            return xl_copy(x), true;
        if (is_rdtsc(x))
            return xl_rdtsc(x), true;
        if (in->op.fn != op_ud && dinsn_is_short_branch(in)) {
            target = x->next + (uint64_t)in->ops[0].imm.value.s;
            return xl_short_branch(x, target), true;
        }
        return emit_interp(x, x->rip), false;
    }
    if (!unit_ready(x->k, in) || (dinsn_is_rip_relative(in) && in->z.address_width == 32))
        return emit_interp(x, x->rip), false;
    switch (in->cls) {
    case INSN_NOP:
        return true;
    case INSN_PUSHF:
        if (x->k->odd_flags)
            return emit_interp(x, x->rip), false;
        return xl_copy(x), true;
    case INSN_LEA:
        return xl_lea(x), true;
    case INSN_JMP:
        return xl_jmp(x, target), false;
    case INSN_JCC:
        return xl_jcc(x, in->cc, target), true;
    case INSN_LOOP:
        return xl_short_branch(x, target), true;
    case INSN_CALL:
        return xl_call(x, target), false;
    case INSN_JMP_IND:
    case INSN_CALL_IND:
    case INSN_RET:
        return xl_indirect(x), false;
    default:
        return xl_copy(x), true;
    }
}

/* The same for what needs no decoder. */
static bool xl_quick(struct xl *x, const uint8_t *bytes, const struct quick *q)
{
    uint64_t target = x->next + (uint64_t)(int64_t)q->rel;

    switch (q->kind) {
    case QUICK_COPY:
        point_here(x);
        emit_bytes(&x->e, bytes, q->len);
        return true;
    case QUICK_JCC:
        return xl_jcc(x, q->cc, target), true;
    case QUICK_JMP:
        return xl_jmp(x, target), false;
    case QUICK_CALL:
        return xl_call(x, target), false;
    case QUICK_RET:
        x->in.cls = INSN_RET;
        x->in.imm = 0;
        return xl_indirect(x), false;
    }
    return false;
}

/* One instruction; its length, 0: it goes on beyond what is there. */
static unsigned xl_next(struct xl *x, const uint8_t *bytes, unsigned avail, bool *open)
{
    struct code *k = x->k;
    struct quick q;
    unsigned len;

    if (quick_decode(bytes, avail, &q)) {
        x->next = x->rip + q.len;
        *open = xl_quick(x, bytes, &q);
        return q.len;
    }
    len = insn_decode(k->v, block_key(&k->v->vc.cpu), bytes, avail, (uint16_t)(x->rip % PAGE_BYTES),
                      &x->in);
    if (len) {
        x->next = x->rip + len;
        *open = xl_insn(x);
    }
    return len;
}

/* ---- blocks ---- */

static struct xl begin(struct code *k)
{
    uint8_t *base = k->w->hva + HOME_CODE;

    return (struct xl){ .k = k,
                        .e = { .p = base + k->used,
                               .end = base + HOME_CODE_BYTES,
                               .delta = (intptr_t)(k->w->home - (uintptr_t)k->w->hva) } };
}

static void emit_tail(struct xl *x, const struct tail *t)
{
    struct code *k = x->k;
    uint32_t patch = (uint32_t)(t->rel32 - (k->w->hva + HOME_CODE));
    const struct dblock *to = dcode_find(k, t->value);
    const struct xit xit = { .host = host_at(x),
                             .patch = patch,
                             .kind = XIT_CHAIN,
                             .open = !to,
                             .sure = t->sure,
                             .target = t->value };

    emit_fix32(t->rel32, x->e.delta, emit_pc(&x->e));
    if (t->kind == TAIL_LITERAL) {
        emit64(&x->e, t->value);
        return;
    }
    point(x, UNDO_NONE, 0, t->value);
    emit8(&x->e, 0xcc);
    if (!dcode_add_xit(k, &xit))
        x->failed = true;
    else if (to)
        dcode_link(k, k->nr_xits - 1, to);
}

static void end(struct xl *x)
{
    x->k->used = (uint32_t)align_up(host_at(x), 16);
}

/*
 * What an indirect branch's table entry leads to, and behind it the block or a jump to it:
 *
 *   miss: jmp second level
 *   pad2: mov rdx, [s5] ; jmp ok
 *   pad:  mov rcx, [s2] ; mov r11, -rip ; lea rcx, [rcx + r11 + 1] ; loop miss
 *   ok:   mov r11, [s1] ; mov rcx, [s0]
 *
 * LOOP takes no branch when it is the right one, and leaves the flags alone; where it is slow (all
 * but AMD), JRCXZ goes to ok over a jump.
 */
static void emit_pad(struct xl *x, struct dblock *b)
{
    const uint8_t *second = (const uint8_t *)(uintptr_t)(x->k->w->home + HOME_CODE);
    uint8_t *miss = x->e.p, *skip, *hit = NULL;
    int one = x->k->fast_loop ? 1 : 0;

    point(x, UNDO_TARGET, 0, 0);
    emit_jmp(&x->e, second);
    b->pad2 = host_at(x);
    point(x, UNDO_HASH, 0, 0);
    unspill(x, H_RDX, 5);
    point(x, UNDO_TARGET, 0, 0);
    emit8(&x->e, 0xeb); /* jmp rel8 */
    skip = x->e.p;
    emit8(&x->e, 0);
    b->pad = host_at(x);
    point(x, UNDO_TARGET, 0, 0);
    unspill(x, H_RCX, 2);
    point(x, UNDO_TARGET, 0, 0);
    if (b->rip < BIT64(31)) {
        emit_lea(&x->e, H_RCX, HMEM_BASE(H_RCX, one - (int64_t)b->rip));
    } else {
        emit_mov_imm(&x->e, H_R11, -b->rip);
        point(x, UNDO_TARGET, 0, 0);
        emit_lea(&x->e, H_RCX, (struct hmem){ .base = H_RCX, .index = H_R11, .disp = one });
    }
    point(x, UNDO_TARGET, 0, 0);
    if (x->k->fast_loop) {
        emit8(&x->e, 0xe2); /* loop rel8 */
        emit8(&x->e, (uint8_t)(miss - (x->e.p + 1)));
    } else {
        hit = emit_jrcxz_later(&x->e);
        point(x, UNDO_TARGET, 0, 0);
        emit_jmp(&x->e, second);
        emit_fix8(&x->e, hit);
    }
    emit_fix8(&x->e, skip);
    point(x, UNDO_TARGET, 0, 0);
    unspill(x, H_R11, 1);
    point(x, UNDO_TARGET, 0, 0);
    unspill(x, H_RCX, 0);
    point(x, UNDO_NONE, 0, b->rip);
}

struct dblock *xlate_block(struct code *k, const struct xlate_from *from)
{
    struct xl x = begin(k);
    uint32_t start, nr_points = k->nr_points, nr_xits = k->nr_xits;
    struct dblock b = { .rip = from->rip, .page = { from->page[0], from->page[1] } }, *made;
    unsigned off = 0, nr = 0;
    bool open = true;

    if (from->landing)
        emit_pad(&x, &b);
    b.host = start = host_at(&x);
    x.rip = from->rip;
    while (open && nr < MAX_INSNS) {
        unsigned len = xl_next(&x, from->bytes + off, from->nr_bytes - off, &open);

        if (!len)
            break;
        if (!nr && k->nr_xits > nr_xits)
            b.first = k->xits[nr_xits].kind;
        x.rip = x.next;
        off += len;
        nr++;
        if (open && dcode_find(k, x.rip)) /* goes on there */
            break;
    }
    if (!nr) {
        k->nr_points = nr_points;
        return NULL;
    }
    if (open) {
        point_here(&x);
        emit_jump(&x, x.rip);
    }
    while (host_at(&x) < start + 5 && !x.e.full) /* room for dcode_forward() */
        emit8(&x.e, 0xcc);
    b.bytes = (uint16_t)off;
    made = x.failed || x.e.full ? NULL : dcode_add_block(k, &b);
    for (unsigned i = 0; i < x.nr_tails && made; i++)
        emit_tail(&x, &x.tails[i]);
    if (!made) {
        k->nr_points = nr_points;
        k->nr_xits = nr_xits;
        return NULL;
    }
    if (x.failed || x.e.full) { /* short of memory, with half a block in the books */
        dcode_reset(k);
        return NULL;
    }
    end(&x);
    k->d->stats.nr_blocks++;
    if (x.returns) {
        dcode_expect(k, x.returns);
        made = &k->blocks[k->nr_blocks - 1];
    }
    return made;
}

static void bytes(struct xl *x, enum undo undo, const char *b, unsigned n)
{
    point(x, undo, 0, 0);
    emit_bytes(&x->e, (const uint8_t *)b, n);
}
#define BYTES(x, undo, b) bytes(x, undo, b, sizeof(b) - 1)

static void give_flags_back(struct xl *x)
{
    point(x, UNDO_FLAGS, 0, 0);
    unspill(x, H_RAX, 6);
    BYTES(x, UNDO_FLAGS, "\x04\x7f"); /* add al, 7fh: OF if AL was 1 */
    BYTES(x, UNDO_FLAGS, "\x9e");     /* sahf */
    point(x, UNDO_HASH, 0, 0);
    unspill(x, H_RAX, 7);
}

/*
 * Offset 0 is where pads send targets that are not theirs, and where the cache begins: the second
 * level. RCX, RAX and the target are in scratch 0 to 2. Flags have to be saved for once.
 */
void xlate_prologue(struct code *k)
{
    struct xl x = begin(k);
    uint8_t *hit[HASH_PROBES];
    struct xit xit = { .kind = XIT_MISS };

    BUG_ON(k->used);
    point(&x, UNDO_TARGET, 0, 0);
    spill(&x, H_RDX, 5);
    point(&x, UNDO_TARGET, 0, 0);
    spill(&x, H_RAX, 7);
    BYTES(&x, UNDO_TARGET, "\x9f");       /* lahf */
    BYTES(&x, UNDO_HASH, "\x0f\x90\xc0"); /* seto al */
    point(&x, UNDO_HASH, 0, 0);
    spill(&x, H_RAX, 6);
    point(&x, UNDO_FLAGS, 0, 0);
    unspill(&x, H_RCX, 2);
    BYTES(&x, UNDO_FLAGS, "\x48\xf7\xd1"); /* not rcx */
    point(&x, UNDO_FLAGS, 0, 0);
    emit_mov_imm(&x.e, H_RAX, HASH_FACTOR);
    BYTES(&x, UNDO_FLAGS, "\x48\x0f\xaf\xc1"); /* imul rax, rcx */
    BYTES(&x, UNDO_FLAGS, "\x48\xc1\xe8");     /* shr rax, imm8 */
    emit8(&x.e, 64 - HASH_BITS);
    BYTES(&x, UNDO_FLAGS, "\x48\xc1\xe0\x04"); /* shl rax, 4 */
    point(&x, UNDO_FLAGS, 0, 0);
    rip_op(&x, 0x8d, H_RDX, k->w->home + HOME_HASH);
    BYTES(&x, UNDO_FLAGS, "\x48\x01\xc2"); /* add rdx, rax */
    for (unsigned i = 0; i < HASH_PROBES; i++) {
        if (i)
            BYTES(&x, UNDO_FLAGS, "\x48\x83\xc2\x10"); /* add rdx, 16 */
        BYTES(&x, UNDO_FLAGS, "\x48\x3b\x0a");         /* cmp rcx, [rdx] */
        BYTES(&x, UNDO_FLAGS, "\x74");                 /* je hit */
        hit[i] = x.e.p;
        emit8(&x.e, 0);
    }
    give_flags_back(&x);
    point(&x, UNDO_HASH, 0, 0);
    unspill(&x, H_RDX, 5);
    point(&x, UNDO_TARGET, 0, 0);
    xit.host = host_at(&x);
    /* Short of memory, every miss is a stop nobody knows, and the worker is given up. */
    (void)dcode_add_xit(k, &xit);
    emit8(&x.e, 0xcc);
    for (unsigned i = 0; i < HASH_PROBES; i++)
        emit_fix8(&x.e, hit[i]);
    BYTES(&x, UNDO_FLAGS, "\x48\x8b\x52\x08"); /* mov rdx, [rdx + 8] */
    BYTES(&x, UNDO_FLAGS, "\x48\x0f\xba\xfa"); /* btc rdx, imm8 */
    emit8(&x.e, HASH_TO_BIT);
    give_flags_back(&x);
    BYTES(&x, UNDO_HASH, "\xff\xe2"); /* jmp rdx */
    end(&x);
}

void xlate_pad(struct code *k, struct dblock *b)
{
    struct xl x = begin(k);
    uint32_t nr_points = k->nr_points;

    emit_pad(&x, b);
    emit_jmp(&x.e, (const uint8_t *)(uintptr_t)(k->w->home + HOME_CODE + b->host));
    if (x.failed || x.e.full) {
        k->nr_points = nr_points;
        b->pad = 0;
        return;
    }
    end(&x);
}
