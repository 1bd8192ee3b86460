/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Binary translation: the run loop.
 *
 * The loop is interp's, with translated code in the place of decoded blocks: events, single steps
 * and cold code are interp's business. Translated code comes back here for what it cannot do alone:
 * a TLB miss, an instruction for interp, a branch whose target is not known yet.
 */
#include "engine/bt/bt.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "lib/log.h"

uint32_t bt_key(const struct bt_vcpu *b)
{
    const struct cpu *c = &b->iv.vc.cpu;
    uint32_t key = block_key(c) | (b->iv.vc.run_limit ? KEY_COUNT : 0);

    if (key & MODE_CS64)
        key &= ~(uint32_t)MODE_SS32; /* the stack is 64 bits wide all the same */
    if (c->cr4 & CR4_TSD)
        key |= KEY_TSD;
    if (is_user(c))
        key |= KEY_USER;
    else if (c->mode & MODE_AC)
        key |= KEY_AC;
    if (c->cr0 & (CR0_EM | CR0_TS))
        return key;
    key |= KEY_X87;
    if (c->cr4 & CR4_OSFXSR)
        key |= KEY_SSE;
    if ((c->cr4 & CR4_OSXSAVE) && (c->xcr0 & 6) == 6)
        key |= KEY_AVX;
    return key;
}

/* 32-bit code is translated where its segments are as all systems of today have them. */
#define KEY_FLAT32 (MODE_PE | MODE_CS32 | MODE_SS32 | KEY_FLAT_CS | KEY_FLAT_DATA)

/* Can this mode be translated at all? In the rings between there may be no CLI and STI. */
static bool translates(const struct bt_vcpu *b)
{
    const struct cpu *c = &b->iv.vc.cpu;

    if (b->iv.tlb == &b->iv.no_view || b->iv.watching || c->cpl == 1 || c->cpl == 2)
        return false;
    return (c->mode & MODE_CS64) || (block_key(c) & KEY_FLAT32) == KEY_FLAT32;
}

static bool wanted(const struct bt_vcpu *b)
{
    const struct cpu *c = &b->iv.vc.cpu;

    return c->req || c->pending_dbg || c->shadow_sti || c->shadow_movss ||
           c->activity != CPU_RUNNING;
}

/* ---- the vector registers ---- */

/* The sanitizers' own code, called from ours everywhere, uses them. */
#ifdef DOPPEL_SAN
#define VECTORS_STAY false
#else
#define VECTORS_STAY true
#endif

/* The processor's are addresses of the translation and of the guest's memory in the monitor. */
static void x87_pointers(struct bt_vcpu *b)
{
    struct cpu *c = &b->iv.vc.cpu;

    c->fpu.fip = b->x87.rip;
    if (cpu_sets_fop(c))
        c->fpu.fop = b->x87.op & 0x7ff;
    c->fpu_cs = cpu_fpu_selector(c, b->x87.cs);
    if (b->x87.dp_set && cpu_sets_fdp(c)) {
        c->fpu.fdp = b->x87.dp;
        c->fpu_ds = cpu_fpu_selector(c, b->x87.ds);
    }
    b->x87.op = b->x87.dp_set = 0;
}

/*
 * The guest's stay in the processor while C code runs, since that is built without them; before any
 * other code they are stored, and loaded again when translated code next wants them.
 */
void bt_vectors_out(struct bt_vcpu *b)
{
    struct xsave_area *fpu = &b->iv.vc.cpu.fpu;
    uint64_t fip = fpu->fip, fdp = fpu->fdp;
    uint16_t fop = fpu->fop;

    if (!b->vec_here)
        return;
    /* Not even a pending x87 exception is left for the host's code. */
    __asm__ volatile("xsave64 %0\n\tfninit\n\tldmxcsr %1"
                     : "+m"(*fpu)
                     : "m"(b->mxcsr), "a"(XSTATE_ALL), "d"(0)
                     : "memory");
    b->vec_here = 0;
    /* AMD's processors have them only while an exception is pending. */
    fpu->fip = fip, fpu->fdp = fdp, fpu->fop = fop;
    if (b->x87.op)
        x87_pointers(b);
}

