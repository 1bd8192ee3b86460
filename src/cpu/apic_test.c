/* SPDX-License-Identifier: Apache-2.0 */
/* The local APIC: modes, registers, priorities, messages, timer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cpu/apic_impl.h"
#include "cpu/fakecpu.h"

#define X2(off) (0x800 + (off) / 16)
#define MASKED  0x10000u

static struct fake f;

/* Software-enabled, in xAPIC mode. */
static int set_up(void **state)
{
    (void)state;
    fake_init(&f);
    apic_mmio_write(&f.c, APIC_SVR, 0x1ff);
    return 0;
}

static uint32_t rd(uint32_t off)
{
    return apic_mmio_read(&f.c, off);
}

static void wr(uint32_t off, uint32_t val)
{
    apic_mmio_write(&f.c, off, val);
}

static void go_x2(void)
{
    assert_int_equal(apic_wrmsr(&f.c, MSR_APIC_BASE, f.c.apic.base_msr | APIC_BASE_X2APIC),
                     STEP_NEXT);
}

static bool msr_ok(uint32_t msr, uint64_t val)
{
    return apic_wrmsr(&f.c, msr, val) == STEP_NEXT;
}

static uint64_t rdmsr(uint32_t msr)
{
    uint64_t x;

    assert_int_equal(apic_rdmsr(&f.c, msr, &x), STEP_NEXT);
    return x;
}

static void deliver(uint8_t vector)
{
    apic_post(&f.c, vector, false);
    apic_sync(&f.c);
}

/* ---- modes ---- */

static void test_power_on_state(void **state)
{
    (void)state;
    fake_init(&f);
    assert_int_equal(f.c.apic.base_msr, 0xfee00900);
    assert_int_equal(rd(APIC_SVR), 0xff);
    assert_int_equal(rd(APIC_DFR), 0xffffffff);
    assert_int_equal(rd(APIC_VERSION), 0x01060014);
    assert_int_equal(rd(APIC_LVT_TIMER), MASKED);
    assert_int_equal(rd(APIC_LVT_LINT0), 0x700); /* virtual wire on the boot processor */
    assert_true(apic_accepts_extint(&f.c));
    assert_int_equal(f.nr_timer, 0);
    f.c.id = 1;
    apic_reset(&f.c, true);
    assert_int_equal(f.c.apic.base_msr, 0xfee00800);
    assert_int_equal(rd(APIC_LVT_LINT0), MASKED);
    assert_int_equal(rd(APIC_ID), 1 << 24);
}

static void test_init_keeps_mode_and_id(void **state)
{
    (void)state;
    f.c.apic.id = 0x25;
    go_x2();
    deliver(0x40);
    apic_reset(&f.c, false);
    assert_true(apic_is_x2(&f.c));
    assert_int_equal(rdmsr(X2(APIC_ID)), 0x25);
    assert_int_equal(rdmsr(X2(APIC_LDR)), 2 << 16 | 1 << 5);
    assert_int_equal(apic_pending_vector(&f.c), -1);
}

static void test_base_msr_transitions(void **state)
{
    enum { OFF = 0, XAPIC = 0x800, X2APIC = 0xc00, BAD = 0x400 };
    static const struct {
        unsigned from, to;
        bool ok;
    } t[] = {
        { XAPIC, X2APIC, true }, { XAPIC, OFF, true },     { XAPIC, BAD, false },
        { X2APIC, OFF, true },   { X2APIC, XAPIC, false }, { X2APIC, BAD, false },
        { OFF, XAPIC, true },    { OFF, X2APIC, false },   { OFF, BAD, false },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        fake_init(&f);
        f.c.apic.base_msr = 0xfee00100 | t[i].from;
        if (msr_ok(MSR_APIC_BASE, 0xfee00100 | t[i].to) != t[i].ok)
            fail_msg("case %u", i);
        assert_int_equal(f.c.apic.base_msr, 0xfee00100 | (t[i].ok ? t[i].to : t[i].from));
        assert_int_equal(f.nr_flushes, t[i].ok);
    }
    fake_init(&f);
    assert_false(msr_ok(MSR_APIC_BASE, 0xfee00a00)); /* bit 9 */
    assert_false(msr_ok(MSR_APIC_BASE, 0xfee00801));
    assert_false(msr_ok(MSR_APIC_BASE, BIT64(40) | 0xfee00800));
    assert_true(msr_ok(MSR_APIC_BASE, 0x12345800));
    assert_int_equal(f.c.apic.base_msr, 0x12345900); /* BSP stays */
    assert_true(apic_claims(&f.c, GPA(0x12345030)));
    assert_false(apic_claims(&f.c, GPA(0xfee00030)));
}

