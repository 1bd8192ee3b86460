/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registers gdb sees: one table, from which target.xml and the layout of the g packet both
 * follow (gdb manual, "Target Description Format" and "i386 Features").
 *
 * Always in the 64-bit layout, whatever mode the guest is in. The program counter is RIP, not the
 * linear address: code with a CS base other than 0 is shown by `x/i $cs_base...` only.
 */
#include "ctl/gdb_regs.h"

#include <stdio.h>
#include <string.h>

enum kind {
    KIND_GPR,
    KIND_RIP,
    KIND_RFLAGS,
    KIND_SEG,
    KIND_ST,
    KIND_FPU, /* control registers of the x87: arg is enum fpu_reg */
    KIND_XMM,
    KIND_MXCSR,
    KIND_YMMH,
    KIND_U64,    /* arg is the offset in struct cpu */
    KIND_U64_RO, /* the same, but a raw write would leave the machine inconsistent */
    KIND_ADDR,   /* the same, which has to be canonical */
    KIND_BASE,   /* of a segment */
    KIND_CR8,
};

enum fpu_reg { FPU_CTRL, FPU_STAT, FPU_TAG, FPU_ISEG, FPU_IOFF, FPU_OSEG, FPU_OOFF, FPU_OP };

enum feature { CORE, SSE, AVX, SEGMENTS, SYSTEM, NR_GDB_FEATURES };

struct reg {
    const char *name;
    const char *type;
    const char *group; /* NULL: what gdb thinks */
    enum feature feature;
    enum kind kind;
    uint16_t bytes;
    uint32_t arg;
};

#define GPR(n, r)                              \
    {                                          \
        n, "int64", NULL, CORE, KIND_GPR, 8, r \
    }
#define PTR(n, r)                                 \
    {                                             \
        n, "data_ptr", NULL, CORE, KIND_GPR, 8, r \
    }
#define SEG(n, s)                              \
    {                                          \
        n, "int32", NULL, CORE, KIND_SEG, 4, s \
    }
#define ST(i)                                           \
    {                                                   \
        "st" #i, "i387_ext", NULL, CORE, KIND_ST, 10, i \
    }
#define FPU(n, r)                               \
    {                                           \
        n, "int", "float", CORE, KIND_FPU, 4, r \
    }
#define XMM(i)                                         \
    {                                                  \
        "xmm" #i, "vec128", NULL, SSE, KIND_XMM, 16, i \
    }
#define YMMH(i)                                              \
    {                                                        \
        "ymm" #i "h", "uint128", NULL, AVX, KIND_YMMH, 16, i \
    }
#define SYS(n, k, field)                                                 \
    {                                                                    \
        n, "uint64", "system", SYSTEM, k, 8, offsetof(struct cpu, field) \
    }

/* Order is gdb's: it knows the first 57 by number. Features must not be mixed. */
static const struct reg regs[] = {
    GPR("rax", RAX),
    GPR("rbx", RBX),
    GPR("rcx", RCX),
    GPR("rdx", RDX),
    GPR("rsi", RSI),
    GPR("rdi", RDI),
    PTR("rbp", RBP),
    PTR("rsp", RSP),
    GPR("r8", R8),
    GPR("r9", R9),
    GPR("r10", R10),
    GPR("r11", R11),
    GPR("r12", R12),
    GPR("r13", R13),
    GPR("r14", R14),
    GPR("r15", R15),
    { "rip", "code_ptr", NULL, CORE, KIND_RIP, 8, 0 },
    { "eflags", "i386_eflags", NULL, CORE, KIND_RFLAGS, 4, 0 },
    SEG("cs", SEG_CS),
    SEG("ss", SEG_SS),
    SEG("ds", SEG_DS),
    SEG("es", SEG_ES),
    SEG("fs", SEG_FS),
    SEG("gs", SEG_GS),
    ST(0),
    ST(1),
    ST(2),
    ST(3),
    ST(4),
    ST(5),
    ST(6),
    ST(7),
    FPU("fctrl", FPU_CTRL),
    FPU("fstat", FPU_STAT),
    FPU("ftag", FPU_TAG),
    FPU("fiseg", FPU_ISEG),
    FPU("fioff", FPU_IOFF),
    FPU("foseg", FPU_OSEG),
    FPU("fooff", FPU_OOFF),
    FPU("fop", FPU_OP),
    XMM(0),
    XMM(1),
    XMM(2),
    XMM(3),
    XMM(4),
    XMM(5),
    XMM(6),
    XMM(7),
    XMM(8),
    XMM(9),
    XMM(10),
    XMM(11),
    XMM(12),
    XMM(13),
    XMM(14),
    XMM(15),
    { "mxcsr", "i386_mxcsr", "vector", SSE, KIND_MXCSR, 4, 0 },
    YMMH(0),
    YMMH(1),
    YMMH(2),
    YMMH(3),
    YMMH(4),
    YMMH(5),
    YMMH(6),
    YMMH(7),
    YMMH(8),
    YMMH(9),
    YMMH(10),
    YMMH(11),
    YMMH(12),
    YMMH(13),
    YMMH(14),
    YMMH(15),
    { "fs_base", "int64", NULL, SEGMENTS, KIND_BASE, 8, SEG_FS },
    { "gs_base", "int64", NULL, SEGMENTS, KIND_BASE, 8, SEG_GS },
    SYS("k_gs_base", KIND_ADDR, kernel_gs_base),
    SYS("cr0", KIND_U64_RO, cr0),
    SYS("cr2", KIND_U64, cr2),
    SYS("cr3", KIND_U64_RO, cr3),
    SYS("cr4", KIND_U64_RO, cr4),
    { "cr8", "uint64", "system", SYSTEM, KIND_CR8, 8, 0 },
    SYS("efer", KIND_U64_RO, efer),
};

