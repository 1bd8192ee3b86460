/* SPDX-License-Identifier: Apache-2.0 */
/* Far JMP, CALL and RET, call gates, IRET: where they go, what they push and pop, how they fault.
 */
#include "cpu/fake_cpu.h"

#define NON_CANONICAL 0x0000800000000000ull

/* Everything that a fault must leave alone. */
struct snapshot {
    uint64_t gpr[NR_GPRS], rip, rflags;
    struct seg seg[NR_SEGS], tr;
    uint8_t cpl;
};

static struct snapshot take(const struct cpu *c)
{
    struct snapshot s;

    memset(&s, 0, sizeof(s));
    memcpy(s.gpr, c->gpr, sizeof(s.gpr));
    memcpy(s.seg, c->seg, sizeof(s.seg));
    s.tr = c->tr;
    s.rip = c->rip;
    s.rflags = c->rflags;
    s.cpl = c->cpl;
    return s;
}

static void check_unchanged(const struct cpu *c, const struct snapshot *was, const char *name)
{
    struct snapshot now = take(c);

    if (memcmp(was, &now, sizeof(now)))
        fail_msg("%s: registers changed", name);
}

/* A call gate at S_GATE. */
static void gate(unsigned type, unsigned dpl, uint16_t sel, uint64_t off, unsigned nr_params)
{
    gate_set(GDT_AT + S_GATE, type, dpl, sel, off, nr_params);
}

static void test_jmp_and_call_fault_by_table(void **state)
{
    static const struct {
        const char *name;
        enum fake_mode mode;
        uint16_t sel;
        uint64_t off;
        unsigned vector;
        uint32_t err;
    } cases[] = {
        { "null", PM0, 3, 0, VEC_GP, 0 },
        { "beyond", PM0, GDT_END, 0, VEC_GP, GDT_END },
        { "data", PM0, S_DATA0, 0, VEC_GP, S_DATA0 },
        { "an LDT", PM0, S_LDT, 0, VEC_GP, S_LDT },
        { "DPL > CPL", PM0, S_CODE3, 0, VEC_GP, S_CODE3 },
        { "DPL < CPL", PM3, S_CODE0, 0, VEC_GP, S_CODE0 },
        { "RPL > CPL", PM0, S_CODE0 | 1, 0, VEC_GP, S_CODE0 },
        { "absent", PM0, S_CODE_NP, 0, VEC_NP, S_CODE_NP },
        { "beyond the limit", PM0, S_SMALL_CODE, 0x1000, VEC_GP, 0 },
        { "busy TSS", PM0, S_TSS, 0, VEC_GP, S_TSS },
        { "TSS of DPL 0", PM3, S_TSS_B | 3, 0, VEC_GP, S_TSS_B },
        { "absent TSS", PM0, S_TSS_NP, 0, VEC_NP, S_TSS_NP },
        { "TSS in IA-32e mode", LONG0, S_TSS_B, 0, VEC_GP, S_TSS_B },
        { "L and D", LONG0, S_BAD_LONG, 0, VEC_GP, S_BAD_LONG },
        { "not canonical", LONG0, S_LONG0, NON_CANONICAL, VEC_GP, 0 },
        { "real mode, beyond 64 KB", REAL, 0x100, 0x10000, VEC_GP, 0 },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        unsigned bytes = cases[i].mode == LONG0 ? 8 : 4;
        struct cpu *c = fake_make(cases[i].mode);
        struct snapshot was = take(c);

        check_fault(c, cpu_far_jmp(c, cases[i].sel, cases[i].off, bytes), cases[i].vector,
                    cases[i].err, cases[i].name);
        check_unchanged(c, &was, cases[i].name);
        check_fault(c, cpu_far_call(c, cases[i].sel, cases[i].off, bytes), cases[i].vector,
                    cases[i].err, cases[i].name);
        check_unchanged(c, &was, cases[i].name);
    }
}

