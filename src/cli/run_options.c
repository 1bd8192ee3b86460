/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The options of `doppel run`: a table, a function per value, and what is checked once all are
 * known. A refusal names the value, what would be right, and ends with status 2.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "lib/log.h"

/* Where Debian's package seabios has them. */
#define SEABIOS_FILE    "/usr/share/seabios/bios-256k.bin"
#define OVMF_CODE_FILE  "/usr/share/OVMF/OVMF_CODE_4M.fd"
#define OVMF_VARS_FILE  "/usr/share/OVMF/OVMF_VARS_4M.fd"
#define VGA_BIOS_FILE   "/usr/share/seabios/vgabios-stdvga.bin"
#define MEMORY_DEFAULT  MIB(512)
#define BT_HOT_MAX      255
#define BT_IDLE_MAX     1000000
/* A comparison costs as much as some ten instructions; one of all memory some 50 ms. */
#define LOCKSTEP_CHUNK  64
#define LOCKSTEP_MEMORY 20000000

/* ---- plain values ---- */

#define SET_STRING(member)                                \
    static bool set_##member(void *into, const char *val) \
    {                                                     \
        ((struct run_options *)into)->member = val;       \
        return true;                                      \
    }
SET_STRING(engine)
SET_STRING(append)

#define SET_FLAG(member)                                  \
    static bool set_##member(void *into, const char *val) \
    {                                                     \
        (void)val;                                        \
        ((struct run_options *)into)->member = true;      \
        return true;                                      \
    }
SET_FLAG(no_reboot)
SET_FLAG(quiet)
SET_FLAG(verbose)

static bool set_path(const char *opt, const char **to, const char *val)
{
    if (!*val) {
        log_error("--%s needs the name of a file, not ''", opt);
        return false;
    }
    *to = val;
    return true;
}

static bool set_kernel(void *into, const char *val)
{
    return set_path("kernel", &((struct run_options *)into)->kernel, val);
}

static bool set_firmware(void *into, const char *val)
{
    if (!strcmp(val, "seabios"))
        val = SEABIOS_FILE;
    if (!strcmp(val, "ovmf")) {
        val = OVMF_CODE_FILE;
        ((struct run_options *)into)->vars_template = OVMF_VARS_FILE;
    }
    return set_path("firmware", &((struct run_options *)into)->firmware, val);
}

static bool set_vars(void *into, const char *val)
{
    return set_path("firmware-vars", &((struct run_options *)into)->vars_file, val);
}

static bool set_initrd(void *into, const char *val)
{
    return set_path("initrd", &((struct run_options *)into)->initrd, val);
}

static bool set_stats(void *into, const char *val)
{
    return set_path("stats", &((struct run_options *)into)->stats_file, val);
}

static bool set_trace_file(void *into, const char *val)
{
    return set_path("trace-file", &((struct run_options *)into)->trace_file, val);
}

static bool set_name(void *into, const char *val)
{
    if (!ctl_name_ok(val)) {
        log_error("--name '%s': a name has 1 to %d letters, digits, '.', '_' or '-', and does not "
                  "begin with '.' or '-'",
                  val, CTL_NAME_MAX);
        return false;
    }
    ((struct run_options *)into)->name = val;
    return true;
}

static bool set_cpu(void *into, const char *val)
{
    struct cpu_model model;
    char why[256];

    if (!cpu_model_init(&model, val, why, sizeof(why))) {
        log_error("--cpu '%s': %s", val, why);
        return false;
    }
    ((struct run_options *)into)->cpu = val;
    return true;
}

static bool set_timeout(void *into, const char *val)
{
    if (!value_seconds(val, &((struct run_options *)into)->timeout_ns)) {
        log_error("--timeout '%s' is not a number of seconds above 0, such as 30 or 0.5", val);
        return false;
    }
    return true;
}

/* ---- devices ---- */

/* Room for one more; NULL after a message. */
static struct disk_option *next_disk(struct run_options *o, const char *opt, const char *val)
{
    if (o->nr_disks < VM_DISKS_MAX)
        return &o->disks[o->nr_disks];
    log_error("--%s %s: more than %d disks", opt, val, VM_DISKS_MAX);
    return NULL;
}

