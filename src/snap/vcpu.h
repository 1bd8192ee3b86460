/* SPDX-License-Identifier: Apache-2.0 */
/* The state of a vCPU in a snapshot: see vcpu.c. */
#ifndef SNAP_VCPU_H
#define SNAP_VCPU_H

#include "vm/vm.h"

extern const struct state_table vcpu_table; /* of a struct cpu */

/* Requests by other threads, which are saved apart: they are not the vCPU's thread's. */
uint32_t vcpu_saved_requests(struct cpu *c);

/* All fields were loaded; makes the rest fit, arms its timer. -EINVAL after a message. */
int vcpu_loaded(struct vcpu *v, uint32_t requests) MUST_CHECK;

#endif
