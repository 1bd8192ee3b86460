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
/*
 * A block translated by the checked tier is so many microseconds that are not the guest's own work.
 * Without it a new process, which is all fills and translations, looks as if it ran for long. (In
 * the direct tier the worker's time is the guest's own, and tells it itself.)
 */
#define TRANSLATE        20
/* A burst counts for no more microseconds than this: the host may have been elsewhere meanwhile. */
#define BURST_MAX        200
/*
 * The direct tier translates anew for most processes, the checked one keeps its translations of the
 * files that programs come from: only what will go on for long makes up for that. What best tells a
 * program that has come to its loop is that it meets little that is new: in a window of
 * PROVEN_CALM microseconds of its own it looks few branch targets up, and touches few pages, that
 * it did not before. A loop in python, or the shell, or openssl looks up fewer than 30, a program
 * that starts and a compiler 300 to 3500. One that makes system calls all the time has such a
 * window by chance now and then, so it needs CALM_WINDOWS in a row. All others have to have run for
 * PROVEN. Each time that it proved wrong, both are longer.
 */
#define PROVEN           200000
#define PROVEN_CALM      5000
#define CALM_FRESH       100 /* branch targets, at most */
#define CALM_WINDOWS     3
#define BURST_LONG       100    /* microseconds: hardly any system calls; one without end has 120 */
#define FRESH_PAGES      16     /* pages that count as one of them */
#define TRIAL            300000 /* after so long there, a part of the time should be its own */
#define TRIAL_PART       3
/* The checked tier's time is worth so much of native time. */
#define CHECKED_SLOWDOWN 3
/* One in so many bursts in the checked tier is looked at. */
#define SAMPLE           16
/*
 * A loop without system calls has one burst a tick, and would be looked at every 64 ms. So a burst
 * that follows an interrupt is looked at, too, if there were fewer than FEW_BURSTS since the last
 * one that an interrupt ended. It raises the mean to LONE_MAX microseconds at most: where others
 * are short, it says little of them.
 */
#define FEW_BURSTS       3
#define LONE_MAX         24
/*
 * A restored machine's kernel that user code comes to so many times in a second is busy: its memory
 * is to become shared, so that the kernel's view can be used.
 */
#define KERNEL_BUSY      8192
/* A space that is refused is left alone for so many bursts. */
#define REFUSAL          100

/*
 * By the page tables' root and the thread's FS.base: roots are used again at once by the next
 * process, which has its thread data elsewhere.
 */
static struct burst *burst_of(struct bt_vcpu *b)
{
    const struct cpu *c = &b->iv.vc.cpu;
    uint64_t root = c->cr3 & ~0xfffull, thread = c->seg[SEG_FS].base;
    struct burst *u = &b->bursts[((root ^ thread) * 0x9e3779b97f4a7c15ull) >> 58];

    if (u->root != root || u->thread != thread)
        *u = (struct burst){ .root = root, .thread = thread, .proof = 1 };
    return u;
}

/* What the checked tier has met for the first time since something was flushed. */
static uint64_t fresh(const struct bt_vcpu *b)
{
    const uint64_t *n = b->iv.vc.nr_exits;

    return FRESH_PAGES * n[EXIT_LOOKUP] + n[EXIT_MISS];
}

static void begin(struct bt_vcpu *b)
{
    b->fresh_then = fresh(b);
    b->user_since = host_tsc();
    b->translated_then = b->iv.vc.nr_exits[EXIT_TRANSLATE];
    b->ran_then = direct_stats(b->direct)->ran;
    b->stops_then = direct_stats(b->direct)->nr_stops;
}

static void settle(struct burst *u, bool direct)
{
    u->direct = direct;
    u->all = u->own = 0;
    u->window = u->fresh = 0;
    u->calm = 0;
}

/* It proved wrong to run it in the direct tier. */
static void distrust(struct burst *u)
{
    u->proof = (uint8_t)MIN(u->proof * 4, 64);
    settle(u, false);
}

/* Is RIP in code that is written all the time? The checked tier runs that well. */
static bool in_fluid_page(struct bt_vcpu *b)
{
    gpa_t at;

    if (!b->cache->nr_fluid)
        return false;
    return cpu_peek_walk(&b->iv.vc.cpu, GVA(b->iv.vc.cpu.rip), &at) && bt_fluid_page(b->cache, at);
}

