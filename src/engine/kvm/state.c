/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registers of a vCPU, from the kernel to struct cpu and back. What is not here (local APIC,
 * MTRRs and such) never leaves struct cpu.
 *
 * An export remembers what the kernel has, in the form in which it would be sent; an import sends
 * only what differs from that. An instruction that interp did for the kernel changes general
 * registers, and hardly ever more.
 */
#include <errno.h>
#include <string.h>

#include "engine/kvm/kvm.h"
#include "lib/log.h"

/* ---- general registers ---- */

/* The kernel's order is that of struct kvm_regs, ours the instruction encoding's. */
static __u64 *reg_of(struct kvm_regs *r, unsigned gpr)
{
    __u64 *const at[NR_GPRS] = { &r->rax, &r->rcx, &r->rdx, &r->rbx, &r->rsp, &r->rbp,
                                 &r->rsi, &r->rdi, &r->r8,  &r->r9,  &r->r10, &r->r11,
                                 &r->r12, &r->r13, &r->r14, &r->r15 };

    return at[gpr];
}

static int export_regs(struct kvm_vcpu *k)
{
    struct cpu *c = CPU(&k->iv);
    struct kvm_regs r;
    int err = kvm_ioctl(k->fd, KVM_GET_REGS, &r);

    if (err)
        return err;
    for (unsigned i = 0; i < NR_GPRS; i++)
        c->gpr[i] = *reg_of(&r, i);
    c->rip = r.rip;
    c->rflags = r.rflags;
    return 0;
}

static void make_regs(const struct cpu *c, struct kvm_known *to)
{
    to->regs = (struct kvm_regs){ .rip = c->rip, .rflags = c->rflags };
    for (unsigned i = 0; i < NR_GPRS; i++)
        *reg_of(&to->regs, i) = c->gpr[i];
}

/* ---- segments and control registers ---- */

static struct seg seg_from(const struct kvm_segment *s)
{
    uint32_t attr = s->type | s->s << 4 | (uint32_t)s->dpl << SEG_DPL_SHIFT;

    attr |= (s->present ? SEG_P : 0) | (s->avl ? SEG_AVL : 0) | (s->l ? SEG_L : 0);
    attr |= (s->db ? SEG_DB : 0) | (s->g ? SEG_G : 0);
    if (s->unusable)
        attr = (attr & SEG_DPL) | SEG_UNUSABLE;
    return (struct seg){ .base = s->base, .limit = s->limit, .attr = attr, .sel = s->selector };
}

static struct kvm_segment seg_to(const struct seg *s)
{
    bool usable = !(s->attr & SEG_UNUSABLE);

    return (struct kvm_segment){
        .base = s->base,
        .limit = s->limit,
        .selector = s->sel,
        .type = s->attr & SEG_TYPE,
        .present = usable && (s->attr & SEG_P),
        .dpl = (s->attr & SEG_DPL) >> SEG_DPL_SHIFT,
        .db = !!(s->attr & SEG_DB),
        .s = !!(s->attr & SEG_S),
        .l = !!(s->attr & SEG_L),
        .g = !!(s->attr & SEG_G),
        .avl = !!(s->attr & SEG_AVL),
        .unusable = !usable,
    };
}

static struct kvm_segment *sreg_of(struct kvm_sregs2 *s, unsigned seg)
{
    struct kvm_segment *const at[NR_SEGS] = { &s->es, &s->cs, &s->ss, &s->ds, &s->fs, &s->gs };

    return at[seg];
}

static int export_sregs(struct kvm_vcpu *k)
{
    struct cpu *c = CPU(&k->iv);
    struct kvm_sregs2 s;
    int err = kvm_ioctl(k->fd, KVM_GET_SREGS2, &s);

    if (err)
        return err;
    for (unsigned i = 0; i < NR_SEGS; i++)
        c->seg[i] = seg_from(sreg_of(&s, i));
    c->ldtr = seg_from(&s.ldt);
    c->tr = seg_from(&s.tr);
    c->gdtr = (struct dtable){ .base = s.gdt.base, .limit = s.gdt.limit };
    c->idtr = (struct dtable){ .base = s.idt.base, .limit = s.idt.limit };
    c->cr0 = s.cr0;
    c->cr2 = s.cr2;
    c->cr3 = s.cr3;
    c->cr4 = s.cr4;
    c->efer = s.efer;
    if (k->vm->split)
        c->apic.base_msr = s.apic_base;
    if (s.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID)
        memcpy(c->pdpte, s.pdptrs, sizeof(c->pdpte));
    /* CPL is SS.DPL (SDM 3, "Loading Guest Segment Registers"). */
    c->cpl = s.ss.dpl;
    return 0;
}

