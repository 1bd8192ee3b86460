/* SPDX-License-Identifier: Apache-2.0 */
/* A Unix socket that is listened on, and its file's life. Only the files of backend/ include this.
 */
#ifndef BACKEND_UNIX_H
#define BACKEND_UNIX_H

#include <sys/stat.h>
#include <sys/un.h>

#include "lib/types.h"

struct unix_listener {
    int fd;           /* -1: none */
    struct stat made; /* the file it is behind */
};

/* All give descriptors that do not block and are closed by exec. type: SOCK_STREAM or
 * SOCK_SEQPACKET. A descriptor or -errno. */
int unix_connect(const struct sockaddr_un *addr, int type) MUST_CHECK;
/*
 * Makes the file, of mode 0600; a socket there is taken for left over (who called has found that
 * nobody listens), anything else is -EEXIST. 0 or -errno.
 */
int unix_listen(struct unix_listener *l, const struct sockaddr_un *addr, int type,
                int backlog) MUST_CHECK;
/* Is the file still the one that was made? Another one may have taken its place. */
bool unix_still_ours(const struct unix_listener *l, const struct sockaddr_un *addr);
/* Closes, and removes the file if it is ours. */
void unix_unlisten(struct unix_listener *l, const struct sockaddr_un *addr);

#endif
