/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every encoding of the 0F, 0F38, 0F3A and x87 maps, legacy and VEX, that native_get() accepts,
 * with random operands: the stub against the same bytes executed directly on the host. The memory
 * operand ends at an unmapped page, so that a wrong operand size shows as well.
 */
#include "engine/interp/native_fake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>

#include <ucontext.h>

/* What the direct execution starts from and ends with; read and written by the assembly below. */
struct direct {
    uint8_t fx[512];
    uint8_t ymm[16][32];
    uint64_t gpr[16];
    uint64_t rflags;
    uint32_t mxcsr, host_mxcsr;
    uint32_t env[8];
    uint64_t host_rsp;
    const void *code;
    uint32_t signal; /* not 0: the instruction trapped */
} __attribute__((aligned(64)));
_Static_assert(offsetof(struct direct, gpr) == 1024, "as in direct_run");
_Static_assert(offsetof(struct direct, rflags) == 1152, "as in direct_run");
_Static_assert(offsetof(struct direct, host_mxcsr) == 1164, "as in direct_run");
_Static_assert(offsetof(struct direct, env) == 1168, "as in direct_run");
_Static_assert(offsetof(struct direct, host_rsp) == 1200, "as in direct_run");

void direct_run(struct direct *d);
extern const char direct_end[];
/* The state in use: a call with all registers loaded finds its target only through memory. */
struct direct *direct_now;
const void *direct_code;

/* clang-format off */
__asm__(".text\n"
        ".globl direct_run\n"
        "direct_run:\n"
        "    push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
        "    mov %rdi, %rax\n"
        "    mov %rax, direct_now(%rip)\n"
        "    mov 1208(%rax), %rcx\n"
        "    mov %rcx, direct_code(%rip)\n"
        "    mov %rsp, 1200(%rax)\n"
        "    fxrstor64 (%rax)\n"
        ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
        "    vmovups 512+32*\\n(%rax), %ymm\\n\n"
        ".endr\n"
        "    ldmxcsr 1160(%rax)\n"
        "    pushq 1152(%rax)\n"
        "    popfq\n"
        "    mov 1024+8*1(%rax), %rcx\n mov 1024+8*2(%rax), %rdx\n mov 1024+8*3(%rax), %rbx\n"
        "    mov 1024+8*5(%rax), %rbp\n mov 1024+8*6(%rax), %rsi\n mov 1024+8*7(%rax), %rdi\n"
        "    mov 1024+8*8(%rax), %r8\n mov 1024+8*9(%rax), %r9\n mov 1024+8*10(%rax), %r10\n"
        "    mov 1024+8*11(%rax), %r11\n mov 1024+8*12(%rax), %r12\n mov 1024+8*13(%rax), %r13\n"
        "    mov 1024+8*14(%rax), %r14\n mov 1024+8*15(%rax), %r15\n"
        "    mov 1024(%rax), %rax\n"
        "    call *direct_code(%rip)\n"
        ".globl direct_end\n"
        "direct_end:\n"
        "    push %rax\n" /* at a known place: below host_rsp */
        "    pushfq\n"
        "    mov direct_now(%rip), %rax\n"
        "    popq 1152(%rax)\n"
        "    popq 1024(%rax)\n"
        "    mov %rcx, 1024+8*1(%rax)\n mov %rdx, 1024+8*2(%rax)\n mov %rbx, 1024+8*3(%rax)\n"
        "    mov %rbp, 1024+8*5(%rax)\n mov %rsi, 1024+8*6(%rax)\n mov %rdi, 1024+8*7(%rax)\n"
        "    mov %r8, 1024+8*8(%rax)\n mov %r9, 1024+8*9(%rax)\n mov %r10, 1024+8*10(%rax)\n"
        "    mov %r11, 1024+8*11(%rax)\n mov %r12, 1024+8*12(%rax)\n mov %r13, 1024+8*13(%rax)\n"
        "    mov %r14, 1024+8*14(%rax)\n mov %r15, 1024+8*15(%rax)\n"
        ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
        "    vmovups %ymm\\n, 512+32*\\n(%rax)\n"
        ".endr\n"
        "    stmxcsr 1160(%rax)\n"
        "    ldmxcsr 1164(%rax)\n"
        "    fxsave64 (%rax)\n"
        "    fnstenv 1168(%rax)\n"
        "    fninit\n"
        "    vzeroupper\n"
        "    mov 1200(%rax), %rsp\n"
        "    pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n"
        "    ret\n");
