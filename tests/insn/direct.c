/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The same case in a worker of bt's direct tier: one instruction of the guest, by the trap flag.
 *
 * Takes the run loop's parts as they are in direct.c, which is why that is included.
 */
#include "engine/bt/direct/direct.c"

#include "engine/bt/direct/stub.h"
#include "insn.h"

/* A place where only a part of the guest's instruction has been done, or nothing yet? */
static bool in_between(const struct run *r, uint64_t start, uint32_t from)
{
    uint32_t host = regs_host_pc(r->s);
    const struct point *p = host == REGS_OUTSIDE ? NULL : dcode_point_at(&r->s->code, host);

    if (!r->s->w.uc->uc_mcontext.gregs[REG_RIP]) /* through an empty entry of the table */
        return true;
    if (!p)
        return false;
    if (p->undo >= UNDO_TARGET) /* on its way through the table */
        return true;
    return p->rip == start && host != from;
}

static void set_trap_flag(struct worker *w)
{
    if (w->rest == REST_SIGNAL)
        w->uc->uc_mcontext.gregs[REG_EFL] |= RFLAGS_TF;
    else
        w->to_regs->flags |= RFLAGS_TF;
}

/* On the way out the stub uses the door itself: not step by step. */
static bool in_stub(struct worker *w, bool *leaving)
{
    uint64_t off = (uint64_t)w->uc->uc_mcontext.gregs[REG_RIP] - w->home;

    *leaving = off < HOME_STUB_BYTES && off >= (uint64_t)(direct_stub_exit - direct_stub_begin);
    if (*leaving)
        w->uc->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)RFLAGS_TF;
    return off < HOME_STUB_BYTES;
}

enum direct_result direct_one(struct direct *d, bool by_scratch)
{
    struct run r = { .d = d, .c = &d->v->vc.cpu, .s = may_run(d) ? space_enter(d) : NULL };
    uint64_t start = r.c->rip;
    bool leaving = false;
    uint32_t from = 0;
    struct dblock *b;

    if (!r.s)
        return DIRECT_REFUSED;
    r.s->code.scratch_only = by_scratch;
    b = enter(&r, false);
    if (b)
        from = b->host;
    if (r.go_on && dcode_point_at(&r.s->code, from)->rip != start) { /* a NOP: nothing to run */
        r.c->rip = dcode_point_at(&r.s->code, from)->rip;
        return DIRECT_KICKED;
    }
    while (r.go_on) {
        if (!leaving)
            set_trap_flag(&r.s->w);
        if (worker_go(&r.s->w) < 0)
            return DIRECT_LOST;
        r.loaded = false;
        if (r.s->w.rest == REST_SIGNAL && r.s->w.signal == SIGTRAP &&
            r.s->w.uc->uc_mcontext.gregs[REG_TRAPNO] == VEC_DB) {
            if (in_stub(&r.s->w, &leaving) || in_between(&r, start, from))
                continue;
            leave_saved(&r, DIRECT_KICKED);
            break;
        }
        leaving = false;
        stop(&r);
        if (r.loaded && r.c->rip != start) /* an indirect branch, or an exit not yet linked */
            return DIRECT_KICKED;
    }
    if (r.c->rip == start)
        return r.result;
    r.c->exc.valid = false; /* the branch was taken; what is at its target is another case */
    return DIRECT_KICKED;
}
