/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of vm/ share and nobody else sees. */
#ifndef VM_PRIV_H
#define VM_PRIV_H

#include "vm/vm.h"

struct pc;

/* A vCPU and its thread. */
struct vm_vcpu {
    struct vm *vm;
    struct vcpu *v;
    struct thread thread;
    struct timer apic_timer;
    struct host_delay delay; /* how long its thread waits for CPUs; the thread's own */
    /* Not in run(), and not going there before it has taken vm->lock. Guarded by vm->lock. */
    bool parked;
};

struct vm {
    struct vm_config cfg;
    char name[64];
    struct cpu_model model;
    struct mmu *mmu;
    struct bus *bus;
    struct pc *pc;
    struct engine_config ecfg; /* the engine keeps it by reference */
    struct engine_vm *evm;
    struct boot_map map;
    char *append;          /* the kernel's command line, if it is not just what the user gave */
    struct vm_vcpu *vcpus; /* constant once the VM was created */
    unsigned nr_vcpus;

    /*
     * What was asked of the machine: 0, or enum stop_reason << 32 | status. Not under the lock: it
     * is posted by device code, which holds the machine lock.
     */
    _Atomic uint64_t stop;
    _Atomic int nr_holds;       /* of devices that cannot go on: bus_post_hold() */
    _Atomic bool want_shared;   /* an engine wants memory that other processes can map */
    _Atomic bool remap;         /* a device wants memory to be elsewhere */
    _Atomic uint32_t nr_posted; /* futex: counts posts, wakes the supervisor */

    struct lock lock;    /* LOCK_VM: guards what follows */
    struct cond changed; /* any of it */
    unsigned nr_pauses;
    /* The user's own pause, which does not nest. VM_USER_PAUSING: it is under way. */
    enum { VM_USER_RUNS, VM_USER_PAUSING, VM_USER_PAUSED } user;
    bool started;
    bool quit; /* threads of vCPUs end */
    bool ended;
    enum stop_reason why; /* once ended */
    int status;
    uint64_t started_ns, ended_ns; /* host_mono_ns() */
    void (*debug_hook)(void *arg, struct vcpu *v);
    void *debug_arg;
    unsigned nr_in_hook; /* threads that are in the hook just now */

    struct vm_base base;  /* path NULL: none */
    _Atomic bool claimed; /* see vm_claim() */
    _Atomic bool sharing; /* by the supervisor, for its own work: that ends soon */

    struct thread supervisor;
    uint64_t timeout_at_ns; /* host_mono_ns(); UINT64_MAX: never */
};

/* ---- run.c: threads ---- */
int run_start(struct vm *vm) MUST_CHECK;
void run_join(struct vm *vm);
/* Waits until no vCPU is in run(). Caller holds vm->lock and has seen to it that they stop. */
void run_wait_parked(struct vm *vm);
/* Something was posted to the supervisor; any thread, any lock. */
void run_posted(struct vm *vm);
/* A device wants pc_remap(), before its guest goes on. Any thread, any lock. */
void run_post_remap(struct vm *vm);
/* Makes vCPUs leave run(); any thread, no locks. */
void run_kick(struct vm *vm);

/* ---- vm.c ---- */
/* The machine as after power-on, the kernel loaded again. All vCPUs parked. 0 or -errno. */
int vm_reset(struct vm *vm) MUST_CHECK;
/* All vCPUs stand still and are about to go on. Machine lock held. */
void vm_prepare(struct vm *vm);
/* Is one pause all that holds the VM? */
bool vm_paused_once(struct vm *vm);
/* vm_resume() of a pause that was the first: if it is the last, too, the clock goes on as if there
 * had been none. */
void vm_resume_as_if_run(struct vm *vm);

/* ---- platform.c: what the engine and the core ask of the machine ---- */
extern const struct platform_ops vm_platform_ops;
extern const struct platform_time_ops vm_platform_time_ops;

/* ---- hypercall.c ---- */
void vm_hypercall(struct vm *vm, struct cpu *c);

/* ---- irq.c: who hears an interrupt ---- */
void irq_wire(struct vm *vm);
/* A message to all APICs it addresses, but for the sender's own (UINT32_MAX: nobody's). */
void irq_send(struct vm *vm, const struct apic_msg *msg, uint32_t sender);
/* To that vCPU's APIC alone: false if it does not hear it. msg->dest is its ID. */
bool irq_send_one(struct vm *vm, struct cpu *to, const struct apic_msg *msg);

/* See engine_ops.watch_eoi. */
void irq_watch_eoi(struct vm *vm, unsigned pin, const struct apic_msg *msg);

/* ---- pc_virtio.c: the virtio devices ---- */
struct pci_host;
struct pc_virtio;
/* NULL after a message. Tells vm->cfg.boot of those that are announced there. */
struct pc_virtio *pc_virtio_create(struct vm *vm, struct pci_host *pci_host);
void pc_virtio_destroy(struct pc_virtio *pv);
/* Every device: see virtio_set_paused(). Machine lock held. */
void pc_virtio_set_paused(struct pc_virtio *pv, bool on);
/* See virtio_settle(), of all; NULL, or the name of one that has requests under way. */
const char *pc_virtio_settle(struct pc_virtio *pv);
/* NULL, or the name of a device whose state cannot be saved. */
const char *pc_virtio_unsaveable(struct pc_virtio *pv);
struct virtio_balloon *pc_virtio_balloon(struct pc_virtio *pv);        /* NULL: none */
struct virtio_blk *pc_virtio_disk(struct pc_virtio *pv, unsigned idx); /* NULL: none */
/* -ENOENT: no such disk; else as store_resize(). */
int pc_virtio_disk_resize(struct pc_virtio *pv, unsigned idx, uint64_t bytes) MUST_CHECK;
/* See vm_resize_console(); machine lock held. */
void pc_virtio_resize_console(struct pc_virtio *pv, uint16_t cols, uint16_t rows);

