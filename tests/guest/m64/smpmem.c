/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several processors and one memory: locked instructions, the order of loads and stores, TLB
 * shootdown, and code that one processor writes and others run. SDM 3, "Multiple-Processor
 * Management". Runs with --cpus 4. No result depends on time; a slow host sees fewer rounds.
 */
#include "smp.h"

#define VEC_CALL 0x51u
#define ROUNDS   3000u

static unsigned nr;

/* ---- locked instructions ---- */

static struct {
    volatile uint64_t inc64, xadd, cas, plain;
    volatile uint32_t inc32, bits, lock;
    volatile uint16_t inc16;
    volatile uint8_t inc8;
} __attribute__((aligned(64))) sum;
static volatile uint64_t pair[2] __attribute__((aligned(16)));
static uint8_t lines[256] __attribute__((aligned(128)));
static volatile uint64_t xadd_sum;

static void spin_lock(volatile uint32_t *lock)
{
    uint32_t held = 1;

    for (;;) {
        asm volatile("xchg %0, %1" : "+r"(held), "+m"(*lock) : : "memory"); /* locks by itself */
        if (!held)
            return;
        pause();
    }
}

static void add_pair(void)
{
    uint64_t lo = pair[0], hi = pair[1];
    bool done;

    do {
        asm volatile("lock cmpxchg16b %1"
                     : "=@ccz"(done), "+m"(pair), "+a"(lo), "+d"(hi)
                     : "b"(lo + 1), "c"(hi + 2)
                     : "memory");
    } while (!done);
}

static void count(unsigned cpu, word_t times)
{
    uint64_t mine = 0;

    for (word_t i = 0; i < times; i++) {
        uint64_t one = 1, old, new;
        bool was, done;

        asm volatile("lock incq %0" : "+m"(sum.inc64));
        asm volatile("lock addl $1, %0" : "+m"(sum.inc32));
        asm volatile("lock incw %0" : "+m"(sum.inc16));
        asm volatile("lock incb %0" : "+m"(sum.inc8));
        asm volatile("lock xaddq %0, %1" : "+r"(one), "+m"(sum.xadd));
        mine += one;
        old = sum.cas;
        do {
            new = old + 3;
            asm volatile("lock cmpxchgq %3, %1"
                         : "=@ccz"(done), "+m"(sum.cas), "+a"(old)
                         : "r"(new)
                         : "memory");
        } while (!done);
        asm volatile("lock btsl %2, %1" : "=@ccc"(was), "+m"(sum.bits) : "r"((uint32_t)i & 31));
        if (!was)
            asm volatile("lock btrl %1, %0" : "+m"(sum.bits) : "r"((uint32_t)i & 31));
        add_pair();
        /* Across a cache line, within a page: locked all the same. */
        asm volatile("lock addq $1, %0" : "+m"(*(volatile uint64_t *)(lines + 60)));
        spin_lock(&sum.lock);
        sum.plain = sum.plain + 1;
        asm volatile("movl $0, %0" : "=m"(sum.lock) : : "memory");
    }
    (void)cpu;
    asm volatile("lock addq %1, %0" : "+m"(xadd_sum) : "r"(mine));
}

static void locked(void)
{
    uint64_t total = (uint64_t)nr * ROUNDS;

    smp_all(nr, count, ROUNDS);
    EXPECT_EQ(sum.inc64, total, "LOCK INC, 64 bits");
    EXPECT_EQ(sum.inc32, total, "LOCK ADD, 32 bits");
    EXPECT_EQ(sum.inc16, total & 0xffff, "LOCK INC, 16 bits");
    EXPECT_EQ(sum.inc8, total & 0xff, "LOCK INC, 8 bits");
    EXPECT_EQ(sum.xadd, total, "LOCK XADD");
    EXPECT_EQ(xadd_sum, total * (total - 1) / 2, "LOCK XADD gave each value once");
    EXPECT_EQ(sum.cas, 3 * total, "LOCK CMPXCHG");
    EXPECT_EQ(sum.bits, 0, "LOCK BTS and BTR");
    EXPECT_EQ(pair[0], total, "LOCK CMPXCHG16B, low half");
    EXPECT_EQ(pair[1], 2 * total, "LOCK CMPXCHG16B, high half");
    EXPECT_EQ(*(uint64_t *)(lines + 60), total, "LOCK ADD across a cache line");
    EXPECT_EQ(sum.plain, total, "a counter under a lock by XCHG");
}

