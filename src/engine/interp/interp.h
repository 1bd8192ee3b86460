/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reference engine, inside: decoded operations, blocks of them, the software TLB, and the fast
 * paths every handler uses. Nobody outside this folder includes it, but for engines that hand
 * instructions to interp.
 *
 * Code is decoded once per guest-physical address and mode into blocks of struct op, which never
 * leave their page, and executed by threaded code: each handler calls the next op's handler in tail
 * position. A handler either completes its instruction and goes on with NEXT, or leaves the block
 * with NULL and v->leave telling why.
 */
#ifndef ENGINE_INTERP_INTERP_H
#define ENGINE_INTERP_INTERP_H

#include "engine/engine.h"
#include "engine/interp/native.h"
#include "host/host.h"

/* Register operands are byte offsets into cpu.gpr[], so that AH is "offset of RAX + 1". Two slots
 * behind the GPRs: */
#define SLOT_ZERO (NR_GPRS * 8) /* always 0: an absent base or index */
#define SLOT_PAGE                                                                                 \
    (NR_GPRS * 8 + 8) /* RIP of the start of the current code page: base of RIP-relative operands \
                       */
#define NOT_A_REG 0xff

struct ivcpu;
struct op;
struct block;
typedef const struct op *(*op_fn)(struct ivcpu *v, const struct op *op);

/* How the memory operand's address is made; 0 is the plain case of 64-bit code: base + index *
 * scale + disp. */
#define ADDR_SEG BIT(0) /* add a segment base and check limits as the mode says */
#define ADDR_A32 BIT(1) /* 32-bit address size */
#define ADDR_A16 BIT(2)

struct op {
    op_fn fn;
    uint8_t dst, src; /* register offsets, or NOT_A_REG when that operand is memory or immediate */
    uint8_t base, index; /* register offsets for the address */
    uint8_t scale;       /* shift count */
    uint8_t seg;         /* enum seg_id; also tells #SS from #GP */
    uint8_t addr;        /* ADDR_* */
    uint8_t bytes;       /* operand size */
    uint16_t off;        /* of the instruction in its page */
    uint8_t len;
    uint8_t aux; /* handler's own */
    uint8_t aux2;
    uint8_t prefix; /* OP_* */
    uint8_t fl;     /* the decoder's own */
    int64_t disp;
    union {
        uint64_t imm;
        const struct native_stub *stub;
        struct block *self; /* direct branches that may be chained */
    };
};

#define OP_LOCK    BIT(0)
#define OP_REP     BIT(1) /* F3 */
#define OP_REPNE   BIT(2) /* F2 */
#define OP_REXW    BIT(3)
#define OP_MEM     BIT(4) /* has a memory operand */
#define OP_SRC_IMM BIT(5)
#define OP_A32     BIT(6) /* address size, for string instructions and LOOP */
#define OP_A16     BIT(7)

/* What of the mode a block's decoding depends on. */
#define KEY_MODE      (MODE_PE | MODE_LMA | MODE_CS64 | MODE_CS32 | MODE_SS32 | MODE_VM86)
#define KEY_FLAT_CS   BIT(16) /* base 0, limit 4 GB: branches within the page may be chained */
#define KEY_FLAT_DATA BIT(17) /* the same for DS, ES and SS, all writable: no checks needed */

#define BLOCK_MAX_OPS 48

struct block {
    uint64_t gpa; /* of the first instruction */
    uint32_t key;
    uint16_t nr_insns;
    uint16_t bytes; /* of guest code */
    struct block *hash_next;
    struct block *page_next;
    struct block
        *chain[2];   /* successors in the same page: taken, fall-through; NULL: not yet known */
    struct op ops[]; /* nr_insns of them and an end op, when the last is not a branch */
};

/* Code in a page is noted by lines of 64 bytes: those of [off, off + bytes). */
static inline uint64_t code_lines(unsigned off, unsigned bytes)
{
    unsigned first = off / 64, last = (unsigned)MIN(off + bytes - 1, PAGE_BYTES - 1) / 64;

    return (~0ull >> (63 - (last - first))) << first;
}

/*
 * So many stores beside its code make a page a data page: memory that once held code would else be
 * slow to write for ever (Linux boot: walks for stores fell from 4.1 to 0.4 million).
 */
#define NEAR_MISSES_MAX 32

