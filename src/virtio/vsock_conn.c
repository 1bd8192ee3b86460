/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections of the socket device: what a packet of the guest's does to one, and what the
 * program at its other end does. All in the backend's thread.
 *
 * Manual: Virtual I/O Device 1.2, "Socket Device", "Device Operation".
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/log.h"
#include "virtio/vsock.h"

#define HOST_PORT_FIRST 0x40000000u /* of connections that a program begins */

static unsigned vconn_id(const struct virtio_vsock *n, const struct vconn *c)
{
    return (unsigned)(c - n->conns);
}

/* By the ports that the guest knows it by; NULL: none. */
static struct vconn *vconn_find(struct virtio_vsock *n, uint32_t host_port, uint32_t guest_port)
{
    for (unsigned i = 0; i < VSOCK_STREAMS_MAX; i++) {
        struct vconn *c = &n->conns[i];

        if ((c->state == VCONN_CALLING || c->state == VCONN_OPEN) && c->host_port == host_port &&
            c->guest_port == guest_port)
            return c;
    }
    return NULL;
}

uint32_t vconn_credit(const struct vconn *c)
{
    /* Counters wrap; a guest whose counters make no sense gets nothing. */
    uint32_t in_flight = c->tx_count - c->peer_fwd;

    return in_flight > c->peer_alloc ? 0 : c->peer_alloc - in_flight;
}

void vconn_want(struct virtio_vsock *n, unsigned id)
{
    const struct vconn *c = &n->conns[id];
    unsigned want = 0;

    if (c->state == VCONN_CALLING)
        want = VSOCK_HUP;
    if (c->state == VCONN_OPEN && !c->readable && !(c->host_shut & VSOCK_SHUT_SEND))
        want |= VSOCK_READ;
    /* It has said all: does it still listen? */
    if (c->state == VCONN_OPEN && c->host_shut == VSOCK_SHUT_SEND)
        want |= VSOCK_HUP;
    if (c->buf_bytes && !(c->host_shut & VSOCK_SHUT_RCV))
        want |= VSOCK_WRITE;
    n->host->ops->want(n->host, id, want);
}

void vconn_free(struct virtio_vsock *n, unsigned id)
{
    free(n->conns[id].buf);
    n->conns[id] = (struct vconn){ .state = VCONN_FREE };
    n->host->ops->drop(n->host, id);
}

/* The guest learns that it is over. */
static void vconn_abort(struct virtio_vsock *n, struct vconn *c)
{
    vsock_reply_rst(n, c->host_port, c->guest_port, VSOCK_TYPE_STREAM);
    vconn_free(n, vconn_id(n, c));
}

/* The guest broke the rules. */
static void vconn_wrong(struct virtio_vsock *n, struct vconn *c, const char *why, uint32_t val)
{
    if (log_first(&n->vd.seen, (uintptr_t)why))
        log_warn("vsock: the guest sends %s (%u); the connection is reset", why, val);
    vconn_abort(n, c);
}

/* False after a message: there is no memory for it. */
static bool vconn_make(struct virtio_vsock *n, unsigned id, uint32_t host_port, uint32_t guest_port)
{
    uint8_t *buf = malloc(VSOCK_BUF_BYTES);

    if (!buf) {
        log_warn("vsock: out of memory for a connection");
        return false;
    }
    n->conns[id] = (struct vconn){
        .host_port = host_port,
        .guest_port = guest_port,
        .buf = buf,
    };
    return true;
}

/* ---- to the program ---- */

void vconn_host_shut(struct vconn *c, unsigned how)
{
    c->host_shut |= how;
    if (c->host_shut & VSOCK_SHUT_RCV) {
        c->fwd_count += c->buf_bytes;
        c->buf_bytes = 0;
    }
    if (c->state == VCONN_OPEN && c->host_shut != c->told_shut)
        c->due |= BIT(VSOCK_OP_SHUTDOWN);
}