unsigned gdb_nr_regs(void)
{
    return ARRAY_SIZE(regs);
}

unsigned gdb_reg_bytes(unsigned nr)
{
    return regs[nr].bytes;
}

/* ---- x87 ---- */

/*
 * The full tag word that FXSAVE leaves out: 3 empty, else by what is in the register (SDM 1, "x87
 * FPU Tag Word" and the FXSAVE instruction's table). Tags are by physical register, st[] by
 * distance from the top.
 */
static uint16_t full_tags(const struct xsave_area *f)
{
    unsigned top = f->fsw >> 11 & 7;
    uint16_t tags = 0;

    for (unsigned phys = 0; phys < 8; phys++) {
        const uint8_t *st = f->st[(phys - top) & 7];
        unsigned exp, tag;
        uint64_t frac;

        memcpy(&frac, st, sizeof(frac));
        exp = (st[8] | st[9] << 8) & 0x7fff;
        if (!(f->ftw >> phys & 1))
            tag = 3;
        else if (!exp && !frac)
            tag = 1;
        else
            tag = exp == 0 || exp == 0x7fff || !(frac >> 63) ? 2 : 0;
        tags |= (uint16_t)(tag << (2 * phys));
    }
    return tags;
}

static uint32_t fpu_get(const struct xsave_area *f, enum fpu_reg r)
{
    switch (r) {
    case FPU_CTRL:
        return f->fcw;
    case FPU_STAT:
        return f->fsw;
    case FPU_TAG:
        return full_tags(f);
    case FPU_IOFF:
        return (uint32_t)f->fip;
    case FPU_ISEG:
        return (uint32_t)(f->fip >> 32);
    case FPU_OOFF:
        return (uint32_t)f->fdp;
    case FPU_OSEG:
        return (uint32_t)(f->fdp >> 32);
    case FPU_OP:
        return f->fop & 0x7ff;
    }
    return 0;
}

static uint64_t with_half(uint64_t old, uint32_t val, unsigned shift)
{
    return (old & ~(0xffffffffull << shift)) | (uint64_t)val << shift;
}

static void fpu_set(struct xsave_area *f, enum fpu_reg r, uint32_t val)
{
    switch (r) {
    case FPU_CTRL:
        f->fcw = (uint16_t)val;
        break;
    case FPU_STAT:
        f->fsw = (uint16_t)val;
        break;
    case FPU_TAG:
        f->ftw = 0;
        for (unsigned i = 0; i < 8; i++)
            f->ftw |= (uint8_t)(((val >> (2 * i) & 3) != 3) << i);
        break;
    case FPU_IOFF:
    case FPU_ISEG:
        f->fip = with_half(f->fip, val, r == FPU_ISEG ? 32 : 0);
        break;
    case FPU_OOFF:
    case FPU_OSEG:
        f->fdp = with_half(f->fdp, val, r == FPU_OSEG ? 32 : 0);
        break;
    case FPU_OP:
        f->fop = val & 0x7ff;
        break;
    }
}

/* ---- all ---- */

