/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a VM has done, as JSON: for `doppel stat`, --stats and the monitor. Counters belong to the
 * vCPUs' threads; here they are read while they change, each by itself.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "backend/net.h"
#include "backend/store.h"
#include "virtio/balloon.h"
#include "vm/priv.h"

static const char *const stats_states[] = {
    [VM_CREATED] = "created",
    [VM_RUNNING] = "running",
    [VM_PAUSED] = "paused",
    [VM_STOPPED] = "stopped",
};

static const char *const stats_reasons[] = {
    [STOP_NONE] = "none",           [STOP_POWEROFF] = "power off", [STOP_RESET] = "reset",
    [STOP_TRIPLE] = "triple fault", [STOP_EXIT] = "debug exit",    [STOP_TIMEOUT] = "timeout",
    [STOP_USER] = "user",           [STOP_ERROR] = "error",
};

const char *vm_state_text(enum vm_state s)
{
    return stats_states[s];
}

const char *vm_stop_text(enum stop_reason why)
{
    return stats_reasons[why];
}

static uint64_t stats_peek(const uint64_t *counter)
{
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

static json_t *stats_exits(const struct vcpu *v)
{
    json_t *exits = json_object();

    for (unsigned i = 0; i < NR_EXITS; i++) {
        uint64_t nr = stats_peek(&v->nr_exits[i]), ns = stats_peek(&v->exit_ns[i]);

        if (nr)
            (void)json_object_set_new(exits, exit_key((enum exit_reason)i),
                                      json_pack("{s:s, s:I, s:I, s:I}", "text",
                                                exit_text((enum exit_reason)i), "count",
                                                (json_int_t)nr, "total_ns", (json_int_t)ns,
                                                "mean_ns", (json_int_t)(ns / nr)));
    }
    return exits;
}

static json_t *stats_vcpus(struct vm *vm)
{
    json_t *vcpus = json_array();

    for (unsigned i = 0; i < vm->nr_vcpus; i++) {
        const struct vcpu *v = vm->vcpus[i].v;

        (void)json_array_append_new(
            vcpus, json_pack("{s:i, s:I, s:I, s:o}", "id", (int)i, "instructions",
                             (json_int_t)stats_peek(&v->nr_insns), "busy_ns",
                             (json_int_t)vcpu_busy_ns(v), "exits", stats_exits(v)));
    }
    return vcpus;
}

/* How long a guest may take to tell how much memory it uses. */
#define BALLOON_WAIT_NS 200000000ull

static json_t *stats_balloon(struct virtio_balloon *b, bool running)
{
    static const char *const names[NR_BALLOON_STATS] = {
        [BALLOON_SWAP_IN] = "swap_in_bytes",     [BALLOON_SWAP_OUT] = "swap_out_bytes",
        [BALLOON_MAJOR_FAULTS] = "major_faults", [BALLOON_MINOR_FAULTS] = "minor_faults",
        [BALLOON_FREE] = "free_bytes",           [BALLOON_TOTAL] = "total_bytes",
        [BALLOON_AVAILABLE] = "available_bytes", [BALLOON_CACHES] = "cache_bytes",
    };
    uint64_t wanted, actual, stats[NR_BALLOON_STATS];
    json_t *j, *guest;

    virtio_balloon_sizes(b, &wanted, &actual);
    j = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "wanted_bytes", (json_int_t)wanted,
                  "actual_bytes", (json_int_t)actual, "inflated_bytes",
                  (json_int_t)b->inflated_bytes, "deflated_bytes", (json_int_t)b->deflated_bytes,
                  "reported_bytes", (json_int_t)b->reported_bytes, "hinted_bytes",
                  (json_int_t)b->hinted_bytes);
    if (!j || !virtio_balloon_stats(b, running ? BALLOON_WAIT_NS : 0, stats))
        return j;
    guest = json_object();
    for (unsigned i = 0; i < NR_BALLOON_STATS; i++)
        (void)json_object_set_new(guest, names[i], json_integer((json_int_t)stats[i]));
    (void)json_object_set_new(j, "guest", guest);
    return j;
}

