/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVM's paravirtual interface, as Linux uses it: clock, ends of interrupts, messages, kicks, steal
 * time, TLB flushes. Linux' Documentation/virt/kvm/x86. Runs with --cpus 4; with the argument "off"
 * under --paravirt off, with "few" where there is less than all.
 *
 * Nothing here depends on how fast the host is. The interface leaves its host much to choose: when
 * it offers an end of an interrupt in memory, whether clocks are the same on all CPUs, what it
 * refuses. What doppel itself makes is looked at exactly; where the host's kernel does it
 * (`by_kernel`), only what is promised.
 */
#include "smp.h"

#define LEAF          0x40000000u
#define MSR_WALL_OLD  0x11u
#define MSR_CLOCK_OLD 0x12u
#define MSR_WALL      0x4b564d00u
#define MSR_CLOCK     0x4b564d01u
#define MSR_STEAL     0x4b564d03u
#define MSR_EOI       0x4b564d04u
#define MSR_ADJUST    0x3bu

#define HC_KICK     5
#define HC_SEND_IPI 10
#define HC_YIELD    11
#define HC_NONE     99
#define EPERM       1
#define EINVAL      22
#define ENOSYS      1000

/* Of leaf 40000001h. */
#define WANTED     (1u << 0 | 1u << 3 | 1u << 6 | 1u << 24)
#define WANTED_SMP (1u << 5 | PV_UNHALT | 1u << 9 | PV_IPI | PV_YIELD)
#define PV_UNHALT  (1u << 7)
#define PV_IPI     (1u << 11)
#define PV_YIELD   (1u << 13)

#define VEC_A     0x51u
#define VEC_B     0x61u
#define VEC_FLUSH 0x71u

#define ROUNDS     2000
#define FLUSHES_MS 10000 /* at most; a busy host needs milliseconds for each */

struct clock {
    volatile uint32_t version;
    uint32_t pad;
    volatile uint64_t tsc, system_ns;
    volatile uint32_t mul;
    volatile int8_t shift;
    volatile uint8_t flags;
    uint8_t pad2[2];
};

struct wall {
    volatile uint32_t version, sec, nsec;
};

struct steal {
    volatile uint64_t ns;
    volatile uint32_t version, flags;
    volatile uint8_t preempted;
    uint8_t pad[47];
};

static unsigned nr;
static bool by_kernel;
static unsigned features;
static struct clock clocks[SMP_MAX] __attribute__((aligned(64)));
static struct steal steals[SMP_MAX] __attribute__((aligned(64)));
static struct wall wall;
static volatile uint32_t eoi_word;

static word_t hypercall(word_t call, word_t a, word_t b, word_t c, word_t d)
{
    word_t r = call;

    /* One of the two is the processor's own; the other one works as well. */
    if (a & 1)
        asm volatile("vmcall" : "+a"(r) : "b"(a), "c"(b), "d"(c), "S"(d) : "memory");
    else
        asm volatile("vmmcall" : "+a"(r) : "b"(a), "c"(b), "d"(c), "S"(d) : "memory");
    return r;
}

static word_t do_wrmsr(word_t msr, word_t val)
{
    wrmsr((uint32_t)msr, val);
    return 0;
}

static word_t do_rdmsr(word_t msr, word_t none)
{
    (void)none;
    return rdmsr((uint32_t)msr);
}

static word_t do_hypercall(word_t call, word_t a)
{
    return hypercall(call, a, 0, 0, 0);
}

/* ---- what is offered ---- */

static bool has_kvm(void)
{
    struct cpuid id = cpuid(LEAF, 0);

    return id.b == 0x4b4d564b && id.c == 0x564b4d56 && id.d == 0x4d;
}