/* clang-format on */

/* A trap inside the tested instruction ends the direct execution. */
static void on_trap(int sig, siginfo_t *info, void *uctx)
{
    mcontext_t *mc = &((ucontext_t *)uctx)->uc_mcontext;

    (void)info;
    direct_now->signal = (uint32_t)sig;
    mc->gregs[REG_RSP] = (greg_t)direct_now->host_rsp;
    mc->gregs[REG_RIP] = (greg_t)(uintptr_t)direct_end;
}

struct sweep {
    struct fake f;
    struct direct in, out;
    uint8_t *page; /* executable */
    uint8_t mem_in[64], mem_direct[64], mem_native[64];
    uint64_t seed;
    unsigned nr_run, nr_bad, nr_trapped;
};

static uint64_t rnd(struct sweep *w)
{
    w->seed ^= w->seed << 13;
    w->seed ^= w->seed >> 7;
    w->seed ^= w->seed << 17;
    return w->seed;
}

/* Random bits, small integers, and the doubles and floats that make exceptions. */
static uint64_t rnd_operand(struct sweep *w)
{
    static const uint64_t edges[] = {
        0,
        ~0ull,
        1,
        0x8000000000000000,
        0x3ff0000000000000,
        0x7ff0000000000000,
        0xfff8000000000000,
        0x7ff0000000000001,
        0x0008000000000000,
        0x0010000000000000,
        0x7fefffffffffffff,
        0x3f8000007f800000,
        0x7f800001ff800000,
        0x0040000080000000,
        0x7f7fffff00800000,
    };
    uint64_t r = rnd(w);

    switch (r >> 60 & 3) {
    case 0:
        return edges[r % ARRAY_SIZE(edges)];
    case 1:
        return r & 0xffff;
    default:
        return r;
    }
}

static void rnd_fill(struct sweep *w, void *p, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i += 8) {
        uint64_t x = rnd_operand(w);

        memcpy((uint8_t *)p + i, &x, MIN(8u, bytes - i));
    }
}

/* The same random start for both sides. */
static void make_state(struct sweep *w)
{
    struct xsave_area *x = &w->f.c.fpu;
    struct direct *d = &w->in;

    memset(d, 0, sizeof(*d));
    rnd_fill(w, x->xmm, sizeof(x->xmm));
    rnd_fill(w, x->ymmh, sizeof(x->ymmh));
    for (unsigned i = 0; i < 8; i++) {
        uint64_t sig = rnd_operand(w);
        uint16_t exp = (uint16_t)(rnd(w) & 1 ? rnd(w) : 0x3ff0 + (rnd(w) & 0x1f));

        memset(x->st[i], 0, sizeof(x->st[i]));
        memcpy(x->st[i], &sig, sizeof(sig));
        memcpy(x->st[i] + 8, &exp, sizeof(exp));
    }
    x->fcw = (uint16_t)(FCW_INIT & ~0xf00u) | (rnd(w) & 0xf00);
    x->fsw = rnd(w) & 0x7f00;
    x->ftw = (uint8_t)(rnd(w) | rnd(w));
    x->fop = 0x123;
    x->fip = 0x12345678;
    x->fdp = 0x9abcdef0;
    w->f.c.fpu_cs = w->f.c.fpu_ds = 0;
    x->mxcsr = MXCSR_INIT | (rnd(w) & 0xe07f);
    memcpy(d->fx, x, sizeof(d->fx));
    for (unsigned i = 0; i < 16; i++) {
        memcpy(d->ymm[i], x->xmm[i], 16);
        memcpy(d->ymm[i] + 16, x->ymmh[i], 16);
        w->f.c.gpr[i] = d->gpr[i] = rnd_operand(w);
    }
    d->mxcsr = x->mxcsr;
    d->host_mxcsr = MXCSR_INIT;
    w->f.c.rflags = d->rflags = RFLAGS_FIXED1 | RFLAGS_IF | (rnd(w) & RFLAGS_ARITH);
    rnd_fill(w, w->mem_in, sizeof(w->mem_in));
}

