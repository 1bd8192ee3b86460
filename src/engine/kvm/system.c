/* SPDX-License-Identifier: Apache-2.0 */
/* /dev/kvm: opening it, and what its kernel must be able to do for this engine. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "engine/kvm/kvm.h"

#define KVM_DEVICE "/dev/kvm"

int kvm_ioctl(int fd, unsigned long what, void *arg)
{
    int r = ioctl(fd, what, arg);

    return r < 0 ? -errno : r;
}

int kvm_ioctl_num(int fd, unsigned long what, unsigned long n)
{
    int r = ioctl(fd, what, n);

    return r < 0 ? -errno : r;
}

int kvm_enable(int fd, uint32_t cap, uint64_t arg)
{
    struct kvm_enable_cap c = { .cap = cap, .args = { arg } };

    return kvm_ioctl(fd, KVM_ENABLE_CAP, &c);
}

static const char *open_advice(int err)
{
    switch (err) {
    case ENOENT:
        return "the module kvm_intel or kvm_amd is not loaded, or the firmware or an outer "
               "hypervisor gives no VT-x or AMD-V";
    case EACCES:
    case EPERM:
        return "join the group kvm, or run as root; in a container: pass the device in";
    case ENODEV:
    case ENXIO:
        return "the device file is there, but no driver behind it: load kvm_intel or kvm_amd";
    default:
        return "";
    }
}

int kvm_open(char *why, size_t why_bytes)
{
    int fd = open(KVM_DEVICE, O_RDWR | O_CLOEXEC), version;

    if (fd < 0) {
        int err = errno;
        const char *advice = open_advice(err);

        (void)snprintf(why, why_bytes, "cannot open " KVM_DEVICE ": %s%s%s%s", strerror(err),
                       *advice ? " (" : "", advice, *advice ? ")" : "");
        return -err;
    }
    version = kvm_ioctl_num(fd, KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION) {
        if (version < 0)
            (void)snprintf(why, why_bytes, KVM_DEVICE " is no KVM device: %s", strerror(-version));
        else
            (void)snprintf(why, why_bytes, KVM_DEVICE " has version %d of its interface, not %d",
                           version, KVM_API_VERSION);
        host_close(fd);
        return -ENOTSUP;
    }
    return fd;
}

/* All of them are in Linux 5.14 and later. */
static const struct {
    int cap;
    const char *name;
} needed[] = {
    { KVM_CAP_USER_MEMORY, "USER_MEMORY" },
    { KVM_CAP_READONLY_MEM, "READONLY_MEM" },
    { KVM_CAP_IMMEDIATE_EXIT, "IMMEDIATE_EXIT" },
    { KVM_CAP_SREGS2, "SREGS2" },
    { KVM_CAP_XSAVE, "XSAVE" },
    { KVM_CAP_DEBUGREGS, "DEBUGREGS" },
    { KVM_CAP_VCPU_EVENTS, "VCPU_EVENTS" },
    { KVM_CAP_EXT_CPUID, "EXT_CPUID" },
    { KVM_CAP_X86_USER_SPACE_MSR, "X86_USER_SPACE_MSR" },
    { KVM_CAP_X86_MSR_FILTER, "X86_MSR_FILTER" },
    { KVM_CAP_SET_GUEST_DEBUG, "SET_GUEST_DEBUG" },
};

int kvm_check_caps(int sys, char *why, size_t why_bytes)
{
    for (unsigned i = 0; i < ARRAY_SIZE(needed); i++) {
        if (kvm_ioctl_num(sys, KVM_CHECK_EXTENSION, (unsigned long)needed[i].cap) > 0)
            continue;
        (void)snprintf(why, why_bytes, KVM_DEVICE " lacks %s; the host needs Linux 5.14 or later",
                       needed[i].name);
        return -ENOTSUP;
    }
    return 0;
}
