/* SPDX-License-Identifier: Apache-2.0 */
/* The page walk: every mode, page size, right, reserved bit and error code. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cpu/fakecpu.h"

#define P  1ull
#define W  2ull
#define U  4ull
#define A  0x20ull
#define D  0x40ull
#define PS 0x80ull
#define G  0x100ull
#define NX BIT64(63)

enum mode { M32, PAE, L4, L5 };

/* Levels are numbered from the page table up; the table of level n is the page n * 1000h. */
struct setup {
    const char *name;
    enum mode mode;
    unsigned leaf;     /* level of the leaf: 1, 2 or 3 */
    unsigned level;    /* the entry to change: */
    uint64_t set, clr; /* (bits of it; entries are P|W|U else) */
    uint64_t cr0, cr4, efer, rflags;
    unsigned acc, cpl;
    int err; /* expected error code, or OK */
};
#define OK (-1)

static uint64_t lin_of(enum mode mode)
{
    return mode == L5 ? 0x00f1804030201678ull : mode == L4 ? 0xffff804030a01678ull : 0x80a01678ull;
}

static unsigned top_level(enum mode mode)
{
    return mode == L5 ? 5 : mode == L4 ? 4 : 2;
}

static unsigned entry_bytes(enum mode mode)
{
    return mode == M32 ? 4 : 8;
}

static unsigned shift_of(enum mode mode, unsigned level)
{
    return 12 + (level - 1) * (mode == M32 ? 10 : 9);
}

static uint64_t leaf_base(enum mode mode)
{
    return mode == M32 ? 0x40000000 : 0x140000000;
}

static uint64_t entry_at(const struct setup *s, unsigned level)
{
    unsigned bytes = entry_bytes(s->mode);
    uint64_t idx = lin_of(s->mode) >> shift_of(s->mode, level) & (4096 / bytes - 1);

    return 0x1000 * level + idx * bytes;
}

static void build(struct fake *f, const struct setup *s)
{
    unsigned top = top_level(s->mode);

    fake_init(f);
    f->c.cr0 |= CR0_PG | s->cr0;
    f->c.cr4 |= s->cr4 | (s->mode == M32 ? 0 : CR4_PAE) | (s->mode == L5 ? CR4_LA57 : 0);
    f->c.efer = s->efer | (s->mode >= L4 ? EFER_LME | EFER_LMA : 0);
    f->c.rflags |= s->rflags;
    f->c.cr3 = 0x1000 * top;
    f->c.pdpte[bits(lin_of(s->mode), 31, 30)] = 0x2000 | P;
    fake_ring(f, s->cpl);
    for (unsigned l = top; l >= s->leaf; l--) {
        uint64_t e = P | W | U;

        if (l == s->leaf)
            e |= leaf_base(s->mode) | (l > 1 ? PS : 0);
        else
            e |= 0x1000 * (l - 1);
        if (l == s->level)
            e = (e | s->set) & ~s->clr;
        memcpy(f->ram + entry_at(s, l), &e, entry_bytes(s->mode));
    }
}

static uint64_t entry_now(struct fake *f, const struct setup *s, unsigned level)
{
    return fake_phys_read(&f->c, GPA(entry_at(s, level)), entry_bytes(s->mode));
}

static void check_flags(struct fake *f, const struct setup *s)
{
    bool fault = s->err != OK, past = false;

    for (unsigned l = top_level(s->mode); l >= s->leaf; l--) {
        uint64_t want = 0;

        /* An entry that is absent or malformed is not used, nor is what is below. */
        if (fault && l == s->level && (!(s->err & PF_P) || (s->err & PF_RSVD)))
            past = true;
        if (!past && l > s->leaf)
            want = A;
        if (!fault && l == s->leaf)
            want = s->acc & ACC_WRITE ? A | D : A;
        assert_int_equal(entry_now(f, s, l) & (l == s->leaf ? A | D : A), want);
    }
}