static void test_jmp_reaches_its_target(void **state)
{
    static const struct {
        enum fake_mode mode;
        uint16_t sel;
        uint64_t off;
        unsigned bytes;
        uint16_t want_sel;
        uint64_t want_rip;
        uint32_t want_mode;
    } cases[] = {
        { PM0, S_CODE0, 0x12345678, 4, S_CODE0, 0x12345678, MODE_CS32 },
        { PM0, S_CODE0, 0x12345678, 2, S_CODE0, 0x5678, MODE_CS32 },
        { PM0, S_CODE16, 0x5678, 2, S_CODE16, 0x5678, 0 },
        { PM3, S_CONF0, 0x5678, 4, S_CONF0 | 3, 0x5678, MODE_CS32 },
        { PM3, S_CODE3, 0x5678, 4, S_CODE3 | 3, 0x5678, MODE_CS32 },
        { LONG0, S_LONG0, 0xffff800000000000, 8, S_LONG0, 0xffff800000000000, MODE_CS64 },
        { LONG0, S_CODE0, 0x80001234, 4, S_CODE0, 0x80001234, MODE_CS32 },
        { REAL, 0x4321, 0x5678, 2, 0x4321, 0x5678, 0 },
        { VM86, 0x8321, 0x5678, 2, 0x8321, 0x5678, 0 },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct cpu *c = fake_make(cases[i].mode);
        unsigned cpl = c->cpl;

        assert_int_equal(cpu_far_jmp(c, cases[i].sel, cases[i].off, cases[i].bytes), STEP_NEXT);
        assert_int_equal(c->seg[SEG_CS].sel, cases[i].want_sel);
        assert_true(c->rip == cases[i].want_rip);
        assert_int_equal(c->cpl, cpl);
        assert_int_equal(c->mode & (MODE_CS32 | MODE_CS64), cases[i].want_mode);
    }
}

static void test_call_pushes_cs_and_next_rip(void **state)
{
    struct cpu *c = fake_make(PM0);

    (void)state;
    assert_int_equal(cpu_far_call(c, S_CONF0, 0x100, 4), STEP_NEXT);
    assert_int_equal(c->gpr[RSP], STACK0 - 8);
    CHECK_STACK(STACK0 - 8, 4, 0x1236, S_CODE0);
    c = fake_make(LONG0);
    assert_int_equal(cpu_far_call(c, S_CODE0, 0x100, 8), STEP_NEXT);
    assert_int_equal(c->gpr[RSP], STACK0 - 16);
    CHECK_STACK(STACK0 - 16, 8, 0x1236, S_LONG0);
    c = fake_make(REAL);
    assert_int_equal(cpu_far_call(c, 0x300, 0x40, 2), STEP_NEXT);
    CHECK_STACK(0x2000 + 0xffec, 2, 0x1236, 0x100);
    assert_int_equal(c->seg[SEG_CS].base, 0x3000);
    c = fake_make(PM0);
    c->seg[SEG_SS] = seg_of(S_SMALL_DATA);
    c->gpr[RSP] = 0x1004;
    check_fault(c, cpu_far_call(c, S_CODE0, 0x100, 4), VEC_SS, 0, "no room");
    c = fake_make(PM0);
    fake.absent = STACK0 - PAGE_BYTES;
    check_fault(c, cpu_far_call(c, S_CODE0, 0x100, 4), VEC_PF, PF_W, "stack not there");
    assert_int_equal(c->gpr[RSP], STACK0);
}

static void test_far_call_to_nowhere_pushes_before_it_faults(void **state)
{
    struct cpu *c = fake_make(PM0);

    (void)state;
    check_fault(c, cpu_far_call(c, S_SMALL_CODE, 0x1000, 4), VEC_GP, 0, "beyond the limit");
    CHECK_STACK(STACK0 - 8, 4, 0x1236, S_CODE0);
    assert_int_equal(c->gpr[RSP], STACK0);
    c = fake_make(PM0);
    fake.absent = STACK0 - PAGE_BYTES;
    check_fault(c, cpu_far_call(c, S_SMALL_CODE, 0x1000, 4), VEC_PF, PF_W, "stack not there");
}

/* ---- call gates ---- */

