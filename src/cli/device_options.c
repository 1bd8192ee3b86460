/* SPDX-License-Identifier: Apache-2.0 */
/* --device and --vsock, and the transport that virtio devices have in common. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "lib/log.h"

void option_take_transport(char *text, enum vm_transport *transport)
{
    static const struct {
        const char *text;
        enum vm_transport transport;
    } ends[] = {
        { ",transport=pci", VM_TRANSPORT_PCI },
        { ",transport=mmio", VM_TRANSPORT_MMIO },
    };
    size_t len = strlen(text);

    for (unsigned i = 0; i < ARRAY_SIZE(ends); i++) {
        size_t end = strlen(ends[i].text);

        if (len < end || strcmp(text + len - end, ends[i].text) != 0)
            continue;
        text[len - end] = 0;
        *transport = ends[i].transport;
        return;
    }
}

/* ---- --device ---- */

bool option_device(void *into, const char *val)
{
    struct run_options *o = into;
    enum vm_transport transport = VM_TRANSPORT_PCI;
    char text[64];

    (void)snprintf(text, sizeof(text), "%s", val);
    if (!strcmp(text, "debug-exit")) {
        o->debug_exit = true;
        return true;
    }
    option_take_transport(text, &transport);
    if (!strcmp(text, "rng")) {
        o->rng = true;
        o->rng_transport = transport;
        return true;
    }
    if (!strcmp(text, "balloon")) {
        o->balloon = true;
        o->balloon_transport = transport;
        return true;
    }
    log_error("--device '%s' is unknown; there are debug-exit, rng and balloon, the last two with "
              ",transport=pci or mmio",
              val);
    return false;
}

/* ---- --vsock cid=N,path=F[,transport=...] ---- */

static bool vsock_set_path(struct run_options *o, const char *val)
{
    char text[2 * VSOCK_PATH_MAX];

    (void)snprintf(text, sizeof(text), "%s", val);
    o->vsock_transport = VM_TRANSPORT_PCI;
    option_take_transport(text, &o->vsock_transport);
    if (!*text || strlen(text) > VSOCK_PATH_MAX) {
        log_error("--vsock path='%s': a path there has 1 to %d bytes", val, VSOCK_PATH_MAX);
        return false;
    }
    memcpy(o->vsock_path, text, strlen(text) + 1);
    return true;
}

bool option_vsock(void *into, const char *val)
{
    static const char cid_key[] = "cid=", path_key[] = ",path=";
    struct run_options *o = into;
    const char *path = strstr(val, path_key);
    uint64_t cid;
    char text[16];

    if (strncmp(val, cid_key, strlen(cid_key)) != 0 || !path ||
        (size_t)(path - val) >= sizeof(text)) {
        log_error("--vsock '%s' is not cid=N,path=F", val);
        return false;
    }
    (void)snprintf(text, sizeof(text), "%.*s", (int)((size_t)(path - val) - strlen(cid_key)),
                   val + strlen(cid_key));
    if (!value_uint(text, VSOCK_CID_MIN, VSOCK_CID_MAX, &cid)) {
        log_error("--vsock cid='%s' is not a number from %u to %u", text, VSOCK_CID_MIN,
                  VSOCK_CID_MAX);
        return false;
    }
    o->vsock_cid = (uint32_t)cid;
    return vsock_set_path(o, path + strlen(path_key));
}
