/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio socket device: byte streams between the guest's programs and the host's, whose end is
 * backend/vsock.h. Here are the queues and the packets that go to the guest; what a packet means
 * to its connection is in vsock_conn.c. All work is done in the backend's thread.
 *
 * Memory is bounded: a connection has a buffer as large as the credit that the guest gets, and
 * bytes for the guest are only taken from a program when there are buffers and credit for them.
 * Resets that wait for a buffer are bounded, too: while there is no room for one, the guest's
 * packets wait in its queue.
 *
 * Manual: Virtual I/O Device 1.2, "Socket Device". Streams only, no SEQPACKET.
 */
#include "virtio/vsock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/log.h"

#define PCI_CLASS_OTHER 0x078000 /* communication controller, other */
#define BURST           256      /* packets in a row, before programs get their turn */
#define EVENT_LOOK      64       /* buffers of the event queue; Linux gives 8 */

enum { RX_QUEUE, TX_QUEUE, EVENT_QUEUE, NR_QUEUES };

/* "Device Events" */
#define VSOCK_EVENT_TRANSPORT_RESET 0u

enum { SEEN_SHORT, SEEN_ADDRESS, SEEN_TYPE, SEEN_LENGTH };

static struct virtio_vsock *vsock_of(struct virtio *vd)
{
    return container_of(vd, struct virtio_vsock, vd);
}

/* Device's lock held. False: none, or the connections of before a reset must go first. */
static bool vsock_pop(struct virtio_vsock *n, unsigned queue, struct virtq_chain *c)
{
    assert_held(&n->vd.lock);
    *c = (struct virtq_chain){ .iov = n->iov, .at = n->at, .max = VSOCK_IOV };
    return n->running && !n->was_reset && virtq_pop(&n->vd.queues[queue], c);
}

/* ---- to the guest ---- */

void vsock_reply_rst(struct virtio_vsock *n, uint32_t host_port, uint32_t guest_port, uint16_t type)
{
    if (n->nr_replies == VSOCK_REPLIES)
        return;
    n->replies[n->nr_replies++] =
        (struct vsock_reply){ .host_port = host_port, .guest_port = guest_port, .type = type };
}

static struct vsock_hdr vsock_header(const struct virtio_vsock *n, const struct vconn *c,
                                     unsigned op)
{
    return (struct vsock_hdr){
        .src_cid = VSOCK_CID_HOST,
        .dst_cid = n->config.cid,
        .src_port = c->host_port,
        .dst_port = c->guest_port,
        .type = VSOCK_TYPE_STREAM,
        .op = (uint16_t)op,
        .buf_alloc = VSOCK_BUF_BYTES,
        .fwd_cnt = c->fwd_count,
    };
}

/* A buffer for a packet. Device's lock held. */
static bool vsock_find_room(struct virtio_vsock *n, struct virtq_chain *c)
{
    if (!vsock_pop(n, RX_QUEUE, c))
        return false;
    if (c->in_bytes > sizeof(struct vsock_hdr))
        return true;
    virtq_push(&n->vd.queues[RX_QUEUE], c, 0);
    virtio_broken(&n->vd, "a receive buffer with no room for data");
    return false;
}

static bool vsock_emit(struct virtio_vsock *n, const struct vsock_hdr *h)
{
    struct virtq_chain c;
    bool room;

    virtio_lock(&n->vd);
    room = vsock_find_room(n, &c);
    if (room)
        virtq_push(&n->vd.queues[RX_QUEUE], &c, virtq_write(&c, 0, h, sizeof(*h)));
    virtio_unlock(&n->vd);
    return room;
}

static bool vsock_send_replies(struct virtio_vsock *n)
{
    unsigned done = 0;

    for (; done < n->nr_replies; done++) {
        const struct vsock_reply *r = &n->replies[done];
        struct vconn none = { .host_port = r->host_port, .guest_port = r->guest_port };
        struct vsock_hdr h = vsock_header(n, &none, VSOCK_OP_RST);

        h.type = r->type;
        h.buf_alloc = 0;
        if (!vsock_emit(n, &h))
            break;
    }
    n->nr_replies -= done;
    memmove(n->replies, n->replies + done, n->nr_replies * sizeof(n->replies[0]));
    return !n->nr_replies;
}

/* Is there room for one more? */
static bool vsock_may_reply(struct virtio_vsock *n)
{
    if (n->nr_replies == VSOCK_REPLIES)
        (void)vsock_send_replies(n); /* all or some of them */
    return n->nr_replies < VSOCK_REPLIES;
}

