/* SPDX-License-Identifier: Apache-2.0 */
/* What the direct tier asks about an instruction before it translates it. */
#ifndef ENGINE_BT_DIRECT_ALLOW_H
#define ENGINE_BT_DIRECT_ALLOW_H

#include "engine/bt/emit.h"
#include "engine/bt/insn.h"

/* What runs as it is here, but not where memory operands are checked: hidden or several memory
 * operands. The allow-list of both tiers is in bt/insn.c. */
bool dinsn_may_copy(const struct insn *in);
/* LOOP and JRCXZ, whose targets are within 128 bytes. */
bool dinsn_is_short_branch(const struct insn *in);
/* An operand-size prefix makes a near branch 16 bits wide on AMD's processors. */
bool dinsn_is_odd_branch(const struct insn *in);
bool dinsn_is_rip_relative(const struct insn *in);
/* One of RAX .. RDI that the instruction does not name in any way; H_NONE: it names all. */
enum hreg dinsn_free_reg(const struct insn *in);

#endif
