/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages between APICs: who is addressed (SDM 3, "Determining IPI Destination"), what accepting
 * one means, and sending by the interrupt command register (SDM 3, "Interrupt Command Register").
 */
#include "cpu/apic_impl.h"

#define ICR_VECTOR(v)    ((uint8_t)(v))
#define ICR_MODE(v)      ((enum apic_delivery)((v) >> 8 & 7))
#define ICR_LOGICAL      BIT(11)
#define ICR_ASSERT       BIT(14)
#define ICR_LEVEL        BIT(15)
#define ICR_SHORTHAND(v) ((v) >> 18 & 3)

enum shorthand { SHORT_NONE, SHORT_SELF, SHORT_ALL, SHORT_OTHERS };

static bool is_broadcast(const struct apic_msg *msg)
{
    return msg->dest == ~0u || (!msg->wide_dest && msg->dest == 0xff);
}

static bool matches_logical(const struct cpu *c, bool x2, uint32_t dest)
{
    uint32_t ldr = APIC_PEEK(c->apic.ldr), id;

    if (x2)
        return (dest >> 16) == (ldr >> 16) && (dest & ldr & 0xffff);
    id = ldr >> 24;
    if (dest > 0xff)
        return false;
    /* SDM 3, "Logical Destination Mode": DFR chooses the flat or the cluster model. */
    if (APIC_PEEK(c->apic.dfr) >> 28 == 0xf)
        return dest & id;
    return ((dest & 0xf0) == 0xf0 || (dest & 0xf0) == (id & 0xf0)) && (dest & id & 0xf);
}

bool apic_matches(const struct cpu *c, const struct apic_msg *msg)
{
    uint64_t base = APIC_PEEK(c->apic.base_msr);
    bool x2 = base & APIC_BASE_X2APIC;

    if (!(base & APIC_BASE_ENABLE))
        return false;
    if (msg->to_all || msg->not_self)
        return true; /* the machine leaves out the sender */
    if (is_broadcast(msg))
        return true;
    if (msg->logical)
        return matches_logical(c, x2, msg->dest);
    return msg->dest == (x2 ? APIC_PEEK(c->apic.id) : APIC_PEEK(c->apic.id) & 0xff);
}

void apic_accept(struct cpu *c, const struct apic_msg *msg)
{
    switch (msg->mode) {
    case APIC_FIXED:
    case APIC_LOWEST:
        /* Relaxed: the release in apic_post() is behind it. */
        if (msg->tell)
            __atomic_fetch_or((uint32_t *)&c->apic.told[msg->vector / 32], BIT(msg->vector % 32),
                              __ATOMIC_RELAXED);
        apic_post(c, msg->vector, msg->level);
        break;
    case APIC_SMI:
        cpu_post(c, REQ_SMI);
        break;
    case APIC_NMI:
        cpu_post(c, REQ_NMI);
        break;
    case APIC_INIT:
        /* The de-assert form only set arbitration IDs; it does nothing on this generation. */
        if (!msg->deassert)
            cpu_post(c, REQ_INIT);
        break;
    case APIC_SIPI:
        APIC_POKE(c->sipi_vector, msg->vector);
        cpu_post(c, REQ_SIPI);
        break;
    case APIC_EXTINT:
        /* The 8259s' line is looked at by cpu_take_events(), as far as LINT0 lets it through. */
        cpu_post(c, REQ_IRQ);
        break;
    default:
        if (log_first(c->seen, 0xa91cull << 32 | (unsigned)msg->mode))
            log_warn("guest: APIC message with reserved delivery mode %u is dropped", msg->mode);
        break;
    }
}

static bool accepts_from_self(const struct apic_msg *msg)
{
    if (msg->not_self)
        return false;
    /* By shorthand a processor cannot send itself INIT or SIPI (SDM 3, "Valid Combinations for the
     * Pentium 4 Processor's ICR"). */
    if (msg->to_self || msg->to_all)
        return msg->mode != APIC_INIT && msg->mode != APIC_SIPI;
    return true;
}

static void send(struct cpu *c, const struct apic_msg *msg)
{
    bool self = msg->to_self || apic_matches(c, msg), shorthand;

    if ((msg->mode == APIC_FIXED || msg->mode == APIC_LOWEST) && msg->vector < 16) {
        apic_error(c, ESR_SEND_VECTOR);
        return;
    }
    if (self && accepts_from_self(msg)) {
        apic_accept(c, msg);
        /* Any one of those addressed may take it, so this one does. */
        if (msg->mode == APIC_LOWEST)
            return;
    }
    shorthand = msg->to_all || msg->not_self;
    if (msg->to_self || (self && !shorthand && !msg->logical && !is_broadcast(msg)))
        return; /* nobody else */
    c->ops->apic_send(c, msg);
}

void apic_send_icr(struct cpu *c)
{
    uint32_t lo = (uint32_t)c->apic.icr;
    bool x2 = apic_is_x2(c);
    enum shorthand to = ICR_SHORTHAND(lo);
    struct apic_msg msg = {
        .dest = x2 ? (uint32_t)(c->apic.icr >> 32) : (uint32_t)(c->apic.icr >> 56),
        .wide_dest = x2,
        .vector = ICR_VECTOR(lo),
        .mode = ICR_MODE(lo),
        .logical = lo & ICR_LOGICAL,
        /* IPIs are edge triggered, whatever ICR says; level is for INIT's de-assert form. */
        .deassert = ICR_MODE(lo) == APIC_INIT && (lo & ICR_LEVEL) && !(lo & ICR_ASSERT),
        .to_self = to == SHORT_SELF,
        .to_all = to == SHORT_ALL,
        .not_self = to == SHORT_OTHERS,
    };

    send(c, &msg);
}

void apic_send_self(struct cpu *c, uint8_t vector)
{
    send(c, &(struct apic_msg){ .vector = vector, .mode = APIC_FIXED, .to_self = true });
}
