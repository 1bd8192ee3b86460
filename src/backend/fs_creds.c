/* SPDX-License-Identifier: Apache-2.0 */
/*
 * As whom a shared folder's threads act on the host.
 *
 * With root's capabilities ("owners"): what a guest's user makes belongs to that user, by number. A
 * thread takes on his user and group for the file system alone while it makes something; it keeps
 * its capabilities, since the guest's kernel has checked his permissions already, and knows groups
 * of his that the protocol does not tell.
 *
 * Without: all that is made belongs to who runs doppel, the host's kernel checks his permissions,
 * and the guest sees what is his as root's and all else as nobody's.
 */
#include <errno.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "backend/fs_priv.h"

#define NOBODY 65534u

struct caps {
    struct __user_cap_data_struct set[2];
};

static int caps_get(struct caps *c)
{
    struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };

    return syscall(SYS_capget, &h, c->set) < 0 ? -errno : 0;
}

static bool caps_has(const struct caps *c, unsigned cap)
{
    return c->set[cap / 32].effective & BIT(cap % 32);
}

bool fs_creds_can_own(void)
{
    static const uint8_t needed[] = {
        CAP_CHOWN,  CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER,
        CAP_FSETID, CAP_SETGID,       CAP_SETUID,          CAP_SETPCAP
    };
    struct caps c;

    if (caps_get(&c) < 0)
        return false;
    for (unsigned i = 0; i < ARRAY_SIZE(needed); i++)
        if (!caps_has(&c, needed[i]))
            return false;
    return true;
}

int fs_creds_begin(void)
{
    int bits_ = prctl(PR_GET_SECUREBITS);

    if (bits_ < 0 || prctl(PR_SET_SECUREBITS, bits_ | SECBIT_NO_SETUID_FIXUP) < 0)
        return -errno;
    return 0;
}

/* setfsuid() does not say whether it did anything; another call tells who one is. */
static bool fs_become(uid_t uid, gid_t gid)
{
    (void)setfsgid(gid);
    (void)setfsuid(uid);
    return (gid_t)setfsgid((gid_t)-1) == gid && (uid_t)setfsuid((uid_t)-1) == uid;
}

int fs_creds_enter(const struct fs_share *fs, const struct fuse_in_header *h)
{
    if (!fs->owners || (h->uid == fs->uid && h->gid == fs->gid))
        return 0;
    if (h->uid != UINT32_MAX && h->gid != UINT32_MAX && fs_become(h->uid, h->gid))
        return 0;
    fs_creds_leave(fs);
    return -EPERM;
}

void fs_creds_leave(const struct fs_share *fs)
{
    if (fs->owners)
        BUG_ON(!fs_become(fs->uid, fs->gid));
}

static void fsetid_set(bool on)
{
    struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct caps c;

    BUG_ON(caps_get(&c) < 0);
    c.set[0].effective &= ~BIT(CAP_FSETID);
    c.set[0].effective |= on ? BIT(CAP_FSETID) : 0;
    /* The thread's own, and no more than it is permitted. */
    BUG_ON(syscall(SYS_capset, &h, c.set) < 0);
}

void fs_creds_drop_fsetid(const struct fs_share *fs)
{
    if (fs->owners)
        fsetid_set(false);
}

void fs_creds_back_fsetid(const struct fs_share *fs)
{
    if (fs->owners)
        fsetid_set(true);
}

uint32_t fs_uid_to_guest(const struct fs_share *fs, uid_t uid)
{
    if (fs->owners)
        return uid;
    return uid == fs->uid ? 0 : NOBODY;
}

uint32_t fs_gid_to_guest(const struct fs_share *fs, gid_t gid)
{
    if (fs->owners)
        return gid;
    return gid == fs->gid ? 0 : NOBODY;
}

/* -1: unchanged. A file of ours may be given to the guest's root, whose it is. */
int fs_owner_to_host(const struct fs_share *fs, const struct stat *st, uid_t *uid, gid_t *gid)
{
    if (fs->owners)
        return 0;
    if (*uid != (uid_t)-1 && *uid != fs_uid_to_guest(fs, st->st_uid))
        return -EPERM;
    if (*gid != (gid_t)-1 && *gid != fs_gid_to_guest(fs, st->st_gid) &&
        (*gid || st->st_uid != fs->uid))
        return -EPERM;
    if (*gid == 0)
        *gid = fs->gid;
    else
        *gid = (gid_t)-1;
    *uid = (uid_t)-1;
    return 0;
}
