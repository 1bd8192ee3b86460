/* SPDX-License-Identifier: Apache-2.0 */
/* --memory, --cpus and --paravirt: how large the machine is, and what of the host it gets and
 * knows. */
#include <stdio.h>
#include <string.h>
#include <sys/sysinfo.h>

#include "cli/cli.h"
#include "lib/log.h"

#define MEMORY_MIN MIB(1)
#define CPUS_MAX   64
#define WEIGHT_MAX 10000

/* All the host has, in use or not: more can never be backed. */
static uint64_t host_memory_bytes(void)
{
    struct sysinfo si;

    if (sysinfo(&si) < 0)
        return UINT64_MAX;
    return ((uint64_t)si.totalram + si.totalswap) * si.mem_unit;
}

bool option_memory(void *into, const char *val)
{
    uint64_t bytes, host = host_memory_bytes();

    if (!value_size(val, &bytes)) {
        log_error("--memory '%s' is not a size: a whole number with K, M or G, such as 512M", val);
        return false;
    }
    if (bytes < MEMORY_MIN) {
        log_error("--memory %s is %llu bytes; a machine has at least 1M%s", val,
                  (unsigned long long)bytes,
                  strpbrk(val, "KkMmGgTt") ? "" : " (a number without suffix means bytes)");
        return false;
    }
    if (bytes % PAGE_BYTES) {
        log_error("--memory %s is not a multiple of 4K", val);
        return false;
    }
    if (bytes > host) {
        log_error("--memory %s is more than this host's memory and swap together (%lluM)", val,
                  (unsigned long long)(host >> 20));
        return false;
    }
    ((struct run_options *)into)->memory_bytes = bytes;
    return true;
}

/* pin=FIRST or FIRST-LAST */
static bool set_pin(struct run_options *o, const char *val)
{
    char first[24], *dash;
    uint64_t lo, hi;

    (void)snprintf(first, sizeof(first), "%s", val);
    dash = strchr(first, '-');
    if (dash)
        *dash++ = 0;
    if (!value_uint(first, 0, HOST_CPUS_MAX - 1, &lo) ||
        !value_uint(dash ? dash : first, lo, HOST_CPUS_MAX - 1, &hi)) {
        log_error("--cpus pin=%s is not a range of host CPUs, such as 0-3", val);
        return false;
    }
    o->sched.first = (unsigned)lo;
    o->sched.nr = (unsigned)(hi - lo + 1);
    if (!host_cpus_usable(o->sched.first, o->sched.nr)) {
        log_error("--cpus pin=%s: this process may use none of these CPUs of the host", val);
        return false;
    }
    return true;
}

static bool set_cpus_part(struct run_options *o, const char *part)
{
    uint64_t weight;

    if (!strncmp(part, "pin=", 4))
        return set_pin(o, part + 4);
    if (strncmp(part, "weight=", 7) != 0) {
        log_error("--cpus: '%s' is neither pin=FIRST-LAST nor weight=W", part);
        return false;
    }
    if (!value_uint(part + 7, 1, WEIGHT_MAX, &weight)) {
        log_error("--cpus weight='%s' is not a number from 1 to %d (100: like any other program)",
                  part + 7, WEIGHT_MAX);
        return false;
    }
    o->sched.weight = (unsigned)weight;
    return true;
}

bool option_paravirt(void *into, const char *val)
{
    if (strcmp(val, "kvm") != 0 && strcmp(val, "off") != 0) {
        log_error("--paravirt '%s' is neither kvm nor off", val);
        return false;
    }
    ((struct run_options *)into)->no_paravirt = !strcmp(val, "off");
    return true;
}

bool option_cpus(void *into, const char *val)
{
    struct run_options *o = into;
    char text[96], *part, *next;
    uint64_t nr;

    if ((size_t)snprintf(text, sizeof(text), "%s", val) >= sizeof(text)) {
        log_error("--cpus '%.40s...' is too long", val);
        return false;
    }
    next = strchr(text, ',');
    if (next)
        *next++ = 0;
    if (!value_uint(text, 1, CPUS_MAX, &nr)) {
        log_error("--cpus '%s' is not a number from 1 to %d", text, CPUS_MAX);
        return false;
    }
    o->nr_cpus = (uint32_t)nr;
    while ((part = next)) {
        next = strchr(part, ',');
        if (next)
            *next++ = 0;
        if (!set_cpus_part(o, part))
            return false;
    }
    return true;
}
