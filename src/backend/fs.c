/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A shared folder: opened, its threads, closed. What requests mean is in fs_serve.c.
 *
 * A kick wakes one thread; who takes a request and sees more of them wakes the next.
 */
#include "backend/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "backend/fs_priv.h"

#define SEEN_UNSHARE  ((uint64_t)4 << 32)
#define URGENT        0u
#define OTHER         1u
#define FDS_OF_OTHERS 512u /* for the rest of the machine */
#define FILES_MAX     16384u
#define NODES_MAX     (1u << 20)
#define NR_OPEN       "/proc/sys/fs/nr_open"

struct fs_worker {
    struct fs_share *fs;
    unsigned idx;
};

/* Something to be done on the keeper's thread, by who waits for it. */
struct fs_job {
    int (*fn)(struct fs_share *fs, void *arg);
    void *arg;
    int result;
    bool done;
};

/* ---- file descriptors ---- */

/* The most that this process may have. Root may go beyond its hard limit. */
static uint64_t fds_raise(void)
{
    struct rlimit now, want;
    unsigned long long nr_open = 0;
    FILE *f = fopen(NR_OPEN, "re");

    if (f) {
        if (fscanf(f, "%llu", &nr_open) != 1)
            nr_open = 0;
        (void)fclose(f);
    }
    if (getrlimit(RLIMIT_NOFILE, &now) < 0)
        return 0;
    nr_open = MIN(nr_open, 2 * (unsigned long long)NODES_MAX);
    want = (struct rlimit){ .rlim_cur = MAX(nr_open, now.rlim_max),
                            .rlim_max = MAX(nr_open, now.rlim_max) };
    if (setrlimit(RLIMIT_NOFILE, &want) == 0)
        return want.rlim_cur;
    want = (struct rlimit){ .rlim_cur = now.rlim_max, .rlim_max = now.rlim_max };
    return setrlimit(RLIMIT_NOFILE, &want) == 0 ? want.rlim_cur : now.rlim_cur;
}

static int fs_divide_fds(struct fs_share *fs)
{
    uint64_t all = fds_raise();
    unsigned nr_shares = fs->cfg.nr_shares ? fs->cfg.nr_shares : 1;
    uint64_t mine, files;

    if (all < 2 * FDS_OF_OTHERS) {
        log_error("share '%s': a process may have only %llu open files here (ulimit -n); needed "
                  "are %u or more",
                  fs->cfg.tag, (unsigned long long)all, 2 * FDS_OF_OTHERS);
        return -EMFILE;
    }
    mine = (all - FDS_OF_OTHERS) / nr_shares;
    files = MIN(mine / 4, FILES_MAX);
    fs->max_open_nodes = (uint32_t)MIN(mine - files, NODES_MAX);
    return fs_table_open(fs, fs->mount_fd < 0 ? fs->max_open_nodes : NODES_MAX, (unsigned)files);
}

/* ---- opening ---- */

/* What everything here depends on: a file can be reached by its descriptor's name, and openat2().
 */
static int fs_probe(const struct fs_share *fs)
{
    int fd = fs_open_beneath(fs->root_fd, ".", 0);
    struct statfs st;

    if (fd < 0) {
        log_error("share '%s': openat2() fails: %s; a shared folder needs Linux 5.6 or later, and "
                  "a sandbox that allows it",
                  fs->cfg.tag, strerror(-fd));
        return fd;
    }
    (void)close(fd);
    if (statfs(fs_path(fs->root_fd).s, &st) == 0)
        return 0;
    log_error("share '%s': '%s': %s; a shared folder needs /proc", fs->cfg.tag,
              fs_path(fs->root_fd).s, strerror(errno));
    return -errno;
}

