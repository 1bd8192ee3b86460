/* SPDX-License-Identifier: Apache-2.0 */
/* Native stubs: checks and exceptions, odd registers, modes, x87 state, masked moves and gathers.
 */
#include "engine/interp/native_fake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>

static struct fake *setup(void **state)
{
    struct fake *f = *state;

    fake_reset(f);
    memset(f->mem, 0, FAKE_MEM_BYTES);
    return f;
}

static int make_fake(void **state)
{
    struct fake *f = aligned_alloc(64, sizeof(struct fake));

    fake_init(f, aligned_alloc(4096, FAKE_MEM_BYTES));
    *state = f;
    return 0;
}

static int drop_fake(void **state)
{
    struct fake *f = *state;

    fake_destroy(f);
    free(f->mem);
    free(f);
    return 0;
}

#define assert_raises(f, vec, run)                \
    do {                                          \
        assert_int_equal(run, STEP_FAULT);        \
        assert_int_equal((f)->c.exc.vector, vec); \
    } while (0)
#define assert_runs(run) assert_int_equal(run, STEP_NEXT)

/* ---- checks before the instruction ---- */

struct check {
    const char *bytes;
    uint8_t nr;
    uint64_t cr0_set, cr4_clear, xcr0_clear;
    uint16_t fsw;
    int vector; /* -1: runs */
};

#define INSN(b)  (b), sizeof(b) - 1
#define FLD1     INSN("\xd9\xe8")
#define FWAIT    INSN("\x9b")
#define PADDB_MM INSN("\x0f\xfc\xc1")
#define ADDPS    INSN("\x0f\x58\xc1")
#define CVTPI2PS INSN("\x0f\x2a\xc1")
#define VADDPS   INSN("\xc5\xf4\x58\xc2")
#define ANDN     INSN("\xc4\xe2\x70\xf2\xc2")
#define POPCNT   INSN("\xf3\x0f\xb8\xc1")
#define FNSTSW   INSN("\xdf\xe0")
#define PENDING  (FSW_ES | FSW_B | FSW_IE)

static const struct check checks[] = {
    { FLD1, CR0_EM, 0, 0, 0, VEC_NM },
    { FLD1, CR0_TS, 0, 0, 0, VEC_NM },
    { FLD1, 0, 0, 0, PENDING, VEC_MF },
    { FLD1, CR0_TS, 0, 0, PENDING, VEC_NM },
    { FNSTSW, 0, 0, 0, PENDING, -1 },
    { FWAIT, CR0_EM, 0, 0, 0, -1 },
    { FWAIT, CR0_TS, 0, 0, 0, VEC_NM },
    { FWAIT, 0, 0, 0, PENDING, VEC_MF },
    { PADDB_MM, CR0_EM, 0, 0, 0, VEC_UD },
    { PADDB_MM, CR0_TS, 0, 0, 0, VEC_NM },
    { PADDB_MM, 0, 0, 0, PENDING, VEC_MF },
    { PADDB_MM, 0, CR4_OSFXSR, 0, 0, -1 },
    { ADDPS, CR0_EM, 0, 0, 0, VEC_UD },
    { ADDPS, CR0_TS, 0, 0, 0, VEC_NM },
    { ADDPS, CR0_TS, CR4_OSFXSR, 0, 0, VEC_UD },
    { ADDPS, 0, 0, 0, PENDING, -1 },
    { CVTPI2PS, 0, CR4_OSFXSR, 0, 0, VEC_UD },
    { CVTPI2PS, 0, 0, 0, PENDING, VEC_MF },
    { VADDPS, CR0_EM, 0, 0, 0, -1 },
    { VADDPS, CR0_TS, 0, 0, 0, VEC_NM },
    { VADDPS, 0, CR4_OSXSAVE, 0, 0, VEC_UD },
    { VADDPS, 0, 0, XCR0_AVX, 0, VEC_UD },
    { VADDPS, 0, CR4_OSFXSR, 0, 0, -1 },
    { ANDN, CR0_TS, CR4_OSXSAVE, XCR0_AVX, 0, -1 },
    { POPCNT, CR0_TS | CR0_EM, 0, 0, PENDING, -1 },
};

static void test_checks_come_first_and_in_order(void **state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(checks); i++) {
        const struct check *k = &checks[i];
        struct fake *f = setup(state);
        enum step st;

        f->c.cr0 |= k->cr0_set;
        f->c.cr4 &= ~k->cr4_clear;
        f->c.xcr0 &= ~k->xcr0_clear;
        f->c.fpu.fsw = k->fsw;
        if (k->fsw)
            f->c.fpu.fcw &= ~FSW_IE;
        st = fake_run(f, k->bytes, k->nr, NULL);
        if (st != (k->vector < 0 ? STEP_NEXT : STEP_FAULT) ||
            (k->vector >= 0 && f->c.exc.vector != k->vector))
            fail_msg("check %u: step %d, vector %u", i, (int)st, f->c.exc.vector);
    }
}

