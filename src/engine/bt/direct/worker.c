/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Workers from the monitor's side: making one, the door, its end.
 */
#include "engine/bt/direct/worker.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/bt/direct/layout.h"
#include "engine/bt/direct/stub.h"
#include "host/host.h"

/* What the worker reads of the monitor; see layout.h. */
struct door_in {
    uint32_t fd_wait, fd_tell;
    uint32_t nr_cmds, go;
    uint64_t msg;
    uint64_t tsc, tsc_aux;
    uint64_t scrub_bytes;
    uint64_t rsvd[2];
    struct worker_call cmds[IN_MAX_CMDS];
};
static_assert(IN_CMDS + IN_MAX_CMDS * IN_CMD_SIZE <= IN_REGS, "layout.h");
static_assert(IN_REGS + sizeof(struct door_regs) <= IN_XSAVE, "layout.h");
static_assert(IN_XSAVE + sizeof(struct xsave_area) <= HOME_IN_BYTES, "layout.h");
static_assert(offsetof(struct door_regs, flags) == REGS_FLAGS, "layout.h");
static_assert(offsetof(struct door_regs, pc) == REGS_PC, "layout.h");
static_assert(OUT_REGS + sizeof(struct door_regs) <= OUT_XSAVE, "layout.h");
static_assert(OUT_XSAVE + sizeof(struct xsave_area) <= OUT_PUSH - 64, "layout.h");
static_assert(offsetof(struct door_in, msg) == IN_MSG, "layout.h");
static_assert(offsetof(struct door_in, tsc) == IN_TSC, "layout.h");
static_assert(offsetof(struct door_in, tsc_aux) == IN_TSC_AUX, "layout.h");
static_assert(offsetof(struct door_in, scrub_bytes) == IN_SCRUB, "layout.h");
static_assert(offsetof(struct door_in, cmds) == IN_CMDS, "layout.h");
static_assert(sizeof(struct worker_call) == IN_CMD_SIZE, "layout.h");
static_assert(sizeof(struct door_in) <= HOME_IN_BYTES, "layout.h");

struct door_out {
    uint32_t kind, nr_done;
    uint64_t ucontext, trash;
    int64_t result;
    uint32_t signal, kicked;
    uint64_t began, ended;
};
static_assert(offsetof(struct door_out, ucontext) == OUT_UCONTEXT, "layout.h");
static_assert(offsetof(struct door_out, result) == OUT_RESULT, "layout.h");
static_assert(offsetof(struct door_out, signal) == OUT_SIGNAL, "layout.h");
static_assert(offsetof(struct door_out, began) == OUT_BEGAN, "layout.h");
static_assert(offsetof(struct door_out, ended) == OUT_ENDED, "layout.h");
static_assert(sizeof(struct door_out) <= OUT_SCRATCH, "layout.h");

static struct door_in *door_in(const struct worker *w)
{
    return (struct door_in *)(w->hva + HOME_IN);
}

static const struct door_out *door_out(const struct worker *w)
{
    return (const struct door_out *)(w->hva + HOME_OUT);
}

/* ---- the door ---- */

/* Waits for the worker's word. The pipe ends when the worker does. */
static int wait_told(const struct worker *w)
{
    char msg;
    ssize_t n;

    do
        n = read(w->fd_told, &msg, 1);
    while (n < 0 && errno == EINTR);
    return n == 1 ? 0 : -EPIPE;
}

static int pass(struct worker *w, uint32_t go)
{
    uint64_t one = 1;

    door_in(w)->nr_cmds = w->nr_cmds;
    door_in(w)->go = go;
    w->nr_cmds = 0;
    if (write(w->fd_go, &one, sizeof(one)) != sizeof(one))
        return -errno;
    return wait_told(w);
}

/* The host address of something the worker says lies on its signal stack, or NULL. */
static void *on_stack(const struct worker *w, uint64_t at, uint64_t bytes)
{
    uint64_t lo = w->home + HOME_OUT + OUT_STACK, hi = w->home + HOME_OUT + HOME_OUT_BYTES;

    if (at < lo || at > hi || hi - at < bytes)
        return NULL;
    return w->hva + (at - w->home);
}

