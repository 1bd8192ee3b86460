/* SPDX-License-Identifier: Apache-2.0 */
/*
 * String instructions with and without REP (SDM 2, REP). The registers are brought up to date after
 * every element or bulk, so a fault or an interrupt in the middle finds the state the manual
 * promises and the instruction starts again.
 */
#include "engine/interp/handlers.h"

#include <string.h>

struct string {
    unsigned n; /* element size */
    unsigned addr_bytes;
    uint64_t mask;  /* of offsets and count */
    uint64_t step;  /* n or -n */
    uint64_t count; /* left, this one included */
    bool rep;
};

static struct string string_begin(const struct ivcpu *v, const struct op *op)
{
    struct string s = { .n = op->bytes };

    s.addr_bytes = op->prefix & OP_A16 ? 2 : op->prefix & OP_A32 ? 4 : 8;
    s.mask = ~0ull >> (64 - 8 * s.addr_bytes);
    s.step = v->vc.cpu.rflags & RFLAGS_DF ? -(uint64_t)s.n : s.n;
    s.rep = op->prefix & (OP_REP | OP_REPNE);
    s.count = s.rep ? v->vc.cpu.gpr[RCX] & s.mask : 1;
    return s;
}

/*
 * With REP and 32-bit addresses in 64-bit code Intel's processors clear the upper halves of RCX
 * and, in MOVS and STOS, of what they move (pointers: a bit for each) even if no repetition is
 * completed (seen on Sapphire Rapids).
 */
static struct string string_begin_cut(struct ivcpu *v, const struct op *op, unsigned pointers)
{
    struct cpu *c = CPU(v);
    unsigned cut = pointers | BIT(RCX);

    if (unlikely(op->prefix & OP_A32) && op->prefix & (OP_REP | OP_REPNE) && c->mode & MODE_CS64 &&
        c->model->vendor == VENDOR_INTEL)
        for (unsigned r = RCX; r <= RDI; r++)
            if (cut >> r & 1)
                c->gpr[r] = (uint32_t)c->gpr[r];
    return string_begin(v, op);
}

static uint64_t offset(const struct ivcpu *v, const struct string *s, enum gpr r)
{
    return v->vc.cpu.gpr[r] & s->mask;
}

/*
 * Moves an index register by nr elements. A 32-bit one clears the upper half, as any 32-bit write.
 */
static void advance(struct ivcpu *v, const struct string *s, enum gpr r, uint64_t nr)
{
    set_reg(v, r * 8, s->addr_bytes, (v->vc.cpu.gpr[r] + s->step * nr) & s->mask);
}

static void count_down(struct ivcpu *v, struct string *s, uint64_t nr)
{
    s->count -= nr;
    if (s->rep)
        set_reg(v, RCX * 8, s->addr_bytes, s->count);
}

/*
 * Should a REP pause at this iteration: somebody asks for the vCPU, or it is single-stepped? Under
 * a run limit only for traps, so that all engines pause at the same one.
 */
static bool string_pause(const struct ivcpu *v, const struct string *s)
{
    const struct cpu *c = &v->vc.cpu;

    if (!s->count)
        return false;
    if (unlikely(v->vc.run_limit))
        return (c->rflags & RFLAGS_TF) || c->pending_dbg || v->vc.dbg.step;
    return v->one_rep || c->req || c->pending_dbg;
}

/* Leave with RIP at the instruction itself: it goes on from the registers. */
static const struct op *string_again(struct ivcpu *v, const struct op *op)
{
    struct cpu *c = CPU(v);

    v->leave = LEAVE_NEXT;
    v->again = true;
    v->vc.nr_partial++;
    /* What is pushed by an event between repetitions has RF set (SDM 3, "Instruction-Breakpoint
     * Exception Condition"). */
    if (v->code_bps)
        c->rflags |= RFLAGS_RF;
    return leave_here(v, op);
}

static bool goes_up(const struct string *s)
{
    return s->step == s->n;
}

