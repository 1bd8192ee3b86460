/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The VM's side of VNC: starts the server, draws when it asks, and gives its keys and its pointer
 * to the PS/2 keyboard and mouse. All in one thread, which no vCPU ever waits for.
 *
 * The server (vnc/main.c) is a program of its own beside this one, since it reads what the network
 * sends it and needs libraries that nobody else here does. When it dies the VM goes on.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ctl/ctl.h"
#include "ctl/keysym.h"
#include "dev/vga.h"
#include "host/host.h"
#include "lib/log.h"
#include "vnc/wire.h"

#define SERVER_NAME     "doppel-vnc"
#define SERVER_GRACE_MS 2000 /* until it is killed */
#define KEYS_MAX        256u /* that the guest has not taken yet */
#define KEYS_KEPT       64u  /* of them, for keys that go up */
#define HELD_MAX        32u
#define KEY_RETRY_MS    10

#define CODE_SHIFT       0x12
#define CODE_SHIFT_RIGHT 0x59

/* RFB's buttons */
#define RFB_LEFT       BIT(0)
#define RFB_MIDDLE     BIT(1)
#define RFB_RIGHT      BIT(2)
#define RFB_WHEEL_UP   BIT(3)
#define RFB_WHEEL_DOWN BIT(4)

struct vnc {
    struct vm *vm;
    struct thread thread;
    pid_t pid;
    int fd;        /* to the server */
    uint32_t *mem; /* VNC_PIXELS_MAX, which the server maps as well */
    _Atomic bool closing;

    struct {
        uint8_t bytes[KEY_BYTES_MAX];
        unsigned nr;
    } keys[KEYS_MAX]; /* a ring */
    unsigned first_key, nr_keys;
    uint16_t held[HELD_MAX];
    unsigned nr_held;
    bool has_pointer;
    uint32_t x, y, buttons; /* as last told */
};

/* ---- keys ---- */

static void vnc_send_keys(struct vnc *n)
{
    while (n->nr_keys &&
           vm_key(n->vm, n->keys[n->first_key].bytes, n->keys[n->first_key].nr) != -EAGAIN) {
        n->first_key = (n->first_key + 1) % KEYS_MAX;
        n->nr_keys--;
    }
}

/* A guest that takes no keys loses those that are pressed, not that one is let go. */
static void vnc_queue_key(struct vnc *n, uint16_t code, bool down)
{
    unsigned at = (n->first_key + n->nr_keys) % KEYS_MAX;

    if (n->nr_keys >= KEYS_MAX - (down ? KEYS_KEPT : 0))
        return;
    n->keys[at].nr = key_bytes(n->keys[at].bytes, code, down);
    n->nr_keys += n->keys[at].nr != 0;
}

static bool vnc_holds(const struct vnc *n, uint16_t code)
{
    for (unsigned i = 0; i < n->nr_held; i++)
        if (n->held[i] == code)
            return true;
    return false;
}

static void vnc_key_down(struct vnc *n, struct key k)
{
    /* A client that sends only the character of a shifted key means the shift, too. */
    bool shift = k.shift && !vnc_holds(n, CODE_SHIFT) && !vnc_holds(n, CODE_SHIFT_RIGHT);

    if (!vnc_holds(n, k.code)) { /* else it repeats */
        if (n->nr_held == HELD_MAX)
            return;
        n->held[n->nr_held++] = k.code;
    }
    if (shift)
        vnc_queue_key(n, CODE_SHIFT, true);
    vnc_queue_key(n, k.code, true);
    if (shift)
        vnc_queue_key(n, CODE_SHIFT, false);
}

static void vnc_key_up(struct vnc *n, uint16_t code)
{
    for (unsigned i = 0; i < n->nr_held; i++)
        if (n->held[i] == code) {
            n->held[i] = n->held[--n->nr_held];
            vnc_queue_key(n, code, false);
            return;
        }
}

static void vnc_key(struct vnc *n, struct key k, bool down)
{
    if (!k.code)
        return; /* a PC's keyboard has no such key */
    if (down)
        vnc_key_down(n, k);
    else
        vnc_key_up(n, k.code);
}

static void vnc_keys_up(struct vnc *n)
{
    while (n->nr_held)
        vnc_key_up(n, n->held[0]);
}

