/* SPDX-License-Identifier: Apache-2.0 */
/* Between the files of the VNC server. */
#ifndef VNC_PRIV_H
#define VNC_PRIV_H

#include "lib/types.h"

struct nvnc;
struct pixman_region16;

/* ---- damage.c ---- */
/* Adds where the two pictures, of that size in pixels and by rows, differ, in tiles. */
void vnc_damage(struct pixman_region16 *damage, const uint32_t *was, const uint32_t *is,
                unsigned width, unsigned height);

/* ---- listen.c ---- */
/* May a socket be made there? Nothing, or one that nobody listens on. False after a message. */
bool vnc_socket_free(const char *path);
/* A password is only taken through TLS, with a certificate made now and signed by itself. False
 * after a message. */
bool vnc_enable_tls(struct nvnc *nvnc,
                    bool (*check)(const char *name, const char *password, void *userdata),
                    void *userdata);

#endif
