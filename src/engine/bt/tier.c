/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which user code runs in the direct tier.
 *
 * Going there and back costs some microseconds, the checked tier makes code that is busy with
 * memory run at a third of the native speed. So what counts is how long a guest process runs
 * between two visits to its kernel, which is kept as a mean per address space.
 */
#include "engine/bt/bt.h"

#include "lib/log.h"

/* In microseconds of native speed. Between the two it stays as it is. */
#define BURST_DIRECT     12
#define BURST_CHECKED    6
/* What going there and back takes of a burst, in microseconds. */
#define DOOR             8
/* The checked tier's time is worth so much of native time. */
#define CHECKED_SLOWDOWN 3
/* A space that is refused is left alone for so many bursts. */
#define REFUSAL          100

static struct burst *burst_of(struct bt_vcpu *b)
{
    uint64_t root = b->iv.vc.cpu.cr3 & ~0xfffull;
    struct burst *u = &b->bursts[(root * 0x9e3779b97f4a7c15ull) >> 58];

    if (u->root != root)
        *u = (struct burst){ .root = root };
    return u;
}

static void account(struct bt_vcpu *b, struct burst *u, uint64_t ticks)
{
    uint64_t door = (uint64_t)DOOR * b->ticks_per_us;

    if (!u->direct)
        ticks /= CHECKED_SLOWDOWN;
    else
        ticks = ticks > door ? ticks - door : 0;
    ticks = MIN(ticks, 1000ull * b->ticks_per_us);
    u->mean = (uint32_t)((3 * (uint64_t)u->mean + ticks) / 4);
    if (u->mean > BURST_DIRECT * b->ticks_per_us)
        u->direct = true;
    else if (u->mean < BURST_CHECKED * b->ticks_per_us)
        u->direct = false;
}

bool bt_wants_direct(struct bt_vcpu *b)
{
    const struct cpu *c = &b->iv.vc.cpu;
    uint64_t now, since = b->user_since;
    struct burst *u;

    if (!b->direct)
        return false;
    if (!is_user(c)) {
        if (since) {
            account(b, burst_of(b), host_tsc() - since);
            b->user_since = 0;
        }
        return false;
    }
    if (!(c->mode & MODE_CS64))
        return false;
    u = burst_of(b);
    now = host_tsc();
    if (!since) {
        b->user_since = now;
    } else if (!u->direct && now - since > 10 * CHECKED_SLOWDOWN * BURST_DIRECT * b->ticks_per_us) {
        account(b, u, now - since); /* it does not even come to its end */
        b->user_since = now;
    }
    if (b->checked_once) {
        b->checked_once = false;
        return false;
    }
    if (u->direct && u->refused) {
        u->refused--;
        return false;
    }
    return u->direct;
}

bool bt_run_direct(struct bt_vcpu *b, enum run_result *res)
{
    struct ivcpu *v = &b->iv;
    uint64_t now;

    switch (direct_run(b->direct)) {
    case DIRECT_SYSCALL: /* the checked tier has it as a site already */
        b->checked_once = true;
        return true;
    case DIRECT_INTERP: /* the end of a burst: code that does this often is better off elsewhere */
        now = host_tsc();
        account(b, burst_of(b), now - b->user_since);
        b->user_since = now;
        v->wait_step = true;
        return true;
    case DIRECT_FAULT:
        return interp_deliver(v, res);
    case DIRECT_KICKED:
        return true;
    case DIRECT_REFUSED:
        burst_of(b)->refused = REFUSAL;
        return true;
    default:
        log_error("bt: the process that runs the guest's user code died; the VM cannot go on");
        *res = RUN_SHUTDOWN;
        return false;
    }
}