/* Decoded code of one guest page. */
struct code_page {
    uint64_t page; /* gpa >> 12 */
    struct block *blocks;
    uint64_t lines;         /* bit n: bytes 64n..64n+63 hold decoded code */
    unsigned near_misses;   /* stores to the page that hit no code */
    struct code_page *next; /* hash chain */
};

/*
 * The software TLB: direct-mapped, in arrays, so that bt's translated code indexes them with what
 * one instruction takes out of an address. Tags are PAGE_BYTES minus the page's address: address +
 * bytes - 1 + tag, shifted by PAGE_SHIFT, is 1 exactly when the access lies in the entry's page
 * (the page before it has another index).
 */
#define TLB_INDEX_BITS 16
#define TLB_ENTRIES    (1u << TLB_INDEX_BITS)
/* What the fast paths do not need of an entry. */
struct tlb_note {
    uint64_t page; /* guest-physical page number */
    uint64_t lin;  /* linear page address */
    uint8_t shift; /* size of the guest's page it was cut from */
    bool global;
    bool listed[2]; /* is in used[], of that kind: in both if it has been one and the other */
};
/* Entries filled since they were last flushed: what a flush has to look at. */
struct tlb_used {
    unsigned nr;
    uint16_t at[TLB_ENTRIES];
};
struct tlb {
    uint64_t ntag_r[TLB_ENTRIES], ntag_w[TLB_ENTRIES], ntag_x[TLB_ENTRIES];
    uintptr_t add[TLB_ENTRIES]; /* hva = add + linear */
    struct tlb_note note[TLB_ENTRIES];
    struct tlb_used used[2]; /* by note.global: a switch of processes leaves the second alone */
};

/* Which rights an access has: the TLB is kept per view. */
enum tlb_view { VIEW_USER, VIEW_KERNEL, VIEW_KERNEL_AC, NR_VIEWS };

/* Entries that a PCID's address space has left behind, the latest first: see pcid.c. */
#define PCID_SETS 12
#define PCID_KEPT 96
struct tlb_kept {
    uint64_t ntag_r, ntag_w, ntag_x;
    uintptr_t add;
    uint64_t page, lin;
    uint16_t at;
    uint8_t shift;
};
struct pcid_set {
    bool valid;
    uint16_t pcid;
    uint64_t left;        /* the value of ivcpu.nr_left then: the oldest set is used again */
    unsigned nr_protects; /* as ivcpu.nr_protects was */
    unsigned nr[NR_VIEWS];
    struct tlb_kept kept[NR_VIEWS][PCID_KEPT];
};

#define JUMP_CACHE 4096
struct jump {
    uint64_t rip;
    struct block *block;
    uint64_t gen;
    uint32_t key;
};

/* Instructions that cross a page, decoded; checked by their bytes at each use. */
#define CROSS_CACHE 256
struct cross {
    uint32_t key;
    uint8_t len;
    uint8_t bytes[15];
    uint16_t off;
    struct op op;
};

enum leave {
    LEAVE_NEXT,  /* cpu.rip is the next instruction */
    LEAVE_FAULT, /* an exception is pending; cpu.rip is the instruction */
    LEAVE_STEP,  /* cpu.rip is the instruction; it has to be run alone (self-modifying code,
                    watchpoints) */
    LEAVE_EXIT,  /* as STEP_EXIT */
};
static inline enum leave leave_of(enum step st)
{
    return st == STEP_NEXT    ? LEAVE_NEXT
           : st == STEP_FAULT ? LEAVE_FAULT
           : st == STEP_ALONE ? LEAVE_STEP
                              : LEAVE_EXIT;
}