static void offered(void)
{
    EXPECT(cpuid(LEAF, 0).a >= LEAF + 1, "the leaf of features is there");
    EXPECT_EQ(cpuid(LEAF + 1, 0).a & WANTED, WANTED, "what this guest uses is offered");
    EXPECT_EQ(hypercall(HC_NONE, 0, 0, 0, 0), (word_t)-ENOSYS, "an unknown hypercall, VMMCALL");
    EXPECT_EQ(hypercall(HC_NONE, 1, 0, 0, 0), (word_t)-ENOSYS, "an unknown hypercall, VMCALL");
    struct trap t = try_user(do_hypercall, HC_NONE, 0);
    EXPECT_EQ(t.f.ax, (word_t)-EPERM, "no hypercalls for user code");
}

static void not_offered(void)
{
    EXPECT(!has_kvm(), "KVM's signature is not there");
    EXPECT_EQ(cpuid(LEAF + 1, 0).a, 0, "nor are features");
    static const struct {
        uint32_t msr;
        const char *name;
    } msrs[] = { { MSR_CLOCK, "clock" },      { MSR_CLOCK_OLD, "clock, the old one" },
                 { MSR_WALL, "date" },        { MSR_WALL_OLD, "date, the old one" },
                 { MSR_STEAL, "steal time" }, { MSR_EOI, "ends of interrupts" } };
    for (unsigned i = 0; i < sizeof(msrs) / sizeof(msrs[0]); i++) {
        struct trap t = try(do_wrmsr, msrs[i].msr, 0);
        EXPECT_TRAP(&t, VEC_GP, 0, "write of the MSR: %s", msrs[i].name);
        t = try(do_rdmsr, msrs[i].msr, 0);
        EXPECT_TRAP(&t, VEC_GP, 0, "read of the MSR: %s", msrs[i].name);
    }
    EXPECT_EQ(hypercall(HC_KICK, 0, 0, 0, 0), (word_t)-ENOSYS, "no kicks");
    EXPECT_EQ(hypercall(HC_SEND_IPI, 1, 0, 0, VEC_A), (word_t)-ENOSYS, "no messages");
    EXPECT_EQ(hypercall(HC_YIELD, 0, 0, 0, 0), (word_t)-ENOSYS, "no yielding");
}

/* ---- clock ---- */

static uint64_t clock_ns(const struct clock *k)
{
    uint32_t version;
    uint64_t ns;

    do {
        uint64_t ticks;

        version = k->version & ~1u;
        asm volatile("lfence" ::: "memory");
        ticks = rdtsc() - k->tsc;
        ticks = k->shift < 0 ? ticks >> -k->shift : ticks << k->shift;
        ns = k->system_ns + (uint64_t)((unsigned __int128)ticks * k->mul >> 32);
        asm volatile("lfence" ::: "memory");
    } while (version != k->version);
    return ns;
}

static void set_clock(unsigned cpu, word_t msr)
{
    wrmsr((uint32_t)msr, (word_t)&clocks[cpu] | 1);
}

static volatile unsigned lock, backwards;
static volatile uint64_t latest_ns;

/* Of this CPU's clock alone. */
static void watch_clock(unsigned cpu, word_t arg)
{
    uint64_t last = 0;

    (void)arg;
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t ns = clock_ns(&clocks[cpu]);

        if (ns < last)
            __atomic_add_fetch(&backwards, 1, __ATOMIC_RELAXED);
        last = ns;
    }
}

static void compare_clock(unsigned cpu, word_t arg)
{
    (void)arg;
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t ns;

        while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE))
            pause();
        ns = clock_ns(&clocks[cpu]);
        backwards += ns < latest_ns;
        latest_ns = ns;
        __atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
    }
}

/* The host says of all that they are the same. */
static bool stable(void)
{
    bool all = true;

    for (unsigned i = 0; i < nr; i++)
        all &= clocks[i].flags & 1;
    return all;
}

