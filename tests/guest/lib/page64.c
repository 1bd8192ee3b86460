/* SPDX-License-Identifier: Apache-2.0 */
/* Page tables of long-mode guests. */
#include "guest.h"

#define NR_TABLES 64
static uint64_t tables[NR_TABLES][512] PAGE_ALIGNED;

uint64_t *page_table(void)
{
    static unsigned next;

    if (next == NR_TABLES) {
        expect(HERE, false, "page tables left");
        guest_end();
    }
    return tables[next++];
}

uint64_t *page_entry(uint64_t va, unsigned level)
{
    uint64_t *table = pml4;

    for (unsigned l = 4;; l--) {
        uint64_t *e = &table[va >> (3 + 9 * l) & 511];

        if (l == level)
            return e;
        if (!(*e & PTE_P))
            *e = (word_t)page_table() | PTE_P | PTE_W | PTE_U;
        table = (uint64_t *)(*e & 0xffffffffff000);
    }
}

void page_set(uint64_t va, unsigned level, uint64_t entry)
{
    *page_entry(va, level) = entry;
    flush_tlb();
}
