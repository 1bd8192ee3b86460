/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine on /dev/kvm, inside. The guest's code runs on the processor; devices, local APICs and
 * the MSRs that are no part of running code stay doppel's own, the same as under the other engines.
 *
 * A vCPU's registers are in the kernel or in struct cpu, and change sides as a whole: kvm_export()
 * and kvm_import(). What the kernel cannot execute is handed to interp, one instruction at a time.
 */
#ifndef ENGINE_KVM_KVM_H
#define ENGINE_KVM_KVM_H

#include <linux/kvm.h>

#include "bus/bus.h"
#include "engine/interp/handlers.h"

/* Regions that the kernel was told of; as many as the mmu has slots. */
#define KVM_REGIONS_MAX 256
#define KVM_CPUID_MAX   256
/* Interrupt routes: the I/O APIC's pins, and messages of descriptors. */
#define KVM_PINS        24u
#define KVM_ROUTES_MAX  512u
#define LOG_KVM_ROUTES  (0x4b58ull << 48)

struct kvm_region {
    uint64_t base, bytes; /* bytes 0: this number is free */
    uint8_t *hva;
    uint32_t flags; /* KVM_MEM_* */
};

/* The room behind the kernel's header, which ends in an array without a length. */
struct kvm_cpuid_table {
    struct kvm_cpuid2 head;
    struct kvm_cpuid_entry2 entries[KVM_CPUID_MAX];
};

struct kvm_vm {
    struct interp_vm ivm;
    int fd;
    uint32_t run_bytes; /* of a vCPU's struct kvm_run and what is behind it */
    bool tsc_offset;    /* a vCPU's TSC offset can be set as it is */
    bool split;         /* local APICs are the kernel's: lapic.c */
    /* ... but interp runs all vCPUs now, with those in struct cpu. Changed by kvm_prepare(). */
    _Atomic bool apics_here;
    struct kvm_vcpu *vcpus;     /* a list; constant once the VM runs */
    bool has_irqfd, any_length; /* of KVM_IOEVENTFD: a write of whatever length */
    /* Guarded by the machine lock. */
    struct kvm_msi_fd {
        bool used;
        int fd;
    } msi_fds[KVM_ROUTES_MAX - KVM_PINS];
    struct lock routes_lock; /* LOCK_LEAF: guards routes. type 0: free */
    struct kvm_irq_routing_entry routes[KVM_ROUTES_MAX];
    struct lock lock; /* LOCK_CODE: guards all below but supported */
    bool clock_told;  /* the paravirtual clock was set, when the VM clock's offset was */
    uint64_t clock_offset;
    uint64_t slots_gen;  /* of the mmu's list that the regions are made from */
    bool regions_failed; /* and it was reported */
    struct kvm_region regions[KVM_REGIONS_MAX];
    struct kvm_cpuid_table supported;
};

#define KVM_MSRS_MOVED 11u
struct kvm_msr_table {
    struct kvm_msrs head;
    struct kvm_msr_entry entries[KVM_MSRS_MOVED];
};

/* A vCPU's registers in the kernel's forms. */
struct kvm_known {
    struct kvm_regs regs;
    struct kvm_sregs2 sregs;
    struct kvm_xsave xsave;
    struct kvm_xcrs xcrs;
    struct kvm_debugregs debug;
    struct kvm_msr_table msrs;
};

/* Of nested guests: SDM 4, "IA32_FEATURE_CONTROL"; APM 2, "SVM Related MSRs". */
#define MSR_FEATURE_CONTROL 0x3au
#define MSR_VM_CR           0xc0010114u
#define MSR_VM_HSAVE_PA     0xc0010117u

/* The largest there is: VMX with two pages. */
#define KVM_NESTED_BYTES 8192u