static void run(const struct setup *s)
{
    static struct fake f;
    struct walk w = { .at = GVA(lin_of(s->mode)), .acc = s->acc };
    uint64_t low = BIT64(shift_of(s->mode, s->leaf)) - 1;
    enum step st;
    gpa_t pa;

    build(&f, s);
    if (cpu_peek_walk(&f.c, w.at, &pa))
        assert_int_equal(pa.v & low, w.at.v & low);
    else
        assert_int_not_equal(s->err, OK);
    st = cpu_walk(&f.c, &w);
    if (s->err == OK) {
        if (st != STEP_NEXT)
            fail_msg("%s: faulted with %#x", s->name, f.c.exc.err);
        assert_int_equal(w.pa.v, (leaf_base(s->mode) & ~low) | (w.at.v & low));
        assert_int_equal(w.pa.v, pa.v);
        assert_int_equal(w.shift, shift_of(s->mode, s->leaf));
    } else {
        if (st != STEP_FAULT || (int)f.c.exc.err != s->err)
            fail_msg("%s: step %d, error code %#x instead of %#x", s->name, st, f.c.exc.err,
                     s->err);
        assert_int_equal(f.c.exc.vector, VEC_PF);
        assert_int_equal(f.c.exc.addr, w.at.v);
    }
    check_flags(&f, s);
}

#define RUN(table)                                   \
    for (unsigned i = 0; i < ARRAY_SIZE(table); i++) \
    run(&table[i])

static void test_walk_finds_pages_of_every_size(void **state)
{
    static const struct setup t[] = {
        { .name = "4K", .mode = M32, .leaf = 1, .err = OK },
        { .name = "4M", .mode = M32, .leaf = 2, .cr4 = CR4_PSE, .err = OK },
        { .name = "PAE 4K", .mode = PAE, .leaf = 1, .err = OK },
        { .name = "PAE 2M", .mode = PAE, .leaf = 2, .err = OK },
        { .name = "long 4K", .mode = L4, .leaf = 1, .err = OK },
        { .name = "long 2M", .mode = L4, .leaf = 2, .err = OK },
        { .name = "long 1G", .mode = L4, .leaf = 3, .err = OK },
        { .name = "5-level 4K", .mode = L5, .leaf = 1, .err = OK },
        { .name = "5-level 2M", .mode = L5, .leaf = 2, .acc = ACC_WRITE, .err = OK },
        { .name = "5-level 1G", .mode = L5, .leaf = 3, .acc = ACC_EXEC, .err = OK },
        { .name = "write sets D", .mode = M32, .leaf = 1, .acc = ACC_WRITE, .err = OK },
        { .name = "write sets D", .mode = L4, .leaf = 3, .acc = ACC_WRITE, .err = OK },
        { .name = "user", .mode = L4, .leaf = 1, .cpl = 3, .acc = ACC_WRITE, .err = OK },
    };

    (void)state;
    RUN(t);
}

static void test_walk_absent_entry_raises_pf_with_p_clear(void **state)
{
    static const struct setup t[] = {
        { .name = "PTE", .mode = M32, .leaf = 1, .level = 1, .clr = P, .err = 0 },
        { .name = "PDE", .mode = M32, .leaf = 1, .level = 2, .clr = P, .err = 0 },
        { .name = "write",
          .mode = M32,
          .leaf = 1,
          .level = 1,
          .clr = P,
          .acc = ACC_WRITE,
          .err = PF_W },
        { .name = "user", .mode = PAE, .leaf = 1, .level = 2, .clr = P, .cpl = 3, .err = PF_U },
        { .name = "PML4E", .mode = L4, .leaf = 1, .level = 4, .clr = P, .err = 0 },
        { .name = "PDPTE", .mode = L4, .leaf = 1, .level = 3, .clr = P, .err = 0 },
        { .name = "PML5E", .mode = L5, .leaf = 1, .level = 5, .clr = P, .err = 0 },
        { .name = "absent beats reserved",
          .mode = L4,
          .leaf = 1,
          .level = 1,
          .clr = P,
          .set = BIT64(51) | NX,
          .err = 0 },
        { .name = "fetch, nothing forbids fetches",
          .mode = L4,
          .leaf = 1,
          .level = 1,
          .clr = P,
          .acc = ACC_EXEC,
          .err = 0 },
        { .name = "fetch, NXE",
          .mode = L4,
          .leaf = 1,
          .level = 1,
          .clr = P,
          .acc = ACC_EXEC,
          .efer = EFER_NXE,
          .err = PF_I },
        { .name = "fetch, SMEP",
          .mode = M32,
          .leaf = 1,
          .level = 1,
          .clr = P,
          .acc = ACC_EXEC,
          .cr4 = CR4_SMEP,
          .err = PF_I },
        { .name = "fetch, NXE without PAE",
          .mode = M32,
          .leaf = 1,
          .level = 1,
          .clr = P,
          .acc = ACC_EXEC,
          .efer = EFER_NXE,
          .err = 0 },
    };

    (void)state;
    RUN(t);
}

