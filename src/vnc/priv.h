/* SPDX-License-Identifier: Apache-2.0 */
/* Between the files of the VNC server. */
#ifndef VNC_PRIV_H
#define VNC_PRIV_H

#include "lib/types.h"

struct _rfbScreenInfo;

/* ---- picture.c ---- */
/* Calls changed() for each tile in which the two pictures, of that size in pixels and by rows,
 * differ. */
void vnc_damage(const uint32_t *was, const uint32_t *is, unsigned width, unsigned height,
                void (*changed)(void *ctx, unsigned x, unsigned y, unsigned w, unsigned h),
                void *ctx);
/* Pixels are 0x00RRGGBB. */
void vnc_set_pixel_format(struct _rfbScreenInfo *rfb);

/* ---- listen.c ---- */
struct vnc_listener {
    int fd;           /* -1: none */
    const char *path; /* of a Unix socket; NULL: TCP */
};
/* At host and port, a number, or with "unix:PATH" there, for this user only. False after a message.
 * The strings are kept. */
bool vnc_listen(struct vnc_listener *l, const char *where, const char *port);
int vnc_accept(const struct vnc_listener *l); /* a descriptor, or -1 */
void vnc_unlisten(struct vnc_listener *l);

/* For the rest of the process's life: confine.c. */
void vnc_confine(void);

#endif
