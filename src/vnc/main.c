/* SPDX-License-Identifier: Apache-2.0 */
/*
 * doppel-vnc: the VNC server of one VM, in a process of its own, started by `doppel run --display
 * vnc=...` (ctl/vnc.c). RFB and its encodings are libvncserver's; here is what goes between it and
 * the VM.
 *
 * It ends when the VM does: the socket to it says so. A slow client, or one that does not read, is
 * this process's affair and not the VM's: nothing the VM does waits for it. libvncserver drops a
 * client that has taken nothing for CLIENT_WAIT_MS.
 */
#include <errno.h>
#include <rfb/rfb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "lib/log.h"
#include "vnc/priv.h"
#include "vnc/wire.h"

/* Between two pictures: */
#define BUSY_MS  33u   /* while they change, */
#define IDLE_MS  100u  /* while they do not, */
#define ALONE_MS 1000u /* and while nobody looks: who connects is told the size before all else */
#define BUSY_FOR 30u   /* pictures that are the same, until they do not change */

#define CLIENTS_MAX    32u
#define CLIENT_WAIT_MS 3000
#define PASSWORD_MAX   8 /* more does not count in RFB's "VNC Authentication" */
/* Until the VM has drawn: as text mode has them. */
#define FIRST_WIDTH    720
#define FIRST_HEIGHT   400
/* What the library is told of a pixel: 8 bits a sample, 3 samples, 4 bytes. */
#define PIXEL          8, 3, 4

struct server {
    rfbScreenInfoPtr rfb;
    struct vnc_listener listener;
    const uint32_t *shared; /* VNC_PIXELS_MAX; the VM's while `asked` */
    uint32_t *last;         /* what the clients see, at most VNC_PIXELS_MAX */
    unsigned width, height; /* of that */
    unsigned nr_clients;
    unsigned nr_same; /* pictures since the last change */
    bool asked;
    uint64_t asked_ns; /* mono_ns(): when that was */
    char password[PASSWORD_MAX + 1];
    char *passwords[2]; /* the library's list, which ends with NULL */
};

static uint64_t mono_ns(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t); /* it is there on every Linux */
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* ---- to the VM ---- */

/* The VM reads at once; should it not, keys are lost and nothing else. */
static void server_tell(enum vnc_kind kind, uint32_t a, uint32_t b, uint32_t c)
{
    struct vnc_msg m = { .kind = kind, .a = a, .b = b, .c = c };

    (void)send(VNC_SOCKET_FD, &m, sizeof(m), MSG_DONTWAIT | MSG_NOSIGNAL);
}

static struct server *server_of(rfbClientPtr c)
{
    return c->screen->screenData;
}

static void server_on_key(rfbBool is_down, rfbKeySym keysym, rfbClientPtr c)
{
    server_of(c)->nr_same = 0;
    server_tell(VNC_KEYSYM, keysym, is_down != 0, 0);
}

static void server_on_pointer(int buttons, int x, int y, rfbClientPtr c)
{
    server_of(c)->nr_same = 0;
    server_tell(VNC_POINTER, (uint32_t)x, (uint32_t)y, (uint32_t)buttons);
}

/* ---- pictures ---- */

static unsigned server_period_ms(const struct server *s)
{
    return !s->nr_clients ? ALONE_MS : s->nr_same > BUSY_FOR ? IDLE_MS : BUSY_MS;
}

/* ns until the next picture is to be asked for; that it comes is the VM's affair. */
static uint64_t server_want(struct server *s)
{
    uint64_t now = mono_ns(), period = server_period_ms(s) * 1000000ull;

    if (s->asked)
        return ALONE_MS * 1000000ull;
    if (s->asked_ns && now - s->asked_ns < period)
        return period - (now - s->asked_ns);
    s->asked = true;
    s->asked_ns = now;
    server_tell(VNC_WANT, 0, 0, 0);
    return ALONE_MS * 1000000ull;
}

static void server_changed(void *ctx, unsigned x, unsigned y, unsigned width, unsigned height)
{
    struct server *s = ctx;

    s->nr_same = 0;
    rfbMarkRectAsModified(s->rfb, (int)x, (int)y, (int)(x + width), (int)(y + height));
}

/*
 * The library tells a new size only to a client that has said that it knows sizes to change, which
 * it says after it was told the first one. A change between the two is told to it here, later.
 */
static void server_note_new_size(struct server *s)
{
    rfbClientIteratorPtr all = rfbGetClientIterator(s->rfb);

    for (rfbClientPtr c; (c = rfbClientIteratorNext(all));)
        if (!c->useNewFBSize)
            c->clientData = s; /* this one has missed one */
    rfbReleaseClientIterator(all);
}

static void server_tell_missed_sizes(const struct server *s)
{
    rfbClientIteratorPtr all = rfbGetClientIterator(s->rfb);

    for (rfbClientPtr c; (c = rfbClientIteratorNext(all));)
        if (c->clientData && c->useNewFBSize) {
            c->clientData = NULL;
            c->newFBSizePending = TRUE;
        }
    rfbReleaseClientIterator(all);
}

static void server_take_picture(struct server *s, unsigned width, unsigned height)
{
    size_t bytes = (size_t)width * height * sizeof(*s->last);

    s->asked = false;
    s->nr_same++;
    if (!width || !height || (uint64_t)width * height > VNC_PIXELS_MAX)
        return;
    if (width == s->width && height == s->height) {
        vnc_damage(s->last, s->shared, width, height, server_changed, s);
        memcpy(s->last, s->shared, bytes);
        return;
    }
    memcpy(s->last, s->shared, bytes);
    s->width = width;
    s->height = height;
    s->nr_same = 0;
    server_note_new_size(s);
    rfbNewFramebuffer(s->rfb, (char *)s->last, (int)width, (int)height, PIXEL);
    vnc_set_pixel_format(s->rfb);
    rfbMarkRectAsModified(s->rfb, 0, 0, (int)width, (int)height);
}

