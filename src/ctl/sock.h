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
/* One call of it, the descriptors with the first byte. Bytes sent or -errno. */
int sock_send_fds(int fd, const void *buf, size_t bytes, const int *fds, unsigned nr) MUST_CHECK;
/* What is there, without waiting; *nr, at most max, of the descriptors that came with it are kept.
 * Bytes, 0 at the end, or -errno. */
int sock_receive_fds(int fd, void *buf, size_t bytes, int *fds, unsigned max,
                     unsigned *nr) MUST_CHECK;
/* Is the other end of this Unix socket ourselves, or root? */
bool sock_peer_is_us(int fd);

#endif