static void test_claims_only_in_xapic_mode(void **state)
{
    (void)state;
    assert_true(apic_claims(&f.c, GPA(0xfee00fff)));
    assert_false(apic_claims(&f.c, GPA(0xfee01000)));
    go_x2();
    assert_false(apic_claims(&f.c, GPA(0xfee00000)));
    assert_true(msr_ok(MSR_APIC_BASE, APIC_BASE_DEFAULT));
    assert_false(apic_claims(&f.c, GPA(0xfee00000)));
    assert_true(apic_accepts_extint(&f.c)); /* pins pass through */
}

/* ---- registers ---- */

static void test_x2apic_checks_what_xapic_masks(void **state)
{
    static const struct {
        uint32_t msr;
        uint64_t val;
        bool ok;
    } t[] = {
        { X2(APIC_ID), 0, false },
        { X2(APIC_TPR), 0xff, true },
        { X2(APIC_TPR), 0x100, false },
        { X2(APIC_EOI), 0, true },
        { X2(APIC_EOI), 1, false },
        { X2(APIC_LDR), 0, false },
        { X2(APIC_DFR), 0xffffffff, false },
        { X2(APIC_SVR), 0x11ff, true },
        { X2(APIC_SVR), 0x2000, false },
        { X2(APIC_ESR), 0, true },
        { X2(APIC_ESR), 1, false },
        { X2(APIC_ICR_HIGH), 0, false },
        { X2(APIC_ICR), 0x1000, false },
        { X2(APIC_LVT_TIMER), 0x60020, true },
        { X2(APIC_LVT_TIMER), 0x61020, true }, /* delivery status: read-only */
        { X2(APIC_LVT_TIMER), 0x100020, false },
        { X2(APIC_LVT_ERROR), 0x100fe, true },
        { X2(APIC_LVT_ERROR), 0x4fe, false },
        { X2(APIC_TIMER_DIVIDE), 0xb, true },
        { X2(APIC_TIMER_DIVIDE), 0x4, false },
        { X2(APIC_TIMER_CURRENT), 1, false },
        { X2(APIC_TIMER_INIT), BIT64(32), false },
        { X2(APIC_SELF_IPI), 0x100, false },
        { X2(0x3d0), 0, false },
        { X2(0xff0), 0, false },
    };
    uint64_t x;

    (void)state;
    go_x2();
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
        if (msr_ok(t[i].msr, t[i].val) != t[i].ok)
            fail_msg("case %u: MSR %#x", i, t[i].msr);
    assert_int_equal(apic_rdmsr(&f.c, X2(APIC_EOI), &x), STEP_FAULT);
    assert_int_equal(apic_rdmsr(&f.c, X2(APIC_SELF_IPI), &x), STEP_FAULT);
    assert_int_equal(apic_rdmsr(&f.c, X2(APIC_DFR), &x), STEP_FAULT);
}

static void test_x2apic_msrs_in_xapic_mode_raise_gp(void **state)
{
    uint64_t x;

    (void)state;
    assert_int_equal(apic_rdmsr(&f.c, X2(APIC_ID), &x), STEP_FAULT);
    assert_false(msr_ok(X2(APIC_TPR), 0));
}

static void test_lvts_mask_what_is_reserved_and_when_disabled(void **state)
{
    (void)state;
    wr(APIC_LVT_TIMER, 0xffffffff & ~MASKED);
    assert_int_equal(rd(APIC_LVT_TIMER), 0x600ff);
    wr(APIC_LVT_LINT0, ~0u);
    assert_int_equal(rd(APIC_LVT_LINT0), 0x1a7ff);
    wr(APIC_LVT_LINT0, 0x700);
    wr(APIC_SVR, 0xff); /* software disable masks all */
    assert_int_equal(rd(APIC_LVT_TIMER), 0x700ff);
    assert_int_equal(rd(APIC_LVT_LINT0), 0x10700);
    assert_false(apic_accepts_extint(&f.c));
    wr(APIC_LVT_LINT0, 0x700);
    assert_int_equal(rd(APIC_LVT_LINT0), 0x10700);
    wr(APIC_SVR, 0x1ff);
    wr(APIC_LVT_LINT0, 0x700);
    assert_true(apic_accepts_extint(&f.c));
}

