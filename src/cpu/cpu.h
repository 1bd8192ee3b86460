/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The semantic core: the architectural state of one x86-64 processor, and everything about it that
 * all engines share: exceptions, segments, far transfers, page walk, control registers, CPUID,
 * MSRs, local APIC.
 *
 * Freestanding; knows no devices, threads or command lines. It reaches memory and the platform only
 * through struct cpu_ops. All functions are called by the thread that owns the vCPU, except those
 * marked "any thread".
 *
 * Conventions:
 * - During an instruction c->rip is the address of that instruction and c->next_rip that of the one
 * behind it (both offsets in CS). A function that transfers control sets c->rip to the target on
 * success; every other function leaves c->rip alone, and the engine advances it.
 * - On STEP_FAULT an exception is in c->exc and nothing architectural has changed (but for what
 * hardware leaves behind as well: accessed bits, bytes below the stack pointer). c->rip still is
 * the instruction. The engine then calls cpu_deliver().
 * - c->rflags always is complete (all arithmetic flags are up to date when a function of the core
 * is called).
 * - Whoever changes CS, SS, CPL, CR0, CR4, EFER or RFLAGS.VM/AC calls cpu_update_mode() before it
 * returns.
 */
#ifndef CPU_CPU_H
#define CPU_CPU_H

#include "cpu/apic.h"
#include "cpu/features.h"
#include "cpu/pv.h"
#include "cpu/regs.h"
#include "lib/log.h"
#include "lib/types.h"

enum gpr { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15, NR_GPRS };
enum seg_id { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, NR_SEGS };

/* The visible selector and the hidden part. limit is in bytes (G already applied); base of FS/GS is
 * 64 bits. */
struct seg {
    uint64_t base;
    uint32_t limit;
    uint32_t attr; /* SEG_*, see cpu/regs.h */
    uint16_t sel;
};

struct dtable {
    uint64_t base;
    uint16_t limit;
};

/* SDM 1, "XSAVE Area", standard format, components x87, SSE and AVX. */
struct xsave_area {
    uint16_t fcw, fsw;
    uint8_t ftw; /* abridged */
    uint8_t rsvd0;
    uint16_t fop;
    uint64_t fip, fdp;
    uint32_t mxcsr, mxcsr_mask;
    uint8_t st[8][16]; /* ST(i), 10 bytes used */
    uint8_t xmm[16][16];
    uint8_t rsvd1[96];
    uint64_t xstate_bv, xcomp_bv;
    uint64_t rsvd2[6];
    uint8_t ymmh[16][16]; /* upper halves */
} __attribute__((aligned(64)));
_Static_assert(sizeof(struct xsave_area) == 832, "SDM 1, Standard Format of XSAVE Area");

/* The exception an instruction raised, until it is delivered. */
struct cpu_exc {
    bool valid;
    bool has_err;
    uint8_t vector;
    uint32_t err;
    uint64_t addr; /* #PF: what goes to CR2; #DB: what is ORed into DR6 */
};

/* What kind of event is delivered: it decides the pushed RIP, the DPL check of the gate and the EXT
 * bit. */
enum event_kind {
    EVENT_EXCEPTION,    /* fault or trap raised by the processor; RIP pushed is c->rip */
    EVENT_EXT_INT,      /* external interrupt; c->rip */
    EVENT_NMI,          /* c->rip */
    EVENT_SOFT_INT,     /* INT n; c->next_rip, gate DPL checked */
    EVENT_SOFT_EXC,     /* INT3, INTO; c->next_rip, gate DPL checked */
    EVENT_PRIV_SOFT_EXC /* INT1 (ICEBP); c->next_rip, no DPL check */
};

/* Modes, as the engines key their code blocks; kept by cpu_update_mode(). */
#define MODE_PE   BIT(0) /* protected mode */
#define MODE_LMA  BIT(1) /* EFER.LMA: long or compatibility */
#define MODE_CS64 BIT(2) /* 64-bit code (LMA and CS.L) */
#define MODE_CS32 BIT(3) /* CS.D, default sizes are 32 bits (clear in 64-bit code) */
#define MODE_SS32 \
    BIT(4) /* SS.B, stack pointer is ESP (in 64-bit code it is RSP whatever this says) */