static uint64_t reg_number(const struct cpu *c, const struct reg *r)
{
    switch (r->kind) {
    case KIND_GPR:
        return c->gpr[r->arg];
    case KIND_RIP:
        return c->rip;
    case KIND_RFLAGS:
        return c->rflags;
    case KIND_SEG:
        return c->seg[r->arg].sel;
    case KIND_FPU:
        return fpu_get(&c->fpu, (enum fpu_reg)r->arg);
    case KIND_MXCSR:
        return c->fpu.mxcsr;
    case KIND_BASE:
        return c->seg[r->arg].base;
    case KIND_CR8:
        return apic_get_cr8(c);
    default:
        /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): arg is an offset in struct cpu */
        return *(const uint64_t *)((const char *)c + r->arg);
    }
}

/* The bytes of those registers that are no numbers, or NULL. */
static uint8_t *reg_bytes_of(struct cpu *c, const struct reg *r)
{
    switch (r->kind) {
    case KIND_ST:
        return c->fpu.st[r->arg];
    case KIND_XMM:
        return c->fpu.xmm[r->arg];
    case KIND_YMMH:
        return c->fpu.ymmh[r->arg];
    default:
        return NULL;
    }
}

void gdb_reg_get(const struct cpu *c, unsigned nr, uint8_t *val)
{
    const struct reg *r = &regs[nr];
    const uint8_t *from = reg_bytes_of((struct cpu *)c, r);
    uint64_t number;

    if (from) {
        memcpy(val, from, r->bytes);
        return;
    }
    number = reg_number(c, r);
    memcpy(val, &number, r->bytes);
}

/* A selector alone makes a segment only where the processor computes the base from it. */
static bool set_seg(struct cpu *c, enum seg_id s, uint64_t val)
{
    if (c->seg[s].sel == (uint16_t)val)
        return true;
    if (in_protected(c))
        return false;
    cpu_load_seg_real(c, s, (uint16_t)val);
    return true;
}

/* Modes (VM, and what is reserved) stay: changing them is more than changing a bit. */
static void set_rflags(struct cpu *c, uint64_t val)
{
    uint64_t mask = RFLAGS_KNOWN & ~(uint64_t)(RFLAGS_VM | RFLAGS_FIXED1);

    c->rflags = (c->rflags & ~mask) | (val & mask);
}

static bool set_base(struct cpu *c, enum seg_id s, uint64_t val)
{
    if (!is_canonical(c, val))
        return false;
    c->seg[s].base = val;
    return true;
}

bool gdb_reg_set(struct cpu *c, unsigned nr, const uint8_t *val)
{
    const struct reg *r = &regs[nr];
    uint8_t *to = reg_bytes_of(c, r);
    uint64_t number = 0;

    if (to) {
        memcpy(to, val, r->bytes);
        return true;
    }
    memcpy(&number, val, MIN(r->bytes, sizeof(number)));
    switch (r->kind) {
    case KIND_GPR:
        c->gpr[r->arg] = number;
        return true;
    case KIND_RIP:
        if (!in_long64(c))
            number = (uint32_t)number;
        if (!is_canonical(c, number))
            return false;
        c->rip = number;
        return true;
    case KIND_RFLAGS:
        set_rflags(c, number);
        return true;
    case KIND_SEG:
        return set_seg(c, (enum seg_id)r->arg, number);
    case KIND_FPU:
        fpu_set(&c->fpu, (enum fpu_reg)r->arg, (uint32_t)number);
        return true;
    case KIND_MXCSR: /* reserved bits would raise #GP on the next load */
        if (number & ~0xffffull)
            return false;
        c->fpu.mxcsr = (uint32_t)number;
        return true;
    case KIND_BASE:
        return set_base(c, (enum seg_id)r->arg, number);
    case KIND_ADDR:
        if (!is_canonical(c, number))
            return false;
        /* fallthrough */
    case KIND_U64:
        *(uint64_t *)((char *)c + r->arg) = number;
        return true;
    default:
        return number == reg_number(c, r);
    }
}

/* ---- target.xml ---- */

