/* SPDX-License-Identifier: Apache-2.0 */
/* struct cpu_ops: what the semantic core asks of interp and, through it, of the machine. */
#include "engine/interp/share.h"
#include "engine/interp/tlb.h"

#include <string.h>

static struct ivcpu *of_cpu(struct cpu *c)
{
    return container_of(c, struct ivcpu, vc.cpu);
}

/* Where an access that stays in a page with the right tag goes: NULL if there is more to it. */
static ALWAYS_INLINE void *core_hit(struct cpu *c, gva_t at, unsigned bytes, unsigned acc)
{
    const struct tlb *t = &of_cpu(c)->views[tlb_view_of(c, acc)];

    return bytes <= PAGE_BYTES &&
                   (acc & ACC_WRITE ? TLB_HIT(t, w, at.v, bytes) : TLB_HIT(t, r, at.v, bytes))
               ? (void *)TLB_HVA(t, at.v)
               : NULL;
}

/* A store of up to a page to code. With several vCPUs share_stored() comes after it. */
static void before_store(struct ivcpu *v, gpa_t at, unsigned bytes)
{
    if (!v->vm->share) {
        (void)code_stored(v, at, bytes);
        return;
    }
    if (v->nr_stored > ARRAY_SIZE(v->stored) - 2)
        (void)share_stored(v);
    share_will_store(v, at, bytes);
}

/* Linear addresses have 32 bits but in 64-bit code (seen in compatibility mode, too) and where the
 * processor itself reads its tables in IA-32e mode. */
static bool is_narrow(const struct cpu *c, unsigned acc)
{
    return !(c->mode & MODE_LMA) || !(c->mode & MODE_CS64 || acc & (ACC_IMPLICIT | ACC_SUPER));
}

/* What an instruction itself accesses may be watched; what brings it to a handler is not. */
static enum step core_watch(struct ivcpu *v, uint64_t lin, unsigned bytes, unsigned acc, bool probe)
{
    if (likely(!v->watching) || (acc & ACC_IMPLICIT) || !(v->stepping || v->in_block))
        return STEP_NEXT;
    return watch_access(v, lin, bytes, acc, probe);
}

/* A device has each piece in one access, as large as it can be naturally aligned. */
static void device_access(struct ivcpu *v, gpa_t at, uint8_t *buf, const uint8_t *from,
                          unsigned bytes)
{
    for (unsigned done = 0, n; done < bytes; done += n) {
        gpa_t piece = gpa_add(at, done);
        uint64_t x = 0;

        for (n = 8; piece.v % n || n > bytes - done; n /= 2)
            ;
        if (buf) {
            x = interp_mmio_read(v, piece, n);
            memcpy(buf + done, &x, n);
        } else {
            memcpy(&x, from + done, n);
            interp_mmio_write(v, piece, n, x);
        }
    }
}

/* Any length, page by page; all pages are checked before the first byte moves. */
static enum step core_access(struct cpu *c, gva_t at, void *buf, const void *from, unsigned bytes,
                             unsigned acc)
{
    struct ivcpu *v = of_cpu(c);
    bool narrow = is_narrow(c, acc);
    unsigned done, n;
    struct span s;

    for (done = 0; done < bytes; done += n) {
        uint64_t lin = at.v + done;
        enum step st;

        if (narrow)
            lin = (uint32_t)lin;
        else if (!is_canonical(c, lin))
            return raise_gp(c, 0);
        n = (unsigned)MIN(bytes - done, PAGE_BYTES - lin % PAGE_BYTES);
        st = core_watch(v, lin, n, acc, !buf && !from);
        if (st == STEP_NEXT)
            st = span_find(v, lin, acc, &s);
        if (st != STEP_NEXT)
            return st;
        if (n == bytes)
            break; /* one page: no second round */
    }
    for (done = 0; done < bytes && (buf || from); done += n) {
        uint64_t lin = at.v + done;

        if (narrow)
            lin = (uint32_t)lin;
        n = (unsigned)MIN(bytes - done, PAGE_BYTES - lin % PAGE_BYTES);
        if (n != bytes && span_find(v, lin, acc, &s) != STEP_NEXT)
            return STEP_FAULT;
        if (from && s.slot && s.hva && s.code)
            before_store(v, s.at, n);
        if (s.hva && buf)
            copy_words((uint8_t *)buf + done, s.hva, n);
        else if (s.hva)
            copy_words(s.hva, (const uint8_t *)from + done, n);
        else
            device_access(v, s.at, buf ? (uint8_t *)buf + done : NULL,
                          buf ? NULL : (const uint8_t *)from + done, n);
    }
    (void)share_stored(v);
    return STEP_NEXT;
}