static void guard(void)
{
    struct bt_vcpu *b;

    __asm__ volatile("rdgsbase %0" : "=r"(b));
    bt_vectors_out(b);
}

/* ---- finding blocks ---- */

static bool is_hot(struct bt_vcpu *b, gpa_t at)
{
    uint8_t *n = &b->cold[(at.v * 0x9e3779b97f4a7c15ull) >> 50];

    if (*n >= b->cfg->hot)
        return true;
    ++*n;
    return false;
}

/* The block at guest-physical at; translates it if it is hot. NULL: interp runs the code. */
static struct tb *get_block(struct bt_vcpu *b, gpa_t at, uint32_t key, const uint8_t *code)
{
    struct tb *tb = bt_find(b->cache, at, key);

    if (tb)
        return tb;
    if (bt_limit_reached(b))
        return NULL;
    if (bt_fluid_page(b->cache, at)) { /* interp would note it as code to decode it */
        bt_vectors_out(b);
    } else {
        if (!is_hot(b, at))
            return NULL;
        bt_vectors_out(b);
        if (!note_code(&b->iv, at))
            return NULL; /* interp will find the same */
    }
    tb = bt_translate(b, at, key, code);
    if (!tb && b->cache->code.full) {
        bt_flush_cache(b);
        tb = bt_translate(b, at, key, code);
    }
    if (tb)
        perf_map_add(b->vm, tb);
    if (tb && bt_limit_reached(b))
        log_info("bt: the last of %llu blocks is at guest-physical %#llx, RIP %#llx, key %#x",
                 (unsigned long long)b->cfg->limit, (unsigned long long)at.v,
                 (unsigned long long)b->iv.vc.cpu.rip, key);
    return tb;
}

/* The block at cpu.rip, or NULL: b->iv.leave tells as block_find() does. */
static struct tb *block_at_rip(struct bt_vcpu *b, uint32_t key)
{
    struct cpu *c = &b->iv.vc.cpu;
    const uint8_t *code;
    struct tb *tb;
    gpa_t at;

    /* What bt_jc_add() will look at is brought here while the block is found. */
    __builtin_prefetch(&b->jc[bt_jc_class(key)].local.logged[bt_jc_index(b, c->rip)], 1);
    code = fetch_ptr(&b->iv, c->rip, &at);
    if (!code)
        return NULL;
    b->iv.leave = LEAVE_NEXT;
    tb = get_block(b, at, key, code);
    if (!tb && bt_fluid_page(b->cache, at))
        b->iv.leave = LEAVE_STEP;
    if (tb) {
        const struct tlb *t = &b->iv.views[bt_view(key)];
        unsigned i = tlb_index(c->rip);

        bt_jc_add(b, c->rip, tb, t->note[i].global);
    }
    return tb;
}

static void keep_one_key(struct bt_vcpu *b, uint32_t key)
{
    enum jc_class class = bt_jc_class(key);

    if (b->jc_key[class] == key)
        return;
    bt_jc_empty(b, class);
    b->jc_key[class] = key;
}

/* The tables know privilege, AC and 64-bit user code apart; what else changes empties one. STAC and
 * CLAC go from one of the kernel's to the other. */
static void keep_jc_key(struct bt_vcpu *b, uint32_t key)
{
    keep_one_key(b, key);
    if (!(key & KEY_USER))
        keep_one_key(b, key ^ KEY_AC);
}

static uint64_t gap_of(const struct seg *s)
{
    unsigned kind = s->attr & (SEG_TYPE_CODE | SEG_TYPE_EXPAND_DOWN | SEG_TYPE_WRITABLE);

    if ((s->attr & SEG_UNUSABLE) || kind != SEG_TYPE_WRITABLE)
        return SEG_SHUT;
    return UINT32_MAX - s->limit;
}

