/* SPDX-License-Identifier: Apache-2.0 */
/* The doppel command: one file per subcommand, and what they share. */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include "backend/vsock.h"
#include "cli/disk_options.h"
#include "cli/net_options.h"
#include "cli/share_options.h"
#include "ctl/ctl.h"
#include "host/sandbox.h"
#include "vm/vm.h"

#define EXIT_VMM_ERROR 1
#define EXIT_USAGE     2

/* ---- subcommands: argv[0] is the subcommand's name; return the exit status ---- */
struct command {
    const char *name;
    const char *about;
    int (*run)(int argc, char **argv);
};
extern const struct command *const cli_commands; /* ends with a NULL name */

int cmd_run(int argc, char **argv);
int cmd_api(int argc, char **argv);
/* The same, but what is wrong with options is told as the program of that name does. */
int cmd_firecracker(int argc, char **argv);
int cmd_stat(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_ps(int argc, char **argv);
int cmd_snapshot(int argc, char **argv);
int cmd_stop(int argc, char **argv);
int cmd_pause(int argc, char **argv);
int cmd_resume(int argc, char **argv);
int cmd_console(int argc, char **argv);
int cmd_balloon(int argc, char **argv);
int cmd_screenshot(int argc, char **argv);
int cmd_sendkey(int argc, char **argv);
int cmd_resize(int argc, char **argv);
int cmd_engines(int argc, char **argv);
int cmd_version(int argc, char **argv);
int cmd_help(int argc, char **argv);
/* Runs the subcommand that argv[1] names. */
int cli_main(int argc, char **argv);

/* ---- options.c: long options, "--name value" and "--name=value" ---- */
struct opt {
    const char *name; /* without dashes */
    char letter;      /* "-v"; 0: none */
    const char *arg;  /* what --help calls the value; NULL: takes none */
    const char *help; /* lines separated by \n */
    /* Stores the value. False after a message. */
    bool (*set)(void *into, const char *val);
};
/*
 * Parses argv[1..]. Other arguments are moved to the front of argv + 1 in their order; returns how
 * many, or -1 after a message, or -2 if --help was given (an option of every command).
 */
int options_parse(const struct opt *opts, unsigned nr, void *into, int argc, char **argv);
#define OPTIONS_BAD  (-1)
#define OPTIONS_HELP (-2)
void options_help(const struct opt *opts, unsigned nr);
/* The candidate most like the word, for "did you mean"; NULL if none is. */
const char *options_closest(const char *word, const char *(*candidate)(const void *ctx, unsigned i),
                            const void *ctx);

/* ---- values.c: strict readers; nothing behind the number but the suffix ---- */
bool value_uint(const char *text, uint64_t min, uint64_t max, uint64_t *val);
/* Bytes, or with K, M, G or T (also KiB, KB..., powers of 1024). */
bool value_size(const char *text, uint64_t *bytes);
/* Seconds with decimals, more than 0. */
bool value_seconds(const char *text, uint64_t *ns);
/* *nr: which one of the words in `words`, which spaces separate, text is. False after a message. */
bool value_choice(const char *option, const char *words, const char *text, unsigned *nr);
/* Ends the part of PART[,PART]... at *rest, and makes ",," in it a comma. NULL behind the last. */
char *value_next_part(char **rest);

/* ---- life.c ---- */
/* argv[1] is the one argument, a VM's name. False after a message. */
bool cli_one_name(const char *cmd, int nr, char **argv);

/* ---- chan_options.c: where byte channels lead ---- */
enum chan_kind { CHAN_NONE, CHAN_STDIO, CHAN_FILE, CHAN_PTY, CHAN_SOCKET, CHAN_DEFAULT };
struct chan_option {
    enum chan_kind kind;
    char *text;       /* malloc'ed; path and name point into it */
    const char *path; /* of CHAN_FILE and CHAN_SOCKET */
    const char *name; /* of a port */
};
/* Values of --serial, --debugcon, --console and --port into a struct run_options; false: refused,
 * after a message. */
bool option_serial(void *into, const char *val);
bool option_debugcon(void *into, const char *val);
bool option_console(void *into, const char *val);
bool option_port(void *into, const char *val);
struct run_options;
/* All are known: what goes together? Settles the defaults. False after a message. */
bool chan_options_check(struct run_options *o);
void chan_options_free(struct run_options *o);

/* ---- device_options.c: values of --device and --vsock, in the same way ---- */
bool option_device(void *into, const char *val);
bool option_vsock(void *into, const char *val);
/* Takes ",transport=pci" or ",transport=mmio" off the end of the text, if one is there. */
void option_take_transport(char *text, enum vm_transport *transport);

/* ---- run_options.c ---- */

struct run_options {
    const char *engine, *firmware, *kernel, *initrd, *append, *cpu, *name;
    const char *vars_file, *vars_template;
    const char *boot_order, *vga_bios, *display_file;
    bool vga;
    struct vnc_config vnc; /* where NULL: none */
    char *vnc_text;        /* malloc'ed; vnc points into it */
    uint64_t memory_bytes;
    uint32_t nr_cpus; /* 0: not given */
    bool no_paravirt;
    struct host_sched sched;
    struct chan_option serial, debugcon, console, ports[VM_PORTS_MAX];
    unsigned nr_ports;
    enum vm_transport console_transport, rng_transport, balloon_transport, vsock_transport;
    bool debug_exit, rng, balloon, no_reboot, quiet, verbose;
    struct sandbox_config sandbox;
    uint64_t timeout_ns;
    const char *stats_file, *trace_file;
    uint32_t trace_mask;
    enum trace_format trace_format;
    bool trace_format_given;
    struct bt_config bt;
    struct kvm_config kvm;
    struct lockstep_config lockstep;
    struct disk_option disks[VM_DISKS_MAX];
    unsigned nr_disks;
    struct net_option nets[VM_NETS_MAX];
    unsigned nr_nets;
    struct share_option shares[VM_SHARES_MAX];
    unsigned nr_shares;
    char vsock_path[VSOCK_PATH_MAX + 1]; /* empty: none */
    uint32_t vsock_cid;
    bool gdb;
    struct gdb_config gdb_cfg;
    char *gdb_text; /* malloc'ed; gdb_cfg points into it */
};
/* Options that are for restore.c, which has looked for them before; here for --help. */
bool option_restore(void *into, const char *val);
/* Values of --memory and --cpus into a struct run_options; false: refused, after a message. */
bool option_memory(void *into, const char *val);
bool option_cpus(void *into, const char *val);
bool option_paravirt(void *into, const char *val);
/* Of --sandbox; and once all options are known, before the first thread: sandbox_options.c. */
bool option_trace_format(void *into, const char *val); /* trace_options.c */
/* --trace-file x.json is Chrome's, too. False after a message. */
bool trace_options_check(struct run_options *o);
#define SANDBOX_LIMITS_HELP                                                  \
    "LIMIT: no-file=N descriptors, fsize=SIZE of a file that is written,\n"  \
    "nproc=N processes of this user, ns=on|auto|off: namespaces (off),\n"    \
    "memory=SIZE, cpu=PERCENT, pids=N by a control group of its own below\n" \
    "cgroup=auto|PATH"
bool value_sandbox(const char *val, struct sandbox_config *c);
bool option_sandbox(void *into, const char *val);
bool sandbox_options_begin(const struct run_options *o);
bool option_display(void *into, const char *val); /* display_options.c */
/* 0, or an exit status after a message (or after --help: *help). */
int run_options_parse(struct run_options *o, int argc, char **argv, bool *help);
void run_options_help(void);
void run_options_free(struct run_options *o);
/* The engine of that name, or for "auto" the first that this host can run; NULL after a message. */
const struct engine_ops *run_options_engine(const struct run_options *o);

/* ---- restore.c: `doppel run --restore` ---- */
struct snap;
/* The options of a run: the snapshot's, and then those given. */
struct restore {
    struct snap *snap; /* NULL: it is no restore */
    int argc;
    char **argv;  /* argv[0] is the subcommand; malloc'ed as a whole */
    char **texts; /* malloc'ed ones that argv points to */
    unsigned nr_texts;
    struct json_t *config; /* for snapshots of this VM */
};
/* 0, or an exit status after a message. */
int restore_prepare(struct restore *r, int argc, char **argv);
void restore_free(struct restore *r);
/* Goes on from the snapshot, if there is one; no longer needed then. False after a message. */
bool restore_load(struct restore *r, struct vm *vm);

/* ---- vars.c: the file with UEFI's variables ---- */
struct vars {
    uint8_t *data; /* the file, mapped; NULL: closed */
    uint32_t bytes;
};
/*
 * Opens and maps the file; one that is not there is made as a copy of the template. path NULL: a
 * copy that is forgotten at the end. False after a message.
 */
bool vars_open(struct vars *v, const char *path, const char *template_path);
void vars_close(struct vars *v);

/* ---- monitor.c: Ctrl-A c on the console ---- */
struct monitor;
struct monitor *monitor_create(void);
void monitor_destroy(struct monitor *m);
/* The channel to show it on, and the VM it is about; each may come late (NULL until then). */
void monitor_set_chr(struct monitor *m, struct chr *c);
void monitor_set_vm(struct monitor *m, struct vm *vm);
/* The key behind Ctrl-A; the channel's escape callback. */
void monitor_escape(void *monitor, int key);

/* ---- signals.c: SIGINT, SIGTERM and SIGHUP end the VM cleanly; a second one at once ---- */
struct signals;
/* Blocks them; before any thread is started. */
void signals_block(void);
/* SIGNALS_CONSOLE: the VM's virtio console is on this terminal, and hears of its size. */
enum signals_terminal { SIGNALS_NO_CONSOLE, SIGNALS_CONSOLE };
struct signals *signals_watch(struct vm *vm, enum signals_terminal terminal);
void signals_unwatch(struct signals *s);

#endif
