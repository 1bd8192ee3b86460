/* SPDX-License-Identifier: Apache-2.0 */
/* What all engines share: the list of them, the names of exits, and where exits are counted. */
#include "engine/engine.h"

#include "lib/probe.h"

#include "host/host.h"

#include <string.h>

static const char *const exit_texts[] = {
#define EXIT(id, text) text,
#include "engine/exits.def"
#undef EXIT
};

static const char *const exit_keys[] = {
#define EXIT(id, text) #id,
#include "engine/exits.def"
#undef EXIT
};

const struct engine_ops *const engines[] = { &kvm_engine, &bt_engine, &interp_engine, NULL };

const char *exit_text(enum exit_reason why)
{
    return exit_texts[why];
}

const char *exit_key(enum exit_reason why)
{
    return exit_keys[why];
}

const struct engine_ops *engine_find(const char *name)
{
    for (unsigned i = 0; engines[i]; i++)
        if (!strcmp(engines[i]->name, name))
            return engines[i];
    return NULL;
}

uint64_t vcpu_exit_begin(struct vcpu *v, enum exit_reason why)
{
    probe(exit, v->cpu.id, (int)why);
    v->nr_exits[why]++;
    return v->evm->cfg.time_exits ? host_mono_ns() : 0;
}

void vcpu_exit_end(struct vcpu *v, enum exit_reason why, uint64_t start)
{
    probe(exit_end, v->cpu.id, (int)why);
    if (start)
        v->exit_ns[why] += host_mono_ns() - start;
}
