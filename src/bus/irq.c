/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interrupt wires and messages. Devices hold a handle; what it leads to (PIC, I/O APIC, local
 * APICs) is the machine's affair and may be connected after the device was made.
 */
#include "bus/priv.h"

#include <errno.h>

void bus_set_gsi_sink(struct bus *b, void (*set)(void *ctx, unsigned gsi, int level),
                      bool (*waits)(void *ctx, unsigned gsi), void *ctx)
{
    b->gsi_set = set;
    b->gsi_waits = waits;
    b->gsi_ctx = ctx;
}

static void bus_gsi_set(void *ctx, unsigned gsi, int level)
{
    struct bus *b = ctx;

    if (b->gsi_set)
        b->gsi_set(b->gsi_ctx, gsi, level);
}

static bool bus_gsi_waits(void *ctx, unsigned gsi)
{
    struct bus *b = ctx;

    return b->gsi_waits && b->gsi_waits(b->gsi_ctx, gsi);
}

struct irq_line bus_gsi(struct bus *b, unsigned gsi)
{
    return (struct irq_line){ .set = bus_gsi_set, .waits = bus_gsi_waits, .ctx = b, .idx = gsi };
}

void irq_user_set(struct irq_user *u, int level)
{
    struct irq_shared *s = u->line;

    if (!s || u->up == !!level)
        return;
    u->up = !!level;
    if (level) {
        if (s->nr_up++ == 0)
            irq_set(&s->out, 1);
    } else {
        if (--s->nr_up == 0)
            irq_set(&s->out, 0);
    }
}

void bus_set_msi_sink(struct bus *b, void (*send)(void *ctx, uint64_t addr, uint32_t data),
                      void *ctx)
{
    b->msi_send = send;
    b->msi_ctx = ctx;
}

void bus_msi(struct bus *b, uint64_t addr, uint32_t data)
{
    if (b->msi_send)
        b->msi_send(b->msi_ctx, addr, data);
}

/* ---- by descriptors ---- */

void bus_set_fd_ops(struct bus *b, const struct bus_fd_ops *ops, void *ctx)
{
    b->fd_ops = ops;
    b->fd_ctx = ctx;
}

int bus_notify_fd(struct bus *b, const struct bus_notify *n, bool on)
{
    assert_held(&b->lock);
    return b->fd_ops ? b->fd_ops->notify(b->fd_ctx, n, on) : -ENOTSUP;
}

int bus_msi_fd(struct bus *b, int fd, uint64_t addr, uint32_t data)
{
    assert_held(&b->lock);
    return b->fd_ops ? b->fd_ops->msi(b->fd_ctx, fd, addr, data) : -ENOTSUP;
}

void bus_msi_fd_close(struct bus *b, int fd)
{
    assert_held(&b->lock);
    b->fd_ops->msi_close(b->fd_ctx, fd);
}

void bus_msi_fd_signal(int fd)
{
    host_event_signal(fd);
}
