/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's clocks, the frequency of its TSC, and its random numbers.
 *
 * A VM's clock runs on the host's TSC when that is invariant, so the frequency should be the one
 * the host kernel itself uses. It is taken from the first source that has it: CPUID, the hypervisor
 * below us, the kernel (through perf's mmap page), a measurement.
 */
#include "host/host.h"

#include <cpuid.h>
#include <errno.h>
#include <linux/perf_event.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S  1000000000ull
#define NS_PER_MS 1000000ull

/* CPUID leaves; the hypervisor's are a common convention, not Intel's. */
#define LEAF_TSC_RATIO 0x15u
#define LEAF_HV        0x40000000u
#define LEAF_HV_TIMING 0x40000010u
#define LEAF_POWER     0x80000007u

static uint64_t read_clock(clockid_t id)
{
    struct timespec ts;

    BUG_ON(clock_gettime(id, &ts));
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

uint64_t host_mono_ns(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

uint64_t host_real_ns(void)
{
    return read_clock(CLOCK_REALTIME);
}

/* SDM 3, "Invariant TSC". */
static bool has_invariant_tsc(void)
{
    unsigned a, b, c, d;

    return __get_cpuid(LEAF_POWER, &a, &b, &c, &d) && (d & BIT(8));
}

/* SDM 2, CPUID leaf 15H: TSC = crystal * EBX / EAX. Many processors do not tell the crystal's
 * frequency. */
static uint64_t khz_from_cpuid(void)
{
    unsigned a, b, c, d;

    if (!__get_cpuid(LEAF_TSC_RATIO, &a, &b, &c, &d) || !a || !b || !c)
        return 0;
    return (uint64_t)c * b / a / 1000;
}

static uint64_t khz_from_hypervisor(void)
{
    unsigned a, b, c, d;

    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & BIT(31)))
        return 0;
    __cpuid(LEAF_HV, a, b, c, d);
    if (a < LEAF_HV_TIMING || a > LEAF_HV + 0xffff)
        return 0;
    __cpuid(LEAF_HV_TIMING, a, b, c, d);
    return a;
}

/* The kernel tells perf's users how it turns TSC ticks into ns: ns = ticks * time_mult >>
 * time_shift. */
static uint64_t khz_from_perf(void)
{
    struct perf_event_attr attr = { .type = PERF_TYPE_SOFTWARE,
                                    .size = sizeof(attr),
                                    .config = PERF_COUNT_SW_DUMMY,
                                    .exclude_kernel = 1,
                                    .exclude_hv = 1 };
    struct perf_event_mmap_page *pg;
    uint64_t khz = 0;
    int fd = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);

    if (fd < 0)
        return 0;
    pg = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    if (pg != MAP_FAILED) {
        if (pg->cap_user_time && pg->time_mult && pg->time_shift < 64)
            khz = (uint64_t)(((unsigned __int128)NS_PER_MS << pg->time_shift) / pg->time_mult);
        (void)munmap(pg, PAGE_BYTES);
    }
    (void)close(fd);
    return khz;
}

struct sample {
    uint64_t tsc, raw_ns;
};

/* TSC and clock "at once": of several tries the one with the shortest time between its two TSC
 * reads. */
static struct sample take_sample(void)
{
    struct sample best = { 0 };
    uint64_t best_width = UINT64_MAX;

    for (unsigned i = 0; i < 16; i++) {
        uint64_t before = host_tsc(), ns = read_clock(CLOCK_MONOTONIC_RAW), after = host_tsc();

        if (after - before < best_width) {
            best_width = after - before;
            best = (struct sample){ .tsc = before + (after - before) / 2, .raw_ns = ns };
        }
    }
    return best;
}

/* Not steered by NTP, so it is the quartz that is measured. */
static uint64_t khz_measured(uint64_t for_ns)
{
    struct timespec nap = { .tv_nsec = (long)for_ns };
    struct sample from = take_sample(), to;

    (void)nanosleep(&nap, NULL); /* woken early: a shorter measurement, still a right one */
    to = take_sample();
    if (to.raw_ns <= from.raw_ns || to.tsc <= from.tsc)
        return 0;
    return (uint64_t)((unsigned __int128)(to.tsc - from.tsc) * NS_PER_MS /
                      (to.raw_ns - from.raw_ns));
}

uint64_t host_tsc_khz(void)
{
    static uint64_t (*const sources[])(void) = { khz_from_cpuid, khz_from_hypervisor,
                                                 khz_from_perf };
    uint64_t rough;

    if (!has_invariant_tsc())
        return 0;
    /* Hypervisors that scale the TSC do not always correct what CPUID says: believe only what is
     * within 1 %. */
    rough = khz_measured(2 * NS_PER_MS);
    for (unsigned i = 0; i < ARRAY_SIZE(sources); i++) {
        uint64_t khz = sources[i]();

        if (khz && khz >= rough - rough / 100 && khz <= rough + rough / 100)
            return khz;
    }
    return khz_measured(15 * NS_PER_MS);
}

void host_random(void *buf, size_t bytes)
{
    uint8_t *p = buf;

    while (bytes) {
        ssize_t n = getrandom(p, bytes, 0);

        BUG_ON(n < 0 && errno != EINTR); /* cannot fail otherwise: ENOSYS and EFAULT are our bugs */
        if (n > 0) {
            p += n;
            bytes -= (size_t)n;
        }
    }
}
