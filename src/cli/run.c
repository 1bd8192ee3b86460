/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `doppel run`: opens what the options name, makes the VM, waits for its end, closes all in reverse
 * order, and says by the exit status how it ended.
 */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "lib/log.h"
#include "snap/snap.h"

/* All that one run has open. Zeroed members are not open. */
struct session {
    struct restore restore;
    struct run_options o;
    const struct engine_ops *engine;
    char name[CTL_NAME_MAX + 1];
    struct trace_out *trace;
    struct monitor *monitor;
    struct chr *stdio; /* shared by whoever is on standard output */
    struct chr *serial, *debugcon, *console, *ports[VM_PORTS_MAX];
    struct store *disks[VM_DISKS_MAX];
    struct net *nets[VM_NETS_MAX];
    struct fs_share *shares[VM_SHARES_MAX];
    struct vsock *vsock;
    struct vars vars;
    struct ctl *ctl;
    struct vm *vm;
    struct gdb *gdb;
    struct vnc *vnc;
    struct signals *signals;
};

/* ---- opening ---- */

/* NULL after a message. One channel serves all that want stdio: the terminal is there once. */
static struct chr *session_chan(struct session *s, const struct chan_option *o, const char *what)
{
    switch (o->kind) {
    case CHAN_FILE:
        return chr_open_file(o->path);
    case CHAN_PTY:
        return chr_open_pty(what);
    case CHAN_SOCKET:
        return chr_open_socket(o->path, o->name ? CHR_KEEP_NOTHING : CHR_KEEP_LAST);
    case CHAN_DEFAULT:
    case CHAN_STDIO:
        if (!s->stdio)
            s->stdio = chr_open_stdio(monitor_escape, s->monitor);
        return s->stdio;
    case CHAN_NONE:
        break;
    }
    return chr_open_null();
}

static bool session_open_chans(struct session *s)
{
    s->monitor = monitor_create();
    if (!s->monitor)
        return false;
    s->serial = session_chan(s, &s->o.serial, "serial port");
    if (!s->serial)
        return false;
    if (s->o.debugcon.kind != CHAN_NONE) {
        s->debugcon = session_chan(s, &s->o.debugcon, "debug console");
        if (!s->debugcon)
            return false;
    }
    if (s->o.console.kind != CHAN_NONE) {
        s->console = session_chan(s, &s->o.console, "console");
        if (!s->console)
            return false;
    }
    for (unsigned i = 0; i < s->o.nr_ports; i++) {
        s->ports[i] = session_chan(s, &s->o.ports[i], s->o.ports[i].name);
        if (!s->ports[i])
            return false;
    }
    if (s->stdio)
        monitor_set_chr(s->monitor, s->stdio);
    return true;
}

static bool session_open_disks(struct session *s)
{
    for (unsigned i = 0; i < s->o.nr_disks; i++) {
        s->disks[i] = disk_option_open(&s->o.disks[i]);
        if (!s->disks[i])
            return false;
    }
    return true;
}

static bool session_open_nets(struct session *s)
{
    for (unsigned i = 0; i < s->o.nr_nets; i++) {
        s->nets[i] = net_option_open(&s->o.nets[i], s->name, i);
        if (!s->nets[i])
            return false;
    }
    return true;
}

static bool session_open_shares(struct session *s)
{
    for (unsigned i = 0; i < s->o.nr_shares; i++) {
        s->shares[i] = share_option_open(&s->o.shares[i], s->o.nr_shares);
        if (!s->shares[i])
            return false;
    }
    return true;
}

static bool session_open_vsock(struct session *s)
{
    if (!*s->o.vsock_path)
        return true;
    s->vsock = vsock_open(s->o.vsock_path);
    return s->vsock;
}

static bool session_open_ctl(struct session *s)
{
    int err;

    if (s->o.name)
        (void)snprintf(s->name, sizeof(s->name), "%s", s->o.name);
    else
        (void)snprintf(s->name, sizeof(s->name), "vm-%d", host_pid());
    err = ctl_open(s->name, &s->ctl);
    if (err == -EEXIST)
        return false;
    if (err)
        log_warn("'%s' runs without a control socket: `doppel stat` will not find it", s->name);
    return true;
}

/* Firmware that was given as a file may be one that has no variables. */
static bool session_open_vars(struct session *s)
{
    const struct run_options *o = &s->o;

    if (!o->firmware || (!o->vars_file && !o->vars_template))
        return true;
    return vars_open(&s->vars, o->vars_file, o->vars_template);
}