static json_t *stats_nets(struct vm *vm)
{
    json_t *nets = json_array();

    for (unsigned i = 0; i < vm->cfg.nr_nets; i++) {
        const struct net *n = vm->cfg.nets[i].net;
        const struct net_counts *c = &n->counts;

        (void)json_array_append_new(
            nets,
            json_pack("{s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I}", "name", n->name, "up", (int)n->up,
                      "sent_frames", (json_int_t)c->tx_frames, "sent_bytes",
                      (json_int_t)c->tx_bytes, "sent_dropped", (json_int_t)c->tx_dropped,
                      "received_frames", (json_int_t)c->rx_frames, "received_bytes",
                      (json_int_t)c->rx_bytes, "received_dropped", (json_int_t)c->rx_dropped));
    }
    return nets;
}

static json_t *stats_disks(struct vm *vm)
{
    json_t *disks = json_array();

    for (unsigned i = 0; i < vm->cfg.nr_disks; i++) {
        struct store_counts c;
        char name[16];

        /* vm_replace_disk() may take it away. */
        lock_take(&vm->lock);
        c = store_counts(vm->cfg.disks[i].store);
        lock_drop(&vm->lock);
        (void)snprintf(name, sizeof(name), "disk%u", i);
        (void)json_array_append_new(
            disks, json_pack("{s:s, s:I, s:I, s:I, s:I, s:I}", "name", name, "reads",
                             (json_int_t)c.reads, "read_bytes", (json_int_t)c.read_bytes, "writes",
                             (json_int_t)c.writes, "written_bytes", (json_int_t)c.written_bytes,
                             "flushes", (json_int_t)c.flushes));
    }
    return disks;
}

char *vm_stats_json(struct vm *vm)
{
    enum vm_state state = vm_state(vm);
    uint64_t now = state == VM_STOPPED ? vm->ended_ns : host_mono_ns();
    double seconds = state == VM_CREATED ? 0 : (double)(now - vm->started_ns) / 1e9;
    json_t *top;
    char *text;

    /* Written before the state became VM_STOPPED, constant since. */
    top =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:i, s:f, s:f, s:I, s:b}", "name", vm->name, "engine",
                  vm->cfg.engine->name, "cpu", vm->model.name, "state", vm_state_text(state),
                  "reason", vm_stop_text(state == VM_STOPPED ? vm->why : STOP_NONE), "status",
                  state == VM_STOPPED ? vm_exit_status(vm->why, vm->status) : 0, "seconds", seconds,
                  "guest_seconds", (double)clock_now_ns(bus_clock(vm->bus)) / 1e9, "memory_bytes",
                  (json_int_t)vm->cfg.boot.ram_bytes, "timed", vm->cfg.time_exits);
    if (!top)
        return NULL;
    (void)json_object_set_new(top, "pid", json_integer(host_pid()));
    if (chr_pty_name(vm->cfg.serial))
        (void)json_object_set_new(top, "serial", json_string(chr_pty_name(vm->cfg.serial)));
    if (vm->cfg.serial_bytes.size)
        (void)json_object_set_new(top, "serial_dropped_bytes",
                                  json_integer((json_int_t)pc_serial_dropped(vm->pc)));
    (void)json_object_set_new(top, "vcpus", stats_vcpus(vm));
    (void)json_object_set_new(top, "cpu_ns", json_integer((json_int_t)host_cpu_ns()));
    if (vm->cfg.nr_disks)
        (void)json_object_set_new(top, "disks", stats_disks(vm));
    if (vm->cfg.nr_nets)
        (void)json_object_set_new(top, "nets", stats_nets(vm));
    if (pc_balloon(vm->pc))
        (void)json_object_set_new(top, "balloon",
                                  stats_balloon(pc_balloon(vm->pc), state == VM_RUNNING));
    text = json_dumps(top, JSON_COMPACT);
    json_decref(top);
    return text;
}
