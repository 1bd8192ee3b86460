/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reference engine: its run loop, debugging, and the engine contract.
 *
 * The loop runs between blocks only. There it looks at requests and events, decides whether the
 * next instruction has to run alone (single step, shadows, watchpoints, breakpoints, self-modifying
 * code), and else runs a block.
 */
#include "engine/interp/handlers.h"
#include "engine/interp/share.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/trace.h"

/* ---- running ---- */

static void enter_page(struct ivcpu *v, uint64_t rip, uint64_t lin)
{
    CPU(v)->gpr[SLOT_PAGE / 8] = rip - lin % PAGE_BYTES;
}

static uint64_t linear_rip(const struct cpu *c)
{
    return c->mode & MODE_CS64 ? c->rip : (uint32_t)(c->rip + c->seg[SEG_CS].base);
}

bool interp_serve(struct ivcpu *v, enum run_result *res)
{
    struct cpu *c = CPU(v);
    uint32_t req = __atomic_load_n((uint32_t *)&c->req, __ATOMIC_ACQUIRE);
    uint64_t rip = c->rip;

    if (req & REQ_STOP) {
        __atomic_fetch_and((uint32_t *)&c->req, ~REQ_STOP, __ATOMIC_ACQ_REL);
        *res = RUN_STOPPED;
        return false;
    }
    if (req & REQ_CODE) {
        __atomic_fetch_and((uint32_t *)&c->req, ~REQ_CODE, __ATOMIC_ACQ_REL);
        code_drop_written(v);
    }
    if (req)
        v->vc.nr_exits[EXIT_REQUEST]++;
    /* A debugger's step goes to the next instruction, not into an interrupt's handler. */
    if (v->vc.dbg.step && c->activity == CPU_RUNNING && !c->pending_dbg) {
        c->shadow_sti = c->shadow_movss = false;
        return true;
    }
    if (cpu_take_events(c) != STEP_NEXT || c->activity == CPU_SHUTDOWN) {
        v->vc.nr_exits[EXIT_TRIPLE]++;
        *res = RUN_SHUTDOWN;
        return false;
    }
    if (c->rip != rip)
        v->vc.nr_exits[EXIT_IRQ]++;
    return true;
}

/* Stop for the debugger. Returns false, as its callers do then. */
static bool debug_stop(struct ivcpu *v, gva_t at, enum run_result *res)
{
    v->vc.dbg_hit = at;
    v->vc.dbg_hit_acc = ACC_EXEC;
    v->dbg_resume = true;
    v->vc.nr_exits[EXIT_DEBUG]++;
    *res = RUN_DEBUG;
    return false;
}

bool interp_deliver(struct ivcpu *v, enum run_result *res)
{
    struct cpu *c = CPU(v);

    v->vc.nr_exits[EXIT_EXCEPTION]++;
    /* What the instruction, or a MOV SS before it, would have trapped for is lost with a fault (SDM
     * 3, "Delivery of Pending Debug Exceptions after VM Entry"), and found again if it is
     * restarted. */
    c->pending_dbg = 0;
    v->dbg_stop = false;
    trace(v->vm->evm.cfg.trace, EXC, "vcpu%u exception %u error %#x address %#llx at %#x:%#llx",
          c->id, c->exc.vector, c->exc.err, (unsigned long long)c->exc.addr, c->seg[SEG_CS].sel,
          (unsigned long long)c->rip);
    if (cpu_deliver(c) == STEP_NEXT && c->activity != CPU_SHUTDOWN)
        return !v->vc.dbg.step || debug_stop(v, GVA(c->rip), res);
    v->vc.nr_exits[EXIT_TRIPLE]++;
    *res = RUN_SHUTDOWN;
    return false;
}