static void test_gate_faults_by_table(void **state)
{
    static const struct {
        const char *name;
        enum fake_mode mode;
        unsigned type, dpl;
        uint16_t sel;
        uint64_t off;
        unsigned vector;
        uint32_t err;
    } cases[] = {
        { "gate DPL < CPL", PM3, SYS_CALL_GATE, 0, S_CODE0, 0, VEC_GP, S_GATE },
        { "null code", PM3, SYS_CALL_GATE, 3, 0, 0, VEC_GP, 0 },
        { "code beyond", PM3, SYS_CALL_GATE, 3, GDT_END, 0, VEC_GP, GDT_END },
        { "to data", PM3, SYS_CALL_GATE, 3, S_DATA0, 0, VEC_GP, S_DATA0 },
        { "to an outer ring", PM0, SYS_CALL_GATE, 3, S_CODE3, 0, VEC_GP, S_CODE3 },
        { "absent code", PM3, SYS_CALL_GATE, 3, S_CODE_NP, 0, VEC_NP, S_CODE_NP },
        { "offset", PM3, SYS_CALL_GATE, 3, S_SMALL_CODE, 0x1000, VEC_GP, 0 },
        { "16-bit in IA-32e mode", LONG0, SYS_CALL_GATE16, 3, S_LONG0, 0, VEC_GP, S_GATE },
        { "to compatibility code", LONG0, SYS_CALL_GATE, 3, S_CODE0, 0, VEC_GP, S_CODE0 },
        { "not canonical", LONG0, SYS_CALL_GATE, 3, S_LONG0, NON_CANONICAL, VEC_GP, 0 },
        { "interrupt gate", PM0, SYS_INT_GATE, 3, S_CODE0, 0, VEC_GP, S_GATE },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct cpu *c = fake_make(cases[i].mode);
        struct snapshot was = take(c);

        gate(cases[i].type, cases[i].dpl, cases[i].sel, cases[i].off, 0);
        check_fault(c, cpu_far_call(c, S_GATE, 0, 4), cases[i].vector, cases[i].err, cases[i].name);
        check_unchanged(c, &was, cases[i].name);
    }
}

static void test_gate_to_inner_ring_copies_parameters(void **state)
{
    struct cpu *c = fake_make(PM3);

    (void)state;
    gate(SYS_CALL_GATE, 3, S_CODE0, 0x4567, 2);
    put(STACK3, 0x11111111, 4);
    put(STACK3 + 4, 0x22222222, 4);
    assert_int_equal(cpu_far_call(c, S_GATE | 3, 0xdead, 4), STEP_NEXT);
    assert_int_equal(c->cpl, 0);
    assert_int_equal(c->rip, 0x4567);
    assert_int_equal(c->seg[SEG_CS].sel, S_CODE0);
    assert_int_equal(c->seg[SEG_SS].sel, S_DATA0);
    assert_int_equal(c->gpr[RSP], TSS_SP0 - 24);
    CHECK_STACK(TSS_SP0 - 24, 4, 0x1236, S_CODE3 | 3, 0x11111111, 0x22222222, STACK3, S_DATA3 | 3);
    /* and back: both stacks lose the parameters, DS goes with the ring */
    assert_int_equal(cpu_load_seg(c, SEG_FS, S_DATA0), STEP_NEXT);
    assert_int_equal(cpu_far_ret(c, 8, 4), STEP_NEXT);
    assert_int_equal(c->cpl, 3);
    assert_int_equal(c->rip, 0x1236);
    assert_int_equal(c->gpr[RSP], STACK3 + 8);
    assert_int_equal(c->seg[SEG_SS].sel, S_DATA3 | 3);
    assert_int_equal(c->seg[SEG_DS].sel, S_DATA3 | 3);
    assert_int_equal(c->seg[SEG_FS].sel, 0);
    assert_true(c->seg[SEG_FS].attr & SEG_UNUSABLE);
}

static void test_gate_16_bit_and_same_ring(void **state)
{
    struct cpu *c = fake_make(PM3);

    (void)state;
    gate(SYS_CALL_GATE16, 3, S_CODE0, 0x4567, 1);
    put(STACK3, 0x1111, 2);
    assert_int_equal(cpu_far_call(c, S_GATE, 0, 4), STEP_NEXT);
    CHECK_STACK(TSS_SP0 - 10, 2, 0x1236, S_CODE3 | 3, 0x1111, STACK3 & 0xffff, S_DATA3 | 3);
    c = fake_make(PM3);
    gate(SYS_CALL_GATE, 3, S_CONF0, 0x4567, 0);
    assert_int_equal(cpu_far_call(c, S_GATE, 0, 4), STEP_NEXT);
    assert_int_equal(c->cpl, 3);
    assert_int_equal(c->seg[SEG_CS].sel, S_CONF0 | 3);
    CHECK_STACK(STACK3 - 8, 4, 0x1236, S_CODE3 | 3);
    c = fake_make(PM3);
    gate(SYS_CALL_GATE, 3, S_CODE1, 0x4567, 0);
    assert_int_equal(cpu_far_call(c, S_GATE, 0, 4), STEP_NEXT);
    assert_int_equal(c->cpl, 1);
    assert_int_equal(c->gpr[RSP], TSS_SP1 - 16);
    c = fake_make(PM3);
    gate(SYS_CALL_GATE, 3, S_CODE0, 0x4567, 0);
    check_fault(c, cpu_far_jmp(c, S_GATE, 0, 4), VEC_GP, S_CODE0, "JMP to an inner ring");
}

