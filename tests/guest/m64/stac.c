/* SPDX-License-Identifier: Apache-2.0 */
/*
 * STAC and CLAC all the time, as kernels have them around each of their accesses to user pages:
 * what may be reached between them, what not behind them, and RFLAGS all along. SDM 2, "STAC",
 * "CLAC"; SDM 3, "Access Rights".
 */
#include "upper.h"

#define USER_VA   TEST_VA
#define CODE      (SMALL + 64 * PAGE_BYTES)
#define FRAMES    BIG(8)
#define USER_PTE  (PA(0) | PTE_P | PTE_W | PTE_U)
#define TIMER_VEC 0x50u
#define ANSWER    0x123456789abcull

/* RDI: a user page. RSI: what is written to it, or where flags go. */
asm(".text\n"
    "s_flags: pushq 40(%rsi)\n popfq\n pushfq\n popq (%rsi)\n stac\n pushfq\n popq 8(%rsi)\n"
    " mov (%rdi), %rax\n lea 1(%rax), %rcx\n mov %rcx, 8(%rdi)\n stac\n pushfq\n popq 16(%rsi)\n"
    " clac\n pushfq\n popq 24(%rsi)\n clac\n pushfq\n popq 32(%rsi)\n ret\n"
    "s_bare: mov (%rdi), %rax\n ret\n"
    "s_bare_write: mov %rsi, 8(%rdi)\n mov %rsi, %rax\n ret\n"
    "s_read: stac\n mov (%rdi), %rax\n clac\n s_read_at: mov (%rdi), %rax\n ret\n"
    "s_write: stac\n mov %rsi, 8(%rdi)\n clac\n mov %rsi, %rax\n"
    " s_write_at: mov %rsi, 16(%rdi)\n ret\n"
    "s_twice: stac\n stac\n mov (%rdi), %rax\n clac\n clac\n stac\n addq $0, (%rdi)\n clac\n"
    " s_twice_at: mov (%rdi), %rax\n ret\n"
    "s_slow: mov %rbx, %r8\n stac\n xor %eax, %eax\n cpuid\n mov %r8, %rbx\n mov (%rdi), %rdx\n"
    " sgdt 64(%rdi)\n clac\n s_slow_at: mov (%rdi), %rax\n ret\n"
    "s_slow_only: stac\n sgdt 64(%rdi)\n clac\n s_slow_only_at: mov (%rdi), %rax\n ret\n"
    "s_slow_behind: stac\n mov (%rdi), %rax\n clac\n s_slow_behind_at: sldt 64(%rdi)\n ret\n"
    "s_string: stac\n lea 128(%rdi), %rdi\n mov $16, %ecx\n mov %rsi, %rax\n rep stosq\n clac\n"
    " mov $1, %ecx\n s_string_at: rep stosq\n ret\n"
    "s_open: mov (%rdi), %rax\n ret\n"
    "s_stac: stac\n ret\n"
    "s_clac: clac\n ret\n"
    "s_call: stac\n call s_open\n clac\n ret\n"
    "s_call_reg: stac\n lea s_open(%rip), %rdx\n call *%rdx\n clac\n ret\n"
    "s_call_then: stac\n lea s_open2(%rip), %rdx\n call *%rdx\n clac\n call *%rdx\n ret\n"
    "s_open2: mov (%rdi), %rax\n ret\n"
    "s_opened: lea s_stac(%rip), %rdx\n call *%rdx\n mov (%rdi), %rax\n call s_clac\n"
    " s_opened_at: mov (%rdi), %rax\n ret\n"
    "s_opened_only: call s_stac\n mov (%rdi), %rax\n call s_clac\n ret\n"
    "s_popf: pushfq\n orl $0x40000, (%rsp)\n popfq\n mov (%rdi), %rax\n clac\n"
    " s_popf_at: mov (%rdi), %rax\n ret\n"
    "s_to_popf: pushfq\n stac\n mov (%rdi), %rax\n popfq\n s_to_popf_at: mov (%rdi), %rax\n ret\n"
    "s_branch: mov $9, %ecx\n 1: stac\n mov (%rdi), %rax\n test $1, %cl\n jne 2f\n clac\n 2: dec "
    "%ecx\n"
    " jne 1b\n clac\n s_branch_at: mov (%rdi), %rax\n ret\n"
    "s_int: int3\n s_int_at: mov (%rdi), %rax\n ret\n"
    "s_two: stac\n s_two_at: mov (%rdi), %rax\n s_two_next: mov (%rdi), %rax\n clac\n ret\n"
    "s_spin: mov $0x1000000, %ecx\n 1: mov $20, %edx\n stac\n 2: mov (%rdi), %rax\n dec %edx\n jne "
    "2b\n"
    " clac\n cmpl $0, (%rsi)\n jne 3f\n dec %ecx\n jne 1b\n xor %eax, %eax\n 3: ret\n"
    "s_sse: stac\n lea s_sse_at(%rip), %rdx\n call *%rdx\n clac\n ret\n"
    "s_sse_at: movq %xmm0, %rcx\n mov $5, %eax\n ret\n"
    "s_into: stac\n s_mid: mov (%rdi), %rax\n clac\n s_mid_at: mov (%rsi), %rcx\n ret\n"
    "s_enter: stac\n jmp s_mid2\n s_out: clac\n s_mid2: mov (%rdi), %rax\n clac\n ret\n"
    "s_lock: .byte 0xf0, 0x0f, 0x01, 0xcb\n ret\n"
    "s_lock_clac: .byte 0xf0, 0x0f, 0x01, 0xca\n ret\n");