static void test_walk_rights_decide_and_raise_pf_with_p_set(void **state)
{
    static const struct setup t[] = {
        { .name = "user, PTE.U clear",
          .mode = M32,
          .leaf = 1,
          .level = 1,
          .clr = U,
          .cpl = 3,
          .err = PF_P | PF_U },
        { .name = "user, PDE.U clear",
          .mode = M32,
          .leaf = 1,
          .level = 2,
          .clr = U,
          .cpl = 3,
          .err = PF_P | PF_U },
        { .name = "user, PML4E.U clear",
          .mode = L4,
          .leaf = 1,
          .level = 4,
          .clr = U,
          .cpl = 3,
          .acc = ACC_WRITE,
          .err = PF_P | PF_U | PF_W },
        { .name = "super for user",
          .mode = L4,
          .leaf = 1,
          .level = 1,
          .clr = U,
          .acc = ACC_USER,
          .err = PF_P | PF_U },
        { .name = "ring 3, implicit",
          .mode = L4,
          .leaf = 1,
          .level = 1,
          .clr = U,
          .cpl = 3,
          .acc = ACC_IMPLICIT,
          .err = OK },
        { .name = "ring 3, inner stack",
          .mode = L4,
          .leaf = 1,
          .level = 1,
          .clr = U,
          .cpl = 3,
          .acc = ACC_SUPER | ACC_WRITE,
          .err = OK },
        { .name = "user write, W clear",
          .mode = PAE,
          .leaf = 1,
          .level = 1,
          .clr = W,
          .cpl = 3,
          .acc = ACC_WRITE,
          .err = PF_P | PF_U | PF_W },
        { .name = "user read, W clear",
          .mode = PAE,
          .leaf = 1,
          .level = 1,
          .clr = W,
          .cpl = 3,
          .err = OK },
        { .name = "super write, W clear, no WP",
          .mode = L4,
          .leaf = 1,
          .level = 1,
          .clr = W,
          .acc = ACC_WRITE,
          .err = OK },
        { .name = "super write, W clear, WP",
          .mode = L4,
          .leaf = 1,
          .level = 1,
          .clr = W,
          .cr0 = CR0_WP,
          .acc = ACC_WRITE,
          .err = PF_P | PF_W },
        { .name = "super write, upper W clear, WP",
          .mode = L4,
          .leaf = 2,
          .level = 4,
          .clr = W,
          .cr0 = CR0_WP,
          .acc = ACC_WRITE,
          .err = PF_P | PF_W },
        { .name = "fetch, NX",
          .mode = L4,
          .leaf = 1,
          .level = 1,
          .set = NX,
          .efer = EFER_NXE,
          .acc = ACC_EXEC,
          .err = PF_P | PF_I },
        { .name = "fetch, upper NX",
          .mode = L4,
          .leaf = 1,
          .level = 3,
          .set = NX,
          .efer = EFER_NXE,
          .acc = ACC_EXEC,
          .cpl = 3,
          .err = PF_P | PF_I | PF_U },
        { .name = "read, NX",
          .mode = PAE,
          .leaf = 2,
          .level = 2,
          .set = NX,
          .efer = EFER_NXE,
          .err = OK },
        { .name = "SMEP",
          .mode = L4,
          .leaf = 1,
          .cr4 = CR4_SMEP,
          .acc = ACC_EXEC,
          .err = PF_P | PF_I },
        { .name = "SMEP, super page",
          .mode = L4,
          .leaf = 1,
          .level = 2,
          .clr = U,
          .cr4 = CR4_SMEP,
          .acc = ACC_EXEC,
          .err = OK },
        { .name = "SMEP, user fetch",
          .mode = L4,
          .leaf = 1,
          .cr4 = CR4_SMEP,
          .acc = ACC_EXEC,
          .cpl = 3,
          .err = OK },
        { .name = "SMAP", .mode = L4, .leaf = 1, .cr4 = CR4_SMAP, .err = PF_P },
        { .name = "SMAP write",
          .mode = M32,
          .leaf = 1,
          .cr4 = CR4_SMAP,
          .acc = ACC_WRITE,
          .err = PF_P | PF_W },
        { .name = "SMAP, AC",
          .mode = L4,
          .leaf = 1,
          .cr4 = CR4_SMAP,
          .rflags = RFLAGS_AC,
          .err = OK },
        { .name = "SMAP, AC, implicit",
          .mode = L4,
          .leaf = 1,
          .cr4 = CR4_SMAP,
          .rflags = RFLAGS_AC,
          .acc = ACC_IMPLICIT,
          .err = PF_P },
        { .name = "SMAP, ring 3, AC, implicit",
          .mode = L4,
          .leaf = 1,
          .cr4 = CR4_SMAP,
          .rflags = RFLAGS_AC,
          .acc = ACC_IMPLICIT,
          .cpl = 3,
          .err = PF_P },
        { .name = "SMAP, super page",
          .mode = L4,
          .leaf = 1,
          .level = 1,
          .clr = U,
          .cr4 = CR4_SMAP,
          .err = OK },
        { .name = "SMAP, user", .mode = L4, .leaf = 1, .cr4 = CR4_SMAP, .cpl = 3, .err = OK },
    };

    (void)state;
    RUN(t);
}

