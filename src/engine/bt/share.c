/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One lookup for several accesses. Compiled code reaches memory again and again through the same
 * pointer: its stack frame, the fields of a structure. Before a block is written its accesses are
 * planned: those whose addresses differ from each other by a constant, and by little, have one
 * leader, which looks all the bytes between them up at once and keeps their host address in memory;
 * the others read it there, without a check.
 *
 * Where the bytes lie in two pages, or may not be reached without interp, the leader's miss goes to
 * another translation of what follows, in which every access is alone (KEY_ALONE). Once that is
 * there the miss jumps to it directly. Whatever changes the TLB while a block is under way, makes
 * it be left (came_back()).
 */
#include "engine/bt/bt.h"

#include <string.h>

/* Bytes that a group may span: more accesses are worth a higher chance of two pages. */
#define SPAN_FIRST  96
#define SPAN_EACH   32
#define SPAN_MAX    512
/* By the kernel's view nothing is checked, only one window has to hold it: less than its guard. */
#define SPAN_VIEWED 4096

/* What a register holds: a place that is not known, and so much. */
struct value {
    uint16_t origin;
    int64_t off;
};

/* Origins that are no register's first value. */
enum { ORIGIN_PAGE = NR_GPRS, ORIGIN_FS, ORIGIN_GS, ORIGIN_FIRST };

struct planner {
    struct trans *t;
    struct value val[NR_GPRS];
    unsigned nr_origins;
    struct group {
        uint16_t origin;
        bool open;
    } g[SHARES];
};

static void forget(struct planner *p, unsigned gpr)
{
    p->val[gpr] = (struct value){ .origin = (uint16_t)p->nr_origins++ };
}

static void close_all(struct planner *p)
{
    for (unsigned i = 0; i < p->t->nr_shares; i++)
        p->g[i].open = false;
}

/* The access of instruction nr at off from the origin: into a group, or the first of a new one. */
static void add(struct planner *p, unsigned nr, uint16_t origin, int64_t off, unsigned bytes,
                bool write)
{
    struct trans *t = p->t;
    bool viewed = bt_kview_wants(t, t->b->ahead[nr].off, write);
    struct share *s;
    unsigned i;

    for (i = 0; i < t->nr_shares; i++) {
        int64_t lo, hi;

        s = &t->shares[i];
        if (!p->g[i].open || p->g[i].origin != origin || s->viewed != viewed)
            continue;
        lo = MIN(s->lo, off);
        hi = MAX(s->hi, off + (int64_t)bytes);
        if (viewed ? hi - lo <= SPAN_VIEWED
                   : (!write || s->write) &&
                         hi - lo <= MIN(SPAN_FIRST + SPAN_EACH * (int64_t)s->nr, SPAN_MAX)) {
            s->lo = lo;
            s->hi = hi;
            s->nr++;
            t->uses[nr] = (struct share_use){ .share = (int8_t)i, .off = off };
            return;
        }
        p->g[i].open = false;
        break;
    }
    if (t->nr_shares == SHARES)
        return;
    i = t->nr_shares++;
    p->g[i] = (struct group){ .origin = origin, .open = true };
    t->shares[i] =
        (struct share){ .lo = off, .hi = off + bytes, .write = write, .viewed = viewed, .nr = 1 };
    t->uses[nr] = (struct share_use){ .share = (int8_t)i, .leads = true, .off = off };
}

static void add_operand(struct planner *p, unsigned nr, const struct insn *in)
{
    const ZydisDecodedOperandMem *m = &in->ops[in->mem].mem;
    int64_t off = m->disp.has_displacement ? m->disp.value : 0;
    bool fs = m->segment == ZYDIS_REGISTER_FS, gs = m->segment == ZYDIS_REGISTER_GS;

    /* x87 code wants the linear address. MOV of an absolute address has one of 64 bits, where an
     * offset and a span might wrap. */
    if (m->index != ZYDIS_REGISTER_NONE || in->z.address_width != 8 * in->word ||
        in->unit == UNIT_X87 || off != (int32_t)off)
        return;
    if (fs || gs) {
        if (m->base == ZYDIS_REGISTER_NONE && in->word == 8) /* no limits */
            add(p, nr, fs ? ORIGIN_FS : ORIGIN_GS, off, in->mem_bytes, in->mem_acc == ACC_WRITE);
    } else if (m->base == ZYDIS_REGISTER_RIP) {
        add(p, nr, ORIGIN_PAGE, off + in->off + in->len, in->mem_bytes, in->mem_acc == ACC_WRITE);
    } else if (m->base != ZYDIS_REGISTER_NONE) {
        struct value v = p->val[bt_gpr(m->base)];

        add(p, nr, v.origin, v.off + off, in->mem_bytes, in->mem_acc == ACC_WRITE);
    }
}

