/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker: the sandboxed process in which guest user code runs, seen from the monitor.
 *
 * It holds its home (layout.h) and whatever guest pages the view (view.c) had it map, and nothing
 * else: no libc, no stack of its own, no descriptors but the RAM's and the two of the door. It can
 * make system calls only from the stub page, and only those of the list in worker_sandbox.c.
 *
 * The door: the monitor writes an eventfd, the worker wakes, works off the commands, and runs guest
 * code until a signal; the handler writes a pipe and waits. All a stopped worker's state is in the
 * signal frame in its home. Nothing there can be forged: guest code can write the frame's memory
 * while it runs, but the kernel fills it after the guest has stopped, and the worker has one
 * thread.
 */
#ifndef ENGINE_BT_DIRECT_WORKER_H
#define ENGINE_BT_DIRECT_WORKER_H

#include <ucontext.h>

#include "cpu/cpu.h"
#include "host/host.h"

#define WORKER_MAX_FDS 32

/* Where a stopped worker rests, and so where the guest's registers are. */
enum rest {
    REST_SIGNAL, /* in the signal frame: uc, fpu */
    REST_EXIT,   /* in regs and fpu, and what they are loaded from is to_regs and to_fpu */
};

/* The guest's registers as the stub saves and loads them. */
struct door_regs {
    uint64_t gpr[NR_GPRS];
    uint64_t flags;
    uint64_t pc; /* where to go on; as saved: which exit it was */
};

struct worker {
    int pid; /* 0: none */
    int fd_go, fd_told;
    uint64_t home;           /* where it lies in the worker */
    uint8_t *hva;            /* and here */
    struct host_delay delay; /* how long it waits for CPUs */
    unsigned nr_cmds;
    enum rest rest;
    bool entered;   /* false: a kick came first, and the guest did not run */
    uint64_t ran;   /* TSC ticks of the last worker_go() that the guest had, as the worker tells:
                       at most its duration, but guest code can make it anything below that */
    int signal;     /* of the present stop, REST_SIGNAL */
    ucontext_t *uc; /* its frame, in the home */
    const struct door_regs *regs;
    struct door_regs *to_regs;
    struct xsave_area *fpu, *to_fpu; /* the same one in the frame */
};

struct worker_desc {
    uint64_t home;  /* multiple of 4096 */
    const int *fds; /* what it may map */
    unsigned nr_fds;
};

/* -errno, and a line in why. The worker comes stopped. */
int worker_create(struct worker *w, const struct worker_desc *desc, char *why,
                  size_t why_bytes) MUST_CHECK;
/* Does the monitor itself, of which a worker begins as a copy, leave room for a home there? */
bool worker_place_free(uint64_t home);
/* Accepts a zeroed one. */
void worker_destroy(struct worker *w);

/* Queues a system call. When the list is full it is worked off first: -errno of what failed then.
 */
struct worker_call {
    uint64_t nr, a[6];
};
int worker_cmd(struct worker *w, const struct worker_call *call) MUST_CHECK;
/* Works off the list; the worker stays stopped. -errno of the call that failed (the rest is
 * dropped); -EPIPE: the worker is dead. */
int worker_sync(struct worker *w) MUST_CHECK;
/* Works off the list and lets the guest run until the next stop. Errors as worker_sync(): the guest
 * did not run then. */
int worker_go(struct worker *w) MUST_CHECK;
/* Before another guest program may run: leaves nothing of the last one's registers in the home,
 * which programs can read, when guest code is entered next. The worker is stopped, and all
 * registers are loaded anew after this. */
void worker_scrub(struct worker *w);
/* Where the guest's code will go on, and where it stands (REST_SIGNAL). */
void worker_set_pc(struct worker *w, uint64_t pc);
/* What RDTSC adds to the host's TSC, and what RDTSCP gives in ECX. */
void worker_set_tsc(struct worker *w, uint64_t offset, uint32_t aux);
/* Stops the guest's code, soon. Any thread, async-signal-safe. */
void worker_kick(int pid);

/* ---- worker_sandbox.c: the child's side, up to the stub ---- */

struct worker_child {
    const struct worker_desc *desc;
    int home_fd, fd_wait, fd_tell;
    int parent;
};
/* Never returns. Exit status: a step of enum child_step. */
void worker_child(const struct worker_child *k) __attribute__((noreturn));
/* What the child could not do, by its exit status. */
const char *worker_child_failure(int status);

/* The signal that kicks. */
#define WORKER_KICK_SIGNAL 10 /* SIGUSR1 */

#endif