/* clang-format off */
#define FUNCTIONS(f) f(s_flags) f(s_bare) f(s_bare_write) f(s_read) f(s_write) f(s_twice) \
    f(s_slow) f(s_slow_only) f(s_slow_behind) f(s_string) f(s_open) f(s_stac) f(s_clac) f(s_call) \
    f(s_call_reg) f(s_call_then) f(s_open2) f(s_opened) f(s_opened_only) f(s_popf) f(s_to_popf) \
    f(s_branch) f(s_int) f(s_two) f(s_spin) f(s_sse) f(s_lock) f(s_lock_clac) \
    f(s_into) f(s_mid) f(s_enter) f(s_out)
#define LABELS(f) f(s_read_at) f(s_write_at) f(s_twice_at) f(s_slow_at) f(s_slow_only_at) \
    f(s_slow_behind_at) f(s_string_at) f(s_opened_at) f(s_popf_at) f(s_to_popf_at) f(s_branch_at) \
    f(s_int_at) f(s_two_at) f(s_two_next) f(s_sse_at) f(s_mid_at) \
    f(s_mid2)
/* clang-format on */
#define AS_FUNCTION(name) word_t name(word_t rdi, word_t rsi);
#define AS_LABEL(name)    extern const uint8_t name[];
FUNCTIONS(AS_FUNCTION)
LABELS(AS_LABEL)

static void smap(bool on)
{
    write_cr4(on ? read_cr4() | CR4_SMAP : read_cr4() & ~(word_t)CR4_SMAP);
}

static uint64_t *user_data(void)
{
    return (uint64_t *)PA(0);
}

/* ---- what may be reached ---- */

struct reach {
    const char *what;
    guest_fn *fn;
    const void *at; /* faults there with SMAP; NULL: nowhere */
    word_t err, off;
};