static int fs_open_root(struct fs_share *fs)
{
    fs->root_fd = open(fs->cfg.path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fs->root_fd < 0) {
        log_error("share '%s': cannot open the folder '%s': %s", fs->cfg.tag, fs->cfg.path,
                  strerror(errno));
        return -errno;
    }
    if (access(fs->cfg.path, R_OK | X_OK) < 0) {
        log_error("share '%s': cannot read the folder '%s': %s", fs->cfg.tag, fs->cfg.path,
                  strerror(errno));
        (void)close(fs->root_fd);
        fs->root_fd = -1;
        return -EACCES;
    }
    return 0;
}

struct fs_share *fs_open(const struct fs_config *cfg)
{
    struct fs_share *fs = calloc(1, sizeof(*fs));

    if (!fs) {
        log_error("share '%s': out of memory", cfg->tag);
        return NULL;
    }
    fs->cfg = *cfg;
    fs->root_fd = fs->mount_fd = -1;
    fs->owners = fs_creds_can_own();
    fs->uid = geteuid();
    fs->gid = getegid();
    lock_init(&fs->lock, LOCK_LEAF);
    lock_init(&fs->wake, LOCK_LEAF);
    cond_init(&fs->begun);
    cond_init(&fs->job_changed);
    for (unsigned i = 0; i < ARRAY_SIZE(fs->waiters); i++)
        cond_init(&fs->waiters[i].more);
    if (fs_open_root(fs) == 0)
        fs_handles_open(fs);
    if (fs->root_fd < 0 || fs_probe(fs) < 0 || fs_divide_fds(fs) < 0) {
        fs_close(fs);
        return NULL;
    }
    if (!fs->owners)
        log_debug("share '%s': not root: all that the guest makes belongs to user %u, whose files "
                  "the guest sees as root's",
                  cfg->tag, fs->uid);
    return fs;
}

void fs_close(struct fs_share *fs)
{
    if (!fs)
        return;
    fs_end_session(fs);
    fs_table_close(fs);
    if (fs->mount_fd >= 0)
        (void)close(fs->mount_fd);
    if (fs->root_fd >= 0)
        (void)close(fs->root_fd);
    for (unsigned i = 0; i < ARRAY_SIZE(fs->waiters); i++)
        cond_destroy(&fs->waiters[i].more);
    cond_destroy(&fs->begun);
    cond_destroy(&fs->job_changed);
    lock_destroy(&fs->wake);
    lock_destroy(&fs->lock);
    free(fs);
}

const char *fs_tag(const struct fs_share *fs)
{
    return fs->cfg.tag;
}

/* ---- threads ---- */

void fs_kick(struct fs_share *fs, bool urgent)
{
    struct fs_waiters *w = &fs->waiters[urgent ? URGENT : OTHER];

    lock_take(&fs->wake);
    w->kicked = true;
    if (w->nr_idle)
        cond_wake_one(&w->more);
    lock_drop(&fs->wake);
}

int fs_thread_begin(struct fs_share *fs)
{
    /* Modes come from the guest, whose kernel has applied its program's mask; the mask is the
     * thread's own from here on. Some sandboxes forbid that. */
    if (unshare(CLONE_FS) == 0)
        (void)umask(0);
    else if (log_first(&fs->seen, SEEN_UNSHARE))
        log_warn("share '%s': unshare() fails: %s; new files get no permissions that doppel's own "
                 "umask takes away",
                 fs->cfg.tag, strerror(errno));
    return fs->owners ? fs_creds_begin() : 0;
}

/* Tells who waits for all threads, and takes the lock `wake`. False: it cannot serve. */
static bool thread_begins(struct fs_share *fs)
{
    int err = fs_thread_begin(fs);

    lock_take(&fs->wake);
    fs->nr_begun++;
    if (err)
        fs->begin_error = err;
    cond_wake_all(&fs->begun);
    return !err;
}

static void worker_work(struct fs_share *fs, unsigned idx)
{
    struct fs_req *r;
    bool more;

    if (idx == URGENT)
        fs_collect(fs);
    while ((r = fs->client.take(fs->client.arg, idx, &more))) {
        if (more && idx != URGENT)
            fs_kick(fs, false);
        fs_serve(fs, r);
        fs->client.done(fs->client.arg, idx, r);
    }
}