static void clock_by(uint32_t clock_msr, uint32_t wall_msr, const char *which)
{
    uint64_t ns;

    memset(clocks, 0, sizeof(clocks));
    memset(&wall, 0, sizeof(wall));
    smp_all(nr, set_clock, clock_msr);
    EXPECT(clocks[0].version && !(clocks[0].version & 1), "%s: the clock is written", which);
    if (!by_kernel)
        EXPECT(stable(), "%s: it is stable", which);
    EXPECT_EQ(rdmsr(clock_msr), (word_t)&clocks[0] | 1, "%s: the MSR says where", which);
    latest_ns = backwards = 0;
    smp_all(nr, watch_clock, 0);
    EXPECT_EQ(backwards, 0, "%s: never goes back", which);
    if (stable()) {
        smp_all(nr, compare_clock, 0);
        EXPECT_EQ(stable() ? backwards : 0, 0, "%s: never goes back, whoever looks", which);
    }
    wrmsr(wall_msr, (word_t)&wall);
    EXPECT(wall.version && !(wall.version & 1) && wall.nsec < 1000000000 && wall.sec > 1700000000,
           "%s: the date of its 0 is some time in this century", which);
    ns = clock_ns(&clocks[0]);
    wrmsr(MSR_ADJUST, rdmsr(MSR_ADJUST) + (1ull << 44));
    EXPECT(clock_ns(&clocks[0]) - ns < 1000000000000ull, "%s: a moved TSC does not move it", which);
    if (nr > 1)
        EXPECT_EQ(clocks[0].flags & 1, 0, "%s: but then TSCs are not the same", which);
    wrmsr(MSR_ADJUST, rdmsr(MSR_ADJUST) - (1ull << 44));
    EXPECT(clock_ns(&clocks[0]) - ns < 1000000000000ull, "%s: nor does one that is back", which);
    if (by_kernel)
        return;
    EXPECT_EQ(clocks[0].flags & 1, 1, "%s: they are again", which);
    for (unsigned i = 0; i < nr; i++)
        EXPECT(clocks[i].mul == clocks[0].mul && clocks[i].tsc == clocks[0].tsc &&
                   clocks[i].system_ns == clocks[0].system_ns,
               "%s: CPU %u has the same clock as the first", which, i);
}

static void stop_clock(unsigned cpu, word_t arg)
{
    (void)cpu, (void)arg;
    wrmsr(MSR_CLOCK, 0);
}

/* ---- ends of interrupts ---- */

static volatile unsigned seen[SMP_MAX][256], offers, by_register;
static volatile bool nest;

static void end(void)
{
    if (__atomic_fetch_and(&eoi_word, ~1u, __ATOMIC_SEQ_CST) & 1) {
        offers++;
        return;
    }
    by_register++;
    apic_write(APIC_EOI, 0);
}

static void on_end(struct frame *f)
{
    seen[0][f->vec]++;
    if (nest && f->vec == VEC_A) {
        apic_write(APIC_ICR, 1u << 18 | VEC_B);
        sti(); /* B comes here */
        while (!seen[0][VEC_B])
            pause();
        cli();
    }
    end();
}

static unsigned in_service(void)
{
    unsigned any = 0;

    for (unsigned i = 0; i < 8; i++)
        any |= apic_read(0x100 + 16 * i);
    return any;
}

static void begin_ends(void)
{
    seen[0][VEC_A] = seen[0][VEC_B] = offers = by_register = 0;
}

static void send_self(unsigned vec)
{
    unsigned before = seen[0][vec];

    apic_write(APIC_ICR, 1u << 18 | vec);
    sti();
    while (seen[0][vec] == before)
        pause();
    cli();
}