static void test_wrong_register_is_an_apic_error(void **state)
{
    (void)state;
    wr(APIC_LVT_ERROR, 0xfe);
    assert_int_equal(rd(0x40), 0);
    assert_int_equal(apic_pending_vector(&f.c), 0xfe);
    assert_int_equal(rd(APIC_ESR), 0); /* until it is written */
    wr(APIC_ESR, 0);
    assert_int_equal(rd(APIC_ESR), ESR_REGISTER);
    wr(APIC_ESR, 0);
    assert_int_equal(rd(APIC_ESR), 0);
    wr(APIC_ID, 5u << 24); /* read-only, but no error */
    wr(APIC_ESR, 0);
    assert_int_equal(rd(APIC_ESR), 0);
    assert_int_equal(rd(APIC_ID), 0);
}

/* ---- priorities ---- */

static void test_highest_vector_above_ppr_is_next(void **state)
{
    (void)state;
    deliver(0x31);
    deliver(0x52);
    deliver(0x58);
    assert_int_equal(apic_ack(&f.c), 0x58);
    assert_int_equal(rd(APIC_PPR), 0x50);
    assert_int_equal(apic_pending_vector(&f.c), -1); /* 52h is of the same class */
    deliver(0x60);
    assert_int_equal(apic_ack(&f.c), 0x60);
    assert_int_equal(rd(APIC_ISR + 0x20), 1u << 0x18);
    assert_int_equal(rd(APIC_ISR + 0x30), 1);
    wr(APIC_EOI, 0);
    assert_int_equal(rd(APIC_PPR), 0x50);
    wr(APIC_EOI, 0);
    assert_int_equal(apic_ack(&f.c), 0x52);
    wr(APIC_EOI, 0);
    wr(APIC_TPR, 0x3f);
    assert_int_equal(rd(APIC_PPR), 0x3f);
    assert_int_equal(apic_pending_vector(&f.c), -1);
    wr(APIC_TPR, 0x2f);
    assert_int_equal(apic_pending_vector(&f.c), 0x31);
    assert_true(f.c.req & REQ_IRQ);
}

static void test_eoi_of_level_vector_goes_to_the_io_apics(void **state)
{
    (void)state;
    apic_post(&f.c, 0x40, true);
    deliver(0x50);
    assert_int_equal(rd(APIC_TMR + 0x20), 1);
    assert_int_equal(apic_ack(&f.c), 0x50);
    wr(APIC_EOI, 0);
    assert_int_equal(f.nr_eois, 0);
    assert_int_equal(apic_ack(&f.c), 0x40);
    wr(APIC_EOI, 0);
    assert_int_equal(f.nr_eois, 1);
    assert_int_equal(f.eoi, 0x40);
    wr(APIC_EOI, 0); /* nothing in service */
    assert_int_equal(f.nr_eois, 1);
    wr(APIC_SVR, 0x11ff);
    apic_post(&f.c, 0x40, true);
    apic_sync(&f.c);
    (void)apic_ack(&f.c);
    wr(APIC_EOI, 0);
    assert_int_equal(f.nr_eois, 1); /* suppressed */
    deliver(0x40);
    assert_int_equal(rd(APIC_TMR + 0x20), 0); /* edge again */
    apic_post(&f.c, 0x40, true);
    apic_sync(&f.c);
    apic_raise(&f.c, 0x40);
    deliver(0x41); /* leaves the other's trigger mode alone */
    assert_int_equal(rd(APIC_TMR + 0x20), 0);
}

