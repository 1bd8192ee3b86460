/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Namespaces of a VM's process: mounts, IPC, host name, control groups, and network where nothing
 * needs the host's; for who is not root inside a user namespace in which its user is what it was.
 *
 * They are entered while there is one thread and nothing is open yet (namespaces(7)); once all is
 * open the root becomes an empty file system in which there is only what is on the lists for
 * Landlock, at its old place (pivot_root(2)).
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "host/sandbox_priv.h"
#include "lib/log.h"

#define ROOT_BYTES "1m" /* of the empty file system: directories and names */

struct ns_path {
    char *name, *real; /* absolute, as it was given; without links */
    unsigned what;
    int tree; /* a copy of what is mounted there; -1: it is inside another's */
};

/* The process's, as its namespaces are. */
static struct {
    struct ns_path *paths;
    size_t nr, room;
    bool entered, own_user, whole; /* whole: the list has the root itself */
} sandbox_ns;

/* ---- the list ---- */

void ns_path(const char *path, unsigned what)
{
    char *real = realpath(path, NULL), *name = NULL, *cwd;

    if (!real)
        return; /* not there: not needed */
    if (!strcmp(real, "/"))
        sandbox_ns.whole = true;
    if (*path == '/') {
        name = strdup(path);
    } else {
        cwd = getcwd(NULL, 0);
        if (cwd && asprintf(&name, "%s/%s", cwd, path) < 0)
            name = NULL;
        free(cwd);
    }
    for (size_t i = 0; i < sandbox_ns.nr && name; i++) {
        if (strcmp(sandbox_ns.paths[i].name, name) != 0)
            continue;
        sandbox_ns.paths[i].what |= what;
        free(name);
        free(real);
        return;
    }
    if (sandbox_ns.nr == sandbox_ns.room) {
        size_t room = 2 * sandbox_ns.room + 16;
        struct ns_path *more = realloc(sandbox_ns.paths, room * sizeof(*more));

        BUG_ON(!more);
        sandbox_ns.paths = more;
        sandbox_ns.room = room;
    }
    BUG_ON(!name);
    sandbox_ns.paths[sandbox_ns.nr++] =
        (struct ns_path){ .name = name, .real = real, .what = what, .tree = -1 };
}

/* ---- going in ---- */

static int write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC), err;

    if (fd < 0)
        return -errno;
    err = write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : -errno;
    (void)close(fd);
    return err;
}

static int has_capability(unsigned cap)
{
    struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct now[_LINUX_CAPABILITY_U32S_3];

    return syscall(SYS_capget, &head, now) == 0 && now[cap / 32].effective & BIT(cap % 32);
}

/* In a new user namespace a process has them all; what is needed is what mounts. */
static int keep_sys_admin(void)
{
    struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct some[_LINUX_CAPABILITY_U32S_3] = {
        [0] = { .effective = BIT(CAP_SYS_ADMIN), .permitted = BIT(CAP_SYS_ADMIN) },
    };

    return syscall(SYS_capset, &head, some) < 0 ? -errno : 0;
}

/* Who we are stays who we are: nobody else is there (user_namespaces(7)). */
static int enter_user(void)
{
    unsigned uid = geteuid(), gid = getegid();
    char line[64];
    int err;

    if (unshare(CLONE_NEWUSER) < 0)
        return -errno;
    sandbox_ns.own_user = true;
    err = write_file("/proc/self/setgroups", "deny");
    (void)snprintf(line, sizeof(line), "%u %u 1", uid, uid);
    if (!err)
        err = write_file("/proc/self/uid_map", line);
    (void)snprintf(line, sizeof(line), "%u %u 1", gid, gid);
    return err ? err : write_file("/proc/self/gid_map", line);
}

int ns_enter(bool own_net)
{
    const int spaces = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;
    int err = 0;

    if (sandbox_ns.entered)
        return 0;
    if (!has_capability(CAP_SYS_ADMIN))
        err = enter_user();
    if (!err && unshare(spaces | (own_net ? CLONE_NEWNET : 0)) < 0)
        err = -errno;
    /* What is mounted here is nobody else's business. */
    if (!err && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        err = -errno;
    if (!err && sandbox_ns.own_user)
        err = keep_sys_admin();
    sandbox_ns.entered = !err;
    return err;
}

bool ns_own_user(void)
{
    return sandbox_ns.own_user;
}

/* ---- the empty root ---- */

static bool is_below(const char *path, const char *dir)
{
    size_t len = strlen(dir);

    return !strncmp(path, dir, len) && (path[len] == '/' || !path[len]);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct ns_path *)a)->real, ((const struct ns_path *)b)->real);
}