/* What an engine built on interp wants to know. */
struct ivcpu_hooks {
    /* After the software TLB was flushed; lin for FLUSH_PAGE. The kinds with a PCID do not come. */
    void (*flushed)(struct ivcpu *v, enum flush_kind kind, uint64_t lin);
    /* The present PCID's address space is left, its TLB entries go to this set; it is back. */
    void (*left)(struct ivcpu *v, unsigned set);
    void (*back)(struct ivcpu *v, unsigned set);
    /* MOV to CR3 under CR4.PCIDE is done, with a flush or without. */
    void (*switched)(struct ivcpu *v);
    /* Code at [at, at + bytes) was written: drop what was made of it. True if there was any.
     * decoded: interp had decoded some of it. */
    bool (*drop)(struct ivcpu *v, gpa_t at, uint64_t bytes, bool decoded);
    /* All of it. */
    void (*drop_all)(struct ivcpu *v);
    /* Is there code made of this page? */
    bool (*has_code)(struct ivcpu *v, uint64_t page);
    /* A flush as the guest asked for it, before it is done. */
    void (*tlb_flush)(struct ivcpu *v, const struct tlb_flush *what);
    /* This page is noted as holding code from now on. */
    void (*noted)(struct ivcpu *v, gpa_t at);
    /* Breakpoints changed; code_bps and watching are as they are now. */
    void (*debug_changed)(struct ivcpu *v);
    /* As cpu_ops.kick: any thread. */
    void (*kick)(struct ivcpu *v);
    /* Code follows that may use the vector registers: anything but the core's and this folder's. */
    void (*outside)(struct ivcpu *v);
    /* How long the vCPU has waited for CPUs, whose thread has waited for ns. */
    uint64_t (*steal_ns)(struct ivcpu *v, uint64_t ns);
    /* Optional: as cpu_ops.pv_msr. */
    void (*pv_msr)(struct ivcpu *v, uint32_t msr);
};

/* A store to a page of code, told to the other vCPUs once it is made. */
struct stored {
    gpa_t at;
    unsigned bytes;
};

struct interp_vm {
    struct engine_vm evm;
    struct share *share; /* NULL: there is one vCPU */
    struct code_listener listener;
    struct lock lock;       /* guards vcpus, their queues of written pages, and share */
    struct lock split_lock; /* LOCKed accesses that no host instruction can do at once */
    struct ivcpu *vcpus;
};

#define HASH_BUCKETS  16384
#define PAGE_BUCKETS  4096
#define WRITTEN_QUEUE 64

struct ivcpu {
    struct vcpu vc;  /* first: the contract's view, and in it first the registers */
    struct tlb *tlb; /* the current view's entries */
    struct tlb views[NR_VIEWS];
    unsigned tlb_changes; /* entries or write tags were taken away so often */
    unsigned nr_protects; /* pages lost their write tags so often */
    uint64_t nr_left;     /* address spaces were left so often */
    struct pcid_set pcids[PCID_SETS];
    struct tlb no_view; /* never filled: every access takes the slow half, which checks alignment */
    uint64_t val;       /* result of a slow load */
    uint64_t lin;       /* result of a slow address computation */
    enum leave leave;
    bool stepping;  /* the instruction runs alone */
    bool in_block;  /* or as one of a block */
    bool one_rep;   /* of a REP, each repetition too: there are traps or breakpoints */
    bool again;     /* a repeated string instruction was left before its end */
    bool wait_step; /* the next instruction has to run alone */
    uint64_t room;  /* blocks of more instructions do not fit under the run limit; 0: one did not */
    uint32_t key;   /* current block key */
    uint64_t jump_gen;       /* jump cache entries of older generations are dead */
    struct block *cur;       /* being executed, for instruction counts */
    struct block **link;     /* where the block left last wants its successor noted, or NULL */
    struct block *graveyard; /* blocks dropped while one of them may be running */
    struct block *hash[HASH_BUCKETS];
    struct code_page *pages[PAGE_BUCKETS];
    uint64_t code_bytes; /* memory in blocks */
    unsigned nr_written; /* pages written by others; WRITTEN_QUEUE + 1: all. Guarded by vm->lock */
    uint64_t written[WRITTEN_QUEUE];
    /* Where entries were cut from larger pages: 2 and 4 MB ones, 1 GB ones, by the address' low
     * bits. INVLPG of any of it has to look at all entries. */
    uint8_t large_2m[1024], large_1g[64];
    uint64_t large_x_lo, large_x_hi; /* and where from those that hold code */
    bool watching;                   /* data watchpoints exist, the guest's or a debugger's */
    bool code_bps;                   /* DR7 or the debugger has instruction breakpoints */
    bool dbg_resume;                 /* do not stop again at the breakpoint we stand on */
    bool dbg_stop;                   /* a debugger's watchpoint hit during the instruction */
    const struct ivcpu_hooks *hooks; /* of an engine that keeps translations beside; or NULL */
    struct native_cache *native;
    unsigned nr_stored; /* with several vCPUs: stores to code of the present instruction */
    struct stored stored[8];
    uint64_t paused_at;  /* TSC: when PAUSE last let others run */
    uint64_t keep_until; /* TSC: before that PAUSE does not let others run again */
    unsigned nr_pauses;  /* since then */
    struct interp_vm *vm;
    struct ivcpu *next;
    struct jump jumps[JUMP_CACHE];
    struct cross crosses[CROSS_CACHE];
    struct op step_ops[2];
};

