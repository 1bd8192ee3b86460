/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The translator: a block is the instructions from one place up to the first that nothing falls
 * through, within a page (or one that lies in two: cross.c); conditional branches leave it on the
 * way. It is keyed by guest-physical address and mode and does not know at which virtual address it
 * runs.
 */
#include "engine/bt/bt.h"
#include "lib/probe.h"

#include <stdlib.h>
#include <string.h>

/* Jumps to stubs that one instruction may need. */
#define SLOW_EACH 8
/* Host code of one instruction is never longer. */
#define EACH_MAX  KIB(4)

static bool unit_usable(const struct trans *t)
{
    switch (t->in.unit) {
    case UNIT_X87:
        return t->key & KEY_X87;
    case UNIT_SSE:
        return t->key & KEY_SSE;
    case UNIT_AVX:
        return t->key & KEY_AVX;
    default:
        return true;
    }
}

/* The vector registers may be in memory since C code ran: checked once in a block, since whoever
 * enters in its middle loads them. */
static void want_vectors(struct trans *t)
{
    t->tb->vectors = true;
    if (t->vec_ready)
        return;
    t->vec_ready = true;
    emit_op_rm(t->e, 0, 0x8b, H_TMP, HMEM_GS(BT_OFF(vec_here)));
    bt_leave_from(t, emit_unless_true_later(t->e), WHY_VECTOR);
}

/* interp runs it, and comes back behind it if it falls through. */
static void emit_interp(struct trans *t)
{
    bt_emit_leave(t, WHY_INTERP);
}

static void emit_insn(struct trans *t)
{
    struct site *s = &t->tb->sites[t->nr];
    struct emit before = *t->e;
    unsigned nr_slow = t->nr_slow, nr_exits = t->tb->nr_exits;
    bool done = true, vec_ready = t->vec_ready;

    if (!unit_usable(t)) {
        bt_share_drop(t);
        emit_interp(t);
        return;
    }
    if (t->tb->fluid && bt_emit_loose(t))
        return;
    if (t->in.cls == INSN_COPY && t->in.unit != UNIT_GPR)
        want_vectors(t);
    switch (t->in.cls) {
    case INSN_COPY:
        done = bt_emit_copy(t);
        break;
    case INSN_LEA:
        done = bt_emit_lea(t);
        break;
    case INSN_NOP:
        break;
    case INSN_PUSH:
        bt_emit_push(t);
        break;
    case INSN_PUSHF:
        done = bt_emit_pushf(t);
        break;
    case INSN_STRING:
        done = bt_emit_string(t);
        break;
    case INSN_BITS:
        done = bt_emit_bits(t);
        break;
    case INSN_POP:
    case INSN_LEAVE:
        bt_emit_pop(t);
        break;
    case INSN_INTERP:
        done = bt_emit_call(t) || bt_emit_ac(t) || bt_emit_system(t);
        break;
    case INSN_LOOP:
        done = bt_emit_loop(t);
        break;
    default:
        bt_emit_branch(t);
        break;
    }
    if (!done) { /* it cannot be renamed */
        *t->e = before;
        t->nr_slow = nr_slow;
        t->tb->nr_exits = (uint8_t)nr_exits;
        t->vec_ready = vec_ready;
        s->acc_bytes = 0;
        s->leads = s->viewed = s->rep = false;
        bt_share_drop(t);
        emit_interp(t);
    }
}

/* A leader's miss goes to its site's stub, until it is chained. */
static void note_lead_stub(struct trans *t, const uint8_t *rel32)
{
    uint32_t off = bt_code_off(t->b->cache, rel32);

    for (unsigned i = 0; i < t->tb->nr_exits; i++)
        if (t->tb->exits[i].lead && t->tb->exits[i].rel32 == off)
            t->tb->exits[i].stub = bt_code_off(t->b->cache, t->e->p);
}

static void emit_stubs(struct trans *t)
{
    for (unsigned i = 0; i < t->nr_slow && !t->e->full; i++) {
        emit_fix32(t->slow[i].rel32, t->e->delta, emit_pc(t->e));
        note_lead_stub(t, t->slow[i].rel32);
        emit_mov_imm(t->e, H_TMP, (uintptr_t)&t->tb->sites[t->slow[i].site]);
        emit_jmp(t->e, t->slow[i].to);
    }
}

/* Where a return goes, with R10 = RIP: to the place behind the CALL. */
static void emit_way_back(struct trans *t, struct tb_exit *x)
{
    const uint8_t *at = emit_pc(t->e);

    emit_lea(t->e, H_PTR, HMEM_BASE(H_PTR, -(int32_t)x->target));
    emit_store(t->e, HMEM_GS(GPR_OFF(SLOT_PAGE / 8)), H_PTR);
    x->rel32 = bt_code_off(t->b->cache, emit_jmp_later(t->e));
    if (!t->e->full)
        emit_fix32(bt_code_rw(t->b->cache, x->lea), t->e->delta, at);
}