static void ends(void)
{
    trap_handle(VEC_A, on_end);
    trap_handle(VEC_B, on_end);
    wrmsr(MSR_EOI, (word_t)&eoi_word | 1);
    begin_ends();
    for (unsigned i = 0; i < 100; i++)
        send_self(VEC_A);
    if (!by_kernel)
        EXPECT_EQ(offers, 100, "single interrupts end in memory");
    EXPECT_EQ(offers + by_register, 100, "each interrupt ends once");
    EXPECT_EQ(in_service(), 0, "and have ended");
    begin_ends();
    apic_write(APIC_ICR, 1u << 18 | VEC_A);
    send_self(VEC_B);
    sti();
    while (!seen[0][VEC_A])
        pause();
    cli();
    EXPECT_EQ(seen[0][VEC_A] + seen[0][VEC_B], 2, "two that wait both come");
    if (!by_kernel)
        EXPECT(offers == 1 && by_register == 1, "the first of two ends by the register");
    EXPECT_EQ(in_service(), 0, "both have ended");
    begin_ends();
    nest = true;
    send_self(VEC_A);
    nest = false;
    EXPECT_EQ(seen[0][VEC_B], 1, "one in the other's handler");
    if (!by_kernel)
        EXPECT(offers == 1 && by_register == 1, "one of them ends in memory");
    EXPECT_EQ(in_service(), 0, "both have ended");
    wrmsr(MSR_EOI, 0);
    begin_ends();
    send_self(VEC_A);
    EXPECT_EQ(by_register, 1, "switched off, all end by the register");
    struct trap t = try(do_wrmsr, MSR_EOI, ((word_t)&eoi_word | 1) + 2);
    EXPECT_TRAP(&t, VEC_GP, 0, "an address that is no multiple of 4");
}

/* ---- messages ---- */

static void on_vector(struct frame *f)
{
    seen[smp_cpu()][f->vec]++;
    if (f->vec != VEC_NMI)
        apic_write(APIC_EOI, 0);
}

/* Waits until those of `cpus` have it, takes it back, and returns who has got it at all. */
static unsigned got(unsigned vec, unsigned cpus)
{
    unsigned who = 0;

    sti();
    for (unsigned i = 0; i < nr; i++)
        while ((cpus >> i & 1) && !seen[i][vec])
            pause();
    cli();
    for (unsigned i = 0; i < nr; i++) {
        who |= seen[i][vec] ? 1u << i : 0;
        seen[i][vec] = 0;
    }
    return who;
}

static void messages(void)
{
    unsigned all = (1u << nr) - 1;

    if (!(features & PV_IPI)) {
        EXPECT_EQ(hypercall(HC_SEND_IPI, 1, 0, 0, VEC_A), (word_t)-ENOSYS, "no messages");
        return;
    }
    trap_handle(VEC_A, on_vector);
    trap_handle(VEC_NMI, on_vector);
    memset((void *)seen, 0, sizeof(seen));
    EXPECT_EQ(hypercall(HC_SEND_IPI, 0xa & all, 0, 0, VEC_A), 2, "to CPUs 1 and 3: two");
    EXPECT_EQ(got(VEC_A, 0xa & all), 0xa & all, "they have it");
    EXPECT_EQ(hypercall(HC_SEND_IPI, 0x3, 0, 1, VEC_A), 2, "to two, counted from 1");
    EXPECT_EQ(got(VEC_A, 6), 6, "they have it");
    EXPECT_EQ(hypercall(HC_SEND_IPI, ~0ull, ~0ull, 0, VEC_A), nr, "to all of 128");
    EXPECT_EQ(got(VEC_A, all), all, "all have it");
    EXPECT_EQ(hypercall(HC_SEND_IPI, 0, ~0ull, 0, VEC_A), 0, "to nobody");
    EXPECT_EQ(hypercall(HC_SEND_IPI, ~0ull, ~0ull, 0xfffffff0, VEC_A), 0, "to nobody, far off");
    EXPECT_EQ(hypercall(HC_SEND_IPI, 6, 0, 0, 4 << 8), 2, "NMI to two");
    EXPECT_EQ(got(VEC_NMI, 6), 6, "they have it");
    EXPECT_EQ(hypercall(HC_SEND_IPI, 6, 0, 0, 3 << 18 | VEC_A), (word_t)-EINVAL, "no shorthands");
    if (!by_kernel) { /* Linux sends both */
        EXPECT_EQ(hypercall(HC_SEND_IPI, 6, 0, 0, 5 << 8), (word_t)-EINVAL, "no INIT");
        EXPECT_EQ(hypercall(HC_SEND_IPI, 6, 0, 0, 15), (word_t)-EINVAL, "no vector 15");
    }
    EXPECT_EQ(got(VEC_A, 0), 0, "nobody heard of these");
}

