/* SPDX-License-Identifier: Apache-2.0 */
/* Control registers: what is refused, and what a change does to modes, TLB and PDPTEs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cpu/fakecpu.h"

enum outcome { TAKEN, GP, UD };

static enum outcome outcome(struct cpu *c, enum step st)
{
    if (st == STEP_NEXT)
        return TAKEN;
    assert_true(c->exc.valid);
    if (c->exc.vector == VEC_UD)
        return UD;
    assert_int_equal(c->exc.vector, VEC_GP);
    assert_int_equal(c->exc.err, 0);
    return GP;
}

/* What the processor was, what is written to which register, what becomes of it. */
struct write {
    const char *name;
    bool long64;
    uint64_t cr0, cr3, cr4, efer; /* set before */
    unsigned cr;
    uint64_t val; /* for CR0 and CR4: bits to toggle */
    enum outcome want;
    int flush; /* enum flush_kind, or NONE */
};
#define NONE (-1)

static void run(const struct write *t)
{
    static struct fake f;
    uint64_t val = t->val, old;
    enum outcome got;

    fake_init(&f);
    f.c.cr4 |= t->cr4;
    f.c.cr0 |= t->cr0;
    f.c.efer |= t->efer;
    if (t->long64)
        fake_long(&f);
    f.c.cr3 |= t->cr3;
    old = t->cr == 0 ? f.c.cr0 : t->cr == 4 ? f.c.cr4 : 0;
    got = outcome(&f.c, cpu_mov_to_cr(&f.c, t->cr, old ^ val));
    if (got != t->want)
        fail_msg("%s: %d instead of %d", t->name, got, t->want);
    if (t->flush == NONE ? f.nr_flushes != 0 : !f.nr_flushes || (int)f.flush.kind != t->flush)
        fail_msg("%s: %u flushes, last of kind %d", t->name, f.nr_flushes, (int)f.flush.kind);
    if (got != TAKEN && (t->cr == 0 || t->cr == 4))
        assert_int_equal(t->cr == 0 ? f.c.cr0 : f.c.cr4, old);
}