static bool set_disk(void *into, const char *val)
{
    struct run_options *o = into;
    struct disk_option *d = next_disk(o, "disk", val);

    if (!d || !disk_option_parse(d, o->nr_disks, val))
        return false;
    o->nr_disks++;
    return true;
}

static bool set_cdrom(void *into, const char *val)
{
    struct run_options *o = into;
    struct disk_option *d = next_disk(o, "cdrom", val);

    if (!d || !disk_option_cdrom(d, o->nr_disks, val))
        return false;
    o->nr_disks++;
    return true;
}

static bool set_vga_bios(void *into, const char *val)
{
    return set_path("vga-bios", &((struct run_options *)into)->vga_bios, val);
}

/* disk, cdrom, or both with a comma */
static bool set_boot(void *into, const char *val)
{
    static const char *const orders[] = { "disk", "cdrom", "disk,cdrom", "cdrom,disk" };

    for (unsigned i = 0; i < ARRAY_SIZE(orders); i++)
        if (!strcmp(val, orders[i])) {
            ((struct run_options *)into)->boot_order = val;
            return true;
        }
    log_error("--boot '%s' is unknown; it can be disk, cdrom, or both in order with a comma", val);
    return false;
}

/* Each --net is one more card; none takes them all away. */
static bool set_net(void *into, const char *val)
{
    struct run_options *o = into;

    if (!strcmp(val, "none")) {
        o->nr_nets = 0;
        return true;
    }
    if (o->nr_nets == VM_NETS_MAX) {
        log_error("--net %s: a machine has at most %d network cards", val, VM_NETS_MAX);
        return false;
    }
    if (!net_option_parse(&o->nets[o->nr_nets], val))
        return false;
    o->nr_nets++;
    return true;
}

/* Each --share is one more. */
static bool set_share(void *into, const char *val)
{
    struct run_options *o = into;

    if (o->nr_shares == VM_SHARES_MAX) {
        log_error("--share %s: a machine has at most %d shared folders", val, VM_SHARES_MAX);
        return false;
    }
    if (!share_option_parse(&o->shares[o->nr_shares], o->shares, o->nr_shares, val))
        return false;
    o->nr_shares++;
    return true;
}

/* ---- watching ---- */

static bool set_trace(void *into, const char *val)
{
    struct run_options *o = into;
    char names[256] = "";
    const char *bad;

    if (trace_parse(val, &o->trace_mask, &bad))
        return true;
    for (unsigned i = 0; i < NR_TRACE_CATS; i++) {
        size_t nr = strlen(names);

        (void)snprintf(names + nr, sizeof(names) - nr, "%s, ", trace_name((enum trace_cat)i));
    }
    log_error("--trace '%.*s' is no category; there are %sall", (int)strcspn(bad, ","), bad, names);
    return false;
}

/* PORT[,wait] or unix:PATH[,wait] */
static bool set_gdb(void *into, const char *val)
{
    static const char wait[] = ",wait";
    struct run_options *o = into;
    size_t len = strlen(val), wait_len = sizeof(wait) - 1;
    uint64_t port;

    free(o->gdb_text);
    o->gdb_text = strdup(val);
    if (!o->gdb_text) {
        log_error("out of memory");
        return false;
    }
    o->gdb = true;
    o->gdb_cfg = (struct gdb_config){ 0 };
    if (len > wait_len && !strcmp(o->gdb_text + len - wait_len, wait)) {
        o->gdb_cfg.wait = true;
        o->gdb_text[len - wait_len] = 0;
    }
    if (!strncmp(o->gdb_text, "unix:", 5) && o->gdb_text[5]) {
        o->gdb_cfg.unix_path = o->gdb_text + 5;
        return true;
    }
    if (value_uint(o->gdb_text, 1, UINT16_MAX, &port)) {
        o->gdb_cfg.port = (uint16_t)port;
        return true;
    }
    log_error("--gdb '%s' is neither a port (1 to 65535) nor unix:PATH; both may end with ,wait",
              val);
    return false;
}

