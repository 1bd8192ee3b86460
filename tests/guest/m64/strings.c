/* SPDX-License-Identifier: Apache-2.0 */
/*
 * String instructions: a fault in the middle leaves registers and memory as after the last whole
 * iteration, in both directions, for every width; overlapping copies; REPE/REPNE ends; INS and
 * OUTS; interrupts in between. SDM 1, "String Instructions"; SDM 2, REP/REPE/REPZ/REPNE/REPNZ.
 */
#include "guest.h"

static uint8_t src[2 * PAGE_BYTES] PAGE_ALIGNED, dst[2 * PAGE_BYTES] PAGE_ALIGNED;
/* Two pages each, the second one sometimes absent. */
#define SRC TEST_VA
#define DST (TEST_VA + 0x10000)

static void map_all(bool src2, bool dst2)
{
    page_set(SRC, 1, (word_t)src | PTE_P | PTE_W | PTE_U);
    page_set(SRC + PAGE_BYTES, 1, src2 ? (word_t)(src + PAGE_BYTES) | PTE_P | PTE_W | PTE_U : 0);
    page_set(DST, 1, (word_t)dst | PTE_P | PTE_W | PTE_U);
    page_set(DST + PAGE_BYTES, 1, dst2 ? (word_t)(dst + PAGE_BYTES) | PTE_P | PTE_W | PTE_U : 0);
}

struct string_args {
    word_t si, di, cx;
};

#define REP_FN(name, insn)                                             \
    static word_t name(word_t at, word_t ax)                           \
    {                                                                  \
        struct string_args *s = (struct string_args *)at;              \
        asm volatile(insn "\n\tcld"                                    \
                     : "+S"(s->si), "+D"(s->di), "+c"(s->cx), "+a"(ax) \
                     :                                                 \
                     : "memory", "cc");                                \
        return ax;                                                     \
    }
REP_FN(movsb, "rep movsb")
REP_FN(movsw, "rep movsw")
REP_FN(movsl, "rep movsl")
REP_FN(movsq, "rep movsq")
REP_FN(movsb_down, "std\n\trep movsb")
REP_FN(movsq_down, "std\n\trep movsq")
REP_FN(stosb, "rep stosb")
REP_FN(stosq, "rep stosq")
REP_FN(lodsq, "rep lodsq")
REP_FN(cmpsb, "repe cmpsb")
REP_FN(scasb, "repne scasb")
REP_FN(movsb32, "addr32 rep movsb")

struct mid_case {
    const char *what;
    guest_fn *fn;
    bool src2, dst2; /* is the second page there? */
    int si, di;      /* offsets */
    unsigned cx, done, bytes;
    int step;
    bool down, write;
};

static void faults_in_the_middle(void)
{
    static const struct mid_case cases[] = {
        { "MOVSB, destination absent", movsb, true, false, 0, 4090, 20, 6, 1, 1, false, true },
        { "MOVSB, source absent", movsb, false, true, 4090, 0, 20, 6, 1, 1, false, false },
        { "MOVSW, destination absent", movsw, true, false, 0, 4090, 20, 3, 2, 2, false, true },
        { "MOVSD, an element across the border", movsl, true, false, 0, 4090, 20, 1, 4, 4, false,
          true },
        { "MOVSQ, destination absent", movsq, true, false, 0, 4080, 20, 2, 8, 8, false, true },
        { "MOVSQ, source across the border", movsq, false, true, 4084, 0, 20, 1, 8, 8, false,
          false },
        { "MOVSB, down", movsb_down, true, false, 100, 4100, 3, 0, 1, -1, true, true },
        { "STOSB", stosb, true, false, 0, 4000, 1000, 96, 1, 1, false, true },
        { "STOSQ", stosq, true, false, 0, 4000, 1000, 12, 8, 8, false, true },
        { "LODSQ", lodsq, false, true, 4000, 0, 1000, 12, 8, 8, false, false },
        { "at once", movsb, true, false, 0, 4096, 5, 0, 1, 1, false, true },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        const struct mid_case *c = &cases[i];
        struct string_args a = { SRC + c->si, DST + c->di, c->cx };
        struct trap t;

        map_all(c->src2, c->dst2);
        memset(src, 0x5a, sizeof(src));
        memset(dst, 0x11, sizeof(dst));
        t = try(c->fn, (word_t)&a, 0x5a5a5a5a5a5a5a5a);
        EXPECT_TRAP(&t, VEC_PF, c->write ? PF_W : 0, "%s: #PF", c->what);
        EXPECT_EQ(t.f.cx, c->cx - c->done, "%s: RCX", c->what);
        if (c->fn != stosb && c->fn != stosq)
            EXPECT_EQ(t.f.si, SRC + c->si + (word_t)((int)c->done * c->step), "%s: RSI", c->what);
        if (c->fn != lodsq)
            EXPECT_EQ(t.f.di, DST + c->di + (word_t)((int)c->done * c->step), "%s: RDI", c->what);
        if (c->fn != lodsq && c->done)
            EXPECT(dst[c->di + c->done * c->bytes - 1] == 0x5a &&
                       (c->di + c->done * c->bytes >= PAGE_BYTES ||
                        dst[c->di + c->done * c->bytes] == 0x11),
                   "%s: memory is as far as the registers say", c->what);
    }
}

