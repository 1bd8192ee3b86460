/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVM's paravirtual interface (Linux' Documentation/virt/kvm/x86: cpuid, msr, hypercalls), the part
 * that is a vCPU's own: clock, steal time, ends of interrupts, kicks. What it is good for here is
 * in docs/paravirt.md; hypercalls are vm/hypercall.c's.
 *
 * All on the vCPU's own thread.
 */
#ifndef CPU_PV_H
#define CPU_PV_H

#include "lib/types.h"

struct cpu;

struct pv {
    /* The MSRs, as last written. Bit 0 of clock, steal and eoi: the structure is in use. */
    uint64_t clock, wall, steal, eoi;
    uint64_t steal_ns;      /* as the guest sees it */
    uint64_t steal_seen_ns; /* of cpu_ops.steal_ns(), what is in it or before it; not saved */
    bool eoi_offered;       /* the vector in service may be ended by clearing the bit in memory */
    bool kicked;            /* the next HLT does not wait */
};

/* Power-on and INIT: nothing is registered. */
void pv_reset(struct cpu *c);
/* The guest's TSC was moved: its clock has to follow. */
void pv_tsc_changed(struct cpu *c);
/*
 * The guest does not run for a while, and its clocks may go on: it is told by its clock's flag, so
 * that its watchdogs do not take that for a fault of its own. Also before the vCPU has a thread.
 */
void cpu_pv_was_stopped(struct cpu *c);
/* Brings the steal time up to date, and says that the vCPU runs: it may be a restored one, whose
 * flag is that of a vCPU that was away (cpu_pv_back()). */
void pv_steal_update(struct cpu *c);
/* A vector goes into service. From here on until pv_eoi_sync() the guest may end it in memory. */
void pv_eoi_offer(struct cpu *c, uint8_t vector);
/* Before anything that depends on ISR, or adds to IRR: does what the guest did in memory. */
void pv_eoi_sync(struct cpu *c);
/* A kick came: wakes the vCPU, or its next HLT. */
void pv_kick(struct cpu *c);

/* HLT: was there a kick that makes it pass? */
bool cpu_pv_take_kick(struct cpu *c);
/*
 * Around giving the host's CPU away, between two instructions: other vCPUs see that this one does
 * not run, and leave TLB flushes with it. The second does them: true if there was one.
 */
void cpu_pv_away(struct cpu *c);
bool cpu_pv_back(struct cpu *c);
/* As cpu_pv_away(), and whoever runs the vCPU next has a flush to make. */
void cpu_pv_leave_flush(struct cpu *c);

#endif