/* ---- binary translation ---- */

static bool set_bt_hot(void *into, const char *val)
{
    uint64_t nr;

    if (!value_uint(val, 0, BT_HOT_MAX, &nr)) {
        log_error("--bt-hot '%s' is not a number from 0 to %d", val, BT_HOT_MAX);
        return false;
    }
    ((struct run_options *)into)->bt.hot = (uint8_t)nr;
    return true;
}

static bool set_bt_idle(void *into, const char *val)
{
    uint64_t s;

    if (!value_uint(val, 0, BT_IDLE_MAX, &s)) {
        log_error("--bt-idle '%s' is not a number of seconds from 0 (never) to %d", val,
                  BT_IDLE_MAX);
        return false;
    }
    ((struct run_options *)into)->bt.idle_s = (uint32_t)s;
    return true;
}

static bool set_bt_limit(void *into, const char *val)
{
    if (value_uint(val, 0, UINT64_MAX, &((struct run_options *)into)->bt.limit))
        return true;
    log_error("--bt-limit '%s' is not a number of blocks", val);
    return false;
}

/* Their words are in the order of the enumerations. */
static bool set_bt_tiers(void *into, const char *val)
{
    struct run_options *o = into;
    unsigned nr;

    if (!value_choice("--bt-tiers", "auto checked direct", val, &nr))
        return false;
    o->bt.tiers = (enum bt_tiers)nr;
    return true;
}

static bool set_kvm_irqchip(void *into, const char *val)
{
    struct run_options *o = into;
    unsigned nr;

    if (!value_choice("--kvm-irqchip", "auto split off", val, &nr))
        return false;
    o->kvm.irqchip = (enum kvm_irqchip_mode)nr;
    return true;
}

static bool set_bt_lookup(void *into, const char *val)
{
    struct run_options *o = into;
    unsigned nr;

    if (!value_choice("--bt-lookup", "auto loop jrcxz", val, &nr))
        return false;
    o->bt.lookup = (enum bt_lookup)nr;
    return true;
}

static bool set_perf_map(void *into, const char *val)
{
    (void)val;
    ((struct run_options *)into)->bt.perf_map = true;
    return true;
}

/* ---- lock-step ---- */

/* NULL after a message. */
static const struct engine_ops *lockstep_engine_of(const char *name)
{
    const struct engine_ops *e = engine_find(name);
    char why[256] = "";

    if (!e)
        log_error("--lockstep: there is no engine '%s'; `doppel engines` lists them", name);
    else if (!e->counts_steps)
        log_error("--lockstep: engine %s cannot: it does not count its guest's instructions; "
                  "interp and bt do",
                  name);
    else if (e->probe(why, sizeof(why)) == 0)
        return e;
    else
        log_error("--lockstep: engine %s cannot run on this host: %s", name, why);
    return NULL;
}

/* REFERENCE,TESTED */
static bool set_lockstep(void *into, const char *val)
{
    struct lockstep_config *l = &((struct run_options *)into)->lockstep;
    const char *comma = strchr(val, ',');
    char reference[32];

    if (!comma || comma == val || !comma[1] || (size_t)(comma - val) >= sizeof(reference)) {
        log_error("--lockstep '%s' is not REFERENCE,TESTED, such as interp,interp", val);
        return false;
    }
    (void)snprintf(reference, sizeof(reference), "%.*s", (int)(comma - val), val);
    l->reference = lockstep_engine_of(reference);
    l->tested = l->reference ? lockstep_engine_of(comma + 1) : NULL;
    return l->tested;
}

static bool set_steps(const char *opt, const char *val, uint64_t min, uint64_t *to)
{
    if (value_uint(val, min, INT64_MAX, to))
        return true;
    log_error("--%s '%s' is not a number of steps, %llu or more", opt, val,
              (unsigned long long)min);
    return false;
}

static bool set_lockstep_from(void *into, const char *val)
{
    return set_steps("lockstep-from", val, 0, &((struct run_options *)into)->lockstep.from);
}

