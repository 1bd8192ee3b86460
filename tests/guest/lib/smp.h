/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several processors, for guests of long mode that run with --cpus. Processors are told by their
 * APIC IDs, 0 (which runs main()) to smp_nr() - 1. The others wait with interrupts on until they
 * are given a function. expect() and print() are for processor 0.
 */
#ifndef GUEST_SMP_H
#define GUEST_SMP_H

#include "guest.h"

#define SMP_MAX   8
#define SMP_STACK 16384
#define SMP_AT    0x8000u /* where their code starts: start-up vector SMP_AT >> 12 */

typedef void smp_fn(unsigned cpu, word_t arg);

/* How many there are, as the firmware configuration device tells. */
unsigned smp_nr(void);
/* Starts all; returns how many there are. */
unsigned smp_start(void);
unsigned smp_cpu(void);
void smp_run(unsigned cpu, smp_fn *fn, word_t arg);
void smp_wait(unsigned cpu);
/* On all nr of them, this one too; returns when the last has done it. */
void smp_all(unsigned nr, smp_fn *fn, word_t arg);

/* Single messages by physical destination. */
void smp_send(unsigned cpu, uint32_t icr);
void smp_init(unsigned cpu);
void smp_sipi(unsigned cpu, unsigned vector);
/* How often it has come up. */
unsigned smp_ups(unsigned cpu);
void smp_await_up(unsigned cpu, unsigned times);

/* All nr come here before the first goes on. */
struct smp_barrier {
    volatile unsigned here, round;
};
void smp_meet(struct smp_barrier *b, unsigned nr);

/*
 * Rounds in which all wait for each other: a host that has more to run may need milliseconds for
 * each, so their time has a limit as well. One processor tells, in a round whose end it still holds
 * up, that this one may be the last: for (i = 1; i <= r.last; i++).
 */
struct smp_rounds {
    volatile unsigned last;
    uint64_t end;
};
struct smp_rounds smp_rounds(unsigned most);
void smp_round(struct smp_rounds *r, unsigned i);

#endif