static void test_mov_to_cr_checks_and_flushes(void **state)
{
    static const struct write t[] = {
        { .name = "CR0.MP", .cr = 0, .val = CR0_MP, .flush = NONE },
        { .name = "CR0.WP", .cr = 0, .val = CR0_WP, .flush = FLUSH_ALL },
        { .name = "CR0.PG without PE", .cr = 0, .val = CR0_PG | CR0_PE, .want = GP, .flush = NONE },
        { .name = "CR0.PG", .cr = 0, .val = CR0_PG, .flush = FLUSH_ALL },
        { .name = "CR0.NW without CD", .cr = 0, .val = CR0_NW, .want = GP, .flush = NONE },
        { .name = "CR0.NW with CD", .cr = 0, .val = CR0_NW | CR0_CD, .flush = NONE },
        { .name = "CR0 upper half",
          .long64 = true,
          .cr = 0,
          .val = BIT64(32),
          .want = GP,
          .flush = NONE },
        { .name = "CR0 upper half, 32-bit code", .cr = 0, .val = BIT64(32), .flush = NONE },
        { .name = "CR0 unknown bit is ignored", .cr = 0, .val = BIT64(17), .flush = NONE },
        { .name = "CR0.PG off in 64-bit code",
          .long64 = true,
          .cr = 0,
          .val = CR0_PG,
          .want = GP,
          .flush = NONE },
        { .name = "LME without PAE",
          .efer = EFER_LME,
          .cr = 0,
          .val = CR0_PG,
          .want = GP,
          .flush = NONE },
        { .name = "LME with PAE",
          .efer = EFER_LME,
          .cr4 = CR4_PAE,
          .cr = 0,
          .val = CR0_PG,
          .flush = FLUSH_ALL },
        { .name = "CR1", .cr = 1, .want = UD, .flush = NONE },
        { .name = "CR5", .cr = 5, .want = UD, .flush = NONE },
        { .name = "CR3", .cr = 3, .val = 0x5000, .flush = FLUSH_NONGLOBAL },
        { .name = "CR3 beyond MAXPHYADDR",
          .long64 = true,
          .cr = 3,
          .val = BIT64(40),
          .want = GP,
          .flush = NONE },
        { .name = "CR3 bit 63 without PCIDE",
          .long64 = true,
          .cr = 3,
          .val = BIT64(63),
          .want = GP,
          .flush = NONE },
        { .name = "CR3 with PCIDE",
          .long64 = true,
          .cr4 = CR4_PCIDE,
          .cr = 3,
          .val = 0x5007,
          .flush = FLUSH_PCID },
        { .name = "CR3 keeping",
          .long64 = true,
          .cr4 = CR4_PCIDE,
          .cr = 3,
          .val = 0x5007 | CR3_NOFLUSH,
          .flush = NONE },
        { .name = "CR4.PGE", .cr = 4, .val = CR4_PGE, .flush = FLUSH_ALL },
        { .name = "CR4.SMEP", .cr = 4, .val = CR4_SMEP, .flush = FLUSH_ALL },
        { .name = "CR4.SMAP", .cr = 4, .val = CR4_SMAP, .flush = FLUSH_ALL },
        { .name = "CR4.OSFXSR", .cr = 4, .val = CR4_OSFXSR | CR4_OSXMMEXCPT, .flush = NONE },
        { .name = "CR4.VMXE", .cr = 4, .val = CR4_VMXE, .want = GP, .flush = NONE },
        { .name = "CR4.PKE", .cr = 4, .val = CR4_PKE, .want = GP, .flush = NONE },
        { .name = "CR4 upper half",
          .long64 = true,
          .cr = 4,
          .val = BIT64(32),
          .want = GP,
          .flush = NONE },
        { .name = "CR4.PAE off in long mode",
          .long64 = true,
          .cr = 4,
          .val = CR4_PAE,
          .want = GP,
          .flush = NONE },
        { .name = "CR4.LA57 in long mode",
          .long64 = true,
          .cr = 4,
          .val = CR4_LA57,
          .want = GP,
          .flush = NONE },
        { .name = "CR4.LA57 before", .cr = 4, .val = CR4_LA57, .flush = FLUSH_ALL },
        { .name = "CR4.PCIDE outside long mode",
          .cr = 4,
          .val = CR4_PCIDE,
          .want = GP,
          .flush = NONE },
        { .name = "CR4.PCIDE", .long64 = true, .cr = 4, .val = CR4_PCIDE, .flush = FLUSH_ALL },
        { .name = "CR4.PCIDE with a PCID in CR3",
          .long64 = true,
          .cr3 = 5,
          .cr = 4,
          .val = CR4_PCIDE,
          .want = GP,
          .flush = NONE },
        { .name = "CR8", .long64 = true, .cr = 8, .val = 15, .flush = NONE },
        { .name = "CR8 reserved", .long64 = true, .cr = 8, .val = 16, .want = GP, .flush = NONE },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
        run(&t[i]);
}

static void test_mov_cr_outside_ring_0_raises_gp(void **state)
{
    static const unsigned crs[] = { 0, 2, 3, 4, 8 };
    static struct fake f;
    uint64_t x;

    (void)state;
    fake_init(&f);
    fake_long(&f);
    fake_ring(&f, 3);
    for (unsigned i = 0; i < ARRAY_SIZE(crs); i++) {
        assert_int_equal(outcome(&f.c, cpu_mov_to_cr(&f.c, crs[i], 0)), GP);
        assert_int_equal(outcome(&f.c, cpu_mov_from_cr(&f.c, crs[i], &x)), GP);
    }
    assert_int_equal(outcome(&f.c, cpu_lmsw(&f.c, 1)), GP);
    assert_int_equal(outcome(&f.c, cpu_clts(&f.c)), GP);
    assert_int_equal(outcome(&f.c, cpu_invlpg(&f.c, GVA(0))), GP);
    assert_int_equal(outcome(&f.c, cpu_invpcid(&f.c, 2, 0, GVA(0))), GP);
}

static void test_feature_missing_makes_cr4_bit_reserved(void **state)
{
    static struct fake f;

    (void)state;
    fake_init(&f);
    f.model.words[FEAT_SMEP / 32] &= ~BIT(FEAT_SMEP % 32);
    assert_int_equal(outcome(&f.c, cpu_mov_to_cr(&f.c, 4, CR4_SMEP)), GP);
    assert_int_equal(outcome(&f.c, cpu_mov_to_cr(&f.c, 4, CR4_SMAP)), TAKEN);
}

static void test_long_mode_is_entered_and_left(void **state)
{
    static struct fake f;

    (void)state;
    fake_init(&f);
    f.c.cr4 = CR4_PAE;
    f.c.efer = EFER_LME;
    assert_int_equal(cpu_mov_to_cr(&f.c, 0, f.c.cr0 | CR0_PG), STEP_NEXT);
    assert_true(f.c.efer & EFER_LMA);
    assert_int_equal(f.c.mode & (MODE_LMA | MODE_PG | MODE_CS64), MODE_LMA | MODE_PG);
    /* From compatibility mode, paging may be turned off. */
    assert_int_equal(cpu_mov_to_cr(&f.c, 0, f.c.cr0 & ~CR0_PG), STEP_NEXT);
    assert_false(f.c.efer & EFER_LMA);
    assert_false(f.c.mode & MODE_LMA);
    /* With CS.L already set, or on Intel a 16-bit TSS, it cannot be entered. */
    f.c.seg[SEG_CS].attr |= SEG_L;
    assert_int_equal(outcome(&f.c, cpu_mov_to_cr(&f.c, 0, f.c.cr0 | CR0_PG)), GP);
    f.c.seg[SEG_CS].attr &= ~SEG_L;
    f.c.tr.attr = SEG_P | SYS_TSS16_BUSY;
    assert_int_equal(outcome(&f.c, cpu_mov_to_cr(&f.c, 0, f.c.cr0 | CR0_PG)), GP);
    f.model.vendor = VENDOR_AMD;
    assert_int_equal(outcome(&f.c, cpu_mov_to_cr(&f.c, 0, f.c.cr0 | CR0_PG)), TAKEN);
}

static void test_paging_off_with_pcide_raises_gp(void **state)
{
    static struct fake f;

    (void)state;
    fake_init(&f);
    fake_long(&f);
    f.c.cr4 |= CR4_PCIDE;
    f.c.seg[SEG_CS].attr ^= SEG_L | SEG_DB; /* compatibility mode */
    cpu_update_mode(&f.c);
    assert_int_equal(outcome(&f.c, cpu_mov_to_cr(&f.c, 0, f.c.cr0 & ~CR0_PG)), GP);
}

static void put_pdptes(struct fake *f, uint64_t at, uint64_t first)
{
    uint64_t t[4] = { first, 0x3001, 0, 0x6001 };

    memcpy(f->ram + at, t, sizeof(t));
}

static void test_pdptes_are_loaded_when_they_should(void **state)
{
    static const struct {
        uint64_t bit;
        bool loads;
    } t[] = {
        { CR4_TSD, false }, { CR4_PGE, true },   { CR4_PSE, true },
        { CR4_SMEP, true }, { CR4_SMAP, false },
    };
    static struct fake f;

    (void)state;
    fake_init(&f);
    put_pdptes(&f, 0x1020, 0x2001);
    put_pdptes(&f, 0x4000, 0x5001);
    f.c.cr3 = 0x1020;
    f.c.cr4 = CR4_PAE;
    assert_int_equal(cpu_mov_to_cr(&f.c, 0, f.c.cr0 | CR0_PG), STEP_NEXT);
    assert_int_equal(f.c.pdpte[0], 0x2001);
    assert_int_equal(f.c.pdpte[3], 0x6001);
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        f.c.pdpte[0] = 0x7001;
        assert_int_equal(cpu_mov_to_cr(&f.c, 4, f.c.cr4 ^ t[i].bit), STEP_NEXT);
        assert_int_equal(f.c.pdpte[0], t[i].loads ? 0x2001 : 0x7001);
    }
    f.c.pdpte[0] = 0x7001;
    assert_int_equal(cpu_mov_to_cr(&f.c, 0, f.c.cr0 | CR0_CD), STEP_NEXT);
    assert_int_equal(f.c.pdpte[0], 0x2001);
    assert_int_equal(cpu_mov_to_cr(&f.c, 3, 0x4000), STEP_NEXT);
    assert_int_equal(f.c.pdpte[0], 0x5001);
}

