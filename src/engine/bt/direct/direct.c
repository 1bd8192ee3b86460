/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The direct tier's run loop: lets a worker run, finds out why it stopped, and either mends that
 * and goes on or hands the guest's state back.
 */
#include "engine/bt/direct/direct.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "engine/bt/direct/internal.h"
#include "engine/bt/direct/layout.h"
#include "engine/interp/interp.h"

#define TRAP_PF  14
#define USER_TOP ((1ull << 47) - PAGE_BYTES)

/* A fault that comes so often without an instruction between is not for us. */
#define MAX_SAME_FAULTS 3

/* One call of direct_run(). */
struct run {
    struct direct *d;
    struct space *s;
    struct cpu *c;
    bool go_on;  /* else `result` is due and struct cpu is the state */
    bool loaded; /* the worker is ready to enter guest code, and struct cpu still is the state */
    enum direct_result result;
    uint64_t fault_pc, fault_at;
    unsigned nr_same;
};

static void leave(struct run *r, enum direct_result result)
{
    r->go_on = false;
    r->result = result;
}

/* The worker is not to be trusted with this any more. */
static void lose(struct run *r, const char *what)
{
    const struct worker *w = &r->s->w;
    static const ucontext_t none;
    const greg_t *g = (w->uc ? w->uc : &none)->uc_mcontext.gregs;

    siginfo_t end = { .si_pid = 0 };

    (void)waitid(P_PID, (id_t)w->pid, &end, WEXITED | WNOHANG | WNOWAIT);
    log_error("bt: vcpu%u's worker %d %s (%s; signal %d, end %d by %d, trap %lld, pc %#llx, "
              "address %#llx)",
              r->c->id, w->pid, what, w->rest == REST_EXIT ? "exit" : "signal", w->signal,
              end.si_code, end.si_status, (long long)g[REG_TRAPNO], (unsigned long long)g[REG_RIP],
              (unsigned long long)g[REG_CR2]);
    r->s->dead = true;
    leave(r, DIRECT_LOST);
}

/* Takes the registers back and returns to the caller. */
static void leave_saved(struct run *r, enum direct_result result)
{
    if (!r->loaded && !regs_save(r->s, r->c))
        return lose(r, "stopped where no guest code is");
    leave(r, result);
}

/* ---- going in ---- */

/* To the translation of what is at c->rip; struct cpu holds the state. */
static struct dblock *enter(struct run *r, bool landing)
{
    struct code *k = &r->s->code;
    uint32_t nr_blocks = k->nr_blocks;
    enum step st;
    struct dblock *b;

    k->fetched.hva = NULL;
    b = dcode_get(k, r->c->rip, landing, &st);
    if (b && k->nr_blocks != nr_blocks)
        b = ahead(k, b);
    r->go_on = false;
    if (!b) {
        r->result = st == STEP_FAULT ? DIRECT_FAULT : DIRECT_INTERP;
        return NULL;
    }
    if (b->first == XIT_INTERP || b->first == XIT_SYSCALL) {
        r->result = b->first == XIT_INTERP ? DIRECT_INTERP : DIRECT_SYSCALL;
        return b;
    }
    regs_load(r->s, r->c);
    worker_set_pc(&r->s->w, r->s->w.home + HOME_CODE + b->host);
    r->go_on = r->loaded = true;
    return b;
}

/* ---- stops ---- */

static void stop_miss(struct run *r)
{
    struct dblock *b;

    if (!regs_save(r->s, r->c))
        return lose(r, "missed without a target");
    r->d->stats.nr_misses++;
    if (r->c->rip != regs_target(r->s)) /* not canonical: the branch itself is at fault */
        return leave(r, DIRECT_INTERP);
    b = enter(r, true);
    if (b)
        dcode_offer(&r->s->code, b);
}

/* Guest code knew that it had to leave. */
static void stop_exit(struct run *r)
{
    const struct xit *x = dcode_xit_at(&r->s->code, (uint32_t)r->s->w.regs->pc);

    if (!x || (x->kind != XIT_SYSCALL && x->kind != XIT_INTERP))
        return lose(r, "left by an unknown exit");
    leave_saved(r, x->kind == XIT_SYSCALL ? DIRECT_SYSCALL : DIRECT_INTERP);
}

/* At the closed door of a block whose guest code has changed. */
static void stop_dead(struct run *r, const struct dblock *dead)
{
    struct code *k = &r->s->code;
    struct dblock old = *dead, *b;
    uint64_t generation = k->generation;

    r->c->rip = old.rip;
    b = enter(r, false);
    if (b && generation == k->generation && b->host != old.host) /* it only slept */
        dcode_forward(k, &old, b);
}

