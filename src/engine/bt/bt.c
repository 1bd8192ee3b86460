/* SPDX-License-Identifier: Apache-2.0 */
/* Binary translation: the engine contract, and what interp and the direct tier ask and tell. */
#include "engine/bt/bt.h"

#include <asm/hwcap2.h>
#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

#include "lib/log.h"

/* A block that runs once or twice is not worth a translation. */
const struct bt_config bt_default_config = { .hot = 2, .idle_s = 10, .limit = UINT64_MAX };

/* ---- what interp tells ---- */

static struct bt_vcpu *of_ivcpu(struct ivcpu *v)
{
    return container_of(v, struct bt_vcpu, iv);
}

static void hook_flushed(struct ivcpu *v, enum flush_kind kind, uint64_t lin)
{
    bt_jc_flush(of_ivcpu(v), kind, lin);
}

static void hook_left(struct ivcpu *v, unsigned set)
{
    bt_jc_leave(of_ivcpu(v), set);
}

static void hook_back(struct ivcpu *v, unsigned set)
{
    bt_jc_back(of_ivcpu(v), set);
}

static void hook_switched(struct ivcpu *v)
{
    bt_kview_switched(of_ivcpu(v));
}

static bool hook_drop(struct ivcpu *v, gpa_t at, uint64_t bytes, bool decoded)
{
    struct bt_vcpu *b = of_ivcpu(v);
    bool any;

    if (b->direct)
        direct_code_written(b->direct, at, bytes);
    bt_cross_drop(b, at, bytes);
    any = bt_drop(b, at, bytes);
    if (any || decoded)
        bt_fluid_dropped(b, at);
    return any;
}

static void hook_drop_all(struct ivcpu *v)
{
    struct bt_vcpu *b = of_ivcpu(v);

    if (b->direct)
        direct_code_written_all(b->direct);
    insn_forget(&b->insns);
    bt_cross_drop_all(b);
    bt_drop_all(b);
}

static bool hook_has_code(struct ivcpu *v, uint64_t page)
{
    struct bt_vcpu *b = of_ivcpu(v);

    return bt_has_code(b->cache, page) || bt_cross_in_page(b, page) ||
           (b->direct && direct_has_code(b->direct, page));
}

static void hook_tlb_flush(struct ivcpu *v, const struct tlb_flush *what)
{
    struct bt_vcpu *b = of_ivcpu(v);

    if (b->direct)
        direct_flush(b->direct, what);
    bt_kview_flush(b, what);
    bt_far_flush(b, what);
}

/* Pages with breakpoints are not run as translations. */
static void hook_debug_changed(struct ivcpu *v)
{
    if (v->code_bps && of_ivcpu(v)->cache->nr_far)
        bt_far_unlink_all(of_ivcpu(v)->cache);
}

static void hook_noted(struct ivcpu *v, gpa_t at)
{
    struct bt_vcpu *b = of_ivcpu(v);

    if (b->direct)
        direct_code_noted(b->direct, at);
    bt_kview_protect(b, at.v >> PAGE_SHIFT);
}

static void hook_kick(struct ivcpu *v)
{
    struct bt_vcpu *b = of_ivcpu(v);

    if (b->direct)
        direct_kick(b->direct);
}

static void hook_outside(struct ivcpu *v)
{
    bt_vectors_out(of_ivcpu(v));
}

/* Its worker waits as well. */
static uint64_t hook_steal_ns(struct ivcpu *v, uint64_t ns)
{
    struct bt_vcpu *b = of_ivcpu(v);

    return b->direct ? ns + direct_waited_ns(b->direct) : ns;
}

/* ---- what the direct tier asks ---- */

static bool hint_starts(struct ivcpu *v, uint64_t page, struct direct_starts *out)
{
    struct bt_vcpu *b = of_ivcpu(v);

    return bt_starts(b->cache, page, bt_key(b), out);
}

static bool hint_known(struct ivcpu *v, gpa_t at)
{
    struct bt_vcpu *b = of_ivcpu(v);

    return bt_find(b->cache, at, bt_key(b)) != NULL;
}

static unsigned hint_targets(struct ivcpu *v, uint64_t *rips, unsigned max)
{
    return bt_jc_targets(of_ivcpu(v), rips, max);
}

static const struct direct_hints direct_hints = {
    .starts = hint_starts,
    .known = hint_known,
    .targets = hint_targets,
};

