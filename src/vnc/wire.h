/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the VM (ctl/vnc.c) and its VNC server (a process of its own, vnc/main.c) say to each other.
 *
 * One message is one packet of a SOCK_SEQPACKET pair. The server asks for a picture when somebody
 * looks; the VM draws it into memory that both have, and answers. From then on until it asks again
 * the memory is the server's. The VM believes the server nothing: it has spoken with the network.
 */
#ifndef VNC_WIRE_H
#define VNC_WIRE_H

#include "lib/types.h"

enum vnc_kind {
    /* from the server */
    VNC_READY,   /* it listens */
    VNC_WANT,    /* a picture */
    VNC_KEYSYM,  /* a: X11 keysym, b: 1 down, 0 up */
    VNC_POINTER, /* a: x, b: y in pixels, c: RFB's button mask */
    VNC_KEYS_UP, /* a client is gone: no key is held any more */
    /* from the VM */
    VNC_PICTURE, /* a: width, b: height; 0: there is none now */
};

struct vnc_msg {
    uint32_t kind;
    uint32_t a, b, c;
};

/* Pixels of the largest mode that the VGA has (dev/vga_vbe.c), 0x00RRGGBB each, by rows. */
#define VNC_PIXELS_MAX   (2560u * 1600u)
#define VNC_MEMORY_BYTES (VNC_PIXELS_MAX * 4u)

/* The descriptors that the server is started with. Standard error is the VM's. */
#define VNC_SOCKET_FD 3
#define VNC_MEMORY_FD 4

#endif
