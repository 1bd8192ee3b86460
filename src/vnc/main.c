/* SPDX-License-Identifier: Apache-2.0 */
/*
 * doppel-vnc: the VNC server of one VM, in a process of its own, started by `doppel run --display
 * vnc=...` (ctl/vnc.c). RFB, its encodings and TLS are libneatvnc's; here is what goes between
 * it and the VM.
 *
 * It ends when the VM does: the socket to it says so. A slow client, or one that does not read,
 * is this process's affair and not the VM's: nothing the VM does waits for it.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <aml.h>
#include <neatvnc.h>
#include <pixman.h>

#include "lib/log.h"
#include "vnc/priv.h"
#include "vnc/wire.h"

#define TICK_MS      33u
#define IDLE_TICKS   3u          /* between two pictures while nothing changes */
#define BUSY_TICKS   30u         /* so many ticks after the last change it is idle */
#define FILES_MAX    256         /* and with it, clients */
#define XRGB8888     0x34325258u /* "XR24", as <drm_fourcc.h> has it */
#define PASSWORD_MAX 255

struct server {
    struct aml *loop;
    struct aml_ticker *ticker;
    struct nvnc *nvnc;
    struct nvnc_display *display;
    struct nvnc_fb_pool *pool; /* NULL: there was no picture yet */
    const uint32_t *shared;    /* VNC_PIXELS_MAX; the VM's while `asked` */
    uint32_t *last;            /* what the clients were given */
    unsigned width, height;    /* of that */
    unsigned nr_clients;
    unsigned ticks, quiet_ticks; /* since the last picture was asked for; since the last change */
    bool asked;
    char password[PASSWORD_MAX + 1];
};

/* ---- to the VM ---- */

/* The VM reads at once; should it not, keys are lost and nothing else. */
static void server_tell(enum vnc_kind kind, uint32_t a, uint32_t b, uint32_t c)
{
    struct vnc_msg m = { .kind = kind, .a = a, .b = b, .c = c };

    (void)send(VNC_SOCKET_FD, &m, sizeof(m), MSG_DONTWAIT | MSG_NOSIGNAL);
}

static struct server *server_of(const struct nvnc_client *c)
{
    return nvnc_get_userdata(nvnc_client_get_server(c));
}

static void server_on_keysym(struct nvnc_client *c, uint32_t keysym, bool is_down)
{
    server_of(c)->quiet_ticks = 0;
    server_tell(VNC_KEYSYM, keysym, is_down, 0);
}

static void server_on_keycode(struct nvnc_client *c, uint32_t code, bool is_down)
{
    server_of(c)->quiet_ticks = 0;
    server_tell(VNC_KEYCODE, code, is_down, 0);
}

static void server_on_pointer(struct nvnc_client *c, uint16_t x, uint16_t y,
                              enum nvnc_button_mask buttons)
{
    server_of(c)->quiet_ticks = 0;
    server_tell(VNC_POINTER, x, y, buttons);
}

/* ---- pictures ---- */

static void server_want(struct server *s)
{
    if (s->asked)
        return;
    s->asked = true;
    s->ticks = 0;
    server_tell(VNC_WANT, 0, 0, 0);
}

static void server_tick(void *obj)
{
    struct server *s = aml_get_userdata(obj);

    s->quiet_ticks++;
    if (++s->ticks >= (s->quiet_ticks > BUSY_TICKS ? IDLE_TICKS : 1))
        server_want(s);
}

/* In a buffer of its own, since the clients' encoders read it when they come to it. */
static void server_feed(struct server *s, struct pixman_region16 *damage)
{
    struct nvnc_fb *fb;
    uint8_t *to;

    if (!s->pool)
        s->pool =
            nvnc_fb_pool_new((uint16_t)s->width, (uint16_t)s->height, XRGB8888, (uint16_t)s->width);
    else
        (void)nvnc_fb_pool_resize(s->pool, (uint16_t)s->width, (uint16_t)s->height, XRGB8888,
                                  (uint16_t)s->width); /* false: it is of that size */
    fb = s->pool ? nvnc_fb_pool_acquire(s->pool) : NULL;
    if (!fb) {
        log_error("vnc: out of memory for a picture of %u x %u", s->width, s->height);
        return;
    }
    to = nvnc_fb_get_addr(fb);
    for (unsigned y = 0; y < s->height; y++)
        memcpy(to + (size_t)y * (size_t)nvnc_fb_get_stride(fb) * 4, s->last + (size_t)y * s->width,
               (size_t)s->width * 4);
    nvnc_display_feed_buffer(s->display, fb, damage);
    nvnc_fb_unref(fb);
}

static void server_take_picture(struct server *s, unsigned width, unsigned height)
{
    struct pixman_region16 damage;
    bool resized = width != s->width || height != s->height;

    s->asked = false;
    if (!width || !height || (uint64_t)width * height > VNC_PIXELS_MAX)
        return;
    s->width = width;
    s->height = height;
    pixman_region_init(&damage);
    vnc_damage(&damage, s->last, s->shared, width, height);
    if (resized)
        pixman_region_union_rect(&damage, &damage, 0, 0, width, height);
    if (pixman_region_not_empty(&damage)) {
        memcpy(s->last, s->shared, (size_t)width * height * 4);
        s->quiet_ticks = 0;
        server_feed(s, &damage);
    }
    pixman_region_fini(&damage);
}

/* From the VM. Its end is the server's. */
static void server_hear(void *obj)
{
    struct server *s = aml_get_userdata(obj);
    struct vnc_msg m;
    ssize_t n = recv(VNC_SOCKET_FD, &m, sizeof(m), MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0)
        aml_exit(s->loop);
    else if (n == sizeof(m) && m.kind == VNC_PICTURE)
        server_take_picture(s, m.a, m.b);
}

