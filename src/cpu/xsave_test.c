/* SPDX-License-Identifier: Apache-2.0 */
/* The state-saving instructions against the host's own, byte by byte, and their #GP conditions. */
#include "cpu/cpu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#define FAKE __attribute__((weak))
#define MASK 7ull

struct fake {
    struct cpu c;
    struct cpu_model model;
    struct xsave_area guest, host; /* the image in memory, ours and the host's */
};

FAKE enum step raise_vec(struct cpu *c, enum vector vec)
{
    c->exc = (struct cpu_exc){ .valid = true, .vector = vec };
    return STEP_FAULT;
}

FAKE enum step raise_err(struct cpu *c, enum vector vec, uint32_t err)
{
    c->exc = (struct cpu_exc){ .valid = true, .has_err = true, .vector = vec, .err = err };
    return STEP_FAULT;
}

static enum step fake_read(struct cpu *c, gva_t at, void *buf, unsigned bytes, unsigned acc)
{
    (void)c, (void)acc;
    memcpy(buf, (const void *)(uintptr_t)at.v, bytes);
    return STEP_NEXT;
}

static enum step fake_write(struct cpu *c, gva_t at, const void *buf, unsigned bytes, unsigned acc)
{
    (void)c, (void)acc;
    memcpy((void *)(uintptr_t)at.v, buf, bytes);
    return STEP_NEXT;
}

static enum step fake_probe(struct cpu *c, gva_t at, unsigned bytes, unsigned acc)
{
    (void)c, (void)at, (void)bytes, (void)acc;
    return STEP_NEXT;
}

static const struct cpu_ops fake_ops = { .read = fake_read,
                                         .write = fake_write,
                                         .probe = fake_probe };

static bool host_can(void)
{
    uint32_t eax = 1, ebx, ecx = 0, edx, lo, hi;

    __asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
    if (!(ecx & BIT(27)) || !(ecx & BIT(28)))
        return false;
    __asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    eax = 0xd;
    ecx = 1;
    __asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
    return (lo & MASK) == MASK && (eax & 3) == 3;
}

static void host_restore(const struct xsave_area *x)
{
    __asm__ volatile("xrstor64 %0" : : "m"(*x), "a"((uint32_t)MASK), "d"(0));
}

/* After host_restore(): leaves the host as C wants it. */
static void host_clean(void)
{
    uint32_t mxcsr = 0x1f80;

    __asm__ volatile("fninit\n vzeroupper\n ldmxcsr %0" : : "m"(mxcsr));
}

static struct fake *make(void **state)
{
    static struct fake f;
    uint32_t eax = 0, ebx, ecx, edx;

    (void)state;
    if (!host_can())
        skip();
    memset(&f, 0, sizeof(f));
    __asm__("cpuid" : "+a"(eax), "=b"(ebx), "=c"(ecx), "=d"(edx));
    f.model.vendor = ebx == 0x68747541 ? VENDOR_AMD : VENDOR_INTEL; /* "Auth" */
    f.model.words[FW_D1_EAX] = BIT(0) | BIT(1);
    f.c.ops = &fake_ops;
    f.c.model = &f.model;
    f.c.mode = MODE_PE | MODE_LMA | MODE_CS64 | MODE_PG;
    f.c.xcr0 = MASK;
    f.c.fpu.fcw = 0x37f;
    f.c.fpu.mxcsr = 0x1f80;
    memset(&f.guest, 0xa5, sizeof(f.guest));
    memset(&f.host, 0xa5, sizeof(f.host));
    return &f;
}

#define X87     BIT(0)
#define SSE     BIT(1)
#define AVX     BIT(2)
#define PENDING BIT(3)
#define FLAGS   BIT(4) /* MXCSR is not its default */

static void fill(struct xsave_area *x, unsigned what)
{
    memset(x, 0, sizeof(*x));
    x->fcw = 0x37f;
    x->mxcsr = what & FLAGS ? 0x1fa1 : 0x1f80;
    x->xstate_bv = what & MASK;
    if (what & X87) {
        x->fcw = what & PENDING ? 0x37b : 0x37f;
        x->fsw = what & PENDING ? 0xb884 : 0x3804;
        x->ftw = 0x81;
        x->fop = 0x123;
        x->fip = 0x7f1122334455;
        x->fdp = 0x7f5566778899;
        for (unsigned i = 0; i < 8; i++)
            memset(x->st[i], 0x10 + (int)i, 10);
    }
    if (what & SSE)
        memset(x->xmm, 0x61, sizeof(x->xmm));
    if (what & AVX)
        memset(x->ymmh, 0x62, sizeof(x->ymmh));
}

