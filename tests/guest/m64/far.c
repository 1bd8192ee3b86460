/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A kernel's direct branches to other pages, run over and over again: pages that are global, so
 * that a translator may connect them for good; until a target's page is another one, or is not to
 * be run, or the code lies at two addresses, is written, or somebody else's tables count. SDM 3,
 * "Caching Translation Information", "Global Pages".
 */
#include "upper.h"

#define CODE       (KERNEL + 0x10000000ull) /* small pages, in the reach of a rel32 of all others */
#define LARGE_CODE (KERNEL + 0x20000000ull)
#define HUGE_CODE  (KERNEL + GIGA)
#define FRAMES     BIG(8)
#define RUNS       6u /* until all is translated and connected */
#define TIMER_VEC  0x50u

static uint64_t other_pml4[512] PAGE_ALIGNED;

/* ---- pages with code, each one used once ---- */

struct spot {
    word_t lin, pa;
};

static word_t frame(void)
{
    static word_t next;
    word_t n = next++;

    return n < PAGES ? PA(n) : FRAMES + n * PAGE_BYTES;
}

static word_t lin_page(unsigned nr)
{
    static word_t next;
    word_t lin = CODE + next * PAGE_BYTES;

    next += nr;
    return lin;
}

static struct spot spot(void)
{
    struct spot s = { lin_page(1), frame() };

    map(s.lin, s.pa | GR);
    return s;
}

/* Written by its low address, for where it will run. */
struct code {
    uint8_t *at;
    word_t lin;
};

static struct code code_at(struct spot s, unsigned off)
{
    return (struct code){ (uint8_t *)s.pa + off, s.lin + off };
}

static void put(struct code *c, unsigned bytes, uint64_t v)
{
    memcpy(c->at, &v, bytes);
    c->at += bytes;
    c->lin += bytes;
}

#define CALL 0xe8u
#define JMP  0xe9u
#define JE   0x840fu
#define JNE  0x850fu
static void branch(struct code *c, unsigned op, word_t to)
{
    put(c, op > 0xff ? 2 : 1, op);
    put(c, 4, to - (c->lin + 4));
}

static void put_ret(struct code *c)
{
    put(c, 1, 0xc3);
}

static void put_add(struct code *c, uint32_t v)
{
    put(c, 1, 0x05); /* ADD EAX */
    put(c, 4, v);
}

/* What a target says: MOV EAX; RET. */
static void put_answer(word_t pa, uint32_t v)
{
    struct code c = { (uint8_t *)pa, 0 };

    put(&c, 1, 0xb8);
    put(&c, 4, v);
    put_ret(&c);
}

/* Three ways there: CALL and RET, JMP, JE that is taken. */
#define WAYS    3u
#define WAY(n)  ((n)*0x40u)
#define SITE(n) (WAY(n) + ((n) == 2 ? 2 : 0))
static void put_source(struct spot s, word_t target)
{
    struct code c = code_at(s, WAY(0));

    branch(&c, CALL, target);
    put_ret(&c);
    c = code_at(s, WAY(1));
    branch(&c, JMP, target);
    c = code_at(s, WAY(2));
    put(&c, 2, 0xc031); /* XOR EAX, EAX */
    branch(&c, JE, target);
}

static struct spot source_of(word_t target)
{
    struct spot s = spot();

    put_source(s, target);
    return s;
}

ALONE word_t call(word_t at, word_t arg)
{
    word_t ax = 0, cx = 0x8000000;

    asm volatile("call *%3"
                 : "+a"(ax), "+D"(arg), "+c"(cx)
                 : "r"(at)
                 : "rdx", "rsi", "r8", "r9", "r10", "r11", "memory", "cc");
    return ax;
}

static unsigned ask(word_t source, word_t want)
{
    unsigned wrong = 0;

    for (unsigned n = 0; n < RUNS * WAYS; n++)
        wrong += call(source + WAY(n % WAYS), 0) != want;
    return wrong;
}

/* ---- where they lead ---- */

