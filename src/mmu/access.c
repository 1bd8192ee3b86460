/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copies from and to guest-physical memory, and what a write must tell: the dirty log and the
 * engines that hold code of the page. Used by loaders, debuggers and, through the DMA handle, by
 * devices; engines use hvas and their own notes.
 */
#include "mmu/mmu.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "mmu/priv.h"

/*
 * Guests poll words that devices write (ring indexes) and the other way round: a naturally aligned
 * word must be moved in one piece. memcpy() does not promise that.
 */
void mmu_copy(void *to, const void *from, uint64_t bytes)
{
    uintptr_t low = (uintptr_t)to | (uintptr_t)from;

    if (bytes == 8 && !(low & 7))
        *(volatile uint64_t *)to = *(const volatile uint64_t *)from;
    else if (bytes == 4 && !(low & 3))
        *(volatile uint32_t *)to = *(const volatile uint32_t *)from;
    else if (bytes == 2 && !(low & 1))
        *(volatile uint16_t *)to = *(const volatile uint16_t *)from;
    else
        memcpy(to, from, bytes);
}

static uint64_t page_run(gpa_t at, uint64_t bytes)
{
    return MIN(bytes, PAGE_BYTES - (at.v & ~PAGE_MASK));
}

/* Dirty bits and listeners for a range inside one slot. */
void mmu_slot_written(struct mmu *m, struct slot *s, gpa_t at, uint64_t bytes)
{
    /*
     * The bytes were written before, the notes are read now. Pairs with the fence between an
     * engine's setting of PAGE_NOTE_CODE and its reading of the code: either it reads our bytes, or
     * we see its note.
     */
    atomic_thread_fence(memory_order_seq_cst);
    for (uint64_t done = 0, n; done < bytes; done += n) {
        _Atomic uint16_t *note = &s->notes[slot_page(s, gpa_add(at, done))];
        bool is_code;

        n = page_run(gpa_add(at, done), bytes - done);
        if (s->flags & SLOT_LOG_DIRTY)
            /* Release: who reads the log and sees the bit sees the bytes too. */
            (void)atomic_fetch_or_explicit(note, PAGE_NOTE_DIRTY, memory_order_release);
        is_code =
            atomic_load_explicit(note, memory_order_relaxed) & (PAGE_NOTE_CODE | PAGE_NOTE_FLUID);
        for (struct code_listener *l = m->listeners; l; l = l->next)
            if (is_code || l->every_page)
                l->written(l, gpa_add(at, done), n);
    }
}

uint64_t mmu_read(struct mmu *m, gpa_t at, void *buf, uint64_t bytes)
{
    uint64_t done = 0;

    lock_take(&m->slots_lock);
    while (done < bytes) {
        const struct slot *s = mmu_slot_find(m, gpa_add(at, done));
        uint64_t n;

        if (!s)
            break;
        n = slot_run(s, gpa_add(at, done), bytes - done);
        mmu_copy((uint8_t *)buf + done, slot_hva(s, gpa_add(at, done)), n);
        done += n;
    }
    lock_drop(&m->slots_lock);
    return done;
}

uint64_t mmu_write(struct mmu *m, gpa_t at, const void *buf, uint64_t bytes)
{
    uint64_t done = 0;

    lock_take(&m->slots_lock);
    while (done < bytes) {
        struct slot *s = mmu_slot_find(m, gpa_add(at, done));
        uint64_t n;

        if (!s)
            break;
        n = slot_run(s, gpa_add(at, done), bytes - done);
        mmu_copy(slot_hva(s, gpa_add(at, done)), (const uint8_t *)buf + done, n);
        mmu_slot_written(m, s, gpa_add(at, done), n);
        done += n;
    }
    lock_drop(&m->slots_lock);
    return done;
}

void mmu_written(struct mmu *m, gpa_t at, uint64_t bytes)
{
    lock_take(&m->slots_lock);
    for (uint64_t done = 0, n; done < bytes; done += n) {
        struct slot *s = mmu_slot_find(m, gpa_add(at, done));

        if (!s)
            break;
        n = slot_run(s, gpa_add(at, done), bytes - done);
        mmu_slot_written(m, s, gpa_add(at, done), n);
    }
    lock_drop(&m->slots_lock);
}

static int slot_discard(struct slot *s, uint64_t off_bytes, uint64_t bytes)
{
    if (s->flags & SLOT_PRIVATE)
        return slot_zero_private(s, off_bytes, bytes);
    return host_punch(s->fd, s->fd_off_bytes + off_bytes, bytes);
}

/* A guest can name any range, but only what is in slots costs time. */
uint64_t mmu_discard(struct mmu *m, gpa_t at, uint64_t bytes)
{
    uint64_t end = align_down(at.v + MIN(bytes, UINT64_MAX - at.v), PAGE_BYTES), done = 0;
    struct slot *s;

    lock_take(&m->slots_lock);
    for (unsigned i = 0; (s = mmu_slot_at(m, i)); i++) {
        uint64_t from = MAX(s->base.v, align_up(MIN(at.v, end), PAGE_BYTES));
        uint64_t to = MIN(s->base.v + s->bytes, end);

        if (from >= to || s->flags & (SLOT_RO | SLOT_FILE))
            continue;
        if (slot_discard(s, from - s->base.v, to - from) < 0)
            continue;
        mmu_slot_written(m, s, GPA(from), to - from);
        done += to - from;
    }
    lock_drop(&m->slots_lock);
    return done;
}

void mmu_listen(struct mmu *m, struct code_listener *l)
{
    lock_take(&m->slots_lock);
    l->next = m->listeners;
    m->listeners = l;
    lock_drop(&m->slots_lock);
}

void mmu_unlisten(struct mmu *m, struct code_listener *l)
{
    lock_take(&m->slots_lock);
    for (struct code_listener **at = &m->listeners; *at; at = &(*at)->next)
        if (*at == l) {
            *at = l->next;
            break;
        }
    lock_drop(&m->slots_lock);
}
