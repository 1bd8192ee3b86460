/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Watching and steering a running VM from outside: the control socket and its client, statistics as
 * text, where trace lines go, and the gdb stub.
 */
#ifndef CTL_CTL_H
#define CTL_CTL_H

#include "lib/trace.h"
#include "vm/vm.h"

/* ---- control socket (server.c), one per VM: DIR/NAME.sock ---- */
struct ctl;

#define CTL_NAME_MAX 48
/* A name of a VM: letters, digits, '.', '_', '-', not beginning with '.' or '-'. */
bool ctl_name_ok(const char *name);
/* The directory of this user's sockets; made if `make`. False and a message if there is none. */
bool ctl_dir(char *dir, size_t bytes, bool make);

/*
 * Takes the name: -EEXIST and a message if a VM of that name lives; what a dead one left behind is
 * removed. Nobody is served before ctl_serve().
 */
int ctl_open(const char *name, struct ctl **out) MUST_CHECK;
int ctl_serve(struct ctl *c, struct vm *vm) MUST_CHECK;
/* Ends the server and removes the socket. NULL is fine. */
void ctl_close(struct ctl *c);

/*
 * One request line, without its newline, as the server takes it; the answer line is malloc'ed. The
 * protocol is JSON: {"do": "stat"} gives {"ok": true, "result": ...} or {"ok": false, "error":
 * ...}.
 *
 * Who asks for a file to be written passes it open (SCM_RIGHTS, with the line's first byte): the
 * VM's process may open none itself, once it is in its sandbox. "screenshot": the picture's.
 * "snapshot": those of state and memory, new and empty; "dir" says where they will be, the answer
 * has "fds": true, and a client that cannot put them there tells by "snapshot-lost". Without
 * descriptors the process tries to do it all by itself.
 */
/* Descriptors that came with a request; the caller's. */
#define CTL_FDS_MAX  2
#define CTL_PATH_MAX 3000 /* bytes of a path in a request */
struct ctl_fds {
    int fd[CTL_FDS_MAX];
    unsigned nr;
};
char *ctl_answer(struct vm *vm, const char *line, size_t bytes, const struct ctl_fds *fds);

/*
 * The same for a request for a byte channel, {"do": "console", "arg": WHICH}, WHICH as for
 * ctl_attach(); false: it is another request. If the channel takes *fd, the client's, for its
 * visitor, it answers there, and *fd is -1; else *answer is malloc'ed.
 */
bool ctl_answer_console(struct vm *vm, const char *line, size_t bytes, int *fd, char **answer);

/* ---- screen and keyboard (screen.c) ---- */
/* What the screen shows, as a PNG file. 0 or -errno after a message. */
int ctl_write_screen(struct vm *vm, const char *path) MUST_CHECK;
/* ... into a file that is open; name is for messages. */
int ctl_write_screen_to(struct vm *vm, int fd, const char *name) MUST_CHECK;
/* Presses and releases keys together: "a", "ctrl-alt-delete". -EINVAL: there is no such key;
 * -EAGAIN: the guest has not taken those before. */
int ctl_press(struct vm *vm, const char *keys) MUST_CHECK;

/* ---- VNC (vnc.c) ---- */
struct vnc;
struct vnc_config {
    const char *where;         /* a host name or address, or unix:PATH */
    uint16_t port;             /* with the former */
    const char *password_file; /* NULL: none is asked for */
};
/* Starts the server; who connects sees the screen and has keyboard and mouse. 0, or -errno after a
 * message. The VM lives until vnc_close(). */
int vnc_open(struct vm *vm, const struct vnc_config *cfg, struct vnc **out) MUST_CHECK;
void vnc_close(struct vnc *n); /* NULL is fine */

/* ---- client (client.c) ---- */
/* Sends {"do": what} to the VM and returns the "result" as JSON text, malloc'ed; NULL after a
 * message. */
char *ctl_request(const char *name, const char *what);
/* The same with an argument: {"do": what, "arg": arg}. */
char *ctl_request_arg(const char *name, const char *what, const char *arg);
/* The same with a whole request, a line of JSON. */
char *ctl_request_line(const char *name, const char *line);
/*
 * A byte channel of the VM: "serial", "console", the name of a port, or NULL: its console, or the
 * serial port if it has none. A socket that is the other end of it, or -1: then *pty is the name of
 * its pseudo-terminal, malloc'ed, or NULL after a message. *sized: who is attached should tell how
 * large the terminal is, by ctl_tell_size().
 */
int ctl_attach(const char *name, const char *which, char **pty, bool *sized) MUST_CHECK;
/* Failures are of no interest. */
void ctl_tell_size(const char *name, uint16_t cols, uint16_t rows);
/* ... of which the answer may take so long. */
char *ctl_request_long(const char *name, const char *line, unsigned limit_s);
/* ... with descriptors, which stay the caller's; NULL: none. */
char *ctl_request_fds(const char *name, const char *line, unsigned limit_s,
                      const struct ctl_fds *fds);
/* {"do": what, "arg": arg} as a line; malloc'ed. NULL after a message. */
char *ctl_line_arg(const char *what, const char *arg);
/* Names of the VMs that live, one call of fn each. Returns how many. */
unsigned ctl_list(void (*fn)(void *arg, const char *name), void *arg);

/* ---- statistics as text (stat_text.c); malloc'ed ---- */
/* From vm_stats_json(): what `doppel stat` and the monitors show. */
char *ctl_stat_text(const char *stats_json);
/* Prometheus' text of VMs: an array of what vm_stats_json() gives. */
struct json_t;
char *ctl_prometheus(const struct json_t *vms);
/* A few lines: name, engine, state, memory. */
char *ctl_info_text(const char *stats_json);

/* ---- trace output (trace_out.c) ---- */
struct trace_out;
/* "pio,irq" or "all"; false: *bad points to the first word that is no category. */
bool trace_parse(const char *text, uint32_t *mask, const char **bad);
enum trace_format { TRACE_TEXT, TRACE_CHROME };
/* path NULL: standard error (text only). NULL after a message. */
struct trace_out *trace_out_open(uint32_t mask, const char *path, enum trace_format format);
const struct trace *trace_out_trace(const struct trace_out *o);
void trace_out_close(struct trace_out *o);

/* ---- gdb stub (gdb.c) ---- */
struct gdb;
struct gdb_config {
    uint16_t port;         /* on 127.0.0.1, or ... */
    const char *unix_path; /* ... when not NULL */
    bool wait;             /* the VM stands still until gdb lets it go */
};
/* Between vm_create() and vm_start(). */
int gdb_open(struct vm *vm, const struct gdb_config *cfg, struct gdb **out) MUST_CHECK;
/* Tells gdb that the VM has ended with that exit status. NULL is fine. */
void gdb_close(struct gdb *g, int status);

#endif