static int find_frame(struct worker *w)
{
    w->rest = REST_SIGNAL;
    w->entered = true;
    w->signal = (int)door_out(w)->signal;
    w->uc = on_stack(w, door_out(w)->ucontext, sizeof(*w->uc));
    if (!w->uc)
        return -EPROTO;
    w->fpu = w->to_fpu = on_stack(w, (uintptr_t)w->uc->uc_mcontext.fpregs, sizeof(*w->fpu));
    return w->fpu ? 0 : -EPROTO;
}

static void find_saved(struct worker *w)
{
    w->rest = REST_EXIT;
    w->entered = true;
    w->regs = (const struct door_regs *)(w->hva + HOME_OUT + OUT_REGS);
    w->to_regs = (struct door_regs *)(w->hva + HOME_IN + IN_REGS);
    w->fpu = (struct xsave_area *)(w->hva + HOME_OUT + OUT_XSAVE);
    w->to_fpu = (struct xsave_area *)(w->hva + HOME_IN + IN_XSAVE);
}

static int failed_call(const struct worker *w)
{
    int64_t res = door_out(w)->result;

    return res < 0 && res >= -4095 ? (int)res : -EPROTO;
}

int worker_sync(struct worker *w)
{
    unsigned nr = w->nr_cmds;
    int rc;

    if (!nr)
        return 0;
    rc = pass(w, GO_NOWHERE);
    if (rc < 0)
        return rc;
    if (door_out(w)->kind != KIND_DONE)
        return -EPROTO;
    return door_out(w)->nr_done == nr ? 0 : failed_call(w);
}

/* Guest code was entered: what was to be scrubbed has been. */
static void entered_by_exit(struct worker *w, uint32_t go)
{
    if (go != GO_EXIT || !door_in(w)->scrub_bytes)
        return;
    door_in(w)->scrub_bytes = 0;
    if (w->rest == REST_EXIT)
        w->uc = NULL;
}

int worker_go(struct worker *w)
{
    uint32_t go = w->rest == REST_SIGNAL ? GO_SIGNAL : GO_EXIT;
    uint64_t before = host_tsc();
    int rc = pass(w, go);

    w->ran = 0;
    if (rc < 0)
        return rc;
    if (door_out(w)->kind == KIND_SIGNAL || door_out(w)->kind == KIND_EXIT) {
        uint64_t all = host_tsc() - before, ran = door_out(w)->ended - door_out(w)->began;

        w->ran = MIN(ran, all);
    }
    switch (door_out(w)->kind) {
    case KIND_SIGNAL:
        rc = find_frame(w);
        entered_by_exit(w, go);
        return rc;
    case KIND_EXIT:
        find_saved(w);
        entered_by_exit(w, go);
        return 0;
    case KIND_BACK:
        w->entered = false;
        return 0;
    default:
        return failed_call(w);
    }
}

/*
 * What is not written again by the next entry: the saved registers of whichever way of leaving the
 * worker does not rest in, and the scratch words.
 */
void worker_scrub(struct worker *w)
{
    uint8_t *out = w->hva + HOME_OUT;

    memset(out + OUT_SCRATCH, 0, OUT_STACK - OUT_SCRATCH);
    if (w->rest == REST_SIGNAL) {
        memset(w->hva + HOME_IN + IN_REGS, 0, HOME_IN_BYTES - IN_REGS);
    } else if (w->uc) {
        /* By the stub, on the way in: a kick may be using the signal stack just now. */
        door_in(w)->scrub_bytes = (uint64_t)(out + HOME_OUT_BYTES - (uint8_t *)w->uc);
    }
}

void worker_set_tsc(struct worker *w, uint64_t offset, uint32_t aux)
{
    door_in(w)->tsc = offset;
    door_in(w)->tsc_aux = aux;
}

