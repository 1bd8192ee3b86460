/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SYSCALL from 64-bit user code and SYSRET back to it without C code.
 *
 * What they do to segments and mode is the same each time for as long as the control registers and
 * the MSRs behind it stay: so it is taken from what cpu_syscall() and cpu_sysret() did, and checked
 * whenever C code ran in the kernel. Any doubt (a request, an interrupt that waits, a burst that is
 * measured, flags with consequences) leaves the instruction to interp.
 */
#include "engine/bt/bt.h"

/* What SYSRET may bring without more to do than to store it. */
#define SLOW_FLAGS (RFLAGS_TF | RFLAGS_AC | RFLAGS_VIF | RFLAGS_VIP)

void bt_calls_init(struct bt_vcpu *b)
{
    struct bt_calls *k = &b->calls;

    k->mask_slow_flags = SLOW_FLAGS;
    k->mask_not_user = ~(BIT64(47) - 1);
    bt_calls_forget(b);
}

void bt_calls_forget(struct bt_vcpu *b)
{
    b->calls.no_syscall = b->calls.no_sysret = 1;
    b->calls.kernel.known = b->calls.user.known = false;
}

static struct bt_calls_config config(const struct cpu *c)
{
    return (struct bt_calls_config){
        .efer = c->efer,
        .star = c->star,
        .lstar = c->lstar,
        .sfmask = c->sfmask,
        .cr0 = c->cr0,
        .cr4 = c->cr4,
        .xcr0 = c->xcr0,
    };
}

/* By words: what memcmp() would become here, without vector registers, is a slow REP CMPSB. */
static bool same_config(const struct bt_calls_config *a, const struct bt_calls_config *b)
{
    return !((a->efer ^ b->efer) | (a->star ^ b->star) | (a->lstar ^ b->lstar) |
             (a->sfmask ^ b->sfmask) | (a->cr0 ^ b->cr0) | (a->cr4 ^ b->cr4) | (a->xcr0 ^ b->xcr0));
}

static bool same_seg(const struct seg *a, const struct seg *b)
{
    return a->base == b->base && a->limit == b->limit && a->attr == b->attr && a->sel == b->sel;
}

static void judge(struct bt_vcpu *b)
{
    struct bt_calls *k = &b->calls;
    const struct cpu *c = &b->iv.vc.cpu;
    bool in = k->kernel.known && b->jc_key[JC_KERNEL] == k->kernel.bt_key;
    bool out = k->user.known && b->jc_key[JC_USER] == k->user.bt_key;

    k->no_syscall = !in;
    /* AMD's SYSRET keeps what SYSCALL, or whoever came later, made of SS. From user code the next
     * one that comes to a SYSRET without C code in between is SYSCALL in line. */
    k->no_sysret = !(in && out && same_seg(&k->ss, &k->kernel.seg[1]) &&
                     (is_user(c) || same_seg(&c->seg[SEG_SS], &k->kernel.seg[1])));
}

void bt_calls_check(struct bt_vcpu *b)
{
    struct bt_calls *k = &b->calls;
    const struct cpu *c = &b->iv.vc.cpu;
    struct bt_calls_config now;

    if (!k->kernel.known || is_user(c))
        return;
    now = config(c);
    if (!same_config(&now, &k->config)) {
        bt_calls_forget(b);
        return;
    }
    judge(b);
    if (k->left && (k->cr3 != c->cr3 || k->thread != c->seg[SEG_FS].base))
        bt_calls_arm(b, 0);
}

void bt_calls_arm(struct bt_vcpu *b, unsigned nr)
{
    struct bt_calls *k = &b->calls;

    b->turns += k->armed - k->left;
    k->armed = k->left = nr;
    k->cr3 = b->iv.vc.cpu.cr3;
    k->thread = b->iv.vc.cpu.seg[SEG_FS].base;
}

void bt_calls_learn(struct bt_vcpu *b, bool sysret, const struct seg *ss)
{
    struct bt_calls *k = &b->calls;
    const struct cpu *c = &b->iv.vc.cpu;
    struct bt_ring *r = sysret ? &k->user : &k->kernel;
    struct bt_calls_config now = config(c);

    if (!(c->mode & MODE_CS64) || !(c->sfmask & RFLAGS_AC) || is_user(c) != sysret ||
        b->iv.tlb == &b->iv.no_view)
        return;
    if (!same_config(&now, &k->config)) {
        bt_calls_forget(b);
        k->config = now;
    }
    *r = (struct bt_ring){
        .seg = { c->seg[SEG_CS], c->seg[SEG_SS] },
        .mode = c->mode,
        .cpl = c->cpl,
        .tlb = b->iv.tlb,
        .key = b->iv.key,
        .bt_key = bt_key(b),
        .known = true,
    };
    if (sysret)
        k->ss = *ss;
    k->not_sfmask = ~c->sfmask;
    judge(b);
}