/* What translated code reads that C code may have changed. */
static void before_entry(struct bt_vcpu *b)
{
    struct cpu *c = &b->iv.vc.cpu;

    b->masked = !(c->rflags & RFLAGS_IF) && cpu_interrupt_waits(c);
    b->tsc_offset = b->vm_tsc_offset + c->tsc_adjust;
    bt_calls_check(b);
    if (c->mode & MODE_CS64)
        return;
    b->fs_gap = gap_of(&c->seg[SEG_FS]);
    b->gs_gap = gap_of(&c->seg[SEG_GS]);
}

/* What is requested from now on will be seen. */
static void listen(struct bt_vcpu *b)
{
    struct cpu *c = &b->iv.vc.cpu;

    /* Pairs with cpu_post(), which sets req first. */
    if (!atomic_load_explicit(&c->quiet, memory_order_relaxed))
        atomic_store(&c->quiet, 1);
    if (c->req)
        atomic_store_explicit(&c->quiet, 0, memory_order_relaxed);
}

/* ---- what translated code comes back for ---- */

static void flags_in(struct bt_vcpu *b)
{
    struct cpu *c = &b->iv.vc.cpu;

    c->rflags = merge_flags(c->rflags, (uint32_t)b->flags);
}

static void flags_out(struct bt_vcpu *b)
{
    uint64_t f = b->iv.vc.cpu.rflags;

    b->flags = (f & (RFLAGS_ARITH & 0xff)) << 8 | (f >> 11 & 1);
}

static uint64_t page_base(const struct bt_vcpu *b)
{
    return b->iv.vc.cpu.gpr[SLOT_PAGE / 8];
}

static void count(struct bt_vcpu *b, unsigned nr)
{
    b->iv.vc.nr_insns += nr - b->counted;
    b->counted = nr;
}

/*
 * Under KEY_COUNT, as all blocks then are: the instructions of the block up to the site (and it, if
 * `with`) are done. What the site and its block say is mostly not in the processor's cache, here
 * and below: it is looked at last, and only if it matters.
 */
static void count_to(struct bt_vcpu *b, const struct site *s, bool with)
{
    if (unlikely(b->iv.vc.run_limit))
        count(b, s->nr + with);
}

static const uint8_t *resume_at(struct bt_vcpu *b, const struct tb *tb, uint32_t pc)
{
    if (!b->vec_here && tb->vectors)
        b->vec_want = 1;
    return tb->code + pc;
}

/*
 * Somewhere else, perhaps in another mode: straight to the block, if the run loop would do nothing
 * but go there. NULL: it is needed.
 */
static const uint8_t *go_on(struct bt_vcpu *b)
{
    struct ivcpu *v = &b->iv;
    struct cpu *c = &v->vc.cpu;
    const struct jc_entry *e;
    uint32_t key;

    if (wanted(b) || cpu_event_ready(c) || interp_must_step(v) || v->vc.run_limit)
        return NULL;
    if (b->direct && bt_needs_turn(b))
        return NULL;
    tlb_set_view(v);
    if (!translates(b))
        return NULL;
    v->key = block_key(c);
    key = bt_key(b);
    if (key != b->jc_key[bt_jc_class(key)])
        return NULL;
    e = &b->jc[bt_jc_class(key)].e[bt_jc_index(b, c->rip)];
    if (!e->far || e->neg_rip != 1 - c->rip)
        return NULL;
    flags_out(b);
    before_entry(b);
    return e->far;
}

