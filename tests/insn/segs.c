/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The segments of the child and of the guest: Linux's GDT as a user sees it, and a local descriptor
 * table that the child gets by modify_ldt(2) and the guest has in its memory.
 */
#include "insn.h"

/* Offsets of 64 KB that hold the code and the data areas in their midst. */
#define HIGH_OFF   0xd000u
#define DATA16_OFF 0x4000u

const struct ldt_entry ldt_entries[NR_LDT] = {
    [LDT_CODE16] = { .base = CODE_AT, .limit = CODE_BYTES - 1, .contents = 2 },
    [LDT_CODE16_HIGH] = { .base = CODE_AT - HIGH_OFF,
                          .limit = 0xffff,
                          .contents = 2,
                          .no_write = true },
    [LDT_CODE32] = { .base = CODE_AT - 0x1000,
                     .limit = 0x1000 + CODE_BYTES - 9,
                     .contents = 2,
                     .is_32 = true },
    [LDT_DATA16] = { .base = DATA_AT - DATA16_OFF, .limit = 0xffff },
    [LDT_DATA16_SHORT] = { .base = DATA_AT + 3, .limit = 0x17fa },
    [LDT_DATA32_SHORT] = { .base = DATA_AT - 0x10, .limit = 0x1804, .is_32 = true },
    [LDT_DOWN16] = { .base = DATA_AT - DATA16_OFF, .limit = 0x47ff, .contents = 1 },
    [LDT_DOWN32] = { .base = DATA_AT - 0x1000, .limit = 0x17ff, .contents = 1, .is_32 = true },
    [LDT_READ_ONLY] = { .base = DATA_AT, .limit = 3, .no_write = true, .in_pages = true },
    [LDT_BIG] = { .base = DATA_AT + 0x100, .limit = 0xfffff, .is_32 = true, .in_pages = true },
    [LDT_ABSENT_DATA] = { .base = DATA_AT, .limit = 0xffff, .absent = true },
    [LDT_ABSENT_CODE] = { .base = CODE_AT,
                          .limit = 0xffff,
                          .contents = 2,
                          .is_32 = true,
                          .absent = true },
    [LDT_ABSENT_CONFORMING] = { .base = CODE_AT, .limit = 0xffff, .contents = 3, .absent = true },
};

/* Data segments, the first ones more often than the others. */
static const enum ldt_idx ldt_data[] = {
    LDT_DATA16,       LDT_DATA16,       LDT_DATA16, LDT_BIG,    LDT_BIG,
    LDT_DATA16_SHORT, LDT_DATA32_SHORT, LDT_DOWN16, LDT_DOWN32, LDT_READ_ONLY,
};
static const enum ldt_idx ldt_stack[] = {
    LDT_DATA16, LDT_DATA16, LDT_BIG, LDT_DATA16_SHORT, LDT_DATA32_SHORT, LDT_DOWN16, LDT_DOWN32,
};

/* What of Linux's GDT has DPL 3. The rest cannot be told from an empty entry at CPL 3, but for the
 * one the guest's handlers run in. */
uint64_t gdt_descriptor(unsigned idx)
{
    switch (idx * 8) {
    case 0x10:
        return 0x00af9b000000ffffull;
    case SEL_USER32_CS & ~7u:
        return 0x00cffb000000ffffull;
    case SEL_USER_DS & ~7u:
        return 0x00cff3000000ffffull;
    case SEL_USER64_CS & ~7u:
        return 0x00affb000000ffffull;
    case SEL_CPU_NODE & ~7u: /* the limit is the host CPU's number */
        return 0x0040f50000000000ull;
    default:
        return 0;
    }
}

/* As Linux makes it of a struct user_desc: DPL 3, accessed. */
uint64_t ldt_descriptor(enum ldt_idx idx)
{
    const struct ldt_entry *e = &ldt_entries[idx];
    uint64_t access =
        0x71u | (uint64_t)e->contents << 2 | (e->no_write ? 0 : 2u) | (e->absent ? 0 : 0x80u);
    uint64_t flags = (e->in_pages ? 8u : 0) | (e->is_32 ? 4u : 0);

    return (e->limit & 0xffff) | (uint64_t)(e->base & 0xffffff) << 16 | access << 40 |
           (uint64_t)(e->limit >> 16) << 48 | flags << 52 | (uint64_t)(e->base >> 24) << 56;
}

static uint64_t descriptor_of(uint16_t sel)
{
    unsigned idx = sel >> 3;

    if (sel & 4)
        return idx < NR_LDT ? ldt_descriptor((enum ldt_idx)idx) : 0;
    return idx < GDT_ENTRIES ? gdt_descriptor(idx) : 0;
}

struct seg seg_of(uint16_t sel)
{
    uint64_t d = descriptor_of(sel);
    uint32_t limit = (uint32_t)((d & 0xffff) | (d >> 32 & 0xf0000));

    if (!(sel & ~3u))
        return (struct seg){ .sel = sel, .attr = SEG_UNUSABLE };
    return (struct seg){ .base = (d >> 16 & 0xffffff) | (d >> 32 & 0xff000000),
                         .limit = d >> 55 & 1 ? limit << 12 | 0xfff : limit,
                         .attr = (uint32_t)(d >> 40) & 0xf0ff,
                         .sel = sel };
}

uint64_t seg_linear(const struct insn_case *k, enum seg_id s, uint64_t off)
{
    uint64_t base = seg_of(k->in.sel[s]).base;

    if (s == SEG_FS || s == SEG_GS)
        base = s == SEG_FS ? k->in.fs_base : k->in.gs_base;
    else if (k->mode == CODE64)
        base = 0;
    return k->mode == CODE64 ? base + off : (uint32_t)(base + off);
}

uint16_t random_data_sel(struct rng *r, enum code_mode mode)
{
    if (!pick(r, 16) || (mode == CODE64 && pick(r, 2)))
        return 0; /* the kernel's IRET makes 0 of the other null selectors */
    if (pick(r, 8) < (mode == CODE16 ? 2u : 5u))
        return SEL_USER_DS;
    return ldt_sel(ldt_data[pick(r, ARRAY_SIZE(ldt_data))]);
}

uint16_t random_stack_sel(struct rng *r, enum code_mode mode)
{
    if (mode == CODE64 || pick(r, 8) < (mode == CODE16 ? 1u : 5u))
        return SEL_USER_DS;
    return ldt_sel(ldt_stack[pick(r, ARRAY_SIZE(ldt_stack))]);
}

uint16_t random_code_sel(struct rng *r, enum code_mode mode)
{
    switch (mode) {
    case CODE64:
        return SEL_USER64_CS;
    case CODE32:
        return pick(r, 3) ? SEL_USER32_CS : ldt_sel(LDT_CODE32);
    default:
        return ldt_sel(pick(r, 3) ? LDT_CODE16 : LDT_CODE16_HIGH);
    }
}

uint16_t random_sel(struct rng *r)
{
    switch (pick(r, 8)) {
    case 0:
        return (uint16_t)rnd(r);
    case 1:
        return (uint16_t)pick(r, 8 * (GDT_ENTRIES + 1));
    case 2:
        return (uint16_t)pick(r, 8 * (NR_LDT + 1)) | 4;
    case 3:
        return (uint16_t)(SEL_USER32_CS + 8 * pick(r, 3));
    default: /* RPL 3, as it must be for SS and CS */
        return (uint16_t)pick(r, 8 * NR_LDT) | 7;
    }
}
