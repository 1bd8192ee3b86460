/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PUSHF and POPF of what flags there are, at CPL 0 and 3; an interrupt and a single step right
 * behind a POPF; LOOP and JCXZ, which look at no flag and change none. All of it often enough to be
 * translated. SDM 2, "POPF/POPFD/POPFQ", "PUSHF/PUSHFD/PUSHFQ", "LOOP/LOOPcc", "Jcc". In long mode
 * it is m64/popf.c.
 */
#include "guest.h"

#define ARITH  0x8d5u
#define ROUNDS 30u
#define VEC    0x60u
#ifdef __x86_64__
#define CX   "rcx"
#define JCXZ "jrcxz"
#else
#define CX   "ecx"
#define JCXZ "jecxz"
#endif

/* What PUSHF gives after a POPF of the image; then the flags are the usual ones again. */
static word_t through_popf(word_t image, word_t normal)
{
    word_t got;

    asm volatile("push %1\n\tpopf\n\tpushf\n\tpop %0\n\t"
                 "push %2\n\tpopf"
                 : "=&r"(got)
                 : "r"(image), "r"(normal)
                 : "memory", "cc");
    return got;
}

/* One arithmetic flag more each time, and one of the others. */
static word_t image_of(unsigned n)
{
    static const uint32_t others[] = {
        0,        FLAG_DF,           FLAG_IF, FLAG_NT, FLAG_AC,
        FLAG_ID,  FLAG_IOPL3,        FLAG_RF, FLAG_VM, FLAG_VIF,
        FLAG_VIP, FLAG_DF | FLAG_IF, 0x1000,  0x2000,  FLAG_NT | FLAG_ID | FLAG_DF,
    };
    static const uint32_t arith[] = { 0, 1, 4, 0x10, 0x40, 0x80, 0x800, ARITH, 0x8c1, 0x54 };

    return others[n % ARRAY_SIZE(others)] | arith[n / ARRAY_SIZE(others) % ARRAY_SIZE(arith)];
}
#define NR_IMAGES 150u

static void all_images(void)
{
    unsigned wrong = 0;

    for (unsigned round = 0; round < 4; round++)
        for (unsigned i = 0; i < NR_IMAGES; i++) {
            word_t image = image_of(i), hidden = FLAG_RF | FLAG_VM | FLAG_VIF | FLAG_VIP;
            word_t got = through_popf(image, 2);

            if (got != ((image & ~hidden) | 2) && !wrong++)
                print("# %#lx became %#lx\n", (unsigned long)image, (unsigned long)got);
        }
    EXPECT_EQ(wrong, 0, "CPL 0: POPF takes what it may, PUSHF shows it");
}

static word_t user_images(word_t start, word_t unused)
{
    word_t fixed = FLAG_IF | FLAG_IOPL3, hidden = FLAG_RF | FLAG_VM | FLAG_VIF | FLAG_VIP, was;
    unsigned wrong = 0;

    (void)unused;
    asm volatile("pushf\n\tpop %0" : "=r"(was) : : "memory");
    wrong += (was & fixed) != (start & fixed);
    for (unsigned round = 0; round < 4; round++)
        for (unsigned i = 0; i < NR_IMAGES; i++) {
            word_t image = image_of(i), want = (image & ~(hidden | fixed)) | (was & fixed) | 2;

            wrong += through_popf(image, was) != want;
        }
    return wrong;
}

static void at_cpl_3(void)
{
    static const uint32_t starts[] = { 2, 2 | FLAG_IF, 2 | FLAG_ID };
    word_t normal = user_flags;

    for (unsigned i = 0; i < ARRAY_SIZE(starts); i++) {
        struct trap t;

        user_flags = starts[i];
        t = try_user(user_images, starts[i], 0);
        EXPECT_TRAP(&t, VEC_USER_END, 0, "CPL 3, flags %#x: no fault", starts[i]);
        EXPECT_EQ(t.f.ax, 0, "IF and IOPL stay, the others change");
    }
    user_flags = normal;
}

/* ---- what follows a POPF ---- */

static volatile word_t nr_irqs;

static void count_irq(struct frame *f)
{
    (void)f;
    nr_irqs++;
    apic_write(APIC_EOI, 0);
}

/* An interrupt waits while IF is 0; POPF has no shadow, unlike STI. Returns how often it had come
 * when the next instruction ran. */
static NOINLINE word_t popf_then_count(word_t image)
{
    word_t seen;

    asm volatile("push %1\n\tpopf\n\tmov %2, %0\n\tcli"
                 : "=&r"(seen)
                 : "r"(image), "m"(nr_irqs)
                 : "memory", "cc");
    return seen;
}