/* ---- tlb.c ---- */
/* The slow halves of a memory access. False: leave the block, v->leave is set. op tells #SS from
 * #GP; may be NULL. */
bool load_slow(struct ivcpu *v, const struct op *op, uint64_t lin, unsigned bytes);
bool store_slow(struct ivcpu *v, const struct op *op, uint64_t lin, unsigned bytes, uint64_t val);
/* What the port gives. Nothing is read if the store cannot be: a device is not read twice. */
bool store_from_port(struct ivcpu *v, const struct op *op, uint64_t lin, unsigned bytes,
                     uint16_t port);
/* Checks that a store will succeed and loads the old value: first half of a read-modify-write. */
bool rmw_slow(struct ivcpu *v, const struct op *op, uint64_t lin, unsigned bytes);
/*
 * A host pointer for an atomic access of `bytes` bytes, or NULL: v->leave is set, or (LEAVE_NEXT)
 * the place is not one piece of RAM and the caller uses rmw_slow/store_slow under the split lock.
 */
void *atomic_ptr(struct ivcpu *v, const struct op *op, uint64_t lin, unsigned bytes);
/* Linear address of op's operand when op->addr is not 0, in v->lin. False: leave. */
bool addr_slow(struct ivcpu *v, const struct op *op, unsigned bytes, unsigned acc);
/* The same for an offset computed by the caller (string instructions, bit strings), in op->seg or
 * another segment. */
bool addr_in(struct ivcpu *v, const struct op *op, enum seg_id seg, uint64_t off, unsigned bytes,
             unsigned acc);
static inline bool addr_of(struct ivcpu *v, const struct op *op, uint64_t off, unsigned bytes,
                           unsigned acc)
{
    return addr_in(v, op, op->seg, off, bytes, acc);
}
/* Effective address (offset) of op's operand. */
uint64_t effective(const struct ivcpu *v, const struct op *op);
/* Host pointer to the code at lin and its guest-physical address; NULL: leave (fault). */
const uint8_t *fetch_ptr(struct ivcpu *v, uint64_t lin, gpa_t *at);
/* Pointer to RAM for n bytes from lin in one page with the right, or NULL without any effect: for
 * bulk string moves. */
uint8_t *bulk_ptr(struct ivcpu *v, uint64_t lin, bool write);
/* Makes the access hit, with A and D set, if it is one to RAM that interp would let go fast. Raises
 * nothing. */
bool tlb_fill(struct ivcpu *v, uint64_t lin, unsigned bytes, bool write);
void tlb_init(struct ivcpu *v); /* v is all zero */
void tlb_flush_all(struct ivcpu *v);
/* The same, and its memory goes back to the host. */
void tlb_release(struct ivcpu *v);
/* A page got code: stores to it must be seen from now on. */
void tlb_protect_page(struct ivcpu *v, uint64_t page);
void tlb_set_view(struct ivcpu *v);

/* ---- share.c ---- */
/* Before the page may be written without being seen. False: it holds code. */
bool page_claim_write(struct ivcpu *v, struct slot *s, gpa_t at) MUST_CHECK;

/* ---- core_ops.c ---- */
extern const struct cpu_ops interp_cpu_ops;

/* ---- interp.c: the pieces of the run loop, for it and for engines that hand instructions over
 * ----
 */
/* Everything that other threads and earlier instructions left to do. False: run() returns *res. */
bool interp_serve(struct ivcpu *v, enum run_result *res);
/* The pending exception. False: run() returns *res. */
bool interp_deliver(struct ivcpu *v, enum run_result *res);
/* One instruction, uncached, with all that needs to be looked at per instruction. False: run()
 * returns *res. */
bool interp_step(struct ivcpu *v, enum run_result *res);
/* Has the next instruction to run alone? */
bool interp_must_step(const struct ivcpu *v);
/* One block and those chained to it. False: run() returns *res. */
bool interp_run_block(struct ivcpu *v, enum run_result *res);
/*
 * run() under vcpu.run_limit, see engine.h. Nothing is chained here, so that a block is the most
 * that runs between two looks at the limit. block(): as interp_run_block(), no more than v->room
 * steps.
 */