#define RSVD (PF_P | PF_RSVD)

static void test_walk_reserved_bits_raise_pf_with_rsvd(void **state)
{
    static const struct setup t[] = {
        { .name = "PTE beyond MAXPHYADDR",
          .mode = L4,
          .leaf = 1,
          .level = 1,
          .set = BIT64(40),
          .err = RSVD },
        { .name = "PTE bit 51", .mode = PAE, .leaf = 1, .level = 1, .set = BIT64(51), .err = RSVD },
        { .name = "PTE bit 52, long",
          .mode = L4,
          .leaf = 1,
          .level = 1,
          .set = BIT64(52),
          .err = OK },
        { .name = "PTE bit 52, PAE",
          .mode = PAE,
          .leaf = 1,
          .level = 1,
          .set = BIT64(52),
          .err = RSVD },
        { .name = "PDE bit 62, PAE",
          .mode = PAE,
          .leaf = 1,
          .level = 2,
          .set = BIT64(62),
          .err = RSVD },
        { .name = "PML4E beyond MAXPHYADDR",
          .mode = L4,
          .leaf = 1,
          .level = 4,
          .set = BIT64(45),
          .acc = ACC_WRITE,
          .cpl = 3,
          .err = RSVD | PF_W | PF_U },
        { .name = "NX without NXE", .mode = L4, .leaf = 1, .level = 1, .set = NX, .err = RSVD },
        { .name = "NX without NXE, upper",
          .mode = L4,
          .leaf = 1,
          .level = 3,
          .set = NX,
          .err = RSVD },
        { .name = "PML4E.PS", .mode = L4, .leaf = 1, .level = 4, .set = PS, .err = RSVD },
        { .name = "PML5E.PS", .mode = L5, .leaf = 1, .level = 5, .set = PS, .err = RSVD },
        { .name = "2M bit 13", .mode = L4, .leaf = 2, .level = 2, .set = BIT64(13), .err = RSVD },
        { .name = "2M bit 20", .mode = PAE, .leaf = 2, .level = 2, .set = BIT64(20), .err = RSVD },
        { .name = "2M PAT", .mode = L4, .leaf = 2, .level = 2, .set = BIT64(12), .err = OK },
        { .name = "1G bit 29", .mode = L4, .leaf = 3, .level = 3, .set = BIT64(29), .err = RSVD },
        { .name = "4M bit 21",
          .mode = M32,
          .leaf = 2,
          .level = 2,
          .set = BIT64(21),
          .cr4 = CR4_PSE,
          .err = RSVD },
        { .name = "G in a PTE", .mode = L4, .leaf = 1, .level = 1, .set = G, .err = OK },
        { .name = "G in a PML4E, Intel", .mode = L4, .leaf = 1, .level = 4, .set = G, .err = OK },
        { .name = "reserved beats rights",
          .mode = L4,
          .leaf = 1,
          .level = 1,
          .set = BIT64(40),
          .clr = U,
          .cpl = 3,
          .err = RSVD | PF_U },
        { .name = "fetch",
          .mode = L4,
          .leaf = 1,
          .level = 1,
          .set = BIT64(40),
          .efer = EFER_NXE,
          .acc = ACC_EXEC,
          .err = RSVD | PF_I },
    };

    (void)state;
    RUN(t);
}