/* How many elements from there on, in the string's direction, lie in the page. */
static uint64_t elements_in_page(const struct string *s, uint64_t lin)
{
    uint64_t at = lin % PAGE_BYTES;

    if (goes_up(s))
        return (PAGE_BYTES - at) / s->n;
    return at + s->n <= PAGE_BYTES ? at / s->n + 1 : 0;
}

/*
 * How many elements can be done at once from offset off: they stay in its page and do not wrap;
 * only where no limits have to be checked (64-bit or flat code).
 */
static uint64_t bulk_count(const struct ivcpu *v, const struct op *op, const struct string *s,
                           uint64_t off, uint64_t lin)
{
    uint64_t in_page = elements_in_page(s, lin), room = in_page;

    if (v->one_rep || (op->addr & ADDR_SEG && !(v->vc.cpu.mode & MODE_CS64)))
        return 0;
    if (s->addr_bytes != 8)
        room = (goes_up(s) ? s->mask - off : off) / s->n;
    return MIN(MIN(in_page, room), s->count);
}

/* Upwards; no C library, which would use vector registers. */
static void move_up(uint8_t *to, const uint8_t *from, uint64_t nr)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(nr) : : "memory");
}

/* At once, if none of the nr elements is the source of a later one, and downwards none overlap. It
 * is the host's memory that tells: two of the guest's pages may be one. */
static bool bulk_move(struct ivcpu *v, const struct string *s, uint64_t dst, uint64_t src,
                      uint64_t nr)
{
    uint64_t below = goes_up(s) ? 0 : (nr - 1) * s->n; /* where the lowest one is */
    const uint8_t *from = bulk_ptr(v, src - below, false);
    uint8_t *to = from ? bulk_ptr(v, dst - below, true) : NULL;

    if (!to || (uintptr_t)to - (uintptr_t)from < nr * s->n ||
        (!goes_up(s) && (uintptr_t)from - (uintptr_t)to < nr * s->n))
        return false;
    move_up(to, from, nr * s->n);
    return true;
}

static const struct op *movs(struct ivcpu *v, const struct op *op)
{
    struct string s = string_begin_cut(v, op, BIT(RSI) | BIT(RDI));

    while (s.count) {
        uint64_t src, dst, so = offset(v, &s, RSI), dof = offset(v, &s, RDI), nr = 0, x;

        if (!addr_of(v, op, so, s.n, ACC_READ))
            return leave_here(v, op);
        src = v->lin;
        /* The source's page comes before the destination's segment. */
        if (!load_n(v, op, src, s.n, &x))
            return leave_here(v, op);
        if (!addr_in(v, op, SEG_ES, dof, s.n, ACC_WRITE))
            return leave_here(v, op);
        dst = v->lin;
        if (s.count > 1) {
            nr = MIN(bulk_count(v, op, &s, so, src), bulk_count(v, op, &s, dof, dst));
            if (nr && !bulk_move(v, &s, dst, src, nr))
                nr = 0;
        }
        if (!nr) {
            if (!store_slow(v, op, dst, s.n, x))
                return leave_here(v, op);
            nr = 1;
        }
        advance(v, &s, RSI, nr);
        advance(v, &s, RDI, nr);
        count_down(v, &s, nr);
        if (string_pause(v, &s))
            return string_again(v, op);
    }
    NEXT(v, op);
}

static void fill(uint8_t *to, uint64_t x, unsigned n, uint64_t nr)
{
    switch (n) {
    case 1:
        __asm__ volatile("rep stosb" : "+D"(to), "+c"(nr) : "a"(x) : "memory");
        return;
    case 2:
        __asm__ volatile("rep stosw" : "+D"(to), "+c"(nr) : "a"(x) : "memory");
        return;
    case 4:
        __asm__ volatile("rep stosl" : "+D"(to), "+c"(nr) : "a"(x) : "memory");
        return;
    default:
        __asm__ volatile("rep stosq" : "+D"(to), "+c"(nr) : "a"(x) : "memory");
        return;
    }
}