enum run_result interp_run_limited(struct ivcpu *v,
                                   bool (*block)(struct ivcpu *v, enum run_result *res));
int interp_vm_init(struct interp_vm *vm, const struct engine_config *cfg);
void interp_vm_fini(struct interp_vm *vm);
/* v is all zero, and large: fresh pages of the host, that are only touched where needed. 0 or
 * -errno. */
int interp_vcpu_init(struct interp_vm *vm, struct ivcpu *v, uint32_t id);
void interp_vcpu_fini(struct ivcpu *v);
void interp_state_changed(struct vcpu *vc);
uint64_t interp_peek(struct vcpu *vc, gva_t at, void *buf, uint64_t bytes);
uint64_t interp_poke(struct vcpu *vc, gva_t at, const void *buf, uint64_t bytes);

static inline void run_ops(struct ivcpu *v, const struct op *op)
{
    while (op)
        op = op->fn(v, op);
}

/* Breakpoints changed, the guest's or the debugger's. */
void interp_debug_update(struct vcpu *vc);

/* ---- block.c ---- */
/* The block at the current RIP, decoded if need be. NULL: leave (fetch fault), or v->leave =
 * LEAVE_STEP: step instead. */
struct block *block_find(struct ivcpu *v);
/* Drops this vCPU's decoded code that overlaps [at, at + bytes). True if there was any. */
bool code_drop(struct ivcpu *v, gpa_t at, uint64_t bytes);
void code_drop_all(struct ivcpu *v);
bool block_in_page(struct ivcpu *v, uint64_t page);
/* Works off what others have written (REQ_CODE). */
void code_drop_written(struct ivcpu *v);
/* A store by this vCPU to a page noted as code: true if decoded code was dropped. */
bool code_stored(struct ivcpu *v, gpa_t at, unsigned bytes);
void code_listen(struct code_listener *l, gpa_t at, uint64_t bytes);
/* Frees dropped blocks; only when none is being executed. */
void block_bury(struct ivcpu *v);
uint32_t block_key(const struct cpu *c);
/* Before the code at `at` is read to be decoded: stores to its page will be seen. False: not yet,
 * run it uncached (LEAVE_STEP). */
bool note_code(struct ivcpu *v, gpa_t at) MUST_CHECK;
/* The instruction at lin if it crosses a page and was decoded before, bytes and all; or NULL. */
const struct cross *cross_cached(struct ivcpu *v, uint64_t lin);
/* Decodes the one instruction at the current RIP into v->step_ops. NULL: leave. */
const struct op *step_decode(struct ivcpu *v);

/* ---- decode.c ---- */
/*
 * Decodes the instruction at bytes (avail of them) into *op; off is its offset in its page. Returns
 * its length; 0: more bytes are needed than avail; an instruction that does not exist becomes an op
 * that raises #UD.
 */
unsigned decode_insn(struct ivcpu *v, uint32_t key, const uint8_t *bytes, unsigned avail,
                     uint16_t off, struct op *op);
/* The same, with what Zydis found (all zero for what it does not know), for engines that translate.
 */
unsigned decode_insn_full(struct ivcpu *v, uint32_t key, const uint8_t *bytes, unsigned avail,
                          uint16_t off, struct op *op, ZydisDecodedInstruction *insn,
                          ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT]);
/* Does this op end its block? */
bool op_ends_block(const struct op *op);
/* Replace flag-setting handlers by plain ones where nobody looks at the flags. ops[0..nr) in order.
 */
void drop_dead_flags(struct op *ops, unsigned nr);
const struct op *op_end(struct ivcpu *v, const struct op *op);

/* ---- the fast paths ---- */

typedef uint8_t __attribute__((may_alias)) alias8;
typedef uint16_t __attribute__((may_alias)) alias16;
typedef uint32_t __attribute__((may_alias)) alias32;
typedef uint64_t __attribute__((may_alias)) alias64;
typedef uint16_t __attribute__((may_alias, aligned(1))) una16;
typedef uint32_t __attribute__((may_alias, aligned(1))) una32;
typedef uint64_t __attribute__((may_alias, aligned(1))) una64;
typedef uint8_t una8 __attribute__((may_alias));

/* Before a call of the machine or a library. What lies in this folder (but for the native stubs)
 * and in cpu/ is built without vector registers (see the Makefile). */
static inline void go_outside(struct ivcpu *v)
{
    if (v->hooks)
        v->hooks->outside(v);
}

