/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The debugger's breakpoints and watchpoints. Up to four are the processor's (SDM 3, "Debug
 * Registers"); with more, or with ranges that it cannot watch, interp runs the vCPU as long as they
 * are there. Steps are always interp's: exactly one instruction, and no interrupt's handler.
 *
 * While the debugger has the registers, the guest's own breakpoints do not hit.
 */
#include <string.h>

#include "engine/kvm/kvm.h"
#include "lib/log.h"

#define NR_DRS 4

/* DR7's R/W and LEN fields for one breakpoint. False: the processor has no such. */
static bool dr7_field(const struct dbg_bp *b, uint32_t *field)
{
    static const uint8_t len_code[] = { [1] = 0, [2] = 1, [4] = 3, [8] = 2 };

    if (b->acc == ACC_EXEC) {
        *field = 0;
        return true;
    }
    if (b->bytes >= sizeof(len_code) || (b->bytes & (b->bytes - 1)) || !b->bytes ||
        b->at.v % b->bytes)
        return false;
    *field = (uint32_t)len_code[b->bytes] << 2 | (b->acc & ACC_WRITE ? 1 : 3);
    return true;
}

static bool fill_registers(const struct dbg *d, struct kvm_guest_debug *g)
{
    uint64_t dr7 = DR7_FIXED1;

    if (d->nr_bps > NR_DRS)
        return false;
    for (unsigned i = 0; i < d->nr_bps; i++) {
        uint32_t field;

        if (!dr7_field(&d->bps[i], &field))
            return false;
        g->arch.debugreg[i] = d->bps[i].at.v;
        dr7 |= BIT64(2 * i + 1) | (uint64_t)field << (16 + 4 * i);
    }
    g->arch.debugreg[7] = dr7;
    return true;
}

void kvm_debug_update(struct vcpu *vc)
{
    struct kvm_vcpu *k = container_of(vc, struct kvm_vcpu, iv.vc);
    struct kvm_guest_debug g = { .control = 0 };

    interp_debug_update(vc);
    k->debug_changed = true;
    k->debug_by_interp = !fill_registers(&vc->dbg, &g);
}

int kvm_debug_sync(struct kvm_vcpu *k)
{
    const struct dbg *d = &k->iv.vc.dbg;
    struct kvm_guest_debug g = { .control = 0 };
    bool want = d->nr_bps && fill_registers(d, &g);
    int err = 0;

    if (want)
        g.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
    if (want || k->debug_on)
        err = kvm_ioctl(k->fd, KVM_SET_GUEST_DEBUG, &g);
    if (err) {
        log_error("vCPU %u: /dev/kvm does not take breakpoints: %s", k->iv.vc.cpu.id,
                  strerror(-err));
        return err;
    }
    k->debug_on = want;
    k->debug_changed = false;
    return 0;
}

static bool is_hit(const struct dbg_bp *b, gva_t pc, uint64_t dr6, unsigned i)
{
    return b->acc == ACC_EXEC ? b->at.v == pc.v && (dr6 >> i & 1) : dr6 >> i & 1;
}

bool kvm_exit_debug(struct kvm_vcpu *k, enum run_result *res)
{
    const struct kvm_debug_exit_arch *hit = &k->run->debug.arch;
    struct vcpu *vc = &k->iv.vc;
    gva_t pc = GVA(hit->pc);

    vc->nr_exits[EXIT_DEBUG]++;
    if (kvm_export(k) < 0) {
        *res = RUN_ERROR;
        return false;
    }
    *res = RUN_DEBUG;
    vc->dbg_hit = pc;
    vc->dbg_hit_acc = ACC_EXEC;
    for (unsigned i = 0; i < MIN(vc->dbg.nr_bps, NR_DRS); i++) {
        if (!is_hit(&vc->dbg.bps[i], pc, hit->dr6, i))
            continue;
        vc->dbg_hit = vc->dbg.bps[i].at;
        vc->dbg_hit_acc = vc->dbg.bps[i].acc;
        /* The next run() begins with this instruction, without stopping again. */
        k->iv.dbg_resume = vc->dbg.bps[i].acc == ACC_EXEC;
        break;
    }
    return false;
}