/* The exits have moved from t to the block: write their stubs. */
static void emit_exit_stubs(struct trans *t)
{
    const struct bt_cache *bc = t->b->cache;
    struct tb *tb = t->tb;

    for (unsigned i = 0; i < tb->nr_exits && !t->e->full; i++) {
        struct tb_exit *x = &tb->exits[i];
        const uint8_t *stub;

        if (x->lead)
            continue;
        if (x->lea)
            emit_way_back(t, x);
        x->stub = bt_code_off(bc, t->e->p);
        stub = emit_pc(t->e);
        emit_mov_imm(t->e, H_TMP, (uintptr_t)x);
        emit_jmp(t->e, bc->leave[x->far ? WHY_FAR : WHY_EXIT]);
        if (x->far) {
            x->table = bt_code_off(bc, t->e->p);
            emit_mov_imm(t->e, H_TMP, (uintptr_t)&tb->sites[x->nr_insns - 1]);
            emit_jmp(t->e, bc->branch[bt_jc_class(t->key)]);
        }
        if (t->e->full)
            break;
        emit_fix32(bt_code_rw(bc, x->rel32), t->e->delta, stub);
        if (x->check)
            emit_fix32(bt_code_rw(bc, x->check), t->e->delta, stub);
    }
}

/* The instruction at off into *in: its length, 0 if it does not end in this page. */
static unsigned decode_at(struct trans *t, const uint8_t *code, unsigned off, struct insn *in)
{
    unsigned start = t->tb->gpa % PAGE_BYTES, avail = (unsigned)(PAGE_BYTES - off);

    if (off >= PAGE_BYTES)
        return 0;
    if (t->tb->cross_len)
        avail = t->tb->cross_len;
    return insn_decode_cached(&t->b->insns, &t->b->iv, t->key, code + ((int)off - (int)start),
                              avail, (uint16_t)off, in);
}

bool bt_is_near(struct trans *t, int64_t off)
{
    struct insn in;

    if (t->tb->cross_len || off < 0 || off >= (int64_t)PAGE_BYTES)
        return false;
    /* A fluid block has a copy of its own bytes alone; what is chained to no block comes back. */
    return off + 15 <= (int64_t)PAGE_BYTES || t->tb->fluid ||
           decode_at(t, t->code, (unsigned)off, &in);
}

static void emit_one(struct trans *t)
{
    struct site *s = &t->tb->sites[t->nr];

    *s = (struct site){ .off = t->in.off, .len = t->in.len & 15, .nr = (uint8_t)t->nr };
    s->pc = (uint16_t)(emit_pc(t->e) - t->tb->code);
    emit_insn(t);
    s->next = (uint16_t)(emit_pc(t->e) - t->tb->code);
}

/* Does what follows run when the instruction has not branched? */
static bool falls_through(const struct insn *in)
{
    return in->cls == INSN_JCC || in->cls == INSN_LOOP || (!in->ends && in->cls < INSN_JMP);
}

/* What follows a conditional branch may be there already. */
static bool is_there(const struct trans *t, unsigned off)
{
    return off < PAGE_BYTES && bt_find(t->b->cache, GPA((t->tb->gpa & PAGE_MASK) + off), t->key);
}

/* The block's instructions, as far as it may go, into b->ahead: how many. */
static unsigned read_ahead(struct trans *t, const uint8_t *code)
{
    struct insn *in = t->b->ahead;
    unsigned nr = 0, off = t->tb->gpa % PAGE_BYTES;

    for (; nr < TB_MAX_INSNS && decode_at(t, code, off, in); in++) {
        off += in->len;
        nr++;
        if ((!falls_through(in) && !bt_is_inline_system(t, in)) ||
            ((in->cls == INSN_JCC || in->cls == INSN_LOOP) && is_there(t, off)))
            break;
    }
    return nr;
}

static void emit_entry(struct trans *t)
{
    unsigned off = t->tb->gpa % PAGE_BYTES;

    t->tb->far = emit_pc(t->e);
    if (off)
        emit_lea(t->e, H_PTR, HMEM_BASE(H_PTR, -(int)off));
    emit_store(t->e, HMEM_GS(GPR_OFF(SLOT_PAGE / 8)), H_PTR);
    t->tb->near = emit_pc(t->e);
}

/* The first exit is taken when the bytes have changed. */
static void emit_stale(struct trans *t)
{
    t->pad = emit_pc(t->e);
    t->exits[0] = (struct tb_exit){ .target = t->tb->gpa % PAGE_BYTES,
                                    .stale = true,
                                    .rel32 = bt_code_off(t->b->cache, emit_jmp_later(t->e)) };
    t->tb->nr_exits = 1;
}

/* A fluid block is entered behind its instructions, since which of their bytes have to be looked
 * at is known only then. */
static void emit_fluid_entry(struct trans *t)
{
    emit_entry(t);
    bt_emit_fluid_check(t);
    emit_jmp(t->e, t->tb->body);
}