static void make_sregs(const struct cpu *c, struct kvm_known *to)
{
    bool pae = (c->cr0 & CR0_PG) && (c->cr4 & CR4_PAE) && !(c->efer & EFER_LMA);
    struct kvm_sregs2 *s = &to->sregs;

    *s = (struct kvm_sregs2){
        .ldt = seg_to(&c->ldtr),
        .tr = seg_to(&c->tr),
        .gdt = { .base = c->gdtr.base, .limit = c->gdtr.limit },
        .idt = { .base = c->idtr.base, .limit = c->idtr.limit },
        .cr0 = c->cr0,
        .cr2 = c->cr2,
        .cr3 = c->cr3,
        .cr4 = c->cr4,
        .cr8 = apic_get_cr8(c),
        .efer = c->efer,
        .apic_base = c->apic.base_msr,
        .flags = pae ? KVM_SREGS2_FLAGS_PDPTRS_VALID : 0,
    };
    for (unsigned i = 0; i < NR_SEGS; i++)
        *sreg_of(s, i) = seg_to(&c->seg[i]);
    s->ss.dpl = c->cpl;
    /* Outside long mode a descriptor's L bit means nothing, but the kernel refuses it. */
    s->cs.l = s->cs.l && (c->efer & EFER_LMA);
    if (pae)
        memcpy(s->pdptrs, c->pdpte, sizeof(s->pdptrs));
}

/* ---- x87, SSE, AVX; XCR0 ---- */

static int export_fpu(struct kvm_vcpu *k)
{
    struct cpu *c = CPU(&k->iv);
    struct kvm_xsave x;
    struct kvm_xcrs xcrs = { .nr_xcrs = 0 };
    uint32_t mask = c->fpu.mxcsr_mask;
    uint64_t bv;
    int err = kvm_ioctl(k->fd, KVM_GET_XSAVE, &x);

    if (!err && model_has(c->model, FEAT_XSAVE))
        err = kvm_ioctl(k->fd, KVM_GET_XCRS, &xcrs);
    if (err)
        return err;
    memcpy(&c->fpu, x.region, sizeof(c->fpu));
    bv = c->fpu.xstate_bv;
    /* What is not in XSTATE_BV is in its initial state, whatever the area holds. */
    if (!(bv & XCR0_X87)) {
        memset(c->fpu.st, 0, sizeof(c->fpu.st));
        c->fpu.fcw = 0x37f;
        c->fpu.fsw = c->fpu.fop = 0;
        c->fpu.ftw = 0;
        c->fpu.fip = c->fpu.fdp = 0;
    }
    if (!(bv & XCR0_SSE))
        memset(c->fpu.xmm, 0, sizeof(c->fpu.xmm));
    if (!(bv & (XCR0_SSE | XCR0_AVX)))
        c->fpu.mxcsr = 0x1f80;
    if (!(bv & XCR0_AVX))
        memset(c->fpu.ymmh, 0, sizeof(c->fpu.ymmh));
    c->fpu.mxcsr_mask = mask;
    c->fpu_cs = c->fpu_ds = 0; /* the kernel saves the offsets in their 64-bit form */
    if (xcrs.nr_xcrs && xcrs.xcrs[0].xcr == 0)
        c->xcr0 = xcrs.xcrs[0].value;
    return 0;
}

static void make_fpu(const struct cpu *c, struct kvm_known *to)
{
    struct xsave_area area = c->fpu;

    area.xstate_bv = c->model->xcr0;
    area.xcomp_bv = 0;
    memset(&to->xsave, 0, sizeof(to->xsave));
    memcpy(to->xsave.region, &area, sizeof(area));
    to->xcrs = (struct kvm_xcrs){ .nr_xcrs = 1, .xcrs = { { .xcr = 0, .value = c->xcr0 } } };
}

/* ---- debug registers ---- */

static int export_debug(struct kvm_vcpu *k)
{
    struct cpu *c = CPU(&k->iv);
    struct kvm_debugregs d;
    int err = kvm_ioctl(k->fd, KVM_GET_DEBUGREGS, &d);

    if (err)
        return err;
    memcpy(c->dr, d.db, sizeof(c->dr));
    c->dr6 = d.dr6;
    c->dr7 = d.dr7;
    return 0;
}

