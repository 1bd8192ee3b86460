/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lock-step says when two engines differ: where, in what, both states, the code between the
 * last comparison and this one, and the way there.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <Zydis/Zydis.h>

#include "vm/lockstep.h"

#define CODE_MAX 64 /* instructions shown */

void ls_line(const struct lockstep *ls, const char *fmt, ...)
{
    char line[512];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    if (ls->cfg.line)
        ls->cfg.line(ls->cfg.line_arg, line);
    else
        (void)fprintf(stderr, "%s\r\n", line); /* the terminal may be raw */
}

/* ---- values ---- */

static void number(char *buf, size_t bytes_max, const void *at, size_t bytes)
{
    const uint8_t *p = at;
    size_t n = 0;

    buf[0] = 0;
    for (size_t i = bytes; i-- > 0 && n + 3 < bytes_max;)
        n += (size_t)snprintf(buf + n, bytes_max - n, "%02x", p[i]);
}

static void show_difference(void *arg, const char *name, const void *a, const void *b, size_t bytes)
{
    char ta[256], tb[256];

    number(ta, sizeof(ta), a, bytes);
    number(tb, sizeof(tb), b, bytes);
    ls_line(arg, "  %-20s %-34s %s", name, ta, tb);
}

/* In full only what is a number; vector registers and tables are shown when they differ. */
static void show_state(void *arg, const char *name, const void *a, const void *b, size_t bytes)
{
    const char *mark = memcmp(a, b, bytes) != 0 ? "  <---" : "";
    char ta[256], tb[256];

    if (bytes > 8 && !*mark)
        return;
    number(ta, sizeof(ta), a, bytes);
    number(tb, sizeof(tb), b, bytes);
    ls_line(arg, "  %-20s %-34s %s%s", name, ta, tb, mark);
}

static void show_memory(const struct lockstep *ls, gpa_t at)
{
    gpa_t from = GPA(align_down(at.v, 16));
    struct mmu *const memory[] = { ls->copy, ls->vm->mmu };

    for (unsigned i = 0; i < 2; i++) {
        uint8_t bytes[16];
        char text[64];
        size_t n = 0;

        if (mmu_read(memory[i], from, bytes, sizeof(bytes)) < sizeof(bytes))
            continue;
        for (unsigned k = 0; k < sizeof(bytes); k++)
            n += (size_t)snprintf(text + n, sizeof(text) - n, " %02x", bytes[k]);
        ls_line(ls, "  guest-physical %#llx, %-7s%s", (unsigned long long)from.v,
                ls->side[i ? LS_TESTED : LS_REFERENCE].ops->name, text);
    }
}

/* ---- code ---- */

static ZydisMachineMode machine_mode(uint32_t mode)
{
    if (mode & MODE_CS64)
        return ZYDIS_MACHINE_MODE_LONG_64;
    if (mode & MODE_CS32)
        return mode & MODE_LMA ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32 : ZYDIS_MACHINE_MODE_LEGACY_32;
    if (mode & MODE_LMA)
        return ZYDIS_MACHINE_MODE_LONG_COMPAT_16;
    return mode & MODE_PE ? ZYDIS_MACHINE_MODE_LEGACY_16 : ZYDIS_MACHINE_MODE_REAL_16;
}

/* One instruction as text; its length, or 0. Read through the page tables of now. */
static unsigned disassemble(const struct lockstep *ls, const struct ls_past *p, uint64_t rip,
                            char *text, size_t text_bytes, bool *is_branch)
{
    const struct ls_side *ref = &ls->side[LS_REFERENCE];
    uint64_t lin = p->mode & MODE_CS64 ? rip : (uint32_t)(p->cs_base + rip);
    ZydisDisassembledInstruction insn;
    uint8_t bytes[15];
    uint64_t nr = ref->ops->peek(ref->v, GVA(lin), bytes, sizeof(bytes));
    size_t n = 0;

    *is_branch = false;
    if (!ZYAN_SUCCESS(ZydisDisassembleATT(machine_mode(p->mode), rip, bytes, nr, &insn))) {
        (void)snprintf(text, text_bytes, nr ? "(no instruction)" : "(not mapped any more)");
        return 0;
    }
    for (unsigned i = 0; i < insn.info.length && n + 3 < text_bytes; i++)
        n += (size_t)snprintf(text + n, text_bytes - n, "%02x", bytes[i]);
    (void)snprintf(text + n, text_bytes - n, "%*s %s", n < 24 ? (int)(24 - n) : 0, "", insn.text);
    *is_branch = insn.info.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE ||
                 insn.info.meta.category == ZYDIS_CATEGORY_RET ||
                 insn.info.meta.category == ZYDIS_CATEGORY_SYSCALL ||
                 insn.info.meta.category == ZYDIS_CATEGORY_SYSRET ||
                 insn.info.meta.category == ZYDIS_CATEGORY_INTERRUPT;
    return insn.info.length;
}