/* ---- the code ---- */

static void add(struct emit *e, enum hreg reg)
{
    emit_lea(e, H_TMP, (struct hmem){ .base = H_TMP, .index = reg });
}

static void load32(struct emit *e, enum hreg dst, size_t word)
{
    emit_op_rm(e, 0, 0x8b, dst, HMEM_GS(word));
}

/* RCX becomes RFLAGS, and its arithmetic flags the host's. RAX is lost. */
static void flags_from_rcx(struct emit *e)
{
    static const uint8_t code[] = {
        0x0f, 0xb6, 0xc1,       /* MOVZX EAX, CL */
        0xc1, 0xe0, 0x08,       /* SHL EAX, 8 */
        0x0f, 0xba, 0xe1, 0x0b, /* BT ECX, 11: OF */
        0x0f, 0x92, 0xc0,       /* SETC AL */
        0x04, 0x7f,             /* ADD AL, 7Fh: overflows if AL is 1 */
        0x9e,                   /* SAHF */
    };

    emit_store(e, HMEM_GS(CPU_OFF(rflags)), H_TMP);
    emit_bytes(e, code, sizeof(code));
}

_Static_assert(SEG_SS == SEG_CS + 1 && sizeof(struct seg) == 24, "copied as six words");

static void enter_ring(struct emit *e, size_t ring)
{
    for (unsigned i = 0; i < 6; i++) {
        emit_load(e, H_TMP, HMEM_GS(ring + offsetof(struct bt_ring, seg) + 8 * (size_t)i));
        emit_store(e, HMEM_GS(CPU_OFF(seg[SEG_CS]) + 8 * (size_t)i), H_TMP);
    }
    load32(e, H_TMP, ring + offsetof(struct bt_ring, mode));
    emit_op_rm(e, 0, 0x89, H_TMP, HMEM_GS(CPU_OFF(mode)));
    load32(e, H_TMP, ring + offsetof(struct bt_ring, cpl));
    emit_op_rm(e, 0, 0x88, H_TMP, HMEM_GS(CPU_OFF(cpl)));
    load32(e, H_TMP, ring + offsetof(struct bt_ring, key));
    emit_op_rm(e, 0, 0x89, H_TMP, HMEM_GS(BT_OFF(iv.key)));
    emit_load(e, H_TMP, HMEM_GS(ring + offsetof(struct bt_ring, tlb)));
    emit_store(e, HMEM_GS(BT_OFF(iv.tlb)), H_TMP);
}

/* Goes to the RIP in H_PTR. */
static void go(struct emit *e, enum jc_class class, const uint8_t *miss)
{
    uint8_t *at = bt_emit_table(e, class, false);

    if (!e->full)
        emit_fix32(at, e->delta, emit_pc(e));
    emit_load(e, H_TMP, HMEM_GS(BT_OFF(site)));
    emit_jmp(e, miss);
}

/* Goes on if RCX is 0. */
static void slow_unless_zero(struct emit *e, const uint8_t *slow)
{
    uint8_t *zero = emit_jrcxz_later(e);

    emit_load(e, H_TMP, HMEM_GS(BT_OFF(site)));
    emit_jmp(e, slow);
    emit_fix8(e, zero);
}

/* H_PTR: the next instruction's RIP; H_TMP: the site. */
static void make_syscall(struct emit *e, const uint8_t *slow, const uint8_t *miss)
{
    static const uint8_t flags[] = {
        0x9f,             /* LAHF */
        0x0f, 0x90, 0xc0, /* SETO AL */
        0x0f, 0xb6, 0xcc, /* MOVZX ECX, AH */
        0x0f, 0xb6, 0xc0, /* MOVZX EAX, AL */
        0xc1, 0xe0, 0x0b, /* SHL EAX, 11 */
        0x09, 0xc1,       /* OR ECX, EAX */
    };
    static const uint8_t others[] = {
        0x48, 0x25, 0x2a, 0xf7, 0xff, 0xff, /* AND RAX, ~RFLAGS_ARITH */
        0x48, 0x09, 0xc1,                   /* OR RCX, RAX */
    };

    _Static_assert((uint32_t)~RFLAGS_ARITH == 0xfffff72a, "in the code above");
    emit_store(e, HMEM_GS(BT_OFF(site)), H_TMP);
    load32(e, H_TMP, BT_OFF(calls.no_syscall));
    load32(e, H_AUX, CPU_OFF(req));
    add(e, H_AUX);
    emit_load(e, H_AUX, HMEM_GS(BT_OFF(user_since)));
    add(e, H_AUX);
    slow_unless_zero(e, slow);
    emit_mov_rr(e, H_GUEST_RCX, H_PTR);
    emit_store(e, HMEM_GS(BT_OFF(tmp)), H_RAX);
    emit_bytes(e, flags, sizeof(flags));
    emit_load(e, H_RAX, HMEM_GS(CPU_OFF(rflags)));
    emit_bytes(e, others, sizeof(others));
    emit_store(e, HMEM_GS(GPR_OFF(R11)), H_TMP);
    emit_op_rm(e, EMIT_W, 0x23, H_TMP, HMEM_GS(BT_OFF(calls.not_sfmask))); /* AND */
    emit_bytes(e, (const uint8_t[]){ 0x83, 0xc9, RFLAGS_FIXED1 }, 3);      /* OR ECX, imm8 */
    flags_from_rcx(e);
    enter_ring(e, BT_OFF(calls.kernel));
    emit_load(e, H_PTR, HMEM_GS(BT_OFF(calls.config.lstar)));
    emit_load(e, H_RAX, HMEM_GS(BT_OFF(tmp)));
    go(e, JC_KERNEL, miss);
}