/* Is there an instruction breakpoint at RIP? The debugger's stop before the guest sees anything. */
static bool at_breakpoint(struct ivcpu *v, enum run_result *res, bool *fault)
{
    struct cpu *c = CPU(v);
    gva_t at = GVA(linear_rip(c));
    uint64_t hit;

    *fault = false;
    for (unsigned i = 0; i < v->vc.dbg.nr_bps && !v->dbg_resume; i++)
        if (v->vc.dbg.bps[i].acc == ACC_EXEC && v->vc.dbg.bps[i].at.v == at.v)
            return !debug_stop(v, at, res);
    /* RF suppresses instruction breakpoints for one instruction (SDM 3, "Instruction-Breakpoint
     * Exception Condition"). */
    if ((c->dr7 & 0xff) && !(c->rflags & RFLAGS_RF)) {
        hit = cpu_match_bp(c, at, 1, ACC_EXEC);
        if (hit) {
            (void)!raise_db(c, hit);
            *fault = true;
        }
    }
    return false;
}

/* Drops all native stubs of this vCPU and the decoded code that points to them. */
static void make_native_room(struct ivcpu *v)
{
    code_drop_all(v);
    block_bury(v);
    memset(v->crosses, 0, sizeof(v->crosses));
    native_cache_reset(v->native);
}

/*
 * TF at the start of an instruction traces it (SDM 3, "Single-Step Exception Condition"), but for
 * those that clear TF on the way into a handler.
 */
static bool enters_untraced(const struct cpu *c, const struct op *op)
{
    if (c->rflags & RFLAGS_TF)
        return false;
    return op->fn == op_int || op->fn == op_int3 || op->fn == op_into || op->fn == op_int1 ||
           op->fn == op_syscall;
}

bool interp_step(struct ivcpu *v, enum run_result *res)
{
    struct cpu *c = CPU(v);
    bool tf = c->rflags & RFLAGS_TF, fault;
    uint64_t rf = c->rflags & RFLAGS_RF;
    const struct op *op;

    v->wait_step = false;
    if (v->code_bps) {
        if (at_breakpoint(v, res, &fault))
            return false;
        v->dbg_resume = false;
        if (fault)
            return interp_deliver(v, res);
    }
    enter_page(v, c->rip, linear_rip(c));
    op = step_decode(v);
    if (op && op->fn == op_native_full) {
        make_native_room(v);
        op = step_decode(v);
    }
    if (op) {
        v->stepping = true;
        v->one_rep = tf || c->pending_dbg || v->vc.dbg.step || v->code_bps || v->watching;
        v->again = false;
        v->cur = NULL;
        v->vc.nr_insns++;
        run_ops(v, op);
        v->stepping = v->one_rep = false;
        (void)share_stored(v);
    }
    if (v->leave == LEAVE_FAULT) {
        v->vc.nr_insns -= op != NULL;
        return interp_deliver(v, res);
    }
    if (v->leave == LEAVE_EXIT) {
        v->vc.nr_insns -= op != NULL;
        *res = RUN_SHUTDOWN;
        return false;
    }
    v->vc.nr_insns -= v->again; /* one repetition is no instruction */
    /* RF goes once an instruction has completed, all its repetitions too, unless it was IRET that
     * set it. */
    if (rf && op && op->fn != op_iret && !v->again)
        c->rflags &= ~(uint64_t)RFLAGS_RF;
    /* Behind MOV SS there is no single step at all (SDM 3, "Masking Exceptions and Interrupts When
     * Switching Stacks"). */
    if (tf && op && !c->shadow_movss && !enters_untraced(c, op))
        c->pending_dbg |= DR6_BS;
    if (v->dbg_stop) { /* a watchpoint: dbg_hit tells which */
        v->dbg_stop = false;
        v->dbg_resume = true;
        v->vc.nr_exits[EXIT_DEBUG]++;
        *res = RUN_DEBUG;
        return false;
    }
    if (v->vc.dbg.step)
        return debug_stop(v, GVA(c->rip), res);
    return true;
}

/* Blocks do not leave their page, so only code in a page with a breakpoint has to be looked at one
 * by one. */
static bool code_bp_near(const struct ivcpu *v)
{
    uint64_t page = linear_rip(&v->vc.cpu) & PAGE_MASK;

    for (unsigned i = 0; i < v->vc.dbg.nr_bps; i++)
        if (v->vc.dbg.bps[i].acc == ACC_EXEC && (v->vc.dbg.bps[i].at.v & PAGE_MASK) == page)
            return true;
    return (v->vc.cpu.dr7 & 0xff) && cpu_bp_in_page(&v->vc.cpu, GVA(page), true);
}