static void set_cpu(struct cpu *c, const struct xsave_area *x)
{
    c->fpu = *x;
    c->fpu_cs = c->fpu_ds = 0;
}

static const unsigned states[] = {
    0,
    X87,
    X87 | PENDING,
    SSE,
    AVX,
    FLAGS,
    X87 | SSE,
    SSE | AVX | FLAGS,
    X87 | SSE | AVX | PENDING | FLAGS,
};
static const uint64_t masks[] = { 0, 1, 2, 3, 4, 5, 6, 7 };

#define HOST_SAVE(insn, x, mask) \
    __asm__ volatile(insn " %0" : "+m"(*(x)) : "a"((uint32_t)(mask)), "d"(0) : "memory")

static void host_save(enum xsave_kind kind, struct xsave_area *x, uint64_t mask)
{
    if (kind == XSAVE_STD)
        HOST_SAVE("xsave64", x, mask);
    else if (kind == XSAVE_OPT)
        HOST_SAVE("xsaveopt64", x, mask);
    else
        HOST_SAVE("xsavec64", x, mask);
}

static void compare_images(struct fake *f, unsigned what, uint64_t mask, unsigned kind)
{
    const uint8_t *g = (const uint8_t *)&f->guest, *h = (const uint8_t *)&f->host;

    /* The host may offer misaligned SSE, which the guest does not see. */
    if (f->host.mxcsr_mask != 0xa5a5a5a5)
        f->host.mxcsr_mask = 0xffff;
    for (unsigned i = 0; i < sizeof(f->guest); i++)
        if (g[i] != h[i])
            fail_msg("state %#x mask %#x kind %u: byte %u is %02x, on the host %02x", what,
                     (unsigned)mask, kind, i, g[i], h[i]);
}

static void save_like_host(void **state, enum xsave_kind kind)
{
    for (unsigned i = 0; i < ARRAY_SIZE(states) * ARRAY_SIZE(masks); i++) {
        struct fake *f = make(state);
        uint64_t mask = masks[i % ARRAY_SIZE(masks)];
        unsigned what = states[i / ARRAY_SIZE(masks)];
        struct xsave_area x;

        fill(&x, what);
        f->guest.xstate_bv = f->host.xstate_bv = 5;
        set_cpu(&f->c, &x);
        host_restore(&x);
        host_save(kind, &f->host, mask);
        host_clean();
        assert_int_equal(cpu_xsave(&f->c, GVA((uintptr_t)&f->guest), mask, kind, true), STEP_NEXT);
        compare_images(f, what, mask, kind);
    }
}

static void test_xsave_is_as_on_the_host(void **state)
{
    save_like_host(state, XSAVE_STD);
}

static void test_xsavec_is_as_on_the_host(void **state)
{
    save_like_host(state, XSAVE_COMPACT);
}

/* Not compared to the host, which may skip what it knows to be unmodified. */
static void test_xsaveopt_skips_initial_components(void **state)
{
    struct fake *f = make(state);
    struct xsave_area x;

    fill(&x, AVX);
    set_cpu(&f->c, &x);
    f->guest.xstate_bv = 3;
    assert_int_equal(cpu_xsave(&f->c, GVA((uintptr_t)&f->guest), MASK, XSAVE_OPT, true), STEP_NEXT);
    assert_int_equal(f->guest.xstate_bv, 4);
    assert_int_equal(f->guest.fcw, 0xa5a5);
    assert_int_equal(f->guest.xmm[0][0], 0xa5);
    assert_int_equal(f->guest.ymmh[15][15], 0x62);
    assert_int_equal(f->guest.mxcsr, 0x1f80);
}