static void interrupt_behind(void)
{
    unsigned late = 0, early = 0;

    apic_write(APIC_SVR, 0x1ff);
    trap_handle(VEC, count_irq);
    for (unsigned i = 0; i < ROUNDS; i++) {
        word_t before = nr_irqs;

        apic_write(APIC_ICR2, apic_read(APIC_ID));
        apic_write(APIC_ICR, 0x40000 | VEC); /* to itself */
        early += popf_then_count(2) != before;
        late += popf_then_count(2 | FLAG_IF) != before + 1;
    }
    EXPECT_EQ(early, 0, "POPF without IF lets no interrupt in");
    EXPECT_EQ(late, 0, "POPF with IF lets it in before the next instruction");
    EXPECT_EQ(nr_irqs, ROUNDS, "each once");
}

static volatile word_t nr_steps, step_ip;

static void count_step(struct frame *f)
{
    nr_steps++;
    step_ip = f->ip;
    f->flags &= ~(word_t)FLAG_TF;
}

static NOINLINE word_t popf_with_tf(void)
{
    word_t at;

    asm volatile("push %1\n\tpopf\n\tnop\n"
                 "1:\t"
#ifdef __x86_64__
                 "lea 1b(%%rip), %0"
#else
                 "mov $1b, %0"
#endif
                 : "=&r"(at)
                 : "r"((word_t)(2 | FLAG_TF))
                 : "memory", "cc");
    return at;
}

static void step_behind(void)
{
    unsigned elsewhere = 0;

    trap_handle(VEC_DB, count_step);
    for (unsigned i = 0; i < ROUNDS; i++)
        elsewhere += popf_with_tf() != step_ip;
    EXPECT_EQ(nr_steps, ROUNDS, "POPF with TF: one step each");
    EXPECT_EQ(elsewhere, 0, "behind the instruction that follows");
}

/* ---- LOOP and JCXZ ---- */

static NOINLINE word_t loops(word_t nr, word_t *sum, word_t flags)
{
    word_t got, rounds = 0;

    asm volatile("push %[fl]\n\tpopf\n"
                 "1:\tlea 1(%[n]), %[n]\n\t"
                 "mov (%[at]), %[fl]\n\t"
                 "lea (%[fl], %%" CX "), %[fl]\n\t"
                 "mov %[fl], (%[at])\n\t"
                 "loop 1b\n\t"
                 "pushf\n\tpop %[fl]"
                 : [n] "+&r"(rounds), [fl] "+&r"(flags), "+c"(nr)
                 : [at] "r"(sum)
                 : "memory", "cc");
    got = (flags & ARITH) | (nr ? 0x100 : 0);
    return rounds << 12 | got;
}

static void counted(void)
{
    unsigned wrong = 0;

    for (unsigned i = 0; i < ROUNDS; i++)
        for (word_t n = 1; n < 6; n++) {
            word_t sum = 0, flags = image_of(i * 15) & ARITH;
            word_t got = loops(n, &sum, flags | 2);

            wrong += got != (n << 12 | flags) || sum != n * (n + 1) / 2;
        }
    EXPECT_EQ(wrong, 0, "LOOP counts, and leaves flags alone");
}

/* 1: taken; 2: fell through; flags with it. */
static NOINLINE word_t jumps(word_t n, word_t flags)
{
    word_t way = 0;

    asm volatile("push %[fl]\n\tpopf\n\t" JCXZ " 1f\n\t"
                 "lea 2(%[way]), %[way]\n\t"
                 "jmp 2f\n"
                 "1:\tlea 1(%[way]), %[way]\n"
                 "2:\tpushf\n\tpop %[fl]"
                 : [way] "+&r"(way), [fl] "+&r"(flags)
                 : "c"(n)
                 : "memory", "cc");
    return way << 12 | (flags & ARITH);
}

static void on_zero(void)
{
    unsigned wrong = 0;

    for (unsigned i = 0; i < 4 * ROUNDS; i++) {
        word_t n = i % 3 ? 0 : (word_t)1 << i % (8 * sizeof(word_t)), flags = image_of(i * 15);

        flags &= ARITH;
        wrong += jumps(n, flags | 2) != ((n ? 2u : 1u) << 12 | flags);
    }
    EXPECT_EQ(wrong, 0, "JCXZ sees the whole count and no flag");
}

int main(void)
{
    all_images();
    at_cpl_3();
    interrupt_behind();
    step_behind();
    counted();
    on_zero();
    return 0;
}
