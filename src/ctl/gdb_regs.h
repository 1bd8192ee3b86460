/* SPDX-License-Identifier: Apache-2.0 */
/* The registers gdb sees, their numbers and their description: see gdb_regs.c. */
#ifndef CTL_GDB_REGS_H
#define CTL_GDB_REGS_H

#include "cpu/cpu.h"
#include "ctl/gdb_packet.h"

#define GDB_REG_BYTES_MAX 16

unsigned gdb_nr_regs(void);
unsigned gdb_reg_bytes(unsigned nr);
/* In the guest's byte order, gdb_reg_bytes(nr) bytes. */
void gdb_reg_get(const struct cpu *c, unsigned nr, uint8_t *val);
/* False: this one cannot be written (to something else). The caller tells the engine of a change.
 */
bool gdb_reg_set(struct cpu *c, unsigned nr, const uint8_t *val);
/* target.xml, malloc'ed; NULL: out of memory. */
char *gdb_target_xml(void);

#endif
