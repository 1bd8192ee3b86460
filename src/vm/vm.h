/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine put together: memory, bus, devices, engine, vCPU threads; its run loop and its end.
 *
 * Several VMs may live in one process; all state hangs off struct vm.
 */
#ifndef VM_VM_H
#define VM_VM_H

#include "backend/backend.h"
#include "backend/store.h"
#include "boot/boot.h"
#include "bus/bus.h"
#include "engine/engine.h"
#include "lib/bucket.h"

struct fs_share;
struct net;
struct vsock;
struct trace;
struct json_t;

/* Two engines run the guest in lock-step: lockstep.h. */
struct lockstep_config {
    const struct engine_ops *reference; /* NULL: no lock-step */
    const struct engine_ops *tested;
    uint64_t from;  /* so many steps (vcpu_steps()) the tested engine goes alone before */
    uint64_t chunk; /* at most so many steps between two comparisons of the vCPUs */
    uint64_t
        memory_every; /* so many steps between two comparisons of all memory; 0: only at the end */
    /* Takes the report, line by line; NULL: standard error. */
    void (*line)(void *arg, const char *text);
    void *line_arg;
};

enum vm_transport { VM_TRANSPORT_PCI, VM_TRANSPORT_MMIO, VM_TRANSPORT_IDE };

/* A virtio disk, or an IDE disk or CD-ROM drive, which has none of the rest. Limits: 0 is none. */
struct vm_disk {
    struct store *store; /* owned by the caller */
    const char *serial;  /* or NULL */
    enum vm_transport transport;
    bool is_cd;         /* IDE */
    unsigned nr_queues; /* 0: one for each vCPU, up to 8 */
    uint64_t requests_per_s, bytes_per_s;
    bool no_packed; /* only split rings */
};
#define VM_DISKS_MAX 16

/* A virtio network card. */
struct vm_net {
    struct net *net; /* owned by the caller */
    enum vm_transport transport;
};
#define VM_NETS_MAX 8

#define VM_PORTS_MAX     15
#define VM_PORT_NAME_MAX 63 /* bytes */

/* A virtio console: a terminal and ports for programs. */
struct vm_console {
    struct chr *chr; /* the terminal's; NULL: there is none. Channels are owned by the caller */
    struct vm_port {
        struct chr *chr;
        const char *name;
    } ports[VM_PORTS_MAX];
    unsigned nr_ports;
    enum vm_transport transport;
};
/* A folder of the host, as a virtio file system. */
struct vm_share {
    struct fs_share *fs; /* owned by the caller */
    enum vm_transport transport;
};
#define VM_SHARES_MAX 8
/* A file as persistent memory of the guest (virtio-pmem). */
struct vm_pmem {
    const char *name; /* for messages; outlives the VM */
    int fd;           /* owned by the caller; for writing, too, if not read_only */
    uint64_t bytes;   /* of the file: a multiple of VM_PMEM_ALIGN */
    bool read_only;   /* the guest gets a copy, and its writes go nowhere */
    enum vm_transport transport;
};
#define VM_PMEMS_MAX          8
#define VM_HOTPLUG_BLOCKS_MAX 32768u
#define VM_PMEM_ALIGN         MIB(2)
/*
 * A snapshot that the machine begins with (snap/snap.h makes it). Memory is that of the file, no
 * kernel is loaded, and the clock stands where it stood; vCPUs and devices are as after power-on,
 * for the snapshot's to be loaded.
 */
struct vm_image {
    struct mmu_image memory;
    uint64_t tsc, tsc_khz; /* of the clock */
    /* What its CPUs are, in detail; the host's and the engine's have to have all of it. */
    const struct cpu_model *model;
};