static void emit_block(struct trans *t, const uint8_t *code)
{
    unsigned start = t->tb->gpa % PAGE_BYTES, off = start, nr = TB_MAX_INSNS;
    bool open = true, fluid = t->tb->fluid;

    if (fluid)
        emit_stale(t);
    else
        emit_entry(t);
    t->tb->body = emit_pc(t->e);
    if (!fluid)
        nr = read_ahead(t, code);
    bt_share_plan(t, t->b->ahead, nr);
    for (t->nr = 0; t->nr < nr && open && !t->e->full; t->nr++) {
        if (!fluid)
            t->in = t->b->ahead[t->nr];
        else if (!decode_at(t, code, off, &t->in))
            break;
        emit_one(t);
        off += t->in.len;
        open = falls_through(&t->in);
        t->tb->sites[t->nr].ends |= !open;
        if ((fluid && !bt_loose_note(t)) || t->tb->nr_exits + 2u >= ARRAY_SIZE(t->exits) ||
            t->nr_slow + SLOW_EACH > ARRAY_SIZE(t->slow) ||
            t->tb->sites[t->nr].next > UINT16_MAX - EACH_MAX) {
            t->nr++;
            break;
        }
    }
    t->tb->bytes = (uint16_t)(off - start);
    t->tb->nr_insns = (uint8_t)t->nr;
    t->behind = true;
    if (open && t->nr)
        bt_emit_goto(t, off, false);
    if (t->tb->fluid)
        emit_fluid_entry(t);
}

/* The block as it will stay: it and its exits in one piece. */
static struct tb *settle(struct trans *t)
{
    size_t head = sizeof(struct tb) + t->nr * sizeof(struct site);
    struct tb *tb = bt_books(t->b->cache, head + t->tb->nr_exits * sizeof(struct tb_exit));
    struct fluid_tb *f = NULL;

    if (!tb)
        return NULL;
    if (t->tb->fluid)
        f = realloc(t->tb->fluid, offsetof(struct fluid_tb, was) + t->tb->bytes);
    if (f)
        t->tb->fluid = f;
    memcpy(tb, t->tb, head);
    tb->exits = (struct tb_exit *)((char *)tb + head);
    memcpy(tb->exits, t->exits, tb->nr_exits * sizeof(struct tb_exit));
    for (unsigned i = 0; i < tb->nr_exits; i++)
        tb->exits[i].tb = tb;
    return tb;
}

/* A copy of the bytes: what is compared with must be what was translated. */
static struct fluid_tb *fluid_start(struct trans *t, const uint8_t *code)
{
    struct fluid_tb *f = malloc(sizeof(*f));

    if (!f)
        return NULL;
    f->now = code;
    f->serial = ++t->b->cache->serial;
    f->stores = false;
    f->nr_fixed = 0;
    memcpy(f->was, code, MIN(sizeof(f->was), PAGE_BYTES - t->tb->gpa % PAGE_BYTES));
    t->older = bt_newest(t->b->cache, GPA(t->tb->gpa), t->key);
    return f;
}

/* From what *making has: its place, its key, and what else is special about it. */
static struct tb *make_block(struct trans *t, const uint8_t *code)
{
    struct bt_vcpu *b = t->b;
    struct emit before;
    size_t books = b->cache->books_used;
    struct tb *tb = NULL;

    t->e = &b->cache->code;
    t->code = code;
    before = *t->e;
    t->tb->code = emit_pc(t->e);
    t->tb->jc_at = JC_NONE;
    emit_block(t, code);
    if (t->nr)
        tb = settle(t);
    if (tb) {
        t->tb = tb;
        emit_stubs(t);
        emit_exit_stubs(t);
        tb->end = emit_pc(t->e);
        if (!t->e->full && bt_insert(b, tb)) {
            probe(translate, b->iv.vc.cpu.id, tb->end);
            b->iv.vc.nr_exits[EXIT_TRANSLATE]++;
            return tb;
        }
        b->cache->books_used = books;
    }
    free(b->making->fluid);
    before.full = t->e->full;
    *t->e = before;
    return NULL;
}

struct tb *bt_translate(struct bt_vcpu *b, gpa_t at, uint32_t key, const uint8_t *code)
{
    struct trans t = { .b = b, .key = key & ~KEY_ALONE, .alone = key & KEY_ALONE, .tb = b->making };

    *t.tb = (struct tb){ .gpa = at.v, .key = key };
    if (bt_fluid_page(b->cache, at)) {
        t.tb->fluid = fluid_start(&t, code);
        if (!t.tb->fluid)
            return NULL;
        code = t.tb->fluid->was;
    }
    return make_block(&t, code);
}

struct tb *bt_translate_cross(struct bt_vcpu *b, unsigned off, uint32_t key, const uint8_t *bytes,
                              unsigned len)
{
    struct trans t = { .b = b, .key = key, .alone = true, .tb = b->making };

    *t.tb = (struct tb){ .gpa = off, .key = key, .cross_len = (uint8_t)len };
    memcpy(t.tb->cross, bytes, len);
    return make_block(&t, t.tb->cross);
}
