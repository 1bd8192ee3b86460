/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The port bus: who answers which I/O port, and the splitting of accesses. As on an ISA bus a wide
 * access to a narrow device becomes several narrow ones in ascending order, and what nobody drives
 * reads as ones.
 */
#include "bus/priv.h"

static unsigned port_max_bytes(const struct claim *c)
{
    return c && c->dev->type->max_bytes ? c->dev->type->max_bytes : 1;
}

int bus_claim_ports(struct bus *b, uint16_t base, unsigned nr, struct device *dev,
                    uint32_t off_bytes)
{
    uint32_t last = base + nr - 1;

    BUG_ON(!nr || last > 0xffff);
    return claims_add(
        &b->ports,
        &(struct claim){
            .first = base, .last = last, .reach = last, .dev = dev, .off_bytes = off_bytes });
}

int bus_claim_wide_port(struct bus *b, uint16_t port, unsigned bytes, struct device *dev,
                        uint32_t off_bytes)
{
    uint32_t reach = port + bytes - 1;

    BUG_ON(!bytes || reach > 0xffff);
    return claims_add(
        &b->ports,
        &(struct claim){
            .first = port, .last = port, .reach = reach, .dev = dev, .off_bytes = off_bytes });
}

bool bus_ports_free(struct bus *b, uint16_t base, unsigned nr)
{
    return base + nr <= 0x10000 && !claims_overlap(&b->ports, base, base + nr - 1);
}

void bus_release_ports(struct bus *b, uint16_t base, unsigned nr, struct device *dev)
{
    (void)nr; /* the claim knows */
    if (b)
        claims_remove(&b->ports, base, dev);
}

static void port_unclaimed(struct bus *b, uint16_t port, const char *what)
{
    if (log_first(&b->ports_seen, port))
        log_debug("%s port %#x, which no device has", what, port);
}

/* The space ends at FFFFh; an access across its end has no device behind that (SDM 1, "I/O Ports").
 */
static const struct claim *port_find(struct bus *b, uint32_t port)
{
    return port > 0xffff ? NULL : claims_find(&b->ports, port);
}

uint64_t bus_port_read(struct bus *b, uint16_t port, unsigned bytes)
{
    uint64_t val = 0;

    lock_take(&b->lock);
    for (unsigned done = 0, n; done < bytes; done += n) {
        uint32_t at = (uint32_t)port + done;
        const struct claim *c = port_find(b, at);
        uint64_t part = UINT64_MAX;

        n = claims_piece(c, at, bytes - done, port_max_bytes(c));
        if (!c)
            port_unclaimed(b, (uint16_t)at, "read of");
        else if (c->dev->type->read)
            part = c->dev->type->read(c->dev, (uint32_t)(at - c->first + c->off_bytes), n);
        val |= low_bytes(part, n) << (8 * done);
    }
    lock_drop(&b->lock);
    return val;
}

void bus_port_write(struct bus *b, uint16_t port, unsigned bytes, uint64_t val)
{
    lock_take(&b->lock);
    for (unsigned done = 0, n; done < bytes; done += n) {
        uint32_t at = (uint32_t)port + done;
        /* Looked up for each piece: a handler may change the claims (PCI BARs). */
        const struct claim *c = port_find(b, at);

        n = claims_piece(c, at, bytes - done, port_max_bytes(c));
        if (!c)
            port_unclaimed(b, (uint16_t)at, "write to");
        else if (c->dev->type->write)
            c->dev->type->write(c->dev, (uint32_t)(at - c->first + c->off_bytes), n,
                                low_bytes(val >> (8 * done), n));
    }
    lock_drop(&b->lock);
}