static void test_walk_vendor_and_feature_decide_reserved_bits(void **state)
{
    const struct setup g = { .mode = L4, .leaf = 1, .level = 4, .set = G };
    const struct setup gb = { .mode = L4, .leaf = 3 };
    static struct fake f;
    struct walk w = { .at = GVA(lin_of(L4)) };

    (void)state;
    build(&f, &g);
    f.model.vendor = VENDOR_AMD;
    assert_int_equal(cpu_walk(&f.c, &w), STEP_FAULT);
    assert_int_equal(f.c.exc.err, RSVD);
    build(&f, &gb);
    f.model.words[FEAT_PDPE1GB / 32] &= ~BIT(FEAT_PDPE1GB % 32);
    assert_int_equal(cpu_walk(&f.c, &w), STEP_FAULT);
    assert_int_equal(f.c.exc.err, RSVD);
}

static void test_walk_pse36_gives_address_bits_39_to_32(void **state)
{
    const struct setup s = {
        .mode = M32, .leaf = 2, .level = 2, .set = 0x5ull << 13, .cr4 = CR4_PSE
    };
    static struct fake f;
    struct walk w = { .at = GVA(lin_of(M32)) };

    (void)state;
    build(&f, &s);
    assert_int_equal(cpu_walk(&f.c, &w), STEP_NEXT);
    assert_int_equal(w.pa.v, 0x540201678);
    f.model.phys_bits = 36;
    f.ram[entry_at(&s, 2) + 2] |= 0x2; /* bit 17: address bit 36 */
    assert_int_equal(cpu_walk(&f.c, &w), STEP_FAULT);
    assert_int_equal(f.c.exc.err, RSVD);
}

static void test_walk_without_pse_ignores_ps(void **state)
{
    const struct setup s = { .mode = M32, .leaf = 1, .level = 2, .set = PS };
    static struct fake f;
    struct walk w = { .at = GVA(lin_of(M32)) };

    (void)state;
    build(&f, &s);
    assert_int_equal(cpu_walk(&f.c, &w), STEP_NEXT);
    assert_int_equal(w.shift, 12);
}

static void test_walk_reports_rights_and_memory_type(void **state)
{
    const struct setup s = { .mode = L4,
                             .leaf = 2,
                             .level = 2,
                             .cr4 = CR4_PGE,
                             .set = BIT64(12) | BIT64(4) | G | D,
                             .clr = W,
                             .efer = EFER_NXE };
    static struct fake f;
    struct walk w = { .at = GVA(lin_of(L4)) };

    (void)state;
    build(&f, &s);
    f.ram[entry_at(&s, 4) + 7] |= 0x80; /* NX in the PML4E */
    assert_int_equal(cpu_walk(&f.c, &w), STEP_NEXT);
    assert_true(w.user && w.global && w.dirty);
    assert_false(w.writable || w.exec);
    assert_int_equal(w.pat, 6);
    f.c.cr4 &= ~CR4_PGE;
    assert_int_equal(cpu_walk(&f.c, &w), STEP_NEXT);
    assert_false(w.global);
}