static const struct reach reaches[] = {
    { "a read without STAC", s_bare, s_bare, PF_P, 0 },
    { "a write without STAC", s_bare_write, s_bare_write, PF_P | PF_W, 8 },
    { "a read behind CLAC", s_read, s_read_at, PF_P, 0 },
    { "a write behind CLAC", s_write, s_write_at, PF_P | PF_W, 16 },
    { "each twice", s_twice, s_twice_at, PF_P, 0 },
    { "with CPUID and SGDT between", s_slow, s_slow_at, PF_P, 0 },
    { "with SGDT alone", s_slow_only, s_slow_only_at, PF_P, 0 },
    { "SLDT behind CLAC", s_slow_behind, s_slow_behind_at, PF_P | PF_W, 64 },
    { "strings", s_string, s_string_at, PF_P | PF_W, 256 },
    { "a call between", s_call, NULL, 0, 0 },
    { "an indirect call between", s_call_reg, NULL, 0, 0 },
    { "an indirect call behind CLAC, too", s_call_then, s_open2, PF_P, 0 },
    { "STAC and CLAC in functions", s_opened, s_opened_at, PF_P, 0 },
    { "and nothing behind", s_opened_only, NULL, 0, 0 },
    { "POPF and CLAC", s_popf, s_popf_at, PF_P, 0 },
    { "STAC and POPF", s_to_popf, s_to_popf_at, PF_P, 0 },
    { "STAC where it is set or clear", s_branch, s_branch_at, PF_P, 0 },
};

static bool reach_once(const struct reach *r, bool on)
{
    struct trap t = try(r->fn, USER_VA, ANSWER);

    if (on && r->at)
        return is_fault(&t, VEC_PF, r->err, USER_VA + r->off, r->at) && !(t.f.flags & FLAG_AC);
    if (t.vec == VEC_NONE)
        return !(read_flags() & FLAG_AC);
    print("# vector %u error %x cr2 %lx at %lx\n", (unsigned)t.vec, (unsigned)t.err, t.cr2, t.f.ip);
    return false;
}

static void reach(void)
{
    for (unsigned k = 0; k < ARRAY_SIZE(reaches); k++) {
        bool good = true;

        for (unsigned i = 0; i < 40 && good; i++) {
            bool on = i / 10 % 2;

            if (i % 10 == 0)
                smap(on);
            user_data()[0] = ANSWER;
            if (i % 3 == 0)
                invlpg((void *)USER_VA);
            good = reach_once(&reaches[k], on);
        }
        smap(false);
        EXPECT(good, "%s", reaches[k].what);
    }
}

/* SMAP and a user page: #PF; else it is read. */
static bool read_or_fault(guest_fn *fn, word_t rdi, word_t rsi, const void *fault)
{
    struct trap t = try(fn, rdi, rsi);

    if (fault)
        return is_fault(&t, VEC_PF, PF_P, USER_VA, fault);
    return t.vec == VEC_NONE && t.f.ax == ANSWER && !(read_flags() & FLAG_AC);
}

/* The same instructions with AC set and clear: fallen into, or entered there. */
static void both(void)
{
    bool good = true;

    for (unsigned i = 0; i < 80 && good; i++) {
        const word_t u = USER_VA, k = PA(1);
        bool on = i / 20 % 2;

        smap(on);
        AT(uint64_t, PA(0)) = AT(uint64_t, k) = ANSWER;
        for (unsigned n = 0; n < 3; n++)
            good = good && read_or_fault(s_mid, k, k, NULL) && read_or_fault(s_out, k, k, NULL);
        good = good && read_or_fault(s_into, u, k, NULL) && read_or_fault(s_enter, u, k, NULL);
        good = good && read_or_fault(s_into, u, u, on ? s_mid_at : NULL);
        good = good && read_or_fault(s_mid, k, u, on ? s_mid_at : NULL);
        good = good && read_or_fault(s_mid, u, k, on ? (void *)s_mid : NULL);
        good = good && read_or_fault(s_out, u, k, on ? s_mid2 : NULL);
    }
    smap(false);
    EXPECT(good, "the same code with AC set and clear");
}

/* ---- RFLAGS ---- */

static void flags(void)
{
    unsigned wrong = 0;
    uint64_t f[6];

    for (unsigned i = 0; i < 2 * ROUNDS; i++) {
        smap(i / 20 % 2);
        f[5] = (i * 0x9d & 0x8d5) | (i & 1 ? FLAG_DF : 0) | 2;
        user_data()[0] = i;
        (void)s_flags(USER_VA, (word_t)f);
        asm volatile("cld");
        wrong += f[0] != f[5];
        wrong += f[1] != (f[5] | FLAG_AC) || f[2] != f[1];
        wrong += f[3] != f[5] || f[4] != f[5];
        wrong += user_data()[1] != i + 1;
    }
    smap(false);
    EXPECT_EQ(wrong, 0, "RFLAGS: nothing but AC changes");
}