static void test_eoi_of_an_edge_is_told_where_its_message_asked_for_it(void **state)
{
    (void)state;
    apic_accept(&f.c, &(struct apic_msg){ .vector = 0x40, .tell = true });
    apic_accept(&f.c, &(struct apic_msg){ .vector = 0x50 });
    apic_sync(&f.c);
    assert_int_equal(apic_ack(&f.c), 0x50);
    wr(APIC_EOI, 0);
    assert_int_equal(f.nr_eois, 0);
    assert_int_equal(apic_ack(&f.c), 0x40);
    wr(APIC_EOI, 0);
    assert_int_equal(f.nr_eois, 1);
    assert_int_equal(f.eoi, 0x40);
    wr(APIC_SVR, 0x11ff); /* no broadcast, which an edge has none of */
    apic_accept(&f.c, &(struct apic_msg){ .vector = 0x40, .tell = true });
    apic_sync(&f.c);
    (void)apic_ack(&f.c);
    wr(APIC_EOI, 0);
    assert_int_equal(f.nr_eois, 2);
}

static void test_disabled_apic_accepts_no_vectors(void **state)
{
    (void)state;
    wr(APIC_SVR, 0xff);
    deliver(0x40);
    assert_int_equal(apic_pending_vector(&f.c), -1);
    wr(APIC_SVR, 0x1ff);
    apic_sync(&f.c);
    assert_int_equal(apic_pending_vector(&f.c), -1);
    deliver(0x0f); /* illegal vector */
    wr(APIC_ESR, 0);
    assert_int_equal(rd(APIC_ESR), ESR_RECV_VECTOR);
}

/* ---- messages ---- */

static void test_destinations(void **state)
{
    static const struct {
        bool x2;
        uint32_t id, ldr, dfr;
        struct apic_msg msg;
        bool match;
    } t[] = {
        { false, 3, 0, 0xffffffff, { .dest = 3 }, true },
        { false, 3, 0, 0xffffffff, { .dest = 4 }, false },
        { false, 3, 0, 0xffffffff, { .dest = 0xff }, true },
        { false, 3, 0, 0xffffffff, { .dest = ~0u, .wide_dest = true }, true },
        { false, 3, 0, 0xffffffff, { .dest = 0xff, .wide_dest = true }, false },
        { false, 3, 0x08000000, 0xffffffff, { .dest = 0x18, .logical = true }, true },
        { false, 3, 0x08000000, 0xffffffff, { .dest = 0x17, .logical = true }, false },
        { false, 3, 0x08000000, 0xffffffff, { .dest = 0xff, .logical = true }, true },
        { false, 3, 0x12000000, 0x0fffffff, { .dest = 0x13, .logical = true }, true },
        { false, 3, 0x12000000, 0x0fffffff, { .dest = 0x11, .logical = true }, false },
        { false, 3, 0x12000000, 0x0fffffff, { .dest = 0x23, .logical = true }, false },
        { false, 3, 0x12000000, 0x0fffffff, { .dest = 0xf2, .logical = true }, true },
        { true, 0x123, 0, 0, { .dest = 0x123, .wide_dest = true }, true },
        { true, 0x123, 0, 0, { .dest = 0x23, .wide_dest = true }, false },
        { true, 0x123, 0, 0, { .dest = 0xff }, true },
        { true, 0x123, 0, 0, { .dest = 0xff, .wide_dest = true }, false },
        { true, 0x123, 0, 0, { .dest = 0x120008, .wide_dest = true, .logical = true }, true },
        { true, 0x123, 0, 0, { .dest = 0x120004, .wide_dest = true, .logical = true }, false },
        { true, 0x123, 0, 0, { .dest = 0x130008, .wide_dest = true, .logical = true }, false },
        { false, 3, 0, 0, { .to_all = true }, true },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        fake_init(&f);
        f.c.apic.id = t[i].id;
        if (t[i].x2) {
            go_x2();
        } else {
            f.c.apic.ldr = t[i].ldr;
            f.c.apic.dfr = t[i].dfr;
        }
        if (apic_matches(&f.c, &t[i].msg) != t[i].match)
            fail_msg("case %u", i);
    }
    f.c.apic.base_msr &= ~APIC_BASE_ENABLE;
    assert_false(apic_matches(&f.c, &t[0].msg));
}

