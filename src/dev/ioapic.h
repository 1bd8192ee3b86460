/* SPDX-License-Identifier: Apache-2.0 */
/* The I/O APIC: see ioapic.c. All functions want the machine lock held. */
#ifndef DEV_IOAPIC_H
#define DEV_IOAPIC_H

#include "bus/bus.h"
#include "cpu/apic.h"

#define IOAPIC_PINS 24

struct ioapic_config {
    struct bus *bus;
    gpa_t at;
    uint8_t id; /* APIC ID as firmware left it; the same as in the MADT */
    void (*send)(void *ctx, const struct apic_msg *msg);
    /* An edge of one of these pins (a bit each) has been served: its EOI came. Optional. */
    uint32_t told_pins;
    void (*served)(void *ctx, unsigned pin);
    /* Optional: EOIs of what this pin sends are of interest, be it masked or not; NULL: none are.
     * Called when that changes. */
    void (*watch)(void *ctx, unsigned pin, const struct apic_msg *msg);
    void *ctx;
};

struct ioapic {
    struct device dev;
    struct ioapic_config cfg;
    uint32_t index; /* IOREGSEL */
    uint32_t id;
    uint64_t redir[IOAPIC_PINS];
    uint32_t pins; /* bit n: pin n is asserted */
};

int ioapic_init(struct ioapic *io, const struct ioapic_config *cfg) MUST_CHECK;
void ioapic_fini(struct ioapic *io);
/* A pin's wire; level 1: asserted, whatever voltage that is. Pins above 23 do not exist: nothing
 * happens. */
void ioapic_set_pin(struct ioapic *io, unsigned pin, int level);
/* The message that an edge at that pin sends as it is programmed; false: none, or it is masked, or
 * level-triggered. */
bool ioapic_msg(const struct ioapic *io, unsigned pin, struct apic_msg *msg);
/* A local APIC's EOI of a level-triggered vector, or of one whose message said `tell`. */
void ioapic_eoi(struct ioapic *io, uint8_t vector);

#endif