static void test_walk_entry_changed_meanwhile_walks_again(void **state)
{
    const struct setup s = { .mode = L4, .leaf = 1 };
    static struct fake f;
    struct walk w = { .at = GVA(lin_of(L4)), .acc = ACC_WRITE };

    (void)state;
    build(&f, &s);
    f.race_once = BIT(9); /* a bit for software: must survive */
    assert_int_equal(cpu_walk(&f.c, &w), STEP_NEXT);
    assert_int_equal(entry_now(&f, &s, 4) & (BIT64(9) | A), BIT64(9) | A);
    assert_int_equal(entry_now(&f, &s, 1) & (A | D), A | D);
}

static void test_walk_tables_in_rom_end_without_flags(void **state)
{
    const struct setup s = { .mode = L4, .leaf = 1 };
    static struct fake f;
    struct walk w = { .at = GVA(lin_of(L4)), .acc = ACC_WRITE };

    (void)state;
    build(&f, &s);
    f.rom = true;
    assert_int_equal(cpu_walk(&f.c, &w), STEP_NEXT);
    assert_int_equal(entry_now(&f, &s, 1) & (A | D), 0);
}

static void test_walk_peek_changes_nothing(void **state)
{
    const struct setup s = { .mode = L4, .leaf = 1, .level = 1, .clr = U };
    static struct fake f;
    gpa_t pa;

    (void)state;
    build(&f, &s);
    f.c.cpl = 3;
    assert_true(cpu_peek_walk(&f.c, GVA(lin_of(L4)), &pa));
    for (unsigned l = 4; l >= 1; l--)
        assert_int_equal(entry_now(&f, &s, l) & A, 0);
    assert_false(cpu_peek_walk(&f.c, GVA(0x0001000000000000), &pa));
    assert_false(cpu_peek_walk(&f.c, GVA(0x1000), &pa));
}

static void test_walk_paging_off_is_identity_of_32_bits(void **state)
{
    static struct fake f;
    struct walk w = { .at = GVA(0x1fee00123), .acc = ACC_WRITE };

    (void)state;
    fake_init(&f);
    assert_int_equal(cpu_walk(&f.c, &w), STEP_NEXT);
    assert_int_equal(w.pa.v, 0xfee00123);
    assert_true(w.user && w.writable && w.exec && w.dirty);
}

static void test_walk_absent_pdpte_register_raises_pf(void **state)
{
    const struct setup s = { .mode = PAE, .leaf = 1 };
    static struct fake f;
    struct walk w = { .at = GVA(0x1000), .acc = ACC_READ };

    (void)state;
    build(&f, &s);
    assert_int_equal(cpu_walk(&f.c, &w), STEP_FAULT);
    assert_int_equal(f.c.exc.err, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_walk_finds_pages_of_every_size),
        cmocka_unit_test(test_walk_absent_entry_raises_pf_with_p_clear),
        cmocka_unit_test(test_walk_rights_decide_and_raise_pf_with_p_set),
        cmocka_unit_test(test_walk_reserved_bits_raise_pf_with_rsvd),
        cmocka_unit_test(test_walk_vendor_and_feature_decide_reserved_bits),
        cmocka_unit_test(test_walk_pse36_gives_address_bits_39_to_32),
        cmocka_unit_test(test_walk_without_pse_ignores_ps),
        cmocka_unit_test(test_walk_reports_rights_and_memory_type),
        cmocka_unit_test(test_walk_entry_changed_meanwhile_walks_again),
        cmocka_unit_test(test_walk_tables_in_rom_end_without_flags),
        cmocka_unit_test(test_walk_peek_changes_nothing),
        cmocka_unit_test(test_walk_paging_off_is_identity_of_32_bits),
        cmocka_unit_test(test_walk_absent_pdpte_register_raises_pf),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