#define MODE_VM86 BIT(5) /* virtual-8086 */
#define MODE_USER BIT(6) /* CPL = 3 */
#define MODE_PG   BIT(7) /* paging on */
#define MODE_AC   BIT(8) /* RFLAGS.AC is set and CPL < 3 (lifts SMAP) */

enum cpu_activity {
    CPU_RUNNING,
    CPU_HALTED, /* HLT or MWAIT: until an interrupt, NMI, INIT */
    CPU_WAIT_SIPI,
    CPU_SHUTDOWN, /* triple fault */
};

/* Requests by other threads (and by the core to itself), in c->req. */
#define REQ_IRQ   BIT(0) /* look at the posted interrupts and the PIC's line */
#define REQ_NMI   BIT(1)
#define REQ_INIT  BIT(2)
#define REQ_SIPI  BIT(3) /* vector in c->sipi_vector */
#define REQ_TIMER BIT(4) /* the APIC timer's deadline has passed */
#define REQ_STOP  BIT(5) /* return from engine run() */
#define REQ_CODE  BIT(6) /* code pages were written behind the engine's back */
#define REQ_SMI   BIT(7)
#define REQ_KICK  BIT(8) /* a paravirtual kick: pv_kick() */

/* How memory is accessed; default is a read with the current privilege. */
#define ACC_READ  0u
#define ACC_WRITE BIT(0)
#define ACC_EXEC  BIT(1)
#define ACC_USER  BIT(2) /* as CPL 3 would */
#define ACC_IMPLICIT \
    BIT(3) /* descriptor tables, TSS: supervisor whatever CPL is, RFLAGS.AC does not lift SMAP */
#define ACC_SUPER BIT(4) /* as CPL 0..2 would (a stack of an inner ring) */

enum flush_kind {
    FLUSH_ALL,       /* including global entries */
    FLUSH_NONGLOBAL, /* all but global entries */
    FLUSH_PAGE,      /* INVLPG: the page with `at`, global or not, large or not, current PCID */
    FLUSH_PCID,      /* non-global entries of `pcid` */
    FLUSH_PCID_PAGE, /* the page with `at` of `pcid` */
};

struct tlb_flush {
    enum flush_kind kind;
    gva_t at;
    uint16_t pcid;
};

struct cpu;

