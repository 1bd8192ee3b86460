/* SPDX-License-Identifier: Apache-2.0 */
/* A machine for tests of the TLB: memory and a vCPU that does not run. */
#ifndef ENGINE_INTERP_TLB_FAKE_H
#define ENGINE_INTERP_TLB_FAKE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "engine/interp/tlb.h"

#define LIN(n) ((uint64_t)(n)*PAGE_BYTES)

struct fake {
    struct cpu_model model;
    struct log_seen seen;
    struct mmu *mmu;
    struct slot *ram;
    struct engine_vm *evm;
    struct vcpu *vc;
    struct ivcpu *v;
};

static inline struct fake *fake_create(unsigned ram_pages)
{
    static const struct platform_ops no_platform;
    static const struct platform_time_ops no_time;
    struct fake *f = calloc(1, sizeof(*f));
    struct engine_config cfg;
    char err[200];

    assert_non_null(f);
    assert_true(cpu_model_init(&f->model, "host", err, sizeof(err)));
    f->model.nr_cpus = 1;
    f->mmu = mmu_create();
    assert_int_equal(
        mmu_slot_add(f->mmu, &(struct slot_desc){ .name = "ram", .bytes = ram_pages * PAGE_BYTES },
                     &f->ram),
        0);
    cfg = (struct engine_config){ .mmu = f->mmu,
                                  .model = &f->model,
                                  .ops = &no_platform,
                                  .time_ops = &no_time,
                                  .seen = &f->seen };
    assert_int_equal(interp_engine.vm_create(&cfg, &f->evm), 0);
    assert_int_equal(interp_engine.vcpu_create(f->evm, 0, &f->vc), 0);
    f->v = container_of(f->vc, struct ivcpu, vc);
    return f;
}

static inline void fake_destroy(struct fake *f)
{
    interp_engine.vcpu_destroy(f->vc);
    interp_engine.vm_destroy(f->evm);
    mmu_destroy(f->mmu);
    free(f);
}

static inline bool may_read(const struct fake *f, unsigned n)
{
    return TLB_HIT(f->v->tlb, r, LIN(n), 4);
}

static inline bool may_write(const struct fake *f, unsigned n)
{
    return TLB_HIT(f->v->tlb, w, LIN(n), 4);
}

#endif
