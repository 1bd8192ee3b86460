/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Static probes (USDT) for perf, bpftrace, SystemTap and gdb: docs/observability.md lists them. A
 * probe that nobody listens to is one NOP and a note in the program's file.
 */
#ifndef LIB_PROBE_H
#define LIB_PROBE_H

#define SDT_USE_VARIADIC
#include <sys/sdt.h>

/* probe(exit, vcpu, reason): provider "doppel"; at most 6 integers or pointers. */
#define probe(name, ...) STAP_PROBEV(doppel, name, __VA_ARGS__)

#endif