/* ---- kicks ---- */

static volatile unsigned step, passed;

static void deaf(unsigned cpu, word_t times)
{
    (void)cpu;
    cli();
    for (unsigned i = 0; i < times; i++) {
        step = i + 1;
        asm volatile("hlt" ::: "memory");
        passed = i + 1;
    }
    sti();
}

static void late(unsigned cpu, word_t arg)
{
    (void)cpu, (void)arg;
    cli();
    step = 1;
    while (step == 1)
        pause();
    asm volatile("hlt" ::: "memory"); /* the kick came before */
    passed = 1;
    sti();
}

static void kicks(void)
{
    if (!(features & PV_UNHALT)) {
        EXPECT_EQ(hypercall(HC_KICK, 0, 1, 0, 0), (word_t)-ENOSYS, "no kicks");
        return;
    }
    step = passed = 0;
    smp_run(1, deaf, 50);
    for (unsigned i = 0; i < 50; i++) {
        while (step < i + 1)
            pause();
        (void)hypercall(HC_KICK, i & 1, 1, 0, 0);
        while (passed < i + 1)
            pause();
    }
    smp_wait(1);
    EXPECT_EQ(passed, 50, "each kick lets one HLT pass, interrupts off");
    step = passed = 0;
    smp_run(1, late, 0);
    while (!step)
        pause();
    EXPECT_EQ(hypercall(HC_KICK, 0, 1, 0, 0), 0, "a kick before");
    step = 2;
    smp_wait(1);
    EXPECT_EQ(passed, 1, "HLT passes");
    EXPECT_EQ(hypercall(HC_KICK, 0, 1000, 0, 0), 0, "a kick to nobody");
}

/* ---- steal time, and flushes that wait in it ---- */

static void set_steal(unsigned cpu, word_t on)
{
    wrmsr(MSR_STEAL, on ? (word_t)&steals[cpu] | 1 : 0);
}

static PAGE_ALIGNED volatile uint32_t pages[2][PAGE_BYTES / 4];
static volatile unsigned reads, value;
static volatile bool stop_reading;
#define WINDOW ((volatile uint32_t *)0x7f0000000000)

static void on_flush(struct frame *f)
{
    (void)f;
    invlpg((const void *)WINDOW);
    seen[smp_cpu()][VEC_FLUSH]++;
    apic_write(APIC_EOI, 0);
}

static void read_window(unsigned cpu, word_t arg)
{
    (void)cpu, (void)arg;
    while (!stop_reading) {
        value = *WINDOW;
        reads++;
        pause();
    }
}

static void await_reads(void)
{
    unsigned from = reads;

    while (reads - from < 2)
        pause();
}