static bool session_make_vm(struct session *s)
{
    const struct run_options *o = &s->o;
    struct vm_config cfg = {
        .name = s->name,
        .engine = s->engine,
        .lockstep = o->lockstep,
        .cpu_model = o->cpu,
        .no_paravirt = o->no_paravirt,
        .boot = { .firmware = o->firmware,
                  .kernel = o->kernel,
                  .initrd = o->initrd,
                  .append = o->append,
                  .ram_bytes = o->memory_bytes,
                  .nr_cpus = o->nr_cpus,
                  .has_vga = o->vga },
        .sched = o->sched,
        .serial = s->serial,
        .debugcon = s->debugcon,
        .nr_nets = o->nr_nets,
        .nr_shares = o->nr_shares,
        .vars = s->vars.data,
        .vars_bytes = s->vars.bytes,
        .vga = o->vga,
        .vga_bios = o->firmware ? o->vga_bios : NULL,
        .boot_order = o->boot_order,
        .debug_exit = o->debug_exit,
        .rng = o->rng,
        .balloon = o->balloon,
        .vsock = s->vsock,
        .vsock_cid = o->vsock_cid,
        .rng_transport = o->rng_transport,
        .balloon_transport = o->balloon_transport,
        .vsock_transport = o->vsock_transport,
        .console = { .chr = s->console,
                     .nr_ports = o->nr_ports,
                     .transport = o->console_transport },
        .nr_disks = o->nr_disks,
        .no_reboot = o->no_reboot,
        .timeout_ns = o->timeout_ns,
        .time_exits = true,
        .trace = trace_out_trace(s->trace),
        .bt = &o->bt,
        .kvm = &o->kvm,
        .config = s->restore.config,
        .image = s->restore.snap ? snap_image(s->restore.snap) : NULL,
    };

    for (unsigned i = 0; i < o->nr_disks; i++) {
        cfg.disks[i] = o->disks[i].vm;
        cfg.disks[i].store = s->disks[i];
    }
    for (unsigned i = 0; i < o->nr_nets; i++)
        cfg.nets[i] = (struct vm_net){ .net = s->nets[i], .transport = o->nets[i].transport };
    for (unsigned i = 0; i < o->nr_ports; i++)
        cfg.console.ports[i] = (struct vm_port){ .chr = s->ports[i], .name = o->ports[i].name };
    for (unsigned i = 0; i < o->nr_shares; i++)
        cfg.shares[i] =
            (struct vm_share){ .fs = s->shares[i], .transport = o->shares[i].transport };
    s->vm = vm_create(&cfg);
    return s->vm && restore_load(&s->restore, s->vm);
}

/* A device or a pipe is written to, and not replaced. */
static bool is_no_file(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && !S_ISREG(st.st_mode);
}

/* What is written at the end only: can it be made? */
static bool can_make(const char *option, const char *path)
{
    const char *slash = path ? strrchr(path, '/') : NULL;
    char dir[PATH_MAX] = ".";

    if (path && is_no_file(path)) /* a pipe or device is written to, not replaced */
        return true;

    if (slash)
        (void)snprintf(dir, sizeof(dir), "%.*s", (int)(slash - path) + 1, path);
    if (!path || access(dir, W_OK) == 0)
        return true;
    log_error("%s '%s': nothing can be made in '%s': %s", option, path, dir, strerror(errno));
    return false;
}

static bool session_open(struct session *s)
{
    if (!can_make("--stats", s->o.stats_file) || !can_make("--display png", s->o.display_file))
        return false;
    host_sched_allow(&s->o.sched);
    if (!sandbox_options_begin(&s->o))
        return false;
    if (s->o.trace_mask) {
        s->trace = trace_out_open(s->o.trace_mask, s->o.trace_file, s->o.trace_format);
        if (!s->trace)
            return false;
    }
    if (!session_open_ctl(s) || !session_open_chans(s) || !session_open_disks(s) ||
        !session_open_nets(s) || !session_open_shares(s) || !session_open_vsock(s) ||
        !session_open_vars(s) || !session_make_vm(s))
        return false;
    s->signals = signals_watch(s->vm, s->o.console.kind == CHAN_STDIO ? SIGNALS_CONSOLE
                                                                      : SIGNALS_NO_CONSOLE);
    if (!s->signals || (s->ctl && ctl_serve(s->ctl, s->vm) < 0))
        return false;
    if (s->o.gdb && gdb_open(s->vm, &s->o.gdb_cfg, &s->gdb) < 0)
        return false;
    if (s->o.vnc.where && vnc_open(s->vm, &s->o.vnc, &s->vnc) < 0)
        return false;
    monitor_set_vm(s->monitor, s->vm);
    return true;
}

/* ---- closing ---- */

/* To a new file that then takes the old one's place: a reader never sees half of it. */
static bool session_write_stats(struct session *s)
{
    const char *path = s->o.stats_file;
    const bool direct = is_no_file(path);
    char *text = vm_stats_json(s->vm), tmp[4096];
    int n = snprintf(tmp, sizeof(tmp), direct ? "%s" : "%s.%d.tmp", path, host_pid());
    bool ok = false;
    FILE *f;

    f = text && n > 0 && (size_t)n < sizeof(tmp) ? fopen(tmp, "we") : NULL;
    if (f) {
        ok = fprintf(f, "%s\n", text) > 0;
        ok = fclose(f) == 0 && ok;
        ok = ok && (direct || rename(tmp, path) == 0);
        if (!ok && !direct) {
            int err = errno;

            (void)unlink(tmp);
            errno = err;
        }
    }
    if (!ok)
        log_error("cannot write statistics to '%s': %s", path, strerror(errno));
    free(text);
    return ok;
}

