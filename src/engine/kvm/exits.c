/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel's exits: a table of what each asks for, and the one instruction that interp executes
 * where the kernel cannot. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/interp/tlb.h"
#include "engine/kvm/kvm.h"
#include "lib/log.h"
#include "lib/trace.h"

/* So many instructions a second left to interp are more than an odd one. */
#define HANDOVERS_PER_S 20000
#define NS_PER_S        1000000000ull
#define LOG_HANDOVER    (0x4b56ull << 48)
#define LOG_LIMITED     (0x4b57ull << 48)

static bool fail(enum run_result *res)
{
    *res = RUN_ERROR;
    return false;
}

/* ---- ports and device memory ---- */

static uint64_t load(const uint8_t *from, unsigned bytes)
{
    uint64_t x = 0;

    memcpy(&x, from, MIN(bytes, 8));
    return x;
}

static bool exit_io(struct kvm_vcpu *k, enum run_result *res)
{
    const struct engine_config *cfg = &k->vm->ivm.evm.cfg;
    struct kvm_run *run = k->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    uint64_t t = vcpu_exit_begin(&k->iv.vc, EXIT_PIO);
    unsigned bytes = run->io.size;

    (void)res;
    /* INS and OUTS come with several at once. */
    for (uint32_t i = 0; i < run->io.count; i++, data += bytes) {
        if (run->io.direction == KVM_EXIT_IO_OUT) {
            cfg->ops->port_write(cfg->ctx, run->io.port, bytes, load(data, bytes));
        } else {
            uint64_t x = cfg->ops->port_read(cfg->ctx, run->io.port, bytes);

            memcpy(data, &x, MIN(bytes, 8));
        }
    }
    k->unfinished = true;
    vcpu_exit_end(&k->iv.vc, EXIT_PIO, t);
    return true;
}

static bool exit_mmio(struct kvm_vcpu *k, enum run_result *res)
{
    struct kvm_run *run = k->run;
    gpa_t at = GPA(run->mmio.phys_addr);
    unsigned bytes = MIN(run->mmio.len, (uint32_t)sizeof(run->mmio.data));
    /* An odd piece of an access across a page goes byte by byte. */
    unsigned n = bytes & (bytes - 1) ? 1 : bytes;

    (void)res;
    for (unsigned i = 0; i < bytes; i += n) {
        if (run->mmio.is_write) {
            interp_mmio_write(&k->iv, gpa_add(at, i), n, load(run->mmio.data + i, n));
        } else {
            uint64_t x = interp_mmio_read(&k->iv, gpa_add(at, i), n);

            memcpy(run->mmio.data + i, &x, n);
        }
    }
    k->unfinished = true;
    return true;
}

static bool exit_msr(struct kvm_vcpu *k, enum run_result *res)
{
    uint64_t base = CPU(&k->iv)->apic.base_msr;

    (void)res;
    kvm_exit_msr(k);
    if (unlikely(base != CPU(&k->iv)->apic.base_msr)) {
        /* The kernel shows it in CPUID. The instruction has to be complete first. */
        if (kvm_export(k) < 0)
            return fail(res);
        k->known_valid = false; /* what was remembered has the new one, the kernel the old */
        kvm_changed(k);
    }
    return true;
}

/* ---- what only ends the run ---- */

static bool exit_again(struct kvm_vcpu *k, enum run_result *res)
{
    (void)k, (void)res;
    return true;
}

static bool exit_window(struct kvm_vcpu *k, enum run_result *res)
{
    (void)res;
    k->iv.vc.nr_exits[EXIT_WINDOW]++;
    return true;
}

static bool exit_hlt(struct kvm_vcpu *k, enum run_result *res)
{
    (void)res;
    k->iv.vc.nr_exits[EXIT_HLT]++;
    CPU(&k->iv)->activity = CPU_HALTED;
    return true;
}

static bool exit_shutdown(struct kvm_vcpu *k, enum run_result *res)
{
    int err = kvm_export(k);

    k->iv.vc.nr_exits[EXIT_TRIPLE]++;
    CPU(&k->iv)->activity = CPU_SHUTDOWN;
    *res = err && err != -EAGAIN ? RUN_ERROR : RUN_SHUTDOWN;
    return false;
}

/* ---- what interp has to do ---- */