/* H_TMP: the site. */
static void make_sysret(struct emit *e, const uint8_t *slow, const uint8_t *miss)
{
    uint8_t *none, *some;

    emit_store(e, HMEM_GS(BT_OFF(site)), H_TMP);
    emit_pext(e, H_TMP, H_GUEST_RCX, HMEM_GS(BT_OFF(calls.mask_not_user)));
    load32(e, H_AUX, BT_OFF(calls.no_sysret));
    add(e, H_AUX);
    load32(e, H_AUX, CPU_OFF(req));
    add(e, H_AUX);
    load32(e, H_AUX, BT_OFF(masked));
    add(e, H_AUX);
    emit_load(e, H_PTR, HMEM_GS(GPR_OFF(R11)));
    emit_pext(e, H_AUX, H_PTR, HMEM_GS(BT_OFF(calls.mask_slow_flags)));
    add(e, H_AUX);
    slow_unless_zero(e, slow);
    load32(e, H_TMP, BT_OFF(calls.left));
    none = emit_jrcxz_later(e);
    emit_lea32(e, H_TMP, HMEM_BASE(H_TMP, -1));
    emit_op_rm(e, 0, 0x89, H_TMP, HMEM_GS(BT_OFF(calls.left)));
    some = emit_jmp_later(e);
    emit_fix8(e, none);
    emit_load(e, H_TMP, HMEM_GS(BT_OFF(site)));
    emit_jmp(e, slow);
    if (!e->full)
        emit_fix32(some, e->delta, emit_pc(e));
    emit_store(e, HMEM_GS(BT_OFF(tmp)), H_RAX);
    emit_mov32_rr(e, H_TMP, H_PTR);
    emit_bytes(e, (const uint8_t[]){ 0x81, 0xe1 }, 2); /* AND ECX, imm32 */
    emit32(e, SYSRET_FLAGS);
    emit_bytes(e, (const uint8_t[]){ 0x83, 0xc9, RFLAGS_FIXED1 }, 3); /* OR ECX, imm8 */
    flags_from_rcx(e);
    enter_ring(e, BT_OFF(calls.user));
    emit_mov_rr(e, H_PTR, H_GUEST_RCX);
    emit_load(e, H_RAX, HMEM_GS(BT_OFF(tmp)));
    go(e, JC_USER, miss);
}

void bt_make_calls(struct bt_cache *bc)
{
    bc->syscall = emit_pc(&bc->code);
    make_syscall(&bc->code, bc->leave[WHY_INTERP], bc->leave[WHY_MISS]);
    bc->sysret = emit_pc(&bc->code);
    make_sysret(&bc->code, bc->leave[WHY_INTERP], bc->leave[WHY_MISS]);
}

bool bt_emit_call(struct trans *t)
{
    const struct insn *in = &t->in;
    bool user = t->key & KEY_USER, sysret = in->op.fn == op_sysret;

    if (in->op.fn != op_syscall && !(sysret && in->op.bytes == 8))
        return false;
    if (user == sysret || !bt_long64(t) || (t->key & (KEY_COUNT | KEY_AC)) || t->b->vm->slow_pext)
        return false;
    if (!sysret) {
        emit_load(t->e, H_PTR, HMEM_GS(GPR_OFF(SLOT_PAGE / 8)));
        emit_lea(t->e, H_PTR, HMEM_BASE(H_PTR, in->off + in->len));
    }
    bt_thunk_from(t, emit_jmp_later(t->e), sysret ? t->b->cache->sysret : t->b->cache->syscall);
    return true;
}