static bool site_ops(struct bt_vcpu *b, struct site *s)
{
    const struct tb *tb = bt_tb_of(s);
    struct ivcpu *v = &b->iv;
    unsigned avail = (unsigned)PAGE_BYTES - s->off;
    const uint8_t *code;
    gpa_t at;

    if (s->ops)
        return true;
    bt_vectors_out(b);
    if (tb->fluid) {
        code = tb->fluid->was + (s->off - tb->gpa % PAGE_BYTES);
        avail = s->len;
    } else if (tb->cross_len) {
        code = tb->cross;
        avail = s->len;
    } else {
        code = fetch_ptr(v, v->vc.cpu.rip, &at);
        /* The page tables may have changed without a flush, so what is there may be something else.
         */
        if (!code || at.v != (tb->gpa & PAGE_MASK) + s->off)
            return false;
    }
    s->ops = calloc(2, sizeof(*s->ops));
    if (!s->ops)
        return false;
    if (decode_insn(v, tb->key, code, avail, s->off, &s->ops[0]) != s->len) {
        free(s->ops);
        s->ops = NULL;
        return false;
    }
    if (op_is_branch(&s->ops[0]))
        s->ops[0].aux2 = 0;
    s->ops[1] = (struct op){ .fn = op_end, .off = (uint16_t)(s->off + s->len) };
    return true;
}

/* go_on(), behind an instruction of interp's that came from the stack segment ss. */
static const uint8_t *go_on_behind(struct bt_vcpu *b, const struct site *s, const struct seg *ss)
{
    const uint8_t *to = go_on(b);
    bool sysret = s->ops[0].fn == op_sysret;

    if (to && (sysret || s->ops[0].fn == op_syscall)) {
        bt_calls_learn(b, sysret, ss);
        if (sysret)
            bt_calls_arm(b, bt_free_turns(b));
    }
    return to;
}

/* What the block has looked up ahead may no longer be so. */
static bool lookups_gone(const struct bt_vcpu *b, const struct tb *tb)
{
    return b->tlb_seen != b->iv.tlb_changes && tb->shares;
}

/*
 * interp runs the site's instruction. Returns where to go on in the block; NULL: leave it, cpu.rip
 * is true and *res set if run() has to return (*stop).
 */
static const uint8_t *run_site(struct bt_vcpu *b, struct site *s, bool *stop, enum run_result *res)
{
    struct ivcpu *v = &b->iv;
    struct cpu *c = &v->vc.cpu;
    struct tb *tb = bt_tb_of(s);
    struct seg ss;

    v->vc.nr_exits[EXIT_HANDOVER]++;
    flags_in(b);
    c->rip = page_base(b) + s->off;
    if (!site_ops(b, s) || s->ops[0].fn == op_native_full) {
        v->wait_step = true;
        return NULL;
    }
    if (s->ops[0].fn == op_native)
        bt_vectors_out(b);
    v->again = false;
    v->cur = NULL;
    v->leave = LEAVE_NEXT;
    v->vc.nr_insns++;
    ss = c->seg[SEG_SS];
    run_ops(v, s->ops);
    if (unlikely(v->graveyard)) {
        bt_vectors_out(b);
        block_bury(v);
    }
    if (v->leave == LEAVE_NEXT) {
        /* After a flush the code's page has to be found anew: what CALLs note relies on it. */
        if (s->ends || s->leads || tb->dead || lookups_gone(b, tb) || b->gen_seen != v->jump_gen ||
            c->rip != page_base(b) + s->off + s->len || (c->rflags & RFLAGS_TF) ||
            bt_key(b) != (tb->key & ~KEY_ALONE))
            return go_on_behind(b, s, &ss);
        if (wanted(b) || cpu_event_ready(c))
            return NULL;
        flags_out(b);
        before_entry(b);
        if (unlikely(v->vc.run_limit))
            b->counted = s->nr + 1u; /* it has been counted here */
        return resume_at(b, tb, s->next);
    }
    v->vc.nr_insns--;
    if (v->leave == LEAVE_FAULT) {
        *stop = !interp_deliver(v, res);
    } else if (v->leave == LEAVE_EXIT) {
        *stop = true;
        *res = RUN_SHUTDOWN;
    } else {
        v->wait_step = true;
    }
    return NULL;
}