static void test_gate_64_bit(void **state)
{
    struct cpu *c = fake_make(COMPAT3);

    (void)state;
    gate(SYS_CALL_GATE, 3, S_LONG0, 0xffff800000004567, 0);
    assert_int_equal(cpu_far_call(c, S_GATE, 0, 4), STEP_NEXT);
    assert_true(c->rip == 0xffff800000004567);
    assert_int_equal(c->cpl, 0);
    assert_int_equal(c->seg[SEG_SS].sel, 0);
    assert_true(in_long64(c));
    CHECK_STACK(TSS_SP0 - 32, 8, 0x1236, S_CODE3 | 3, STACK3, S_DATA3 | 3);
    assert_int_equal(cpu_far_ret(c, 0, 8), STEP_NEXT);
    assert_int_equal(c->mode & (MODE_CS32 | MODE_CS64), MODE_CS32);
    assert_int_equal(c->gpr[RSP], STACK3);
}

static void test_gate_inner_stack_faults_by_table(void **state)
{
    static const struct {
        const char *name;
        uint16_t ss;
        uint32_t esp, tr_limit;
        unsigned vector;
        uint32_t err;
    } cases[] = {
        { "TSS too small", S_DATA0, TSS_SP0, 8, VEC_TS, S_TSS },
        { "null SS", 0, TSS_SP0, 0x67, VEC_TS, 0 },
        { "SS beyond", GDT_END, TSS_SP0, 0x67, VEC_TS, GDT_END },
        { "SS of wrong RPL", S_DATA0 | 1, TSS_SP0, 0x67, VEC_TS, S_DATA0 },
        { "SS of wrong DPL", S_DATA3, TSS_SP0, 0x67, VEC_TS, S_DATA3 },
        { "SS read-only", S_RO, TSS_SP0, 0x67, VEC_TS, S_RO },
        { "SS absent", S_DATA_NP, TSS_SP0, 0x67, VEC_SS, S_DATA_NP },
        { "no room", S_SMALL_DATA, 0x2000, 0x67, VEC_SS, S_SMALL_DATA },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct cpu *c = fake_make(PM3);
        struct snapshot was;

        gate(SYS_CALL_GATE, 3, S_CODE0, 0x4567, 0);
        put(TSS_AT + 4, cases[i].esp, 4);
        put(TSS_AT + 8, cases[i].ss, 4);
        c->tr.limit = cases[i].tr_limit;
        was = take(c);
        check_fault(c, cpu_far_call(c, S_GATE, 0, 4), cases[i].vector, cases[i].err, cases[i].name);
        check_unchanged(c, &was, cases[i].name);
    }
}

/* ---- RET and IRET ---- */

struct frame_case {
    const char *name;
    enum fake_mode mode;
    uint16_t cs;
    uint64_t rip;
    uint16_t ss;
    unsigned vector;
    uint32_t err;
};