static void ways(void)
{
    static const word_t want[] = { 0x10111, 0x11011, 0x103011 };
    struct spot low = spot(), mid = spot(), high = spot();
    struct code c = code_at(mid, 0);
    unsigned wrong = 0;

    put(&c, 2, 0xc031);
    branch(&c, CALL, high.lin + 0x10);
    branch(&c, CALL, low.lin + 0x10);
    put(&c, 2, 0xff85); /* TEST EDI, EDI */
    branch(&c, JE, high.lin + 0x40);
    branch(&c, JMP, low.lin + 0x40);
    c = code_at(mid, 0x80);
    put_add(&c, 0x10000);
    put_ret(&c);
    c = code_at(high, 0x10);
    put_add(&c, 1);
    put_ret(&c);
    c = code_at(low, 0x10);
    put_add(&c, 0x10);
    put_ret(&c);
    c = code_at(high, 0x40);
    put_add(&c, 0x100);
    branch(&c, JMP, mid.lin + 0x80);
    c = code_at(low, 0x40);
    put_add(&c, 0x1000);
    put(&c, 4, 0x01c7f640); /* TEST DIL, 1 */
    branch(&c, JNE, mid.lin + 0x80);
    put_add(&c, 0x2000);
    branch(&c, JMP, high.lin + 0xff8); /* the page's last instruction that is all in it */
    c = code_at(high, 0xff8);
    put_add(&c, 0x100000);
    put_ret(&c);
    for (unsigned i = 0; i < ROUNDS; i++)
        wrong += call(mid.lin, i % 3) != want[i % 3];
    EXPECT_EQ(wrong, 0, "CALL, JMP and Jcc, forwards and backwards");
}

static void borders(void)
{
    struct spot s[4];
    struct code c;
    unsigned wrong = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(s); i++)
        s[i] = spot();
    c = code_at(s[0], PAGE_BYTES - 7);
    put(&c, 2, 0xc031);
    put_add(&c, 1); /* ends with the page */
    c = code_at(s[1], 0);
    put_add(&c, 0x10);
    branch(&c, JMP, s[2].lin + PAGE_BYTES - 6);
    c = code_at(s[2], PAGE_BYTES - 6); /* too near to the end to be sure of */
    put_add(&c, 0x100);
    put(&c, 1, 0x90);
    c = code_at(s[3], 0);
    put_add(&c, 0x1000);
    put_ret(&c);
    for (unsigned i = 0; i < ROUNDS; i++)
        wrong += call(s[0].lin + PAGE_BYTES - 7, 0) != 0x1111;
    EXPECT_EQ(wrong, 0, "over a page's border without a branch");
    for (unsigned i = 0; i < 10; i++) { /* where it goes on is another page */
        word_t other = frame();
        struct code o = { (uint8_t *)other, 0 };

        put_add(&o, i);
        put_ret(&o);
        map(s[1].lin, other | GR);
        for (unsigned n = 0; n < RUNS; n++)
            wrong += call(s[0].lin + PAGE_BYTES - 7, 0) != 1 + i;
    }
    EXPECT_EQ(wrong, 0, "and the page behind it changes");
}

static void chains(void)
{
    struct spot s[4];
    unsigned wrong = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(s); i++)
        s[i] = spot();
    for (unsigned i = 0; i < ARRAY_SIZE(s); i++) {
        struct code c = code_at(s[i], 0x100 * i);

        put_add(&c, 1u << 4 * i);
        if (i < 3)
            branch(&c, CALL, s[i + 1].lin + 0x100 * (i + 1));
        put_add(&c, 1u << (4 * i + 16));
        put_ret(&c);
    }
    for (unsigned i = 0; i < ROUNDS; i++)
        wrong += call(s[0].lin, 0) != 0x11111111;
    EXPECT_EQ(wrong, 0, "calls over four pages");
    for (unsigned i = 0; i < 4; i++) {
        map(s[i].lin, 0);
        map(s[i].lin, s[i].pa | GR);
        for (unsigned n = 0; n < RUNS; n++)
            wrong += call(s[0].lin, 0) != 0x11111111;
    }
    EXPECT_EQ(wrong, 0, "each one's mapping taken away and given again");
}

/* ---- loops ---- */

static volatile unsigned nr_ticks;
static void tick(struct frame *f)
{
    (void)f;
    nr_ticks++;
    apic_write(APIC_EOI, 0);
}

