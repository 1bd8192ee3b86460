/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What happens between instructions: requests of other threads, debug traps, NMIs and interrupts,
 * in the order of SDM 3, "Priority Among Concurrent Events".
 *
 * Shadows. The engine calls cpu_take_events() before an instruction whenever a shadow is set or
 * cpu_event_ready() says so. A shadow set by instruction N holds events back in the call before
 * N + 1, and that call clears it as it ends, so that the call before N + 2 does not see it. An
 * engine that runs several instructions between calls has to run N + 1 alone.
 */
#include "cpu/desc.h"

#include <stdatomic.h>

#define REQ_EVENTS (REQ_IRQ | REQ_NMI | REQ_INIT | REQ_SIPI | REQ_TIMER | REQ_SMI | REQ_KICK)
#define LOG_SMI    (0x5311ull << 40)

void cpu_post(struct cpu *c, uint32_t req)
{
    /* INIT ends what came before it, a start-up message too. */
    if (req & REQ_INIT)
        atomic_fetch_and(&c->req, ~REQ_SIPI);
    /* Pairs with the acquire in take_requests(): what the bit stands for was written before. And
     * kick() looks whether the vCPU sleeps only after this. */
    atomic_fetch_or(&c->req, req);
    atomic_store_explicit(&c->quiet, 0, memory_order_release);
    c->ops->kick(c);
}

/* Bits are cleared before their sources are looked at, so what comes later sets them again. STOP
 * and CODE are the engine's. */
static uint32_t take_requests(struct cpu *c)
{
    if (!(atomic_load_explicit(&c->req, memory_order_relaxed) & REQ_EVENTS))
        return 0;
    return atomic_fetch_and_explicit(&c->req, ~REQ_EVENTS, memory_order_acq_rel) & REQ_EVENTS;
}

/* SDM 3, "MP Initialization Protocol": real mode at vector * 4 KB. */
static void start_up(struct cpu *c)
{
    c->seg[SEG_CS].sel = (uint16_t)(c->sipi_vector << 8);
    c->seg[SEG_CS].base = (uint64_t)c->sipi_vector << PAGE_SHIFT;
    c->rip = 0;
    c->activity = CPU_RUNNING;
    cpu_update_mode(c);
}

void cpu_act_on_requests(struct cpu *c)
{
    uint32_t req = take_requests(c);

    if (!req)
        return;
    if (req & REQ_INIT)
        cpu_reset(c, RESET_INIT);
    if ((req & REQ_SIPI) && c->activity == CPU_WAIT_SIPI)
        start_up(c);
    /* SDM 3, "MP Initialization Protocol": who waits for SIPI hears nothing else. */
    if ((req & REQ_NMI) && c->activity != CPU_WAIT_SIPI)
        c->nmi_pending = true;
    if (req & REQ_TIMER) {
        pv_steal_update(c);
        apic_timer_expired(c);
    }
    if (req & (REQ_IRQ | REQ_TIMER))
        apic_sync(c);
    if (req & REQ_KICK)
        pv_kick(c);
    if ((req & REQ_SMI) && log_first(c->seen, LOG_SMI))
        log_warn("guest: system management interrupt ignored: there is no system management mode");
}

static bool extint_ready(struct cpu *c)
{
    return apic_accepts_extint(c) && c->ops->pic_pending(c);
}

/* SDM 3, "VIF and VIP": both set where they are in use raise #GP as an instruction begins. */
static bool virtual_interrupt_due(const struct cpu *c)
{
    if ((c->rflags & (RFLAGS_VIF | RFLAGS_VIP)) != (RFLAGS_VIF | RFLAGS_VIP) || iopl(c) == 3)
        return false;
    if (c->mode & MODE_VM86)
        return c->cr4 & CR4_VME;
    return in_protected(c) && c->cpl == 3 && (c->cr4 & CR4_PVI);
}

bool cpu_event_ready(struct cpu *c)
{
    if (atomic_load_explicit(&c->req, memory_order_relaxed) & REQ_EVENTS)
        return true;
    if (c->shadow_movss || c->activity == CPU_WAIT_SIPI || c->activity == CPU_SHUTDOWN)
        return false;
    if (c->pending_dbg || (c->nmi_pending && !c->nmi_blocked) || virtual_interrupt_due(c))
        return true;
    if (!(c->rflags & RFLAGS_IF) || c->shadow_sti)
        return false;
    return cpu_interrupt_waits(c);
}

bool cpu_interrupt_waits(struct cpu *c)
{
    return (apic_has_irr(c) && apic_pending_vector(c) >= 0) || extint_ready(c);
}

static enum step interrupt(struct cpu *c, uint8_t vector)
{
    return event_deliver(c, &(struct event){ .vector = vector, .kind = EVENT_EXT_INT });
}

enum step cpu_inject(struct cpu *c, uint8_t vector, enum event_kind kind)
{
    if (kind == EVENT_NMI)
        c->nmi_blocked = true;
    return event_deliver(c, &(struct event){ .vector = vector, .kind = kind });
}

static enum step take_one(struct cpu *c)
{
    if (c->shadow_movss)
        return STEP_NEXT;
    if (c->pending_dbg) {
        uint64_t dr6 = c->pending_dbg;

        c->pending_dbg = 0;
        return event_debug_trap(c, dr6);
    }
    if (c->nmi_pending && !c->nmi_blocked) {
        c->nmi_pending = false;
        c->nmi_blocked = true;
        return event_deliver(c, &(struct event){ .vector = VEC_NMI, .kind = EVENT_NMI });
    }
    if ((c->rflags & RFLAGS_IF) && !c->shadow_sti) {
        if (extint_ready(c))
            return interrupt(c, c->ops->pic_ack(c));
        if (apic_has_irr(c) && apic_pending_vector(c) >= 0)
            return interrupt(c, apic_ack(c));
    }
    if (virtual_interrupt_due(c) && c->activity == CPU_RUNNING) {
        (void)!raise_gp(c, 0);
        return cpu_deliver(c);
    }
    return STEP_NEXT;
}

enum step cpu_take_events(struct cpu *c)
{
    enum step st;

    cpu_act_on_requests(c);
    if (c->activity == CPU_SHUTDOWN)
        return STEP_EXIT;
    if (c->activity == CPU_WAIT_SIPI)
        return STEP_NEXT;
    st = take_one(c);
    c->shadow_sti = c->shadow_movss = false;
    return st;
}
