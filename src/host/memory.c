/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host memory: memfds for guest RAM and ROM, shared mappings of them, and code buffers that are
 * writable at one address and executable at another. Called by mmu and by the engines.
 */
#include "host/host.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_PAGE_BYTES MIB(2)

void host_heap_setup(void)
{
    /* Cannot fail for this value; a hint all the same. */
    (void)mallopt(M_ARENA_MAX, 2);
}

void host_heap_trim(void)
{
    (void)malloc_trim(0); /* whether there was anything */
}

int host_memfd(const char *name, uint64_t bytes)
{
    int fd, err;

    if (bytes > INT64_MAX)
        return -EFBIG;
    fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    /* Sealed, so that no holder of the descriptor can make our mapping fault by shrinking the file.
     */
    if (ftruncate(fd, (off_t)bytes) || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW)) {
        err = errno;
        (void)close(fd);
        return -err;
    }
    return fd;
}

void host_close(int fd)
{
    /* A memfd has nothing to flush: close() cannot lose data. */
    (void)close(fd);
}

int host_punch(int fd, uint64_t off_bytes, uint64_t bytes)
{
    int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

    return fallocate(fd, mode, (off_t)off_bytes, (off_t)bytes) < 0 ? -errno : 0;
}

int host_sync(int fd)
{
    return fdatasync(fd) < 0 ? -errno : 0;
}

int host_read_at(int fd, void *buf, uint64_t bytes, uint64_t off_bytes)
{
    for (uint64_t done = 0; done < bytes;) {
        ssize_t n = pread(fd, (uint8_t *)buf + done, bytes - done, (off_t)(off_bytes + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -ENODATA;
        done += (uint64_t)n;
    }
    return 0;
}

bool host_data_next(int fd, uint64_t off_bytes, uint64_t *start, uint64_t *end)
{
    off_t from = lseek(fd, (off_t)off_bytes, SEEK_DATA), to;

    if (from < 0)
        return false;
    to = lseek(fd, from, SEEK_HOLE);
    *start = (uint64_t)from;
    *end = to < 0 ? off_bytes : (uint64_t)to;
    return to >= 0;
}

/*
 * Finds room where addresses and file offsets agree modulo 2 MB: only then can huge pages of the
 * file be mapped as such. Returns the start of a reservation of exactly `bytes`, or NULL.
 */
static uint8_t *reserve_aligned(uint64_t off_bytes, uint64_t bytes)
{
    uint64_t room = bytes + HUGE_PAGE_BYTES, head, tail;
    uint8_t *p;

    if (room < bytes)
        return errno = ENOMEM, NULL;
    p = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    head = (off_bytes - (uintptr_t)p) & (HUGE_PAGE_BYTES - 1);
    tail = HUGE_PAGE_BYTES - head;
    if (head)
        (void)munmap(p, head); /* failing leaves an unused reservation, no harm */
    if (tail)
        (void)munmap(p + head + bytes, tail);
    return p + head;
}

void *host_map_fd(int fd, uint64_t off_bytes, uint64_t bytes)
{
    uint8_t *at = reserve_aligned(off_bytes, bytes);
    void *p;
    int err;

    if (!at)
        return NULL;
    p = mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, (off_t)off_bytes);
    if (p == MAP_FAILED) {
        err = errno;
        (void)munmap(at, bytes);
        errno = err;
        return NULL;
    }
    /* A wish: hosts without huge pages for shared memory refuse it, and all works as well with
     * small ones. */
    (void)madvise(p, bytes, MADV_HUGEPAGE);
    /* Guest memory in a core dump would be large and somebody else's secret. */
    (void)madvise(p, bytes, MADV_DONTDUMP);
    return p;
}

static void *own_pages(uint64_t bytes, int flags)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);

    if (p == MAP_FAILED)
        return NULL;
    /* With some hundred MB of them a fork() took 20 ms, and each page faulted once more behind it.
     * Should it not work, that is all. */
    (void)madvise(p, bytes, MADV_DONTFORK);
    return p;
}