static void test_vex_in_v8086_mode_raises_ud(void **state)
{
    struct fake *f = setup(state);
    const struct native_stub *s = fake_stub(f, (const uint8_t *)"\xc4\xe2\x70\xf2\xc2", 5);

    f->c.mode |= MODE_VM86;
    assert_raises(f, VEC_UD, native_exec(&f->c, s, SEG_DS, 0));
}

static void test_ne_clear_asserts_ferr_and_goes_on(void **state)
{
    struct fake *f = setup(state);

    f->c.cr0 &= ~CR0_NE;
    f->c.fpu.fcw &= ~FSW_IE;
    f->c.fpu.fsw = PENDING;
    assert_runs(RUN(f, "\xd9\xe8", NULL));
    assert_int_equal(f->nr_ferr, 1);
    /* FLD1 was done, the exception still is pending. */
    assert_int_equal(f->c.fpu.fsw, PENDING | 7 << FSW_TOP_SHIFT);
}

static void test_missing_feature_is_not_offered(void **state)
{
    struct fake *f = setup(state);
    uint32_t was = f->model.words[FW_1_ECX];

    f->model.words[FW_1_ECX] &= ~BIT(19);                                  /* SSE4.1 */
    assert_null(fake_stub(f, (const uint8_t *)"\x66\x0f\x38\x17\xc1", 5)); /* ptest */
    f->model.words[FW_1_ECX] = was;
    assert_non_null(fake_stub(f, (const uint8_t *)"\x66\x0f\x38\x17\xc1", 5));
    /* vpternlogd, EVEX */
    assert_null(fake_stub(f, (const uint8_t *)"\x62\xf3\x75\x08\x25\xc2\x01", 7));
}

static void test_addressing_does_not_make_new_stubs(void **state)
{
    struct fake *f = setup(state);
    const struct native_stub *s = fake_stub(f, (const uint8_t *)"\x0f\x58\x0e", 3);

    assert_ptr_equal(s, fake_stub(f, (const uint8_t *)"\x0f\x58\x4c\x98\x10", 5));
    assert_ptr_equal(s, fake_stub(f, (const uint8_t *)"\x65\x0f\x58\x0d\x78\x56\x34\x12", 8));
    assert_ptr_not_equal(s, fake_stub(f, (const uint8_t *)"\x0f\x58\x16", 3));
}

/* ---- SIMD exceptions ---- */

/* cmocka puts its own signal handlers in place before each test. */
static void take_signals_back(void)
{
    host_trap_remove();
    assert_int_equal(host_trap_install(), 0);
}

static void test_unmasked_simd_exception_is_precise(void **state)
{
    static const float one[4] = { 1, 1, 1, 1 }, zero[4] = { 1, 0, 1, 1 };
    struct fake *f = setup(state);

    take_signals_back();
    memcpy(f->c.fpu.xmm[1], one, 16);
    memcpy(f->c.fpu.xmm[2], zero, 16);
    f->c.fpu.mxcsr = MXCSR_INIT & ~BIT(9);                  /* ZM */
    assert_raises(f, VEC_XM, RUN(f, "\x0f\x5e\xca", NULL)); /* divps xmm1, xmm2 */
    assert_memory_equal(f->c.fpu.xmm[1], one, 16);
    assert_int_equal(f->c.fpu.mxcsr, (MXCSR_INIT & ~BIT(9)) | BIT(2));
    assert_int_equal(__builtin_ia32_stmxcsr(), MXCSR_INIT);

    f->c.cr4 &= ~CR4_OSXMMEXCPT;
    assert_raises(f, VEC_UD, RUN(f, "\x0f\x5e\xca", NULL));
    f->c.fpu.mxcsr = MXCSR_INIT;
    assert_runs(RUN(f, "\x0f\x5e\xca", NULL));
    assert_int_equal(f->c.fpu.mxcsr, MXCSR_INIT | BIT(2));
}