/* From the VM. False: it has ended. */
static bool server_hear(struct server *s)
{
    struct vnc_msg m;
    ssize_t n = recv(VNC_SOCKET_FD, &m, sizeof(m), MSG_DONTWAIT);

    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    if (n == sizeof(m) && m.kind == VNC_PICTURE)
        server_take_picture(s, m.a, m.b);
    return n > 0;
}

/* ---- clients ---- */

static void server_client_gone(rfbClientPtr c)
{
    server_of(c)->nr_clients--;
    server_tell(VNC_KEYS_UP, 0, 0, 0);
}

static enum rfbNewClientAction server_new_client(rfbClientPtr c)
{
    struct server *s = server_of(c);

    if (s->nr_clients >= CLIENTS_MAX)
        return RFB_CLIENT_REFUSE;
    c->clientGoneHook = server_client_gone;
    s->nr_clients++;
    s->nr_same = 0;
    return RFB_CLIENT_ACCEPT;
}

/* ---- life ---- */

/* The first line of the file. */
static bool server_read_password(struct server *s, const char *path)
{
    FILE *f = fopen(path, "re");
    bool ok = f && fgets(s->password, sizeof(s->password), f);

    if (!f)
        log_error("--display vnc: cannot open '%s': %s", path, strerror(errno));
    else
        (void)fclose(f); /* only read from */
    s->password[strcspn(s->password, "\r\n")] = 0;
    if (f && (!ok || !*s->password))
        log_error("--display vnc: the first line of '%s' is empty: it should be the password",
                  path);
    s->passwords[0] = s->password;
    return ok && *s->password;
}

static bool server_make(struct server *s, const char *name)
{
    void *shared = mmap(NULL, VNC_MEMORY_BYTES, PROT_READ, MAP_SHARED, VNC_MEMORY_FD, 0);

    s->last = calloc(VNC_PIXELS_MAX, sizeof(*s->last));
    s->width = FIRST_WIDTH;
    s->height = FIRST_HEIGHT;
    s->rfb = rfbGetScreen(NULL, NULL, FIRST_WIDTH, FIRST_HEIGHT, PIXEL);
    if (shared == MAP_FAILED || !s->last || !s->rfb) {
        log_error("vnc: no memory for the picture");
        return false;
    }
    s->shared = shared;
    vnc_set_pixel_format(s->rfb);
    s->rfb->frameBuffer = (char *)s->last;
    s->rfb->screenData = s;
    s->rfb->desktopName = name;
    s->rfb->port = s->rfb->ipv6port = 0; /* it does not listen itself */
    s->rfb->alwaysShared = TRUE;
    s->rfb->deferUpdateTime = 0;
    s->rfb->maxClientWait = CLIENT_WAIT_MS;
    s->rfb->cursor = NULL;
    s->rfb->kbdAddEvent = server_on_key;
    s->rfb->ptrAddEvent = server_on_pointer;
    s->rfb->newClientHook = server_new_client;
    if (*s->password) {
        s->rfb->authPasswdData = s->passwords;
        s->rfb->passwordCheck = rfbCheckPasswordByList;
    }
    rfbInitServer(s->rfb);
    return true;
}

/* Until the VM has ended. */
static void server_run(struct server *s)
{
    for (;;) {
        uint64_t wait_ns = server_want(s);
        struct timespec wait = { (time_t)(wait_ns / 1000000000), (long)(wait_ns % 1000000000) };
        fd_set in = s->rfb->allFds;
        int top = MAX(s->rfb->maxFd, MAX(s->listener.fd, VNC_SOCKET_FD));

        FD_SET(VNC_SOCKET_FD, &in);
        FD_SET(s->listener.fd, &in);
        if (pselect(top + 1, &in, NULL, NULL, &wait, NULL) < 0)
            FD_ZERO(&in);
        if (FD_ISSET(VNC_SOCKET_FD, &in) && !server_hear(s))
            return;
        if (FD_ISSET(s->listener.fd, &in)) {
            int fd = vnc_accept(&s->listener);

            if (fd >= 0)
                rfbNewClientConnection(s->rfb, fd);
        }
        (void)rfbProcessEvents(s->rfb, 0);
        server_tell_missed_sizes(s);
    }
}

/* doppel-vnc NAME WHERE PORT [PASSWORD-FILE] */
int main(int argc, char **argv)
{
    struct server s = { .listener.fd = -1 };

    log_set_terminal(isatty(STDERR_FILENO));
    if (argc < 4 || argc > 5) {
        log_error("doppel-vnc is started by `doppel run --display vnc=...`");
        return 2;
    }
    (void)signal(SIGPIPE, SIG_IGN);
    (void)umask(077);
    rfbLogEnable(FALSE);
    if ((argc == 5 && !server_read_password(&s, argv[4])) ||
        !vnc_listen(&s.listener, argv[2], argv[3]))
        return 1;
    if (!server_make(&s, argv[1])) {
        vnc_unlisten(&s.listener);
        return 1;
    }
    vnc_confine();
    server_tell(VNC_READY, 0, 0, 0);
    server_run(&s);
    vnc_unlisten(&s.listener);
    rfbShutdownServer(s.rfb, TRUE);
    s.rfb->frameBuffer = NULL;
    rfbScreenCleanup(s.rfb);
    free(s.last);
    return 0;
}
