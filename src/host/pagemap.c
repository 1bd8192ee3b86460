/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which pages of a private mapping are the process's own, by /proc/self/pagemap (Linux: "pagemap,
 * from the userspace perspective"): those that are present or swapped out, and not a file's.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "host/host.h"

#define PM_FILE    BIT64(61) /* a file's page, or shared memory */
#define PM_SWAPPED BIT64(62)
#define PM_PRESENT BIT64(63)
#define ENTRIES    512

static bool is_own(uint64_t entry)
{
    return (entry & (PM_PRESENT | PM_SWAPPED)) && !(entry & PM_FILE);
}

/* How many entries were read from page `page` of the process on; 0: the host does not tell. */
static unsigned read_entries(int fd, uint64_t page, uint64_t nr, uint64_t *entries)
{
    size_t want = (size_t)MIN(nr, ENTRIES) * sizeof(*entries);
    ssize_t n = pread(fd, entries, want, (off_t)(page * sizeof(*entries)));

    return n < 0 ? 0 : (unsigned)((size_t)n / sizeof(*entries));
}

/* The first page of nr whose being own is `own`; nr: none. UINT64_MAX: the host does not tell. */
static uint64_t find(int fd, uint64_t page, uint64_t nr, bool own)
{
    uint64_t entries[ENTRIES];

    for (uint64_t done = 0; done < nr;) {
        unsigned n = read_entries(fd, page + done, nr - done, entries);

        if (!n)
            return UINT64_MAX;
        for (unsigned i = 0; i < n; i++)
            if (is_own(entries[i]) == own)
                return done + i;
        done += n;
    }
    return nr;
}

bool host_own_next(const void *at, uint64_t bytes, uint64_t off_bytes, uint64_t *start,
                   uint64_t *end)
{
    uint64_t first = (uintptr_t)at >> PAGE_SHIFT, nr = bytes >> PAGE_SHIFT;
    uint64_t page = off_bytes >> PAGE_SHIFT, skip, run;
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

    *start = off_bytes;
    *end = bytes;
    if (off_bytes >= bytes || fd < 0) {
        if (fd >= 0)
            (void)close(fd);
        return off_bytes < bytes;
    }
    skip = find(fd, first + page, nr - page, true);
    run = skip < nr - page ? find(fd, first + page + skip, nr - page - skip, false) : 0;
    (void)close(fd);
    if (skip == UINT64_MAX || run == UINT64_MAX)
        return true;
    *start = (page + skip) << PAGE_SHIFT;
    *end = (page + skip + run) << PAGE_SHIFT;
    return run;
}

int host_dup(int fd)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

    return copy < 0 ? -errno : copy;
}