static void test_instruction_the_host_lacks_raises_ud(void **state)
{
    struct fake *f = setup(state);
    struct native_stub s = *fake_stub(f, (const uint8_t *)"\x0f\x58\xca", 3);
    struct xsave_area was = f->c.fpu;
    struct host_code hc;

    take_signals_back();
    assert_int_equal(host_code_create(&hc, 4096), 0);
    memcpy(s.d.code, "\x0f\x0b", 2); /* ud2 */
    s.d.code_bytes = 2;
    assert_true(native_emit(&s, hc.rw, hc.rx));
    assert_raises(f, VEC_UD, native_exec(&f->c, &s, SEG_DS, 0));
    assert_memory_equal(&was, &f->c.fpu, sizeof(was));
    assert_int_equal(__builtin_ia32_stmxcsr(), MXCSR_INIT);
    host_code_destroy(&hc);
}

static void *run_with_signals_blocked(void *arg)
{
    struct fake *f = arg;

    f->c.fpu.mxcsr = MXCSR_INIT & ~BIT(9);
    f->c.fpu.xmm[1][3] = 0x40; /* 2.0f */
    return RUN(f, "\x0f\x5e\xca", NULL) == STEP_FAULT && f->c.exc.vector == VEC_XM ? f : NULL;
}

static void test_simd_exception_in_a_thread_with_blocked_signals(void **state)
{
    struct fake *f = setup(state);
    sigset_t all, was;
    pthread_t t;
    void *done;

    take_signals_back();
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &was);
    assert_int_equal(pthread_create(&t, NULL, run_with_signals_blocked, f), 0);
    (void)pthread_sigmask(SIG_SETMASK, &was, NULL);
    (void)pthread_join(t, &done);
    assert_ptr_equal(done, f);
}

static void test_exact_denormal_with_underflow_unmasked_raises_xm(void **state)
{
    static const double tiny = 0x1p-1022, half = 0.5;
    struct fake *f = setup(state);

    take_signals_back();
    memcpy(f->c.fpu.xmm[1], &tiny, 8);
    memcpy(f->mem, &half, 8);
    f->c.fpu.mxcsr = MXCSR_INIT & ~BIT(11);                       /* UM */
    assert_raises(f, VEC_XM, RUN(f, "\xf2\x0f\x59\x0e", f->mem)); /* mulsd xmm1, [rsi] */
}

static void test_ldmxcsr_reserved_bit_raises_gp(void **state)
{
    struct fake *f = setup(state);

    memcpy(f->mem, &(uint32_t){ MXCSR_INIT | BIT(17) }, 4);
    assert_raises(f, VEC_GP, RUN(f, "\x0f\xae\x16", f->mem));
    assert_int_equal(f->c.fpu.mxcsr, MXCSR_INIT);
    memcpy(f->mem, &(uint32_t){ 0x1fbf }, 4);
    assert_runs(RUN(f, "\xc5\xf8\xae\x16", f->mem));
    assert_runs(RUN(f, "\x0f\xae\x1e", f->mem + 8));
    assert_memory_equal(f->mem, f->mem + 8, 4);
}

static void test_alignment_check_is_for_user_mode(void **state)
{
    struct fake *f = setup(state);
    enum cpu_vendor vendor;

    f->c.cr0 |= CR0_AM;
    f->c.rflags |= RFLAGS_AC;
    assert_runs(RUN(f, "\xf2\x0f\x10\x0e", f->mem + 1)); /* movsd xmm1, [rsi] */
    f->c.cpl = 3;
    assert_raises(f, VEC_AC, RUN(f, "\xf2\x0f\x10\x0e", f->mem + 1));
    assert_runs(RUN(f, "\xf2\x0f\x10\x0e", f->mem + 8));
    /* Vectors count on AMD's processors only; 256 bits as 128. */
    vendor = f->model.vendor;
    f->model.vendor = VENDOR_INTEL;
    assert_runs(RUN(f, "\x0f\x10\x0e", f->mem + 8));         /* movups xmm1, [rsi] */
    assert_runs(RUN(f, "\xc4\xe2\x79\x13\x0e", f->mem + 1)); /* vcvtph2ps xmm1, [rsi] */
    f->model.vendor = VENDOR_AMD;
    assert_raises(f, VEC_AC, RUN(f, "\x0f\x10\x0e", f->mem + 8));
    assert_raises(f, VEC_AC, RUN(f, "\xc4\xe2\x79\x13\x0e", f->mem + 1));
    assert_runs(RUN(f, "\xc5\xfc\x10\x0e", f->mem + 16));     /* vmovups ymm1, [rsi] */
    assert_raises(f, VEC_AC, RUN(f, "\xd9\x36", f->mem + 2)); /* fnstenv [rsi] */
    assert_runs(RUN(f, "\xd9\x36", f->mem + 4));
    f->model.vendor = vendor;
}