static const struct frame_case return_cases[] = {
    { "null CS", PM0, 3, 0, 0, VEC_GP, 0 },
    { "CS beyond", PM0, GDT_END, 0, 0, VEC_GP, GDT_END },
    { "data", PM0, S_DATA0, 0, 0, VEC_GP, S_DATA0 },
    { "inner ring", PM3, S_CODE0, 0, 0, VEC_GP, S_CODE0 },
    { "RPL != DPL", PM0, S_CODE0 | 3, 0, 0, VEC_GP, S_CODE0 },
    { "absent", PM0, S_CODE_NP, 0, 0, VEC_NP, S_CODE_NP },
    { "offset", PM0, S_SMALL_CODE, 0x1000, 0, VEC_GP, 0 },
    { "null SS", PM0, S_CODE3 | 3, 0, 0, VEC_GP, 0 },
    { "SS beyond", PM0, S_CODE3 | 3, 0, GDT_END | 3, VEC_GP, GDT_END },
    { "SS of wrong RPL", PM0, S_CODE3 | 3, 0, S_DATA3, VEC_GP, S_DATA3 },
    { "SS of wrong DPL", PM0, S_CODE3 | 3, 0, S_DATA0 | 3, VEC_GP, S_DATA0 },
    { "absent SS", PM0, S_CODE3 | 3, 0, S_DATA3_NP | 3, VEC_SS, S_DATA3_NP },
    { "SS of code", PM0, S_CODE1 | 1, 0, S_CODE1 | 1, VEC_GP, S_CODE1 },
    { "not canonical", LONG0, S_LONG3 | 3, NON_CANONICAL, S_DATA3 | 3, VEC_GP, 0 },
    { "null SS to ring 3", LONG0, S_LONG3 | 3, 0, 3, VEC_GP, 0 },
    { "null SS to compatibility code", LONG0, S_CODE1 | 1, 0, 1, VEC_GP, 0 },
    { "absent SS from long mode", LONG0, S_LONG3 | 3, 0, S_DATA3_NP | 3, VEC_SS, S_DATA3_NP },
    { "absent long code", LONG0, S_LONG3_NP | 3, 0, S_DATA3 | 3, VEC_NP, S_LONG3_NP },
};

static void test_ret_and_iret_fault_by_table(void **state)
{
    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(return_cases); i++) {
        const struct frame_case *f = &return_cases[i];
        unsigned n = f->mode == LONG0 ? 8 : 4;
        struct cpu *c = fake_make(f->mode);
        uint64_t sp = c->gpr[RSP];
        struct snapshot was = take(c);

        put(sp, f->rip, n);
        put(sp + n, f->cs, n);
        put(sp + 2 * n, STACK3, n);
        put(sp + 3 * n, f->ss, n);
        check_fault(c, cpu_far_ret(c, 0, n), f->vector, f->err, f->name);
        check_unchanged(c, &was, f->name);
        put(sp + 2 * n, 2, n);
        put(sp + 3 * n, STACK3, n);
        put(sp + 4 * n, f->ss, n);
        c->nmi_blocked = true;
        check_fault(c, cpu_iret(c, n), f->vector, f->err, f->name);
        check_unchanged(c, &was, f->name);
        assert_false(c->nmi_blocked);
    }
}

static void test_ret_same_ring(void **state)
{
    struct cpu *c = fake_make(PM0);

    (void)state;
    put(STACK0, 0x2222, 4);
    put(STACK0 + 4, S_CODE0, 4);
    assert_int_equal(cpu_far_ret(c, 0x10, 4), STEP_NEXT);
    assert_int_equal(c->rip, 0x2222);
    assert_int_equal(c->gpr[RSP], STACK0 + 0x18);
    c = fake_make(REAL);
    put(0x2000 + 0xfff0, 0x2222, 2);
    put(0x2000 + 0xfff2, 0x300, 2);
    assert_int_equal(cpu_far_ret(c, 2, 2), STEP_NEXT);
    assert_int_equal(c->rip, 0x2222);
    assert_int_equal(c->seg[SEG_CS].base, 0x3000);
    assert_int_equal(c->gpr[RSP], 0xfff6);
}

static void put_frame(uint64_t at, unsigned bytes, const uint64_t *vals, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        put(at + i * bytes, vals[i], bytes);
}
#define FRAME(at, bytes, ...)                               \
    put_frame(at, bytes, (const uint64_t[]){ __VA_ARGS__ }, \
              sizeof((const uint64_t[]){ __VA_ARGS__ }) / sizeof(uint64_t))

#define ALL_FLAGS (RFLAGS_KNOWN & ~(RFLAGS_VM | RFLAGS_NT))