static void stop_breakpoint(struct run *r)
{
    greg_t *g = r->s->w.uc->uc_mcontext.gregs;
    const struct code *k = &r->s->code;
    const struct dblock *b;
    const struct xit *x;
    uint32_t host;

    g[REG_RIP]--; /* a trap: behind the INT3 */
    host = regs_host_pc(r->s);
    x = host == REGS_OUTSIDE ? NULL : dcode_xit_at(k, host);
    if (x && x->kind == XIT_MISS)
        return stop_miss(r);
    if (!regs_save(r->s, r->c))
        return lose(r, "met a breakpoint outside guest code");
    b = dcode_block_at(k, host);
    if (b && b->dead)
        return stop_dead(r, b);
    if (!x || x->kind != XIT_CHAIN)
        return lose(r, "met an unknown breakpoint");
    r->d->stats.nr_links++;
    (void)enter(r, false); /* making the block has linked it */
}

static void stop_page_fault(struct run *r)
{
    const greg_t *g = r->s->w.uc->uc_mcontext.gregs;
    uint64_t pc = (uint64_t)g[REG_RIP], at = (uint64_t)g[REG_CR2];
    bool same = pc == r->fault_pc && at == r->fault_at;

    if (!pc) /* an empty entry of the table */
        return stop_miss(r);
    r->nr_same = same ? r->nr_same + 1 : 0;
    r->fault_pc = pc;
    r->fault_at = at;
    if (r->nr_same > MAX_SAME_FAULTS)
        return leave_saved(r, DIRECT_INTERP);
    switch (view_fill(&r->s->view, r->c, at, g[REG_ERR] & PF_W)) {
    case FILL_DONE:
        r->d->stats.nr_fills++;
        return;
    case FILL_FAULT:
        r->d->fault.root = r->s->root;
        r->d->fault.at = at;
        r->d->fault.write = g[REG_ERR] & PF_W;
        return leave_saved(r, DIRECT_FAULT);
    case FILL_CODE:
        space_code_written(r->s);
        return leave_saved(r, DIRECT_INTERP);
    case FILL_NEVER:
        return leave_saved(r, DIRECT_INTERP);
    case FILL_DEAD:
        r->s->dead = true;
        return leave_saved(r, DIRECT_INTERP);
    }
}

static void stop(struct run *r)
{
    const struct worker *w = &r->s->w;

    if (!w->entered)
        return;
    r->loaded = false;
    if (w->rest == REST_EXIT)
        return stop_exit(r);
    switch (w->signal) {
    case WORKER_KICK_SIGNAL: /* whoever kicked has set cpu.req, else it is an old one */
        return;
    case SIGTRAP:
        return stop_breakpoint(r);
    case SIGSEGV:
        if (w->uc->uc_mcontext.gregs[REG_TRAPNO] == TRAP_PF)
            return stop_page_fault(r);
        break;
    default:
        break;
    }
    /* #DE, #UD, #GP, #MF, #XM and so on: interp raises what the guest is to see. */
    leave_saved(r, DIRECT_INTERP);
}

/* A command of the view failed; the guest has not run. */
static void mend(struct run *r, int err)
{
    if (err == -EPIPE || err == -EPROTO)
        return lose(r, "died");
    /* Too many mappings, most likely. All goes; and if that fails, the worker. */
    if (view_drop(&r->s->view) < 0 || worker_sync(&r->s->w) < 0) {
        r->s->dead = true;
        leave_saved(r, DIRECT_INTERP);
    }
}

static enum direct_result run(struct run *r)
{
    (void)enter(r, false);
    while (r->go_on) {
        int rc;

        if (__atomic_load_n((uint32_t *)&r->c->req, __ATOMIC_SEQ_CST)) {
            leave_saved(r, DIRECT_KICKED);
            break;
        }
        rc = worker_go(&r->s->w);
        r->d->stats.nr_stops++;
        r->d->stats.ran += r->s->w.ran;
        if (rc < 0)
            mend(r, rc);
        else
            stop(r);
    }
    return r->result;
}

/* ---- the contract ---- */

static bool may_run(const struct direct *d)
{
    const struct vcpu *vc = &d->v->vc;
    const struct cpu *c = &vc->cpu;
    uint32_t mode = MODE_PE | MODE_LMA | MODE_CS64 | MODE_USER | MODE_PG;

    if ((c->mode & mode) != mode || (c->rflags & (RFLAGS_TF | RFLAGS_RF | RFLAGS_AC)))
        return false;
    /* CR0.TS, EM: every use of a vector register would have to raise #NM. */
    if ((c->cr0 & (CR0_TS | CR0_EM)) || !(c->cr4 & CR4_OSFXSR) || (c->cr4 & (CR4_LA57 | CR4_PKE)))
        return false;
    if (c->shadow_sti || c->shadow_movss || c->pending_dbg || (c->dr7 & 0xff) || vc->dbg.step ||
        vc->dbg.nr_bps)
        return false;
    return c->seg[SEG_FS].base < USER_TOP && c->seg[SEG_GS].base < USER_TOP;
}

enum direct_result direct_run(struct direct *d)
{
    struct run r = { .d = d, .c = &d->v->vc.cpu, .result = DIRECT_REFUSED };