/* What the core needs of its engine and platform. All members are filled. */
struct cpu_ops {
    /*
     * Linear memory, any length up to 4096 bytes, may cross a page. On STEP_FAULT #PF (or #GP/#SS
     * for a non-canonical address) is pending and nothing was written.
     */
    enum step (*read)(struct cpu *c, gva_t at, void *buf, unsigned bytes, unsigned acc);
    enum step (*write)(struct cpu *c, gva_t at, const void *buf, unsigned bytes, unsigned acc);
    /* Would that access fault? Faults like read/write, moves no data. */
    enum step (*probe)(struct cpu *c, gva_t at, unsigned bytes, unsigned acc);
    /* Atomically *at = (*at & and_mask) | or_mask, one byte: accessed and busy bits of descriptors.
     */
    enum step (*rmw8)(struct cpu *c, gva_t at, uint8_t and_mask, uint8_t or_mask, unsigned acc);
    /* Guest-physical, naturally aligned, 4 or 8 bytes, for page tables. Outside RAM: reads give all
     * ones, cas does nothing. */
    uint64_t (*phys_read)(struct cpu *c, gpa_t at, unsigned bytes);
    /* True if *at was old and now is val. */
    bool (*phys_cas)(struct cpu *c, gpa_t at, uint64_t old, uint64_t val, unsigned bytes);
    void (*tlb_flush)(struct cpu *c, const struct tlb_flush *what);
    /* DR7, DR0..3 or a debugger's breakpoints changed. */
    void (*debug_changed)(struct cpu *c);
    /* Wake the vCPU's thread if it sleeps, make it look at c->req if it runs. Any thread. */
    void (*kick)(struct cpu *c);
    /* The platform's time: the invariant TSC before TSC_ADJUST, and the VM's clock in ns. */
    uint64_t (*tsc)(struct cpu *c);
    uint64_t (*now_ns)(struct cpu *c);
    uint64_t (*tsc_to_ns)(struct cpu *c,
                          uint64_t tsc); /* VM clock at which the platform's TSC will be tsc */
    /* UTC since 1970; how long the vCPU would have run but the host had no CPU for it, since it was
     * made. */
    uint64_t (*real_ns)(struct cpu *c);
    uint64_t (*steal_ns)(struct cpu *c);
    /* Optional: an instruction is about to read or write this MSR of KVM's paravirtual interface,
     * whose state may be elsewhere: it comes to struct pv. */
    void (*pv_msr)(struct cpu *c, uint32_t msr);
    /* Local APIC to the platform. deadline_ns is VM clock; UINT64_MAX cancels. */
    void (*apic_timer)(struct cpu *c, uint64_t deadline_ns);
    void (*apic_send)(struct cpu *c, const struct apic_msg *msg); /* an IPI for other vCPUs */
    void (*apic_eoi)(struct cpu *c, uint8_t vector); /* EOI of a vector that was level-triggered, or
                                                        told of (apic_msg.tell): I/O APICs */
    /* INTR from the 8259s: is the line up (any thread), and its INTA cycle giving the vector. */
    bool (*pic_pending)(struct cpu *c);
    uint8_t (*pic_ack)(struct cpu *c);
    /* FERR# when CR0.NE = 0 (IRQ 13 on a PC). */
    void (*ferr)(struct cpu *c);
};

struct cpu {
    /* Two slots behind the registers belong to the engine (a zero and the RIP base, in interp). */
    uint64_t gpr[NR_GPRS + 2];
    uint64_t rip;
    uint64_t next_rip;
    uint64_t rflags;
    struct seg seg[NR_SEGS];
    uint32_t mode; /* MODE_*, derived */
    uint8_t cpl;   /* derived where it can be: real mode 0, v8086 3, else kept by far transfers */
    _Atomic uint32_t req;
    /* 0 from when something was requested until the engine bt has looked: what its code tests. */
    _Atomic uint32_t quiet;
    _Atomic uint32_t asleep; /* its thread waits for req by a futex: a kick has to wake it */

    struct seg ldtr, tr;
    struct dtable gdtr, idtr;
    uint64_t cr0, cr2, cr3, cr4, xcr0, efer;
    uint64_t pdpte[4]; /* PAE: loaded by MOV CR3 (SDM 3, "PDPTE Registers") */
    uint64_t dr[4], dr6, dr7;

    uint64_t star, lstar, cstar, sfmask, kernel_gs_base, tsc_aux;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, tsc_adjust, spec_ctrl, misc_enable, mtrr_def_type, mtrr_physbase[8],
        mtrr_physmask[8], mtrr_fixed[11];
    uint64_t mcg_status;
    struct pv pv;

    struct xsave_area fpu;   /* xstate_bv here is not kept: see cpu_xinuse() */
    uint16_t fpu_cs, fpu_ds; /* FCS and FDS; fpu.fip and fpu.fdp are the 64-bit offsets alone */

    enum cpu_activity activity;
    struct cpu_exc exc;        /* to be delivered by cpu_deliver() */
    struct cpu_exc delivering; /* the one being delivered: what a further fault combines with */
    uint64_t
        pending_dbg;   /* DR6 bits of traps due at the next instruction boundary (BS, B0..B3, BT) */
    bool shadow_sti;   /* interrupts are blocked until the next instruction has completed */
    bool shadow_movss; /* as above, and debug traps too */
    bool nmi_blocked;  /* from an NMI's delivery to the next IRET */
    bool nmi_pending;
    uint8_t sipi_vector;
    uint32_t id; /* index in the VM, initial APIC ID */