static void test_iret_flags_by_privilege(void **state)
{
    static const struct {
        enum fake_mode mode;
        unsigned iopl, bytes;
        uint32_t changes; /* of ALL_FLAGS, from none set */
    } cases[] = {
        { PM0, 0, 4, ALL_FLAGS },
        { PM0, 0, 2, ALL_FLAGS & 0xffff },
        { PM3, 0, 4, RFLAGS_ARITH | RFLAGS_TF | RFLAGS_DF | RFLAGS_RF | RFLAGS_AC | RFLAGS_ID },
        { PM3, 3, 4,
          RFLAGS_ARITH | RFLAGS_TF | RFLAGS_DF | RFLAGS_RF | RFLAGS_AC | RFLAGS_ID | RFLAGS_IF |
              RFLAGS_IOPL },
        { PM3, 3, 2, RFLAGS_ARITH | RFLAGS_TF | RFLAGS_DF | RFLAGS_IF | RFLAGS_IOPL },
        { REAL, 0, 2, ALL_FLAGS & 0xffff },
        { REAL, 0, 4, ALL_FLAGS & ~(RFLAGS_VIF | RFLAGS_VIP) },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct cpu *c = fake_make(cases[i].mode);
        uint64_t sp = cases[i].mode == REAL ? 0x2000 + 0xff00 : c->gpr[RSP];

        if (cases[i].mode == REAL)
            c->gpr[RSP] = 0xff00;
        c->rflags = RFLAGS_FIXED1 | cases[i].iopl << RFLAGS_IOPL_SHIFT;
        FRAME(sp, cases[i].bytes, 0x2222, c->seg[SEG_CS].sel, ALL_FLAGS);
        assert_int_equal(cpu_iret(c, cases[i].bytes), STEP_NEXT);
        assert_int_equal(c->rflags, cases[i].changes | RFLAGS_FIXED1);
        assert_int_equal(c->rip, 0x2222);
        assert_int_equal(c->gpr[RSP] & 0xff, 3 * cases[i].bytes);
    }
}

static void test_iret_to_outer_ring(void **state)
{
    struct cpu *c = fake_make(PM0);

    (void)state;
    FRAME(STACK0, 4, 0x2222, S_CODE3 | 3, 0x202, STACK3, S_DATA3 | 3);
    assert_int_equal(cpu_iret(c, 4), STEP_NEXT);
    assert_int_equal(c->cpl, 3);
    assert_int_equal(c->gpr[RSP], STACK3);
    assert_int_equal(c->seg[SEG_DS].sel, 0); /* was a ring 0 segment */
    c = fake_make(PM0);
    c->seg[SEG_ES] = (struct seg){ .sel = 3, .attr = SEG_UNUSABLE };
    FRAME(STACK0, 4, 0x2222, S_CODE3 | 3, 0x202, STACK3, S_DATA3 | 3);
    assert_int_equal(cpu_iret(c, 4), STEP_NEXT);
    assert_int_equal(c->seg[SEG_ES].sel, 0); /* null already: the RPL goes */
    assert_int_equal(c->mode & MODE_USER, MODE_USER);
    /* To a 16-bit stack only SP is loaded. */
    c = fake_make(PM0);
    gdt_set(S_DATA16, 0, 0xffff, A_DATA | A_DPL(1));
    c->gpr[RSP] = 0x1ffe0;
    FRAME(0x1ffe0, 4, 0x2222, S_CODE1 | 1, 0x202, 0xabcd1234, S_DATA16 | 1);
    assert_int_equal(cpu_iret(c, 4), STEP_NEXT);
    assert_int_equal(c->gpr[RSP], 0x11234);
}

static void test_far_call_moves_rsp_by_the_stack_of_the_new_code(void **state)
{
    const enum cpu_vendor vendors[] = { VENDOR_AMD, VENDOR_INTEL };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(vendors); i++) {
        struct cpu *c = fake_make(LONG3);

        fake.model.vendor = vendors[i];
        c->gpr[RSP] = (1ull << 32) + STACK3;
        assert_int_equal(cpu_far_call(c, S_CODE3 | 3, 0x100, 4), STEP_NEXT);
        assert_int_equal(c->gpr[RSP], STACK3 - 8);
        CHECK_STACK(STACK3 - 8, 4, 0x1236, S_LONG3 | 3);
    }
}

static void test_amd_moves_rsp_by_the_stack_of_the_new_code(void **state)
{
    struct cpu *c = fake_make(COMPAT3);

    (void)state;
    fake.model.vendor = VENDOR_AMD;
    c->seg[SEG_SS].attr &= ~SEG_DB;
    c->gpr[RSP] = 0xfff0;
    c->seg[SEG_SS].base = 0x80000;
    FRAME(0x8fff0, 4, 0x2222, S_LONG3 | 3);
    assert_int_equal(cpu_far_ret(c, 0x100, 4), STEP_NEXT);
    assert_int_equal(c->gpr[RSP], 0x100f8);
    c = fake_make(COMPAT3);
    fake.model.vendor = VENDOR_INTEL;
    c->seg[SEG_SS].attr &= ~SEG_DB;
    c->gpr[RSP] = 0xfff0;
    c->seg[SEG_SS].base = 0x80000;
    FRAME(0x8fff0, 4, 0x2222, S_CODE3 | 3);
    assert_int_equal(cpu_far_ret(c, 0x100, 4), STEP_NEXT);
    assert_int_equal(c->gpr[RSP], 0xf8);
}

