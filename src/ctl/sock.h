/* SPDX-License-Identifier: Apache-2.0 */
/* Sockets for the files of ctl/: all close-on-exec; -errno on failure. */
#ifndef CTL_SOCK_H
#define CTL_SOCK_H

#include "lib/types.h"

int sock_listen_unix(const char *path);
int sock_listen_tcp(uint16_t port); /* on 127.0.0.1 */
int sock_connect_unix(const char *path);
int sock_accept(int listen_fd);
/* All of it, waiting up to a second for a peer that does not read; SIGPIPE is not raised. */
int sock_send(int fd, const void *buf, size_t bytes) MUST_CHECK;
/* Is the other end of this Unix socket ourselves, or root? */
bool sock_peer_is_us(int fd);

#endif