static const struct ivcpu_hooks hooks = {
    .flushed = hook_flushed,
    .left = hook_left,
    .back = hook_back,
    .switched = hook_switched,
    .drop = hook_drop,
    .drop_all = hook_drop_all,
    .has_code = hook_has_code,
    .tlb_flush = hook_tlb_flush,
    .noted = hook_noted,
    .debug_changed = hook_debug_changed,
    .kick = hook_kick,
    .outside = hook_outside,
    .steal_ns = hook_steal_ns,
};

/* ---- the contract ---- */

/* BMI2's PEXT is microcode on AMD processors before Zen 3. */
static bool pext_is_slow(void)
{
    unsigned a, bx, cx, dx, family;

    __cpuid(0, a, bx, cx, dx);
    if (bx != signature_AMD_ebx)
        return false;
    __cpuid(1, a, bx, cx, dx);
    family = (a >> 8 & 15) + (a >> 20 & 255);
    return family < 0x19;
}

static int bt_probe(char *why, size_t why_bytes)
{
    char lacking[160] = "";

    if (!__builtin_cpu_supports("bmi2")) {
        (void)snprintf(why, why_bytes, "the host's processor lacks BMI2");
        return -ENOTSUP;
    }
    if (!(getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE)) {
        (void)snprintf(why, why_bytes,
                       "the host's kernel does not let programs set GS.base (FSGSBASE)");
        return -ENOTSUP;
    }
    if (!__builtin_cpu_supports("avx")) {
        (void)snprintf(why, why_bytes, "the host's processor lacks AVX");
        return -ENOTSUP;
    }
    if (direct_probe(lacking, sizeof(lacking)) < 0)
        (void)snprintf(why, why_bytes, "without its direct tier: %s", lacking);
    return 0;
}

static void bt_describe(char *line, size_t bytes)
{
    char why[128];

    if (direct_probe(why, sizeof(why)) == 0)
        (void)snprintf(line, bytes, "direct tier: yes (hot user code in a process of its own)");
    else
        (void)snprintf(line, bytes, "direct tier: no (%s)", why);
}

static int bt_vm_create(const struct engine_config *cfg, struct engine_vm **out)
{
    struct bt_vm *vm = calloc(1, sizeof(*vm));
    int rc;

    if (!vm)
        return -ENOMEM;
    vm->ivm.evm.ops = &bt_engine;
    vm->slow_pext = pext_is_slow();
    rc = interp_vm_init(&vm->ivm, cfg);
    if (rc < 0) {
        free(vm);
        return rc;
    }
    if (cfg->bt && cfg->bt->perf_map)
        perf_map_open(vm);
    *out = &vm->ivm.evm;
    return 0;
}

static void bt_vm_destroy(struct engine_vm *evm)
{
    struct bt_vm *vm = container_of(evm, struct bt_vm, ivm.evm);

    interp_vm_fini(&vm->ivm);
    perf_map_close(vm);
    free(vm);
}

static void cache_destroy(struct bt_cache *bc)
{
    if (!bc)
        return;
    host_code_destroy(&bc->hc);
    host_unmap(bc->books, TB_BOOKS);
    free(bc->by_pc);
    free(bc);
}

static int cache_create(struct bt_cache **out, const struct bt_vm *vm)
{
    struct bt_cache *bc = calloc(1, sizeof(*bc));
    int rc;

    if (!bc)
        return -ENOMEM;
    bc->books = host_pages_low(TB_BOOKS);
    rc = bc->books ? host_code_create(&bc->hc, CODE_CACHE) : -ENOMEM;
    if (rc < 0) {
        host_unmap(bc->books, TB_BOOKS);
        free(bc);
        return rc;
    }
    bc->code = (struct emit){ .p = bc->hc.rw,
                              .end = bc->hc.rw + bc->hc.bytes,
                              .delta = bc->hc.rx - bc->hc.rw,
                              .slow_loop = emit_slow_loop(vm->ivm.evm.cfg.bt) };
    BUG_ON(!bt_make_thunks(bc, vm->slow_pext));
    *out = bc;
    return 0;
}

/* What needs no vCPU of interp; bt_vcpu_destroy() is for the rest. */
static int vcpu_alloc(struct bt_vcpu *b, const struct bt_vm *vm)
{
    b->making = calloc(1, sizeof(*b->making) + TB_MAX_INSNS * sizeof(struct site));
    return b->making ? cache_create(&b->cache, vm) : -ENOMEM;
}

