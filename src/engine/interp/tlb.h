/* SPDX-License-Identifier: Apache-2.0 */
/* What tlb.c and core_ops.c share: the way from a linear address to memory or a device. */
#ifndef ENGINE_INTERP_TLB_H
#define ENGINE_INTERP_TLB_H

#include <string.h>

#include "engine/interp/handlers.h"

/* A piece of an access that lies in one page. */
struct span {
    uint8_t *hva; /* NULL: not RAM, ask the platform */
    gpa_t at;
    struct slot *slot; /* NULL: found in the TLB, where no page with code has a write tag */
    bool code;         /* slot and a write: the page holds code */
};

/* A copy of any size, of the common ones in one move, as other vCPUs may expect of an aligned word
 * (SDM 3, "Guaranteed Atomic Operations"). */
static ALWAYS_INLINE void copy_words(void *to, const void *from, unsigned bytes)
{
    switch (bytes) {
    case 1:
        memcpy(to, from, 1);
        break;
    case 2:
        memcpy(to, from, 2);
        break;
    case 4:
        memcpy(to, from, 4);
        break;
    case 8:
        memcpy(to, from, 8);
        break;
    default:
        memcpy(to, from, bytes);
        break;
    }
}

enum tlb_view tlb_view_of(const struct cpu *c, unsigned acc);
/* Finds one page's piece; walks and fills when needed. */
enum step span_find(struct ivcpu *v, uint64_t lin, unsigned acc, struct span *s);
/* Watchpoints: STEP_ALONE if the instruction has to run by itself first. probe: nothing is noted.
 */
enum step watch_access(struct ivcpu *v, uint64_t lin, unsigned bytes, unsigned acc, bool probe);
/* Of the present address space; what other PCIDs' left is pcid.c's. */
void tlb_flush_nonglobal(struct ivcpu *v);
/* Has entry i any right? */
bool tlb_entry_live(const struct tlb *t, unsigned i);
/* The tag that nothing matches. */
uint64_t tlb_no_ntag(unsigned i);
/* Notes that entry i was filled as not global. */
void tlb_list_local(struct tlb *t, unsigned i);

/* ---- pcid.c ---- */
/* Before and after MOV to CR3 under CR4.PCIDE: entries of the PCID that is left are put aside,
 * those of the present one come back. */
void pcid_leave(struct ivcpu *v);
void pcid_enter(struct ivcpu *v);
/* What was put aside for one, or for all. */
void pcid_forget(struct ivcpu *v, uint16_t pcid);
void pcid_forget_all(struct ivcpu *v);
/* Entries are 4 KB; those cut from a larger page all go with it. */
void tlb_flush_page(struct ivcpu *v, uint64_t lin);
/* Devices and the local APIC's page, 1, 2, 4 or 8 bytes. */
uint64_t interp_mmio_read(struct ivcpu *v, gpa_t at, unsigned bytes);
void interp_mmio_write(struct ivcpu *v, gpa_t at, unsigned bytes, uint64_t val);

#endif