struct kvm_vcpu {
    struct ivcpu iv; /* first */
    struct kvm_vm *vm;
    struct kvm_vcpu *next;
    int fd;
    struct kvm_run *run;
    bool in_kernel; /* the registers are in the kernel, those in struct cpu are old */
    bool unsent;    /* struct cpu was changed: the kernel has to be told before the guest goes on */
    bool unfinished; /* the last exit's instruction waits for the next KVM_RUN to complete it */
    bool window;     /* if_flag and ready_for_interrupt_injection are those of now */
    bool debug_changed;
    bool debug_by_interp; /* more breakpoints than the processor has */
    bool debug_on;        /* the kernel was told of breakpoints */
    bool accepts_kicks;
    uint64_t tsc_offset; /* what the kernel was told */
    bool tsc_told;
    uint64_t handover_ns;  /* host_mono_ns() when the present second of counting began */
    unsigned nr_handovers; /* in it */
    bool known_valid;      /* the kernel has what is in known */
    struct kvm_known known;
    bool nmi_taken; /* an NMI that was the kernel's is in struct cpu */
    bool failed;    /* kvm_prepare() could not send its state */
    bool pv_here;   /* struct pv counts; else the kernel has the MSRs that are its own (pv.c) */
    bool pv_taken;  /* ... and interp ran the vCPU with it */
    /* Nested guests (nested.c): the kernel's state as it was exported or is to be loaded. */
    bool in_guest; /* the registers are a nested guest's */
    bool nested_unsent;
    uint64_t feature_control, vm_cr, hsave_pa; /* with nested_unsent */
    bool held_valid;                           /* events that wait for the nested guest */
    struct kvm_vcpu_events held;
    struct {
        struct kvm_nested_state head;
        uint8_t data[KVM_NESTED_BYTES];
    } nested;
    /* Split: what the kernel has of the APIC, as far as it came here and went back. */
    bool apic_valid;
    bool apic_dropped; /* what the kernel has is of no more interest: a reset */
    uint32_t mp_state; /* KVM_MP_STATE_* */
    uint32_t irr_seen[8];
    struct apic apic_known;
    struct host_kick thread;
    /* Sequentially consistent, with run->immediate_exit: see kvm_kick(). */
    _Atomic bool in_run;
};

static inline struct kvm_vm *kvm_of(const struct kvm_vcpu *k)
{
    return k->vm;
}

/* ---- system.c: the device, what the host's kernel can do ---- */
/* A descriptor, or -errno and the reason. */
int kvm_open(char *why, size_t why_bytes) MUST_CHECK;
int kvm_ioctl(int fd, unsigned long what, void *arg);           /* 0 or more; -errno */
int kvm_ioctl_num(int fd, unsigned long what, unsigned long n); /* the same, with a number */
int kvm_enable(int fd, uint32_t cap, uint64_t arg) MUST_CHECK;
/* 0, or -ENOTSUP and what is missing. */
int kvm_check_caps(int sys, char *why, size_t why_bytes) MUST_CHECK;

/* ---- probe.c: is it fit to run an operating system? ---- */
struct kvm_verdict {
    bool runs;           /* the probe's guest came to its end */
    char failed[128];    /* if not: what became of it */
    uint64_t exit_ns;    /* of one port write, there and back */
    uint64_t slow_times; /* a loop of supervisor code took so many times as long as on the host */
};
/* 0, or -errno: no VM could be made. Takes some milliseconds, at most half a second. */
int kvm_try(struct kvm_verdict *out);

/* ---- cpuid.c ---- */
int kvm_get_supported(int sys, struct kvm_cpuid_table *out) MUST_CHECK;
/* split: local APICs will be the kernel's. */
void kvm_trim(struct cpu_model *m, const struct kvm_cpuid_table *supported, bool split);
int kvm_set_cpuid(struct kvm_vcpu *k) MUST_CHECK;

/* ---- msr.c ---- */
/* Which MSRs the kernel answers itself; all others come to us. */
int kvm_set_msr_filter(const struct kvm_vm *vm) MUST_CHECK;
int kvm_export_msrs(struct kvm_vcpu *k) MUST_CHECK;
void kvm_make_msrs(const struct cpu *c, struct kvm_msr_table *l);
/* The kernel stops at the first that it refuses: done is how far it came, or -errno. 0 or -errno.
 */
int kvm_msrs_moved(const struct kvm_msr_table *l, int done, const char *what) MUST_CHECK;
void kvm_exit_msr(struct kvm_vcpu *k);
/* Those that are in the kernel alone, as after power-on. */
void kvm_reset_msrs(struct kvm_vcpu *k);
/* The guest's TSC is the VM clock's, plus TSC_ADJUST. */
int kvm_update_tsc(struct kvm_vcpu *k) MUST_CHECK;

int kvm_get_msr(struct kvm_vcpu *k, uint32_t msr, uint64_t *val) MUST_CHECK;
int kvm_set_msr(struct kvm_vcpu *k, uint32_t msr, uint64_t val) MUST_CHECK;

/* ---- pv.c: KVM's paravirtual interface, as far as the kernel makes it ---- */
/* Is this MSR of it the kernel's? Else it is the core's, or there is none. */
bool kvm_has_pv_msr(const struct kvm_vm *vm, uint32_t msr);
/* The kernel refuses what CPUID does not show. */
void kvm_enforce_pv(struct kvm_vcpu *k);
/* Struct pv has what the kernel has: for a snapshot, the vCPU stands still. */
void kvm_copy_pv(struct kvm_vcpu *k);
/* ... and the kernel has nothing of it any more: interp goes on. */
void kvm_take_pv(struct kvm_vcpu *k);
/* Back to the kernel, if struct pv counts. 0, or -errno after a message. */
int kvm_send_pv(struct kvm_vcpu *k) MUST_CHECK;
/* A reset: neither has anything. */
void kvm_reset_pv(struct kvm_vcpu *k);
/* The kernel writes the clock anew, which its guest reads by the TSC. */
int kvm_pv_tsc_changed(struct kvm_vcpu *k) MUST_CHECK;

