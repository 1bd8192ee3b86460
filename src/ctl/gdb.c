/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gdb stub: a thread that serves one gdb at a time. vCPUs are its threads; the VM stands still
 * while gdb has it stopped, and goes on when gdb leaves.
 *
 * A vCPU that hits something tells so by gdb_hook(), on its own thread, which keeps the VM paused
 * until gdb resumes it.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ctl/gdb_priv.h"
#include "ctl/sock.h"
#include "lib/log.h"

#define SIGNAL_INT  2
#define SIGNAL_TRAP 5

static void gdb_wake(struct gdb *g)
{
    BUG_ON(eventfd_write(g->wake_fd, 1) < 0);
}

void gdb_send(struct gdb *g, const void *payload, size_t bytes)
{
    size_t nr = gdb_frame(g->frame, payload, bytes);

    /* A peer that is gone shows at the next read. */
    (void)!sock_send(g->fd, g->frame, nr);
}

/* ---- standing still and going on ---- */

/* One more pause that is ours. */
static void gdb_hold(struct gdb *g)
{
    vm_pause(g->vm);
    lock_take(&g->lock);
    g->nr_holds++;
    lock_drop(&g->lock);
}

static void gdb_release(struct gdb *g)
{
    unsigned nr;

    lock_take(&g->lock);
    nr = g->nr_holds;
    g->nr_holds = 0;
    lock_drop(&g->lock);
    while (nr--)
        vm_resume(g->vm);
}

/* On the vCPU's thread, with all others parked. */
static void gdb_hook(void *arg, struct vcpu *v)
{
    struct gdb *g = arg;
    bool attached;

    vm_pause(g->vm);
    lock_take(&g->lock);
    attached = g->attached;
    if (attached) {
        g->nr_holds++;
        g->hits[v->cpu.id] =
            (struct gdb_hit){ .valid = true, .at = v->dbg_hit, .acc = v->dbg_hit_acc };
    }
    lock_drop(&g->lock);
    if (attached)
        gdb_wake(g);
    else
        vm_resume(g->vm); /* a breakpoint that was in flight when gdb left */
}

static bool gdb_take_hit(struct gdb *g, unsigned *cpu, struct gdb_hit *hit)
{
    bool found = false;

    lock_take(&g->lock);
    for (unsigned i = 0; i < vm_nr_vcpus(g->vm) && !found; i++) {
        found = g->hits[i].valid;
        *cpu = i;
        *hit = g->hits[i];
        if (found)
            g->hits[i].valid = false;
    }
    lock_drop(&g->lock);
    return found;
}

static const struct gdb_bp *gdb_find_bp(const struct gdb *g, const struct gdb_hit *hit)
{
    for (unsigned i = 0; i < g->nr_bps; i++) {
        const struct gdb_bp *bp = &g->bps[i];
        bool exec = bp->type <= BP_HARD;

        if (exec != (hit->acc == ACC_EXEC))
            continue;
        if (exec ? hit->at.v == bp->at.v : hit->at.v - bp->at.v < bp->bytes)
            return bp;
    }
    return NULL;
}

/* "T05thread:1;watch:ffff...;" */
static void gdb_tell_stop(struct gdb *g, unsigned signal, unsigned cpu, const struct gdb_hit *hit)
{
    static const char *const watch[NR_BP_TYPES] = {
        [BP_WRITE] = "watch", [BP_READ] = "rwatch", [BP_ACCESS] = "awatch"
    };
    const struct gdb_bp *bp = hit ? gdb_find_bp(g, hit) : NULL;
    char text[96], more[48] = "";

    if (bp && watch[bp->type])
        (void)snprintf(more, sizeof(more), "%s:%llx;", watch[bp->type],
                       (unsigned long long)hit->at.v);
    else if (bp && bp->type == BP_SOFT && g->says_swbreak)
        (void)snprintf(more, sizeof(more), "swbreak:;");
    else if (bp && bp->type == BP_HARD && g->says_hwbreak)
        (void)snprintf(more, sizeof(more), "hwbreak:;");
    (void)snprintf(text, sizeof(text), "T%02xthread:%x;%s", signal, gdb_tid(cpu), more);
    gdb_send(g, text, strlen(text));
}

/* The VM stands still because of `cpu`, and gdb waits to hear it. */
static void gdb_stopped(struct gdb *g, unsigned signal, unsigned cpu, const struct gdb_hit *hit)
{
    g->running = false;
    g->cpu_g = g->cpu_c = cpu;
    for (unsigned i = 0; i < vm_nr_vcpus(g->vm); i++) {
        struct vcpu *v = vm_vcpu(g->vm, i);

        v->dbg.step = false;
        v->engine->debug_update(v);
    }
    gdb_tell_stop(g, signal, cpu, hit);
}