/* ---- pointer ---- */

/* A PS/2 mouse moves by so and so much; where its pointer is, is the guest's affair. */
static void vnc_pointer(struct vnc *n, uint32_t x, uint32_t y, uint32_t buttons)
{
    uint32_t pressed = buttons & ~n->buttons;
    int dx = 0, dy = 0, dz = 0;
    uint8_t b = (uint8_t)((buttons & RFB_LEFT ? BIT(0) : 0) | (buttons & RFB_RIGHT ? BIT(1) : 0) |
                          (buttons & RFB_MIDDLE ? BIT(2) : 0));

    x &= UINT16_MAX;
    y &= UINT16_MAX;
    if (n->has_pointer) {
        dx = (int)x - (int)n->x;
        dy = (int)n->y - (int)y;
    }
    dz = (pressed & RFB_WHEEL_DOWN ? 1 : 0) - (pressed & RFB_WHEEL_UP ? 1 : 0);
    n->has_pointer = true;
    n->x = x;
    n->y = y;
    n->buttons = buttons;
    vm_pointer(n->vm, dx, dy, dz, b);
}

/* ---- pictures ---- */

static void vnc_draw(struct vnc *n)
{
    struct vnc_msg m = { .kind = VNC_PICTURE };
    struct picture pic;

    if (vm_screen(n->vm, &pic) == 0) {
        if ((uint64_t)pic.width * pic.height <= VNC_PIXELS_MAX) {
            m.a = pic.width;
            m.b = pic.height;
            memcpy(n->mem, pic.pixels, (size_t)pic.width * pic.height * sizeof(*pic.pixels));
        }
        free(pic.pixels);
    }
    /* It waits for this; when it is gone, poll() tells. */
    (void)send(n->fd, &m, sizeof(m), MSG_NOSIGNAL);
}

/* ---- the thread ---- */

static void vnc_take(struct vnc *n, const struct vnc_msg *m)
{
    switch (m->kind) {
    case VNC_WANT:
        vnc_draw(n);
        break;
    case VNC_KEYSYM:
        vnc_key(n, keysym_key(m->a), m->b);
        break;
    case VNC_POINTER:
        vnc_pointer(n, m->a, m->b, m->c);
        break;
    case VNC_KEYS_UP:
        vnc_keys_up(n);
        break;
    default: /* it is not believed, so nothing is said about it either */
        break;
    }
    vnc_send_keys(n);
}

static void *vnc_run(void *arg)
{
    struct vnc *n = arg;
    struct vnc_msg m;
    ssize_t bytes;

    for (;;) {
        struct pollfd p = { .fd = n->fd, .events = POLLIN };
        int nr = poll(&p, 1, n->nr_keys ? KEY_RETRY_MS : -1);

        if (nr < 0 && errno != EINTR)
            break;
        if (nr <= 0) {
            vnc_send_keys(n);
            continue;
        }
        bytes = recv(n->fd, &m, sizeof(m), MSG_DONTWAIT);
        if (bytes == 0 || (bytes < 0 && errno != EAGAIN && errno != EINTR))
            break;
        if (bytes == sizeof(m))
            vnc_take(n, &m);
    }
    if (!atomic_load_explicit(&n->closing, memory_order_relaxed))
        log_error("%s: the VNC server has ended; the VM goes on without it", vm_cfg(n->vm)->name);
    return NULL;
}

/* ---- the server's process ---- */

/* Beside our own program. False: it has no place. */
static bool server_path(char *path, size_t bytes)
{
    ssize_t n = readlink("/proc/self/exe", path, bytes - 1);
    char *slash;

    if (n <= 0)
        return false;
    path[n] = 0;
    slash = strrchr(path, '/');
    if (!slash || (size_t)(slash + 1 - path) + sizeof(SERVER_NAME) > bytes)
        return false;
    strcpy(slash + 1, SERVER_NAME); /* NOLINT: it fits */
    return true;
}

/* All signals as at login, in a process group of its own: Ctrl-C is the VM's to hear. */
static int server_attributes(posix_spawnattr_t *attr)
{
    sigset_t none;

    (void)sigemptyset(&none);
    (void)posix_spawnattr_setsigmask(attr, &none);
    return posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
}