/* A copy of what is there, with no more than it is needed for. */
static int copy_tree(struct ns_path *p, unsigned what)
{
    struct mount_attr attr = { .attr_set =
                                   MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC };

    if (!(what & ~(SANDBOX_READ | SANDBOX_LIST)))
        attr.attr_set |= MOUNT_ATTR_RDONLY;
    p->tree = open_tree(AT_FDCWD, p->real, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
    if (p->tree < 0)
        return errno == ENOENT ? 0 : -errno;
    /* Linux 5.12; without it Landlock alone holds who writes. */
    if (mount_setattr(p->tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof(attr)) < 0)
        log_debug("sandbox: '%s' is not mounted read-only: %s", p->real, strerror(errno));
    return 0;
}

/* Each path once: what is inside another comes with that one. */
static int copy_trees(void)
{
    const struct ns_path *last = NULL;
    int err = 0;

    qsort(sandbox_ns.paths, sandbox_ns.nr, sizeof(*sandbox_ns.paths), by_name);
    for (size_t i = 0; i < sandbox_ns.nr && !err; i++) {
        unsigned what = 0;

        if (last && is_below(sandbox_ns.paths[i].real, last->real))
            continue;
        last = &sandbox_ns.paths[i];
        for (size_t k = i; k < sandbox_ns.nr; k++)
            if (is_below(sandbox_ns.paths[k].real, last->real))
                what |= sandbox_ns.paths[k].what;
        err = copy_tree(&sandbox_ns.paths[i], what);
    }
    return err;
}

/* All directories above the path, in the new root. */
static int make_dirs(int root, const char *path)
{
    char part[PATH_MAX];

    for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        (void)snprintf(part, sizeof(part), "%.*s", (int)(slash - path - 1), path + 1);
        if (*part && mkdirat(root, part, 0755) < 0 && errno != EEXIST)
            return -errno;
    }
    return 0;
}

static int place_tree(int root, const struct ns_path *p)
{
    struct stat st;
    int err = make_dirs(root, p->real), fd;

    if (!err && fstat(p->tree, &st) < 0)
        err = -errno;
    if (err)
        return err;
    if (S_ISDIR(st.st_mode)) {
        if (mkdirat(root, p->real + 1, 0755) < 0 && errno != EEXIST)
            return -errno;
    } else {
        fd = openat(root, p->real + 1, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        if (fd < 0)
            return -errno;
        (void)close(fd);
    }
    return move_mount(p->tree, "", root, p->real + 1, MOVE_MOUNT_F_EMPTY_PATH) < 0 ? -errno : 0;
}

/* The name that it is called by, when there are links in that. */
static int place_name(int root, const struct ns_path *p)
{
    int err;

    if (!strcmp(p->name, p->real) || strstr(p->name, "/.."))
        return 0;
    err = make_dirs(root, p->name);
    /* There already: by way of links that are there, too. */
    if (!err && symlinkat(p->real, root, p->name + 1) < 0 && errno != EEXIST && errno != EROFS)
        err = -errno;
    return err;
}

/* A new tmpfs, mounted where it is in nobody's way: what is there has been copied. */
static int make_root(void)
{
    int fs = fsopen("tmpfs", FSOPEN_CLOEXEC), root = -1, err = 0;

    if (fs < 0)
        return -errno;
    if (fsconfig(fs, FSCONFIG_SET_STRING, "size", ROOT_BYTES, 0) < 0 ||
        fsconfig(fs, FSCONFIG_SET_STRING, "mode", "0755", 0) < 0 ||
        fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
        err = -errno;
    if (!err) {
        root =
            fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
        if (root < 0 || move_mount(root, "", AT_FDCWD, "/proc", MOVE_MOUNT_F_EMPTY_PATH) < 0)
            err = -errno;
    }
    (void)close(fs);
    if (err && root >= 0)
        (void)close(root);
    return err ? err : root;
}

static int fill_root(int root, const char *cwd)
{
    struct mount_attr readonly = { .attr_set = MOUNT_ATTR_RDONLY };
    int err = 0;

    for (size_t i = 0; i < sandbox_ns.nr && !err; i++)
        if (sandbox_ns.paths[i].tree >= 0)
            err = place_tree(root, &sandbox_ns.paths[i]);
    for (size_t i = 0; i < sandbox_ns.nr && !err; i++)
        err = place_name(root, &sandbox_ns.paths[i]);
    if (!err)
        err = make_dirs(root, cwd);
    if (!err && cwd[1] && mkdirat(root, cwd + 1, 0755) < 0 && errno != EEXIST && errno != EROFS)
        err = -errno;
    if (!err && mount_setattr(root, "", AT_EMPTY_PATH, &readonly, sizeof(readonly)) < 0)
        log_debug("sandbox: the empty root is not read-only: %s", strerror(errno));
    return err;
}

/* Both are "." for a moment: the old one lies on the new one, and goes (pivot_root(2), NOTES). */
static int enter_root(int root, const char *cwd)
{
    if (fchdir(root) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 ||
        chdir("/") < 0 || chdir(cwd) < 0)
        return -errno;
    return 0;
}

int ns_leave_files(void)
{
    int err, root = -1;
    char *cwd;

    if (sandbox_ns.whole) {
        log_debug("sandbox: all files stay in view: some may be named at any time");
        return 0;
    }
    cwd = getcwd(NULL, 0);
    if (!cwd)
        return -errno;
    err = copy_trees();
    if (!err) {
        root = make_root();
        err = root < 0 ? root : fill_root(root, cwd);
    }
    if (!err)
        err = enter_root(root, cwd);
    if (root >= 0)
        (void)close(root);
    for (size_t i = 0; i < sandbox_ns.nr; i++)
        if (sandbox_ns.paths[i].tree >= 0)
            (void)close(sandbox_ns.paths[i].tree);
    free(cwd);
    return err;
}
