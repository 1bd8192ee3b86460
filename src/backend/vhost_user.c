/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages of the vhost-user protocol: see vhost_user.h. The other side is a process of somebody
 * who may have the guest's memory, and is trusted with that much; what it answers is checked all
 * the same, for a mistake of it should be told as one.
 */
#include "backend/vhost_user.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/log.h"

#define NS_PER_MS   1000000ull
#define ANSWER_NS   (10000 * NS_PER_MS)
#define PAYLOAD_MAX sizeof(struct vhu_mem_table)

/* "Header" */
#define VERSION      1u
#define VERSION_MASK 3u
#define IS_REPLY     BIT(2)
#define NEED_REPLY   BIT(3)
struct vhu_header {
    uint32_t request, flags, bytes;
};
_Static_assert(sizeof(struct vhu_header) == 12 && sizeof(struct vhu_region) == 32 &&
                   sizeof(struct vhu_mem_table) == 264 && sizeof(struct vhu_vring_addr) == 40,
               "Vhost-user Protocol, Message Specification");

static const char *request_name(enum vhu_request request)
{
    static const char *const names[] = {
        [VHU_GET_FEATURES] = "GET_FEATURES",
        [VHU_SET_FEATURES] = "SET_FEATURES",
        [VHU_SET_OWNER] = "SET_OWNER",
        [VHU_SET_MEM_TABLE] = "SET_MEM_TABLE",
        [VHU_SET_VRING_NUM] = "SET_VRING_NUM",
        [VHU_SET_VRING_ADDR] = "SET_VRING_ADDR",
        [VHU_SET_VRING_BASE] = "SET_VRING_BASE",
        [VHU_GET_VRING_BASE] = "GET_VRING_BASE",
        [VHU_SET_VRING_KICK] = "SET_VRING_KICK",
        [VHU_SET_VRING_CALL] = "SET_VRING_CALL",
        [VHU_GET_PROTOCOL_FEATURES] = "GET_PROTOCOL_FEATURES",
        [VHU_SET_PROTOCOL_FEATURES] = "SET_PROTOCOL_FEATURES",
        [VHU_SET_VRING_ENABLE] = "SET_VRING_ENABLE",
        [VHU_GET_CONFIG] = "GET_CONFIG",
    };

    return names[request];
}

/* Says it, and shuts the connection. */
PRINTF_LIKE(4, 5)
static int vhu_fail(struct vhu *v, enum vhu_request request, int err, const char *fmt, ...)
{
    char text[160];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    log_error("%s: the vhost-user process at '%s', %s: %s", v->name, v->what, request_name(request),
              text);
    (void)shutdown(v->fd, SHUT_RDWR); /* it may be so already */
    return err;
}

/* ---- bytes ---- */

static int vhu_send(struct vhu *v, const struct vhu_header *h, const void *payload, const int *fds,
                    unsigned nr_fds)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(VHU_REGIONS_MAX * sizeof(int))];
    } control = { .head = { .cmsg_level = SOL_SOCKET,
                            .cmsg_type = SCM_RIGHTS,
                            .cmsg_len = CMSG_LEN(nr_fds * sizeof(int)) } };
    struct iovec iov[] = { { (void *)(uintptr_t)h, sizeof(*h) },
                           { (void *)(uintptr_t)payload, h->bytes } };
    struct msghdr msg = { .msg_iov = iov,
                          .msg_iovlen = ARRAY_SIZE(iov),
                          .msg_control = nr_fds ? &control : NULL,
                          .msg_controllen = nr_fds ? CMSG_SPACE(nr_fds * sizeof(int)) : 0 };
    ssize_t n;

    if (nr_fds)
        memcpy(CMSG_DATA(&control.head), fds, nr_fds * sizeof(int));
    n = sendmsg(v->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n == (ssize_t)(sizeof(*h) + h->bytes))
        return 0;
    return vhu_fail(v, h->request, n < 0 ? -errno : -EIO, "it does not take messages: %s",
                    n < 0 ? strerror(errno) : "it reads nothing");
}

/* All of it, until then. Descriptors that come along are not taken, and so closed by the kernel. */
static int vhu_receive(struct vhu *v, enum vhu_request request, void *buf, size_t bytes,
                       uint64_t until_ns)
{
    size_t done = 0;

    while (done < bytes) {
        struct pollfd pfd = { .fd = v->fd, .events = POLLIN };
        uint64_t now = host_mono_ns();
        ssize_t n;

        if (now >= until_ns)
            return vhu_fail(v, request, -ETIMEDOUT, "it does not answer");
        if (poll(&pfd, 1, (int)((until_ns - now) / NS_PER_MS) + 1) <= 0)
            continue;
        n = recv(v->fd, (uint8_t *)buf + done, bytes - done, MSG_DONTWAIT);
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (n <= 0)
            return vhu_fail(v, request, n < 0 ? -errno : -ECONNRESET, "%s",
                            n < 0 ? strerror(errno) : "it hung up");
        done += (size_t)n;
    }
    return 0;
}

/* The answer has to be one to this request, of so many bytes. */
static int vhu_answer(struct vhu *v, enum vhu_request request, void *payload, uint32_t bytes)
{
    uint64_t until_ns = host_mono_ns() + ANSWER_NS;
    struct vhu_header h;
    int err = vhu_receive(v, request, &h, sizeof(h), until_ns);

    if (err)
        return err;
    if (h.request != request || (h.flags & VERSION_MASK) != VERSION || !(h.flags & IS_REPLY))
        return vhu_fail(v, request, -EPROTO, "what comes back is no answer to that (%u, flags %#x)",
                        h.request, h.flags);
    if (h.bytes != bytes)
        return vhu_fail(v, request, -EPROTO, "its answer has %u bytes instead of %u", h.bytes,
                        bytes);
    return vhu_receive(v, request, payload, bytes, until_ns);
}