static bool same_x87(const struct sweep *w, bool pointers)
{
    const struct xsave_area *x = &w->f.c.fpu;
    const struct direct *d = &w->out;
    struct xsave_area fx;

    memcpy(&fx, d->fx, sizeof(d->fx));
    if (fx.fcw != x->fcw || fx.fsw != x->fsw || fx.ftw != x->ftw)
        return false;
    for (unsigned i = 0; i < 8; i++)
        if (memcmp(fx.st[i], x->st[i], 10))
            return false;
    if (!pointers)
        return true;
    return d->env[3] == (uint32_t)x->fip && (d->env[4] >> 16 & 0x7ff) == x->fop &&
           d->env[5] == (uint32_t)x->fdp && (uint16_t)d->env[4] == w->f.c.fpu_cs &&
           (uint16_t)d->env[6] == w->f.c.fpu_ds;
}

static const char *difference(const struct sweep *w, const struct native_stub *s,
                              const uint8_t *mem)
{
    const struct cpu *c = &w->f.c;
    const struct direct *d = &w->out;

    for (unsigned i = 0; i < 16; i++) {
        if (i != RSP && c->gpr[i] != d->gpr[i])
            return "general register";
        if (memcmp(c->fpu.xmm[i], d->ymm[i], 16))
            return "xmm";
        if (memcmp(c->fpu.ymmh[i], d->ymm[i] + 16, 16))
            return "ymm upper half";
    }
    if ((c->rflags ^ d->rflags) & RFLAGS_ARITH)
        return "flags";
    if (c->fpu.mxcsr != d->mxcsr)
        return "mxcsr";
    if (!same_x87(w, s->d.cls == NATIVE_X87))
        return "x87 state";
    if (s->d.mem_bytes && memcmp(mem, w->mem_direct, s->d.mem_bytes))
        return "memory";
    return NULL;
}

/* One instruction, whose memory operand is [rsi], from one random state. */
static void compare(struct sweep *w, const struct native_stub *s, const uint8_t *bytes, unsigned nr)
{
    unsigned mem_bytes = s->d.mem_bytes;
    uint8_t *mem = w->f.mem + FAKE_MEM_BYTES - MAX(mem_bytes, 1u);
    struct cpu *c = &w->f.c;
    const char *what;
    enum step st;

    make_state(w);
    c->gpr[RSI] = w->in.gpr[RSI] = mem_bytes ? (uintptr_t)mem : c->gpr[RSI];
    memcpy(w->page, bytes, nr);
    w->page[nr] = 0xc3;
    c->rip = (uintptr_t)w->page;
    w->in.code = w->page;
    __asm__("mov %%cs, %0" : "=r"(c->seg[SEG_CS].sel));
    __asm__("mov %%ds, %0" : "=r"(c->seg[SEG_DS].sel));

    memcpy(mem, w->mem_in, mem_bytes);
    w->out = w->in;
    direct_run(&w->out);
    memcpy(w->mem_direct, mem, mem_bytes);

    memcpy(mem, w->mem_in, mem_bytes);
    c->exc.valid = false;
    st = native_exec(c, s, SEG_DS, (uintptr_t)mem);
    w->nr_run++;
    if (w->out.signal == SIGILL && st == STEP_FAULT && c->exc.vector == VEC_UD) {
        w->nr_trapped++;
        return;
    }
    what = w->out.signal ? "trap" : st != STEP_NEXT ? "fault" : difference(w, s, mem);
    /* A host that was preempted in the direct run may have lost its x87 pointers: ask it again. */
    for (unsigned i = 0; i < 3 && what && !w->out.signal && st == STEP_NEXT; i++) {
        w->out = w->in;
        memcpy(w->mem_native, mem, mem_bytes);
        memcpy(mem, w->mem_in, mem_bytes);
        direct_run(&w->out);
        memcpy(w->mem_direct, mem, mem_bytes);
        what = difference(w, s, w->mem_native);
    }
    if (!what)
        return;
    if (w->nr_bad++ < 20) {
        print_error("%s differs:", what);
        for (unsigned i = 0; i < nr; i++)
            print_error(" %02x", bytes[i]);
        print_error(" (%s, signal %u, vector %u)\n", ZydisMnemonicGetString(s->d.mnemonic),
                    w->out.signal, st == STEP_FAULT ? c->exc.vector : 0u);
    }
}

