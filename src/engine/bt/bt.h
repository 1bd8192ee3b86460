/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Binary translation, inside: translation blocks, what a vCPU's translated code keeps in memory,
 * and the parts of the translator. Nobody outside this folder includes it.
 *
 * Translated code runs on the vCPU's thread with the guest's registers in the host's and GS.base at
 * struct bt_vcpu. Three host registers are its own: RCX, R10 and R11; the guest's RCX lives in R9,
 * its R9, R10 and R11 in cpu.gpr[]. It touches guest memory only through the software TLB it shares
 * with interp and, the kernel's, in windows set apart for it (kview.c). None of its own
 * instructions changes the arithmetic flags, so these are always the guest's, and every instruction
 * of the guest begins with the exact guest state.
 */
#ifndef ENGINE_BT_BT_H
#define ENGINE_BT_BT_H

#include <stdio.h>

#include "engine/bt/direct/direct.h"
#include "engine/bt/emit.h"
#include "engine/bt/insn.h"
#include "host/host.h"

#define TB_MAX_INSNS 64
#define SHARES       16

/* Block keys: interp's, and what else the translation depends on. */
#define KEY_USER  BIT(20) /* CPL 3 */
#define KEY_AC    BIT(21) /* supervisor code with RFLAGS.AC: SMAP is lifted */
#define KEY_X87   BIT(22) /* usable without #UD or #NM */
#define KEY_SSE   BIT(23)
#define KEY_AVX   BIT(24)
/* Instructions are counted, and every block comes back: under vcpu.run_limit. */
#define KEY_COUNT BIT(25)
#define KEY_TSD   BIT(26) /* CR4.TSD */
/* Each access looks itself up: a stand-in for the rest of a block (share.c). */
#define KEY_ALONE BIT(27)

#define SEG_SHUT (1ull << 32)

#define XSTATE_ALL 7u /* x87, SSE, AVX: what a guest is offered */

#define H_PTR       H_R10 /* effective address, then half of the host address */
#define H_AUX       H_R11 /* TLB index, then the other half */
#define H_TMP       H_RCX /* what LOOP tests */
#define H_GUEST_RCX H_R9

struct tb;
struct kview;

/* A window of the kernel's view: a PML4 slot of the guest's. An access that begins in it ends
 * there, or less than so much behind it. */
#define BT_WINDOW_SHIFT 39
#define BT_WINDOW_GUARD KIB(128)

/* One guest instruction in a block. There are millions: they are small. */
struct site {
    struct op *ops;    /* decoded by interp: it and an end; NULL until needed */
    int32_t rsp_undo;  /* a near branch has moved RSP so far when its target proves not canonical */
    uint16_t pc, next; /* where its host code begins, and the next one's: offsets in tb->code */
    uint16_t off;      /* in the guest's page */
    uint16_t acc_bytes; /* of its memory access; 0: makes none that may be filled and tried again.
                           Of a REP by the kernel's view: of an element */
    uint8_t nr;         /* in the block */
    uint8_t len : 4, imm_off : 4; /* bytes; its immediate's place, of a loose one */
    uint8_t imm_bytes : 4;
    bool acc_write : 1; /* its memory access is a write */
    bool ends : 1;      /* after interp never go on with the next instruction */
    bool loose : 1; /* fluid code: its immediate is read from the guest's bytes each time it runs */
    bool branch : 1;         /* a near one, translated */
    bool leads : 1;          /* looks up for others too (share.c) */
    bool viewed : 1;         /* its access is by the kernel's view (kview.c) */
    bool rep : 1, moves : 1; /* and it is REP STOS or (moves) REP MOVS */
};

/* A way out of a block to a place in the same page. Places in the code cache are offsets. */
struct tb_exit {
    struct tb *tb;
    struct tb *to;           /* chained to */
    struct tb_exit *next_in; /* others chained to the same block */
    uint32_t rel32;          /* of the jump */
    uint32_t check;          /* of the one taken when cpu.req is set, or 0 */
    uint32_t lea;            /* rel32 of a CALL's LEA of the way back, or 0 */
    uint32_t stub;           /* where it goes while not chained */
    uint32_t table;          /* far: the way there by the table of branch targets */
    uint16_t target;         /* offset in the page */
    uint8_t nr_insns;        /* of the block, up to here */
    bool stale : 1;          /* taken when the block's bytes have changed: to a later version */
    bool ac : 1;             /* behind STAC or CLAC: to a block whose KEY_AC is the other */
    bool far : 1;            /* to another page (far.c): `target` means nothing */
    bool lead : 1;           /* a leader's miss (share.c): chained to its stand-in, once needed */
};

/*
 * What a translation in a fluid page (fluid.c) was made of. It is good while the fixed pieces of
 * the guest's bytes are as they were.
 */
