/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which guest memory is taken while a kernel is loaded, and copying into it.
 */

#include "boot/load.h"
#include "lib/log.h"

static const uint8_t zero_page[PAGE_BYTES];

/* Is [at, at + bytes) inside one range of RAM? bytes > 0. */
static bool span_in_ram(const struct boot_map *map, uint64_t at, uint64_t bytes)
{
    for (unsigned i = 0; i < map->nr; i++) {
        const struct e820_entry *e = &map->e[i];

        if (e->type == E820_RAM && at >= e->base && at - e->base < e->bytes &&
            bytes <= e->bytes - (at - e->base))
            return true;
    }
    return false;
}

/* The first claimed span that meets [at, at + bytes), which does not wrap. */
static const struct span *span_taken(const struct loader *ld, uint64_t at, uint64_t bytes)
{
    for (unsigned i = 0; i < ld->nr_used; i++) {
        const struct span *s = &ld->used[i];

        if (at < s->at + s->bytes && s->at < at + bytes)
            return s;
    }
    return NULL;
}

bool load_is_free(const struct loader *ld, uint64_t at, uint64_t bytes)
{
    return bytes && span_in_ram(ld->map, at, bytes) && !span_taken(ld, at, bytes);
}

int load_claim(struct loader *ld, const char *what, uint64_t at, uint64_t bytes)
{
    const struct span *s;

    if (!bytes)
        return 0;
    if (!span_in_ram(ld->map, at, bytes)) {
        log_error("'%s': %s (%#llx bytes at %#llx) is not in the guest's RAM: give it more memory "
                  "or a kernel linked elsewhere",
                  ld->kernel->path, what, (unsigned long long)bytes, (unsigned long long)at);
        return -ENOEXEC;
    }
    s = span_taken(ld, at, bytes);
    if (s) {
        log_error("'%s': %s (%#llx bytes at %#llx) overlaps the %s (%#llx bytes at %#llx)",
                  ld->kernel->path, what, (unsigned long long)bytes, (unsigned long long)at,
                  s->what, (unsigned long long)s->bytes, (unsigned long long)s->at);
        return -ENOEXEC;
    }
    if (ld->nr_used == LOAD_SPANS_MAX)
        return image_refuse(ld->kernel, "it has more than %u parts to load", LOAD_SPANS_MAX);
    ld->used[ld->nr_used++] = (struct span){ .at = at, .bytes = bytes, .what = what };
    return 0;
}

/* The highest free place in [lo, hi), going down past what is claimed. */
static bool high_in_range(const struct loader *ld, const struct span *r, uint64_t bytes,
                          uint64_t align, uint64_t *at)
{
    uint64_t hi = r->at + r->bytes;
    const struct span *s;

    while (hi >= bytes && align_down(hi - bytes, align) >= r->at) {
        *at = align_down(hi - bytes, align);
        s = span_taken(ld, *at, bytes);
        if (!s)
            return true;
        hi = s->at;
    }
    return false;
}

static bool low_in_range(const struct loader *ld, const struct span *r, uint64_t bytes,
                         uint64_t align, uint64_t *at)
{
    uint64_t lo = align_up(r->at, align), end = r->at + r->bytes;
    const struct span *s;

    while (lo >= r->at && lo < end && bytes <= end - lo) {
        *at = lo;
        s = span_taken(ld, lo, bytes);
        if (!s)
            return true;
        lo = align_up(s->at + s->bytes, align);
    }
    return false;
}

/* RAM range i cut to `within`; false when nothing is left. */
static bool ram_within(const struct loader *ld, unsigned i, const struct span *within,
                       struct span *out)
{
    const struct e820_entry *e = &ld->map->e[i];
    uint64_t lo = MAX(e->base, within->at);
    uint64_t hi = MIN(e->base + e->bytes, within->at + within->bytes);

    if (e->type != E820_RAM || lo >= hi)
        return false;
    *out = (struct span){ .at = lo, .bytes = hi - lo };
    return true;
}

bool load_find_high(const struct loader *ld, const struct span *within, uint64_t bytes,
                    uint64_t align, uint64_t *at)
{
    struct span r;
    uint64_t here;
    bool found = false;

    for (unsigned i = 0; i < ld->map->nr; i++) {
        if (!ram_within(ld, i, within, &r) || !high_in_range(ld, &r, bytes, align, &here))
            continue;
        if (!found || here > *at)
            *at = here;
        found = true;
    }
    return found;
}

bool load_find_low(const struct loader *ld, const struct span *within, uint64_t bytes,
                   uint64_t align, uint64_t *at)
{
    struct span r;
    uint64_t here;
    bool found = false;

    for (unsigned i = 0; i < ld->map->nr; i++) {
        if (!ram_within(ld, i, within, &r) || !low_in_range(ld, &r, bytes, align, &here))
            continue;
        if (!found || here < *at)
            *at = here;
        found = true;
    }
    return found;
}

int load_put(struct loader *ld, uint64_t at, const void *buf, uint64_t bytes)
{
    if (mmu_write(ld->m, GPA(at), buf, bytes) == bytes)
        return 0;
    log_error("'%s': %#llx bytes at %#llx are not backed by guest memory", ld->kernel->path,
              (unsigned long long)bytes, (unsigned long long)at);
    return -EFAULT;
}

int load_zero(struct loader *ld, uint64_t at, uint64_t bytes)
{
    while (bytes) {
        uint64_t n = MIN(bytes, (uint64_t)sizeof(zero_page));
        int rc = load_put(ld, at, zero_page, n);

        if (rc < 0)
            return rc;
        at += n;
        bytes -= n;
    }
    return 0;
}

int load_module(struct loader *ld, const struct image *img, uint64_t end, uint64_t *at)
{
    const struct span within = { .at = BOOT_KERNEL_AT, .bytes = end - MIN(end, BOOT_KERNEL_AT) };
    int rc;

    if (!load_find_high(ld, &within, img->bytes, PAGE_BYTES, at)) {
        log_error(
            "initrd '%s' (%llu bytes) does not fit into the guest's memory below %#llx beside "
            "'%s': give the guest more memory",
            img->path, (unsigned long long)img->bytes, (unsigned long long)end, ld->kernel->path);
        return -ENOMEM;
    }
    rc = load_claim(ld, "initrd", *at, img->bytes);
    if (rc < 0)
        return rc;
    return load_put(ld, *at, img->data, img->bytes);
}

int load_cmdline(struct loader *ld, uint64_t max_bytes)
{
    const char *s = ld->cfg->append ? ld->cfg->append : "";
    uint64_t bytes = strlen(s);
    int rc;

    max_bytes = MIN(max_bytes, BOOT_CMDLINE_MAX - 1ull);
    if (bytes > max_bytes) {
        log_error("the kernel command line has %llu bytes, '%s' takes at most %llu",
                  (unsigned long long)bytes, ld->kernel->path, (unsigned long long)max_bytes);
        return -E2BIG;
    }
    rc = load_claim(ld, "command line", BOOT_CMDLINE_AT, bytes + 1);
    if (rc < 0)
        return rc;
    return load_put(ld, BOOT_CMDLINE_AT, s, bytes + 1);
}
