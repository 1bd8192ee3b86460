/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The front-end's side of the vhost-user protocol: messages to a process that serves a virtio
 * device by rings in memory that both have. What the device is, and the rings, are the caller's
 * (store_vhost.c).
 *
 * Manual: "Vhost-user Protocol" (of QEMU's documentation, Interoperability).
 */
#ifndef BACKEND_VHOST_USER_H
#define BACKEND_VHOST_USER_H

#include "host/host.h"
#include "lib/types.h"

/* "Front-end message types" */
enum vhu_request {
    VHU_GET_FEATURES = 1,
    VHU_SET_FEATURES = 2,
    VHU_SET_OWNER = 3,
    VHU_SET_MEM_TABLE = 5,
    VHU_SET_VRING_NUM = 8,
    VHU_SET_VRING_ADDR = 9,
    VHU_SET_VRING_BASE = 10,
    VHU_GET_VRING_BASE = 11,
    VHU_SET_VRING_KICK = 12,
    VHU_SET_VRING_CALL = 13,
    VHU_GET_PROTOCOL_FEATURES = 15,
    VHU_SET_PROTOCOL_FEATURES = 16,
    VHU_SET_VRING_ENABLE = 18,
    VHU_GET_CONFIG = 24,
};

#define VHU_F_PROTOCOL_FEATURES BIT64(30) /* among the device's features */
/* "Protocol features" */
#define VHU_PROTOCOL_REPLY_ACK  BIT64(3)
#define VHU_PROTOCOL_CONFIG     BIT64(9)

struct vhu_vring_state {
    uint32_t index, num;
};

struct vhu_vring_addr {
    uint32_t index, flags;
    uint64_t desc, used, avail, log; /* as user addresses of regions */
};

#define VHU_REGIONS_MAX 8u
struct vhu_region {
    uint64_t guest_at, bytes, user_at, fd_off_bytes;
};
struct vhu_mem_table {
    uint32_t nr, padding;
    struct vhu_region regions[VHU_REGIONS_MAX];
};

#define VHU_CONFIG_MAX 256u
struct vhu_config {
    uint32_t off_bytes, bytes, flags;
    uint8_t data[VHU_CONFIG_MAX];
};

/* A connection. Messages are sent and answered one at a time, by any thread. */
struct vhu {
    int fd;                  /* -1: none */
    const char *name, *what; /* for messages: "disk0", the socket's path */
    uint64_t protocol;       /* features of the protocol that were agreed on */
    struct lock lock;        /* LOCK_LEAF: one message and its answer */
};

/*
 * Connects, agrees on the protocol's features (VHU_PROTOCOL_CONFIG has to be among them), and tells
 * what the device has (VHU_F_PROTOCOL_FEATURES not among it). 0, or -errno after a message. Strings
 * are borrowed.
 */
int vhu_open(struct vhu *v, const char *name, const char *path, uint64_t *features) MUST_CHECK;
/* One that is not open is fine, a zeroed one not. */
void vhu_close(struct vhu *v);

/* Each 0, or -errno after a message: it hung up, does not answer in time, or answers nonsense. The
 * connection is of no use then, and is shut. */
int vhu_set(struct vhu *v, enum vhu_request request, const void *payload,
            uint32_t bytes) MUST_CHECK;
int vhu_set_u64(struct vhu *v, enum vhu_request request, uint64_t val) MUST_CHECK;
/* With descriptors, which stay the caller's. */
int vhu_set_fds(struct vhu *v, enum vhu_request request, const void *payload, uint32_t bytes,
                const int *fds, unsigned nr_fds) MUST_CHECK;
/* A request whose answer has as many bytes, and takes the payload's place. */
int vhu_ask(struct vhu *v, enum vhu_request request, void *payload, uint32_t bytes) MUST_CHECK;
/* [0, bytes) of the device's configuration space. */
int vhu_read_config(struct vhu *v, void *buf, uint32_t bytes) MUST_CHECK;

#endif