/* Another translation of what follows the site, in which no access relies on another's lookup: the
 * site's miss jumps there from now on. NULL: not to be had. */
static struct tb *go_alone(struct bt_vcpu *b, struct site *s)
{
    const struct tb *of = bt_tb_of(s);
    uint32_t key = of->key | KEY_ALONE;
    gpa_t at = GPA((of->gpa & PAGE_MASK) + s->off), now;
    struct tb_exit *x = of->exits;
    const uint8_t *code;
    struct tb *tb;

    if (of->dead)
        return NULL;
    tb = bt_find(b->cache, at, key);
    if (!tb) {
        flags_in(b);
        bt_vectors_out(b);
        code = fetch_ptr(&b->iv, page_base(b) + s->off, &now);
        b->iv.vc.cpu.exc.valid = false; /* the instruction itself will raise it */
        if (!code || now.v != at.v || b->cache->code.full || bt_limit_reached(b))
            return NULL;
        tb = bt_translate(b, at, key, code);
        if (!tb)
            return NULL;
        perf_map_add(b->vm, tb);
    }
    while (!x->lead || x->target != s->off)
        x++;
    if (!x->to)
        bt_link(b->cache, x, tb);
    return tb;
}

/* A TLB miss: fill and try again, or let interp do the instruction (devices, faults, two pages). */
static const uint8_t *run_slow(struct bt_vcpu *b, struct site *s, bool *stop, enum run_result *res)
{
    const struct tb *tb = bt_tb_of(s);
    struct ivcpu *v = &b->iv;

    v->vc.nr_exits[EXIT_MISS]++;
    if (s->acc_bytes && tlb_fill(v, b->ea, s->acc_bytes, s->acc_write) && !lookups_gone(b, tb))
        return resume_at(b, tb, s->pc);
    if (s->leads) {
        struct tb *alone = go_alone(b, s);

        if (alone)
            return resume_at(b, alone, (uint32_t)(alone->near - alone->code));
    }
    return run_site(b, s, stop, res);
}

/* A near branch to an address that is not canonical faults itself. */
static void undo_branch(struct bt_vcpu *b, const struct site *s)
{
    struct cpu *c = &b->iv.vc.cpu;

    c->gpr[RSP] -= (uint64_t)(int64_t)s->rsp_undo;
    c->rip = page_base(b) + s->off;
    b->iv.wait_step = true;
}

/* A branch of the kernel's to cpu.rip, in another page, that is not chained (yet). */
static const uint8_t *run_far(struct bt_vcpu *b, struct tb_exit *x)
{
    const struct site *s = &x->tb->sites[x->nr_insns - 1];
    uint64_t flushes = b->iv.vc.nr_exits[EXIT_CACHE_FLUSH];
    struct cpu *c = &b->iv.vc.cpu;
    struct tb *to;

    flags_in(b);
    if (!is_canonical(c, c->rip)) {
        if (s->branch)
            undo_branch(b, s);
        return NULL;
    }
    if (wanted(b) || x->tb->dead || b->iv.code_bps) /* the run loop looks where they are */
        return NULL;
    if (PAGE_BYTES - c->rip % PAGE_BYTES < 15) { /* it may lie in two pages */
        bt_far_give_up(b->cache, x);
        return NULL;
    }
    to = block_at_rip(b, x->tb->key & ~KEY_ALONE);
    if (!to) {
        c->exc.valid = false; /* the run loop finds the same */
        return NULL;
    }
    if (b->iv.vc.nr_exits[EXIT_CACHE_FLUSH] != flushes) /* there is no x any more */
        return to->far;
    if (x->tb->dead)
        return NULL;
    /* It is chained, and came by for a request that has been served meanwhile: who asks sets
     * cpu.req before cpu.quiet. */
    if (x->to)
        return to->far;
    if (bt_far_link(b, x, page_base(b), to))
        b->iv.vc.nr_exits[EXIT_CHAIN]++;
    else
        bt_far_give_up(b->cache, x);
    return to->far;
}