static void test_accept_posts_by_delivery_mode(void **state)
{
    static const struct {
        struct apic_msg msg;
        uint32_t req;
    } t[] = {
        { { .mode = APIC_FIXED, .vector = 0x40 }, REQ_IRQ },
        { { .mode = APIC_LOWEST, .vector = 0x41 }, REQ_IRQ },
        { { .mode = APIC_NMI }, REQ_NMI },
        { { .mode = APIC_SMI }, REQ_SMI },
        { { .mode = APIC_INIT }, REQ_INIT },
        { { .mode = APIC_INIT, .level = true, .deassert = true }, 0 },
        { { .mode = APIC_SIPI, .vector = 0x9a }, REQ_SIPI },
        { { .mode = APIC_EXTINT }, REQ_IRQ },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        f.c.req = 0;
        f.nr_kicks = 0;
        apic_accept(&f.c, &t[i].msg);
        assert_int_equal(f.c.req, t[i].req);
        assert_int_equal(f.nr_kicks, t[i].req != 0);
    }
    assert_int_equal(f.c.sipi_vector, 0x9a);
    apic_sync(&f.c);
    assert_int_equal(apic_pending_vector(&f.c), 0x41);
}

static void test_icr_sends_to_self_and_others(void **state)
{
    static const struct {
        uint32_t high, low;
        bool self;
        unsigned sent;
    } t[] = {
        { 0, 0x40, true, 0 },           /* physical, own ID 0 */
        { 1u << 24, 0x40, false, 1 },   /* somebody else */
        { 0xffu << 24, 0x40, true, 1 }, /* broadcast */
        { 0, 0x40040, true, 0 },        /* self */
        { 0, 0x80040, true, 1 },        /* all */
        { 0, 0xc0040, false, 1 },       /* others */
        { 3u << 24, 0x840, true, 1 },   /* logical, with others */
        { 3u << 24, 0x940, true, 0 },   /* lowest priority: taken here */
        { 2u << 24, 0x940, false, 1 },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        (void)set_up(NULL);
        wr(APIC_LDR, 1u << 24);
        wr(APIC_ICR_HIGH, t[i].high);
        wr(APIC_ICR, t[i].low);
        apic_sync(&f.c);
        if ((apic_pending_vector(&f.c) == 0x40) != t[i].self || f.nr_sent != t[i].sent)
            fail_msg("case %u: self %d, sent %u", i, apic_pending_vector(&f.c), f.nr_sent);
        assert_int_equal(rd(APIC_ICR), t[i].low);
    }
}

static void test_icr_fields_become_a_message(void **state)
{
    (void)state;
    wr(APIC_ICR_HIGH, 5u << 24);
    wr(APIC_ICR, 0x4500 | 0x8000); /* INIT, level assert */
    assert_int_equal(f.sent.mode, APIC_INIT);
    assert_int_equal(f.sent.dest, 5);
    assert_false(f.sent.deassert || f.sent.wide_dest || f.sent.logical);
    wr(APIC_ICR, 0x8500);
    assert_true(f.sent.deassert);
    wr(APIC_ICR, 0x469a);
    assert_int_equal(f.sent.mode, APIC_SIPI);
    assert_int_equal(f.sent.vector, 0x9a);
    go_x2();
    assert_true(msr_ok(X2(APIC_ICR), 0x12345678ull << 32 | 0x8fe));
    assert_int_equal(f.sent.dest, 0x12345678);
    assert_true(f.sent.wide_dest && f.sent.logical);
    assert_int_equal(rdmsr(X2(APIC_ICR)), 0x12345678ull << 32 | 0x8fe);
    /* INIT to all does not hit the sender */
    f.c.req = 0;
    assert_true(msr_ok(X2(APIC_ICR), 0x80000 | 0x500));
    assert_int_equal(f.c.req, 0);
}

static void test_illegal_vector_is_not_sent(void **state)
{
    (void)state;
    wr(APIC_ICR, 0xc0005);
    assert_int_equal(f.nr_sent, 0);
    wr(APIC_ESR, 0);
    assert_int_equal(rd(APIC_ESR), ESR_SEND_VECTOR);
}

static void test_self_ipi_register(void **state)
{
    (void)state;
    go_x2();
    assert_true(msr_ok(X2(APIC_SELF_IPI), 0x77));
    apic_sync(&f.c);
    assert_int_equal(apic_pending_vector(&f.c), 0x77);
    assert_int_equal(f.nr_sent, 0);
}