/* ---- order ---- */

static struct {
    volatile uint64_t x __attribute__((aligned(64)));
    volatile uint64_t y __attribute__((aligned(64)));
    volatile uint64_t bad __attribute__((aligned(64)));
} mem;
static struct smp_barrier meet;
static struct smp_rounds rounds;
static volatile uint64_t got[2];

/* Stores are seen in their order: who sees y sees the x before it. */
static void passing(unsigned cpu, word_t times)
{
    if (cpu == 0) {
        for (word_t i = 1; i <= times; i++) {
            mem.x = i;
            mem.y = i;
        }
        return;
    }
    for (;;) {
        uint64_t y = mem.y, x = mem.x;

        if (x < y)
            mem.bad = mem.bad + 1;
        if (y == times)
            return;
    }
}

enum { BY_MFENCE, BY_LOCK, BY_XCHG, BY_CPUID, NR_FENCES };

static void fence_by(unsigned how)
{
    uint64_t any = 0;

    if (how == BY_MFENCE)
        asm volatile("mfence" : : : "memory");
    else if (how == BY_LOCK)
        asm volatile("lock orq $0, (%%rsp)" : : : "memory", "cc");
    else if (how == BY_XCHG)
        asm volatile("xchg %0, %0; xchg %0, (%1)" : "+r"(any) : "r"(&any) : "memory");
    else
        (void)cpuid(0, 0);
}

/* A store, a fence, a load: not both can miss the other's store. */
static void dekker(unsigned cpu, word_t how)
{
    for (unsigned i = 1; i <= rounds.last; i++) {
        *(cpu ? &mem.y : &mem.x) = i;
        fence_by((unsigned)how);
        got[cpu] = *(cpu ? &mem.x : &mem.y);
        smp_meet(&meet, 2);
        if (cpu == 0 && got[0] != i && got[1] != i)
            mem.bad = mem.bad + 1;
        if (cpu == 0)
            smp_round(&rounds, i);
        smp_meet(&meet, 2);
    }
}

static void order(void)
{
    static const char *const names[NR_FENCES] = { "MFENCE", "a locked instruction", "XCHG",
                                                  "CPUID" };

    smp_all(nr, passing, 20 * ROUNDS);
    EXPECT_EQ(mem.bad, 0, "stores are seen in order");
    for (unsigned how = 0; how < NR_FENCES; how++) {
        mem.x = mem.y = mem.bad = 0;
        rounds = smp_rounds(ROUNDS);
        smp_run(1, dekker, how);
        dekker(0, how);
        smp_wait(1);
        if (how == BY_CPUID)
            tcg_deviates("does not take it as a fence");
        EXPECT_EQ(mem.bad, 0, "store and load ordered by %s", names[how]);
    }
}

/* ---- TLB shootdown ---- */

static uint64_t page_a[512] PAGE_ALIGNED, page_b[512] PAGE_ALIGNED;
static volatile unsigned acks, stop, wrong;
static volatile uint64_t shown;

/* The handler: what the initiator has changed is no longer used after it. */
static void on_call(struct frame *f)
{
    (void)f;
    invlpg((void *)TEST_VA);
    __atomic_add_fetch(&acks, 1, __ATOMIC_SEQ_CST);
    apic_write(APIC_EOI, 0);
}

static void call_others(void)
{
    acks = 0;
    apic_write(APIC_ICR, 3u << 18 | VEC_CALL);
    while (acks < nr - 1)
        pause();
}

/* Each round's page has the round's number in it; nobody may read an older one after the call. */
static void reader(unsigned cpu, word_t arg)
{
    (void)cpu, (void)arg;
    while (!stop) {
        uint64_t least = shown, is = *(volatile uint64_t *)TEST_VA;

        if (is < least)
            wrong++;
        *(volatile uint64_t *)(TEST_VA + 8 + 8 * cpu) = is; /* and with write rights */
    }
}