/* They end when the tick was seen, or after very long. */
static void loops(void)
{
    struct spot low = spot(), mid = spot(), high = spot();
    struct code c = code_at(mid, 0);
    bool served = true;

    put(&c, 2, 0x3f83); /* CMP dword [RDI], 0 */
    put(&c, 1, 0);
    branch(&c, JNE, high.lin + 0x80);
    branch(&c, JMP, low.lin);
    c = code_at(low, 0);
    put(&c, 2, 0xc9ff); /* DEC ECX */
    branch(&c, JNE, high.lin);
    branch(&c, JMP, high.lin + 0x40);
    c = code_at(high, 0);
    branch(&c, JMP, mid.lin);
    c = code_at(high, 0x40);
    put_ret(&c);
    c = code_at(high, 0x80);
    put_add(&c, 1);
    put_ret(&c);
    c = code_at(mid, 0x100); /* backwards alone, but for one */
    put(&c, 2, 0xc9ff);
    branch(&c, JE, high.lin + 0x40);
    put(&c, 2, 0x3f83);
    put(&c, 1, 0);
    branch(&c, JE, low.lin + 0x100);
    branch(&c, JMP, high.lin + 0x80);
    c = code_at(low, 0x100);
    branch(&c, CALL, high.lin + 0x40);
    branch(&c, JMP, mid.lin + 0x100);
    apic_init();
    trap_handle(TIMER_VEC, tick);
    apic_write(APIC_TIMER_DIV, 0xb);
    apic_write(APIC_LVT_TIMER, TIMER_VEC);
    for (unsigned i = 0; i < 40; i++) {
        nr_ticks = 0;
        apic_write(APIC_TIMER_INIT, 20000 + i * 777);
        asm volatile("sti");
        served = call(i % 2 ? mid.lin + 0x100 : mid.lin, (word_t)&nr_ticks) == 1 && served;
        asm volatile("cli");
        served = served && nr_ticks == 1;
    }
    EXPECT(served, "a loop of such branches: interrupts come");
}

/* ---- the target's page is another one ---- */

typedef void flush_fn(word_t target, unsigned i);
static void by_invlpg(word_t target, unsigned i)
{
    invlpg((void *)(target / PAGE_BYTES * PAGE_BYTES + i * 777 % PAGE_BYTES));
}

static void by_pge(word_t target, unsigned i)
{
    (void)target, (void)i;
    flush_all();
}

static void by_invpcid(word_t target, unsigned i)
{
    static const uint64_t desc[2];

    (void)target, (void)i;
    asm volatile("invpcid (%1), %0" : : "r"(2ull), "r"(desc) : "memory");
}

static void by_large(word_t target, unsigned i)
{
    invlpg((void *)(target / LARGE * LARGE + i * 0x43210 % LARGE));
}

/* A 1 GB page was there, or is to be there and 2 MB pages were. */
static void by_huge(word_t target, unsigned i)
{
    invlpg((void *)(i % 2 ? target / GIGA * GIGA + i * 0x1234567ull % GIGA : target));
}

static void by_cr3(word_t target, unsigned i)
{
    (void)target, (void)i;
    flush_tlb();
}

/* Its entry is the one or the other. */
static unsigned remapped(flush_fn *flush, word_t target, uint64_t *entry, const uint64_t to[2])
{
    unsigned wrong = 0;
    struct spot s = source_of(target);

    for (unsigned i = 0; i < ROUNDS; i++) {
        *entry = to[i % 2];
        flush(target, i);
        wrong += ask(s.lin, 100 + i % 2);
    }
    return wrong;
}

static unsigned remapped_small(flush_fn *flush, uint64_t flags)
{
    const word_t target = lin_page(1), pa[2] = { frame(), frame() };
    const uint64_t to[2] = { pa[0] | flags, pa[1] | flags };

    put_answer(pa[0] + 0x300, 100);
    put_answer(pa[1] + 0x300, 101);
    return remapped(flush, target + 0x300, page_entry(target, 1), to);
}

static const char by_one_address[] = "keeps code that it found in a large page";