/* The page comes while the instruction waits: it goes on where it was. */
static void bring_page(struct frame *f)
{
    (void)f;
    map_all(true, true);
}

static void restarted(void)
{
    struct string_args a = { SRC, DST + 5, 6000 };
    struct trap t;

    for (unsigned i = 0; i < sizeof(src); i++)
        src[i] = (uint8_t)(i * 7 + i / 256);
    memset(dst, 0, sizeof(dst));
    map_all(true, false);
    trap_handle(VEC_PF, bring_page);
    t = try(movsb, (word_t)&a, 0);
    EXPECT_TRAP(&t, VEC_NONE, 0, "REP MOVSB goes on after its fault was repaired");
    EXPECT(!memcmp(dst + 5, src, 6000), "and copies all");
    EXPECT_EQ(a.cx, 0, "RCX is 0");
    memset(dst, 0, sizeof(dst));
    map_all(false, true);
    a = (struct string_args){ SRC + 1, DST, 750 };
    t = try(movsq, (word_t)&a, 0);
    EXPECT(!memcmp(dst, src + 1, 6000), "REP MOVSQ, unaligned source that comes late");
    trap_handle(VEC_PF, NULL);
}

static void copies(void)
{
    struct string_args a;
    bool good = true;

    map_all(true, true);
    memset(src, 0, sizeof(src));
    src[0] = 0xab;
    a = (struct string_args){ (word_t)src, (word_t)src + 1, 5000 };
    movsb((word_t)&a, 0);
    for (unsigned i = 0; i <= 5000; i++)
        good = good && src[i] == 0xab;
    EXPECT(good, "overlapping by one byte, MOVSB repeats it");
    for (unsigned i = 0; i < 16; i++)
        src[i] = (uint8_t)i;
    a = (struct string_args){ (word_t)src, (word_t)src + 4, 4 };
    movsq((word_t)&a, 0);
    EXPECT(src[4] == 0 && src[8] == 4 && src[12] == 4 && src[16] == 12 && src[20] == 12,
           "overlapping within an element, MOVSQ");
    for (unsigned i = 0; i < 100; i++)
        src[i] = (uint8_t)i;
    a = (struct string_args){ (word_t)src + 49, (word_t)src + 59, 50 };
    movsb_down((word_t)&a, 0);
    EXPECT(src[59] == 49 && src[10] == 0 && src[9] == 9, "overlapping downwards");
    EXPECT_EQ(a.si, (word_t)src - 1, "RSI ends below");
    a = (struct string_args){ (word_t)src + 56, (word_t)dst + 56, 8 };
    movsq_down((word_t)&a, 0);
    EXPECT(!memcmp(src, dst, 64), "MOVSQ downwards");
    a = (struct string_args){ (word_t)src, (word_t)dst, 0 };
    movsb((word_t)&a, 0);
    EXPECT_EQ(a.si, (word_t)src, "a count of 0 does nothing");
    a = (struct string_args){ (word_t)src | 1ull << 40, (word_t)dst | 1ull << 40, 16 | 1ull << 40 };
    memset(src, 0x77, 16);
    movsb32((word_t)&a, 0);
    EXPECT(dst[15] == 0x77, "32-bit addresses take the lower halves");
    EXPECT_EQ(a.cx, 0, "the count too, and clear the upper half");
    EXPECT_EQ(a.si, (word_t)src + 16, "and of RSI");
}

static void scans(void)
{
    struct string_args a;

    memset(src, 3, 200);
    memset(dst, 3, 200);
    dst[120] = 4;
    a = (struct string_args){ (word_t)src, (word_t)dst, 200 };
    cmpsb((word_t)&a, 0);
    EXPECT_EQ(a.cx, 79, "REPE CMPSB stops behind the difference");
    EXPECT_EQ(a.di, (word_t)dst + 121, "RDI behind it");
    a = (struct string_args){ 0, (word_t)dst, 200 };
    scasb((word_t)&a, 4);
    EXPECT_EQ(a.cx, 79, "REPNE SCASB stops behind the match");
    a = (struct string_args){ 0, (word_t)dst, 100 };
    scasb((word_t)&a, 4);
    EXPECT_EQ(a.cx, 0, "or at the end");
}

static word_t user_insb(word_t at, word_t b)
{
    struct string_args *s = (struct string_args *)at;

    (void)b;
    asm volatile("rep insb" : "+D"(s->di), "+c"(s->cx) : "d"(0x61) : "memory");
    return 0;
}