static void test_reserved_bit_in_pdpte_raises_gp_and_changes_nothing(void **state)
{
    static const uint64_t bad[] = { 0x2003, 0x2021, 0x2101, BIT64(40) | 1, BIT64(63) | 1 };
    static struct fake f;

    (void)state;
    fake_init(&f);
    put_pdptes(&f, 0x1000, 0x2001);
    f.c.cr3 = 0x1000;
    f.c.cr4 = CR4_PAE;
    assert_int_equal(cpu_mov_to_cr(&f.c, 0, f.c.cr0 | CR0_PG), STEP_NEXT);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        put_pdptes(&f, 0x4000, bad[i]);
        assert_int_equal(outcome(&f.c, cpu_mov_to_cr(&f.c, 3, 0x4000)), GP);
        assert_int_equal(f.c.cr3, 0x1000);
        assert_int_equal(f.c.pdpte[0], 0x2001);
    }
    put_pdptes(&f, 0x4000, 0x1e6); /* absent: nothing is reserved */
    assert_int_equal(outcome(&f.c, cpu_mov_to_cr(&f.c, 3, 0x4000)), TAKEN);
}

static void test_lmsw_sets_but_does_not_clear_pe(void **state)
{
    static struct fake f;

    (void)state;
    fake_init(&f);
    f.c.cr0 = CR0_ET | CR0_WP;
    cpu_update_mode(&f.c);
    assert_int_equal(cpu_lmsw(&f.c, 0xffff), STEP_NEXT);
    assert_int_equal(f.c.cr0, CR0_ET | CR0_WP | CR0_PE | CR0_MP | CR0_EM | CR0_TS);
    assert_true(f.c.mode & MODE_PE);
    assert_int_equal(cpu_lmsw(&f.c, 0), STEP_NEXT);
    assert_int_equal(f.c.cr0, CR0_ET | CR0_WP | CR0_PE);
    f.c.cr0 |= CR0_TS;
    assert_int_equal(cpu_clts(&f.c), STEP_NEXT);
    assert_false(f.c.cr0 & CR0_TS);
}