/* Copied, but not the strings and what else it points to: they outlive the VM. */
struct vm_config {
    const char *name;                /* NULL: "vm-PID" */
    const struct engine_ops *engine; /* not used with lockstep */
    struct lockstep_config lockstep;
    const char *cpu_model; /* NULL: host */
    /* Family, model and stepping (CPUID.1 EAX): in the mask's bits these, not the host's. */
    uint32_t cpu_signature_mask, cpu_signature;
    bool no_paravirt; /* nothing of KVM's interface */
    struct boot_config boot;
    struct host_sched sched; /* of the vCPUs' threads; all zero: as the caller's */
    struct chr *serial;      /* owned by the caller; COM1 */
    struct chr *debugcon;    /* port E9h, or NULL */
    uint8_t *vars; /* UEFI's variables: a flash below the firmware; the caller's. NULL: none */
    uint32_t vars_bytes;               /* a multiple of 4096 */
    bool vga;                          /* there is a screen */
    const char *vga_bios;              /* path of the video BIOS, or NULL */
    const char *boot_order;            /* words of --boot, or NULL: the firmware's own */
    bool debug_exit;                   /* --device debug-exit */
    struct bucket_config serial_bytes; /* what the guest sends beyond it is lost */
    bool rng;                          /* --device rng */
    struct bucket_config rng_requests, rng_bytes;
    /* A guest's init can tell that it has come up: dev/boottimer.h. NULL: there is no such thing.
     */
    void (*booted)(void *arg);
    void *booted_arg;
    bool balloon;       /* --device balloon */
    bool balloon_hints; /* ... with free page hinting */
    bool balloon_keeps; /* ... not even a guest that is out of memory takes pages back */
    enum vm_transport rng_transport, balloon_transport, vsock_transport;
    struct vm_console console; /* none if it has neither terminal nor ports */
    struct vm_disk disks[VM_DISKS_MAX];
    unsigned nr_disks;
    struct vm_net nets[VM_NETS_MAX];
    unsigned nr_nets;
    struct vm_share shares[VM_SHARES_MAX];
    unsigned nr_shares;
    struct vm_pmem pmems[VM_PMEMS_MAX];
    unsigned nr_pmems;
    /* Memory that can be plugged while it runs (virtio-mem, over MMIO): at most that much, a
     * multiple of blocks, of which there are up to VM_HOTPLUG_BLOCKS_MAX. 0: none. */
    uint64_t hotplug_bytes, hotplug_block_bytes, hotplug_slot_bytes;
    struct vsock *vsock; /* owned by the caller; NULL: no such device */
    uint32_t vsock_cid;
    bool no_reboot;
    uint64_t timeout_ns; /* wall time; 0: none */
    bool time_exits;
    const struct trace *trace;    /* NULL: none */
    const struct bt_config *bt;   /* NULL: the default */
    const struct kvm_config *kvm; /* NULL: the default */
    /* How the machine was asked for (options, API requests): snapshots keep it. NULL: nothing. */
    struct json_t *config;
    const struct vm_image *image; /* NULL: none. Until vm_create() has returned. */
};

enum vm_state { VM_CREATED, VM_RUNNING, VM_PAUSED, VM_STOPPED };

struct vm;

/* NULL after a message. Loads the kernel too. */
struct vm *vm_create(const struct vm_config *cfg);
/* Starts vCPU and timer threads. 0 or -errno. */
int vm_start(struct vm *vm) MUST_CHECK;
/* Waits until the VM has ended (after reboots, unless no_reboot). Returns why, and the exit status
 * of debug-exit. */
enum stop_reason vm_wait(struct vm *vm, int *status);
void vm_destroy(struct vm *vm);

/* Any thread. vm_pause returns when all vCPUs stand still at instruction boundaries; clock stopped.
 * Nests by counting. */
void vm_pause(struct vm *vm);
void vm_resume(struct vm *vm);
/* The user's pause, which is one, however often it is asked for. False: it was so already. */
bool vm_user_pause(struct vm *vm);
bool vm_user_resume(struct vm *vm);
/* Presses the power button. False: the guest does not listen to it (yet). Any thread. */
bool vm_power_button(struct vm *vm);
void vm_stop(struct vm *vm, enum stop_reason why, int status);
enum vm_state vm_state(struct vm *vm);
/* The terminal behind the virtio console has that size now; any thread, no locks. Without a console
 * nothing happens. */
void vm_resize_console(struct vm *vm, uint16_t cols, uint16_t rows);
/* Any thread, no locks. Makes a disk larger; bytes 0: its image was made larger. 0, -ENOENT: no
 * such disk, -EINVAL: it would shrink, or another -errno. */
int vm_set_memory(struct vm *vm, uint64_t bytes) MUST_CHECK;
/*
 * Free page hinting: the guest names its free pages, and their memory goes back. Begins a run, or
 * ends it; with `acknowledge` it ends when the guest has named all. -ENOENT: the machine has no
 * such balloon, -EOPNOTSUPP: the guest's driver has no hinting. Status: the last commands of both
 * sides, 0 (stop), 1 (done) or a run's number; guest -1: none yet.
 */
int vm_hint_start(struct vm *vm, bool acknowledge) MUST_CHECK;
int vm_hint_stop(struct vm *vm) MUST_CHECK;
int vm_hint_status(struct vm *vm, uint32_t *host, int64_t *guest) MUST_CHECK;
/* How much hot-pluggable memory the guest is to have, and has. -ENOENT: there is none; -EINVAL: no
 * multiple of blocks, or more than there is. */
int vm_hotplug(struct vm *vm, uint64_t bytes) MUST_CHECK;
/* The state of all devices was read: what is plugged is shown, before those whose rings lie in it
 * take up their work. Machine lock held, no vCPU runs. 0 or -errno after a message. */