struct fluid_tb {
    const uint8_t *now; /* the guest's bytes */
    uint64_t serial;
    bool stores; /* writes memory, at its end */
    unsigned nr_fixed;
    struct {
        uint16_t off, bytes;
    } fixed[TB_MAX_INSNS + 1];
    struct tb **link;               /* what points to the block in its page's list */
    uint8_t was[TB_MAX_INSNS * 15]; /* only as many as the block has, in the end */
};

/* What finds and enters a block is in its first 64 bytes: most are not in the processor's cache. */
struct tb {
    uint64_t gpa;
    uint32_t key;
    uint16_t bytes;
    uint8_t nr_insns, nr_exits;
    struct tb *hash_next;
    struct fluid_tb *fluid; /* NULL: stores to its page are seen */
    const uint8_t *far;     /* entry with R10 = RIP */
    const uint8_t *near;    /* entry within the page */
    uint32_t jc_at; /* its last entry in the table of branch targets; JC_NONE: never had one */
    bool dead;      /* dropped; it may still be the one that runs */
    bool vectors;   /* uses x87 or vector registers */
    bool shares;    /* has lookups for several accesses */
    bool jc_more;   /* and may have other entries */
    const uint8_t *code, *end;
    const uint8_t *body; /* its first instruction */
    struct tb *page_next;
    struct tb_exit *in; /* exits of other blocks chained to this one */
    struct tb_exit *exits;
    uint8_t
        cross_len; /* not 0: one instruction in two pages (cross.c), at offset gpa of the first */
    uint8_t cross[15];   /* its bytes */
    struct site sites[]; /* nr_insns */
};

static inline struct tb *bt_tb_of(const struct site *s)
{
    return (struct tb *)((uintptr_t)(s - s->nr) - offsetof(struct tb, sites));
}

/* Translated code of one guest page. */
struct tb_page {
    uint64_t page; /* gpa >> 12 */
    struct tb *tbs;
    uint64_t lines;
    unsigned near_misses;
    uint64_t at;  /* where kernel code of it runs; 0: nowhere yet */
    bool aliased; /* and elsewhere, too */
    struct tb_page *next;
};

/* Where a page of the kernel's is that branches are linked to (far.c). */
struct bt_far_page {
    uint64_t lin; /* 0: none */
    uint64_t place;
};

/* A page whose code is written: how often lately, and what that led to. */
struct fluid_page {
    uint64_t page;    /* gpa >> 12 */
    uint64_t since;   /* TSC: first of the drops that count */
    uint64_t changed; /* TSC: a fluid page's code was last found changed */
    uint8_t drops;
    uint8_t returns; /* times that it was made an ordinary page again */
    bool fluid;
    struct tb *tbs;
};

/*
 * Targets of indirect branches, by the low bits of their RIP, to which the upper ones are added: a
 * compiler's 50000 have room, and a kernel's functions, which are aligned, do not all meet in a
 * sixteenth of the table.
 */
#define JC_BITS    18
#define JC_ENTRIES (1u << JC_BITS)
#define JC_NONE    UINT32_MAX
#define JC_PAGES   4096u
struct jc_entry {
    uint64_t neg_rip; /* 1 minus RIP; 0: empty (1 for RIP 1's own entry) */
    const uint8_t *far;
};
/* Which entries were filled since the last flush; and a filter for the pages they are of. */
struct jc_log {
    unsigned nr;
    uint32_t used[JC_ENTRIES];
    uint8_t logged[JC_ENTRIES];
    uint64_t in_page[JC_PAGES / 64];
};
struct jc {
    struct jc_entry e[JC_ENTRIES];
    struct jc_log local, global;
    bool brought; /* local ones by PCID, which their blocks do not know of */
};
/* Of a PCID that is not the present one, the latest first: see interp's struct pcid_set. */
#define JC_KEPT 192
struct jc_kept {
    unsigned nr;
    uint32_t key; /* as bt_vcpu.jc_key was */
    struct jc_entry e[JC_KEPT];
};
enum jc_class { JC_USER, JC_USER32, JC_KERNEL, JC_KERNEL_AC, NR_JCS };

/* Where returns of 64-bit code go: what CALLs left, by the low bits of RSP. Good for as long as the
 * table of branch targets is. */
#define RETURNS (1u << 10)
struct jc_returns {
    uint64_t not_rip[RETURNS];  /* NOT of the return address */
    const uint8_t *at[RETURNS]; /* the way there, with R10 = RIP */
};