static enum step core_read(struct cpu *c, gva_t at, void *buf, unsigned bytes, unsigned acc)
{
    const void *p = core_hit(c, at, bytes, acc & ~ACC_WRITE);

    if (!p)
        return core_access(c, at, buf, NULL, bytes, acc & ~ACC_WRITE);
    copy_words(buf, p, bytes);
    return STEP_NEXT;
}

static enum step core_write(struct cpu *c, gva_t at, const void *buf, unsigned bytes, unsigned acc)
{
    void *p = core_hit(c, at, bytes, acc | ACC_WRITE);

    if (!p)
        return core_access(c, at, NULL, buf, bytes, acc | ACC_WRITE);
    copy_words(p, buf, bytes);
    return STEP_NEXT;
}

static enum step core_probe(struct cpu *c, gva_t at, unsigned bytes, unsigned acc)
{
    return core_access(c, at, NULL, NULL, bytes, acc);
}

static enum step core_rmw8(struct cpu *c, gva_t at, uint8_t and_mask, uint8_t or_mask, unsigned acc)
{
    struct ivcpu *v = of_cpu(c);
    struct span s;
    enum step st = span_find(v, at.v, acc | ACC_WRITE, &s);
    uint8_t old;

    if (st != STEP_NEXT || !s.hva)
        return st;
    if (s.slot && s.code)
        before_store(v, s.at, 1);
    old = __atomic_load_n(s.hva, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(s.hva, &old, (uint8_t)((old & and_mask) | or_mask), false,
                                        __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
        ;
    (void)share_stored(v);
    return STEP_NEXT;
}

static void *phys_ptr(struct cpu *c, gpa_t at, unsigned bytes, struct slot **slot)
{
    *slot = mmu_slot_find(of_cpu(c)->vm->evm.cfg.mmu, at);
    if (!*slot || at.v - (*slot)->base.v + bytes > (*slot)->bytes)
        return NULL;
    return slot_hva(*slot, at);
}

static uint64_t core_phys_read(struct cpu *c, gpa_t at, unsigned bytes)
{
    struct slot *slot;
    void *p = phys_ptr(c, at, bytes, &slot);

    if (!p)
        return low_bytes(~0ull, bytes);
    return bytes == 8 ? __atomic_load_n((alias64 *)p, __ATOMIC_RELAXED)
                      : __atomic_load_n((alias32 *)p, __ATOMIC_RELAXED);
}

static bool phys_swap(void *p, uint64_t old, uint64_t val, unsigned bytes)
{
    uint32_t old32 = (uint32_t)old;

    if (bytes == 8)
        return __atomic_compare_exchange_n((alias64 *)p, &old, val, false, __ATOMIC_SEQ_CST,
                                           __ATOMIC_RELAXED);
    return __atomic_compare_exchange_n((alias32 *)p, &old32, (uint32_t)val, false, __ATOMIC_SEQ_CST,
                                       __ATOMIC_RELAXED);
}

static bool core_phys_cas(struct cpu *c, gpa_t at, uint64_t old, uint64_t val, unsigned bytes)
{
    struct ivcpu *v = of_cpu(c);
    struct slot *slot;
    void *p = phys_ptr(c, at, bytes, &slot);
    bool done;

    if (!p || (slot->flags & SLOT_RO))
        return true; /* page tables outside RAM keep no accessed bits */
    if (!page_claim_write(v, slot, at))
        before_store(v, at, bytes);
    if (slot->flags & SLOT_LOG_DIRTY)
        slot->notes[slot_page(slot, at)] |= PAGE_NOTE_DIRTY;
    done = phys_swap(p, old, val, bytes);
    (void)share_stored(v);
    return done;
}

/* The TLB has the present PCID's entries; those of others are put aside, and go as a whole. */
static void core_tlb_flush(struct cpu *c, const struct tlb_flush *what)
{
    struct ivcpu *v = of_cpu(c);
    bool other = (what->kind == FLUSH_PCID || what->kind == FLUSH_PCID_PAGE) &&
                 (c->cr4 & CR4_PCIDE) && what->pcid != (c->cr3 & CR3_PCID_MASK);

    if (v->hooks)
        v->hooks->tlb_flush(v, what);
    if (what->kind == FLUSH_NONGLOBAL)
        pcid_forget_all(v);
    else if (what->kind == FLUSH_PCID || what->kind == FLUSH_PCID_PAGE)
        pcid_forget(v, what->pcid);
    if (other)
        return;
    switch (what->kind) {
    case FLUSH_ALL:
        tlb_flush_all(v);
        break;
    case FLUSH_NONGLOBAL:
    case FLUSH_PCID:
        tlb_flush_nonglobal(v);
        break;
    default:
        tlb_flush_page(v, what->at.v);
        break;
    }
}

static void core_debug_changed(struct cpu *c)
{
    struct ivcpu *v = of_cpu(c);

    interp_debug_update(&v->vc);
}

static void core_kick(struct cpu *c) /* any thread: no business of go_outside() */
{
    const struct ivcpu_hooks *hooks = of_cpu(c)->hooks;

    /* Pairs with run_sleep(): the bit in c->req was set by a locked instruction before. */
    if (__atomic_load_n((uint32_t *)&c->asleep, __ATOMIC_SEQ_CST))
        host_futex_wake(&c->req);
    if (hooks)
        hooks->kick(of_cpu(c));
}

#define FORWARD(c) const struct engine_config *cfg = &of_cpu(c)->vm->evm.cfg

static uint64_t core_tsc(struct cpu *c)
{
    FORWARD(c);
    return cfg->time_ops->tsc(cfg->ctx);
}

static uint64_t core_now_ns(struct cpu *c)
{
    FORWARD(c);
    return cfg->time_ops->now_ns(cfg->ctx);
}

static uint64_t core_tsc_to_ns(struct cpu *c, uint64_t tsc)
{
    FORWARD(c);
    return cfg->time_ops->tsc_to_ns(cfg->ctx, tsc);
}

static uint64_t core_real_ns(struct cpu *c)
{
    FORWARD(c);
    go_outside(of_cpu(c));
    return cfg->time_ops->real_ns(cfg->ctx);
}

static uint64_t core_steal_ns(struct cpu *c)
{
    struct ivcpu *v = of_cpu(c);
    uint64_t ns;

    FORWARD(c);
    go_outside(v);
    ns = cfg->time_ops->steal_ns(cfg->ctx, c->id);
    return v->hooks ? v->hooks->steal_ns(v, ns) : ns;
}

static void core_pv_msr(struct cpu *c, uint32_t msr)
{
    struct ivcpu *v = of_cpu(c);

    if (!v->hooks || !v->hooks->pv_msr)
        return;
    go_outside(v);
    v->hooks->pv_msr(v, msr);
}

static void core_apic_timer(struct cpu *c, uint64_t deadline_ns)
{
    FORWARD(c);
    go_outside(of_cpu(c));
    cfg->time_ops->apic_timer(cfg->ctx, c->id, deadline_ns);
}

static void core_apic_send(struct cpu *c, const struct apic_msg *msg)
{
    FORWARD(c);
    go_outside(of_cpu(c));
    cfg->time_ops->apic_send(cfg->ctx, c->id, msg);
}

static void core_apic_eoi(struct cpu *c, uint8_t vector)
{
    FORWARD(c);
    go_outside(of_cpu(c));
    cfg->time_ops->apic_eoi(cfg->ctx, c->id, vector);
}

static bool core_pic_pending(struct cpu *c)
{
    FORWARD(c);
    return cfg->time_ops->pic_pending(cfg->ctx);
}

static uint8_t core_pic_ack(struct cpu *c)
{
    FORWARD(c);
    go_outside(of_cpu(c));
    return cfg->time_ops->pic_ack(cfg->ctx);
}

static void core_ferr(struct cpu *c)
{
    FORWARD(c);
    go_outside(of_cpu(c));
    cfg->time_ops->ferr(cfg->ctx);
}

const struct cpu_ops interp_cpu_ops = {
    .read = core_read,
    .write = core_write,
    .probe = core_probe,
    .rmw8 = core_rmw8,
    .phys_read = core_phys_read,
    .phys_cas = core_phys_cas,
    .tlb_flush = core_tlb_flush,
    .debug_changed = core_debug_changed,
    .kick = core_kick,
    .tsc = core_tsc,
    .now_ns = core_now_ns,
    .tsc_to_ns = core_tsc_to_ns,
    .real_ns = core_real_ns,
    .steal_ns = core_steal_ns,
    .pv_msr = core_pv_msr,
    .apic_timer = core_apic_timer,
    .apic_send = core_apic_send,
    .apic_eoi = core_apic_eoi,
    .pic_pending = core_pic_pending,
    .pic_ack = core_pic_ack,
    .ferr = core_ferr,
};