    struct apic apic;
    const struct cpu_model *model;
    const struct cpu_ops *ops;
    struct log_seen *seen; /* shared by the VM: what was reported once */
};

/* Which comes first of a misaligned access that begins at a canonical address and ends at none: #AC
 * on Intel's processors (seen on Sapphire Rapids), #GP or #SS on AMD's. */
static inline bool cpu_aligns_first(const struct cpu *c)
{
    return c->model->vendor == VENDOR_INTEL;
}

/*
 * Has an x87 instruction that left this status word recorded its opcode, and the operand it had?
 * Some processors do so for unmasked exceptions only (SDM 1, "Last Instruction Opcode", and CPUID
 * leaf 7, EBX bit 6).
 */
static inline bool cpu_sets_fop(const struct cpu *c)
{
    return c->model->vendor == VENDOR_AMD || c->fpu.fsw & FSW_ES;
}

static inline bool cpu_sets_fdp(const struct cpu *c)
{
    return !model_has(c->model, FEAT_FDP_EXCPTN_ONLY) || c->fpu.fsw & FSW_ES;
}

/* What FCS or FDS becomes when it should hold this selector: newer processors keep neither (CPUID
 * leaf 7, EBX bit 13). */
static inline uint16_t cpu_fpu_selector(const struct cpu *c, uint64_t sel)
{
    return model_has(c->model, FEAT_ZERO_FCS_FDS) ? 0 : (uint16_t)sel;
}

static inline bool is_user(const struct cpu *c)
{
    return c->cpl == 3;
}

static inline bool in_long64(const struct cpu *c)
{
    return c->mode & MODE_CS64;
}

static inline bool in_protected(const struct cpu *c) /* and not v8086 */
{
    return (c->mode & (MODE_PE | MODE_VM86)) == MODE_PE;
}

static inline unsigned iopl(const struct cpu *c)
{
    return (c->rflags & RFLAGS_IOPL) >> RFLAGS_IOPL_SHIFT;
}

/* Is any vector in IRR, deliverable now or not? */
static inline bool apic_has_irr(const struct cpu *c)
{
    uint32_t any = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(c->apic.irr); i++)
        any |= c->apic.irr[i];
    return any;
}

/* 48-bit canonical, 57-bit with CR4.LA57 (SDM 1, "Canonical Addressing"). */
static inline bool is_canonical(const struct cpu *c, uint64_t lin)
{
    unsigned sh = (c->cr4 & CR4_LA57) ? 7 : 16;

    return (uint64_t)((int64_t)(lin << sh) >> sh) == lin;
}

/* ---- state.c: reset and derived state
 * -------------------------------------------------------------------- */

/* Power-on or INIT state (SDM 3, "Processor State After Reset"). INIT keeps FPU, MSRs, caches, APIC
 * ID. */
enum reset_kind { RESET_POWER_ON, RESET_INIT };
void cpu_reset(struct cpu *c, enum reset_kind kind);
void cpu_update_mode(struct cpu *c);
/*
 * check.c: can a processor of this model be in that state? For one that comes from a file: engines
 * rely on what the checks of MOV to CR, WRMSR and the like let pass. NULL: yes; else what is wrong,
 * for a message. What can be anything is not looked at; derived state is set anew.
 */
const char *cpu_state_wrong(struct cpu *c);

/* ---- raise.c: exceptions are raised by returning these
 * ------------------------------------------------------ */

