/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Events through the real-address-mode interrupt vector table: in real mode (SDM 3, "Interrupt and
 * Exception Handling" of "8086 Emulation"), and INT n in v8086 mode that VME redirects to the 8086
 * program's own table (the same chapter, "Class 3 - Software Interrupt Handling").
 */
#include "cpu/desc.h"

#define IVT_ENTRY_BYTES 4u
#define TSS_IO_BASE     102u
#define TSS_MIN_LIMIT   103u
#define REDIRECT_BYTES  32u

/* Pushes flags and CS:IP, and goes where the entry at `at` says. Flags in `clear` are cleared. */
static enum step through_ivt(struct cpu *c, gva_t at, uint64_t flags, uint64_t rip, uint64_t clear)
{
    uint64_t frame[] = { flags, c->seg[SEG_CS].sel, rip };
    struct stack st = stack_current(c);
    uint16_t entry[2]; /* IP, CS */
    enum step res = c->ops->read(c, at, entry, sizeof(entry), ACC_IMPLICIT);

    if (res == STEP_NEXT)
        res = stack_push(c, &st, frame, ARRAY_SIZE(frame), 2);
    if (res != STEP_NEXT)
        return res;
    c->gpr[RSP] = stack_rsp(c, &st, false);
    c->rflags &= ~clear;
    cpu_load_seg_real(c, SEG_CS, entry[1]);
    c->rip = entry[0];
    cpu_update_mode(c);
    return STEP_NEXT;
}

enum step real_int(struct cpu *c, const struct event *e, uint64_t rip)
{
    uint32_t off = e->vector * IVT_ENTRY_BYTES;

    if (off + IVT_ENTRY_BYTES - 1 > c->idtr.limit)
        return raise_gp(c, e->vector * 8u | ERR_IDT | ext_err(c));
    return through_ivt(c, GVA((uint32_t)(c->idtr.base + off)), c->rflags, rip,
                       RFLAGS_IF | RFLAGS_TF | RFLAGS_AC | RFLAGS_RF);
}

/* The software interrupt redirection bit map: 32 bytes below the I/O permission bit map. */
static enum step is_redirected(struct cpu *c, uint8_t vector, bool *yes)
{
    unsigned type = attr_type(c->tr.attr);
    uint16_t base = 0;
    uint8_t map = 0;
    uint32_t off;
    enum step st;

    if ((type != SYS_TSS_BUSY && type != SYS_TSS_AVAIL) || c->tr.limit < TSS_MIN_LIMIT)
        return raise_gp(c, 0);
    st = c->ops->read(c, gva_add(GVA(c->tr.base), TSS_IO_BASE), &base, 2, ACC_IMPLICIT);
    if (st != STEP_NEXT)
        return st;
    if (base < REDIRECT_BYTES)
        return raise_gp(c, 0);
    off = base - REDIRECT_BYTES + vector / 8u;
    if (off > c->tr.limit)
        return raise_gp(c, 0);
    st = c->ops->read(c, gva_add(GVA(c->tr.base), off), &map, 1, ACC_IMPLICIT);
    *yes = !(map >> (vector % 8) & 1);
    return st;
}

enum step vm86_int(struct cpu *c, uint8_t vector, bool *done)
{
    uint64_t flags = c->rflags, clear = RFLAGS_TF | RFLAGS_RF;
    enum step st;

    *done = false;
    if (c->cr4 & CR4_VME) {
        st = is_redirected(c, vector, done);
        if (st != STEP_NEXT)
            return st;
    }
    if (!*done)
        return iopl(c) < 3 ? raise_gp(c, 0) : STEP_NEXT;
    if (iopl(c) == 3) {
        clear |= RFLAGS_IF;
    } else { /* the program sees VIF as its IF, and may do what IOPL 3 lets it do */
        flags = (flags & ~(uint64_t)RFLAGS_IF) | RFLAGS_IOPL;
        flags |= c->rflags & RFLAGS_VIF ? RFLAGS_IF : 0;
        clear |= RFLAGS_VIF;
    }
    return through_ivt(c, GVA(vector * IVT_ENTRY_BYTES), flags, c->next_rip, clear);
}