/* Why translated code came back. */
enum bt_why {
    WHY_EXIT,   /* left through v->exit */
    WHY_FAR,    /* the same, to cpu.rip, which is in another page (far.c) */
    WHY_MISS,   /* an indirect branch to cpu.rip has no entry; v->site is the branch */
    WHY_LOST,   /* a return to cpu.rip, which an empty entry happens to match */
    WHY_SLOW,   /* v->site's memory access missed the TLB at v->ea */
    WHY_INTERP, /* v->site is for interp */
    WHY_VECTOR, /* the vector registers are wanted: load and go on at v->site */
    WHY_TRAP,   /* the host instruction at region.at raised a signal */
    NR_WHYS
};

/* How long a guest process runs between two visits to its kernel. */
#define NR_BURSTS 64
struct burst {
    uint64_t root;     /* of its page tables */
    uint64_t thread;   /* FS.base */
    uint64_t all, own; /* TSC ticks since it came to its tier, and those that were its own */
    uint8_t proof;     /* factor for what it has to have run before it goes to the direct tier */
    uint32_t mean;     /* of the last bursts: TSC ticks at native speed, roughly */
    uint64_t window;   /* own time of the present window in the checked tier, in TSC ticks */
    uint64_t fresh;    /* what was new to the process in it: branch targets, and pages */
    uint8_t calm;      /* so many windows in a row, up to now, had little that was new */
    bool direct;       /* runs in the direct tier */
    uint8_t refused;   /* times to go until that is tried again */
};

/* What the guest would find as the last x87 instruction's pointers: the processor has the host's.
 */
struct x87_last {
    uint64_t rip, dp;
    uint32_t op; /* X87_SET | opcode; 0: none was run since the registers were loaded */
    uint32_t cs; /* selectors: the low 16 bits */
    uint32_t ds;
    uint32_t dp_set; /* one with a memory operand was */
};
#define X87_SET BIT(16)

#define TB_BUCKETS    262144
#define TB_PAGES      16384
#define CODE_CACHE    MIB(192)
#define TB_BOOKS      MIB(256)
#define COLD_COUNTERS 16384
#define FLUID_PAGES   1024
#define FAR_PAGES     8192

#define CROSSED_PAGES 4096
/* Where the table of branch targets leads to an instruction in two pages. */
struct crossed {
    uint64_t rip, page[2]; /* the pages' gpa >> 12 */
    enum jc_class class;
};

/* What SYSCALL and SYSRET have made of the vCPU, while all that they depend on stays (calls.c). */
struct bt_ring {
    struct seg seg[2]; /* CS, SS */
    struct tlb *tlb;
    uint32_t mode, cpl, key, bt_key;
    bool known;
};
struct bt_calls_config {
    uint64_t efer, star, lstar, sfmask, cr0, cr4, xcr0;
};
struct bt_calls {
    uint32_t no_syscall, no_sysret; /* not 0: left to interp */
    uint32_t armed, left; /* so many SYSRETs may go without a turn of the run loop, and still may */
    struct bt_ring kernel, user;
    struct seg ss; /* before the SYSRET that made `user` */
    struct bt_calls_config config;
    uint64_t cr3, thread; /* FS.base: whose returns they are */
    uint64_t not_sfmask, mask_slow_flags, mask_not_user;
};

/* Whether a vCPU idles: in TSC ticks. */
struct bt_idle {
    uint64_t entered;     /* when it was last let run */
    uint64_t since, busy; /* the present window's start, and how much of it it ran */
};

