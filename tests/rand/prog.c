/* SPDX-License-Identifier: Apache-2.0 */
/* From items to bytes, and to text. */
#include "prog.h"

#include <Zydis/Zydis.h>
#include <stdio.h>
#include <string.h>

static unsigned item_bytes(const struct item *it)
{
    static const unsigned near_bytes[] = { [BRANCH_CC] = 6, [BRANCH_JMP] = 5, [BRANCH_CALL] = 5 };

    if (it->dead)
        return 0;
    if (it->branch == NO_BRANCH)
        return it->len;
    return it->is_short ? 2 : near_bytes[it->branch];
}

static void put32(uint8_t *at, uint64_t x)
{
    uint32_t v = (uint32_t)x;

    memcpy(at, &v, 4);
}

static void emit_branch(const struct prog *p, const struct item *it, unsigned at, uint8_t *to)
{
    unsigned n = item_bytes(it);
    uint32_t dist = p->at[it->target] - (at + n);

    if (it->is_short) {
        *to++ = it->branch == BRANCH_CC ? 0x70 | it->cc : 0xeb;
        *to = (uint8_t)dist;
        return;
    }
    if (it->branch == BRANCH_CC) {
        *to++ = 0x0f;
        *to++ = 0x80 | it->cc;
    } else {
        *to++ = it->branch == BRANCH_JMP ? 0xe9 : 0xe8;
    }
    put32(to, dist);
}

static void emit(struct prog *p, const struct item *it, unsigned at)
{
    uint8_t *to = p->bytes + p->code_off + at;

    if (it->dead)
        return;
    if (it->branch != NO_BRANCH) {
        emit_branch(p, it, at, to);
        return;
    }
    memcpy(to, it->code, it->len);
    for (unsigned i = 0; i < it->nr_fixes; i++) {
        const struct fix *f = &it->fix[i];
        uint64_t target = p->at[f->target];

        put32(to + f->off,
              f->absolute ? CODE_AT + p->code_off + target : target - (at + f->off + 4));
    }
}

static unsigned place(struct prog *p)
{
    unsigned at = 0;

    for (int i = 0; i <= p->nr; i++) {
        p->at[i] = at;
        if (i < p->nr)
            at += item_bytes(&p->items[i]);
    }
    return at;
}

bool prog_layout(struct prog *p)
{
    for (int i = 0; i < p->nr; i++)
        p->items[i].is_short = false;
    (void)place(p);
    /* What is near enough with long branches between is so with short ones. */
    for (int i = 0; i < p->nr; i++) {
        struct item *it = &p->items[i];
        int64_t dist;

        if (it->branch == NO_BRANCH || it->branch == BRANCH_CALL)
            continue;
        dist = (int64_t)p->at[it->target] - p->at[i];
        it->is_short = dist > -120 && dist < 120;
    }
    p->len = place(p);
    if (p->len > PROG_BYTES - p->code_off)
        return false;
    memset(p->bytes, 0xcc, sizeof(p->bytes)); /* who gets lost ends */
    for (int i = 0; i < p->nr; i++)
        emit(p, &p->items[i], p->at[i]);
    return true;
}

void prog_print(const struct prog *p)
{
    for (int i = 0; i < p->nr; i++) {
        const struct item *it = &p->items[i];
        unsigned at = p->at[i], end = p->at[i + 1];

        while (at < end) {
            uint64_t rip = CODE_AT + p->code_off + at;
            ZydisDisassembledInstruction in;
            ZydisMachineMode mode =
                it->code32 ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32 : ZYDIS_MACHINE_MODE_LONG_64;

            if (!ZYAN_SUCCESS(
                    ZydisDisassembleATT(mode, rip, p->bytes + p->code_off + at, end - at, &in))) {
                printf("#   %lx: .byte %#x\n", rip, p->bytes[p->code_off + at++]);
                continue;
            }
            printf("#   %lx:", rip);
            for (unsigned k = 0; k < in.info.length; k++)
                printf(" %02x", p->bytes[p->code_off + at + k]);
            printf("%*s %s\n", in.info.length < 11 ? 3 * (11 - in.info.length) : 0, "", in.text);
            at += in.info.length;
        }
    }
}
