/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The contract between a machine and the engine that runs its vCPUs.
 *
 * An engine runs one vCPU until it has something to say. What needs data from the machine in the
 * middle of an instruction (port and MMIO accesses) is asked through struct platform by a call,
 * because an instruction may need several of them; what ends the run (halt, stop request,
 * breakpoint, triple fault) returns from run(). Both are VM exits: they are counted and timed by
 * reason in one place, vcpu_exit_begin() and vcpu_exit_end().
 */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "cpu/cpu.h"
#include "mmu/mmu.h"

enum exit_reason {
#define EXIT(id, text) EXIT_##id,
#include "engine/exits.def"
#undef EXIT
    NR_EXITS
};
const char *exit_text(enum exit_reason why);
const char *exit_key(enum exit_reason why); /* "PIO", "MMIO": the id, for JSON */

/* Why run() returned. */
enum run_result {
    RUN_STOPPED,  /* REQ_STOP was posted (and is cleared) */
    RUN_HALTED,   /* the vCPU waits for an event; run() again when cpu.req is not 0 */
    RUN_SHUTDOWN, /* triple fault: cpu.activity is CPU_SHUTDOWN */
    RUN_DEBUG,    /* a debugger's breakpoint, watchpoint or step: see vcpu->dbg_hit */
    RUN_LIMIT,    /* vcpu->run_limit: so many steps were made, or an event is due */
    RUN_ERROR,    /* the engine cannot go on, and has said why */
};

/* What the machine does for a running vCPU. ctx is the machine's. All called on the vCPU's thread.
 */
struct platform_ops {
    uint64_t (*port_read)(void *ctx, uint16_t port, unsigned bytes);
    void (*port_write)(void *ctx, uint16_t port, unsigned bytes, uint64_t val);
    uint64_t (*mmio_read)(void *ctx, gpa_t at, unsigned bytes);
    void (*mmio_write)(void *ctx, gpa_t at, unsigned bytes, uint64_t val);
    /* VMCALL/VMMCALL; arguments and result in the registers. */
    void (*hypercall)(void *ctx, struct cpu *c);
    /* Optional. Other processes are to run guest code, but memory is this one's own
     * (mmu_has_private()): the machine makes it shared when it can, or not. Any thread. */
    void (*want_shared)(void *ctx);
};

/* The time and interrupt part, which the core reaches through struct cpu_ops; the engine forwards
 * to these. */
struct platform_time_ops {
    uint64_t (*tsc)(void *ctx);
    uint64_t (*now_ns)(void *ctx);
    uint64_t (*tsc_to_ns)(void *ctx, uint64_t tsc);
    uint64_t (*real_ns)(void *ctx);
    /* How long the vCPU's thread has waited for a CPU of the host's. */
    uint64_t (*steal_ns)(void *ctx, uint32_t cpu_id);
    void (*apic_timer)(void *ctx, uint32_t cpu_id, uint64_t deadline_ns);
    void (*apic_send)(void *ctx, uint32_t cpu_id, const struct apic_msg *msg);
    void (*apic_eoi)(void *ctx, uint32_t cpu_id, uint8_t vector);
    bool (*pic_pending)(void *ctx); /* any thread */
    uint8_t (*pic_ack)(void *ctx);
    void (*ferr)(void *ctx);
    /* Optional: while vCPUs run, tsc() is the host's TSC plus *offset. False or NULL: ask each
     * time.
     */
    bool (*tsc_offset)(void *ctx, uint64_t *offset);
};

/* What a debugger wants of a vCPU (gdb stub). Changed only while the vCPU is stopped; then
 * engine->debug_update(). */
struct dbg_bp {
    gva_t at;
    uint32_t bytes;
    unsigned acc; /* ACC_EXEC, ACC_WRITE, ACC_READ (read or write) */
};
struct dbg {
    bool step; /* stop after one instruction */
    unsigned nr_bps;
    struct dbg_bp bps[64];
};

