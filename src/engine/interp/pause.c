/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PAUSE with several vCPUs: what waits in a loop for another vCPU gives its CPU away, since the
 * other one may be waiting for just that. (With one vCPU it is a NOP.)
 */
#include "engine/interp/handlers.h"

/* So many PAUSEs in so many TSC ticks are a loop that waits: some microseconds of it. */
#define PAUSES       32
#define PAUSES_TICKS 200000

static const struct op *pause(struct ivcpu *v, const struct op *op)
{
    bool flushed = false;
    uint64_t now;

    if (++v->nr_pauses < PAUSES)
        NEXT(v, op);
    now = host_tsc();
    if (now - v->paused_at < PAUSES_TICKS) {
        go_outside(v);
        v->vc.nr_exits[EXIT_PAUSE]++;
        cpu_pv_away(CPU(v));
        host_yield();
        flushed = cpu_pv_back(CPU(v));
        now = host_tsc();
    }
    v->paused_at = now;
    v->nr_pauses = 0;
    if (likely(!flushed && !v->graveyard))
        NEXT(v, op);
    /* What the guest left in its flag, or code in the flag's page: the block is not what it was. */
    sync_rip(v, op);
    return leave_step(v, op, STEP_NEXT);
}

const op_fn op_pause = pause;