/* The same one byte off: #GP for the aligned forms and only for them. */
static void compare_unaligned(struct sweep *w, const struct native_stub *s, const uint8_t *bytes)
{
    uint8_t *mem = w->f.mem + FAKE_MEM_BYTES - s->d.mem_bytes - 1;
    struct cpu *c = &w->f.c;
    bool gp;

    make_state(w);
    c->gpr[RSI] = w->in.gpr[RSI] = (uintptr_t)mem;
    w->in.code = w->page; /* left there by compare() */
    w->out = w->in;
    direct_run(&w->out);
    c->exc.valid = false;
    gp = native_exec(c, s, SEG_DS, (uintptr_t)mem) == STEP_FAULT && c->exc.vector == VEC_GP;
    if (gp == (w->out.signal == SIGSEGV))
        return;
    w->nr_bad++;
    print_error("alignment differs (host %d): %02x %02x %02x %02x (%s)\n", w->out.signal, bytes[0],
                bytes[1], bytes[2], bytes[3], ZydisMnemonicGetString(s->d.mnemonic));
}

/* Decodes and, if it is one of those that run by a stub, compares. */
static void try_insn(struct sweep *w, const uint8_t *bytes)
{
    struct native_desc d;
    ZydisDecodedInstruction in;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    const struct native_stub *s;

    if (!fake_decode(&w->f.c, bytes, 15, &in, ops) ||
        !native_describe(&d, &(struct native_insn){ &in, ops, bytes, w->f.model.vendor }) ||
        !d.code_bytes || in.mnemonic == ZYDIS_MNEMONIC_RDRAND ||
        in.mnemonic == ZYDIS_MNEMONIC_RDSEED || (d.gpr_used & BIT(RSP)))
        return;
    s = fake_stub(&w->f, bytes, in.length);
    if (!s) /* a feature this host lacks */
        return;
    for (unsigned i = 0; i < 4; i++)
        compare(w, s, bytes, in.length);
    if (s->d.mem_bytes)
        compare_unaligned(w, s, bytes);
}

static const uint8_t prefixes[] = { 0, 0x66, 0xf2, 0xf3 };

/* ModRM forms: [rsi], and registers with rm = 1. */
static void try_modrms(struct sweep *w, uint8_t *bytes, unsigned at)
{
    static const uint8_t modrm_base[] = { 0x06, 0xc1 };

    for (unsigned m = 0; m < ARRAY_SIZE(modrm_base); m++)
        for (unsigned reg = 0; reg < 8; reg++) {
            bytes[at] = (uint8_t)(modrm_base[m] | reg << 3);
            bytes[at + 1] = (uint8_t)rnd(w);
            bytes[at + 2] = (uint8_t)rnd(w);
            try_insn(w, bytes);
        }
}

static void sweep_legacy(struct sweep *w, unsigned map)
{
    static const uint8_t rexes[] = { 0, 0x48, 0x44 };

    for (unsigned i = 0; i < 4 * 3 * 256; i++) {
        uint8_t bytes[24] = { 0 };
        unsigned nr = 0;

        if (prefixes[i & 3])
            bytes[nr++] = prefixes[i & 3];
        if (rexes[(i >> 2) % 3])
            bytes[nr++] = rexes[(i >> 2) % 3];
        bytes[nr++] = 0x0f;
        if (map == 2)
            bytes[nr++] = 0x38;
        if (map == 3)
            bytes[nr++] = 0x3a;
        bytes[nr] = (uint8_t)((i >> 2) / 3);
        if (map == 1 && (bytes[nr] == 0x38 || bytes[nr] == 0x3a))
            continue; /* other maps */
        nr++;
        try_modrms(w, bytes, nr);
    }
}