int vm_show_plugged(struct vm *vm) MUST_CHECK;
int vm_hotplug_sizes(struct vm *vm, uint64_t *plugged_bytes, uint64_t *requested_bytes) MUST_CHECK;
int vm_resize_disk(struct vm *vm, unsigned disk, uint64_t bytes) MUST_CHECK;
/* The same for its limits (0: none), -ENOENT: no such disk. */
int vm_limit_disk(struct vm *vm, unsigned disk, uint64_t requests_per_s,
                  uint64_t bytes_per_s) MUST_CHECK;
/*
 * Another image behind a virtio disk, which the guest hears of by its size; the old one is its
 * owner's to close. Waits until no request is under way: -EBUSY after a message. -ENOENT: no such
 * disk, -EROFS: one of the two is read-only and the other is not.
 */
int vm_replace_disk(struct vm *vm, unsigned disk, struct store *store) MUST_CHECK;

/*
 * Of a paused VM: waits until its devices have nothing under way (at most that long), so that all
 * there is of a request is in its memory. -EBUSY after a message.
 */
int vm_settle(struct vm *vm, uint64_t wait_ns) MUST_CHECK;
/* NULL, or the name of a device of it whose state cannot be saved. */
const char *vm_unsaveable(struct vm *vm);
/* Of a paused VM: what engines have derived from memory and vCPUs is dropped. */
void vm_state_changed(struct vm *vm);
/* Of a paused VM that is about to be saved: its vCPUs' state is complete. */
void vm_refresh(struct vm *vm);
/* The guest is to know that it is another one than before: its generation identifier changes. VM
 * paused. */
void vm_new_generation(struct vm *vm);
const struct cpu_model *vm_model(const struct vm *vm);
/*
 * The snapshot that the VM's dirty log began with: its id and state file. path NULL: none. VM
 * paused, or not started; the caller sees to it that there is one snapshot at a time.
 */
struct vm_base {
    char id[33];
    char *path; /* malloc'ed; the VM's */
};
const struct vm_base *vm_base(const struct vm *vm); /* NULL: none */
/* Before the dirty log is read: what the engine alone knows of it comes to the slots' notes. 0 or
 * -errno. */
int vm_sync_dirty(struct vm *vm) MUST_CHECK;
/* Takes base->path. The dirty log begins. */
void vm_set_base(struct vm *vm, const struct vm_base *base);
/* For what takes its time with a VM and must not be done twice at once: false, somebody is at it.
 * Waits for what the VM does for itself. */
bool vm_claim(struct vm *vm);
void vm_unclaim(struct vm *vm);

const struct vm_config *vm_cfg(const struct vm *vm);
struct bus *vm_bus(struct vm *vm);
struct mmu *vm_mmu(struct vm *vm);
unsigned vm_nr_vcpus(const struct vm *vm);
struct vcpu *vm_vcpu(struct vm *vm, unsigned idx);

/*
 * A debugger attaches: called on the vCPU's thread when run() returned RUN_DEBUG, with the VM
 * paused around it. NULL detaches. When this returns no old hook runs any more; not to be called
 * from a hook.
 */
void vm_set_debug_hook(struct vm *vm, void (*hook)(void *arg, struct vcpu *v), void *arg);

/* ---- screen and keyboard (pc_display.c); any thread ---- */
struct picture;
/* What the screen shows: dev/vga.h. -ENODEV: there is none. -ENOMEM. */
int vm_screen(struct vm *vm, struct picture *pic) MUST_CHECK;
/* The text on it, malloc'ed; NULL: there is no screen, or it is not in text mode. */
char *vm_screen_text(struct vm *vm);
/* A key goes down or up: its code of scan-code set 2, at most 8 bytes. -EAGAIN: the guest has not
 * taken those before. */
int vm_key(struct vm *vm, const uint8_t *code, unsigned nr) MUST_CHECK;
/* The mouse moves (y grows upwards), its wheel turns (towards the user: up), its buttons are those:
 * bit 0 left, 1 right, 2 middle. */
void vm_pointer(struct vm *vm, int dx, int dy, int dz, uint8_t buttons);

/* The process's exit status for a stop, as documented in doppel(1): 0, 1, 3, 124, debug-exit's. */
int vm_exit_status(enum stop_reason why, int status);

const char *vm_state_text(enum vm_state s);     /* "running" */
const char *vm_stop_text(enum stop_reason why); /* "power off" */

/* Exit counts and times and instruction counts of all vCPUs as JSON text (one object); malloc'ed,
 * free it. */
char *vm_stats_json(struct vm *vm);

#endif