static const struct {
    const char *name;
    const char *types; /* what the feature's registers need defined */
} features[NR_GDB_FEATURES] = {
    [CORE] = { "org.gnu.gdb.i386.core",
               "<flags id=\"i386_eflags\" size=\"4\">"
               "<field name=\"CF\" start=\"0\" end=\"0\"/><field name=\"\" start=\"1\" end=\"1\"/>"
               "<field name=\"PF\" start=\"2\" end=\"2\"/><field name=\"AF\" start=\"4\" "
               "end=\"4\"/>"
               "<field name=\"ZF\" start=\"6\" end=\"6\"/><field name=\"SF\" start=\"7\" "
               "end=\"7\"/>"
               "<field name=\"TF\" start=\"8\" end=\"8\"/><field name=\"IF\" start=\"9\" "
               "end=\"9\"/>"
               "<field name=\"DF\" start=\"10\" end=\"10\"/>"
               "<field name=\"OF\" start=\"11\" end=\"11\"/>"
               "<field name=\"IOPL\" start=\"12\" end=\"13\"/>"
               "<field name=\"NT\" start=\"14\" end=\"14\"/>"
               "<field name=\"RF\" start=\"16\" end=\"16\"/>"
               "<field name=\"VM\" start=\"17\" end=\"17\"/>"
               "<field name=\"AC\" start=\"18\" end=\"18\"/>"
               "<field name=\"VIF\" start=\"19\" end=\"19\"/>"
               "<field name=\"VIP\" start=\"20\" end=\"20\"/>"
               "<field name=\"ID\" start=\"21\" end=\"21\"/></flags>" },
    [SSE] = { "org.gnu.gdb.i386.sse",
              "<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/>"
              "<vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>"
              "<vector id=\"v16i8\" type=\"int8\" count=\"16\"/>"
              "<vector id=\"v8i16\" type=\"int16\" count=\"8\"/>"
              "<vector id=\"v4i32\" type=\"int32\" count=\"4\"/>"
              "<vector id=\"v2i64\" type=\"int64\" count=\"2\"/>"
              "<union id=\"vec128\">"
              "<field name=\"v4_float\" type=\"v4f\"/><field name=\"v2_double\" type=\"v2d\"/>"
              "<field name=\"v16_int8\" type=\"v16i8\"/><field name=\"v8_int16\" type=\"v8i16\"/>"
              "<field name=\"v4_int32\" type=\"v4i32\"/><field name=\"v2_int64\" type=\"v2i64\"/>"
              "<field name=\"uint128\" type=\"uint128\"/></union>"
              "<flags id=\"i386_mxcsr\" size=\"4\">"
              "<field name=\"IE\" start=\"0\" end=\"0\"/><field name=\"DE\" start=\"1\" end=\"1\"/>"
              "<field name=\"ZE\" start=\"2\" end=\"2\"/><field name=\"OE\" start=\"3\" end=\"3\"/>"
              "<field name=\"UE\" start=\"4\" end=\"4\"/><field name=\"PE\" start=\"5\" end=\"5\"/>"
              "<field name=\"DAZ\" start=\"6\" end=\"6\"/><field name=\"IM\" start=\"7\" "
              "end=\"7\"/>"
              "<field name=\"DM\" start=\"8\" end=\"8\"/><field name=\"ZM\" start=\"9\" end=\"9\"/>"
              "<field name=\"OM\" start=\"10\" end=\"10\"/>"
              "<field name=\"UM\" start=\"11\" end=\"11\"/>"
              "<field name=\"PM\" start=\"12\" end=\"12\"/>"
              "<field name=\"FZ\" start=\"15\" end=\"15\"/></flags>" },
    [AVX] = { "org.gnu.gdb.i386.avx", "" },
    [SEGMENTS] = { "org.gnu.gdb.i386.segments", "" },
    [SYSTEM] = { "doppel.system", "" },
};

char *gdb_target_xml(void)
{
    enum feature open = NR_GDB_FEATURES;
    char *text = NULL;
    size_t bytes;
    FILE *f = open_memstream(&text, &bytes);

    if (!f)
        return NULL;
    (void)fprintf(f, "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\">"
                     "<target><architecture>i386:x86-64</architecture>");
    for (unsigned i = 0; i < ARRAY_SIZE(regs); i++) {
        const struct reg *r = &regs[i];

        if (r->feature != open)
            (void)fprintf(f, "%s<feature name=\"%s\">%s", i ? "</feature>" : "",
                          features[r->feature].name, features[r->feature].types);
        open = r->feature;
        (void)fprintf(f, "<reg name=\"%s\" bitsize=\"%u\" type=\"%s\" regnum=\"%u\"", r->name,
                      r->bytes * 8u, r->type, i);
        if (r->group)
            (void)fprintf(f, " group=\"%s\"", r->group);
        (void)fprintf(f, "/>");
    }
    (void)fprintf(f, "</feature></target>");
    return fclose(f) == 0 ? text : NULL;
}