static void make_debug(const struct cpu *c, struct kvm_known *to)
{
    to->debug = (struct kvm_debugregs){ .dr6 = c->dr6, .dr7 = c->dr7 };
    memcpy(to->debug.db, c->dr, sizeof(to->debug.db));
}

/* ---- events ---- */

/*
 * Something was being delivered to the guest when it was left: the kernel would try again. Struct
 * cpu has no room for that, so it is delivered now. A software interrupt's instruction is just
 * executed again.
 */
static int deliver_rest(struct kvm_vcpu *k, const struct kvm_vcpu_events *e)
{
    struct cpu *c = CPU(&k->iv);
    enum step st = STEP_NEXT;

    k->held_valid = k->in_guest;
    if (k->in_guest) { /* the kernel gets them back */
        k->held = *e;
        return 0;
    }
    if (!e->exception.injected && !e->nmi.injected && (!e->interrupt.injected || e->interrupt.soft))
        return 0;
    tlb_flush_all(&k->iv);
    if (e->exception.injected) {
        c->exc = (struct cpu_exc){ .valid = true,
                                   .has_err = e->exception.has_error_code,
                                   .vector = e->exception.nr,
                                   .err = e->exception.error_code,
                                   .addr = e->exception.nr == VEC_PF ? c->cr2 : 0 };
        st = cpu_deliver(c);
    } else if (e->nmi.injected) {
        st = cpu_inject(c, VEC_NMI, EVENT_NMI);
    } else {
        st = cpu_inject(c, e->interrupt.nr, EVENT_EXT_INT);
    }
    kvm_changed(k);
    return st == STEP_NEXT ? 0 : -EAGAIN;
}

static int export_events(struct kvm_vcpu *k, struct kvm_vcpu_events *e)
{
    struct cpu *c = CPU(&k->iv);
    int err = kvm_ioctl(k->fd, KVM_GET_VCPU_EVENTS, e);

    if (err)
        return err;
    c->shadow_sti = e->interrupt.shadow & KVM_X86_SHADOW_INT_STI;
    c->shadow_movss = e->interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS;
    c->nmi_blocked = e->nmi.masked;
    if (e->nmi.pending && !k->in_guest) {
        c->nmi_pending = k->nmi_taken = true;
        kvm_changed(k);
    }
    return 0;
}

static int import_events(struct kvm_vcpu *k)
{
    const struct cpu *c = CPU(&k->iv);
    struct kvm_vcpu_events e = {
        .interrupt.shadow = (c->shadow_sti ? KVM_X86_SHADOW_INT_STI : 0) |
                            (c->shadow_movss ? KVM_X86_SHADOW_INT_MOV_SS : 0),
        .nmi.masked = c->nmi_blocked, /* one that is pending goes by KVM_NMI, as any other */
        .flags = KVM_VCPUEVENT_VALID_SHADOW,
    };

    if (k->held_valid) {
        k->held_valid = false;
        return kvm_ioctl(k->fd, KVM_SET_VCPU_EVENTS, &k->held);
    }
    /* One that came since is the kernel's. */
    if (k->nmi_taken)
        e.flags |= KVM_VCPUEVENT_VALID_NMI_PENDING;
    k->nmi_taken = false;
    return kvm_ioctl(k->fd, KVM_SET_VCPU_EVENTS, &e);
}

/* ---- all of it ---- */

static void make_all(const struct kvm_vcpu *k, struct kvm_known *to)
{
    const struct cpu *c = &k->iv.vc.cpu;

    make_regs(c, to);
    make_sregs(c, to);
    make_fpu(c, to);
    make_debug(c, to);
    kvm_make_msrs(c, &to->msrs);
}

int kvm_export(struct kvm_vcpu *k)
{
    struct kvm_vcpu_events e;
    int err;

    if (!k->in_kernel)
        return 0;
    err = kvm_finish(k);
    /* Its last piece may have come to interp, and the registers with it. */
    if (err == -EAGAIN || !k->in_kernel)
        return err;
    if (!err)
        err = kvm_export_activity(k);
    if (!err)
        err = export_regs(k);
    if (!err)
        err = export_sregs(k);
    if (!err)
        err = export_fpu(k);
    if (!err)
        err = export_debug(k);
    if (!err)
        err = kvm_export_msrs(k);
    if (!err)
        err = kvm_export_apic(k);
    if (!err)
        err = kvm_export_nested(k);
    if (!err)
        err = export_events(k, &e);
    if (err) {
        log_error("vCPU %u: /dev/kvm does not give its registers: %s", k->iv.vc.cpu.id,
                  strerror(-err));
        return err;
    }
    k->in_kernel = false;
    cpu_update_mode(CPU(&k->iv));
    make_all(k, &k->known);
    k->known_valid = true;
    return deliver_rest(k, &e);
}