static void test_nmi_pin_follows_lint1(void **state)
{
    (void)state;
    f.c.req = 0;
    wr(APIC_LVT_LINT1, MASKED | 0x400);
    apic_nmi_pin(&f.c);
    assert_int_equal(f.c.req, 0);
    wr(APIC_LVT_LINT1, 0x400);
    apic_nmi_pin(&f.c);
    assert_int_equal(f.c.req, REQ_NMI);
}

/* ---- timer ---- */

static void test_one_shot_counts_down_and_fires_once(void **state)
{
    (void)state;
    f.now_ns = 1000;
    wr(APIC_LVT_TIMER, 0xec);
    wr(APIC_TIMER_DIVIDE, 0x3); /* by 16 */
    wr(APIC_TIMER_INIT, 100);
    assert_int_equal(f.timer_ns, 2600);
    assert_int_equal(rd(APIC_TIMER_CURRENT), 100);
    f.now_ns = 1800;
    assert_int_equal(rd(APIC_TIMER_CURRENT), 50);
    f.now_ns = 2599;
    apic_timer_expired(&f.c); /* too early */
    assert_int_equal(apic_pending_vector(&f.c), -1);
    assert_int_equal(f.timer_ns, 2600);
    f.now_ns = 2600;
    apic_timer_expired(&f.c);
    assert_int_equal(apic_ack(&f.c), 0xec);
    assert_int_equal(rd(APIC_TIMER_CURRENT), 0);
    f.now_ns = 9999;
    apic_timer_expired(&f.c);
    assert_int_equal(rd(APIC_IRR + 0x70), 0);
}

static void test_divider_codes(void **state)
{
    static const struct {
        uint32_t code, by;
    } t[] = {
        { 0, 2 }, { 1, 4 }, { 2, 8 }, { 3, 16 }, { 8, 32 }, { 9, 64 }, { 10, 128 }, { 11, 1 }
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        wr(APIC_TIMER_INIT, 0);
        wr(APIC_TIMER_DIVIDE, t[i].code);
        wr(APIC_TIMER_INIT, 1000);
        assert_int_equal(f.timer_ns, 1000 * t[i].by);
    }
    wr(APIC_TIMER_DIVIDE, 0xb);
    wr(APIC_TIMER_INIT, 1000);
    f.now_ns = 400;
    wr(APIC_TIMER_DIVIDE, 0); /* 600 left, at half the pace */
    assert_int_equal(f.timer_ns, 400 + 1200);
    assert_int_equal(rd(APIC_TIMER_CURRENT), 600);
}

static void test_periodic_rearms_without_drift_and_skips_what_was_missed(void **state)
{
    (void)state;
    wr(APIC_TIMER_DIVIDE, 0xb);
    wr(APIC_LVT_TIMER, 0x200ec);
    wr(APIC_TIMER_INIT, 1000000);
    f.now_ns = 1000700;
    assert_int_equal(rd(APIC_TIMER_CURRENT), 999300);
    apic_timer_expired(&f.c);
    assert_int_equal(f.timer_ns, 2000000);
    assert_int_equal(apic_ack(&f.c), 0xec);
    wr(APIC_EOI, 0);
    f.now_ns = 5500000;
    apic_timer_expired(&f.c);
    assert_int_equal(f.timer_ns, 6000000);
    f.now_ns += 10ull * 365 * 86400 * 1000000000; /* restored after years */
    apic_timer_expired(&f.c);
    assert_int_equal(f.timer_ns, f.now_ns + 500000);
    wr(APIC_TIMER_INIT, 0);
    assert_int_equal(f.timer_ns, UINT64_MAX);
    assert_int_equal(rd(APIC_TIMER_CURRENT), 0);
}

static void test_tiny_period_cannot_storm(void **state)
{
    (void)state;
    wr(APIC_TIMER_DIVIDE, 0xb);
    wr(APIC_LVT_TIMER, 0x200ec);
    wr(APIC_TIMER_INIT, 1);
    f.now_ns = 1;
    apic_timer_expired(&f.c);
    assert_true(f.timer_ns >= 20000 && f.timer_ns < 21000);
}

static void test_masked_timer_runs_silently(void **state)
{
    (void)state;
    wr(APIC_TIMER_DIVIDE, 0xb);
    wr(APIC_LVT_TIMER, MASKED | 0xec);
    wr(APIC_TIMER_INIT, 100);
    f.now_ns = 100;
    apic_timer_expired(&f.c);
    assert_int_equal(apic_pending_vector(&f.c), -1);
    assert_int_equal(rd(APIC_TIMER_CURRENT), 0);
}