static bool set_lockstep_chunk(void *into, const char *val)
{
    return set_steps("lockstep-chunk", val, 1, &((struct run_options *)into)->lockstep.chunk);
}

static bool set_lockstep_memory(void *into, const char *val)
{
    return set_steps("lockstep-memory", val, 0,
                     &((struct run_options *)into)->lockstep.memory_every);
}

/* ---- the table ---- */

static const struct opt run_opts[] = {
    { "kernel", 0, "FILE",
      "bzImage, vmlinux (ELF with PVH note) or multiboot image; required\n"
      "without --firmware",
      set_kernel },
    { "firmware", 0, "seabios|ovmf|FILE", "boot by a ROM image from a disk or CD", set_firmware },
    { "firmware-vars", 0, "FILE",
      "where UEFI firmware keeps its variables; with ovmf made when it is not\n"
      "there (default: they are forgotten at the end)",
      set_vars },
    { "initrd", 0, "FILE", "initial RAM disk; with multiboot a module", set_initrd },
    { "append", 0, "TEXT", "kernel command line", set_append },
    { "memory", 0, "SIZE", "RAM, such as 512M (default) or 2G", option_memory },
    { "cpus", 0, "N[,pin=FIRST-LAST][,weight=W]",
      "vCPUs, 1 to 64; default 1. pin: the host CPUs they run on;\n"
      "weight: their share of a busy host, 100 like any other program",
      option_cpus },
    { "cpu", 0, "MODEL",
      "host (default), x86-64-v2 or x86-64-v3; ,+FEATURE and ,-FEATURE change\n"
      "single features",
      set_cpu },
    { "paravirt", 0, "kvm|off", "offer the guest KVM's paravirtual features (default), or none",
      option_paravirt },
    { "engine", 0, "NAME",
      "interp, bt, kvm or auto (default: the fastest that works here);\n"
      "`doppel engines` tells which do",
      set_engine },
    { "lockstep", 0, "REFERENCE,TESTED",
      "run two engines side by side; stop at the first difference and\n"
      "show it (status 1). Takes twice the memory",
      set_lockstep },
    { "lockstep-from", 0, "N", "begin after the tested engine has made N steps",
      set_lockstep_from },
    { "lockstep-chunk", 0, "N", "compare at least every N steps (64)", set_lockstep_chunk },
    { "lockstep-memory", 0, "N", "compare all memory every N steps (20000000); 0: only at the end",
      set_lockstep_memory },
    { "disk", 0, "path=FILE",
      "[,format=raw|qcow2][,readonly][,snapshot=on][,transport=pci|mmio|ide]\n"
      "[,queues=N][,serial=TEXT][,iops=N][,bps=SIZE][,aio=io_uring|threads]\n"
      "[,packed=off] an image as a virtio (or IDE) disk; nbd=unix:PATH or\n"
      "nbd=nbd://HOST[:PORT]/EXPORT is one of an NBD server, vhost-user=SOCKET one that\n"
      "another process serves. Several times",
      set_disk },
    { "cdrom", 0, "FILE", "a CD image in an IDE drive", set_cdrom },
    { "boot", 0, "ORDER", "what firmware boots from: disk, cdrom, or disk,cdrom", set_boot },
    { "display", 0, "WHAT",
      "none (default: firmware speaks on the serial port), vga: a screen for\n"
      "`doppel screenshot`, png=FILE: the same, and what it shows at the end\n"
      "in FILE, or vnc=[HOST]:N or vnc=unix:PATH, both [,password-file=FILE]:\n"
      "for VNC clients at port 5900 + N of HOST (127.0.0.1) or that socket",
      option_display },
    { "vga-bios", 0, "FILE", "the screen's video BIOS (default: SeaBIOS's)", set_vga_bios },
    { "net", 0, "WHERE[,KEY=VALUE]...",
      "a network card, several times for several; WHERE is\n"
      "  user          a private network 10.0.2.0/24 behind this host, with DHCP;\n"
      "                hostfwd=tcp:127.0.0.1:2222-:22 lets connections in (also\n"
      "                udp:, several), restrict=on lets none out, mtu=N\n"
      "  tap=NAME      an interface of the host; queues=N\n"
      "  socket=PATH   a cable to another VM with the same PATH; mtu=N\n"
      "  none          no card (default)\n"
      "each with mac=ADDRESS (else it follows from --name), transport=pci|mmio",
      set_net },
    { "vsock", 0, "cid=N,path=F",
      "[,transport=pci|mmio] sockets between host and guest, whose address is\n"
      "N (3 or more): who connects to the Unix socket F and writes\n"
      "\"CONNECT PORT\" is led to the guest's port; port P of the host is, for\n"
      "the guest, the socket F_P",
      option_vsock },
    { "serial", 0, "WHERE",
      "first serial port: stdio (default), file=FILE, pty, socket=PATH (a Unix\n"
      "socket that is listened on; a client may come, go and come again) or none",
      option_serial },
    { "console", 0, "WHERE",
      "[,transport=pci|mmio] a virtio console (hvc0) there, as for --serial;\n"
      "with stdio, --serial is none by default",
      option_console },
    { "port", 0, "name=NAME,WHERE",
      "a port of the virtio console for programs, such as an agent's; WHERE is\n"
      "socket=PATH, pty or file=FILE; several times for several",
      option_port },
    { "share", 0, "tag=NAME,path=DIR",
      "[,readonly][,cache=auto|none|always][,transport=pci|mmio] a folder of the\n"
      "host, by virtio-fs: `mount -t virtiofs NAME /mnt` in the guest; may be\n"
      "given several times",
      set_share },
    { "fs", 0, "tag=NAME,path=DIR", "the same as --share", set_share },
    { "debugcon", 0, "WHERE", "debug console at port E9h: stdio, file=FILE or none (default)",
      option_debugcon },
    { "device", 0, "debug-exit|rng|balloon",
      "debug-exit: a write of V to port F4h ends the run with status\n"
      "(V << 1) | 1; rng: virtio random numbers;\n"
      "balloon: memory that the guest can give back;\n"
      "the last two with [,transport=pci|mmio]",
      option_device },
    { "sandbox", 0, "auto|on|off[,LIMIT]...",
      "give up rights before the guest runs: as far as the host knows how\n"
      "(auto, the default), or all of it or no run (on)\n" SANDBOX_LIMITS_HELP,
      option_sandbox },
    { "timeout", 0, "SECONDS", "end the run after that time, with status 124", set_timeout },
    { "no-reboot", 0, NULL, "a guest's reset ends the run, with status 0", set_no_reboot },
    { "restore", 0, "DIR",
      "go on from a snapshot; the machine's options come from there, those\n"
      "given here are taken instead (all --disk, if one is given; so --net)",
      option_restore },
    { "clone", 0, NULL, "with --restore: another machine of that kind, with a name of its own",
      option_restore },
    { "verify", 0, NULL, "with --restore: read all of its memory and compare checksums first",
      option_restore },
    { "clock", 0, "host|snapshot",
      "with --restore: the guest's clocks go on by the time that has gone by\n"
      "since (host, the default), or from where they stood (snapshot)",
      option_restore },
    { "name", 0, "NAME", "for `doppel stat NAME`; default vm-PID", set_name },
    { "stats", 0, "FILE", "write statistics there at the end, as JSON", set_stats },
    { "gdb", 0, "PORT|unix:PATH",
      "[,wait] let gdb attach; with ,wait the VM stands at its first\n"
      "instruction until gdb lets it go",
      set_gdb },
    { "trace", 0, "CAT[,CAT]", "print what happens; `--trace help` lists categories", set_trace },
    { "trace-format", 0, "text|chrome",
      "chrome: JSON for Chrome's and Perfetto's viewers, which a --trace-file\n"
      "that ends in .json is anyway",
      option_trace_format },
    { "trace-file", 0, "FILE", "to that file instead of standard error", set_trace_file },
    { "bt-hot", 0, "N", "engine bt translates code that has run N times (default 2)", set_bt_hot },
    { "bt-idle", 0, "SECONDS",
      "a vCPU that idles for so long gives the memory of its translations\n"
      "back, up to 80 MB (default 10; 0: never)",
      set_bt_idle },
    { "bt-limit", 0, "N",
      "only the first N blocks, to find by bisection the one that is\n"
      "translated wrongly",
      set_bt_limit },
    { "bt-tiers", 0, "WHICH",
      "where user code runs: auto (default), checked, or direct: in the\n"
      "direct tier from its first instruction on",
      set_bt_tiers },
    { "bt-lookup", 0, "WHICH",
      "the instruction that ends lookups of addresses: auto (default), loop\n"
      "(fast on AMD's processors), or jrcxz",
      set_bt_lookup },
    { "perf-map", 0, NULL, "/tmp/perf-PID.map names engine bt's translations for perf",
      set_perf_map },
    { "kvm-irqchip", 0, "WHERE",
      "a kvm guest's interrupt controllers: split (local APICs in the kernel),\n"
      "off (all in doppel), or auto (default): split where the kernel has it",
      set_kvm_irqchip },
    { "quiet", 'q', NULL, "only errors", set_quiet },
    { "verbose", 'v', NULL, "also what is only of interest when something is wrong", set_verbose },
};