enum step raise_vec(struct cpu *c, enum vector vec) MUST_CHECK;
enum step raise_err(struct cpu *c, enum vector vec, uint32_t err) MUST_CHECK;
enum step raise_pf(struct cpu *c, gva_t at, uint32_t err) MUST_CHECK;
/* #DB as a fault (instruction breakpoint, general detect): dr6 bits are set on delivery. */
enum step raise_db(struct cpu *c, uint64_t dr6) MUST_CHECK;
#define raise_ud(c)      raise_vec(c, VEC_UD)
#define raise_nm(c)      raise_vec(c, VEC_NM)
#define raise_gp(c, err) raise_err(c, VEC_GP, err)
#define raise_ss(c, err) raise_err(c, VEC_SS, err)
#define raise_np(c, err) raise_err(c, VEC_NP, err)
#define raise_ts(c, err) raise_err(c, VEC_TS, err)

/* ---- deliver.c: events through the IDT (real, protected, long, v8086 with VME)
 * -------------------------------- */

/*
 * Delivers c->exc, with whatever it turns into (double fault). STEP_NEXT: c->rip is the handler.
 * STEP_EXIT: triple fault, c->activity is CPU_SHUTDOWN.
 */
enum step cpu_deliver(struct cpu *c) MUST_CHECK;
/* INT n, INT3, INTO, INT1 as instructions (includes v8086 IOPL and VME redirection). STEP_FAULT
 * leaves c->exc. */
enum step cpu_int(struct cpu *c, uint8_t vector, enum event_kind kind) MUST_CHECK;

/*
 * At an instruction boundary: acts on c->req, then delivers the one event of highest priority that
 * may be taken now (SDM 3, "Priority Among Concurrent Events": debug traps, NMI, interrupts; INIT,
 * SIPI). Clears the shadows. Wakes c->activity. STEP_NEXT: go on at c->rip. STEP_EXIT: shutdown.
 */
enum step cpu_take_events(struct cpu *c) MUST_CHECK;
/*
 * Its first half alone, for engines whose processor delivers events itself: requests become state
 * of the vCPU (IRR, nmi_pending, activity; INIT resets it).
 */
void cpu_act_on_requests(struct cpu *c);
/* An NMI or external interrupt that was taken already, but not delivered. As cpu_deliver(). */
enum step cpu_inject(struct cpu *c, uint8_t vector, enum event_kind kind) MUST_CHECK;
/* Is there anything for cpu_take_events() to do, given IF, shadows and TPR? Cheap; run once per
 * return to the engine's loop. */
bool cpu_event_ready(struct cpu *c);
/* Does a maskable interrupt wait for RFLAGS.IF alone? */
bool cpu_interrupt_waits(struct cpu *c);
/* Any thread: sets request bits and kicks. */
void cpu_post(struct cpu *c, uint32_t req);
/* The vCPU's own thread: sets them for itself. */
static inline void cpu_note(struct cpu *c, uint32_t req)
{
    __atomic_fetch_or((uint32_t *)&c->req, req, __ATOMIC_RELAXED);
    __atomic_store_n((uint32_t *)&c->quiet, 0, __ATOMIC_RELAXED);
}

/* ---- seg.c, far.c, gate.c, task.c: segmentation and far transfers
 * ---------------------------------------------- */

/* MOV, POP, LDS.. to any segment register but CS. Real and v8086 mode included. Does not set
 * shadows. */
enum step cpu_load_seg(struct cpu *c, enum seg_id s, uint16_t sel) MUST_CHECK;
/* Sets a segment register as real mode does: base = sel << 4, limit and attributes kept (or set to
 * v8086's). */
void cpu_load_seg_real(struct cpu *c, enum seg_id s, uint16_t sel);
enum step cpu_lldt(struct cpu *c, uint16_t sel) MUST_CHECK;
enum step cpu_ltr(struct cpu *c, uint16_t sel) MUST_CHECK;
/* LAR, LSL: *ok becomes ZF; *out the value (valid if ok). VERR, VERW: predicate. No faults but
 * those of memory. */
enum step cpu_lar(struct cpu *c, uint16_t sel, uint32_t *out, bool *ok) MUST_CHECK;
enum step cpu_lsl(struct cpu *c, uint16_t sel, uint32_t *out, bool *ok) MUST_CHECK;
enum step cpu_verify(struct cpu *c, uint16_t sel, unsigned acc, bool *ok) MUST_CHECK;