struct bt_vcpu {
    struct ivcpu iv;             /* first: interp runs what is refused */
    uint64_t mask_page, mask_jc; /* for PEXT: a page number, an index in struct jc */
    uint64_t mask_not_if;        /* all but RFLAGS.IF */
    uint64_t mask_df, mask_not_df, mask_of, mask_63;
    uint64_t mask_returns;
    uint64_t mask_rep;    /* what a REP by the kernel's view may not have in RCX */
    uint64_t mask_pushed; /* what PUSHF takes from cpu.rflags */
    uint64_t mask_if_df, mask_not_if_df;
    uint64_t mask_popf, mask_popf_user; /* what translated POPF does not change */
    uint64_t mask_ah;
    uint64_t tsc_offset; /* of the guest's TSC to the host's, when tsc_inline */
    uint64_t vm_tsc_offset;
    uint32_t masked; /* an interrupt waits for IF */
    /* 32-bit code: how much the limit is below 4 GB; SEG_SHUT: nothing may be accessed inline */
    uint64_t fs_gap, gs_gap;
    uint32_t jc_key[NR_JCS]; /* what the tables of branch targets were filled for */
    bool tsc_inline;
    unsigned turns;     /* of the run loop that were left out */
    unsigned turns_cut; /* of them, when user code was entered behind an interrupt */
    bool cut;           /* an interrupt ended the last burst of user code */
    bool lone;          /* the present one counts for itself alone, not for `turns` others */
    struct bt_calls calls;
    struct bt_idle idle;
    uint64_t ea, tmp;
    uint64_t share[SHARES]; /* host addresses of what was looked up for several accesses */
    unsigned tlb_seen;      /* iv.tlb_changes when translated code came back */
    uint64_t gen_seen;      /* and iv.jump_gen */
    const struct site *site;
    struct tb_exit *exit;
    uint32_t why;
    unsigned counted;  /* of the current block's instructions, under KEY_COUNT */
    uint32_t vec_here; /* 1: the vector registers hold the guest's; 0: they are in cpu.fpu */
    uint32_t vec_want; /* load them on entry */
    uint32_t mxcsr;    /* the host's */
    struct x87_last x87;
    uint64_t flags;    /* LAHF's AH in bits 8..15, SETO in bit 0 */
    const uint8_t *pc; /* where to enter */
    uint64_t host_rsp;
    uint64_t host_gs;
    struct host_trap_region region;
    struct host_trap_stack stack;
    struct bt_vm *vm;
    struct bt_cache *cache;
    const struct bt_config *cfg;
    struct direct *direct; /* NULL: not to be had here */
    struct burst bursts[NR_BURSTS];
    uint64_t user_since; /* TSC when the guest's user code was entered; 0: it was not */
    uint64_t fresh_then, translated_then, ran_then, stops_then; /* counts of then */
    uint32_t ticks_per_us;
    bool checked_once;   /* the next instruction is not for the direct tier */
    bool asked_to_share; /* the machine was asked for memory that workers can have */
    unsigned nr_looks;   /* bursts since looks_since, a TSC */
    uint64_t looks_since;
    struct tb *making;               /* room for bt_translate() */
    struct insn ahead[TB_MAX_INSNS]; /* and for the block's instructions */
    uint8_t cold[COLD_COUNTERS];
    struct tb *cross[4096]; /* by bytes */
    struct crossed crossed[2048];
    unsigned nr_crossed;
    uint64_t crossed_pages[CROSSED_PAGES / 64]; /* a filter: theirs, by the low bits */
    struct insn_cache insns;
    struct kview *kview;       /* NULL: none */
    uint64_t windows[BIT(16)]; /* by PML4 slot: what to add to an address (kview.c) */
    struct jc_returns returns[NR_JCS];
    struct jc jc[NR_JCS];
    uint64_t jc_drops; /* blocks that a table may have led to were dropped so often */
    uint64_t kept_drops[PCID_SETS];
    struct jc_kept kept[PCID_SETS][NR_JCS];
};

/*
 * A vCPU's translations. Nobody else runs or drops them, so there is no lock, no code that might
 * vanish under somebody, and what several vCPUs run is translated by each.
 */
struct bt_cache {
    struct host_code hc;
    struct emit code;                 /* the free rest of the cache */
    uint8_t *start;                   /* behind the thunks */
    void (*enter)(struct bt_vcpu *b); /* loads the guest's registers, goes to b->pc; back: b->why */
    const uint8_t *leave[NR_WHYS];
    const uint8_t *syscall, *sysret; /* calls.c */
    const uint8_t *branch[NR_JCS];   /* goes to the RIP in R10 by the table; H_TMP: the site */
    struct tb *hash[TB_BUCKETS];
    struct tb_page *pages[TB_PAGES];
    /* Their books, one behind the other: translated code names them, so they are low in memory. */
    uint8_t *books;
    size_t books_used;
    struct tb **by_pc; /* in the order of their code */
    unsigned nr_by_pc, max_by_pc;
    struct fluid_page fluid[FLUID_PAGES];
    unsigned nr_fluid;
    uint64_t review;                   /* TSC: when to look at them again */
    struct bt_far_page far[FAR_PAGES]; /* a hash table */
    unsigned nr_far;
    uint64_t far_lo, far_hi; /* all are in there */
    uint64_t serial;
};

struct bt_vm {
    struct interp_vm ivm; /* first */
    bool slow_pext;
    FILE *perf_map; /* NULL: none */
};

/* Offsets for the GS segment. */
#define BT_OFF(member)  offsetof(struct bt_vcpu, member)
#define CPU_OFF(member) (offsetof(struct bt_vcpu, iv.vc.cpu.member))
#define GPR_OFF(n)      (offsetof(struct bt_vcpu, iv.vc.cpu.gpr) + 8 * (size_t)(n))

/* Places in the code cache, as exits have them. */
static inline uint32_t bt_code_off(const struct bt_cache *bc, const uint8_t *rw)
{
    return (uint32_t)(rw - bc->hc.rw);
}
static inline uint8_t *bt_code_rw(const struct bt_cache *bc, uint32_t off)
{
    return bc->hc.rw + off;
}