static void elsewhere(void)
{
    const uint64_t to[2] = { BIG(10) | GR | PTE_PS, BIG(11) | GR | PTE_PS };

    EXPECT_EQ(remapped_small(by_invlpg, GR), 0, "a small page elsewhere: INVLPG");
    EXPECT_EQ(remapped_small(by_pge, GR), 0, "CR4.PGE changed");
    if (has_invpcid())
        EXPECT_EQ(remapped_small(by_invpcid, GR), 0, "INVPCID of all");
    EXPECT_EQ(remapped_small(by_invlpg, PTE_P), 0, "not global: INVLPG");
    EXPECT_EQ(remapped_small(by_cr3, PTE_P), 0, "not global: CR3");
    put_answer(to[0] / LARGE * LARGE + 0x123450, 100);
    put_answer(to[1] / LARGE * LARGE + 0x123450, 101);
    tcg_deviates(by_one_address);
    EXPECT_EQ(remapped(by_large, LARGE_CODE + 0x123450, page_entry(LARGE_CODE, 2), to), 0,
              "a 2 MB page: INVLPG of any address in it");
    EXPECT_EQ(remapped(by_pge, LARGE_CODE + 0x123450, page_entry(LARGE_CODE, 2), to), 0,
              "a 2 MB page, and CR4.PGE changed");
}

static void huge(void)
{
    uint64_t *pd;
    uint64_t to[2] = { GR | PTE_PS };

    if (!has_1g_pages()) {
        skip("not in this CPU model", "1 GB pages");
        return;
    }
    pd = page_table();
    to[1] = (word_t)pd | PTE_P | PTE_W;
    pd[BIG(12) / LARGE % 512] = BIG(13) | GR | PTE_PS;
    put_answer(BIG(12) + 0x54320, 100);
    put_answer(BIG(13) + 0x54320, 101);
    tcg_deviates(by_one_address);
    EXPECT_EQ(remapped(by_huge, HUGE_CODE + BIG(12) + 0x54320, page_entry(HUGE_CODE, 3), to), 0,
              "a 1 GB page: INVLPG of any address in it");
}

/* Not global any more: from then on the CR3 is enough. */
static void global_once(void)
{
    unsigned wrong = 0;

    for (unsigned k = 0; k < 8; k++) {
        const word_t target = lin_page(1), pa[2] = { frame(), frame() };
        struct spot s = source_of(target);

        put_answer(pa[0], 100);
        put_answer(pa[1], 101);
        map(target, pa[0] | GR);
        wrong += ask(s.lin, 100);
        map(target, pa[0] | PTE_P);
        wrong += k % 2 ? ask(s.lin, 100) : 0;
        for (unsigned i = 1; i < 6; i++) {
            *page_entry(target, 1) = pa[i % 2] | PTE_P;
            flush_tlb();
            wrong += ask(s.lin, 100 + i % 2);
        }
        map(target, pa[1] | GR);
        wrong += ask(s.lin, 101);
    }
    EXPECT_EQ(wrong, 0, "a page that is global no more, changed with the CR3");
}

/* ---- the target may not be run ---- */

static volatile struct {
    struct frame f;
    word_t cr2, top, nr;
} seen;

/* As a RET there. */
static void as_ret(struct frame *f)
{
    seen.f = *f;
    seen.cr2 = read_cr2();
    seen.top = AT(word_t, f->sp);
    seen.nr++;
    f->ip = seen.top;
    f->sp += 8;
    f->ax = 999;
}

/* Each way faults at the target. */
static bool all_fault(word_t source, word_t target, word_t err)
{
    bool good = true;

    for (unsigned n = 0; n < WAYS; n++) {
        seen.nr = 0;
        good = call(source + WAY(n), 0) == 999 && seen.nr == 1 && good;
        good = good && seen.f.err == err && seen.cr2 == target && seen.f.ip == target &&
               (n > 0 || seen.top == source + 5);
        if (!good) {
            print("# way %u: %u, error %x cr2 %lx ip %lx top %lx, want %x, %lx\n", n,
                  (unsigned)seen.nr, (unsigned)seen.f.err, seen.cr2, seen.f.ip, seen.top,
                  (unsigned)err, target);
            return false;
        }
    }
    return good;
}

struct denial {
    const char *what;
    uint64_t set, clear;
    unsigned level;
    word_t err;
};