/* A chunk's instructions as far as they lie in a row. */
static void show_code(const struct lockstep *ls, const struct ls_past *p)
{
    uint64_t rip = p->rip;
    bool branch = false;

    for (uint64_t i = 0; i < MAX(p->nr, 1) && i < CODE_MAX; i++) {
        char text[160];
        unsigned len = disassemble(ls, p, rip, text, sizeof(text), &branch);

        ls_line(ls, "  %16llx  %s", (unsigned long long)rip, text);
        if (!len)
            return;
        rip += len;
        if (branch && i + 1 < p->nr) {
            ls_line(ls, "  ... and %llu steps behind this branch (--lockstep-chunk 1 shows each)",
                    (unsigned long long)(p->nr - i - 1));
            return;
        }
    }
}

static void show_past(const struct lockstep *ls)
{
    uint64_t first = ls->nr_past > LS_PAST ? ls->nr_past - LS_PAST : 0;

    for (uint64_t i = first; i < ls->nr_past; i++) {
        const struct ls_past *p = &ls->past[i % LS_PAST];
        char text[160];
        bool branch;

        (void)disassemble(ls, p, p->rip, text, sizeof(text), &branch);
        ls_line(ls, "  %12llu +%-4llu %16llx  %s", (unsigned long long)p->step,
                (unsigned long long)p->nr, (unsigned long long)p->rip, text);
    }
}

static void show_tape(const struct lockstep *ls)
{
    for (size_t i = 0; i < ls->tape.nr; i++) {
        char text[160];

        ls_event_text(&ls->tape.ev[i], text, sizeof(text));
        ls_line(ls, "  %s", text);
    }
}

/* ---- all of it ---- */

static void show_before(const struct lockstep *ls)
{
    static const char *const names[] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp",
                                         "rsi", "rdi", "r8",  "r9",  "r10", "r11",
                                         "r12", "r13", "r14", "r15", "rip", "rflags" };

    for (unsigned i = 0; i < ARRAY_SIZE(names); i += 2)
        ls_line(ls, "  %-6s %016llx   %-6s %016llx", names[i], (unsigned long long)ls->before[i],
                names[i + 1], (unsigned long long)ls->before[i + 1]);
}

void ls_report(struct lockstep *ls, const struct ls_difference *d)
{
    const struct ls_side *tested = &ls->side[LS_TESTED], *ref = &ls->side[LS_REFERENCE];
    const struct cpu *ca = &ref->v->cpu, *cb = &tested->v->cpu;
    const struct ls_past *last = &ls->past[(ls->nr_past + LS_PAST - 1) % LS_PAST];

    ls_line(ls, "lockstep: %s differs from %s: %s", tested->ops->name, ref->ops->name, d->what);
    if (d->memory) {
        ls_line(ls, "at guest-physical %#llx, written between steps %llu and %llu:",
                (unsigned long long)d->at.v, (unsigned long long)ls->memory_at,
                (unsigned long long)vcpu_steps(tested->v));
        show_memory(ls, d->at);
    } else {
        ls_line(ls, "between steps %llu and %llu:", (unsigned long long)last->step,
                (unsigned long long)vcpu_steps(tested->v));
    }
    ls_line(ls, "  %-20s %-34s %s", "", ref->ops->name, tested->ops->name);
    ls_state_each(ca, cb, true, show_difference, ls);
    ls_line(ls, "registers before:");
    show_before(ls);
    ls_line(ls, "code:");
    show_code(ls, last);
    ls_line(ls, "calls to the machine:");
    show_tape(ls);
    ls_line(ls, "both states after it:");
    ls_state_each(ca, cb, false, show_state, ls);
    ls_line(ls, "the last steps (number, how many, RIP, first instruction):");
    show_past(ls);
}