/* How long it has to have run before it goes to the direct tier. */
static uint64_t proof_ticks(const struct bt_vcpu *b, const struct burst *u)
{
    unsigned enough = u->mean > BURST_LONG * b->ticks_per_us ? 1 : CALM_WINDOWS;
    uint64_t us = u->calm >= enough ? PROVEN_CALM : PROVEN;

    return us * u->proof * b->ticks_per_us;
}

/* Own time in the checked tier, with what was new in it. */
static void watch(const struct bt_vcpu *b, struct burst *u, uint64_t own, uint64_t nr_fresh)
{
    u->window += own;
    u->fresh += nr_fresh;
    if (u->window < PROVEN_CALM * (uint64_t)b->ticks_per_us)
        return;
    u->calm = u->fresh < CALM_FRESH * FRESH_PAGES ? (uint8_t)MIN(u->calm + 1, CALM_WINDOWS) : 0;
    u->window = u->fresh = 0;
}

/* Of so many TSC ticks in the checked tier, what the guest would have needed natively. */
static uint64_t checked_own(const struct bt_vcpu *b, uint64_t all)
{
    uint64_t nr = b->iv.vc.nr_exits[EXIT_TRANSLATE] - b->translated_then;
    uint64_t other = TRANSLATE * nr * b->ticks_per_us;

    return all > other ? (all - other) / CHECKED_SLOWDOWN : 0;
}

/* For how many the one that is looked at stands. */
static unsigned bursts_seen(const struct bt_vcpu *b)
{
    return b->lone ? 1 : MIN(b->turns, SAMPLE) + 1;
}

/* A burst has ended, or has lasted long enough to be counted. */
static void account(struct bt_vcpu *b, struct burst *u)
{
    const struct direct_stats *s = direct_stats(b->direct);
    uint64_t all = host_tsc() - b->user_since, us = b->ticks_per_us;
    uint64_t own = u->direct ? s->ran - b->ran_then : checked_own(b, all);
    unsigned weight = bursts_seen(b);

    if (!b->lone)
        b->turns = b->turns_cut = 0;
    if (weight > 1) /* it stands for others */
        own = MIN(own, BURST_MAX * us);
    u->all += all * weight;
    u->own += own * weight;
    if (!u->direct)
        watch(b, u, own * weight, (fresh(b) - b->fresh_then) * weight);
    own = MIN(own, b->lone ? MAX(u->mean, LONE_MAX * us) : BURST_MAX * us);
    /* One that was all stops tells nothing of the next ones. */
    if (!u->direct || s->nr_stops - b->stops_then < 2 || own > all / 2)
        u->mean = (uint32_t)((3 * (uint64_t)u->mean + own) / 4);
    if (!u->direct) {
        if (u->mean > BURST_DIRECT * us && u->own > proof_ticks(b, u))
            settle(u, true);
    } else if (u->all > TRIAL * us && u->own < u->all / TRIAL_PART) {
        distrust(u);
    } else if (u->mean < BURST_CHECKED * us) {
        settle(u, false);
    }
    if (u->all > 4 * TRIAL * us) { /* the past counts less */
        u->all /= 2;
        u->own /= u->direct ? 2 : 1;
    }
}

void bt_burst_cut(struct bt_vcpu *b)
{
    b->cut = true;
}

/* User code is entered. Is it behind an interrupt, and hardly anything else ends its bursts? */
static bool ends_by_interrupts(struct bt_vcpu *b)
{
    unsigned nr = b->turns - b->turns_cut;

    if (!b->cut)
        return false;
    b->cut = false;
    b->turns_cut = b->turns;
    return nr < FEW_BURSTS;
}

bool bt_needs_turn(struct bt_vcpu *b)
{
    if (!is_user(&b->iv.vc.cpu))
        return b->user_since;
    bt_calls_arm(b, 0);
    if (burst_of(b)->direct || ++b->turns % SAMPLE == 0)
        return true;
    b->lone = ends_by_interrupts(b);
    return b->lone;
}

unsigned bt_free_turns(struct bt_vcpu *b)
{
    if (!b->direct)
        return UINT16_MAX;
    if (b->cfg->tiers == BT_TIERS_DIRECT || burst_of(b)->direct)
        return 0;
    return SAMPLE - 1 - b->turns % SAMPLE;
}