static void denied(void)
{
    static const struct denial all[] = {
        { "not present", 0, PTE_P, 1, 0 },
        { "not executable", PTE_NX, 0, 1, PF_P },
        { "not executable by its table's entry", PTE_NX, 0, 2, PF_P },
        { "a user's, with SMEP", PTE_U, 0, 1, PF_P },
        { "not there by its table's entry", 0, PTE_P, 2, 0 },
    };
    const word_t fetch = rdmsr(MSR_EFER) & EFER_NXE ? PF_I : 0;
    word_t target = LARGE_CODE + 2 * LARGE;

    trap_handle(VEC_PF, as_ret);
    for (unsigned k = 0; k < 2 * ARRAY_SIZE(all); k++, target += PAGE_BYTES) {
        const struct denial *d = &all[k / 2];
        const word_t pa = frame();
        struct spot s = source_of(target + 0x70);
        uint64_t *e = page_entry(target, d->level);
        const uint64_t *leaf = page_entry(target, 1);
        bool good = fetch || !(d->set & PTE_NX);
        const word_t cr4 = read_cr4();
        unsigned wrong = 0;

        if (d->set & PTE_U) {
            if (!has_smep())
                continue;
            write_cr4(cr4 | CR4_SMEP);
        }
        put_answer(pa + 0x70, 5);
        map(target, pa | GR);
        for (unsigned i = 0; good && i < 10; i++) {
            uint64_t was;

            wrong += ask(s.lin, 5);
            was = *e;
            *e = (was | d->set) & ~d->clear;
            k % 2 ? flush_all() : invlpg((void *)target);
            good = all_fault(s.lin, target + 0x70, d->err | fetch);
            *e = was;
            k % 2 ? flush_all() : invlpg((void *)target);
        }
        write_cr4(cr4);
        EXPECT(good && !wrong && *leaf, "%s, after %s: #PF at the target", d->what,
               k % 2 ? "CR4.PGE changed" : "INVLPG");
    }
    trap_handle(VEC_PF, NULL);
}

/* ---- the same code at two addresses ---- */

/* Maps a source at two addresses, from which its target's page is the one or the other. */
struct twins {
    word_t lin[2], source, target[2];
};

static struct twins twins(bool same)
{
    struct twins t = { .source = frame(), .target = { frame() } };

    t.target[1] = same ? t.target[0] : frame();
    for (unsigned i = 0; i < 2; i++) {
        t.lin[i] = lin_page(2);
        map(t.lin[i], t.source | GR);
        map(t.lin[i] + PAGE_BYTES, t.target[i] | GR);
    }
    put_source((struct spot){ t.lin[0], t.source }, t.lin[0] + PAGE_BYTES + 0x200);
    put_answer(t.target[1] + 0x200, 200 + !same);
    put_answer(t.target[0] + 0x200, 200);
    return t;
}

static void aliases(void)
{
    for (unsigned k = 0; k < 4; k++) {
        struct twins t = twins(k % 2);
        unsigned wrong = 0;

        if (k >= 2) { /* at the second address only one of the branches has run yet */
            wrong += ask(t.lin[0], 200);
            wrong += call(t.lin[1] + WAY(0), 0) != 200 + (k == 2);
            wrong += ask(t.lin[0], 200);
        }
        for (unsigned i = 0; i < ROUNDS; i++) {
            unsigned n = k < 2 ? i % 2 : i / 10 % 2; /* from the first time on, or later */

            wrong += ask(t.lin[n], 200 + (n && !(k % 2)));
        }
        EXPECT_EQ(wrong, 0, "code at two addresses, %s targets, %s",
                  k % 2 ? "the same" : "different", k < 2 ? "by turns" : "for a while each");
    }
}

/* Reached at the second address by such branches alone. */
static void alias_reached(void)
{
    struct twins t = twins(false);
    struct spot by[2][WAYS];
    unsigned wrong = 0;

    for (unsigned i = 0; i < 2; i++)
        for (unsigned n = 0; n < WAYS; n++)
            by[i][n] = source_of(t.lin[i] + WAY(n));
    for (unsigned i = 0; i < ROUNDS; i++)
        for (unsigned n = 0; n < WAYS; n++)
            wrong += ask(by[i / 5 % 2][n].lin, 200 + i / 5 % 2);
    EXPECT_EQ(wrong, 0, "code at two addresses that other such branches lead to");
}