void *host_map_private(int fd, uint64_t off_bytes, uint64_t bytes)
{
    /* NORESERVE: as with shared memory, who makes machines of more memory than there is knows. */
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd,
                   (off_t)off_bytes);

    if (p == MAP_FAILED)
        return NULL;
    (void)madvise(p, bytes, MADV_DONTDUMP);
    return p;
}

int host_map_over(void *at, int fd, uint64_t off_bytes, uint64_t bytes)
{
    void *p = mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, (off_t)off_bytes);

    if (p == MAP_FAILED)
        return -errno;
    (void)madvise(p, bytes, MADV_HUGEPAGE);
    (void)madvise(p, bytes, MADV_DONTDUMP);
    return 0;
}

int host_map_zero(void *at, uint64_t bytes)
{
    void *p = mmap(at, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);

    if (p == MAP_FAILED)
        return -errno;
    (void)madvise(p, bytes, MADV_DONTDUMP);
    return 0;
}

void *host_pages(uint64_t bytes)
{
    return own_pages(bytes, 0);
}

void *host_pages_low(uint64_t bytes)
{
    void *p = own_pages(bytes, MAP_32BIT);

    return p ? p : host_pages(bytes);
}

void *host_pages_grow(void *p, uint64_t bytes, uint64_t to_bytes)
{
    void *q;

    if (!p)
        return host_pages(to_bytes);
    q = mremap(p, bytes, to_bytes, MREMAP_MAYMOVE);
    return q == MAP_FAILED ? NULL : q;
}

static void zero(uint8_t *p, uint64_t bytes, int advice)
{
    uint8_t *first = (uint8_t *)align_up((uintptr_t)p, PAGE_BYTES);
    uint8_t *end = (uint8_t *)align_down((uintptr_t)p + bytes, PAGE_BYTES);

    if (first >= end || madvise(first, (size_t)(end - first), advice)) {
        memset(p, 0, bytes);
        return;
    }
    memset(p, 0, (size_t)(first - p));
    memset(end, 0, (size_t)(p + bytes - end));
}

void host_zero(void *p, uint64_t bytes)
{
    zero(p, bytes, MADV_DONTNEED);
}

void host_code_zero(struct host_code *hc, uint64_t off_bytes, uint64_t bytes)
{
    zero(hc->rw + off_bytes, bytes, MADV_REMOVE);
}

void host_unmap(void *p, uint64_t bytes)
{
    if (p)
        BUG_ON(munmap(p, bytes) && errno == EINVAL);
}

/* Not a memfd: perf looks into /tmp/perf-PID.map only for what it sees as memory without a file. */
int host_code_create(struct host_code *hc, uint64_t bytes)
{
    void *rw, *rx;
    int err;

    *hc = (struct host_code){ 0 };
    bytes = align_up(bytes, PAGE_BYTES);
    rw = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1,
              0);
    if (rw == MAP_FAILED)
        return -errno;
    rx = mremap(rw, 0, bytes, MREMAP_MAYMOVE); /* old size 0: a second mapping of the same */
    if (rx == MAP_FAILED) {
        err = errno;
        (void)munmap(rw, bytes);
        return -err;
    }
    if (mprotect(rx, bytes, PROT_READ | PROT_EXEC)) {
        err = errno;
        (void)munmap(rx, bytes);
        (void)munmap(rw, bytes);
        return -err;
    }
    *hc = (struct host_code){ .rw = rw, .rx = rx, .bytes = bytes };
    return 0;
}

void host_code_destroy(struct host_code *hc)
{
    if (!hc->rw)
        return;
    (void)munmap(hc->rw, hc->bytes);
    (void)munmap((void *)hc->rx, hc->bytes);
    *hc = (struct host_code){ 0 };
}