static void vcpu_free(struct bt_vcpu *b)
{
    host_trap_stack_free(&b->stack);
    cache_destroy(b->cache);
    free(b->making);
    host_unmap(b, sizeof(*b));
}

static int bt_vcpu_create(struct engine_vm *evm, uint32_t id, struct vcpu **out)
{
    struct bt_vm *vm = container_of(evm, struct bt_vm, ivm.evm);
    struct bt_vcpu *b = host_pages(sizeof(*b));
    char why[128];
    int rc;

    if (!b)
        return -ENOMEM;
    rc = vcpu_alloc(b, vm);
    if (rc < 0) {
        vcpu_free(b);
        return rc;
    }
    perf_map_add_thunks(vm, b->cache);
    b->vm = vm;
    b->cfg = evm->cfg.bt ? evm->cfg.bt : &bt_default_config;
    b->mask_page = PAGE_MASK;
    b->mask_jc = JC_ENTRIES - 1;
    b->mask_not_if = ~(uint64_t)RFLAGS_IF;
    b->mask_df = RFLAGS_DF;
    b->mask_not_df = ~(uint64_t)RFLAGS_DF;
    b->mask_of = RFLAGS_OF;
    b->mask_63 = 63;
    b->mask_returns = (RETURNS - 1) * 8;
    b->mask_rep = ~(BT_WINDOW_GUARD / 8 - 1);
    b->mask_pushed = ~(uint64_t)(RFLAGS_ARITH | RFLAGS_FIXED1 | RFLAGS_RF | RFLAGS_VM);
    b->mask_if_df = RFLAGS_IF | RFLAGS_DF;
    b->mask_not_if_df = ~b->mask_if_df;
    b->mask_popf = RFLAGS_TF | RFLAGS_IOPL | RFLAGS_NT | RFLAGS_AC | RFLAGS_ID;
    b->mask_popf_user = b->mask_popf | RFLAGS_IF;
    b->mask_ah = 0xff00;
    b->mxcsr = 0x1f80;
    b->region = (struct host_trap_region){ .lo = b->cache->hc.rx,
                                           .hi = b->cache->hc.rx + b->cache->hc.bytes,
                                           .resume = b->cache->leave[WHY_TRAP] };
    bt_jc_init(b);
    bt_calls_init(b);
    rc = interp_vcpu_init(&vm->ivm, &b->iv, id);
    if (rc < 0) {
        vcpu_free(b);
        return rc;
    }
    b->ticks_per_us =
        (uint32_t)(1000 * (1ull << 30) / evm->cfg.time_ops->tsc_to_ns(evm->cfg.ctx, 1ull << 30));
    if (b->ticks_per_us && b->cfg->tiers != BT_TIERS_CHECKED &&
        direct_probe(why, sizeof(why)) == 0 && direct_create(&b->iv, &b->direct) < 0)
        b->direct = NULL;
    if (b->direct)
        direct_set_hints(b->direct, &direct_hints);
    bt_kview_create(b);
    b->iv.hooks = &hooks;
    *out = &b->iv.vc;
    return 0;
}

static void bt_vcpu_destroy(struct vcpu *vc)
{
    struct bt_vcpu *b = container_of(vc, struct bt_vcpu, iv.vc);

    bt_flush_cache(b);
    b->iv.hooks = NULL;
    direct_destroy(b->direct);
    bt_kview_destroy(b);
    interp_vcpu_fini(&b->iv);
    vcpu_free(b);
}

static void bt_state_changed(struct vcpu *vc)
{
    struct bt_vcpu *b = container_of(vc, struct bt_vcpu, iv.vc);

    if (b->direct)
        direct_reset(b->direct);
    bt_kview_reset(b);
    interp_state_changed(vc);
}

const struct engine_ops bt_engine = {
    .name = "bt",
    .about = "binary translation: near native speed without hardware virtualization",
    .counts_steps = true,
    .probe = bt_probe,
    .describe = bt_describe,
    .vm_create = bt_vm_create,
    .vm_destroy = bt_vm_destroy,
    .vcpu_create = bt_vcpu_create,
    .vcpu_destroy = bt_vcpu_destroy,
    .run = bt_run,
    .state_changed = bt_state_changed,
    .debug_update = interp_debug_update,
    .peek = interp_peek,
    .poke = interp_poke,
};
