/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest-physical memory: a sorted list of slots (RAM and ROM), what is known about each of their
 * pages, and the DMA handle by which devices reach them. An alias is a slot without memory of its
 * own, which shows a part of another one's.
 *
 * What is behind a page is (file, offset); host pointers into it (hva) are short-lived: good until
 * the caller returns to its loop or takes a lock. Slots change only while all vCPUs are stopped or
 * from the one that asks, under slots_lock; readers take it for reading, or are vCPU threads inside
 * run().
 */
#ifndef MMU_MMU_H
#define MMU_MMU_H

#include "lib/types.h"

/* Per-page notes, set and cleared atomically. */
#define PAGE_NOTE_CODE \
    BIT(0) /* an engine holds decoded or translated code of this page: writes must be told */
#define PAGE_NOTE_FLUID                                                                          \
    BIT(2) /* translations of this page look at its bytes themselves: writes by devices are told \
              all the same */
#define PAGE_NOTE_DIRTY                                                      \
    BIT(1) /* written since the dirty log was last read (only while logging) \
            */

/* Engines with several vCPUs: who may have the right to write the page without being seen. 0:
 * nobody; n + 1: vCPU n; else several. */
#define PAGE_WRITER_SHIFT  8
#define PAGE_WRITER(notes) ((unsigned)(notes) >> PAGE_WRITER_SHIFT)
#define PAGE_WRITER_MANY   0xffu

#define SLOT_RO        BIT(0) /* ROM: guest writes go nowhere (reported as MMIO writes to nobody) */
#define SLOT_LOG_DIRTY BIT(1)
/* A private mapping of a snapshot's file: pages are read from there when they are touched, and this
 * process's own once they were written; nobody else can have the same memory (no fd). */
#define SLOT_PRIVATE   BIT(2)
/* A file of the user's: what the guest writes is in it, and nothing is ever taken out of it. */
#define SLOT_FILE      BIT(3)

struct slot {
    gpa_t base;
    uint64_t bytes;
    unsigned flags; /* SLOT_* */
    int fd;         /* memfd behind it; owned by the mmu. -1: SLOT_PRIVATE */
    uint64_t fd_off_bytes;
    struct slot *of; /* an alias: whose memory this is. NULL: its own */
    int image_fd;    /* SLOT_PRIVATE: the file, to be asked where it has data; owned by the mmu. -1:
                        there is none, pages are brought */
    uint64_t image_off_bytes;
    uint8_t *hva;            /* shared mapping of all of it in this process */
    _Atomic uint16_t *notes; /* bytes / 4096 entries: PAGE_NOTE_*, and who writes */
    const char *name;
};

/* Told when a page noted as code was written by someone other than an engine (DMA, a debugger, a
 * loader). Any thread, slots_lock held. */
struct code_listener {
    void (*written)(struct code_listener *l, gpa_t at, uint64_t bytes);
    bool every_page; /* told of all such writes, code or not */
    struct code_listener *next;
};

struct mmu;

/* NULL and a message when memory is short. */
struct mmu *mmu_create(void);
void mmu_destroy(struct mmu *m);

struct slot_desc {
    const char *name;
    gpa_t base;
    uint64_t bytes; /* both multiples of 4096 */
    unsigned flags;
    int file; /* with SLOT_FILE: that long at least, for reading and writing; the caller's */
};
/*
 * From now on slots are not made of fresh memory, but of a snapshot's: `find` says where in the
 * file that of a name is. -ENOENT: not there, it is made fresh. The file is mapped, so it must not
 * become shorter; fd stays the caller's. NULL: fresh memory again.
 */
struct mmu_image {
    int fd; /* -1: there is no file, but ... */
    int (*find)(void *ctx, const char *name, uint64_t bytes, uint64_t *off_bytes);
    /* ... somebody who puts the pages there when they are touched. Is told of memory that is new,
     * and of its place in the file that would be; 0 or -errno. */
    int (*bring)(void *ctx, void *at, uint64_t bytes, uint64_t off_bytes);
    void *ctx;
};
void mmu_set_image(struct mmu *m, const struct mmu_image *image);

/* Makes and maps fresh zeroed memory. -EEXIST on overlap, -ENOMEM. The slot pointer stays good
 * until the slot is removed. */
int mmu_slot_add(struct mmu *m, const struct slot_desc *d, struct slot **out) MUST_CHECK;
void mmu_slot_remove(struct mmu *m, struct slot *s);
/* Behind all that a page table can name: where a slot is while it is nowhere. */
#define MMU_PARKED_AT (1ull << 52)
/* To another address. All vCPUs stand still, and what they derived from the old one is dropped
 * behind. -EEXIST, and nothing has changed, if another slot is there. */