static void ask_to_share(struct bt_vcpu *b, const char *who)
{
    const struct engine_config *cfg = &b->iv.vc.evm->cfg;

    if (b->asked_to_share)
        return;
    log_debug("bt: %s is busy: the restored memory is to become shared", who);
    if (cfg->ops->want_shared)
        cfg->ops->want_shared(cfg->ctx);
    b->asked_to_share = true;
}

/* Workers need the guest's memory. That of a restored machine is not theirs to have, until one of
 * its programs proves to run for long enough. */
static bool can_share(struct bt_vcpu *b)
{
    if (!mmu_has_private(b->iv.vc.evm->cfg.mmu))
        return true;
    ask_to_share(b, "a program");
    return false;
}

/* So does the kernel's view. */
static void watch_kernel(struct bt_vcpu *b, unsigned nr_bursts)
{
    uint64_t now;

    b->nr_looks += nr_bursts;
    if (b->nr_looks < KERNEL_BUSY)
        return;
    now = host_tsc();
    if (now - b->looks_since < 1000000ull * b->ticks_per_us && bt_kview_lacks_memory(b))
        ask_to_share(b, "the kernel");
    b->nr_looks = 0;
    b->looks_since = now;
}

static bool wants_direct(struct bt_vcpu *b)
{
    const struct cpu *c = &b->iv.vc.cpu;
    struct burst *u;

    if (!b->direct)
        return false;
    if (!is_user(c)) {
        if (b->user_since) {
            watch_kernel(b, bursts_seen(b));
            account(b, burst_of(b));
        }
        b->user_since = 0;
        b->lone = false;
        return false;
    }
    if (!(c->mode & MODE_CS64))
        return false;
    if (b->cfg->tiers == BT_TIERS_DIRECT) {
        bool once = b->checked_once;

        b->checked_once = false;
        return !once;
    }
    u = burst_of(b);
    if (!b->user_since) {
        begin(b);
    } else if (!u->direct && host_tsc() - b->user_since >
                                 10 * CHECKED_SLOWDOWN * BURST_DIRECT * b->ticks_per_us) {
        account(b, u); /* it does not even come to its end */
        begin(b);
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

bool bt_wants_direct(struct bt_vcpu *b)
{
    return wants_direct(b) && can_share(b);
}

bool bt_run_direct(struct bt_vcpu *b, enum run_result *res)
{
    struct ivcpu *v = &b->iv;

    switch (direct_run(b->direct)) {
    case DIRECT_SYSCALL: /* the checked tier has it as a site already */
        b->checked_once = true;
        return true;
    case DIRECT_INTERP: /* the end of a burst: code that does this often is better off elsewhere */
        account(b, burst_of(b));
        begin(b);
        if (in_fluid_page(b))
            distrust(burst_of(b));
        if (bt_limit_reached(b) || in_fluid_page(b)) /* by blocks, whatever b->cfg->tiers says */
            b->checked_once = true;
        else
            v->wait_step = true;
        return true;
    case DIRECT_FAULT:
        return interp_deliver(v, res);
    case DIRECT_KICKED:
        return true;
    case DIRECT_REFUSED:
        burst_of(b)->refused = REFUSAL;
        b->checked_once = true;
        return true;
    default:
        log_error("bt: the process that runs the guest's user code died; the VM cannot go on");
        *res = RUN_SHUTDOWN;
        return false;
    }
}

bool bt_limit_reached(const struct bt_vcpu *b)
{
    uint64_t nr = b->iv.vc.nr_exits[EXIT_TRANSLATE];

    return nr + (b->direct ? direct_stats(b->direct)->nr_blocks : 0) >= b->cfg->limit;
}

void bt_count_direct(struct bt_vcpu *b)
{
    const struct direct_stats *s;
    uint64_t *n = b->iv.vc.nr_exits;

    if (!b->direct)
        return;
    s = direct_stats(b->direct);
    n[EXIT_DIRECT] = s->nr_runs;
    n[EXIT_DIRECT_STOP] = s->nr_stops;
    n[EXIT_DIRECT_FILL] = s->nr_fills;
    n[EXIT_DIRECT_LINK] = s->nr_links;
    n[EXIT_DIRECT_LOOKUP] = s->nr_misses;
    n[EXIT_DIRECT_HANDOVER] = s->nr_result[DIRECT_INTERP];
    n[EXIT_DIRECT_BLOCK] = s->nr_blocks;
    n[EXIT_DIRECT_WORKER] = s->nr_workers;
}