/* ---- messages ---- */

static int vhu_set_locked(struct vhu *v, enum vhu_request request, const void *payload,
                          uint32_t bytes, const int *fds, unsigned nr_fds)
{
    bool acked = v->protocol & VHU_PROTOCOL_REPLY_ACK;
    struct vhu_header h = { request, VERSION | (acked ? NEED_REPLY : 0), bytes };
    int err = vhu_send(v, &h, payload, fds, nr_fds);
    uint64_t result = 0;

    if (!err && acked)
        err = vhu_answer(v, request, &result, sizeof(result));
    if (!err && result)
        err = vhu_fail(v, request, -EIO, "it refuses that");
    return err;
}

int vhu_set_fds(struct vhu *v, enum vhu_request request, const void *payload, uint32_t bytes,
                const int *fds, unsigned nr_fds)
{
    int err;

    BUG_ON(bytes > PAYLOAD_MAX || nr_fds > VHU_REGIONS_MAX);
    lock_take(&v->lock);
    err = vhu_set_locked(v, request, payload, bytes, fds, nr_fds);
    lock_drop(&v->lock);
    return err;
}

int vhu_set(struct vhu *v, enum vhu_request request, const void *payload, uint32_t bytes)
{
    return vhu_set_fds(v, request, payload, bytes, NULL, 0);
}

int vhu_set_u64(struct vhu *v, enum vhu_request request, uint64_t val)
{
    return vhu_set(v, request, &val, sizeof(val));
}

/* A question of no bytes has an answer of 8. */
static int vhu_get_u64(struct vhu *v, enum vhu_request request, uint64_t *val)
{
    struct vhu_header h = { request, VERSION, 0 };
    int err;

    lock_take(&v->lock);
    err = vhu_send(v, &h, NULL, NULL, 0);
    if (!err)
        err = vhu_answer(v, request, val, sizeof(*val));
    lock_drop(&v->lock);
    return err;
}

int vhu_ask(struct vhu *v, enum vhu_request request, void *payload, uint32_t bytes)
{
    struct vhu_header h = { request, VERSION, bytes };
    int err;

    lock_take(&v->lock);
    err = vhu_send(v, &h, payload, NULL, 0);
    if (!err)
        err = vhu_answer(v, request, payload, bytes);
    lock_drop(&v->lock);
    return err;
}

int vhu_read_config(struct vhu *v, void *buf, uint32_t bytes)
{
    struct vhu_config c = { .bytes = bytes };
    int err;

    BUG_ON(bytes > VHU_CONFIG_MAX);
    err = vhu_ask(v, VHU_GET_CONFIG, &c, (uint32_t)offsetof(struct vhu_config, data) + bytes);
    if (!err && (c.off_bytes || c.bytes != bytes))
        err = vhu_fail(v, VHU_GET_CONFIG, -EPROTO, "its answer is about other bytes");
    if (!err)
        memcpy(buf, c.data, bytes);
    return err;
}

/* ---- connecting ---- */

static int vhu_connect(struct vhu *v)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };

    if (!*v->what || strlen(v->what) >= sizeof(addr.sun_path)) {
        log_error("%s: '%s' is too long for a socket", v->name, v->what);
        return -ENAMETOOLONG;
    }
    memcpy(addr.sun_path, v->what, strlen(v->what));
    v->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (v->fd < 0 || connect(v->fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0) {
        int err = -errno;

        log_error("%s: cannot connect to the vhost-user socket '%s': %s", v->name, v->what,
                  strerror(-err));
        return err;
    }
    return 0;
}

static int vhu_agree(struct vhu *v, uint64_t *features)
{
    const uint64_t wanted = VHU_PROTOCOL_CONFIG | VHU_PROTOCOL_REPLY_ACK;
    uint64_t protocol = 0;
    int err = vhu_get_u64(v, VHU_GET_FEATURES, features);

    if (!err && (*features & VHU_F_PROTOCOL_FEATURES))
        err = vhu_get_u64(v, VHU_GET_PROTOCOL_FEATURES, &protocol);
    if (!err && !(protocol & VHU_PROTOCOL_CONFIG))
        err = vhu_fail(v, VHU_GET_PROTOCOL_FEATURES, -EOPNOTSUPP,
                       "it cannot be asked for the device's configuration (CONFIG)");
    if (!err)
        err = vhu_set_u64(v, VHU_SET_PROTOCOL_FEATURES, protocol & wanted);
    if (err)
        return err;
    v->protocol = protocol & wanted;
    *features &= ~VHU_F_PROTOCOL_FEATURES;
    return vhu_set(v, VHU_SET_OWNER, NULL, 0);
}

int vhu_open(struct vhu *v, const char *name, const char *path, uint64_t *features)
{
    int err;

    *v = (struct vhu){ .fd = -1, .name = name, .what = path };
    lock_init(&v->lock, LOCK_LEAF);
    err = vhu_connect(v);
    if (!err)
        err = vhu_agree(v, features);
    if (err)
        vhu_close(v);
    return err;
}

void vhu_close(struct vhu *v)
{
    if (v->fd >= 0)
        (void)close(v->fd);
    v->fd = -1;
    lock_destroy(&v->lock);
}