static void *worker_run(void *arg)
{
    const struct fs_worker *me = arg;
    struct fs_share *fs = me->fs;
    struct fs_waiters *w = &fs->waiters[me->idx ? OTHER : URGENT];
    bool can = thread_begins(fs);

    while (!fs->quit && can) {
        if (!w->kicked) {
            w->nr_idle++;
            cond_wait(&w->more, &fs->wake);
            w->nr_idle--;
            continue;
        }
        w->kicked = false;
        lock_drop(&fs->wake);
        worker_work(fs, me->idx);
        lock_take(&fs->wake);
    }
    lock_drop(&fs->wake);
    return NULL;
}

/*
 * The keeper saves and loads the share's state: with the rights that the workers have, which who
 * asks for it need not have; and none of the workers, which may wait for a lock that he holds.
 */
static void *keeper_run(void *arg)
{
    struct fs_share *fs = arg;
    bool can = thread_begins(fs);

    while (!fs->quit && can) {
        struct fs_job *job = fs->job;

        if (!job || job->done) {
            cond_wait(&fs->job_changed, &fs->wake);
            continue;
        }
        lock_drop(&fs->wake);
        job->result = job->fn(fs, job->arg);
        lock_take(&fs->wake);
        job->done = true;
        cond_wake_all(&fs->job_changed);
    }
    lock_drop(&fs->wake);
    return NULL;
}

int fs_do(struct fs_share *fs, int (*fn)(struct fs_share *fs, void *arg), void *arg)
{
    struct fs_job job = { .fn = fn, .arg = arg };

    if (!fs->workers) /* a test's, without threads */
        return fn(fs, arg);
    lock_take(&fs->wake);
    BUG_ON(fs->job); /* the machine has one lock for all who load and save */
    fs->job = &job;
    cond_wake_all(&fs->job_changed);
    while (!job.done)
        cond_wait(&fs->job_changed, &fs->wake);
    fs->job = NULL;
    lock_drop(&fs->wake);
    return job.result;
}

static int fs_wait_begun(struct fs_share *fs, unsigned nr)
{
    int err;

    lock_take(&fs->wake);
    while (fs->nr_begun < nr)
        cond_wait(&fs->begun, &fs->wake);
    err = fs->begin_error;
    lock_drop(&fs->wake);
    return err;
}

int fs_start(struct fs_share *fs, const struct fs_client *client)
{
    unsigned nr = 0;
    int err = 0;

    fs->client = *client;
    fs->workers = calloc(FS_WORKERS, sizeof(fs->workers[0]));
    if (!fs->workers)
        err = -ENOMEM;
    for (; nr < FS_WORKERS && !err; nr++) {
        fs->workers[nr] = (struct fs_worker){ .fs = fs, .idx = nr };
        err = thread_start_as(&fs->threads[nr], HOST_SHARE, fs->cfg.tag, worker_run,
                              &fs->workers[nr]);
        if (err)
            break;
    }
    if (!err)
        err = thread_start_as(&fs->keeper, HOST_SHARE, fs->cfg.tag, keeper_run, fs);
    if (!err)
        err = fs_wait_begun(fs, nr + 1);
    if (!err)
        return 0;
    log_error("share '%s': cannot start its threads: %s", fs->cfg.tag, strerror(-err));
    fs_stop(fs);
    return err;
}

void fs_stop(struct fs_share *fs)
{
    lock_take(&fs->wake);
    fs->quit = true;
    for (unsigned i = 0; i < ARRAY_SIZE(fs->waiters); i++)
        cond_wake_all(&fs->waiters[i].more);
    cond_wake_all(&fs->job_changed);
    lock_drop(&fs->wake);
    for (unsigned i = 0; i < FS_WORKERS; i++)
        thread_join(&fs->threads[i]);
    thread_join(&fs->keeper);
    free(fs->workers);
    fs->workers = NULL;
}
