/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registers and the memory an instruction is run with: random, but so that most accesses meet
 * the data areas, and what the operand has to look like to get past the first check (a selector, a
 * far pointer, an XSAVE area) often looks so.
 */
#include "insn.h"

#include <string.h>

uint64_t random_edge(struct rng *r)
{
    static const uint64_t edges[] = { 0,
                                      1,
                                      0x7f,
                                      0x80,
                                      0xff,
                                      0x7fff,
                                      0x8000,
                                      0xffff,
                                      0x7fffffff,
                                      0x80000000,
                                      0xffffffff,
                                      INT64_MAX,
                                      1ull << 63,
                                      ~0ull,
                                      0x0000800000000000ull,
                                      0x00007fffffffffffull };

    switch (pick(r, 4)) {
    case 0:
        return edges[pick(r, ARRAY_SIZE(edges))];
    case 1:
        return pick(r, 64);
    default:
        return rnd(r);
    }
}

/* A linear address worth having: in the areas, at their edges, across pages, sometimes
 * non-canonical. */
static uint64_t address(struct rng *r)
{
    switch (pick(r, 16)) {
    case 0:
        return DATA_AT + pick(r, 64) - 32;
    case 1:
        return RO_AT + pick(r, 64) - 32;
    case 2:
        return RO_AT + PAGE_BYTES + pick(r, 64) - 32;
    case 3:
        return DATA_AT + PAGE_BYTES + pick(r, 64) - 32;
    case 4:
        return 0x8000000000000000ull + rnd(r) % 0x100000;
    default:
        return DATA_AT + 64 + (pick(r, 2 * PAGE_BYTES - 256) & (pick(r, 2) ? ~0u : ~31u));
    }
}

/* Floating-point registers: a mix of plain numbers and everything odd. */
void random_fpu(struct rng *r, struct xsave_area *x)
{
    static const uint64_t odd[] = { 0,
                                    1ull << 63,
                                    0x3ff0000000000000ull,
                                    0x7ff0000000000000ull,
                                    0x7ff8000000000000ull,
                                    0x7ff0000000000001ull,
                                    1,
                                    0x3f8000003f800000ull,
                                    0x7f8000007f800001ull };

    memset(x, 0, sizeof(*x));
    for (unsigned i = 0; i < 16; i++)
        for (unsigned j = 0; j < 4; j++) {
            uint64_t v = pick(r, 3) ? rnd(r) : odd[pick(r, ARRAY_SIZE(odd))];

            memcpy((j < 2 ? x->xmm[i] : x->ymmh[i]) + 8 * (j & 1), &v, 8);
        }
    x->fcw = pick(r, 2) ? 0x37f : (uint16_t)(0x3f | pick(r, 16) << 8 | 0x40);
    x->mxcsr = pick(r, 2) ? 0x1f80
                          : 0x1f80 | (uint32_t)pick(r, 4) << 13 | (uint32_t)pick(r, 2) << 15 |
                                (uint32_t)pick(r, 2) << 6;
    if (!pick(r, 8))
        x->mxcsr &= ~((uint32_t)pick(r, 64) << 7); /* unmasked exceptions */
    x->ftw = (uint8_t)rnd(r);
    x->fsw = (uint16_t)(pick(r, 8) << 11);
    if (!pick(r, 16)) /* an exception is pending, or was met masked */
        x->fsw |= (uint16_t)pick(r, 64);
    if (!pick(r, 4))
        x->fcw &= (uint16_t)~pick(r, 64);
    if (x->fsw & ~x->fcw & 0x3f)
        x->fsw |= 0x8080;
    x->fop = (uint16_t)pick(r, 0x800);
    x->fip = rnd(r) >> 17;
    x->fdp = rnd(r) >> 17;
    for (unsigned i = 0; i < 8; i++) {
        uint64_t m = pick(r, 4) ? rnd(r) | 1ull << 63 : odd[pick(r, ARRAY_SIZE(odd))];
        uint16_t e = (uint16_t)(pick(r, 4) ? 0x3ff0 + pick(r, 32) : rnd(r));

        memcpy(x->st[i], &m, 8);
        memcpy(x->st[i] + 8, &e, 2);
    }
}