static void test_xsetbv_checks(void **state)
{
    static const struct {
        uint32_t idx;
        uint64_t val;
        enum outcome want;
    } t[] = {
        { 0, 1, TAKEN }, { 0, 3, TAKEN }, { 0, 7, TAKEN }, { 0, 0, GP },
        { 0, 2, GP },    { 0, 5, GP },    { 0, 15, GP },   { 1, 1, GP },
    };
    static struct fake f;
    uint64_t x;

    (void)state;
    fake_init(&f);
    assert_int_equal(outcome(&f.c, cpu_xsetbv(&f.c, 0, 1)), UD);
    assert_int_equal(outcome(&f.c, cpu_xgetbv(&f.c, 0, &x)), UD);
    f.c.cr4 |= CR4_OSXSAVE;
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        assert_int_equal(outcome(&f.c, cpu_xsetbv(&f.c, t[i].idx, t[i].val)), t[i].want);
        if (t[i].want == TAKEN)
            assert_int_equal(f.c.xcr0, t[i].val);
    }
    assert_int_equal(cpu_xgetbv(&f.c, 0, &x), STEP_NEXT);
    assert_int_equal(x, 7);
    assert_int_equal(outcome(&f.c, cpu_xgetbv(&f.c, 2, &x)), GP);
    fake_ring(&f, 3);
    assert_int_equal(outcome(&f.c, cpu_xsetbv(&f.c, 0, 1)), GP);
}