int mmu_slot_move(struct mmu *m, struct slot *s, gpa_t base) MUST_CHECK;
/*
 * Shows d->bytes of the slot `of`, from off_bytes on, at d->base; SLOT_RO: for reading alone. Notes
 * of RAM are the same at both places (but the code that engines have noted is forgotten), so it is
 * seen at one at a time: the other one is parked. Removed as any slot, before the one that it is
 * of. All vCPUs stand still; behind the change mmu_code_moved(), and what engines derived is
 * dropped. Errors as of mmu_slot_add().
 */
int mmu_alias_add(struct mmu *m, struct slot *of, uint64_t off_bytes, const struct slot_desc *d,
                  struct slot **out) MUST_CHECK;
/*
 * The same of several at once, in place of nr_old aliases, which are removed: at no moment is there
 * neither one nor the other for a device that writes meanwhile. slots: the old ones; then the new,
 * as many as *nr_slots says (fewer than asked for only after an error, when none may be left).
 */
#define MMU_ALIASES_MAX 8u
struct alias_desc {
    struct slot_desc slot;
    uint64_t off_bytes;
};
int mmu_alias_replace(struct mmu *m, struct slot *of, const struct alias_desc *aliases, unsigned nr,
                      struct slot **slots, unsigned *nr_slots) MUST_CHECK;
/* Other bytes are in this range than before, whatever the notes say. */
void mmu_code_moved(struct mmu *m, gpa_t at, uint64_t bytes);
/* The slot that holds `at`, or NULL. */
struct slot *mmu_slot_find(struct mmu *m, gpa_t at);
/* Grows with every change of the list. Any thread. */
uint64_t mmu_slots_gen(struct mmu *m);
/* Slots by ascending base, idx = 0...; NULL behind the last. */
struct slot *mmu_slot_at(struct mmu *m, unsigned idx);

static inline uint64_t slot_page(const struct slot *s, gpa_t at)
{
    return (at.v - s->base.v) >> PAGE_SHIFT;
}

static inline uint8_t *slot_hva(const struct slot *s, gpa_t at)
{
    return s->hva + (at.v - s->base.v);
}

/*
 * Copy from or to guest-physical memory, over slot borders. For loaders, debuggers, and behind the
 * DMA handle. Returns bytes copied: fewer than asked when the range leaves RAM. Writes to ROM are
 * made (loaders fill ROM); writes note dirty pages and tell the code listeners.
 */
uint64_t mmu_read(struct mmu *m, gpa_t at, void *buf, uint64_t bytes);
uint64_t mmu_write(struct mmu *m, gpa_t at, const void *buf, uint64_t bytes);

/*
 * Gives memory back to the host: the whole pages of RAM in that range are zeroes from now on, and
 * cost nothing until they are touched. Returns how many bytes they were; what is no RAM is left
 * out, and so is what the host does not take back.
 */
uint64_t mmu_discard(struct mmu *m, gpa_t at, uint64_t bytes);

/*
 * The dirty log. mmu_log_start() begins it anew: no page is PAGE_NOTE_DIRTY afterwards; all vCPUs
 * stand still, and what they derived is dropped behind, for a translation with the right to write
 * would not be seen again. From then on a page that may have been written has the note.
 */
void mmu_log_start(struct mmu *m);
/* Was the page at `at` of s, which logs, written since? */
bool slot_page_dirty(const struct slot *s, uint64_t page);
/* The next run of whole pages, from off_bytes on, of which it is not known that they are zero.
 * False: there is none. */
bool slot_data_next(const struct slot *s, uint64_t off_bytes, uint64_t *start, uint64_t *end);
/*
 * Private slots become shared memory of their own, at the same hva: what engines need that run
 * guest code in other processes. All vCPUs stand still, no device has requests under way, and what
 * was derived is dropped behind. -ENOMEM or another -errno: they are as they were.
 */
int mmu_make_shared(struct mmu *m) MUST_CHECK;
bool mmu_has_private(struct mmu *m);

void mmu_listen(struct mmu *m, struct code_listener *l);
void mmu_unlisten(struct mmu *m, struct code_listener *l);
/* Note a write made through an hva: dirty bits and listeners. */
void mmu_written(struct mmu *m, gpa_t at, uint64_t bytes);

/*
 * The handle by which one device reaches guest memory; later an IOMMU's domain stands behind it.
 * Reads outside RAM give all ones, writes outside RAM and to ROM are dropped; both return -EFAULT
 * then, else 0.
 */
struct dma {
    struct mmu *mmu;
};
int dma_read(struct dma *d, gpa_t at, void *buf, uint64_t bytes) MUST_CHECK;
int dma_write(struct dma *d, gpa_t at, const void *buf, uint64_t bytes) MUST_CHECK;

/*
 * Where in this process RAM at `at` is, for devices that read or write it in place, and how many of
 * the *bytes wanted are there in one piece. NULL: there is no memory, or, to write, only ROM. Good
 * until the slot is removed. Who wrote calls mmu_written() behind it.
 */
enum mmu_use { MMU_TO_READ, MMU_TO_WRITE };
uint8_t *mmu_map(struct mmu *m, gpa_t at, uint64_t *bytes, enum mmu_use use);

#endif
