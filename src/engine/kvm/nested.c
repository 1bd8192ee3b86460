/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nested guests: where the host's kernel offers it, the guest finds SVM or VMX and runs guests of
 * its own, all by the kernel. What there is of it is in the kernel alone: a vCPU that has nested
 * state can be paused, but interp cannot take it over, and struct cpu does not hold it.
 */
#include <errno.h>
#include <string.h>

#include "engine/kvm/kvm.h"

/* Header and what SVM or VMX keeps behind it: one or two pages. */
#define NESTED_BYTES_MAX (128 + 2 * 4096)

struct nested_room {
    _Alignas(struct kvm_nested_state) uint8_t bytes[NESTED_BYTES_MAX];
};

bool kvm_nested_active(struct kvm_vcpu *k)
{
    struct nested_room room = { .bytes = { 0 } };
    struct kvm_nested_state *s = (struct kvm_nested_state *)room.bytes;

    if (!k->vm->nested)
        return false;
    s->size = sizeof(room);
    /* A kernel that does not say is taken at its worst. */
    return kvm_ioctl(k->fd, KVM_GET_NESTED_STATE, s) < 0 ||
           (s->flags & (KVM_STATE_NESTED_GUEST_MODE | KVM_STATE_NESTED_RUN_PENDING));
}

void kvm_nested_reset(struct kvm_vcpu *k)
{
    struct kvm_nested_state s = { .size = sizeof(s) };

    if (!k->vm->nested)
        return;
    if (CPU(&k->iv)->model->vendor == VENDOR_AMD) {
        s.format = KVM_STATE_NESTED_FORMAT_SVM;
        s.flags = KVM_STATE_NESTED_GIF_SET;
    } else {
        s.format = KVM_STATE_NESTED_FORMAT_VMX;
        s.hdr.vmx.vmxon_pa = s.hdr.vmx.vmcs12_pa = UINT64_MAX; /* none */
    }
    (void)kvm_ioctl(k->fd, KVM_SET_NESTED_STATE,
                    &s); /* refused only where there is no such state */
}
