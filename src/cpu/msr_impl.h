/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The MSR table's row, shared by msr.c and the files with groups of MSRs.
 */
#ifndef CPU_MSR_IMPL_H
#define CPU_MSR_IMPL_H

#include "cpu/cpu.h"

typedef enum step msr_read_fn(struct cpu *c, uint32_t msr, uint64_t *val);
typedef enum step msr_write_fn(struct cpu *c, uint32_t msr, uint64_t val);

/* mtrr.c; msr is one of the MTRRs */
msr_read_fn mtrr_rd_cap, mtrr_rd_def_type, mtrr_rd_var, mtrr_rd_fixed;
msr_write_fn mtrr_wr_def_type, mtrr_wr_var, mtrr_wr_fixed;

/* pv.c; msr is one of KVM's */
msr_read_fn pv_rd;
msr_write_fn pv_wr;

#endif