/* Some of the ring's bytes; false: it takes no more now, or there are none. */
static bool vconn_flush_some(struct virtio_vsock *n, struct vconn *c)
{
    uint32_t bytes = MIN(c->buf_bytes, VSOCK_BUF_BYTES - c->buf_at);
    long done;

    if (!bytes)
        return false;
    done = n->host->ops->write(n->host, vconn_id(n, c), c->buf + c->buf_at, bytes);
    if (done == -EAGAIN)
        return false;
    if (done < 0) {
        vconn_host_shut(c, VSOCK_SHUT_RCV);
        return false;
    }
    BUG_ON((unsigned long)done > bytes);
    c->buf_at = (c->buf_at + (uint32_t)done) % VSOCK_BUF_BYTES;
    c->buf_bytes -= (uint32_t)done;
    c->fwd_count += (uint32_t)done;
    return done > 0;
}

static void vconn_flush(struct virtio_vsock *n, struct vconn *c)
{
    while (vconn_flush_some(n, c))
        ;
    /* A guest that waits for room must hear of it; each packet tells it, too. */
    if (c->state == VCONN_OPEN && c->fwd_count - c->fwd_told >= VSOCK_BUF_BYTES / 4)
        c->due |= BIT(VSOCK_OP_CREDIT_UPDATE);
    if (c->buf_bytes)
        return;
    if (c->guest_shut & VSOCK_SHUT_SEND && !c->shut_done) {
        c->shut_done = true;
        n->host->ops->shut(n->host, vconn_id(n, c));
    }
    if (c->state == VCONN_DRAINING)
        vconn_free(n, vconn_id(n, c));
}

/* ---- packets ---- */

static void vconn_request(struct virtio_vsock *n, const struct vsock_hdr *h)
{
    int id = n->host->ops->connect(n->host, h->dst_port);
    struct vconn *c;

    if (id < 0 || !vconn_make(n, (unsigned)id, h->dst_port, h->src_port)) {
        if (id >= 0)
            n->host->ops->drop(n->host, (unsigned)id);
        else if (id != -ENOENT && id != -ECONNREFUSED && log_first(&n->vd.seen, (uint32_t)-id))
            log_warn("vsock: the guest's connection to port %u of the host: %s", h->dst_port,
                     id == -ENOSPC ? "there are too many at once" : strerror(-id));
        vsock_reply_rst(n, h->dst_port, h->src_port, VSOCK_TYPE_STREAM);
        return;
    }
    c = &n->conns[id];
    c->state = VCONN_OPEN;
    c->peer_alloc = h->buf_alloc;
    c->peer_fwd = h->fwd_cnt;
    c->due = BIT(VSOCK_OP_RESPONSE);
    vconn_want(n, (unsigned)id);
}

/* The guest's port answers: the program is told. */
static void vconn_response(struct virtio_vsock *n, struct vconn *c)
{
    char line[32];
    int bytes = snprintf(line, sizeof(line), "OK %u\n", c->host_port);

    if (c->state != VCONN_CALLING) {
        vconn_wrong(n, c, "an answer that nobody waits for, from port", c->guest_port);
        return;
    }
    c->state = VCONN_OPEN;
    /* The first bytes of all: a socket has room for them, or nobody is there. */
    if (n->host->ops->write(n->host, vconn_id(n, c), line, (size_t)bytes) != bytes)
        vconn_abort(n, c);
}

static void vconn_data(struct virtio_vsock *n, struct vconn *c, const struct vsock_hdr *h,
                       const struct virtq_chain *chain)
{
    uint32_t at = (c->buf_at + c->buf_bytes) % VSOCK_BUF_BYTES, first;

    if (c->state != VCONN_OPEN || c->guest_shut & VSOCK_SHUT_SEND) {
        vconn_wrong(n, c, "data before or after its time, at port", c->guest_port);
        return;
    }
    if (h->bytes > VSOCK_BUF_BYTES - c->buf_bytes) {
        vconn_wrong(n, c, "more data than it has credit for", h->bytes);
        return;
    }
    if (c->host_shut & VSOCK_SHUT_RCV) {
        c->fwd_count += h->bytes;
        return;
    }
    first = MIN(h->bytes, VSOCK_BUF_BYTES - at);
    (void)virtq_read(chain, sizeof(*h), c->buf + at, first);
    (void)virtq_read(chain, (uint32_t)sizeof(*h) + first, c->buf, h->bytes - first);
    c->buf_bytes += h->bytes;
    vconn_flush(n, c);
}