/* ---- at the end of a page, and across it ---- */

static void lay(uint8_t *to, const char *bytes, unsigned nr)
{
    memcpy(to, bytes, nr);
}

static void borders(void)
{
    static const char head[] =
        "\x31\xc0\x0f\x01\xcb\x48\x8b\x07\xe9"; /* ... STAC; MOV RAX, [RDI]; JMP */
    static const char tail[] =
        "\x0f\x01\xca\x9c\x5a\x48\x8b\x0e\xc3"; /* CLAC; PUSHF; POP RDX; MOV RCX, [RSI]; RET */

    for (unsigned cut = 1; cut <= 3; cut++) {
        const word_t lin = CODE + cut * 4 * PAGE_BYTES, pa = FRAMES + cut * 4 * PAGE_BYTES;
        uint8_t *p = (uint8_t *)pa;
        uint32_t rel = (uint32_t)(PAGE_BYTES - cut - (3 - cut + 8));
        bool good = true;

        for (unsigned i = 0; i < 3; i++)
            map(lin + i * PAGE_BYTES, (pa + i * PAGE_BYTES) | GRW);
        lay(p + PAGE_BYTES - cut - 2, head, 9);
        memcpy(p + PAGE_BYTES - cut + 7, &rel, 4);
        lay(p + 2 * PAGE_BYTES - cut, tail, 9);
        for (unsigned i = 0; i < 80 && good; i++) {
            guest_fn *fn = (guest_fn *)(lin + PAGE_BYTES - cut - 2);
            bool on = i / 20 % 2;
            struct trap t;

            if (i % 20 == 0)
                smap(on);
            user_data()[0] = i;
            t = try(fn, USER_VA, PA(1));
            good = t.vec == VEC_NONE && t.f.ax == i;
            t = try(fn, USER_VA, USER_VA);
            good = good && (on ? is_fault(&t, VEC_PF, PF_P, USER_VA,
                                          (uint8_t *)lin + 2 * PAGE_BYTES - cut + 5) &&
                                     !(t.f.dx & FLAG_AC)
                               : t.vec == VEC_NONE && t.f.ax == i);
        }
        smap(false);
        EXPECT(good, "STAC and CLAC with %u bytes before a page's border", cut);
    }
}

/* ---- interrupts and exceptions between ---- */

static volatile struct {
    unsigned ticks, in_window, wrong, faults;
    bool clear;
} seen;

static void tick(struct frame *f)
{
    seen.ticks++;
    seen.wrong += (read_flags() ^ f->flags) & FLAG_AC ? 1 : 0;
    if (f->flags & FLAG_AC) {
        seen.in_window++;
        seen.wrong += AT(uint64_t, USER_VA) != ANSWER;
    }
    if (f->flags & FLAG_AC || seen.in_window % 2)
        asm volatile("clac");
    else
        asm volatile("stac");
    apic_write(APIC_EOI, 0);
}

static void interrupts(void)
{
    unsigned good = 0;

    apic_init();
    trap_handle(TIMER_VEC, tick);
    apic_write(APIC_TIMER_DIV, 0xb);
    apic_write(APIC_LVT_TIMER, TIMER_VEC);
    user_data()[0] = ANSWER;
    for (unsigned i = 0; i < 60; i++) {
        smap(i / 10 % 2);
        seen.ticks = 0;
        apic_write(APIC_TIMER_INIT, 20000 + i * 333);
        asm volatile("sti");
        good += s_spin(USER_VA, (word_t)&seen.ticks) == ANSWER;
        asm volatile("cli");
    }
    smap(false);
    EXPECT(good == 60 && seen.wrong == 0, "interrupts between STAC and CLAC");
    EXPECT(seen.in_window > 0, "some of them were there");
}

