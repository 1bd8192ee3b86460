/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by the sandbox's files. */
#ifndef HOST_SANDBOX_PRIV_H
#define HOST_SANDBOX_PRIV_H

#include "host/sandbox.h"

/* ---- sandbox_filter.c: lists of system calls ---- */
struct sock_fprog;
/* The kernel has what it takes. */
bool filter_possible(void);
/* The role's filter, malloc'ed program and all. 0 or -errno. */
int filter_make(enum host_role role, struct sock_fprog *prog) MUST_CHECK;
/* From now on this thread is held to it; a violation is SIGSYS, see sandbox_trap.c. */
int filter_load(const struct sock_fprog *prog) MUST_CHECK;

/* ---- sandbox_limits.c ---- */
/* 0, or -errno after a message. */
int limits_set(const struct sandbox_config *cfg) MUST_CHECK;

/* ---- sandbox_cgroup.c ---- */
/* While there is one thread. 0, or -errno after a message. */
int cgroup_enter(const struct sandbox_config *cfg) MUST_CHECK;

/* ---- sandbox_ns.c: namespaces ---- */
/* This path will be needed. For all calls there is one thread. */
void ns_path(const char *path, unsigned what);
/* While there is one thread. own_net: nothing needs the host's network. Again: nothing happens. 0
 * or -errno. */
int ns_enter(bool own_net) MUST_CHECK;
/* Is the process in a user namespace of its own, where it has capabilities that it had not? */
bool ns_own_user(void);
/* All is open: for the whole process, nothing is there any more but the paths. 0 or -errno. */
int ns_leave_files(void) MUST_CHECK;

/* ---- sandbox_pid.c ---- */
/* Behind ns_enter(). Goes on in a child, whose number outside this tells; the caller's process
 * stays behind. -errno: not possible here, and nothing has happened; or, behind the child, it is
 * over. */
int pid_ns_enter(int *outside) MUST_CHECK;

/* ---- sandbox_trap.c: what a violation looks like ---- */
/* Handles SIGSYS; who had it before comes after. May be called again, when somebody else took it.
 * lets_live: the call fails with EPERM; else the process ends. */
int trap_catch_sigsys(bool lets_live) MUST_CHECK;

/* ---- sandbox_paths.c: Landlock ---- */
/* The version of Landlock's interface; 0: there is none. */
int paths_abi(void);
/* For the whole process, from before its first thread: no signals to and no looking into processes
 * that are not our own. 0 or -errno. */
int paths_shut_in(void) MUST_CHECK;
/* A list of what may be opened; empty. A descriptor, or -errno. */
int paths_new(void) MUST_CHECK;
int paths_add(int rules, const char *path, unsigned what) MUST_CHECK;
int paths_enter(int rules) MUST_CHECK;

#endif