/* Sent one after the other: the kernel checks later ones against the control registers. */
#define KNOWN(field) offsetof(struct kvm_known, field), sizeof(((struct kvm_known *)NULL)->field)
static const struct {
    const char *what;
    size_t at, bytes; /* in struct kvm_known */
    unsigned long how;
} parts[] = {
    { "segments and control registers", KNOWN(sregs), KVM_SET_SREGS2 },
    { "general registers", KNOWN(regs), KVM_SET_REGS },
    { "vector registers", KNOWN(xsave), KVM_SET_XSAVE },
    { "XCR0", KNOWN(xcrs), KVM_SET_XCRS },
    { "debug registers", KNOWN(debug), KVM_SET_DEBUGREGS },
    { "MSRs", KNOWN(msrs), KVM_SET_MSRS },
};

static int send_part(struct kvm_vcpu *k, unsigned i, struct kvm_known *now)
{
    void *part = (char *)now + parts[i].at, *old = (char *)&k->known + parts[i].at;
    int err;

    if (k->known_valid && !memcmp(part, old, parts[i].bytes))
        return 0;
    if (parts[i].how == KVM_SET_XCRS && !model_has(k->iv.vc.cpu.model, FEAT_XSAVE))
        return 0;
    err = kvm_ioctl(k->fd, parts[i].how, part);
    return parts[i].how == KVM_SET_MSRS ? kvm_msrs_moved(&now->msrs, err, "take") : err;
}

static int send_all(struct kvm_vcpu *k)
{
    struct kvm_known now;
    int err = 0;

    make_all(k, &now);
    for (unsigned i = 0; i < ARRAY_SIZE(parts) && !err; i++) {
        err = send_part(k, i, &now);
        if (!err && i == 0)
            err = kvm_send_nested(k);
        if (err)
            log_error("vCPU %u: /dev/kvm does not take its %s: %s", k->iv.vc.cpu.id, parts[i].what,
                      strerror(-err));
    }
    if (!err)
        err = import_events(k);
    return err;
}

int kvm_send(struct kvm_vcpu *k, bool counts_anew)
{
    int err = kvm_send_pv(k);

    if (!err && k->unsent) {
        err = send_all(k);
        if (err)
            return err;
        k->unsent = false;
        k->window = false;
        k->known_valid = false;
    }
    if (!err)
        err = kvm_send_apic(k, counts_anew);
    return err ? err : kvm_send_kick(k);
}

int kvm_import(struct kvm_vcpu *k)
{
    int err = kvm_send(k, false);

    if (!err)
        err = kvm_apic_leaves(k);
    if (err)
        return err;
    /* The guest changes them from now on. */
    k->known_valid = false;
    k->in_kernel = true;
    return 0;
}

void kvm_report(struct kvm_vcpu *k, const char *what, uint64_t code)
{
    const struct cpu *c = CPU(&k->iv);
    bool known = kvm_export(k) == 0;

    log_error("vCPU %u: %s (%#llx)", c->id, what, (unsigned long long)code);
    if (!known)
        return;
    log_error("  CS:RIP %#x:%#llx RFLAGS %#llx RSP %#llx CPL %u", c->seg[SEG_CS].sel,
              (unsigned long long)c->rip, (unsigned long long)c->rflags,
              (unsigned long long)c->gpr[RSP], c->cpl);
    log_error("  CR0 %#llx CR2 %#llx CR3 %#llx CR4 %#llx EFER %#llx", (unsigned long long)c->cr0,
              (unsigned long long)c->cr2, (unsigned long long)c->cr3, (unsigned long long)c->cr4,
              (unsigned long long)c->efer);
    for (unsigned i = 0; i < NR_SEGS; i++)
        log_error("  %.2s %#x base %#llx limit %#x attributes %#x", &"ESCSSSDSFSGS"[2 * i],
                  c -> seg[i].sel, (unsigned long long)c->seg[i].base, c->seg[i].limit,
                  c->seg[i].attr);
}