static void shootdown(void)
{
    uint64_t *pages[2] = { page_a, page_b };

    trap_handle(VEC_CALL, on_call);
    page_set(TEST_VA, 1, (word_t)page_a | PTE_P | PTE_W);
    for (unsigned cpu = 1; cpu < nr; cpu++)
        smp_run(cpu, reader, 0);
    for (uint64_t round = 1; round <= 60; round++) {
        uint64_t *now = pages[round & 1], *then = pages[~round & 1];

        *now = round;
        page_set(TEST_VA, 1, (word_t)now | PTE_P | PTE_W);
        call_others();
        shown = round;
        for (unsigned i = 0; i < 8; i++)
            then[i] = 0; /* freed: who still reads or writes it is wrong */
        for (unsigned i = 0; i < 20; i++)
            pause();
        for (unsigned i = 0; i < 8; i++)
            wrong += then[i] != 0;
    }
    stop = 1;
    for (unsigned cpu = 1; cpu < nr; cpu++)
        smp_wait(cpu);
    EXPECT_EQ(wrong, 0, "after a shootdown nobody uses the old page");
}

/* ---- code ---- */

static uint8_t code[4096] PAGE_ALIGNED;
static volatile uint32_t *const value = (volatile uint32_t *)(code + 1); /* MOV EAX, imm32 */
static volatile unsigned phase;
typedef uint32_t code_fn(void);

static void make_code(uint32_t v)
{
    const uint8_t insn[] = { 0xb8, 0, 0, 0, 0, 0xc3 }; /* mov eax, imm32 ; ret */

    memcpy(code, insn, sizeof(insn));
    *value = v;
}

static uint32_t call_code(void)
{
    return ((code_fn *)(word_t)code)();
}

/*
 * SDM 3, "Handling Self- and Cross-Modifying Code": the writer tells by a flag, the others execute
 * a serializing instruction and run the new code.
 */
static void follow(unsigned cpu, word_t arg)
{
    (void)cpu, (void)arg;
    for (unsigned i = 1; i <= rounds.last; i++) {
        while (phase < i)
            pause();
        (void)cpuid(0, 0);
        for (unsigned n = 0; n < 8; n++)
            if (call_code() != i)
                __atomic_add_fetch(&wrong, 1, __ATOMIC_SEQ_CST);
        smp_meet(&meet, nr);
    }
}

static void lead(void)
{
    for (unsigned i = 1; i <= rounds.last; i++) {
        smp_round(&rounds, i);
        *value = i;
        phase = i;
        smp_meet(&meet, nr);
    }
}

static void cross_modifying(void)
{
    wrong = phase = 0;
    make_code(0);
    rounds = smp_rounds(300);
    for (unsigned cpu = 1; cpu < nr; cpu++)
        smp_run(cpu, follow, 0);
    lead();
    for (unsigned cpu = 1; cpu < nr; cpu++)
        smp_wait(cpu);
    EXPECT_EQ(wrong, 0, "code that another CPU has written is run as it is now");
}

/* Every CPU writes the code in turn, and all run it: its page changes hands all the time. */
static void turns(unsigned cpu, word_t arg)
{
    (void)arg;
    for (unsigned i = 1; i <= rounds.last; i++) {
        if (i % nr == cpu)
            *value = i;
        if (cpu == 0)
            smp_round(&rounds, i);
        smp_meet(&meet, nr);
        (void)cpuid(0, 0);
        for (unsigned n = 0; n < 4; n++)
            if (call_code() != i)
                __atomic_add_fetch(&wrong, 1, __ATOMIC_SEQ_CST);
        smp_meet(&meet, nr);
    }
}

/* A page that is data for all, then code, and data again. */
static void fresh(unsigned cpu, word_t arg)
{
    (void)arg;
    for (unsigned i = 1; i <= rounds.last; i++) {
        if (cpu == 0)
            smp_round(&rounds, i);
        for (unsigned n = cpu; n < 512; n += nr)
            ((volatile uint64_t *)code)[n] = i;
        smp_meet(&meet, nr);
        if (i % nr == cpu)
            make_code(i);
        smp_meet(&meet, nr);
        (void)cpuid(0, 0);
        if (call_code() != i)
            __atomic_add_fetch(&wrong, 1, __ATOMIC_SEQ_CST);
        smp_meet(&meet, nr);
    }
}