/* ---- run.c ---- */
enum run_result bt_run(struct vcpu *vc);
/* The key of code at the present state. */
uint32_t bt_key(const struct bt_vcpu *b);
/* Before code that may use the vector registers: the guest's go to cpu.fpu. */
void bt_vectors_out(struct bt_vcpu *b);

/* ---- idle.c ---- */
/* The vCPU halts; now in TSC ticks. Not while it is in translated code. */
void bt_idle_halted(struct bt_vcpu *b, uint64_t now);

/* ---- thunk.c ---- */
/* Writes the code that enters and leaves translated code. False: no room. */
bool bt_make_thunks(struct bt_cache *bc, bool slow_pext);
/* Looks the RIP in H_PTR up in a table of branch targets: returns the rel32 of the jump that is
 * taken on a miss; what follows it goes there. */
uint8_t *bt_emit_table(struct emit *e, enum jc_class class, bool slow_pext);

/* ---- translate.c ---- */
/* Translates at guest-physical at, whose bytes are at code. NULL: the first instruction crosses the
 * page, or there is no room (the caller flushes). */
struct tb *bt_translate(struct bt_vcpu *b, gpa_t at, uint32_t key, const uint8_t *code);
/* One instruction that begins at offset off of some page, and ends in another. NULL: no room. */
struct tb *bt_translate_cross(struct bt_vcpu *b, unsigned off, uint32_t key, const uint8_t *bytes,
                              unsigned len);

struct trans {
    struct bt_vcpu *b;
    struct emit *e;
    struct tb *tb; /* being made, with room for TB_MAX_INSNS sites */
    struct insn in;
    const uint8_t *code; /* the guest's bytes */
    uint32_t key;
    unsigned nr; /* instructions so far */
    bool alone;  /* KEY_ALONE */
    unsigned nr_shares;
    struct share {
        int64_t lo, hi; /* the bytes, from the origin */
        unsigned nr;    /* accesses */
        bool write;
        bool viewed; /* by the kernel's view: nothing has to be checked */
    } shares[SHARES];
    struct share_use {
        int8_t share; /* -1: looks itself up */
        bool leads;
        int64_t off; /* from the origin */
    } uses[TB_MAX_INSNS];
    bool behind;            /* all instructions are done: what leaves does so after the last */
    bool vec_ready;         /* the check for the vector registers has been made */
    const struct tb *older; /* a version of this block with other bytes, or NULL */
    const uint8_t *pad;     /* fluid: where to go when the bytes have changed */
    unsigned nr_slow;
    struct {
        uint8_t *rel32;
        int site;          /* index */
        const uint8_t *to; /* a thunk, with the site in H_TMP */
    } slow[256];           /* jumps to stubs behind the block */
    struct tb_exit exits[64 + SHARES];
};

static inline bool bt_long64(const struct trans *t)
{
    return t->key & MODE_CS64;
}

/* EMIT_W where addresses, stack slots and RIP have 64 bits; elsewhere 32-bit operations cut them.
 */
static inline unsigned bt_width(const struct trans *t)
{
    return bt_long64(t) ? EMIT_W : 0;
}

/* ---- mem.c ---- */
/* A guest register's place in the host; H_NONE: in cpu.gpr[]. */
enum hreg bt_home(unsigned gpr);
unsigned bt_gpr(ZydisRegister r); /* of any width, not AH..BH */
/* H_PTR = effective (linear) address of in->ops[in->mem]. */
void bt_emit_ea(struct trans *t, const ZydisDecodedOperandMem *m);
/* Into dst, for LEA; 32 bits when a32. Does not add a segment base. */
void bt_emit_offset(struct trans *t, const ZydisDecodedOperandMem *m, enum hreg dst, bool a32);
/* H_PTR holds a linear address; afterwards H_PTR + H_AUX is its host address, H_TMP is free. Goes
 * to the current site's slow stub on a miss. */
void bt_emit_lookup(struct trans *t, unsigned bytes, bool write);
/* The jump whose rel32 is `at` goes to a stub that leaves with the current instruction's site. */
void bt_leave_from(struct trans *t, uint8_t *at, enum bt_why why);
/* The same to a stub that goes to the thunk. */
void bt_thunk_from(struct trans *t, uint8_t *at, const uint8_t *thunk);
/* Leaves unless H_TMP is emit_hit(); afterwards it is free. */
void bt_leave_unless_same(struct trans *t, enum bt_why why);
/* Goes to the RIP in H_PTR by the table unless H_TMP is emit_hit(). */
void bt_branch_unless_same(struct trans *t);
/* Leaves unless H_TMP, which is below 2^56, is emit_hit(). */
void bt_leave_unless_hit(struct trans *t, enum bt_why why);
/* What to add to tag plus address, so that the number of its page is emit_hit() in the tag's page.
 */
