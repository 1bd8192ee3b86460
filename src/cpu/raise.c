/* SPDX-License-Identifier: Apache-2.0 */
/* Exceptions become pending here; deliver.c takes them from c->exc. */
#include "cpu/cpu.h"

enum step raise_vec(struct cpu *c, enum vector vec)
{
    c->exc = (struct cpu_exc){ .valid = true, .vector = (uint8_t)vec };
    return STEP_FAULT;
}

enum step raise_err(struct cpu *c, enum vector vec, uint32_t err)
{
    c->exc = (struct cpu_exc){ .valid = true, .vector = (uint8_t)vec, .has_err = true, .err = err };
    return STEP_FAULT;
}

enum step raise_pf(struct cpu *c, gva_t at, uint32_t err)
{
    c->exc = (struct cpu_exc){
        .valid = true, .vector = VEC_PF, .has_err = true, .err = err, .addr = at.v
    };
    return STEP_FAULT;
}

enum step raise_db(struct cpu *c, uint64_t dr6)
{
    c->exc = (struct cpu_exc){ .valid = true, .vector = VEC_DB, .addr = dr6 };
    return STEP_FAULT;
}