static word_t outsb(word_t at, word_t b)
{
    struct string_args *s = (struct string_args *)at;

    (void)b;
    asm volatile("rep outsb" : "+S"(s->si), "+c"(s->cx) : "d"(0x80) : "memory");
    return 0;
}

static void ports(void)
{
    struct string_args a = { 0, DST + PAGE_BYTES - 3, 10 };
    struct trap t;

    map_all(true, false);
    memset(dst, 0xee, sizeof(dst));
    t = try(user_insb, (word_t)&a, 0);
    EXPECT_TRAP(&t, VEC_PF, PF_W, "REP INSB into an absent page");
    EXPECT_EQ(t.f.cx, 7, "RCX");
    EXPECT_EQ(t.f.di, DST + PAGE_BYTES, "RDI");
    a = (struct string_args){ SRC + 10, 0, 10 };
    t = try(outsb, (word_t)&a, 0);
    EXPECT_TRAP(&t, VEC_NONE, 0, "REP OUTSB");
    EXPECT_EQ(a.si, SRC + 20, "RSI");
    a.cx = 1;
    t = try_user(outsb, (word_t)user_ptr(&a), 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "REP OUTSB without permission");
}

static volatile unsigned nr_ticks, nr_inside;
static word_t rep_at, scratch, nr_left;
static void tick(struct frame *f)
{
    nr_ticks++;
    nr_inside += f->ip == rep_at;
    apic_write(APIC_EOI, 0);
}

static void copy_with_interrupts(void)
{
    void *from = (void *)0x2000000, *to = (void *)0x4000000;
    word_t n = 16 << 20;

    asm volatile("lea 1f(%%rip), %3\n\tmov %3, %4\n\tsti\n1:\trep movsb\n\tcli"
                 : "+S"(from), "+D"(to), "+c"(n), "=&r"(scratch), "=m"(rep_at)
                 :
                 : "memory");
    nr_left += n;
}

/*
 * A long REP is interruptible: the timer comes in its middle, and it still does all its work. A
 * busy host may send the timer too late, so there are many.
 */
static void interrupts(void)
{
    apic_init();
    trap_handle(0x51, tick);
    memset((void *)0x2000000, 0x3c, 64);
    *(volatile uint8_t *)(0x2000000 + (16 << 20) - 1) = 0x99;
    apic_write(APIC_TIMER_DIV, 0xb);
    apic_write(APIC_LVT_TIMER, 0x20051);
    apic_write(APIC_TIMER_INIT, 100000);
    for (unsigned tries = 0; tries < 1000 && !nr_inside; tries++)
        copy_with_interrupts();
    apic_write(APIC_LVT_TIMER, 0x10000);
    EXPECT_EQ(nr_left, 0, "a copy of 16 MB under timer interrupts ends");
    EXPECT_EQ(*(uint8_t *)(0x4000000 + (16 << 20) - 1), 0x99, "with all its bytes");
    EXPECT(nr_ticks > 0, "interrupts came");
    tcg_deviates("lets them in behind it");
    EXPECT(nr_inside > 0, "in the middle of it");
}

/* One page at two addresses: what overlaps is not seen from the addresses. */
static void one_page_twice(void)
{
    static const struct {
        guest_fn *fn;
        int step; /* bytes; below 0: downwards */
        int si, di;
    } cases[] = {
        { movsb, 1, 64, 65 },         { movsw, 2, 64, 65 },         { movsl, 4, 64, 66 },
        { movsq, 8, 64, 68 },         { movsq, 8, 68, 64 },         { movsb_down, -1, 256, 255 },
        { movsb_down, -1, 255, 256 }, { movsq_down, -8, 256, 252 }, { movsq_down, -8, 256, 260 },
    };
    static uint8_t want[512];

    map_all(true, true);
    page_set(DST, 1, (word_t)src | PTE_P | PTE_W | PTE_U);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        unsigned n = (unsigned)(cases[i].step < 0 ? -cases[i].step : cases[i].step);
        struct string_args s = { SRC + (word_t)cases[i].si, DST + (word_t)cases[i].di, 16 };

        for (unsigned at = 0; at < sizeof(want); at++)
            src[at] = want[at] = (uint8_t)(at * 7 + 3);
        for (int e = 0; e < 16; e++) {
            uint8_t element[8];

            memcpy(element, want + cases[i].si + e * cases[i].step, n);
            memcpy(want + cases[i].di + e * cases[i].step, element, n);
        }
        /* Both pages are in the TLB. */
        (void)*(volatile uint8_t *)SRC;
        *(volatile uint8_t *)(DST + 500) = want[500];
        (void)cases[i].fn((word_t)&s, 0);
        EXPECT_EQ(memcmp(src, want, sizeof(want)), 0, "MOVS from %d to %d, a page that is the same",
                  cases[i].si, cases[i].di);
    }
    map_all(true, true);
}

int main(void)
{
    faults_in_the_middle();
    restarted();
    copies();
    one_page_twice();
    scans();
    ports();
    interrupts();
    return 0;
}