/* Returns false if the console's output was lost. */
static bool session_close_chans(struct session *s)
{
    bool lost;

    if (s->debugcon != s->stdio)
        chr_close(s->debugcon);
    if (s->serial != s->stdio)
        chr_close(s->serial);
    if (s->console != s->stdio)
        chr_close(s->console);
    for (unsigned i = 0; i < s->o.nr_ports; i++)
        chr_close(s->ports[i]);
    /* Only known once all is written. */
    chr_flush(s->stdio);
    lost = chr_lost_output(s->stdio);
    chr_close(s->stdio);
    return !lost;
}

/* Everything that is open, in reverse order. */
static bool session_close(struct session *s, int status)
{
    bool ok;

    vnc_close(s->vnc);
    gdb_close(s->gdb, status);
    ctl_close(s->ctl);
    signals_unwatch(s->signals);
    /* Ends the console's thread: it may be in the monitor, and that in the VM. */
    chr_flush(s->stdio);
    if (s->monitor)
        monitor_set_vm(s->monitor, NULL);
    vm_destroy(s->vm);
    for (unsigned i = 0; i < s->o.nr_disks; i++)
        store_close(s->disks[i]);
    for (unsigned i = 0; i < s->o.nr_nets; i++)
        net_close(s->nets[i]);
    for (unsigned i = 0; i < s->o.nr_shares; i++)
        fs_close(s->shares[i]);
    vsock_close(s->vsock);
    vars_close(&s->vars);
    ok = session_close_chans(s);
    monitor_destroy(s->monitor);
    trace_out_close(s->trace);
    run_options_free(&s->o);
    restore_free(&s->restore);
    return ok;
}

/* ---- running ---- */

/* What the exit status alone would not explain. */
static void session_explain(const struct session *s, enum stop_reason why)
{
    const struct cpu *c = &vm_vcpu(s->vm, 0)->cpu;

    if (why == STOP_TRIPLE)
        log_error("%s: triple fault near RIP %#llx (CS %#x, CR3 %#llx): the guest's processor shut "
                  "down",
                  s->name, (unsigned long long)c->rip, c->seg[SEG_CS].sel,
                  (unsigned long long)c->cr3);
    else if (why == STOP_TIMEOUT)
        log_error("%s: ended after %.1f s (--timeout)", s->name, (double)s->o.timeout_ns / 1e9);
    else if (why != STOP_EXIT)
        log_debug("%s: ended: %s", s->name, vm_stop_text(why));
}

static int session_run(struct session *s)
{
    enum stop_reason why;
    int exit_code, status;

    /*
     * All is open; what is left of the process's rights is what its guest could come by. The VM's
     * threads start before this one goes in, since theirs would be inside its sandbox otherwise;
     * but no guest code runs yet.
     */
    vm_pause(s->vm);
    if (vm_start(s->vm) < 0)
        return EXIT_VMM_ERROR;
    sandbox_settled();
    sandbox_enter(HOST_MAIN);
    vm_resume(s->vm);
    why = vm_wait(s->vm, &exit_code);
    status = vm_exit_status(why, exit_code);
    session_explain(s, why);
    if (s->o.stats_file && !session_write_stats(s) && !status)
        status = EXIT_VMM_ERROR;
    if (s->o.display_file && ctl_write_screen(s->vm, s->o.display_file) < 0 && !status)
        status = EXIT_VMM_ERROR;
    return status;
}

int cmd_run(int argc, char **argv)
{
    struct session s = { 0 };
    int status;
    bool help;

    status = restore_prepare(&s.restore, argc, argv);
    if (status)
        return status;
    status = run_options_parse(&s.o, s.restore.argc, s.restore.argv, &help);
    if (status || help) {
        run_options_free(&s.o);
        restore_free(&s.restore);
        return status;
    }
    if (s.o.quiet)
        log_set_level(LOG_ERROR);
    else if (s.o.verbose)
        log_set_level(LOG_DEBUG);
    s.engine = run_options_engine(&s.o);
    if (!s.engine) {
        run_options_free(&s.o);
        restore_free(&s.restore);
        return !strcmp(s.o.engine, "auto") ? EXIT_VMM_ERROR : EXIT_USAGE;
    }
    (void)signal(SIGPIPE, SIG_IGN); /* a closed pipe is an error of write() */
    signals_block();
    status = session_open(&s) ? session_run(&s) : EXIT_VMM_ERROR;
    if (!session_close(&s, status) && !status)
        status = EXIT_VMM_ERROR;
    return status;
}