/* op_bytes: operand size, 2, 4 or 8. */
enum step cpu_far_jmp(struct cpu *c, uint16_t sel, uint64_t off, unsigned op_bytes) MUST_CHECK;
enum step cpu_far_call(struct cpu *c, uint16_t sel, uint64_t off, unsigned op_bytes) MUST_CHECK;
enum step cpu_far_ret(struct cpu *c, uint16_t pop_bytes, unsigned op_bytes) MUST_CHECK;
enum step cpu_iret(struct cpu *c, unsigned op_bytes) MUST_CHECK;

/*
 * The checks of a data access through segment s at offset off (SDM 3, "Limit Checking", "Type
 * Checking"): *lin gets the linear address. bytes = 1..4096. In 64-bit mode: base for FS/GS,
 * canonical check. #SS for SS, else #GP.
 */
enum step cpu_linear(struct cpu *c, enum seg_id s, uint64_t off, unsigned bytes, unsigned acc,
                     gva_t *lin) MUST_CHECK;
/* Stack by the current mode's stack pointer size. cpu_pop reads at an offset without moving RSP;
 * see far.c for use. */
enum step cpu_push(struct cpu *c, uint64_t val, unsigned bytes) MUST_CHECK;
enum step cpu_pop(struct cpu *c, uint64_t *val, unsigned bytes) MUST_CHECK;

/* IN/OUT/INS/OUTS permission: IOPL and TSS bitmap (SDM 1, "I/O Permission Bit Map"). */
enum step cpu_check_io(struct cpu *c, uint16_t port, unsigned bytes) MUST_CHECK;

/* ---- flags.c
 * -------------------------------------------------------------------------------------------------
 */

/* PUSHF's image and POPF's effect by mode, CPL, IOPL, VME/PVI; CLI and STI (which sets shadow_sti).
 */
enum step cpu_pushf(struct cpu *c, unsigned op_bytes) MUST_CHECK;
enum step cpu_popf(struct cpu *c, unsigned op_bytes) MUST_CHECK;
enum step cpu_cli(struct cpu *c) MUST_CHECK;
enum step cpu_sti(struct cpu *c) MUST_CHECK;

/* ---- walk.c: page tables
 * --------------------------------------------------------------------------------------- */

struct walk {
    gva_t at;       /* in */
    unsigned acc;   /* in: ACC_*; without ACC_USER/SUPER/IMPLICIT the current CPL decides */
    gpa_t pa;       /* out: of `at` itself */
    unsigned shift; /* out: 12, 21, 22 or 30 */
    bool user, writable, exec, global,
        dirty;    /* out: the page's combined rights; dirty: D is set, so writes need no walk */
    uint64_t pat; /* out: PAT index, memory type */
};

/*
 * Translates with all checks and sets A (and D for a write), as the processor does. Paging off:
 * identity. STEP_FAULT: #PF pending in c->exc.
 */
enum step cpu_walk(struct cpu *c, struct walk *w) MUST_CHECK;
/* The same without side effects or rights checks, for debuggers; false if not mapped. */
bool cpu_peek_walk(struct cpu *c, gva_t at, gpa_t *pa);

/* ---- control.c, debug.c, msr.c, cpuid.c, syscall.c
 * ------------------------------------------------------------- */

/* MOV to/from CR, LMSW, CLTS, XSETBV: with all checks (#GP, #UD), TLB flushes, PDPTE loads, mode
 * change. Privilege is checked. */