/* Makes the page; the second fault is that of AC taken away by the first. */
static void on_pf(struct frame *f)
{
    bool first = !(f->err & PF_P);

    seen.faults++;
    if (first) {
        seen.wrong += !(f->flags & FLAG_AC) || !(read_flags() & FLAG_AC) ||
                      f->ip != (word_t)s_two_at || read_cr2() != USER_VA;
        *page_entry(USER_VA, 1) = USER_PTE;
        if (seen.clear)
            f->flags &= ~(word_t)FLAG_AC;
    } else {
        seen.wrong += f->flags & FLAG_AC || read_flags() & FLAG_AC || f->ip != (word_t)s_two_at;
        f->flags |= FLAG_AC;
    }
    if (seen.faults % 2)
        asm volatile("clac");
    else
        asm volatile("stac");
}

static void open_it(struct frame *f)
{
    (void)f;
    asm volatile("stac");
    seen.wrong += AT(uint64_t, USER_VA) != ANSWER;
}

static void exceptions(void)
{
    bool good = true;
    struct trap t;

    seen.wrong = 0;
    user_data()[0] = ANSWER;
    for (unsigned i = 0; i < ROUNDS; i++) {
        bool on = i / 10 % 2;

        smap(on);
        trap_handle(VEC_PF, on_pf);
        map(USER_VA, 0);
        seen.faults = 0;
        seen.clear = i % 2;
        good = s_two(USER_VA, 0) == ANSWER && seen.faults == (on && i % 2 ? 2 : 1) && good;
        good = good && !(read_flags() & FLAG_AC);
        trap_handle(VEC_PF, NULL);
        trap_handle(VEC_BP, open_it);
        t = try(s_int, USER_VA, 0);
        trap_handle(VEC_BP, NULL);
        good = good && (on ? is_fault(&t, VEC_PF, PF_P, USER_VA, s_int_at)
                           : t.vec == VEC_NONE && t.f.ax == ANSWER);
    }
    smap(false);
    EXPECT(good, "#PF between STAC and CLAC, and a handler's own STAC");
    EXPECT_EQ(seen.wrong, 0, "AC in handlers and in what they return to");
}

/* ---- what else an instruction depends on, changed outside ---- */

static void task_switched(void)
{
    bool good = true;

    for (unsigned i = 0; i < 10; i++) {
        struct trap t;

        for (unsigned n = 0; n < 6; n++)
            good = good && s_sse(USER_VA, 0) == 5;
        write_cr0(read_cr0() | CR0_TS);
        t = try(s_sse, USER_VA, 0);
        clts();
        good = good && is_fault(&t, VEC_NM, 0, 0, s_sse_at) && (t.f.flags & FLAG_AC);
    }
    EXPECT(good, "CR0.TS set before STAC, SSE in a function behind it: #NM");
}

static void undefined(void)
{
    bool user = true, locked = true;
    struct trap t;

    for (unsigned i = 0; i < 10; i++) {
        t = try_user(s_stac, 0, 0);
        user = user && is_fault(&t, VEC_UD, 0, 0, user_ptr(s_stac));
        t = try_user(s_clac, 0, 0);
        user = user && is_fault(&t, VEC_UD, 0, 0, user_ptr(s_clac));
        t = try(s_lock, 0, 0);
        locked = locked && is_fault(&t, VEC_UD, 0, 0, (void *)s_lock);
        t = try(s_lock_clac, 0, 0);
        locked = locked && is_fault(&t, VEC_UD, 0, 0, (void *)s_lock_clac);
    }
    EXPECT(user, "at CPL 3: #UD");
    tcg_deviates("runs them with LOCK");
    EXPECT(locked, "with LOCK: #UD");
}

int main(void)
{
    static upper_fn *const all[] = { flags,      reach,      both,          borders,
                                     interrupts, exceptions, task_switched, undefined };
    struct trap t;

    if (!has_smap()) {
        t = try(s_stac, 0, 0);
        EXPECT_TRAP(&t, VEC_UD, 0, "STAC without SMAP");
        return 0;
    }
    map(USER_VA, USER_PTE);
    upper_run(all, ARRAY_SIZE(all));
    return 0;
}