void worker_set_pc(struct worker *w, uint64_t pc)
{
    if (w->rest == REST_SIGNAL)
        w->uc->uc_mcontext.gregs[REG_RIP] = (greg_t)pc;
    else
        w->to_regs->pc = pc;
}

int worker_cmd(struct worker *w, const struct worker_call *call)
{
    if (w->nr_cmds == IN_MAX_CMDS) {
        int rc = worker_sync(w);

        if (rc < 0)
            return rc;
    }
    door_in(w)->cmds[w->nr_cmds++] = *call;
    return 0;
}

void worker_kick(int pid)
{
    (void)syscall(SYS_tgkill, pid, pid, WORKER_KICK_SIGNAL); /* gone: nothing to kick */
}

/* ---- life ---- */

static void close_if(int *fd)
{
    if (*fd >= 0)
        host_close(*fd);
    *fd = -1;
}

static int start(struct worker *w, const struct worker_desc *desc, int home_fd)
{
    int fds[2] = { -1, -1 }, err;
    struct worker_child k = { .desc = desc, .home_fd = home_fd, .parent = getpid() };
    pid_t pid;

    w->fd_go = eventfd(0, EFD_CLOEXEC);
    if (w->fd_go < 0 || pipe2(fds, O_CLOEXEC))
        return -errno;
    w->fd_told = fds[0];
    k.fd_wait = w->fd_go;
    k.fd_tell = fds[1];
    *door_in(w) =
        (struct door_in){ .fd_wait = (uint32_t)k.fd_wait, .fd_tell = (uint32_t)k.fd_tell };
    pid = fork();
    err = errno;
    if (!pid)
        worker_child(&k);
    close_if(&fds[1]);
    if (pid < 0)
        return -err;
    w->pid = pid;
    return wait_told(w);
}

int worker_create(struct worker *w, const struct worker_desc *desc, char *why, size_t why_bytes)
{
    int home_fd, rc, status = 0;

    BUG_ON(desc->nr_fds > WORKER_MAX_FDS);
    *w = (struct worker){ .home = desc->home, .fd_go = -1, .fd_told = -1 };
    home_fd = host_memfd("doppel-worker", HOME_BYTES);
    if (home_fd < 0) {
        (void)snprintf(why, why_bytes, "no memory for a worker: %s", strerror(-home_fd));
        return home_fd;
    }
    w->hva = mmap(NULL, HOME_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, home_fd, 0);
    if (w->hva == MAP_FAILED) {
        rc = -errno;
        w->hva = NULL;
    } else {
        memcpy(w->hva + HOME_STUB, direct_stub_begin, direct_stub_offset(direct_stub_end));
        rc = start(w, desc, home_fd);
    }
    host_close(home_fd);
    if (!rc)
        rc = find_frame(w);
    if (!rc) {
        host_delay_open(&w->delay, w->pid);
        return 0;
    }
    if (w->pid && rc == -EPIPE && waitpid(w->pid, &status, 0) == w->pid) {
        w->pid = 0;
        (void)snprintf(why, why_bytes, "a worker process failed at %s",
                       worker_child_failure(WIFEXITED(status) ? WEXITSTATUS(status) : 0));
    } else {
        (void)snprintf(why, why_bytes, "cannot start a worker process: %s", strerror(-rc));
    }
    worker_destroy(w);
    return rc;
}

bool worker_place_free(uint64_t home)
{
    void *want = (void *)(uintptr_t)home;
    void *p = mmap(want, HOME_BYTES, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);

    if (p != MAP_FAILED)
        (void)munmap(p, HOME_BYTES);
    return p == want;
}

void worker_destroy(struct worker *w)
{
    if (!w->hva)
        return;
    if (w->pid) {
        (void)kill(w->pid, SIGKILL);
        while (waitpid(w->pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    host_delay_close(&w->delay);
    close_if(&w->fd_go);
    close_if(&w->fd_told);
    (void)munmap(w->hva, HOME_BYTES);
    *w = (struct worker){ 0 };
}