/* It moves: first at the one address alone, then at the other. */
static void moved(void)
{
    unsigned wrong = 0;

    for (unsigned k = 0; k < 4; k++) {
        struct twins t = twins(false);

        map(t.lin[1], 0);
        for (unsigned i = 0; i < 20; i++) {
            wrong += ask(t.lin[i % 2], 200 + i % 2);
            map(t.lin[i % 2], 0);
            map(t.lin[!(i % 2)], t.source | GR);
            if (k % 2)
                flush_all();
        }
    }
    EXPECT_EQ(wrong, 0, "code that moves to another address");
}

/* Its first page's part that is written all the time jumps to one that is not. */
static void alias_written(void)
{
    struct twins t = twins(false);
    struct spot s = { t.lin[0], t.source };
    struct code c;
    unsigned wrong = 0;

    for (unsigned i = 0; i < 3 * ROUNDS; i++) {
        unsigned at = i < ROUNDS ? 0 : i / 3 % 2;

        for (unsigned n = 0; n < WAYS; n++) {
            c = code_at(s, 0x800 + n * 0x40);
            put(&c, 1, 0xb9); /* MOV ECX */
            put(&c, 4, i);
            branch(&c, JMP, s.lin + WAY(n));
            for (unsigned r = 0; r < 3; r++)
                wrong += call(t.lin[at] + 0x800 + n * 0x40, 0) != 200 + at;
        }
    }
    for (unsigned i = 0; i < ROUNDS; i++)
        for (unsigned n = 0; n < WAYS; n++)
            wrong += call(t.lin[i / 10 % 2] + 0x800 + n * 0x40, 0) != 200 + i / 10 % 2;
    EXPECT_EQ(wrong, 0, "code at two addresses, with a part that is written often");
}

/* ---- code that is written ---- */

static void written(void)
{
    struct spot one = spot(), two = spot(), s = source_of(one.lin), w = spot(), often = spot();
    struct spot s_often = source_of(often.lin + 8);
    unsigned target = 0, source = 0, by_high = 0, frequent = 0;

    map(w.lin, one.pa | GRW);
    put_answer(two.pa, 7);
    for (unsigned i = 0; i < ROUNDS / 4; i++) {
        put_answer(one.pa, 1000 + i);
        target += ask(s.lin, 1000 + i);
        put_answer(w.lin, 5000 + i);
        by_high += ask(s.lin, 5000 + i);
        put_source(s, two.lin);
        source += ask(s.lin, 7);
        put_source(s, one.lin);
        source += ask(s.lin, 5000 + i);
    }
    EXPECT_EQ(target, 0, "the target's code is written");
    EXPECT_EQ(by_high, 0, "by a global alias of it");
    EXPECT_EQ(source, 0, "the branch itself is written");
    for (unsigned i = 0; i < 3 * ROUNDS; i++) {
        put_answer(often.pa + 8, i);
        for (unsigned n = 0; n < WAYS; n++)
            frequent += call(s_often.lin + WAY(n), 0) != i;
    }
    EXPECT_EQ(frequent, 0, "the target's code is written each time");
}

/* ---- other tables ---- */

static unsigned in_spaces(word_t lin, word_t here, word_t there, bool flush)
{
    unsigned wrong = 0;

    for (unsigned i = 0; i < ROUNDS; i++) {
        write_cr3(i % 2 ? there : here);
        if (flush)
            flush_all();
        wrong += ask(lin, 300 + i % 2);
    }
    return wrong;
}