static void test_tsc_deadline(void **state)
{
    (void)state;
    f.tsc = 2000;
    f.now_ns = 1000;
    f.c.tsc_adjust = 500;
    assert_true(msr_ok(MSR_TSC_DEADLINE, 9999)); /* ignored in another mode */
    assert_int_equal(rdmsr(MSR_TSC_DEADLINE), 0);
    wr(APIC_LVT_TIMER, 0x400ec);
    assert_true(msr_ok(MSR_TSC_DEADLINE, 4500));
    assert_int_equal(rdmsr(MSR_TSC_DEADLINE), 4500);
    assert_int_equal(f.timer_ns, 2000); /* platform TSC 4000 */
    wr(APIC_TIMER_INIT, 100);           /* ignored */
    assert_int_equal(f.timer_ns, 2000);
    assert_int_equal(rd(APIC_TIMER_CURRENT), 0);
    f.now_ns = 2000;
    f.tsc = 4000;
    apic_timer_expired(&f.c);
    assert_int_equal(apic_ack(&f.c), 0xec);
    wr(APIC_EOI, 0);
    assert_int_equal(rdmsr(MSR_TSC_DEADLINE), 0);
    assert_true(msr_ok(MSR_TSC_DEADLINE, 100)); /* long past */
    assert_int_equal(apic_ack(&f.c), 0xec);
    wr(APIC_EOI, 0);
    assert_true(msr_ok(MSR_TSC_DEADLINE, 10500));
    assert_true(msr_ok(MSR_TSC_DEADLINE, 0));
    assert_int_equal(f.timer_ns, UINT64_MAX);
    assert_true(msr_ok(MSR_TSC_DEADLINE, ~0ull)); /* never */
    assert_int_equal(f.timer_ns, UINT64_MAX);
    assert_int_equal(rdmsr(MSR_TSC_DEADLINE), ~0ull);
}

static void test_tsc_deadline_follows_tsc_writes_and_mode(void **state)
{
    (void)state;
    wr(APIC_LVT_TIMER, 0x400ec);
    assert_true(msr_ok(MSR_TSC_DEADLINE, 10000));
    assert_int_equal(f.timer_ns, 5000);
    assert_int_equal(cpu_wrmsr(&f.c, MSR_TSC_ADJUST, 4000), STEP_NEXT);
    assert_int_equal(f.timer_ns, 3000);
    wr(APIC_LVT_TIMER, 0xec); /* one-shot: disarmed */
    assert_int_equal(f.timer_ns, UINT64_MAX);
    assert_int_equal(rdmsr(MSR_TSC_DEADLINE), 0);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup(fn, set_up)
    const struct CMUnitTest tests[] = {
        T(test_power_on_state),
        T(test_init_keeps_mode_and_id),
        T(test_base_msr_transitions),
        T(test_claims_only_in_xapic_mode),
        T(test_x2apic_checks_what_xapic_masks),
        T(test_x2apic_msrs_in_xapic_mode_raise_gp),
        T(test_lvts_mask_what_is_reserved_and_when_disabled),
        T(test_wrong_register_is_an_apic_error),
        T(test_highest_vector_above_ppr_is_next),
        T(test_eoi_of_level_vector_goes_to_the_io_apics),
        T(test_eoi_of_an_edge_is_told_where_its_message_asked_for_it),
        T(test_disabled_apic_accepts_no_vectors),
        T(test_destinations),
        T(test_accept_posts_by_delivery_mode),
        T(test_icr_sends_to_self_and_others),
        T(test_icr_fields_become_a_message),
        T(test_illegal_vector_is_not_sent),
        T(test_self_ipi_register),
        T(test_nmi_pin_follows_lint1),
        T(test_one_shot_counts_down_and_fires_once),
        T(test_divider_codes),
        T(test_periodic_rearms_without_drift_and_skips_what_was_missed),
        T(test_tiny_period_cannot_storm),
        T(test_masked_timer_runs_silently),
        T(test_tsc_deadline),
        T(test_tsc_deadline_follows_tsc_writes_and_mode),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