static void test_intel_releases_parameters_by_the_stack_of_the_new_code(void **state)
{
    struct cpu *c = fake_make(COMPAT3);

    (void)state;
    fake.model.vendor = VENDOR_INTEL;
    c->seg[SEG_SS].attr &= ~SEG_DB;
    c->seg[SEG_SS].base = 0x80000;
    c->gpr[RSP] = 0xfffc;
    FRAME(0x8fffc, 4, 0x2222);
    FRAME(0x80000, 4, S_LONG3 | 3);
    assert_int_equal(cpu_far_ret(c, 0x100, 4), STEP_NEXT);
    assert_int_equal(c->gpr[RSP], 0x104);
    c = fake_make(COMPAT3);
    fake.model.vendor = VENDOR_INTEL;
    c->seg[SEG_SS].attr &= ~SEG_DB;
    c->seg[SEG_SS].base = 0x80000;
    c->gpr[RSP] = 0xff00;
    FRAME(0x8ff00, 4, 0x2222, S_LONG3 | 3);
    assert_int_equal(cpu_far_ret(c, 0x100, 4), STEP_NEXT);
    assert_int_equal(c->gpr[RSP], 0x10008);
}

/* The offset's upper half counts for 64-bit code only. */
static void test_intel_cuts_offsets_of_compatibility_mode(void **state)
{
    static const struct {
        enum cpu_vendor vendor;
        enum step result;
    } t[] = { { VENDOR_INTEL, STEP_NEXT }, { VENDOR_AMD, STEP_FAULT } };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        struct cpu *c = fake_make(LONG3);

        fake.model.vendor = t[i].vendor;
        assert_int_equal(cpu_far_jmp(c, S_CODE3 | 3, 0x100000100, 8), t[i].result);
        if (t[i].result == STEP_NEXT)
            assert_int_equal(c->rip, 0x100);
    }
}

static void test_iret_long_mode_always_pops_ss_rsp(void **state)
{
    struct cpu *c = fake_make(LONG0);

    (void)state;
    FRAME(STACK0, 8, 0xffff800000002222, S_LONG0, 0x202, 0x12348, 0);
    assert_int_equal(cpu_iret(c, 8), STEP_NEXT);
    assert_int_equal(c->gpr[RSP], 0x12348);
    assert_int_equal(c->seg[SEG_SS].sel, 0);
    assert_true(c->rip == 0xffff800000002222);
    c = fake_make(LONG0);
    c->seg[SEG_GS] = (struct seg){ .base = 0x77, .attr = SEG_UNUSABLE };
    FRAME(STACK0, 8, 0x2222, S_LONG3 | 3, 0x202, STACK3, S_DATA3 | 3);
    assert_int_equal(cpu_iret(c, 8), STEP_NEXT);
    assert_int_equal(c->cpl, 3);
    assert_int_equal(c->seg[SEG_GS].base, 0x77); /* a null register keeps its base */
    assert_true(in_long64(c));
    c = fake_make(LONG0);
    FRAME(STACK0, 8, 0x2222, S_CODE3 | 3, 0x202, STACK3, S_DATA3 | 3);
    assert_int_equal(cpu_iret(c, 8), STEP_NEXT);
    assert_int_equal(c->rip, 0x2222);
    assert_false(in_long64(c));
    c = fake_make(LONG0);
    fake.model.vendor = VENDOR_AMD;
    FRAME(STACK0, 8, 0x100002222, S_CODE3 | 3, 0x202, STACK3, S_DATA0);
    check_fault(c, cpu_iret(c, 8), VEC_GP, 0, "RIP beyond the limit, before a bad SS");
    c = fake_make(LONG0);
    fake.model.vendor = VENDOR_INTEL;
    FRAME(STACK0, 8, 0x800000000000, S_LONG3 | 3, 0x202, STACK3, S_DATA0);
    check_fault(c, cpu_iret(c, 8), VEC_GP, S_DATA0, "bad SS, before a bad RIP");
    c = fake_make(LONG0);
    fake.model.vendor = VENDOR_INTEL;
    FRAME(STACK0, 8, 0x100002222, S_CODE3 | 3, 0x202, STACK3, S_DATA3 | 3);
    assert_int_equal(cpu_iret(c, 8), STEP_NEXT);
    assert_int_equal(c->rip, 0x2222);
    c = fake_make(LONG0);
    c->rflags |= RFLAGS_NT;
    check_fault(c, cpu_iret(c, 8), VEC_GP, 0, "NT in IA-32e mode");
    c = fake_make(LONG0);
    FRAME(STACK0, 8, 0x2222, S_LONG0, 0x202, STACK0, S_DATA_NP);
    check_fault(c, cpu_iret(c, 8), VEC_SS, S_DATA_NP, "absent SS in the same ring");
}

