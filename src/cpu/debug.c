/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Debug registers: MOV to and from them, and which of the breakpoints in them an access hits
 * (SDM 3, "Debug Registers").
 */
#include "cpu/cpu.h"

/* B0..B3, BD, BS, BT can be written; the rest of DR6 is fixed. */
#define DR6_WRITABLE 0xe00full
/* L0..G3, LE, GE, GD, and the four R/W and LEN fields. */
#define DR7_WRITABLE 0xffff23ffull

enum bp_kind { BP_EXEC, BP_WRITE, BP_IO, BP_ACCESS };

static bool bp_enabled(const struct cpu *c, unsigned i)
{
    return c->dr7 >> (2 * i) & 3; /* locally or globally */
}

static enum bp_kind bp_kind(const struct cpu *c, unsigned i)
{
    return c->dr7 >> (16 + 4 * i) & 3;
}

static unsigned bp_bytes(const struct cpu *c, unsigned i)
{
    static const uint8_t bytes[] = { 1, 2, 8, 4 };

    return bytes[c->dr7 >> (18 + 4 * i) & 3];
}

/* Does breakpoint i, whose address is aligned to its length, overlap these bytes? */
static bool bp_overlaps(const struct cpu *c, unsigned i, uint64_t at, unsigned bytes)
{
    unsigned len = bp_bytes(c, i);
    uint64_t lo = align_down(c->dr[i], len);

    /* By differences, so that it holds at the end of the address space. */
    return at - lo < len || lo - at < bytes;
}

uint64_t cpu_match_bp(const struct cpu *c, gva_t at, unsigned bytes, unsigned acc)
{
    uint64_t hit = 0;

    for (unsigned i = 0; i < 4; i++) {
        enum bp_kind kind = bp_kind(c, i);
        bool match;

        if (!bp_enabled(c, i))
            continue;
        if (acc & ACC_EXEC)
            match = kind == BP_EXEC && c->dr[i] == at.v;
        else
            match = (kind == BP_ACCESS || (kind == BP_WRITE && (acc & ACC_WRITE))) &&
                    bp_overlaps(c, i, at.v, bytes);
        if (match)
            hit |= DR6_B0 << i;
    }
    return hit;
}

/* SDM 3, "Debug Control Register (DR7)": R/W = 10b is I/O only with CR4.DE, else undefined. */
uint64_t cpu_match_io_bp(const struct cpu *c, uint16_t port, unsigned bytes)
{
    uint64_t hit = 0;

    if (!(c->cr4 & CR4_DE))
        return 0;
    for (unsigned i = 0; i < 4; i++)
        if (bp_enabled(c, i) && bp_kind(c, i) == BP_IO && bp_overlaps(c, i, port, bytes))
            hit |= DR6_B0 << i;
    return hit;
}

bool cpu_bp_in_page(const struct cpu *c, gva_t page, bool exec)
{
    for (unsigned i = 0; i < 4; i++) {
        enum bp_kind kind = bp_kind(c, i);

        if (!bp_enabled(c, i) || kind == BP_IO || (kind == BP_EXEC) != exec)
            continue;
        if (align_down(c->dr[i], PAGE_BYTES) == align_down(page.v, PAGE_BYTES))
            return true;
    }
    return false;
}

/* What MOV to and from debug registers have in common; *dr becomes 6 or 7 for 4 and 5. */
static enum step check_mov(struct cpu *c, unsigned *dr)
{
    if (*dr > 7)
        return raise_ud(c);
    if (c->cpl != 0)
        return raise_gp(c, 0);
    /* SDM 3, "Debug Registers DR4 and DR5" */
    if (*dr == 4 || *dr == 5) {
        if (c->cr4 & CR4_DE)
            return raise_ud(c);
        *dr += 2;
    }
    /* General detect. Delivery of #DB clears GD, so that the handler can use the registers. */
    if (c->dr7 & DR7_GD)
        return raise_db(c, DR6_BD);
    return STEP_NEXT;
}

enum step cpu_mov_to_dr(struct cpu *c, unsigned dr, uint64_t val)
{
    enum step st = check_mov(c, &dr);

    if (st != STEP_NEXT)
        return st;
    if (!in_long64(c))
        val = (uint32_t)val;
    if (dr >= 6 && val >> 32)
        return raise_gp(c, 0);
    if (dr == 6) {
        c->dr6 = (val & DR6_WRITABLE) | DR6_FIXED1;
        return STEP_NEXT;
    }
    if (dr == 7)
        c->dr7 = (val & DR7_WRITABLE) | DR7_FIXED1;
    else
        c->dr[dr] = val;
    c->ops->debug_changed(c);
    return STEP_NEXT;
}

enum step cpu_mov_from_dr(struct cpu *c, unsigned dr, uint64_t *val)
{
    enum step st = check_mov(c, &dr);

    if (st != STEP_NEXT)
        return st;
    *val = dr == 6 ? c->dr6 : dr == 7 ? c->dr7 : c->dr[dr];
    return STEP_NEXT;
}