static const struct op *stos(struct ivcpu *v, const struct op *op)
{
    struct string s = string_begin_cut(v, op, BIT(RDI));
    uint64_t x = get_reg(v, RAX * 8, s.n);

    while (s.count) {
        uint64_t off = offset(v, &s, RDI), nr = 0, dst;
        uint8_t *to;

        if (!addr_in(v, op, SEG_ES, off, s.n, ACC_WRITE))
            return leave_here(v, op);
        dst = v->lin;
        if (s.count > 1 && goes_up(&s))
            nr = bulk_count(v, op, &s, off, dst);
        to = nr ? bulk_ptr(v, dst, true) : NULL;
        if (to) {
            fill(to, x, s.n, nr);
        } else {
            if (!store_slow(v, op, dst, s.n, x))
                return leave_here(v, op);
            nr = 1;
        }
        advance(v, &s, RDI, nr);
        count_down(v, &s, nr);
        if (string_pause(v, &s))
            return string_again(v, op);
    }
    NEXT(v, op);
}

static const struct op *lods(struct ivcpu *v, const struct op *op)
{
    struct string s = string_begin_cut(v, op, 0);

    while (s.count) {
        uint64_t x;

        if (!addr_of(v, op, offset(v, &s, RSI), s.n, ACC_READ) || !load_n(v, op, v->lin, s.n, &x))
            return leave_here(v, op);
        set_reg(v, RAX * 8, s.n, x);
        advance(v, &s, RSI, 1);
        count_down(v, &s, 1);
        if (string_pause(v, &s))
            return string_again(v, op);
    }
    NEXT(v, op);
}

static void compare(struct ivcpu *v, unsigned n, uint64_t a, uint64_t b)
{
    uint32_t fl;

    if (n == 8) {
        asm("cmpq %[b], %[a]\n\tlahf\n\tseto %%al" : "=&a"(fl) : [a] "r"(a), [b] "r"(b) : "cc");
    } else if (n == 4) {
        asm("cmpl %k[b], %k[a]\n\tlahf\n\tseto %%al" : "=&a"(fl) : [a] "r"(a), [b] "r"(b) : "cc");
    } else if (n == 2) {
        asm("cmpw %w[b], %w[a]\n\tlahf\n\tseto %%al" : "=&a"(fl) : [a] "r"(a), [b] "r"(b) : "cc");
    } else {
        asm("cmpb %b[b], %b[a]\n\tlahf\n\tseto %%al" : "=&a"(fl) : [a] "q"(a), [b] "q"(b) : "cc");
    }
    CPU(v)->rflags = merge_flags(CPU(v)->rflags, fl);
}

/* REPE (F3) goes on while equal, REPNE (F2) while not. */
static bool compare_ends(const struct ivcpu *v, const struct op *op, const struct string *s)
{
    bool zf = v->vc.cpu.rflags & RFLAGS_ZF;

    return s->rep && (op->prefix & OP_REP ? !zf : zf);
}

/* Element r of the string in segment seg. False: leave. */
static bool load_element(struct ivcpu *v, const struct op *op, const struct string *s,
                         enum seg_id seg, enum gpr r, uint64_t *x)
{
    return addr_in(v, op, seg, offset(v, s, r), s->n, ACC_READ) && load_n(v, op, v->lin, s->n, x);
}

/*
 * Leaves a comparison before its end, by a fault or to go on later. Intel's processors set the
 * flags at the end only: till then they are as before (SDM 2, "REP"; AMD's have those of the
 * repetition before).
 */
static const struct op *compare_leave(struct ivcpu *v, const struct op *op, const struct string *s,
                                      uint64_t flags_before, bool again)
{
    if (s->rep && CPU(v)->model->vendor == VENDOR_INTEL)
        CPU(v)->rflags = flags_before;
    return again ? string_again(v, op) : leave_here(v, op);
}