/* Data beside code, in its page: every store is one beside code that others run. */
static void beside(unsigned cpu, word_t times)
{
    volatile uint64_t *mine = (volatile uint64_t *)(code + 2048 + 64 * cpu);

    for (word_t i = 0; i < times; i++) {
        *mine = *mine + 1;
        asm volatile("lock incq %0" : "+m"(*(volatile uint64_t *)(code + 1024)));
        if (call_code() != 77)
            __atomic_add_fetch(&wrong, 1, __ATOMIC_SEQ_CST);
    }
}

/* While it runs, without asking: each call gives one of the values, and the last one in the end. */
static void caller(unsigned cpu, word_t arg)
{
    (void)cpu, (void)arg;
    while (!stop) {
        uint32_t v = call_code();

        if (v != 0x11111111 && v != 0x22222222)
            __atomic_add_fetch(&wrong, 1, __ATOMIC_SEQ_CST);
    }
}

static void code_by_many(void)
{
    wrong = 0;
    rounds = smp_rounds(200);
    smp_all(nr, turns, 0);
    EXPECT_EQ(wrong, 0, "code written in turns");
    rounds = smp_rounds(50);
    smp_all(nr, fresh, 0);
    EXPECT_EQ(wrong, 0, "a page that is data, code and data");
    memset(code, 0, sizeof(code));
    make_code(77);
    smp_all(nr, beside, 2000);
    EXPECT_EQ(wrong, 0, "code with data beside it");
    EXPECT_EQ(*(uint64_t *)(code + 1024), nr * 2000, "locked data beside code");
    for (unsigned cpu = 0; cpu < nr; cpu++)
        EXPECT_EQ(*(uint64_t *)(code + 2048 + 64 * cpu), 2000, "CPU %u's data beside code", cpu);
    stop = 0;
    make_code(0x11111111);
    for (unsigned cpu = 1; cpu < nr; cpu++)
        smp_run(cpu, caller, 0);
    for (unsigned i = 0; i < 1000; i++)
        *value = i & 1 ? 0x11111111 : 0x22222222;
    stop = 1;
    for (unsigned cpu = 1; cpu < nr; cpu++)
        smp_wait(cpu);
    EXPECT_EQ(wrong, 0, "an aligned immediate changes in one piece");
}

/* As Linux' text_poke: INT3 first, then the rest, then the first byte, a message between each. */
static volatile unsigned breakpoints;

static void on_int3(struct frame *f)
{
    __atomic_add_fetch(&breakpoints, 1, __ATOMIC_SEQ_CST);
    f->ax = 0xdead; /* as if the old instruction had been something else */
    f->ip = (word_t)code + 5;
}

static void poke_caller(unsigned cpu, word_t arg)
{
    (void)cpu, (void)arg;
    while (!stop) {
        unsigned least = phase;
        uint32_t v = call_code();

        if (v != 0xdead && v < least)
            __atomic_add_fetch(&wrong, 1, __ATOMIC_SEQ_CST);
    }
}

static void poke(void)
{
    wrong = stop = phase = 0;
    make_code(0);
    trap_handle(VEC_BP, on_int3);
    for (unsigned cpu = 1; cpu < nr; cpu++)
        smp_run(cpu, poke_caller, 0);
    for (unsigned i = 1; i <= 40; i++) {
        code[0] = 0xcc;
        call_others();
        for (unsigned b = 0; b < 4; b++) /* byte by byte: nobody runs it */
            code[1 + b] = (uint8_t)(i >> 8 * b);
        call_others();
        code[0] = 0xb8;
        call_others();
        phase = i;
    }
    stop = 1;
    for (unsigned cpu = 1; cpu < nr; cpu++)
        smp_wait(cpu);
    EXPECT_EQ(wrong, 0, "INT3 and messages: nobody runs what is half changed or old");
}

int main(void)
{
    nr = smp_start();
    EXPECT_EQ(nr, 4, "number of CPUs");
    if (nr != 4)
        return 0;
    locked();
    order();
    shootdown();
    cross_modifying();
    code_by_many();
    poke();
    return 0;
}