void run_options_free(struct run_options *o)
{
    free(o->gdb_text);
    chan_options_free(o);
    free(o->vnc_text);
    for (unsigned i = 0; i < o->nr_disks; i++)
        disk_option_free(&o->disks[i]);
    for (unsigned i = 0; i < o->nr_shares; i++)
        share_option_free(&o->shares[i]);
}

void run_options_help(void)
{
    (void)printf(
        "Usage: doppel run --kernel FILE|--firmware WHICH [OPTION]...\n"
        "\n"
        "  doppel run --kernel vmlinuz --initrd initramfs.cpio --append console=ttyS0\n"
        "      a Linux kernel with its console on this terminal\n"
        "  doppel run --kernel test.elf --device debug-exit --timeout 60\n"
        "      a small test kernel, whose verdict is the exit status\n"
        "  doppel run --kernel vmlinux --append 'console=ttyS0 nokaslr' --gdb 1234,wait\n"
        "      then: gdb vmlinux -ex 'target remote :1234'\n"
        "  doppel run --kernel vmlinuz --serial file=log --trace pio,irq --trace-file trace\n"
        "\n"
        "Options (--name VALUE or --name=VALUE; given twice, the last counts,\n"
        "but for --disk, --net, --share and --port):\n");
    options_help(run_opts, ARRAY_SIZE(run_opts));
    (void)printf(
        "\n"
        "On a terminal the guest gets every key but Ctrl-A: Ctrl-A x ends the VM, Ctrl-A c opens\n"
        "the monitor, Ctrl-A a sends Ctrl-A, Ctrl-A h tells this.\n"
        "\n"
        "Exit status: 0 the guest powered off (or reset, with --no-reboot) or the user ended it;\n"
        "1 error of doppel or of a file it needs, or console output was lost; 2 wrong usage;\n"
        "3 triple fault; 124 timeout; with debug-exit (V << 1) | 1.\n");
}