struct virtio_mem *pc_virtio_mem(struct pc_virtio *pv); /* NULL: none */

/* ---- pmem.c: files as memory, and memory that is plugged later ---- */
gpa_t vm_hotplug_at(const struct vm_config *cfg);
/* 0 or -errno after a message. */
/* pc_remap()'s part of it. 0, or -errno after a message. */
int vm_remap_mem(struct vm *vm, struct virtio_mem *m, bool *changed) MUST_CHECK;
int vm_hotplug_map(struct vm *vm, gpa_t at, struct slot **out) MUST_CHECK;
/* Where the first one is; the others are behind it. */
gpa_t vm_pmem_first(const struct vm_config *cfg);
/* 0 or -errno after a message. */
int vm_pmem_map(struct vm *vm, const struct vm_pmem *p, gpa_t at) MUST_CHECK;

/* The PCI function of a disk; -1: it is on no PCI bus. */
int pc_virtio_disk_devfn(const struct pc_virtio *pv, unsigned disk);

/* ---- pc_firmware.c: what firmware is told ---- */
#define PC_IDE_DEVFN 0xf9u /* 1f.1 */
struct dma;
struct pc_firmware;
/* NULL after a message. */
struct pc_firmware *pc_firmware_create(struct vm *vm, struct pci_host *pci_host,
                                       const struct pc_virtio *pv, struct dma *dma);
void pc_firmware_destroy(struct pc_firmware *f);
/* Which IDE drive disk idx is: 0 primary master, 1 primary slave, 2 secondary master, ...; more
 * than 3: there is no room. -1: it is no IDE disk. */
int vm_ide_slot(const struct vm_config *cfg, unsigned idx);

/* ---- pc_display.c: the screen ---- */
struct pc_display;
struct pc_display *pc_display_create(struct vm *vm, struct pci_host *pci_host);
void pc_display_destroy(struct pc_display *d);
/* Where the RAM is that the PAM registers show or hide: behind all video memory. */
#define VM_SHADOW_RAM        "ram-shadow"
#define VM_SHADOW_PARKED_AT  (MMU_PARKED_AT + GIB(1))
#define VM_HOTPLUG_PARKED_AT (MMU_PARKED_AT + BIT64(51))

/* Brings video memory to where the guest wants it. All vCPUs stand still. */
void pc_display_remap(struct pc_display *d);

/* ---- pc.c: the devices ---- */
struct pc_display *pc_display(struct pc *pc);                           /* NULL: there is none */
int pc_key(struct pc *pc, const uint8_t *code, unsigned nr) MUST_CHECK; /* as vm_key(); locked */
void pc_pointer(struct pc *pc, int dx, int dy, int dz,
                uint8_t buttons); /* as vm_pointer(); locked */
/* Brings memory to where devices' registers say that it is. All vCPUs stand still. */
void pc_remap(struct pc *pc);
struct pc *pc_create(struct vm *vm);
void pc_destroy(struct pc *pc);
/* The VM stands still, or goes on: devices that work by themselves do, too. Machine lock held. */
void pc_set_paused(struct pc *pc, bool on);
/* NULL, or the name of a device that has requests under way. Paused. */
const char *pc_settle(struct pc *pc);
const char *pc_unsaveable(struct pc *pc); /* see pc_virtio_unsaveable() */
void pc_gpe(struct pc *pc, unsigned n);   /* machine lock held */
bool pc_power_button(struct pc *pc);      /* see acpi_pm_power_button(); machine lock held */
void pc_reset(struct vm *vm);
/* PCI's interrupt lines as a firmware would have led them to the 8259s. */
void pc_route_intx(struct pc *pc);
#define PIT_IOAPIC_PIN 2 /* of GSI 0; the others' is their number */
/* The wires from the interrupt router; machine lock held. */
void pc_set_pic(struct pc *pc, unsigned irq, int level);
void pc_set_pirq(struct pc *pc, unsigned line, int level); /* to the 8259s, as it is routed */
void pc_set_ioapic(struct pc *pc, unsigned pin, int level);
/* See pic_waits() and ioapic_msg(). */
bool pc_pic_waits(const struct pc *pc, unsigned irq);
bool pc_ioapic_msg(const struct pc *pc, unsigned pin, struct apic_msg *msg);
void pc_ioapic_eoi(struct pc *pc, uint8_t vector);
bool pc_pic_pending(struct pc *pc); /* no lock */
uint8_t pc_pic_ack(struct pc *pc);
void pc_ferr(struct pc *pc);
/* Bytes that the limit of the serial port kept from it. */
uint64_t pc_serial_dropped(struct pc *pc);
struct virtio_mem *pc_mem(struct pc *pc); /* NULL: none */
struct virtio_balloon *pc_balloon(struct pc *pc);
void pc_resize_console(struct pc *pc, uint16_t cols, uint16_t rows); /* machine lock held */
struct virtio_blk *pc_disk(struct pc *pc, unsigned disk);            /* NULL: no virtio disk */
int pc_resize_disk(struct pc *pc, unsigned disk, uint64_t bytes) MUST_CHECK;

#endif