static void test_what_does_not_wait_stores_whatever_is_pending(void **state)
{
    struct fake *f = setup(state);

    f->c.fpu.fcw &= ~FSW_IE;
    f->c.fpu.fsw = PENDING;
    assert_runs(RUN(f, "\xdd\x3e", f->mem)); /* fnstsw [rsi] */
    assert_int_equal(f->mem[0] | f->mem[1] << 8, PENDING);
    assert_runs(RUN(f, "\xd9\x3e", f->mem)); /* fnstcw [rsi] */
    assert_int_equal(f->mem[0] | f->mem[1] << 8, f->c.fpu.fcw);
}

static void test_a_store_kept_back_by_an_exception_still_faults_on_amd(void **state)
{
    struct fake *f = setup(state);
    enum cpu_vendor vendor = f->model.vendor;

    f->c.fpu.fcw &= ~FSW_IE; /* the stack is empty */
    f->mem[0] = 0x5a;
    assert_runs(RUN(f, "\xd9\x16", f->mem)); /* fst dword [rsi] */
    assert_int_equal(f->mem[0], 0x5a);
    assert_int_equal(f->c.fpu.fsw & PENDING, PENDING);
    f->no_access = (uintptr_t)f->mem + 3;
    f->c.fpu.fsw = 0;
    f->model.vendor = VENDOR_AMD;
    assert_raises(f, VEC_PF, RUN(f, "\xd9\x16", f->mem));
    assert_int_equal(f->c.fpu.fsw, 0);
    /* Nothing is to be stored: Intel's do not look where. */
    f->model.vendor = VENDOR_INTEL;
    assert_runs(RUN(f, "\xd9\x16", f->mem));
    assert_int_equal(f->c.fpu.fsw & PENDING, PENDING);
    f->model.vendor = vendor;
}

static void test_vpinsrd_with_w_outside_64_bit_code(void **state)
{
    static const uint8_t vpinsrq[] = { 0xc4, 0xe3, 0xf1, 0x22, 0xc0, 1 };
    struct fake *f = setup(state);
    enum cpu_vendor vendor = f->model.vendor;

    fake_mode32(&f->c);
    f->model.vendor = VENDOR_INTEL;
    assert_non_null(fake_stub(f, vpinsrq, sizeof(vpinsrq)));
    f->model.vendor = VENDOR_AMD;
    assert_null(fake_stub(f, vpinsrq, sizeof(vpinsrq)));
    f->model.vendor = vendor;
}

/* ---- registers and modes ---- */

static uint32_t host_crc32(uint32_t crc, uint8_t byte)
{
    __asm__("crc32b %1, %0" : "+r"(crc) : "r"(byte));
    return crc;
}

static void test_rsp_and_high_bytes_as_operands(void **state)
{
    struct fake *f = setup(state);
    struct cpu *c = &f->c;
    uint32_t crc = 0;

    c->gpr[RAX] = 0x1234;
    c->gpr[RSP] = 0xdead;
    assert_runs(RUN(f, "\xf3\x48\x0f\xb8\xe0", NULL)); /* popcnt rsp, rax */
    assert_int_equal(c->gpr[RSP], 5);
    c->gpr[RSP] = 0;
    assert_runs(RUN(f, "\xf2\x0f\x38\xf0\xe4", NULL)); /* crc32 esp, ah */
    assert_int_equal(c->gpr[RSP], host_crc32(crc, 0x12));
    c->gpr[RSP] = 0x7f;
    assert_runs(RUN(f, "\xf2\x40\x0f\x38\xf0\xc4", NULL)); /* crc32 eax, spl */
    assert_int_equal(c->gpr[RAX], host_crc32(0x1234, 0x7f));
    assert_runs(RUN(f, "\x66\x48\x0f\x6e\xcc", NULL)); /* movq xmm1, rsp */
    assert_memory_equal(c->fpu.xmm[1], &c->gpr[RSP], 8);
    c->gpr[RDX] = 1ull << 63;
    c->gpr[RDI] = 6;
    assert_runs(RUN(f, "\xc4\xe2\xf3\xf6\xe7", NULL)); /* mulx rsp, rcx, rdi */
    assert_int_equal(c->gpr[RSP], 3);
    assert_int_equal(c->gpr[RCX], 0);
}

static void test_direction_flag_stays_the_guests(void **state)
{
    struct fake *f = setup(state);
    uint64_t rflags;

    f->c.rflags |= RFLAGS_DF | RFLAGS_CF | RFLAGS_AC | RFLAGS_NT;
    assert_runs(RUN(f, "\x66\x0f\x38\xf6\xc1", NULL)); /* adcx eax, ecx */
    assert_int_equal(f->c.gpr[RAX], 1);
    assert_int_equal(f->c.rflags, RFLAGS_FIXED1 | RFLAGS_DF | RFLAGS_AC | RFLAGS_NT);
    __asm__("pushfq\n pop %0" : "=r"(rflags));
    assert_int_equal(rflags & (RFLAGS_DF | RFLAGS_AC | RFLAGS_NT), 0);
}

