/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio console and its ports, each on a byte channel (backend/backend.h): see console.c. */
#ifndef VIRTIO_CONSOLE_H
#define VIRTIO_CONSOLE_H

#include "backend/backend.h"
#include "virtio/virtio.h"

#define VCON_PORTS_MAX  16 /* with the console, which is port 0 */
#define VCON_NAME_MAX   63 /* bytes of a port's name */
#define VCON_QUEUE_SIZE 64
#define VCON_IOV        (2 * VCON_QUEUE_SIZE)

struct vcon_config {
    uint16_t cols, rows;
    uint32_t nr_ports;
    uint32_t emergency;
};
_Static_assert(sizeof(struct vcon_config) == 12, "struct virtio_console_config");

/* All is guarded by the machine lock. */
struct vcon_port {
    struct virtio_console *con;
    struct chr *chr;  /* NULL: there is no such port */
    const char *name; /* or NULL */
    uint32_t due;     /* control messages for the driver: BIT(event) */
    bool ready;       /* the driver has it */
    bool open;        /* a program of the guest has it open */
    bool attended;    /* the host's side, as the driver was told or will be */

    /* A buffer of the guest that is not written yet, as there is no room. */
    bool holds;
    uint32_t done_bytes; /* of it; in a restored machine of the one to be popped next */
    struct virtq_chain held;
    struct host_iov iov[VCON_IOV];
    gpa_t at[VCON_IOV];
};

struct virtio_console {
    struct virtio vd;
    struct vcon_config config;
    bool sized; /* a size is known */
    struct vcon_port ports[VCON_PORTS_MAX];
};

struct vcon_desc {
    struct bus *bus;
    struct mmu *mmu;
    struct chr *console; /* or NULL: only ports */
    struct {
        struct chr *chr;
        const char *name; /* 1 to VCON_NAME_MAX bytes; stays */
    } ports[VCON_PORTS_MAX - 1];
    unsigned nr_ports;
};

/* 0 or -errno after a message. The channels are connected, and stay the caller's. */
int virtio_console_init(struct virtio_console *con, const struct vcon_desc *desc) MUST_CHECK;
/* No channel calls the device any more: before the transport goes. No locks held. */
void virtio_console_stop(struct virtio_console *con);
void virtio_console_fini(struct virtio_console *con);
/* The terminal behind the console has that size. Machine lock held. */
void virtio_console_resize(struct virtio_console *con, uint16_t cols, uint16_t rows);

#endif