static void gdb_look_for_hit(struct gdb *g)
{
    struct gdb_hit hit;
    unsigned cpu;

    if (g->running && gdb_take_hit(g, &cpu, &hit))
        gdb_stopped(g, SIGNAL_TRAP, cpu, &hit);
}

void gdb_run(struct gdb *g)
{
    struct gdb_hit hit;
    unsigned cpu;

    g->running = true;
    /* What another vCPU hit at the same time comes first. */
    if (gdb_take_hit(g, &cpu, &hit))
        gdb_stopped(g, SIGNAL_TRAP, cpu, &hit);
    else
        gdb_release(g);
}

void gdb_update_bps(struct gdb *g)
{
    static const unsigned acc[NR_BP_TYPES] = { [BP_SOFT] = ACC_EXEC,
                                               [BP_HARD] = ACC_EXEC,
                                               [BP_WRITE] = ACC_WRITE,
                                               [BP_READ] = ACC_READ,
                                               [BP_ACCESS] = ACC_READ };

    for (unsigned i = 0; i < vm_nr_vcpus(g->vm); i++) {
        struct vcpu *v = vm_vcpu(g->vm, i);

        v->dbg.nr_bps = g->nr_bps;
        for (unsigned n = 0; n < g->nr_bps; n++)
            v->dbg.bps[n] = (struct dbg_bp){ .at = g->bps[n].at,
                                             .bytes = g->bps[n].bytes,
                                             .acc = acc[g->bps[n].type] };
        v->engine->debug_update(v);
    }
}

/* ---- the connection ---- */

static void gdb_attach(struct gdb *g)
{
    int fd = sock_accept(g->listen_fd);

    if (fd < 0)
        return;
    if (g->unix_path[0] && !sock_peer_is_us(fd)) {
        (void)close(fd);
        return;
    }
    g->fd = fd;
    g->rx.state = RX_IDLE;
    g->no_ack = g->no_ack_next = g->says_swbreak = g->says_hwbreak = false;
    g->running = false;
    g->cpu_g = g->cpu_c = 0;
    gdb_hold(g);
    lock_take(&g->lock);
    g->attached = true;
    lock_drop(&g->lock);
    log_debug("gdb is attached; the VM stands still");
}

void gdb_detach(struct gdb *g)
{
    bool was;

    lock_take(&g->lock);
    was = g->attached;
    g->attached = false;
    lock_drop(&g->lock);
    if (!was)
        return;
    if (g->running)
        gdb_hold(g); /* breakpoints change only while all stand still */
    lock_take(&g->lock);
    for (unsigned i = 0; i < vm_nr_vcpus(g->vm); i++)
        g->hits[i].valid = false;
    lock_drop(&g->lock);
    g->nr_bps = 0;
    for (unsigned i = 0; i < vm_nr_vcpus(g->vm); i++)
        vm_vcpu(g->vm, i)->dbg.step = false;
    gdb_update_bps(g);
    g->running = true;
    gdb_release(g);
    log_debug("gdb has left; the VM goes on");
}

static void gdb_hang_up(struct gdb *g)
{
    gdb_detach(g);
    if (g->fd >= 0)
        (void)close(g->fd);
    g->fd = -1;
}

static void gdb_do_packet(struct gdb *g)
{
    /* Packets other than an interrupt make no sense while it runs: gdb sends none. */
    if (g->running)
        return;
    if (!g->no_ack)
        (void)!sock_send(g->fd, "+", 1);
    g->tx.nr = 0;
    g->tx.too_long = false;
    if (!gdb_command(g, g->rx.buf, g->rx.buf + g->rx.nr))
        return;
    if (g->tx.too_long)
        gdb_error(g, ENOBUFS);
    gdb_send(g, g->tx.buf, g->tx.nr);
    g->no_ack = g->no_ack_next;
}

static void gdb_byte(struct gdb *g, uint8_t byte)
{
    switch (gdb_rx_byte(&g->rx, byte)) {
    case GDB_PACKET:
        gdb_do_packet(g);
        break;
    case GDB_BAD:
        if (!g->no_ack)
            (void)!sock_send(g->fd, "-", 1);
        break;
    case GDB_INTERRUPT:
        if (!g->running || !g->attached) /* after D it has no business here */
            break;
        gdb_hold(g);
        gdb_stopped(g, SIGNAL_INT, g->cpu_c, NULL);
        break;
    case GDB_NOTHING:
        break;
    }
}