/* What is due but for data, in the order in which it makes sense. False: no buffer. */
static bool vsock_send_due(struct virtio_vsock *n, struct vconn *c)
{
    static const enum vsock_op order[] = { VSOCK_OP_REQUEST, VSOCK_OP_RESPONSE,
                                           VSOCK_OP_CREDIT_UPDATE, VSOCK_OP_CREDIT_REQUEST,
                                           VSOCK_OP_SHUTDOWN };

    for (unsigned i = 0; i < ARRAY_SIZE(order); i++) {
        struct vsock_hdr h = vsock_header(n, c, order[i]);

        if (!(c->due & BIT(order[i])))
            continue;
        if (order[i] == VSOCK_OP_SHUTDOWN)
            h.flags = c->host_shut;
        if (!vsock_emit(n, &h))
            return false;
        c->due &= ~BIT(order[i]);
        c->fwd_told = c->fwd_count;
        if (order[i] == VSOCK_OP_SHUTDOWN)
            c->told_shut = h.flags;
    }
    return true;
}

/*
 * One packet of the program's bytes. The bytes are only taken when there is a buffer for them; the
 * lock is held meanwhile, which is as long as a copy takes, as the read does not wait.
 */
static bool vsock_send_data(struct virtio_vsock *n, unsigned id, uint32_t credit)
{
    struct vconn *c = &n->conns[id];
    struct vsock_hdr h = vsock_header(n, c, VSOCK_OP_RW);
    struct virtq_chain chain;
    long got = -EAGAIN;
    bool room;

    virtio_lock(&n->vd);
    room = vsock_find_room(n, &chain);
    if (room) {
        uint32_t most = MIN(MIN(credit, VSOCK_DATA_BYTES), chain.in_bytes - (uint32_t)sizeof(h));

        got = n->host->ops->read(n->host, id, n->data, most);
        BUG_ON(got > (long)most);
    }
    if (got > 0) {
        h.bytes = (uint32_t)got;
        (void)virtq_write(&chain, 0, &h, sizeof(h));
        (void)virtq_write(&chain, sizeof(h), n->data, h.bytes);
        virtq_push(&n->vd.queues[RX_QUEUE], &chain, (uint32_t)sizeof(h) + h.bytes);
    } else if (room) {
        virtq_unpop(&n->vd.queues[RX_QUEUE], &chain);
    }
    virtio_unlock(&n->vd);
    if (got > 0) {
        c->tx_count += h.bytes;
        c->fwd_told = c->fwd_count;
        return true;
    }
    if (!room)
        return false;
    c->readable = false;
    if (got != -EAGAIN)
        vconn_host_shut(c, got ? VSOCK_SHUT_BOTH : VSOCK_SHUT_SEND);
    return true;
}

/* False: no buffer. *progress: it had something to send. */
static bool vsock_send_conn(struct virtio_vsock *n, unsigned id, bool *progress)
{
    struct vconn *c = &n->conns[id];
    uint32_t credit;

    if (c->due) {
        *progress = true;
        if (!vsock_send_due(n, c))
            return false;
    }
    if (c->state != VCONN_OPEN || !c->readable || c->guest_shut & VSOCK_SHUT_RCV)
        return true;
    credit = vconn_credit(c);
    if (!credit) {
        c->due |= c->asked ? 0 : BIT(VSOCK_OP_CREDIT_REQUEST);
        *progress |= !c->asked;
        c->asked = true;
        return true;
    }
    *progress = true;
    return vsock_send_data(n, id, credit);
}

/* In turns, a packet of each. False: not all was sent although there may be buffers. */
static bool vsock_send(struct virtio_vsock *n)
{
    for (unsigned nr = 0; nr < BURST;) {
        bool progress = false;

        for (unsigned i = 0; i < VSOCK_STREAMS_MAX; i++) {
            unsigned id = (n->next_conn + i) % VSOCK_STREAMS_MAX;
            bool one = false;

            if (n->conns[id].state == VCONN_FREE)
                continue;
            if (!vsock_send_conn(n, id, &one)) {
                n->next_conn = id;
                return true; /* notify() comes with buffers */
            }
            progress |= one;
            nr += one;
            if (one)
                vconn_want(n, id);
        }
        if (!progress)
            return true;
    }
    return false;
}

/* ---- from the guest ---- */