/* pp, W, L, vvvv (5 or unused), R. */
static void sweep_vex(struct sweep *w, unsigned map)
{
    for (unsigned i = 0; i < 64 * 256; i++) {
        unsigned vvvv = i & 16 ? 5 : 0;
        uint8_t bytes[24] = { 0xc4, (uint8_t)((i & 32 ? 0x60 : 0xe0) | map),
                              (uint8_t)((i & 4) << 5 | (~vvvv & 15) << 3 | (i & 8) >> 1 | (i & 3)),
                              (uint8_t)(i >> 6) };

        try_modrms(w, bytes, 4);
    }
}

static void sweep_x87(struct sweep *w)
{
    for (unsigned i = 0; i < 8 * 256; i++) {
        uint8_t bytes[24] = { (uint8_t)(0xd8 | i >> 8), (uint8_t)i };

        if ((i & 0xff) >= 0xc0 || (i & 0xc7) == 6)
            try_insn(w, bytes);
    }
}

static void x87_chapter(struct sweep *w, unsigned map)
{
    (void)map;
    for (unsigned i = 0; i < 8; i++)
        sweep_x87(w);
}

static void run_chapter(void (*run)(struct sweep *w, unsigned map), unsigned map, unsigned least)
{
    static const int sigs[] = { SIGILL, SIGSEGV, SIGFPE, SIGBUS };
    struct sweep *w = aligned_alloc(64, sizeof(*w));
    uint8_t *mem;
    struct sigaction sa = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_NODEFER };

    if (!__builtin_cpu_supports("avx2")) {
        free(w);
        skip();
    }
    /* Ours first: the stubs' handler passes on what is not its own. */
    for (unsigned i = 0; i < ARRAY_SIZE(sigs); i++)
        assert_int_equal(sigaction(sigs[i], &sa, NULL), 0);
    mem = mmap(NULL, FAKE_MEM_BYTES + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
               0);
    assert_true(mem != MAP_FAILED);
    assert_int_equal(mprotect(mem + FAKE_MEM_BYTES, 4096, PROT_NONE), 0);
    fake_init(&w->f, mem);
    w->nr_run = w->nr_bad = w->nr_trapped = 0;
    w->seed = 0x9e3779b97f4a7c15 + map;
    w->page =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(w->page != MAP_FAILED);
    run(w, map);
    print_message("# %u executions, %u undefined on this host\n", w->nr_run, w->nr_trapped);
    assert_int_equal(w->nr_bad, 0);
    assert_in_range(w->nr_run, least, UINT32_MAX);
    (void)munmap(w->page, 4096);
    fake_destroy(&w->f);
    (void)munmap(mem, FAKE_MEM_BYTES + 4096);
    free(w);
}

static void test_x87_is_as_direct(void **state)
{
    (void)state;
    run_chapter(x87_chapter, 0, 10000);
}

static void test_legacy_0f_is_as_direct(void **state)
{
    (void)state;
    run_chapter(sweep_legacy, 1, 10000);
}

static void test_legacy_0f38_is_as_direct(void **state)
{
    (void)state;
    run_chapter(sweep_legacy, 2, 3000);
}

static void test_legacy_0f3a_is_as_direct(void **state)
{
    (void)state;
    run_chapter(sweep_legacy, 3, 1000);
}

static void test_vex_0f_is_as_direct(void **state)
{
    (void)state;
    run_chapter(sweep_vex, 1, 30000);
}

static void test_vex_0f38_is_as_direct(void **state)
{
    (void)state;
    run_chapter(sweep_vex, 2, 30000);
}

static void test_vex_0f3a_is_as_direct(void **state)
{
    (void)state;
    run_chapter(sweep_vex, 3, 5000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_x87_is_as_direct),
        cmocka_unit_test(test_legacy_0f_is_as_direct),
        cmocka_unit_test(test_legacy_0f38_is_as_direct),
        cmocka_unit_test(test_legacy_0f3a_is_as_direct),
        cmocka_unit_test(test_vex_0f_is_as_direct),
        cmocka_unit_test(test_vex_0f38_is_as_direct),
        cmocka_unit_test(test_vex_0f3a_is_as_direct),
    };

    return cmocka_run_group_tests_name("native_sweep", tests, NULL, NULL);
}