    d->stats.nr_runs++;
    if (may_run(d))
        r.s = space_enter(d);
    if (r.s) {
        /* Pairs with the kicker's: it has set cpu.req, then reads this; we read cpu.req later. */
        atomic_store_explicit(&d->kick_pid, r.s->w.pid, memory_order_seq_cst);
        worker_scrub(&r.s->w); /* page tables' roots are used again by the guest's kernel */
        r.result = run(&r);
        atomic_store_explicit(&d->kick_pid, 0, memory_order_seq_cst);
    }
    d->stats.nr_result[r.result]++;
    return r.result;
}

void direct_kick(struct direct *d)
{
    int pid = atomic_load_explicit(&d->kick_pid, memory_order_seq_cst);

    if (pid)
        worker_kick(pid);
}

void direct_flush(struct direct *d, const struct tlb_flush *what)
{
    for (unsigned i = 0; i < NR_SPACES; i++) {
        struct space *s = d->spaces[i];
        bool by_pcid = what->kind == FLUSH_PCID || what->kind == FLUSH_PCID_PAGE;

        if (!s || (by_pcid && what->pcid != s->pcid))
            continue;
        if (what->kind != FLUSH_PAGE && what->kind != FLUSH_PCID_PAGE)
            s->flush_all = true;
        else if (what->at.v >= USER_TOP) /* never in a view */
            continue;
        else if (s->nr_flushes == NR_FLUSHES)
            s->flush_all = true;
        else
            s->flushes[s->nr_flushes++] = what->at.v;
    }
}

void direct_code_written(struct direct *d, gpa_t at, uint64_t bytes)
{
    for (unsigned i = 0; i < NR_SPACES; i++)
        if (d->spaces[i] && d->spaces[i]->w.hva)
            dcode_drop(&d->spaces[i]->code, at, bytes);
}

void direct_code_written_all(struct direct *d)
{
    for (unsigned i = 0; i < NR_SPACES; i++)
        if (d->spaces[i] && d->spaces[i]->w.hva)
            dcode_reset(&d->spaces[i]->code);
}

bool direct_has_code(const struct direct *d, uint64_t page)
{
    for (unsigned i = 0; i < NR_SPACES; i++)
        if (d->spaces[i] && d->spaces[i]->w.hva && dcode_has_page(&d->spaces[i]->code, page))
            return true;
    return false;
}

void direct_protect_page(struct direct *d, uint64_t page)
{
    for (unsigned i = 0; i < NR_SPACES; i++) {
        struct space *s = d->spaces[i];

        if (s && s->w.hva && view_protect(&s->view, page) < 0)
            s->dead = true;
    }
}

void direct_code_noted(struct direct *d, gpa_t at)
{
    direct_protect_page(d, at.v >> PAGE_SHIFT);
}

void direct_reset(struct direct *d)
{
    for (unsigned i = 0; i < NR_SPACES; i++)
        if (d->spaces[i])
            space_destroy(d, d->spaces[i]);
}

/* Only who ran since the last time can have waited more; what a worker that has ended waited last
 * is not told. */
uint64_t direct_waited_ns(struct direct *d)
{
    for (unsigned i = 0; i < NR_SPACES; i++) {
        struct space *s = d->spaces[i];
        uint64_t before;

        if (!s || s->last <= d->waited_at)
            continue;
        before = s->w.delay.last_ns;
        d->waited_ns += host_delay_ns(&s->w.delay) - before;
    }
    d->waited_at = d->nr_runs;
    return d->waited_ns;
}

const struct direct_stats *direct_stats(const struct direct *d)
{
    return &d->stats;
}

int direct_create(struct ivcpu *v, struct direct **out)
{
    struct direct *d = calloc(1, sizeof(*d));

    if (!d)
        return -ENOMEM;
    d->v = v;
    *out = d;
    return 0;
}

void direct_set_hints(struct direct *d, const struct direct_hints *hints)
{
    d->hints = hints;
}

void direct_destroy(struct direct *d)
{
    if (!d)
        return;
    direct_reset(d);
    direct_unbind(d);
    free(d);
}

/* Makes a worker, has it stop once in its code cache, and ends it. */
int direct_probe(char *why, size_t why_bytes)
{
    struct worker_desc desc = { 0 };
    struct worker w;
    int rc;

    for (unsigned n = 0; n < SPACE_NR_SLOTS; n++) {
        desc.home = SPACE_SLOT(n);
        if (worker_place_free(desc.home))
            break;
    }
    rc = worker_create(&w, &desc, why, why_bytes);
    if (rc < 0)
        return rc;
    w.hva[HOME_CODE] = 0xcc;
    w.uc->uc_mcontext.gregs[REG_RIP] = (greg_t)w.home + (greg_t)HOME_CODE;
    rc = worker_go(&w);
    if (!rc && (w.signal != SIGTRAP ||
                w.uc->uc_mcontext.gregs[REG_RIP] != (greg_t)w.home + (greg_t)HOME_CODE + 1))
        rc = -ENOTSUP;
    if (rc < 0)
        (void)snprintf(why, why_bytes, "a worker process does not stop as it should: %s",
                       strerror(-rc));
    worker_destroy(&w);
    return rc;
}