static void test_invlpg_and_invpcid_flush_what_they_name(void **state)
{
    static const struct {
        uint64_t type, pcid, at, pcide;
        enum outcome want;
        enum flush_kind kind;
    } t[] = {
        { 0, 5, 0x4000, CR4_PCIDE, TAKEN, FLUSH_PCID_PAGE },
        { 0, 5, 0x4000, 0, GP, 0 },
        { 0, 0, 0x4000, 0, TAKEN, FLUSH_PCID_PAGE },
        { 0, 0, 0x0001000000000000, CR4_PCIDE, GP, 0 },
        { 1, 5, 0x0001000000000000, CR4_PCIDE, TAKEN, FLUSH_PCID },
        { 1, 5, 0, 0, GP, 0 },
        { 2, 0, 0, 0, TAKEN, FLUSH_ALL },
        { 3, 0, 0, 0, TAKEN, FLUSH_NONGLOBAL },
        { 3, 0x1000, 0, 0, GP, 0 },
        { 4, 0, 0, 0, GP, 0 },
    };
    static struct fake f;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        fake_init(&f);
        fake_long(&f);
        f.c.cr4 |= t[i].pcide;
        assert_int_equal(outcome(&f.c, cpu_invpcid(&f.c, t[i].type, t[i].pcid, GVA(t[i].at))),
                         t[i].want);
        assert_int_equal(f.nr_flushes, t[i].want == TAKEN);
        if (t[i].want == TAKEN)
            assert_int_equal(f.flush.kind, t[i].kind);
    }
    fake_init(&f);
    fake_long(&f);
    assert_int_equal(cpu_invlpg(&f.c, GVA(0x0001000000000000)), STEP_NEXT);
    assert_int_equal(f.nr_flushes, 0);
    assert_int_equal(cpu_invlpg(&f.c, GVA(0x7123)), STEP_NEXT);
    assert_int_equal(f.flush.kind, FLUSH_PAGE);
    assert_int_equal(f.flush.at.v, 0x7123);
}

static void test_cr8_is_tpr(void **state)
{
    static struct fake f;
    uint64_t x;

    (void)state;
    fake_init(&f);
    f.model.words[FEAT_CR8_LEGACY / 32] &= ~BIT(FEAT_CR8_LEGACY % 32);
    assert_int_equal(outcome(&f.c, cpu_mov_from_cr(&f.c, 8, &x)), UD);
    fake_long(&f);
    assert_int_equal(cpu_mov_to_cr(&f.c, 8, 9), STEP_NEXT);
    assert_int_equal(apic_mmio_read(&f.c, 0x80), 0x90);
    apic_mmio_write(&f.c, 0x80, 0xa7);
    assert_int_equal(cpu_mov_from_cr(&f.c, 8, &x), STEP_NEXT);
    assert_int_equal(x, 0xa);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mov_to_cr_checks_and_flushes),
        cmocka_unit_test(test_mov_cr_outside_ring_0_raises_gp),
        cmocka_unit_test(test_feature_missing_makes_cr4_bit_reserved),
        cmocka_unit_test(test_long_mode_is_entered_and_left),
        cmocka_unit_test(test_paging_off_with_pcide_raises_gp),
        cmocka_unit_test(test_pdptes_are_loaded_when_they_should),
        cmocka_unit_test(test_reserved_bit_in_pdpte_raises_gp_and_changes_nothing),
        cmocka_unit_test(test_lmsw_sets_but_does_not_clear_pe),
        cmocka_unit_test(test_xsetbv_checks),
        cmocka_unit_test(test_invlpg_and_invpcid_flush_what_they_name),
        cmocka_unit_test(test_cr8_is_tpr),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
