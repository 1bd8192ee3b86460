/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk behind an NBD server: connecting to it, and what it says about the export. The protocol is
 * libnbd's affair; requests are in store_nbd_io.c.
 *
 * Manual: "The NBD protocol" (NetworkBlockDevice/nbd, doc/proto.md).
 */
#include "backend/store_nbd.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define NS_PER_MS       1000000ull
#define CONNECT_NS      (15000 * NS_PER_MS)
#define FLUSH_NS        (60000 * NS_PER_MS)
#define PIECE_BYTES_MAX MIB(2)
#define UNANSWERED_MS   60000 /* of TCP: the server's host is gone */

static int nbd_fail(const struct store *d, const char *what)
{
    const char *why = nbd_get_error();
    int err = nbd_get_errno();

    log_error("%s: %s '%s': %s", d->cfg.name, what, d->what, why ? why : "it hung up");
    return err ? -err : -EIO;
}

/* ---- connecting ---- */

static int nbd_begin_connect(struct store *d, int fd)
{
    struct nbd_handle *h = d->nbd->h;
    const char *where = d->cfg.nbd;

    if (fd >= 0)
        return nbd_aio_connect_socket(h, fd); /* closes it in any case */
    if (!strncmp(where, "unix:", 5))
        return nbd_aio_connect_unix(h, where + 5);
    return nbd_aio_connect_uri(h, where);
}

static int nbd_finish_connect(struct store *d)
{
    uint64_t until = host_mono_ns() + CONNECT_NS;

    while (nbd_aio_is_connecting(d->nbd->h)) {
        uint64_t now = host_mono_ns();

        if (now >= until) {
            log_error("%s: '%s' does not answer: no NBD server there?", d->cfg.name, d->what);
            return -ETIMEDOUT;
        }
        if (nbd_poll(d->nbd->h, (int)((until - now) / NS_PER_MS) + 1) < 0)
            return nbd_fail(d, "cannot connect to");
    }
    return nbd_aio_is_ready(d->nbd->h) > 0 ? 0 : nbd_fail(d, "cannot connect to");
}

/* A server whose host went away without a word is noticed, as an error of its connection. */
static void nbd_watch_tcp(struct store *d)
{
    int fd = nbd_aio_get_fd(d->nbd->h), on = 1, domain = 0;
    unsigned ms = UNANSWERED_MS;
    socklen_t bytes = sizeof(domain);

    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &bytes) < 0 ||
        (domain != AF_INET && domain != AF_INET6))
        return;
    if (setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on)) < 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof(ms)) < 0)
        log_debug("%s: '%s': no time limit on its connection: %s", d->cfg.name, d->what,
                  strerror(errno));
}

/* What the server offers, against what a disk needs. */
static int nbd_check_export(struct store *d)
{
    struct store_nbd *n = d->nbd;
    int64_t bytes = nbd_get_size(n->h), min = nbd_get_block_size(n->h, LIBNBD_SIZE_MINIMUM),
            max = nbd_get_block_size(n->h, LIBNBD_SIZE_MAXIMUM);

    if (bytes < 0)
        return nbd_fail(d, "cannot tell the size of");
    if (min > STORE_SECTOR_BYTES) {
        log_error("%s: '%s' wants blocks of %lld bytes, the guest's have %u", d->cfg.name, d->what,
                  (long long)min, STORE_SECTOR_BYTES);
        return -EINVAL;
    }
    if (!d->cfg.readonly && nbd_is_read_only(n->h) > 0) {
        log_error("%s: '%s' is read-only: with readonly it can be a disk that the guest only reads",
                  d->cfg.name, d->what);
        return -EROFS;
    }
    n->can_flush = nbd_can_flush(n->h) > 0;
    n->can_fua = nbd_can_fua(n->h) > 0;
    n->can_trim = nbd_can_trim(n->h) > 0;
    n->can_zero = nbd_can_zero(n->h) > 0;
    n->max_bytes = PIECE_BYTES_MAX;
    if (max >= STORE_SECTOR_BYTES)
        n->max_bytes = align_down(MIN((uint64_t)max, PIECE_BYTES_MAX), STORE_SECTOR_BYTES);
    if (!d->cfg.readonly && !n->can_flush)
        log_warn("%s: '%s' knows of no flushes: when its host fails, what the guest flushed may be "
                 "lost",
                 d->cfg.name, d->what);
    return store_set_bytes(d, (uint64_t)bytes);
}