/* Where to go on after translated code came back; NULL: not in translated code. */
static const uint8_t *came_back(struct bt_vcpu *b, bool *stop, enum run_result *res)
{
    struct cpu *c = &b->iv.vc.cpu;
    struct site *s = (struct site *)(uintptr_t)b->site;
    struct tb *tb;

    listen(b);
    b->tlb_seen = b->iv.tlb_changes;
    b->gen_seen = b->iv.jump_gen;
    switch ((enum bt_why)b->why) {
    case WHY_SLOW:
        count_to(b, s, false);
        return run_slow(b, s, stop, res);
    case WHY_INTERP:
        count_to(b, s, false);
        return run_site(b, s, stop, res);
    case WHY_VECTOR:
        b->vec_want = 1;
        return bt_tb_of(s)->code + s->pc;
    case WHY_EXIT:
        c->rip = page_base(b) + b->exit->target;
        flags_in(b);
        if (unlikely(b->iv.vc.run_limit))
            count(b, b->exit->nr_insns);
        if (wanted(b) || (b->exit->tb->key & KEY_COUNT))
            return NULL;
        tb = bt_find(b->cache, GPA((b->exit->tb->gpa & PAGE_MASK) + b->exit->target),
                     (b->exit->tb->key & ~KEY_ALONE) ^ (b->exit->ac ? KEY_AC : 0));
        if (!tb || b->exit->tb->dead)
            return NULL;
        if (b->exit->stale) {
            bt_fluid_turn(b, b->exit->tb, tb);
        } else if (!b->exit->to) {
            bt_link(b->cache, b->exit, tb);
            b->iv.vc.nr_exits[EXIT_CHAIN]++;
        }
        return tb->near;
    case WHY_FAR:
        b->iv.vc.nr_exits[EXIT_LOOKUP]++;
        return run_far(b, b->exit);
    case WHY_MISS:
        flags_in(b);
        b->iv.vc.nr_exits[EXIT_LOOKUP]++;
        if (!is_canonical(c, c->rip) && s->branch) {
            count_to(b, s, false);
            undo_branch(b, s);
        } else {
            count_to(b, s, true);
        }
        return NULL;
    case WHY_LOST:
        flags_in(b);
        return NULL;
    default: { /* WHY_TRAP */
        unsigned n = 0;

        b->iv.vc.nr_exits[EXIT_TRAP]++;
        tb = bt_by_pc(b->cache, b->region.at);
        BUG_ON(!tb);
        while (n + 1u < tb->nr_insns && tb->code + tb->sites[n].next <= b->region.at)
            n++;
        s = &tb->sites[n];
        count_to(b, s, false);
        if (s->rep)
            bt_string_trapped(b, s);
        if (s->viewed && bt_kview_trap(b, s))
            return resume_at(b, tb, s->pc);
        return run_site(b, s, stop, res);
    }
    }
}

/* Translated code at cpu.rip, from block to block. False: run() returns *res. */
static bool run_translated(struct bt_vcpu *b, enum run_result *res)
{
    struct ivcpu *v = &b->iv;
    struct cpu *c = &v->vc.cpu;
    uint32_t key = bt_key(b);
    bool stop = false;
    struct tb *tb;

    keep_jc_key(b, key);
    tb = PAGE_BYTES - c->rip % PAGE_BYTES < 15 ? bt_cross(b, key) : NULL;
    if (!tb)
        tb = block_at_rip(b, key);
    v->link = NULL; /* interp's blocks are not chained: all code comes by here until it is hot */
    if (!tb) {
        if (v->leave == LEAVE_FAULT)
            return interp_deliver(v, res);
        if (v->leave == LEAVE_STEP) {
            v->wait_step = true;
            return true;
        }
        bt_vectors_out(b);
        return interp_run_block(v, res);
    }
    if (tb->nr_insns > v->room) { /* under vcpu.run_limit */
        bt_vectors_out(b);
        return interp_run_block(v, res);
    }
    b->counted = 0;
    v->dbg_resume = false;
    c->gpr[SLOT_PAGE / 8] = c->rip - tb->gpa % PAGE_BYTES;
    flags_out(b);
    before_entry(b);
    listen(b);
    b->pc = tb->near;
    while (b->pc) {
        b->cache->enter(b);
        if (!VECTORS_STAY)
            bt_vectors_out(b);
        b->pc = came_back(b, &stop, res);
    }
    return !stop;
}

