/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the API's process may still open once its VM runs. Its requests can name files then: another
 * image for a drive, the two files of a snapshot. These may be anywhere, or below the directories
 * of
 * --files; everything else is closed.
 */
#include "api/jail.h"

#include <errno.h>

#include "api/priv.h"
#include "ctl/ctl.h"
#include "host/sandbox.h"

int jail_begin(const struct api *a)
{
    return sandbox_begin(&a->cfg->sandbox);
}

/* Images are read and written, snapshots are made; and nothing else is there to be opened. */
static void allow_files(const struct api *a, const char *dir)
{
    const bool has_drives = json_array_size(a->drives);

    sandbox_allow(BIT(HOST_API), dir,
                  SANDBOX_WRITE | SANDBOX_PLACE | (has_drives ? SANDBOX_READ : SANDBOX_LIST));
}

int jail_allow(const struct api *a)
{
    const char *vsock = field_string(a->vsock, "uds_path");
    char dir[96];

    if (sandbox_isolate(json_array_size(a->nets) ? SANDBOX_KEEP_NET : 0) < 0)
        return -EPERM;
    if (!a->cfg->nr_files)
        allow_files(a, "/");
    for (unsigned i = 0; i < a->cfg->nr_files; i++)
        allow_files(a, a->cfg->files[i]);
    /* Their files are removed at the end. */
    if (a->cfg->sock_path)
        sandbox_allow_dir_of(BIT(HOST_API), a->cfg->sock_path, SANDBOX_REMOVE);
    if (vsock)
        sandbox_allow_dir_of(BIT(HOST_API), vsock, SANDBOX_REMOVE);
    if (ctl_dir(dir, sizeof(dir), false))
        sandbox_allow(BIT(HOST_API), dir, SANDBOX_REMOVE);
    return 0;
}

void jail_enter(void)
{
    sandbox_settled();
    sandbox_enter(HOST_API);
}