struct vcpu {
    struct cpu cpu;
    const struct engine_ops *engine;
    struct engine_vm *evm; /* the engine's per-VM part */
    uint64_t nr_exits[NR_EXITS];
    uint64_t exit_ns[NR_EXITS]; /* total time by reason */
    int64_t busy_ns;            /* not halted; see vcpu_busy_ns() */
    uint64_t nr_insns;   /* guest instructions retired; bt: without run_limit only interp's */
    uint64_t nr_partial; /* repeated string instructions left between two repetitions */
    /*
     * 0: no limit. Else run() returns RUN_LIMIT when at least one and at most so many steps (see
     * vcpu_steps()) were made since the call. Two engines then make the same steps of the same
     * guest, for vm/lockstep.c:
     * - Events (interrupts, debug traps, shadows) are looked at as the call begins. When one comes
     *   due later, run() returns; but with run_exact it goes on to the limit, and the event waits
     *   for the next call.
     * - A repeated string instruction runs to its end, its fault or a debug trap, whatever is in
     *   cpu.req.
     */
    uint64_t run_limit;
    bool run_exact;
    struct dbg dbg;
    gva_t dbg_hit;        /* RUN_DEBUG: address that hit; for a step the new RIP */
    unsigned dbg_hit_acc; /* ACC_* of what hit; ACC_EXEC for steps too */
};

/*
 * Places between instructions that the vCPU came by: instructions retired, exceptions delivered,
 * and pauses of repeated string instructions. Every engine counts them the same.
 */
static inline uint64_t vcpu_steps(const struct vcpu *v)
{
    return v->nr_insns + v->nr_exits[EXIT_EXCEPTION] + v->nr_partial;
}

struct trace;
struct bus_notify;

/* How bt goes about its work: for its tests, and to find what it does wrong. */
enum bt_tiers {
    BT_TIERS_AUTO,
    BT_TIERS_CHECKED,
    BT_TIERS_DIRECT, /* user code goes to the direct tier at once, where there is one */
};
/* The branch that ends a lookup, where flags may not change (docs/bt.md). */
enum bt_lookup {
    BT_LOOKUP_AUTO, /* LOOP on AMD's processors, JRCXZ on others, where LOOP is microcode */
    BT_LOOKUP_LOOP,
    BT_LOOKUP_JRCXZ,
};
struct bt_config {
    uint8_t hot;     /* code that interp has run so many times is translated */
    uint32_t idle_s; /* who idles for so long gives translations back; 0: never */
    uint64_t limit;  /* only so many blocks are */
    enum bt_tiers tiers;
    enum bt_lookup lookup;
    bool perf_map; /* /tmp/perf-PID.map names the translations */
};
extern const struct bt_config bt_default_config;

/* Where a kvm guest's interrupt controllers are. */
enum kvm_irqchip_mode {
    KVM_IRQCHIP_AUTO,  /* split where the host's kernel has it */
    KVM_IRQCHIP_SPLIT, /* local APICs in the kernel, the others in doppel */
    KVM_IRQCHIP_OFF,   /* all in doppel */
};
struct kvm_config {
    enum kvm_irqchip_mode irqchip;
};
extern const struct kvm_config kvm_default_config;

/* What an engine gets when a VM is made. Kept by reference: must outlive the engine's VM. */
struct engine_config {
    struct mmu *mmu;
    const struct cpu_model *model;
    const struct platform_ops *ops;
    const struct platform_time_ops *time_ops;
    void *ctx; /* for both ops tables */
    struct log_seen *seen;
    const struct trace *trace;    /* NULL: none */
    bool time_exits;              /* measure exit_ns (costs two clock reads an exit) */
    const struct bt_config *bt;   /* NULL: the default */
    const struct kvm_config *kvm; /* NULL: the default */
};

/* Common head of every engine's per-VM structure. */
struct engine_vm {
    const struct engine_ops *ops;
    struct engine_config cfg;
};