static void test_iret_to_vm86_and_in_it(void **state)
{
    struct cpu *c = fake_make(PM0);

    (void)state;
    FRAME(STACK0, 4, 0x2222, 0x8100, RFLAGS_VM | 0x202, 0xfff0, 0x8200, 1, 2, 3, 4);
    assert_int_equal(cpu_iret(c, 4), STEP_NEXT);
    assert_int_equal(c->mode & (MODE_VM86 | MODE_USER), MODE_VM86 | MODE_USER);
    assert_int_equal(c->seg[SEG_SS].base, 0x82000);
    assert_int_equal(c->seg[SEG_ES].sel, 1);
    assert_int_equal(c->seg[SEG_DS].sel, 2);
    assert_int_equal(c->seg[SEG_FS].sel, 3);
    assert_int_equal(c->seg[SEG_GS].sel, 4);
    assert_int_equal(c->seg[SEG_CS].attr, ATTR_VM86);
    /* IOPL 0, no VME */
    check_fault(c, cpu_iret(c, 2), VEC_GP, 0, "IOPL");
    /* VME: IF means VIF */
    c->cr4 |= CR4_VME;
    FRAME(0x82000 + 0xfff0, 2, 0x3333, 0x8300, 0x202 | RFLAGS_IOPL);
    assert_int_equal(cpu_iret(c, 2), STEP_NEXT);
    assert_int_equal(c->rflags, RFLAGS_VM | RFLAGS_VIF | 0x202);
    assert_int_equal(c->rip, 0x3333);
    c->gpr[RSP] = 0xfff0;
    c->rflags |= RFLAGS_VIP;
    check_fault(c, cpu_iret(c, 2), VEC_GP, 0, "VIP");
    /* IOPL 3: everything but IOPL */
    c = fake_make(VM86);
    c->rflags |= RFLAGS_IOPL;
    FRAME(c->seg[SEG_SS].base + 0xfff0, 2, 0x3333, 0x8300, RFLAGS_TF | 2);
    assert_int_equal(cpu_iret(c, 2), STEP_NEXT);
    assert_int_equal(c->rflags, RFLAGS_VM | RFLAGS_IOPL | RFLAGS_TF | 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_jmp_and_call_fault_by_table),
        cmocka_unit_test(test_jmp_reaches_its_target),
        cmocka_unit_test(test_call_pushes_cs_and_next_rip),
        cmocka_unit_test(test_far_call_to_nowhere_pushes_before_it_faults),
        cmocka_unit_test(test_far_call_moves_rsp_by_the_stack_of_the_new_code),
        cmocka_unit_test(test_amd_moves_rsp_by_the_stack_of_the_new_code),
        cmocka_unit_test(test_intel_releases_parameters_by_the_stack_of_the_new_code),
        cmocka_unit_test(test_intel_cuts_offsets_of_compatibility_mode),
        cmocka_unit_test(test_gate_faults_by_table),
        cmocka_unit_test(test_gate_to_inner_ring_copies_parameters),
        cmocka_unit_test(test_gate_16_bit_and_same_ring),
        cmocka_unit_test(test_gate_64_bit),
        cmocka_unit_test(test_gate_inner_stack_faults_by_table),
        cmocka_unit_test(test_ret_and_iret_fault_by_table),
        cmocka_unit_test(test_ret_same_ring),
        cmocka_unit_test(test_iret_flags_by_privilege),
        cmocka_unit_test(test_iret_to_outer_ring),
        cmocka_unit_test(test_iret_long_mode_always_pops_ss_rsp),
        cmocka_unit_test(test_iret_to_vm86_and_in_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
