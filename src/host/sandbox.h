/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sandbox of the monitor: what is left of the user's rights once a VM runs.
 *
 * In this order, by `doppel run`: sandbox_begin() and sandbox_isolate() before the first thread,
 * sandbox_allow() for what will be opened later, then all is opened and its threads start, each
 * going into its own sandbox (thread_start_as()); at last sandbox_enter(HOST_MAIN), and only then
 * run the vCPUs. `doppel api` does the same once it is told to start its VM, with HOST_API
 * (api/jail.c).
 */
#ifndef HOST_SANDBOX_H
#define HOST_SANDBOX_H

#include "host/host.h"

enum sandbox_mode { SANDBOX_AUTO, SANDBOX_ON, SANDBOX_OFF };

enum sandbox_ns { SANDBOX_NS_OFF, SANDBOX_NS_AUTO, SANDBOX_NS_ON };

#define SANDBOX_CGROUP_MAX 255
/* What was asked for. All zero: a sandbox with what the host has. */
struct sandbox_config {
    enum sandbox_mode mode;
    /* Resource limits; 0: as they are. They are never raised. */
    uint64_t nr_files, fsize_bytes, nr_procs;
    enum sandbox_ns ns; /* namespaces: sandbox_ns.c */
    /* A control group of its own: sandbox_cgroup.c. Empty: none; "auto": below the one we are in;
     * else below this path in each hierarchy. */
    char cgroup[SANDBOX_CGROUP_MAX + 1];
    uint64_t memory_bytes, nr_pids; /* its limits; 0: none */
    uint32_t cpu_percent;           /* of one processor */
};

/*
 * Sets the sandbox up for this process. SANDBOX_AUTO takes what the host has and says (log_debug)
 * what it has not; SANDBOX_ON: -ENOSYS after a message if something is missing. What was asked for
 * by name is there, or this fails after a message. Copies what it is given.
 */
int sandbox_begin(const struct sandbox_config *cfg) MUST_CHECK;

#define SANDBOX_KEEP_NET BIT(0) /* something needs the host's network */
/*
 * Goes into namespaces, if they were asked for; perhaps as another process (sandbox_pid.c). While
 * there is one thread, and before anything is opened that shall be seen from inside. -errno after a
 * message.
 */
int sandbox_isolate(unsigned keeps) MUST_CHECK;
/* In a PID namespace of its own: the process's number for everybody else. Else 0. */
int sandbox_pid_outside(void);

/* What a path is needed for, once all is open. */
#define SANDBOX_READ   BIT(0) /* open files and directories to read, what is there and below */
#define SANDBOX_REMOVE BIT(1) /* in the directory: remove files */
#define SANDBOX_PLACE  BIT(2) /* in the directory: link, rename and make files */
#define SANDBOX_WRITE  BIT(3) /* open to write, what is there and below */
#define SANDBOX_DIRS   BIT(4) /* make and remove directories, special files, links */
#define SANDBOX_SOCKET BIT(5) /* in the directory: make and remove Unix sockets */
#define SANDBOX_LIST   BIT(6) /* open directories, what is there and below */
/* For threads of these roles (BIT(enum host_role)). Not there: fine, then it is not needed. No-op
 * without sandbox. */
void sandbox_allow(uint32_t roles, const char *path, unsigned what);
/* ... the directory that the file is in. */
void sandbox_allow_dir_of(uint32_t roles, const char *path, unsigned what);

/* This thread gives its rights up; for ever. No-op without sandbox. */
void sandbox_enter(enum host_role role);
/* Around the way in of a thread, by who starts it and by itself (or by who failed to start it). */
void sandbox_thread_starts(void);
void sandbox_thread_in(void);
/* Ends the setup: all threads that were started are in, or this waits. What holds is logged
 * (log_debug). */
void sandbox_settled(void);
/* That was so, and there is a sandbox: no other process is started any more. The thread that
 * settles it asks. */
bool sandbox_is_settled(void);

#endif
