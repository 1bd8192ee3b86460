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

/* One word, so that a reader sees all of it: below 0, it runs, and would have begun at -busy_ns if
 * it had never ceased to. */
void vcpu_busy_begin(struct vcpu *v)
{
    __atomic_store_n(&v->busy_ns, v->busy_ns - (int64_t)host_mono_ns(), __ATOMIC_RELAXED);
}

void vcpu_busy_end(struct vcpu *v)
{
    __atomic_store_n(&v->busy_ns, v->busy_ns + (int64_t)host_mono_ns(), __ATOMIC_RELAXED);
}

uint64_t vcpu_busy_ns(const struct vcpu *v)
{
    int64_t ns = __atomic_load_n(&v->busy_ns, __ATOMIC_RELAXED);

    return (uint64_t)(ns < 0 ? ns + (int64_t)host_mono_ns() : ns);
}