int bt_tag_disp(const struct trans *t);
/* Returns the rel32 of a jump that is taken if something may be requested of the vCPU. */
uint8_t *bt_emit_unless_quiet(struct trans *t);
/* Leaves unless the 32-bit word in struct bt_vcpu is 0. */
void bt_leave_unless_zero(struct trans *t, size_t word, enum bt_why why);
/* bt_emit_lookup() in parts: H_AUX = the index of H_PTR, H_TMP = PAGE_BYTES minus the address of
 * the page in the entry; then H_AUX = the addend. */
void bt_emit_tag(struct trans *t, bool write);
void bt_emit_addend(struct trans *t);
/* As bt_emit_lookup(), but returns the rel32 of the jump that is taken on a miss. */
uint8_t *bt_emit_probe(struct trans *t, unsigned bytes, bool write);
#define HMEM_GUEST ((struct hmem){ .base = H_PTR, .index = H_AUX })
/* A guest register into a host register and back. */
void bt_emit_get(struct trans *t, enum hreg dst, unsigned gpr);
void bt_emit_put(struct trans *t, unsigned gpr, enum hreg src);
/* A jump to a stub that leaves with the current instruction's site. */
void bt_emit_leave(struct trans *t, enum bt_why why);

/* H_PTR holds a linear address; afterwards H_PTR + H_AUX is where the kernel's view has it. */
void bt_emit_window(struct trans *t);

/* ---- kview.c: the kernel's view ---- */
void bt_kview_create(struct bt_vcpu *b);
void bt_kview_destroy(struct bt_vcpu *b);
/* Should the access of the instruction at off in the page go there? */
bool bt_kview_wants(const struct trans *t, unsigned off, bool write);
/* The access of the site, which does, was a trap. True: it may be tried again; else it is interp's,
 * and the block may have been dropped. */
bool bt_kview_trap(struct bt_vcpu *b, const struct site *s);
/* Each of the guest's flushes, behind what it follows from. */
void bt_kview_flush(struct bt_vcpu *b, const struct tlb_flush *what);
/* Are the guest kernel's own pages global, so that it is used? */
bool bt_kview_is_on(const struct bt_vcpu *b);
/* Would it be used, if the machine's memory were not this process's alone (mmu_has_private())? */
bool bt_kview_lacks_memory(const struct bt_vcpu *b);
/* CR3 was loaded under CR4.PCIDE, with a flush or without. */
void bt_kview_switched(struct bt_vcpu *b);
/* The guest-physical page has become code. */
void bt_kview_protect(struct bt_vcpu *b, uint64_t page);
/* The vCPU's state, the slots or the dirty log changed: all is taken out. */
void bt_kview_reset(struct bt_vcpu *b);

/* ---- copy.c ---- */
bool bt_emit_copy(struct trans *t);
bool bt_emit_lea(struct trans *t);

/* ---- string.c ---- */
bool bt_emit_string(struct trans *t); /* INSN_STRING */
/* A REP of the kernel's view was a trap: RCX, RSI and RDI become what they are in its midst. */
void bt_string_trapped(struct bt_vcpu *b, const struct site *s);
bool bt_emit_bits(struct trans *t); /* INSN_BITS */

/* ---- share.c ---- */
/* Which of the block's nr instructions, at most TB_MAX_INSNS, share a lookup. */
void bt_share_plan(struct trans *t, const struct insn *ins, unsigned nr);
/* The current instruction is interp's after all: who relied on its lookup does not. */
void bt_share_drop(struct trans *t);
/* Its access was looked up by another: no address is needed. */
bool bt_share_known(const struct trans *t);
/* Where the lookup begins, from the current instruction's access: 0 or less. */
int64_t bt_share_ahead(const struct trans *t);
/* H_PTR holds the address of the current access plus bt_share_ahead() unless it is known. Returns
 * the operand to reach it by, with H_AUX or both registers in it; H_TMP is free. */
struct hmem bt_share_lookup(struct trans *t, unsigned bytes, bool write);

/* ---- system.c ---- */
/* Is the instruction one of those that bt_emit_system() writes, and that then fall through? */
bool bt_is_inline_system(const struct trans *t, const struct insn *in);
bool bt_emit_system(struct trans *t);
/* STAC or CLAC that changes AC. False: the current instruction is another. */
bool bt_emit_ac(struct trans *t);
bool bt_emit_pushf(struct trans *t);

