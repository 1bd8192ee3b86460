/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker's code cache: translations by guest-virtual address, what they are linked by, and the
 * way back from a host PC to the guest's state.
 *
 * Blocks are written one behind the other and dropped as a whole cache; a block whose guest code
 * changed is only closed: its first byte becomes an INT3, which is later overwritten by a jump to
 * its successor, so that nothing that is linked to it needs to be known. A block whose page is not
 * at its address any more sleeps: it is closed, but opened again when the page comes back, in this
 * guest process or in the next one that runs the same program.
 *
 * Every host PC at which guest code can be stopped has a point, or is behind one that holds for it.
 */
#ifndef ENGINE_BT_DIRECT_CODE_H
#define ENGINE_BT_DIRECT_CODE_H

#include "cpu/cpu.h"
#include "mmu/mmu.h"

struct worker;
struct ivcpu;
struct direct;

#define CODE_BUCKETS 32768
#define CODE_STARTS  1048576

struct dblock {
    uint64_t rip;
    uint64_t page[2];   /* guest-physical pages it was made of; the second NO_PAGE but for one
                           instruction across a border */
    uint32_t host, pad; /* offsets in HOME_CODE; pad 0: none yet */
    uint32_t pad2;      /* the pad's entry for the second level */
    uint16_t bytes;     /* of guest code */
    bool dead;          /* its first byte is an INT3, or a jump to its successor */
    bool asleep;        /* dead, until its page is found again where it was */
    uint8_t byte;       /* asleep: its first */
    uint8_t first; /* XIT_INTERP, XIT_SYSCALL: so is its first instruction; do not even go there */
    uint32_t hash_next, page_next[2]; /* indexes + 1 */
};
#define NO_PAGE UINT64_MAX

/* Why a translation runs into an INT3. */
enum xit_kind {
    XIT_NONE,
    XIT_CHAIN,   /* a direct branch to `target` that is not linked yet */
    XIT_INTERP,  /* the instruction at `target` is for interp */
    XIT_SYSCALL, /* and it is SYSCALL */
    XIT_MISS,    /* an indirect branch that the table does not know */
    XIT_SITE,    /* no INT3, but the start of an indirect branch: `target` is what it adds to RSP */
};

/* How the guest's registers are got back at a host PC; SCRATCH n is word n in the home. */
enum undo {
    UNDO_NONE,
    UNDO_REG,    /* point.reg is in scratch 0 */
    UNDO_TSC,    /* RAX in scratch 7, RDX in 4 */
    UNDO_TWO,    /* RCX in scratch 0, R11 in 1 */
    UNDO_TARGET, /* as UNDO_TWO, and RIP is in 2: an indirect branch that has happened */
    UNDO_HASH,   /* as UNDO_TARGET, RDX in 5, RAX in 7 */
    UNDO_FLAGS,  /* as UNDO_HASH, and flags are in 6: SETO's AL, LAHF's AH */
};

/*
 * Holds up to the next point, since what follows from it is not noted: a plain one (UNDO_NONE, reg
 * 0) is followed by instructions of the same length as the guest's, others by more of the same.
 */
struct point {
    uint32_t host;
    uint8_t undo, reg; /* UNDO_NONE: reg is POINT_ABSOLUTE or 0 */
    uint64_t rip;
};
/* The instruction had a RIP-relative operand, which is an absolute one now. */
#define POINT_ABSOLUTE 1

struct xit {
    uint32_t host;
    uint32_t patch; /* CHAIN: offset of the rel32 that led here; 0: it is gone */
    uint8_t kind;
    bool open;     /* CHAIN: not linked yet */
    bool sure;     /* CHAIN: not behind a condition */
    uint8_t guess; /* as code.guess was */
    uint32_t next; /* another open one, index + 1 */
    uint64_t target;
};

/* Where an indirect branch comes or will come: a return address, a target met before. */
struct landing {
    uint64_t rip;
    uint8_t guess; /* as code.guess was */
    uint32_t next; /* index + 1 */
};

struct code_page_ref {
    uint64_t page;
    uint32_t first; /* block index + 1 */
    uint32_t next;
};
/* A page of guest-virtual code and where it was found. */
struct code_vpage {
    uint64_t lin, page;
};