static void enter_thread(struct bt_vcpu *b)
{
    const struct engine_config *cfg = &b->iv.vm->evm.cfg;
    bool inl = cfg->time_ops->tsc_offset && cfg->time_ops->tsc_offset(cfg->ctx, &b->vm_tsc_offset);

    if (inl != b->tsc_inline) {
        bt_flush_cache(b);
        b->tsc_inline = inl;
    }
    bt_calls_forget(b);
    b->idle.entered = host_tsc();
    BUG_ON(host_trap_stack_set(&b->stack) < 0);
    __asm__ volatile("rdgsbase %0" : "=r"(b->host_gs));
    __asm__ volatile("wrgsbase %0" : : "r"(b));
    host_trap_region(&b->region);
    log_guard = guard;
}

static void leave_thread(struct bt_vcpu *b)
{
    bt_vectors_out(b);
    bt_count_direct(b);
    log_guard = NULL;
    host_trap_region(NULL);
    __asm__ volatile("wrgsbase %0" : : "r"(b->host_gs));
}

static enum run_result run_loop(struct bt_vcpu *b)
{
    struct ivcpu *v = &b->iv;
    struct cpu *c = &v->vc.cpu;
    enum run_result res = RUN_STOPPED;

    v->room = UINT64_MAX;
    for (;;) {
        if (wanted(b) || cpu_event_ready(c)) {
            v->wait_step |= c->shadow_sti || c->shadow_movss;
            v->link = NULL; /* what runs next may be a handler */
            if (c->req)
                bt_vectors_out(b);
            if (is_user(c) && c->req)
                bt_burst_cut(b);
            if (!interp_serve(v, &res))
                return res;
            if (unlikely(b->cache->nr_fluid))
                bt_fluid_review(b);
            if (c->activity == CPU_HALTED || c->activity == CPU_WAIT_SIPI) {
                if (b->direct)
                    direct_unbind(b->direct);
                v->vc.nr_exits[EXIT_HLT]++;
                bt_vectors_out(b);
                bt_idle_halted(b, host_tsc());
                return RUN_HALTED;
            }
        }
        tlb_set_view(v);
        v->key = block_key(c);
        if (unlikely(interp_must_step(v))) {
            v->link = NULL;
            bt_vectors_out(b);
            if (!interp_step(v, &res))
                return res;
            if (v->graveyard)
                block_bury(v);
        } else if (bt_wants_direct(b)) {
            v->link = NULL;
            bt_vectors_out(b);
            if (!bt_run_direct(b, &res))
                return res;
        } else if (translates(b)) {
            if (!run_translated(b, &res))
                return res;
        } else {
            bt_vectors_out(b);
            if (!interp_run_block(v, &res))
                return res;
        }
    }
}

static bool run_counted(struct ivcpu *v, enum run_result *res)
{
    struct bt_vcpu *b = container_of(v, struct bt_vcpu, iv);

    if (translates(b))
        return run_translated(b, res);
    bt_vectors_out(b);
    return interp_run_block(v, res);
}

enum run_result bt_run(struct vcpu *vc)
{
    struct bt_vcpu *b = container_of(vc, struct bt_vcpu, iv.vc);
    enum run_result res;

    enter_thread(b);
    if (vc->run_limit)
        res = interp_run_limited(&b->iv, run_counted);
    else
        res = run_loop(b);
    leave_thread(b);
    return res;
}