/* ---- calls.c: system calls ---- */
void bt_calls_init(struct bt_vcpu *b);
/* Writes their code, behind the thunks. */
void bt_make_calls(struct bt_cache *bc);
/* The current instruction if it is SYSCALL of 64-bit user code, or SYSRET to it. False: not. */
bool bt_emit_call(struct trans *t);
/* interp ran one, which came from the stack segment ss, and no turn of the run loop is due. */
void bt_calls_learn(struct bt_vcpu *b, bool sysret, const struct seg *ss);
/* Before translated code is entered: is all as it was? */
void bt_calls_check(struct bt_vcpu *b);
/* So many SYSRETs to the present process and thread may go without a turn of the run loop; those
 * that did before are counted in b->turns. */
void bt_calls_arm(struct bt_vcpu *b, unsigned nr);
/* The vCPU's state may be any other. */
void bt_calls_forget(struct bt_vcpu *b);

/* ---- branch.c ---- */
void bt_emit_push(struct trans *t);
/* Where the current instruction's word at RSP or RBP, plus by, is: with H_AUX or both registers in
 * it; H_TMP is free. */
struct hmem bt_emit_stack(struct trans *t, enum hreg base, int by, bool write);
void bt_emit_move_stack(struct trans *t, int by);
void bt_emit_pop(struct trans *t);
void bt_emit_branch(struct trans *t); /* INSN_JMP .. INSN_RET */
bool bt_emit_loop(struct trans *t);   /* INSN_LOOP */
/* The same by an exit for the place at off, which is near, where KEY_AC is the other. */
void bt_emit_goto_ac(struct trans *t, unsigned off);
/* Leaves the block for the place at off, relative to the page. */
void bt_emit_goto(struct trans *t, int64_t off, bool check);

/* ---- translate.c ---- */
/* Can the place at off be reached without its RIP: is it in the page, all of its instruction? */
bool bt_is_near(struct trans *t, int64_t off);

/* ---- far.c: direct branches of the kernel's code to other pages ---- */
/* Is the current instruction's, to another page, one? */
bool bt_far_wants(const struct trans *t);
/* Chains the exit, of a block that runs in the page at that linear address, to the block that is at
 * cpu.rip. False: it cannot be; bt_far_give_up() then leads it by the table. */
bool bt_far_link(struct bt_vcpu *b, struct tb_exit *x, uint64_t page, struct tb *to);
void bt_far_give_up(struct bt_cache *bc, struct tb_exit *x);
/* Each of the guest's flushes, behind what it follows from. */
void bt_far_flush(struct bt_vcpu *b, const struct tlb_flush *what);
/* Takes all links back. */
void bt_far_unlink_all(struct bt_cache *bc);
/* The block runs, or will run, at rip. */
void bt_far_seen(struct bt_vcpu *b, uint64_t rip, const struct tb *tb);
/* With the code cache: nothing is linked. */
void bt_far_forget(struct bt_cache *bc);

/* ---- cross.c: instructions in two pages ---- */
/* The block of the one at cpu.rip, which is near the end of its page, in the table of branch
 * targets from now on. NULL: there is none (yet): no exception is pending. */
struct tb *bt_cross(struct bt_vcpu *b, uint32_t key);
void bt_cross_insert(struct bt_vcpu *b, struct tb *tb);
/* Guest-physical bytes were written: nothing leads to what was made of their pages. */
void bt_cross_drop(struct bt_vcpu *b, gpa_t at, uint64_t bytes);
void bt_cross_drop_all(struct bt_vcpu *b);
bool bt_cross_in_page(const struct bt_vcpu *b, uint64_t page);
/* With the code cache and the tables, which are emptied by others. */
void bt_cross_flush(struct bt_vcpu *b);

/* ---- fluid.c: code that changes while it runs ---- */
/* The page's books if it is fluid, or NULL. */
struct fluid_page *bt_fluid_page(struct bt_cache *bc, gpa_t at);
/* Code of this page was dropped because of a store. */
void bt_fluid_dropped(struct bt_vcpu *b, gpa_t at);
/* Are the bytes still those that it was made of? */
bool bt_fluid_good(const struct tb *tb);
/* Adds to the hash's books what belongs to fluid ones. */
void bt_fluid_insert(struct bt_vcpu *b, struct tb *tb);
/* from's bytes have changed to those of `to`: lead there what leads to `from`. */
void bt_fluid_turn(struct bt_vcpu *b, struct tb *from, struct tb *to);
/* Drops all translations of fluid pages. */
void bt_fluid_drop_all(struct bt_vcpu *b);
/* Makes those ordinary pages that have not changed for long. */
void bt_fluid_review(struct bt_vcpu *b);

/* ---- loose.c ---- */
/* The current instruction with its immediate read when it runs, if it was found to change. False:
 * to be emitted like any other. */