struct code {
    struct worker *w;
    struct ivcpu *v;
    struct direct *d;
    struct mmu *mmu;
    bool avx;       /* the guest has AVX enabled: else its instructions are interp's */
    bool tsc;       /* so is RDTSC, unless the guest may read the TSC and it is the host's but for
                       an offset */
    bool odd_flags; /* PUSHF is interp's: IF, NT, ID, ... were not always as the host's are */
    bool host_bmi2; /* RORX */
    bool fast_loop; /* LOOP is as fast as any branch */
    bool scratch_only; /* RIP-relative operands always by a scratch register (tests) */
    uint32_t used;
    uint64_t generation; /* counts dcode_reset() */
    struct dblock *blocks;
    uint32_t nr_blocks, max_blocks;
    struct point *points;
    uint32_t nr_points, max_points;
    struct xit *xits;
    uint32_t nr_xits, max_xits;
    struct code_page_ref *pages;
    uint32_t nr_pages, max_pages;
    struct code_vpage *vpages;
    uint32_t nr_vpages, max_vpages;
    struct landing *landings;
    uint32_t nr_landings, max_landings;
    unsigned guess; /* so many steps from code that is known to run */
    /* How far ahead.c has come in each of these. */
    uint32_t ahead_vpages, ahead_xits, ahead_landings;
    struct {
        uint64_t lin, page;
        const uint8_t *hva; /* NULL: not known */
    } fetched;              /* the last page of code: only while the vCPU stands still */
    /* A filter: addresses of blocks, by their low bits. Most instructions have none. */
    uint64_t starts[CODE_STARTS / 64];
    uint32_t hash[CODE_BUCKETS], page_hash[CODE_BUCKETS];
    uint32_t open[CODE_BUCKETS], landing_hash[CODE_BUCKETS];
};

void dcode_init(struct code *k, struct worker *w, struct ivcpu *v, struct direct *d);
void dcode_destroy(struct code *k);
/* Drops everything. No guest code may be inside. */
void dcode_reset(struct code *k);
/* Before it runs: with the guest's present RFLAGS. */
void dcode_set_flags(struct code *k, uint64_t rflags);

/* The living block at rip, or NULL. */
struct dblock *dcode_find(struct code *k, uint64_t rip);
/* Found or made; with a pad before it, if it is made and `landing`. NULL: *st is STEP_FAULT (an
 * exception is pending) or STEP_NEXT (interp has to run what is there). */
struct dblock *dcode_get(struct code *k, uint64_t rip, bool landing, enum step *st);
bool dcode_has_page(const struct code *k, uint64_t page);
/* Blocks made of these guest-physical bytes. */
void dcode_drop(struct code *k, gpa_t at, uint64_t bytes);
/* Blocks whose addresses no longer lead to the page they were made of sleep. */
void dcode_validate(struct code *k);
/* The same for the 2 MB around an address. */
void dcode_validate_near(struct code *k, uint64_t lin);

/* All blocks sleep: another guest process may come that has some of the same pages. */
void dcode_sleep(struct code *k);

/* Links the exit, by its index, to its target. */
void dcode_link(struct code *k, uint32_t xit, const struct dblock *to);
/* Enters the block in the table of indirect branches. */
void dcode_offer(struct code *k, struct dblock *b);
/* An indirect branch will come to rip: a block there is offered, now or when it is made. */
void dcode_expect(struct code *k, uint64_t rip);
/* A closed block is to go on at its successor. */
void dcode_forward(struct code *k, const struct dblock *dead, const struct dblock *to);

const struct xit *dcode_xit_at(const struct code *k, uint32_t host);
struct dblock *dcode_block_at(const struct code *k, uint32_t host);
/* What holds at a host PC. False: not a place where guest code stops. */
bool dcode_point_at(const struct code *k, uint32_t host, struct point *out);

/* ---- for xlate.c ---- */
bool dcode_add_point(struct code *k, const struct point *p);
bool dcode_add_xit(struct code *k, const struct xit *x);
/* Enters a block that was written at `host`, and links the exits that wait for it; NULL: no memory.
 */
struct dblock *dcode_add_block(struct code *k, const struct dblock *b);
bool dcode_expected(const struct code *k, uint64_t rip);
/* Notes that lin's page is where its code was found. False: no memory. */
bool dcode_add_vpage(struct code *k, uint64_t lin, uint64_t page);

/* xlate.c: translates from rip on. The code is there, its pages are noted. */
struct xlate_from {
    uint64_t rip;
    const uint8_t *bytes;
    unsigned nr_bytes;
    uint64_t page[2];
    bool landing; /* an indirect branch comes here */
};
struct dblock *xlate_block(struct code *k, const struct xlate_from *from) MUST_CHECK;
/* Writes what every cache begins with. */
void xlate_prologue(struct code *k);
/* Writes the block's landing pad for indirect branches; none when the cache is full. */
void xlate_pad(struct code *k, struct dblock *b);

/*
 * The second level of the table of indirect branches, for targets that share the low 16 bits: open
 * addressing, HASH_PROBES entries are looked at. Room for a compiler's 30000 targets: with a
 * quarter of it, 350 of them in each run found none. Empty entries are all zero: they stand for
 * address -1, and lead to 2^63, where a jump raises #GP.
 */
struct hash_entry {
    uint64_t not_rip; /* NOT of the target */
    uint64_t to;      /* with bit 63 inverted */
};
#define HASH_BITS   16
#define HASH_PROBES 4
#define HASH_FACTOR 0x9e3779b97f4a7c15ull
#define HASH_TO_BIT 63
static inline uint32_t hash_index(uint64_t rip)
{
    return (uint32_t)((~rip * HASH_FACTOR) >> (64 - HASH_BITS));
}

#endif
