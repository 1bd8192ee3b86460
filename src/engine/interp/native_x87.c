/* SPDX-License-Identifier: Apache-2.0 */
/*
 * x87 instructions that move the state itself: FNINIT, and the environment in its four formats (SDM
 * 1, "x87 FPU State Image Formats"): 16 or 32 bits wide, with selectors and offsets in protected
 * mode, linear addresses in real mode.
 */
#include "engine/interp/native_int.h"

#include <string.h>

#define ENV_BYTES(wide) ((wide) ? 28u : 14u)
#define ST_BYTES        80u

static unsigned x87_top(const struct xsave_area *x)
{
    return (x->fsw & FSW_TOP) >> FSW_TOP_SHIFT;
}

void native_x87_set_top(struct xsave_area *x, unsigned top)
{
    unsigned turn = (top - x87_top(x)) & 7;
    uint8_t st[8][16];

    memcpy(st, x->st, sizeof(st));
    for (unsigned i = 0; i < 8; i++)
        memcpy(x->st[i], st[(i + turn) & 7], sizeof(st[i]));
    x->fsw = (uint16_t)((x->fsw & ~FSW_TOP) | top << FSW_TOP_SHIFT);
}

/* SDM 1, "x87 FPU Tag Word": 0 valid, 1 zero, 2 special, 3 empty, from the abridged form and the
 * contents. */
static uint16_t full_tags(const struct xsave_area *x)
{
    uint16_t tags = 0;

    for (unsigned i = 0; i < 8; i++) {
        const uint8_t *st = x->st[(i - x87_top(x)) & 7];
        unsigned tag, exponent;
        uint64_t significand;

        memcpy(&significand, st, sizeof(significand));
        exponent = (st[8] | st[9] << 8) & 0x7fff;
        if (!(x->ftw >> i & 1))
            tag = 3;
        else if (!exponent && !significand)
            tag = 1;
        else if (!exponent || exponent == 0x7fff || !(significand >> 63))
            tag = 2;
        else
            tag = 0;
        tags |= tag << 2 * i;
    }
    return tags;
}

static uint8_t abridged_tags(uint16_t tags)
{
    uint8_t ftw = 0;

    for (unsigned i = 0; i < 8; i++)
        if ((tags >> 2 * i & 3) != 3)
            ftw |= BIT(i);
    return ftw;
}

static void init_x87(struct cpu *c)
{
    native_x87_set_top(&c->fpu, 0);
    c->fpu.fcw = FCW_INIT;
    c->fpu.fsw = 0;
    c->fpu.ftw = 0;
    c->fpu.fop = 0;
    c->fpu.fip = c->fpu.fdp = 0;
    c->fpu_cs = c->fpu_ds = 0;
}

/* The seven fields of an environment; as 16-bit words or, with the upper halves, 32-bit ones. */
struct env {
    uint32_t field[7];
};

enum { ENV_FCW, ENV_FSW, ENV_FTW, ENV_IP, ENV_CS, ENV_DP, ENV_DS };

static struct env make_env(const struct cpu *c, bool wide)
{
    const struct xsave_area *x = &c->fpu;
    uint32_t ip = (uint32_t)x->fip, dp = (uint32_t)x->fdp;
    struct env e = { .field = { x->fcw, x->fsw, full_tags(x) } };

    if (in_protected(c)) {
        e.field[ENV_IP] = ip;
        e.field[ENV_CS] = c->fpu_cs | (uint32_t)x->fop << 16;
        e.field[ENV_DP] = dp;
        e.field[ENV_DS] = c->fpu_ds | 0xffff0000u;
    } else {
        ip += (uint32_t)c->fpu_cs << 4;
        dp += (uint32_t)c->fpu_ds << 4;
        /* Bits 31..16 (16-bit format: 19..16) of the address lie in bits 27..12 (15..12). */
        e.field[ENV_IP] = (ip & 0xffff) | 0xffff0000u;
        e.field[ENV_CS] = (ip >> 16 << 12) | x->fop;
        e.field[ENV_DP] = (dp & 0xffff) | 0xffff0000u;
        e.field[ENV_DS] = dp >> 16 << 12;
    }
    if (wide)
        for (unsigned i = ENV_FCW; i <= ENV_FTW; i++)
            e.field[i] |= 0xffff0000u;
    return e;
}

static void pack_env(uint8_t *buf, const struct env *e, bool wide)
{
    for (unsigned i = 0; i < ARRAY_SIZE(e->field); i++)
        memcpy(buf + i * (wide ? 4 : 2), &e->field[i], wide ? 4 : 2);
}

static void unpack_env(struct env *e, const uint8_t *buf, bool wide)
{
    memset(e, 0, sizeof(*e));
    for (unsigned i = 0; i < ARRAY_SIZE(e->field); i++)
        memcpy(&e->field[i], buf + i * (wide ? 4 : 2), wide ? 4 : 2);
}

