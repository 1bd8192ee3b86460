/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory-mapped side of the bus: who answers which guest-physical addresses outside RAM.
 * Devices see naturally aligned accesses no wider than they asked for; an unaligned or wider one is
 * split in ascending order.
 */
#include "bus/priv.h"

static unsigned mmio_max_bytes(const struct claim *c)
{
    return c && c->dev->type->mmio_max_bytes ? c->dev->type->mmio_max_bytes : 4;
}

int bus_claim_mmio(struct bus *b, gpa_t base, uint64_t bytes, struct device *dev,
                   uint64_t off_bytes)
{
    BUG_ON(!bytes || base.v + (bytes - 1) < base.v);
    return claims_add(&b->mmio, &(struct claim){ .first = base.v,
                                                 .last = base.v + (bytes - 1),
                                                 .reach = base.v + (bytes - 1),
                                                 .dev = dev,
                                                 .off_bytes = off_bytes });
}

bool bus_mmio_free(struct bus *b, gpa_t base, uint64_t bytes)
{
    uint64_t last = base.v + (bytes - 1);

    return last >= base.v && !claims_overlap(&b->mmio, base.v, last);
}

void bus_release_mmio(struct bus *b, gpa_t base, struct device *dev)
{
    if (b)
        claims_remove(&b->mmio, base.v, dev);
}

static void mmio_unclaimed(struct bus *b, gpa_t at, const char *what)
{
    if (log_first(&b->mmio_seen, at.v >> PAGE_SHIFT))
        log_debug("%s guest-physical %#llx, where there is neither memory nor a device", what,
                  (unsigned long long)at.v);
}

uint64_t bus_mmio_read(struct bus *b, gpa_t at, unsigned bytes)
{
    uint64_t val = 0;

    lock_take(&b->lock);
    for (unsigned done = 0, n; done < bytes; done += n) {
        uint64_t addr = at.v + done, part = UINT64_MAX;
        const struct claim *c = claims_find(&b->mmio, addr);

        n = claims_piece(c, addr, bytes - done, mmio_max_bytes(c));
        if (!c)
            mmio_unclaimed(b, GPA(addr), "read of");
        else if (c->dev->type->mmio_read)
            part = c->dev->type->mmio_read(c->dev, addr - c->first + c->off_bytes, n);
        val |= low_bytes(part, n) << (8 * done);
    }
    lock_drop(&b->lock);
    return val;
}

void bus_mmio_write(struct bus *b, gpa_t at, unsigned bytes, uint64_t val)
{
    lock_take(&b->lock);
    for (unsigned done = 0, n; done < bytes; done += n) {
        uint64_t addr = at.v + done;
        /* Looked up for each piece: a handler may change the claims (PCI BARs). */
        const struct claim *c = claims_find(&b->mmio, addr);

        n = claims_piece(c, addr, bytes - done, mmio_max_bytes(c));
        if (!c)
            mmio_unclaimed(b, GPA(addr), "write to");
        else if (c->dev->type->mmio_write)
            c->dev->type->mmio_write(c->dev, addr - c->first + c->off_bytes, n,
                                     low_bytes(val >> (8 * done), n));
    }
    lock_drop(&b->lock);
}
