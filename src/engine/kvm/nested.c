/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nested guests: a guest that has VMX or SVM runs guests of its own, by the kernel alone. What is
 * here is the state that the kernel keeps for that, which goes into snapshots and is lost at a
 * reset.
 *
 * While such an inner guest runs, the registers are its own and its memory is not what the page
 * tables say: no interp can do anything for it. An event that is on its way to it stays where it
 * is, in what KVM_SET_VCPU_EVENTS gets back.
 */
#include <errno.h>
#include <string.h>

#include "engine/kvm/kvm.h"
#include "lib/log.h"

#define NO_PAGE UINT64_MAX

/* What a snapshot has of it; behind that, the kernel's own form. */
struct saved {
    uint64_t feature_control, vm_cr, hsave_pa;
};

bool kvm_nests(const struct kvm_vcpu *k)
{
    const struct cpu_model *m = k->iv.vc.cpu.model;

    return model_has(m, FEAT_VMX) || model_has(m, FEAT_SVM);
}

static bool is_vmx(const struct kvm_vcpu *k)
{
    return model_has(k->iv.vc.cpu.model, FEAT_VMX);
}

int kvm_export_nested(struct kvm_vcpu *k)
{
    int err;

    k->in_guest = false;
    if (!kvm_nests(k))
        return 0;
    k->nested.head.size = sizeof(k->nested);
    err = kvm_ioctl(k->fd, KVM_GET_NESTED_STATE, &k->nested);
    k->in_guest = !err && (k->nested.head.flags & KVM_STATE_NESTED_GUEST_MODE);
    return err;
}

/* As after power-on. */
static void clear_state(struct kvm_vcpu *k)
{
    memset(&k->nested, 0, sizeof(k->nested));
    k->nested.head.size = sizeof(k->nested.head);
    if (is_vmx(k)) {
        k->nested.head.format = KVM_STATE_NESTED_FORMAT_VMX;
        k->nested.head.hdr.vmx.vmxon_pa = k->nested.head.hdr.vmx.vmcs12_pa = NO_PAGE;
    } else {
        k->nested.head.format = KVM_STATE_NESTED_FORMAT_SVM;
        k->nested.head.flags = KVM_STATE_NESTED_GIF_SET;
    }
}

void kvm_reset_nested(struct kvm_vcpu *k)
{
    if (!kvm_nests(k))
        return;
    clear_state(k);
    /* Now: it would not go together with the registers that come. */
    if (kvm_ioctl(k->fd, KVM_SET_NESTED_STATE, &k->nested) < 0)
        log_warn("vCPU %u: /dev/kvm does not reset its nested guests", k->iv.vc.cpu.id);
    k->nested_unsent = false;
    k->in_guest = false;
}

/* After the control registers, before all else. */
int kvm_send_nested(struct kvm_vcpu *k)
{
    int err = 0;

    if (!k->nested_unsent)
        return 0;
    if (is_vmx(k))
        err = kvm_set_msr(k, MSR_FEATURE_CONTROL, k->feature_control);
    if (!err && !is_vmx(k))
        err = kvm_set_msr(k, MSR_VM_CR, k->vm_cr);
    if (!err && !is_vmx(k))
        err = kvm_set_msr(k, MSR_VM_HSAVE_PA, k->hsave_pa);
    if (!err)
        err = kvm_ioctl(k->fd, KVM_SET_NESTED_STATE, &k->nested);
    k->nested_unsent = err < 0;
    return err;
}

/* ---- snapshots ---- */

size_t kvm_save_more(struct vcpu *vc, void *buf, size_t room)
{
    struct kvm_vcpu *k = container_of(vc, struct kvm_vcpu, iv.vc);
    struct saved s = { 0 };
    size_t bytes = k->nested.head.size;
    int err = 0;

    if (!kvm_nests(k) || bytes < sizeof(k->nested.head) || bytes > sizeof(k->nested) ||
        sizeof(s) + bytes > room)
        return 0;
    if (is_vmx(k))
        err = kvm_get_msr(k, MSR_FEATURE_CONTROL, &s.feature_control);
    if (!err && !is_vmx(k))
        err = kvm_get_msr(k, MSR_VM_CR, &s.vm_cr);
    if (!err && !is_vmx(k))
        err = kvm_get_msr(k, MSR_VM_HSAVE_PA, &s.hsave_pa);
    if (err) {
        log_warn("vCPU %u: /dev/kvm does not give what it has of nested guests: %s", vc->cpu.id,
                 strerror(-err));
        return 0;
    }
    memcpy(buf, &s, sizeof(s));
    memcpy((char *)buf + sizeof(s), &k->nested, bytes);
    return sizeof(s) + bytes;
}

int kvm_load_more(struct vcpu *vc, const void *buf, size_t bytes)
{
    struct kvm_vcpu *k = container_of(vc, struct kvm_vcpu, iv.vc);
    struct saved s;

    if (!kvm_nests(k) || bytes < sizeof(s) + sizeof(k->nested.head) ||
        bytes > sizeof(s) + sizeof(k->nested)) {
        log_error("vCPU %u: the snapshot's state of nested guests is none of this processor's",
                  vc->cpu.id);
        return -EINVAL;
    }
    memcpy(&s, buf, sizeof(s));
    memset(&k->nested, 0, sizeof(k->nested));
    memcpy(&k->nested, (const char *)buf + sizeof(s), bytes - sizeof(s));
    /* Its own length, which the kernel goes by. It checks the rest. */
    if (k->nested.head.size != bytes - sizeof(s)) {
        log_error("vCPU %u: the snapshot's state of nested guests is not whole", vc->cpu.id);
        return -EINVAL;
    }
    k->feature_control = s.feature_control;
    k->vm_cr = s.vm_cr;
    k->hsave_pa = s.hsave_pa;
    k->nested_unsent = true;
    k->in_guest = k->nested.head.flags & KVM_STATE_NESTED_GUEST_MODE;
    return 0;
}
