/* SPDX-License-Identifier: Apache-2.0 */
/* Resource limits of a VM's process (setrlimit(2)), and so of the processes it starts. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>

#include "host/sandbox_priv.h"
#include "lib/log.h"

static const struct {
    int which;
    const char *name;
} nothing[] = {
    /* Nothing that the process needs is lost by these, and nothing that it has not is to be had. */
    { RLIMIT_CORE, "core" },
    { RLIMIT_MSGQUEUE, "msgqueue" },
    { RLIMIT_RTPRIO, "rtprio" },
};

/* Also the hard one: what is given up is not taken back. A limit is never raised. */
static int lower(int which, uint64_t to)
{
    struct rlimit now;

    if (getrlimit((__rlimit_resource_t)which, &now) < 0)
        return -errno;
    now.rlim_cur = MIN(now.rlim_cur, (rlim_t)to);
    now.rlim_max = now.rlim_cur;
    return setrlimit((__rlimit_resource_t)which, &now) < 0 ? -errno : 0;
}

int limits_set(const struct sandbox_config *cfg)
{
    const struct {
        int which;
        uint64_t val; /* 0: not asked for */
        const char *name;
    } asked[] = {
        { RLIMIT_FSIZE, cfg->fsize_bytes, "fsize" },
        { RLIMIT_NPROC, cfg->nr_procs, "nproc" },
    };
    int err;

    for (unsigned i = 0; i < ARRAY_SIZE(nothing); i++) {
        err = lower(nothing[i].which, 0);
        if (err)
            log_debug("sandbox: limit %s: %s", nothing[i].name, strerror(-err));
    }
    /* A shared folder has raised it to what it needs; who has none needs no more than is usual. */
    err = lower(RLIMIT_NOFILE, cfg->nr_files ? cfg->nr_files : UINT64_MAX);
    for (unsigned i = 0; i < ARRAY_SIZE(asked) && !err; i++)
        if (asked[i].val)
            err = lower(asked[i].which, asked[i].val);
    /* A file that becomes too large is an error of write(). */
    if (!err && cfg->fsize_bytes && signal(SIGXFSZ, SIG_IGN) == SIG_ERR)
        err = -errno;
    if (err)
        log_error("sandbox: the resource limits cannot be set: %s", strerror(-err));
    return err;
}