struct engine_ops {
    const char *name;
    const char *about; /* a line for `doppel engines` */
    /* It knows every step its vCPUs make, and obeys vcpu.run_limit: what lock-step needs. */
    bool counts_steps;
    /* Its guests may have VMX or SVM, as far as trim_model() leaves them. */
    bool nests;
    /* 0 when this host can run it, and in why what it has to go without (or ""); else -ENOTSUP or
     * another -errno and the reason. */
    int (*probe)(char *why, size_t why_bytes);
    /* Optional: what of it this host has and has not, a line for `doppel engines`. */
    void (*describe)(char *line, size_t bytes);
    /* Optional: 0 when it is a good choice for a user who named none, else -errno and the reason.
     * Only where probe() gave 0; may take some milliseconds. */
    int (*recommend)(char *why, size_t why_bytes);
    /* Optional: takes away from the model what the engine, as it is configured, cannot give its
     * guests. */
    void (*trim_model)(struct cpu_model *m, const struct engine_config *cfg);
    /* Optional: how fast the guest's TSC runs where it is the host's, invariant or not; 0: not
     * known. */
    uint64_t (*tsc_khz)(void);
    int (*vm_create)(const struct engine_config *cfg, struct engine_vm **out);
    void (*vm_destroy)(struct engine_vm *evm);
    /* The vCPU comes in power-on state. */
    int (*vcpu_create)(struct engine_vm *evm, uint32_t id, struct vcpu **out);
    void (*vcpu_destroy)(struct vcpu *v);
    /* On the vCPU's own thread. Never called while another thread changes v->cpu. */
    enum run_result (*run)(struct vcpu *v);
    /* v->cpu was changed from outside (debugger, restore, reset): drop what was derived from it.
     * vCPU stopped. */
    void (*state_changed)(struct vcpu *v);
    /* Optional: v->cpu was reset as by power-on; what the engine keeps beside it is, too. Before
     * state_changed(). */
    void (*reset)(struct vcpu *v);
    void (*debug_update)(struct vcpu *v);
    /*
     * Memory as the guest sees it at its present CR3, for debuggers: no A/D bits, no faults, no
     * devices. Returns bytes done (stops at the first unmapped page). vCPU stopped.
     */
    uint64_t (*peek)(struct vcpu *v, gva_t at, void *buf, uint64_t bytes);
    uint64_t (*poke)(struct vcpu *v, gva_t at, const void *buf, uint64_t bytes);
    /*
     * Optional, for engines whose guests write memory unseen: after SLOT_LOG_DIRTY was changed, and
     * before PAGE_NOTE_DIRTY is looked at; sets the notes of what was written since the last call.
     * Any thread; vCPUs may run. 0 or -errno.
     */
    int (*sync_dirty)(struct engine_vm *evm);

    /*
     * Optional, together: what a vCPU has beside v->cpu, for snapshots of this engine's alone.
     * Stopped. How many bytes were written to buf, 0: there is nothing; and back, in a vCPU of the
     * same model: 0, or -EINVAL after a message.
     */
    size_t (*save_more)(struct vcpu *v, void *buf, size_t room);
    int (*load_more)(struct vcpu *v, const void *buf, size_t bytes);

    /* ---- optional: for engines that may keep local APICs themselves, outside of struct cpu ----
     */
    /*
     * All vCPUs stand still and are about to go on, as v->cpu says. Machine lock held: no device
     * says anything meanwhile; the clock runs.
     */
    void (*prepare)(struct engine_vm *evm);
    /* v->cpu is about to be saved: what came for the vCPU since it stopped is brought to it, too.
     */
    void (*refresh)(struct vcpu *v);
    /* A message for all APICs that it addresses, but for vCPU sender's own (UINT32_MAX: nobody's).
     * False: they are in struct cpu, and the machine finds out whom it is for. Any thread. */
    bool (*take_message)(struct engine_vm *evm, const struct apic_msg *msg, uint32_t sender);
    /* The machine wants to hear of EOIs (platform_time_ops.apic_eoi) of what pin (0 to 23) of its
     * I/O APIC sends; NULL: it sends nothing of the kind. Machine lock held. */
    void (*watch_eoi)(struct engine_vm *evm, unsigned pin, const struct apic_msg *msg);
    /* Optional, together: see bus_fd_ops. */
    int (*notify_fd)(struct engine_vm *evm, const struct bus_notify *n, bool on);
    int (*msi_fd)(struct engine_vm *evm, int fd, uint64_t addr, uint32_t data);
    void (*msi_fd_close)(struct engine_vm *evm, int fd);
};

extern const struct engine_ops interp_engine, bt_engine, kvm_engine;

/* The engines of this build in order of preference; NULL-terminated. */
extern const struct engine_ops *const engines[];
const struct engine_ops *engine_find(const char *name);

/* Count an exit; returns a start time for vcpu_exit_end() (0 when not timing). */
uint64_t vcpu_exit_begin(struct vcpu *v, enum exit_reason why);
void vcpu_exit_end(struct vcpu *v, enum exit_reason why, uint64_t start);

/* The guest's code (or what it asked for) begins to run, and ceases to: the vCPU's own thread. */
void vcpu_busy_begin(struct vcpu *v);
void vcpu_busy_end(struct vcpu *v);
/* The time between these so far, with what is under way: it never falls. Any thread. */
uint64_t vcpu_busy_ns(const struct vcpu *v);

#endif