/* False: the packet is forgotten. */
static bool vsock_header_ok(struct virtio_vsock *n, const struct vsock_hdr *h,
                            const struct virtq_chain *c, uint32_t got)
{
    if (got < sizeof(*h)) {
        if (log_first(&n->vd.seen, SEEN_SHORT))
            log_warn("vsock: the guest sends a packet of %u bytes; dropped", got);
        return false;
    }
    if (h->src_cid != n->config.cid || h->dst_cid != VSOCK_CID_HOST) {
        if (log_first(&n->vd.seen, SEEN_ADDRESS))
            log_warn("vsock: the guest sends a packet from %llu to %llu; it is %llu, and reaches "
                     "only %u; dropped",
                     (unsigned long long)h->src_cid, (unsigned long long)h->dst_cid,
                     (unsigned long long)n->config.cid, VSOCK_CID_HOST);
        return false;
    }
    if (h->type != VSOCK_TYPE_STREAM) {
        if (log_first(&n->vd.seen, SEEN_TYPE))
            log_warn("vsock: the guest wants a socket of type %u; there are only streams", h->type);
        if (h->op != VSOCK_OP_RST)
            vsock_reply_rst(n, h->dst_port, h->src_port, h->type);
        return false;
    }
    if (h->op == VSOCK_OP_RW && h->bytes > c->out_bytes - sizeof(*h)) {
        if (log_first(&n->vd.seen, SEEN_LENGTH))
            log_warn("vsock: the guest sends %u bytes in a packet of %u; dropped", h->bytes,
                     c->out_bytes);
        vsock_reply_rst(n, h->dst_port, h->src_port, VSOCK_TYPE_STREAM);
        return false;
    }
    return true;
}

static bool vsock_receive_one(struct virtio_vsock *n)
{
    struct virtq *q = &n->vd.queues[TX_QUEUE];
    struct virtq_chain c;
    struct vsock_hdr h;
    uint32_t got;
    bool any;

    virtio_lock(&n->vd);
    any = vsock_pop(n, TX_QUEUE, &c);
    virtio_unlock(&n->vd);
    if (!any)
        return false;
    got = virtq_read(&c, 0, &h, sizeof(h));
    if (vsock_header_ok(n, &h, &c, got))
        vconn_receive(n, &h, &c);
    virtio_lock(&n->vd);
    virtq_push(q, &c, 0);
    virtio_unlock(&n->vd);
    return true;
}

/* ---- a restored guest: "Device Events" ---- */

/*
 * How many buffers the event queue has, up to EVENT_LOOK. They are looked at and left: an empty
 * queue is what asks the driver to tell of the next one. Device's lock held.
 */
static unsigned vsock_count_events(struct virtio_vsock *n)
{
    struct virtq_chain seen[EVENT_LOOK];
    unsigned nr = 0, count;

    while (nr < EVENT_LOOK && vsock_pop(n, EVENT_QUEUE, &seen[nr]))
        nr++;
    count = nr;
    while (nr)
        virtq_unpop(&n->vd.queues[EVENT_QUEUE], &seen[--nr]);
    return count;
}

/* False: it has not worked that off yet. */
static bool vsock_told(struct virtio_vsock *n)
{
    const uint32_t event = VSOCK_EVENT_TRANSPORT_RESET;
    struct virtq *q = &n->vd.queues[EVENT_QUEUE];
    struct virtq_chain c;
    bool told;

    virtio_lock(&n->vd);
    if (!q->usable) /* a driver without it has to find out by itself */
        n->restored = VSOCK_KNOWN;
    if (n->restored == VSOCK_TO_TELL && vsock_pop(n, EVENT_QUEUE, &c)) {
        virtq_push(q, &c, virtq_write(&c, 0, &event, sizeof(event)));
        virtq_publish(q);
        n->restored = VSOCK_TOLD;
        n->nr_events = vsock_count_events(n);
        if (n->nr_events == EVENT_LOOK) /* there is no telling when there is one more */
            n->restored = VSOCK_KNOWN;
    } else if (n->restored == VSOCK_TOLD && vsock_count_events(n) > n->nr_events) {
        n->restored = VSOCK_KNOWN; /* worked off: the driver has given its buffer again */
    }
    told = n->restored == VSOCK_KNOWN;
    virtio_unlock(&n->vd);
    virtio_signal(&n->vd);
    return told;
}

/* ---- the thread's rounds ---- */

static void vsock_drop_all(struct virtio_vsock *n)
{
    for (unsigned i = 0; i < VSOCK_STREAMS_MAX; i++)
        if (n->conns[i].state != VCONN_FREE)
            vconn_free(n, i);
    n->nr_replies = 0;
}