/* A register as wide as addresses are. */
static bool is_whole(const struct insn *in, const ZydisDecodedOperand *o)
{
    return o->type == ZYDIS_OPERAND_TYPE_REGISTER &&
           ZydisRegisterGetClass(o->reg.value) ==
               (in->word == 8 ? ZYDIS_REGCLASS_GPR64 : ZYDIS_REGCLASS_GPR32);
}

/* Does the instruction move a known value? What it then is. */
static bool follows(const struct planner *p, const struct insn *in, struct value *out)
{
    const ZydisDecodedOperand *d = &in->ops[0], *s = &in->ops[1];
    int64_t by;

    if (in->z.operand_count < 2 || !is_whole(in, d))
        return false;
    switch (in->z.mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        if (!is_whole(in, s))
            return false;
        *out = p->val[bt_gpr(s->reg.value)];
        return true;
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_SUB:
        if (s->type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
            return false;
        by = s->imm.value.s;
        *out = p->val[bt_gpr(d->reg.value)];
        out->off += in->z.mnemonic == ZYDIS_MNEMONIC_ADD ? by : -by;
        break;
    case ZYDIS_MNEMONIC_LEA:
        if (s->mem.index != ZYDIS_REGISTER_NONE || in->z.address_width != 8 * in->word ||
            s->mem.base == ZYDIS_REGISTER_NONE || s->mem.base == ZYDIS_REGISTER_RIP)
            return false;
        *out = p->val[bt_gpr(s->mem.base)];
        out->off += s->mem.disp.has_displacement ? s->mem.disp.value : 0;
        break;
    default:
        return false;
    }
    return out->off == (int32_t)out->off;
}

/* What the instruction does to the registers' values. */
static void follow(struct planner *p, const struct insn *in)
{
    struct value v;
    bool known = follows(p, in, &v);

    for (unsigned i = 0; i < in->z.operand_count; i++) {
        const ZydisDecodedOperand *o = &in->ops[i];

        if (o->type != ZYDIS_OPERAND_TYPE_REGISTER ||
            !(o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            continue;
        switch (ZydisRegisterGetClass(o->reg.value)) {
        case ZYDIS_REGCLASS_GPR8:
            forget(p, o->reg.value >= ZYDIS_REGISTER_AH && o->reg.value <= ZYDIS_REGISTER_BH
                          ? (unsigned)(o->reg.value - ZYDIS_REGISTER_AH)
                          : bt_gpr(o->reg.value));
            break;
        case ZYDIS_REGCLASS_GPR16:
        case ZYDIS_REGCLASS_GPR32:
        case ZYDIS_REGCLASS_GPR64:
            forget(p, bt_gpr(o->reg.value));
            break;
        default:
            break;
        }
    }
    if (known)
        p->val[bt_gpr(in->ops[0].reg.value)] = v;
}

static void plan_one(struct planner *p, unsigned nr, const struct insn *in)
{
    struct value *sp = &p->val[RSP], *bp = &p->val[RBP];
    unsigned word = in->word;

    switch (in->cls) {
    case INSN_COPY:
        if (in->mem >= 0)
            add_operand(p, nr, in);
        follow(p, in);
        break;
    case INSN_LEA:
        follow(p, in);
        break;
    case INSN_PUSH:
        if (in->mem < 0) /* else there are two accesses */
            add(p, nr, sp->origin, sp->off - word, word, true);
        sp->off -= word;
        break;
    case INSN_PUSHF:
        add(p, nr, sp->origin, sp->off - word, word, true);
        sp->off -= word;
        break;
    case INSN_STRING:
    case INSN_BITS:
        follow(p, in);
        break;
    case INSN_POP:
        add(p, nr, sp->origin, sp->off, word, false);
        sp->off += word;
        forget(p, bt_gpr(in->ops[0].reg.value));
        break;
    case INSN_LEAVE:
        add(p, nr, bp->origin, bp->off, word, false);
        *sp = (struct value){ .origin = bp->origin, .off = bp->off + word };
        forget(p, RBP);
        break;
    case INSN_CALL:
        add(p, nr, sp->origin, sp->off - word, word, true);
        break;
    case INSN_CALL_IND:
        if (in->mem < 0)
            add(p, nr, sp->origin, sp->off - word, word, true);
        break;
    case INSN_RET:
        add(p, nr, sp->origin, sp->off, word, false);
        break;
    case INSN_LOOP:
        forget(p, RCX);
        break;
    case INSN_INTERP:
        close_all(p);
        for (unsigned r = 0; r < NR_GPRS; r++)
            forget(p, r);
        break;
    default:
        break;
    }
}

void bt_share_plan(struct trans *t, const struct insn *ins, unsigned nr)
{
    struct planner p = { .t = t, .nr_origins = ORIGIN_FIRST };

    t->nr_shares = 0;
    for (unsigned i = 0; i < nr; i++)
        t->uses[i].share = -1;
    if (t->alone || t->tb->fluid || (t->key & KEY_COUNT))
        return;
    for (unsigned r = 0; r < NR_GPRS; r++)
        p.val[r].origin = (uint16_t)r;
    for (unsigned i = 0; i < nr; i++)
        plan_one(&p, i, &ins[i]);
    for (unsigned i = 0; i < nr; i++)
        if (t->uses[i].share >= 0 && t->shares[t->uses[i].share].nr < 2)
            t->uses[i].share = -1;
}

void bt_share_drop(struct trans *t)
{
    const struct share_use *u = &t->uses[t->nr];

    if (u->share >= 0 && u->leads)
        for (unsigned i = t->nr + 1; i < TB_MAX_INSNS; i++)
            if (t->uses[i].share == u->share)
                t->uses[i].share = -1;
    t->uses[t->nr].share = -1;
}

int64_t bt_share_ahead(const struct trans *t)
{
    const struct share_use *u = &t->uses[t->nr];

    return u->share >= 0 ? t->shares[u->share].lo - u->off : 0;
}

bool bt_share_known(const struct trans *t)
{
    const struct share_use *u = &t->uses[t->nr];

    return u->share >= 0 && !u->leads;
}

/* The current instruction leads; its miss jumps by rel32. */
static void lead(struct trans *t, uint8_t *rel32)
{
    bt_leave_from(t, rel32, WHY_SLOW);
    t->tb->sites[t->nr].leads = true;
    t->tb->shares = true;
    if (t->tb->nr_exits == ARRAY_SIZE(t->exits)) {
        t->e->full = true;
        return;
    }
    t->exits[t->tb->nr_exits++] = (struct tb_exit){ .target = t->in.off,
                                                    .nr_insns = (uint8_t)t->nr,
                                                    .lead = true,
                                                    .rel32 = bt_code_off(t->b->cache, rel32) };
}

struct hmem bt_share_lookup(struct trans *t, unsigned bytes, bool write)
{
    const struct share_use *u = &t->uses[t->nr];
    const struct share *s;

    if (u->share < 0) {
        bt_emit_lookup(t, bytes, write);
        return HMEM_GUEST;
    }
    s = &t->shares[u->share];
    if (s->viewed)
        t->tb->sites[t->nr].viewed = true;
    if (u->leads) {
        if (s->viewed)
            bt_emit_window(t);
        else
            lead(t, bt_emit_probe(t, (unsigned)(s->hi - s->lo), s->write));
        emit_lea(t->e, H_AUX, HMEM_GUEST);
        emit_store(t->e, HMEM_GS(BT_OFF(share) + 8 * (size_t)u->share), H_AUX);
    } else {
        emit_load(t->e, H_AUX, HMEM_GS(BT_OFF(share) + 8 * (size_t)u->share));
    }
    return HMEM_BASE(H_AUX, u->off - s->lo);
}