static void random_segments(struct rng *r, struct insn_case *k)
{
    struct regs *g = &k->in;

    for (unsigned s = 0; s < NR_SEGS; s++)
        g->sel[s] = random_data_sel(r, k->mode);
    g->sel[SEG_CS] = random_code_sel(r, k->mode);
    g->sel[SEG_SS] = random_stack_sel(r, k->mode);
    g->fs_base = seg_of(g->sel[SEG_FS]).base;
    g->gs_base = seg_of(g->sel[SEG_GS]).base;
    /* Whatever their descriptors say, the bases can be set (SDM 3, "Segment Registers in IA-32e
     * Mode"); the kernel takes addresses of users only. */
    if (k->mode == CODE64 || !pick(r, 8)) {
        g->fs_base = pick(r, 4) ? address(r) - DATA_AT / 2 : random_edge(r);
        g->gs_base = pick(r, 4) ? pick(r, PAGE_BYTES) : random_edge(r);
        g->fs_base &= 0x00007fffffffefffull;
        g->gs_base &= 0x00007fffffffefffull;
    }
}

/* The segment a register's addresses are in, when it is a base without an override. */
static enum seg_id usual_segment(unsigned reg)
{
    return reg == RSP || reg == RBP ? SEG_SS : reg == RDI ? SEG_ES : SEG_DS;
}

static uint64_t offset_in(const struct insn_case *k, enum seg_id s, uint64_t lin)
{
    return lin - seg_linear(k, s, 0);
}

/* ---- the memory operand ---- */

/* Which of the GPRs a register of any size is, or -1. */
static int gpr_of(ZydisRegister r)
{
    switch (ZydisRegisterGetClass(r)) {
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
        return ZydisRegisterGetId(r);
    default:
        return -1;
    }
}

static uint64_t address_mask(const struct insn_case *k)
{
    return k->insn.address_width == 64 ? ~0ull : (1ull << k->insn.address_width) - 1;
}

static uint64_t operand_offset(const struct insn_case *k, const ZydisDecodedOperand *o)
{
    int base = gpr_of(o->mem.base), index = gpr_of(o->mem.index);
    uint64_t off = o->mem.disp.has_displacement ? (uint64_t)o->mem.disp.value : 0;

    if (base >= 0)
        off += k->in.gpr[base];
    if (index >= 0)
        off += k->in.gpr[index] * o->mem.scale;
    if (o->mem.base == ZYDIS_REGISTER_RIP || o->mem.base == ZYDIS_REGISTER_EIP)
        off += k->in.rip + k->len;
    return off & address_mask(k);
}

static unsigned wanted_alignment(const struct insn_case *k)
{
    switch (k->insn.meta.isa_set) {
    case ZYDIS_ISA_SET_XSAVE:
    case ZYDIS_ISA_SET_XSAVEC:
    case ZYDIS_ISA_SET_XSAVEOPT:
        return 64;
    case ZYDIS_ISA_SET_FXSAVE:
    case ZYDIS_ISA_SET_FXSAVE64:
        return 16;
    default:
        return 1;
    }
}

