/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of mmu/ share and nobody else sees. */
#ifndef MMU_PRIV_H
#define MMU_PRIV_H

#include "host/host.h"
#include "mmu/mmu.h"

/* RAM below and above the hole, ROMs, video memory; a machine with hot-plug has some dozens. */
#define MMU_SLOTS_MAX 256

struct mmu {
    struct lock slots_lock;
    struct slot *slots[MMU_SLOTS_MAX]; /* sorted by base; guarded by slots_lock as mmu.h says */
    unsigned nr_slots;                 /* the same */
    _Atomic uint64_t gen;              /* counts changes of both */
    struct code_listener *listeners;   /* guarded by slots_lock */
    const struct mmu_image *image;     /* NULL: none; while the machine is built */
};

/* Bytes from `at` to the end of its slot, but not more than wanted. */
static inline uint64_t slot_run(const struct slot *s, gpa_t at, uint64_t bytes)
{
    return MIN(bytes, s->bytes - (at.v - s->base.v));
}

/* slots.c: are they whole pages? 0, or -EINVAL and a message. */
int slot_check(const struct slot_desc *d);
/* Into the list; slots_lock is held. -EEXIST or -ENOSPC after a message. */
int slot_insert(struct mmu *m, struct slot *s);
void slot_take_out(struct mmu *m, const struct slot *s);

/* alias.c: all but its place in the list. */
void alias_free(struct slot *s);
/* The slot that it is of may have got other memory; slots_lock is held. */
void alias_refresh(struct slot *s);

/* image.c: maps the slot from the image. -ENOENT: it is not there. */
int slot_map_image(const struct mmu_image *image, struct slot *s);
/* Whole pages of a private slot are zeroes from now on. 0 or -errno. */
int slot_zero_private(struct slot *s, uint64_t off_bytes, uint64_t bytes);

/* A copy in which naturally aligned words are moved in one piece. */
void mmu_copy(void *to, const void *from, uint64_t bytes);
/* Dirty bits and listeners for a range inside one slot; slots_lock is held. */
void mmu_slot_written(struct mmu *m, struct slot *s, gpa_t at, uint64_t bytes);

#endif
