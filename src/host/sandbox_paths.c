/* SPDX-License-Identifier: Apache-2.0 */
/* Landlock (landlock(7)): which files a thread can open, and which processes it can reach. */
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "host/sandbox_priv.h"

/* Newer than Debian 12's headers; the kernel tells by its ABI version what it knows. */
struct ruleset_attr {
    uint64_t handled_access_fs, handled_access_net, scoped;
};
#define FS_ALL_V1    (BIT64(13) - 1)
#define FS_REFER     BIT64(13) /* ABI 2 */
#define FS_TRUNCATE  BIT64(14) /* ABI 3 */
#define FS_IOCTL_DEV BIT64(15) /* ABI 5 */
#define SCOPE_SOCKET BIT64(0)  /* abstract Unix sockets, ABI 6 */
#define SCOPE_SIGNAL BIT64(1)  /* ABI 6 */
#define ERRATA       2u        /* of LANDLOCK_CREATE_RULESET_ERRATA */
#define ERRATUM_OWN  BIT(1)    /* fixed: threads of a process could not signal each other */

#define WRITES (LANDLOCK_ACCESS_FS_WRITE_FILE | FS_TRUNCATE)
#define PLACES (LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_REMOVE_FILE)
#define DIRS                                                                                     \
    (LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_REMOVE_DIR | FS_REFER |                    \
     LANDLOCK_ACCESS_FS_MAKE_SYM | LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO | \
     LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_BLOCK)

int paths_abi(void)
{
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

    return abi < 0 ? 0 : (int)abi;
}

static uint64_t fs_known(int abi)
{
    return FS_ALL_V1 | (abi >= 2 ? FS_REFER : 0) | (abi >= 3 ? FS_TRUNCATE : 0) |
           (abi >= 5 ? FS_IOCTL_DEV : 0);
}

static int ruleset(struct ruleset_attr attr, int abi)
{
    size_t bytes = abi >= 6 ? sizeof(attr) : abi >= 4 ? 16 : 8;
    int fd = (int)syscall(SYS_landlock_create_ruleset, &attr, bytes, 0);

    return fd < 0 ? -errno : fd;
}

int paths_shut_in(void)
{
    int abi = paths_abi(), fd, err;
    long errata = abi >= 7 ? syscall(SYS_landlock_create_ruleset, NULL, 0, ERRATA) : 0;
    bool signals = errata > 0 && (errata & ERRATUM_OWN);
    struct ruleset_attr attr = {
        .scoped = abi >= 6 ? SCOPE_SOCKET | (signals ? SCOPE_SIGNAL : 0) : 0,
    };

    if (!attr.scoped)
        return -ENOSYS;
    fd = ruleset(attr, abi);
    if (fd < 0)
        return fd;
    err = paths_enter(fd);
    (void)close(fd);
    return err;
}

int paths_new(void)
{
    int abi = paths_abi();

    return abi < 1 ? -ENOSYS
                   : ruleset((struct ruleset_attr){ .handled_access_fs = fs_known(abi) }, abi);
}

static uint64_t rights(unsigned what, bool is_dir)
{
    uint64_t fs = 0;

    if (what & SANDBOX_READ)
        fs |= LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
    if (what & SANDBOX_LIST)
        fs |= LANDLOCK_ACCESS_FS_READ_DIR;
    if (what & SANDBOX_REMOVE)
        fs |= LANDLOCK_ACCESS_FS_REMOVE_FILE;
    if (what & SANDBOX_PLACE)
        fs |= PLACES;
    if (what & SANDBOX_WRITE)
        fs |= WRITES | FS_IOCTL_DEV;
    if (what & SANDBOX_SOCKET)
        fs |= LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_REMOVE_FILE;
    if (what & SANDBOX_DIRS)
        fs |= DIRS;
    if (!is_dir)
        fs &= LANDLOCK_ACCESS_FS_READ_FILE | WRITES | FS_IOCTL_DEV;
    return fs & fs_known(paths_abi());
}

int paths_add(int rules, const char *path, unsigned what)
{
    struct landlock_path_beneath_attr one = { .parent_fd = open(path, O_PATH | O_CLOEXEC) };
    struct stat st;
    int err = 0;

    if (one.parent_fd < 0)
        return -errno;
    if (fstat(one.parent_fd, &st) < 0)
        err = -errno;
    one.allowed_access = err ? 0 : rights(what, S_ISDIR(st.st_mode));
    if (!err && syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &one, 0) < 0)
        err = -errno;
    (void)close(one.parent_fd);
    return err;
}

int paths_enter(int rules)
{
    return syscall(SYS_landlock_restrict_self, rules, 0) < 0 ? -errno : 0;
}