bool kvm_step(struct kvm_vcpu *k, enum run_result *res)
{
    struct ivcpu *v = &k->iv;
    struct cpu *c = CPU(v);
    uint64_t handed = v->vc.nr_insns;
    bool go_on;

    if (k->in_guest) {
        kvm_report(k,
                   "a nested guest's instruction cannot be executed by the kernel, and by nobody "
                   "else",
                   k->run->exit_reason);
        return fail(res);
    }
    /* What it knew of the guest's page tables and breakpoints may be old. */
    interp_debug_update(&v->vc);
    /* An event that was held back for one instruction comes behind this one. */
    c->shadow_sti = c->shadow_movss = false;
    tlb_set_view(v);
    v->key = block_key(c);
    kvm_changed(k);
    go_on = interp_step(v, res);
    if (go_on)
        v->dbg_resume = false; /* we have left the breakpoint */
    v->vc.nr_exits[EXIT_HANDOVER] += v->vc.nr_insns - handed;
    return go_on;
}

/* Once a second of them is full: this /dev/kvm is none for this guest. */
static void count_handover(struct kvm_vcpu *k)
{
    uint64_t now;

    if (k->nr_handovers++ && k->nr_handovers < HANDOVERS_PER_S)
        return;
    now = host_mono_ns();
    if (k->nr_handovers >= HANDOVERS_PER_S && now - k->handover_ns < NS_PER_S &&
        log_first(CPU(&k->iv)->seen, LOG_LIMITED))
        log_warn("this /dev/kvm cannot execute much of the guest's code, which is left to interp: "
                 "--engine bt is faster here");
    k->handover_ns = now;
    k->nr_handovers = 1;
}

static void log_instruction(struct kvm_vcpu *k)
{
    const struct cpu *c = CPU(&k->iv);
    char text[3 * 8 + 1] = "";
    uint8_t code[8];
    uint64_t lin = in_long64(c) ? c->rip : (uint32_t)(c->rip + c->seg[SEG_CS].base);
    uint64_t got = interp_peek(&k->iv.vc, GVA(lin), code, sizeof(code));

    for (uint64_t i = 0; i < got; i++)
        (void)snprintf(text + 3 * i, 4, " %02x", code[i]);
    log_warn("/dev/kvm cannot execute an instruction of the guest, interp does (CS:RIP %#x:%#llx, "
             "bytes%s); others will not be told of",
             c->seg[SEG_CS].sel, (unsigned long long)c->rip, text);
}

static bool exit_internal(struct kvm_vcpu *k, enum run_result *res)
{
    uint32_t suberror = k->run->internal.suberror;
    int err;

    /* Delivery of an event failed: kvm_export() does it. Emulation: interp does. */
    if (suberror != KVM_INTERNAL_ERROR_EMULATION && suberror != KVM_INTERNAL_ERROR_DELIVERY_EV) {
        kvm_report(k, "the kernel gave up on the guest: KVM internal error", suberror);
        return fail(res);
    }
    err = kvm_export(k);
    if (err == -EAGAIN)
        return exit_shutdown(k, res);
    if (err)
        return fail(res);
    count_handover(k);
    if (suberror == KVM_INTERNAL_ERROR_DELIVERY_EV && k->unsent)
        return true;
    if (log_first(CPU(&k->iv)->seen, LOG_HANDOVER))
        log_instruction(k);
    return kvm_step(k, res);
}

static bool exit_fail_entry(struct kvm_vcpu *k, enum run_result *res)
{
    kvm_report(k, "the processor refuses the guest's state: hardware entry failure reason",
               k->run->fail_entry.hardware_entry_failure_reason);
    return fail(res);
}

static bool exit_unexpected(struct kvm_vcpu *k, enum run_result *res)
{
    kvm_report(k, "the kernel left the guest for a reason that is not expected: KVM_EXIT",
               k->run->exit_reason);
    return fail(res);
}

/* ---- the table ---- */

static bool (*const exits[])(struct kvm_vcpu *k, enum run_result *res) = {
    [KVM_EXIT_IO] = exit_io,
    [KVM_EXIT_MMIO] = exit_mmio,
    [KVM_EXIT_X86_RDMSR] = exit_msr,
    [KVM_EXIT_X86_WRMSR] = exit_msr,
    [KVM_EXIT_HLT] = exit_hlt,
    [KVM_EXIT_IRQ_WINDOW_OPEN] = exit_window,
    [KVM_EXIT_INTR] = exit_again,
    [KVM_EXIT_IOAPIC_EOI] = kvm_exit_eoi,
    [KVM_EXIT_SET_TPR] = exit_again, /* after_run() has seen it */
    [KVM_EXIT_SHUTDOWN] = exit_shutdown,
    [KVM_EXIT_DEBUG] = kvm_exit_debug,
    [KVM_EXIT_INTERNAL_ERROR] = exit_internal,
    [KVM_EXIT_FAIL_ENTRY] = exit_fail_entry,
};

bool kvm_exit(struct kvm_vcpu *k, enum run_result *res)
{
    uint32_t why = k->run->exit_reason;

    if (why < ARRAY_SIZE(exits) && exits[why])
        return exits[why](k, res);
    return exit_unexpected(k, res);
}