static void gdb_hear(struct gdb *g)
{
    uint8_t buf[4096];
    ssize_t n = recv(g->fd, buf, sizeof(buf), MSG_DONTWAIT);

    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n <= 0) {
        gdb_hang_up(g);
        return;
    }
    for (ssize_t i = 0; i < n && g->fd >= 0; i++)
        gdb_byte(g, buf[i]);
}

static bool gdb_quits(struct gdb *g)
{
    eventfd_t count;
    char text[8];
    bool quit;

    (void)eventfd_read(g->wake_fd, &count);
    lock_take(&g->lock);
    quit = g->quit;
    lock_drop(&g->lock);
    if (quit && g->fd >= 0 && g->running) {
        (void)snprintf(text, sizeof(text), "W%02x", g->status & 0xff);
        gdb_send(g, text, strlen(text));
    }
    return quit;
}

static void *gdb_main(void *arg)
{
    struct gdb *g = arg;

    for (;;) {
        struct pollfd p[] = {
            { .fd = g->wake_fd, .events = POLLIN },
            { .fd = g->fd < 0 ? g->listen_fd : -1, .events = POLLIN },
            { .fd = g->fd, .events = POLLIN },
        };

        if (poll(p, ARRAY_SIZE(p), -1) < 0)
            continue;
        if (p[0].revents && gdb_quits(g))
            break;
        gdb_look_for_hit(g);
        if (p[2].revents)
            gdb_hear(g);
        if (p[1].revents)
            gdb_attach(g);
    }
    gdb_hang_up(g);
    return NULL;
}

/* ---- life ---- */

static int gdb_listen(struct gdb *g, const struct gdb_config *cfg)
{
    char where[128];

    if (cfg->unix_path) {
        (void)snprintf(where, sizeof(where), "'%s'", cfg->unix_path);
        g->listen_fd = sock_listen_unix(cfg->unix_path);
        if (g->listen_fd >= 0)
            (void)snprintf(g->unix_path, sizeof(g->unix_path), "%s", cfg->unix_path);
    } else {
        (void)snprintf(where, sizeof(where), "localhost:%u", cfg->port);
        g->listen_fd = sock_listen_tcp(cfg->port);
    }
    if (g->listen_fd < 0) {
        log_error("cannot wait for gdb at %s: %s", where, strerror(-g->listen_fd));
        return g->listen_fd;
    }
    log_info("gdb: target remote %s%s", cfg->unix_path ? cfg->unix_path : where,
             cfg->wait ? " (the VM waits for it)" : "");
    return 0;
}

static void gdb_free(struct gdb *g)
{
    gdb_release(g);
    if (g->listen_fd >= 0)
        (void)close(g->listen_fd);
    if (g->unix_path[0])
        (void)unlink(g->unix_path);
    if (g->wake_fd >= 0)
        (void)close(g->wake_fd);
    lock_destroy(&g->lock);
    free(g->hits);
    free(g);
}

int gdb_open(struct vm *vm, const struct gdb_config *cfg, struct gdb **out)
{
    struct gdb *g = calloc(1, sizeof(*g));
    int err;

    if (!g)
        return -ENOMEM;
    g->vm = vm;
    g->fd = g->listen_fd = -1;
    lock_init(&g->lock, LOCK_LEAF);
    g->hits = calloc(vm_nr_vcpus(vm), sizeof(*g->hits));
    g->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    err = g->hits && g->wake_fd >= 0 ? gdb_listen(g, cfg) : -ENOMEM;
    if (err) {
        gdb_free(g);
        return err;
    }
    if (cfg->wait)
        gdb_hold(g);
    vm_set_debug_hook(vm, gdb_hook, g);
    err = thread_start_as(&g->thread, HOST_KEEPER, "gdb", gdb_main, g);
    if (err) {
        log_error("cannot start the gdb stub: %s", strerror(-err));
        vm_set_debug_hook(vm, NULL, NULL);
        gdb_free(g);
        return err;
    }
    *out = g;
    return 0;
}

void gdb_close(struct gdb *g, int status)
{
    if (!g)
        return;
    lock_take(&g->lock);
    g->quit = true;
    g->status = status;
    lock_drop(&g->lock);
    gdb_wake(g);
    thread_join(&g->thread);
    vm_set_debug_hook(g->vm, NULL, NULL);
    gdb_free(g);
}