static void vconn_shutdown(struct virtio_vsock *n, struct vconn *c, uint32_t flags)
{
    if (c->state == VCONN_CALLING) { /* instead of an answer */
        vconn_abort(n, c);
        return;
    }
    c->guest_shut |= flags & VSOCK_SHUT_BOTH;
    if (c->guest_shut == VSOCK_SHUT_BOTH) {
        /* "the connection is closed by RST"; what the program has still to read stays with us. */
        vsock_reply_rst(n, c->host_port, c->guest_port, VSOCK_TYPE_STREAM);
        c->state = VCONN_DRAINING;
        c->due = 0;
        c->readable = false;
    }
    vconn_flush(n, c);
}

static void vconn_dispatch(struct virtio_vsock *n, struct vconn *c, const struct vsock_hdr *h,
                           const struct virtq_chain *chain)
{
    switch (h->op) {
    case VSOCK_OP_RESPONSE:
        vconn_response(n, c);
        break;
    case VSOCK_OP_RST:
        vconn_free(n, vconn_id(n, c));
        break;
    case VSOCK_OP_SHUTDOWN:
        vconn_shutdown(n, c, h->flags);
        break;
    case VSOCK_OP_RW:
        vconn_data(n, c, h, chain);
        break;
    case VSOCK_OP_CREDIT_UPDATE:
        break;
    case VSOCK_OP_CREDIT_REQUEST:
        if (c->state == VCONN_OPEN)
            c->due |= BIT(VSOCK_OP_CREDIT_UPDATE);
        break;
    case VSOCK_OP_REQUEST:
        vconn_wrong(n, c, "a second request, from port", c->guest_port);
        break;
    default:
        vconn_wrong(n, c, "an unknown operation", h->op);
    }
}

void vconn_receive(struct virtio_vsock *n, const struct vsock_hdr *h,
                   const struct virtq_chain *chain)
{
    struct vconn *c = vconn_find(n, h->dst_port, h->src_port);
    unsigned id;

    if (!c && h->op == VSOCK_OP_REQUEST) {
        vconn_request(n, h);
        return;
    }
    if (!c) {
        if (h->op != VSOCK_OP_RST)
            vsock_reply_rst(n, h->dst_port, h->src_port, VSOCK_TYPE_STREAM);
        return;
    }
    id = vconn_id(n, c);
    c->peer_alloc = h->buf_alloc;
    c->peer_fwd = h->fwd_cnt;
    c->asked = false;
    vconn_dispatch(n, c, h, chain);
    if (c->state != VCONN_FREE)
        vconn_want(n, id);
}

/* ---- from the program ---- */

bool vconn_call(void *arg, unsigned id, uint32_t port)
{
    struct virtio_vsock *n = arg;
    bool running;

    virtio_lock(&n->vd);
    running = n->running && !n->was_reset;
    virtio_unlock(&n->vd);
    if (!running)
        return false;
    /* One that no connection has, to this port of the guest: there are more of them. */
    do
        n->next_port = n->next_port < HOST_PORT_FIRST
                           ? HOST_PORT_FIRST + n->host->first_port % HOST_PORT_FIRST
                           : n->next_port + 1;
    while (n->next_port < HOST_PORT_FIRST || vconn_find(n, n->next_port, port));
    if (!vconn_make(n, id, n->next_port, port))
        return false;
    n->conns[id].state = VCONN_CALLING;
    n->conns[id].due = BIT(VSOCK_OP_REQUEST);
    vconn_want(n, id);
    return true;
}

void vconn_ready(void *arg, unsigned id, unsigned what)
{
    struct virtio_vsock *n = arg;
    struct vconn *c = &n->conns[id];

    if (c->state == VCONN_CALLING) {
        if (what & VSOCK_HUP) /* it has given up */
            vconn_abort(n, c);
        return;
    }
    /* What it wrote before it closed is still to be read. */
    if (what & VSOCK_HUP && c->host_shut & VSOCK_SHUT_SEND)
        vconn_host_shut(c, VSOCK_SHUT_BOTH);
    if (what & VSOCK_READ && c->state == VCONN_OPEN && !(c->host_shut & VSOCK_SHUT_SEND))
        c->readable = true;
    if (what & VSOCK_WRITE)
        vconn_flush(n, c);
    if (c->state != VCONN_FREE)
        vconn_want(n, id);
}