bool interp_must_step(const struct ivcpu *v)
{
    const struct cpu *c = &v->vc.cpu;

    return v->wait_step || (c->rflags & (RFLAGS_TF | RFLAGS_RF)) || c->shadow_sti ||
           c->shadow_movss || v->vc.dbg.step || (unlikely(v->code_bps) && code_bp_near(v));
}

static struct block *next_block(struct ivcpu *v)
{
    struct cpu *c = CPU(v);
    uint32_t key = v->key | (c->mode & MODE_USER);
    struct jump *j = &v->jumps[(c->rip ^ c->rip >> 12) & (JUMP_CACHE - 1)];
    struct block *b;

    /* Outside flat code the limit and base have to be looked at each time. */
    if (likely(j->rip == c->rip && j->gen == v->jump_gen && j->key == key && (key & KEY_FLAT_CS)))
        return j->block;
    b = block_find(v);
    if (b)
        *j = (struct jump){ .rip = c->rip, .block = b, .key = key, .gen = v->jump_gen };
    return b;
}

bool interp_run_block(struct ivcpu *v, enum run_result *res)
{
    struct cpu *c = CPU(v);
    struct block **link = v->link, *b;

    v->dbg_resume = false; /* we have left the breakpoint */
    b = next_block(v);
    if (unlikely(!b)) {
        v->link = NULL;
        if (v->leave == LEAVE_FAULT)
            return interp_deliver(v, res);
        v->wait_step = true;
        return true;
    }
    if (unlikely(b->nr_insns > v->room)) {
        v->room = 0;
        v->wait_step = true;
        return true;
    }
    /* v->link was cleared if code was dropped since it was set. */
    if (link && v->link == link)
        *link = b;
    v->link = NULL;
    enter_page(v, c->rip, b->gpa);
    v->cur = b;
    v->vc.nr_insns += b->nr_insns;
    v->in_block = true;
    run_ops(v, b->ops);
    v->in_block = false;
    if (unlikely(v->graveyard)) {
        v->link = NULL; /* may point into one of them */
        block_bury(v);
    }
    switch (v->leave) {
    case LEAVE_FAULT:
        return interp_deliver(v, res);
    case LEAVE_STEP:
        v->wait_step = true;
        return true;
    case LEAVE_EXIT:
        *res = RUN_SHUTDOWN;
        return false;
    default:
        return true;
    }
}

static ALWAYS_INLINE bool must_serve(struct cpu *c)
{
    return c->req || c->pending_dbg || c->shadow_sti || c->shadow_movss ||
           c->activity != CPU_RUNNING || cpu_event_ready(c);
}

/* False: run() returns *res. */
static bool serve_or_halt(struct ivcpu *v, enum run_result *res)
{
    const struct cpu *c = CPU(v);

    /* What a shadow holds back is due after one instruction, not after a block. */
    v->wait_step |= c->shadow_sti || c->shadow_movss;
    v->link = NULL;
    if (!interp_serve(v, res))
        return false;
    if (c->activity != CPU_HALTED && c->activity != CPU_WAIT_SIPI)
        return true;
    v->vc.nr_exits[EXIT_HLT]++;
    *res = RUN_HALTED;
    return false;
}

/* Events that came due on the way to an exact limit wait. False: the vCPU does, too. */
static bool hold_events(struct ivcpu *v)
{
    struct cpu *c = CPU(v);

    if (__atomic_load_n((uint32_t *)&c->req, __ATOMIC_ACQUIRE) & REQ_CODE) {
        __atomic_fetch_and((uint32_t *)&c->req, ~REQ_CODE, __ATOMIC_ACQ_REL);
        code_drop_written(v);
    }
    v->wait_step |= c->shadow_sti || c->shadow_movss;
    c->shadow_sti = c->shadow_movss = false;
    return c->activity == CPU_RUNNING;
}

