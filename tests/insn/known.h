/* SPDX-License-Identifier: Apache-2.0 */
/* What is known of instructions that random tests must not run, or whose results are open. */
#ifndef TESTS_INSN_KNOWN_H
#define TESTS_INSN_KNOWN_H

#include <stdbool.h>
#include <stdint.h>

#include <Zydis/Zydis.h>

/* A user program must not do it to its own host, or it differs by nature. */
bool known_excluded(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *ops);
/* Flags that the manual leaves open. */
uint64_t known_undefined_flags(const ZydisDecodedInstruction *in);
/* Results the manual leaves open. */
bool known_undefined_result(const ZydisDecodedInstruction *in);

#endif
