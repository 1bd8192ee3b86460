/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where control sockets are: $XDG_RUNTIME_DIR/doppel; for root without one /run/doppel; for others
 * /tmp/doppel-UID. The directory is ours alone, or it is not used: /tmp belongs to everybody.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/ctl.h"
#include "lib/log.h"

bool ctl_name_ok(const char *name)
{
    static const char ok[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t len = strlen(name);

    return len && len <= CTL_NAME_MAX && strspn(name, ok) == len && name[0] != '.' &&
           name[0] != '-';
}

static bool dir_exists(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool ctl_dir(char *dir, size_t bytes, bool make)
{
    const char *xdg = getenv("XDG_RUNTIME_DIR");
    struct stat st;
    int n;

    if (xdg && xdg[0] == '/' && dir_exists(xdg))
        n = snprintf(dir, bytes, "%s/doppel", xdg);
    else if (geteuid() == 0 && dir_exists("/run"))
        n = snprintf(dir, bytes, "/run/doppel");
    else
        n = snprintf(dir, bytes, "/tmp/doppel-%u", (unsigned)geteuid());
    if (n < 0 || (size_t)n >= bytes) {
        log_error("the path of the control sockets, '%s/doppel', is too long", xdg ? xdg : "");
        return false;
    }
    if (make && mkdir(dir, 0700) < 0 && errno != EEXIST) {
        log_error("cannot make '%s' for the control socket: %s", dir, strerror(errno));
        return false;
    }
    /* lstat: a link that somebody else put there is not followed. */
    if (lstat(dir, &st) < 0) {
        if (make || errno != ENOENT)
            log_error("cannot look at '%s': %s", dir, strerror(errno));
        return false;
    }
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077)) {
        log_error("'%s' is not a directory that only you can enter (mode 0700): no control "
                  "sockets there",
                  dir);
        return false;
    }
    return true;
}