static void test_fxsave_is_as_on_the_host(void **state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(states); i++)
        for (unsigned wide = 0; wide < 2; wide++) {
            struct fake *f = make(state);
            struct xsave_area x;

            fill(&x, states[i]);
            set_cpu(&f->c, &x);
            host_restore(&x);
            if (wide)
                __asm__ volatile("fxsave64 %0" : "+m"(f->host));
            else
                __asm__ volatile("fxsave %0" : "+m"(f->host));
            host_clean();
            assert_int_equal(cpu_fxsave(&f->c, GVA((uintptr_t)&f->guest), wide), STEP_NEXT);
            /* Bytes 416..511 are reserved or software's. */
            memcpy(f->host.rsvd1, f->guest.rsvd1, sizeof(f->host.rsvd1));
            compare_images(f, states[i], wide, 99);
        }
}

static void test_xrstor_undoes_every_save(void **state)
{
    static const enum xsave_kind kinds[] = { XSAVE_STD, XSAVE_OPT, XSAVE_COMPACT };

    for (unsigned i = 0; i < ARRAY_SIZE(states) * ARRAY_SIZE(kinds); i++) {
        struct fake *f = make(state);
        struct xsave_area x;

        memset(&f->guest, 0, sizeof(f->guest));
        fill(&x, states[i / ARRAY_SIZE(kinds)] | PENDING); /* so that pointers are kept */
        set_cpu(&f->c, &x);
        assert_int_equal(
            cpu_xsave(&f->c, GVA((uintptr_t)&f->guest), MASK, kinds[i % ARRAY_SIZE(kinds)], true),
            STEP_NEXT);
        fill(&f->c.fpu, ~0u);
        assert_int_equal(cpu_xrstor(&f->c, GVA((uintptr_t)&f->guest), MASK, true), STEP_NEXT);
        assert_memory_equal(&f->c.fpu, &x, offsetof(struct xsave_area, mxcsr_mask));
        assert_memory_equal(f->c.fpu.st, x.st, sizeof(x.st));
        assert_memory_equal(f->c.fpu.xmm, x.xmm, sizeof(x.xmm));
        assert_memory_equal(f->c.fpu.ymmh, x.ymmh, sizeof(x.ymmh));
    }
}

static void test_xrstor_leaves_what_is_not_asked_for(void **state)
{
    struct fake *f = make(state);

    fill(&f->guest, 0);
    fill(&f->c.fpu, X87 | SSE | AVX | FLAGS);
    assert_int_equal(cpu_xrstor(&f->c, GVA((uintptr_t)&f->guest), AVX, true), STEP_NEXT);
    assert_int_equal(f->c.fpu.ymmh[3][3], 0);
    assert_int_equal(f->c.fpu.xmm[3][3], 0x61);
    assert_int_equal(f->c.fpu.fop, 0x123);
    assert_int_equal(f->c.fpu.mxcsr, 0x1f80); /* the standard form loads it for AVX as well */
}

/* One bad thing in an otherwise good image. */
struct bad {
    const char *what;
    size_t off;
    uint64_t set; /* ORed into the quadword at off */
    uint64_t at_off;
    bool compact;
};

static const struct bad bads[] = {
    { "unaligned", 0, 0, 16, false },
    { "XSTATE_BV beyond XCR0", 512, 8, 0, false },
    { "XCOMP_BV in the standard form", 520, 4, 0, false },
    { "header bytes 16..23", 528, 1, 0, false },
    { "MXCSR", 24, 0x10000, 0, false },
    { "compact: XSTATE_BV beyond XCOMP_BV", 512, 4, 0, true },
    { "compact: XCOMP_BV beyond XCR0", 520, 8, 0, true },
    { "compact: header byte 63", 568, 1ull << 63, 0, true },
    { "compact: MXCSR", 24, 0x20000, 0, true },
};

static void test_xrstor_of_a_bad_image_raises_gp_and_changes_nothing(void **state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(bads); i++) {
        static uint8_t buf[2048] __attribute__((aligned(64)));
        const struct bad *b = &bads[i];
        struct fake *f = make(state);
        struct xsave_area was, x;
        uint64_t q;

        fill(&x, X87 | SSE);
        x.xcomp_bv = b->compact ? 1ull << 63 | 3 : 0;
        memcpy(buf + b->at_off, &x, sizeof(x));
        memcpy(&q, buf + b->at_off + b->off, sizeof(q));
        q |= b->set;
        memcpy(buf + b->at_off + b->off, &q, sizeof(q));
        was = f->c.fpu;
        if (cpu_xrstor(&f->c, GVA((uintptr_t)buf + b->at_off), MASK, true) != STEP_FAULT ||
            f->c.exc.vector != VEC_GP)
            fail_msg("%s: no #GP", b->what);
        assert_memory_equal(&was, &f->c.fpu, sizeof(was));
    }
}

