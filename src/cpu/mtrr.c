/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory type range registers (SDM 3, "Memory Type Range Registers (MTRRs)").
 *
 * Kept and checked as hardware does; they have no effect here, because emulated memory has one
 * type: the host's write-back.
 */
#include "cpu/msr_impl.h"

#define NR_VAR       8
#define MTRRCAP_FIX  BIT(8)
#define MTRRCAP_WC   BIT(10)
#define DEF_FE       BIT(10)
#define DEF_E        BIT(11)
#define PHYSMASK_V   BIT(11)
#define TYPE_UC      0
#define TYPE_WB      6
#define FIX16K_80000 0x258
#define FIX4K_C0000  0x268

/* UC, WC, WT, WP, WB */
static bool is_type(uint64_t type)
{
    return type == 0 || type == 1 || (type >= 4 && type <= 6);
}

static uint64_t phys_mask(const struct cpu *c)
{
    return (BIT64(c->model->phys_bits) - 1) & PAGE_MASK;
}

enum step mtrr_rd_cap(struct cpu *c, uint32_t msr, uint64_t *val)
{
    (void)c, (void)msr;
    *val = NR_VAR | MTRRCAP_FIX | MTRRCAP_WC;
    return STEP_NEXT;
}

enum step mtrr_rd_def_type(struct cpu *c, uint32_t msr, uint64_t *val)
{
    (void)msr;
    *val = c->mtrr_def_type;
    return STEP_NEXT;
}

enum step mtrr_wr_def_type(struct cpu *c, uint32_t msr, uint64_t val)
{
    (void)msr;
    if ((val & ~(uint64_t)(0xff | DEF_FE | DEF_E)) || !is_type(val & 0xff))
        return raise_gp(c, 0);
    c->mtrr_def_type = val;
    return STEP_NEXT;
}

/* 200h.. are pairs: base, mask, base, ... */
enum step mtrr_rd_var(struct cpu *c, uint32_t msr, uint64_t *val)
{
    unsigned i = (msr - MSR_MTRR_PHYSBASE0) / 2;

    *val = msr & 1 ? c->mtrr_physmask[i] : c->mtrr_physbase[i];
    return STEP_NEXT;
}

enum step mtrr_wr_var(struct cpu *c, uint32_t msr, uint64_t val)
{
    unsigned i = (msr - MSR_MTRR_PHYSBASE0) / 2;
    uint64_t low = msr & 1 ? PHYSMASK_V : 0xff;

    if (val & ~(phys_mask(c) | low))
        return raise_gp(c, 0);
    if (msr & 1) {
        c->mtrr_physmask[i] = val;
        return STEP_NEXT;
    }
    if (!is_type(val & 0xff))
        return raise_gp(c, 0);
    c->mtrr_physbase[i] = val;
    return STEP_NEXT;
}

/* 250h: 64 KB ranges, 258h and 259h: 16 KB, 268h to 26fh: 4 KB. */
static uint64_t *fixed(struct cpu *c, uint32_t msr)
{
    if (msr >= FIX4K_C0000)
        return &c->mtrr_fixed[3 + msr - FIX4K_C0000];
    if (msr >= FIX16K_80000)
        return &c->mtrr_fixed[1 + msr - FIX16K_80000];
    return &c->mtrr_fixed[0];
}

enum step mtrr_rd_fixed(struct cpu *c, uint32_t msr, uint64_t *val)
{
    *val = *fixed(c, msr);
    return STEP_NEXT;
}

enum step mtrr_wr_fixed(struct cpu *c, uint32_t msr, uint64_t val)
{
    for (unsigned i = 0; i < 64; i += 8)
        if (!is_type(val >> i & 0xff))
            return raise_gp(c, 0);
    *fixed(c, msr) = val;
    return STEP_NEXT;
}

void cpu_firmware_mtrrs(struct cpu *c, gpa_t hole)
{
    uint64_t end = GIB(4), at = hole.v, bytes;

    BUG_ON(at == 0 || at % PAGE_BYTES);
    for (unsigned i = 0; i < ARRAY_SIZE(c->mtrr_fixed); i++)
        c->mtrr_fixed[i] = 0x0606060606060606ull;
    c->mtrr_fixed[1 + 1] = 0; /* A0000h..BFFFFh: video memory */
    for (unsigned i = 0; i < NR_VAR && at < end; i++, at += bytes) {
        bytes =
            at & -at; /* as large as its alignment allows; so it always ends at or before 4 GB */
        c->mtrr_physbase[i] = at | TYPE_UC;
        c->mtrr_physmask[i] = (phys_mask(c) & ~(bytes - 1)) | PHYSMASK_V;
    }
    c->mtrr_def_type = DEF_E | DEF_FE | TYPE_WB;
}
