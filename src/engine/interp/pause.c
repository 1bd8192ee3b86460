/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PAUSE with several vCPUs: what waits in a loop for another vCPU gives its CPU away, since the
 * other one may be waiting for just that. (With one vCPU it is a NOP.)
 *
 * A host that has more to run takes a whole time slice for each yield: a vCPU that gave its own
 * away after some microseconds every time would starve beside any busy program. So the next yield
 * comes only after a part of what the last one took.
 */
#include "engine/interp/handlers.h"

/* So many PAUSEs in so many TSC ticks are a loop that waits: some microseconds of it. */
#define PAUSES       32
#define PAUSES_TICKS 200000

/* Of the time that was given away, a vCPU that waits on gets this part for itself. */
#define KEEP_PART      4
#define KEEP_TICKS_MAX (50 * PAUSES_TICKS) /* a host that was stopped is no measure */

static const struct op *pause(struct ivcpu *v, const struct op *op)
{
    bool flushed = false;
    uint64_t now;

    if (++v->nr_pauses < PAUSES)
        NEXT(v, op);
    now = host_tsc();
    if (now - v->paused_at < PAUSES_TICKS && (int64_t)(now - v->keep_until) >= 0) {
        uint64_t from = now;

        go_outside(v);
        v->vc.nr_exits[EXIT_PAUSE]++;
        cpu_pv_away(CPU(v));
        host_yield();
        flushed = cpu_pv_back(CPU(v));
        now = host_tsc();
        v->keep_until = now + MIN((now - from) / KEEP_PART, KEEP_TICKS_MAX);
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
