/* SPDX-License-Identifier: Apache-2.0 */
/* A virtio socket device on Unix sockets of the host (backend/vsock.h): see vsock.c. */
#ifndef VIRTIO_VSOCK_H
#define VIRTIO_VSOCK_H

#include "backend/vsock.h"
#include "virtio/virtio.h"

#define VSOCK_CID_HOST   2u
#define VSOCK_F_STREAM   0u
#define VSOCK_QUEUE_SIZE 256
#define VSOCK_IOV        (2 * VSOCK_QUEUE_SIZE)
#define VSOCK_BUF_BYTES  65536u /* for each connection, from the guest: our credit */
#define VSOCK_DATA_BYTES 65536u /* in one packet to the guest */
#define VSOCK_REPLIES    64u

/* Virtual I/O Device 1.2, "Socket Device", "Device Operation" */
struct vsock_hdr {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port;
    uint32_t bytes;
    uint16_t type, op;
    uint32_t flags;
    uint32_t buf_alloc, fwd_cnt;
} __attribute__((packed));
_Static_assert(sizeof(struct vsock_hdr) == 44, "struct virtio_vsock_hdr");

#define VSOCK_TYPE_STREAM 1u

enum vsock_op {
    VSOCK_OP_REQUEST = 1,
    VSOCK_OP_RESPONSE = 2,
    VSOCK_OP_RST = 3,
    VSOCK_OP_SHUTDOWN = 4,
    VSOCK_OP_RW = 5,
    VSOCK_OP_CREDIT_UPDATE = 6,
    VSOCK_OP_CREDIT_REQUEST = 7,
};

/* Flags of VSOCK_OP_SHUTDOWN: the sender will not receive, or not send, any more. */
#define VSOCK_SHUT_RCV  BIT(0)
#define VSOCK_SHUT_SEND BIT(1)
#define VSOCK_SHUT_BOTH (VSOCK_SHUT_RCV | VSOCK_SHUT_SEND)

enum vconn_state {
    VCONN_FREE,
    VCONN_CALLING, /* a program of the host waits for the guest's answer */
    VCONN_OPEN,
    VCONN_DRAINING, /* over for the guest; the program has not read all yet */
};

/* A connection; its number is its stream's. All is the backend's thread's own. */
struct vconn {
    enum vconn_state state;
    uint32_t host_port, guest_port;
    unsigned due;        /* BIT(VSOCK_OP_*): to be sent when there is a buffer */
    unsigned host_shut;  /* VSOCK_SHUT_*: the program's doings ... */
    unsigned told_shut;  /* ... of which the guest was told */
    unsigned guest_shut; /* VSOCK_SHUT_*: the guest's */
    bool readable;       /* there may be bytes of the program's */
    bool asked;          /* for credit, without an answer since */
    bool shut_done;      /* the program knows that the guest sends no more */

    /* To the guest ("Buffer Space Management"). */
    uint32_t tx_count, peer_alloc, peer_fwd;
    /* From the guest: a ring of VSOCK_BUF_BYTES. */
    uint8_t *buf;
    uint32_t buf_at, buf_bytes;
    uint32_t fwd_count, fwd_told;
};

struct vsock_reply {
    uint32_t host_port, guest_port;
    uint16_t type;
};

struct virtio_vsock {
    struct virtio vd;
    struct vsock *host;
    bool started;
    struct {
        uint64_t cid;
    } config;

    /* Guarded by the device's lock. */
    bool running;   /* between DRIVER_OK and reset */
    bool was_reset; /* the thread has not dropped the connections of before yet */
    /* A restored guest still has the connections of before: it is told to forget them, and nothing
     * new reaches it until it has. */
    enum { VSOCK_KNOWN, VSOCK_TO_TELL, VSOCK_TOLD } restored;
    unsigned nr_events; /* buffers in the event queue when it was told */

    /* The backend's thread's own. */
    struct vconn conns[VSOCK_STREAMS_MAX];
    unsigned next_conn; /* whose turn it is to send */
    uint32_t next_port;
    struct vsock_reply replies[VSOCK_REPLIES];
    unsigned nr_replies;
    uint8_t *data; /* VSOCK_DATA_BYTES */
    struct host_iov iov[VSOCK_IOV];
    gpa_t at[VSOCK_IOV];
};

/* cid: the guest's, from VSOCK_CID_MIN to VSOCK_CID_MAX. host: the caller's, used from
 * virtio_vsock_start() to virtio_vsock_stop(). 0 or -errno after a message. */
int virtio_vsock_init(struct virtio_vsock *n, struct bus *bus, struct mmu *mmu, struct vsock *host,
                      uint32_t cid) MUST_CHECK;
/* When the transport is attached. No locks held, here and in stop. */
int virtio_vsock_start(struct virtio_vsock *n) MUST_CHECK;
void virtio_vsock_stop(struct virtio_vsock *n);
/* The transport is gone. A zeroed struct is fine, too. */
void virtio_vsock_fini(struct virtio_vsock *n);

/* ---- vsock_conn.c: connections; in the thread, no locks held ---- */

/* A packet of the guest's, which is from its address to the host's; its payload is read from c. */
void vconn_receive(struct virtio_vsock *n, const struct vsock_hdr *h, const struct virtq_chain *c);
bool vconn_call(void *arg, unsigned id, uint32_t port);
void vconn_ready(void *arg, unsigned id, unsigned what);
/* Tells the backend what the connection waits for. */
void vconn_want(struct virtio_vsock *n, unsigned id);
/* Bytes that the guest has room for. */
uint32_t vconn_credit(const struct vconn *c);
/* The program has no more to say (SEND), or takes no more (RCV). */
void vconn_host_shut(struct vconn *c, unsigned how);
void vconn_free(struct virtio_vsock *n, unsigned id);
/* Says RST to the guest, unless there is no room to remember it; it learns it by its next packet.
 */
void vsock_reply_rst(struct virtio_vsock *n, uint32_t host_port, uint32_t guest_port,
                     uint16_t type);

#endif