static bool load_both(struct ivcpu *v, const struct op *op, const struct string *s, uint64_t *a,
                      uint64_t *b)
{
    /* Which of the two comes first shows when both fault (Intel: seen on Sapphire Rapids). */
    if (CPU(v)->model->vendor == VENDOR_INTEL)
        return load_element(v, op, s, SEG_ES, RDI, b) && load_element(v, op, s, op->seg, RSI, a);
    return load_element(v, op, s, op->seg, RSI, a) && load_element(v, op, s, SEG_ES, RDI, b);
}

static const struct op *cmps(struct ivcpu *v, const struct op *op)
{
    struct string s = string_begin_cut(v, op, 0);
    uint64_t flags_before = CPU(v)->rflags;

    while (s.count) {
        uint64_t a, b;

        if (!load_both(v, op, &s, &a, &b))
            return compare_leave(v, op, &s, flags_before, false);
        compare(v, s.n, a, b);
        advance(v, &s, RSI, 1);
        advance(v, &s, RDI, 1);
        count_down(v, &s, 1);
        if (compare_ends(v, op, &s))
            break;
        if (string_pause(v, &s))
            return compare_leave(v, op, &s, flags_before, true);
    }
    NEXT(v, op);
}

static const struct op *scas(struct ivcpu *v, const struct op *op)
{
    struct string s = string_begin_cut(v, op, 0);
    uint64_t flags_before = CPU(v)->rflags;

    while (s.count) {
        uint64_t b;

        if (!load_element(v, op, &s, SEG_ES, RDI, &b))
            return compare_leave(v, op, &s, flags_before, false);
        compare(v, s.n, get_reg(v, RAX * 8, s.n), b);
        advance(v, &s, RDI, 1);
        count_down(v, &s, 1);
        if (compare_ends(v, op, &s))
            break;
        if (string_pause(v, &s))
            return compare_leave(v, op, &s, flags_before, true);
    }
    NEXT(v, op);
}

/* ---- INS and OUTS: end their blocks, since a device may ask for anything ---- */

static bool string_io_allowed(struct ivcpu *v, const struct op *op, const struct string *s)
{
    sync_rip(v, op);
    if (cpu_check_io(CPU(v), (uint16_t)CPU(v)->gpr[RDX], s->n) == STEP_NEXT)
        return true;
    v->leave = LEAVE_FAULT;
    return false;
}

static const struct op *ins(struct ivcpu *v, const struct op *op)
{
    struct string s = string_begin(v, op);

    if (!string_io_allowed(v, op, &s))
        return leave_here(v, op);
    while (s.count) {
        if (!addr_in(v, op, SEG_ES, offset(v, &s, RDI), s.n, ACC_WRITE) ||
            !store_from_port(v, op, v->lin, s.n, (uint16_t)CPU(v)->gpr[RDX]))
            return leave_here(v, op);
        advance(v, &s, RDI, 1);
        count_down(v, &s, 1);
        if (string_pause(v, &s))
            return string_again(v, op);
    }
    return leave_step(v, op, STEP_NEXT);
}

static const struct op *outs(struct ivcpu *v, const struct op *op)
{
    struct string s = string_begin(v, op);

    if (!string_io_allowed(v, op, &s))
        return leave_here(v, op);
    while (s.count) {
        uint64_t x;

        if (!addr_of(v, op, offset(v, &s, RSI), s.n, ACC_READ) || !load_n(v, op, v->lin, s.n, &x))
            return leave_here(v, op);
        io_write(v, (uint16_t)CPU(v)->gpr[RDX], s.n, x);
        advance(v, &s, RSI, 1);
        count_down(v, &s, 1);
        if (string_pause(v, &s))
            return string_again(v, op);
    }
    return leave_step(v, op, STEP_NEXT);
}

const op_fn op_movs = movs, op_stos = stos, op_lods = lods, op_cmps = cmps, op_scas = scas,
            op_ins = ins, op_outs = outs;