static struct store_nbd *nbd_new(void)
{
    struct store_nbd *n = calloc(1, sizeof(*n));

    if (!n)
        return NULL;
    lock_init(&n->lock, LOCK_LEAF);
    cond_init(&n->ended);
    for (unsigned i = 0; i < NBD_NR_SLOTS; i++) {
        n->slots[i].nbd = n;
        n->slots[i].next = n->free;
        n->free = &n->slots[i];
    }
    return n;
}

int store_nbd_connect(struct store *d, int fd)
{
    int err = 0;

    if (!d->nbd)
        d->nbd = nbd_new();
    if (d->nbd)
        d->nbd->h = nbd_create();
    if (!d->nbd || !d->nbd->h) {
        log_error("%s: out of memory", d->cfg.name);
        if (fd >= 0)
            (void)close(fd);
        return -ENOMEM;
    }
    /* Reads go to the guest's memory, or to a buffer that only its data were in: no need to clear
     * it before. */
    (void)nbd_set_pread_initialize(d->nbd->h, false);
    (void)nbd_set_uri_allow_local_file(d->nbd->h, true); /* the user's keys for TLS */
    err = nbd_begin_connect(d, fd) < 0 ? nbd_fail(d, "cannot connect to") : nbd_finish_connect(d);
    if (!err)
        err = nbd_check_export(d);
    if (err) {
        store_nbd_disconnect(d);
        return err;
    }
    nbd_watch_tcp(d);
    d->nbd->lost = false;
    return 0;
}

void store_nbd_disconnect(struct store *d)
{
    struct store_nbd *n = d->nbd;

    if (!n || !n->h)
        return;
    /* A farewell, which the server need not have read. */
    if (nbd_aio_is_ready(n->h) > 0)
        (void)nbd_aio_disconnect(n->h, 0);
    nbd_close(n->h);
    n->h = NULL;
}

void store_nbd_free(struct store *d)
{
    struct store_nbd *n = d->nbd;

    if (!n)
        return;
    store_nbd_disconnect(d);
    for (unsigned i = 0; i < NBD_NR_SLOTS; i++)
        free(n->slots[i].buf);
    cond_destroy(&n->ended);
    lock_destroy(&n->lock);
    free(n);
    d->nbd = NULL;
}

int store_nbd_flush(struct store *d)
{
    struct store_nbd *n = d->nbd;
    uint64_t until = host_mono_ns() + FLUSH_NS;
    int64_t cookie;
    int done;

    if (!n->h || n->lost)
        return -EIO;
    if (!n->can_flush)
        return 0;
    cookie = nbd_aio_flush(n->h, NBD_NULL_COMPLETION, 0);
    if (cookie < 0)
        return -EIO;
    while ((done = nbd_aio_command_completed(n->h, (uint64_t)cookie)) == 0) {
        uint64_t now = host_mono_ns();

        if (now >= until)
            return -ETIMEDOUT;
        if (nbd_poll(n->h, (int)((until - now) / NS_PER_MS) + 1) < 0)
            return -EIO;
    }
    return done > 0 ? 0 : -(nbd_get_errno() ? nbd_get_errno() : EIO);
}

/* ---- the kind: somebody else's server ---- */

static int export_open(struct store *d)
{
    if (store_nbd_connect(d, -1) == 0)
        return 0;
    store_nbd_free(d);
    return -EIO;
}

static void export_close(struct store *d)
{
    int err = d->cfg.readonly || d->nbd->lost ? 0 : store_nbd_flush(d);

    if (err)
        log_error("%s: '%s': cannot flush: %s", d->cfg.name, d->what, strerror(-err));
    store_nbd_free(d);
}

static int export_resize(struct store *d, uint64_t bytes)
{
    (void)bytes;
    log_error("%s: '%s': the size of an NBD server's disk is what it was at the start", d->cfg.name,
              d->what);
    return -EOPNOTSUPP;
}

static void export_lost(struct store *d, const char *why)
{
    log_error("%s: the connection to '%s' is lost (%s): the guest gets I/O errors from now on; "
              "what it had flushed is on the server. Start the VM again when the server is back",
              d->cfg.name, d->what, why);
}

const struct store_kind store_export = {
    .open = export_open,
    .close = export_close,
    .resize = export_resize,
    .lost = export_lost,
};