enum step cpu_mov_to_cr(struct cpu *c, unsigned cr, uint64_t val) MUST_CHECK;
enum step cpu_mov_from_cr(struct cpu *c, unsigned cr, uint64_t *val) MUST_CHECK;
uint64_t cpu_cr4_known(const struct cpu *c); /* bits that the model has */
enum step cpu_lmsw(struct cpu *c, uint16_t val) MUST_CHECK;
enum step cpu_clts(struct cpu *c) MUST_CHECK;
enum step cpu_xsetbv(struct cpu *c, uint32_t idx, uint64_t val) MUST_CHECK;
enum step cpu_xgetbv(struct cpu *c, uint32_t idx, uint64_t *val) MUST_CHECK;
/* Loads CR3 for a task switch (no PCID): PDPTEs, flush. */
enum step cpu_load_cr3(struct cpu *c, uint64_t val) MUST_CHECK;
/* Components not in their initial configuration (XINUSE). */
uint64_t cpu_xinuse(const struct cpu *c);
enum step cpu_invlpg(struct cpu *c, gva_t at) MUST_CHECK;
enum step cpu_invpcid(struct cpu *c, uint64_t type, uint64_t pcid, gva_t at) MUST_CHECK;

enum step cpu_mov_to_dr(struct cpu *c, unsigned dr, uint64_t val) MUST_CHECK;
enum step cpu_mov_from_dr(struct cpu *c, unsigned dr, uint64_t *val) MUST_CHECK;
/* Breakpoints that match: DR6 B0..B3 bits, enabled or not as DR7 says. len in bytes; acc: ACC_EXEC,
 * ACC_WRITE or ACC_READ; I/O: port. */
uint64_t cpu_match_bp(const struct cpu *c, gva_t at, unsigned bytes, unsigned acc);
uint64_t cpu_match_io_bp(const struct cpu *c, uint16_t port, unsigned bytes);
/* Does any enabled data (or instruction) breakpoint touch this 4 KB page? */
bool cpu_bp_in_page(const struct cpu *c, gva_t page, bool exec);

/* Unknown MSR: #GP, reported once. Privilege is checked by the caller-visible functions. */
enum step cpu_rdmsr(struct cpu *c, uint32_t msr, uint64_t *val) MUST_CHECK;
enum step cpu_wrmsr(struct cpu *c, uint32_t msr, uint64_t val) MUST_CHECK;
uint64_t cpu_read_tsc(struct cpu *c); /* with TSC_ADJUST */
/* The MTRRs as firmware leaves them: write-back, but uncached in [hole, 4 GB) for devices. For
 * machines that start a kernel without firmware; Linux does not use PAT while MTRRs are off. */
void cpu_firmware_mtrrs(struct cpu *c, gpa_t hole);

struct cpuid_regs {
    uint32_t eax, ebx, ecx, edx;
};
void cpu_cpuid(struct cpu *c, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out);

/* SDM 2, "SYSRET": what R11 may set of RFLAGS. RF and VM stay clear. */
#define SYSRET_FLAGS 0x3c7fd7u
enum step cpu_syscall(struct cpu *c) MUST_CHECK;
enum step cpu_sysret(struct cpu *c, unsigned op_bytes) MUST_CHECK;
enum step cpu_sysenter(struct cpu *c) MUST_CHECK;
enum step cpu_sysexit(struct cpu *c, unsigned op_bytes) MUST_CHECK;
enum step cpu_swapgs(struct cpu *c) MUST_CHECK;

/* ---- xsave.c: the state-saving family
 * -------------------------------------------------------------------------- */

enum xsave_kind { XSAVE_STD, XSAVE_OPT, XSAVE_COMPACT, XSAVE_SUPERVISOR };
/* `at` is linear and already segment-checked by cpu_linear() for the bytes it needs at least;
 * rex_w: 64-bit FIP/FDP. */
enum step cpu_fxsave(struct cpu *c, gva_t at, bool rex_w) MUST_CHECK;
enum step cpu_fxrstor(struct cpu *c, gva_t at, bool rex_w) MUST_CHECK;
enum step cpu_xsave(struct cpu *c, gva_t at, uint64_t mask, enum xsave_kind kind,
                    bool rex_w) MUST_CHECK;
enum step cpu_xrstor(struct cpu *c, gva_t at, uint64_t mask, bool rex_w) MUST_CHECK;

#endif