/*
 * Serializing instructions also order memory accesses (SDM 3, "Serializing Instructions"): what was
 * stored before is visible to others. For one vCPU there is nothing to order.
 */
static inline void serialize(const struct ivcpu *v)
{
    if (v->vm->share)
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

#define CPU(v)            (&(v)->vc.cpu)
#define REG(v, bits, off) (*(alias##bits *)((char *)CPU(v)->gpr + (off)))

/*
 * Threaded code: handlers call each other in tail position. Not every one becomes a jump (a handler
 * whose locals have their address taken does not), so what nests is bounded by the block: from
 * block to block it goes by the run loop. Sanitizers turn off the optimization; there every op
 * does.
 */
#ifdef DOPPEL_SAN
#define GOTO(v, o) return ((void)(v), (o))
#else
#define GOTO(v, o) return (o)->fn((v), (o))
#endif
#define NEXT(v, op) GOTO(v, (op) + 1)

static inline uint64_t op_rip(const struct ivcpu *v, const struct op *op)
{
    return v->vc.cpu.gpr[SLOT_PAGE / 8] + op->off;
}

/* Outside 64-bit code the instruction pointer has 32 bits. */
static inline uint64_t ip_mask(const struct cpu *c, uint64_t ip)
{
    return likely(c->mode & MODE_CS64) ? ip : (uint32_t)ip;
}

/* Make cpu.rip and cpu.next_rip true, before the core is called. */
static inline void sync_rip(struct ivcpu *v, const struct op *op)
{
    struct cpu *c = CPU(v);

    c->rip = ip_mask(c, op_rip(v, op));
    c->next_rip = ip_mask(c, op_rip(v, op) + op->len);
}

/* Leave the block because of a fault or a retry: v->leave was set by who found out. */
NOINLINE const struct op *leave_here(struct ivcpu *v, const struct op *op);
/* Leave the block with what a core function returned; on STEP_NEXT to cpu.next_rip. */
NOINLINE const struct op *leave_step(struct ivcpu *v, const struct op *op, enum step st);
/* The same, cpu.rip having been set by the function on STEP_NEXT. */
NOINLINE const struct op *leave_jump(struct ivcpu *v, const struct op *op, enum step st);
/* An exception raised by a handler itself. */
NOINLINE const struct op *leave_raise(struct ivcpu *v, const struct op *op, enum vector vec);
NOINLINE const struct op *leave_gp0(struct ivcpu *v, const struct op *op);

/* Go on after a core call that does not end the block; but end it when the core's stores dropped
 * decoded code. */
#define NEXT_OR_LEAVE(v, op, st)                          \
    do {                                                  \
        enum step st_ = (st);                             \
        if (unlikely(st_ != STEP_NEXT || (v)->graveyard)) \
            return leave_step(v, op, st_);                \
        NEXT(v, op);                                      \
    } while (0)

static ALWAYS_INLINE uint64_t plain_ea(const struct ivcpu *v, const struct op *op)
{
    return (uint64_t)op->disp + REG(v, 64, op->base) + (REG(v, 64, op->index) << op->scale);
}

/* Sets `lin` to the linear address of op's memory operand, or leaves. */
#define ADDRESS(v, op, lin, nbytes, acc)                  \
    do {                                                  \
        if (likely(!(op)->addr)) {                        \
            lin = plain_ea(v, op);                        \
        } else {                                          \
            if (unlikely(!addr_slow(v, op, nbytes, acc))) \
                return leave_here(v, op);                 \
            lin = (v)->lin;                               \
        }                                                 \
    } while (0)

static ALWAYS_INLINE unsigned tlb_index(uint64_t lin)
{
    return (lin >> PAGE_SHIFT) & (TLB_ENTRIES - 1);
}

/* One compare finds the page and that the access does not cross it. */
#define TLB_HIT(t, right, lin, nbytes) \
    likely(((lin) + ((nbytes)-1) + (t)->ntag_##right[tlb_index(lin)]) >> PAGE_SHIFT == 1)
#define TLB_HVA(t, lin) ((t)->add[tlb_index(lin)] + (lin))

#define LOAD(v, op, bits, lin, out)               \
    do {                                          \
        const struct tlb *t_ = (v)->tlb;          \
        if (TLB_HIT(t_, r, lin, bits / 8)) {      \
            out = *(una##bits *)TLB_HVA(t_, lin); \
        } else {                                  \
            if (!load_slow(v, op, lin, bits / 8)) \
                return leave_here(v, op);         \
            out = (uint##bits##_t)(v)->val;       \
        }                                         \
    } while (0)

#define STORE(v, op, bits, lin, value)                                       \
    do {                                                                     \
        const struct tlb *t_ = (v)->tlb;                                     \
        if (TLB_HIT(t_, w, lin, bits / 8))                                   \
            *(una##bits *)TLB_HVA(t_, lin) = (uint##bits##_t)(value);        \
        else if (!store_slow(v, op, lin, bits / 8, (uint##bits##_t)(value))) \
            return leave_here(v, op);                                        \
    } while (0)

/* Read-modify-write without LOCK: `expr` computes the new value from `old`. Flags are set only once
 * the store is certain. */
#define LOAD_RMW(v, op, bits, lin, old)           \
    do {                                          \
        const struct tlb *t_ = (v)->tlb;          \
        if (TLB_HIT(t_, w, lin, bits / 8)) {      \
            old = *(una##bits *)TLB_HVA(t_, lin); \
        } else {                                  \
            if (!rmw_slow(v, op, lin, bits / 8))  \
                return leave_here(v, op);         \
            old = (uint##bits##_t)(v)->val;       \
        }                                         \
    } while (0)

/* Write a register of the given width: 32-bit results clear the upper half (SDM 1, "General-Purpose
 * Registers in 64-Bit Mode"). */
static ALWAYS_INLINE void set_reg8(struct ivcpu *v, unsigned off, uint64_t x)
{
    REG(v, 8, off) = (uint8_t)x;
}
static ALWAYS_INLINE void set_reg16(struct ivcpu *v, unsigned off, uint64_t x)
{
    REG(v, 16, off) = (uint16_t)x;
}
static ALWAYS_INLINE void set_reg32(struct ivcpu *v, unsigned off, uint64_t x)
{
    REG(v, 64, off) = (uint32_t)x;
}
static ALWAYS_INLINE void set_reg64(struct ivcpu *v, unsigned off, uint64_t x)
{
    REG(v, 64, off) = x;
}
/* By a size known only at run time. */
uint64_t get_reg(const struct ivcpu *v, unsigned off, unsigned bytes);
void set_reg(struct ivcpu *v, unsigned off, unsigned bytes, uint64_t x);

/* ---- flags from the host's own ALU ---- */
/* LAHF's AH in bits 8..15 and SETO's result in bit 0, merged into RFLAGS. */
static ALWAYS_INLINE uint64_t merge_flags(uint64_t rflags, uint32_t ahal)
{
    return (rflags & ~(uint64_t)RFLAGS_ARITH) | ((ahal >> 8) & (RFLAGS_ARITH & 0xff)) |
           ((uint64_t)(ahal & 1) << 11);
}

/* The other way: RFLAGS as FLAGS_IN wants them in EAX. */
static ALWAYS_INLINE uint32_t split_flags(uint64_t rflags)
{
    return (uint32_t)(rflags & 0xff) << 8 | (uint32_t)(rflags >> 11 & 1);
}

/* Around an instruction, for what it leaves alone and what the manual leaves undefined: flags that
 * are then kept, or made of the operands, as on this host and so as in translated code. */
#define FLAGS_IN  "addb $0x7f, %%al\n\tsahf\n\t" /* OF from bit 0 */
#define FLAGS_OUT "\n\tlahf\n\tseto %%al"

/* The sixteen conditions of Jcc, SETcc, CMOVcc (SDM 1, "EFLAGS Condition Codes"). cc is a constant
 * in every caller that matters. */
static ALWAYS_INLINE bool condition(uint64_t f, unsigned cc)
{
    bool r;

    switch (cc >> 1) {
    case 0:
        r = f & RFLAGS_OF;
        break;
    case 1:
        r = f & RFLAGS_CF;
        break;
    case 2:
        r = f & RFLAGS_ZF;
        break;
    case 3:
        r = f & (RFLAGS_CF | RFLAGS_ZF);
        break;
    case 4:
        r = f & RFLAGS_SF;
        break;
    case 5:
        r = f & RFLAGS_PF;
        break;
    case 6:
        r = ((f >> 7) ^ (f >> 11)) & 1;
        break;
    default:
        r = (((f >> 7) ^ (f >> 11)) & 1) || (f & RFLAGS_ZF);
        break;
    }
    return r != (cc & 1);
}

#endif