static void flushes(void)
{
    uint64_t end = rdtsc() + FLUSHES_MS * tsc_per_ms();
    unsigned left = 0, wrong = 0;
    uint8_t was;

    trap_handle(VEC_FLUSH, on_flush);
    pages[0][0] = 1000;
    pages[1][0] = 1001;
    page_set((uint64_t)WINDOW, 1, (word_t)&pages[0] | 3);
    stop_reading = false;
    smp_run(1, read_window, 0);
    await_reads();
    for (unsigned i = 1; i < 20 * ROUNDS && left < 20 && rdtsc() < end; i++) {
        *page_entry((uint64_t)WINDOW, 1) = (word_t)&pages[i & 1] | 3;
        for (unsigned tries = 0; tries < 1000; tries++) {
            was = 1;
            if (__atomic_compare_exchange_n(&steals[1].preempted, &was, 3, false, __ATOMIC_SEQ_CST,
                                            __ATOMIC_SEQ_CST))
                break;
            was = 0;
        }
        if (was) {
            left++;
            while (steals[1].preempted)
                pause();
        } else {
            unsigned before = seen[1][VEC_FLUSH];

            if (features & PV_IPI)
                (void)hypercall(HC_SEND_IPI, 2, 0, 0, VEC_FLUSH);
            else
                smp_send(1, VEC_FLUSH);
            while (seen[1][VEC_FLUSH] == before)
                pause();
        }
        await_reads();
        wrong += value != 1000 + (i & 1);
    }
    stop_reading = true;
    smp_wait(1);
    EXPECT_EQ(wrong, 0, "what was mapped last is seen, whichever way the flush went");
    if (left)
        EXPECT(true, "flushes were left with a CPU that did not run");
    else
        skip("CPU 1 was never seen to give its processor away", "flushes left with it");
}

static void steal(void)
{
    uint64_t from = rdtsc();
    bool more = true, odd = false, failed = false;
    uint64_t first, last;
    word_t yielded = features & PV_YIELD ? 0 : (word_t)-ENOSYS;

    /* It should be 0 before; here it need not be. */
    memset(steals, by_kernel ? 0 : 0xff, sizeof(steals));
    for (unsigned i = 0; i < nr; i++)
        steals[i].version = 0;
    smp_all(nr, set_steal, 1);
    /* A kernel may count from when it made the CPU. */
    if (!by_kernel)
        EXPECT(steals[0].ns <= ((rdtsc() - from) / tsc_per_ms() + 1) * 1000000,
               "none of what was before");
    EXPECT(steals[0].version && !(steals[0].version & 1), "it is written");
    first = last = steals[0].ns;
    EXPECT_EQ(steals[0].preempted, 0, "a CPU that looks is running");
    for (unsigned i = 0; i < 1000; i++) {
        more &= steals[0].ns >= last;
        odd |= steals[0].version & 1;
        last = steals[0].ns;
        failed |= hypercall(HC_YIELD, 1, 0, 0, 0) != yielded || steals[0].preempted;
    }
    EXPECT(!failed, "a CPU that has yielded is running again");
    EXPECT(more && !odd, "it grows, and is never seen half written by its own CPU");
    EXPECT(last - first <= (rdtsc() - from) / tsc_per_ms() * 1000000 + 1000000000,
           "not more than time");
    flushes();
    smp_all(nr, set_steal, 0);
    struct trap t = try(do_wrmsr, MSR_STEAL, (word_t)&steals[0] | 0x21);
    EXPECT_TRAP(&t, VEC_GP, 0, "an address that is no multiple of 64");
}

int main(void)
{
    by_kernel = str_has(boot_args(), "nested-in-tcg"); /* by tests/kvm, for whatever runs there */
    if (str_has(boot_args(), "off")) {
        not_offered();
        return 0;
    }
    if (!has_kvm()) {
        skip("no KVM here", "paravirtual interface");
        return 0;
    }
    nr = smp_start();
    offered();
    clock_by(MSR_CLOCK, MSR_WALL, "clock");
    clock_by(MSR_CLOCK_OLD, MSR_WALL_OLD, "clock by the old MSRs");
    smp_all(nr, stop_clock, 0);
    ends();
    if (nr < 4) {
        skip("needs --cpus 4", "messages, kicks, steal time"); /* lock-step has one */
        return 0;
    }
    features = cpuid(LEAF + 1, 0).a;
    if (!str_has(boot_args(), "few"))
        EXPECT_EQ(features & WANTED_SMP, WANTED_SMP, "what several CPUs use is offered");
    messages();
    kicks();
    steal();
    return 0;
}
