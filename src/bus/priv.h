/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of bus/ share and nobody else sees. */
#ifndef BUS_PRIV_H
#define BUS_PRIV_H

#include "bus/bus.h"

/*
 * A range of ports or of guest-physical addresses, first to last inclusive, that one device
 * answers. An access that begins in it may go on to `reach`, which is beyond `last` only for wide
 * registers (bus_claim_wide_port).
 */
struct claim {
    uint64_t first, last, reach;
    struct device *dev;
    uint64_t off_bytes; /* what the handler sees for `first` */
};

/* Sorted by address, never overlapping. Guarded by the machine lock. */
struct claims {
    const char *what; /* "port", "MMIO address": for messages */
    struct claim *v;
    unsigned nr, room;
};

int claims_add(struct claims *cs, const struct claim *c) MUST_CHECK;
/* Nothing happens unless dev has a claim that begins at `first`. */
void claims_remove(struct claims *cs, uint64_t first, const struct device *dev);
/* The claim that holds `at`, or NULL. Good until the next claims_add() or claims_remove(). */
const struct claim *claims_find(const struct claims *cs, uint64_t at);
/* The first claim that has any of first..last, or NULL. */
const struct claim *claims_overlap(const struct claims *cs, uint64_t first, uint64_t last);
void claims_fini(struct claims *cs);

/*
 * How many bytes of an access at `at` make the next piece: a naturally aligned power of two, inside
 * the claim (c may be NULL: unclaimed, one byte), at most max_bytes.
 */
unsigned claims_piece(const struct claim *c, uint64_t at, unsigned bytes, unsigned max_bytes);

struct bus {
    struct lock lock; /* the machine lock: guards all below but where noted, and all devices */
    struct device *devices, **devices_end;
    struct claims ports, mmio;
    struct clock *clock;

    /* Sinks: set while the machine is built, constant afterwards. */
    void (*gsi_set)(void *ctx, unsigned gsi, int level);
    bool (*gsi_waits)(void *ctx, unsigned gsi);
    void *gsi_ctx;
    void (*msi_send)(void *ctx, uint64_t addr, uint32_t data);
    void *msi_ctx;
    const struct bus_fd_ops *fd_ops; /* NULL: none */
    void *fd_ctx;
    void (*stop)(void *ctx, enum stop_reason why, int status);
    void *stop_ctx;
    void (*hold)(void *ctx, bool on);
    void *hold_ctx;

    bool a20_off;
    struct log_seen seen, ports_seen, mmio_seen; /* thread-safe */
};

#endif