static void set_env(struct cpu *c, const struct env *e, bool wide)
{
    struct xsave_area *x = &c->fpu;

    native_x87_set_top(x, (e->field[ENV_FSW] & FSW_TOP) >> FSW_TOP_SHIFT);
    x->fcw = (uint16_t)((e->field[ENV_FCW] & 0x1f3f) | 0x40);
    x->fsw = (uint16_t)e->field[ENV_FSW];
    x->ftw = abridged_tags((uint16_t)e->field[ENV_FTW]);
    if (in_protected(c)) {
        x->fip = e->field[ENV_IP];
        x->fdp = e->field[ENV_DP];
        c->fpu_cs = cpu_fpu_selector(c, e->field[ENV_CS]);
        c->fpu_ds = cpu_fpu_selector(c, e->field[ENV_DS]);
        x->fop = wide ? e->field[ENV_CS] >> 16 & 0x7ff : 0;
    } else {
        uint32_t high = wide ? 0xffffu : 0xfu;

        x->fip = (e->field[ENV_IP] & 0xffff) | (e->field[ENV_CS] >> 12 & high) << 16;
        x->fdp = (e->field[ENV_DP] & 0xffff) | (e->field[ENV_DS] >> 12 & high) << 16;
        c->fpu_cs = c->fpu_ds = 0;
        x->fop = e->field[ENV_CS] & 0x7ff;
    }
    native_x87_summarise(x);
}

enum step native_fninit(struct cpu *c, const struct native_stub *s, enum seg_id seg, uint64_t off)
{
    enum step st = native_check(c, s);

    (void)seg, (void)off;
    if (st == STEP_NEXT)
        init_x87(c);
    return st;
}

/* Stores the environment and, if asked to, the registers. */
static enum step store_state(struct cpu *c, const struct native_stub *s, enum seg_id seg,
                             uint64_t off, unsigned st_bytes)
{
    bool wide = s->d.op_bits != 16;
    unsigned bytes = ENV_BYTES(wide) + st_bytes;
    uint8_t buf[ENV_BYTES(1) + ST_BYTES];
    struct env e = make_env(c, wide);
    gva_t lin = GVA(0);
    enum step st = native_check(c, s);

    if (st == STEP_NEXT)
        st = native_linear(c, s, seg, off, bytes, ACC_WRITE, &lin);
    if (st != STEP_NEXT)
        return st;
    pack_env(buf, &e, wide);
    for (unsigned i = 0; i < st_bytes / 10; i++)
        memcpy(buf + ENV_BYTES(wide) + 10 * i, c->fpu.st[i], 10);
    return c->ops->write(c, lin, buf, bytes, ACC_WRITE);
}

static enum step load_state(struct cpu *c, const struct native_stub *s, enum seg_id seg,
                            uint64_t off, unsigned st_bytes)
{
    bool wide = s->d.op_bits != 16;
    unsigned bytes = ENV_BYTES(wide) + st_bytes;
    uint8_t buf[ENV_BYTES(1) + ST_BYTES];
    struct env e;
    gva_t lin = GVA(0);
    enum step st = native_check(c, s);

    if (st == STEP_NEXT)
        st = native_linear(c, s, seg, off, bytes, ACC_READ, &lin);
    if (st == STEP_NEXT)
        st = c->ops->read(c, lin, buf, bytes, ACC_READ);
    if (st != STEP_NEXT)
        return st;
    unpack_env(&e, buf, wide);
    set_env(c, &e, wide);
    for (unsigned i = 0; i < st_bytes / 10; i++) {
        memset(c->fpu.st[i], 0, sizeof(c->fpu.st[i]));
        memcpy(c->fpu.st[i], buf + ENV_BYTES(wide) + 10 * i, 10);
    }
    return STEP_NEXT;
}

enum step native_fnstenv(struct cpu *c, const struct native_stub *s, enum seg_id seg, uint64_t off)
{
    enum step st = store_state(c, s, seg, off, 0);

    if (st != STEP_NEXT)
        return st;
    /* SDM 2, FSTENV: masks all exceptions behind itself. */
    c->fpu.fcw |= FSW_EXCEPTIONS;
    native_x87_summarise(&c->fpu);
    return STEP_NEXT;
}

enum step native_fldenv(struct cpu *c, const struct native_stub *s, enum seg_id seg, uint64_t off)
{
    return load_state(c, s, seg, off, 0);
}

enum step native_fnsave(struct cpu *c, const struct native_stub *s, enum seg_id seg, uint64_t off)
{
    enum step st = store_state(c, s, seg, off, ST_BYTES);

    if (st == STEP_NEXT)
        init_x87(c);
    return st;
}

enum step native_frstor(struct cpu *c, const struct native_stub *s, enum seg_id seg, uint64_t off)
{
    return load_state(c, s, seg, off, ST_BYTES);
}