static void vsock_publish(struct virtio_vsock *n)
{
    virtio_lock(&n->vd);
    virtq_publish(&n->vd.queues[RX_QUEUE]);
    virtq_publish(&n->vd.queues[TX_QUEUE]);
    virtio_unlock(&n->vd);
    virtio_signal(&n->vd);
}

static void vsock_work(void *arg)
{
    struct virtio_vsock *n = arg;
    bool was_reset, done = true;
    unsigned nr = 0;

    virtio_lock(&n->vd);
    was_reset = n->was_reset;
    virtio_unlock(&n->vd);
    if (was_reset) {
        vsock_drop_all(n);
        virtio_lock(&n->vd);
        n->was_reset = false;
        virtio_unlock(&n->vd);
    }
    /* Each packet may want a reset in return. */
    while (nr < BURST && vsock_may_reply(n) && vsock_receive_one(n))
        nr++;
    if (vsock_told(n) && vsock_send_replies(n))
        done = vsock_send(n);
    vsock_publish(n);
    if (!done || nr == BURST)
        vsock_kick(n->host);
}

static const struct vsock_card_ops vsock_card = {
    .work = vsock_work,
    .call = vconn_call,
    .ready = vconn_ready,
};

/* ---- the device ---- */

static void vsock_notify(struct virtio *vd, struct virtq *q)
{
    (void)q;
    vsock_kick(vsock_of(vd)->host);
}

static int vsock_notify_fd(struct virtio *vd, struct virtq *q)
{
    (void)q;
    return vsock_kick_fd(vsock_of(vd)->host);
}

static void vsock_started(struct virtio *vd)
{
    virtio_lock(vd);
    vsock_of(vd)->running = true;
    virtio_unlock(vd);
    vsock_kick(vsock_of(vd)->host);
}

static void vsock_reset(struct virtio *vd)
{
    struct virtio_vsock *n = vsock_of(vd);

    virtio_lock(vd);
    n->running = false;
    n->was_reset = true;
    n->restored = VSOCK_KNOWN;
    virtio_unlock(vd);
    vsock_kick(n->host);
}

/* Linux reads its CID again, too, so a clone may have another one. */
static void vsock_loaded(struct virtio *vd, bool running)
{
    struct virtio_vsock *n = vsock_of(vd);

    if (!running)
        return;
    virtio_lock(vd);
    n->running = true;
    n->restored = VSOCK_TO_TELL;
    virtio_unlock(vd);
    vsock_kick(n->host);
}

static const struct virtio_type vsock_type = {
    .name = "virtio-vsock",
    .id = VIRTIO_ID_VSOCK,
    .pci_class = PCI_CLASS_OTHER,
    .start = vsock_started,
    .notify = vsock_notify,
    .notify_fd = vsock_notify_fd,
    .reset = vsock_reset,
    .loaded = vsock_loaded,
};

int virtio_vsock_init(struct virtio_vsock *n, struct bus *bus, struct mmu *mmu, struct vsock *host,
                      uint32_t cid)
{
    int err;

    *n = (struct virtio_vsock){ .host = host, .config.cid = cid };
    n->data = malloc(VSOCK_DATA_BYTES);
    if (!n->data) {
        log_error("vsock: out of memory");
        return -ENOMEM;
    }
    err = virtio_init(&n->vd, &(struct virtio_desc){
                                  .type = &vsock_type,
                                  .name = "vsock",
                                  .bus = bus,
                                  .mmu = mmu,
                                  .features = BIT64(VSOCK_F_STREAM),
                                  .nr_queues = NR_QUEUES,
                                  .queue_size = VSOCK_QUEUE_SIZE,
                                  .config = &n->config,
                                  .config_bytes = sizeof(n->config),
                              });
    if (err)
        virtio_vsock_fini(n);
    return err;
}

int virtio_vsock_start(struct virtio_vsock *n)
{
    int err = vsock_start(n->host, &vsock_card, n);

    n->started = !err;
    if (err)
        log_error("vsock: cannot start its thread: %s", strerror(-err));
    return err;
}

void virtio_vsock_stop(struct virtio_vsock *n)
{
    if (n->started)
        vsock_stop(n->host);
    n->started = false;
}

void virtio_vsock_fini(struct virtio_vsock *n)
{
    virtio_vsock_stop(n);
    if (n->host)
        vsock_drop_all(n);
    virtio_fini(&n->vd);
    free(n->data);
    *n = (struct virtio_vsock){ .started = false };
}
