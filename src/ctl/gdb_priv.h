/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the gdb stub share. */
#ifndef CTL_GDB_PRIV_H
#define CTL_GDB_PRIV_H

#include "ctl/ctl.h"
#include "ctl/gdb_packet.h"

#define GDB_BPS_MAX ARRAY_SIZE(((struct dbg *)0)->bps)

/* gdb's types of breakpoints: the digit of its Z packets. */
enum gdb_bp_type { BP_SOFT, BP_HARD, BP_WRITE, BP_READ, BP_ACCESS, NR_BP_TYPES };

struct gdb_bp {
    enum gdb_bp_type type;
    gva_t at;
    uint32_t bytes;
};

/* A vCPU's stop that gdb was not told of yet. */
struct gdb_hit {
    bool valid;
    gva_t at;
    unsigned acc;
};

struct gdb {
    struct vm *vm;
    char unix_path[108]; /* "": TCP */
    int listen_fd, wake_fd;
    struct thread thread;

    struct lock lock;     /* LOCK_LEAF: guards what follows */
    struct gdb_hit *hits; /* one per vCPU */
    unsigned nr_holds;    /* pauses of the VM that are ours */
    bool attached;
    bool quit;
    int status; /* once quit */

    /* The thread's own. */
    int fd;       /* the client, or -1 */
    bool running; /* gdb waits for a stop */
    bool no_ack, no_ack_next;
    bool says_swbreak, says_hwbreak; /* gdb wants to know which kind it was */
    unsigned cpu_g, cpu_c;           /* vCPUs that registers and steps are of */
    struct gdb_bp bps[GDB_BPS_MAX];
    unsigned nr_bps;
    struct gdb_rx rx;
    struct gdb_tx tx;
    char frame[GDB_FRAME_BYTES];
};

/* gdb numbers threads from 1. */
static inline unsigned gdb_tid(unsigned cpu_id)
{
    return cpu_id + 1;
}

/* ---- gdb.c ---- */
/* Sends payload as a packet of its own (console output, stop replies). */
void gdb_send(struct gdb *g, const void *payload, size_t bytes);
/* Lets the VM run; the reply comes when it stops. */
void gdb_run(struct gdb *g);
/* Breakpoints and steps away, the VM goes on. */
void gdb_detach(struct gdb *g);
void gdb_update_bps(struct gdb *g);

/* ---- gdb_cmd.c: one packet; the answer in g->tx is sent if this says so ---- */
bool gdb_command(struct gdb *g, const char *p, const char *end);
/* "thread-id": false if it is none of ours. 0 and -1 (any, all) give `any`. */
bool gdb_take_thread(struct gdb *g, const char **p, unsigned any, unsigned *cpu);
void gdb_error(struct gdb *g, unsigned nr);

/* ---- gdb_query.c: q, Q and v packets ---- */
bool gdb_query(struct gdb *g, const char *p);
bool gdb_set(struct gdb *g, const char *p);

#endif