enum run_result interp_run_limited(struct ivcpu *v,
                                   bool (*block)(struct ivcpu *v, enum run_result *res))
{
    struct vcpu *vc = &v->vc;
    uint64_t from = vcpu_steps(vc), done;
    enum run_result res = RUN_STOPPED;

    if (v->room == UINT64_MAX)
        code_drop_all(v); /* chains of earlier runs */
    v->room = vc->run_limit;
    if (must_serve(CPU(v)) && !serve_or_halt(v, &res))
        return res;
    while ((done = vcpu_steps(vc) - from) < vc->run_limit) {
        bool due = done && must_serve(CPU(v)), full = !v->room;

        /* An instruction that has to run alone may be a repeated one, half done. */
        if (done && !vc->run_exact && (v->wait_step ? full : due))
            return RUN_LIMIT;
        v->room = vc->run_limit - done;
        v->link = NULL;
        if (v->graveyard)
            block_bury(v);
        if (due && !hold_events(v))
            return RUN_HALTED;
        tlb_set_view(v);
        v->key = block_key(CPU(v));
        if (interp_must_step(v) ? !interp_step(v, &res) : !block(v, &res))
            return res;
    }
    return RUN_LIMIT;
}

static enum run_result interp_run(struct vcpu *vc)
{
    struct ivcpu *v = container_of(vc, struct ivcpu, vc);
    struct cpu *c = CPU(v);
    enum run_result res = RUN_STOPPED;

    if (vc->run_limit)
        return interp_run_limited(v, interp_run_block);
    v->room = UINT64_MAX;
    for (;;) {
        if (must_serve(c) && !serve_or_halt(v, &res))
            return res;
        tlb_set_view(v);
        v->key = block_key(c);
        if (unlikely(interp_must_step(v))) {
            v->link = NULL;
            if (!interp_step(v, &res))
                return res;
            if (v->graveyard)
                block_bury(v);
        } else if (!interp_run_block(v, &res)) {
            return res;
        }
    }
}

/* ---- the contract ---- */

static int interp_probe(char *why, size_t why_bytes)
{
    (void)why, (void)why_bytes;
    return 0; /* plain C on an x86-64 host */
}

int interp_vm_init(struct interp_vm *vm, const struct engine_config *cfg)
{
    vm->evm.cfg = *cfg;
    if (cfg->model->nr_cpus > 1) {
        vm->share = share_create(vm);
        if (!vm->share)
            return -ENOMEM;
    }
    lock_init(&vm->lock, LOCK_CODE);
    lock_init(&vm->split_lock, LOCK_SPLIT);
    vm->listener.written = code_listen;
    mmu_listen(cfg->mmu, &vm->listener);
    return 0;
}

static int interp_vm_create(const struct engine_config *cfg, struct engine_vm **out)
{
    struct interp_vm *vm = calloc(1, sizeof(*vm));
    int rc;

    if (!vm)
        return -ENOMEM;
    vm->evm.ops = &interp_engine;
    rc = interp_vm_init(vm, cfg);
    if (rc < 0) {
        free(vm);
        return rc;
    }
    *out = &vm->evm;
    return 0;
}

void interp_vm_fini(struct interp_vm *vm)
{
    mmu_unlisten(vm->evm.cfg.mmu, &vm->listener);
    share_destroy(vm->share);
    lock_destroy(&vm->lock);
    lock_destroy(&vm->split_lock);
}

static void interp_vm_destroy(struct engine_vm *evm)
{
    struct interp_vm *vm = container_of(evm, struct interp_vm, evm);

    interp_vm_fini(vm);
    free(vm);
}

int interp_vcpu_init(struct interp_vm *vm, struct ivcpu *v, uint32_t id)
{
    int rc = native_cache_create(&v->native);

    if (rc < 0)
        return rc;
    v->vm = vm;
    v->vc.engine = vm->evm.ops;
    v->vc.evm = &vm->evm;
    v->vc.cpu.id = id;
    v->vc.cpu.model = vm->evm.cfg.model;
    v->vc.cpu.ops = &interp_cpu_ops;
    v->vc.cpu.seen = vm->evm.cfg.seen;
    v->jump_gen = 1;
    v->room = UINT64_MAX;
    tlb_init(v);
    tlb_set_view(v);
    cpu_reset(&v->vc.cpu, RESET_POWER_ON);
    lock_take(&vm->lock);
    v->next = vm->vcpus;
    vm->vcpus = v;
    lock_drop(&vm->lock);
    return 0;
}