/* The target is one page by pml4, and another by other_pml4. */
static void two_spaces(void)
{
    const word_t target = lin_page(1), pa[2] = { frame(), frame() };
    const word_t here = read_cr3(), there = (word_t)other_pml4, keep = 1ull << 63;
    struct spot s[6];
    uint64_t *table[3];
    unsigned wrong;

    for (unsigned i = 0; i < ARRAY_SIZE(s); i++)
        s[i] = source_of(target);
    put_answer(pa[0], 300);
    put_answer(pa[1], 301);
    map(target, pa[0] | GR);
    memcpy(other_pml4, pml4, sizeof(other_pml4));
    for (unsigned l = 3; l >= 1; l--) {
        table[l - 1] = page_table();
        memcpy(table[l - 1], (void *)((word_t)page_entry(target, l) / PAGE_BYTES * PAGE_BYTES),
               PAGE_BYTES);
    }
    other_pml4[target >> 39 & 511] = (word_t)table[2] | PTE_P | PTE_W;
    table[2][target >> 30 & 511] = (word_t)table[1] | PTE_P | PTE_W;
    table[1][target >> 21 & 511] = (word_t)table[0] | PTE_P | PTE_W;
    table[0][target >> 12 & 511] = pa[1] | GR;
    EXPECT_EQ(in_spaces(s[0].lin, here, there, true), 0, "another CR3, and CR4.PGE changed");
    write_cr3(here);
    flush_all();
    wrong = ask(s[1].lin, 300);
    write_cr4(read_cr4() & ~(word_t)CR4_PGE);
    wrong += in_spaces(s[1].lin, here, there, false);
    EXPECT_EQ(wrong, 0, "another CR3 without CR4.PGE");
    wrong = in_spaces(s[2].lin, here, there, false);
    EXPECT_EQ(wrong, 0, "by code that is new then");
    write_cr3(here);
    if (!has_pcid()) {
        flush_all();
        skip("not in this CPU model", "PCID");
        return;
    }
    write_cr4(read_cr4() | CR4_PCIDE);
    flush_all();
    wrong = ask(s[3].lin, 300);
    write_cr4(read_cr4() & ~(word_t)CR4_PGE);
    for (unsigned i = 1; i < 20; i++) {
        write_cr3((i % 2 ? there | 2 : here | 1) | keep);
        wrong += ask(s[3].lin, 300 + i % 2);
    }
    EXPECT_EQ(wrong, 0, "another PCID without CR4.PGE, nothing flushed");
    write_cr3(here);
    flush_all();
    wrong = ask(s[4].lin, 300);
    for (unsigned i = 1; i < 20; i++) {
        write_cr3((i % 2 ? there | 2 : here | 1) | (i % 3 ? keep : 0));
        flush_all();
        wrong += ask(s[4].lin, 300 + i % 2);
    }
    write_cr3(here);
    write_cr4(read_cr4() & ~(word_t)CR4_PCIDE);
    flush_all();
    EXPECT_EQ(wrong, 0, "another PCID, and CR4.PGE changed");
    EXPECT_EQ(ask(s[5].lin, 300), 0, "back again");
}

/* ---- targets that are not canonical ---- */

static void not_canonical(void)
{
    static const word_t lin[] = { 0x00007ffffffff000, 0xffff800000000000 };
    bool good[2] = { true, true };

    trap_handle(VEC_GP, as_ret);
    for (unsigned k = 0; k < 2; k++) {
        struct spot s = { lin[k], frame() };

        map(s.lin, s.pa | GR);
        put_source(s, k ? s.lin - 0x800 : s.lin + 0x1800);
        for (unsigned i = 0; i < 10 * WAYS; i++) {
            unsigned n = i % WAYS;
            bool is;

            seen.nr = 0;
            is = call(s.lin + WAY(n), 0) == 999 && seen.nr == 1 && seen.f.err == 0 &&
                 seen.f.ip == s.lin + SITE(n) && seen.top != s.lin + 5;
            if (!is && good[k])
                print("# way %u: %u, error %x ip %lx top %lx, want %lx\n", n, (unsigned)seen.nr,
                      (unsigned)seen.f.err, seen.f.ip, seen.top, s.lin + SITE(n));
            good[k] = good[k] && is;
        }
        map(s.lin, 0);
    }
    trap_handle(VEC_GP, NULL);
    tcg_deviates("faults at the target");
    EXPECT(good[0], "from the lower half's last page up: #GP of the branch");
    tcg_deviates("faults at the target");
    EXPECT(good[1], "from the upper half's first one down");
}

int main(void)
{
    static upper_fn *const all[] = {
        ways,    borders,       chains, loops,         elsewhere, huge,       global_once,   denied,
        aliases, alias_reached, moved,  alias_written, written,   two_spaces, not_canonical,
    };

    upper_run(all, ARRAY_SIZE(all));
    return 0;
}