/* ---- clients ---- */

static void server_client_gone(struct nvnc_client *c)
{
    struct server *s = server_of(c);

    server_tell(VNC_KEYS_UP, 0, 0, 0);
    if (!--s->nr_clients)
        (void)aml_stop(s->loop, s->ticker); /* it runs */
}

static void server_new_client(struct nvnc_client *c)
{
    struct server *s = server_of(c);

    nvnc_set_client_cleanup_fn(c, server_client_gone);
    s->quiet_ticks = 0;
    if (!s->nr_clients++)
        (void)aml_start(s->loop, s->ticker); /* without it the picture stands still */
}

/* Any name will do. Takes as long for a wrong password as for a right one. */
static bool server_check_password(const char *name, const char *password, void *userdata)
{
    const struct server *s = userdata;
    char given[PASSWORD_MAX + 1] = "";
    unsigned differ = strlen(password) > PASSWORD_MAX;

    (void)name;
    strncpy(given, password, PASSWORD_MAX);
    for (unsigned i = 0; i < sizeof(given); i++)
        differ |= (unsigned char)(given[i] ^ s->password[i]);
    return !differ;
}

/* ---- life ---- */

/* The first line of the file. */
static bool server_read_password(struct server *s, const char *path)
{
    FILE *f = fopen(path, "re");
    bool ok = f && fgets(s->password, sizeof(s->password), f);

    if (f)
        (void)fclose(f); /* only read from */
    s->password[strcspn(s->password, "\r\n")] = 0;
    if (ok && *s->password)
        return true;
    log_error("--display vnc: no password in '%s': %s", path,
              f ? "its first line is empty" : strerror(errno));
    return false;
}

/* Who speaks to the network has no more than it needs. */
static void server_confine(void)
{
    const struct rlimit none = { 0, 0 }, files = { FILES_MAX, FILES_MAX };

    /* Each is a courtesy: without it the server works as well. */
    (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    (void)setrlimit(RLIMIT_CORE, &none);
    (void)setrlimit(RLIMIT_NOFILE, &files);
}

static bool server_map(struct server *s)
{
    void *p = mmap(NULL, VNC_MEMORY_BYTES, PROT_READ, MAP_SHARED, VNC_MEMORY_FD, 0);

    s->last = calloc(VNC_PIXELS_MAX, 4);
    if (p == MAP_FAILED || !s->last) {
        log_error("vnc: no memory for the picture: %s", strerror(errno));
        return false;
    }
    s->shared = p;
    return true;
}

/* "unix:PATH" or "HOST PORT" */
static bool server_listen(struct server *s, const char *where, const char *port)
{
    const char *path = strncmp(where, "unix:", 5) ? NULL : where + 5;

    if (path && !vnc_socket_free(path))
        return false;
    s->nvnc = path ? nvnc_open_unix(path) : nvnc_open(where, (uint16_t)atoi(port));
    if (!s->nvnc) {
        log_error("--display vnc: cannot listen on %s%s%s: %s", where, path ? "" : " port ",
                  path ? "" : port, strerror(errno));
        return false;
    }
    nvnc_set_userdata(s->nvnc, s, NULL);
    nvnc_set_new_client_fn(s->nvnc, server_new_client);
    nvnc_set_key_fn(s->nvnc, server_on_keysym);
    nvnc_set_key_code_fn(s->nvnc, server_on_keycode);
    nvnc_set_pointer_fn(s->nvnc, server_on_pointer);
    return true;
}

static bool server_loop_make(struct server *s)
{
    struct aml_handler *h;

    s->loop = aml_new();
    if (!s->loop)
        return false;
    aml_set_default(s->loop);
    s->ticker = aml_ticker_new(TICK_MS, server_tick, s, NULL);
    h = aml_handler_new(VNC_SOCKET_FD, server_hear, s, NULL);
    if (!s->ticker || !h || aml_start(s->loop, h) < 0)
        return false;
    aml_unref(h);
    return true;
}

static void quiet(const struct nvnc_log_data *data, const char *text)
{
    if (data->level <= NVNC_LOG_ERROR)
        log_debug("vnc: %s", text);
}

/* doppel-vnc NAME WHERE PORT [PASSWORD-FILE] */
int main(int argc, char **argv)
{
    struct server s = { 0 };

    if (argc < 4 || argc > 5) {
        log_error("doppel-vnc is started by `doppel run --display vnc=...`");
        return 2;
    }
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGINT, SIG_IGN); /* of the terminal: the VM decides when it ends */
    (void)umask(077);
    nvnc_set_log_fn(quiet);
    if ((argc == 5 && !server_read_password(&s, argv[4])) || !server_map(&s) ||
        !server_loop_make(&s) || !server_listen(&s, argv[2], argv[3]))
        return 1;
    if (argc == 5 && !vnc_enable_tls(s.nvnc, server_check_password, &s))
        return 1;
    s.display = nvnc_display_new(0, 0);
    nvnc_set_name(s.nvnc, argv[1]);
    nvnc_add_display(s.nvnc, s.display);
    server_confine(); /* before the first client is heard */
    server_want(&s);  /* a client needs one from the start */
    server_tell(VNC_READY, 0, 0, 0);
    (void)aml_run(s.loop);
    nvnc_close(s.nvnc);
    nvnc_display_unref(s.display);
    aml_unref(s.loop);
    free(s.last);
    return 0;
}
