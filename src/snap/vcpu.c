/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state of a vCPU in a snapshot: what is architectural of struct cpu, as a table of fields like
 * a device's. Not in it: what is derived (mode), what lasts no longer than an instruction (exc,
 * next_rip), and what belongs to the engine.
 */
#include "snap/vcpu.h"

#include <errno.h>
#include <stdatomic.h>

#define REQ_SAVED (REQ_IRQ | REQ_NMI | REQ_INIT | REQ_SIPI | REQ_TIMER | REQ_SMI | REQ_KICK)

#define CPU_U64(m)    FIELD(struct cpu, m, U64, 1)
#define CPU_U32(m)    FIELD(struct cpu, m, U32, 1)
#define CPU_U16(m)    FIELD(struct cpu, m, U16, 1)
#define CPU_BOOL(m)   FIELD(struct cpu, m, BOOL, 1)
#define CPU_BYTES(m)  FIELD(struct cpu, m, BYTES, 1)
#define CPU_SEG(m)    CPU_U64(m.base), CPU_U32(m.limit), CPU_U32(m.attr), CPU_U16(m.sel)
#define CPU_DTABLE(m) CPU_U64(m.base), CPU_U16(m.limit)

static const struct state_field vcpu_fields[] = {
    { .name = "gpr",
      .off_bytes = offsetof(struct cpu, gpr),
      .bytes = NR_GPRS * sizeof(uint64_t), /* the two behind are the engine's */
      .type = U64,
      .since = 1 },
    CPU_U64(rip),
    CPU_U64(rflags),
    FIELD(struct cpu, cpl, U8, 1),
    CPU_SEG(seg[SEG_ES]),
    CPU_SEG(seg[SEG_CS]),
    CPU_SEG(seg[SEG_SS]),
    CPU_SEG(seg[SEG_DS]),
    CPU_SEG(seg[SEG_FS]),
    CPU_SEG(seg[SEG_GS]),
    CPU_SEG(ldtr),
    CPU_SEG(tr),
    CPU_DTABLE(gdtr),
    CPU_DTABLE(idtr),
    CPU_U64(cr0),
    CPU_U64(cr2),
    CPU_U64(cr3),
    CPU_U64(cr4),
    CPU_U64(xcr0),
    CPU_U64(efer),
    CPU_U64(pdpte),
    CPU_U64(dr),
    CPU_U64(dr6),
    CPU_U64(dr7),
    CPU_U64(star),
    CPU_U64(lstar),
    CPU_U64(cstar),
    CPU_U64(sfmask),
    CPU_U64(kernel_gs_base),
    CPU_U64(tsc_aux),
    CPU_U64(sysenter_cs),
    CPU_U64(sysenter_esp),
    CPU_U64(sysenter_eip),
    CPU_U64(pat),
    CPU_U64(tsc_adjust),
    CPU_U64(misc_enable),
    CPU_U64(mtrr_def_type),
    CPU_U64(mtrr_physbase),
    CPU_U64(mtrr_physmask),
    CPU_U64(mtrr_fixed),
    CPU_U64(mcg_status),
    CPU_U64(pv.clock),
    CPU_U64(pv.wall),
    CPU_U64(pv.steal),
    CPU_U64(pv.eoi),
    CPU_U64(pv.steal_ns),
    CPU_BOOL(pv.eoi_offered),
    CPU_BOOL(pv.kicked),
    CPU_U16(fpu.fcw),
    CPU_U16(fpu.fsw),
    FIELD(struct cpu, fpu.ftw, U8, 1),
    CPU_U16(fpu.fop),
    CPU_U64(fpu.fip),
    CPU_U64(fpu.fdp),
    CPU_U32(fpu.mxcsr),
    CPU_BYTES(fpu.st),
    CPU_BYTES(fpu.xmm),
    CPU_BYTES(fpu.ymmh),
    CPU_U16(fpu_cs),
    CPU_U16(fpu_ds),
    CPU_U32(activity),
    CPU_U64(pending_dbg),
    CPU_BOOL(shadow_sti),
    CPU_BOOL(shadow_movss),
    CPU_BOOL(nmi_blocked),
    CPU_BOOL(nmi_pending),
    FIELD(struct cpu, sipi_vector, U8, 1),
    CPU_U64(apic.base_msr),
    CPU_U32(apic.id),
    CPU_U32(apic.tpr),
    CPU_U32(apic.ldr),
    CPU_U32(apic.dfr),
    CPU_U32(apic.svr),
    CPU_U32(apic.esr),
    CPU_U32(apic.esr_pending),
    CPU_U64(apic.icr),
    CPU_U32(apic.isr),
    CPU_U32(apic.irr),
    CPU_U32(apic.tmr),
    CPU_U32(apic.lvt),
    CPU_U32(apic.timer_init),
    CPU_U32(apic.timer_div),
    CPU_U64(apic.timer_start_ns),
    CPU_U64(apic.timer_deadline_ns),
    CPU_U64(apic.tsc_deadline),
    CPU_U32(apic.pir),
    CPU_U32(apic.pir_tmr),
    CPU_U32(apic.told),
    FIELD(struct cpu, spec_ctrl, U64, 2),
};
const struct state_table vcpu_table = STATE_TABLE("vcpu", vcpu_fields, 2);

uint32_t vcpu_saved_requests(struct cpu *c)
{
    return atomic_load(&c->req) & REQ_SAVED;
}

int vcpu_loaded(struct vcpu *v, uint32_t requests)
{
    struct cpu *c = &v->cpu;
    const char *wrong = cpu_state_wrong(c);

    if (wrong) {
        log_error("vCPU %u: the saved state is none that a processor can have: %s", c->id, wrong);
        return -EINVAL;
    }
    c->exc.valid = c->delivering.valid = false;
    c->next_rip = c->rip;
    /* Whether an interrupt waits is looked at anyway. */
    atomic_fetch_and(&c->req, ~(uint32_t)REQ_SAVED);
    atomic_fetch_or(&c->req, (requests & REQ_SAVED) | REQ_IRQ);
    /* The vCPU's flag may say that it does not run: pv_steal_update() */
    if (c->pv.steal)
        atomic_fetch_or(&c->req, REQ_TIMER);
    if (c->apic.timer_deadline_ns && c->apic.timer_deadline_ns != UINT64_MAX)
        c->ops->apic_timer(c, c->apic.timer_deadline_ns);
    else
        c->ops->apic_timer(c, UINT64_MAX);
    return 0;
}