/* ---- lapic.c: all of no effect (0, false) without the kernel's APICs, but where it says other
 * ---- */
/* Will a VM with this configuration have them? fd: the device's or a VM's. */
bool kvm_will_split(int fd, const struct engine_config *cfg);
/* If it was kicked (pv.kicked): its present HLT passes, or its next. The kernel has its APIC and
 * activity. 0 or -errno. */
int kvm_send_kick(struct kvm_vcpu *k) MUST_CHECK;
/* Before there are vCPUs. 0, or -errno after a message. */
int kvm_make_irqchip(struct kvm_vm *vm) MUST_CHECK;
/* Before the other registers: to ask may make the vCPU take INIT or SIPI. */
int kvm_export_activity(struct kvm_vcpu *k) MUST_CHECK;
/* After IA32_APIC_BASE and TSC_ADJUST. */
int kvm_export_apic(struct kvm_vcpu *k) MUST_CHECK;
/* If they were changed here; counts_anew: also if not. 0, or -errno after a message. */
int kvm_send_apic(struct kvm_vcpu *k, bool counts_anew) MUST_CHECK;
/* The vCPU goes on: the kernel's APIC counts. */
int kvm_apic_leaves(struct kvm_vcpu *k) MUST_CHECK;
void kvm_prepare(struct engine_vm *evm);
void kvm_refresh(struct vcpu *vc);
bool kvm_take_message(struct engine_vm *evm, const struct apic_msg *msg, uint32_t sender);
struct kvm_msi kvm_msi_of(const struct apic_msg *msg);
void kvm_watch_eoi(struct engine_vm *evm, unsigned pin, const struct apic_msg *msg);
bool kvm_exit_eoi(struct kvm_vcpu *k, enum run_result *res);

/* ---- nested.c ---- */
bool kvm_nests(const struct kvm_vcpu *k);
int kvm_export_nested(struct kvm_vcpu *k) MUST_CHECK;
int kvm_send_nested(struct kvm_vcpu *k) MUST_CHECK;
void kvm_reset_nested(struct kvm_vcpu *k);
size_t kvm_save_more(struct vcpu *vc, void *buf, size_t room);
int kvm_load_more(struct vcpu *vc, const void *buf, size_t bytes);

/* ---- routes.c ---- */
/* type 0: frees it. 0, or -errno after a message. */
int kvm_set_route(struct kvm_vm *vm, unsigned gsi, const struct kvm_irq_routing_entry *e);

/* ---- fds.c: see engine_ops ---- */
int kvm_notify_fd(struct engine_vm *evm, const struct bus_notify *n, bool on) MUST_CHECK;
int kvm_msi_fd(struct engine_vm *evm, int fd, uint64_t addr, uint32_t data) MUST_CHECK;
void kvm_msi_fd_close(struct engine_vm *evm, int fd);

/* ---- slots.c ---- */
/* The kernel's regions follow the mmu's slots. Cheap when nothing changed. */
int kvm_sync_slots(struct kvm_vm *vm) MUST_CHECK;
int kvm_sync_dirty(struct engine_vm *evm);

/* ---- state.c ---- */
/*
 * The registers come to struct cpu, and may be changed there: kvm_changed() says so. An event that
 * the kernel had taken but not delivered is delivered here. 0, -errno after a message; or -EAGAIN:
 * the guest had a triple fault on the way.
 */
int kvm_export(struct kvm_vcpu *k) MUST_CHECK;
int kvm_import(struct kvm_vcpu *k) MUST_CHECK;
/* What was changed goes to the kernel, but stays valid here: also by another thread while the vCPU
 * stands still. */
int kvm_send(struct kvm_vcpu *k, bool counts_anew) MUST_CHECK;
static inline void kvm_changed(struct kvm_vcpu *k)
{
    k->unsent = true;
}
/* Says why the engine gives up, and where the guest is. */
void kvm_report(struct kvm_vcpu *k, const char *what, uint64_t code);

/* ---- run.c ---- */
enum run_result kvm_engine_run(struct vcpu *vc);
/* KVM_RUN until the exit that is half done is done. */
int kvm_finish(struct kvm_vcpu *k) MUST_CHECK;

/* ---- exits.c ---- */
/* What the kernel's exit asks for. False: run() returns *res. */
bool kvm_exit(struct kvm_vcpu *k, enum run_result *res);
/* One instruction by interp. False: run() returns *res. */
bool kvm_step(struct kvm_vcpu *k, enum run_result *res);

/* ---- debug.c ---- */
void kvm_debug_update(struct vcpu *vc);
int kvm_debug_sync(struct kvm_vcpu *k) MUST_CHECK;
bool kvm_exit_debug(struct kvm_vcpu *k, enum run_result *res);

#endif