static int server_spawn(struct vnc *n, const struct vnc_config *cfg, int sock, int mem)
{
    char path[PATH_MAX], port[8];
    char *argv[] = { (char *)SERVER_NAME,        (char *)vm_cfg(n->vm)->name,
                     (char *)cfg->where,         port,
                     (char *)cfg->password_file, NULL };
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    int err = posix_spawn_file_actions_init(&files);

    (void)snprintf(port, sizeof(port), "%u", cfg->port);
    if (err)
        return -err;
    err = posix_spawnattr_init(&attr);
    if (err) {
        posix_spawn_file_actions_destroy(&files);
        return -err;
    }
    err = server_attributes(&attr);
    /* Both ends are above the numbers they get (vnc_start()). */
    err = err ? err : posix_spawn_file_actions_adddup2(&files, sock, VNC_SOCKET_FD);
    err = err ? err : posix_spawn_file_actions_adddup2(&files, mem, VNC_MEMORY_FD);
    if (!err && !server_path(path, sizeof(path)))
        err = ENOENT;
    err = err ? err : posix_spawn(&n->pid, path, &files, &attr, argv, environ);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&files);
    if (err)
        n->pid = 0;
    return -err;
}

/* Closed by exec, and above those that the server is given. */
static int high_fd(int fd)
{
    int high = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, VNC_MEMORY_FD + 1);

    if (fd >= 0)
        (void)close(fd);
    return high;
}

/* It says that it listens, or why not, and ends. */
static bool server_is_ready(const struct vnc *n)
{
    struct vnc_msg m;
    ssize_t bytes;

    do {
        bytes = recv(n->fd, &m, sizeof(m), 0);
    } while ((bytes < 0 && errno == EINTR) || (bytes == sizeof(m) && m.kind != VNC_READY));
    return bytes == sizeof(m);
}

static int vnc_start(struct vnc *n, const struct vnc_config *cfg)
{
    int pair[2] = { -1, -1 }, sock, mem, err;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    n->fd = pair[0];
    sock = high_fd(pair[1]);
    mem = high_fd(host_memfd("screen", VNC_MEMORY_BYTES));
    err = sock < 0 || mem < 0 ? -ENOMEM : 0;
    if (!err)
        n->mem = host_map_fd(mem, 0, VNC_MEMORY_BYTES);
    if (!err && !n->mem)
        err = -ENOMEM;
    err = err ? err : server_spawn(n, cfg, sock, mem);
    if (sock >= 0)
        (void)close(sock);
    if (mem >= 0)
        (void)close(mem);
    if (err)
        log_error("--display vnc: cannot start %s, which should be beside doppel: %s", SERVER_NAME,
                  strerror(-err));
    else if (!server_is_ready(n))
        err = -EIO; /* it has said why */
    return err ? err : thread_start_as(&n->thread, HOST_KEEPER, "vnc", vnc_run, n);
}

int vnc_open(struct vm *vm, const struct vnc_config *cfg, struct vnc **out)
{
    struct vnc *n = calloc(1, sizeof(*n));
    int err;

    *out = NULL;
    if (!n) {
        log_error("out of memory for VNC");
        return -ENOMEM;
    }
    n->vm = vm;
    n->fd = -1;
    err = vnc_start(n, cfg);
    if (err)
        vnc_close(n);
    else
        *out = n;
    return err;
}

/* Its socket's end lets it end; a server that does not is killed. */
static void server_reap(pid_t pid)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct pollfd p = { .fd = fd, .events = POLLIN };

    if (fd < 0 || poll(&p, 1, SERVER_GRACE_MS) <= 0)
        (void)kill(pid, SIGKILL);
    if (fd >= 0)
        (void)close(fd);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        continue;
}

void vnc_close(struct vnc *n)
{
    if (!n)
        return;
    atomic_store_explicit(&n->closing, true, memory_order_relaxed);
    if (n->fd >= 0)
        (void)shutdown(n->fd, SHUT_RDWR); /* ends the thread and the server */
    thread_join(&n->thread);
    if (n->pid)
        server_reap(n->pid);
    if (n->fd >= 0)
        (void)close(n->fd);
    if (n->mem)
        host_unmap(n->mem, VNC_MEMORY_BYTES);
    free(n);
}
