/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stubs of one vCPU, found by what they do: two guest instructions that need the same host code
 * and the same checks share one. Bounded, so that a hostile guest cannot eat the host's memory;
 * when full the engine drops all decoded code and resets it.
 */
#include "engine/interp/native_int.h"
#include "host/host.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NR_STUBS   32768u /* 8 MB of code */
#define NR_BUCKETS 8192u
#define NO_STUB    UINT32_MAX

struct native_cache {
    struct lock lock;
    struct host_code code;
    struct native_stub *stubs; /* all below guarded by lock */
    uint32_t nr_stubs;
    bool full;
    uint32_t buckets[NR_BUCKETS];
};

int native_cache_create(struct native_cache **out)
{
    struct native_cache *nc = calloc(1, sizeof(*nc));
    int err = -ENOMEM;

    if (!nc)
        return -ENOMEM;
    lock_init(&nc->lock, LOCK_LEAF);
    nc->stubs = calloc(NR_STUBS, sizeof(*nc->stubs));
    if (!nc->stubs)
        goto fail;
    err = host_code_create(&nc->code, (uint64_t)NR_STUBS * NATIVE_STUB_BYTES);
    if (err)
        goto fail_stubs;
    err = host_trap_install();
    if (err)
        goto fail_code;
    native_cache_reset(nc);
    *out = nc;
    return 0;

fail_code:
    host_code_destroy(&nc->code);
fail_stubs:
    free(nc->stubs);
fail:
    lock_destroy(&nc->lock);
    free(nc);
    return err;
}

void native_cache_destroy(struct native_cache *nc)
{
    if (!nc)
        return;
    host_trap_remove();
    host_code_destroy(&nc->code);
    free(nc->stubs);
    lock_destroy(&nc->lock);
    free(nc);
}

bool native_cache_full(struct native_cache *nc)
{
    bool full;

    lock_take(&nc->lock);
    full = nc->full;
    lock_drop(&nc->lock);
    return full;
}

void native_cache_reset(struct native_cache *nc)
{
    lock_take(&nc->lock);
    nc->nr_stubs = 0;
    nc->full = false;
    for (unsigned i = 0; i < NR_BUCKETS; i++)
        nc->buckets[i] = NO_STUB;
    lock_drop(&nc->lock);
}

/* FNV-1a */
static uint32_t hash_desc(const struct native_desc *d)
{
    const uint8_t *p = (const uint8_t *)d;
    uint32_t h = 2166136261u;

    for (size_t i = 0; i < sizeof(*d); i++)
        h = (h ^ p[i]) * 16777619u;
    return h % NR_BUCKETS;
}

static const struct native_stub *find(const struct native_cache *nc, const struct native_desc *d,
                                      uint32_t bucket)
{
    for (uint32_t i = nc->buckets[bucket]; i != NO_STUB; i = nc->stubs[i].next)
        if (!memcmp(&nc->stubs[i].d, d, sizeof(*d)))
            return &nc->stubs[i];
    return NULL;
}

static const struct native_stub *add(struct native_cache *nc, const struct native_desc *d,
                                     uint32_t bucket)
{
    struct native_stub *s = &nc->stubs[nc->nr_stubs];
    uint64_t off = (uint64_t)nc->nr_stubs * NATIVE_STUB_BYTES;

    if (nc->nr_stubs == NR_STUBS) {
        nc->full = true;
        return NULL;
    }
    memset(s, 0, sizeof(*s));
    memcpy(&s->d, d, sizeof(*d));
    if (d->code_bytes && !native_emit(s, nc->code.rw + off, nc->code.rx + off))
        return NULL;
    s->next = nc->buckets[bucket];
    nc->buckets[bucket] = nc->nr_stubs++;
    return s;
}

const struct native_stub *native_get(struct native_cache *nc, const struct cpu_model *model,
                                     const ZydisDecodedInstruction *insn,
                                     const ZydisDecodedOperand *ops, const uint8_t *bytes)
{
    const struct native_insn in = { insn, ops, bytes, model->vendor };
    const struct native_stub *s;
    struct native_desc d;
    uint32_t bucket;

    if (!native_insn_offered(model, insn) || !native_describe(&d, &in))
        return NULL;
    bucket = hash_desc(&d);
    lock_take(&nc->lock);
    s = find(nc, &d, bucket);
    if (!s)
        s = add(nc, &d, bucket);
    lock_drop(&nc->lock);
    return s;
}