static int trace_help(void)
{
    for (unsigned i = 0; i < NR_TRACE_CATS; i++)
        (void)printf("  %-10s %s\n", trace_name((enum trace_cat)i), trace_text((enum trace_cat)i));
    (void)printf("  %-10s all of them\n", "all");
    return 0;
}

int run_options_parse(struct run_options *o, int argc, char **argv, bool *help)
{
    int nr;

    *help = false;
    *o = (struct run_options){
        .engine = "auto",
        .cpu = "host",
        .vga_bios = VGA_BIOS_FILE,
        .memory_bytes = MEMORY_DEFAULT,
        .serial = { .kind = CHAN_DEFAULT },
        .bt = bt_default_config,
        .kvm = kvm_default_config,
        .lockstep = { .chunk = LOCKSTEP_CHUNK, .memory_every = LOCKSTEP_MEMORY },
    };
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--trace=help") != 0 &&
            (strcmp(argv[i], "--trace") != 0 || i + 1 >= argc || strcmp(argv[i + 1], "help") != 0))
            continue;
        *help = true;
        return trace_help();
    }
    nr = options_parse(run_opts, ARRAY_SIZE(run_opts), o, argc, argv);
    if (nr == OPTIONS_HELP) {
        *help = true;
        run_options_help();
        return 0;
    }
    if (nr == OPTIONS_BAD)
        return EXIT_USAGE;
    if (nr > 0) {
        log_error("run: unexpected argument '%s'; every value belongs to an option", argv[1]);
        return EXIT_USAGE;
    }
    if (o->firmware && (o->kernel || o->initrd || o->append)) {
        log_error("--firmware with --kernel, --initrd or --append: firmware boots from a disk");
        return EXIT_USAGE;
    }
    if (o->vars_file && !o->firmware) {
        log_error("--firmware-vars '%s' without --firmware", o->vars_file);
        return EXIT_USAGE;
    }
    if (strcmp(o->vga_bios, VGA_BIOS_FILE) != 0 && !o->firmware) {
        log_error("--vga-bios '%s' without --firmware", o->vga_bios);
        return EXIT_USAGE;
    }
    if (o->boot_order && !o->firmware) {
        log_error("--boot '%s' without --firmware: a kernel boots from nothing else",
                  o->boot_order);
        return EXIT_USAGE;
    }
    if (!o->kernel && !o->firmware) {
        log_error("run: --kernel FILE is missing; `doppel run --help` shows examples");
        return EXIT_USAGE;
    }
    if (!trace_options_check(o))
        return EXIT_USAGE;
    if (o->trace_file && !o->trace_mask) {
        log_error("--trace-file '%s' without --trace: nothing would be in it", o->trace_file);
        return EXIT_USAGE;
    }
    if (!o->lockstep.tested && (o->lockstep.from || o->lockstep.chunk != LOCKSTEP_CHUNK ||
                                o->lockstep.memory_every != LOCKSTEP_MEMORY)) {
        log_error("--lockstep-from, -chunk and -memory need --lockstep REFERENCE,TESTED");
        return EXIT_USAGE;
    }
    if (!chan_options_check(o))
        return EXIT_USAGE;
    if (o->lockstep.tested && (o->nr_disks || o->nr_nets || o->nr_shares || o->rng || o->balloon ||
                               *o->vsock_path || o->console.kind != CHAN_NONE || o->nr_ports)) {
        log_error(
            "--disk, --net, --share, --vsock, --console, --port, --device rng and balloon with "
            "--lockstep: they write the guest's memory when they can, not when the other "
            "engine is there too");
        return EXIT_USAGE;
    }
    if (o->lockstep.tested && o->nr_cpus > 1) {
        log_error("--lockstep with --cpus %u: it compares one vCPU", o->nr_cpus);
        return EXIT_USAGE;
    }
    if (o->lockstep.tested && o->gdb) {
        log_error("--gdb with --lockstep: a debugger would stop only one of the engines");
        return EXIT_USAGE;
    }
    return 0;
}

/* ---- the engine ---- */

static const struct engine_ops *engine_auto(void)
{
    for (unsigned i = 0; engines[i]; i++) {
        char why[256] = "";

        if (engines[i]->probe(why, sizeof(why)) == 0 &&
            (!engines[i]->recommend || engines[i]->recommend(why, sizeof(why)) == 0)) {
            log_debug("engine %s", engines[i]->name);
            return engines[i];
        }
        log_debug("engine %s: %s", engines[i]->name, why);
    }
    log_error("no engine can run on this host; `doppel engines` tells why");
    return NULL;
}

const struct engine_ops *run_options_engine(const struct run_options *o)
{
    const struct engine_ops *e;
    char why[256] = "";

    if (!strcmp(o->engine, "auto"))
        return engine_auto();
    e = engine_find(o->engine);
    if (!e) {
        log_error("--engine '%s' is unknown; it can be interp, bt, kvm or auto", o->engine);
        return NULL;
    }
    if (e->probe(why, sizeof(why)) != 0) {
        log_error("--engine %s cannot run on this host: %s", o->engine, why);
        return NULL;
    }
    return e;
}