static void test_xrstor_accepts_bytes_24_to_63_in_the_standard_form(void **state)
{
    struct fake *f = make(state);

    fill(&f->guest, SSE);
    f->guest.rsvd2[5] = ~0ull;
    assert_int_equal(cpu_xrstor(&f->c, GVA((uintptr_t)&f->guest), MASK, true), STEP_NEXT);
    assert_int_equal(f->c.fpu.xmm[0][0], 0x61);
}

static void test_fxrstor_checks_alignment_and_mxcsr(void **state)
{
    struct fake *f = make(state);

    fill(&f->guest, X87 | SSE | PENDING);
    f->guest.fsw = 4; /* ES and B follow from the flags */
    assert_int_equal(cpu_fxrstor(&f->c, GVA((uintptr_t)&f->guest + 8), true), STEP_FAULT);
    assert_int_equal(cpu_fxrstor(&f->c, GVA((uintptr_t)&f->guest), true), STEP_NEXT);
    assert_int_equal(f->c.fpu.fsw, 0x8084);
    assert_int_equal(f->c.fpu.fip, 0x7f1122334455);
    assert_int_equal(cpu_fxrstor(&f->c, GVA((uintptr_t)&f->guest), false), STEP_NEXT);
    assert_int_equal(f->c.fpu.fip, 0x22334455);
    assert_int_equal(f->c.fpu_cs, 0x7f11);
    f->guest.mxcsr = 0x10000;
    assert_int_equal(cpu_fxrstor(&f->c, GVA((uintptr_t)&f->guest), true), STEP_FAULT);
    assert_int_equal(f->c.exc.vector, VEC_GP);
}

static void test_registers_8_to_15_stay_outside_64_bit_mode(void **state)
{
    struct fake *f = make(state);
    struct xsave_area x;

    fill(&x, SSE | AVX);
    set_cpu(&f->c, &x);
    f->c.mode = MODE_PE | MODE_CS32;
    assert_int_equal(cpu_xsave(&f->c, GVA((uintptr_t)&f->guest), MASK, XSAVE_STD, false),
                     STEP_NEXT);
    assert_int_equal(f->guest.xmm[7][15], 0x61);
    assert_int_equal(f->guest.xmm[8][0], 0xa5);
    assert_int_equal(f->guest.ymmh[8][0], 0xa5);
    fill(&f->guest, 0);
    assert_int_equal(cpu_xrstor(&f->c, GVA((uintptr_t)&f->guest), MASK, false), STEP_NEXT);
    assert_int_equal(f->c.fpu.xmm[7][15], 0);
    assert_int_equal(f->c.fpu.xmm[8][0], 0x61);
    assert_int_equal(f->c.fpu.ymmh[15][0], 0x62);
}

static void test_xinuse_follows_contents(void **state)
{
    struct fake *f = make(state);

    assert_int_equal(cpu_xinuse(&f->c), 0);
    f->c.fpu.ymmh[2][1] = 1;
    assert_int_equal(cpu_xinuse(&f->c), XCR0_AVX);
    f->c.fpu.xmm[0][0] = 1;
    f->c.fpu.fcw = 0x27f;
    assert_int_equal(cpu_xinuse(&f->c), MASK);
}

int main(void)
{
#define T(name) cmocka_unit_test(name)
    const struct CMUnitTest tests[] = {
        T(test_xsave_is_as_on_the_host),
        T(test_xsavec_is_as_on_the_host),
        T(test_xsaveopt_skips_initial_components),
        T(test_fxsave_is_as_on_the_host),
        T(test_xrstor_undoes_every_save),
        T(test_xrstor_leaves_what_is_not_asked_for),
        T(test_xrstor_of_a_bad_image_raises_gp_and_changes_nothing),
        T(test_xrstor_accepts_bytes_24_to_63_in_the_standard_form),
        T(test_fxrstor_checks_alignment_and_mxcsr),
        T(test_registers_8_to_15_stay_outside_64_bit_mode),
        T(test_xinuse_follows_contents),
    };

    return cmocka_run_group_tests_name("xsave", tests, NULL, NULL);
}