static const ZydisDecodedOperand *memory_operand(const struct insn_case *k)
{
    for (unsigned i = 0; i < k->insn.operand_count; i++)
        if (k->ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
            k->ops[i].mem.type == ZYDIS_MEMOP_TYPE_MEM && k->insn.raw.modrm.mod != 3 &&
            (k->insn.attributes & ZYDIS_ATTRIB_HAS_MODRM || k->insn.raw.disp.size) &&
            k->ops[i].visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
            return &k->ops[i];
    return NULL;
}

/* Makes the operand's address one of ours, by its base register or its displacement, if that is
 * enough. */
static void aim(struct rng *r, struct insn_case *k, ZydisDecodedOperand *o)
{
    enum seg_id s = (enum seg_id)(o->mem.segment - ZYDIS_REGISTER_ES);
    int base = gpr_of(o->mem.base);
    uint64_t mask = address_mask(k), to = address(r), by;

    if (pick(r, 16))
        to &= ~(uint64_t)(wanted_alignment(k) - 1);
    by = offset_in(k, s, to) - operand_offset(k, o);
    if (base >= 0 && o->mem.base != o->mem.index) {
        k->in.gpr[base] = (k->in.gpr[base] & ~mask) | ((k->in.gpr[base] + by) & mask);
    } else if (o->mem.base == ZYDIS_REGISTER_NONE && k->insn.raw.disp.size >= 16) {
        uint64_t disp = (uint64_t)o->mem.disp.value + by;

        memcpy(k->code + k->insn.raw.disp.offset, &disp, k->insn.raw.disp.size / 8);
        o->mem.disp.value = k->insn.raw.disp.size == 16   ? (int16_t)disp
                            : k->insn.raw.disp.size == 32 ? (int32_t)disp
                                                          : (int64_t)disp;
    }
}

static void note_memory(struct insn_case *k)
{
    const ZydisDecodedOperand *o = memory_operand(k);
    uint64_t off = o ? operand_offset(k, o) : 0;

    k->has_mem = o;
    if (!o)
        return;
    k->mem_at = seg_linear(k, (enum seg_id)(o->mem.segment - ZYDIS_REGISTER_ES), off);
    k->mem_wraps = off > address_mask(k) - sizeof(struct xsave_area);
}

static void find_memory(struct rng *r, struct insn_case *k)
{
    const ZydisDecodedOperand *o = memory_operand(k);

    if (o && pick(r, 8))
        aim(r, k, &k->ops[o - k->ops]);
    note_memory(k);
}

/* ---- what lies there ---- */

static void plant(struct insn_case *k, uint64_t at, const void *p, unsigned bytes)
{
    if (at >= DATA_AT && at - DATA_AT <= AREA_BYTES - bytes)
        memcpy(k->data + (at - DATA_AT), p, bytes);
}

static uint64_t stack_at(const struct insn_case *k, unsigned skip)
{
    uint64_t sp = k->in.gpr[RSP];

    if (k->mode != CODE64)
        sp = seg_of(k->in.sel[SEG_SS]).attr & SEG_DB ? (uint32_t)sp : (uint16_t)sp;
    return seg_linear(k, SEG_SS, sp + skip);
}

/* An offset in the code segment a selector means. */
static uint64_t code_offset(struct rng *r, uint16_t sel)
{
    if (!pick(r, 8))
        return random_edge(r);
    return CODE_AT + pick(r, CODE_BYTES + 16) - seg_of(sel).base;
}

static bool writes_segment(const ZydisDecodedOperand *o)
{
    return o->type == ZYDIS_OPERAND_TYPE_REGISTER &&
           ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_SEGMENT &&
           (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
}

/* Operands that are selectors, in a register or in memory. */
static void plant_selectors(struct rng *r, struct insn_case *k)
{
    const ZydisDecodedInstruction *in = &k->insn;
    uint16_t sel = random_sel(r);
    unsigned source = 1;

    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
        source = 0;
        break;
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LSL:
        break;
    case ZYDIS_MNEMONIC_POP:
        if (!writes_segment(&k->ops[0]))
            return;
        plant(k, stack_at(k, 0), &sel, 2);
        return;
    case ZYDIS_MNEMONIC_LDS:
    case ZYDIS_MNEMONIC_LES:
    case ZYDIS_MNEMONIC_LSS:
    case ZYDIS_MNEMONIC_LFS:
    case ZYDIS_MNEMONIC_LGS:
        plant(k, k->mem_at + in->operand_width / 8, &sel, 2);
        return;
    case ZYDIS_MNEMONIC_MOV:
        if (!writes_segment(&k->ops[0]))
            return;
        break;
    default:
        return;
    }
    if (k->ops[source].type == ZYDIS_OPERAND_TYPE_REGISTER)
        memcpy(&k->in.gpr[ZydisRegisterGetId(k->ops[source].reg.value)], &sel, 2);
    else
        plant(k, k->mem_at, &sel, 2);
}

static uint64_t random_flags(struct rng *r)
{
    uint64_t f = RFLAGS_FIXED1 | RFLAGS_IF | (rnd(r) & (RFLAGS_ARITH | RFLAGS_DF));

    if (!pick(r, 16))
        f |= RFLAGS_AC;
    if (!pick(r, 16))
        f |= RFLAGS_NT;
    return f;
}

/*
 * A far call to 64-bit code pushes by the whole of RSP, which is undefined above a 16-bit stack and
 * wraps around otherwise; and Linux takes such a fault in compatibility mode for an erratum of old
 * processors and tries again for ever.
 */
static void spare_the_kernel(struct insn_case *k, uint16_t *sel)
{
    if (k->insn.mnemonic != ZYDIS_MNEMONIC_CALL || k->mode == CODE64)
        return;
    k->in.gpr[RSP] |= 64;
    if (!(k->in.sel[SEG_SS] & 4))
        return;
    if (k->has_mem)
        k->in.sel[SEG_SS] = SEL_USER_DS;
    else if ((*sel & ~3u) == (SEL_USER64_CS & ~3u))
        *sel = SEL_USER32_CS;
}

/* Far jumps, calls and returns. */
static void plant_far(struct rng *r, struct insn_case *k)
{
    static const uint16_t code[] = {
        SEL_USER32_CS,      SEL_USER32_CS,           SEL_USER64_CS, LDT_CODE16 * 8 + 7,
        LDT_CODE32 * 8 + 7, LDT_CODE16_HIGH * 8 + 7, SEL_USER_DS,   LDT_ABSENT_CODE * 8 + 7,
    };
    uint16_t sel = pick(r, 4) ? code[pick(r, ARRAY_SIZE(code))] : random_sel(r);
    uint64_t off = code_offset(r, sel), frame[5];
    unsigned bytes = k->insn.operand_width / 8;

    if (k->insn.meta.branch_type != ZYDIS_BRANCH_TYPE_FAR &&
        k->insn.meta.category != ZYDIS_CATEGORY_RET && k->insn.mnemonic != ZYDIS_MNEMONIC_IRET &&
        k->insn.mnemonic != ZYDIS_MNEMONIC_IRETD && k->insn.mnemonic != ZYDIS_MNEMONIC_IRETQ)
        return;
    spare_the_kernel(k, &sel);
    if (k->ops[0].type == ZYDIS_OPERAND_TYPE_POINTER) {
        bytes = k->insn.raw.imm[0].size / 8;
        memcpy(k->code + k->insn.raw.imm[0].offset, &off, bytes);
        memcpy(k->code + k->insn.raw.imm[1].offset, &sel, 2);
    } else if (k->has_mem) {
        plant(k, k->mem_at, &off, bytes);
        plant(k, k->mem_at + bytes, &sel, 2);
    } else { /* returns; IRET of 64-bit code takes five values */
        frame[0] = off, frame[1] = sel, frame[2] = random_flags(r);
        frame[3] = offset_in(k, SEG_SS, address(r));
        frame[4] = pick(r, 4) ? random_stack_sel(r, CODE16) : random_sel(r);
        for (unsigned i = 0; i < 5; i++)
            plant(k, stack_at(k, i * bytes), &frame[i], bytes);
    }
}

/* An image for XRSTOR, FXRSTOR, FRSTOR, FLDENV; for the saving instructions it is what they find.
 * XSAVE's masks are cut to the components both sides have. */
static void plant_fpu_image(struct rng *r, struct insn_case *k)
{
    const uint64_t parts = XCR0_X87 | XCR0_SSE | XCR0_AVX;
    struct xsave_area x;

    if (wanted_alignment(k) == 1)
        return;
    random_fpu(r, &x);
    x.mxcsr_mask = (uint32_t)rnd(r);
    if (!pick(r, 8))
        x.mxcsr |= 1u << (18 + pick(r, 14)); /* bit 17 is AMD's MM, which only the host has */
    if (wanted_alignment(k) == 16) {
        plant(k, k->mem_at, &x, 512);
        return;
    }
    k->in.gpr[RAX] = (k->in.gpr[RAX] & ~0xffffffffull) | (rnd(r) & parts);
    k->in.gpr[RDX] &= ~0xffffffffull;
    x.xstate_bv = rnd(r) & parts;
    if (!pick(r, 3)) /* compacted */
        x.xcomp_bv = 1ull << 63 | (pick(r, 4) ? parts : rnd(r) & parts);
    if (!pick(r, 8)) /* bits 32 to 60 are nobody's */
        x.xstate_bv |= 1ull << (32 + pick(r, 29));
    if (!pick(r, 8))
        x.xcomp_bv |= 1ull << (32 + pick(r, 29));
    if (!pick(r, 8))
        x.rsvd2[pick(r, 6)] = 1ull << pick(r, 64);
    if (!pick(r, 16))
        x.xstate_bv = rnd(r);
    plant(k, k->mem_at, &x, sizeof(x));
}

/* FSTENV's and FSAVE's format differs by operand size; random data gets past all its checks, there
 * are none. What stays is that exceptions would always be pending. */
static void plant_fpu_control(struct rng *r, struct insn_case *k)
{
    uint16_t fcw = (uint16_t)(rnd(r) | 0x3f);

    if ((k->insn.mnemonic == ZYDIS_MNEMONIC_FLDENV || k->insn.mnemonic == ZYDIS_MNEMONIC_FRSTOR ||
         k->insn.mnemonic == ZYDIS_MNEMONIC_FLDCW) &&
        pick(r, 2))
        plant(k, k->mem_at, &fcw, 2);
}

void make_state(struct rng *r, struct insn_case *k)
{
    struct regs *g = &k->in;

    random_segments(r, k);
    for (unsigned i = 0; i < NR_GPRS; i++)
        g->gpr[i] = pick(r, 8) < 5 ? offset_in(k, usual_segment(i), address(r)) : random_edge(r);
    /* A repeat count that ends. */
    if (pick(r, 4))
        g->gpr[RCX] = pick(r, 3) ? g->gpr[RCX] & 0xff : random_edge(r);
    g->rflags = random_flags(r);
    k->code_off = pick(r, 16) ? 64 * pick(r, 100) : (unsigned)PAGE_BYTES - 1 - pick(r, 15);
    if (!pick(r, 32)) /* at the end of the area, and of the short code segments */
        k->code_off = (unsigned)CODE_BYTES - 1 - pick(r, 15);
    g->rip = offset_in(k, SEG_CS, CODE_AT + k->code_off);
    if (k->mode != CODE64) {
        g->rip = (uint32_t)g->rip;
        for (unsigned i = 0; i < NR_GPRS; i++)
            g->gpr[i] = (uint32_t)g->gpr[i];
    }
    random_fpu(r, &g->fpu);
    for (unsigned i = 0; i < AREA_BYTES; i += 8) {
        uint64_t v = rnd(r);

        memcpy(k->data + i, &v, 8);
    }
    find_memory(r, k);
    plant_selectors(r, k);
    plant_far(r, k);
    plant_fpu_image(r, k);
    plant_fpu_control(r, k);
    note_memory(k); /* once more: a register may be the operand's address and its selector */
}