static int interp_vcpu_create(struct engine_vm *evm, uint32_t id, struct vcpu **out)
{
    struct ivcpu *v = host_pages(sizeof(*v));
    int rc;

    if (!v)
        return -ENOMEM;
    rc = interp_vcpu_init(container_of(evm, struct interp_vm, evm), v, id);
    if (rc < 0) {
        host_unmap(v, sizeof(*v));
        return rc;
    }
    *out = &v->vc;
    return 0;
}

void interp_vcpu_fini(struct ivcpu *v)
{
    struct ivcpu **p;

    lock_take(&v->vm->lock);
    for (p = &v->vm->vcpus; *p != v; p = &(*p)->next)
        ;
    *p = v->next;
    lock_drop(&v->vm->lock);
    code_drop_all(v);
    block_bury(v);
    native_cache_destroy(v->native);
}

static void interp_vcpu_destroy(struct vcpu *vc)
{
    struct ivcpu *v = container_of(vc, struct ivcpu, vc);

    interp_vcpu_fini(v);
    host_unmap(v, sizeof(*v));
}

void interp_state_changed(struct vcpu *vc)
{
    struct ivcpu *v = container_of(vc, struct ivcpu, vc);

    cpu_update_mode(&vc->cpu);
    tlb_flush_all(v);
    v->link = NULL;
    interp_debug_update(vc);
}

void interp_debug_update(struct vcpu *vc)
{
    struct ivcpu *v = container_of(vc, struct ivcpu, vc);
    const struct cpu *c = &vc->cpu;

    v->watching = v->code_bps = false;
    for (unsigned i = 0; i < vc->dbg.nr_bps; i++)
        *(vc->dbg.bps[i].acc == ACC_EXEC ? &v->code_bps : &v->watching) = true;
    for (unsigned i = 0; i < 4; i++) {
        if (!(c->dr7 >> (2 * i) & 3))
            continue;
        *((c->dr7 >> (16 + 4 * i) & 3) == 0 ? &v->code_bps : &v->watching) = true;
    }
    /* Pages that are watched lose their tags, pages that no longer are may get them. */
    tlb_flush_all(v);
    if (v->hooks && v->hooks->debug_changed)
        v->hooks->debug_changed(v);
}

/* Page by page through the guest's tables. */
static uint64_t guest_copy(struct vcpu *vc, gva_t at, void *buf, const void *from, uint64_t bytes)
{
    struct mmu *m = vc->evm->cfg.mmu;
    uint64_t done = 0;

    while (done < bytes) {
        uint64_t n = MIN(bytes - done, PAGE_BYTES - (at.v + done) % PAGE_BYTES), got;
        gpa_t pa;

        if (!cpu_peek_walk(&vc->cpu, gva_add(at, done), &pa))
            break;
        got = from ? mmu_write(m, pa, (const uint8_t *)from + done, n)
                   : mmu_read(m, pa, (uint8_t *)buf + done, n);
        done += got;
        if (got < n)
            break;
    }
    return done;
}

uint64_t interp_peek(struct vcpu *vc, gva_t at, void *buf, uint64_t bytes)
{
    return guest_copy(vc, at, buf, NULL, bytes);
}

uint64_t interp_poke(struct vcpu *vc, gva_t at, const void *buf, uint64_t bytes)
{
    return guest_copy(vc, at, NULL, buf, bytes);
}

const struct engine_ops interp_engine = {
    .name = "interp",
    .about = "interpreter: the reference, runs on any x86-64 host",
    .counts_steps = true,
    .probe = interp_probe,
    .vm_create = interp_vm_create,
    .vm_destroy = interp_vm_destroy,
    .vcpu_create = interp_vcpu_create,
    .vcpu_destroy = interp_vcpu_destroy,
    .run = interp_run,
    .state_changed = interp_state_changed,
    .debug_update = interp_debug_update,
    .peek = interp_peek,
    .poke = interp_poke,
};