bool bt_emit_loose(struct trans *t);
/* After each instruction: what of it has to stay as it is. False: the block has to end here. */
bool bt_loose_note(struct trans *t);
/* Compares the fixed bytes, goes to t->pad if they differ. */
void bt_emit_fluid_check(struct trans *t);

/* ---- tier.c: which user code runs in the direct tier ---- */
/* Between turns: has it to take one, to keep its books? */
bool bt_needs_turn(struct bt_vcpu *b);
/* How many SYSRETs to the present user code need none. */
unsigned bt_free_turns(struct bt_vcpu *b);
/* An interrupt ends the present burst of user code. */
void bt_burst_cut(struct bt_vcpu *b);
/* At each turn of the run loop: keeps the books. True: user code should run there now. */
bool bt_wants_direct(struct bt_vcpu *b);
/* Runs it there. False: run() returns *res. */
bool bt_run_direct(struct bt_vcpu *b, enum run_result *res);

/* Brings its counters into vcpu.nr_exits. */
void bt_count_direct(struct bt_vcpu *b);
/* Both tiers together have made as many blocks as bt_config.limit allows. */
bool bt_limit_reached(const struct bt_vcpu *b);

/* ---- perfmap.c ---- */
/* Goes on without after a message. */
void perf_map_open(struct bt_vm *vm);
/* What a cache begins with. */
void perf_map_add_thunks(struct bt_vm *vm, const struct bt_cache *bc);
void perf_map_add(struct bt_vm *vm, const struct tb *tb);
void perf_map_close(struct bt_vm *vm);

/* ---- cache.c ---- */
struct tb *bt_find(struct bt_cache *bc, gpa_t at, uint32_t key);
/* The latest version of a block, whatever its bytes are now. */
struct tb *bt_newest(struct bt_cache *bc, gpa_t at, uint32_t key);
bool bt_insert(struct bt_vcpu *b, struct tb *tb);
/* Room for a block's books, until the cache is flushed. NULL: it has to be, and code.full says so.
 */
struct tb *bt_books(struct bt_cache *bc, size_t bytes);
/* Takes it out of all but the page's list. */
void bt_bury(struct bt_vcpu *b, struct tb *tb);
void bt_unlink(struct bt_cache *bc, struct tb_exit *x);
/* Another entry for what led to `from`. */
void bt_jc_turn(struct bt_vcpu *b, const struct tb *from, struct tb *to);
void bt_link(struct bt_cache *bc, struct tb_exit *x, struct tb *to);
/* Drops translations that overlap; true if there were any. */
bool bt_drop(struct bt_vcpu *b, gpa_t at, uint64_t bytes);
void bt_drop_all(struct bt_vcpu *b);
bool bt_has_code(struct bt_cache *bc, uint64_t page);
struct tb_page *bt_page(struct bt_cache *bc, uint64_t page);
/* Where blocks of this key start in a page. False: nowhere. */
bool bt_starts(struct bt_cache *bc, uint64_t page, uint32_t key, struct direct_starts *out);
/* What is in the table of user code's branch targets, the latest first. */
unsigned bt_jc_targets(const struct bt_vcpu *b, uint64_t *rips, unsigned max);
void bt_flush_cache(struct bt_vcpu *b);
struct tb *bt_by_pc(struct bt_cache *bc, const uint8_t *pc);
/* Where a RIP's entry is. */
unsigned bt_jc_index(const struct bt_vcpu *b, uint64_t rip);
void bt_jc_init(struct bt_vcpu *b);
void bt_jc_add(struct bt_vcpu *b, uint64_t rip, struct tb *tb, bool global);
/* The entry for RIP that bt_jc_add() made goes with lin's page, too. */
void bt_jc_add_page(struct bt_vcpu *b, uint64_t lin, const struct tb *tb, bool global);
void bt_jc_remove(struct bt_vcpu *b, enum jc_class class, uint64_t rip);
void bt_jc_flush(struct bt_vcpu *b, enum flush_kind kind, uint64_t lin);
/* Entries that are not global are put aside for a PCID that is left, and come back with it. */
void bt_jc_leave(struct bt_vcpu *b, unsigned set);
void bt_jc_back(struct bt_vcpu *b, unsigned set);
/* One table alone. */
void bt_jc_empty(struct bt_vcpu *b, enum jc_class c);

static inline enum jc_class bt_jc_class(uint32_t key)
{
    if (key & KEY_USER)
        return key & MODE_CS64 ? JC_USER : JC_USER32;
    return key & KEY_AC ? JC_KERNEL_AC : JC_KERNEL;
}

static inline enum tlb_view bt_view(uint32_t key)
{
    return key & KEY_USER ? VIEW_USER : key & KEY_AC ? VIEW_KERNEL_AC : VIEW_KERNEL;
}

#endif