static void test_operand_size_follows_the_mode(void **state)
{
    struct fake *f = setup(state);
    struct cpu *c = &f->c;

    fake_mode_real(c);
    c->gpr[RAX] = 0x11112222;
    c->gpr[RCX] = 0xffff00ff;
    assert_runs(RUN(f, "\xf3\x0f\xb8\xc1", NULL)); /* popcnt ax, cx */
    assert_int_equal(c->gpr[RAX], 0x11110008);
    assert_runs(RUN(f, "\x66\xf3\x0f\xb8\xc1", NULL)); /* popcnt eax, ecx */
    assert_int_equal(c->gpr[RAX], 24);
    fake_mode32(c);
    assert_runs(RUN(f, "\xf3\x0f\xb8\xc1", NULL));
    assert_int_equal(c->gpr[RAX], 24);
}

static void test_vex_w_is_ignored_for_gprs_in_32_bit_mode(void **state)
{
    struct fake *f = setup(state);
    struct cpu *c = &f->c;

    fake_mode32(c);
    c->gpr[RCX] = 0x1122334455667788;
    memset(c->fpu.xmm[0], 0xff, 16);
    memset(c->fpu.ymmh[0], 0xff, 16);
    assert_runs(RUN(f, "\xc4\xe1\xf9\x6e\xc1", NULL)); /* vmovd xmm0, ecx */
    assert_memory_equal(c->fpu.xmm[0], "\x88\x77\x66\x55\0\0\0\0\0\0\0\0\0\0\0\0", 16);
    assert_memory_equal(c->fpu.ymmh[0], "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16);
}

/* ---- x87 ---- */

static void test_faulting_store_does_not_pop(void **state)
{
    struct fake *f = setup(state);
    struct xsave_area was;

    assert_runs(RUN(f, "\xd9\xe8", NULL)); /* fld1 */
    was = f->c.fpu;
    f->no_access = (uintptr_t)f->mem + 7;
    assert_raises(f, VEC_PF, RUN(f, "\xdd\x1e", f->mem)); /* fstp qword [rsi] */
    assert_memory_equal(&was, &f->c.fpu, sizeof(was));
    f->no_access = 0;
    assert_runs(RUN(f, "\xdd\x1e", f->mem));
    assert_int_equal(f->c.fpu.ftw, 0);
    assert_memory_equal(f->mem, &(double){ 1 }, 8);
}

static void test_unmasked_x87_exception_is_raised_by_the_next(void **state)
{
    struct fake *f = setup(state);

    f->c.fpu.fcw &= ~BIT(2); /* ZM */
    f->c.rip = 0x1234;
    assert_runs(RUN(f, "\xd9\xe8", NULL));
    assert_runs(RUN(f, "\xd8\x36", f->mem)); /* fdiv dword [rsi] */
    assert_true(f->c.fpu.fsw & FSW_ES);
    assert_int_equal(f->c.fpu.fop, 0x036);
    assert_int_equal(f->c.fpu.fip, 0x1234);
    assert_int_equal(f->c.fpu.fdp, (uintptr_t)f->mem);
    assert_raises(f, VEC_MF, RUN(f, "\x9b", NULL));
    assert_runs(RUN(f, "\xdd\x3e", f->mem)); /* fnstsw [rsi] */
    assert_memory_equal(f->mem, &f->c.fpu.fsw, 2);
    assert_runs(RUN(f, "\xdb\xe2", NULL)); /* fnclex */
    assert_runs(RUN(f, "\x9b", NULL));
}

static void test_store_with_unmasked_overflow_leaves_memory(void **state)
{
    static const uint8_t huge[10] = { 0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x7e };
    struct fake *f = setup(state);

    memcpy(f->mem, huge, 10);
    assert_runs(RUN(f, "\xdb\x2e", f->mem)); /* fld tbyte [rsi] */
    memset(f->mem, 0x5a, 16);
    f->c.fpu.fcw &= ~FSW_OE;
    assert_runs(RUN(f, "\xd9\x1e", f->mem)); /* fstp dword [rsi] */
    assert_memory_equal(f->mem, "\x5a\x5a\x5a\x5a", 4);
    assert_true(f->c.fpu.fsw & FSW_ES);
    assert_int_equal(f->c.fpu.ftw, 0x80);
}

/* Two registers, top of stack 6, exceptions, pointers: the same state here and in the host. */
static void make_x87(struct fake *f)
{
    static const struct {
        const char *bytes;
        unsigned nr;
    } insns[] = {
        { INSN("\xd9\xeb") }, { INSN("\xd9\xee") }, { INSN("\xd9\xfe") }, { INSN("\xd9\xe5") }
    };

    for (unsigned i = 0; i < ARRAY_SIZE(insns); i++)
        assert_runs(fake_run(f, insns[i].bytes, insns[i].nr, NULL));
    f->c.fpu.fop = 0x1e5;
    f->c.fpu.fip = 0x00054321;
    f->c.fpu.fdp = 0x00098765;
    f->c.fpu_cs = f->c.fpu_ds = 0;
}

static void test_fnsave_is_as_on_the_host(void **state)
{
    struct fake *f = setup(state);
    struct xsave_area fx;
    uint8_t host[108];

    make_x87(f);
    fx = f->c.fpu;
    __asm__ volatile("fxrstor64 %1\n fnsave %0" : "=m"(host) : "m"(fx));
    assert_runs(RUN(f, "\xdd\x36", f->mem));
    assert_memory_equal(f->mem, host, sizeof(host));
    assert_int_equal(f->c.fpu.fcw, FCW_INIT);
    assert_int_equal(f->c.fpu.ftw, 0);

    fx = f->c.fpu;
    __asm__ volatile("fxrstor64 %1\n data16 fnsave %0" : "=m"(host) : "m"(fx));
    assert_runs(RUN(f, "\x66\xdd\x36", f->mem));
    assert_memory_equal(f->mem, host, 94);
}

static void test_frstor_undoes_fnsave_in_every_format(void **state)
{
    for (unsigned i = 0; i < 4; i++) {
        struct fake *f = setup(state);
        char save[3] = "\x66\xdd", restore[3] = "\x66\xdd";
        struct xsave_area was;

        make_x87(f);
        if (i & 1)
            fake_mode_real(&f->c);
        was = f->c.fpu;
        /* [rsi], or [si] in real mode; 66 gives the other width */
        save[2] = i & 1 ? 0x34 : 0x36;
        restore[2] = i & 1 ? 0x24 : 0x26;
        assert_runs(fake_run(f, save + !(i & 2), i & 2 ? 3 : 2, f->mem));
        assert_runs(fake_run(f, restore + !(i & 2), i & 2 ? 3 : 2, f->mem));
        /* The narrow formats lose some of the pointers. */
        was.fop = f->c.fpu.fop;
        was.fip = f->c.fpu.fip;
        was.fdp = f->c.fpu.fdp;
        assert_memory_equal(&was, &f->c.fpu, sizeof(was));
    }
}

static void test_real_mode_environment_has_linear_addresses(void **state)
{
    struct fake *f = setup(state);

    make_x87(f);
    fake_mode_real(&f->c);
    f->c.fpu.fip = 0x4321;
    f->c.fpu_cs = 0xf000;
    f->c.fpu.fdp = 0x8765;
    f->c.fpu_ds = 0x2000;
    assert_runs(RUN(f, "\xd9\x34", f->mem)); /* fnstenv [si], 14 bytes */
    assert_memory_equal(f->mem + 6, "\x21\x43\xe5\xf1\x65\x87\x00\x20", 8);
    assert_int_equal(f->c.fpu.fcw & FSW_EXCEPTIONS, FSW_EXCEPTIONS);
    assert_runs(RUN(f, "\x66\xd9\x34", f->mem)); /* 28 bytes */
    assert_memory_equal(f->mem + 12,
                        "\x21\x43\xff\xff\xe5\xf1\x00\x00\x65\x87\xff\xff\x00\x20\x00\x00", 16);
}

/* ---- masked moves and gathers ---- */

static void set_mask32(uint8_t v[16], unsigned bits)
{
    for (unsigned i = 0; i < 4; i++)
        memcpy(v + 4 * i, &(uint32_t){ bits >> i & 1 ? 0x80000000 : 0x7fffffff }, 4);
}

static void test_masked_load_touches_selected_elements_only(void **state)
{
    struct fake *f = setup(state);
    uint8_t *end = f->mem + FAKE_MEM_BYTES;

    memset(end - 8, 0x11, 8);
    set_mask32(f->c.fpu.xmm[2], 3);
    memset(f->c.fpu.ymmh[1], 0xff, 16);
    assert_runs(RUN(f, "\xc4\xe2\x69\x2c\x0e", end - 8)); /* vmaskmovps xmm1, xmm2, [rsi] */
    assert_memory_equal(f->c.fpu.xmm[1], "\x11\x11\x11\x11\x11\x11\x11\x11\0\0\0\0\0\0\0\0", 16);
    assert_int_equal(f->c.fpu.ymmh[1][0], 0);
    set_mask32(f->c.fpu.xmm[2], 7);
    assert_raises(f, VEC_PF, RUN(f, "\xc4\xe2\x69\x2c\x0e", end - 8));
    assert_int_equal(f->c.exc.addr, (uintptr_t)end);
}

static void test_masked_store_is_all_or_nothing(void **state)
{
    struct fake *f = setup(state);

    memset(f->c.fpu.xmm[1], 0x22, 16);
    set_mask32(f->c.fpu.xmm[2], 9);
    f->no_access = (uintptr_t)f->mem + 13;
    assert_raises(f, VEC_PF,
                  RUN(f, "\xc4\xe2\x69\x2e\x0e", f->mem)); /* vmaskmovps [rsi], xmm2, xmm1 */
    assert_int_equal(f->mem[0], 0);
    f->no_access = (uintptr_t)f->mem + 5;
    assert_runs(RUN(f, "\xc4\xe2\x69\x2e\x0e", f->mem));
    assert_memory_equal(f->mem, "\x22\x22\x22\x22\0\0\0\0\0\0\0\0\x22\x22\x22\x22", 16);
}

static void test_maskmov_writes_selected_bytes(void **state)
{
    struct fake *f = setup(state);

    memset(f->c.fpu.xmm[0], 0x33, 16);
    f->c.fpu.xmm[1][2] = f->c.fpu.xmm[1][15] = 0x80;
    assert_runs(RUN(f, "\x66\x0f\xf7\xc1", f->mem)); /* maskmovdqu xmm0, xmm1 */
    assert_memory_equal(f->mem, "\0\0\x33\0\0\0\0\0\0\0\0\0\0\0\0\x33", 16);

    f->c.fpu.fsw = 5 << FSW_TOP_SHIFT;
    memset(f->c.fpu.st[(0 - 5) & 7], 0x44, 8);   /* mm0 */
    f->c.fpu.st[(1 - 5) & 7][0] = 0xff;          /* mm1 */
    assert_runs(RUN(f, "\x0f\xf7\xc1", f->mem)); /* maskmovq mm0, mm1 */
    assert_memory_equal(f->mem, "\x44\0\x33", 3);
    assert_int_equal(f->c.fpu.fsw, 0);
    assert_int_equal(f->c.fpu.ftw, 0xff);
    assert_int_equal(f->c.fpu.st[0][0], 0x44);
}

static void test_gather_keeps_progress_over_a_fault(void **state)
{
    static const uint32_t index[4] = { 0, 4, 8, 12 }, expect[4] = { 100, 104, 7, 7 };
    static const char insn[] =
        "\xc4\xe2\x69\x90\x0c\xae"; /* vpgatherdd xmm1, [rsi + xmm5 * 4], xmm2 */
    struct fake *f = setup(state);

    for (uint32_t i = 0; i < 64; i++)
        memcpy(f->mem + 4 * i, &(uint32_t){ 100 + i }, 4);
    memcpy(f->c.fpu.xmm[5], index, 16);
    for (unsigned i = 0; i < 4; i++)
        memcpy(f->c.fpu.xmm[1] + 4 * i, &(uint32_t){ 7 }, 4);
    set_mask32(f->c.fpu.xmm[2], 7);
    memset(f->c.fpu.ymmh[1], 0xff, 16);
    f->no_access = (uintptr_t)f->mem + 32;
    assert_raises(f, VEC_PF, fake_run(f, insn, 6, f->mem));
    assert_memory_equal(f->c.fpu.xmm[1], expect, 16);
    assert_memory_equal(f->c.fpu.xmm[2], "\0\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\x7f" + 0, 8);
    assert_int_equal(f->c.fpu.xmm[2][11] & 0x80, 0x80);
    f->no_access = 0;
    assert_runs(fake_run(f, insn, 6, f->mem));
    assert_memory_equal(f->c.fpu.xmm[1] + 8, &(uint32_t){ 108 }, 4);
    assert_memory_equal(f->c.fpu.xmm[1] + 12, &(uint32_t){ 7 }, 4);
    assert_int_equal(f->c.fpu.ymmh[1][0], 0);
    assert_memory_equal(f->c.fpu.xmm[2], "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16);
}

static void test_gather_of_quadword_indices(void **state)
{
    struct fake *f = setup(state);

    for (uint32_t i = 0; i < 64; i++)
        memcpy(f->mem + 4 * i, &(uint32_t){ 100 + i }, 4);
    for (unsigned i = 0; i < 2; i++) {
        memcpy(f->c.fpu.xmm[5] + 8 * i, &(int64_t){ -1 - (int)i }, 8);
        memcpy(f->c.fpu.ymmh[5] + 8 * i, &(int64_t){ 1 + i }, 8);
    }
    set_mask32(f->c.fpu.xmm[2], 15);
    assert_runs(
        RUN(f, "\xc4\xe2\x6d\x91\x0c\xae", f->mem + 16)); /* vpgatherqd xmm1, [rsi+ymm5*4], xmm2 */
    assert_memory_equal(f->c.fpu.xmm[1], ((uint32_t[]){ 103, 102, 105, 106 }), 16);
}

static void test_vzero_pair(void **state)
{
    struct fake *f = setup(state);

    memset(f->c.fpu.xmm, 1, 256);
    memset(f->c.fpu.ymmh, 1, 256);
    assert_runs(RUN(f, "\xc5\xf8\x77", NULL));
    assert_int_equal(f->c.fpu.ymmh[15][15], 0);
    assert_int_equal(f->c.fpu.xmm[15][15], 1);
    fake_mode32(&f->c);
    assert_runs(RUN(f, "\xc5\xfc\x77", NULL));
    assert_int_equal(f->c.fpu.xmm[7][15], 0);
    assert_int_equal(f->c.fpu.xmm[8][0], 1);
}

static void test_full_cache_fails_cleanly_and_resets(void **state)
{
    struct fake *f = setup(state);
    ZydisDecodedInstruction in;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    const struct native_stub *s = NULL;
    uint32_t i = 0;

    native_cache_reset(f->nc);
    do { /* vpalignr xmm?, xmm?, xmm?, imm8 */
        uint8_t bytes[6] = { 0xc4,
                             0xe3,
                             (uint8_t)(0x01 | (i >> 8 & 15) << 3),
                             0x0f,
                             (uint8_t)(0xc0 | (i >> 12 & 63)),
                             (uint8_t)i };

        assert_true(fake_decode(&f->c, bytes, 6, &in, ops));
        s = native_get(f->nc, &f->model, &in, ops, bytes);
    } while (s && ++i < 1 << 18);
    assert_null(s);
    assert_true(native_cache_full(f->nc));
    native_cache_reset(f->nc);
    assert_false(native_cache_full(f->nc));
    assert_runs(RUN(f, "\xd9\xe8", NULL));
}

int main(void)
{
#define T(name) cmocka_unit_test(name)
    const struct CMUnitTest tests[] = {
        T(test_checks_come_first_and_in_order),
        T(test_vex_in_v8086_mode_raises_ud),
        T(test_ne_clear_asserts_ferr_and_goes_on),
        T(test_missing_feature_is_not_offered),
        T(test_addressing_does_not_make_new_stubs),
        T(test_unmasked_simd_exception_is_precise),
        T(test_instruction_the_host_lacks_raises_ud),
        T(test_simd_exception_in_a_thread_with_blocked_signals),
        T(test_exact_denormal_with_underflow_unmasked_raises_xm),
        T(test_ldmxcsr_reserved_bit_raises_gp),
        T(test_alignment_check_is_for_user_mode),
        T(test_what_does_not_wait_stores_whatever_is_pending),
        T(test_a_store_kept_back_by_an_exception_still_faults_on_amd),
        T(test_vpinsrd_with_w_outside_64_bit_code),
        T(test_rsp_and_high_bytes_as_operands),
        T(test_direction_flag_stays_the_guests),
        T(test_operand_size_follows_the_mode),
        T(test_vex_w_is_ignored_for_gprs_in_32_bit_mode),
        T(test_faulting_store_does_not_pop),
        T(test_unmasked_x87_exception_is_raised_by_the_next),
        T(test_store_with_unmasked_overflow_leaves_memory),
        T(test_fnsave_is_as_on_the_host),
        T(test_frstor_undoes_fnsave_in_every_format),
        T(test_real_mode_environment_has_linear_addresses),
        T(test_masked_load_touches_selected_elements_only),
        T(test_masked_store_is_all_or_nothing),
        T(test_maskmov_writes_selected_bytes),
        T(test_gather_keeps_progress_over_a_fault),
        T(test_gather_of_quadword_indices),
        T(test_vzero_pair),
        T(test_full_cache_fails_cleanly_and_resets),
    };

    return cmocka_run_group_tests_name("native", tests, make_fake, drop_fake);
}
